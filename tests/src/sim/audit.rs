//! What a store holds, as a broker reads it: a second broker, restored from a copy of the rows, is asked for
//! everything. So what survived a crash is known before the next life begins.

use dunlin_core::frame::{Command, DescribeTopic, Hello, ListTopics, Publish, Read, Reply};
use dunlin_core::rows::{Scope, scope_of};
use dunlin_core::{
    Broker, Claims, ConnectionId, Effect, Encoding, Input, Reader, Rights, Row, Timestamp,
};

use dunlin_host::RangeRead;

use super::frames::decode;
use super::store::{Rows, apply, read_range};

/// One topic as it is stored.
#[derive(Debug)]
pub(super) struct TopicDump {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) durability: String,
    pub(super) max_messages: u64,
    pub(super) max_age_ms: u64,
    pub(super) dedup_ms: u64,
    pub(super) partitions: Vec<PartitionDump>,
}

#[derive(Debug, Default)]
pub(super) struct PartitionDump {
    pub(super) start: u64,
    pub(super) end: u64,
    /// Offset, sequence, payload.
    pub(super) records: Vec<(u64, u64, Vec<u8>)>,
}

/// Reads every message of a namespace.
pub(super) fn audit(rows: &[Row], config: &str, namespace: &str) -> Result<Dump, String> {
    let mut auditor = Auditor::new(rows, config, namespace)?;
    let mut topics = Vec::new();
    let mut after = String::new();
    loop {
        let command = Command::ListTopics(ListTopics {
            request: 1,
            filter: None,
            after: (!after.is_empty()).then_some(&after),
            topics_max: None,
        });
        let frame = auditor.ask(&command)?;
        let Reply::Topics(told) = decode(&frame)? else {
            return Err(format!("audit: {:?}", decode(&frame)?));
        };
        let names: Vec<String> = told.topics.iter().map(str::to_owned).collect();
        for name in &names {
            topics.push(auditor.topic(name)?);
        }
        match (told.more, names.into_iter().next_back()) {
            (true, Some(last)) => after = last,
            _ => break,
        }
    }
    let last_timestamp = auditor.last_timestamp()?;
    Ok(Dump {
        topics,
        last_timestamp,
    })
}

/// A namespace as it is stored.
#[derive(Debug)]
pub(super) struct Dump {
    pub(super) topics: Vec<TopicDump>,
    /// No message can have an earlier time from now on, whatever the clock says.
    pub(super) last_timestamp: u64,
}

struct Auditor {
    broker: Broker,
    rows: Rows,
    now: Timestamp,
    replies: Vec<Vec<u8>>,
    /// What the broker asked for and was not given yet; not all of it is for what the auditor asked.
    loads: Vec<Input<'static>>,
}

const CONNECTION: ConnectionId = ConnectionId(1 << 40);

impl Auditor {
    fn new(rows: &[Row], config: &str, namespace: &str) -> Result<Self, String> {
        let mut broker = Broker::new(config, 1).map_err(|error| error.0)?;
        let of_namespace = |row: &&Row| match scope_of(&row.key) {
            Some(Scope::Store) => true,
            Some(Scope::State(name)) => name == namespace,
            _ => false,
        };
        broker
            .restore(rows.iter().filter(of_namespace).cloned())
            .map_err(|error| error.0)?;
        let rows = rows
            .iter()
            .map(|row| (row.key.clone(), row.value.clone()))
            .collect();
        let mut auditor = Self {
            broker,
            rows,
            // Before everything that is stored, so that nothing of it is too old.
            now: Timestamp(1),
            replies: Vec::new(),
            loads: Vec::new(),
        };
        auditor.broker.flush();
        auditor.obey();
        let claims = Claims {
            namespace: namespace.to_owned(),
            user: String::new(),
            device: String::new(),
            rights: Rights::ALL,
        };
        let input = Input::Connect {
            connection: CONNECTION,
            encoding: Encoding::Binary,
            claims,
            ip: Vec::new(),
        };
        auditor.broker.handle(auditor.now, input);
        auditor.ask(&Command::Hello(Hello {
            version: 1,
            client: None,
            ephemeral: None,
            echo: None,
        }))?;
        Ok(auditor)
    }

    /// Gives a command and returns the reply's frame.
    fn ask(&mut self, command: &Command<'_>) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        command.encode(&mut bytes);
        self.broker.handle(
            self.now,
            Input::Frame {
                connection: CONNECTION,
                bytes: &bytes,
            },
        );
        for _step in 0..10_000 {
            self.broker.flush();
            self.obey();
            if let Some(reply) = self.replies.pop() {
                return Ok(reply);
            }
            for input in core::mem::take(&mut self.loads) {
                self.broker.handle(self.now, input);
            }
            self.broker.handle(self.now, Input::Timeout);
        }
        Err(format!("the auditor is not answered: {command:?}"))
    }

    fn obey(&mut self) {
        while let Some(effect) = self.broker.poll_effect() {
            match effect {
                Effect::Write { ops, .. } => apply(&mut self.rows, &ops),
                Effect::Load {
                    ticket,
                    from,
                    to,
                    reverse,
                    rows_max,
                    bytes_max,
                } => {
                    let read = RangeRead {
                        from,
                        to,
                        reverse,
                        rows_max,
                        bytes_max,
                    };
                    self.loads.push(Input::Loaded {
                        ticket,
                        result: Ok(read_range(&self.rows, &read)),
                    });
                }
                Effect::Send { prefixes, body, .. } => {
                    let bytes = [prefixes, body].concat();
                    let mut reader = Reader::new(&bytes);
                    while let Ok(frame) = reader.bytes() {
                        self.replies.push(frame.to_vec());
                    }
                }
                Effect::Close { .. } | Effect::Notify(_) => {}
            }
        }
    }

    /// The time of a message that is published at the beginning of time.
    fn last_timestamp(&mut self) -> Result<u64, String> {
        let topic = "the auditor's";
        self.ask(&Command::Publish(Publish {
            request: 4,
            topic,
            payload: b"",
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
        }))?;
        let frame = self.ask(&Command::Read(Read {
            request: 5,
            topic,
            partition: 0,
            from: Some("earliest"),
            messages_max: None,
            bytes_max: None,
        }))?;
        let Reply::Page(page) = decode(&frame)? else {
            return Err(format!("audit: {:?}", decode(&frame)?));
        };
        match page.records.iter().next() {
            Some(Ok(record)) => Ok(record.timestamp),
            _ => Err("audit: its own message is not there".to_owned()),
        }
    }

    fn topic(&mut self, name: &str) -> Result<TopicDump, String> {
        let frame = self.ask(&Command::DescribeTopic(DescribeTopic {
            request: 2,
            topic: name,
        }))?;
        let Reply::TopicDescription(told) = decode(&frame)? else {
            return Err(format!("audit: {:?}", decode(&frame)?));
        };
        let mut dump = TopicDump {
            name: name.to_owned(),
            kind: told.kind.to_owned(),
            durability: told.durability.to_owned(),
            max_messages: told.max_messages,
            max_age_ms: told.max_age_ms,
            dedup_ms: told.dedup_ms.unwrap_or(0),
            partitions: Vec::new(),
        };
        for partition in 0..told.partitions.iter().count() as u32 {
            dump.partitions.push(self.partition(name, partition)?);
        }
        Ok(dump)
    }

    fn partition(&mut self, topic: &str, partition: u32) -> Result<PartitionDump, String> {
        let mut dump = PartitionDump::default();
        let mut from = "earliest".to_owned();
        loop {
            let frame = self.ask(&Command::Read(Read {
                request: 3,
                topic,
                partition,
                from: Some(&from),
                messages_max: None,
                bytes_max: None,
            }))?;
            let Reply::Page(page) = decode(&frame)? else {
                return Err(format!("audit: {:?}", decode(&frame)?));
            };
            (dump.start, dump.end) = (page.log_start_offset, page.log_end_offset);
            for record in page.records.iter() {
                let record = record.map_err(|_| "audit: a malformed record".to_owned())?;
                dump.records
                    .push((record.offset, record.sequence, record.payload.to_vec()));
            }
            if page.next_offset >= page.log_end_offset {
                return Ok(dump);
            }
            let next = format!("offset:{}", page.next_offset);
            if next == from {
                return Err(format!(
                    "audit: \"{topic}\" {partition} cannot be read beyond {next}"
                ));
            }
            from = next;
        }
    }
}
