//! A copy of everything that a control plane holds, as of one moment: taken while it runs, put back where none does.
//!
//! It is lines of JSON: what it is, a line for each record, and the SHA-256 of all that. A copy that was cut off or changed
//! is refused as a whole. It holds the keys of the authority: whoever has it can be anybody in the mesh.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::server::{ServeError, open_data_dir};
use crate::store::{Embedded, Outcome, Records, Store as _, StoreError, Table, as_base64};

/// The form that is written here, and the only one that is read.
const FORMAT: u32 = 1;

/// The first line.
#[derive(Serialize, Deserialize)]
struct Title {
    heddle_backup: u32,
    trust_domain: String,
    taken_at: u64,
    records: usize,
}

#[derive(Serialize, Deserialize)]
struct Line {
    table: String,
    key: String,
    #[serde(with = "as_base64")]
    value: Vec<u8>,
}

/// The last line.
#[derive(Serialize, Deserialize)]
struct Seal {
    #[serde(with = "as_base64")]
    sha256: Vec<u8>,
}

/// A record and the table that it is of.
pub(crate) type Record = (Table, String, Vec<u8>);

/// A copy that is whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Backup {
    trust_domain: String,
    taken_at: u64,
    records: Vec<Record>,
}

impl Backup {
    pub(crate) fn new(trust_domain: &str, taken_at: u64, records: Vec<Record>) -> Self {
        let trust_domain = trust_domain.to_owned();
        Self {
            trust_domain,
            taken_at,
            records,
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`BackupError`] where it is none, is of a later version, or is not as it was written.
    pub fn read(bytes: &[u8]) -> Result<Self, BackupError> {
        let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let title = body.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let title: Title = serde_json::from_slice(title).map_err(|_| BackupError::Other)?;
        if title.heddle_backup != FORMAT {
            return Err(BackupError::Version(title.heddle_backup));
        }
        let seal = body.iter().rposition(|byte| *byte == b'\n').ok_or(BackupError::Damaged)?;
        let (sealed, seal) = body.split_at(seal + 1);
        let Seal { sha256 } = serde_json::from_slice(seal).map_err(|_| BackupError::Damaged)?;
        if digest(&SHA256, sealed).as_ref() != sha256 {
            return Err(BackupError::Damaged);
        }
        let lines = sealed.split(|byte| *byte == b'\n').skip(1).filter(|line| !line.is_empty());
        let records: Vec<_> = lines.map(record).collect::<Result<_, _>>()?;
        if records.len() != title.records {
            return Err(BackupError::Damaged);
        }
        Ok(Self::new(&title.trust_domain, title.taken_at, records))
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        let mut text = Vec::new();
        put(
            &mut text,
            &Title {
                heddle_backup: FORMAT,
                trust_domain: self.trust_domain.clone(),
                taken_at: self.taken_at,
                records: self.records.len(),
            },
        );
        for (table, key, value) in &self.records {
            let (table, key, value) = (table.name().to_owned(), key.clone(), value.clone());
            put(&mut text, &Line { table, key, value });
        }
        let sha256 = digest(&SHA256, &text).as_ref().to_vec();
        put(&mut text, &Seal { sha256 });
        text
    }

    /// Whose it is.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// When it was taken, in seconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn taken_at(&self) -> u64 {
        self.taken_at
    }

    /// How many records it holds.
    #[must_use]
    pub fn records(&self) -> usize {
        self.records.len()
    }

    /// Puts it back into `data_dir`, in which there is no store. Join tokens are no good any more, since one that was used
    /// later would be good again.
    ///
    /// # Errors
    /// [`RestoreError`]; there is no store then, as before.
    pub async fn restore(self, data_dir: &Path) -> Result<(), RestoreError> {
        let _lock = open_data_dir(data_dir)?;
        let path = data_dir.join(Embedded::FILE);
        if path.exists() {
            return Err(RestoreError::Occupied { path });
        }
        let error = |source| RestoreError::Write {
            path: data_dir.to_owned(),
            source,
        };
        // Written aside and renamed: a crash leaves a store that is whole, or none.
        let aside = data_dir.join("restoring.redb");
        match fs::remove_file(&aside) {
            Err(left) if left.kind() != io::ErrorKind::NotFound => return Err(error(left)),
            _ => {}
        }
        let store = Embedded::open(&aside)?;
        match store.commit(Records::restored(self.records)?).await? {
            Outcome::Committed => {}
            Outcome::Conflict => unreachable!("the batch of a backup has no conditions"),
        }
        drop(store);
        fs::rename(&aside, &path).map_err(error)?;
        File::open(data_dir).and_then(|folder| folder.sync_all()).map_err(error)
    }
}

fn put(text: &mut Vec<u8>, line: &impl Serialize) {
    serde_json::to_writer(&mut *text, line).expect("a line has only text keys and no value that fails to serialise");
    text.push(b'\n');
}

fn record(line: &[u8]) -> Result<Record, BackupError> {
    let Line { table, key, value } = serde_json::from_slice(line).map_err(|_| BackupError::Damaged)?;
    let known = Table::ALL.into_iter().find(|known| known.name() == table);
    Ok((known.ok_or(BackupError::Table(table))?, key, value))
}

/// What is wrong with a copy.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// Something else.
    #[error("this is no backup of a control plane")]
    Other,
    /// A later form.
    #[error("this backup has the form {0}, and this version reads {FORMAT}; restore it with the version that it was made by")]
    Version(u32),
    /// A table that this version does not have.
    #[error("this backup holds `{0}`, which this version does not know; restore it with the version that it was made by")]
    Table(String),
    /// Not as it was written.
    #[error("this backup was cut off or changed: it is not what its last line says; take another one")]
    Damaged,
}

/// Why a copy is not put back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// There is a store.
    #[error("there is a store already: {path}; move it away, or choose another place with --data-dir")]
    Occupied {
        /// The store.
        path: PathBuf,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] ServeError),
    /// The store cannot be made.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store cannot be put in its place.
    #[error("cannot write to {path}: {source}")]
    Write {
        /// The data directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup() -> Backup {
        let records = vec![
            (Table::Facts, "authority".to_owned(), b"{\"a\":1}".to_vec()),
            (Table::Registrations, "a\n\"b".to_owned(), vec![0, 255, 10]),
        ];
        Backup::new("bank.test", 1_800_000_000, records)
    }

    #[test]
    fn what_is_written_is_read_the_same() {
        assert_eq!(Backup::read(&backup().write()), Ok(backup()));
        let empty = Backup::new("bank.test", 0, Vec::new());
        assert_eq!(Backup::read(&empty.write()), Ok(empty));
    }

    #[test]
    fn a_backup_that_was_cut_off_or_changed_anywhere_is_refused() {
        let whole = backup().write();
        for end in 0..whole.len() - 1 {
            assert!(Backup::read(&whole[..end]).is_err(), "cut off at {end}");
        }
        for at in 0..whole.len() - 1 {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(Backup::read(&changed).is_err(), "changed at {at}");
        }
        assert!(Backup::read(&[whole.clone(), whole].concat()).is_err(), "two of them");
    }

    #[test]
    fn what_this_version_cannot_read_is_named() {
        let text = String::from_utf8(backup().write()).unwrap();
        let later = text.replace("\"heddle_backup\":1", "\"heddle_backup\":2");
        assert_eq!(Backup::read(later.as_bytes()), Err(BackupError::Version(2)));
        assert_eq!(Backup::read(b"root:x:0:0:\n"), Err(BackupError::Other));
        assert_eq!(Backup::read(b""), Err(BackupError::Other));
        let line = br#"{"table":"spells","key":"a","value":""}"#;
        assert_eq!(record(line), Err(BackupError::Table("spells".to_owned())));
    }
}
