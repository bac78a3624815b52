//! What the broker asks a host to do, in order.

use alloc::string::String;
use alloc::vec::Vec;

use crate::ids::{ConnectionId, Ticket, WriteSequence};

/// One order to the host. Effects exist only after [`crate::Broker::flush`] and are drained before the next input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Apply these operations as one atomic batch, in the order of `sequence`; every later load sees them.
    Write {
        /// Dense, from 1 in every incarnation.
        sequence: WriteSequence,
        /// The strongest level that anything in the batch asks for.
        durability: Durability,
        /// At least one.
        ops: Vec<Op>,
    },
    /// Read rows and answer with [`crate::Input::Loaded`].
    Load {
        /// To be given back with the answer.
        ticket: Ticket,
        /// First key of the range.
        from: Vec<u8>,
        /// First key after the range.
        to: Vec<u8>,
        /// Whether the last rows of the range are wanted, last first.
        reverse: bool,
        /// At most this many rows.
        rows_max: u32,
        /// Stop after the row with which the values exceed this many bytes; the first row always counts as fitting.
        bytes_max: u32,
    },
    /// Send one message to each recipient once `after` holds: the recipient's prefix followed by `body`.
    Send {
        /// What it waits for.
        after: After,
        /// To whom, with what in front; the prefixes of all recipients stand one after the other in `prefixes`.
        to: Vec<Recipient>,
        /// The bytes that the recipients' prefixes are cut from.
        prefixes: Vec<u8>,
        /// What everybody gets.
        body: Vec<u8>,
    },
    /// Close the socket after the earlier sends to it have left, and forget the connection; no
    /// [`crate::Input::Disconnect`] is needed for it.
    Close {
        /// The connection.
        connection: ConnectionId,
        /// The WebSocket close code.
        code: CloseCode,
        /// A stable code and what happened, at most 123 bytes as RFC 6455 allows.
        reason: String,
    },
    /// Something an observer may care about. Nothing depends on it.
    Notify(Event),
}

/// One recipient of a [`Effect::Send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// The connection.
    pub connection: ConnectionId,
    /// Where its prefix ends in `prefixes`; it begins where the previous recipient's ends.
    pub prefix_end: u32,
}

/// How far the store must be before a send may leave. Zero asks for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct After {
    /// The write that must have been applied.
    pub applied: WriteSequence,
    /// The write that must be durable.
    pub synced: WriteSequence,
}

impl After {
    /// Waits for both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            applied: self.applied.max(other.applied),
            synced: self.synced.max(other.synced),
        }
    }
}

/// When a write survives a crash of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Whenever the store gets to it; a receipt waits for nothing.
    None,
    /// Within 100 ms; a receipt waits until it is applied.
    #[default]
    Async,
    /// Before the receipt leaves.
    Sync,
}

/// One operation on the ordered map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Set `key` to `value`.
    Put {
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
    },
    /// Remove `key`, which may be missing.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
    /// Remove every key of the range.
    DeleteRange {
        /// First key of the range.
        from: Vec<u8>,
        /// First key after the range.
        to: Vec<u8>,
    },
}

impl Op {
    /// The bytes of its keys and value.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Put { key, value } => key.len() + value.len(),
            Self::Delete { key } => key.len(),
            Self::DeleteRange { from, to } => from.len() + to.len(),
        }
    }
}

/// Why a socket is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCode {
    /// 1002: the bytes are not frames of this protocol.
    Protocol,
    /// 1009: the message is over the bound.
    TooLarge,
    /// 4001: the client may not be here.
    Unauthorised,
    /// 4002: the broker stops; connect again, elsewhere or later.
    GoingAway,
    /// 4003: an operator or the user ended it.
    Kicked,
    /// 4008: a limit or rule was broken.
    Policy,
}

impl CloseCode {
    /// The number on the wire.
    pub const fn number(self) -> u16 {
        match self {
            Self::Protocol => 1002,
            Self::TooLarge => 1009,
            Self::Unauthorised => 4001,
            Self::GoingAway => 4002,
            Self::Kicked => 4003,
            Self::Policy => 4008,
        }
    }
}

/// Something that happened, for observers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A topic came to be, by a command or by its first publish.
    TopicCreated {
        /// Its namespace.
        namespace: String,
        /// Its name.
        topic: String,
    },
    /// A topic and its messages were deleted.
    TopicDeleted {
        /// Its namespace.
        namespace: String,
        /// Its name.
        topic: String,
    },
    /// A group has as many dead letters as its configuration likes to hear of.
    DeadLettersAlert {
        /// Its namespace.
        namespace: String,
        /// Its name.
        group: String,
    },
    /// A stored row could not be understood while reading history; it was skipped and reported as a gap.
    RowUnreadable {
        /// Its namespace.
        namespace: String,
        /// Its topic.
        topic: String,
    },
}
