//! The state machine: takes inputs, and hands out effects at the end of a batch.

use alloc::collections::VecDeque;
use alloc::string::String;

use crate::effect::Effect;
use crate::ids::Timestamp;
use crate::input::{Input, Row};

/// The broker of any number of namespaces.
pub struct Broker {
    effects: VecDeque<Effect>,
}

/// The configuration cannot be used; the text says which member and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub String);

/// The stored rows cannot be used; the text says which row and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreError(pub String);

impl Broker {
    /// A broker with the given bounds: a JSON object, see `Config`; `{}` for the defaults. `seed` is fresh entropy.
    pub fn new(_config_json: &str, _seed: u64) -> Result<Self, ConfigError> {
        Ok(Self {
            effects: VecDeque::new(),
        })
    }
    /// Takes rows of the state ranges, in key order, before the first input; may be called any number of times.
    pub fn restore(&mut self, _rows: impl IntoIterator<Item = Row>) -> Result<(), RestoreError> {
        Ok(())
    }
    /// Takes one input. Panics if effects of the previous batch have not been drained.
    pub fn handle(&mut self, _now: Timestamp, _input: Input<'_>) {}
    /// Ends the batch; now its effects exist.
    pub fn flush(&mut self) {}
    /// The next effect, in order.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }
    /// When to give [`Input::Timeout`], if nothing else comes before.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        None
    }
    /// Counters and gauges as a JSON object.
    pub fn stats_json(&self) -> String {
        String::from("{}")
    }
}
