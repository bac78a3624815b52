//! What a seed's world is like: how big, how busy, how broken. Drawn from the seed, so that different seeds look for
//! different faults instead of all for a little of each.

use dunlin_host::JournalOptions;

use super::model::Bounds;
use super::rng::Rng;
use super::workload::topics::TopicWish;

/// A topic that clients use.
#[derive(Clone, Debug)]
pub(super) struct TopicPlan {
    pub(super) name: &'static str,
    pub(super) wish: TopicWish,
}

#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) namespaces: Vec<String>,
    pub(super) clients: usize,
    pub(super) topics: Vec<TopicPlan>,
    pub(super) filters: Vec<String>,
    pub(super) config: String,
    pub(super) bounds: Bounds,
    /// The longest that a message is under way, in milliseconds.
    pub(super) delay_ms: u64,
    /// One action in so many goes wrong in this way; 0 for never.
    pub(super) crashes: u64,
    pub(super) cuts: u64,
    pub(super) outages: u64,
    pub(super) sleeps: u64,
    pub(super) jumps: u64,
    pub(super) load_faults: u64,
    pub(super) deletes: u64,
    /// One subscription in so many holds publishers back.
    pub(super) blocks: u64,
    /// One publish in so many is a batch.
    pub(super) batches: u64,
    /// One message in so many is to wait for its time.
    pub(super) later: u64,
    /// One subscriber in so many gives no more credit until the end.
    pub(super) stalls: u64,
    pub(super) disk_faults: u64,
    /// The host is told to take nothing new, and stops.
    pub(super) drains: u64,
    /// The clock is behind after a restart.
    pub(super) setbacks: u64,
    /// Somebody sends what makes no sense.
    pub(super) noise: u64,
    /// A bit of what is stored is another, in a copy.
    pub(super) flips: u64,
    pub(super) journal: JournalOptions,
}

impl Plan {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let namespaces = ["a", "ab", "a.b"].iter().take(rng.between(1, 3) as usize);
        let topics = topics(rng);
        let filters = filters(&topics);
        let bounds = Bounds {
            read_messages_max: rng.between(3, 40),
            loads_max: rng.between(1, 6),
            load_bytes_max: *rng.pick(&[1024, 2048, 16_384]),
            row_bytes_max: *rng.pick(&[64, 512, 4096]),
            credit_max: 1000,
            lag_max: rng.between(4, 60),
            block_ms_max: rng.between(20, 400),
            ack_deadline_ms: *rng.pick(&[300, 2000, 20_000]),
            max_delivery_attempts: rng.between(1, 6),
            session_ms: *rng.pick(&[1000, 5000, 30_000]),
            rebalance_ms: *rng.pick(&[200, 2000, 20_000]),
            dedup_entries_max: *rng.pick(&[20, 1_000_000]),
            presence_ms: *rng.pick(&[1500, 8000, 40_000]),
            scheduled_max: *rng.pick(&[4, 100_000]),
            list_scheduled_max: rng.between(1, 10),
            requests_max: *rng.pick(&[2, 10_000]),
        };
        let config = format!(
            "{{\"read_messages_max\":{},\"loads_max\":{},\"load_bytes_max\":{},\"row_bytes_max\":{},\"credit_max\":{},\
             \"lag_max\":{},\"block_ms_max\":{},\"segment_bytes_max\":{},\"segment_rows_max\":{},\"trim_rows_max\":{},\
             \"catch_up_bytes_max\":{},\"catch_ups_max\":{},\"ring_messages_max\":{},\"list_topics_max\":{},\
             \"incarnations_max\":{},\"compaction_bytes_min\":{},\"compaction_keys_max\":{},\"ack_deadline_ms\":{},\
             \"max_delivery_attempts\":{},\"session_ms\":{},\"rebalance_ms\":{},\"parked_max\":{},\"dedup_entries_max\":{},\
             \"scheduled_max\":{},\"list_scheduled_max\":{},\"requests_max\":{},\"presence_ms\":{},\
             \"session_ttl_ms\":60000}}",
            bounds.read_messages_max,
            bounds.loads_max,
            bounds.load_bytes_max,
            bounds.row_bytes_max,
            bounds.credit_max,
            bounds.lag_max,
            bounds.block_ms_max,
            rng.pick(&[256, 1024, 65_536]),
            rng.between(1, 8),
            rng.between(1, 16),
            rng.pick(&[1024, 4096]),
            rng.between(1, 4),
            rng.between(2, 32),
            rng.between(1, 10),
            rng.between(2, 64),
            rng.pick(&[1, 500]),
            rng.between(1, 6),
            bounds.ack_deadline_ms,
            bounds.max_delivery_attempts,
            bounds.session_ms,
            bounds.rebalance_ms,
            rng.between(1, 20),
            bounds.dedup_entries_max,
            bounds.scheduled_max,
            bounds.list_scheduled_max,
            bounds.requests_max,
            bounds.presence_ms,
        );
        let mut rarely = |often: u64| {
            if rng.once_in(3) {
                0
            } else {
                rng.between(often / 4, often * 2).max(1)
            }
        };
        Self {
            crashes: rarely(150),
            cuts: rarely(60),
            outages: rarely(300),
            sleeps: rarely(150),
            jumps: rarely(400),
            load_faults: rarely(12),
            deletes: rarely(150),
            blocks: rarely(8),
            batches: rarely(4),
            later: rarely(8),
            stalls: rarely(3),
            disk_faults: rarely(40),
            drains: rarely(100),
            setbacks: rarely(3),
            noise: rarely(20),
            flips: rarely(20),
            journal: JournalOptions {
                segment_bytes: *rng.pick(&[1024, 4096, 16_384]),
                spares_min: rng.below(3) as usize,
                frozen_max: rng.between(1, 3) as usize,
                seed: rng.next(),
            },
            delay_ms: *rng.pick(&[5, 60, 2000]),
            clients: rng.between(2, 6) as usize,
            namespaces: namespaces.map(|name| (*name).to_owned()).collect(),
            topics,
            filters,
            config,
            bounds,
        }
    }
}

/// Topics of every kind, level and size, some of them, so that each is often enough alone with few others.
fn topics(rng: &mut Rng) -> Vec<TopicPlan> {
    let plain = TopicWish::default;
    let all = [
        (
            "a",
            TopicWish {
                dedup_ms: Some(rng.between(1000, 10_000)),
                ..plain()
            },
        ),
        (
            "a/b",
            TopicWish {
                ordering: Some("none"),
                partitions: Some(3),
                dedup_ms: Some(rng.between(0, 3000)),
                ..plain()
            },
        ),
        (
            "a/c",
            TopicWish {
                ordering: Some("per_key"),
                partitions: Some(4),
                dedup_ms: Some(0),
                durability: Some("sync"),
                ..plain()
            },
        ),
        (
            "b/x",
            TopicWish {
                ordering: Some("global"),
                durability: Some("none"),
                ..plain()
            },
        ),
        (
            "b/y",
            TopicWish {
                ordering: Some("global"),
                durability: Some("sync"),
                ..plain()
            },
        ),
        (
            "a/t",
            TopicWish {
                max_messages: Some(rng.between(1, 40)),
                dedup_ms: Some(*rng.pick(&[300, 20_000])),
                ..plain()
            },
        ),
        (
            "old/t",
            TopicWish {
                max_age_ms: Some(rng.between(50, 20_000)),
                durability: Some("none"),
                ..plain()
            },
        ),
        (
            "live/1",
            TopicWish {
                kind: Some("live"),
                ..plain()
            },
        ),
        (
            "live/2",
            TopicWish {
                kind: Some("live"),
                ordering: Some("per_key"),
                partitions: Some(2),
                ..plain()
            },
        ),
        (
            "last/1",
            TopicWish {
                kind: Some("last_value"),
                ..plain()
            },
        ),
        (
            "key/1",
            TopicWish {
                kind: Some("compacted"),
                ..plain()
            },
        ),
        (
            "key/2",
            TopicWish {
                kind: Some("compacted"),
                ordering: Some("per_key"),
                partitions: Some(2),
                ..plain()
            },
        ),
        (
            "ü/x/y",
            TopicWish {
                durability: Some("sync"),
                ..plain()
            },
        ),
    ];
    let wanted = rng.between(2, 7);
    let mut left: Vec<_> = all
        .into_iter()
        .map(|(name, wish)| TopicPlan { name, wish })
        .collect();
    (0..wanted)
        .map(|_| left.remove(rng.below(left.len() as u64) as usize))
        .collect()
}

fn filters(topics: &[TopicPlan]) -> Vec<String> {
    let mut filters: Vec<String> = topics.iter().map(|topic| topic.name.to_owned()).collect();
    filters.extend(["#", "a/#", "+/+", "a/+", "b/#", "+", "+/1", "not/there"].map(str::to_owned));
    filters
}
