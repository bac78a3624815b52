//! Rebuilding a broker from stored rows, which are the only snapshot there is.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::archive::hex;
use crate::broker::Broker;
use crate::config::Config;
use crate::dormant::{Dormant, read_connection};
use crate::ids::{ConnectionId, Offset, ScheduleId, Sequence, Timestamp, TopicId};
use crate::input::Row;
use crate::lineage::Lineage;
use crate::log::Log;
use crate::manage::read_topic_row;
use crate::namespace::Namespace;
use crate::rows::{
    FORMAT_KEY, KeyTail, ROW_VERSION, Scope, TABLE_CONNECTION, TABLE_DEDUP, TABLE_DEVICE,
    TABLE_GROUP, TABLE_GROUP_OFFSET, TABLE_GROUP_WINDOW, TABLE_IMPORT, TABLE_LIMIT, TABLE_LIMITER,
    TABLE_MEMBER, TABLE_NAMESPACE, TABLE_PARTITION, TABLE_PRODUCER, TABLE_QUOTA, TABLE_RULE,
    TABLE_SCHEDULE, TABLE_SEGMENT, TABLE_TOPIC, TABLE_USAGE, scope_of,
};
use crate::wire::{Malformed, Reader};

/// The stored rows cannot be used; the text says which row and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreError(pub String);

/// What has been read so far.
#[derive(Debug, Default)]
pub(crate) struct Restoring {
    /// The namespace being read, and what is known of its rows so far.
    namespace: Option<u32>,
    rows: StateRows,
    /// The stored connections, in the order of their numbers; `None` once taken up.
    pub(crate) dormant: Vec<(ConnectionId, Option<Dormant>)>,
    pub(crate) format_stored: bool,
}

impl Restoring {
    fn insert_dormant(&mut self, id: ConnectionId, dormant: Dormant) {
        match self.find_dormant(id) {
            Ok(known) => self.dormant[known].1 = Some(dormant),
            Err(place) => self.dormant.insert(place, (id, Some(dormant))),
        }
    }

    pub(crate) fn take_dormant(&mut self, id: ConnectionId) -> Option<Dormant> {
        let known = self.find_dormant(id).ok()?;
        self.dormant[known].1.take()
    }

    /// Forgets the stored connections of a namespace that is deleted, and their rows with it.
    pub(crate) fn forget_dormant_of(&mut self, namespace: u32) {
        self.dormant.retain(|(_, dormant)| {
            dormant
                .as_ref()
                .is_none_or(|dormant| dormant.namespace != namespace)
        });
    }

    pub(crate) fn has_dormant(&self) -> bool {
        self.dormant.iter().any(|(_, dormant)| dormant.is_some())
    }

    fn find_dormant(&self, id: ConnectionId) -> Result<usize, usize> {
        self.dormant.binary_search_by_key(&id, |(id, _)| *id)
    }
}

impl Broker {
    /// Takes the rows of the store and of the state of every namespace, each in the order of their keys, before the
    /// first input. May be called any number of times; a call without rows ends a namespace, which must be whole then.
    pub fn restore(&mut self, rows: impl IntoIterator<Item = Row>) -> Result<(), RestoreError> {
        let mut rows = rows.into_iter().peekable();
        if rows.peek().is_none() {
            return self.end_of_namespace();
        }
        for row in rows {
            self.restore_row(&row)
                .map_err(|why| RestoreError(format!("stored row {}: {why}", hex(&row.key))))?;
        }
        Ok(())
    }

    fn end_of_namespace(&mut self) -> Result<(), RestoreError> {
        let Some(index) = self.restoring.namespace.take() else {
            return Ok(());
        };
        let namespace = &self.namespaces[index as usize];
        namespace
            .check_whole()
            .map_err(|why| RestoreError(format!("namespace \"{}\": {why}", namespace.name)))
    }

    fn restore_row(&mut self, row: &Row) -> Result<(), String> {
        match scope_of(&row.key) {
            Some(Scope::Store) if row.key == FORMAT_KEY => {
                let version = Reader::new(&row.value)
                    .u64()
                    .map_err(|_| unsound("format"))?;
                if version > ROW_VERSION {
                    return Err(format!(
                        "it was written by a newer version (format {version}, this build reads up to {ROW_VERSION})"
                    ));
                }
                self.restoring.format_stored = true;
                Ok(())
            }
            Some(Scope::State(name)) => self.restore_state(name, row),
            _ => Err(String::from("no version has such a key in its state")),
        }
    }

    fn restore_state(&mut self, name: &str, row: &Row) -> Result<(), String> {
        let index = self.restored_namespace(name);
        let namespace = &mut self.namespaces[index as usize];
        let key = KeyTail::of(&row.key).0;
        let rows = &mut self.restoring.rows;
        if let Some((id, dormant)) = rows.take(&self.cx.config, namespace, key, &row.value)? {
            namespace.restore_presence(id, &dormant);
            self.restoring.insert_dormant(id, dormant);
        }
        Ok(())
    }

    fn restored_namespace(&mut self, name: &str) -> u32 {
        let known = self
            .restoring
            .namespace
            .filter(|index| self.namespaces[*index as usize].name == name);
        if let Some(index) = known {
            return index;
        }
        self.restoring.rows = StateRows::default();
        let index = self.insert_namespace(name);
        self.restoring.namespace = Some(index);
        index
    }
}

/// Nobody reaches it by counting topics up.
const TOPIC_ID_MAX: u32 = 1 << 31;

/// Puts the rows of one namespace's state into it, in the order of their keys.
#[derive(Debug)]
pub(crate) struct StateRows {
    /// The topics by their stored numbers, in the order of these, as the rows have it.
    topics: Vec<(TopicId, u32)>,
    /// What may come, beyond which memory is not given away.
    topics_max: u64,
    partitions_max: u64,
    dedup_entries_max: u64,
    producers_max: u64,
    scheduled_max: u64,
    limits_max: u64,
    rules_max: u64,
    devices_max: u64,
}

impl Default for StateRows {
    /// Takes what was stored under whatever bounds.
    fn default() -> Self {
        Self {
            topics: Vec::new(),
            topics_max: u64::MAX,
            partitions_max: 1 << 16,
            dedup_entries_max: u64::MAX,
            producers_max: u64::MAX,
            scheduled_max: u64::MAX,
            limits_max: u64::MAX,
            rules_max: u64::MAX,
            devices_max: u64::MAX,
        }
    }
}

impl StateRows {
    /// Takes what could be created here.
    pub(crate) const fn within(config: &Config) -> Self {
        Self {
            topics: Vec::new(),
            topics_max: config.topics_max,
            partitions_max: config.partitions_max,
            dedup_entries_max: config.dedup_entries_max,
            producers_max: config.producers_max,
            scheduled_max: config.scheduled_max,
            limits_max: config.limits_max,
            rules_max: config.rules_max,
            devices_max: config.devices_max,
        }
    }

    /// Takes a row, whose key is given without the namespace. A connection's row is handed back.
    pub(crate) fn take(
        &mut self,
        config: &Config,
        namespace: &mut Namespace,
        key: &[u8],
        value: &[u8],
    ) -> Result<Option<(ConnectionId, Dormant)>, String> {
        let mut tail = KeyTail(key);
        match tail.u8() {
            Some(TABLE_NAMESPACE) => {
                restore_namespace(namespace, value).map_err(|_| unsound("namespace"))?;
            }
            Some(TABLE_TOPIC) => {
                let id = TopicId(tail.u32().ok_or_else(|| unsound("key"))?);
                let (name, topic) = read_topic_row(value).ok_or_else(|| unsound("topic"))?;
                if u64::from(topic.partitions) > self.partitions_max {
                    return Err(format!(
                        "topic \"{name}\" has {} partitions, {} are allowed (partitions_max)",
                        topic.partitions, self.partitions_max
                    ));
                }
                if self.topics.len() as u64 >= self.topics_max {
                    return Err(format!(
                        "there are more than {} topics (topics_max)",
                        self.topics_max
                    ));
                }
                if namespace.topic_by_name(name).is_some() || id.0 >= TOPIC_ID_MAX {
                    return Err(unsound("topic"));
                }
                let index = namespace.insert_topic(config, id, name, topic);
                namespace.next_topic_id = namespace.next_topic_id.max(id.0 + 1);
                self.topics.push((id, index));
            }
            Some(TABLE_PARTITION) => {
                let log = Log::restore(value).map_err(|_| unsound("partition"))?;
                let newest = log.last_sequence().max(log.trimmed_at());
                namespace.last_sequence = namespace.last_sequence.max(newest);
                namespace.last_timestamp = namespace.last_timestamp.max(log.last_timestamp());
                *self.log(namespace, &mut tail)? = log;
            }
            Some(TABLE_SEGMENT) => {
                let log = self.log(namespace, &mut tail)?;
                let base = Offset(tail.u64().ok_or_else(|| unsound("key"))?);
                log.restore_segment(base, value)
                    .map_err(|_| unsound("segment"))?;
            }
            Some(TABLE_CONNECTION) => {
                let id = ConnectionId(tail.u64().ok_or_else(|| unsound("key"))?);
                let dormant = read_connection(namespace.index, &namespace.name, value)
                    .map_err(|_| unsound("connection"))?;
                return Ok(Some((id, dormant)));
            }
            Some(TABLE_SCHEDULE) => {
                let place = tail.u64().zip(tail.u64()).ok_or_else(|| unsound("key"))?;
                let place = (Timestamp(place.0), ScheduleId(place.1));
                let mut reader = Reader::new(value);
                let version = reader.u64().ok().filter(|version| *version == ROW_VERSION);
                let id = version.and_then(|_| reader.u32().ok());
                let id = TopicId(id.ok_or_else(|| unsound("scheduled message"))?);
                let topic = self.topic(id)?;
                namespace
                    .restore_scheduled(topic, place, reader)
                    .map_err(|_| unsound("scheduled message"))?;
                if namespace.schedule.order.len() as u64 > self.scheduled_max {
                    return Err(format!(
                        "there are more than {} scheduled messages (scheduled_max)",
                        self.scheduled_max
                    ));
                }
            }
            Some(TABLE_DEDUP) => {
                let topic = self.topic_in(&mut tail)?;
                let number = tail.u64().ok_or_else(|| unsound("key"))?;
                namespace
                    .restore_dedup(topic, number, value)
                    .map_err(|_| unsound("list of ids"))?;
                if namespace.dedup_entries > self.dedup_entries_max {
                    return Err(format!(
                        "there are more than {} remembered messages (dedup_entries_max)",
                        self.dedup_entries_max
                    ));
                }
            }
            Some(TABLE_PRODUCER) => {
                let topic = self.topic_in(&mut tail)?;
                let producer = tail.u64().zip(tail.u64()).ok_or_else(|| unsound("key"))?;
                namespace
                    .restore_producer(config, topic, producer, value)
                    .map_err(|_| unsound("producer"))?;
                if namespace.producers > self.producers_max {
                    return Err(format!(
                        "there are more than {} producers (producers_max)",
                        self.producers_max
                    ));
                }
            }
            Some(TABLE_IMPORT) => namespace.import_broken_off = true,
            Some(TABLE_GROUP) => namespace.restore_group(&mut tail, value)?,
            Some(TABLE_MEMBER) => namespace.restore_member(&mut tail, value)?,
            Some(TABLE_GROUP_OFFSET) => {
                let topic = self.topic_in(&mut KeyTail(tail.0.get(4..).unwrap_or_default()))?;
                namespace.restore_group_offset(topic, &mut tail, value)?;
            }
            Some(TABLE_GROUP_WINDOW) => {
                let topic = self.topic_in(&mut KeyTail(tail.0.get(4..).unwrap_or_default()))?;
                namespace.restore_group_window(topic, &mut tail, value)?;
            }
            Some(TABLE_LIMIT) => {
                let limits = &mut namespace.limits;
                limits.restore_rule(core::mem::take(&mut tail.0), value, self.limits_max)?;
            }
            Some(TABLE_RULE) => {
                let name = core::mem::take(&mut tail.0);
                namespace.routing.restore(name, value, self.rules_max)?;
            }
            Some(TABLE_QUOTA) => namespace.restore_quota(value)?,
            Some(TABLE_USAGE) => {
                let day = tail.u32().ok_or_else(|| unsound("key"))?;
                namespace.restore_usage(day, value)?;
            }
            Some(TABLE_LIMITER) => {
                let key = core::mem::take(&mut tail.0);
                namespace.restore_limiter(key, value, |tail| self.topic_in(tail))?;
            }
            Some(TABLE_DEVICE) => {
                namespace.restore_device(&mut tail, value, self.devices_max)?;
            }
            _ => return Err(String::from("no version has such a table")),
        }
        if !tail.0.is_empty() {
            return Err(unsound("key"));
        }
        Ok(None)
    }

    /// The topic that a key names.
    fn topic_in(&self, tail: &mut KeyTail<'_>) -> Result<u32, String> {
        self.topic(TopicId(tail.u32().ok_or_else(|| unsound("key"))?))
    }

    fn topic(&self, id: TopicId) -> Result<u32, String> {
        let known = self.topics.binary_search_by_key(&id, |(id, _)| *id);
        let known = known.map_err(|_| format!("its topic {} has no row", id.0))?;
        Ok(self.topics[known].1)
    }

    /// The log that a key names by its topic and partition.
    fn log<'a>(
        &self,
        namespace: &'a mut Namespace,
        tail: &mut KeyTail<'_>,
    ) -> Result<&'a mut Log, String> {
        let topic = self.topic_in(tail)?;
        let partition = tail.u32().ok_or_else(|| unsound("key"))? as usize;
        let state = namespace.topics[topic as usize]
            .partitions
            .get_mut(partition);
        Ok(&mut state.ok_or_else(|| unsound("key"))?.log)
    }
}

pub(crate) fn unsound(what: &str) -> String {
    format!("the {what} is not what any version writes")
}

fn restore_namespace(namespace: &mut Namespace, value: &[u8]) -> Result<(), Malformed> {
    let mut reader = Reader::new(value);
    if reader.u64()? != ROW_VERSION {
        return Err(Malformed);
    }
    namespace.last_sequence = Sequence(reader.counted()?);
    namespace.next_topic_id = reader.u32()?;
    namespace.lineage = Lineage::take(&mut reader)?;
    if !reader.is_empty() {
        namespace.reserved = Sequence(reader.counted()?);
    }
    if !reader.is_empty() {
        namespace.next_group_id = reader.u32()?;
    }
    if namespace.next_topic_id > TOPIC_ID_MAX {
        return Err(Malformed);
    }
    reader.end()
}
