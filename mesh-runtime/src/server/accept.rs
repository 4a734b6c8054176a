//! Connections to the control port: how many, how long their handshake may take, and how long they may stay.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use mesh_client::tls::{Credentials, PeerIdentity, ServerTls};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::peer::Peer;
use crate::authority::{Authority, hex};
use crate::metrics::{Counted, Metrics};
use crate::now_unix;

/// How many connections there may be; more wait in the listener's backlog.
const CONNECTIONS: usize = 8192;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection without an SVID may stay: it is there to join or to operate, which is over in moments.
const NAMELESS: Duration = Duration::from_secs(60);
/// How long to wait when the system has no file descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts until `drain` is cancelled. What comes out has finished its handshake.
pub(super) fn connections(
    listener: TcpListener,
    tls: ServerTls,
    authority: Arc<Authority>,
    metrics: Arc<Metrics>,
    drain: CancellationToken,
) -> impl Stream<Item = io::Result<Connection>> {
    let (ready, connections) = mpsc::channel(1);
    tokio::spawn(async move {
        let (tls, slots) = (Arc::new(tls), Arc::new(Semaphore::new(CONNECTIONS)));
        loop {
            let accepted = async {
                let slot = Arc::clone(&slots)
                    .acquire_owned()
                    .await
                    .expect("the semaphore is never closed");
                (slot, listener.accept().await)
            };
            let (slot, accepted) = tokio::select! {
                accepted = accepted => accepted,
                () = drain.cancelled() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let (tls, authority) = (Arc::clone(&tls), Arc::clone(&authority));
            let (metrics, ready) = (Arc::clone(&metrics), ready.clone());
            tokio::spawn(async move {
                match handshake(&tls, &authority, stream, slot, &metrics).await {
                    // The receiver is gone once the server drains.
                    Ok(connection) => drop(ready.send(Ok(connection)).await),
                    Err(reason) => {
                        metrics.handshake_failures.inc();
                        tracing::debug!(reason, "a TLS handshake failed");
                    }
                }
            });
        }
    });
    ReceiverStream::new(connections)
}

async fn handshake(
    tls: &ServerTls,
    authority: &Authority,
    stream: TcpStream,
    slot: OwnedSemaphorePermit,
    metrics: &Metrics,
) -> Result<Connection, String> {
    // A failure here costs latency, not correctness.
    let _ = stream.set_nodelay(true);
    let accepted = tls.accept(stream, HANDSHAKE).await;
    let (stream, peer) = accepted.map_err(|error| error.to_string())?;
    if let Some(peer) = &peer {
        authority.saw(&hex(peer.serial()));
    }
    let end = end_of(peer.as_ref(), tls.credentials().clone());
    Ok(Connection {
        stream,
        peer: Peer(peer.map(Arc::new)),
        end: Box::pin(end),
        _counted: metrics.connections(),
        _slot: slot,
    })
}

/// Why a connection has to end, when it has to.
fn end_of(peer: Option<&PeerIdentity>, credentials: Credentials) -> impl Future<Output = &'static str> + Send + use<> {
    let stay = peer.map_or(NAMELESS, stay_of);
    let serial = peer.map(|peer| peer.serial().to_vec());
    let revoked = async {
        match serial {
            Some(serial) => credentials.revoked(serial).await,
            None => std::future::pending().await,
        }
    };
    async move {
        tokio::select! {
            () = tokio::time::sleep(stay) => "the SVID of the connection has expired",
            () = revoked => "the SVID of the connection was revoked",
        }
    }
}

/// A connection is as good as the SVID that opened it, and no longer. One whose time is over is there to ask for another.
fn stay_of(peer: &PeerIdentity) -> Duration {
    let now = now_unix();
    if peer.is_valid_at(now) {
        Duration::from_secs(peer.not_after().saturating_sub(now))
    } else {
        NAMELESS
    }
}

/// A connection whose peer is known, or known to be nameless.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    end: Pin<Box<dyn Future<Output = &'static str> + Send>>,
    _counted: Counted,
    _slot: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(why) = self.end.as_mut().poll(context) {
            self.end = Box::pin(std::future::ready(why));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
