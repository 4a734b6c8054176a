//! Why a message is refused, and the status that says so.

/// Who sent the message that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The client: it made the error.
    Client,
    /// The upstream: the client gets a 502 for it.
    Upstream,
}

/// Why a message is refused. The connection that it came by cannot be used any further (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The head is longer than [`Limits::head`](crate::Limits::head).
    #[error("the head is too large")]
    HeadTooLarge,
    /// The target is longer than [`Limits::target`](crate::Limits::target).
    #[error("the request target is too long")]
    UriTooLong,
    /// The head has more fields than [`Limits::fields`](crate::Limits::fields).
    #[error("the head has too many fields")]
    TooManyFields,
    /// The first line is not `method SP target SP version` (RFC 9112 §3).
    #[error("the request line is malformed")]
    BadRequestLine,
    /// The first line is not `version SP code SP reason`, or the code is below 100 (RFC 9112 §4).
    #[error("the status line is malformed")]
    BadStatusLine,
    /// A version other than HTTP/1.0 and HTTP/1.1 (RFC 9110 §15.6.6).
    #[error("the HTTP version is not supported")]
    UnsupportedVersion,
    /// A line ends with a bare CR or a bare LF (RFC 9112 §2.2).
    #[error("a line does not end with CR LF")]
    BadLineEnd,
    /// A field name is empty, holds a byte that no token may, has whitespace before its colon, or the line is folded
    /// (RFC 9112 §5).
    #[error("a field name is malformed")]
    BadFieldName,
    /// A field value holds a control (RFC 9110 §5.5).
    #[error("a field value is malformed")]
    BadFieldValue,
    /// The target has none of the four forms, or one that its method does not take (RFC 9112 §3.2).
    #[error("the request target is malformed")]
    BadTarget,
    /// An HTTP/1.1 request without `Host` (RFC 9112 §3.2).
    #[error("the host field is missing")]
    MissingHost,
    /// More than one `Host` (RFC 9112 §3.2).
    #[error("the host field is repeated")]
    RepeatedHost,
    /// `Host` is not `uri-host [ ":" port ]`, or empty (RFC 9112 §3.2, RFC 9110 §4.2.1).
    #[error("the host field is malformed")]
    BadHost,
    /// `Content-Length` is not a number below 2⁶³ (RFC 9110 §8.6).
    #[error("the content-length is malformed")]
    BadContentLength,
    /// More than one `Content-Length`, equal ones included (RFC 9110 §8.6).
    #[error("the content-length is repeated")]
    RepeatedContentLength,
    /// Both `Content-Length` and `Transfer-Encoding` (RFC 9112 §6.3).
    #[error("content-length and transfer-encoding exclude each other")]
    LengthAndCoding,
    /// `Transfer-Encoding` does not end with one plain `chunked`, or is repeated (RFC 9112 §6.1, §6.3).
    #[error("the transfer-encoding is malformed")]
    BadCoding,
    /// A coding before `chunked` (RFC 9112 §6.1).
    #[error("the transfer coding is not supported")]
    UnsupportedCoding,
    /// `Transfer-Encoding` in an HTTP/1.0 message (RFC 9112 §6.1).
    #[error("transfer-encoding does not exist in HTTP/1.0")]
    CodingInHttp10,
    /// A `CONNECT` request with a body (RFC 9110 §9.3.6).
    #[error("a CONNECT request has no body")]
    ConnectWithBody,
    /// More than 64 connection options.
    #[error("the connection field has too many options")]
    TooManyOptions,
    /// A 101 that nobody asked for (RFC 9110 §15.2.2).
    #[error("the upstream switches protocols unasked")]
    UnaskedSwitch,
    /// More interim answers than [`Limits::interim`](crate::Limits::interim).
    #[error("the upstream sends too many interim answers")]
    TooManyInterim,
    /// A chunk size is not 1 to 16 hexadecimal digits followed by CR LF or an extension (RFC 9112 §7.1).
    #[error("a chunk size is malformed")]
    BadChunkSize,
    /// A chunk extension holds a control (RFC 9112 §7.1.1).
    #[error("a chunk extension is malformed")]
    BadChunkExtension,
    /// More extensions than [`Limits::extensions`](crate::Limits::extensions).
    #[error("the chunk extensions are too large")]
    ExtensionsTooLarge,
    /// The data of a chunk is not followed by CR LF (RFC 9112 §7.1).
    #[error("a chunk is longer than its size")]
    BadChunkEnd,
    /// The trailer section is longer than [`Limits::trailers`](crate::Limits::trailers).
    #[error("the trailers are too large")]
    TrailersTooLarge,
    /// The connection ended within a message (RFC 9112 §8).
    #[error("the message is incomplete")]
    Truncated,
}

impl Error {
    /// The status of the answer that this error calls for: of the client's making 400, 414, 431, 501 or 505, of the
    /// upstream's 502 (RFC 9110 §15.6.3).
    #[must_use]
    pub const fn status(self, from: Peer) -> u16 {
        match (from, self) {
            (Peer::Upstream, _) => 502,
            (Peer::Client, Self::UriTooLong) => 414,
            (Peer::Client, Self::HeadTooLarge | Self::TooManyFields | Self::TrailersTooLarge) => 431,
            (Peer::Client, Self::UnsupportedCoding) => 501,
            (Peer::Client, Self::UnsupportedVersion) => 505,
            (Peer::Client, _) => 400,
        }
    }
}

/// Why a message is not written. The output is as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A method or a field name is not a token (RFC 9110 §5.6.2).
    #[error("a name is not a token")]
    BadName,
    /// A field value holds CR, LF, NUL or another control (RFC 9110 §5.5).
    #[error("a field value holds a control")]
    BadValue,
    /// A target holds whitespace, a control or a byte above 0x7e.
    #[error("the request target is malformed")]
    BadTarget,
    /// A host is not `uri-host [ ":" port ]`.
    #[error("the host is malformed")]
    BadHost,
    /// A status is not within 100 to 999.
    #[error("the status has not three digits")]
    BadStatus,
    /// A field that the codec writes itself: `Host`, and those that frame the message or are about the connection.
    #[error("the field belongs to the codec")]
    Reserved,
    /// A request whose body ends with the connection (RFC 9112 §6.3).
    #[error("a request's body cannot end with the connection")]
    UnframedRequest,
    /// More data than the length that the head told.
    #[error("the body is longer than its content-length")]
    BodyTooLong,
    /// Less data than the length that the head told.
    #[error("the body is shorter than its content-length")]
    BodyTooShort,
}
