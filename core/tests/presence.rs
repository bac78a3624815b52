//! Many who come, change and go at once.

mod host;

use dunlin_core::{ConnectionId, Effect, Input, Timestamp};

use host::Host;

const MEMBERS: u64 = 1000;

/// The recipients and the size of the body of every send about presence in the batch that ends now.
fn told(host: &mut Host) -> Vec<(usize, usize)> {
    host.broker.flush();
    host.broker.check_invariants();
    let mut told = Vec::new();
    while let Some(effect) = host.broker.poll_effect() {
        if let Effect::Send { to, body, .. } = effect
            && !body.starts_with(b"{\"type\":\"ok\"")
        {
            told.push((to.len(), body.len()));
        }
    }
    told
}

#[test]
fn a_thousand_that_come_change_and_go_at_once_are_one_frame_each_time() {
    let mut host = Host::new("{}");
    for id in 1..=MEMBERS {
        host.connect(id, "n");
    }
    let all_say = |host: &mut Host, lines: &[&str]| {
        for id in 1..=MEMBERS {
            for line in lines {
                host.say(id, line);
            }
        }
    };
    all_say(
        &mut host,
        &[
            r#"{"type":"watch_presence","request":1,"subscription":1,"topic":"room"}"#,
            r#"{"type":"enter","request":2,"topic":"room"}"#,
        ],
    );
    let [(recipients, bytes)] = told(&mut host)[..] else {
        panic!("who begins to watch gets the members as they are at the end of the batch");
    };
    assert_eq!(recipients as u64, MEMBERS);
    assert!(bytes > 30 * MEMBERS as usize, "{bytes}");

    all_say(
        &mut host,
        &[r#"{"type":"enter","request":3,"topic":"room","data":"x"}"#],
    );
    let [(recipients, bytes)] = told(&mut host)[..] else {
        panic!("what changes in a batch is one frame for all");
    };
    assert_eq!(recipients as u64, MEMBERS);
    assert!(bytes > 30 * MEMBERS as usize, "{bytes}");

    for id in 2..=MEMBERS {
        let connection = ConnectionId(id);
        let gone = Input::Disconnect { connection };
        host.broker.handle(Timestamp(host.now), gone);
    }
    let [(1, bytes)] = told(&mut host)[..] else {
        panic!("who is left is told in one frame");
    };
    assert!(bytes > 30 * (MEMBERS as usize - 1), "{bytes}");
}
