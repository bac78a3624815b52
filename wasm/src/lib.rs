//! The broker core for the npm package, through wasm-bindgen: inputs, effects and rows cross as bytes of
//! `dunlin_core::abi`, configuration and statistics as JSON, and what is wrong with them as a thrown `Error`.

#![cfg_attr(target_family = "wasm", no_std)]

extern crate alloc;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use dunlin_core::{Broker, Reader, Timestamp, abi};
use wasm_bindgen::prelude::{JsError, wasm_bindgen};

#[cfg(target_family = "wasm")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// A panic is a trap. Without the standard library nothing carries the texts that nobody could read here.
#[cfg(target_family = "wasm")]
#[panic_handler]
fn trap(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}

/// One broker in the page. It has exactly one owner on the TypeScript side, which frees it.
#[wasm_bindgen]
pub struct Engine {
    broker: Broker,
}

impl fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Engine").finish_non_exhaustive()
    }
}

#[wasm_bindgen]
impl Engine {
    /// A broker without any state. `config` is a JSON object, `seed` fresh entropy; throws what is wrong with `config`.
    #[wasm_bindgen(constructor)]
    pub fn new(config: &str, seed: u64) -> Result<Self, JsError> {
        match Broker::new(config, seed) {
            Ok(broker) => Ok(Self { broker }),
            Err(error) => Err(JsError::new(&error.0)),
        }
    }

    /// Feeds rows of the state, in key order, before the first step; throws what is wrong with them.
    pub fn restore(&mut self, rows: &[u8]) -> Result<(), JsError> {
        let rows = abi::decode_rows(&mut Reader::new(rows))
            .map_err(|_| JsError::new("the rows are not whole"))?;
        self.broker
            .restore(rows)
            .map_err(|error| JsError::new(&error.0))
    }

    /// Handles a batch of inputs at the time `now` (milliseconds) and returns its output. After an error the broker may
    /// have handled a part of them, and is to be dropped.
    pub fn step(&mut self, now: f64, inputs: &[u8]) -> Result<Vec<u8>, JsError> {
        let mut output = Vec::new();
        abi::step(&mut self.broker, Timestamp(now as u64), inputs, &mut output)
            .map_err(|_| JsError::new("the inputs are not whole"))?;
        Ok(output)
    }

    /// Counters and gauges as JSON.
    pub fn stats(&self) -> String {
        self.broker.stats_json()
    }
}
