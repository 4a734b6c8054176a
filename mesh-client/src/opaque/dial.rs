//! The end that calls: service name → snapshot → balancer → mutual TLS → the verdict.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use identity::{Matcher, ServiceName, SpiffeId};
use routing::Moment;
use routing::balance::{Balance, Balancer, Outcome, Picked, Settings};
use routing::upstream::{ConnectionPolicy, Kind};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::{Refusal, Stream, Verdict, prepare};
use crate::client::{Broken, Error, Failure};
use crate::discovery::{Directory, Endpoint, Snapshot, Source};
use crate::tls::{self, ClientTls, Credentials, Protocol, TlsError};

/// Endpoints that one connection is tried at.
const ATTEMPTS: usize = 3;
/// How long connecting and the handshake may take together. Longer than for requests: a program that waits for a database does so for
/// long, and tells a failure from a reset alone.
const CONNECT: Duration = Duration::from_secs(3);
/// How long the other end may take to reach its program.
const VERDICT: Duration = Duration::from_secs(10);
/// How long a service of which nothing is known yet is waited for.
const DISCOVERY: Duration = Duration::from_secs(3);
/// Services that are remembered before those that nobody serves are forgotten: names may come from a program.
const REMEMBERED: usize = 256;

/// Connections last, so what counts is how many there are. As for requests, one that cannot be made takes its endpoint out for a while.
fn settings() -> Settings {
    Settings {
        balance: Balance::LeastRequest,
        ..ConnectionPolicy::usual(Kind::Service).balancing
    }
}

/// The services that a member has opaque connections to.
pub(crate) struct Dialers {
    directory: Arc<Directory>,
    credentials: Credentials,
    start: Instant,
    known: Mutex<HashMap<ServiceName, Arc<Dialer>>>,
}

struct Dialer {
    tls: ClientTls,
    current: Mutex<Current>,
}

struct Current {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    balancer: Balancer<Endpoint>,
}

impl Dialers {
    pub(crate) fn new(directory: Arc<Directory>, credentials: Credentials) -> Self {
        Self {
            directory,
            credentials,
            start: Instant::now(),
            known: Mutex::default(),
        }
    }

    pub(crate) async fn connect(&self, service: &ServiceName) -> Result<Stream, Error> {
        let dialer = self.dialer(service);
        let mut last: Option<(Endpoint, Error)> = None;
        for _ in 0..ATTEMPTS {
            let tried = last.as_ref().map(|(endpoint, _)| endpoint);
            let picked = dialer.choose(tried, self.now()).await;
            // Where there is no other endpoint, trying the same at once again is no help.
            let Some(picked) = picked.filter(|picked| Some(picked.address()) != tried) else {
                break;
            };
            let broken = match dialer.dial(picked.address()).await {
                Ok((tls, peer)) => {
                    picked.answered(Outcome::Success, self.now());
                    return Ok(Stream {
                        tls: tls.into(),
                        endpoint: Some(picked),
                        revoked: Box::pin(self.credentials.clone().revoked(peer)),
                    });
                }
                Err(broken) => broken,
            };
            let endpoint = picked.address().clone();
            tracing::debug!(%service, endpoint = endpoint.address(), failure = broken.failure.as_str(), error = %broken.source, "an endpoint takes no connection");
            let failure = broken.failure;
            // One that refuses is alive.
            if !matches!(failure, Failure::Forbidden | Failure::Overloaded) {
                picked.finish(Outcome::Unreachable, self.now());
            }
            let error = Error::at(service.as_str(), endpoint.clone(), broken);
            if failure == Failure::Forbidden {
                return Err(error);
            }
            last = Some((endpoint, error));
        }
        Err(last.map_or_else(|| self.nowhere(service, &dialer), |(_, error)| error))
    }

    fn nowhere(&self, service: &ServiceName, dialer: &Dialer) -> Error {
        let snapshot = Arc::clone(&dialer.current().snapshots.borrow());
        if self.directory.has_left() {
            Error::new(Failure::Left, service.as_str())
        } else if snapshot.endpoints.is_empty() {
            Error::new(Failure::NoEndpoint, service.as_str())
        } else {
            let why = "it is served as HTTP, and is called by its URL";
            Error::because(Failure::Mismatch, service.as_str(), why)
        }
    }

    fn now(&self) -> Moment {
        Moment::default() + self.start.elapsed()
    }

    fn dialer(&self, service: &ServiceName) -> Arc<Dialer> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dialer) = known.get(service) {
            return Arc::clone(dialer);
        }
        if known.len() >= REMEMBERED {
            known.retain(|_, dialer| dialer.is_served());
        }
        let new = Dialer::new(service, &self.directory, &self.credentials);
        Arc::clone(known.entry(service.clone()).or_insert_with(|| Arc::new(new)))
    }
}

impl Dialer {
    fn new(service: &ServiceName, directory: &Arc<Directory>, credentials: &Credentials) -> Self {
        let id = SpiffeId::of_service(credentials.held().bundle.trust_domain(), service);
        let mut snapshots = directory.subscribe(service);
        // Whatever is known already counts as a change.
        snapshots.mark_changed();
        let balancer = Balancer::new(settings(), Vec::<(Endpoint, u16)>::new());
        Self {
            tls: ClientTls::new(credentials.clone(), Matcher::Id(id)).speaking(Protocol::Tcp),
            current: Mutex::new(Current { snapshots, balancer }),
        }
    }

    /// Chooses an endpoint, another than `tried` where there is one; None where none is known.
    async fn choose(&self, tried: Option<&Endpoint>, now: Moment) -> Option<Picked<Endpoint>> {
        let mut snapshots = self.current().snapshots.clone();
        if snapshots.borrow().source == Source::Unknown {
            let known = snapshots.wait_for(|snapshot| snapshot.source != Source::Unknown);
            // What is not known in time is not there.
            let _ = timeout(DISCOVERY, known).await;
        }
        let mut current = self.current();
        if current.snapshots.has_changed().unwrap_or(false) {
            let snapshot = Arc::clone(&current.snapshots.borrow_and_update());
            let opaque = snapshot.callable(Protocol::Tcp);
            let opaque = opaque.map(|endpoint| (endpoint.clone(), endpoint.weight()));
            current.balancer = current.balancer.replace(settings(), opaque, now);
        }
        match tried {
            Some(tried) => current.balancer.pick_except(tried, now, rand::random()),
            None => current.balancer.pick(now, rand::random()),
        }
    }

    /// A connection on which the peer is ready, and the serial number of its SVID.
    async fn dial(&self, endpoint: &Endpoint) -> Result<(TlsStream<TcpStream>, Vec<u8>), Broken> {
        let connected = async {
            let stream = TcpStream::connect(endpoint.address()).await.map_err(TlsError::Connect)?;
            prepare(&stream);
            let (stream, _) = self.tls.connect(stream).await?;
            let peer = tls::peer_serial(&stream)?;
            Ok((stream, peer))
        };
        let connected = timeout(CONNECT, connected).await.unwrap_or(Err(TlsError::Timeout(CONNECT)));
        let (mut stream, peer) = connected.map_err(|error: TlsError| {
            let failure = if error.is_identity() {
                Failure::Identity
            } else {
                Failure::Connect
            };
            Broken::before(failure, error)
        })?;
        match timeout(VERDICT, stream.read_u8()).await {
            Ok(Ok(byte)) => match Verdict::of(byte) {
                Some(Verdict::Ready) => Ok((stream, peer)),
                Some(Verdict::Refused(refusal)) => Err(Broken::before(failure_of(refusal), refusal)),
                None => Err(Broken::before(Failure::Protocol, format!("{byte} is no verdict"))),
            },
            // In TLS 1.3 a peer that refuses our certificate says so after the handshake.
            Ok(Err(error)) if tls::of_io(&error).is_some_and(tls::refuses_identity) => {
                Err(Broken::before(Failure::Identity, error))
            }
            Ok(Err(error)) => Err(Broken::before(Failure::Reset, error)),
            Err(_) => Err(Broken::before(Failure::Timeout, format!("no verdict within {VERDICT:?}"))),
        }
    }

    fn is_served(&self) -> bool {
        let current = self.current();
        let snapshot = current.snapshots.borrow();
        snapshot.source == Source::Unknown || !snapshot.endpoints.is_empty()
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn failure_of(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::Forbidden => Failure::Forbidden,
        Refusal::Unavailable => Failure::Connect,
        Refusal::Overloaded => Failure::Overloaded,
    }
}
