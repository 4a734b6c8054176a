//! X.509-SVIDs, the bundles that judge them, and the keys that they are for.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use identity::{SpiffeId, TrustDomain};
use mesh_api::{Pin, SERIAL_MARK};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, TrustAnchor, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::verify::{SvidError, Usage, leaf_identity, verify_chain};
use super::{TlsError, provider};

/// A private key (ECDSA P-256) that is made here and never leaves the process.
pub struct Key(rcgen::KeyPair);

impl Key {
    /// A new key.
    ///
    /// # Errors
    /// [`TlsError::Key`] where the system gives no randomness.
    pub fn generate() -> Result<Self, TlsError> {
        Ok(Self(rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?))
    }

    /// A certificate signing request (PKCS #10, DER). It proves possession of the key and asks for nothing by name: who the
    /// bearer is, the control plane knows from token or certificate.
    ///
    /// # Errors
    /// [`TlsError::Key`] where the key cannot sign.
    pub fn signing_request(&self) -> Result<Vec<u8>, TlsError> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        Ok(params.serialize_request(&self.0)?.der().to_vec())
    }

    /// The key as PKCS #8, for [`Svid::new`].
    #[must_use]
    pub fn to_pkcs8(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(hidden)")
    }
}

/// An X.509-SVID with its private key: what a workload shows to prove who it is.
#[derive(Clone)]
pub struct Svid {
    id: SpiffeId,
    certified: Arc<CertifiedKey>,
    not_before: u64,
    not_after: u64,
}

impl Svid {
    /// The SVID of `chain` (DER, leaf first) and the private key of its leaf.
    ///
    /// # Errors
    /// [`TlsError::Svid`] where the leaf is no SVID, [`TlsError::Rustls`] where the key does not belong to it.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, TlsError> {
        let leaf = chain.first().ok_or(SvidError::Empty)?;
        let leaf = leaf_identity(leaf)?;
        let certified = CertifiedKey::from_der(chain, key, &provider())?;
        certified.keys_match()?;
        Ok(Self {
            id: leaf.id,
            certified: Arc::new(certified),
            not_before: leaf.not_before,
            not_after: leaf.not_after,
        })
    }

    /// Whom it names.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The certificates, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The first second at which it is valid, since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn not_before(&self) -> u64 {
        self.not_before
    }

    /// The last second at which it is valid, since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn not_after(&self) -> u64 {
        self.not_after
    }

    /// How long it is valid in all.
    #[must_use]
    pub const fn lifetime(&self) -> Duration {
        Duration::from_secs(self.not_after.saturating_sub(self.not_before))
    }

    pub(super) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// The roots by which SVIDs of one trust domain are judged, and the SVIDs that are judged to be none any more.
///
/// The first root is the one that signs; the others are believed for as long as somebody shows an SVID of theirs.
#[derive(Clone)]
pub struct Bundle {
    trust_domain: TrustDomain,
    roots: Arc<[CertificateDer<'static>]>,
    anchors: Arc<[TrustAnchor<'static>]>,
    /// What their serial numbers begin with.
    revoked: Arc<HashSet<Vec<u8>>>,
}

impl Bundle {
    /// The bundle of `trust_domain`, of root certificates in DER.
    ///
    /// # Errors
    /// [`SvidError::NoRoot`] where there is none, [`SvidError::Malformed`] where one is no certificate.
    pub fn new(trust_domain: TrustDomain, roots: Vec<CertificateDer<'static>>) -> Result<Self, SvidError> {
        if roots.is_empty() {
            return Err(SvidError::NoRoot);
        }
        let anchor = |root| webpki::anchor_from_trusted_cert(root).map(|anchor| anchor.to_owned());
        let anchors = roots
            .iter()
            .map(anchor)
            .collect::<Result<_, _>>()
            .map_err(|_| SvidError::Malformed)?;
        Ok(Self {
            trust_domain,
            roots: roots.into(),
            anchors,
            revoked: Arc::default(),
        })
    }

    /// The same, but for SVIDs with these serial numbers (big-endian), which are believed no more, and for all others that were issued
    /// under the same entries ([`SERIAL_MARK`]): a connection may be older than what is remembered of the SVID that opened it.
    #[must_use]
    pub fn revoking(mut self, serials: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let mark = |serial: Vec<u8>| serial.into_iter().skip_while(|byte| *byte == 0).take(SERIAL_MARK).collect();
        self.revoked = Arc::new(serials.into_iter().map(mark).collect());
        self
    }

    /// Whether the SVID with this serial number (big-endian, without leading zeros) was revoked.
    #[must_use]
    pub fn revokes(&self, serial: &[u8]) -> bool {
        self.revoked.contains(serial.get(..SERIAL_MARK).unwrap_or(serial))
    }

    /// Whether `svid` is one of the root that signs, and not of one that is on its way out.
    #[must_use]
    pub fn is_current(&self, svid: &Svid, now: UnixTime) -> bool {
        let (Some((leaf, signers)), Some(signs)) = (svid.chain().split_first(), self.anchors.first()) else {
            return false;
        };
        verify_chain(leaf, signers, std::slice::from_ref(signs), Usage::Client, now).is_ok()
    }

    /// Whose SVIDs it judges.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots, in DER.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    pub(super) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// The pin of a root certificate, as tokens carry it.
    ///
    /// # Errors
    /// [`SvidError::Malformed`] where `root` is no certificate.
    pub fn pin(root: &CertificateDer<'_>) -> Result<Pin, SvidError> {
        let (_, certificate) = X509Certificate::from_der(root).map_err(|_| SvidError::Malformed)?;
        Ok(Pin::of_spki(certificate.tbs_certificate.subject_pki.raw))
    }
}

impl PartialEq for Bundle {
    fn eq(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain && self.roots == other.roots && self.revoked == other.revoked
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("trust_domain", &self.trust_domain)
            .field("roots", &self.roots.len())
            .field("revoked", &self.revoked.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_is_of_all_that_was_issued_under_the_same_entry() {
        let root = rcgen::CertificateParams::default()
            .self_signed(&rcgen::KeyPair::generate().unwrap())
            .unwrap();
        let bundle = Bundle::new(TrustDomain::new("bank.example").unwrap(), vec![root.into()]).unwrap();
        let bundle = bundle.revoking([vec![0, 0x40, 1, 2, 3, 4, 5, 6, 7, 8, 9], vec![5, 6]]);
        assert!(bundle.revokes(&[0x40, 1, 2, 3, 4, 5, 6, 7, 8, 9]));
        assert!(bundle.revokes(&[0x40, 1, 2, 3, 4, 5, 6, 7, 99]), "another of the same entry");
        assert!(!bundle.revokes(&[0x40, 1, 2, 3, 4, 5, 6, 8, 8, 9]), "one of another entry");
        assert!(
            bundle.revokes(&[5, 6]) && !bundle.revokes(&[5, 6, 7]) && !bundle.revokes(&[5]),
            "too short to have one"
        );
    }
}
