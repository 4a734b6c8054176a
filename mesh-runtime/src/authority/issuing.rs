//! What signs: a root, its intermediate, and for a while the root before.

use identity::TrustDomain;
use mesh_api::Pin;
use rustls_pki_types::CertificateDer;

use super::ca::Signer;
use super::{AuthorityError, CaError};
use crate::store::{AuthorityRecord, RetiringRecord};

/// The keys and certificates of an authority at one time. Immutable: a rotation makes another one.
pub(super) struct Issuing {
    pub(super) root: Signer,
    pub(super) pin: Pin,
    pub(super) intermediate: Signer,
    pub(super) retiring: Option<Retiring>,
    /// The bytes that it is recorded as, which whoever replaces it is conditional on.
    pub(super) stored: Vec<u8>,
}

/// The root before. Its key is gone: all that it will ever sign, it has signed.
#[derive(Clone)]
pub(super) struct Retiring {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) pin: Pin,
    /// The root that signs, as this one vouches for it.
    crossed: CertificateDer<'static>,
}

impl Issuing {
    /// A new authority, not recorded yet.
    pub(super) fn new(trust_domain: &TrustDomain, now: u64) -> Result<Self, CaError> {
        let root = Signer::root(trust_domain, now)?;
        let intermediate = root.intermediate(trust_domain, now)?;
        Ok(Self::assemble(root, intermediate, None))
    }

    pub(super) fn from_record(record: &AuthorityRecord, stored: Vec<u8>) -> Result<Self, AuthorityError> {
        let retiring = match &record.retiring {
            Some(retiring) => {
                let certificate = CertificateDer::from(retiring.certificate.clone());
                Some(Retiring {
                    pin: mesh_client::tls::Bundle::pin(&certificate).map_err(|_| CaError::Certificate)?,
                    certificate,
                    crossed: retiring.crossed.clone().into(),
                })
            }
            None => None,
        };
        let root = Signer::from_record(&record.root)?;
        let intermediate = Signer::from_record(&record.intermediate)?;
        Ok(Self {
            stored,
            ..Self::assemble(root, intermediate, retiring)
        })
    }

    pub(super) fn to_record(&self) -> AuthorityRecord {
        AuthorityRecord {
            root: self.root.to_record(),
            intermediate: self.intermediate.to_record(),
            retiring: self.retiring.as_ref().map(|retiring| RetiringRecord {
                certificate: retiring.certificate.to_vec(),
                crossed: retiring.crossed.to_vec(),
            }),
        }
    }

    /// The one after: another root, for which this one vouches with the last use of its key.
    pub(super) fn next_root(&self, trust_domain: &TrustDomain, now: u64) -> Result<Self, CaError> {
        let next = Self::new(trust_domain, now)?;
        let retiring = Retiring {
            certificate: self.root.certificate().clone(),
            pin: self.pin,
            crossed: next.root.crossed(&self.root, trust_domain, now)?,
        };
        Ok(Self {
            retiring: Some(retiring),
            ..next
        })
    }

    /// The same root with another intermediate.
    pub(super) fn next_intermediate(&self, trust_domain: &TrustDomain, now: u64) -> Result<Self, CaError> {
        let intermediate = self.root.intermediate(trust_domain, now)?;
        Ok(Self::assemble(self.root.again()?, intermediate, self.retiring.clone()))
    }

    /// The same without the root before.
    pub(super) fn alone(&self) -> Result<Self, CaError> {
        Ok(Self::assemble(self.root.again()?, self.intermediate.again()?, None))
    }

    /// The chain of a leaf: what every peer needs to get from there to a root that it knows.
    pub(super) fn chain(&self, leaf: CertificateDer<'static>) -> Vec<CertificateDer<'static>> {
        let crossed = self.retiring.as_ref().map(|retiring| retiring.crossed.clone());
        [leaf, self.intermediate.certificate().clone()]
            .into_iter()
            .chain(crossed)
            .collect()
    }

    /// The roots to believe, the one that signs first.
    pub(super) fn roots(&self) -> Vec<CertificateDer<'static>> {
        let retiring = self.retiring.as_ref().map(|retiring| retiring.certificate.clone());
        std::iter::once(self.root.certificate().clone()).chain(retiring).collect()
    }

    fn assemble(root: Signer, intermediate: Signer, retiring: Option<Retiring>) -> Self {
        Self {
            pin: Pin::of_spki(&root.spki()),
            root,
            intermediate,
            retiring,
            stored: Vec::new(),
        }
    }
}
