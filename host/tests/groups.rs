//! Consumer groups, requests, schedules and limits on the command line, against a real broker.

mod common;

use core::time::Duration;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::time::SystemTime;

use common::{Broker, Socket, complaint, dunlin, history, http, publish, run};
use serde_json::{Value, json};

/// Runs a verb on the namespace of the tests; what it printed, or its complaint.
fn say(broker: &Broker, arguments: &[&str]) -> Result<String, String> {
    let url = broker.url();
    let output = run(&[arguments, &["--namespace", "main", "--url", &url]].concat());
    let told = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap();
    match output.status.code() {
        Some(0) => Ok(told(&output)),
        code => {
            assert_eq!(code, Some(1), "{arguments:?}: {output:?}");
            Err(complaint(&output))
        }
    }
}

fn lines(text: &str) -> Vec<Value> {
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A topic whose queue deals out everything at once.
fn jobs(broker: &Broker, count: usize) {
    say(
        broker,
        &["topic", "configure", "jobs", "--ordering", "none"],
    )
    .unwrap();
    for index in 0..count {
        publish(broker, "jobs", &format!("job {index}"), &[]);
    }
}

fn group(broker: &Broker, name: &str) -> Value {
    let told = say(broker, &["group", "describe", name, "--format", "json"]).unwrap();
    lines(&told).remove(0)
}

/// A member that goes on printing until it is told to leave.
struct Listener(Child, BufReader<std::process::ChildStdout>);

impl Listener {
    fn start(broker: &Broker, arguments: &[&str]) -> Self {
        let mut child = dunlin()
            .arg("sub")
            .args(arguments)
            .args(["--namespace", "main", "--url", &broker.url()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self(child, out)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Sends what Ctrl-C does, and waits for the end.
    fn interrupt(mut self) {
        let sent = Command::new("kill")
            .args(["-INT", &self.0.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_group_is_configured_described_moved_and_deleted() {
    let broker = Broker::in_memory(&[]);
    jobs(&broker, 3);
    let told = say(
        &broker,
        &[
            "group",
            "configure",
            "workers",
            "--filter",
            "jobs",
            "--filter",
            "tasks/#",
            "--ack-deadline",
            "1m",
            "--max-delivery-attempts",
            "2",
            "--retry",
            "linear",
            "--retry-first",
            "500ms",
            "--retry-max",
            "1h",
            "--session",
            "20s",
        ],
    )
    .unwrap();
    for part in [
        "workers: queue, reads jobs, tasks/#, 3 not done, 0 dead letters",
        "a member has 1m for a message; 2 attempts, linear waits from 500ms to 1h",
        "silent for 20s is gone",
        "TOPIC  PARTITION  COMMITTED  END  LAG  MEMBER",
        "jobs   0          0          3    3    -",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let once = ["group", "configure", "once", "--max-delivery-attempts", "1"];
    let once = say(&broker, &once).unwrap();
    assert!(once.contains("for a message; 1 attempt\n"), "{once}");
    say(&broker, &["group", "delete", "once"]).unwrap();
    assert_eq!(
        say(&broker, &["group", "describe", "workers"]).unwrap(),
        told
    );
    assert_eq!(group(&broker, "workers")["session_ms"], 20_000);
    assert_eq!(say(&broker, &["group", "list"]).unwrap(), "workers\n");

    say(&broker, &["group", "reset", "workers", "--to", "latest"]).unwrap();
    assert_eq!(group(&broker, "workers")["partitions"][0]["lag"], 0);
    say(
        &broker,
        &[
            "group",
            "reset",
            "workers",
            "--to",
            "offset:1",
            "--topic",
            "jobs",
            "--partition",
            "0",
        ],
    )
    .unwrap();
    assert_eq!(group(&broker, "workers")["partitions"][0]["lag"], 2);
    say(&broker, &["group", "pause", "workers"]).unwrap();
    assert_eq!(group(&broker, "workers")["paused"], true);
    say(&broker, &["group", "resume", "workers"]).unwrap();
    assert_eq!(group(&broker, "workers")["paused"], false);
    for (arguments, code) in [
        (&["describe", "none"] as &[&str], "unknown_group: "),
        (&["pause", "none"], "unknown_group: "),
        (&["resume", "none"], "unknown_group: "),
        (&["delete", "none"], "unknown_group: "),
        (&["reset", "none", "--to", "latest"], "unknown_group: "),
        (
            &["reset", "workers", "--to", "middle"],
            "invalid_argument: ",
        ),
        (
            &["reset", "workers", "--to", "offset:9", "--topic", "jobs"],
            "offset_out_of_range: ",
        ),
        (
            &[
                "reset",
                "workers",
                "--to",
                "latest",
                "--topic",
                "jobs",
                "--partition",
                "7",
            ],
            "unknown_partition: ",
        ),
        (&["configure", "a/b"], "invalid_argument: "),
        (&["configure", "x", "--kind", "stack"], "invalid_argument: "),
        (
            &["configure", "x", "--retry", "never"],
            "invalid_argument: ",
        ),
        (&["configure", "x", "--filter", "a/#/b"], "invalid_filter: "),
        (
            &["configure", "x", "--session", "13h"],
            "invalid_argument: ",
        ),
        (
            &["configure", "workers", "--kind", "partitioned"],
            "conflicting_config: ",
        ),
    ] {
        let told = say(&broker, &[&["group"], arguments].concat()).unwrap_err();
        assert!(told.contains(code), "{arguments:?}: {told}");
    }
    say(&broker, &["group", "delete", "workers"]).unwrap();
    assert_eq!(say(&broker, &["group", "list"]).unwrap(), "");
}

#[test]
fn a_member_of_a_queue_is_done_with_exactly_as_many_as_it_was_asked_for() {
    let broker = Broker::in_memory(&[]);
    jobs(&broker, 10);
    for (count, first) in [("3", 0), ("1", 3), ("4", 4)] {
        let told = say(&broker, &["sub", "jobs", "--group", "g", "--count", count]).unwrap();
        let count: usize = count.parse().unwrap();
        let mut expected: Vec<_> = (first..first + count)
            .map(|index| format!("jobs 0@{index} job {index}"))
            .collect();
        let mut printed: Vec<_> = told.lines().collect();
        printed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(printed.len(), count, "{told}");
        if count == 1 {
            assert_eq!(printed, expected);
        }
        let described = group(&broker, "g");
        assert_eq!(
            described["partitions"][0]["lag"],
            10 - first - count,
            "{described}"
        );
        assert_eq!(described["members"], json!([]));
    }
}

#[test]
fn a_queue_is_printed_by_its_priorities() {
    let broker = Broker::in_memory(&[]);
    jobs(&broker, 1);
    say(&broker, &["pub", "jobs", "urgent", "--priority", "4"]).unwrap();
    let flags = ["--group", "g", "--count", "2", "--max-in-flight", "1"];
    let told = say(&broker, &[&["sub", "jobs"], &flags[..]].concat()).unwrap();
    assert_eq!(told, "jobs 0@1 urgent\njobs 0@0 job 0\n");
    let told = say(&broker, &["pub", "in-order", "x", "--priority", "1"]).unwrap_err();
    assert!(told.contains("invalid_argument: "), "{told}");
}

#[test]
fn a_member_that_leaves_gives_back_what_it_did_not_print() {
    let broker = Broker::in_memory(&[]);
    jobs(&broker, 1);
    let mut member = Listener::start(
        &broker,
        &[
            "jobs", "--group", "g", "--member", "one", "--format", "json",
        ],
    );
    let first: Value = serde_json::from_str(&member.line()).unwrap();
    assert_eq!(
        (&first["payload"], &first["attempt"]),
        (&json!("job 0"), &json!(1))
    );
    member.interrupt();
    let described = group(&broker, "g");
    assert_eq!(described["partitions"][0]["lag"], 0, "{described}");
    assert_eq!(
        described["members"].as_array().map(Vec::len),
        Some(0),
        "{described}"
    );
    publish(&broker, "jobs", "next", &[]);
    let told = say(&broker, &["sub", "jobs", "--group", "g", "--count", "1"]).unwrap();
    assert_eq!(told, "jobs 0@1 next\n");
}

#[test]
fn members_of_a_partitioned_group_commit_what_they_printed() {
    let broker = Broker::in_memory(&[]);
    let partitions = ["--ordering", "per_key", "--partitions", "4"];
    say(
        &broker,
        &[&["topic", "configure", "events"], &partitions[..]].concat(),
    )
    .unwrap();
    for index in 0..40 {
        publish(
            &broker,
            "events",
            &index.to_string(),
            &[("dunlin-key", &index.to_string())],
        );
    }
    let sub = [
        "sub", "events", "--group", "g", "--format", "json", "--count",
    ];
    let first = [&sub[..], &["15", "--kind", "partitioned"]].concat();
    let mut heard = lines(&say(&broker, &first).unwrap());
    assert_eq!(heard.len(), 15);
    let lag = |described: &Value| {
        let partitions = described["partitions"].as_array().unwrap().iter();
        partitions
            .map(|part| part["lag"].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(lag(&group(&broker, "g")), 25);
    // The kind of a group that exists need not be said.
    heard.extend(lines(&say(&broker, &[&sub[..], &["25"]].concat()).unwrap()));
    assert_eq!(lag(&group(&broker, "g")), 0);
    let mut payloads: Vec<u32> = heard
        .iter()
        .map(|delivery| delivery["payload"].as_str().unwrap().parse().unwrap())
        .collect();
    payloads.sort_unstable();
    assert_eq!(payloads, (0..40).collect::<Vec<_>>());
}

#[test]
fn two_members_share_partitions_while_they_come_and_go() {
    let broker = Broker::in_memory(&[]);
    let partitions = ["--ordering", "none", "--partitions", "2"];
    say(
        &broker,
        &[&["topic", "configure", "events"], &partitions[..]].concat(),
    )
    .unwrap();
    let join = |name: &'static str| {
        let flags = [
            "events",
            "--group",
            "g",
            "--kind",
            "partitioned",
            "--member",
            name,
        ];
        Listener::start(&broker, &flags)
    };
    let mut one = join("one");
    publish(&broker, "events", "first", &[]);
    assert!(one.line().ends_with("first"));
    let mut two = join("two");
    // Messages go round the partitions, so that each has one of two.
    loop {
        let described = group(&broker, "g");
        let owners = described["partitions"].as_array().unwrap().iter();
        let owners: Vec<_> = owners.map(|part| part["member"].clone()).collect();
        if owners.contains(&json!("one")) && owners.contains(&json!("two")) {
            break;
        }
    }
    for _ in 0..2 {
        publish(&broker, "events", "again", &[]);
    }
    assert!(one.line().ends_with("again"));
    assert!(two.line().ends_with("again"));
    one.interrupt();
    for _ in 0..2 {
        publish(&broker, "events", "last", &[]);
    }
    assert!(two.line().ends_with("last"));
    assert!(two.line().ends_with("last"));
    two.interrupt();
    let described = group(&broker, "g");
    for partition in described["partitions"].as_array().unwrap() {
        assert_eq!(partition["lag"], 0, "{described}");
    }
}

#[test]
fn a_member_that_may_not_join_is_told_why() {
    let broker = Broker::in_memory(&[]);
    jobs(&broker, 1);
    say(&broker, &["group", "configure", "g", "--filter", "jobs"]).unwrap();
    for (arguments, code) in [
        (
            &["jobs", "--group", "g", "--kind", "partitioned"] as &[&str],
            "conflicting_config: ",
        ),
        (&["jobs", "--group", "a/b"], "invalid_argument: "),
        (&["a/#/b", "--group", "g"], "invalid_filter: "),
        (
            &["jobs", "--group", "h", "--from", "sometime"],
            "invalid_argument: ",
        ),
        (
            &["jobs", "--group", "g", "--max-in-flight", "10001"],
            "invalid_argument: ",
        ),
        (
            &["jobs", "--group", "g", "--member", ""],
            "invalid_argument: ",
        ),
        (&["jobs", "other"], "--group"),
    ] {
        let told = say(&broker, &[&["sub"], arguments].concat()).unwrap_err();
        assert!(told.contains(code), "{arguments:?}: {told}");
    }
}

#[tokio::test]
async fn dead_letters_are_listed_replayed_and_deleted() {
    let broker = Broker::in_memory(&[]);
    jobs(&broker, 3);
    let mut member = Socket::hello(&broker).await;
    member
        .say(r#"{"type":"join","request":1,"subscription":1,"group":"g","filters":["jobs"]}"#)
        .await;
    for delivery in member.hear_all("delivery", 3).await {
        let leases = json!([{"lease": delivery["lease"]}]);
        let reject =
            json!({"type": "reject", "request": 2, "leases": leases, "reason": "bad\u{1b}"});
        member.say(&reject.to_string()).await;
    }
    member.hear_all("settled", 3).await;
    drop(member);
    let list = |more: &[&str]| say(&broker, &[&["dead-letters", "list", "g"], more].concat());
    let all = list(&[]).unwrap();
    assert_eq!(all.lines().count(), 3, "{all}");
    assert!(
        all.contains("rejected (bad\\u{1b}), attempts 1: job "),
        "{all}"
    );
    let some = lines(&list(&["--from", "1", "--count", "1", "--format", "json"]).unwrap());
    assert_eq!((some.len(), &some[0]["offset"]), (1, &json!(1)));
    assert_eq!(list(&["--filter", "else"]).unwrap(), "");
    assert_eq!(list(&["--reason", "max_delivery_attempts"]).unwrap(), "");

    let act = |arguments: &[&str]| say(&broker, &[&["dead-letters"], arguments].concat());
    assert_eq!(
        act(&["replay", "g", "--filter", "else"]).unwrap(),
        "replayed 0 dead letters\n"
    );
    assert_eq!(
        act(&["replay", "g", "--offsets", "0", "--rate", "5"]).unwrap(),
        "replayed 1 dead letter\n"
    );
    let told = say(&broker, &["sub", "jobs", "--group", "g", "--count", "1"]).unwrap();
    assert!(told.starts_with("jobs 0@"), "{told}");
    assert_eq!(
        act(&["delete", "g", "--reason", "rejected"]).unwrap(),
        "deleted 2 dead letters\n"
    );
    assert_eq!(
        act(&["delete", "g", "--all"]).unwrap(),
        "deleted 0 dead letters\n"
    );
    for (arguments, code) in [
        (&["list", "none"] as &[&str], "unknown_group: "),
        (&["replay", "none", "--all"], "unknown_group: "),
        (&["delete", "none", "--all"], "unknown_group: "),
        (
            &["replay", "g", "--offsets", "0,9"],
            "offset_out_of_range: ",
        ),
        (&["list", "g", "--filter", "a/#/b"], "invalid_filter: "),
    ] {
        let told = act(arguments).unwrap_err();
        assert!(told.contains(code), "{arguments:?}: {told}");
    }
}

#[test]
fn a_message_is_published_once_and_later() {
    let broker = Broker::in_memory(&[]);
    let publish = |more: &[&str]| say(&broker, &[&["pub", "t"], more].concat());
    publish(&["one", "--id", "first"]).unwrap();
    let told = publish(&["one", "--id", "first"]).unwrap();
    assert!(
        told.starts_with("published 1 message, 1 of them duplicates"),
        "{told}"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines");
    std::fs::write(&file, "two\nthree\n").unwrap();
    let file = file.to_str().unwrap();
    for _ in 0..2 {
        publish(&["--file", file, "--producer", "till", "--sequence", "7"]).unwrap();
    }
    assert_eq!(history(&broker, "t", ""), ["one", "two", "three"]);

    let told = publish(&["later", "--delay", "1h"]).unwrap();
    let (_, number) = told.trim().rsplit_once("number ").expect("it waits");
    let month = SystemTime::now() + Duration::from_secs(30 * 86_400);
    let month = humantime::format_rfc3339_millis(month).to_string();
    publish(&["much later", "--deliver-at", &month]).unwrap();
    std::fs::write(file, "{\"payload\":\"line\",\"delay_ms\":60000}").unwrap();
    publish(&["--file", file, "--json-lines"]).unwrap();
    let listed = say(&broker, &["scheduled", "list"]).unwrap();
    let rows: Vec<_> = listed.lines().collect();
    assert_eq!(rows.len(), 4, "{listed}");
    assert!(rows[3].contains(&format!("{month}  t")), "{listed}");
    let told = say(&broker, &["scheduled", "list", "t", "--format", "json"]).unwrap();
    assert_eq!(lines(&told).len(), 3);
    assert_eq!(say(&broker, &["scheduled", "list", "else"]).unwrap(), "");
    let cancel = || say(&broker, &["scheduled", "cancel", number]);
    assert_eq!(cancel().unwrap(), format!("cancelled {number}\n"));
    assert!(cancel().unwrap_err().contains("unknown_schedule: "));
    let told = publish(&["never", "--delay", "2years"]).unwrap_err();
    assert!(told.contains("invalid_argument: "), "{told}");
}

#[test]
fn limits_are_set_listed_and_removed() {
    let broker = Broker::in_memory(&[]);
    let limit = |arguments: &[&str]| say(&broker, &[&["limit"], arguments].concat());
    limit(&[
        "configure",
        "topic",
        "t",
        "--rate",
        "1",
        "--per",
        "1h",
        "--adaptive",
    ])
    .unwrap();
    let listed = limit(&["list"]).unwrap();
    assert!(
        listed.contains("topic  t     1 in 1h   1        100.0 %"),
        "{listed}"
    );
    assert_eq!(
        lines(&limit(&["list", "--format", "json"]).unwrap())[0]["per_ms"],
        3_600_000
    );
    say(&broker, &["pub", "t", "one"]).unwrap();
    for wait in [&[] as &[&str], &["--wait", "1s"]] {
        let told = say(&broker, &[&["pub", "t", "two"], wait].concat()).unwrap_err();
        assert!(told.contains("rate_limited: "), "{told}");
    }
    for told in [
        "no limit of its own any more",
        "there was no limit of its own",
    ] {
        let deleted = limit(&["delete", "topic", "t"]).unwrap();
        assert_eq!(deleted, format!("topic \"t\": {told}\n"));
    }
    assert_eq!(limit(&["list"]).unwrap(), "");
    say(&broker, &["pub", "t", "two"]).unwrap();
    for (arguments, code) in [
        (
            &["configure", "planet", "--rate", "1"] as &[&str],
            "invalid_argument: ",
        ),
        (&["configure", "user", "--rate", "0"], "invalid_argument: "),
        (&["configure", "topic", "a/#", "--rate", "1"], "invalid_"),
        (
            &["configure", "ip", "here", "--rate", "1"],
            "invalid_argument: ",
        ),
        (&["delete", "planet"], "invalid_argument: "),
    ] {
        let told = limit(arguments).unwrap_err();
        assert!(told.contains(code), "{arguments:?}: {told}");
    }
}

#[test]
fn rules_are_set_explained_listed_and_deleted() {
    let broker = Broker::in_memory(&[]);
    let rule = |arguments: &[&str]| say(&broker, &[&["rule"], arguments].concat());
    let configured = rule(&[
        "set",
        "big",
        "--filter",
        "orders/+",
        "--when",
        "json:/total above 1000",
        "--then",
        "set_header size very big",
        "--then",
        "copy audit/{1}",
    ]);
    assert_eq!(configured.unwrap(), "\"big\" holds from now on\n");
    assert_eq!(
        rule(&["list"]).unwrap(),
        "RULE  ORDER  VERSION  FILTER    WHEN                    THEN\n\
         big   0      1        orders/+  json:/total above 1000  set_header size very big; copy audit/{1}\n"
    );
    assert_eq!(
        rule(&[
            "explain",
            "orders/new",
            "{\"total\":1000.5}",
            "--header",
            "a=b"
        ])
        .unwrap(),
        "+ big on orders/new: sets the header \"size\" to \"very big\"\n\
         + big on orders/new: copies it to \"audit/new\"\n\
         published to orders/new a=b size=very big\n\
         published to audit/new a=b size=very big\n"
    );
    let told = rule(&[
        "explain",
        "orders/new",
        "{\"total\":1000}",
        "--format",
        "json",
    ])
    .unwrap();
    assert_eq!(lines(&told)[0]["steps"][0]["applied"], false);
    say(&broker, &["pub", "orders/new", "{\"total\":2000}"]).unwrap();
    let copied = say(&broker, &["topic", "list"]).unwrap();
    assert!(copied.contains("audit/new"), "{copied}");
    rule(&["configure", "big", "--enabled", "false"]).unwrap();
    let listed = rule(&["list", "--format", "json"]).unwrap();
    assert_eq!(lines(&listed)[0]["version"], 2);
    assert_eq!(
        rule(&["explain", "orders/new", "x"]).unwrap(),
        "published to orders/new\n"
    );
    rule(&["set", "none", "--filter", "#", "--then", "drop"]).unwrap();
    let told = rule(&["explain", "a", "x"]).unwrap();
    assert!(told.ends_with("\nnothing is published\n"), "{told}");
    let told = say(&broker, &["pub", "a", "x"]).unwrap_err();
    assert!(told.contains("dropped_by_rule: "), "{told}");
    assert_eq!(rule(&["delete", "none"]).unwrap(), "deleted \"none\"\n");
    assert!(
        rule(&["delete", "none"])
            .unwrap_err()
            .contains("unknown_rule: ")
    );
    for arguments in [
        &["set", "new", "--filter", "a"] as &[&str],
        &["set", "new", "--then", "drop"],
        &["set", "new", "--filter", "a", "--then", "explode"],
        &[
            "set",
            "new",
            "--filter",
            "a",
            "--when",
            "mood is good",
            "--then",
            "drop",
        ],
    ] {
        let told = rule(arguments).unwrap_err();
        assert!(told.contains("invalid_argument: "), "{arguments:?}: {told}");
    }
}

#[tokio::test]
async fn a_request_prints_its_answer() {
    let broker = Broker::in_memory(&[]);
    let url = broker.url();
    let told = say(&broker, &["request", "time", "?"]).unwrap_err();
    assert!(told.contains("no_responders: "), "{told}");
    let mut clock = Socket::hello(&broker).await;
    clock
        .say(r#"{"type":"subscribe","request":1,"subscription":1,"filter":"time"}"#)
        .await;
    clock.hear().await;
    for (format, expected) in [
        ("human", "12:00\\u{7}\n".to_owned()),
        (
            "json",
            "{\"payload\":\"12:00\\u0007\",\"content_type\":\"text/plain\"}\n".to_owned(),
        ),
    ] {
        let asking = dunlin()
            .args([
                "request", "time", "?", "--header", "zone=UTC", "--format", format,
            ])
            .args(["--namespace", "main", "--url", &url])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let delivery = clock.hear().await;
        assert_eq!(delivery["headers"], json!([["zone", "UTC"]]));
        let respond = json!({
            "type": "respond", "request": 2, "reply_to": delivery["reply_to"],
            "payload": "12:00\u{7}", "content_type": "text/plain",
        });
        clock.say(&respond.to_string()).await;
        clock.hear().await;
        let output = tokio::task::spawn_blocking(|| asking.wait_with_output());
        let output = output.await.unwrap().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
    let told = say(&broker, &["request", "time", "?", "--timeout", "20ms"]).unwrap_err();
    assert!(told.contains("timeout: "), "{told}");
    let told = say(&broker, &["request", "a/#", "?"]).unwrap_err();
    assert!(told.contains("invalid_topic: "), "{told}");
}

#[tokio::test]
async fn a_silent_member_is_ended_and_one_that_pings_is_not() {
    let broker = Broker::in_memory(&["--session", "1500ms"]);
    // This one says `ping` by itself.
    let mut alive = Listener::start(&broker, &["jobs", "--group", "g"]);
    publish(&broker, "jobs", "one", &[]);
    assert_eq!(alive.line(), "jobs 0@0 one");
    let mut silent = Socket::hello(&broker).await;
    silent
        .say(r#"{"type":"join","request":1,"subscription":1,"group":"g","filters":["jobs"]}"#)
        .await;
    assert_eq!(silent.hear().await["heartbeat_ms"], 500);
    let ended = silent.hear_all("ended", 1).await.remove(0);
    assert_eq!(ended["code"], "unknown_member", "{ended}");
    // The other one was there before, and would have been gone first.
    let group = http(&broker, "GET", "/v1/main/groups/g", &[], b"").json();
    assert_eq!(group["members"][0]["member"], "member-1", "{group}");
    alive.interrupt();
}
