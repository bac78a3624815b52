//! Priorities: which message of a partition a queue deals out next.
//!
//! A message has a turn, the time at which it was published, which lies `priority_ageing_ms` later for every level
//! that its priority is below the highest. The earliest turn comes first, and of equal ones the lowest offset. So a
//! message goes before those of a lower priority that were published less than so much earlier for each level between
//! them: within a level the order is that of publishing, and one that waits is overtaken by nothing that was published
//! more than `priority_ageing_ms` after it for each level above its own. A turn never changes, so nothing has to be
//! looked at again as time passes.
//!
//! Where messages of a level lie, segments know (`log.rs`), and a queue reads those parts with a cursor for every
//! level. Of a log that never had a priority there is nothing of this.

use core::array;

use crate::cursor::Cursor;
use crate::ids::{Offset, Timestamp};
use crate::log::Log;
use crate::protocol::frame::Record;

/// The highest priority, and how many there are above 0.
pub(crate) const PRIORITY_MAX: u64 = 4;

/// The priority that a record was published with.
pub(crate) fn priority_of(record: &Record<'_>) -> u8 {
    record.priority.unwrap_or(0).min(PRIORITY_MAX) as u8
}

/// Which of the cursors reads that a queue has in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// What was never delivered, of all priorities that have no cursor of their own.
    Fresh,
    /// What was never delivered, of this priority above 0.
    Priority(u8),
    /// What was delivered before.
    Again,
}

impl Reading {
    /// Those of what was never delivered.
    pub(crate) const FRESH: [Self; 1 + PRIORITY_MAX as usize] = [
        Self::Fresh,
        Self::Priority(1),
        Self::Priority(2),
        Self::Priority(3),
        Self::Priority(4),
    ];

    /// The priority of what it reads.
    pub(crate) const fn priority(self) -> u8 {
        match self {
            Self::Priority(priority) => priority,
            Self::Fresh | Self::Again => 0,
        }
    }
}

/// A message's place in the order of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn {
    pub(crate) at: Timestamp,
    pub(crate) offset: Offset,
}

impl Turn {
    /// That of a message of a log without priorities, where the offset alone counts.
    pub(crate) const fn first(offset: Offset) -> Self {
        Self {
            at: Timestamp(0),
            offset,
        }
    }

    pub(crate) fn of(record: &Record<'_>, priority: u8, ageing_ms: u64) -> Self {
        let below = PRIORITY_MAX - u64::from(priority);
        Self {
            at: Timestamp(record.timestamp).after_ms(below.saturating_mul(ageing_ms)),
            offset: Offset(record.offset),
        }
    }
}

/// Where a queue looks for the next message of every priority.
pub(crate) struct Lanes {
    cursors: [Cursor; PRIORITY_MAX as usize],
    /// What was found, until it is dealt out: first that of priority 0.
    heads: [Option<Turn>; 1 + PRIORITY_MAX as usize],
}

impl Lanes {
    /// Lanes of a log everything below `floor` of which is done.
    pub(crate) fn new(log: &Log, floor: Offset) -> Self {
        Self {
            cursors: array::from_fn(|_| Cursor::eager(log, floor)),
            heads: [None; 1 + PRIORITY_MAX as usize],
        }
    }

    pub(crate) const fn cursors(&self) -> &[Cursor] {
        &self.cursors
    }

    /// The cursor of a priority above 0.
    pub(crate) const fn cursor_mut(&mut self, priority: u8) -> &mut Cursor {
        &mut self.cursors[priority as usize - 1]
    }

    /// The next message of a priority, as far as it is known.
    pub(crate) const fn head_mut(&mut self, priority: u8) -> &mut Option<Turn> {
        &mut self.heads[priority as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_overtaken_for_a_bounded_time() {
        let turn = |timestamp, priority: u64| {
            let record = Record {
                offset: timestamp,
                sequence: 1,
                timestamp,
                payload: b"",
                key: None,
                content_type: None,
                headers: None,
                id: None,
                expires_at: None,
                reply_to: None,
                priority: Some(priority),
            };
            Turn::of(&record, priority_of(&record), 1000)
        };
        for (first, second) in [
            // Within a level the order is that of publishing.
            ((1, 0), (2, 0)),
            ((1, 4), (2, 4)),
            // A level more goes before what is less than so much older.
            ((1999, 1), (1000, 0)),
            ((1000, 0), (2001, 1)),
            ((4999, 4), (1000, 0)),
            ((1000, 0), (5001, 4)),
            ((1000, 3), (2001, 4)),
            // What no client can say is the highest.
            ((4999, u64::MAX), (1000, 0)),
        ] {
            let (before, after) = (turn(first.0, first.1), turn(second.0, second.1));
            assert!(before < after, "{first:?} before {second:?}");
        }
    }
}
