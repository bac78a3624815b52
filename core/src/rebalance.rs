//! A partitioned group: gives partitions to members, delivers in their order, and takes note of committed offsets.
//!
//! Who is to have what is decided at once (`assign.rs`), and carried out step by step: what is nobody's is given, and
//! what is another's is asked back, while everything else goes on (incremental cooperative rebalancing, KIP-429; the
//! broker decides, as in KIP-848). A commit counts only under a generation in which the member had the partition, so
//! that one who was thought to be gone cannot move what has become another's.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;

use crate::assign::{TopicPartitions, assign};
use crate::context::Context;
use crate::cursor::{Cursor, Step};
use crate::deadline::Due;
use crate::effect::After;
use crate::error::{ErrorCode, Refusal};
use crate::group::{GroupKind, Ownership, trimmed_gap};
use crate::ids::{Generation, Offset, Partition, TopicId};
use crate::mutation::Mutation;
use crate::namespace::Namespace;
use crate::priority::Reading;
use crate::protocol::field::List;
use crate::protocol::frame::{Assignment, Commit, Credit, Done, Position, Rebalanced, Reply};
use crate::publish::DeliveryBody;
use crate::subscription::{UNLIMITED, more_credit};

/// How many messages a log delivers before it is another's turn.
const TURN_MESSAGES: u32 = 64;

/// How a turn of a log ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fed {
    /// There may be more.
    One,
    /// Nothing can be delivered before something else happens.
    Nothing,
}

/// A member that commits under a generation that is not too old for all of its group.
#[derive(Clone, Copy)]
pub(crate) struct Committer {
    pub(crate) group: u32,
    member: u32,
    generation: u64,
}

impl Namespace {
    /// Notes that members or partitions of a group changed.
    pub(crate) fn rebalance(&mut self, cx: &mut Context, index: u32) {
        let group = &mut self.groups[index as usize];
        if group.config.kind == GroupKind::Partitioned {
            group.unsettled = true;
            self.queue_group(cx, index);
        }
    }

    /// A member has joined, perhaps in its own place: what it had it is told again.
    pub(crate) fn rejoin(&mut self, cx: &mut Context, index: u32, member: u32) {
        for (_, log) in &mut self.groups[index as usize].logs {
            if log.ownership.owner == Some(member) {
                log.ownership.since = None;
                log.ownership.revoked = None;
            }
        }
        self.rebalance(cx, index);
    }

    /// A member is gone: what it had is nobody's.
    pub(crate) fn disown(&mut self, cx: &mut Context, index: u32, member: u32) {
        let mut had = Vec::new();
        for (log, entry) in &mut self.groups[index as usize].logs {
            let ownership = &mut entry.ownership;
            if ownership.target == Some(member) {
                ownership.target = None;
            }
            if ownership.owner == Some(member) {
                *ownership = ownership.let_go();
                had.push(log as u32);
            }
        }
        for log in had {
            self.touch_group_log(cx, index, log);
        }
        self.rebalance(cx, index);
    }

    /// Delivers what can be delivered, after dealing out partitions where something changed.
    pub(crate) fn feed(&mut self, cx: &mut Context, index: u32) {
        if core::mem::take(&mut self.groups[index as usize].unsettled) {
            self.choose_targets(cx, index);
        }
        self.hand_over(cx, index);
        self.end_waits(cx, index);
        let bytes_max = cx.config.catch_up_bytes_max;
        let mut bytes = 0;
        while !self.groups[index as usize].paused {
            let group = &mut self.groups[index as usize];
            let Some(log) = group.ready.pop_front() else {
                break;
            };
            group.logs[log as usize].queued = false;
            let mut fed = Fed::One;
            for _ in 0..TURN_MESSAGES {
                fed = self.feed_one(cx, index, log, &mut bytes);
                if fed == Fed::Nothing || bytes > bytes_max {
                    break;
                }
            }
            if fed == Fed::One {
                self.groups[index as usize].log_ready(log);
            }
            if bytes > bytes_max {
                // The rest comes with the next batch.
                self.queue_group(cx, index);
                cx.more = true;
                break;
            }
        }
        self.send_frames(cx, index);
    }

    /// Decides who is to have which partition.
    fn choose_targets(&mut self, cx: &mut Context, index: u32) {
        let group = &mut self.groups[index as usize];
        // In the order of joining, which is that of their numbers.
        let members: BTreeMap<_, u32> = group
            .members
            .iter()
            .map(|(member, entry)| (entry.id, member as u32))
            .collect();
        let members: Vec<u32> = members.into_values().collect();
        let place = |member: u32| members.iter().position(|other| *other == member);
        let mut topics: BTreeMap<TopicId, Vec<(Partition, u32)>> = BTreeMap::new();
        for (log, entry) in &group.logs {
            let logs = topics.entry(entry.topic_id).or_default();
            logs.push((entry.partition, log as u32));
        }
        let (mut order, mut held, mut acceptors) = (Vec::new(), Vec::new(), Vec::new());
        for logs in topics.values_mut() {
            logs.sort_unstable();
            let first = &group.logs[logs[0].1 as usize];
            let name = &self.topics[first.topic as usize].name;
            let takers = members
                .iter()
                .enumerate()
                .filter(|(_, member)| group.members[**member as usize].takes(name));
            let takers: Vec<usize> = takers.map(|(place, _)| place).collect();
            for (_, log) in &*logs {
                let owner = group.logs[*log as usize].ownership.owner;
                order.push(*log);
                held.push(owner.and_then(place));
            }
            acceptors.push((name.clone(), logs.len() as u32, takers));
        }
        let partitions: Vec<TopicPartitions<'_>> = acceptors
            .iter()
            .map(|(name, partitions, acceptors)| TopicPartitions {
                name,
                partitions: *partitions,
                acceptors,
            })
            .collect();
        let identities: Vec<&str> = members
            .iter()
            .map(|member| &*group.members[*member as usize].name)
            .collect();
        let targets = assign(group.config.strategy, &partitions, &identities, &held);
        let mut changed = false;
        for (log, target) in order.into_iter().zip(targets) {
            let ownership = &mut group.logs[log as usize].ownership;
            let target = target.map(|place| members[place]);
            changed |= ownership.target != target || ownership.owner != target;
            ownership.target = target;
        }
        if changed && !Mutation::GenerationKept.is_active() {
            group.generation = Generation(group.generation.0 + 1);
            self.touch_group(cx, index);
        }
    }

    /// Gives what is nobody's to whom it is meant for, asks for what is another's, and tells both.
    fn hand_over(&mut self, cx: &mut Context, index: u32) {
        let group = &mut self.groups[index as usize];
        let generation = group.generation;
        let mut told: BTreeMap<u32, (Vec<u8>, Vec<u8>)> = BTreeMap::new();
        let mut given = Vec::new();
        let mut waits = false;
        for (log, entry) in &mut group.logs {
            let ownership = &mut entry.ownership;
            let never_knew = ownership.is_wanted_back()
                && (ownership.since.is_none() || Mutation::RevokedGivenEarly.is_active());
            if ownership.owner.is_none() || never_knew {
                if ownership.owner == ownership.target {
                    continue;
                }
                *ownership = Ownership {
                    owner: ownership.target,
                    ..ownership.let_go()
                };
                given.push(log as u32);
            }
            let Some(owner) = ownership.owner else {
                continue;
            };
            let topic = &self.topics[entry.topic as usize];
            let stored = &topic.partitions[entry.partition.0 as usize].log;
            let position = |offset: Offset| Position {
                topic: &topic.name,
                partition: entry.partition.0,
                offset: offset.0,
            };
            let is_here = group.members[owner as usize].connection.is_some();
            waits |= ownership.is_awaited();
            if ownership.is_wanted_back() {
                if is_here && ownership.revoked.is_none() {
                    ownership.revoked = Some(generation);
                    let (_, revoked) = told.entry(owner).or_default();
                    List::push(revoked, &position(entry.fresh.next()));
                }
            } else if is_here && ownership.since.is_none() {
                ownership.since = Some(generation);
                entry.floor = entry.floor.max(stored.start());
                let (assigned, _) = told.entry(owner).or_default();
                List::push(assigned, &position(entry.floor));
                entry.fresh = Cursor::eager(stored, entry.floor);
                entry.delivered = entry.floor;
                given.push(log as u32);
            }
        }
        for (member, (assigned, revoked)) in &told {
            let entry = &mut group.members[*member as usize];
            let assignment = Assignment {
                subscription: entry.subscription.0,
                generation: generation.0,
                assigned: List::new(assigned),
                revoked: List::new(revoked),
            };
            if let Some(connection) = entry.connection {
                cx.reply_in_order(connection, entry.after, &Reply::Assignment(assignment));
            }
        }
        let due = Due::Rebalance(self.index, index);
        if let Some(patience) = group.patience.take_if(|_| !waits) {
            cx.deadlines.remove(&(patience, due));
        } else if waits && group.patience.is_none() {
            let patience = cx.now.after_ms(group.config.rebalance_ms);
            group.patience = Some(patience);
            cx.deadlines.insert((patience, due));
        }
        for log in given {
            self.groups[index as usize].log_ready(log);
            self.touch_group_log(cx, index, log);
        }
    }

    /// Members had time enough to let go of their partitions.
    pub(crate) fn rebalance_due(&mut self, cx: &mut Context, index: u32) {
        let group = &mut self.groups[index as usize];
        group.patience = None;
        let late: Vec<u32> = group
            .logs
            .iter()
            .filter(|(_, entry)| entry.ownership.is_awaited())
            .map(|(log, _)| log as u32)
            .collect();
        self.let_go(cx, index, &late);
    }

    /// Partitions are nobody's, until they are given to whom they are meant for.
    fn let_go(&mut self, cx: &mut Context, index: u32, logs: &[u32]) {
        if logs.is_empty() {
            return;
        }
        // Whoever had them must not commit under the generation that the next one is told.
        let group = &mut self.groups[index as usize];
        group.generation = Generation(group.generation.0 + 1);
        self.touch_group(cx, index);
        for log in logs {
            let ownership = &mut self.groups[index as usize].logs[*log as usize].ownership;
            *ownership = ownership.let_go();
            self.touch_group_log(cx, index, *log);
        }
        self.queue_group(cx, index);
    }

    /// A member lets go of what it was asked for up to that generation. What it was asked for since it may not know of.
    pub(crate) fn rebalanced(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: Rebalanced,
    ) -> Result<(), Refusal> {
        let (index, member) = Self::membership(cx, connection, command.subscription)?;
        let group = &self.groups[index as usize];
        check_generation(command.generation, group.generation)?;
        let revoked: Vec<u32> = group
            .logs
            .iter()
            .filter(|(_, entry)| {
                let Ownership { owner, revoked, .. } = entry.ownership;
                owner == Some(member) && revoked.is_some_and(|told| told.0 <= command.generation)
            })
            .map(|(log, _)| log as u32)
            .collect();
        self.let_go(cx, index, &revoked);
        Ok(())
    }

    /// Moves committed offsets forward, all or none.
    pub(crate) fn commit(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &Commit<'_>,
    ) -> Result<(), Refusal> {
        let by = self.committer(cx, connection, command.subscription, command.generation)?;
        let mut moves = core::mem::take(&mut cx.committing);
        moves.clear();
        let checked = self.check_commit(cx, by, command, &mut moves);
        let mut after = After::default();
        if checked.is_ok() {
            for (log, offset) in &moves {
                after = after.and(self.move_floor(cx, by.group, *log, *offset));
            }
        }
        cx.committing = moves;
        checked?;
        let done = Done {
            request: command.request,
        };
        cx.reply(connection, after, &Reply::Done(done));
        Ok(())
    }

    /// Who commits, if it may commit anything at all.
    pub(crate) fn committer(
        &self,
        cx: &Context,
        connection: u32,
        subscription: u32,
        generation: u64,
    ) -> Result<Committer, Refusal> {
        let (group, member) = Self::membership(cx, connection, subscription)?;
        cx.require_storage()?;
        let state = &self.groups[group as usize];
        if state.config.kind != GroupKind::Partitioned {
            let message = "a queue has no offsets to commit; acknowledge its messages";
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
        check_generation(generation, state.generation)?;
        Ok(Committer {
            group,
            member,
            generation,
        })
    }

    /// Moves one committed offset forward; what the reply waits for.
    pub(crate) fn move_floor(
        &mut self,
        cx: &mut Context,
        index: u32,
        log: u32,
        offset: Offset,
    ) -> After {
        let entry = &mut self.groups[index as usize].logs[log as usize];
        let durability = self.topics[entry.topic as usize].config.durability;
        let offset = entry.done_with(offset);
        // Commits may overtake one another on their way; the furthest holds.
        if offset > entry.floor {
            entry.floor = offset;
            cx.durability = cx.durability.max(durability);
            self.touch_group_log(cx, index, log);
        }
        self.after_all(cx, durability)
    }

    /// Reads the positions of a commit, and refuses what the member may not commit.
    fn check_commit(
        &self,
        cx: &Context,
        by: Committer,
        command: &Commit<'_>,
        moves: &mut Vec<(u32, Offset)>,
    ) -> Result<(), Refusal> {
        for position in command.offsets.iter() {
            let position = position.map_err(|_| {
                let message = format!("position {} of the list is malformed", moves.len());
                Refusal::new(ErrorCode::MalformedFrame, message)
            })?;
            if moves.len() as u64 == cx.config.settle_max {
                let max = cx.config.settle_max;
                let message = format!("the list has more than {max} positions (settle_max)");
                return Err(Refusal::new(ErrorCode::TooLarge, message));
            }
            let log = self.check_position(by, &position)?;
            moves.push((log, Offset(position.offset)));
        }
        Ok(())
    }

    /// The log that a position means, if the member may commit it.
    pub(crate) fn check_position(
        &self,
        by: Committer,
        position: &Position<'_>,
    ) -> Result<u32, Refusal> {
        let Committer {
            group: index,
            member,
            generation,
        } = by;
        let topic = &self.topics[self.known_topic(position.topic)? as usize];
        let reader = topic.readers.iter().find(|(group, _)| *group == index);
        let log = reader.and_then(|(_, logs)| logs.get(position.partition as usize));
        let Some(log) = log.copied() else {
            let message = format!(
                "the group reads no partition {} of topic \"{}\"",
                position.partition, position.topic
            );
            return Err(Refusal::new(ErrorCode::UnknownPartition, message));
        };
        let entry = &self.groups[index as usize].logs[log as usize];
        let ownership = entry.ownership;
        let has_it = ownership.owner == Some(member)
            && ownership.since.is_some_and(|since| generation >= since.0);
        if !has_it && !Mutation::StaleCommit.is_active() {
            let message = format!(
                "partition {} of topic \"{}\" was not the member's in generation {generation}",
                position.partition, position.topic
            );
            return Err(Refusal::new(ErrorCode::StaleGeneration, message));
        }
        let delivered = entry.fresh.next();
        if Offset(position.offset) > delivered && !Mutation::CommitBeyondDelivered.is_active() {
            let message = format!(
                "offset {} lies beyond what was delivered of partition {} of topic \"{}\", {}",
                position.offset, position.partition, position.topic, delivered.0
            );
            return Err(Refusal::new(ErrorCode::OffsetOutOfRange, message));
        }
        Ok(log)
    }

    /// Allows a member of a partitioned group more deliveries.
    pub(crate) fn add_member_credit(
        &mut self,
        cx: &mut Context,
        (index, member): (u32, u32),
        command: Credit,
    ) -> Result<(), Refusal> {
        let group = &mut self.groups[index as usize];
        let entry = &mut group.members[member as usize];
        let credit = match group.config.kind {
            GroupKind::Queue => UNLIMITED,
            GroupKind::Partitioned => entry.credit,
        };
        entry.credit = more_credit(&cx.config, credit, command)?;
        if entry.credit > entry.credit_most {
            entry.credit_most = entry.credit;
            self.touch_member(cx, index, member);
        }
        let group = &mut self.groups[index as usize];
        let own: Vec<u32> = group
            .logs
            .iter()
            .filter(|(_, entry)| entry.ownership.owner == Some(member))
            .map(|(log, _)| log as u32)
            .collect();
        for log in own {
            group.log_ready(log);
        }
        self.queue_group(cx, index);
        Ok(())
    }

    /// Delivers the next message of a partition to its owner.
    fn feed_one(&mut self, cx: &mut Context, index: u32, log: u32, bytes: &mut u64) -> Fed {
        let group = &mut *self.groups[index as usize];
        let entry = &mut group.logs[log as usize];
        let ownership = entry.ownership;
        let Some(owner) = ownership.owner else {
            return Fed::Nothing;
        };
        let member = &mut group.members[owner as usize];
        let Some(connection) = member.connection else {
            return Fed::Nothing;
        };
        if ownership.since.is_none() || ownership.revoked.is_some() || member.credit == 0 {
            return Fed::Nothing;
        }
        let topic = &self.topics[entry.topic as usize];
        let stored = &topic.partitions[entry.partition.0 as usize].log;
        match entry.fresh.step(stored) {
            Step::End | Step::Wait => return Fed::Nothing,
            Step::Load => {
                self.load_for_group(cx, index, log, Reading::Fresh);
                return Fed::Nothing;
            }
            Step::Trimmed { from } => {
                let to = entry.fresh.next();
                let count = to.0 - from.0;
                let gap = trimmed_gap(member, topic, entry.partition, (from, to), count);
                cx.counters.lost_messages += count;
                // What was gathered comes before it.
                let frames = core::mem::take(&mut member.frames);
                if !frames.is_empty() {
                    cx.outbox
                        .deliver_to(member.after, member.connection_id, frames);
                }
                cx.reply_in_order(connection, member.after, &Reply::Gap(gap));
                return Fed::One;
            }
            Step::Ready => {}
        }
        let Some((record, spelt)) = entry.fresh.record(stored) else {
            return Fed::Nothing;
        };
        let mut delivered = 0;
        let is_expired = record.expires_at.is_some_and(|at| at <= cx.now.0);
        if is_expired {
            cx.counters.expired_messages += 1;
        } else {
            let body = DeliveryBody {
                topic: &topic.name,
                partition: entry.partition,
                record: spelt,
            };
            if member.frames.is_empty() {
                group.sending.push(owner);
            }
            let before = member.frames.len();
            body.put(member.encoding, member.subscription, &mut member.frames);
            *bytes += (member.frames.len() - before) as u64;
            if member.credit != UNLIMITED {
                member.credit -= 1;
            }
            delivered = 1;
        }
        entry.fresh.advance();
        if is_expired {
            entry.floor = entry.done_with(entry.floor);
        } else {
            entry.delivered = entry.fresh.next();
        }
        let (topic, partition) = (entry.topic, entry.partition);
        let after = self.delivery_after(topic, partition);
        let member = &mut self.groups[index as usize].members[owner as usize];
        member.after = member.after.and(after);
        self.count_delivered(cx, delivered);
        self.touch_group_log(cx, index, log);
        Fed::One
    }
}

/// Refuses a generation that nobody was told of.
fn check_generation(asked: u64, newest: Generation) -> Result<(), Refusal> {
    if asked <= newest.0 {
        return Ok(());
    }
    let message = format!(
        "generation {asked} is not known yet, the newest is {}",
        newest.0
    );
    Err(Refusal::new(ErrorCode::InvalidArgument, message))
}
