//! The keys that issuers publish: where they are, how they are found there, and when they are fetched. All that drivers do with them
//! is decided here; what is left to a driver is to send the requests and to keep what came.
//!
//! The rules: what was fetched is used for `jwks_refresh` and then fetched again meanwhile; only what is older than twice that is
//! waited for. A key that is missing is worth one fetch in `jwks_cooldown`, whoever asks for it. Where an issuer cannot be reached, what
//! it said last holds. Each issuer is on its own.

mod schedule;
mod search;

pub use schedule::{Plan, Schedule};
pub use search::{Found, Search};

use std::fmt;
use std::time::Duration;

use jsonwebtoken::Algorithm;

use crate::auth::jwt::{keys, sets};

/// The longest answer of an issuer that is read, in bytes. Large providers publish a dozen keys with certificates in 30 KiB.
pub const MAX_ANSWER: usize = 256 << 10;

/// A set of keys that an issuer publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The `[auth.NAME]` that it is for.
    pub auth: String,
    /// Where it is.
    pub location: Location,
    /// For how long it is used before it is fetched again.
    pub refresh: Duration,
    /// The least time between two fetches.
    pub cooldown: Duration,
    /// How long a fetch may take.
    pub timeout: Duration,
    pub(crate) algorithms: Vec<Algorithm>,
}

/// Where a set of keys is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// At this URL.
    Jwks(String),
    /// Where the issuer of this name says (OpenID Connect Discovery 1.0).
    Issuer(String),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jwks(url) => f.write_str(url),
            Self::Issuer(issuer) => write!(f, "where {issuer} says"),
        }
    }
}

impl Published {
    pub(crate) fn new(auth: String, location: Location, algorithms: Vec<Algorithm>) -> Self {
        Self {
            auth,
            location,
            refresh: Duration::from_secs(600),
            cooldown: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
            algorithms,
        }
    }

    /// Whether a text is a set that has a key for this `[auth]`. One that is not never replaces one that is.
    ///
    /// # Errors
    /// In words: what is wrong with it.
    pub fn check(&self, text: &[u8]) -> Result<(), String> {
        keys::fetched_set(&self.auth, text, &self.algorithms).map(|_| ())
    }
}

/// By what one text of a set is told from another.
#[must_use]
pub fn version(text: &[u8]) -> u64 {
    sets::version(text)
}

/// Whether keys may be fetched from there: over TLS, or from this very machine.
pub(crate) fn check_url(text: &str) -> Result<(), &'static str> {
    let Ok(url) = text.parse::<http::Uri>() else {
        return Err("this is not a URL");
    };
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    if host.is_empty() || url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("this is not the URL of a server");
    }
    let is_here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match url.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if is_here => Ok(()),
        Some("http") => Err("keys that come over plain HTTP can be anybody's"),
        _ => Err("this is not an https URL"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_fetched_over_tls_or_from_this_machine_alone() {
        for fine in [
            "https://id.example/jwks.json",
            "https://id.example:8443/a?b=c",
            "http://127.0.0.1:4/",
            "http://localhost:4/a",
            "http://[::1]:4/a",
        ] {
            assert_eq!(check_url(fine), Ok(()), "{fine}");
        }
        for wrong in [
            "http://id.example/jwks.json",
            "http://127.0.0.1.example/",
            "ftp://id.example/",
            "/jwks.json",
            "id.example",
            "https://",
            "https://user@id.example/",
            "",
        ] {
            assert!(check_url(wrong).is_err(), "{wrong}");
        }
    }
}
