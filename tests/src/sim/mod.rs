//! The simulator: whole worlds of clients, network, clock, host and store, each made from one number, and a model
//! that says whether what the broker does in them is what it promises.
//!
//! A world runs the core behind the native host's own step ([`dunlin_host::Drive`]), on its own journal
//! ([`dunlin_host::JournaledStore`]), which lies on a disk that fails (`disk`). What clients do with the broker, and what it
//! owes them, is in `workload`, a file for each kind of use: every effect is checked when it is emitted (`model`), every
//! frame when it arrives (`client`). Every row that the store shows is held against what was written (`store`), and
//! every crash is checked by reading back what is stored (`audit`, `recovery`). Nothing in it depends on anything but
//! the seed, so a failure is replayed by its number.

mod archive;
mod audit;
mod base;
mod cache;
mod client;
mod command;
mod damage;
mod disk;
mod engine;
mod frames;
mod host;
mod json;
mod lives;
mod model;
mod network;
mod plan;
mod recovery;
mod released;
mod render;
pub(crate) mod rng;
mod rows;
mod store;
mod trace;
mod trouble;
mod workload;
mod world;

use core::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use self::model::Tally;
use self::world::World;

pub use self::store::StoreFault;

/// How many events a world lives through before its faults end.
pub const EVENTS: u64 = 3000;

/// Seeds that once found a fault, in the worlds of then: whoever adds to what worlds are made of makes others of them.
pub const REGRESSIONS: &[u64] = &[
    5, 13, 16, 29, 36, 52, 78, 118, 194, 201, 443, 503, 672, 1366, 2098, 2363, 2617, 5417, 5618,
    6193, 8009, 20_913, 50_870,
];

/// What a world was like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// A hash of every effect; the same for the same seed.
    pub hash: u64,
    /// Batches that the host gave.
    pub steps: u64,
    /// What went wrong in it, as was wanted.
    pub troubles: Troubles,
    tally: Tally,
}

/// How often what went wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Troubles {
    /// The process died, alone or with the power.
    pub crashes: u64,
    /// The store failed under a broker.
    pub failures: u64,
    /// A torn tail was cut off and told.
    pub cuts: u64,
    /// A bit was turned in a copy of the disk, and refused.
    pub refused_bits: u64,
    /// A row was made unsound in a copy of the store, and refused.
    pub refused_rows: u64,
    /// The host drained and stopped.
    pub stops: u64,
    /// The broker was forgotten until it was needed.
    pub sleeps: u64,
    /// The clock went back.
    pub setbacks: u64,
    /// Somebody made noise.
    pub noise: u64,
}

impl Troubles {
    fn add(&mut self, other: &Self) {
        self.crashes += other.crashes;
        self.failures += other.failures;
        self.cuts += other.cuts;
        self.refused_bits += other.refused_bits;
        self.refused_rows += other.refused_rows;
        self.stops += other.stops;
        self.sleeps += other.sleeps;
        self.setbacks += other.setbacks;
        self.noise += other.noise;
    }
}

impl Report {
    /// Adds another world's numbers.
    pub fn add(&mut self, other: &Self) {
        self.hash = self.hash.rotate_left(1) ^ other.hash;
        self.steps += other.steps;
        self.troubles.add(&other.troubles);
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
        let Troubles {
            crashes,
            failures,
            cuts,
            refused_bits,
            refused_rows,
            stops,
            sleeps,
            setbacks,
            noise,
        } = self.troubles;
        format!(
            "{} batches, {crashes} crashes, {failures} failures of the store, {cuts} torn tails, {refused_bits} turned bits and \
             {refused_rows} unsound rows refused, {stops} stops, {sleeps} sleeps, {setbacks} setbacks of the clock, noise {noise} times, {receipts} receipts, {refusals} refusals, {subscriptions} subscriptions ({ended} ended), \
             {deliveries} deliveries, {gaps} gaps, {pages} pages, effects {:016x}",
            self.steps, self.hash
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
            troubles: world.troubles(),
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
