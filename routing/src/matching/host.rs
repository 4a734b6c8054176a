//! Hosts: exact names, and names below a suffix.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::fmt;

use memchr::memchr;

/// The hosts that a rule is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `*`: any host, and requests without one.
    Any,
    /// `api.bank.example`, in lower case and without a trailing dot.
    Exact(Box<str>),
    /// `*.bank.test`, kept as `.bank.test`.
    ///
    /// > Hostnames that are prefixed with a wildcard label (`*.`) are interpreted as a suffix match. That means that a match for
    /// > `*.example.com` would match both `test.example.com`, and `foo.test.example.com`, but not `example.com`. (Gateway API,
    /// > `HTTPRouteSpec`)
    Below(Box<str>),
}

/// How specific a host pattern is; the smaller comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostRank {
    /// An exact name.
    Exact,
    /// A wildcard, the longer first.
    Below(Reverse<usize>),
    /// Any host.
    Any,
}

/// Why a text is no host pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// It is empty.
    #[error("the host is empty")]
    Empty,
    /// It has a port.
    #[error("a host is matched without its port")]
    Port,
    /// A `*` that is not the whole first label.
    #[error("`*` may only be the whole first label, as in *.bank.example")]
    Wildcard,
    /// A character or a length that no name has.
    #[error("not a host name: letters, digits and - in labels of 1 to 63, joined by dots")]
    Name,
}

impl HostPattern {
    /// Reads `api.bank.example`, `*.bank.test`, `*`, `127.0.0.1` or `[::1]`.
    ///
    /// # Errors
    ///
    /// Where it is none of them.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let text = text.to_ascii_lowercase();
        let text = text.strip_suffix('.').unwrap_or(&text);
        if let Some(address) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            let valid = address.parse::<std::net::Ipv6Addr>().is_ok();
            return if valid {
                Ok(Self::Exact(text.into()))
            } else {
                Err(HostError::Name)
            };
        }
        let (pattern, name) = match text.strip_prefix("*.") {
            Some(name) => (Self::Below(format!(".{name}").into()), name),
            None => (Self::Exact(text.into()), text),
        };
        match name {
            "" => Err(HostError::Empty),
            name if name.contains('*') => Err(HostError::Wildcard),
            name if name.contains(':') => Err(HostError::Port),
            name if !is_name(name) => Err(HostError::Name),
            _ => Ok(pattern),
        }
    }

    /// Whether a host matches that is in lower case and has neither port nor trailing dot.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(name) => **name == *host,
            Self::Below(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
        }
    }

    /// How specific it is.
    #[must_use]
    pub fn rank(&self) -> HostRank {
        match self {
            Self::Exact(_) => HostRank::Exact,
            Self::Below(suffix) => HostRank::Below(Reverse(suffix.len())),
            Self::Any => HostRank::Any,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => f.write_str(name),
            Self::Below(suffix) => write!(f, "*{suffix}"),
        }
    }
}

fn is_name(name: &str) -> bool {
    // `_` is in no host name, but in names that people resolve.
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// What is to be said of a host's bytes, a bit each, so that one look at all of them says it.
const CAPITAL: u8 = 1;
const FORBIDDEN: u8 = 2;

/// The bytes that a host may have: letters, digits, and what RFC 3986 §3.2.2 has besides, of which names in use have few.
static HOST: [u8; 256] = {
    let others = b"-._~!$&'()*+,;=%[]:";
    let mut table = [FORBIDDEN; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        if byte.is_ascii_alphanumeric() {
            table[byte as usize] = if byte.is_ascii_uppercase() { CAPITAL } else { 0 };
        }
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = 0;
        at += 1;
    }
    table
};

/// The host of a `Host` field or an `:authority`, without its port and trailing dot, in lower case; empty stays empty.
/// None where it is none (RFC 9112 §3.2 answers that with 400).
#[must_use]
pub fn split_authority(authority: &str) -> Option<Cow<'_, str>> {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (&authority[..address.len() + 2], rest)
        }
        None => authority.split_at(memchr(b':', authority.as_bytes()).unwrap_or(authority.len())),
    };
    let port_is_valid = port
        .strip_prefix(':')
        .map_or(port.is_empty(), |digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let said = host.bytes().fold(0, |said, byte| said | HOST[usize::from(byte)]);
    if !port_is_valid || said & FORBIDDEN != 0 {
        return None;
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    if said & CAPITAL != 0 {
        return Some(Cow::Owned(host.to_ascii_lowercase()));
    }
    Some(Cow::Borrowed(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_takes_one_or_more_labels() {
        let wildcard = HostPattern::parse("*.Bank.test").unwrap();
        assert!(wildcard.matches("api.bank.test") && wildcard.matches("v2.api.bank.test"));
        assert!(!wildcard.matches("bank.test") && !wildcard.matches(".bank.test") && !wildcard.matches("notbank.test"));
    }

    #[test]
    fn a_pattern_that_can_never_match_is_refused() {
        for (text, error) in [
            ("", HostError::Empty),
            ("api.bank.example:8080", HostError::Port),
            ("a.*.example", HostError::Wildcard),
            ("*bank.example", HostError::Wildcard),
            ("*.", HostError::Wildcard),
            ("bank..example", HostError::Name),
            ("bank example", HostError::Name),
            ("bänk.example", HostError::Name),
            ("[::1", HostError::Port),
            ("[zz]", HostError::Name),
        ] {
            assert_eq!(HostPattern::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn letter_case_port_and_trailing_dot_do_not_count() {
        for (authority, host) in [
            ("API.bank.example", "api.bank.example"),
            ("api.bank.example:8080", "api.bank.example"),
            ("api.bank.example.", "api.bank.example"),
            ("api.bank.example.:80", "api.bank.example"),
            ("127.0.0.1:8080", "127.0.0.1"),
            ("[::1]:8080", "[::1]"),
            ("[::1]", "[::1]"),
            ("localhost:", "localhost"),
            ("", ""),
        ] {
            assert_eq!(split_authority(authority).as_deref(), Some(host), "{authority}");
        }
    }

    #[test]
    fn an_authority_that_is_none_is_refused() {
        for authority in [
            "user@bank.example",
            "a b",
            "a/b",
            "bank:80x",
            "[::1",
            "[::1]x",
            "[x]:80",
            "a:1:2",
            "b\u{e4}nk",
            "a\u{0}",
        ] {
            assert_eq!(split_authority(authority), None, "{authority}");
        }
    }

    #[test]
    fn an_exact_host_ranks_before_a_wildcard_and_a_longer_one_before_a_shorter() {
        let rank = |text| HostPattern::parse(text).unwrap().rank();
        assert!(rank("a.b.test") < rank("*.b.test") && rank("*.b.test") < rank("*.test") && rank("*.test") < rank("*"));
    }
}
