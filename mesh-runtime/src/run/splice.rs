//! Bytes both ways between two streams, until both directions have ended, one has broken, or nothing has moved for too long.
//!
//! What is held in between is two small buffers: a side that does not read keeps the other from writing. The end of one direction is
//! passed on as the end of that direction (a TCP FIN, a TLS `close_notify`); a break is passed on as a break, so that nobody takes
//! a part for the whole.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

/// A full record of TLS in each direction.
const BUFFER: usize = 16 * 1024;

/// Carries bytes until both directions have ended.
///
/// # Errors
/// Where a side breaks, or no byte has been read from or written to one of them for as long as `idle`.
pub(super) async fn splice<A, B>(one: A, other: B, idle: Duration) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut one, mut other) = (Idle::new(one, idle), Idle::new(other, idle));
    copy_bidirectional_with_sizes(&mut one, &mut other, BUFFER, BUFFER).await?;
    Ok(())
}

/// The same with a local program, which sees a reset where the other side breaks or this is given up.
pub(super) async fn splice_program<B>(mut program: TcpStream, other: B, idle: Duration) -> io::Result<()>
where
    B: AsyncRead + AsyncWrite + Unpin,
{
    // A socket that is dropped with this set is reset. A failure leaves the usual end.
    let _ = program.set_zero_linger();
    let spliced = splice(&mut program, other, idle).await;
    if spliced.is_ok() {
        let _ = SockRef::from(&program).set_linger(None);
    }
    spliced
}

/// A stream that fails once no byte has moved on it for `limit`.
struct Idle<S> {
    stream: S,
    limit: Duration,
    moved: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<S> Idle<S> {
    fn new(stream: S, limit: Duration) -> Self {
        let moved = Instant::now();
        Self {
            stream,
            limit,
            moved,
            timer: Box::pin(sleep_until(moved + limit)),
        }
    }

    /// The timer is set anew only when it is over: that costs nothing while bytes move.
    fn look<T>(&mut self, progress: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.moved = Instant::now();
            return progress;
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let end = self.moved + self.limit;
            if end <= Instant::now() {
                let idle = format!("no byte has moved for {:?}", self.limit);
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, idle)));
            }
            self.timer.as_mut().reset(end);
        }
        progress
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Idle<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.look(progress, cx)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Idle<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.look(progress, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::net::TcpListener;
    use tokio::time::advance;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn each_direction_ends_by_itself() {
        let ((mut left, near), (far, mut right)) = (duplex(64), duplex(64));
        let spliced = tokio::spawn(splice(near, far, HOUR));
        left.write_all(b"ask").await.unwrap();
        left.shutdown().await.unwrap();
        let mut text = String::new();
        right.read_to_string(&mut text).await.unwrap();
        right.write_all(b"answer").await.unwrap();
        right.shutdown().await.unwrap();
        left.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "askanswer");
        spliced.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_in_one_direction_alone_is_not_idle() {
        let ((mut left, near), (far, mut right)) = (duplex(64), duplex(64));
        let spliced = tokio::spawn(splice(near, far, HOUR));
        for _ in 0..10 {
            advance(HOUR - Duration::from_secs(1)).await;
            left.write_all(b"x").await.unwrap();
            assert_eq!(right.read_u8().await.unwrap(), b'x');
        }
        drop((left, right));
        spliced.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn where_nothing_moves_it_ends() {
        let ((_left, near), (far, _right)) = (duplex(64), duplex(64));
        let begun = Instant::now();
        let error = splice(near, far, HOUR).await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed()), (io::ErrorKind::TimedOut, HOUR));
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_never_reads_is_given_up_and_keeps_the_other_from_writing() {
        let ((mut left, near), (far, _right)) = (duplex(64), duplex(64));
        let spliced = tokio::spawn(splice(near, far, HOUR));
        let mut taken = 0;
        while left.write(&[0; 1024]).await.is_ok_and(|written| {
            taken += written;
            written > 0
        }) {}
        assert!(taken <= BUFFER + 128, "{taken} bytes were taken for nobody");
        assert_eq!(spliced.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_program_sees_a_break_as_a_reset_and_an_end_as_an_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connected = || async {
            let program = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            (program, listener.accept().await.unwrap().0)
        };
        let mut text = String::new();
        let ((mut program, near), (far, mut mesh)) = (connected().await, duplex(64));
        let spliced = tokio::spawn(splice_program(near, far, HOUR));
        mesh.write_all(b"half of").await.unwrap();
        assert_eq!(program.read_u8().await.unwrap(), b'h');
        spliced.abort();
        let error = program.read_to_string(&mut text).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);

        let ((mut program, near), (far, mut mesh)) = (connected().await, duplex(64));
        let spliced = tokio::spawn(splice_program(near, far, HOUR));
        mesh.write_all(b"whole").await.unwrap();
        mesh.shutdown().await.unwrap();
        text.clear();
        program.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "whole");
        drop(program);
        spliced.await.unwrap().unwrap();
    }
}
