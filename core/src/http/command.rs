//! What a request asks of the broker, as frames: `hello` and one command.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::REQUEST;
use super::namespaces::configure_frames;
use super::problem::{Problem, status_of};
use super::query::{Query, parse_u64};
use super::response::{Response, response};
use super::route::Action;
use crate::error::ErrorCode;
use crate::inquiry::TIMEOUT_MS;
use crate::protocol::field::{Headers, List};
use crate::protocol::frame::{
    CancelScheduled, Command, DeadOffset, DeleteNamespace, DeleteRule, DescribeGroup,
    DescribeNamespace, DescribeUser, Explain, Export, Hello, Import, Kick, ListDevices, ListGroups,
    ListLimits, ListRules, ListScheduled, ListUsers, PROTOCOL_VERSION, Publish, Read,
    ReadDeadLetters, ReadMailbox, ReadPresence, ReplayDeadLetters, Reply, Request,
};
use crate::protocol::json::{json_to_frame, put_json_str};
use crate::wire::Reader;

/// The most records that one page of history or of dead letters asks for when the request names no limit.
pub const LIMIT_DEFAULT: u64 = 100;

/// A request as the broker will hear it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `hello` and the command, as one message in the binary encoding.
    pub frames: Vec<u8>,
    /// How long the broker may wait for somebody else before it replies, in milliseconds.
    pub answer_ms: u64,
}

impl Action {
    /// What the request says. `query` is the raw query of the URL, without the question mark. Of the headers those that
    /// are `content-type` or begin with `dunlin-` mean something to who publishes.
    pub fn ask<'h>(
        &self,
        query: &str,
        headers: impl IntoIterator<Item = (&'h str, &'h str)>,
        body: &[u8],
    ) -> Result<Asked, Problem> {
        let frames = match self {
            Self::Publish { topic } => publish_frames(topic, headers, body)?,
            Self::Read { topic } => read_frames(topic, query)?,
            Self::Request { topic } => return request(topic, query, headers, body),
            Self::ListGroups => {
                let query = Query::parse(query, &["after", "limit"])?;
                frames(&Command::ListGroups(ListGroups {
                    request: REQUEST,
                    after: query.get("after"),
                    groups_max: query.limit()?,
                }))
            }
            Self::DescribeGroup { group } => {
                Query::parse(query, &[])?;
                let request = REQUEST;
                frames(&Command::DescribeGroup(DescribeGroup { request, group }))
            }
            Self::ReadDeadLetters { group } => {
                let query = Query::parse(query, &["from", "limit", "filter", "reason"])?;
                frames(&Command::ReadDeadLetters(ReadDeadLetters {
                    request: REQUEST,
                    group,
                    from_offset: query.u64("from")?,
                    messages_max: Some(query.limit()?.unwrap_or(LIMIT_DEFAULT)),
                    filter: query.get("filter"),
                    reason: query.get("reason"),
                }))
            }
            Self::ReplayDeadLetters { group } => replay_frames(group, query, body)?,
            Self::ListScheduled => {
                let query = Query::parse(query, &["filter", "after", "limit"])?;
                frames(&Command::ListScheduled(ListScheduled {
                    request: REQUEST,
                    filter: query.get("filter"),
                    after: query.u64("after")?,
                    scheduled_max: query.limit()?,
                }))
            }
            Self::CancelScheduled { schedule_id } => {
                Query::parse(query, &[])?;
                frames(&Command::CancelScheduled(CancelScheduled {
                    request: REQUEST,
                    schedule_id: *schedule_id,
                }))
            }
            Self::ReadMailbox => {
                let query = Query::parse(query, &["after", "limit"])?;
                frames(&Command::ReadMailbox(ReadMailbox {
                    request: REQUEST,
                    after: query.u64("after")?,
                    messages_max: Some(query.limit()?.unwrap_or(LIMIT_DEFAULT)),
                }))
            }
            Self::ListUsers => {
                let query = Query::parse(query, &["after", "limit"])?;
                frames(&Command::ListUsers(ListUsers {
                    request: REQUEST,
                    after: query.get("after"),
                    users_max: query.limit()?,
                }))
            }
            Self::DescribeUser { user } => {
                Query::parse(query, &[])?;
                let request = REQUEST;
                frames(&Command::DescribeUser(DescribeUser { request, user }))
            }
            Self::ListDevices { user } => {
                let query = Query::parse(query, &["after", "limit"])?;
                frames(&Command::ListDevices(ListDevices {
                    request: REQUEST,
                    user: Some(user),
                    after: query.get("after"),
                    devices_max: query.limit()?,
                }))
            }
            Self::Kick { user, device } => {
                let query = Query::parse(query, &["reason"])?;
                frames(&Command::Kick(Kick {
                    request: REQUEST,
                    user,
                    device: device.as_deref(),
                    reason: query.get("reason"),
                }))
            }
            Self::DescribeNamespace => {
                let query = Query::parse(query, &["days"])?;
                frames(&Command::DescribeNamespace(DescribeNamespace {
                    request: REQUEST,
                    days: query.u64("days")?,
                }))
            }
            Self::ConfigureNamespace => {
                Query::parse(query, &[])?;
                configure_frames(body)?
            }
            Self::DeleteNamespace => {
                Query::parse(query, &[])?;
                frames(&Command::DeleteNamespace(DeleteNamespace {
                    request: REQUEST,
                }))
            }
            Self::ListLimits => {
                Query::parse(query, &[])?;
                frames(&Command::ListLimits(ListLimits { request: REQUEST }))
            }
            Self::ListRules => {
                Query::parse(query, &[])?;
                frames(&Command::ListRules(ListRules { request: REQUEST }))
            }
            Self::ConfigureRule { rule } => {
                Query::parse(query, &[])?;
                configure_rule_frames(rule, body)?
            }
            Self::DeleteRule { rule } => {
                Query::parse(query, &[])?;
                let request = REQUEST;
                frames(&Command::DeleteRule(DeleteRule { request, rule }))
            }
            Self::Explain { topic } => {
                Query::parse(query, &[])?;
                let nothing_further = |_: &str, _| Ok(());
                let described = Described::read(headers, &[], nothing_further)?;
                frames(&Command::Explain(Explain {
                    request: REQUEST,
                    topic,
                    payload: body,
                    key: described.key,
                    content_type: described.content_type,
                    headers: described.headers(),
                    id: described.id,
                }))
            }
            Self::ReadPresence { topic } => {
                let query = Query::parse(query, &["after", "limit"])?;
                frames(&Command::ReadPresence(ReadPresence {
                    request: REQUEST,
                    topic,
                    after: query.get("after"),
                    members_max: query.limit()?,
                }))
            }
        };
        Ok(Asked {
            frames,
            answer_ms: 0,
        })
    }

    /// The response to the command, or `None` for a frame that does not answer it.
    pub fn response(&self, reply: &Reply<'_>) -> Option<Response> {
        let topic = match self {
            Self::Publish { topic } => topic,
            _ => "",
        };
        response(topic, reply)
    }
}

/// The headers that say something of every message.
#[derive(Default)]
struct Described<'h> {
    key: Option<&'h str>,
    content_type: Option<&'h str>,
    id: Option<&'h str>,
    /// The message's own headers, as a frame spells them.
    pairs: Vec<u8>,
}

impl<'h> Described<'h> {
    /// Reads the headers; the `further` ones, which are named here without `dunlin-`, are given to `take`.
    fn read(
        headers: impl IntoIterator<Item = (&'h str, &'h str)>,
        further: &[&str],
        mut take: impl FnMut(&str, &'h str) -> Result<(), Problem>,
    ) -> Result<Self, Problem> {
        let mut described = Self::default();
        let mut pairs = Vec::new();
        for (name, value) in headers {
            let lower = name.to_ascii_lowercase();
            if lower == "content-type" {
                described.content_type = Some(value);
                continue;
            }
            let Some(own) = lower.strip_prefix("dunlin-") else {
                continue;
            };
            match (own, own.strip_prefix("header-")) {
                ("key", _) => described.key = Some(value),
                ("id", _) => described.id = Some(value),
                (_, Some(header)) if !header.is_empty() => pairs.push((header.to_string(), value)),
                _ if further.contains(&own) => take(own, value)?,
                _ => {
                    let further: String = further
                        .iter()
                        .map(|own| format!(", dunlin-{own}"))
                        .collect();
                    return Err(Problem::invalid(format!(
                        "unknown header {lower}; known are dunlin-key, dunlin-id{further} and dunlin-header-NAME"
                    )));
                }
            }
        }
        described.pairs =
            Headers::encode(pairs.iter().map(|(name, value)| (name.as_str(), *value)));
        Ok(described)
    }

    fn headers(&self) -> Option<Headers<'_>> {
        let headers = Headers::parse(&self.pairs).ok();
        headers.filter(|_| !self.pairs.is_empty())
    }
}

fn publish_frames<'h>(
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
        priority: None,
        durability: None,
        wait_ms: None,
    };
    let further = [
        "ttl-ms",
        "delay-ms",
        "deliver-at",
        "durability",
        "wait-ms",
        "producer",
        "producer-sequence",
        "priority",
    ];
    let described = Described::read(headers, &further, |name, value| {
        let number = || parse_u64(&format!("header dunlin-{name}"), value);
        match name {
            "ttl-ms" => publish.ttl_ms = Some(number()?),
            "delay-ms" => publish.delay_ms = Some(number()?),
            "deliver-at" => publish.deliver_at = Some(number()?),
            "wait-ms" => publish.wait_ms = Some(number()?),
            "producer-sequence" => publish.producer_sequence = Some(number()?),
            "priority" => publish.priority = Some(number()?),
            "producer" => publish.producer = Some(value),
            _ => publish.durability = Some(value),
        }
        Ok(())
    })?;
    Ok(frames(&Command::Publish(Publish {
        key: described.key,
        content_type: described.content_type,
        headers: described.headers(),
        id: described.id,
        ..publish
    })))
}

/// What asks for an answer to `body`.
fn request<'h>(
    topic: &str,
    query: &str,
    headers: impl IntoIterator<Item = (&'h str, &'h str)>,
    body: &[u8],
) -> Result<Asked, Problem> {
    Query::parse(query, &[])?;
    let mut timeout_ms = None;
    let described = Described::read(headers, &["timeout-ms"], |_, value| {
        timeout_ms = Some(parse_u64("header dunlin-timeout-ms", value)?);
        Ok(())
    })?;
    let command = Command::Request(Request {
        request: REQUEST,
        topic,
        payload: body,
        key: described.key,
        content_type: described.content_type,
        headers: described.headers(),
        id: described.id,
        timeout_ms,
    });
    Ok(Asked {
        frames: frames(&command),
        answer_ms: timeout_ms.unwrap_or(TIMEOUT_MS),
    })
}

/// The frames that read a page of history.
fn read_frames(topic: &str, query: &str) -> Result<Vec<u8>, Problem> {
    let query = Query::parse(query, &["from", "partition", "limit"])?;
    Ok(frames(&Command::Read(Read {
        request: REQUEST,
        topic,
        partition: query.u32("partition")?.unwrap_or(0),
        from: query.get("from"),
        messages_max: Some(query.limit()?.unwrap_or(LIMIT_DEFAULT)),
        bytes_max: None,
    })))
}

/// The frames that deliver dead letters again: those of `offsets`, or all.
fn replay_frames(group: &str, query: &str, body: &[u8]) -> Result<Vec<u8>, Problem> {
    if !body.is_empty() {
        // Taken for none, it would replay everything.
        return Err(Problem::invalid(
            "a replay has no body; name the dead letters in the URL, like ?offsets=3,5",
        ));
    }
    let query = Query::parse(query, &["offsets", "rate"])?;
    let mut offsets = Vec::new();
    for offset in query
        .get("offsets")
        .into_iter()
        .flat_map(|list| list.split(','))
    {
        let offset = parse_u64("an offset of parameter offsets", offset)?;
        List::push(&mut offsets, &DeadOffset { offset });
    }
    Ok(frames(&Command::ReplayDeadLetters(ReplayDeadLetters {
        request: REQUEST,
        group,
        offsets: (!offsets.is_empty()).then(|| List::new(&offsets)),
        rate: query.u64("rate")?,
    })))
}

/// The frames that set a rule: the body has the fields of `configure_rule` as in JSON frames.
fn configure_rule_frames(rule: &str, body: &[u8]) -> Result<Vec<u8>, Problem> {
    let malformed = |message: String| {
        let code = ErrorCode::MalformedFrame.as_str();
        Problem::new(status_of(code), code, message)
    };
    let body = core::str::from_utf8(body).ok().map(str::trim);
    let Some(fields) = body.and_then(|body| body.strip_prefix('{')) else {
        return Err(malformed(String::from(
            "the body must be a JSON object with fields of configure_rule, like {\"filter\":\"a/#\",\"then\":[{\"action\":\"drop\"}]}",
        )));
    };
    let mut line =
        format!("{{\"type\":\"configure_rule\",\"request\":{REQUEST},\"rule\":").into_bytes();
    put_json_str(rule, &mut line);
    if !fields.trim_start().starts_with('}') {
        line.push(b',');
    }
    line.extend_from_slice(fields.as_bytes());
    let line = core::str::from_utf8(&line).expect("it is made of texts");
    let mut frame = Vec::new();
    json_to_frame(line, Command::LAYOUTS, &mut frame).map_err(|error| malformed(error.message))?;
    let command = Reader::new(&frame).bytes().ok();
    let command = command.and_then(|frame| Command::decode(frame).ok());
    let command = command.expect("the transcoder writes whole frames");
    Ok(frames(&command))
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
pub(super) fn frames(command: &Command<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    Command::Hello(Hello {
        version: PROTOCOL_VERSION,
        client: Some("http"),
        ephemeral: (!matches!(command, Command::Subscribe(_))).then_some(true),
        echo: None,
    })
    .encode(&mut out);
    command.encode(&mut out);
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The command behind `hello`, as the broker will read it.
    pub(in super::super) fn command(frames: &[u8]) -> Command<'_> {
        let mut reader = Reader::new(frames);
        let hello = Command::decode(reader.bytes().unwrap()).unwrap();
        assert!(matches!(hello, Command::Hello(hello) if hello.version == PROTOCOL_VERSION));
        let command = Command::decode(reader.bytes().unwrap()).unwrap();
        assert!(reader.is_empty());
        command
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
                ("dunlin-priority", "4"),
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
        assert_eq!(publish.priority, Some(4));
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
            ("dunlin-priority", "high"),
            ("dunlin-delay-ms", "-1"),
            ("dunlin-deliver-at", "soon"),
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

    fn ask(
        action: &Action,
        query: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Asked, Problem> {
        action.ask(query, headers.iter().copied(), body.as_bytes())
    }

    #[test]
    fn a_request_waits_as_long_as_it_says() {
        let action = Action::Request { topic: "t".into() };
        let headers = [
            ("content-type", "text/plain"),
            ("dunlin-timeout-ms", "700"),
            ("dunlin-header-trace", "1"),
        ];
        let asked = ask(&action, "", &headers, "?").unwrap();
        assert_eq!(asked.answer_ms, 700);
        let Command::Request(request) = command(&asked.frames) else {
            panic!("not a request");
        };
        assert_eq!((request.topic, request.payload), ("t", b"?".as_slice()));
        assert_eq!(request.timeout_ms, Some(700));
        assert_eq!(request.content_type, Some("text/plain"));
        assert_eq!(request.headers.unwrap().iter().count(), 1);
        let asked = ask(&action, "", &[], "?").unwrap();
        assert_eq!(asked.answer_ms, TIMEOUT_MS);
        assert!(matches!(
            command(&asked.frames),
            Command::Request(request) if request.timeout_ms.is_none()
        ));
    }

    #[test]
    fn a_replay_names_its_offsets_or_none() {
        let action = Action::ReplayDeadLetters { group: "g".into() };
        let asked = ask(&action, "offsets=3,5&rate=10", &[], "").unwrap();
        let Command::ReplayDeadLetters(replay) = command(&asked.frames) else {
            panic!("not a replay");
        };
        let offsets = replay.offsets.unwrap().iter().flatten();
        let offsets: Vec<u64> = offsets.map(|offset| offset.offset).collect();
        assert_eq!((offsets, replay.rate), ([3, 5].to_vec(), Some(10)));
        let asked = ask(&action, "", &[], "").unwrap();
        assert!(matches!(
            command(&asked.frames),
            Command::ReplayDeadLetters(replay) if replay.offsets.is_none() && replay.group == "g"
        ));
    }

    #[test]
    fn parameters_become_fields() {
        let letters = Action::ReadDeadLetters { group: "g".into() };
        let query = "from=4&limit=2&filter=a/%23&reason=rejected";
        let asked = ask(&letters, query, &[], "").unwrap();
        let Command::ReadDeadLetters(read) = command(&asked.frames) else {
            panic!("not a read");
        };
        assert_eq!((read.from_offset, read.messages_max), (Some(4), Some(2)));
        assert_eq!((read.filter, read.reason), (Some("a/#"), Some("rejected")));
        let query = "filter=a&after=7&limit=2";
        let asked = ask(&Action::ListScheduled, query, &[], "").unwrap();
        let Command::ListScheduled(list) = command(&asked.frames) else {
            panic!("not a list");
        };
        assert_eq!(
            (list.filter, list.after, list.scheduled_max),
            (Some("a"), Some(7), Some(2))
        );
        let asked = ask(&Action::ListGroups, "after=g%20h&limit=2", &[], "").unwrap();
        let Command::ListGroups(list) = command(&asked.frames) else {
            panic!("not a list");
        };
        assert_eq!((list.after, list.groups_max), (Some("g h"), Some(2)));
        let read = Action::ReadPresence {
            topic: "a/b".into(),
        };
        let asked = ask(&read, "after=0%3A1:ab&limit=2", &[], "").unwrap();
        let Command::ReadPresence(read) = command(&asked.frames) else {
            panic!("not a read");
        };
        assert_eq!(read.topic, "a/b");
        assert_eq!((read.after, read.members_max), (Some("0:1:ab"), Some(2)));
    }

    #[test]
    fn a_wrong_request_names_what_is_wrong() {
        let group = || "g".into();
        let letters = Action::ReadDeadLetters { group: group() };
        let replay = Action::ReplayDeadLetters { group: group() };
        let request = Action::Request { topic: group() };
        let describe = Action::DescribeGroup { group: group() };
        let cancel = Action::CancelScheduled { schedule_id: 1 };
        let presence = Action::ReadPresence { topic: group() };
        for (action, query, headers, body, named) in [
            (&letters, "from=first", &[] as &[_], "", "from"),
            (&letters, "limit=0", &[], "", "limit"),
            (&letters, "offsets=1", &[], "", "offsets"),
            (&replay, "offsets=1,", &[], "", "offsets"),
            (&replay, "offsets=", &[], "", "offsets"),
            (&replay, "offsets=1,-2", &[], "", "-2"),
            (&replay, "rate=fast", &[], "", "rate"),
            (&replay, "", &[], "{\"offsets\":[1]}", "body"),
            (&request, "timeout=1", &[], "", "timeout"),
            (
                &request,
                "",
                &[("dunlin-timeout-ms", "1s")],
                "",
                "dunlin-timeout-ms",
            ),
            (&request, "", &[("dunlin-ttl-ms", "1")], "", "dunlin-ttl-ms"),
            (&describe, "limit=1", &[], "", "there is none here"),
            (&cancel, "x=1", &[], "", "\"x\""),
            (&Action::ListLimits, "scope=user", &[], "", "scope"),
            (&Action::ListGroups, "limit=0", &[], "", "limit"),
            (&Action::ListScheduled, "after=x", &[], "", "after"),
            (&presence, "from=x", &[], "", "from"),
            (&presence, "limit=0", &[], "", "limit"),
        ] {
            let problem = ask(action, query, headers, body).unwrap_err();
            assert_eq!((problem.status, problem.code), (400, "invalid_argument"));
            assert!(problem.message.contains(named), "{}", problem.message);
        }
    }

    #[test]
    fn a_rule_is_set_as_the_body_says() {
        let action = Action::ConfigureRule {
            rule: "r \"1\"".into(),
        };
        let body = b" {\n\"filter\":\"a/#\",\n\"then\":[{\"action\":\"drop\"}],\"order\":7}\n";
        let asked = action.ask("", [], body).unwrap();
        let Command::ConfigureRule(rule) = command(&asked.frames) else {
            panic!("it sets a rule")
        };
        assert_eq!((rule.request, rule.rule), (REQUEST, "r \"1\""));
        assert_eq!((rule.filter, rule.order), (Some("a/#"), Some(7)));
        assert_eq!(rule.then.map(|then| then.iter().count()), Some(1));
        let nothing = action.ask("", [], b"{ }").unwrap();
        assert!(matches!(
            command(&nothing.frames),
            Command::ConfigureRule(rule) if rule.filter.is_none()
        ));
        for (body, told) in [
            (&b""[..], "must be a JSON object"),
            (b"[]", "must be a JSON object"),
            (b"{\xff}", "must be a JSON object"),
            (b"{", "JSON"),
            (b"{\"filter\":5}", "\"filter\""),
            (b"{\"rule\":\"other\"}", "\"rule\""),
            (b"{\"type\":\"delete_topic\",\"topic\":\"a\"}", "\"type\""),
            (b"{}{\"type\":\"ping\"}", "JSON"),
        ] {
            let problem = action.ask("", [], body).unwrap_err();
            assert_eq!((problem.status, problem.code), (400, "malformed_frame"));
            assert!(
                problem.message.contains(told),
                "{told}: {}",
                problem.message
            );
        }
        assert_eq!(action.ask("a=b", [], b"{}").unwrap_err().status, 400);
    }

    #[test]
    fn a_message_is_explained_as_it_would_be_published() {
        let action = Action::Explain { topic: "a".into() };
        let headers = [
            ("dunlin-key", "k"),
            ("Dunlin-Header-X", "1"),
            ("accept", "*/*"),
        ];
        let asked = action.ask("", headers, b"{}").unwrap();
        let Command::Explain(explain) = command(&asked.frames) else {
            panic!("it asks for an explanation")
        };
        assert_eq!((explain.topic, explain.payload), ("a", &b"{}"[..]));
        assert_eq!(explain.key, Some("k"));
        let pairs: Vec<_> = explain.headers.unwrap().iter().collect();
        assert_eq!(pairs, [("x", "1")]);
        let refused = action.ask("", [("dunlin-ttl-ms", "5")], b"").unwrap_err();
        assert!(
            refused.message.contains("unknown header dunlin-ttl-ms"),
            "{}",
            refused.message
        );
    }
}
