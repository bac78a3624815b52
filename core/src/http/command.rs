//! What a request asks of the broker, as frames: `hello` and one command.

use alloc::format;
use alloc::string::ToString as _;
use alloc::vec::Vec;

use super::REQUEST;
use super::problem::Problem;
use super::query::{Query, parse_u64};
use crate::protocol::field::Headers;
use crate::protocol::frame::{Command, Export, Hello, Import, PROTOCOL_VERSION, Publish, Read};

/// The most records that one page of history asks for when the request names no limit.
pub const LIMIT_DEFAULT: u64 = 100;

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
    })
    .encode(&mut out);
    command.encode(&mut out);
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::wire::Reader;

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
}
