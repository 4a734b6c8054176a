//! Mutual TLS with X.509-SVIDs: keys and certificates ([`Svid`], [`Bundle`], [`Key`]), how they change while connections
//! live ([`Credentials`], [`Rotation`]), and the two ends of a connection ([`ClientTls`], [`ServerTls`]).
//!
//! Three things are kept apart. The **verifier** ([`verify_svid`]) proves that a chain is an X.509-SVID of the trust domain,
//! and says whose. The **matcher** ([`identity::Matcher`]) says which IDs are expected; it knows names only. The
//! **authoriser** ([`Authorizer`]) puts the question to the matcher once the verifier has answered, and refuses with words.
//!
//! Always TLS 1.3, always an ALPN that both ends know ([`Protocol`]), and nothing falls back. Sessions resume only within one generation of credentials:
//! a new SVID or bundle makes new configurations with empty session stores, so that no ticket outlives the identity
//! that it was given to.
//!
//! The control plane uses the same types for its own side:
//!
//! ```no_run
//! use mesh_client::tls::{Bundle, Credentials, Peers, ServerTls, Svid};
//! # fn from_the_authority() -> (Svid, Bundle) { unimplemented!() }
//!
//! let (svid, bundle): (Svid, Bundle) = from_the_authority();
//! let everyone = identity::Matcher::TrustDomain(bundle.trust_domain().clone());
//! let (rotation, credentials) = Credentials::new(svid, bundle);
//! // A member that joins has no certificate yet; every other call looks at its `PeerIdentity`.
//! let tls = ServerTls::new(credentials, Peers::Optional(everyone));
//! // When the authority has issued a successor: rotation.replace_svid(…)
//! # drop((rotation, tls));
//! ```

mod client;
mod creds;
mod error;
mod pin;
mod protocol;
mod renewal;
mod server;
mod signature;
mod svid;
mod verify;

use std::sync::{Arc, OnceLock};

pub use client::ClientTls;
pub(crate) use client::{any_name, peer_serial};
pub use creds::{Credentials, Held, Rotation};
pub use error::TlsError;
pub(crate) use error::{of_handshake, of_io, refuses_identity};
pub use pin::first_trust;
pub use protocol::Protocol;
pub use renewal::{Renewal, Step};
pub use server::{PeerIdentity, Peers, ServerTls};
pub use svid::{Bundle, Key, Svid};
pub use verify::{Authorizer, SvidError, Usage, verify_svid};

use rustls::crypto::CryptoProvider;

/// The one provider, whatever the process installed as its default.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())))
}

/// The only version.
pub(crate) const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
