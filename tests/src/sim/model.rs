//! What the broker was told and what it said, step by step, checked as it is said.
//!
//! The model sees every effect when it is emitted. It knows nothing of how the broker works; it knows the commands,
//! the replies, and the promises of the protocol. What clients see after the network is the business of `reader`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dunlin_core::frame::{Failed, Reply};
use dunlin_core::{Effect, Op};

use super::archive::{Archive, Check};
use super::command::{Order, Request};
use super::frames::{check_code, decode, frames_in, request_of};
use super::recovery::When;
use super::workload;
use super::workload::partitioned::Ledger;
use super::workload::presence::Hall;
use super::workload::publish::Names;
use super::workload::queue::Book;
use super::workload::request::{self, Inquiries};
use super::workload::schedule::Calendar;
use super::workload::subscribe::Grants;

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
    pub(super) ack_deadline_ms: u64,
    pub(super) max_delivery_attempts: u64,
    pub(super) session_ms: u64,
    pub(super) rebalance_ms: u64,
    pub(super) dedup_entries_max: u64,
    pub(super) presence_ms: u64,
    pub(super) scheduled_max: u64,
    pub(super) list_scheduled_max: u64,
    pub(super) requests_max: u64,
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
    /// When the host heard of a connection whose socket outlived the broker.
    Seen {
        connection: u64,
        at: u64,
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
    /// When the broker heard of it last, by its clock.
    pub(super) heard_at: u64,
    pub(super) greeted: bool,
    pub(super) pending: BTreeMap<u64, Pending>,
    pub(super) commands: u64,
    /// The sequences of its publishes, by the order in which they were given.
    pub(super) published: BTreeMap<u64, (u64, u64)>,
}

/// A command without an answer.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// Its place among the commands of its connection.
    pub(super) order: u64,
    pub(super) namespace: usize,
    pub(super) given_at: u64,
    pub(super) request: Arc<Request>,
}

/// A frame that the broker gave to the host, before it has left.
pub(super) struct Said {
    pub(super) connection: u64,
    pub(super) frame: Vec<u8>,
}

/// One step: what was given, and what the broker said to it.
pub(super) struct Step<'a> {
    pub(super) now: u64,
    pub(super) given: &'a [Given],
    /// The connection and number of each command, in their order.
    pub(super) handled: &'a [(u64, u64)],
    pub(super) effects: &'a [Effect],
    /// The write of the step, or that of a later one that will store what this one decided.
    pub(super) write: u64,
    pub(super) said: &'a [Said],
    pub(super) replies: &'a Replies<'a>,
}

/// A command with its answer.
pub(super) struct Answer<'a> {
    pub(super) connection: u64,
    pub(super) namespace: usize,
    pub(super) pending: &'a Pending,
    pub(super) order: &'a Order,
    pub(super) reply: &'a Reply<'a>,
}

impl<'a> Step<'a> {
    /// The connections that were closed at the end of the step for being silent, before anything was dealt out.
    pub(super) fn silenced(&self) -> impl Iterator<Item = u64> + use<'a> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::Close {
                connection, reason, ..
            } if reason.starts_with("connection_silent") => Some(connection.0),
            _ => None,
        })
    }

    /// When that happens which it decides.
    pub(super) const fn when(&self, archive: &Archive) -> When {
        When {
            life: archive.life,
            write: self.write,
        }
    }

    /// Whether a connection ends with this step, so that it is told nothing more.
    pub(super) fn is_leaving(&self, connection: u64) -> bool {
        let ends = |given: &Given| matches!(given, Given::Disconnect { connection: other } if *other == connection);
        let is_closed = |effect: &Effect| matches!(effect, Effect::Close { connection: other, .. } if other.0 == connection);
        self.given.iter().any(ends) || self.effects.iter().any(is_closed)
    }

    /// The message of a command that asks.
    pub(super) fn asked(&self, model: &Model, key: (u64, u64)) -> Option<usize> {
        let waits = model.connections.get(&key.0);
        let waits = waits.and_then(|connection| connection.pending.get(&key.1));
        let pending = waits.or_else(|| self.replies.get(&key).map(|(pending, _)| pending))?;
        match pending.request.order {
            Order::Request(request::Order::Ask { message, .. }) => Some(message),
            _ => None,
        }
    }

    pub(super) fn answers(&self) -> impl Iterator<Item = Answer<'a>> + use<'a> {
        self.replies
            .iter()
            .map(|((connection, _), (pending, reply))| Answer {
                connection: *connection,
                namespace: pending.namespace,
                pending,
                order: &pending.request.order,
                reply,
            })
    }
}

impl Answer<'_> {
    /// An answer of a kind that the command does not have.
    pub(super) fn is_none_of_these(&self) -> Check {
        Err(format!("{:?} is answered {:?}", self.order, self.reply))
    }
}

pub(super) struct Model {
    pub(super) archive: Archive,
    pub(super) namespaces: Vec<String>,
    pub(super) grants: Grants,
    pub(super) book: Book,
    pub(super) ledger: Ledger,
    pub(super) hall: Hall,
    pub(super) calendar: Calendar,
    pub(super) inquiries: Inquiries,
    pub(super) names: Names,
    /// The next sequence of each producer.
    pub(super) next_produced: [u64; 2],
    pub(super) bounds: Bounds,
    pub(super) connections: BTreeMap<u64, Connection>,
    /// The connections that speak JSON, also those that are gone.
    json: BTreeSet<u64>,
    /// The connections that are not clients.
    pub(super) noisy: BTreeSet<u64>,
    /// The stored numbers of topics.
    pub(super) topic_ids: BTreeMap<(usize, u32), usize>,
    pub(super) incarnations: BTreeMap<usize, (u64, u64)>,
    loads: u64,
    last_write: u64,
    /// The latest time that a message of each namespace has; the next is not of an earlier one.
    pub(super) last_timestamps: Vec<u64>,
    /// The latest that the clock of a host has shown.
    pub(super) latest: u64,
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
            grants: Grants::default(),
            book: Book::default(),
            ledger: Ledger::default(),
            hall: Hall::default(),
            calendar: Calendar::default(),
            inquiries: Inquiries::default(),
            names: Names::default(),
            next_produced: [0; 2],
            bounds,
            connections: BTreeMap::new(),
            json: BTreeSet::new(),
            noisy: BTreeSet::new(),
            topic_ids: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            loads: 0,
            last_write: 0,
            latest: 0,
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
        self.archive.fresh.clear();
        self.latest = self.latest.max(now);
        let handled = self.take_given(now, given, &mut gone);
        self.check_noise(given, effects)?;
        let said = self.take_sends(effects)?;
        let replies = self.match_replies(&said)?;
        // While the store takes nothing, the next write waits with what it will store.
        let write = self.take_writes(effects)?;
        let step = Step {
            now,
            given,
            handled: &handled,
            effects,
            write,
            said: &said,
            replies: &replies,
        };
        for (_, workload) in workload::ALL {
            workload.told(self, &step)?;
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
        // A batch of nothing does not tell the broker what time it is.
        if given.is_empty() {
            return Ok(());
        }
        self.check_silence(now)
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
                    self.heard(*connection, now);
                }
                Given::Frames {
                    connection: id,
                    requests,
                } => {
                    let Some(connection) = self.connections.get_mut(id) else {
                        continue;
                    };
                    connection.heard_at = now;
                    for request in requests {
                        connection.commands += 1;
                        if request.wants_reply() {
                            let pending = Pending {
                                order: connection.commands,
                                namespace: connection.namespace,
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
                Given::Restored { connection, .. } => {
                    if let Some(connection) = self.connections.get_mut(connection) {
                        // What was under way was lost with the life that it was given to.
                        connection.pending.clear();
                        connection.published.clear();
                        connection.heard_at = now;
                    }
                }
                Given::Seen { connection, at } => self.heard(*connection, now.min(*at)),
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

    fn heard(&mut self, connection: u64, at: u64) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.heard_at = at;
        }
    }

    /// Who is silent for a session's time is a member no longer; a sleep of the broker gives nobody more time.
    fn check_silence(&self, now: u64) -> Check {
        for id in self.book.members().chain(self.ledger.members()) {
            let connection = self.connections.get(&id);
            if connection.is_some_and(|one| one.heard_at + self.bounds.session_ms <= now) {
                return Err(format!(
                    "connection {id} was silent for {} ms and is a member still",
                    self.bounds.session_ms
                ));
            }
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
                // What is said of a subscription or membership that has just ended cannot be answered otherwise.
                let codes = ["unknown_subscription", "unknown_member"];
                match reply {
                    Reply::Failed(failed) if codes.contains(&failed.code) => continue,
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

    /// A command was refused, for one of the reasons for which it may be.
    pub(super) fn take_refusal(
        &mut self,
        order: &impl core::fmt::Debug,
        failed: &Failed<'_>,
        allowed: &[&str],
    ) -> Check {
        self.stats.refusals += 1;
        check_code(failed.code, allowed)
            .map_err(|error| format!("{error}, to {order:?}: {failed:?}"))
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
