//! The document that is in force: applied as a whole or not at all, stored before it is acknowledged, and told to every member.

use std::collections::BTreeSet;
use std::sync::Arc;

use identity::{ServiceName, TrustDomain};
use mesh_client::policy::{Diagnostics, MAX_DOCUMENT, Policies, Source};
use tokio::sync::watch;

use crate::store::{Batch, Outcome, PolicyRecord, Records, StoreError};

/// The longest name of a document: a file's path.
const MAX_NAME: usize = 1024;

/// The applied documents of a mesh, of which the last is in force.
pub(crate) struct Applied {
    records: Records,
    trust_domain: TrustDomain,
    current: watch::Sender<Arc<Document>>,
}

/// A document as it was applied, and what it compiles to.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) record: PolicyRecord,
    pub(crate) policies: Policies,
}

impl Applied {
    /// The document that `records` hold, or an empty one.
    pub(crate) async fn open(records: Records, trust_domain: TrustDomain) -> Result<Self, PolicyError> {
        let record = records.policy().await?.map(|(record, _)| record).unwrap_or_default();
        // What is stored was compiled beside what was served then.
        let document = compile(record, &trust_domain, BTreeSet::new())
            .await
            .map_err(PolicyError::Stored)?;
        Ok(Self {
            records,
            trust_domain,
            current: watch::channel(Arc::new(document)).0,
        })
    }

    /// The document in force.
    pub(crate) fn current(&self) -> Arc<Document> {
        Arc::clone(&self.current.borrow())
    }

    /// The document in force, and every one that follows.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Document>> {
        self.current.subscribe()
    }

    /// Puts a document in force and says its revision; a `dry_run` only finds its mistakes, of which placing one of the services that are
    /// `served` in the mesh outside of it is one.
    pub(crate) async fn apply(
        &self,
        name: String,
        text: String,
        dry_run: bool,
        served: BTreeSet<ServiceName>,
    ) -> Result<u64, PolicyError> {
        let name: String = name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
        let (revision, before) = match self.records.policy().await? {
            Some((record, bytes)) => (record.revision, Some(bytes)),
            None => (0, None),
        };
        let next = PolicyRecord {
            revision: revision + 1,
            name,
            text,
        };
        let document = compile(next, &self.trust_domain, served)
            .await
            .map_err(PolicyError::Mistakes)?;
        if dry_run {
            return Ok(revision);
        }
        let mut batch = Batch::default();
        batch.put_policy(&document.record, before);
        match self.records.commit(batch).await? {
            Outcome::Conflict => Err(PolicyError::Conflict),
            Outcome::Committed => {
                let revision = document.record.revision;
                tracing::info!(revision, name = document.record.name, "a policy document was applied");
                self.publish(Arc::new(document));
                Ok(revision)
            }
        }
    }

    /// Two that are applied at once are stored in one order and may come here in the other.
    fn publish(&self, document: Arc<Document>) {
        self.current.send_if_modified(|current| {
            let newer = current.record.revision < document.record.revision;
            if newer {
                *current = document;
            }
            newer
        });
    }
}

/// Compiling a long document takes a while that no connection should wait for.
async fn compile(
    record: PolicyRecord,
    trust_domain: &TrustDomain,
    served: BTreeSet<ServiceName>,
) -> Result<Document, Diagnostics> {
    let trust_domain = trust_domain.clone();
    let compiling = tokio::task::spawn_blocking(move || {
        let source = Source::new(record.name.clone(), record.text.clone());
        let policies = Policies::compile_beside(&source, &trust_domain, &|service| served.contains(service))?;
        Ok(Document { record, policies })
    });
    compiling.await.expect("compiling a document does not panic")
}

/// Why a document is not in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// It does not compile.
    #[error("{0}")]
    Mistakes(Diagnostics),
    /// The stored one does not compile.
    #[error("the stored policy document cannot be understood by this version:\n{0}")]
    Stored(Diagnostics),
    /// Another one was applied at the same time.
    #[error("another document was applied at the same time; look at it, and apply again")]
    Conflict,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a message may be that brings a document.
pub(crate) const MAX_MESSAGE: usize = MAX_DOCUMENT + 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Embedded, Store};

    const DENY: &str = "[policy]\ndefault = \"deny\"\n";

    async fn open(folder: &tempfile::TempDir) -> Applied {
        let store = Arc::new(Embedded::open(&folder.path().join("mesh.redb")).unwrap());
        let records = Records::new(store as Arc<dyn Store>);
        Applied::open(records, "bank.test".parse().unwrap()).await.unwrap()
    }

    async fn apply(applied: &Applied, text: &str) -> Result<u64, String> {
        let served = [ServiceName::new("accounts").unwrap()].into();
        let result = applied.apply("mesh.toml".to_owned(), text.to_owned(), false, served).await;
        result.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn what_does_not_compile_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let applied = open(&folder).await;
        assert_eq!(apply(&applied, DENY).await, Ok(1));
        let mistakes = apply(&applied, "[policy]\ndefault = \"alow\"\n[other]\n").await.unwrap_err();
        assert_eq!(
            mistakes,
            "mesh.toml:2:11: error: `alow` is no action\n  hint: did you mean `allow`?\n\
             mesh.toml:3:2: error: unknown key `other`\n  hint: known here: policy, external, services, rules, routes"
        );
        let current = applied.current();
        assert_eq!((current.record.revision, current.record.text.as_str()), (1, DENY));
    }

    #[tokio::test]
    async fn a_service_that_is_served_cannot_be_placed_outside() {
        let folder = tempfile::tempdir().unwrap();
        let applied = open(&folder).await;
        let outside = |name: &str| format!("[external.{name}]\nendpoints = [\"10.0.0.7:80\"]\n");
        assert_eq!(
            apply(&applied, &outside("accounts")).await.unwrap_err(),
            "mesh.toml:1:11: error: `accounts` is a service of this mesh, and is called over mutual TLS\n  \
             hint: choose another name for what is outside, or let the service leave first"
        );
        assert_eq!(apply(&applied, &outside("partner")).await, Ok(1));
        assert!(applied.current().policies.is_external(&ServiceName::new("partner").unwrap()));
    }

    #[tokio::test]
    async fn a_dry_run_changes_nothing_either() {
        let folder = tempfile::tempdir().unwrap();
        let applied = open(&folder).await;
        assert_eq!(
            applied
                .apply("a".to_owned(), DENY.to_owned(), true, BTreeSet::new())
                .await
                .unwrap(),
            0
        );
        assert_eq!(applied.current().record, PolicyRecord::default());
    }

    #[tokio::test]
    async fn a_restart_forgets_nothing_and_watchers_hear_of_each() {
        let folder = tempfile::tempdir().unwrap();
        let applied = open(&folder).await;
        let mut watch = applied.watch();
        assert_eq!(watch.borrow_and_update().record.revision, 0);
        apply(&applied, DENY).await.unwrap();
        watch.changed().await.unwrap();
        assert_eq!(watch.borrow().record.revision, 1);
        drop((applied, watch));
        let applied = open(&folder).await;
        assert_eq!(
            (applied.current().record.revision, applied.current().record.text.as_str()),
            (1, DENY)
        );
        assert_eq!(apply(&applied, "").await, Ok(2));
    }
}
