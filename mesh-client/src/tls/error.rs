//! What can be wrong with keys, certificates and handshakes.

use std::io;

use super::SvidError;

/// Why there is no TLS connection, or no configuration for one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A certificate is no X.509-SVID, or not the one that is expected.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// A key or a signing request could not be made or read.
    #[error("the key cannot be used: {0}")]
    Key(#[from] rcgen::Error),
    /// The TLS library refuses key, certificate or handshake.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// There is no connection to shake hands on.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// The connection ended, or its bytes were not TLS.
    #[error("the TLS handshake failed: {0}")]
    Handshake(#[source] io::Error),
    /// The peer does not say that it speaks the protocol that was asked for.
    #[error("the peer did not agree by ALPN to speak `{0}`")]
    Alpn(&'static str),
    /// Nobody is trusted to say who somebody outside the mesh is.
    #[error(
        "this system trusts no certificate authorities; install them (ca-certificates), or name some: ca = \"…\" in the document"
    )]
    NoAuthorities,
    /// The peer did not finish its handshake in time.
    #[error("the TLS handshake did not finish within {0:?}")]
    Timeout(std::time::Duration),
}

impl TlsError {
    /// Whether one end refused the identity of the other; trying again with the same credentials is pointless.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        match self {
            Self::Svid(_) => true,
            Self::Rustls(error) => refuses_identity(error),
            Self::Handshake(error) => of_io(error).is_some_and(refuses_identity),
            Self::Key(_) | Self::Connect(_) | Self::Alpn(_) | Self::NoAuthorities | Self::Timeout(_) => false,
        }
    }
}

/// What a failed handshake is: a certificate that the verifier refused has its own words, which the TLS library only wraps.
pub(crate) fn of_handshake(error: io::Error) -> TlsError {
    use rustls::CertificateError;
    match of_io(&error) {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => match other.0.downcast_ref::<SvidError>() {
            Some(refused) => TlsError::Svid(refused.clone()),
            None => TlsError::Handshake(error),
        },
        Some(rustls::Error::InvalidCertificate(CertificateError::Expired)) => TlsError::Svid(SvidError::Expired),
        _ => TlsError::Handshake(error),
    }
}

/// The TLS error within an I/O error, where there is one.
pub(crate) fn of_io(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Alerts about certificates come from the peer that refused ours (RFC 8446 §6.2).
pub(crate) fn refuses_identity(error: &rustls::Error) -> bool {
    use rustls::AlertDescription as Alert;
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => true,
        rustls::Error::AlertReceived(alert) => matches!(
            alert,
            Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied
                | Alert::CertificateRequired
        ),
        _ => false,
    }
}
