//! The end that calls: service name → snapshot → balancer → mutual TLS → the verdict.
//!
//! What is known of the service, and what the mesh says of it, is what its calls go by, too ([`Services`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use identity::{Matcher, ServiceName, SpiffeId};
use routing::balance::{Outcome, Picked};
use routing::filter::Reference;
use routing::policy::Connected;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::{Held, Refusal, Stream, Verdict, prepare};
use crate::client::{Broken, Called, Error, Failure, Services, Target};
use crate::discovery::Endpoint;
use crate::outside::{Io, Outward};
use crate::tls::{self, ClientTls, Protocol, TlsError};

/// Endpoints that one connection is tried at.
const ATTEMPTS: usize = 3;
/// How long connecting and the handshake may take together. Longer than for requests: a program that waits for a database does so for
/// long, and tells a failure from a reset alone.
const CONNECT: Duration = Duration::from_secs(3);
/// How long the other end may take to reach its program.
const VERDICT: Duration = Duration::from_secs(10);
/// How long a service of which nothing is known yet is waited for, and what the mesh says of it.
const DISCOVERY: Duration = Duration::from_secs(3);
/// Services that are remembered before those that nobody serves are forgotten: names may come from a program.
const REMEMBERED: usize = 256;

/// The services that a member has opaque connections to.
pub(crate) struct Dialers {
    services: Arc<Services>,
    known: Mutex<HashMap<ServiceName, Arc<Dialer>>>,
}

struct Dialer {
    service: Arc<Called>,
    tls: ClientTls,
}

impl Dialers {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        Self {
            services,
            known: Mutex::default(),
        }
    }

    pub(crate) async fn connect(&self, service: &ServiceName) -> Result<Stream, Error> {
        self.services.policies_known(DISCOVERY).await;
        let dialer = self.dialer(service);
        let mut last: Option<(Target, Error)> = None;
        for _ in 0..ATTEMPTS {
            let tried = last.as_ref().map(|(target, _)| target);
            let picked = self.choose(&dialer, tried).await;
            // Where there is no other endpoint, trying the same at once again is no help.
            let Some(picked) = picked.filter(|picked| Some(picked.address()) != tried) else {
                break;
            };
            let Some(connected) = dialer.admit(&picked) else {
                return Err(Error::new(Failure::Full, service.as_str()));
            };
            let target = picked.address().clone();
            let broken = match dialer.dial(&target.0).await {
                Ok((io, peer)) => {
                    picked.answered(Outcome::Success, self.services.now());
                    return Ok(Stream {
                        io,
                        held: Some(Held {
                            endpoint: picked,
                            _connected: connected,
                        }),
                        revoked: match peer {
                            Some(peer) => Box::pin(self.services.credentials().clone().revoked(peer)),
                            None => Box::pin(std::future::pending()),
                        },
                    });
                }
                Err(broken) => broken,
            };
            tracing::debug!(%service, endpoint = target.0.address(), failure = broken.failure.as_str(), error = %broken.source, "an endpoint takes no connection");
            let failure = broken.failure;
            // One that refuses is alive.
            if !matches!(failure, Failure::Forbidden | Failure::Overloaded) {
                picked.finish(Outcome::Unreachable, self.services.now());
            }
            let error = Error::at(service.as_str(), target.0.clone(), broken);
            if failure == Failure::Forbidden {
                return Err(error);
            }
            last = Some((target, error));
        }
        Err(last.map_or_else(|| self.nowhere(&dialer), |(_, error)| error))
    }

    fn nowhere(&self, dialer: &Dialer) -> Error {
        let service = dialer.service.name.as_str();
        if self.services.has_left() {
            Error::new(Failure::Left, service)
        } else if dialer.service.has_endpoints() {
            let why = "it is served as HTTP, and is called by its URL";
            Error::because(Failure::Mismatch, service, why)
        } else {
            Error::new(Failure::NoEndpoint, service)
        }
    }

    fn dialer(&self, service: &ServiceName) -> Arc<Dialer> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dialer) = known.get(service) {
            return Arc::clone(dialer);
        }
        if known.len() >= REMEMBERED {
            known.retain(|_, dialer| dialer.service.is_served());
        }
        let credentials = self.services.credentials();
        let id = SpiffeId::of_service(credentials.held().bundle.trust_domain(), service);
        let new = Dialer {
            service: self.services.service(service),
            tls: ClientTls::new(credentials.clone(), Matcher::Id(id)).speaking(Protocol::Tcp),
        };
        Arc::clone(known.entry(service.clone()).or_insert_with(|| Arc::new(new)))
    }

    /// Chooses an endpoint, another than `tried` where there is one; None where none is known.
    async fn choose(&self, dialer: &Dialer, tried: Option<&Target>) -> Option<Picked<Target>> {
        dialer.service.discovered(DISCOVERY).await;
        let view = dialer.service.view(&self.services);
        // Of what a ring-hash may go by, a connection has only its source.
        let random = match &view.connection.hash {
            Some(Reference::ClientIp) => self.services.source(),
            _ => rand::random(),
        };
        let now = self.services.now();
        match tried {
            Some(tried) => view.opaque.pick_except(tried, now, random),
            None => view.opaque.pick(now, random),
        }
    }
}

impl Dialer {
    /// A place among the connections to the service. The first to an endpoint is always made.
    fn admit(&self, picked: &Picked<Target>) -> Option<Connected> {
        let breaker = &self.service.breaker;
        match picked.in_flight() {
            1 => Some(breaker.connect_anyway()),
            _ => breaker.connect().ok(),
        }
    }

    /// A connection on which the peer is ready, and the serial number of its SVID where it has one.
    async fn dial(&self, endpoint: &Endpoint) -> Result<(Io, Option<Vec<u8>>), Broken> {
        if let Some(outward) = endpoint.outward() {
            return Ok((dial_outside(endpoint.address(), outward).await?, None));
        }
        let (stream, peer) = self.dial_in_mesh(endpoint).await?;
        Ok((Either::Left(stream.into()), Some(peer)))
    }

    async fn dial_in_mesh(&self, endpoint: &Endpoint) -> Result<(TlsStream<TcpStream>, Vec<u8>), Broken> {
        let connected = async {
            let stream = TcpStream::connect(endpoint.address()).await.map_err(TlsError::Connect)?;
            prepare(&stream);
            let (stream, _) = self.tls.connect(stream).await?;
            let peer = tls::peer_serial(&stream)?;
            Ok((stream, peer))
        };
        let connected = timeout(CONNECT, connected).await.unwrap_or(Err(TlsError::Timeout(CONNECT)));
        let (mut stream, peer) = connected.map_err(not_connected)?;
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
}

/// A connection to somebody outside the mesh, who says no verdict.
async fn dial_outside(address: &str, outward: &Outward) -> Result<Io, Broken> {
    let connecting = timeout(CONNECT, outward.way.connect(address));
    let io = connecting
        .await
        .unwrap_or(Err(TlsError::Timeout(CONNECT)))
        .map_err(not_connected)?;
    match &io {
        Either::Left(tls) => prepare(tls.get_ref().0),
        Either::Right(plain) => prepare(plain),
    }
    Ok(io)
}

fn not_connected(error: TlsError) -> Broken {
    let failure = if error.is_identity() {
        Failure::Identity
    } else {
        Failure::Connect
    };
    Broken::before(failure, error)
}

const fn failure_of(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::Forbidden => Failure::Forbidden,
        Refusal::Unavailable => Failure::Connect,
        Refusal::Overloaded => Failure::Overloaded,
    }
}
