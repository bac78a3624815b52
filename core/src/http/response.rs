//! Replies of the broker as responses.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;

use super::problem::{Problem, status_of};
use super::{JSON, NDJSON, OCTETS, REQUEST};
use crate::effect::CloseCode;
use crate::error::ErrorCode;
use crate::protocol::field::{Headers, Item, List};
use crate::protocol::frame::{
    DeadLetters, Failed, Page, Receipt, Record, Reply, Response as Answer,
};
use crate::protocol::json::{put_json_members, put_json_str};
use crate::wire::Reader;

/// How long a client waits before it tries again, in milliseconds, where nobody knows better.
const RETRY_AFTER_DEFAULT_MS: u64 = 1_000;

/// What goes back to an HTTP client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The media type of the body.
    pub content_type: Cow<'static, str>,
    /// Further headers, their names in lower case.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// The response to the command, or `None` for a frame that does not answer it. `topic` is the one of the request.
pub fn response(topic: &str, reply: &Reply<'_>) -> Option<Response> {
    match reply {
        Reply::Receipt(receipt) => Some(receipt_response(topic, receipt)),
        Reply::Page(page) => Some(page_response(page)),
        Reply::Imported(imported) => Some(object_response(imported, 3)),
        Reply::Response(answer) => Some(answer_response(answer)),
        Reply::Groups(groups) => Some(object_response(groups, 1)),
        Reply::GroupDescription(group) => Some(object_response(group, 1)),
        Reply::DeadLetters(letters) => Some(dead_letters_response(letters)),
        Reply::Affected(affected) => Some(object_response(affected, 1)),
        Reply::Scheduled(scheduled) => Some(object_response(scheduled, 1)),
        Reply::Limits(limits) => Some(object_response(limits, 1)),
        Reply::Mailbox(mailbox) => Some(object_response(mailbox, 1)),
        Reply::Users(users) => Some(object_response(users, 1)),
        Reply::UserDescription(user) => Some(object_response(user, 1)),
        Reply::Devices(devices) => Some(object_response(devices, 1)),
        Reply::Rules(rules) => Some(object_response(rules, 1)),
        Reply::Explanation(explanation) => Some(object_response(explanation, 1)),
        Reply::PresencePage(page) => Some(object_response(page, 1)),
        Reply::NamespaceDescription(namespace) => Some(object_response(namespace, 1)),
        Reply::Done(_) => Some(line(200, b"{\"ok\":true}".to_vec())),
        // A request greets first, so that the broker which heard that is gone.
        Reply::Failed(failed) if failed.code == ErrorCode::OutOfState.as_str() => {
            Some(lost_response())
        }
        Reply::Failed(failed) => Some(failed_response(failed)),
        Reply::GoingAway(going) => Some(error_response(
            503,
            ErrorCode::Draining.as_str(),
            "the broker is stopping; try again later",
            Some(going.reconnect_after_ms),
        )),
        Reply::Resync(_) => Some(lost_response()),
        _ => None,
    }
}

/// The response where the broker lost the command with its connection, and nobody knows whether it took effect.
pub fn lost_response() -> Response {
    error_response(
        503,
        ErrorCode::StorageUnavailable.as_str(),
        "the broker restarted before it answered; the command may or may not have taken effect",
        Some(1_000),
    )
}

/// The response where the broker ended the connection instead of answering. The reason of a close begins with a
/// stable code and a colon.
pub fn close_response(close: CloseCode, reason: &str) -> Response {
    let (code, message) = reason.split_once(": ").unwrap_or(("", reason));
    if code == ErrorCode::OutOfState.as_str() {
        return lost_response();
    }
    if ErrorCode::ALL.iter().any(|known| known.as_str() == code) {
        return error_response(status_of(code), code, message, None);
    }
    let code = match close {
        CloseCode::Protocol => ErrorCode::MalformedFrame,
        CloseCode::TooLarge => ErrorCode::TooLarge,
        CloseCode::Unauthorised | CloseCode::Kicked => ErrorCode::Forbidden,
        CloseCode::GoingAway => ErrorCode::Draining,
        CloseCode::Policy => ErrorCode::LimitReached,
    };
    error_response(status_of(code.as_str()), code.as_str(), reason, None)
}

fn receipt_response(topic: &str, receipt: &Receipt<'_>) -> Response {
    let mut body = b"{\"topic\":".to_vec();
    put_json_str(receipt.topic.unwrap_or(topic), &mut body);
    let rest = Receipt {
        topic: None,
        ..*receipt
    };
    put_members(&rest, 1, &mut body);
    body.push(b'}');
    line(200, body)
}

fn page_response(page: &Page<'_>) -> Response {
    records_response(
        &page.records,
        vec![
            ("dunlin-next-offset".into(), page.next_offset.to_string()),
            (
                "dunlin-log-start-offset".into(),
                page.log_start_offset.to_string(),
            ),
            (
                "dunlin-log-end-offset".into(),
                page.log_end_offset.to_string(),
            ),
        ],
    )
}

fn dead_letters_response(letters: &DeadLetters<'_>) -> Response {
    records_response(
        &letters.records,
        vec![
            ("dunlin-next-offset".into(), letters.next_offset.to_string()),
            ("dunlin-more".into(), letters.more.to_string()),
        ],
    )
}

fn records_response(
    records: &List<'_, Record<'_>>,
    headers: Vec<(Cow<'static, str>, String)>,
) -> Response {
    let mut body = Vec::new();
    for record in records.iter().flatten() {
        put_object(&record, 0, &mut body);
        body.push(b'\n');
    }
    Response {
        status: 200,
        content_type: NDJSON.into(),
        headers,
        body,
    }
}

/// The answer to a request as it is. What HTTP cannot carry in a header is left out.
fn answer_response(answer: &Answer<'_>) -> Response {
    let content_type = answer.content_type.filter(|text| is_header_value(text));
    let pairs = answer.headers.iter().flat_map(Headers::iter);
    let carried = pairs.filter(|(name, value)| is_token(name) && is_header_value(value));
    Response {
        status: 200,
        content_type: content_type.map_or(OCTETS.into(), |text| Cow::Owned(text.to_string())),
        headers: carried
            .map(|(name, value)| {
                let name = format!("dunlin-header-{}", name.to_ascii_lowercase());
                (Cow::Owned(name), value.to_string())
            })
            .collect(),
        body: answer.payload.to_vec(),
    }
}

/// Whether HTTP knows the text as the name of a header (RFC 9110, section 5.6.2).
fn is_token(text: &str) -> bool {
    let is_mark = |byte| b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || is_mark(byte))
}

/// Whether the text is visible ASCII and blanks, which all that speak HTTP carry as it is.
fn is_header_value(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && text.trim() == text
}

/// The reply as one object, without its first fields, which are numbers.
pub(super) fn object_response<'a, T: Item<'a>>(item: &T, first: usize) -> Response {
    line(200, object(item, first).into_bytes())
}

fn failed_response(failed: &Failed<'_>) -> Response {
    error_response(
        status_of(failed.code),
        failed.code,
        failed.message,
        failed.retry_after_ms,
    )
}

pub(super) fn error_response(
    status: u16,
    code: &str,
    message: &str,
    retry_after_ms: Option<u64>,
) -> Response {
    // Whatever the reason, a 503 passes.
    let retry_after_ms = retry_after_ms.or((status == 503).then_some(RETRY_AFTER_DEFAULT_MS));
    let mut body = Vec::new();
    let failed = Failed {
        request: REQUEST,
        code,
        message,
        retry_after_ms,
    };
    put_object(&failed, 1, &mut body);
    let mut response = line(status, body);
    if let Some(ms) = retry_after_ms {
        let seconds = ms.div_ceil(1_000).to_string();
        response.headers.push(("retry-after".into(), seconds));
    }
    match status {
        401 => response
            .headers
            .push(("www-authenticate".into(), "Bearer".to_string())),
        426 => response
            .headers
            .push(("upgrade".into(), "websocket".to_string())),
        _ => {}
    }
    response
}

/// The response of `/healthz` and `/readyz`, with what is not well.
pub fn health_response(problem: Option<&Problem>) -> Response {
    let Some(problem) = problem else {
        return line(200, b"{\"ok\":true}".to_vec());
    };
    let mut response = problem.response();
    response.body.splice(..1, *b"{\"ok\":false,");
    response
}

/// Appends the members of `item` from its required field `first` on, those in front of which are numbers, as the JSON
/// encoding spells them, each with a comma in front.
pub(super) fn put_members<'a, T: Item<'a>>(item: &T, first: usize, out: &mut Vec<u8>) {
    let mut fields = Vec::new();
    item.put_fields(&mut fields);
    let mut reader = Reader::new(&fields);
    let skipped = (0..first).try_for_each(|_| reader.u64().map(|_| ()));
    skipped
        .and_then(|()| put_json_members(&T::LAYOUT, first, &mut reader, out))
        .expect("the broker's own frames are sound");
}

/// An item as an object of the JSON encoding, from its required field `first` on; those in front of it must be numbers.
pub fn object<'a, T: Item<'a>>(item: &T, first: usize) -> String {
    let mut out = Vec::new();
    put_object(item, first, &mut out);
    String::from_utf8(out).expect("JSON is UTF-8")
}

/// Appends the same as an object.
fn put_object<'a, T: Item<'a>>(item: &T, first: usize, out: &mut Vec<u8>) {
    let start = out.len();
    put_members(item, first, out);
    out[start] = b'{';
    out.push(b'}');
}

/// A response that is one line of JSON.
fn line(status: u16, mut body: Vec<u8>) -> Response {
    body.push(b'\n');
    Response {
        status,
        content_type: JSON.into(),
        headers: Vec::new(),
        body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::field::Strings;
    use crate::protocol::frame::{Affected, Done, Groups};

    #[test]
    fn health_is_told_in_json() {
        let response = health_response(None);
        assert_eq!(
            (response.status, &*response.content_type, &*response.body),
            (200, JSON, b"{\"ok\":true}\n".as_slice())
        );
        let problem = Problem::new(503, "storage_unavailable", "the disk is full");
        let response = health_response(Some(&problem));
        assert_eq!(response.status, 503);
        assert_eq!(
            core::str::from_utf8(&response.body).unwrap(),
            "{\"ok\":false,\"code\":\"storage_unavailable\",\"message\":\"the disk is full\",\"retry_after_ms\":1000}\n"
        );
    }

    #[test]
    fn a_receipt_becomes_json() {
        let reply = Reply::Receipt(Receipt {
            request: REQUEST,
            partition: 2,
            offset: 5,
            sequence: 9,
            duplicate: false,
            schedule_id: Some(7),
            topic: None,
        });
        let response = response("a \"b\"\u{1}", &reply).unwrap();
        assert_eq!(response.status, 200);
        assert_eq!(
            core::str::from_utf8(&response.body).unwrap(),
            "{\"topic\":\"a \\\"b\\\"\\u0001\",\"partition\":2,\"offset\":5,\"sequence\":9,\"duplicate\":false,\"schedule_id\":7}\n"
        );
    }

    #[test]
    fn a_page_becomes_lines_and_offsets() {
        let headers = Headers::encode([("a", "1"), ("b", "2")]);
        let mut records = Vec::new();
        let record = Record {
            offset: 3,
            sequence: 8,
            timestamp: 1_000,
            payload: "é\n".as_bytes(),
            key: Some("k"),
            content_type: None,
            headers: Headers::parse(&headers).ok(),
            id: None,
            expires_at: None,
            reply_to: None,
            priority: None,
        };
        List::push(&mut records, &record);
        let binary = Record {
            offset: 4,
            payload: &[0xff, 0x00],
            key: None,
            headers: None,
            ..record
        };
        List::push(&mut records, &binary);
        let response = response(
            "t",
            &Reply::Page(Page {
                request: REQUEST,
                log_start_offset: 1,
                log_end_offset: 5,
                next_offset: 5,
                records: List::new(&records),
            }),
        )
        .unwrap();
        assert_eq!(response.content_type, NDJSON);
        assert_eq!(
            response.headers,
            [
                ("dunlin-next-offset".into(), "5".to_string()),
                ("dunlin-log-start-offset".into(), "1".to_string()),
                ("dunlin-log-end-offset".into(), "5".to_string()),
            ]
        );
        assert_eq!(
            core::str::from_utf8(&response.body).unwrap(),
            concat!(
                "{\"offset\":3,\"sequence\":8,\"timestamp\":1000,\"payload\":\"é\\n\",\"key\":\"k\",\"headers\":[[\"a\",\"1\"],[\"b\",\"2\"]]}\n",
                "{\"offset\":4,\"sequence\":8,\"timestamp\":1000,\"payload_base64\":\"/wA=\"}\n",
            )
        );
    }

    #[test]
    fn a_refusal_becomes_a_status_and_retry_after() {
        let reply = Reply::Failed(Failed {
            request: REQUEST,
            code: "storage_unavailable",
            message: "the store is full",
            retry_after_ms: Some(1_500),
        });
        let response = response("t", &reply).unwrap();
        assert_eq!(response.status, 503);
        assert_eq!(response.headers, [("retry-after".into(), "2".to_string())]);
        assert_eq!(
            response.body,
            b"{\"code\":\"storage_unavailable\",\"message\":\"the store is full\",\"retry_after_ms\":1500}\n"
        );
    }

    #[test]
    fn a_broker_that_forgot_the_greeting_was_lost() {
        let reply = Reply::Failed(Failed {
            request: REQUEST,
            code: "out_of_state",
            message: "the broker does not know this connection any more",
            retry_after_ms: None,
        });
        assert_eq!(response("t", &reply), Some(lost_response()));
        let reason = "out_of_state: connect again";
        assert_eq!(
            close_response(CloseCode::GoingAway, reason),
            lost_response()
        );
    }

    #[test]
    fn a_close_instead_of_a_reply_keeps_its_code() {
        let response = close_response(CloseCode::Policy, "unknown_namespace: no \"x\"");
        assert_eq!(response.status, 404);
        assert_eq!(
            response.body,
            b"{\"code\":\"unknown_namespace\",\"message\":\"no \\\"x\\\"\"}\n"
        );
        let response = close_response(CloseCode::GoingAway, "bye");
        assert_eq!(response.status, 503);
        assert_eq!(
            response.body,
            b"{\"code\":\"draining\",\"message\":\"bye\",\"retry_after_ms\":1000}\n"
        );
    }

    #[test]
    fn an_answer_is_the_body_and_what_http_carries_of_the_rest() {
        let headers = Headers::encode([
            ("Trace", "7"),
            ("two words", "x"),
            ("", "x"),
            ("line", "a\r\nset-cookie: b"),
            ("city", "Zürich"),
        ]);
        let answer = Answer {
            request: REQUEST,
            payload: &[0xff, 0],
            content_type: Some("image/png"),
            headers: Headers::parse(&headers).ok(),
        };
        let told = response("", &Reply::Response(answer)).unwrap();
        assert_eq!((told.status, &*told.content_type), (200, "image/png"));
        assert_eq!(
            told.headers,
            [("dunlin-header-trace".into(), "7".to_string())]
        );
        assert_eq!(told.body, [0xff, 0]);
        for content_type in [None, Some("text/html\r\nx: y"), Some(" text/html")] {
            let bare = Answer {
                content_type,
                headers: None,
                ..answer
            };
            let told = response("", &Reply::Response(bare)).unwrap();
            assert_eq!(told.content_type, OCTETS, "{content_type:?}");
        }
    }

    #[test]
    fn dead_letters_become_lines_and_the_place_to_read_on() {
        let mut records = Vec::new();
        let record = Record {
            offset: 3,
            sequence: 8,
            timestamp: 1_000,
            payload: b"x",
            key: None,
            content_type: None,
            headers: None,
            id: None,
            expires_at: None,
            reply_to: None,
            priority: None,
        };
        List::push(&mut records, &record);
        let told = response(
            "",
            &Reply::DeadLetters(DeadLetters {
                request: REQUEST,
                next_offset: 4,
                more: true,
                records: List::new(&records),
            }),
        )
        .unwrap();
        assert_eq!(
            told.headers,
            [
                ("dunlin-next-offset".into(), "4".to_string()),
                ("dunlin-more".into(), "true".to_string()),
            ]
        );
        assert_eq!(
            told.body,
            b"{\"offset\":3,\"sequence\":8,\"timestamp\":1000,\"payload\":\"x\"}\n"
        );
    }

    #[test]
    fn what_a_command_did_becomes_an_object() {
        let body = |reply| String::from_utf8(response("", &reply).unwrap().body).unwrap();
        let request = REQUEST;
        assert_eq!(body(Reply::Done(Done { request })), "{\"ok\":true}\n");
        let messages = 3;
        let affected = Affected { request, messages };
        assert_eq!(body(Reply::Affected(affected)), "{\"messages\":3}\n");
        let names = Strings::encode(["a", "b"]);
        let groups = Groups {
            request,
            groups: Strings::parse(&names).unwrap(),
            more: false,
        };
        assert_eq!(
            body(Reply::Groups(groups)),
            "{\"groups\":[\"a\",\"b\"],\"more\":false}\n"
        );
    }
}
