//! HTTP/1.1 for a proxy's hot path: a sans-IO codec that refuses every message two parsers could read differently.
//!
//! # What it is for
//!
//! A proxied request costs about 14 µs in the kernel, whoever serves it; what a gateway adds is its own. A general HTTP
//! library builds a map of the fields, owns the connection and writes in its own rhythm. A proxy needs none of that: it
//! reads a head, asks a policy, and sends nearly the same bytes on. So this crate keeps a head as the bytes that came plus an
//! index over them, writes the forwarded head as runs of those bytes around the lines that change, and leaves sockets,
//! clocks and buffers to its caller. After the first request of a connection nothing here allocates.
//!
//! ```text
//! client bytes ──▶ RequestDecoder ──▶ RequestHead ──encode──▶ upstream bytes
//!             └──▶ BodyDecoder ──ranges──▶ BodyEncoder ──────▶
//! upstream bytes ─▶ ResponseDecoder ─▶ ResponseHead ─encode─▶ client bytes
//! ```
//!
//! # Why it is strict
//!
//! Request smuggling is one message read in two ways (RFC 9112 §11.2). Where the RFC lets a recipient either repair or refuse,
//! this crate refuses: a message that reaches the upstream has been understood, and its framing is written anew from that
//! understanding, never copied. `Host`, `Content-Length`, `Transfer-Encoding` and `Connection` are always ours on the way out.
//! Every rule quotes its section where it decides.
//!
//! # How it is used
//!
//! A head is copied once out of the read buffer (some 10 ns for 500 bytes), so that an index can never be paired with the
//! wrong buffer, the caller may go on reading into its buffer, and a request can be sent again by a retry.
//!
//! ```
//! use http::{HeaderName, HeaderValue};
//! use http1::{BodyDecoder, Decoded, Edit, Forward, Limits, RequestDecoder, RequestHead};
//!
//! let limits = Limits::default();
//! let (mut decoder, mut head) = (RequestDecoder::new(limits), RequestHead::default());
//! let input = b"POST /a HTTP/1.1\r\nHost: bank.example\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
//! let Decoded::Head(used) = decoder.decode(input, &mut head)? else { panic!("the head is whole") };
//! assert_eq!((head.method(), head.authority(), head.path()), ("POST", "bank.example", "/a"));
//!
//! let mut out = Vec::new();
//! let (name, value) = (HeaderName::from_static("x-request-id"), HeaderValue::from_static("7"));
//! let edits = [Edit::Set(&name, &value)];
//! let mut to_upstream = head.encode(&Forward { target: Some(b"/b"), ..Forward::default() }, edits, &mut out)?;
//! let mut body = BodyDecoder::new(head.framing(), limits);
//! let piece = body.decode(&input[used..])?;
//! to_upstream.write(&input[used..][piece.data], &mut out)?;
//! assert_eq!(out, b"POST /b HTTP/1.1\r\nhost: bank.example\r\nx-request-id: 7\r\ncontent-length: 2\r\n\r\nhi");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it leaves to its caller
//!
//! HTTP/2 (a connection that begins with the preface is reported as [`Decoded::Http2`]), deadlines, the size of a body, what
//! to do with `Expect` and `Upgrade`, and the meaning of fields other than those that frame a message.

#![forbid(unsafe_code)]

mod body;
mod error;
mod facts;
mod forward;
mod request;
mod response;
mod section;
mod target;

pub use body::{BodyDecoder, BodyEncoder, Frame, Framing, Piece};
pub use error::{EncodeError, Error, Peer};
pub use forward::{Answer, Edit, Forward, Reply, encode_answer, encode_request, is_own_field};
pub use request::{Decoded, RequestDecoder, RequestHead};
pub use response::{Asked, DecodedResponse, ResponseDecoder, ResponseHead};
pub use target::{Authority, Form};

/// The most fields that [`Limits::fields`] can allow: the size of the array that a head is parsed into.
pub const MAX_FIELDS: usize = 128;

/// How much of a message is read before it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head, its first line and the empty last one included. Default 64 KiB; at most 1 GiB is meant.
    pub head: usize,
    /// Bytes of a request target. Default 8 KiB; RFC 9112 §3 recommends at least 8,000.
    pub target: usize,
    /// Fields of a head, and of a trailer section. Default 100, at most [`MAX_FIELDS`].
    pub fields: usize,
    /// Bytes of chunk extensions that a body may carry beyond the bytes of data it carried. Default 16 KiB.
    pub extensions: usize,
    /// Bytes of a trailer section. Default 8 KiB.
    pub trailers: usize,
    /// Interim answers before the final one. Default 16.
    pub interim: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: 64 << 10,
            target: 8 << 10,
            fields: 100,
            extensions: 16 << 10,
            trailers: 8 << 10,
            interim: 16,
        }
    }
}

/// The version that a peer speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// HTTP/1.0: no chunked coding, and a connection ends with its answer unless both want otherwise.
    Http10,
    /// HTTP/1.1.
    #[default]
    Http11,
}
