//! Catching up: a subscription that is behind reads the logs it matches, merged by sequence, until it is at the tail.
//!
//! A round covers everything up to the sequence that was the last when it began. It has a head for every partition
//! with something new; a message is delivered only when every head's next is known, so the order is that of the
//! sequence. When a round is over and nothing newer matches, the subscription is at the tail; else another begins.
//! A round can be dropped at any time: position and options say everything.

use alloc::boxed::Box;
use alloc::collections::{BinaryHeap, VecDeque};
use alloc::vec::Vec;
use core::cmp::Reverse;

use crate::context::{Context, Work};
use crate::cursor::{Cursor, Start, Step};
use crate::effect::{After, Event};
use crate::error::ErrorCode;
use crate::hash::Map;
use crate::ids::{Offset, Partition, Sequence, SubscriptionId, Ticket, TopicId};
use crate::input::{Encoding, LoadFailed, Row};
use crate::log::LogKeys;
use crate::mutation::Mutation;
use crate::namespace::{Namespace, Topic};
use crate::outbox::put_json;
use crate::protocol::frame::{Ended, Gap, Reply};
use crate::publish::DeliveryBody;
use crate::subscription::{Behind, Subscription, UNLIMITED};
use crate::topic::Kind;

pub(crate) struct Round {
    /// The last sequence that it covers.
    upto: Sequence,
    heads: Vec<Head>,
    /// The heads that have a next message, by its sequence; the lowest is on top.
    ready: BinaryHeap<Reverse<(Sequence, u32)>>,
    /// The partitions that have a head.
    known: Map<(TopicId, Partition), ()>,
    /// Heads that have to be looked at.
    unknown: VecDeque<u32>,
    /// How many loads are under way.
    waiting: u32,
    /// How many bytes lay loaded when a load last came back.
    loaded_bytes: u64,
    /// Whether it is known how much of it a session's mailbox does not hold, and how much of that was passed over
    /// without reading it.
    is_counted: bool,
    skipped: u64,
}

/// A partition that a round reads. The topic may be deleted meanwhile, and its index be another's.
#[derive(Debug)]
struct Head {
    topic: u32,
    topic_id: TopicId,
    partition: Partition,
    cursor: Cursor,
}

impl Round {
    fn new() -> Self {
        Self {
            upto: Sequence(0),
            heads: Vec::new(),
            ready: BinaryHeap::new(),
            // Nobody outside chooses these keys.
            known: Map::with_seed(0),
            unknown: VecDeque::new(),
            waiting: 0,
            loaded_bytes: 0,
            is_counted: false,
            skipped: 0,
        }
    }

    /// Lets go of the round and what it is waiting for.
    pub(crate) fn abandon(self, cx: &mut Context) {
        cx.catch_ups -= 1;
        for head in &self.heads {
            if let Some(ticket) = head.cursor.ticket() {
                cx.abandon_load(ticket);
            }
        }
        // Others may have waited for its place.
        cx.wake_starved();
    }
}

/// What a step of catching up sends to the one client.
struct Outgoing {
    subscription: SubscriptionId,
    encoding: Encoding,
    after: After,
    frames: Vec<u8>,
}

impl Outgoing {
    fn gap(&mut self, gap: Gap<'_>) {
        if Mutation::GapUntold.is_active() {
            return;
        }
        let mut frame = Vec::new();
        Reply::Gap(gap).encode(&mut frame);
        match self.encoding {
            Encoding::Binary => self.frames.extend_from_slice(&frame),
            Encoding::Json => put_json(&frame, &mut self.frames),
        }
    }

    fn sequence_gap(&mut self, reason: &str, after: Sequence, to: Sequence, count: Option<u64>) {
        self.gap(Gap {
            count,
            ..gap(self.subscription, reason, after, to)
        });
    }

    fn delivery(&mut self, body: &DeliveryBody<'_>) {
        body.put(self.encoding, self.subscription, &mut self.frames);
    }
}

fn gap<'a>(
    subscription: SubscriptionId,
    reason: &'a str,
    after: Sequence,
    to: Sequence,
) -> Gap<'a> {
    Gap {
        subscription: subscription.0,
        reason,
        after: after.0,
        to: to.0,
        count: None,
        topic: None,
        partition: None,
        from_offset: None,
        to_offset: None,
    }
}

/// How a step of catching up ended.
enum Progress {
    /// It can go on in the next batch.
    More,
    /// A load, credit or a token must come first.
    Waits,
    /// The subscription is at the tail.
    Tail,
}

impl Namespace {
    /// Lets a subscription that is behind go on as far as it can.
    pub(crate) fn catch_up(&mut self, cx: &mut Context, index: u32) {
        let subscription = &mut self.subscriptions[index as usize];
        subscription.queued = false;
        subscription.starved = false;
        let Some(mut behind) = subscription.behind.take() else {
            return;
        };
        let (connection, connection_id) = (subscription.connection, subscription.connection_id);
        let options = subscription.options;
        let mut out = Outgoing {
            subscription: subscription.id,
            encoding: subscription.encoding,
            after: subscription.after,
            frames: Vec::new(),
        };
        let progress = self.advance(cx, index, &mut behind, &mut out);
        self.subscriptions[index as usize].after = out.after;
        if !out.frames.is_empty() {
            cx.outbox.deliver_to(out.after, connection_id, out.frames);
        }
        let tail = matches!(progress, Progress::Tail);
        if tail {
            behind.lag = 0;
        }
        if behind.mark(&options) {
            self.blocked -= 1;
            cx.unblocked = true;
        }
        if tail {
            cx.touch_connection(connection);
            self.uncount_behind();
            return;
        }
        let subscription = &self.subscriptions[index as usize];
        if subscription.credit == 0 || subscription.paced_until.is_some() {
            // It may take long until there is credit or a token again; what is loaded is not kept for it.
            if let Some(round) = behind.round.take() {
                round.abandon(cx);
            }
        }
        self.subscriptions[index as usize].behind = Some(behind);
        if matches!(progress, Progress::More) {
            if !cx.starved.is_empty() {
                // Others wait for a place; a long way to the tail must not keep them from a short one.
                let entry = self.subscriptions[index as usize].behind.as_mut();
                if let Some(round) = entry.and_then(|behind| behind.round.take()) {
                    round.abandon(cx);
                }
            }
            self.queue_subscription(cx, index);
            cx.more = true;
        }
    }

    fn advance(
        &mut self,
        cx: &mut Context,
        index: u32,
        behind: &mut Behind,
        out: &mut Outgoing,
    ) -> Progress {
        loop {
            if self.subscriptions[index as usize].credit == 0 || self.must_pace(cx, index, behind) {
                return Progress::Waits;
            }
            let Some(mut round) = behind.round.take() else {
                self.settle(behind, out);
                if cx.catch_ups >= cx.config.catch_ups_max {
                    self.starve(cx, index);
                    return Progress::Waits;
                }
                let mut round = Box::new(Round::new());
                if !self.extend_round(index, behind, &mut round, out) {
                    return Progress::Tail;
                }
                cx.catch_ups += 1;
                behind.round = Some(round);
                continue;
            };
            let over = self.run_round(cx, index, behind, &mut round, out);
            match over {
                RunEnd::Waits => {
                    behind.round = Some(round);
                    return Progress::Waits;
                }
                RunEnd::BytesSpent => {
                    behind.round = Some(round);
                    return Progress::More;
                }
                RunEnd::Over => {
                    behind.position = behind.position.max(round.upto);
                    if let Some((after, to, count)) = behind.dropped.take() {
                        out.sequence_gap("dropped", after, to, Some(count));
                    }
                    self.settle(behind, out);
                    if !self.extend_round(index, behind, &mut round, out) {
                        round.abandon(cx);
                        return Progress::Tail;
                    }
                    behind.round = Some(round);
                }
            }
        }
    }

    /// Ends what the position has reached: the replay that was asked for, the run before newest messages were dropped.
    fn settle(&self, behind: &mut Behind, out: &mut Outgoing) {
        if behind
            .replay
            .as_ref()
            .is_some_and(|replay| replay.upto <= behind.position)
        {
            behind.replay = None;
        }
        let Some((from, count)) = behind.drop_newest else {
            return;
        };
        if from <= behind.position.next() {
            out.sequence_gap(
                "dropped",
                Sequence(from.0 - 1),
                self.last_sequence,
                Some(count),
            );
            behind.drop_newest = None;
            behind.position = self.last_sequence;
            behind.known_from = self.last_sequence;
            behind.lag = 0;
        }
    }

    /// The partitions that a subscription hears.
    fn logs_of<'a>(
        &'a self,
        subscription: &'a Subscription,
    ) -> impl Iterator<Item = (u32, Partition)> + 'a {
        self.topics_matching(&subscription.filter)
            .flat_map(move |topic| {
                let count = self.topics[topic as usize].partitions.len() as u32;
                let all = subscription
                    .partition
                    .map_or(0..count, |only| only.0..(only.0 + 1).min(count));
                all.map(move |partition| (topic, Partition(partition)))
            })
    }

    /// Makes a round cover everything up to now. False if there is nothing for it.
    fn extend_round(
        &mut self,
        index: u32,
        behind: &mut Behind,
        round: &mut Round,
        out: &mut Outgoing,
    ) -> bool {
        let subscription = &self.subscriptions[index as usize];
        round.upto = match (&behind.replay, behind.drop_newest) {
            (Some(replay), _) => replay.upto,
            (None, Some((from, _))) => Sequence(from.0 - 1),
            (None, None) => self.last_sequence,
        };
        let mut new = Vec::new();
        let mut trims = Vec::new();
        for (topic, partition) in self.logs_of(subscription) {
            let state = &self.topics[topic as usize];
            let log = &state.partitions[partition.0 as usize].log;
            if log.last_sequence() <= behind.position {
                continue;
            }
            let mut start = Start {
                offset: Offset(0),
                after: behind.position,
                since: behind.since,
            };
            if let Some(replay) = &behind.replay {
                let wanted = (state.id, partition);
                let asked = replay
                    .starts
                    .binary_search_by_key(&wanted, |start| (start.0, start.1));
                let Ok(asked) = asked else {
                    continue;
                };
                let (_, _, offset) = replay.starts[asked];
                start.offset = offset;
                let missed = log.start() > offset && log.trimmed_to() > behind.position;
                if missed && log.trimmed_at() > behind.known_from {
                    trims.push((topic, partition));
                }
            } else if log.trimmed_to() > behind.position && log.trimmed_at() > behind.known_from {
                trims.push((topic, partition));
            }
            if state.config.kind == Kind::Live {
                start.after = start.after.max(behind.live_from);
            }
            if round.known.insert((state.id, partition), ()).is_none() {
                new.push(Head {
                    topic,
                    topic_id: state.id,
                    partition,
                    cursor: Cursor::new(log, start),
                });
            }
        }
        // A trim of a log that already has a head is told when the head meets it.
        trims.retain(|(topic, partition)| {
            new.iter()
                .any(|head| head.topic == *topic && head.partition == *partition)
        });
        for (topic, partition) in trims {
            let state = &self.topics[topic as usize];
            let log = &state.partitions[partition.0 as usize].log;
            out.gap(Gap {
                topic: Some(&state.name),
                partition: Some(partition.0),
                to_offset: Some(log.start().0),
                ..gap(
                    out.subscription,
                    lost_reason(state.config.kind),
                    behind.position,
                    log.trimmed_to(),
                )
            });
        }
        if behind.replay.is_none() {
            behind.known_from = behind.known_from.max(self.last_sequence);
        }
        round.heads.append(&mut new);
        if behind.drop_oldest > 0 {
            // Retention may have taken what was to be dropped; what is left must not be dropped in its place.
            let left: u64 = round
                .heads
                .iter()
                .filter_map(|head| self.left_of(head))
                .sum();
            behind.drop_oldest = behind.drop_oldest.min(left.saturating_sub(behind.lag));
        }
        round.ready.clear();
        round.unknown = (0..round.heads.len() as u32).collect();
        // A replay is a round even if nothing is left of what was asked for: what came since is read after it.
        behind.replay.is_some()
            || round.heads.iter().any(|head| {
                let topic = self.same_topic(head.topic, head.topic_id);
                topic.is_some_and(|topic| {
                    topic.partitions[head.partition.0 as usize]
                        .log
                        .last_sequence()
                        > behind.position
                })
            })
    }

    /// At most how many messages a head still has.
    fn left_of(&self, head: &Head) -> Option<u64> {
        let topic = self.same_topic(head.topic, head.topic_id)?;
        let log = &topic.partitions[head.partition.0 as usize].log;
        Some(log.end().0.saturating_sub(head.cursor.next().0))
    }

    fn run_round(
        &mut self,
        cx: &mut Context,
        index: u32,
        behind: &mut Behind,
        round: &mut Round,
        out: &mut Outgoing,
    ) -> RunEnd {
        let pace = self.pace(cx);
        loop {
            while let Some(head) = round.unknown.pop_front() {
                if !self.look(cx, index, behind, round, head, out) {
                    round.unknown.push_front(head);
                    break;
                }
            }
            if round.waiting > 0 {
                return RunEnd::Waits;
            }
            if !round.unknown.is_empty() {
                self.starve(cx, index);
                return RunEnd::Waits;
            }
            if behind.mailbox && !core::mem::replace(&mut round.is_counted, true) {
                self.count_mailbox(cx, behind, round);
                continue;
            }
            let Some(Reverse((sequence, head_index))) = round.ready.pop() else {
                return RunEnd::Over;
            };
            if self.subscriptions[index as usize].credit == 0 || self.must_pace(cx, index, behind) {
                round.ready.push(Reverse((sequence, head_index)));
                return RunEnd::Waits;
            }
            if out.frames.len() as u64 >= cx.config.catch_up_bytes_max {
                round.ready.push(Reverse((sequence, head_index)));
                return RunEnd::BytesSpent;
            }
            let mut taken = false;
            let head = &mut round.heads[head_index as usize];
            let topic = self.same_topic(head.topic, head.topic_id);
            let log = topic.map(|topic| &topic.partitions[head.partition.0 as usize].log);
            let marked = log.and_then(|log| head.cursor.marked_record(log));
            let Some((record, bytes, source)) = marked else {
                // What was loaded was let go of, or the topic is gone.
                round.unknown.push_back(head_index);
                continue;
            };
            // A compacted topic has values, not messages one after the other: none is passed over for a newer one.
            let is_value = topic.is_some_and(|topic| topic.config.kind == Kind::Compacted);
            let dropped = behind.drop_oldest > 0 && !(behind.mailbox && is_value);
            let expired = (record.expires_at.is_some_and(|at| at <= cx.now.0)
                && !Mutation::ExpiredDelivered.is_active())
                || (Mutation::CatchUpSkips.is_active() && sequence.0 % 16 == 0);
            let is_echo = source.is_some() && self.subscriptions[index as usize].source == source;
            if is_echo && !behind.mailbox {
                // It did not count when it was published either.
            } else if dropped {
                behind.drop_oldest -= 1;
                cx.counters.dropped_messages += 1;
                let (_, to, count) = behind.dropped.get_or_insert((behind.position, sequence, 0));
                *to = sequence;
                *count += 1;
            } else {
                behind.lag = behind.lag.saturating_sub(1);
                let skipped = core::mem::take(&mut round.skipped);
                if skipped > 0 {
                    let dropped = behind.dropped.take();
                    let (after, _, count) = dropped.unwrap_or((behind.position, sequence, 0));
                    let to = Sequence(sequence.0 - 1);
                    out.sequence_gap(MAILBOX_FULL, after, to, Some(skipped + count));
                } else if let Some((after, to, count)) = behind.dropped.take() {
                    let reason = if behind.mailbox {
                        MAILBOX_FULL
                    } else {
                        "dropped"
                    };
                    out.sequence_gap(reason, after, to, Some(count));
                }
                behind.mailbox &= behind.drop_oldest > 0;
            }
            if !dropped && !expired && !is_echo {
                taken = true;
                let topic = &self.topics[head.topic as usize];
                out.delivery(&DeliveryBody {
                    topic: &topic.name,
                    partition: head.partition,
                    record: bytes,
                });
                out.after = out
                    .after
                    .and(self.delivery_after(head.topic, head.partition));
            }
            behind.position = sequence;
            if taken {
                self.count_delivered(cx, 1);
                let subscription = &mut self.subscriptions[index as usize];
                subscription.take_token(pace, cx.now);
                if subscription.credit != UNLIMITED {
                    subscription.credit -= 1;
                }
            }
            round.heads[head_index as usize].cursor.advance();
            round.unknown.push_back(head_index);
        }
    }

    /// Finds out how many of the messages that wait a session's mailbox does not hold: all but the newest. Those of
    /// them that one partition alone has too many of are not even read.
    fn count_mailbox(&self, cx: &mut Context, behind: &mut Behind, round: &mut Round) {
        let max = cx.config.mailbox_messages_max;
        let kind = |head: &Head| {
            let topic = self.same_topic(head.topic, head.topic_id);
            topic.map(|topic| topic.config.kind)
        };
        let counted = |head: &&Head| kind(head) != Some(Kind::Compacted);
        let heads = round.heads.iter().filter(counted);
        let waiting: u64 = heads.filter_map(|head| self.left_of(head)).sum();
        let surplus = waiting.saturating_sub(max);
        if surplus > 0 && round.heads.iter().all(|head| counted(&head)) {
            for head in &mut round.heads {
                let left = self.left_of(head).unwrap_or(0);
                let skipped = left.saturating_sub(max);
                if skipped > 0 {
                    let floor = Offset(head.cursor.next().0 + skipped);
                    head.cursor.skip_to(floor);
                    round.skipped += skipped;
                }
            }
            round.ready.clear();
            round.unknown = (0..round.heads.len() as u32).collect();
        }
        behind.drop_oldest = surplus - round.skipped;
        behind.lag = waiting - surplus;
        cx.counters.dropped_messages += round.skipped;
    }

    /// Finds out what a head has next. False if it must wait until fewer loads are under way.
    fn look(
        &mut self,
        cx: &mut Context,
        index: u32,
        behind: &mut Behind,
        round: &mut Round,
        head_index: u32,
        out: &mut Outgoing,
    ) -> bool {
        let head = &mut round.heads[head_index as usize];
        // A topic that was deleted has nothing more to say.
        let Some(topic) = self.same_topic(head.topic, head.topic_id) else {
            return true;
        };
        let log = &topic.partitions[head.partition.0 as usize].log;
        loop {
            let step = head.cursor.step(log);
            // Up to where messages may be missing is known when what follows them is.
            let next = match step {
                Step::Ready => head.cursor.record(log).map(|(record, _)| record.sequence),
                Step::End => Some(log.last_sequence().0 + 1),
                Step::Load | Step::Wait | Step::Trimmed { .. } => None,
            };
            let unreadable = next.and_then(|_| head.cursor.take_unreadable());
            if let (Some(next), Some(unreadable)) = (next, unreadable) {
                cx.counters.unreadable_rows += unreadable.rows;
                cx.outbox.notify(Event::RowUnreadable {
                    namespace: self.name.clone(),
                    topic: (&*topic.name).into(),
                });
                out.gap(Gap {
                    topic: Some(&topic.name),
                    partition: Some(head.partition.0),
                    from_offset: Some(unreadable.from.0),
                    to_offset: Some(head.cursor.next().0),
                    ..gap(
                        out.subscription,
                        "unreadable",
                        behind.position,
                        behind.position.max(Sequence(next - 1)),
                    )
                });
            }
            match step {
                Step::Ready => {
                    let Some((record, _)) = head.cursor.record(log) else {
                        return true;
                    };
                    let sequence = Sequence(record.sequence);
                    if sequence <= behind.position {
                        // The newest were dropped up to there, or the head had not come so far.
                        head.cursor.advance();
                        continue;
                    }
                    if sequence <= round.upto {
                        round.ready.push(Reverse((sequence, head_index)));
                        let first = round.ready.peek().map(|Reverse((_, first))| *first);
                        if round.loaded_bytes > cx.config.catch_up_bytes_max
                            && first != Some(head_index)
                        {
                            // Too much lies loaded; this head will be read again when its turn comes.
                            round.loaded_bytes -=
                                head.cursor.loaded_bytes().min(round.loaded_bytes);
                            head.cursor.unload();
                        }
                    }
                    return true;
                }
                Step::End => return true,
                Step::Wait => return true,
                Step::Trimmed { from } => {
                    // Where the head had not yet passed over what its reader has, nothing is missed.
                    if log.trimmed_to() > behind.position {
                        out.gap(Gap {
                            topic: Some(&topic.name),
                            partition: Some(head.partition.0),
                            from_offset: Some(from.0),
                            to_offset: Some(log.start().0),
                            ..gap(
                                out.subscription,
                                lost_reason(topic.config.kind),
                                behind.position,
                                log.trimmed_to(),
                            )
                        });
                    }
                    // What was to be dropped, or waited, went with it.
                    let missing = log.start().0 - from.0;
                    let dropped = behind.drop_oldest.min(missing);
                    behind.drop_oldest -= dropped;
                    behind.lag = behind.lag.saturating_sub(missing - dropped);
                }
                Step::Load => {
                    let owner = self.head_owner(index, head_index as usize);
                    let Some(ticket) = cx.take_ticket(owner) else {
                        return false;
                    };
                    let keys = LogKeys {
                        keys: &self.keys,
                        topic: topic.id,
                        partition: head.partition,
                    };
                    let share = cx.config.catch_up_bytes_max / round.heads.len() as u64;
                    let bytes_max = share.clamp(1, cx.config.load_bytes_max);
                    let head = &mut round.heads[head_index as usize];
                    cx.outbox
                        .load(head.cursor.load(log, &keys, ticket, bytes_max, &cx.config));
                    round.waiting += 1;
                    return true;
                }
            }
        }
    }

    /// Takes the answer to a head's load.
    pub(crate) fn head_loaded(
        &mut self,
        cx: &mut Context,
        index: u32,
        head_index: u32,
        ticket: Ticket,
        result: Result<Vec<Row>, LoadFailed>,
    ) {
        let subscription = &mut self.subscriptions[index as usize];
        let Some(round) = subscription
            .behind
            .as_mut()
            .and_then(|behind| behind.round.as_mut())
        else {
            return;
        };
        let head = &mut round.heads[head_index as usize];
        if head.cursor.ticket() != Some(ticket) {
            return;
        }
        round.waiting -= 1;
        match result {
            Ok(rows) => {
                let topic = self
                    .topics
                    .get(head.topic as usize)
                    .filter(|topic| topic.id == head.topic_id);
                if let Some(topic) = topic {
                    head.cursor
                        .loaded(&topic.partitions[head.partition.0 as usize].log, rows);
                    round.unknown.push_back(head_index);
                    round.loaded_bytes = round
                        .heads
                        .iter()
                        .map(|head| head.cursor.loaded_bytes())
                        .sum();
                }
                self.queue_subscription(cx, index);
            }
            Err(LoadFailed) => {
                let message = "the store could not be read; subscribe again from the last sequence";
                self.end_subscription(cx, index, ErrorCode::StorageUnavailable, message);
            }
        }
    }

    /// Ends a subscription from the broker's side, and says why.
    pub(crate) fn end_subscription(
        &mut self,
        cx: &mut Context,
        index: u32,
        code: ErrorCode,
        message: &str,
    ) {
        let subscription = &self.subscriptions[index as usize];
        let (connection, id) = (subscription.connection, subscription.id);
        let ended = Ended {
            subscription: id.0,
            code: code.as_str(),
            message,
        };
        cx.reply(connection, After::default(), &Reply::Ended(ended));
        if let Some(connection) = cx.connections.get_mut(connection as usize) {
            connection.remove_subscription(id);
        }
        cx.touch_connection(connection);
        self.remove_subscription(cx, index);
    }

    fn starve(&mut self, cx: &mut Context, index: u32) {
        let subscription = &mut self.subscriptions[index as usize];
        if core::mem::replace(&mut subscription.starved, true) {
            return;
        }
        let serial = subscription.serial;
        cx.starved.push_back(Work::Subscription {
            namespace: self.index,
            subscription: index,
            serial,
        });
    }

    /// The topic with this index, if it is still the same one.
    pub(crate) fn same_topic(&self, index: u32, id: TopicId) -> Option<&Topic> {
        self.topics
            .get(index as usize)
            .filter(|topic| topic.id == id)
    }
}

/// Why a step within a round stopped.
enum RunEnd {
    Waits,
    BytesSpent,
    Over,
}

/// Why a session that was away misses its oldest messages.
const MAILBOX_FULL: &str = "mailbox_full";

/// What a log's missing messages were lost to: retention, or a ring that was too small for a slow reader.
fn lost_reason(kind: Kind) -> &'static str {
    if kind == Kind::Live {
        "dropped"
    } else {
        "trimmed"
    }
}
