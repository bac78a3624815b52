//! What the broker answers to commands: receipts, which place messages, and everything else that is told of topics.

use dunlin_core::Durability;
use dunlin_core::frame::Reply;

use super::archive::{Check, Place, filter_matches};
use super::command::Order;
use super::frames::{check_code, level};
use super::model::{Model, Pending, Replies};

impl Model {
    /// Takes what is said about topics, before anything is placed in them.
    pub(super) fn take_descriptions(&mut self, write: u64, replies: &Replies<'_>) -> Check {
        for ((connection, _), (Pending { request, .. }, reply)) in replies {
            let Some(namespace) = self.namespace_of(*connection) else {
                continue;
            };
            match (&request.order, reply) {
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
                    let index = self
                        .archive
                        .topic(namespace, name, told.partitions.iter().count());
                    let topic = &mut self.archive.topics[index];
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
                    let count = told.partitions.iter().count();
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
                            "asked \"{name}\" to keep {:?}, told {}",
                            config, told.max_messages
                        ));
                    }
                }
                (Order::Delete { topic: name }, Reply::Done(_)) => {
                    let index = self.archive.topic_named(namespace, name);
                    let index =
                        index.ok_or_else(|| format!("deleted \"{name}\", which was not there"))?;
                    self.archive.delete_topic(index, write);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Places every message that has a receipt, in the order of sequences.
    pub(super) fn take_receipts(&mut self, now: u64, write: u64, replies: &Replies<'_>) -> Check {
        let mut placed: Vec<(u64, usize, u32, u64, Durability, u64, u64)> = Vec::new();
        for ((connection, _), (Pending { request, order, .. }, reply)) in replies {
            match (&request.order, reply) {
                (Order::Publish { message }, Reply::Receipt(receipt)) => {
                    let asked = self.archive.drafts[*message]
                        .durability
                        .unwrap_or(Durability::None);
                    let (partition, offset) = (receipt.partition, receipt.offset);
                    placed.push((
                        receipt.sequence,
                        *message,
                        partition,
                        offset,
                        asked,
                        *connection,
                        *order,
                    ));
                    if receipt.duplicate {
                        return Err(format!("message {message} is told to be a duplicate"));
                    }
                }
                (
                    Order::Batch {
                        messages,
                        durability,
                    },
                    Reply::Receipts(receipts),
                ) => {
                    let asked = durability.unwrap_or(Durability::None);
                    let places: Result<Vec<_>, _> = receipts.receipts.iter().collect();
                    let places = places.map_err(|_| "malformed receipts".to_owned())?;
                    if places.len() != messages.len() {
                        return Err(format!(
                            "{} receipts for {} messages",
                            places.len(),
                            messages.len()
                        ));
                    }
                    if places
                        .windows(2)
                        .any(|pair| pair[0].sequence + 1 != pair[1].sequence)
                    {
                        return Err(format!("a batch was torn apart: {places:?}"));
                    }
                    for (message, place) in messages.iter().zip(places) {
                        let (partition, offset) = (place.partition, place.offset);
                        placed.push((
                            place.sequence,
                            *message,
                            partition,
                            offset,
                            asked,
                            *connection,
                            *order,
                        ));
                    }
                }
                (Order::Publish { message }, Reply::Failed(failed)) => {
                    check_code(
                        failed.code,
                        &[
                            "storage_unavailable",
                            "subscriber_blocked",
                            "limit_reached",
                            "draining",
                        ],
                    )?;
                    self.archive.refuse(*message)?;
                }
                (Order::Batch { messages, .. }, Reply::Failed(failed)) => {
                    check_code(
                        failed.code,
                        &[
                            "storage_unavailable",
                            "subscriber_blocked",
                            "limit_reached",
                            "draining",
                        ],
                    )?;
                    for message in messages {
                        self.archive.refuse(*message)?;
                    }
                }
                _ => {}
            }
        }
        placed.sort_unstable_by_key(|place| place.0);
        for (sequence, message, partition, offset, asked, connection, order) in placed {
            self.stats.receipts += 1;
            let draft = self.archive.drafts[message].clone();
            let Some(topic) = self.archive.topic_named(draft.namespace, &draft.topic) else {
                return Err(format!(
                    "a receipt for topic \"{}\", which has no row",
                    draft.topic
                ));
            };
            let model = &self.archive.topics[topic];
            let live = model.kind == "live";
            let last = &mut self.last_timestamps[draft.namespace];
            *last = now.max(*last);
            let place = Place {
                topic,
                partition,
                offset,
                sequence,
                timestamp: *last,
                expires_at: draft.ttl_ms.map(|ttl| now + ttl),
                level: if live {
                    Durability::None
                } else {
                    asked.max(model.durability)
                },
                life: self.archive.life,
                write: if live { 0 } else { write },
                lost_in: None,
                promised: None,
            };
            self.archive.assign(message, place)?;
            self.check_publish_order(connection, order, sequence)?;
        }
        Ok(())
    }

    /// What a connection published earlier has the lower sequence.
    pub(super) fn check_publish_order(&mut self, id: u64, order: u64, sequence: u64) -> Check {
        let Some(connection) = self.connections.get_mut(&id) else {
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
        if before.is_some_and(|before| before > sequence)
            || after.is_some_and(|after| after < sequence)
        {
            return Err(format!(
                "connection {id}: command {order} got sequence {sequence} out of its order"
            ));
        }
        Ok(())
    }

    /// Checks all replies that neither place messages nor grant subscriptions.
    pub(super) fn take_others(&mut self, now: u64, replies: &Replies<'_>) -> Check {
        for ((id, number), (pending, reply)) in replies {
            let request = &pending.request;
            let Some(namespace) = self.namespace_of(*id) else {
                continue;
            };
            match (&request.order, reply) {
                (Order::Publish { .. }, Reply::Receipt(_))
                | (Order::Batch { .. }, Reply::Receipts(_))
                | (Order::Publish { .. } | Order::Batch { .. }, Reply::Failed(_))
                | (Order::Subscribe { .. }, Reply::Subscribed(_))
                | (Order::Configure { .. }, Reply::TopicDescription(_))
                | (Order::Delete { .. }, Reply::Done(_))
                | (Order::Ping, Reply::Pong(_)) => {}
                (Order::Hello, Reply::Welcome(told)) => {
                    if told.connection != *id || told.version != 1 {
                        return Err(format!("connection {id} is greeted as {told:?}"));
                    }
                    let life = self.archive.life;
                    let known = self
                        .incarnations
                        .entry(namespace)
                        .or_insert((life, told.incarnation));
                    if known.0 == life && known.1 != told.incarnation {
                        return Err(format!(
                            "incarnation {} in a life that had {}",
                            told.incarnation, known.1
                        ));
                    }
                    *known = (life, told.incarnation);
                }
                (Order::Unsubscribe { subscription }, Reply::Done(_)) => {
                    let connection = self
                        .connections
                        .get_mut(id)
                        .expect("its namespace was just asked for");
                    connection.subscriptions.remove(subscription);
                }
                (Order::Read { topic, begin, .. }, Reply::Page(page)) => {
                    self.stats.pages += 1;
                    self.check_page(now, namespace, pending, page)
                        .map_err(|error| {
                            format!(
                                "page {number} of \"{topic}\" from {}: {error}",
                                begin.text()
                            )
                        })?;
                }
                (Order::Describe { topic }, Reply::TopicDescription(told)) => {
                    let index = self.archive.topic_named(namespace, topic);
                    let index = index
                        .ok_or_else(|| format!("\"{topic}\" is described, but is not there"))?;
                    for (partition, extent) in told.partitions.iter().enumerate() {
                        let extent = extent.map_err(|_| "a malformed extent".to_owned())?;
                        let part = &self.archive.topics[index].partitions[partition];
                        if extent.log_end_offset > part.end
                            || extent.log_start_offset > extent.log_end_offset
                        {
                            return Err(format!(
                                "\"{topic}\" is told to be {extent:?}, but ends at {}",
                                part.end
                            ));
                        }
                    }
                }
                (Order::List { filter }, Reply::Topics(told)) => {
                    let names: Vec<&str> = told.topics.iter().collect();
                    if !names.is_sorted() || names.iter().any(|name| !filter_matches(filter, name))
                    {
                        return Err(format!("topics of \"{filter}\": {names:?}"));
                    }
                    for name in names {
                        if self.archive.topic_named(namespace, name).is_none() {
                            return Err(format!(
                                "topic \"{name}\" is listed in namespace {namespace}, but is not its"
                            ));
                        }
                    }
                }
                (order, Reply::Failed(failed)) => {
                    self.stats.refusals += 1;
                    let allowed: &[&str] = match order {
                        Order::Subscribe { .. } => &[
                            "limit_reached",
                            "offset_out_of_range",
                            "unknown_topic",
                            "unknown_partition",
                            "invalid_argument",
                            "storage_unavailable",
                        ],
                        Order::Unsubscribe { .. } => &["unknown_subscription"],
                        Order::Read { .. } => &[
                            "limit_reached",
                            "offset_out_of_range",
                            "unknown_topic",
                            "unknown_partition",
                            "storage_unavailable",
                        ],
                        Order::Configure { .. } => {
                            &["conflicting_config", "limit_reached", "storage_unavailable"]
                        }
                        Order::Describe { .. } => &["unknown_topic"],
                        Order::Delete { .. } => &["unknown_topic", "storage_unavailable"],
                        _ => &[],
                    };
                    check_code(failed.code, allowed)
                        .map_err(|error| format!("{error}, to {order:?}: {failed:?}"))?;
                }
                (order, reply) => return Err(format!("{order:?} is answered {reply:?}")),
            }
        }
        Ok(())
    }
}
