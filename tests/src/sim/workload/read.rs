//! Who looks at what there is: pages of history, topics and what they are.

use dunlin_core::frame::{
    Command, DescribeTopic, ListTopics, Page, Read, Record, Reply, TopicDescription,
};

use super::subscribe::Begin;
use super::{Turn, Workload};
use crate::sim::archive::{Check, Told, filter_matches};
use crate::sim::client::Client;
use crate::sim::command;
use crate::sim::model::{Model, Step};

#[derive(Clone, Debug)]
pub(in crate::sim) enum Order {
    Read {
        topic: String,
        partition: u32,
        begin: Begin,
        messages_max: u64,
    },
    Describe {
        topic: String,
    },
    List {
        filter: String,
    },
}

impl Order {
    pub(in crate::sim) fn encode(&self, request: u64, out: &mut Vec<u8>) {
        match self {
            Self::Read {
                topic,
                partition,
                begin,
                messages_max,
            } => {
                let from = begin.text();
                Command::Read(Read {
                    request,
                    topic,
                    partition: *partition,
                    from: Some(&from),
                    messages_max: Some(*messages_max),
                    bytes_max: None,
                })
                .encode(out);
            }
            Self::Describe { topic } => {
                Command::DescribeTopic(DescribeTopic { request, topic }).encode(out);
            }
            Self::List { filter } => Command::ListTopics(ListTopics {
                request,
                filter: Some(filter),
                after: None,
                topics_max: None,
            })
            .encode(out),
        }
    }
}

pub(super) struct Reading;

impl Workload for Reading {
    fn plan(&self, _client: &mut Client, turn: &mut Turn<'_>) -> Vec<command::Order> {
        let Turn { rng, topic, .. } = turn;
        let order = match turn.roll {
            0..10 => Order::Read {
                topic: topic.name.to_owned(),
                partition: rng.below(u64::from(topic.wish.partitions.unwrap_or(1))) as u32,
                begin: match rng.below(5) {
                    0 => Begin::Offset(rng.below(60)),
                    1 => Begin::Last(rng.below(20)),
                    2 => Begin::Timestamp(turn.now - rng.below(10_000)),
                    _ => Begin::Earliest,
                },
                messages_max: rng.between(1, 50),
            },
            10..13 => Order::Describe {
                topic: topic.name.to_owned(),
            },
            _ => Order::List {
                filter: rng.pick(&turn.plan.filters).clone(),
            },
        };
        vec![command::Order::Read(order)]
    }

    fn told(&self, model: &mut Model, step: &Step<'_>) -> Check {
        for answer in step.answers() {
            let command::Order::Read(order) = answer.order else {
                continue;
            };
            let namespace = answer.namespace;
            match (order, answer.reply) {
                (Order::Read { topic, begin, .. }, Reply::Page(page)) => {
                    model.stats.pages += 1;
                    let given_at = answer.pending.given_at;
                    check_page(model, step.now, namespace, given_at, order, page).map_err(
                        |error| format!("page of \"{topic}\" from {}: {error}", begin.text()),
                    )?;
                }
                (Order::Describe { topic }, Reply::TopicDescription(told)) => {
                    check_description(model, namespace, topic, told)?;
                }
                (Order::List { filter }, Reply::Topics(told)) => {
                    let names: Vec<&str> = told.topics.iter().collect();
                    check_names(model, namespace, filter, &names)?;
                }
                (Order::Read { .. }, Reply::Failed(failed)) => {
                    let codes = [
                        "limit_reached",
                        "offset_out_of_range",
                        "unknown_topic",
                        "unknown_partition",
                        "storage_unavailable",
                    ];
                    model.take_refusal(order, failed, &codes)?;
                }
                (Order::Describe { .. }, Reply::Failed(failed)) => {
                    model.take_refusal(order, failed, &["unknown_topic"])?;
                }
                _ => return answer.is_none_of_these(),
            }
        }
        Ok(())
    }
}

fn check_description(
    model: &Model,
    namespace: usize,
    topic: &str,
    told: &TopicDescription<'_>,
) -> Check {
    let index = model.archive.topic_named(namespace, topic);
    let index = index.ok_or_else(|| format!("\"{topic}\" is described, but is not there"))?;
    for (partition, extent) in told.partitions.iter().enumerate() {
        let extent = extent.map_err(|_| "a malformed extent".to_owned())?;
        let part = &model.archive.topics[index].partitions[partition];
        let is_beyond = extent.log_end_offset > part.end && !model.archive.topics[index].has_untold;
        if is_beyond || extent.log_start_offset > extent.log_end_offset {
            return Err(format!(
                "\"{topic}\" is told to be {extent:?}, but ends at {}",
                part.end
            ));
        }
    }
    Ok(())
}

fn check_names(model: &Model, namespace: usize, filter: &str, names: &[&str]) -> Check {
    if !names.is_sorted() || names.iter().any(|name| !filter_matches(filter, name)) {
        return Err(format!("topics of \"{filter}\": {names:?}"));
    }
    for name in names {
        if model.archive.topic_named(namespace, name).is_none() {
            return Err(format!(
                "topic \"{name}\" is listed in namespace {namespace}, but is not its"
            ));
        }
    }
    Ok(())
}

/// Checks a page against the log that it is of.
fn check_page(
    model: &Model,
    now: u64,
    namespace: usize,
    given_at: u64,
    order: &Order,
    page: &Page<'_>,
) -> Check {
    let Order::Read {
        topic,
        partition,
        begin,
        messages_max,
    } = order
    else {
        return Err(format!("a page to {order:?}"));
    };
    let partition = *partition;
    let index = model
        .archive
        .topic_named(namespace, topic)
        .ok_or("the topic is not there")?;
    let live = model.archive.topics[index].kind == "live";
    let part = &model.archive.topics[index].partitions[partition as usize];
    let is_beyond = page.log_end_offset > part.end && !model.archive.topics[index].has_untold;
    if page.log_start_offset > page.log_end_offset || is_beyond {
        return Err(format!(
            "the log is told to be {}..{}, it ends at {}",
            page.log_start_offset, page.log_end_offset, part.end
        ));
    }
    let mut next = match begin {
        _ if live => None,
        Begin::Earliest => Some(0),
        Begin::Offset(asked) => Some(*asked),
        _ => None,
    };
    let mut count = 0;
    for record in page.records.iter() {
        let record: Record<'_> = record.map_err(|_| "a malformed record".to_owned())?;
        count += 1;
        let message = model.archive.number_of(record.payload, topic)?;
        let told = Told {
            namespace,
            topic,
            partition,
            offset: record.offset,
            sequence: record.sequence,
            timestamp: record.timestamp,
            expires_at: record.expires_at,
            key: record.key,
            id: record.id,
            headers: record
                .headers
                .iter()
                .flat_map(|headers| headers.iter())
                .collect(),
        };
        model.archive.check_told(message, &told)?;
        // A page may take long to read; what was alive when it was asked for may be in it.
        if record.expires_at.is_some_and(|at| at <= given_at) {
            return Err(format!("message {message} has expired"));
        }
        let from = next.unwrap_or(record.offset);
        check_passed(model, now, index, partition, from, record.offset)?;
        next = Some(record.offset + 1);
    }
    let limit = (*messages_max).min(model.bounds.read_messages_max);
    if count > limit {
        return Err(format!("{count} records, {limit} are allowed"));
    }
    if let Some(next) = next {
        check_passed(model, now, index, partition, next, page.next_offset)?;
        if count == 0 && page.next_offset < page.log_end_offset {
            return Err(format!(
                "nothing before the log's end at {}, next is {}",
                page.log_end_offset, page.next_offset
            ));
        }
    }
    Ok(())
}

/// Nothing that lies from `from` to below `to` may be missed.
fn check_passed(
    model: &Model,
    now: u64,
    topic: usize,
    partition: u32,
    from: u64,
    to: u64,
) -> Check {
    if to < from {
        return Err(format!("went back from {from} to {to}"));
    }
    let start = model.archive.topics[topic].partitions[partition as usize].start;
    for offset in from.max(start)..to {
        let missed = model
            .archive
            .at(topic, partition, offset, model.archive.life);
        if let Some(message) = missed.filter(|message| !model.archive.is_excused(*message, now)) {
            return Err(format!(
                "offset {offset}, message {message}, was passed over"
            ));
        }
    }
    Ok(())
}
