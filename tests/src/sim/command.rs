//! What clients say, kept in a form that the model can reason about, and its bytes.

use dunlin_core::Durability;

use super::workload::{
    partitioned, presence, publish, queue, read, request, rules, schedule, session, subscribe,
    topics, transact,
};

/// One command, of the workload whose it is.
#[derive(Clone, Debug)]
pub(super) enum Order {
    Topics(topics::Order),
    Publish(publish::Order),
    Rules(rules::Order),
    Transact(transact::Order),
    Subscribe(subscribe::Order),
    Read(read::Order),
    Queue(queue::Order),
    Partitioned(partitioned::Order),
    Presence(presence::Order),
    Schedule(schedule::Order),
    Request(request::Order),
    Session(session::Order),
}

/// A command with its number.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) number: u64,
    pub(super) order: Order,
}

impl Request {
    /// Whether it changes what a topic is; such commands are given alone in a batch, so that the model need not
    /// guess in which order a batch was obeyed.
    pub(super) const fn changes_topics(&self) -> bool {
        matches!(self.order, Order::Topics(_))
    }

    /// Whether a reply will come even if all is well.
    pub(super) const fn wants_reply(&self) -> bool {
        match &self.order {
            Order::Subscribe(order) => !matches!(order, subscribe::Order::Credit { .. }),
            Order::Partitioned(order) => order.wants_reply(),
            _ => true,
        }
    }

    /// Appends the frame.
    pub(super) fn encode(&self, drafts: &[publish::Draft], out: &mut Vec<u8>) {
        match &self.order {
            Order::Topics(order) => order.encode(self.number, out),
            Order::Publish(order) => order.encode(self.number, drafts, out),
            Order::Rules(order) => order.encode(self.number, out),
            Order::Transact(order) => order.encode(self.number, drafts, out),
            Order::Subscribe(order) => order.encode(self.number, out),
            Order::Read(order) => order.encode(self.number, out),
            Order::Queue(order) => order.encode(self.number, out),
            Order::Partitioned(order) => order.encode(self.number, out),
            Order::Presence(order) => order.encode(self.number, out),
            Order::Schedule(order) => order.encode(self.number, out),
            Order::Request(order) => order.encode(self.number, drafts, out),
            Order::Session(order) => order.encode(self.number, out),
        }
    }
}

/// The word for a level on the wire.
pub(super) const fn word(level: Durability) -> &'static str {
    match level {
        Durability::None => "none",
        Durability::Async => "async",
        Durability::Sync => "sync",
    }
}
