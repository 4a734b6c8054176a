//! Closing a connection so that the last word on it arrives.
//!
//! A peer may send a request at the very moment at which the server closes. Bytes that nobody reads are answered with a TCP
//! reset, which can overtake the `GOAWAY` that would have told the peer that its request was not looked at and may go elsewhere.
//! So this end stops writing first and reads on until the peer has closed as well (RFC 9112 §9.6 has the same for HTTP/1.1).
//!
//! The same holds for the alert that refuses a peer's certificate: in TLS 1.3 the peer has finished its handshake by then, and sends
//! its first request on the heels of it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long a peer that has been told everything may take to close its end. A live one needs a round trip.
const LINGER: Duration = Duration::from_secs(2);

/// How much is read of a peer that goes on talking: what a live one may have had on its way.
const MOST: usize = crate::CONNECTION_WINDOW as usize;

/// A stream whose shutdown waits for the other end.
#[derive(Debug)]
pub(crate) struct Lingering<T> {
    stream: T,
    closing: Option<Pin<Box<Sleep>>>,
    /// Bytes that are still read for it.
    left: usize,
}

impl<T> Lingering<T> {
    pub(crate) const fn new(stream: T) -> Self {
        Self {
            stream,
            closing: None,
            left: MOST,
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Lingering<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.closing.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        let limit = this.closing.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if limit.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut unread = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut unread);
            match ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() && this.left > 0 => {
                    this.left = this.left.saturating_sub(buffer.filled().len());
                }
                // The peer has closed its end, is gone, or does not listen: there is nobody left to tell.
                Ok(()) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn the_last_word_reaches_a_peer_that_was_still_talking() {
        let (mut client, server) = connected().await;
        let closing = tokio::spawn(async move {
            let mut server = Lingering::new(server);
            server.write_all(b"goaway").await.unwrap();
            server.shutdown().await.unwrap();
        });
        // What a request is that crosses the goaway: written, and never read as one.
        let mut heard = [0; 6];
        client.read_exact(&mut heard).await.unwrap();
        for _ in 0..3 {
            client.write_all(b"request").await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(client.read(&mut heard).await.unwrap(), 0, "the end, and no reset");
        client.shutdown().await.unwrap();
        closing.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_stops_is_read_no_further_than_the_limit() {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let talking = tokio::spawn(async move {
            let mut said = 0;
            while client.write_all(&[0; 4096]).await.is_ok() {
                said += 4096;
            }
            said
        });
        let begun = tokio::time::Instant::now();
        Lingering::new(server).shutdown().await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let said = talking.await.unwrap();
        assert!((MOST..2 * MOST).contains(&said), "{said}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_closes_is_not_waited_for_longer_than_the_limit() {
        let (_client, server) = tokio::io::duplex(64);
        let begun = tokio::time::Instant::now();
        Lingering::new(server).shutdown().await.unwrap();
        assert_eq!(begun.elapsed(), LINGER);
    }
}
