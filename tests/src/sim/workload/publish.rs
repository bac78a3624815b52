//! Messages are published, one at a time or in batches; a receipt places each of them, and that place is the truth that
//! everybody is held against.

mod names;

use std::collections::BTreeMap;

use dunlin_core::Durability;
use dunlin_core::frame::{self, Command, Headers, List, Message, Publish, PublishBatch, Reply};

use crate::sim::archive::{Check, Place};
use crate::sim::client::Client;
use crate::sim::command::{self, word};
use crate::sim::frames::check_code;
use crate::sim::model::{Model, Step};
use crate::sim::plan::TopicPlan;
use crate::sim::rng::Rng;

use super::{Turn, Workload};

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
    pub(in crate::sim) durability: Option<Durability>,
}

impl Draft {
    /// The message as a publish of its own.
    pub(super) fn encode(&self, request: u64, out: &mut Vec<u8>) {
        let headers = encode_headers(self);
        Command::Publish(Publish {
            request,
            topic: &self.topic,
            payload: &self.payload,
            key: self.key.as_deref(),
            content_type: None,
            headers: parse_headers(headers.as_deref()),
            id: self.id.as_deref(),
            ttl_ms: self.ttl_ms,
            delay_ms: None,
            deliver_at: None,
            producer: producer_of(self),
            producer_sequence: sequence_of(self),
            priority: None,
            durability: self.durability.map(word),
            wait_ms: None,
        })
        .encode(out);
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

/// The list that a batch or a transaction has.
pub(super) fn encode_messages(messages: &[usize], drafts: &[Draft]) -> Vec<u8> {
    let mut list = Vec::new();
    for message in messages {
        let draft = &drafts[*message];
        let headers = encode_headers(draft);
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
                delay_ms: None,
                deliver_at: None,
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

fn encode_headers(draft: &Draft) -> Option<Vec<u8>> {
    let pairs = draft
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    (!draft.headers.is_empty()).then(|| Headers::encode(pairs))
}

fn parse_headers(encoded: Option<&[u8]>) -> Option<Headers<'_>> {
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
                        draft(client.namespace, topic, turn.rng, turn.model)
                    })
                    .collect(),
                durability: level(turn.rng),
            }
        } else {
            let topic = turn.rng.pick(&turn.plan.topics);
            Order::One {
                message: draft(client.namespace, topic, turn.rng, turn.model),
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
    topics: &[TopicPlan],
    rng: &mut Rng,
    model: &mut Model,
) -> Vec<command::Order> {
    topics
        .iter()
        .map(|topic| {
            let message = draft(client.namespace, topic, rng, model);
            command::Order::Publish(Order::One { message })
        })
        .collect()
}

pub(super) fn draft(
    namespace: usize,
    topic: &TopicPlan,
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
            durability: level(rng),
        }
    })
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

/// What a receipt says of one message.
pub(super) struct Receipt {
    pub(super) sequence: u64,
    pub(super) message: usize,
    pub(super) partition: u32,
    pub(super) offset: u64,
    pub(super) asked: Durability,
    pub(super) connection: u64,
    pub(super) order: u64,
}

/// Places every message that has a receipt, in the order of sequences.
fn place(model: &mut Model, step: &Step<'_>) -> Check {
    let mut receipts = Vec::new();
    let mut duplicates = Vec::new();
    let mut refused = Vec::new();
    for answer in step.answers() {
        let (messages, asked) = match answer.order {
            command::Order::Publish(Order::One { message }) => {
                let asked = model.archive.drafts[*message].durability;
                (core::slice::from_ref(message), asked)
            }
            command::Order::Publish(Order::Batch {
                messages,
                durability,
            }) => (&messages[..], *durability),
            command::Order::Transact(order) => (&order.messages[..], order.durability),
            _ => continue,
        };
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
        let new: Vec<_> = places.iter().filter(|place| !place.duplicate).collect();
        if new
            .windows(2)
            .any(|pair| pair[0].sequence + 1 != pair[1].sequence)
        {
            return Err(format!("a batch was torn apart: {places:?}"));
        }
        for (message, place) in messages.iter().zip(places) {
            if place.duplicate {
                duplicates.push((*message, place));
                continue;
            }
            receipts.push(Receipt {
                sequence: place.sequence,
                message: *message,
                partition: place.partition,
                offset: place.offset,
                asked: asked.unwrap_or(Durability::None),
                connection: answer.connection,
                order: answer.pending.order,
            });
        }
    }
    receipts.sort_unstable_by_key(|receipt| receipt.sequence);
    for receipt in receipts {
        take_receipt(model, step, &receipt)?;
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
            .map_err(|error| format!("{error}: {told}"))?;
    }
    Ok(())
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

pub(super) fn take_receipt(model: &mut Model, step: &Step<'_>, receipt: &Receipt) -> Check {
    model.stats.receipts += 1;
    let draft = model.archive.drafts[receipt.message].clone();
    let Some(topic) = model.archive.topic_named(draft.namespace, &draft.topic) else {
        return Err(format!(
            "a receipt for topic \"{}\", which has no row",
            draft.topic
        ));
    };
    let state = &model.archive.topics[topic];
    let live = state.kind == "live";
    let last = &mut model.last_timestamps[draft.namespace];
    *last = step.now.max(*last);
    let place = Place {
        topic,
        partition: receipt.partition,
        offset: receipt.offset,
        sequence: receipt.sequence,
        timestamp: *last,
        expires_at: draft.ttl_ms.map(|ttl| step.now + ttl),
        level: if live {
            Durability::None
        } else {
            receipt.asked.max(state.durability)
        },
        life: model.archive.life,
        write: if live { 0 } else { step.write },
        lost_in: None,
        promised: None,
    };
    let place_there = (place.partition, place.offset, place.sequence);
    let stored_by = (place.life, step.write);
    model.archive.assign(receipt.message, place)?;
    let at = names_at(model, step.now, topic);
    model.names.publish(at, &draft, place_there, stored_by)?;
    check_publish_order(model, receipt)
}

/// What a connection published earlier has the lower sequence.
fn check_publish_order(model: &mut Model, receipt: &Receipt) -> Check {
    let (id, order, sequence) = (receipt.connection, receipt.order, receipt.sequence);
    let Some(connection) = model.connections.get_mut(&id) else {
        return Ok(());
    };
    let span = connection
        .published
        .entry(order)
        .or_insert((sequence, sequence));
    span.1 = span.1.max(sequence);
    let before = connection
        .published
        .range(..order)
        .next_back()
        .map(|(_, span)| span.1);
    let after = connection
        .published
        .range(order + 1..)
        .next()
        .map(|(_, span)| span.0);
    if before.is_some_and(|before| before > sequence) || after.is_some_and(|after| after < sequence)
    {
        return Err(format!(
            "connection {id}: command {order} got sequence {sequence} out of its order"
        ));
    }
    Ok(())
}
