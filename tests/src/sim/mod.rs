//! The simulator: whole worlds of clients, network, clock, host and store, each made from one number, and a model
//! that says whether what the broker does in them is what it promises.
//!
//! A world runs the core behind the native host's own step ([`dunlin_host::Drive`]). Every effect is checked when it
//! is emitted (`model`), every frame when it arrives (`reader`), and every crash by reading back what is stored
//! (`audit`, `recovery`). Nothing in it depends on anything but the seed, so a failure is replayed by its number.

mod answers;
mod archive;
mod audit;
mod base;
mod client;
mod command;
mod damage;
mod disk;
mod engine;
mod frames;
mod grants;
mod host;
mod json;
mod model;
mod network;
mod plan;
mod reader;
mod recovery;
mod render;
mod rng;
mod rows;
mod store;
mod told;
mod trace;
mod trouble;
mod world;

use core::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use self::model::Tally;
use self::world::World;

pub use self::store::StoreFault;

/// How many events a world lives through before its faults end.
pub const EVENTS: u64 = 3000;

/// Seeds that once found a fault, each of which is run for ever.
pub const REGRESSIONS: &[u64] = &[
    5, 13, 16, 29, 36, 52, 78, 194, 201, 443, 503, 672, 2098, 2363, 2617, 50_870,
];

/// What a world was like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// A hash of every effect; the same for the same seed.
    pub hash: u64,
    /// Batches that the host gave.
    pub steps: u64,
    /// How often the process died, alone or with the power.
    pub crashes: u64,
    /// How often the store failed under a broker.
    pub failures: u64,
    /// How often a torn tail was cut off and told.
    pub cuts: u64,
    tally: Tally,
}

impl Report {
    /// Adds another world's numbers.
    pub fn add(&mut self, other: &Self) {
        self.hash = self.hash.rotate_left(1) ^ other.hash;
        self.steps += other.steps;
        self.crashes += other.crashes;
        self.failures += other.failures;
        self.cuts += other.cuts;
        self.tally.add(&other.tally);
    }

    /// The numbers as a line.
    pub fn line(&self) -> String {
        let Tally {
            receipts,
            refusals,
            deliveries,
            gaps,
            pages,
            subscriptions,
            ended,
        } = self.tally;
        format!(
            "{} batches, {} crashes, {} store failures, {} torn tails, {receipts} receipts, {refusals} refusals, {subscriptions} subscriptions ({ended} ended), \
             {deliveries} deliveries, {gaps} gaps, {pages} pages, effects {:016x}",
            self.steps, self.crashes, self.failures, self.cuts, self.hash
        )
    }
}

/// What went wrong in a world.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The world.
    pub seed: u64,
    /// Which promise was broken.
    pub message: String,
    /// What happened last.
    pub events: Vec<String>,
}

impl core::fmt::Display for Failure {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for event in &self.events {
            writeln!(out, "{event}")?;
        }
        writeln!(out, "seed {}: {}", self.seed, self.message)?;
        write!(
            out,
            "replay: cargo xtask simulate --seeds 1 -- --from {}",
            self.seed
        )
    }
}

/// Lives through the world of `seed`, with `events` before the faults end. A failure shows the newest `shown` of what
/// happened.
pub fn simulate(seed: u64, events: u64, shown: usize) -> Result<Report, Failure> {
    simulate_with(None, seed, events, shown)
}

/// The same on a store that breaks its word.
pub fn simulate_with(
    fault: Option<StoreFault>,
    seed: u64,
    events: u64,
    shown: usize,
) -> Result<Report, Failure> {
    let (mut world, outcome) = live(fault, seed, events, 0);
    match outcome {
        Ok(()) => Ok(Report {
            hash: world.trace.hash(),
            steps: world.steps,
            crashes: world.crashes,
            failures: world.failures,
            cuts: world.store.cuts(),
            tally: world.model.stats,
        }),
        Err(message) => {
            // Once more, to see what led there.
            (world, _) = live(fault, seed, events, shown);
            Err(Failure {
                seed,
                message,
                events: world.trace.into_lines(),
            })
        }
    }
}

fn live(
    fault: Option<StoreFault>,
    seed: u64,
    events: u64,
    shown: usize,
) -> (World, Result<(), String>) {
    let mut world = World::new(seed, shown, fault);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run(events))).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned());
        Err(format!("panicked: {}", text.unwrap_or_default()))
    });
    (world, outcome)
}
