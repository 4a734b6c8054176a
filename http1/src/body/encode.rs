//! Framing a body on its way out.

use super::Framing;
use crate::EncodeError;
use crate::section::{is_token, is_value};

/// Frames the data of one body as its head announced.
///
/// Data is either copied into an output ([`write`](Self::write)) or stays where it is, to be sent between the two halves of
/// a [`Frame`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyEncoder {
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// The message has no body, whatever is written: the answer to a `HEAD`.
    Nothing,
    Length(u64),
    Chunked,
    UntilClose,
}

/// What goes before and behind one run of data.
#[derive(Debug, Clone, Copy, Default)]
pub struct Frame {
    head: [u8; 18],
    head_length: u8,
    tail: &'static [u8],
}

impl Frame {
    /// The bytes before the data; may be empty.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head[..usize::from(self.head_length)]
    }

    /// The bytes behind the data; may be empty.
    #[must_use]
    pub fn tail(&self) -> &'static [u8] {
        self.tail
    }
}

impl BodyEncoder {
    pub(crate) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None => State::Length(0),
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked,
            Framing::UntilClose => State::UntilClose,
        };
        Self { state }
    }

    /// Of a message that has no body, although it would have one in answer to another method.
    pub(crate) fn nothing() -> Self {
        Self { state: State::Nothing }
    }

    /// Whether data is sent at all; that of the answer to a `HEAD` is to be dropped.
    #[must_use]
    pub fn wants_data(&self) -> bool {
        self.state != State::Nothing
    }

    /// What goes around the next `length` bytes of data.
    ///
    /// # Errors
    /// [`EncodeError::BodyTooLong`] where the head announced less, or no body.
    pub fn frame(&mut self, length: usize) -> Result<Frame, EncodeError> {
        match &mut self.state {
            State::Length(left) => {
                *left = left.checked_sub(length as u64).ok_or(EncodeError::BodyTooLong)?;
                Ok(Frame::default())
            }
            // RFC 9112 §7.1: a chunk of no data would be the last one.
            State::Chunked if length == 0 => Ok(Frame::default()),
            State::Chunked => Ok(chunk_frame(length)),
            State::Nothing if length > 0 => Err(EncodeError::BodyTooLong),
            State::Nothing | State::UntilClose => Ok(Frame::default()),
        }
    }

    /// Appends `data`, framed, to `out`.
    ///
    /// # Errors
    /// [`EncodeError::BodyTooLong`] where the head announced less, or no body.
    pub fn write(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let frame = self.frame(data.len())?;
        out.reserve(frame.head().len() + data.len() + frame.tail.len());
        out.extend_from_slice(frame.head());
        out.extend_from_slice(data);
        out.extend_from_slice(frame.tail);
        Ok(())
    }

    /// Appends the end of the body, with `trailers` where it is chunked; elsewhere they are dropped (RFC 9112 §7.1.2).
    ///
    /// # Errors
    /// [`EncodeError::BodyTooShort`] where the head announced more; the connection must be closed then, as nothing else tells
    /// the recipient. [`EncodeError::BadName`] and [`EncodeError::BadValue`] for a trailer that would split the section.
    pub fn finish<'a>(
        &mut self,
        trailers: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        match self.state {
            State::Length(left) if left > 0 => return Err(EncodeError::BodyTooShort),
            State::Length(_) | State::Nothing | State::UntilClose => return Ok(()),
            State::Chunked => {}
        }
        let before = out.len();
        out.extend_from_slice(b"0\r\n");
        for (name, value) in trailers {
            if let Err(error) = put_field(name, value, out) {
                out.truncate(before);
                return Err(error);
            }
        }
        out.extend_from_slice(b"\r\n");
        self.state = State::Length(0);
        Ok(())
    }
}

fn chunk_frame(length: usize) -> Frame {
    let mut frame = Frame {
        tail: b"\r\n",
        ..Frame::default()
    };
    let digits = (usize::BITS - length.leading_zeros()).div_ceil(4) as usize;
    for (place, digit) in frame.head[..digits].iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[length >> (4 * (digits - 1 - place)) & 0xf];
    }
    frame.head[digits] = b'\r';
    frame.head[digits + 1] = b'\n';
    frame.head_length = digits as u8 + 2;
    frame
}

/// A field line, unless its bytes would make more than one of it.
pub(crate) fn put_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if !is_token(name) {
        return Err(EncodeError::BadName);
    }
    if !is_value(value) {
        return Err(EncodeError::BadValue);
    }
    put_line(name, value, out);
    Ok(())
}

/// A field line of bytes that were looked at.
pub(crate) fn put_line(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.reserve(name.len() + value.len() + 4);
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// A number in decimal digits.
pub(crate) fn put_decimal(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0_u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}
