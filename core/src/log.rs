//! One partition: where it begins and ends, its segments, and the messages of this batch that are not written yet.
//!
//! The messages of one batch are packed into rows. Rows belong to segments; a segment is what retention deletes, and
//! what is kept of it in memory is its extent, never its messages. So memory is bounded by the number of segments,
//! finding a place costs a binary search, and deleting costs one range however many messages go.
//! A live topic has no rows and no segments: it keeps a ring, and only while a subscriber is behind.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::config::Config;
use crate::effect::{After, Op};
use crate::ids::{Offset, Partition, Sequence, Timestamp, TopicId};
use crate::priority::PRIORITY_MAX;
use crate::protocol::field::Item as _;
use crate::protocol::frame::Record;
use crate::rows::{Keys, ROW_VERSION};
use crate::topic::{Kind, Retention, TopicConfig};
use crate::wire::{Malformed, Put, Reader};

/// A bit for each priority above 0.
const PRIORITIES: u8 = (2 << PRIORITY_MAX) - 2;

/// A run of rows that retention deletes as one. Its end is the base of the next, or the end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) base: Offset,
    pub(crate) first_sequence: Sequence,
    pub(crate) last_sequence: Sequence,
    pub(crate) first_timestamp: Timestamp,
    pub(crate) last_timestamp: Timestamp,
    pub(crate) size_bytes: u64,
    pub(crate) rows: u64,
    /// The priorities above 0 that its messages have, a bit each. Key compaction may leave one behind.
    priorities: u8,
    /// Whether its row is written; the newest segment's extent stands in the partition's row instead.
    stored: bool,
}

/// A message of a live topic that somebody who is behind may still want.
#[derive(Clone, Debug)]
pub(crate) struct RingEntry {
    pub(crate) offset: Offset,
    pub(crate) sequence: Sequence,
    /// The fields of a `Record`.
    pub(crate) record: Vec<u8>,
}

/// When a segment or a row is closed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RollBounds {
    row_bytes: u64,
    segment_bytes: u64,
    segment_messages: u64,
    segment_rows: u64,
    segment_ms: u64,
}

impl RollBounds {
    /// Segments are a sixteenth of what retention keeps, so that it is kept to a sixteenth.
    pub(crate) fn new(config: &Config, topic: &TopicConfig) -> Self {
        let retention = topic.effective_retention();
        let share = |bound: u64| {
            if bound == 0 {
                u64::MAX
            } else {
                (bound / 16).max(1)
            }
        };
        Self {
            row_bytes: config.row_bytes_max,
            segment_bytes: share(retention.max_bytes).min(config.segment_bytes_max),
            segment_messages: share(retention.max_messages),
            segment_rows: config.segment_rows_max,
            segment_ms: share(retention.max_age_ms),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    start: Offset,
    end: Offset,
    last_sequence: Sequence,
    /// The last sequence that retention took, and the namespace's sequence when it did.
    trimmed_to: Sequence,
    trimmed_at: Sequence,
    size_bytes: u64,
    segments: VecDeque<Segment>,
    /// Behind the last message of every priority above 0; the end of its segment may stand for it.
    priority_ends: [Offset; PRIORITY_MAX as usize],
    /// What deliveries of this partition have waited for so far; no later one waits for less.
    pub(crate) after: After,
    /// Offsets below this are in the store, or were.
    written_end: Offset,
    /// Rows that are closed but not written: first offset and value.
    closed: Vec<(Offset, Vec<u8>)>,
    open: Option<OpenRow>,
    /// Segments that retention took and whose own rows are still to be deleted.
    unlisted: Vec<Offset>,
    /// Segments that retention took and whose messages' rows are still to be deleted: where each ends,
    /// and how many rows.
    doomed: VecDeque<(Offset, u64)>,
    /// Up to where rows were deleted in this life. After a restart deleting begins from the front again, in case
    /// that the last life came to its end before it deleted what it meant to.
    deleted_to: Offset,
    ring: VecDeque<RingEntry>,
    ring_bytes: u64,
    /// Up to where key compaction has looked, and how many bytes came since.
    pub(crate) compacted_to: Offset,
    reshaped: bool,
    pub(crate) dirty_bytes: u64,
}

/// A row that still grows.
#[derive(Clone, Debug)]
struct OpenRow {
    first: Offset,
    first_sequence: Sequence,
    first_timestamp: Timestamp,
    records: Vec<u8>,
}

impl Log {
    pub(crate) const fn start(&self) -> Offset {
        self.start
    }

    pub(crate) const fn end(&self) -> Offset {
        self.end
    }

    pub(crate) const fn last_sequence(&self) -> Sequence {
        self.last_sequence
    }

    pub(crate) const fn trimmed_to(&self) -> Sequence {
        self.trimmed_to
    }

    pub(crate) const fn trimmed_at(&self) -> Sequence {
        self.trimmed_at
    }

    pub(crate) const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(crate) const fn ring(&self) -> &VecDeque<RingEntry> {
        &self.ring
    }

    pub(crate) const fn ring_bytes(&self) -> u64 {
        self.ring_bytes
    }

    /// When the newest message that is kept was published.
    pub(crate) fn last_timestamp(&self) -> Timestamp {
        self.segments
            .back()
            .map_or(Timestamp(0), |newest| newest.last_timestamp)
    }

    /// A sequence below that of the first message that is not older than `since`, as near to it as the extents of
    /// segments tell.
    pub(crate) fn sequence_before_time(&self, since: Timestamp) -> Sequence {
        let index = self
            .segments
            .partition_point(|segment| segment.last_timestamp < since);
        self.segments
            .get(index)
            .map_or(self.last_sequence, |segment| {
                Sequence(segment.first_sequence.0 - 1)
            })
    }

    /// A sequence below that of the message at `offset`, as near to it as the extents of segments tell.
    pub(crate) fn sequence_before(&self, offset: Offset) -> Sequence {
        let index = self
            .segments
            .partition_point(|segment| segment.base <= offset);
        let Some(segment) = self.segments.get(index.saturating_sub(1)) else {
            return Sequence(0);
        };
        let above = offset.0.saturating_sub(segment.base.0);
        Sequence((segment.first_sequence.0 + above).saturating_sub(1))
    }

    /// How many messages come after a sequence, as near as the extents of segments tell: never less than there are.
    pub(crate) fn count_after(&self, after: Sequence) -> u64 {
        let index = self
            .segments
            .partition_point(|segment| segment.last_sequence <= after);
        let Some(segment) = self.segments.get(index) else {
            return 0;
        };
        let end = self.segment_end(index);
        let inside = if after < segment.first_sequence {
            u64::MAX
        } else {
            segment.last_sequence.0 - after.0
        };
        inside.min(end.0 - segment.base.0) + (self.end.0 - end.0)
    }

    /// The first offset that is not older than `since`, or one below it, as near as the extents of segments tell.
    pub(crate) fn offset_before_time(&self, since: Timestamp) -> Offset {
        let index = self
            .segments
            .partition_point(|segment| segment.last_timestamp < since);
        self.segments
            .get(index)
            .map_or(self.end, |segment| segment.base)
    }

    /// The row with this offset, if it is not written yet: where its records begin in it, and the offset behind it.
    pub(crate) fn unwritten(&self, offset: Offset) -> Option<(&[u8], usize, Offset)> {
        if offset < self.written_end || offset >= self.end {
            return None;
        }
        if let Some(open) = &self.open
            && open.first <= offset
        {
            return Some((&open.records, 0, self.end));
        }
        let index = self.closed.partition_point(|(first, _)| *first <= offset);
        let (first, value) = self.closed.get(index.checked_sub(1)?)?;
        let mut reader = Reader::new(value);
        let head = RowHead::take(&mut reader).ok()?;
        let records = value.len() - reader.rest().len();
        Some((value, records, Offset(first.0 + head.span)))
    }

    pub(crate) const fn segments(&self) -> &VecDeque<Segment> {
        &self.segments
    }

    /// The offset after the segment with this index.
    pub(crate) fn segment_end(&self, index: usize) -> Offset {
        self.segments
            .get(index + 1)
            .map_or(self.end, |next| next.base)
    }

    /// Appends a record whose offset is [`Log::end`].
    pub(crate) fn append(
        &mut self,
        record: &[u8],
        sequence: Sequence,
        now: Timestamp,
        roll: &RollBounds,
    ) {
        debug_assert!(sequence > self.last_sequence, "sequences rise");
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                if self.segments.back().is_none_or(|newest| {
                    newest.size_bytes >= roll.segment_bytes
                        || self.end.0 - newest.base.0 >= roll.segment_messages
                        || newest.rows >= roll.segment_rows
                        || now.since_ms(newest.first_timestamp) >= roll.segment_ms
                }) {
                    self.segments.push_back(Segment {
                        base: self.end,
                        first_sequence: sequence,
                        last_sequence: sequence,
                        first_timestamp: now,
                        last_timestamp: now,
                        size_bytes: 0,
                        rows: 0,
                        priorities: 0,
                        stored: false,
                    });
                }
                self.open.insert(OpenRow {
                    first: self.end,
                    first_sequence: sequence,
                    first_timestamp: now,
                    records: Vec::new(),
                })
            }
        };
        open.records.put_bytes(record);
        let row_full = open.records.len() as u64 >= roll.row_bytes;
        let newest = self
            .segments
            .back_mut()
            .expect("an open row belongs to the newest segment");
        newest.size_bytes += record.len() as u64;
        newest.last_sequence = sequence;
        newest.last_timestamp = now;
        self.size_bytes += record.len() as u64;
        self.dirty_bytes += record.len() as u64;
        self.last_sequence = sequence;
        self.end = self.end.next();
        if row_full || self.end.0 - newest.base.0 >= roll.segment_messages {
            self.close_row();
        }
    }

    /// Notes that the newest message has a priority above 0, on a topic where queues look for it.
    pub(crate) fn note_priority(&mut self, priority: u8) {
        if let Some(newest) = self.segments.back_mut() {
            newest.priorities |= 1 << priority;
        }
        self.priority_ends[priority as usize - 1] = self.end;
    }

    /// Whether messages have priorities above 0, or had since it was read from the store.
    pub(crate) fn has_priorities(&self) -> bool {
        self.priority_ends.iter().any(|end| *end > Offset(0))
    }

    /// The first place from `from` on where a message of this priority above 0 may lie.
    pub(crate) fn priority_from(&self, priority: u8, from: Offset) -> Option<Offset> {
        if from >= self.priority_ends[priority as usize - 1] {
            return None;
        }
        let first = self
            .segments
            .partition_point(|segment| segment.base <= from)
            .saturating_sub(1);
        let mut segments = self.segments.range(first..);
        let found = segments.find(|segment| segment.priorities & 1 << priority != 0);
        found.map(|segment| segment.base.max(from))
    }

    fn restore_priorities(&mut self, segment: &Segment, end: Offset) {
        for (priority, priority_end) in (1..).zip(&mut self.priority_ends) {
            if segment.priorities & 1 << priority != 0 {
                *priority_end = (*priority_end).max(end);
            }
        }
    }

    /// Takes the place of a record that nobody stores; keeps it in the ring if `keep`, which may grow by `room` bytes.
    pub(crate) fn append_live(
        &mut self,
        record: &[u8],
        sequence: Sequence,
        keep: bool,
        room: u64,
        config: &Config,
    ) {
        debug_assert!(sequence > self.last_sequence, "sequences rise");
        if keep {
            let bytes_max = config.ring_bytes_max.min(self.ring_bytes + room);
            self.ring_bytes += record.len() as u64;
            self.ring.push_back(RingEntry {
                offset: self.end,
                sequence,
                record: record.to_vec(),
            });
            while self.ring.len() as u64 > config.ring_messages_max || self.ring_bytes > bytes_max {
                let oldest = self
                    .ring
                    .pop_front()
                    .expect("a ring over its bound is not empty");
                self.ring_bytes -= oldest.record.len() as u64;
                // What is not in the ring is gone, which a reader who is behind must be told.
                self.trimmed_to = oldest.sequence;
                self.trimmed_at = sequence;
            }
        } else {
            // Everybody whom it concerns is at the tail, so nobody needs what was kept before.
            self.ring.clear();
            self.ring_bytes = 0;
            self.trimmed_to = sequence;
            self.trimmed_at = sequence;
        }
        self.last_sequence = sequence;
        self.end = self.end.next();
        self.start = self.ring.front().map_or(self.end, |oldest| oldest.offset);
    }

    /// Begins a life of a live log, of which nothing is stored: every offset lies below the namespace's last sequence
    /// when it is given, so above all that were reserved none is given twice. What was given while a reservation was
    /// on its way to the store, and a crash took that, may be; its readers are told `truncated`.
    pub(crate) fn begin_live(&mut self, last: Sequence) {
        self.start = Offset(last.0);
        self.end = self.start;
    }

    /// Lets go of the ring: nobody is behind any more.
    pub(crate) fn clear_ring(&mut self) {
        self.ring = VecDeque::new();
        self.ring_bytes = 0;
        self.start = self.end;
        self.trimmed_to = self.last_sequence;
        // A reader that resumes from before then has missed it.
        self.trimmed_at = self.last_sequence;
    }

    fn close_row(&mut self) {
        let Some(open) = self.open.take() else { return };
        let newest = self
            .segments
            .back_mut()
            .expect("an open row belongs to the newest segment");
        newest.rows += 1;
        let mut value = Vec::with_capacity(open.records.len() + 32);
        RowHead {
            span: self.end.0 - open.first.0,
            first_sequence: open.first_sequence,
            last_sequence: newest.last_sequence,
            first_timestamp: open.first_timestamp,
            last_timestamp: newest.last_timestamp,
        }
        .put(&mut value);
        value.extend_from_slice(&open.records);
        self.closed.push((open.first, value));
    }

    /// Whether retention wants the oldest segment gone.
    pub(crate) fn is_trim_due(&self, retention: &Retention, now: Timestamp) -> bool {
        let Some(oldest) = self.segments.front() else {
            return false;
        };
        let single = self.segments.len() == 1;
        let over = |value: u64, bound: u64| bound > 0 && value > bound;
        over(now.since_ms(oldest.last_timestamp), retention.max_age_ms)
            || (!single && over(self.size_bytes, retention.max_bytes))
            || (!single && over(self.end.0 - self.start.0, retention.max_messages))
    }

    /// Deletes what retention does not keep, oldest segments first, while `rows_left` lasts. `at` is the sequence
    /// to be remembered as the time of it. True if something went; the rest is due again at once.
    pub(crate) fn trim(
        &mut self,
        retention: &Retention,
        now: Timestamp,
        at: Sequence,
        rows_left: &mut u64,
    ) -> bool {
        let mut trimmed = false;
        while *rows_left > 0 && self.is_trim_due(retention, now) {
            if self.segments.len() == 1 {
                self.close_row();
            }
            let end = self.segment_end(0);
            let oldest = self.segments.pop_front().expect("what is due is there");
            *rows_left = rows_left.saturating_sub(oldest.rows);
            if oldest.base < self.written_end {
                self.doomed.push_back((end, oldest.rows));
            }
            if oldest.stored {
                self.unlisted.push(oldest.base);
            }
            self.start = end;
            self.size_bytes -= oldest.size_bytes;
            self.trimmed_to = oldest.last_sequence;
            self.trimmed_at = at;
            trimmed = true;
        }
        trimmed
    }

    /// Whether rows of messages are to be deleted.
    pub(crate) fn is_doomed(&self) -> bool {
        !self.doomed.is_empty()
    }

    /// Appends the one operation that deletes the messages which retention took, about `rows_max` rows of them.
    fn delete_doomed(&mut self, keys: &LogKeys<'_>, rows_max: u64, ops: &mut Vec<Op>) {
        let mut to = None;
        let mut deleted = 0;
        while deleted < rows_max
            && let Some((end, rows)) = self.doomed.pop_front()
        {
            to = Some(end);
            deleted += rows.max(1);
        }
        if let Some(to) = to {
            ops.push(Op::DeleteRange {
                from: keys.messages(self.deleted_to),
                to: keys.messages(to),
            });
            self.deleted_to = to;
        }
    }

    /// Appends the operations that store what changed. Unless `rows_max` is 0, the messages that retention took are
    /// deleted as well, about so many rows of them.
    pub(crate) fn flush(
        &mut self,
        keys: &LogKeys<'_>,
        kind: Kind,
        rows_max: u64,
        ops: &mut Vec<Op>,
    ) {
        if kind == Kind::Live {
            return;
        }
        self.close_row();
        for (first, value) in self.closed.drain(..) {
            if first >= self.start {
                ops.push(Op::Put {
                    key: keys.messages(first),
                    value,
                });
            }
        }
        self.written_end = self.end;
        self.delete_doomed(keys, rows_max, ops);
        for base in self.unlisted.drain(..) {
            ops.push(Op::Delete {
                key: keys.segment(base),
            });
        }
        let sealed = self.segments.len().saturating_sub(1);
        for segment in self.segments.iter_mut().take(sealed).rev() {
            if segment.stored {
                // Older ones are stored too, unless key compaction has changed them.
                if self.reshaped {
                    continue;
                }
                break;
            }
            segment.stored = true;
            let mut value = Vec::new();
            value.put_u64(ROW_VERSION);
            segment.put(&mut value);
            ops.push(Op::Put {
                key: keys.segment(segment.base),
                value,
            });
        }
        self.reshaped = false;
        let mut value = Vec::with_capacity(48);
        self.put(&mut value);
        ops.push(Op::Put {
            key: keys.partition(),
            value,
        });
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(ROW_VERSION);
        for value in [
            self.start.0,
            self.end.0,
            self.last_sequence.0,
            self.trimmed_to.0,
            self.trimmed_at.0,
            self.size_bytes,
            self.compacted_to.0,
            self.dirty_bytes,
        ] {
            out.put_u64(value);
        }
        if let Some(newest) = self.segments.back() {
            out.put_u64(newest.base.0);
            newest.put(out);
        }
    }

    /// Reads a partition's row; the sealed segments follow with [`Log::restore_segment`].
    pub(crate) fn restore(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        if reader.u64()? != ROW_VERSION {
            return Err(Malformed);
        }
        let mut log = Self {
            start: Offset(reader.counted()?),
            end: Offset(reader.counted()?),
            last_sequence: Sequence(reader.counted()?),
            trimmed_to: Sequence(reader.counted()?),
            trimmed_at: Sequence(reader.counted()?),
            size_bytes: reader.counted()?,
            compacted_to: Offset(reader.counted()?),
            dirty_bytes: reader.counted()?,
            ..Self::default()
        };
        if !reader.is_empty() {
            let base = Offset(reader.counted()?);
            let newest = Segment::take(base, &mut reader)?;
            log.restore_priorities(&newest, log.end);
            log.segments.push_back(newest);
        }
        reader.end()?;
        let newest_fits = log
            .segments
            .back()
            .is_none_or(|newest| newest.base <= log.end && log.start <= newest.base);
        if log.start > log.end || !newest_fits || (log.segments.is_empty() && log.start != log.end)
        {
            return Err(Malformed);
        }
        log.written_end = log.end;
        Ok(log)
    }

    /// Puts back a sealed segment, in the order of bases.
    pub(crate) fn restore_segment(&mut self, base: Offset, value: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(value);
        if reader.u64()? != ROW_VERSION {
            return Err(Malformed);
        }
        let mut segment = Segment::take(base, &mut reader)?;
        reader.end()?;
        segment.stored = true;
        let newest = self.segments.pop_back().ok_or(Malformed)?;
        let above = self
            .segments
            .back()
            .is_none_or(|previous| previous.base < base);
        if base < self.start || base >= newest.base || !above {
            return Err(Malformed);
        }
        self.restore_priorities(&segment, newest.base);
        self.segments.push_back(segment);
        self.segments.push_back(newest);
        Ok(())
    }

    /// Whether the segments cover the log, and their sizes make up its size: what is restored row by row may lack one.
    pub(crate) fn is_whole(&self) -> bool {
        let front = self.segments.front();
        let sizes = self.segments.iter().map(|segment| segment.size_bytes);
        front.map_or(self.end, |oldest| oldest.base) == self.start
            && sizes.fold(0, u64::saturating_add) == self.size_bytes
    }

    /// Accounts for bytes that key compaction took from the row at `first`.
    pub(crate) fn shrink(&mut self, first: Offset, bytes: u64) {
        let index = self
            .segments
            .partition_point(|segment| segment.base <= first);
        let segment = &mut self.segments[index - 1];
        segment.size_bytes -= bytes;
        segment.stored = false;
        self.size_bytes -= bytes;
        self.reshaped = true;
    }

    #[cfg(any(test, feature = "check"))]
    pub(crate) fn check_invariants(&self) {
        assert!(self.start <= self.end, "a log begins before it ends");
        assert_eq!(
            self.segments
                .iter()
                .map(|segment| segment.size_bytes)
                .sum::<u64>(),
            self.size_bytes
        );
        let mut at = self
            .segments
            .front()
            .map_or(self.start, |oldest| oldest.base);
        let mut sequence = Sequence(0);
        for (index, segment) in self.segments.iter().enumerate() {
            assert_eq!(segment.base, at, "segments follow one another");
            assert!(segment.first_sequence > sequence, "sequences rise");
            assert!(segment.last_sequence >= segment.first_sequence);
            sequence = segment.last_sequence;
            at = self.segment_end(index);
            assert!(at > segment.base, "a segment is not empty");
        }
        assert!(self.priority_ends.iter().all(|end| *end <= self.end));
        assert_eq!(
            self.ring
                .iter()
                .map(|entry| entry.record.len() as u64)
                .sum::<u64>(),
            self.ring_bytes
        );
    }
}

impl Segment {
    fn put(&self, out: &mut Vec<u8>) {
        for value in [
            self.first_sequence.0,
            self.last_sequence.0,
            self.first_timestamp.0,
            self.last_timestamp.0,
            self.size_bytes,
            self.rows,
        ] {
            out.put_u64(value);
        }
        if self.priorities != 0 {
            out.push(self.priorities);
        }
    }

    fn take(base: Offset, reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut segment = Self {
            base,
            first_sequence: Sequence(reader.counted()?),
            last_sequence: Sequence(reader.counted()?),
            first_timestamp: Timestamp(reader.u64()?),
            last_timestamp: Timestamp(reader.u64()?),
            size_bytes: reader.counted()?,
            rows: reader.counted()?,
            priorities: 0,
            stored: false,
        };
        if !reader.is_empty() {
            segment.priorities = reader.u8()?;
            if segment.priorities == 0 || segment.priorities & !PRIORITIES != 0 {
                return Err(Malformed);
            }
        }
        if Sequence(1) <= segment.first_sequence && segment.first_sequence <= segment.last_sequence
        {
            Ok(segment)
        } else {
            Err(Malformed)
        }
    }
}

/// The keys of one partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogKeys<'a> {
    pub(crate) keys: &'a Keys,
    pub(crate) topic: TopicId,
    pub(crate) partition: Partition,
}

impl LogKeys<'_> {
    pub(crate) fn messages(&self, first: Offset) -> Vec<u8> {
        self.keys.messages(self.topic, self.partition, first)
    }

    fn segment(&self, base: Offset) -> Vec<u8> {
        self.keys.segment(self.topic, self.partition, base)
    }

    fn partition(&self) -> Vec<u8> {
        self.keys.partition(self.topic, self.partition)
    }
}

/// The beginning of a message row's value; the records follow, each with its length in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowHead {
    /// How many offsets the row stands for; after key compaction it holds fewer messages.
    pub(crate) span: u64,
    pub(crate) first_sequence: Sequence,
    pub(crate) last_sequence: Sequence,
    pub(crate) first_timestamp: Timestamp,
    pub(crate) last_timestamp: Timestamp,
}

impl RowHead {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(ROW_VERSION);
        out.put_u64(self.span);
        out.put_u64(self.first_sequence.0);
        out.put_u64(self.last_sequence.0 - self.first_sequence.0);
        out.put_u64(self.first_timestamp.0);
        out.put_u64(self.last_timestamp.0 - self.first_timestamp.0);
    }

    pub(crate) fn take(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        if reader.u64()? != ROW_VERSION {
            return Err(Malformed);
        }
        let span = reader.counted()?;
        let first_sequence = reader.counted()?;
        let last_sequence = first_sequence + reader.counted()?;
        let first_timestamp = reader.u64()?;
        let last_timestamp = first_timestamp
            .checked_add(reader.u64()?)
            .ok_or(Malformed)?;
        Ok(Self {
            span,
            first_sequence: Sequence(first_sequence),
            last_sequence: Sequence(last_sequence),
            first_timestamp: Timestamp(first_timestamp),
            last_timestamp: Timestamp(last_timestamp),
        })
    }
}

/// Reads one stored record.
pub(crate) fn read_record(bytes: &[u8]) -> Result<Record<'_>, Malformed> {
    Record::take_fields(&mut Reader::new(bytes))
}
