//! Tests that hold dunlin's parts against each other, and against what they promise.

mod codec;
#[cfg(feature = "engines")]
pub mod conformance;
pub mod fuzz;
#[cfg_attr(
    not(feature = "engines"),
    expect(dead_code, reason = "scenarios do more with their rows than fuzzing")
)]
mod rows;
#[cfg(feature = "engines")]
pub mod sim;
