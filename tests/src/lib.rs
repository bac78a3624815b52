//! Tests that hold dunlin's parts against each other.
//!
//! A scenario is a text file with what happens to one broker and what it must do about it, see [`Scenario`]. It is
//! run on the native core ([`run`]), where its expectations are checked and everything that crossed the engine's
//! boundary is recorded as a [`Trace`]. Every other runtime replays the trace and must give the very same bytes.

mod codec;
mod diff;
pub mod fuzz;
mod keys;
mod render;
mod rows;
mod run;
mod scenario;
pub mod sim;
mod trace;

pub use codec::{command_bytes, reply_lines};
pub use run::{Outcome, run};
pub use scenario::{Action, Failure, Line, Scenario};
pub use trace::{Replay, Trace, TraceStep};
