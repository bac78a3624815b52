//! Exports and imports through the broker's public door.

mod host;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use dunlin_core::Put as _;
use dunlin_core::frame::{Reply, json_to_frame};
use dunlin_core::{
    ArchiveReader, Claims, ConnectionId, Encoding, Input, NamespaceVerifier, Reader, Rights,
    Timestamp,
};

use host::Host;

const SMALL: &str = r#"{"archive_part_bytes":1024,"segment_bytes_max":600,"compaction_bytes_min":300,"tombstone_ms_min":0}"#;

fn member<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let rest = line.split(&format!("\"{name}\":")).nth(1)?;
    Some(rest.split([',', '}']).next()?.trim_matches('"'))
}

/// The next part of an export: its number, its bytes, and whether it is the last; or the refusal.
fn part(host: &mut Host, id: u64, export: u64, part: u64) -> Result<(u64, Vec<u8>, bool), String> {
    host.heard(id);
    let line = format!(r#"{{"type":"export","request":9,"export":{export},"part":{part}}}"#);
    host.send(id, &line);
    let answer = host.heard(id).pop().expect("an export is answered");
    if !answer.contains("archive_part") {
        return Err(answer);
    }
    Ok(archive_part(&answer))
}

/// The export, the bytes and whether it is the last, of a reply.
fn archive_part(line: &str) -> (u64, Vec<u8>, bool) {
    let mut frame = Vec::new();
    json_to_frame(line, Reply::LAYOUTS, &mut frame).expect("the broker's own line");
    let body = Reader::new(&frame).bytes().expect("a whole frame");
    match Reply::decode(body) {
        Ok(Reply::ArchivePart(part)) => (part.export, part.bytes.to_vec(), part.last),
        other => panic!("{other:?}"),
    }
}

/// A whole export, with something done after every part.
fn export_while(host: &mut Host, id: u64, mut meanwhile: impl FnMut(&mut Host, u64)) -> Vec<u8> {
    let (mut export, mut archive) = (0, Vec::new());
    for number in 0.. {
        let (given, bytes, last) = part(host, id, export, number).unwrap();
        export = given;
        archive.extend(bytes);
        if last {
            break;
        }
        meanwhile(host, number);
    }
    archive
}

fn export(host: &mut Host, id: u64) -> Vec<u8> {
    export_while(host, id, |_, _| {})
}

fn import_part(
    host: &mut Host,
    id: u64,
    import: u64,
    part: u64,
    last: bool,
    bytes: &[u8],
) -> String {
    host.heard(id);
    let bytes = BASE64_STANDARD.encode(bytes);
    let line = format!(
        r#"{{"type":"import","request":9,"import":{import},"part":{part},"last":{last},"bytes_base64":"{bytes}"}}"#
    );
    host.send(id, &line);
    host.heard(id).pop().expect("an import is answered")
}

/// A whole import; what the last part was answered, or the first refusal.
fn import(host: &mut Host, id: u64, archive: &[u8], piece: usize) -> String {
    let (mut import, mut answer) = (0, String::new());
    let pieces: Vec<&[u8]> = archive.chunks(piece).collect();
    for (number, bytes) in pieces.iter().enumerate() {
        let last = number + 1 == pieces.len();
        answer = import_part(host, id, import, number as u64, last, bytes);
        let Some(given) = member(&answer, "import") else {
            return answer;
        };
        import = given.parse().unwrap();
    }
    answer
}

/// A namespace with something of everything.
fn furnished() -> Host {
    let mut host = Host::new(SMALL);
    host.connect(1, "home");
    for line in [
        r#"{"type":"configure_topic","request":1,"topic":"kept","kind":"log","ordering":"per_key","partitions":3}"#,
        r#"{"type":"configure_topic","request":1,"topic":"newest","kind":"compacted"}"#,
        r#"{"type":"configure_topic","request":1,"topic":"last","kind":"last_value"}"#,
        r#"{"type":"configure_topic","request":1,"topic":"gone","kind":"live"}"#,
        r#"{"type":"configure_topic","request":1,"topic":"short","max_messages":10}"#,
        r#"{"type":"configure_topic","request":1,"topic":"empty"}"#,
    ] {
        host.send(1, line);
    }
    for number in 0..120 {
        let topic = ["kept", "newest", "last", "gone", "short"][number % 5];
        let line = format!(
            r#"{{"type":"publish","request":1,"topic":"{topic}","payload":"{number} {}","key":"k{}","headers":[["n","{number}"]]}}"#,
            "x".repeat(number),
            number % 7
        );
        host.send(1, &line);
    }
    for name in [
        r#""id":"order-1""#,
        r#""id":"order-2","delay_ms":600000"#,
        r#""producer":"till","producer_sequence":7"#,
        r#""key":"k","delay_ms":600000"#,
    ] {
        let line =
            format!(r#"{{"type":"publish","request":1,"topic":"kept","payload":"once",{name}}}"#);
        host.send(1, &line);
    }
    host
}

/// Every row of the namespace itself, which its connections are not.
fn rows(host: &Host) -> Vec<(Vec<u8>, Vec<u8>)> {
    let rows = host
        .store
        .iter()
        .filter(|(key, _)| key[0] != 0 && key[1 + usize::from(key[0])] != 5);
    rows.map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn read(host: &mut Host, id: u64, topic: &str, partition: u64) -> String {
    host.heard(id);
    let line =
        format!(r#"{{"type":"read","request":1,"topic":"{topic}","partition":{partition}}}"#);
    host.send(id, &line);
    host.heard(id).pop().unwrap()
}

#[test]
fn a_namespace_that_moves_is_the_same_byte_for_byte() {
    let mut home = furnished();
    let archive = export(&mut home, 1);
    for piece in [100, 5_000, 1 << 20] {
        let mut abroad = Host::new(SMALL);
        abroad.connect(4, "home");
        let answer = import(&mut abroad, 4, &archive, piece);
        assert!(answer.contains("\"type\":\"imported\""), "{answer}");
        assert_eq!(rows(&abroad), rows(&home));
        assert_eq!(export(&mut abroad, 4), archive);
        for partition in 0..3 {
            assert_eq!(
                read(&mut abroad, 4, "kept", partition),
                read(&mut home, 1, "kept", partition)
            );
        }
        // It is alive, also after a restart.
        for restarts in [false, true] {
            if restarts {
                abroad.restart(SMALL);
                abroad.connect(5, "home");
            }
            let id = if restarts { 5 } else { 4 };
            abroad.publish(id, "short", "more");
            let receipt = abroad.heard(id).pop().unwrap();
            let offset = if restarts { "25" } else { "24" };
            assert_eq!(member(&receipt, "offset"), Some(offset), "{receipt}");
        }
    }
}

#[test]
fn the_limits_of_an_archive_take_the_place_of_those_that_were_there() {
    let mut home = Host::new(SMALL);
    home.connect(1, "home");
    for line in [
        r#"{"type":"configure_limit","request":1,"scope":"topic","name":"","rate":1,"per_ms":60000,"burst":1}"#,
        r#"{"type":"configure_limit","request":1,"scope":"user","name":"ann","rate":5}"#,
        r#"{"type":"publish","request":1,"topic":"a","payload":"1"}"#,
    ] {
        home.send(1, line);
    }
    let limits = |host: &mut Host, id: u64| {
        host.heard(id);
        host.send(id, r#"{"type":"list_limits","request":2}"#);
        host.heard(id).pop().expect("it is answered")
    };
    let archive = export(&mut home, 1);
    let mut abroad = Host::new(SMALL);
    abroad.connect(4, "abroad");
    for scope in ["namespace", "user"] {
        let line = format!(
            r#"{{"type":"configure_limit","request":1,"scope":"{scope}","name":"","rate":7}}"#
        );
        abroad.send(4, &line);
    }
    let answer = import(&mut abroad, 4, &archive, 1 << 20);
    assert!(answer.contains("\"type\":\"imported\""), "{answer}");
    assert_eq!(limits(&mut abroad, 4), limits(&mut home, 1));
    abroad.restart(SMALL);
    abroad.connect(5, "abroad");
    assert_eq!(limits(&mut abroad, 5), limits(&mut home, 1));
    // What was published at home does not count here, what is published here does.
    for expected in ["receipt", "rate_limited"] {
        abroad.publish(5, "a", "2");
        let answer = abroad.heard(5).pop().unwrap();
        assert!(answer.contains(expected), "{answer}");
    }
    abroad.restart(SMALL);
    abroad.connect(6, "abroad");
    abroad.publish(6, "a", "3");
    let answer = abroad.heard(6).pop().unwrap();
    assert!(answer.contains("rate_limited"), "{answer}");
}

#[test]
fn an_archive_shows_one_moment_while_the_namespace_goes_on() {
    let mut home = furnished();
    home.connect(2, "home");
    let before = export(&mut home, 1);
    let mut parts = 0;
    let archive = export_while(&mut home, 1, |host, number| {
        parts = number + 1;
        // Retention, compaction and new messages, each more than a segment.
        for round in 0..12 {
            host.publish(2, "short", &"s".repeat(200));
            let line = format!(
                r#"{{"type":"publish","request":1,"topic":"newest","payload":"{}","key":"k{round}"}}"#,
                "n".repeat(100)
            );
            host.send(2, &line);
        }
    });
    assert!(parts >= 2, "it came in several parts");
    assert!(archive == before, "what came later is not in it");
    // What had to wait for the export has happened since.
    let start = member(&read(&mut home, 1, "short", 0), "log_start_offset")
        .unwrap()
        .to_owned();
    let mut verifier = NamespaceVerifier::new("home");
    for (key, value) in &rows(&home) {
        verifier
            .row(&key[1 + usize::from(key[0])..], value)
            .unwrap();
    }
    let summary = verifier.finish().unwrap();
    assert!(start.parse::<u64>().unwrap() > 24, "{start}");
    assert_eq!(summary.leftover_rows, 0);
}

#[test]
fn what_an_export_kept_is_deleted_after_a_restart_too() {
    let mut home = furnished();
    let (_, _, last) = part(&mut home, 1, 0, 0).unwrap();
    assert!(!last);
    let leftovers = |host: &Host| {
        let mut verifier = NamespaceVerifier::new("home");
        for (key, value) in &rows(host) {
            verifier
                .row(&key[1 + usize::from(key[0])..], value)
                .unwrap();
        }
        verifier.finish().unwrap().leftover_rows
    };
    let publish = |host: &mut Host, id| {
        for _ in 0..12 {
            host.publish(id, "short", &"s".repeat(200));
        }
    };
    publish(&mut home, 1);
    assert!(leftovers(&home) > 0, "the export still reads them");
    home.restart(SMALL);
    home.connect(3, "home");
    publish(&mut home, 3);
    assert_eq!(leftovers(&home), 0);
}

#[test]
fn what_is_not_a_whole_archive_leaves_nothing_behind() {
    let mut home = furnished();
    let archive = export(&mut home, 1);
    let mut abroad = Host::new(SMALL);
    abroad.connect(4, "home");
    for length in (0..archive.len()).step_by(97) {
        let answer = import(&mut abroad, 4, &archive[..length.max(1)], 1_000);
        assert!(answer.contains("invalid_archive"), "{answer}");
        assert!(answer.contains("cut off at byte"), "{answer}");
        assert_eq!(rows(&abroad), []);
    }
    for at in (0..archive.len()).step_by(89) {
        let mut flipped = archive.clone();
        flipped[at] ^= 0x10;
        let answer = import(&mut abroad, 4, &flipped, 1_000);
        assert!(answer.contains("invalid_archive"), "{answer}");
        assert_eq!(rows(&abroad), []);
    }
    let answer = import(&mut abroad, 4, &archive, 1_000);
    assert!(answer.contains("\"type\":\"imported\""), "{answer}");
}

#[test]
fn rows_that_do_not_fit_one_another_are_refused_in_an_archive() {
    let home = furnished();
    let rows = rows(&home);
    let tail = |key: &[u8]| key[1 + usize::from(key[0])..].to_vec();
    let mut refused = 0;
    for left_out in 0..rows.len() {
        let mut writer = dunlin_core::ArchiveWriter::new("home");
        for (index, (key, value)) in rows.iter().enumerate() {
            if index != left_out {
                writer.row(&tail(key), value);
            }
        }
        writer.finish();
        let mut abroad = Host::new(SMALL);
        abroad.connect(4, "home");
        let answer = import(&mut abroad, 4, &writer.take(usize::MAX), 1 << 20);
        if answer.contains("invalid_archive") {
            refused += 1;
        } else {
            // A topic that holds nothing, what is remembered, and the namespace's row: without them it is another whole
            // namespace.
            let table = tail(&rows[left_out].0)[0];
            assert!(
                table <= 2 || table == 0x0c || table == 0x0d,
                "row {left_out} of table {table:02x} is missing unnoticed"
            );
        }
    }
    assert!(refused > 20, "{refused} of {} rows", rows.len());
}

#[test]
fn an_import_that_is_broken_off_is_deleted() {
    let mut home = furnished();
    for number in 0..200u64 {
        let noise: String = (0..60)
            .map(|n| {
                format!(
                    "{:x}",
                    (number * 60 + n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
                )
            })
            .collect();
        home.publish(1, "short", &noise);
        home.publish(1, "noise", &noise);
    }
    let archive = export(&mut home, 1);
    let half = archive.len() * 3 / 4;
    // By a crash.
    let mut abroad = Host::new(SMALL);
    abroad.connect(4, "home");
    let answer = import_part(&mut abroad, 4, 0, 0, false, &archive[..half]);
    assert!(answer.contains("imported"), "{answer}");
    assert!(
        rows(&abroad).len() > 10,
        "messages are written as they come"
    );
    abroad.restart(SMALL);
    assert_eq!(rows(&abroad), []);
    abroad.connect(5, "home");
    let gone = member(&answer, "import").unwrap().parse().unwrap();
    let answer = import_part(&mut abroad, 5, gone, 1, true, &archive[half..]);
    assert!(answer.contains("unknown_transfer"), "{answer}");
    // By silence.
    import_part(&mut abroad, 5, 0, 0, false, &archive[..half]);
    abroad.publish(5, "t", "x");
    let busy = abroad.heard(5).pop().unwrap();
    assert!(busy.contains("\"code\":\"busy\""), "{busy}");
    abroad.now += 60_000;
    assert_eq!(abroad.broker.poll_timeout(), Some(Timestamp(abroad.now)));
    abroad.broker.handle(Timestamp(abroad.now), Input::Timeout);
    abroad.flush();
    assert_eq!(rows(&abroad), []);
    abroad.publish(5, "t", "x");
    let receipt = abroad.heard(5).pop().unwrap();
    assert!(receipt.contains("receipt"), "{receipt}");
}

#[test]
fn commands_that_do_not_fit_are_refused() {
    let mut home = furnished();
    let archive = export(&mut home, 1);
    let refusal = |answer: Result<(u64, Vec<u8>, bool), String>| answer.unwrap_err();
    assert!(refusal(part(&mut home, 1, 77, 0)).contains("unknown_transfer"));
    let (id, ..) = part(&mut home, 1, 0, 0).unwrap();
    let wrong = refusal(part(&mut home, 1, id, 5));
    assert!(
        wrong.contains("part 1 of the export comes next, not 5"),
        "{wrong}"
    );
    home.send(1, r#"{"type":"delete_topic","request":1,"topic":"kept"}"#);
    let busy = home.heard(1).pop().unwrap();
    assert!(
        busy.contains("\"code\":\"busy\"") && busy.contains("retry_after_ms"),
        "{busy}"
    );
    for _ in 0..3 {
        part(&mut home, 1, 0, 0).unwrap();
    }
    let full = refusal(part(&mut home, 1, 0, 0));
    assert!(full.contains("exports_max"), "{full}");
    // An idle one makes room.
    home.now += 60_000;
    home.flush();
    part(&mut home, 1, 0, 0).unwrap();
    assert!(refusal(part(&mut home, 1, id, 1)).contains("unknown_transfer"));

    let used = import(&mut home, 1, &archive, 1_000);
    assert!(
        used.contains("conflicting_config") && used.contains("in use"),
        "{used}"
    );

    let claims = Claims {
        namespace: "home".into(),
        user: String::new(),
        device: String::new(),
        rights: Rights::PUBLISH,
    };
    let connection = ConnectionId(9);
    home.broker.handle(
        Timestamp(home.now),
        Input::Connect {
            connection,
            encoding: Encoding::Json,
            claims,
            ip: Vec::new(),
        },
    );
    home.send(9, r#"{"type":"hello","version":1}"#);
    assert!(refusal(part(&mut home, 9, 0, 0)).contains("forbidden"));
    assert!(import(&mut home, 9, &archive, 1_000).contains("forbidden"));
}

#[test]
fn an_import_takes_few_blocks_in_a_batch_however_well_they_were_packed() {
    let mut host = Host::new(r#"{"archive_part_bytes":1048576}"#);
    host.connect(1, "home");
    for _ in 0..40 {
        host.publish(1, "zeros", &"0".repeat(500_000));
    }
    let archive = export(&mut host, 1);
    assert!(archive.len() < 200_000, "{}", archive.len());
    let mut reader = ArchiveReader::new();
    reader.push(&archive);
    let mut blocks = 0;
    while reader.next_rows(|_, _| Ok(())).unwrap() {
        blocks += 1;
    }
    let mut abroad = Host::new("{}");
    abroad.connect(1, "home");
    let before = abroad.broker.stats_json();
    import(&mut abroad, 1, &archive, 1 << 20);
    let writes = |stats: &str| member(stats, "writes").unwrap().parse::<u64>().unwrap();
    let batches = writes(&abroad.broker.stats_json()) - writes(&before);
    assert!(batches >= blocks, "{blocks} blocks in {batches} batches");
    assert_eq!(rows(&abroad), rows(&host));
}

/// A small generator of numbers that depend on a seed alone (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// The state in an archive's rows or in a store's.
fn state<'a>(rows: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<(Vec<u8>, Vec<u8>)> {
    rows.filter(|(key, _)| key[0] < 0x80 && key[0] != 5)
        .map(|(key, value)| (key.to_vec(), value.to_vec()))
        .collect()
}

/// Whatever is published, trimmed, compacted and loaded in whatever order while exports are under way: each of them is
/// the namespace at one moment, whole.
#[test]
fn an_export_is_whole_whatever_happens_meanwhile() {
    const CONFIG: &str = r#"{"archive_part_bytes":1024,"segment_bytes_max":300,"compaction_bytes_min":200,"tombstone_ms_min":0,"exports_max":2,"loads_max":3,"load_bytes_max":1024,"trim_rows_max":2}"#;
    let mut finished = 0;
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let mut host = Host::new(CONFIG);
        host.connect(1, "home");
        for id in 2..4 {
            host.connect(id, "home");
        }
        for line in [
            r#"{"type":"configure_topic","request":1,"topic":"t0","max_messages":6}"#,
            r#"{"type":"configure_topic","request":1,"topic":"t1","kind":"compacted"}"#,
            r#"{"type":"configure_topic","request":1,"topic":"t2","ordering":"per_key","partitions":2,"max_bytes":900}"#,
        ] {
            host.send(1, line);
        }
        host.holds_loads = true;
        let mut moments = Vec::new();
        // By connection: the export under way and its next part, and what came of it.
        let mut exports = [(0, 0, Vec::new(), false), (0, 0, Vec::new(), false)];
        for _ in 0..400 {
            match dice.below(10) {
                0..5 => {
                    let noise: Vec<u8> = (0..dice.below(120))
                        .map(|_| dice.below(256) as u8)
                        .collect();
                    let noise = BASE64_STANDARD.encode(noise);
                    let name = match dice.below(4) {
                        0 => format!(r#","delay_ms":{}"#, dice.below(40)),
                        1 => format!(r#","id":"{}""#, dice.below(20)),
                        _ => String::new(),
                    };
                    let line = format!(
                        r#"{{"type":"publish","request":1,"topic":"t{}","payload_base64":"{}","key":"k{}"{name}}}"#,
                        dice.below(3),
                        noise,
                        dice.below(4)
                    );
                    host.now += dice.below(4);
                    host.send(1, &line);
                }
                5..8 if !host.loads.is_empty() => {
                    let index = dice.below(host.loads.len() as u64) as usize;
                    host.release(index);
                }
                _ => {
                    let which = dice.below(2) as usize;
                    let (export, part, _, asked) = &mut exports[which];
                    if !*asked {
                        *asked = true;
                        let line = format!(
                            r#"{{"type":"export","request":9,"export":{export},"part":{part}}}"#
                        );
                        host.send(which as u64 + 2, &line);
                    }
                }
            }
            let stored = rows(&host);
            let tails = stored
                .iter()
                .map(|(key, value)| (&key[1 + usize::from(key[0])..], value.as_slice()));
            moments.push(state(tails));
            for (which, (export, part, archive, asked)) in exports.iter_mut().enumerate() {
                for answer in host.heard(which as u64 + 2) {
                    assert!(answer.contains("archive_part"), "seed {seed}: {answer}");
                    let (id, bytes, last) = archive_part(&answer);
                    archive.extend(bytes);
                    (*export, *part, *asked) = (id, *part + 1, false);
                    if !last {
                        continue;
                    }
                    let mut reader = ArchiveReader::new();
                    reader.push(archive);
                    let mut verifier = NamespaceVerifier::new("home");
                    let mut exported = Vec::new();
                    while reader
                        .next_rows(|key, value| {
                            exported.push((key.to_vec(), value.to_vec()));
                            verifier.row(key, value)
                        })
                        .unwrap_or_else(|error| panic!("seed {seed}: {error:?}"))
                    {
                    }
                    reader.finish().unwrap();
                    let summary = verifier
                        .finish()
                        .unwrap_or_else(|why| panic!("seed {seed}: {why}"));
                    assert_eq!(summary.leftover_rows, 0, "seed {seed}");
                    let pairs = exported
                        .iter()
                        .map(|(key, value)| (key.as_slice(), value.as_slice()));
                    assert!(
                        moments.contains(&state(pairs)),
                        "seed {seed}: no moment was like that"
                    );
                    finished += 1;
                    (*export, *part) = (0, 0);
                    archive.clear();
                }
            }
        }
        // And in the end nothing is left of what had to wait.
        host.holds_loads = false;
        while !host.loads.is_empty() {
            host.release(0);
        }
        host.now += 60_000;
        host.flush();
        let mut verifier = NamespaceVerifier::new("home");
        for (key, value) in &rows(&host) {
            verifier
                .row(&key[1 + usize::from(key[0])..], value)
                .unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        }
        let summary = verifier
            .finish()
            .unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert_eq!(summary.leftover_rows, 0, "seed {seed}");
    }
    assert!(finished > 100, "{finished} exports came to their end");
}

#[test]
fn priorities_move_with_an_archive_and_are_known_to_their_segments() {
    let mut home = Host::new(SMALL);
    home.connect(1, "home");
    for line in [
        r#"{"type":"configure_topic","request":1,"topic":"t","ordering":"none"}"#,
        r#"{"type":"publish","request":2,"topic":"t","payload":"low"}"#,
        r#"{"type":"publish","request":3,"topic":"t","payload":"high","priority":4}"#,
    ] {
        home.send(1, line);
    }
    let archive = export(&mut home, 1);
    let import_into_new = |archive: &[u8]| {
        let mut abroad = Host::new(SMALL);
        abroad.connect(4, "abroad");
        let answer = import(&mut abroad, 4, archive, 1_000);
        (abroad, answer)
    };
    let (mut abroad, answer) = import_into_new(&archive);
    assert!(answer.contains("\"type\":\"imported\""), "{answer}");
    abroad.heard(4);
    let join = r#"{"type":"join","request":4,"subscription":1,"group":"q","filters":["t"]}"#;
    abroad.send(4, join);
    let heard = abroad.heard(4).join("");
    let (high, low) = (heard.find("\"high\""), heard.find("\"low\""));
    assert!(high.is_some() && high < low, "{heard}");

    // The bits of the newest segment are the last byte of the partition's row.
    for (last, wrong) in [
        (
            None,
            "offset 1 of topic \"t\" partition 0 has the priority 4",
        ),
        (
            Some(1 << 3),
            "offset 1 of topic \"t\" partition 0 has the priority 4",
        ),
        (Some(1), "not what any version writes"),
        (Some(1 << 5), "not what any version writes"),
        (Some(0), "not what any version writes"),
    ] {
        let mut writer = dunlin_core::ArchiveWriter::new("home");
        for (key, value) in &rows(&home) {
            let tail = &key[1 + usize::from(key[0])..];
            let mut value = value.clone();
            if tail[0] == 0x03 {
                assert_eq!(value.pop(), Some(1 << 4));
                value.extend(last);
            }
            if tail[0] != 0x05 {
                writer.row(tail, &value);
            }
        }
        writer.finish();
        let (_, answer) = import_into_new(&writer.take(usize::MAX));
        assert!(answer.contains("invalid_archive"), "{answer}");
        assert!(answer.replace('\\', "").contains(wrong), "{answer}");
    }
}

/// The rows of a namespace with the one topic `t` of one partition.
fn crafted(kind: &str, partitions: u64, partition: &[u64], message: Option<(u64, u64)>) -> Vec<u8> {
    let mut topic: Vec<u8> = vec![1];
    for word in [
        "t",
        kind,
        if partitions == 1 {
            "per_topic"
        } else {
            "per_key"
        },
        "async",
    ] {
        topic.put_bytes(word.as_bytes());
    }
    for number in [partitions, 0, 0, 0] {
        topic.put_u64(number);
    }
    let numbers = |numbers: &[u64]| {
        let mut out: Vec<u8> = vec![1];
        numbers.iter().for_each(|number| out.put_u64(*number));
        out
    };
    let mut writer = dunlin_core::ArchiveWriter::new("home");
    writer.row(&[1], &numbers(&[0, 2, 0, 0]));
    writer.row(&[2, 0, 0, 0, 1], &topic);
    writer.row(&[3, 0, 0, 0, 1, 0, 0, 0, 0], &numbers(partition));
    if let Some((first, span)) = message {
        let mut key = vec![0x80, 0, 0, 0, 1, 0, 0, 0, 0];
        key.extend(first.to_be_bytes());
        writer.row(&key, &numbers(&[span, 1, 0, 0, 0]));
    }
    writer.finish();
    writer.take(usize::MAX)
}

#[test]
fn an_archive_cannot_ask_for_what_nobody_could_have_stored() {
    const MAX: u64 = u64::MAX;
    let newest = |size: u64| [1, 1, 0, 0, size, 1];
    let whole = |start: u64, end: u64, base: u64| {
        let mut numbers = vec![start, end, 1, 0, 0, 0, 0, 0, base];
        numbers.extend(newest(0));
        numbers
    };
    let empty = |at: u64| vec![at, at, 0, 0, 0, 0, 0, 0];
    for (archive, part) in [
        (crafted("log", 1, &empty(MAX), None), "the partition is not"),
        (
            crafted("log", 1, &empty(1 << 53), None),
            "the partition is not",
        ),
        (
            crafted("compacted", 1, &whole(0, MAX, 0), Some((MAX, 1))),
            "the partition is not",
        ),
        (
            crafted("compacted", 1, &whole(0, 9, 0), Some((MAX, 1))),
            "the messages are not",
        ),
        (
            crafted("compacted", 1, &whole(0, 9, 0), Some((8, MAX))),
            "the messages are not",
        ),
        (
            crafted("compacted", 1, &whole(0, 9, 0), Some((8, 2))),
            "do not follow",
        ),
        (
            crafted("log", 65_536, &empty(0), None),
            "65536 partitions, 64 are allowed (partitions_max)",
        ),
        (
            crafted("log", 1, &[0, 1, MAX, 0, 0, 0, 0, 0], None),
            "the partition is not",
        ),
    ] {
        let mut host = Host::new("{}");
        host.connect(1, "home");
        let answer = import(&mut host, 1, &archive, 1 << 20);
        assert!(
            answer.contains("invalid_archive") && answer.contains(part),
            "{part}: {answer}"
        );
        assert_eq!(rows(&host), []);
    }
    // The same by hand that is sound is taken.
    let mut host = Host::new("{}");
    host.connect(1, "home");
    let answer = import(
        &mut host,
        1,
        &crafted("log", 1, &empty((1 << 53) - 1), None),
        1 << 20,
    );
    assert!(answer.contains("\"type\":\"imported\""), "{answer}");
}

#[test]
fn a_name_that_was_only_exported_from_does_not_count() {
    let mut host = Host::new(r#"{"namespaces_max":1}"#);
    for name in ["a", "b"] {
        host.connect(1, name);
        host.holds_loads = true;
        host.send(1, r#"{"type":"export","request":1,"export":0,"part":0}"#);
        host.broker.handle(
            Timestamp(host.now),
            Input::Disconnect {
                connection: ConnectionId(1),
            },
        );
        host.flush();
        host.holds_loads = false;
        host.release(0);
        host.connect(2, name);
        assert_eq!(host.heard(2), [""; 0], "{name} is taken");
        host.broker.handle(
            Timestamp(host.now),
            Input::Disconnect {
                connection: ConnectionId(2),
            },
        );
        host.flush();
    }
}
