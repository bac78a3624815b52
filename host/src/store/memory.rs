//! Rows in memory, for tests and for brokers that need to keep nothing.

use core::ops::Bound;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dunlin_core::{Op, Row};

use super::base::{Base, Change, Reached, Rows};
use super::{RangeRead, Store, StoreError};

/// A [`Store`] that lives as long as the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    rows: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// What the last checkpoint said, where this is the base of a journal.
    reached: Mutex<Reached>,
}

impl MemoryStore {
    fn rows(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
        // No operation can panic half way, so a poisoned lock still guards whole rows.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reached(&self) -> MutexGuard<'_, Reached> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another store with the same rows.
    #[cfg(test)]
    pub(super) fn copy(&self) -> Self {
        Self {
            rows: Mutex::new(self.rows().clone()),
            reached: Mutex::new(*self.reached()),
        }
    }
}

impl Store for MemoryStore {
    fn apply(&self, ops: &[Op]) -> Result<(), StoreError> {
        let mut rows = self.rows();
        for op in ops {
            match op {
                Op::Put { key, value } => {
                    rows.insert(key.clone(), value.clone());
                }
                Op::Delete { key } => {
                    rows.remove(key);
                }
                Op::DeleteRange { from, to } if from < to => {
                    let mut tail = rows.split_off(from);
                    let mut after = tail.split_off(to);
                    rows.append(&mut after);
                }
                Op::DeleteRange { .. } => {}
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn range(&self, read: &RangeRead) -> Result<Vec<Row>, StoreError> {
        if read.from >= read.to {
            return Ok(Vec::new());
        }
        let rows = self.rows();
        let bounds = (
            Bound::Included(read.from.as_slice()),
            Bound::Excluded(read.to.as_slice()),
        );
        let pairs = rows
            .range::<[u8], _>(bounds)
            .map(|(key, value)| -> Result<Row, StoreError> {
                Ok(Row {
                    key: key.clone(),
                    value: value.clone(),
                })
            });
        if read.reverse {
            read.bounded(pairs.rev())
        } else {
            read.bounded(pairs)
        }
    }

    fn reopen(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn probe(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// What a journal is emptied into in tests and simulation, where it is as durable as its owner wants it.
impl Base for Arc<MemoryStore> {
    fn range<'a>(&'a self, from: &[u8], to: &[u8], reverse: bool) -> Rows<'a> {
        let read = RangeRead {
            from: from.to_vec(),
            to: to.to_vec(),
            reverse,
            rows_max: u32::MAX,
            bytes_max: u32::MAX,
        };
        match Store::range(self.as_ref(), &read) {
            Ok(rows) => Box::new(rows.into_iter().map(Ok)),
            Err(error) => Box::new(core::iter::once(Err(error))),
        }
    }

    fn checkpoint(
        &self,
        changes: &mut dyn Iterator<Item = Result<Change, StoreError>>,
        reached: Reached,
    ) -> Result<(), StoreError> {
        let changes: Vec<_> = changes.collect::<Result<_, _>>()?;
        let mut rows = self.rows();
        for Change { key, value } in changes {
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        drop(rows);
        *MemoryStore::reached(self) = reached;
        Ok(())
    }

    fn reached(&self) -> Result<Reached, StoreError> {
        Ok(*MemoryStore::reached(self))
    }
}
