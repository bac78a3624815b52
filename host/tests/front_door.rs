//! The limits of the front door, with real sockets: who is one too many, too often, too large, too silent or too slow.

mod common;

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use common::{Broker, Socket, http};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// What a server lets in when nobody says otherwise.
const CONNECTIONS: u64 = 10_000;

/// What the server may take for them, and each of them, in KiB.
const IDLE_KIB_MAX: u64 = 160 * 1024;

/// A broker with this configuration.
fn broker(config: &str) -> (Broker, tempfile::TempDir) {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("config.json");
    std::fs::write(&file, config).unwrap();
    let broker = Broker::in_memory(&["--config", file.to_str().unwrap()]);
    (broker, place)
}

/// An idle client that takes little itself.
async fn idle(address: &str) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    let config = WebSocketConfig::default().read_buffer_size(512);
    let url = format!("ws://{address}/v1/main/connect");
    let (mut socket, _) = client_async_with_config(url, stream, Some(config))
        .await
        .unwrap();
    let hello = r#"{"type":"hello","version":1,"ephemeral":false}"#;
    socket.send(Message::text(hello)).await.unwrap();
    let answer = socket.next().await.unwrap().unwrap();
    assert!(answer.to_text().unwrap().contains("\"hello\""), "{answer}");
    socket
}

/// How much memory a process has, in KiB.
fn resident_kib(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_are_let_in_and_the_next_is_told_to_come_later() {
    let broker = Broker::in_memory(&[]);
    let before = resident_kib(&broker.pid());
    let opened = Arc::new(AtomicU64::new(0));
    let mut openers = JoinSet::new();
    for _ in 0..64 {
        let (address, opened) = (broker.address.clone(), Arc::clone(&opened));
        openers.spawn(async move {
            let mut sockets = Vec::new();
            while opened.fetch_add(1, Ordering::Relaxed) < CONNECTIONS {
                sockets.push(idle(&address).await);
            }
            sockets
        });
    }
    let mut sockets: Vec<_> = openers.join_all().await.into_iter().flatten().collect();
    assert_eq!(sockets.len() as u64, CONNECTIONS);
    let taken = resident_kib(&broker.pid()) - before;
    println!("{CONNECTIONS} idle sockets take {taken} KiB");
    assert!(taken <= IDLE_KIB_MAX, "{taken} KiB");

    let mut late = Socket::open(&broker, &[]).await.unwrap();
    let (code, reason) = late.closed().await;
    assert_eq!(code, 4008);
    assert!(reason.starts_with("limit_reached: "), "{reason}");
    let answer = http(&broker, "GET", "/v1/main/topics/a", &[], b"");
    assert_eq!(answer.refusal(), (429, "limit_reached".to_owned()));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(http(&broker, "GET", "/healthz", &[], b"").status, 200);

    // Those inside notice nothing, and whoever goes makes room.
    let ping = r#"{"type":"ping","request":1}"#;
    sockets[0].send(Message::text(ping)).await.unwrap();
    let pong = sockets[0].next().await.unwrap().unwrap();
    assert!(pong.to_text().unwrap().contains("pong"), "{pong}");
    let mut leaver = sockets.pop().unwrap();
    leaver.close(None).await.unwrap();
    while let Some(Ok(_)) = leaver.next().await {}
    loop {
        let mut next = Socket::open(&broker, &[]).await.unwrap();
        next.say(r#"{"type":"hello","version":1}"#).await;
        // The server may not have noticed yet that the other one is gone.
        match next.next().await {
            Message::Close(_) => {}
            answer => {
                assert!(answer.to_text().unwrap().contains("\"hello\""), "{answer}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_user_with_too_many_connections_is_told_to_come_later() {
    let (broker, _place) = broker(r#"{"connections_per_user_max":2}"#);
    let _first = Socket::hello_as(&broker, "user=ann&device=phone").await;
    let _second = Socket::hello_as(&broker, "user=ann&device=tablet").await;
    let _other = Socket::hello_as(&broker, "user=bob").await;
    let _nobody = Socket::hello_as(&broker, "").await;
    let mut third = Socket::open_as(&broker, "user=ann", &[]).await.unwrap();
    let told = third.hear().await;
    assert_eq!(told["code"], "limit_reached", "{told}");
    assert_eq!(told["retry_after_ms"], 1000, "{told}");
    let (code, reason) = third.closed().await;
    assert_eq!(code, 4008);
    assert!(reason.contains("connections_per_user_max"), "{reason}");
    let answer = http(&broker, "GET", "/v1/main/groups?user=ann", &[], b"");
    assert_eq!(answer.refusal(), (429, "limit_reached".to_owned()));
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn a_user_that_connects_too_often_is_told_to_come_later() {
    let broker = Broker::in_memory(&[]);
    // A namespace in which nothing is stored is forgotten with its last connection.
    common::publish(&broker, "a", "x", &[]);
    for _ in 0..10 {
        drop(Socket::hello_as(&broker, "user=ann").await);
    }
    let mut next = Socket::open_as(&broker, "user=ann", &[]).await.unwrap();
    next.say(r#"{"type":"hello","version":1}"#).await;
    let told = next.hear().await;
    assert_eq!(told["code"], "rate_limited", "{told}");
    let retry_after_ms = told["retry_after_ms"].as_u64().unwrap();
    assert!((1..=6000).contains(&retry_after_ms), "{told}");
    let (code, reason) = next.closed().await;
    assert_eq!(code, 4008);
    assert!(reason.contains("connects_per_minute_max"), "{reason}");
    drop(Socket::hello_as(&broker, "user=bob").await);
    // A stream of events is a connection too.
    let target = "/v1/main/subscribe?filter=a&user=ann";
    let answer = http(&broker, "GET", target, &[], b"");
    assert_eq!(answer.refusal(), (429, "rate_limited".to_owned()));
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
}

#[test]
fn a_user_that_asks_too_often_is_told_to_come_later() {
    let broker = Broker::in_memory(&[]);
    common::publish(&broker, "a", "x", &[]);
    let ask = |user: &str| {
        let target = format!("/v1/main/groups{user}");
        http(&broker, "GET", &target, &[], b"")
    };
    let first = std::time::Instant::now();
    let mut passed = 0;
    let refused = loop {
        let answer = ask("?user=ann");
        if answer.status != 200 {
            break answer;
        }
        passed += 1;
    };
    // A hundred at once, and one more for every 600 ms that this took.
    let more = first.elapsed().as_millis() as u64 / 600 + 1;
    assert!((100..=100 + more).contains(&passed), "{passed}");
    assert_eq!(refused.refusal(), (429, "rate_limited".to_owned()));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(ask("?user=bob").status, 200);
    assert_eq!(ask("").status, 200);
}

#[tokio::test]
async fn a_silent_socket_is_closed_whether_it_greeted_or_not() {
    let (broker, _place) = broker(r#"{"silent_ms":300}"#);
    let mut greeted = Socket::hello_as(&broker, "").await;
    let mut ungreeted = Socket::open(&broker, &[]).await.unwrap();
    for socket in [&mut greeted, &mut ungreeted] {
        let (code, reason) = socket.closed().await;
        assert_eq!(code, 4008);
        assert!(reason.starts_with("connection_silent: "), "{reason}");
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_cut_off_and_no_other() {
    let broker = Broker::in_memory(&[]);
    let mut slow = Socket::hello_as(&broker, "").await;
    slow.say(r#"{"type":"subscribe","request":1,"subscription":1,"filter":"a"}"#)
        .await;
    assert_eq!(slow.hear().await["type"], "subscribed");
    let mut other = Socket::hello_as(&broker, "").await;
    other
        .say(r#"{"type":"subscribe","request":1,"subscription":1,"filter":"b"}"#)
        .await;
    assert_eq!(other.hear().await["type"], "subscribed");
    let large = vec![b'x'; 1 << 20];
    for _ in 0..40 {
        assert_eq!(
            http(&broker, "POST", "/v1/main/topics/a", &[], &large).status,
            200
        );
    }
    assert_eq!(
        http(&broker, "POST", "/v1/main/topics/b", &[], b"y").status,
        200
    );
    assert_eq!(other.hear().await["payload"], "y");
    let (code, reason) = slow.closed().await;
    assert_eq!(code, 4008);
    assert!(reason.starts_with("slow_consumer: "), "{reason}");
}
