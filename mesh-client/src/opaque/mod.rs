//! Opaque connections: the bytes of a protocol that the mesh does not look into (a database's, say), by service name, over mutual TLS.
//!
//! One connection of a program is one connection of the mesh, so that a peer that reads slowly holds up nobody else, and the end of one
//! direction is passed on as that. Inside TLS the end that was called says one byte first, and only then the bytes are the
//! programs': what comes before says whether there is somebody to talk to, so that a refusal is told from a program that hangs up, and
//! another endpoint can be tried, since nothing of the caller's was sent. What the document of the mesh places outside of it is connected to
//! as that says, in plain text or over TLS, and says no such byte.
//!
//! | byte | what it says |
//! |---|---|
//! | 0 | ready: from here on the bytes are the programs' |
//! | 1 | [`Refusal::Forbidden`] |
//! | 2 | [`Refusal::Unavailable`] |
//! | 3 | [`Refusal::Overloaded`] |
//!
//! ```no_run
//! # async fn run(mesh: mesh_client::Mesh) -> Result<(), Box<dyn std::error::Error>> {
//! // Call.
//! let mut database = mesh.connect("database").await?;
//! tokio::io::AsyncWriteExt::write_all(&mut database, b"PING\r\n").await?;
//!
//! // Serve.
//! let echo = |arrival: mesh_client::opaque::Arrival| async move {
//!     println!("{} connects", arrival.peer().id());
//!     if let Ok(stream) = arrival.accept().await {
//!         let (mut from, mut to) = tokio::io::split(stream);
//!         let _ = tokio::io::copy(&mut from, &mut to).await;
//!     }
//! };
//! mesh.bind("database").await?.serve_opaque(echo, std::future::pending()).await?;
//! # Ok(())
//! # }
//! ```

mod accept;
mod dial;

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use routing::balance::Picked;
use routing::policy::Connected;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

pub use accept::Arrival;
pub(crate) use accept::Hall;
pub(crate) use dial::Dialers;

use crate::client::Target;
use crate::discovery::Endpoint;
use crate::outside::Io;

/// An opaque connection. Shutting it down ends what is written, and the other direction goes on; dropping it before that tells the peer
/// that it broke off.
pub struct Stream {
    io: Io,
    held: Option<Held>,
    revoked: Revoked,
}

/// What counts a connection, at the end that called, until it is dropped.
struct Held {
    endpoint: Picked<Target>,
    /// Among the connections to the service.
    _connected: Connected,
}

/// Ready once the identity of the peer is revoked.
type Revoked = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Stream {
    /// The endpoint that it was opened to; none at the end that was called.
    #[must_use]
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.held.as_ref().map(|held| &held.endpoint.address().0)
    }

    /// Whether the peer is still believed to be who it was.
    fn believed(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.revoked.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        self.revoked = Box::pin(std::future::ready(()));
        let why = "the identity of the peer was revoked";
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, why))
    }
}

/// Why nobody talks to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The policy of the mesh does not let the caller in.
    Forbidden,
    /// The program behind this endpoint does not answer.
    Unavailable,
    /// As many connections as the endpoint may have are open.
    Overloaded,
}

/// The byte that comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ready,
    Refused(Refusal),
}

impl Verdict {
    const fn byte(self) -> u8 {
        match self {
            Self::Ready => 0,
            Self::Refused(Refusal::Forbidden) => 1,
            Self::Refused(Refusal::Unavailable) => 2,
            Self::Refused(Refusal::Overloaded) => 3,
        }
    }

    const fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Ready,
            1 => Self::Refused(Refusal::Forbidden),
            2 => Self::Refused(Refusal::Unavailable),
            3 => Self::Refused(Refusal::Overloaded),
            _ => return None,
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forbidden => "the policy of the mesh does not let this caller connect",
            Self::Unavailable => "the program behind the endpoint does not answer",
            Self::Overloaded => "the endpoint has as many connections as it may have",
        })
    }
}

impl std::error::Error for Refusal {}

/// A connection may be idle for long, and a peer that is gone without a word is noticed all the same: after 30 s and three
/// questions that nobody answers.
fn prepare(stream: &TcpStream) {
    // Failures here cost latency or time, not correctness.
    let _ = stream.set_nodelay(true);
    let questions = TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    let _ = SockRef::from(stream).set_tcp_keepalive(&questions);
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.believed(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.believed(cx)?;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.believed(cx)?;
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("endpoint", &self.endpoint())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_bytes_are_verdicts_and_no_other() {
        let known: Vec<u8> = (0..=u8::MAX).filter(|byte| Verdict::of(*byte).is_some()).collect();
        assert_eq!(known, [0, 1, 2, 3]);
        for byte in known {
            assert_eq!(Verdict::of(byte).map(Verdict::byte), Some(byte));
        }
    }
}
