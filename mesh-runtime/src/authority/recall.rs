//! What a store does not know that was restored from a backup: the SVIDs that were issued since.
//!
//! Their members live, and lose nothing by it. But nothing is renewed that cannot be taken away, and what is taken away is an entry or a
//! token with everything that was issued under it. The serial number says which one that was, be it one that is not known either.

use identity::{ServiceName, SpiffeId};

use super::{Authority, AuthorityError, Mark};
use crate::store::{Batch, IdentityRecord, Outcome, Table, TokenRecord, UseRecord};

impl Authority {
    /// Makes sure that the SVID with this serial number, which a member of `service` has shown, is known, and what it was issued under.
    ///
    /// One whose time is over has to be known already: what is over is forgotten only once another was shown in its place.
    pub(crate) async fn recall(
        &self,
        service: &ServiceName,
        serial: &str,
        not_after: u64,
        now: u64,
    ) -> Result<(), AuthorityError> {
        let known = self.records.identity(serial).await?;
        if known.is_some_and(|identity| identity.entry.is_some()) {
            return Ok(());
        }
        let spiffe_id = SpiffeId::of_service(&self.trust_domain, service);
        if self.is_revoked(serial) {
            return Err(AuthorityError::Removed(spiffe_id));
        }
        let Some(mark) = Mark::of_serial(serial).filter(|_| not_after >= now) else {
            return Err(AuthorityError::Forgotten(spiffe_id));
        };
        // Another member of the same entry may come at the same time.
        for _ in 0..3 {
            let (entry, mut batch) = self.marked(mark, service, now).await?;
            let identity = IdentityRecord {
                spiffe_id: spiffe_id.to_string(),
                not_before: now,
                not_after,
                root: None,
                entry: Some(entry.clone()),
                replaces: None,
            };
            batch.put_identity(serial, &identity);
            if self.records.commit(batch).await? == Outcome::Committed {
                tracing::warn!(%spiffe_id, serial, entry, "an SVID that is not in the store was recalled");
                return Ok(());
            }
        }
        Err(AuthorityError::Changed)
    }

    /// Whether what the SVID with this serial number was issued under is not there any more.
    pub(crate) fn is_revoked(&self, serial: &str) -> bool {
        Mark::of_serial(serial).is_some_and(|mark| self.trust.borrow().marks().any(|revoked| revoked == mark))
    }

    /// The entry or token whose SVIDs have this mark, and what is to be written for it to be there: where it is not, something like a
    /// token that was used, which lets nobody in and can be removed.
    async fn marked(&self, mark: Mark, service: &ServiceName, now: u64) -> Result<(String, Batch), AuthorityError> {
        let entries = self.records.entries().await?.into_iter().map(|(id, _)| id);
        let tokens = self.records.tokens().await?.into_iter().map(|(id, _)| id);
        let known = entries.chain(tokens).find(|id| Mark::of_entry(id) == mark);
        let (id, mut batch) = (known.unwrap_or_else(|| mark.id()), Batch::default());
        match self.records.letting_in(&id).await? {
            Some((table, stored)) => drop(batch.only_if(table, &id, Some(stored))),
            None => {
                let token = TokenRecord {
                    hash: Vec::new(),
                    service: service.to_string(),
                    created_at: now,
                    expires_at: now,
                    pin: None,
                    used: Some(UseRecord {
                        at: now,
                        key: Vec::new(),
                    }),
                };
                batch.only_if(Table::Tokens, &id, None).put_token(&id, &token);
            }
        }
        Ok((id, batch))
    }
}
