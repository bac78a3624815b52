//! The core behind the host's own engine trait, with a tap on what it says.

use std::sync::{Arc, Mutex, PoisonError};

use dunlin_core::{Broker, Effect, Put as _, Reader, Timestamp, abi};
use dunlin_host::{Engine, EngineError};

/// What came out of the newest step.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) effects: Vec<Effect>,
    /// Whether the broker can be forgotten until its timeout.
    pub(super) can_sleep: bool,
}

#[derive(Debug, Default)]
pub(super) struct Tap(Arc<Mutex<Said>>);

impl Tap {
    pub(super) fn take(&self) -> Said {
        core::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(super) struct SimEngine {
    broker: Broker,
    said: Arc<Mutex<Said>>,
    output: Vec<u8>,
}

impl SimEngine {
    pub(super) fn new(config: &str, seed: u64) -> Result<(Self, Tap), String> {
        let broker = Broker::new(config, seed).map_err(|error| error.0)?;
        let tap = Tap::default();
        let engine = Self {
            broker,
            said: tap.0.clone(),
            output: Vec::new(),
        };
        Ok((engine, tap))
    }
}

impl Engine for SimEngine {
    fn restore(&mut self, rows: &[u8]) -> Result<(), EngineError> {
        let rows = abi::decode_rows(&mut Reader::new(rows)).expect("the rows are whole");
        self.broker
            .restore(rows)
            .map_err(|error| EngineError::Restore(error.0))
    }

    fn step(&mut self, now: Timestamp, inputs: &[u8]) -> Result<&[u8], EngineError> {
        let mut batch = Reader::new(inputs);
        while !batch.is_empty() {
            let input = abi::decode_input(&mut batch).expect("the inputs are whole");
            self.broker.handle(now, input);
        }
        self.broker.flush();
        self.output.clear();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.effects.clear();
        said.can_sleep = self.broker.can_sleep();
        let mut bytes = Vec::new();
        while let Some(effect) = self.broker.poll_effect() {
            abi::encode_effect(&effect, &mut bytes);
            said.effects.push(effect);
        }
        self.output
            .put_u64(self.broker.poll_timeout().map_or(0, |at| at.0));
        self.output.push(said.can_sleep.into());
        self.output.extend_from_slice(&bytes);
        #[cfg(feature = "check")]
        self.broker.check_invariants();
        Ok(&self.output)
    }

    fn stats(&mut self) -> Result<String, EngineError> {
        Ok(self.broker.stats_json())
    }
}
