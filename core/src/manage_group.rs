//! The commands that create, describe, list, reset, pause and delete consumer groups.

use alloc::format;
use alloc::vec::Vec;

use crate::assign::Strategy;
use crate::config::{Config, SESSION_MS_MIN};
use crate::context::Context;
use crate::cursor::Cursor;
use crate::deadline::Due;
use crate::effect::{After, Durability, Op};
use crate::error::{ErrorCode, Refusal, check_count};
use crate::group::{GroupConfig, GroupKind, check_group_name, parse_start, place_in};
use crate::hash::Map;
use crate::ids::{Generation, Offset};
use crate::log::Log;
use crate::manage::{page_of_names, require_any, require_manage};
use crate::member::{check_filters, wrong_strategy};
use crate::namespace::Namespace;
use crate::protocol::field::{List, Strings};
use crate::protocol::frame::{
    ConfigureGroup, DeleteGroup, DescribeGroup, Done, GroupDescription, GroupMember,
    GroupPartition, Groups, ListGroups, PauseGroup, Reply, ResetGroup,
};
use crate::read::check_offset;
use crate::retry::Backoff;
use crate::subscription::From;

impl Namespace {
    /// Creates a group, or changes what may be changed.
    pub(crate) fn configure_group(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &ConfigureGroup<'_>,
    ) -> Result<(), Refusal> {
        require_manage(cx, connection, "manage groups")?;
        check_group_name("group", command.group)?;
        let filters = command.filters.unwrap_or_default();
        check_filters(cx, &filters, 0)?;
        cx.require_storage()?;
        let from = parse_start(command.from)?;
        let known = self.group_by_name(command.group);
        let base = match known {
            Some(index) => self.groups[index as usize].config,
            None => GroupConfig::new(&cx.config),
        };
        let config = changed(&cx.config, base, command)?;
        if known.is_some() && config.kind != base.kind {
            let message = format!(
                "group \"{}\" exists; its kind is fixed, {}",
                command.group,
                base.kind.as_str()
            );
            return Err(Refusal::new(ErrorCode::ConflictingConfig, message));
        }
        self.check_filters_fit(cx, known, filters)?;
        let index = match known {
            Some(index) => index,
            None => {
                let count = self.groups.len() + 1;
                check_count("a namespace", "groups", count, cx.config.groups_max)?;
                self.create_group(cx, command.group, config)
            }
        };
        self.add_filters(cx, index, filters.iter(), from);
        if self.groups[index as usize].config != config {
            self.groups[index as usize].config = config;
            self.touch_group(cx, index);
            self.rebalance(cx, index);
        }
        let after = self.after_all(cx, Durability::Async);
        self.reply_group(cx, connection, command.request, index, after);
        Ok(())
    }

    /// Tells what a group is, who is in it and how far it is.
    pub(crate) fn describe_group(
        &self,
        cx: &mut Context,
        connection: u32,
        command: &DescribeGroup<'_>,
    ) -> Result<(), Refusal> {
        require_any(cx, connection)?;
        let index = self.known_group(command.group)?;
        self.reply_group(cx, connection, command.request, index, After::default());
        Ok(())
    }

    fn reply_group(
        &self,
        cx: &mut Context,
        connection: u32,
        request: u64,
        index: u32,
        after: After,
    ) {
        let group = &self.groups[index as usize];
        let filters = Strings::encode(group.filters.iter().map(|filter| &**filter));
        let mut members = Vec::new();
        for (member, entry) in &group.members {
            let logs = group.logs.iter();
            let owned = logs.filter(|(_, log)| log.ownership.owner == Some(member as u32));
            List::push(
                &mut members,
                &GroupMember {
                    member: &entry.name,
                    connection: entry.connection.map_or(0, |_| entry.connection_id.0),
                    in_flight: entry.in_flight,
                    partitions: owned.count() as u64,
                },
            );
        }
        let mut logs: Vec<_> = group
            .logs
            .iter()
            .filter(|(log, _)| group.dead != Some(*log as u32))
            .map(|(_, log)| (&self.topics[log.topic as usize], log.partition, log))
            .collect();
        logs.sort_unstable_by_key(|(topic, partition, _)| (&topic.name, *partition));
        let mut partitions = Vec::new();
        for (topic, partition, log) in logs {
            let stored = &topic.partitions[partition.0 as usize].log;
            let owner = log.ownership.owner;
            List::push(
                &mut partitions,
                &GroupPartition {
                    topic: &topic.name,
                    partition: partition.0,
                    committed_offset: log.floor.0,
                    log_end_offset: stored.end().0,
                    lag: log.lag(stored),
                    member: owner.map(|member| &*group.members[member as usize].name),
                },
            );
        }
        let config = &group.config;
        let description = GroupDescription {
            request,
            group: &group.name,
            kind: config.kind.as_str(),
            strategy: config.strategy.as_str(),
            generation: group.generation.0,
            paused: group.paused,
            filters: Strings::parse(&filters).unwrap_or_default(),
            ack_deadline_ms: config.ack_deadline_ms,
            max_delivery_attempts: config.max_delivery_attempts,
            retry: config.retry.backoff.as_str(),
            retry_ms: config.retry.first_ms,
            retry_ms_max: config.retry.max_ms,
            session_ms: config.session_ms,
            rebalance_ms: config.rebalance_ms,
            dead_letters_alert: config.dead_letters_alert,
            dead_letters: group.dead_letters(&self.topics),
            members: List::new(&members),
            partitions: List::new(&partitions),
        };
        cx.reply(connection, after, &Reply::GroupDescription(description));
    }

    /// Lists names, a page at a time.
    pub(crate) fn list_groups(
        &self,
        cx: &mut Context,
        connection: u32,
        command: &ListGroups<'_>,
    ) -> Result<(), Refusal> {
        require_any(cx, connection)?;
        let max = cx.config.list_topics_max;
        let asked = (command.after, command.groups_max);
        let (names, more) = page_of_names(&self.group_names, asked, max, |_| true);
        let groups = Groups {
            request: command.request,
            groups: Strings::parse(&names).unwrap_or_default(),
            more,
        };
        cx.reply(connection, After::default(), &Reply::Groups(groups));
        Ok(())
    }

    /// Stops a group's deliveries, or lets them go on. Leases go on running.
    pub(crate) fn pause_group(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &PauseGroup<'_>,
    ) -> Result<(), Refusal> {
        require_manage(cx, connection, "pause groups")?;
        let index = self.known_group(command.group)?;
        cx.require_storage()?;
        self.groups[index as usize].paused = command.paused;
        self.touch_group(cx, index);
        self.queue_group(cx, index);
        reply_done(cx, connection, command.request);
        Ok(())
    }

    /// Moves a group to another place. What members have of the old one is not theirs any more.
    pub(crate) fn reset_group(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &ResetGroup<'_>,
    ) -> Result<(), Refusal> {
        require_manage(cx, connection, "reset groups")?;
        let index = self.known_group(command.group)?;
        cx.require_storage()?;
        let invalid = |message: &str| Err(Refusal::new(ErrorCode::InvalidArgument, message));
        let to = match From::parse(command.to) {
            Ok(From::Resume(..) | From::Session(_)) | Err(_) => {
                return invalid(
                    "\"to\" must be earliest, latest, offset:N, timestamp:MS or last:N",
                );
            }
            Ok(to) => to,
        };
        if command.partition.is_some() && command.topic.is_none() {
            return invalid("\"partition\" needs \"topic\"");
        }
        let topic = command.topic.map(|topic| self.known_topic(topic));
        let topic = topic.transpose()?;
        let group = &self.groups[index as usize];
        let logs: Vec<u32> = group
            .logs
            .iter()
            .filter(|(log, entry)| {
                let partition = command.partition;
                group.dead != Some(*log as u32)
                    && topic.is_none_or(|topic| entry.topic == topic)
                    && partition.is_none_or(|partition| entry.partition.0 == partition)
            })
            .map(|(log, _)| log as u32)
            .collect();
        if let Some(topic) = command.topic
            && logs.is_empty()
        {
            let message = format!(
                "group \"{}\" does not read that partition of topic \"{topic}\"",
                command.group
            );
            return Err(Refusal::new(ErrorCode::UnknownPartition, message));
        }
        if let From::Offset(offset) = to {
            let [log] = logs[..] else {
                return invalid("\"to\" offset:N needs a topic, and a partition if it has several");
            };
            let entry = &group.logs[log as usize];
            let stored = self.log(entry.topic, entry.partition);
            check_offset(offset, stored.map_or(Offset(0), Log::end))?;
        }
        let group = &mut self.groups[index as usize];
        group.generation = Generation(group.generation.0 + 1);
        self.touch_group(cx, index);
        let mut after = cx.after(Durability::Async);
        for log in logs {
            let topic = self.groups[index as usize].logs[log as usize].topic;
            let durability = self.topics[topic as usize].config.durability;
            cx.durability = cx.durability.max(durability);
            after = after.and(cx.after(durability));
            self.reset_log(cx, index, log, to);
        }
        self.queue_group(cx, index);
        let done = Done {
            request: command.request,
        };
        cx.reply(connection, after, &Reply::Done(done));
        Ok(())
    }

    fn reset_log(&mut self, cx: &mut Context, index: u32, log: u32, to: From) {
        let entry = &mut self.groups[index as usize].logs[log as usize];
        entry.abandon_loads(cx);
        let stored = &self.topics[entry.topic as usize].partitions[entry.partition.0 as usize].log;
        entry.floor = place_in(stored, to);
        entry.fresh = Cursor::eager(stored, entry.floor);
        entry.delivered = entry.floor;
        entry.done = entry.done.rewritten();
        entry.lanes = None;
        entry.again.clear();
        entry.again_cursor = None;
        entry.dying.clear();
        entry.held_keys = Map::with_seed(0);
        entry.parked = 0;
        // The owner is told where it is now.
        entry.ownership.since = None;
        entry.ownership.revoked = None;
        let pending = core::mem::take(&mut entry.pending);
        self.drop_pending(index, log, pending);
        self.groups[index as usize].log_ready(log);
        self.touch_group_log(cx, index, log);
    }

    /// Deletes a group, its dead letters, and everything stored of it.
    pub(crate) fn delete_group(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &DeleteGroup<'_>,
    ) -> Result<(), Refusal> {
        require_manage(cx, connection, "delete groups")?;
        let index = self.known_group(command.group)?;
        cx.require_storage()?;
        if !self.exports.is_empty() {
            let message =
                "groups cannot be deleted while an export of their namespace is under way";
            return Err(Refusal::later(ErrorCode::Busy, message));
        }
        let group = &self.groups[index as usize];
        let dead = group.dead.map(|dead| group.logs[dead as usize].topic);
        let members = group.members.iter().map(|(member, _)| member as u32);
        for member in members.collect::<Vec<u32>>() {
            let message = "the group was deleted";
            self.end_membership(cx, index, member, ErrorCode::UnknownGroup, message);
            self.remove_member(cx, index, member);
        }
        if let Some(topic) = dead {
            self.delete_topic(cx, topic);
        }
        let logs = self.groups[index as usize].logs.iter();
        for log in logs.map(|(log, _)| log as u32).collect::<Vec<u32>>() {
            let topic = self.groups[index as usize].logs[log as usize].topic;
            self.topics[topic as usize]
                .readers
                .retain(|(group, _)| *group != index);
            self.remove_group_log(cx, index, log);
        }
        let group = self.groups.remove(index as usize);
        self.group_names.remove(&*group.name);
        self.dirty_groups.retain(|other| *other != index);
        for (at, due) in [
            (group.armed, Due::Group(self.index, index)),
            (group.patience, Due::Rebalance(self.index, index)),
        ] {
            if let Some(at) = at {
                cx.deadlines.remove(&(at, due));
            }
        }
        for (from, to) in self.keys.group_ranges(group.id) {
            cx.ops.push(Op::DeleteRange { from, to });
        }
        self.touch(cx);
        reply_done(cx, connection, command.request);
        Ok(())
    }
}

fn reply_done(cx: &mut Context, connection: u32, request: u64) {
    cx.durability = cx.durability.max(Durability::Async);
    let after = cx.after(Durability::Async);
    cx.reply(connection, after, &Reply::Done(Done { request }));
}

/// The configuration that a command asks for.
fn changed(
    config: &Config,
    base: GroupConfig,
    command: &ConfigureGroup<'_>,
) -> Result<GroupConfig, Refusal> {
    let invalid = |message| Err(Refusal::new(ErrorCode::InvalidArgument, message));
    let mut group = base;
    if let Some(word) = command.kind {
        group.kind = GroupKind::parse(word)
            .ok_or_else(|| Refusal::wrong_word("kind", word, "queue or partitioned"))?;
    }
    if let Some(word) = command.strategy {
        group.strategy = Strategy::parse(word).ok_or_else(|| wrong_strategy(word))?;
    }
    if let Some(word) = command.retry {
        group.retry.backoff = Backoff::parse(word).ok_or_else(|| {
            Refusal::wrong_word("retry", word, "none, fixed, linear or exponential")
        })?;
    }
    if let Some(attempts) = command.max_delivery_attempts {
        if !(1..=1000).contains(&attempts) {
            return invalid(format!(
                "\"max_delivery_attempts\" must be from 1 to 1000, not {attempts}"
            ));
        }
        group.max_delivery_attempts = attempts;
    }
    let max = config.group_ms_max;
    let retry = &mut group.retry;
    for (name, asked, min, slot) in [
        (
            "ack_deadline_ms",
            command.ack_deadline_ms,
            1,
            &mut group.ack_deadline_ms,
        ),
        (
            "session_ms",
            command.session_ms,
            SESSION_MS_MIN,
            &mut group.session_ms,
        ),
        (
            "rebalance_ms",
            command.rebalance_ms,
            1,
            &mut group.rebalance_ms,
        ),
        ("retry_ms", command.retry_ms, 1, &mut retry.first_ms),
        ("retry_ms_max", command.retry_ms_max, 1, &mut retry.max_ms),
    ] {
        let Some(asked) = asked else { continue };
        if !(min..=max).contains(&asked) {
            return invalid(format!(
                "\"{name}\" must be from {min} to {max} (group_ms_max), not {asked}"
            ));
        }
        *slot = asked;
    }
    if group.retry.first_ms > group.retry.max_ms {
        let message = "\"retry_ms\" must not be above \"retry_ms_max\"";
        return Err(Refusal::new(ErrorCode::ConflictingConfig, message));
    }
    if let Some(alert) = command.dead_letters_alert {
        group.dead_letters_alert = alert;
    }
    Ok(group)
}
