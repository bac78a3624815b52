//! A connection: who is at the other end, and which of its commands wait.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::effect::After;
use crate::ids::{ConnectionId, SubscriptionId, Timestamp};
use crate::input::{Claims, Encoding};
use crate::outbox::ReplySlots;

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) namespace: u32,
    pub(crate) encoding: Encoding,
    pub(crate) claims: Claims,
    /// Whether `hello` was said.
    pub(crate) greeted: bool,
    /// Whether nothing of it is kept: it is gone with its first commands.
    pub(crate) ephemeral: bool,
    /// The subscriptions by the client's numbers, as the namespace numbers them.
    pub(crate) subscriptions: BTreeMap<SubscriptionId, u32>,
    /// Commands that wait for a slow subscriber, each until its deadline, in order.
    pub(crate) held: VecDeque<HeldCommand>,
    pub(crate) replies: ReplySlots,
    /// What deliveries of subscriptions that ended have waited for, if any ended; a later one with the same number
    /// must not begin before they have left.
    pub(crate) ended: Option<After>,
    pub(crate) seen_at: Timestamp,
    /// Whether its row is in the store, and whether it must be written again.
    pub(crate) stored: bool,
    pub(crate) dirty: bool,
}

/// A publish that waits.
#[derive(Debug)]
pub(crate) struct HeldCommand {
    pub(crate) deadline: Timestamp,
    /// The frame without its length.
    pub(crate) frame: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(
        id: ConnectionId,
        namespace: u32,
        encoding: Encoding,
        claims: Claims,
        now: Timestamp,
    ) -> Self {
        Self {
            id,
            namespace,
            encoding,
            claims,
            greeted: false,
            ephemeral: false,
            subscriptions: BTreeMap::new(),
            held: VecDeque::new(),
            replies: ReplySlots::default(),
            ended: None,
            seen_at: now,
            stored: false,
            dirty: false,
        }
    }
}
