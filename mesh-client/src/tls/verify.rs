//! Proving that a certificate chain is an X.509-SVID of a trust domain, and whose (X509-SVID §5).

use identity::{IdError, Matcher, SpiffeId, TrustDomain};
use rustls::CertificateError;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Bundle, provider};

/// At which end of the connection the certificate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// The one that connects.
    Client,
    /// The one that listens.
    Server,
}

/// Proves that `leaf` is an X.509-SVID of the trust domain of `bundle` at `now`, and says whose.
///
/// # Errors
/// [`SvidError`], which says what is wrong with it.
pub fn verify_svid(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &Bundle,
    usage: Usage,
    now: UnixTime,
) -> Result<SpiffeId, SvidError> {
    // The leaf's own rules come first: its chain may be impeccable, which says nothing about two URIs.
    let identity = leaf_identity(leaf)?;
    verify_chain(leaf, intermediates, bundle.anchors(), usage, now)?;
    if !identity.id.is_member_of(bundle.trust_domain()) {
        return Err(SvidError::TrustDomain {
            found: identity.id,
            expected: bundle.trust_domain().clone(),
        });
    }
    Ok(identity.id)
}

/// RFC 5280 path validation (X509-SVID §5.1), by webpki.
pub(super) fn verify_chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    anchors: &[TrustAnchor<'_>],
    usage: Usage,
    now: UnixTime,
) -> Result<(), SvidError> {
    let usage = match usage {
        Usage::Client => webpki::KeyUsage::client_auth(),
        Usage::Server => webpki::KeyUsage::server_auth(),
    };
    let algorithms = provider().signature_verification_algorithms.all;
    let leaf = webpki::EndEntityCert::try_from(leaf).map_err(SvidError::from)?;
    leaf.verify_for_usage(algorithms, anchors, intermediates, now, usage, None, None)
        .map_err(SvidError::from)?;
    Ok(())
}

/// What the leaf of an SVID says of itself; trustworthy only once its chain is verified.
pub(super) struct LeafIdentity {
    pub(super) id: SpiffeId,
    pub(super) not_before: u64,
    pub(super) not_after: u64,
}

/// Leaf validation, X509-SVID §5.2: no CA, no signing of certificates, exactly one URI, which is a SPIFFE ID with a path.
pub(super) fn leaf_identity(leaf: &CertificateDer<'_>) -> Result<LeafIdentity, SvidError> {
    let (rest, certificate) = X509Certificate::from_der(leaf).map_err(|_| SvidError::Malformed)?;
    if !rest.is_empty() {
        return Err(SvidError::Malformed);
    }
    if certificate
        .basic_constraints()
        .map_err(|_| SvidError::Malformed)?
        .is_some_and(|constraints| constraints.value.ca)
    {
        return Err(SvidError::Ca);
    }
    let usage = certificate
        .key_usage()
        .map_err(|_| SvidError::Malformed)?
        .ok_or(SvidError::KeyUsage)?;
    if usage.value.key_cert_sign() || usage.value.crl_sign() || !usage.value.digital_signature() {
        return Err(SvidError::KeyUsage);
    }
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| SvidError::Malformed)?
        .ok_or(SvidError::NoUri)?;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let uri = uris.next().ok_or(SvidError::NoUri)?;
    if uris.next().is_some() {
        return Err(SvidError::SeveralUris);
    }
    let id: SpiffeId = uri.parse().map_err(SvidError::NotSpiffe)?;
    if id.path().is_empty() {
        return Err(SvidError::NoPath(id));
    }
    let validity = certificate.validity();
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    Ok(LeafIdentity {
        id,
        not_before: seconds(validity.not_before),
        not_after: seconds(validity.not_after),
    })
}

/// Says whether a proven ID is one that may stand at the other end.
#[derive(Debug, Clone)]
pub struct Authorizer(Matcher);

impl Authorizer {
    /// Admits the IDs that `expected` matches.
    #[must_use]
    pub const fn new(expected: Matcher) -> Self {
        Self(expected)
    }

    /// Admits `id`, which a verifier has proved, or refuses it.
    ///
    /// # Errors
    /// [`SvidError::Unexpected`] where it is not expected.
    pub fn authorize(&self, id: SpiffeId) -> Result<SpiffeId, SvidError> {
        if self.0.matches(&id) {
            Ok(id)
        } else {
            Err(SvidError::Unexpected {
                found: id,
                expected: self.0.to_string(),
            })
        }
    }
}

/// Why a certificate does not prove the identity that is expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SvidError {
    /// No certificate.
    #[error("the chain has no certificate")]
    Empty,
    /// A bundle without a root judges nothing.
    #[error("the bundle has no root certificate")]
    NoRoot,
    /// Not a certificate in DER.
    #[error("the certificate is malformed")]
    Malformed,
    /// Signed by nobody that the bundle names, or wrongly.
    #[error("the chain does not lead to a root of the trust domain: {0:?}")]
    Chain(webpki::Error),
    /// Its time is over.
    #[error("the certificate has expired")]
    Expired,
    /// Its time has not come.
    #[error("the certificate is not valid yet; do the clocks agree?")]
    NotYetValid,
    /// A certificate that signs others may not identify a workload.
    #[error("a CA certificate may not be used as an SVID")]
    Ca,
    /// Key usage must have digitalSignature and neither keyCertSign nor cRLSign.
    #[error("the key usage of the certificate is not that of an SVID")]
    KeyUsage,
    /// No URI among the subject's alternative names.
    #[error("the certificate has no URI, so it names no SPIFFE ID")]
    NoUri,
    /// More than one.
    #[error("the certificate has more than one URI, where an SVID has exactly one")]
    SeveralUris,
    /// The URI is none.
    #[error("the URI of the certificate is no SPIFFE ID: {0}")]
    NotSpiffe(#[source] IdError),
    /// The ID of a trust domain, which names no workload.
    #[error("{0} has no path, so it names no workload")]
    NoPath(SpiffeId),
    /// The chain is good, but not for this trust domain.
    #[error("{found} is not of trust domain {expected}")]
    TrustDomain {
        /// Whom the certificate names.
        found: SpiffeId,
        /// The trust domain of the bundle.
        expected: TrustDomain,
    },
    /// Proven, but somebody else.
    #[error("the peer is {found}, expected was {expected}")]
    Unexpected {
        /// Whom the certificate names.
        found: SpiffeId,
        /// What the matcher says.
        expected: String,
    },
    /// None of the certificates has the pinned key.
    #[error("the control plane's chain does not hold the root that the token pins; is the token of another mesh?")]
    Pin,
    /// The first connection is to the control plane and nobody else.
    #[error("{0} is not the control plane")]
    NotControlPlane(SpiffeId),
}

impl From<webpki::Error> for SvidError {
    fn from(error: webpki::Error) -> Self {
        match error {
            webpki::Error::CertExpired { .. } => Self::Expired,
            webpki::Error::CertNotValidYet { .. } => Self::NotYetValid,
            webpki::Error::CaUsedAsEndEntity => Self::Ca,
            webpki::Error::BadDer => Self::Malformed,
            other => Self::Chain(other),
        }
    }
}

/// The peer gets the alert that RFC 8446 §6.2 has for the case; the words stay here, as the source.
impl From<SvidError> for rustls::Error {
    fn from(error: SvidError) -> Self {
        Self::InvalidCertificate(match error {
            SvidError::Expired => CertificateError::Expired,
            SvidError::NotYetValid => CertificateError::NotValidYet,
            SvidError::Chain(webpki::Error::UnknownIssuer) => CertificateError::UnknownIssuer,
            SvidError::Malformed | SvidError::Empty => CertificateError::BadEncoding,
            other => CertificateError::Other(rustls::OtherError(std::sync::Arc::new(other))),
        })
    }
}
