//! The gateway at the edge: routing, tokens and the HTTP API in front of the objects that hold the brokers.

#[cfg(target_arch = "wasm32")]
mod entry;
