//! A connection: who is at the other end, and which of its commands wait.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::config::{Config, IDENTITY_BYTES_MAX};
use crate::context::Context;
use crate::deadline::Due;
use crate::echo::Source;
use crate::effect::After;
use crate::error::{ErrorCode, Refusal};
use crate::held::HeldCommand;
use crate::ids::{ConnectionId, ReplyTo, SubscriptionId, Timestamp};
use crate::input::{Claims, Encoding};
use crate::limit::TokenBucket;
use crate::outbox::ReplySlots;

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) namespace: u32,
    pub(crate) encoding: Encoding,
    pub(crate) claims: Claims,
    /// Where it comes from, as limits count it; empty where that is not known.
    pub(crate) network: Box<str>,
    /// What it may publish, where connections are limited.
    pub(crate) bucket: Option<Box<TokenBucket>>,
    /// Whose the messages are that it publishes, if it does not want to hear them itself.
    pub(crate) source: Option<Source>,
    /// Its device, once `hello` was said, if it has one that is remembered.
    pub(crate) device: Option<u32>,
    /// Whether `hello` was said.
    pub(crate) greeted: bool,
    /// Whether nothing of it is kept: it is gone with its first commands.
    pub(crate) ephemeral: bool,
    /// The subscriptions in the order of the client's numbers, with those of the namespace.
    pub(crate) subscriptions: Vec<(SubscriptionId, u32)>,
    /// The memberships of consumer groups: the client's number, group and member.
    pub(crate) memberships: Vec<(SubscriptionId, u32, u32)>,
    /// The topics that it is present on, and those whose presence it watches, with the client's numbers.
    pub(crate) places: Vec<Arc<str>>,
    pub(crate) watches: Vec<(SubscriptionId, Arc<str>)>,
    /// Publishes that wait, for a slow subscriber or for tokens, and those behind them, in order.
    pub(crate) held: VecDeque<HeldCommand>,
    /// The requests that wait for answers, by number.
    pub(crate) inquiries: Vec<ReplyTo>,
    pub(crate) replies: ReplySlots,
    /// What deliveries of subscriptions that ended have waited for, if any ended; a later one with the same number
    /// must not begin before they have left.
    pub(crate) ended: Option<After>,
    pub(crate) seen_at: Timestamp,
    /// When it is asked whether it was silent for too long, if it may not be.
    pub(crate) silent_at: Option<Timestamp>,
    /// Whether its row is in the store, and whether it must be written again.
    pub(crate) stored: bool,
    pub(crate) dirty: bool,
}

/// Refuses a user or a device that cannot be one. Both are empty where there is none.
pub(crate) fn check_identity(user: &str, device: &str) -> Result<(), Refusal> {
    let refuse = |why: String| Err(Refusal::new(ErrorCode::InvalidArgument, why));
    for (what, name) in [("user", user), ("device", device)] {
        if name.len() > IDENTITY_BYTES_MAX {
            return refuse(format!(
                "the {what} has {} bytes; use at most {IDENTITY_BYTES_MAX}",
                name.len()
            ));
        }
        if let Some(control) = name.chars().find(|letter| letter.is_control()) {
            return refuse(format!(
                "the {what} has the control character U+{:04X}; leave it out",
                u32::from(control)
            ));
        }
    }
    if user.is_empty() && !device.is_empty() {
        return refuse("a device is a user's; name the user too".into());
    }
    Ok(())
}

impl Connection {
    pub(crate) fn new(
        id: ConnectionId,
        namespace: u32,
        encoding: Encoding,
        claims: Claims,
        network: Box<str>,
        now: Timestamp,
    ) -> Self {
        Self {
            id,
            namespace,
            encoding,
            claims,
            network,
            bucket: None,
            source: None,
            device: None,
            greeted: false,
            ephemeral: false,
            subscriptions: Vec::new(),
            memberships: Vec::new(),
            places: Vec::new(),
            watches: Vec::new(),
            held: VecDeque::new(),
            inquiries: Vec::new(),
            replies: ReplySlots::default(),
            ended: None,
            seen_at: now,
            silent_at: None,
            stored: false,
            dirty: false,
        }
    }

    /// Whether it is that of a device which is to be remembered.
    pub(crate) fn has_device(&self) -> bool {
        !self.claims.user.is_empty() && !self.claims.device.is_empty() && !self.ephemeral
    }

    /// How long it may be silent, and what says so; `None` for as long as it likes.
    pub(crate) fn silence_ms(&self, config: &Config) -> Option<(u64, &'static str)> {
        let present = (!self.places.is_empty()).then_some((config.presence_ms, "presence_ms"));
        let any = (config.silent_ms > 0).then_some((config.silent_ms, "silent_ms"));
        present.into_iter().chain(any).min()
    }

    /// Whether the client's number is in use.
    pub(crate) fn has_subscription(&self, id: SubscriptionId) -> bool {
        self.subscription(id).is_some()
            || self.membership(id).is_some()
            || self.watches.iter().any(|(other, _)| *other == id)
    }

    /// Whether it is present on a topic.
    pub(crate) fn is_present(&self, topic: &str) -> bool {
        self.places.iter().any(|other| **other == *topic)
    }

    /// The group and member that a subscription is a membership of.
    pub(crate) fn membership(&self, id: SubscriptionId) -> Option<(u32, u32)> {
        let found = self.memberships.iter().find(|(other, ..)| *other == id);
        found.map(|(_, group, member)| (*group, *member))
    }

    /// The namespace's number of a subscription.
    pub(crate) fn subscription(&self, id: SubscriptionId) -> Option<u32> {
        let place = self.find_subscription(id).ok()?;
        Some(self.subscriptions[place].1)
    }

    /// Adds a subscription whose number is not in use.
    pub(crate) fn add_subscription(&mut self, id: SubscriptionId, index: u32) {
        if let Err(place) = self.find_subscription(id) {
            self.subscriptions.insert(place, (id, index));
        }
    }

    /// Forgets a subscription, and returns the namespace's number of it.
    pub(crate) fn remove_subscription(&mut self, id: SubscriptionId) -> Option<u32> {
        let place = self.find_subscription(id).ok()?;
        Some(self.subscriptions.remove(place).1)
    }

    fn find_subscription(&self, id: SubscriptionId) -> Result<usize, usize> {
        self.subscriptions.binary_search_by_key(&id, |(id, _)| *id)
    }
}

impl Context {
    /// Notes that a connection is not present on a topic any more.
    pub(crate) fn give_up_place(&mut self, index: u32, topic: &str) {
        let connection = &mut self.connections[index as usize];
        connection.places.retain(|other| **other != *topic);
        self.touch_connection(index);
        self.watch_silence(index);
    }

    /// Sets when a connection is asked whether it was silent for too long, or that it is not. What is heard of it
    /// meanwhile moves nothing: it counts when the time has come.
    pub(crate) fn watch_silence(&mut self, index: u32) {
        let connection = &self.connections[index as usize];
        let Some((silence_ms, _)) = connection.silence_ms(&self.config) else {
            return self.forget_silence(index);
        };
        // Nobody has said yet when one that outlived the previous life was heard of: asked when the batch ends.
        let at = match connection.seen_at {
            Timestamp(0) => self.now,
            seen_at => seen_at.after_ms(silence_ms),
        };
        if connection.silent_at.is_none_or(|earlier| at < earlier) {
            self.forget_silence(index);
            self.connections[index as usize].silent_at = Some(at);
            self.deadlines.insert((at, Due::Silent(index)));
        }
    }

    /// Does not ask any more.
    pub(crate) fn forget_silence(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        if let Some(at) = connection.silent_at.take() {
            self.deadlines.remove(&(at, Due::Silent(index)));
        }
    }
}
