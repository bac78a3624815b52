//! How consumer groups are stored, and read again.
//!
//! A group has a row of its own, one for every member, one for every partition (the floor, and whose it is), and of a
//! queue one for every 1,024 offsets in which something is done above the floor or pending. Each is written at most
//! once a batch.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use slab::Slab;

use crate::assign::Strategy;
use crate::context::Context;
use crate::cursor::Cursor;
use crate::dead_letter::{DEAD_PREFIX, Reason};
use crate::done::WINDOW_OFFSETS;
use crate::effect::Op;
use crate::group::{
    Group, GroupConfig, GroupKind, GroupLog, LeasePlace, Ownership, check_group_name,
};
use crate::ids::{
    ConnectionId, Generation, GroupId, LeaseId, MemberId, Offset, Partition, SubscriptionId,
    Timestamp,
};
use crate::member::Member;
use crate::mutation::Mutation;
use crate::namespace::Namespace;
use crate::priority::Turn;
use crate::queue::{Pending, State};
use crate::restore::unsound;
use crate::retry::{Backoff, Retry};
use crate::rows::{KeyTail, Keys, ROW_VERSION};
use crate::topic::check_filter;
use crate::wire::{Malformed, Put as _, Reader};

/// Nobody reaches it by counting groups up.
const GROUP_ID_MAX: u32 = 1 << 31;

/// No offset lies in a window from this on: offsets fit the integers of JSON.
const WINDOWS_MAX: u64 = (1 << 53) / WINDOW_OFFSETS;

impl Namespace {
    /// Appends what the groups have to write.
    pub(crate) fn flush_groups(&mut self, cx: &mut Context) {
        for index in core::mem::take(&mut self.dirty_groups) {
            if let Some(group) = self.groups.get_mut(index as usize) {
                group.flush(&self.keys, &mut cx.ops);
            }
        }
    }

    /// Puts back a group; its members and places follow.
    pub(crate) fn restore_group(
        &mut self,
        tail: &mut KeyTail<'_>,
        value: &[u8],
    ) -> Result<(), String> {
        let id = GroupId(tail.u32().ok_or_else(|| unsound("key"))?);
        let group = read_group(id, value).map_err(|_| unsound("group"))?;
        if self.group_by_name(&group.name).is_some() || id.0 >= GROUP_ID_MAX {
            return Err(unsound("group"));
        }
        self.next_group_id = self.next_group_id.max(id.0 + 1);
        self.insert_group(group);
        Ok(())
    }

    /// Puts back a member, without its connection.
    pub(crate) fn restore_member(
        &mut self,
        tail: &mut KeyTail<'_>,
        value: &[u8],
    ) -> Result<(), String> {
        let index = self.restored_group(tail)?;
        let id = MemberId(tail.u64().ok_or_else(|| unsound("key"))?);
        let member = read_member(id, value).map_err(|_| unsound("member"))?;
        let group = &mut self.groups[index as usize];
        group.next_member = group.next_member.max(MemberId(id.0.saturating_add(1)));
        group.members.insert(member);
        self.recheck_takers(index);
        Ok(())
    }

    /// Puts back how far a group is in a partition of a topic, which the key names.
    pub(crate) fn restore_group_offset(
        &mut self,
        topic: u32,
        tail: &mut KeyTail<'_>,
        value: &[u8],
    ) -> Result<(), String> {
        let index = self.restored_group(tail)?;
        let (Some(_), Some(partition)) = (tail.u32(), tail.u32()) else {
            return Err(unsound("key"));
        };
        let partition = Partition(partition);
        let place = read_place(value).map_err(|_| unsound("place of a group"))?;
        let state = &mut self.topics[topic as usize];
        let Some(slot) = state.partitions.get(partition.0 as usize) else {
            return Err(unsound("key"));
        };
        let group = &mut self.groups[index as usize];
        let mut entry = GroupLog::new(topic, state, partition, place.floor);
        if let Some((delivered, owner, since)) = place.owned {
            entry.fresh = Cursor::eager(&slot.log, delivered);
            entry.delivered = delivered;
            entry.ownership.owner = member_of(&group.members, owner);
            entry.ownership.target = entry.ownership.owner;
            entry.ownership.since = since;
        }
        let log = group.logs.insert(entry) as u32;
        group.log_ready(log);
        if state.name.strip_prefix(DEAD_PREFIX) == Some(&*group.name) {
            group.dead = Some(log);
        }
        // Partitions come in their order, and of a topic all are there.
        let readers = &mut state.readers;
        match readers.iter_mut().find(|(reader, _)| *reader == index) {
            Some((_, logs)) if logs.len() == partition.0 as usize => logs.push(log),
            None if partition == Partition(0) => readers.push((index, [log].into())),
            _ => return Err(unsound("place of a group")),
        }
        Ok(())
    }

    /// Puts back what of 1,024 offsets a queue has done or given to members.
    pub(crate) fn restore_group_window(
        &mut self,
        topic: u32,
        tail: &mut KeyTail<'_>,
        value: &[u8],
    ) -> Result<(), String> {
        let index = self.restored_group(tail)?;
        let (Some(_), Some(partition), Some(window)) = (tail.u32(), tail.u32(), tail.u64()) else {
            return Err(unsound("key"));
        };
        let mut readers = self.topics[topic as usize].readers.iter();
        let reader = readers.find(|(group, _)| *group == index);
        let log = reader.and_then(|(_, logs)| logs.get(partition as usize));
        let log = *log.ok_or_else(|| unsound("key"))?;
        if window >= WINDOWS_MAX {
            return Err(unsound("key"));
        }
        self.read_window(index, log, window, value)
            .map_err(|_| unsound("window of a queue"))
    }

    fn read_window(
        &mut self,
        index: u32,
        log: u32,
        window: u64,
        value: &[u8],
    ) -> Result<(), Malformed> {
        let group = &mut *self.groups[index as usize];
        let entry = &mut group.logs[log as usize];
        entry.done.stored.insert(window);
        let mut reader = Reader::new(value);
        if reader.u64()? != ROW_VERSION {
            return Err(Malformed);
        }
        let base = Offset(window * WINDOW_OFFSETS);
        let mut at = 0;
        for _ in 0..reader.u64()? {
            let from = at + within_window(reader.u64()?)?;
            at = from + within_window(reader.u64()?)?;
            if at > WINDOW_OFFSETS {
                return Err(Malformed);
            }
            for offset in from..at {
                entry.done.insert(Offset(base.0 + offset));
            }
        }
        while !reader.is_empty() {
            let within = reader.u64()?;
            let offset = Offset(base.0.checked_add(within).ok_or(Malformed)?);
            if within >= WINDOW_OFFSETS || entry.done.contains(offset) {
                return Err(Malformed);
            }
            let stored = reader.u32()?;
            let attempts = if Mutation::AttemptsForgotten.is_active() {
                0
            } else {
                stored
            };
            let mut turn = Turn::first(offset);
            let key = match reader.u8()? {
                0 => None,
                1 => {
                    let bytes = reader.take(8)?.try_into().map_err(|_| Malformed)?;
                    Some(u64::from_le_bytes(bytes))
                }
                2 => {
                    turn.at = Timestamp(reader.u64()?);
                    None
                }
                _ => return Err(Malformed),
            };
            let state = match reader.u8()? {
                0 => State::Ready,
                1 => State::Waiting {
                    until: Timestamp(reader.u64()?),
                },
                2 => {
                    let lease = LeaseId(reader.counted()?);
                    let member = MemberId(reader.u64()?);
                    let until = Timestamp(reader.u64()?);
                    match member_of(&group.members, member) {
                        Some(member) if !self.leases.contains(&lease) => {
                            group.members[member as usize].in_flight += 1;
                            let place = LeasePlace {
                                group: index,
                                log,
                                offset,
                            };
                            self.leases.insert(lease, place);
                            State::Leased {
                                lease,
                                member,
                                until,
                            }
                        }
                        // Who had it did not come along.
                        _ => State::Ready,
                    }
                }
                3 => State::Dying(Reason::MaxDeliveryAttempts),
                4 => State::Dying(Reason::Rejected(None)),
                5 => State::Dying(Reason::Rejected(Some(reader.str()?.into()))),
                _ => return Err(Malformed),
            };
            if state == State::Ready {
                entry.again.insert(turn);
            }
            if matches!(state, State::Dying(_)) {
                entry.dying.insert(offset);
                group.dying.push(log);
            }
            if let Some(key) = key {
                entry.held_keys.insert(key, VecDeque::new());
            }
            let pending = Pending {
                attempts,
                state,
                key,
                turn,
            };
            if let Some(until) = pending.until() {
                group.timers.insert((until, log, offset));
            }
            if entry.pending.insert(offset, pending).is_some() {
                return Err(Malformed);
            }
        }
        entry.floor = entry.done.advance(entry.floor);
        entry.done.dirty.clear();
        Ok(())
    }

    fn restored_group(&self, tail: &mut KeyTail<'_>) -> Result<u32, String> {
        let id = GroupId(tail.u32().ok_or_else(|| unsound("key"))?);
        let mut groups = self.groups.iter();
        let found = groups.find(|(_, group)| group.id == id);
        let found = found.map(|(index, _)| index as u32);
        found.ok_or_else(|| format!("its group {} has no row", id.0))
    }

    /// Gives a connection that outlived the previous incarnation its memberships back.
    pub(crate) fn revive_members(&mut self, cx: &mut Context, connection: u32) {
        let client = &mut cx.connections[connection as usize];
        for (index, group) in &mut self.groups {
            let mut revived = Vec::new();
            for (member, entry) in &mut group.members {
                if entry.connection_id == client.id && entry.away_since == Timestamp(0) {
                    entry.connection = Some(connection);
                    entry.encoding = client.encoding;
                    let membership = (entry.subscription, index as u32, member as u32);
                    client.memberships.push(membership);
                    revived.push(member as u32);
                }
            }
            for member in revived {
                group.offer(member);
            }
        }
    }

    /// Begins the life of the groups, now that it is known which connections are there.
    pub(crate) fn begin_groups(&mut self, cx: &mut Context) {
        let groups = self.groups.iter().map(|(index, _)| index as u32);
        for index in groups.collect::<Vec<u32>>() {
            let members = self.groups[index as usize].members.iter();
            for member in members.map(|(member, _)| member as u32).collect::<Vec<_>>() {
                self.begin_member(cx, index, member);
            }
            self.rebalance(cx, index);
            self.queue_group(cx, index);
        }
    }
}

impl Namespace {
    /// Begins the life of a member, now that it is known whether its connection is there and when it was heard of.
    fn begin_member(&mut self, cx: &mut Context, index: u32, member: u32) {
        let entry = &mut self.groups[index as usize].members[member as usize];
        match entry.connection {
            // Nobody said when: it is given the benefit of the doubt.
            Some(connection) => {
                let seen_at = &mut cx.connections[connection as usize].seen_at;
                if *seen_at == Timestamp(0) {
                    *seen_at = cx.now;
                }
            }
            None if !entry.is_named => return self.remove_member(cx, index, member),
            None if entry.away_since == Timestamp(0) => self.lose_member(cx, index, member),
            None => entry.away_since = entry.away_since.min(cx.now),
        }
        self.renew_session(cx, index, member);
    }
}

#[cfg(any(test, feature = "check"))]
impl Namespace {
    /// Asserts what must hold of a group between batches.
    pub(crate) fn check_group(&self, index: u32, group: &Group) {
        assert_eq!(self.group_by_name(&group.name), Some(index));
        let mut leases = alloc::vec![0; group.members.capacity()];
        let mut timers = 0;
        for (log, entry) in &group.logs {
            let topic = &self.topics[entry.topic as usize];
            assert_eq!(topic.id, entry.topic_id, "a log is of the topic it names");
            let stored = &topic.partitions[entry.partition.0 as usize].log;
            assert!(
                entry.floor <= stored.end(),
                "a group is not ahead of its log"
            );
            assert!(!entry.done.contains(entry.floor), "the floor is not done");
            let mut parked = 0;
            for (offset, pending) in &entry.pending {
                assert!(*offset >= entry.floor && !entry.done.contains(*offset));
                timers += usize::from(pending.until().is_some());
                parked += u64::from(
                    matches!(pending.state, State::Parked { .. })
                        && !entry.again.contains(&pending.turn),
                );
                if let Some((lease, member)) = pending.lease() {
                    leases[member as usize] += 1;
                    let place = LeasePlace {
                        group: index,
                        log: log as u32,
                        offset: *offset,
                    };
                    assert_eq!(self.leases.get(&lease), Some(&place), "leases are found");
                }
                let untaken = group.dead == Some(log as u32)
                    && group
                        .untaken
                        .values()
                        .any(|waiting| waiting.contains(&pending.turn));
                assert!(
                    pending.state != State::Ready || entry.again.contains(&pending.turn) || untaken,
                    "what can be delivered again is found"
                );
                assert!(
                    pending.key.is_none_or(|key| entry.held_keys.contains(&key)),
                    "a pending message holds its key"
                );
            }
            assert_eq!(parked, entry.parked, "those that wait for keys are counted");
            let owner = entry.ownership.owner;
            assert!(owner.is_none_or(|owner| group.members.contains(owner as usize)));
        }
        for (member, entry) in &group.members {
            assert_eq!(leases[member], entry.in_flight, "leases are counted");
            let can_take = entry.connection.is_some() && entry.in_flight < entry.max_in_flight;
            assert_eq!(entry.is_idle, can_take, "who can take a message is known");
        }
        let again = group
            .timers
            .iter()
            .filter(|(_, _, offset)| *offset == crate::queue::READ_AGAIN);
        assert_eq!(
            group.timers.len() - again.count(),
            timers,
            "timers have messages"
        );
    }
}

impl Group {
    fn flush(&mut self, keys: &Keys, ops: &mut Vec<Op>) {
        self.listed = false;
        if core::mem::take(&mut self.row_dirty) {
            ops.push(Op::Put {
                key: keys.group(self.id),
                value: group_row(self),
            });
        }
        for (_, member) in &mut self.members {
            if core::mem::take(&mut member.dirty) {
                ops.push(Op::Put {
                    key: keys.member(self.id, member.id),
                    value: member_row(member),
                });
            }
        }
        for log in core::mem::take(&mut self.dirty_logs) {
            let entry = &mut self.logs[log as usize];
            entry.dirty = false;
            let (topic, partition) = (entry.topic_id, entry.partition);
            ops.push(Op::Put {
                key: keys.group_offset(self.id, topic, partition),
                value: place_row(entry, self.config.kind, &self.members),
            });
            for window in core::mem::take(&mut entry.done.dirty) {
                let key = keys.group_window(self.id, topic, partition, window);
                match window_row(entry, window, &self.members) {
                    Some(value) => {
                        entry.done.stored.insert(window);
                        ops.push(Op::Put { key, value });
                    }
                    None if entry.done.stored.remove(&window) => ops.push(Op::Delete { key }),
                    None => {}
                }
            }
        }
    }
}

fn member_of(members: &Slab<Member>, id: MemberId) -> Option<u32> {
    let found = members.iter().find(|(_, member)| member.id == id);
    found.map(|(member, _)| member as u32)
}

fn within_window(count: u64) -> Result<u64, Malformed> {
    if count <= WINDOW_OFFSETS {
        Ok(count)
    } else {
        Err(Malformed)
    }
}

fn group_row(group: &Group) -> Vec<u8> {
    let config = &group.config;
    let mut value = Vec::new();
    value.put_u64(ROW_VERSION);
    value.put_bytes(group.name.as_bytes());
    for word in [
        config.kind.as_str(),
        config.strategy.as_str(),
        config.retry.backoff.as_str(),
    ] {
        value.put_bytes(word.as_bytes());
    }
    for number in [
        config.ack_deadline_ms,
        config.max_delivery_attempts.into(),
        config.retry.first_ms,
        config.retry.max_ms,
        config.session_ms,
        config.rebalance_ms,
        config.dead_letters_alert,
        group.generation.0,
        group.next_member.0,
        group.paused.into(),
    ] {
        value.put_u64(number);
    }
    for filter in &group.filters {
        value.put_bytes(filter.as_bytes());
    }
    value
}

fn read_group(id: GroupId, value: &[u8]) -> Result<Group, Malformed> {
    let mut reader = Reader::new(value);
    if reader.u64()? != ROW_VERSION {
        return Err(Malformed);
    }
    let name = reader.str()?;
    check_group_name("group", name).map_err(|_| Malformed)?;
    let kind = GroupKind::parse(reader.str()?).ok_or(Malformed)?;
    let strategy = Strategy::parse(reader.str()?).ok_or(Malformed)?;
    let backoff = Backoff::parse(reader.str()?).ok_or(Malformed)?;
    let ack_deadline_ms = reader.u64()?;
    let max_delivery_attempts = reader.u32()?;
    let retry = Retry {
        backoff,
        first_ms: reader.u64()?,
        max_ms: reader.u64()?,
    };
    let config = GroupConfig {
        kind,
        strategy,
        ack_deadline_ms,
        max_delivery_attempts,
        retry,
        session_ms: reader.u64()?,
        rebalance_ms: reader.u64()?,
        dead_letters_alert: reader.u64()?,
    };
    let mut group = Group::new(id, name, config);
    group.generation = Generation(reader.counted()?);
    group.next_member = MemberId(reader.counted()?);
    group.paused = match reader.u64()? {
        0 => false,
        1 => true,
        _ => return Err(Malformed),
    };
    while !reader.is_empty() {
        let filter = reader.str()?;
        check_filter(filter).map_err(|_| Malformed)?;
        group.filters.push(filter.into());
    }
    Ok(group)
}

fn member_row(member: &Member) -> Vec<u8> {
    let mut value = Vec::new();
    value.put_u64(ROW_VERSION);
    value.put_bytes(member.name.as_bytes());
    value.push(member.is_named.into());
    // Without a connection it only waits for its session's time to end.
    let connection = member.connection.map_or(0, |_| member.connection_id.0 + 1);
    value.put_u64(connection);
    value.put_u64(member.subscription.0.into());
    value.put_u64(member.max_in_flight);
    // Who is away has no credit, but a time since when: its session goes on over every restart.
    value.put_u64(match member.connection {
        Some(_) => member.credit_most,
        None => member.away_since.0,
    });
    for filter in &member.filters {
        value.put_bytes(filter.as_bytes());
    }
    value
}

fn read_member(id: MemberId, value: &[u8]) -> Result<Member, Malformed> {
    let mut reader = Reader::new(value);
    if reader.u64()? != ROW_VERSION {
        return Err(Malformed);
    }
    let name = reader.str()?;
    let is_named = match reader.u8()? {
        0 => false,
        1 => true,
        _ => return Err(Malformed),
    };
    let mut member = Member::away(id, name.into(), is_named);
    let connection = reader.u64()?;
    member.connection_id = ConnectionId(connection.saturating_sub(1));
    member.subscription = SubscriptionId(reader.u32()?);
    member.max_in_flight = reader.u64()?;
    // Whoever had a connection may still have it; the others are away.
    match connection {
        0 => member.away_since = Timestamp(reader.u64()?.max(1)),
        _ => member.credit_most = reader.u64()?,
    }
    member.credit = member.credit_most;
    while !reader.is_empty() {
        let filter = reader.str()?;
        check_filter(filter).map_err(|_| Malformed)?;
        member.filters.push(filter.into());
    }
    Ok(member)
}

/// Spells how far a group is in a partition, and of a partitioned group what was delivered, whose it is, since when.
fn place_row(entry: &GroupLog, kind: GroupKind, members: &Slab<Member>) -> Vec<u8> {
    let mut value = Vec::new();
    value.put_u64(ROW_VERSION);
    value.put_u64(entry.floor.0);
    if kind == GroupKind::Partitioned {
        let Ownership { owner, since, .. } = entry.ownership;
        let owner = owner.map_or(MemberId(0), |owner| members[owner as usize].id);
        value.put_u64(entry.fresh.next().0.max(entry.floor.0));
        value.put_u64(owner.0);
        value.put_u64(since.map_or(0, |since| since.0 + 1));
    }
    value
}

struct Place {
    floor: Offset,
    owned: Option<(Offset, MemberId, Option<Generation>)>,
}

fn read_place(value: &[u8]) -> Result<Place, Malformed> {
    let mut reader = Reader::new(value);
    if reader.u64()? != ROW_VERSION {
        return Err(Malformed);
    }
    let floor = Offset(reader.counted()?);
    let owned = if reader.is_empty() {
        None
    } else {
        let delivered = Offset(reader.counted()?);
        let owner = MemberId(reader.u64()?);
        let since = reader.counted()?.checked_sub(1).map(Generation);
        Some((delivered, owner, since))
    };
    reader.end()?;
    Ok(Place { floor, owned })
}

/// Spells a window; `None` if there is nothing in it that the floor does not say.
fn window_row(entry: &GroupLog, window: u64, members: &Slab<Member>) -> Option<Vec<u8>> {
    let base = Offset(window * WINDOW_OFFSETS);
    let end = Offset(base.0 + WINDOW_OFFSETS);
    let mut runs = entry.done.runs(window);
    runs.retain(|(_, to)| *to > entry.floor);
    let mut value = Vec::new();
    value.put_u64(ROW_VERSION);
    value.put_u64(runs.len() as u64);
    let mut at = base;
    for (from, to) in &runs {
        value.put_u64(from.0 - at.0);
        value.put_u64(to.0 - from.0);
        at = *to;
    }
    let before = value.len();
    for (offset, pending) in entry.pending.range(base..end) {
        // What only waits behind another of its key is read again.
        if matches!(pending.state, State::Parked { .. }) {
            continue;
        }
        value.put_u64(offset.0 - base.0);
        value.put_u64(pending.attempts.into());
        match (pending.key, pending.turn.at) {
            (Some(key), _) => {
                value.push(1);
                value.extend_from_slice(&key.to_le_bytes());
            }
            (None, Timestamp(0)) => value.push(0),
            (None, Timestamp(at)) => {
                value.push(2);
                value.put_u64(at);
            }
        }
        match &pending.state {
            State::Ready | State::Parked { .. } => value.push(0),
            State::Waiting { until } => {
                value.push(1);
                value.put_u64(until.0);
            }
            State::Leased {
                lease,
                member,
                until,
            } => {
                value.push(2);
                value.put_u64(lease.0);
                value.put_u64(members[*member as usize].id.0);
                value.put_u64(until.0);
            }
            State::Dying(Reason::MaxDeliveryAttempts) => value.push(3),
            State::Dying(Reason::Rejected(None)) => value.push(4),
            State::Dying(Reason::Rejected(Some(note))) => {
                value.push(5);
                value.put_bytes(note.as_bytes());
            }
        }
    }
    (!runs.is_empty() || value.len() > before).then_some(value)
}
