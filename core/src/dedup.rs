//! Publishing once: what a topic remembers of messages to which their publishers gave names.
//!
//! A message with an `id` is remembered for the topic's window. One with a producer and its sequence is remembered
//! for as long as the producer is, in a bit (the idempotent producer of Kafka's KIP-98, but for any order within the
//! last [`BEHIND_MAX`]), and its place for the window. What is kept of a name is its digest. The names of one flush
//! are a row, in the order in which they are forgotten, so that rows go from the front, in one range; that is done
//! where somebody looks or writes anyway, by no timer. Of a live topic nothing is stored.
//!
//! Nothing is forgotten within its window, and what is forgotten is never taken for remembered: where memory is full,
//! publishing under further names is refused.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::config::Config;
use crate::context::Context;
use crate::effect::{After, Durability, Op};
use crate::error::{ErrorCode, Refusal};
use crate::hash::{Digest, Map, digest};
use crate::ids::{Offset, Partition, ScheduleId, Sequence, Timestamp, TopicId};
use crate::mutation::Mutation;
use crate::namespace::{Namespace, Topic};
use crate::protocol::frame::Message;
use crate::publish::Placed;
use crate::rows::{Keys, ROW_VERSION};
use crate::topic::Kind;
use crate::wire::{Malformed, Put as _, Reader};

/// How far below its highest sequence a producer may still be.
const BEHIND_MAX: u64 = 1024;
const WORDS: usize = (BEHIND_MAX / 64) as usize;

/// What digests are made of.
const KIND_ID: u64 = 1;
const KIND_PRODUCER: u64 = 2;
const KIND_PRODUCED: u64 = 3;
const KIND_TOPIC: u64 = 4;

/// What one topic remembers.
pub(crate) struct Dedup {
    stored: bool,
    places: Map<Digest, Placed>,
    /// When what was published, oldest first.
    window: VecDeque<(Timestamp, Digest)>,
    /// The rows that the window is stored in, oldest first: their numbers, and how many names of each are left.
    rows: VecDeque<(u64, u64)>,
    next_row: u64,
    /// The rows below are deleted, or were never written.
    deleted_to: u64,
    /// The last of `rows`, while it grows, and those that are full; none of them is written.
    open: Vec<u8>,
    open_at: Timestamp,
    closed: Vec<(u64, Vec<u8>)>,
    producers: Map<Digest, Producer>,
    /// The producers whose rows must be written or deleted.
    touched: Vec<Digest>,
    /// When the first of the window is to be forgotten, as the namespace has it listed.
    listed: Option<Timestamp>,
    dirty: bool,
}

/// Which sequences of a producer were published: the highest, those of the [`BEHIND_MAX`] below it whose bits are set,
/// and perhaps older ones.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    highest: u64,
    /// The bit of a sequence is that of its remainder.
    published: [u64; WORDS],
    used_at: Timestamp,
    touched: bool,
}

/// What is known of a message that is about to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recalled {
    /// What its place is remembered under.
    name: Option<Digest>,
    producer: Option<(Digest, u64)>,
    pub(crate) known: Known,
}

/// Whether a message was published before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It was not, or has no name.
    New,
    /// It was, there.
    Published(Placed),
    /// It is the same as this one of its batch.
    Repeated(u32),
}

/// What the messages looked at so far will add.
#[derive(Default)]
struct Added {
    name_count: u64,
    producer_count: u64,
}

/// The names and producers of the earlier messages of a batch, each mixed with the topic's.
struct Earlier {
    names: Map<Digest, u32>,
    producers: Map<Digest, u32>,
    states: Vec<Producer>,
}

impl Recalled {
    /// What is known of a message without a name.
    pub(crate) const NAMELESS: Self = Self {
        name: None,
        producer: None,
        known: Known::New,
    };
}

impl Namespace {
    /// Finds out which messages were published before, for [`Context::recalled`], which stays empty if none has a
    /// name. Refuses what cannot be known any more or cannot be remembered.
    pub(crate) fn recall(
        &mut self,
        cx: &mut Context,
        messages: &[Message<'_>],
    ) -> Result<(), Refusal> {
        cx.recalled.clear();
        let is_named = |message: &Message<'_>| message.id.is_some() || message.producer.is_some();
        if !messages.iter().any(is_named) {
            return Ok(());
        }
        let now = self.time(cx);
        let mut added = Added::default();
        let mut earlier = (messages.len() > 1).then(|| Earlier {
            names: Map::with_seed_of(&self.topic_index),
            producers: Map::with_seed_of(&self.topic_index),
            states: Vec::new(),
        });
        for (message, index) in messages.iter().zip(0..) {
            let recalled = self.recall_one(cx, now, message, index, &mut added, &mut earlier)?;
            cx.recalled.push(recalled);
        }
        self.check_memory(cx, now, &added)
    }

    fn recall_one(
        &mut self,
        cx: &Context,
        now: Timestamp,
        message: &Message<'_>,
        index: u32,
        added: &mut Added,
        earlier: &mut Option<Earlier>,
    ) -> Result<Recalled, Refusal> {
        let topic = cx.found_topics[index as usize];
        let config = topic.map_or(&cx.config.topic_default, |topic| {
            &self.topics[topic as usize].config
        });
        let has_window = config.dedup_ms > 0;
        let (name, producer) = match (message.producer.zip(message.producer_sequence), message.id) {
            (Some((producer, sequence)), _) => {
                let producer = digest(KIND_PRODUCER, producer.as_bytes());
                (produced(producer, sequence), Some((producer, sequence)))
            }
            (None, Some(id)) if has_window => (digest(KIND_ID, id.as_bytes()), None),
            (None, _) => return Ok(Recalled::NAMELESS),
        };
        let mut recalled = Recalled {
            name: has_window.then_some(name),
            producer,
            known: Known::New,
        };
        if let Some(topic) = topic {
            self.expire_window(topic, now);
        }
        let in_topic = match earlier {
            Some(_) => digest(KIND_TOPIC, message.topic.as_bytes()),
            None => (0, 0),
        };
        let mixed = |digest: Digest| (digest.0 ^ in_topic.0, digest.1 ^ in_topic.1);
        let dedup = topic.and_then(|topic| self.topics[topic as usize].dedup.as_deref());
        if let Some(earlier) = earlier
            && let Some(index) = earlier.names.get(&mixed(name))
            && !Mutation::RepeatedInBatch.is_active()
        {
            recalled.known = Known::Repeated(*index);
            return Ok(recalled);
        }
        if let Some(place) = dedup.and_then(|dedup| dedup.places.get(&name)) {
            recalled.known = Known::Published(*place);
            return Ok(recalled);
        }
        if let Some((digest, sequence)) = producer {
            let changed = earlier.as_ref().and_then(|earlier| {
                let state = earlier.producers.get(&mixed(digest))?;
                Some(&earlier.states[*state as usize])
            });
            let known = changed.or_else(|| dedup?.producers.get(&digest));
            added.producer_count += u64::from(known.is_none());
            match known.map_or(Ok(false), |producer| producer.has(sequence)) {
                Ok(true) => {
                    recalled.known = Known::Published(Placed::Unknown);
                    return Ok(recalled);
                }
                Ok(false) => {
                    let known = earlier.as_ref().and(known).cloned();
                    if let Some(earlier) = earlier {
                        let mut producer = known.unwrap_or_else(|| Producer::new(sequence, now));
                        producer.add(sequence);
                        let state = earlier.states.len() as u32;
                        earlier.producers.insert(mixed(digest), state);
                        earlier.states.push(producer);
                    }
                }
                Err(highest) => {
                    let name = message.producer.unwrap_or_default();
                    let message = format!(
                        "sequence {sequence} of producer \"{name}\" lies more than {BEHIND_MAX} below its highest, {highest}: nobody knows any more whether it was published"
                    );
                    return Err(Refusal::new(ErrorCode::InvalidArgument, message));
                }
            }
        }
        added.name_count += u64::from(has_window);
        if let Some(earlier) = earlier {
            earlier.names.insert(mixed(name), index);
        }
        Ok(recalled)
    }

    /// Refuses names for which there is no room, once what is over is forgotten.
    fn check_memory(
        &mut self,
        cx: &mut Context,
        now: Timestamp,
        added: &Added,
    ) -> Result<(), Refusal> {
        let (names_max, producers_max) = (cx.config.dedup_entries_max, cx.config.producers_max);
        let fits = |namespace: &Self| {
            namespace.dedup_entries + added.name_count <= names_max
                && namespace.producers + added.producer_count <= producers_max
        };
        if fits(self) {
            return Ok(());
        }
        self.expire_dedups(&cx.config, now);
        if fits(self) {
            return Ok(());
        }
        let first = self.dedup_due.first().map_or(now, |(due, ..)| *due);
        let (count, what) = if self.dedup_entries + added.name_count > names_max {
            (
                self.dedup_entries,
                "messages are remembered (dedup_entries_max)",
            )
        } else {
            (self.producers, "producers are remembered (producers_max)")
        };
        Err(Refusal {
            retry_after_ms: Some(first.since_ms(now).max(1)),
            ..Refusal::new(
                ErrorCode::DedupWindowFull,
                format!("{count} {what}, and none of them may be forgotten yet"),
            )
        })
    }

    /// Remembers a message that was not published before.
    pub(crate) fn remember(
        &mut self,
        cx: &mut Context,
        topic: u32,
        recalled: Recalled,
        place: Placed,
    ) {
        if recalled == Recalled::NAMELESS {
            return;
        }
        let now = self.time(cx);
        let dedup = self.topics[topic as usize].dedup(&self.topic_index);
        if let Some(name) = recalled.name {
            dedup.remember(name, place, now, cx.config.row_bytes_max);
            self.dedup_entries += 1;
        }
        if let Some((producer, sequence)) = recalled.producer
            && dedup.produce(producer, sequence, now)
        {
            self.producers += 1;
            let due = now.after_ms(cx.config.producer_ttl_ms);
            self.dedup_due.insert((due, topic, Some(producer)));
        }
        self.relist_window(topic);
        self.touch_dedup(topic);
        if self.topics[topic as usize].config.kind != Kind::Live {
            self.list(cx);
        }
    }

    /// What the receipt of a duplicate waits for: at least what that of the first waited for, and what is asked now.
    pub(crate) fn repeat(
        &mut self,
        cx: &mut Context,
        topic: u32,
        place: Placed,
        asked: Durability,
    ) -> After {
        let topic = &self.topics[topic as usize];
        let durability = topic.config.durability.max(asked);
        if let Placed::Scheduled(_) = place {
            let waited = self.schedule.after;
            return waited.and(self.after_all(cx, durability));
        }
        if topic.config.kind == Kind::Live {
            return After::default();
        }
        // What the deliveries of a partition wait for covers all its receipts.
        let partitions = (0..).map(Partition).zip(&topic.partitions);
        let waited = partitions
            .filter(|(partition, _)| place.partition().is_none_or(|only| only == *partition))
            .fold(After::default(), |after, (_, state)| {
                after.and(state.log.after)
            });
        waited.and(self.after_all(cx, durability))
    }

    /// Notes that a topic's names have something to write.
    fn touch_dedup(&mut self, topic: u32) {
        let dedup = &mut self.topics[topic as usize].dedup;
        if let Some(dedup) = dedup
            && dedup.stored
            && !core::mem::replace(&mut dedup.dirty, true)
        {
            self.dirty_dedups.push(topic);
        }
    }

    /// Notes when the first of a topic's window is to be forgotten.
    pub(crate) fn relist_window(&mut self, topic: u32) {
        let state = &mut self.topics[topic as usize];
        let Some(dedup) = &mut state.dedup else {
            return;
        };
        let first = dedup.window.front();
        let due = first.map(|(at, _)| at.after_ms(state.config.dedup_ms));
        if due == dedup.listed {
            return;
        }
        if let Some(listed) = core::mem::replace(&mut dedup.listed, due) {
            self.dedup_due.remove(&(listed, topic, None));
        }
        if let Some(due) = due {
            self.dedup_due.insert((due, topic, None));
        }
    }

    /// Forgets what a topic's window is over for.
    fn expire_window(&mut self, topic: u32, now: Timestamp) {
        let state = &mut self.topics[topic as usize];
        let Some(dedup) = &mut state.dedup else {
            return;
        };
        if dedup.listed.is_none_or(|due| due > now) {
            return;
        }
        self.dedup_entries -= dedup.expire(state.config.dedup_ms, now);
        self.relist_window(topic);
        self.touch_dedup(topic);
        self.drop_if_empty(topic);
    }

    /// Forgets a producer that has published nothing for too long.
    fn expire_producer(&mut self, config: &Config, topic: u32, producer: Digest, now: Timestamp) {
        let dedup = self.topics[topic as usize].dedup.as_mut();
        let dedup = dedup.expect("what is listed is there");
        let known = dedup.producers.get(&producer);
        let known = known.expect("what is listed is there");
        let due = known.used_at.after_ms(config.producer_ttl_ms);
        if due > now {
            self.dedup_due.insert((due, topic, Some(producer)));
            return;
        }
        dedup.touch(producer);
        dedup.producers.remove(&producer);
        self.producers -= 1;
        self.touch_dedup(topic);
        self.drop_if_empty(topic);
    }

    fn drop_if_empty(&mut self, topic: u32) {
        let dedup = &mut self.topics[topic as usize].dedup;
        if dedup.as_ref().is_some_and(|dedup| dedup.is_empty()) {
            *dedup = None;
        }
    }

    /// Forgets what is over everywhere.
    fn expire_dedups(&mut self, config: &Config, now: Timestamp) {
        while let Some((due, topic, producer)) = self.dedup_due.first().copied()
            && due <= now
        {
            match producer {
                None => self.expire_window(topic, now),
                Some(producer) => {
                    self.dedup_due.pop_first();
                    self.expire_producer(config, topic, producer, now);
                }
            }
        }
    }

    /// Forgets all that a topic which is deleted remembers.
    pub(crate) fn delete_dedup(&mut self, topic: u32, dedup: Option<&Dedup>) {
        let Some(dedup) = dedup else {
            return;
        };
        self.dedup_entries -= dedup.window.len() as u64;
        self.producers -= dedup.producers.len() as u64;
        self.dedup_due.retain(|(_, other, _)| *other != topic);
        self.dirty_dedups.retain(|other| *other != topic);
    }

    /// Appends the operations that store what changed.
    pub(crate) fn flush_dedups(&mut self, cx: &mut Context) {
        let now = self.time(cx);
        self.expire_dedups(&cx.config, now);
        for topic in core::mem::take(&mut self.dirty_dedups) {
            let state = &mut self.topics[topic as usize];
            if let Some(dedup) = &mut state.dedup {
                dedup.flush(&self.keys, state.id, &mut cx.ops);
            }
            self.drop_if_empty(topic);
        }
    }

    #[cfg(any(test, feature = "check"))]
    pub(crate) fn check_dedups(&self) {
        let (mut names, mut producers, mut listed) = (0, 0, 0);
        for (_, topic) in &self.topics {
            let Some(dedup) = &topic.dedup else {
                continue;
            };
            let in_window = dedup.window.len();
            assert_eq!(dedup.places.len(), in_window, "names have places");
            let in_rows: u64 = dedup.rows.iter().map(|(_, left)| *left).sum();
            assert_eq!(in_rows, if dedup.stored { in_window as u64 } else { 0 });
            names += in_window as u64;
            producers += dedup.producers.len() as u64;
            listed += usize::from(dedup.listed.is_some()) + dedup.producers.len();
        }
        assert_eq!((names, producers), (self.dedup_entries, self.producers));
        assert_eq!(
            listed,
            self.dedup_due.len(),
            "what is to be forgotten is listed"
        );
    }

    /// Takes a row of names, in the order of their numbers.
    pub(crate) fn restore_dedup(
        &mut self,
        topic: u32,
        number: u64,
        value: &[u8],
    ) -> Result<(), Malformed> {
        let last_sequence = self.last_sequence;
        let state = &mut self.topics[topic as usize];
        let ends: Vec<Offset> = state.partitions.iter().map(|it| it.log.end()).collect();
        let dedup = state.dedup(&self.topic_index);
        let count = dedup.restore(number, value, |place| match place {
            Placed::At {
                partition,
                offset,
                sequence,
            } => {
                let end = ends.get(partition.0 as usize);
                end.is_some_and(|end| offset < *end) && sequence <= last_sequence
            }
            Placed::Scheduled(id) => id.0 <= last_sequence.0,
            Placed::Unknown => false,
        })?;
        self.dedup_entries += count;
        self.relist_window(topic);
        Ok(())
    }

    /// Takes a producer's row.
    pub(crate) fn restore_producer(
        &mut self,
        config: &Config,
        topic: u32,
        producer: Digest,
        value: &[u8],
    ) -> Result<(), Malformed> {
        let restored = Producer::take(value)?;
        let dedup = self.topics[topic as usize].dedup(&self.topic_index);
        let due = restored.used_at.after_ms(config.producer_ttl_ms);
        self.dedup_due.insert((due, topic, Some(producer)));
        dedup.producers.insert(producer, restored);
        self.producers += 1;
        Ok(())
    }
}

/// What a producer's message is remembered under.
fn produced(producer: Digest, sequence: u64) -> Digest {
    let mut bytes = [0; 24];
    for (word, value) in bytes
        .chunks_exact_mut(8)
        .zip([producer.0, producer.1, sequence])
    {
        word.copy_from_slice(&value.to_le_bytes());
    }
    digest(KIND_PRODUCED, &bytes)
}

impl Topic {
    /// What it remembers, to be added to; `seeded` is any map of the namespace.
    fn dedup(&mut self, seeded: &Map<Arc<str>, u32>) -> &mut Dedup {
        let stored = self.config.kind != Kind::Live;
        self.dedup
            .get_or_insert_with(|| Dedup::new(stored, seeded).into())
    }
}

impl Dedup {
    fn new(stored: bool, seeded: &Map<Arc<str>, u32>) -> Self {
        Self {
            stored,
            places: Map::with_seed_of(seeded),
            window: VecDeque::new(),
            rows: VecDeque::new(),
            next_row: 0,
            deleted_to: 0,
            open: Vec::new(),
            open_at: Timestamp(0),
            closed: Vec::new(),
            producers: Map::with_seed_of(seeded),
            touched: Vec::new(),
            listed: None,
            dirty: false,
        }
    }

    fn is_empty(&self) -> bool {
        self.window.is_empty() && self.producers.len() == 0 && !self.dirty
    }

    /// Forgets what the window is over for; how many names.
    fn expire(&mut self, window_ms: u64, now: Timestamp) -> u64 {
        let before = self.window.len();
        let window_ms = if Mutation::NameForgottenEarly.is_active() {
            window_ms / 2
        } else {
            window_ms
        };
        while let Some((at, name)) = self.window.front()
            && at.after_ms(window_ms) <= now
        {
            self.places.remove(name);
            self.window.pop_front();
            if let Some((_, left)) = self.rows.front_mut() {
                *left -= 1;
                if *left == 0 {
                    self.rows.pop_front();
                }
            }
        }
        (before - self.window.len()) as u64
    }

    /// Remembers a name, in a row of about so many bytes at most.
    fn remember(&mut self, name: Digest, place: Placed, now: Timestamp, row_bytes_max: u64) {
        // The clock of a host may go back over a restart; what was remembered first is forgotten first all the same.
        let at = self.window.back().map_or(now, |(last, _)| now.max(*last));
        self.places.insert(name, place);
        self.window.push_back((at, name));
        if !self.stored {
            return;
        }
        if self.open.is_empty() {
            self.open.put_u64(ROW_VERSION);
            self.open_at = Timestamp(0);
            self.rows.push_back((self.next_row, 0));
            self.next_row += 1;
        }
        put_name(name, at.since_ms(self.open_at), place, &mut self.open);
        self.open_at = at;
        if let Some((_, left)) = self.rows.back_mut() {
            *left += 1;
        }
        if self.open.len() as u64 >= row_bytes_max {
            self.close_row();
        }
    }

    fn close_row(&mut self) {
        if !self.open.is_empty() {
            let row = core::mem::take(&mut self.open);
            self.closed.push((self.next_row - 1, row));
        }
    }

    /// Notes what a producer published; whether the producer was not known.
    fn produce(&mut self, producer: Digest, sequence: u64, now: Timestamp) -> bool {
        let known = self.producers.get_mut(&producer);
        let is_new = known.is_none();
        match known {
            Some(known) => {
                known.add(sequence);
                known.used_at = now;
            }
            None => {
                self.producers
                    .insert(producer, Producer::new(sequence, now));
            }
        }
        self.touch(producer);
        is_new
    }

    /// Notes that a producer's row must be written or deleted.
    fn touch(&mut self, producer: Digest) {
        if self.stored
            && let Some(known) = self.producers.get_mut(&producer)
            && !core::mem::replace(&mut known.touched, true)
        {
            self.touched.push(producer);
        }
    }

    fn flush(&mut self, keys: &Keys, topic: TopicId, ops: &mut Vec<Op>) {
        self.dirty = false;
        self.close_row();
        let first = self.rows.front().map_or(self.next_row, |row| row.0);
        if self.deleted_to < first {
            ops.push(Op::DeleteRange {
                from: keys.dedup(topic, self.deleted_to),
                to: keys.dedup(topic, first),
            });
            self.deleted_to = first;
        }
        for (number, value) in self.closed.drain(..) {
            if number >= first && !Mutation::NamesNotStored.is_active() {
                let key = keys.dedup(topic, number);
                ops.push(Op::Put { key, value });
            }
        }
        if Mutation::ProducersNotStored.is_active() {
            self.touched.clear();
        }
        for digest in self.touched.drain(..) {
            let key = keys.producer(topic, digest);
            ops.push(match self.producers.get_mut(&digest) {
                Some(producer) => {
                    producer.touched = false;
                    let value = producer.row();
                    Op::Put { key, value }
                }
                None => Op::Delete { key },
            });
        }
    }

    fn restore(
        &mut self,
        number: u64,
        value: &[u8],
        is_place: impl Fn(Placed) -> bool,
    ) -> Result<u64, Malformed> {
        let mut reader = Reader::new(value);
        if reader.u64()? != ROW_VERSION || number >= 1 << 53 {
            return Err(Malformed);
        }
        let before = self.window.len();
        let mut at = Timestamp(0);
        while !reader.is_empty() {
            let (name, later_ms, place) = take_name(&mut reader)?;
            at = Timestamp(at.0.checked_add(later_ms).ok_or(Malformed)?);
            let falls = self.window.back().is_some_and(|(last, _)| *last > at);
            if falls || !is_place(place) || self.places.insert(name, place).is_some() {
                return Err(Malformed);
            }
            self.window.push_back((at, name));
        }
        let count = (self.window.len() - before) as u64;
        if count == 0 {
            return Err(Malformed);
        }
        if self.rows.is_empty() {
            self.deleted_to = number;
        }
        self.rows.push_back((number, count));
        self.next_row = number + 1;
        Ok(count)
    }
}

fn put_name(name: Digest, later_ms: u64, place: Placed, out: &mut Vec<u8>) {
    out.extend_from_slice(&name.0.to_be_bytes());
    out.extend_from_slice(&name.1.to_be_bytes());
    out.put_u64(later_ms);
    // What was scheduled has partition 0 where others have one more, and its number for a sequence.
    let (partition, offset, sequence) = match place {
        Placed::At {
            partition,
            offset,
            sequence,
        } => (u64::from(partition.0) + 1, offset.0, sequence.0),
        Placed::Scheduled(id) => (0, 0, id.0),
        Placed::Unknown => unreachable!("only what was placed is remembered"),
    };
    for value in [partition, offset, sequence] {
        out.put_u64(value);
    }
}

fn take_name(reader: &mut Reader<'_>) -> Result<(Digest, u64, Placed), Malformed> {
    let name = (take_word(reader)?, take_word(reader)?);
    let later_ms = reader.u64()?;
    let partition = reader.u32()?;
    let (offset, sequence) = (reader.counted()?, reader.counted()?);
    let place = match partition.checked_sub(1) {
        Some(partition) => Placed::At {
            partition: Partition(partition),
            offset: Offset(offset),
            sequence: Sequence(sequence),
        },
        None if offset == 0 && sequence > 0 => Placed::Scheduled(ScheduleId(sequence)),
        None => return Err(Malformed),
    };
    Ok((name, later_ms, place))
}

fn take_word(reader: &mut Reader<'_>) -> Result<u64, Malformed> {
    let bytes = reader.take(8)?;
    Ok(bytes
        .iter()
        .fold(0, |word, byte| word << 8 | u64::from(*byte)))
}

impl Producer {
    const fn new(sequence: u64, now: Timestamp) -> Self {
        Self {
            highest: sequence,
            published: [0; WORDS],
            used_at: now,
            touched: false,
        }
    }

    /// Whether this sequence was published; the highest one, if nobody knows.
    fn has(&self, sequence: u64) -> Result<bool, u64> {
        match self.highest.checked_sub(sequence) {
            None => Ok(false),
            Some(0) => Ok(true),
            Some(below) if below > BEHIND_MAX => Err(self.highest),
            Some(_) if Mutation::LowSequenceRefused.is_active() => Err(self.highest),
            Some(_) => {
                let (word, bit) = place_of(sequence);
                Ok(self.published[word] & bit != 0)
            }
        }
    }

    /// Notes that a sequence was published about which [`Producer::has`] knows.
    fn add(&mut self, sequence: u64) {
        if sequence <= self.highest {
            if sequence < self.highest {
                let (word, bit) = place_of(sequence);
                self.published[word] |= bit;
            }
            return;
        }
        let (word, bit) = place_of(self.highest);
        self.published[word] |= bit;
        for between in (self.highest + 1).max(sequence.saturating_sub(BEHIND_MAX))..sequence {
            let (word, bit) = place_of(between);
            self.published[word] &= !bit;
        }
        self.highest = sequence;
    }

    fn row(&self) -> Vec<u8> {
        let mut row = Vec::new();
        row.put_u64(ROW_VERSION);
        row.put_u64(self.used_at.0);
        row.put_u64(self.highest);
        // Most publish in order, and then all bits are the same.
        let is_full = self.published.iter().all(|word| *word == u64::MAX);
        let rest = if is_full { &[] } else { &self.published[..] };
        for word in rest {
            row.extend_from_slice(&word.to_be_bytes());
        }
        row
    }

    fn take(row: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(row);
        if reader.u64()? != ROW_VERSION {
            return Err(Malformed);
        }
        let mut producer = Self {
            used_at: Timestamp(reader.u64()?),
            highest: reader.u64()?,
            published: [u64::MAX; WORDS],
            touched: false,
        };
        if !reader.is_empty() {
            for word in &mut producer.published {
                *word = take_word(&mut reader)?;
            }
        }
        reader.end()?;
        Ok(producer)
    }
}

/// Where the bit of a sequence is.
const fn place_of(sequence: u64) -> (usize, u64) {
    let bit = sequence % BEHIND_MAX;
    ((bit / 64) as usize, 1 << (bit % 64))
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_producer_is_known_by_every_sequence_of_the_last_1024() {
        let mut producer = Producer::new(5, Timestamp(0));
        for (sequence, expected) in [
            (5, Ok(true)),
            (4, Ok(false)),
            (0, Ok(false)),
            (6, Ok(false)),
        ] {
            assert_eq!(producer.has(sequence), expected, "{sequence}");
        }
        producer.add(1029);
        assert_eq!(producer.has(5), Ok(true), "1024 below the highest");
        assert_eq!(producer.has(4), Err(1029), "1025 below the highest");
        assert_eq!(producer.has(6), Ok(false));
        producer.add(1030);
        assert_eq!(producer.has(5), Err(1030));
        assert_eq!(producer.has(6), Ok(false), "its bit was that of 1030");
        assert_eq!(producer.has(1029), Ok(true));
        for far in [1030 + 1024, 1030 + 5000, u64::MAX] {
            let mut producer = producer.clone();
            producer.add(far);
            let below = (far - BEHIND_MAX..far).filter(|it| producer.has(*it) == Ok(true));
            assert_eq!(
                below.collect::<Vec<_>>(),
                if far == 2054 { &[1030][..] } else { &[] }
            );
        }
    }

    #[test]
    fn whatever_the_order_every_sequence_is_new_once() {
        let mut producer = Producer::new(10_000, Timestamp(0));
        let mut published = BTreeSet::from([10_000_u64]);
        let mut random = 7_u64;
        for _ in 0..20_000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let highest = *published.last().expect("there is one");
            let sequence = highest + (random >> 40) % 40 - 30 * ((random >> 20) & 1) - 1;
            let expected = match highest.checked_sub(sequence) {
                Some(below) if below > BEHIND_MAX => Err(highest),
                _ => Ok(published.contains(&sequence)),
            };
            assert_eq!(producer.has(sequence), expected, "{sequence} of {highest}");
            if expected == Ok(false) {
                producer.add(sequence);
                published.insert(sequence);
            }
        }
        assert_eq!(Producer::take(&producer.row()), Ok(producer));
    }

    #[test]
    fn the_digests_that_are_stored_do_not_change() {
        assert_eq!(
            digest(KIND_ID, b"a"),
            (0x0b50_7c7a_858d_4c7b, 0x531a_aeb9_c96f_2ead)
        );
        let producer = digest(KIND_PRODUCER, b"p");
        assert_ne!(produced(producer, 1), produced(producer, 2));
        assert_ne!(digest(KIND_ID, b"p"), producer);
    }
}
