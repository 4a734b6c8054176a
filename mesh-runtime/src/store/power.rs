//! The embedded store on a disk that loses its power: what was written since the last sync is gone, or there in part.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use redb::{Database, StorageBackend};

use super::{Batch, Embedded, Outcome, Store as _, Table};

/// Disks write sectors as a whole, and nothing larger.
const SECTOR: usize = 512;
const ROUNDS: u64 = 300;

/// A disk with a cache that has to be told to keep what is in it, and that stops after a number of operations.
#[derive(Debug, Clone)]
struct Disk(Arc<Mutex<Platter>>);

#[derive(Debug)]
struct Platter {
    /// What a sync has put there for good.
    kept: Vec<u8>,
    /// What reads see.
    seen: Vec<u8>,
    /// What was done to the one and not yet to the other.
    cached: Vec<Operation>,
    left: u64,
}

#[derive(Debug)]
enum Operation {
    Write(usize, Vec<u8>),
    Resize(usize),
}

impl Operation {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Write(at, bytes) => {
                let end = at + bytes.len();
                if to.len() < end {
                    to.resize(end, 0);
                }
                to[*at..end].copy_from_slice(bytes);
            }
            Self::Resize(length) => to.resize(*length, 0),
        }
    }
}

impl Disk {
    fn new(kept: Vec<u8>, operations: u64) -> Self {
        Self(Arc::new(Mutex::new(Platter {
            seen: kept.clone(),
            kept,
            cached: Vec::new(),
            left: operations,
        })))
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap()
    }

    fn with_power(&self) -> io::Result<MutexGuard<'_, Platter>> {
        let mut platter = self.platter();
        platter.left = platter.left.checked_sub(1).ok_or_else(|| io::Error::other("no power"))?;
        Ok(platter)
    }

    fn change(&self, operation: Operation) -> io::Result<()> {
        let mut platter = self.with_power()?;
        operation.apply(&mut platter.seen);
        platter.cached.push(operation);
        Ok(())
    }

    /// What is found when the power is back: of each sector that was in the cache, the old or the new.
    fn after_the_loss(&self, random: &mut Random) -> Vec<u8> {
        let platter = self.platter();
        let mut found = platter.kept.clone();
        for operation in &platter.cached {
            match operation {
                Operation::Write(at, bytes) => {
                    let mut at = *at;
                    let mut rest = bytes.as_slice();
                    while !rest.is_empty() {
                        let (sector, after) = rest.split_at(rest.len().min(SECTOR - at % SECTOR));
                        if random.coin() {
                            Operation::Write(at, sector.to_vec()).apply(&mut found);
                        }
                        at += sector.len();
                        rest = after;
                    }
                }
                Operation::Resize(_) if random.coin() => operation.apply(&mut found),
                Operation::Resize(_) => {}
            }
        }
        found
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.platter().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.platter();
        let start = usize::try_from(offset).unwrap();
        let bytes = platter.seen.get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change(Operation::Resize(length.try_into().unwrap()))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.with_power()?;
        platter.kept = platter.seen.clone();
        platter.cached.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Operation::Write(offset.try_into().unwrap(), data.to_vec()))
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 0
    }
}

fn open(disk: &Disk) -> Option<Embedded> {
    let database = Database::builder().create_with_backend(disk.clone()).ok()?;
    Some(Embedded::over(database).unwrap())
}

/// Writes until the power goes; what was acknowledged.
async fn write(store: &Embedded, round: u64) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for n in 0.. {
        let writes = (0..4).map(|part| async move {
            let key = format!("{round:04}-{n:04}-{part}");
            let mut batch = Batch::default();
            batch.put(Table::Registrations, &key, key.as_bytes());
            batch.put(Table::Facts, &key, key.as_bytes());
            let outcome = store.commit(batch).await;
            matches!(outcome, Ok(Outcome::Committed)).then_some(key)
        });
        let before = acknowledged.len();
        acknowledged.extend(futures_util::future::join_all(writes).await.into_iter().flatten());
        if acknowledged.len() == before {
            break;
        }
    }
    acknowledged
}

#[tokio::test]
async fn what_was_acknowledged_survives_the_loss_of_power_at_any_moment() {
    let mut random = Random(1);
    let mut image = Vec::new();
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        // Sooner or later: within the opening and its repair, too.
        let disk = Disk::new(image, random.next() % (4 << (round % 8)));
        if let Some(store) = open(&disk) {
            acknowledged.extend(write(&store, round).await);
        }
        image = disk.after_the_loss(&mut random);
        let copy = Disk::new(image.clone(), u64::MAX);
        let store = open(&copy).unwrap_or_else(|| panic!("round {round}: the store is broken"));
        let keys = async |table| {
            store
                .scan(table)
                .await
                .unwrap()
                .into_iter()
                .map(|(key, _)| key)
                .collect::<Vec<_>>()
        };
        let kept = keys(Table::Registrations).await;
        for key in &acknowledged {
            assert!(
                kept.binary_search(key).is_ok(),
                "round {round}: {key} was acknowledged and is lost"
            );
        }
        assert_eq!(kept, keys(Table::Facts).await, "round {round}: half of a batch happened");
    }
    assert!(
        acknowledged.len() > ROUNDS as usize,
        "too little was written to prove anything"
    );
}
