//! What the core's work costs, per command, natively and as a guest in wasmtime. Each figure is the best of several
//! rounds; a baseline and what is compared with it are measured in the same run.

mod memory;

use core::time::Duration;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;

use dunlin_core::frame::{
    Ack, CancelScheduled, Command, Commit, ConfigureLimit, ConfigureRule, ConfigureTopic, Enter,
    Extend, Headers, Hello, Join, Lease, Leave, List, Message, Nack, OpenSession, Position,
    Publish, RuleAction, RuleCondition, Strings, Subscribe, Transact, Unsubscribe, WatchPresence,
};
use dunlin_core::{
    Claims, ConnectionId, Effect, Encoding, Input, Op, Reader, Rights, Row, Timestamp, abi,
};
use dunlin_host::{Engine, EngineKind, Engines, GuestModule};

const ROUNDS: u32 = 7;
const BATCH: usize = 16;
const PAYLOAD: [u8; 128] = [b'x'; 128];
/// Retention keeps the benchmark's memory bounded; it is what a busy topic has anyway.
const CONFIG: &str = r#"{"subscriptions_max":100000,"connections_max":100000,"topics_max":100000,
    "connections_per_user_max":100000,
    "topic_default":{"max_messages":100000}}"#;

/// Measures what the core's work costs.
#[derive(Parser)]
struct Arguments {
    /// Measures this guest module instead of the one that the host carries
    #[arg(long, value_name = "FILE")]
    guest: Option<PathBuf>,
}

fn main() {
    let guest = Arguments::parse().guest.map(|path| {
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        GuestModule::compile(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    });
    let engines = [
        Engines::new(EngineKind::Native, CONFIG).expect("the native engine starts"),
        match guest {
            Some(guest) => Engines::from_fn(move |seed| Ok(Box::new(guest.start(CONFIG, seed)?))),
            None => Engines::new(EngineKind::Wasm, CONFIG).expect("the guest starts"),
        },
    ];
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_else(|_| String::from("unknown"));
    println!("load average: {}", load.trim());
    println!(
        "{:<58} {:>10} {:>10} {:>7}",
        "", "native ns", "guest ns", "ratio"
    );
    row(
        &engines,
        "publish 128 B to one subscriber, in batches of 16",
        250,
        |engine| publish(engine, 1, "a/b"),
    );
    row(&engines, "the same, singly", 0, publish_singly);
    row(
        &engines,
        "each further subscriber of a fan-out to 1,000",
        40,
        |engine| {
            let one = publish(engine, 1, "a/one");
            let many = publish(engine, 1_000, "a/many");
            (many - one) / 999.0
        },
    );
    row(
        &engines,
        "what a limit of the namespace adds to a publish",
        30,
        |engine| what_limits_add(engine, &["namespace"]),
    );
    row(
        &engines,
        "what limits of all scopes of publishers add",
        250,
        |engine| what_limits_add(engine, &["namespace", "topic", "connection", "user", "ip"]),
    );
    row(
        &engines,
        "publish and match among 10,000 filters, nothing cached",
        2_000,
        match_filters,
    );
    row(
        &engines,
        "an id on a publish, one that is new",
        0,
        |engine| publish_named(engine, true) - publish_named(engine, false),
    );
    row(&engines, "a publish that is a duplicate", 250, duplicates);
    row(
        &engines,
        "a transaction of 10 publishes, in percent of 10 publishes",
        130,
        transactions,
    );
    for (name, part) in [("header", "header:kind"), ("JSON member", "json:/kind")] {
        let bound = if part.starts_with("header") { 1_000 } else { 0 };
        row(
            &engines,
            &format!("100 rules that look at a {name}, added to a publish"),
            bound,
            |engine| what_rules_add(engine, part),
        );
    }
    row(
        &engines,
        "schedule a message and cancel it, each",
        1_000,
        schedule_and_cancel,
    );
    for members in [1, 16] {
        row(
            &engines,
            &format!("a queue of {members}: deliver and ack, singly"),
            600,
            |engine| queue(engine, members) - queue(engine, 0),
        );
    }
    row(
        &engines,
        "16 members over 64 partitions: one joins and leaves, each",
        50_000,
        rebalance,
    );
    row(&engines, "commit an offset", 600, commit);
    row(
        &engines,
        "join a queue and leave it, each",
        5_000,
        join_and_leave,
    );
    for (members, watchers) in [(16, 1), (1_000, 1), (1_000, 1_000)] {
        row(
            &engines,
            &format!("{members} enter a topic and leave, {watchers} watching, each"),
            2_000,
            |engine| presence(engine, members, watchers),
        );
    }
    row(
        &engines,
        "a queue of 1 with priorities: deliver and ack",
        0,
        |engine| prioritised(engine, true) - prioritised(engine, false),
    );
    row(
        &engines,
        "a queue of 1 by key: deliver and ack, 10,000 idle keys",
        0,
        |engine| keyed(engine, 10_000),
    );
    row(&engines, "the same, 16 idle keys", 0, |engine| {
        keyed(engine, 16)
    });
    row(
        &engines,
        "a device comes back to its session with 100 missed messages",
        0,
        resume_session,
    );
    for leases in [1_000, 100_000] {
        for (name, settle) in [
            ("extend a lease", Settle::Extend),
            ("give a message back", Settle::Nack),
            ("a lease ends", Settle::Expire),
        ] {
            row(
                &engines,
                &format!("{name}, of {leases} leases"),
                0,
                |engine| leased(engine, leases, settle),
            );
        }
    }
    memory::rows(&engines[0]);
}

/// Prints one line: the bound, if any, is that of the native core.
fn row(engines: &[Engines; 2], name: &str, bound_ns: u32, measure: impl Fn(&mut Bench) -> f64) {
    let [native, guest] = engines.each_ref().map(|engines| {
        (0..ROUNDS)
            .map(|_| {
                measure(&mut Bench::new(
                    engines.start(1).expect("the engine starts"),
                ))
            })
            .fold(f64::INFINITY, f64::min)
    });
    let bound = if bound_ns == 0 {
        String::new()
    } else {
        format!("  (native at most {bound_ns})")
    };
    println!(
        "{name:<58} {native:>10.1} {guest:>10.1} {:>7.2}{bound}",
        guest / native
    );
}

struct Bench {
    engine: Box<dyn Engine>,
    now: u64,
    connections: u64,
}

impl Bench {
    fn new(engine: Box<dyn Engine>) -> Self {
        Self {
            engine,
            now: 1_700_000_000_000,
            connections: 0,
        }
    }

    fn connect(&mut self) -> ConnectionId {
        let mut batch = Vec::new();
        let connection = self.put_connect(&mut batch, "");
        self.step(&batch);
        connection
    }

    /// Puts a client of somebody's device into a batch.
    fn put_connect(&mut self, batch: &mut Vec<u8>, device: &str) -> ConnectionId {
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        let claims = Claims {
            namespace: String::from("bench"),
            user: String::from("somebody"),
            device: String::from(device),
            rights: Rights::ALL,
        };
        let connect = Input::Connect {
            connection,
            encoding: Encoding::Binary,
            claims,
            ip: vec![192, 0, 2, 1],
        };
        abi::encode_input(&connect, batch);
        let hello = Command::Hello(Hello {
            version: 1,
            client: None,
            ephemeral: None,
            echo: None,
        });
        put(batch, connection, &hello);
        connection
    }

    /// The effects of a step, and how long it took.
    fn effects(&mut self, batch: &[u8]) -> (Vec<Effect>, Duration) {
        self.now += 1;
        let begin = Instant::now();
        let step = self.engine.step(Timestamp(self.now), batch);
        let took = begin.elapsed();
        let mut reader = Reader::new(step.expect("the engine goes on"));
        reader.u64().expect("a timeout comes first");
        reader.u8().expect("then whether it can sleep");
        let mut effects = Vec::new();
        while !reader.is_empty() {
            effects.push(abi::decode_effect(&mut reader).expect("then effects"));
        }
        (effects, took)
    }

    fn step(&mut self, batch: &[u8]) {
        self.now += 1;
        self.engine
            .step(Timestamp(self.now), batch)
            .expect("the engine goes on");
    }

    fn subscribe(&mut self, connection: ConnectionId, subscription: u32, filter: &str) {
        let mut batch = Vec::new();
        put(&mut batch, connection, &subscribe(subscription, filter));
        self.step(&batch);
    }

    /// Nanoseconds per command of `batches`, each of which holds `commands`.
    fn time_all(&mut self, batches: &[Vec<u8>], commands: usize) -> f64 {
        let begin = Instant::now();
        for batch in batches {
            self.step(batch);
        }
        begin.elapsed().as_nanos() as f64 / (batches.len() * commands) as f64
    }

    /// Nanoseconds per command of `batch`, which holds `commands`.
    fn time(&mut self, batch: &[u8], commands: usize) -> f64 {
        let steps = (20_000 / commands).max(20);
        for _ in 0..steps / 4 {
            self.step(batch);
        }
        let begin = Instant::now();
        for _ in 0..steps {
            self.step(batch);
        }
        begin.elapsed().as_nanos() as f64 / (steps * commands) as f64
    }
}

fn put(batch: &mut Vec<u8>, connection: ConnectionId, command: &Command<'_>) {
    let mut bytes = Vec::new();
    command.encode(&mut bytes);
    abi::encode_input(
        &Input::Frame {
            connection,
            bytes: &bytes,
        },
        batch,
    );
}

fn subscribe(subscription: u32, filter: &str) -> Command<'_> {
    Command::Subscribe(Subscribe {
        request: 1,
        subscription,
        filter,
        from: None,
        credit: None,
        on_lag: None,
        lag_max: None,
        partition: None,
    })
}

fn publish_command(topic: &str) -> Command<'_> {
    Command::Publish(Publish {
        request: 1,
        topic,
        payload: &PAYLOAD,
        key: None,
        content_type: None,
        headers: None,
        id: None,
        ttl_ms: None,
        delay_ms: None,
        deliver_at: None,
        producer: None,
        producer_sequence: None,
        priority: None,
        durability: None,
        wait_ms: None,
    })
}

/// Publishes with an id each, if `named`; the windows of all are open to the end.
fn publish_named(bench: &mut Bench, named: bool) -> f64 {
    let publisher = bench.connect();
    let batches: Vec<Vec<u8>> = (0..1_250)
        .map(|step| {
            let mut batch = Vec::new();
            for index in 0..BATCH {
                let id = format!("order-{step}-{index}");
                let Command::Publish(publish) = publish_command("a/b") else {
                    unreachable!("it is a publish")
                };
                let id = named.then_some(&*id);
                put(
                    &mut batch,
                    publisher,
                    &Command::Publish(Publish { id, ..publish }),
                );
            }
            batch
        })
        .collect();
    bench.time_all(&batches, BATCH)
}

fn duplicates(bench: &mut Bench) -> f64 {
    let publisher = bench.connect();
    let Command::Publish(publish) = publish_command("a/b") else {
        unreachable!("it is a publish")
    };
    let again = Command::Publish(Publish {
        id: Some("order-1"),
        ..publish
    });
    let mut batch = Vec::new();
    for _ in 0..BATCH {
        put(&mut batch, publisher, &again);
    }
    bench.time(&batch, BATCH)
}

/// Every message takes the next sequence of the namespace for its number, and nothing else does.
fn schedule_and_cancel(bench: &mut Bench) -> f64 {
    let publisher = bench.connect();
    let mut schedule_id = 0;
    let batches: Vec<Vec<u8>> = (0..625)
        .map(|_| {
            let mut batch = Vec::new();
            for _ in 0..BATCH {
                schedule_id += 1;
                let Command::Publish(publish) = publish_command("a/b") else {
                    unreachable!("it is a publish")
                };
                let later = Publish {
                    delay_ms: Some(3_600_000),
                    ..publish
                };
                put(&mut batch, publisher, &Command::Publish(later));
                let cancel = CancelScheduled {
                    request: 1,
                    schedule_id,
                };
                put(&mut batch, publisher, &Command::CancelScheduled(cancel));
            }
            batch
        })
        .collect();
    bench.time_all(&batches, 2 * BATCH)
}

fn configure(
    bench: &mut Bench,
    connection: ConnectionId,
    topic: &str,
    partitions: u32,
    ordering: &str,
) {
    let mut batch = Vec::new();
    let command = Command::ConfigureTopic(ConfigureTopic {
        request: 1,
        topic,
        kind: None,
        ordering: Some(ordering),
        partitions: Some(partitions),
        durability: None,
        max_messages: None,
        max_bytes: None,
        max_age_ms: None,
        dedup_ms: None,
    });
    put(&mut batch, connection, &command);
    bench.step(&batch);
}

fn join(batch: &mut Vec<u8>, connection: ConnectionId, kind: &str, max_in_flight: Option<u64>) {
    let filters = Strings::encode(["a/b"]);
    let command = Command::Join(Join {
        request: 1,
        subscription: 1,
        group: "g",
        filters: Strings::parse(&filters).expect("a filter is text"),
        kind: Some(kind),
        strategy: None,
        from: None,
        member: None,
        credit: None,
        max_in_flight,
    });
    put(batch, connection, &command);
}

/// Publishes to a queue whose members take turns and acknowledge what they got in the batch before. The numbers of
/// leases rise from 1.
fn queue(bench: &mut Bench, members: usize) -> f64 {
    let publisher = bench.connect();
    configure(bench, publisher, "a/b", 1, "none");
    let members: Vec<ConnectionId> = (0..members).map(|_| bench.connect()).collect();
    for member in &members {
        let mut batch = Vec::new();
        join(&mut batch, *member, "queue", None);
        bench.step(&batch);
    }
    let mut lease = 0;
    let batches: Vec<Vec<u8>> = (0..1_250)
        .map(|step| {
            let mut batch = publish_batch(publisher, "a/b", BATCH);
            if step > 0 && !members.is_empty() {
                for _ in 0..BATCH {
                    let member = members[lease as usize % members.len()];
                    lease += 1;
                    put_acks(&mut batch, member, lease, 1);
                }
            }
            batch
        })
        .collect();
    bench.time_all(&batches, BATCH)
}

fn rebalance(bench: &mut Bench) -> f64 {
    let first = bench.connect();
    configure(bench, first, "a/b", 64, "none");
    for _ in 0..16 {
        let member = bench.connect();
        let mut batch = Vec::new();
        join(&mut batch, member, "partitioned", None);
        bench.step(&batch);
    }
    let last = bench.connect();
    let batches: Vec<Vec<u8>> = (0..400)
        .map(|step| {
            let mut batch = Vec::new();
            if step % 2 == 0 {
                join(&mut batch, last, "partitioned", None);
            } else {
                let leave = Command::Unsubscribe(Unsubscribe {
                    request: 1,
                    subscription: 1,
                });
                put(&mut batch, last, &leave);
            }
            batch
        })
        .collect();
    bench.time_all(&batches, 1)
}

/// The messages are delivered before; what is measured is commits alone, each of one message more.
fn commit(bench: &mut Bench) -> f64 {
    let publisher = bench.connect();
    configure(bench, publisher, "a/b", 1, "none");
    let member = bench.connect();
    let mut batch = Vec::new();
    join(&mut batch, member, "partitioned", None);
    bench.step(&batch);
    for _ in 0..1_250 {
        bench.step(&publish_batch(publisher, "a/b", BATCH));
    }
    let mut offset = 0;
    let batches: Vec<Vec<u8>> = (0..1_250)
        .map(|_| {
            let mut batch = Vec::new();
            for _ in 0..BATCH {
                offset += 1;
                let mut offsets = Vec::new();
                let position = Position {
                    topic: "a/b",
                    partition: 0,
                    offset,
                };
                List::push(&mut offsets, &position);
                let commit = Command::Commit(Commit {
                    request: 1,
                    subscription: 1,
                    generation: 1,
                    offsets: List::new(&offsets),
                });
                put(&mut batch, member, &commit);
            }
            batch
        })
        .collect();
    bench.time_all(&batches, BATCH)
}

fn join_and_leave(bench: &mut Bench) -> f64 {
    let publisher = bench.connect();
    configure(bench, publisher, "a/b", 1, "none");
    let member = bench.connect();
    let mut batch = Vec::new();
    for _ in 0..BATCH {
        join(&mut batch, member, "queue", None);
        let leave = Command::Unsubscribe(Unsubscribe {
            request: 1,
            subscription: 1,
        });
        put(&mut batch, member, &leave);
    }
    bench.time(&batch, 2 * BATCH)
}

/// So many enter a topic in one batch and leave it in the next, while some of them watch.
fn presence(bench: &mut Bench, members: usize, watchers: usize) -> f64 {
    let members: Vec<ConnectionId> = (0..members).map(|_| bench.connect()).collect();
    let watch = Command::WatchPresence(WatchPresence {
        request: 1,
        subscription: 1,
        topic: "room",
    });
    let enter = Command::Enter(Enter {
        request: 1,
        topic: "room",
        data: Some(b"here"),
    });
    let leave = Command::Leave(Leave {
        request: 1,
        topic: "room",
    });
    let all_say = |members: &[ConnectionId], command| {
        let mut batch = Vec::new();
        for member in members {
            put(&mut batch, *member, command);
        }
        batch
    };
    bench.step(&all_say(&members[..watchers], &watch));
    let rounds = (20_000 / members.len()).max(20);
    let batches = [all_say(&members, &enter), all_say(&members, &leave)];
    let batches: Vec<Vec<u8>> = batches.iter().cycle().take(rounds).cloned().collect();
    bench.time_all(&batches, members.len())
}

/// Acknowledges leases one by one, from `first` on.
fn put_acks(batch: &mut Vec<u8>, member: ConnectionId, first: u64, count: u64) {
    for lease in first..first + count {
        let mut leases = Vec::new();
        List::push(&mut leases, &Lease { lease });
        let ack = Command::Ack(Ack {
            request: 1,
            leases: List::new(&leases),
        });
        put(batch, member, &ack);
    }
}

/// Publishes with priorities in turn; if a queue `reads`, its member acknowledges what it got in the batch before.
fn prioritised(bench: &mut Bench, reads: bool) -> f64 {
    let publisher = bench.connect();
    configure(bench, publisher, "a/b", 1, "none");
    let member = bench.connect();
    if reads {
        let mut batch = Vec::new();
        join(&mut batch, member, "queue", None);
        bench.step(&batch);
    }
    let batches: Vec<Vec<u8>> = (0..1_250)
        .map(|step| {
            let mut batch = Vec::new();
            for priority in 0..BATCH as u64 {
                let Command::Publish(publish) = publish_command("a/b") else {
                    unreachable!("it is a publish")
                };
                let priority = Some(priority % 5);
                let publish = Publish {
                    priority,
                    ..publish
                };
                put(&mut batch, publisher, &Command::Publish(publish));
            }
            if step > 0 && reads {
                let count = BATCH as u64;
                put_acks(&mut batch, member, (step - 1) * count + 1, count);
            }
            batch
        })
        .collect();
    bench.time_all(&batches, BATCH)
}

/// After `keys` keys had a message each, which is done, publishes to 16 of them and acknowledges.
fn keyed(bench: &mut Bench, keys: u64) -> f64 {
    let publisher = bench.connect();
    configure(bench, publisher, "a/b", 1, "per_key");
    let member = bench.connect();
    let mut batch = Vec::new();
    join(&mut batch, member, "queue", None);
    bench.step(&batch);
    let mut batches: Vec<Vec<u8>> = (0..keys / BATCH as u64 + 1_250)
        .map(|step| {
            let mut batch = Vec::new();
            let count = BATCH as u64;
            for index in 0..count {
                let key = format!("key-{}", (step * count + index) % keys);
                let Command::Publish(publish) = publish_command("a/b") else {
                    unreachable!("it is a publish")
                };
                let key = Some(&*key);
                put(
                    &mut batch,
                    publisher,
                    &Command::Publish(Publish { key, ..publish }),
                );
            }
            if step > 0 {
                put_acks(&mut batch, member, (step - 1) * count + 1, count);
            }
            batch
        })
        .collect();
    let measured = batches.split_off((keys / BATCH as u64) as usize);
    for batch in &batches {
        bench.step(batch);
    }
    bench.time_all(&measured, BATCH)
}

/// What is done with leases.
#[derive(Clone, Copy)]
enum Settle {
    Extend,
    Nack,
    Expire,
}

/// Holds so many leases, and extends or gives back up to 1,000 of them one by one, or lets all of them end.
fn leased(bench: &mut Bench, leases: u64, settle: Settle) -> f64 {
    const EACH: u64 = 10_000;
    let publisher = bench.connect();
    configure(bench, publisher, "a/b", 1, "none");
    let members: Vec<ConnectionId> = (0..leases.div_ceil(EACH))
        .map(|_| {
            let member = bench.connect();
            let mut batch = Vec::new();
            join(&mut batch, member, "queue", Some(EACH.min(leases)));
            bench.step(&batch);
            member
        })
        .collect();
    for _ in 0..leases / 50 {
        bench.step(&publish_batch(publisher, "a/b", 50));
    }
    if matches!(settle, Settle::Expire) {
        // Past the time of all leases, and before anybody is missed.
        bench.now += 35_000;
        let mut timeout = Vec::new();
        abi::encode_input(&Input::Timeout, &mut timeout);
        return bench.time_all(&[timeout], leases as usize);
    }
    let batches: Vec<Vec<u8>> = (0..60)
        .map(|step| {
            let mut batch = Vec::new();
            for index in 0..BATCH as u64 {
                let lease = step * BATCH as u64 + index + 1;
                let member = members[(lease - 1) as usize % members.len()];
                let mut list = Vec::new();
                List::push(&mut list, &Lease { lease });
                let leases = List::new(&list);
                let command = match settle {
                    Settle::Extend => Command::Extend(Extend {
                        request: 1,
                        leases,
                        extend_ms: None,
                    }),
                    Settle::Nack | Settle::Expire => Command::Nack(Nack {
                        request: 1,
                        leases,
                        delay_ms: Some(3_600_000),
                    }),
                };
                put(&mut batch, member, &command);
            }
            batch
        })
        .collect();
    bench.time_all(&batches, BATCH)
}

fn publish_batch(connection: ConnectionId, topic: &str, count: usize) -> Vec<u8> {
    let mut batch = Vec::new();
    for _ in 0..count {
        put(&mut batch, connection, &publish_command(topic));
    }
    batch
}

fn publish(bench: &mut Bench, subscribers: u32, topic: &str) -> f64 {
    let publisher = bench.connect();
    for subscription in 0..subscribers {
        let connection = bench.connect();
        bench.subscribe(connection, subscription, topic);
    }
    let batch = publish_batch(publisher, topic, BATCH);
    bench.time(&batch, BATCH)
}

/// Has a device go, 100 messages come, and the device come back for them, without ever acknowledging one: what the
/// connection, its session, the subscription and the deliveries take, with what they are read from.
fn resume_session(bench: &mut Bench) -> f64 {
    const MISSED: usize = 100;
    const TURNS: u32 = 200;
    let come = |bench: &mut Bench| {
        let mut batch = Vec::new();
        let connection = bench.put_connect(&mut batch, "phone");
        let open = OpenSession {
            request: 1,
            token: None,
        };
        put(&mut batch, connection, &Command::OpenSession(open));
        let Command::Subscribe(begin) = subscribe(1, "a/b") else {
            unreachable!("it is a subscribe")
        };
        let begin = Subscribe {
            from: Some("session"),
            ..begin
        };
        put(&mut batch, connection, &Command::Subscribe(begin));
        (connection, batch)
    };
    let publisher = bench.connect();
    let (mut device, batch) = come(bench);
    bench.step(&batch);
    let mut rows = Vec::new();
    let mut took = Duration::ZERO;
    for turn in 0..=TURNS {
        let mut batch = Vec::new();
        let connection = device;
        abi::encode_input(&Input::Disconnect { connection }, &mut batch);
        if turn == 0 {
            batch.extend(publish_batch(publisher, "a/b", MISSED));
        }
        for effect in bench.effects(&batch).0 {
            if let Effect::Write { ops, .. } = effect {
                rows.extend(ops.into_iter().filter_map(|op| match op {
                    Op::Put { key, value } => Some(Row { key, value }),
                    Op::Delete { .. } | Op::DeleteRange { .. } => None,
                }));
            }
        }
        let (connection, mut batch) = come(bench);
        device = connection;
        let mut delivered = 0;
        while !batch.is_empty() {
            let (effects, step) = bench.effects(&batch);
            if turn > 0 {
                took += step;
            }
            batch.clear();
            for effect in effects {
                match effect {
                    Effect::Load {
                        ticket, from, to, ..
                    } => {
                        let wanted = |row: &&Row| row.key >= from && row.key < to;
                        let result = Ok(rows.iter().filter(wanted).cloned().collect());
                        abi::encode_input(&Input::Loaded { ticket, result }, &mut batch);
                    }
                    Effect::Send { body, .. } => {
                        let payloads = body.windows(PAYLOAD.len());
                        delivered += usize::from(payloads.clone().any(|some| some == PAYLOAD));
                    }
                    _ => {}
                }
            }
        }
        assert!(delivered > 0, "what was missed is delivered");
    }
    took.as_nanos() as f64 / f64::from(TURNS)
}

/// Publishes one by one and in a transaction, in turns on the same broker; of each the best turn counts.
fn transactions(bench: &mut Bench) -> f64 {
    const MESSAGES: usize = 10;
    const TURNS: usize = 10;
    let publisher = bench.connect();
    let singly = publish_batch(publisher, "a/b", MESSAGES);
    let mut messages = Vec::new();
    for _ in 0..MESSAGES {
        let message = Message {
            topic: "a/b",
            payload: &PAYLOAD,
            key: None,
            content_type: None,
            headers: None,
            id: None,
            ttl_ms: None,
            delay_ms: None,
            deliver_at: None,
            producer: None,
            producer_sequence: None,
            priority: None,
        };
        List::push(&mut messages, &message);
    }
    let transact = Transact {
        request: 1,
        messages: Some(List::new(&messages)),
        leases: None,
        offsets: None,
        durability: None,
        wait_ms: None,
    };
    let mut together = Vec::new();
    put(&mut together, publisher, &Command::Transact(transact));
    let mut best = [f64::INFINITY; 2];
    for _ in 0..TURNS {
        for (best, batch) in best.iter_mut().zip([&singly, &together]) {
            *best = best.min(bench.time(batch, MESSAGES));
        }
    }
    100.0 * best[1] / best[0]
}

/// Publishes to a topic that 100 rules are for, with a condition that does not hold in any, and to one without rules,
/// in turns on the same broker; of each the best turn counts.
fn what_rules_add(bench: &mut Bench, part: &str) -> f64 {
    const RULES: usize = 100;
    const TURNS: usize = 10;
    let publisher = bench.connect();
    let condition = |value: &str| {
        let mut when = Vec::new();
        let condition = RuleCondition {
            part,
            test: "equals",
            value: Some(value),
        };
        List::push(&mut when, &condition);
        when
    };
    let mut then = Vec::new();
    let action = RuleAction {
        action: "drop",
        topic: None,
        header: None,
        value: None,
    };
    List::push(&mut then, &action);
    for index in 0..RULES {
        let (name, when) = (format!("rule-{index}"), condition(&format!("kind-{index}")));
        let configure = ConfigureRule {
            request: 1,
            rule: &name,
            filter: Some("ruled/#"),
            when: Some(List::new(&when)),
            then: Some(List::new(&then)),
            order: None,
            enabled: None,
        };
        let mut batch = Vec::new();
        put(&mut batch, publisher, &Command::ConfigureRule(configure));
        bench.step(&batch);
    }
    let payload = format!(
        "{{\"at\":1700000000000,\"kind\":\"other\",\"text\":\"{}\"}}",
        "x".repeat(80)
    );
    let headers = Headers::encode([("trace", "1"), ("kind", "other")]);
    let batches = ["free/b", "ruled/b"].map(|topic| {
        let Command::Publish(publish) = publish_command(topic) else {
            unreachable!("it is a publish")
        };
        let publish = Publish {
            payload: payload.as_bytes(),
            headers: Some(Headers::parse(&headers).expect("it was just encoded")),
            ..publish
        };
        let mut batch = Vec::new();
        for _ in 0..BATCH {
            put(&mut batch, publisher, &Command::Publish(publish));
        }
        batch
    });
    let mut best = [f64::INFINITY; 2];
    for _ in 0..TURNS {
        for (best, batch) in best.iter_mut().zip(&batches) {
            *best = best.min(bench.time(batch, BATCH));
        }
    }
    best[1] - best[0]
}

/// The same publishes without limits and with them, in turns on the same broker; of each the best turn counts.
fn what_limits_add(bench: &mut Bench, scopes: &[&str]) -> f64 {
    const TURNS: usize = 10;
    let publisher = bench.connect();
    let publishes = publish_batch(publisher, "a/b", BATCH);
    let mut best = [f64::INFINITY; 2];
    for turn in 0..2 * TURNS {
        let is_limited = turn % 2 == 1;
        let mut batch = Vec::new();
        for scope in scopes {
            let limit = ConfigureLimit {
                request: 1,
                scope,
                name: "",
                rate: is_limited.then_some(1_000_000_000),
                per_ms: None,
                burst: None,
                adaptive: None,
            };
            put(&mut batch, publisher, &Command::ConfigureLimit(limit));
        }
        bench.step(&batch);
        let best = &mut best[usize::from(is_limited)];
        *best = best.min(bench.time(&publishes, BATCH));
    }
    best[1] - best[0]
}

fn publish_singly(bench: &mut Bench) -> f64 {
    let publisher = bench.connect();
    let listener = bench.connect();
    bench.subscribe(listener, 1, "a/b");
    let batch = publish_batch(publisher, "a/b", 1);
    bench.time(&batch, 1)
}

/// A subscription that comes and goes makes what was matched before stale. What that costs by itself is measured on
/// the same broker without the publish, and taken away; what is left is the publish with its match.
fn match_filters(bench: &mut Bench) -> f64 {
    let publisher = bench.connect();
    let listener = bench.connect();
    for index in 0..10_000u32 {
        let filter = match index % 4 {
            0 => format!("plant/{}/line/{}/sensor/{index}", index % 50, index % 9),
            1 => format!("plant/{}/+/{}/#", index % 50 + 8, index),
            2 => format!("site/{index}/#"),
            _ => format!("+/{index}/line/+/sensor/x"),
        };
        bench.subscribe(listener, index, &filter);
    }
    let mut churn = |publishes: bool| {
        let mut batch = Vec::new();
        for index in 0..BATCH {
            put(
                &mut batch,
                publisher,
                &subscribe(1_000_000, &format!("new/{index}/+")),
            );
            if publishes {
                put(
                    &mut batch,
                    publisher,
                    &publish_command("plant/7/line/3/sensor/9"),
                );
            }
            let unsubscribe = Unsubscribe {
                request: 1,
                subscription: 1_000_000,
            };
            put(&mut batch, publisher, &Command::Unsubscribe(unsubscribe));
        }
        bench.time(&batch, BATCH)
    };
    let alone = churn(false);
    churn(true) - alone
}
