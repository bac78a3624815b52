//! `dunlin doctor` on directories that brokers left behind, whole and damaged, and on archives.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{Broker, complaint, dunlin, history, publish, run};

/// A directory in which a broker was killed.
fn killed() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), &["--engine", "native"]);
    for index in 0..20 {
        let text = format!("message {index}");
        publish(&broker, "t", &text, &[("dunlin-durability", "sync")]);
    }
    broker.kill();
    folder
}

fn doctor(path: &Path) -> (bool, String) {
    let output = run(&["doctor", path.to_str().unwrap()]);
    let told = String::from_utf8(output.stdout.clone()).unwrap();
    if !output.status.success() {
        let complaint = complaint(&output);
        return (false, told + &complaint);
    }
    (true, told)
}

/// Every file below `folder` with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

/// The segment of the journal that holds the messages.
fn segment(folder: &Path) -> PathBuf {
    let mut names: Vec<_> = fs::read_dir(folder.join("journal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    names.remove(0)
}

/// Changes one byte of `text`, which stands in this file.
fn flip(file: &Path, text: &[u8]) {
    let mut bytes = fs::read(file).unwrap();
    let at = bytes.windows(text.len()).position(|part| part == text);
    bytes[at.expect("it is there")] ^= 1;
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_whole_directory_is_right_and_left_as_it_was() {
    let folder = killed();
    let before = files(folder.path());
    let (is_right, told) = doctor(folder.path());
    assert!(is_right, "{told}");
    assert!(
        told.contains("namespace \"main\": 1 topics, 20 messages"),
        "{told}"
    );
    assert!(told.contains("nothing is wrong"), "{told}");
    assert!(before == files(folder.path()), "a byte was changed");
}

#[test]
fn damage_is_told_with_its_place_and_serves_nobody() {
    let folder = killed();
    flip(&segment(folder.path()), b"message 7");
    let (is_right, told) = doctor(folder.path());
    assert!(!is_right, "{told}");
    for named in ["0000000000000001.log", "at byte", "backup"] {
        assert!(told.contains(named), "{named}: {told}");
    }
    assert!(!told.contains("dunlin doctor"), "it is that: {told}");
    let data = folder.path().to_str().unwrap();
    let refused = run(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--engine",
        "native",
        "--data",
        data,
    ]);
    let refused = complaint(&refused);
    for named in [data, "0000000000000001.log", "at byte", "dunlin doctor"] {
        assert!(refused.contains(named), "{named}: {refused}");
    }
}

#[test]
fn files_that_are_gone_are_named_as_the_user_knows_them() {
    let folder = killed();
    let oldest = segment(folder.path());
    let kept = fs::read(&oldest).unwrap();
    fs::remove_file(&oldest).unwrap();
    let (is_right, told) = doctor(folder.path());
    assert!(!is_right, "{told}");
    assert!(told.contains("0000000000000001.log is missing"), "{told}");
    fs::write(&oldest, kept).unwrap();

    let tables = files(&folder.path().join("rows"));
    let table = tables
        .keys()
        .find(|path| path.parent().unwrap().ends_with("tables"));
    fs::remove_file(table.expect("there is a table")).unwrap();
    let (is_right, told) = doctor(folder.path());
    let rows = folder.path().join("rows");
    let rows = rows.to_str().unwrap();
    assert!(!is_right && told.contains(rows), "{told}");
    let temporary = folder.path().parent().unwrap().to_str().unwrap();
    let own = folder.path().to_str().unwrap();
    assert!(!told.replace(own, "").contains(temporary), "{told}");

    fs::remove_dir_all(rows).unwrap();
    let (is_right, told) = doctor(folder.path());
    assert!(!is_right, "{told}");
    assert!(told.contains(&format!("{rows} is missing")), "{told}");
}

#[test]
fn a_torn_tail_is_told_by_the_doctor_and_cut_off_by_the_server() {
    let folder = killed();
    let file = segment(folder.path());
    let mut bytes = fs::read(&file).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[end + 40..end + 60].fill(7);
    fs::write(&file, bytes).unwrap();
    let (is_right, told) = doctor(folder.path());
    assert!(is_right, "{told}");
    assert!(told.contains("torn tail of 20 bytes"), "{told}");
    assert!(!told.contains("never durable"), "who knows: {told}");
    assert!(!told.contains(" ms"), "nobody measured it: {told}");

    let data = folder.path().to_str().unwrap();
    let broker = Broker::start(folder.path(), &["--engine", "native"]);
    assert_eq!(history(&broker, "t", "").len(), 20);
    // Somebody uses it now.
    let (_, told) = doctor(folder.path());
    assert!(told.contains("in use by a dunlin process"), "{told}");
    broker.stop();
    let (is_right, told) = doctor(folder.path());
    assert!(is_right && !told.contains("torn"), "{told}");
    assert!(dunlin().args(["doctor", data]).status().unwrap().success());
}

#[test]
fn an_archive_is_read_to_its_end() {
    let folder = killed();
    let archive = folder.path().join("main.dunlin");
    let data = folder.path().to_str().unwrap();
    let file = archive.to_str().unwrap();
    let exported = run(&["export", "--namespace", "main", "--data", data, file]);
    assert!(exported.status.success(), "{exported:?}");
    let (is_right, told) = doctor(&archive);
    assert!(is_right, "{told}");
    assert!(
        told.contains("namespace \"main\": 1 topics, 20 messages"),
        "{told}"
    );
    let whole = fs::read(&archive).unwrap();
    fs::write(&archive, &whole[..whole.len() - 1]).unwrap();
    assert!(doctor(&archive).1.contains("cut off at byte"));
    let mut flipped = whole;
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(&archive, flipped).unwrap();
    let (is_right, told) = doctor(&archive);
    assert!(!is_right && told.contains("byte"), "{told}");
}

#[test]
fn what_is_no_data_of_dunlin_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_, told) = doctor(folder.path());
    assert!(told.contains("has no FORMAT file"), "{told}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let (_, told) = doctor(&folder.path().join("nowhere"));
    assert!(told.contains("nowhere does not exist"), "{told}");
    let letter = folder.path().join("letter");
    fs::write(&letter, "dear").unwrap();
    let (is_right, told) = doctor(&letter);
    assert!(!is_right && told.contains("wrong:"), "{told}");
}
