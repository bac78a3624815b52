//! Messages are published, one at a time or in batches; a receipt places each of them, and that place is the truth that
//! everybody is held against.

mod found;
mod names;

use std::collections::BTreeMap;

use dunlin_core::Durability;
use dunlin_core::frame::{self, Command, Headers, List, Message, Publish, PublishBatch, Reply};

use crate::sim::archive::{Check, Place};
use crate::sim::client::Client;
use crate::sim::command::{self, word};
use crate::sim::frames::check_code;
use crate::sim::model::{Model, Step};
use crate::sim::plan::{Plan, TopicPlan};
use crate::sim::rng::Rng;

use super::{Turn, Workload, schedule};

pub(in crate::sim) use self::names::{At, Names};

/// How many ids and producers there are.
const IDS: u64 = 4;
const PRODUCERS: u64 = 2;

/// A message as its publisher made it. Its number stands in its payload, so that it is known wherever it turns up.
#[derive(Clone, Debug)]
pub(in crate::sim) struct Draft {
    pub(in crate::sim) namespace: usize,
    pub(in crate::sim) topic: String,
    pub(in crate::sim) payload: Vec<u8>,
    pub(in crate::sim) key: Option<String>,
    pub(in crate::sim) headers: Vec<(String, String)>,
    pub(in crate::sim) id: Option<String>,
    /// Its producer and the sequence there.
    pub(in crate::sim) producer: Option<(String, u64)>,
    pub(in crate::sim) ttl_ms: Option<u64>,
    pub(in crate::sim) later: Option<Later>,
    /// Whether it asks for an answer.
    pub(in crate::sim) asks: bool,
    pub(in crate::sim) durability: Option<Durability>,
}

/// When a message is to be published, if not at once.
#[derive(Clone, Copy, Debug)]
pub(in crate::sim) enum Later {
    Delay(u64),
    At(u64),
}

impl Later {
    /// The time that it is if somebody asks for it now.
    pub(in crate::sim) const fn at(self, now: u64) -> u64 {
        match self {
            Self::Delay(ms) => now + ms,
            Self::At(at) => at,
        }
    }

    const fn fields(later: Option<Self>) -> (Option<u64>, Option<u64>) {
        match later {
            None => (None, None),
            Some(Self::Delay(ms)) => (Some(ms), None),
            Some(Self::At(at)) => (None, Some(at)),
        }
    }
}

impl Draft {
    /// The message as a publish of its own.
    pub(super) fn encode(&self, request: u64, out: &mut Vec<u8>) {
        let headers = encode_headers(self);
        let (delay_ms, deliver_at) = Later::fields(self.later);
        Command::Publish(Publish {
            request,
            topic: &self.topic,
            payload: &self.payload,
            key: self.key.as_deref(),
            content_type: None,
            headers: parse_headers(headers.as_deref()),
            id: self.id.as_deref(),
            ttl_ms: self.ttl_ms,
            delay_ms,
            deliver_at,
            producer: producer_of(self),
            producer_sequence: sequence_of(self),
            priority: None,
            durability: self.durability.map(word),
            wait_ms: None,
        })
        .encode(out);
    }

    /// Whether no receipt need say where it is.
    pub(in crate::sim) const fn has_no_receipt(&self) -> bool {
        self.later.is_some() || self.asks
    }

    /// The bytes that count while it waits.
    pub(in crate::sim) fn size_bytes(&self) -> u64 {
        let headers = encode_headers(self).map_or(0, |headers| headers.len());
        let texts = [&self.key, &self.id].map(|text| text.as_ref().map_or(0, String::len));
        (self.payload.len() + headers + texts[0] + texts[1]) as u64
    }
}

/// Messages by their numbers.
#[derive(Clone, Debug)]
pub(in crate::sim) enum Order {
    One {
        message: usize,
    },
    Batch {
        messages: Vec<usize>,
        durability: Option<Durability>,
    },
}

impl Order {
    /// What it publishes.
    pub(in crate::sim) fn messages(&self) -> &[usize] {
        match self {
            Self::One { message } => core::slice::from_ref(message),
            Self::Batch { messages, .. } => messages,
        }
    }

    pub(in crate::sim) fn encode(&self, request: u64, drafts: &[Draft], out: &mut Vec<u8>) {
        match self {
            Self::One { message } => drafts[*message].encode(request, out),
            Self::Batch {
                messages,
                durability,
            } => {
                let list = encode_messages(messages, drafts);
                Command::PublishBatch(PublishBatch {
                    request,
                    messages: List::new(&list),
                    durability: durability.map(word),
                    wait_ms: None,
                })
                .encode(out);
            }
        }
    }
}

pub(super) fn encode_messages(messages: &[usize], drafts: &[Draft]) -> Vec<u8> {
    let mut list = Vec::new();
    for message in messages {
        let draft = &drafts[*message];
        let headers = encode_headers(draft);
        let (delay_ms, deliver_at) = Later::fields(draft.later);
        List::push(
            &mut list,
            &Message {
                topic: &draft.topic,
                payload: &draft.payload,
                key: draft.key.as_deref(),
                content_type: None,
                headers: parse_headers(headers.as_deref()),
                id: draft.id.as_deref(),
                ttl_ms: draft.ttl_ms,
                delay_ms,
                deliver_at,
                producer: producer_of(draft),
                producer_sequence: sequence_of(draft),
                priority: None,
            },
        );
    }
    list
}

fn producer_of(draft: &Draft) -> Option<&str> {
    draft
        .producer
        .as_ref()
        .map(|(producer, _)| producer.as_str())
}

fn sequence_of(draft: &Draft) -> Option<u64> {
    draft.producer.as_ref().map(|(_, sequence)| *sequence)
}

pub(super) fn encode_headers(draft: &Draft) -> Option<Vec<u8>> {
    let pairs = draft
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    (!draft.headers.is_empty()).then(|| Headers::encode(pairs))
}

pub(super) fn parse_headers(encoded: Option<&[u8]>) -> Option<Headers<'_>> {
    encoded.map(|bytes| Headers::parse(bytes).expect("headers that were just encoded are sound"))
}

pub(super) struct Publishing;

impl Workload for Publishing {
    fn plan(&self, client: &mut Client, turn: &mut Turn<'_>) -> Vec<command::Order> {
        let order = if turn.rng.once_in(turn.plan.batches) {
            let count = turn.rng.between(1, 8);
            Order::Batch {
                messages: (0..count)
                    .map(|_| {
                        let topic = turn.rng.pick(&turn.plan.topics);
                        let later = later(turn);
                        draft(client.namespace, topic, later, turn.rng, turn.model)
                    })
                    .collect(),
                durability: level(turn.rng),
            }
        } else {
            let topic = turn.rng.pick(&turn.plan.topics);
            let later = later(turn);
            Order::One {
                message: draft(client.namespace, topic, later, turn.rng, turn.model),
            }
        };
        vec![command::Order::Publish(order)]
    }

    fn told(&self, model: &mut Model, step: &Step<'_>) -> Check {
        // What a window is over for may be forgotten, also if the clock of the next life shows less.
        for topic in 0..model.archive.topics.len() {
            let at = names_at(model, step.now, topic);
            model.names.look(at);
        }
        place(model, step)?;
        // Where logs begin is said by nobody but the rows, and is only known to be right once it is known where they end.
        model.take_starts(step.now, step.effects)
    }
}

/// The last messages of all, one to every topic.
pub(in crate::sim) fn say_goodbye(
    client: &Client,
    plan: &Plan,
    rng: &mut Rng,
    model: &mut Model,
) -> Vec<command::Order> {
    plan.topics
        .iter()
        .map(|topic| {
            let message = draft(client.namespace, topic, None, rng, model);
            command::Order::Publish(Order::One { message })
        })
        .collect()
}

/// Whether and until when a message is to wait.
fn later(turn: &mut Turn<'_>) -> Option<Later> {
    let rng = &mut *turn.rng;
    rng.once_in(turn.plan.later).then(|| {
        let ms = rng.delay(20_000);
        match rng.below(4) {
            0 => Later::At(turn.now.saturating_sub(ms)),
            1 => Later::At(turn.now + ms),
            _ => Later::Delay(ms),
        }
    })
}

pub(super) fn draft(
    namespace: usize,
    topic: &TopicPlan,
    later: Option<Later>,
    rng: &mut Rng,
    model: &mut Model,
) -> usize {
    let keyed = topic.wish.kind == Some("compacted") || rng.once_in(3);
    let size = if rng.once_in(20) {
        rng.below(3000)
    } else {
        rng.below(60)
    };
    let producer = rng.once_in(6).then(|| produce(rng, model));
    model.archive.draft(|number| {
        let mut payload = format!("{number}:").into_bytes();
        payload.resize(
            payload.len() + size as usize,
            if size % 7 == 0 { 0xff } else { b'.' },
        );
        Draft {
            namespace,
            topic: topic.name.to_owned(),
            payload,
            key: keyed.then(|| format!("key-{}", rng.below(5))),
            headers: (0..rng.below(2))
                .map(|index| (format!("h{index}"), "ä".repeat(rng.below(3) as usize)))
                .collect(),
            id: rng.once_in(4).then(|| format!("id-{}", rng.below(IDS))),
            producer,
            ttl_ms: rng.once_in(10).then(|| rng.between(1, 3000)),
            later,
            asks: false,
            durability: level(rng),
        }
    })
}

/// A message that asks for an answer.
pub(super) fn question(
    namespace: usize,
    topic: &TopicPlan,
    rng: &mut Rng,
    model: &mut Model,
) -> usize {
    let message = draft(namespace, topic, None, rng, model);
    let draft = &mut model.archive.drafts[message];
    draft.producer = None;
    draft.ttl_ms = None;
    draft.durability = None;
    draft.asks = true;
    message
}

/// A producer and one of its sequences: mostly the next, sometimes one that it had before, or one far away.
fn produce(rng: &mut Rng, model: &mut Model) -> (String, u64) {
    let producer = rng.below(PRODUCERS) as usize;
    let next = &mut model.next_produced[producer];
    let sequence = match rng.below(24) {
        0 => {
            *next += rng.below(900);
            *next
        }
        1 => next.saturating_sub(900 + rng.below(400)),
        2..=8 => next.saturating_sub(rng.below(6)),
        _ => *next,
    };
    *next = (*next).max(sequence + 1);
    (format!("p{producer}"), sequence)
}

pub(super) fn level(rng: &mut Rng) -> Option<Durability> {
    *rng.pick(&[
        None,
        None,
        Some(Durability::None),
        Some(Durability::Async),
        Some(Durability::Sync),
    ])
}

/// Where one message went.
pub(super) struct Placing {
    pub(super) sequence: u64,
    pub(super) message: usize,
    pub(super) partition: u32,
    pub(super) offset: u64,
    pub(super) asked: Durability,
    pub(super) by: By,
}

/// How a message came to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// A receipt says so.
    Receipt,
    /// Its time has come.
    Time,
    /// Somebody asks.
    Request,
}

/// Places every message that was published, in the order of sequences.
fn place(model: &mut Model, step: &Step<'_>) -> Check {
    let mut placings = found::find(model, step)?;
    let mut scheduled = Vec::new();
    let mut duplicates = Vec::new();
    let mut refused = Vec::new();
    for answer in step.answers() {
        let (messages, asked) = match answer.order {
            command::Order::Publish(order @ Order::One { message }) => {
                (order.messages(), model.archive.drafts[*message].durability)
            }
            command::Order::Publish(order @ Order::Batch { durability, .. }) => {
                (order.messages(), *durability)
            }
            command::Order::Transact(order) => (&order.messages[..], order.durability),
            _ => continue,
        };
        let asked = asked.unwrap_or(Durability::None);
        let places: Result<Vec<_>, _> = match (answer.order, answer.reply) {
            (command::Order::Publish(Order::One { .. }), Reply::Receipt(told)) => {
                Ok(vec![frame::Place {
                    partition: told.partition,
                    offset: told.offset,
                    sequence: told.sequence,
                    duplicate: told.duplicate,
                    schedule_id: told.schedule_id,
                    topic: told.topic,
                }])
            }
            (command::Order::Publish(Order::Batch { .. }), Reply::Receipts(told)) => {
                told.receipts.iter().collect()
            }
            (command::Order::Transact(_), Reply::Transacted(told)) => {
                told.receipts.iter().collect()
            }
            (_, Reply::Failed(failed)) => {
                let codes = [
                    "storage_unavailable",
                    "subscriber_blocked",
                    "limit_reached",
                    "draining",
                    "invalid_argument",
                    "dedup_window_full",
                ];
                let is_settling = matches!(answer.order, command::Order::Transact(_));
                if !is_settling || failed.code != "unknown_lease" {
                    check_code(failed.code, &codes)?;
                }
                for message in messages {
                    model.archive.refuse(*message)?;
                }
                refused.push((messages, failed.code, failed.message));
                continue;
            }
            _ => return answer.is_none_of_these(),
        };
        let places = places.map_err(|_| "malformed receipts".to_owned())?;
        if places.len() != messages.len() {
            return Err(format!(
                "{} receipts for {} messages",
                places.len(),
                messages.len()
            ));
        }
        // What waits for its time has one of the same numbers.
        let number = |place: &frame::Place| place.schedule_id.unwrap_or(place.sequence);
        let new: Vec<_> = places.iter().filter(|place| !place.duplicate).collect();
        if new
            .windows(2)
            .any(|pair| number(pair[0]) + 1 != number(pair[1]))
        {
            return Err(format!("a batch was torn apart: {places:?}"));
        }
        if let (Some(first), Some(last)) = (new.first(), new.last()) {
            let span = (number(first), number(last));
            let by = (answer.connection, answer.pending.order);
            check_publish_order(model, by, span)?;
        }
        for (message, place) in messages.iter().copied().zip(places) {
            match place.schedule_id {
                _ if place.duplicate => duplicates.push((message, place)),
                Some(_) => scheduled.push((message, place, asked)),
                None => placings.push(Placing {
                    sequence: place.sequence,
                    message,
                    partition: place.partition,
                    offset: place.offset,
                    asked,
                    by: By::Receipt,
                }),
            }
        }
    }
    placings.sort_unstable_by_key(|placing| placing.sequence);
    for placing in placings {
        take_placing(model, step, &placing)?;
    }
    for (message, place, asked) in scheduled {
        model.stats.receipts += 1;
        schedule::schedule(model, step, message, place.schedule_id.unwrap_or(0), asked)?;
        remember(model, step, message, &place)?;
    }
    for (message, place) in duplicates {
        model.archive.refuse(message)?;
        let draft = &model.archive.drafts[message];
        let topic = model.archive.topic_named(draft.namespace, &draft.topic);
        let topic = topic.ok_or_else(|| format!("message {message} repeats one of no topic"))?;
        let at = names_at(model, step.now, topic);
        model.names.repeat(at, draft, &place)?;
    }
    for (messages, code, told) in refused {
        check_names_refused(model, step.now, messages, code)
            .and_then(|()| check_schedule_refused(model, messages, code, told))
            .map_err(|error| format!("{error}: {told}"))?;
    }
    Ok(())
}

/// Whether there was no room for what was to wait, if it was refused for that.
fn check_schedule_refused(model: &Model, messages: &[usize], code: &str, told: &str) -> Check {
    if code != "limit_reached" || !told.contains("scheduled_max") {
        return Ok(());
    }
    let namespace = model.archive.drafts[messages[0]].namespace;
    let count = model.calendar.count(&model.archive, namespace);
    // What is cancelled in the same step may have waited still.
    let later = messages
        .iter()
        .filter(|message| model.archive.drafts[**message].later.is_some());
    let most = count + later.count() as u64 + model.calendar.ended_last(namespace);
    if most > model.bounds.scheduled_max {
        return Ok(());
    }
    Err(format!(
        "{messages:?} find no room, but {count} messages wait"
    ))
}

/// The names of a topic now, by the time of its namespace.
fn names_at(model: &Model, now: u64, topic: usize) -> At {
    let state = &model.archive.topics[topic];
    At {
        topic,
        dedup_ms: state.dedup_ms,
        now: now.max(model.last_timestamps[state.namespace]),
    }
}

/// Whether messages were rightly refused for their names, if they were for that.
fn check_names_refused(model: &mut Model, now: u64, messages: &[usize], code: &str) -> Check {
    let drafts = messages
        .iter()
        .map(|message| &model.archive.drafts[*message]);
    match code {
        "invalid_argument" => {
            for (index, draft) in drafts.clone().enumerate() {
                let topic = model.archive.topic_named(draft.namespace, &draft.topic);
                let at = topic.map(|topic| names_at(model, now, topic));
                let earlier = drafts.clone().take(index);
                let earlier = earlier.filter(|other| other.topic == draft.topic);
                if model.names.is_too_low(at, draft, earlier) {
                    return Ok(());
                }
            }
            Err(format!("{messages:?} are refused as {code}"))
        }
        "dedup_window_full" => {
            let namespace = model.archive.drafts[messages[0]].namespace;
            let topics = model.archive.topics_of(namespace);
            let topics: BTreeMap<usize, At> = topics
                .map(|topic| (topic, names_at(model, now, topic)))
                .collect();
            let (_, most) = model.names.count(&topics);
            let max = model.bounds.dedup_entries_max;
            if most + messages.len() as u64 > max {
                return Ok(());
            }
            Err(format!(
                "{most} names are remembered of {max}, but {messages:?} find no room"
            ))
        }
        _ => Ok(()),
    }
}

pub(super) fn take_placing(model: &mut Model, step: &Step<'_>, placing: &Placing) -> Check {
    model.stats.receipts += u64::from(placing.by == By::Receipt);
    let message = placing.message;
    let draft = &model.archive.drafts[message];
    let Some(topic) = model.archive.topic_named(draft.namespace, &draft.topic) else {
        return Err(format!(
            "message {message} went to topic \"{}\", which has no row",
            draft.topic
        ));
    };
    let state = &model.archive.topics[topic];
    // Deliveries of what waited in the store wait for the write that takes it from there.
    let is_unstored = state.kind == "live" && placing.by != By::Time;
    let last = &mut model.last_timestamps[draft.namespace];
    *last = step.now.max(*last);
    let place = Place {
        topic,
        partition: placing.partition,
        offset: placing.offset,
        sequence: placing.sequence,
        timestamp: *last,
        expires_at: draft.ttl_ms.map(|ttl| step.now + ttl),
        level: if is_unstored {
            Durability::None
        } else {
            placing.asked.max(state.durability)
        },
        life: model.archive.life,
        write: if is_unstored { 0 } else { step.write },
        lost_in: None,
        promised: None,
    };
    model.archive.assign(message, place)?;
    if placing.by != By::Receipt {
        // Its name was remembered when it was scheduled, and that of a question never is.
        return Ok(());
    }
    let place = frame::Place {
        topic: None,
        partition: placing.partition,
        offset: placing.offset,
        sequence: placing.sequence,
        duplicate: false,
        schedule_id: None,
    };
    remember(model, step, message, &place)
}

/// What a message is called is known from now on, and where it went.
fn remember(model: &mut Model, step: &Step<'_>, message: usize, place: &frame::Place<'_>) -> Check {
    let draft = &model.archive.drafts[message];
    let topic = model.archive.topic_named(draft.namespace, &draft.topic);
    let topic = topic.ok_or_else(|| format!("message {message} is of no topic"))?;
    let at = names_at(model, step.now, topic);
    let when = step.when(&model.archive);
    model.names.publish(at, draft, place, when)
}

/// What a connection published earlier has the lower sequences.
pub(super) fn check_publish_order(
    model: &mut Model,
    (id, order): (u64, u64),
    (first, last): (u64, u64),
) -> Check {
    let Some(connection) = model.connections.get_mut(&id) else {
        return Ok(());
    };
    connection.published.insert(order, (first, last));
    let mut earlier = connection.published.range(..order);
    let mut later = connection.published.range(order + 1..);
    if earlier
        .next_back()
        .is_some_and(|(_, before)| before.1 > first)
        || later.next().is_some_and(|(_, after)| after.0 < last)
    {
        return Err(format!(
            "connection {id}: command {order} got the sequences {first} to {last} out of its order"
        ));
    }
    Ok(())
}
