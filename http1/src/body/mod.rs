//! Bodies: where they end, and how they are cut out of the input and put into the output.

mod decode;
mod encode;

pub use decode::{BodyDecoder, Piece};
pub use encode::{BodyEncoder, Frame};
pub(crate) use encode::{put_decimal, put_field, put_line};

/// Where a body ends (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// There is no body, and no field that says so.
    #[default]
    None,
    /// After this many bytes, as `Content-Length` says.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection: answers alone.
    UntilClose,
}
