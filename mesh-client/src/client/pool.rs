//! The connections to one endpoint: few, because HTTP/2 carries many requests on each.
//!
//! Connecting is a task of its own that every request which needs the connection waits for, so that a request which is
//! given up takes no connection of others with it. When the credentials change, a connection of the old ones serves on
//! until one of the new ones is there: a rotation costs no request its time.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use identity::SpiffeId;
use routing::policy::{Breaker, Connected, Refused};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::body::Body;
use super::error::{Broken, Failure};
use super::load::Load;
use crate::tls::{self, ClientTls, Credentials, TlsError};

/// With so many requests under way on every connection another one is opened, up to the pool's number.
const BUSY: u32 = 64;
/// How long after a failure to replace a connection that still serves the next attempt is made.
const QUIET: Duration = Duration::from_secs(1);

/// What every pool of one client shares.
#[derive(Clone)]
pub(super) struct Dial {
    pub(super) tls: Arc<ClientTls>,
    pub(super) credentials: Credentials,
    pub(super) breaker: Arc<Breaker>,
    pub(super) connect_timeout: Duration,
    pub(super) most: usize,
}

pub(super) struct Pool {
    address: String,
    dial: Dial,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    ready: Vec<Arc<Connection>>,
    opening: Option<watch::Receiver<Opening>>,
    quiet_until: Option<Instant>,
}

/// None while it goes on.
type Opening = Option<Result<Arc<Connection>, Arc<TlsError>>>;

/// One HTTP/2 connection.
pub(super) struct Connection {
    sender: SendRequest<Body>,
    pub(super) load: Load,
    generation: u64,
    own: SpiffeId,
    refused: Arc<AtomicBool>,
    /// Counts among the connections to the service.
    _connected: Connected,
}

impl Connection {
    pub(super) fn sender(&self) -> SendRequest<Body> {
        self.sender.clone()
    }

    /// Whether the peer refused our certificate.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Pool {
    pub(super) fn new(address: String, dial: Dial) -> Arc<Self> {
        Arc::new(Self {
            address,
            dial,
            slots: Mutex::default(),
        })
    }

    /// A connection to send one request on.
    pub(super) async fn connection(self: &Arc<Self>) -> Result<Arc<Connection>, Broken> {
        let mut opening = match self.ready_or_opening() {
            Ok(connection) => return Ok(connection),
            Err(opening) => opening,
        };
        let _pending = self.dial.breaker.wait().map_err(full)?;
        match opening.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Ok(connection))) => Ok(Arc::clone(connection)),
            Ok(Some(Err(error))) => Err(refusal(error)),
            // The runtime that it was opened on is gone.
            _ => Err(Broken::before(Failure::Connect, "connecting was given up")),
        }
    }

    fn ready_or_opening(self: &Arc<Self>) -> Result<Arc<Connection>, watch::Receiver<Opening>> {
        let held = self.dial.credentials.held();
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // Another name is another member: its requests may not go out under the old one.
        slots
            .ready
            .retain(|connection| !connection.sender.is_closed() && connection.own == *held.svid.id());
        let least = slots
            .ready
            .iter()
            .min_by_key(|ready| (ready.generation != held.generation, ready.load.now()))
            .cloned();
        let breaker = &self.dial.breaker;
        let Some(least) = least else {
            // An endpoint without a connection would get no requests, however many there are to others.
            return Err(self.open(&mut slots, breaker.connect_anyway()));
        };
        let stale = least.generation != held.generation;
        let busy = least.load.now() >= BUSY && slots.ready.len() < self.dial.most;
        let quiet = slots.quiet_until.is_some_and(|until| Instant::now() < until);
        let connected = match (stale, busy) {
            _ if quiet => None,
            // It takes the place of the old one.
            (true, _) => Some(breaker.connect_anyway()),
            (false, true) => breaker.connect().ok(),
            (false, false) => None,
        };
        if let Some(connected) = connected {
            // Opened beside; this request does not wait for it.
            let _ = self.open(&mut slots, connected);
        }
        Ok(least)
    }

    /// Begins to open a connection, unless one is being opened.
    fn open(self: &Arc<Self>, slots: &mut Slots, connected: Connected) -> watch::Receiver<Opening> {
        if let Some(opening) = slots.opening.as_ref().filter(|opening| opening.has_changed().is_ok()) {
            return opening.clone();
        }
        let (result, opening) = watch::channel(None);
        slots.opening = Some(opening.clone());
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            let opened = pool.dial(connected).await.map(Arc::new).map_err(Arc::new);
            pool.opened(&opened);
            result.send_replace(Some(opened));
        });
        opening
    }

    fn opened(&self, opened: &Result<Arc<Connection>, Arc<TlsError>>) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.opening = None;
        match opened {
            Ok(connection) => {
                // Requests under way keep their connection alive until they are done.
                slots.ready.retain(|ready| ready.generation == connection.generation);
                slots.ready.push(Arc::clone(connection));
                slots.quiet_until = None;
            }
            Err(error) => {
                tracing::debug!(address = self.address, %error, "no connection to the endpoint");
                slots.quiet_until = Some(Instant::now() + QUIET);
            }
        }
    }

    async fn dial(&self, connected: Connected) -> Result<Connection, TlsError> {
        let limit = self.dial.connect_timeout;
        timeout(limit, self.handshake(connected))
            .await
            .unwrap_or(Err(TlsError::Timeout(limit)))
    }

    async fn handshake(&self, connected: Connected) -> Result<Connection, TlsError> {
        let stream = TcpStream::connect(&self.address).await.map_err(TlsError::Connect)?;
        let _ = stream.set_nodelay(true);
        let own = self.dial.credentials.held().svid.id().clone();
        let (stream, generation) = self.dial.tls.connect(stream).await?;
        let peer = tls::peer_serial(&stream)?;
        let revoked = self.dial.credentials.clone().revoked(peer);
        let refused = Arc::new(AtomicBool::new(false));
        let stream = Witness {
            stream,
            refused: Arc::clone(&refused),
        };
        let handshake = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(crate::STREAM_WINDOW)
            .initial_connection_window_size(crate::CONNECTION_WINDOW)
            .keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .max_header_list_size(64 * 1024)
            .handshake(TokioIo::new(stream));
        let (sender, connection) = handshake
            .await
            .map_err(|error| TlsError::Handshake(io::Error::other(error)))?;
        let address = self.address.clone();
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(address, %error, "the connection to the endpoint ended with an error");
                },
                () = revoked => tracing::info!(address, "the identity of an endpoint was revoked; its connection is closed"),
            }
        });
        Ok(Connection {
            sender,
            load: Load::default(),
            generation,
            own,
            refused,
            _connected: connected,
        })
    }
}

/// The service's breaker is open, which says nothing of the endpoint.
fn full(refused: Refused) -> Broken {
    Broken::before(Failure::Full, refused)
}

fn refusal(error: &Arc<TlsError>) -> Broken {
    let failure = if error.is_identity() {
        Failure::Identity
    } else {
        Failure::Connect
    };
    Broken::before(failure, Arc::clone(error))
}

/// A stream that remembers whether the peer refused our certificate: HTTP/2 keeps only the words of an I/O error.
struct Witness<S> {
    stream: S,
    refused: Arc<AtomicBool>,
}

impl<S> Witness<S> {
    fn look<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &result
            && tls::of_io(error).is_some_and(tls::refuses_identity)
        {
            self.refused.store(true, Ordering::Relaxed);
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Witness<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.look(result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Witness<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.look(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.look(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.look(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
