//! Where everything is stored: the keys of the ordered map.
//!
//! ```text
//! key      = 00 name                                   the store itself
//!          | length namespace table rest               a namespace; its length is never 0
//! table    = 00..7f                                    state: all of it is read at a restore
//!          | 80..ff                                    messages: read only by loads
//! ```
//!
//! The length in front makes the prefix of no namespace the beginning of another's, whatever the names are.

use alloc::vec::Vec;

use crate::hash::Digest;
use crate::ids::{
    ConnectionId, GroupId, MemberId, Offset, Partition, ScheduleId, Timestamp, TopicId,
};

/// The version of every row that this build writes. A build reads its own version and those before it.
pub(crate) const ROW_VERSION: u64 = 1;

/// The store's row that names the version of what is stored.
pub(crate) const FORMAT_KEY: &[u8] = b"\0format";

pub(crate) const TABLE_NAMESPACE: u8 = 0x01;
pub(crate) const TABLE_TOPIC: u8 = 0x02;
pub(crate) const TABLE_PARTITION: u8 = 0x03;
pub(crate) const TABLE_SEGMENT: u8 = 0x04;
pub(crate) const TABLE_CONNECTION: u8 = 0x05;
/// There while an import is under way: the messages in the store belong to no topic yet.
pub(crate) const TABLE_IMPORT: u8 = 0x06;
/// What waits for its time, without its body.
pub(crate) const TABLE_SCHEDULE: u8 = 0x0b;
/// What is remembered of messages that were published under an id, a row a flush and topic.
pub(crate) const TABLE_DEDUP: u8 = 0x0c;
/// What is remembered of producers.
pub(crate) const TABLE_PRODUCER: u8 = 0x0d;
pub(crate) const TABLE_GROUP: u8 = 0x07;
pub(crate) const TABLE_MEMBER: u8 = 0x08;
/// How far a group is in a partition.
pub(crate) const TABLE_GROUP_OFFSET: u8 = 0x09;
/// What of 1,024 offsets a queue has done or given to members.
pub(crate) const TABLE_GROUP_WINDOW: u8 = 0x0a;
/// The rules of rate limits.
pub(crate) const TABLE_LIMIT: u8 = 0x0e;
/// Buckets of tokens that take long to be full again. They belong to one place.
pub(crate) const TABLE_LIMITER: u8 = 0x0f;
/// The routing rules.
pub(crate) const TABLE_RULE: u8 = 0x11;
/// The devices of users, with their sessions.
pub(crate) const TABLE_DEVICE: u8 = 0x12;
/// What the namespace may have, and that an operator created it.
pub(crate) const TABLE_QUOTA: u8 = 0x13;
/// What it used, by day.
pub(crate) const TABLE_USAGE: u8 = 0x14;
pub(crate) const TABLE_MESSAGES: u8 = 0x80;
/// The bodies of what waits for its time.
pub(crate) const TABLE_SCHEDULED: u8 = 0x81;

/// Whose row a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// The store's own; part of every restore.
    Store,
    /// A namespace's state; part of its restore.
    State(&'a str),
    /// A namespace's messages; not part of a restore.
    Messages(&'a str),
}

/// Whose row `key` is; `None` for a key that no version has written.
pub fn scope_of(key: &[u8]) -> Option<Scope<'_>> {
    let (&length, rest) = key.split_first()?;
    if length == 0 {
        return Some(Scope::Store);
    }
    let (name, rest) = rest.split_at_checked(length.into())?;
    let name = core::str::from_utf8(name).ok()?;
    match *rest.first()? {
        0x00..=0x7f => Some(Scope::State(name)),
        0x80..=0xff => Some(Scope::Messages(name)),
    }
}

/// The range of the store's own rows.
pub fn store_range() -> (Vec<u8>, Vec<u8>) {
    ([0].to_vec(), [1].to_vec())
}

/// The range of a namespace's state rows.
pub fn state_range(namespace: &str) -> (Vec<u8>, Vec<u8>) {
    (
        namespace_key(namespace, 0x00),
        namespace_key(namespace, 0x80),
    )
}

/// The range of all of a namespace's rows; its end is where the next namespace is to be looked for.
pub fn namespace_range(namespace: &str) -> (Vec<u8>, Vec<u8>) {
    (
        namespace_key(namespace, 0x00),
        behind(&Keys::new(namespace).prefix),
    )
}

/// The prefix as a number plus one: behind every key that begins with it, also one that no version has written, so
/// that a walk from namespace to namespace always goes on. No byte of UTF-8 is 0xff.
fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut to = prefix.to_vec();
    if let Some(last) = to.last_mut() {
        *last += 1;
    }
    to
}

fn namespace_key(namespace: &str, table: u8) -> Vec<u8> {
    let mut key = Vec::with_capacity(namespace.len() + 2);
    key.push(namespace.len() as u8);
    key.extend_from_slice(namespace.as_bytes());
    key.push(table);
    key
}

/// The keys of one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: Vec<u8>,
}

impl Keys {
    pub(crate) fn new(namespace: &str) -> Self {
        let mut prefix = namespace_key(namespace, 0);
        prefix.pop();
        Self { prefix }
    }

    pub(crate) fn namespace(&self) -> Vec<u8> {
        self.key(TABLE_NAMESPACE, &[])
    }

    pub(crate) fn topic(&self, topic: TopicId) -> Vec<u8> {
        self.key(TABLE_TOPIC, &[&topic.0.to_be_bytes()])
    }

    pub(crate) fn partition(&self, topic: TopicId, partition: Partition) -> Vec<u8> {
        self.key(
            TABLE_PARTITION,
            &[&topic.0.to_be_bytes(), &partition.0.to_be_bytes()],
        )
    }

    pub(crate) fn segment(&self, topic: TopicId, partition: Partition, base: Offset) -> Vec<u8> {
        self.log_key(TABLE_SEGMENT, topic, partition, base)
    }

    pub(crate) fn messages(&self, topic: TopicId, partition: Partition, first: Offset) -> Vec<u8> {
        self.log_key(TABLE_MESSAGES, topic, partition, first)
    }

    pub(crate) fn connection(&self, connection: ConnectionId) -> Vec<u8> {
        self.key(TABLE_CONNECTION, &[&connection.0.to_be_bytes()])
    }

    pub(crate) fn scheduled(&self, at: Timestamp, id: ScheduleId) -> Vec<u8> {
        self.key(TABLE_SCHEDULE, &[&at.0.to_be_bytes(), &id.0.to_be_bytes()])
    }

    pub(crate) fn scheduled_body(&self, at: Timestamp, id: ScheduleId) -> Vec<u8> {
        self.key(TABLE_SCHEDULED, &[&at.0.to_be_bytes(), &id.0.to_be_bytes()])
    }

    pub(crate) fn dedup(&self, topic: TopicId, number: u64) -> Vec<u8> {
        self.key(
            TABLE_DEDUP,
            &[&topic.0.to_be_bytes(), &number.to_be_bytes()],
        )
    }

    pub(crate) fn producer(&self, topic: TopicId, producer: Digest) -> Vec<u8> {
        self.key(
            TABLE_PRODUCER,
            &[
                &topic.0.to_be_bytes(),
                &producer.0.to_be_bytes(),
                &producer.1.to_be_bytes(),
            ],
        )
    }

    pub(crate) fn group(&self, group: GroupId) -> Vec<u8> {
        self.key(TABLE_GROUP, &[&group.0.to_be_bytes()])
    }

    pub(crate) fn member(&self, group: GroupId, member: MemberId) -> Vec<u8> {
        self.key(
            TABLE_MEMBER,
            &[&group.0.to_be_bytes(), &member.0.to_be_bytes()],
        )
    }

    pub(crate) fn group_offset(
        &self,
        group: GroupId,
        topic: TopicId,
        partition: Partition,
    ) -> Vec<u8> {
        self.key(
            TABLE_GROUP_OFFSET,
            &[
                &group.0.to_be_bytes(),
                &topic.0.to_be_bytes(),
                &partition.0.to_be_bytes(),
            ],
        )
    }

    pub(crate) fn group_window(
        &self,
        group: GroupId,
        topic: TopicId,
        partition: Partition,
        window: u64,
    ) -> Vec<u8> {
        self.key(
            TABLE_GROUP_WINDOW,
            &[
                &group.0.to_be_bytes(),
                &topic.0.to_be_bytes(),
                &partition.0.to_be_bytes(),
                &window.to_be_bytes(),
            ],
        )
    }

    /// The ranges that hold everything of a group.
    pub(crate) fn group_ranges(&self, group: GroupId) -> [(Vec<u8>, Vec<u8>); 4] {
        let next = group.0.saturating_add(1).to_be_bytes();
        [
            TABLE_GROUP,
            TABLE_MEMBER,
            TABLE_GROUP_OFFSET,
            TABLE_GROUP_WINDOW,
        ]
        .map(|table| {
            (
                self.key(table, &[&group.0.to_be_bytes()]),
                self.key(table, &[&next]),
            )
        })
    }

    /// The ranges that hold how far a group is in a topic.
    pub(crate) fn group_topic_ranges(
        &self,
        group: GroupId,
        topic: TopicId,
    ) -> [(Vec<u8>, Vec<u8>); 2] {
        let group = group.0.to_be_bytes();
        let next = topic.0.saturating_add(1).to_be_bytes();
        [TABLE_GROUP_OFFSET, TABLE_GROUP_WINDOW].map(|table| {
            (
                self.key(table, &[&group, &topic.0.to_be_bytes()]),
                self.key(table, &[&group, &next]),
            )
        })
    }

    pub(crate) fn import(&self) -> Vec<u8> {
        self.key(TABLE_IMPORT, &[])
    }

    pub(crate) fn limit(&self, scope: u8, name: &str) -> Vec<u8> {
        self.key(TABLE_LIMIT, &[&[scope], name.as_bytes()])
    }

    pub(crate) fn limiter(&self, scope: u8, owner: &[u8]) -> Vec<u8> {
        self.key(TABLE_LIMITER, &[&[scope], owner])
    }

    pub(crate) fn rule(&self, name: &str) -> Vec<u8> {
        self.key(TABLE_RULE, &[name.as_bytes()])
    }

    pub(crate) fn quota(&self) -> Vec<u8> {
        self.key(TABLE_QUOTA, &[])
    }

    pub(crate) fn usage(&self, day: u32) -> Vec<u8> {
        self.key(TABLE_USAGE, &[&day.to_be_bytes()])
    }

    pub(crate) fn all_rules(&self) -> (Vec<u8>, Vec<u8>) {
        (self.key(TABLE_RULE, &[]), self.key(TABLE_RULE + 1, &[]))
    }

    /// A device; its user's length tells where the user's name ends.
    pub(crate) fn device(&self, user: &str, device: &str) -> Vec<u8> {
        let length = (user.len() as u32).to_be_bytes();
        self.key(TABLE_DEVICE, &[&length, user.as_bytes(), device.as_bytes()])
    }

    /// The range of all devices.
    pub(crate) fn all_devices(&self) -> (Vec<u8>, Vec<u8>) {
        (self.key(TABLE_DEVICE, &[]), self.key(TABLE_DEVICE + 1, &[]))
    }

    /// The range of all limits and buckets.
    pub(crate) fn all_limits(&self) -> (Vec<u8>, Vec<u8>) {
        (self.key(TABLE_LIMIT, &[]), self.key(TABLE_LIMITER + 1, &[]))
    }

    /// The key of this namespace that is called so without it.
    pub(crate) fn with_tail(&self, tail: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.prefix.len() + tail.len());
        key.extend_from_slice(&self.prefix);
        key.extend_from_slice(tail);
        key
    }

    /// The range of everything that is not state.
    pub(crate) fn all_messages(&self) -> (Vec<u8>, Vec<u8>) {
        (self.key(0x80, &[]), behind(&self.prefix))
    }

    /// All rows of `table` that belong to `topic`.
    fn topic_range(&self, table: u8, topic: TopicId) -> (Vec<u8>, Vec<u8>) {
        let to = match topic.0.checked_add(1) {
            Some(next) => self.key(table, &[&next.to_be_bytes()]),
            None => self.key(table + 1, &[]),
        };
        (self.key(table, &[&topic.0.to_be_bytes()]), to)
    }

    /// The ranges that hold everything of `topic`.
    pub(crate) fn topic_ranges(&self, topic: TopicId) -> [(Vec<u8>, Vec<u8>); 6] {
        [
            TABLE_TOPIC,
            TABLE_PARTITION,
            TABLE_SEGMENT,
            TABLE_DEDUP,
            TABLE_PRODUCER,
            TABLE_MESSAGES,
        ]
        .map(|table| self.topic_range(table, topic))
    }

    fn log_key(&self, table: u8, topic: TopicId, partition: Partition, offset: Offset) -> Vec<u8> {
        self.key(
            table,
            &[
                &topic.0.to_be_bytes(),
                &partition.0.to_be_bytes(),
                &offset.0.to_be_bytes(),
            ],
        )
    }

    fn key(&self, table: u8, parts: &[&[u8]]) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.prefix.len() + 17);
        key.extend_from_slice(&self.prefix);
        key.push(table);
        for part in parts {
            key.extend_from_slice(part);
        }
        key
    }
}

/// What of a state row's key follows its namespace: the table, then fixed-size integers, big endian.
pub(crate) struct KeyTail<'a>(pub(crate) &'a [u8]);

impl<'a> KeyTail<'a> {
    /// The tail of a key for which [`scope_of`] found a namespace.
    pub(crate) fn of(key: &'a [u8]) -> Self {
        Self(&key[1 + usize::from(key[0])..])
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*bytes))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*bytes))
    }
}

/// The offset at the end of a message row's key.
pub(crate) fn row_first_offset(key: &[u8]) -> Option<Offset> {
    key.last_chunk()
        .map(|bytes| Offset(u64::from_be_bytes(*bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_of_a_namespace_holds_every_key_that_begins_with_it_and_no_other() {
        for (namespace, other) in [("a", "b"), ("b", "az"), ("v", "ü"), ("a", "aa")] {
            let (from, to) = namespace_range(namespace);
            let prefix = Keys::new(namespace).prefix;
            for rest in [&[0x00][..], &[0x80, 1], &[0xff, 0xff], &[0xff, 0xff, 0xff]] {
                let key = [prefix.as_slice(), rest].concat();
                assert!(from <= key && key < to, "{key:02x?}");
            }
            let (from, _) = namespace_range(other);
            assert!(to <= from, "{other} begins behind {namespace}");
        }
    }
}
