//! Tests that hold dunlin's parts against each other, and against what they promise.

mod codec;
#[cfg(feature = "engines")]
pub mod conformance;
pub mod fuzz;
mod rows;
#[cfg(feature = "engines")]
pub mod sim;
