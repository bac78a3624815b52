//! Scenarios: text files with what happens to one broker and what it must do about it, see [`Scenario`].
//!
//! A scenario is [run](`run`) on the native core, where its expectations are checked and everything that crosses the
//! engine's boundary is recorded as a [`Trace`]. Every other runtime replays the trace and must give the very same
//! bytes. So is a [stream] of random commands, which expects nothing but that.

mod diff;
mod keys;
mod render;
mod run;
mod scenario;
mod stream;
mod trace;

pub use run::{Outcome, run};
pub use scenario::{Action, Failure, Line, Scenario};
pub use stream::stream;
pub use trace::{Replay, Trace, TraceStep};
