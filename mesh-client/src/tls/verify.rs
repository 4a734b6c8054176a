//! Proving that a certificate chain is an X.509-SVID of a trust domain, and whose (X509-SVID §5).

use identity::{IdError, Matcher, SpiffeId, TrustDomain};
use rustls::{CertificateError, HandshakeKind};
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
    for signer in intermediates {
        check_signer(signer, bundle.trust_domain())?;
    }
    if bundle.revokes(&identity.serial) {
        return Err(SvidError::Revoked(identity.id));
    }
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
    /// Big-endian, without leading zeros.
    pub(super) serial: Vec<u8>,
}

/// Leaf validation, X509-SVID §5.2: no CA, no signing of certificates, exactly one URI, which is a SPIFFE ID with a path.
pub(super) fn leaf_identity(leaf: &CertificateDer<'_>) -> Result<LeafIdentity, SvidError> {
    let certificate = parse(leaf)?;
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
    // X509-SVID §4.3 has it critical, so that nobody overlooks it.
    let forbidden = usage.value.key_cert_sign() || usage.value.crl_sign();
    if !usage.critical || forbidden || !usage.value.digital_signature() {
        return Err(SvidError::KeyUsage);
    }
    // X509-SVID §4.4: where it is there at all, both ends of a connection are in it.
    let extended = certificate.extended_key_usage().map_err(|_| SvidError::Malformed)?;
    if extended.is_some_and(|extended| !(extended.value.server_auth && extended.value.client_auth)) {
        return Err(SvidError::ExtendedKeyUsage);
    }
    let id = spiffe_id(&certificate)?.ok_or(SvidError::NoUri)?;
    if id.path().is_empty() {
        return Err(SvidError::NoPath(id));
    }
    let validity = certificate.validity();
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    Ok(LeafIdentity {
        id,
        not_before: seconds(validity.not_before),
        not_after: seconds(validity.not_after),
        serial: certificate.serial.to_bytes_be(),
    })
}

/// Whether the certificate behind a session is still good, which no verifier sees again when the session is resumed. After a full
/// handshake it is not asked for its end: the verifier has just looked, and the clock may have gone on since.
pub(super) fn in_time(
    kind: Option<HandshakeKind>,
    not_after: impl FnOnce() -> Result<u64, SvidError>,
) -> Result<(), SvidError> {
    match kind {
        Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest) => Ok(()),
        Some(HandshakeKind::Resumed) | None => match UnixTime::now().as_secs() <= not_after()? {
            true => Ok(()),
            false => Err(SvidError::Expired),
        },
    }
}

/// A certificate that signs others, X509-SVID §3.1 and §4.3: it may sign certificates, and where it has an ID, that is the trust
/// domain's own. Whether it is a CA is part of the path's validation.
fn check_signer(signer: &CertificateDer<'_>, trust_domain: &TrustDomain) -> Result<(), SvidError> {
    let certificate = parse(signer)?;
    let usage = certificate.key_usage().map_err(|_| SvidError::Malformed)?;
    if !usage.is_some_and(|usage| usage.value.key_cert_sign()) {
        return Err(SvidError::SignerUsage);
    }
    match spiffe_id(&certificate)? {
        Some(id) if !id.path().is_empty() || !id.is_member_of(trust_domain) => Err(SvidError::SignerId(id)),
        _ => Ok(()),
    }
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, SvidError> {
    match X509Certificate::from_der(certificate) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(SvidError::Malformed),
    }
}

/// The one URI among the subject's alternative names, if there is any.
fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<Option<SpiffeId>, SvidError> {
    let Some(names) = certificate.subject_alternative_name().map_err(|_| SvidError::Malformed)? else {
        return Ok(None);
    };
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let Some(uri) = uris.next() else { return Ok(None) };
    if uris.next().is_some() {
        return Err(SvidError::SeveralUris);
    }
    uri.parse().map(Some).map_err(SvidError::NotSpiffe)
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
    /// Key usage must be critical, with digitalSignature and neither keyCertSign nor cRLSign.
    #[error("the key usage of the certificate is not that of an SVID")]
    KeyUsage,
    /// Extended key usage must have both ends of a connection, or not be there.
    #[error("the extended key usage of the certificate is not that of an SVID")]
    ExtendedKeyUsage,
    /// An intermediate without keyCertSign.
    #[error("a certificate of the chain signs others and may not")]
    SignerUsage,
    /// An intermediate that names a workload, or another trust domain.
    #[error("a certificate of the chain signs others and is {0}, where only the trust domain itself may")]
    SignerId(SpiffeId),
    /// What it was issued for is no more.
    #[error("the identity {0} was revoked")]
    Revoked(SpiffeId),
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
            SvidError::Revoked(_) => CertificateError::Revoked,
            SvidError::Malformed | SvidError::Empty => CertificateError::BadEncoding,
            other => CertificateError::Other(rustls::OtherError(std::sync::Arc::new(other))),
        })
    }
}
