//! Members of consumer groups: how they join, prove that they are alive, and leave.
//!
//! A member lives as long as its connection, and as anything is heard on it. One that joined under a name of its own
//! outlives its connection for the session's time, keeps its leases and partitions meanwhile, and whoever joins under
//! the name takes its place.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::assign::Strategy;
use crate::context::Context;
use crate::deadline::Due;
use crate::effect::{After, Op};
use crate::error::{ErrorCode, Refusal, check_count};
use crate::group::{GroupConfig, GroupKind, check_group_name, parse_start};
use crate::ids::{ConnectionId, MemberId, SubscriptionId, Timestamp};
use crate::input::{Encoding, Rights};
use crate::namespace::Namespace;
use crate::protocol::field::Strings;
use crate::protocol::frame::{Ended, Join, Joined, Reply};
use crate::subscription::first_credit;
use crate::topic::{self, Kind};

/// A heartbeat is due so many times within a session.
const HEARTBEATS: u64 = 3;

pub(crate) struct Member {
    pub(crate) id: MemberId,
    pub(crate) name: Box<str>,
    /// Whether it outlives its connection.
    pub(crate) is_named: bool,
    /// Its connection, as the broker numbers it and as the host does; none while it is away.
    pub(crate) connection: Option<u32>,
    pub(crate) connection_id: ConnectionId,
    pub(crate) encoding: Encoding,
    pub(crate) subscription: SubscriptionId,
    pub(crate) filters: Vec<Box<str>>,
    /// Whether it takes everything that the group reads.
    pub(crate) takes_all: bool,
    /// Of a queue: how many leases it may hold, and holds.
    pub(crate) max_in_flight: u64,
    pub(crate) in_flight: u64,
    /// Of a queue: whether it stands among those that wait for a message.
    pub(crate) is_idle: bool,
    /// Of a partitioned group: how many deliveries it is ready for, and the most that it ever was, which is stored:
    /// after hibernation it may have that much again, but never less than its client believes.
    pub(crate) credit: u64,
    pub(crate) credit_most: u64,
    /// What its deliveries have waited for so far; no later one waits for less.
    pub(crate) after: After,
    /// What it gets at the end of the batch.
    pub(crate) frames: Vec<u8>,
    /// When it lost its connection, and its entry among the deadlines.
    pub(crate) away_since: Timestamp,
    pub(crate) deadline: Timestamp,
    pub(crate) dirty: bool,
}

impl Member {
    /// One that is away, as it is before it has joined.
    pub(crate) fn away(id: MemberId, name: Box<str>, is_named: bool) -> Self {
        Self {
            id,
            name,
            is_named,
            connection: None,
            connection_id: ConnectionId(0),
            encoding: Encoding::Binary,
            subscription: SubscriptionId(0),
            filters: Vec::new(),
            takes_all: false,
            max_in_flight: 0,
            in_flight: 0,
            is_idle: false,
            credit: 0,
            credit_most: 0,
            after: After::default(),
            frames: Vec::new(),
            away_since: Timestamp(0),
            deadline: Timestamp(0),
            dirty: false,
        }
    }

    /// Whether it takes messages of a topic.
    pub(crate) fn takes(&self, topic: &str) -> bool {
        self.takes_all
            || self
                .filters
                .iter()
                .any(|filter| topic::matches(filter, topic))
    }
}

impl Namespace {
    /// Makes a connection a member of a group, which is created if there is none.
    pub(crate) fn join(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &Join<'_>,
    ) -> Result<(), Refusal> {
        let client = &cx.connections[connection as usize];
        let wanted = Rights(Rights::SUBSCRIBE.0 | Rights::HISTORY.0);
        if !client.claims.rights.contains(wanted) {
            let message = "this connection may not join groups: it needs to subscribe and to read history for it";
            return Err(Refusal::new(ErrorCode::Forbidden, message));
        }
        let id = SubscriptionId(command.subscription);
        if client.has_subscription(id) {
            let message = format!("subscription {} is in use on this connection", id.0);
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
        check_count(
            "a connection",
            "memberships",
            client.memberships.len() + 1,
            cx.config.memberships_max,
        )?;
        check_group_name("group", command.group)?;
        if let Some(name) = command.member {
            check_group_name("member", name)?;
        }
        check_filters(cx, &command.filters, 1)?;
        cx.require_storage()?;
        let from = parse_start(command.from)?;
        let known = self.group_by_name(command.group);
        let config = self.joined_config(cx, known, command)?;
        let (credit, max_in_flight) = room(cx, config.kind, command)?;
        self.check_filters_fit(cx, known, command.filters)?;
        let known_member = known.and_then(|index| self.member_named(index, command.member?));
        match known {
            None => check_count(
                "a namespace",
                "groups",
                self.groups.len() + 1,
                cx.config.groups_max,
            )?,
            Some(index) if known_member.is_none() => check_count(
                "a group",
                "members",
                self.groups[index as usize].members.len() + 1,
                cx.config.members_max,
            )?,
            Some(_) => {}
        }
        if known_member.is_none() {
            self.check_subscriptions()?;
        }
        let index = known.unwrap_or_else(|| self.create_group(cx, command.group, config));
        self.add_filters(cx, index, command.filters.iter(), from);
        let member = match known_member {
            Some(member) => {
                let message = "another connection joined under the member's name";
                self.end_membership(cx, index, member, ErrorCode::MemberReplaced, message);
                member
            }
            None => self.insert_member(cx, index, command.member),
        };
        let client = &mut cx.connections[connection as usize];
        client.memberships.push((id, index, member));
        let group = &mut self.groups[index as usize];
        let entry = &mut group.members[member as usize];
        entry.connection = Some(connection);
        entry.connection_id = client.id;
        entry.encoding = client.encoding;
        entry.subscription = id;
        entry.filters = command.filters.iter().map(Into::into).collect();
        entry.credit = credit;
        entry.credit_most = credit;
        entry.max_in_flight = max_in_flight;
        entry.after = entry.after.and(client.ended.unwrap_or_default());
        let joined = Joined {
            request: command.request,
            subscription: id.0,
            member: &entry.name,
            generation: group.generation.0,
            heartbeat_ms: group.config.session_ms / HEARTBEATS,
        };
        cx.reply_in_order(connection, entry.after, &Reply::Joined(joined));
        self.recheck_takers(index);
        self.touch_member(cx, index, member);
        match self.groups[index as usize].config.kind {
            GroupKind::Queue => self.groups[index as usize].offer(member),
            GroupKind::Partitioned => self.rejoin(cx, index, member),
        }
        self.queue_group(cx, index);
        Ok(())
    }

    /// Adds a member that has no connection yet.
    fn insert_member(&mut self, cx: &mut Context, index: u32, name: Option<&str>) -> u32 {
        let group = &mut self.groups[index as usize];
        let id = group.next_member;
        group.next_member = MemberId(id.0 + 1);
        let own_name = || format!("member-{}", id.0).into();
        let mut member = Member::away(id, name.map_or_else(own_name, Into::into), name.is_some());
        member.away_since = cx.now;
        let member = group.members.insert(member) as u32;
        self.renew_session(cx, index, member);
        self.touch_group(cx, index);
        member
    }

    /// Finds out which members take everything that their group reads.
    pub(crate) fn recheck_takers(&mut self, index: u32) {
        let group = &mut self.groups[index as usize];
        for (_, member) in &mut group.members {
            member.takes_all = group
                .filters
                .iter()
                .all(|filter| member.filters.contains(filter));
        }
    }

    /// The configuration of the group that a command joins.
    fn joined_config(
        &self,
        cx: &Context,
        known: Option<u32>,
        command: &Join<'_>,
    ) -> Result<GroupConfig, Refusal> {
        let existing = match known {
            Some(index) => self.groups[index as usize].config,
            None => GroupConfig::new(&cx.config),
        };
        let mut config = existing;
        if let Some(word) = command.kind {
            config.kind = GroupKind::parse(word)
                .ok_or_else(|| Refusal::wrong_word("kind", word, "queue or partitioned"))?;
        }
        if let Some(word) = command.strategy {
            config.strategy = Strategy::parse(word).ok_or_else(|| wrong_strategy(word))?;
        }
        if known.is_none() || config == existing {
            return Ok(config);
        }
        let message = format!(
            "group \"{}\" exists with the kind {} and the strategy {}; `configure_group` can change the strategy",
            command.group,
            existing.kind.as_str(),
            existing.strategy.as_str()
        );
        Err(Refusal::new(ErrorCode::ConflictingConfig, message))
    }

    /// Refuses more filters than a group may have, and a new one that names a topic which groups do not read. What has
    /// wildcards may match another topic later.
    pub(crate) fn check_filters_fit(
        &self,
        cx: &Context,
        known: Option<u32>,
        filters: Strings<'_>,
    ) -> Result<(), Refusal> {
        let existing = known.map_or(&[][..], |index| &self.groups[index as usize].filters);
        let mut count = existing.len();
        for filter in filters.iter() {
            if existing.iter().any(|known| **known == *filter) {
                continue;
            }
            count += 1;
            // What has wildcards is no topic's name.
            let topic = self.topic_by_name(filter);
            if topic.is_some_and(|topic| self.topics[topic as usize].config.kind == Kind::Live) {
                let message = format!(
                    "topic \"{filter}\" is live and keeps nothing, so groups do not read it; subscribe to it instead"
                );
                return Err(Refusal::new(ErrorCode::ConflictingConfig, message));
            }
        }
        check_count("a group", "filters", count, cx.config.filters_max)
    }

    fn member_named(&self, index: u32, name: &str) -> Option<u32> {
        let mut members = self.groups[index as usize].members.iter();
        let found = members.find(|(_, member)| member.is_named && &*member.name == name);
        found.map(|(member, _)| member as u32)
    }

    /// Ends the membership of a connection that goes on without it.
    pub(crate) fn end_membership(
        &mut self,
        cx: &mut Context,
        index: u32,
        member: u32,
        code: ErrorCode,
        message: &str,
    ) {
        let entry = &mut self.groups[index as usize].members[member as usize];
        let Some(connection) = entry.connection else {
            return;
        };
        let ended = Ended {
            subscription: entry.subscription.0,
            code: code.as_str(),
            message,
        };
        cx.reply_in_order(connection, entry.after, &Reply::Ended(ended));
        self.part(cx, index, member);
    }

    /// Parts a member from its connection.
    fn part(&mut self, cx: &mut Context, index: u32, member: u32) {
        let group = &mut self.groups[index as usize];
        let entry = &mut group.members[member as usize];
        entry.frames.clear();
        entry.away_since = cx.now;
        if core::mem::take(&mut entry.is_idle) {
            group.idle.retain(|other| *other != member);
        }
        let connection = entry.connection.take();
        let client = connection.and_then(|connection| cx.connections.get_mut(connection as usize));
        if let Some(client) = client {
            client
                .memberships
                .retain(|(_, group, other)| (*group, *other) != (index, member));
            let ended = client.ended.get_or_insert_default();
            *ended = ended.and(entry.after);
        }
    }

    /// The connection of a member is gone.
    pub(crate) fn lose_member(&mut self, cx: &mut Context, index: u32, member: u32) {
        if !self.groups[index as usize].members[member as usize].is_named {
            return self.remove_member(cx, index, member);
        }
        self.part(cx, index, member);
        self.touch_member(cx, index, member);
    }

    /// Removes a member, and gives what it had to the others.
    pub(crate) fn remove_member(&mut self, cx: &mut Context, index: u32, member: u32) {
        self.part(cx, index, member);
        self.take_back(cx, index, member);
        self.disown(cx, index, member);
        let group = &mut self.groups[index as usize];
        let entry = group.members.remove(member as usize);
        group.sending.retain(|other| *other != member);
        cx.deadlines
            .remove(&(entry.deadline, Due::Member(self.index, index, entry.id)));
        let key = self.keys.member(group.id, entry.id);
        cx.ops.push(Op::Delete { key });
        self.list_group(cx, index);
        self.queue_group(cx, index);
    }

    /// Finds out whether a member was silent for too long.
    pub(crate) fn member_due(&mut self, cx: &mut Context, index: u32, id: MemberId) {
        let group = &mut self.groups[index as usize];
        let found = group.members.iter().find(|(_, member)| member.id == id);
        let Some((member, _)) = found else { return };
        let member = member as u32;
        if self.renew_session(cx, index, member) > cx.now {
            return;
        }
        let message = "nothing was heard of the member for its session's time (session_ms)";
        self.end_membership(cx, index, member, ErrorCode::UnknownMember, message);
        self.remove_member(cx, index, member);
    }

    /// Sets the deadline of a member from when it was last heard of; returns it.
    pub(crate) fn renew_session(&mut self, cx: &mut Context, index: u32, member: u32) -> Timestamp {
        let group = &mut self.groups[index as usize];
        let entry = &mut group.members[member as usize];
        let heard = match entry.connection {
            Some(connection) => cx.connections[connection as usize].seen_at,
            None => entry.away_since,
        };
        let due = Due::Member(self.index, index, entry.id);
        cx.deadlines.remove(&(entry.deadline, due));
        entry.deadline = heard.after_ms(group.config.session_ms);
        cx.deadlines.insert((entry.deadline, due));
        entry.deadline
    }

    /// Notes that a member's row must be written at the end of the batch.
    pub(crate) fn touch_member(&mut self, cx: &mut Context, index: u32, member: u32) {
        self.groups[index as usize].members[member as usize].dirty = true;
        self.list_group(cx, index);
    }

    /// The group and member that a connection knows by the number of a subscription.
    pub(crate) fn membership(
        cx: &Context,
        connection: u32,
        subscription: u32,
    ) -> Result<(u32, u32), Refusal> {
        let client = &cx.connections[connection as usize];
        client
            .membership(SubscriptionId(subscription))
            .ok_or_else(|| {
                let message =
                    format!("subscription {subscription} of this connection is no membership");
                Refusal::new(ErrorCode::UnknownMember, message)
            })
    }
}

/// How much a member takes: credit for partitions, leases of a queue.
fn room(cx: &Context, kind: GroupKind, command: &Join<'_>) -> Result<(u64, u64), Refusal> {
    let invalid = |message: String| Err(Refusal::new(ErrorCode::InvalidArgument, message));
    match (kind, command.credit, command.max_in_flight) {
        (GroupKind::Queue, Some(_), _) => invalid(String::from(
            "\"credit\" is for partitioned groups; a member of a queue takes \"max_in_flight\" messages",
        )),
        (GroupKind::Partitioned, _, Some(_)) => invalid(String::from(
            "\"max_in_flight\" is for queues; a member of a partitioned group gives \"credit\"",
        )),
        (GroupKind::Queue, None, max) => {
            let max = max.unwrap_or(cx.config.max_in_flight);
            let bound = cx.config.max_in_flight_max;
            if !(1..=bound).contains(&max) {
                return invalid(format!(
                    "\"max_in_flight\" must be from 1 to {bound} (max_in_flight_max), not {max}"
                ));
            }
            Ok((0, max))
        }
        (GroupKind::Partitioned, credit, None) => Ok((first_credit(&cx.config, credit)?, 0)),
    }
}

/// Refuses what is not a list of filters that a group can have.
pub(crate) fn check_filters(cx: &Context, filters: &Strings<'_>, min: u64) -> Result<(), Refusal> {
    let max = cx.config.filters_max;
    let count = filters.iter().count() as u64;
    if !(min..=max).contains(&count) {
        let message =
            format!("\"filters\" must have from {min} to {max} members (filters_max), not {count}");
        return Err(Refusal::new(ErrorCode::InvalidArgument, message));
    }
    for filter in filters.iter() {
        topic::check_filter(filter)?;
        if filter.starts_with('$') {
            let message =
                format!("invalid filter \"{filter}\": a group reads no topics of the broker's own");
            return Err(Refusal::new(ErrorCode::InvalidFilter, message));
        }
    }
    Ok(())
}

pub(crate) fn wrong_strategy(word: &str) -> Refusal {
    Refusal::wrong_word(
        "strategy",
        word,
        "sticky, round_robin, range or consistent_hash",
    )
}
