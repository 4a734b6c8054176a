//! The bodies that pass through: a client's request, which several attempts may want, and an answer, which ends its own log
//! line.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gateway::exchange::BodyRead;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use wasmtime_wasi_http::WasiBody;

use crate::access_log::Record;
use crate::listener::{InFlight, Wire};
use crate::upstream::UpstreamBody;

/// What any body fails with.
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// An answer's body.
#[derive(Debug)]
pub(crate) struct Body {
    content: Content,
    record: Option<Box<Record>>,
    in_flight: Option<InFlight>,
}

/// Where an answer's bytes come from.
#[derive(Debug)]
enum Content {
    /// From us: all at once.
    Whole(Option<Bytes>),
    /// From an upstream.
    Upstream(UpstreamBody),
    /// From a component that answers whole requests.
    Component(WasiBody),
}

impl Body {
    /// Bytes of our own.
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self::new(Content::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }

    /// An upstream's bytes as they come.
    pub(crate) fn upstream(body: UpstreamBody) -> Self {
        Self::new(Content::Upstream(body))
    }

    /// A component's bytes as they come.
    pub(crate) fn component(body: WasiBody) -> Self {
        Self::new(Content::Component(body))
    }

    /// Goes on sending what is left of the request that this is the answer to, while nobody takes the answer.
    pub(crate) fn go_on_sending(&mut self, cx: &mut Context<'_>) {
        if let Content::Upstream(body) = &mut self.content {
            body.go_on_sending(cx);
        }
    }

    fn new(content: Content) -> Self {
        Self {
            content,
            record: None,
            in_flight: None,
        }
    }

    /// Writes the log line when the body ends, and keeps its request in flight until then.
    pub(crate) fn recorded(mut self, record: Box<Record>, in_flight: InFlight) -> Self {
        self.record = Some(record);
        self.in_flight = Some(in_flight);
        self
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let frame = match &mut this.content {
            Content::Whole(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Content::Upstream(body) => ready!(Pin::new(body).poll_frame(cx)),
            Content::Component(body) => ready!(Pin::new(body).poll_frame(cx)).map(|frame| frame.map_err(Error::from)),
        };
        if let Some(record) = &mut this.record {
            match &frame {
                Some(Ok(frame)) => record.sent(frame.data_ref().map_or(0, Bytes::len)),
                Some(Err(_)) => record.broke(),
                None => {}
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_none(),
            Content::Upstream(body) => body.is_end_stream(),
            Content::Component(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Content::Upstream(body) => body.size_hint(),
            Content::Component(body) => body.size_hint(),
        }
    }
}

/// A client's body, which stays here while one attempt after the other is given it to send.
#[derive(Debug, Clone)]
pub(crate) enum RequestBody {
    /// There is none.
    None,
    /// There is one.
    Some(Shared),
}

/// A body and who reads it.
#[derive(Debug, Clone)]
pub(crate) struct Shared(Arc<Mutex<Source>>);

#[derive(Debug)]
enum Source {
    /// It comes as the client sends it; once some of it was taken it cannot be given again.
    Stream {
        body: Streaming,
        touched: bool,
        ended: bool,
        reader: u32,
        /// What the client did wrong, where it did.
        fault: Option<Fault>,
    },
    /// A policy read it.
    Whole(Bytes),
    /// Its exchange is over.
    Gone,
}

/// What is wrong with a body that a client sends, and with nobody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It broke off, or breaks the protocol.
    Broken,
    /// It is longer than it may be.
    TooLong,
}

/// A body that the client is sending.
#[derive(Debug)]
pub(crate) enum Streaming {
    /// Through hyper.
    Hyper(Incoming),
    /// Through our own codec.
    Codec(Wire),
}

impl Streaming {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self {
            Self::Hyper(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(Error::from))),
            Self::Codec(wire) => wire.poll_body(cx),
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Hyper(body) => body.is_end_stream(),
            Self::Codec(wire) => wire.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hyper(body) => body.size_hint(),
            Self::Codec(wire) => wire.remaining().map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl RequestBody {
    pub(crate) fn new(body: Streaming) -> Self {
        if body.is_over() {
            return Self::None;
        }
        Self::Some(Shared(Arc::new(Mutex::new(Source::Stream {
            body,
            touched: false,
            ended: false,
            reader: 0,
            fault: None,
        }))))
    }

    /// Whether it can be sent from its beginning.
    pub(crate) fn replayable(&self) -> bool {
        let Self::Some(shared) = self else { return true };
        match &*shared.lock() {
            Source::Stream { touched, .. } => !touched,
            Source::Whole(_) => true,
            Source::Gone => false,
        }
    }

    /// Whether all of it is out of our hands.
    pub(crate) fn sent(&self) -> bool {
        let Self::Some(shared) = self else { return true };
        match &*shared.lock() {
            Source::Stream { body, ended, .. } => *ended || body.is_over(),
            Source::Whole(_) => true,
            Source::Gone => false,
        }
    }

    /// Gives nobody any more of it. Whoever sends it may outlive its exchange (hyper's tasks do), and what comes behind it on the
    /// same connection is another request's.
    pub(crate) fn retire(&self) {
        if let Self::Some(shared) = self {
            *shared.lock() = Source::Gone;
        }
    }

    /// What is wrong with what the client sent of it so far.
    pub(crate) fn fault(&self) -> Option<Fault> {
        let Self::Some(shared) = self else { return None };
        match &*shared.lock() {
            Source::Stream { fault, .. } => *fault,
            Source::Whole(_) | Source::Gone => None,
        }
    }

    /// Whether there is one at all.
    pub(crate) fn expected(&self) -> bool {
        matches!(self, Self::Some(_))
    }

    /// Reads all of it, if it is no longer than `limit` and comes within that time, and keeps it.
    pub(crate) async fn read(&self, limit: u64, within: Duration) -> BodyRead {
        let reading = tokio::time::timeout(within, read_whole(self.reader(None), limit));
        let read = reading.await.unwrap_or(BodyRead::Broken);
        if let (Self::Some(shared), BodyRead::Whole(bytes)) = (self, &read) {
            *shared.lock() = Source::Whole(bytes.clone());
        }
        read
    }

    /// The body for one attempt, which breaks off where it is longer than this. Whoever had it before gets no more of it.
    pub(crate) fn reader(&self, at_most: Option<u64>) -> AttemptBody {
        let Self::Some(shared) = self else {
            return AttemptBody::Empty;
        };
        match &mut *shared.lock() {
            Source::Whole(bytes) => AttemptBody::Whole(bytes.clone()),
            Source::Gone => AttemptBody::Empty,
            Source::Stream { reader, .. } => {
                *reader += 1;
                AttemptBody::Stream {
                    source: shared.clone(),
                    reader: *reader,
                    left: at_most.unwrap_or(u64::MAX),
                }
            }
        }
    }
}

impl Shared {
    /// The mutex is held only inside of one poll, and by one thread: it is there because the mesh's bodies must be `Send`.
    fn lock(&self) -> std::sync::MutexGuard<'_, Source> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body that an attempt sends.
#[derive(Debug)]
pub(crate) enum AttemptBody {
    /// None.
    Empty,
    /// All at once; empty once it was given.
    Whole(Bytes),
    /// The client's, as it comes.
    Stream { source: Shared, reader: u32, left: u64 },
}

/// Another attempt was given the body meanwhile, or the exchange is over.
#[derive(Debug, thiserror::Error)]
#[error("the request's body went to a later attempt, or is over")]
struct Superseded;

/// The client sends more than it may.
#[derive(Debug, thiserror::Error)]
#[error("the request's body is longer than its route accepts")]
struct TooLong;

impl http_body::Body for AttemptBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream { source, reader, left } => match &mut *source.lock() {
                Source::Stream {
                    body,
                    touched,
                    ended,
                    reader: current,
                    fault,
                } if current == reader => {
                    let frame = ready!(body.poll_frame(cx));
                    *touched = true;
                    *ended = frame.is_none();
                    let length = match &frame {
                        Some(Ok(frame)) => frame.data_ref().map_or(0, |data| data.len() as u64),
                        Some(Err(_)) => {
                            *fault = Some(Fault::Broken);
                            0
                        }
                        None => 0,
                    };
                    let Some(rest) = left.checked_sub(length) else {
                        *fault = Some(Fault::TooLong);
                        return Poll::Ready(Some(Err(TooLong.into())));
                    };
                    *left = rest;
                    Poll::Ready(frame)
                }
                _ => Poll::Ready(Some(Err(Superseded.into()))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Stream { source, .. } => match &*source.lock() {
                Source::Stream { body, ended, .. } => *ended || body.is_over(),
                Source::Whole(_) | Source::Gone => false,
            },
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream { source, .. } => match &*source.lock() {
                Source::Stream { body, .. } => body.size_hint(),
                Source::Whole(_) | Source::Gone => SizeHint::default(),
            },
        }
    }
}

/// Reads an upstream's answer for the exchange, if it is no longer than `limit`.
pub(crate) async fn read_whole<B>(body: B, limit: u64) -> BodyRead
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let mut body = body;
    if body.size_hint().lower() > limit {
        return BodyRead::TooLarge;
    }
    let mut bytes = BytesMut::new();
    loop {
        match std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            None => return BodyRead::Whole(bytes.freeze()),
            Some(Err(_)) => return BodyRead::Broken,
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                if (bytes.len() + data.len()) as u64 > limit {
                    return BodyRead::TooLarge;
                }
                bytes.extend_from_slice(&data);
            }
        }
    }
}
