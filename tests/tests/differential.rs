//! One random stream of commands through the native core and through the guest: the same bytes at every flush. The
//! first part of it is left for Node and workerd.

#![cfg(feature = "engines")]

use std::path::Path;
use std::{env, fs};

use dunlin_host::{Engine, GuestModule};
use dunlin_tests::conformance::{Trace, TraceStep, stream};

/// How many commands one broker gets; then another begins, with other bounds.
const COMMANDS_EACH: u64 = 10_000;

/// `DIFFERENTIAL_SEED=N` replays from one stream on, `DIFFERENTIAL_STREAMS=N` runs more of them.
fn number(variable: &str, default: u64) -> u64 {
    match env::var(variable) {
        Ok(number) => number
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is a number, not {number}")),
        Err(_) => default,
    }
}

#[test]
fn a_hundred_thousand_commands_give_the_same_bytes_on_the_guest() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wasm/dist/guest.wasm");
    let bytes = fs::read(&path).unwrap_or_else(|error| {
        panic!(
            "{} cannot be read ({error}); `cargo xtask build --only guest` builds it",
            path.display()
        )
    });
    let guest = GuestModule::compile(&bytes).unwrap_or_else(|error| panic!("{error}"));
    let start = |config: &str, seed| {
        let engine = guest.start(config, seed)?;
        Ok(Box::new(engine) as Box<dyn Engine>)
    };
    let first = number("DIFFERENTIAL_SEED", 1);
    let (mut batches, mut bytes) = (0, 0);
    for seed in first..first + number("DIFFERENTIAL_STREAMS", 10) {
        let failed = |what: &str| -> ! {
            panic!(
                "{what}\nreplay: DIFFERENTIAL_SEED={seed} DIFFERENTIAL_STREAMS=1 cargo test --release --workspace --exclude xtask --test differential"
            )
        };
        let run = std::panic::catch_unwind(|| stream(seed, COMMANDS_EACH));
        let trace = match run {
            Ok(Ok(trace)) => trace,
            Ok(Err(error)) => failed(&error),
            Err(_) => failed("the native core panicked"),
        };
        if seed == first {
            leave(&trace);
        }
        if let Err(difference) = trace.replay(&start) {
            failed(&difference);
        }
        for step in &trace.steps {
            if let TraceStep::Step { output, .. } = step {
                batches += 1;
                bytes += output.len();
            }
        }
    }
    println!("{batches} batches, {bytes} bytes of effects");
    assert!(bytes > 200_000, "streams that do something");
}

/// The replays in Node and workerd read what this writes.
fn leave(trace: &Trace) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance");
    fs::create_dir_all(&folder).expect("the target directory can be written");
    let text = serde_json::to_string(&[trace.to_json()]).expect("traces are JSON");
    // Under its final name only when it is whole, so that a reader never sees half of it.
    let staged = folder.join("stream.json.new");
    fs::write(&staged, text).expect("the target directory can be written");
    fs::rename(&staged, folder.join("stream.json")).expect("the target directory can be written");
}
