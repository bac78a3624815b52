//! `dunlin pub`: a message from the arguments, or one a line from a file or standard input.
//!
//! Lines are sent as they come: what is there goes in one batch, and several batches are under way at once, so that a
//! file is fast and a person who types is not kept waiting.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use dunlin_core::frame::{Command, Headers, List, Message, Place, PublishBatch, Reply};
use serde_json::Value;
use tokio::sync::mpsc;

use super::client::Client;
use super::time::{millis, moment};
use super::{Target, print_line};

/// The most batches that wait for their receipts.
const IN_FLIGHT_MAX: usize = 32;

/// A batch is sent before it becomes longer than this; the broker takes a little over 1 MiB.
const BATCH_BYTES_MAX: usize = 512 * 1024;

/// The most messages in a batch that the flag takes.
const BATCH_MAX: u64 = 10_000;

/// The flags of `dunlin pub`.
#[derive(Args, Debug)]
pub(super) struct Publish {
    #[command(flatten)]
    target: Target,
    /// The topic; with --json-lines that of the lines which name none
    #[arg(required_unless_present = "json_lines")]
    topic: Option<String>,
    /// The message; without it, every line of standard input is one
    #[arg(conflicts_with_all = ["file", "json_lines"])]
    payload: Option<String>,
    /// Reads lines from a file instead of standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Every line is an object with payload or payload_base64, and perhaps topic, key, id, content_type, headers, ttl_ms,
    /// delay_ms, deliver_at, producer, producer_sequence and priority
    #[arg(long)]
    json_lines: bool,
    /// The key of messages that name none
    #[arg(long)]
    key: Option<String>,
    /// The most messages in a batch, which is published all or nothing
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = RangedU64ValueParser::<usize>::new().range(1..=BATCH_MAX))]
    batch: usize,
    /// What the receipts wait for; the stronger of this and the topic's holds
    #[arg(long, value_enum)]
    durability: Option<Level>,
    /// The message's name, under which it is published once within the topic's window
    #[arg(long, requires = "payload", conflicts_with = "producer")]
    id: Option<String>,
    /// Who publishes: a message with the same producer and sequence is published once for ever
    #[arg(long, value_name = "NAME", requires = "sequence")]
    producer: Option<String>,
    /// The producer's number of the message, or of the first line; every further line has one more
    #[arg(long, value_name = "N", requires = "producer")]
    sequence: Option<u64>,
    /// Publishes so much later, like 30s
    #[arg(long, value_name = "DURATION", value_parser = millis)]
    delay: Option<u64>,
    /// Publishes at this time, like 2030-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "delay")]
    deliver_at: Option<u64>,
    /// From 0 to 4, which queues deal out first; on topics with the ordering none
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=4))]
    priority: Option<u64>,
    /// Waits so long for a rate limit, like 500ms, instead of being refused at once
    #[arg(long, value_name = "DURATION", value_parser = millis)]
    wait: Option<u64>,
}

/// A durability level, as the protocol spells it.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Level {
    /// Nothing
    None,
    /// Durable within 100 ms
    Async,
    /// Durable before the receipt
    Sync,
}

impl Level {
    const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Async => "async",
            Self::Sync => "sync",
        }
    }
}

/// A message before it is sent.
#[derive(Debug, Default, PartialEq, Eq)]
struct Draft {
    topic: String,
    payload: Vec<u8>,
    key: Option<String>,
    content_type: Option<String>,
    headers: Vec<(String, String)>,
    id: Option<String>,
    ttl_ms: Option<u64>,
    delay_ms: Option<u64>,
    deliver_at: Option<u64>,
    producer: Option<String>,
    producer_sequence: Option<u64>,
    priority: Option<u64>,
}

impl Publish {
    pub(super) async fn run(self) -> Result<()> {
        let lines = self.lines()?;
        let mut client = Client::connect(&self.target).await?;
        let mut run = Run {
            durability: self.durability.map(Level::as_str),
            wait_ms: self.wait,
            waiting: VecDeque::new(),
            next_request: 1,
            receipts: Receipts::default(),
        };
        let begun = Instant::now();
        let outcome = run.all(&mut client, lines, self.batch).await;
        print_line(&run.receipts.summary(begun.elapsed().as_secs_f64()))?;
        client.close().await;
        outcome
    }

    /// The messages, read by a thread as fast as they are taken.
    fn lines(&self) -> Result<mpsc::Receiver<Result<Draft>>> {
        let (sender, receiver) = mpsc::channel(self.batch * 2);
        let draft = {
            let topic = self.topic.clone();
            let key = self.key.clone();
            let id = self.id.clone();
            let (delay_ms, deliver_at) = (self.delay, self.deliver_at);
            let (producer, sequence) = (self.producer.clone(), self.sequence);
            let priority = self.priority;
            move |payload, index| Draft {
                topic: topic.clone().unwrap_or_default(),
                payload,
                key: key.clone(),
                id: id.clone(),
                delay_ms,
                deliver_at,
                producer: producer.clone(),
                producer_sequence: sequence.map(|first| first.saturating_add(index)),
                priority,
                ..Draft::default()
            }
        };
        if let Some(payload) = &self.payload {
            // The channel is new and has room.
            let _ = sender.try_send(Ok(draft(payload.clone().into_bytes(), 0)));
            return Ok(receiver);
        }
        let reader: Box<dyn BufRead + Send> = match &self.file {
            None => Box::new(BufReader::new(io::stdin())),
            Some(path) => {
                let file = File::open(path)
                    .with_context(|| format!("--file {} cannot be read", path.display()))?;
                Box::new(BufReader::new(file))
            }
        };
        let json = self.json_lines;
        std::thread::spawn(move || {
            for (index, line) in (0..).zip(reader.split(b'\n')) {
                let line = line.context("the input cannot be read");
                let message = line.and_then(|line| {
                    let draft = draft(line, index);
                    if !json {
                        return Ok(Some(draft));
                    }
                    if draft.payload.trim_ascii().is_empty() {
                        return Ok(None);
                    }
                    parse_line(draft).map(Some)
                });
                let message = message.with_context(|| format!("line {}", index + 1));
                let last = message.is_err();
                if let Some(message) = message.transpose()
                    && (sender.blocking_send(message).is_err() || last)
                {
                    return;
                }
            }
        });
        Ok(receiver)
    }
}

/// Fills in what a line of JSON says; `draft.payload` is the line.
fn parse_line(mut draft: Draft) -> Result<Draft> {
    let line = core::mem::take(&mut draft.payload);
    let value: Value = serde_json::from_slice(&line).context("it is not JSON")?;
    let Value::Object(members) = value else {
        bail!("it is not a JSON object");
    };
    let mut has_payload = false;
    for (name, value) in members {
        let number = |value: &Value| {
            let number = value.as_u64();
            number.ok_or_else(|| anyhow!("{name} is {value}; it must be a whole number from 0"))
        };
        let text = |value: Value| match value {
            Value::String(text) => Ok(text),
            other => Err(anyhow!("{name} is {other}; it must be a string")),
        };
        match name.as_str() {
            "topic" => draft.topic = text(value)?,
            "key" => draft.key = Some(text(value)?),
            "id" => draft.id = Some(text(value)?),
            "content_type" => draft.content_type = Some(text(value)?),
            "ttl_ms" => draft.ttl_ms = Some(number(&value)?),
            "delay_ms" => draft.delay_ms = Some(number(&value)?),
            "deliver_at" => draft.deliver_at = Some(number(&value)?),
            "producer" => draft.producer = Some(text(value)?),
            "producer_sequence" => draft.producer_sequence = Some(number(&value)?),
            "priority" => draft.priority = Some(number(&value)?),
            "headers" => {
                draft.headers = serde_json::from_value(value)
                    .context("headers must be like [[\"name\",\"value\"]]")?;
            }
            "payload" | "payload_base64" if has_payload => {
                bail!("it has both payload and payload_base64");
            }
            "payload_base64" => {
                has_payload = true;
                draft.payload = BASE64
                    .decode(text(value)?)
                    .map_err(|error| anyhow!("payload_base64 is not base64: {error}"))?;
            }
            "payload" => {
                has_payload = true;
                draft.payload = match value {
                    Value::String(text) => text.into_bytes(),
                    other => {
                        draft
                            .content_type
                            .get_or_insert("application/json".to_owned());
                        other.to_string().into_bytes()
                    }
                };
            }
            _ => bail!(
                "unknown member {name:?}; known are topic, key, payload, payload_base64, content_type, headers, id, ttl_ms, delay_ms, deliver_at, producer, producer_sequence and priority"
            ),
        }
    }
    if !has_payload {
        bail!("it has no payload");
    }
    if draft.topic.is_empty() {
        bail!("it names no topic, and neither does the command line");
    }
    Ok(draft)
}

/// Batches on their way.
struct Run {
    durability: Option<&'static str>,
    wait_ms: Option<u64>,
    waiting: VecDeque<(u64, Vec<Draft>)>,
    next_request: u64,
    receipts: Receipts,
}

impl Run {
    async fn all(
        &mut self,
        client: &mut Client,
        mut lines: mpsc::Receiver<Result<Draft>>,
        batch_max: usize,
    ) -> Result<()> {
        let mut drafts = Vec::new();
        let mut open = true;
        let mut wrong = None;
        while open || !self.waiting.is_empty() {
            tokio::select! {
                count = lines.recv_many(&mut drafts, batch_max), if open && self.waiting.len() < IN_FLIGHT_MAX => {
                    open = count > 0;
                }
                frame = client.receive(), if !self.waiting.is_empty() => {
                    let frame = frame?;
                    if !self.hear(&frame)? {
                        client.check(&frame).await?;
                    }
                }
            }
            let mut batch = Vec::new();
            let mut size_bytes = 0;
            for draft in drafts.drain(..) {
                match draft {
                    Ok(draft) => {
                        let size = draft.payload.len() + draft.topic.len();
                        if size_bytes > 0 && size_bytes + size > BATCH_BYTES_MAX {
                            self.send(client, core::mem::take(&mut batch)).await?;
                            size_bytes = 0;
                        }
                        size_bytes += size;
                        batch.push(draft);
                    }
                    Err(error) => {
                        open = false;
                        wrong = Some(error);
                    }
                }
            }
            self.send(client, batch).await?;
        }
        wrong.map_or(Ok(()), Err)
    }

    async fn send(&mut self, client: &mut Client, batch: Vec<Draft>) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut messages = Vec::new();
        for draft in &batch {
            let headers = draft.headers.iter();
            let headers = headers.map(|(name, value)| (name.as_str(), value.as_str()));
            let headers = Headers::encode(headers);
            List::push(
                &mut messages,
                &Message {
                    topic: &draft.topic,
                    payload: &draft.payload,
                    key: draft.key.as_deref(),
                    content_type: draft.content_type.as_deref(),
                    headers: Headers::parse(&headers)
                        .ok()
                        .filter(|_| !headers.is_empty()),
                    id: draft.id.as_deref(),
                    ttl_ms: draft.ttl_ms,
                    delay_ms: draft.delay_ms,
                    deliver_at: draft.deliver_at,
                    producer: draft.producer.as_deref(),
                    producer_sequence: draft.producer_sequence,
                    priority: draft.priority,
                },
            );
        }
        let request = self.next_request;
        self.next_request += 1;
        client
            .send(&Command::PublishBatch(PublishBatch {
                request,
                messages: List::new(&messages),
                durability: self.durability,
                wait_ms: self.wait_ms,
            }))
            .await?;
        self.waiting.push_back((request, batch));
        Ok(())
    }

    /// Takes receipts, if these are some.
    fn hear(&mut self, frame: &[u8]) -> Result<bool> {
        match Reply::decode(frame) {
            Ok(Reply::Receipts(receipts)) => {
                let at = self
                    .waiting
                    .iter()
                    .position(|(request, _)| *request == receipts.request);
                let Some((_, batch)) = at.and_then(|at| self.waiting.remove(at)) else {
                    return Ok(true);
                };
                for (draft, place) in batch.iter().zip(receipts.receipts.iter()) {
                    let place = place.map_err(|_| anyhow!("the broker sent a garbled receipt"))?;
                    self.receipts.add(&draft.topic, &place);
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

/// What was received for what was sent.
#[derive(Debug, Default)]
struct Receipts {
    count: u64,
    duplicates: u64,
    /// The numbers of those that wait for their time.
    scheduled: Vec<u64>,
    /// First and last offset by topic and partition.
    places: BTreeMap<(String, u32), (u64, u64)>,
}

/// The most places that a summary names.
const PLACES_SHOWN_MAX: usize = 8;

impl Receipts {
    fn add(&mut self, topic: &str, place: &Place) {
        self.count += 1;
        if place.duplicate {
            self.duplicates += 1;
        }
        if let Some(schedule_id) = place.schedule_id {
            // It has no place before its time comes.
            return self.scheduled.push(schedule_id);
        }
        if place.duplicate && place.sequence == 0 {
            // Its place is not remembered any more.
            return;
        }
        // Rules may have moved it.
        let topic = place.topic.unwrap_or(topic);
        let key = (topic.to_owned(), place.partition);
        let (first, last) = self
            .places
            .entry(key)
            .or_insert((place.offset, place.offset));
        *first = (*first).min(place.offset);
        *last = (*last).max(place.offset);
    }

    fn summary(&self, seconds: f64) -> String {
        let mut text = match self.count {
            0 => return "published nothing".to_owned(),
            1 => "published 1 message".to_owned(),
            count => format!(
                "published {count} messages in {seconds:.2} s ({:.0}/s)",
                count as f64 / seconds.max(1e-9)
            ),
        };
        if self.duplicates > 0 {
            text.push_str(&format!(", {} of them duplicates", self.duplicates));
        }
        if let [first, .., last] = self.scheduled[..] {
            let count = self.scheduled.len();
            text.push_str(&format!(
                "\n  {count} wait for their time: numbers {first} to {last}"
            ));
        } else if let [number] = self.scheduled[..] {
            text.push_str(&format!("\n  it waits for its time: number {number}"));
        }
        for ((topic, partition), (first, last)) in self.places.iter().take(PLACES_SHOWN_MAX) {
            let range = if first == last {
                format!("offset {first}")
            } else {
                format!("offsets {first} to {last}")
            };
            text.push_str(&format!("\n  {topic} partition {partition}: {range}"));
        }
        if self.places.len() > PLACES_SHOWN_MAX {
            let more = self.places.len() - PLACES_SHOWN_MAX;
            text.push_str(&format!("\n  and {more} more topics or partitions"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Draft> {
        parse_line(Draft {
            topic: "given".to_owned(),
            payload: line.as_bytes().to_vec(),
            key: Some("k".to_owned()),
            ..Draft::default()
        })
    }

    #[test]
    fn a_line_of_json_says_what_it_says() {
        let draft =
            parse(r#"{"payload":"é","topic":"a","headers":[["x","1"]],"ttl_ms":5,"delay_ms":6,"producer":"p","producer_sequence":7}"#).unwrap();
        assert_eq!(draft.topic, "a");
        assert_eq!(draft.payload, "é".as_bytes());
        assert_eq!(draft.key.as_deref(), Some("k"));
        assert_eq!(draft.headers, [("x".to_owned(), "1".to_owned())]);
        assert_eq!(draft.ttl_ms, Some(5));
        assert_eq!(draft.delay_ms, Some(6));
        assert_eq!(draft.producer.as_deref(), Some("p"));
        assert_eq!(draft.producer_sequence, Some(7));

        let draft = parse(r#"{"payload":{"b":1},"key":"other"}"#).unwrap();
        assert_eq!(draft.topic, "given");
        assert_eq!(draft.payload, br#"{"b":1}"#);
        assert_eq!(draft.content_type.as_deref(), Some("application/json"));
        assert_eq!(draft.key.as_deref(), Some("other"));

        assert_eq!(
            parse(r#"{"payload_base64":"/wA="}"#).unwrap().payload,
            [0xff, 0]
        );
    }

    #[test]
    fn a_wrong_line_is_told() {
        for (line, named) in [
            ("x", "not JSON"),
            ("[]", "not a JSON object"),
            ("{}", "no payload"),
            (r#"{"payload":"a","payload_base64":""}"#, "both"),
            (r#"{"payload_base64":"?"}"#, "base64"),
            (r#"{"payload":"a","topics":"b"}"#, "topics"),
            (r#"{"payload":"a","topic":1}"#, "topic"),
            (r#"{"payload":"a","topic":""}"#, "no topic"),
            (r#"{"payload":"a","ttl_ms":-1}"#, "ttl_ms"),
            (r#"{"payload":"a","delay_ms":"1s"}"#, "delay_ms"),
            (r#"{"payload":"a","deliver_at":1.5}"#, "deliver_at"),
            (r#"{"payload":"a","producer":1}"#, "producer"),
            (
                r#"{"payload":"a","producer_sequence":-1}"#,
                "producer_sequence",
            ),
            (r#"{"payload":"a","headers":{"a":"b"}}"#, "headers"),
        ] {
            let told = format!("{:#}", parse(line).unwrap_err());
            assert!(told.contains(named), "{line}: {told}");
        }
    }

    #[test]
    fn a_summary_names_each_place_once() {
        let mut receipts = Receipts::default();
        let place = |offset| Place {
            partition: 0,
            offset,
            sequence: offset + 1,
            duplicate: offset == 6,
            schedule_id: None,
            topic: (offset == 7).then_some("moved"),
        };
        for offset in [4, 5, 6, 7] {
            receipts.add("a", &place(offset));
        }
        assert_eq!(
            receipts.summary(1.0),
            "published 4 messages in 1.00 s (4/s), 1 of them duplicates\n  a partition 0: offsets 4 to 6\n  moved partition 0: offset 7"
        );
    }

    #[test]
    fn a_summary_names_what_waits() {
        let mut receipts = Receipts::default();
        let place = |schedule_id| Place {
            partition: 0,
            offset: 0,
            sequence: 0,
            duplicate: false,
            schedule_id: Some(schedule_id),
            topic: None,
        };
        receipts.add("a", &place(4));
        assert_eq!(
            receipts.summary(1.0),
            "published 1 message\n  it waits for its time: number 4"
        );
        receipts.add("a", &place(7));
        let told = receipts.summary(1.0);
        assert!(
            told.ends_with("\n  2 wait for their time: numbers 4 to 7"),
            "{told}"
        );
    }
}
