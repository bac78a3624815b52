//! Publishing once: which names of messages each topic must remember, and which publishes are therefore duplicates.
//!
//! What the window is over for may be forgotten or not: clocks go back over a restart, and rows go when somebody looks.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_core::frame::Place;

use crate::sim::archive::Check;
use crate::sim::recovery::{Ended, When};

use super::Draft;

/// How far below its highest sequence a producer may still be.
const BEHIND_MAX: u64 = 1024;

/// What a message is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Id(String),
    Produced(String, u64),
}

/// A message that has a name.
#[derive(Clone, Copy, Debug)]
struct Known {
    partition: u32,
    offset: u64,
    sequence: u64,
    schedule_id: Option<u64>,
    at: u64,
    when: When,
    /// Whether its window was over at some time.
    over: bool,
}

/// The names of one topic.
#[derive(Debug, Default)]
struct TopicNames {
    known: BTreeMap<Name, Vec<Known>>,
    /// The sequences that a producer published, and when.
    producers: BTreeMap<String, BTreeMap<u64, When>>,
}

/// A topic at a time.
#[derive(Clone, Copy, Debug)]
pub(in crate::sim) struct At {
    pub(in crate::sim) topic: usize,
    pub(in crate::sim) dedup_ms: u64,
    pub(in crate::sim) now: u64,
}

/// All names, by topic.
#[derive(Debug, Default)]
pub(in crate::sim) struct Names(BTreeMap<usize, TopicNames>);

impl Known {
    /// Whether it must be remembered.
    const fn holds(&self, at: At) -> bool {
        !self.over && self.at + at.dedup_ms > at.now
    }
}

impl Names {
    /// A message was published as one that was not before.
    pub(in crate::sim) fn publish(
        &mut self,
        at: At,
        draft: &Draft,
        place: &Place<'_>,
        when: When,
    ) -> Check {
        self.look(at);
        let topic = self.0.entry(at.topic).or_default();
        let Some(name) = name_of(draft, at.dedup_ms) else {
            return Ok(());
        };
        let known = topic.known.entry(name.clone()).or_default();
        if let Some(first) = known.iter().find(|known| known.holds(at)) {
            return Err(format!(
                "{name:?} is published again, but was {first:?}, and {} ms are its window",
                at.dedup_ms
            ));
        }
        // Without a window only what repeats it in the same batch is told where it is.
        known.push(Known {
            partition: place.partition,
            offset: place.offset,
            sequence: place.sequence,
            schedule_id: place.schedule_id,
            at: at.now,
            when,
            over: false,
        });
        if let Some((producer, number)) = &draft.producer {
            let published = topic.producers.entry(producer.clone()).or_default();
            let highest = published
                .last_key_value()
                .map_or(0, |(highest, _)| *highest);
            if published.contains_key(number) || number + BEHIND_MAX < highest {
                return Err(format!(
                    "{number} of producer {producer} is published, its highest is {highest}; before: {:?}",
                    published.get(number)
                ));
            }
            published.insert(*number, when);
        }
        Ok(())
    }

    /// A message was taken for one that is there already.
    pub(in crate::sim) fn repeat(&mut self, at: At, draft: &Draft, told: &Place<'_>) -> Check {
        self.look(at);
        let topic = self.0.entry(at.topic).or_default();
        let wrong = |why: &str| Err(format!("{draft:?} is taken for {told:?}, {why}"));
        let Some(name) = name_of(draft, at.dedup_ms) else {
            return wrong("but has no name");
        };
        let known = topic.known.get(&name).map_or(&[][..], Vec::as_slice);
        if told.sequence > 0 || told.schedule_id.is_some() {
            let is_there = |known: &Known| {
                (known.partition, known.offset) == (told.partition, told.offset)
                    && (known.sequence, known.schedule_id) == (told.sequence, told.schedule_id)
            };
            return match known.iter().any(is_there) {
                true => Ok(()),
                false => wrong(&format!("but was {known:?}")),
            };
        }
        if let Some(known) = known.iter().find(|known| known.holds(at)) {
            return wrong(&format!("but its place is known: {known:?}"));
        }
        let producer = draft.producer.as_ref();
        let published = producer.is_some_and(|(producer, number)| {
            let published = topic.producers.get(producer);
            published.is_some_and(|published| published.contains_key(number))
        });
        match published {
            true => Ok(()),
            false => wrong("but nobody published that"),
        }
    }

    /// Whether nobody can know any more whether this was published, which comes behind others of its batch and topic.
    pub(in crate::sim) fn is_too_low<'a>(
        &self,
        at: Option<At>,
        draft: &Draft,
        earlier: impl Iterator<Item = &'a Draft>,
    ) -> bool {
        let Some((producer, number)) = &draft.producer else {
            return false;
        };
        let topic = at.and_then(|at| self.0.get(&at.topic));
        let published = topic.and_then(|topic| topic.producers.get(producer));
        let highest = published.and_then(BTreeMap::last_key_value);
        let earlier = earlier.filter_map(|other| other.producer.as_ref());
        let earlier = earlier.filter(|(other, _)| other == producer);
        let highest = earlier
            .map(|(_, number)| number)
            .chain(highest.map(|(highest, _)| highest));
        highest
            .max()
            .is_some_and(|highest| number + BEHIND_MAX < *highest)
    }

    /// How many names must be remembered, and how many may be, of these topics.
    pub(in crate::sim) fn count(&self, topics: &BTreeMap<usize, At>) -> (u64, u64) {
        let (mut least, mut most) = (0, 0);
        for (topic, at) in topics {
            let known = self
                .0
                .get(topic)
                .into_iter()
                .flat_map(|topic| topic.known.values());
            for known in known.flatten() {
                least += u64::from(known.holds(*at));
                most += 1;
            }
        }
        (least, most)
    }

    /// Notes whose window is over.
    pub(in crate::sim) fn look(&mut self, at: At) {
        let known = self.0.get_mut(&at.topic).into_iter();
        for known in known.flat_map(|topic| topic.known.values_mut()).flatten() {
            known.over |= !known.holds(at);
        }
    }

    /// What was not stored is forgotten, and of live topics everything is.
    pub(in crate::sim) fn recover(&mut self, ended: Ended, live: &BTreeSet<usize>) {
        for (index, topic) in &mut self.0 {
            if live.contains(index) {
                *topic = TopicNames::default();
            }
            for known in topic.known.values_mut() {
                known.retain(|known| !known.when.is_lost(ended));
            }
            for published in topic.producers.values_mut() {
                published.retain(|_, when| !when.is_lost(ended));
            }
        }
    }
}

fn name_of(draft: &Draft, dedup_ms: u64) -> Option<Name> {
    match (&draft.producer, &draft.id) {
        (Some((producer, number)), _) => Some(Name::Produced(producer.clone(), *number)),
        (None, Some(id)) if dedup_ms > 0 => Some(Name::Id(id.clone())),
        _ => None,
    }
}
