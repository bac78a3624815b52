//! What a subscription must get, worked out when it is granted.

use std::collections::BTreeMap;

use dunlin_core::frame::Reply;

use super::archive::{Check, filter_matches};
use super::command::{Begin, Order, Wish};
use super::frames::{first_sequence, last_sequence};
use super::model::{Granted, Model, Pending, Replies};

impl Model {
    /// Notes granted subscriptions and what they must get.
    pub(super) fn take_grants(&mut self, handled: &[(u64, u64)], replies: &Replies<'_>) -> Check {
        let mut last: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
        for key in handled {
            let (Some((Pending { request, .. }, reply)), Some(namespace)) =
                (replies.get(key), self.namespace_of(key.0))
            else {
                continue;
            };
            let (before, seen) = last.entry(namespace).or_insert_with(|| {
                // Everything that was placed before this batch.
                let fresh = replies
                    .iter()
                    .filter(|((connection, _), _)| {
                        self.namespace_of(*connection) == Some(namespace)
                    })
                    .filter_map(|(_, (_, reply))| first_sequence(reply))
                    .min();
                let before = self
                    .archive
                    .last_sequence_below(namespace, fresh.unwrap_or(u64::MAX));
                (before, before)
            });
            let before = *before;
            if let Some(sequence) = last_sequence(reply) {
                *seen = (*seen).max(sequence);
            }
            let (Order::Subscribe { subscription, wish }, Reply::Subscribed(told)) =
                (&request.order, reply)
            else {
                continue;
            };
            // A held publish that was given before may be placed after.
            let seen = match wish.begin {
                Begin::Latest if told.sequence < before => {
                    return Err(format!(
                        "the latest is told to be {}, but is {before}",
                        told.sequence
                    ));
                }
                Begin::Latest => told.sequence,
                _ => *seen,
            };
            if told.subscription != *subscription {
                return Err(format!(
                    "asked for subscription {subscription}, told {}",
                    told.subscription
                ));
            }
            self.stats.subscriptions += 1;
            let base = self.base(namespace, wish, seen, told.sequence)?;
            let truncated =
                matches!(&wish.begin, Begin::Resume { sequence, .. } if told.sequence < *sequence);
            let gone = self.gone(&base, wish);
            let index = self.granted.len();
            self.granted.push(Granted {
                namespace,
                wish: wish.clone(),
                sequence: told.sequence,
                base,
                gone,
                credit: wish.credit,
                credit_most: wish.credit.unwrap_or(0),
                truncated,
            });
            let connection = self
                .connections
                .get_mut(&key.0)
                .expect("its namespace was just asked for");
            connection.subscriptions.insert(*subscription, index);
            self.granted_by.insert((key.0, *subscription), index);
        }
        Ok(())
    }

    /// The first offset of every partition that a new subscription must get, when the last sequence was `seen`.
    fn base(
        &self,
        namespace: usize,
        wish: &Wish,
        seen: u64,
        told: u64,
    ) -> Result<BTreeMap<(usize, u32), u64>, String> {
        if let Begin::Resume {
            seen: known,
            sequence,
            ..
        } = &wish.begin
        {
            if told > *sequence {
                return Err(format!("resumed at {told}, beyond the asked {sequence}"));
            }
            // Told from the very beginning, the broker does not remember the life that the token is of.
            for (at, message) in known.iter().filter(|(at, _)| *at > told && told > 0) {
                if self.archive.at_sequence(namespace, *at) == Some(*message) {
                    return Err(format!(
                        "resumed at {told} as if message {message} at {at} was lost, which it was not"
                    ));
                }
            }
            for (sequence, message) in known.iter().filter(|(sequence, _)| *sequence <= told) {
                if self
                    .archive
                    .at_sequence(namespace, *sequence)
                    .is_some_and(|other| other != *message)
                {
                    return Err(format!(
                        "resumed at {told}, but sequence {sequence} is not message {message} any more"
                    ));
                }
                if !self.archive.is_there(*message, self.archive.life) && !self.is_live(*message) {
                    return Err(format!(
                        "resumed at {told} without telling that message {message} was lost"
                    ));
                }
            }
        }
        let mut base = BTreeMap::new();
        // Deleted topics too: one is back if a crash takes the deletion, and the subscription may be resumed after that.
        for (topic, model) in self.archive.topics.iter().enumerate() {
            if model.namespace != namespace || !filter_matches(&wish.filter, &model.name) {
                continue;
            }
            for (partition, part) in model.partitions.iter().enumerate() {
                let partition = partition as u32;
                let wants = |offset: u64| {
                    let message = self.archive.at(topic, partition, offset, self.archive.life);
                    let Some(place) =
                        message.and_then(|message| self.archive.places[message].as_ref())
                    else {
                        return false;
                    };
                    let past = match &wish.begin {
                        Begin::Latest => false,
                        // What a live topic had is gone for all who do not resume.
                        Begin::Resume { .. } => place.sequence > told,
                        _ if model.kind == "live" => false,
                        Begin::Earliest => true,
                        Begin::Offset(asked) => offset >= *asked,
                        Begin::Timestamp(at) => place.timestamp >= *at,
                        Begin::Last(count) => {
                            let later = part.offsets.range(offset..part.end);
                            let later = later.filter(|(_, messages)| {
                                messages.iter().any(|message| {
                                    self.archive.is_there(*message, self.archive.life)
                                        && self.archive.places[*message]
                                            .as_ref()
                                            .is_some_and(|place| place.sequence <= seen)
                                })
                            });
                            later.count() as u64 <= *count
                        }
                    };
                    past || place.sequence > seen
                };
                let first = (part.start_before..part.end)
                    .find(|offset| wants(*offset))
                    .unwrap_or(part.end);
                base.insert((topic, partition), first);
            }
        }
        Ok(base)
    }

    /// What is due for retention goes when a log is looked at, before a new reader begins; one that resumes is told.
    fn gone(&self, base: &BTreeMap<(usize, u32), u64>, wish: &Wish) -> BTreeMap<(usize, u32), u64> {
        if matches!(wish.begin, Begin::Resume { .. }) {
            return BTreeMap::new();
        }
        let start =
            |log: &(usize, u32)| self.archive.topics[log.0].partitions[log.1 as usize].start;
        base.keys().map(|log| (*log, start(log))).collect()
    }

    pub(super) fn is_live(&self, message: usize) -> bool {
        self.archive.places[message]
            .as_ref()
            .is_none_or(|place| self.archive.topics[place.topic].kind == "live")
    }
}
