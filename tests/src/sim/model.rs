//! What the broker was told and what it said, step by step, checked as it is said.
//!
//! The model sees every effect when it is emitted. It knows nothing of how the broker works; it knows the commands,
//! the replies, and the promises of the protocol. What clients see after the network is the business of `reader`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dunlin_core::frame::Reply;
use dunlin_core::{Effect, Op};

use super::archive::{Archive, Check};
use super::command::{Order, Request, Wish};
use super::frames::{decode, frames_in, request_of};
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
    /// What no client would say, from somebody who is neither heard of before nor after.
    Noise {
        connection: u64,
    },
    Drain,
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
    pub(super) published: BTreeMap<u64, (u64, u64)>,
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
    /// The connections that are not clients.
    pub(super) noisy: BTreeSet<u64>,
    /// The newest grant of a connection's subscription.
    pub(super) granted_by: BTreeMap<(u64, u32), usize>,
    /// The stored numbers of topics.
    pub(super) topic_ids: BTreeMap<(usize, u32), usize>,
    pub(super) incarnations: BTreeMap<usize, (u64, u64)>,
    loads: u64,
    last_write: u64,
    /// The latest time that a message of each namespace has; the next is not of an earlier one.
    pub(super) last_timestamps: Vec<u64>,
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
            last_timestamps: vec![0; namespaces.len()],
            archive: Archive::default(),
            namespaces,
            granted: Vec::new(),
            bounds,
            connections: BTreeMap::new(),
            json: BTreeSet::new(),
            noisy: BTreeSet::new(),
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
        self.check_noise(given, effects)?;
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
                Given::Noise { connection } => {
                    self.noisy.insert(*connection);
                }
                Given::Drain | Given::Other => {}
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

    /// Noise is answered, or the connection that it came from is closed.
    fn check_noise(&self, given: &[Given], effects: &[Effect]) -> Check {
        for one in given {
            let Given::Noise { connection: noisy } = one else {
                continue;
            };
            let hears = effects.iter().any(|effect| match effect {
                Effect::Send { to, .. } => to.iter().any(|to| to.connection.0 == *noisy),
                Effect::Close { connection, .. } => connection.0 == *noisy,
                _ => false,
            });
            if !hears && self.connections.contains_key(noisy) {
                return Err(format!(
                    "connection {noisy} is not told that it makes no sense"
                ));
            }
        }
        Ok(())
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
                if self.noisy.contains(&id) {
                    continue;
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
