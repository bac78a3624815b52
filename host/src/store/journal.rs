//! A store that writes every change behind the last one first, and into an ordered map later, much at a time.
//!
//! [`Store::apply`] appends one record to the active segment and changes the overlay in memory, [`Store::sync`] makes
//! the segment durable without keeping anybody from appending, and [`JournaledStore::maintain`] empties full
//! segments into the [`Base`] and prepares the next ones. What is durable is a prefix of the records, always.
//!
//! There is no thread in here. A server lets one call `maintain`; where nobody does, or not soon enough, `apply` does
//! the work itself before it goes on, so that memory and files stay bounded.

use core::sync::atomic::{AtomicBool, Ordering};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use dunlin_core::{Op, Row};
use twox_hash::XxHash64;

use super::base::Base;
use super::disk::Disk;
use super::overlay::{Overlay, merged};
use super::recovery::{Recovery, examine, unreadable};
use super::segment::{HEADER_BYTES, RECORD_HEAD_BYTES, Segment, encode, name_of, seal};
use super::{RangeRead, Store, StoreError};

/// What is kept free behind the last change of a segment: one record that says that an earlier one is durable, by a
/// sync that ran when the change came, and one that says it of the change itself.
const KEPT_BYTES: usize = 2 * RECORD_HEAD_BYTES;

/// Opens the base anew.
pub type OpenBase = Box<dyn Fn() -> Result<Box<dyn Base>, StoreError> + Send + Sync>;

/// The bounds of a journal.
#[derive(Clone, Copy, Debug)]
pub struct JournalOptions {
    /// How long a segment is. A single record may need a longer one, and gets it.
    pub segment_bytes: u64,
    /// How many empty segments `maintain` keeps ready.
    pub spares_min: usize,
    /// How many full segments may wait to be emptied; their changes are held in memory.
    pub frozen_max: usize,
    /// What the marks of segments are made of. Nobody outside may know it.
    pub seed: u64,
}

/// A [`Store`] of a [`Base`] behind a journal on a [`Disk`].
pub struct JournaledStore {
    disk: Arc<dyn Disk>,
    open_base: OpenBase,
    options: JournalOptions,
    /// Called when there is something for [`JournaledStore::maintain`] to do.
    wake: Box<dyn Fn() + Send + Sync>,
    recovery: Mutex<Recovery>,
    // Empty only while it is being opened again, or after that failed.
    open: RwLock<Option<Open>>,
}

/// Locks are taken in the order of the fields, where more than one is held.
struct Open {
    /// Whether memory and disk may differ; only opening again helps.
    failed: AtomicBool,
    base: Box<dyn Base>,
    emptying: Mutex<()>,
    creating: Mutex<()>,
    syncing: Mutex<()>,
    writer: Mutex<Writer>,
    overlays: RwLock<Overlays>,
}

/// The end of the journal.
struct Writer {
    /// Where records go now; the first record of all finds none.
    active: Option<Arc<Segment>>,
    /// Where the next record begins.
    position: u64,
    /// Empty segments, in the order in which they become active.
    spares: VecDeque<Segment>,
    next_number: u64,
    /// The last record.
    last: u64,
    /// The last record that changes anything.
    last_change: u64,
    /// The last durable record.
    durable: u64,
    /// The last record that one in the journal says is durable.
    attested: u64,
    /// Full segments with records that are not known to be durable.
    unsynced: Vec<Arc<Segment>>,
}

struct Overlays {
    active: Overlay,
    /// Oldest first.
    frozen: VecDeque<Arc<Frozen>>,
}

/// A full segment.
struct Frozen {
    overlay: Overlay,
    segment: Arc<Segment>,
    last: u64,
}

impl JournaledStore {
    /// Opens what is on `disk` and in the base. `wake` is called when [`JournaledStore::maintain`] has work.
    pub fn open(
        disk: Arc<dyn Disk>,
        open_base: OpenBase,
        options: JournalOptions,
        wake: Box<dyn Fn() + Send + Sync>,
    ) -> Result<Self, StoreError> {
        let store = Self {
            disk,
            open_base,
            options,
            wake,
            recovery: Mutex::default(),
            open: RwLock::new(None),
        };
        store.reopen()?;
        Ok(store)
    }

    /// What was found when the store was opened last.
    pub fn recovery(&self) -> Recovery {
        lock(&self.recovery).clone()
    }

    /// Prepares empty segments and empties full ones, until there is nothing left to do.
    pub fn maintain(&self) -> Result<(), StoreError> {
        self.with(|open| {
            loop {
                // Where there is no room, an emptied segment makes some.
                let prepared = self.prepare(open, self.options.spares_min, 0);
                if !self.empty_oldest(open)? {
                    return prepared;
                }
            }
        })
    }

    /// Whether [`JournaledStore::reclaim`] is worth its time.
    pub fn is_wasteful(&self) -> bool {
        self.with(|open| Ok(open.base.is_wasteful()))
            .unwrap_or(false)
    }

    /// Removes files that nothing needs any more; whether there may be more of them soon.
    pub fn tidy(&self) -> Result<bool, StoreError> {
        self.with(|open| open.check(open.base.tidy()))
    }

    /// Gives the room of deleted rows back to the disk. Meant for a thread of its own; only [`Store::reopen`] waits.
    pub fn reclaim(&self) -> Result<(), StoreError> {
        self.with(|open| open.check(open.base.reclaim()))
    }

    fn with<T>(&self, body: impl FnOnce(&Open) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let guard = self.open.read().unwrap_or_else(PoisonError::into_inner);
        match guard.as_ref() {
            Some(open) if !open.failed.load(Ordering::Acquire) => body(open),
            _ => Err(StoreError(
                "the store failed earlier and is not open again yet; what the log says about that failure has to be mended".to_owned(),
            )),
        }
    }

    /// Sees to it that at least `count` empty segments wait, the first of which has room for `room_bytes`.
    fn prepare(&self, open: &Open, count: usize, room_bytes: u64) -> Result<(), StoreError> {
        let _alone = lock(&open.creating);
        loop {
            let number = {
                let mut writer = lock(&open.writer);
                let fits = |spare: &Segment| room_of(spare) >= room_bytes;
                if writer.spares.len() >= count && writer.spares.front().is_none_or(fits) {
                    return Ok(());
                }
                if !writer.spares.front().is_none_or(fits) {
                    // Their numbers are lower than that of the longer one, so they can only go.
                    for spare in writer.spares.drain(..) {
                        self.disk
                            .remove(&name_of(spare.number))
                            .and_then(|()| self.disk.sync_directory())
                            .map_err(|error| no_room(&error))?;
                    }
                }
                let number = writer.next_number;
                writer.next_number += 1;
                number
            };
            let needed = room_bytes + (HEADER_BYTES + KEPT_BYTES) as u64;
            let size_bytes = self.options.segment_bytes.max(needed);
            let mark = XxHash64::oneshot(self.options.seed, &number.to_le_bytes());
            match Segment::create(&*self.disk, number, size_bytes, mark) {
                Ok(segment) => lock(&open.writer).spares.push_back(segment),
                Err(error) => {
                    // What is left of it takes room; if it cannot be removed now, the next open does it.
                    let _ = self.disk.remove(&name_of(number));
                    return Err(no_room(&error));
                }
            }
        }
    }

    /// Moves the changes of the oldest full segment into the base; whether there was one.
    fn empty_oldest(&self, open: &Open) -> Result<bool, StoreError> {
        let _alone = lock(&open.emptying);
        let oldest = read(&open.overlays).frozen.front().cloned();
        let Some(oldest) = oldest else {
            return Ok(false);
        };
        // The base must not know what the journal can still lose, or it would not hold a prefix any more.
        let emptied = oldest
            .segment
            .file
            .sync()
            .map_err(|error| unwritable(&error))
            .and_then(|()| {
                let mut changes = oldest.overlay.changes(&*open.base);
                open.base.checkpoint(&mut changes, oldest.last)
            })
            .and_then(|()| {
                // Durably gone before the next one can go: a journal without its middle is none.
                self.disk
                    .remove(&name_of(oldest.segment.number))
                    .and_then(|()| self.disk.sync_directory())
                    .map_err(|error| unwritable(&error))
            });
        // A base that failed half way may have left what only its next opening clears up.
        open.check(emptied)?;
        let mut writer = lock(&open.writer);
        // Nothing older is in the journal any more, and who holds a file keeps its room on the disk.
        writer.durable = writer.durable.max(oldest.last);
        let emptied = oldest.segment.number;
        writer.unsynced.retain(|full| full.number != emptied);
        let mut overlays = write(&open.overlays);
        overlays.frozen.pop_front();
        Ok(true)
    }
}

impl Open {
    /// After an error nothing is trusted before it was read again.
    fn check<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        outcome.inspect_err(|_| self.failed.store(true, Ordering::Release))
    }
}

impl Writer {
    /// How long a change can be.
    fn room(&self) -> u64 {
        let kept = self.position + KEPT_BYTES as u64;
        let active = self.active.as_ref();
        active.map_or(0, |active| active.size_bytes.saturating_sub(kept))
    }

    /// Appends a record that was encoded; there must be room.
    fn append(&mut self, record: &mut [u8]) -> io::Result<()> {
        let active = self.active.as_ref().expect("there is room");
        seal(record, active.mark, self.last + 1, self.durable);
        active.file.write_at(self.position, record)?;
        self.position += record.len() as u64;
        self.last += 1;
        self.attested = self.durable;
        Ok(())
    }

    /// Appends an empty record, where no other one says what is durable: a damage to it is then told from the tail
    /// of a crash.
    fn attest(&mut self) -> io::Result<()> {
        if self.attested >= self.durable {
            return Ok(());
        }
        let mut nothing = encode(&[]).map_err(io::Error::other)?;
        self.append(&mut nothing)
    }

    /// Makes the first empty segment the active one.
    fn rotate(&mut self, overlays: &mut Overlays) {
        let next = self.spares.pop_front().expect("an empty segment waits");
        self.position = HEADER_BYTES as u64;
        if let Some(full) = self.active.replace(Arc::new(next)) {
            overlays.frozen.push_back(Arc::new(Frozen {
                overlay: core::mem::take(&mut overlays.active),
                segment: Arc::clone(&full),
                last: self.last,
            }));
            self.unsynced.push(full);
        }
    }
}

impl Store for JournaledStore {
    fn apply(&self, ops: &[Op]) -> Result<(), StoreError> {
        let mut record = encode(ops)?;
        let size_bytes = record.len() as u64;
        self.with(|open| {
            let mut rotated = false;
            loop {
                let mut writer = lock(&open.writer);
                if writer.room() < size_bytes {
                    let spare = writer.spares.front();
                    if spare.is_none_or(|spare| room_of(spare) < size_bytes) {
                        drop(writer);
                        let prepared = self.prepare(open, 1, size_bytes);
                        // Where there is no room, an emptied segment makes some.
                        if prepared.is_err() && !self.empty_oldest(open)? {
                            return prepared;
                        }
                        continue;
                    }
                    if read(&open.overlays).frozen.len() >= self.options.frozen_max {
                        drop(writer);
                        self.empty_oldest(open)?;
                        continue;
                    }
                    writer.rotate(&mut write(&open.overlays));
                    rotated = true;
                }
                let appended = writer.append(&mut record);
                // Half a record may be there: nothing may follow it.
                open.check(appended.map_err(|error| unwritable(&error)))?;
                writer.last_change = writer.last;
                let mut overlays = write(&open.overlays);
                ops.iter().for_each(|op| overlays.active.apply(op.clone()));
                break;
            }
            if rotated {
                (self.wake)();
            }
            Ok(())
        })
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.with(|open| {
            let _alone = lock(&open.syncing);
            let (segments, target) = {
                let writer = lock(&open.writer);
                if writer.last_change <= writer.durable {
                    return Ok(());
                }
                let segments: Vec<_> = writer
                    .unsynced
                    .iter()
                    .chain(&writer.active)
                    .cloned()
                    .collect();
                (segments, writer.last)
            };
            for segment in &segments {
                let synced = segment.file.sync();
                open.check(synced.map_err(|error| unwritable(&error)))?;
            }
            let mut writer = lock(&open.writer);
            writer.durable = writer.durable.max(target);
            let newest = segments.last().map_or(0, |segment| segment.number);
            writer.unsynced.retain(|segment| segment.number >= newest);
            open.check(writer.attest().map_err(|error| unwritable(&error)))
        })
    }

    fn range(&self, range: &RangeRead) -> Result<Vec<Row>, StoreError> {
        if range.from >= range.to {
            return Ok(Vec::new());
        }
        self.with(|open| {
            let (active, frozen, base) = {
                let overlays = read(&open.overlays);
                let base = open.base.range(&range.from, &range.to, range.reverse);
                (overlays.active.part(range), overlays.frozen.clone(), base)
            };
            let mut layers = vec![&active];
            layers.extend(frozen.iter().rev().map(|frozen| &frozen.overlay));
            range.bounded(merged(&layers, base, range))
        })
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // Closed first: the same files cannot be opened twice.
        *open = None;
        let begun = Instant::now();
        let base = (self.open_base)()?;
        let mut found = examine(&*self.disk, base.through()?)?;
        found
            .settle(&*self.disk)
            .map_err(|error| unreadable("it cannot be settled", &error))?;
        let mut recovery = found.recovery;
        recovery.took = begun.elapsed();
        *lock(&self.recovery) = recovery;
        let mut writer = Writer {
            active: None,
            position: 0,
            spares: found.spares,
            next_number: found.next_number,
            last: found.last,
            last_change: found.last_change,
            durable: found.last,
            attested: found.durable,
            unsynced: Vec::new(),
        };
        let mut overlays = Overlays {
            active: Overlay::default(),
            frozen: VecDeque::new(),
        };
        if let Some(newest) = found.filled.pop_back() {
            writer.active = Some(Arc::new(newest.segment));
            writer.position = newest.end as u64;
            overlays.active = newest.overlay;
            if writer.last_change > found.durable {
                writer.attest().map_err(|error| unwritable(&error))?;
            }
        }
        overlays.frozen = found
            .filled
            .into_iter()
            .map(|filled| {
                Arc::new(Frozen {
                    overlay: filled.overlay,
                    segment: Arc::new(filled.segment),
                    last: filled.last,
                })
            })
            .collect();
        *open = Some(Open {
            failed: AtomicBool::new(false),
            base,
            emptying: Mutex::default(),
            creating: Mutex::default(),
            syncing: Mutex::default(),
            writer: Mutex::new(writer),
            overlays: RwLock::new(overlays),
        });
        drop(open);
        (self.wake)();
        Ok(())
    }

    fn recovery(&self) -> Option<Recovery> {
        Some(Self::recovery(self))
    }

    fn probe(&self) -> Result<(), StoreError> {
        let is_failed = || self.with(|_| Ok(())).is_err();
        if is_failed() {
            self.reopen()?;
        }
        // Where no more room can be had, there may be some left.
        let _ = self.maintain();
        let written = self.apply(&[]).and_then(|()| self.sync());
        // What cannot be written may well be read.
        if written.is_err() && is_failed() {
            self.reopen()?;
        }
        written
    }
}

/// How long a record can be in an empty segment.
fn room_of(segment: &Segment) -> u64 {
    let kept = (HEADER_BYTES + KEPT_BYTES) as u64;
    segment.size_bytes.saturating_sub(kept)
}

fn unwritable(error: &io::Error) -> StoreError {
    StoreError(format!(
        "the journal cannot be written: {error}; make room on the disk, or mend it or its permissions"
    ))
}

fn no_room(error: &io::Error) -> StoreError {
    StoreError(format!(
        "the journal cannot grow: {error}; make room on the disk, or mend it or its permissions"
    ))
}

// Nothing that is done under these locks panics half way, so a poisoned one still guards whole values.

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
