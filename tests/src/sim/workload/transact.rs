//! Transactions: a member of a queue publishes what it makes of messages together with their acknowledgement, and now
//! and then does so again, as if it had not heard the reply.
//!
//! Where the messages go and what becomes of the leases is checked where messages and leases are, each as of one write,
//! so that a crash takes both or neither; what is sent again must find both.

use std::collections::VecDeque;

use dunlin_core::Durability;
use dunlin_core::frame::{Command, Lease, List, Transact};

use crate::sim::archive::Check;
use crate::sim::client::Client;
use crate::sim::command::{self, word};
use crate::sim::model::{Model, Step};
use crate::sim::plan::TopicPlan;

use super::publish::{self, Draft, draft};
use super::{Turn, Workload};

/// How many transactions a client remembers, to send them again.
const REMEMBERED_MAX: usize = 4;

#[derive(Clone, Debug)]
pub(in crate::sim) struct Order {
    pub(in crate::sim) messages: Vec<usize>,
    pub(in crate::sim) durability: Option<Durability>,
    pub(in crate::sim) leases: Vec<u64>,
}

impl Order {
    pub(in crate::sim) fn encode(&self, request: u64, drafts: &[Draft], out: &mut Vec<u8>) {
        let messages = publish::encode_messages(&self.messages, drafts);
        let mut leases = Vec::new();
        for lease in &self.leases {
            List::push(&mut leases, &Lease { lease: *lease });
        }
        Command::Transact(Transact {
            request,
            messages: Some(List::new(&messages)),
            leases: Some(List::new(&leases)),
            offsets: None,
            durability: self.durability.map(word),
            wait_ms: None,
        })
        .encode(out);
    }
}

/// A transaction that may be sent again: the topics and names of its messages.
#[derive(Clone, Debug)]
struct Sent {
    messages: Vec<(TopicPlan, String)>,
    leases: Vec<u64>,
}

/// What a client has sent.
#[derive(Debug, Default)]
pub(in crate::sim) struct Transacted(VecDeque<Sent>);

pub(super) struct Transactions;

impl Workload for Transactions {
    fn plan(&self, client: &mut Client, turn: &mut Turn<'_>) -> Vec<command::Order> {
        // Names of live topics are not remembered over crashes, so there nobody could tell what was done before.
        let topics = turn.plan.topics.iter();
        let stored = |topic: &&TopicPlan| topic.wish.kind != Some("live");
        let topics: Vec<TopicPlan> = topics.filter(stored).cloned().collect();
        if topics.is_empty() {
            return Vec::new();
        }
        let rng = &mut *turn.rng;
        let sent = if !client.transacted.0.is_empty() && rng.once_in(3) {
            let again = rng.below(client.transacted.0.len() as u64) as usize;
            client.transacted.0[again].clone()
        } else {
            let count = rng.between(1, 3);
            let number = turn.model.archive.drafts.len();
            let named = |index| (rng.pick(&topics).clone(), format!("tx-{number}-{index}"));
            let messages = (0..count).map(named).collect();
            let leases = client.memberships.take_held(rng.below(4) as usize);
            let sent = Sent { messages, leases };
            client.transacted.0.push_back(sent.clone());
            if client.transacted.0.len() > REMEMBERED_MAX {
                client.transacted.0.pop_front();
            }
            sent
        };
        let mut messages = Vec::new();
        for (topic, id) in sent.messages {
            let message = draft(client.namespace, &topic, None, rng, turn.model);
            let draft = &mut turn.model.archive.drafts[message];
            (draft.id, draft.producer) = (Some(id), None);
            messages.push(message);
        }
        vec![command::Order::Transact(Order {
            messages,
            durability: publish::level(rng),
            leases: sent.leases,
        })]
    }

    fn told(&self, _model: &mut Model, _step: &Step<'_>) -> Check {
        Ok(())
    }
}
