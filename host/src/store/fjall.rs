//! The base on disk, in fjall: a log-structured merge tree.
//!
//! Checkpoints come as sorted tables of their own, past fjall's journal, and are durable with the tree's manifest.

use std::io;
use std::path::Path;

use dunlin_core::Row;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::StoreError;
use super::base::{Base, Change, Rows};

/// The block cache, in bytes: the one large piece of memory that does not follow the work.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// Stands behind every key of a namespace. Its row says which checkpoint was the last, and is newer than all others.
const THROUGH_KEY: &[u8] = &[0xff, 0xff];

/// A [`Base`] in a directory.
pub struct FjallBase {
    database: Database,
    rows: Keyspace,
}

impl FjallBase {
    /// Opens what is in `path`, which is created if it does not exist.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let open = || -> Result<Self, fjall::Error> {
            let database = Database::builder(path)
                .cache_size(CACHE_BYTES)
                .worker_threads(1)
                .open()?;
            let rows = database.keyspace("rows", KeyspaceCreateOptions::default)?;
            Ok(Self { database, rows })
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

impl Base for FjallBase {
    fn range<'a>(&'a self, from: &[u8], to: &[u8], reverse: bool) -> Rows<'a> {
        let to = to.min(THROUGH_KEY);
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
        through: u64,
    ) -> Result<(), StoreError> {
        let told = |error: fjall::Error| failed(&error);
        // Whether fjall still runs: a compaction that failed stops it, and an ingestion alone would not notice.
        self.database.persist(PersistMode::Buffer).map_err(told)?;
        let mut tables = self.rows.start_ingestion().map_err(told)?;
        for change in changes {
            let Change { key, value } = change?;
            match value {
                Some(value) => tables.write(key, value),
                None => tables.write_tombstone(key),
            }
            .map_err(told)?;
        }
        tables
            .write(THROUGH_KEY, through.to_le_bytes())
            .map_err(told)?;
        tables.finish().map_err(told)
    }

    fn through(&self) -> Result<u64, StoreError> {
        let row = self.rows.get(THROUGH_KEY).map_err(|error| failed(&error))?;
        let Some(row) = row else {
            return Ok(0);
        };
        let bytes = row
            .as_ref()
            .try_into()
            .map_err(|_| failed(&fjall::Error::Unrecoverable))?;
        Ok(u64::from_le_bytes(bytes))
    }
}

fn row(guard: fjall::Guard) -> Result<Row, StoreError> {
    let (key, value) = guard.into_inner().map_err(|error| failed(&error))?;
    Ok(Row {
        key: key.to_vec(),
        value: value.to_vec(),
    })
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
    use super::*;

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
