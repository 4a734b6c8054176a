//! The embedded store: one redb file, one thread that writes it.
//!
//! A commit costs an fsync, a few milliseconds on a disk. The writing thread therefore takes everything that waits for it
//! into one transaction and acknowledges it together: a thousand members that register at once cost a handful of
//! fsyncs, and a single one waits for exactly one.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable as _, TableDefinition, TableError, WriteTransaction,
};
use tokio::sync::{mpsc, oneshot};

use super::{Answer, Batch, Change, Outcome, Store, StoreError, Table};

/// How many batches share one fsync at most: it bounds how long the first of them waits.
const GROUP: usize = 512;
/// How many batches may wait for the writing thread before whoever brings the next one waits, too.
const QUEUE: usize = 4096;

/// A store in one file of this machine.
pub struct Embedded {
    database: Arc<Database>,
    /// `None` once the store is being dropped, which ends the writing thread.
    commits: Option<mpsc::Sender<Commit>>,
    writer: Option<JoinHandle<()>>,
}

struct Commit {
    batch: Batch,
    done: oneshot::Sender<Result<Outcome, StoreError>>,
}

impl Embedded {
    /// Its name in a data directory.
    pub(crate) const FILE: &str = "mesh.redb";

    /// Opens the store in `path`, which is made (readable by its owner alone) where it does not exist.
    ///
    /// # Errors
    /// [`StoreError::Open`] where the file cannot be made or opened, is no store, or is open in another process.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let open_error = |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Open {
            path: path.to_owned(),
            source,
        };
        // The file is made here and not by redb, so that it never exists with wider permissions: it holds private keys.
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|error| open_error(error.into()))?;
        let database = Database::create(path).map_err(|error| open_error(error.into()))?;
        Self::over(database).map_err(|error| open_error(error.into()))
    }

    /// A store in a database that is open.
    pub(super) fn over(database: Database) -> std::io::Result<Self> {
        let database = Arc::new(database);
        let (commits, queue) = mpsc::channel(QUEUE);
        let writer = std::thread::Builder::new().name("store".to_owned()).spawn({
            let database = Arc::clone(&database);
            move || write_all(&database, queue)
        })?;
        Ok(Self {
            database,
            commits: Some(commits),
            writer: Some(writer),
        })
    }
}

impl Drop for Embedded {
    /// Waits until what was handed over is written, and the file is closed.
    fn drop(&mut self) {
        self.commits = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writing thread panicked");
        }
    }
}

impl Store for Embedded {
    fn read(&self, table: Table, key: &str) -> Answer<'_, Option<Vec<u8>>> {
        let (database, key) = (Arc::clone(&self.database), key.to_owned());
        in_background(move || {
            let transaction = database.begin_read().map_err(read_error)?;
            let table = match transaction.open_table(definition(table)) {
                Ok(table) => table,
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                Err(error) => return Err(read_error(error)),
            };
            let value = table.get(key.as_str()).map_err(read_error)?;
            Ok(value.map(|value| value.value().to_vec()))
        })
    }

    fn scan(&self, table: Table) -> Answer<'_, Vec<(String, Vec<u8>)>> {
        let database = Arc::clone(&self.database);
        in_background(move || scan(&database.begin_read().map_err(read_error)?, table))
    }

    fn dump(&self) -> Answer<'_, Vec<(Table, String, Vec<u8>)>> {
        let database = Arc::clone(&self.database);
        in_background(move || {
            let transaction = database.begin_read().map_err(read_error)?;
            let mut records = Vec::new();
            for table in Table::ALL {
                let of_table = scan(&transaction, table)?;
                records.extend(of_table.into_iter().map(|(key, value)| (table, key, value)));
            }
            Ok(records)
        })
    }

    fn commit(&self, batch: Batch) -> Answer<'_, Outcome> {
        let commits = self.commits.clone();
        Box::pin(async move {
            let (done, answer) = oneshot::channel();
            let commits = commits.ok_or(StoreError::Closed)?;
            commits.send(Commit { batch, done }).await.map_err(|_| StoreError::Closed)?;
            answer.await.map_err(|_| StoreError::Closed)?
        })
    }
}

const fn definition(table: Table) -> TableDefinition<'static, &'static str, &'static [u8]> {
    TableDefinition::new(table.name())
}

/// Every record of a table as the transaction sees it.
fn scan(transaction: &ReadTransaction, table: Table) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
    let table = match transaction.open_table(definition(table)) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(read_error(error)),
    };
    let mut records = Vec::new();
    for record in table.iter().map_err(read_error)? {
        let (key, value) = record.map_err(read_error)?;
        records.push((key.value().to_owned(), value.value().to_vec()));
    }
    Ok(records)
}

fn read_error(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Read(Box::new(error.into()))
}

fn write_error(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Write(Box::new(error.into()))
}

/// Reads touch the disk, so they do not run on a thread that serves connections.
fn in_background<T: Send + 'static>(read: impl FnOnce() -> Result<T, StoreError> + Send + 'static) -> Answer<'static, T> {
    Box::pin(async move { tokio::task::spawn_blocking(read).await.map_err(|_| StoreError::Closed)? })
}

/// The writing thread: until nobody can hand it anything any more.
fn write_all(database: &Database, mut queue: mpsc::Receiver<Commit>) {
    while let Some(first) = queue.blocking_recv() {
        let mut group = vec![first];
        while group.len() < GROUP
            && let Ok(next) = queue.try_recv()
        {
            group.push(next);
        }
        match write_group(database, group.iter().map(|commit| &commit.batch)) {
            Ok(outcomes) => {
                for (commit, outcome) in group.into_iter().zip(outcomes) {
                    // Whoever brought it may have gone; it is committed all the same.
                    let _ = commit.done.send(Ok(outcome));
                }
            }
            // The group failed as one: say so to each, with its own words for the first and their text for the others.
            Err(error) => {
                let text = error.to_string();
                let mut error = Some(error);
                for commit in group {
                    let error = error.take().unwrap_or_else(|| StoreError::Write(text.clone().into()));
                    let _ = commit.done.send(Err(error));
                }
            }
        }
    }
}

/// One transaction for all of them, each under its own conditions.
fn write_group<'a>(database: &Database, batches: impl Iterator<Item = &'a Batch>) -> Result<Vec<Outcome>, StoreError> {
    let mut transaction = database.begin_write().map_err(write_error)?;
    transaction
        .set_durability(Durability::Immediate)
        .map_err(|error| StoreError::Write(Box::new(error)))?;
    let mut outcomes = Vec::new();
    for batch in batches {
        outcomes.push(if holds(&transaction, batch)? {
            apply(&transaction, batch)?;
            Outcome::Committed
        } else {
            Outcome::Conflict
        });
    }
    transaction.commit().map_err(write_error)?;
    Ok(outcomes)
}

fn holds(transaction: &WriteTransaction, batch: &Batch) -> Result<bool, StoreError> {
    for condition in &batch.conditions {
        let table = transaction.open_table(definition(condition.table)).map_err(write_error)?;
        let value = table.get(condition.key.as_str()).map_err(write_error)?;
        if value.as_ref().map(|value| value.value()) != condition.is.as_deref() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn apply(transaction: &WriteTransaction, batch: &Batch) -> Result<(), StoreError> {
    for change in &batch.changes {
        match change {
            Change::Put { table, key, value } => {
                let mut table = transaction.open_table(definition(*table)).map_err(write_error)?;
                table.insert(key.as_str(), value.as_slice()).map_err(write_error)?;
            }
            Change::Delete { table, key } => {
                let mut table = transaction.open_table(definition(*table)).map_err(write_error)?;
                table.remove(key.as_str()).map_err(write_error)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::store::contract;

    #[tokio::test]
    async fn it_keeps_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.redb");
        contract::check(|| Arc::new(Embedded::open(&path).unwrap())).await;
    }

    #[tokio::test]
    async fn its_file_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.redb");
        drop(Embedded::open(&path).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_file_that_is_no_store_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.redb");
        std::fs::write(
            &path,
            "this is a letter, not a database; it is long enough to hold a header, though".repeat(90),
        )
        .unwrap();
        let error = Embedded::open(&path).err().unwrap().to_string();
        assert!(error.contains("mesh.redb"), "{error}");
    }
}
