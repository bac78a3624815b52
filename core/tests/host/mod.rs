//! A broker through its public door, with a store that is a map and clients that speak JSON.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::collections::BTreeMap;

use dunlin_core::{
    After, Broker, Claims, ConnectionId, Effect, Encoding, Input, Op, Rights, Row, Timestamp,
};

/// A host in a few lines: applies writes, answers loads, keeps what was sent to each connection.
pub struct Host {
    pub broker: Broker,
    pub store: BTreeMap<Vec<u8>, Vec<u8>>,
    pub sent: BTreeMap<u64, Vec<String>>,
    /// What each send to a connection waited for, in order.
    pub waits: Vec<(u64, After)>,
    pub now: u64,
    /// Whether loads wait, and those that do, as they were asked for.
    pub holds_loads: bool,
    pub loads: Vec<Effect>,
}

impl Host {
    pub fn new(config: &str) -> Self {
        let broker = Broker::new(config, 7).expect("the configuration is sound");
        Self {
            broker,
            store: BTreeMap::new(),
            sent: BTreeMap::new(),
            waits: Vec::new(),
            now: 1_000_000,
            holds_loads: false,
            loads: Vec::new(),
        }
    }

    pub fn restart(&mut self, config: &str) {
        self.broker = Broker::new(config, 8).expect("the configuration is sound");
        let state = self
            .store
            .iter()
            .filter(|(key, _)| {
                !matches!(
                    dunlin_core::rows::scope_of(key),
                    Some(dunlin_core::rows::Scope::Messages(_))
                )
            })
            .map(|(key, value)| Row {
                key: key.clone(),
                value: value.clone(),
            });
        self.broker
            .restore(state)
            .expect("what was stored is sound");
        self.broker.restore([]).expect("what was stored is whole");
        self.sent.clear();
        self.loads.clear();
        self.flush();
    }

    pub fn connect(&mut self, id: u64, namespace: &str) {
        let claims = Claims {
            namespace: namespace.into(),
            user: String::new(),
            device: String::new(),
            rights: Rights::ALL,
        };
        let connection = ConnectionId(id);
        let input = Input::Connect {
            connection,
            encoding: Encoding::Json,
            claims,
            ip: Vec::new(),
        };
        self.broker.handle(Timestamp(self.now), input);
        self.send(id, r#"{"type":"hello","version":1}"#);
        self.sent.remove(&id);
    }

    pub fn say(&mut self, id: u64, line: &str) {
        self.broker.handle(
            Timestamp(self.now),
            Input::Frame {
                connection: ConnectionId(id),
                bytes: line.as_bytes(),
            },
        );
    }

    pub fn send(&mut self, id: u64, line: &str) {
        self.say(id, line);
        self.flush();
    }

    pub fn flush(&mut self) {
        loop {
            self.broker.flush();
            self.broker.check_invariants();
            let mut loads = Vec::new();
            while let Some(effect) = self.broker.poll_effect() {
                match effect {
                    Effect::Write { ops, .. } => self.apply(ops),
                    load @ Effect::Load { .. } if self.holds_loads => self.loads.push(load),
                    load @ Effect::Load { .. } => loads.push(self.load(load)),
                    Effect::Send {
                        to,
                        prefixes,
                        body,
                        after,
                        ..
                    } => {
                        let mut start = 0;
                        for recipient in to {
                            self.waits.push((recipient.connection.0, after));
                            let end = recipient.prefix_end as usize;
                            let text = [&prefixes[start..end], &body].concat();
                            start = end;
                            let lines = String::from_utf8(text).expect("JSON is UTF-8");
                            let sent = self.sent.entry(recipient.connection.0).or_default();
                            sent.extend(lines.lines().map(String::from));
                        }
                    }
                    Effect::Close {
                        connection,
                        code,
                        reason,
                    } => {
                        let sent = self.sent.entry(connection.0).or_default();
                        sent.push(format!("close {} {reason}", code.number()));
                    }
                    Effect::Notify(_) => {}
                }
            }
            let timeout = self.broker.poll_timeout();
            if timeout.is_some_and(|at| at.0 <= self.now) {
                self.broker.handle(Timestamp(self.now), Input::Timeout);
            } else if loads.is_empty() {
                return;
            }
            for loaded in loads {
                self.broker.handle(Timestamp(self.now), loaded);
            }
        }
    }

    /// Answers a load that was held, from what is stored by now.
    pub fn release(&mut self, index: usize) {
        let load = self.loads.remove(index);
        let loaded = self.load(load);
        self.broker.handle(Timestamp(self.now), loaded);
        self.flush();
    }

    fn load(&self, load: Effect) -> Input<'static> {
        let Effect::Load {
            ticket,
            from,
            to,
            reverse,
            rows_max,
            bytes_max,
        } = load
        else {
            panic!("only loads are answered");
        };
        let range = self.store.range(from..to);
        let mut rows: Vec<Row> = range
            .map(|(key, value)| Row {
                key: key.clone(),
                value: value.clone(),
            })
            .collect();
        if reverse {
            rows.reverse();
        }
        let mut bytes = 0;
        let mut kept = Vec::new();
        for row in rows.into_iter().take(rows_max as usize) {
            if bytes > bytes_max as usize {
                break;
            }
            bytes += row.value.len();
            kept.push(row);
        }
        Input::Loaded {
            ticket,
            result: Ok(kept),
        }
    }

    pub fn apply(&mut self, ops: Vec<Op>) {
        for op in ops {
            match op {
                Op::Put { key, value } => {
                    self.store.insert(key, value);
                }
                Op::Delete { key } => {
                    self.store.remove(&key);
                }
                Op::DeleteRange { from, to } => {
                    self.store.retain(|key, _| *key < from || *key >= to)
                }
            }
        }
    }

    pub fn publish(&mut self, id: u64, topic: &str, payload: &str) {
        let line =
            format!(r#"{{"type":"publish","request":1,"topic":"{topic}","payload":"{payload}"}}"#);
        self.send(id, &line);
    }

    /// What a connection was sent since this was last asked.
    pub fn heard(&mut self, id: u64) -> Vec<String> {
        self.sent.remove(&id).unwrap_or_default()
    }

    /// The payloads of deliveries, and the reasons of gaps in brackets.
    pub fn payloads(&mut self, id: u64) -> Vec<String> {
        let part = |line: &str, name: &str| {
            let rest = line.split(&format!("\"{name}\":\"")).nth(1)?;
            rest.split('"').next().map(String::from)
        };
        self.heard(id)
            .iter()
            .filter_map(|line| {
                if line.contains("\"type\":\"delivery\"") {
                    part(line, "payload")
                } else if line.contains("\"type\":\"gap\"") {
                    Some(format!("[{}]", part(line, "reason")?))
                } else {
                    None
                }
            })
            .collect()
    }
}
