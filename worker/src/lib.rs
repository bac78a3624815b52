//! The gateway at the edge: routing, tokens and the HTTP API in front of the objects that hold the brokers.
//!
//! It decides who may come in and turns requests into frames; it holds no state and knows no rule of the broker. What
//! needs the runtime stands in `entry`, `stream` and `archive`, everything else is plain Rust, tested natively.
#![cfg_attr(
    not(any(target_arch = "wasm32", test)),
    expect(dead_code, reason = "used at the edge")
)]

mod admission;
mod origins;
mod tokens;

#[cfg(target_arch = "wasm32")]
#[expect(unreachable_pub, reason = "what JavaScript calls must be public")]
mod archive;
#[cfg(target_arch = "wasm32")]
mod entry;
#[cfg(target_arch = "wasm32")]
#[expect(unreachable_pub, reason = "what JavaScript calls must be public")]
mod stream;
