//! Whether the rows of a namespace fit one another: what an import insists on, and what a doctor looks for.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Bound;

use crate::config::Config;
use crate::ids::{Offset, Partition, ScheduleId, Timestamp, TopicId};
use crate::log::{RowHead, read_record};
use crate::namespace::Namespace;
use crate::priority::priority_of;
use crate::restore::{StateRows, unsound};
use crate::rows::{
    KeyTail, TABLE_CONNECTION, TABLE_IMPORT, TABLE_LIMITER, TABLE_MEMBER, TABLE_MESSAGES,
    TABLE_QUOTA, TABLE_SCHEDULED, TABLE_USAGE,
};
use crate::schedule::scheduled_key;
use crate::topic::{Kind, Ordering};
use crate::wire::{Malformed, Reader};

/// Takes all rows of one namespace in the order of their keys, and says which of them cannot be right.
///
/// What memory it takes is that of the namespace's state, not that of its messages.
pub struct NamespaceVerifier {
    config: Config,
    namespace: Box<Namespace>,
    state: StateRows,
    /// The logs whose messages are still to come, in the order of their keys; the first one's may have begun. `None`
    /// while the state is being read.
    logs: Option<VecDeque<LogVerifier>>,
    /// The last body that was read of what waits for its time.
    last_scheduled: (Timestamp, ScheduleId),
    /// Whether the rows are those of an archive, which has nothing that is only still to be deleted.
    is_archive: bool,
    summary: NamespaceSummary,
}

/// What the rows of a namespace hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamespaceSummary {
    /// Topics.
    pub topics: u64,
    /// Messages that are kept, without those that wait for their time.
    pub messages: u64,
    /// Rows of messages that retention took and that are still to be deleted. They do no harm.
    pub leftover_rows: u64,
    /// Whether an import was broken off; its rows are deleted when the broker starts.
    pub import_broken_off: bool,
}

/// How far the messages of one partition were read.
struct LogVerifier {
    topic: u32,
    topic_id: TopicId,
    partition: Partition,
    next: Offset,
    segment: usize,
    segment_bytes: u64,
}

impl NamespaceVerifier {
    /// A verifier of the namespace `name`.
    pub fn new(name: &str) -> Self {
        Self::with(name, Config::default(), StateRows::default(), 0)
    }

    /// A verifier of what is to become the namespace `name` of a broker with these bounds.
    pub(crate) fn within(name: &str, config: Config, seed: u64) -> Self {
        let state = StateRows::within(&config);
        Self {
            is_archive: true,
            ..Self::with(name, config, state, seed)
        }
    }

    fn with(name: &str, config: Config, state: StateRows, seed: u64) -> Self {
        Self {
            config,
            namespace: Box::new(Namespace::new(0, name, seed)),
            state,
            logs: None,
            last_scheduled: (Timestamp(0), ScheduleId(0)),
            is_archive: false,
            summary: NamespaceSummary::default(),
        }
    }

    /// Takes the next row, whose key is given without the namespace. The text says what is wrong with it.
    pub fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        if key.first().is_some_and(|table| *table < 0x80) {
            if self.logs.is_some() {
                return Err(String::from("a row of the state stands behind messages"));
            }
            self.state
                .take(&self.config, &mut self.namespace, key, value)?;
            return Ok(());
        }
        self.end_of_state()?;
        if self.namespace.import_broken_off {
            return Ok(());
        }
        if key.first() == Some(&TABLE_SCHEDULED) {
            return self.scheduled_row(key, value);
        }
        let mut tail = KeyTail(key);
        let place = (
            tail.u8(),
            tail.u32().map(TopicId),
            tail.u32().map(Partition),
            tail.u64().map(Offset),
        );
        let (Some(TABLE_MESSAGES), Some(topic_id), Some(partition), Some(first)) = place else {
            return Err(String::from("no version has such a key"));
        };
        let logs = self.logs.get_or_insert_default();
        while let Some(log) = logs.front() {
            if (log.topic_id, log.partition) >= (topic_id, partition) {
                break;
            }
            log.finish(&self.namespace)?;
            logs.pop_front();
        }
        let log = logs
            .front_mut()
            .filter(|log| (log.topic_id, log.partition) == (topic_id, partition));
        let log = log.ok_or_else(|| {
            format!(
                "messages of topic {} partition {}, which the state does not know",
                topic_id.0, partition.0
            )
        })?;
        match log.row(&self.namespace, first, value)? {
            Some(messages) => self.summary.messages += messages,
            None => self.summary.leftover_rows += 1,
        }
        Ok(())
    }

    /// Takes the body of what waits for its time.
    fn scheduled_row(&mut self, key: &[u8], body: &[u8]) -> Result<(), String> {
        let key = scheduled_key(KeyTail(key));
        let place = key.ok_or_else(|| String::from("no version has such a key"))?;
        match self.next_scheduled() {
            Some(next) if next < place => return Err(missing_body(next)),
            Some(next) if next == place => {
                if !self.namespace.schedule.fits(place.1, body) {
                    return Err(unsound("scheduled message"));
                }
                self.last_scheduled = place;
            }
            _ if self.is_archive => {
                return Err(format!("nothing is scheduled as {}", place.1.0));
            }
            _ => self.summary.leftover_rows += 1,
        }
        Ok(())
    }

    /// What waits for its time, and whose body comes next.
    fn next_scheduled(&self) -> Option<(Timestamp, ScheduleId)> {
        let from = (Bound::Excluded(self.last_scheduled), Bound::Unbounded);
        self.namespace.schedule.order.range(from).next().copied()
    }

    /// Says whether anything is missing, now that all rows were given, or else what they hold.
    pub fn finish(&mut self) -> Result<NamespaceSummary, String> {
        self.end_of_state()?;
        for log in self.logs.iter().flatten() {
            log.finish(&self.namespace)?;
        }
        if !self.namespace.import_broken_off
            && let Some(next) = self.next_scheduled()
        {
            return Err(missing_body(next));
        }
        self.summary.topics = self.namespace.topics.len() as u64;
        self.summary.import_broken_off = self.namespace.import_broken_off;
        Ok(self.summary)
    }

    /// Whether an archive may have a row with such a key: what belongs to one place does not travel.
    pub(crate) fn travels(key: &[u8]) -> bool {
        !matches!(
            key.first(),
            None | Some(
                &TABLE_CONNECTION
                    | &TABLE_MEMBER
                    | &TABLE_IMPORT
                    | &TABLE_LIMITER
                    | &TABLE_QUOTA
                    | &TABLE_USAGE
            )
        )
    }

    /// The namespace that the rows make.
    pub(crate) const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The namespace of the rows.
    pub(crate) fn into_namespace(self) -> Namespace {
        *self.namespace
    }

    fn end_of_state(&mut self) -> Result<(), String> {
        if self.logs.is_some() {
            return Ok(());
        }
        self.namespace.check_whole()?;
        let mut logs = Vec::new();
        // The topics were inserted in the order of their numbers, and none was removed.
        for (index, topic) in &self.namespace.topics {
            for (partition, state) in (0..).map(Partition).zip(&topic.partitions) {
                if topic.config.kind == Kind::Live {
                    continue;
                }
                logs.push(LogVerifier {
                    topic: index as u32,
                    topic_id: topic.id,
                    partition,
                    next: state.log.start(),
                    segment: 0,
                    segment_bytes: 0,
                });
            }
        }
        if self.namespace.import_broken_off {
            // The messages belong to topics that never came to be.
            logs.clear();
        }
        self.logs = Some(logs.into());
        Ok(())
    }
}

fn missing_body((at, id): (Timestamp, ScheduleId)) -> String {
    format!(
        "the body of message {}, which is scheduled for {}, is missing",
        id.0, at.0
    )
}

impl Namespace {
    /// Says which partition lacks segments, once all rows of the state were read.
    pub(crate) fn check_whole(&self) -> Result<(), String> {
        for (_, topic) in &self.topics {
            for (partition, state) in topic.partitions.iter().enumerate() {
                if !state.log.is_whole() {
                    return Err(format!(
                        "segments of topic \"{}\" partition {partition} are missing",
                        topic.name
                    ));
                }
            }
        }
        Ok(())
    }
}

impl LogVerifier {
    /// Takes a row of messages; how many it holds, `None` if the log does not reach back to it any more.
    fn row(
        &mut self,
        namespace: &Namespace,
        first: Offset,
        value: &[u8],
    ) -> Result<Option<u64>, String> {
        let topic = &namespace.topics[self.topic as usize];
        let log = &topic.partitions[self.partition.0 as usize].log;
        let unsound = |_| String::from("the messages are not what any version writes");
        let mut reader = Reader::new(value);
        let head = RowHead::take(&mut reader).map_err(unsound)?;
        let end = Offset(
            first
                .0
                .checked_add(head.span)
                .ok_or_else(|| unsound(Malformed))?,
        );
        if end <= log.start() {
            return Ok(None);
        }
        let compacted = topic.config.kind == Kind::Compacted;
        if first < self.next
            || end > log.end()
            || head.span == 0
            || (!compacted && first > self.next)
        {
            return Err(format!(
                "offsets {}..{} do not follow {} in topic \"{}\" partition {}, which ends at {}",
                first.0,
                end.0,
                self.next.0,
                topic.name,
                self.partition.0,
                log.end().0
            ));
        }
        while first >= log.segment_end(self.segment) {
            self.end_segment(namespace)?;
        }
        let mut messages = 0;
        let mut at = first;
        while !reader.is_empty() {
            let bytes = reader.bytes().map_err(unsound)?;
            let record = read_record(bytes).map_err(unsound)?;
            let offset = Offset(record.offset);
            if offset < at || offset >= end || (!compacted && offset > at) {
                return Err(format!(
                    "offset {} stands at {} of topic \"{}\" partition {}",
                    offset.0, at.0, topic.name, self.partition.0
                ));
            }
            let priority = priority_of(&record);
            if topic.config.ordering == Ordering::None
                && priority > 0
                && log.priority_from(priority, offset) != Some(offset)
            {
                return Err(format!(
                    "offset {} of topic \"{}\" partition {} has the priority {priority}, of which its segment does not know",
                    offset.0, topic.name, self.partition.0
                ));
            }
            at = offset.next();
            messages += 1;
            self.segment_bytes += bytes.len() as u64;
        }
        if !compacted && at != end {
            return Err(format!(
                "offset {} is missing in topic \"{}\" partition {}",
                at.0, topic.name, self.partition.0
            ));
        }
        self.next = end;
        Ok(Some(messages))
    }

    fn end_segment(&mut self, namespace: &Namespace) -> Result<(), String> {
        let topic = &namespace.topics[self.topic as usize];
        let log = &topic.partitions[self.partition.0 as usize].log;
        let segment = &log.segments()[self.segment];
        if self.segment_bytes != segment.size_bytes {
            return Err(format!(
                "the segment at offset {} of topic \"{}\" partition {} has {} bytes of messages instead of {}",
                segment.base.0,
                topic.name,
                self.partition.0,
                self.segment_bytes,
                segment.size_bytes
            ));
        }
        self.segment += 1;
        self.segment_bytes = 0;
        Ok(())
    }

    /// Says what is missing at the end.
    fn finish(&self, namespace: &Namespace) -> Result<(), String> {
        let topic = &namespace.topics[self.topic as usize];
        let log = &topic.partitions[self.partition.0 as usize].log;
        if topic.config.kind != Kind::Compacted && self.next != log.end() {
            return Err(format!(
                "offsets {}..{} of topic \"{}\" partition {} are missing",
                self.next.0,
                log.end().0,
                topic.name,
                self.partition.0
            ));
        }
        let mut rest = Self { ..*self };
        while rest.segment < log.segments().len() {
            rest.end_segment(namespace)?;
        }
        Ok(())
    }
}
