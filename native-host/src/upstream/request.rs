//! The request that an attempt sends: what the client sent, as the step says to change it.

mod parsed;

use bytes::Bytes;
use gateway::exchange::{self, Attempt, Inherit};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header};
use http_body::Body as _;
use http1::{Asked, Authority, Forward, Framing};

use super::by_codec::Sending;
use crate::body::AttemptBody;
use crate::inbound::{Head, Inbound};
use crate::reply::{codec_edit, lines};

/// An endpoint's own `Host`, as each codec takes it.
#[derive(Debug, Clone)]
pub(super) struct OwnHost {
    pub(super) value: HeaderValue,
    /// None where it is no host, to which nothing can be sent.
    authority: Option<Authority>,
}

impl OwnHost {
    pub(super) fn new(host: &str) -> Self {
        Self {
            value: HeaderValue::from_str(host).unwrap_or(HeaderValue::from_static("")),
            authority: Authority::new(host.as_bytes()),
        }
    }
}

/// Writes its head for a connection of our own codec. None where the step asks for what is no request.
pub(super) fn write(attempt: &Attempt, inbound: &Inbound, own: &OwnHost, out: &mut Vec<u8>) -> Option<Sending> {
    // `Connection` may name fields that end here, and those are found in a map; HTTP/2 has no such field.
    if let (Head::Parsed(head), Inherit::Request, None) = (&inbound.head, attempt.inherit, &attempt.method)
        && head.fields().all(|(name, _)| name != "connection")
    {
        return parsed::write(head, attempt, inbound, &own.value, out);
    }
    let (Head::Raw(head), Inherit::Request, None) = (&inbound.head, attempt.inherit, &attempt.method) else {
        return write_parsed(build(attempt, inbound, &own.value)?, out);
    };
    let body = body(attempt, inbound);
    let rewritten = match &attempt.host {
        Some(host) => Some(Authority::new(host.as_bytes())?),
        None => None,
    };
    let forward = Forward {
        target: attempt.target.as_ref().map(String::as_bytes),
        host: Some(rewritten.as_ref().or(own.authority.as_ref())?),
        body: match &body {
            AttemptBody::Empty if inbound.body.expected() => Some(framing(head.method(), &body)),
            AttemptBody::Whole(_) => Some(framing(head.method(), &body)),
            _ => None,
        },
        upgrade: None,
        // This server says `100 Continue` itself, as soon as it reads the body.
        expect: false,
    };
    let encoder = head.encode(&forward, attempt.edits.iter().map(codec_edit), out).ok()?;
    Some(Sending {
        encoder,
        body,
        asked: head.asked(),
    })
}

fn write_parsed(request: Request<AttemptBody>, out: &mut Vec<u8>) -> Option<Sending> {
    let (head, body) = request.into_parts();
    let method = head.method.as_str();
    let target = head.uri.path_and_query()?.as_str().as_bytes();
    let host = head.headers.get(header::HOST).map(HeaderValue::as_bytes).unwrap_or_default();
    let framing = match head.headers.contains_key(header::CONTENT_LENGTH) && body.is_end_stream() {
        true => Framing::Length(0),
        false => framing(method, &body),
    };
    let fields = lines(&head.headers);
    let encoder = http1::encode_request(method.as_bytes(), target, host, framing, fields, out).ok()?;
    Some(Sending {
        encoder,
        body,
        asked: if method == "HEAD" { Asked::Head } else { Asked::Plain },
    })
}

/// Where a body ends that is not framed as the client framed it.
fn framing(method: &str, body: &AttemptBody) -> Framing {
    match body.size_hint().exact() {
        // A server may wait for a body that POST and its like usually have (RFC 9110 §8.6).
        Some(0) if !matches!(method, "POST" | "PUT" | "PATCH") => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    }
}

/// Builds it for hyper and for the mesh. None where the step's target is no target.
pub(super) fn build(attempt: &Attempt, inbound: &Inbound, host: &HeaderValue) -> Option<Request<AttemptBody>> {
    let target = match &attempt.target {
        Some(target) => PathAndQuery::from_maybe_shared(Bytes::from(target.clone())).ok()?,
        None => inbound.head.target().parse().ok()?,
    };
    let method = match &attempt.method {
        Some(method) => method.clone(),
        None => Method::from_bytes(inbound.head.method().as_bytes()).ok()?,
    };
    let mut fields = match attempt.inherit {
        Inherit::Request => inherited(inbound.head.to_map()),
        Inherit::Nothing => HeaderMap::new(),
    };
    let body = body(attempt, inbound);
    if attempt.body == exchange::AttemptBody::Empty {
        fields.remove(header::CONTENT_LENGTH);
        if let Framing::Length(length) = framing(method.as_str(), &body) {
            fields.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
    }
    gateway::apply(&attempt.edits, &mut fields);
    fields.insert(header::HOST, attempt.host.as_ref().unwrap_or(host).clone());
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from(target);
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = fields;
    Some(request)
}

fn body(attempt: &Attempt, inbound: &Inbound) -> AttemptBody {
    match attempt.body {
        exchange::AttemptBody::Request => inbound.body.reader(attempt.max_body),
        exchange::AttemptBody::Empty => AttemptBody::Empty,
    }
}

/// The client's fields that go on. `Expect` ends here: this server says `100 Continue` itself, as soon as it reads the body.
fn inherited(mut fields: HeaderMap) -> HeaderMap {
    gateway::strip_hop_by_hop(&mut fields);
    fields.remove(header::EXPECT);
    fields
}
