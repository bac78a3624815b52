//! The time that the broker is told: wall time at the start plus what a monotonic clock counted since.

use core::time::Duration;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use dunlin_core::Timestamp;

/// A clock that never goes back, whatever somebody does to the machine's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started_at: Timestamp,
    started: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            started_at: Timestamp(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)),
            started: Instant::now(),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        let elapsed = self.started.elapsed().as_millis();
        self.started_at
            .after_ms(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    /// When `at` is; one that lies too far ahead for the monotonic clock never comes.
    pub(crate) fn instant(&self, at: Timestamp) -> Option<Instant> {
        self.started
            .checked_add(Duration::from_millis(at.since_ms(self.started_at)))
    }
}
