//! The core linked directly.

use core::any::Any;
use core::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use dunlin_core::{Broker, Reader, Timestamp, abi};

use super::{Engine, EngineError};

/// The core, called as a library. A panic is caught and becomes a trap, as it would be in the guest.
pub struct NativeEngine {
    broker: Broker,
    output: Vec<u8>,
}

impl NativeEngine {
    /// A broker without rows.
    pub fn start(config_json: &str, seed: u64) -> Result<Self, EngineError> {
        let broker =
            Broker::new(config_json, seed).map_err(|error| EngineError::Config(error.0))?;
        Ok(Self {
            broker,
            output: Vec::new(),
        })
    }
}

impl Engine for NativeEngine {
    fn restore(&mut self, rows: &[u8]) -> Result<(), EngineError> {
        guarded(|| {
            let rows = abi::decode_rows(&mut Reader::new(rows)).expect("the rows are whole");
            self.broker.restore(rows)
        })?
        .map_err(|error| EngineError::Restore(error.0))
    }

    fn step(&mut self, now: Timestamp, inputs: &[u8]) -> Result<&[u8], EngineError> {
        guarded(|| {
            self.output.clear();
            abi::step(&mut self.broker, now, inputs, &mut self.output)
                .expect("the inputs are whole");
        })?;
        Ok(&self.output)
    }

    fn stats(&mut self) -> Result<String, EngineError> {
        guarded(|| self.broker.stats_json())
    }
}

/// The broker is never used again after an error, so no half-changed state is ever seen.
fn guarded<T>(body: impl FnOnce() -> T) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|panic| EngineError::Trap(panic_text(&*panic)))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a text").to_owned()
}
