//! The pure half of the HTTP interface: what a request asks for, as frames, and what a reply looks like, as a response.
//!
//! Both the native host and the gateway at the edge use it, so that a URL means the same everywhere. It holds no
//! connection and decides nothing about the broker: a request becomes the frames that a WebSocket client would have
//! sent (`hello`, then one command numbered [`REQUEST`]), and the reply to that command becomes the response.
//!
//! ```text
//! GET  /v1/{namespace}/connect                                      a WebSocket
//! POST /v1/{namespace}/topics/{topic}                               publish the body
//! GET  /v1/{namespace}/topics/{topic}?from=&partition=&limit=       history, one record a line
//! GET  /v1/{namespace}/subscribe?filter=&from=&partition=           server-sent events
//! GET  /v1/{namespace}/export                                       the namespace as an archive
//! PUT  /v1/{namespace}/import                                       an archive becomes the namespace
//! GET  /healthz, /readyz                                            the host's own
//! ```
//!
//! `+` in a query is a plus sign, as in filters, never a space.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use percent_encoding::percent_decode_str;

use crate::effect::CloseCode;
use crate::error::ErrorCode;
use crate::input::Encoding;
use crate::namespace::check_namespace;
use crate::outbox::put_json;
use crate::protocol::field::{Headers, Item};
use crate::protocol::frame::{
    Command, Export, Failed, Hello, Import, Imported, PROTOCOL_VERSION, Page, Publish, Read,
    Receipt, Reply, SUBPROTOCOL_BINARY, SUBPROTOCOL_JSON, Subscribe,
};
use crate::protocol::json::{put_json_members, put_json_str};
use crate::wire::Reader;

/// The number of the one command that a request becomes; the reply carries it.
pub const REQUEST: u64 = 1;

/// The number of the one subscription that a stream of events has.
pub const SUBSCRIPTION: u32 = 1;

/// The most records that one page of history asks for when the request names no limit.
pub const LIMIT_DEFAULT: u64 = 100;

/// How long a client waits before it tries again, in milliseconds, where nobody knows better.
const RETRY_AFTER_DEFAULT_MS: u64 = 1_000;

/// The media type of a response that is one JSON value.
pub const JSON: &str = "application/json";

/// The media type of history: one JSON object a line.
pub const NDJSON: &str = "application/x-ndjson";

/// The media type of an archive.
pub const ARCHIVE: &str = "application/vnd.dunlin.archive";

/// How many bytes of an archive a host gives to the broker at once.
pub const IMPORT_PART_BYTES: usize = 256 << 10;

/// What a method and a path ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Whether the process is alive.
    Healthz,
    /// Whether it takes new work.
    Readyz,
    /// A WebSocket to a namespace.
    Connect {
        /// The namespace, decoded.
        namespace: String,
    },
    /// Publish the body.
    Publish {
        /// The namespace, decoded.
        namespace: String,
        /// The topic, decoded; the broker judges it.
        topic: String,
    },
    /// Read stored messages.
    Read {
        /// The namespace, decoded.
        namespace: String,
        /// The topic, decoded; the broker judges it.
        topic: String,
    },
    /// A stream of events.
    Subscribe {
        /// The namespace, decoded.
        namespace: String,
    },
    /// The namespace as an archive.
    Export {
        /// The namespace, decoded.
        namespace: String,
    },
    /// An archive becomes the namespace.
    Import {
        /// The namespace, decoded.
        namespace: String,
    },
}

impl Route {
    /// The namespace that the request is about, if any.
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Healthz | Self::Readyz => None,
            Self::Connect { namespace }
            | Self::Publish { namespace, .. }
            | Self::Read { namespace, .. }
            | Self::Subscribe { namespace }
            | Self::Export { namespace }
            | Self::Import { namespace } => Some(namespace),
        }
    }

    /// Reads a method and the raw path of a URL. `None` means that no API lives there (a console may).
    pub fn parse(method: &str, path: &str) -> Option<Result<Self, Problem>> {
        let route = match path {
            "/healthz" => Self::Healthz,
            "/readyz" => Self::Readyz,
            _ => match Self::parse_versioned(method, path.strip_prefix("/v1/")?) {
                Ok(route) => route,
                Err(problem) => return Some(Err(problem)),
            },
        };
        let allow = match route {
            Self::Publish { .. } | Self::Read { .. } => "GET, HEAD, POST",
            Self::Export { .. } => "GET",
            Self::Import { .. } => "PUT",
            _ => "GET, HEAD",
        };
        let allowed = match route {
            Self::Publish { .. } => method == "POST",
            _ => method != "POST" && allow.split(", ").any(|allowed| allowed == method),
        };
        Some(if allowed {
            Ok(route)
        } else {
            let message = format!("{method} is not possible on {path}; use {allow}");
            Err(Problem {
                allow: Some(allow),
                ..Problem::new(405, METHOD_NOT_ALLOWED, message)
            })
        })
    }

    fn parse_versioned(method: &str, path: &str) -> Result<Self, Problem> {
        let (namespace, rest) = path.split_once('/').unwrap_or((path, ""));
        let namespace = decode(namespace, "namespace")?;
        check_namespace(&namespace).map_err(|refusal| {
            let code = refusal.code.as_str();
            Problem::new(status_of(code), code, refusal.message)
        })?;
        let namespace = namespace.into_owned();
        match rest.split_once('/').unwrap_or((rest, "")) {
            ("connect", "") => Ok(Self::Connect { namespace }),
            ("subscribe", "") => Ok(Self::Subscribe { namespace }),
            ("export", "") => Ok(Self::Export { namespace }),
            ("import", "") => Ok(Self::Import { namespace }),
            ("topics", topic) if !topic.is_empty() => {
                let topic = decode(topic, "topic")?.into_owned();
                Ok(if method == "POST" {
                    Self::Publish { namespace, topic }
                } else {
                    Self::Read { namespace, topic }
                })
            }
            _ => Err(Problem::new(
                404,
                UNKNOWN_ROUTE,
                format!(
                    "nothing is at /v1/{path}; there are connect, subscribe, topics/{{topic}}, export and import below /v1/{{namespace}}/"
                ),
            )),
        }
    }
}

/// The code of a path without an API.
pub const UNKNOWN_ROUTE: &str = "unknown_route";

/// The code of a method that the path does not have.
pub const METHOD_NOT_ALLOWED: &str = "method_not_allowed";

/// The code of a request without the token that it needs.
pub const UNAUTHORISED: &str = "unauthorised";

/// The code of a path, query or header that cannot be read.
pub const MALFORMED_REQUEST: &str = "malformed_request";

/// The code of a request for a WebSocket that is none.
pub const UPGRADE_REQUIRED: &str = "upgrade_required";

/// The code of a request from a web page that may not use the broker, or to a name that is not the broker's.
pub const FORBIDDEN_ORIGIN: &str = "forbidden_origin";

/// The code of a gateway whose settings cannot be read.
pub const MISCONFIGURED: &str = "misconfigured";

/// The codes that only HTTP has, with their statuses; those of the broker have [`status_of`].
pub const CODES: [(&str, u16); 7] = [
    (MALFORMED_REQUEST, 400),
    (UNAUTHORISED, 401),
    (FORBIDDEN_ORIGIN, 403),
    (UNKNOWN_ROUTE, 404),
    (METHOD_NOT_ALLOWED, 405),
    (UPGRADE_REQUIRED, 426),
    (MISCONFIGURED, 500),
];

/// Why a request cannot become a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The stable code.
    pub code: &'static str,
    /// What is wrong, which, and what to do.
    pub message: String,
    /// The methods that the path has, where the one of the request is not among them.
    pub allow: Option<&'static str>,
}

impl Problem {
    /// A problem with its status, stable code and message.
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            allow: None,
        }
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, ErrorCode::InvalidArgument.as_str(), message)
    }

    /// The response that tells it.
    pub fn response(&self) -> Response {
        let mut response = error_response(self.status, self.code, &self.message, None);
        if let Some(allow) = self.allow {
            response.headers.push(("allow", allow.to_string()));
        }
        response
    }
}

/// The encoding that a WebSocket speaks, and the subprotocol to answer with: the first of those that the client offers
/// which is known. JSON, and no subprotocol, where it offers none.
pub fn subprotocol<'o>(
    offered: impl IntoIterator<Item = &'o str>,
) -> Result<(Encoding, Option<&'static str>), Problem> {
    let mut unknown = Vec::new();
    for name in offered {
        match name {
            SUBPROTOCOL_BINARY => return Ok((Encoding::Binary, Some(SUBPROTOCOL_BINARY))),
            SUBPROTOCOL_JSON => return Ok((Encoding::Json, Some(SUBPROTOCOL_JSON))),
            _ => unknown.push(name),
        }
    }
    if unknown.is_empty() {
        return Ok((Encoding::Json, None));
    }
    let code = ErrorCode::UnsupportedVersion.as_str();
    Err(Problem::new(
        status_of(code),
        code,
        format!(
            "none of the subprotocols \"{}\" is known; offer {SUBPROTOCOL_BINARY} or {SUBPROTOCOL_JSON}",
            unknown.join(", ")
        ),
    ))
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

/// What goes back to an HTTP client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The media type of the body.
    pub content_type: &'static str,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// The frames that publish `body`. Reads the headers `content-type` and `dunlin-…`; other headers mean nothing here.
pub fn publish_frames<'h>(
    topic: &str,
    headers: impl IntoIterator<Item = (&'h str, &'h str)>,
    body: &[u8],
) -> Result<Vec<u8>, Problem> {
    let mut publish = Publish {
        request: REQUEST,
        topic,
        payload: body,
        key: None,
        content_type: None,
        headers: None,
        id: None,
        ttl_ms: None,
        delay_ms: None,
        deliver_at: None,
        producer: None,
        producer_sequence: None,
        durability: None,
        wait_ms: None,
    };
    let mut pairs = Vec::new();
    for (name, value) in headers {
        let lower = name.to_ascii_lowercase();
        if lower == "content-type" {
            publish.content_type = Some(value);
            continue;
        }
        let Some(own) = lower.strip_prefix("dunlin-") else {
            continue;
        };
        match own {
            "key" => publish.key = Some(value),
            "id" => publish.id = Some(value),
            "ttl-ms" => publish.ttl_ms = Some(parse_u64("header dunlin-ttl-ms", value)?),
            "delay-ms" => publish.delay_ms = Some(parse_u64("header dunlin-delay-ms", value)?),
            "deliver-at" => {
                publish.deliver_at = Some(parse_u64("header dunlin-deliver-at", value)?);
            }
            "durability" => publish.durability = Some(value),
            "producer" => publish.producer = Some(value),
            "producer-sequence" => {
                publish.producer_sequence =
                    Some(parse_u64("header dunlin-producer-sequence", value)?);
            }
            "wait-ms" => publish.wait_ms = Some(parse_u64("header dunlin-wait-ms", value)?),
            _ => match own.strip_prefix("header-") {
                Some(header) if !header.is_empty() => pairs.push((header.to_string(), value)),
                _ => {
                    return Err(Problem::invalid(format!(
                        "unknown header {lower}; known are dunlin-key, dunlin-id, dunlin-ttl-ms, dunlin-delay-ms, dunlin-deliver-at, dunlin-durability, dunlin-wait-ms, dunlin-producer, dunlin-producer-sequence and dunlin-header-NAME"
                    )));
                }
            },
        }
    }
    let pairs = Headers::encode(pairs.iter().map(|(name, value)| (name.as_str(), *value)));
    if !pairs.is_empty() {
        publish.headers = Headers::parse(&pairs).ok();
    }
    Ok(frames(&Command::Publish(publish)))
}

/// The frames that read a page of history; `query` is the raw query of the URL, without the question mark.
pub fn read_frames(topic: &str, query: &str) -> Result<Vec<u8>, Problem> {
    let query = Query::parse(query, &["from", "partition", "limit"])?;
    let limit = query.u64("limit")?.unwrap_or(LIMIT_DEFAULT);
    if limit == 0 {
        return Err(Problem::invalid(
            "limit 0 reads nothing; ask for at least 1",
        ));
    }
    Ok(frames(&Command::Read(Read {
        request: REQUEST,
        topic,
        partition: query.u32("partition")?.unwrap_or(0),
        from: query.get("from"),
        messages_max: Some(limit),
        bytes_max: None,
    })))
}

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

/// The frames that ask for the next part of an archive; the first part of `export` 0 begins one. The reply is
/// [`Reply::ArchivePart`].
pub fn export_frames(export: u64, part: u64) -> Vec<u8> {
    frames(&Command::Export(Export {
        request: REQUEST,
        export,
        part,
    }))
}

/// The frames that give the next part of an archive; the first part of `import` 0 begins. The reply is
/// [`Reply::Imported`].
pub fn import_frames(import: u64, part: u64, last: bool, bytes: &[u8]) -> Vec<u8> {
    frames(&Command::Import(Import {
        request: REQUEST,
        import,
        part,
        last,
        bytes,
    }))
}

/// `hello` and the command, as one message in the binary encoding. Only a stream of events outlives its command.
fn frames(command: &Command<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    Command::Hello(Hello {
        version: PROTOCOL_VERSION,
        client: Some("http"),
        ephemeral: (!matches!(command, Command::Subscribe(_))).then_some(true),
    })
    .encode(&mut out);
    command.encode(&mut out);
    out
}

/// The response to the command, or `None` for a frame that does not answer it. `topic` is the one of the request.
pub fn response(topic: &str, reply: &Reply<'_>) -> Option<Response> {
    match reply {
        Reply::Receipt(receipt) => Some(receipt_response(topic, receipt)),
        Reply::Page(page) => Some(page_response(page)),
        Reply::Imported(imported) => Some(imported_response(imported)),
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

fn receipt_response(topic: &str, receipt: &Receipt) -> Response {
    let mut body = b"{\"topic\":".to_vec();
    put_json_str(topic, &mut body);
    put_members(receipt, 1, &mut body);
    body.push(b'}');
    line(200, body)
}

fn page_response(page: &Page<'_>) -> Response {
    let mut body = Vec::new();
    for record in page.records.iter().flatten() {
        put_object(&record, 0, &mut body);
        body.push(b'\n');
    }
    Response {
        status: 200,
        content_type: NDJSON,
        headers: vec![
            ("dunlin-next-offset", page.next_offset.to_string()),
            ("dunlin-log-start-offset", page.log_start_offset.to_string()),
            ("dunlin-log-end-offset", page.log_end_offset.to_string()),
        ],
        body,
    }
}

fn imported_response(imported: &Imported) -> Response {
    let mut body = Vec::new();
    put_object(imported, 3, &mut body);
    line(200, body)
}

fn failed_response(failed: &Failed<'_>) -> Response {
    error_response(
        status_of(failed.code),
        failed.code,
        failed.message,
        failed.retry_after_ms,
    )
}

fn error_response(status: u16, code: &str, message: &str, retry_after_ms: Option<u64>) -> Response {
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
        response.headers.push(("retry-after", seconds));
    }
    match status {
        401 => response
            .headers
            .push(("www-authenticate", "Bearer".to_string())),
        426 => response.headers.push(("upgrade", "websocket".to_string())),
        _ => {}
    }
    response
}

/// The HTTP status of a stable code.
pub fn status_of(code: &str) -> u16 {
    let Some(code) = ErrorCode::ALL.iter().find(|known| known.as_str() == code) else {
        return 500;
    };
    match code {
        ErrorCode::TooLarge => 413,
        ErrorCode::Forbidden => 403,
        ErrorCode::UnknownNamespace
        | ErrorCode::UnknownTopic
        | ErrorCode::UnknownPartition
        | ErrorCode::UnknownSubscription
        | ErrorCode::UnknownSchedule
        | ErrorCode::UnknownRequest
        | ErrorCode::UnknownTransfer
        | ErrorCode::UnknownGroup
        | ErrorCode::UnknownMember
        | ErrorCode::UnknownLease => 404,
        ErrorCode::OffsetOutOfRange => 416,
        ErrorCode::ConflictingConfig
        | ErrorCode::Busy
        | ErrorCode::StaleGeneration
        | ErrorCode::MemberReplaced => 409,
        ErrorCode::LimitReached
        | ErrorCode::RateLimited
        | ErrorCode::SubscriberBlocked
        | ErrorCode::DedupWindowFull => 429,
        ErrorCode::StorageUnavailable
        | ErrorCode::Draining
        | ErrorCode::SlowConsumer
        | ErrorCode::NoResponders => 503,
        ErrorCode::Timeout => 504,
        ErrorCode::Unsupported => 501,
        _ => 400,
    }
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

/// The decoded parameters of a query, each known and named once.
struct Query<'q> {
    pairs: Vec<(&'q str, Cow<'q, str>)>,
}

impl<'q> Query<'q> {
    /// `token` is passed over: it belongs to the host, which looked at it before.
    fn parse(query: &'q str, known: &[&str]) -> Result<Self, Problem> {
        let mut pairs: Vec<(&str, Cow<'_, str>)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if name == "token" {
                continue;
            }
            if !known.contains(&name) {
                return Err(Problem::invalid(format!(
                    "unknown parameter \"{name}\"; known are {}",
                    known.join(", ")
                )));
            }
            if pairs.iter().any(|(earlier, _)| *earlier == name) {
                return Err(Problem::invalid(format!(
                    "the parameter {name} stands twice; say it once"
                )));
            }
            pairs.push((name, decode(value, name)?));
        }
        Ok(Self { pairs })
    }

    fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.pairs.iter().find(|(known, _)| *known == name)?;
        Some(value)
    }

    fn u64(&self, name: &str) -> Result<Option<u64>, Problem> {
        self.get(name)
            .map(|value| parse_u64(&format!("parameter {name}"), value))
            .transpose()
    }

    fn u32(&self, name: &str) -> Result<Option<u32>, Problem> {
        let Some(wide) = self.u64(name)? else {
            return Ok(None);
        };
        u32::try_from(wide).map(Some).map_err(|_| {
            Problem::invalid(format!("{name} {wide} is too large; at most {}", u32::MAX))
        })
    }
}

/// The value of parameter `name` in a raw query, decoded; what a host needs for `token`.
pub fn query_parameter<'q>(query: &'q str, name: &str) -> Option<Cow<'q, str>> {
    let (_, value) = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(known, _)| *known == name)?;
    decode(value, name).ok()
}

fn parse_u64(what: &str, value: &str) -> Result<u64, Problem> {
    // `u64::from_str` would also take a leading plus sign.
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| value.parse().ok()).flatten().ok_or_else(|| {
        Problem::invalid(format!(
            "{what} is \"{value}\"; it must be a whole number from 0 to {}",
            u64::MAX
        ))
    })
}

fn decode<'t>(text: &'t str, what: &str) -> Result<Cow<'t, str>, Problem> {
    let malformed =
        |why: &str| Problem::new(400, MALFORMED_REQUEST, format!("{what} \"{text}\" {why}"));
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|&byte| byte == b'%') {
        rest = match rest.get(at + 1..at + 3) {
            Some(hex) if hex.iter().all(u8::is_ascii_hexdigit) => &rest[at + 3..],
            _ => {
                return Err(malformed(
                    "has a % without two hexadecimal digits; write %25",
                ));
            }
        };
    }
    percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| malformed("is not UTF-8 once its escapes are decoded"))
}

/// Appends the members of `item` from its required field `first` on, those in front of which are numbers, as the JSON
/// encoding spells them, each with a comma in front.
fn put_members<'a, T: Item<'a>>(item: &T, first: usize, out: &mut Vec<u8>) {
    let mut fields = Vec::new();
    item.put_fields(&mut fields);
    let mut reader = Reader::new(&fields);
    let skipped = (0..first).try_for_each(|_| reader.u64().map(|_| ()));
    skipped
        .and_then(|()| put_json_members(&T::LAYOUT, first, &mut reader, out))
        .expect("the broker's own frames are sound");
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
        content_type: JSON,
        headers: Vec::new(),
        body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::field::List;
    use crate::protocol::frame::{Delivery, Record, Subscribed};

    fn route(method: &str, path: &str) -> Route {
        Route::parse(method, path).unwrap().unwrap()
    }

    fn refused(method: &str, path: &str) -> (u16, &'static str) {
        let problem = Route::parse(method, path).unwrap().unwrap_err();
        assert!(!problem.message.is_empty());
        (problem.status, problem.code)
    }

    /// The command behind `hello`, as the broker will read it.
    fn command(frames: &[u8]) -> Command<'_> {
        let mut reader = Reader::new(frames);
        let hello = Command::decode(reader.bytes().unwrap()).unwrap();
        assert!(matches!(hello, Command::Hello(hello) if hello.version == PROTOCOL_VERSION));
        let command = Command::decode(reader.bytes().unwrap()).unwrap();
        assert!(reader.is_empty());
        command
    }

    #[test]
    fn a_topic_is_the_decoded_rest_of_the_path() {
        assert_eq!(
            route("POST", "/v1/main/topics/a/b%20c/%2B%C3%A9"),
            Route::Publish {
                namespace: "main".into(),
                topic: "a/b c/+é".into()
            }
        );
        assert_eq!(
            route("GET", "/v1/m%2dn/topics//a/"),
            Route::Read {
                namespace: "m-n".into(),
                topic: "/a/".into()
            }
        );
    }

    #[test]
    fn every_path_has_its_route() {
        let namespace = || "n".into();
        assert_eq!(route("GET", "/healthz"), Route::Healthz);
        assert_eq!(route("HEAD", "/readyz"), Route::Readyz);
        assert_eq!(
            route("GET", "/v1/n/connect"),
            Route::Connect {
                namespace: namespace()
            }
        );
        assert_eq!(
            route("GET", "/v1/n/subscribe"),
            Route::Subscribe {
                namespace: namespace()
            }
        );
        assert_eq!(
            route("GET", "/v1/n/export"),
            Route::Export {
                namespace: namespace()
            }
        );
        assert_eq!(
            route("PUT", "/v1/n/import"),
            Route::Import {
                namespace: namespace()
            }
        );
        assert_eq!(Route::parse("GET", "/"), None);
        assert_eq!(Route::parse("GET", "/v2/n/connect"), None);
        assert_eq!(Route::parse("GET", "/index.html"), None);
    }

    #[test]
    fn a_wrong_path_is_refused_with_its_code() {
        let long = format!("/v1/{}/connect", "n".repeat(65));
        for (method, path, expected) in [
            ("GET", "/v1/", (404, "unknown_namespace")),
            ("GET", "/v1//connect", (404, "unknown_namespace")),
            ("GET", long.as_str(), (404, "unknown_namespace")),
            ("GET", "/v1/a%00b/connect", (404, "unknown_namespace")),
            ("GET", "/v1/a%ff/connect", (400, MALFORMED_REQUEST)),
            ("GET", "/v1/n/topics/a%", (400, MALFORMED_REQUEST)),
            ("GET", "/v1/n/topics/a%4", (400, MALFORMED_REQUEST)),
            ("GET", "/v1/n/topics/a%zz", (400, MALFORMED_REQUEST)),
            ("GET", "/v1/n", (404, UNKNOWN_ROUTE)),
            ("GET", "/v1/n/topics", (404, UNKNOWN_ROUTE)),
            ("GET", "/v1/n/topics/", (404, UNKNOWN_ROUTE)),
            ("GET", "/v1/n/connect/x", (404, UNKNOWN_ROUTE)),
            ("POST", "/v1/n/connect", (405, METHOD_NOT_ALLOWED)),
            ("DELETE", "/v1/n/topics/a", (405, METHOD_NOT_ALLOWED)),
            ("POST", "/healthz", (405, METHOD_NOT_ALLOWED)),
        ] {
            assert_eq!(refused(method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn a_method_that_is_not_possible_is_answered_with_those_that_are() {
        for (method, path, allow) in [
            ("POST", "/healthz", "GET, HEAD"),
            ("POST", "/v1/n/subscribe", "GET, HEAD"),
            ("HEAD", "/v1/n/export", "GET"),
            ("POST", "/v1/n/import", "PUT"),
            ("GET", "/v1/n/import", "PUT"),
            ("DELETE", "/v1/n/topics/a", "GET, HEAD, POST"),
        ] {
            let problem = Route::parse(method, path).unwrap().unwrap_err();
            let allow = ("allow", allow.to_string());
            assert_eq!(problem.response().headers, [allow], "{method} {path}");
        }
    }

    #[test]
    fn the_first_known_subprotocol_is_spoken() {
        assert_eq!(subprotocol([]), Ok((Encoding::Json, None)));
        assert_eq!(
            subprotocol(["dunlin.v9", "dunlin.v1.binary", "dunlin.v1.json"]),
            Ok((Encoding::Binary, Some(SUBPROTOCOL_BINARY)))
        );
        assert_eq!(
            subprotocol(["dunlin.v1.json"]),
            Ok((Encoding::Json, Some(SUBPROTOCOL_JSON)))
        );
        for offered in [&["mqtt"] as &[_], &["dunlin.v2.json", "mqtt"], &[""]] {
            let problem = subprotocol(offered.iter().copied()).unwrap_err();
            assert_eq!((problem.status, problem.code), (400, "unsupported_version"));
            assert!(problem.message.contains(&offered.join(", ")));
        }
    }

    #[test]
    fn health_is_told_in_json() {
        let response = health_response(None);
        assert_eq!(
            (response.status, response.content_type, &*response.body),
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
    fn a_status_comes_with_the_header_that_it_needs() {
        for (status, header) in [
            (401, Some(("www-authenticate", "Bearer"))),
            (404, None),
            (426, Some(("upgrade", "websocket"))),
            (503, Some(("retry-after", "1"))),
        ] {
            let headers = Problem::new(status, "code", "why").response().headers;
            let expected: Vec<_> = header
                .map(|(name, value)| (name, value.to_string()))
                .into_iter()
                .collect();
            assert_eq!(headers, expected, "{status}");
        }
    }

    #[test]
    fn headers_of_a_publish_become_its_fields() {
        let frames = publish_frames(
            "t",
            [
                ("Content-Type", "text/plain"),
                ("Dunlin-Key", "k"),
                ("dunlin-id", "i"),
                ("dunlin-ttl-ms", "5"),
                ("dunlin-durability", "sync"),
                ("dunlin-delay-ms", "9"),
                ("dunlin-deliver-at", "10"),
                ("dunlin-producer", "p"),
                ("dunlin-producer-sequence", "7"),
                ("dunlin-header-trace", "1"),
                ("dunlin-header-trace", "2"),
                ("accept", "*/*"),
            ],
            b"body",
        )
        .unwrap();
        let Command::Publish(publish) = command(&frames) else {
            panic!("not a publish");
        };
        assert_eq!(publish.request, REQUEST);
        assert_eq!((publish.topic, publish.payload), ("t", b"body".as_slice()));
        assert_eq!(publish.key, Some("k"));
        assert_eq!(publish.content_type, Some("text/plain"));
        assert_eq!(publish.id, Some("i"));
        assert_eq!(publish.ttl_ms, Some(5));
        assert_eq!(publish.durability, Some("sync"));
        assert_eq!((publish.delay_ms, publish.deliver_at), (Some(9), Some(10)));
        assert_eq!(
            publish.producer.zip(publish.producer_sequence),
            Some(("p", 7))
        );
        let headers: Vec<_> = publish.headers.unwrap().iter().collect();
        assert_eq!(headers, [("trace", "1"), ("trace", "2")]);
    }

    #[test]
    fn a_wrong_header_names_itself() {
        for (name, value) in [
            ("dunlin-ttl-ms", "-1"),
            ("dunlin-ttl-ms", "+1"),
            ("dunlin-ttl-ms", ""),
            ("dunlin-ttl-ms", "18446744073709551616"),
            ("dunlin-producer-sequence", "-1"),
            ("dunlin-delay-ms", "-1"),
            ("dunlin-deliver-at", "soon"),
            ("dunlin-priority", "1"),
            ("dunlin-header-", "x"),
        ] {
            let problem = publish_frames("t", [(name, value)], b"").unwrap_err();
            assert_eq!((problem.status, problem.code), (400, "invalid_argument"));
            assert!(problem.message.contains(name), "{}", problem.message);
        }
    }

    #[test]
    fn a_query_becomes_a_read() {
        let frames = read_frames("t", "from=last%3A3&partition=2&limit=7&token=secret").unwrap();
        let Command::Read(read) = command(&frames) else {
            panic!("not a read");
        };
        assert_eq!(read.from, Some("last:3"));
        assert_eq!((read.partition, read.messages_max), (2, Some(7)));

        let frames = read_frames("t", "").unwrap();
        let Command::Read(read) = command(&frames) else {
            panic!("not a read");
        };
        assert_eq!(read.from, None);
        assert_eq!(
            (read.partition, read.messages_max),
            (0, Some(LIMIT_DEFAULT))
        );
    }

    #[test]
    fn a_wrong_query_names_the_parameter() {
        for (query, named) in [
            ("limit=-1", "limit"),
            ("limit=0", "limit"),
            ("limit=99999999999999999999", "limit"),
            ("limit=ten", "limit"),
            ("partition=4294967296", "partition"),
            ("partition=", "partition"),
            ("form=earliest", "form"),
            ("from=a&from=b", "from"),
            ("from=%", "from"),
        ] {
            let problem = read_frames("t", query).unwrap_err();
            assert_eq!(problem.status, 400, "{query}");
            assert!(problem.message.contains(named), "{}", problem.message);
        }
    }

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
    fn a_receipt_becomes_json() {
        let reply = Reply::Receipt(Receipt {
            request: REQUEST,
            partition: 2,
            offset: 5,
            sequence: 9,
            duplicate: false,
            schedule_id: Some(7),
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
                ("dunlin-next-offset", "5".to_string()),
                ("dunlin-log-start-offset", "1".to_string()),
                ("dunlin-log-end-offset", "5".to_string()),
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
        assert_eq!(response.headers, [("retry-after", "2".to_string())]);
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
    fn every_code_has_a_status_of_a_refusal() {
        for code in ErrorCode::ALL {
            assert!((400..600).contains(&status_of(code.as_str())), "{code:?}");
        }
        assert_eq!(status_of("made_up"), 500);
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

    #[test]
    fn a_token_is_found_in_any_query() {
        assert_eq!(
            query_parameter("filter=a&token=s%2Fx", "token").as_deref(),
            Some("s/x")
        );
        assert_eq!(query_parameter("tokens=1", "token"), None);
    }
}
