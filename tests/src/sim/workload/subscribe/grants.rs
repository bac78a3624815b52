//! What a subscription must get, worked out when it is granted.

use std::collections::BTreeMap;

use dunlin_core::frame::Reply;

use crate::sim::archive::{Check, filter_matches};
use crate::sim::command;
use crate::sim::frames::last_sequence;
use crate::sim::model::{Model, Pending, Step};

use super::super::rules::copies_of;
use super::{Begin, Order, Seen, Wish};

/// A subscription, once it was granted.
#[derive(Debug)]
pub(in crate::sim) struct Granted {
    pub(in crate::sim) namespace: usize,
    pub(in crate::sim) wish: Wish,
    /// Where the broker says that it begins.
    pub(in crate::sim) sequence: u64,
    /// The first offset that it must get of every partition that there was. Of later topics it gets everything.
    pub(in crate::sim) base: BTreeMap<(usize, u32), u64>,
    /// Below these offsets it may or may not get what retention took when it began.
    pub(in crate::sim) gone: BTreeMap<(usize, u32), u64>,
    pub(in crate::sim) credit: Option<u64>,
    /// The most that it ever had.
    pub(in crate::sim) credit_most: u64,
    /// Whether a resume lost something, so that a gap must tell.
    pub(in crate::sim) truncated: bool,
}

/// All that were ever granted.
#[derive(Debug, Default)]
pub(in crate::sim) struct Grants {
    pub(super) all: Vec<Granted>,
    /// The newest of a connection's subscription.
    pub(super) newest: BTreeMap<(u64, u32), usize>,
    /// Those that the broker knows of.
    open: BTreeMap<(u64, u32), usize>,
}

impl Grants {
    fn insert(&mut self, connection: u64, subscription: u32, granted: Granted) {
        let index = self.all.len();
        self.all.push(granted);
        self.open.insert((connection, subscription), index);
        self.newest.insert((connection, subscription), index);
    }

    /// Those that the broker knows of, also of connections that are gone.
    pub(in crate::sim) fn all_open(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.open.keys().copied()
    }

    /// The newest that a connection had under this number.
    pub(in crate::sim) fn granted(&self, connection: u64, subscription: u32) -> &Granted {
        &self.all[self.newest[&(connection, subscription)]]
    }

    /// The one that the broker knows under this number.
    pub(super) fn open(&self, connection: u64, subscription: u32) -> Option<usize> {
        self.open.get(&(connection, subscription)).copied()
    }

    pub(super) fn end(&mut self, connection: u64, subscription: u32) {
        self.open.remove(&(connection, subscription));
    }

    pub(super) fn end_all(&mut self, connection: u64) {
        let all = (connection, 0)..=(connection, u32::MAX);
        let subscriptions: Vec<_> = self.open.range(all).map(|(key, _)| *key).collect();
        for key in subscriptions {
            self.open.remove(&key);
        }
    }

    pub(super) fn credit(&mut self, connection: u64, subscription: u32, messages: u64) {
        if let Some(index) = self.open(connection, subscription) {
            let granted = &mut self.all[index];
            granted.credit = granted.credit.map(|credit| credit + messages);
            granted.credit_most = granted.credit_most.max(granted.credit.unwrap_or(0));
        }
    }

    /// What a new life knows of a connection that outlived the old one.
    pub(super) fn restore(&mut self, connection: u64, clean: bool) {
        if !clean {
            self.end_all(connection);
        }
        for (_, index) in self.open.range((connection, 0)..=(connection, u32::MAX)) {
            // Credit is not stored with every delivery: what was used may be there again.
            let granted = &mut self.all[*index];
            granted.credit = granted.credit.map(|_| granted.credit_most);
        }
    }
}

/// Notes granted subscriptions and what they must get.
pub(super) fn take_grants(model: &mut Model, step: &Step<'_>) -> Check {
    let replies = step.replies;
    let mut last: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
    for key in step.handled {
        let Some(namespace) = model.namespace_of(key.0) else {
            continue;
        };
        let (before, seen) = last.entry(namespace).or_insert_with(|| {
            // Everything that was placed before this batch.
            let archive = &model.archive;
            let fresh = archive.fresh.iter().filter_map(|message| {
                let place = archive.newest(*message)?;
                (archive.topics[place.topic].namespace == namespace).then_some(place.sequence)
            });
            let before = archive.last_sequence_below(namespace, fresh.min().unwrap_or(u64::MAX));
            (before, before)
        });
        let before = *before;
        let asked = step.asked(model, *key).and_then(|message| {
            let place = model.archive.newest(message);
            place.filter(|place| place.life == model.archive.life)
        });
        *seen = asked.map_or(*seen, |place| place.sequence.max(*seen));
        let Some((Pending { request, .. }, reply)) = replies.get(key) else {
            continue;
        };
        if let Some(sequence) = last_sequence(reply) {
            *seen = (*seen).max(sequence + copies_of(&request.order));
        }
        let (
            command::Order::Subscribe(Order::Subscribe { subscription, wish }),
            Reply::Subscribed(told),
        ) = (&request.order, reply)
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
        model.stats.subscriptions += 1;
        let latest = base(model, namespace, wish, seen, told.sequence)?;
        // The last so many may be counted without the publishes of this batch, if they were held until its end.
        let may_hold =
            |granted: &Granted| granted.namespace == namespace && granted.wish.on_lag == "block";
        let is_vague =
            matches!(wish.begin, Begin::Last(_)) && model.grants.all.iter().any(may_hold);
        let base = if is_vague {
            base(model, namespace, wish, before, told.sequence)?
        } else {
            latest.clone()
        };
        let truncated =
            matches!(&wish.begin, Begin::Resume { sequence, .. } if told.sequence < *sequence);
        let mut gone = gone(model, &base, wish);
        if is_vague {
            for (log, first) in latest {
                let gone = gone.entry(log).or_default();
                *gone = (*gone).max(first);
            }
        }
        model.grants.insert(
            key.0,
            *subscription,
            Granted {
                namespace,
                wish: wish.clone(),
                sequence: told.sequence,
                base,
                gone,
                credit: wish.credit,
                credit_most: wish.credit.unwrap_or(0),
                truncated,
            },
        );
    }
    Ok(())
}

/// The first offset of every partition that a new subscription must get, when the last sequence was `seen`.
fn base(
    model: &Model,
    namespace: usize,
    wish: &Wish,
    seen: u64,
    told: u64,
) -> Result<BTreeMap<(usize, u32), u64>, String> {
    let archive = &model.archive;
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
        // What waited for its time may have been published again since.
        let is_where_it_was = |seen: &Seen| {
            let place = archive.place_in(seen.message, archive.life);
            place.is_some_and(|place| place.life == seen.placed_in)
        };
        for seen in known.iter().filter(|seen| seen.sequence > told && told > 0) {
            if is_where_it_was(seen) {
                return Err(format!(
                    "resumed at {told} as if {seen:?} was lost, which it was not"
                ));
            }
        }
        for seen in known.iter().filter(|seen| seen.sequence <= told) {
            let Seen {
                sequence, message, ..
            } = *seen;
            if archive
                .at_sequence(namespace, sequence)
                .is_some_and(|other| other != message)
            {
                return Err(format!(
                    "resumed at {told}, but sequence {sequence} is not message {message} any more"
                ));
            }
            if !is_where_it_was(seen) && !is_live(model, message) {
                return Err(format!(
                    "resumed at {told} without telling that message {message} was lost"
                ));
            }
        }
    }
    let mut base = BTreeMap::new();
    // Deleted topics too: one is back if a crash takes the deletion, and the subscription may be resumed after that.
    for (topic, state) in archive.topics.iter().enumerate() {
        if state.namespace != namespace || !filter_matches(&wish.filter, &state.name) {
            continue;
        }
        for (partition, part) in state.partitions.iter().enumerate() {
            let partition = partition as u32;
            let wants = |offset: u64| {
                let message = archive.at(topic, partition, offset, archive.life);
                let Some(place) = message.and_then(|message| archive.newest(message)) else {
                    return false;
                };
                let past = match &wish.begin {
                    Begin::Latest => false,
                    // What a live topic had is gone for all who do not resume.
                    Begin::Resume { .. } => place.sequence > told,
                    _ if state.kind == "live" => false,
                    Begin::Earliest => true,
                    Begin::Offset(asked) => offset >= *asked,
                    Begin::Timestamp(at) => place.timestamp >= *at,
                    Begin::Last(count) => {
                        let later = archive.there(topic, partition, offset..part.end, archive.life);
                        let later = later.filter(|(_, message)| {
                            let place = archive.newest(*message);
                            place.is_some_and(|place| place.sequence <= seen)
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
fn gone(
    model: &Model,
    base: &BTreeMap<(usize, u32), u64>,
    wish: &Wish,
) -> BTreeMap<(usize, u32), u64> {
    if matches!(wish.begin, Begin::Resume { .. }) {
        return BTreeMap::new();
    }
    let start = |log: &(usize, u32)| model.archive.topics[log.0].partitions[log.1 as usize].start;
    base.keys().map(|log| (*log, start(log))).collect()
}

fn is_live(model: &Model, message: usize) -> bool {
    model
        .archive
        .newest(message)
        .is_none_or(|place| model.archive.topics[place.topic].kind == "live")
}
