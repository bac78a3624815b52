//! Mailboxes: what waits for the session of a device, looked at page by page without taking it.
//!
//! A page is read from the logs like everything else, merged by sequence; a mailbox is no place of its own. Whoever
//! speaks for the device may look, also over HTTP, while another connection has the session.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::context::{Context, LoadOwner, Work};
use crate::cursor::{Cursor, Start, Step};
use crate::echo::Source;
use crate::effect::After;
use crate::error::{ErrorCode, Refusal, check_count};
use crate::ids::{ConnectionId, Partition, Sequence, Ticket, Timestamp, TopicId};
use crate::input::{LoadFailed, Rights, Row};
use crate::log::LogKeys;
use crate::namespace::Namespace;
use crate::protocol::field::List;
use crate::protocol::frame::{Mailbox, ReadMailbox, Reply};
use crate::publish::DeliveryBody;
use crate::topic::Kind;
use crate::wire::put_framed;

/// A page that is being read.
#[derive(Default)]
pub(crate) struct MailboxRead {
    connection: u32,
    pub(crate) connection_id: ConnectionId,
    request: u64,
    /// Whose messages it passes over.
    source: Option<Source>,
    waiting: u64,
    heads: Vec<Head>,
    messages_left: u64,
    bytes_left: u64,
    records: Vec<u8>,
    after: After,
}

/// A partition that something may wait in.
struct Head {
    topic: u32,
    topic_id: TopicId,
    partition: Partition,
    cursor: Cursor,
    next: Next,
}

/// What a head has next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Unknown,
    At(Sequence),
    Nothing,
}

impl MailboxRead {
    /// The loads that are under way for it.
    pub(crate) fn tickets(&self) -> impl Iterator<Item = Ticket> + '_ {
        self.heads.iter().filter_map(|head| head.cursor.ticket())
    }

    fn loaded_bytes(&self) -> u64 {
        self.heads
            .iter()
            .map(|head| head.cursor.loaded_bytes())
            .sum()
    }

    /// The head whose message comes first.
    fn first(&self) -> Option<usize> {
        let heads = self.heads.iter().enumerate();
        let known = heads.filter_map(|(index, head)| match head.next {
            Next::At(sequence) => Some((sequence, index)),
            Next::Unknown | Next::Nothing => None,
        });
        known.min().map(|(_, index)| index)
    }
}

impl Namespace {
    /// Begins to read a page of a mailbox; the reply comes when it is complete.
    pub(crate) fn read_mailbox(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: ReadMailbox,
    ) -> Result<(), Refusal> {
        let client = &cx.connections[connection as usize];
        if !client.claims.rights.contains(Rights::SUBSCRIBE) {
            let message = "this connection may not read a mailbox";
            return Err(Refusal::new(ErrorCode::Forbidden, message));
        }
        let session = self.session_of_claims(&client.claims)?;
        if command.messages_max == Some(0) {
            let message = "\"messages_max\" must be at least 1";
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
        check_count(
            "a namespace",
            "reads",
            self.reads.len() + self.mailbox_reads.len() + 1,
            cx.config.reads_max,
        )?;
        let mut starts = BTreeMap::new();
        for cursor in session
            .cursors
            .iter()
            .filter(|one| one.acked < self.last_sequence)
        {
            for topic in self.topics_matching(&cursor.filter) {
                let start = starts.entry(topic).or_insert(cursor.acked);
                *start = cursor.acked.min(*start);
            }
        }
        let cursors = session.cursors.iter();
        let mut read = MailboxRead {
            connection,
            connection_id: client.id,
            request: command.request,
            source: client.source,
            waiting: cursors.map(|cursor| self.waiting_at(cx, cursor)).sum(),
            messages_left: command
                .messages_max
                .unwrap_or(u64::MAX)
                .min(cx.config.read_messages_max),
            bytes_left: cx.config.read_bytes_max,
            ..MailboxRead::default()
        };
        for (index, acked) in starts {
            let topic = &self.topics[index as usize];
            let after = acked.max(Sequence(command.after.unwrap_or(0)));
            let start = Start {
                after,
                ..Start::default()
            };
            for (partition, state) in (0..).map(Partition).zip(&topic.partitions) {
                if state.log.last_sequence() > after && topic.config.kind != Kind::Live {
                    read.heads.push(Head {
                        topic: index,
                        topic_id: topic.id,
                        partition,
                        cursor: Cursor::new(&state.log, start),
                        next: Next::Unknown,
                    });
                }
            }
        }
        let read = self.mailbox_reads.insert(read) as u32;
        cx.ready.push_back(Work::Mailbox {
            namespace: self.index,
            read,
        });
        Ok(())
    }

    /// Goes on with a page as far as it can.
    pub(crate) fn advance_mailbox(&mut self, cx: &mut Context, index: u32) {
        let Some(slot) = self.mailbox_reads.get_mut(index as usize) else {
            return;
        };
        let mut read = core::mem::take(slot);
        loop {
            let mut waits = false;
            for head in 0..read.heads.len() {
                match self.look_into(cx, index, &mut read, head) {
                    Some(known) => waits |= !known,
                    None => {
                        // Too many loads are under way.
                        cx.starved.push_back(Work::Mailbox {
                            namespace: self.index,
                            read: index,
                        });
                        self.mailbox_reads[index as usize] = read;
                        return;
                    }
                }
            }
            if waits {
                self.mailbox_reads[index as usize] = read;
                return;
            }
            let is_full = read.messages_left == 0 || read.bytes_left == 0;
            let Some(first) = read.first().filter(|_| !is_full) else {
                break;
            };
            let head = &mut read.heads[first];
            head.next = Next::Unknown;
            let topic = self.same_topic(head.topic, head.topic_id);
            let log = topic.map(|topic| &topic.partitions[head.partition.0 as usize].log);
            // What was loaded may have been let go of; then it is loaded again.
            let Some((topic, (_, bytes))) = topic.zip(log.and_then(|log| head.cursor.record(log)))
            else {
                continue;
            };
            let body = DeliveryBody {
                topic: &topic.name,
                partition: head.partition,
                record: bytes,
            };
            put_framed(&mut read.records, body.binary_len(), |out| {
                body.put_binary(out);
            });
            read.messages_left -= 1;
            read.bytes_left = read.bytes_left.saturating_sub(bytes.len() as u64);
            let after = self.delivery_after(head.topic, head.partition);
            read.after = read.after.and(after);
            head.cursor.advance();
        }
        let page = Mailbox {
            request: read.request,
            waiting: read.waiting,
            more: read.first().is_some(),
            records: List::new(&read.records),
        };
        cx.reply(read.connection, read.after, &Reply::Mailbox(page));
        self.mailbox_reads.remove(index as usize);
    }

    /// Finds out what a head has next: whether that is known now, `None` if it must wait for fewer loads.
    fn look_into(
        &self,
        cx: &mut Context,
        index: u32,
        read: &mut MailboxRead,
        head_index: usize,
    ) -> Option<bool> {
        let heads = read.heads.len() as u64;
        let head = &mut read.heads[head_index];
        let topic = self.same_topic(head.topic, head.topic_id);
        // A topic that was deleted has nothing more to say.
        let Some(topic) = topic.filter(|_| head.next == Next::Unknown) else {
            if topic.is_none() {
                head.next = Next::Nothing;
            }
            return Some(true);
        };
        let log = &topic.partitions[head.partition.0 as usize].log;
        loop {
            match head.cursor.step(log) {
                Step::Ready => {
                    let marked = head.cursor.marked_record(log);
                    let Some((record, ..)) = marked.filter(|(record, _, source)| {
                        record.expires_at.is_none_or(|at| Timestamp(at) > cx.now)
                            && (source.is_none() || *source != read.source)
                    }) else {
                        head.cursor.advance();
                        continue;
                    };
                    let sequence = Sequence(record.sequence);
                    head.next = Next::At(sequence);
                    if read.loaded_bytes() > cx.config.catch_up_bytes_max
                        && read.first() != Some(head_index)
                    {
                        read.heads[head_index].cursor.unload();
                    }
                    return Some(true);
                }
                Step::End => {
                    head.next = Next::Nothing;
                    return Some(true);
                }
                Step::Wait => return Some(false),
                Step::Trimmed { .. } => {}
                Step::Load => {
                    let owner = LoadOwner::Mailbox {
                        namespace: self.index,
                        read: index,
                        head: head_index as u32,
                    };
                    let ticket = cx.take_ticket(owner)?;
                    let keys = LogKeys {
                        keys: &self.keys,
                        topic: topic.id,
                        partition: head.partition,
                    };
                    let share = cx.config.catch_up_bytes_max / heads;
                    let bytes_max = share.clamp(1, cx.config.load_bytes_max);
                    cx.outbox
                        .load(head.cursor.load(log, &keys, ticket, bytes_max, &cx.config));
                    return Some(false);
                }
            }
        }
    }

    /// Takes the answer to a load for a page of a mailbox.
    pub(crate) fn mailbox_loaded(
        &mut self,
        cx: &mut Context,
        (index, head): (u32, u32),
        ticket: Ticket,
        result: Result<Vec<Row>, LoadFailed>,
    ) {
        let Some(read) = self.mailbox_reads.get_mut(index as usize) else {
            return;
        };
        let head = read.heads.get_mut(head as usize);
        let Some(head) = head.filter(|head| head.cursor.ticket() == Some(ticket)) else {
            return;
        };
        let Ok(rows) = result else {
            let read = self.mailbox_reads.remove(index as usize);
            for ticket in read.tickets() {
                cx.abandon_load(ticket);
            }
            let message = "the store could not be read; try again";
            let refusal = Refusal::new(ErrorCode::StorageUnavailable, message);
            return cx.refuse(read.connection, read.request, &refusal);
        };
        let topic = self.topics.get(head.topic as usize);
        if let Some(topic) = topic.filter(|topic| topic.id == head.topic_id) {
            let log = &topic.partitions[head.partition.0 as usize].log;
            head.cursor.loaded(log, rows);
        }
        cx.ready.push_back(Work::Mailbox {
            namespace: self.index,
            read: index,
        });
    }
}
