//! Simulated worlds: a hundred of them in every run, those that once found a fault, and the check that faults are found.

#![cfg(feature = "engines")]

use std::path::Path;
use std::process::Command;

use dunlin_tests::sim::{EVENTS, REGRESSIONS, Report, simulate};

/// How much of what happened a failing world shows.
const SHOWN: usize = 60;

fn live(seeds: impl IntoIterator<Item = u64>) -> Report {
    let mut total = Report::default();
    for seed in seeds {
        match simulate(seed, EVENTS, SHOWN) {
            Ok(report) => total.add(&report),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{}", total.line());
    total
}

#[test]
fn two_hundred_worlds_keep_their_promises() {
    let total = live(0..200);
    // Worlds in which nothing happens would keep them too.
    assert!(total.steps > 100_000, "{}", total.line());
    let troubles = total.troubles;
    for (count, least) in [
        (troubles.crashes, 200),
        (troubles.failures, 300),
        (troubles.cuts, 100),
        (troubles.refused_bits, 100),
        (troubles.refused_rows, 40),
        (troubles.stops, 20),
        (troubles.sleeps, 200),
        (troubles.setbacks, 20),
        (troubles.noise, 100),
    ] {
        assert!(count >= least, "{}", total.line());
    }
}

#[test]
fn worlds_that_found_a_fault_keep_their_promises() {
    live(REGRESSIONS.iter().copied());
}

#[test]
fn the_same_seed_is_the_same_world() {
    for seed in [3, 14, 15] {
        let [first, second] = [(); 2].map(|()| live([seed]).hash);
        assert_eq!(first, second, "seed {seed}");
    }
    assert_ne!(live([3]).hash, live([4]).hash);
}

#[test]
fn a_number_that_is_none_or_too_small_is_refused_by_its_name() {
    for (flag, value, expected) in [
        (
            "--seeds",
            "0",
            "invalid value '0' for '--seeds <SEEDS>': 0 is not in 1..",
        ),
        ("--seeds", "-1", "unexpected argument '-1'"),
        (
            "--seeds",
            "many",
            "invalid value 'many' for '--seeds <SEEDS>': invalid digit",
        ),
        (
            "--events",
            "0",
            "invalid value '0' for '--events <EVENTS>': 0 is not in 1..",
        ),
        (
            "--from",
            "1.5",
            "invalid value '1.5' for '--from <FROM>': invalid digit",
        ),
        (
            "--from",
            "18446744073709551616",
            "invalid value '18446744073709551616' for '--from <FROM>': number too large",
        ),
    ] {
        let run = Command::new(env!("CARGO_BIN_EXE_simulate"))
            .args([flag, value])
            .output()
            .expect("it was built with this test");
        let told = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(2), "{flag} {value}: {told}");
        assert!(told.contains(expected), "{flag} {value}: {told}");
    }
}

/// The faults are compiled in by a feature, so the program that switches them on is built here, by itself.
#[test]
fn deliberate_faults_of_the_core_and_of_the_store_are_found() {
    let target = Path::new(env!("CARGO_BIN_EXE_simulate"))
        .ancestors()
        .nth(2)
        .expect("cargo builds into <target>/<profile>/");
    // The same packages as everywhere, so that the large dependencies are not compiled again.
    let built = Command::new(env!("CARGO"))
        .args([
            "build",
            "--release",
            "--workspace",
            "--exclude",
            "xtask",
            "--bin",
            "mutants",
        ])
        .args(["--features", "dunlin-tests/mutations"])
        .arg("--target-dir")
        .arg(target)
        .status()
        .expect("cargo runs");
    assert!(built.success(), "the program with the faults is not built");
    let run = Command::new(target.join("release/mutants"))
        .output()
        .expect("it was just built");
    let told = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{told}");
    assert_eq!(
        told.lines()
            .filter(|line| line.contains(": caught by seed "))
            .count(),
        39,
        "{told}"
    );
}
