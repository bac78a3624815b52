//! Whether the simulator finds what it is there for: each deliberate fault of the core is switched on, and some world
//! must notice. `mutants [--seeds N]` says which did.

use std::process::ExitCode;

use clap::Parser;
use dunlin_core::{Mutation, mutate};
use dunlin_tests::sim::{EVENTS, simulate};

/// Switches on each deliberate fault and looks for a simulated world that notices
#[derive(Parser)]
struct Arguments {
    /// In how many worlds a fault may hide
    #[arg(long, default_value_t = 40)]
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
        match found {
            Some(failure) => println!(
                "{mutation:?}: caught by seed {}: {}",
                failure.seed, failure.message
            ),
            None => {
                missed += 1;
                println!("{mutation:?}: NOT caught by {seeds} worlds");
            }
        }
    }
    if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
