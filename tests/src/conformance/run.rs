//! Runs a scenario on the native core, as a host with a store in memory would.

use std::collections::VecDeque;

use dunlin_core::{
    Claims, ConnectionId, Durability, Effect, Encoding, Input, LoadFailed, Row, Ticket, Timestamp,
    WriteSequence, abi,
};
use dunlin_host::{Engine as _, EngineError, NativeEngine};

use super::diff::diff;
use super::keys::key_text;
use super::render::{Encodings, Output};
use super::scenario::{Action, Failure, Scenario, UPDATE_VARIABLE};
use super::trace::{Trace, TraceStep};
use crate::codec::command_bytes;
use crate::rows::Rows;

/// When scenarios begin, unless they say otherwise.
const NOW: u64 = 1000;
/// So many loads after one line, and the broker asks without end.
const LOADS_MAX: usize = 10_000;
/// A batch that no host makes: an input of one byte, of a kind that there is not.
const NO_BATCH: [u8; 2] = [1, 0];

const NO_BROKER: &str =
    "the broker refused its configuration or rows, so there is none: `restart` it";

/// What a run gave.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What follows from each line of the scenario.
    pub effects: Vec<Vec<String>>,
    /// What crossed the engine's boundary.
    pub trace: Trace,
    /// What is stored at the end.
    pub rows: Vec<Row>,
}

impl Outcome {
    /// Compares with what the file expects; the error shows every line whose effects differ.
    pub fn check(&self, scenario: &Scenario) -> Result<(), String> {
        let mut failures = String::new();
        for (line, effects) in scenario.lines.iter().zip(&self.effects) {
            if line.expected != *effects {
                let path = scenario.path.display();
                let text = &line.text;
                let lines = diff(&line.expected, effects);
                failures.push_str(&format!("{path}:{}: after `{text}`{lines}\n", line.number));
            }
        }
        if failures.is_empty() {
            return Ok(());
        }
        failures.push_str(&format!(
            "(- expected, + happened; `{UPDATE_VARIABLE}=1` writes what happened into the file)\n"
        ));
        Err(failures)
    }
}

/// Runs a scenario. The error is a mistake in the file, or something that no broker may do whatever is expected.
pub fn run(scenario: &Scenario) -> Result<Outcome, Failure> {
    let mut world = World::new(scenario.name());
    let mut effects = Vec::new();
    for line in &scenario.lines {
        let Some(action) = &line.action else {
            effects.push(Vec::new());
            continue;
        };
        let done = world.act(line.number, action);
        effects.push(done.map_err(|message| Failure {
            path: scenario.path.clone(),
            line: line.number,
            message,
        })?);
    }
    let (trace, rows) = world.end();
    Ok(Outcome {
        effects,
        rows,
        trace,
    })
}

#[derive(Default)]
pub(super) struct World {
    /// The line of the scenario.
    line: usize,
    config: String,
    /// Set by a scenario for the next start.
    seed: Option<u64>,
    last_seed: u64,
    pub(super) now: u64,
    engine: Option<NativeEngine>,
    /// Whether the broker refused its configuration or rows, after which there is none to talk to.
    refused: bool,
    rows: Rows,
    inputs: Vec<u8>,
    /// The connections that the broker has not closed.
    pub(super) open: Encodings,
    written: WriteSequence,
    synced: WriteSequence,
    /// Whether the store takes no writes.
    unavailable: bool,
    holding: bool,
    pub(super) loads: VecDeque<Load>,
    out: Vec<String>,
    trace: Trace,
}

pub(super) struct Load {
    ticket: Ticket,
    from: Vec<u8>,
    to: Vec<u8>,
    reverse: bool,
    rows_max: u32,
    bytes_max: u32,
}

impl World {
    pub(super) fn new(name: String) -> Self {
        Self {
            config: "{}".to_owned(),
            now: NOW,
            trace: Trace {
                name,
                ..Trace::default()
            },
            ..Self::default()
        }
    }

    /// Everything that crossed the boundary, and what is stored.
    pub(super) fn end(mut self) -> (Trace, Vec<Row>) {
        let rows = self.rows.all();
        self.trace.steps.push(TraceStep::Stored {
            line: self.line,
            rows: rows_bytes(&rows),
        });
        (self.trace, rows)
    }

    /// Does what a line says, and says what follows.
    pub(super) fn act(&mut self, line: usize, action: &Action) -> Result<Vec<String>, String> {
        self.line = line;
        self.obey(action)?;
        Ok(core::mem::take(&mut self.out))
    }

    fn obey(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Config(config) => self.config.clone_from(config),
            Action::Seed(seed) => self.seed = Some(*seed),
            Action::At(now) => self.now = *now,
            Action::Connect(connection, encoding, claims, ip) => {
                self.connect(*connection, *encoding, claims, ip)?;
            }
            Action::Client(connection, encoding, claims, ip) => {
                self.connect(*connection, *encoding, claims, ip)?;
                let hello = r#"{"type":"hello","version":1}"#.to_owned();
                let bytes = command_bytes(*encoding, &[hello])?;
                self.frame(*connection, &bytes)?;
                self.step()?;
                let welcome = format!("send {} {{\"type\":\"hello\"", connection.0);
                let sent = core::mem::take(&mut self.out);
                if !sent.iter().any(|line| line.starts_with(&welcome)) {
                    return Err(format!("the client is not welcomed but gets {sent:?}"));
                }
            }
            Action::Send(connection, frames) => {
                let encoding = self.trace.encodings.get(connection).copied();
                let encoding = encoding.ok_or_else(|| {
                    format!("the connection {} was never connected", connection.0)
                })?;
                let bytes = command_bytes(encoding, frames)?;
                self.frame(*connection, &bytes)?;
            }
            Action::Raw(connection, bytes) => self.frame(*connection, bytes)?,
            Action::Disconnect(connection) => self.input(&Input::Disconnect {
                connection: *connection,
            })?,
            Action::Restored(connection, clean) => self.input(&Input::Restored {
                connection: *connection,
                clean: *clean,
            })?,
            Action::Seen(connection, at) => self.input(&Input::Seen {
                connection: *connection,
                at: Timestamp(at.unwrap_or(self.now)),
            })?,
            Action::Storage(available, latency) => {
                self.unavailable = !*available;
                self.input(&Input::Storage {
                    available: *available,
                    commit_latency_ms: *latency,
                })?;
            }
            Action::Drain => self.input(&Input::Drain)?,
            Action::Timeout => self.input(&Input::Timeout)?,
            Action::Flush => {
                self.step()?;
                self.answer_all()?;
            }
            Action::Hold => self.holding = true,
            Action::Release => {
                self.holding = false;
                self.answer_all()?;
            }
            Action::ReleaseOne => self.answer(false)?,
            Action::FailLoad => self.answer(true)?,
            Action::Sync => self.sync(),
            Action::Restart => self.restart()?,
            Action::Crash => {
                self.change_rows(Rows::crash);
                self.restart()?;
            }
            Action::Trap => self.trap()?,
            Action::Damage(key, value) => {
                let found = self
                    .rows
                    .keys()
                    .find(|other| key_text(other) == *key)
                    .cloned();
                let found = found.ok_or_else(|| {
                    let keys: Vec<String> = self.rows.keys().map(|key| key_text(key)).collect();
                    format!("no row `{key}` is stored; there are {}", keys.join(", "))
                })?;
                self.change_rows(|rows| rows.damage(&found, value.as_deref()));
            }
            Action::Stats(names) => self.stats(names)?,
        }
        Ok(())
    }

    fn connect(
        &mut self,
        connection: ConnectionId,
        encoding: Encoding,
        claims: &Claims,
        ip: &[u8],
    ) -> Result<(), String> {
        self.open.insert(connection, encoding);
        self.trace.encodings.insert(connection, encoding);
        self.input(&Input::Connect {
            connection,
            encoding,
            claims: claims.clone(),
            ip: ip.to_vec(),
        })
    }

    fn frame(&mut self, connection: ConnectionId, bytes: &[u8]) -> Result<(), String> {
        self.input(&Input::Frame { connection, bytes })
    }

    fn input(&mut self, input: &Input<'_>) -> Result<(), String> {
        self.engine()?;
        abi::encode_input(input, &mut self.inputs);
        Ok(())
    }

    fn engine(&mut self) -> Result<&mut NativeEngine, String> {
        if self.engine.is_none() {
            if self.refused {
                return Err(NO_BROKER.to_owned());
            }
            self.start()?;
        }
        self.engine.as_mut().ok_or_else(|| NO_BROKER.to_owned())
    }

    fn start(&mut self) -> Result<(), String> {
        let seed = self.seed.take().unwrap_or(self.last_seed + 1);
        self.last_seed = seed;
        self.written = WriteSequence(0);
        self.synced = WriteSequence(0);
        self.unavailable = false;
        self.loads.clear();
        self.inputs.clear();
        let started = NativeEngine::start(&self.config, seed);
        let refusal = match &started {
            Err(EngineError::Config(text)) => Some(text.clone()),
            _ => None,
        };
        self.trace.steps.push(TraceStep::Start {
            line: self.line,
            config: self.config.clone(),
            seed,
            refusal: refusal.clone(),
        });
        if let Some(text) = refusal {
            return self.refuse(&text);
        }
        let mut engine = started.map_err(|error| error.to_string())?;
        let rows = rows_bytes(&self.rows.state());
        let mut refusal = None;
        if !rows.is_empty() {
            match engine.restore(&rows) {
                Ok(()) => {}
                Err(EngineError::Restore(text)) => refusal = Some(text),
                Err(error) => return Err(error.to_string()),
            }
            self.trace.steps.push(TraceStep::Restore {
                line: self.line,
                rows,
                refusal: refusal.clone(),
            });
        }
        match refusal {
            None => self.engine = Some(engine),
            Some(text) => self.refuse(&text)?,
        }
        Ok(())
    }

    fn refuse(&mut self, text: &str) -> Result<(), String> {
        self.refused = true;
        self.out.push(format!("refused {text}"));
        Ok(())
    }

    fn restart(&mut self) -> Result<(), String> {
        self.engine = None;
        self.refused = false;
        self.start()
    }

    fn trap(&mut self) -> Result<(), String> {
        let now = self.now;
        match self.engine()?.step(Timestamp(now), &NO_BATCH) {
            Err(EngineError::Trap(_)) => {}
            other => return Err(format!("the engine did not trap but gave {other:?}")),
        }
        self.trace.steps.push(TraceStep::Trap {
            line: self.line,
            now,
            inputs: NO_BATCH.to_vec(),
        });
        self.restart()
    }

    /// Changes what is stored, without the broker's doing.
    fn change_rows(&mut self, change: impl FnOnce(&mut Rows)) {
        let before = self.rows.clone();
        change(&mut self.rows);
        for (key, value) in self.rows.changes_since(&before) {
            self.trace.steps.push(TraceStep::Change {
                line: self.line,
                key,
                value,
            });
        }
    }

    /// Gives the batch to the broker and obeys.
    fn step(&mut self) -> Result<(), String> {
        let now = self.now;
        let inputs = core::mem::take(&mut self.inputs);
        let output = self
            .engine()?
            .step(Timestamp(now), &inputs)
            .map_err(|error| error.to_string())?
            .to_vec();
        let decoded = Output::decode(&output)?;
        self.trace.steps.push(TraceStep::Step {
            line: self.line,
            now,
            inputs,
            output,
        });
        self.out.extend(decoded.lines(&self.open)?);
        let mut closed = Vec::new();
        let mut wanted = WriteSequence(0);
        for effect in &decoded.effects {
            match effect {
                Effect::Write {
                    sequence,
                    durability,
                    ops,
                } => {
                    if sequence.0 != self.written.0 + 1 {
                        return Err(format!(
                            "write {} follows write {}",
                            sequence.0, self.written.0
                        ));
                    }
                    self.written = *sequence;
                    self.rows.apply(ops);
                    if *durability == Durability::Sync {
                        wanted = *sequence;
                    }
                }
                Effect::Load {
                    ticket,
                    from,
                    to,
                    reverse,
                    rows_max,
                    bytes_max,
                } => self.loads.push_back(Load {
                    ticket: *ticket,
                    from: from.clone(),
                    to: to.clone(),
                    reverse: *reverse,
                    rows_max: *rows_max,
                    bytes_max: *bytes_max,
                }),
                Effect::Send { after, .. } => {
                    // While the store takes nothing, the next write waits with what it will store.
                    let next = WriteSequence(self.written.0 + u64::from(self.unavailable));
                    if after.applied.max(after.synced) > next {
                        return Err("a send waits for a write that nobody made".to_owned());
                    }
                    wanted = wanted.max(after.synced);
                }
                Effect::Close { connection, .. } => closed.push(*connection),
                Effect::Notify(_) => {}
            }
        }
        for connection in closed {
            self.open.remove(&connection);
        }
        if wanted > self.synced {
            self.sync();
        }
        Ok(())
    }

    /// Everything written so far is durable, as a host makes it when somebody waits for that.
    fn sync(&mut self) {
        self.synced = self.written;
        self.rows.sync();
    }

    fn answer_all(&mut self) -> Result<(), String> {
        for _ in 0..LOADS_MAX {
            if self.holding || self.loads.is_empty() {
                return Ok(());
            }
            self.answer(false)?;
        }
        Err("the broker asks for loads without end".to_owned())
    }

    fn answer(&mut self, fail: bool) -> Result<(), String> {
        let load = self.loads.pop_front().ok_or("no load is under way")?;
        let range = (load.from.as_slice(), load.to.as_slice());
        let rows = self
            .rows
            .load(range, load.reverse, load.rows_max, load.bytes_max);
        let ticket = load.ticket;
        self.out.push(match (fail, rows.len()) {
            (true, _) => format!("-- load {} fails", ticket.0),
            (false, 1) => format!("-- load {} gives 1 row", ticket.0),
            (false, count) => format!("-- load {} gives {count} rows", ticket.0),
        });
        let result = if fail { Err(LoadFailed) } else { Ok(rows) };
        self.input(&Input::Loaded { ticket, result })?;
        self.step()
    }

    fn stats(&mut self, names: &[String]) -> Result<(), String> {
        let json = self.engine()?.stats().map_err(|error| error.to_string())?;
        let stats: serde_json::Value = serde_json::from_str(&json)
            .map_err(|error| format!("the counters are not JSON: {error}: {json}"))?;
        for name in names {
            let value = name
                .split('.')
                .try_fold(&stats, |value, part| value.get(part))
                .ok_or_else(|| format!("there is no counter `{name}` in {json}"))?;
            self.out.push(format!("{name} {value}"));
        }
        self.trace.steps.push(TraceStep::Stats {
            line: self.line,
            json,
        });
        Ok(())
    }
}

/// Rows as the engine takes them: keys and values, each with its length as a varint in front.
fn rows_bytes(rows: &[Row]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in rows.iter().flat_map(|row| [&row.key, &row.value]) {
        let mut length = part.len();
        while length >= 0x80 {
            bytes.push((length as u8) | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend_from_slice(part);
    }
    bytes
}
