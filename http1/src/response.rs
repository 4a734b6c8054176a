//! Reading the head of an upstream's answer.

use std::mem::MaybeUninit;

use crate::body::Framing;
use crate::facts::Facts;
use crate::request::{Search, syntax_error};
use crate::section::{Section, Span};
use crate::{Error, Limits, MAX_FIELDS, Version};

/// What was asked, as far as the framing of its answer depends on it (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Asked {
    /// A request whose answer is framed by its own fields.
    #[default]
    Plain,
    /// `HEAD`: the answer has no body, whatever its fields say.
    Head,
    /// `CONNECT`: a 2xx answer begins a tunnel.
    Connect,
    /// A request that was forwarded with an `Upgrade`: the answer may be a 101.
    Upgrade,
}

/// What the bytes so far amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodedResponse {
    /// The head is not whole: read more, and decode again from the same beginning.
    Incomplete,
    /// An interim answer (1xx but 101) of this many bytes: drop them and decode again. Its head may be looked at.
    Interim(usize),
    /// The head is whole and took this many bytes; the body begins behind them.
    Head(usize),
}

/// Reads the heads of the answers on one upstream connection.
#[derive(Debug)]
pub struct ResponseDecoder {
    limits: Limits,
    search: Search,
    interim: usize,
}

impl ResponseDecoder {
    /// A decoder for a connection.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            search: Search::default(),
            interim: 0,
        }
    }

    /// Reads the head of the answer to `asked` from the beginning of `input` into `head`, whose former content goes.
    ///
    /// As [`RequestDecoder::decode`](crate::RequestDecoder::decode) in everything else.
    ///
    /// # Errors
    /// The head is malformed, ambiguous or too large, or switches protocols unasked. The connection has to be closed.
    pub fn decode(&mut self, input: &[u8], asked: Asked, head: &mut ResponseHead) -> Result<DecodedResponse, Error> {
        let window = &input[..input.len().min(self.limits.head)];
        let full = window.len() == self.limits.head;
        if window.is_empty() || !self.search.worth_parsing(window) && !full {
            return Ok(DecodedResponse::Incomplete);
        }
        let length = match head.parse(window, asked, &self.limits) {
            Ok(None) if !full => return Ok(DecodedResponse::Incomplete),
            Ok(None) => Err(Error::HeadTooLarge),
            Ok(Some(length)) => Ok(length),
            Err(error) => Err(error),
        };
        self.search = Search::default();
        let length = length?;
        if head.status >= 200 || head.status == 101 {
            self.interim = 0;
            return Ok(DecodedResponse::Head(length));
        }
        // RFC 9110 §15.2: "A client MUST be able to parse one or more 1xx responses received prior to a final response".
        self.interim += 1;
        if self.interim > self.limits.interim {
            Err(Error::TooManyInterim)
        } else {
            Ok(DecodedResponse::Interim(length))
        }
    }
}

/// The head of an answer: its bytes, and where its parts lie in them.
///
/// Empty until a [`ResponseDecoder`] filled it; kept by its owner from answer to answer for its buffers.
#[derive(Debug, Clone, Default)]
pub struct ResponseHead {
    pub(crate) section: Section,
    pub(crate) facts: Facts,
    pub(crate) asked: Asked,
    reason: Span,
    status: u16,
    version: Version,
}

impl ResponseHead {
    /// The status code, 100 to 999.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The reason phrase; empty where it came empty or holds bytes beyond ASCII.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.section.text(self.reason)
    }

    /// The version that the upstream speaks.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The `nth` value (from 0) of the field `name`, whose case does not matter.
    #[must_use]
    pub fn nth(&self, name: &str, nth: usize) -> Option<&[u8]> {
        self.section.nth(name.as_bytes(), nth)
    }

    /// Every field in the order they came, name and value as they came.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        self.section.iter()
    }

    /// Where the body ends (RFC 9112 §6.3, in its order).
    #[must_use]
    pub fn framing(&self) -> Framing {
        match self.facts.length {
            // 1 and 2: no body "regardless of the header fields present in the message".
            _ if self.is_bodyless() || self.switches() => Framing::None,
            // 4, 6 and 8. 3 and 5 were refused when the head was decoded.
            _ if self.facts.chunked => Framing::Chunked,
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        }
    }

    /// Whether the upstream's connection can carry another request once the body was read (RFC 9112 §9.3).
    #[must_use]
    pub fn keep_alive(&self) -> bool {
        // RFC 9112 §6.1 forbids a 204 to name a coding. One that does may well send an empty chunked body behind it, which
        // would be read as the beginning of the next answer.
        let stray_body = self.facts.chunked && self.status == 204;
        self.facts.keep_alive(self.version) && self.framing() != Framing::UntilClose && !self.switches() && !stray_body
    }

    /// Whether another protocol follows the head: 101, or 2xx to `CONNECT`.
    #[must_use]
    pub fn switches(&self) -> bool {
        self.status == 101 || self.asked == Asked::Connect && matches!(self.status, 200..=299)
    }

    /// Whether answers like this one never have a body.
    pub(crate) fn is_bodyless(&self) -> bool {
        self.asked == Asked::Head || matches!(self.status, 100..=199 | 204 | 304)
    }

    /// Length of the head, or none where it is not whole.
    fn parse(&mut self, window: &[u8], asked: Asked, limits: &Limits) -> Result<Option<usize>, Error> {
        // httparse skips empty lines; here they are what a wrongly framed answer left behind.
        if matches!(window[0], b'\r' | b'\n') {
            return Err(Error::BadStatusLine);
        }
        let mut array = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let slots = &mut array[..limits.fields.min(MAX_FIELDS)];
        let config = httparse::ParserConfig::default();
        let length = match config.parse_response_with_uninit_headers(&mut response, window, slots) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(syntax_error(error, Error::BadStatusLine)),
        };
        let bytes = &window[..length];
        self.section.fill(bytes, response.headers)?;
        self.version = if response.version == Some(0) {
            Version::Http10
        } else {
            Version::Http11
        };
        self.status = response.code.unwrap_or_default();
        if self.status < 100 {
            return Err(Error::BadStatusLine);
        }
        let reason = response.reason.unwrap_or_default();
        self.reason = if reason.is_empty() {
            Span::default()
        } else {
            Span::of(reason.as_bytes(), bytes)
        };
        self.asked = asked;
        self.facts = Facts::read(&mut self.section, self.version)?;
        // RFC 9110 §15.2.2, §7.8: a server switches only to a protocol that the client named.
        if self.status == 101 && asked != Asked::Upgrade {
            return Err(Error::UnaskedSwitch);
        }
        Ok(Some(length))
    }
}
