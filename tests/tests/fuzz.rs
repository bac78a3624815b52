//! The checks of `cargo fuzz`, bounded and seeded: random and mutated messages and rows.

use std::sync::LazyLock;
use std::{env, thread};

use dunlin_core::{Encoding, Input, Reader, Row, abi};
use dunlin_tests::conformance::{Outcome, Scenario, TraceStep, run};
use dunlin_tests::fuzz;

/// Rounds of every kind, each on a broker of its own; `FUZZ_ROUNDS=N` for another number.
static ROUNDS: LazyLock<u64> = LazyLock::new(|| match env::var("FUZZ_ROUNDS") {
    Ok(number) => number.parse().expect("FUZZ_ROUNDS is a number"),
    Err(_) => 2000,
});

static OUTCOMES: LazyLock<Vec<Outcome>> = LazyLock::new(|| {
    let scenarios = Scenario::all().unwrap_or_else(|failure| panic!("{failure}"));
    let run = |scenario: &Scenario| run(scenario).unwrap_or_else(|failure| panic!("{failure}"));
    scenarios.iter().map(run).collect()
});

/// SplitMix64.
struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    fn new(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn bytes(&mut self, length_max: usize) -> Vec<u8> {
        let length = self.below(length_max);
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// Changes a few bytes, or what is where.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                2 => bytes.truncate(at),
                3 => bytes.insert(at, self.next() as u8),
                4 if !bytes.is_empty() => {
                    bytes.remove(at);
                }
                _ => {
                    let again = bytes[at..].to_vec();
                    bytes.extend_from_slice(&again);
                }
            }
        }
    }
}

impl Drop for Random {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the seed of the round that failed is {}", self.seed);
        }
    }
}

/// One message as `fuzz::frames` reads it.
fn put_message(client: u8, message: &[u8], data: &mut Vec<u8>) {
    data.push(client);
    let mut length = message.len();
    while length >= 0x80 {
        data.push((length as u8) | 0x80);
        length >>= 7;
    }
    data.push(length as u8);
    data.extend_from_slice(message);
}

/// Every message of every scenario, with the encoding of its connection.
fn messages() -> Vec<(Encoding, Vec<u8>)> {
    let mut messages = Vec::new();
    for outcome in OUTCOMES.iter() {
        let mut encodings = std::collections::BTreeMap::new();
        for step in &outcome.trace.steps {
            let TraceStep::Step { inputs, .. } = step else {
                continue;
            };
            let mut batch = Reader::new(inputs);
            while !batch.is_empty() {
                match abi::decode_input(&mut batch).expect("a trace has whole inputs") {
                    Input::Connect {
                        connection,
                        encoding,
                        ..
                    } => {
                        encodings.insert(connection, encoding);
                    }
                    Input::Frame { connection, bytes } => {
                        if let Some(encoding) = encodings.get(&connection) {
                            messages.push((*encoding, bytes.to_vec()));
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(messages.len() > 100, "the scenarios have messages");
    messages
}

#[test]
fn random_messages_never_harm() {
    for seed in 0..*ROUNDS {
        let mut random = Random::new(seed);
        let mut data = Vec::new();
        for _ in 0..4 {
            let message = random.bytes(64);
            put_message(random.next() as u8, &message, &mut data);
        }
        fuzz::frames(&data);
    }
}

#[test]
fn mutated_messages_never_harm() {
    let messages = messages();
    for seed in 0..*ROUNDS {
        let mut random = Random::new(seed);
        let mut data = Vec::new();
        for _ in 0..12 {
            let (encoding, message) = &messages[random.below(messages.len())];
            let mut message = message.clone();
            if random.below(3) > 0 {
                random.mutate(&mut message);
            }
            let json = u8::from(*encoding == Encoding::Json);
            put_message(json | (random.next() as u8 & !3), &message, &mut data);
        }
        fuzz::frames(&data);
    }
}

#[test]
fn mutated_rows_are_refused_or_served() {
    let (mut taken, mut refused) = (0, 0);
    for seed in 0..*ROUNDS {
        let mut random = Random::new(seed);
        let mut rows = OUTCOMES[random.below(OUTCOMES.len())].rows.clone();
        if rows.is_empty() {
            continue;
        }
        for _ in 0..=random.below(2) {
            let at = random.below(rows.len());
            match random.below(8) {
                0 => {
                    rows.remove(at);
                }
                1 => random.mutate(&mut rows[at].key),
                2 => {
                    let other = random.below(rows.len());
                    rows[at].value = rows[other].value.clone();
                }
                _ => random.mutate(&mut rows[at].value),
            }
            if rows.is_empty() {
                break;
            }
        }
        match fuzz::restore(rows) {
            Ok(()) => taken += 1,
            Err(error) => {
                assert!(!error.0.is_empty(), "a refusal says why");
                refused += 1;
            }
        }
    }
    assert!(taken > *ROUNDS / 20, "only {taken} stores were taken");
    assert!(refused > *ROUNDS / 20, "only {refused} stores were refused");
}

#[test]
fn random_rows_are_refused_or_served() {
    for seed in 0..*ROUNDS {
        let mut random = Random::new(seed);
        let mut rows = Vec::new();
        for table in [1, 2, 3, 4, 5, 0x80] {
            let mut key = b"\x01a".to_vec();
            key.push(table);
            key.extend(random.bytes(20));
            let mut value = vec![1];
            value.extend(random.bytes(30));
            rows.push(Row { key, value });
        }
        // A refusal is as good as an answer; what counts is that nothing panics.
        let _ = fuzz::restore(rows);
    }
}
