//! Exports: a namespace as an archive, in parts, while it is in use.
//!
//! All of the state is read by one load, which shows the namespace as it was at the end of some batch; the messages
//! follow as far as that state names them. They are there until the export is over, because meanwhile nothing of
//! them is deleted or rewritten. An export belongs to no connection, so that its parts can be asked for one by one
//! over HTTP; who does not ask for the next part in time has given it up.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::vec::Vec;

use crate::archive::ArchiveWriter;
use crate::context::{Context, LoadOwner, Work};
use crate::effect::{After, Effect};
use crate::error::{ErrorCode, Refusal};
use crate::ids::{
    ConnectionId, Offset, Partition, ScheduleId, Ticket, Timestamp, TopicId, TransferId,
};
use crate::input::{LoadFailed, Row};
use crate::log::{Log, RowHead};
use crate::namespace::Namespace;
use crate::protocol::frame::{self, ArchivePart, Reply};
use crate::restore::unsound;
use crate::rows::{KeyTail, TABLE_PARTITION, TABLE_SCHEDULE, row_first_offset, state_range};
use crate::schedule::scheduled_key;
use crate::verify::NamespaceVerifier;
use crate::wire::Reader;

pub(crate) struct Export {
    id: TransferId,
    writer: ArchiveWriter,
    /// The messages that are still to be read: topic, partition, first offset and the one after the last. `None`
    /// until the state is read.
    left: Option<VecDeque<(TopicId, Partition, Offset, Offset)>>,
    /// What waits for its time, then, and whose body is still to be read, after the messages.
    scheduled: VecDeque<(Timestamp, ScheduleId)>,
    ticket: Option<Ticket>,
    /// The part to be asked for next, and who has asked for it.
    part: u64,
    asked: Option<Asked>,
    /// When it is given up.
    deadline: Timestamp,
}

/// Who waits for the answer about a part of an archive.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) connection: u32,
    connection_id: ConnectionId,
    pub(crate) request: u64,
}

impl Asked {
    pub(crate) fn by(cx: &Context, connection: u32, request: u64) -> Self {
        Self {
            connection,
            connection_id: cx.connections[connection as usize].id,
            request,
        }
    }

    /// Whether the connection is still the one that asked.
    pub(crate) fn is_there(&self, cx: &Context) -> bool {
        let there = cx.connections.get(self.connection as usize);
        there.is_some_and(|connection| connection.id == self.connection_id)
    }
}

impl Namespace {
    /// Begins an export, or goes on with one. The reply comes when the part is complete.
    pub(crate) fn export(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: frame::Export,
    ) -> Result<(), Refusal> {
        crate::manage::require_manage(cx, connection, "export the namespace")?;
        let id = TransferId(command.export);
        let index = if id == TransferId(0) {
            check_part("export", 0, command.part)?;
            if self.import.is_some() {
                return Err(self.importing());
            }
            if self.exports.len() as u64 >= cx.config.exports_max {
                let message = format!(
                    "{} exports of the namespace are under way (exports_max)",
                    self.exports.len()
                );
                return Err(Refusal::later(ErrorCode::LimitReached, message));
            }
            let deadline = cx.now;
            let id = cx.begin_transfer(self.index, deadline);
            self.exports.push(Export {
                id,
                writer: ArchiveWriter::new(&self.name),
                left: None,
                scheduled: VecDeque::new(),
                ticket: None,
                part: 0,
                asked: None,
                deadline,
            });
            self.exports.len() - 1
        } else {
            self.exports
                .iter()
                .position(|export| export.id == id)
                .ok_or_else(|| unknown_transfer("export"))?
        };
        let export = &mut self.exports[index];
        check_part("export", export.part, command.part)?;
        if export.asked.is_some() {
            let message = format!("part {} of the export is being read", export.part);
            return Err(Refusal::later(ErrorCode::Busy, message));
        }
        export.asked = Some(Asked::by(cx, connection, command.request));
        cx.move_transfer(self.index, export.id, &mut export.deadline);
        cx.ready.push_back(Work::Export {
            namespace: self.index,
            export: export.id,
        });
        Ok(())
    }

    /// Goes on with an export as far as it can.
    pub(crate) fn advance_export(&mut self, cx: &mut Context, id: TransferId) {
        let Some(index) = self.exports.iter().position(|export| export.id == id) else {
            return;
        };
        let export = &mut self.exports[index];
        let Some(asked) = export.asked.filter(|_| export.ticket.is_none()) else {
            return;
        };
        let part_bytes = cx.config.archive_part_bytes as usize;
        let is_read = export.is_read();
        if !is_read && (export.left.is_none() || export.writer.ready_bytes() < part_bytes) {
            return self.load_for_export(cx, index);
        }
        let last = is_read && export.writer.ready_bytes() <= part_bytes;
        let bytes = export.writer.take(part_bytes);
        export.part += 1;
        export.asked = None;
        if asked.is_there(cx) {
            let part = ArchivePart {
                request: asked.request,
                export: id.0,
                part: export.part - 1,
                last,
                bytes: &bytes,
            };
            cx.reply(
                asked.connection,
                After::default(),
                &Reply::ArchivePart(part),
            );
        }
        if last {
            self.end_export(cx, index);
        }
    }

    fn load_for_export(&mut self, cx: &mut Context, index: usize) {
        let export = &mut self.exports[index];
        let owner = LoadOwner::Export {
            namespace: self.index,
            export: export.id,
        };
        let Some(ticket) = cx.take_ticket(owner) else {
            return cx.starved.push_back(Work::Export {
                namespace: self.index,
                export: export.id,
            });
        };
        export.ticket = Some(ticket);
        let (from, to, rows_max, bytes_max) = match &export.left {
            None => {
                let (from, to) = state_range(&self.name);
                (from, to, u32::MAX, cx.config.archive_state_bytes_max as u32)
            }
            Some(left) => {
                let (from, to) = match left.front() {
                    Some((topic, partition, first, end)) => (
                        self.keys.messages(*topic, *partition, *first),
                        self.keys.messages(*topic, *partition, *end),
                    ),
                    None => {
                        let first = export.scheduled.front().copied().unwrap_or_default();
                        let last = export.scheduled.back().copied().unwrap_or_default();
                        (
                            self.keys.scheduled_body(first.0, first.1),
                            self.keys.scheduled_body(last.0, ScheduleId(last.1.0 + 1)),
                        )
                    }
                };
                (
                    from,
                    to,
                    cx.config.trim_rows_max as u32,
                    cx.config.load_bytes_max as u32,
                )
            }
        };
        cx.outbox.load(Effect::Load {
            ticket,
            from,
            to,
            reverse: false,
            rows_max,
            bytes_max,
        });
    }

    /// Takes the answer to an export's load.
    pub(crate) fn export_loaded(
        &mut self,
        cx: &mut Context,
        id: TransferId,
        ticket: Ticket,
        result: Result<Vec<Row>, LoadFailed>,
    ) {
        let Some(index) = self.exports.iter().position(|export| export.id == id) else {
            return;
        };
        let export = &mut self.exports[index];
        if export.ticket != Some(ticket) {
            return;
        }
        export.ticket = None;
        let taken = match result {
            Ok(rows) => export.take(&rows, cx.config.archive_state_bytes_max),
            Err(LoadFailed) => Err(Refusal::new(
                ErrorCode::StorageUnavailable,
                "the store could not be read; begin the export again",
            )),
        };
        match taken {
            Ok(()) => cx.ready.push_back(Work::Export {
                namespace: self.index,
                export: id,
            }),
            Err(refusal) => {
                if let Some(asked) = export.asked.filter(|asked| asked.is_there(cx)) {
                    cx.refuse(asked.connection, asked.request, &refusal);
                }
                self.end_export(cx, index);
            }
        }
    }

    /// Gives up the export that nobody asked for in time.
    pub(crate) fn expire_export(&mut self, cx: &mut Context, id: TransferId) {
        let Some(index) = self.exports.iter().position(|export| export.id == id) else {
            return;
        };
        let export = &mut self.exports[index];
        if export.asked.is_some() {
            // It is not idle: a part is being loaded.
            return cx.move_transfer(self.index, id, &mut export.deadline);
        }
        self.end_export(cx, index);
    }

    fn end_export(&mut self, cx: &mut Context, index: usize) {
        let export = self.exports.remove(index);
        cx.end_transfer(self.index, export.id, export.deadline);
        if let Some(ticket) = export.ticket {
            cx.abandon_load(ticket);
        }
        if !self.exports.is_empty() {
            return;
        }
        // What had to wait goes on.
        self.delete_leftover_bodies(cx);
        let doomed: Vec<(u32, Partition)> = self
            .topics
            .iter()
            .flat_map(|(index, topic)| {
                let logs = (0..).map(Partition).zip(&topic.partitions);
                logs.filter(|(_, state)| state.log.is_doomed())
                    .map(move |(partition, _)| (index as u32, partition))
            })
            .collect();
        for (topic, partition) in doomed {
            self.touch_log(cx, topic, partition);
        }
        if self.compaction.is_some() || !self.compaction_queue.is_empty() {
            cx.ready.push_back(Work::Compaction {
                namespace: self.index,
            });
        }
    }
}

impl Export {
    /// Whether everything is read.
    fn is_read(&self) -> bool {
        self.left.as_ref().is_some_and(VecDeque::is_empty) && self.scheduled.is_empty()
    }

    /// Takes the next bodies of what waited for its time when the state was read. False if one is missing.
    fn take_scheduled(&mut self, rows: &[Row]) -> bool {
        let before = self.scheduled.len();
        for row in rows {
            let tail = KeyTail::of(&row.key);
            // What was scheduled since does not belong to the archive.
            if scheduled_key(KeyTail(tail.0)).as_ref() == self.scheduled.front() {
                self.writer.row(tail.0, &row.value);
                self.scheduled.pop_front();
            }
        }
        self.scheduled.len() < before
    }

    /// Takes the rows of the state, or the next of messages.
    fn take(&mut self, rows: &[Row], state_bytes_max: u64) -> Result<(), Refusal> {
        let damaged = |row: &Row, why: &str| {
            let key = crate::archive::hex(&row.key);
            let message = format!("stored row {key}: {why}; restore it from a backup");
            Refusal::new(ErrorCode::StorageUnavailable, message)
        };
        let Some(left) = &mut self.left else {
            let bytes: usize = rows.iter().map(|row| row.value.len()).sum();
            if bytes as u64 > state_bytes_max {
                let message = format!(
                    "the namespace's state is larger than {state_bytes_max} bytes (archive_state_bytes_max)"
                );
                return Err(Refusal::new(ErrorCode::TooLarge, message));
            }
            let mut left = VecDeque::new();
            for row in rows {
                let mut tail = KeyTail::of(&row.key);
                if !NamespaceVerifier::travels(tail.0) {
                    continue;
                }
                self.writer.row(tail.0, &row.value);
                if tail.0.first() == Some(&TABLE_SCHEDULE) {
                    let place = scheduled_key(tail);
                    let place = place.ok_or_else(|| damaged(row, &unsound("key")))?;
                    self.scheduled.push_back(place);
                    continue;
                }
                if tail.u8() == Some(TABLE_PARTITION) {
                    let log = Log::restore(&row.value)
                        .map_err(|_| damaged(row, &unsound("partition")))?;
                    let (Some(topic), Some(partition)) = (tail.u32(), tail.u32()) else {
                        return Err(damaged(row, &unsound("key")));
                    };
                    if log.start() < log.end() {
                        let place = (TopicId(topic), Partition(partition));
                        left.push_back((place.0, place.1, log.start(), log.end()));
                    }
                }
            }
            self.left = Some(left);
            if self.is_read() {
                self.writer.finish();
            }
            return Ok(());
        };
        let Some((_, _, next, end)) = left.front_mut() else {
            if !self.take_scheduled(rows) {
                let message = "the body of a scheduled message is missing in the store; restore it from a backup";
                return Err(Refusal::new(ErrorCode::StorageUnavailable, message));
            }
            if self.is_read() {
                self.writer.finish();
            }
            return Ok(());
        };
        for row in rows {
            self.writer.row(KeyTail::of(&row.key).0, &row.value);
            let head = RowHead::take(&mut Reader::new(&row.value));
            let span = head
                .map_err(|_| damaged(row, &unsound("messages")))?
                .span
                .max(1);
            let first = row_first_offset(&row.key).unwrap_or(*next);
            *next = Offset(first.0.saturating_add(span));
        }
        if rows.is_empty() || *next >= *end {
            left.pop_front();
            if self.is_read() {
                self.writer.finish();
            }
        }
        Ok(())
    }
}

/// Refuses a part that is not the next one.
pub(crate) fn check_part(what: &str, next: u64, part: u64) -> Result<(), Refusal> {
    if part == next {
        return Ok(());
    }
    let message = format!("part {next} of the {what} comes next, not {part}");
    Err(Refusal::new(ErrorCode::OutOfState, message))
}

/// What is answered to who goes on with what is not under way.
pub(crate) fn unknown_transfer(what: &str) -> Refusal {
    let message = format!(
        "no such {what} is under way: it is finished, was idle for too long, or the broker was restarted; begin again"
    );
    Refusal::new(ErrorCode::UnknownTransfer, message)
}
