//! A subscription as its client sees it, after the network: nothing twice, nothing out of order, nothing missing
//! that no gap tells of, and the same again after a resume.

use std::collections::BTreeMap;
use std::sync::Arc;

use dunlin_core::frame::{Delivery, Gap};

use crate::sim::archive::{Archive, Check, filter_matches};

use super::grants::Granted;
use super::{Begin, Seen, Wish};

/// A partition of a topic of the archive.
type Log = (usize, u32);

/// A gap that was told.
#[derive(Clone, Debug)]
struct Told {
    after: u64,
    to: u64,
    log: Option<(String, Option<u32>)>,
    to_offset: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) wish: Wish,
    /// Its index among the granted, once the client knows.
    pub(super) granted: Option<usize>,
    pub(super) token: String,
    /// What the protocol says to resume from: the sequence of the last delivery.
    pub(super) position: u64,
    /// Deliveries since credit was last given.
    pub(super) consumed: u64,
    /// Whether it has had the credit of the end.
    pub(super) boosted: bool,
    next: BTreeMap<Log, u64>,
    gone: BTreeMap<Log, u64>,
    /// Where each log stood before the resume.
    carried: Option<BTreeMap<Log, u64>>,
    gaps: Vec<Told>,
    /// The gaps that were told before the resume.
    gaps_before: Vec<Told>,
    seen: Vec<Seen>,
    last_global: u64,
    /// A resume lost what lay above the first and up to the second sequence; a gap must tell.
    untold: Option<(u64, u64)>,
}

impl View {
    pub(super) fn new(wish: Wish) -> Self {
        Self {
            wish,
            granted: None,
            token: String::new(),
            position: 0,
            consumed: 0,
            boosted: false,
            next: BTreeMap::new(),
            gone: BTreeMap::new(),
            carried: None,
            gaps: Vec::new(),
            gaps_before: Vec::new(),
            seen: Vec::new(),
            last_global: 0,
            untold: None,
        }
    }

    /// The subscription that goes on where this one stands.
    pub(super) fn resumed(&self) -> Self {
        let mut wish = self.wish.clone();
        if self.granted.is_none() {
            // The client never heard whether it was granted, and asks the same once more.
            let (carried, seen) = (self.carried.clone(), self.seen.clone());
            return Self {
                carried,
                seen,
                gaps_before: self.gaps_before.clone(),
                position: self.position,
                ..Self::new(wish)
            };
        }
        let seen = Arc::new(self.seen.clone());
        wish.begin = Begin::Resume {
            token: self.token.clone(),
            sequence: self.position,
            seen,
        };
        let gaps_before = self.gaps_before.iter().chain(&self.gaps).cloned().collect();
        let mut carried = self.next.clone();
        for (log, gone) in &self.gone {
            carried
                .entry(*log)
                .and_modify(|next| *next = (*next).max(*gone));
        }
        let carried = Some(carried);
        Self {
            carried,
            gaps_before,
            seen: self.seen.clone(),
            position: self.position,
            ..Self::new(wish)
        }
    }

    /// The broker granted it.
    pub(super) fn on_granted(&mut self, index: usize, granted: &Granted, token: &str) {
        self.granted = Some(index);
        self.token = token.to_owned();
        self.next = granted.base.clone();
        self.gone = granted.gone.clone();
        if let Some(carried) = self.carried.take() {
            // What lies between the two places must still come, or a gap must tell of it.
            for (log, first) in &mut self.next {
                *first = (*first).min(carried.get(log).copied().unwrap_or(0));
            }
        }
        if granted.truncated {
            self.untold = Some((granted.sequence, self.position));
        }
        // What was told of later sequences may have been of messages that a crash took.
        for gap in &mut self.gaps_before {
            gap.to = gap.to.min(granted.sequence);
        }
        self.seen.retain(|seen| seen.sequence <= granted.sequence);
        self.position = granted.sequence;
    }

    pub(super) fn on_delivery(
        &mut self,
        archive: &Archive,
        delivery: &Delivery<'_>,
        life: u64,
        now: u64,
    ) -> Check {
        let message = archive.number_of(delivery.payload, delivery.topic)?;
        if archive.is_untold(message, life) {
            self.position = delivery.sequence;
            self.consumed += 1;
            return Ok(());
        }
        let place = archive.place_in(message, life);
        let place = place.ok_or_else(|| format!("message {message} had no place then"))?;
        let log = (place.topic, place.partition);
        let expected = self.next.get(&log).copied().unwrap_or(0);
        let here = format!(
            "message {message}, \"{}\" {} {}",
            delivery.topic, delivery.partition, delivery.offset
        );
        if place.offset < expected {
            return Err(format!(
                "{here} came again or out of order, {expected} is next"
            ));
        }
        self.check_passed(archive, log, expected..place.offset, life, now)
            .map_err(|error| format!("{here} came, but the broker {error}"))?;
        if self.gaps.iter().any(|gap| gap.excludes(delivery)) {
            return Err(format!(
                "{here} at {} came after a gap told that it would not",
                place.sequence
            ));
        }
        if let Some((after, to)) = self.untold {
            return Err(format!(
                "{here} came before the client was told that {after}..{to} was lost"
            ));
        }
        if archive.topics[place.topic].ordering == "global" {
            if place.sequence < self.last_global {
                return Err(format!(
                    "{here} at {} came after {}",
                    place.sequence, self.last_global
                ));
            }
            self.last_global = place.sequence;
        }
        self.next.insert(log, place.offset + 1);
        self.position = place.sequence;
        self.seen.push(Seen {
            sequence: place.sequence,
            message,
            placed_in: place.life,
        });
        self.consumed += 1;
        Ok(())
    }

    pub(super) fn on_gap(&mut self, gap: &Gap<'_>) -> Check {
        if gap.reason == "truncated" {
            let Some((after, to)) = self.untold.take() else {
                return Err(format!("told of a loss that was none: {gap:?}"));
            };
            if gap.after > after || gap.to < to {
                return Err(format!("{after}..{to} was lost, told {gap:?}"));
            }
            return Ok(());
        }
        if gap.topic.is_none() && gap.to > self.position {
            self.position = gap.to;
        }
        self.gaps.push(Told {
            after: gap.after,
            to: gap.to,
            log: gap.topic.map(|topic| (topic.to_owned(), gap.partition)),
            to_offset: gap.to_offset,
        });
        Ok(())
    }

    /// At the end of everything, all that matches must have come.
    pub(super) fn check_complete(&self, archive: &Archive, namespace: usize, now: u64) -> Check {
        for topic in archive.topics_of(namespace) {
            let model = &archive.topics[topic];
            if !filter_matches(&self.wish.filter, &model.name) {
                continue;
            }
            for (partition, part) in model.partitions.iter().enumerate() {
                let log = (topic, partition as u32);
                let from = self.next.get(&log).copied().unwrap_or(0);
                self.check_passed(archive, log, from..part.end, archive.life, now)
                    .map_err(|error| format!("at the end, the broker {error}"))?;
            }
        }
        match self.untold {
            Some((after, to)) => Err(format!(
                "the client was never told that {after}..{to} was lost"
            )),
            None => Ok(()),
        }
    }

    /// Offsets that no delivery came for must be excused or told.
    fn check_passed(
        &self,
        archive: &Archive,
        log: Log,
        offsets: core::ops::Range<u64>,
        life: u64,
        now: u64,
    ) -> Check {
        if self.wish.partition.is_some_and(|only| only != log.1) {
            return Ok(());
        }
        let gone = self.gone.get(&log).copied().unwrap_or(0);
        for offset in offsets.start.max(gone)..offsets.end {
            let Some(message) = archive.at(log.0, log.1, offset, life) else {
                continue;
            };
            let place = archive.place_in(message, life);
            let place = place.expect("it was found by its place");
            if archive.is_excused_at(message, place, now) {
                continue;
            }
            // Only a time to come, as after a setback of the clock, is later than what is published after it was asked.
            if matches!(self.wish.begin, Begin::Timestamp(at) if place.timestamp < at) {
                continue;
            }
            let name = &archive.topics[log.0].name;
            let mut gaps = self.gaps.iter().chain(&self.gaps_before);
            if gaps.any(|gap| gap.covers(name, log.1, place.sequence)) {
                continue;
            }
            return Err(format!(
                "left out message {message}, \"{name}\" {} {offset} at sequence {}, without a gap",
                log.1, place.sequence
            ));
        }
        Ok(())
    }
}

impl Told {
    fn is_about(&self, topic: &str, partition: u32) -> bool {
        self.log
            .as_ref()
            .is_none_or(|(name, only)| name == topic && only.is_none_or(|only| only == partition))
    }

    fn covers(&self, topic: &str, partition: u32, sequence: u64) -> bool {
        self.is_about(topic, partition) && (self.after + 1..=self.to).contains(&sequence)
    }

    /// Whether it said that this delivery would not come.
    fn excludes(&self, delivery: &Delivery<'_>) -> bool {
        match self.to_offset {
            // A topic of the same name that was made later begins anew.
            Some(to) => {
                self.is_about(delivery.topic, delivery.partition)
                    && delivery.offset < to
                    && delivery.sequence <= self.to
            }
            None => self.covers(delivery.topic, delivery.partition, delivery.sequence),
        }
    }
}
