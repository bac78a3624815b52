//! Namespaces as an operator makes, bounds, watches and deletes them, over HTTP and on the command line.

mod common;

use common::{Broker, Socket, complaint, http, run};
use serde_json::json;

const OPERATOR: &[(&str, &str)] = &[("authorization", "Bearer operator")];
const TENANT: &[(&str, &str)] = &[("authorization", "Bearer tenant")];

/// A server with several shards, whose namespaces an operator makes.
fn broker() -> Broker {
    Broker::in_memory(&[
        "--shards",
        "3",
        "--operator-token",
        "operator",
        "--token",
        "main=tenant",
    ])
}

#[tokio::test]
async fn an_operator_makes_bounds_and_deletes_a_namespace_over_http() {
    let broker = broker();
    let topic = "/v1/main/topics/a";
    let refused = http(&broker, "POST", topic, TENANT, b"x").refusal();
    assert_eq!(refused, (404, "unknown_namespace".to_owned()));
    let place = "/v1/namespaces/main";
    let unknown = http(&broker, "GET", place, OPERATOR, b"").refusal();
    assert_eq!(unknown, (404, "unknown_namespace".to_owned()));
    let made = http(
        &broker,
        "PUT",
        place,
        OPERATOR,
        br#"{"publish_rate":2,"connections_max":1}"#,
    );
    assert_eq!(made.status, 200, "{made:?}");
    assert_eq!(made.json()["publish_rate"], 2);
    assert_eq!(made.json()["bytes_rate"], 10 << 20);

    // One connection is all that the namespace may have, and HTTP has none of its own then.
    let mut socket = Socket::open(&broker, TENANT).await.unwrap();
    socket.say(r#"{"type":"hello","version":1}"#).await;
    assert_eq!(socket.hear().await["type"], "hello");
    let full = http(&broker, "POST", topic, TENANT, b"x");
    assert_eq!(full.refusal(), (429, "limit_reached".to_owned()));
    assert_eq!(full.header("retry-after"), Some("1"));
    let mut second = Socket::open(&broker, TENANT).await.unwrap();
    let told = second.hear().await;
    assert_eq!(told["code"], "limit_reached", "{told}");
    assert_eq!(told["retry_after_ms"], 1000, "{told}");
    let (code, reason) = second.closed().await;
    assert_eq!(code, 4008);
    assert!(reason.contains("connections_max"), "{reason}");

    let more = http(&broker, "PUT", place, OPERATOR, br#"{"connections_max":0}"#);
    assert_eq!(more.status, 200, "{more:?}");
    for _ in 0..2 {
        assert_eq!(http(&broker, "POST", topic, TENANT, b"x").status, 200);
    }
    let fast = http(&broker, "POST", topic, TENANT, b"x");
    assert_eq!(fast.refusal(), (429, "rate_limited".to_owned()));
    assert_eq!(fast.header("retry-after"), Some("1"));

    let used = http(&broker, "GET", "/v1/namespaces/main?days=1", OPERATOR, b"");
    assert_eq!(used.json()["usage"][0]["messages"], 2, "{used:?}");

    let deleted = http(&broker, "DELETE", place, OPERATOR, b"");
    assert_eq!(deleted.json(), json!({"ok": true}));
    let (code, reason) = socket.closed().await;
    assert_eq!(code, 4003);
    assert!(reason.starts_with("unknown_namespace: "), "{reason}");
    let gone = http(&broker, "GET", topic, TENANT, b"").refusal();
    assert_eq!(gone, (404, "unknown_namespace".to_owned()));
}

#[test]
fn the_namespaces_of_all_shards_are_listed_in_one() {
    let broker = broker();
    let names: Vec<String> = (0..12).map(|index| format!("n{index:02}")).collect();
    for name in &names {
        let place = format!("/v1/namespaces/{name}");
        assert_eq!(http(&broker, "PUT", &place, OPERATOR, b"").status, 200);
    }
    let list = |query: &str| {
        let target = format!("/v1/namespaces{query}");
        http(&broker, "GET", &target, OPERATOR, b"").json()
    };
    assert_eq!(list("")["namespaces"], json!(names));
    let (mut walked, mut after) = (Vec::new(), String::new());
    loop {
        let page = list(&format!("?limit=5&after={after}"));
        let names = page["namespaces"].as_array().unwrap();
        walked.extend(names.iter().map(|name| name.as_str().unwrap().to_owned()));
        after = walked.last().unwrap().clone();
        if page["more"] == false {
            break;
        }
        assert!(!names.is_empty() && names.len() <= 5, "{page}");
    }
    assert_eq!(walked, names);
}

#[test]
fn who_is_no_operator_is_refused() {
    let broker = broker();
    for (method, target, body) in [
        ("GET", "/v1/namespaces", &b""[..]),
        ("GET", "/v1/namespaces/other", b""),
        ("PUT", "/v1/namespaces/other", b"{}"),
        ("DELETE", "/v1/namespaces/other", b""),
    ] {
        for headers in [TENANT, &[]] {
            let refused = http(&broker, method, target, headers, body).refusal();
            assert_eq!(
                refused,
                (401, "unauthorised".to_owned()),
                "{method} {target}"
            );
        }
    }
    http(&broker, "PUT", "/v1/namespaces/main", OPERATOR, b"{}");
    for (method, expected) in [("PUT", 403), ("DELETE", 403), ("GET", 200)] {
        let answer = http(&broker, method, "/v1/namespaces/main", TENANT, b"");
        assert_eq!(answer.status, expected, "{method} {answer:?}");
    }
    for (body, part) in [
        (&b"{\"topics\":1}"[..], "unknown quota \"topics\""),
        (b"[1]", "must be a JSON object of quotas"),
        (b"{\"publish_rate\":100000001}", "must be at most 100000000"),
    ] {
        let answer = http(&broker, "PUT", "/v1/namespaces/main", OPERATOR, body);
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.body.replace('\\', "").contains(part), "{answer:?}");
    }
}

#[test]
fn the_command_line_does_what_an_operator_needs() {
    let broker = broker();
    let url = broker.url();
    let namespace = |arguments: &[&str]| {
        let flags = ["--url", &url, "--operator-token", "operator"];
        run(&[&["namespace"], arguments, &flags].concat())
    };
    let said = |arguments: &[&str]| {
        let output = namespace(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(said(&["list"]), "");
    let told = complaint(&namespace(&["set", "shop", "--max-topics", "3"]));
    assert!(told.contains("unknown_namespace"), "{told}");
    let made = said(&["create", "shop", "--publish-rate", "0"]);
    assert!(made.contains("messages a second        any"), "{made}");
    assert!(made.contains("topics              0    1000"), "{made}");
    let told = complaint(&namespace(&["create", "shop"]));
    assert!(told.contains("dunlin namespace set"), "{told}");
    let set = said(&["set", "shop", "--max-topics", "3"]);
    assert!(set.contains("topics              0    3"), "{set}");
    assert_eq!(said(&["list"]), "shop\n");
    let used = said(&["usage", "shop", "--format", "json"]);
    let used: serde_json::Value = serde_json::from_str(&used).unwrap();
    assert_eq!(used["topics_max"], 3);
    assert!(said(&["usage", "shop"]).starts_with("namespace \"shop\"\n"));
    assert_eq!(said(&["delete", "shop"]), "deleted \"shop\"\n");
    let told = complaint(&namespace(&["delete", "shop"]));
    assert!(told.contains("unknown_namespace"), "{told}");
    let stranger = run(&["namespace", "list", "--url", &url]);
    assert!(complaint(&stranger).contains("unauthorised"));
}

#[test]
fn a_deleted_namespace_is_gone_from_the_disk_and_over_a_kill() {
    let place = tempfile::tempdir().unwrap();
    let more = ["--shards", "2"];
    let broker = Broker::start(place.path(), &more);
    for name in ["gone", "stays"] {
        for index in 0..50 {
            let target = format!("/v1/{name}/topics/t{}", index % 7);
            let body = format!("{name} {index}").repeat(100);
            assert_eq!(
                http(&broker, "POST", &target, &[], body.as_bytes()).status,
                200
            );
        }
    }
    let deleted = http(&broker, "DELETE", "/v1/namespaces/gone", &[], b"");
    assert_eq!(deleted.status, 200, "{deleted:?}");
    // What was answered is durable.
    broker.kill();
    let doctor = run(&["doctor", place.path().to_str().unwrap()]);
    assert!(doctor.status.success(), "{doctor:?}");
    let told = String::from_utf8(doctor.stdout).unwrap();
    assert!(told.contains("stays") && !told.contains("gone"), "{told}");
    let broker = Broker::start(place.path(), &more);
    let names = http(&broker, "GET", "/v1/namespaces", &[], b"");
    assert_eq!(names.json()["namespaces"], json!(["stays"]));
    let read = http(
        &broker,
        "GET",
        "/v1/stays/topics/t1?from=earliest",
        &[],
        b"",
    );
    assert_eq!(read.lines().len(), 7, "{read:?}");
}
