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

use super::base::{Base, Reached};
use super::disk::Disk;
use super::overlay::{Overlay, merged};
use super::recovery::{Recovery, examine, unreadable};
use super::segment::{HEADER_BYTES, RECORD_HEAD_BYTES, Segment, encode, name_of, seal};
use super::{RangeRead, Store, StoreError};

/// What is kept free behind the last change of a segment: one record that says that an earlier one is durable, by a
/// sync that ran when the change came, and one that says it of the change itself.
const KEPT_BYTES: usize = 2 * RECORD_HEAD_BYTES;

/// Which part of a segment, one of so many, is kept for batches that delete ranges: where nothing else can be written,
/// they are what makes room.
const RELIEF_SHARE: u64 = 64;

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
    // Empty only while it is being opened again, or after that failed. Closed before `open_base` goes, which may own
    // the right to have it open.
    open: RwLock<Option<Open>>,
    disk: Arc<dyn Disk>,
    open_base: OpenBase,
    options: JournalOptions,
    /// Called when there is something for [`JournaledStore::maintain`] to do.
    wake: Box<dyn Fn() + Send + Sync>,
    recovery: Mutex<Recovery>,
    /// Whether there was no room for something; held while somebody maintains.
    scarce: Mutex<bool>,
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
            scarce: Mutex::default(),
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
    ///
    /// Where room is scarce it leaves that to whoever writes or probes: another try beside theirs would only fail.
    pub fn maintain(&self) -> Result<(), StoreError> {
        let scarce = lock(&self.scarce);
        if *scarce {
            return Ok(());
        }
        self.make_room(scarce)
    }

    fn make_room(&self, mut scarce: MutexGuard<'_, bool>) -> Result<(), StoreError> {
        let outcome = self.with(|open| {
            if *scarce {
                self.relieve(open)?;
            }
            loop {
                // Where there is no room, an emptied segment makes some.
                let prepared = self.prepare(open, self.options.spares_min, 0);
                if !self.empty_oldest(open)? {
                    return prepared;
                }
            }
        });
        *scarce = outcome.is_err();
        outcome
    }

    /// Makes room of what there is: what is full is emptied before anything is prepared, and what was deleted goes.
    fn relieve(&self, open: &Open) -> Result<(), StoreError> {
        while !read(&open.overlays).frozen.is_empty() {
            // The base needs room before it gives more than that back.
            self.drop_spares(open)?;
            self.empty_oldest(open)?;
        }
        if self.prepare(open, 1, 0).is_ok() {
            return Ok(());
        }
        if lock(&open.writer).freeze(&mut write(&open.overlays)) {
            self.empty_oldest(open)?;
        }
        if open.base.is_wasteful(true) {
            open.check(open.base.reclaim())?;
        }
        Ok(())
    }

    /// Whether [`JournaledStore::reclaim`] is worth its time.
    pub fn is_wasteful(&self) -> bool {
        self.with(|open| Ok(open.base.is_wasteful(false)))
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
                let fits = |spare: &Segment| room_of_spare(spare) >= room_bytes;
                if writer.spares.len() >= count && writer.spares.front().is_none_or(fits) {
                    return Ok(());
                }
                if !writer.spares.front().is_none_or(fits) {
                    // Their numbers are lower than that of the longer one, so they can only go.
                    self.remove_spares(&mut writer)?;
                }
                let number = writer.next_number;
                writer.next_number += 1;
                number
            };
            let needed = room_bytes + (HEADER_BYTES + KEPT_BYTES) as u64;
            let needed = needed * RELIEF_SHARE / (RELIEF_SHARE - 1) + 1;
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

    fn drop_spares(&self, open: &Open) -> Result<(), StoreError> {
        let _alone = lock(&open.creating);
        self.remove_spares(&mut lock(&open.writer))
    }

    fn remove_spares(&self, writer: &mut Writer) -> Result<(), StoreError> {
        for spare in writer.spares.drain(..) {
            self.disk
                .remove(&name_of(spare.number))
                .and_then(|()| self.disk.sync_directory())
                .map_err(|error| no_room(&error))?;
        }
        Ok(())
    }

    /// Makes an empty segment, if one waits, the active one where there is none.
    fn begin(&self, open: &Open) -> Result<(), StoreError> {
        let _emptying = lock(&open.emptying);
        let _creating = lock(&open.creating);
        let first = {
            let writer = lock(&open.writer);
            let spare = writer.spares.front();
            spare
                .map(|spare| spare.number)
                .filter(|_| writer.active.is_none())
        };
        let Some(first) = first else {
            return Ok(());
        };
        // Before anything is in it, or nobody would miss it. Where others wait to be emptied, that says it.
        if read(&open.overlays).frozen.is_empty() {
            let reached = open.base.reached()?;
            open.note(reached.record, first)?;
        }
        lock(&open.writer).rotate(&mut write(&open.overlays));
        Ok(())
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
                let reached = Reached {
                    record: oldest.last,
                    next_segment: Some(open.second_segment()),
                };
                open.base.checkpoint(&mut changes, reached)
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

    /// Tells the base where the journal goes on behind what it contains.
    fn note(&self, record: u64, segment: u64) -> Result<(), StoreError> {
        self.check(note(&*self.base, record, segment))
    }

    /// The segment behind the oldest full one; 0 if nothing is written there.
    fn second_segment(&self) -> u64 {
        let writer = lock(&self.writer);
        let overlays = read(&self.overlays);
        let second = overlays.frozen.get(1).map(|frozen| &frozen.segment);
        second
            .or(writer.active.as_ref())
            .map_or(0, |segment| segment.number)
    }
}

impl Writer {
    /// How long a change can be, one that deletes a range if it `relieves`.
    fn room(&self, relieves: bool) -> u64 {
        let active = self.active.as_ref();
        active.map_or(0, |active| room_of(active, self.position, relieves))
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
        if self.attested >= self.durable || self.active.is_none() {
            return Ok(());
        }
        let mut nothing = encode(&[]).map_err(io::Error::other)?;
        self.append(&mut nothing)
    }

    /// Makes the first empty segment the active one.
    fn rotate(&mut self, overlays: &mut Overlays) {
        let next = self.spares.pop_front().expect("an empty segment waits");
        self.freeze_active(overlays);
        self.position = HEADER_BYTES as u64;
        self.active = Some(Arc::new(next));
    }

    /// Ends the active segment before its time, if emptying it can make room; whether it did.
    fn freeze(&mut self, overlays: &mut Overlays) -> bool {
        let freezes = self.active.is_some() && overlays.active.deletes();
        if freezes {
            self.freeze_active(overlays);
        }
        freezes
    }

    fn freeze_active(&mut self, overlays: &mut Overlays) {
        if let Some(full) = self.active.take() {
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
        let relieves = ops.iter().any(|op| matches!(op, Op::DeleteRange { .. }));
        self.with(|open| {
            let mut rotated = false;
            loop {
                let mut writer = lock(&open.writer);
                if writer.room(relieves) < size_bytes {
                    let spare = writer.spares.front();
                    if spare.is_none_or(|spare| room_of_spare(spare) < size_bytes) {
                        drop(writer);
                        // Where there is no room, an emptied segment makes some; somebody else may have emptied it.
                        if self.prepare(open, 1, size_bytes).is_err() && !self.empty_oldest(open)? {
                            self.prepare(open, 1, size_bytes)?;
                        }
                        *lock(&self.scarce) = false;
                        continue;
                    }
                    if writer.active.is_none() {
                        drop(writer);
                        self.begin(open)?;
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
        self.sync_and(&mut || {})
    }

    fn sync_and(&self, durable: &mut dyn FnMut()) -> Result<(), StoreError> {
        self.with(|open| {
            let _alone = lock(&open.syncing);
            let (segments, target) = {
                let writer = lock(&open.writer);
                if writer.last_change <= writer.durable {
                    durable();
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
            durable();
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
        let reached = base.reached()?;
        let mut found = examine(&*self.disk, reached)?;
        let first = found.first_segment();
        // Before a file goes that the base would miss.
        if reached.next_segment != Some(first) {
            note(&*base, reached.record, first)?;
        }
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
        // The second time it knows that room is scarce.
        for _ in 0..2 {
            if self.make_room(lock(&self.scarce)).is_ok() {
                break;
            }
            if is_failed() {
                self.reopen()?;
            }
        }
        // What is left of the active segment is soon full: there must be room behind it.
        let written = self
            .with(|open| self.prepare(open, 1, 0))
            .and_then(|()| self.apply(&[]))
            .and_then(|()| self.sync());
        // What cannot be written may well be read.
        if written.is_err() && is_failed() {
            self.reopen()?;
        }
        written
    }
}

/// How long a record can be at `position`.
fn room_of(segment: &Segment, position: u64, relieves: bool) -> u64 {
    let relief = segment.size_bytes / RELIEF_SHARE;
    let kept = position + KEPT_BYTES as u64 + if relieves { 0 } else { relief };
    segment.size_bytes.saturating_sub(kept)
}

fn room_of_spare(segment: &Segment) -> u64 {
    room_of(segment, HEADER_BYTES as u64, false)
}

fn note(base: &dyn Base, record: u64, segment: u64) -> Result<(), StoreError> {
    let reached = Reached {
        record,
        next_segment: Some(segment),
    };
    base.checkpoint(&mut core::iter::empty(), reached)
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
