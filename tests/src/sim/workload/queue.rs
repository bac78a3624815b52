//! Queues: clients join them, settle what they were leased in every way or keep silent, leave and are cut off.
//!
//! Checked are the promises of leases: one member at a time has a message, attempts rise by one, what was acknowledged
//! is not delivered again, a topic's order holds; and in the end everything that is kept was acknowledged or is dead.

mod book;

use std::collections::BTreeMap;

use dunlin_core::frame::{
    Ack, Command, ConfigureGroup, DescribeGroup, Extend, Join, Lease, List, Nack, Reject, Reply,
    Strings, Unsubscribe,
};

use crate::sim::archive::Check;
use crate::sim::client::Client;
use crate::sim::command;
use crate::sim::model::{Model, Step};

use super::{Heard, Turn, Workload};

pub(in crate::sim) use self::book::{Book, is_membership};

/// The names of the queues.
const GROUPS: [&str; 2] = ["qa", "qb"];
/// How many memberships a client has.
const MEMBERSHIPS_MAX: usize = 3;
/// Subscriptions from this number on are memberships.
pub(in crate::sim) const MEMBERSHIPS_FROM: u32 = 1 << 20;
/// How often a client joins at the end to empty a queue.
const JOINS_AT_THE_END: u32 = 200;

#[derive(Clone, Debug)]
pub(in crate::sim) enum Order {
    Configure {
        group: &'static str,
        retry: &'static str,
        retry_ms: u64,
    },
    Join {
        subscription: u32,
        group: &'static str,
        member: Option<String>,
        filters: Vec<String>,
        max_in_flight: u64,
    },
    Leave {
        subscription: u32,
    },
    Settle {
        verdict: Verdict,
        leases: Vec<u64>,
    },
    Describe {
        group: &'static str,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) enum Verdict {
    Ack,
    Nack(Option<u64>),
    Reject,
    Extend(u64),
}

impl Order {
    pub(in crate::sim) fn encode(&self, request: u64, out: &mut Vec<u8>) {
        match self {
            Self::Configure {
                group,
                retry,
                retry_ms,
            } => Command::ConfigureGroup(ConfigureGroup {
                request,
                group,
                kind: None,
                strategy: None,
                filters: None,
                from: None,
                ack_deadline_ms: None,
                max_delivery_attempts: None,
                retry: Some(retry),
                retry_ms: Some(*retry_ms),
                retry_ms_max: None,
                session_ms: None,
                rebalance_ms: None,
                dead_letters_alert: None,
            })
            .encode(out),
            Self::Join {
                subscription,
                group,
                member,
                filters,
                max_in_flight,
            } => {
                let encoded = Strings::encode(filters.iter().map(String::as_str));
                Command::Join(Join {
                    request,
                    subscription: *subscription,
                    group,
                    filters: Strings::parse(&encoded).expect("it was just encoded"),
                    kind: None,
                    strategy: None,
                    from: None,
                    member: member.as_deref(),
                    credit: None,
                    max_in_flight: Some(*max_in_flight),
                })
                .encode(out);
            }
            Self::Leave { subscription } => Command::Unsubscribe(Unsubscribe {
                request,
                subscription: *subscription,
            })
            .encode(out),
            Self::Settle { verdict, leases } => {
                let mut list = Vec::new();
                for lease in leases {
                    List::push(&mut list, &Lease { lease: *lease });
                }
                let leases = List::new(&list);
                match *verdict {
                    Verdict::Ack => Command::Ack(Ack { request, leases }),
                    Verdict::Nack(delay_ms) => Command::Nack(Nack {
                        request,
                        leases,
                        delay_ms,
                    }),
                    Verdict::Reject => Command::Reject(Reject {
                        request,
                        leases,
                        reason: Some("no"),
                    }),
                    Verdict::Extend(extend_ms) => Command::Extend(Extend {
                        request,
                        leases,
                        extend_ms: Some(extend_ms),
                    }),
                }
                .encode(out);
            }
            Self::Describe { group } => {
                Command::DescribeGroup(DescribeGroup { request, group }).encode(out);
            }
        }
    }
}

/// What is known of a queue at the end.
#[derive(Clone, Debug, Default)]
enum Found {
    #[default]
    Unknown,
    Asked,
    /// It reads this, and not all of it is done.
    Lags(Vec<String>),
    Empty,
}

/// The memberships of a client, as it sees them.
#[derive(Debug, Default)]
pub(in crate::sim) struct Memberships {
    /// The group of each, and whether the client was told that it has joined.
    open: BTreeMap<u32, (&'static str, bool)>,
    last: u32,
    /// The leases that it has, and those that it had.
    held: Vec<(u64, u32)>,
    stale: Vec<u64>,
    /// What it has found at the end.
    found: BTreeMap<&'static str, Found>,
    joins: u32,
}

impl Memberships {
    fn join(
        &mut self,
        group: &'static str,
        member: Option<String>,
        filters: Vec<String>,
        max_in_flight: u64,
    ) -> Order {
        self.last += 1;
        let subscription = MEMBERSHIPS_FROM + self.last;
        self.open.insert(subscription, (group, false));
        Order::Join {
            subscription,
            group,
            member,
            filters,
            max_in_flight,
        }
    }

    fn leave(&mut self, subscription: u32) {
        self.open.remove(&subscription);
        for (lease, of) in core::mem::take(&mut self.held) {
            if of == subscription {
                self.stale.push(lease);
            } else {
                self.held.push((lease, of));
            }
        }
    }

    /// So many of the leases that it has, to be settled.
    pub(in crate::sim) fn take_held(&mut self, count: usize) -> Vec<u64> {
        let count = count.min(self.held.len());
        let taken = self.held.drain(..count);
        let leases: Vec<u64> = taken.map(|(lease, _)| lease).collect();
        self.stale.extend(&leases);
        leases
    }

    /// What it has found is of before.
    pub(in crate::sim) fn look_again(&mut self) {
        self.found.clear();
    }
}

pub(super) struct Queues;

impl Workload for Queues {
    fn plan(&self, client: &mut Client, turn: &mut Turn<'_>) -> Vec<command::Order> {
        let rng = &mut *turn.rng;
        let name = format!("m{}", rng.below(3));
        let mine = &mut client.memberships;
        let order = match turn.roll {
            0..5 if mine.open.len() < MEMBERSHIPS_MAX => {
                let group = *rng.pick::<&str>(&GROUPS);
                let member = rng.once_in(3).then_some(name);
                let filters = vec![rng.pick(&turn.plan.filters).clone()];
                let max_in_flight = rng.between(1, 8);
                mine.join(group, member, filters, max_in_flight)
            }
            0..5 => {
                let open: Vec<u32> = mine.open.keys().copied().collect();
                let subscription = *rng.pick(&open);
                mine.leave(subscription);
                Order::Leave { subscription }
            }
            5 => Order::Configure {
                group: rng.pick::<&str>(&GROUPS),
                retry: rng.pick::<&str>(&["none", "fixed", "linear", "exponential"]),
                retry_ms: rng.between(1, 500),
            },
            6 => Order::Describe {
                group: rng.pick::<&str>(&GROUPS),
            },
            7 if !mine.stale.is_empty() => Order::Settle {
                verdict: Verdict::Ack,
                leases: vec![*rng.pick(&mine.stale)],
            },
            _ if mine.held.is_empty() => return Vec::new(),
            _ => {
                let count = rng.between(1, mine.held.len() as u64) as usize;
                let verdict = match rng.below(12) {
                    0..=6 => Verdict::Ack,
                    7 => Verdict::Nack(None),
                    8 => Verdict::Nack(Some(rng.below(1000))),
                    9 => Verdict::Reject,
                    _ => Verdict::Extend(rng.between(1, 3000)),
                };
                let leases = if matches!(verdict, Verdict::Extend(_)) {
                    mine.held[..count].iter().map(|(lease, _)| *lease).collect()
                } else {
                    mine.take_held(count)
                };
                Order::Settle { verdict, leases }
            }
        };
        vec![command::Order::Queue(order)]
    }

    fn told(&self, model: &mut Model, step: &Step<'_>) -> Check {
        book::take_step(model, step)
    }

    fn heard(&self, client: &mut Client, _model: &Model, heard: &Heard<'_>) -> Check {
        let mine = &mut client.memberships;
        match heard.reply {
            Reply::Delivery(delivery) => {
                if let Some((group, joined)) = mine.open.get(&delivery.subscription) {
                    if !joined {
                        return Err(format!("a delivery of \"{group}\" before it was joined"));
                    }
                    let lease = delivery
                        .lease
                        .ok_or("a delivery of a queue without a lease")?;
                    mine.held.push((lease, delivery.subscription));
                }
            }
            Reply::Ended(ended) => mine.leave(ended.subscription),
            _ => {}
        }
        let Some(command::Order::Queue(order)) = heard.request.map(|request| &request.order) else {
            return Ok(());
        };
        match (order, heard.reply) {
            (Order::Join { subscription, .. }, Reply::Joined(_)) => {
                if let Some((_, joined)) = mine.open.get_mut(subscription) {
                    *joined = true;
                }
            }
            (Order::Join { subscription, .. }, Reply::Failed(_)) => mine.leave(*subscription),
            (Order::Describe { group }, reply) => {
                let found = match reply {
                    Reply::GroupDescription(told) => {
                        let partitions = told.partitions.iter().flatten();
                        if partitions.map(|partition| partition.lag).sum::<u64>() == 0 {
                            Found::Empty
                        } else {
                            Found::Lags(told.filters.iter().map(str::to_owned).collect())
                        }
                    }
                    _ => Found::Empty,
                };
                mine.found.insert(group, found);
            }
            _ => {}
        }
        Ok(())
    }

    fn forgotten(&self, client: &mut Client) {
        let mine = &mut client.memberships;
        mine.open.clear();
        mine.found.clear();
        let held = core::mem::take(&mut mine.held);
        mine.stale.extend(held.into_iter().map(|(lease, _)| lease));
    }

    /// Takes what there is, and acknowledges all of it.
    fn settle(&self, client: &mut Client) -> Vec<command::Order> {
        let mine = &mut client.memberships;
        let mut orders = Vec::new();
        let held = core::mem::take(&mut mine.held);
        if !held.is_empty() {
            orders.push(Order::Settle {
                verdict: Verdict::Ack,
                leases: held.into_iter().map(|(lease, _)| lease).collect(),
            });
        }
        for group in GROUPS {
            if mine.open.values().any(|(open, _)| *open == group) {
                continue;
            }
            match mine.found.get(group).cloned().unwrap_or_default() {
                Found::Unknown => {
                    mine.found.insert(group, Found::Asked);
                    orders.push(Order::Describe { group });
                }
                Found::Lags(filters) if mine.joins < JOINS_AT_THE_END => {
                    mine.joins += 1;
                    mine.found.insert(group, Found::Unknown);
                    orders.push(mine.join(group, None, filters, 8));
                }
                Found::Asked | Found::Lags(_) | Found::Empty => {}
            }
        }
        orders.into_iter().map(command::Order::Queue).collect()
    }

    fn is_settled(&self, client: &Client) -> bool {
        let mine = &client.memberships;
        let is_empty = |group| matches!(mine.found.get(group), Some(Found::Empty));
        mine.open.is_empty() && mine.held.is_empty() && GROUPS.into_iter().all(is_empty)
    }

    fn check(&self, client: &Client, model: &Model, now: u64) -> Check {
        book::check_complete(model, client.namespace, now)
    }
}
