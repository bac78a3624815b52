//! Who a client says it is, over WebSockets, HTTP and on the command line, as rate limits of users notice it.

mod common;

use common::{Broker, Socket, complaint, http, run};

/// A broker that lets every user publish so many messages, and no more for as long as a test takes.
fn broker_that_limits_users(burst: u32) -> Broker {
    let broker = Broker::in_memory(&[]);
    let (url, burst) = (broker.url(), burst.to_string());
    let limited = run(&[
        "limit",
        "configure",
        "user",
        "--rate",
        "1",
        "--per",
        "1h",
        "--burst",
        &burst,
        "--url",
        &url,
        "--namespace",
        "main",
    ]);
    assert!(limited.status.success(), "{limited:?}");
    broker
}

/// Publishes over a socket; the code of the refusal, or `receipt`.
async fn publish(socket: &mut Socket) -> String {
    socket
        .say(r#"{"type":"publish","request":1,"topic":"a","payload":"x"}"#)
        .await;
    let answer = socket.hear().await;
    let told = if answer["type"] == "error" {
        "code"
    } else {
        "type"
    };
    answer[told].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_user_is_limited_over_all_ways_to_publish() {
    let broker = broker_that_limits_users(4);
    let url = broker.url();
    let mut phone = Socket::hello_as(&broker, "user=ann&device=phone").await;
    let mut laptop = Socket::hello_as(&broker, "device=laptop&user=ann").await;
    let post = |query: &str| {
        let target = format!("/v1/main/topics/a{query}");
        http(&broker, "POST", &target, &[], b"x").status
    };
    let command = |user: &str| {
        run(&[
            "pub",
            "a",
            "x",
            "--user",
            user,
            "--url",
            &url,
            "--namespace",
            "main",
        ])
    };
    assert_eq!(publish(&mut phone).await, "receipt");
    assert_eq!(publish(&mut laptop).await, "receipt");
    assert_eq!(post("?user=ann"), 200);
    assert!(command("ann").status.success());
    // Ann has published four messages: the next is refused, whichever way it comes.
    assert_eq!(publish(&mut phone).await, "rate_limited");
    assert_eq!(publish(&mut laptop).await, "rate_limited");
    assert_eq!(post("?user=ann&device=tablet"), 429);
    let told = complaint(&command("ann"));
    assert!(
        told.contains("rate_limited: over the limit of user \"ann\""),
        "{told}"
    );
    // Others have buckets of their own, and who has no user none.
    let mut ben = Socket::hello_as(&broker, "user=b%C3%A9n").await;
    assert_eq!(publish(&mut ben).await, "receipt");
    assert_eq!(post("?user=ann%20b"), 200);
    for _ in 0..5 {
        assert_eq!(post(""), 200);
    }
}

#[tokio::test]
async fn who_cannot_be_is_refused() {
    let broker = Broker::in_memory(&[]);
    let long = format!("user={}", "u".repeat(257));
    for (query, why) in [
        (&*long, "the user has 257 bytes; use at most 256"),
        ("device=phone", "a device is a user's; name the user too"),
        (
            "user=a%00",
            "the user has the control character U+0000; leave it out",
        ),
    ] {
        let mut socket = Socket::open_as(&broker, query, &[]).await.unwrap();
        assert_eq!(
            socket.closed().await,
            (4008, format!("invalid_argument: {why}"))
        );
        let answer = http(
            &broker,
            "GET",
            &format!("/v1/main/limits?{query}"),
            &[],
            b"",
        );
        assert_eq!(answer.refusal(), (400, "invalid_argument".to_owned()));
        assert!(answer.body.contains(why), "{answer:?}");
    }
    for query in ["user=", "user=a&device=", "user=a&user=b"] {
        assert!(
            Socket::open_as(&broker, query, &[]).await.is_err(),
            "{query}"
        );
        let answer = http(
            &broker,
            "GET",
            &format!("/v1/main/limits?{query}"),
            &[],
            b"",
        );
        assert_eq!(answer.refusal(), (400, "invalid_argument".to_owned()));
    }
    let answer = http(&broker, "GET", "/v1/main/limits?user=%", &[], b"");
    assert_eq!(answer.refusal(), (400, "malformed_request".to_owned()));
    let told = complaint(&run(&[
        "pub",
        "a",
        "x",
        "--user",
        "a\nb",
        "--url",
        &broker.url(),
    ]));
    assert!(
        told.contains("the user has the control character U+000A"),
        "{told}"
    );
}
