//! What all namespaces of a broker share: configuration, time, connections, and what the batch has come to so far.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use slab::Slab;

use crate::config::Config;
use crate::connection::Connection;
use crate::deadline::{Deadlines, Due};
use crate::dedup::Recalled;
use crate::effect::{After, CloseCode, Durability, Op};
use crate::error::{ErrorCode, Refusal};
use crate::hash::Map;
use crate::ids::{
    ConnectionId, LeaseId, Offset, ReplyTo, Ticket, Timestamp, TransferId, WriteSequence,
};
use crate::input::Encoding;
use crate::limits::Charge;
use crate::mutation::Mutation;
use crate::outbox::{Outbox, put_json};
use crate::priority::Reading;
use crate::protocol::field::List;
use crate::protocol::frame::{Failed, Reply};
use crate::publish::{Fanout, Placed};

pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) now: Timestamp,
    pub(crate) storage_available: bool,
    /// How long the newest commit took that the host told of.
    pub(crate) commit_latency_ms: u64,
    /// Whether the store took something at any time of this batch, so that this batch writes.
    pub(crate) writes: bool,
    pub(crate) draining: bool,
    pub(crate) connections: Slab<Connection>,
    pub(crate) connection_index: Map<ConnectionId, u32>,
    pub(crate) outbox: Outbox,
    /// Whether a batch is under way, and its number, which marks what belongs to it.
    pub(crate) in_batch: bool,
    pub(crate) batch: u64,
    /// The operations of the batch, and the strongest level asked of them.
    pub(crate) ops: Vec<Op>,
    pub(crate) durability: Durability,
    /// The sequence of the write that this batch will emit, if it emits one.
    pub(crate) next_write: WriteSequence,
    pub(crate) loads: Map<Ticket, LoadOwner>,
    next_ticket: u64,
    /// Work that can go on now, in order.
    pub(crate) ready: VecDeque<Work>,
    /// Work that waits until fewer loads are under way.
    pub(crate) starved: VecDeque<Work>,
    /// Rises when they are let go on, so that who waits since then is known.
    pub(crate) starved_round: u64,
    /// What is to be done when, the earliest first.
    pub(crate) deadlines: Deadlines,
    /// How many bytes all held commands have.
    pub(crate) held_bytes: u64,
    /// Whether a held command may go through now.
    pub(crate) unblocked: bool,
    next_transfer: u64,
    next_reply_to: u64,
    /// How many imports are under way.
    pub(crate) imports: u64,
    pub(crate) dirty_connections: Vec<u32>,
    pub(crate) dirty_namespaces: Vec<u32>,
    /// Namespaces that have something to tell of who is present.
    pub(crate) presence_news: Vec<u32>,
    /// How many subscriptions have a round of catching up under way.
    pub(crate) catch_ups: u64,
    /// How many message rows this batch may still delete.
    pub(crate) trim_rows_left: u64,
    /// Whether there is work left for another batch at once.
    pub(crate) more: bool,
    pub(crate) counters: Counters,
    /// Where the messages of the publish under way found their places, and whether they had them before.
    pub(crate) placed: Vec<(Placed, bool)>,
    /// The topics that rules moved them to; empty if no rule is for any of them.
    pub(crate) moved: Vec<Option<Box<str>>>,
    /// Their topics, where they existed before.
    pub(crate) found_topics: Vec<Option<u32>>,
    /// What is known of them.
    pub(crate) recalled: Vec<Recalled>,
    /// The dead letter that is being made.
    pub(crate) buried: Vec<u8>,
    /// What the command under way settles or commits.
    pub(crate) settling: Vec<LeaseId>,
    pub(crate) committing: Vec<(u32, Offset)>,
    /// Buffers that every publish uses anew.
    pub(crate) record: Vec<u8>,
    pub(crate) fanouts: Vec<Fanout>,
    /// The buckets that the publish under way takes from.
    pub(crate) charges: Vec<Charge>,
}

/// Who asked for a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoadOwner {
    /// A head of a subscription's round: namespace, subscription, its serial, head.
    Subscription {
        namespace: u32,
        subscription: u32,
        serial: u64,
        head: u32,
    },
    /// A history read: namespace and read.
    Read { namespace: u32, read: u32 },
    /// A head of a page of a mailbox: namespace, read, head.
    Mailbox {
        namespace: u32,
        read: u32,
        head: u32,
    },
    /// A pass of key compaction: namespace.
    Compaction { namespace: u32 },
    /// An export.
    Export { namespace: u32, export: TransferId },
    /// What a namespace has scheduled and is due.
    Schedule { namespace: u32 },
    /// A log of a consumer group: namespace, group, log, and for which of its cursors.
    Group {
        namespace: u32,
        group: u32,
        log: u32,
        reading: Reading,
    },
    /// Nobody any more; it is under way nevertheless and counts.
    Nobody,
}

/// Something that was left to be done at the end of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Let a subscription catch up.
    Subscription {
        namespace: u32,
        subscription: u32,
        serial: u64,
    },
    /// Go on with a history read.
    Read { namespace: u32, read: u32 },
    /// Go on with a page of a mailbox.
    Mailbox { namespace: u32, read: u32 },
    /// Go on with key compaction.
    Compaction { namespace: u32 },
    /// Go on with an export.
    Export { namespace: u32, export: TransferId },
    /// Go on with an import.
    Import { namespace: u32 },
    /// Load what is due.
    Schedule { namespace: u32 },
    /// Let a consumer group go on.
    Group { namespace: u32, group: u32 },
}

impl Work {
    /// In which namespace.
    pub(crate) const fn namespace(&self) -> u32 {
        match self {
            Self::Subscription { namespace, .. }
            | Self::Read { namespace, .. }
            | Self::Mailbox { namespace, .. }
            | Self::Compaction { namespace }
            | Self::Export { namespace, .. }
            | Self::Import { namespace }
            | Self::Schedule { namespace }
            | Self::Group { namespace, .. } => *namespace,
        }
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What happened since the broker was created.
        #[derive(Clone, Debug, Default)]
        pub(crate) struct Counters { $($(#[$doc])* pub(crate) $name: u64,)* }

        impl Counters {
            pub(crate) fn each(&self, mut each: impl FnMut(&str, u64)) {
                $(each(stringify!($name), self.$name);)*
            }
        }
    };
}

counters! {
    /// Messages that got a place in a log.
    published_messages,
    /// Bytes of their payloads.
    published_bytes,
    /// Messages that were published before, and not again.
    duplicate_messages,
    /// Deliveries to subscriptions.
    delivered_messages,
    /// Messages that a subscription will not get because it was too slow.
    dropped_messages,
    /// Messages that members of queues acknowledged.
    acked_messages,
    /// Leases that ended before their message was done.
    expired_leases,
    /// Messages that became dead letters.
    dead_letters,
    /// Messages that a group passed over because their time was over.
    expired_messages,
    /// Messages that were not there any more when a group came to them.
    lost_messages,
    /// Members that became present on a topic, that left it, and that were given up.
    presence_joins,
    presence_leaves,
    presence_timeouts,
    /// Publishes that a rate limit refused.
    rate_limited_publishes,
    /// Publishes that waited for a rate limit.
    rate_limit_waits,
    /// Commands that were refused.
    refused_commands,
    /// Frames that could not be understood.
    malformed_frames,
    /// Loads that were asked for.
    loads,
    /// Writes that were emitted.
    writes,
    /// Rows of history that could not be understood.
    unreadable_rows,
}

impl Context {
    /// Begins a batch, if none is under way; whether it did.
    pub(crate) fn begin_batch(&mut self) -> bool {
        let begins = !self.in_batch;
        if begins {
            self.in_batch = true;
            self.more = false;
            self.writes = self.storage_available;
            self.trim_rows_left = self.config.trim_rows_max;
        }
        begins
    }

    pub(crate) fn new(config: Config, seed: u64) -> Self {
        Self {
            config,
            now: Timestamp(0),
            storage_available: true,
            commit_latency_ms: 0,
            writes: true,
            draining: false,
            connections: Slab::new(),
            connection_index: Map::with_seed(seed),
            outbox: Outbox::default(),
            in_batch: false,
            batch: 1,
            ops: Vec::new(),
            durability: Durability::None,
            next_write: WriteSequence(1),
            loads: Map::with_seed(seed),
            next_ticket: 1,
            ready: VecDeque::new(),
            starved: VecDeque::new(),
            starved_round: 1,
            deadlines: Deadlines::default(),
            held_bytes: 0,
            unblocked: false,
            // Those of earlier incarnations are not known any more, and must not be taken for ours. JSON carries it.
            next_transfer: (seed >> 44 << 32) + 1,
            next_reply_to: (seed >> 44 << 32) + 1,
            imports: 0,
            dirty_connections: Vec::new(),
            dirty_namespaces: Vec::new(),
            presence_news: Vec::new(),
            catch_ups: 0,
            trim_rows_left: 0,
            more: false,
            counters: Counters::default(),
            placed: Vec::new(),
            moved: Vec::new(),
            found_topics: Vec::new(),
            recalled: Vec::new(),
            buried: Vec::new(),
            settling: Vec::new(),
            committing: Vec::new(),
            record: Vec::new(),
            fanouts: Vec::new(),
            charges: Vec::new(),
        }
    }

    /// What a receipt of this level waits for, if it was granted in this batch.
    pub(crate) fn after(&self, durability: Durability) -> After {
        let write = self.next_write;
        let durability = if Mutation::ReceiptBeforeSync.is_active() {
            durability.min(Durability::Async)
        } else {
            durability
        };
        match durability {
            Durability::None => After::default(),
            Durability::Async => After {
                applied: write,
                synced: WriteSequence(0),
            },
            Durability::Sync => After {
                applied: WriteSequence(0),
                synced: write,
            },
        }
    }

    /// What the receipts of the messages that were just placed say, as a list of [`Place`](crate::frame::Place).
    pub(crate) fn receipts(&self) -> Vec<u8> {
        let mut receipts = Vec::new();
        for (index, (place, duplicate)) in self.placed.iter().enumerate() {
            let moved = self.moved.get(index).and_then(Option::as_deref);
            List::push(&mut receipts, &place.told(*duplicate, moved));
        }
        receipts
    }

    /// Refuses what has to be stored while the store takes nothing.
    pub(crate) fn require_storage(&self) -> Result<(), Refusal> {
        if self.storage_available {
            return Ok(());
        }
        Err(Refusal::new(
            ErrorCode::StorageUnavailable,
            "the store takes nothing now; try again",
        ))
    }

    /// Lets go of a load: its answer is not wanted any more.
    pub(crate) fn abandon_load(&mut self, ticket: Ticket) {
        if let Some(owner) = self.loads.get_mut(&ticket) {
            *owner = LoadOwner::Nobody;
        }
    }

    /// Lets those go on who waited for others to need less.
    pub(crate) fn wake_starved(&mut self) {
        let starved = core::mem::take(&mut self.starved);
        self.starved_round += 1;
        self.ready.extend(starved);
    }

    /// A ticket for a load, unless too many are under way.
    pub(crate) fn take_ticket(&mut self, owner: LoadOwner) -> Option<Ticket> {
        if self.loads.len() as u64 >= self.config.loads_max {
            return None;
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.counters.loads += 1;
        self.loads.insert(ticket, owner);
        Some(ticket)
    }

    /// The number under which the next request can be answered.
    pub(crate) fn take_reply_to(&mut self) -> ReplyTo {
        let reply_to = ReplyTo(self.next_reply_to);
        self.next_reply_to += 1;
        reply_to
    }

    /// Begins an export or import that is given up at `deadline`.
    pub(crate) fn begin_transfer(&mut self, namespace: u32, deadline: Timestamp) -> TransferId {
        let id = TransferId(self.next_transfer);
        self.next_transfer += 1;
        self.deadlines
            .insert((deadline, Due::Transfer(namespace, id)));
        id
    }

    /// Notes that somebody goes on with an export or import.
    pub(crate) fn move_transfer(
        &mut self,
        namespace: u32,
        id: TransferId,
        deadline: &mut Timestamp,
    ) {
        self.end_transfer(namespace, id, *deadline);
        *deadline = self.now.after_ms(self.config.transfer_idle_ms);
        self.deadlines
            .insert((*deadline, Due::Transfer(namespace, id)));
    }

    /// Notes that an export or import is over.
    pub(crate) fn end_transfer(&mut self, namespace: u32, id: TransferId, deadline: Timestamp) {
        self.deadlines
            .remove(&(deadline, Due::Transfer(namespace, id)));
    }

    /// Gives a reply to a connection at the end of the batch.
    pub(crate) fn reply(&mut self, connection: u32, after: After, reply: &Reply<'_>) {
        let Some(connection) = self.connections.get_mut(connection as usize) else {
            return;
        };
        let (id, encoding) = (connection.id, connection.encoding);
        self.outbox.reply(
            self.batch,
            id,
            encoding,
            &mut connection.replies,
            after,
            reply,
        );
    }

    /// Gives a reply its place among the deliveries to a connection.
    pub(crate) fn reply_in_order(&mut self, connection: u32, after: After, reply: &Reply<'_>) {
        let Some(connection) = self.connections.get(connection as usize) else {
            return;
        };
        let frame = spelt(connection.encoding, reply);
        self.outbox.deliver_to(after, connection.id, frame);
    }

    /// Answers a command with a refusal.
    pub(crate) fn refuse(&mut self, connection: u32, request: u64, refusal: &Refusal) {
        self.counters.refused_commands += 1;
        let failed = Failed {
            request,
            code: refusal.code.as_str(),
            message: &refusal.message,
            retry_after_ms: refusal.retry_after_ms,
        };
        self.reply(connection, After::default(), &Reply::Failed(failed));
    }

    /// Refuses a client that is not let in, in words that it can act on.
    pub(crate) fn turn_away(&mut self, id: ConnectionId, encoding: Encoding, refusal: &Refusal) {
        let failed = Failed {
            request: 0,
            code: refusal.code.as_str(),
            message: &refusal.message,
            retry_after_ms: refusal.retry_after_ms,
        };
        let frame = spelt(encoding, &Reply::Failed(failed));
        self.outbox.deliver_to(After::default(), id, frame);
        self.close(id, CloseCode::Policy, refusal.code, &refusal.message);
    }

    /// Closes a connection that the host knows; the caller forgets it.
    pub(crate) fn close(
        &mut self,
        connection: ConnectionId,
        code: CloseCode,
        error: ErrorCode,
        message: &str,
    ) {
        let mut reason = String::from(error.as_str());
        reason.push_str(": ");
        reason.push_str(message);
        self.outbox.close(connection, code, reason);
    }

    /// Notes that a connection's row must be written at the end of the batch.
    pub(crate) fn touch_connection(&mut self, index: u32) {
        let Some(connection) = self.connections.get_mut(index as usize) else {
            return;
        };
        if !connection.dirty {
            connection.dirty = true;
            self.dirty_connections.push(index);
        }
    }
}

/// A reply as it is sent.
fn spelt(encoding: Encoding, reply: &Reply<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    reply.encode(&mut frame);
    if encoding == Encoding::Json {
        let mut line = Vec::new();
        put_json(&frame, &mut line);
        frame = line;
    }
    frame
}
