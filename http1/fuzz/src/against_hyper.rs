//! A connection's bytes, read by this codec and by hyper: what we accept, hyper must accept and understand alike.
//!
//! We are stricter on purpose, so a refusal of ours proves nothing. Where hyper accepts and we refuse: both of
//! Content-Length and Transfer-Encoding, equal lengths repeated, codings before `chunked`, tabs beside framing values, bare LF,
//! several empty lines before a request, missing, repeated, empty or malformed Host, targets with a fragment, a backslash, bytes
//! beyond ASCII or user information, targets in a form that the method does not take, CONNECT with a body, whitespace behind a
//! chunk size, controls in chunk extensions, and lengths of 2⁶³ and more.
//!
//! hyper is stricter in one matter, which ends the comparison: it closes after `Upgrade` and `CONNECT`.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Request, Response};

use http1::{BodyDecoder, Decoded, Form, Limits, RequestDecoder, RequestHead};

/// A request as either side understood it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Understood {
    /// The method.
    pub method: String,
    /// The target as it came.
    pub target: String,
    /// Fields in their order, per name as hyper groups them; names in lower case.
    pub fields: Vec<(String, Vec<u8>)>,
    /// The whole body.
    pub body: Vec<u8>,
}

/// The requests that this codec accepts whole, up to the first that it refuses or that ends the connection.
pub fn ours(input: &[u8]) -> Vec<Understood> {
    let limits = Limits::default();
    let (mut decoder, mut head) = (RequestDecoder::new(limits), RequestHead::default());
    let (mut understood, mut at) = (Vec::new(), 0);
    while let Ok(Decoded::Head(used)) = decoder.decode(&input[at..], &mut head) {
        at += used;
        let mut body = BodyDecoder::new(head.framing(), limits);
        let mut data = Vec::new();
        while !body.is_done() {
            let Ok(piece) = body.decode(&input[at..]) else {
                return understood;
            };
            data.extend_from_slice(&input[at..][piece.data]);
            at += piece.consumed;
            if !piece.end && at == input.len() {
                return understood;
            }
        }
        let mut fields: Vec<_> = head
            .fields()
            .map(|(name, value)| (String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec()))
            .collect();
        fields.sort_by(|(a, _), (b, _)| a.cmp(b));
        understood.push(Understood {
            method: head.method().to_owned(),
            target: head.target().to_owned(),
            fields,
            body: data,
        });
        if !head.keep_alive() || head.form() == Form::Authority || head.nth("upgrade", 0).is_some() {
            break;
        }
    }
    understood
}

/// The requests that hyper hands to its service with a whole body.
pub fn hypers(input: &[u8]) -> Vec<Understood> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let (parts, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                let mut fields: Vec<_> = parts
                    .headers
                    .iter()
                    .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
                    .collect();
                fields.sort_by(|(a, _), (b, _)| a.cmp(b));
                let (method, target) = (parts.method.to_string(), parts.uri.to_string());
                seen.borrow_mut().push(Understood {
                    method,
                    target,
                    fields,
                    body: body.to_bytes().to_vec(),
                });
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let mut builder = Builder::new();
    builder
        .max_headers(http1::MAX_FIELDS)
        .header_read_timeout(None)
        .half_close(true);
    let mut connection = std::pin::pin!(builder.serve_connection(
        Wire {
            input: input.to_vec(),
            at: 0
        },
        service
    ));
    // Nothing of it waits for anything, but hyper may yield to be fair.
    for _ in 0..10_000 {
        if connection.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            break;
        }
    }
    seen.take()
}

/// Compares both readings.
///
/// # Panics
/// hyper refused or understood otherwise what we accept.
pub fn compare(input: &[u8]) {
    let ours = ours(input);
    if ours.is_empty() {
        return;
    }
    let hypers = hypers(input);
    for (index, request) in ours.iter().enumerate() {
        let other = hypers.get(index);
        let same = other.is_some_and(|other| {
            let same_target = other.target == request.target || same_absolute(&other.target, &request.target);
            Understood {
                target: String::new(),
                ..other.clone()
            } == Understood {
                target: String::new(),
                ..request.clone()
            } && same_target
        });
        assert!(
            same,
            "request {index} of {}\nours:   {request:?}\nhyper's: {other:?}",
            input.escape_ascii()
        );
    }
}

/// hyper normalises absolute targets: the scheme's case, and a slash for an empty path.
fn same_absolute(theirs: &str, ours: &str) -> bool {
    let Some((scheme, rest)) = ours.split_once("://") else {
        return false;
    };
    let scheme = scheme.to_ascii_lowercase();
    let slashed = match rest.find(['/', '?']) {
        None => format!("{scheme}://{rest}/"),
        Some(at) if rest.as_bytes()[at] == b'?' => format!("{scheme}://{}/{}", &rest[..at], &rest[at..]),
        Some(_) => format!("{scheme}://{rest}"),
    };
    theirs == slashed
}

/// The wire as hyper sees it: the input, then its end; what is written is lost.
struct Wire {
    input: Vec<u8>,
    at: usize,
}

impl Read for Wire {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, mut buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let length = buffer.remaining().min(self.input.len() - self.at);
        buffer.put_slice(&self.input[self.at..self.at + length]);
        self.at += length;
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
