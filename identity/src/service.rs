//! The names of services: what stands before `.mesh` in a URL and after `/service/` in a SPIFFE ID.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest DNS label, in bytes (RFC 1035 §2.3.4).
const MAX_BYTES: usize = 63;

/// The name of a service: a DNS label (RFC 1123 §2.1) in lower case, so that it fits a host name and a SPIFFE ID alike.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// The service called `name`.
    ///
    /// # Errors
    /// [`ServiceNameError`] where `name` is no DNS label in lower case.
    pub fn new(name: &str) -> Result<Self, ServiceNameError> {
        check(name)?;
        Ok(Self(name.into()))
    }

    /// The name, as in `accounts`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(name: &str) -> Result<(), ServiceNameError> {
    if name.is_empty() {
        return Err(ServiceNameError::Empty);
    }
    if name.len() > MAX_BYTES {
        return Err(ServiceNameError::TooLong(name.len()));
    }
    if let Some(character) = name.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
        return Err(ServiceNameError::Character(character));
    }
    if name.starts_with('-') || name.ends_with('-') {
        return Err(ServiceNameError::Hyphen);
    }
    Ok(())
}

impl FromStr for ServiceName {
    type Err = ServiceNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

impl AsRef<str> for ServiceName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for ServiceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// Why a text is not the name of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceNameError {
    /// Nothing there.
    #[error("the service name is empty; it is a name such as `accounts`")]
    Empty,
    /// More than 63 bytes.
    #[error("the service name has {0} bytes, which may be at most 63")]
    TooLong(usize),
    /// A character outside the set.
    #[error("{0:?} may not stand in a service name, which is made of lower-case letters, digits and `-`")]
    Character(char),
    /// A hyphen at an end.
    #[error("a service name neither begins nor ends with `-`")]
    Hyphen,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dns_label_in_lower_case_is_a_name() {
        for name in ["a", "accounts", "accounts-2", "2fast", &"x".repeat(63)] {
            assert_eq!(ServiceName::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn anything_else_is_refused_with_its_reason() {
        for (name, error) in [
            ("", ServiceNameError::Empty),
            ("Accounts", ServiceNameError::Character('A')),
            ("a.b", ServiceNameError::Character('.')),
            ("a/b", ServiceNameError::Character('/')),
            ("a_b", ServiceNameError::Character('_')),
            ("-a", ServiceNameError::Hyphen),
            ("a-", ServiceNameError::Hyphen),
            (&"x".repeat(64), ServiceNameError::TooLong(64)),
        ] {
            assert_eq!(ServiceName::new(name), Err(error), "{name:?}");
        }
    }
}
