//! The broker: takes inputs, ends batches, hands out effects. What the inputs mean is decided in the modules that
//! own the nouns; here they are only sent there.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use slab::Slab;

use crate::config::{Config, ConfigError};
use crate::connection::{Connection, check_identity};
use crate::context::{Context, LoadOwner, Work};
use crate::deadline::Due;
use crate::dormant::connection_row;
use crate::echo::Source;
use crate::effect::{After, CloseCode, Durability, Effect, Op};
use crate::error::{ErrorCode, Refusal};
use crate::hash::Map;
use crate::ids::{ConnectionId, Timestamp, WriteSequence};
use crate::input::{Claims, Encoding, Input, Rights};
use crate::lease::Verdict;
use crate::limits::network_of;
use crate::mutation::Mutation;
use crate::namespace::{Namespace, check_namespace};
use crate::protocol::field::Strings;
use crate::protocol::frame::{
    Command, FrameError, GoingAway, Hello, PROTOCOL_VERSION, Pong, Reply, Welcome,
};
use crate::protocol::json::json_to_frame;
use crate::publish::Wait;
use crate::restore::Restoring;
use crate::rows::{FORMAT_KEY, ROW_VERSION};
use crate::tenant::unknown_namespace;
use crate::wire::{Put as _, Reader};

/// What this build can do beyond the words that every version 1 has.
const FEATURES: &[&str] = &[
    "archive",
    "batch",
    "dedup",
    "groups",
    "history",
    "limits",
    "namespaces",
    "presence",
    "priority",
    "request",
    "rules",
    "schedule",
    "sessions",
    "topics",
    "transactions",
];

/// The broker of any number of namespaces.
///
/// A host gives inputs with [`Broker::handle`], as many as it has, ends the batch with [`Broker::flush`], and takes
/// the effects with [`Broker::poll_effect`] until there are none; then it may begin the next batch.
pub struct Broker {
    pub(crate) cx: Context,
    pub(crate) namespaces: Slab<Namespace>,
    namespace_index: Map<String, u32>,
    /// How many namespaces were deleted; one that is called like them is not to be taken for them.
    pub(crate) deleted: u64,
    effects: VecDeque<Effect>,
    pub(crate) restoring: Restoring,
    /// Restored namespaces with groups or devices, until it is known which of their connections are there, and what
    /// time it is.
    restored: Vec<u32>,
    /// Whether an input was taken; from then on nothing is restored.
    started: bool,
    seed: u64,
}

impl Broker {
    /// A broker with the given bounds: a JSON object with the members of the configuration, `{}` for the defaults.
    /// `seed` is fresh entropy at every start.
    pub fn new(config_json: &str, seed: u64) -> Result<Self, ConfigError> {
        let config = Config::from_json(config_json)?;
        Ok(Self {
            cx: Context::new(config, seed),
            namespaces: Slab::new(),
            namespace_index: Map::with_seed(seed),
            deleted: 0,
            effects: VecDeque::new(),
            restoring: Restoring::default(),
            restored: Vec::new(),
            started: false,
            seed,
        })
    }

    /// Takes one input.
    ///
    /// # Panics
    ///
    /// If effects of the previous batch have not been drained.
    pub fn handle(&mut self, now: Timestamp, input: Input<'_>) {
        assert!(
            self.effects.is_empty(),
            "effects must be drained before the next input"
        );
        self.start();
        let is_first = self.cx.begin_batch();
        if self.cx.now == Timestamp(0) {
            // What was restored learns the time with the first input.
            for (_, namespace) in &mut self.namespaces {
                namespace.begin_limiters(now);
            }
        }
        self.cx.now = self.cx.now.max(now);
        match input {
            Input::Connect {
                connection,
                encoding,
                claims,
                ip,
            } => self.connect(connection, encoding, claims, &ip),
            Input::Frame { connection, bytes } => {
                self.heard(connection, self.cx.now);
                self.message(connection, bytes);
            }
            Input::Disconnect { connection } => self.forget(connection),
            Input::Restored { connection, clean } => self.revive(connection, clean),
            Input::Seen { connection, at } => self.seen(connection, at),
            Input::Loaded { ticket, result } => {
                let Some(owner) = self.cx.loads.remove(&ticket) else {
                    return;
                };
                self.cx.wake_starved();
                let (LoadOwner::Subscription { namespace, .. }
                | LoadOwner::Read { namespace, .. }
                | LoadOwner::Mailbox { namespace, .. }
                | LoadOwner::Compaction { namespace }
                | LoadOwner::Schedule { namespace }
                | LoadOwner::Export { namespace, .. }
                | LoadOwner::Group { namespace, .. }) = owner
                else {
                    return;
                };
                let Some(namespace) = self.namespaces.get_mut(namespace as usize) else {
                    return;
                };
                match owner {
                    LoadOwner::Subscription {
                        subscription,
                        serial,
                        head,
                        ..
                    } => {
                        let entry = namespace.subscriptions.get(subscription as usize);
                        if entry.is_some_and(|entry| entry.serial == serial) {
                            namespace.head_loaded(&mut self.cx, subscription, head, ticket, result);
                        }
                    }
                    LoadOwner::Read { read, .. } => {
                        namespace.read_loaded(&mut self.cx, read, ticket, result)
                    }
                    LoadOwner::Mailbox { read, head, .. } => {
                        namespace.mailbox_loaded(&mut self.cx, (read, head), ticket, result)
                    }
                    LoadOwner::Compaction { .. } => {
                        namespace.compaction_loaded(&mut self.cx, ticket, result)
                    }
                    LoadOwner::Export { export, .. } => {
                        namespace.export_loaded(&mut self.cx, export, ticket, result)
                    }
                    LoadOwner::Schedule { .. } => {
                        namespace.scheduled_loaded(&mut self.cx, ticket, result)
                    }
                    LoadOwner::Group {
                        group,
                        log,
                        reading,
                        ..
                    } => {
                        namespace.group_loaded(&mut self.cx, (group, log, reading), ticket, result)
                    }
                    LoadOwner::Nobody => {}
                }
            }
            Input::Storage {
                available,
                commit_latency_ms,
            } => {
                let came_back = available && !self.cx.storage_available;
                self.cx.commit_latency_ms = commit_latency_ms.into();
                self.cx.storage_available = available;
                if came_back {
                    for (_, namespace) in &mut self.namespaces {
                        namespace.list_schedule(&mut self.cx);
                    }
                }
                // At the front of a batch nothing was accepted yet, so the batch itself need not be written.
                self.cx.writes = available || (self.cx.writes && !is_first);
            }
            Input::Drain => self.drain(),
            Input::Timeout => {}
        }
    }

    /// Ends the batch; now its effects exist.
    pub fn flush(&mut self) {
        assert!(
            self.effects.is_empty(),
            "effects must be drained before the next flush"
        );
        self.start();
        self.forget_dormant();
        self.cx.begin_batch();
        // Before anything came in nobody knows what time it is, and members and devices have a deadline from now on.
        if self.cx.now > Timestamp(0) {
            for index in core::mem::take(&mut self.restored) {
                if let Some(namespace) = self.namespaces.get_mut(index as usize) {
                    namespace.begin_groups(&mut self.cx);
                    namespace.begin_devices(&mut self.cx);
                }
            }
        }
        self.work();
        for index in core::mem::take(&mut self.cx.presence_news) {
            if let Some(namespace) = self.namespaces.get_mut(index as usize) {
                namespace.tell_presence(&mut self.cx);
            }
        }
        self.write();
        self.cx.outbox.drain(&mut self.effects);
        self.cx.in_batch = false;
        self.cx.batch += 1;
    }

    /// The next effect, in order; `None` when the host has them all.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When to give [`Input::Timeout`], if nothing else comes before. A time that is past means at once.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        if self.cx.more {
            return Some(self.cx.now);
        }
        self.cx.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Whether a broker that is restored from the rows at the time of [`Broker::poll_timeout`], or with the next other
    /// input, does everything in time that this one would: what has a deadline is stored. Otherwise only memory knows
    /// of something (a publish that is held back, a request without answer, an export, a subscription that waits for
    /// tokens, partitions that change hands), and whoever can choose keeps the broker.
    pub fn can_sleep(&self) -> bool {
        !self.cx.deadlines.has_fleeting()
    }

    /// Counters and gauges as a JSON object.
    pub fn stats_json(&self) -> String {
        let mut out = String::from("{");
        self.cx
            .counters
            .each(|name, value| out.push_str(&format!("\"{name}\":{value},")));
        let topics: usize = self
            .namespaces
            .iter()
            .map(|(_, namespace)| namespace.topics.len())
            .sum();
        let subscriptions: usize = self
            .namespaces
            .iter()
            .map(|(_, namespace)| namespace.subscriptions.len())
            .sum();
        let behind: u64 = self
            .namespaces
            .iter()
            .map(|(_, namespace)| namespace.behind)
            .sum();
        let scheduled: usize = self
            .namespaces
            .iter()
            .map(|(_, namespace)| namespace.schedule.order.len())
            .sum();
        let limiters: u64 = self
            .namespaces
            .iter()
            .map(|(_, namespace)| namespace.limits.peers())
            .sum();
        let presence = self
            .namespaces
            .iter()
            .map(|(_, namespace)| &namespace.presence);
        let present: u64 = presence.clone().map(|presence| presence.members).sum();
        let watches: u64 = presence.map(|presence| presence.watches).sum();
        for (name, value) in [
            ("namespaces", self.namespaces.len() as u64),
            ("topics", topics as u64),
            ("connections", self.cx.connections.len() as u64),
            ("subscriptions", subscriptions as u64),
            ("subscriptions_behind", behind),
            ("scheduled", scheduled as u64),
            ("loads_under_way", self.cx.loads.len() as u64),
            ("limiters", limiters),
            ("present", present),
            ("presence_watches", watches),
        ] {
            out.push_str(&format!("\"{name}\":{value},"));
        }
        out.pop();
        out.push('}');
        out
    }

    /// Asserts what must hold between batches; for tests and simulation.
    #[cfg(any(test, feature = "check"))]
    pub fn check_invariants(&self) {
        for (_, namespace) in &self.namespaces {
            namespace.check_invariants();
            if self.restored.is_empty() {
                namespace.check_devices(&self.cx);
            }
        }
        for (index, namespace) in &self.namespaces {
            let connections = self.cx.connections.iter().map(|(_, connection)| connection);
            let own = connections.filter(|connection| connection.namespace == index as u32);
            namespace.presence.check_invariants(own);
        }
        for (index, connection) in &self.cx.connections {
            let silence = |at| (at, Due::Silent(index as u32));
            assert_eq!(
                connection.silent_at.is_some(),
                connection.silence_ms(&self.cx.config).is_some()
            );
            let silence = connection.silent_at.map(silence);
            assert!(silence.is_none_or(|due| self.cx.deadlines.iter().any(|other| *other == due)));
        }
        let held = self
            .cx
            .connections
            .iter()
            .filter(|(_, connection)| !connection.held.is_empty())
            .count();
        let due = self.cx.deadlines.iter();
        assert_eq!(
            held,
            due.filter(|(_, due)| matches!(due, Due::Held(_))).count(),
            "connections with held commands have a deadline"
        );
        let paced = |namespace: &Namespace| {
            let paced = namespace.subscriptions.iter();
            paced.filter(|(_, one)| one.paced_until.is_some()).count()
        };
        let due = self.cx.deadlines.iter();
        assert_eq!(
            self.namespaces
                .iter()
                .map(|(_, namespace)| paced(namespace))
                .sum::<usize>(),
            due.filter(|(_, due)| matches!(due, Due::Paced(..))).count(),
            "subscriptions that wait for tokens have a deadline"
        );
        let mut starved = self.cx.starved.iter();
        while let Some(work) = starved.next() {
            assert!(
                !matches!(work, Work::Group { .. }) || !starved.clone().any(|other| other == work),
                "a group waits for fewer loads once"
            );
        }
        let rounds: usize = self
            .namespaces
            .iter()
            .flat_map(|(_, namespace)| namespace.subscriptions.iter())
            .filter(|(_, subscription)| {
                subscription
                    .behind
                    .as_ref()
                    .is_some_and(|behind| behind.round.is_some())
            })
            .count();
        assert_eq!(rounds as u64, self.cx.catch_ups, "rounds are counted");
        self.check_bounds();
    }

    /// Begins the incarnation, before the first input.
    fn start(&mut self) {
        if self.started {
            return;
        }
        self.started = true;
        for (index, namespace) in &mut self.namespaces {
            if !namespace.groups.is_empty() || !namespace.devices.is_empty() {
                self.restored.push(index as u32);
            }
            namespace.begin_incarnation(&self.cx.config, self.seed);
            namespace.list_schedule(&mut self.cx);
            if core::mem::take(&mut namespace.import_broken_off) {
                namespace.delete_import(&mut self.cx);
            }
        }
    }

    pub(crate) fn insert_namespace(&mut self, name: &str) -> u32 {
        let index = self.namespaces.vacant_key() as u32;
        self.namespaces
            .insert(Namespace::new(index, name, self.namespace_seed()));
        self.namespace_index.insert(name.into(), index);
        index
    }

    /// Entropy for the numbers that a namespace gives out. Those of one that was deleted do not fit its successor.
    fn namespace_seed(&self) -> u64 {
        // Weyl's sequence: the golden ratio spreads few deletions over all bits.
        self.seed
            .wrapping_add(self.deleted.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn connection(&self, id: ConnectionId) -> Option<u32> {
        self.cx.connection_index.get(&id).copied()
    }

    /// Whether the connection that was found under this index is still there.
    fn is_open(&self, index: u32, id: ConnectionId) -> bool {
        let connection = self.cx.connections.get(index as usize);
        connection.is_some_and(|connection| connection.id == id)
    }

    /// Notes that a client was heard of.
    fn heard(&mut self, id: ConnectionId, at: Timestamp) -> Option<u32> {
        let index = self.connection(id)?;
        let seen_at = &mut self.cx.connections[index as usize].seen_at;
        *seen_at = at.min(self.cx.now).max(*seen_at);
        Some(index)
    }

    /// Notes a sign of life. The sessions of members go on at once, where a frame moves their deadlines only when they
    /// have come: a host that gives signs of life has slept until the first deadline, and sleeps until the next.
    fn seen(&mut self, id: ConnectionId, at: Timestamp) {
        let Some(index) = self.heard(id, at) else {
            return;
        };
        self.cx.forget_silence(index);
        self.cx.watch_silence(index);
        let connection = &self.cx.connections[index as usize];
        let namespace = &mut self.namespaces[connection.namespace as usize];
        for (_, group, member) in connection.memberships.clone() {
            namespace.renew_session(&mut self.cx, group, member);
        }
    }

    fn connect(&mut self, id: ConnectionId, encoding: Encoding, mut claims: Claims, ip: &[u8]) {
        let close =
            |cx: &mut Context, code, error, message: &str| cx.close(id, code, error, message);
        if self.cx.connection_index.contains(&id) {
            // The host's mistake; the connection that was there first is left alone.
            return;
        }
        if self.cx.draining {
            return close(
                &mut self.cx,
                CloseCode::GoingAway,
                ErrorCode::Draining,
                "the broker is stopping",
            );
        }
        let namespace = match self.admit(&claims) {
            Ok(index) => index,
            Err(refusal) => return self.cx.turn_away(id, encoding, &refusal),
        };
        if !self.cx.config.namespaces_open && !self.namespaces[namespace as usize].exists() {
            // An operator; where nothing is yet, nothing is remembered of users and devices either.
            claims.user.clear();
            claims.device.clear();
        }
        self.insert_connection(Connection::new(
            id,
            namespace,
            encoding,
            claims,
            network_of(ip),
            self.cx.now,
        ));
    }

    /// The namespace that a client is let into.
    fn admit(&mut self, claims: &Claims) -> Result<u32, Refusal> {
        if self.cx.connections.len() as u64 >= self.cx.config.connections_max {
            let message = "the broker has as many connections as it may (connections_max)";
            return Err(Refusal::later(ErrorCode::LimitReached, message));
        }
        check_identity(&claims.user, &claims.device)?;
        let index = self.namespace_for(claims)?;
        self.namespaces[index as usize].check_door(&self.cx, claims)?;
        Ok(index)
    }

    pub(crate) fn insert_connection(&mut self, connection: Connection) -> u32 {
        let id = connection.id;
        let namespace = &mut self.namespaces[connection.namespace as usize];
        namespace.connections += 1;
        namespace.door.enter(&connection.claims.user);
        namespace.count_connected(&mut self.cx);
        let index = self.cx.connections.insert(connection) as u32;
        self.cx.connection_index.insert(id, index);
        self.cx.watch_silence(index);
        index
    }

    fn namespace_for(&mut self, claims: &Claims) -> Result<u32, Refusal> {
        let name = &*claims.namespace;
        let known = self.namespace_index.get(name).copied();
        let exists = known.is_some_and(|index| self.namespaces[index as usize].exists());
        if !exists {
            check_namespace(name)?;
            if !self.cx.config.namespaces_open && !claims.rights.contains(Rights::OPERATE) {
                return Err(unknown_namespace(name));
            }
        }
        if let Some(index) = known {
            return Ok(index);
        }
        if self.namespaces.len() as u64 >= self.cx.config.namespaces_max {
            let message = "the broker has as many namespaces as it may (namespaces_max)";
            return Err(Refusal::new(ErrorCode::LimitReached, message));
        }
        let index = self.insert_namespace(name);
        let seed = self.namespace_seed();
        self.namespaces[index as usize].begin_incarnation(&self.cx.config, seed);
        Ok(index)
    }

    /// Takes one message of a socket: frames one after the other.
    fn message(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Some(index) = self.connection(id) else {
            return;
        };
        let encoding = self.cx.connections[index as usize].encoding;
        let max = match encoding {
            Encoding::Binary => self.cx.config.inbound_bytes_max,
            Encoding::Json => self.cx.config.inbound_json_bytes_max,
        };
        if bytes.len() as u64 > max {
            let message = format!(
                "the message is {} bytes long, {max} are allowed",
                bytes.len()
            );
            self.cx.counters.malformed_frames += 1;
            return self.close(index, CloseCode::TooLarge, ErrorCode::TooLarge, &message);
        }
        match encoding {
            Encoding::Binary => self.binary_message(id, index, bytes),
            Encoding::Json => self.json_message(id, index, bytes),
        }
    }

    fn binary_message(&mut self, id: ConnectionId, index: u32, bytes: &[u8]) {
        let mut frames = Reader::new(bytes);
        let before = self.cx.outbox.reply_bytes();
        // A command may end the connection; what follows it is not heard.
        while !frames.is_empty() && self.is_open(index, id) {
            match frames.bytes() {
                Ok(frame) => {
                    self.frame(index, frame);
                    self.close_if_talkative(id, index, before);
                }
                Err(_) => {
                    self.cx.counters.malformed_frames += 1;
                    let message = "a frame's length does not fit its message";
                    return self.close(
                        index,
                        CloseCode::Protocol,
                        ErrorCode::MalformedFrame,
                        message,
                    );
                }
            }
        }
    }

    fn json_message(&mut self, id: ConnectionId, index: u32, bytes: &[u8]) {
        let Ok(text) = core::str::from_utf8(bytes) else {
            self.cx.counters.malformed_frames += 1;
            let message = "the message is not UTF-8";
            return self.close(
                index,
                CloseCode::Protocol,
                ErrorCode::MalformedFrame,
                message,
            );
        };
        let before = self.cx.outbox.reply_bytes();
        let mut frame = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            if !self.is_open(index, id) {
                return;
            }
            frame.clear();
            match json_to_frame(line, Command::LAYOUTS, &mut frame) {
                Ok(()) => {
                    let body = Reader::new(&frame).bytes();
                    self.frame(index, body.expect("the transcoder writes whole frames"));
                }
                Err(error) => {
                    self.cx.counters.malformed_frames += 1;
                    let code = if error.unknown_type {
                        ErrorCode::Unsupported
                    } else {
                        ErrorCode::MalformedFrame
                    };
                    self.cx
                        .refuse(index, error.request, &Refusal::new(code, error.message));
                }
            }
            self.close_if_talkative(id, index, before);
        }
    }

    /// Closes a connection one message of which causes more replies than it may.
    fn close_if_talkative(&mut self, id: ConnectionId, index: u32, before: u64) {
        let max = self.cx.config.replies_bytes_max;
        if self.cx.outbox.reply_bytes() - before > max && self.is_open(index, id) {
            let message = "one message caused too many replies (replies_bytes_max)";
            self.close(index, CloseCode::Policy, ErrorCode::LimitReached, message);
        }
    }

    /// Takes one frame, without its length.
    fn frame(&mut self, index: u32, frame: &[u8]) {
        let command = match Command::decode(frame) {
            Ok(command) => command,
            Err(error) => {
                self.cx.counters.malformed_frames += 1;
                let refusal = match error {
                    FrameError::Malformed => {
                        let message = match frame.first() {
                            Some(kind) => {
                                format!(
                                    "a frame of kind {kind} does not have the fields of its kind"
                                )
                            }
                            None => String::from("a frame of no bytes has no kind"),
                        };
                        Refusal::new(ErrorCode::MalformedFrame, message)
                    }
                    FrameError::UnknownKind(kind) => Refusal::new(
                        ErrorCode::Unsupported,
                        format!("unknown command of kind {kind}"),
                    ),
                };
                return self.cx.refuse(index, request_of(frame), &refusal);
            }
        };
        let connection = &self.cx.connections[index as usize];
        match (&command, connection.greeted) {
            (Command::Hello(hello), false) => return self.hello(index, hello),
            (Command::Hello(_), true) => {
                let refusal = Refusal::new(ErrorCode::OutOfState, "hello was said already");
                return self.cx.refuse(index, 0, &refusal);
            }
            (_, false) => {
                let refusal = Refusal::new(ErrorCode::OutOfState, "the first frame must be hello");
                self.cx.refuse(index, request_of(frame), &refusal);
                return self.close(index, CloseCode::Policy, refusal.code, &refusal.message);
            }
            _ => {}
        }
        let publishes = matches!(
            command,
            Command::Publish(_)
                | Command::PublishBatch(_)
                | Command::Request(_)
                | Command::Transact(_)
        );
        if publishes && !connection.held.is_empty() {
            return self.hold(index, request_of(frame), frame, Wait::Subscriber);
        }
        if let Err(refusal) = self.command(index, &command, frame) {
            self.cx.refuse(index, request_of(frame), &refusal);
        }
    }

    fn command(&mut self, index: u32, command: &Command<'_>, frame: &[u8]) -> Result<(), Refusal> {
        let seed = self.namespace_seed();
        let namespace = self.cx.connections[index as usize].namespace;
        let namespace = &mut self.namespaces[namespace as usize];
        let cx = &mut self.cx;
        let operates = matches!(
            command,
            Command::ConfigureNamespace(_)
                | Command::DescribeNamespace(_)
                | Command::DeleteNamespace(_)
                | Command::ListNamespaces(_)
                | Command::Ping(_)
        );
        if !operates && !cx.config.namespaces_open && !namespace.exists() {
            // An operator is where nothing is yet; it comes to be by being configured alone.
            return Err(unknown_namespace(&namespace.name));
        }
        let comes_in = matches!(
            command,
            Command::Publish(_)
                | Command::PublishBatch(_)
                | Command::Request(_)
                | Command::Transact(_)
                | Command::Subscribe(_)
                | Command::ConfigureTopic(_)
                | Command::ConfigureGroup(_)
                | Command::Join(_)
                | Command::ConfigureLimit(_)
                | Command::OpenSession(_)
                | Command::ConfigureRule(_)
        );
        if comes_in && namespace.import.is_some() {
            return Err(namespace.importing());
        }
        match command {
            Command::Hello(_) => Ok(()),
            Command::Publish(publish) => {
                let attempt = self.first_attempt(frame);
                if let Some(wait) = self.publish(index, publish, attempt)? {
                    self.hold(index, publish.request, frame, wait);
                }
                Ok(())
            }
            Command::PublishBatch(batch) => {
                let attempt = self.first_attempt(frame);
                if let Some(wait) = self.publish_batch(index, batch, attempt)? {
                    self.hold(index, batch.request, frame, wait);
                }
                Ok(())
            }
            Command::Request(request) => {
                let attempt = self.first_attempt(frame);
                if let Some(wait) = self.request(index, request, attempt)? {
                    self.hold(index, request.request, frame, wait);
                }
                Ok(())
            }
            Command::Transact(transact) => {
                let attempt = self.first_attempt(frame);
                if let Some(wait) = self.transact(index, transact, attempt)? {
                    self.hold(index, transact.request, frame, wait);
                }
                Ok(())
            }
            Command::Respond(respond) => namespace.respond(cx, index, respond),
            Command::Subscribe(subscribe) => namespace.subscribe(cx, index, subscribe),
            Command::Unsubscribe(unsubscribe) => namespace.unsubscribe(cx, index, *unsubscribe),
            Command::Credit(credit) => namespace.add_credit(cx, index, *credit),
            Command::Read(read) => namespace.read(cx, index, read),
            Command::ConfigureTopic(configure) => namespace.configure_topic(cx, index, configure),
            Command::DescribeTopic(describe) => namespace.describe_topic(cx, index, describe),
            Command::ListTopics(list) => namespace.list_topics(cx, index, list),
            Command::DeleteTopic(delete) => namespace.delete_topic_command(cx, index, delete),
            Command::Export(export) => namespace.export(cx, index, *export),
            Command::Import(import) => namespace.import(cx, index, import, seed),
            Command::ListScheduled(list) => namespace.list_scheduled(cx, index, list),
            Command::CancelScheduled(cancel) => namespace.cancel_scheduled(cx, index, *cancel),
            Command::ConfigureLimit(configure) => namespace.configure_limit(cx, index, configure),
            Command::ListLimits(list) => namespace.list_limits(cx, index, list),
            Command::ConfigureRule(configure) => namespace.configure_rule(cx, index, configure),
            Command::DeleteRule(delete) => namespace.delete_rule(cx, index, delete),
            Command::ListRules(list) => namespace.list_rules(cx, index, list),
            Command::Explain(explain) => namespace.explain(cx, index, explain),
            Command::ConfigureGroup(configure) => namespace.configure_group(cx, index, configure),
            Command::Join(join) => namespace.join(cx, index, join),
            Command::Rebalanced(rebalanced) => namespace.rebalanced(cx, index, *rebalanced),
            Command::Commit(commit) => namespace.commit(cx, index, commit),
            Command::Ack(ack) => {
                namespace.settle_leases(cx, index, ack.request, ack.leases, Verdict::Ack)
            }
            Command::Nack(nack) => {
                let verdict = Verdict::Nack(nack.delay_ms);
                namespace.settle_leases(cx, index, nack.request, nack.leases, verdict)
            }
            Command::Reject(reject) => {
                let verdict = Verdict::Reject(reject.reason);
                namespace.settle_leases(cx, index, reject.request, reject.leases, verdict)
            }
            Command::Extend(extend) => {
                let verdict = Verdict::Extend(extend.extend_ms);
                namespace.settle_leases(cx, index, extend.request, extend.leases, verdict)
            }
            Command::ResetGroup(reset) => namespace.reset_group(cx, index, reset),
            Command::PauseGroup(pause) => namespace.pause_group(cx, index, pause),
            Command::DescribeGroup(describe) => namespace.describe_group(cx, index, describe),
            Command::ListGroups(list) => namespace.list_groups(cx, index, list),
            Command::DeleteGroup(delete) => namespace.delete_group(cx, index, delete),
            Command::ReadDeadLetters(read) => namespace.read_dead_letters(cx, index, read),
            Command::ReplayDeadLetters(replay) => namespace.replay_dead_letters(cx, index, replay),
            Command::DeleteDeadLetters(delete) => namespace.delete_dead_letters(cx, index, delete),
            Command::OpenSession(open) => self.open_session(index, open),
            Command::AckSession(ack) => namespace.ack_session(cx, index, *ack),
            Command::ReadMailbox(read) => namespace.read_mailbox(cx, index, *read),
            Command::EndSession(end) => namespace.end_session(cx, index, *end),
            Command::ListDevices(list) => namespace.list_devices(cx, index, list),
            Command::Kick(kick) => self.kick(index, kick),
            Command::DescribeUser(describe) => namespace.describe_user(cx, index, describe),
            Command::ListUsers(list) => namespace.list_users(cx, index, list),
            Command::Enter(enter) => namespace.enter(cx, index, enter),
            Command::Leave(leave) => namespace.leave(cx, index, *leave),
            Command::WatchPresence(watch) => namespace.watch_presence(cx, index, *watch),
            Command::ReadPresence(read) => namespace.read_presence(cx, index, read),
            Command::ConfigureNamespace(configure) => {
                namespace.configure_namespace(cx, index, configure)
            }
            Command::DescribeNamespace(describe) => {
                namespace.describe_namespace(cx, index, describe)
            }
            Command::DeleteNamespace(delete) => self.delete_namespace(index, delete),
            Command::ListNamespaces(list) => self.list_namespaces(index, list),
            Command::Ping(ping) => {
                let pong = Pong {
                    request: ping.request,
                    now: cx.now.0,
                };
                cx.reply(index, After::default(), &Reply::Pong(pong));
                Ok(())
            }
        }
    }

    fn hello(&mut self, index: u32, hello: &Hello<'_>) {
        if hello.version != PROTOCOL_VERSION {
            let message = format!(
                "version {} is not spoken here, only {PROTOCOL_VERSION}",
                hello.version
            );
            let refusal = Refusal::new(ErrorCode::UnsupportedVersion, message);
            self.cx.refuse(index, 0, &refusal);
            return self.close(index, CloseCode::Policy, refusal.code, &refusal.message);
        }
        let connection = &mut self.cx.connections[index as usize];
        connection.greeted = true;
        connection.ephemeral = hello.ephemeral == Some(true);
        let life = self.namespaces[connection.namespace as usize]
            .lineage
            .current();
        match Source::of(connection, life, hello.echo) {
            Ok(source) => connection.source = source,
            Err(refusal) => {
                self.cx.refuse(index, 0, &refusal);
                return self.close(index, CloseCode::Policy, refusal.code, &refusal.message);
            }
        }
        if let Err(refusal) = self.knock(index).and_then(|()| self.meet(index)) {
            self.cx.refuse(index, 0, &refusal);
            return self.close(index, CloseCode::Policy, refusal.code, &refusal.message);
        }
        let connection = &self.cx.connections[index as usize];
        let namespace = &self.namespaces[connection.namespace as usize];
        let config = &self.cx.config;
        let features = Strings::encode(FEATURES.iter().copied());
        let inbound_bytes_max = match connection.encoding {
            Encoding::Binary => config.inbound_bytes_max,
            Encoding::Json => config.inbound_json_bytes_max,
        };
        let welcome = Welcome {
            version: PROTOCOL_VERSION,
            incarnation: namespace.lineage.current().0,
            connection: connection.id.0,
            now: self.cx.now.0,
            features: Strings::parse(&features).expect("the names of features are UTF-8"),
            payload_bytes_max: Some(namespace.payload_bytes_max(config)),
            inbound_bytes_max: Some(inbound_bytes_max),
            batch_messages_max: Some(config.batch_messages_max),
            read_messages_max: Some(config.read_messages_max),
            credit_max: Some(config.credit_max),
            subscriptions_max: Some(config.subscriptions_max),
        };
        self.cx
            .reply(index, After::default(), &Reply::Welcome(welcome));
        self.cx.touch_connection(index);
    }

    /// Does what was left for the end of the batch, until nothing can go on.
    fn work(&mut self) {
        self.act_on_deadlines();
        let seed = self.namespace_seed();
        loop {
            let mut batch = core::mem::take(&mut self.cx.ready);
            while let Some(work) = batch.pop_front() {
                let index = work.namespace();
                let Some(namespace) = self.namespaces.get_mut(index as usize) else {
                    continue;
                };
                match work {
                    Work::Subscription {
                        subscription,
                        serial,
                        ..
                    } => {
                        let entry = namespace.subscriptions.get(subscription as usize);
                        if entry.is_some_and(|entry| entry.serial == serial) {
                            namespace.catch_up(&mut self.cx, subscription);
                        }
                    }
                    Work::Read { read, .. } => namespace.advance_read(&mut self.cx, read),
                    Work::Mailbox { read, .. } => namespace.advance_mailbox(&mut self.cx, read),
                    Work::Compaction { .. } => namespace.compact(&mut self.cx),
                    Work::Export { export, .. } => {
                        namespace.advance_export(&mut self.cx, export);
                        self.remove_if_vacant(index);
                    }
                    Work::Schedule { .. } => namespace.load_scheduled(&mut self.cx),
                    Work::Group { group, .. } => namespace.advance_group(&mut self.cx, group),
                    Work::Import { .. } => {
                        namespace.advance_import(&mut self.cx, seed);
                        self.remove_if_vacant(index);
                    }
                }
            }
            if self.cx.more || self.cx.ready.is_empty() {
                break;
            }
        }
        if self.cx.unblocked
            || self
                .cx
                .deadlines
                .first()
                .is_some_and(|(deadline, _)| *deadline <= self.cx.now)
        {
            self.retry_held();
        }
        let retry = self.cx.unblocked && self.cx.held_bytes > 0;
        self.cx.more |= retry || !self.cx.ready.is_empty();
    }

    /// Emits the batch's write, if there is anything to write.
    fn write(&mut self) {
        if !self.cx.writes {
            // What is dirty stays so; nothing that needs the store was accepted in this batch.
            return;
        }
        for index in core::mem::take(&mut self.cx.dirty_connections) {
            let Some(connection) = self.cx.connections.get_mut(index as usize) else {
                continue;
            };
            if !connection.dirty {
                continue;
            }
            connection.dirty = false;
            let is_empty = connection.subscriptions.is_empty()
                && connection.places.is_empty()
                && connection.watches.is_empty();
            if connection.ephemeral && is_empty && !connection.stored {
                continue;
            }
            connection.stored = true;
            let namespace = &mut self.namespaces[connection.namespace as usize];
            let value = connection_row(index, connection, namespace);
            self.cx.ops.push(Op::Put {
                key: namespace.keys.connection(connection.id),
                value,
            });
            // Its socket may outlive this life; if cleanly, the life that is stored goes on, which must be this one.
            namespace.vouch(&mut self.cx);
        }
        for index in core::mem::take(&mut self.cx.dirty_namespaces) {
            if let Some(namespace) = self.namespaces.get_mut(index as usize) {
                namespace.flush(&mut self.cx);
            }
        }
        if self.cx.ops.is_empty() {
            return;
        }
        if !self.restoring.format_stored {
            self.restoring.format_stored = true;
            let mut value = Vec::new();
            value.put_u64(ROW_VERSION);
            self.cx.ops.push(Op::Put {
                key: FORMAT_KEY.to_vec(),
                value,
            });
        }
        self.cx.counters.writes += 1;
        let sequence = self.cx.next_write;
        self.cx.next_write = WriteSequence(sequence.0 + 1);
        let durability = core::mem::replace(&mut self.cx.durability, Durability::None);
        let ops = core::mem::take(&mut self.cx.ops);
        self.effects.push_back(Effect::Write {
            sequence,
            durability,
            ops,
        });
    }

    /// Closes a connection from the broker's side.
    pub(crate) fn close(&mut self, index: u32, code: CloseCode, error: ErrorCode, message: &str) {
        let id = self.cx.connections[index as usize].id;
        self.cx.close(id, code, error, message);
        self.forget(id);
    }

    /// Forgets a connection and everything that was its own.
    pub(crate) fn forget(&mut self, id: ConnectionId) {
        let Some(index) = self.cx.connection_index.remove(&id) else {
            return self.forget_stored(id);
        };
        self.cx.forget_silence(index);
        let connection = self.cx.connections.remove(index as usize);
        if let Some(first) = connection.held.front() {
            self.cx.deadlines.remove(&(first.until, Due::Held(index)));
        }
        for held in &connection.held {
            self.cx.held_bytes -= held.frame.len() as u64;
        }
        let namespace = &mut self.namespaces[connection.namespace as usize];
        for (_, group, member) in &connection.memberships {
            namespace.lose_member(&mut self.cx, *group, *member);
        }
        for (_, index) in &connection.subscriptions {
            namespace.remove_subscription(&mut self.cx, *index);
        }
        namespace.lose_presence(&mut self.cx, &connection);
        namespace.remove_user(&mut self.cx, index, &connection);
        namespace.remove_reads(&mut self.cx, id);
        for reply_to in connection.inquiries {
            namespace.end_inquiry(&mut self.cx, reply_to);
        }
        if connection.stored {
            self.cx.ops.push(Op::Delete {
                key: namespace.keys.connection(id),
            });
        }
        namespace.connections -= 1;
        namespace.door.leave(&connection.claims.user, self.cx.now);
        self.remove_if_vacant(connection.namespace);
    }

    /// Names that were only connected to do not count for ever.
    fn remove_if_vacant(&mut self, index: u32) {
        if self.namespaces[index as usize].is_vacant() && !self.restoring.has_dormant() {
            self.remove_namespace(index);
        }
    }

    pub(crate) fn remove_namespace(&mut self, index: u32) -> Namespace {
        let namespace = self.namespaces.remove(index as usize);
        self.namespace_index.remove(namespace.name.as_str());
        self.restored.retain(|other| *other != index);
        namespace
    }

    /// Does what is due, but for held publishes, which come when everything else was tried.
    fn act_on_deadlines(&mut self) {
        let now = self.cx.now;
        while let Some((deadline, due)) = self
            .cx
            .deadlines
            .iter()
            .take_while(|(deadline, _)| *deadline <= now)
            .find(|(_, due)| !matches!(due, Due::Held(_)))
            .copied()
        {
            self.cx.deadlines.remove(&(deadline, due));
            if let Due::Silent(index) = due {
                self.silence_due(index);
                continue;
            }
            let (Due::Transfer(namespace, _)
            | Due::Group(namespace, _)
            | Due::Member(namespace, ..)
            | Due::Rebalance(namespace, _)
            | Due::Schedule(namespace)
            | Due::Paced(namespace, ..)
            | Due::Device(namespace)
            | Due::Inquiry(namespace, _)
            | Due::Usage(namespace)) = due
            else {
                continue;
            };
            let index = namespace;
            let namespace = &mut self.namespaces[index as usize];
            match due {
                // It is given up: nobody goes on with it.
                Due::Transfer(_, id) => {
                    namespace.expire_export(&mut self.cx, id);
                    namespace.expire_import(&mut self.cx, id);
                    self.remove_if_vacant(index);
                }
                Due::Schedule(_) => namespace.load_scheduled(&mut self.cx),
                Due::Group(_, group) => namespace.group_due(&mut self.cx, group),
                Due::Member(_, group, member) => {
                    namespace.member_due(&mut self.cx, group, member);
                }
                Due::Rebalance(_, group) => namespace.rebalance_due(&mut self.cx, group),
                Due::Paced(_, subscription, _) => namespace.end_pace(&mut self.cx, subscription),
                Due::Inquiry(_, reply_to) => namespace.expire_inquiry(&mut self.cx, reply_to),
                Due::Device(_) => namespace.devices_due(&mut self.cx),
                Due::Usage(_) => namespace.usage_due(&mut self.cx),
                Due::Held(_) | Due::Silent(_) => {}
            }
        }
    }

    /// Ends a connection, if it was silent for too long.
    fn silence_due(&mut self, index: u32) {
        let connection = &mut self.cx.connections[index as usize];
        connection.silent_at = None;
        if connection.seen_at == Timestamp(0) || Mutation::SilenceUnnoticed.is_active() {
            // Nobody said when: it is given the benefit of the doubt.
            connection.seen_at = self.cx.now;
        }
        self.cx.watch_silence(index);
        let silent_at = self.cx.connections[index as usize].silent_at;
        if silent_at.is_none_or(|at| at > self.cx.now) {
            return;
        }
        let connection = &self.cx.connections[index as usize];
        let bound = connection.silence_ms(&self.cx.config);
        let bound = bound.map_or("", |(_, bound)| bound);
        let message = format!("nothing was heard of the connection for too long ({bound})");
        let code = ErrorCode::ConnectionSilent;
        self.close(index, CloseCode::Policy, code, &message);
    }

    fn drain(&mut self) {
        if core::mem::replace(&mut self.cx.draining, true) {
            return;
        }
        let going_away = GoingAway {
            reconnect_after_ms: self.cx.config.reconnect_after_ms,
        };
        let all: Vec<u32> = self
            .cx
            .connections
            .iter()
            .map(|(index, _)| index as u32)
            .collect();
        for index in all {
            self.cx
                .reply(index, After::default(), &Reply::GoingAway(going_away));
            self.close(
                index,
                CloseCode::GoingAway,
                ErrorCode::Draining,
                "the broker is stopping",
            );
        }
    }
}

/// The request that a frame names first, 0 if it names none. Later versions keep it there, so it is also that of a
/// kind which is not known.
pub(crate) fn request_of(frame: &[u8]) -> u64 {
    let mut reader = Reader::new(frame);
    let Ok(kind) = reader.u8() else { return 0 };
    let layout = Command::LAYOUTS.iter().find(|(other, _, _)| *other == kind);
    let named = layout.is_none_or(|(_, _, layout)| {
        layout
            .required
            .first()
            .is_some_and(|field| field.name == "request")
    });
    if named { reader.u64().unwrap_or(0) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_can_be_sent_to_another_thread() {
        fn is_send<T: Send>() {}
        is_send::<Broker>();
    }
}
