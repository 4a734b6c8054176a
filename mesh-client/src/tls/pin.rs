//! First trust: the connection of a joiner that has nothing but a token.

use std::sync::Arc;

use mesh_api::{CONTROL_PLANE_PATH, Pin};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::client::{base, finish};
use super::signature::tls13_signatures;
use super::verify::{leaf_identity, verify_chain};
use super::{Bundle, Protocol, SvidError, TlsError, Usage};

/// A configuration for a joiner: no certificate of its own, and it accepts only a chain to the root that `pin` names (which
/// the control plane sends as the last of its chain), whose leaf is `spiffe://…/control-plane`.
///
/// # Errors
/// [`TlsError::Rustls`] where the TLS library refuses, which it does not.
pub fn first_trust(pin: Pin) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = base(Arc::new(PinVerifier(pin)))?.with_no_client_auth();
    finish(&mut config, Protocol::Http2);
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct PinVerifier(Pin);

impl PinVerifier {
    fn verify(&self, leaf: &CertificateDer<'_>, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), SvidError> {
        let identity = leaf_identity(leaf)?;
        let pinned = |certificate: &&CertificateDer<'_>| Bundle::pin(certificate).is_ok_and(|pin| pin == self.0);
        let root = chain.iter().find(pinned).ok_or(SvidError::Pin)?;
        let anchor = webpki::anchor_from_trusted_cert(root).map_err(|_| SvidError::Malformed)?;
        verify_chain(leaf, chain, &[anchor], Usage::Server, now)?;
        if identity.id.path() != CONTROL_PLANE_PATH {
            return Err(SvidError::NotControlPlane(identity.id));
        }
        Ok(())
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, chain, now)?;
        Ok(ServerCertVerified::assertion())
    }

    tls13_signatures!();
}
