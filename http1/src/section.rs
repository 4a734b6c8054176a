//! A field section as the bytes that came and an index over them.

use std::ops::Range;

use crate::Error;

/// A part of a section's bytes. 32 bits hold every head that [`Limits`](crate::Limits) allows and halve the index.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize) -> Self {
        let narrow = |at: usize| u32::try_from(at).expect("a head is shorter than 4 GiB");
        Self {
            start: narrow(start),
            end: narrow(end),
        }
    }

    /// Where `part`, a slice of `whole`, lies in it.
    pub(crate) fn of(part: &[u8], whole: &[u8]) -> Self {
        let start = part.as_ptr().addr() - whole.as_ptr().addr();
        Self::new(start, start + part.len())
    }

    pub(crate) fn start(self) -> usize {
        self.start as usize
    }

    pub(crate) fn end(self) -> usize {
        self.end as usize
    }

    pub(crate) fn range(self) -> Range<usize> {
        self.start()..self.end()
    }
}

/// The fields that the codec itself reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    Connection,
    ContentLength,
    Expect,
    Host,
    KeepAlive,
    ProxyAuthenticate,
    ProxyAuthorization,
    ProxyConnection,
    Te,
    TransferEncoding,
    Upgrade,
    Other,
}

impl Known {
    pub(crate) fn of(name: &[u8]) -> Self {
        let (known, spelt): (Self, &[u8]) = match name.len() {
            2 => (Self::Te, b"te"),
            4 => (Self::Host, b"host"),
            6 => (Self::Expect, b"expect"),
            7 => (Self::Upgrade, b"upgrade"),
            10 if name[0] | 0x20 == b'c' => (Self::Connection, b"connection"),
            10 => (Self::KeepAlive, b"keep-alive"),
            14 => (Self::ContentLength, b"content-length"),
            16 => (Self::ProxyConnection, b"proxy-connection"),
            17 => (Self::TransferEncoding, b"transfer-encoding"),
            18 => (Self::ProxyAuthenticate, b"proxy-authenticate"),
            19 => (Self::ProxyAuthorization, b"proxy-authorization"),
            _ => return Self::Other,
        };
        // Most names of a known length differ in their first letter.
        if name[0] | 0x20 == spelt[0] && name.eq_ignore_ascii_case(spelt) {
            known
        } else {
            Self::Other
        }
    }

    /// Whether the codec writes this field itself, so that neither the peer's line nor an edit reaches the other side.
    ///
    /// Those about one connection end here (RFC 9110 §7.6.1; §11.7 for a proxy's own authentication; `Keep-Alive` and
    /// `Proxy-Connection` are sent by clients that mean them so); those that say where a message goes and where it ends are
    /// written anew.
    pub(crate) fn is_own(self) -> bool {
        !matches!(self, Self::Other | Self::Expect)
    }
}

/// One field line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub(crate) name: Span,
    pub(crate) value: Span,
    pub(crate) known: Known,
    /// Named by `Connection`, so it ends at this hop (RFC 9110 §7.6.1).
    pub(crate) listed: bool,
}

/// The bytes of a head or a trailer section, and where its fields lie.
#[derive(Debug, Clone, Default)]
pub(crate) struct Section {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fields: Vec<Field>,
    /// Where the field lines end: before the empty line.
    lines_end: usize,
}

impl Section {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.fields.clear();
        self.lines_end = 0;
    }

    /// Takes over a section that httparse read; `headers` lie in `bytes`.
    ///
    /// httparse takes a bare LF for the end of a line, as RFC 9112 §2.2 allows and other parsers do not. It does refuse a bare
    /// CR, so a line ends well exactly where the byte before its LF is a CR; every LF is known from where the next line begins.
    pub(crate) fn fill(&mut self, bytes: &[u8], headers: &[httparse::Header<'_>]) -> Result<(), Error> {
        self.clear();
        let lines_end = bytes.len().saturating_sub(2);
        let ends_before = |start: usize| start == 0 || bytes[..start].ends_with(b"\r\n");
        if !bytes.ends_with(b"\r\n") || !ends_before(lines_end) {
            return Err(Error::BadLineEnd);
        }
        for header in headers {
            let name = Span::of(header.name.as_bytes(), bytes);
            if !ends_before(name.start()) {
                return Err(Error::BadLineEnd);
            }
            let value = if header.value.is_empty() {
                Span::new(name.end() + 1, name.end() + 1)
            } else {
                Span::of(header.value, bytes)
            };
            self.fields.push(Field {
                name,
                value,
                known: Known::of(header.name.as_bytes()),
                listed: false,
            });
        }
        self.bytes.extend_from_slice(bytes);
        self.lines_end = lines_end;
        Ok(())
    }

    pub(crate) fn slice(&self, span: Span) -> &[u8] {
        &self.bytes[span.range()]
    }

    /// A span that is known to be ASCII.
    pub(crate) fn text(&self, span: Span) -> &str {
        std::str::from_utf8(self.slice(span)).expect("checked to be ASCII when it was decoded")
    }

    /// The line of the field at `index`, its CR LF included.
    pub(crate) fn line(&self, index: usize) -> Range<usize> {
        let end = self.fields.get(index + 1).map_or(self.lines_end, |next| next.name.start());
        self.fields[index].name.start()..end
    }

    /// What stands between the colon and the CR LF of the field at `index`, whitespace included.
    pub(crate) fn raw_value(&self, index: usize) -> &[u8] {
        &self.bytes[self.fields[index].name.end() + 1..self.line(index).end - 2]
    }

    pub(crate) fn nth(&self, name: &[u8], nth: usize) -> Option<&[u8]> {
        let named = |field: &&Field| self.slice(field.name).eq_ignore_ascii_case(name);
        self.fields.iter().filter(named).nth(nth).map(|field| self.slice(field.value))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        self.fields
            .iter()
            .map(|field| (self.slice(field.name), self.slice(field.value)))
    }
}

/// The members of a comma-separated list, without the whitespace around them (RFC 9110 §5.6.1).
pub(crate) fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

/// A table of the bytes that `allowed` holds: one load a byte, where a search would be a loop.
pub(crate) const fn table(allowed: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut at = 0;
    while at < allowed.len() {
        table[allowed[at] as usize] = true;
        at += 1;
    }
    table
}

static TOKEN: [bool; 256] = table(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~");

/// Whether every byte stands in the table. Without an early end: what is written or read here nearly always passes, and a loop that
/// cannot be left takes half as many instructions a byte.
pub(crate) fn all_in(table: &[bool; 256], bytes: &[u8]) -> bool {
    bytes.iter().fold(true, |all, &byte| all & table[usize::from(byte)])
}

/// Whether `name` is a token (RFC 9110 §5.6.2).
pub(crate) fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && all_in(&TOKEN, name)
}

/// Whether `value` may stand in a field line: no control but the tab (RFC 9110 §5.5).
///
/// Eight bytes at a time; where one of them is a control, one by one, since it may be a tab. Most values here are shorter than
/// the 16 bytes from which a compiler's own vectors begin to pay.
pub(crate) fn is_value(value: &[u8]) -> bool {
    let (words, rest) = value.as_chunks();
    let mut last = [b' '; 8];
    last[..rest.len()].copy_from_slice(rest);
    let has_control = words.iter().chain([&last]).fold(false, |any, word| any | has_control(*word));
    !has_control || value.iter().all(|&byte| byte == b'\t' || !byte.is_ascii_control())
}

/// Whether a byte of the word is below 0x20, or 0x7f.
fn has_control(word: [u8; 8]) -> bool {
    const ONES: u64 = u64::MAX / 255;
    let word = u64::from_le_bytes(word);
    // A subtraction borrows only from the byte above one that is too small, so that it is seen whether there is one.
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & (ONES * 0x80) != 0;
    below(word, 0x20) || below(word ^ (ONES * 0x7f), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_control_but_the_tab_is_found_wherever_it_stands() {
        for length in 0..40 {
            for byte in 0..=u8::MAX {
                for at in 0..length {
                    let mut value = vec![b'a'; length];
                    value[at] = byte;
                    let fits = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
                    assert_eq!(is_value(&value), fits, "{byte:#x} at {at} of {length}");
                    value.fill(b'\t');
                    value[at] = byte;
                    assert_eq!(is_value(&value), fits, "{byte:#x} at {at} of {length} among tabs");
                }
            }
        }
        assert!(is_value(b"") && is_value("caf\u{e9}".as_bytes()) && is_value(&[0xff; 9]));
    }
}
