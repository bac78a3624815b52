//! Who has which partition of a partitioned group, how far it has read, and what the group committed, step by step.

mod answers;
mod deliveries;

use std::collections::{BTreeMap, BTreeSet};

use dunlin_core::Durability;
use dunlin_core::frame::Reply;

use crate::sim::archive::{Archive, Check, filter_matches};
use crate::sim::command;
use crate::sim::frames::decode;
use crate::sim::model::{Answer, Given, Model, Step};
use crate::sim::recovery::Ended;

use super::{Order, SEATS_FROM};

use self::answers::take_answer;
use self::deliveries::{take_assignment, take_delivery, take_gap};

/// A namespace and a group.
type GroupKey = (usize, &'static str);
/// A partition of a topic, as a group reads it.
type LogKey = (usize, &'static str, usize, u32);

/// A membership.
#[derive(Clone, Debug)]
struct Seat {
    group: GroupKey,
    member: String,
    is_named: bool,
    filters: Vec<String>,
    credit: Option<u64>,
    credit_most: u64,
}

/// That a member has a partition.
#[derive(Clone, Debug)]
struct Hold {
    member: String,
    since: u64,
    next: u64,
    /// The generation in which it was asked back.
    revoked: Option<u64>,
    /// Whether it is to be told again where it is.
    is_moved: bool,
}

/// Where a group is in a partition, from when on: somewhere between these offsets.
#[derive(Clone, Copy, Debug)]
struct Floor {
    life: u64,
    write: u64,
    low: u64,
    high: u64,
}

#[derive(Debug, Default)]
struct GroupState {
    generation: u64,
    filters: Vec<String>,
    /// The life and write when it was first told of; what was not stored then may never have been.
    told: Option<(u64, u64)>,
    paused: Option<(u64, u64)>,
    /// Since when somebody is to let go of something, or may be.
    waits_since: Option<u64>,
    /// Named members without a connection, and until when they keep what they have: from the one on they may have lost
    /// it, from the other on they have.
    away: BTreeMap<String, (u64, u64)>,
}

/// What the model knows of partitioned groups.
#[derive(Debug, Default)]
pub(in crate::sim) struct Ledger {
    seats: BTreeMap<(u64, u32), Seat>,
    holds: BTreeMap<LogKey, Hold>,
    floors: BTreeMap<LogKey, Vec<Floor>>,
    groups: BTreeMap<GroupKey, GroupState>,
    /// What the answer to a commit waits for.
    waits: BTreeMap<(u64, u64), (u64, Durability)>,
    life: u64,
    /// The latest that a clock has shown.
    latest: u64,
}

impl Ledger {
    /// A life ended, and what it had not stored is forgotten.
    pub(in crate::sim) fn recover(&mut self, ended: Ended) {
        self.waits.clear();
        let is_lost = |life, write| life == ended.life && write > ended.kept;
        for floors in self.floors.values_mut() {
            floors.retain(|floor| !is_lost(floor.life, floor.write));
        }
        for group in self.groups.values_mut() {
            group.paused = group.paused.filter(|(life, write)| !is_lost(*life, *write));
            group.told = group.told.filter(|(life, write)| !is_lost(*life, *write));
            if group.told.is_none() {
                group.filters.clear();
            }
        }
    }

    /// The connections that are members.
    pub(in crate::sim) fn members(&self) -> impl Iterator<Item = u64> {
        self.seats.keys().map(|(connection, _)| *connection)
    }

    /// What the answer to a commit waits for.
    pub(in crate::sim) fn waits_for(
        &self,
        connection: u64,
        request: u64,
    ) -> Option<(u64, Durability)> {
        self.waits.get(&(connection, request)).copied()
    }

    fn floor(&self, key: LogKey) -> (u64, u64) {
        let newest = self.floors.get(&key).and_then(|floors| floors.last());
        newest.map_or((0, 0), |floor| (floor.low, floor.high))
    }

    fn group(&mut self, key: GroupKey) -> &mut GroupState {
        self.groups.entry(key).or_default()
    }

    /// A member has no connection any more; what it has is kept for it if it has a name.
    fn part(&mut self, key: (u64, u32), now: u64, session_ms: u64, keeps: bool) {
        let Some(seat) = self.seats.remove(&key) else {
            return;
        };
        if keeps && seat.is_named {
            let group = self.group(seat.group);
            group.waits_since.get_or_insert(now);
            let until = now + session_ms;
            group.away.insert(seat.member, (until, until));
        } else {
            self.group(seat.group).away.remove(&seat.member);
            let (namespace, name) = seat.group;
            self.holds.retain(|(of, group, ..), hold| {
                (*of, *group) != (namespace, name) || hold.member != seat.member
            });
        }
    }

    fn part_all(&mut self, connection: u64, now: u64, session_ms: u64) {
        let range = (connection, 0)..=(connection, u32::MAX);
        let keys: Vec<_> = self.seats.range(range).map(|(key, _)| *key).collect();
        for key in keys {
            self.part(key, now, session_ms, true);
        }
    }

    /// The first step of a life: what of the one before goes on.
    fn begin_life(&mut self, life: u64, step: &Step<'_>, session_ms: u64) {
        if core::mem::replace(&mut self.life, life) == life {
            return;
        }
        let is_clean = |given: &Given| matches!(given, Given::Restored { clean: true, .. });
        if step.given.iter().any(is_clean) {
            for hold in self.holds.values_mut() {
                hold.revoked = None;
            }
            for seat in self.seats.values_mut() {
                seat.credit = seat.credit.map(|_| seat.credit_most);
            }
        } else {
            self.holds.clear();
        }
        for group in self.groups.values_mut() {
            group.generation = 0;
            group.waits_since = (!group.away.is_empty()).then_some(step.now);
            // Since when somebody is away goes on over lives, if that was stored and the clock is not behind.
            for (earliest, latest) in group.away.values_mut() {
                *latest = step.now + session_ms;
                *earliest = (*earliest).min(*latest);
            }
        }
    }

    /// Whether the broker may have given a partition up for a member that has it.
    fn may_be_lost(&self, group: GroupKey, hold: &Hold, now: u64, rebalance_ms: u64) -> bool {
        let Some(state) = self.groups.get(&group).filter(|_| !hold.is_moved) else {
            // It was not told of it.
            return true;
        };
        let away = state.away.get(&hold.member);
        let waited = state
            .waits_since
            .is_some_and(|since| since + rebalance_ms <= now);
        away.is_some_and(|(earliest, _)| *earliest <= now)
            || ((hold.revoked.is_some() || away.is_some()) && waited)
    }

    /// Forgets who was away for too long, and whether anybody is waited for.
    fn end_waits(&mut self, now: u64) {
        for ((namespace, name), group) in &mut self.groups {
            let is_own = |log: &LogKey| (log.0, log.1) == (*namespace, *name);
            self.holds.retain(|log, hold| {
                let until = group.away.get(&hold.member).filter(|_| is_own(log));
                until.is_none_or(|(_, latest)| *latest > now)
            });
            group.away.retain(|_, (_, latest)| *latest > now);
            let waits = self
                .holds
                .iter()
                .any(|(log, hold)| is_own(log) && hold.revoked.is_some());
            if !waits && group.away.is_empty() {
                group.waits_since = None;
            }
        }
    }
}
/// The topics whose partitions a group has, by the name that is told.
fn log_key(
    archive: &Archive,
    group: GroupKey,
    topic: &str,
    partition: u32,
) -> Result<LogKey, String> {
    let index = archive.topic_named(group.0, topic);
    let index =
        index.ok_or_else(|| format!("\"{}\" reads \"{topic}\", which is not there", group.1))?;
    Ok((group.0, group.1, index, partition))
}

/// A message between two offsets that a member has a right to.
fn skips(model: &Model, log: LogKey, from: u64, to: u64) -> Option<usize> {
    let archive = &model.archive;
    let mut between = archive.there(log.2, log.3, from..to, archive.life);
    let found = between.find(|(_, message)| !archive.is_excused(*message, model.ledger.latest));
    found.map(|(_, message)| message)
}

pub(super) fn take_step(model: &mut Model, step: &Step<'_>) -> Check {
    let session_ms = model.bounds.session_ms;
    let known: BTreeSet<u64> = model.connections.keys().copied().collect();
    let mut gone: BTreeSet<u64> = model.ledger.seats.keys().map(|(id, _)| *id).collect();
    gone.retain(|connection| !known.contains(connection));
    for connection in gone {
        model.ledger.part_all(connection, step.now, session_ms);
    }
    let life = model.archive.life;
    model.ledger.begin_life(life, step, session_ms);
    model.ledger.latest = model.ledger.latest.max(step.now);
    let archive = &model.archive;
    model
        .ledger
        .holds
        .retain(|(.., topic, _), _| !archive.topics[*topic].deleted);
    let ended = ended_seats(step)?;
    for given in step.given {
        match given {
            Given::Disconnect { connection }
            | Given::Restored {
                connection,
                clean: false,
            } => model.ledger.part_all(*connection, step.now, session_ms),
            Given::Frames {
                connection,
                requests,
            } => {
                for request in requests {
                    let command::Order::Partitioned(order) = &request.order else {
                        continue;
                    };
                    if let Some((pending, reply)) = step.replies.get(&(*connection, request.number))
                    {
                        let answer = Answer {
                            connection: *connection,
                            namespace: pending.namespace,
                            pending,
                            order: &pending.request.order,
                            reply,
                        };
                        take_answer(model, step, &answer, order, &ended)?;
                    } else {
                        take_unanswered(&mut model.ledger, *connection, order);
                    }
                }
            }
            _ => {}
        }
    }
    for (key, code) in &ended {
        // Whoever took the place of a named member has what it had.
        model
            .ledger
            .part(*key, step.now, session_ms, code == "member_replaced");
    }
    for connection in step.silenced() {
        model.ledger.part_all(connection, step.now, session_ms);
    }
    for said in step.said {
        if matches!(decode(&said.frame)?, Reply::Resync(_)) {
            model.ledger.part_all(said.connection, step.now, session_ms);
        }
    }
    for said in step.said {
        let reply = decode(&said.frame)?;
        let checked = match &reply {
            Reply::Assignment(told) => take_assignment(model, step, said.connection, told),
            Reply::Delivery(told) if told.subscription >= SEATS_FROM => {
                take_delivery(model, step.now, said.connection, told)
            }
            Reply::Gap(told) if told.subscription >= SEATS_FROM => {
                take_gap(model, said.connection, told)
            }
            _ => continue,
        };
        checked.map_err(|error| format!("connection {}: {reply:?}: {error}", said.connection))?;
    }
    model.ledger.end_waits(step.now);
    Ok(())
}

/// The memberships that the broker ended in this step, and why.
fn ended_seats(step: &Step<'_>) -> Result<BTreeMap<(u64, u32), String>, String> {
    let mut ended = BTreeMap::new();
    for said in step.said {
        if let Reply::Ended(told) = decode(&said.frame)?
            && told.subscription >= SEATS_FROM
        {
            ended.insert((said.connection, told.subscription), told.code.to_owned());
        }
    }
    Ok(ended)
}

/// What is answered only if it is wrong.
fn take_unanswered(ledger: &mut Ledger, connection: u64, order: &Order) {
    match order {
        Order::Credit {
            subscription,
            messages,
        } => {
            if let Some(seat) = ledger.seats.get_mut(&(connection, *subscription))
                && let Some(credit) = &mut seat.credit
            {
                *credit += messages;
                seat.credit_most = seat.credit_most.max(*credit);
            }
        }
        Order::Rebalanced {
            subscription,
            generation,
        } => {
            if let Some(seat) = ledger.seats.get(&(connection, *subscription)) {
                let (namespace, group) = seat.group;
                let member = seat.member.clone();
                ledger.holds.retain(|(of, name, ..), hold| {
                    (*of, *name) != (namespace, group)
                        || hold.member != member
                        || hold.revoked.is_none_or(|told| told > *generation)
                });
            }
        }
        _ => {}
    }
}

/// Whether everything that is kept was committed.
pub(super) fn check_complete(model: &Model, namespace: usize, now: u64) -> Check {
    let archive = &model.archive;
    for (key, group) in model
        .ledger
        .groups
        .iter()
        .filter(|((of, _), _)| *of == namespace)
    {
        for message in 0..archive.drafts.len() {
            let Some(place) = archive.newest(message) else {
                continue;
            };
            let topic = &archive.topics[place.topic];
            let is_read = group
                .filters
                .iter()
                .any(|filter| filter_matches(filter, &topic.name));
            // What was published together with a reset may have been before it.
            let (_, high) = model
                .ledger
                .floor((key.0, key.1, place.topic, place.partition));
            if topic.namespace == namespace
                && topic.kind != "live"
                && is_read
                && archive.is_there(message, archive.life)
                && !archive.is_excused(message, now)
                && place.offset >= topic.partitions[place.partition as usize].start.max(high)
            {
                return Err(format!(
                    "message {message}, \"{}\" {} {}, was never committed in \"{}\" ({:?})",
                    topic.name, place.partition, place.offset, key.1, group.filters
                ));
            }
        }
    }
    Ok(())
}
