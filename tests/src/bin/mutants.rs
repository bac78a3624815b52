//! Whether the simulator finds what it is there for: each deliberate fault, of the core or of the store, is switched on,
//! and some world must notice. `mutants [--seeds N]` says which did.

use std::process::ExitCode;

use clap::Parser;
use dunlin_core::{Mutation, mutate};
use dunlin_tests::sim::{EVENTS, Failure, StoreFault, simulate, simulate_with};

/// Switches on each deliberate fault and looks for a simulated world that notices
#[derive(Parser)]
struct Arguments {
    /// In how many worlds a fault may hide
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
}

fn main() -> ExitCode {
    let Arguments { seeds } = Arguments::parse();
    // A panic is a finding like any other.
    std::panic::set_hook(Box::new(|_| {}));
    // First without a fault, with the core's own invariants asserted after every step.
    for seed in 0..seeds {
        if let Err(failure) = simulate(seed, EVENTS, 60) {
            println!("{failure}");
            return ExitCode::FAILURE;
        }
    }
    println!("no fault: {seeds} worlds are sound");
    let mut missed = 0;
    for mutation in Mutation::ALL {
        mutate(Some(mutation));
        let found = (0..seeds).find_map(|seed| simulate(seed, EVENTS, 1).err());
        mutate(None);
        missed += u32::from(!is_caught(&format!("{mutation:?}"), seeds, found));
    }
    for fault in StoreFault::ALL {
        let found = (0..seeds).find_map(|seed| simulate_with(Some(fault), seed, EVENTS, 1).err());
        missed += u32::from(!is_caught(&format!("{fault:?}"), seeds, found));
    }
    if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Tells whether a world noticed.
fn is_caught(fault: &str, seeds: u64, found: Option<Failure>) -> bool {
    match &found {
        Some(failure) => {
            let told: String = failure.message.chars().take(300).collect();
            println!("{fault}: caught by seed {}: {told}", failure.seed);
        }
        None => println!("{fault}: NOT caught by {seeds} worlds"),
    }
    found.is_some()
}
