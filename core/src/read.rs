//! Reading history: one page of a partition, assembled from as many loads as it takes.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use crate::context::{Context, LoadOwner, Work};
use crate::cursor::{Cursor, Start, Step};
use crate::dead_letter::{check_reason, is_wanted};
use crate::effect::After;
use crate::error::{ErrorCode, Refusal};
use crate::ids::{ConnectionId, Offset, Partition, Ticket, Timestamp, TopicId};
use crate::input::{LoadFailed, Rights, Row};
use crate::log::LogKeys;
use crate::namespace::Namespace;
use crate::protocol::field::List;
use crate::protocol::frame::{DeadLetters, Page, Read, ReadDeadLetters, Reply};
use crate::subscription::From;
use crate::wire::Put as _;

#[derive(Debug)]
pub(crate) struct ReadJob {
    connection: u32,
    pub(crate) connection_id: ConnectionId,
    request: u64,
    topic: u32,
    topic_id: TopicId,
    partition: Partition,
    pub(crate) cursor: Cursor,
    messages_left: u64,
    bytes_left: u64,
    records: Vec<u8>,
    dead_letters: Option<DeadLettersAsked>,
}

/// Which dead letters a read is for: those of this group that nobody has dealt with, of these topics, of that reason.
#[derive(Debug)]
struct DeadLettersAsked {
    group: u32,
    filter: Option<Box<str>>,
    reason: Option<Box<str>>,
}

impl Namespace {
    /// Begins to read a page; the reply comes when it is complete.
    pub(crate) fn read(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &Read<'_>,
    ) -> Result<(), Refusal> {
        let client = &cx.connections[connection as usize];
        if !client.claims.rights.contains(Rights::HISTORY) {
            return Err(Refusal::new(
                ErrorCode::Forbidden,
                "this connection may not read history",
            ));
        }
        let connection_id = client.id;
        let topic = self.known_topic(command.topic)?;
        let partition = Partition(command.partition);
        let count = self.topics[topic as usize].config.partitions;
        if command.partition >= count {
            let message = format!(
                "topic \"{}\" has {count} partitions, none is {}",
                command.topic, command.partition
            );
            return Err(Refusal::new(ErrorCode::UnknownPartition, message));
        }
        if self.reads.len() as u64 >= cx.config.reads_max {
            let message = format!(
                "{} reads are under way (reads_max); try again",
                self.reads.len()
            );
            return Err(Refusal {
                retry_after_ms: Some(100),
                ..Refusal::new(ErrorCode::LimitReached, message)
            });
        }
        for (name, value) in [
            ("messages_max", command.messages_max),
            ("bytes_max", command.bytes_max),
        ] {
            if value == Some(0) {
                let message = format!("\"{name}\" must be at least 1");
                return Err(Refusal::new(ErrorCode::InvalidArgument, message));
            }
        }
        self.expire_topic(cx, topic);
        let state = &self.topics[topic as usize];
        let log = &state.partitions[partition.0 as usize].log;
        let offset = |offset| Start {
            offset,
            ..Start::default()
        };
        let start = match From::parse(command.from.unwrap_or("earliest"))? {
            From::Earliest => offset(log.start()),
            From::Latest => offset(log.end()),
            From::Offset(asked) => {
                check_offset(asked, log.end())?;
                offset(asked)
            }
            From::Last(count) => offset(Offset(log.end().0.saturating_sub(count))),
            From::Timestamp(since) => Start {
                since,
                ..Start::default()
            },
            From::Resume(..) | From::Session(_) => {
                let message = "a read begins at earliest, offset:N, timestamp:MS or last:N";
                return Err(Refusal::new(ErrorCode::InvalidArgument, message));
            }
        };
        let read = self.reads.insert(ReadJob {
            connection,
            connection_id,
            request: command.request,
            topic,
            topic_id: state.id,
            partition,
            cursor: Cursor::new(log, start),
            messages_left: command
                .messages_max
                .unwrap_or(u64::MAX)
                .min(cx.config.read_messages_max),
            bytes_left: command
                .bytes_max
                .unwrap_or(u64::MAX)
                .min(cx.config.read_bytes_max),
            records: Vec::new(),
            dead_letters: None,
        }) as u32;
        cx.ready.push_back(Work::Read {
            namespace: self.index,
            read,
        });
        Ok(())
    }

    /// Begins to read the dead letters of a group.
    pub(crate) fn read_dead_letters(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &ReadDeadLetters<'_>,
    ) -> Result<(), Refusal> {
        let group = self.known_group(command.group)?;
        if let Some(filter) = command.filter {
            crate::topic::check_filter(filter)?;
        }
        if let Some(word) = command.reason {
            check_reason(word)?;
        }
        let Some(dead) = self.groups[group as usize].dead else {
            crate::manage::require_any(cx, connection)?;
            let none = DeadLetters {
                request: command.request,
                next_offset: 0,
                more: false,
                records: List::new(&[]),
            };
            cx.reply(connection, After::default(), &Reply::DeadLetters(none));
            return Ok(());
        };
        let entry = &self.groups[group as usize].logs[dead as usize];
        let topic = &self.topics[entry.topic as usize];
        let log = &topic.partitions[entry.partition.0 as usize].log;
        let from = Offset(command.from_offset.unwrap_or(0)).max(entry.floor.max(log.start()));
        check_offset(from, log.end())?;
        let (name, from) = (topic.name.clone(), format!("offset:{}", from.0));
        self.read(
            cx,
            connection,
            &Read {
                request: command.request,
                topic: &name,
                partition: 0,
                from: Some(&from),
                messages_max: command.messages_max,
                bytes_max: None,
            },
        )?;
        if let Some(Work::Read { read, .. }) = cx.ready.back() {
            self.reads[*read as usize].dead_letters = Some(DeadLettersAsked {
                group,
                filter: command.filter.map(Into::into),
                reason: command.reason.map(Into::into),
            });
        }
        Ok(())
    }

    /// Goes on with a read as far as it can.
    pub(crate) fn advance_read(&mut self, cx: &mut Context, index: u32) {
        let Some(read) = self.reads.get_mut(index as usize) else {
            return;
        };
        let topic = self
            .topics
            .get(read.topic as usize)
            .filter(|topic| topic.id == read.topic_id);
        let Some(topic) = topic else {
            let refusal = Refusal::new(ErrorCode::UnknownTopic, "the topic was deleted");
            return self.refuse_read(cx, index, &refusal);
        };
        let log = &topic.partitions[read.partition.0 as usize].log;
        while read.messages_left > 0 && read.bytes_left > 0 {
            match read.cursor.step(log) {
                Step::Ready => {
                    if let Some((record, bytes)) = read.cursor.record(log)
                        && record.expires_at.is_none_or(|at| Timestamp(at) > cx.now)
                        && read.dead_letters.as_ref().is_none_or(|asked| {
                            let group = self.groups.get(asked.group as usize);
                            let dead =
                                group.and_then(|group| Some(&group.logs[group.dead? as usize]));
                            let offset = Offset(record.offset);
                            dead.is_some_and(|dead| {
                                offset >= dead.floor && !dead.done.contains(offset)
                            }) && is_wanted(
                                &record,
                                asked.filter.as_deref(),
                                asked.reason.as_deref(),
                            )
                        })
                    {
                        read.records.put_bytes(bytes);
                        read.messages_left -= 1;
                        read.bytes_left = read.bytes_left.saturating_sub(bytes.len() as u64);
                    }
                    read.cursor.advance();
                }
                // The page says where the log begins; offsets below it are known to be gone.
                Step::Trimmed { .. } => {}
                Step::End => break,
                Step::Wait => return,
                Step::Load => {
                    let owner = LoadOwner::Read {
                        namespace: self.index,
                        read: index,
                    };
                    let Some(ticket) = cx.take_ticket(owner) else {
                        cx.starved.push_back(Work::Read {
                            namespace: self.index,
                            read: index,
                        });
                        return;
                    };
                    let keys = LogKeys {
                        keys: &self.keys,
                        topic: topic.id,
                        partition: read.partition,
                    };
                    let bytes_max = read.bytes_left.min(cx.config.load_bytes_max);
                    cx.outbox
                        .load(read.cursor.load(log, &keys, ticket, bytes_max, &cx.config));
                    return;
                }
            }
        }
        let unreadable = read.cursor.take_unreadable();
        cx.counters.unreadable_rows += unreadable.map_or(0, |unreadable| unreadable.rows);
        let after = log.after;
        let (connection, records) = (read.connection, core::mem::take(&mut read.records));
        let next_offset = read.cursor.next().0;
        let page = if read.dead_letters.is_some() {
            Reply::DeadLetters(DeadLetters {
                request: read.request,
                next_offset,
                more: next_offset < log.end().0,
                records: List::new(&records),
            })
        } else {
            Reply::Page(Page {
                request: read.request,
                log_start_offset: log.start().0,
                log_end_offset: log.end().0,
                next_offset,
                records: List::new(&records),
            })
        };
        // What a reader has seen must not be taken back by a crash that its receipt would have told of.
        cx.reply(connection, after, &page);
        self.reads.remove(index as usize);
    }

    /// Takes the answer to a read's load.
    pub(crate) fn read_loaded(
        &mut self,
        cx: &mut Context,
        index: u32,
        ticket: Ticket,
        result: Result<Vec<Row>, LoadFailed>,
    ) {
        let Some(read) = self.reads.get_mut(index as usize) else {
            return;
        };
        if read.cursor.ticket() != Some(ticket) {
            return;
        }
        match result {
            Ok(rows) => {
                if let Some(topic) = self
                    .topics
                    .get(read.topic as usize)
                    .filter(|topic| topic.id == read.topic_id)
                {
                    read.cursor
                        .loaded(&topic.partitions[read.partition.0 as usize].log, rows);
                }
                cx.ready.push_back(Work::Read {
                    namespace: self.index,
                    read: index,
                });
            }
            Err(LoadFailed) => {
                let refusal = Refusal::new(
                    ErrorCode::StorageUnavailable,
                    "the store could not be read; try again",
                );
                self.refuse_read(cx, index, &refusal);
            }
        }
    }

    fn refuse_read(&mut self, cx: &mut Context, index: u32, refusal: &Refusal) {
        let read = self.reads.remove(index as usize);
        cx.refuse(read.connection, read.request, refusal);
    }
}

/// Refuses an offset beyond the end of a log; the end itself is where the next message will be.
pub(crate) fn check_offset(asked: Offset, end: Offset) -> Result<(), Refusal> {
    if asked <= end {
        return Ok(());
    }
    let message = format!(
        "offset {} lies beyond the end of the log, {}",
        asked.0, end.0
    );
    Err(Refusal::new(ErrorCode::OffsetOutOfRange, message))
}
