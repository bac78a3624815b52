//! Scheduled messages: accepted now, published when their time comes.
//!
//! One that waits is a row with its body, which nobody holds in memory, and a small row of the state. What is due is
//! loaded in the order of time and number, appended as every publish is, and the write that stores it there deletes
//! both rows: so no crash makes it fire twice, or never. Numbers are sequences of the namespace, so they rise and are
//! not given again. While the store takes no writes, nothing fires.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Bound;

use crate::config::Config;
use crate::context::{Context, LoadOwner, Work};
use crate::deadline::Due;
use crate::dedup::Known;
use crate::effect::{After, Durability, Effect, Event, Op};
use crate::error::{ErrorCode, Refusal};
use crate::hash::Map;
use crate::ids::{ScheduleId, Ticket, Timestamp};
use crate::input::{LoadFailed, Rights, Row};
use crate::mutation::Mutation;
use crate::namespace::Namespace;
use crate::protocol::field::{Headers, Item as _, List};
use crate::protocol::frame::{
    CancelScheduled, Done, ListScheduled, Message, Reply, Scheduled, ScheduledMessage,
};
use crate::publish::{Origin, Placed};
use crate::rows::{KeyTail, ROW_VERSION};
use crate::topic;
use crate::wire::{Malformed, Put as _, Reader};

/// How long it takes until what could not be loaded is tried again, in milliseconds.
const RETRY_MS: u64 = 1000;

/// What a namespace has scheduled.
pub(crate) struct Schedule {
    /// What waits, in the order in which it fires.
    pub(crate) order: BTreeSet<(Timestamp, ScheduleId)>,
    waiting: Map<ScheduleId, Waiting>,
    pub(crate) size_bytes: u64,
    /// What receipts have waited for so far.
    pub(crate) after: After,
    /// The load of what is due, and up to when it asks.
    ticket: Option<Ticket>,
    asked_to: Timestamp,
    /// Whether such a load waits until fewer are under way.
    starved: bool,
    /// When to look for what is due, as the context has it listed, and not sooner than when.
    listed: Option<Timestamp>,
    not_before: Timestamp,
    /// What has fired or was cancelled while an export may still read its body.
    leftover: Vec<(Timestamp, ScheduleId)>,
}

/// A message that waits.
struct Waiting {
    at: Timestamp,
    topic: u32,
    size_bytes: u64,
    key: Option<Box<str>>,
    id: Option<Box<str>>,
}

impl Schedule {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            order: BTreeSet::new(),
            waiting: Map::with_seed(seed),
            size_bytes: 0,
            after: After::default(),
            ticket: None,
            asked_to: Timestamp(0),
            starved: false,
            listed: None,
            not_before: Timestamp(0),
            leftover: Vec::new(),
        }
    }

    /// How many bytes wait.
    pub(crate) const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn insert(&mut self, id: ScheduleId, waiting: Waiting) {
        self.order.insert((waiting.at, id));
        self.size_bytes += waiting.size_bytes;
        self.waiting.insert(id, waiting);
    }

    fn remove(&mut self, id: ScheduleId) -> Option<Waiting> {
        let waiting = self.waiting.remove(&id)?;
        self.order.remove(&(waiting.at, id));
        self.size_bytes -= waiting.size_bytes;
        Some(waiting)
    }

    /// Whether a body is that of what waits under this number.
    pub(crate) fn fits(&self, id: ScheduleId, body: &[u8]) -> bool {
        let size_bytes = read_body(body).map(|message| size_of(&message));
        let waiting = self.waiting.get(&id);
        waiting.is_some_and(|waiting| size_bytes == Ok(waiting.size_bytes))
    }
}

/// When a message is to be published, if that is not at once. Refuses what says it twice, or lies too far ahead.
pub(crate) fn deliver_at(
    config: &Config,
    now: Timestamp,
    message: &Message<'_>,
) -> Result<Option<Timestamp>, Refusal> {
    let invalid = |message: String| Err(Refusal::new(ErrorCode::InvalidArgument, message));
    let (name, at) = match (message.delay_ms, message.deliver_at) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return invalid(String::from(
                "\"delay_ms\" and \"deliver_at\" both say when; give one of them",
            ));
        }
        (Some(delay_ms), None) => ("delay_ms", now.after_ms(delay_ms)),
        (None, Some(at)) => ("deliver_at", Timestamp(at)),
    };
    let max = config.schedule_ms_max;
    if at.since_ms(now) > max {
        return invalid(format!(
            "\"{name}\" lies more than {max} ms ahead (schedule_ms_max)"
        ));
    }
    Ok((at > now).then_some(at))
}

/// The bytes that count for the bound: those that the publisher chose.
pub(crate) fn size_of(message: &Message<'_>) -> u64 {
    let attributes = [message.key, message.content_type, message.id];
    let attributes = attributes.iter().flatten().map(|text| text.len());
    let headers = message.headers.as_ref().map_or(0, Headers::size_bytes);
    (message.payload.len() + headers + attributes.sum::<usize>()) as u64
}

fn read_body(body: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut reader = Reader::new(body);
    if reader.u64()? != ROW_VERSION {
        return Err(Malformed);
    }
    Message::take_fields(&mut reader)
}

impl Namespace {
    /// Refuses messages that cannot be kept until their time, of those that are not duplicates.
    pub(crate) fn check_schedule(
        &self,
        cx: &Context,
        messages: &[Message<'_>],
    ) -> Result<(), Refusal> {
        let (mut count, mut bytes) = (0, 0);
        for (index, message) in messages.iter().enumerate() {
            let recalled = cx.recalled.get(index);
            let is_new = recalled.is_none_or(|recalled| recalled.known == Known::New);
            if is_new && deliver_at(&cx.config, cx.now, message)?.is_some() {
                count += 1;
                bytes += size_of(message);
            }
        }
        if count == 0 {
            return Ok(());
        }
        cx.require_storage()?;
        let count = self.schedule.order.len() as u64 + count;
        let bytes = self.schedule.size_bytes + bytes;
        let (count_max, bytes_max) = (cx.config.scheduled_max, cx.config.scheduled_bytes_max);
        for (what, name, sum, max) in [
            ("messages", "scheduled_max", count, count_max),
            ("bytes", "scheduled_bytes_max", bytes, bytes_max),
        ] {
            if sum > max {
                let message = format!("a namespace has at most {max} {what} scheduled ({name})");
                return Err(Refusal::later(ErrorCode::LimitReached, message));
            }
        }
        Ok(())
    }

    /// Keeps a checked message until its time.
    pub(crate) fn schedule(
        &mut self,
        cx: &mut Context,
        topic: u32,
        message: &Message<'_>,
        at: Timestamp,
        asked: Durability,
    ) -> (Placed, After) {
        self.last_sequence = self.last_sequence.next();
        let id = ScheduleId(self.last_sequence.0);
        let mut body = Vec::new();
        body.put_u64(ROW_VERSION);
        Message {
            topic: "",
            delay_ms: None,
            deliver_at: None,
            producer: None,
            producer_sequence: None,
            ..*message
        }
        .put_fields(&mut body);
        cx.ops.push(Op::Put {
            key: self.keys.scheduled_body(at, id),
            value: body,
        });
        let state = &mut self.topics[topic as usize];
        state.scheduled += 1;
        let waiting = Waiting {
            at,
            topic,
            size_bytes: size_of(message),
            key: message.key.map(Box::from),
            id: message.id.map(Box::from),
        };
        let mut row = Vec::new();
        row.put_u64(ROW_VERSION);
        row.put_u64(state.id.0.into());
        row.put_u64(waiting.size_bytes);
        for text in [&waiting.key, &waiting.id] {
            row.push(text.is_some().into());
            row.put_bytes(text.as_deref().unwrap_or_default().as_bytes());
        }
        cx.ops.push(Op::Put {
            key: self.keys.scheduled(at, id),
            value: row,
        });
        let durability = state.config.durability.max(asked);
        cx.durability = cx.durability.max(durability);
        let after = cx.after(durability);
        self.schedule.after = self.schedule.after.and(after);
        self.schedule.insert(id, waiting);
        self.touch(cx);
        self.list_schedule(cx);
        (Placed::Scheduled(id), after)
    }

    /// Lets the context know when to look for what is due.
    pub(crate) fn list_schedule(&mut self, cx: &mut Context) {
        let schedule = &mut self.schedule;
        let looks = cx.storage_available && schedule.ticket.is_none() && !schedule.starved;
        let first = schedule.order.first().filter(|_| looks);
        let due = first.map(|(at, _)| (*at).max(schedule.not_before));
        if due == schedule.listed {
            return;
        }
        let here = Due::Schedule(self.index);
        if let Some(listed) = core::mem::replace(&mut schedule.listed, due) {
            cx.deadlines.remove(&(listed, here));
        }
        if let Some(due) = due {
            cx.deadlines.insert((due, here));
        }
    }

    /// Loads what is due.
    pub(crate) fn load_scheduled(&mut self, cx: &mut Context) {
        self.schedule.starved = false;
        let first = self.schedule.order.first().copied();
        let due = first.filter(|(at, _)| *at <= cx.now && cx.storage_available);
        if let Some((at, id)) = due.filter(|_| self.schedule.ticket.is_none()) {
            let namespace = self.index;
            if let Some(ticket) = cx.take_ticket(LoadOwner::Schedule { namespace }) {
                self.schedule.ticket = Some(ticket);
                self.schedule.asked_to = cx.now;
                // Bodies that a crash left below are deleted with what is due, unless an export needs them.
                let from = if self.exports.is_empty() {
                    self.keys.scheduled_body(Timestamp(0), ScheduleId(0))
                } else {
                    self.keys.scheduled_body(at, id)
                };
                cx.outbox.load(Effect::Load {
                    ticket,
                    from,
                    to: self.keys.scheduled_body(cx.now.after_ms(1), ScheduleId(0)),
                    reverse: false,
                    rows_max: cx.config.trim_rows_max as u32,
                    bytes_max: cx.config.load_bytes_max as u32,
                });
            } else {
                self.schedule.starved = true;
                cx.starved.push_back(Work::Schedule { namespace });
            }
        }
        self.list_schedule(cx);
    }

    /// Publishes what was loaded.
    pub(crate) fn scheduled_loaded(
        &mut self,
        cx: &mut Context,
        ticket: Ticket,
        result: Result<Vec<Row>, LoadFailed>,
    ) {
        if self.schedule.ticket != Some(ticket) {
            return;
        }
        self.schedule.ticket = None;
        match result {
            // It is loaded again when the store is back.
            _ if !cx.storage_available => {}
            Err(LoadFailed) => self.schedule.not_before = cx.now.after_ms(RETRY_MS),
            Ok(mut rows) => {
                if Mutation::ScheduleByNumber.is_active() {
                    let number = |row: &Row| scheduled_key(KeyTail::of(&row.key)).map(|(_, id)| id);
                    rows.sort_by_key(number);
                }
                if rows.is_empty() {
                    let end = self.schedule.asked_to.after_ms(1);
                    self.give_up_below(cx, (end, ScheduleId(0)));
                }
                for row in rows {
                    if let Some(place) = scheduled_key(KeyTail::of(&row.key)) {
                        // All bodies of the range come in order, so what is passed over has none.
                        if !Mutation::ScheduleByNumber.is_active() {
                            self.give_up_below(cx, place);
                        }
                        self.fire(cx, place, &row.value);
                    } else {
                        // No version writes such a key; it would be found again for ever.
                        cx.ops.push(Op::Delete { key: row.key });
                    }
                }
            }
        }
        self.list_schedule(cx);
    }

    /// Publishes a message whose time has come, unless it was cancelled.
    fn fire(&mut self, cx: &mut Context, place: (Timestamp, ScheduleId), body: &[u8]) {
        let Some(waiting) = self.end_scheduled(cx, place) else {
            return;
        };
        let Ok(message) = read_body(body) else {
            return self.give_up(cx, &waiting);
        };
        let origin = Origin {
            with_rows: true,
            ..Origin::default()
        };
        self.append(cx, waiting.topic, &message, origin);
    }

    /// Gives up what has no body in the store, which is damaged then.
    fn give_up_below(&mut self, cx: &mut Context, end: (Timestamp, ScheduleId)) {
        while let Some(first) = self.schedule.order.first().copied()
            && first < end
            && let Some(waiting) = self.end_scheduled(cx, first)
        {
            self.give_up(cx, &waiting);
        }
    }

    fn give_up(&self, cx: &mut Context, waiting: &Waiting) {
        cx.counters.unreadable_rows += 1;
        cx.outbox.notify(Event::RowUnreadable {
            namespace: self.name.clone(),
            topic: (&*self.topics[waiting.topic as usize].name).into(),
        });
    }

    /// Deletes the rows of a message; and what is known of it, if it still waits.
    fn end_scheduled(
        &mut self,
        cx: &mut Context,
        (at, id): (Timestamp, ScheduleId),
    ) -> Option<Waiting> {
        let waiting = self.schedule.remove(id);
        if let Some(waiting) = &waiting {
            self.topics[waiting.topic as usize].scheduled -= 1;
            if !Mutation::ScheduleFiresAgain.is_active() {
                cx.ops.push(Op::Delete {
                    key: self.keys.scheduled(at, id),
                });
            }
            // Its number must not be given again.
            self.touch(cx);
        }
        if self.exports.is_empty() {
            cx.ops.push(Op::Delete {
                key: self.keys.scheduled_body(at, id),
            });
        } else if waiting.is_some() {
            self.schedule.leftover.push((at, id));
        }
        waiting
    }

    /// Deletes the bodies that exports needed, now that there is none.
    pub(crate) fn delete_leftover_bodies(&mut self, cx: &mut Context) {
        for (at, id) in core::mem::take(&mut self.schedule.leftover) {
            cx.ops.push(Op::Delete {
                key: self.keys.scheduled_body(at, id),
            });
        }
    }

    /// Forgets what is scheduled for a topic that is about to be deleted.
    pub(crate) fn delete_scheduled(&mut self, cx: &mut Context, topic: u32) {
        if self.topics[topic as usize].scheduled == 0 {
            return;
        }
        let of_topic = self.schedule.order.iter().copied().filter(|(_, id)| {
            let waiting = self.schedule.waiting.get(id);
            waiting.is_some_and(|waiting| waiting.topic == topic)
        });
        for place in of_topic.collect::<Vec<_>>() {
            self.end_scheduled(cx, place);
        }
        self.list_schedule(cx);
    }

    /// Takes back a message that waits.
    pub(crate) fn cancel_scheduled(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: CancelScheduled,
    ) -> Result<(), Refusal> {
        require_schedule(cx, connection)?;
        let id = ScheduleId(command.schedule_id);
        let waiting = self.schedule.waiting.get(&id);
        let (at, topic) = waiting
            .map(|waiting| (waiting.at, waiting.topic))
            .ok_or_else(|| unknown_schedule(id))?;
        cx.require_storage()?;
        let durability = self.topics[topic as usize].config.durability;
        cx.durability = cx.durability.max(durability);
        self.end_scheduled(cx, (at, id));
        self.list_schedule(cx);
        let done = Done {
            request: command.request,
        };
        cx.reply(connection, cx.after(durability), &Reply::Done(done));
        Ok(())
    }

    /// Lists what waits, a page at a time.
    pub(crate) fn list_scheduled(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &ListScheduled<'_>,
    ) -> Result<(), Refusal> {
        require_schedule(cx, connection)?;
        let filter = command.filter.unwrap_or("#");
        topic::check_filter(filter)?;
        let max = command.scheduled_max.unwrap_or(u64::MAX);
        let max = max.clamp(1, cx.config.list_scheduled_max);
        let from = match command.after.map(ScheduleId) {
            None => Bound::Unbounded,
            Some(after) => {
                let waiting = self.schedule.waiting.get(&after);
                let waiting = waiting.ok_or_else(|| unknown_schedule(after))?;
                Bound::Excluded((waiting.at, after))
            }
        };
        let order = self.schedule.order.range((from, Bound::Unbounded));
        let mut matching = order.filter_map(|(at, id)| {
            let waiting = self.schedule.waiting.get(id)?;
            let name = &*self.topics[waiting.topic as usize].name;
            topic::matches(filter, name).then_some(ScheduledMessage {
                schedule_id: id.0,
                topic: name,
                deliver_at: at.0,
                size_bytes: waiting.size_bytes,
                key: waiting.key.as_deref(),
                id: waiting.id.as_deref(),
            })
        });
        let mut page = Vec::new();
        for message in matching.by_ref().take(max as usize) {
            List::push(&mut page, &message);
        }
        let scheduled = Scheduled {
            request: command.request,
            scheduled: List::new(&page),
            more: matching.next().is_some(),
        };
        cx.reply(connection, After::default(), &Reply::Scheduled(scheduled));
        Ok(())
    }

    /// Takes the rest of the row of a message that waits.
    pub(crate) fn restore_scheduled(
        &mut self,
        topic: u32,
        (at, id): (Timestamp, ScheduleId),
        mut reader: Reader<'_>,
    ) -> Result<(), Malformed> {
        let size_bytes = reader.counted()?;
        let mut texts = [None, None];
        for text in &mut texts {
            let is_there = reader.u8()? != 0;
            let spelt = reader.str()?;
            *text = is_there.then(|| Box::from(spelt));
        }
        reader.end()?;
        let [key, name] = texts;
        if id.0 == 0 || id.0 >= 1 << 53 || self.schedule.waiting.contains(&id) {
            return Err(Malformed);
        }
        self.last_sequence.0 = self.last_sequence.0.max(id.0);
        self.topics[topic as usize].scheduled += 1;
        let waiting = Waiting {
            at,
            topic,
            size_bytes,
            key,
            id: name,
        };
        self.schedule.insert(id, waiting);
        Ok(())
    }

    #[cfg(any(test, feature = "check"))]
    pub(crate) fn check_schedules(&self) {
        let schedule = &self.schedule;
        let sizes = schedule.order.iter().map(|(at, id)| {
            let waiting = schedule.waiting.get(id).expect("what is in order waits");
            assert_eq!(waiting.at, *at);
            waiting.size_bytes
        });
        assert_eq!(sizes.sum::<u64>(), schedule.size_bytes);
        assert_eq!(schedule.order.len(), schedule.waiting.len());
        let by_topic = self.topics.iter().map(|(_, topic)| topic.scheduled);
        assert_eq!(by_topic.sum::<u64>(), schedule.order.len() as u64);
    }
}

/// Time and number in a key of either table.
pub(crate) fn scheduled_key(mut tail: KeyTail<'_>) -> Option<(Timestamp, ScheduleId)> {
    tail.u8()?;
    let place = (Timestamp(tail.u64()?), ScheduleId(tail.u64()?));
    tail.0.is_empty().then_some(place)
}

fn require_schedule(cx: &Context, connection: u32) -> Result<(), Refusal> {
    let rights = cx.connections[connection as usize].claims.rights;
    if rights.contains(Rights::PUBLISH) || rights.contains(Rights::MANAGE) {
        return Ok(());
    }
    let message = "this connection may not see or cancel scheduled messages";
    Err(Refusal::new(ErrorCode::Forbidden, message))
}

fn unknown_schedule(id: ScheduleId) -> Refusal {
    let message = format!(
        "no message is scheduled as {}: it was published, cancelled or deleted, or never was",
        id.0
    );
    Refusal::new(ErrorCode::UnknownSchedule, message)
}
