//! The request as it came in, and what of it goes out with an attempt.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use gateway::exchange::{Arrival, Attempt, AttemptBody, BodyRead, Entropy, Inherit};
use gateway::{apply, strip_hop_by_hop};
use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, request};
use routing::{Now, RequestHead, Scheme};
use spin_sdk::http::Request;
use spin_sdk::wasip3::http::types::ErrorCode;

use super::body::Incoming;

const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Fields that Spin adds to a request for its guests: the client's address, and the application's own routes and paths.
const SPIN: &str = "spin-";

/// The field with the client's address.
const CLIENT: &str = "spin-client-addr";

/// A request, its body in one of its states.
pub(super) struct Inbound {
    head: request::Parts,
    authority: String,
    target: String,
    peer: Option<IpAddr>,
    has_body: bool,
    body: Body,
}

enum Body {
    Unread(Incoming),
    Read(Bytes),
    /// There is none, an attempt took it, or reading it failed.
    Gone,
}

/// What an attempt sends, but for where.
pub(super) struct Outbound {
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) fields: HeaderMap,
    pub(super) body: Sent,
    /// Whether the same request could be sent once more.
    pub(super) replayable: bool,
}

/// The body that an attempt sends.
pub(super) enum Sent {
    Nothing,
    Whole(Bytes),
    /// As it comes, up to so many bytes where there is a limit.
    Stream(Incoming, Option<u64>),
}

impl Inbound {
    /// Takes a request over from the host, which can wait for its body to begin.
    pub(super) async fn new(request: Request) -> Result<Self, ErrorCode> {
        let (mut head, mut body) = request.into_parts();
        let peer = client(&head.headers);
        let own: Vec<HeaderName> = head
            .headers
            .keys()
            .filter(|name| name.as_str().starts_with(SPIN))
            .cloned()
            .collect();
        for name in own {
            head.headers.remove(name);
        }
        // `wasmtime serve` tells its guests neither an authority nor a `Host`: there, no route that names hosts matches.
        let authority = match head.uri.authority() {
            Some(authority) => authority.as_str().to_owned(),
            None => head
                .headers
                .get(HOST)
                .and_then(|host| host.to_str().ok())
                .unwrap_or_default()
                .to_owned(),
        };
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let announced = announced(&head.method, &head.headers);
        // The body of a request without one is not asked for: that alone would be an event from the host.
        let body = body
            .take_unstarted()
            .filter(|_| announced != Some(false))
            .map(Incoming::of_request);
        let body = match body {
            Some(body) if announced.is_none() => body.begun().await?,
            body => body,
        };
        Ok(Self {
            head,
            authority,
            target,
            peer,
            has_body: body.is_some(),
            body: body.map_or(Body::Gone, Body::Unread),
        })
    }

    /// The event that starts its exchange.
    pub(super) fn arrival(&self, now: Now, entropy: Entropy) -> Arrival<'_> {
        let https = self.head.uri.scheme() == Some(&http::uri::Scheme::HTTPS);
        Arrival {
            head: RequestHead {
                method: self.head.method.as_str(),
                scheme: if https { Scheme::Https } else { Scheme::Http },
                authority: &self.authority,
                target: &self.target,
                fields: &self.head.headers,
                peer: self.peer,
            },
            has_body: self.has_body,
            now,
            entropy,
        }
    }

    /// Reads the body and keeps it for the attempts.
    pub(super) async fn read(&mut self, limit: u64) -> BodyRead {
        let read = match std::mem::replace(&mut self.body, Body::Gone) {
            Body::Unread(body) => body.read(limit).await,
            Body::Read(bytes) => BodyRead::Whole(bytes),
            Body::Gone => BodyRead::Broken,
        };
        if let BodyRead::Whole(bytes) = &read {
            self.body = Body::Read(bytes.clone());
        }
        read
    }

    /// Whether all that `attempt` would send is still here.
    pub(super) fn is_whole(&self, attempt: &Attempt) -> bool {
        !self.has_body || attempt.body == AttemptBody::Empty || !matches!(self.body, Body::Gone)
    }

    /// What `attempt` sends. A body that was not read goes with the first attempt that asks for it.
    pub(super) fn outbound(&mut self, attempt: &Attempt) -> Outbound {
        let mut fields = match attempt.inherit {
            Inherit::Request => self.head.headers.clone(),
            Inherit::Nothing => HeaderMap::new(),
        };
        strip_hop_by_hop(&mut fields);
        let (body, replayable) = match attempt.body {
            AttemptBody::Request if self.has_body => match std::mem::replace(&mut self.body, Body::Gone) {
                Body::Unread(body) => (Sent::Stream(body, attempt.max_body), false),
                Body::Read(bytes) => {
                    self.body = Body::Read(bytes.clone());
                    (Sent::Whole(bytes), true)
                }
                Body::Gone => (Sent::Nothing, false),
            },
            AttemptBody::Request | AttemptBody::Empty => (Sent::Nothing, true),
        };
        let method = attempt.method.clone().unwrap_or_else(|| self.head.method.clone());
        apply(&attempt.edits, &mut fields);
        if matches!(body, Sent::Nothing) {
            fields.remove(CONTENT_LENGTH);
            // A host cannot tell a body that is empty from one that has not begun, and would send its end as a chunk to a server
            // that may not expect one.
            if !matches!(method, Method::GET | Method::HEAD) {
                fields.insert(CONTENT_LENGTH, HeaderValue::from(0));
            }
        }
        // The host makes `Host` of the URI, so another one has to travel beside it.
        fields.remove(HOST);
        if let Some(host) = &attempt.host {
            fields.entry(FORWARDED_HOST).or_insert_with(|| host.clone());
        }
        Outbound {
            method,
            target: attempt.target.clone().unwrap_or_else(|| self.target.clone()),
            fields,
            body,
            replayable,
        }
    }
}

/// Spin appends the address that the connection came from to what the client sent under that name, so only the last one is
/// Spin's word. No other host says one.
fn client(fields: &HeaderMap) -> Option<IpAddr> {
    if !cfg!(feature = "spin") {
        return None;
    }
    let last = fields.get_all(CLIENT).iter().next_back()?.to_str().ok()?;
    let address = last.rsplit(',').next()?.trim();
    address
        .parse::<SocketAddr>()
        .map(|address| address.ip())
        .or_else(|_| address.parse())
        .ok()
}

/// Whether there is a body, as far as a request's head says so. A host says nothing about one that it streams but its length, where it
/// knows that; without a length, some methods usually have one and some may.
fn announced(method: &Method, fields: &HeaderMap) -> Option<bool> {
    match (fields.get(CONTENT_LENGTH), method) {
        (Some(length), _) => Some(length.as_bytes() != b"0"),
        (None, &(Method::GET | Method::HEAD | Method::TRACE | Method::CONNECT)) => Some(false),
        (None, &(Method::DELETE | Method::OPTIONS)) => None,
        (None, _) => Some(true),
    }
}
