//! Tenants: what a namespace may have, what it used, how it comes to be and how it is deleted.
//!
//! A namespace that an operator configured has quotas, which hold beside the broker's own bounds, and its usage is
//! counted by day. One that just came to be in an open broker has neither. Usage is counted in memory and written
//! at most once in `usage_ms`, so that much of it a crash may take, and nothing else ever costs a row for it.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::broker::Broker;
use crate::config::Config;
use crate::context::Context;
use crate::deadline::Due;
use crate::dedup::Known;
use crate::effect::{After, CloseCode, Durability, Op};
use crate::error::{ErrorCode, Refusal, check_count};
use crate::ids::{ConnectionId, Timestamp};
use crate::input::Rights;
use crate::limit::{BURST_MAX, FULL_RATE, Rule, TokenBucket};
use crate::namespace::Namespace;
use crate::protocol::field::{List, Strings};
use crate::protocol::frame::{
    ConfigureNamespace, DayUsage, DeleteNamespace, DescribeNamespace, Done, ListNamespaces,
    Message, NamespaceDescription, Namespaces, Reply,
};
use crate::restore::unsound;
use crate::rows::{ROW_VERSION, namespace_range};
use crate::schedule::{deliver_at, size_of};
use crate::topic::Kind;
use crate::wire::{Malformed, Put as _, Reader};

/// A day in milliseconds.
const DAY_MS: u64 = 86_400_000;

/// What a stored message has at most beside what its publisher chose: numbers, times and lengths.
const RECORD_BYTES: u64 = 96;

/// What a namespace may have; 0 where only the broker's own bounds hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Quotas {
    publish_rate: u64,
    bytes_rate: u64,
    subscriptions_max: u64,
    topics_max: u64,
    pub(crate) connections_max: u64,
    payload_bytes_max: u64,
    stored_bytes_max: u64,
}

/// What flows at a rate that has a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Messages,
    Bytes,
}

/// A namespace's quotas, and its usage by day.
pub(crate) struct Tenant {
    pub(crate) quotas: Quotas,
    buckets: [Option<TokenBucket>; Flow::ALL.len()],
    /// By days since the epoch.
    usage: BTreeMap<u32, Usage>,
    /// The first day that is not written as it is, and when the last one was.
    dirty_from: Option<u32>,
    written_at: Timestamp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    messages: u64,
    bytes: u64,
    deliveries: u64,
    connections: u64,
    stored_bytes: u64,
}

impl Quotas {
    /// Those of a namespace that an operator creates without saying otherwise.
    const CREATED: Self = Self {
        publish_rate: 1000,
        bytes_rate: 10 << 20,
        subscriptions_max: 100,
        topics_max: 1000,
        connections_max: 0,
        payload_bytes_max: 1 << 20,
        stored_bytes_max: 0,
    };

    /// These with what a command says.
    fn changed(self, command: &ConfigureNamespace) -> Result<Self, Refusal> {
        let quotas = Self {
            publish_rate: command.publish_rate.unwrap_or(self.publish_rate),
            bytes_rate: command.bytes_rate.unwrap_or(self.bytes_rate),
            subscriptions_max: command.subscriptions_max.unwrap_or(self.subscriptions_max),
            topics_max: command.topics_max.unwrap_or(self.topics_max),
            connections_max: command.connections_max.unwrap_or(self.connections_max),
            payload_bytes_max: command.payload_bytes_max.unwrap_or(self.payload_bytes_max),
            stored_bytes_max: command.stored_bytes_max.unwrap_or(self.stored_bytes_max),
        };
        for (name, rate) in [
            ("publish_rate", quotas.publish_rate),
            ("bytes_rate", quotas.bytes_rate),
        ] {
            if rate > BURST_MAX {
                let message = format!(
                    "\"{name}\" must be at most {BURST_MAX}, not {rate}; 0 stands for no quota"
                );
                return Err(Refusal::new(ErrorCode::InvalidArgument, message));
            }
        }
        Ok(quotas)
    }

    const fn all(&self) -> [u64; 7] {
        [
            self.publish_rate,
            self.bytes_rate,
            self.subscriptions_max,
            self.topics_max,
            self.connections_max,
            self.payload_bytes_max,
            self.stored_bytes_max,
        ]
    }

    fn row(&self) -> Vec<u8> {
        numbers_row(&self.all())
    }

    fn from_row(value: &[u8]) -> Result<Self, Malformed> {
        let [
            publish_rate,
            bytes_rate,
            subscriptions_max,
            topics_max,
            connections_max,
            payload_bytes_max,
            stored_bytes_max,
        ] = read_numbers(value)?;
        if publish_rate.max(bytes_rate) > BURST_MAX {
            return Err(Malformed);
        }
        Ok(Self {
            publish_rate,
            bytes_rate,
            subscriptions_max,
            topics_max,
            connections_max,
            payload_bytes_max,
            stored_bytes_max,
        })
    }

    /// The rule that a flow is kept to. A second's worth may come at once, and always one message.
    fn rule(&self, flow: Flow, config: &Config) -> Option<Rule> {
        let (rate, burst) = match flow {
            Flow::Messages => (self.publish_rate, self.publish_rate),
            Flow::Bytes => {
                let payload = narrower(config.payload_bytes_max, self.payload_bytes_max);
                (self.bytes_rate, self.bytes_rate.max(payload))
            }
        };
        Rule::new(rate, None, Some(burst), false).ok()
    }
}

impl Flow {
    pub(crate) const ALL: [Self; 2] = [Self::Messages, Self::Bytes];

    pub(crate) const fn quota(self) -> &'static str {
        match self {
            Self::Messages => "publish_rate",
            Self::Bytes => "bytes_rate",
        }
    }

    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Bytes => "bytes",
        }
    }

    /// How much of it these messages are.
    pub(crate) fn count(self, messages: &[Message<'_>]) -> u64 {
        match self {
            Self::Messages => messages.len() as u64,
            Self::Bytes => messages
                .iter()
                .map(|message| message.payload.len() as u64)
                .sum(),
        }
    }
}

impl Tenant {
    fn new(quotas: Quotas) -> Self {
        Self {
            quotas,
            buckets: [None; Flow::ALL.len()],
            usage: BTreeMap::new(),
            dirty_from: None,
            written_at: Timestamp(0),
        }
    }

    /// Makes sure that a flow has its bucket; whether it has a quota.
    pub(crate) fn begin_flow(&mut self, flow: Flow, config: &Config, now: Timestamp) -> bool {
        let rule = self.quotas.rule(flow, config);
        let slot = &mut self.buckets[flow as usize];
        match (rule, slot.as_mut()) {
            (Some(rule), Some(bucket)) => bucket.put_under(rule, FULL_RATE, now),
            (rule, _) => *slot = rule.map(|rule| TokenBucket::full(rule, now)),
        }
        rule.is_some()
    }

    pub(crate) const fn bucket(&self, flow: Flow) -> Option<&TokenBucket> {
        self.buckets[flow as usize].as_ref()
    }

    pub(crate) const fn bucket_mut(&mut self, flow: Flow) -> Option<&mut TokenBucket> {
        self.buckets[flow as usize].as_mut()
    }

    /// What is used today, to be added to.
    fn today(&mut self, cx: &mut Context, namespace: u32) -> &mut Usage {
        // Days have four bytes in keys, which a clock of this world does not exceed.
        let day = u32::try_from(cx.now.0 / DAY_MS).unwrap_or(u32::MAX);
        if self.dirty_from.is_none() {
            self.dirty_from = Some(day);
            let at = self.written_at.after_ms(cx.config.usage_ms).max(cx.now);
            cx.deadlines.insert((at, Due::Usage(namespace)));
        }
        // A clock that went back counts for the newest day.
        let day = self
            .usage
            .last_key_value()
            .map_or(day, |(last, _)| day.max(*last));
        self.usage.entry(day).or_default()
    }
}

/// The narrower of a bound and a quota.
const fn narrower(bound: u64, quota: u64) -> u64 {
    if quota == 0 || bound < quota {
        bound
    } else {
        quota
    }
}

fn numbers_row(numbers: &[u64]) -> Vec<u8> {
    let mut row = Vec::new();
    row.put_u64(ROW_VERSION);
    for number in numbers {
        row.put_u64(*number);
    }
    row
}

fn read_numbers<const N: usize>(value: &[u8]) -> Result<[u64; N], Malformed> {
    let mut reader = Reader::new(value);
    if reader.u64()? != ROW_VERSION {
        return Err(Malformed);
    }
    let mut numbers = [0; N];
    for number in &mut numbers {
        *number = reader.u64()?;
    }
    reader.end()?;
    Ok(numbers)
}

impl Namespace {
    fn quotas(&self) -> Quotas {
        self.tenant
            .as_ref()
            .map_or(Quotas::default(), |tenant| tenant.quotas)
    }

    /// How many topics it may have.
    pub(crate) fn topics_max(&self, config: &Config) -> u64 {
        narrower(config.topics_max, self.quotas().topics_max)
    }

    /// How large a payload may be.
    pub(crate) fn payload_bytes_max(&self, config: &Config) -> u64 {
        narrower(config.payload_bytes_max, self.quotas().payload_bytes_max)
    }

    /// Refuses a payload that is larger than the namespace may have.
    pub(crate) fn check_payload(&self, payload: &[u8]) -> Result<(), Refusal> {
        let max = self.quotas().payload_bytes_max;
        if max == 0 || payload.len() as u64 <= max {
            return Ok(());
        }
        let message = format!(
            "the payload is {} bytes long, {max} are allowed in namespace \"{}\" (payload_bytes_max)",
            payload.len(),
            self.name
        );
        Err(Refusal::new(ErrorCode::TooLarge, message))
    }

    /// Refuses one more subscription or membership than the namespace may have.
    pub(crate) fn check_subscriptions(&self) -> Result<(), Refusal> {
        match self.quotas().subscriptions_max {
            0 => Ok(()),
            max => {
                let count = self.subscriptions_count() as usize + 1;
                check_count("the namespace", "subscriptions", count, max)
            }
        }
    }

    fn subscriptions_count(&self) -> u64 {
        let members = self.groups.iter().map(|(_, group)| group.members.len());
        (self.subscriptions.len() + members.sum::<usize>()) as u64
    }

    /// How many bytes of messages it stores, those included that wait for their time.
    pub(crate) fn all_stored_bytes(&self) -> u64 {
        self.stored_bytes + self.schedule.size_bytes()
    }

    /// Refuses messages that there is no room for; those that are known already take none.
    pub(crate) fn check_stored_bytes(
        &self,
        cx: &Context,
        messages: &[Message<'_>],
    ) -> Result<(), Refusal> {
        let max = self.quotas().stored_bytes_max;
        if max == 0 {
            return Ok(());
        }
        let new = messages.iter().enumerate().filter(|(index, message)| {
            let recalled = cx.recalled.get(*index);
            recalled.is_none_or(|recalled| recalled.known == Known::New)
                && self.is_to_be_stored(cx, message)
        });
        let bytes: u64 = new
            .map(|(_, message)| size_of(message) + RECORD_BYTES)
            .sum();
        let stored = self.all_stored_bytes();
        if bytes == 0 || stored.saturating_add(bytes) <= max {
            return Ok(());
        }
        let message = format!(
            "namespace \"{}\" stores {stored} bytes of messages, {max} are allowed (stored_bytes_max); delete topics or shorten their retention",
            self.name
        );
        Err(Refusal::new(ErrorCode::LimitReached, message))
    }

    /// Whether a message takes room: of a live topic only while it waits for its time.
    fn is_to_be_stored(&self, cx: &Context, message: &Message<'_>) -> bool {
        let kind = match self.topic_by_name(message.topic) {
            Some(topic) => self.topics[topic as usize].config.kind,
            None => cx.config.topic_default.kind,
        };
        let at = deliver_at(&cx.config, cx.now, message);
        kind != Kind::Live || at.is_ok_and(|at| at.is_some())
    }

    /// Refuses what was imported, if the namespace may not have it.
    pub(crate) fn check_imported(&self, config: &Config, imported: &Self) -> Result<(), Refusal> {
        let quotas = self.quotas();
        let stored = imported
            .sum_stored_bytes()
            .saturating_add(imported.schedule.size_bytes());
        if quotas.stored_bytes_max > 0 && stored > quotas.stored_bytes_max {
            let message = format!(
                "the archive has {stored} bytes of messages, {} are allowed (stored_bytes_max)",
                quotas.stored_bytes_max
            );
            return Err(Refusal::new(ErrorCode::LimitReached, message));
        }
        let max = self.topics_max(config);
        check_count("a namespace", "topics", imported.topics.len(), max)
    }

    /// Notes that a message was published. What the broker itself publishes, nobody used.
    pub(crate) fn count_published(&mut self, cx: &mut Context, topic: u32, bytes: u64) {
        cx.counters.published_messages += 1;
        cx.counters.published_bytes += bytes;
        if let Some(tenant) = &mut self.tenant
            && !self.topics[topic as usize].name.starts_with('$')
        {
            let today = tenant.today(cx, self.index);
            today.messages += 1;
            today.bytes += bytes;
        }
    }

    /// Notes that messages were delivered.
    pub(crate) fn count_delivered(&mut self, cx: &mut Context, messages: u64) {
        cx.counters.delivered_messages += messages;
        if let Some(tenant) = &mut self.tenant {
            tenant.today(cx, self.index).deliveries += messages;
        }
    }

    /// Notes that there is one connection more.
    pub(crate) fn count_connected(&mut self, cx: &mut Context) {
        if let Some(tenant) = &mut self.tenant {
            let known = tenant.usage.last_key_value();
            let now = u32::try_from(cx.now.0 / DAY_MS).unwrap_or(u32::MAX);
            // Nothing is written for connections below the day's most.
            if known.is_none_or(|(day, usage)| *day < now || usage.connections < self.connections) {
                let today = tenant.today(cx, self.index);
                today.connections = today.connections.max(self.connections);
            }
        }
    }

    /// Lets what was used be written with this batch.
    pub(crate) fn usage_due(&mut self, cx: &mut Context) {
        if self.tenant.is_some() {
            self.list(cx);
            self.usage_is_due = true;
        }
    }

    /// Writes what was used, when that is due.
    pub(crate) fn flush_usage(&mut self, cx: &mut Context) {
        if !core::mem::take(&mut self.usage_is_due) {
            return;
        }
        let stored = self.all_stored_bytes();
        let connections = self.connections;
        let Some(tenant) = &mut self.tenant else {
            return;
        };
        let Some(from) = tenant.dirty_from.take() else {
            return;
        };
        tenant.written_at = cx.now;
        if let Some(mut newest) = tenant.usage.last_entry() {
            let newest = newest.get_mut();
            newest.stored_bytes = newest.stored_bytes.max(stored);
            newest.connections = newest.connections.max(connections);
        }
        for (day, usage) in tenant.usage.range(from.min(tenant.newest_day())..) {
            cx.ops.push(Op::Put {
                key: self.keys.usage(*day),
                value: usage.row(),
            });
        }
        while tenant.usage.len() as u64 > cx.config.usage_days_max {
            if let Some((day, _)) = tenant.usage.pop_first() {
                cx.ops.push(Op::Delete {
                    key: self.keys.usage(day),
                });
            }
        }
    }

    /// Takes quotas that were stored.
    pub(crate) fn restore_quota(&mut self, value: &[u8]) -> Result<(), String> {
        let quotas = Quotas::from_row(value).map_err(|_| unsound("quota"))?;
        self.tenant = Some(Box::new(Tenant::new(quotas)));
        Ok(())
    }

    /// Takes the usage of a day that was stored.
    pub(crate) fn restore_usage(&mut self, day: u32, value: &[u8]) -> Result<(), String> {
        let usage = Usage::from_row(value).map_err(|_| unsound("usage"))?;
        let tenant = self.tenant.as_mut().ok_or_else(|| unsound("usage"))?;
        tenant.usage.insert(day, usage);
        Ok(())
    }

    /// Creates the namespace, or changes its quotas.
    pub(crate) fn configure_namespace(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &ConfigureNamespace,
    ) -> Result<(), Refusal> {
        require_operate(cx, connection, "configure namespaces")?;
        cx.require_storage()?;
        let base = match &self.tenant {
            Some(tenant) => tenant.quotas,
            None if self.exists() => Quotas::default(),
            None => Quotas::CREATED,
        };
        let quotas = base.changed(command)?;
        let mut after = After::default();
        if self.tenant.is_none() || quotas != base {
            after = cx.after(Durability::Sync);
            cx.durability = Durability::Sync;
            self.touch(cx);
            cx.ops.push(Op::Put {
                key: self.keys.quota(),
                value: quotas.row(),
            });
            match &mut self.tenant {
                Some(tenant) => tenant.quotas = quotas,
                None => self.tenant = Some(Box::new(Tenant::new(quotas))),
            }
            self.count_connected(cx);
        }
        self.reply_namespace(cx, connection, command.request, 0, after);
        Ok(())
    }

    /// Tells what the namespace may have, has, and used.
    pub(crate) fn describe_namespace(
        &self,
        cx: &mut Context,
        connection: u32,
        command: &DescribeNamespace,
    ) -> Result<(), Refusal> {
        let rights = cx.connections[connection as usize].claims.rights;
        if !rights.contains(Rights::MANAGE) {
            require_operate(cx, connection, "see what the namespace uses")?;
        }
        if !self.exists() {
            return Err(unknown_namespace(&self.name));
        }
        let days = command.days.unwrap_or(0);
        self.reply_namespace(cx, connection, command.request, days, After::default());
        Ok(())
    }

    fn reply_namespace(
        &self,
        cx: &mut Context,
        connection: u32,
        request: u64,
        days: u64,
        after: After,
    ) {
        let mut usage = Vec::new();
        let known = self.tenant.iter().flat_map(|tenant| tenant.usage.iter());
        let today = cx.now.0 / DAY_MS;
        for (day, used) in known.rev() {
            // Where the clock went back, the newest day lies ahead.
            if u64::from(*day).saturating_add(days) <= today {
                break;
            }
            List::push(
                &mut usage,
                &DayUsage {
                    day: (*day).into(),
                    messages: used.messages,
                    bytes: used.bytes,
                    deliveries: used.deliveries,
                    connections: used.connections,
                    stored_bytes: used.stored_bytes,
                },
            );
        }
        let quotas = self.quotas();
        let description = NamespaceDescription {
            request,
            namespace: &self.name,
            publish_rate: quotas.publish_rate,
            bytes_rate: quotas.bytes_rate,
            subscriptions_max: quotas.subscriptions_max,
            topics_max: quotas.topics_max,
            connections_max: quotas.connections_max,
            payload_bytes_max: quotas.payload_bytes_max,
            stored_bytes_max: quotas.stored_bytes_max,
            stored_bytes: self.all_stored_bytes(),
            connections: self.connections,
            subscriptions: self.subscriptions_count(),
            topics: self.topics.len() as u64,
            usage: List::new(&usage),
        };
        let reply = Reply::NamespaceDescription(description);
        cx.reply(connection, after, &reply);
    }
}

impl Tenant {
    fn newest_day(&self) -> u32 {
        self.usage.last_key_value().map_or(0, |(day, _)| *day)
    }
}

impl Usage {
    fn row(&self) -> Vec<u8> {
        numbers_row(&[
            self.messages,
            self.bytes,
            self.deliveries,
            self.connections,
            self.stored_bytes,
        ])
    }

    fn from_row(value: &[u8]) -> Result<Self, Malformed> {
        let [messages, bytes, deliveries, connections, stored_bytes] = read_numbers(value)?;
        Ok(Self {
            messages,
            bytes,
            deliveries,
            connections,
            stored_bytes,
        })
    }
}

impl Broker {
    /// Deletes a namespace: its connections are closed, what is under way in it ends, and in one write every row of
    /// it goes. Whoever comes later under its name finds nothing of it.
    pub(crate) fn delete_namespace(
        &mut self,
        connection: u32,
        command: &DeleteNamespace,
    ) -> Result<(), Refusal> {
        require_operate(&self.cx, connection, "delete namespaces")?;
        let index = self.cx.connections[connection as usize].namespace;
        let namespace = &self.namespaces[index as usize];
        if !namespace.exists() {
            return Err(unknown_namespace(&namespace.name));
        }
        let name = namespace.name.clone();
        // Tried even where the store takes nothing: a full one takes what makes room, and the reply waits for it.
        self.cx.writes = true;
        let after = self.cx.after(Durability::Sync);
        self.cx.durability = Durability::Sync;
        let request = command.request;
        self.cx
            .reply(connection, after, &Reply::Done(Done { request }));
        let message = format!("namespace \"{name}\" was deleted");
        let inside: Vec<ConnectionId> = self
            .cx
            .connections
            .iter()
            .filter(|(_, connection)| connection.namespace == index)
            .map(|(_, connection)| connection.id)
            .collect();
        for id in inside {
            let code = ErrorCode::UnknownNamespace;
            self.cx.close(id, CloseCode::Kicked, code, &message);
            self.forget(id);
        }
        self.drop_namespace(index);
        let (from, to) = namespace_range(&name);
        self.cx.ops.push(Op::DeleteRange { from, to });
        Ok(())
    }

    /// Forgets everything that is known of a namespace without connections.
    fn drop_namespace(&mut self, index: u32) {
        let namespace = self.remove_namespace(index);
        self.deleted += 1;
        let cx = &mut self.cx;
        cx.imports -= u64::from(namespace.import.is_some());
        cx.deadlines.remove_all_of(index);
        cx.ready.retain(|work| work.namespace() != index);
        cx.starved.retain(|work| work.namespace() != index);
        cx.dirty_namespaces.retain(|other| *other != index);
        // Loads that are under way come back to nobody: whoever is here next does not know their tickets.
        self.restoring.forget_dormant_of(index);
    }

    /// Lists the namespaces that are stored here, a page at a time.
    pub(crate) fn list_namespaces(
        &mut self,
        connection: u32,
        command: &ListNamespaces<'_>,
    ) -> Result<(), Refusal> {
        require_operate(&self.cx, connection, "list namespaces")?;
        let after = command.after.unwrap_or("");
        let mut names: Vec<&str> = self
            .namespaces
            .iter()
            .filter(|(_, namespace)| namespace.exists() && *namespace.name > *after)
            .map(|(_, namespace)| &*namespace.name)
            .collect();
        names.sort_unstable();
        let max = self.cx.config.list_namespaces_max;
        let max = command.namespaces_max.unwrap_or(max).clamp(1, max) as usize;
        let page = Strings::encode(names.iter().copied().take(max));
        let reply = Namespaces {
            request: command.request,
            namespaces: Strings::parse(&page).unwrap_or_default(),
            more: names.len() > max,
        };
        self.cx
            .reply(connection, After::default(), &Reply::Namespaces(reply));
        Ok(())
    }
}

/// The refusal of what is not there.
pub(crate) fn unknown_namespace(name: &str) -> Refusal {
    let message = format!("unknown namespace \"{name}\"");
    Refusal::new(ErrorCode::UnknownNamespace, message)
}

/// Refuses to do `what` for who is no operator.
fn require_operate(cx: &Context, connection: u32, what: &str) -> Result<(), Refusal> {
    let rights = cx.connections[connection as usize].claims.rights;
    if rights.contains(Rights::OPERATE) {
        return Ok(());
    }
    let message = format!("this connection may not {what}; that takes an operator");
    Err(Refusal::new(ErrorCode::Forbidden, message))
}
