//! What a head says about its own message: framing, connection, expectation. One reading for requests and answers.

use crate::section::{Known, Section, is_token, members};
use crate::{Error, Version};

/// Options of `Connection` that are read before the head is refused. Each is compared with every field, and 64 KiB of commas
/// would be 30,000 of them.
const MAX_OPTIONS: usize = 64;

/// What the fields say, checked against each other.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Facts {
    /// Index of the `Host` field.
    pub(crate) host: Option<usize>,
    pub(crate) length: Option<u64>,
    pub(crate) chunked: bool,
    close: bool,
    keep_alive: bool,
    upgrade_option: bool,
    upgrade: Option<usize>,
    upgrades: usize,
    /// `Expect` holds `100-continue`.
    pub(crate) expects_continue: bool,
    /// `TE` holds `trailers`.
    pub(crate) takes_trailers: bool,
}

impl Facts {
    /// Reads the fields of a section, and marks those that `Connection` names.
    pub(crate) fn read(section: &mut Section, version: Version) -> Result<Self, Error> {
        let mut facts = Self::default();
        let mut names_fields = false;
        for index in 0..section.fields.len() {
            let field = section.fields[index];
            let value = section.slice(field.value);
            match field.known {
                Known::Other => {}
                Known::Host => {
                    // RFC 9112 §3.2: 400 for "more than one Host header field line".
                    if facts.host.replace(index).is_some() {
                        return Err(Error::RepeatedHost);
                    }
                }
                Known::ContentLength => {
                    let length = content_length(section.raw_value(index))?;
                    // RFC 9110 §8.6: a repeated length is either refused or, where equal, replaced by one. Refused: the next
                    // parser may have taken the other one.
                    if facts.length.replace(length).is_some() {
                        return Err(Error::RepeatedContentLength);
                    }
                }
                Known::TransferEncoding => {
                    // RFC 9112 §6.1: such a message is to be treated "as if the framing is faulty".
                    if version == Version::Http10 {
                        return Err(Error::CodingInHttp10);
                    }
                    if facts.chunked {
                        return Err(Error::BadCoding);
                    }
                    transfer_coding(section.raw_value(index))?;
                    facts.chunked = true;
                }
                Known::Connection => names_fields |= facts.connection(value),
                Known::Upgrade => {
                    facts.upgrade = Some(index);
                    facts.upgrades += 1;
                }
                Known::Expect => facts.expects_continue |= members(value).any(|it| it.eq_ignore_ascii_case(b"100-continue")),
                Known::Te => facts.takes_trailers |= members(value).any(|it| it.eq_ignore_ascii_case(b"trailers")),
                Known::KeepAlive | Known::ProxyAuthenticate | Known::ProxyAuthorization | Known::ProxyConnection => {}
            }
        }
        // RFC 9112 §6.3: "ought to be handled as an error", for it is how smuggling begins.
        if facts.chunked && facts.length.is_some() {
            return Err(Error::LengthAndCoding);
        }
        if names_fields {
            mark_listed(section)?;
        }
        Ok(facts)
    }

    /// Takes the options of one `Connection` line; true where it names fields.
    fn connection(&mut self, value: &[u8]) -> bool {
        let mut names_fields = false;
        for option in members(value) {
            match option.len() {
                5 if option.eq_ignore_ascii_case(b"close") => self.close = true,
                10 if option.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                7 if option.eq_ignore_ascii_case(b"upgrade") => self.upgrade_option = true,
                // RFC 9110 §7.6.1: an option is a token. A list that holds something else is read differently by others (hyper
                // drops such a line whole), so the connection does not outlive it.
                _ if !is_token(option) => self.close = true,
                _ => names_fields = true,
            }
        }
        names_fields
    }

    /// Whether the connection outlives this message, as far as its sender is concerned.
    ///
    /// RFC 9112 §9.3, in its order: `close` ends it; HTTP/1.1 persists; HTTP/1.0 persists with `keep-alive` where the recipient
    /// is not a proxy or the message is an answer. Towards its clients a gateway is an origin server, not a proxy (RFC 9110
    /// §3.7).
    pub(crate) fn keep_alive(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }

    /// The index of the `Upgrade` field, where it counts: named by `Connection`, and one line.
    ///
    /// RFC 9110 §7.8: a server ignores it in HTTP/1.0, and its sender must name it in `Connection`.
    pub(crate) fn upgrade(&self, version: Version) -> Option<usize> {
        self.upgrade
            .filter(|_| self.upgrades == 1 && self.upgrade_option && version == Version::Http11)
    }
}

/// RFC 9110 §8.6: `Content-Length = 1*DIGIT`, so no sign, no base, no list, no blank within.
///
/// A tab beside the number is legal whitespace that nobody sends but to confuse a parser, and is refused. The number ends below
/// 2⁶³, where signed parsers overflow ("MUST prevent parsing errors due to integer conversion overflows").
fn content_length(raw: &[u8]) -> Result<u64, Error> {
    let digits = trim_spaces(raw);
    if digits.is_empty() {
        return Err(Error::BadContentLength);
    }
    let mut length = 0_i64;
    for &byte in digits {
        if !byte.is_ascii_digit() {
            return Err(Error::BadContentLength);
        }
        let digit = i64::from(byte - b'0');
        length = length
            .checked_mul(10)
            .and_then(|tens| tens.checked_add(digit))
            .ok_or(Error::BadContentLength)?;
    }
    u64::try_from(length).map_err(|_| Error::BadContentLength)
}

/// One `chunked` and nothing else is taken.
///
/// RFC 9112 §6.3: a request whose last coding is not `chunked` has no end that could be told: 400. §6.1: `chunked` comes once; a
/// coding that is not understood is a 501. §7.1: parameters of `chunked` are an error. An answer with another last coding would
/// end with its connection, still coded; it is refused as well.
fn transfer_coding(raw: &[u8]) -> Result<(), Error> {
    let value = trim_spaces(raw);
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let chunked = |coding: &&[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let codings = || value.split(|&byte| byte == b',').map(trim_spaces);
    let well_formed = codings().all(is_token);
    if well_formed && codings().filter(chunked).count() == 1 && codings().next_back().as_ref().is_some_and(chunked) {
        return Err(Error::UnsupportedCoding);
    }
    Err(Error::BadCoding)
}

fn trim_spaces(value: &[u8]) -> &[u8] {
    let Some(start) = value.iter().position(|&byte| byte != b' ') else {
        return &[];
    };
    let end = value.iter().rposition(|&byte| byte != b' ').map_or(start, |last| last + 1);
    &value[start..end]
}

/// Marks the fields that `Connection` names (RFC 9110 §7.6.1).
fn mark_listed(section: &mut Section) -> Result<(), Error> {
    let Section { bytes, fields, .. } = section;
    let mut options = 0;
    for index in 0..fields.len() {
        if fields[index].known != Known::Connection {
            continue;
        }
        for option in members(&bytes[fields[index].value.range()]) {
            options += 1;
            if options > MAX_OPTIONS {
                return Err(Error::TooManyOptions);
            }
            for field in fields.iter_mut() {
                field.listed |= bytes[field.name.range()].eq_ignore_ascii_case(option);
            }
        }
    }
    Ok(())
}
