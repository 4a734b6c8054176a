//! Who is who in a mesh: SPIFFE IDs, the trust domains that vouch for them, the names of services, and the matchers that
//! say which IDs are expected.
//!
//! Everything here is a value that was checked when it was made (parse, don't validate) and is cheap to clone. Nothing
//! reads a clock, the environment, a file or a socket, and no input panics.
//!
//! ```
//! use identity::{Matcher, ServiceName, SpiffeId, TrustDomain};
//!
//! let bank: TrustDomain = "bank.example".parse()?;
//! let accounts = SpiffeId::of_service(&bank, &ServiceName::new("accounts")?);
//! assert_eq!(accounts.to_string(), "spiffe://bank.example/service/accounts");
//!
//! let expected = Matcher::Id(accounts);
//! assert!(!expected.matches(&"spiffe://bank.example/service/rates".parse()?));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod id;
mod matcher;
mod service;
mod trust_domain;

pub use id::{IdError, SpiffeId};
pub use matcher::Matcher;
pub use service::{ServiceName, ServiceNameError};
pub use trust_domain::{TrustDomain, TrustDomainError};

/// The SPIFFE ID of the service `name` in `trust_domain`: `spiffe://TRUST-DOMAIN/service/NAME`.
///
/// # Errors
/// [`ServiceNameError`] where `name` is no service name.
pub fn service_id(trust_domain: &TrustDomain, name: &str) -> Result<SpiffeId, ServiceNameError> {
    Ok(SpiffeId::of_service(trust_domain, &ServiceName::new(name)?))
}
