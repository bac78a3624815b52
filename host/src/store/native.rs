//! The store of a server: a data directory with a journal in front of fjall, and the thread that keeps it small.

use core::convert::Infallible;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::thread::{self, JoinHandle};

use dunlin_core::{Op, Row};

use super::{
    Base, DataDirectory, DirectoryDisk, FjallBase, JournalOptions, JournaledStore, OpenBase,
    RangeRead, Recovery, Store, StoreError,
};
use crate::report;

/// Shorter ones make a start faster and the memory smaller, longer ones the tables of fjall fewer.
const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
const SPARES_MIN: usize = 2;
const FROZEN_MAX: usize = 2;

/// How long nothing was to be done before what the work left behind is removed.
const TIDY_AFTER: Duration = Duration::from_secs(2);

/// How long a stop waits for deleted rows to be given back, which may take minutes and can be done again: what is left
/// half done ends with the process.
const RECLAIM_STOP_WITHIN: Duration = Duration::from_secs(2);

/// A [`Store`] in a data directory.
pub struct NativeStore {
    store: Arc<JournaledStore>,
    stopping: Arc<AtomicBool>,
    wake: SyncSender<()>,
    maintenance: Option<JoinHandle<()>>,
}

impl NativeStore {
    /// Takes possession of the data directory `path` and opens what is in it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let directory = DataDirectory::open(path)?;
        let disk = DirectoryDisk::open(directory.journal()).map_err(|error| {
            StoreError(format!(
                "the journal in {} cannot be created: {error}; make room on the disk, or mend it or its permissions",
                path.display()
            ))
        })?;
        // It keeps the directory until nobody uses the store any more.
        let open_base = move || Ok(Box::new(FjallBase::open(&directory.rows())?) as Box<dyn Base>);
        Self::start(disk, Box::new(open_base)).map_err(|error| {
            let shown = path.display();
            StoreError(format!(
                "data directory {shown}: {error}; `dunlin doctor {shown}` says what it still has"
            ))
        })
    }

    fn start(disk: DirectoryDisk, open_base: OpenBase) -> Result<Self, StoreError> {
        let (wake, work) = mpsc::sync_channel(1);
        let options = JournalOptions {
            segment_bytes: SEGMENT_BYTES,
            spares_min: SPARES_MIN,
            frozen_max: FROZEN_MAX,
            seed: getrandom::u64().expect("the operating system has randomness"),
        };
        let wakes = wake.clone();
        let wakes = Box::new(move || {
            // Where one wish waits already, another says no more.
            let _ = wakes.try_send(());
        });
        let store = JournaledStore::open(Arc::new(disk), open_base, options, wakes)?;
        let store = Arc::new(store);
        let stopping = Arc::new(AtomicBool::new(false));
        let maintenance = Maintenance {
            store: Arc::clone(&store),
            stopping: Arc::clone(&stopping),
            reclaiming: None,
        };
        let maintenance = thread::Builder::new()
            .name("maintenance".to_owned())
            .spawn(move || maintenance.run(&work))
            .map_err(|error| no_thread(&error))?;
        Ok(Self {
            store,
            stopping,
            wake,
            maintenance: Some(maintenance),
        })
    }
}

/// What is done beside the commits.
struct Maintenance {
    store: Arc<JournaledStore>,
    stopping: Arc<AtomicBool>,
    /// Says nothing, but ends with the thread that reclaims.
    reclaiming: Option<Receiver<Infallible>>,
}

impl Maintenance {
    fn run(mut self, work: &Receiver<()>) {
        let mut is_tidy = true;
        // The same is not told with every attempt.
        let mut told = BTreeSet::new();
        loop {
            let wish = if is_tidy {
                work.recv().map_err(RecvTimeoutError::from)
            } else {
                work.recv_timeout(TIDY_AFTER)
            };
            if self.stopping.load(Ordering::Acquire) {
                break;
            }
            is_tidy = false;
            let maintains = wish.is_ok();
            let outcome = match wish {
                Ok(()) => self.store.maintain().and_then(|()| self.reclaim()),
                Err(RecvTimeoutError::Timeout) => self.store.tidy().map(|more| is_tidy = !more),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            match outcome {
                Ok(()) if maintains => told.clear(),
                Ok(()) => {}
                Err(error) => {
                    is_tidy = true;
                    if !told.contains(&error.0) {
                        report::error(&error.0);
                        told.insert(error.0);
                    }
                }
            }
        }
        if let Some(reclaiming) = self.reclaiming {
            let _ = reclaiming.recv_timeout(RECLAIM_STOP_WITHIN);
        }
    }

    /// In a thread of its own, so that meanwhile segments are prepared and emptied.
    fn reclaim(&mut self) -> Result<(), StoreError> {
        let running = self.reclaiming.as_ref();
        let runs = running.is_some_and(|running| running.try_recv() == Err(TryRecvError::Empty));
        if runs || !self.store.is_wasteful() {
            return Ok(());
        }
        let store = Arc::clone(&self.store);
        let stopping = Arc::clone(&self.stopping);
        let (ends, reclaiming) = mpsc::channel();
        let thread = thread::Builder::new().name("reclaim".to_owned());
        let spawned = thread.spawn(move || {
            let _ends = ends;
            // More may have been deleted meanwhile.
            while !stopping.load(Ordering::Acquire) && store.is_wasteful() {
                if let Err(error) = store.reclaim() {
                    return report::error(&error.0);
                }
            }
        });
        spawned.map_err(|error| no_thread(&error))?;
        self.reclaiming = Some(reclaiming);
        Ok(())
    }
}

fn no_thread(error: &io::Error) -> StoreError {
    StoreError(format!(
        "the store cannot start a thread: {error}; raise the limit of this user's processes"
    ))
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

    fn sync_and(&self, durable: &mut dyn FnMut()) -> Result<(), StoreError> {
        self.store.sync_and(durable)
    }

    fn range(&self, range: &RangeRead) -> Result<Vec<Row>, StoreError> {
        self.store.range(range)
    }

    fn reopen(&self) -> Result<(), StoreError> {
        self.store.reopen()
    }

    fn recovery(&self) -> Option<Recovery> {
        Store::recovery(&*self.store)
    }

    fn probe(&self) -> Result<(), StoreError> {
        self.store.probe()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Mutex;
    use std::time::Instant;

    use super::*;
    use crate::store::{Change, MemoryStore, Reached, Rows};

    /// How long a test waits for what must come.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn put(key: String, value: Vec<u8>) -> Op {
        let key = key.into_bytes();
        Op::Put { key, value }
    }

    fn all(store: &dyn Store) -> Vec<Row> {
        let everything = RangeRead {
            from: Vec::new(),
            to: vec![0xff],
            reverse: false,
            rows_max: u32::MAX,
            bytes_max: u32::MAX,
        };
        store.range(&everything).unwrap()
    }

    /// The bytes of all files below `path`.
    fn size_of(path: &Path) -> u64 {
        let entries = fs::read_dir(path).unwrap().map(Result::unwrap);
        let sizes = entries.map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
            Ok(metadata) => metadata.len(),
            // Removed since it was listed.
            Err(_) => 0,
        });
        sizes.sum()
    }

    #[test]
    fn what_is_deleted_leaves_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let store = NativeStore::open(folder.path()).unwrap();
        let value = |row: u32| {
            (0..65_536_u32)
                .map(|at| (at.wrapping_mul(row + 1) >> 7) as u8)
                .collect()
        };
        for row in 0..1_600 {
            store
                .apply(&[put(format!("{row:08}"), value(row))])
                .unwrap();
        }
        store
            .apply(&[Op::DeleteRange {
                from: b"0".to_vec(),
                to: b"00001500".to_vec(),
            }])
            .unwrap();
        // As much as fills a segment, so that the last one is emptied into fjall.
        for row in 1_600..1_900 {
            store
                .apply(&[put(format!("{row:08}"), value(row))])
                .unwrap();
        }
        assert_eq!(all(&store).len(), 400);
        let begun = Instant::now();
        let left = || size_of(&folder.path().join("rows/keyspaces"));
        while left() > 50 << 20 {
            assert!(
                begun.elapsed() < PATIENCE,
                "{} bytes for 400 rows of 64 KiB",
                left()
            );
            thread::yield_now();
        }
        drop(store);
        let store = loop {
            match NativeStore::open(folder.path()) {
                Ok(store) => break store,
                // A compaction may have outlasted the stop.
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
            }
            thread::yield_now();
        };
        assert_eq!(all(&store).len(), 400);
    }

    /// A base that takes as long to give room back as it is told to.
    struct Slow {
        rows: Arc<MemoryStore>,
        begun: SyncSender<()>,
        ends: Mutex<Receiver<()>>,
    }

    impl Base for Slow {
        fn range<'a>(&'a self, from: &[u8], to: &[u8], reverse: bool) -> Rows<'a> {
            self.rows.range(from, to, reverse)
        }

        fn checkpoint(
            &self,
            changes: &mut dyn Iterator<Item = Result<Change, StoreError>>,
            reached: Reached,
        ) -> Result<(), StoreError> {
            self.rows.checkpoint(changes, reached)
        }

        fn reached(&self) -> Result<Reached, StoreError> {
            Base::reached(&self.rows)
        }

        fn is_wasteful(&self, _: bool) -> bool {
            true
        }

        fn reclaim(&self) -> Result<(), StoreError> {
            self.begun.send(()).unwrap();
            // Until the test ends, if it is not told before.
            let _ = self.ends.lock().unwrap().recv();
            Ok(())
        }
    }

    #[test]
    fn a_stop_does_not_wait_for_room_that_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let (begun, begins) = mpsc::sync_channel(1);
        let (_ends, ended) = mpsc::channel();
        let slow = Mutex::new(Some(Slow {
            rows: Arc::default(),
            begun,
            ends: Mutex::new(ended),
        }));
        let directory = DataDirectory::open(folder.path()).unwrap();
        let disk = DirectoryDisk::open(directory.journal()).unwrap();
        let opens = move || {
            let _owned = &directory;
            let slow = slow.lock().unwrap().take();
            Ok(Box::new(slow.expect("it is opened once")) as Box<dyn Base>)
        };
        let store = NativeStore::start(disk, Box::new(opens)).unwrap();
        // Whoever is woken maintains.
        store.wake.send(()).unwrap();
        begins.recv_timeout(PATIENCE).unwrap();
        let (stopped, stops) = mpsc::channel();
        thread::spawn(move || {
            drop(store);
            stopped.send(()).unwrap();
        });
        stops.recv_timeout(PATIENCE).expect("it waits");
        let told = DataDirectory::open(folder.path()).unwrap_err().0;
        assert!(told.contains("in use"), "{told}");
    }

    #[test]
    fn a_directory_of_version_1_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("FORMAT"), "1\n").unwrap();
        let old = fjall::Database::builder(folder.path().join("rows"))
            .open()
            .unwrap();
        let rows = old
            .keyspace("rows", fjall::KeyspaceCreateOptions::default)
            .unwrap();
        let health = old
            .keyspace("health", fjall::KeyspaceCreateOptions::default)
            .unwrap();
        for number in 0..100 {
            rows.insert(format!("{number:03}"), "old").unwrap();
        }
        health.insert("probe", "").unwrap();
        old.persist(fjall::PersistMode::SyncAll).unwrap();
        drop((rows, health, old));

        let mut expected: Vec<_> = (0..100).map(|number| format!("{number:03}")).collect();
        // What it wrote into fjall's journal never comes back over what is written now.
        for round in 0..3 {
            let store = NativeStore::open(folder.path()).unwrap();
            let keys: Vec<_> = all(&store).into_iter().map(|row| row.key).collect();
            assert_eq!(
                keys,
                expected
                    .iter()
                    .map(|key| key.as_bytes())
                    .collect::<Vec<_>>()
            );
            let gone = expected.remove(0);
            store
                .apply(&[Op::Delete {
                    key: gone.into_bytes(),
                }])
                .unwrap();
            // More than a segment, so that it is emptied into fjall.
            for part in 0..20 {
                store
                    .apply(&[put(format!("z{part}"), vec![round; 1024 * 1024])])
                    .unwrap();
            }
            if round == 0 {
                expected.extend((0..20).map(|part| format!("z{part}")));
                expected.sort();
            }
        }
        let format = fs::read_to_string(folder.path().join("FORMAT")).unwrap();
        assert_eq!(format, "2\n");
    }
}
