//! Bytes on their way into a socket: heads and small data together in one write, large data from where it lies.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http1::{BodyEncoder, EncodeError};
use tokio::io::AsyncWrite;

/// Data up to this many bytes is copied behind its head: a copy of 16 KiB costs about 1 µs, a second system call more.
const COPIED: usize = 16 * 1024;

/// What a buffer keeps between two messages.
const KEPT: usize = 4 * 1024;

/// What is waiting to be written.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    /// A head, and data that was copied.
    before: Vec<u8>,
    /// How much of `before` is written.
    written: usize,
    /// Data that was too large to be copied.
    data: Bytes,
    /// What closes its frame.
    after: Vec<u8>,
}

impl Outgoing {
    /// Where a head, or the end of a body, is appended.
    pub(crate) fn tail(&mut self) -> &mut Vec<u8> {
        if self.data.is_empty() {
            &mut self.before
        } else {
            &mut self.after
        }
    }

    /// Whether more data can be taken without waiting for what is there.
    pub(crate) fn has_room(&self) -> bool {
        self.data.is_empty() && self.before.len() < COPIED
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.before.is_empty() && self.data.is_empty() && self.after.is_empty()
    }

    /// Appends data in its frame; there has to be room.
    pub(crate) fn push(&mut self, data: Bytes, encoder: &mut BodyEncoder) -> Result<(), EncodeError> {
        if data.len() <= COPIED {
            return encoder.write(&data, &mut self.before);
        }
        let frame = encoder.frame(data.len())?;
        self.before.extend_from_slice(frame.head());
        self.after.extend_from_slice(frame.tail());
        self.data = data;
        Ok(())
    }

    /// Writes until nothing is left.
    pub(crate) fn poll_flush<W>(&mut self, socket: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        W: AsyncWrite + Unpin + ?Sized,
    {
        while !self.is_empty() {
            let before = &self.before[self.written..];
            let wrote = if self.data.is_empty() && self.after.is_empty() {
                Pin::new(&mut *socket).poll_write(cx, before)
            } else {
                let slices = [IoSlice::new(before), IoSlice::new(&self.data), IoSlice::new(&self.after)];
                Pin::new(&mut *socket).poll_write_vectored(cx, &slices)
            };
            match ready!(wrote)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.advance(count),
            }
        }
        Pin::new(socket).poll_flush(cx)
    }

    fn advance(&mut self, count: usize) {
        let of_before = count.min(self.before.len() - self.written);
        self.written += of_before;
        if self.written == self.before.len() {
            self.before.clear();
            self.before.shrink_to(KEPT);
            self.written = 0;
        }
        let of_data = (count - of_before).min(self.data.len());
        self.data.advance(of_data);
        self.after.drain(..count - of_before - of_data);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http1::{Framing, encode_request};

    use super::*;

    /// A socket that takes a few bytes at a time.
    struct Narrow(Vec<u8>);

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(7);
            self.0.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn pieces_arrive_in_their_order_however_little_a_write_takes() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut socket = Narrow(Vec::new());
        let mut outgoing = Outgoing::default();
        let mut encoder = encode_request(b"PUT", b"/", b"a", Framing::Chunked, [], outgoing.tail()).unwrap();
        let (small, large) = (Bytes::from_static(b"small"), Bytes::from(vec![b'x'; COPIED + 1]));
        outgoing.push(small, &mut encoder).unwrap();
        assert!(outgoing.has_room());
        outgoing.push(large.clone(), &mut encoder).unwrap();
        assert!(!outgoing.has_room());
        encoder.finish([], outgoing.tail()).unwrap();
        assert!(outgoing.poll_flush(&mut socket, &mut cx).is_ready() && outgoing.is_empty());
        let head = "PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nsmall\r\n4001\r\n";
        let expected = [head.as_bytes(), &large, b"\r\n0\r\n\r\n"].concat();
        assert!(socket.0 == expected);
    }
}
