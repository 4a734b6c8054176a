//! Kept HTTP/1.1 connections to one endpoint, per core: last in, first out, so that the warm ones stay warm and the rest
//! grow old and are closed.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Idle connections kept per endpoint and core.
const KEPT: usize = 256;

/// How long an idle connection is kept. Shorter than the 60–75 s after which common servers close theirs, so that few
/// requests meet a connection that its server is about to close.
const IDLE: Duration = Duration::from_secs(50);

/// How long connecting may take where the attempt's own deadline is later.
const CONNECT: Duration = Duration::from_secs(5);

/// The longest head of an answer.
pub(crate) const ANSWER_HEAD: usize = 256 * 1024;

/// A connection that can be kept.
pub(crate) trait Pooled {
    /// Whether no other request can be sent on it.
    fn is_closed(&self) -> bool;
}

impl<B> Pooled for SendRequest<B> {
    fn is_closed(&self) -> bool {
        Self::is_closed(self)
    }
}

/// Kept connections.
#[derive(Debug)]
pub(crate) struct Pool<C> {
    idle: RefCell<Vec<Idle<C>>>,
}

#[derive(Debug)]
struct Idle<C> {
    connection: C,
    since: Instant,
}

impl<C> Default for Pool<C> {
    fn default() -> Self {
        Self {
            idle: RefCell::new(Vec::new()),
        }
    }
}

impl<C: Pooled> Pool<C> {
    /// The connection that was used last and is still good.
    pub(crate) fn take(&self, now: Instant) -> Option<C> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { connection, since }) = idle.pop() {
            if now.saturating_duration_since(since) > IDLE {
                // All below it are older.
                idle.clear();
                return None;
            }
            if !connection.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection whose answer was read to its end.
    pub(crate) fn put(&self, connection: C, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() == KEPT {
            idle.remove(0);
        }
        idle.push(Idle { connection, since: now });
    }

    /// Closes the connections that have been idle for too long or that their server closed.
    pub(crate) fn sweep(&self, now: Instant) {
        self.idle
            .borrow_mut()
            .retain(|idle| now.saturating_duration_since(idle.since) <= IDLE && !idle.connection.is_closed());
    }
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// A name or an address, IPv6 without brackets.
    pub(crate) host: String,
    /// The port.
    pub(crate) port: u16,
}

/// Connects.
///
/// # Errors
///
/// Where nobody answers there, in time.
pub(crate) async fn dial(address: &Address) -> io::Result<TcpStream> {
    tokio::time::timeout(CONNECT, connect(address)).await?
}

/// Connects by hyper's codec, and runs the connection on this core until it ends; `held` is kept for as long.
///
/// # Errors
///
/// Where nobody answers there, in time.
pub(crate) async fn dial_hyper<B>(address: &Address, held: impl Send + 'static) -> io::Result<SendRequest<B>>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = dial(address).await?;
    let (connection, driver) = http1::Builder::new()
        .max_buf_size(ANSWER_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::debug!(%error, "upstream connection broke");
        }
        drop(held);
    });
    Ok(connection)
}

async fn connect(address: &Address) -> io::Result<TcpStream> {
    let stream = match address.host.parse::<std::net::IpAddr>() {
        Ok(ip) => TcpStream::connect(SocketAddr::new(ip, address.port)).await?,
        Err(_) => TcpStream::connect((address.host.as_str(), address.port)).await?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}
