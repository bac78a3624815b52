//! The broker core for the npm package, through wasm-bindgen: frames cross as bytes.

use wasm_bindgen::prelude::wasm_bindgen;

/// One broker in the page. It has exactly one owner on the TypeScript side, which frees it.
#[wasm_bindgen]
#[derive(Debug, Default)]
pub struct Engine {}

#[wasm_bindgen]
impl Engine {
    /// An engine without any state.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a batch of inputs at the time `now` (milliseconds) and returns the batch of effects.
    pub fn step(&mut self, _now: f64, input: &[u8]) -> Vec<u8> {
        input.to_vec()
    }
}
