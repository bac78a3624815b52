//! What the journal promises, held against a disk that does its worst.

mod disk;

use core::time::Duration;
use std::sync::{Arc, mpsc};
use std::thread;

use dunlin_core::Op;

use self::disk::{Crash, TestDisk};
use super::base::{Base, Change, Reached, Rows};
use super::{JournalOptions, JournaledStore, MemoryStore, RangeRead, Recovery, Store, StoreError};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

const OPTIONS: JournalOptions = JournalOptions {
    segment_bytes: 4096,
    spares_min: 1,
    frozen_max: 2,
    seed: 7,
};

type Rowset = Vec<(Vec<u8>, Vec<u8>)>;

/// A disk and what the journal on it is emptied into, which fails when the disk does.
#[derive(Clone, Default)]
struct World {
    disk: Arc<TestDisk>,
    base: Arc<MemoryStore>,
}

impl Base for World {
    fn range<'a>(&'a self, from: &[u8], to: &[u8], reverse: bool) -> Rows<'a> {
        self.base.range(from, to, reverse)
    }

    fn checkpoint(
        &self,
        changes: &mut dyn Iterator<Item = Result<Change, StoreError>>,
        reached: Reached,
    ) -> Result<(), StoreError> {
        let told = |error: std::io::Error| StoreError(error.to_string());
        let whole = self.disk.step().map_err(told)?;
        if whole {
            self.base.checkpoint(changes, reached)?;
        }
        // The power may also go after it and before anybody hears of it.
        self.disk.step().map_err(told).map(|_| ())
    }

    fn reached(&self) -> Result<Reached, StoreError> {
        Base::reached(&self.base)
    }
}

impl World {
    fn open(&self) -> Result<JournaledStore, StoreError> {
        let base = self.clone();
        JournaledStore::open(
            Arc::new(Arc::clone(&self.disk)),
            Box::new(move || Ok(Box::new(base.clone()))),
            OPTIONS,
            Box::new(|| {}),
        )
    }

    fn after(&self, crash: Crash) -> Self {
        Self {
            disk: self.disk.crash(crash),
            base: Arc::clone(&self.base),
        }
    }
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }

    fn key(&mut self) -> Vec<u8> {
        format!("k{:03}", self.below(60)).into_bytes()
    }

    fn ops(&mut self) -> Vec<Op> {
        (0..1 + self.below(4)).map(|_| self.op()).collect()
    }

    fn op(&mut self) -> Op {
        match self.below(8) {
            0 => Op::Delete { key: self.key() },
            1 => Op::DeleteRange {
                from: self.key(),
                to: self.key(),
            },
            _ => Op::Put {
                key: self.key(),
                value: vec![u8::try_from(self.below(250)).unwrap() + 1; self.below(90) as usize],
            },
        }
    }
}

fn all(store: &dyn Store) -> Rowset {
    rows(store, &everything())
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

fn rows(store: &dyn Store, read: &RangeRead) -> Rowset {
    let rows = store.range(read).unwrap().into_iter();
    rows.map(|row| (row.key, row.value)).collect()
}

/// What a map holds after each of these batches, from none of them on.
fn states(batches: &[Vec<Op>]) -> Vec<Rowset> {
    let model = MemoryStore::default();
    let mut states = vec![all(&model)];
    for ops in batches {
        model.apply(ops).unwrap();
        states.push(all(&model));
    }
    states
}

fn put(number: usize) -> Op {
    Op::Put {
        key: format!("{number:03}").into_bytes(),
        value: vec![b'v'; number % 37],
    }
}

#[test]
fn a_journaled_map_answers_as_a_plain_one() {
    for seed in 0..20 {
        let mut dice = Dice(seed);
        let world = World::default();
        let store = world.open().unwrap();
        let model = MemoryStore::default();
        for _ in 0..150 {
            let ops = dice.ops();
            store.apply(&ops).unwrap();
            model.apply(&ops).unwrap();
            match dice.below(12) {
                0 => store.sync().unwrap(),
                1 => store.maintain().unwrap(),
                2 => store.reopen().unwrap(),
                _ => {}
            }
            let read = RangeRead {
                from: dice.key(),
                to: dice.key(),
                reverse: dice.below(2) == 0,
                rows_max: u32::try_from(dice.below(20)).unwrap(),
                bytes_max: u32::try_from(dice.below(500)).unwrap(),
            };
            assert_eq!(
                rows(&store, &read),
                rows(&model, &read),
                "seed {seed}: {read:?}"
            );
        }
        assert_eq!(all(&store), all(&model), "seed {seed}");
    }
}

const BATCHES: usize = 320;

#[test]
fn a_crash_at_any_step_keeps_what_was_synced_and_a_prefix_of_the_rest() {
    let run = |world: &World| -> (usize, usize) {
        let (mut applied, mut synced) = (0, 0);
        let mut dice = Dice(3);
        let Ok(store) = world.open() else {
            return (0, 0);
        };
        for _ in 0..BATCHES {
            if store.apply(&dice.ops()).is_err() {
                return (synced, applied + 1);
            }
            applied += 1;
            if applied % 7 == 0 && store.sync().is_ok() {
                synced = applied;
            }
            if applied % 40 == 0 {
                // What fails here fails the next batch too.
                let _ = store.maintain();
            }
        }
        (synced, applied)
    };
    let mut dice = Dice(3);
    let batches: Vec<_> = (0..BATCHES).map(|_| dice.ops()).collect();
    let states = states(&batches);
    let whole = World::default();
    assert_eq!(run(&whole), (BATCHES - BATCHES % 7, BATCHES));
    let steps = whole.disk.steps();
    assert!(
        steps > 300,
        "{steps}: segments are filled, emptied and removed"
    );
    for fuse in 0..steps {
        let world = World::default();
        world.disk.light(fuse);
        let (synced, applied) = run(&world);
        for crash in [Crash::Kill, Crash::Power, Crash::Torn] {
            // The base may be one checkpoint ahead of its journal's files: each crash has its own.
            let after = World {
                disk: world.disk.crash(crash),
                base: Arc::new(world.base.copy()),
            };
            let store = after.open().unwrap_or_else(|error| {
                panic!("{crash:?} after {fuse} steps: {error}");
            });
            let found = all(&store);
            let mut possible = states[synced..=applied].iter();
            assert!(
                possible.any(|state| *state == found),
                "{crash:?} after {fuse} steps, {synced} synced, {applied} applied"
            );
            if crash == Crash::Kill {
                let last = applied.saturating_sub(1);
                assert!(found == states[applied] || found == states[last]);
            }
            // And it goes on from there, also over another crash.
            store.apply(&[put(1)]).unwrap();
            store.sync().unwrap();
            let again = all(&store);
            drop(store);
            assert_eq!(all(&after.after(Crash::Power).open().unwrap()), again);
        }
    }
}

/// A journal of one segment: 30 batches that are durable, and then 10 that are not.
struct Sample {
    world: World,
    name: String,
    bytes: Vec<u8>,
    states: Vec<Rowset>,
    /// Where each record ends; the first is the header's.
    ends: Vec<usize>,
}

const DURABLE: usize = 30;

fn sample() -> Sample {
    let world = World::default();
    let store = world.open().unwrap();
    let mut batches = Vec::new();
    let mut ends = vec![super::segment::HEADER_BYTES];
    for number in 0..40 {
        let ops = vec![put(number)];
        store.apply(&ops).unwrap();
        let size = super::segment::encode(&ops).unwrap().len();
        ends.push(ends.last().unwrap() + size);
        batches.push(ops);
        if number + 1 == DURABLE {
            store.sync().unwrap();
            // The record that says so.
            ends.push(ends.last().unwrap() + super::segment::encode(&[]).unwrap().len());
            batches.push(Vec::new());
        }
    }
    let name = world.disk.names().remove(0);
    Sample {
        bytes: world.disk.bytes(&name),
        states: states(&batches),
        world,
        name,
        ends,
    }
}

impl Sample {
    fn opened(&self, bytes: Vec<u8>) -> Result<(Rowset, Recovery), StoreError> {
        let mut world = self.world.after(Crash::Kill);
        world.base = Arc::new(self.world.base.copy());
        world.disk.replace(&self.name, bytes);
        let store = world.open()?;
        let found = (all(&store), store.recovery());
        // What was cut off stays away, whatever is written and lost afterwards.
        store.apply(&[]).unwrap();
        drop(store);
        let again = world.after(Crash::Kill).open()?;
        assert_eq!(again.recovery().cut, None);
        assert_eq!(all(&again), found.0);
        Ok(found)
    }

    /// How many records end at or before a byte.
    fn records_before(&self, at: usize) -> usize {
        self.ends.iter().filter(|end| **end <= at).count() - 1
    }
}

#[test]
fn a_journal_that_ends_at_any_byte_is_a_prefix_and_says_so() {
    let sample = sample();
    let end = *sample.ends.last().unwrap();
    assert!(sample.bytes[end..].iter().all(|byte| *byte == 0));
    for at in super::segment::HEADER_BYTES..end {
        // Once with zeros in the place of what was not written, once without anything.
        let mut zeroed = sample.bytes.clone();
        zeroed[at..].fill(0);
        let shortened = sample.bytes[..at].to_vec();
        for (bytes, is_short) in [(zeroed, false), (shortened, true)] {
            // Zeros that are zeros anyway complete a record.
            let whole = sample
                .ends
                .iter()
                .filter(|end| !is_short && bytes[..**end] == sample.bytes[..**end] || **end <= at);
            let records = whole.count() - 1;
            let position = sample.ends[records];
            let left = bytes[position.min(bytes.len())..]
                .iter()
                .filter(|byte| **byte != 0);
            let left = left.count() as u64;
            let (found, recovery) = sample.opened(bytes).unwrap();
            assert_eq!(found, sample.states[records], "cut at {at}");
            let cut = recovery.cut.map(|cut| (cut.file, cut.position, cut.bytes));
            let told = (sample.name.clone(), position as u64, left);
            let expected = (left > 0 || is_short).then_some(told);
            assert_eq!(cut, expected, "cut at {at}");
        }
    }
}

#[test]
fn a_flipped_bit_is_told_where_it_was_durable_and_cut_off_where_not() {
    let sample = sample();
    let end = *sample.ends.last().unwrap();
    for at in 0..sample.bytes.len() {
        let mut bytes = sample.bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        let outcome = sample.opened(bytes);
        if at < sample.ends[DURABLE] {
            let position = match at < sample.ends[0] {
                true => 0,
                false => sample.ends[sample.records_before(at)],
            };
            let told = outcome.expect_err("damage was taken").0;
            let place = format!("{} is damaged at byte {position}:", sample.name);
            assert!(told.contains(&place), "byte {at}: {told}");
            assert!(told.contains("backup"), "{told}");
        } else {
            let records = sample.records_before(at.min(end));
            let (found, recovery) = outcome.unwrap();
            assert_eq!(found, sample.states[records], "byte {at}");
            let cut = recovery.cut.expect("it is told");
            assert_eq!(cut.position, sample.ends[records] as u64, "byte {at}");
        }
    }
}

#[test]
fn a_segment_that_is_gone_is_told() {
    for missing in 0..3 {
        let world = World::default();
        let store = world.open().unwrap();
        for number in 0..300 {
            if world.disk.names().len() == 4 {
                break;
            }
            store.apply(&[put(number)]).unwrap();
            store.sync().unwrap();
        }
        drop(store);
        let names = world.disk.names();
        world.disk.delete(&names[missing]);
        match world.open().map(|store| store.recovery()) {
            // Of the first one the base knows that it must be there.
            Err(told) if missing == 0 => {
                let named = format!("{} is missing", names[0]);
                assert!(told.0.contains(&named), "{told}");
                assert!(told.0.contains("backup"), "{told}");
            }
            Err(told) => {
                assert_eq!(missing, 1, "{told}");
                assert!(told.0.contains(&names[missing + 1]), "{told}");
                assert!(told.0.contains("at byte 40"), "{told}");
            }
            // With the last one goes what nothing else speaks of.
            Ok(_) => assert_eq!(missing, 2),
        }
    }
}

#[test]
fn a_journal_that_is_older_than_its_base_is_told() {
    let world = World::default();
    let store = world.open().unwrap();
    store.apply(&[put(1)]).unwrap();
    let older = world.disk.crash(Crash::Kill);
    while Base::reached(&world.base).unwrap().record == 0 {
        store.apply(&[put(2)]).unwrap();
        store.maintain().unwrap();
    }
    drop(store);
    let base = Arc::clone(&world.base);
    let mixed = World { disk: older, base };
    let told = mixed.open().err().expect("batches are missing").0;
    assert!(told.contains("is missing"), "{told}");
    assert!(told.contains("backup"), "{told}");
}

#[test]
fn what_a_failed_sync_left_unclear_is_written_again() {
    let world = World::default();
    let store = world.open().unwrap();
    store.apply(&[put(1)]).unwrap();
    world.disk.fail_next_sync();
    let told = store.sync().unwrap_err().0;
    assert!(told.contains("mend"), "{told}");
    let refused = [
        store.apply(&[put(2)]).unwrap_err(),
        store.sync().unwrap_err(),
        store.range(&everything()).unwrap_err(),
        store.maintain().unwrap_err(),
    ];
    for told in refused {
        assert!(told.0.contains("failed earlier"), "{told}");
    }
    store.reopen().unwrap();
    let found = all(&store);
    assert_eq!(found.len(), 1, "the bytes can be read");
    store.sync().unwrap();
    drop(store);
    let after = world.after(Crash::Power);
    assert_eq!(all(&after.open().unwrap()), found, "and are durable now");
}

#[test]
fn a_full_disk_refuses_in_time_and_takes_more_when_there_is_room() {
    let world = World::default();
    let store = world.open().unwrap();
    store.apply(&[put(0)]).unwrap();
    world.disk.set_capacity(Some(OPTIONS.segment_bytes));
    let mut applied = 1;
    let refused = loop {
        match store.apply(&[put(applied)]) {
            Ok(()) => applied += 1,
            Err(error) => break error.0,
        }
    };
    assert!(refused.contains("make room on the disk"), "{refused}");
    assert!(store.probe().is_err());
    assert_eq!(
        all(&store).len(),
        applied,
        "nothing is lost, and it can be read"
    );
    world.disk.set_capacity(None);
    store.probe().unwrap();
    store.apply(&[put(applied)]).unwrap();
    store.sync().unwrap();
    drop(store);
    let after = world.after(Crash::Power);
    assert_eq!(all(&after.open().unwrap()).len(), applied + 1);
}

#[test]
fn on_a_full_disk_what_is_deleted_makes_room() {
    let world = World::default();
    let store = world.open().unwrap();
    world.disk.set_capacity(Some(OPTIONS.segment_bytes));
    let mut applied = 0;
    while store.apply(&[put(applied)]).is_ok() {
        applied += 1;
    }
    assert!(store.probe().is_err());
    let everything = Op::DeleteRange {
        from: b"".to_vec(),
        to: b"~".to_vec(),
    };
    store.apply(&[everything]).unwrap();
    store.sync().unwrap();
    // Nobody made room but that.
    store.probe().unwrap();
    for again in 0..applied / 2 {
        store.apply(&[put(again)]).unwrap();
    }
    store.sync().unwrap();
    let found = all(&store);
    assert_eq!(found.len(), applied / 2);
    drop(store);
    assert_eq!(all(&world.after(Crash::Power).open().unwrap()), found);
}

#[test]
fn a_journal_of_one_file_that_is_gone_is_told() {
    let world = World::default();
    let store = world.open().unwrap();
    store.apply(&[put(1)]).unwrap();
    store.sync().unwrap();
    store.maintain().unwrap();
    drop(store);
    let names = world.disk.names();
    world.disk.delete(&names[0]);
    let told = world.open().err().expect("a batch is missing").0;
    let named = format!("{} is missing", names[0]);
    assert!(told.contains(&named), "{told}");
}

#[test]
fn a_full_disk_gets_room_from_the_segments_that_are_full() {
    for maintained in [false, true] {
        let world = World::default();
        let store = world.open().unwrap();
        world.disk.set_capacity(Some(2 * OPTIONS.segment_bytes));
        for number in 0..1_000 {
            store.apply(&[put(number)]).unwrap();
            // Until there is a full one, beside the one in use.
            if maintained && world.disk.names().len() == 2 {
                store.maintain().unwrap();
            }
        }
        assert_eq!(all(&store).len(), 1_000);
    }
}

#[test]
fn files_and_memory_are_bounded_whether_somebody_maintains_or_not() {
    for maintained in [false, true] {
        let world = World::default();
        let store = world.open().unwrap();
        let held = world.disk.holders();
        for number in 0..2_000 {
            store.apply(&[put(number % 100)]).unwrap();
            if maintained && number % 10 == 0 {
                store.maintain().unwrap();
            }
            let files = world.disk.names().len();
            assert!(
                files <= 1 + OPTIONS.frozen_max + OPTIONS.spares_min,
                "{files}"
            );
            // No sync is ever asked for, and what is removed is let go of all the same.
            assert_eq!(world.disk.holders() - held, files);
        }
        store.maintain().unwrap();
        assert_eq!(world.disk.names().len(), 1 + OPTIONS.spares_min);
        assert_eq!(all(&store).len(), 100);
    }
}

#[test]
fn a_batch_longer_than_a_segment_gets_one_of_its_own() {
    let world = World::default();
    let store = world.open().unwrap();
    store.apply(&[put(1)]).unwrap();
    store.maintain().unwrap();
    let long = Op::Put {
        key: b"long".to_vec(),
        value: vec![b'x'; 3 * OPTIONS.segment_bytes as usize],
    };
    store.apply(&[long]).unwrap();
    store.apply(&[put(2)]).unwrap();
    store.sync().unwrap();
    let found = all(&store);
    assert_eq!(found.len(), 3);
    drop(store);
    assert_eq!(all(&world.after(Crash::Power).open().unwrap()), found);
}

#[test]
fn nobody_waits_for_a_sync_that_runs_but_who_asked_for_it() {
    let world = World::default();
    let store = Arc::new(world.open().unwrap());
    store.apply(&[put(1)]).unwrap();
    world.disk.close_gate();
    let syncing = thread::spawn({
        let store = Arc::clone(&store);
        move || store.sync()
    });
    world.disk.wait_for_a_sync();
    let (told, heard) = mpsc::channel();
    let writing = thread::spawn({
        let store = Arc::clone(&store);
        move || {
            store.apply(&[put(2)]).unwrap();
            told.send(all(&*store).len()).unwrap();
        }
    });
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(2));
    world.disk.open_gate();
    syncing.join().unwrap().unwrap();
    writing.join().unwrap();
    // It said nothing about what came while it ran.
    let steps = world.disk.steps();
    store.sync().unwrap();
    assert!(world.disk.steps() > steps);
}

#[test]
fn what_is_durable_is_told_when_it_is_and_not_before() {
    let world = World::default();
    let store = Arc::new(world.open().unwrap());
    store.apply(&[put(1)]).unwrap();
    world.disk.close_gate();
    let (told, heard) = mpsc::channel();
    let sync = {
        let store = Arc::clone(&store);
        move || store.sync_and(&mut || told.send(()).unwrap())
    };
    let syncing = thread::spawn(move || sync().and_then(|()| sync()));
    world.disk.wait_for_a_sync();
    heard.try_recv().unwrap_err();
    world.disk.open_gate();
    syncing.join().unwrap().unwrap();
    // The second found nothing to do, which is told as well.
    assert_eq!(heard.iter().count(), 2);
}

/// One change that is made durable, and another that comes while that is being done.
fn overtaken(world: &World, second: Op) -> Arc<JournaledStore> {
    let store = Arc::new(world.open().unwrap());
    store.apply(&[put(1)]).unwrap();
    // A segment that is made now would have to be synced too.
    store.maintain().unwrap();
    world.disk.close_gate();
    let syncing = thread::spawn({
        let store = Arc::clone(&store);
        move || store.sync()
    });
    world.disk.wait_for_a_sync();
    store.apply(&[second]).unwrap();
    world.disk.open_gate();
    syncing.join().unwrap().unwrap();
    store
}

#[test]
fn a_damage_to_what_was_durable_is_told_also_where_a_sync_was_overtaken() {
    let world = World::default();
    drop(overtaken(&world, put(2)));
    let name = world.disk.names().remove(0);
    let mut bytes = world.disk.bytes(&name);
    bytes[super::segment::HEADER_BYTES] ^= 1;
    world.disk.replace(&name, bytes);
    let told = world.open().err().expect("damage was taken").0;
    assert!(told.contains("is damaged at byte 40:"), "{told}");
}

#[test]
fn what_says_that_records_are_durable_fits_into_their_segment() {
    // As much as fits into what is left of the first segment, or into an empty one, and less.
    for left in 224..384 {
        let world = World::default();
        let second = Op::Put {
            key: b"second".to_vec(),
            value: vec![b'x'; OPTIONS.segment_bytes as usize - left],
        };
        let store = overtaken(&world, second);
        store.sync().unwrap();
        let found = all(&*store);
        drop(store);
        let after = world.after(Crash::Power).open().unwrap();
        assert_eq!(all(&after), found);
        assert_eq!(after.recovery().cut, None);
        for name in world.disk.names() {
            let bytes = world.disk.bytes(&name);
            let size_bytes = bytes[24..32].try_into().map(u64::from_le_bytes).unwrap();
            assert_eq!(bytes.len() as u64, size_bytes, "{left} left");
        }
    }
}

#[test]
fn what_a_client_wrote_is_never_taken_for_a_record() {
    // The bytes of a record that claims that everything was durable, in a batch that a crash tore.
    let mut forged = super::segment::encode(&[put(9)]).unwrap();
    super::segment::seal(&mut forged, 0, u64::MAX - 1, u64::MAX - 1);
    let world = World::default();
    let store = world.open().unwrap();
    store.apply(&[put(1)]).unwrap();
    store.sync().unwrap();
    let value = [forged.as_slice(); 9].concat();
    let key = b"forged".to_vec();
    store.apply(&[Op::Put { key, value }]).unwrap();
    drop(store);
    let name = world.disk.names().remove(0);
    let mut bytes = world.disk.bytes(&name);
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[last] ^= 1;
    world.disk.replace(&name, bytes);
    let store = world.open().unwrap();
    assert!(store.recovery().cut.is_some());
    assert_eq!(all(&store).len(), 1);
}
