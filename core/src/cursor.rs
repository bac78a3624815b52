//! A reader's place in one partition: yields the records from a place on, in order, and says what must be loaded
//! before it can go on. History pages, catching up and key compaction are all made of it.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::config::Config;
use crate::echo::Source;
use crate::effect::Effect;
use crate::ids::{Offset, Sequence, Ticket, Timestamp};
use crate::input::Row;
use crate::log::{Log, LogKeys, RowHead, read_record};
use crate::protocol::frame::Record;
use crate::rows::row_first_offset;
use crate::wire::Reader;

/// From where on a reader wants records; all three must be met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) offset: Offset,
    /// Only records after this.
    pub(crate) after: Sequence,
    /// Only records that are not older than this.
    pub(crate) since: Timestamp,
}

#[derive(Debug)]
pub(crate) struct Cursor {
    start: Start,
    /// The first offset that was not yielded and not passed over.
    next: Offset,
    /// Whether the row that holds `next` begins there, or was loaded. If not, it is looked for from behind.
    located: bool,
    rows: VecDeque<LoadedRow>,
    ticket: Option<Ticket>,
    /// Whether it reads what is not written yet from memory, not waiting for the store.
    unwritten: bool,
    /// The end of the log when the load under way was asked for.
    asked_to: Offset,
    /// What could not be understood since this was last asked.
    unreadable: Option<Unreadable>,
}

/// Rows that were passed over because they could not be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) rows: u64,
    /// The first offset that may be missing.
    pub(crate) from: Offset,
}

#[derive(Debug)]
struct LoadedRow {
    value: Vec<u8>,
    /// Where the next record's length begins.
    at: usize,
    /// The offset after the row.
    end: Offset,
    /// Whether its head could not be understood; then nothing of it can.
    spoilt: bool,
}

/// What a cursor can do next.
pub(crate) enum Step {
    /// There is a record to look at.
    Ready,
    /// There is nothing more in the log.
    End,
    /// Rows must be loaded first.
    Load,
    /// A load is under way.
    Wait,
    /// Offsets from the cursor's place up to this one were deleted before they were read.
    Trimmed {
        /// The first missing offset; the cursor stands at the log's start now.
        from: Offset,
    },
}

impl Cursor {
    pub(crate) fn new(log: &Log, start: Start) -> Self {
        let mut next = start.offset.max(log.start());
        let mut located = true;
        let segments = log.segments();
        let index = segments.partition_point(|segment| {
            segment.last_sequence <= start.after || segment.last_timestamp < start.since
        });
        match segments.get(index) {
            Some(segment) => {
                let end = log.segment_end(index);
                // At most so many records of the segment come after `after`, so none of them lies lower than this.
                let wanted = segment.last_sequence.0 - start.after.0.min(segment.last_sequence.0);
                next = next
                    .max(segment.base)
                    .max(Offset(end.0.saturating_sub(wanted)));
                located = next == segment.base;
            }
            None if log.ring().is_empty() => next = next.max(log.end()),
            None => {}
        }
        Self {
            start,
            next,
            located,
            rows: VecDeque::new(),
            ticket: None,
            unwritten: false,
            asked_to: Offset(0),
            unreadable: None,
        }
    }

    /// A cursor that reads what is not written yet as well.
    pub(crate) fn eager(log: &Log, offset: Offset) -> Self {
        let start = Start {
            offset,
            ..Start::default()
        };
        let cursor = Self::new(log, start);
        Self {
            unwritten: true,
            // What retention took is told by the first step.
            next: if offset < log.start() {
                offset
            } else {
                cursor.next
            },
            ..cursor
        }
    }

    /// Passes over everything below `offset`, while no load is under way.
    pub(crate) fn skip_to(&mut self, offset: Offset) {
        if offset <= self.next {
            return;
        }
        self.next = offset;
        if self.rows.back().is_none_or(|newest| newest.end <= offset) {
            self.rows.clear();
            self.located = false;
        }
    }

    pub(crate) const fn next(&self) -> Offset {
        self.next
    }

    pub(crate) const fn ticket(&self) -> Option<Ticket> {
        self.ticket
    }

    /// Bytes held.
    pub(crate) fn loaded_bytes(&self) -> u64 {
        self.rows.iter().map(|row| row.value.len() as u64).sum()
    }

    /// Lets go of what was loaded; it will be loaded again when it is wanted.
    pub(crate) fn unload(&mut self) {
        if !self.rows.is_empty() {
            self.rows.clear();
            self.located = false;
        }
    }

    /// What could not be understood since this was last asked.
    pub(crate) fn take_unreadable(&mut self) -> Option<Unreadable> {
        self.unreadable.take()
    }

    /// Passes over a row that is at its end, or cannot be understood from here on.
    fn pass_row(&mut self, is_unreadable: bool) {
        let Some(row) = self.rows.pop_front() else {
            return;
        };
        if is_unreadable {
            let from = self.next;
            self.unreadable
                .get_or_insert(Unreadable { rows: 0, from })
                .rows += 1;
        }
        self.next = self.next.max(row.end);
    }

    /// Moves to the next record that is wanted, as far as that is possible now.
    pub(crate) fn step(&mut self, log: &Log) -> Step {
        if self.ticket.is_some() {
            return Step::Wait;
        }
        if self.next < log.start() {
            let from = self.next;
            self.next = log.start();
            self.located = true;
            while self.rows.front().is_some_and(|row| row.end <= self.next) {
                self.rows.pop_front();
            }
            return Step::Trimmed { from };
        }
        if let Some(oldest) = log.ring().front() {
            return self.step_ring(log, oldest.offset);
        }
        if self.rows.is_empty()
            && self.unwritten
            && let Some((row, at, end)) = log.unwritten(self.next)
        {
            // More may come into this row before it is written, so no row need begin behind what is in it now.
            self.located = false;
            self.rows.push_back(LoadedRow {
                value: row.to_vec(),
                at,
                end,
                spoilt: false,
            });
        }
        while let Some(row) = self.rows.front_mut() {
            let mut reader = Reader::new(&row.value[row.at..]);
            let Ok(bytes) = reader.bytes() else {
                // The end of the row, or no record: a row is read whole or reported.
                let is_unreadable = row.spoilt || row.at < row.value.len();
                self.pass_row(is_unreadable);
                continue;
            };
            match read_record(bytes) {
                Ok(record) if self.start.wants(&record) && record.offset >= self.next.0 => {
                    self.next = Offset(record.offset);
                    return Step::Ready;
                }
                Ok(_) => row.at = row.value.len() - reader.rest().len(),
                Err(_) => self.pass_row(true),
            }
        }
        if self.next >= log.end() {
            Step::End
        } else {
            Step::Load
        }
    }

    fn step_ring(&mut self, log: &Log, oldest: Offset) -> Step {
        while self.next < log.end() {
            let entry = &log.ring()[(self.next.0 - oldest.0) as usize];
            if entry.sequence > self.start.after {
                return Step::Ready;
            }
            self.next = self.next.next();
        }
        Step::End
    }

    /// The record that [`Step::Ready`] spoke of, with its bytes.
    pub(crate) fn record<'a>(&'a self, log: &'a Log) -> Option<(Record<'a>, &'a [u8])> {
        let (record, bytes, _) = self.marked_record(log)?;
        Some((record, bytes))
    }

    /// The same, with whose it is.
    pub(crate) fn marked_record<'a>(
        &'a self,
        log: &'a Log,
    ) -> Option<(Record<'a>, &'a [u8], Option<Source>)> {
        let bytes = self.stored(log)?;
        let (fields, source) = Source::split(bytes);
        Some((read_record(bytes).ok()?, fields, source))
    }

    /// Its bytes alone, as [`Cursor::record`] gives them.
    pub(crate) fn spelt<'a>(&'a self, log: &'a Log) -> Option<&'a [u8]> {
        Some(Source::split(self.stored(log)?).0)
    }

    fn stored<'a>(&'a self, log: &'a Log) -> Option<&'a [u8]> {
        if let Some(oldest) = log.ring().front() {
            let index = self.next.0.checked_sub(oldest.offset.0)?;
            return Some(&log.ring().get(index as usize)?.record);
        }
        let row = self.rows.front()?;
        Reader::new(&row.value[row.at..]).bytes().ok()
    }

    /// Passes over the record that [`Step::Ready`] spoke of.
    pub(crate) fn advance(&mut self) {
        self.next = self.next.next();
        if let Some(row) = self.rows.front_mut() {
            let mut reader = Reader::new(&row.value[row.at..]);
            let _ = reader.bytes();
            row.at = row.value.len() - reader.rest().len();
        }
    }

    /// The load that [`Step::Load`] asks for.
    pub(crate) fn load(
        &mut self,
        log: &Log,
        keys: &LogKeys<'_>,
        ticket: Ticket,
        bytes_max: u64,
        config: &Config,
    ) -> Effect {
        self.ticket = Some(ticket);
        self.asked_to = log.end();
        let reverse = !self.located;
        let (from, to, rows_max) = if reverse {
            (
                keys.messages(log.start()),
                keys.messages(self.next.next()),
                1,
            )
        } else {
            (
                keys.messages(self.next),
                keys.messages(log.end()),
                config.segment_rows_max as u32,
            )
        };
        Effect::Load {
            ticket,
            from,
            to,
            reverse,
            rows_max,
            bytes_max: bytes_max as u32,
        }
    }

    /// Takes the rows of the load under way.
    pub(crate) fn loaded(&mut self, log: &Log, rows: Vec<Row>) {
        self.ticket = None;
        let sought = !self.located;
        self.located = true;
        if rows.is_empty() && !sought && self.next >= log.start() {
            // Key compaction may have emptied everything up to where it was asked for. What came since was not, and
            // what retention took since is a gap that the next step tells.
            self.next = self.next.max(self.asked_to);
        }
        for row in rows {
            let Some(first) = row_first_offset(&row.key) else {
                continue;
            };
            let mut reader = Reader::new(&row.value);
            match RowHead::take(&mut reader) {
                Ok(head) => {
                    let end = Offset(first.0.saturating_add(head.span));
                    let at = row.value.len() - reader.rest().len();
                    if end > self.next && end > log.start() {
                        self.rows.push_back(LoadedRow {
                            value: row.value,
                            at,
                            end,
                            spoilt: false,
                        });
                    }
                }
                Err(_) => {
                    // How many offsets it stood for is lost; the rows before it come first.
                    let end = first.max(self.next).next();
                    if end > log.start() {
                        self.rows.push_back(LoadedRow {
                            value: Vec::new(),
                            at: 0,
                            end,
                            spoilt: true,
                        });
                    }
                }
            }
        }
    }
}

impl Start {
    fn wants(&self, record: &Record<'_>) -> bool {
        record.offset >= self.offset.0
            && record.sequence > self.after.0
            && record.timestamp >= self.since.0
    }
}
