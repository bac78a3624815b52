//! The broker through its public door.

mod host;

use dunlin_core::{After, Broker, Claims, ConnectionId, Encoding, Input, Rights, Row, Timestamp};

use host::Host;

#[test]
fn a_message_reaches_who_listens_and_the_receipt_says_where_it_lies() {
    let mut host = Host::new("{}");
    host.connect(1, "n");
    host.connect(2, "n");
    host.connect(3, "other");
    host.send(
        2,
        r#"{"type":"subscribe","request":1,"subscription":5,"filter":"a/+"}"#,
    );
    host.send(
        3,
        r##"{"type":"subscribe","request":1,"subscription":5,"filter":"#"}"##,
    );
    host.heard(2);
    host.heard(3);
    host.publish(1, "a/b", "hello");
    assert_eq!(
        host.heard(1),
        [
            r#"{"type":"receipt","request":1,"partition":0,"offset":0,"sequence":1,"duplicate":false}"#
        ]
    );
    assert_eq!(
        host.heard(2),
        [
            r#"{"type":"delivery","subscription":5,"topic":"a/b","partition":0,"offset":0,"sequence":1,"timestamp":1000000,"payload":"hello"}"#
        ]
    );
    assert!(host.heard(3).is_empty(), "namespaces do not mix");
}

#[test]
fn history_flows_into_live_in_order() {
    let mut host = Host::new("{}");
    host.connect(1, "n");
    for index in 0..5 {
        host.publish(1, "a", &format!("a{index}"));
        host.publish(1, "b", &format!("b{index}"));
    }
    host.connect(2, "n");
    host.send(
        2,
        r##"{"type":"subscribe","request":1,"subscription":1,"filter":"#","from":"earliest"}"##,
    );
    host.publish(1, "a", "live");
    let expected: Vec<String> = (0..5)
        .flat_map(|index| [format!("a{index}"), format!("b{index}")])
        .chain(["live".into()])
        .collect();
    assert_eq!(host.payloads(2), expected);
    host.send(
        2,
        r#"{"type":"subscribe","request":2,"subscription":2,"filter":"a","from":"offset:3"}"#,
    );
    assert_eq!(host.payloads(2), ["a3", "a4", "live"]);
    host.send(
        2,
        r##"{"type":"subscribe","request":2,"subscription":3,"filter":"#","from":"last:1"}"##,
    );
    assert_eq!(host.payloads(2), ["b4", "live"]);
}

#[test]
fn credit_holds_deliveries_back_until_there_is_more() {
    let mut host = Host::new("{}");
    host.connect(1, "n");
    host.send(
        1,
        r#"{"type":"subscribe","request":1,"subscription":1,"filter":"a","credit":2}"#,
    );
    for index in 0..5 {
        host.publish(1, "a", &index.to_string());
    }
    assert_eq!(host.payloads(1), ["0", "1"]);
    host.send(1, r#"{"type":"credit","subscription":1,"messages":2}"#);
    assert_eq!(host.payloads(1), ["2", "3"]);
    host.send(1, r#"{"type":"credit","subscription":1,"messages":9}"#);
    host.publish(1, "a", "5");
    assert_eq!(host.payloads(1), ["4", "5"]);
}

#[test]
fn the_oldest_or_the_newest_are_dropped_and_the_gap_is_told() {
    for kind in ["log", "live"] {
        for (policy, expected) in [
            ("drop_oldest", ["[dropped]", "3", "4"].as_slice()),
            ("drop_newest", ["0", "1", "[dropped]"].as_slice()),
        ] {
            let mut host = Host::new("{}");
            host.connect(1, "n");
            host.send(
                1,
                &format!(r#"{{"type":"configure_topic","request":1,"topic":"a","kind":"{kind}"}}"#),
            );
            host.send(1, &format!(r#"{{"type":"subscribe","request":1,"subscription":1,"filter":"a","credit":0,"on_lag":"{policy}","lag_max":2}}"#));
            for index in 0..5 {
                host.publish(1, "a", &index.to_string());
            }
            host.send(1, r#"{"type":"credit","subscription":1,"messages":9}"#);
            assert_eq!(host.payloads(1), expected, "{kind} {policy}");
            host.publish(1, "a", "5");
            assert_eq!(host.payloads(1), ["5"], "{kind} {policy}");
        }
    }
}

#[test]
fn a_blocked_publish_waits_and_is_refused_at_its_deadline() {
    let mut host = Host::new("{}");
    host.connect(1, "n");
    host.connect(2, "n");
    host.send(2, r#"{"type":"subscribe","request":1,"subscription":1,"filter":"a","credit":1,"on_lag":"block","lag_max":1}"#);
    for index in 0..3 {
        host.publish(1, "a", &index.to_string());
    }
    assert_eq!(host.heard(1).len(), 2, "the third waits");
    host.send(2, r#"{"type":"credit","subscription":1,"messages":1}"#);
    assert_eq!(host.heard(1).len(), 1, "there is room again");
    host.publish(1, "a", "late");
    host.now += 1000;
    host.flush();
    assert!(host.heard(1)[0].contains("subscriber_blocked"));
    assert_eq!(host.payloads(2), ["0", "1"]);
}

#[test]
fn everything_is_there_after_a_restart_and_a_reader_resumes() {
    let mut host = Host::new("{}");
    host.connect(1, "n");
    host.send(
        1,
        r#"{"type":"configure_topic","request":1,"topic":"k","partitions":4,"ordering":"per_key"}"#,
    );
    for index in 0..40 {
        host.send(
            1,
            &format!(
                r#"{{"type":"publish","request":1,"topic":"k","key":"{}","payload":"{index}"}}"#,
                index % 7
            ),
        );
    }
    host.restart("{}");
    host.connect(1, "n");
    host.send(
        1,
        r#"{"type":"subscribe","request":1,"subscription":1,"filter":"k","from":"resume:1:30"}"#,
    );
    let expected: Vec<String> = (30..40).map(|index: u32| index.to_string()).collect();
    assert_eq!(host.payloads(1), expected);
    host.send(
        1,
        r#"{"type":"subscribe","request":1,"subscription":2,"filter":"k","from":"resume:1:45"}"#,
    );
    assert_eq!(host.payloads(1), ["[truncated]"]);
    host.send(
        1,
        r#"{"type":"read","request":9,"topic":"k","partition":1,"from":"last:1"}"#,
    );
    assert!(host.heard(1)[0].starts_with(r#"{"type":"page","request":9,"log_start_offset":0"#));
}

#[test]
fn retention_keeps_at_most_what_it_says() {
    let mut host = Host::new("{}");
    host.connect(1, "n");
    host.send(
        1,
        r#"{"type":"configure_topic","request":1,"topic":"a","max_messages":10}"#,
    );
    host.send(
        1,
        r#"{"type":"configure_topic","request":1,"topic":"v","kind":"last_value"}"#,
    );
    host.send(
        1,
        r#"{"type":"subscribe","request":1,"subscription":1,"filter":"a","credit":1}"#,
    );
    for index in 0..50 {
        host.publish(1, "a", &index.to_string());
        host.publish(1, "v", &index.to_string());
    }
    host.heard(1);
    host.send(
        1,
        r#"{"type":"read","request":9,"topic":"v","partition":0}"#,
    );
    let page = host.heard(1).remove(0);
    assert!(
        page.contains(r#""log_start_offset":49,"log_end_offset":50"#),
        "{page}"
    );
    assert!(page.contains(r#""payload":"49""#), "{page}");
    host.send(1, r#"{"type":"credit","subscription":1,"messages":99}"#);
    let mut expected = vec!["[trimmed]".to_string()];
    expected.extend((40..50).map(|index: u32| index.to_string()));
    assert_eq!(host.payloads(1), expected);
    let rows = host.store.keys().filter(|key| key[2] == 0x80).count();
    assert_eq!(rows, 11, "what is trimmed is gone from the store");
}

#[test]
fn a_compacted_topic_keeps_the_newest_of_every_key() {
    let config = r#"{"compaction_bytes_min": 100}"#;
    let mut host = Host::new(config);
    host.connect(1, "n");
    host.send(
        1,
        r#"{"type":"configure_topic","request":1,"topic":"c","kind":"compacted"}"#,
    );
    for index in 0..100 {
        host.send(
            1,
            &format!(
                r#"{{"type":"publish","request":1,"topic":"c","key":"{}","payload":"{index}"}}"#,
                index % 3
            ),
        );
    }
    host.restart(config);
    host.connect(2, "n");
    host.send(
        2,
        r#"{"type":"subscribe","request":1,"subscription":1,"filter":"c","from":"earliest"}"#,
    );
    let payloads = host.payloads(2);
    assert!(
        payloads.len() < 60,
        "most old values are gone: {}",
        payloads.len()
    );
    for newest in ["97", "98", "99"] {
        assert!(payloads.contains(&newest.to_string()), "{payloads:?}");
    }
    assert!(host.store.keys().filter(|key| key[2] == 0x80).count() < 60);
}

#[test]
fn a_batch_is_all_or_nothing() {
    let mut host = Host::new("{}");
    host.connect(1, "n");
    host.send(1, r#"{"type":"publish_batch","request":4,"messages":[{"topic":"a","payload":"1"},{"topic":"a/+","payload":"2"}]}"#);
    let heard = host.heard(1);
    assert!(heard[0].contains("invalid_topic"), "{heard:?}");
    assert!(
        host.store.keys().all(|key| key[0] == 0 || key[2] == 5),
        "nothing but the connection was stored"
    );
    host.send(1, r#"{"type":"publish_batch","request":5,"messages":[{"topic":"a","payload":"1"},{"topic":"b","payload":"2"}]}"#);
    assert_eq!(
        host.heard(1),
        [
            r#"{"type":"receipts","request":5,"receipts":[{"partition":0,"offset":0,"sequence":1,"duplicate":false},{"partition":0,"offset":0,"sequence":2,"duplicate":false}]}"#
        ]
    );
}

/// A filter subscription resumes by one sequence; if a later message could overtake one that waits for the disk, a
/// cut between the two would lose the earlier one for good.
#[test]
fn a_later_message_of_another_topic_does_not_overtake_one_that_waits() {
    let mut host = Host::new("{}");
    host.connect(1, "n");
    for topic in ["a", "b"] {
        let line = format!(
            r#"{{"type":"configure_topic","request":1,"topic":"{topic}","durability":"none"}}"#
        );
        host.send(1, &line);
    }
    host.connect(2, "n");
    host.send(
        2,
        r##"{"type":"subscribe","request":1,"subscription":1,"filter":"#"}"##,
    );
    host.connect(3, "n");
    host.send(
        3,
        r#"{"type":"subscribe","request":1,"subscription":1,"filter":"b"}"#,
    );
    host.waits.clear();
    host.send(
        1,
        r#"{"type":"publish","request":2,"topic":"a","payload":"1","durability":"sync"}"#,
    );
    host.send(
        1,
        r#"{"type":"publish","request":3,"topic":"b","payload":"2"}"#,
    );
    let waits = |id| -> Vec<After> {
        host.waits
            .iter()
            .filter(|(other, _)| *other == id)
            .map(|(_, after)| *after)
            .collect()
    };
    let [first, second] = waits(2)[..] else {
        panic!("two deliveries")
    };
    assert!(first.synced.0 > 0);
    assert_eq!(
        second.and(first),
        second,
        "the second waits for at least what the first waits for"
    );
    assert_eq!(
        waits(3),
        [After::default()],
        "who hears only the second does not wait"
    );
}

#[test]
fn what_retention_took_is_not_dropped_again_for_lag() {
    let mut host = Host::new("{}");
    host.connect(1, "n");
    host.send(
        1,
        r#"{"type":"configure_topic","request":1,"topic":"a","max_messages":16}"#,
    );
    host.send(
        1,
        r#"{"type":"subscribe","request":1,"subscription":1,"filter":"a","credit":0,"lag_max":10}"#,
    );
    for index in 0..100 {
        host.publish(1, "a", &index.to_string());
    }
    host.heard(1);
    host.send(1, r#"{"type":"credit","subscription":1,"messages":100}"#);
    let payloads = host.payloads(1);
    let expected: Vec<String> = (90..100).map(|index: u32| index.to_string()).collect();
    assert_eq!(payloads[payloads.len() - 10..], expected, "{payloads:?}");
}

#[test]
fn an_offset_that_is_not_kept_any_more_is_told_as_a_gap() {
    let mut host = Host::new("{}");
    host.connect(1, "n");
    host.send(
        1,
        r#"{"type":"configure_topic","request":1,"topic":"a","max_messages":16}"#,
    );
    for index in 0..40 {
        host.publish(1, "a", &index.to_string());
    }
    host.heard(1);
    host.send(
        1,
        r#"{"type":"subscribe","request":1,"subscription":1,"filter":"a","from":"offset:5"}"#,
    );
    let payloads = host.payloads(1);
    assert_eq!(payloads[..2], ["[trimmed]", "24"], "{payloads:?}");
    host.send(
        1,
        r#"{"type":"subscribe","request":1,"subscription":2,"filter":"a","from":"last:99"}"#,
    );
    assert_eq!(
        host.payloads(1)[0],
        "24",
        "what was never asked for is no gap"
    );
}

#[test]
fn a_place_to_resume_from_lies_near_what_was_asked_for() {
    let mut host = Host::new("{}");
    host.connect(1, "n");
    for index in 0..40 {
        host.publish(1, "a", &index.to_string());
    }
    host.heard(1);
    for from in ["last:3", "offset:37"] {
        host.send(1, &format!(r#"{{"type":"subscribe","request":1,"subscription":1,"filter":"a","from":"{from}"}}"#));
        let subscribed = host.heard(1).remove(0);
        assert!(subscribed.ends_with(r#""sequence":37}"#), "{subscribed}");
        host.send(1, r#"{"type":"unsubscribe","request":2,"subscription":1}"#);
        host.heard(1);
    }
}

#[test]
fn a_number_that_is_used_again_gets_nothing_of_its_predecessor() {
    let mut host = Host::new("{}");
    host.connect(1, "n");
    host.connect(2, "n");
    host.send(
        2,
        r#"{"type":"subscribe","request":1,"subscription":1,"filter":"a"}"#,
    );
    host.heard(2);
    host.say(
        1,
        r#"{"type":"publish","request":1,"topic":"a","payload":"old","durability":"sync"}"#,
    );
    host.say(2, r#"{"type":"unsubscribe","request":2,"subscription":1}"#);
    host.waits.clear();
    host.send(
        2,
        r#"{"type":"subscribe","request":3,"subscription":1,"filter":"b"}"#,
    );
    let heard = host.heard(2);
    let place = |part: &str| {
        heard
            .iter()
            .position(|line| line.contains(part))
            .expect("it was sent")
    };
    assert!(place("\"delivery\"") < place("\"subscribed\""), "{heard:?}");
    let last = host
        .waits
        .iter()
        .rfind(|(id, _)| *id == 2)
        .expect("it was sent");
    assert!(
        last.1.synced.0 > 0,
        "it leaves no sooner than the delivery before it"
    );
}

#[test]
fn a_subscriber_of_one_partition_blocks_no_other() {
    let mut host = Host::new("{}");
    host.connect(1, "n");
    host.connect(2, "n");
    host.send(
        1,
        r#"{"type":"configure_topic","request":1,"topic":"k","partitions":3,"ordering":"per_key"}"#,
    );
    host.send(2, r#"{"type":"subscribe","request":1,"subscription":1,"filter":"k","partition":2,"credit":0,"on_lag":"block","lag_max":1}"#);
    host.heard(1);
    for (key, receipts) in [("a", 1), ("a", 0)] {
        host.send(
            1,
            &format!(r#"{{"type":"publish","request":1,"topic":"k","key":"{key}","payload":"1"}}"#),
        );
        assert_eq!(host.heard(1).len(), receipts);
    }
    host.connect(3, "n");
    host.send(
        3,
        r#"{"type":"publish","request":1,"topic":"k","key":"order-1","payload":"1"}"#,
    );
    assert_eq!(host.heard(3).len(), 1, "another partition is free");
}

#[test]
fn namespaces_that_were_only_connected_to_do_not_count() {
    let mut host = Host::new(r#"{"namespaces_max":2}"#);
    for index in 0..5 {
        host.connect(1, &format!("n{index}"));
        host.broker.handle(
            Timestamp(host.now),
            Input::Disconnect {
                connection: ConnectionId(1),
            },
        );
        host.flush();
        assert!(host.heard(1).is_empty());
    }
}

#[test]
fn one_message_cannot_ask_for_more_replies_than_it_may() {
    let mut host = Host::new(r#"{"replies_bytes_max":1024}"#);
    host.connect(1, "n");
    let lines = "{\"type\":\"list_topics\",\"request\":1}\n".repeat(1000);
    host.send(1, &lines);
    let heard = host.heard(1);
    assert!(heard.len() < 50, "{}", heard.len());
    assert!(
        heard
            .last()
            .is_some_and(|line| line.starts_with("close 4008 limit_reached"))
    );
}

#[test]
fn time_that_goes_back_over_a_restart_does_not_go_back_in_a_log() {
    let mut host = Host::new("{}");
    host.connect(1, "n");
    host.publish(1, "a", "1");
    host.now -= 500_000;
    host.restart("{}");
    host.connect(1, "n");
    host.publish(1, "a", "2");
    host.heard(1);
    host.send(1, r#"{"type":"subscribe","request":1,"subscription":1,"filter":"a","from":"timestamp:900000"}"#);
    assert_eq!(host.payloads(1), ["1", "2"]);
}

#[test]
fn a_key_that_was_deleted_stays_deleted_for_those_who_were_away() {
    for (tombstone_ms_min, kept) in [(0, 0), (1_000_000, 1)] {
        let config =
            format!(r#"{{"compaction_bytes_min":100,"tombstone_ms_min":{tombstone_ms_min}}}"#);
        let mut host = Host::new(&config);
        host.connect(1, "n");
        host.send(
            1,
            r#"{"type":"configure_topic","request":1,"topic":"c","kind":"compacted"}"#,
        );
        host.send(
            1,
            r#"{"type":"publish","request":1,"topic":"c","key":"gone","payload":"v"}"#,
        );
        host.send(
            1,
            r#"{"type":"publish","request":1,"topic":"c","key":"gone","payload":""}"#,
        );
        for index in 0..100 {
            host.now += 1;
            host.send(
                1,
                &format!(
                    r#"{{"type":"publish","request":1,"topic":"c","key":"k","payload":"{index}"}}"#
                ),
            );
        }
        host.connect(2, "n");
        host.send(
            2,
            r#"{"type":"subscribe","request":1,"subscription":1,"filter":"c","from":"earliest"}"#,
        );
        let payloads = host.payloads(2);
        let tombstones = payloads.iter().filter(|payload| payload.is_empty()).count();
        assert_eq!(tombstones, kept, "{payloads:?}");
        assert!(!payloads.contains(&"v".to_string()));
    }
}

#[test]
fn who_may_only_publish_sees_no_topics() {
    let mut host = Host::new("{}");
    let claims = Claims {
        namespace: "n".into(),
        user: String::new(),
        device: String::new(),
        rights: Rights::PUBLISH,
    };
    let connection = ConnectionId(1);
    let input = Input::Connect {
        connection,
        encoding: Encoding::Json,
        claims,
        ip: Vec::new(),
    };
    host.broker.handle(Timestamp(host.now), input);
    host.send(1, r#"{"type":"hello","version":1}"#);
    host.publish(1, "a", "1");
    host.heard(1);
    for command in [r#""list_topics""#, r#""describe_topic","topic":"a""#] {
        host.send(1, &format!(r#"{{"type":{command},"request":2}}"#));
        assert!(host.heard(1)[0].contains("forbidden"), "{command}");
    }
}

#[test]
fn a_state_that_lacks_a_segment_is_refused() {
    let mut host = Host::new(r#"{"segment_bytes_max":1}"#);
    host.connect(1, "n");
    for payload in ["1", "2", "3"] {
        host.publish(1, "a", payload);
    }
    let state: Vec<Row> = host
        .store
        .iter()
        .filter(|(key, _)| key[0] == 0 || key[2] < 0x80)
        .map(|(key, value)| Row {
            key: key.clone(),
            value: value.clone(),
        })
        .collect();
    let segments: Vec<usize> = (0..state.len())
        .filter(|index| state[*index].key.get(2) == Some(&4))
        .collect();
    assert_eq!(segments.len(), 2);
    for lost in segments {
        let mut rows = state.clone();
        rows.remove(lost);
        let mut broker = Broker::new("{}", 1).unwrap();
        broker.restore(rows).unwrap();
        let told = broker.restore([]).unwrap_err().0;
        let expected = "namespace \"n\": segments of topic \"a\" partition 0 are missing";
        assert_eq!(told, expected);
    }
}

#[test]
fn a_client_whose_clock_is_ahead_hears_what_is_published_from_now_on() {
    let mut host = Host::new("{}");
    host.connect(1, "n");
    host.publish(1, "a", "before");
    host.holds_loads = true;
    let from = format!("timestamp:{}", host.now + 60_000);
    let line = format!(
        r#"{{"type":"subscribe","request":1,"subscription":1,"filter":"+","from":"{from}"}}"#
    );
    host.now += 1;
    host.send(1, &line);
    host.publish(1, "a", "meanwhile");
    host.holds_loads = false;
    while !host.loads.is_empty() {
        host.release(0);
    }
    host.publish(1, "a", "after");
    assert_eq!(host.payloads(1), ["meanwhile", "after"]);
}
