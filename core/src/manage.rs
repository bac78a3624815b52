//! The commands that create, describe, list and delete topics.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Bound;

use crate::context::Context;
use crate::dead_letter::DEAD_PREFIX;
use crate::effect::{After, Durability};
use crate::error::{ErrorCode, Refusal, check_count};
use crate::group::check_group_name;
use crate::input::Rights;
use crate::log::RollBounds;
use crate::namespace::Namespace;
use crate::protocol::field::{List, Strings};
use crate::protocol::frame::{
    ConfigureTopic, DeleteTopic, DescribeTopic, Done, Extent, ListTopics, Reply, TopicDescription,
    Topics,
};
use crate::topic::{self, DEDUP_MS_DEFAULT, Kind, Ordering, TopicConfig};
use crate::wire::Put as _;

impl Namespace {
    /// Creates a topic, or changes what may be changed.
    pub(crate) fn configure_topic(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &ConfigureTopic<'_>,
    ) -> Result<(), Refusal> {
        require_manage(cx, connection, "manage topics")?;
        topic::check_name(command.topic)?;
        cx.require_storage()?;
        let existing = self.topic_by_name(command.topic);
        let base = existing.map_or(cx.config.topic_default, |index| {
            self.topics[index as usize].config
        });
        let config = changed(cx, base, command, existing.is_some())?;
        let mut after = cx.after(config.durability);
        let index = match existing {
            Some(index) => {
                let state = &mut self.topics[index as usize];
                if state.config != config {
                    state.config = config;
                    state.roll = RollBounds::new(&cx.config, &config);
                    self.touch_topic(cx, index);
                    self.expire_topic(cx, index);
                    self.relist_window(index);
                } else {
                    after = After::default();
                }
                index
            }
            None => {
                let count = self.topics.len() + 1;
                check_count("a namespace", "topics", count, self.topics_max(&cx.config))?;
                self.create_topic(cx, command.topic, config)
            }
        };
        self.reply_description(cx, connection, command.request, index, after);
        Ok(())
    }

    /// Tells what a topic is and holds.
    pub(crate) fn describe_topic(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &DescribeTopic<'_>,
    ) -> Result<(), Refusal> {
        require_any(cx, connection)?;
        let index = self.known_topic(command.topic)?;
        self.expire_topic(cx, index);
        self.reply_description(cx, connection, command.request, index, After::default());
        Ok(())
    }

    /// Lists names, a page at a time.
    pub(crate) fn list_topics(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &ListTopics<'_>,
    ) -> Result<(), Refusal> {
        require_any(cx, connection)?;
        let filter = command.filter.unwrap_or("#");
        topic::check_filter(filter)?;
        let max = cx.config.list_topics_max;
        let asked = (command.after, command.topics_max);
        let matches = |name: &str| topic::matches(filter, name);
        let (names, more) = page_of_names(&self.topic_names, asked, max, matches);
        let topics = Topics {
            request: command.request,
            topics: Strings::parse(&names).unwrap_or_default(),
            more,
        };
        cx.reply(connection, After::default(), &Reply::Topics(topics));
        Ok(())
    }

    /// Deletes a topic and its messages.
    pub(crate) fn delete_topic_command(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &DeleteTopic<'_>,
    ) -> Result<(), Refusal> {
        require_manage(cx, connection, "manage topics")?;
        let index = self.known_topic(command.topic)?;
        topic::check_name(command.topic)?;
        if !self.exports.is_empty() {
            let message =
                "topics cannot be deleted while an export of their namespace is under way";
            return Err(Refusal::later(ErrorCode::Busy, message));
        }
        // Tried even where the store takes nothing: a full one takes what makes room, and the reply waits for it.
        cx.writes = true;
        let after = cx.after(self.topics[index as usize].config.durability);
        self.delete_topic(cx, index);
        cx.reply(
            connection,
            after,
            &Reply::Done(Done {
                request: command.request,
            }),
        );
        Ok(())
    }

    fn reply_description(
        &self,
        cx: &mut Context,
        connection: u32,
        request: u64,
        index: u32,
        after: After,
    ) {
        let topic = &self.topics[index as usize];
        let mut partitions = Vec::new();
        for state in &topic.partitions {
            List::push(
                &mut partitions,
                &Extent {
                    log_start_offset: state.log.start().0,
                    log_end_offset: state.log.end().0,
                    size_bytes: state.log.size_bytes(),
                },
            );
        }
        let description = TopicDescription {
            request,
            topic: &topic.name,
            kind: topic.config.kind.as_str(),
            ordering: topic.config.ordering.as_str(),
            durability: topic.config.durability.as_str(),
            max_messages: topic.config.retention.max_messages,
            max_bytes: topic.config.retention.max_bytes,
            max_age_ms: topic.config.retention.max_age_ms,
            partitions: List::new(&partitions),
            dedup_ms: Some(topic.config.dedup_ms),
        };
        cx.reply(connection, after, &Reply::TopicDescription(description));
    }

    /// Asserts what must hold between batches.
    #[cfg(any(test, feature = "check"))]
    pub(crate) fn check_invariants(&self) {
        for (index, topic) in &self.topics {
            assert_eq!(
                self.topic_by_name(&topic.name),
                Some(index as u32),
                "topics are found by name"
            );
            for state in &topic.partitions {
                state.log.check_invariants();
                assert!(
                    state.log.last_sequence() <= self.last_sequence,
                    "the namespace numbers everything"
                );
            }
        }
        for (index, group) in &self.groups {
            self.check_group(index as u32, group);
        }
        let behind = self
            .subscriptions
            .iter()
            .filter(|(_, subscription)| subscription.behind.is_some())
            .count();
        assert_eq!(behind as u64, self.behind, "those behind are counted");
        self.check_dedups();
        self.check_schedules();
        let blocked = self.subscriptions.iter().filter(|(_, subscription)| {
            let behind = subscription.behind.as_ref();
            behind.is_some_and(|behind| behind.holds_back)
        });
        assert_eq!(
            blocked.count() as u64,
            self.blocked,
            "those who hold publishers back are counted"
        );
        self.check_limits();
        assert_eq!(
            self.stored_bytes,
            self.sum_stored_bytes(),
            "what is stored is counted"
        );
    }
}

/// The page of `names` that is asked for: those after a name, and how many. Spelt, with whether there are more.
pub(crate) fn page_of_names<V>(
    names: &BTreeMap<Arc<str>, V>,
    (after, asked): (Option<&str>, Option<u64>),
    max: u64,
    is_wanted: impl Fn(&str) -> bool,
) -> (Vec<u8>, bool) {
    let max = asked.unwrap_or(u64::MAX).clamp(1, max);
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let names = names.range::<str, _>((from, Bound::Unbounded));
    let mut names = names
        .map(|(name, _)| &**name)
        .filter(|name| is_wanted(name));
    let page = Strings::encode(names.by_ref().take(max as usize));
    (page, names.next().is_some())
}

/// Refuses to tell of topics to who may neither hear nor manage them.
pub(crate) fn require_any(cx: &Context, connection: u32) -> Result<(), Refusal> {
    let rights = cx.connections[connection as usize].claims.rights;
    let any = [Rights::SUBSCRIBE, Rights::HISTORY, Rights::MANAGE];
    if any.iter().any(|right| rights.contains(*right)) {
        return Ok(());
    }
    Err(Refusal::new(
        ErrorCode::Forbidden,
        "this connection may not see topics",
    ))
}

/// Refuses to do `what` for who may not manage the namespace.
pub(crate) fn require_manage(cx: &Context, connection: u32, what: &str) -> Result<(), Refusal> {
    let rights = cx.connections[connection as usize].claims.rights;
    if rights.contains(Rights::MANAGE) {
        return Ok(());
    }
    Err(Refusal::new(
        ErrorCode::Forbidden,
        format!("this connection may not {what}"),
    ))
}

/// The configuration that a command asks for.
fn changed(
    cx: &Context,
    base: TopicConfig,
    command: &ConfigureTopic<'_>,
    exists: bool,
) -> Result<TopicConfig, Refusal> {
    let mut config = base;
    if let Some(word) = command.kind {
        config.kind = Kind::parse(word).ok_or_else(|| {
            Refusal::wrong_word("kind", word, "live, log, last_value or compacted")
        })?;
    }
    if let Some(word) = command.ordering {
        config.ordering = Ordering::parse(word).ok_or_else(|| {
            Refusal::wrong_word("ordering", word, "none, per_key, per_topic or global")
        })?;
    }
    if let Some(word) = command.durability {
        config.durability = Durability::parse(word)
            .ok_or_else(|| Refusal::wrong_word("durability", word, "none, async or sync"))?;
    }
    config.partitions = command.partitions.unwrap_or(config.partitions);
    config.retention.max_messages = command
        .max_messages
        .unwrap_or(config.retention.max_messages);
    config.retention.max_bytes = command.max_bytes.unwrap_or(config.retention.max_bytes);
    config.retention.max_age_ms = command.max_age_ms.unwrap_or(config.retention.max_age_ms);
    config.dedup_ms = command.dedup_ms.unwrap_or(config.dedup_ms);
    let conflict = |message: String| Err(Refusal::new(ErrorCode::ConflictingConfig, message));
    if exists
        && (config.kind, config.ordering, config.partitions)
            != (base.kind, base.ordering, base.partitions)
    {
        let name = command.topic;
        return conflict(format!(
            "topic \"{name}\" exists; its kind, ordering and partitions are fixed"
        ));
    }
    if config.dedup_ms > cx.config.dedup_ms_max {
        let message = format!(
            "\"dedup_ms\" is {}, at most {} are allowed (dedup_ms_max)",
            config.dedup_ms, cx.config.dedup_ms_max
        );
        return Err(Refusal::new(ErrorCode::InvalidArgument, message));
    }
    let count = config.partitions as usize;
    check_count("a topic", "partitions", count, cx.config.partitions_max)?;
    if let Err(message) = config.check() {
        return conflict(message);
    }
    Ok(config)
}

/// Reads a topic's row.
pub(crate) fn read_topic_row(value: &[u8]) -> Option<(&str, TopicConfig)> {
    let mut reader = crate::wire::Reader::new(value);
    if reader.u64().ok()? != crate::rows::ROW_VERSION {
        return None;
    }
    let name = reader.str().ok()?;
    let mut config = TopicConfig {
        kind: Kind::parse(reader.str().ok()?)?,
        ordering: Ordering::parse(reader.str().ok()?)?,
        durability: Durability::parse(reader.str().ok()?)?,
        partitions: reader.u32().ok()?,
        retention: topic::Retention {
            max_messages: reader.u64().ok()?,
            max_bytes: reader.u64().ok()?,
            max_age_ms: reader.u64().ok()?,
        },
        dedup_ms: DEDUP_MS_DEFAULT,
    };
    if !reader.is_empty() {
        config.dedup_ms = reader.u64().ok()?;
    }
    reader.end().ok()?;
    match name.strip_prefix(DEAD_PREFIX) {
        Some(group) => check_group_name("group", group).ok()?,
        None => topic::check_name(name).ok()?,
    }
    config.check().ok()?;
    Some((name, config))
}

/// Spells what [`read_topic_row`] reads.
pub(crate) fn topic_row(name: &str, config: &TopicConfig) -> Vec<u8> {
    let mut value = Vec::new();
    value.put_u64(crate::rows::ROW_VERSION);
    value.put_bytes(name.as_bytes());
    for word in [
        config.kind.as_str(),
        config.ordering.as_str(),
        config.durability.as_str(),
    ] {
        value.put_bytes(word.as_bytes());
    }
    value.put_u64(config.partitions.into());
    for bound in [
        config.retention.max_messages,
        config.retention.max_bytes,
        config.retention.max_age_ms,
    ] {
        value.put_u64(bound);
    }
    if config.dedup_ms != DEDUP_MS_DEFAULT {
        value.put_u64(config.dedup_ms);
    }
    value
}
