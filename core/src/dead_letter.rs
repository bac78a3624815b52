//! Dead letters: what a queue gave up is kept in a topic of the broker's own, `$dead/GROUP`, from where it can be
//! read, delivered to the group again, or deleted.
//!
//! A dead letter is the message as it was, with headers that say where it came from and how it died. The group reads
//! the topic like its others, but only what is replayed is dealt out; what a member then acknowledges is done, and a
//! dead letter that nobody takes stays one.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use crate::context::Context;
use crate::effect::{Durability, Event};
use crate::error::{ErrorCode, Refusal};
use crate::group::{GroupLog, place_in};
use crate::ids::{Offset, Partition};
use crate::namespace::Namespace;
use crate::priority::Turn;
use crate::protocol::field::{Headers, Item as _, List};
use crate::protocol::frame::{
    Affected, DeadOffset, DeleteDeadLetters, Message, Record, ReplayDeadLetters, Reply,
};
use crate::publish;
use crate::queue::{Pending, State};
use crate::subscription::From;
use crate::topic::{Kind, Ordering, Retention, TopicConfig};
use crate::wire::Reader;

/// The topics of dead letters begin with this.
pub(crate) const DEAD_PREFIX: &str = "$dead/";

/// The headers of a dead letter begin with this; a message's own that do are left out.
const HEADER_PREFIX: &str = "dunlin-dead-";
const HEADER_REASON: &str = "dunlin-dead-reason";
const HEADER_NOTE: &str = "dunlin-dead-note";
const HEADER_TOPIC: &str = "dunlin-dead-topic";
const HEADER_PARTITION: &str = "dunlin-dead-partition";
const HEADER_OFFSET: &str = "dunlin-dead-offset";
const HEADER_SEQUENCE: &str = "dunlin-dead-sequence";
const HEADER_TIMESTAMP: &str = "dunlin-dead-timestamp";
const HEADER_ATTEMPTS: &str = "dunlin-dead-attempts";

/// Why a message was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It was delivered as often as it may be.
    MaxDeliveryAttempts,
    /// A member did not want it, and perhaps said why.
    Rejected(Option<Box<str>>),
}

const MAX_DELIVERY_ATTEMPTS: &str = "max_delivery_attempts";
const REJECTED: &str = "rejected";

impl Reason {
    const fn as_str(&self) -> &'static str {
        match self {
            Self::MaxDeliveryAttempts => MAX_DELIVERY_ATTEMPTS,
            Self::Rejected(_) => REJECTED,
        }
    }
}

/// Refuses what nothing is given up for.
pub(crate) fn check_reason(word: &str) -> Result<(), Refusal> {
    if [MAX_DELIVERY_ATTEMPTS, REJECTED].contains(&word) {
        return Ok(());
    }
    let words = format!("{MAX_DELIVERY_ATTEMPTS} or {REJECTED}");
    Err(Refusal::wrong_word("reason", word, &words))
}

/// Where a dead letter came from, as its headers say.
pub(crate) struct Origin<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: Partition,
    offset: u64,
    sequence: u64,
    timestamp: u64,
}

impl<'a> Origin<'a> {
    /// Reads the headers; `None` if they are not those of a dead letter.
    pub(crate) fn of(record: &Record<'a>) -> Option<Self> {
        let headers = record.headers?;
        let value = |wanted| {
            let mut pairs = headers.iter();
            pairs.find_map(|(name, value)| (name == wanted).then_some(value))
        };
        let number = |wanted| value(wanted)?.parse().ok();
        Some(Self {
            topic: value(HEADER_TOPIC)?,
            partition: Partition(value(HEADER_PARTITION)?.parse().ok()?),
            offset: number(HEADER_OFFSET)?,
            sequence: number(HEADER_SEQUENCE)?,
            timestamp: number(HEADER_TIMESTAMP)?,
        })
    }

    /// The record as a member is to see it: in its old place, with the headers that tell of its death.
    pub(crate) fn revive(&self, dead: &Record<'_>) -> Vec<u8> {
        let mut spelt = Vec::new();
        Record {
            offset: self.offset,
            sequence: self.sequence,
            timestamp: self.timestamp,
            ..*dead
        }
        .put_fields(&mut spelt);
        spelt
    }
}

/// Whether a dead letter came from a topic that `filter` matches and died of `reason`.
pub(crate) fn is_wanted(record: &Record<'_>, filter: Option<&str>, reason: Option<&str>) -> bool {
    let headers = record.headers.unwrap_or_default();
    let value = |wanted: &str| {
        let mut pairs = headers.iter();
        pairs.find_map(|(name, value)| (name == wanted).then_some(value))
    };
    filter.is_none_or(|filter| {
        value(HEADER_TOPIC).is_some_and(|topic| crate::topic::matches(filter, topic))
    }) && reason.is_none_or(|reason| value(HEADER_REASON) == Some(reason))
}

impl Namespace {
    /// Makes a dead letter of a message that was given up. One that is a dead letter already stays what it was.
    pub(crate) fn bury(
        &mut self,
        cx: &mut Context,
        index: u32,
        log: u32,
        offset: Offset,
        record: &[u8],
    ) {
        let group = &mut self.groups[index as usize];
        let entry = &mut group.logs[log as usize];
        if group.dead == Some(log) {
            entry.pending.remove(&offset);
            entry.done.touch(offset);
            return self.touch_group_log(cx, index, log);
        }
        let parsed = Record::take_fields(&mut Reader::new(record)).ok();
        let pending = entry.pending.get(&offset);
        if let (Some(record), Some(pending)) = (parsed, pending)
            && let State::Dying(reason) = &pending.state
        {
            let numbers = [
                (HEADER_PARTITION, u64::from(entry.partition.0)),
                (HEADER_OFFSET, record.offset),
                (HEADER_SEQUENCE, record.sequence),
                (HEADER_TIMESTAMP, record.timestamp),
                (HEADER_ATTEMPTS, u64::from(pending.attempts)),
            ]
            .map(|(name, value)| (name, value.to_string()));
            let from = &self.topics[entry.topic as usize];
            let durability = from.config.durability;
            let note = match reason {
                Reason::Rejected(Some(note)) => Some((HEADER_NOTE, &**note)),
                _ => None,
            };
            let own = record.headers.unwrap_or_default();
            let own = own
                .iter()
                .filter(|(name, _)| !name.starts_with(HEADER_PREFIX));
            let told = [
                (HEADER_REASON, reason.as_str()),
                (HEADER_TOPIC, &*from.name),
            ];
            let numbers = numbers.iter().map(|(name, value)| (*name, &**value));
            let headers = Headers::encode(own.chain(told).chain(note).chain(numbers));
            let name = format!("{DEAD_PREFIX}{}", group.name);
            let topic = self.dead_topic(cx, index, &name);
            cx.counters.dead_letters += 1;
            let message = Message {
                topic: &name,
                payload: record.payload,
                key: record.key,
                content_type: record.content_type,
                headers: Headers::parse(&headers).ok(),
                id: record.id,
                ttl_ms: None,
                producer: None,
                producer_sequence: None,
                priority: record.priority,
                delay_ms: None,
                deliver_at: None,
            };
            let level = publish::Origin {
                asked: durability,
                ..publish::Origin::default()
            };
            self.append(cx, topic, &message, level);
            self.alert(cx, index);
        }
        self.finish(cx, index, log, offset);
    }

    /// Makes sure that a group has a topic for its dead letters.
    fn dead_topic(&mut self, cx: &mut Context, index: u32, name: &str) -> u32 {
        let group = &self.groups[index as usize];
        if let Some(dead) = group.dead {
            return group.logs[dead as usize].topic;
        }
        let topic = self.topic_by_name(name).unwrap_or_else(|| {
            let config = TopicConfig {
                kind: Kind::Log,
                ordering: Ordering::PerTopic,
                durability: Durability::Async,
                partitions: 1,
                retention: Retention {
                    max_messages: cx.config.dead_letters_max,
                    max_bytes: 0,
                    max_age_ms: cx.config.dead_letter_ms,
                },
                dedup_ms: 0,
            };
            self.create_topic(cx, name, config)
        });
        let state = &self.topics[topic as usize];
        let floor = place_in(&state.partitions[0].log, From::Earliest);
        let entry = GroupLog::new(topic, state, Partition(0), floor);
        let group = &mut self.groups[index as usize];
        let log = group.logs.insert(entry) as u32;
        group.dead = Some(log);
        self.topics[topic as usize]
            .readers
            .push((index, [log].into()));
        self.touch_group_log(cx, index, log);
        topic
    }

    /// Tells once when there are as many dead letters as the group's configuration wants to hear of.
    fn alert(&mut self, cx: &mut Context, index: u32) {
        let group = &mut self.groups[index as usize];
        let alert = group.config.dead_letters_alert;
        let are_many = alert > 0 && group.dead_letters(&self.topics) >= alert;
        if are_many && !group.alerted {
            cx.outbox.notify(Event::DeadLettersAlert {
                namespace: self.name.clone(),
                group: String::from(&*group.name),
            });
        }
        group.alerted = are_many;
    }

    /// Delivers dead letters to their group again.
    pub(crate) fn replay_dead_letters(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &ReplayDeadLetters<'_>,
    ) -> Result<(), Refusal> {
        if command.rate == Some(0) {
            let message = "\"rate\" must be at least 1 message a second";
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
        let (index, offsets) = self.dead_offsets(cx, connection, command.group, command.offsets)?;
        for (nth, offset) in (0_u64..).zip(&offsets) {
            let group = &mut self.groups[index as usize];
            let Some(log) = group.dead else { break };
            let entry = &mut group.logs[log as usize];
            let wait = command.rate.map_or(0, |rate| nth * 1000 / rate);
            let state = if wait == 0 {
                entry.again.insert(Turn::first(*offset));
                State::Ready
            } else {
                let until = cx.now.after_ms(wait);
                group.timers.insert((until, log, *offset));
                State::Waiting { until }
            };
            let pending = Pending {
                attempts: 0,
                state,
                key: None,
                turn: Turn::first(*offset),
            };
            entry.pending.insert(*offset, pending);
            entry.done.touch(*offset);
            group.log_ready(log);
            self.touch_group_log(cx, index, log);
        }
        self.queue_group(cx, index);
        self.reply_affected(cx, connection, command.request, offsets.len());
        Ok(())
    }

    /// Deletes dead letters.
    pub(crate) fn delete_dead_letters(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &DeleteDeadLetters<'_>,
    ) -> Result<(), Refusal> {
        let (index, offsets) = self.dead_offsets(cx, connection, command.group, command.offsets)?;
        for offset in &offsets {
            if let Some(log) = self.groups[index as usize].dead {
                self.finish(cx, index, log, *offset);
            }
        }
        self.alert(cx, index);
        self.reply_affected(cx, connection, command.request, offsets.len());
        Ok(())
    }

    /// The dead letters that a command means: those that it names, or all that nobody has dealt with.
    fn dead_offsets(
        &self,
        cx: &Context,
        connection: u32,
        group: &str,
        named: Option<List<'_, DeadOffset>>,
    ) -> Result<(u32, Vec<Offset>), Refusal> {
        crate::manage::require_manage(cx, connection, "manage dead letters")?;
        let index = self.known_group(group)?;
        cx.require_storage()?;
        let group = &self.groups[index as usize];
        let dead = group.dead.map(|log| {
            let entry = &group.logs[log as usize];
            (entry, &self.topics[entry.topic as usize].partitions[0].log)
        });
        let all = dead.map_or(0..0, |(entry, log)| {
            entry.floor.max(log.start()).0..log.end().0
        });
        let is_dead = |offset: Offset| {
            all.contains(&offset.0)
                && dead.is_some_and(|(entry, _)| {
                    !entry.done.contains(offset) && !entry.pending.contains_key(&offset)
                })
        };
        let Some(named) = named else {
            let offsets = all.clone().map(Offset);
            return Ok((index, offsets.filter(|offset| is_dead(*offset)).collect()));
        };
        let mut offsets = BTreeSet::new();
        for offset in named.iter() {
            let DeadOffset { offset } = offset.map_err(|_| {
                let message = format!("offset {} of the list is malformed", offsets.len());
                Refusal::new(ErrorCode::MalformedFrame, message)
            })?;
            if !is_dead(Offset(offset)) {
                let message = format!(
                    "group \"{}\" has no dead letter {offset}: it was never there, is done, deleted, or being replayed",
                    group.name
                );
                return Err(Refusal::new(ErrorCode::OffsetOutOfRange, message));
            }
            offsets.insert(Offset(offset));
        }
        Ok((index, offsets.into_iter().collect()))
    }

    fn reply_affected(&mut self, cx: &mut Context, connection: u32, request: u64, count: usize) {
        cx.durability = cx.durability.max(Durability::Async);
        let affected = Affected {
            request,
            messages: count as u64,
        };
        let after = self.after_all(cx, Durability::Async);
        cx.reply(connection, after, &Reply::Affected(affected));
    }
}
