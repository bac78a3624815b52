//! Partitioned groups: clients join them, read, commit, let go of partitions or do not, leave and are cut off.
//!
//! Checked are the promises of partitions: one member at a time has one, in the order of offsets, from where the group
//! committed; what is not to move is not interrupted; in the end everything that is kept was committed.

mod ledger;

use std::collections::{BTreeMap, BTreeSet};

use dunlin_core::frame::{
    Command, Commit, ConfigureGroup, Credit, DescribeGroup, Join, List, PauseGroup, Position,
    Rebalanced, Reply, ResetGroup, Strings, Unsubscribe,
};

use crate::sim::archive::Check;
use crate::sim::client::Client;
use crate::sim::command;
use crate::sim::model::{Model, Step};
use crate::sim::rng::Rng;

use super::{Heard, Turn, Workload};

pub(in crate::sim) use self::ledger::Ledger;

/// The names of the groups.
const GROUPS: [&str; 2] = ["pa", "pb"];
/// How many memberships a client has.
const SEATS_MAX: usize = 3;
/// Subscriptions from this number on are memberships of partitioned groups.
const SEATS_FROM: u32 = 1 << 21;
/// Credit that everybody is given at the end.
const CREDIT_AT_THE_END: u64 = 500;
/// So often a client joins at the end without that anything comes of it.
const IDLE_JOINS_AT_THE_END: u32 = 3;

/// A topic, a partition of it, and the offset to read next.
type Place = (String, u32, u64);

#[derive(Clone, Debug)]
pub(in crate::sim) enum Order {
    Configure {
        group: &'static str,
        strategy: &'static str,
    },
    Join {
        subscription: u32,
        group: &'static str,
        member: Option<String>,
        filters: Vec<String>,
        credit: Option<u64>,
    },
    Leave {
        subscription: u32,
    },
    Credit {
        subscription: u32,
        messages: u64,
    },
    Commit {
        subscription: u32,
        generation: u64,
        offsets: Vec<Place>,
    },
    Rebalanced {
        subscription: u32,
        generation: u64,
    },
    Reset {
        group: &'static str,
        topic: String,
        to: &'static str,
    },
    Pause {
        group: &'static str,
        paused: bool,
    },
    Describe {
        group: &'static str,
    },
}

impl Order {
    pub(in crate::sim) const fn wants_reply(&self) -> bool {
        !matches!(self, Self::Credit { .. } | Self::Rebalanced { .. })
    }

    pub(in crate::sim) fn encode(&self, request: u64, out: &mut Vec<u8>) {
        match self {
            Self::Configure { group, strategy } => Command::ConfigureGroup(ConfigureGroup {
                request,
                group,
                kind: Some("partitioned"),
                strategy: Some(strategy),
                filters: None,
                from: None,
                ack_deadline_ms: None,
                max_delivery_attempts: None,
                retry: None,
                retry_ms: None,
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
                credit,
            } => {
                let encoded = Strings::encode(filters.iter().map(String::as_str));
                Command::Join(Join {
                    request,
                    subscription: *subscription,
                    group,
                    filters: Strings::parse(&encoded).expect("it was just encoded"),
                    kind: Some("partitioned"),
                    strategy: None,
                    from: None,
                    member: member.as_deref(),
                    credit: *credit,
                    max_in_flight: None,
                })
                .encode(out);
            }
            Self::Leave { subscription } => Command::Unsubscribe(Unsubscribe {
                request,
                subscription: *subscription,
            })
            .encode(out),
            Self::Credit {
                subscription,
                messages,
            } => Command::Credit(Credit {
                subscription: *subscription,
                messages: *messages,
            })
            .encode(out),
            Self::Commit {
                subscription,
                generation,
                offsets,
            } => {
                let mut list = Vec::new();
                for (topic, partition, offset) in offsets {
                    let position = Position {
                        topic,
                        partition: *partition,
                        offset: *offset,
                    };
                    List::push(&mut list, &position);
                }
                Command::Commit(Commit {
                    request,
                    subscription: *subscription,
                    generation: *generation,
                    offsets: List::new(&list),
                })
                .encode(out);
            }
            Self::Rebalanced {
                subscription,
                generation,
            } => Command::Rebalanced(Rebalanced {
                subscription: *subscription,
                generation: *generation,
            })
            .encode(out),
            Self::Reset { group, topic, to } => Command::ResetGroup(ResetGroup {
                request,
                group,
                to,
                topic: Some(topic),
                partition: None,
            })
            .encode(out),
            Self::Pause { group, paused } => Command::PauseGroup(PauseGroup {
                request,
                group,
                paused: *paused,
            })
            .encode(out),
            Self::Describe { group } => {
                Command::DescribeGroup(DescribeGroup { request, group }).encode(out);
            }
        }
    }
}

/// A membership, as its client sees it.
#[derive(Debug)]
struct Seat {
    group: &'static str,
    joined: bool,
    generation: u64,
    has_credit: bool,
    consumed: u64,
    boosted: bool,
    held: BTreeMap<(String, u32), Held>,
    /// What it let go of: where the host forgot that while its word was under way, it gets of it, and is asked for it
    /// again.
    let_go: BTreeSet<(String, u32)>,
    asked_again: bool,
}

/// A partition that a client has.
#[derive(Debug)]
struct Held {
    next: u64,
    committed: u64,
    revoked: bool,
}

impl Seat {
    /// A commit of everything that was read.
    fn commit(&mut self, subscription: u32) -> Option<Order> {
        let mut offsets = Vec::new();
        for ((topic, partition), held) in &mut self.held {
            if held.next > held.committed {
                held.committed = held.next;
                offsets.push((topic.clone(), *partition, held.next));
            }
        }
        (!offsets.is_empty()).then_some(Order::Commit {
            subscription,
            generation: self.generation,
            offsets,
        })
    }

    /// Lets go of what it was asked for.
    fn let_go(&mut self, subscription: u32) -> Option<Order> {
        let (revoked, held) = core::mem::take(&mut self.held)
            .into_iter()
            .partition(|(_, held)| held.revoked);
        self.held = held;
        let revoked: BTreeMap<_, Held> = revoked;
        let answers = core::mem::take(&mut self.asked_again) || !revoked.is_empty();
        self.let_go.extend(revoked.into_keys());
        answers.then_some(Order::Rebalanced {
            subscription,
            generation: self.generation,
        })
    }

    /// Gives back the credit that was used, and `more`.
    fn top_up(&mut self, subscription: u32, more: u64) -> Option<Order> {
        let messages = core::mem::take(&mut self.consumed) + more;
        (self.has_credit && messages > 0).then_some(Order::Credit {
            subscription,
            messages,
        })
    }
}

/// What is known of a group at the end.
#[derive(Clone, Debug, Default)]
enum Found {
    #[default]
    Unknown,
    Asked,
    /// It reads this, and so much of it is not done.
    Lags(Vec<String>, u64),
    Done,
}

/// The memberships of a client.
#[derive(Debug, Default)]
pub(in crate::sim) struct Seats {
    open: BTreeMap<u32, Seat>,
    last: u32,
    found: BTreeMap<&'static str, Found>,
    /// How much was left when it last joined at the end, and how often it was as much.
    tries: BTreeMap<&'static str, (u64, u32)>,
    resumed: bool,
}

impl Seats {
    fn join(
        &mut self,
        group: &'static str,
        member: Option<String>,
        filters: Vec<String>,
        credit: Option<u64>,
    ) -> Order {
        self.last += 1;
        let subscription = SEATS_FROM + self.last;
        let seat = Seat {
            group,
            joined: false,
            generation: 0,
            has_credit: credit.is_some(),
            consumed: 0,
            boosted: false,
            held: BTreeMap::new(),
            let_go: BTreeSet::new(),
            asked_again: false,
        };
        self.open.insert(subscription, seat);
        Order::Join {
            subscription,
            group,
            member,
            filters,
            credit,
        }
    }

    /// What it has found is of before, and what it said then may not have arrived.
    pub(in crate::sim) fn look_again(&mut self) {
        self.found.clear();
        self.tries.clear();
        self.resumed = false;
    }

    fn pick(&mut self, rng: &mut Rng) -> Option<(u32, &mut Seat)> {
        let joined = self.open.iter().filter(|(_, seat)| seat.joined);
        let joined: Vec<u32> = joined.map(|(id, _)| *id).collect();
        let id = (!joined.is_empty()).then(|| *rng.pick(&joined))?;
        Some((id, self.open.get_mut(&id)?))
    }
}

/// Whether this member neither commits nor lets go until the end.
const fn hangs(subscription: u32) -> bool {
    subscription.is_multiple_of(4)
}

/// What a member should not say: under an old generation, beyond what it read, or of what it does not have.
fn wrong_commit(subscription: u32, seat: &Seat, rng: &mut Rng) -> Option<Order> {
    let ((topic, partition), held) = seat.held.iter().next()?;
    let wrong = rng.below(3);
    Some(Order::Commit {
        subscription,
        generation: seat.generation - u64::from(wrong == 0 && seat.generation > 0),
        offsets: vec![(
            topic.clone(),
            partition + u32::from(wrong == 1),
            held.next + if wrong == 2 { rng.between(1, 5) } else { 0 },
        )],
    })
}

pub(super) struct Partitioned;

impl Workload for Partitioned {
    fn plan(&self, client: &mut Client, turn: &mut Turn<'_>) -> Vec<command::Order> {
        let rng = &mut *turn.rng;
        let group = rng.pick::<&str>(&GROUPS);
        let mine = &mut client.seats;
        let orders = match turn.roll {
            0..4 if mine.open.len() < SEATS_MAX => {
                let member = rng.once_in(3).then(|| format!("m{}", rng.below(3)));
                let filters = (0..rng.between(1, 2)).map(|_| rng.pick(&turn.plan.filters).clone());
                let filters = filters.collect();
                let credit = rng.once_in(2).then(|| rng.below(20));
                vec![mine.join(group, member, filters, credit)]
            }
            0..4 if rng.once_in(2) => {
                let open: Vec<u32> = mine.open.keys().copied().collect();
                let subscription = *rng.pick(&open);
                mine.open.remove(&subscription);
                vec![Order::Leave { subscription }]
            }
            4 => vec![Order::Configure {
                group,
                strategy: rng.pick::<&str>(&["sticky", "round_robin", "range", "consistent_hash"]),
            }],
            5 => vec![Order::Describe { group }],
            6 if rng.once_in(3) => vec![Order::Reset {
                group,
                topic: turn.topic.name.to_owned(),
                to: rng.pick::<&str>(&["earliest", "latest"]),
            }],
            6 if rng.once_in(3) => vec![Order::Pause {
                group,
                paused: rng.once_in(2),
            }],
            7 => match mine.pick(rng) {
                Some((id, seat)) => wrong_commit(id, seat, rng).into_iter().collect(),
                None => Vec::new(),
            },
            _ => match mine.pick(rng) {
                Some((id, seat)) if !hangs(id) => {
                    let commit = seat.commit(id);
                    let let_go = seat.let_go(id);
                    let top_up = seat.top_up(id, 0);
                    commit.into_iter().chain(let_go).chain(top_up).collect()
                }
                _ => Vec::new(),
            },
        };
        orders
            .into_iter()
            .map(command::Order::Partitioned)
            .collect()
    }

    fn told(&self, model: &mut Model, step: &Step<'_>) -> Check {
        ledger::take_step(model, step)
    }

    fn heard(&self, client: &mut Client, _model: &Model, heard: &Heard<'_>) -> Check {
        let mine = &mut client.seats;
        match heard.reply {
            Reply::Assignment(told) => {
                if let Some(seat) = mine.open.get_mut(&told.subscription) {
                    seat.generation = told.generation;
                    for one in told.assigned.iter().flatten() {
                        let held = Held {
                            next: one.offset,
                            committed: one.offset,
                            revoked: false,
                        };
                        let place = (one.topic.to_owned(), one.partition);
                        seat.let_go.remove(&place);
                        seat.held.insert(place, held);
                    }
                    for one in told.revoked.iter().flatten() {
                        let place = (one.topic.to_owned(), one.partition);
                        if let Some(held) = seat.held.get_mut(&place) {
                            held.revoked = true;
                        } else if seat.let_go.contains(&place) {
                            seat.asked_again = true;
                        } else {
                            return Err("it is to let go of what it does not have".to_owned());
                        }
                    }
                }
            }
            Reply::Delivery(delivery) => {
                if let Some(seat) = mine.open.get_mut(&delivery.subscription) {
                    let place = (delivery.topic.to_owned(), delivery.partition);
                    let Some(held) = seat.held.get_mut(&place) else {
                        if seat.let_go.contains(&place) {
                            seat.consumed += 1;
                            return Ok(());
                        }
                        return Err(format!("a delivery of {place:?}, not its own"));
                    };
                    if delivery.offset < held.next {
                        return Err(format!("{place:?} goes back to {}", delivery.offset));
                    }
                    held.next = delivery.offset + 1;
                    seat.consumed += 1;
                }
            }
            Reply::Gap(gap) => {
                if let (Some(seat), Some(topic), Some(partition), Some(to)) = (
                    mine.open.get_mut(&gap.subscription),
                    gap.topic,
                    gap.partition,
                    gap.to_offset,
                ) && let Some(held) = seat.held.get_mut(&(topic.to_owned(), partition))
                {
                    held.next = held.next.max(to);
                }
            }
            Reply::Ended(ended) => {
                mine.open.remove(&ended.subscription);
            }
            _ => {}
        }
        let Some(command::Order::Partitioned(order)) = heard.request.map(|request| &request.order)
        else {
            return Ok(());
        };
        match (order, heard.reply) {
            (Order::Join { subscription, .. }, Reply::Joined(_)) => {
                if let Some(seat) = mine.open.get_mut(subscription) {
                    seat.joined = true;
                }
            }
            (Order::Join { subscription, .. }, Reply::Failed(_)) => {
                mine.open.remove(subscription);
            }
            (Order::Describe { group }, reply) => {
                let found = match reply {
                    Reply::GroupDescription(told) => {
                        let partitions = told.partitions.iter().flatten();
                        let lag = partitions.map(|partition| partition.lag).sum();
                        let filters = told.filters.iter().map(str::to_owned).collect();
                        let tries = mine.tries.entry(group).or_insert((lag, 0));
                        if tries.0 != lag {
                            *tries = (lag, 0);
                        }
                        if lag == 0 || tries.1 >= IDLE_JOINS_AT_THE_END {
                            Found::Done
                        } else {
                            Found::Lags(filters, lag)
                        }
                    }
                    _ => Found::Done,
                };
                mine.found.insert(group, found);
            }
            _ => {}
        }
        Ok(())
    }

    fn forgotten(&self, client: &mut Client) {
        client.seats.open.clear();
        client.seats.found.clear();
    }

    /// Reads what there is, and commits all of it.
    fn settle(&self, client: &mut Client) -> Vec<command::Order> {
        let mine = &mut client.seats;
        let mut orders = Vec::new();
        if !core::mem::replace(&mut mine.resumed, true) {
            let pauses = GROUPS.map(|group| Order::Pause {
                group,
                paused: false,
            });
            orders.extend(pauses);
        }
        for (id, seat) in &mut mine.open {
            if !seat.joined {
                continue;
            }
            let more = if core::mem::replace(&mut seat.boosted, true) {
                0
            } else {
                CREDIT_AT_THE_END
            };
            orders.extend(seat.commit(*id));
            orders.extend(seat.let_go(*id));
            orders.extend(seat.top_up(*id, more));
        }
        for group in GROUPS {
            if mine.open.values().any(|seat| seat.group == group) {
                continue;
            }
            match mine.found.get(group).cloned().unwrap_or_default() {
                Found::Unknown => {
                    mine.found.insert(group, Found::Asked);
                    orders.push(Order::Describe { group });
                }
                Found::Lags(filters, lag) => {
                    let tries = mine.tries.entry(group).or_insert((lag, 0));
                    tries.1 += 1;
                    mine.found.insert(group, Found::Unknown);
                    orders.push(mine.join(group, None, filters, None));
                }
                Found::Asked | Found::Done => {}
            }
        }
        orders
            .into_iter()
            .map(command::Order::Partitioned)
            .collect()
    }

    fn is_settled(&self, client: &Client) -> bool {
        let mine = &client.seats;
        let is_done = |group| matches!(mine.found.get(group), Some(Found::Done));
        mine.open.is_empty() && GROUPS.into_iter().all(is_done)
    }

    fn check(&self, client: &Client, model: &Model, now: u64) -> Check {
        ledger::check_complete(model, client.namespace, now)
    }
}
