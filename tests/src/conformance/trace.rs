//! What crossed an engine's boundary in a run, to be replayed elsewhere byte for byte.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use dunlin_core::Timestamp;
use dunlin_host::{Engine, EngineError};
use serde_json::{Value, json};

use super::diff::diff;
use super::render::{Encodings, Output};

/// One run.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The scenario's name.
    pub name: String,
    /// What happened, in order.
    pub steps: Vec<TraceStep>,
    pub(crate) encodings: Encodings,
}

/// One call of the engine and what it gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceStep {
    /// Another broker begins.
    Start {
        /// The line of the scenario.
        line: usize,
        /// JSON.
        config: String,
        /// Entropy.
        seed: u64,
        /// What it says if it does not take the configuration.
        refusal: Option<String>,
    },
    /// It gets stored rows.
    Restore {
        /// The line of the scenario.
        line: usize,
        /// Rows, as the engine takes them.
        rows: Vec<u8>,
        /// What it says if it does not take them.
        refusal: Option<String>,
    },
    /// It gets a batch.
    Step {
        /// The line of the scenario.
        line: usize,
        /// The time.
        now: u64,
        /// Inputs, as the engine takes them.
        inputs: Vec<u8>,
        /// Timeout and effects, as the engine gives them.
        output: Vec<u8>,
    },
    /// It gets a batch that no host makes, and traps.
    Trap {
        /// The line of the scenario.
        line: usize,
        /// The time.
        now: u64,
        /// What is no batch.
        inputs: Vec<u8>,
    },
    /// It tells its counters.
    Stats {
        /// The line of the scenario.
        line: usize,
        /// JSON.
        json: String,
    },
    /// A stored row changes without the broker's doing: a crash took a write back, or the row was damaged.
    Change {
        /// The line of the scenario.
        line: usize,
        /// Its key.
        key: Vec<u8>,
        /// What is stored under it from now on, if anything is.
        value: Option<Vec<u8>>,
    },
    /// Everything that is stored.
    Stored {
        /// The line of the scenario.
        line: usize,
        /// Rows, as the engine takes them.
        rows: Vec<u8>,
    },
}

/// Starts an engine with a configuration and a seed.
pub type Replay<'a> = &'a dyn Fn(&str, u64) -> Result<Box<dyn Engine>, EngineError>;

impl Trace {
    /// Gives an engine the same calls; the error says which one it answered differently, and how.
    pub fn replay(&self, start: Replay<'_>) -> Result<(), String> {
        let mut engine: Option<Box<dyn Engine>> = None;
        for step in &self.steps {
            let fail = |what: String| format!("{}:{}: {what}", self.name, step.line());
            if let TraceStep::Start {
                config,
                seed,
                refusal,
                ..
            } = step
            {
                let got = match start(config, *seed) {
                    Ok(started) => {
                        engine = Some(started);
                        None
                    }
                    Err(EngineError::Config(refusal)) => Some(refusal),
                    Err(error) => return Err(fail(error.to_string())),
                };
                if got != *refusal {
                    return Err(fail(format!("a start gave {got:?} instead of {refusal:?}")));
                }
                continue;
            }
            let engine = engine.as_mut().expect("a trace begins with a start");
            self.replay_step(step, engine.as_mut()).map_err(fail)?;
        }
        Ok(())
    }

    fn replay_step(&self, step: &TraceStep, engine: &mut dyn Engine) -> Result<(), String> {
        match step {
            TraceStep::Start { .. } => unreachable!("a start makes another engine"),
            TraceStep::Restore { rows, refusal, .. } => {
                let got = match engine.restore(rows) {
                    Ok(()) => None,
                    Err(EngineError::Restore(refusal)) => Some(refusal),
                    Err(error) => return Err(error.to_string()),
                };
                if got != *refusal {
                    return Err(format!("a restore gave {got:?} instead of {refusal:?}"));
                }
            }
            TraceStep::Step {
                now,
                inputs,
                output,
                ..
            } => {
                let got = engine
                    .step(Timestamp(*now), inputs)
                    .map_err(|error| error.to_string())?;
                if got != output {
                    return Err(self.difference(output, got));
                }
            }
            TraceStep::Trap { now, inputs, .. } => match engine.step(Timestamp(*now), inputs) {
                Err(EngineError::Trap(_)) => {}
                other => return Err(format!("no trap but {other:?}")),
            },
            TraceStep::Stats { json, .. } => {
                let got = engine.stats().map_err(|error| error.to_string())?;
                if got != *json {
                    return Err(format!("the counters are {got} instead of {json}"));
                }
            }
            // Of the store, which is the business of replays that have one.
            TraceStep::Change { .. } | TraceStep::Stored { .. } => {}
        }
        Ok(())
    }

    fn difference(&self, expected: &[u8], got: &[u8]) -> String {
        let lines = |bytes: &[u8]| Output::decode(bytes)?.lines(&self.encodings);
        let told = match (lines(expected), lines(got)) {
            (Ok(expected), Ok(got)) if expected != got => diff(&expected, &got),
            (_, Err(error)) => error,
            _ => String::new(),
        };
        let at = expected
            .iter()
            .zip(got)
            .take_while(|(one, other)| one == other)
            .count();
        format!("the bytes differ from byte {at} on{told}")
    }

    /// As the replays in TypeScript read it.
    pub fn to_json(&self) -> Value {
        let base64 = |bytes: &[u8]| BASE64.encode(bytes);
        let steps = self.steps.iter().map(|step| match step {
            // 64 bits do not fit a number there.
            TraceStep::Start {
                line,
                config,
                seed,
                refusal,
            } => {
                json!({"kind": "start", "line": line, "config": config, "seed": seed.to_string(), "refusal": refusal})
            }
            TraceStep::Restore {
                line,
                rows,
                refusal,
            } => {
                json!({"kind": "restore", "line": line, "rows": base64(rows), "refusal": refusal})
            }
            TraceStep::Step {
                line,
                now,
                inputs,
                output,
            } => {
                json!({"kind": "step", "line": line, "now": now, "inputs": base64(inputs), "output": base64(output)})
            }
            TraceStep::Trap { line, now, inputs } => {
                json!({"kind": "trap", "line": line, "now": now, "inputs": base64(inputs)})
            }
            TraceStep::Stats { line, json } => {
                json!({"kind": "stats", "line": line, "json": json})
            }
            TraceStep::Change { line, key, value } => {
                let value = value.as_deref().map(base64);
                json!({"kind": "change", "line": line, "key": base64(key), "value": value})
            }
            TraceStep::Stored { line, rows } => {
                json!({"kind": "stored", "line": line, "rows": base64(rows)})
            }
        });
        json!({"name": self.name, "steps": steps.collect::<Vec<_>>()})
    }
}

impl TraceStep {
    /// The line of the scenario that made it.
    pub fn line(&self) -> usize {
        match self {
            Self::Start { line, .. } | Self::Restore { line, .. } | Self::Step { line, .. } => {
                *line
            }
            Self::Trap { line, .. } | Self::Stats { line, .. } => *line,
            Self::Change { line, .. } | Self::Stored { line, .. } => *line,
        }
    }
}
