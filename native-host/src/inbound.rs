//! A client's request as the driver has it, whichever codec read it, and what is refused before any policy sees it.

use std::cell::Cell;
use std::net::SocketAddr;

use gateway::exchange::UpstreamId;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version, header};
use hyper::body::Incoming;
use routing::{Fields, Scheme};

use crate::body::{RequestBody, Streaming};
use crate::listener::{Client, Wire};
use crate::options::Limits;
use crate::refusal::Refusal;

/// A client's request.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) head: Head,
    pub(crate) scheme: Scheme,
    /// Where it came from.
    pub(crate) client: SocketAddr,
    pub(crate) body: RequestBody,
    /// The endpoint that was tried last.
    pub(crate) tried: Cell<Option<(UpstreamId, u32)>>,
}

/// A request's head.
#[derive(Debug, Clone)]
pub(crate) enum Head {
    /// As hyper takes it apart.
    Parsed(Parsed),
    /// As it came, with an index over it.
    Raw(Box<http1::RequestHead>),
}

/// A head in its parts.
#[derive(Debug, Clone)]
pub(crate) struct Parsed {
    method: Method,
    /// `Host` or `:authority`, as it came.
    authority: String,
    /// Path and query, as they came.
    target: PathAndQuery,
    fields: HeaderMap,
}

impl Parsed {
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))
    }
}

impl Head {
    pub(crate) fn method(&self) -> &str {
        match self {
            Self::Parsed(head) => head.method.as_str(),
            Self::Raw(head) => head.method(),
        }
    }

    /// The host that it is for, port included; empty where it names none.
    pub(crate) fn authority(&self) -> &str {
        match self {
            Self::Parsed(head) => &head.authority,
            Self::Raw(head) => head.authority(),
        }
    }

    /// Path and query.
    pub(crate) fn target(&self) -> &str {
        match self {
            Self::Parsed(head) => head.target.as_str(),
            Self::Raw(head) => head.path(),
        }
    }

    /// The path, for messages: a query may hold what should not be written down.
    pub(crate) fn path(&self) -> &str {
        path_of(self.target())
    }

    /// All fields as a map.
    pub(crate) fn to_map(&self) -> HeaderMap {
        match self {
            Self::Parsed(head) => head.fields.clone(),
            Self::Raw(head) => map(head.fields()),
        }
    }
}

impl Fields for Head {
    fn nth(&self, name: &str, nth: usize) -> Option<&[u8]> {
        match self {
            // A map would read the name first, and hash it: 270 instructions each time, and a request has six such questions and
            // seldom more than twenty fields.
            Self::Parsed(head) => {
                let mut named = head.fields().filter(|(own, _)| own.eq_ignore_ascii_case(name));
                named.nth(nth).map(|(_, value)| value)
            }
            Self::Raw(head) => head.nth(name, nth),
        }
    }
}

/// A target without its query.
pub(crate) fn path_of(target: &str) -> &str {
    let end = target.bytes().position(|byte| byte == b'?');
    &target[..end.unwrap_or(target.len())]
}

/// The map of fields that a codec has checked.
pub(crate) fn map<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> HeaderMap {
    fields
        .filter_map(|(name, value)| Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?)))
        .collect()
}

impl Inbound {
    /// Takes a request in that hyper read, unless the way it is framed or addressed is refused.
    pub(crate) fn admit(
        request: Request<Incoming>,
        client: Client,
        framed_twice: bool,
        limits: &Limits,
    ) -> Result<Self, Refusal> {
        if framed_twice {
            // RFC 9112 §6.1 allows it and says that it ought to be handled as an error.
            return Err(Refusal::malformed(
                "the request has both Content-Length and Transfer-Encoding",
            ));
        }
        let (mut head, body) = request.into_parts();
        if head.method == Method::CONNECT {
            return Err(Refusal::tunnel());
        }
        let target = head.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        if target.as_str().len() > limits.target_bytes {
            return Err(Refusal::target_too_long());
        }
        let authority = authority(&head.uri, &head.headers, head.version)?;
        if head.version == Version::HTTP_2 {
            join_cookies(&mut head.headers);
        }
        let head = Head::Parsed(Parsed {
            method: head.method,
            authority,
            target,
            fields: head.headers,
        });
        Ok(Self::new(head, client, RequestBody::new(Streaming::Hyper(body))))
    }

    /// Takes a request in that the codec read and found well-formed; its body comes by the wire.
    pub(crate) fn admit_raw(head: Box<http1::RequestHead>, client: Client, wire: &Wire) -> Result<Self, Refusal> {
        if head.form() == http1::Form::Authority {
            return Err(Refusal::tunnel());
        }
        let body = match head.framing() {
            http1::Framing::None | http1::Framing::Length(0) => RequestBody::None,
            _ => RequestBody::new(Streaming::Codec(wire.clone())),
        };
        Ok(Self::new(Head::Raw(head), client, body))
    }

    fn new(head: Head, client: Client, body: RequestBody) -> Self {
        Self {
            head,
            scheme: client.scheme,
            client: client.address,
            body,
            tried: Cell::new(None),
        }
    }

    /// The place of the endpoint of this upstream that was tried last.
    pub(crate) fn tried_at(&self, upstream: UpstreamId) -> Option<u32> {
        self.tried
            .get()
            .filter(|(tried, _)| *tried == upstream)
            .map(|(_, place)| place)
    }
}

/// The authority that the request is for: the target's own where it has one (RFC 9112 §3.2.2), else `Host`, of which there has
/// to be exactly one in HTTP/1.1 (§3.2).
fn authority(uri: &http::Uri, fields: &HeaderMap, version: Version) -> Result<String, Refusal> {
    let mut hosts = fields.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::malformed("the request has more than one Host"));
    }
    if let Some(authority) = uri.authority() {
        return Ok(authority.as_str().to_owned());
    }
    match host.map(HeaderValue::to_str) {
        Some(Ok(host)) => Ok(host.to_owned()),
        Some(Err(_)) => Err(Refusal::malformed("the request's Host is no host")),
        None if version == Version::HTTP_11 => Err(Refusal::malformed("the request has no Host")),
        None => Ok(String::new()),
    }
}

/// HTTP/2 may split the cookie field for compression; HTTP/1.1 knows only one (RFC 9113 §8.2.3).
fn join_cookies(fields: &mut HeaderMap) {
    let mut cookies = fields.get_all(header::COOKIE).iter();
    if cookies.nth(1).is_none() {
        return;
    }
    let parts: Vec<&[u8]> = fields.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        fields.insert(header::COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(list: &[&'static str]) -> HeaderMap {
        list.iter()
            .map(|host| (header::HOST, HeaderValue::from_static(host)))
            .collect()
    }

    #[test]
    fn the_targets_own_authority_wins_over_host() {
        let uri = "http://a.example/x".parse().unwrap();
        assert_eq!(
            authority(&uri, &hosts(&["b.example"]), Version::HTTP_11).unwrap(),
            "a.example"
        );
    }

    #[test]
    fn http_11_has_exactly_one_host() {
        let uri = "/x".parse().unwrap();
        assert!(authority(&uri, &hosts(&[]), Version::HTTP_11).is_err());
        assert!(authority(&uri, &hosts(&["a", "b"]), Version::HTTP_11).is_err());
        assert_eq!(authority(&uri, &hosts(&[]), Version::HTTP_10).unwrap(), "");
    }

    #[test]
    fn a_field_is_found_by_its_name_in_any_case_and_by_its_place() {
        let fields = [("x-a", "1"), ("x-b", "2"), ("x-a", "3")];
        let head = Head::Parsed(Parsed {
            method: Method::GET,
            authority: String::new(),
            target: PathAndQuery::from_static("/"),
            fields: fields
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .into_iter()
                .collect(),
        });
        let nth = |name, place| head.nth(name, place).map(<[u8]>::to_vec);
        assert_eq!(nth("X-A", 0).as_deref(), Some(&b"1"[..]));
        assert_eq!(nth("x-a", 1).as_deref(), Some(&b"3"[..]));
        assert_eq!((nth("x-a", 2), nth("x-", 0)), (None, None));
    }

    #[test]
    fn split_cookies_become_one_field() {
        let mut fields = HeaderMap::new();
        fields.append(header::COOKIE, HeaderValue::from_static("a=1"));
        fields.append(header::COOKIE, HeaderValue::from_static("b=2"));
        join_cookies(&mut fields);
        assert_eq!(fields.get_all(header::COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }
}
