//! What no input may do to a broker: panic, leave a frame refused and yet half done, or spoil it for others.
//!
//! The same checks serve `cargo fuzz` (`tests/fuzz`) and the bounded, seeded runs of the ordinary tests.

use std::collections::BTreeMap;

use dunlin_core::{
    Broker, Claims, ConnectionId, Effect, Encoding, Input, Reader, RestoreError, Rights, Row,
    Timestamp, abi,
};
use serde_json::{Value, json};

use crate::codec::{command_bytes, reply_lines};
use crate::rows::Rows;

/// The client whose messages are anything, in each encoding, and one that behaves.
const BINARY: ConnectionId = ConnectionId(1);
const JSON: ConnectionId = ConnectionId(2);
const WITNESS: ConnectionId = ConnectionId(3);
/// Small bounds, so that random bytes reach them.
const CONFIG: &str =
    r#"{"payload_bytes_max":4096,"topics_max":20,"subscriptions_max":8,"batch_messages_max":16}"#;
const NOW: Timestamp = Timestamp(1_000_000);
/// So many loads after one batch, and the broker asks without end.
const LOADS_MAX: usize = 10_000;
/// So many topics of a restored broker are looked at.
const TOPICS_MAX: u64 = 20;
/// Beyond the age of everything.
const FAR_MS: u64 = 100_000_000_000;

/// A broker with its store.
struct World {
    broker: Broker,
    rows: Rows,
    now: Timestamp,
    /// Who is connected, and in which encoding.
    open: BTreeMap<ConnectionId, Encoding>,
}

/// What a batch led to.
#[derive(Debug, Default)]
struct Seen {
    frames: Vec<(ConnectionId, String)>,
    closed: Vec<ConnectionId>,
    writes: usize,
}

impl World {
    fn new() -> Self {
        Self {
            broker: Broker::new(CONFIG, 1).expect("the configuration is right"),
            rows: Rows::default(),
            now: NOW,
            open: BTreeMap::new(),
        }
    }

    fn connect(&mut self, connection: ConnectionId, encoding: Encoding) {
        self.open.insert(connection, encoding);
        let claims = Claims {
            namespace: "fuzz".to_owned(),
            user: String::new(),
            device: String::new(),
            rights: Rights::ALL,
        };
        self.broker.handle(
            self.now,
            Input::Connect {
                connection,
                encoding,
                claims,
                ip: Vec::new(),
            },
        );
    }

    fn hello(&mut self, connection: ConnectionId) {
        self.say(connection, &json!({"type": "hello", "version": 1}));
    }

    /// A frame that is right.
    fn say(&mut self, connection: ConnectionId, frame: &Value) {
        let encoding = self.open[&connection];
        let bytes = command_bytes(encoding, &[frame.to_string()]).expect("the frame is right");
        self.frame(connection, &bytes);
    }

    fn frame(&mut self, connection: ConnectionId, bytes: &[u8]) {
        self.broker
            .handle(self.now, Input::Frame { connection, bytes });
    }

    /// Ends the batch and answers every load.
    fn flush(&mut self) -> Seen {
        let mut seen = Seen::default();
        for _ in 0..LOADS_MAX {
            let loads = self.drain(&mut seen);
            let timeout = self.broker.poll_timeout();
            if timeout.is_some_and(|at| at <= self.now) {
                self.broker.handle(self.now, Input::Timeout);
            } else if loads.is_empty() {
                return seen;
            }
            for load in loads {
                self.broker.handle(self.now, load);
            }
        }
        panic!("the broker asks for loads without end");
    }

    fn drain(&mut self, seen: &mut Seen) -> Vec<Input<'static>> {
        let mut loads = Vec::new();
        self.broker.flush();
        while let Some(effect) = self.broker.poll_effect() {
            // Every effect must survive the boundary of an instance.
            let mut bytes = Vec::new();
            abi::encode_effect(&effect, &mut bytes);
            assert_eq!(
                abi::decode_effect(&mut Reader::new(&bytes)).as_ref(),
                Ok(&effect)
            );
            match effect {
                Effect::Write { ops, .. } => {
                    assert!(!ops.is_empty(), "a write has operations");
                    seen.writes += 1;
                    self.rows.apply(&ops);
                }
                Effect::Load {
                    ticket,
                    from,
                    to,
                    reverse,
                    rows_max,
                    bytes_max,
                } => loads.push(Input::Loaded {
                    ticket,
                    result: Ok(self.rows.load((&from, &to), reverse, rows_max, bytes_max)),
                }),
                Effect::Send {
                    to, prefixes, body, ..
                } => {
                    let mut start = 0;
                    for recipient in to {
                        let end = recipient.prefix_end as usize;
                        let message = [&prefixes[start..end], &body].concat();
                        start = end;
                        // Nobody here knows what a restored connection speaks.
                        let Some(encoding) = self.open.get(&recipient.connection).copied() else {
                            continue;
                        };
                        let lines = reply_lines(encoding, &message).expect("replies are frames");
                        let lines = lines.into_iter().map(|line| (recipient.connection, line));
                        seen.frames.extend(lines);
                    }
                }
                Effect::Close { connection, .. } => {
                    self.open.remove(&connection);
                    seen.closed.push(connection);
                }
                Effect::Notify(_) => {}
            }
        }
        loads
    }

    /// The names of the first topics.
    fn topics(&mut self, connection: ConnectionId) -> Vec<String> {
        let list = json!({"type": "list_topics", "request": 1, "topics_max": TOPICS_MAX});
        self.say(connection, &list);
        let seen = self.flush();
        let lines = seen.frames.iter().map(|(_, line)| line.as_str());
        let replies = lines.map(|line| serde_json::from_str(line).expect("a line is JSON"));
        let names = replies.flat_map(|reply: Value| {
            let names = reply["topics"].as_array().cloned().unwrap_or_default();
            names
                .into_iter()
                .filter_map(|name| name.as_str().map(str::to_owned))
        });
        names.collect()
    }

    /// Somebody who did nothing wrong must notice nothing.
    fn check_witness(&mut self) {
        let request = 77;
        self.say(WITNESS, &json!({"type": "ping", "request": request}));
        let seen = self.flush();
        assert!(seen.closed.is_empty(), "the witness was closed");
        let pong = format!(
            "{{\"type\":\"pong\",\"request\":{request},\"now\":{}}}",
            self.now.0
        );
        assert_eq!(seen.frames, [(WITNESS, pong)]);
    }
}

/// Gives a broker the messages that `data` spells: which client (one byte), the length (varint), the bytes.
pub fn frames(data: &[u8]) {
    let mut world = World::new();
    world.connect(WITNESS, Encoding::Binary);
    world.hello(WITNESS);
    world.flush();
    let mut reader = Reader::new(data);
    while let Ok(client) = reader.u8() {
        let message = match reader.bytes() {
            Ok(message) => message,
            Err(_) => reader.rest(),
        };
        let (connection, encoding) = if client & 1 == 0 {
            (BINARY, Encoding::Binary)
        } else {
            (JSON, Encoding::Json)
        };
        if !world.open.contains_key(&connection) {
            world.connect(connection, encoding);
            if client & 2 == 0 {
                world.hello(connection);
            }
            world.flush();
        }
        // What is due by now is not the frame's doing.
        world.flush();
        let before = state(&world.broker);
        world.frame(connection, message);
        let seen = world.flush();
        // An import that turns out to be none is begun and deleted: it leaves nothing, but by writing.
        let refused = |(_, line): &(_, String)| {
            line.starts_with("{\"type\":\"error\"") && !line.contains("\"invalid_archive\"")
        };
        // Beside others a frame that has no reply may have been done.
        let refused = is_one_frame(encoding, message)
            && seen.closed.is_empty()
            && !seen.frames.is_empty()
            && seen.frames.iter().all(refused);
        if refused {
            assert_eq!(seen.writes, 0, "a refused frame wrote: {message:02x?}");
            assert_eq!(
                state(&world.broker),
                before,
                "a refused frame left something: {message:02x?}"
            );
        }
        let others = seen.closed.iter().any(|closed| *closed != connection);
        assert!(!others, "another client was closed");
        world.check_witness();
        world.now = world.now.after_ms(u64::from(client));
    }
}

fn is_one_frame(encoding: Encoding, message: &[u8]) -> bool {
    match encoding {
        Encoding::Binary => {
            let mut reader = Reader::new(message);
            reader.bytes().is_ok() && reader.is_empty()
        }
        Encoding::Json => !message.contains(&b'\n'),
    }
}

/// The counters, without those of refusals.
fn state(broker: &Broker) -> Value {
    let mut stats: Value =
        serde_json::from_str(&broker.stats_json()).expect("the counters are JSON");
    let members = stats.as_object_mut().expect("the counters are an object");
    for refusals in [
        "malformed_frames",
        "refused_commands",
        "rate_limited_publishes",
    ] {
        members.remove(refusals).expect("refusals are counted");
    }
    stats
}

/// Gives a broker the rows that `data` spells (`abi::decode_rows`), and, if it takes them, looks at everything.
pub fn rows(data: &[u8]) {
    let Ok(rows) = abi::decode_rows(&mut Reader::new(data)) else {
        return;
    };
    let _ = restore(rows);
}

/// The same with rows at hand. Says why if the broker refuses them.
pub fn restore(rows: Vec<Row>) -> Result<(), RestoreError> {
    let mut world = World::new();
    world.rows = Rows::of(rows);
    world.broker.restore(world.rows.state())?;
    for connection in [BINARY, JSON, WITNESS] {
        let restored = Input::Restored {
            connection,
            clean: true,
        };
        world.broker.handle(world.now, restored);
    }
    world.flush();
    let (reader, subscriber) = (ConnectionId(11), ConnectionId(12));
    for connection in [reader, subscriber] {
        world.connect(connection, Encoding::Binary);
        world.hello(connection);
    }
    world.flush();
    for topic in world.topics(reader) {
        for from in ["earliest", "last:3", "offset:1", "timestamp:1000"] {
            let read =
                json!({"type": "read", "request": 1, "topic": topic, "partition": 0, "from": from});
            world.say(reader, &read);
        }
        let publish = json!({"type": "publish", "request": 2, "topic": topic, "payload": "more"});
        world.say(reader, &publish);
        world.flush();
    }
    let subscribe = json!({
        "type": "subscribe", "request": 1, "subscription": 1, "filter": "#", "from": "earliest", "credit": 1000
    });
    world.say(subscriber, &subscribe);
    world.flush();
    world.now = world.now.after_ms(FAR_MS);
    world.broker.handle(world.now, Input::Timeout);
    world.flush();
    Ok(())
}
