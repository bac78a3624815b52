//! Every bound and every default, by name. A host passes them as one JSON object; what it leaves out has the value
//! that stands here.

use alloc::format;
use alloc::string::String;

use crate::effect::Durability;
use crate::limit::{Rule, Scope, WAIT_MS_MAX};
use crate::protocol::json::Value;
use crate::topic::{Kind, Ordering, TopicConfig};

/// The configuration cannot be used; the text says which member and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub String);

/// The shortest session of a group's members: they say that they live a few times within it.
pub(crate) const SESSION_MS_MIN: u64 = 100;

/// The longest name of a user or a device.
pub(crate) const IDENTITY_BYTES_MAX: usize = 256;

macro_rules! bounds {
    ($($(#[$doc:meta])* $name:ident: $default:expr, $min:expr => $max:expr;)*) => {
        /// The bounds and defaults of a broker.
        #[derive(Clone, Debug)]
        pub(crate) struct Config {
            $($(#[$doc])* pub(crate) $name: u64,)*
            /// Whether a namespace that does not exist comes to be when somebody connects to it.
            pub(crate) namespaces_open: bool,
            /// The configuration of topics that come to be by a publish.
            pub(crate) topic_default: TopicConfig,
            /// The rate limits by scope, for namespaces that have none of their own.
            pub(crate) limits: [Option<Rule>; Scope::ALL.len()],
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($name: $default,)* namespaces_open: true, topic_default: TopicConfig::default(), limits: [None; Scope::ALL.len()] }
            }
        }

        impl Config {
            fn bound(&mut self, name: &str) -> Option<(&mut u64, u64, u64)> {
                match name {
                    $(stringify!($name) => Some((&mut self.$name, $min, $max)),)*
                    _ => None,
                }
            }
        }
    };
}

bounds! {
    /// The largest payload, in bytes.
    payload_bytes_max: 1 << 20, 1 => 1 << 20;
    /// The largest headers of one message, in bytes.
    headers_bytes_max: 64 << 10, 0 => 64 << 10;
    /// The longest key, content type or message id, in bytes.
    attribute_bytes_max: 1024, 1 => 65_536;
    /// The largest binary message on a socket, in bytes.
    inbound_bytes_max: (1 << 20) + (128 << 10), 1024 => (1 << 20) + (128 << 10);
    /// The largest JSON message on a socket, in bytes.
    inbound_json_bytes_max: (1 << 20) + (512 << 10), 1024 => (1 << 20) + (512 << 10);
    /// The most namespaces.
    namespaces_max: 10_000, 1 => 1_000_000;
    /// The most connections.
    connections_max: 10_000, 1 => 1_000_000;
    /// The most topics in a namespace.
    topics_max: 10_000, 1 => 1_000_000;
    /// The most partitions of a topic.
    partitions_max: 64, 1 => 1024;
    /// The most subscriptions on a connection.
    subscriptions_max: 100, 1 => 100_000;
    /// The most messages in a batch.
    batch_messages_max: 10_000, 1 => 100_000;
    /// The most messages in a page.
    read_messages_max: 1000, 1 => 100_000;
    /// The most bytes in a page, beyond which it ends.
    read_bytes_max: 1 << 20, 1 => 16 << 20;
    /// The most topic names in a reply.
    list_topics_max: 1000, 1 => 100_000;
    /// The most credit that a subscription can hold.
    credit_max: 1_000_000, 1 => 1 << 40;
    /// How many messages a subscription may be behind before its policy acts, where it does not say so itself.
    lag_max: 10_000, 1 => 1 << 40;
    /// How long a publish waits for a subscriber with the policy `block`, in milliseconds.
    block_ms_max: 1000, 1 => 60_000;
    /// The most commands of a connection that wait behind one that is held.
    held_commands_max: 256, 1 => 65_536;
    /// The most bytes that all held commands have.
    held_bytes_max: 16 << 20, 1024 => 1 << 32;
    /// The most bytes of replies that one message of a client may cause; beyond, its connection is closed.
    replies_bytes_max: 8 << 20, 1024 => 1 << 30;
    /// The most messages of a live topic's partition that are kept for subscribers that are behind.
    ring_messages_max: 1024, 1 => 1 << 20;
    /// The most bytes of the same.
    ring_bytes_max: 1 << 20, 1024 => 1 << 30;
    /// The most bytes that all of those of a namespace hold.
    rings_bytes_max: 64 << 20, 1024 => 1 << 32;
    /// The size at which a packed row of messages is closed, in bytes.
    row_bytes_max: 64 << 10, 1 => 1 << 20;
    /// The size at which a segment is closed, in bytes.
    segment_bytes_max: 256 << 10, 1 => 1 << 30;
    /// The most rows in a segment.
    segment_rows_max: 1024, 1 => 65_536;
    /// The most message rows that one flush deletes; a whole segment always goes at once.
    trim_rows_max: 1024, 1 => 65_536;
    /// The most history reads under way in a namespace.
    reads_max: 1024, 1 => 1 << 20;
    /// The most loads under way.
    loads_max: 64, 1 => 4096;
    /// The most bytes that one load asks for.
    load_bytes_max: 256 << 10, 1024 => 16 << 20;
    /// The most bytes that a catching-up subscription gets, or holds loaded, in one flush.
    catch_up_bytes_max: 1 << 20, 1024 => 64 << 20;
    /// The most subscriptions that catch up at the same time; the others wait their turn.
    catch_ups_max: 16, 1 => 4096;
    /// The most incarnations that a namespace remembers, to tell what a restart lost.
    incarnations_max: 64, 1 => 4096;
    /// The longest window in which ids are remembered, in milliseconds.
    dedup_ms_max: 24 * 3_600_000, 0 => 1 << 40;
    /// The most messages of a namespace that are remembered for their windows; about 100 bytes of memory each.
    dedup_entries_max: 1_000_000, 1 => 1 << 30;
    /// The most producers that are remembered in a namespace; about 300 bytes of memory each.
    producers_max: 100_000, 1 => 1 << 24;
    /// How long a producer that publishes nothing new is remembered, in milliseconds.
    producer_ttl_ms: 7 * 24 * 3_600_000, 1000 => 1 << 40;
    /// The longest that a request may wait for an answer, in milliseconds.
    request_ms_max: 300_000, 1 => 1 << 40;
    /// The most requests of a namespace that wait for answers.
    requests_max: 10_000, 1 => 1 << 24;
    /// How far ahead a message may be scheduled, in milliseconds.
    schedule_ms_max: 366 * 24 * 3_600_000, 1 => 1 << 40;
    /// The most messages of a namespace that wait for their time; about 150 bytes of memory each, key and id apart.
    scheduled_max: 100_000, 1 => 1 << 24;
    /// The most bytes of all of them.
    scheduled_bytes_max: 256 << 20, 1024 => 1 << 40;
    /// The most scheduled messages in a reply.
    list_scheduled_max: 1000, 1 => 100_000;
    /// The most keys that one pass of key compaction holds.
    compaction_keys_max: 65_536, 1 => 1 << 24;
    /// How many bytes must have been added before key compaction begins.
    compaction_bytes_min: 64 << 10, 1 => 1 << 40;
    /// How long an empty message of a compacted topic, which deletes its key, is kept at least, in milliseconds.
    tombstone_ms_min: 24 * 3_600_000, 0 => 1 << 40;
    /// The most exports of a namespace under way.
    exports_max: 4, 1 => 1024;
    /// The most imports under way.
    imports_max: 4, 1 => 1024;
    /// The size of an export's parts, in bytes.
    archive_part_bytes: 256 << 10, 1024 => 1 << 20;
    /// The largest state of a namespace that is exported or imported, in bytes.
    archive_state_bytes_max: 32 << 20, 1024 => 1 << 30;
    /// How long an export or import waits for who goes on with it, in milliseconds.
    transfer_idle_ms: 60_000, 1 => 1 << 40;
    /// The most consumer groups in a namespace.
    groups_max: 1000, 1 => 100_000;
    /// The most members of a group.
    members_max: 1000, 1 => 100_000;
    /// The most filters of a group or member.
    filters_max: 64, 1 => 1024;
    /// The most memberships of a connection.
    memberships_max: 100, 1 => 100_000;
    /// How many messages a member of a queue holds leases for, where it does not say so itself.
    max_in_flight: 100, 1 => 65_536;
    /// The most that it can ask for.
    max_in_flight_max: 10_000, 1 => 65_536;
    /// The most leases or positions in one command.
    settle_max: 10_000, 1 => 100_000;
    /// How far a queue deals out messages above the first one that is not done.
    spread_max: 1 << 20, 1024 => 1 << 32;
    /// How many messages of a partition wait at most for others of their keys.
    parked_max: 1024, 1 => 65_536;
    /// How much earlier a message of a queue was published that goes before one of the next priority, in milliseconds.
    priority_ageing_ms: 10_000, 1 => 1 << 40;
    /// How long a member has for a message, where the group's configuration does not say so, in milliseconds.
    ack_deadline_ms: 30_000, 1 => 1 << 40;
    /// How often a message is delivered before it is a dead letter, where the group's configuration does not say so.
    max_delivery_attempts: 5, 1 => 1000;
    /// How long a member may be silent, where the group's configuration does not say so, in milliseconds. A client
    /// that has nothing to say is heard of every 25 s.
    session_ms: 60_000, SESSION_MS_MIN => 1 << 40;
    /// How long a member may take to let go of a partition, where the group's configuration does not say so.
    rebalance_ms: 60_000, 1 => 1 << 40;
    /// The longest time that a group's configuration can ask for, in milliseconds.
    group_ms_max: 12 * 3_600_000, 1 => 1 << 40;
    /// How many dead letters of a group are kept.
    dead_letters_max: 10_000, 16 => 1 << 40;
    /// How long they are kept, in milliseconds.
    dead_letter_ms: 7 * 24 * 3_600_000, 1 => 1 << 40;
    /// The most devices that a namespace remembers; about 300 bytes of memory each, the filters of sessions apart.
    devices_max: 100_000, 1 => 1 << 24;
    /// The most devices of a user; with another one, that which was silent for longest is forgotten.
    devices_per_user_max: 5, 1 => 1000;
    /// The most filters that a session hears.
    session_filters_max: 100, 1 => 10_000;
    /// How long a device and its session are remembered after its last connection ended, in milliseconds.
    session_ttl_ms: 7 * 24 * 3_600_000, 1 => 1 << 40;
    /// The most messages that wait for each filter of a session; of more, the oldest are passed over.
    mailbox_messages_max: 100, 1 => 1 << 20;
    /// The most rate limits that a namespace has of its own.
    limits_max: 1000, 1 => 4096;
    /// The most routing rules in a namespace.
    rules_max: 1000, 1 => 100_000;
    /// The most messages that rules make of one.
    routed_messages_max: 64, 1 => 10_000;
    /// The most users and addresses of a namespace that are limited at a time.
    limiters_max: 10_000, 2 => 1_000_000;
    /// How long a publish may wait for a rate limit, in milliseconds.
    limit_wait_ms_max: 1000, 0 => WAIT_MS_MAX;
    /// How long a commit may take, in milliseconds; adaptive limits slow down before it does.
    commit_latency_target_ms: 100, 1 => 60_000;
    /// The most members that are present on a topic.
    presence_members_max: 10_000, 1 => 1_000_000;
    /// The most topics that a connection is present on.
    presences_max: 100, 1 => 10_000;
    /// The most topics whose presence a connection watches.
    watches_max: 100, 1 => 10_000;
    /// The most that a member says of itself, in bytes.
    presence_data_bytes_max: 1024, 0 => 65_536;
    /// The most members in a page of those that are present.
    presence_page_max: 1000, 1 => 100_000;
    /// How long a connection that is present somewhere may be silent, in milliseconds. A client that has nothing to
    /// say is heard of every 25 s.
    presence_ms: 60_000, SESSION_MS_MIN => 1 << 40;
    /// The most namespaces in a reply.
    list_namespaces_max: 1000, 1 => 100_000;
    /// How many days the usage of a namespace is kept.
    usage_days_max: 62, 1 => 1000;
    /// How often usage is written at most, in milliseconds; so much of it a crash may take.
    usage_ms: 10_000, 0 => 1 << 40;
    /// The most connections of a user in a namespace, requests over HTTP included; 0 for any number.
    connections_per_user_max: 100, 0 => 1_000_000;
    /// How long a connection may be silent, in milliseconds; 0 for as long as it likes. A client that has nothing to say
    /// is heard of every 25 s.
    silent_ms: 0, 0 => 1 << 40;
    /// How often a user may connect to a namespace in a minute; 0 for any number.
    connects_per_minute_max: 0, 0 => 1_000_000;
    /// How many requests over HTTP a user may make to a namespace in a minute; 0 for any number.
    requests_per_minute_max: 0, 0 => 1_000_000;
    /// What a client that is told to go away waits before it connects again, in milliseconds.
    reconnect_after_ms: 1000, 0 => 3_600_000;
}

impl Config {
    /// Reads a JSON object; what it leaves out has its default, what it has too much is refused.
    pub(crate) fn from_json(text: &str) -> Result<Self, ConfigError> {
        let value = Value::parse(text).map_err(ConfigError)?;
        let Value::Object(members) = value else {
            return Err(ConfigError(format!(
                "the configuration must be an object, not {}",
                value.kind()
            )));
        };
        let mut config = Self::default();
        for (name, value) in &members {
            match (name.as_ref(), value) {
                ("namespaces_open", Value::Bool(open)) => config.namespaces_open = *open,
                ("namespaces_open", _) => return Err(wrong(name, "a boolean", value)),
                ("topic_default", Value::Object(members)) => {
                    config.topic_default = topic_config(members)?
                }
                ("topic_default", _) => return Err(wrong(name, "an object", value)),
                ("limits", Value::Array(limits)) => config.limits = limits_config(limits)?,
                ("limits", _) => return Err(wrong(name, "an array", value)),
                _ => config.set_bound(name, value)?,
            }
        }
        let partitions = u64::from(config.topic_default.partitions);
        if partitions > config.partitions_max {
            let message = format!(
                "\"topic_default\".\"partitions\" is {partitions}, above \"partitions_max\""
            );
            return Err(ConfigError(message));
        }
        if config.topic_default.dedup_ms > config.dedup_ms_max {
            let message = format!(
                "\"topic_default\".\"dedup_ms\" is {}, above \"dedup_ms_max\"",
                config.topic_default.dedup_ms
            );
            return Err(ConfigError(message));
        }
        Ok(config)
    }

    fn set_bound(&mut self, name: &str, value: &Value<'_>) -> Result<(), ConfigError> {
        let (bound, min, max) = self
            .bound(name)
            .ok_or_else(|| ConfigError(format!("unknown member \"{name}\"")))?;
        let Value::Int(value) = value else {
            return Err(wrong(name, "an integer", value));
        };
        if !(min..=max).contains(value) {
            return Err(ConfigError(format!(
                "\"{name}\" must be from {min} to {max}, not {value}"
            )));
        }
        *bound = *value;
        Ok(())
    }
}

fn wrong(name: &str, wanted: &str, value: &Value<'_>) -> ConfigError {
    ConfigError(format!("\"{name}\" must be {wanted}, not {}", value.kind()))
}

fn limits_config(limits: &[Value<'_>]) -> Result<[Option<Rule>; Scope::ALL.len()], ConfigError> {
    let refused = |why: String| ConfigError(format!("\"limits\": {why}"));
    let mut rules = [None; Scope::ALL.len()];
    for limit in limits {
        let Value::Object(members) = limit else {
            return Err(refused(format!("one is {}, not an object", limit.kind())));
        };
        let (mut scope, mut rate, mut per_ms, mut burst, mut adaptive) =
            (None, None, None, None, false);
        for (name, value) in members {
            let int = match value {
                Value::Int(int) => Ok(*int),
                _ => Err(wrong(name, "an integer", value)),
            };
            match (name.as_ref(), value) {
                ("scope", Value::Str(text)) => scope = Some(Scope::parse(text).map_err(refused)?),
                ("scope", _) => return Err(wrong(name, "a string", value)),
                ("rate", _) => rate = Some(int?),
                ("per_ms", _) => per_ms = Some(int?),
                ("burst", _) => burst = Some(int?),
                ("adaptive", Value::Bool(flag)) => adaptive = *flag,
                ("adaptive", _) => return Err(wrong(name, "a boolean", value)),
                _ => return Err(refused(format!("unknown member \"{name}\""))),
            }
        }
        let (Some(scope), Some(rate)) = (scope, rate) else {
            return Err(refused(String::from("one lacks its \"scope\" or \"rate\"")));
        };
        let rule = Rule::new(rate, per_ms, burst, adaptive).map_err(refused)?;
        if rules[scope as usize].replace(rule).is_some() {
            return Err(refused(format!("two have the scope {}", scope.as_str())));
        }
    }
    Ok(rules)
}

fn topic_config(
    members: &[(alloc::borrow::Cow<'_, str>, Value<'_>)],
) -> Result<TopicConfig, ConfigError> {
    let mut config = TopicConfig::default();
    for (name, value) in members {
        let name = name.as_ref();
        let text = |value: &Value<'_>| match value {
            Value::Str(text) => Ok(String::from(text.as_ref())),
            _ => Err(wrong(name, "a string", value)),
        };
        let int = |value: &Value<'_>| match value {
            Value::Int(value) => Ok(*value),
            _ => Err(wrong(name, "an integer", value)),
        };
        let unknown = |text: &str| ConfigError(format!("\"{name}\" has no value \"{text}\""));
        match name {
            "kind" => {
                let text = text(value)?;
                config.kind = Kind::parse(&text).ok_or_else(|| unknown(&text))?;
            }
            "ordering" => {
                let text = text(value)?;
                config.ordering = Ordering::parse(&text).ok_or_else(|| unknown(&text))?;
            }
            "durability" => {
                let text = text(value)?;
                config.durability = Durability::parse(&text).ok_or_else(|| unknown(&text))?;
            }
            "partitions" => {
                let count = int(value)?;
                config.partitions = u32::try_from(count).map_err(|_| {
                    ConfigError(format!(
                        "\"partitions\" is {count}, above \"partitions_max\""
                    ))
                })?;
            }
            "max_messages" => config.retention.max_messages = int(value)?,
            "max_bytes" => config.retention.max_bytes = int(value)?,
            "max_age_ms" => config.retention.max_age_ms = int(value)?,
            "dedup_ms" => config.dedup_ms = int(value)?,
            _ => {
                return Err(ConfigError(format!(
                    "unknown member \"{name}\" in \"topic_default\""
                )));
            }
        }
    }
    config
        .check()
        .map_err(|message| ConfigError(format!("\"topic_default\": {message}")))?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_has_its_default() {
        let config = Config::from_json(
            "{\"topics_max\": 5, \"topic_default\": {\"partitions\": 4, \"ordering\": \"per_key\"}}",
        );
        let config = config.unwrap();
        assert_eq!(config.topics_max, 5);
        assert_eq!(config.topic_default.partitions, 4);
        assert_eq!(config.payload_bytes_max, 1 << 20);
    }

    #[test]
    fn wrong_members_are_named() {
        for (text, part) in [
            ("", "expected a value"),
            ("[]", "must be an object, not an array"),
            ("{\"topic_max\": 5}", "unknown member \"topic_max\""),
            (
                "{\"topics_max\": 0}",
                "\"topics_max\" must be from 1 to 1000000, not 0",
            ),
            (
                "{\"topics_max\": -1}",
                "\"topics_max\" must be an integer, not a number that is negative",
            ),
            (
                "{\"topics_max\": \"5\"}",
                "must be an integer, not a string",
            ),
            (
                "{\"namespaces_open\": 1}",
                "must be a boolean, not an integer",
            ),
            (
                "{\"limits\": {}}",
                "\"limits\" must be an array, not an object",
            ),
            (
                "{\"limits\": [1]}",
                "\"limits\": one is an integer, not an object",
            ),
            (
                "{\"limits\": [{\"scope\": \"planet\", \"rate\": 1}]}",
                "\"limits\": \"scope\" must be namespace, topic, connection, subscriber, user or ip, not \"planet\"",
            ),
            (
                "{\"limits\": [{\"scope\": 1, \"rate\": 1}]}",
                "\"scope\" must be a string",
            ),
            (
                "{\"limits\": [{\"scope\": \"user\"}]}",
                "lacks its \"scope\" or \"rate\"",
            ),
            (
                "{\"limits\": [{\"scope\": \"user\", \"rate\": 0}]}",
                "\"limits\": \"rate\" must be from 1 to 1000000000, not 0",
            ),
            (
                "{\"limits\": [{\"scope\": \"user\", \"rate\": true}]}",
                "\"rate\" must be an integer, not a boolean",
            ),
            (
                "{\"limits\": [{\"scope\": \"user\", \"rate\": 1, \"name\": \"bob\"}]}",
                "\"limits\": unknown member \"name\"",
            ),
            (
                "{\"limits\": [{\"scope\": \"user\", \"rate\": 1}, {\"scope\": \"user\", \"rate\": 2}]}",
                "\"limits\": two have the scope user",
            ),
            (
                "{\"topic_default\": {\"kind\": \"queue\"}}",
                "\"kind\" has no value \"queue\"",
            ),
            (
                "{\"topic_default\": {\"color\": 1}}",
                "unknown member \"color\"",
            ),
            (
                "{\"topic_default\": {\"partitions\": 0, \"ordering\": \"none\"}}",
                "at least 1 partition",
            ),
            (
                "{\"topic_default\": {\"partitions\": 2}}",
                "exactly 1 partition",
            ),
            (
                "{\"topic_default\": {\"partitions\": 65, \"ordering\": \"none\"}}",
                "above \"partitions_max\"",
            ),
            (
                "{\"dedup_ms_max\": 10, \"topic_default\": {\"dedup_ms\": 11}}",
                "is 11, above \"dedup_ms_max\"",
            ),
        ] {
            let ConfigError(message) = Config::from_json(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
