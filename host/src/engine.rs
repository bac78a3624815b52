//! What runs the broker: the guest module in wasmtime, or the core linked directly.
//!
//! Both take and give the bytes of `dunlin_core::abi`, so that everything above cannot tell them apart. After any
//! [`EngineError`] the engine is poisoned, would answer wrongly, and has to be dropped.

mod native;
mod wasm;

use core::fmt;
use std::sync::Arc;

use dunlin_core::Timestamp;

pub use native::NativeEngine;
pub use wasm::{GuestModule, WasmEngine};

/// One broker.
pub trait Engine: Send {
    /// Feeds stored rows (`abi::decode_rows`), in key order, before the first step.
    fn restore(&mut self, rows: &[u8]) -> Result<(), EngineError>;

    /// Takes one batch of inputs (`abi::encode_input`), ends it, and gives the next timeout and the effects, in the
    /// bytes of `abi::step`.
    fn step(&mut self, now: Timestamp, inputs: &[u8]) -> Result<&[u8], EngineError>;

    /// Counters and gauges as JSON.
    fn stats(&mut self) -> Result<String, EngineError>;
}

/// Why an engine cannot be used any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineError {
    /// The configuration was refused; the text says which member and why.
    Config(String),
    /// The stored rows were refused; the text says which row and why.
    Restore(String),
    /// The guest trapped or the core panicked.
    Trap(String),
    /// The module is not a guest of this version.
    Module(String),
}

impl fmt::Display for EngineError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(text) => write!(out, "the configuration cannot be used: {text}"),
            Self::Restore(text) => write!(out, "the stored rows cannot be used: {text}"),
            Self::Trap(text) => write!(out, "the broker stopped on an internal fault: {text}"),
            Self::Module(text) => write!(out, "the guest module cannot be used: {text}"),
        }
    }
}

impl core::error::Error for EngineError {}

/// Which engine to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum EngineKind {
    /// The guest module in wasmtime: the very file that runs at the edge.
    #[default]
    Wasm,
    /// The core linked into this binary, for comparison and debugging.
    Native,
}

type Start = dyn Fn(u64) -> Result<Box<dyn Engine>, EngineError> + Send + Sync;

/// Starts engines of one kind with one configuration; a module is compiled once for all of them.
#[derive(Clone)]
pub struct Engines {
    start: Arc<Start>,
}

impl Engines {
    /// `config_json` is that of `dunlin_core::Broker::new`; it is tried out here, so that a wrong one is told at
    /// the start and nowhere else.
    pub fn new(kind: EngineKind, config_json: &str) -> Result<Self, EngineError> {
        let config_json = config_json.to_owned();
        let engines = match kind {
            EngineKind::Native => {
                Self::from_fn(move |seed| Ok(Box::new(NativeEngine::start(&config_json, seed)?)))
            }
            EngineKind::Wasm => {
                let guest = GuestModule::embedded()?;
                Self::from_fn(move |seed| Ok(Box::new(guest.start(&config_json, seed)?)))
            }
        };
        engines.start(0)?;
        Ok(engines)
    }

    /// Engines that `start` makes; what tests put faults into.
    pub fn from_fn(
        start: impl Fn(u64) -> Result<Box<dyn Engine>, EngineError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            start: Arc::new(start),
        }
    }

    /// A broker without rows. `seed` is fresh entropy.
    pub fn start(&self, seed: u64) -> Result<Box<dyn Engine>, EngineError> {
        (self.start)(seed)
    }
}
