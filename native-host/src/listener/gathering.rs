//! What HTTP/2 writes in one poll of its connection, gathered into one write.
//!
//! h2 flushes behind every DATA frame: with TLS, each answer is then a record and a system call of its own, however many
//! were ready at once. So writing here only gathers, flushing does nothing, and whoever polls the connection sends what was
//! gathered when the poll is over. Before its task goes idle, everything is out or the socket is what it waits for.
//!
//! With 32 connections, eight requests at once on each and answers of 1 KiB that is 0.13 writes for an answer instead of 1.

use std::cell::{RefCell, RefMut};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};

use crate::body::Error;
use crate::buffers;

/// How much is gathered: what rustls holds for a client that does not read. With eight answers of 8 KiB at once that is a write for
/// four of them; with 16 KiB it is one for each.
const MOST: usize = 64 * 1024;

/// The longest piece that is copied, which costs about 1 µs; a system call costs more, but longer ones are seldom beside others.
const COPIED: usize = 16 * 1024;

/// A stream whose writes are gathered. Clones are the same stream: hyper holds one, [`Turns`] the other.
#[derive(Debug)]
pub(super) struct Gathering<S>(Rc<RefCell<State<S>>>);

#[derive(Debug)]
struct State<S> {
    stream: S,
    gathered: BytesMut,
    /// Whether the stream was written to since it was flushed.
    unflushed: bool,
    /// Whether a writer was turned away since there was room last.
    refused: bool,
}

impl<S> Gathering<S> {
    pub(super) fn new(stream: S) -> Self {
        Self(Rc::new(RefCell::new(State {
            stream,
            gathered: BytesMut::new(),
            unflushed: false,
            refused: false,
        })))
    }

    fn state(&self) -> RefMut<'_, State<S>> {
        self.0.borrow_mut()
    }
}

impl<S> Clone for Gathering<S> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<S: Write + Unpin> State<S> {
    fn poll_write(&mut self, cx: &mut Context<'_>, pieces: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        if length > COPIED || self.gathered.len() + length > MOST {
            self.refused = true;
            ready!(self.poll_empty(cx))?;
            self.refused = false;
        }
        if length > COPIED {
            self.unflushed = true;
            return Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        }
        if self.gathered.capacity() == 0 {
            self.gathered = buffers::take();
        }
        self.gathered.reserve(length);
        pieces.iter().for_each(|piece| self.gathered.extend_from_slice(piece));
        Poll::Ready(Ok(length))
    }

    /// Writes what was gathered.
    fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gathered.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !self.gathered.is_empty() {
            self.unflushed = true;
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.gathered))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                // To advance would take from the room that the buffer is given back with.
                written if written == self.gathered.len() => self.gathered.clear(),
                written => self.gathered.advance(written),
            }
        }
        buffers::give(std::mem::take(&mut self.gathered));
        Poll::Ready(Ok(()))
    }

    /// Writes what was gathered, and flushes.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_empty(cx))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        if std::mem::take(&mut self.refused) {
            // There is room again, and nothing else would tell the writer.
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Read + Unpin> Read for Gathering<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.state().stream).poll_read(cx, buffer)
    }
}

impl<S: Write + Unpin> Write for Gathering<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.state().poll_write(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state();
        ready!(state.poll_send(cx))?;
        Pin::new(&mut state.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, pieces: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.state().poll_write(cx, pieces)
    }
}

/// A connection that sends, after each poll, what it wrote in it.
#[derive(Debug)]
pub(super) struct Turns<C, S> {
    pub(super) connection: C,
    pub(super) stream: Gathering<S>,
}

impl<C, S> Future for Turns<C, S>
where
    C: Future<Output = Result<(), hyper::Error>> + Unpin,
    S: Write + Unpin,
{
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let ended = Pin::new(&mut this.connection).poll(cx).map_err(Error::from);
        let sent = this.stream.state().poll_send(cx);
        match (ended, sent) {
            (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Err(error.into())),
            (ended, _) => ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::{Wake, Waker};

    use super::*;

    /// A socket with room for some bytes, and what was written to it.
    #[derive(Debug, Default)]
    struct Socket {
        room: usize,
        writes: Vec<Vec<u8>>,
        shut: bool,
    }

    impl Socket {
        fn with_room(room: usize) -> Gathering<Self> {
            Gathering::new(Self { room, ..Self::default() })
        }
    }

    impl Write for Socket {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.room);
            if taken == 0 {
                return Poll::Pending;
            }
            self.room -= taken;
            self.writes.push(bytes[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.shut = true;
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn write(stream: &Gathering<Socket>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<usize> {
        let written = Pin::new(&mut stream.clone()).poll_write(cx, bytes);
        let flushed = Pin::new(&mut stream.clone()).poll_flush(cx);
        assert!(flushed.is_ready());
        written.map(Result::unwrap)
    }

    #[test]
    fn what_is_written_and_flushed_in_one_poll_is_one_write_at_its_end() {
        let stream = Socket::with_room(1_000);
        let writer = stream.clone();
        let mut turns = Turns {
            connection: poll_fn(move |cx| {
                for part in [&b"one "[..], b"two ", b"three"] {
                    assert_eq!(write(&writer, cx, part), Poll::Ready(part.len()));
                }
                assert!(writer.state().stream.writes.is_empty());
                Poll::Pending
            }),
            stream: stream.clone(),
        };
        assert!(
            Pin::new(&mut turns)
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        assert_eq!(stream.state().stream.writes, [b"one two three"]);
    }

    #[test]
    fn a_long_piece_goes_through_behind_what_was_gathered() {
        let stream = Socket::with_room(usize::MAX);
        let mut cx = Context::from_waker(Waker::noop());
        let large = vec![b'x'; COPIED + 1];
        assert_eq!(write(&stream, &mut cx, b"small"), Poll::Ready(5));
        assert_eq!(write(&stream, &mut cx, &large), Poll::Ready(large.len()));
        assert_eq!(stream.state().stream.writes, [b"small", &large[..]]);
    }

    #[test]
    fn a_socket_that_takes_nothing_turns_writers_away_until_there_is_room() {
        let stream = Socket::with_room(0);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        for _ in 0..MOST / COPIED {
            assert_eq!(write(&stream, &mut cx, &[b'a'; COPIED]), Poll::Ready(COPIED));
        }
        assert_eq!(write(&stream, &mut cx, b"b"), Poll::Pending);
        assert!(stream.state().poll_send(&mut cx).is_pending());
        stream.state().stream.room = MOST / 2;
        assert!(stream.state().poll_send(&mut cx).is_pending());
        assert_eq!(woken.0.load(Relaxed), 0);
        stream.state().stream.room = MOST;
        assert!(stream.state().poll_send(&mut cx).is_ready());
        assert_eq!(woken.0.load(Relaxed), 1);
        assert_eq!(stream.state().stream.writes.concat(), [b'a'; MOST]);
        assert_eq!(write(&stream, &mut cx, b"b"), Poll::Ready(1));
    }

    #[test]
    fn the_last_words_are_sent_before_the_stream_is_shut() {
        let stream = Socket::with_room(3);
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(write(&stream, &mut cx, b"goaway"), Poll::Ready(6));
        assert!(Pin::new(&mut stream.clone()).poll_shutdown(&mut cx).is_pending());
        assert!(!stream.state().stream.shut);
        stream.state().stream.room = 3;
        assert!(Pin::new(&mut stream.clone()).poll_shutdown(&mut cx).is_ready());
        let state = stream.state();
        assert!(state.stream.shut && state.stream.writes.concat() == b"goaway");
    }
}
