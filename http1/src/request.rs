//! Reading the head of a request.

use std::mem::MaybeUninit;

use crate::body::Framing;
use crate::facts::Facts;
use crate::section::{Section, Span};
use crate::target::{Form, Path, Target, is_authority};
use crate::{Asked, Error, Limits, MAX_FIELDS, Version};

/// What HTTP/2 begins a connection with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the bytes so far amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded {
    /// The head is not whole: read more, and decode again from the same beginning.
    Incomplete,
    /// The head is whole and took this many bytes; the body begins behind them.
    Head(usize),
    /// The connection begins with the preface of HTTP/2; nothing is consumed.
    Http2,
}

/// Reads the heads of one connection's requests.
#[derive(Debug)]
pub struct RequestDecoder {
    limits: Limits,
    search: Search,
    /// Whether this is the connection's first message: the only one that a preface may stand before.
    first: bool,
}

impl RequestDecoder {
    /// A decoder for a connection.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            search: Search::default(),
            first: true,
        }
    }

    /// Reads a request head from the beginning of `input` into `head`, whose former content goes.
    ///
    /// Where the head is not whole, `input` must hold the same bytes and more the next time. A head in many pieces is parsed at
    /// its first piece (what is wrong from the beginning is refused at once) and when its end was seen, so the cost stays
    /// linear. Nothing is allocated once `head` has grown to the connection's usual size.
    ///
    /// # Errors
    /// The head is malformed, ambiguous or too large. The connection's bytes have no meaning from here on.
    pub fn decode(&mut self, input: &[u8], head: &mut RequestHead) -> Result<Decoded, Error> {
        if self.first && input.first() == Some(&b'P') && PREFACE.starts_with(&input[..input.len().min(PREFACE.len())]) {
            return Ok(if input.len() < PREFACE.len() {
                Decoded::Incomplete
            } else {
                Decoded::Http2
            });
        }
        // RFC 9112 §2.2: a server "SHOULD ignore at least one empty line (CRLF) received prior to the request-line".
        let skipped = match input {
            [b'\r'] => return Ok(Decoded::Incomplete),
            [b'\r', b'\n', ..] => 2,
            _ => 0,
        };
        let window = &input[skipped..input.len().min(skipped + self.limits.head)];
        let full = window.len() == self.limits.head;
        if window.is_empty() || !self.search.worth_parsing(window) && !full {
            return Ok(Decoded::Incomplete);
        }
        let parsed = head.parse(window, &self.limits);
        match parsed {
            Ok(None) if !full => return Ok(Decoded::Incomplete),
            Ok(None) => {
                self.search = Search::default();
                return Err(too_large(window, self.limits.target));
            }
            Ok(Some(_)) | Err(_) => self.search = Search::default(),
        }
        self.first = false;
        parsed.map(|length| Decoded::Head(skipped + length.unwrap_or_default()))
    }
}

/// How far the end of a head was looked for, so that a head that trickles in is not parsed with every byte.
#[derive(Debug, Default)]
pub(crate) struct Search {
    /// Bytes that hold no end; none before the first parse.
    seen: Option<usize>,
}

impl Search {
    /// True for the first bytes of a head, and when an empty line was found since.
    ///
    /// A line that ends in a bare LF counts, so that the parser sees it and the head is refused.
    pub(crate) fn worth_parsing(&mut self, window: &[u8]) -> bool {
        let from = self.seen.replace(window.len());
        // Two bytes are looked at again: they may be the LF and the CR before the LF that came.
        let Some(from) = from else { return true };
        let fresh = &window[from.min(window.len()).saturating_sub(2)..];
        (0..fresh.len()).any(|at| fresh[at..].starts_with(b"\n\r\n") || fresh[at..].starts_with(b"\n\n"))
    }
}

/// Which part of a head without an end is too long.
fn too_large(window: &[u8], limit: usize) -> Error {
    let target = window.split(|&byte| byte == b' ').nth(1).unwrap_or_default();
    if target.len() > limit {
        Error::UriTooLong
    } else {
        Error::HeadTooLarge
    }
}

/// The head of a request: its bytes, and where its parts lie in them.
///
/// Empty until a [`RequestDecoder`] filled it; kept by its owner from request to request for its buffers.
#[derive(Debug, Clone, Default)]
pub struct RequestHead {
    pub(crate) section: Section,
    pub(crate) facts: Facts,
    /// What is asked for as text: a second copy of some sixty bytes, so that they are not checked to be UTF-8 each time that they are
    /// asked for.
    line: String,
    method: Span,
    target: Span,
    authority: Span,
    path: Span,
    form: Form,
    version: Version,
}

impl RequestHead {
    /// The method, case-sensitive (RFC 9110 §9.1).
    #[must_use]
    pub fn method(&self) -> &str {
        &self.line[self.method.range()]
    }

    /// The version that the client speaks.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The target as it came.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.line[self.target.range()]
    }

    /// The form that the target came in.
    #[must_use]
    pub fn form(&self) -> Form {
        self.form
    }

    /// The host, and the port where one was told: of the target where it has one, else of `Host` (RFC 9112 §3.2.2, §3.3).
    /// Empty only for an HTTP/1.0 request without either.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.line[self.authority.range()]
    }

    /// Path and query in origin form, whatever form the target came in; `*` for the asterisk form, empty for `CONNECT`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.line[self.path.range()]
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

    /// Where the body ends (RFC 9112 §6.3): never with the connection.
    #[must_use]
    pub fn framing(&self) -> Framing {
        match self.facts.length {
            _ if self.facts.chunked => Framing::Chunked,
            Some(length) => Framing::Length(length),
            None => Framing::None,
        }
    }

    /// Whether the client means to send more requests on this connection (RFC 9112 §9.3).
    #[must_use]
    pub fn keep_alive(&self) -> bool {
        self.facts.keep_alive(self.version) && self.form != Form::Authority
    }

    /// Whether the client waits for a 100 before it sends the body (RFC 9110 §10.1.1, which has servers ignore that from HTTP/1.0
    /// clients).
    #[must_use]
    pub fn expects_continue(&self) -> bool {
        let has_body = !matches!(self.framing(), Framing::None | Framing::Length(0));
        self.facts.expects_continue && self.version == Version::Http11 && has_body
    }

    /// The protocols that the client asks to switch to: the value of `Upgrade` where `Connection` names it, there is one line of
    /// it, and the version is 1.1 (RFC 9110 §7.8).
    #[must_use]
    pub fn upgrade(&self) -> Option<&[u8]> {
        let index = self.facts.upgrade(self.version)?;
        Some(self.section.slice(self.section.fields[index].value))
    }

    /// What a [`ResponseDecoder`](crate::ResponseDecoder) has to know of this request, where it is forwarded without an upgrade.
    #[must_use]
    pub fn asked(&self) -> Asked {
        match self.method() {
            "HEAD" => Asked::Head,
            "CONNECT" => Asked::Connect,
            _ => Asked::Plain,
        }
    }

    /// Length of the head, or none where it is not whole.
    fn parse(&mut self, window: &[u8], limits: &Limits) -> Result<Option<usize>, Error> {
        // httparse skips any number of empty lines; one was skipped already.
        if matches!(window[0], b'\r' | b'\n') {
            return Err(Error::BadRequestLine);
        }
        let mut array = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut []);
        let slots = &mut array[..limits.fields.min(MAX_FIELDS)];
        let length = match request.parse_with_uninit_headers(window, slots) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::Version) => return version_error(window).map_or(Ok(None), Err),
            Err(error) => return Err(syntax_error(error, Error::BadRequestLine)),
        };
        let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
        if target.len() > limits.target {
            return Err(Error::UriTooLong);
        }
        let bytes = &window[..length];
        self.section.fill(bytes, request.headers)?;
        self.version = if request.version == Some(0) {
            Version::Http10
        } else {
            Version::Http11
        };
        self.facts = Facts::read(&mut self.section, self.version)?;
        self.line.clear();
        self.method = self.add(method);
        self.target = self.add(target);
        self.locate(method, target)?;
        // RFC 9110 §9.3.6: what follows a CONNECT is not content, and a server could read it either way.
        if self.form == Form::Authority && self.framing() != Framing::None {
            return Err(Error::ConnectWithBody);
        }
        Ok(Some(length))
    }

    /// Finds authority and path (RFC 9112 §3.2, §3.3).
    fn locate(&mut self, method: &str, target: &str) -> Result<(), Error> {
        let host = match self.facts.host {
            Some(index) => {
                let host = self.section.slice(self.section.fields[index].value);
                // RFC 9112 §3.2: 400 to a request "with an invalid field value". §3.3 allows to reject an empty one, as it names no http
                // URI.
                let host = std::str::from_utf8(host).ok().filter(|host| is_authority(host.as_bytes()));
                let host = host.ok_or(Error::BadHost)?;
                let start = self.line.len();
                self.line.push_str(host);
                Span::new(start, self.line.len())
            }
            // RFC 9112 §3.2: 400 "to any HTTP/1.1 request message that lacks a Host header field".
            None if self.version == Version::Http11 => return Err(Error::MissingHost),
            None => Span::default(),
        };
        (self.form, self.authority, self.path) = match Target::read(method, target)? {
            Target::Origin => (Form::Origin, host, self.target),
            Target::Asterisk => (Form::Asterisk, host, self.target),
            Target::Authority => (Form::Authority, self.target, Span::default()),
            // RFC 9112 §3.2.2: Host is ignored in favour of the target's own.
            Target::Absolute { authority, path } => {
                let authority = self.add(authority);
                let path = match path {
                    Path::Whole(path) => self.add(path),
                    Path::Query(query) => {
                        let slash = self.add("/");
                        Span::new(slash.start(), self.add(query).end())
                    }
                    Path::Empty if method == "OPTIONS" => self.add("*"),
                    Path::Empty => self.add("/"),
                };
                (Form::Absolute, authority, path)
            }
        };
        Ok(())
    }

    /// Appends to the text.
    fn add(&mut self, part: &str) -> Span {
        let start = self.line.len();
        self.line.push_str(part);
        Span::new(start, self.line.len())
    }
}

/// What httparse says, in this crate's words.
pub(crate) fn syntax_error(error: httparse::Error, first_line: Error) -> Error {
    match error {
        httparse::Error::HeaderName => Error::BadFieldName,
        httparse::Error::HeaderValue => Error::BadFieldValue,
        httparse::Error::NewLine => Error::BadLineEnd,
        httparse::Error::TooManyHeaders => Error::TooManyFields,
        httparse::Error::Token | httparse::Error::Status | httparse::Error::Version => first_line,
    }
}

/// 505 for a version that is one (RFC 9112 §2.3: `HTTP/` DIGIT `.` DIGIT), 400 for anything else in its place, and none where
/// too little of it came to tell: the status must not depend on how the network cuts the line.
fn version_error(window: &[u8]) -> Option<Error> {
    let third = window.splitn(3, |&byte| byte == b' ').nth(2).unwrap_or_default();
    match third {
        [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'0'..=b'9',
            b'.',
            b'0'..=b'9',
            b'\r' | b'\n',
            ..,
        ] => Some(Error::UnsupportedVersion),
        cut if cut.len() < b"HTTP/1.1\r".len() && !cut.contains(&b'\n') => None,
        _ => Some(Error::BadRequestLine),
    }
}
