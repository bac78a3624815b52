//! Everything that was ever published, where it went, and what became of it. Nothing is forgotten, also not what a
//! crash took: a frame that was under way may still speak of it.

use core::ops::Range;
use std::collections::BTreeMap;

use dunlin_core::Durability;
use dunlin_core::frame::Delivery;

use super::workload::publish::Draft;

/// Whether what was seen is what is promised; the text says what is wrong.
pub(super) type Check = Result<(), String>;

/// Where a message went.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) topic: usize,
    pub(super) partition: u32,
    pub(super) offset: u64,
    pub(super) sequence: u64,
    pub(super) timestamp: u64,
    pub(super) expires_at: Option<u64>,
    pub(super) level: Durability,
    /// The life of the broker that placed it, and the write of that life that stores it; 0 for live topics.
    pub(super) life: u64,
    pub(super) write: u64,
    /// The first life in which it is not there any more.
    pub(super) lost_in: Option<u64>,
    /// How many writes of its life were as safe as its level asks for when its receipt left.
    pub(super) promised: Option<u64>,
}

/// What a topic is, and its partitions.
#[derive(Debug)]
pub(super) struct TopicModel {
    pub(super) namespace: usize,
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) ordering: String,
    pub(super) durability: Durability,
    pub(super) max_messages: u64,
    pub(super) max_age_ms: u64,
    pub(super) dedup_ms: u64,
    /// Whether retention was changed, so that bounds of before may still show.
    pub(super) reconfigured: bool,
    pub(super) deleted: bool,
    /// The life and the write that deleted it.
    pub(super) deleted_by: (u64, u64),
    /// Whether something went into it whose place nobody was told, so that its end is not known.
    pub(super) has_untold: bool,
    pub(super) partitions: Vec<PartitionModel>,
    /// Where the messages of a key go.
    keys: BTreeMap<String, u32>,
}

#[derive(Debug, Default)]
pub(super) struct PartitionModel {
    /// The messages that had an offset, one a life at most.
    pub(super) offsets: BTreeMap<u64, Vec<usize>>,
    pub(super) end: u64,
    /// The first offset that is kept, as stored, and before the newest batch.
    pub(super) start: u64,
    pub(super) start_before: u64,
}

#[derive(Debug, Default)]
pub(super) struct Archive {
    pub(super) drafts: Vec<Draft>,
    /// Where each message went, in the order of lives: what was scheduled is published again if a crash took it.
    places: Vec<Vec<Place>>,
    refused: Vec<bool>,
    pub(super) topics: Vec<TopicModel>,
    by_name: BTreeMap<(usize, String), usize>,
    by_sequence: BTreeMap<(usize, u64), Vec<usize>>,
    /// The messages that the newest batch placed.
    pub(super) fresh: Vec<usize>,
    pub(super) life: u64,
}

impl Archive {
    /// Takes a message that will be published; its number is told to `payload`, which must begin with it.
    pub(super) fn draft(&mut self, draft: impl FnOnce(usize) -> Draft) -> usize {
        let number = self.drafts.len();
        self.drafts.push(draft(number));
        self.places.push(Vec::new());
        self.refused.push(false);
        number
    }

    /// The number of the message with this payload in a topic. What rules make of one message has one payload, and
    /// numbers that follow each other.
    pub(super) fn number_of(&self, payload: &[u8], topic: &str) -> Result<usize, String> {
        let digits = payload
            .split(|byte| *byte == b':')
            .next()
            .unwrap_or_default();
        core::str::from_utf8(digits)
            .ok()
            .and_then(|digits| digits.parse::<usize>().ok())
            .and_then(|first| {
                let rest = self.drafts.get(first..)?.iter();
                let mut made = rest.take_while(|draft| draft.payload == payload);
                made.position(|draft| draft.topic == topic)
                    .map(|index| first + index)
            })
            .ok_or_else(|| {
                format!(
                    "a payload that nobody published to \"{topic}\": {:?}",
                    String::from_utf8_lossy(payload)
                )
            })
    }

    /// Where a message was placed last.
    pub(super) fn newest(&self, message: usize) -> Option<&Place> {
        self.places[message].last()
    }

    pub(super) fn newest_mut(&mut self, message: usize) -> Option<&mut Place> {
        self.places[message].last_mut()
    }

    pub(super) fn place(&self, message: usize) -> Result<&Place, String> {
        self.newest(message)
            .ok_or_else(|| format!("message {message} was never acknowledged a place"))
    }

    /// Where a message was in a life, retention apart.
    pub(super) fn place_in(&self, message: usize, life: u64) -> Option<&Place> {
        let mut places = self.places[message].iter().rev();
        places
            .find(|place| place.life <= life && place.lost_in.is_none_or(|lost_in| lost_in > life))
    }

    /// Whether a message went nobody knows where: nobody is told the place of what is published without a receipt and
    /// not stored, as it is where a topic is live or keeps little.
    pub(super) fn is_untold(&self, message: usize, life: u64) -> bool {
        let draft = &self.drafts[message];
        let topic = self.topic_named(draft.namespace, &draft.topic);
        draft.has_no_receipt()
            && self.place_in(message, life).is_none()
            && topic.is_some_and(|topic| self.topics[topic].has_untold)
    }

    pub(super) fn topic_named(&self, namespace: usize, name: &str) -> Option<usize> {
        self.by_name.get(&(namespace, name.to_owned())).copied()
    }

    /// The living topic of this name, made with `partitions` if it is new.
    pub(super) fn topic(&mut self, namespace: usize, name: &str, partitions: usize) -> usize {
        if let Some(index) = self.topic_named(namespace, name) {
            return index;
        }
        let index = self.topics.len();
        self.topics.push(TopicModel {
            namespace,
            name: name.to_owned(),
            kind: "log".to_owned(),
            ordering: "per_topic".to_owned(),
            durability: Durability::Async,
            max_messages: 1_000_000,
            max_age_ms: 7 * 24 * 3_600_000,
            dedup_ms: 300_000,
            reconfigured: false,
            deleted: false,
            deleted_by: (0, 0),
            has_untold: false,
            partitions: (0..partitions).map(|_| PartitionModel::default()).collect(),
            keys: BTreeMap::new(),
        });
        self.by_name.insert((namespace, name.to_owned()), index);
        index
    }

    /// Notes that a topic is gone, and its messages with it.
    pub(super) fn delete_topic(&mut self, index: usize, write: u64) {
        let topic = &mut self.topics[index];
        topic.deleted = true;
        topic.deleted_by = (self.life, write);
        self.by_name.remove(&(topic.namespace, topic.name.clone()));
    }

    /// A crash took the deletion back.
    pub(super) fn undelete_topic(&mut self, index: usize) {
        let topic = &mut self.topics[index];
        topic.deleted = false;
        self.by_name
            .insert((topic.namespace, topic.name.clone()), index);
    }

    /// The living topics of a namespace, by name.
    pub(super) fn topics_of(&self, namespace: usize) -> impl Iterator<Item = usize> + '_ {
        let from = (namespace, String::new());
        self.by_name
            .range(from..)
            .take_while(move |((other, _), _)| *other == namespace)
            .map(|(_, index)| *index)
    }

    /// The last sequence below `bound` that a living message of the namespace has.
    pub(super) fn last_sequence_below(&self, namespace: usize, bound: u64) -> u64 {
        let mut range = self.by_sequence.range((namespace, 0)..(namespace, bound));
        let found =
            range.rfind(|((_, sequence), _)| self.at_sequence(namespace, *sequence).is_some());
        found.map_or(0, |((_, sequence), _)| *sequence)
    }

    /// Whether the message was there in this life, retention apart.
    pub(super) fn is_there(&self, message: usize, life: u64) -> bool {
        self.place_in(message, life).is_some()
    }

    /// The messages that were in a partition in a life, from one offset to below another.
    pub(super) fn there(
        &self,
        topic: usize,
        partition: u32,
        offsets: Range<u64>,
        life: u64,
    ) -> impl Iterator<Item = (u64, usize)> + '_ {
        let part = &self.topics[topic].partitions[partition as usize];
        let offsets = offsets.start..offsets.end.max(offsets.start);
        let found = part.offsets.range(offsets).map(|(offset, _)| *offset);
        found.filter_map(move |offset| Some((offset, self.at(topic, partition, offset, life)?)))
    }

    /// The message that was at a place in a life.
    pub(super) fn at(&self, topic: usize, partition: u32, offset: u64, life: u64) -> Option<usize> {
        let offsets = &self.topics[topic]
            .partitions
            .get(partition as usize)?
            .offsets;
        offsets.get(&offset)?.iter().rev().copied().find(|message| {
            let place = self.place_in(*message, life);
            place.is_some_and(|place| (place.partition, place.offset) == (partition, offset))
        })
    }

    /// The message that is at a sequence now.
    pub(super) fn at_sequence(&self, namespace: usize, sequence: u64) -> Option<usize> {
        let messages = self.by_sequence.get(&(namespace, sequence))?;
        messages.iter().rev().copied().find(|message| {
            let place = self.place_in(*message, self.life);
            place.is_some_and(|place| place.sequence == sequence)
        })
    }

    pub(super) fn refuse(&mut self, message: usize) -> Check {
        if !self.places[message].is_empty() {
            return Err(format!(
                "message {message} was refused after it had a receipt"
            ));
        }
        self.refused[message] = true;
        Ok(())
    }

    /// Takes what a receipt says. `place.level` is what the publish asked for.
    pub(super) fn assign(&mut self, message: usize, place: Place) -> Check {
        let draft = &self.drafts[message];
        let here = format!("message {message} on \"{}\"", draft.topic);
        let is_again = !self.places[message].is_empty() && draft.later.is_none();
        if is_again || self.is_there(message, self.life) || self.refused[message] {
            return Err(format!("{here} was answered twice"));
        }
        let sequence = (draft.namespace, place.sequence);
        if let Some(other) = self.at_sequence(sequence.0, sequence.1) {
            let other = (other, self.place(other)?);
            return Err(format!("{here} got the sequence of {other:?}"));
        }
        let topic = &mut self.topics[place.topic];
        let (kind, count) = (topic.kind.clone(), topic.partitions.len());
        let may_skip = topic.has_untold;
        let Some(partition) = topic.partitions.get_mut(place.partition as usize) else {
            return Err(format!(
                "{here} went to partition {} of {count}",
                place.partition
            ));
        };
        if place.offset != partition.end && !(may_skip && place.offset > partition.end) {
            return Err(format!(
                "{here} got offset {}, but the log ends at {}",
                place.offset, partition.end
            ));
        }
        if kind != "live" && place.write == 0 {
            return Err(format!("{here} has a receipt, but the batch has no write"));
        }
        if let Some(key) = &draft.key {
            let known = topic.keys.entry(key.clone()).or_insert(place.partition);
            if *known != place.partition {
                return Err(format!(
                    "{here}: key \"{key}\" moved from partition {known} to {}",
                    place.partition
                ));
            }
        }
        let offset = place.offset;
        partition.end = offset + 1;
        partition.offsets.entry(offset).or_default().push(message);
        self.by_sequence.entry(sequence).or_default().push(message);
        self.fresh.push(message);
        self.places[message].push(place);
        Ok(())
    }

    /// Whether a reader may pass over a message without a word: it expired, a newer one of its key took its place,
    /// or its topic is gone.
    pub(super) fn is_excused(&self, message: usize, now: u64) -> bool {
        self.newest(message)
            .is_none_or(|place| self.is_excused_at(message, place, now))
    }

    /// The same at one of its places.
    pub(super) fn is_excused_at(&self, message: usize, place: &Place, now: u64) -> bool {
        let topic = &self.topics[place.topic];
        if topic.deleted || place.expires_at.is_some_and(|at| at <= now) {
            return true;
        }
        topic.kind == "compacted" && self.is_superseded(message, place)
    }

    fn is_superseded(&self, message: usize, place: &Place) -> bool {
        let partition = &self.topics[place.topic].partitions[place.partition as usize];
        let key = &self.drafts[message].key;
        let later = partition.offsets.range(place.offset + 1..);
        later
            .flat_map(|(_, messages)| messages)
            .any(|later| *later != message && self.drafts[*later].key == *key)
    }

    /// Whether what is told about a message is what was published and where it was placed.
    pub(super) fn check_told(&self, message: usize, told: &Told<'_>) -> Check {
        if self.is_untold(message, self.life) {
            return self.check_same(message, told);
        }
        let place = self.place(message)?;
        let topic = &self.topics[place.topic];
        let known = (
            place.partition,
            place.offset,
            place.sequence,
            place.timestamp,
            place.expires_at,
        );
        let said = (
            told.partition,
            told.offset,
            told.sequence,
            told.timestamp,
            told.expires_at,
        );
        if known != said || topic.namespace != told.namespace || topic.name != told.topic {
            return Err(format!(
                "message {message} was placed at {:?} of namespace {} topic \"{}\" (partition, offset, sequence, timestamp, expiry), \
                 but is told at {said:?} of namespace {} topic \"{}\"",
                known, topic.namespace, topic.name, told.namespace, told.topic
            ));
        }
        if self.refused[message] {
            return Err(format!("message {message} was refused, but is delivered"));
        }
        if !self.is_there(message, self.life) {
            return Err(format!(
                "message {message} was lost in a crash, but is told of in a later life"
            ));
        }
        self.check_same(message, told)
    }

    /// Whether what is told about a message is what was published.
    fn check_same(&self, message: usize, told: &Told<'_>) -> Check {
        let draft = &self.drafts[message];
        let headers: Vec<(String, String)> = told
            .headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        if (told.namespace, told.topic) != (draft.namespace, &*draft.topic)
            || told.key != draft.key.as_deref()
            || told.id != draft.id.as_deref()
            || headers != draft.headers
        {
            return Err(format!(
                "message {message} changed its topic, key, id or headers on the way"
            ));
        }
        Ok(())
    }

    /// Notes where a partition begins now, as stored, and whether it was right to delete what is gone.
    pub(super) fn trim(&mut self, topic: usize, partition: u32, start: u64, now: u64) -> Check {
        let model = &self.topics[topic];
        let Some(part) = model.partitions.get(partition as usize) else {
            return Err(format!(
                "topic \"{}\" has a row for partition {partition}, which it does not have",
                model.name
            ));
        };
        let max = if model.kind == "last_value" {
            1
        } else {
            model.max_messages
        };
        let kept_at_least = if max == 0 {
            u64::MAX
        } else {
            max - (max / 16).max(1)
        };
        if start < part.start {
            return Err(format!(
                "topic \"{}\" begins at {start} again, after {}",
                model.name, part.start
            ));
        }
        for offset in part.start..start {
            let Some(place) = self
                .at(topic, partition, offset, self.life)
                .and_then(|message| self.newest(message))
            else {
                continue;
            };
            let by_count = part.end - offset > kept_at_least;
            let by_age =
                model.max_age_ms > 0 && now.saturating_sub(place.timestamp) > model.max_age_ms;
            if !by_count && !by_age && !model.reconfigured {
                return Err(format!(
                    "retention took offset {offset} of topic \"{}\", which ends at {} and keeps {max} messages, {} ms",
                    model.name, part.end, model.max_age_ms
                ));
            }
        }
        self.topics[topic].partitions[partition as usize].start = start;
        Ok(())
    }
}

/// What a delivery or a record says about a message.
pub(super) struct Told<'a> {
    pub(super) namespace: usize,
    pub(super) topic: &'a str,
    pub(super) partition: u32,
    pub(super) offset: u64,
    pub(super) sequence: u64,
    pub(super) timestamp: u64,
    pub(super) expires_at: Option<u64>,
    pub(super) key: Option<&'a str>,
    pub(super) id: Option<&'a str>,
    pub(super) headers: Vec<(&'a str, &'a str)>,
}

impl<'a> Told<'a> {
    /// What a delivery says.
    pub(super) fn by(delivery: &Delivery<'a>, namespace: usize) -> Self {
        Self {
            namespace,
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
        }
    }
}

/// Whether a filter matches a topic: MQTT's rules once more, in the plainest way, to hold the trie against.
pub(super) fn filter_matches(filter: &str, topic: &str) -> bool {
    fn levels(filter: &[&str], topic: &[&str]) -> bool {
        match (filter.first(), topic.first()) {
            (Some(&"#"), _) => true,
            (None, None) => true,
            (Some(&"+"), Some(_)) => levels(&filter[1..], &topic[1..]),
            (Some(wanted), Some(level)) if wanted == level => levels(&filter[1..], &topic[1..]),
            _ => false,
        }
    }
    let (filter, topic): (Vec<&str>, Vec<&str>) =
        (filter.split('/').collect(), topic.split('/').collect());
    levels(&filter, &topic)
}
