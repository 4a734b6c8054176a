//! Replacing the root while everything runs.
//!
//! A new root signs from the moment on at which it exists. Nobody has to know it by then: the root before vouches for it, and every
//! chain says so, until no living SVID needs the root before any more. Only then is it taken out of the bundle.

use std::sync::Arc;

use mesh_api::Pin;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use super::issuing::Issuing;
use super::{Authority, AuthorityError, Mark};
use crate::store::{Batch, IdentityRecord, Outcome};

/// How many of those that hold a root up are named.
const NAMED: usize = 5;

/// Whom members believe: what is told to them whenever it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trust {
    /// The one that signs first.
    pub(crate) roots: Vec<CertificateDer<'static>>,
    /// The serial numbers of SVIDs that are believed no more, in hex.
    pub(crate) revoked: Vec<String>,
}

impl Trust {
    /// What the serial numbers begin with that are believed no more.
    pub(crate) fn marks(&self) -> impl Iterator<Item = Mark> {
        self.revoked.iter().filter_map(|serial| Mark::of_serial(serial))
    }
}

/// One root of the authority.
#[derive(Debug)]
pub(crate) struct RootStatus {
    pub(crate) pin: Pin,
    pub(crate) retiring: bool,
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
    /// The identities whose chain ends in it, by serial number.
    pub(crate) identities: Vec<(String, IdentityRecord)>,
    /// How many unused join tokens name it.
    pub(crate) tokens: usize,
}

/// How the authority is.
#[derive(Debug)]
pub(crate) struct Status {
    /// The one that signs first.
    pub(crate) roots: Vec<RootStatus>,
    pub(crate) intermediate_not_after: u64,
}

impl Authority {
    /// Whom to believe, and every change of it.
    pub(crate) fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.subscribe()
    }

    /// Whoever has this serial number has shown its SVID: it needs the one before no more.
    pub(crate) fn saw(&self, serial: &str) {
        self.lineage().shown(serial);
    }

    /// Puts a new root in place, and says its pin.
    pub(crate) async fn rotate(&self, now: u64) -> Result<Pin, AuthorityError> {
        let _changing = self.changing.lock().await;
        self.retire_if_unneeded(now).await?;
        let current = self.issuing.load_full();
        if current.retiring.is_some() {
            return Err(self.needed(now).await?);
        }
        let next = current.next_root(&self.trust_domain, now)?;
        let pin = next.pin;
        self.replace(&current, next).await?;
        tracing::info!(%pin, before = %current.pin, "a new root signs; the one before is believed until nobody needs it");
        Ok(pin)
    }

    /// Puts a new intermediate in place.
    pub(crate) async fn rotate_intermediate(&self, now: u64) -> Result<(), AuthorityError> {
        let _changing = self.changing.lock().await;
        let current = self.issuing.load_full();
        self.replace(&current, current.next_intermediate(&self.trust_domain, now)?)
            .await?;
        tracing::info!("the intermediate certificate was replaced");
        Ok(())
    }

    /// Takes the root before out of the bundle.
    pub(crate) async fn retire(&self, now: u64) -> Result<(), AuthorityError> {
        let _changing = self.changing.lock().await;
        if self.issuing.load().retiring.is_none() {
            return Err(AuthorityError::NoneRetiring);
        }
        if self.retire_if_unneeded(now).await? {
            Ok(())
        } else {
            Err(self.needed(now).await?)
        }
    }

    /// What is to be done about a rotation that is under way; whether one is.
    pub(crate) async fn advance(&self, now: u64) -> Result<bool, AuthorityError> {
        let _changing = self.changing.lock().await;
        self.retire_if_unneeded(now).await?;
        Ok(self.issuing.load().retiring.is_some())
    }

    /// How the roots are, and who needs them.
    pub(crate) async fn status(&self, now: u64) -> Result<Status, AuthorityError> {
        let issuing = self.issuing.load_full();
        let living = self.identities(now).await?;
        let tokens = self.records.tokens().await?;
        let unused: Vec<_> = tokens
            .iter()
            .filter(|(_, token)| token.used.is_none() && token.expires_at > now)
            .collect();
        let status = |pin: Pin, retiring: bool, (not_before, not_after)| {
            let name = pin.to_string();
            // What an earlier version did not say is taken for the older one.
            let names = |root: Option<&str>| root.map_or(retiring || issuing.retiring.is_none(), |root| root == name);
            RootStatus {
                pin,
                retiring,
                not_before,
                not_after,
                identities: living.iter().filter(|(_, one)| names(one.root.as_deref())).cloned().collect(),
                tokens: unused.iter().filter(|(_, token)| names(token.pin.as_deref())).count(),
            }
        };
        let retiring = match &issuing.retiring {
            Some(retiring) => Some(status(retiring.pin, true, super::ca::validity(&retiring.certificate)?)),
            None => None,
        };
        let signing = status(issuing.pin, false, issuing.root.validity());
        Ok(Status {
            roots: std::iter::once(signing).chain(retiring).collect(),
            intermediate_not_after: issuing.intermediate.validity().1,
        })
    }

    /// The identities that somebody may show: not over, not revoked, and not replaced by one that was shown.
    pub(crate) async fn identities(&self, now: u64) -> Result<Vec<(String, IdentityRecord)>, AuthorityError> {
        let mut identities = self.records.identities().await?;
        let revoked = self.revoked().await?;
        let lineage = self.lineage();
        identities.retain(|(serial, identity)| {
            identity.not_after >= now && !lineage.is_replaced(serial) && !revoked.contains(serial)
        });
        drop(lineage);
        identities.sort_by(|(_, a), (_, b)| (&a.spiffe_id, a.not_after).cmp(&(&b.spiffe_id, b.not_after)));
        Ok(identities)
    }

    /// Records what signs from here on, and then lets it sign.
    pub(super) async fn replace(&self, current: &Issuing, mut next: Issuing) -> Result<(), AuthorityError> {
        let mut batch = Batch::default();
        next.stored = batch.put_authority(&next.to_record(), Some(current.stored.clone()));
        match self.records.commit(batch).await? {
            Outcome::Conflict => Err(AuthorityError::Changed),
            Outcome::Committed => {
                self.issuing.store(Arc::new(next));
                self.publish().await
            }
        }
    }

    /// Tells members whom to believe, where that is not what they were told last.
    pub(super) async fn publish(&self) -> Result<(), AuthorityError> {
        let mut revoked: Vec<_> = self.revoked().await?.into_iter().collect();
        revoked.sort();
        let trust = Trust {
            roots: self.issuing.load().roots(),
            revoked,
        };
        self.trust.send_if_modified(|current| {
            let changed = **current != trust;
            if changed {
                *current = Arc::new(trust);
            }
            changed
        });
        Ok(())
    }

    async fn retire_if_unneeded(&self, now: u64) -> Result<bool, AuthorityError> {
        let current = self.issuing.load_full();
        let Some(retiring) = &current.retiring else {
            return Ok(false);
        };
        let status = self.status(now).await?;
        let needed = status
            .roots
            .iter()
            .any(|root| root.retiring && (root.tokens > 0 || !root.identities.is_empty()));
        if needed {
            return Ok(false);
        }
        self.replace(&current, current.alone()?).await?;
        tracing::info!(pin = %retiring.pin, "nobody needs the root before any more; it is believed no longer");
        Ok(true)
    }

    /// Who needs the root before.
    async fn needed(&self, now: u64) -> Result<AuthorityError, AuthorityError> {
        let status = self.status(now).await?;
        let Some(root) = status.roots.into_iter().find(|root| root.retiring) else {
            return Ok(AuthorityError::NoneRetiring);
        };
        let mut who: Vec<_> = root
            .identities
            .iter()
            .take(NAMED)
            .map(|(_, identity)| {
                let left = identity.not_after.saturating_sub(now);
                format!("{} (for {left} s at most)", identity.spiffe_id)
            })
            .collect();
        if root.identities.len() > NAMED {
            who.push(format!("{} more", root.identities.len() - NAMED));
        }
        if root.tokens > 0 {
            who.push(format!("{} unused join tokens", root.tokens));
        }
        Ok(AuthorityError::Needed {
            pin: root.pin.to_string(),
            by: who.join(", "),
        })
    }
}
