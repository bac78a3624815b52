//! Topics are configured and deleted.

use dunlin_core::frame::{Command, ConfigureTopic, DeleteTopic, Reply};

use super::{Turn, Workload, publish};
use crate::sim::archive::Check;
use crate::sim::client::Client;
use crate::sim::command;
use crate::sim::frames::level;
use crate::sim::model::{Model, Step};

#[derive(Clone, Debug)]
pub(in crate::sim) enum Order {
    Configure { topic: String, config: TopicWish },
    Delete { topic: String },
}

/// What a client asks of a topic.
#[derive(Clone, Debug, Default)]
pub(in crate::sim) struct TopicWish {
    pub(in crate::sim) kind: Option<&'static str>,
    pub(in crate::sim) ordering: Option<&'static str>,
    pub(in crate::sim) partitions: Option<u32>,
    pub(in crate::sim) durability: Option<&'static str>,
    pub(in crate::sim) max_messages: Option<u64>,
    pub(in crate::sim) max_age_ms: Option<u64>,
    pub(in crate::sim) dedup_ms: Option<u64>,
}

impl Order {
    pub(in crate::sim) fn encode(&self, request: u64, out: &mut Vec<u8>) {
        match self {
            Self::Configure { topic, config } => Command::ConfigureTopic(ConfigureTopic {
                request,
                topic,
                kind: config.kind,
                ordering: config.ordering,
                partitions: config.partitions,
                durability: config.durability,
                max_messages: config.max_messages,
                max_bytes: None,
                max_age_ms: config.max_age_ms,
                dedup_ms: config.dedup_ms,
            })
            .encode(out),
            Self::Delete { topic } => {
                Command::DeleteTopic(DeleteTopic { request, topic }).encode(out);
            }
        }
    }
}

pub(super) struct Topics;

impl Workload for Topics {
    fn plan(&self, _client: &mut Client, turn: &mut Turn<'_>) -> Vec<command::Order> {
        let topic = turn.topic.name.to_owned();
        let order = match turn.roll {
            0..6 => Order::Configure {
                topic,
                config: turn.topic.wish.clone(),
            },
            _ if turn.rng.once_in(turn.plan.deletes) => Order::Delete { topic },
            _ => return Vec::new(),
        };
        vec![command::Order::Topics(order)]
    }

    fn told(&self, model: &mut Model, step: &Step<'_>) -> Check {
        for answer in step.answers() {
            let command::Order::Topics(order) = answer.order else {
                continue;
            };
            let archive = &mut model.archive;
            match (order, answer.reply) {
                (
                    Order::Configure {
                        topic: name,
                        config,
                    },
                    Reply::TopicDescription(told),
                ) => {
                    if told.topic != name {
                        return Err(format!(
                            "asked to configure \"{name}\", told of \"{}\"",
                            told.topic
                        ));
                    }
                    let count = told.partitions.iter().count();
                    let index = archive.topic(answer.namespace, name, count);
                    let topic = &mut archive.topics[index];
                    let changed = topic.kind != told.kind
                        || topic.max_messages != told.max_messages
                        || topic.max_age_ms != told.max_age_ms;
                    let empty = topic.partitions.iter().all(|partition| partition.end == 0);
                    topic.reconfigured |= changed && !empty;
                    topic.kind = told.kind.to_owned();
                    topic.ordering = told.ordering.to_owned();
                    topic.durability = level(told.durability)?;
                    topic.max_messages = told.max_messages;
                    topic.max_age_ms = told.max_age_ms;
                    let before =
                        core::mem::replace(&mut topic.dedup_ms, told.dedup_ms.unwrap_or(0));
                    // What the window was over for may be forgotten, also if it is longer now.
                    let now = step.now.max(model.last_timestamps[answer.namespace]);
                    model.names.look(publish::At {
                        topic: index,
                        dedup_ms: before,
                        now,
                    });
                    if topic.partitions.len() != count {
                        return Err(format!(
                            "\"{name}\" has {} partitions, told {count}",
                            topic.partitions.len()
                        ));
                    }
                    if config
                        .max_messages
                        .is_some_and(|asked| asked != told.max_messages)
                    {
                        return Err(format!(
                            "asked \"{name}\" to keep {config:?}, told {}",
                            told.max_messages
                        ));
                    }
                }
                (Order::Delete { topic: name }, Reply::Done(_)) => {
                    let index = archive.topic_named(answer.namespace, name);
                    let index =
                        index.ok_or_else(|| format!("deleted \"{name}\", which was not there"))?;
                    archive.delete_topic(index, step.write);
                }
                (Order::Configure { .. }, Reply::Failed(failed)) => {
                    let codes = ["conflicting_config", "limit_reached", "storage_unavailable"];
                    model.take_refusal(order, failed, &codes)?;
                }
                (Order::Delete { .. }, Reply::Failed(failed)) => {
                    model.take_refusal(order, failed, &["unknown_topic", "storage_unavailable"])?;
                }
                _ => return answer.is_none_of_these(),
            }
        }
        Ok(())
    }
}
