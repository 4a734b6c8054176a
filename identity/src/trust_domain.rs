//! The trust domain: the authority that vouches for an identity (SPIFFE-ID §2.1).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest trust domain name, in bytes (SPIFFE-ID §2.3, after RFC 3986's host).
const MAX_BYTES: usize = 255;

/// The name of a trust domain: 1 to 255 bytes of `a-z`, `0-9`, `.`, `-` and `_`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The trust domain called `name`.
    ///
    /// # Errors
    /// [`TrustDomainError`] where `name` is empty, too long or has a character that is not allowed.
    pub fn new(name: &str) -> Result<Self, TrustDomainError> {
        check(name)?;
        Ok(Self(name.into()))
    }

    /// The name, as in `bank.example`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Upper case is refused rather than folded: IDs are compared byte by byte, so there is one way to write each.
pub(crate) fn check(name: &str) -> Result<(), TrustDomainError> {
    if name.is_empty() {
        return Err(TrustDomainError::Empty);
    }
    if name.len() > MAX_BYTES {
        return Err(TrustDomainError::TooLong(name.len()));
    }
    match name.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_')) {
        Some(character) => Err(TrustDomainError::Character(character)),
        None => Ok(()),
    }
}

impl FromStr for TrustDomain {
    type Err = TrustDomainError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// Why a text is not the name of a trust domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustDomainError {
    /// Nothing there.
    #[error("the trust domain is empty; it is a name such as `bank.example`")]
    Empty,
    /// More than 255 bytes.
    #[error("the trust domain has {0} bytes, which may be at most 255")]
    TooLong(usize),
    /// A character outside the set.
    #[error("{0:?} may not stand in a trust domain, which is made of lower-case letters, digits, `.`, `-` and `_`")]
    Character(char),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_digits_dots_dashes_and_underscores_make_a_name() {
        for name in ["a", "bank.example", "k8s-west_1.example", "127.0.0.1", &"x".repeat(255)] {
            assert_eq!(TrustDomain::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn what_the_specification_forbids_is_refused() {
        for (name, error) in [
            ("", TrustDomainError::Empty),
            ("Bank", TrustDomainError::Character('B')),
            ("bank:1", TrustDomainError::Character(':')),
            ("user@bank", TrustDomainError::Character('@')),
            ("b%61nk", TrustDomainError::Character('%')),
            ("bänk", TrustDomainError::Character('ä')),
            ("bank\0", TrustDomainError::Character('\0')),
            (&"x".repeat(256), TrustDomainError::TooLong(256)),
        ] {
            assert_eq!(TrustDomain::new(name), Err(error), "{name:?}");
        }
    }
}
