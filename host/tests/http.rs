//! The HTTP interface as `curl` sees it.

mod common;

use std::io::BufRead as _;
use std::sync::Arc;

use common::{Answer, Broker, Socket, history, http, publish, read_headers, stream};
use serde_json::json;

fn get(broker: &Broker, target: &str) -> Answer {
    http(broker, "GET", target, &[], b"")
}

#[test]
fn a_message_is_published_and_read_back() {
    let broker = Broker::in_memory(&[]);
    let receipt = publish(
        &broker,
        "a/b%20c",
        "one",
        &[
            ("content-type", "text/plain"),
            ("dunlin-key", "k"),
            ("dunlin-header-trace", "7"),
        ],
    );
    assert_eq!(
        receipt,
        json!({"topic": "a/b c", "partition": 0, "offset": 0, "sequence": receipt["sequence"], "duplicate": false})
    );
    publish(&broker, "a/b%20c", "two", &[]);

    let answer = get(&broker, "/v1/main/topics/a/b%20c?from=earliest");
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(answer.header("dunlin-next-offset"), Some("2"));
    assert_eq!(answer.header("dunlin-log-start-offset"), Some("0"));
    assert_eq!(answer.header("dunlin-log-end-offset"), Some("2"));
    let records = answer.lines();
    assert_eq!(records.len(), 2);
    for (member, expected) in [
        ("offset", json!(0)),
        ("payload", json!("one")),
        ("key", json!("k")),
        ("content_type", json!("text/plain")),
        ("headers", json!([["trace", "7"]])),
    ] {
        assert_eq!(records[0][member], expected, "{}", records[0]);
    }
    assert_eq!(history(&broker, "a/b%20c", "from=offset:1"), ["two"]);
    assert_eq!(history(&broker, "a/b%20c", "from=last:1"), ["two"]);
    assert_eq!(history(&broker, "a/b%20c", "limit=1"), ["one"]);
}

#[test]
fn wrong_requests_are_refused_with_their_code() {
    let broker = Broker::in_memory(&[]);
    publish(&broker, "t", "x", &[]);
    let long = format!("/v1/main/topics/{}", "n".repeat(1025));
    let deep = format!("/v1/main/topics/{}", vec!["n"; 65].join("/"));
    let bad = "invalid_argument";
    for (method, target, expected) in [
        ("GET", "/v1/main/topics/t?limit=-1", (400, bad)),
        ("GET", "/v1/main/topics/t?limit=0", (400, bad)),
        (
            "GET",
            "/v1/main/topics/t?limit=99999999999999999999",
            (400, bad),
        ),
        ("GET", "/v1/main/topics/t?partition=x", (400, bad)),
        ("GET", "/v1/main/topics/t?partition=4294967296", (400, bad)),
        (
            "GET",
            "/v1/main/topics/t?partition=9",
            (404, "unknown_partition"),
        ),
        ("GET", "/v1/main/topics/t?since=5", (400, bad)),
        ("GET", "/v1/main/topics/t?from=yesterday", (400, bad)),
        ("GET", "/v1/main/topics/t?from=offset:-1", (400, bad)),
        (
            "GET",
            "/v1/main/topics/t?from=offset:99",
            (416, "offset_out_of_range"),
        ),
        ("GET", "/v1/main/topics/unknown", (404, "unknown_topic")),
        ("POST", "/v1/main/topics/a/%2B", (400, "invalid_topic")),
        ("POST", "/v1/main/topics/a/%23/b", (400, "invalid_topic")),
        ("POST", "/v1/main/topics/a%00", (400, "invalid_topic")),
        ("POST", "/v1/main/topics/a%ff", (400, "malformed_request")),
        ("POST", "/v1/main/topics/a%f", (400, "malformed_request")),
        ("POST", long.as_str(), (400, "invalid_topic")),
        ("POST", deep.as_str(), (400, "invalid_topic")),
        ("POST", "/v1//topics/t", (404, "unknown_namespace")),
        ("POST", "/v1/Main/topics/t", (404, "unknown_namespace")),
        ("POST", "/v1/a%2Fb/topics/t", (404, "unknown_namespace")),
        ("POST", "/v1/main/topics", (404, "unknown_route")),
        ("GET", "/v1/main", (404, "unknown_route")),
        ("GET", "/nothing.html", (404, "unknown_route")),
        ("PUT", "/v1/main/topics/t", (405, "method_not_allowed")),
        (
            "POST",
            "/v1/main/subscribe?filter=a",
            (405, "method_not_allowed"),
        ),
        ("GET", "/v1/main/connect", (426, "upgrade_required")),
        ("GET", "/v1/main/subscribe", (400, bad)),
        (
            "GET",
            "/v1/main/subscribe?filter=a/%23/b",
            (400, "invalid_filter"),
        ),
        ("GET", "/v1/main/subscribe?filter=a&from=never", (400, bad)),
        ("GET", "/v1/main/subscribe?filter=a&filter=b", (400, bad)),
        ("POST", "/v1/main/requests/t", (503, "no_responders")),
        ("POST", "/v1/main/requests/a/%23", (400, "invalid_topic")),
        ("GET", "/v1/main/requests/t", (405, "method_not_allowed")),
        ("GET", "/v1/main/groups?limit=0", (400, bad)),
        ("GET", "/v1/main/groups/none", (404, "unknown_group")),
        (
            "GET",
            "/v1/main/groups/none/dead-letters",
            (404, "unknown_group"),
        ),
        (
            "GET",
            "/v1/main/groups/none/dead-letters?from=x",
            (400, bad),
        ),
        (
            "POST",
            "/v1/main/groups/none/dead-letters/replay",
            (404, "unknown_group"),
        ),
        (
            "POST",
            "/v1/main/groups/none/dead-letters/replay?offsets=1;2",
            (400, bad),
        ),
        (
            "GET",
            "/v1/main/scheduled?after=7",
            (404, "unknown_schedule"),
        ),
        (
            "GET",
            "/v1/main/scheduled?filter=a/%23/b",
            (400, "invalid_filter"),
        ),
        ("DELETE", "/v1/main/scheduled/7", (404, "unknown_schedule")),
        ("DELETE", "/v1/main/scheduled/x", (400, bad)),
        ("GET", "/v1/main/presence/a/%23", (400, "invalid_topic")),
        ("GET", "/v1/main/presence/a?after=7", (400, bad)),
        ("GET", "/v1/main/presence/a?limit=none", (400, bad)),
        ("DELETE", "/v1/main/scheduled", (405, "method_not_allowed")),
        ("GET", "/v1/main/limits?scope=user", (400, bad)),
    ] {
        let answer = http(&broker, method, target, &[], b"");
        let (status, code) = answer.refusal();
        assert_eq!(
            (status, code.as_str()),
            expected,
            "{method} {target}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn a_request_gets_its_answer_or_is_refused() {
    let broker = Arc::new(Broker::in_memory(&[]));
    let mut clock = Socket::hello(&broker).await;
    clock
        .say(r#"{"type":"subscribe","request":1,"subscription":1,"filter":"time"}"#)
        .await;
    clock.hear().await;
    let ask = |headers: &'static [(&str, &str)]| {
        let broker = Arc::clone(&broker);
        tokio::task::spawn_blocking(move || {
            http(&broker, "POST", "/v1/main/requests/time", headers, b"?")
        })
    };
    let asked = ask(&[("dunlin-key", "k"), ("dunlin-header-zone", "UTC")]);
    let delivery = clock.hear().await;
    assert_eq!(
        (&delivery["payload"], &delivery["key"], &delivery["headers"]),
        (&json!("?"), &json!("k"), &json!([["zone", "UTC"]]))
    );
    let respond = json!({
        "type": "respond", "request": 2, "reply_to": delivery["reply_to"], "payload": "12:00",
        "content_type": "text/plain", "headers": [["Zone", "UTC"], ["no token", "x"]],
    });
    clock.say(&respond.to_string()).await;
    let answer = asked.await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "12:00"));
    assert_eq!(answer.header("content-type"), Some("text/plain"));
    assert_eq!(answer.header("dunlin-header-zone"), Some("UTC"));

    let unanswered = ask(&[("dunlin-timeout-ms", "50")]).await.unwrap();
    assert_eq!(unanswered.refusal(), (504, "timeout".to_owned()));
    for header in [
        &[("dunlin-timeout-ms", "0")] as &'static [(&str, &str)],
        &[("dunlin-timeout-ms", "300001")],
        &[("dunlin-ttl-ms", "1")],
    ] {
        let refused = ask(header).await.unwrap();
        assert_eq!(refused.refusal(), (400, "invalid_argument".to_owned()));
    }
}

#[tokio::test]
async fn a_group_and_its_dead_letters_are_looked_after() {
    let broker = Broker::in_memory(&[]);
    let mut member = Socket::hello(&broker).await;
    member
        .say(r#"{"type":"join","request":1,"subscription":1,"group":"g h","filters":["jobs"]}"#)
        .await;
    assert_eq!(
        member.hear().await["heartbeat_ms"],
        3_333,
        "10 s, in thirds"
    );
    for text in ["one", "two"] {
        publish(&broker, "jobs", text, &[]);
        let delivery = member.hear_all("delivery", 1).await.remove(0);
        let lease = &delivery["lease"];
        let reject =
            json!({"type": "reject", "request": 2, "leases": [{"lease": lease}], "reason": "no"});
        member.say(&reject.to_string()).await;
        member.hear_all("settled", 1).await;
    }
    assert_eq!(
        get(&broker, "/v1/main/groups").json(),
        json!({"groups": ["g h"], "more": false})
    );
    let group = get(&broker, "/v1/main/groups/g%20h").json();
    assert_eq!(
        (&group["group"], &group["dead_letters"]),
        (&json!("g h"), &json!(2))
    );
    assert_eq!(group["members"][0]["member"], "member-1", "{group}");
    assert_eq!(group["partitions"][0]["lag"], 0, "{group}");
    assert_eq!(group.get("request"), None);

    let letters = "/v1/main/groups/g%20h/dead-letters";
    let first = get(&broker, &format!("{letters}?limit=1"));
    assert_eq!(first.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(first.header("dunlin-next-offset"), Some("1"));
    assert_eq!(first.header("dunlin-more"), Some("true"));
    assert_eq!(first.lines()[0]["payload"], "one");
    let rest = get(
        &broker,
        &format!("{letters}?from=1&filter=jobs&reason=rejected"),
    );
    assert_eq!(rest.header("dunlin-more"), Some("false"));
    assert_eq!(rest.lines()[0]["payload"], "two");
    assert_eq!(
        get(&broker, &format!("{letters}?filter=else"))
            .lines()
            .len(),
        0
    );

    let replay = |query: &str, body: &[u8]| {
        let target = format!("{letters}/replay{query}");
        http(&broker, "POST", &target, &[], body)
    };
    let refused = replay("", br#"{"offsets":[1]}"#).refusal();
    assert_eq!(refused, (400, "invalid_argument".to_owned()));
    let refused = replay("?offsets=9", b"").refusal();
    assert_eq!(refused, (416, "offset_out_of_range".to_owned()));
    assert_eq!(replay("?offsets=1", b"").json(), json!({"messages": 1}));
    let again = member.hear_all("delivery", 1).await.remove(0);
    assert_eq!(
        (&again["payload"], &again["attempt"]),
        (&json!("two"), &json!(1))
    );
}

#[test]
fn scheduled_messages_and_limits_are_listed() {
    let broker = Broker::in_memory(&[]);
    let receipt = publish(&broker, "t", "later", &[("dunlin-delay-ms", "3600000")]);
    let id = receipt["schedule_id"].as_u64().expect("it waits");
    let listed = get(&broker, "/v1/main/scheduled?filter=t&limit=5").json();
    assert_eq!(listed["more"], false);
    assert_eq!(listed["scheduled"][0]["schedule_id"], id, "{listed}");
    let cancel = || {
        http(
            &broker,
            "DELETE",
            &format!("/v1/main/scheduled/{id}"),
            &[],
            b"",
        )
    };
    assert_eq!(cancel().json(), json!({"ok": true}));
    assert_eq!(cancel().refusal(), (404, "unknown_schedule".to_owned()));
    assert_eq!(
        get(&broker, "/v1/main/limits").json(),
        json!({"limits": []})
    );
}

#[test]
fn wrong_headers_are_refused_with_their_code() {
    let broker = Broker::in_memory(&[]);
    let many = "x".repeat(2_000);
    for (name, value, expected) in [
        ("dunlin-ttl-ms", "-1", (400, "invalid_argument")),
        ("dunlin-ttl-ms", "1.5", (400, "invalid_argument")),
        (
            "dunlin-ttl-ms",
            "99999999999999999999",
            (400, "invalid_argument"),
        ),
        ("dunlin-durability", "always", (400, "invalid_argument")),
        ("dunlin-prio", "1", (400, "invalid_argument")),
        ("dunlin-key", many.as_str(), (413, "too_large")),
        ("origin", "https://evil.example", (403, "forbidden_origin")),
        ("host", "evil.example", (403, "forbidden_origin")),
    ] {
        let answer = http(&broker, "POST", "/v1/main/topics/t", &[(name, value)], b"x");
        let (status, code) = answer.refusal();
        assert_eq!((status, code.as_str()), expected, "{name}: {answer:?}");
    }
    assert_eq!(
        get(&broker, "/v1/main/topics/t").status,
        404,
        "nothing was published"
    );
}

#[test]
fn a_payload_at_the_bound_is_taken_and_one_above_is_not() {
    let broker = Broker::in_memory(&[]);
    let payload = vec![b'x'; 1024 * 1024];
    let post = |body: &[u8]| http(&broker, "POST", "/v1/main/topics/t", &[], body);
    assert_eq!(post(&payload).status, 200);
    for over in [1, 200 * 1024] {
        let body = vec![b'x'; payload.len() + over];
        let answer = post(&body);
        assert_eq!(answer.refusal(), (413, "too_large".to_owned()));
    }
    let answer = get(&broker, "/v1/main/topics/t?limit=1");
    assert_eq!(
        answer.lines()[0]["payload"].as_str().map(str::len),
        Some(payload.len())
    );
}

#[test]
fn an_allowed_page_may_read_the_answer() {
    let broker = Broker::in_memory(&["--allow-origin", "https://app.example"]);
    let origin = [("origin", "https://app.example")];
    let answer = http(&broker, "OPTIONS", "/v1/main/topics/t", &origin, b"");
    assert_eq!(answer.status, 204);
    let allowed = "access-control-allow-origin";
    assert_eq!(answer.header(allowed), Some("https://app.example"));
    let answer = http(&broker, "POST", "/v1/main/topics/t", &origin, b"x");
    assert_eq!(
        (answer.status, answer.header(allowed)),
        (200, Some("https://app.example"))
    );
}

#[test]
fn a_token_opens_its_namespace_alone() {
    let broker = Broker::in_memory(&["--token", "main=secret"]);
    let bearer = [("authorization", "Bearer secret")];
    let post = |target: &str, headers| http(&broker, "POST", target, headers, b"x");
    let none: &[_] = &[];
    for (target, headers) in [
        ("/v1/main/topics/t", none),
        ("/v1/main/topics/t?token=wrong", none),
        ("/v1/other/topics/t", &bearer),
    ] {
        let answer = post(target, headers);
        assert_eq!(answer.refusal(), (401, "unauthorised".to_owned()));
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    assert_eq!(post("/v1/main/topics/t", &bearer).status, 200);
    assert_eq!(get(&broker, "/v1/main/topics/t?token=secret").status, 200);
    let healthz = get(&broker, "/healthz");
    assert_eq!((healthz.status, healthz.json()), (200, json!({"ok": true})));
}

#[test]
fn a_method_that_is_not_possible_is_answered_with_those_that_are() {
    let broker = Broker::in_memory(&[]);
    let answer = http(&broker, "DELETE", "/v1/main/topics/t", &[], b"");
    assert_eq!(answer.refusal(), (405, "method_not_allowed".to_owned()));
    assert_eq!(answer.header("allow"), Some("GET, HEAD, POST"));
}

/// The next event: its lines without the empty one at its end.
fn event(stream: &mut impl std::io::BufRead) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let line = line.trim_end();
        let is_size = !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_hexdigit());
        match line {
            // What is left of the chunked encoding, and signs of life.
            _ if is_size || line.starts_with(':') => {}
            "" if lines.is_empty() => {}
            "" => return lines,
            _ => lines.push(line.to_owned()),
        }
    }
}

#[test]
fn a_stream_of_events_can_be_resumed() {
    let broker = Broker::in_memory(&[]);
    publish(&broker, "news/a", "one", &[]);
    let target = "/v1/main/subscribe?filter=news/%23&from=earliest";
    let listen = |more: &[(&str, &str)]| {
        let headers = [&[("accept", "text/event-stream")], more].concat();
        let mut stream = stream(&broker, "GET", target, &headers, b"");
        let mut status = String::new();
        stream.read_line(&mut status).unwrap();
        assert!(status.contains("200"), "{status}");
        let headers = read_headers(&mut stream);
        let kind = ("content-type".to_owned(), "text/event-stream".to_owned());
        assert!(headers.contains(&kind), "{headers:?}");
        stream
    };
    let mut events = listen(&[]);
    let heard = |stream: &mut _| {
        let lines = event(stream);
        let of = |name: &str| {
            let line = lines.iter().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {lines:?}"))
                .trim()
                .to_owned()
        };
        let data: serde_json::Value = serde_json::from_str(&of("data:")).unwrap();
        (of("id:"), data["payload"].as_str().unwrap().to_owned())
    };
    event(&mut events); // where the stream begins
    let (first, text) = heard(&mut events);
    assert_eq!(text, "one");
    publish(&broker, "news/b", "two", &[]);
    assert_eq!(heard(&mut events).1, "two");
    drop(events);
    publish(&broker, "news/a", "three", &[]);
    let mut events = listen(&[("last-event-id", &first)]);
    event(&mut events);
    assert_eq!(heard(&mut events).1, "two");
    assert_eq!(heard(&mut events).1, "three");
}

#[test]
fn a_stream_that_is_lost_before_its_first_event_is_resumed_without_a_loss() {
    let broker = Broker::in_memory(&[]);
    publish(&broker, "news", "before", &[]);
    let listen = |more: &[(&str, &str)]| {
        let target = "/v1/main/subscribe?filter=news";
        let mut stream = stream(&broker, "GET", target, more, b"");
        let mut status = String::new();
        stream.read_line(&mut status).unwrap();
        assert!(status.contains("200"), "{status}");
        read_headers(&mut stream);
        stream
    };
    let mut events = listen(&[]);
    let opening = event(&mut events);
    assert!(opening.contains(&"retry: 1000".to_owned()), "{opening:?}");
    assert!(
        !opening.iter().any(|line| line.starts_with("data")),
        "no listener hears it: {opening:?}"
    );
    let id = opening.iter().find_map(|line| line.strip_prefix("id: "));
    drop(events);
    publish(&broker, "news", "meanwhile", &[]);
    let mut events = listen(&[("last-event-id", id.expect("an id at once"))]);
    event(&mut events);
    let first = event(&mut events).join("\n");
    assert!(first.contains("\"payload\":\"meanwhile\""), "{first}");
}

#[test]
fn a_stream_longer_than_its_credit_goes_on() {
    let broker = Broker::in_memory(&[]);
    for index in 0..600 {
        publish(&broker, "t", &format!("m{index}"), &[]);
    }
    let target = "/v1/main/subscribe?filter=t&from=earliest";
    let mut stream = stream(&broker, "GET", target, &[], b"");
    let mut status = String::new();
    stream.read_line(&mut status).unwrap();
    assert!(status.contains("200"), "{status}");
    read_headers(&mut stream);
    event(&mut stream);
    for index in 0..600 {
        let lines = event(&mut stream);
        let text = format!("\"payload\":\"m{index}\"");
        assert!(
            lines.iter().any(|line| line.contains(&text)),
            "{index}: {lines:?}"
        );
    }
}

#[test]
fn the_console_is_at_the_root() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("index.html"), "<h1>console</h1>").unwrap();
    let broker = Broker::in_memory(&["--console", folder.path().to_str().unwrap()]);
    let answer = get(&broker, "/");
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, "<h1>console</h1>")
    );
    assert_eq!(get(&broker, "/../Cargo.toml").status, 404);
    assert_eq!(get(&broker, "/readyz").status, 200);
}
