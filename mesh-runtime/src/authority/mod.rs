//! The certificate authority of a trust domain: who gets in, and what identity they get.
//!
//! A member gets its first SVID for a join token and each further one for the SVID before it. Every answer that lets
//! somebody in is on stable storage before it is given: a token that was used stays used, whatever happens next.

mod ca;
mod secret;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use identity::{ServiceName, SpiffeId, TrustDomain, TrustDomainError};
use mesh_api::{CONTROL_PLANE_PATH, JoinToken, Pin};
use rcgen::PublicKeyData as _;
use rustls_pki_types::CertificateDer;

use ca::Signer;
pub use ca::{CaError, CsrError};
pub(crate) use secret::{SecretHash, new_token};

use crate::store::{AuthorityRecord, Batch, IdentityRecord, Outcome, Records, StoreError, Table, TokenRecord, UseRecord};

/// The shortest lifetime of an SVID: below it, renewal would be all that members do.
pub const MIN_SVID_TTL: Duration = Duration::from_secs(10);
/// The longest lifetime of an SVID. There is no revocation, so a lost key is good for as long as this.
pub const MAX_SVID_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest lifetime of a join token.
pub const MAX_TOKEN_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// How long what became of a token is remembered, so that its reuse is refused with the reason and not as unknown.
const TOKEN_MEMORY: u64 = 24 * 60 * 60;

/// The authority. Times are seconds since 1970-01-01T00:00:00Z.
pub(crate) struct Authority {
    trust_domain: TrustDomain,
    root: Signer,
    pin: Pin,
    intermediate: ArcSwap<Signer>,
    svid_ttl: Duration,
    records: Records,
}

/// An identity as it is handed out.
#[derive(Debug, Clone)]
pub(crate) struct Svid {
    pub(crate) spiffe_id: SpiffeId,
    /// Leaf first, without the root.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
}

impl Authority {
    /// The authority that `records` hold, or a new one where they hold none.
    ///
    /// `trust_domain`: what the operator asked for; without a wish it is the stored one, or `mesh.local`.
    pub(crate) async fn open(
        records: Records,
        wish: Option<TrustDomain>,
        svid_ttl: Duration,
        now: u64,
    ) -> Result<Self, AuthorityError> {
        let (trust_domain, record) = match records.trust_domain().await? {
            Some(stored) => (
                reopen(&stored, wish)?,
                records.authority().await?.ok_or(AuthorityError::Incomplete)?,
            ),
            None => found(&records, wish, now).await?,
        };
        let root = Signer::from_record(&record.root)?;
        let authority = Self {
            pin: Pin::of_spki(&root.spki()),
            intermediate: ArcSwap::from_pointee(Signer::from_record(&record.intermediate)?),
            trust_domain,
            root,
            svid_ttl,
            records,
        };
        authority.keep_house(now).await?;
        Ok(authority)
    }

    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// What a token names the root by.
    pub(crate) fn pin(&self) -> Pin {
        self.pin
    }

    /// The trust bundle.
    pub(crate) fn roots(&self) -> Vec<CertificateDer<'static>> {
        vec![self.root.certificate().clone()]
    }

    /// What is to be done every now and then: the next intermediate when it is due, and forgetting what is long over.
    pub(crate) async fn keep_house(&self, now: u64) -> Result<(), AuthorityError> {
        if self.intermediate.load().is_due(now) {
            let next = self.root.intermediate(&self.trust_domain, now)?;
            let record = AuthorityRecord {
                root: self.root.to_record(),
                intermediate: next.to_record(),
            };
            let mut batch = Batch::default();
            batch.put_authority(&record);
            let _ = self.records.commit(batch).await?;
            self.intermediate.store(Arc::new(next));
            tracing::info!("the intermediate certificate was renewed");
        }
        let mut batch = Batch::default();
        for (id, token) in self.records.tokens().await? {
            if token.expires_at.saturating_add(TOKEN_MEMORY) < now {
                batch.delete(Table::Tokens, id);
            }
        }
        for (serial, identity) in self.records.identities().await? {
            if identity.not_after < now {
                batch.delete(Table::Identities, serial);
            }
        }
        if !batch.changes.is_empty() {
            let _ = self.records.commit(batch).await?;
        }
        Ok(())
    }

    /// A token that lets one member in as `service`, once, within `ttl`; and when it expires.
    pub(crate) async fn create_token(
        &self,
        service: &ServiceName,
        ttl: Duration,
        now: u64,
    ) -> Result<(JoinToken, u64), AuthorityError> {
        if ttl < Duration::from_secs(1) || ttl > MAX_TOKEN_TTL {
            return Err(AuthorityError::TokenTtl);
        }
        let (token, hash) = new_token(self.pin)?;
        let expires_at = now + ttl.as_secs();
        let record = TokenRecord {
            hash: hash.to_vec(),
            service: service.to_string(),
            created_at: now,
            expires_at,
            used: None,
        };
        let mut batch = Batch::default();
        batch.only_if(Table::Tokens, hash.id(), None).put_token(&hash.id(), &record);
        match self.records.commit(batch).await? {
            Outcome::Committed => {
                tracing::info!(token = hash.id(), %service, expires_at, "join token created");
                Ok((token, expires_at))
            }
            Outcome::Conflict => Err(CaError::Random.into()),
        }
    }

    /// The first SVID of a member: for the secret of a join token, which is used up by it.
    ///
    /// The key that it let in may ask again while the token lasts: the answer may have been lost on its way.
    pub(crate) async fn join(&self, secret: &str, csr: &[u8], now: u64) -> Result<Svid, AuthorityError> {
        let hash = SecretHash::of(secret);
        let id = hash.id();
        let Some((token, stored)) = self.records.token(&id).await? else {
            return Err(JoinError::Unknown.into());
        };
        if !hash.matches(&token.hash) {
            return Err(JoinError::Unknown.into());
        }
        // A request that cannot be answered does not use the token up.
        let key = ca::proven_key(csr)?;
        let fingerprint = digest(&SHA256, key.der_bytes());
        if let Some(used) = &token.used
            && used.key != fingerprint.as_ref()
        {
            let ago = now.saturating_sub(used.at);
            return Err(JoinError::Used {
                service: token.service,
                ago,
            }
            .into());
        }
        if token.expires_at <= now {
            let ago = now - token.expires_at;
            return Err(JoinError::Expired {
                service: token.service,
                ago,
            }
            .into());
        }
        let service = ServiceName::new(&token.service).map_err(|_| AuthorityError::Incomplete)?;
        let spiffe_id = SpiffeId::of_service(&self.trust_domain, &service);
        let mut batch = Batch::default();
        let used = Some(UseRecord {
            at: now,
            key: fingerprint.as_ref().to_vec(),
        });
        batch
            .only_if(Table::Tokens, &id, Some(stored))
            .put_token(&id, &TokenRecord { used, ..token });
        match self.issue(spiffe_id, &key, now, batch).await? {
            Some(svid) => Ok(svid),
            // Somebody else was faster with it.
            None => Err(JoinError::Used {
                service: service.to_string(),
                ago: 0,
            }
            .into()),
        }
    }

    /// The next SVID of a member that proved to be `service`.
    pub(crate) async fn renew(&self, service: &ServiceName, csr: &[u8], now: u64) -> Result<Svid, AuthorityError> {
        let key = ca::proven_key(csr)?;
        let spiffe_id = SpiffeId::of_service(&self.trust_domain, service);
        self.issue(spiffe_id, &key, now, Batch::default())
            .await?
            .ok_or(AuthorityError::Incomplete)
    }

    /// The control plane's own SVID, for the key that `csr` proves.
    pub(crate) async fn own_svid(&self, csr: &[u8], now: u64) -> Result<Svid, AuthorityError> {
        let key = ca::proven_key(csr)?;
        let spiffe_id = SpiffeId::new(&self.trust_domain, CONTROL_PLANE_PATH).expect("the path is well formed and short");
        self.issue(spiffe_id, &key, now, Batch::default())
            .await?
            .ok_or(AuthorityError::Incomplete)
    }

    /// The identities that are valid, or will be, at `now`.
    pub(crate) async fn identities(&self, now: u64) -> Result<Vec<(String, IdentityRecord)>, AuthorityError> {
        let mut identities = self.records.identities().await?;
        identities.retain(|(_, identity)| identity.not_after >= now);
        identities.sort_by(|(_, a), (_, b)| (&a.spiffe_id, a.not_after).cmp(&(&b.spiffe_id, b.not_after)));
        Ok(identities)
    }

    /// Signs and records in one batch with what the caller has to change; `None` where the caller's condition failed.
    async fn issue(
        &self,
        spiffe_id: SpiffeId,
        key: &rcgen::PublicKey,
        now: u64,
        mut batch: Batch,
    ) -> Result<Option<Svid>, AuthorityError> {
        let intermediate = self.intermediate.load_full();
        let leaf = intermediate.sign(&spiffe_id, key, now, self.svid_ttl.as_secs())?;
        let identity = IdentityRecord {
            spiffe_id: spiffe_id.to_string(),
            not_before: leaf.not_before,
            not_after: leaf.not_after,
        };
        batch.put_identity(&leaf.serial, &identity);
        if self.records.commit(batch).await? == Outcome::Conflict {
            return Ok(None);
        }
        tracing::info!(%spiffe_id, serial = leaf.serial, not_after = leaf.not_after, "SVID issued");
        Ok(Some(Svid {
            spiffe_id,
            chain: vec![leaf.certificate, intermediate.certificate().clone()],
            not_before: leaf.not_before,
            not_after: leaf.not_after,
        }))
    }
}

/// The stored trust domain, if that is what the operator wants.
fn reopen(stored: &str, wish: Option<TrustDomain>) -> Result<TrustDomain, AuthorityError> {
    let stored = TrustDomain::new(stored).map_err(AuthorityError::StoredTrustDomain)?;
    match wish {
        Some(wish) if wish != stored => Err(AuthorityError::TrustDomain { stored, wish }),
        _ => Ok(stored),
    }
}

/// A new authority, recorded.
async fn found(
    records: &Records,
    wish: Option<TrustDomain>,
    now: u64,
) -> Result<(TrustDomain, AuthorityRecord), AuthorityError> {
    let trust_domain = match wish {
        Some(wish) => wish,
        None => TrustDomain::new(crate::config::DEFAULT_TRUST_DOMAIN).expect("the default is a trust domain"),
    };
    let root = Signer::root(&trust_domain, now)?;
    let intermediate = root.intermediate(&trust_domain, now)?;
    let record = AuthorityRecord {
        root: root.to_record(),
        intermediate: intermediate.to_record(),
    };
    let mut batch = Batch::default();
    batch.found(trust_domain.as_str(), &record);
    match records.commit(batch).await? {
        Outcome::Committed => {
            tracing::info!(%trust_domain, "a new authority was founded");
            Ok((trust_domain, record))
        }
        // Another control plane founded one in the same store in between.
        Outcome::Conflict => Err(AuthorityError::Incomplete),
    }
}

/// Why the authority did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The data belongs to another trust domain.
    #[error(
        "the data directory belongs to the trust domain `{stored}`, not `{wish}`; start without --trust-domain, or with another --data-dir"
    )]
    TrustDomain {
        /// The one it belongs to.
        stored: TrustDomain,
        /// The one that was asked for.
        wish: TrustDomain,
    },
    /// The stored trust domain is none.
    #[error("the stored trust domain is malformed: {0}")]
    StoredTrustDomain(#[source] TrustDomainError),
    /// The store holds part of an authority.
    #[error("the store holds an incomplete authority; restore the data directory from a copy, or start with a new one")]
    Incomplete,
    /// A token that would live too short or too long.
    #[error("a token lives from one second to 24 hours")]
    TokenTtl,
    /// The token does not let in.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The request for a certificate is refused.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// A certificate cannot be made.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a token does not let anybody in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Nobody made it, or long ago.
    #[error("the join token is unknown to this control plane; make one with `mesh-runtime token create SERVICE`")]
    Unknown,
    /// It let somebody in already.
    #[error(
        "the join token for `{service}` was used {ago} s ago, and is good for one join; make another with `mesh-runtime token create {service}`"
    )]
    Used {
        /// Whom it was for.
        service: String,
        /// Seconds since.
        ago: u64,
    },
    /// Too late.
    #[error("the join token for `{service}` expired {ago} s ago; make another with `mesh-runtime token create {service}`")]
    Expired {
        /// Whom it was for.
        service: String,
        /// Seconds since.
        ago: u64,
    },
}
