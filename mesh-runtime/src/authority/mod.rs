//! The certificate authority of a trust domain: who gets in, and what identity they get.
//!
//! A member gets its first SVID for a join token and each further one for the SVID before it. Every answer that lets
//! somebody in is on stable storage before it is given: a token that was used stays used, whatever happens next.

mod ca;
mod entries;
mod entry;
mod issuing;
mod lineage;
mod recall;
mod rotation;
mod secret;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use identity::{ServiceName, SpiffeId, TrustDomain, TrustDomainError};
use mesh_api::{CONTROL_PLANE_PATH, JoinToken, Pin};
use rcgen::PublicKeyData as _;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

pub use ca::{CaError, CsrError};
pub(crate) use ca::{Mark, hex, unhex};
pub(crate) use entries::{Entry, Workload};
pub(crate) use entry::{Facts, Selector};
use issuing::Issuing;
use lineage::Lineage;
pub(crate) use rotation::{RootStatus, Trust};
pub(crate) use secret::{SecretHash, new_token};

use crate::store::{Batch, IdentityRecord, Outcome, Records, StoreError, Table, TokenRecord, UseRecord};

/// The shortest lifetime of an SVID: below it, renewal would be all that members do.
pub const MIN_SVID_TTL: Duration = Duration::from_secs(10);
/// The longest lifetime of an SVID: who is not told that one was revoked believes it for as long as this.
pub const MAX_SVID_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest lifetime of a join token.
pub const MAX_TOKEN_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// For how long an SVID that has ended (or has not begun, where a clock was set back) still buys the next one.
pub(crate) const LENIENCE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long what became of a token is remembered, so that its reuse is refused with the reason and not as unknown.
const TOKEN_MEMORY: u64 = 24 * 60 * 60;

/// The authority. Times are seconds since 1970-01-01T00:00:00Z.
pub(crate) struct Authority {
    trust_domain: TrustDomain,
    issuing: ArcSwap<Issuing>,
    /// One change of what signs at a time.
    changing: tokio::sync::Mutex<()>,
    trust: watch::Sender<Arc<Trust>>,
    lineage: Mutex<Lineage>,
    /// The serial number of the control plane's own SVID, and the root that its chain ends in.
    own: Mutex<Option<(String, Pin)>>,
    /// The same root once the SVID is shown.
    pin: Mutex<Pin>,
    svid_ttl: Duration,
    records: Records,
}

/// An identity as it is handed out.
#[derive(Debug, Clone)]
pub(crate) struct Svid {
    pub(crate) spiffe_id: SpiffeId,
    /// Leaf first, without the root.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// Lower-case hex.
    pub(crate) serial: String,
    /// The root that the chain ends in.
    pub(crate) root: Pin,
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
        let (trust_domain, issuing) = match records.trust_domain().await? {
            Some(stored) => {
                let (record, stored_record) = records.authority().await?.ok_or(AuthorityError::Incomplete)?;
                (reopen(&stored, wish)?, Issuing::from_record(&record, stored_record)?)
            }
            None => found(&records, wish, now).await?,
        };
        let trust = Trust {
            roots: issuing.roots(),
            revoked: Vec::new(),
        };
        let pin = Mutex::new(issuing.pin);
        let identities = records.identities().await?;
        let mut lineage = Lineage::of(&identities);
        // Keys do not outlive their process, and the control plane's was this one's predecessor.
        let own = SpiffeId::new(&trust_domain, CONTROL_PLANE_PATH).expect("the path is well formed and short");
        for (serial, _) in identities.iter().filter(|(_, identity)| identity.spiffe_id == own.as_str()) {
            lineage.lost(serial);
        }
        let authority = Self {
            trust_domain,
            issuing: ArcSwap::from_pointee(issuing),
            changing: tokio::sync::Mutex::default(),
            trust: watch::Sender::new(Arc::new(trust)),
            lineage: Mutex::new(lineage),
            own: Mutex::default(),
            pin,
            svid_ttl,
            records,
        };
        authority.keep_house(now).await?;
        authority.publish().await?;
        Ok(authority)
    }

    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// What a token names the root by: one that the control plane shows.
    pub(crate) fn pin(&self) -> Pin {
        *self.pin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lineage(&self) -> MutexGuard<'_, Lineage> {
        self.lineage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own(&self) -> MutexGuard<'_, Option<(String, Pin)>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be done every now and then: the next intermediate when it is due, and forgetting what is long over.
    pub(crate) async fn keep_house(&self, now: u64) -> Result<(), AuthorityError> {
        if self.issuing.load().intermediate.is_due(now) {
            self.rotate_intermediate(now).await?;
        }
        let mut batch = Batch::default();
        let mut needed = HashSet::new();
        for (serial, identity) in self.records.identities().await? {
            let mut lineage = self.lineage();
            // Who lost its time to a clock that was set comes back with the last that it has, and with none before.
            let kept = if lineage.is_replaced(&serial) { 0 } else { LENIENCE.as_secs() };
            if identity.not_after.saturating_add(kept) < now {
                lineage.forget(&serial);
                batch.delete(Table::Identities, serial);
            } else {
                needed.extend(identity.entry);
            }
        }
        for (id, token) in self.records.tokens().await? {
            if token.expires_at.saturating_add(TOKEN_MEMORY) < now && !needed.contains(&id) {
                batch.delete(Table::Tokens, id);
            }
        }
        if !batch.changes.is_empty() {
            let _ = self.records.commit(batch).await?;
            self.publish().await?;
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
        let pin = self.pin();
        let (token, hash) = new_token(pin)?;
        let expires_at = now + ttl.as_secs();
        let record = TokenRecord {
            hash: hash.to_vec(),
            service: service.to_string(),
            created_at: now,
            expires_at,
            pin: Some(pin.to_string()),
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
        match self.issue(spiffe_id, &key, Some(&id), None, now, batch).await? {
            Some(svid) => Ok(svid),
            // Somebody else was faster with it.
            None => Err(JoinError::Used {
                service: service.to_string(),
                ago: 0,
            }
            .into()),
        }
    }

    /// The next SVID of a member that proved to be `service` by the SVID with this serial number, of which [`recall`](Self::recall) has
    /// made sure that it is known.
    pub(crate) async fn renew(
        &self,
        service: &ServiceName,
        serial: &str,
        csr: &[u8],
        now: u64,
    ) -> Result<Svid, AuthorityError> {
        let key = ca::proven_key(csr)?;
        if self.lineage().is_replaced(serial) {
            return Err(AuthorityError::Replaced(serial.to_owned()));
        }
        let spiffe_id = SpiffeId::of_service(&self.trust_domain, service);
        let record = self.records.identity(serial).await?;
        match record.and_then(|identity| identity.entry) {
            Some(entry) => self.issue_under(&entry, spiffe_id, &key, Some(serial), now).await,
            None => Err(AuthorityError::Forgotten(spiffe_id)),
        }
    }

    /// The control plane's own SVID, for the key that `csr` proves. It shows it from [`Self::shows_own`] on.
    pub(crate) async fn own_svid(&self, csr: &[u8], now: u64) -> Result<Svid, AuthorityError> {
        let key = ca::proven_key(csr)?;
        let spiffe_id = SpiffeId::new(&self.trust_domain, CONTROL_PLANE_PATH).expect("the path is well formed and short");
        let before = self.own().as_ref().map(|(serial, _)| serial.clone());
        let svid = self
            .issue(spiffe_id, &key, None, before.as_deref(), now, Batch::default())
            .await?
            .ok_or(AuthorityError::Incomplete)?;
        *self.own() = Some((svid.serial.clone(), svid.root));
        Ok(svid)
    }

    /// The control plane shows its last SVID, and the one before no more.
    pub(crate) fn shows_own(&self) {
        if let Some((serial, root)) = &*self.own() {
            self.saw(serial);
            *self.pin.lock().unwrap_or_else(PoisonError::into_inner) = *root;
        }
    }

    /// Signs and records in one batch with what the caller has to change; `None` where the caller's condition failed.
    async fn issue(
        &self,
        spiffe_id: SpiffeId,
        key: &rcgen::PublicKey,
        entry: Option<&str>,
        replaces: Option<&str>,
        now: u64,
        mut batch: Batch,
    ) -> Result<Option<Svid>, AuthorityError> {
        let issuing = self.issuing.load_full();
        let (mark, life) = (entry.map(Mark::of_entry), self.svid_ttl.as_secs());
        let leaf = issuing.intermediate.sign(&spiffe_id, key, mark, now, life)?;
        let identity = IdentityRecord {
            spiffe_id: spiffe_id.to_string(),
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            root: Some(issuing.pin.to_string()),
            entry: entry.map(str::to_owned),
            replaces: replaces.map(str::to_owned),
        };
        batch.put_identity(&leaf.serial, &identity);
        if self.records.commit(batch).await? == Outcome::Conflict {
            return Ok(None);
        }
        if let Some(before) = replaces {
            self.lineage().issued(&leaf.serial, before);
        }
        tracing::info!(%spiffe_id, serial = leaf.serial, not_after = leaf.not_after, "SVID issued");
        Ok(Some(Svid {
            spiffe_id,
            chain: issuing.chain(leaf.certificate),
            serial: leaf.serial,
            root: issuing.pin,
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
async fn found(records: &Records, wish: Option<TrustDomain>, now: u64) -> Result<(TrustDomain, Issuing), AuthorityError> {
    let trust_domain = match wish {
        Some(wish) => wish,
        None => TrustDomain::new(crate::config::DEFAULT_TRUST_DOMAIN).expect("the default is a trust domain"),
    };
    let mut issuing = Issuing::new(&trust_domain, now)?;
    let mut batch = Batch::default();
    issuing.stored = batch.found(trust_domain.as_str(), &issuing.to_record());
    match records.commit(batch).await? {
        Outcome::Committed => {
            tracing::info!(%trust_domain, "a new authority was founded");
            Ok((trust_domain, issuing))
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
    /// A root is not taken out of the bundle while somebody needs it.
    #[error("the authority {pin} is needed yet, by {by}; it retires by itself when it is not")]
    Needed {
        /// Which.
        pin: String,
        /// By whom.
        by: String,
    },
    /// There is no root but the one that signs.
    #[error("no authority is retiring; `mesh-runtime authority rotate` puts a new one in the place of the one that signs")]
    NoneRetiring,
    /// Another control plane changed the authority in the same store.
    #[error("the authority was changed at the same time; look at it, and try again")]
    Changed,
    /// What let a member in was taken away.
    #[error("what let {0} in was removed, and its identity with it")]
    Removed(SpiffeId),
    /// Nothing is known of what the member shows, which is over besides.
    #[error(
        "the SVID of {0} is over, and this control plane has no record of it; join again, by an entry or with another token"
    )]
    Forgotten(SpiffeId),
    /// There is no such entry.
    #[error("there is no entry `{0}`; `mesh-runtime entry list` shows those that there are")]
    NoEntry(String),
    /// The same entry twice.
    #[error("the entry `{0}` says the same already")]
    EntryExists(String),
    /// An entry that would let anybody in.
    #[error(
        "an entry has 1 to 16 selectors; write unix:uid:1000, unix:gid:1000, unix:path:/usr/bin/accounts or unix:sha256:HEX"
    )]
    Selectors,
    /// Only the last SVID of a member buys the next one.
    #[error("the SVID {0} was replaced by one that was used since, and buys no other")]
    Replaced(String),
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

/// Why somebody is not let in.
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
    /// No registration entry fits.
    #[error("no registration entry lets {facts} be {wanted}; make one: mesh-runtime entry create SERVICE --selector SELECTOR")]
    NoEntry {
        /// What is known of the process.
        facts: String,
        /// Who it wants to be.
        wanted: String,
    },
    /// Entries of several services fit.
    #[error("registration entries let this process be several services ({services}); say which, as in MESH_SERVICE")]
    SeveralEntries {
        /// Their names.
        services: String,
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
