//! What the control plane must never forget, and the contract of whoever keeps it.
//!
//! A store is a set of small tables of bytes with one way to write: a [`Batch`] of changes that happens as a whole, under
//! conditions, and that has reached stable storage when [`Store::commit`] answers. Nothing is acknowledged to a member
//! or an operator before that. The contract is small so that a second store (a replicated one) can keep it exactly;
//! one suite of tests checks it for whichever store is handed to it.

pub(crate) mod as_base64;
mod embedded;
mod records;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod power;

use std::future::Future;
use std::pin::Pin;

pub use embedded::Embedded;
pub(crate) use records::{
    AuthorityRecord, EntryRecord, IdentityRecord, PolicyRecord, Records, RegistrationRecord, RetiringRecord, SignerRecord,
    TokenRecord, UseRecord,
};

/// A future that a store answers by; boxed so that a store can be chosen when the program starts.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A family of records. Its name on disk is fixed for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Table {
    /// Single facts: the trust domain, the authority's keys, the revision.
    Facts,
    /// Join tokens by the hash of their secret.
    Tokens,
    /// Registered endpoints by their id.
    Registrations,
    /// Issued identities by their serial number.
    Identities,
    /// Registration entries by their id.
    Entries,
}

impl Table {
    /// Every table, in the order of their names.
    pub const ALL: [Self; 5] = [
        Self::Entries,
        Self::Facts,
        Self::Identities,
        Self::Registrations,
        Self::Tokens,
    ];

    /// The name on disk.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Facts => "facts",
            Self::Tokens => "tokens",
            Self::Registrations => "registrations",
            Self::Identities => "identities",
            Self::Entries => "entries",
        }
    }
}

/// One change of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The record has this value, whatever it had before.
    Put {
        /// Where.
        table: Table,
        /// Which.
        key: String,
        /// The value.
        value: Vec<u8>,
    },
    /// There is no such record.
    Delete {
        /// Where.
        table: Table,
        /// Which.
        key: String,
    },
}

/// What must hold for a batch to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Where.
    pub table: Table,
    /// Which.
    pub key: String,
    /// The value that the record has; `None`: there is no such record.
    pub is: Option<Vec<u8>>,
}

/// Changes that happen all together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// What must hold, judged on the state that the changes then apply to.
    pub conditions: Vec<Condition>,
    /// What happens, in this order.
    pub changes: Vec<Change>,
}

impl Batch {
    /// Adds: this record has this value.
    pub fn put(&mut self, table: Table, key: impl Into<String>, value: impl Into<Vec<u8>>) -> &mut Self {
        self.changes.push(Change::Put {
            table,
            key: key.into(),
            value: value.into(),
        });
        self
    }

    /// Adds: there is no such record.
    pub fn delete(&mut self, table: Table, key: impl Into<String>) -> &mut Self {
        self.changes.push(Change::Delete { table, key: key.into() });
        self
    }

    /// Adds the condition that the record has exactly this value (`None`: is absent).
    pub fn only_if(&mut self, table: Table, key: impl Into<String>, is: Option<Vec<u8>>) -> &mut Self {
        self.conditions.push(Condition {
            table,
            key: key.into(),
            is,
        });
        self
    }
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a batch whose conditions did not hold has not happened"]
pub enum Outcome {
    /// It happened, and is on stable storage.
    Committed,
    /// A condition did not hold; nothing changed.
    Conflict,
}

/// Keeps records across restarts and crashes.
///
/// - A batch is atomic, and batches are serial: a condition never holds for two batches that exclude each other.
/// - What [`commit`](Self::commit) acknowledged survives the death of the process at any moment.
/// - A read that starts after an acknowledgement sees what was acknowledged.
pub trait Store: Send + Sync + 'static {
    /// The value of a record.
    fn read(&self, table: Table, key: &str) -> Answer<'_, Option<Vec<u8>>>;

    /// Every record of a table, by key in byte order.
    fn scan(&self, table: Table) -> Answer<'_, Vec<(String, Vec<u8>)>>;

    /// Every record of every table as of one moment, by table and key.
    fn dump(&self) -> Answer<'_, Vec<(Table, String, Vec<u8>)>>;

    /// Makes a batch happen, or not.
    fn commit(&self, batch: Batch) -> Answer<'_, Outcome>;
}

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Its file cannot be opened.
    #[error("cannot open the store {path}: {source}")]
    Open {
        /// The file.
        path: std::path::PathBuf,
        /// What the system or the database says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A read failed.
    #[error("cannot read the store: {0}")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A write failed: a full disk, for one. Nothing of the batch happened.
    #[error("cannot write the store: {0}")]
    Write(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store was closed while it was asked.
    #[error("the store is closed")]
    Closed,
    /// A record that this version cannot read.
    #[error("the record `{key}` in the table `{table}` cannot be read: {why}; was it written by a later version?")]
    Record {
        /// Where.
        table: &'static str,
        /// Which.
        key: String,
        /// What is wrong with it.
        why: String,
    },
}
