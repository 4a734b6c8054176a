//! WebSockets between HTTP/1.1 at the programs (RFC 6455) and HTTP/2 in the mesh (RFC 8441).
//!
//! Only the opening is looked at. What follows it is bytes, frames of the two ends that nobody in between reads.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::ext::Protocol;

use super::fields::items;

const WEBSOCKET: &str = "websocket";
/// RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// How an opening came, which says how it is answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// By HTTP/1.1; what proves to the client that its opening was understood.
    Http1 { accept: HeaderValue },
    /// By HTTP/2.
    Http2,
}

impl Opening {
    /// What `request` opens; nothing where it is any other request.
    pub(super) fn of<B>(request: &Request<B>) -> Option<Result<Self, &'static str>> {
        if request.method() == Method::CONNECT {
            let protocol = request.extensions().get::<Protocol>()?;
            return (protocol.as_str() == WEBSOCKET).then_some(Ok(Self::Http2));
        }
        let names = |field: &HeaderName, name: &str| {
            items(request.headers(), field).any(|item| item.eq_ignore_ascii_case(name.as_bytes()))
        };
        if request.method() != Method::GET || !names(&UPGRADE, WEBSOCKET) || !names(&CONNECTION, "upgrade") {
            return None;
        }
        Some(match request.headers().get(SEC_WEBSOCKET_KEY) {
            Some(key) => Ok(Self::Http1 { accept: accept(key) }),
            None => Err("a WebSocket is opened with Sec-WebSocket-Key (RFC 6455 §4.1)"),
        })
    }

    /// The answer that the WebSocket is open, from the fields of the one that came from beyond.
    pub(super) fn opened<B>(self, mut fields: HeaderMap, body: B) -> Response<B> {
        let mut response = Response::new(body);
        if let Self::Http1 { accept } = self {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            fields.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
            fields.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        *response.headers_mut() = fields;
        response
    }
}

/// Makes an opening one of HTTP/2 (RFC 8441 §5). Connection-specific fields have been taken out.
pub(super) fn to_http2<B>(request: &mut Request<B>) {
    *request.method_mut() = Method::CONNECT;
    *request.version_mut() = Version::HTTP_2;
    request.extensions_mut().insert(Protocol::from_static(WEBSOCKET));
    request.headers_mut().remove(SEC_WEBSOCKET_KEY);
}

/// Makes an opening one of HTTP/1.1 (RFC 6455 §4.1) with a key of its own, and says what the answer has to prove.
pub(super) fn to_http1<B>(request: &mut Request<B>, random: [u8; 16]) -> HeaderValue {
    let key = HeaderValue::from_str(&STANDARD.encode(random)).expect("base64 is visible ASCII");
    let expected = accept(&key);
    *request.method_mut() = Method::GET;
    *request.version_mut() = Version::HTTP_11;
    request.extensions_mut().remove::<Protocol>();
    let fields = request.headers_mut();
    fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    fields.insert(SEC_WEBSOCKET_KEY, key);
    fields.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
    expected
}

/// Whether the program's answer opens the WebSocket (RFC 6455 §4.1).
pub(super) fn is_opened<B>(response: &Response<B>, expected: &HeaderValue) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS
        && response.headers().get(SEC_WEBSOCKET_ACCEPT) == Some(expected)
        && items(response.headers(), &UPGRADE).any(|item| item.eq_ignore_ascii_case(WEBSOCKET.as_bytes()))
}

fn accept(key: &HeaderValue) -> HeaderValue {
    let proof = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), GUID].concat());
    HeaderValue::from_str(&STANDARD.encode(proof)).expect("base64 is visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(fields: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri("http://chat.mesh/room");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");

    #[test]
    fn the_key_of_the_rfc_has_the_proof_of_the_rfc() {
        let request = opening(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket"), KEY]);
        let accept = HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(Opening::of(&request), Some(Ok(Opening::Http1 { accept: accept.clone() })));
        let opened = Opening::Http1 { accept: accept.clone() }.opened(HeaderMap::new(), ());
        assert!(is_opened(&opened, &accept));
        assert!(!is_opened(&opened, &HeaderValue::from_static("x")));
        assert!(!is_opened(&Response::new(()), &accept), "200 opens nothing");
    }

    #[test]
    fn other_requests_open_nothing() {
        let connection = ("connection", "upgrade");
        for fields in [
            &[connection, KEY][..],
            &[("upgrade", "websocket"), KEY],
            &[connection, ("upgrade", "h2c"), KEY],
        ] {
            assert_eq!(Opening::of(&opening(fields)), None, "{fields:?}");
        }
        let mut post = opening(&[connection, ("upgrade", "websocket"), KEY]);
        *post.method_mut() = Method::POST;
        assert_eq!(Opening::of(&post), None);
        *post.method_mut() = Method::CONNECT;
        assert_eq!(Opening::of(&post), None, "a tunnel");
        post.extensions_mut().insert(Protocol::from_static("connect-udp"));
        assert_eq!(Opening::of(&post), None, "a tunnel of another kind");
        let keyless = opening(&[connection, ("upgrade", "websocket")]);
        assert!(Opening::of(&keyless).unwrap().is_err());
    }

    #[test]
    fn an_opening_crosses_the_mesh_and_comes_out_as_one() {
        let mut request = opening(&[("sec-websocket-protocol", "chat"), KEY]);
        to_http2(&mut request);
        assert_eq!(Opening::of(&request), Some(Ok(Opening::Http2)));
        assert!(!request.headers().contains_key(SEC_WEBSOCKET_KEY));
        let expected = to_http1(&mut request, [7; 16]);
        let Some(Ok(Opening::Http1 { accept })) = Opening::of(&request) else {
            panic!("{request:?}");
        };
        assert_eq!(accept, expected);
        assert_eq!(request.headers()["sec-websocket-protocol"], "chat");
        assert_eq!(request.headers()[SEC_WEBSOCKET_VERSION], "13");
    }
}
