//! The driver of this repository, called as `cargo xtask <verb>`.
//!
//! It owns what happens in which order, from an empty clone to a running server or a verdict; the steps themselves are
//! the tools' own (cargo, npm, wasm-bindgen, binaryen). It never decides anything that a tool's configuration could say.

mod artefacts;
mod machine;
mod report;
mod serve;
mod steps;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, runs and tests dunlin.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Builds everything, then runs the broker on 127.0.0.1:8787 with its data in ./data
    Serve {
        /// Arguments for `dunlin serve`; --listen and --data replace the defaults
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Builds everything: guest, npm package, gateway worker, console, host
    Build {
        /// Only this step and what it needs
        #[arg(long, value_name = "NAME", value_parser = steps::build_names())]
        only: Option<String>,
    },
    /// Runs every check and test, installing what they need
    Test {
        /// Only this step and what it needs
        #[arg(long, value_name = "NAME", value_parser = steps::names())]
        only: Option<String>,
    },
    /// Runs the simulator over many seeds
    Simulate {
        /// How many seeds
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
        seeds: u64,
        /// Further arguments for the simulator
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Kills real brokers under load, again and again, and proves that nothing acknowledged is lost
    ///
    /// `host` is the native server, `worker` workerd, `browser` Chromium with the broker in a page; each is killed with
    /// SIGKILL in the middle of a mixed load from real clients and started again on the same data, and then every
    /// acknowledged message must be there, once, in its place and in order, and every subscription must go on where it
    /// was. Finally each is put back to a state before its last acknowledgements, which must be found out. A failure
    /// names what is missing, and keeps the data and a journal of everything that the clients were told.
    Crash {
        /// How many kills of each
        #[arg(long, default_value_t = 10)]
        cycles: u32,
        /// Only this one
        #[arg(long, value_parser = ["host", "worker", "browser"])]
        only: Option<String>,
        /// Repeats the load of an earlier run, and the moments of its kills
        #[arg(long)]
        seed: Option<u32>,
    },
    /// Runs the benchmarks
    Bench {
        /// Arguments for the benchmarks
        #[arg(last = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().verb {
        Verb::Serve { arguments } => serve::serve(&arguments),
        Verb::Build { only } => steps::build_all(only.as_deref()),
        Verb::Test { only } => steps::test(only.as_deref()),
        Verb::Simulate { seeds, arguments } => {
            let seeds = seeds.to_string();
            tests_binary("simulate", &["--seeds", &seeds], &arguments)
        }
        Verb::Crash { cycles, only, seed } => crash(cycles, only, seed),
        Verb::Bench { arguments } => tests_binary("bench", &[], &arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Becomes one of the programs of the package `dunlin-tests`, so that its output and its signals are its own.
fn tests_binary(name: &str, arguments: &[&str], more: &[String]) -> Result<()> {
    let mut command = Command::new("cargo");
    command
        .args([
            "run",
            "--release",
            "-p",
            "dunlin-tests",
            "--bin",
            name,
            "--",
        ])
        .args(arguments)
        .args(more)
        .current_dir(root());
    serve::become_program(command)
}

/// Builds what is to be killed, and becomes the program that kills it.
fn crash(cycles: u32, only: Option<String>, seed: Option<u32>) -> Result<()> {
    let built = only
        .as_deref()
        .map(|name| if name == "browser" { "package" } else { name });
    steps::build_all(built)?;
    let mut command = Command::new("node");
    command
        .args(["tests/crash/run.mjs", "--cycles", &cycles.to_string()])
        .args(only.iter().flat_map(|name| ["--only", name.as_str()]))
        .env("DUNLIN_BIN", target_directory()?.join("release/dunlin"))
        .current_dir(root());
    if let Some(seed) = seed {
        command.args(["--seed", &seed.to_string()]);
    }
    serve::become_program(command)
}

/// The top of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask/ lies in the repository")
}

/// Where cargo puts what it builds, wherever it was told to: this program is itself `<there>/release/xtask`.
fn target_directory() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let directory = own.ancestors().nth(2);
    Ok(directory
        .expect("cargo builds into <target>/<profile>/")
        .to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulation_of_no_world_or_of_no_number_is_refused() {
        for (value, expected) in [
            (
                "0",
                "invalid value '0' for '--seeds <SEEDS>': 0 is not in 1..",
            ),
            (
                "ten",
                "invalid value 'ten' for '--seeds <SEEDS>': invalid digit",
            ),
        ] {
            let parsed = Arguments::try_parse_from(["xtask", "simulate", "--seeds", value]);
            let told = parsed.err().expect("it is refused").to_string();
            assert!(told.contains(expected), "{told}");
        }
    }
}
