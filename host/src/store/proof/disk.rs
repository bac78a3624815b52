//! A disk in memory that loses power, tears writes, flips bits and fills up when it is told to.

use core::ops::Range;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::store::{Disk, DiskFile};

/// A [`Disk`] that remembers what is durable.
#[derive(Default)]
pub(super) struct TestDisk {
    state: Mutex<State>,
    gate: Condvar,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Arc<Mutex<Bytes>>>,
    /// The files that are there after a loss of power.
    durable: BTreeMap<String, Arc<Mutex<Bytes>>>,
    /// What was removed since the directory was synced last.
    removed: Vec<(String, Arc<Mutex<Bytes>>)>,
    /// How many more steps go well; the next one is done in half, and none after it.
    fuse: Option<u64>,
    steps: u64,
    capacity_bytes: Option<u64>,
    failing_syncs: u32,
    /// How many syncs stand at the gate, if it is closed.
    closed: Option<u32>,
}

#[derive(Clone, Default)]
struct Bytes {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// What the next sync would write.
    dirty: Vec<Range<usize>>,
}

/// What a crash leaves of bytes that no sync has covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crash {
    /// All of it: only the process is gone.
    Kill,
    /// Nothing of it.
    Power,
    /// Every other sector of it; and of files that were removed, the first one is there again.
    Torn,
}

const SECTOR_BYTES: usize = 64;

impl TestDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Lets `steps` more changes of files go well.
    pub(super) fn light(&self, steps: u64) {
        self.state().fuse = Some(steps);
    }

    /// How many changes there were.
    pub(super) fn steps(&self) -> u64 {
        self.state().steps
    }

    /// How many hold it: whoever made it, and every open file.
    pub(super) fn holders(self: &Arc<Self>) -> usize {
        Arc::strong_count(self)
    }

    pub(super) fn fail_next_sync(&self) {
        self.state().failing_syncs = 1;
    }

    pub(super) fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity_bytes = bytes;
    }

    /// From now on syncs wait.
    pub(super) fn close_gate(&self) {
        self.state().closed = Some(0);
    }

    pub(super) fn wait_for_a_sync(&self) {
        let mut state = self.state();
        while state.closed == Some(0) {
            state = self.gate.wait(state).unwrap();
        }
    }

    pub(super) fn open_gate(&self) {
        self.state().closed = None;
        self.gate.notify_all();
    }

    /// The disk as another process finds it.
    pub(super) fn crash(&self, crash: Crash) -> Arc<Self> {
        let state = self.state();
        let names = match crash {
            Crash::Kill | Crash::Torn => &state.files,
            Crash::Power => &state.durable,
        };
        let back = state.removed.first().filter(|_| crash == Crash::Torn);
        let names = names.iter().chain(back.map(|(name, bytes)| (name, bytes)));
        let files: BTreeMap<_, _> = names
            .map(|(name, bytes)| {
                let mut bytes = bytes.lock().unwrap().clone();
                match crash {
                    Crash::Kill => {}
                    Crash::Power => bytes.lose(|_| false),
                    Crash::Torn => bytes.lose(|sector| sector.is_multiple_of(2)),
                }
                (name.clone(), Arc::new(Mutex::new(bytes)))
            })
            .collect();
        Arc::new(Self {
            state: Mutex::new(State {
                durable: files.clone(),
                files,
                ..State::default()
            }),
            gate: Condvar::new(),
        })
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.state().files.keys().cloned().collect()
    }

    pub(super) fn bytes(&self, name: &str) -> Vec<u8> {
        self.state().files[name].lock().unwrap().now.clone()
    }

    /// Puts other bytes in the place of a file's.
    pub(super) fn replace(&self, name: &str, bytes: Vec<u8>) {
        let replaced = Bytes {
            now: bytes.clone(),
            durable: bytes,
            dirty: Vec::new(),
        };
        let replaced = Arc::new(Mutex::new(replaced));
        let mut state = self.state();
        state.files.insert(name.to_owned(), Arc::clone(&replaced));
        state.durable.insert(name.to_owned(), replaced);
    }

    pub(super) fn delete(&self, name: &str) {
        let mut state = self.state();
        state.files.remove(name);
        state.durable.remove(name);
    }

    /// One change; whether it is done as a whole.
    pub(super) fn step(&self) -> io::Result<bool> {
        let mut state = self.state();
        state.steps += 1;
        match &mut state.fuse {
            None => Ok(true),
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(*left > 0)
            }
        }
    }
}

impl Bytes {
    fn lose(&mut self, is_kept: impl Fn(usize) -> bool) {
        let mut left = self.durable.clone();
        left.resize(self.now.len(), 0);
        for dirty in self.dirty.drain(..) {
            for at in dirty {
                if is_kept(at / SECTOR_BYTES) {
                    left[at] = self.now[at];
                }
            }
        }
        self.now.clone_from(&left);
        self.durable = left;
    }
}

fn halved(done: bool) -> io::Result<()> {
    if done {
        Ok(())
    } else {
        Err(io::Error::other("the power went half way"))
    }
}

impl Disk for Arc<TestDisk> {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn create(&self, name: &str, size_bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let done = self.step()?;
        let mut state = self.state();
        let sizes = state
            .files
            .values()
            .map(|file| file.lock().unwrap().now.len() as u64);
        let used: u64 = sizes.sum();
        let fits = state
            .capacity_bytes
            .is_none_or(|all| used + size_bytes <= all);
        let size = usize::try_from(size_bytes).unwrap();
        let size = if done && fits { size } else { size / 2 };
        let bytes = Bytes {
            now: vec![0; size],
            durable: Vec::new(),
            dirty: core::iter::once(0..size).collect(),
        };
        let bytes = Arc::new(Mutex::new(bytes));
        assert!(!state.files.contains_key(name), "{name} exists");
        state.files.insert(name.to_owned(), Arc::clone(&bytes));
        drop(state);
        halved(done)?;
        if !fits {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let disk = Arc::clone(self);
        Ok(Box::new(TestFile { disk, bytes }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let bytes = self.state().files.get(name).cloned();
        let bytes = bytes.ok_or(io::ErrorKind::NotFound)?;
        let disk = Arc::clone(self);
        Ok(Box::new(TestFile { disk, bytes }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let done = self.step()?;
        let mut state = self.state();
        let removed = state.files.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.removed.push((name.to_owned(), removed));
        drop(state);
        halved(done)
    }

    fn sync_directory(&self) -> io::Result<()> {
        let done = self.step()?;
        let mut state = self.state();
        state.durable = state.files.clone();
        state.removed.clear();
        drop(state);
        halved(done)
    }
}

struct TestFile {
    disk: Arc<TestDisk>,
    bytes: Arc<Mutex<Bytes>>,
}

impl DiskFile for TestFile {
    fn read(&self) -> io::Result<Vec<u8>> {
        Ok(self.bytes.lock().unwrap().now.clone())
    }

    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        let done = self.disk.step()?;
        let part = if done {
            bytes
        } else {
            &bytes[..bytes.len() / 2]
        };
        let from = usize::try_from(position).unwrap();
        let end = from + part.len();
        let mut file = self.bytes.lock().unwrap();
        if file.now.len() < end {
            file.now.resize(end, 0);
        }
        file.now[from..end].copy_from_slice(part);
        file.dirty.push(from..end);
        halved(done)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        if let Some(waiting) = &mut state.closed {
            *waiting += 1;
            self.disk.gate.notify_all();
            while state.closed.is_some() {
                state = self.disk.gate.wait(state).unwrap();
            }
        }
        let fails = state.failing_syncs > 0;
        state.failing_syncs = state.failing_syncs.saturating_sub(1);
        drop(state);
        let done = self.disk.step()?;
        let mut file = self.bytes.lock().unwrap();
        if fails {
            // As systems do: the bytes can be read, and the next sync believes that they are written.
            file.dirty.clear();
            return Err(io::Error::other("the disk failed"));
        }
        let mut durable = core::mem::take(&mut file.durable);
        durable.resize(file.now.len(), 0);
        for dirty in file.dirty.drain(..).collect::<Vec<_>>() {
            durable[dirty.clone()].copy_from_slice(&file.now[dirty]);
        }
        file.durable = durable;
        halved(done)
    }
}
