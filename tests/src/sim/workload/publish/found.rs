//! What is published without a receipt: nobody is told its place, so it is looked for where it is stored, or where it
//! is delivered.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_core::frame::{Item as _, Record, Reply};
use dunlin_core::{Durability, Effect, Op, Reader};

use crate::sim::archive::Check;
use crate::sim::command;
use crate::sim::frames::decode;
use crate::sim::model::{Model, Step};
use crate::sim::rows::{StateRow, read_state_row};
use crate::sim::workload::{request, schedule};

use super::{By, Draft, Placing, check_publish_order};

/// Topics that keep fewer messages may lose one in the step that publishes it.
const RETENTION_SMALL: u64 = 1000;

/// What a step published that has no receipt in it.
pub(super) fn find(model: &mut Model, step: &Step<'_>) -> Result<Vec<Placing>, String> {
    let fired = schedule::fired(model, step)?;
    let asked: BTreeMap<usize, (u64, u64)> = request::under_way(model, step)
        .map(|asked| (asked.message, (asked.asker.0, asked.order)))
        .collect();
    let mut found = stored(model, step)?;
    for one in &found {
        let may_be = match one.by {
            By::Request => asked.contains_key(&one.message),
            _ => fired.contains(&one.message),
        };
        if !may_be {
            return Err(format!(
                "message {} is stored, which is not due",
                one.message
            ));
        }
    }
    for message in fired.iter().chain(asked.keys()).copied() {
        let is_there = model.archive.is_there(message, model.archive.life);
        if is_there || found.iter().any(|one| one.message == message) {
            continue;
        }
        if let Some(one) = delivered(model, step, message)? {
            found.push(one);
        } else if !note_untold(model, message) && fired.contains(&message) {
            return Err(format!(
                "message {message} does not wait any more, but is not published"
            ));
        }
    }
    found.sort_unstable_by_key(|one| one.sequence);
    check_times(model, &found)?;
    for one in &found {
        if let Some(by) = asked.get(&one.message) {
            check_publish_order(model, *by, (one.sequence, one.sequence))?;
        }
    }
    Ok(found)
}

/// What waited is published in the order of times and numbers.
fn check_times(model: &Model, found: &[Placing]) -> Check {
    let mut last = BTreeMap::new();
    for one in found.iter().filter(|one| one.by == By::Time) {
        let namespace = model.archive.drafts[one.message].namespace;
        let place = schedule::place_of(model, one.message);
        if last
            .insert(namespace, place)
            .is_some_and(|last| last > place)
        {
            return Err(format!(
                "message {} is published out of the order of times and numbers",
                one.message
            ));
        }
    }
    Ok(())
}

/// Notes that a message went into a topic nobody knows where. False if that cannot be.
fn note_untold(model: &mut Model, message: usize) -> bool {
    let draft = &model.archive.drafts[message];
    let topic = model.archive.topic_named(draft.namespace, &draft.topic);
    let topic = topic.map(|topic| &mut model.archive.topics[topic]);
    // Retention may take a message in the step in which it is published.
    let topic = topic.filter(|topic| {
        ["live", "last_value"].contains(&&*topic.kind) || topic.max_messages < RETENTION_SMALL
    });
    topic.is_some_and(|topic| {
        topic.has_untold = true;
        true
    })
}

/// Messages in the rows that a step writes, of those that have no receipt.
fn stored(model: &mut Model, step: &Step<'_>) -> Result<Vec<Placing>, String> {
    let published = step
        .answers()
        .filter_map(|answer| match (answer.order, answer.reply) {
            (command::Order::Publish(order), Reply::Receipt(_) | Reply::Receipts(_)) => {
                Some(order.messages())
            }
            _ => None,
        });
    let with_receipts: BTreeSet<usize> = published.flatten().copied().collect();
    let mut found = Vec::new();
    for effect in step.effects {
        let Effect::Write { ops, .. } = effect else {
            continue;
        };
        for op in ops {
            let Op::Put { key, value } = op else { continue };
            let Some(StateRow::Records {
                namespace,
                id,
                partition,
            }) = read_state_row(key, value)
            else {
                continue;
            };
            let namespace = model.known_namespace(namespace)?;
            let topic = model.topic_ids.get(&(namespace, id));
            let topic =
                *topic.ok_or_else(|| format!("messages of topic {id}, which has no row"))?;
            // Dead letters are of the broker's own making.
            if model.archive.topics[topic].name.starts_with('$') {
                continue;
            }
            for record in records_of(value)? {
                let name = &model.archive.topics[topic].name;
                let message = model.archive.number_of(record.payload, name)?;
                if model.archive.drafts[message].has_no_receipt()
                    && !model.archive.is_there(message, model.archive.life)
                    && !with_receipts.contains(&message)
                {
                    let numbers = record.reply_to.map(|number| (message, number));
                    model.inquiries.stored.extend(numbers);
                    found.push(Placing {
                        sequence: record.sequence,
                        message,
                        partition,
                        offset: record.offset,
                        asked: Durability::None,
                        by: by(&model.archive.drafts[message]),
                    });
                }
            }
        }
    }
    Ok(found)
}

/// The records of a row of messages.
fn records_of(value: &[u8]) -> Result<Vec<Record<'_>>, String> {
    let malformed = |_| "a malformed row of messages".to_owned();
    let mut reader = Reader::new(value);
    for _head in 0..6 {
        reader.u64().map_err(malformed)?;
    }
    let mut records = Vec::new();
    while !reader.is_empty() {
        let mut record = Reader::new(reader.bytes().map_err(malformed)?);
        records.push(Record::take_fields(&mut record).map_err(malformed)?);
    }
    Ok(records)
}

fn by(draft: &Draft) -> By {
    if draft.asks { By::Request } else { By::Time }
}

/// Where a message of a live topic is, if anybody gets it in the step in which it is published.
fn delivered(model: &Model, step: &Step<'_>, message: usize) -> Result<Option<Placing>, String> {
    let draft = &model.archive.drafts[message];
    let now = step.now.max(model.last_timestamps[draft.namespace]);
    for said in step.said {
        let Reply::Delivery(delivery) = decode(&said.frame)? else {
            continue;
        };
        if model.archive.number_of(delivery.payload, delivery.topic)? != message {
            continue;
        }
        let topic = model.archive.topic_named(draft.namespace, &draft.topic);
        let partition = topic.and_then(|topic| {
            let partitions = &model.archive.topics[topic].partitions;
            partitions.get(delivery.partition as usize)
        });
        // One that comes later, from where a topic keeps what it had, was published before.
        if delivery.timestamp == now && partition.is_some_and(|one| delivery.offset >= one.end) {
            return Ok(Some(Placing {
                sequence: delivery.sequence,
                message,
                partition: delivery.partition,
                offset: delivery.offset,
                asked: Durability::None,
                by: by(draft),
            }));
        }
    }
    Ok(None)
}
