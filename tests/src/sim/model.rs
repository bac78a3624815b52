//! What the broker was told and what it said, step by step, checked as it is said.
//!
//! The model sees every effect when it is emitted. It knows nothing of how the broker works; it knows the commands,
//! the replies, and the promises of the protocol. What clients see after the network is the business of `reader`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dunlin_core::frame::{Delivery, Record, Reply};
use dunlin_core::{Durability, Effect, Op, Reader};

use super::archive::{Archive, Check, Place, Told, filter_matches};
use super::command::{Begin, Order, Request, Wish};
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
struct Connection {
    namespace: usize,
    greeted: bool,
    pending: BTreeMap<u64, Pending>,
    commands: u64,
    /// The sequences of its publishes, by the order in which they were given.
    published: BTreeMap<u64, (u64, u64)>,
    subscriptions: BTreeMap<u32, usize>,
}

/// A command without an answer.
#[derive(Clone, Debug)]
struct Pending {
    /// Its place among the commands of its connection.
    order: u64,
    given_at: u64,
    request: Arc<Request>,
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
    credit: Option<u64>,
    /// The most that it ever had.
    credit_most: u64,
    /// Whether a resume lost something, so that a gap must tell.
    pub(super) truncated: bool,
}

/// A frame that the broker gave to the host, before it has left.
struct Said {
    connection: u64,
    frame: Vec<u8>,
}

pub(super) struct Model {
    pub(super) archive: Archive,
    pub(super) namespaces: Vec<String>,
    pub(super) granted: Vec<Granted>,
    bounds: Bounds,
    connections: BTreeMap<u64, Connection>,
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
                            if let Some(index) = connection.subscriptions.get(subscription) {
                                let granted = &mut self.granted[*index];
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

    /// Notes granted subscriptions and what they must get.
    fn take_grants(&mut self, handled: &[(u64, u64)], replies: &Replies<'_>) -> Check {
        let mut last: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
        for key in handled {
            let (Some((Pending { request, .. }, reply)), Some(namespace)) =
                (replies.get(key), self.namespace_of(key.0))
            else {
                continue;
            };
            let (before, seen) = last.entry(namespace).or_insert_with(|| {
                // Everything that was placed before this batch.
                let fresh = replies
                    .iter()
                    .filter(|((connection, _), _)| {
                        self.namespace_of(*connection) == Some(namespace)
                    })
                    .filter_map(|(_, (_, reply))| first_sequence(reply))
                    .min();
                let before = self
                    .archive
                    .last_sequence_below(namespace, fresh.unwrap_or(u64::MAX));
                (before, before)
            });
            let before = *before;
            if let Some(sequence) = last_sequence(reply) {
                *seen = (*seen).max(sequence);
            }
            let (Order::Subscribe { subscription, wish }, Reply::Subscribed(told)) =
                (&request.order, reply)
            else {
                continue;
            };
            // A held publish that was given before may be placed after.
            let seen = match wish.begin {
                Begin::Latest if told.sequence < before => {
                    return Err(format!(
                        "the latest is told to be {}, but is {before}",
                        told.sequence
                    ));
                }
                Begin::Latest => told.sequence,
                _ => *seen,
            };
            if told.subscription != *subscription {
                return Err(format!(
                    "asked for subscription {subscription}, told {}",
                    told.subscription
                ));
            }
            self.stats.subscriptions += 1;
            let base = self.base(namespace, wish, seen, told.sequence)?;
            let truncated =
                matches!(&wish.begin, Begin::Resume { sequence, .. } if told.sequence < *sequence);
            let gone = self.gone(&base, wish);
            let index = self.granted.len();
            self.granted.push(Granted {
                namespace,
                wish: wish.clone(),
                sequence: told.sequence,
                base,
                gone,
                credit: wish.credit,
                credit_most: wish.credit.unwrap_or(0),
                truncated,
            });
            let connection = self
                .connections
                .get_mut(&key.0)
                .expect("its namespace was just asked for");
            connection.subscriptions.insert(*subscription, index);
            self.granted_by.insert((key.0, *subscription), index);
        }
        Ok(())
    }

    /// The first offset of every partition that a new subscription must get, when the last sequence was `seen`.
    fn base(
        &self,
        namespace: usize,
        wish: &Wish,
        seen: u64,
        told: u64,
    ) -> Result<BTreeMap<(usize, u32), u64>, String> {
        if let Begin::Resume {
            seen: known,
            sequence,
            ..
        } = &wish.begin
        {
            if told > *sequence {
                return Err(format!("resumed at {told}, beyond the asked {sequence}"));
            }
            // Told from the very beginning, the broker does not remember the life that the token is of.
            for (at, message) in known.iter().filter(|(at, _)| *at > told && told > 0) {
                if self.archive.at_sequence(namespace, *at) == Some(*message) {
                    return Err(format!(
                        "resumed at {told} as if message {message} at {at} was lost, which it was not"
                    ));
                }
            }
            for (sequence, message) in known.iter().filter(|(sequence, _)| *sequence <= told) {
                if self
                    .archive
                    .at_sequence(namespace, *sequence)
                    .is_some_and(|other| other != *message)
                {
                    return Err(format!(
                        "resumed at {told}, but sequence {sequence} is not message {message} any more"
                    ));
                }
                if !self.archive.is_there(*message, self.archive.life) && !self.is_live(*message) {
                    return Err(format!(
                        "resumed at {told} without telling that message {message} was lost"
                    ));
                }
            }
        }
        let mut base = BTreeMap::new();
        for topic in self.archive.topics_of(namespace) {
            let model = &self.archive.topics[topic];
            if !filter_matches(&wish.filter, &model.name) {
                continue;
            }
            for (partition, part) in model.partitions.iter().enumerate() {
                let partition = partition as u32;
                let wants = |offset: u64| {
                    let message = self.archive.at(topic, partition, offset, self.archive.life);
                    let Some(place) =
                        message.and_then(|message| self.archive.places[message].as_ref())
                    else {
                        return false;
                    };
                    let past = match &wish.begin {
                        Begin::Latest => false,
                        // What a live topic had is gone for all who do not resume.
                        Begin::Resume { .. } => place.sequence > told,
                        _ if model.kind == "live" => false,
                        Begin::Earliest => true,
                        Begin::Offset(asked) => offset >= *asked,
                        Begin::Timestamp(at) => place.timestamp >= *at,
                        Begin::Last(count) => {
                            let later = part.offsets.range(offset..part.end);
                            let later = later.filter(|(_, messages)| {
                                messages.iter().any(|message| {
                                    self.archive.is_there(*message, self.archive.life)
                                        && self.archive.places[*message]
                                            .as_ref()
                                            .is_some_and(|place| place.sequence <= seen)
                                })
                            });
                            later.count() as u64 <= *count
                        }
                    };
                    past || place.sequence > seen
                };
                let first = (part.start_before..part.end)
                    .find(|offset| wants(*offset))
                    .unwrap_or(part.end);
                base.insert((topic, partition), first);
            }
        }
        Ok(base)
    }

    /// What is due for retention goes when a log is looked at, before a new reader begins; one that resumes is told.
    fn gone(&self, base: &BTreeMap<(usize, u32), u64>, wish: &Wish) -> BTreeMap<(usize, u32), u64> {
        if matches!(wish.begin, Begin::Resume { .. }) {
            return BTreeMap::new();
        }
        let start =
            |log: &(usize, u32)| self.archive.topics[log.0].partitions[log.1 as usize].start;
        base.keys().map(|log| (*log, start(log))).collect()
    }

    fn is_live(&self, message: usize) -> bool {
        self.archive.places[message]
            .as_ref()
            .is_none_or(|place| self.archive.topics[place.topic].kind == "live")
    }

    /// Checks all replies that neither place messages nor grant subscriptions.
    fn take_others(&mut self, now: u64, replies: &Replies<'_>) -> Check {
        for (
            (id, number),
            (
                Pending {
                    request, given_at, ..
                },
                reply,
            ),
        ) in replies
        {
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
                (
                    Order::Read {
                        topic,
                        partition,
                        begin,
                        messages_max,
                    },
                    Reply::Page(page),
                ) => {
                    self.stats.pages += 1;
                    self.check_page(
                        now,
                        *given_at,
                        namespace,
                        topic,
                        *partition,
                        begin,
                        *messages_max,
                        page,
                    )
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

    fn check_page(
        &self,
        now: u64,
        given_at: u64,
        namespace: usize,
        topic: &str,
        partition: u32,
        begin: &Begin,
        messages_max: u64,
        page: &dunlin_core::frame::Page<'_>,
    ) -> Check {
        let index = self
            .archive
            .topic_named(namespace, topic)
            .ok_or("the topic is not there")?;
        let live = self.archive.topics[index].kind == "live";
        let part = &self.archive.topics[index].partitions[partition as usize];
        if page.log_start_offset > page.log_end_offset || page.log_end_offset > part.end {
            return Err(format!(
                "the log is told to be {}..{}, it ends at {}",
                page.log_start_offset, page.log_end_offset, part.end
            ));
        }
        let mut next = match begin {
            _ if live => None,
            Begin::Earliest => Some(0),
            Begin::Offset(asked) => Some(*asked),
            _ => None,
        };
        let mut count = 0;
        for record in page.records.iter() {
            let record: Record<'_> = record.map_err(|_| "a malformed record".to_owned())?;
            count += 1;
            let message = self.archive.number_of(record.payload)?;
            let told = Told {
                namespace,
                topic,
                partition,
                offset: record.offset,
                sequence: record.sequence,
                timestamp: record.timestamp,
                expires_at: record.expires_at,
                key: record.key,
                id: record.id,
                headers: record
                    .headers
                    .iter()
                    .flat_map(|headers| headers.iter())
                    .collect(),
            };
            self.archive.check_told(message, &told)?;
            // A page may take long to read; what was alive when it was asked for may be in it.
            if record.expires_at.is_some_and(|at| at <= given_at) {
                return Err(format!("message {message} has expired"));
            }
            let from = next.unwrap_or(record.offset);
            self.check_passed(now, index, partition, from, record.offset)?;
            next = Some(record.offset + 1);
        }
        let limit = messages_max.min(self.bounds.read_messages_max);
        if count > limit {
            return Err(format!("{count} records, {limit} are allowed"));
        }
        if let Some(next) = next {
            self.check_passed(now, index, partition, next, page.next_offset)?;
            if count == 0 && page.next_offset < page.log_end_offset {
                return Err(format!(
                    "nothing before the log's end at {}, next is {}",
                    page.log_end_offset, page.next_offset
                ));
            }
        }
        Ok(())
    }

    /// Nothing that lies from `from` to below `to` may be missed.
    fn check_passed(&self, now: u64, topic: usize, partition: u32, from: u64, to: u64) -> Check {
        if to < from {
            return Err(format!("went back from {from} to {to}"));
        }
        let start = self.archive.topics[topic].partitions[partition as usize].start;
        for offset in from.max(start)..to {
            if let Some(message) = self.archive.at(topic, partition, offset, self.archive.life) {
                if !self.archive.is_excused(message, now) {
                    return Err(format!(
                        "offset {offset}, message {message}, was passed over"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Checks what a subscription is told.
    fn take_delivery(&mut self, now: u64, said: &Said) -> Check {
        let reply = decode(&said.frame)?;
        let (id, gone) = match &reply {
            Reply::Delivery(delivery) => (delivery.subscription, false),
            Reply::Gap(gap) => (gap.subscription, false),
            Reply::Ended(ended) => (ended.subscription, true),
            Reply::Resync(_) => {
                if let Some(connection) = self.connections.get_mut(&said.connection) {
                    connection.subscriptions.clear();
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        let Some(connection) = self.connections.get_mut(&said.connection) else {
            return Ok(());
        };
        let Some(&index) = connection.subscriptions.get(&id) else {
            // It ended in this very batch, after this was given to it.
            let known = self.granted_by.contains_key(&(said.connection, id));
            return if known {
                Ok(())
            } else {
                Err(format!("{reply:?} for a subscription that was never there"))
            };
        };
        if gone {
            self.stats.ended += 1;
            connection.subscriptions.remove(&id);
            return Ok(());
        }
        match reply {
            Reply::Delivery(delivery) => {
                self.stats.deliveries += 1;
                self.check_delivery(now, index, &delivery).map_err(|error| {
                    format!(
                        "subscription {id} of connection {}: {error}",
                        said.connection
                    )
                })
            }
            Reply::Gap(gap) => {
                self.stats.gaps += 1;
                let wish = &self.granted[index].wish;
                let sound = match gap.reason {
                    "trimmed" => true,
                    "dropped" => wish.on_lag.starts_with("drop") || gap.topic.is_some(),
                    "truncated" => self.granted[index].truncated,
                    _ => false,
                };
                if !sound || gap.after > gap.to {
                    return Err(format!("a gap that cannot be: {gap:?} for {wish:?}"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn check_delivery(&mut self, now: u64, index: usize, delivery: &Delivery<'_>) -> Check {
        let message = self.archive.number_of(delivery.payload)?;
        let granted = &mut self.granted[index];
        if let Some(credit) = &mut granted.credit {
            *credit = credit
                .checked_sub(1)
                .ok_or_else(|| format!("message {message} exceeds the credit"))?;
        }
        let told = Told {
            namespace: granted.namespace,
            topic: delivery.topic,
            partition: delivery.partition,
            offset: delivery.offset,
            sequence: delivery.sequence,
            timestamp: delivery.timestamp,
            expires_at: delivery.expires_at,
            key: delivery.key,
            id: delivery.id,
            headers: delivery
                .headers
                .iter()
                .flat_map(|headers| headers.iter())
                .collect(),
        };
        let granted = &self.granted[index];
        self.archive.check_told(message, &told)?;
        if !filter_matches(&granted.wish.filter, delivery.topic) {
            return Err(format!(
                "message {message} on \"{}\" does not match \"{}\"",
                delivery.topic, granted.wish.filter
            ));
        }
        if granted
            .wish
            .partition
            .is_some_and(|only| only != delivery.partition)
        {
            return Err(format!(
                "message {message} of partition {}",
                delivery.partition
            ));
        }
        if delivery.expires_at.is_some_and(|at| at <= now) {
            return Err(format!("message {message} has expired"));
        }
        Ok(())
    }

    /// Checks what leaves the host: nothing that was asked to be safe may be told of before it is.
    pub(super) fn released(
        &mut self,
        connection: u64,
        bytes: &[u8],
        applied: u64,
        synced: u64,
    ) -> Check {
        let Some(namespace) = self.namespace_of(connection) else {
            return Ok(());
        };
        let life = self.archive.life;
        for frame in frames_in(self.is_json(connection), bytes)? {
            match decode(&frame)? {
                Reply::Receipt(receipt) => {
                    let message = self.archive.at_sequence(namespace, receipt.sequence);
                    self.promise(message, applied, synced)?;
                }
                Reply::Receipts(receipts) => {
                    for place in receipts.receipts.iter().flatten() {
                        let message = self.archive.at_sequence(namespace, place.sequence);
                        self.promise(message, applied, synced)?;
                    }
                }
                Reply::Delivery(delivery) => {
                    let message = self.archive.number_of(delivery.payload)?;
                    let place = self.archive.place(message)?;
                    if place.life == life && place.level == Durability::Sync && place.write > synced
                    {
                        return Err(format!(
                            "message {message} is delivered before it is durable"
                        ));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn promise(&mut self, message: Option<usize>, applied: u64, synced: u64) -> Check {
        let message = message.ok_or("a receipt leaves for a message that was never placed")?;
        let place = self.archive.places[message]
            .as_mut()
            .expect("it was found by its place");
        let reached = match place.level {
            Durability::None => return Ok(()),
            Durability::Async => applied,
            Durability::Sync => synced,
        };
        if place.write > reached {
            let level = super::command::word(place.level);
            return Err(format!(
                "the receipt of message {message} leaves before it is {level}"
            ));
        }
        place.promised = Some(place.write);
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

type Replies<'a> = BTreeMap<(u64, u64), (Pending, Reply<'a>)>;

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

fn first_sequence(reply: &Reply<'_>) -> Option<u64> {
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

fn last_sequence(reply: &Reply<'_>) -> Option<u64> {
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
