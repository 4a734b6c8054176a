//! The four forms of a request target (RFC 9112 §3.2).

use std::net::Ipv6Addr;

use crate::Error;
use crate::section::{all_in, table};

/// The form that a request target came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// `/path?query` (RFC 9112 §3.2.1).
    #[default]
    Origin,
    /// `http://host/path?query`, which every server must accept (RFC 9112 §3.2.2).
    Absolute,
    /// `host:port`, of `CONNECT` alone (RFC 9112 §3.2.3).
    Authority,
    /// `*`, of `OPTIONS` alone (RFC 9112 §3.2.4).
    Asterisk,
}

/// A target cut into its parts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    Origin,
    Absolute { authority: &'a str, path: Path<'a> },
    Authority,
    Asterisk,
}

/// What follows the authority of an absolute target, in origin form.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Path<'a> {
    /// It begins with a slash.
    Whole(&'a str),
    /// An empty path with a query: a slash goes before it (RFC 9112 §3.2.1).
    Query(&'a str),
    /// Nothing: `/`, or `*` where the method is `OPTIONS` (RFC 9112 §3.2.4).
    Empty,
}

impl<'a> Target<'a> {
    pub(crate) fn read(method: &str, target: &'a str) -> Result<Self, Error> {
        if !is_target(target.as_bytes()) {
            return Err(Error::BadTarget);
        }
        // RFC 9112 §3.2.3: "only used for CONNECT requests", and CONNECT takes no other.
        if method == "CONNECT" {
            let (_, port) = split_authority(target.as_bytes()).ok_or(Error::BadTarget)?;
            // RFC 9110 §9.3.6: an empty or invalid port is rejected.
            return if port.is_some_and(|port| !port.is_empty()) {
                Ok(Self::Authority)
            } else {
                Err(Error::BadTarget)
            };
        }
        match target {
            _ if target.starts_with('/') => Ok(Self::Origin),
            "*" if method == "OPTIONS" => Ok(Self::Asterisk),
            _ => Self::absolute(target).ok_or(Error::BadTarget),
        }
    }

    fn absolute(target: &'a str) -> Option<Self> {
        let scheme = ["http://", "https://"].into_iter().find(|scheme| {
            target
                .get(..scheme.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        })?;
        let rest = &target[scheme.len()..];
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        // RFC 9110 §4.2.1 refuses an empty host, §4.2.4 advises to treat user information as an error.
        split_authority(authority.as_bytes())?;
        let path = match path.as_bytes().first() {
            None => Path::Empty,
            Some(b'/') => Path::Whole(path),
            Some(_) => Path::Query(path),
        };
        Some(Self::Absolute { authority, path })
    }
}

/// A host to send, `uri-host [ ":" port ]`, looked at once instead of with every request that it is written into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority(Box<[u8]>);

impl Authority {
    /// None where the bytes are no host.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        is_authority(bytes).then(|| Self(bytes.into()))
    }

    /// The host as it was given.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The bytes of RFC 3986 that a target may hold, and four more (`^`, `{`, `|`, `}`) that clients send unencoded and that
/// no parser takes for a delimiter. `#` begins a fragment, which is not part of a target; `\` is a slash to some servers.
static TARGET: [bool; 256] = table(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~%!$&'()*+,;=:@/?[]^{|}");

/// `unreserved` and `sub-delims` of RFC 3986 §3.2.2.
static HOST: [bool; 256] = table(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=");

/// Whether every byte may stand in a target.
pub(crate) fn is_target(target: &[u8]) -> bool {
    !target.is_empty() && all_in(&TARGET, target)
}

/// Whether `authority` is `uri-host [ ":" port ]` with a host that is not empty.
pub(crate) fn is_authority(authority: &[u8]) -> bool {
    split_authority(authority).is_some()
}

/// Host and port of `uri-host [ ":" port ]` (RFC 3986 §3.2.2, §3.2.3).
///
/// Percent-encoding in a name and `IPvFuture` are refused: no name in use needs them, and they are two spellings of one host.
fn split_authority(authority: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let (host, port) = if authority.first() == Some(&b'[') {
        let end = authority.iter().position(|&byte| byte == b']')? + 1;
        let address = std::str::from_utf8(&authority[1..end - 1]).ok()?;
        address.parse::<Ipv6Addr>().ok()?;
        match &authority[end..] {
            [] => (&authority[..end], None),
            [b':', port @ ..] => (&authority[..end], Some(port)),
            _ => return None,
        }
    } else {
        let end = authority.iter().position(|&byte| byte == b':').unwrap_or(authority.len());
        let (host, port) = (&authority[..end], authority.get(end + 1..));
        if host.is_empty() || !all_in(&HOST, host) {
            return None;
        }
        (host, port)
    };
    let is_port = |port: &[u8]| {
        let digit = |byte: &u8| byte.is_ascii_digit().then(|| u16::from(byte - b'0'));
        port.iter()
            .try_fold(0_u16, |sum, byte| sum.checked_mul(10)?.checked_add(digit(byte)?))
            .is_some()
    };
    match port {
        Some(port) if !is_port(port) => None,
        _ => Some((host, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_the_form_that_its_method_takes() {
        let cases: &[(&str, &str, Option<Form>)] = &[
            ("GET", "/", Some(Form::Origin)),
            ("GET", "//evil.example/a", Some(Form::Origin)),
            ("GET", "/a?b=c&d={e}|", Some(Form::Origin)),
            ("OPTIONS", "*", Some(Form::Asterisk)),
            ("GET", "*", None),
            ("OPTIONS", "**", None),
            ("GET", "http://a.example/b", Some(Form::Absolute)),
            ("GET", "HTTPS://a.example:8443?x", Some(Form::Absolute)),
            ("GET", "http://[::1]:80/", Some(Form::Absolute)),
            ("GET", "http:///b", None),
            ("GET", "http://u:p@a.example/", None),
            ("GET", "http://a.example:99999/", None),
            ("GET", "ftp://a.example/", None),
            ("GET", "a.example:80", None),
            ("GET", "a", None),
            ("CONNECT", "a.example:443", Some(Form::Authority)),
            ("CONNECT", "[::1]:443", Some(Form::Authority)),
            ("CONNECT", "a.example", None),
            ("CONNECT", "a.example:", None),
            ("CONNECT", "/a", None),
            ("CONNECT", "http://a.example/", None),
            ("GET", "/a#b", None),
            ("GET", "/a\\b", None),
            ("GET", "/\u{e9}", None),
            ("GET", "/a<b>", None),
            ("GET", "/a?\"b", None),
        ];
        for (method, target, form) in cases {
            let read = Target::read(method, target).ok().map(|target| match target {
                Target::Origin => Form::Origin,
                Target::Absolute { .. } => Form::Absolute,
                Target::Authority => Form::Authority,
                Target::Asterisk => Form::Asterisk,
            });
            assert_eq!(read, *form, "{method} {target}");
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address_with_an_optional_port() {
        for good in [
            "a",
            "a.example",
            "a.example:80",
            "a:",
            "127.0.0.1:1",
            "[::1]",
            "[fe80::1]:443",
            "x_y-z",
            "*.a",
        ] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for bad in [
            "", ":80", "a b", "a/b", "a@b", "a:b", "a:1:2", "a:65536", "[::1", "::1", "[::1]x", "[v1.a]", "a%41", "a,\tb", "[]",
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
    }
}
