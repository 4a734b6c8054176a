//! Writing heads: those that came, with the lines that change, and those that are made here.

use http::{HeaderName, HeaderValue};

use crate::body::{BodyEncoder, Framing, put_decimal, put_field, put_line};
use crate::section::{Field, Known, Section, is_token};
use crate::target::{Authority, is_authority, is_target};
use crate::{Asked, EncodeError, RequestHead, ResponseHead, Version};

/// A change to the fields of a head. What a name or a value of these types holds cannot split a head, so that it is not looked at
/// once more: that was 4 % of a proxied request's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit<'a> {
    /// One line with this value, in the place of all lines of that name.
    Set(&'a HeaderName, &'a HeaderValue),
    /// One more line.
    Add(&'a HeaderName, &'a HeaderValue),
    /// No line of that name.
    Remove(&'a HeaderName),
}

impl<'a> Edit<'a> {
    #[inline]
    fn name(self) -> &'a [u8] {
        match self {
            Self::Set(name, _) | Self::Add(name, _) | Self::Remove(name) => name.as_str().as_bytes(),
        }
    }

    /// The name, where lines of that name that came before go.
    #[inline]
    fn removes(self) -> Option<&'a [u8]> {
        match self {
            Self::Set(..) | Self::Remove(_) => Some(self.name()),
            Self::Add(..) => None,
        }
    }

    /// The line that it writes.
    #[inline]
    fn writes(self) -> Option<(&'a [u8], &'a [u8])> {
        match self {
            Self::Set(_, value) | Self::Add(_, value) => Some((self.name(), value.as_bytes())),
            Self::Remove(_) => None,
        }
    }
}

/// How a request goes on to its upstream.
#[derive(Debug, Clone, Copy, Default)]
pub struct Forward<'a> {
    /// The target in place of the one that came ([`RequestHead::path`], or the authority for `CONNECT`).
    pub target: Option<&'a [u8]>,
    /// The host in place of the one that came ([`RequestHead::authority`]).
    pub host: Option<&'a Authority>,
    /// The body's framing in place of the one that came, for a body that was buffered or replaced.
    pub body: Option<Framing>,
    /// The protocol to ask the upstream for; without it, `Upgrade` ends here.
    pub upgrade: Option<&'a [u8]>,
    /// Whether `Expect` goes on; it ends here where this side says 100 itself.
    pub expect: bool,
}

/// How an answer goes on to its client.
#[derive(Debug, Clone, Copy)]
pub struct Reply {
    /// The version that the client speaks.
    pub to: Version,
    /// Whether the client's connection should outlive the answer.
    pub keep_alive: bool,
    /// The status in place of the one that came.
    pub status: Option<u16>,
    /// The body's framing in place of the one that came, for a body that was buffered or replaced.
    pub body: Option<Framing>,
}

/// An answer that is made here.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// The status, 200 to 999.
    pub status: u16,
    /// What was asked: the answer to a `HEAD` has its head only.
    pub asked: Asked,
    /// The version that the client speaks.
    pub to: Version,
    /// Whether the client's connection should outlive the answer.
    pub keep_alive: bool,
    /// The body's framing.
    pub body: Framing,
}

impl RequestHead {
    /// Appends this head to `out` as it goes on: HTTP/1.1 (RFC 9110 §6.2: an intermediary sends its own version), without the
    /// fields that end at this hop, with `edits` in their order. Where the body goes is returned.
    ///
    /// An edit that names a [field of the codec's own](is_own_field) changes nothing.
    ///
    /// # Errors
    /// The target would split the head, or the body has no end; `out` is as it was.
    pub fn encode<'e, E>(&self, forward: &Forward<'_>, edits: E, out: &mut Vec<u8>) -> Result<BodyEncoder, EncodeError>
    where
        E: IntoIterator<Item = Edit<'e>>,
        E::IntoIter: Clone,
    {
        let before = out.len();
        let written = self.put(forward, edits.into_iter(), out);
        if written.is_err() {
            out.truncate(before);
        }
        written
    }

    fn put<'e>(
        &self,
        forward: &Forward<'_>,
        edits: impl Iterator<Item = Edit<'e>> + Clone,
        out: &mut Vec<u8>,
    ) -> Result<BodyEncoder, EncodeError> {
        let path = if self.path().is_empty() { self.target() } else { self.path() };
        let target = match forward.target {
            Some(target) if !is_target(target) => return Err(EncodeError::BadTarget),
            Some(target) => target,
            None => path.as_bytes(),
        };
        let host = forward.host.map_or(self.authority().as_bytes(), Authority::as_bytes);
        let body = forward.body.unwrap_or(self.framing());
        out.reserve(self.section.bytes.len() + 512);
        put_request_line(self.method().as_bytes(), target, host, out);
        put_kept(&self.section, forward.expect, edits.clone(), out);
        put_edits(edits, out);
        put_framing(body, out);
        if body == Framing::UntilClose {
            return Err(EncodeError::UnframedRequest);
        }
        // RFC 9110 §10.1.4: `TE` ends at each hop, and its sender names it in `Connection`. Trailers are what this side can take.
        match (forward.upgrade, self.facts.takes_trailers) {
            (Some(_), true) => out.extend_from_slice(b"te: trailers\r\nconnection: te, upgrade\r\n"),
            (Some(_), false) => out.extend_from_slice(b"connection: upgrade\r\n"),
            (None, true) => out.extend_from_slice(b"te: trailers\r\nconnection: te\r\n"),
            (None, false) => {}
        }
        if let Some(protocol) = forward.upgrade {
            put_field(b"upgrade", protocol, out)?;
        }
        out.extend_from_slice(b"\r\n");
        Ok(BodyEncoder::new(body))
    }
}

impl ResponseHead {
    /// Appends this head to `out` as it goes on to the client: HTTP/1.1, without the fields that end at this hop, with `edits`
    /// in their order. Where the body goes is returned, and whether the client's connection outlives it.
    ///
    /// A body that ended with the upstream's connection is chunked towards an HTTP/1.1 client; any body without a length ends
    /// with the connection towards an HTTP/1.0 client, who knows no chunks (RFC 9112 §6.1).
    ///
    /// An edit that names a [field of the codec's own](is_own_field) changes nothing.
    ///
    /// # Errors
    /// The status in place of the one that came is none; `out` is as it was.
    pub fn encode<'e, E>(&self, reply: &Reply, edits: E, out: &mut Vec<u8>) -> Result<(BodyEncoder, bool), EncodeError>
    where
        E: IntoIterator<Item = Edit<'e>>,
        E::IntoIter: Clone,
    {
        let before = out.len();
        let written = self.put(reply, edits.into_iter(), out);
        if written.is_err() {
            out.truncate(before);
        }
        written
    }

    fn put<'e>(
        &self,
        reply: &Reply,
        edits: impl Iterator<Item = Edit<'e>> + Clone,
        out: &mut Vec<u8>,
    ) -> Result<(BodyEncoder, bool), EncodeError> {
        out.reserve(self.section.bytes.len() + 256);
        let status = reply.status.unwrap_or(self.status());
        let reason = if status == self.status() {
            self.reason()
        } else {
            reason(status)
        };
        put_status_line(status, reason, out)?;
        put_kept(&self.section, true, edits.clone(), out);
        put_edits(edits, out);
        if status == 101 {
            out.extend_from_slice(b"connection: upgrade\r\n");
            if let Some(protocol) = self.nth("upgrade", 0) {
                put_field(b"upgrade", protocol, out)?;
            }
            out.extend_from_slice(b"\r\n");
            return Ok((BodyEncoder::new(Framing::UntilClose), false));
        }
        let tunnel = self.switches() && reply.status.is_none();
        let end = if tunnel {
            End {
                framing: None,
                encoder: BodyEncoder::new(Framing::UntilClose),
                keep_alive: true,
            }
        } else if bodyless(status, self.asked) {
            // RFC 9110 §8.6: the length that a body would have had may be told in answer to a HEAD, and in a 304.
            let told = reply.body.or(self.facts.length.map(Framing::Length));
            End::without_body(status, told, reply.keep_alive)
        } else {
            End::new(reply.body.unwrap_or(self.framing()), reply.to, reply.keep_alive)
        };
        end.put(reply.to, out);
        Ok((end.encoder, end.keep_alive && !tunnel))
    }
}

/// Appends the head of an answer that is made here, with `fields` in their order.
/// Where the body goes is returned, and whether the client's connection outlives it.
///
/// # Errors
/// A field would split the head or belongs to the codec; `out` is as it was.
pub fn encode_answer<'a>(
    answer: &Answer,
    fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    out: &mut Vec<u8>,
) -> Result<(BodyEncoder, bool), EncodeError> {
    let before = out.len();
    let written = put_status_line(answer.status, reason(answer.status), out).and_then(|()| put_lines(fields, out));
    if let Err(error) = written {
        out.truncate(before);
        return Err(error);
    }
    let end = if bodyless(answer.status, answer.asked) {
        End::without_body(answer.status, Some(answer.body), answer.keep_alive)
    } else {
        End::new(answer.body, answer.to, answer.keep_alive)
    };
    end.put(answer.to, out);
    Ok((end.encoder, end.keep_alive))
}

/// Appends the head of a request that is made here, with `fields` in their order. Where the body goes is returned.
///
/// # Errors
/// A part would split the head, a field belongs to the codec, or the body has no end; `out` is as it was.
pub fn encode_request<'a>(
    method: &[u8],
    target: &[u8],
    host: &[u8],
    body: Framing,
    fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    out: &mut Vec<u8>,
) -> Result<BodyEncoder, EncodeError> {
    if body == Framing::UntilClose {
        return Err(EncodeError::UnframedRequest);
    }
    if !is_token(method) {
        return Err(EncodeError::BadName);
    }
    if !is_target(target) {
        return Err(EncodeError::BadTarget);
    }
    if !host.is_empty() && !is_authority(host) {
        return Err(EncodeError::BadHost);
    }
    let before = out.len();
    put_request_line(method, target, host, out);
    if let Err(error) = put_lines(fields, out) {
        out.truncate(before);
        return Err(error);
    }
    put_framing(body, out);
    out.extend_from_slice(b"\r\n");
    Ok(BodyEncoder::new(body))
}

/// Whether the codec writes the field `name` itself, so that no edit and no field of a head that is made here may.
#[must_use]
pub fn is_own_field(name: &[u8]) -> bool {
    Known::of(name).is_own()
}

/// How the head of an answer ends.
struct End {
    /// The framing that the head tells.
    framing: Option<Framing>,
    encoder: BodyEncoder,
    keep_alive: bool,
}

impl End {
    fn new(framing: Framing, to: Version, keep_alive: bool) -> Self {
        // RFC 9112 §6.1: no `Transfer-Encoding` "unless the corresponding request indicates HTTP/1.1 (or later)".
        // §6.3: an answer without any framing ends with the connection, so that of an empty one is told.
        let framing = match (framing, to) {
            (Framing::None, _) => Framing::Length(0),
            (Framing::Chunked | Framing::UntilClose, Version::Http10) => Framing::UntilClose,
            (Framing::UntilClose, Version::Http11) => Framing::Chunked,
            (framing, _) => framing,
        };
        let keep_alive = keep_alive && framing != Framing::UntilClose;
        Self {
            framing: Some(framing),
            encoder: BodyEncoder::new(framing),
            keep_alive,
        }
    }

    /// RFC 9110 §8.6, RFC 9112 §6.1: neither length nor coding in a 1xx and a 204.
    fn without_body(status: u16, told: Option<Framing>, keep_alive: bool) -> Self {
        let framing = told.filter(|told| status >= 200 && status != 204 && matches!(told, Framing::Length(_)));
        Self {
            framing,
            encoder: BodyEncoder::nothing(),
            keep_alive,
        }
    }

    fn put(&self, to: Version, out: &mut Vec<u8>) {
        if let Some(framing) = self.framing {
            put_framing(framing, out);
        }
        // RFC 9112 §9.3, §9.6: each version names what it does not do by itself.
        match (to, self.keep_alive) {
            (Version::Http11, true) | (Version::Http10, false) => {}
            (Version::Http11, false) => out.extend_from_slice(b"connection: close\r\n"),
            (Version::Http10, true) => out.extend_from_slice(b"connection: keep-alive\r\n"),
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Whether an answer of this status to that request has no body (RFC 9112 §6.3).
fn bodyless(status: u16, asked: Asked) -> bool {
    asked == Asked::Head || matches!(status, 100..=199 | 204 | 304)
}

/// The first two lines of a request. RFC 9112 §3.2: `Host` goes first, and is sent empty where there is none.
fn put_request_line(method: &[u8], target: &[u8], host: &[u8], out: &mut Vec<u8>) {
    for part in [method, b" ", target, b" HTTP/1.1\r\nhost: ", host, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

fn put_status_line(status: u16, reason: &str, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if !(100..=999).contains(&status) {
        return Err(EncodeError::BadStatus);
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    put_decimal(u64::from(status), out);
    // RFC 9112 §4: the space stands even where no reason follows it.
    out.extend_from_slice(b" ");
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// The lines that go on as they came, in as few copies as there are gaps between them.
fn put_kept<'e>(section: &Section, expect: bool, edits: impl Iterator<Item = Edit<'e>> + Clone, out: &mut Vec<u8>) {
    let mut removed = Names::default();
    edits.clone().filter_map(Edit::removes).for_each(|name| _ = removed.add(name));
    let stays = |field: &Field| {
        let name = section.slice(field.name);
        let is_removed = || {
            removed.may_hold(name)
                && edits
                    .clone()
                    .filter_map(Edit::removes)
                    .any(|removed| removed.eq_ignore_ascii_case(name))
        };
        let ends = match field.known {
            Known::Other => false,
            Known::Expect => !expect,
            _ => true,
        };
        !ends && !field.listed && !is_removed()
    };
    let mut run = 0..0;
    for (index, field) in section.fields.iter().enumerate() {
        if !stays(field) {
            continue;
        }
        let line = section.line(index);
        if line.start != run.end {
            out.extend_from_slice(&section.bytes[run]);
            run = line;
        } else {
            run.end = line.end;
        }
    }
    out.extend_from_slice(&section.bytes[run]);
}

/// The lines that edits write, but for those that a later edit takes back.
fn put_edits<'e>(edits: impl Iterator<Item = Edit<'e>> + Clone, out: &mut Vec<u8>) {
    let mut names = Names::default();
    let mut apart = true;
    for edit in edits.clone() {
        apart &= names.add(edit.name());
    }
    let mut later = edits;
    while let Some(edit) = later.next() {
        let Some((name, value)) = edit.writes() else { continue };
        let taken_back = !apart && later.clone().filter_map(Edit::removes).any(|removed| removed == name);
        if !taken_back && !Known::of(name).is_own() {
            put_line(name, value, out);
        }
    }
}

/// A set of names that may hold more than was added to it. Most edits name what no other edit and no line of the head does, and
/// comparing each with each was 4 % of a proxied request's instructions.
#[derive(Debug, Clone, Copy, Default)]
struct Names(u64);

impl Names {
    /// The same in either case.
    #[inline]
    fn bit(name: &[u8]) -> u64 {
        let last = name.last().map_or(0, |last| usize::from(*last | 0x20));
        1 << ((name.len() * 5 + last) % 64)
    }

    /// Adds a name; whether it is certain that it was not there.
    #[inline]
    fn add(&mut self, name: &[u8]) -> bool {
        let is_new = !self.may_hold(name);
        self.0 |= Self::bit(name);
        is_new
    }

    #[inline]
    fn may_hold(self, name: &[u8]) -> bool {
        self.0 & Self::bit(name) != 0
    }
}

fn put_lines<'a>(fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    for (name, value) in fields {
        if Known::of(name).is_own() {
            return Err(EncodeError::Reserved);
        }
        put_field(name, value, out)?;
    }
    Ok(())
}

fn put_framing(framing: Framing, out: &mut Vec<u8>) {
    match framing {
        Framing::None | Framing::UntilClose => {}
        Framing::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            put_decimal(length, out);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
}

/// The reason phrases of the answers that a gateway makes (RFC 9110 §15); empty for others, which is as good (RFC 9112 §4).
fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
