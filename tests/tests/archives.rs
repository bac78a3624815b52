//! The archives that earlier versions wrote: each loads for ever, and gives what the file beside it says.

#[path = "../../core/tests/host/mod.rs"]
mod host;

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use host::Host;

/// How many bytes are given at once.
const PART_BYTES: usize = 4096;

/// A day in 2096, after which nothing may have vanished that was kept in 2026.
const LATER: u64 = 4_000_000_000_000;

/// The archives, each with what a client reads of it: topics, each with its messages behind it.
fn kept() -> Vec<(PathBuf, Vec<u8>, Vec<Value>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("archives");
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "dunlin"))
        .collect();
    paths.sort();
    let read = paths.into_iter().map(|path| {
        let lines = fs::read_to_string(path.with_extension("ndjson")).unwrap();
        let lines = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        (path.clone(), fs::read(&path).unwrap(), lines.collect())
    });
    read.collect()
}

fn fresh() -> Host {
    let mut host = Host::new("{}");
    host.now = LATER;
    host.connect(1, "kept");
    host
}

fn ask(host: &mut Host, command: &Value) -> Value {
    host.heard(1);
    host.send(1, &command.to_string());
    let answer = host.heard(1).pop().expect("a command is answered");
    serde_json::from_str(&answer).unwrap()
}

/// The answer to the last part, or the first refusal.
fn import(host: &mut Host, archive: &[u8]) -> Value {
    let parts: Vec<&[u8]> = archive.chunks(PART_BYTES).collect();
    let mut answer = json!({"import": 0});
    for (part, bytes) in parts.iter().enumerate() {
        let command = json!({
            "type": "import", "request": 1, "import": answer["import"], "part": part,
            "last": part + 1 == parts.len(), "bytes_base64": BASE64_STANDARD.encode(bytes),
        });
        answer = ask(host, &command);
        if answer["type"] != "imported" {
            break;
        }
    }
    answer
}

/// All that a client can read.
fn survey(host: &mut Host) -> Vec<Value> {
    let mut lines = Vec::new();
    let topics = ask(host, &json!({"type": "list_topics", "request": 1}));
    for topic in topics["topics"].as_array().unwrap() {
        let told = ask(
            host,
            &json!({"type": "describe_topic", "request": 1, "topic": topic}),
        );
        let partitions = told["partitions"].as_array().unwrap();
        let extents = partitions
            .iter()
            .map(|partition| json!([partition["log_start_offset"], partition["log_end_offset"]]));
        // Of a live topic nothing is kept, and each start of a broker begins at a higher offset.
        let is_kept = told["kind"] != "live";
        let extents = if is_kept {
            extents.collect()
        } else {
            json!(partitions.len())
        };
        lines.push(json!({
            "topic": topic, "kind": told["kind"], "ordering": told["ordering"],
            "durability": told["durability"], "maxMessages": told["max_messages"],
            "maxBytes": told["max_bytes"], "maxAgeMs": told["max_age_ms"], "partitions": extents,
        }));
        let read = if is_kept { partitions.len() } else { 0 };
        for partition in 0..read {
            history(host, topic, partition, &mut lines);
        }
    }
    lines
}

fn history(host: &mut Host, topic: &Value, partition: usize, lines: &mut Vec<Value>) {
    let mut from = json!("earliest");
    loop {
        let page = ask(
            host,
            &json!({"type": "read", "request": 1, "topic": topic, "partition": partition, "from": from}),
        );
        for record in page["records"].as_array().unwrap() {
            lines.push(line(topic, partition, record));
        }
        if page["next_offset"].as_u64() >= page["log_end_offset"].as_u64() {
            return;
        }
        from = json!(format!("offset:{}", page["next_offset"]));
    }
}

/// A record of a page as a line of the file.
fn line(topic: &Value, partition: usize, record: &Value) -> Value {
    let payload = match record["payload"].as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => BASE64_STANDARD
            .decode(record["payload_base64"].as_str().unwrap())
            .unwrap(),
    };
    let payload: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut line = Map::new();
    line.insert("topic".to_owned(), topic.clone());
    line.insert("partition".to_owned(), json!(partition));
    line.insert("payload".to_owned(), json!(payload));
    line.insert("headers".to_owned(), json!([]));
    for (theirs, ours) in [
        ("offset", "offset"),
        ("sequence", "sequence"),
        ("timestamp", "timestamp"),
        ("key", "key"),
        ("content_type", "contentType"),
        ("headers", "headers"),
        ("id", "id"),
        ("expires_at", "expiresAt"),
    ] {
        if let Some(value) = record.get(theirs) {
            line.insert(ours.to_owned(), value.clone());
        }
    }
    Value::Object(line)
}

#[test]
fn an_archive_of_every_version_loads_and_gives_what_was_in_it() {
    let kept = kept();
    assert!(!kept.is_empty(), "archives are kept");
    for (path, archive, expected) in kept {
        let mut host = fresh();
        let answer = import(&mut host, &archive);
        assert_eq!(answer["type"], "imported", "{}: {answer}", path.display());
        assert!(expected.len() > 100, "{}: it has content", path.display());
        for restarts in [false, true] {
            if restarts {
                host.restart("{}");
                host.connect(1, "kept");
            }
            let read = survey(&mut host);
            assert_eq!(read.len(), expected.len(), "{}", path.display());
            for (read, expected) in read.iter().zip(&expected) {
                assert_eq!(read, expected, "{}", path.display());
            }
        }
        let highest = expected.iter().filter_map(|line| line["sequence"].as_u64());
        let highest = highest.max().unwrap();
        let publish = json!({"type": "publish", "request": 1, "topic": "news", "payload": "more"});
        let receipt = ask(&mut host, &publish);
        assert!(receipt["sequence"].as_u64().unwrap() > highest, "{receipt}");
    }
}

#[test]
fn an_archive_of_any_version_that_is_cut_off_or_flipped_is_refused_with_the_place() {
    for (path, archive, expected) in kept() {
        let mut host = fresh();
        for length in (1..archive.len()).step_by(131).chain([archive.len() - 1]) {
            let answer = import(&mut host, &archive[..length]);
            let told = answer["message"].as_str().unwrap_or_default();
            assert_eq!(answer["code"], "invalid_archive", "{length}: {answer}");
            assert!(
                told.contains(&format!("cut off at byte {length}:")),
                "{told}"
            );
        }
        for at in (0..archive.len()).step_by(113) {
            let mut flipped = archive.clone();
            flipped[at] ^= 1 << (at % 8);
            let answer = import(&mut host, &flipped);
            let told = answer["message"].as_str().unwrap_or_default();
            assert_eq!(answer["code"], "invalid_archive", "{at}: {answer}");
            let place = told
                .split("at byte ")
                .nth(1)
                .and_then(|rest| rest.split(':').next()?.parse::<usize>().ok());
            // A block is named by its beginning. A length that grew makes the archive end too early.
            let is_named = place.is_some_and(|place| place <= at || place == archive.len());
            assert!(is_named || at < 8, "{at}: {told}");
        }
        // None of it has left anything behind.
        let answer = import(&mut host, &archive);
        assert_eq!(answer["type"], "imported", "{}: {answer}", path.display());
        assert_eq!(survey(&mut host).len(), expected.len());
    }
}
