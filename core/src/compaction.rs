//! Key compaction: of a compacted topic only the newest message of every key is kept, eventually.
//!
//! A pass has two halves, as in Kafka's log cleaner: the first reads what came since the last pass and notes the
//! newest offset of every key; the second reads the log from its start and rewrites the rows that hold older ones.
//! A row keeps its key and the offsets it stands for. A message with an empty payload deletes its key: it stays
//! for the pass that takes the older values and for `tombstone_ms_min`, so that readers hear of it, and goes with the
//! next pass.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::config::Config;
use crate::context::{Context, LoadOwner, Work};
use crate::effect::{Effect, Op};
use crate::hash::{Digest, Map, digest};
use crate::ids::{Offset, Partition, Ticket, Timestamp, TopicId};
use crate::input::{LoadFailed, Row};
use crate::log::{Log, LogKeys, RowHead, read_record};
use crate::namespace::Namespace;
use crate::rows::row_first_offset;
use crate::wire::{Malformed, Put as _, Reader};

pub(crate) struct Compaction {
    topic: u32,
    topic_id: TopicId,
    partition: Partition,
    newest: Map<Digest, Offset>,
    keys: u64,
    /// Whether the first half is done.
    rewrites: bool,
    /// Where to read on, and where the pass ends.
    next: Offset,
    upto: Offset,
    /// Where the previous pass ended; only tombstones below may go.
    heard: Offset,
    /// How many bytes of new messages it has looked at.
    noted_bytes: u64,
    ticket: Option<Ticket>,
}

impl Log {
    /// Whether enough came since the last pass: as much as was left by it, and at least the bound.
    pub(crate) fn wants_compaction(&self, config: &Config) -> bool {
        let clean = self.size_bytes().saturating_sub(self.dirty_bytes);
        // Without a message that no pass has looked at, another would find what the last one did, for ever.
        self.compacted_to < self.end() && self.dirty_bytes >= clean.max(config.compaction_bytes_min)
    }
}

impl Namespace {
    /// Begins the next pass or goes on with the one under way, unless an export reads what it would rewrite.
    pub(crate) fn compact(&mut self, cx: &mut Context) {
        if !self.exports.is_empty() {
            return;
        }
        if self.compaction.is_none() {
            let Some((topic, topic_id, partition)) = self.compaction_queue.pop_front() else {
                return;
            };
            let Some(state) = self.same_topic(topic, topic_id) else {
                return self.next_compaction(cx);
            };
            let log = &state.partitions[partition.0 as usize].log;
            self.compaction = Some(Box::new(Compaction {
                topic,
                topic_id,
                partition,
                newest: Map::with_seed(topic_id.0.into()),
                keys: 0,
                rewrites: false,
                next: log.compacted_to.max(log.start()),
                upto: log.end(),
                heard: log.compacted_to,
                noted_bytes: 0,
                ticket: None,
            }));
        }
        self.load_for_compaction(cx);
    }

    /// Whether a pass over this log is under way.
    pub(crate) fn is_compacting(&self, topic_id: TopicId, partition: Partition) -> bool {
        self.compaction
            .as_ref()
            .is_some_and(|pass| pass.topic_id == topic_id && pass.partition == partition)
    }

    fn next_compaction(&mut self, cx: &mut Context) {
        let pass = self.compaction.take();
        if let Some(ticket) = pass.and_then(|pass| pass.ticket) {
            cx.abandon_load(ticket);
        }
        if !self.compaction_queue.is_empty() {
            cx.ready.push_back(Work::Compaction {
                namespace: self.index,
            });
        }
    }

    fn load_for_compaction(&mut self, cx: &mut Context) {
        let Some(pass) = &mut self.compaction else {
            return;
        };
        let work = Work::Compaction {
            namespace: self.index,
        };
        let topic = self
            .topics
            .get(pass.topic as usize)
            .filter(|topic| topic.id == pass.topic_id);
        let Some(topic) = topic else {
            return self.next_compaction(cx);
        };
        if pass.ticket.is_some() {
            return;
        }
        let log = &topic.partitions[pass.partition.0 as usize].log;
        if pass.next >= pass.upto {
            if pass.rewrites {
                return self.finish_compaction(cx);
            }
            pass.rewrites = true;
            pass.next = log.start();
        }
        let owner = LoadOwner::Compaction {
            namespace: self.index,
        };
        let Some(ticket) = cx.take_ticket(owner) else {
            return cx.starved.push_back(work);
        };
        pass.ticket = Some(ticket);
        let keys = LogKeys {
            keys: &self.keys,
            topic: topic.id,
            partition: pass.partition,
        };
        cx.outbox.load(Effect::Load {
            ticket,
            from: keys.messages(pass.next),
            to: keys.messages(pass.upto),
            reverse: false,
            rows_max: cx.config.trim_rows_max as u32,
            bytes_max: cx.config.load_bytes_max as u32,
        });
    }

    fn finish_compaction(&mut self, cx: &mut Context) {
        let Some(pass) = self.compaction.take() else {
            return;
        };
        let log = &mut self.topics[pass.topic as usize].partitions[pass.partition.0 as usize].log;
        log.compacted_to = pass.upto;
        log.dirty_bytes = log.dirty_bytes.saturating_sub(pass.noted_bytes);
        self.touch_log(cx, pass.topic, pass.partition);
        self.next_compaction(cx);
    }

    /// Takes the answer to a pass's load.
    pub(crate) fn compaction_loaded(
        &mut self,
        cx: &mut Context,
        ticket: Ticket,
        result: Result<Vec<Row>, LoadFailed>,
    ) {
        let Some(pass) = &mut self.compaction else {
            return;
        };
        if pass.ticket != Some(ticket) {
            return;
        }
        pass.ticket = None;
        if !self.exports.is_empty() {
            // Read again when the pass goes on.
            return;
        }
        let topic = self
            .topics
            .get_mut(pass.topic as usize)
            .filter(|topic| topic.id == pass.topic_id);
        let (Some(topic), Ok(rows)) = (topic, result) else {
            // A later publish asks for the pass again.
            return self.next_compaction(cx);
        };
        let log = &mut topic.partitions[pass.partition.0 as usize].log;
        let before = log.size_bytes();
        if rows.is_empty() {
            pass.next = pass.upto;
        }
        let settled = Timestamp(cx.now.0.saturating_sub(cx.config.tombstone_ms_min));
        for row in rows {
            let Some(first) = row_first_offset(&row.key) else {
                continue;
            };
            pass.next = pass.next.max(first.next());
            let done = if pass.rewrites {
                pass.rewrite(log, first, &row, settled, &mut cx.ops)
            } else {
                pass.note(&row.value, cx.config.compaction_keys_max)
            };
            // A row that cannot be understood stays as it is.
            if let Ok(end) = done {
                pass.next = pass.next.max(end);
            }
        }
        self.stored_bytes -= before - log.size_bytes();
        if pass.rewrites {
            let (topic, partition) = (pass.topic, pass.partition);
            self.touch_log(cx, topic, partition);
        }
        cx.ready.push_back(Work::Compaction {
            namespace: self.index,
        });
    }
}

impl Compaction {
    /// Notes the newest offsets of a row's keys; the offset after the row.
    fn note(&mut self, value: &[u8], keys_max: u64) -> Result<Offset, Malformed> {
        let mut end = Offset(0);
        for_each_record(value, |record, bytes| {
            self.noted_bytes += bytes.len() as u64;
            end = Offset(record.offset).next();
            let hash = digest(0, record.key.unwrap_or("").as_bytes());
            if self.newest.insert(hash, Offset(record.offset)).is_none() {
                self.keys += 1;
            }
        })?;
        if self.keys >= keys_max {
            // The pass ends here; the next one takes the rest.
            self.upto = end.max(self.next);
        }
        Ok(end)
    }

    /// Writes a row again without what is superseded; the offset after the row.
    fn rewrite(
        &mut self,
        log: &mut Log,
        first: Offset,
        row: &Row,
        settled: Timestamp,
        ops: &mut Vec<Op>,
    ) -> Result<Offset, Malformed> {
        let mut reader = Reader::new(&row.value);
        let head = RowHead::take(&mut reader)?;
        let mut kept = Vec::new();
        let mut dropped_bytes = 0;
        for_each_record(&row.value, |record, bytes| {
            let newest = self
                .newest
                .get(&digest(0, record.key.unwrap_or("").as_bytes()));
            let superseded = newest.is_some_and(|newest| newest.0 > record.offset);
            let heard = record.payload.is_empty()
                && record.offset < self.heard.0
                && record.timestamp < settled.0;
            if superseded || heard {
                dropped_bytes += bytes.len() as u64;
            } else {
                kept.put_bytes(bytes);
            }
        })?;
        let end = Offset(first.0.saturating_add(head.span));
        if dropped_bytes == 0 || first < log.start() {
            return Ok(end);
        }
        log.shrink(first, dropped_bytes);
        if kept.is_empty() {
            ops.push(Op::Delete {
                key: row.key.clone(),
            });
        } else {
            let mut value = Vec::with_capacity(kept.len() + 32);
            head.put(&mut value);
            value.append(&mut kept);
            ops.push(Op::Put {
                key: row.key.clone(),
                value,
            });
        }
        Ok(end)
    }
}

fn for_each_record<'a>(
    value: &'a [u8],
    mut each: impl FnMut(&crate::protocol::frame::Record<'a>, &'a [u8]),
) -> Result<(), Malformed> {
    let mut reader = Reader::new(value);
    RowHead::take(&mut reader)?;
    while !reader.is_empty() {
        let bytes = reader.bytes()?;
        each(&read_record(bytes)?, bytes);
    }
    Ok(())
}
