//! What lets members in, for as long as it is there: registration entries, and join tokens that were used.
//!
//! Every SVID is issued under an entry or a token, in a batch that happens only while that is there. So what is removed lets nobody in
//! and renews nothing from then on, and the SVIDs of it are exactly those whose record names what is not there any more.
//! Their serial numbers begin alike ([`Mark`](super::Mark)), so that connections are found, too, that are older than the records.

use std::collections::{BTreeSet, HashMap, HashSet};

use aws_lc_rs::rand;
use identity::{ServiceName, SpiffeId};

use super::entry::{Facts, Selector};
use super::{Authority, AuthorityError, CaError, JoinError, Svid, ca, hex};
use crate::store::{Batch, EntryRecord, Outcome, Table};

/// The most selectors of one entry: there are four kinds.
const MAX_SELECTORS: usize = 16;
const ID_BYTES: usize = 8;

/// An entry as it is listed.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) service: String,
    pub(crate) selectors: Vec<String>,
    pub(crate) created_at: u64,
    /// How many SVIDs of it somebody may show.
    pub(crate) identities: usize,
}

/// A process that asks who it is.
pub(crate) trait Workload {
    /// What is known of it without reading its program.
    fn facts(&self) -> Facts;

    /// The same with the hash of its program.
    fn hashed(&self) -> impl Future<Output = Facts> + Send;
}

impl Authority {
    /// Lets processes with all of `selectors` be `service`; says the entry's id.
    pub(crate) async fn create_entry(
        &self,
        service: &ServiceName,
        selectors: &BTreeSet<Selector>,
        now: u64,
    ) -> Result<String, AuthorityError> {
        if selectors.is_empty() || selectors.len() > MAX_SELECTORS {
            return Err(AuthorityError::Selectors);
        }
        let record = EntryRecord {
            service: service.to_string(),
            selectors: selectors.iter().map(ToString::to_string).collect(),
            created_at: now,
        };
        let mut entries = self.records.entries().await?.into_iter();
        let same = |entry: &EntryRecord| (&entry.service, &entry.selectors) == (&record.service, &record.selectors);
        if let Some((id, _)) = entries.find(|(_, entry)| same(entry)) {
            return Err(AuthorityError::EntryExists(id));
        }
        let mut id = [0; ID_BYTES];
        rand::fill(&mut id).map_err(|_| CaError::Random)?;
        let id = hex(&id);
        let mut batch = Batch::default();
        batch.only_if(Table::Entries, &id, None).put_entry(&id, &record);
        match self.records.commit(batch).await? {
            Outcome::Committed => {
                tracing::info!(entry = id, %service, selectors = ?record.selectors, "registration entry created");
                Ok(id)
            }
            Outcome::Conflict => Err(CaError::Random.into()),
        }
    }

    /// Everything that lets members in, or has let them in.
    pub(crate) async fn entries(&self, now: u64) -> Result<Vec<Entry>, AuthorityError> {
        let mut identities = HashMap::<String, usize>::new();
        for (_, identity) in self.identities(now).await? {
            if let Some(entry) = identity.entry {
                *identities.entry(entry).or_default() += 1;
            }
        }
        let of = |id: &String| identities.get(id).copied().unwrap_or(0);
        let registered = self.records.entries().await?.into_iter().map(|(id, entry)| Entry {
            identities: of(&id),
            service: entry.service,
            selectors: entry.selectors,
            created_at: entry.created_at,
            id,
        });
        let tokens = self.records.tokens().await?.into_iter().map(|(id, token)| Entry {
            identities: of(&id),
            service: token.service,
            selectors: vec![format!("join_token:{id}")],
            created_at: token.created_at,
            id,
        });
        let mut entries: Vec<_> = registered.chain(tokens.filter(|token| token.identities > 0)).collect();
        entries.sort_by(|a, b| (&a.service, a.created_at, &a.id).cmp(&(&b.service, b.created_at, &b.id)));
        Ok(entries)
    }

    /// Takes away what lets members in, and with it the identities of those that it let in; says how many they were.
    pub(crate) async fn remove_entry(&self, id: &str, now: u64) -> Result<usize, AuthorityError> {
        let _changing = self.changing.lock().await;
        // Those of the entry alone: others are replaced meanwhile, the control plane's own for one, which follows every change of trust.
        let live = self.identities(now).await?;
        let revoked = live
            .iter()
            .filter(|(_, identity)| identity.entry.as_deref() == Some(id))
            .count();
        let Some((table, stored)) = self.records.letting_in(id).await? else {
            return Err(AuthorityError::NoEntry(id.chars().take(64).collect()));
        };
        let mut batch = Batch::default();
        batch.only_if(table, id, Some(stored)).delete(table, id);
        if self.records.commit(batch).await? == Outcome::Conflict {
            return Err(AuthorityError::Changed);
        }
        self.publish().await?;
        tracing::info!(
            entry = id,
            revoked,
            "what let members in was removed, and their identities with it"
        );
        Ok(revoked)
    }

    /// The SVID of a process that some entry lets be a service; be `wanted`, where it says whom.
    pub(crate) async fn attest(
        &self,
        workload: &impl Workload,
        wanted: Option<&ServiceName>,
        csr: &[u8],
        now: u64,
    ) -> Result<Svid, AuthorityError> {
        let key = ca::proven_key(csr)?;
        let facts = workload.facts();
        let mut fitting = Vec::new();
        for (id, entry) in self.records.entries().await? {
            let selectors: Result<Vec<Selector>, _> = entry.selectors.iter().map(|text| text.parse()).collect();
            let selectors = selectors.map_err(|_| AuthorityError::Incomplete)?;
            let wants = wanted.is_none_or(|wanted| wanted.as_str() == entry.service);
            if wants
                && selectors
                    .iter()
                    .all(|selector| selector.is_hash() || selector.matches(&facts))
            {
                fitting.push((id, entry, selectors));
            }
        }
        // A program is read only where its hash decides.
        let hashes = fitting.iter().flat_map(|(.., selectors)| selectors).any(Selector::is_hash);
        let facts = if hashes { workload.hashed().await } else { facts };
        fitting.retain(|(.., selectors)| selectors.iter().all(|selector| selector.matches(&facts)));
        let services: BTreeSet<_> = fitting.iter().map(|(_, entry, _)| entry.service.as_str()).collect();
        if services.len() > 1 {
            let services = services.into_iter().collect::<Vec<_>>().join(", ");
            return Err(JoinError::SeveralEntries { services }.into());
        }
        // Of several for one service the one that says most.
        fitting.sort_by_key(|(id, _, selectors)| (std::cmp::Reverse(selectors.len()), id.clone()));
        let Some((id, entry, _)) = fitting.into_iter().next() else {
            return Err(JoinError::NoEntry {
                facts: told(&facts),
                wanted: wanted.map_or_else(|| "any service".to_owned(), |wanted| format!("`{wanted}`")),
            }
            .into());
        };
        let service = ServiceName::new(&entry.service).map_err(|_| AuthorityError::Incomplete)?;
        let spiffe_id = SpiffeId::of_service(&self.trust_domain, &service);
        self.issue_under(&id, spiffe_id, &key, None, now).await
    }

    /// Issues while the entry or token `id` is there.
    pub(super) async fn issue_under(
        &self,
        id: &str,
        spiffe_id: SpiffeId,
        key: &rcgen::PublicKey,
        replaces: Option<&str>,
        now: u64,
    ) -> Result<Svid, AuthorityError> {
        // A token is written again where its member asks again; that is no removal.
        for _ in 0..3 {
            let Some((table, stored)) = self.records.letting_in(id).await? else {
                return Err(AuthorityError::Removed(spiffe_id));
            };
            let mut batch = Batch::default();
            batch.only_if(table, id, Some(stored));
            if let Some(svid) = self.issue(spiffe_id.clone(), key, Some(id), replaces, now, batch).await? {
                return Ok(svid);
            }
        }
        Err(AuthorityError::Changed)
    }

    /// The serial numbers of the SVIDs whose entry or token is not there any more.
    pub(super) async fn revoked(&self) -> Result<HashSet<String>, AuthorityError> {
        let mut there: HashSet<_> = self.records.entries().await?.into_iter().map(|(id, _)| id).collect();
        there.extend(self.records.tokens().await?.into_iter().map(|(id, _)| id));
        let identities = self.records.identities().await?.into_iter();
        let gone = identities.filter(|(_, identity)| identity.entry.as_ref().is_some_and(|id| !there.contains(id)));
        Ok(gone.map(|(serial, _)| serial).collect())
    }
}

fn told(facts: &Facts) -> String {
    let mut told = vec![Selector::Uid(facts.uid).to_string(), Selector::Gid(facts.gid).to_string()];
    match &facts.path {
        Some(path) => told.push(Selector::Path(path.clone()).to_string()),
        None => told.push("a program that this control plane may not look at".to_owned()),
    }
    told.extend(facts.sha256.map(|sha256| Selector::Sha256(sha256).to_string()));
    told.join(", ")
}
