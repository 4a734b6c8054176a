//! Cutting a body out of its input.

use std::ops::Range;

use super::Framing;
use crate::section::{Known, Section};
use crate::{Error, Limits, MAX_FIELDS};

/// What a call of [`BodyDecoder::decode`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Data of the body, as a range of the input; may be empty.
    pub data: Range<usize>,
    /// Bytes of the input that are done with: the data, and the framing around it. All of the input unless more can be decoded
    /// or the body is over.
    pub consumed: usize,
    /// The body is over; what follows is the next message.
    pub end: bool,
}

/// Reads one body after another, without copying any data.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    limits: Limits,
    /// Bytes of extensions beyond the bytes of data since then; see [`Limits::extensions`].
    extensions: usize,
    section: Vec<u8>,
    trailers: Section,
}

/// What comes next. The chunked ones are in the order of RFC 9112 §7.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    /// Digits of a chunk's size, and how many there were.
    Size(u64, u8),
    /// Whitespace between a size and the semicolon of its extension.
    BeforeExtension(u64),
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    Trailers,
    Done,
}

impl BodyDecoder {
    /// A decoder for a body that ends as `framing` says.
    #[must_use]
    pub fn new(framing: Framing, limits: Limits) -> Self {
        let mut decoder = Self {
            state: State::Done,
            limits,
            extensions: 0,
            section: Vec::new(),
            trailers: Section::default(),
        };
        decoder.reset(framing);
        decoder
    }

    /// Begins with another body, and keeps the buffers.
    pub fn reset(&mut self, framing: Framing) {
        self.state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size(0, 0),
            Framing::UntilClose => State::UntilClose,
        };
        self.extensions = 0;
        self.section.clear();
        self.trailers.clear();
    }

    /// Whether the body is over.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes of data that are certain to come before any framing; none where the end is not known.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(left) | State::Data(left) => Some(left),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// Reads up to the end of the next run of data.
    ///
    /// Call it again with what was not consumed until that is empty or the body is over. Nothing has to be kept: an input
    /// may end anywhere.
    ///
    /// # Errors
    /// The framing is malformed or too large. The connection's bytes have no meaning from here on.
    pub fn decode(&mut self, input: &[u8]) -> Result<Piece, Error> {
        let mut at = 0;
        loop {
            match self.state {
                State::Done => {
                    return Ok(Piece {
                        data: at..at,
                        consumed: at,
                        end: true,
                    });
                }
                _ if at == input.len() => {
                    return Ok(Piece {
                        data: at..at,
                        consumed: at,
                        end: false,
                    });
                }
                State::Length(_) | State::UntilClose | State::Data(_) => return Ok(self.take(input, at)),
                State::Trailers => at += self.take_trailers(&input[at..])?,
                _ => {
                    self.state = self.step(input[at])?;
                    at += 1;
                }
            }
        }
    }

    /// The connection ended.
    ///
    /// # Errors
    /// [`Error::Truncated`] where that is not how this body ends (RFC 9112 §8).
    pub fn close(&mut self) -> Result<(), Error> {
        match self.state {
            State::UntilClose | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(Error::Truncated),
        }
    }

    /// The trailer fields of a chunked body that is over, without those that must not stand there.
    ///
    /// RFC 9110 §6.5.1: a trailer never becomes a header field, and those that frame, route or authenticate a message mean
    /// nothing here. They are left out, as RFC 9112 §7.1.2 lets a recipient discard any of them.
    pub fn trailers(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        self.trailers.iter().filter(|(name, _)| is_allowed_in_trailers(name))
    }

    /// Data, as much of it as there is.
    fn take(&mut self, input: &[u8], at: usize) -> Piece {
        let there = input.len() - at;
        let (length, next) = match self.state {
            State::Length(left) => {
                let length = there.min(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - length as u64;
                (length, if left == 0 { State::Done } else { State::Length(left) })
            }
            State::Data(left) => {
                let length = there.min(usize::try_from(left).unwrap_or(usize::MAX));
                self.extensions = self.extensions.saturating_sub(length);
                let left = left - length as u64;
                (length, if left == 0 { State::DataCr } else { State::Data(left) })
            }
            other => (there, other),
        };
        self.state = next;
        Piece {
            data: at..at + length,
            consumed: at + length,
            end: next == State::Done,
        }
    }

    /// One byte of chunk framing.
    fn step(&mut self, byte: u8) -> Result<State, Error> {
        Ok(match (self.state, byte) {
            // RFC 9112 §7.1: `chunk-size = 1*HEXDIG`, and recipients "MUST anticipate potentially large hexadecimal numerals".
            // 16 digits are what 64 bits hold, zeros in front included.
            (State::Size(size, digits @ 0..16), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = if byte <= b'9' {
                    byte - b'0'
                } else {
                    (byte | 0x20) - b'a' + 10
                };
                State::Size(size << 4 | u64::from(digit), digits + 1)
            }
            (State::Size(size, 1..), b'\r') => State::SizeLf(size),
            (State::Size(size, 1..) | State::BeforeExtension(size), b';') => {
                self.count_extension()?;
                State::Extension(size)
            }
            // RFC 9112 §7.1.1: bad whitespace may stand before the semicolon, and nowhere else.
            (State::Size(size, 1..) | State::BeforeExtension(size), b' ' | b'\t') => {
                self.count_extension()?;
                State::BeforeExtension(size)
            }
            (State::Size(..) | State::BeforeExtension(_), _) => return Err(Error::BadChunkSize),
            (State::Extension(size), b'\r') => State::SizeLf(size),
            // A bare LF in an extension ends the line for some parsers: the smuggling of chunk extensions.
            (State::Extension(size), b'\t' | b' '..=0x7e | 0x80..) => {
                self.count_extension()?;
                State::Extension(size)
            }
            (State::Extension(_), _) => return Err(Error::BadChunkExtension),
            (State::SizeLf(0), b'\n') => State::Trailers,
            (State::SizeLf(size), b'\n') => State::Data(size),
            (State::SizeLf(_), _) => return Err(Error::BadChunkSize),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size(0, 0),
            (State::DataCr | State::DataLf, _) => return Err(Error::BadChunkEnd),
            (state, _) => state,
        })
    }

    /// Extensions are skipped (RFC 9112 §7.1.1), and counted against the data: tiny chunks with long extensions would
    /// let a client keep a core busy below any limit of the body's size.
    fn count_extension(&mut self) -> Result<(), Error> {
        self.extensions += 1;
        if self.extensions > self.limits.extensions {
            Err(Error::ExtensionsTooLarge)
        } else {
            Ok(())
        }
    }

    /// Gathers the trailer section; its length within `input`.
    fn take_trailers(&mut self, input: &[u8]) -> Result<usize, Error> {
        for (at, &byte) in input.iter().enumerate() {
            self.section.push(byte);
            if byte == b'\n' && (self.section == b"\r\n" || self.section.ends_with(b"\r\n\r\n")) {
                self.finish_trailers()?;
                return Ok(at + 1);
            }
            if self.section.len() >= self.limits.trailers {
                return Err(Error::TrailersTooLarge);
            }
        }
        Ok(input.len())
    }

    fn finish_trailers(&mut self) -> Result<(), Error> {
        self.state = State::Done;
        if self.section.len() == 2 {
            return Ok(());
        }
        let mut array = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let slots = &mut array[..self.limits.fields.min(MAX_FIELDS)];
        match httparse::parse_headers(&self.section, slots) {
            Ok(httparse::Status::Complete((length, fields))) if length == self.section.len() => {
                self.trailers.fill(&self.section, fields)
            }
            // The parser saw an empty line where there was none with CR LF.
            Ok(_) => Err(Error::BadLineEnd),
            Err(error) => Err(crate::request::syntax_error(error, Error::BadFieldName)),
        }
    }
}

/// RFC 9110 §6.5.1: none that is "necessary for message framing, routing, authentication, request modifiers, response controls,
/// or content format".
fn is_allowed_in_trailers(name: &[u8]) -> bool {
    const FORBIDDEN: [&[u8]; 20] = [
        b"age",
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-range",
        b"content-type",
        b"cookie",
        b"date",
        b"expires",
        b"forwarded",
        b"location",
        b"max-forwards",
        b"pragma",
        b"range",
        b"retry-after",
        b"set-cookie",
        b"trailer",
        b"vary",
        b"warning",
        b"www-authenticate",
    ];
    let forwarded = name
        .get(..12)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"x-forwarded-"));
    Known::of(name) == Known::Other && !forwarded && !FORBIDDEN.iter().any(|forbidden| forbidden.eq_ignore_ascii_case(name))
}
