//! Tenants beside one another: whatever they are called and whatever they say, each sees and stores what it would see
//! and store alone, and one that is deleted leaves nothing of itself and all of the others.

mod host;

use std::collections::BTreeMap;

use dunlin_core::{Claims, ConnectionId, Encoding, Input, Rights, Timestamp};
use host::Host;

/// Names that are prefixes of one another, or of what follows a name in a key.
const NAMESPACES: [&str; 8] = [
    "a",
    "aa",
    "a.",
    "a-a",
    "b",
    "0",
    "z",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

/// Names of topics, groups, users, rules and messages that have every byte which could be taken for part of a key.
const NAMES: [&str; 14] = [
    "a",
    "\u{1}",
    "\u{1}b\u{2}",
    "\u{1}a\u{1}",
    "\u{2}aa\u{80}",
    "\u{7f}",
    "\u{80}",
    "\u{ff}",
    "\u{13}",
    "\u{ffff}",
    "\u{10ffff}",
    "a/\u{1}0\u{1}",
    "b:",
    "../b",
];

const CONFIG: &str = r#"{"row_bytes_max":200,"connects_per_minute_max":0,"usage_ms":0}"#;

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

    /// One of the names, as a JSON string.
    fn name(&mut self) -> String {
        let name = NAMES[self.below(NAMES.len() as u64) as usize];
        let mut text = String::from("\"");
        for letter in name.chars() {
            if letter < ' ' {
                text.push_str(&format!("\\u{:04x}", u32::from(letter)));
            } else {
                text.push(letter);
            }
        }
        text.push('"');
        text
    }

    /// Something that a tenant says.
    fn command(&mut self, request: u64) -> String {
        let (name, other, number) = (self.name(), self.name(), self.below(5) + 1);
        let rest = match self.below(24) {
            0..6 => format!(
                r#""type":"publish","topic":{name},"payload":"{request}","key":{other},"id":{other}"#
            ),
            6 => format!(
                r#""type":"publish_batch","messages":[{{"topic":{name},"payload":"1","producer":{other},"producer_sequence":{number}}},{{"topic":{other},"payload":"2"}}]"#
            ),
            7 => {
                format!(r#""type":"publish","topic":{name},"payload":"later","delay_ms":{number}"#)
            }
            8 => format!(
                r#""type":"subscribe","subscription":{number},"filter":{name},"from":"earliest""#
            ),
            9 => format!(r##""type":"subscribe","subscription":{number},"filter":"#""##),
            10 => format!(r#""type":"unsubscribe","subscription":{number}"#),
            11 => format!(
                r#""type":"join","subscription":{number},"group":{name},"filters":[{other}],"member":{other}"#
            ),
            12 => format!(r#""type":"ack","leases":[{{"lease":{number}}}]"#),
            13 => format!(
                r#""type":"configure_limit","scope":"user","name":{name},"rate":{number},"per_ms":60000"#
            ),
            14 => format!(
                r#""type":"configure_rule","rule":{name},"filter":{other},"then":[{{"action":"copy","topic":{name}}}]"#
            ),
            15 => format!(r#""type":"delete_rule","rule":{name}"#),
            16 => format!(r#""type":"delete_topic","topic":{name}"#),
            17 => format!(r#""type":"read","topic":{name},"partition":0,"from":"earliest""#),
            18 => format!(r#""type":"enter","topic":{name}"#),
            19 => r#""type":"list_topics""#.to_owned(),
            20 => r#""type":"list_groups""#.to_owned(),
            21 => r#""type":"list_rules""#.to_owned(),
            22 => format!(r#""type":"delete_group","group":{name}"#),
            _ => r#""type":"describe_namespace","days":3"#.to_owned(),
        };
        format!(r#"{{"request":{request},{rest}}}"#)
    }
}

/// Connects a user of a tenant, who may do everything there.
fn connect(host: &mut Host, tenant: usize, number: u64, user: &str) -> u64 {
    let id = 100 * (tenant as u64 + 1) + number;
    let claims = Claims {
        namespace: NAMESPACES[tenant].into(),
        user: user.into(),
        device: String::new(),
        rights: Rights(Rights::ALL.0 | Rights::OPERATE.0),
    };
    let input = Input::Connect {
        connection: ConnectionId(id),
        encoding: Encoding::Json,
        claims,
        ip: Vec::new(),
    };
    host.broker.handle(Timestamp(host.now), input);
    host.send(id, r#"{"type":"hello","version":1}"#);
    id
}

/// What the tenants said, in order: when, who, with which of its connections, and what.
fn script(seed: u64) -> Vec<(u64, usize, u64, String)> {
    let mut dice = Dice(seed);
    let mut now = 1_000_000;
    let lines = 1..=400;
    let line = lines.map(|request| {
        now += dice.below(4);
        let tenant = dice.below(NAMESPACES.len() as u64) as usize;
        (now, tenant, dice.below(2), dice.command(request))
    });
    line.collect()
}

/// Lets some of the tenants say their lines.
fn play(seed: u64, tenants: &[usize]) -> Host {
    let mut host = Host::new(CONFIG);
    for tenant in tenants {
        // Users are called like those of the others.
        let user = NAMES
            .iter()
            .find(|name| !name.chars().any(char::is_control));
        for number in 0..2 {
            connect(&mut host, *tenant, number, user.unwrap());
        }
        let quotas = r#"{"type":"configure_namespace","request":0,"publish_rate":0}"#;
        host.send(100 * (*tenant as u64 + 1), quotas);
    }
    for (now, tenant, number, line) in script(seed) {
        host.now = now;
        if tenants.contains(&tenant) {
            host.send(100 * (tenant as u64 + 1) + number, &line);
        } else {
            // Time passes for everybody alike.
            host.broker.handle(Timestamp(now), Input::Timeout);
            host.flush();
        }
    }
    host
}

/// What a tenant stores, and what its connections were told.
type Seen = (BTreeMap<Vec<u8>, Vec<u8>>, Vec<Vec<String>>);

fn seen(host: &Host, tenant: usize) -> Seen {
    let name = NAMESPACES[tenant];
    let rows = host
        .store
        .iter()
        .filter(|(key, _)| key[0] as usize == name.len() && key[1..].starts_with(name.as_bytes()));
    let told = (0..2).map(|number| {
        let id = 100 * (tenant as u64 + 1) + number;
        host.sent.get(&id).cloned().unwrap_or_default()
    });
    (
        rows.map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        told.collect(),
    )
}

#[test]
fn a_tenant_sees_and_stores_what_it_would_alone() {
    let all: Vec<usize> = (0..NAMESPACES.len()).collect();
    let (mut rows, mut deliveries) = (0, 0);
    for seed in 0..12 {
        let together = play(seed, &all);
        for tenant in &all {
            let alone = play(seed, &[*tenant]);
            let (expected, told) = (seen(&alone, *tenant), seen(&together, *tenant));
            assert_eq!(expected.1, told.1, "seed {seed}: {}", NAMESPACES[*tenant]);
            assert_eq!(expected.0, told.0, "seed {seed}: {}", NAMESPACES[*tenant]);
            rows += told.0.len();
            let lines = told.1.iter().flatten();
            deliveries += lines.filter(|line| line.contains("\"delivery\"")).count();
        }
        let known: usize = all
            .iter()
            .map(|tenant| seen(&together, *tenant).0.len())
            .sum();
        assert_eq!(
            together.store.len(),
            known + 1,
            "every row but the store's is a tenant's"
        );
    }
    assert!(
        rows > 2000 && deliveries > 1000,
        "{rows} rows, {deliveries} deliveries"
    );
}

#[test]
fn a_deleted_tenant_leaves_nothing_of_itself_and_all_of_the_others() {
    let all: Vec<usize> = (0..NAMESPACES.len()).collect();
    for (seed, victim) in (0..).zip(&all) {
        let mut host = play(seed, &all);
        let before: Vec<Seen> = all.iter().map(|tenant| seen(&host, *tenant)).collect();
        assert!(!before[*victim].0.is_empty());
        let by = 100 * (*victim as u64 + 1);
        host.send(by, r#"{"type":"delete_namespace","request":999}"#);
        assert!(seen(&host, *victim).0.is_empty(), "{}", NAMESPACES[*victim]);
        for tenant in all.iter().filter(|tenant| *tenant != victim) {
            assert!(
                seen(&host, *tenant) == before[*tenant],
                "{}",
                NAMESPACES[*tenant]
            );
        }
        // Nothing of it is due, and what comes under its name is new.
        host.now += 100_000_000;
        host.broker.handle(Timestamp(host.now), Input::Timeout);
        host.flush();
        assert!(seen(&host, *victim).0.is_empty(), "{}", NAMESPACES[*victim]);
        let id = connect(&mut host, *victim, 50, "");
        host.sent.remove(&id);
        host.send(id, r#"{"type":"list_topics","request":1}"#);
        let told = host.sent[&id].concat();
        assert!(told.contains("\"topics\":[]"), "{told}");
        host.restart(CONFIG);
    }
}
