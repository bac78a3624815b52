//! What a host may tell the broker.

use alloc::string::String;
use alloc::vec::Vec;

use crate::ids::{ConnectionId, Ticket, Timestamp};

/// One thing that happened outside. [`crate::Broker::handle`] takes it together with the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// A client was let in; its first frame must be `hello`.
    Connect {
        /// The host's number for it, not in use.
        connection: ConnectionId,
        /// Which of the two encodings its frames have.
        encoding: Encoding,
        /// Who it is and what it may do, as the host verified.
        claims: Claims,
        /// Its address in network order: 4 or 16 bytes, or empty where there is none.
        ip: Vec<u8>,
    },
    /// One message from a socket: one or more whole frames.
    Frame {
        /// The connection it came from; one that is not known is ignored.
        connection: ConnectionId,
        /// The message as received.
        bytes: &'a [u8],
    },
    /// The socket is gone.
    Disconnect {
        /// The connection that ended.
        connection: ConnectionId,
    },
    /// A socket outlived the previous incarnation (hibernation, trap). To be given before the first flush;
    /// connections that are not named by then are forgotten.
    Restored {
        /// The connection, by the number it was connected under.
        connection: ConnectionId,
        /// Whether everything that the previous incarnation sent is known to have left. If not, the client is
        /// asked to state its positions again.
        clean: bool,
    },
    /// A sign of life that did not wake the broker, or had come before this life: what a host knows of a connection
    /// that outlived the previous incarnation belongs before the first flush, else it counts as heard of then.
    Seen {
        /// The connection it came from.
        connection: ConnectionId,
        /// When it came.
        at: Timestamp,
    },
    /// The answer to a [`crate::Effect::Load`].
    Loaded {
        /// The load's ticket; one that is not known is ignored.
        ticket: Ticket,
        /// The rows in the order asked for, or that they could not be read.
        result: Result<Vec<Row>, LoadFailed>,
    },
    /// The state of the store. In front of a batch it holds for that batch already, elsewhere from the next one on.
    Storage {
        /// Whether writes can be made durable.
        available: bool,
        /// How long the newest commit took, in milliseconds.
        commit_latency_ms: u32,
    },
    /// Take nothing new, tell every client to go elsewhere, and close.
    Drain,
    /// The time of [`crate::Broker::poll_timeout`] has come. Early, late and repeated calls are harmless.
    Timeout,
}

/// Which of the two encodings of the protocol a connection speaks. See `PROTOCOL.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Compact; what the npm client speaks.
    Binary,
    /// One JSON object a line; for people and `curl`.
    Json,
}

/// What the host verified about a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The one namespace that the connection may see.
    pub namespace: String,
    /// The user, or empty.
    pub user: String,
    /// The user's device, or empty.
    pub device: String,
    /// What it may do.
    pub rights: Rights,
}

/// A set of permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights(pub u8);

impl Rights {
    /// May publish.
    pub const PUBLISH: Self = Self(1);
    /// May subscribe to what is published from now on.
    pub const SUBSCRIBE: Self = Self(2);
    /// May read what was published before.
    pub const HISTORY: Self = Self(4);
    /// May see who is present.
    pub const PRESENCE: Self = Self(8);
    /// May configure and delete topics.
    pub const MANAGE: Self = Self(16);
    /// May do everything in the namespace.
    pub const ALL: Self = Self(31);
    /// May create the namespace, set its quotas, delete it, and come in whatever they are.
    pub const OPERATE: Self = Self(32);

    /// Whether all of `wanted` is in this set.
    pub const fn contains(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }
}

/// A stored pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The whole key, as it was written.
    pub key: Vec<u8>,
    /// The value, as it was written.
    pub value: Vec<u8>,
}

/// The store could not answer a load; the reader is told `storage_unavailable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadFailed;
