//! Names of messages against a model: whatever comes in whatever order, also over restarts.

mod host;

use std::collections::BTreeMap;

use host::Host;

const CONFIG: &str =
    r#"{"row_bytes_max":60,"producer_ttl_ms":1000,"topic_default":{"dedup_ms":50}}"#;

/// A small generator, so that a seed names a run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % bound
    }
}

fn member(line: &str, name: &str) -> u64 {
    let rest = line.split(&format!("\"{name}\":")).nth(1);
    let digits = rest.and_then(|rest| rest.split([',', '}']).next());
    digits
        .and_then(|digits| digits.parse().ok())
        .expect("the receipt has it")
}

#[test]
fn a_name_is_published_once_within_its_window_and_a_producers_for_ever() {
    let (mut duplicates, mut forgotten) = (0, 0);
    for seed in 0..40 {
        let mut dice = Dice(seed);
        let mut host = Host::new(CONFIG);
        host.connect(1, "n");
        // When and where what was published, by name; and every sequence of the producer.
        let mut names: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let mut produced: BTreeMap<u64, ()> = BTreeMap::new();
        let mut end = 0;
        for _ in 0..300 {
            host.now += dice.below(8);
            if dice.below(25) == 0 {
                host.restart(CONFIG);
                host.connect(1, "n");
            }
            let by_producer = dice.below(2) == 0;
            let name = if by_producer {
                format!(
                    r#""producer":"p","producer_sequence":{}"#,
                    dice.below(1_500)
                )
            } else {
                format!(r#""id":"{}""#, dice.below(12))
            };
            let line =
                format!(r#"{{"type":"publish","request":1,"topic":"t","payload":"x",{name}}}"#);
            host.send(1, &line);
            let answer = host.heard(1).pop().expect("a publish is answered");
            let remembered = names.get(&name).filter(|(at, _)| at + 50 > host.now);
            let sequence = by_producer.then(|| member(&line, "producer_sequence"));
            let highest = produced
                .last_key_value()
                .map_or(0, |(highest, ())| *highest);
            if let Some((_, offset)) = remembered {
                assert!(
                    answer.contains("\"duplicate\":true"),
                    "seed {seed}: {answer}"
                );
                assert_eq!(member(&answer, "offset"), *offset, "seed {seed}");
                duplicates += 1;
            } else if sequence.is_some_and(|sequence| highest > sequence + 1024) {
                assert!(answer.contains("invalid_argument"), "seed {seed}: {answer}");
            } else if sequence.is_some_and(|sequence| produced.contains_key(&sequence)) {
                assert!(
                    answer.contains("\"duplicate\":true"),
                    "seed {seed}: {answer}"
                );
                assert_eq!(member(&answer, "sequence"), 0, "seed {seed}");
                forgotten += 1;
            } else {
                assert!(
                    answer.contains("\"duplicate\":false"),
                    "seed {seed}: {answer}"
                );
                assert_eq!(member(&answer, "offset"), end, "seed {seed}");
                names.insert(name, (host.now, end));
                produced.extend(sequence.map(|sequence| (sequence, ())));
                end += 1;
            }
        }
        // What is over leaves the store with the next write.
        host.now += 2_000;
        host.publish(1, "t", "nameless");
        let left = host
            .store
            .keys()
            .filter(|key| matches!(key[2], 0x0c | 0x0d));
        assert_eq!(left.count(), 0, "seed {seed}");
    }
    assert!(duplicates > 500, "{duplicates}");
    assert!(forgotten > 100, "{forgotten}");
}
