//! Runs the simulator over many seeds: `simulate --seeds N [--from SEED] [--events N]`.

use core::time::Duration;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use dunlin_tests::sim::{EVENTS, Report, simulate};

/// Looks for broken promises in simulated worlds
#[derive(Parser)]
struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many events each world lives through before its faults end
    #[arg(long, default_value_t = EVENTS, value_parser = clap::value_parser!(u64).range(1..))]
    events: u64,
    /// Go on after a failing seed, showing one line of it
    #[arg(long)]
    keep_going: bool,
    /// How much of what happened a failure shows
    #[arg(long, default_value_t = 60)]
    show: usize,
}

/// Every world with this many others between is lived through twice, and must be the same.
const TWICE_EVERY: u64 = 10;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A panic is a finding, told with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let started = Instant::now();
    let mut shown = started;
    let mut total = Report::default();
    let mut failures = 0_u64;
    for index in 0..arguments.seeds {
        let seed = arguments.from.wrapping_add(index);
        match simulate(seed, arguments.events, arguments.show) {
            Ok(report) => {
                total.add(&report);
                if index % TWICE_EVERY == 0 {
                    let again =
                        simulate(seed, arguments.events, arguments.show).map(|report| report.hash);
                    if again.ok() != Some(report.hash) {
                        println!("seed {seed}: the same seed gave other effects the second time");
                        return ExitCode::FAILURE;
                    }
                }
            }
            Err(failure) if arguments.keep_going => {
                failures += 1;
                println!("seed {seed}: {}", failure.message);
            }
            Err(failure) => {
                println!("{failure}");
                return ExitCode::FAILURE;
            }
        }
        if shown.elapsed() > Duration::from_secs(5) {
            shown = Instant::now();
            println!(
                "{} of {} seeds, {:.0} s",
                index + 1,
                arguments.seeds,
                started.elapsed().as_secs_f32()
            );
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{}", total.line());
    println!(
        "{} seeds from {} in {seconds:.1} s, {:.1} seeds/s, {:.0} batches/s, {failures} failed",
        arguments.seeds,
        arguments.from,
        arguments.seeds as f64 / seconds,
        total.steps as f64 / seconds
    );
    if failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
