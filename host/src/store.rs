//! The ordered map that rows live in.
//!
//! A store knows nothing of what rows mean. Writers call [`Store::apply`] from any thread; one thread, the committer,
//! calls [`Store::sync`], which makes everything applied before it durable.

mod base;
mod directory;
mod disk;
mod fjall;
mod inspection;
mod journal;
mod memory;
mod native;
mod overlay;
#[cfg(test)]
mod proof;
mod recovery;
mod segment;

use core::fmt;

use dunlin_core::{Op, Row};

pub use self::base::{Base, Change, Reached, Rows};
pub use self::directory::{DataDirectory, FORMAT_VERSION};
pub use self::disk::{DirectoryDisk, Disk, DiskFile};
pub use self::fjall::FjallBase;
pub use self::inspection::Inspection;
pub use self::journal::{JournalOptions, JournaledStore, OpenBase};
pub use self::memory::MemoryStore;
pub use self::native::NativeStore;
pub use self::recovery::{Cut, Recovery};

/// An ordered map of byte strings.
pub trait Store: Send + Sync {
    /// Applies all operations, in order, or none. On success every later [`Store::range`] sees them, and they
    /// survive the end of this process; not yet that of the machine.
    fn apply(&self, ops: &[Op]) -> Result<(), StoreError>;

    /// Makes everything that was applied before this call durable.
    fn sync(&self) -> Result<(), StoreError>;

    /// The same, but calls `durable` as soon as it is, before what nobody needs to wait for.
    fn sync_and(&self, durable: &mut dyn FnMut()) -> Result<(), StoreError> {
        self.sync().map(|()| durable())
    }

    /// Rows of a range in key order, or in reverse.
    fn range(&self, range: &RangeRead) -> Result<Vec<Row>, StoreError>;

    /// Opens the store again after a failure, so that what it answers is what is really stored. Nobody may be
    /// using it meanwhile.
    fn reopen(&self) -> Result<(), StoreError>;

    /// What was found when the store was opened last, where there was something to find.
    fn recovery(&self) -> Option<Recovery> {
        None
    }

    /// Whether a row can be made durable now.
    fn probe(&self) -> Result<(), StoreError>;
}

/// Which rows to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeRead {
    /// First key of the range.
    pub from: Vec<u8>,
    /// First key after the range.
    pub to: Vec<u8>,
    /// Whether the last rows are wanted, last first.
    pub reverse: bool,
    /// At most this many rows.
    pub rows_max: u32,
    /// Stop after the row with which the values exceed this many bytes.
    pub bytes_max: u32,
}

impl RangeRead {
    /// Takes rows from `rows` until a bound is reached.
    fn bounded(
        &self,
        rows: impl Iterator<Item = Result<Row, StoreError>>,
    ) -> Result<Vec<Row>, StoreError> {
        let mut taken = Vec::new();
        let mut size_bytes = 0;
        for row in rows.take(self.rows_max as usize) {
            let row = row?;
            size_bytes += row.value.len();
            taken.push(row);
            if size_bytes > self.bytes_max as usize {
                break;
            }
        }
        Ok(taken)
    }
}

/// Why a store cannot answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError(pub String);

impl fmt::Display for StoreError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl core::error::Error for StoreError {}

/// Which store to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum StoreKind {
    /// On disk: a journal, and a log-structured store behind it.
    #[default]
    Fjall,
    /// Nothing is kept when the process ends.
    Memory,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &[u8], value: &[u8]) -> Op {
        Op::Put {
            key: key.to_vec(),
            value: value.to_vec(),
        }
    }

    fn read(store: &dyn Store, from: &[u8], to: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let read = RangeRead {
            from: from.to_vec(),
            to: to.to_vec(),
            reverse: false,
            rows_max: 100,
            bytes_max: 1_000,
        };
        let rows = store.range(&read).unwrap();
        rows.into_iter().map(|row| (row.key, row.value)).collect()
    }

    fn on_every_store(check: impl Fn(&dyn Store)) {
        check(&MemoryStore::default());
        let folder = tempfile::tempdir().unwrap();
        check(&NativeStore::open(folder.path()).unwrap());
    }

    #[test]
    fn operations_of_a_batch_act_in_their_order() {
        on_every_store(|store| {
            let keys: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];
            store.apply(&keys.map(|key| put(key, b"1"))).unwrap();
            store
                .apply(&[
                    put(b"bb", b"2"),
                    Op::DeleteRange {
                        from: b"b".to_vec(),
                        to: b"d".to_vec(),
                    },
                    put(b"c", b"3"),
                    put(b"c", b"4"),
                    Op::Delete { key: b"a".to_vec() },
                    Op::Delete { key: b"x".to_vec() },
                ])
                .unwrap();
            assert_eq!(
                read(store, b"", b"z"),
                [
                    (b"c".to_vec(), b"4".to_vec()),
                    (b"d".to_vec(), b"1".to_vec())
                ]
            );
        });
    }

    #[test]
    fn a_range_ends_before_its_end_and_at_its_bounds() {
        on_every_store(|store| {
            let keys: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];
            store.apply(&keys.map(|key| put(key, b"12345"))).unwrap();
            let keys = |reverse, rows_max, bytes_max| -> Vec<Vec<u8>> {
                let read = RangeRead {
                    from: b"a".to_vec(),
                    to: b"d".to_vec(),
                    reverse,
                    rows_max,
                    bytes_max,
                };
                let rows = store.range(&read).unwrap();
                rows.into_iter().map(|row| row.key).collect()
            };
            assert_eq!(keys(false, 9, 99), [b"a", b"b", b"c"]);
            assert_eq!(keys(true, 9, 99), [b"c", b"b", b"a"]);
            assert_eq!(keys(true, 2, 99), [b"c", b"b"]);
            assert_eq!(keys(false, 9, 0), [b"a"]);
            assert_eq!(keys(false, 9, 5), [b"a", b"b"]);
            assert_eq!(read(store, b"d", b"a"), []);
        });
    }

    #[test]
    fn a_store_that_is_opened_again_has_what_was_applied() {
        on_every_store(|store| {
            store.apply(&[put(b"a", b"1")]).unwrap();
            store.sync().unwrap();
            store.reopen().unwrap();
            store.probe().unwrap();
            assert_eq!(read(store, b"", b"z"), [(b"a".to_vec(), b"1".to_vec())]);
        });
    }
}
