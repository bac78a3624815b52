//! What readers are told of messages, checked against what was published: pages, deliveries, gaps, and what leaves
//! the host before it is safe.

use dunlin_core::Durability;
use dunlin_core::frame::{Delivery, Page, Record, Reply};

use super::archive::{Check, Told, filter_matches};
use super::command::{Begin, Order};
use super::frames::{decode, frames_in};
use super::model::{Model, Pending, Said};

impl Model {
    /// Checks a page against the log that it is of.
    pub(super) fn check_page(
        &self,
        now: u64,
        namespace: usize,
        pending: &Pending,
        page: &Page<'_>,
    ) -> Check {
        let Order::Read {
            topic,
            partition,
            begin,
            messages_max,
        } = &pending.request.order
        else {
            return Err(format!("a page to {:?}", pending.request.order));
        };
        let partition = *partition;
        let index = self
            .archive
            .topic_named(namespace, topic)
            .ok_or("the topic is not there")?;
        let live = self.archive.topics[index].kind == "live";
        let part = &self.archive.topics[index].partitions[partition as usize];
        if page.log_start_offset > page.log_end_offset || page.log_end_offset > part.end {
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
            let message = self.archive.number_of(record.payload)?;
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
            self.archive.check_told(message, &told)?;
            // A page may take long to read; what was alive when it was asked for may be in it.
            if record.expires_at.is_some_and(|at| at <= pending.given_at) {
                return Err(format!("message {message} has expired"));
            }
            let from = next.unwrap_or(record.offset);
            self.check_passed(now, index, partition, from, record.offset)?;
            next = Some(record.offset + 1);
        }
        let limit = (*messages_max).min(self.bounds.read_messages_max);
        if count > limit {
            return Err(format!("{count} records, {limit} are allowed"));
        }
        if let Some(next) = next {
            self.check_passed(now, index, partition, next, page.next_offset)?;
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
    fn check_passed(&self, now: u64, topic: usize, partition: u32, from: u64, to: u64) -> Check {
        if to < from {
            return Err(format!("went back from {from} to {to}"));
        }
        let start = self.archive.topics[topic].partitions[partition as usize].start;
        for offset in from.max(start)..to {
            let missed = self.archive.at(topic, partition, offset, self.archive.life);
            if let Some(message) = missed.filter(|message| !self.archive.is_excused(*message, now))
            {
                return Err(format!(
                    "offset {offset}, message {message}, was passed over"
                ));
            }
        }
        Ok(())
    }

    /// Checks what a subscription is told.
    pub(super) fn take_delivery(&mut self, now: u64, said: &Said) -> Check {
        let reply = decode(&said.frame)?;
        let (id, gone) = match &reply {
            Reply::Delivery(delivery) => (delivery.subscription, false),
            Reply::Gap(gap) => (gap.subscription, false),
            Reply::Ended(ended) => (ended.subscription, true),
            Reply::Resync(_) => {
                if let Some(connection) = self.connections.get_mut(&said.connection) {
                    connection.subscriptions.clear();
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        let Some(connection) = self.connections.get_mut(&said.connection) else {
            return Ok(());
        };
        let Some(&index) = connection.subscriptions.get(&id) else {
            // It ended in this very batch, after this was given to it.
            let known = self.granted_by.contains_key(&(said.connection, id));
            return if known {
                Ok(())
            } else {
                Err(format!("{reply:?} for a subscription that was never there"))
            };
        };
        if gone {
            self.stats.ended += 1;
            connection.subscriptions.remove(&id);
            return Ok(());
        }
        match reply {
            Reply::Delivery(delivery) => {
                self.stats.deliveries += 1;
                self.check_delivery(now, index, &delivery).map_err(|error| {
                    format!(
                        "subscription {id} of connection {}: {error}",
                        said.connection
                    )
                })
            }
            Reply::Gap(gap) => {
                self.stats.gaps += 1;
                let wish = &self.granted[index].wish;
                let sound = match gap.reason {
                    "trimmed" => true,
                    "dropped" => wish.on_lag.starts_with("drop") || gap.topic.is_some(),
                    "truncated" => self.granted[index].truncated,
                    _ => false,
                };
                if !sound || gap.after > gap.to {
                    return Err(format!("a gap that cannot be: {gap:?} for {wish:?}"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn check_delivery(&mut self, now: u64, index: usize, delivery: &Delivery<'_>) -> Check {
        let message = self.archive.number_of(delivery.payload)?;
        let granted = &mut self.granted[index];
        if let Some(credit) = &mut granted.credit {
            *credit = credit
                .checked_sub(1)
                .ok_or_else(|| format!("message {message} exceeds the credit"))?;
        }
        let told = Told {
            namespace: granted.namespace,
            topic: delivery.topic,
            partition: delivery.partition,
            offset: delivery.offset,
            sequence: delivery.sequence,
            timestamp: delivery.timestamp,
            expires_at: delivery.expires_at,
            key: delivery.key,
            id: delivery.id,
            headers: delivery
                .headers
                .iter()
                .flat_map(|headers| headers.iter())
                .collect(),
        };
        let granted = &self.granted[index];
        self.archive.check_told(message, &told)?;
        if !filter_matches(&granted.wish.filter, delivery.topic) {
            return Err(format!(
                "message {message} on \"{}\" does not match \"{}\"",
                delivery.topic, granted.wish.filter
            ));
        }
        if granted
            .wish
            .partition
            .is_some_and(|only| only != delivery.partition)
        {
            return Err(format!(
                "message {message} of partition {}",
                delivery.partition
            ));
        }
        if delivery.expires_at.is_some_and(|at| at <= now) {
            return Err(format!("message {message} has expired"));
        }
        Ok(())
    }

    /// Checks what leaves the host: nothing that was asked to be safe may be told of before it is.
    pub(super) fn released(
        &mut self,
        connection: u64,
        bytes: &[u8],
        applied: u64,
        synced: u64,
    ) -> Check {
        let Some(namespace) = self.namespace_of(connection) else {
            return Ok(());
        };
        if self.noisy.contains(&connection) {
            return Ok(());
        }
        let life = self.archive.life;
        for frame in frames_in(self.is_json(connection), bytes)? {
            match decode(&frame)? {
                Reply::Receipt(receipt) => {
                    let message = self.archive.at_sequence(namespace, receipt.sequence);
                    self.promise(message, applied, synced)?;
                }
                Reply::Receipts(receipts) => {
                    for place in receipts.receipts.iter().flatten() {
                        let message = self.archive.at_sequence(namespace, place.sequence);
                        self.promise(message, applied, synced)?;
                    }
                }
                Reply::Delivery(delivery) => {
                    let message = self.archive.number_of(delivery.payload)?;
                    let place = self.archive.place(message)?;
                    if place.life == life && place.level == Durability::Sync && place.write > synced
                    {
                        return Err(format!(
                            "message {message} is delivered before it is durable"
                        ));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn promise(&mut self, message: Option<usize>, applied: u64, synced: u64) -> Check {
        let message = message.ok_or("a receipt leaves for a message that was never placed")?;
        let place = self.archive.places[message]
            .as_mut()
            .expect("it was found by its place");
        let reached = match place.level {
            Durability::None => return Ok(()),
            Durability::Async => applied,
            Durability::Sync => synced,
        };
        if place.write > reached {
            let level = super::command::word(place.level);
            return Err(format!(
                "the receipt of message {message} leaves before it is {level}"
            ));
        }
        place.promised = Some(place.write);
        Ok(())
    }
}
