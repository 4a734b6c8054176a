//! The byte stream of one client: what was read of it and not used yet, and the body that is read from it.

use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;
use http1::{BodyDecoder, Error, Framing};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use crate::body;
use crate::buffers;
use crate::outgoing::Outgoing;

/// What a connection's bytes come by.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// The first read of a head, and the least of any other. The heads of browsers have 0.5 to 2 KiB.
const READ: usize = 8 * 1024;

/// The most that is read of a body at once, which is also the window of an upload.
const WINDOW: usize = 64 * 1024;

/// How much of the next requests is read while one is answered.
const AHEAD: usize = 64 * 1024;

/// A client's byte stream, shared between its connection and whoever reads the request's body. The mutex is held only inside of
/// one poll: it is there because the mesh's bodies must be `Send`. Taken without contention it costs about 10 ns.
#[derive(Debug, Clone)]
pub(crate) struct Wire(Arc<Mutex<State>>);

pub(super) struct State {
    pub(super) stream: Box<dyn Stream>,
    /// What was read and not used yet.
    pub(super) input: BytesMut,
    /// Where the body of the request ends.
    body: BodyDecoder,
    framing: Framing,
    /// The interim answer for which the client waits before it sends its body.
    interim: Outgoing,
    /// Why the body cannot be read any further.
    broken: Option<Error>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("input", &self.input.len())
            .finish_non_exhaustive()
    }
}

impl Wire {
    pub(super) fn new(stream: Box<dyn Stream>, first: BytesMut, limits: http1::Limits) -> Self {
        Self(Arc::new(Mutex::new(State {
            stream,
            input: first,
            body: BodyDecoder::new(Framing::None, limits),
            framing: Framing::None,
            interim: Outgoing::default(),
            broken: None,
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next piece of the request's body.
    pub(crate) fn poll_body(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
        self.lock().poll_body(cx)
    }

    /// Whether nothing of the request's body is left to read.
    pub(crate) fn is_over(&self) -> bool {
        self.lock().body.is_done()
    }

    /// Bytes of the body that are still to come, where that is known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        let state = self.lock();
        state.body.remaining().filter(|_| state.framing != Framing::Chunked)
    }
}

impl State {
    /// A request begins whose body ends as `framing` says.
    pub(super) fn begin(&mut self, framing: Framing, expects_continue: bool) {
        self.body.reset(framing);
        self.framing = framing;
        // RFC 9110 §10.1.1: no 100 to a client whose body is on its way already.
        if expects_continue && self.input.is_empty() {
            self.interim.tail().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }

    pub(super) fn broken(&self) -> Option<Error> {
        self.broken
    }

    /// Reads more; ready with 0 where the client has closed.
    pub(super) fn poll_fill(&mut self, room: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.capacity() == 0 {
            self.input = buffers::take();
        }
        if self.input.capacity() - self.input.len() < room / 2 {
            self.input.reserve(room);
        }
        let read = pin!(self.stream.read_buf(&mut self.input));
        let read = read.poll(cx);
        if read.is_pending() && self.input.is_empty() {
            // An idle connection holds no buffer.
            buffers::give(std::mem::take(&mut self.input));
        }
        read
    }

    /// Reads more of a head.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = self.input.len().max(READ);
        self.poll_fill(room, cx)
    }

    /// Ready when the client is gone, which nobody else notices while its request is with an upstream.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.body.is_done() && self.input.len() < AHEAD {
            if let Ok(1..) = ready!(self.poll_fill(READ, cx)) {
                continue;
            }
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Whether the body's end is reached with what was read already, the rest of it being forgotten.
    pub(super) fn discard_body(&mut self) -> bool {
        while !self.body.is_done() && self.broken.is_none() && !self.input.is_empty() {
            match self.body.decode(&self.input) {
                Ok(piece) => self.input.advance(piece.consumed),
                Err(error) => self.broken = Some(error),
            }
        }
        self.body.is_done()
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
        loop {
            if let Some(error) = self.broken {
                return Poll::Ready(Some(Err(error.into())));
            }
            if self.body.is_done() {
                return Poll::Ready(None);
            }
            if !self.input.is_empty() {
                match self.body.decode(&self.input) {
                    Ok(piece) => {
                        let taken = self.input.split_to(piece.consumed);
                        if !piece.data.is_empty() {
                            return Poll::Ready(Some(Ok(Frame::data(taken.freeze().slice(piece.data)))));
                        }
                        if piece.end {
                            return Poll::Ready(trailers(&self.body).map(|trailers| Ok(Frame::trailers(trailers))));
                        }
                    }
                    Err(error) => self.broken = Some(error),
                }
                continue;
            }
            ready!(self.interim.poll_flush(&mut *self.stream, cx))?;
            let room = self.body.remaining().and_then(|left| usize::try_from(left).ok());
            if ready!(self.poll_fill(room.unwrap_or(WINDOW).clamp(READ, WINDOW), cx))? == 0 {
                self.broken = Some(Error::Truncated);
            }
        }
    }
}

/// The trailers of a body that is over, where it has some.
pub(crate) fn trailers(body: &BodyDecoder) -> Option<HeaderMap> {
    let mut fields = HeaderMap::new();
    for (name, value) in body.trailers() {
        if let (Ok(name), Ok(value)) = (name.try_into(), value.try_into()) {
            let (name, value): (http::HeaderName, http::HeaderValue) = (name, value);
            fields.append(name, value);
        }
    }
    (!fields.is_empty()).then_some(fields)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;

    use http_body::Body as _;

    use super::*;
    use crate::body::{RequestBody, Streaming};

    #[tokio::test]
    async fn who_still_sends_a_body_gets_nothing_of_the_next_requests() {
        let (_client, server) = tokio::io::duplex(64);
        let wire = Wire::new(Box::new(server), BytesMut::from(&b"onesecret"[..]), http1::Limits::default());
        wire.lock().begin(Framing::Length(3), false);
        let body = RequestBody::new(Streaming::Codec(wire.clone()));
        let mut sender = body.reader(None);
        body.retire();
        assert!(wire.lock().discard_body());
        wire.lock().begin(Framing::Length(6), false);
        assert!(!sender.is_end_stream() && !body.sent());
        let frame = poll_fn(|cx| Pin::new(&mut sender).poll_frame(cx)).await;
        assert!(matches!(frame, Some(Err(_))), "{frame:?}");
        assert_eq!(wire.lock().input, &b"secret"[..]);
    }
}
