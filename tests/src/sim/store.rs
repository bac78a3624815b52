//! A store that can lose what was not synced, and a power switch that can go off between any two effects.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dunlin_core::{Op, Row};
use dunlin_host::{RangeRead, Store, StoreError};

use super::rng::Rng;

/// Rows by key.
pub(super) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// An ordered map of which every write is applied at once and durable only when synced.
#[derive(Debug, Default)]
pub(super) struct SimStore {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    applied: Rows,
    durable: Rows,
    /// The writes that a crash may take, oldest first.
    pending: VecDeque<Vec<Op>>,
    /// How many writes of this life are durable.
    synced: u64,
    /// How many effects the power lasts for, if it is to fail.
    fuse: Option<u64>,
    off: bool,
}

impl SimStore {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the power fail after `effects` more effects.
    pub(super) fn arm(&self, effects: u64) {
        self.inner().fuse = Some(effects);
    }

    /// Uses the power for one effect. False once it is off.
    pub(super) fn spend(&self) -> bool {
        let mut inner = self.inner();
        match &mut inner.fuse {
            Some(0) => inner.off = true,
            Some(left) => *left -= 1,
            None => {}
        }
        !inner.off
    }

    pub(super) fn is_off(&self) -> bool {
        self.inner().off
    }

    /// How many writes of this life were applied.
    pub(super) fn applied(&self) -> u64 {
        let inner = self.inner();
        inner.synced + inner.pending.len() as u64
    }

    /// How many writes of this life are durable.
    pub(super) fn synced(&self) -> u64 {
        self.inner().synced
    }

    /// Makes the first `count` writes of this life durable.
    pub(super) fn sync_up_to(&self, count: u64) {
        let mut inner = self.inner();
        while inner.synced < count {
            let Some(ops) = inner.pending.pop_front() else {
                return;
            };
            inner.synced += 1;
            apply(&mut inner.durable, &ops);
        }
    }

    /// The machine stops: what was synced stays, and of the rest the first few writes, `keep_all` of them if only the
    /// process died. Returns how many writes of the ended life are there. A new life begins.
    pub(super) fn crash(&self, rng: &mut Rng, keep_all: bool) -> u64 {
        let pending = self.inner().pending.len() as u64;
        let kept = if keep_all {
            pending
        } else {
            rng.between(0, pending)
        };
        let count = self.synced() + kept;
        self.sync_up_to(count);
        let mut inner = self.inner();
        inner.pending.clear();
        inner.applied = inner.durable.clone();
        inner.synced = 0;
        inner.fuse = None;
        inner.off = false;
        count
    }

    /// All rows, as a copy.
    pub(super) fn rows(&self) -> Vec<Row> {
        let inner = self.inner();
        inner
            .applied
            .iter()
            .map(|(key, value)| Row {
                key: key.clone(),
                value: value.clone(),
            })
            .collect()
    }
}

impl Store for SimStore {
    fn apply(&self, ops: &[Op]) -> Result<(), StoreError> {
        if !self.spend() {
            return Err(StoreError("the power is off".to_owned()));
        }
        let mut inner = self.inner();
        apply(&mut inner.applied, ops);
        inner.pending.push_back(ops.to_vec());
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.sync_up_to(u64::MAX);
        Ok(())
    }

    fn range(&self, range: &RangeRead) -> Result<Vec<Row>, StoreError> {
        Ok(read_range(&self.inner().applied, range))
    }

    fn reopen(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn probe(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The rows of a range, up to its bounds.
pub(super) fn read_range(rows: &Rows, range: &RangeRead) -> Vec<Row> {
    let mut taken = Vec::new();
    if range.from >= range.to {
        return taken;
    }
    let mut found = rows.range(range.from.clone()..range.to.clone());
    let mut size_bytes = 0;
    while (taken.len() as u64) < u64::from(range.rows_max) && size_bytes <= range.bytes_max as usize
    {
        let next = if range.reverse {
            found.next_back()
        } else {
            found.next()
        };
        let Some((key, value)) = next else { break };
        size_bytes += value.len();
        taken.push(Row {
            key: key.clone(),
            value: value.clone(),
        });
    }
    taken
}

/// Applies operations in order.
pub(super) fn apply(rows: &mut Rows, ops: &[Op]) {
    for op in ops {
        match op {
            Op::Put { key, value } => {
                rows.insert(key.clone(), value.clone());
            }
            Op::Delete { key } => {
                rows.remove(key);
            }
            Op::DeleteRange { from, to } => {
                if from < to {
                    let keys: Vec<Vec<u8>> = rows
                        .range(from.clone()..to.clone())
                        .map(|(key, _)| key.clone())
                        .collect();
                    for key in keys {
                        rows.remove(&key);
                    }
                }
            }
        }
    }
}
