//! WebSockets, in both encodings, and what happens to those that break the rules.

mod common;

use bytes::Bytes;
use common::{Broker, PATIENCE, Socket, http, publish};
use dunlin_core::Reader;
use dunlin_core::frame::{
    Command, Hello, PROTOCOL_VERSION, Publish, Reply, SUBPROTOCOL_BINARY, Subscribe,
};
use futures_util::SinkExt as _;
use serde_json::json;
use tokio_tungstenite::tungstenite::{Error, Message};

#[tokio::test]
async fn two_clients_talk_in_json() {
    let broker = Broker::in_memory(&[]);
    let mut reader = Socket::hello(&broker).await;
    reader
        .say(r#"{"type":"subscribe","request":1,"subscription":7,"filter":"chat/+"}"#)
        .await;
    assert_eq!(reader.hear().await["type"], "subscribed");
    let mut writer = Socket::hello(&broker).await;
    writer
        .say(r#"{"type":"publish","request":5,"topic":"chat/a","payload":"hé","key":"k","headers":[["x","1"]]}"#)
        .await;
    let receipt = writer.hear().await;
    assert_eq!(receipt["type"], "receipt", "{receipt}");
    assert_eq!(
        (
            &receipt["request"],
            &receipt["offset"],
            &receipt["duplicate"]
        ),
        (&json!(5), &json!(0), &json!(false))
    );
    let delivery = reader.hear().await;
    for (member, expected) in [
        ("type", json!("delivery")),
        ("subscription", json!(7)),
        ("topic", json!("chat/a")),
        ("payload", json!("hé")),
        ("key", json!("k")),
        ("headers", json!([["x", "1"]])),
    ] {
        assert_eq!(delivery[member], expected, "{delivery}");
    }
}

#[tokio::test]
async fn a_client_talks_in_binary() {
    let broker = Broker::in_memory(&[]);
    let mut socket = Socket::open(&broker, &[("sec-websocket-protocol", SUBPROTOCOL_BINARY)])
        .await
        .unwrap();
    let mut frames = Vec::new();
    Command::Hello(Hello {
        version: PROTOCOL_VERSION,
        client: None,
        ephemeral: None,
        echo: None,
    })
    .encode(&mut frames);
    Command::Subscribe(Subscribe {
        request: 1,
        subscription: 3,
        filter: "#",
        from: None,
        credit: None,
        on_lag: None,
        lag_max: None,
        partition: None,
    })
    .encode(&mut frames);
    Command::Publish(Publish {
        request: 2,
        topic: "a",
        payload: &[0xff, 0],
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
    .encode(&mut frames);
    socket.0.send(Message::Binary(frames.into())).await.unwrap();
    let mut heard = Vec::new();
    while heard.len() < 4 {
        let Message::Binary(message) = socket.next().await else {
            panic!("a text message on a binary connection");
        };
        let mut reader = Reader::new(&message);
        while let Ok(frame) = reader.bytes() {
            heard.push(match Reply::decode(frame).unwrap() {
                Reply::Welcome(_) => "hello".to_owned(),
                Reply::Subscribed(subscribed) => format!("subscribed {}", subscribed.request),
                Reply::Receipt(receipt) => format!("receipt {}", receipt.request),
                Reply::Delivery(delivery) => {
                    format!("delivery {} {:?}", delivery.subscription, delivery.payload)
                }
                other => panic!("{other:?}"),
            });
        }
    }
    heard.sort();
    assert_eq!(
        heard,
        ["delivery 3 [255, 0]", "hello", "receipt 2", "subscribed 1"]
    );
}

#[tokio::test]
async fn a_ping_is_answered_in_both_encodings() {
    let broker = Broker::in_memory(&[]);
    for headers in [
        &[] as &[_],
        &[("sec-websocket-protocol", SUBPROTOCOL_BINARY)],
    ] {
        let mut socket = Socket::open(&broker, headers).await.unwrap();
        socket.say("ping").await;
        assert_eq!(socket.next().await, Message::text("pong"));
    }
}

#[tokio::test]
async fn a_message_in_the_other_encoding_is_refused() {
    let broker = Broker::in_memory(&[]);
    let binary = &[("sec-websocket-protocol", SUBPROTOCOL_BINARY)];
    for (headers, message) in [
        (
            &[] as &[_],
            Message::Binary(Bytes::from_static(b"\x02\x01\x01")),
        ),
        (binary, Message::text("{}")),
    ] {
        let mut socket = Socket::open(&broker, headers).await.unwrap();
        socket.0.send(message).await.unwrap();
        let (code, reason) = socket.closed().await;
        assert_eq!(code, 1002);
        assert!(reason.starts_with("malformed_frame: "), "{reason}");
    }
}

#[tokio::test]
async fn a_message_over_the_bound_closes_with_1009() {
    let broker = Broker::in_memory(&[]);
    let binary = &[("sec-websocket-protocol", SUBPROTOCOL_BINARY)];
    let letters = |count| "x".repeat(count);
    for (headers, message) in [
        (&[] as &[_], Message::text(letters(1536 * 1024 + 1))),
        (binary, Message::Binary(letters(1152 * 1024 + 1).into())),
    ] {
        let mut socket = Socket::open(&broker, headers).await.unwrap();
        // The broker may close before it has read all of it.
        let _ = socket.0.send(message).await;
        let (code, reason) = socket.closed().await;
        assert_eq!(code, 1009, "{reason}");
        assert!(reason.starts_with("too_large: "), "{reason}");
    }
}

/// The status and code with which an upgrade is refused.
async fn refusal(broker: &Broker, headers: &[(&str, &str)]) -> (u16, String) {
    match Socket::open(broker, headers).await.err() {
        Some(Error::Http(response)) => {
            let body = response.body().clone().unwrap_or_default();
            let told: serde_json::Value = serde_json::from_slice(&body).unwrap();
            (
                response.status().as_u16(),
                told["code"].as_str().unwrap().to_owned(),
            )
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_wrong_upgrade_is_refused() {
    let broker = Broker::in_memory(&[]);
    for (name, value, expected) in [
        (
            "sec-websocket-protocol",
            "mqtt",
            (400, "unsupported_version"),
        ),
        ("origin", "https://evil.example", (403, "forbidden_origin")),
        ("origin", "null", (403, "forbidden_origin")),
        ("host", "evil.example", (403, "forbidden_origin")),
        ("sec-websocket-version", "8", (426, "upgrade_required")),
    ] {
        let (status, code) = refusal(&broker, &[(name, value)]).await;
        assert_eq!((status, code.as_str()), expected, "{name}: {value}");
    }
    let second = [("sec-websocket-protocol", "mqtt, dunlin.v1.binary")];
    assert!(Socket::open(&broker, &second).await.is_ok());
    assert!(
        Socket::open(&broker, &[("origin", "http://localhost:5173")])
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_token_is_asked_for() {
    let broker = Broker::in_memory(&["--token", "main=secret", "--token", "other=else"]);
    for headers in [&[] as &[_], &[("authorization", "Bearer else")]] {
        let (status, code) = refusal(&broker, headers).await;
        assert_eq!((status, code.as_str()), (401, "unauthorised"));
    }
    let right = [("authorization", "Bearer secret")];
    assert!(Socket::open(&broker, &right).await.is_ok());
}

#[tokio::test]
async fn a_stopping_broker_sends_its_clients_away() {
    let broker = Broker::in_memory(&[]);
    let mut socket = Socket::hello(&broker).await;
    broker.terminate();
    let (code, reason) = socket.closed().await;
    assert_eq!(code, 4002, "{reason}");
    drop(socket);
    tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(|| broker.wait()))
        .await
        .expect("it stops when its clients are gone")
        .unwrap();
}

#[tokio::test]
async fn a_draining_broker_is_alive_but_not_ready() {
    let broker = Broker::in_memory(&[]);
    let mut socket = Socket::hello(&broker).await;
    broker.terminate();
    assert_eq!(socket.hear().await["type"], "going_away");
    // The close is not answered yet, so the broker still waits for this socket.
    assert_eq!(http(&broker, "GET", "/healthz", &[], b"").status, 200);
    assert_eq!(http(&broker, "GET", "/readyz", &[], b"").status, 503);
    let answer = http(&broker, "POST", "/v1/main/topics/t", &[], b"x");
    assert_eq!(answer.refusal(), (503, "draining".to_owned()));
    assert_eq!(refusal(&broker, &[]).await, (503, "draining".to_owned()));
    assert_eq!(socket.closed().await.0, 4002);
    drop(socket);
    tokio::task::spawn_blocking(|| broker.wait()).await.unwrap();
}

#[tokio::test]
async fn many_messages_reach_many_subscribers_in_order() {
    const SUBSCRIBERS: usize = 20;
    const MESSAGES: usize = 500;
    let broker = Broker::in_memory(&[]);
    let mut readers = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let mut reader = Socket::hello(&broker).await;
        reader
            .say(r##"{"type":"subscribe","request":1,"subscription":1,"filter":"#"}"##)
            .await;
        reader.hear().await;
        readers.push(reader);
    }
    let mut writer = Socket::hello(&broker).await;
    for first in (0..MESSAGES).step_by(50) {
        let lines = (first..first + 50).map(|index| {
            json!({"type": "publish", "request": index + 1, "topic": "t", "payload": index.to_string()})
                .to_string()
        });
        writer.say(&lines.collect::<Vec<_>>().join("\n")).await;
    }
    writer.hear_all("receipt", MESSAGES).await;
    for reader in &mut readers {
        let deliveries = reader.hear_all("delivery", MESSAGES).await;
        for (index, delivery) in deliveries.iter().enumerate() {
            assert_eq!(delivery["offset"], index, "{delivery}");
            assert_eq!(delivery["payload"], index.to_string(), "{delivery}");
        }
    }
}

#[tokio::test]
async fn namespaces_do_not_hear_each_other() {
    let broker = Broker::in_memory(&["--shards", "3"]);
    let mut main = Socket::hello(&broker).await;
    main.say(r##"{"type":"subscribe","request":1,"subscription":1,"filter":"#"}"##)
        .await;
    main.hear().await;
    for namespace in ["other", "mai", "main2", "m.ain"] {
        let target = format!("/v1/{namespace}/topics/t");
        let answer = http(&broker, "POST", &target, &[], b"theirs");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    publish(&broker, "t", "ours", &[]);
    assert_eq!(main.hear().await["payload"], "ours");
}
