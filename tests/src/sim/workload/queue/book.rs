//! What queues were told and said, step by step.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_core::Durability;
use dunlin_core::frame::{Delivery, Reply};

use crate::sim::archive::{Check, Told, filter_matches};
use crate::sim::command;
use crate::sim::frames::decode;
use crate::sim::model::{Answer, Given, Model, Step};
use crate::sim::recovery::{Ended, When};

use super::super::transact;
use super::{MEMBERSHIPS_FROM, Order, Verdict};

#[derive(Debug)]
struct Membership {
    namespace: usize,
    group: &'static str,
    member: String,
    is_named: bool,
}

#[derive(Debug)]
struct Lease {
    group: &'static str,
    member: String,
    message: usize,
    until: u64,
    granted: When,
    ended: Option<When>,
    /// Whether nobody else may get the message before `until`.
    is_firm: bool,
}

/// What became of a message in a group.
#[derive(Debug, Default)]
struct Story {
    attempts: Vec<When>,
    leases: Vec<u64>,
    acked: Option<When>,
    rejected: Option<When>,
}

/// A group, as it was last told.
#[derive(Debug)]
struct Group {
    filters: Vec<String>,
    dead_letters: u64,
    /// When it was first told of; what was not stored then may never have been.
    since: When,
}

/// What the model knows of queues.
#[derive(Debug, Default)]
pub(in crate::sim) struct Book {
    memberships: BTreeMap<(u64, u32), Membership>,
    leases: BTreeMap<(usize, u64), Lease>,
    stories: BTreeMap<(usize, &'static str, usize), Story>,
    /// What the answer to a command waits for.
    waits: BTreeMap<(u64, u64), (u64, Durability)>,
    groups: BTreeMap<(usize, &'static str), Group>,
    /// The newest life of which something was heard.
    life: u64,
    /// The latest that a clock has shown: what was over then stays so, though the next life's clock may be behind.
    latest: u64,
}

impl Book {
    /// A life ended, and what it had not stored is forgotten.
    pub(in crate::sim) fn recover(&mut self, ended: Ended) {
        self.waits.clear();
        self.groups.retain(|_, group| !group.since.is_lost(ended));
        for lease in self.leases.values_mut() {
            if lease.granted.is_lost(ended) {
                lease.ended = Some(lease.granted);
                lease.is_firm = false;
            } else if lease.ended.is_some_and(|at| at.is_lost(ended)) {
                // It is back, and nobody knows for how long.
                lease.ended = None;
                lease.is_firm = false;
            }
        }
        for story in self.stories.values_mut() {
            story.attempts.retain(|at| !at.is_lost(ended));
            story.acked = story.acked.filter(|at| !at.is_lost(ended));
            story.rejected = story.rejected.filter(|at| !at.is_lost(ended));
        }
    }

    /// The connections that are members.
    pub(in crate::sim) fn members(&self) -> impl Iterator<Item = u64> {
        self.memberships.keys().map(|(connection, _)| *connection)
    }

    /// What an answer that leaves waits for, if it settles leases.
    pub(in crate::sim) fn waits_for(
        &self,
        connection: u64,
        request: u64,
    ) -> Option<(u64, Durability)> {
        self.waits.get(&(connection, request)).copied()
    }

    /// A member lost its connection or membership.
    fn part(&mut self, connection: u64, subscription: u32, now: u64, session_ms: Option<u64>) {
        let Some(gone) = self.memberships.remove(&(connection, subscription)) else {
            return;
        };
        let leases = self.leases.iter_mut().filter(|((namespace, _), lease)| {
            *namespace == gone.namespace && lease.group == gone.group && lease.member == gone.member
        });
        for (_, lease) in leases {
            match session_ms {
                Some(session_ms) if gone.is_named => {
                    lease.until = lease.until.min(now + session_ms);
                }
                _ => lease.is_firm = false,
            }
        }
    }

    /// Since when a member without a connection is away goes on over the lives of the broker, and is known to it alone.
    fn begin_life(&mut self, life: u64) {
        if core::mem::replace(&mut self.life, life) == life {
            return;
        }
        let mut here = BTreeSet::new();
        for membership in self.memberships.values() {
            here.insert((membership.namespace, membership.group, &*membership.member));
        }
        for ((namespace, _), lease) in &mut self.leases {
            lease.is_firm &= here.contains(&(*namespace, lease.group, &*lease.member));
        }
    }

    fn part_all(&mut self, connection: u64, now: u64, session_ms: u64) {
        let range = (connection, 0)..=(connection, u32::MAX);
        let gone: Vec<_> = self.memberships.range(range).map(|(key, _)| *key).collect();
        for (connection, subscription) in gone {
            self.part(connection, subscription, now, Some(session_ms));
        }
    }
}

/// Whether a frame is of a membership.
pub(in crate::sim) const fn is_membership(subscription: u32) -> bool {
    subscription >= MEMBERSHIPS_FROM
}

pub(super) fn take_step(model: &mut Model, step: &Step<'_>) -> Check {
    let session_ms = model.bounds.session_ms;
    let known: BTreeSet<u64> = model.connections.keys().copied().collect();
    let mut gone: BTreeSet<u64> = model.book.memberships.keys().map(|(id, _)| *id).collect();
    gone.retain(|connection| !known.contains(connection));
    let mut after = BTreeSet::new();
    for given in step.given {
        match given {
            Given::Disconnect { connection } => {
                after.insert(*connection);
            }
            Given::Restored {
                connection,
                clean: false,
            } => {
                gone.insert(*connection);
            }
            _ => {}
        }
    }
    for connection in gone {
        model.book.part_all(connection, step.now, session_ms);
    }
    let life = model.archive.life;
    model.book.begin_life(life);
    model.book.latest = model.book.latest.max(step.now);
    // Commands take effect in the order in which they were given, before anything is dealt out.
    for key in step.handled {
        if let Some((pending, reply)) = step.replies.get(key) {
            let answer = Answer {
                connection: key.0,
                namespace: pending.namespace,
                pending,
                order: &pending.request.order,
                reply,
            };
            match answer.order {
                command::Order::Queue(order) => take_answer(model, step, &answer, order)?,
                command::Order::Transact(order) => take_transaction(model, step, &answer, order)?,
                _ => {}
            }
        }
    }
    // Transactions that were held go on when everything else was done.
    for answer in step.answers() {
        let number = (answer.connection, answer.pending.request.number);
        if let command::Order::Transact(order) = answer.order
            && !step.handled.contains(&number)
        {
            take_transaction(model, step, &answer, order)?;
        }
    }
    for said in step.said {
        // Its session may have been over before its connection was.
        if step
            .silenced()
            .any(|connection| connection == said.connection)
            && let Reply::Ended(ended) = decode(&said.frame)?
        {
            let key = (said.connection, ended.subscription);
            model.book.part(key.0, key.1, step.now, None);
        }
    }
    for connection in after.into_iter().chain(step.silenced()) {
        model.book.part_all(connection, step.now, session_ms);
    }
    for said in step.said {
        match decode(&said.frame)? {
            Reply::Delivery(delivery) if is_membership(delivery.subscription) => {
                take_delivery(model, step, said.connection, &delivery).map_err(|error| {
                    format!(
                        "lease {:?} to {} of connection {}: {error}",
                        delivery.lease, delivery.subscription, said.connection
                    )
                })?;
            }
            Reply::Ended(ended) if is_membership(ended.subscription) => {
                // Whoever took the place of a named member has what it had.
                let session = (ended.code == "member_replaced").then_some(session_ms);
                let key = (said.connection, ended.subscription);
                model.book.part(key.0, key.1, step.now, session);
            }
            Reply::Resync(_) => model.book.part_all(said.connection, step.now, session_ms),
            _ => {}
        }
    }
    Ok(())
}

fn take_answer(model: &mut Model, step: &Step<'_>, answer: &Answer<'_>, order: &Order) -> Check {
    match (order, answer.reply) {
        (
            Order::Configure { group, .. } | Order::Describe { group },
            Reply::GroupDescription(told),
        ) => {
            let known = Group {
                filters: told.filters.iter().map(str::to_owned).collect(),
                dead_letters: told.dead_letters,
                since: When {
                    life: model.archive.life,
                    write: step.write,
                },
            };
            let groups = &mut model.book.groups;
            let before = groups.insert((answer.namespace, *group), known);
            if let (Some(before), Some(group)) =
                (before, groups.get_mut(&(answer.namespace, *group)))
            {
                group.since = before.since;
            }
        }
        (
            Order::Join {
                subscription,
                group,
                member,
                ..
            },
            Reply::Joined(told),
        ) => {
            if member.as_ref().is_some_and(|asked| asked != told.member) {
                return Err(format!("{order:?} made a member \"{}\"", told.member));
            }
            let membership = Membership {
                namespace: answer.namespace,
                group,
                member: told.member.to_owned(),
                is_named: member.is_some(),
            };
            // Whoever had the name is told so in this step, and settles nothing any more.
            let is_replaced = |other: &Membership| {
                (other.namespace, other.group, &other.member)
                    == (membership.namespace, membership.group, &membership.member)
            };
            let replaced = model.book.memberships.iter();
            let replaced = replaced.filter(|(_, other)| is_replaced(other));
            let replaced: Vec<_> = replaced.map(|(key, _)| *key).collect();
            let session_ms = model.bounds.session_ms;
            for (connection, subscription) in replaced {
                let book = &mut model.book;
                book.part(connection, subscription, step.now, Some(session_ms));
            }
            let key = (answer.connection, *subscription);
            model.book.memberships.insert(key, membership);
        }
        (Order::Leave { subscription }, Reply::Done(_)) => {
            let book = &mut model.book;
            book.part(answer.connection, *subscription, step.now, None);
        }
        (Order::Settle { verdict, leases }, Reply::Settled(told)) => {
            let failed: BTreeMap<u64, &str> = told
                .failed
                .iter()
                .flatten()
                .map(|failed| (failed.lease, failed.code))
                .collect();
            for lease in leases {
                take_settled(
                    model,
                    step,
                    answer,
                    *verdict,
                    *lease,
                    failed.get(lease).copied(),
                )?;
            }
        }
        (Order::Join { .. }, Reply::Failed(failed)) => {
            // The last, where a filter is the name of a live topic.
            let codes = ["storage_unavailable", "limit_reached", "conflicting_config"];
            model.take_refusal(order, failed, &codes)?;
        }
        (Order::Leave { .. }, Reply::Failed(failed)) => {
            let codes = [
                "unknown_subscription",
                "unknown_member",
                "storage_unavailable",
            ];
            model.take_refusal(order, failed, &codes)?;
        }
        (Order::Configure { .. } | Order::Settle { .. }, Reply::Failed(failed)) => {
            model.take_refusal(order, failed, &["storage_unavailable"])?;
        }
        (Order::Describe { group }, Reply::Failed(failed)) => {
            if let Some(known) = model.book.groups.get(&(answer.namespace, *group)) {
                return Err(format!("\"{group}\" is gone: {known:?}"));
            }
            model.take_refusal(order, failed, &["unknown_group"])?;
        }
        _ => return answer.is_none_of_these(),
    }
    Ok(())
}

/// Either all leases of a transaction are settled with it or, if it was done before, with the first.
fn take_transaction(
    model: &mut Model,
    step: &Step<'_>,
    answer: &Answer<'_>,
    order: &transact::Order,
) -> Check {
    match answer.reply {
        Reply::Transacted(told) if told.receipts.iter().flatten().all(|place| place.duplicate) => {
            for number in &order.leases {
                let lease = &model.book.leases[&(answer.namespace, *number)];
                if lease.ended.is_none() {
                    return Err(format!(
                        "{order:?} was done before, but not with lease {number}: {lease:?}"
                    ));
                }
            }
            Ok(())
        }
        Reply::Transacted(_) => {
            for lease in &order.leases {
                take_settled(model, step, answer, Verdict::Ack, *lease, None)?;
            }
            Ok(())
        }
        Reply::Failed(failed) if failed.code == "unknown_lease" => {
            let mut last = Err(format!("{order:?} without leases: {failed:?}"));
            for lease in &order.leases {
                let code = Some(failed.code);
                last = take_settled(model, step, answer, Verdict::Ack, *lease, code);
                if last.is_ok() {
                    break;
                }
            }
            last
        }
        // The rest is the business of publishing.
        _ => Ok(()),
    }
}

fn take_settled(
    model: &mut Model,
    step: &Step<'_>,
    answer: &Answer<'_>,
    verdict: Verdict,
    number: u64,
    failed: Option<&str>,
) -> Check {
    let namespace = answer.namespace;
    let when = step.when(&model.archive);
    let book = &mut model.book;
    let lease = book.leases.get_mut(&(namespace, number));
    let lease = lease.ok_or_else(|| format!("lease {number} was never given"))?;
    let range = (answer.connection, 0)..=(answer.connection, u32::MAX);
    let is_own = book.memberships.range(range).any(|(_, membership)| {
        (membership.group, &membership.member) == (lease.group, &lease.member)
    });
    let place = model.archive.place(lease.message)?;
    let topic = &model.archive.topics[place.topic];
    if let Some(code) = failed {
        let holds = is_own
            && lease.ended.is_none()
            && lease.is_firm
            && lease.until > book.latest
            && !topic.deleted;
        return if code != "unknown_lease" || holds {
            Err(format!(
                "{verdict:?} of lease {number} fails with {code}: {lease:?}"
            ))
        } else {
            Ok(())
        };
    }
    if lease.ended.is_some() || !is_own {
        return Err(format!(
            "{verdict:?} of lease {number} holds on connection {}, own {is_own}: {lease:?}",
            answer.connection
        ));
    }
    let level = topic.durability;
    let wait = book
        .waits
        .entry((answer.connection, answer.pending.request.number))
        .or_insert((when.write, level));
    wait.1 = wait.1.max(level);
    let story = book
        .stories
        .get_mut(&(namespace, lease.group, lease.message));
    let story = story.expect("who has a lease has a story");
    if let Verdict::Extend(ms) = verdict {
        lease.until = step.now + ms;
        lease.is_firm = false;
    } else {
        lease.ended = Some(when);
    }
    match verdict {
        Verdict::Ack => {
            story.acked = Some(when);
        }
        Verdict::Reject => story.rejected = Some(when),
        Verdict::Nack(_) | Verdict::Extend(_) => {}
    }
    Ok(())
}

fn take_delivery(
    model: &mut Model,
    step: &Step<'_>,
    connection: u64,
    delivery: &Delivery<'_>,
) -> Check {
    let message = model.archive.number_of(delivery.payload, delivery.topic)?;
    let key = (connection, delivery.subscription);
    let Some(membership) = model.book.memberships.get(&key) else {
        // It ended in this very batch, after this was given to it.
        return Ok(());
    };
    let (namespace, group) = (membership.namespace, membership.group);
    let member = membership.member.clone();
    let told = Told::by(delivery, namespace);
    model.archive.check_told(message, &told)?;
    if delivery.expires_at.is_some_and(|at| at <= step.now) {
        return Err(format!("message {message} has expired"));
    }
    let (Some(number), Some(attempt)) = (delivery.lease, delivery.attempt) else {
        return Err(format!(
            "message {message} comes without a lease or an attempt"
        ));
    };
    check_order(model, namespace, group, message)?;
    let when = step.when(&model.archive);
    let attempts_max = model.bounds.max_delivery_attempts;
    let until = step.now + model.bounds.ack_deadline_ms;
    let book = &mut model.book;
    let story = book.stories.entry((namespace, group, message)).or_default();
    if let Some(acked) = story.acked {
        return Err(format!(
            "message {message} is delivered, but was acknowledged: {acked:?}"
        ));
    }
    if let Some(rejected) = story.rejected {
        return Err(format!(
            "message {message} is delivered, but was rejected: {rejected:?}"
        ));
    }
    let expected = story.attempts.len() as u64 + 1;
    if u64::from(attempt) != expected || expected > attempts_max {
        return Err(format!(
            "attempt {attempt} of message {message}, expected {expected} of {attempts_max}: {story:?}"
        ));
    }
    for other in &story.leases {
        let lease = book.leases.get_mut(&(namespace, *other));
        let lease = lease.expect("leases are kept");
        if lease.ended.is_none() {
            if lease.is_firm && lease.until > book.latest {
                return Err(format!("message {message} is leased still: {lease:?}"));
            }
            lease.ended = Some(when);
        }
    }
    story.attempts.push(when);
    story.leases.push(number);
    let lease = Lease {
        group,
        member,
        message,
        until,
        granted: when,
        ended: None,
        is_firm: true,
    };
    if let Some(other) = book.leases.insert((namespace, number), lease)
        && (other.ended.is_none() || other.message == message)
    {
        return Err(format!("lease {number} is given twice: {other:?}"));
    }
    Ok(())
}

/// While a message of a key is with a member or comes again, no other of the key is delivered.
fn check_order(model: &Model, namespace: usize, group: &'static str, message: usize) -> Check {
    let archive = &model.archive;
    let place = archive.place(message)?;
    let topic = &archive.topics[place.topic];
    if topic.ordering == "none" {
        return Ok(());
    }
    let by_key = topic.ordering == "per_key";
    let key = |message: usize| archive.drafts[message].key.as_deref().unwrap_or_default();
    let partition = &topic.partitions[place.partition as usize];
    let all = archive.there(place.topic, place.partition, 0..partition.end, archive.life);
    for (_, other) in all {
        if other == message || (by_key && key(other) != key(message)) {
            continue;
        }
        let Some(story) = model.book.stories.get(&(namespace, group, other)) else {
            continue;
        };
        if model
            .book
            .is_pending(namespace, story, model.bounds.max_delivery_attempts)
            && !archive.is_excused(other, model.book.latest)
            && archive.place(other)?.offset >= partition.start
        {
            return Err(format!(
                "message {message} of \"{}\" {} is delivered, while {other} is not done: {story:?} {:?}",
                topic.name,
                place.partition,
                story
                    .leases
                    .last()
                    .map(|lease| &model.book.leases[&(namespace, *lease)])
            ));
        }
    }
    Ok(())
}

impl Book {
    /// Whether a message was delivered and neither done nor given up.
    fn is_pending(&self, namespace: usize, story: &Story, attempts_max: u64) -> bool {
        let is_leased = story.leases.iter().any(|lease| {
            let lease = &self.leases[&(namespace, *lease)];
            lease.ended.is_none() && lease.is_firm && lease.until > self.latest
        });
        let count = story.attempts.len() as u64;
        story.acked.is_none()
            && story.rejected.is_none()
            && count > 0
            && (count < attempts_max || is_leased)
    }
}

/// Whether everything that is kept was acknowledged, or given up and kept as a dead letter.
pub(super) fn check_complete(model: &Model, namespace: usize, now: u64) -> Check {
    let archive = &model.archive;
    for ((_, group), known) in model
        .book
        .groups
        .iter()
        .filter(|((of, _), _)| *of == namespace)
    {
        let Group {
            filters,
            dead_letters,
            ..
        } = known;
        let mut dead = 0;
        for message in 0..archive.drafts.len() {
            let Some(place) = archive.newest(message) else {
                continue;
            };
            let topic = &archive.topics[place.topic];
            let is_read = filters
                .iter()
                .any(|filter| filter_matches(filter, &topic.name));
            if topic.namespace != namespace
                || topic.kind == "live"
                || !is_read
                || !archive.is_there(message, archive.life)
                || archive.is_excused(message, now)
                || place.offset < topic.partitions[place.partition as usize].start
            {
                continue;
            }
            let story = model.book.stories.get(&(namespace, group, message));
            if story.is_some_and(|story| story.acked.is_some()) {
                continue;
            }
            let given_up = story.is_some_and(|story| {
                story.rejected.is_some()
                    || story.attempts.len() as u64 >= model.bounds.max_delivery_attempts
            });
            if !given_up {
                return Err(format!(
                    "message {message}, \"{}\" {} {}, was never acknowledged in \"{group}\" ({filters:?}): {story:?}",
                    topic.name, place.partition, place.offset
                ));
            }
            dead += 1;
        }
        if dead > *dead_letters {
            return Err(format!(
                "\"{group}\" has {dead_letters} dead letters, but gave {dead} messages up"
            ));
        }
    }
    Ok(())
}
