//! Answers that the mesh makes itself: problems (RFC 9457), or, to a gRPC caller, a status; each with its reason.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;
use routing::Reason;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The answer to a request with these header fields, for `reason`; `detail` says what it is about this request.
#[must_use]
pub fn answer(request: &HeaderMap, reason: Reason, detail: &str) -> Response<Full<Bytes>> {
    Caller::of(request).answer(reason, detail)
}

/// What a caller understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    Grpc,
    Other,
}

impl Caller {
    pub(super) fn of(request: &HeaderMap) -> Self {
        if is_grpc(request) { Self::Grpc } else { Self::Other }
    }

    pub(super) fn answer(self, reason: Reason, detail: &str) -> Response<Full<Bytes>> {
        match self {
            Self::Grpc => status(reason, detail),
            Self::Other => problem(reason, detail),
        }
    }
}

/// The problem (RFC 9457) that says so to callers of any kind.
#[must_use]
pub fn problem(reason: Reason, detail: &str) -> Response<Full<Bytes>> {
    let body = serde_json::json!({
        "type": reason.problem_type(),
        "title": reason.title(),
        "status": reason.status(),
        "detail": detail,
        "reason": reason.label(),
    });
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let content_type = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn is_grpc(request: &HeaderMap) -> bool {
    let content_type = request.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// A gRPC answer without messages has its status among the header fields ("Trailers-Only" in the protocol), and its HTTP status is
/// 200: callers take any other for a failure of something in between.
fn status(reason: Reason, detail: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    fields.insert(GRPC_STATUS, HeaderValue::from(code(reason)));
    let message: String = format!("{}: {detail}", reason.label()).bytes().map(escape).collect();
    fields.insert(
        GRPC_MESSAGE,
        HeaderValue::from_str(&message).expect("what is not visible ASCII is escaped"),
    );
    response
}

/// The gRPC code that stands for an HTTP status, as the protocol's own table has it where it says anything.
const fn code(reason: Reason) -> u16 {
    const INVALID_ARGUMENT: u16 = 3;
    const DEADLINE_EXCEEDED: u16 = 4;
    const PERMISSION_DENIED: u16 = 7;
    const UNIMPLEMENTED: u16 = 12;
    const INTERNAL: u16 = 13;
    const UNAVAILABLE: u16 = 14;
    const UNAUTHENTICATED: u16 = 16;
    match reason.status() {
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 | 501 => UNIMPLEMENTED,
        429 | 502 | 503 => UNAVAILABLE,
        504 => DEADLINE_EXCEEDED,
        400..=499 => INVALID_ARGUMENT,
        _ => INTERNAL,
    }
}

/// `grpc-message` is percent-encoded but for visible ASCII without `%`.
fn escape(byte: u8) -> String {
    match byte {
        b'%' => "%25".to_owned(),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    }
}

pin_project! {
    /// The body of an answer: the service's, or one that was made in front of it.
    #[project = Each]
    pub(super) enum Answer<B> {
        Theirs { #[pin] body: B },
        Ours { body: Full<Bytes> },
    }
}

impl<B> Body for Answer<B>
where
    B: Body,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project() {
            // What is bytes already is not copied by this.
            Each::Theirs { body } => body
                .poll_frame(cx)
                .map_ok(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))),
            Each::Ours { body } => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Theirs { body } => body.is_end_stream(),
            Self::Ours { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Theirs { body } => body.size_hint(),
            Self::Ours { body } => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_refusal_is_a_problem_with_its_reason() {
        let response = answer(&HeaderMap::new(), Reason::Forbidden, "no rule allows it");
        assert_eq!(
            (response.status().as_u16(), &response.headers()[CONTENT_TYPE]),
            (403, &"application/problem+json".parse().unwrap())
        );
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (&body["reason"], &body["detail"]),
            (&"forbidden".into(), &"no rule allows it".into())
        );
    }

    #[test]
    fn a_grpc_caller_gets_a_status_and_no_body() {
        let mut request = HeaderMap::new();
        request.insert(CONTENT_TYPE, "application/grpc+proto".parse().unwrap());
        let response = answer(&request, Reason::Forbidden, "100 % ä");
        let field = |name: HeaderName| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!((response.status(), field(GRPC_STATUS)), (StatusCode::OK, "7".to_owned()));
        assert_eq!(field(GRPC_MESSAGE), "forbidden: 100 %25 %C3%A4");
        assert!(response.body().is_end_stream());
        request.insert(CONTENT_TYPE, "application/grpcx".parse().unwrap());
        assert_eq!(answer(&request, Reason::Forbidden, "").status(), 403);
    }
}
