//! What the broker was told and what it said, step by step, checked as it is said.
//!
//! The model sees every effect when it is emitted. It knows nothing of how the broker works; it knows the commands,
//! the replies, and the promises of the protocol. What clients see after the network is the business of `reader`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dunlin_core::frame::Reply;
use dunlin_core::{Durability, Effect, Op, Reader};

use super::archive::{Archive, Check, Place, filter_matches};
use super::command::{Order, Request, Wish};
use super::rows::{StateRow, read_state_row};

/// The bounds that the simulated brokers have: small, so that they are met.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) read_messages_max: u64,
    pub(super) loads_max: u64,
    pub(super) load_bytes_max: u64,
    pub(super) row_bytes_max: u64,
    pub(super) credit_max: u64,
    pub(super) lag_max: u64,
    pub(super) block_ms_max: u64,
}

/// One input, as the model needs it.
#[derive(Clone, Debug)]
pub(super) enum Given {
    Connect {
        connection: u64,
        namespace: usize,
        json: bool,
    },
    Frames {
        connection: u64,
        requests: Vec<Arc<Request>>,
    },
    Disconnect {
        connection: u64,
    },
    Restored {
        connection: u64,
        clean: bool,
    },
    Load {
        ok: bool,
    },
    Other,
}

/// A connection that the broker knows.
#[derive(Debug, Default)]
pub(super) struct Connection {
    pub(super) namespace: usize,
    pub(super) greeted: bool,
    pub(super) pending: BTreeMap<u64, Pending>,
    pub(super) commands: u64,
    /// The sequences of its publishes, by the order in which they were given.
    published: BTreeMap<u64, (u64, u64)>,
    pub(super) subscriptions: BTreeMap<u32, usize>,
}

/// A command without an answer.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// Its place among the commands of its connection.
    pub(super) order: u64,
    pub(super) given_at: u64,
    pub(super) request: Arc<Request>,
}

/// A subscription, once it was granted.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) namespace: usize,
    pub(super) wish: Wish,
    /// Where the broker says that it begins.
    pub(super) sequence: u64,
    /// The first offset that it must get of every partition that there was. Of later topics it gets everything.
    pub(super) base: BTreeMap<(usize, u32), u64>,
    /// Below these offsets it may or may not get what retention took when it began.
    pub(super) gone: BTreeMap<(usize, u32), u64>,
    pub(super) credit: Option<u64>,
    /// The most that it ever had.
    pub(super) credit_most: u64,
    /// Whether a resume lost something, so that a gap must tell.
    pub(super) truncated: bool,
}

/// A frame that the broker gave to the host, before it has left.
pub(super) struct Said {
    pub(super) connection: u64,
    pub(super) frame: Vec<u8>,
}

pub(super) struct Model {
    pub(super) archive: Archive,
    pub(super) namespaces: Vec<String>,
    pub(super) granted: Vec<Granted>,
    pub(super) bounds: Bounds,
    pub(super) connections: BTreeMap<u64, Connection>,
    /// The connections that speak JSON, also those that are gone.
    json: BTreeSet<u64>,
    /// The newest grant of a connection's subscription.
    pub(super) granted_by: BTreeMap<(u64, u32), usize>,
    /// The stored numbers of topics.
    pub(super) topic_ids: BTreeMap<(usize, u32), usize>,
    incarnations: BTreeMap<usize, (u64, u64)>,
    loads: u64,
    last_write: u64,
    pub(super) stats: Tally,
}

/// What was seen, to know that a run was not empty.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) receipts: u64,
    pub(super) refusals: u64,
    pub(super) deliveries: u64,
    pub(super) gaps: u64,
    pub(super) pages: u64,
    pub(super) subscriptions: u64,
    pub(super) ended: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.receipts += other.receipts;
        self.refusals += other.refusals;
        self.deliveries += other.deliveries;
        self.gaps += other.gaps;
        self.pages += other.pages;
        self.subscriptions += other.subscriptions;
        self.ended += other.ended;
    }
}

impl Model {
    pub(super) fn new(namespaces: Vec<String>, bounds: Bounds) -> Self {
        Self {
            archive: Archive::default(),
            namespaces,
            granted: Vec::new(),
            bounds,
            connections: BTreeMap::new(),
            json: BTreeSet::new(),
            granted_by: BTreeMap::new(),
            topic_ids: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            loads: 0,
            last_write: 0,
            stats: Tally::default(),
        }
    }

    /// A life of the broker begins. Only connections that are `Restored` are known to it.
    pub(super) fn begin_life(&mut self, life: u64) {
        self.archive.life = life;
        self.loads = 0;
        self.last_write = 0;
        self.topic_ids.clear();
    }

    pub(super) fn namespace_of(&self, connection: u64) -> Option<usize> {
        self.connections
            .get(&connection)
            .map(|connection| connection.namespace)
    }

    /// Which encoding a connection has or had.
    pub(super) fn is_json(&self, connection: u64) -> bool {
        self.json.contains(&connection)
    }

    /// The connections that the broker knows.
    pub(super) fn connections(&self) -> Vec<u64> {
        self.connections.keys().copied().collect()
    }

    /// How many loads are unanswered.
    pub(super) const fn loads(&self) -> u64 {
        self.loads
    }

    /// Checks one step: what was given, and what the broker said to it.
    pub(super) fn step(&mut self, now: u64, given: &[Given], effects: &[Effect]) -> Check {
        let mut gone = BTreeSet::new();
        let handled = self.take_given(now, given, &mut gone);
        let said = self.take_sends(effects)?;
        let replies = self.match_replies(&said)?;
        self.take_descriptions(write_of(effects), &replies)?;
        // While the store takes nothing, the next write waits with what it will store.
        let write = self.take_writes(effects)?;
        self.take_receipts(now, write, &replies)?;
        self.take_starts(now, effects)?;
        self.take_grants(&handled, &replies)?;
        self.take_others(now, &replies)?;
        for one in &said {
            self.take_delivery(now, one)?;
        }
        for effect in effects {
            if let Effect::Close { connection, .. } = effect {
                gone.insert(connection.0);
            }
        }
        // What they were still told in this batch was heard above.
        for connection in gone {
            self.connections.remove(&connection);
        }
        Ok(())
    }

    /// Notes commands, and returns them in their order.
    fn take_given(
        &mut self,
        now: u64,
        given: &[Given],
        gone: &mut BTreeSet<u64>,
    ) -> Vec<(u64, u64)> {
        let mut handled = Vec::new();
        for one in given {
            match one {
                Given::Connect {
                    connection,
                    namespace,
                    json,
                } => {
                    self.meet(*connection, *namespace, *json);
                }
                Given::Frames {
                    connection: id,
                    requests,
                } => {
                    let Some(connection) = self.connections.get_mut(id) else {
                        continue;
                    };
                    for request in requests {
                        connection.commands += 1;
                        if let Order::Credit {
                            subscription,
                            messages,
                        } = &request.order
                        {
                            let granted = connection.subscriptions.get(subscription);
                            if let Some(granted) = granted.map(|index| &mut self.granted[*index]) {
                                granted.credit = granted.credit.map(|credit| credit + messages);
                                granted.credit_most =
                                    granted.credit_most.max(granted.credit.unwrap_or(0));
                            }
                        }
                        if request.wants_reply() {
                            let pending = Pending {
                                order: connection.commands,
                                given_at: now,
                                request: request.clone(),
                            };
                            connection.pending.insert(request.number, pending);
                            handled.push((*id, request.number));
                        }
                    }
                }
                Given::Disconnect { connection } => {
                    gone.insert(*connection);
                }
                Given::Restored { connection, clean } => {
                    if let Some(connection) = self.connections.get_mut(connection) {
                        // What was under way was lost with the life that it was given to.
                        connection.pending.clear();
                        connection.published.clear();
                        if !clean {
                            connection.subscriptions.clear();
                        }
                        for index in connection.subscriptions.values() {
                            // Credit is not stored with every delivery: what was used may be there again.
                            let granted = &mut self.granted[*index];
                            granted.credit = granted.credit.map(|_| granted.credit_most);
                        }
                    }
                }
                Given::Load { .. } => self.loads -= 1,
                Given::Other => {}
            }
        }
        handled
    }

    /// Checks writes and loads against their bounds, and learns where logs begin.
    fn take_writes(&mut self, effects: &[Effect]) -> Result<u64, String> {
        for partition in self
            .archive
            .topics
            .iter_mut()
            .flat_map(|topic| &mut topic.partitions)
        {
            partition.start_before = partition.start;
        }
        for effect in effects {
            match effect {
                Effect::Write { ops, .. } => {
                    if ops.is_empty() {
                        return Err("a write without operations".to_owned());
                    }
                    for op in ops {
                        if let Op::Put { key, value } = op {
                            self.learn_topic(key, value)?;
                        }
                    }
                }
                Effect::Load {
                    rows_max,
                    bytes_max,
                    ..
                } => {
                    self.loads += 1;
                    if self.loads > self.bounds.loads_max {
                        return Err(format!(
                            "{} loads at once, loads_max is {}",
                            self.loads, self.bounds.loads_max
                        ));
                    }
                    if u64::from(*bytes_max) > self.bounds.load_bytes_max || *rows_max == 0 {
                        return Err(format!("a load of {bytes_max} bytes, {rows_max} rows"));
                    }
                }
                _ => {}
            }
        }
        match write_of(effects) {
            0 => Ok(self.last_write + 1),
            write if write == self.last_write + 1 => {
                self.last_write = write;
                Ok(write)
            }
            write => Err(format!("write {write} follows {}", self.last_write)),
        }
    }

    /// Learns where logs begin, now that it is known where they end.
    fn take_starts(&mut self, now: u64, effects: &[Effect]) -> Check {
        for effect in effects {
            let Effect::Write { ops, .. } = effect else {
                continue;
            };
            for op in ops {
                if let Op::Put { key, value } = op {
                    self.learn_start(now, key, value)?;
                }
            }
        }
        Ok(())
    }

    /// Learns which topics there are from a stored row, and checks the row against what may be stored.
    pub(super) fn learn_topic(&mut self, key: &[u8], value: &[u8]) -> Check {
        match read_state_row(key, value) {
            Some(StateRow::Topic {
                namespace,
                id,
                name,
                partitions,
            }) => {
                let namespace = self.known_namespace(namespace)?;
                let topic = self.archive.topic(namespace, name, partitions);
                self.topic_ids.insert((namespace, id), topic);
            }
            Some(StateRow::Messages { namespace, .. }) => {
                self.known_namespace(namespace)?;
                // One message may exceed the bound, because a message is never cut.
                let most = self.bounds.row_bytes_max + 4096;
                if value.len() as u64 > most {
                    return Err(format!(
                        "a row of {} bytes, row_bytes_max is {}",
                        value.len(),
                        self.bounds.row_bytes_max
                    ));
                }
            }
            Some(StateRow::Partition { namespace, .. } | StateRow::Other { namespace }) => {
                self.known_namespace(namespace)?;
            }
            Some(StateRow::Store) => {}
            None => return Err(format!("a row that no table has: {key:02x?}")),
        }
        Ok(())
    }

    /// Learns from a stored row where a log begins.
    pub(super) fn learn_start(&mut self, now: u64, key: &[u8], value: &[u8]) -> Check {
        if let Some(StateRow::Partition {
            namespace,
            id,
            partition,
            start,
        }) = read_state_row(key, value)
        {
            let namespace = self.known_namespace(namespace)?;
            let topic = self.topic_ids.get(&(namespace, id));
            let topic = *topic.ok_or_else(|| format!("a log of topic {id}, which has no row"))?;
            self.archive.trim(topic, partition, start, now)?;
        }
        Ok(())
    }

    pub(super) fn known_namespace(&self, name: &str) -> Result<usize, String> {
        let found = self.namespaces.iter().position(|known| known == name);
        found.ok_or_else(|| format!("a row of namespace \"{name}\", which nobody uses"))
    }

    /// Cuts Sends into frames by connection.
    fn take_sends(&self, effects: &[Effect]) -> Result<Vec<Said>, String> {
        let mut said = Vec::new();
        for effect in effects {
            let Effect::Send {
                to, prefixes, body, ..
            } = effect
            else {
                continue;
            };
            let mut start = 0;
            for recipient in to {
                let end = recipient.prefix_end as usize;
                let mut bytes = prefixes[start..end].to_vec();
                bytes.extend_from_slice(body);
                start = end;
                let id = recipient.connection.0;
                if !self.connections.contains_key(&id) {
                    return Err(format!("a send to connection {id}, which is not there"));
                }
                for frame in frames_in(self.is_json(id), &bytes)? {
                    said.push(Said {
                        connection: id,
                        frame,
                    });
                }
            }
        }
        Ok(said)
    }

    /// Finds the command that each reply answers; exactly one reply a command.
    fn match_replies<'a>(&mut self, said: &'a [Said]) -> Result<Replies<'a>, String> {
        let mut replies = BTreeMap::new();
        for one in said {
            let reply = decode(&one.frame)?;
            let Some(number) = request_of(&reply) else {
                continue;
            };
            let connection = self.connections.get_mut(&one.connection);
            let connection = connection.expect("sends to others were refused before");
            if number == 0 {
                // Credit for a subscription that has just ended cannot be answered otherwise.
                match reply {
                    Reply::Failed(failed) if failed.code == "unknown_subscription" => continue,
                    Reply::Welcome(_) if !connection.greeted => connection.greeted = true,
                    _ => return Err(format!("a reply to nothing: {reply:?}")),
                }
            }
            let Some(pending) = connection.pending.remove(&number) else {
                return Err(format!(
                    "connection {} has no command {number}, but gets {reply:?}",
                    one.connection
                ));
            };
            replies.insert((one.connection, number), (pending, reply));
        }
        Ok(replies)
    }

    /// Takes what is said about topics, before anything is placed in them.
    fn take_descriptions(&mut self, write: u64, replies: &Replies<'_>) -> Check {
        for ((connection, _), (Pending { request, .. }, reply)) in replies {
            let Some(namespace) = self.namespace_of(*connection) else {
                continue;
            };
            match (&request.order, reply) {
                (
                    Order::Configure {
                        topic: name,
                        config,
                    },
                    Reply::TopicDescription(told),
                ) => {
                    if told.topic != name {
                        return Err(format!(
                            "asked to configure \"{name}\", told of \"{}\"",
                            told.topic
                        ));
                    }
                    let index = self
                        .archive
                        .topic(namespace, name, told.partitions.iter().count());
                    let topic = &mut self.archive.topics[index];
                    let changed = topic.kind != told.kind
                        || topic.max_messages != told.max_messages
                        || topic.max_age_ms != told.max_age_ms;
                    let empty = topic.partitions.iter().all(|partition| partition.end == 0);
                    topic.reconfigured |= changed && !empty;
                    topic.kind = told.kind.to_owned();
                    topic.ordering = told.ordering.to_owned();
                    topic.durability = level(told.durability)?;
                    topic.max_messages = told.max_messages;
                    topic.max_age_ms = told.max_age_ms;
                    let count = told.partitions.iter().count();
                    if topic.partitions.len() != count {
                        return Err(format!(
                            "\"{name}\" has {} partitions, told {count}",
                            topic.partitions.len()
                        ));
                    }
                    if config
                        .max_messages
                        .is_some_and(|asked| asked != told.max_messages)
                    {
                        return Err(format!(
                            "asked \"{name}\" to keep {:?}, told {}",
                            config, told.max_messages
                        ));
                    }
                }
                (Order::Delete { topic: name }, Reply::Done(_)) => {
                    let index = self.archive.topic_named(namespace, name);
                    let index =
                        index.ok_or_else(|| format!("deleted \"{name}\", which was not there"))?;
                    self.archive.delete_topic(index, write);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Places every message that has a receipt, in the order of sequences.
    fn take_receipts(&mut self, now: u64, write: u64, replies: &Replies<'_>) -> Check {
        let mut placed: Vec<(u64, usize, u32, u64, Durability, u64, u64)> = Vec::new();
        for ((connection, _), (Pending { request, order, .. }, reply)) in replies {
            match (&request.order, reply) {
                (Order::Publish { message }, Reply::Receipt(receipt)) => {
                    let asked = self.archive.drafts[*message]
                        .durability
                        .unwrap_or(Durability::None);
                    let (partition, offset) = (receipt.partition, receipt.offset);
                    placed.push((
                        receipt.sequence,
                        *message,
                        partition,
                        offset,
                        asked,
                        *connection,
                        *order,
                    ));
                    if receipt.duplicate {
                        return Err(format!("message {message} is told to be a duplicate"));
                    }
                }
                (
                    Order::Batch {
                        messages,
                        durability,
                    },
                    Reply::Receipts(receipts),
                ) => {
                    let asked = durability.unwrap_or(Durability::None);
                    let places: Result<Vec<_>, _> = receipts.receipts.iter().collect();
                    let places = places.map_err(|_| "malformed receipts".to_owned())?;
                    if places.len() != messages.len() {
                        return Err(format!(
                            "{} receipts for {} messages",
                            places.len(),
                            messages.len()
                        ));
                    }
                    if places
                        .windows(2)
                        .any(|pair| pair[0].sequence + 1 != pair[1].sequence)
                    {
                        return Err(format!("a batch was torn apart: {places:?}"));
                    }
                    for (message, place) in messages.iter().zip(places) {
                        let (partition, offset) = (place.partition, place.offset);
                        placed.push((
                            place.sequence,
                            *message,
                            partition,
                            offset,
                            asked,
                            *connection,
                            *order,
                        ));
                    }
                }
                (Order::Publish { message }, Reply::Failed(failed)) => {
                    check_code(
                        failed.code,
                        &[
                            "storage_unavailable",
                            "subscriber_blocked",
                            "limit_reached",
                            "draining",
                        ],
                    )?;
                    self.archive.refuse(*message)?;
                }
                (Order::Batch { messages, .. }, Reply::Failed(failed)) => {
                    check_code(
                        failed.code,
                        &[
                            "storage_unavailable",
                            "subscriber_blocked",
                            "limit_reached",
                            "draining",
                        ],
                    )?;
                    for message in messages {
                        self.archive.refuse(*message)?;
                    }
                }
                _ => {}
            }
        }
        placed.sort_unstable_by_key(|place| place.0);
        for (sequence, message, partition, offset, asked, connection, order) in placed {
            self.stats.receipts += 1;
            let draft = self.archive.drafts[message].clone();
            let Some(topic) = self.archive.topic_named(draft.namespace, &draft.topic) else {
                return Err(format!(
                    "a receipt for topic \"{}\", which has no row",
                    draft.topic
                ));
            };
            let model = &self.archive.topics[topic];
            let live = model.kind == "live";
            let place = Place {
                topic,
                partition,
                offset,
                sequence,
                timestamp: now,
                expires_at: draft.ttl_ms.map(|ttl| now + ttl),
                level: if live {
                    Durability::None
                } else {
                    asked.max(model.durability)
                },
                life: self.archive.life,
                write: if live { 0 } else { write },
                lost_in: None,
                promised: None,
            };
            self.archive.assign(message, place)?;
            self.check_publish_order(connection, order, sequence)?;
        }
        Ok(())
    }

    /// What a connection published earlier has the lower sequence.
    fn check_publish_order(&mut self, id: u64, order: u64, sequence: u64) -> Check {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Ok(());
        };
        let span = connection
            .published
            .entry(order)
            .or_insert((sequence, sequence));
        span.1 = span.1.max(sequence);
        let before = connection
            .published
            .range(..order)
            .next_back()
            .map(|(_, span)| span.1);
        let after = connection
            .published
            .range(order + 1..)
            .next()
            .map(|(_, span)| span.0);
        if before.is_some_and(|before| before > sequence)
            || after.is_some_and(|after| after < sequence)
        {
            return Err(format!(
                "connection {id}: command {order} got sequence {sequence} out of its order"
            ));
        }
        Ok(())
    }

    /// Checks all replies that neither place messages nor grant subscriptions.
    fn take_others(&mut self, now: u64, replies: &Replies<'_>) -> Check {
        for ((id, number), (pending, reply)) in replies {
            let request = &pending.request;
            let Some(namespace) = self.namespace_of(*id) else {
                continue;
            };
            match (&request.order, reply) {
                (Order::Publish { .. }, Reply::Receipt(_))
                | (Order::Batch { .. }, Reply::Receipts(_))
                | (Order::Publish { .. } | Order::Batch { .. }, Reply::Failed(_))
                | (Order::Subscribe { .. }, Reply::Subscribed(_))
                | (Order::Configure { .. }, Reply::TopicDescription(_))
                | (Order::Delete { .. }, Reply::Done(_))
                | (Order::Ping, Reply::Pong(_)) => {}
                (Order::Hello, Reply::Welcome(told)) => {
                    if told.connection != *id || told.version != 1 {
                        return Err(format!("connection {id} is greeted as {told:?}"));
                    }
                    let life = self.archive.life;
                    let known = self
                        .incarnations
                        .entry(namespace)
                        .or_insert((life, told.incarnation));
                    if known.0 == life && known.1 != told.incarnation {
                        return Err(format!(
                            "incarnation {} in a life that had {}",
                            told.incarnation, known.1
                        ));
                    }
                    *known = (life, told.incarnation);
                }
                (Order::Unsubscribe { subscription }, Reply::Done(_)) => {
                    let connection = self
                        .connections
                        .get_mut(id)
                        .expect("its namespace was just asked for");
                    connection.subscriptions.remove(subscription);
                }
                (Order::Read { topic, begin, .. }, Reply::Page(page)) => {
                    self.stats.pages += 1;
                    self.check_page(now, namespace, pending, page)
                        .map_err(|error| {
                            format!(
                                "page {number} of \"{topic}\" from {}: {error}",
                                begin.text()
                            )
                        })?;
                }
                (Order::Describe { topic }, Reply::TopicDescription(told)) => {
                    let index = self.archive.topic_named(namespace, topic);
                    let index = index
                        .ok_or_else(|| format!("\"{topic}\" is described, but is not there"))?;
                    for (partition, extent) in told.partitions.iter().enumerate() {
                        let extent = extent.map_err(|_| "a malformed extent".to_owned())?;
                        let part = &self.archive.topics[index].partitions[partition];
                        if extent.log_end_offset > part.end
                            || extent.log_start_offset > extent.log_end_offset
                        {
                            return Err(format!(
                                "\"{topic}\" is told to be {extent:?}, but ends at {}",
                                part.end
                            ));
                        }
                    }
                }
                (Order::List { filter }, Reply::Topics(told)) => {
                    let names: Vec<&str> = told.topics.iter().collect();
                    if !names.is_sorted() || names.iter().any(|name| !filter_matches(filter, name))
                    {
                        return Err(format!("topics of \"{filter}\": {names:?}"));
                    }
                    for name in names {
                        if self.archive.topic_named(namespace, name).is_none() {
                            return Err(format!(
                                "topic \"{name}\" is listed in namespace {namespace}, but is not its"
                            ));
                        }
                    }
                }
                (order, Reply::Failed(failed)) => {
                    self.stats.refusals += 1;
                    let allowed: &[&str] = match order {
                        Order::Subscribe { .. } => &[
                            "limit_reached",
                            "offset_out_of_range",
                            "unknown_topic",
                            "unknown_partition",
                            "invalid_argument",
                            "storage_unavailable",
                        ],
                        Order::Unsubscribe { .. } => &["unknown_subscription"],
                        Order::Read { .. } => &[
                            "limit_reached",
                            "offset_out_of_range",
                            "unknown_topic",
                            "unknown_partition",
                            "storage_unavailable",
                        ],
                        Order::Configure { .. } => {
                            &["conflicting_config", "limit_reached", "storage_unavailable"]
                        }
                        Order::Describe { .. } => &["unknown_topic"],
                        Order::Delete { .. } => &["unknown_topic", "storage_unavailable"],
                        _ => &[],
                    };
                    check_code(failed.code, allowed)
                        .map_err(|error| format!("{error}, to {order:?}: {failed:?}"))?;
                }
                (order, reply) => return Err(format!("{order:?} is answered {reply:?}")),
            }
        }
        Ok(())
    }

    /// Every command that was handled must have been answered.
    pub(super) fn check_answered(&self) -> Check {
        for (id, connection) in &self.connections {
            if let Some((number, pending)) = connection.pending.first_key_value() {
                return Err(format!(
                    "connection {id}: command {number} was never answered: {:?}",
                    pending.request.order
                ));
            }
        }
        Ok(())
    }

    /// Nothing is kept beyond what retention allows, to a sixteenth.
    pub(super) fn check_retention(&self) -> Check {
        for topic in self
            .archive
            .topics
            .iter()
            .filter(|topic| !topic.deleted && !topic.reconfigured)
        {
            let max = match &*topic.kind {
                "log" => topic.max_messages,
                "last_value" => 1,
                _ => 0,
            };
            for (index, part) in topic.partitions.iter().enumerate() {
                let kept = part.end - part.start;
                if max > 0 && kept > max + (max / 16).max(1) {
                    return Err(format!(
                        "\"{}\" {index} keeps {kept} messages, {max} are allowed",
                        topic.name
                    ));
                }
            }
        }
        Ok(())
    }

    /// A connection is there, whether the broker has heard of it or not.
    pub(super) fn meet(&mut self, connection: u64, namespace: usize, json: bool) {
        self.connections.insert(
            connection,
            Connection {
                namespace,
                ..Connection::default()
            },
        );
        if json {
            self.json.insert(connection);
        }
    }

    /// The connection is not known any more.
    pub(super) fn forget(&mut self, connection: u64) {
        self.connections.remove(&connection);
    }
}

pub(super) type Replies<'a> = BTreeMap<(u64, u64), (Pending, Reply<'a>)>;

/// The write of a batch; 0 if it has none.
fn write_of(effects: &[Effect]) -> u64 {
    let writes = effects.iter().filter_map(|effect| match effect {
        Effect::Write { sequence, .. } => Some(sequence.0),
        _ => None,
    });
    writes.max().unwrap_or(0)
}

/// The frames in one message, in binary, without their lengths.
pub(super) fn frames_in(json: bool, bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    if json {
        return super::json::frames_of(bytes);
    }
    let mut reader = Reader::new(bytes);
    let mut frames = Vec::new();
    while !reader.is_empty() {
        frames.push(
            reader
                .bytes()
                .map_err(|_| "a message that is not frames".to_owned())?
                .to_vec(),
        );
    }
    Ok(frames)
}

pub(super) fn decode(frame: &[u8]) -> Result<Reply<'_>, String> {
    Reply::decode(frame).map_err(|error| format!("a frame that is none ({error:?}): {frame:02x?}"))
}

/// The command that a reply answers; 0 for `hello`, which has no number.
pub(super) const fn request_of(reply: &Reply<'_>) -> Option<u64> {
    Some(match reply {
        Reply::Welcome(_) => 0,
        Reply::Receipt(reply) => reply.request,
        Reply::Receipts(reply) => reply.request,
        Reply::Subscribed(reply) => reply.request,
        Reply::Done(reply) => reply.request,
        Reply::Failed(reply) => reply.request,
        Reply::Page(reply) => reply.request,
        Reply::TopicDescription(reply) => reply.request,
        Reply::Topics(reply) => reply.request,
        Reply::Pong(reply) => reply.request,
        Reply::Delivery(_)
        | Reply::Gap(_)
        | Reply::Ended(_)
        | Reply::Resync(_)
        | Reply::GoingAway(_) => return None,
    })
}

pub(super) fn first_sequence(reply: &Reply<'_>) -> Option<u64> {
    match reply {
        Reply::Receipt(receipt) => Some(receipt.sequence),
        Reply::Receipts(receipts) => receipts
            .receipts
            .iter()
            .flatten()
            .map(|place| place.sequence)
            .min(),
        _ => None,
    }
}

pub(super) fn last_sequence(reply: &Reply<'_>) -> Option<u64> {
    match reply {
        Reply::Receipt(receipt) => Some(receipt.sequence),
        Reply::Receipts(receipts) => receipts
            .receipts
            .iter()
            .flatten()
            .map(|place| place.sequence)
            .max(),
        _ => None,
    }
}

pub(super) fn level(word: &str) -> Result<Durability, String> {
    match word {
        "none" => Ok(Durability::None),
        "async" => Ok(Durability::Async),
        "sync" => Ok(Durability::Sync),
        _ => Err(format!("a level \"{word}\"")),
    }
}

fn check_code(code: &str, allowed: &[&str]) -> Check {
    if allowed.contains(&code) {
        Ok(())
    } else {
        Err(format!("refused with \"{code}\""))
    }
}
