//! The native host's own journal on a disk that fails, and a ledger of everything it was told, to hold its answers
//! against.
//!
//! Whatever it shows must be what was applied. Whatever it is after a crash or a failure must be what it was after
//! some write: not before the last that it said was durable, and the very last if only the process died.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dunlin_core::{Op, Row};
use dunlin_host::{JournalOptions, JournaledStore, RangeRead, Store, StoreError};

use super::base::SimBase;
use super::disk::{Habit, SimDisk, Trouble};
use super::rng::Rng;

/// Rows by key.
pub(super) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// A way in which a store could break its word, to see that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// Half of a batch may be there without the other.
    TearsBatches,
    /// What is said to be durable is not.
    AcknowledgesBeforeSync,
    /// What a failed sync left is taken for durable when it can be read.
    TrustsFailedSync,
    /// What lies behind a cut is left there.
    KeepsWhatItCut,
    /// A segment goes before what it says is durable elsewhere.
    DeletesTooEarly,
    /// Checksums are not looked at.
    SkipsChecksums,
}

impl StoreFault {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::TearsBatches,
        Self::AcknowledgesBeforeSync,
        Self::TrustsFailedSync,
        Self::KeepsWhatItCut,
        Self::DeletesTooEarly,
        Self::SkipsChecksums,
    ];

    /// The journal itself has none of these faults; a disk that undoes what it does about one is as good as the fault.
    const fn habit(self) -> Option<Habit> {
        match self {
            Self::TrustsFailedSync => Some(Habit::SkipsSameBytes),
            Self::KeepsWhatItCut => Some(Habit::SkipsZeros),
            Self::SkipsChecksums => Some(Habit::MendsChecksums),
            Self::TearsBatches | Self::AcknowledgesBeforeSync | Self::DeletesTooEarly => None,
        }
    }
}

/// A [`Store`] for one world.
pub(super) struct SimStore {
    disk: SimDisk,
    base: SimBase,
    options: JournalOptions,
    fault: Option<StoreFault>,
    // Empty while no process runs.
    journal: Mutex<Option<Arc<JournaledStore>>>,
    ledger: Mutex<Ledger>,
}

/// What was written in this life.
#[derive(Debug, Default)]
struct Ledger {
    shown: Rows,
    durable: Rows,
    /// The writes that a loss of power may take, oldest first.
    pending: VecDeque<Vec<Op>>,
    /// A write that failed, so that nobody knows whether it is there.
    doubtful: Option<Vec<Op>>,
    /// How many writes of this life are durable.
    synced: u64,
    /// How many effects the power lasts for, if it is to fail.
    fuse: Option<u64>,
    off: bool,
    cuts: u64,
}

impl SimStore {
    pub(super) fn new(options: JournalOptions, fault: Option<StoreFault>) -> Self {
        let disk = SimDisk::new(options.seed, fault.and_then(StoreFault::habit));
        let forgets = fault == Some(StoreFault::DeletesTooEarly);
        let store = Self {
            base: SimBase::new(disk.clone(), forgets),
            disk,
            options,
            fault,
            journal: Mutex::default(),
            ledger: Mutex::default(),
        };
        let journal = store.open(&store.disk, &store.base);
        *lock(&store.journal) = Some(Arc::new(journal.expect("an empty disk is opened")));
        store
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    fn journal(&self) -> Result<Arc<JournaledStore>, StoreError> {
        let journal = lock(&self.journal).clone();
        journal.ok_or_else(|| StoreError("no process runs".to_owned()))
    }

    /// Lets the power fail after `effects` more effects.
    pub(super) fn arm(&self, effects: u64) {
        self.ledger().fuse = Some(effects);
    }

    /// Lets the power fail in the middle of a change to the disk, after `changes` whole ones.
    pub(super) fn arm_disk(&self, changes: u64) {
        self.disk.arm(changes);
    }

    pub(super) fn set_trouble(&self, change: impl FnOnce(&mut Trouble)) {
        self.disk.set_trouble(change);
    }

    /// Nothing is wrong with the disk any more.
    pub(super) fn heal(&self) {
        self.disk
            .set_trouble(|trouble| *trouble = Trouble::default());
        self.base.restart(false);
    }

    pub(super) fn fail_checkpoint(&self) {
        self.base.fail();
    }

    /// Uses the power for one effect. False once it is off.
    pub(super) fn spend(&self) -> bool {
        let mut ledger = self.ledger();
        match &mut ledger.fuse {
            Some(0) => ledger.off = true,
            Some(left) => *left -= 1,
            None => {}
        }
        !ledger.off && !self.disk.is_off()
    }

    pub(super) fn is_off(&self) -> bool {
        self.ledger().off || self.disk.is_off()
    }

    /// How many writes of this life were applied.
    pub(super) fn applied(&self) -> u64 {
        let ledger = self.ledger();
        ledger.synced + ledger.pending.len() as u64
    }

    /// How many writes of this life are durable.
    pub(super) fn synced(&self) -> u64 {
        self.ledger().synced
    }

    /// How many torn tails were told.
    pub(super) fn cuts(&self) -> u64 {
        self.ledger().cuts
    }

    /// Does what a server has a thread for.
    pub(super) fn maintain(&self) -> Result<(), StoreError> {
        self.journal()?.maintain()
    }

    /// The machine stops, or only the process; what is there is opened again, perhaps with further losses of power on
    /// the way. Returns how many writes of the ended life there are.
    pub(super) fn crash(&self, rng: &mut Rng, mut power_failed: bool) -> Result<u64, String> {
        *lock(&self.journal) = None;
        let sync_failed = self.disk.take_sync_failed();
        let mut certain = !sync_failed && !power_failed;
        loop {
            self.disk.restart(power_failed);
            self.base.restart(power_failed);
            if rng.once_in(4) {
                self.disk.arm(rng.below(8));
            }
            let opened = self.open(&self.disk, &self.base);
            // What is armed may go off in the middle of the opening; if it does not, it is for later.
            if self.disk.is_off() {
                power_failed = rng.once_in(2);
                certain &= !power_failed;
                continue;
            }
            let journal = opened.map_err(|error| format!("the store does not open: {error}"))?;
            self.disk.restart(false);
            *lock(&self.journal) = Some(Arc::new(journal));
            return self.settle(certain);
        }
    }

    fn open(&self, disk: &SimDisk, base: &SimBase) -> Result<JournaledStore, StoreError> {
        let base = base.clone();
        JournaledStore::open(
            Arc::new(disk.clone()),
            Box::new(move || Ok(Box::new(base.clone()))),
            self.options,
            Box::new(|| {}),
        )
    }

    /// Opens the store again within the same process, after it failed. Returns how many writes of the ended life
    /// there are, or that it cannot be opened now.
    pub(super) fn open_again(&self) -> Result<Result<u64, StoreError>, String> {
        let journal = self.journal().map_err(|error| error.0)?;
        // The fate of what a failed sync was for is open until the store was opened.
        let sync_failed = self.disk.take_sync_failed();
        if let Err(error) = journal.reopen() {
            if sync_failed {
                self.disk.set_sync_failed();
            }
            return Ok(Err(error));
        }
        let sync_failed = sync_failed || self.disk.take_sync_failed();
        self.settle(!sync_failed).map(Ok)
    }

    /// Finds out after which write the store is what it is now.
    fn settle(&self, certain: bool) -> Result<u64, String> {
        let rows = self.rows().map_err(|error| error.0)?;
        let found: Rows = rows.into_iter().map(|row| (row.key, row.value)).collect();
        let cut = self.journal().map_err(|error| error.0)?.recovery().cut;
        let mut ledger = self.ledger();
        ledger.cuts += u64::from(cut.is_some());
        let applied = ledger.pending.len();
        let least = if certain { applied } else { 0 };
        let mut state = ledger.durable.clone();
        let mut kept = (least == 0 && state == found).then_some(0);
        let writes = ledger.pending.iter().chain(&ledger.doubtful).enumerate();
        for (index, ops) in writes {
            apply(&mut state, ops);
            if index + 1 >= least && state == found {
                kept = Some(index + 1);
            }
        }
        if cut.is_some() {
            // What was cut off must not turn up again.
            let disk = self.disk.copy();
            let base = self.base.copy(disk.clone());
            let again = self.open(&disk, &base).map_err(|error| error.0)?;
            if let Some(cut) = again.recovery().cut {
                return Err(format!("what was cut off is there again: {cut:?}"));
            }
        }
        let Some(kept) = kept else {
            return Err(format!(
                "the store is not what it was after any of the writes {} to {}, of which {} were durable: {}{}",
                ledger.synced + least as u64,
                ledger.synced + applied as u64,
                ledger.synced,
                difference(&ledger.shown, &found),
                cut.map_or(String::new(), |cut| format!("; it told of {cut:?}")),
            ));
        };
        let kept = ledger.synced + kept as u64;
        let cuts = ledger.cuts;
        *ledger = Ledger {
            shown: found.clone(),
            durable: found,
            cuts,
            ..Ledger::default()
        };
        Ok(kept)
    }

    /// Opens a copy of what is stored in which one bit is another: either it is what it should be, or it is refused;
    /// whether it was.
    pub(super) fn check_damage(&self, rng: &mut Rng) -> Result<bool, String> {
        let disk = self.disk.copy();
        let base = self.base.copy(disk.clone());
        let Some((name, position)) = disk.flip(rng) else {
            return Ok(false);
        };
        let journal = match self.open(&disk, &base) {
            Err(StoreError(told))
                if told.contains("is damaged at byte") && told.contains(&name) =>
            {
                return Ok(true);
            }
            Err(StoreError(told)) => {
                return Err(format!(
                    "a bit of {name} at {position} is refused unclearly: {told}"
                ));
            }
            Ok(journal) => journal,
        };
        let rows = journal.range(&everything()).map_err(|error| error.0)?;
        let found: Rows = rows.into_iter().map(|row| (row.key, row.value)).collect();
        let ledger = self.ledger();
        let mut state = ledger.durable.clone();
        let mut sound = state == found;
        for ops in &ledger.pending {
            apply(&mut state, ops);
            sound |= state == found;
        }
        if sound {
            return Ok(false);
        }
        Err(format!(
            "a bit of {name} at {position} was not noticed, {} writes were durable: {}; told {:?}",
            ledger.synced,
            difference(&ledger.shown, &found),
            journal.recovery().cut
        ))
    }

    /// All rows, as a copy.
    pub(super) fn rows(&self) -> Result<Vec<Row>, StoreError> {
        self.journal()?.range(&everything())
    }
}

impl Store for SimStore {
    fn apply(&self, ops: &[Op]) -> Result<(), StoreError> {
        if !self.spend() {
            return Err(StoreError("the power is off".to_owned()));
        }
        let journal = self.journal()?;
        let torn = self.fault == Some(StoreFault::TearsBatches);
        let halves = ops.split_at(if torn { ops.len() / 2 } else { 0 });
        let result = match halves.0 {
            [] => journal.apply(ops),
            first => journal.apply(first).and_then(|()| journal.apply(halves.1)),
        };
        let mut ledger = self.ledger();
        match &result {
            Ok(()) => {
                apply(&mut ledger.shown, ops);
                ledger.pending.push_back(ops.to_vec());
            }
            Err(_) => ledger.doubtful = Some(ops.to_vec()),
        }
        result
    }

    fn sync(&self) -> Result<(), StoreError> {
        if self.fault != Some(StoreFault::AcknowledgesBeforeSync) {
            self.journal()?.sync()?;
        }
        let ledger = &mut *self.ledger();
        ledger.synced += ledger.pending.len() as u64;
        for ops in ledger.pending.drain(..) {
            apply(&mut ledger.durable, &ops);
        }
        Ok(())
    }

    fn range(&self, range: &RangeRead) -> Result<Vec<Row>, StoreError> {
        let rows = self.journal()?.range(range)?;
        assert_eq!(
            rows,
            read_range(&self.ledger().shown, range),
            "the store reads what nobody wrote: {range:?}"
        );
        Ok(rows)
    }

    fn reopen(&self) -> Result<(), StoreError> {
        unreachable!("the world opens the store by itself")
    }

    fn probe(&self) -> Result<(), StoreError> {
        self.journal()?.probe()
    }
}

fn everything() -> RangeRead {
    RangeRead {
        from: Vec::new(),
        to: vec![0xff, 0xff],
        reverse: false,
        rows_max: u32::MAX,
        bytes_max: u32::MAX,
    }
}

/// The first row in which two stores differ.
fn difference(known: &Rows, found: &Rows) -> String {
    let keys = known.keys().chain(found.keys());
    let differs = |key: &&Vec<u8>| known.get(*key) != found.get(*key);
    match keys.filter(differs).min() {
        Some(key) => format!(
            "the row {key:02x?} was {:02x?} last and is {:02x?}",
            known.get(key),
            found.get(key)
        ),
        None => "it is what it was last".to_owned(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
