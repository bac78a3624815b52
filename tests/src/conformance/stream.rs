//! A random stream of commands, as a scenario that nobody wrote: every command that there is, right and wrong, from
//! connections that come and go, in batches cut anywhere, over loads that fail, restarts and crashes.
//!
//! Nothing is expected of it but that every runtime gives the same bytes. Commands are made from the table of frames,
//! so those to come are in it by themselves; the numbers that replies give (leases, tokens, generations and so on) are
//! taken up by later ones, or most of them would name nothing.

use std::collections::{BTreeMap, VecDeque};

use dunlin_core::frame::{Command, FieldKind, FieldSpec, Layout};
use dunlin_core::{Claims, ConnectionId, Encoding, Rights};
use serde_json::{Map, Value, json};

use super::run::World;
use super::scenario::Action;
use super::trace::Trace;
use crate::codec::command_bytes;
use crate::sim::rng::Rng;

/// How many values that a reply gave are remembered under each name.
const REMEMBERED_MAX: usize = 12;
/// How many lines of what happened last a failure shows.
const SHOWN: usize = 60;
/// How many connections there are at a time.
const CONNECTIONS_MAX: u64 = 6;
/// Commands that more of the stream is of than of others, each once for every time that it stands here.
const OFTEN: &[&str] = &[
    "publish",
    "publish",
    "publish",
    "publish",
    "publish",
    "publish_batch",
    "subscribe",
    "credit",
    "read",
    "join",
    "ack",
    "ack",
    "nack",
    "commit",
    "rebalanced",
    "request",
    "respond",
    "cancel_scheduled",
    "import",
    "transact",
    "transact",
    "transact",
    "configure_rule",
    "configure_rule",
    "open_session",
    "open_session",
    "ack_session",
    "ack_session",
    "enter",
    "enter",
    "watch_presence",
];

/// What may be left out, but of which a command mostly needs some.
const NEEDED: &[&str] = &[
    "filter", "then", "messages", "leases", "topic", "header", "value", "data",
];

const TOPICS: &[&str] = &[
    "a", "a/b", "b", "b/c", "live", "last", "keys", "ü/x", "$x", "", "a/+",
];
const FILTERS: &[&str] = &[
    "#", "+", "a", "a/#", "+/b", "b/+", "live", "keys", "$x", "", "#/a",
];
const NAMES: &[&str] = &["g", "q", "m", "n", "", "u1", "u2", "192.0.2.1", "a"];
/// What rules look at, how, what for, and what they do; and in each something that they do not know.
const PARTS: &[&str] = &[
    "key",
    "id",
    "content_type",
    "header:h",
    "json:/a",
    "json:",
    "payload",
];
const TESTS: &[&str] = &[
    "exists",
    "missing",
    "equals",
    "differs",
    "begins_with",
    "contains",
    "below",
    "above",
    "is",
];
const VALUES: &[&str] = &["k1", "k", "ä", "1", "x"];
const ACTIONS: &[&str] = &[
    "copy",
    "copy",
    "move",
    "set_header",
    "remove_header",
    "drop",
    "send",
];
const RULES: &[&str] = &["r1", "r2", "r3", "r4", ""];
const USERS: &[&str] = &["", "u1", "u2", "u3"];
const DEVICES: &[&str] = &["", "d1", "d1", "d2", "d3"];
/// Every word that a field takes, and one that none does.
const WORDS: &[&str] = &[
    "log",
    "live",
    "last_value",
    "compacted",
    "queue",
    "partitioned",
    "none",
    "per_key",
    "per_topic",
    "global",
    "async",
    "sync",
    "sticky",
    "round_robin",
    "range",
    "consistent_hash",
    "fixed",
    "linear",
    "exponential",
    "drop_oldest",
    "drop_newest",
    "block",
    "close",
    "namespace",
    "topic",
    "connection",
    "subscriber",
    "user",
    "ip",
    "max_delivery_attempts",
    "rejected",
    "no such word",
];

/// Runs the stream of a seed on the native core until so many commands were sent, and returns what crossed the
/// boundary. The error is something that no broker may do.
pub fn stream(seed: u64, commands: u64) -> Result<Trace, String> {
    let mut stream = Stream {
        rng: Rng::new(seed),
        world: World::new(format!("stream {seed}")),
        lines: 0,
        commands: 0,
        connections: 0,
        heard: BTreeMap::new(),
        timeout: None,
        newest: VecDeque::new(),
    };
    let config = stream.config();
    stream.act(&Action::Config(config))?;
    while stream.commands < commands {
        stream.happen()?;
    }
    stream.act(&Action::Flush)?;
    stream.act(&Action::Release)?;
    Ok(stream.world.end().0)
}

struct Stream {
    rng: Rng,
    world: World,
    lines: usize,
    commands: u64,
    connections: u64,
    /// What replies said, newest last, by the names of the fields.
    heard: BTreeMap<String, VecDeque<Value>>,
    /// When the broker wants to be woken.
    timeout: Option<u64>,
    /// What happened last, for whoever looks for what went wrong.
    newest: VecDeque<String>,
}

impl Stream {
    fn act(&mut self, action: &Action) -> Result<(), String> {
        self.lines += 1;
        self.newest.push_back(format!("{action:?}"));
        let effects = self.world.act(self.lines, action).map_err(|error| {
            let newest = core::mem::take(&mut self.newest);
            format!("{}\n{error}", Vec::from(newest).join("\n"))
        })?;
        self.newest.extend(effects.iter().cloned());
        while self.newest.len() > SHOWN {
            self.newest.pop_front();
        }
        for line in effects {
            if let Some(at) = line.strip_prefix("timeout at ") {
                self.timeout = at.parse().ok();
            } else if let Some(frame) = line.find('{')
                && let Ok(reply) = serde_json::from_str::<Value>(&line[frame..])
            {
                // Long runs of a character are counted in the text, so few of the longest replies are none.
                self.hear(&reply);
            }
        }
        Ok(())
    }

    /// Remembers every number and text of a reply under its name.
    fn hear(&mut self, value: &Value) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    if value.is_u64() || value.is_string() {
                        let heard = self.heard.entry(name.clone()).or_default();
                        heard.push_back(value.clone());
                        if heard.len() > REMEMBERED_MAX {
                            heard.pop_front();
                        }
                    } else {
                        self.hear(value);
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.hear(item)),
            _ => {}
        }
    }

    fn config(&mut self) -> String {
        let rng = &mut self.rng;
        json!({
            "topics_max": rng.between(6, 30),
            "subscriptions_max": rng.between(2, 6),
            "memberships_max": rng.between(2, 6),
            "batch_messages_max": rng.between(2, 8),
            "read_messages_max": rng.between(2, 20),
            "row_bytes_max": rng.pick(&[64, 4096]),
            "segment_bytes_max": rng.pick(&[256, 65_536]),
            "load_bytes_max": rng.pick(&[1024, 65_536]),
            "loads_max": rng.between(1, 8),
            "catch_ups_max": rng.between(1, 4),
            "ring_messages_max": rng.between(1, 20),
            "lag_max": rng.between(2, 40),
            "block_ms_max": rng.between(10, 1000),
            "compaction_bytes_min": rng.pick(&[1, 5000]),
            "dedup_entries_max": rng.between(5, 200),
            "producers_max": rng.between(2, 20),
            "scheduled_max": rng.between(3, 40),
            "requests_max": rng.between(2, 10),
            "ack_deadline_ms": rng.pick(&[200, 30_000]),
            "max_delivery_attempts": rng.between(1, 4),
            "session_ms": rng.pick(&[500, 60_000]),
            "parked_max": rng.between(1, 20),
            "limiters_max": rng.between(2, 5),
            "devices_max": rng.between(3, 12),
            "devices_per_user_max": rng.between(1, 3),
            "session_filters_max": rng.between(1, 6),
            "session_ttl_ms": rng.pick(&[2000, 60_000]),
            "mailbox_messages_max": rng.between(1, 10),
            "presence_members_max": rng.between(2, 6),
            "presences_max": rng.between(2, 4),
            "watches_max": rng.between(2, 4),
            "presence_data_bytes_max": rng.pick(&[50, 1024]),
            "presence_page_max": rng.between(1, 4),
            "presence_ms": rng.pick(&[500, 60_000]),
        })
        .to_string()
    }

    fn happen(&mut self) -> Result<(), String> {
        let action = match self.rng.below(200) {
            0..110 => return self.send(),
            110..150 => Action::Flush,
            150..162 => {
                let connect = self.connect();
                self.act(&connect)?;
                return match &connect {
                    Action::Connect(connection, encoding, ..) if !self.rng.once_in(8) => {
                        let echo = *self.rng.pick(&["all", "connection", "device"]);
                        let hello = json!({"type": "hello", "version": 1, "echo": echo});
                        self.send_to(*connection, *encoding, vec![hello.to_string()])
                    }
                    _ => Ok(()),
                };
            }
            162..165 => match self.any_connection() {
                Some((connection, _)) => Action::Disconnect(connection),
                None => return Ok(()),
            },
            165..177 => {
                let step = *self.rng.pick(&[5, 300, 5000, 100_000]);
                Action::At(self.world.now + self.rng.below(step))
            }
            // Clocks go back, and timers are late.
            177 => Action::At(self.world.now.saturating_sub(self.rng.below(5000)).max(1)),
            178..184 => match self.timeout {
                Some(at) => {
                    self.act(&Action::At(at.max(self.world.now)))?;
                    self.act(&Action::Timeout)?;
                    Action::Flush
                }
                None => Action::Timeout,
            },
            184 => Action::Hold,
            185 => Action::Release,
            186..189 if self.world.loads.is_empty() => return Ok(()),
            186 => Action::ReleaseOne,
            187..189 => Action::FailLoad,
            189 => Action::Storage(false, 5),
            190..193 => Action::Storage(true, *self.rng.pick(&[1, 90, 500])),
            193..196 => Action::Sync,
            196 => match self.any_connection() {
                Some((connection, _)) => Action::Seen(connection, None),
                None => return Ok(()),
            },
            197 => Action::Stats(Vec::new()),
            _ if self.rng.once_in(3) => return self.restart(),
            _ => return Ok(()),
        };
        self.act(&action)
    }

    fn connect(&mut self) -> Action {
        if self.world.open.len() as u64 >= CONNECTIONS_MAX {
            return Action::Flush;
        }
        let rng = &mut self.rng;
        self.connections += 1;
        let namespace = match rng.below(8) {
            // Where there is nothing yet, so that an import may go there.
            0 => format!("fresh-{}", self.connections),
            1 => "other".to_owned(),
            _ => "main".to_owned(),
        };
        let (user, device) = (*rng.pick(USERS), *rng.pick(DEVICES));
        let rights = match rng.below(12) {
            0 => Rights(rng.below(64) as u8),
            _ => Rights::ALL,
        };
        let claims = Claims {
            namespace,
            user: user.to_owned(),
            device: if user.is_empty() { "" } else { device }.to_owned(),
            rights,
        };
        let encoding = if rng.once_in(3) {
            Encoding::Json
        } else {
            Encoding::Binary
        };
        let ip = vec![192, 0, 2, rng.below(4) as u8];
        Action::Connect(ConnectionId(self.connections), encoding, claims, ip)
    }

    fn any_connection(&mut self) -> Option<(ConnectionId, Encoding)> {
        let open: Vec<_> = self
            .world
            .open
            .iter()
            .map(|(id, how)| (*id, *how))
            .collect();
        (!open.is_empty()).then(|| *self.rng.pick(&open))
    }

    /// The broker is another one. Some of its sockets are still there.
    fn restart(&mut self) -> Result<(), String> {
        if self.rng.once_in(10) {
            self.act(&Action::Drain)?;
            self.act(&Action::Flush)?;
        }
        let how = match self.rng.below(5) {
            0 => Action::Trap,
            1 | 2 => Action::Restart,
            _ => Action::Crash,
        };
        self.act(&how)?;
        self.timeout = None;
        let clean = how == Action::Restart && self.rng.once_in(2);
        for connection in self.world.open.keys().copied().collect::<Vec<_>>() {
            if clean || self.rng.once_in(2) {
                self.act(&Action::Restored(connection, clean))?;
            } else {
                self.world.open.remove(&connection);
            }
        }
        self.act(&Action::Flush)
    }

    /// A message with a few frames, some of them spoilt.
    fn send(&mut self) -> Result<(), String> {
        let Some((connection, encoding)) = self.any_connection() else {
            return Ok(());
        };
        let mut frames = Vec::new();
        for _ in 0..self.rng.between(1, 4) {
            self.commands += 1;
            frames.push(self.command());
        }
        self.send_to(connection, encoding, frames)
    }

    fn send_to(
        &mut self,
        connection: ConnectionId,
        encoding: Encoding,
        frames: Vec<String>,
    ) -> Result<(), String> {
        let spoilt = self.rng.once_in(60);
        let action = match command_bytes(encoding, &frames) {
            Ok(mut bytes) if spoilt => {
                let place = self.rng.below(bytes.len() as u64) as usize;
                match self.rng.below(3) {
                    0 => bytes.truncate(place),
                    1 => bytes[place] ^= 1 << self.rng.below(8),
                    _ => bytes.insert(place, self.rng.below(256) as u8),
                }
                Action::Raw(connection, bytes)
            }
            Ok(_) => Action::Send(connection, frames),
            // What cannot be spelt in binary is said in JSON, of whatever encoding the connection is.
            Err(_) => Action::Raw(connection, frames.join("\n").into_bytes()),
        };
        self.act(&action)
    }

    /// Any command.
    fn command(&mut self) -> String {
        let layouts = Command::LAYOUTS;
        let (_, name, layout) = if self.rng.once_in(3) {
            self.rng.pick(layouts)
        } else {
            let often = *self.rng.pick(OFTEN);
            let found = layouts.iter().find(|(_, name, _)| *name == often);
            found.expect("what is often is there")
        };
        let mut members = self.members(layout);
        members.insert("type".to_owned(), json!(name));
        Value::Object(members).to_string()
    }

    fn members(&mut self, layout: &Layout) -> Map<String, Value> {
        let mut members = Map::new();
        for field in layout.required {
            if !self.rng.once_in(400) {
                self.put_member(field, &mut members);
            }
        }
        for (_, field) in layout.optional {
            let seldom = if NEEDED.contains(&field.name) { 2 } else { 5 };
            if self.rng.once_in(seldom) {
                self.put_member(field, &mut members);
            }
        }
        members
    }

    fn put_member(&mut self, field: &FieldSpec, members: &mut Map<String, Value>) {
        let name = field.name;
        if name == "bytes"
            && let Some(part) = self.recall("bytes_base64")
        {
            members.insert("bytes_base64".to_owned(), part);
            return;
        }
        let value = match field.kind {
            _ if self.rng.once_in(500) => json!(["of another kind"]),
            FieldKind::Flag => json!(self.rng.once_in(2) || name == "last"),
            FieldKind::Int | FieldKind::Int32 => self.int(name),
            FieldKind::Str => self.text(name),
            FieldKind::Bytes if self.rng.once_in(4) => json!("{\"a\":1}"),
            FieldKind::Bytes => json!("x".repeat(self.rng.delay(300) as usize)),
            FieldKind::Headers => {
                json!(&[["h", "ä"], ["", ""]][..self.rng.below(3) as usize])
            }
            FieldKind::Strings => json!([self.rng.pick(FILTERS), self.rng.pick(FILTERS)]),
            FieldKind::List(layout) => {
                // One item that is wrong spoils the list, so most are short.
                let count = self.rng.below(6).min(self.rng.below(4));
                let items = (0..count).map(|_| Value::Object(self.members(layout)));
                Value::Array(items.collect())
            }
        };
        members.insert(name.to_owned(), value);
    }

    /// Something that a reply called so.
    fn recall(&mut self, name: &str) -> Option<Value> {
        let heard = self.heard.get(name).filter(|heard| !heard.is_empty())?;
        let index = self.rng.below(heard.len() as u64) as usize;
        Some(heard[index].clone())
    }

    fn int(&mut self, name: &str) -> Value {
        let given_out = [
            "lease",
            "reply_to",
            "schedule_id",
            "generation",
            "offset",
            "sequence",
            "export",
            "import",
        ];
        // What a list goes on after, or a page begins with, has another name than what it is about.
        let alias = match name {
            "after" => "schedule_id",
            "from_offset" => "offset",
            _ => name,
        };
        if given_out.contains(&alias)
            && !self.rng.once_in(6)
            && let Some(value) = self.recall(alias)
        {
            return value;
        }
        let rng = &mut self.rng;
        if rng.once_in(100) {
            return json!(rng.pick(&[0, u64::from(u32::MAX), 1 << 40, (1 << 53) - 1]));
        }
        json!(match name {
            "request" => self.commands,
            "version" => 1,
            "subscription" => rng.between(1, 4),
            "part" => rng.below(2),
            "export" | "import" => 0,
            "partition" | "partitions" => rng.below(4),
            "deliver_at" => self.world.now + rng.delay(20_000),
            "per_ms" => rng.between(1, 20_000),
            "producer_sequence" => rng.delay(3000),
            "priority" => rng.below(6),
            _ if name.contains("_ms") => rng.delay(20_000),
            _ => rng.delay(60),
        })
    }

    fn text(&mut self, name: &str) -> Value {
        let rng = &mut self.rng;
        json!(match name {
            // What a rule copies and moves to is made of what its filter matches.
            "topic" if rng.once_in(16) => rng.pick(&["{1}", "b/{1}", "{0}/x", "{9}"]),
            "topic" => rng.pick(TOPICS),
            "filter" => rng.pick(FILTERS),
            "after" if rng.once_in(2) => {
                return self.recall("next").unwrap_or(json!("0:2:u1d1"));
            }
            "group" | "member" | "name" | "producer" | "after" => rng.pick(NAMES),
            "from" | "to" => return self.place(),
            "user" => rng.pick(USERS),
            "device" => rng.pick(DEVICES),
            "token" => return self.recall("token").unwrap_or(json!("1")),
            "key" | "id" => return json!(format!("k{}", rng.below(12))),
            "part" => rng.pick(PARTS),
            "test" => rng.pick(TESTS),
            "action" => rng.pick(ACTIONS),
            "value" => rng.pick(VALUES),
            "rule" => rng.pick(RULES),
            _ => rng.pick(WORDS),
        })
    }

    /// Where to begin.
    fn place(&mut self) -> Value {
        let token = self.recall("token");
        let sequence = self.recall("sequence").unwrap_or(json!(0));
        let rng = &mut self.rng;
        json!(match (rng.below(9), token) {
            (0, _) => "latest".to_owned(),
            (1, _) => format!("offset:{}", rng.delay(40)),
            (2, _) => format!(
                "timestamp:{}",
                self.world.now.saturating_sub(rng.delay(9000))
            ),
            (3, _) => format!("last:{}", rng.below(9)),
            (4, Some(Value::String(token))) => format!("resume:{token}:{sequence}"),
            (5, Some(Value::String(token))) => format!("session:{token}:{sequence}"),
            (6..8, _) => "session".to_owned(),
            (8, _) => "no such place".to_owned(),
            _ => "earliest".to_owned(),
        })
    }
}
