//! Every scenario on the native core, where its expectations are checked, and on the guest in wasmtime, which must
//! give the same bytes. What crossed the engine's boundary is left for the replays in the other runtimes.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::{env, fs};

use dunlin_host::{Engine, EngineError, GuestModule, NativeEngine};
use dunlin_tests::conformance::{Outcome, Scenario, TraceStep, run};

/// Scenarios with what they led to; a mistake in a file is a failed test.
static RUNS: LazyLock<Result<Vec<(Scenario, Outcome)>, String>> = LazyLock::new(|| {
    let scenarios = Scenario::all().map_err(|failure| failure.to_string())?;
    let mut runs = Vec::new();
    let mut failures = String::new();
    for scenario in scenarios {
        match run(&scenario) {
            Ok(outcome) => runs.push((scenario, outcome)),
            Err(failure) => failures.push_str(&format!("\n{failure}")),
        }
    }
    if failures.is_empty() {
        Ok(runs)
    } else {
        Err(failures)
    }
});

fn runs() -> &'static [(Scenario, Outcome)] {
    RUNS.as_ref()
        .unwrap_or_else(|failures| panic!("{failures}"))
}

fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("the tests lie in the repository")
        .to_owned()
}

fn native(config: &str, seed: u64) -> Result<Box<dyn Engine>, EngineError> {
    Ok(Box::new(NativeEngine::start(config, seed)?))
}

fn fail_if_any(failures: &[String]) {
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn every_scenario_leads_to_what_it_says() {
    let mut failures = Vec::new();
    for (scenario, outcome) in runs() {
        if Scenario::updating() {
            fs::write(&scenario.path, scenario.with_effects(&outcome.effects))
                .expect("the scenario can be written");
        } else if let Err(failure) = outcome.check(scenario) {
            failures.push(failure);
        }
    }
    fail_if_any(&failures);
}

#[test]
fn there_are_scenarios_and_each_says_something_else() {
    let mut sentences: Vec<&str> = runs()
        .iter()
        .map(|(scenario, _)| scenario.lines[0].text.as_str())
        .collect();
    assert!(
        sentences.len() >= 40,
        "there are only {} scenarios",
        sentences.len()
    );
    sentences.sort_unstable();
    for pair in sentences.windows(2) {
        assert_ne!(pair[0], pair[1], "two scenarios say the same");
    }
}

#[test]
fn the_same_engine_gives_the_same_bytes_again() {
    let replayed = runs()
        .iter()
        .filter_map(|(_, outcome)| outcome.trace.replay(&native).err());
    fail_if_any(&replayed.collect::<Vec<_>>());
}

#[test]
fn the_guest_in_wasmtime_gives_the_same_bytes() {
    let path = repository().join("wasm/dist/guest.wasm");
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
    let replayed = runs()
        .iter()
        .filter_map(|(_, outcome)| outcome.trace.replay(&start).err());
    fail_if_any(&replayed.collect::<Vec<_>>());
}

#[test]
fn a_difference_of_one_byte_is_told_with_its_line() {
    let (_, outcome) = &runs()[0];
    let mut trace = outcome.trace.clone();
    let told = trace.steps.iter_mut().rev().find_map(|step| {
        let line = step.line();
        match step {
            TraceStep::Step { output, .. } => {
                let last = output.len() - 1;
                output[last] ^= 1;
                Some(format!(
                    "{}:{line}: the bytes differ from byte {last} on",
                    outcome.trace.name
                ))
            }
            _ => None,
        }
    });
    let failure = trace.replay(&native).expect_err("a byte differs");
    let told = told.expect("a trace has steps");
    assert!(failure.starts_with(&told), "{failure} instead of {told}");
}

/// Not a test of its own: the replays in Node, Chromium and workerd read what this writes.
#[test]
fn the_traces_are_left_for_the_other_runtimes() {
    let traces: Vec<_> = runs()
        .iter()
        .map(|(_, outcome)| outcome.trace.to_json())
        .collect();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance");
    fs::create_dir_all(&folder).expect("the target directory can be written");
    let text = serde_json::to_string(&traces).expect("traces are JSON");
    // Under its final name only when it is whole, so that a reader never sees half of it.
    let staged = folder.join("traces.json.new");
    fs::write(&staged, text).expect("the target directory can be written");
    fs::rename(&staged, folder.join("traces.json")).expect("the target directory can be written");
}
