//! Topic names, filters and what a topic can be configured to be.
//!
//! Names and filters follow MQTT 5.0, sections 4.7.1 to 4.7.3, with bounds of our own.

use alloc::format;
use alloc::string::String;

use crate::effect::Durability;
use crate::error::{ErrorCode, Refusal};

/// The longest name or filter, in bytes.
pub(crate) const TOPIC_BYTES_MAX: usize = 1024;
/// The most levels of a name or filter.
pub(crate) const TOPIC_LEVELS_MAX: usize = 64;

/// Refuses what is not a topic name that a client may publish to.
pub(crate) fn check_name(name: &str) -> Result<(), Refusal> {
    let refuse = |why: String| Err(Refusal::new(ErrorCode::InvalidTopic, why));
    if let Err(why) = check_shape(name) {
        return refuse(format!("invalid topic name: {why}"));
    }
    if name.contains(['+', '#']) {
        return refuse(format!(
            "invalid topic name \"{name}\": + and # belong to filters"
        ));
    }
    if name.starts_with('$') {
        return refuse(format!(
            "invalid topic name \"{name}\": names that start with $ are the broker's own"
        ));
    }
    Ok(())
}

/// Refuses what is not a filter.
pub(crate) fn check_filter(filter: &str) -> Result<(), Refusal> {
    let refuse = |why: String| Err(Refusal::new(ErrorCode::InvalidFilter, why));
    if let Err(why) = check_shape(filter) {
        return refuse(format!("invalid filter: {why}"));
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains('+') && level != "+" {
            return refuse(format!(
                "invalid filter \"{filter}\": + must stand alone in its level"
            ));
        }
        if level.contains('#') && (level != "#" || levels.peek().is_some()) {
            return refuse(format!(
                "invalid filter \"{filter}\": # must be the whole last level"
            ));
        }
    }
    Ok(())
}

/// Whether a filter can match more than one topic.
pub(crate) fn is_pattern(filter: &str) -> bool {
    filter.split('/').any(|level| level == "+" || level == "#")
}

/// Whether `filter` matches `name`. The trie does the same for many filters at once; this serves lists.
pub(crate) fn matches(filter: &str, name: &str) -> bool {
    if name.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut names = name.split('/');
    for level in filter.split('/') {
        if level == "#" {
            return true;
        }
        match names.next() {
            Some(part) if level == "+" || level == part => {}
            _ => return false,
        }
    }
    names.next().is_none()
}

fn check_shape(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err(String::from("it is empty"));
    }
    if text.len() > TOPIC_BYTES_MAX {
        return Err(format!(
            "it is {} bytes long, {TOPIC_BYTES_MAX} are allowed",
            text.len()
        ));
    }
    if text.contains('\0') {
        return Err(String::from("it contains NUL"));
    }
    let levels = text.split('/').count();
    if levels > TOPIC_LEVELS_MAX {
        return Err(format!(
            "it has {levels} levels, {TOPIC_LEVELS_MAX} are allowed"
        ));
    }
    Ok(())
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(crate) enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// The word for it in frames and configuration.
            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// Reads the word.
            pub(crate) fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

pub(crate) use words;

words! {
    /// What a topic keeps.
    Kind {
        /// Nothing: subscribers hear what is published while they listen.
        Live = "live",
        /// Everything that retention allows.
        #[default]
        Log = "log",
        /// The newest message.
        LastValue = "last_value",
        /// The newest message of every key.
        Compacted = "compacted",
    }
}

words! {
    /// Which messages are delivered in the order in which they were published.
    Ordering {
        /// None in particular; still those of one partition.
        None = "none",
        /// Those with the same key.
        PerKey = "per_key",
        /// Those of the topic.
        #[default]
        PerTopic = "per_topic",
        /// Those of all topics of the namespace that have this level.
        Global = "global",
    }
}

impl Durability {
    /// The word for it in frames and configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Async => "async",
            Self::Sync => "sync",
        }
    }

    /// Reads the word.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "none" => Some(Self::None),
            "async" => Some(Self::Async),
            "sync" => Some(Self::Sync),
            _ => None,
        }
    }
}

/// How much of a log is kept, a partition. 0 is no bound. The newest segment outlives the bound of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    /// At most so many messages.
    pub(crate) max_messages: u64,
    /// At most so many bytes.
    pub(crate) max_bytes: u64,
    /// Nothing older than so many milliseconds, to a sixteenth of it.
    pub(crate) max_age_ms: u64,
}

/// What a topic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TopicConfig {
    /// What it keeps.
    pub(crate) kind: Kind,
    /// What it keeps in order.
    pub(crate) ordering: Ordering,
    /// When a publish is acknowledged, if the publish does not ask for more.
    pub(crate) durability: Durability,
    /// How many partitions it has.
    pub(crate) partitions: u32,
    /// How much of it is kept.
    pub(crate) retention: Retention,
    /// For how long ids are remembered; 0 for not at all.
    pub(crate) dedup_ms: u64,
}

/// For how long ids are remembered where nobody says so.
pub(crate) const DEDUP_MS_DEFAULT: u64 = 300_000;

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            kind: Kind::default(),
            ordering: Ordering::default(),
            durability: Durability::default(),
            partitions: 1,
            retention: Retention {
                max_messages: 1_000_000,
                max_bytes: 1 << 30,
                max_age_ms: 7 * 24 * 3_600_000,
            },
            dedup_ms: DEDUP_MS_DEFAULT,
        }
    }
}

impl TopicConfig {
    /// Refuses what contradicts itself.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.partitions == 0 {
            return Err(String::from("a topic has at least 1 partition"));
        }
        let single = matches!(self.ordering, Ordering::PerTopic | Ordering::Global);
        if single && self.partitions != 1 {
            let ordering = self.ordering.as_str();
            return Err(format!(
                "ordering \"{ordering}\" needs exactly 1 partition, not {}",
                self.partitions
            ));
        }
        Ok(())
    }

    /// The retention that holds: a last value is a log that keeps one message.
    pub(crate) const fn effective_retention(&self) -> Retention {
        match self.kind {
            Kind::LastValue => Retention {
                max_messages: 1,
                max_bytes: 0,
                max_age_ms: self.retention.max_age_ms,
            },
            Kind::Compacted => Retention {
                max_messages: 0,
                max_bytes: 0,
                max_age_ms: 0,
            },
            Kind::Live | Kind::Log => self.retention,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn names_are_checked() {
        for name in ["a", "/", "a//b", "a/b/c", "ü/😀", &"a/".repeat(63)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for (name, part) in [
            ("", "empty"),
            ("a/+", "belong to filters"),
            ("a#", "belong to filters"),
            ("a\0", "NUL"),
            ("$sys", "broker's own"),
            (&"a".repeat(1025), "1025 bytes"),
            (&"a/".repeat(64), "65 levels"),
        ] {
            assert!(
                check_name(name).unwrap_err().message.contains(part),
                "{name}"
            );
        }
    }

    #[test]
    fn filters_are_checked() {
        for filter in ["#", "+", "+/+", "a/#", "a/+/b", "/", "$sys/#"] {
            assert_eq!(check_filter(filter), Ok(()), "{filter}");
        }
        for (filter, part) in [
            ("a/#/b", "whole last"),
            ("a#", "whole last"),
            ("a+/b", "alone"),
            ("", "empty"),
        ] {
            assert!(
                check_filter(filter).unwrap_err().message.contains(part),
                "{filter}"
            );
        }
    }

    #[test]
    fn matching_follows_mqtt() {
        for (filter, name, expected) in [
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab", false),
            ("#", "a/b", true),
            ("#", "$sys", false),
            ("+/x", "$sys/x", false),
            ("$sys/#", "$sys/x", true),
            ("+", "a/b", false),
            ("a/+", "a", false),
            ("a/+", "a/", true),
            ("+/+", "/a", true),
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
        ] {
            assert_eq!(matches(filter, name), expected, "{filter} on {name}");
        }
    }

    #[test]
    fn words_are_read_back() {
        for kind in [Kind::Live, Kind::Log, Kind::LastValue, Kind::Compacted] {
            assert_eq!(Kind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(Ordering::parse("per-key"), None);
        assert_eq!(
            TopicConfig {
                partitions: 3,
                ..TopicConfig::default()
            }
            .check()
            .unwrap_err()
            .to_string(),
            "ordering \"per_topic\" needs exactly 1 partition, not 3"
        );
    }
}
