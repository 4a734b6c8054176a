//! Serving: accept → mutual TLS → [`PeerIdentity`] → any tower service, an axum `Router` for one.
//!
//! Each step has its place for a reason. A permit is taken before a connection is accepted, so that handshakes, which are
//! what the nameless can make us compute, are bounded. The handshake is timed. Only then is there HTTP at all, and the
//! service sees no request whose peer is not proven, and none that the policy of the mesh refuses.

mod answer;
mod forwarded;
mod guard;
mod service;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{fmt, io};

use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use identity::SpiffeId;
use routing::Reason;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout, timeout_at};
use tokio_rustls::server::TlsStream;
use tower::ServiceExt as _;

pub use answer::{answer, problem};
pub use forwarded::X_FORWARDED_CLIENT_CERT;
pub(crate) use guard::Guard;
pub use service::HttpService;

use answer::{Answer, Caller};
use guard::Refused;

use crate::Deadline;
use crate::caller;
use crate::drain;
use crate::linger::Lingering;
use crate::opaque::{Arrival, Hall};
use crate::tls::{PeerIdentity, Protocol, ServerTls};

/// What a server allows its peers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Handshakes at one time; further connections wait in the kernel. Default 1024.
    pub handshakes: usize,
    /// How long a handshake may take. Default 5 s.
    pub handshake_timeout: Duration,
    /// Opaque connections at one time; further ones are told that it is overloaded. Default 4096.
    pub connections: usize,
    /// Requests at one time on one connection. Default 1024.
    pub streams: u32,
    /// The header section of a request, in bytes as HTTP/2 counts them (RFC 9113 §6.5.2). Default 64 KiB.
    pub header_list: u32,
    /// How long requests in flight may take to finish once the drain has begun. Default 10 s.
    pub drain: Duration,
    /// How long a member that leaves serves on until everybody who may call it has said that it heard of that, as part of the drain; the
    /// control plane has no more than 10 s of patience. Default 2 s.
    pub settle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes: 1024,
            handshake_timeout: Duration::from_secs(5),
            connections: 4096,
            streams: 1024,
            header_list: 64 * 1024,
            drain: Duration::from_secs(10),
            settle: Duration::from_secs(2),
        }
    }
}

/// A bound listener that will serve over mutual TLS.
pub struct Server {
    listener: TcpListener,
    tls: ServerTls,
    limits: Limits,
    guard: Option<Guard>,
}

impl Server {
    /// Binds `address`; port 0 is a free one.
    ///
    /// # Errors
    /// Where the address cannot be bound.
    pub async fn bind(address: SocketAddr, tls: ServerTls) -> io::Result<Self> {
        Ok(Self::new(TcpListener::bind(address).await?, tls))
    }

    /// Serves on a listener that is bound already.
    #[must_use]
    pub fn new(listener: TcpListener, tls: ServerTls) -> Self {
        Self {
            listener,
            tls,
            limits: Limits::default(),
            guard: None,
        }
    }

    /// With a policy that judges every request.
    #[must_use]
    pub(crate) fn guarded(mut self, guard: Guard) -> Self {
        self.guard = Some(guard);
        self
    }

    /// With other limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The bound address.
    ///
    /// # Errors
    /// Where the system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// How long requests in flight may take to finish.
    pub(crate) const fn drain(&self) -> Duration {
        self.limits.drain
    }

    /// How long peers are waited for to hear that the endpoint leaves.
    pub(crate) const fn settle(&self) -> Duration {
        self.limits.settle
    }

    /// Serves until the drain begins, and returns when the last connection is done or [`Limits::drain`] is over. What is left then
    /// is cut off, as it is where this future is dropped.
    pub async fn serve(self, service: impl HttpService, drain: drain::Watch) {
        self.each(drain, move |connection, stream, permit, stopping| {
            connection.serve(stream, permit, service.clone(), stopping)
        })
        .await;
    }

    /// Lets opaque connections in instead, of whom the policy admits.
    pub(crate) async fn serve_opaque<H, F>(mut self, service: H, drain: drain::Watch)
    where
        H: Fn(Arrival) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        self.tls = self.tls.speaking(Protocol::Tcp);
        let hall = Hall::new(service, self.limits.connections);
        self.each(drain, move |connection, stream, permit, stopping| {
            hall.clone().receive(connection, stream, permit, stopping)
        })
        .await;
    }

    /// Gives each connection to `serve` until the drain begins, and returns when the last of them is done.
    async fn each<F>(
        self,
        mut drain: drain::Watch,
        serve: impl Fn(Connection, TcpStream, OwnedSemaphorePermit, drain::Watch) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let tls = Arc::new(self.tls);
        let handshakes = Arc::new(Semaphore::new(self.limits.handshakes));
        let (stop, stopping) = drain::channel();
        let (_cut, cutting) = drain::channel();
        loop {
            let next = async {
                let permit = Arc::clone(&handshakes)
                    .acquire_owned()
                    .await
                    .expect("the semaphore is never closed");
                (permit, accept(&self.listener).await)
            };
            let (permit, (stream, address)) = tokio::select! {
                next = next => next,
                () = drain.started() => break,
            };
            let connection = Connection {
                tls: Arc::clone(&tls),
                limits: self.limits.clone(),
                guard: self.guard.clone(),
                address,
            };
            let serving = serve(connection, stream, permit, stopping.clone());
            let mut cutting = cutting.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = serving => {}
                    () = cutting.started() => tracing::debug!(peer = %address, "a connection was cut off"),
                }
            });
        }
        drop((self.listener, stopping));
        stop.start();
        if timeout(self.limits.drain, stop.finished()).await.is_err() {
            tracing::warn!(deadline = ?self.limits.drain, "the drain deadline has passed; what is left is cut off");
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("listener", &self.listener)
            .field("tls", &self.tls)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Accepts, however long the process is out of file descriptors.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// A connection that was accepted, and what holds for it.
pub(crate) struct Connection {
    tls: Arc<ServerTls>,
    pub(crate) limits: Limits,
    pub(crate) guard: Option<Guard>,
    address: SocketAddr,
}

impl Connection {
    /// Waits until the identity that the peer proved is revoked.
    pub(crate) async fn revoked(&self, peer: Option<&PeerIdentity>) {
        let Some(serial) = peer.map(|peer| peer.serial().to_vec()) else {
            return std::future::pending().await;
        };
        self.tls.credentials().clone().revoked(serial).await;
        tracing::info!(peer = %self.address, "the identity of a peer was revoked; its connection is closed");
    }

    /// Does the handshake, and tells of one that fails.
    pub(crate) async fn shake_hands(
        &self,
        stream: TcpStream,
        permit: OwnedSemaphorePermit,
    ) -> Option<(TlsStream<TcpStream>, Option<PeerIdentity>)> {
        let accepted = self.tls.accept(stream, self.limits.handshake_timeout).await;
        drop(permit);
        match accepted {
            Ok(accepted) => Some(accepted),
            Err(error) => {
                tracing::info!(peer = %self.address, %error, identity = error.is_identity(), "a connection was refused");
                None
            }
        }
    }

    async fn serve<S: HttpService>(
        self,
        stream: TcpStream,
        permit: OwnedSemaphorePermit,
        service: S,
        mut stopping: drain::Watch,
    ) {
        let _ = stream.set_nodelay(true);
        let Some((stream, peer)) = self.shake_hands(stream, permit).await else {
            return;
        };
        let expiry = until_expiry(peer.as_ref().map(PeerIdentity::not_after));
        let proven = peer.clone();
        let own = self.tls.credentials().held().svid.id().clone();
        let guard = self.guard.clone();
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            let caller = Caller::of(request.headers());
            // Read at once: what is left is counted from here.
            let deadline = Deadline::of(request.headers());
            let late = deadline.is_some_and(|deadline| deadline.left().is_zero());
            let refused = match &guard {
                Some(guard) => guard.admit(&mut request, peer.as_ref()).err(),
                None => {
                    caller::drop_from(&mut request);
                    None
                }
            };
            let refused = refused.or_else(|| late.then_some(LATE));
            let served = match refused {
                Some(refused) => Err(refused),
                None => Ok(service.clone().oneshot(introduce(request, peer.as_ref(), &own, deadline))),
            };
            async move {
                let answered = match served {
                    Ok(served) => in_time(served, deadline).await,
                    Err(refused) => Err(refused),
                };
                match answered {
                    Ok(answered) => Ok(answered?.map(|body| Answer::Theirs { body })),
                    Err(Refused { reason, detail }) => {
                        Ok::<_, S::Error>(caller.answer(reason, detail).map(|body| Answer::Ours { body }))
                    }
                }
            }
        });
        let mut connection = pin!(self.http2().serve_connection(TokioIo::new(Lingering::new(stream)), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = stopping.started() => None,
            () = self.revoked(proven.as_ref()) => return,
            () = expiry => {
                // What the certificate proved is over: the peer connects anew with the one that followed. What it began in time may
                // finish, however long that takes: a stream that lasts would break once an hour.
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection.as_mut() => Some(ended),
                    () = stopping.started() => None,
                    () = self.revoked(proven.as_ref()) => return,
                }
            }
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                timeout(self.limits.drain, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(peer = %self.address, %error, "a connection ended with an error");
        }
    }

    fn http2(&self) -> hyper::server::conn::http2::Builder<TokioExecutor> {
        let mut http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            // WebSockets come as extended CONNECT (RFC 8441).
            .enable_connect_protocol()
            .max_concurrent_streams(self.limits.streams)
            .max_header_list_size(self.limits.header_list)
            .initial_stream_window_size(crate::STREAM_WINDOW)
            .initial_connection_window_size(crate::CONNECTION_WINDOW)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10));
        http2
    }
}

/// Nobody waits for the answer any more, so that the work for it is not begun, or not gone on with.
const LATE: Refused = Refused {
    reason: Reason::DeadlineExceeded,
    detail: "the time that the caller gave the request is over",
};

/// Works until the deadline, which calls that the work makes have as well.
async fn in_time<F: Future>(work: F, deadline: Option<Deadline>) -> Result<F::Output, Refused> {
    match deadline {
        Some(deadline) => timeout_at(deadline.instant().into(), deadline.scope(work))
            .await
            .map_err(|_| LATE),
        None => Ok(work.await),
    }
}

/// Puts what the handshake proved where handlers look for it, in place of whatever the peer claims.
pub(crate) fn introduce<B>(
    mut request: Request<B>,
    peer: Option<&PeerIdentity>,
    own: &SpiffeId,
    deadline: Option<Deadline>,
) -> Request<B> {
    request.extensions_mut().remove::<PeerIdentity>();
    if let Some(deadline) = deadline {
        request.extensions_mut().insert(deadline);
    }
    forwarded::replace(request.headers_mut(), peer, own);
    if let Some(peer) = peer {
        request.extensions_mut().insert(peer.clone());
    }
    request
}

async fn until_expiry(not_after: Option<u64>) {
    let Some(not_after) = not_after else {
        return std::future::pending().await;
    };
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(not_after);
    // The wall clock may be set, and the machine may sleep: look again every minute.
    while let Ok(left) = end.duration_since(SystemTime::now()) {
        sleep(left.min(Duration::from_secs(60)).max(Duration::from_millis(10))).await;
    }
}
