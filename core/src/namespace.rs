//! A namespace: its topics, its subscriptions, and the one sequence that numbers all its messages.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use slab::Slab;

use crate::compaction::Compaction;
use crate::config::Config;
use crate::context::{Context, LoadOwner, Work};
use crate::dedup::Dedup;
use crate::device::Devices;
use crate::door::Door;
use crate::effect::{After, Durability, Event, Op};
use crate::error::{ErrorCode, Refusal};
use crate::export::Export;
use crate::group::{Group, LeasePlace};
use crate::hash::{Digest, Map};
use crate::ids::{
    ConnectionId, Incarnation, LeaseId, Partition, ReplyTo, Sequence, Timestamp, TopicId,
};
use crate::import::Import;
use crate::inquiry::Inquiry;
use crate::limits::{Limiter, Limits};
use crate::lineage::Lineage;
use crate::log::{Log, LogKeys, RollBounds};
use crate::mailbox::MailboxRead;
use crate::manage::topic_row;
use crate::presence::Presence;
use crate::read::ReadJob;
use crate::routing::{Routing, TopicRules};
use crate::rows::{Keys, ROW_VERSION};
use crate::schedule::Schedule;
use crate::subscription::Subscription;
use crate::tenant::Tenant;
use crate::topic::{self, Kind, Ordering, TopicConfig};
use crate::trie::{NodeIndex, Trie};
use crate::wire::Put as _;

/// How many sequences live topics reserve with the namespace's row before it is written again.
pub(crate) const LIVE_SEQUENCES_RESERVED: u64 = 1024;

/// The longest namespace name, in bytes.
pub(crate) const NAMESPACE_BYTES_MAX: usize = 64;

pub(crate) struct Namespace {
    /// Its number in the broker.
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) keys: Keys,
    pub(crate) topics: Slab<Topic>,
    /// Topics by name: for a publish, and in order for lists.
    pub(crate) topic_index: Map<Arc<str>, u32>,
    pub(crate) topic_names: BTreeMap<Arc<str>, u32>,
    pub(crate) next_topic_id: u32,
    pub(crate) trie: Trie,
    pub(crate) subscriptions: Slab<Subscription>,
    /// Consumer groups, and in order for lists.
    pub(crate) groups: Slab<Box<Group>>,
    pub(crate) group_names: BTreeMap<Arc<str>, u32>,
    pub(crate) next_group_id: u32,
    pub(crate) dirty_groups: Vec<u32>,
    /// The leases of all groups.
    pub(crate) leases: Map<LeaseId, LeasePlace>,
    pub(crate) next_lease: LeaseId,
    /// How many connections it has, and which users have them.
    pub(crate) connections: u64,
    pub(crate) presence: Presence,
    /// The devices of its users, and who is connected.
    pub(crate) devices: Devices,
    pub(crate) door: Door,
    /// What it may have and used, if an operator configured it; and whether that is to be written with this batch.
    pub(crate) tenant: Option<Box<Tenant>>,
    pub(crate) usage_is_due: bool,
    /// How many bytes the messages of all logs have.
    pub(crate) stored_bytes: u64,
    pub(crate) next_serial: u64,
    pub(crate) last_sequence: Sequence,
    pub(crate) lineage: Lineage,
    /// Live topics, which store nothing else, may have taken sequences up to this one.
    pub(crate) reserved: Sequence,
    /// The lineage as it was stored, until it is known whether its last life goes on.
    stored_lineage: Lineage,
    /// Whether this incarnation is in the store yet.
    pub(crate) incarnation_stored: bool,
    /// Whether the namespace's row must be written at the end of the batch.
    dirty: bool,
    /// Whether the context knows that there is something to write.
    listed: bool,
    dirty_logs: Vec<(u32, Partition)>,
    /// What deliveries of topics with global order have waited for.
    pub(crate) after_global: After,
    /// How many subscriptions are behind, and how many of those hold publishers back.
    pub(crate) behind: u64,
    pub(crate) blocked: u64,
    pub(crate) limits: Limits,
    pub(crate) routing: Routing,
    /// Live logs that keep messages for those who are behind.
    pub(crate) rings: Vec<(u32, Partition)>,
    pub(crate) rings_bytes: u64,
    /// When the newest message was published.
    pub(crate) last_timestamp: Timestamp,
    /// How many messages and producers its topics remember; when a topic is to look for the first of its window, or for
    /// a producer, to forget it; and which topics have something of that to write.
    pub(crate) dedup_entries: u64,
    pub(crate) producers: u64,
    pub(crate) dedup_due: BTreeSet<(Timestamp, u32, Option<Digest>)>,
    pub(crate) dirty_dedups: Vec<u32>,
    pub(crate) schedule: Schedule,
    /// The requests that wait for answers.
    pub(crate) inquiries: Map<ReplyTo, Inquiry>,
    pub(crate) reads: Slab<ReadJob>,
    pub(crate) mailbox_reads: Slab<MailboxRead>,
    pub(crate) compaction: Option<Box<Compaction>>,
    pub(crate) compaction_queue: VecDeque<(u32, TopicId, Partition)>,
    /// Exports under way; while there are any, no row of messages is deleted or rewritten.
    pub(crate) exports: Vec<Export>,
    /// The import under way; while there is one, nothing else comes into the namespace.
    pub(crate) import: Option<Box<Import>>,
    /// Whether the store has the beginning of an import that was never finished.
    pub(crate) import_broken_off: bool,
}

pub(crate) struct Topic {
    pub(crate) id: TopicId,
    pub(crate) name: Arc<str>,
    pub(crate) config: TopicConfig,
    pub(crate) roll: RollBounds,
    pub(crate) partitions: Vec<PartitionState>,
    /// What may be published to it, where topics are limited.
    pub(crate) limiter: Option<Box<Limiter>>,
    /// Where the next message without a key goes, on a topic without order.
    pub(crate) round_robin: u32,
    /// How many messages wait for their time to be published to it.
    pub(crate) scheduled: u64,
    /// What it remembers of messages that have names, if anything.
    pub(crate) dedup: Option<Box<Dedup>>,
    /// The groups that read it, each with its logs by partition.
    pub(crate) readers: Vec<(u32, Vec<u32>)>,
    /// The routing rules for it.
    pub(crate) rules: TopicRules,
    /// What matched last time, and the trie's version then.
    matched: Vec<NodeIndex>,
    matched_at: Option<u64>,
}

#[derive(Default)]
pub(crate) struct PartitionState {
    pub(crate) log: Log,
    dirty: bool,
}

impl Namespace {
    pub(crate) fn new(index: u32, name: &str, seed: u64) -> Self {
        Self {
            index,
            name: name.into(),
            keys: Keys::new(name),
            topics: Slab::new(),
            topic_index: Map::with_seed(seed),
            topic_names: BTreeMap::new(),
            next_topic_id: 1,
            trie: Trie::new(seed),
            subscriptions: Slab::new(),
            groups: Slab::new(),
            group_names: BTreeMap::new(),
            next_group_id: 1,
            dirty_groups: Vec::new(),
            leases: Map::with_seed(seed),
            // Those of earlier lives may still be with clients, and must not be taken for ours. JSON carries it.
            next_lease: LeaseId((seed >> 44 << 32) + 1),
            connections: 0,
            presence: Presence::default(),
            devices: Devices::new(seed),
            door: Door::default(),
            tenant: None,
            usage_is_due: false,
            stored_bytes: 0,
            next_serial: 1,
            last_sequence: Sequence(0),
            lineage: Lineage::default(),
            reserved: Sequence(0),
            stored_lineage: Lineage::default(),
            incarnation_stored: false,
            dirty: false,
            listed: false,
            dirty_logs: Vec::new(),
            after_global: After::default(),
            behind: 0,
            blocked: 0,
            limits: Limits::new(seed),
            routing: Routing::default(),
            rings: Vec::new(),
            rings_bytes: 0,
            last_timestamp: Timestamp(0),
            dedup_entries: 0,
            producers: 0,
            dedup_due: BTreeSet::new(),
            dirty_dedups: Vec::new(),
            schedule: Schedule::new(seed),
            inquiries: Map::with_seed(seed),
            reads: Slab::new(),
            mailbox_reads: Slab::new(),
            compaction: None,
            compaction_queue: VecDeque::new(),
            exports: Vec::new(),
            import: None,
            import_broken_off: false,
        }
    }

    /// Begins this life of the namespace.
    pub(crate) fn begin_incarnation(&mut self, config: &Config, seed: u64) {
        self.stored_bytes = self.sum_stored_bytes();
        self.stored_lineage = self.lineage.clone();
        self.lineage.begin(
            self.last_sequence.next(),
            config.incarnations_max as usize,
            seed,
        );
        // What is told to be lost begins with what is not stored; what live topics took beyond is not given again.
        self.last_sequence = self.last_sequence.max(self.reserved);
        for (_, topic) in &mut self.topics {
            if topic.config.kind == Kind::Live {
                for state in &mut topic.partitions {
                    state.log.begin_live(self.last_sequence);
                }
            }
        }
    }

    /// Becomes what was imported, under its own name and with its own connections.
    pub(crate) fn replace_with(&mut self, imported: Self) {
        *self = Self {
            index: self.index,
            connections: self.connections,
            presence: core::mem::take(&mut self.presence),
            door: core::mem::take(&mut self.door),
            tenant: self.tenant.take(),
            usage_is_due: self.usage_is_due,
            next_serial: self.next_serial,
            listed: self.listed,
            // Written with the import as it is; the life that begins now is stored with its first write.
            dirty: false,
            ..imported
        };
    }

    /// After a clean hibernation nothing was lost that anybody saw: the life that is stored goes on, and with it the
    /// tokens that clients hold.
    pub(crate) fn go_on(&mut self) {
        if !self.incarnation_stored && self.stored_lineage.current().0 != 0 {
            self.lineage = self.stored_lineage.clone();
            self.incarnation_stored = true;
        }
    }

    /// Notes that a token was handed out. A later life must know this one, lest it take the token for another's: of a
    /// namespace that is stored, it is stored too.
    pub(crate) fn vouch(&mut self, cx: &mut Context) {
        if !self.incarnation_stored && self.stored_lineage.current() != Incarnation(0) {
            self.touch(cx);
        }
    }

    pub(crate) fn topic_by_name(&self, name: &str) -> Option<u32> {
        self.topic_index.get(name).copied()
    }

    /// The topic, or a refusal that names it.
    pub(crate) fn known_topic(&self, name: &str) -> Result<u32, Refusal> {
        self.topic_by_name(name).ok_or_else(|| {
            Refusal::new(ErrorCode::UnknownTopic, format!("unknown topic \"{name}\""))
        })
    }

    /// Creates a topic whose name and configuration were checked.
    pub(crate) fn create_topic(
        &mut self,
        cx: &mut Context,
        name: &str,
        config: TopicConfig,
    ) -> u32 {
        let id = TopicId(self.next_topic_id);
        self.next_topic_id += 1;
        self.touch(cx);
        let index = self.insert_topic(&cx.config, id, name, config);
        self.touch_topic(cx, index);
        cx.outbox.notify(Event::TopicCreated {
            namespace: self.name.clone(),
            topic: name.into(),
        });
        self.attach_new_topic(cx, index);
        index
    }

    /// Puts a topic in its place, with empty partitions.
    pub(crate) fn insert_topic(
        &mut self,
        config: &Config,
        id: TopicId,
        name: &str,
        topic: TopicConfig,
    ) -> u32 {
        let name: Arc<str> = name.into();
        let index = self.topics.insert(Topic {
            id,
            name: name.clone(),
            roll: RollBounds::new(config, &topic),
            config: topic,
            partitions: (0..topic.partitions)
                .map(|_| PartitionState::default())
                .collect(),
            limiter: None,
            round_robin: 0,
            scheduled: 0,
            dedup: None,
            readers: Vec::new(),
            matched: Vec::new(),
            rules: TopicRules::default(),
            matched_at: None,
        }) as u32;
        self.topic_index.insert(name.clone(), index);
        self.topic_names.insert(name, index);
        index
    }

    /// Writes a topic's row.
    pub(crate) fn touch_topic(&mut self, cx: &mut Context, index: u32) {
        let topic = &self.topics[index as usize];
        let value = topic_row(&topic.name, &topic.config);
        cx.durability = cx.durability.max(topic.config.durability);
        cx.ops.push(Op::Put {
            key: self.keys.topic(topic.id),
            value,
        });
    }

    /// Removes a topic and everything stored of it.
    pub(crate) fn delete_topic(&mut self, cx: &mut Context, index: u32) {
        self.delete_scheduled(cx, index);
        self.detach_topic(cx, index);
        self.drop_topic_limiter(cx, index);
        let topic = self.topics.remove(index as usize);
        self.delete_dedup(index, topic.dedup.as_deref());
        let bytes = topic.partitions.iter().map(|state| state.log.size_bytes());
        self.stored_bytes -= bytes.sum::<u64>();
        self.topic_index.remove(&*topic.name);
        self.topic_names.remove(&*topic.name);
        let kept = topic.partitions.iter().map(|state| state.log.ring_bytes());
        self.rings_bytes -= kept.sum::<u64>();
        self.rings.retain(|(other, _)| *other != index);
        self.dirty_logs.retain(|(other, _)| *other != index);
        self.touch(cx);
        for (from, to) in self.keys.topic_ranges(topic.id) {
            cx.ops.push(Op::DeleteRange { from, to });
        }
        cx.durability = cx.durability.max(topic.config.durability);
        cx.outbox.notify(Event::TopicDeleted {
            namespace: self.name.clone(),
            topic: (&*topic.name).into(),
        });
    }

    pub(crate) fn log(&self, topic: u32, partition: Partition) -> Option<&Log> {
        let topic = self.topics.get(topic as usize)?;
        topic
            .partitions
            .get(partition.0 as usize)
            .map(|state| &state.log)
    }

    /// Notes that the namespace's row must be written at the end of the batch.
    pub(crate) fn touch(&mut self, cx: &mut Context) {
        self.dirty = true;
        self.list(cx);
    }

    /// Lets the context know that there is something to write.
    pub(crate) fn list(&mut self, cx: &mut Context) {
        if !self.listed {
            self.listed = true;
            cx.dirty_namespaces.push(self.index);
        }
    }

    /// Notes that a partition has something to write at the end of the batch.
    pub(crate) fn touch_log(&mut self, cx: &mut Context, topic: u32, partition: Partition) {
        self.list(cx);
        let state = &mut self.topics[topic as usize].partitions[partition.0 as usize];
        if !state.dirty {
            state.dirty = true;
            self.dirty_logs.push((topic, partition));
        }
    }

    /// The nodes of the trie that match a topic; to be given back with [`Namespace::restore_matched`].
    pub(crate) fn take_matched(&mut self, topic: u32) -> Vec<NodeIndex> {
        let topic = &mut self.topics[topic as usize];
        let version = self.trie.version();
        if topic.matched_at != Some(version) {
            topic.matched.clear();
            self.trie.matches(&topic.name, &mut topic.matched);
            topic.matched_at = Some(version);
        }
        core::mem::take(&mut topic.matched)
    }

    /// Gives back what [`Namespace::take_matched`] took.
    pub(crate) fn restore_matched(&mut self, topic: u32, matched: Vec<NodeIndex>) {
        self.topics[topic as usize].matched = matched;
    }

    /// The topics that a filter matches, in the order of their names.
    pub(crate) fn topics_matching<'a>(&'a self, filter: &'a str) -> impl Iterator<Item = u32> + 'a {
        let exact = (!topic::is_pattern(filter))
            .then(|| self.topic_by_name(filter))
            .flatten();
        let pattern = topic::is_pattern(filter).then(|| {
            self.topic_names
                .iter()
                .filter(move |(name, _)| topic::matches(filter, name))
                .map(|(_, index)| *index)
        });
        exact.into_iter().chain(pattern.into_iter().flatten())
    }

    /// Applies retention to a log. True if something went.
    pub(crate) fn trim_log(
        &mut self,
        cx: &mut Context,
        topic: u32,
        partition: Partition,
        at: Sequence,
    ) -> bool {
        let Some(state) = self.topics.get_mut(topic as usize) else {
            return false;
        };
        let retention = state.config.effective_retention();
        let log = &mut state.partitions[partition.0 as usize].log;
        let before = log.size_bytes();
        let trimmed = log.trim(&retention, cx.now, at, &mut cx.trim_rows_left);
        self.stored_bytes -= before - log.size_bytes();
        cx.more |= log.is_trim_due(&retention, cx.now);
        trimmed
    }

    /// Applies retention to the logs of a topic that is looked at, so that what is too old is not seen. What goes
    /// takes a sequence of its own: readers that come later have not missed it.
    pub(crate) fn expire_topic(&mut self, cx: &mut Context, topic: u32) {
        if !cx.storage_available {
            return;
        }
        let count = self.topics[topic as usize].partitions.len() as u32;
        for partition in (0..count).map(Partition) {
            let state = &self.topics[topic as usize];
            let retention = state.config.effective_retention();
            if state.partitions[partition.0 as usize]
                .log
                .is_trim_due(&retention, cx.now)
            {
                self.last_sequence = self.last_sequence.next();
                if self.trim_log(cx, topic, partition, self.last_sequence) {
                    self.touch(cx);
                    self.touch_log(cx, topic, partition);
                }
            }
        }
    }

    /// Appends what this namespace has to write.
    pub(crate) fn flush(&mut self, cx: &mut Context) {
        self.listed = false;
        let before = cx.ops.len();
        for (topic, partition) in core::mem::take(&mut self.dirty_logs) {
            // As in `expire_topic`: whoever read on in this very batch is told as well.
            let at = self.last_sequence.next();
            if self.trim_log(cx, topic, partition, at) {
                self.last_sequence = at;
            }
            let Some(state) = self.topics.get_mut(topic as usize) else {
                continue;
            };
            let keys = LogKeys {
                keys: &self.keys,
                topic: state.id,
                partition,
            };
            let kind = state.config.kind;
            let slot = &mut state.partitions[partition.0 as usize];
            slot.dirty = false;
            // What an export may still read is deleted when it is over.
            let rows_max = if self.exports.is_empty() {
                cx.config.trim_rows_max
            } else {
                0
            };
            slot.log.flush(&keys, kind, rows_max, &mut cx.ops);
            cx.more |= rows_max > 0 && slot.log.is_doomed();
            if kind == Kind::Compacted && slot.log.wants_compaction(&cx.config) {
                self.queue_compaction(cx, topic, partition);
            }
            // What retention could not delete within this batch's bound is due in the next.
            if cx.more {
                self.retouch_if_due(cx, topic, partition);
            }
        }
        self.flush_dedups(cx);
        self.flush_groups(cx);
        self.flush_limiters(cx);
        self.flush_devices(cx);
        self.flush_usage(cx);
        if self.dirty || (cx.ops.len() > before && !self.incarnation_stored) {
            self.dirty = false;
            self.incarnation_stored = true;
            let mut value = Vec::new();
            value.put_u64(ROW_VERSION);
            value.put_u64(self.last_sequence.0);
            value.put_u64(self.next_topic_id.into());
            self.lineage.put(&mut value);
            if self.reserved > Sequence(0) || self.next_group_id > 1 {
                value.put_u64(self.reserved.0);
            }
            if self.next_group_id > 1 {
                value.put_u64(self.next_group_id.into());
            }
            cx.ops.push(Op::Put {
                key: self.keys.namespace(),
                value,
            });
        }
    }

    fn retouch_if_due(&mut self, cx: &mut Context, topic: u32, partition: Partition) {
        let state = &self.topics[topic as usize];
        let retention = state.config.effective_retention();
        let log = &state.partitions[partition.0 as usize].log;
        if log.is_trim_due(&retention, cx.now) || log.is_doomed() {
            self.touch_log(cx, topic, partition);
        }
    }

    /// What a delivery from this log waits for, after something that waits for `after` was appended to it.
    pub(crate) fn raise_after(&mut self, topic: u32, partition: Partition, after: After) -> After {
        let state = &mut self.topics[topic as usize];
        let log = &mut state.partitions[partition.0 as usize].log;
        log.after = log.after.and(after);
        if state.config.ordering == Ordering::Global {
            self.after_global = self.after_global.and(log.after);
            log.after = self.after_global;
        }
        log.after
    }

    /// The time, which for the namespace does not go back over a restart either.
    pub(crate) fn time(&self, cx: &Context) -> Timestamp {
        cx.now.max(self.last_timestamp)
    }

    /// What a reply waits for that promises all that was accepted so far at this level. It may take a write of its own
    /// to have that.
    pub(crate) fn after_all(&mut self, cx: &mut Context, durability: Durability) -> After {
        match durability {
            Durability::None => {}
            Durability::Async => {
                let mut after = cx.after(durability);
                after.applied.0 -= u64::from(!self.listed);
                return after;
            }
            Durability::Sync => {
                self.touch(cx);
                cx.durability = Durability::Sync;
            }
        }
        cx.after(durability)
    }

    /// What a delivery from this log waits for.
    pub(crate) fn delivery_after(&self, topic: u32, partition: Partition) -> After {
        let state = &self.topics[topic as usize];
        let after = state.partitions[partition.0 as usize].log.after;
        if state.config.ordering == Ordering::Global {
            after.and(self.after_global)
        } else {
            after
        }
    }

    /// Puts a subscription into the queue of those that want to go on.
    pub(crate) fn queue_subscription(&mut self, cx: &mut Context, index: u32) {
        let subscription = &mut self.subscriptions[index as usize];
        if !subscription.queued {
            subscription.queued = true;
            let serial = subscription.serial;
            cx.ready.push_back(Work::Subscription {
                namespace: self.index,
                subscription: index,
                serial,
            });
        }
    }

    /// Notes that a subscription is at the tail no more.
    pub(crate) fn count_behind(&mut self) {
        self.behind += 1;
    }

    /// Notes that a subscription is not behind any more.
    pub(crate) fn uncount_behind(&mut self) {
        self.behind -= 1;
        if self.behind == 0 {
            self.rings_bytes = 0;
            for (topic, partition) in core::mem::take(&mut self.rings) {
                self.topics[topic as usize].partitions[partition.0 as usize]
                    .log
                    .clear_ring();
            }
        }
    }

    /// Removes a subscription from everything but its connection's list.
    pub(crate) fn remove_subscription(&mut self, cx: &mut Context, index: u32) {
        self.forget_pace(cx, index);
        let subscription = self.subscriptions.remove(index as usize);
        self.release_cursor(cx, subscription.connection, subscription.id, false);
        self.trie.remove(subscription.node, index);
        if let Some(connection) = cx.connections.get_mut(subscription.connection as usize) {
            let ended = connection.ended.get_or_insert_default();
            *ended = ended.and(subscription.after);
        }
        let Some(behind) = subscription.behind else {
            return;
        };
        if behind.holds_back {
            self.blocked -= 1;
            cx.unblocked = true;
        }
        if let Some(round) = behind.round {
            round.abandon(cx);
        }
        self.uncount_behind();
    }

    /// Whether nothing would be lost with it.
    pub(crate) fn is_vacant(&self) -> bool {
        self.connections == 0 && self.devices.is_empty() && !self.exists()
    }

    /// Whether there is more of it than connections.
    pub(crate) fn exists(&self) -> bool {
        !self.topics.is_empty()
            || self.incarnation_stored
            || self.stored_lineage.current() != Incarnation(0)
            || self.dirty
            || !self.exports.is_empty()
            || self.import.is_some()
    }

    /// How many bytes the messages of all logs have, counted one by one.
    pub(crate) fn sum_stored_bytes(&self) -> u64 {
        let logs = self.topics.iter().flat_map(|(_, topic)| &topic.partitions);
        logs.map(|state| state.log.size_bytes()).sum()
    }

    /// Gives up the reads of a connection that is gone.
    pub(crate) fn remove_reads(&mut self, cx: &mut Context, connection: ConnectionId) {
        let gone: Vec<usize> = self
            .reads
            .iter()
            .filter(|(_, read)| read.connection_id == connection)
            .map(|(index, _)| index)
            .collect();
        for index in gone {
            let read = self.reads.remove(index);
            if let Some(ticket) = read.cursor.ticket() {
                cx.abandon_load(ticket);
            }
        }
        let gone: Vec<usize> = self
            .mailbox_reads
            .iter()
            .filter(|(_, read)| read.connection_id == connection)
            .map(|(index, _)| index)
            .collect();
        for index in gone {
            for ticket in self.mailbox_reads.remove(index).tickets() {
                cx.abandon_load(ticket);
            }
        }
    }

    fn queue_compaction(&mut self, cx: &mut Context, topic: u32, partition: Partition) {
        let id = self.topics[topic as usize].id;
        if self.is_compacting(id, partition)
            || self.compaction_queue.contains(&(topic, id, partition))
        {
            return;
        }
        self.compaction_queue.push_back((topic, id, partition));
        if self.compaction.is_none() {
            cx.ready.push_back(Work::Compaction {
                namespace: self.index,
            });
        }
    }

    /// Who to tell when a load for a subscription's head comes back.
    pub(crate) fn head_owner(&self, subscription: u32, head: usize) -> LoadOwner {
        let serial = self.subscriptions[subscription as usize].serial;
        LoadOwner::Subscription {
            namespace: self.index,
            subscription,
            serial,
            head: head as u32,
        }
    }
}

/// What is at the place of a namespace in the URLs of the list of them.
pub(crate) const NAMESPACES: &str = "namespaces";

/// Refuses what is not a namespace name: 1 to 64 of `a-z`, `0-9`, `-`, `_` and `.`, beginning with a letter or digit,
/// but not [`NAMESPACES`].
pub(crate) fn check_namespace(name: &str) -> Result<(), Refusal> {
    if name == NAMESPACES {
        let message = "no namespace is called \"namespaces\": the list of them has that place";
        return Err(Refusal::new(ErrorCode::UnknownNamespace, message));
    }
    let fits = (1..=NAMESPACE_BYTES_MAX).contains(&name.len());
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let sound = name
        .bytes()
        .all(|byte| plain(byte) || matches!(byte, b'-' | b'_' | b'.'));
    if fits && sound && name.bytes().next().is_some_and(plain) {
        return Ok(());
    }
    let message =
        "invalid namespace name: 1 to 64 of a-z, 0-9, -, _ and ., beginning with a letter or digit";
    Err(Refusal::new(ErrorCode::UnknownNamespace, message))
}
