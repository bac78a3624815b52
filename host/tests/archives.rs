//! Namespaces as archives, over HTTP and on the command line.

mod common;

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Instant;

use common::{
    Answer, Broker, PATIENCE, complaint, dunlin, history, http, publish, read_headers, run, stream,
};

const EXPORT: &str = "/v1/main/export";
const IMPORT: &str = "/v1/main/import";

/// Text that no compression makes small.
fn noise(seed: u64, length: usize) -> String {
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let letters = core::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'0' + (state % 75) as u8)
    });
    letters.take(length).collect()
}

/// Publishes about a megabyte: an archive of several parts, in both directions.
fn furnish(broker: &Broker) {
    for number in 0..8 {
        publish(broker, "large", &noise(number, 130_000), &[]);
        let key = [("dunlin-key", "k"), ("dunlin-header-n", "1")];
        publish(broker, "small", &number.to_string(), &key);
    }
}

/// The body of a chunked response; an error where it breaks off (RFC 9112, section 7.1).
fn chunks(stream: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut size = String::new();
        stream.read_line(&mut size)?;
        let size = usize::from_str_radix(size.trim(), 16)
            .map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let at = body.len();
        body.resize(at + size + 2, 0);
        stream.read_exact(&mut body[at..])?;
        body.truncate(at + size);
        if size == 0 {
            return Ok(body);
        }
    }
}

/// Begins an export and reads the head of its answer.
fn begin_export(broker: &Broker) -> (Vec<(String, String)>, BufReader<TcpStream>) {
    let mut stream = stream(broker, "GET", EXPORT, &[], b"");
    let mut status = String::new();
    stream.read_line(&mut status).unwrap();
    assert!(status.contains("200"), "{status}");
    (read_headers(&mut stream), stream)
}

fn export(broker: &Broker) -> Vec<u8> {
    chunks(&mut begin_export(broker).1).unwrap()
}

fn import(broker: &Broker, archive: &[u8]) -> Answer {
    http(broker, "PUT", IMPORT, &[], archive)
}

fn told(answer: &Answer) -> String {
    answer.json()["message"].as_str().unwrap().to_owned()
}

#[test]
fn a_namespace_moves_over_http_and_is_the_same() {
    let home = Broker::in_memory(&[]);
    furnish(&home);
    let (headers, mut body) = begin_export(&home);
    for (name, value) in [
        ("content-type", "application/vnd.dunlin.archive"),
        (
            "content-disposition",
            "attachment; filename=\"main.dunlin\"",
        ),
    ] {
        let expected = (name.to_owned(), value.to_owned());
        assert!(headers.contains(&expected), "{headers:?}");
    }
    let archive = chunks(&mut body).unwrap();
    assert!(archive.len() > 600_000, "{}", archive.len());
    let abroad = Broker::in_memory(&[]);
    let answer = import(&abroad, &archive);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.json()["rows"].as_u64().unwrap() > 8, "{answer:?}");
    for topic in ["large", "small"] {
        assert_eq!(history(&abroad, topic, ""), history(&home, topic, ""));
    }
    assert!(export(&abroad) == archive, "it gives what it got");
    assert_eq!(publish(&abroad, "small", "more", &[])["offset"], 8);
}

#[test]
fn what_is_not_a_whole_archive_is_refused_with_the_place_and_leaves_nothing() {
    let home = Broker::in_memory(&[]);
    furnish(&home);
    let archive = export(&home);
    let abroad = Broker::in_memory(&[]);
    let half = archive.len() / 2;
    let mut flipped = archive.clone();
    flipped[half] ^= 4;
    let longer = [&archive[..], b"x"].concat();
    for (bytes, named) in [
        (&archive[..half], format!("cut off at byte {half}")),
        (&archive[..archive.len() - 1], "cut off at byte".to_owned()),
        (&flipped, "damaged at byte".to_owned()),
        (&longer, format!("damaged at byte {}", archive.len())),
        (b"", "cut off at byte 0".to_owned()),
        (b"PK\x03\x04", "does not begin like one".to_owned()),
    ] {
        let answer = import(&abroad, bytes);
        assert_eq!(answer.refusal(), (400, "invalid_archive".to_owned()));
        assert!(told(&answer).contains(&named), "{named}: {answer:?}");
        let topic = http(&abroad, "GET", "/v1/main/topics/small", &[], b"");
        assert_eq!(topic.status, 404, "{topic:?}");
    }
    assert_eq!(import(&abroad, &archive).status, 200);
    let again = import(&abroad, &archive);
    assert_eq!(again.refusal(), (409, "conflicting_config".to_owned()));
    assert!(told(&again).contains("\"main\" is in use"), "{again:?}");
}

#[test]
fn wrong_methods_names_and_tokens_are_refused() {
    let broker = Broker::in_memory(&["--token", "main=secret"]);
    let right = [("authorization", "Bearer secret")];
    for (method, target, headers, expected) in [
        ("POST", EXPORT, &right[..], (405, "method_not_allowed")),
        ("GET", IMPORT, &right, (405, "method_not_allowed")),
        ("POST", IMPORT, &right, (405, "method_not_allowed")),
        ("GET", EXPORT, &[], (401, "unauthorised")),
        ("PUT", IMPORT, &[], (401, "unauthorised")),
        ("GET", "/v1/other/export", &right, (401, "unauthorised")),
        ("PUT", "/v1/other/import", &right, (401, "unauthorised")),
    ] {
        let answer = http(&broker, method, target, headers, b"");
        let (status, code) = answer.refusal();
        assert_eq!((status, code.as_str()), expected, "{method} {target}");
    }
    let answer = http(&broker, "DELETE", EXPORT, &right, b"");
    assert_eq!(answer.header("allow"), Some("GET"));
    let answer = http(&broker, "DELETE", IMPORT, &right, b"");
    assert_eq!(answer.header("allow"), Some("PUT"));
    let open = Broker::in_memory(&[]);
    for (method, target) in [("GET", "/v1/Main/export"), ("PUT", "/v1/Main/import")] {
        let answer = http(&open, method, target, &[], b"");
        assert_eq!(answer.refusal(), (404, "unknown_namespace".to_owned()));
    }
}

#[test]
fn an_upload_that_breaks_off_leaves_the_namespace_free() {
    let home = Broker::in_memory(&[]);
    furnish(&home);
    let archive = export(&home);
    let abroad = Broker::in_memory(&[]);
    let length = archive.len().to_string();
    let half = &archive[..archive.len() * 3 / 4];
    let broken = stream(&abroad, "PUT", IMPORT, &[("content-length", &length)], half);
    // The broker holds some of it now, and publishes are refused for that before their topic is looked at.
    let begun = Instant::now();
    while http(&abroad, "POST", "/v1/main/topics/%23", &[], b"").status != 409 {
        assert!(begun.elapsed() < PATIENCE, "the import has begun");
    }
    drop(broken);
    // Long before the broker would give it up by itself.
    let begun = Instant::now();
    loop {
        let answer = import(&abroad, &archive);
        if answer.status == 200 {
            break;
        }
        assert_eq!(answer.refusal(), (409, "busy".to_owned()));
        assert!(begun.elapsed() < PATIENCE, "the namespace is free again");
    }
    assert!(export(&abroad) == archive);
}

#[test]
fn a_reader_that_goes_away_does_not_disturb_the_next() {
    let broker = Broker::in_memory(&[]);
    furnish(&broker);
    let archive = export(&broker);
    for _ in 0..2 {
        let (_, mut body) = begin_export(&broker);
        body.read_exact(&mut [0; 1000]).unwrap();
    }
    assert!(export(&broker) == archive);
}

#[test]
fn an_export_that_fails_in_the_middle_breaks_off() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    fs::write(&config, r#"{"exports_max":1,"transfer_idle_ms":300}"#).unwrap();
    let broker = Broker::in_memory(&["--config", config.to_str().unwrap()]);
    // More than sockets hold on the way.
    for number in 0..24 {
        publish(&broker, "large", &noise(number, 1_000_000), &[]);
    }
    let (_, mut body) = begin_export(&broker);
    // Nobody reads it, so it is given up, which makes room for another.
    let begun = Instant::now();
    loop {
        let mut status = String::new();
        let mut other = stream(&broker, "GET", EXPORT, &[], b"");
        other.read_line(&mut status).unwrap();
        if status.contains("200") {
            break;
        }
        assert!(status.contains("429"), "{status}");
        assert!(begun.elapsed() < PATIENCE, "the export is given up");
    }
    let error = chunks(&mut body).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
}

/// What is in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_command_line_moves_a_namespace_and_overwrites_nothing_unasked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("main.dunlin");
    let path = file.to_str().unwrap();
    let home = Broker::in_memory(&[]);
    furnish(&home);
    let url = home.url();
    let place = ["--url", &url, "--namespace", "main"];
    let with = |verb, more: &[&str]| run(&[&[verb], &place[..], more].concat());

    let output = with("export", &[path]);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let archive = fs::read(&file).unwrap();
    assert!(archive == export(&home), "the same as over HTTP");
    assert!(
        said.contains("\"main\"") && said.contains(&format!("{} bytes in {path}", archive.len())),
        "{said}"
    );
    assert!(output.stderr.is_empty(), "nobody watches");

    fs::write(&file, "older").unwrap();
    let refused = with("export", &[path]);
    assert!(complaint(&refused).contains("--force"), "{refused:?}");
    assert_eq!(fs::read(&file).unwrap(), b"older");
    assert!(with("export", &["--force", path]).status.success());
    assert!(fs::read(&file).unwrap() == archive);
    assert_eq!(names(folder.path()), ["main.dunlin"]);
    assert!(with("export", &["-"]).stdout == archive);

    let used = complaint(&with("import", &[path]));
    assert!(used.contains("conflicting_config"), "{used}");
    let abroad = Broker::in_memory(&[]);
    let mut child = dunlin()
        .args(["import", "--url", &abroad.url(), "--namespace", "main", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&archive).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("rows into \"main\""), "{said}");
    assert!(export(&abroad) == archive);
}

#[test]
fn the_command_line_works_on_a_data_directory_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (data, other, file) = (at("data"), at("other"), at("main.dunlin"));
    let broker = Broker::start(Path::new(&data), &["--engine", "native"]);
    furnish(&broker);
    let archive = export(&broker);
    let offline = |verb, data: &str, more: &[&str]| {
        run(&[&[verb, "--namespace", "main", "--data", data], more].concat())
    };
    let told = complaint(&offline("export", &data, &[&file]));
    assert!(told.contains("in use by another dunlin process"), "{told}");
    broker.stop();

    let output = offline("export", &data, &[&file]);
    assert!(output.status.success(), "{output:?}");
    let output = offline("import", &other, &[&file]);
    assert!(output.status.success(), "{output:?}");
    let told = complaint(&offline("import", &other, &[&file]));
    assert!(told.contains("conflicting_config"), "{told}");
    let broker = Broker::start(Path::new(&other), &["--engine", "native"]);
    assert_eq!(history(&broker, "small", "").len(), 8);
    assert!(export(&broker) == fs::read(&file).unwrap());
    assert!(archive.len() > 600_000);

    let nowhere = at("nowhere");
    let told = complaint(&offline("export", &nowhere, &["-"]));
    assert!(told.contains("no FORMAT file"), "{told}");
    assert!(!Path::new(&nowhere).exists(), "and none was made");
}

/// Passes one connection on to the broker, and no more than so many bytes back.
fn cut_after(broker: &Broker, bytes: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let broker = broker.address.clone();
    thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let upstream = TcpStream::connect(broker).unwrap();
        let (mut from, mut to) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
        thread::spawn(move || io::copy(&mut from, &mut to));
        let _ = io::copy(&mut upstream.take(bytes), &mut &client);
        let _ = client.shutdown(Shutdown::Both);
    });
    format!("http://{address}")
}

#[test]
fn an_export_that_breaks_off_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("main.dunlin");
    let file = file.to_str().unwrap();
    let broker = Broker::in_memory(&[]);
    furnish(&broker);
    let url = cut_after(&broker, 500_000);
    let output = run(&["export", "--url", &url, "--namespace", "main", file]);
    let told = complaint(&output);
    assert!(told.contains("broke off"), "{told}");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(names(folder.path()), [""; 0]);

    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let url = broker.url();
    let output = dunlin()
        .args(["export", "--url", &url, "--namespace", "main", "-"])
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let told = complaint(&output);
    assert!(told.contains("standard output cannot be written"), "{told}");
}

#[test]
fn an_import_that_cannot_go_on_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let home = Broker::in_memory(&[]);
    furnish(&home);
    let archive = export(&home);
    let half = archive.len() / 2;
    let mut flipped = archive.clone();
    flipped[half] ^= 64;
    let abroad = Broker::in_memory(&[]);
    let url = abroad.url();
    let import = |file: &str| run(&["import", "--url", &url, "--namespace", "main", file]);
    let cut = format!("invalid_archive: the archive is cut off at byte {half}");
    for (path, named) in [
        (file("half", &archive[..half]), cut.as_str()),
        (file("flipped", &flipped), "damaged at byte"),
        (file("empty", b""), "cut off at byte 0"),
        (file("text", b"hello, world"), "does not begin like one"),
        (
            "/nonexistent.dunlin".to_owned(),
            "/nonexistent.dunlin cannot be read",
        ),
        (folder.path().to_str().unwrap().to_owned(), "cannot be read"),
    ] {
        let output = import(&path);
        let told = complaint(&output);
        assert!(told.contains(named), "{named}: {told}");
        assert_eq!(output.status.code(), Some(1));
    }
    let output = import(&file("whole", &archive));
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn wrong_flags_are_told_by_name() {
    for (arguments, named) in [
        (&["export"] as &[&str], "<FILE>"),
        (&["import"], "<FILE>"),
        (&["export", "--data"], "--data"),
        (
            &["export", "--data", "a", "--url", "http://b", "-"],
            "--url",
        ),
        (&["import", "--config", "a", "-"], "--data"),
        (&["import", "--force", "-"], "--force"),
        (&["export", "a", "b"], "b"),
    ] {
        let output = run(arguments);
        let told = complaint(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(told.contains(named), "{arguments:?}: {told}");
    }
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let told = complaint(&run(&["export", place]));
    assert!(told.contains("is not a file"), "{told}");
    let told = complaint(&run(&["export", "/nonexistent/a.dunlin"]));
    assert!(
        told.contains("/nonexistent/a.dunlin cannot be written"),
        "{told}"
    );
    let broker = Broker::in_memory(&["--token", "main=secret"]);
    let url = broker.url();
    let file = folder.path().join("a.dunlin");
    let file = file.to_str().unwrap();
    for token in ["wrong", "secret"] {
        let output = run(&[
            "export",
            "--url",
            &url,
            "--namespace",
            "main",
            "--token",
            token,
            file,
        ]);
        // With the right token: nothing was ever published, which is what a mistyped name looks like.
        let code = match token {
            "wrong" => "unauthorised",
            _ => "unknown_namespace",
        };
        assert!(complaint(&output).contains(code), "{output:?}");
        assert_eq!(names(folder.path()), [""; 0]);
    }
}
