//! What the clients of a world do: one file for each kind of use, with its commands, what it takes for the truth and
//! what it checks. A new kind is a file, a line in [`ALL`] and a variant of [`Order`].
//!
//! First, while things go wrong, commands are planned, and everything is checked as it is said and as it is heard. Then
//! nothing goes wrong any more, and every workload goes on until it has what it was promised.

pub(super) mod partitioned;
pub(super) mod presence;
pub(super) mod publish;
pub(super) mod queue;
pub(super) mod read;
pub(super) mod request;
pub(super) mod rules;
pub(super) mod schedule;
pub(super) mod session;
pub(super) mod subscribe;
pub(super) mod topics;
pub(super) mod transact;

use dunlin_core::frame::Reply;

use super::archive::Check;
use super::client::Client;
use super::command::{Order, Request};
use super::model::{Model, Step};
use super::plan::{Plan, TopicPlan};
use super::rng::Rng;

/// Every kind of use, with its share of what clients do. One may rest on what those above it were told in the same
/// step: where messages lie is known before who must get them.
pub(super) const ALL: &[(u64, &dyn Workload)] = &[
    (7, &topics::Topics),
    (40, &publish::Publishing),
    (6, &rules::Rules),
    (33, &subscribe::Subscribing),
    (16, &read::Reading),
    (24, &queue::Queues),
    (8, &transact::Transactions),
    (24, &partitioned::Partitioned),
    (10, &presence::Presence),
    (6, &schedule::Schedules),
    (12, &request::Requests),
    (4, &session::Session),
];

/// One kind of use. What it knows is in a field of [`Model`] (what the broker said) and of [`Client`] (what arrived).
pub(super) trait Workload: Sync {
    /// Something that the client does now, while things go wrong; nothing if it has no reason to.
    fn plan(&self, client: &mut Client, turn: &mut Turn<'_>) -> Vec<Order>;

    /// What the broker says in one step, checked before it leaves the host: the answers to these commands, and what
    /// nobody asked for.
    fn told(&self, model: &mut Model, step: &Step<'_>) -> Check;

    /// What a client hears after the network.
    fn heard(&self, _client: &mut Client, _model: &Model, _heard: &Heard<'_>) -> Check {
        Ok(())
    }

    /// The broker knows nothing of the client any more: its connection is gone, or it was told to begin again.
    fn forgotten(&self, _client: &mut Client) {}

    /// What a client says to go on with what it was doing before.
    fn resume(&self, _client: &mut Client) -> Vec<Order> {
        Vec::new()
    }

    /// What a client says, after the faults ended, so that everything that is owed to it comes.
    fn settle(&self, client: &mut Client) -> Vec<Order> {
        self.resume(client)
    }

    /// Whether there is nothing more that it would say then.
    fn is_settled(&self, _client: &Client) -> bool {
        true
    }

    /// Whether a client has everything, at the end.
    fn check(&self, _client: &Client, _model: &Model, _now: u64) -> Check {
        Ok(())
    }
}

/// What a client plans with.
pub(super) struct Turn<'a> {
    pub(super) rng: &'a mut Rng,
    pub(super) plan: &'a Plan,
    pub(super) model: &'a mut Model,
    pub(super) now: u64,
    /// The topic that it is about, if it is about one.
    pub(super) topic: TopicPlan,
    /// A number below the share of the workload, to choose among its commands.
    pub(super) roll: u64,
}

/// One frame that has arrived.
pub(super) struct Heard<'a> {
    pub(super) connection: u64,
    /// The life of the broker that sent it.
    pub(super) life: u64,
    pub(super) now: u64,
    pub(super) reply: &'a Reply<'a>,
    /// The command that it answers, if it answers one.
    pub(super) request: Option<&'a Request>,
}

/// Something for a client to do.
pub(super) fn plan(client: &mut Client, mut turn: Turn<'_>) -> Vec<Order> {
    turn.roll = turn.rng.below(ALL.iter().map(|(share, _)| share).sum());
    for (share, workload) in ALL {
        if turn.roll < *share {
            return workload.plan(client, &mut turn);
        }
        turn.roll -= share;
    }
    unreachable!("the roll is below the sum")
}
