//! The specification and the code say the same: every example of `core/PROTOCOL.md` in both encodings, its tables of
//! frames and codes against the vocabulary, and its test vectors for the placing of keys.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use dunlin_core::frame::{Command, JsonError, Layouts, Reply, frame_to_json, json_to_frame};
use dunlin_core::http::{self, Action, Route};
use dunlin_core::{CloseCode, ErrorCode, Partition, Reader, partition_of};

static SPECIFICATION: LazyLock<String> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/PROTOCOL.md");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
});

/// An example: the line of the specification, the JSON, the bytes.
struct Example {
    line: usize,
    json: &'static str,
    bytes: Vec<u8>,
}

/// The fenced blocks of JSON, each with the block of hex that must follow it.
fn examples() -> Vec<Example> {
    let mut examples = Vec::new();
    let mut lines = SPECIFICATION.lines().enumerate();
    let mut waiting: Option<(usize, &str)> = None;
    while let Some((index, line)) = lines.next() {
        let fence = match line {
            "```json" => "json",
            "```hex" => "hex",
            _ => continue,
        };
        let block: Vec<&str> = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| *line != "```")
            .collect();
        let number = index + 2;
        match (fence, waiting.take()) {
            ("json", None) => {
                let [json] = block[..] else {
                    panic!("PROTOCOL.md:{number}: an example is one line of JSON");
                };
                waiting = Some((number, json));
            }
            ("hex", Some((line, json))) => {
                let digits = block.join(" ");
                let bytes = digits.split_whitespace().map(|pair| {
                    u8::from_str_radix(pair, 16)
                        .unwrap_or_else(|_| panic!("PROTOCOL.md:{number}: {pair} is not a byte"))
                });
                let bytes = bytes.collect();
                examples.push(Example { line, json, bytes });
            }
            _ => panic!("PROTOCOL.md:{number}: JSON and hex must stand in pairs"),
        }
    }
    assert!(
        waiting.is_none(),
        "PROTOCOL.md: the last JSON lacks its hex"
    );
    examples
}

/// The frames that an example is one of: a client's kinds are below 128, the broker's above.
fn layouts(bytes: &[u8], line: usize) -> Layouts {
    let mut reader = Reader::new(bytes);
    let frame = reader
        .bytes()
        .unwrap_or_else(|_| panic!("PROTOCOL.md:{line}: not a frame"));
    assert!(reader.is_empty(), "PROTOCOL.md:{line}: bytes are left over");
    if frame[0] < 128 {
        Command::LAYOUTS
    } else {
        Reply::LAYOUTS
    }
}

#[test]
fn every_example_says_the_same_in_both_encodings() {
    for Example { line, json, bytes } in examples() {
        let layouts = layouts(&bytes, line);
        let mut spelt = Vec::new();
        let told = json_to_frame(json, layouts, &mut spelt);
        assert_eq!(told, Ok::<(), JsonError>(()), "PROTOCOL.md:{line}");
        assert_eq!(spelt, bytes, "PROTOCOL.md:{line}: {json}");

        let frame = Reader::new(&bytes).bytes().expect("it was read before");
        let mut said = Vec::new();
        assert_eq!(
            frame_to_json(frame, layouts, &mut said),
            Ok(()),
            "PROTOCOL.md:{line}"
        );
        let said = String::from_utf8(said).expect("JSON is UTF-8");
        assert_eq!(said, format!("{json}\n"), "PROTOCOL.md:{line}");
    }
}

#[test]
fn every_example_is_a_frame_of_the_typed_vocabulary() {
    for Example { line, json, bytes } in examples() {
        let frame = Reader::new(&bytes).bytes().expect("it was read before");
        let mut again = Vec::new();
        if frame[0] < 128 {
            let command = Command::decode(frame);
            command
                .unwrap_or_else(|error| panic!("PROTOCOL.md:{line}: {error:?}"))
                .encode(&mut again);
        } else {
            let reply = Reply::decode(frame);
            reply
                .unwrap_or_else(|error| panic!("PROTOCOL.md:{line}: {error:?}"))
                .encode(&mut again);
        }
        assert_eq!(again, bytes, "PROTOCOL.md:{line}: {json}");
    }
}

#[test]
fn every_frame_has_an_example_and_a_row() {
    let shown: BTreeSet<u8> = examples()
        .iter()
        .map(|example| {
            Reader::new(&example.bytes)
                .bytes()
                .expect("it was read before")[0]
        })
        .collect();
    for (kind, name, _) in Command::LAYOUTS.iter().chain(Reply::LAYOUTS) {
        assert!(
            shown.contains(kind),
            "PROTOCOL.md has no example of {name} (kind {kind})"
        );
        let row = format!("| {kind} | `{name}` |");
        assert!(SPECIFICATION.contains(&row), "PROTOCOL.md has no row {row}");
    }
    assert_eq!(shown.len(), Command::LAYOUTS.len() + Reply::LAYOUTS.len());
}

#[test]
fn the_rows_name_every_field() {
    for (kind, name, layout) in Command::LAYOUTS.iter().chain(Reply::LAYOUTS) {
        let begin = format!("| {kind} | `{name}` |");
        let row = SPECIFICATION.lines().find(|line| line.starts_with(&begin));
        let row = row.unwrap_or_else(|| panic!("PROTOCOL.md has no row {begin}"));
        for field in layout.required {
            assert!(
                row.contains(field.name),
                "the row of {name} lacks {}",
                field.name
            );
        }
        for (tag, field) in layout.optional {
            let named =
                row.contains(&format!("{} ", field.name)) && row.contains(&format!("({tag})"));
            assert!(named, "the row of {name} lacks {} ({tag})", field.name);
        }
    }
}

#[test]
fn every_code_is_specified() {
    for code in ErrorCode::ALL {
        let row = format!("| `{}` |", code.as_str());
        assert!(SPECIFICATION.contains(&row), "PROTOCOL.md has no row {row}");
    }
    for (code, status) in http::CODES {
        let row = format!("| `{code}` | {status} |");
        assert!(SPECIFICATION.contains(&row), "PROTOCOL.md has no row {row}");
    }
    for code in [
        CloseCode::Protocol,
        CloseCode::TooLarge,
        CloseCode::Unauthorised,
        CloseCode::GoingAway,
        CloseCode::Kicked,
        CloseCode::Policy,
    ] {
        let row = format!("| {} |", code.number());
        assert!(SPECIFICATION.contains(&row), "PROTOCOL.md has no row {row}");
    }
}

#[test]
fn every_code_has_its_specified_status() {
    for code in ErrorCode::ALL {
        let code = code.as_str();
        let begin = format!("| {} | ", http::status_of(code));
        let mut rows = SPECIFICATION
            .lines()
            .filter(|line| line.starts_with(&begin));
        assert!(
            rows.any(|row| row.contains(&format!("`{code}`"))),
            "PROTOCOL.md has no row {begin}… with {code}"
        );
    }
}

#[test]
fn every_route_and_header_is_specified() {
    for (method, path) in [
        ("GET", "/v1/{namespace}/connect"),
        ("POST", "/v1/{namespace}/topics/{topic}"),
        ("GET", "/v1/{namespace}/topics/{topic}"),
        ("GET", "/v1/{namespace}/subscribe"),
        ("POST", "/v1/{namespace}/requests/{topic}"),
        ("GET", "/v1/{namespace}/groups"),
        ("GET", "/v1/{namespace}/groups/{group}"),
        ("GET", "/v1/{namespace}/groups/{group}/dead-letters"),
        ("POST", "/v1/{namespace}/groups/{group}/dead-letters/replay"),
        ("GET", "/v1/{namespace}/scheduled"),
        ("DELETE", "/v1/{namespace}/scheduled/{schedule_id}"),
        ("GET", "/v1/{namespace}/presence/{topic}"),
        ("GET", "/v1/{namespace}/limits"),
        ("GET", "/v1/{namespace}/rules"),
        ("PUT", "/v1/{namespace}/rules/{rule}"),
        ("DELETE", "/v1/{namespace}/rules/{rule}"),
        ("POST", "/v1/{namespace}/explain/{topic}"),
        ("GET", "/v1/{namespace}/export"),
        ("PUT", "/v1/{namespace}/import"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
    ] {
        let row = format!("| `{method} {path}` |");
        assert!(SPECIFICATION.contains(&row), "PROTOCOL.md has no row {row}");
        let path = path.replace("{namespace}", "n").replace("{topic}", "a/b");
        let path = path.replace("{group}", "g").replace("{schedule_id}", "7");
        let route = Route::parse(method, &path);
        assert!(matches!(route, Some(Ok(_))), "{method} {path}: {route:?}");
    }
    // The headers that publishing and asking take, as their refusal lists them.
    let topic = || "t".to_owned();
    for (action, count) in [
        (Action::Publish { topic: topic() }, 11),
        (Action::Request { topic: topic() }, 4),
    ] {
        let unknown = action.ask("", [("dunlin-unknown", "x")], b"").unwrap_err();
        let words = unknown.message.split([' ', ',']).skip(3);
        let known: Vec<&str> = words.filter(|word| word.starts_with("dunlin-")).collect();
        for word in &known {
            let row = format!("| `{word}` |");
            assert!(SPECIFICATION.contains(&row), "PROTOCOL.md has no row {row}");
        }
        assert_eq!(known.len(), count, "{}", unknown.message);
    }
}

#[test]
fn keys_are_placed_as_specified() {
    let rows = SPECIFICATION.lines().filter_map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [key, count, partition] = cells[..] else {
            return None;
        };
        let key = match key {
            "(empty)" => "",
            _ => key.strip_prefix('`')?.strip_suffix('`')?,
        };
        Some((key, count.parse::<u32>().ok()?, partition.parse().ok()?))
    });
    let vectors: Vec<(&str, u32, u32)> = rows.collect();
    assert!(
        vectors.len() >= 3,
        "PROTOCOL.md has test vectors for the placing of keys"
    );
    for (key, count, partition) in vectors {
        assert_eq!(
            partition_of(key, count),
            Partition(partition),
            "{key:?} of {count}"
        );
    }
}
