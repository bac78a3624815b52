//! Who is present, over real sockets and HTTP.

mod common;

use serde_json::{Value, json};

use common::{Broker, Socket, http};

/// The next change that a watch is told: what, of whom, and what they say of themselves.
async fn change(watch: &mut Socket) -> [String; 4] {
    let told = watch.hear_all("presence_event", 1).await.remove(0);
    let event = &told["events"][0];
    ["event", "user", "device", "data"].map(|name| event[name].as_str().unwrap_or("").to_owned())
}

async fn enter(socket: &mut Socket, data: &str) {
    let line = json!({"type": "enter", "request": 1, "topic": "room/1", "data": data});
    socket.say(&line.to_string()).await;
    socket.hear_all("ok", 1).await;
}

#[tokio::test]
async fn who_comes_and_goes_is_told() {
    let broker = Broker::in_memory(&[]);
    let present = || -> Vec<Value> {
        let answer = http(&broker, "GET", "/v1/main/presence/room/1", &[], b"").json();
        answer["members"].as_array().unwrap().clone()
    };
    let mut watch = Socket::hello_as(&broker, "user=ben").await;
    let line = r#"{"type":"watch_presence","request":1,"subscription":1,"topic":"room/1"}"#;
    watch.say(line).await;
    let first = watch.hear_all("presence", 1).await.remove(0);
    assert_eq!(
        (&first["members"], &first["present"]),
        (&json!([]), &json!(0))
    );

    let mut phone = Socket::hello_as(&broker, "user=ann&device=phone").await;
    enter(&mut phone, "here").await;
    assert_eq!(change(&mut watch).await, ["join", "ann", "phone", "here"]);
    let members = present();
    assert_eq!((members.len(), &members[0]["data"]), (1, &json!("here")));

    // The same device over a new socket, while the old one looks open: nobody came or went.
    let mut again = Socket::hello_as(&broker, "user=ann&device=phone").await;
    enter(&mut again, "here").await;
    assert_eq!(change(&mut watch).await, ["update", "ann", "phone", "here"]);
    drop(phone);
    let mut desk = Socket::hello_as(&broker, "user=ann&device=desk").await;
    enter(&mut desk, "").await;
    assert_eq!(change(&mut watch).await, ["join", "ann", "desk", ""]);
    let read = "/v1/main/presence/room/1?limit=1";
    let page = http(&broker, "GET", read, &[], b"").json();
    let counts = (&page["present"], &page["users"], &page["more"]);
    assert_eq!(counts, (&json!(2), &json!(1), &json!(true)));
    assert_eq!(page["members"][0]["device"], "desk");
    let read = format!("{read}&after={}", page["next"].as_str().unwrap());
    let page = http(&broker, "GET", &read, &[], b"").json();
    assert_eq!(
        (&page["members"][0]["device"], &page["more"]),
        (&json!("phone"), &json!(false))
    );

    drop(again);
    assert_eq!(change(&mut watch).await, ["leave", "ann", "phone", ""]);
    desk.say(r#"{"type":"leave","request":2,"topic":"room/1"}"#)
        .await;
    assert_eq!(change(&mut watch).await, ["leave", "ann", "desk", ""]);
    assert!(present().is_empty());
}
