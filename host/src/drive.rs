//! The host step: the same few lines on every runtime, without threads, sockets or clock.
//!
//! Inputs gather; [`Drive::step`] gives them to the engine as one batch and obeys the effects: Writes are applied in
//! their order, Loads are handed out, Sends and Closes leave through the [`Outbox`] once what they wait for holds.
//! It decides nothing about the broker. After any [`DriveError`] it must be dropped: what the engine knows and what
//! the store has may differ, so a new one is [restored](Drive::restore) from the store, which alone is right.

use core::fmt;
use std::collections::VecDeque;
use std::sync::Arc;

use dunlin_core::rows::{Scope, namespace_range, scope_of, state_range, store_range};
use dunlin_core::{
    After, CloseCode, ConnectionId, Durability, Effect, Event, Input, Reader, Row, Ticket,
    Timestamp, WriteSequence, abi,
};
use twox_hash::XxHash64;

use crate::engine::{Engine, EngineError};
use crate::store::{RangeRead, Store, StoreError};

/// The most bytes of inputs in one batch: the linear memory of an instance grows to hold it and never shrinks.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How much of the store one call of a restore carries.
const RESTORE_PAGE_BYTES: u32 = 1024 * 1024;

/// Where Sends and Closes go.
pub trait Outbox {
    /// One message, or a part of one: prefix and body are joined, and messages to one connection may be.
    fn send(&mut self, connection: ConnectionId, prefix: &[u8], body: &[u8]);
    /// The end of a connection.
    fn close(&mut self, connection: ConnectionId, code: CloseCode, reason: &str);
    /// Something an observer may care about.
    fn notify(&mut self, event: Event) {
        drop(event);
    }
}

/// Which namespaces a drive is for: those whose name hashes to `index` of `count`. The hash is fixed, but nothing
/// stored depends on it, so `count` may change with every start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardSpan {
    /// This shard.
    pub index: u32,
    /// All shards, at least 1.
    pub count: u32,
}

impl ShardSpan {
    /// The one shard that has everything.
    pub const ALL: Self = Self { index: 0, count: 1 };

    /// The shard of `namespace` among `count`.
    pub fn shard_of(namespace: &str, count: u32) -> u32 {
        let hash = XxHash64::oneshot(0, namespace.as_bytes());
        u32::try_from(hash % u64::from(count)).expect("a remainder is below its divisor")
    }

    fn has(self, namespace: &str) -> bool {
        Self::shard_of(namespace, self.count) == self.index
    }
}

/// One engine on its store.
pub struct Drive {
    engine: Box<dyn Engine>,
    store: Arc<dyn Store>,
    inputs: Vec<u8>,
    held: VecDeque<Held>,
    reached: After,
    sync_asked: WriteSequence,
}

/// A Send or Close that waits.
struct Held {
    after: After,
    effect: Effect,
}

/// What is left to do after a step.
#[derive(Debug, Default)]
pub struct Step {
    /// Answer each with [`Input::Loaded`].
    pub loads: Vec<Load>,
    /// Make the store durable, then call [`Drive::synced`].
    pub sync: Option<SyncWanted>,
    /// When to give [`Input::Timeout`], if nothing comes before.
    pub timeout: Option<Timestamp>,
}

/// Rows that the broker asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// To be given back with the answer.
    pub ticket: Ticket,
    /// Which rows.
    pub read: RangeRead,
}

/// A wish for durability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncWanted {
    /// The newest write that is applied; a sync begun now covers it.
    pub up_to: WriteSequence,
    /// Whether somebody waits for it; if not, it may be done together with others, within 100 ms.
    pub urgent: bool,
}

/// Why a drive must be dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriveError {
    /// The engine failed.
    Engine(EngineError),
    /// The store failed.
    Store(StoreError),
}

impl fmt::Display for DriveError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(error) => error.fmt(out),
            Self::Store(error) => error.fmt(out),
        }
    }
}

impl core::error::Error for DriveError {}

impl From<EngineError> for DriveError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<StoreError> for DriveError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Drive {
    /// A drive whose engine, which must be new, knows every stored row of the shard's namespaces.
    pub fn restore(
        engine: Box<dyn Engine>,
        store: Arc<dyn Store>,
        span: ShardSpan,
    ) -> Result<Self, DriveError> {
        let mut drive = Self {
            engine,
            store,
            inputs: Vec::new(),
            held: VecDeque::new(),
            reached: After::default(),
            sync_asked: WriteSequence(0),
        };
        drive.restore_range(store_range())?;
        // A first key longer than any namespace can be stands behind all of them.
        let (_, mut from) = store_range();
        let end = vec![0xff, 0xff];
        while let Some(row) = drive.first_row(&from, &end)? {
            match scope_of(&row.key) {
                Some(Scope::State(namespace) | Scope::Messages(namespace)) => {
                    if span.has(namespace) {
                        drive.restore_range(state_range(namespace))?;
                    }
                    from = namespace_range(namespace).1;
                }
                Some(Scope::Store) | None => {
                    return Err(DriveError::Store(StoreError(format!(
                        "the store has a key that no version has written: {:02x?}; restore it from a backup",
                        row.key
                    ))));
                }
            }
        }
        Ok(drive)
    }

    fn first_row(&self, from: &[u8], to: &[u8]) -> Result<Option<Row>, StoreError> {
        let read = RangeRead {
            from: from.to_vec(),
            to: to.to_vec(),
            reverse: false,
            rows_max: 1,
            bytes_max: 0,
        };
        Ok(self.store.range(&read)?.pop())
    }

    fn restore_range(&mut self, (from, to): (Vec<u8>, Vec<u8>)) -> Result<(), DriveError> {
        let mut read = RangeRead {
            from,
            to,
            reverse: false,
            rows_max: u32::MAX,
            bytes_max: RESTORE_PAGE_BYTES,
        };
        loop {
            let rows = self.store.range(&read)?;
            let mut bytes = Vec::new();
            for row in &rows {
                put_bytes(&row.key, &mut bytes);
                put_bytes(&row.value, &mut bytes);
            }
            // None at all tell that the range is at its end.
            self.engine.restore(&bytes)?;
            let Some(last) = rows.last() else {
                return Ok(());
            };
            read.from.clone_from(&last.key);
            read.from.push(0);
        }
    }

    /// Adds an input to the batch.
    pub fn input(&mut self, input: &Input<'_>) {
        abi::encode_input(input, &mut self.inputs);
    }

    /// How many bytes the batch has so far; at [`BATCH_BYTES_MAX`] it is time for a step.
    pub fn batch_bytes(&self) -> usize {
        self.inputs.len()
    }

    /// Gives the batch to the engine, also an empty one, and obeys.
    pub fn step(&mut self, now: Timestamp, outbox: &mut dyn Outbox) -> Result<Step, DriveError> {
        let output = self.engine.step(now, &self.inputs);
        let mut step = Step::default();
        let mut urgent = false;
        let mut wanted = WriteSequence(0);
        let mut effects = Reader::new(output?);
        let timeout = effects.u64().map_err(|_| garbled())?;
        step.timeout = (timeout != 0).then_some(Timestamp(timeout));
        // Whether the broker can sleep until then: this host has no need to.
        effects.u8().map_err(|_| garbled())?;
        while !effects.is_empty() {
            let effect = abi::decode_effect(&mut effects).map_err(|_| garbled())?;
            let after = match &effect {
                Effect::Write {
                    sequence,
                    durability,
                    ops,
                } => {
                    self.store.apply(ops)?;
                    self.reached.applied = *sequence;
                    urgent |= *durability == Durability::Sync;
                    if *durability > Durability::None {
                        wanted = *sequence;
                    }
                    continue;
                }
                Effect::Load {
                    ticket,
                    from,
                    to,
                    reverse,
                    rows_max,
                    bytes_max,
                } => {
                    step.loads.push(Load {
                        ticket: *ticket,
                        read: RangeRead {
                            from: from.clone(),
                            to: to.clone(),
                            reverse: *reverse,
                            rows_max: *rows_max,
                            bytes_max: *bytes_max,
                        },
                    });
                    continue;
                }
                Effect::Notify(event) => {
                    outbox.notify(event.clone());
                    continue;
                }
                Effect::Send { after, .. } => *after,
                Effect::Close { connection, .. } => waits_of(&self.held, *connection),
            };
            if holds(after, self.reached) {
                leave(&effect, outbox);
            } else {
                if after.synced > self.sync_asked {
                    urgent = true;
                    wanted = wanted.max(after.synced);
                }
                self.held.push_back(Held { after, effect });
            }
        }
        self.inputs.clear();
        if wanted > self.sync_asked || (urgent && wanted > self.reached.synced) {
            // What is only wanted soon is asked for as well; what waits is asked for again, urgently.
            if urgent {
                self.sync_asked = self.reached.applied;
            }
            step.sync = Some(SyncWanted {
                up_to: self.reached.applied,
                urgent,
            });
        }
        Ok(step)
    }

    /// The store is durable up to a write: what waited for it leaves.
    pub fn synced(&mut self, up_to: WriteSequence, outbox: &mut dyn Outbox) {
        self.reached.synced = self.reached.synced.max(up_to);
        let reached = self.reached;
        self.held.retain(|held| {
            let leaves = holds(held.after, reached);
            if leaves {
                leave(&held.effect, outbox);
            }
            !leaves
        });
    }

    /// Counters and gauges as JSON.
    pub fn stats(&mut self) -> Result<String, DriveError> {
        Ok(self.engine.stats()?)
    }
}

fn holds(after: After, reached: After) -> bool {
    after.applied <= reached.applied && after.synced <= reached.synced
}

/// What the held Sends to `connection` wait for: its Close goes behind them.
fn waits_of(held: &VecDeque<Held>, connection: ConnectionId) -> After {
    let to_it = held.iter().filter(|held| match &held.effect {
        Effect::Send { to, .. } => to.iter().any(|one| one.connection == connection),
        _ => false,
    });
    to_it.fold(After::default(), |after, held| after.and(held.after))
}

fn leave(effect: &Effect, outbox: &mut dyn Outbox) {
    match effect {
        Effect::Send {
            to, prefixes, body, ..
        } => {
            let mut start = 0;
            for recipient in to {
                let end = recipient.prefix_end as usize;
                outbox.send(recipient.connection, &prefixes[start..end], body);
                start = end;
            }
        }
        Effect::Close {
            connection,
            code,
            reason,
        } => outbox.close(*connection, *code, reason),
        Effect::Write { .. } | Effect::Load { .. } | Effect::Notify(_) => {
            unreachable!("only Sends and Closes wait")
        }
    }
}

fn garbled() -> DriveError {
    DriveError::Engine(EngineError::Trap(
        "its effects do not spell what this host reads; run `cargo xtask build`".to_owned(),
    ))
}

/// A varint length and the bytes, as `abi::decode_rows` reads them.
fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes.len();
    while rest >= 0x80 {
        out.push((rest as u8) | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use dunlin_core::{Op, Recipient};

    use super::*;
    use crate::store::MemoryStore;

    /// Says what it was told to say, and remembers what it was told.
    #[derive(Default)]
    struct Script {
        steps: VecDeque<Result<Vec<u8>, EngineError>>,
        last: Vec<u8>,
        restored: Arc<Mutex<Vec<u8>>>,
    }

    impl Script {
        fn of(steps: &[(u64, &[Effect])]) -> Self {
            let encoded = steps.iter().map(|(timeout, effects)| {
                assert!(*timeout < 0x80, "one byte");
                let mut out = vec![u8::try_from(*timeout).unwrap(), 1];
                for effect in *effects {
                    abi::encode_effect(effect, &mut out);
                }
                Ok(out)
            });
            Self {
                steps: encoded.collect(),
                ..Self::default()
            }
        }
    }

    impl Engine for Script {
        fn restore(&mut self, rows: &[u8]) -> Result<(), EngineError> {
            self.restored.lock().unwrap().extend_from_slice(rows);
            Ok(())
        }
        fn step(&mut self, _now: Timestamp, _inputs: &[u8]) -> Result<&[u8], EngineError> {
            self.last = self.steps.pop_front().expect("the script goes on")?;
            Ok(&self.last)
        }
        fn stats(&mut self) -> Result<String, EngineError> {
            Ok("{}".to_owned())
        }
    }

    #[derive(Default)]
    struct Log(Vec<String>);

    impl Outbox for Log {
        fn send(&mut self, connection: ConnectionId, prefix: &[u8], body: &[u8]) {
            let text = [prefix, body].concat();
            let text = String::from_utf8(text).unwrap();
            self.0.push(format!("{}<{text}", connection.0));
        }
        fn close(&mut self, connection: ConnectionId, code: CloseCode, reason: &str) {
            self.0.push(format!(
                "{} closed {} {reason}",
                connection.0,
                code.number()
            ));
        }
    }

    fn write(sequence: u64, durability: Durability) -> Effect {
        Effect::Write {
            sequence: WriteSequence(sequence),
            durability,
            ops: vec![Op::Put {
                key: b"\x01n\x00k".to_vec(),
                value: sequence.to_string().into_bytes(),
            }],
        }
    }

    fn send(applied: u64, synced: u64, to: &[(u64, &str)], body: &str) -> Effect {
        let mut prefixes = Vec::new();
        let mut recipients = Vec::new();
        for (connection, prefix) in to {
            prefixes.extend_from_slice(prefix.as_bytes());
            recipients.push(Recipient {
                connection: ConnectionId(*connection),
                prefix_end: u32::try_from(prefixes.len()).unwrap(),
            });
        }
        Effect::Send {
            after: After {
                applied: WriteSequence(applied),
                synced: WriteSequence(synced),
            },
            to: recipients,
            prefixes,
            body: body.as_bytes().to_vec(),
        }
    }

    fn drive(script: Script) -> Drive {
        let store = Arc::new(MemoryStore::default());
        Drive::restore(Box::new(script), store, ShardSpan::ALL).unwrap()
    }

    #[test]
    fn a_send_leaves_when_what_it_waits_for_holds() {
        let mut drive = drive(Script::of(&[(
            5,
            &[
                write(1, Durability::Async),
                send(1, 0, &[(7, "a"), (8, "bc")], "!"),
                write(2, Durability::Sync),
                send(2, 2, &[(7, "s")], "?"),
                send(0, 0, &[(7, "n")], "."),
            ],
        )]));
        let mut log = Log::default();
        let step = drive.step(Timestamp(1), &mut log).unwrap();
        assert_eq!(step.timeout, Some(Timestamp(5)));
        assert_eq!(
            step.sync,
            Some(SyncWanted {
                up_to: WriteSequence(2),
                urgent: true
            })
        );
        assert_eq!(log.0, ["7<a!", "8<bc!", "7<n."]);
        drive.synced(WriteSequence(1), &mut log);
        assert_eq!(log.0.len(), 3);
        drive.synced(WriteSequence(2), &mut log);
        assert_eq!(log.0[3..], ["7<s?"]);
    }

    #[test]
    fn a_close_leaves_after_the_sends_of_its_connection_and_no_later() {
        let close = |connection| Effect::Close {
            connection: ConnectionId(connection),
            code: CloseCode::Kicked,
            reason: "bye".to_owned(),
        };
        let mut drive = drive(Script::of(&[(
            0,
            &[
                write(1, Durability::Sync),
                send(1, 1, &[(7, "")], "last"),
                close(7),
                close(8),
            ],
        )]));
        let mut log = Log::default();
        drive.step(Timestamp(1), &mut log).unwrap();
        assert_eq!(log.0, ["8 closed 4003 bye"]);
        drive.synced(WriteSequence(1), &mut log);
        assert_eq!(log.0[1..], ["7<last", "7 closed 4003 bye"]);
    }

    #[test]
    fn only_what_somebody_waits_for_is_urgent() {
        let mut drive = drive(Script::of(&[
            (0, &[write(1, Durability::None)]),
            (0, &[write(2, Durability::Async)]),
            (0, &[send(2, 2, &[(1, "")], "x")]),
            (0, &[send(2, 2, &[(1, "")], "y")]),
        ]));
        let mut log = Log::default();
        let mut wishes = (0..4).map(|_| drive.step(Timestamp(1), &mut log).unwrap().sync);
        let wanted = |urgent| {
            Some(SyncWanted {
                up_to: WriteSequence(2),
                urgent,
            })
        };
        assert_eq!(wishes.next().unwrap(), None);
        assert_eq!(wishes.next().unwrap(), wanted(false));
        assert_eq!(wishes.next().unwrap(), wanted(true));
        // The second one rides on the sync that is under way.
        assert_eq!(wishes.next().unwrap(), None);
    }

    #[test]
    fn a_load_sees_the_writes_before_it() {
        let load = Effect::Load {
            ticket: Ticket(3),
            from: b"\x01n\x00".to_vec(),
            to: b"\x01n\x80".to_vec(),
            reverse: true,
            rows_max: 2,
            bytes_max: 10,
        };
        let mut drive = drive(Script::of(&[(0, &[write(1, Durability::None), load])]));
        let step = drive.step(Timestamp(1), &mut Log::default()).unwrap();
        assert_eq!(step.timeout, None);
        let load = &step.loads[0];
        assert_eq!(load.ticket, Ticket(3));
        let rows = drive.store.range(&load.read).unwrap();
        assert_eq!(rows[0].value, b"1");
    }

    #[test]
    fn a_restore_reads_the_state_of_its_own_namespaces_alone() {
        let store = MemoryStore::default();
        let names = ["a", "b", "longer", "z"];
        let put = |key: Vec<u8>| Op::Put {
            value: key.clone(),
            key,
        };
        let mut ops = vec![put(b"\x00own".to_vec())];
        for name in names {
            for table in [0x00, 0x7f, 0x80, 0xff] {
                let mut key = vec![u8::try_from(name.len()).unwrap()];
                key.extend_from_slice(name.as_bytes());
                key.push(table);
                ops.push(put(key));
            }
        }
        store.apply(&ops).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let mut seen = Vec::new();
        for index in 0..2 {
            let script = Script::default();
            let restored = Arc::clone(&script.restored);
            let span = ShardSpan { index, count: 2 };
            drop(Drive::restore(Box::new(script), Arc::clone(&store), span).unwrap());
            let bytes = restored.lock().unwrap().clone();
            for row in abi::decode_rows(&mut Reader::new(&bytes)).unwrap() {
                match scope_of(&row.key).unwrap() {
                    Scope::Store => {}
                    Scope::State(name) => {
                        assert_eq!(ShardSpan::shard_of(name, 2), index);
                        seen.push(name.to_owned());
                    }
                    Scope::Messages(name) => panic!("messages of {name} were restored"),
                }
            }
        }
        seen.sort();
        assert_eq!(
            seen,
            ["a", "a", "b", "b", "longer", "longer", "z", "z"].map(String::from)
        );
    }

    #[test]
    fn a_failed_engine_is_an_error() {
        let trap = EngineError::Trap("unreachable".to_owned());
        let mut script = Script::default();
        script.steps.push_back(Err(trap.clone()));
        script.steps.push_back(Ok(vec![0, 1, 9]));
        let mut drive = drive(script);
        let mut step = || drive.step(Timestamp(1), &mut Log::default()).unwrap_err();
        assert_eq!(step(), DriveError::Engine(trap));
        assert!(step().to_string().contains("cargo xtask build"));
    }
}
