//! A subscription as a stream of server-sent events.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::command::frames;
use super::problem::Problem;
use super::query::Query;
use super::response::put_members;
use super::{REQUEST, SUBSCRIPTION};
use crate::outbox::put_json;
use crate::protocol::frame::{Command, Reply, Subscribe};

/// The frames that subscribe for a stream of events. A browser that reconnects says with `last_event_id` where it
/// was, which stands above the `from` of the URL that it repeats.
pub fn subscribe_frames(
    query: &str,
    last_event_id: Option<&str>,
    credit: u64,
) -> Result<Vec<u8>, Problem> {
    let query = Query::parse(query, &["filter", "from", "partition"])?;
    let resume = last_event_id
        .filter(|id| !id.is_empty())
        .map(|id| format!("resume:{id}"));
    let filter = query.get("filter").ok_or_else(|| {
        Problem::invalid("the parameter filter is missing; add ?filter=TOPIC-OR-PATTERN")
    })?;
    Ok(frames(&Command::Subscribe(Subscribe {
        request: REQUEST,
        subscription: SUBSCRIPTION,
        filter,
        from: resume.as_deref().or(query.get("from")),
        credit: Some(credit),
        on_lag: None,
        lag_max: None,
        partition: query.u32("partition")?,
    })))
}

/// How long a client of a stream waits before it connects again, in milliseconds.
pub const STREAM_RETRY_MS: u32 = 1_000;

/// One server-sent event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The place to resume from, as the client will give it back; empty to leave the last one.
    pub id: String,
    /// The event's name; empty for a delivery, which is what `onmessage` hears.
    pub name: &'static str,
    /// One line of JSON; empty in the opening event, so that no listener hears it.
    pub data: String,
    /// How long to wait before connecting again, in milliseconds, if this event says so.
    pub retry_ms: Option<u32>,
}

/// The event that a frame of a subscription becomes. `token` is the one of `subscribed`, which itself becomes the
/// opening event: the place to resume from for a client that loses the stream before its first delivery.
pub fn event(token: &str, reply: &Reply<'_>) -> Option<Event> {
    if let Reply::Subscribed(subscribed) = reply {
        return Some(Event {
            id: format!("{token}:{}", subscribed.sequence),
            name: "",
            data: String::new(),
            retry_ms: Some(STREAM_RETRY_MS),
        });
    }
    let (sequence, name) = match reply {
        Reply::Delivery(delivery) => (Some(delivery.sequence), ""),
        // A gap of one partition says nothing about the others, and what a crash took back may be numbered again.
        Reply::Gap(gap) => match (gap.topic, gap.reason) {
            (_, "truncated") => (Some(gap.after), "gap"),
            (Some(_), _) => (None, "gap"),
            (None, _) => (Some(gap.to), "gap"),
        },
        Reply::Ended(_) => (None, "ended"),
        _ => return None,
    };
    let mut data = Vec::new();
    if let Reply::Ended(ended) = reply {
        data.extend_from_slice(b"{\"type\":\"ended\"");
        put_members(ended, 1, &mut data);
        data.push(b'}');
    } else {
        let mut frame = Vec::new();
        reply.encode(&mut frame);
        put_json(&frame, &mut data);
        data.pop();
    }
    Some(Event {
        id: sequence.map_or_else(String::new, |sequence| format!("{token}:{sequence}")),
        name,
        data: String::from_utf8(data).expect("JSON is UTF-8"),
        retry_ms: None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::command::tests::command;
    use super::*;
    use crate::protocol::frame::{Delivery, Subscribed};

    #[test]
    fn a_reconnecting_stream_resumes_where_it_was() {
        let frames = subscribe_frames("filter=a/+/b&from=earliest", Some("3.7:41"), 64).unwrap();
        let Command::Subscribe(subscribe) = command(&frames) else {
            panic!("not a subscribe");
        };
        assert_eq!(subscribe.filter, "a/+/b");
        assert_eq!(subscribe.from, Some("resume:3.7:41"));
        assert_eq!(subscribe.credit, Some(64));

        let frames = subscribe_frames("filter=%23&from=earliest", Some(""), 1).unwrap();
        let Command::Subscribe(subscribe) = command(&frames) else {
            panic!("not a subscribe");
        };
        assert_eq!((subscribe.filter, subscribe.from), ("#", Some("earliest")));

        let problem = subscribe_frames("from=earliest", None, 1).unwrap_err();
        assert!(problem.message.contains("filter"));
    }

    #[test]
    fn a_delivery_becomes_an_event_that_can_be_resumed() {
        let delivery = Reply::Delivery(Delivery {
            subscription: SUBSCRIPTION,
            topic: "t",
            partition: 0,
            offset: 1,
            sequence: 7,
            timestamp: 2,
            payload: b"x",
            key: None,
            content_type: None,
            headers: None,
            id: None,
            expires_at: None,
            reply_to: None,
            priority: None,
            lease: None,
            attempt: None,
        });
        let event = event("3", &delivery).unwrap();
        assert_eq!((event.id.as_str(), event.name), ("3:7", ""));
        assert_eq!(
            event.data,
            "{\"type\":\"delivery\",\"subscription\":1,\"topic\":\"t\",\"partition\":0,\"offset\":1,\"sequence\":7,\"timestamp\":2,\"payload\":\"x\"}"
        );
    }

    #[test]
    fn a_stream_begins_with_the_place_to_resume_from() {
        let subscribed = Reply::Subscribed(Subscribed {
            request: REQUEST,
            subscription: SUBSCRIPTION,
            token: "3",
            sequence: 41,
        });
        let event = event("3", &subscribed).unwrap();
        assert_eq!(event.id, "3:41");
        assert_eq!(event.retry_ms, Some(STREAM_RETRY_MS));
        assert_eq!((event.name, event.data.as_str()), ("", ""));
    }
}
