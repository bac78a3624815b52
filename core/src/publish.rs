//! The one way to publish: every message, however it came, is checked, placed, stored and delivered here.
//!
//! Checks come first and change nothing, so that a refusal, also of one message of a batch, leaves no trace.

use alloc::format;
use alloc::vec::Vec;

use crate::config::Config;
use crate::context::Context;
use crate::dedup::{Known, Recalled};
use crate::echo::Source;
use crate::effect::{After, Durability, Recipient};
use crate::error::{ErrorCode, Refusal, check_count};
use crate::hash::{Map, partition_of};
use crate::ids::{
    LeaseId, Offset, Partition, ReplyTo, ScheduleId, Sequence, SubscriptionId, Timestamp,
};
use crate::input::{Encoding, Rights};
use crate::limits::Tokens;
use crate::namespace::{LIVE_SEQUENCES_RESERVED, Namespace, Topic};
use crate::priority::PRIORITY_MAX;
use crate::protocol::field::{Headers, Item as _, Layout};
use crate::protocol::frame::{Delivery, Message, Place, Record, put_delivery_prefix};
use crate::protocol::json::{put_json_int, put_json_members, put_json_str};
use crate::routing::Routed;
use crate::schedule::deliver_at;
use crate::subscription::{Behind, OnLag, UNLIMITED};
use crate::topic::{self, Kind, Ordering, TopicConfig};
use crate::transaction::Beside;
use crate::wire::{Put as _, Reader, varint_len};

/// What a binary delivery's prefix mostly takes.
const PREFIX_BYTES: usize = 6;

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    At {
        partition: Partition,
        offset: Offset,
        sequence: Sequence,
    },
    /// Nowhere yet: it waits for its time.
    Scheduled(ScheduleId),
    /// It was published before, and nobody remembers where.
    Unknown,
}

/// How a message came to be appended, beyond what it says itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    /// The level that was asked for.
    pub(crate) asked: Durability,
    /// Whether other rows change with it, without which it is not to be heard: those of what waited for its time, or of
    /// its transaction.
    pub(crate) with_rows: bool,
    /// Where it can be answered, if it is a request.
    pub(crate) reply_to: Option<ReplyTo>,
    /// Who does not want to hear it.
    pub(crate) source: Option<Source>,
}

impl Default for Origin {
    fn default() -> Self {
        Self {
            asked: Durability::None,
            with_rows: false,
            reply_to: None,
            source: None,
        }
    }
}

/// How messages are to be published.
pub(crate) struct Terms<'a, 'b> {
    pub(crate) asked: Durability,
    pub(crate) tokens: Tokens,
    /// Where the first can be answered, if it is a request.
    pub(crate) reply_to: Option<ReplyTo>,
    /// What is done with them, if they are of a transaction.
    pub(crate) beside: Option<&'b mut Beside<'a>>,
}

impl Placed {
    pub(crate) const fn partition(self) -> Option<Partition> {
        match self {
            Self::At { partition, .. } => Some(partition),
            Self::Scheduled(_) | Self::Unknown => None,
        }
    }

    /// What a receipt says of it, and of the topic that rules moved it to.
    pub(crate) fn told(self, duplicate: bool, topic: Option<&str>) -> Place<'_> {
        let (partition, offset, sequence) = match self {
            Self::At {
                partition,
                offset,
                sequence,
            } => (partition.0, offset.0, sequence.0),
            Self::Scheduled(_) | Self::Unknown => (0, 0, 0),
        };
        let schedule_id = match self {
            Self::Scheduled(id) => Some(id.0),
            _ => None,
        };
        Place {
            partition,
            offset,
            sequence,
            duplicate,
            schedule_id,
            topic,
        }
    }
}

/// What became of an attempt to publish.
pub(crate) enum Published {
    /// All messages have their places, which are in the context; the receipt waits for `After`.
    Placed(After),
    /// Not yet.
    Held(Wait),
}

/// What a publish waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// A subscriber with the policy `block` is too far behind; try again when one is not any more.
    Subscriber,
    /// The tokens that it has taken are there at this time; try again then.
    Tokens(Timestamp),
}

impl Topic {
    /// Where a message with this key goes, and where the next one without a key would.
    pub(crate) fn partition_for(&self, key: Option<&str>) -> (Partition, u32) {
        let count = self.config.partitions;
        match (count, key) {
            (1, _) => (Partition(0), 0),
            (_, Some(key)) => (partition_of(key, count), self.round_robin),
            (_, None) if self.config.ordering == Ordering::PerKey => {
                (partition_of("", count), self.round_robin)
            }
            (_, None) => {
                let next = (self.round_robin + 1) % count;
                (Partition(next), next)
            }
        }
    }
}

impl Namespace {
    /// Publishes all messages or none.
    pub(crate) fn publish(
        &mut self,
        cx: &mut Context,
        connection: u32,
        messages: &[Message<'_>],
        terms: Terms<'_, '_>,
    ) -> Result<Published, Refusal> {
        let rights = cx.connections[connection as usize].claims.rights;
        if !rights.contains(Rights::PUBLISH) {
            return Err(Refusal::new(
                ErrorCode::Forbidden,
                "this connection may not publish",
            ));
        }
        for message in messages {
            check_message(&cx.config, cx.now, message)?;
            self.check_payload(message.payload)?;
        }
        cx.moved.clear();
        let Some(routed) = self.route(&cx.config, messages)? else {
            return self.publish_routed(cx, connection, messages, &[], terms);
        };
        let made: Vec<Message<'_>> = routed.iter().map(|made| made.message(messages)).collect();
        for message in &made {
            check_message(&cx.config, cx.now, message)?;
            self.check_payload(message.payload)?;
        }
        let published = self.publish_routed(cx, connection, &made, &routed, terms)?;
        if let Published::Placed(_) = published {
            // Nobody asked where copies are.
            let mut each = routed.iter();
            cx.placed
                .retain(|_| each.next().is_none_or(|routed| !routed.is_copy));
            let asked_for = routed.iter().filter(|routed| !routed.is_copy);
            let moved = asked_for.map(|routed| routed.moved_to(messages).map(Into::into));
            cx.moved.extend(moved);
        }
        Ok(published)
    }

    /// Publishes what rules have made, if there are any for it, all or none. A request is the first of the messages.
    fn publish_routed(
        &mut self,
        cx: &mut Context,
        connection: u32,
        messages: &[Message<'_>],
        routed: &[Routed],
        terms: Terms<'_, '_>,
    ) -> Result<Published, Refusal> {
        let Terms {
            asked,
            tokens,
            reply_to,
            beside,
        } = terms;
        let with_rows = beside.is_some();
        self.check_topics(cx, messages)?;
        if reply_to.is_some() {
            // Who asks again wants an answer, so a request is never a duplicate.
            cx.recalled.clear();
            if let Some(message) = messages.first() {
                self.check_taker(cx, message)?;
            }
        } else {
            self.recall(cx, messages)?;
        }
        self.check_schedule(cx, messages)?;
        self.check_stored_bytes(cx, messages)?;
        if self.blocked > 0 {
            for (index, message) in messages.iter().enumerate() {
                let recalled = cx.recalled.get(index);
                let is_new = recalled.is_none_or(|recalled| recalled.known == Known::New);
                let is_now = deliver_at(&cx.config, cx.now, message)?.is_none();
                if is_new && is_now && self.is_blocked(message) {
                    return Ok(Published::Held(Wait::Subscriber));
                }
            }
        }
        if let Some(beside) = beside {
            let copied = |index: usize| routed.get(index).is_some_and(|routed| routed.is_copy);
            let mut recalled = cx.recalled.iter().enumerate();
            let is_repeat = !cx.recalled.is_empty()
                && recalled.all(|(index, recalled)| recalled.known != Known::New || copied(index));
            beside.check(self, cx, connection, is_repeat)?;
        }
        // Last, for what is taken is not given back. What was published before is counted as well.
        if let Some(at) = self.admit(cx, connection, messages, tokens)? {
            return Ok(Published::Held(Wait::Tokens(at)));
        }
        let mut after = After::default();
        cx.placed.clear();
        for (index, message) in messages.iter().enumerate() {
            let recalled = cx.recalled.get(index).copied();
            let recalled = recalled.unwrap_or(Recalled::NAMELESS);
            let known = match recalled.known {
                Known::New => None,
                Known::Published(place) => Some(place),
                Known::Repeated(earlier) => Some(cx.placed[earlier as usize].0),
            };
            let found = cx.found_topics[index];
            let topic = found.unwrap_or_else(|| self.topic_for(cx, message.topic));
            let (place, waits) = match known {
                Some(place) => (place, self.repeat(cx, topic, place, asked)),
                None => match deliver_at(&cx.config, cx.now, message)? {
                    Some(at) => self.schedule(cx, topic, message, at, asked),
                    None => {
                        let origin = Origin {
                            asked,
                            with_rows,
                            reply_to: reply_to.filter(|_| index == 0),
                            source: cx.connections[connection as usize].source,
                        };
                        self.append(cx, topic, message, origin)
                    }
                },
            };
            if known.is_none() {
                self.remember(cx, topic, recalled, place);
            }
            cx.counters.duplicate_messages += u64::from(known.is_some());
            cx.placed.push((place, known.is_some()));
            after = after.and(waits);
        }
        self.charge_new_topics(cx, messages);
        Ok(Published::Placed(after))
    }

    /// Refuses messages whose topics do not exist and cannot be created, or that cannot be stored now.
    /// Notes those that exist in [`Context::found_topics`].
    fn check_topics(&self, cx: &mut Context, messages: &[Message<'_>]) -> Result<(), Refusal> {
        let mut new = Map::with_seed_of(&self.topic_index);
        cx.found_topics.clear();
        for message in messages {
            let found = self.topic_by_name(message.topic);
            cx.found_topics.push(found);
            let TopicConfig { kind, ordering, .. } = match found {
                // The broker's own topics exist too, and are nobody else's to publish to.
                Some(index) if !message.topic.starts_with('$') => {
                    self.topics[index as usize].config
                }
                _ => {
                    topic::check_name(message.topic)?;
                    new.insert(message.topic, ());
                    let count = self.topics.len() + new.len();
                    check_count("a namespace", "topics", count, self.topics_max(&cx.config))?;
                    cx.config.topic_default
                }
            };
            if kind != Kind::Live {
                cx.require_storage()?;
            }
            if message.priority.unwrap_or(0) > 0 && ordering != Ordering::None {
                let message = format!(
                    "topic \"{}\" has the ordering {}, so its messages have no \"priority\"; only with the ordering none they have one",
                    message.topic,
                    ordering.as_str()
                );
                return Err(Refusal::new(ErrorCode::InvalidArgument, message));
            }
            if kind == Kind::Compacted && message.key.is_none() {
                let message = format!(
                    "topic \"{}\" is compacted by key, and the message has none",
                    message.topic
                );
                return Err(Refusal::new(ErrorCode::InvalidArgument, message));
            }
        }
        Ok(())
    }

    /// Whether a subscriber that holds publishers back would get this message.
    fn is_blocked(&mut self, message: &Message<'_>) -> bool {
        let Some(topic) = self.topic_by_name(message.topic) else {
            return false;
        };
        let partition = self.topics[topic as usize].partition_for(message.key).0;
        let matched = self.take_matched(topic);
        let blocked = matched
            .iter()
            .flat_map(|node| self.trie.subscribers(*node))
            .any(|index| {
                let subscription = &self.subscriptions[*index as usize];
                let behind = subscription.behind.as_ref();
                behind.is_some_and(|behind| behind.holds_back)
                    && subscription.partition.is_none_or(|only| only == partition)
            });
        self.restore_matched(topic, matched);
        blocked
    }

    /// The topic that a checked message goes to, which was not there when it was checked.
    fn topic_for(&mut self, cx: &mut Context, name: &str) -> u32 {
        match self.topic_by_name(name) {
            Some(index) => index,
            None => self.create_topic(cx, name, cx.config.topic_default),
        }
    }

    /// Gives a checked message its place, stores and delivers it.
    pub(crate) fn append(
        &mut self,
        cx: &mut Context,
        index: u32,
        message: &Message<'_>,
        origin: Origin,
    ) -> (Placed, After) {
        let now = self.time(cx);
        self.last_timestamp = now;
        self.count_published(cx, index, message.payload.len() as u64);
        let topic = &mut self.topics[index as usize];
        let config = topic.config;
        let (partition, round_robin) = topic.partition_for(message.key);
        topic.round_robin = round_robin;
        let sequence = self.last_sequence.next();
        self.last_sequence = sequence;
        let log = &mut topic.partitions[partition.0 as usize].log;
        let offset = log.end();
        let mut record = core::mem::take(&mut cx.record);
        record.clear();
        Record {
            offset: offset.0,
            sequence: sequence.0,
            timestamp: now.0,
            payload: message.payload,
            key: message.key,
            content_type: message.content_type,
            headers: message.headers.filter(|headers| headers.size_bytes() > 0),
            id: message.id,
            expires_at: message.ttl_ms.map(|ttl| cx.now.after_ms(ttl).0),
            reply_to: origin.reply_to.map(|reply_to| reply_to.0),
            priority: message.priority.filter(|priority| *priority > 0),
        }
        .put_fields(&mut record);
        let fields = record.len();
        if let Some(source) = origin.source {
            source.mark(&mut record);
        }
        let heard = (&record[..fields], origin.source);
        let placed = Placed::At {
            partition,
            offset,
            sequence,
        };
        if config.kind == Kind::Live {
            // What was stored until now must not be heard again after a crash, and what the rest of a transaction lacks
            // must not have been heard.
            let after = if origin.with_rows {
                let durability = config.durability.max(origin.asked);
                cx.durability = cx.durability.max(durability);
                self.touch(cx);
                self.raise_after(index, partition, cx.after(durability))
            } else {
                After::default()
            };
            // Whoever is found to be behind needs the message in the ring, so delivery comes first.
            let keep = self.deliver(cx, index, partition, sequence, heard, after);
            let room = cx.config.rings_bytes_max.saturating_sub(self.rings_bytes);
            let log = &mut self.topics[index as usize].partitions[partition.0 as usize].log;
            let (was_kept, bytes) = (!log.ring().is_empty(), log.ring_bytes());
            log.append_live(&record, sequence, keep, room, &cx.config);
            self.rings_bytes = self.rings_bytes - bytes + log.ring_bytes();
            match (was_kept, !log.ring().is_empty()) {
                (false, true) => self.rings.push((index, partition)),
                (true, false) => self.rings.retain(|ring| *ring != (index, partition)),
                _ => {}
            }
            // Nothing of the message is stored but that its sequence was given, and that for many at once.
            if sequence > self.reserved {
                self.reserved = Sequence(sequence.0 + LIVE_SEQUENCES_RESERVED - 1);
                self.touch(cx);
            }
            return (placed, after);
        }
        self.stored_bytes += record.len() as u64;
        log.append(&record, sequence, now, &topic.roll);
        if config.ordering == Ordering::None
            && let Some(priority) = message.priority.filter(|priority| *priority > 0)
        {
            log.note_priority(priority as u8);
        }
        let durability = config.durability.max(origin.asked);
        cx.durability = cx.durability.max(durability);
        let after = cx.after(durability);
        self.touch_log(cx, index, partition);
        self.wake_groups(cx, index, partition);
        let delivery_after = self.raise_after(index, partition, after);
        self.deliver(cx, index, partition, sequence, heard, delivery_after);
        cx.record = record;
        (placed, after)
    }

    /// Gives a new message to everybody who is at the tail and ready, and lets the others know that it waits. Whether
    /// there were others.
    fn deliver(
        &mut self,
        cx: &mut Context,
        topic: u32,
        partition: Partition,
        sequence: Sequence,
        (record, source): (&[u8], Option<Source>),
        after: After,
    ) -> bool {
        let matched = self.take_matched(topic);
        if matched.is_empty() {
            self.restore_matched(topic, matched);
            return false;
        }
        let pace = self.pace(cx);
        let name = &self.topics[topic as usize].name;
        let body_bytes = DeliveryBody {
            topic: name,
            partition,
            record,
        }
        .binary_len();
        let mut fanouts = core::mem::take(&mut cx.fanouts);
        let mut late: Vec<u32> = Vec::new();
        for node in &matched {
            let subscribers = self.trie.subscribers(*node);
            for &index in subscribers {
                let subscription = &mut self.subscriptions[index as usize];
                let is_echo = source.is_some() && subscription.source == source;
                if is_echo || subscription.partition.is_some_and(|only| only != partition) {
                    continue;
                }
                let is_ready = subscription.behind.is_none() && subscription.credit > 0;
                if !is_ready || !subscription.take_token(pace, cx.now) {
                    late.push(index);
                    continue;
                }
                if subscription.credit != UNLIMITED {
                    subscription.credit -= 1;
                }
                // A subscription over several topics resumes by one sequence, so what it gets from one topic waits
                // for what it got from the others.
                subscription.after = subscription.after.and(after);
                let (after, encoding) = (subscription.after, subscription.encoding);
                let known = fanouts
                    .iter_mut()
                    .position(|other| (other.after, other.encoding) == (after, encoding));
                let fanout = match known {
                    Some(known) => &mut fanouts[known],
                    None => fanouts.push_mut(Fanout {
                        after,
                        encoding,
                        to: Vec::with_capacity(subscribers.len()),
                        prefixes: Vec::with_capacity(match subscribers.len() {
                            // Perhaps the only recipient; then the body follows.
                            1 => PREFIX_BYTES + body_bytes,
                            count => PREFIX_BYTES * count,
                        }),
                    }),
                };
                match encoding {
                    Encoding::Binary => {
                        put_delivery_prefix(subscription.id.0, body_bytes, &mut fanout.prefixes);
                    }
                    Encoding::Json => {
                        put_json_delivery_prefix(subscription.id.0, &mut fanout.prefixes)
                    }
                }
                let prefix_end = fanout.prefixes.len() as u32;
                fanout.to.push(Recipient {
                    connection: subscription.connection_id,
                    prefix_end,
                });
            }
        }
        let body = DeliveryBody {
            topic: name,
            partition,
            record,
        };
        let mut delivered = 0;
        for Fanout {
            after,
            encoding,
            mut to,
            mut prefixes,
        } in fanouts.drain(..)
        {
            delivered += to.len() as u64;
            let mut bytes = match &mut to[..] {
                [only] => {
                    only.prefix_end = 0;
                    core::mem::take(&mut prefixes)
                }
                _ => Vec::with_capacity(body_bytes),
            };
            match encoding {
                Encoding::Binary => body.put_binary(&mut bytes),
                Encoding::Json => body.put_json(&mut bytes),
            }
            cx.outbox.deliver(after, to, prefixes, bytes);
        }
        cx.fanouts = fanouts;
        self.count_delivered(cx, delivered);
        self.restore_matched(topic, matched);
        let is_late = !late.is_empty();
        for index in late {
            self.fall_behind(cx, index, sequence);
        }
        is_late
    }

    /// Notes that a message could not be given to a subscription at once.
    fn fall_behind(&mut self, cx: &mut Context, index: u32, sequence: Sequence) {
        let subscription = &mut self.subscriptions[index as usize];
        let options = subscription.options;
        let mut fell = false;
        let behind = subscription.behind.get_or_insert_with(|| {
            fell = true;
            let mut behind = Behind::at(Sequence(sequence.0 - 1));
            behind.lag_counts = true;
            behind.into()
        });
        let was_full = behind.is_full(options.lag_max);
        let mut end = false;
        if let Some((_, count)) = &mut behind.drop_newest {
            *count += 1;
            cx.counters.dropped_messages += 1;
        } else if was_full {
            match options.on_lag {
                OnLag::DropOldest => behind.drop_oldest += 1,
                OnLag::DropNewest => {
                    behind.drop_newest = Some((sequence, 1));
                    cx.counters.dropped_messages += 1;
                }
                // The publish was let in before it was full, or the batch filled it.
                OnLag::Block => behind.lag += 1,
                OnLag::Close => end = true,
            }
        } else if behind.lag_counts {
            behind.lag += 1;
        }
        let marked = behind.mark(&options);
        let connection = subscription.connection;
        if fell {
            self.count_behind();
            cx.touch_connection(connection);
            if self.subscriptions[index as usize].credit > 0 {
                // It lacks a token, and finds out when there will be one.
                self.queue_subscription(cx, index);
            }
        }
        if marked {
            self.blocked += 1;
        }
        if end {
            let message = format!(
                "the subscription was {} messages behind (lag_max)",
                options.lag_max
            );
            self.end_subscription(cx, index, ErrorCode::SlowConsumer, &message);
        }
    }
}

/// Those who get a message in the same spelling after the same wait.
pub(crate) struct Fanout {
    after: After,
    encoding: Encoding,
    to: Vec<Recipient>,
    prefixes: Vec<u8>,
}

/// How a JSON delivery ends.
const JSON_END: &[u8] = b"}\n";

/// The tags of a delivery's lease and attempt.
const DELIVERY_LEASE: u8 = 8;
const DELIVERY_ATTEMPT: u8 = 9;

/// What is the same for all who get a message.
pub(crate) struct DeliveryBody<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: Partition,
    pub(crate) record: &'a [u8],
}

impl DeliveryBody<'_> {
    pub(crate) fn binary_len(&self) -> usize {
        let topic = self.topic.len();
        varint_len(topic as u64) + topic + varint_len(self.partition.0.into()) + self.record.len()
    }

    pub(crate) fn put_binary(&self, out: &mut Vec<u8>) {
        out.put_bytes(self.topic.as_bytes());
        out.put_u64(self.partition.0.into());
        out.extend_from_slice(self.record);
    }

    /// Appends the delivery as a frame.
    pub(crate) fn put(&self, encoding: Encoding, id: SubscriptionId, out: &mut Vec<u8>) {
        match encoding {
            Encoding::Binary => {
                put_delivery_prefix(id.0, self.binary_len(), out);
                self.put_binary(out);
            }
            Encoding::Json => {
                put_json_delivery_prefix(id.0, out);
                self.put_json(out);
            }
        }
    }

    /// The same with the lease under which a member has it, and which delivery of the message it is.
    pub(crate) fn put_leased(
        &self,
        encoding: Encoding,
        id: SubscriptionId,
        lease: LeaseId,
        attempt: u32,
        out: &mut Vec<u8>,
    ) {
        match encoding {
            Encoding::Binary => {
                let (lease_bytes, attempt_bytes) =
                    (varint_len(lease.0), varint_len(attempt.into()));
                let length = self.binary_len() + 4 + lease_bytes + attempt_bytes;
                out.reserve(PREFIX_BYTES + length);
                put_delivery_prefix(id.0, length, out);
                self.put_binary(out);
                out.extend_from_slice(&[DELIVERY_LEASE, lease_bytes as u8]);
                out.put_u64(lease.0);
                out.extend_from_slice(&[DELIVERY_ATTEMPT, attempt_bytes as u8]);
                out.put_u64(attempt.into());
            }
            Encoding::Json => {
                put_json_delivery_prefix(id.0, out);
                self.put_json(out);
                out.truncate(out.len() - JSON_END.len());
                out.extend_from_slice(b",\"lease\":");
                put_json_int(lease.0, out);
                out.extend_from_slice(b",\"attempt\":");
                put_json_int(attempt.into(), out);
                out.extend_from_slice(JSON_END);
            }
        }
    }

    pub(crate) fn put_json(&self, out: &mut Vec<u8>) {
        const LAYOUT: Layout = <Record<'static> as crate::protocol::field::Item<'static>>::LAYOUT;
        out.extend_from_slice(b",\"topic\":");
        put_json_str(self.topic, out);
        out.extend_from_slice(b",\"partition\":");
        put_json_int(self.partition.0.into(), out);
        put_json_members(&LAYOUT, 0, &mut Reader::new(self.record), out)
            .expect("a stored record is sound");
        out.extend_from_slice(JSON_END);
    }
}

/// Appends the opening members of a JSON delivery.
pub(crate) fn put_json_delivery_prefix(subscription: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"type\":\"delivery\",\"subscription\":");
    put_json_int(subscription.into(), out);
}

/// The level that is asked for.
pub(crate) fn asked(word: Option<&str>) -> Result<Durability, Refusal> {
    word.map_or(Ok(Durability::None), |word| {
        Durability::parse(word)
            .ok_or_else(|| Refusal::wrong_word("durability", word, "none, async or sync"))
    })
}

/// Refuses a message that breaks a bound.
fn check_message(config: &Config, now: Timestamp, message: &Message<'_>) -> Result<(), Refusal> {
    let attributes = [
        ("key", message.key),
        ("content type", message.content_type),
        ("id", message.id),
        ("producer", message.producer),
    ];
    check_sizes(config, message.payload, message.headers, &attributes)?;
    if message.ttl_ms == Some(0) {
        return Err(Refusal::new(
            ErrorCode::InvalidArgument,
            "\"ttl_ms\" must be at least 1",
        ));
    }
    deliver_at(config, now, message)?;
    if let Some(priority) = message.priority.filter(|asked| *asked > PRIORITY_MAX) {
        let message = format!("\"priority\" must be from 0 to {PRIORITY_MAX}, not {priority}");
        return Err(Refusal::new(ErrorCode::InvalidArgument, message));
    }
    if message.producer.is_some() != message.producer_sequence.is_some()
        || message.producer == Some("")
    {
        return Err(Refusal::new(
            ErrorCode::InvalidArgument,
            "\"producer\", which is not empty, and \"producer_sequence\" belong together",
        ));
    }
    Ok(())
}

/// Refuses what breaks a bound of bytes.
pub(crate) fn check_sizes(
    config: &Config,
    payload: &[u8],
    headers: Option<Headers<'_>>,
    attributes: &[(&str, Option<&str>)],
) -> Result<(), Refusal> {
    let bounded = |what: &str, bytes: usize, max: u64, name: &str| {
        if bytes as u64 <= max {
            return Ok(());
        }
        let message = format!("the {what} is {bytes} bytes long, {max} are allowed ({name})");
        Err(Refusal::new(ErrorCode::TooLarge, message))
    };
    bounded(
        "payload",
        payload.len(),
        config.payload_bytes_max,
        "payload_bytes_max",
    )?;
    let headers = headers.map_or(0, |headers| headers.size_bytes());
    bounded(
        "list of headers",
        headers,
        config.headers_bytes_max,
        "headers_bytes_max",
    )?;
    for (what, attribute) in attributes {
        bounded(
            what,
            attribute.map_or(0, str::len),
            config.attribute_bytes_max,
            "attribute_bytes_max",
        )?;
    }
    Ok(())
}

/// The delivery frame and the stored record spell a message the same way, from the offset on; what a delivery has
/// beside it comes behind.
const _: () = {
    let delivery = <Delivery<'static> as crate::protocol::field::Item<'static>>::LAYOUT;
    let record = <Record<'static> as crate::protocol::field::Item<'static>>::LAYOUT;
    assert!(delivery.required.len() == record.required.len() + 3);
    let behind = record.optional.len();
    assert!(delivery.optional.len() == behind + 2);
    assert!(delivery.optional[behind].0 == DELIVERY_LEASE);
    assert!(delivery.optional[behind + 1].0 == DELIVERY_ATTEMPT);
};
