//! The base on disk, in fjall: a log-structured merge tree.
//!
//! Checkpoints come as sorted tables of their own, past fjall's journal, and are durable with the tree's manifest.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dunlin_core::Row;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::StoreError;
use super::base::{Base, Change, Reached, Rows};

/// The block cache, in bytes: the one large piece of memory that does not follow the work.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// Stands behind every key of a namespace. Its row says which checkpoint was the last, and how many bytes of rows were
/// deleted since the last [`FjallBase::reclaim`]; it is newer than all others.
const STATE_KEY: &[u8] = &[0xff, 0xff];

/// With fewer bytes of deleted rows there is nothing to reclaim.
const RECLAIM_MIN_BYTES: u64 = 32 * 1024 * 1024;

/// A [`Base`] in a directory.
pub struct FjallBase {
    database: Database,
    rows: Keyspace,
    /// Not of the rows: what is written here lets fjall forget older versions of them.
    ticks: Keyspace,
    state: Mutex<State>,
    /// How many tables there were, and how long, when it was tidied last.
    tidied: Mutex<(usize, u64)>,
}

#[derive(Clone, Copy, Default)]
struct State {
    reached: Reached,
    deleted_bytes: u64,
}

impl FjallBase {
    /// Opens what is in `path`, which is created if it does not exist.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, 1)
    }

    /// Opens it for reading: nothing is done in the background.
    pub(super) fn open_idle(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, 0)
    }

    fn open_with(path: &Path, threads: usize) -> Result<Self, StoreError> {
        let open = || {
            if !path.exists() {
                Self::create(path)?;
            }
            Self::open_database(path, threads)
        };
        open().map_err(|error| {
            StoreError(format!(
                "the store in {} cannot be opened: {error}; {}",
                path.display(),
                advice(&error)
            ))
        })
    }

    /// Makes an empty database beside `path` and gives it its name when it is whole: one whose creation was cut short
    /// cannot be opened.
    fn create(path: &Path) -> Result<(), fjall::Error> {
        let new = path.with_extension("new");
        if new.exists() {
            fs::remove_dir_all(&new)?;
        }
        drop(Self::open_database(&new, 0)?);
        sync_tree(&new)?;
        fs::rename(&new, path)?;
        if let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(())
    }

    fn open_database(path: &Path, threads: usize) -> Result<Self, fjall::Error> {
        let database = Database::builder(path)
            .cache_size(CACHE_BYTES)
            .worker_threads_unchecked(threads)
            .open()?;
        let rows = database.keyspace("rows", KeyspaceCreateOptions::default)?;
        let ticks = database.keyspace("health", KeyspaceCreateOptions::default)?;
        let state = match rows.get(STATE_KEY)? {
            None => State::default(),
            Some(row) => State::decode(&row).ok_or(fjall::Error::Unrecoverable)?,
        };
        Ok(Self {
            database,
            rows,
            ticks,
            state: Mutex::new(state),
            tidied: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // It is written last, so a poisoned lock still guards what is stored.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(
        &self,
        changes: &mut dyn Iterator<Item = Result<Change, StoreError>>,
        reached: Reached,
    ) -> Result<(), Failure> {
        // Whether fjall still runs: a compaction that failed stops it, and an ingestion alone would not notice.
        self.database.persist(PersistMode::Buffer)?;
        let mut state = self.state();
        let mut next = State { reached, ..*state };
        let mut tables = self.rows.start_ingestion()?;
        for change in changes {
            let Change { key, value } = change.map_err(Failure::Read)?;
            match value {
                Some(value) => tables.write(key, value)?,
                None => {
                    // What came and went in between leaves no trace.
                    if let Some(size_bytes) = self.rows.size_of(&key)? {
                        next.deleted_bytes += u64::from(size_bytes);
                        tables.write_tombstone(key)?;
                    }
                }
            }
        }
        tables.write(STATE_KEY, next.encode())?;
        tables.finish()?;
        *state = next;
        Ok(())
    }

    /// Lets fjall forget what was there before now, with the files that only held that.
    fn tick(&self) -> Result<(), fjall::Error> {
        self.ticks.insert("tick", "")?;
        self.ticks.rotate_memtable().map(|_| ())
    }
}

impl Base for FjallBase {
    fn range<'a>(&'a self, from: &[u8], to: &[u8], reverse: bool) -> Rows<'a> {
        let to = to.min(STATE_KEY);
        if from >= to {
            return Box::new(core::iter::empty());
        }
        let rows = self.rows.range(from..to);
        if reverse {
            Box::new(rows.rev().map(row))
        } else {
            Box::new(rows.map(row))
        }
    }

    fn checkpoint(
        &self,
        changes: &mut dyn Iterator<Item = Result<Change, StoreError>>,
        reached: Reached,
    ) -> Result<(), StoreError> {
        self.write(changes, reached)
            .map_err(|failure| match failure {
                Failure::Read(error) => error,
                Failure::Write(error) => failed(&error),
            })
    }

    fn reached(&self) -> Result<Reached, StoreError> {
        Ok(self.state().reached)
    }

    fn is_wasteful(&self, scarce: bool) -> bool {
        let deleted_bytes = self.state().deleted_bytes;
        if scarce {
            return deleted_bytes > 0;
        }
        deleted_bytes >= RECLAIM_MIN_BYTES && deleted_bytes >= self.rows.disk_space() / 2
    }

    fn tidy(&self) -> Result<bool, StoreError> {
        // What a compaction replaced stays until the next one; at the end of much work that may be for long.
        self.tick().map_err(|error| failed(&error))?;
        let now = (self.rows.table_count(), self.rows.disk_space());
        let mut tidied = self.tidied.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(core::mem::replace(&mut *tidied, now) != now)
    }

    fn reclaim(&self) -> Result<(), StoreError> {
        let reclaimed = self.state().deleted_bytes;
        let compacted = self
            .tick()
            .and_then(|()| self.rows.major_compact())
            .and_then(|()| self.tick());
        compacted.map_err(|error| failed(&error))?;
        // Stored with the next checkpoint; until then a crash only means that it is done again.
        self.state().deleted_bytes -= reclaimed;
        Ok(())
    }
}

impl State {
    fn encode(self) -> Vec<u8> {
        let mut fields = vec![self.reached.record, self.deleted_bytes];
        fields.extend(self.reached.next_segment);
        fields.into_iter().flat_map(u64::to_le_bytes).collect()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (fields, rest) = bytes.as_chunks();
        let [record, deleted_bytes, next_segment @ ..] = fields else {
            return None;
        };
        if next_segment.len() > 1 || !rest.is_empty() {
            return None;
        }
        let next_segment = next_segment.first().copied().map(u64::from_le_bytes);
        Some(Self {
            reached: Reached {
                record: u64::from_le_bytes(*record),
                next_segment,
            },
            deleted_bytes: u64::from_le_bytes(*deleted_bytes),
        })
    }
}

/// Why a checkpoint was not made.
enum Failure {
    /// What it should contain cannot be told.
    Read(StoreError),
    Write(fjall::Error),
}

impl From<fjall::Error> for Failure {
    fn from(error: fjall::Error) -> Self {
        Self::Write(error)
    }
}

fn row(guard: fjall::Guard) -> Result<Row, StoreError> {
    let (key, value) = guard.into_inner().map_err(|error| failed(&error))?;
    Ok(Row {
        key: key.to_vec(),
        value: value.to_vec(),
    })
}

/// Makes everything below a directory durable.
fn sync_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            File::open(path)?.sync_all()?;
        }
    }
    File::open(folder)?.sync_all()
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
            "its files are damaged: with the broker stopped, restore the data directory from a backup, or move it away to begin with an empty one"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_creation_that_was_cut_short_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        let cut_short = folder.path().join("rows.new");
        fs::create_dir_all(cut_short.join("keyspaces")).unwrap();
        fs::write(cut_short.join("0.jnl"), [0; 100]).unwrap();
        drop(FjallBase::open_idle(&path).unwrap());
        assert!(!cut_short.exists());
        FjallBase::open_idle(&path).unwrap();
    }

    #[test]
    fn what_a_compaction_replaced_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let base = FjallBase::open_idle(folder.path()).unwrap();
        for round in 0..3_u8 {
            let mut changes = (0..50).map(|row| {
                Ok(Change {
                    key: format!("{row:02}").into_bytes(),
                    value: Some(vec![round; 20_000]),
                })
            });
            base.checkpoint(&mut changes, Reached::default()).unwrap();
        }
        let tables = base.rows.path().join("tables");
        let count = || std::fs::read_dir(&tables).unwrap().count();
        assert_eq!(count(), 3);
        base.rows.major_compact().unwrap();
        assert_eq!(count(), 4, "the old ones and the one in their place");
        assert_eq!(base.tidy(), Ok(true));
        assert_eq!(base.tidy(), Ok(false));
        assert_eq!(count(), 1);
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
}
