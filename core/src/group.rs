//! A consumer group: which topics it reads, how far it is in each partition, and who its members are.
//!
//! Every message of the group's topics goes to one member. A *queue* deals out single messages, each under a lease,
//! and takes them back in any order (`queue.rs`); a *partitioned* group gives whole partitions to members, who move
//! its committed offsets forward (`rebalance.rs`). A group reads from the moment it exists on, also while it has no
//! members: topics that come to be later are read from their first message.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use slab::Slab;

use crate::assign::Strategy;
use crate::config::Config;
use crate::context::{Context, Work};
use crate::cursor::Cursor;
use crate::deadline::Due;
use crate::done::Done;
use crate::effect::{Durability, Op};
use crate::error::{ErrorCode, Refusal};
use crate::hash::Map;
use crate::ids::{Generation, GroupId, MemberId, Offset, Partition, Timestamp, TopicId};
use crate::log::Log;
use crate::member::Member;
use crate::namespace::{Namespace, Topic};
use crate::priority::{Lanes, Turn};
use crate::protocol::frame::Gap;
use crate::queue::Pending;
use crate::retry::Retry;
use crate::subscription::From;
use crate::topic::{self, Kind, words};

/// The longest name of a group or member, in bytes.
pub(crate) const GROUP_NAME_BYTES_MAX: usize = 256;

words! {
    /// How a group shares out what it reads.
    GroupKind {
        /// Message by message, under leases.
        #[default]
        Queue = "queue",
        /// Partition by partition.
        Partitioned = "partitioned",
    }
}

/// What a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupConfig {
    pub(crate) kind: GroupKind,
    pub(crate) strategy: Strategy,
    /// How long a member has for a message of a queue.
    pub(crate) ack_deadline_ms: u64,
    /// After so many deliveries a message is a dead letter.
    pub(crate) max_delivery_attempts: u32,
    /// How long a message waits before it is delivered again.
    pub(crate) retry: Retry,
    /// How long a member may be silent.
    pub(crate) session_ms: u64,
    /// How long a member may take to let go of a partition.
    pub(crate) rebalance_ms: u64,
    /// How many dead letters raise an event; 0 for none.
    pub(crate) dead_letters_alert: u64,
}

impl GroupConfig {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            kind: GroupKind::default(),
            strategy: Strategy::default(),
            ack_deadline_ms: config.ack_deadline_ms,
            max_delivery_attempts: config.max_delivery_attempts as u32,
            retry: Retry::default(),
            session_ms: config.session_ms,
            rebalance_ms: config.rebalance_ms,
            dead_letters_alert: 0,
        }
    }
}

pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) name: Arc<str>,
    pub(crate) config: GroupConfig,
    /// What it reads.
    pub(crate) filters: Vec<Box<str>>,
    pub(crate) paused: bool,
    /// Rises whenever partitions are dealt out anew.
    pub(crate) generation: Generation,
    pub(crate) members: Slab<Member>,
    pub(crate) next_member: MemberId,
    pub(crate) logs: Slab<GroupLog>,
    /// Logs that may have something for a member, in turn.
    pub(crate) ready: VecDeque<u32>,
    /// Logs that wait until a load may be asked for, and since which round the group waits for that.
    pub(crate) starved: Vec<u32>,
    pub(crate) starved_in: u64,
    /// Members of a queue that can take a message, in turn.
    pub(crate) idle: VecDeque<u32>,
    /// Members that something was gathered for in this batch.
    pub(crate) sending: Vec<u32>,
    /// Logs with messages that were given up.
    pub(crate) dying: Vec<u32>,
    /// When leases end and waiting messages are due: log and offset.
    pub(crate) timers: BTreeSet<(Timestamp, u32, Offset)>,
    /// The entry among the broker's deadlines.
    pub(crate) armed: Option<Timestamp>,
    /// Of a partitioned group: whether members or partitions changed since its partitions were dealt out, and until
    /// when it waits for members that are to let go of some.
    pub(crate) unsettled: bool,
    pub(crate) patience: Option<Timestamp>,
    /// Whether it stands in the queue of those that want to go on.
    queued: bool,
    /// The log of its dead letters, once there are any, and whether an event told that there are too many.
    pub(crate) dead: Option<u32>,
    pub(crate) alerted: bool,
    /// Replayed dead letters that no member could take when it was their turn, by the topic that they came from.
    pub(crate) untaken: BTreeMap<Box<str>, BTreeSet<Turn>>,
    /// What must be written at the end of the batch.
    pub(crate) row_dirty: bool,
    pub(crate) dirty_logs: Vec<u32>,
    pub(crate) listed: bool,
}

/// Whose a partition is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ownership {
    pub(crate) owner: Option<u32>,
    /// Whose it is to become.
    pub(crate) target: Option<u32>,
    /// The generation under which the owner was told that it has it; `None` until it was told.
    pub(crate) since: Option<Generation>,
    /// The generation under which the owner was told to let go of it, if it was.
    pub(crate) revoked: Option<Generation>,
}

impl Ownership {
    /// Whether it is to become another's.
    pub(crate) fn is_wanted_back(&self) -> bool {
        self.owner.is_some() && self.owner != self.target
    }

    /// Whether its owner is to let go of it. One that was told so gets nothing of it until it has, though it may have
    /// become the one to have it since.
    pub(crate) fn is_awaited(&self) -> bool {
        self.is_wanted_back() || self.revoked.is_some()
    }

    /// Nobody's, until it is given to whom it is meant for.
    pub(crate) fn let_go(&self) -> Self {
        Self {
            target: self.target,
            ..Self::default()
        }
    }
}

/// How far a group is in one partition.
pub(crate) struct GroupLog {
    pub(crate) topic: u32,
    pub(crate) topic_id: TopicId,
    pub(crate) partition: Partition,
    /// Everything below is done, or committed.
    pub(crate) floor: Offset,
    /// What has not been delivered yet.
    pub(crate) fresh: Cursor,
    /// Of partitions: the end of what was delivered; what lies between it and `fresh` had expired, and is done with it.
    pub(crate) delivered: Offset,
    /// Whether it stands in the group's queue of logs.
    pub(crate) queued: bool,
    pub(crate) dirty: bool,
    /// Of a queue: what is done above the floor.
    pub(crate) done: Done,
    /// Of a queue: what was delivered, or is about to be, and is not done.
    pub(crate) pending: BTreeMap<Offset, Pending>,
    /// Of a queue on a log with priorities: what was never delivered, by priority.
    pub(crate) lanes: Option<Box<Lanes>>,
    /// Of a queue: what of that can be delivered as soon as a member can take it, and the place where it is read.
    pub(crate) again: BTreeSet<Turn>,
    pub(crate) again_cursor: Option<Cursor>,
    /// Of a queue: what that was last loaded for.
    pub(crate) sought: Option<Offset>,
    /// Of a queue: what was given up, and must be read to become a dead letter.
    pub(crate) dying: BTreeSet<Offset>,
    /// Of a queue on a topic with order: the keys one of whose messages is pending, with the others that wait.
    pub(crate) held_keys: Map<u64, VecDeque<Offset>>,
    pub(crate) parked: u64,
    /// Of a partitioned group: whose it is.
    pub(crate) ownership: Ownership,
}

impl GroupLog {
    pub(crate) fn new(index: u32, topic: &Topic, partition: Partition, floor: Offset) -> Self {
        let log = &topic.partitions[partition.0 as usize].log;
        Self {
            topic: index,
            topic_id: topic.id,
            partition,
            floor,
            fresh: Cursor::eager(log, floor),
            delivered: floor,
            queued: false,
            dirty: false,
            done: Done::default(),
            pending: BTreeMap::new(),
            lanes: None,
            again: BTreeSet::new(),
            again_cursor: None,
            sought: None,
            dying: BTreeSet::new(),
            // Whoever chooses keys can make collisions, which cost order between two keys and nothing else.
            held_keys: Map::with_seed(0),
            parked: 0,
            ownership: Ownership::default(),
        }
    }

    /// How far a partition is done if everything below `offset` is: also what had expired right behind it.
    pub(crate) fn done_with(&self, offset: Offset) -> Offset {
        if offset < self.delivered {
            return offset;
        }
        offset.max(self.fresh.next())
    }

    /// How many messages are not done.
    pub(crate) fn lag(&self, log: &Log) -> u64 {
        let kept = self.floor.max(log.start());
        let above = self.done.count_from(kept);
        log.end().0.saturating_sub(kept.0).saturating_sub(above)
    }

    /// Lets go of the loads under way.
    pub(crate) fn abandon_loads(&self, cx: &mut Context) {
        let lanes = self.lanes.iter().flat_map(|lanes| lanes.cursors());
        for cursor in [&self.fresh]
            .into_iter()
            .chain(&self.again_cursor)
            .chain(lanes)
        {
            if let Some(ticket) = cursor.ticket() {
                cx.abandon_load(ticket);
            }
        }
    }
}

impl Group {
    pub(crate) fn new(id: GroupId, name: &str, config: GroupConfig) -> Self {
        Self {
            id,
            name: name.into(),
            config,
            filters: Vec::new(),
            paused: false,
            generation: Generation(0),
            members: Slab::new(),
            next_member: MemberId(1),
            logs: Slab::new(),
            ready: VecDeque::new(),
            starved: Vec::new(),
            starved_in: 0,
            idle: VecDeque::new(),
            sending: Vec::new(),
            dying: Vec::new(),
            timers: BTreeSet::new(),
            armed: None,
            unsettled: false,
            patience: None,
            queued: false,
            dead: None,
            alerted: false,
            untaken: BTreeMap::new(),
            row_dirty: false,
            dirty_logs: Vec::new(),
            listed: false,
        }
    }

    /// Whether it reads a topic of that name.
    pub(crate) fn reads(&self, name: &str) -> bool {
        self.filters
            .iter()
            .any(|filter| topic::matches(filter, name))
    }

    /// Notes that a log may have something for a member.
    pub(crate) fn log_ready(&mut self, log: u32) {
        let entry = &mut self.logs[log as usize];
        if !entry.queued {
            entry.queued = true;
            self.ready.push_back(log);
        }
    }

    /// Notes that a log's place must be written at the end of the batch.
    pub(crate) fn touch_log(&mut self, log: u32) {
        let entry = &mut self.logs[log as usize];
        if !entry.dirty {
            entry.dirty = true;
            self.dirty_logs.push(log);
        }
    }

    /// How many dead letters nobody has dealt with.
    pub(crate) fn dead_letters(&self, topics: &Slab<Topic>) -> u64 {
        self.dead.map_or(0, |dead| {
            let entry = &self.logs[dead as usize];
            let topic = &topics[entry.topic as usize];
            entry.lag(&topic.partitions[entry.partition.0 as usize].log)
        })
    }
}

impl Namespace {
    pub(crate) fn group_by_name(&self, name: &str) -> Option<u32> {
        self.group_names.get(name).copied()
    }

    /// The group, or a refusal that names it.
    pub(crate) fn known_group(&self, name: &str) -> Result<u32, Refusal> {
        self.group_by_name(name).ok_or_else(|| {
            Refusal::new(ErrorCode::UnknownGroup, format!("unknown group \"{name}\""))
        })
    }

    /// Creates a group whose name and configuration were checked.
    pub(crate) fn create_group(
        &mut self,
        cx: &mut Context,
        name: &str,
        config: GroupConfig,
    ) -> u32 {
        let id = GroupId(self.next_group_id);
        self.next_group_id += 1;
        self.touch(cx);
        let index = self.insert_group(Group::new(id, name, config));
        self.touch_group(cx, index);
        index
    }

    pub(crate) fn insert_group(&mut self, group: Group) -> u32 {
        let name = group.name.clone();
        let index = self.groups.insert(Box::new(group)) as u32;
        self.group_names.insert(name, index);
        index
    }

    /// Notes that a group's own row must be written at the end of the batch.
    pub(crate) fn touch_group(&mut self, cx: &mut Context, index: u32) {
        self.groups[index as usize].row_dirty = true;
        // Who learns of a group relies on it.
        cx.durability = cx.durability.max(Durability::Async);
        self.list_group(cx, index);
    }

    /// Notes that a group has something to write at the end of the batch.
    pub(crate) fn list_group(&mut self, cx: &mut Context, index: u32) {
        let group = &mut self.groups[index as usize];
        if !group.listed {
            group.listed = true;
            self.dirty_groups.push(index);
            self.list(cx);
        }
    }

    /// Notes that a group's place in a log must be written at the end of the batch.
    pub(crate) fn touch_group_log(&mut self, cx: &mut Context, index: u32, log: u32) {
        self.groups[index as usize].touch_log(log);
        self.list_group(cx, index);
    }

    /// Lets a group go on at the end of the batch.
    pub(crate) fn queue_group(&mut self, cx: &mut Context, index: u32) {
        let group = &mut self.groups[index as usize];
        if !group.queued {
            group.queued = true;
            cx.ready.push_back(Work::Group {
                namespace: self.index,
                group: index,
            });
        }
    }

    /// Goes on with a group as far as it can.
    pub(crate) fn advance_group(&mut self, cx: &mut Context, index: u32) {
        let Some(group) = self.groups.get_mut(index as usize) else {
            return;
        };
        group.queued = false;
        for log in core::mem::take(&mut group.starved) {
            group.log_ready(log);
        }
        match group.config.kind {
            GroupKind::Queue => self.deal(cx, index),
            GroupKind::Partitioned => self.feed(cx, index),
        }
        self.arm(cx, index);
    }

    /// Keeps the one entry that a group has among the broker's deadlines.
    fn arm(&mut self, cx: &mut Context, index: u32) {
        let group = &mut self.groups[index as usize];
        let first = group.timers.first().map(|(at, ..)| *at);
        // One that is too early does no harm, and leases are mostly given back long before they end.
        if group
            .armed
            .is_some_and(|armed| first.is_some_and(|first| armed <= first))
        {
            return;
        }
        let due = Due::Group(self.index, index);
        if let Some(armed) = group.armed.take() {
            cx.deadlines.remove(&(armed, due));
        }
        if let Some(first) = first {
            group.armed = Some(first);
            cx.deadlines.insert((first, due));
        }
    }

    /// Takes note that a group's deadline has come.
    pub(crate) fn group_due(&mut self, cx: &mut Context, index: u32) {
        self.groups[index as usize].armed = None;
        self.queue_group(cx, index);
    }

    /// Lets groups know of a new message.
    pub(crate) fn wake_groups(&mut self, cx: &mut Context, topic: u32, partition: Partition) {
        for reader in 0..self.topics[topic as usize].readers.len() {
            let (group, logs) = &self.topics[topic as usize].readers[reader];
            let (group, log) = (*group, logs[partition.0 as usize]);
            self.groups[group as usize].log_ready(log);
            self.queue_group(cx, group);
        }
    }

    /// Lets a group read more, from there on in topics that exist.
    pub(crate) fn add_filters<'f>(
        &mut self,
        cx: &mut Context,
        index: u32,
        filters: impl Iterator<Item = &'f str>,
        from: From,
    ) {
        let group = &mut self.groups[index as usize];
        let before = group.filters.len();
        for filter in filters {
            if !group.filters.iter().any(|known| **known == *filter) {
                group.filters.push(filter.into());
            }
        }
        let group = &self.groups[index as usize];
        if group.filters.len() == before {
            return;
        }
        let new: Vec<u32> = group.filters[before..]
            .iter()
            .flat_map(|filter| self.topics_matching(filter))
            .collect();
        for topic in new {
            self.attach(cx, index, topic, from);
        }
        self.recheck_takers(index);
        self.touch_group(cx, index);
    }

    /// Lets the groups that want it read a topic that has just come to be.
    pub(crate) fn attach_new_topic(&mut self, cx: &mut Context, topic: u32) {
        let name = self.topics[topic as usize].name.clone();
        let readers: Vec<u32> = self
            .groups
            .iter()
            .filter(|(_, group)| group.reads(&name))
            .map(|(index, _)| index as u32)
            .collect();
        for group in readers {
            self.attach(cx, group, topic, From::Earliest);
        }
    }

    /// Lets a group read a topic, if it does not yet.
    fn attach(&mut self, cx: &mut Context, index: u32, topic: u32, from: From) {
        let state = &self.topics[topic as usize];
        let is_read = state.readers.iter().any(|(group, _)| *group == index);
        if is_read || state.config.kind == Kind::Live {
            return;
        }
        cx.durability = cx.durability.max(state.config.durability);
        let group = &mut self.groups[index as usize];
        let mut logs = Vec::with_capacity(state.partitions.len());
        for (partition, slot) in (0..).map(Partition).zip(&state.partitions) {
            let floor = place_in(&slot.log, from);
            let entry = GroupLog::new(topic, state, partition, floor);
            let log = group.logs.insert(entry) as u32;
            group.touch_log(log);
            group.log_ready(log);
            logs.push(log);
        }
        self.topics[topic as usize].readers.push((index, logs));
        self.list_group(cx, index);
        self.queue_group(cx, index);
        self.rebalance(cx, index);
    }

    /// Lets no group read a topic any more, which is about to be deleted.
    pub(crate) fn detach_topic(&mut self, cx: &mut Context, topic: u32) {
        let id = self.topics[topic as usize].id;
        for (index, logs) in core::mem::take(&mut self.topics[topic as usize].readers) {
            for log in logs {
                self.remove_group_log(cx, index, log);
            }
            let group = self.groups[index as usize].id;
            for (from, to) in self.keys.group_topic_ranges(group, id) {
                cx.ops.push(Op::DeleteRange { from, to });
            }
            self.rebalance(cx, index);
        }
    }

    pub(crate) fn remove_group_log(&mut self, cx: &mut Context, index: u32, log: u32) {
        let group = &mut self.groups[index as usize];
        let entry = group.logs.remove(log as usize);
        entry.abandon_loads(cx);
        self.drop_pending(index, log, entry.pending);
        let group = &mut self.groups[index as usize];
        group.ready.retain(|other| *other != log);
        group.starved.retain(|other| *other != log);
        group.dying.retain(|other| *other != log);
        group.dirty_logs.retain(|other| *other != log);
        group.timers.retain(|(_, other, _)| *other != log);
        if group.dead == Some(log) {
            group.dead = None;
            group.untaken.clear();
        }
    }

    /// Ends the leases and waits of messages that are nobody's business any more.
    pub(crate) fn drop_pending(
        &mut self,
        index: u32,
        log: u32,
        pending: BTreeMap<Offset, Pending>,
    ) {
        for (offset, pending) in pending {
            let group = &mut self.groups[index as usize];
            if let Some(until) = pending.until() {
                group.timers.remove(&(until, log, offset));
            }
            if let Some((lease, member)) = pending.lease() {
                self.leases.remove(&lease);
                group.release(member);
            }
        }
    }
}

/// Where a group is to begin. Groups read many partitions, and have no place of a subscription to resume from.
pub(crate) fn parse_start(text: Option<&str>) -> Result<From, Refusal> {
    let Some(text) = text else {
        return Ok(From::Earliest);
    };
    match From::parse(text) {
        Ok(from @ (From::Earliest | From::Latest | From::Timestamp(_) | From::Last(_))) => Ok(from),
        _ => Err(Refusal::wrong_word(
            "from",
            text,
            "earliest, latest, timestamp:MS or last:N, with integers from 0",
        )),
    }
}

/// Where a group begins in a log.
pub(crate) fn place_in(log: &Log, from: From) -> Offset {
    match from {
        From::Latest => log.end(),
        From::Offset(offset) => offset.clamp(log.start(), log.end()),
        From::Last(count) => Offset(log.end().0.saturating_sub(count)).max(log.start()),
        From::Timestamp(since) => log.offset_before_time(since),
        From::Earliest | From::Resume(..) | From::Session(_) => log.start(),
    }
}

/// What a member is told of `count` messages between two offsets, which retention took before they came to its group.
pub(crate) fn trimmed_gap<'a>(
    member: &Member,
    topic: &'a Topic,
    partition: Partition,
    (from, to): (Offset, Offset),
    count: u64,
) -> Gap<'a> {
    let log = &topic.partitions[partition.0 as usize].log;
    Gap {
        subscription: member.subscription.0,
        reason: "trimmed",
        after: 0,
        to: log.trimmed_to().0,
        count: Some(count),
        topic: Some(&topic.name),
        partition: Some(partition.0),
        from_offset: Some(from.0),
        to_offset: Some(to.0),
    }
}

/// Refuses what is not a name of a group or member.
pub(crate) fn check_group_name(what: &str, name: &str) -> Result<(), Refusal> {
    let why = if name.is_empty() {
        String::from("it is empty")
    } else if name.len() > GROUP_NAME_BYTES_MAX {
        format!(
            "it is {} bytes long, {GROUP_NAME_BYTES_MAX} are allowed",
            name.len()
        )
    } else if name.contains(['\0', '+', '#', '/']) || name.starts_with('$') {
        String::from("it must not contain NUL, +, # or /, nor begin with $")
    } else {
        return Ok(());
    };
    Err(Refusal::new(
        ErrorCode::InvalidArgument,
        format!("invalid name of a {what}: {why}"),
    ))
}

/// A lease's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeasePlace {
    pub(crate) group: u32,
    pub(crate) log: u32,
    pub(crate) offset: Offset,
}
