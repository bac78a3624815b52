//! Rows on disk, in fjall: a log-structured merge tree behind a checksummed journal.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use dunlin_core::{Op, Row};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{DataDirectory, RangeRead, Store, StoreError};

/// The block cache, in bytes: the one large piece of memory that does not follow the work.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// A [`Store`] in a data directory.
pub struct FjallStore {
    directory: DataDirectory,
    // Empty only while it is being opened again, or after that failed.
    open: RwLock<Option<Open>>,
}

struct Open {
    database: Database,
    rows: Keyspace,
    /// What [`Store::probe`] writes, apart from the rows, so that no restore ever meets it.
    health: Keyspace,
}

impl FjallStore {
    /// Takes possession of the data directory `path` and opens what is in it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let directory = DataDirectory::open(path)?;
        let open = Open::at(directory.rows())?;
        Ok(Self {
            directory,
            open: RwLock::new(Some(open)),
        })
    }

    fn with<T>(
        &self,
        body: impl FnOnce(&Open) -> Result<T, fjall::Error>,
    ) -> Result<T, StoreError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let open = open
            .as_ref()
            .ok_or_else(|| StoreError("the store is closed after a failure".to_owned()))?;
        body(open).map_err(|error| failed(&error))
    }
}

impl Open {
    fn at(path: PathBuf) -> Result<Self, StoreError> {
        let open = || -> Result<Self, fjall::Error> {
            let database = Database::builder(&path)
                .cache_size(CACHE_BYTES)
                .worker_threads(1)
                .open()?;
            let rows = database.keyspace("rows", KeyspaceCreateOptions::default)?;
            let health = database.keyspace("health", KeyspaceCreateOptions::default)?;
            Ok(Self {
                database,
                rows,
                health,
            })
        };
        open().map_err(|error| {
            StoreError(format!(
                "the store in {} cannot be opened: {error}; {}",
                path.display(),
                advice(&error)
            ))
        })
    }
}

impl Store for FjallStore {
    fn apply(&self, ops: &[Op]) -> Result<(), StoreError> {
        self.with(|open| {
            // One batch has one sequence number in fjall, so a key may stand in it once: the last word on it.
            let mut last: BTreeMap<Vec<u8>, Option<&[u8]>> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Put { key, value } => {
                        last.insert(key.clone(), Some(value));
                    }
                    Op::Delete { key } => {
                        last.insert(key.clone(), None);
                    }
                    Op::DeleteRange { from, to } if from < to => {
                        for (_, value) in last.range_mut(from.clone()..to.clone()) {
                            *value = None;
                        }
                        for row in open.rows.range(from.as_slice()..to.as_slice()) {
                            last.insert(row.key()?.to_vec(), None);
                        }
                    }
                    Op::DeleteRange { .. } => {}
                }
            }
            // `Buffer` hands the bytes to the operating system: they survive this process.
            let mut batch = open.database.batch().durability(Some(PersistMode::Buffer));
            for (key, value) in last {
                match value {
                    Some(value) => batch.insert(&open.rows, key, value),
                    None => batch.remove(&open.rows, key),
                }
            }
            batch.commit()
        })
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.with(|open| open.database.persist(PersistMode::SyncData))
    }

    fn range(&self, read: &RangeRead) -> Result<Vec<Row>, StoreError> {
        if read.from >= read.to {
            return Ok(Vec::new());
        }
        self.with(|open| {
            let rows = open.rows.range(read.from.as_slice()..read.to.as_slice());
            let row = |guard: fjall::Guard| {
                let (key, value) = guard.into_inner().map_err(|error| failed(&error))?;
                Ok(Row {
                    key: key.to_vec(),
                    value: value.to_vec(),
                })
            };
            Ok(if read.reverse {
                read.bounded(rows.rev().map(row))
            } else {
                read.bounded(rows.map(row))
            })
        })?
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // Closed first: the same files cannot be opened twice.
        *open = None;
        *open = Some(Open::at(self.directory.rows())?);
        Ok(())
    }

    fn probe(&self) -> Result<(), StoreError> {
        self.with(|open| {
            open.health.insert("probe", "")?;
            open.database.persist(PersistMode::SyncData)
        })
    }
}

fn failed(error: &fjall::Error) -> StoreError {
    StoreError(format!("the store failed: {error}; {}", advice(error)))
}

/// What the person who runs the broker can do about `error`.
fn advice(error: &fjall::Error) -> &'static str {
    use fjall::{Error, LsmError};
    match error {
        // A file that is gone or ends too early is no fault of the disk's.
        Error::Io(error) | Error::Storage(LsmError::Io(error))
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof
            ) =>
        {
            "make room on the disk, or mend it or its permissions"
        }
        Error::Poisoned => "an earlier write failed: mend the disk and start again",
        Error::Locked => "stop the other process that has it open",
        Error::InvalidVersion(_) | Error::Storage(LsmError::InvalidVersion(_)) => {
            "use the dunlin that wrote it"
        }
        _ => {
            "its files are damaged: restore the data directory from a backup, or move it away to begin with an empty one"
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const VALUE: &[u8] = b"a value that is found again in the journal";

    /// The files below `folder`, with their bytes.
    fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(files(&path));
            } else {
                let bytes = fs::read(&path).unwrap();
                found.push((path, bytes));
            }
        }
        found
    }

    #[test]
    fn every_failure_comes_with_what_to_do() {
        use fjall::{Error, LsmError};
        let io = |kind: io::ErrorKind| Error::Io(kind.into());
        for (error, expected) in [
            (io(io::ErrorKind::StorageFull), "make room on the disk"),
            (io(io::ErrorKind::UnexpectedEof), "damaged"),
            (Error::Poisoned, "start again"),
            (Error::Locked, "stop the other process"),
            (Error::InvalidVersion(None), "use the dunlin that wrote it"),
            (Error::InvalidTrailer, "damaged"),
            (Error::Storage(LsmError::Unrecoverable), "damaged"),
        ] {
            let told = failed(&error).0;
            assert!(told.contains(expected), "{told}");
        }
    }

    #[test]
    fn a_damaged_journal_is_told_and_not_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let store = FjallStore::open(folder.path()).unwrap();
        for key in [b"a", b"b"] {
            let put = Op::Put {
                key: key.to_vec(),
                value: VALUE.to_vec(),
            };
            store.apply(&[put]).unwrap();
        }
        store.sync().unwrap();
        drop(store);
        let mut flipped = 0;
        for (path, mut bytes) in files(folder.path()) {
            let at = bytes.windows(VALUE.len()).position(|part| part == VALUE);
            if let Some(at) = at {
                bytes[at] ^= 1;
                fs::write(&path, &bytes).unwrap();
                flipped += 1;
            }
        }
        assert_eq!(flipped, 1, "the journal alone holds the value");
        let told = match FjallStore::open(folder.path()) {
            Ok(_) => panic!("a damaged journal was taken"),
            Err(error) => error.0,
        };
        assert!(told.contains("damaged"), "{told}");
        assert!(told.contains("backup"), "{told}");
        assert!(
            told.contains(folder.path().to_str().unwrap()),
            "which: {told}"
        );
    }
}
