//! The store of a server: a data directory with a journal in front of fjall, and the thread that keeps it small.

use core::sync::atomic::{AtomicBool, Ordering};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread::{self, JoinHandle};

use dunlin_core::{Op, Row};

use super::{
    DataDirectory, DirectoryDisk, FjallBase, JournalOptions, JournaledStore, RangeRead, Recovery,
    Store, StoreError,
};
use crate::report;

const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
const SPARES_MIN: usize = 2;
const FROZEN_MAX: usize = 3;

/// A [`Store`] in a data directory.
pub struct NativeStore {
    store: Arc<JournaledStore>,
    stopping: Arc<AtomicBool>,
    wake: SyncSender<()>,
    maintenance: Option<JoinHandle<()>>,
    _directory: DataDirectory,
}

impl NativeStore {
    /// Takes possession of the data directory `path` and opens what is in it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let directory = DataDirectory::open(path)?;
        let (wake, work) = mpsc::sync_channel(1);
        let disk = DirectoryDisk::open(directory.journal()).map_err(|error| {
            StoreError(format!(
                "the journal in {} cannot be created: {error}; make room on the disk, or mend it or its permissions",
                path.display()
            ))
        })?;
        let rows = directory.rows();
        let options = JournalOptions {
            segment_bytes: SEGMENT_BYTES,
            spares_min: SPARES_MIN,
            frozen_max: FROZEN_MAX,
            seed: getrandom::u64().expect("the operating system has randomness"),
        };
        let store = JournaledStore::open(
            Arc::new(disk),
            Box::new(move || Ok(Box::new(FjallBase::open(&rows)?))),
            options,
            Box::new({
                let wake = wake.clone();
                move || {
                    // Where one wish waits already, another says no more.
                    let _ = wake.try_send(());
                }
            }),
        )
        .map_err(|error| StoreError(format!("data directory {}: {error}", path.display())))?;
        let store = Arc::new(store);
        let stopping = Arc::new(AtomicBool::new(false));
        let maintenance = thread::Builder::new()
            .name("maintenance".to_owned())
            .spawn({
                let (store, stopping) = (Arc::clone(&store), Arc::clone(&stopping));
                move || {
                    while work.recv().is_ok() && !stopping.load(Ordering::Acquire) {
                        if let Err(error) = store.maintain() {
                            report::error(&error.0);
                        }
                    }
                }
            })
            .map_err(|error| StoreError(format!("no thread can be started: {error}")))?;
        Ok(Self {
            store,
            stopping,
            wake,
            maintenance: Some(maintenance),
            _directory: directory,
        })
    }

    /// What was found when the store was opened last.
    pub fn recovery(&self) -> Recovery {
        self.store.recovery()
    }
}

impl Drop for NativeStore {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // Where a wish waits already, that one wakes it.
        let _ = self.wake.try_send(());
        if let Some(maintenance) = self.maintenance.take() {
            // A panic in there was told when it happened.
            let _ = maintenance.join();
        }
    }
}

impl Store for NativeStore {
    fn apply(&self, ops: &[Op]) -> Result<(), StoreError> {
        self.store.apply(ops)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.store.sync()
    }

    fn range(&self, range: &RangeRead) -> Result<Vec<Row>, StoreError> {
        self.store.range(range)
    }

    fn reopen(&self) -> Result<(), StoreError> {
        self.store.reopen()
    }

    fn probe(&self) -> Result<(), StoreError> {
        self.store.probe()
    }
}
