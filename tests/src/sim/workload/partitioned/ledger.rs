//! Who has which partition of a partitioned group, how far it has read, and what the group committed, step by step.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_core::frame::{Assignment, Delivery, Gap, GroupDescription, Position, Reply};
use dunlin_core::{Durability, Effect};

use crate::sim::archive::{Archive, Check, Told, filter_matches};
use crate::sim::command;
use crate::sim::frames::decode;
use crate::sim::model::{Answer, Given, Model, Step};
use crate::sim::recovery::Ended;

use super::{Order, SEATS_FROM};

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
    revoked: bool,
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
    paused: Option<(u64, u64)>,
    /// Since when somebody is to let go of something, or may be.
    waits_since: Option<u64>,
    /// Named members without a connection, and until when they keep what they have.
    away: BTreeMap<String, u64>,
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
        }
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
            group.away.insert(seat.member, now + session_ms);
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
                hold.revoked = false;
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
            for until in group.away.values_mut() {
                *until = step.now + session_ms;
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
        away.is_some_and(|until| *until <= now) || ((hold.revoked || away.is_some()) && waited)
    }

    /// Forgets who was away for too long, and whether anybody is waited for.
    fn end_waits(&mut self, now: u64) {
        for ((namespace, name), group) in &mut self.groups {
            let is_own = |log: &LogKey| (log.0, log.1) == (*namespace, *name);
            self.holds.retain(|log, hold| {
                let until = group.away.get(&hold.member).filter(|_| is_own(log));
                until.is_none_or(|until| *until > now)
            });
            group.away.retain(|_, until| *until > now);
            let waits = self
                .holds
                .iter()
                .any(|(log, hold)| is_own(log) && hold.revoked);
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
                take_delivery(model, said.connection, told)
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
        Order::Rebalanced { subscription, .. } => {
            if let Some(seat) = ledger.seats.get(&(connection, *subscription)) {
                let (namespace, group) = seat.group;
                let member = seat.member.clone();
                ledger.holds.retain(|(of, name, ..), hold| {
                    (*of, *name) != (namespace, group) || hold.member != member || !hold.revoked
                });
            }
        }
        _ => {}
    }
}

fn take_answer(
    model: &mut Model,
    step: &Step<'_>,
    answer: &Answer<'_>,
    order: &Order,
    ended: &BTreeMap<(u64, u32), String>,
) -> Check {
    let (life, write) = (model.archive.life, step.write);
    match (order, answer.reply) {
        (
            Order::Configure { group, .. } | Order::Describe { group },
            Reply::GroupDescription(told),
        ) => {
            take_description(model, (answer.namespace, group), told)?;
        }
        (
            Order::Join {
                subscription,
                group,
                member,
                filters,
                credit,
            },
            Reply::Joined(told),
        ) => {
            if member.as_ref().is_some_and(|asked| asked != told.member) {
                return Err(format!("{order:?} made a member \"{}\"", told.member));
            }
            let seat = Seat {
                group: (answer.namespace, group),
                member: told.member.to_owned(),
                is_named: member.is_some(),
                filters: filters.clone(),
                credit: *credit,
                credit_most: credit.unwrap_or(0),
            };
            let ledger = &mut model.ledger;
            ledger.group(seat.group).away.remove(&seat.member);
            for ((of, name, ..), hold) in &mut ledger.holds {
                if (*of, *name) == seat.group && hold.member == seat.member {
                    hold.is_moved = true;
                    hold.revoked = false;
                }
            }
            // Whoever had the name is ended in this step, and has nothing more.
            let replaced =
                |other: &Seat| (other.group, &other.member) == (seat.group, &seat.member);
            ledger.seats.retain(|_, other| !replaced(other));
            ledger
                .seats
                .insert((answer.connection, *subscription), seat);
        }
        (Order::Leave { subscription }, Reply::Done(_)) => {
            let key = (answer.connection, *subscription);
            model.ledger.part(key, step.now, 0, false);
        }
        (Order::Commit { .. }, reply) => take_commit(model, step, answer, order, reply, ended)?,
        (Order::Pause { group, paused }, Reply::Done(_)) => {
            model.ledger.group((answer.namespace, group)).paused = paused.then_some((life, write));
        }
        (Order::Reset { group, topic, to }, Reply::Done(_)) => {
            reset(model, step, (answer.namespace, group), topic, to)?;
        }
        (Order::Join { .. }, Reply::Failed(failed)) => {
            model.take_refusal(order, failed, &["storage_unavailable", "limit_reached"])?;
        }
        (Order::Leave { .. }, Reply::Failed(failed)) => {
            let codes = [
                "unknown_subscription",
                "unknown_member",
                "storage_unavailable",
            ];
            model.take_refusal(order, failed, &codes)?;
        }
        (Order::Configure { .. }, Reply::Failed(failed)) => {
            model.take_refusal(order, failed, &["storage_unavailable"])?;
        }
        (Order::Describe { .. }, Reply::Failed(failed)) => {
            model.take_refusal(order, failed, &["unknown_group"])?;
        }
        (Order::Pause { .. }, Reply::Failed(failed)) => {
            model.take_refusal(order, failed, &["unknown_group", "storage_unavailable"])?;
        }
        (Order::Reset { .. }, Reply::Failed(failed)) => {
            let codes = [
                "unknown_group",
                "unknown_topic",
                "unknown_partition",
                "storage_unavailable",
            ];
            model.take_refusal(order, failed, &codes)?;
        }
        (Order::Rebalanced { .. } | Order::Credit { .. }, _) => {}
        _ => return answer.is_none_of_these(),
    }
    Ok(())
}

/// Generations rise, and what was committed does not go back.
fn take_description(model: &mut Model, key: GroupKey, told: &GroupDescription<'_>) -> Check {
    for one in told.partitions.iter().flatten() {
        let log = log_key(&model.archive, key, one.topic, one.partition)?;
        let (low, _) = model.ledger.floor(log);
        if one.committed_offset < low {
            return Err(format!(
                "\"{}\" {} of \"{}\" is at {}, but was at {low}",
                one.topic, one.partition, key.1, one.committed_offset
            ));
        }
    }
    let group = model.ledger.group(key);
    if told.generation < group.generation {
        return Err(format!(
            "generation {} follows {}",
            told.generation, group.generation
        ));
    }
    group.generation = told.generation;
    group.filters = told.filters.iter().map(str::to_owned).collect();
    Ok(())
}

/// A commit holds if every partition is the member's, in its generation, and was read so far.
fn take_commit(
    model: &mut Model,
    step: &Step<'_>,
    answer: &Answer<'_>,
    order: &Order,
    reply: &Reply<'_>,
    ended: &BTreeMap<(u64, u32), String>,
) -> Check {
    let Order::Commit {
        subscription,
        generation,
        offsets,
    } = order
    else {
        return answer.is_none_of_these();
    };
    let key = (answer.connection, *subscription);
    let rebalance_ms = model.bounds.rebalance_ms;
    let mut wrong = None;
    let mut is_unsure = ended.contains_key(&key);
    let mut logs = Vec::new();
    let seat = model.ledger.seats.get(&key).cloned();
    if let Some(seat) = &seat {
        for (topic, partition, offset) in offsets {
            let Ok(log) = log_key(&model.archive, seat.group, topic, *partition) else {
                wrong = Some(format!("\"{topic}\" is not there"));
                break;
            };
            logs.push((log, *offset));
            let Some(hold) = model.ledger.holds.get(&log) else {
                wrong = Some(format!("\"{topic}\" {partition} is nobody's"));
                break;
            };
            is_unsure |= model
                .ledger
                .may_be_lost(seat.group, hold, step.now, rebalance_ms);
            if hold.member != seat.member || hold.is_moved || *generation < hold.since {
                wrong = Some(format!("\"{topic}\" {partition} is {hold:?}"));
            } else if *offset > hold.next {
                let skipped = skips(model, log, hold.next, *offset);
                let end = model.archive.topics[log.2].partitions[log.3 as usize].end;
                if skipped.is_some() || *offset > end {
                    wrong = Some(format!("\"{topic}\" {partition} was read to {}", hold.next));
                }
                is_unsure = true;
            }
        }
    } else {
        wrong = Some("it is no member".to_owned());
    }
    match reply {
        Reply::Done(_) => {
            if let Some(wrong) = wrong {
                return Err(format!("{order:?} holds, but {wrong}"));
            }
        }
        Reply::Failed(failed) => {
            if wrong.is_none() && !is_unsure && failed.code != "storage_unavailable" {
                return Err(format!("{order:?} is refused: {failed:?}"));
            }
            let codes = [
                "stale_generation",
                "offset_out_of_range",
                "unknown_member",
                "unknown_topic",
                "unknown_partition",
                "invalid_argument",
                "storage_unavailable",
            ];
            return model.take_refusal(order, failed, &codes);
        }
        _ => return answer.is_none_of_these(),
    }
    let mut level = Durability::None;
    for (log, offset) in logs {
        level = level.max(model.archive.topics[log.2].durability);
        let (low, high) = model.ledger.floor(log);
        let floor = Floor {
            life: model.archive.life,
            write: step.write,
            low: low.max(offset),
            high: high.max(offset),
        };
        model.ledger.floors.entry(log).or_default().push(floor);
    }
    // What moves nothing waits for what was written before.
    let writes = step
        .effects
        .iter()
        .any(|effect| matches!(effect, Effect::Write { .. }));
    let waits = (step.write - u64::from(!writes), level);
    let request = (answer.connection, answer.pending.request.number);
    model.ledger.waits.insert(request, waits);
    Ok(())
}

/// A message between two offsets that a member has a right to.
fn skips(model: &Model, log: LogKey, from: u64, to: u64) -> Option<usize> {
    let archive = &model.archive;
    let partition = &archive.topics[log.2].partitions[log.3 as usize];
    let mut between = partition
        .offsets
        .range(from..to.max(from))
        .flat_map(|(_, messages)| messages);
    between
        .find(|message| {
            archive.is_there(**message, archive.life)
                && !archive.is_excused(**message, model.ledger.latest)
        })
        .copied()
}

fn reset(model: &mut Model, step: &Step<'_>, group: GroupKey, topic: &str, to: &str) -> Check {
    let archive = &model.archive;
    let (_, _, index, _) = log_key(archive, group, topic, 0)?;
    for (number, partition) in (0..).zip(&archive.topics[index].partitions) {
        let log = (group.0, group.1, index, number);
        let (low, high) = if to == "earliest" {
            (partition.start_before.min(partition.start), partition.start)
        } else {
            // It may have been before or after what was published in the same step.
            let mut fresh = partition.offsets.iter().filter(|(_, messages)| {
                messages.iter().any(|message| {
                    let place = archive.places[*message].as_ref();
                    place.is_some_and(|place| {
                        (place.life, place.write) == (archive.life, step.write)
                    })
                })
            });
            (
                fresh.next().map_or(partition.end, |(first, _)| *first),
                partition.end,
            )
        };
        let floor = Floor {
            life: archive.life,
            write: step.write,
            low,
            high,
        };
        model.ledger.floors.entry(log).or_default().push(floor);
        if let Some(hold) = model.ledger.holds.get_mut(&log) {
            hold.is_moved = true;
            hold.revoked = false;
        }
    }
    Ok(())
}

fn take_assignment(
    model: &mut Model,
    step: &Step<'_>,
    connection: u64,
    told: &Assignment<'_>,
) -> Check {
    let key = (connection, told.subscription);
    let Some(seat) = model.ledger.seats.get(&key).cloned() else {
        return Err("it is no member".to_owned());
    };
    let group = model.ledger.group(seat.group);
    if told.generation < group.generation {
        return Err(format!("it follows generation {}", group.generation));
    }
    group.generation = told.generation;
    for one in told.assigned.iter().flatten() {
        let log = log_key(&model.archive, seat.group, one.topic, one.partition)?;
        check_assigned(model, step.now, &seat, log, told.generation, &one)?;
        let hold = Hold {
            member: seat.member.clone(),
            since: told.generation,
            next: one.offset,
            revoked: false,
            is_moved: false,
        };
        model.ledger.holds.insert(log, hold);
    }
    for one in told.revoked.iter().flatten() {
        let log = log_key(&model.archive, seat.group, one.topic, one.partition)?;
        let hold = model.ledger.holds.get_mut(&log);
        let hold = hold.filter(|hold| hold.member == seat.member && !hold.revoked);
        let hold = hold.ok_or_else(|| format!("it is to let go of {one:?}, which it has not"))?;
        hold.revoked = true;
        model
            .ledger
            .group(seat.group)
            .waits_since
            .get_or_insert(step.now);
    }
    Ok(())
}

/// A partition is given to a member that takes it, when nobody has it, at the place that the group committed.
fn check_assigned(
    model: &Model,
    now: u64,
    seat: &Seat,
    log: LogKey,
    generation: u64,
    one: &Position<'_>,
) -> Check {
    if !seat
        .filters
        .iter()
        .any(|filter| filter_matches(filter, one.topic))
    {
        return Err(format!("{one:?} does not match {:?}", seat.filters));
    }
    if let Some(hold) = model.ledger.holds.get(&log) {
        let rebalance_ms = model.bounds.rebalance_ms;
        if hold.member == seat.member {
            // It was taken away, by its own word or because it took too long, or it is told again.
            if !model
                .ledger
                .may_be_lost(seat.group, hold, now, rebalance_ms)
            {
                return Err(format!("{one:?} is its own already: {hold:?}"));
            }
        } else if !model
            .ledger
            .may_be_lost(seat.group, hold, now, rebalance_ms)
        {
            return Err(format!("{one:?} is another's: {hold:?}"));
        } else if generation <= hold.since {
            return Err(format!(
                "{one:?} is given in the generation of another: {hold:?}"
            ));
        }
    }
    let (low, high) = model.ledger.floor(log);
    let partition = &model.archive.topics[log.2].partitions[log.3 as usize];
    let high = high.max(partition.start);
    let allowed =
        one.offset >= low && (one.offset <= high || skips(model, log, high, one.offset).is_none());
    if allowed {
        Ok(())
    } else {
        Err(format!(
            "{one:?} begins elsewhere than the group is, {low} to {high}"
        ))
    }
}

fn take_delivery(model: &mut Model, connection: u64, delivery: &Delivery<'_>) -> Check {
    let key = (connection, delivery.subscription);
    let Some(seat) = model.ledger.seats.get(&key).cloned() else {
        return Err("it is no member".to_owned());
    };
    let message = model.archive.number_of(delivery.payload)?;
    let told = Told {
        namespace: seat.group.0,
        topic: delivery.topic,
        partition: delivery.partition,
        offset: delivery.offset,
        sequence: delivery.sequence,
        timestamp: delivery.timestamp,
        expires_at: delivery.expires_at,
        key: delivery.key,
        id: delivery.id,
        headers: delivery
            .headers
            .iter()
            .flat_map(|headers| headers.iter())
            .collect(),
    };
    model.archive.check_told(message, &told)?;
    if delivery.lease.is_some() || delivery.attempt.is_some() {
        return Err("it has a lease".to_owned());
    }
    let log = log_key(
        &model.archive,
        seat.group,
        delivery.topic,
        delivery.partition,
    )?;
    let hold = model.ledger.holds.get(&log);
    let hold = hold.filter(|hold| hold.member == seat.member && !hold.is_moved && !hold.revoked);
    let next = hold.ok_or("the partition is not its own")?.next;
    if delivery.offset < next {
        return Err(format!("it was read to {next}"));
    }
    if let Some(skipped) = skips(model, log, next, delivery.offset) {
        return Err(format!("message {skipped} was passed over"));
    }
    if model.ledger.group(seat.group).paused.is_some() {
        return Err("the group stands still".to_owned());
    }
    let ledger = &mut model.ledger;
    if let Some(hold) = ledger.holds.get_mut(&log) {
        hold.next = delivery.offset + 1;
    }
    if let Some(credit) = ledger
        .seats
        .get_mut(&key)
        .and_then(|seat| seat.credit.as_mut())
    {
        *credit = credit.checked_sub(1).ok_or("it exceeds the credit")?;
    }
    Ok(())
}

fn take_gap(model: &mut Model, connection: u64, gap: &Gap<'_>) -> Check {
    let key = (connection, gap.subscription);
    let seat = model
        .ledger
        .seats
        .get(&key)
        .cloned()
        .ok_or("it is no member")?;
    let (Some(topic), Some(partition), Some(from), Some(to)) =
        (gap.topic, gap.partition, gap.from_offset, gap.to_offset)
    else {
        return Err("it does not say where".to_owned());
    };
    let log = log_key(&model.archive, seat.group, topic, partition)?;
    let start = model.archive.topics[log.2].partitions[log.3 as usize].start;
    let hold = model
        .ledger
        .holds
        .get(&log)
        .filter(|hold| hold.member == seat.member);
    let next = hold.ok_or("the partition is not its own")?.next;
    if from < next || from >= to || to > start || gap.count != Some(to - from) {
        return Err(format!("it was read to {next}, the log begins at {start}"));
    }
    if let Some(skipped) = skips(model, log, next, from) {
        return Err(format!("message {skipped} was passed over"));
    }
    if let Some(hold) = model.ledger.holds.get_mut(&log) {
        hold.next = to;
    }
    Ok(())
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
        for message in 0..archive.places.len() {
            let Some(place) = &archive.places[message] else {
                continue;
            };
            let topic = &archive.topics[place.topic];
            let is_read = group
                .filters
                .iter()
                .any(|filter| filter_matches(filter, &topic.name));
            let (low, _) = model
                .ledger
                .floor((key.0, key.1, place.topic, place.partition));
            if topic.namespace == namespace
                && topic.kind != "live"
                && is_read
                && archive.is_there(message, archive.life)
                && !archive.is_excused(message, now)
                && place.offset >= topic.partitions[place.partition as usize].start.max(low)
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
