//! The byte stream under a connection, with an eye on what hyper does not tell: whether the client dawdles, and whether a head
//! frames its body in two ways.

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// What a connection is doing, seen from its byte stream and its service together.
#[derive(Debug)]
pub(crate) struct Activity {
    in_flight: Cell<u32>,
    since: Cell<Instant>,
    reading_head: Cell<bool>,
    stalled: Cell<Option<Instant>>,
    unread: Cell<bool>,
    heads: Cell<HeadScan>,
}

/// What a connection waits for, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// For the next request.
    Idle(Instant),
    /// For the rest of a head.
    Head(Instant),
    /// For an answer, which is our own affair.
    Answer,
    /// For the client to take bytes of an answer.
    Write(Instant),
}

impl Activity {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            in_flight: Cell::new(0),
            since: Cell::new(Instant::now()),
            reading_head: Cell::new(false),
            stalled: Cell::new(None),
            unread: Cell::new(false),
            heads: Cell::new(HeadScan::default()),
        })
    }

    /// What the connection waits for.
    pub(crate) fn waiting(&self) -> Waiting {
        match (self.stalled.get(), self.in_flight.get()) {
            (Some(since), _) => Waiting::Write(since),
            (None, 0) if self.reading_head.get() => Waiting::Head(self.since.get()),
            (None, 0) => Waiting::Idle(self.since.get()),
            (None, _) => Waiting::Answer,
        }
    }

    /// Whether the head that was just read had both `Content-Length` and `Transfer-Encoding`; asking forgets it.
    pub(crate) fn framed_twice(&self) -> bool {
        self.heads.take().framed_twice()
    }

    /// Whether the request was answered before all of its body was read.
    pub(crate) fn left_unread(&self, unread: bool) {
        self.unread.set(unread);
    }

    /// Whether the client may still be sending what nobody is going to read: a body, or a head that was refused.
    fn may_be_sending(&self) -> bool {
        self.unread.get() || (self.in_flight.get() == 0 && self.reading_head.get())
    }

    /// A request came; it is over when the guard is dropped.
    pub(crate) fn begin(self: &Rc<Self>) -> InFlight {
        self.in_flight.set(self.in_flight.get() + 1);
        self.reading_head.set(false);
        self.unread.set(false);
        InFlight(Rc::clone(self))
    }

    fn saw(&self, bytes: &[u8]) {
        if !self.reading_head.replace(true) {
            self.since.set(Instant::now());
        }
        let mut heads = self.heads.get();
        heads.read(bytes);
        self.heads.set(heads);
    }
}

/// A request in flight.
#[derive(Debug)]
pub(crate) struct InFlight(Rc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        self.0.since.set(Instant::now());
    }
}

/// A stream whose first bytes were read already, watched by an [`Activity`].
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    stream: S,
    prefix: Bytes,
    activity: Rc<Activity>,
    lingering: Option<Pin<Box<Sleep>>>,
}

impl<S> Guarded<S> {
    pub(crate) fn new(stream: S, prefix: Bytes, activity: Rc<Activity>) -> Self {
        if !prefix.is_empty() {
            activity.saw(&prefix);
        }
        Self {
            stream,
            prefix,
            activity,
            lingering: None,
        }
    }

    fn wrote<T>(&self, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &poll {
            Poll::Ready(_) => self.activity.stalled.set(None),
            Poll::Pending if self.activity.stalled.get().is_none() => self.activity.stalled.set(Some(Instant::now())),
            Poll::Pending => {}
        }
        poll
    }
}

/// How long bytes that nobody wants are read before the connection closes over them.
const LINGER: Duration = Duration::from_secs(1);

/// The longest read at once: a head and its first bytes of body. hyper begins with the same size.
const READ: usize = 8 * 1024;

impl<S: AsyncRead + Unpin> Read for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.prefix.is_empty() {
            let count = this.prefix.len().min(buffer.remaining());
            buffer.put_slice(&this.prefix[..count]);
            this.prefix.advance(count);
            return Poll::Ready(Ok(()));
        }
        // hyper does not show what it read, and advancing its cursor ourselves would take `unsafe`, so bytes pass a buffer on
        // the stack. Copying 8 KiB costs some 100 ns beside a system call of more than 1 µs.
        let mut space = [MaybeUninit::<u8>::uninit(); READ];
        let room = buffer.remaining().min(READ);
        let mut read = ReadBuf::uninit(&mut space[..room]);
        ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
        let bytes = read.filled();
        if this.activity.in_flight.get() == 0 && !bytes.is_empty() {
            this.activity.saw(bytes);
        }
        buffer.put_slice(bytes);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Write for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.wrote(poll)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    /// Closing a socket with unread bytes resets it, and the client may lose the answer that says why (RFC 9112 §9.6). So where
    /// the client may still be sending, our half is closed first, and what comes is read for a while and forgotten.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if !this.activity.may_be_sending() {
                return Poll::Ready(Ok(()));
            }
        }
        let lingering = this.lingering.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        let mut space = [MaybeUninit::<u8>::uninit(); READ];
        while lingering.as_mut().poll(cx).is_pending() {
            let mut read = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write_vectored(cx, bytes);
        this.wrote(poll)
    }
}

/// Looks for both framing fields in one head, byte by byte, so that it does not matter how the network cut it.
///
/// hyper follows RFC 9112 §6.1 (`Transfer-Encoding` wins, the connection closes) and hides that there were two. A proxy should
/// be stricter: such a request is either broken or an attempt at smuggling. Pipelined heads are not seen here; for those
/// hyper's reading stands, which is safe.
#[derive(Debug, Clone, Copy, Default)]
struct HeadScan {
    name: Name,
    content_length: bool,
    transfer_encoding: bool,
    line: Line,
}

/// Where in a line the scan is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Line {
    #[default]
    First,
    Start,
    Name,
    Value,
    Body,
}

/// The first bytes of a field's name.
#[derive(Debug, Clone, Copy, Default)]
struct Name {
    bytes: [u8; Self::LONGEST],
    length: usize,
}

impl Name {
    /// `transfer-encoding` has 17 bytes; one more tells it from longer names.
    const LONGEST: usize = 18;

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte.to_ascii_lowercase();
            self.length += 1;
        }
    }

    fn is(&self, name: &[u8]) -> bool {
        &self.bytes[..self.length] == name
    }
}

impl HeadScan {
    fn framed_twice(&self) -> bool {
        self.content_length && self.transfer_encoding
    }

    fn read(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            match self.line {
                Line::Body => return,
                Line::First | Line::Value => {
                    if byte != b'\n' {
                        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                            return;
                        };
                        rest = &rest[end + 1..];
                    }
                    self.line = Line::Start;
                }
                Line::Start => match byte {
                    b'\r' => {}
                    b'\n' => self.line = Line::Body,
                    byte => {
                        self.name = Name::default();
                        self.name.push(byte);
                        self.line = Line::Name;
                    }
                },
                Line::Name => match byte {
                    b':' => {
                        self.content_length |= self.name.is(b"content-length");
                        self.transfer_encoding |= self.name.is(b"transfer-encoding");
                        self.line = Line::Value;
                    }
                    b'\n' => self.line = Line::Start,
                    byte => self.name.push(byte),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed_twice(head: &[u8], cut: usize) -> bool {
        let mut scan = HeadScan::default();
        for piece in head.chunks(cut) {
            scan.read(piece);
        }
        scan.framed_twice()
    }

    #[test]
    fn two_framings_are_seen_in_any_order_and_case_and_however_the_network_cuts() {
        for head in [
            &b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"[..],
            b"POST / HTTP/1.1\r\ntransfer-ENCODING: chunked\r\nhost: a\r\ncontent-length: 3\r\n\r\n",
            b"POST / HTTP/1.1\ncontent-length:3\ntransfer-encoding:chunked\n\n",
        ] {
            for cut in 1..head.len() {
                assert!(framed_twice(head, cut), "cut {cut}: {}", String::from_utf8_lossy(head));
            }
        }
    }

    #[test]
    fn a_body_that_looks_like_a_head_and_longer_names_are_not_taken_for_framing() {
        for head in [
            &b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n20\r\nContent-Length: 3\r\n"[..],
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nx-content-length: 3\r\ncontent-lengthy: 1\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding-Too: chunked\r\ncontent-length: 3\r\n\r\n",
            b"POST / HTTP/1.1\r\nx: content-length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            for cut in 1..head.len() {
                assert!(!framed_twice(head, cut), "cut {cut}: {}", String::from_utf8_lossy(head));
            }
        }
    }
}
