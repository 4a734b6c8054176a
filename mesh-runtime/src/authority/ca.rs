//! Certificates as SPIFFE demands them, made from what is handed in. `now` is an argument, in seconds since
//! 1970-01-01T00:00:00Z.
//!
//! A root that lives ten years signs an intermediate that lives three months, which signs SVIDs that live an hour.
//! Members hold only the root, so that the intermediate can change whenever it has to.

use aws_lc_rs::rand;
use identity::{SpiffeId, TrustDomain};
use mesh_api::{Pin, SERIAL_MARK};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKey, PublicKeyData as _, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate, X509CertificationRequest};

use crate::store::SignerRecord;

const DAY: u64 = 24 * 60 * 60;
const ROOT_LIFETIME: u64 = 3652 * DAY;
const INTERMEDIATE_LIFETIME: u64 = 90 * DAY;
/// How much of its life an intermediate has left when the next one takes over: far more than the longest SVID.
const INTERMEDIATE_OVERLAP: u64 = 30 * DAY;
/// Certificates are valid from a little before they are made, for peers whose clock is behind.
const BACKDATE: u64 = 60;
/// How many signing certificates there may be between a root and a leaf: an intermediate, and another root that it vouches for.
const BELOW_ROOT: u8 = 2;
/// The share of an SVID's life that may lie before it was made. Members renew at half of the whole, which has to be well
/// ahead of them: with a minute before a life of ten seconds they would renew without end.
const BACKDATE_SHARE: u64 = 10;
/// A request for a P-256 key is about 250 bytes; nobody needs to send much more.
const MAX_CSR: usize = 4096;
/// 159 bits: RFC 5280 §4.1.2.2 allows 20 octets of a positive number.
const SERIAL_BYTES: usize = 20;

/// A key that signs certificates, with its own certificate.
pub(crate) struct Signer {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    not_before: u64,
    not_after: u64,
}

/// A certificate that was made, with what is recorded of it.
pub(crate) struct Leaf {
    pub(crate) certificate: CertificateDer<'static>,
    /// Lower-case hex.
    pub(crate) serial: String,
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
}

impl Signer {
    /// A new root of `trust_domain`.
    pub(crate) fn root(trust_domain: &TrustDomain, now: u64) -> Result<Self, CaError> {
        let key = new_key()?;
        let params = ca_params(trust_domain, &root_name(&key), BELOW_ROOT, now, now + ROOT_LIFETIME)?;
        let certificate = params.self_signed(&key)?.into();
        Self::assemble(key, certificate)
    }

    /// This root as `before`, the root that it takes the place of, vouches for it: who knows only that one gets from there to here.
    pub(crate) fn crossed(
        &self,
        before: &Self,
        trust_domain: &TrustDomain,
        now: u64,
    ) -> Result<CertificateDer<'static>, CaError> {
        let key = self.issuer.key();
        let not_after = self.not_after.min(before.not_after);
        let mut params = ca_params(trust_domain, &root_name(key), BELOW_ROOT - 1, now, not_after)?;
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(key, &before.issuer)?.into())
    }

    /// A new intermediate, signed by this root.
    pub(crate) fn intermediate(&self, trust_domain: &TrustDomain, now: u64) -> Result<Self, CaError> {
        let key = new_key()?;
        let not_after = (now + INTERMEDIATE_LIFETIME).min(self.not_after);
        let mut params = ca_params(trust_domain, "intermediate", 0, now, not_after)?;
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?.into();
        Self::assemble(key, certificate)
    }

    pub(crate) fn from_record(record: &SignerRecord) -> Result<Self, CaError> {
        let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(record.key.as_slice()))?;
        Self::assemble(key, CertificateDer::from(record.certificate.clone()))
    }

    pub(crate) fn to_record(&self) -> SignerRecord {
        SignerRecord {
            key: self.issuer.key().serialize_der(),
            certificate: self.certificate.to_vec(),
        }
    }

    /// Another handle of the same key.
    pub(crate) fn again(&self) -> Result<Self, CaError> {
        Self::from_record(&self.to_record())
    }

    fn assemble(key: KeyPair, certificate: CertificateDer<'static>) -> Result<Self, CaError> {
        let (not_before, not_after) = validity(&certificate)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self {
            issuer,
            certificate,
            not_before,
            not_after,
        })
    }

    /// DER.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The `SubjectPublicKeyInfo`, DER.
    pub(crate) fn spki(&self) -> Vec<u8> {
        self.issuer.key().subject_public_key_info()
    }

    /// The first and the last second at which its certificate is valid.
    pub(crate) const fn validity(&self) -> (u64, u64) {
        (self.not_before, self.not_after)
    }

    /// Whether the next intermediate should be made by now: this one ends soon, or has not begun because the clock was set back.
    pub(crate) const fn is_due(&self, now: u64) -> bool {
        now < self.not_before || now + INTERMEDIATE_OVERLAP >= self.not_after
    }

    /// An X509-SVID for `key`: SPIFFE X509-SVID §2 and §4 (one URI SAN, no CA, digitalSignature and nothing that signs
    /// certificates, EKU for both sides of a connection). Its serial number begins with `mark`, where it has one.
    pub(crate) fn sign(
        &self,
        spiffe_id: &SpiffeId,
        key: &PublicKey,
        mark: Option<Mark>,
        now: u64,
        lifetime: u64,
    ) -> Result<Leaf, CaError> {
        let not_before = now.saturating_sub(BACKDATE.min(lifetime / BACKDATE_SHARE));
        let not_after = (now + lifetime).min(self.not_after);
        let serial = new_serial(mark)?;
        let mut params = CertificateParams::default();
        params.not_before = instant(not_before)?;
        params.not_after = instant(not_after)?;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.subject_alt_names = vec![uri(spiffe_id.as_str())?];
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Heddle");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer)?.into();
        Ok(Leaf {
            certificate,
            serial: hex(&serial),
            not_before,
            not_after,
        })
    }
}

/// The public key that a certificate signing request (PKCS #10, DER) proves to possess.
///
/// Nothing else in the request counts: whose certificate it becomes is decided by the token or the SVID that came with it.
pub(crate) fn proven_key(csr: &[u8]) -> Result<PublicKey, CsrError> {
    if csr.len() > MAX_CSR {
        return Err(CsrError::Length(csr.len()));
    }
    let (rest, parsed) = X509CertificationRequest::from_der(csr).map_err(|_| CsrError::Form)?;
    if !rest.is_empty() {
        return Err(CsrError::Form);
    }
    // The key's own algorithm is looked at, and not only that of the signature: they are two fields.
    let key = &parsed.certification_request_info.subject_pki;
    let curve = key
        .algorithm
        .parameters
        .as_ref()
        .and_then(|parameters| parameters.as_oid().ok());
    let is_p256 = key.algorithm.algorithm == x509_parser::oid_registry::OID_KEY_TYPE_EC_PUBLIC_KEY
        && curve == Some(x509_parser::oid_registry::OID_EC_P256);
    if !is_p256 {
        return Err(CsrError::Algorithm);
    }
    let request =
        CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr)).map_err(|error| match error {
            rcgen::Error::InvalidCertificationRequestSignature => CsrError::Possession,
            _ => CsrError::Form,
        })?;
    if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
        return Err(CsrError::Algorithm);
    }
    Ok(request.public_key)
}

fn ca_params(
    trust_domain: &TrustDomain,
    role: &str,
    below: u8,
    now: u64,
    not_after: u64,
) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.not_before = instant(now.saturating_sub(BACKDATE))?;
    params.not_after = instant(not_after)?;
    params.serial_number = Some(SerialNumber::from_slice(&new_serial(None)?));
    // A signing certificate names its trust domain and no path (SPIFFE X509-SVID §3.1).
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Heddle");
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{trust_domain} {role}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// The first and the last second at which a certificate is valid.
pub(crate) fn validity(certificate: &CertificateDer<'_>) -> Result<(u64, u64), CaError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CaError::Certificate)?;
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).map_err(|_| CaError::Certificate);
    Ok((seconds(parsed.validity().not_before)?, seconds(parsed.validity().not_after)?))
}

/// Roots of one trust domain differ in their names, so that a chain is looked for under the right one.
fn root_name(key: &KeyPair) -> String {
    let pin = Pin::of_spki(&key.subject_public_key_info());
    format!("root {}", hex(pin.as_bytes().get(..4).unwrap_or_default()))
}

fn uri(text: &str) -> Result<SanType, CaError> {
    Ok(SanType::URI(Ia5String::try_from(text)?))
}

pub(crate) fn new_key() -> Result<KeyPair, CaError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

fn new_serial(mark: Option<Mark>) -> Result<[u8; SERIAL_BYTES], CaError> {
    let mut serial = [0; SERIAL_BYTES];
    rand::fill(&mut serial).map_err(|_| CaError::Random)?;
    serial[0] = positive(serial[0]);
    if let Some(Mark(mark)) = mark {
        serial[..SERIAL_MARK].copy_from_slice(&mark);
    }
    Ok(serial)
}

/// The first byte of a positive number, and of one that has the same length always.
const fn positive(byte: u8) -> u8 {
    byte & 0x7f | 0x40
}

/// What the serial numbers of SVIDs begin with that were issued under the same entry or token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Mark([u8; SERIAL_MARK]);

impl Mark {
    /// That of the entry or token `id`, whose ids are random numbers or parts of hashes, in hex.
    pub(crate) fn of_entry(id: &str) -> Self {
        let mut mark = [0; SERIAL_MARK];
        for (to, from) in mark.iter_mut().zip(unhex(id).unwrap_or_default()) {
            *to = from;
        }
        mark[0] = positive(mark[0]);
        Self(mark)
    }

    /// That of an SVID, by its serial number in hex; none where that is shorter than any of ours.
    pub(crate) fn of_serial(serial: &str) -> Option<Self> {
        let mark = unhex(serial.get(..2 * SERIAL_MARK)?)?;
        mark.try_into().ok().map(Self)
    }

    /// An id of which this is the mark.
    pub(crate) fn id(self) -> String {
        hex(&self.0)
    }
}

fn instant(seconds: u64) -> Result<OffsetDateTime, CaError> {
    let seconds = i64::try_from(seconds).map_err(|_| CaError::Clock)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| CaError::Clock)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of [`hex`] digits, of either case.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.len().is_multiple_of(2) && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let byte = |pair: usize| u8::from_str_radix(text.get(2 * pair..2 * pair + 2)?, 16).ok();
    digits.then(|| (0..text.len() / 2).map(byte).collect())?
}

/// Why a certificate cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// The library that makes them refused.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// A stored certificate that cannot be read.
    #[error("the stored certificate of the authority cannot be read")]
    Certificate,
    /// No randomness.
    #[error("the system gives no random bytes")]
    Random,
    /// A clock outside of what a certificate can say.
    #[error("the system's clock shows a time that a certificate cannot express")]
    Clock,
}

/// Why a certificate signing request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrError {
    /// Too long.
    #[error("the certificate signing request has {0} bytes, more than the {MAX_CSR} that are read")]
    Length(usize),
    /// Not PKCS #10.
    #[error("the certificate signing request is not PKCS #10 in DER")]
    Form,
    /// Another kind of key.
    #[error("the key of the certificate signing request is not ECDSA P-256 with SHA-256")]
    Algorithm,
    /// Signed with another key than the one in it.
    #[error("the certificate signing request is not signed with its own key")]
    Possession,
}

#[cfg(test)]
mod tests;
