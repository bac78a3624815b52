//! A queue: deals out single messages under leases.
//!
//! Of each partition a queue knows a floor, below which everything is done, what is done above it (a bit each), and
//! what is pending: delivered and not done, waiting to be delivered again, or held back behind another message of its
//! key. Everything else above the floor has not been delivered yet. Bodies are read when they are dealt out, and are
//! not kept.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use twox_hash::XxHash64;

use crate::context::{Context, LoadOwner, Work};
use crate::cursor::{Cursor, Step};
use crate::dead_letter::{Origin, Reason};
use crate::effect::After;
use crate::group::{Group, GroupKind, GroupLog, LeasePlace, trimmed_gap};
use crate::ids::{LeaseId, Offset, Ticket, Timestamp};
use crate::input::{LoadFailed, Row};
use crate::log::{LogKeys, read_record};
use crate::mutation::Mutation;
use crate::namespace::Namespace;
use crate::priority::{Lanes, Reading, Turn, priority_of};
use crate::protocol::frame::Reply;
use crate::publish::DeliveryBody;
use crate::topic::Ordering;

/// How many messages a log deals out before it is another's turn.
const TURN_MESSAGES: u32 = 16;

/// After a failed load a queue reads on so much later, in milliseconds.
const READ_AGAIN_MS: u64 = 1000;

/// The place in the timers of a log that could not be read; no message has it.
pub(crate) const READ_AGAIN: Offset = Offset(u64::MAX);

/// A message that is not done, though it was delivered, or cannot be delivered yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    /// How often it was delivered.
    pub(crate) attempts: u32,
    pub(crate) state: State,
    /// The key that it holds, if its topic keeps an order.
    pub(crate) key: Option<u64>,
    /// Its place among those that can be delivered again.
    pub(crate) turn: Turn,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// A member has it until then.
    Leased {
        lease: LeaseId,
        member: u32,
        until: Timestamp,
    },
    /// It is to be delivered again then.
    Waiting { until: Timestamp },
    /// It is to be delivered as soon as a member can take it.
    Ready,
    /// It follows another of its key. Its body is kept, so that a key with many messages is not read once for each.
    Parked { record: Box<[u8]> },
    /// It is given up, and becomes a dead letter once it was read.
    Dying(Reason),
}

impl Pending {
    /// When its timer is due, if it has one.
    pub(crate) const fn until(&self) -> Option<Timestamp> {
        match self.state {
            State::Leased { until, .. } | State::Waiting { until } => Some(until),
            State::Ready | State::Parked { .. } | State::Dying(_) => None,
        }
    }

    /// The lease under which a member has it, if one has.
    pub(crate) const fn lease(&self) -> Option<(LeaseId, u32)> {
        match self.state {
            State::Leased { lease, member, .. } => Some((lease, member)),
            _ => None,
        }
    }
}

/// How an attempt to deal out a message of a log ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dealt {
    /// There may be more.
    One,
    /// Nothing can be dealt out before something else happens.
    Nothing,
    /// Nobody can take what comes next.
    NoTaker,
}

/// Whether there is a message that was never delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sought {
    Found(Turn),
    Nothing,
    /// A load is under way.
    Wait,
}

/// Whether a message that was read before could be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fetched {
    Body,
    /// A load must come first.
    Later,
    /// It is not there any more.
    Lost,
}

impl Group {
    /// Notes that a member holds one lease less.
    pub(crate) fn release(&mut self, member: u32) {
        if let Some(entry) = self.members.get_mut(member as usize) {
            entry.in_flight -= 1;
            self.offer(member);
        }
    }

    /// Lets a log go on that had to wait for the store.
    pub(crate) fn read_on(&mut self, log: u32) {
        if !self.logs[log as usize].dying.is_empty() {
            self.dying.push(log);
        }
        self.log_ready(log);
    }

    /// Puts a member that can take a message among those who wait for one.
    pub(crate) fn offer(&mut self, member: u32) {
        let entry = &mut self.members[member as usize];
        if !entry.is_idle && entry.connection.is_some() && entry.in_flight < entry.max_in_flight {
            entry.is_idle = true;
            self.idle.push_back(member);
            if !self.untaken.is_empty() {
                self.recall_untaken(member);
            }
        }
    }

    /// Lets the replayed dead letters be dealt out that wait for a member like this, one of every topic: it may have
    /// room for no more.
    fn recall_untaken(&mut self, member: u32) {
        let (Some(dead), member) = (self.dead, &self.members[member as usize]) else {
            return;
        };
        let again = &mut self.logs[dead as usize].again;
        self.untaken.retain(|topic, waiting| {
            if member.takes(topic) {
                again.extend(waiting.pop_first());
            }
            !waiting.is_empty()
        });
        self.log_ready(dead);
    }

    /// The member whose turn it is among those that take a topic's messages.
    fn taker(&mut self, topic: &str) -> Option<u32> {
        for _ in 0..self.idle.len() {
            let member = self.idle.pop_front()?;
            if self.members[member as usize].takes(topic) {
                self.members[member as usize].is_idle = false;
                return Some(member);
            }
            self.idle.push_back(member);
        }
        None
    }
}

impl GroupLog {
    /// Lets go of a key: the next message that waits for it can be delivered.
    pub(crate) fn release_key(&mut self, key: Option<u64>) {
        let Some(key) = key else { return };
        let next = self.held_keys.get_mut(&key).and_then(VecDeque::pop_front);
        match next {
            None => {
                self.held_keys.remove(&key);
            }
            Some(next) => {
                self.parked -= 1;
                self.again.insert(Turn::first(next));
            }
        }
    }

    fn cursor_mut(&mut self, reading: Reading) -> Option<&mut Cursor> {
        match reading {
            Reading::Fresh => Some(&mut self.fresh),
            Reading::Priority(priority) => Some(self.lanes.as_mut()?.cursor_mut(priority)),
            Reading::Again => self.again_cursor.as_mut(),
        }
    }

    /// Passes over the message that was found last.
    fn pass(&mut self, reading: Reading) {
        if let Some(lanes) = &mut self.lanes {
            *lanes.head_mut(reading.priority()) = None;
        }
        if let Some(cursor) = self.cursor_mut(reading) {
            cursor.advance();
        }
    }
}

/// What a queue keeps in order on a topic: the message's key, everything, or nothing.
fn held_key(ordering: Ordering, record: &[u8]) -> Option<u64> {
    match ordering {
        _ if Mutation::KeyNotHeld.is_active() => None,
        Ordering::None => None,
        Ordering::PerKey => {
            let parsed = read_record(record).ok();
            let key = parsed.and_then(|record| record.key).unwrap_or_default();
            Some(XxHash64::oneshot(0, key.as_bytes()))
        }
        Ordering::PerTopic | Ordering::Global => Some(0),
    }
}

impl Namespace {
    /// Deals out what can be dealt out.
    pub(crate) fn deal(&mut self, cx: &mut Context, index: u32) {
        self.end_waits(cx, index);
        self.bury_dying(cx, index);
        let bytes_max = cx.config.catch_up_bytes_max;
        let mut bytes = 0;
        let mut without_taker = Vec::new();
        loop {
            let group = &mut self.groups[index as usize];
            if group.paused || group.idle.is_empty() {
                break;
            }
            let Some(log) = group.ready.pop_front() else {
                break;
            };
            group.logs[log as usize].queued = false;
            let mut dealt = Dealt::One;
            for _ in 0..TURN_MESSAGES {
                dealt = self.deal_one(cx, index, log, &mut bytes);
                if dealt != Dealt::One || bytes > bytes_max {
                    break;
                }
            }
            match dealt {
                Dealt::One => self.groups[index as usize].log_ready(log),
                Dealt::Nothing => {}
                Dealt::NoTaker => without_taker.push(log),
            }
            if bytes > bytes_max {
                // The rest comes with the next batch.
                self.queue_group(cx, index);
                cx.more = true;
                break;
            }
        }
        for log in without_taker {
            self.groups[index as usize].log_ready(log);
        }
        self.send_frames(cx, index);
    }

    /// Makes a message a dead letter as soon as it was read.
    pub(crate) fn give_message_up(&mut self, index: u32, log: u32, offset: Offset, reason: Reason) {
        let group = &mut self.groups[index as usize];
        let entry = &mut group.logs[log as usize];
        if let Some(pending) = entry.pending.get_mut(&offset) {
            pending.state = State::Dying(reason);
            entry.dying.insert(offset);
            group.dying.push(log);
        }
    }

    /// Makes dead letters of what was given up.
    fn bury_dying(&mut self, cx: &mut Context, index: u32) {
        let mut record = core::mem::take(&mut cx.buried);
        for log in core::mem::take(&mut self.groups[index as usize].dying) {
            while let Some(&offset) = self.groups[index as usize].logs[log as usize].dying.first() {
                let fetched = self.fetch(cx, index, log, offset, &mut record);
                if fetched == Fetched::Later {
                    break;
                }
                let entry = &mut self.groups[index as usize].logs[log as usize];
                entry.dying.remove(&offset);
                if fetched == Fetched::Body {
                    self.bury(cx, index, log, offset, &record);
                } else {
                    self.lose(cx, index, log, offset);
                }
            }
        }
        cx.buried = record;
    }

    fn deal_one(&mut self, cx: &mut Context, index: u32, log: u32, bytes: &mut u64) -> Dealt {
        let entry = &self.groups[index as usize].logs[log as usize];
        let stored = &self.topics[entry.topic as usize].partitions[entry.partition.0 as usize].log;
        if stored.has_priorities() {
            return self.deal_in_turn(cx, index, log, bytes);
        }
        match self.deal_again(cx, index, log, bytes) {
            Dealt::Nothing => self.deal_fresh(cx, index, log, Reading::Fresh, bytes),
            dealt => dealt,
        }
    }

    /// Deals out a message that was delivered before, or had to wait for its key.
    fn deal_again(&mut self, cx: &mut Context, index: u32, log: u32, bytes: &mut u64) -> Dealt {
        let entry = &mut self.groups[index as usize].logs[log as usize];
        let Some(&Turn { offset, .. }) = entry.again.first() else {
            return Dealt::Nothing;
        };
        let mut record = core::mem::take(&mut cx.record);
        let fetched = match entry.pending.get(&offset).map(|pending| &pending.state) {
            Some(State::Parked { record: kept }) => {
                record.clear();
                record.extend_from_slice(kept);
                Fetched::Body
            }
            _ => self.fetch(cx, index, log, offset, &mut record),
        };
        let dealt = match fetched {
            Fetched::Body => self.hand_out_late(cx, index, log, offset, &record, bytes),
            Fetched::Later => Dealt::Nothing,
            Fetched::Lost => {
                self.lose(cx, index, log, offset);
                Dealt::One
            }
        };
        cx.record = record;
        dealt
    }

    /// Reads a message that was read before.
    fn fetch(
        &mut self,
        cx: &mut Context,
        index: u32,
        log: u32,
        offset: Offset,
        record: &mut Vec<u8>,
    ) -> Fetched {
        let entry = &mut self.groups[index as usize].logs[log as usize];
        let state = &self.topics[entry.topic as usize];
        let stored = &state.partitions[entry.partition.0 as usize].log;
        if offset < stored.start() {
            return Fetched::Lost;
        }
        let cursor = match &mut entry.again_cursor {
            Some(cursor) if cursor.ticket().is_some() => return Fetched::Later,
            Some(cursor) if cursor.next() <= offset => cursor,
            // It was loaded for this, and compaction left nothing there.
            Some(_) if entry.sought == Some(offset) => return Fetched::Lost,
            slot => slot.insert(Cursor::eager(stored, offset)),
        };
        entry.sought = None;
        cursor.skip_to(offset);
        loop {
            match cursor.step(stored) {
                Step::Trimmed { .. } => {}
                Step::Ready if cursor.next() == offset => {
                    record.clear();
                    if let Some((_, spelt)) = cursor.record(stored) {
                        record.extend_from_slice(spelt);
                    }
                    return Fetched::Body;
                }
                // Retention or compaction took it, or it cannot be understood.
                Step::Ready | Step::End => return Fetched::Lost,
                Step::Load => {
                    entry.sought = Some(offset);
                    self.load_for_group(cx, index, log, Reading::Again);
                    return Fetched::Later;
                }
                Step::Wait => return Fetched::Later,
            }
        }
    }

    /// Deals out the message whose turn it is, on a log whose messages have priorities.
    fn deal_in_turn(&mut self, cx: &mut Context, index: u32, log: u32, bytes: &mut u64) -> Dealt {
        let entry = &mut self.groups[index as usize].logs[log as usize];
        let stored = &self.topics[entry.topic as usize].partitions[entry.partition.0 as usize].log;
        let floor = entry.floor;
        entry
            .lanes
            .get_or_insert_with(|| Box::new(Lanes::new(stored, floor)));
        let mut first: Option<(Turn, Reading)> = None;
        let mut waits = false;
        for reading in Reading::FRESH {
            match self.seek(cx, index, log, reading) {
                Sought::Found(turn) if first.is_none_or(|(other, _)| turn < other) => {
                    first = Some((turn, reading));
                }
                Sought::Found(_) | Sought::Nothing => {}
                Sought::Wait => waits = true,
            }
        }
        if waits {
            // What is being loaded may come before everything that is there.
            return Dealt::Nothing;
        }
        let again = self.groups[index as usize].logs[log as usize].again.first();
        if again.is_some_and(|turn| first.is_none_or(|(other, _)| *turn < other)) {
            return self.deal_again(cx, index, log, bytes);
        }
        match first {
            Some((_, reading)) => self.deal_fresh(cx, index, log, reading, bytes),
            None => Dealt::Nothing,
        }
    }

    /// Looks for the next message that was never delivered.
    fn seek(&mut self, cx: &mut Context, index: u32, log: u32, reading: Reading) -> Sought {
        loop {
            let entry = &mut self.groups[index as usize].logs[log as usize];
            let state = &self.topics[entry.topic as usize];
            let stored = &state.partitions[entry.partition.0 as usize].log;
            let floor = entry.floor;
            if let Some(lanes) = &mut entry.lanes {
                let head = lanes.head_mut(reading.priority());
                *head = head.filter(|turn| turn.offset >= stored.start());
                if let Some(turn) = *head {
                    return Sought::Found(turn);
                }
            }
            let Some(cursor) = entry.cursor_mut(reading) else {
                return Sought::Nothing;
            };
            if cursor.ticket().is_some() {
                return Sought::Wait;
            }
            // After a restart what is pending lies above it, and may be done meanwhile.
            cursor.skip_to(floor);
            if let Reading::Priority(priority) = reading
                && cursor.next() >= stored.start()
            {
                let place = stored.priority_from(priority, cursor.next());
                cursor.skip_to(place.unwrap_or(stored.end()));
            }
            let at = cursor.next();
            if at.0.saturating_sub(floor.0) >= cx.config.spread_max {
                return Sought::Nothing;
            }
            match cursor.step(stored) {
                Step::Ready => {}
                step @ (Step::End | Step::Wait | Step::Load) => {
                    // Key compaction may have left nothing behind the last message of a row.
                    let to = cursor.next();
                    if reading == Reading::Fresh && to > at {
                        self.pass_over(cx, index, log, at, to);
                    }
                    if matches!(step, Step::Load) {
                        self.load_for_group(cx, index, log, reading);
                    }
                    return match step {
                        Step::End => Sought::Nothing,
                        _ => Sought::Wait,
                    };
                }
                Step::Trimmed { .. } => {
                    self.lose_trimmed(cx, index, log);
                    continue;
                }
            }
            let Some((record, _)) = cursor.record(stored) else {
                return Sought::Nothing;
            };
            let offset = Offset(record.offset);
            let is_expired = record.expires_at.is_some_and(|at| at <= cx.now.0)
                && !Mutation::ExpiredLeased.is_active();
            let mut priority = 0;
            let mut turn = Turn::first(offset);
            if stored.has_priorities() {
                priority = priority_of(&record);
                if priority > 0 && stored.priority_from(priority, offset) != Some(offset) {
                    priority = 0;
                }
                turn = Turn::of(&record, priority, cx.config.priority_ageing_ms);
            }
            if reading == Reading::Fresh && offset > at {
                // Key compaction left nothing there, or it cannot be understood.
                self.pass_over(cx, index, log, at, offset);
                continue;
            }
            let is_known = entry.done.contains(offset) || entry.pending.contains_key(&offset);
            let is_other = priority != reading.priority() || offset < floor || is_known;
            if !is_other && !is_expired {
                if let Some(lanes) = &mut entry.lanes {
                    *lanes.head_mut(priority) = Some(turn);
                }
                return Sought::Found(turn);
            }
            if let Some(cursor) = entry.cursor_mut(reading) {
                cursor.advance();
            }
            if !is_other {
                cx.counters.expired_messages += 1;
                self.pass_over(cx, index, log, offset, offset.next());
            }
        }
    }

    /// Deals out the next message that was never delivered.
    fn deal_fresh(
        &mut self,
        cx: &mut Context,
        index: u32,
        log: u32,
        reading: Reading,
        bytes: &mut u64,
    ) -> Dealt {
        let group = &mut self.groups[index as usize];
        if group.dead == Some(log) {
            // Dead letters are dealt out only when they are replayed.
            return Dealt::Nothing;
        }
        if group.idle.is_empty() {
            return Dealt::NoTaker;
        }
        let Sought::Found(turn) = self.seek(cx, index, log, reading) else {
            return Dealt::Nothing;
        };
        let offset = turn.offset;
        let entry = &mut self.groups[index as usize].logs[log as usize];
        let state = &self.topics[entry.topic as usize];
        let stored = &state.partitions[entry.partition.0 as usize].log;
        let ordering = state.config.ordering;
        let mut record = core::mem::take(&mut cx.record);
        record.clear();
        let spelt = entry
            .cursor_mut(reading)
            .and_then(|cursor| cursor.spelt(stored));
        record.extend_from_slice(spelt.unwrap_or_default());
        let key = held_key(ordering, &record);
        let mut pending = Pending {
            attempts: 0,
            state: State::Ready,
            key,
            turn,
        };
        let dealt = if let Some(waiting) = key.and_then(|key| entry.held_keys.get_mut(&key)) {
            let parks = ordering == Ordering::PerKey;
            if parks && entry.parked < cx.config.parked_max {
                waiting.push_back(offset);
                entry.parked += 1;
                pending.state = State::Parked {
                    record: record.as_slice().into(),
                };
                entry.pending.insert(offset, pending);
                Dealt::One
            } else {
                Dealt::Nothing
            }
        } else {
            entry.pending.insert(offset, pending);
            if let Some(key) = key {
                entry.held_keys.insert(key, VecDeque::new());
            }
            // Where messages have priorities, it was perhaps found a while ago.
            if entry.lanes.is_some() {
                self.hand_out_late(cx, index, log, offset, &record, bytes)
            } else {
                self.hand_out(cx, index, log, offset, &record, bytes)
            }
        };
        cx.record = record;
        let entry = &mut self.groups[index as usize].logs[log as usize];
        match dealt {
            Dealt::One => entry.pass(reading),
            Dealt::NoTaker => {
                entry.pending.remove(&offset);
                if let Some(key) = key {
                    entry.held_keys.remove(&key);
                }
            }
            Dealt::Nothing => {}
        }
        dealt
    }

    /// Gives a message to a member that was found to be sound a while ago, and may have expired meanwhile.
    fn hand_out_late(
        &mut self,
        cx: &mut Context,
        index: u32,
        log: u32,
        offset: Offset,
        record: &[u8],
        bytes: &mut u64,
    ) -> Dealt {
        let Ok(parsed) = read_record(record) else {
            cx.counters.lost_messages += 1;
            self.finish(cx, index, log, offset);
            return Dealt::One;
        };
        let is_expired = parsed.expires_at.is_some_and(|at| at <= cx.now.0);
        if is_expired && !Mutation::ExpiredLeased.is_active() {
            cx.counters.expired_messages += 1;
            self.finish(cx, index, log, offset);
            return Dealt::One;
        }
        self.hand_out(cx, index, log, offset, record, bytes)
    }

    /// Gives a pending message to a member under a lease.
    fn hand_out(
        &mut self,
        cx: &mut Context,
        index: u32,
        log: u32,
        offset: Offset,
        record: &[u8],
        bytes: &mut u64,
    ) -> Dealt {
        let group = &self.groups[index as usize];
        let entry = &group.logs[log as usize];
        let after = self.delivery_after(entry.topic, entry.partition);
        let name = self.topics[entry.topic as usize].name.clone();
        let is_dead = group.dead == Some(log);
        let dead = is_dead.then(|| read_record(record).ok()).flatten();
        let revived = dead.and_then(|dead| Some((Origin::of(&dead)?, dead)));
        let topic = revived.as_ref().map_or(&*name, |(origin, _)| origin.topic);
        let group = &mut self.groups[index as usize];
        let Some(member) = group.taker(topic) else {
            if !is_dead {
                return Dealt::NoTaker;
            }
            // Those behind it come from other topics, and may have takers.
            let turn = Turn::first(offset);
            group.logs[log as usize].again.remove(&turn);
            let waiting = group.untaken.entry(topic.into()).or_default();
            waiting.insert(turn);
            return Dealt::One;
        };
        let mut lease = self.next_lease;
        // One that outlived a restart may have the number.
        while self.leases.contains(&lease) {
            lease = LeaseId(lease.0 + 1);
        }
        self.next_lease = LeaseId(lease.0 + 1);
        let place = LeasePlace {
            group: index,
            log,
            offset,
        };
        self.leases.insert(lease, place);
        let until = cx.now.after_ms(group.config.ack_deadline_ms);
        group.timers.insert((until, log, offset));
        let entry = &mut group.logs[log as usize];
        if !Mutation::LeaseUnwritten.is_active() {
            entry.done.touch(offset);
        }
        let pending = entry.pending.get_mut(&offset);
        let pending = pending.expect("who hands out a message has made it pending");
        entry.again.remove(&pending.turn);
        pending.attempts += 1;
        pending.state = State::Leased {
            lease,
            member,
            until,
        };
        let attempt = pending.attempts;
        let partition = entry.partition;
        let entry = &mut group.members[member as usize];
        entry.in_flight += 1;
        entry.after = entry.after.and(after);
        let spelt;
        let body = match &revived {
            None => DeliveryBody {
                topic,
                partition,
                record,
            },
            Some((origin, dead)) => {
                spelt = origin.revive(dead);
                DeliveryBody {
                    topic,
                    partition: origin.partition,
                    record: &spelt,
                }
            }
        };
        if entry.frames.is_empty() {
            group.sending.push(member);
        }
        let before = entry.frames.len();
        body.put_leased(
            entry.encoding,
            entry.subscription,
            lease,
            attempt,
            &mut entry.frames,
        );
        *bytes += (entry.frames.len() - before) as u64;
        group.offer(member);
        self.count_delivered(cx, 1);
        self.touch_group_log(cx, index, log);
        Dealt::One
    }

    /// Sends what was gathered for each member.
    pub(crate) fn send_frames(&mut self, cx: &mut Context, index: u32) {
        let group = &mut self.groups[index as usize];
        for member in core::mem::take(&mut group.sending) {
            let entry = &mut group.members[member as usize];
            let frames = core::mem::take(&mut entry.frames);
            if !frames.is_empty() {
                cx.outbox
                    .deliver_to(entry.after, entry.connection_id, frames);
            }
        }
    }

    /// Notes that a message is done, whatever became of it.
    pub(crate) fn finish(&mut self, cx: &mut Context, index: u32, log: u32, offset: Offset) {
        let group = &mut self.groups[index as usize];
        let entry = &mut group.logs[log as usize];
        if let Some(pending) = entry.pending.remove(&offset) {
            entry.again.remove(&pending.turn);
            entry.release_key(pending.key);
            if let Some(until) = pending.until() {
                group.timers.remove(&(until, log, offset));
            }
            if let Some((lease, member)) = pending.lease() {
                self.leases.remove(&lease);
                group.release(member);
            }
        }
        let entry = &mut group.logs[log as usize];
        entry.done.insert(offset);
        entry.floor = entry.done.advance(entry.floor);
        group.log_ready(log);
        self.touch_group_log(cx, index, log);
        self.queue_group(cx, index);
    }

    /// Takes offsets for done that nobody will be given.
    fn pass_over(&mut self, cx: &mut Context, index: u32, log: u32, from: Offset, to: Offset) {
        let entry = &mut self.groups[index as usize].logs[log as usize];
        let from = from.max(entry.floor);
        // After a restart some of it may be pending, which is not passed over.
        if entry.floor == from && entry.pending.range(from..to.max(from)).next().is_none() {
            entry.floor = to.max(from);
        } else {
            for offset in (from.0..to.0).map(Offset) {
                if !entry.pending.contains_key(&offset) {
                    entry.done.insert(offset);
                }
            }
        }
        entry.floor = entry.done.advance(entry.floor);
        self.touch_group_log(cx, index, log);
    }

    /// Gives up a message that was to be read again and is not there any more; if retention took it, a member is told.
    fn lose(&mut self, cx: &mut Context, index: u32, log: u32, offset: Offset) {
        self.finish(cx, index, log, offset);
        let group = &self.groups[index as usize];
        let entry = &group.logs[log as usize];
        let stored = &self.topics[entry.topic as usize].partitions[entry.partition.0 as usize].log;
        if offset < stored.start() && group.dead != Some(log) {
            self.tell_gap(cx, index, log, (offset, offset.next()), 1);
        } else {
            cx.counters.lost_messages += 1;
        }
    }

    /// Gives up what retention took and nobody has, and tells a member.
    fn lose_trimmed(&mut self, cx: &mut Context, index: u32, log: u32) {
        let entry = &self.groups[index as usize].logs[log as usize];
        let stored = &self.topics[entry.topic as usize].partitions[entry.partition.0 as usize].log;
        let (mut from, to) = (entry.floor, stored.start());
        while entry.done.contains(from) || entry.pending.contains_key(&from) {
            from = from.next();
        }
        if from >= to {
            return;
        }
        let done = entry.done.count_from(from) - entry.done.count_from(to);
        let known = done + entry.pending.range(from..to).count() as u64;
        self.pass_over(cx, index, log, from, to);
        self.tell_gap(cx, index, log, (from, to), to.0 - from.0 - known);
    }

    /// Tells a member which messages the group will not get, `count` of them between two offsets.
    fn tell_gap(
        &mut self,
        cx: &mut Context,
        index: u32,
        log: u32,
        between: (Offset, Offset),
        count: u64,
    ) {
        cx.counters.lost_messages += count;
        let group = &self.groups[index as usize];
        let entry = &group.logs[log as usize];
        let topic = &self.topics[entry.topic as usize];
        let told = group
            .members
            .iter()
            .find_map(|(_, member)| Some((member.connection?, member)));
        let Some((connection, member)) = told else {
            return;
        };
        let gap = trimmed_gap(member, topic, entry.partition, between, count);
        cx.reply_in_order(connection, After::default(), &Reply::Gap(gap));
    }

    /// Asks for the rows that a log's cursor needs.
    pub(crate) fn load_for_group(
        &mut self,
        cx: &mut Context,
        index: u32,
        log: u32,
        reading: Reading,
    ) {
        let group = &mut self.groups[index as usize];
        let owner = LoadOwner::Group {
            namespace: self.index,
            group: index,
            log,
            reading,
        };
        let Some(ticket) = cx.take_ticket(owner) else {
            // Ready only when there is room again: it would be tried on and on in this batch.
            group.starved.push(log);
            if !group.logs[log as usize].dying.is_empty() && !group.dying.contains(&log) {
                group.dying.push(log);
            }
            // Once for all its logs: each time that it goes on it tries all of them.
            if core::mem::replace(&mut group.starved_in, cx.starved_round) != cx.starved_round {
                cx.starved.push_back(Work::Group {
                    namespace: self.index,
                    group: index,
                });
            }
            return;
        };
        let entry = &mut group.logs[log as usize];
        let state = &self.topics[entry.topic as usize];
        let stored = &state.partitions[entry.partition.0 as usize].log;
        let keys = LogKeys {
            keys: &self.keys,
            topic: entry.topic_id,
            partition: entry.partition,
        };
        let bytes_max = cx.config.load_bytes_max;
        if let Some(cursor) = entry.cursor_mut(reading) {
            let load = cursor.load(stored, &keys, ticket, bytes_max, &cx.config);
            cx.outbox.load(load);
        }
    }

    /// Takes the answer to a load for a group.
    pub(crate) fn group_loaded(
        &mut self,
        cx: &mut Context,
        (index, log, reading): (u32, u32, Reading),
        ticket: Ticket,
        result: Result<Vec<Row>, LoadFailed>,
    ) {
        let Some(group) = self.groups.get_mut(index as usize) else {
            return;
        };
        let Some(entry) = group.logs.get_mut(log as usize) else {
            return;
        };
        let state = &self.topics[entry.topic as usize];
        let stored = &state.partitions[entry.partition.0 as usize].log;
        let Some(cursor) = entry
            .cursor_mut(reading)
            .filter(|cursor| cursor.ticket() == Some(ticket))
        else {
            return;
        };
        match result {
            Ok(rows) => {
                let at = cursor.next();
                cursor.loaded(stored, rows);
                let to = cursor.next();
                group.read_on(log);
                if reading == Reading::Fresh && to > at && group.config.kind == GroupKind::Queue {
                    // Key compaction left nothing there.
                    self.pass_over(cx, index, log, at, to);
                }
            }
            Err(LoadFailed) => {
                *cursor = Cursor::eager(stored, cursor.next());
                let until = cx.now.after_ms(READ_AGAIN_MS);
                group.timers.insert((until, log, READ_AGAIN));
            }
        }
        self.queue_group(cx, index);
    }
}
