//! What the journal is emptied into, in memory: a checkpoint is there as a whole or not at all, and stays.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dunlin_core::Row;
use dunlin_host::{Base, Change, RangeRead, Reached, StoreError};

use super::disk::SimDisk;
use super::store::{Rows, read_range};

/// Rows beside a disk, with whose power they come and go. Clones are the same rows.
#[derive(Clone, Debug)]
pub(super) struct SimBase {
    disk: SimDisk,
    state: Arc<Mutex<State>>,
    /// Whether a loss of power takes the newest checkpoint, which a base must not let happen.
    forgets: bool,
}

#[derive(Clone, Debug, Default)]
struct State {
    now: Checkpoint,
    before: Checkpoint,
    fails: bool,
}

#[derive(Clone, Debug, Default)]
struct Checkpoint {
    rows: Rows,
    reached: Reached,
}

impl SimBase {
    pub(super) fn new(disk: SimDisk, forgets: bool) -> Self {
        Self {
            disk,
            state: Arc::default(),
            forgets,
        }
    }

    /// The same rows beside another disk, with no trouble.
    pub(super) fn copy(&self, disk: SimDisk) -> Self {
        let state = State {
            fails: false,
            ..self.state().clone()
        };
        Self {
            disk,
            state: Arc::new(Mutex::new(state)),
            forgets: self.forgets,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the next checkpoint fail, made or not.
    pub(super) fn fail(&self) {
        self.state().fails = true;
    }

    /// The process is gone, and with it the power if `power_failed`.
    pub(super) fn restart(&self, power_failed: bool) {
        let mut state = self.state();
        state.fails = false;
        if power_failed && self.forgets {
            state.now = state.before.clone();
        }
    }
}

impl Base for SimBase {
    fn range<'a>(&'a self, from: &[u8], to: &[u8], reverse: bool) -> dunlin_host::Rows<'a> {
        let read = RangeRead {
            from: from.to_vec(),
            to: to.to_vec(),
            reverse,
            rows_max: u32::MAX,
            bytes_max: u32::MAX,
        };
        let rows: Vec<Row> = read_range(&self.state().now.rows, &read);
        Box::new(rows.into_iter().map(Ok))
    }

    fn checkpoint(
        &self,
        changes: &mut dyn Iterator<Item = Result<Change, StoreError>>,
        reached: Reached,
    ) -> Result<(), StoreError> {
        let changes: Vec<Change> = changes.collect::<Result<_, _>>()?;
        let mut state = self.state();
        let mut result = self.disk.spend();
        if core::mem::take(&mut state.fails) {
            result = result.and(Err(io::ErrorKind::StorageFull.into()));
        }
        // Whoever hears of a failure does not know what became of it: here odd ones were made.
        if result.is_ok() || reached.record % 2 == 1 {
            state.before = state.now.clone();
            for Change { key, value } in changes {
                match value {
                    Some(value) => state.now.rows.insert(key, value),
                    None => state.now.rows.remove(&key),
                };
            }
            state.now.reached = reached;
        }
        result.map_err(|error| StoreError(format!("the rows cannot be written: {error}")))
    }

    fn reached(&self) -> Result<Reached, StoreError> {
        Ok(self.state().now.reached)
    }
}
