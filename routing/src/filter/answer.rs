//! Fixed answers.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

/// The same answer for every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedAnswer {
    /// The status code, 200 to 599.
    pub status: u16,
    /// The header fields, without `content-length`.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// The body; shared, never copied.
    pub body: Bytes,
}
