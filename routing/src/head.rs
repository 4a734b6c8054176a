//! The head of a request as the table and the policies read it, however its driver stores it.

use http::HeaderMap;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

use crate::filter::Reference;

/// The header fields of a message. Names are lower case.
pub trait Fields {
    /// The `nth` value (from 0) of the field `name`.
    fn nth(&self, name: &str, nth: usize) -> Option<&[u8]>;
}

impl dyn Fields + '_ {
    /// The first value of the field `name`.
    #[must_use]
    pub fn first(&self, name: &str) -> Option<&[u8]> {
        self.nth(name, 0)
    }

    /// The first value of the field `name`, where it is visible text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.first(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The value of the first cookie of that name (RFC 6265 §5.4).
    #[must_use]
    pub fn cookie(&self, name: &str) -> Option<&str> {
        let lines = (0..).map_while(|nth| self.nth("cookie", nth));
        let pairs = lines
            .filter_map(|line| std::str::from_utf8(line).ok())
            .flat_map(|line| line.split(';'));
        let mut named = pairs
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(|(own, _)| *own == name);
        named.next().map(|(_, value)| value.trim_matches('"'))
    }

    /// What is referred to, where that is a field or a cookie of the request. Of two lines of a field none is taken: a proxy
    /// before us may have judged the other one.
    #[must_use]
    pub fn referred(&self, reference: &Reference) -> Option<&str> {
        match reference {
            Reference::Header(name) if self.nth(name.as_str(), 1).is_none() => self.text(name.as_str()),
            Reference::Cookie(name) => self.cookie(name),
            _ => None,
        }
    }

    /// Every value of the field `name`, in the order they came.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        (0..).map_while(move |nth| self.nth(name, nth))
    }
}

impl Fields for HeaderMap {
    fn nth(&self, name: &str, nth: usize) -> Option<&[u8]> {
        self.get_all(name).iter().nth(nth).map(http::HeaderValue::as_bytes)
    }
}

/// The scheme by which the request reached its listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// Over TLS.
    Https,
}

/// A request's head and the connection it came by.
#[derive(Clone, Copy)]
pub struct RequestHead<'a> {
    /// The method, case-sensitive (RFC 9110 §9.1).
    pub method: &'a str,
    /// The scheme of the listener.
    pub scheme: Scheme,
    /// `Host` or `:authority` as it came, port included; empty where there was none.
    pub authority: &'a str,
    /// Path and query in origin form (RFC 9112 §3.2.1), as it came.
    pub target: &'a str,
    /// The header fields.
    pub fields: &'a dyn Fields,
    /// The address that the connection came from.
    pub peer: Option<IpAddr>,
}
