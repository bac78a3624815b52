//! A disk under the journal, with the page cache of an operating system in between.
//!
//! What is written is seen at once, and is on the disk when it was synced. A loss of power takes any sectors that were
//! not, in any order, and cuts through the others. A sync that fails has written some of them, forgets the rest, and
//! goes on showing it: the next sync succeeds, and what was shown is gone when the file is opened again, or with the
//! power. The death of the process takes nothing.
//!
//! One promise of real disks is relied on: bytes that were synced stay what they are while others of their sector are
//! written.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dunlin_host::{Disk, DiskFile};

use super::cache::Contents;
use super::rng::Rng;

/// One machine's disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub(super) struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// What the disk does wrong, as long as it is told to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trouble {
    /// The next sync of a file fails.
    pub(super) sync: bool,
    /// The next write fails half way.
    pub(super) write: bool,
    /// There is no room for new files, and for writes neither if they need some.
    pub(super) full: Option<Full>,
    /// Nothing can be read.
    pub(super) unreadable: bool,
}

/// For what there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The file system overwrites in place.
    Files,
    /// It writes everything to a new place.
    Writes,
}

/// A way to read and write that undoes what a journal does for safety: as if it did not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    /// Bytes that are there already are not written again.
    SkipsSameBytes,
    /// Zeros are not written.
    SkipsZeros,
    /// Whatever is read has the checksum that it should have.
    MendsChecksums,
}

#[derive(Clone, Debug)]
struct State {
    rng: Rng,
    files: BTreeMap<u64, Contents>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    next_file: u64,
    trouble: Trouble,
    habit: Option<Habit>,
    /// How many changes the power lasts for, if it is to fail.
    fuse: Option<u64>,
    off: bool,
    /// Whether a sync has failed since the disk was opened last.
    sync_failed: bool,
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: u64,
}

impl SimDisk {
    pub(super) fn new(seed: u64, habit: Option<Habit>) -> Self {
        let state = State {
            rng: Rng::new(seed),
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            next_file: 1,
            trouble: Trouble::default(),
            habit,
            fuse: None,
            off: false,
            sync_failed: false,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another disk with the same bytes, on which nothing is wrong.
    pub(super) fn copy(&self) -> Self {
        let mut state = self.state().clone();
        state.trouble = Trouble::default();
        state.fuse = None;
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    pub(super) fn set_trouble(&self, change: impl FnOnce(&mut Trouble)) {
        change(&mut self.state().trouble);
    }

    /// Lets the power fail in the middle of a change, after so many whole ones.
    pub(super) fn arm(&self, changes: u64) {
        self.state().fuse = Some(changes);
    }

    pub(super) fn is_off(&self) -> bool {
        self.state().off
    }

    /// Uses the power for a change that is not on this disk but beside it. On an error it may have been made.
    pub(super) fn spend(&self) -> io::Result<()> {
        self.state().spend()
    }

    /// Whether a sync has failed since [`SimDisk::restart`] or the last call.
    pub(super) fn take_sync_failed(&self) -> bool {
        core::mem::take(&mut self.state().sync_failed)
    }

    /// It is still to be dealt with.
    pub(super) fn set_sync_failed(&self) {
        self.state().sync_failed = true;
    }

    /// The process is gone, and with it the power if `power_failed`; now everything works again.
    pub(super) fn restart(&self, power_failed: bool) {
        let mut state = self.state();
        state.trouble = Trouble::default();
        state.fuse = None;
        state.off = false;
        state.sync_failed = false;
        if power_failed {
            state.lose_power();
        }
    }

    /// Turns one bit of a file; which, if there is one.
    pub(super) fn flip(&self, rng: &mut Rng) -> Option<(String, usize)> {
        let mut state = self.state();
        let named: Vec<(String, u64)> = state
            .names
            .iter()
            .map(|(name, file)| (name.clone(), *file))
            .filter(|(_, file)| !state.files[file].cache.is_empty())
            .collect();
        if named.is_empty() {
            return None;
        }
        let (name, file) = rng.pick(&named).clone();
        let contents = state.files.get_mut(&file)?;
        // Most of a file is empty, and damage there is none.
        let used = contents.cache.iter().rposition(|byte| *byte != 0);
        let position =
            rng.below(used.map_or(contents.cache.len(), |used| used + 1) as u64) as usize;
        let bit = 1 << rng.below(8);
        contents.cache[position] ^= bit;
        if let Some(byte) = contents.durable.get_mut(position) {
            *byte ^= bit;
        }
        Some((name, position))
    }
}

impl State {
    fn spend(&mut self) -> io::Result<()> {
        match &mut self.fuse {
            Some(0) => self.off = true,
            Some(left) => *left -= 1,
            None => {}
        }
        self.power()
    }

    fn power(&self) -> io::Result<()> {
        if self.off {
            return Err(io::Error::other("the power is off"));
        }
        Ok(())
    }

    fn contents(&mut self, file: u64) -> &mut Contents {
        self.files.get_mut(&file).expect("open files are kept")
    }

    fn lose_power(&mut self) {
        let mut names = self.durable_names.clone();
        for (name, file) in &self.names {
            if !names.contains_key(name) && self.rng.once_in(2) {
                names.insert(name.clone(), *file);
            }
        }
        names.retain(|name, _| self.names.contains_key(name) || self.rng.once_in(2));
        self.files
            .retain(|file, _| names.values().any(|kept| kept == file));
        for contents in self.files.values_mut() {
            contents.lose_power(&mut self.rng);
        }
        self.durable_names = names.clone();
        self.names = names;
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        state.power()?;
        readable(&state)?;
        Ok(state.names.keys().cloned().collect())
    }

    fn create(&self, name: &str, size_bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        let result = state.spend();
        if state.names.contains_key(name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let full = state.trouble.full.is_some();
        let cut_short = result.is_err() || full;
        if cut_short && state.rng.once_in(2) {
            return result.and(Err(ErrorKind::StorageFull.into()));
        }
        let size = match cut_short {
            true => state.rng.below(size_bytes),
            false => size_bytes,
        };
        let mut contents = Contents::default();
        contents.write(0, &vec![0; size as usize]);
        let file = state.next_file;
        state.next_file += 1;
        state.files.insert(file, contents);
        state.names.insert(name.to_owned(), file);
        result?;
        if full {
            return Err(ErrorKind::StorageFull.into());
        }
        Ok(self.handle(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.power()?;
        readable(&state)?;
        let file = *state.names.get(name).ok_or(ErrorKind::NotFound)?;
        if state.rng.once_in(2) {
            state.contents(file).evict();
        }
        Ok(self.handle(file))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        let result = state.spend();
        if result.is_ok() || state.rng.once_in(2) {
            state.names.remove(name).ok_or(ErrorKind::NotFound)?;
        }
        result
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        let result = state.spend();
        if result.is_ok() || state.rng.once_in(2) {
            state.durable_names = state.names.clone();
        }
        result
    }
}

impl SimDisk {
    fn handle(&self, file: u64) -> Box<dyn DiskFile> {
        Box::new(SimFile {
            disk: self.clone(),
            file,
        })
    }
}

fn readable(state: &State) -> io::Result<()> {
    if state.trouble.unreadable {
        return Err(io::Error::other("input/output error"));
    }
    Ok(())
}

impl DiskFile for SimFile {
    fn read(&self) -> io::Result<Vec<u8>> {
        let mut state = self.disk.state();
        state.power()?;
        readable(&state)?;
        let mut bytes = state.contents(self.file).cache.clone();
        if state.habit == Some(Habit::MendsChecksums) {
            mend_checksums(&mut bytes);
        }
        Ok(bytes)
    }

    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        let position = position as usize;
        let result = match state.spend() {
            Ok(()) if core::mem::take(&mut state.trouble.write) => {
                Err(io::Error::other("input/output error"))
            }
            Ok(()) if state.trouble.full == Some(Full::Writes) => {
                Err(ErrorKind::StorageFull.into())
            }
            result => result,
        };
        let skipped = match state.habit {
            Some(Habit::SkipsSameBytes) => {
                state
                    .contents(self.file)
                    .cache
                    .get(position..position + bytes.len())
                    == Some(bytes)
            }
            Some(Habit::SkipsZeros) => bytes.iter().all(|byte| *byte == 0),
            _ => false,
        };
        if skipped {
            return result;
        }
        let length = match result {
            Ok(()) => bytes.len(),
            Err(_) => state.rng.below(bytes.len() as u64 + 1) as usize,
        };
        if length > 0 {
            state.contents(self.file).write(position, &bytes[..length]);
        }
        // The system writes what it likes when it likes.
        if state.rng.once_in(8) {
            let chance = state.rng.next();
            let contents = state.contents(self.file);
            let index = chance as usize % contents.dirty.len().max(1);
            if let Some(sector) = contents.dirty.iter().nth(index).copied() {
                contents.persist(sector);
                contents.dirty.remove(&sector);
            }
        }
        result
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let result = match state.spend() {
            Ok(()) if core::mem::take(&mut state.trouble.sync) => {
                state.sync_failed = true;
                Err(io::Error::other("input/output error"))
            }
            result => result,
        };
        let mut rng = state.rng.clone();
        let off = state.off;
        let contents = state.contents(self.file);
        let dirty = core::mem::take(&mut contents.dirty);
        for sector in dirty {
            if result.is_ok() || rng.once_in(2) {
                contents.persist(sector);
            } else if off {
                contents.dirty.insert(sector);
            }
        }
        state.rng = rng;
        result
    }
}

/// What a journal would take for right that does not look at checksums: see the layout in `segment.rs` of the host.
fn mend_checksums(bytes: &mut [u8]) {
    const HEADER_BYTES: usize = 40;
    const RECORD_HEAD_BYTES: usize = 32;
    let Some(mark) = bytes.get(32..HEADER_BYTES).map(<[u8]>::to_vec) else {
        return;
    };
    let mut at = HEADER_BYTES;
    while let Some(head) = bytes.get(at..at + RECORD_HEAD_BYTES) {
        let length = u32::from_le_bytes([head[12], head[13], head[14], head[15]]) as usize;
        let end = (at + RECORD_HEAD_BYTES + length).next_multiple_of(8);
        if head[..8] == mark && end <= bytes.len() {
            let checksum = crc32c::crc32c(&bytes[at + 12..end]);
            bytes[at + 8..at + 12].copy_from_slice(&checksum.to_le_bytes());
        }
        at += 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::cache::SECTOR_BYTES;

    /// A disk with a file of ten sectors of ones, durable.
    fn disk(seed: u64) -> (SimDisk, Box<dyn DiskFile>) {
        let disk = SimDisk::new(seed, None);
        let file = disk.create("f", 10 * SECTOR_BYTES as u64).unwrap();
        file.write_at(0, &[1; 10 * SECTOR_BYTES]).unwrap();
        file.sync().unwrap();
        disk.sync_directory().unwrap();
        (disk, file)
    }

    fn twos(bytes: &[u8]) -> usize {
        bytes.iter().filter(|byte| **byte == 2).count()
    }

    /// Whether `outcome` is true of some seeds and not of others.
    fn varies(outcome: impl Fn(u64) -> bool) -> bool {
        let true_of = (0..50).filter(|seed| outcome(*seed)).count();
        (1..50).contains(&true_of)
    }

    #[test]
    fn what_was_synced_outlives_the_power_and_the_rest_may_not() {
        for seed in 0..50 {
            let (disk, file) = disk(seed);
            file.write_at(100, &[2; 2000]).unwrap();
            disk.restart(true);
            let bytes = disk.open("f").unwrap().read().unwrap();
            assert!(bytes[..100].iter().all(|byte| *byte == 1), "seed {seed}");
            assert!(bytes[2100..].iter().all(|byte| *byte == 1), "seed {seed}");
        }
        let lost = |seed| {
            let (disk, file) = disk(seed);
            file.write_at(100, &[2; 2000]).unwrap();
            disk.restart(true);
            twos(&disk.open("f").unwrap().read().unwrap()) < 2000
        };
        assert!(varies(lost));
    }

    #[test]
    fn the_death_of_the_process_takes_nothing() {
        for seed in 0..50 {
            let (disk, file) = disk(seed);
            file.write_at(100, &[2; 2000]).unwrap();
            disk.create("g", 10).unwrap();
            disk.restart(false);
            assert_eq!(twos(&disk.open("f").unwrap().read().unwrap()), 2000);
            assert_eq!(disk.list().unwrap(), ["f", "g"]);
        }
    }

    #[test]
    fn after_a_failed_sync_the_next_one_succeeds_and_what_is_shown_is_gone_later() {
        let gone = |seed| {
            let (disk, file) = disk(seed);
            file.write_at(0, &[2; SECTOR_BYTES]).unwrap();
            disk.set_trouble(|trouble| trouble.sync = true);
            file.sync().unwrap_err();
            assert!(disk.take_sync_failed());
            file.sync().unwrap();
            assert_eq!(
                twos(&file.read().unwrap()),
                SECTOR_BYTES,
                "it is still shown"
            );
            disk.restart(true);
            twos(&disk.open("f").unwrap().read().unwrap()) == 0
        };
        assert!(varies(gone));
    }

    #[test]
    fn files_come_and_go_with_the_power_until_their_directory_is_synced() {
        let there = |name: &'static str| {
            move |seed| {
                let (disk, _) = disk(seed);
                disk.create("g", 10).unwrap();
                disk.remove("f").unwrap();
                disk.restart(true);
                disk.list().unwrap().contains(&name.to_owned())
            }
        };
        assert!(varies(there("f")));
        assert!(varies(there("g")));
        let (disk, _) = disk(1);
        disk.remove("f").unwrap();
        disk.sync_directory().unwrap();
        disk.restart(true);
        assert!(disk.list().unwrap().is_empty());
    }

    #[test]
    fn a_full_disk_takes_no_file_and_the_power_fails_in_the_middle_of_a_write() {
        let (disk, file) = disk(1);
        disk.set_trouble(|trouble| trouble.full = Some(Full::Files));
        let error = disk.create("g", 10).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        file.write_at(0, &[2; 10]).unwrap();
        disk.set_trouble(|trouble| trouble.full = Some(Full::Writes));
        let error = file.write_at(0, &[2; 10]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        disk.set_trouble(|trouble| *trouble = Trouble::default());
        disk.arm(1);
        file.write_at(0, &[2; 10]).unwrap();
        assert!(!disk.is_off());
        file.write_at(0, &[2; 10]).unwrap_err();
        assert!(disk.is_off());
        file.read().unwrap_err();
    }
}
