//! Bodies: what is sent, in a form that knows whether it can be sent again, and what comes back.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures_util::FutureExt as _;
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use super::load::InFlight;
use crate::BoxError;

/// The body of a request.
///
/// One that is empty or whole in memory can be sent again after a failure; one that streams cannot.
#[derive(Default)]
pub struct Body(Kind);

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Full(Bytes),
    Stream(UnsyncBoxBody<Bytes, BoxError>),
}

impl Body {
    /// No body.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// A body that is whole in memory.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self(if bytes.is_empty() { Kind::Empty } else { Kind::Full(bytes) })
    }

    /// Any body. One that has ended, a `Full<Bytes>` and a [`Body`] are recognised; every other is streamed.
    pub fn new<B>(body: B) -> Self
    where
        B: http_body::Body + Send + 'static,
        B::Data: Buf + Send,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() {
            return Self::empty();
        }
        let mut body = Some(body);
        let known = &mut body as &mut dyn Any;
        if let Some(body) = known.downcast_mut::<Option<Self>>().and_then(Option::take) {
            return body;
        }
        if let Some(full) = known.downcast_mut::<Option<Full<Bytes>>>().and_then(Option::take) {
            // A `Full` is ready at once and cannot fail.
            let collected = full.collect().now_or_never().and_then(Result::ok);
            return Self::full(collected.map(|whole| whole.to_bytes()).unwrap_or_default());
        }
        body.map_or_else(Self::empty, |body| {
            let bytes = body.map_frame(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining())));
            Self(Kind::Stream(bytes.map_err(Into::into).boxed_unsync()))
        })
    }

    /// The same body once more, where that is possible.
    #[must_use]
    pub fn again(&self) -> Option<Self> {
        match &self.0 {
            Kind::Empty => Some(Self::empty()),
            Kind::Full(bytes) => Some(Self(Kind::Full(bytes.clone()))),
            Kind::Stream(_) => None,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let kind = &mut self.get_mut().0;
        match kind {
            Kind::Stream(body) => Pin::new(body).poll_frame(cx),
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *kind = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Full(_) => false,
            Kind::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Stream(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Empty => f.write_str("Empty"),
            Kind::Full(bytes) => write!(f, "Full({} bytes)", bytes.len()),
            Kind::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// The body of a response: a stream of frames, with simple ways to take it whole.
pub struct ResponseBody(Answer);

enum Answer {
    /// An endpoint's. It counts as under way until it is read or dropped.
    Theirs { incoming: Incoming, _in_flight: Box<InFlight> },
    /// One that was made here.
    Ours(Full<Bytes>),
}

/// What [`ResponseBody::bytes`] takes at most.
const WHOLE: usize = 16 << 20;

impl ResponseBody {
    pub(super) fn new(incoming: Incoming, in_flight: InFlight) -> Self {
        Self(Answer::Theirs {
            incoming,
            _in_flight: Box::new(in_flight),
        })
    }

    pub(super) const fn ours(body: Full<Bytes>) -> Self {
        Self(Answer::Ours(body))
    }

    /// The whole body, of 16 MiB at most.
    ///
    /// # Errors
    /// [`BodyError`] where it is longer, or ends before it is whole.
    pub async fn bytes(self) -> Result<Bytes, BodyError> {
        self.bytes_up_to(WHOLE).await
    }

    /// The whole body, of `limit` bytes at most.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    pub async fn bytes_up_to(self, limit: usize) -> Result<Bytes, BodyError> {
        match Limited::new(self, limit).collect().await {
            Ok(whole) => Ok(whole.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(BodyError::TooLong(limit)),
            Err(error) => Err(BodyError::Broken(error)),
        }
    }

    /// The whole body as text.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes), and where it is not UTF-8.
    pub async fn text(self) -> Result<String, BodyError> {
        String::from_utf8(self.bytes().await?.into()).map_err(|_| BodyError::NotText)
    }

    /// The whole body, read as JSON.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes), and where it is not the JSON of a `T`.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T, BodyError> {
        Ok(serde_json::from_slice(&self.bytes().await?)?)
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Answer::Theirs { incoming, .. } => Pin::new(incoming).poll_frame(cx),
            Answer::Ours(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Answer::Theirs { incoming, .. } => incoming.is_end_stream(),
            Answer::Ours(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Answer::Theirs { incoming, .. } => incoming.size_hint(),
            Answer::Ours(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseBody")
    }
}

/// Why a body could not be taken whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The connection ended first.
    #[error("the body ended before it was whole: {0}")]
    Broken(#[source] BoxError),
    /// More than the limit.
    #[error("the body is longer than {0} bytes")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("the body is not UTF-8")]
    NotText,
    /// Not JSON, or not of that type.
    #[error("the body is not the JSON that was expected: {0}")]
    Json(#[from] serde_json::Error),
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::{Empty, StreamBody};

    use super::*;

    #[test]
    fn what_is_whole_in_memory_can_be_sent_again() {
        for body in [
            Body::new(Full::new(Bytes::from("x"))),
            Body::new(Body::full("x")),
            Body::new(Body::new(Full::new(Bytes::from("x")))),
        ] {
            assert_eq!(format!("{:?} {:?}", body, body.again()), "Full(1 bytes) Some(Full(1 bytes))");
        }
        assert!(
            Body::new(Empty::<Bytes>::new())
                .again()
                .is_some_and(|body| body.is_end_stream())
        );
    }

    #[tokio::test]
    async fn a_stream_cannot_be_sent_again_and_arrives_whole() {
        let frames = futures_util::stream::iter(["a", "b"].map(|data| Ok::<_, std::io::Error>(Frame::data(Bytes::from(data)))));
        let body = Body::new(StreamBody::new(frames));
        assert!(body.again().is_none());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "ab");
    }

    #[tokio::test]
    async fn a_full_body_is_sent_once_by_each_copy() {
        let body = Body::full("ab");
        assert_eq!(body.size_hint().exact(), Some(2));
        let again = body.again().unwrap();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "ab");
        assert_eq!(again.collect().await.unwrap().to_bytes(), "ab");
    }
}
