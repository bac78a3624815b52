//! What a broker that stopped, or was stopped, still has when it comes back.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use common::{Broker, Socket, complaint, dunlin, history, http, publish, run};
use serde_json::Value;

#[test]
fn a_restart_keeps_everything_whatever_the_shards_and_the_engine() {
    let folder = tempfile::tempdir().unwrap();
    let mut texts = Vec::new();
    for (round, more) in [
        &["--shards", "1"] as &[&str],
        &["--shards", "3"],
        &["--shards", "2", "--engine", "native"],
        &[],
    ]
    .into_iter()
    .enumerate()
    {
        let broker = Broker::start(folder.path(), more);
        if round > 0 {
            assert_eq!(history(&broker, "t", ""), texts);
        }
        for namespace in ["a", "b", "c", "d"] {
            let target = format!("/v1/{namespace}/topics/t");
            let answer = http(&broker, "POST", &target, &[], b"x");
            assert_eq!(answer.json()["offset"], round, "{namespace}");
        }
        let text = format!("round {round}");
        assert_eq!(publish(&broker, "t", &text, &[])["offset"], round);
        texts.push(text);
        broker.stop();
    }
}

#[test]
fn a_killed_broker_has_every_message_with_a_receipt() {
    let folder = tempfile::tempdir().unwrap();
    let mut texts = Vec::new();
    for round in 0..3 {
        let broker = Broker::start(folder.path(), &[]);
        if round > 0 {
            assert_eq!(history(&broker, "t", ""), texts);
        }
        for index in 0..20 {
            let text = format!("{round}/{index}");
            let level = ["sync", "async"][index % 2];
            publish(&broker, "t", &text, &[("dunlin-durability", level)]);
            texts.push(text);
        }
        broker.kill();
    }
    let broker = Broker::start(folder.path(), &[]);
    assert_eq!(history(&broker, "t", ""), texts);
}

#[tokio::test]
async fn a_subscription_goes_on_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), &[]);
    let mut socket = Socket::hello(&broker).await;
    socket
        .say(r##"{"type":"subscribe","request":1,"subscription":1,"filter":"#"}"##)
        .await;
    let subscribed = socket.hear().await;
    publish(&broker, "t", "heard", &[("dunlin-durability", "sync")]);
    let delivery = socket.hear().await;
    assert_eq!(delivery["payload"], "heard");
    publish(&broker, "t", "missed", &[("dunlin-durability", "sync")]);
    broker.kill();

    let broker = Broker::start(folder.path(), &[]);
    publish(&broker, "t", "new", &[]);
    let mut socket = Socket::hello(&broker).await;
    let token = subscribed["token"].as_str().unwrap();
    let from = format!("resume:{token}:{}", delivery["sequence"]);
    socket
        .say(&format!(
            r##"{{"type":"subscribe","request":1,"subscription":1,"filter":"#","from":"{from}"}}"##
        ))
        .await;
    let heard = socket.hear_all("delivery", 2).await;
    let texts: Vec<_> = heard
        .iter()
        .map(|one| one["payload"].as_str().unwrap())
        .collect();
    assert_eq!(texts, ["missed", "new"]);
}

#[test]
fn a_subscriber_on_the_command_line_goes_on_after_its_last_message() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), &[]);
    let (address, url) = (broker.address.clone(), broker.url());
    let listen = |more: &[&str]| {
        let mut command = dunlin();
        command.args(["sub", "t", "--from", "earliest", "--url", &url]);
        command.args(more).stdout(Stdio::piped());
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    let publish = |text: &str| {
        let output = run(&["pub", "t", text, "--durability", "sync", "--url", &url]);
        assert!(output.status.success(), "{output:?}");
    };
    let (mut staying, mut leaving) = (listen(&["--count", "3"]), listen(&["--no-reconnect"]));
    let mut lines = BufReader::new(staying.stdout.take().unwrap()).lines();
    let mut last_lines = BufReader::new(leaving.stdout.take().unwrap()).lines();
    publish("1");
    assert_eq!(lines.next().unwrap().unwrap(), "t 0@0 1");
    assert_eq!(last_lines.next().unwrap().unwrap(), "t 0@0 1");
    broker.kill();
    assert!(!leaving.wait().unwrap().success());
    let _broker = Broker::start_at(&address, folder.path(), &[]);
    publish("2");
    publish("3");
    let rest: Vec<_> = lines.map(Result::unwrap).collect();
    assert_eq!(rest, ["t 0@1 2", "t 0@2 3"]);
    assert!(staying.wait().unwrap().success());
}

#[test]
fn lines_are_published_and_printed_by_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), &[]);
    let url = broker.url();
    let publish = |arguments: &[&str], input: &str| {
        let mut child = dunlin()
            .args(["pub", "--url", &url])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    };
    let subscribe = |arguments: &[&str]| {
        let output = dunlin()
            .args(["sub", "--url", &url])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };

    let output = publish(&["lines", "--batch", "7"], &"line\n".repeat(100));
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.starts_with("published 100 messages"), "{told}");
    assert!(
        told.contains("lines partition 0: offsets 0 to 99"),
        "{told}"
    );

    let output = publish(
        &["lines", "the payload", "--key", "k", "--durability", "sync"],
        "",
    );
    assert!(output.status.success(), "{output:?}");

    let input = fs::canonicalize(folder.path())
        .unwrap()
        .join("input.ndjson");
    fs::write(
        &input,
        "{\"payload\":\"a\",\"key\":\"x\"}\n\n{\"payload\":{\"b\":2},\"topic\":\"other\"}\n",
    )
    .unwrap();
    let file = input.to_str().unwrap();
    let output = publish(&["events", "--json-lines", "--file", file], "");
    assert!(output.status.success(), "{output:?}");

    let human = subscribe(&["lines", "--from", "offset:99", "--count", "2"]);
    assert_eq!(human, "lines 0@99 line\nlines 0@100 [k] the payload\n");
    let json = subscribe(&[
        "+", "--from", "earliest", "--count", "103", "--format", "json",
    ]);
    let lines: Vec<Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 103);
    assert_eq!(lines[101]["topic"], "events");
    assert_eq!(lines[101]["key"], "x");
    assert_eq!(lines[102]["payload"], r#"{"b":2}"#);
    assert_eq!(lines[102]["content_type"], "application/json");

    for (arguments, input, named) in [
        (&["a/+"] as &[&str], "x\n", "invalid_topic"),
        (
            &["a", "--json-lines"],
            "{\"payload\":\"fine\"}\n{\"payload\":}\n",
            "line 2",
        ),
        (&["--json-lines"], "{\"payload\":\"x\"}\n", "names no topic"),
    ] {
        let told = complaint(&publish(arguments, input));
        assert!(told.contains(named), "{arguments:?}: {told}");
    }
    for (filter, from, named) in [
        ("a/#/b", "latest", "invalid_filter"),
        ("a", "yesterday", "invalid_argument"),
    ] {
        let output = dunlin()
            .args(["sub", filter, "--from", from, "--url", &url])
            .output()
            .unwrap();
        let told = complaint(&output);
        assert!(told.contains(named), "{told}");
    }
}
