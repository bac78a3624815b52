//! Every flag that can be wrong, given wrong: the program says what, which, and what to do.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::Stdio;

use common::{Broker, complaint, dunlin, run};

#[test]
fn wrong_usage_is_told_with_exit_code_2() {
    for (arguments, named) in [
        (&["nonsense"] as &[&str], "nonsense"),
        (&["serve", "--prot", "1"], "--prot"),
        (&["serve", "extra"], "extra"),
        (&["serve", "--listen", "8787"], "--listen"),
        (&["serve", "--listen", "localhost:70000"], "--listen"),
        (&["serve", "--listen", "127.0.0.1:-1"], "--listen"),
        (&["serve", "--shards", "0"], "--shards"),
        (&["serve", "--shards", "-1"], "-1"),
        (&["serve", "--shards=-1"], "--shards"),
        (&["serve", "--shards", "257"], "--shards"),
        (&["serve", "--shards", "99999999999999999999"], "--shards"),
        (&["serve", "--shards", "two"], "--shards"),
        (&["serve", "--engine", "v8"], "--engine"),
        (&["serve", "--store", "sqlite"], "--store"),
        (&["serve", "--data"], "--data"),
        (&["serve", "--shards", "1", "--shards", "2"], "--shards"),
        (&["pub"], "TOPIC"),
        (&["pub", "a", "b", "--file", "c"], "--file"),
        (&["pub", "a", "b", "--json-lines"], "--json-lines"),
        (&["pub", "a", "--batch", "0"], "--batch"),
        (&["pub", "a", "--batch", "10001"], "--batch"),
        (&["pub", "a", "--batch=-5"], "--batch"),
        (&["pub", "a", "--durability", "always"], "--durability"),
        (&["sub"], "FILTER"),
        (&["sub", "#", "--count", "0"], "--count"),
        (&["sub", "#", "--count=-1"], "--count"),
        (&["sub", "#", "--format", "xml"], "--format"),
        (&["sub", "#", "--on-lag", "wait"], "--on-lag"),
        (&["topic"], "Usage"),
        (&["topic", "remove", "a"], "remove"),
        (&["topic", "describe"], "TOPIC"),
        (&["topic", "delete"], "TOPIC"),
        (
            &["topic", "configure", "a", "--partitions=-1"],
            "--partitions",
        ),
        (
            &["topic", "configure", "a", "--partitions", "4294967296"],
            "--partitions",
        ),
        (
            &["topic", "configure", "a", "--max-age-ms", "1h"],
            "--max-age-ms",
        ),
        (
            &[
                "topic",
                "configure",
                "a",
                "--max-bytes",
                "18446744073709551616",
            ],
            "--max-bytes",
        ),
        (&["topic", "list", "a", "b"], "'b'"),
        (&["serve", "--session", "10"], "--session"),
        (&["pub", "a", "b", "--device", "phone"], "--user"),
        (&["pub", "a", "b", "--delay", "soon"], "--delay"),
        (&["pub", "a", "b", "--deliver-at", "noon"], "--deliver-at"),
        (
            &["pub", "a", "b", "--delay", "1s", "--deliver-at", "1"],
            "--deliver-at",
        ),
        (&["pub", "a", "b", "--wait", "1"], "--wait"),
        (&["pub", "a", "b", "--priority", "5"], "--priority"),
        (&["pub", "a", "--id", "x"], "PAYLOAD"),
        (&["pub", "a", "b", "--producer", "p"], "--sequence"),
        (&["pub", "a", "b", "--sequence", "1"], "--producer"),
        (&["sub", "a", "--kind", "queue"], "--group"),
        (&["sub", "a", "--member", "m"], "--group"),
        (&["sub", "a", "--max-in-flight", "1"], "--group"),
        (
            &["sub", "a", "--group", "g", "--max-in-flight", "0"],
            "--max-in-flight",
        ),
        (&["sub", "a", "--group", "g", "--kind", "stack"], "--kind"),
        (
            &["sub", "a", "--group", "g", "--on-lag", "close"],
            "--on-lag",
        ),
        (&["group"], "Usage"),
        (&["group", "remove", "g"], "remove"),
        (&["group", "describe"], "GROUP"),
        (
            &["group", "configure", "g", "--ack-deadline", "30"],
            "--ack-deadline",
        ),
        (&["group", "reset", "g"], "--to"),
        (
            &["group", "reset", "g", "--to", "latest", "--partition", "1"],
            "--topic",
        ),
        (&["dead-letters", "list"], "GROUP"),
        (&["dead-letters", "list", "g", "--count", "0"], "--count"),
        (&["dead-letters", "replay", "g"], "--offsets"),
        (&["dead-letters", "delete", "g"], "--offsets"),
        (
            &["dead-letters", "delete", "g", "--offsets", "1;2"],
            "--offsets",
        ),
        (
            &["dead-letters", "delete", "g", "--all", "--filter", "a"],
            "--filter",
        ),
        (
            &["dead-letters", "replay", "g", "--all", "--rate", "0"],
            "--rate",
        ),
        (&["scheduled", "cancel"], "NUMBER"),
        (&["scheduled", "cancel", "first"], "NUMBER"),
        (&["limit", "configure", "user"], "--rate"),
        (
            &["limit", "configure", "user", "--rate", "1", "--per", "1"],
            "--per",
        ),
        (&["limit", "delete"], "SCOPE"),
        (&["rule", "configure"], "RULE"),
        (&["rule", "configure", "r", "--when", "key"], "--when"),
        (
            &["rule", "configure", "r", "--then", "set_header x"],
            "--then",
        ),
        (&["rule", "configure", "r", "--order", "-1"], "-1"),
        (&["rule", "explain", "a"], "PAYLOAD"),
        (&["request", "a"], "PAYLOAD"),
        (&["request", "a", "b", "--timeout", "5"], "--timeout"),
        (&["request", "a", "b", "--header", "x"], "--header"),
        (&["bench", "sleep"], "sleep"),
        (&["bench", "--size", "7"], "--size"),
        (&["bench", "queue", "--members", "0"], "--members"),
        (&["bench", "--messages", "0"], "--messages"),
        (&["bench", "--durability", "most"], "--durability"),
        (&["bench", "--url", "http://a", "--shards", "2"], "--shards"),
    ] {
        let output = run(arguments);
        let told = complaint(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(told.contains(named), "{arguments:?}: {told}");
    }
}

/// Starts a server that must not start. One that does is not waited for.
fn refused(arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut command = dunlin();
    command.arg("serve");
    if !arguments.contains(&"--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    if !arguments.contains(&"--data") {
        command.arg("--data").arg(folder.path());
    }
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    let out = child.stdout.take().unwrap();
    BufReader::new(out).read_line(&mut line).unwrap();
    if !line.is_empty() {
        child.kill().unwrap();
        panic!("{arguments:?}: it started: {line}");
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    complaint(&output)
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let plain = file("plain", "");
    let inside = format!("{plain}/data");
    let filled = folder.path().to_str().unwrap();
    let text = file("config.txt", "payload_bytes_max = 5");
    let list = file("list.json", "[]");
    let unknown = file("unknown.json", r#"{"payload_bytes_maximum": 5}"#);
    let negative = file("negative.json", r#"{"payload_bytes_max": -1}"#);
    let huge = file("huge.json", r#"{"payload_bytes_max": 1e30}"#);
    for (arguments, named) in [
        (&["--data", inside.as_str()] as &[&str], "cannot be created"),
        (&["--data", "/proc/dunlin"], "cannot be created"),
        (&["--data", "/sys"], "cannot be written"),
        (&["--data", filled], "is not dunlin's"),
        (&["--config", "/nonexistent.json"], "/nonexistent.json"),
        (&["--config", &text], "configuration"),
        (&["--config", &list], "configuration"),
        (&["--config", &unknown], "payload_bytes_maximum"),
        (&["--config", &negative], "payload_bytes_max"),
        (&["--config", &huge], "payload_bytes_max"),
        (&["--console", "/nonexistent"], "--console /nonexistent"),
        (&["--token", "main"], "NAMESPACE=TOKEN"),
        (
            &["--allow-origin", "example.com"],
            "--allow-origin example.com",
        ),
    ] {
        let told = refused(arguments);
        assert!(told.contains(named), "{arguments:?}: {told}");
    }
}

#[test]
fn other_machines_need_a_token() {
    let told = refused(&["--listen", "0.0.0.0:0", "--store", "memory"]);
    assert!(told.contains("--token NAMESPACE=TOKEN"), "{told}");
}

#[test]
fn a_port_in_use_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let told = refused(&["--listen", &address, "--store", "memory"]);
    assert!(
        told.contains(&format!("cannot listen on {address}")),
        "{told}"
    );
    assert!(told.contains("--listen"), "{told}");
}

#[test]
fn a_data_directory_of_a_newer_version_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("FORMAT"), "3\n").unwrap();
    let told = refused(&["--data", folder.path().to_str().unwrap()]);
    assert!(told.contains("version 3"), "{told}");
    assert!(!folder.path().join("rows").exists());
}

#[test]
fn a_data_directory_has_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), &[]);
    let told = refused(&["--data", folder.path().to_str().unwrap()]);
    assert!(told.contains(&format!("pid {}", broker.pid())), "{told}");
    broker.stop();
}

#[test]
fn a_client_without_a_broker_says_so() {
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    for arguments in [
        &["pub", "a", "b", "--url", &nobody] as &[&str],
        &["sub", "a", "--url", &nobody],
        &["sub", "a", "--group", "g", "--url", &nobody],
        &["topic", "list", "--url", &nobody],
        &["group", "list", "--url", &nobody],
        &["dead-letters", "list", "g", "--url", &nobody],
        &["scheduled", "list", "--url", &nobody],
        &["limit", "list", "--url", &nobody],
        &["rule", "list", "--url", &nobody],
        &["request", "a", "b", "--url", &nobody],
        &["bench", "publish", "--url", &nobody],
    ] {
        let told = complaint(&run(arguments));
        assert!(told.contains("dunlin serve"), "{arguments:?}: {told}");
    }
    for url in ["https://a", "a:1", "http://a/b", "http://a b"] {
        let told = complaint(&run(&["sub", "a", "--url", url]));
        assert!(told.contains(&format!("--url {url}")), "{told}");
    }
    let told = complaint(&run(&["pub", "a", "--file", "/nonexistent"]));
    assert!(told.contains("--file /nonexistent"), "{told}");
}

#[test]
fn a_payload_over_the_bound_is_told() {
    let broker = Broker::in_memory(&[]);
    let folder = tempfile::tempdir().unwrap();
    let url = broker.url();
    let publish = |size: usize| {
        let file = folder.path().join(size.to_string());
        fs::write(&file, vec![b'x'; size]).unwrap();
        let file = file.to_str().unwrap();
        run(&["pub", "t", "--file", file, "--url", &url])
    };
    for over in [1, 1024 * 1024] {
        let told = complaint(&publish(1024 * 1024 + over));
        assert!(told.contains("too_large: "), "{told}");
    }
    let taken = publish(1024 * 1024);
    assert!(taken.status.success(), "{taken:?}");
}

#[test]
fn a_bench_of_queues_tells_what_it_measured_and_leaves_nothing() {
    let broker = Broker::in_memory(&[]);
    let bench = |messages: &str| {
        let url = broker.url();
        let options = [
            "--members",
            "2",
            "--messages",
            messages,
            "--durability",
            "none",
        ];
        run(&[&["bench", "queue", "--url", &url], &options[..]].concat())
    };
    let output = bench("60");
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    let line = told.lines().find_map(|line| line.strip_prefix("queue: "));
    let line = line.unwrap_or_else(|| panic!("{told}"));
    let (rate, rest) = line.split_once(' ').unwrap();
    assert!(rate.parse::<u64>().unwrap() > 0, "{told}");
    assert!(
        rest.starts_with("messages/s worked off by 2 members at level none"),
        "{told}"
    );
    for list in ["topic", "group"] {
        let left = run(&[list, "list", "--namespace", "bench", "--url", &broker.url()]);
        assert_eq!(String::from_utf8(left.stdout).unwrap(), "", "{list}");
    }
    let told = complaint(&bench("5"));
    assert!(told.contains("raise --messages"), "{told}");
}

#[test]
fn topics_are_configured_described_listed_and_deleted() {
    let broker = Broker::in_memory(&[]);
    let url = broker.url();
    let topic = |arguments: &[&str]| {
        let output = run(&[&["topic"], arguments, &["--url", &url]].concat());
        let told = String::from_utf8(output.stdout.clone()).unwrap();
        output
            .status
            .success()
            .then_some(told)
            .ok_or_else(|| complaint(&output))
    };
    let configured = topic(&[
        "configure",
        "orders",
        "--ordering",
        "per_key",
        "--partitions",
        "2",
        "--max-messages",
        "5",
        "--max-age-ms",
        "0",
    ])
    .unwrap();
    for line in [
        "orders: kind log, ordering per_key, durability ",
        "each partition keeps at most 5 messages, 1073741824 bytes\n",
        "partition 1: offsets 0 to 0, 0 messages, 0 bytes",
    ] {
        assert!(configured.contains(line), "{line}: {configured}");
    }
    assert_eq!(topic(&["describe", "orders"]).unwrap(), configured);
    let bounds = ["--max-messages", "--max-bytes", "--max-age-ms"];
    let unbounded = bounds.iter().flat_map(|bound| [*bound, "0"]);
    let unbounded: Vec<&str> = ["configure", "all"].into_iter().chain(unbounded).collect();
    let unbounded = topic(&unbounded).unwrap();
    assert!(
        unbounded.contains("each partition keeps everything\n"),
        "{unbounded}"
    );
    topic(&["delete", "all"]).unwrap();
    topic(&["configure", "a/b"]).unwrap();
    assert_eq!(topic(&["list"]).unwrap(), "a/b\norders\n");
    assert_eq!(topic(&["list", "a/+"]).unwrap(), "a/b\n");
    assert_eq!(topic(&["delete", "a/b"]).unwrap(), "deleted \"a/b\"\n");
    assert_eq!(topic(&["list"]).unwrap(), "orders\n");
    for (arguments, code) in [
        (&["describe", "a/b"] as &[&str], "unknown_topic: "),
        (&["delete", "a/b"], "unknown_topic: "),
        (&["describe", "a/#"], "unknown_topic: "),
        (&["list", "a/#/b"], "invalid_filter: "),
        (&["configure", ""], "invalid_topic: "),
        (&["configure", "x", "--kind", "queue"], "invalid_argument: "),
        (
            &["configure", "x", "--durability", "most"],
            "invalid_argument: ",
        ),
        (
            &["configure", "orders", "--partitions", "3"],
            "conflicting_config: ",
        ),
        (
            &["configure", "x", "--partitions", "0"],
            "conflicting_config: ",
        ),
    ] {
        let told = topic(arguments).unwrap_err();
        assert!(told.contains(code), "{arguments:?}: {told}");
    }
}

#[test]
fn a_token_from_the_environment_opens_the_broker_or_is_refused() {
    let broker = Broker::in_memory(&["--token", "main=secret"]);
    let publish = |token: &str| {
        dunlin()
            .args(["pub", "t", "x", "--namespace", "main", "--url"])
            .arg(broker.url())
            .env("DUNLIN_TOKEN", token)
            .output()
            .unwrap()
    };
    for (token, named) in [
        ("wrong", "unauthorised"),
        ("", "unauthorised"),
        ("line\nbreak", "DUNLIN_TOKEN"),
    ] {
        let told = complaint(&publish(token));
        assert!(told.contains(named), "{token:?}: {told}");
        assert!(
            token.is_empty() || !told.contains(token),
            "a secret is never shown: {told}"
        );
    }
    let taken = publish("secret");
    assert!(taken.status.success(), "{taken:?}");
}

#[test]
fn the_console_is_told_beside_the_address() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("index.html"), "<p>").unwrap();
    let mut child = dunlin()
        .args(["serve", "--store", "memory", "--engine", "native"])
        .args(["--listen", "127.0.0.1:0", "--console"])
        .arg(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = child.stdout.take().unwrap();
    let lines: Vec<_> = BufReader::new(out).lines().take(2).flatten().collect();
    child.kill().unwrap();
    child.wait().unwrap();
    let url = lines[0].strip_prefix("dunlin listens on ");
    assert_eq!(lines[1].strip_prefix("console: "), url, "{lines:?}");
    assert!(url.is_some_and(|url| url.starts_with("http://")));
}
