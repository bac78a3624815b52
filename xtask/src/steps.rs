//! The table of steps, and how it is worked through: in order, each step after what it needs, with a verdict at the end.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::report::Report;
use crate::{artefacts, machine, target_directory};

use Work::{Call, Commands};

/// Everything that is built and tested. A step is one line here; what it needs stands above it.
///
/// Cargo is always asked for the whole workspace without xtask: another selection of packages would choose other
/// features of shared dependencies, and compile the large ones again.
#[rustfmt::skip]
const STEPS: &[Step] = &[
    check("fmt", "Rust formatting", &[], Commands(&["cargo fmt --all --check"])),
    check("core", "core alone, for targets without std", &[], Commands(&[
        "cargo build --package dunlin-core --target thumbv7em-none-eabi",
        "cargo build --package dunlin-core --target wasm32-unknown-unknown",
    ])),
    build("npm", "npm packages", &[], Call(machine::npm_packages)),
    build("guest", "broker for wasmtime and the edge", &["npm"], Call(artefacts::guest)),
    build("code", "broker as machine code", &["guest"], Call(artefacts::machine_code)),
    build("engine", "broker for the npm package", &["npm"], Call(artefacts::engine)),
    build("gateway", "gateway for the edge", &["npm"], Call(artefacts::gateway)),
    build("package", "npm package dunlin", &["engine"], Commands(&["npm run build --workspace wasm"])),
    build("worker", "Worker script", &["guest", "gateway", "package"], Commands(&["npm run build --workspace worker"])),
    build("console", "console page", &["package"], Call(artefacts::console)),
    build("host", "native host", &["code", "console"], Commands(&["cargo build --release --workspace --exclude xtask --bin dunlin"])),
    check("clippy", "lints, every warning an error", &["guest", "console"], Commands(&[
        "cargo clippy --release --workspace --exclude xtask --all-targets -- -D warnings",
        "cargo clippy --release --package xtask --all-targets -- -D warnings",
        "cargo clippy --profile bindgen --package dunlin-guest --package dunlin-wasm --target wasm32-unknown-unknown -- -D warnings",
        "cargo clippy --profile bindgen --package dunlin-worker --target wasm32-unknown-unknown -- -D warnings",
    ])),
    check("types", "TypeScript types", &["package", "gateway"], Commands(&["npm run typecheck --workspaces --if-present"])),
    check("rust", "Rust tests", &["host"], Commands(&["cargo test --release --workspace --exclude xtask"])),
    check("xtask", "tests of this driver", &[], Commands(&["cargo test --release --package xtask"])),
    check("chromium", "browser for the tests", &[], Call(machine::chromium)),
    check("test-package", "tests of the npm package", &["package", "host", "chromium"], Commands(&["npm run test --workspace wasm --if-present"])),
    check("test-worker", "tests in the edge runtime", &["worker"], Commands(&["npm run test --workspace worker --if-present"])),
    check("test-console", "tests of the console", &["worker", "console", "host", "chromium"], Commands(&["npm run test --workspace www --if-present"])),
    check("test-all", "tests across the runtimes", &["worker", "console", "host", "rust", "chromium"], Commands(&["npm run test --workspace tests --if-present"])),
    check("crash", "brokers killed under load", &["worker", "host", "chromium"], Commands(&["node tests/crash/run.mjs"])),
];

struct Step {
    name: &'static str,
    title: &'static str,
    needs: &'static [&'static str],
    builds: bool,
    work: Work,
}

enum Work {
    /// Command lines, one after the other.
    Commands(&'static [&'static str]),
    /// Anything else; the text it returns stands beside the verdict.
    Call(fn(&mut Report) -> Result<String>),
}

#[derive(Clone, Copy, PartialEq)]
enum Verdict {
    Passed,
    Failed,
    Skipped,
}

const fn check(
    name: &'static str,
    title: &'static str,
    needs: &'static [&'static str],
    work: Work,
) -> Step {
    Step {
        name,
        title,
        needs,
        builds: false,
        work,
    }
}

const fn build(
    name: &'static str,
    title: &'static str,
    needs: &'static [&'static str],
    work: Work,
) -> Step {
    Step {
        name,
        title,
        needs,
        builds: true,
        work,
    }
}

/// The names of all steps, for the command line.
pub(crate) fn names() -> Vec<&'static str> {
    STEPS.iter().map(|step| step.name).collect()
}

/// The names of the steps that build, for the command line.
pub(crate) fn build_names() -> Vec<&'static str> {
    STEPS
        .iter()
        .filter(|step| step.builds)
        .map(|step| step.name)
        .collect()
}

/// Builds everything, or one thing with what it needs.
pub(crate) fn build_all(only: Option<&str>) -> Result<()> {
    run_all("build", &selection(only, |step| step.builds))
}

/// Runs every step, or one with what it needs.
pub(crate) fn test(only: Option<&str>) -> Result<()> {
    run_all("test", &selection(only, |_| true))
}

/// The steps to run, in the order of the table.
fn selection(only: Option<&str>, wanted: impl Fn(&Step) -> bool) -> Vec<&'static Step> {
    let mut chosen: Vec<&Step> = Vec::new();
    // Needs stand above: going upwards, whoever needs a step has been seen before it.
    for step in STEPS.iter().rev() {
        let asked = only.map_or_else(|| wanted(step), |name| step.name == name);
        if asked || chosen.iter().any(|later| later.needs.contains(&step.name)) {
            chosen.push(step);
        }
    }
    chosen.reverse();
    chosen
}

fn run_all(what: &str, steps: &[&Step]) -> Result<()> {
    let started = Instant::now();
    let mut done: Vec<(&Step, Verdict)> = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let lacking = done.iter().find(|(earlier, verdict)| {
            *verdict != Verdict::Passed && step.needs.contains(&earlier.name)
        });
        let place = format!("[{:>2}/{}] {}", index + 1, steps.len(), step.name);
        let verdict = if let Some((earlier, _)) = lacking {
            println!("{place} skipped: it needs {}", earlier.name);
            Verdict::Skipped
        } else {
            println!("{place}: {}", step.title);
            run_one(step, &place)?
        };
        done.push((step, verdict));
    }
    sum_up(what, &done, started)
}

fn run_one(step: &Step, place: &str) -> Result<Verdict> {
    let mut report = Report::new(&target_directory()?.join("xtask/logs"), step.name)?;
    let outcome = match step.work {
        Call(work) => work(&mut report),
        Commands(lines) => lines
            .iter()
            .try_for_each(|line| report.run(line))
            .map(|()| String::new()),
    };
    let seconds = report.elapsed().as_secs_f32();
    match outcome {
        Ok(detail) => {
            let colon = if detail.is_empty() { "" } else { ": " };
            println!("{place} ok in {seconds:.1} s{colon}{detail}");
            Ok(Verdict::Passed)
        }
        Err(error) => {
            report.show_failure();
            println!("{place} FAILED after {seconds:.1} s: {error:#}");
            Ok(Verdict::Failed)
        }
    }
}

fn sum_up(what: &str, done: &[(&Step, Verdict)], started: Instant) -> Result<()> {
    let named = |verdict: Verdict| {
        let names: Vec<&str> = done
            .iter()
            .filter(|(_, of)| *of == verdict)
            .map(|(step, _)| step.name)
            .collect();
        names.join(", ")
    };
    let (failed, skipped) = (named(Verdict::Failed), named(Verdict::Skipped));
    let seconds = started.elapsed().as_secs_f32();
    if failed.is_empty() {
        println!("{what}: all {} steps ok in {seconds:.1} s", done.len());
        return Ok(());
    }
    let skipped = if skipped.is_empty() {
        skipped
    } else {
        format!("; not run: {skipped}")
    };
    println!("{what}: FAILED in {seconds:.1} s: {failed}{skipped}");
    bail!("{what} failed in {failed}; one step runs alone with `cargo xtask {what} --only NAME`");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(only: &str) -> Vec<&'static str> {
        let steps = selection(Some(only), |_| false);
        steps.iter().map(|step| step.name).collect()
    }

    #[test]
    fn every_need_stands_above_the_step() {
        for (index, step) in STEPS.iter().enumerate() {
            for need in step.needs {
                assert!(
                    STEPS[..index].iter().any(|above| above.name == *need),
                    "{} needs {need}, which does not stand above it",
                    step.name
                );
            }
        }
    }

    #[test]
    fn names_are_unique() {
        for name in names() {
            assert_eq!(
                STEPS.iter().filter(|step| step.name == name).count(),
                1,
                "{name}"
            );
        }
    }

    #[test]
    fn one_step_brings_what_it_needs_and_no_more() {
        assert_eq!(chosen("fmt"), ["fmt"]);
        assert_eq!(chosen("console"), ["npm", "engine", "package", "console"]);
    }

    #[test]
    fn building_needs_no_check() {
        let steps = selection(None, |step| step.builds);
        assert!(steps.iter().all(|step| step.builds));
    }
}
