//! The SPIFFE ID (SPIFFE-ID §2): `spiffe://TRUST-DOMAIN/PATH`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::ServiceName;
use crate::trust_domain::{self, TrustDomain, TrustDomainError};

const SCHEME: &str = "spiffe://";
const SERVICE: &str = "/service/";
/// SPIFFE-ID §2.3.
const MAX_BYTES: usize = 2048;

/// A SPIFFE ID. Two are equal exactly where their texts are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path begins in `text`, which is its end where there is none.
    path: usize,
}

impl SpiffeId {
    /// The ID of `path` in `trust_domain`; the path is empty or begins with `/`.
    ///
    /// # Errors
    /// [`IdError`] where the path is malformed or the ID would be longer than 2048 bytes.
    pub fn new(trust_domain: &TrustDomain, path: &str) -> Result<Self, IdError> {
        if !path.is_empty() && !path.starts_with('/') {
            return Err(IdError::RelativePath);
        }
        format!("{SCHEME}{trust_domain}{path}").parse()
    }

    /// The ID of a service: `spiffe://TRUST-DOMAIN/service/NAME`.
    #[must_use]
    pub fn of_service(trust_domain: &TrustDomain, service: &ServiceName) -> Self {
        let text: Arc<str> = format!("{SCHEME}{trust_domain}{SERVICE}{service}").into();
        Self {
            path: SCHEME.len() + trust_domain.as_str().len(),
            text,
        }
    }

    /// The whole ID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain::new(self.trust_domain_str()).expect("checked when the ID was parsed")
    }

    /// Whether `trust_domain` is the one that vouches for this ID.
    #[must_use]
    pub fn is_member_of(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain_str() == trust_domain.as_str()
    }

    /// The path with its leading `/`; empty for the ID of the trust domain itself.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.get(self.path..).unwrap_or_default()
    }

    /// The service that this ID names, where its path is `/service/NAME`.
    #[must_use]
    pub fn service(&self) -> Option<ServiceName> {
        ServiceName::new(self.path().strip_prefix(SERVICE)?).ok()
    }

    fn trust_domain_str(&self) -> &str {
        self.text.get(SCHEME.len()..self.path).unwrap_or_default()
    }
}

impl FromStr for SpiffeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_BYTES {
            return Err(IdError::TooLong(text.len()));
        }
        let rest = text.strip_prefix(SCHEME).ok_or(IdError::Scheme)?;
        let (trust_domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        trust_domain::check(trust_domain)?;
        check_path(path)?;
        Ok(Self {
            text: text.into(),
            path: SCHEME.len() + trust_domain.len(),
        })
    }
}

/// SPIFFE-ID §2.2: segments of letters, digits, `.`, `-` and `_`; none is empty, `.` or `..`; no trailing slash. That rules
/// out percent-encoding, so that no two texts mean one path, and a query or a fragment too.
fn check_path(path: &str) -> Result<(), IdError> {
    let Some(segments) = path.strip_prefix('/') else {
        return Ok(());
    };
    for segment in segments.split('/') {
        match segment {
            "" => return Err(IdError::EmptySegment),
            "." | ".." => return Err(IdError::DotSegment),
            _ => {}
        }
        if let Some(character) = segment
            .chars()
            .find(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_'))
        {
            return Err(IdError::Character(character));
        }
    }
    Ok(())
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.text, f)
    }
}

/// Why a text is not a SPIFFE ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// Another scheme, or none.
    #[error("a SPIFFE ID begins with `spiffe://`")]
    Scheme,
    /// More than 2048 bytes.
    #[error("the SPIFFE ID has {0} bytes, which may be at most 2048")]
    TooLong(usize),
    /// A malformed trust domain.
    #[error(transparent)]
    TrustDomain(#[from] TrustDomainError),
    /// `//`, or a slash at the end.
    #[error("the path has an empty segment; it neither ends with `/` nor has `//`")]
    EmptySegment,
    /// `.` or `..`.
    #[error("`.` and `..` may not be segments of the path")]
    DotSegment,
    /// A character outside the set.
    #[error("{0:?} may not stand in the path, which is made of letters, digits, `.`, `-`, `_` and `/`")]
    Character(char),
    /// A path without its leading slash.
    #[error("the path begins with `/`")]
    RelativePath,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<SpiffeId, IdError> {
        text.parse()
    }

    #[test]
    fn an_id_is_a_trust_domain_and_a_path() {
        let id = parse("spiffe://bank.example/service/accounts").unwrap();
        assert_eq!(id.trust_domain().as_str(), "bank.example");
        assert_eq!(id.path(), "/service/accounts");
        assert_eq!(id.service(), ServiceName::new("accounts").ok());
    }

    #[test]
    fn the_id_of_a_trust_domain_has_no_path() {
        let id = parse("spiffe://bank.example").unwrap();
        assert_eq!((id.path(), id.service()), ("", None));
    }

    #[test]
    fn what_the_specification_forbids_is_refused() {
        for (text, error) in [
            ("", IdError::Scheme),
            ("spiffe:/bank/a", IdError::Scheme),
            ("https://bank/a", IdError::Scheme),
            ("SPIFFE://bank/a", IdError::Scheme),
            (" spiffe://bank/a", IdError::Scheme),
            ("spiffe://", IdError::TrustDomain(TrustDomainError::Empty)),
            ("spiffe:///a", IdError::TrustDomain(TrustDomainError::Empty)),
            ("spiffe://Bank/a", IdError::TrustDomain(TrustDomainError::Character('B'))),
            ("spiffe://bank:80/a", IdError::TrustDomain(TrustDomainError::Character(':'))),
            ("spiffe://me@bank/a", IdError::TrustDomain(TrustDomainError::Character('@'))),
            ("spiffe://bank?x", IdError::TrustDomain(TrustDomainError::Character('?'))),
            ("spiffe://bank/", IdError::EmptySegment),
            ("spiffe://bank/a/", IdError::EmptySegment),
            ("spiffe://bank//a", IdError::EmptySegment),
            ("spiffe://bank/./a", IdError::DotSegment),
            ("spiffe://bank/a/..", IdError::DotSegment),
            ("spiffe://bank/a?x=1", IdError::Character('?')),
            ("spiffe://bank/a#b", IdError::Character('#')),
            ("spiffe://bank/%61", IdError::Character('%')),
            ("spiffe://bank/a b", IdError::Character(' ')),
            ("spiffe://bank/ä", IdError::Character('ä')),
            ("spiffe://bank/a\0", IdError::Character('\0')),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn dots_within_a_segment_are_letters_like_others() {
        for text in [
            "spiffe://bank/...",
            "spiffe://bank/a..b",
            "spiffe://bank/.a",
            "spiffe://bank/A_b-C.9",
        ] {
            assert_eq!(parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn two_thousand_and_forty_eight_bytes_are_the_most() {
        let longest = format!("spiffe://bank/{}", "x".repeat(2048 - 14));
        assert_eq!(parse(&longest).unwrap().as_str().len(), 2048);
        assert_eq!(parse(&format!("{longest}x")), Err(IdError::TooLong(2049)));
    }

    #[test]
    fn a_deeper_path_names_no_service() {
        for path in ["/service", "/service/a/b", "/service/A", "/services/a", "/control-plane"] {
            assert_eq!(parse(&format!("spiffe://bank{path}")).unwrap().service(), None, "{path}");
        }
    }

    #[test]
    fn the_made_id_of_a_service_is_the_parsed_one() {
        let domain = TrustDomain::new("bank.example").unwrap();
        let id = crate::service_id(&domain, "accounts").unwrap();
        assert_eq!(parse(id.as_str()), Ok(id.clone()));
        assert_eq!(SpiffeId::new(&domain, "/service/accounts"), Ok(id));
    }

    #[test]
    fn a_path_without_its_slash_does_not_become_part_of_the_trust_domain() {
        let domain = TrustDomain::new("bank.example").unwrap();
        assert_eq!(SpiffeId::new(&domain, ".evil/service/accounts"), Err(IdError::RelativePath));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC*") {
            let _ = parse(&text);
        }

        #[test]
        fn near_misses_are_read_without_panic(text in "spiffe://[a-zA-Z0-9./%?#:@_é-]{0,40}") {
            if let Ok(id) = parse(&text) {
                prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
            }
        }

        #[test]
        fn every_well_formed_id_is_accepted(domain in "[a-z0-9._-]{1,40}", path in "(/[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,9}){0,5}") {
            let id = parse(&format!("spiffe://{domain}{path}")).unwrap();
            let trust_domain = id.trust_domain();
            prop_assert_eq!((trust_domain.as_str(), id.path()), (&*domain, &*path));
        }
    }
}
