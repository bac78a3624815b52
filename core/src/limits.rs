//! The rate limits of a namespace: its rules, and the buckets of everybody who is limited.
//!
//! Every scope has its own bucket where it lies: the namespace here, a topic in the topic, a connection in the
//! connection, a subscription in the subscription. Users and addresses are in one bounded table. A bucket that is
//! full says nothing, so it is let go of when room is needed. Buckets that are full again soon are never written;
//! the others are, once a batch, and their rows go when they are full.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};

use slab::Slab;

use crate::config::Config;
use crate::context::Context;
use crate::deadline::Due;
use crate::effect::{After, Durability, Op};
use crate::error::{ErrorCode, Refusal, check_count};
use crate::hash::Map;
use crate::ids::Timestamp;
use crate::limit::{Adaptive, FULL_RATE, Rule, Scope, Short, TokenBucket};
use crate::manage::require_manage;
use crate::namespace::Namespace;
use crate::protocol::field::List;
use crate::protocol::frame::{self, ConfigureLimit, Done, ListLimits, Message, Reply};
use crate::rows::{KeyTail, ROW_VERSION};
use crate::subscription::Behind;
use crate::tenant::Flow;
use crate::topic;
use crate::wire::{Malformed, Put as _, Reader};

/// How many buckets that may be full again are looked at when another one is written or added.
const SWEEP_MAX: u32 = 16;
/// Within so many milliseconds a slow subscription is woken once, to read the log for several deliveries at a time.
const PACE_MS: u64 = 100;

pub(crate) struct Limits {
    /// The namespace's own rules by scope and name; the empty name is everybody who has no rule by name.
    rules: [BTreeMap<Box<str>, Rule>; Scope::ALL.len()],
    adaptive: Adaptive,
    namespace: Option<Box<Limiter>>,
    peers: Slab<Peer>,
    users: Map<Box<str>, u32>,
    networks: Map<Box<str>, u32>,
    /// Every peer, and every other bucket that has a row, by a time at which it was going to be full. It may be full
    /// later by now; that is found out when its turn comes.
    order: BTreeSet<(Timestamp, Owner)>,
    /// Whose rows are to be written at the end of the batch.
    dirty: Vec<Owner>,
}

/// Whose bucket may have a row of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Namespace,
    Topic(u32),
    Peer(u32),
}

/// A bucket, and what of it is stored.
pub(crate) struct Limiter {
    bucket: TokenBucket,
    stored: bool,
    dirty: bool,
}

/// A user or a network.
struct Peer {
    scope: Scope,
    name: Box<str>,
    limiter: Limiter,
}

/// A rule for deliveries, and the factor of its rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) rule: Rule,
    pub(crate) factor: u32,
}

/// Whether a publish waits for tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tokens {
    /// It does, if they are there within so many milliseconds.
    Within(u64),
    /// It has waited, and its tokens are taken.
    Taken,
}

/// A bucket that messages are to be taken from, and how many.
#[derive(Clone, Copy)]
pub(crate) struct Charge {
    from: Charged,
    count: u64,
}

#[derive(Clone, Copy)]
enum Charged {
    Owner(Owner),
    /// What a quota of the namespace bounds.
    Quota(Flow),
    Connection(u32),
    /// The topic of the message with this index, which does not exist yet.
    NewTopic(u32, Rule),
}

impl Limiter {
    fn full(rule: Rule, now: Timestamp) -> Self {
        Self {
            bucket: TokenBucket::full(rule, now),
            stored: false,
            dirty: false,
        }
    }

    fn restored(bucket: TokenBucket) -> Self {
        Self {
            bucket,
            stored: true,
            dirty: false,
        }
    }
}

/// Makes sure that a bucket is there and under this rule.
fn put_under(slot: &mut Option<Box<Limiter>>, rule: Rule, factor: u32, now: Timestamp) {
    match slot {
        Some(limiter) => limiter.bucket.put_under(rule, factor, now),
        None => *slot = Some(Limiter::full(rule, now).into()),
    }
}

impl Limits {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rules: [const { BTreeMap::new() }; Scope::ALL.len()],
            adaptive: Adaptive::default(),
            namespace: None,
            peers: Slab::new(),
            users: Map::with_seed(seed),
            networks: Map::with_seed(seed),
            order: BTreeSet::new(),
            dirty: Vec::new(),
        }
    }

    /// Whether anybody in a scope is limited.
    fn has(&self, config: &Config, scope: Scope) -> bool {
        config.limits[scope as usize].is_some() || !self.rules[scope as usize].is_empty()
    }

    /// The rule for who is called so: its own, that of everybody in the namespace, or that of the broker.
    pub(crate) fn rule(&self, config: &Config, scope: Scope, name: &str) -> Option<Rule> {
        let own = &self.rules[scope as usize];
        let named = own.get(name).or_else(|| own.get(""));
        named.copied().or(config.limits[scope as usize])
    }

    fn index_of(&mut self, scope: Scope) -> &mut Map<Box<str>, u32> {
        if scope == Scope::User {
            &mut self.users
        } else {
            &mut self.networks
        }
    }

    fn insert_peer(&mut self, scope: Scope, name: &str, limiter: Limiter) -> u32 {
        let full_at = limiter.bucket.full_at(FULL_RATE);
        let peer = Peer {
            scope,
            name: name.into(),
            limiter,
        };
        let index = self.peers.insert(peer) as u32;
        self.index_of(scope).insert(name.into(), index);
        self.order.insert((full_at, Owner::Peer(index)));
        index
    }

    /// How many users and networks have a bucket.
    pub(crate) fn peers(&self) -> u64 {
        self.peers.len() as u64
    }

    /// Takes a rule that was stored. The text says what is wrong with it.
    pub(crate) fn restore_rule(
        &mut self,
        key: &[u8],
        value: &[u8],
        rules_max: u64,
    ) -> Result<(), String> {
        let (scope, name) = scope_and_name(key).ok_or_else(|| crate::restore::unsound("key"))?;
        let rule = read_rule(value).map_err(|_| crate::restore::unsound("limit"))?;
        if checked_name(scope, name).is_none_or(|checked| *checked != *name) {
            return Err(crate::restore::unsound("limit"));
        }
        if self.rules_count() >= rules_max {
            return Err(format!(
                "there are more than {rules_max} limits (limits_max)"
            ));
        }
        self.rules[scope as usize].insert(name.into(), rule);
        Ok(())
    }

    fn rules_count(&self) -> u64 {
        self.rules.iter().map(|rules| rules.len() as u64).sum()
    }
}

impl Namespace {
    /// Takes a token for every message out of each bucket that limits them, or out of none. `Ok(Some(at))` if the
    /// publish must wait until then: what it takes is put aside for it.
    pub(crate) fn admit(
        &mut self,
        cx: &mut Context,
        connection: u32,
        messages: &[Message<'_>],
        tokens: Tokens,
    ) -> Result<Option<Timestamp>, Refusal> {
        let mut charges = core::mem::take(&mut cx.charges);
        charges.clear();
        let admitted = self
            .charge(cx, connection, messages, tokens, &mut charges)
            .and_then(|()| self.settle_charges(cx, messages, tokens, &charges));
        let goes_on = admitted == Ok(None);
        charges.retain(|charge| goes_on && matches!(charge.from, Charged::NewTopic(..)));
        cx.charges = charges;
        admitted
    }

    /// Takes the tokens of the topics that came to be with these messages.
    pub(crate) fn charge_new_topics(&mut self, cx: &mut Context, messages: &[Message<'_>]) {
        while let Some(charge) = cx.charges.pop() {
            let Charged::NewTopic(message, rule) = charge.from else {
                continue;
            };
            if let Some(topic) = self.topic_by_name(messages[message as usize].topic) {
                let limiter = &mut self.topics[topic as usize].limiter;
                put_under(limiter, rule, FULL_RATE, cx.now);
                self.take_tokens(cx, Charged::Owner(Owner::Topic(topic)), charge.count);
            }
        }
    }

    /// Finds the buckets that limit these messages.
    fn charge(
        &mut self,
        cx: &mut Context,
        connection: u32,
        messages: &[Message<'_>],
        tokens: Tokens,
        charges: &mut Vec<Charge>,
    ) -> Result<(), Refusal> {
        let count = messages.len() as u64;
        let now = cx.now;
        if self.limits.has(&cx.config, Scope::Topic) {
            self.charge_topics(cx, messages, charges);
        }
        if tokens == Tokens::Taken {
            // Only a topic that is not there yet could not put any aside.
            return Ok(());
        }
        if let Some(rule) = self.limits.rule(&cx.config, Scope::Namespace, "") {
            let factor = self.factor_for(cx, rule);
            put_under(&mut self.limits.namespace, rule, factor, now);
            charges.push(Charge {
                from: Charged::Owner(Owner::Namespace),
                count,
            });
        }
        for flow in Flow::ALL {
            if let Some(tenant) = &mut self.tenant
                && tenant.begin_flow(flow, &cx.config, now)
            {
                charges.push(Charge {
                    from: Charged::Quota(flow),
                    count: flow.count(messages),
                });
            }
        }
        if let Some(rule) = self.limits.rule(&cx.config, Scope::Connection, "") {
            let factor = self.factor_for(cx, rule);
            let bucket = &mut cx.connections[connection as usize].bucket;
            let full = || Box::new(TokenBucket::full(rule, now));
            let bucket = bucket.get_or_insert_with(full);
            bucket.put_under(rule, factor, now);
            charges.push(Charge {
                from: Charged::Connection(connection),
                count,
            });
        }
        for scope in [Scope::User, Scope::Ip] {
            if self.limits.has(&cx.config, scope)
                && let Some(peer) = self.find_peer(cx, connection, scope)?
            {
                charges.push(Charge {
                    from: Charged::Owner(Owner::Peer(peer)),
                    count,
                });
            }
        }
        Ok(())
    }

    fn charge_topics(&mut self, cx: &Context, messages: &[Message<'_>], charges: &mut Vec<Charge>) {
        let mut known: Map<&str, Option<u32>> = Map::with_seed_of(&self.topic_index);
        for (index, message) in (0u32..).zip(messages) {
            if messages.len() > 1
                && let Some(known) = known.get(message.topic)
            {
                if let Some(place) = known {
                    charges[*place as usize].count += 1;
                }
                continue;
            }
            let rule = self.limits.rule(&cx.config, Scope::Topic, message.topic);
            let place = rule.map(|_| charges.len() as u32);
            if let Some(rule) = rule {
                let from = match self.topic_by_name(message.topic) {
                    Some(topic) => {
                        let factor = self.factor_for(cx, rule);
                        let limiter = &mut self.topics[topic as usize].limiter;
                        put_under(limiter, rule, factor, cx.now);
                        Charged::Owner(Owner::Topic(topic))
                    }
                    None => Charged::NewTopic(index, rule),
                };
                charges.push(Charge { from, count: 1 });
            }
            if messages.len() > 1 {
                known.insert(message.topic, place);
            }
        }
    }

    /// The user or network of a connection, if it is limited.
    fn find_peer(
        &mut self,
        cx: &mut Context,
        connection: u32,
        scope: Scope,
    ) -> Result<Option<u32>, Refusal> {
        let client = &cx.connections[connection as usize];
        let name: &str = match scope {
            Scope::User => &client.claims.user,
            _ => &client.network,
        };
        if name.is_empty() {
            return Ok(None);
        }
        let Some(rule) = self.limits.rule(&cx.config, scope, name) else {
            return Ok(None);
        };
        if let Some(&known) = self.limits.index_of(scope).get(name) {
            let factor = self.factor_for(cx, rule);
            let limiter = &mut self.limits.peers[known as usize].limiter;
            limiter.bucket.put_under(rule, factor, cx.now);
            return Ok(Some(known));
        }
        let name: Box<str> = name.into();
        self.sweep(cx, SWEEP_MAX);
        while self.limits.peers() >= cx.config.limiters_max {
            let (full_at, owner) = self
                .fullest(cx)
                .expect("every peer has a place in the order");
            if full_at >= cx.now {
                cx.counters.rate_limited_publishes += 1;
                let message = "as many users and addresses are limited as may be (limiters_max)";
                return Err(Refusal {
                    retry_after_ms: Some(full_at.since_ms(cx.now) + 1),
                    ..Refusal::new(ErrorCode::RateLimited, message)
                });
            }
            self.drop_limiter(cx, full_at, owner);
        }
        let limiter = Limiter::full(rule, cx.now);
        Ok(Some(self.limits.insert_peer(scope, &name, limiter)))
    }

    fn settle_charges(
        &mut self,
        cx: &mut Context,
        messages: &[Message<'_>],
        tokens: Tokens,
        charges: &[Charge],
    ) -> Result<Option<Timestamp>, Refusal> {
        let Tokens::Within(patience_ms) = tokens else {
            return Ok(None);
        };
        let now = cx.now;
        let mut longest: Option<(u64, &Charge)> = None;
        for charge in charges {
            let checked = match charge.from {
                Charged::NewTopic(_, rule) => {
                    TokenBucket::full(rule, now).check(now, FULL_RATE, charge.count)
                }
                from => {
                    let factor = self.factor_for(cx, self.bucket(cx, from).rule);
                    self.bucket_mut(cx, from).check(now, factor, charge.count)
                }
            };
            match checked {
                Ok(()) => {}
                Err(Short::Never) => {
                    let limited = self.limited(cx, messages, charge);
                    let what = match charge.from {
                        Charged::Quota(flow) => flow.unit(),
                        _ => Flow::Messages.unit(),
                    };
                    let message = format!(
                        "{} {what} at once are more than the limit of {limited} ever lets pass",
                        charge.count
                    );
                    return Err(Refusal::new(ErrorCode::TooLarge, message));
                }
                Err(Short::Wait(ms)) => {
                    if longest.is_none_or(|(longest, _)| ms > longest) {
                        longest = Some((ms, charge));
                    }
                }
            }
        }
        if let Some((ms, charge)) = longest.filter(|(ms, _)| *ms > patience_ms) {
            cx.counters.rate_limited_publishes += 1;
            let limited = self.limited(cx, messages, charge);
            let message = format!("over the limit of {limited}; try again in {ms} ms");
            return Err(Refusal {
                retry_after_ms: Some(ms),
                ..Refusal::new(ErrorCode::RateLimited, message)
            });
        }
        for charge in charges {
            if !matches!(charge.from, Charged::NewTopic(..)) {
                self.take_tokens(cx, charge.from, charge.count);
            }
        }
        Ok(longest.map(|(ms, _)| {
            cx.counters.rate_limit_waits += 1;
            now.after_ms(ms)
        }))
    }

    fn take_tokens(&mut self, cx: &mut Context, from: Charged, count: u64) {
        let bucket = self.bucket_mut(cx, from);
        bucket.take(count);
        if !bucket.rule.is_slow() {
            return;
        }
        match from {
            Charged::Connection(connection) => {
                if cx.connections[connection as usize].stored {
                    cx.touch_connection(connection);
                }
            }
            Charged::Owner(owner) => {
                if let Some(limiter) = self.limiter_mut(owner)
                    && !core::mem::replace(&mut limiter.dirty, true)
                {
                    self.limits.dirty.push(owner);
                    self.list(cx);
                }
            }
            // Full again soon, or over what a restart may grant: a message of the largest size.
            Charged::Quota(_) | Charged::NewTopic(..) => {}
        }
    }

    fn bucket<'a>(&'a self, cx: &'a Context, from: Charged) -> &'a TokenBucket {
        let bucket = match from {
            Charged::Connection(connection) => {
                cx.connections[connection as usize].bucket.as_deref()
            }
            Charged::Owner(owner) => self.limiter(owner).map(|limiter| &limiter.bucket),
            Charged::Quota(flow) => self.tenant.as_ref().and_then(|tenant| tenant.bucket(flow)),
            Charged::NewTopic(..) => None,
        };
        bucket.expect("what is charged has a bucket")
    }

    fn bucket_mut<'a>(&'a mut self, cx: &'a mut Context, from: Charged) -> &'a mut TokenBucket {
        let bucket = match from {
            Charged::Connection(connection) => {
                cx.connections[connection as usize].bucket.as_deref_mut()
            }
            Charged::Owner(owner) => self.limiter_mut(owner).map(|limiter| &mut limiter.bucket),
            Charged::Quota(flow) => {
                let tenant = self.tenant.as_mut();
                tenant.and_then(|tenant| tenant.bucket_mut(flow))
            }
            Charged::NewTopic(..) => None,
        };
        bucket.expect("what is charged has a bucket")
    }

    fn limiter(&self, owner: Owner) -> Option<&Limiter> {
        match owner {
            Owner::Namespace => self.limits.namespace.as_deref(),
            Owner::Topic(topic) => self.topics.get(topic as usize)?.limiter.as_deref(),
            Owner::Peer(peer) => Some(&self.limits.peers.get(peer as usize)?.limiter),
        }
    }

    fn limiter_mut(&mut self, owner: Owner) -> Option<&mut Limiter> {
        match owner {
            Owner::Namespace => self.limits.namespace.as_deref_mut(),
            Owner::Topic(topic) => self.topics.get_mut(topic as usize)?.limiter.as_deref_mut(),
            Owner::Peer(peer) => Some(&mut self.limits.peers.get_mut(peer as usize)?.limiter),
        }
    }

    /// Who is over which rule, for people.
    fn limited(&self, cx: &Context, messages: &[Message<'_>], charge: &Charge) -> String {
        let (who, rule) = match charge.from {
            Charged::NewTopic(message, rule) => {
                let name = messages[message as usize].topic;
                (format!("topic \"{name}\""), rule)
            }
            from => {
                let who = match from {
                    Charged::Connection(_) => "this connection".to_string(),
                    Charged::Quota(flow) => {
                        format!("the {} of namespace \"{}\"", flow.quota(), self.name)
                    }
                    Charged::Owner(Owner::Topic(topic)) => {
                        format!("topic \"{}\"", self.topics[topic as usize].name)
                    }
                    Charged::Owner(Owner::Peer(peer)) => {
                        let peer = &self.limits.peers[peer as usize];
                        format!("{} \"{}\"", peer.scope.as_str(), peer.name)
                    }
                    _ => format!("namespace \"{}\"", self.name),
                };
                (who, self.bucket(cx, from).rule)
            }
        };
        let slowed = if rule.adaptive && self.limits.adaptive.factor() < FULL_RATE {
            format!(
                ", now {} thousandths of that",
                self.limits.adaptive.factor()
            )
        } else {
            String::new()
        };
        format!(
            "{who} ({} per {} ms, {} at once{slowed})",
            rule.rate, rule.per_ms, rule.burst
        )
    }

    /// The factor by which a rule's rate is multiplied now, in thousandths.
    pub(crate) fn factor_for(&mut self, cx: &Context, rule: Rule) -> u32 {
        if !rule.adaptive {
            return FULL_RATE;
        }
        if self.limits.adaptive.is_due(cx.now) {
            let signal = self.load_signal(cx);
            self.limits.adaptive.step(cx.now, signal);
        }
        self.limits.adaptive.factor()
    }

    /// How well the namespace keeps up, in thousandths of what is bearable: the greater of how far its subscriptions
    /// are behind, on the average of all of them, so that one that does not read slows down nobody, and how long
    /// commits take.
    fn load_signal(&self, cx: &Context) -> u64 {
        let thousandths = |part: u64, of: u64| part.saturating_mul(1000) / of.max(1);
        let lags = self.subscriptions.iter().map(|(_, subscription)| {
            let behind = subscription.behind.as_ref();
            let lag = behind
                .filter(|behind| behind.lag_counts)
                .map_or(0, |behind| behind.lag);
            thousandths(lag, subscription.options.lag_max).min(1000)
        });
        let backlog = lags.sum::<u64>() / (self.subscriptions.len() as u64).max(1);
        let latency = thousandths(cx.commit_latency_ms, cx.config.commit_latency_target_ms);
        backlog.max(latency)
    }

    /// What deliveries to every subscription are limited to now.
    pub(crate) fn pace(&mut self, cx: &Context) -> Option<Pace> {
        let rule = self.limits.rule(&cx.config, Scope::Subscriber, "")?;
        let factor = self.factor_for(cx, rule);
        Some(Pace { rule, factor })
    }

    /// Whether a subscription must wait for a token. Then it goes on when there are enough for what waits for it, or
    /// for as much as comes in a little while.
    pub(crate) fn must_pace(&mut self, cx: &mut Context, index: u32, behind: &Behind) -> bool {
        let Some(pace) = self.pace(cx) else {
            return false;
        };
        let Pace { rule, factor } = pace;
        let now = cx.now;
        let namespace = self.index;
        let subscription = &mut self.subscriptions[index as usize];
        let bucket = subscription.bucket_under(pace, now);
        if bucket.check(now, factor, 1).is_ok() {
            return false;
        }
        let waiting = if behind.lag_counts {
            behind.lag
        } else {
            u64::MAX
        };
        let soon = u64::from(rule.rate) * PACE_MS / u64::from(rule.per_ms);
        let wanted = waiting.min(soon).min(rule.burst.into()).max(1);
        let wait = match bucket.check(now, factor, wanted) {
            Err(Short::Wait(ms)) => ms,
            Ok(()) | Err(Short::Never) => 0,
        };
        if subscription.paced_until.is_none() {
            let at = now.after_ms(wait);
            subscription.paced_until = Some(at);
            let due = Due::Paced(namespace, index, subscription.serial);
            cx.deadlines.insert((at, due));
        }
        true
    }

    /// Lets a subscription go on whose tokens are there.
    pub(crate) fn end_pace(&mut self, cx: &mut Context, index: u32) {
        if self.forget_pace(cx, index) {
            self.queue_subscription(cx, index);
        }
    }

    /// Takes back the deadline of a subscription that waits for tokens; whether it had one.
    pub(crate) fn forget_pace(&mut self, cx: &mut Context, index: u32) -> bool {
        let subscription = &mut self.subscriptions[index as usize];
        let Some(at) = subscription.paced_until.take() else {
            return false;
        };
        let due = Due::Paced(self.index, index, subscription.serial);
        cx.deadlines.remove(&(at, due));
        true
    }

    /// Sets a limit or removes it.
    pub(crate) fn configure_limit(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &ConfigureLimit<'_>,
    ) -> Result<(), Refusal> {
        require_manage(cx, connection, "configure limits")?;
        let invalid = |message| Refusal::new(ErrorCode::InvalidArgument, message);
        let scope = Scope::parse(command.scope).map_err(invalid)?;
        let name = check_limit_name(&cx.config, scope, command.name)?;
        let rule = match command.rate {
            Some(rate) => Some(
                Rule::new(
                    rate,
                    command.per_ms,
                    command.burst,
                    command.adaptive == Some(true),
                )
                .map_err(invalid)?,
            ),
            None if command.per_ms.is_some()
                || command.burst.is_some()
                || command.adaptive.is_some() =>
            {
                let message =
                    "without \"rate\" the limit is removed, so nothing else can be said of it";
                return Err(invalid(message.to_string()));
            }
            None => None,
        };
        cx.require_storage()?;
        let known = self.limits.rules[scope as usize].get(&name).copied();
        if known.is_none() && rule.is_some() {
            let count = self.limits.rules_count() as usize + 1;
            check_count("a namespace", "limits", count, cx.config.limits_max)?;
        }
        let mut after = After::default();
        if rule != known {
            after = cx.after(Durability::Sync);
            self.set_rule(cx, scope, name, rule);
        }
        let request = command.request;
        cx.reply(connection, after, &Reply::Done(Done { request }));
        Ok(())
    }

    fn set_rule(&mut self, cx: &mut Context, scope: Scope, name: Box<str>, rule: Option<Rule>) {
        let key = self.keys.limit(scope as u8, &name);
        cx.ops.push(match rule {
            Some(rule) => Op::Put {
                key,
                value: rule_row(rule),
            },
            None => Op::Delete { key },
        });
        cx.durability = cx.durability.max(Durability::Sync);
        self.touch(cx);
        let rules = &mut self.limits.rules[scope as usize];
        match rule {
            Some(rule) => {
                rules.insert(name, rule);
            }
            None => {
                rules.remove(&name);
            }
        }
        self.drop_stale(cx, scope);
        if scope == Scope::Subscriber {
            let all: Vec<u32> = self
                .subscriptions
                .iter()
                .map(|(index, _)| index as u32)
                .collect();
            for index in all {
                self.end_pace(cx, index);
            }
        }
    }

    /// Lets go of the buckets of a scope that were filled under another rule than the one that holds now.
    fn drop_stale(&mut self, cx: &mut Context, scope: Scope) {
        let stale: Vec<(Timestamp, Owner)> = self
            .limits
            .order
            .iter()
            .copied()
            .filter(|(_, owner)| {
                let (of, name): (Scope, &str) = match owner {
                    Owner::Namespace => (Scope::Namespace, ""),
                    Owner::Topic(topic) => (Scope::Topic, &self.topics[*topic as usize].name),
                    Owner::Peer(peer) => {
                        let peer = &self.limits.peers[*peer as usize];
                        (peer.scope, &peer.name)
                    }
                };
                let rule = self.limiter(*owner).map(|limiter| limiter.bucket.rule);
                of == scope && rule != self.limits.rule(&cx.config, scope, name)
            })
            .collect();
        for (at, owner) in stale {
            self.drop_limiter(cx, at, owner);
        }
        self.drop_stale_unlisted(cx, scope);
    }

    /// The same for the buckets that have no row of their own, which are in no order.
    fn drop_stale_unlisted(&mut self, cx: &mut Context, scope: Scope) {
        let everybody = self.limits.rule(&cx.config, scope, "");
        match scope {
            Scope::Namespace => {
                let namespace = &mut self.limits.namespace;
                namespace.take_if(|limiter| Some(limiter.bucket.rule) != everybody);
            }
            Scope::Topic => {
                for (_, topic) in &mut self.topics {
                    let rule = self.limits.rule(&cx.config, scope, &topic.name);
                    topic
                        .limiter
                        .take_if(|limiter| Some(limiter.bucket.rule) != rule);
                }
            }
            Scope::Connection => {
                let mut stored = Vec::new();
                let own = cx.connections.iter_mut();
                for (index, client) in own.filter(|(_, client)| client.namespace == self.index) {
                    let bucket = &mut client.bucket;
                    let stale = bucket.take_if(|bucket| Some(bucket.rule) != everybody);
                    if client.stored && stale.is_some_and(|bucket| bucket.rule.is_slow()) {
                        stored.push(index as u32);
                    }
                }
                for index in stored {
                    cx.touch_connection(index);
                }
            }
            Scope::Subscriber => {
                for (_, subscription) in &mut self.subscriptions {
                    let bucket = &mut subscription.bucket;
                    bucket.take_if(|bucket| Some(bucket.rule) != everybody);
                }
            }
            Scope::User | Scope::Ip => {}
        }
    }

    /// Lists all limits that hold, those of the broker where the namespace has none of its own for everybody.
    pub(crate) fn list_limits(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &ListLimits,
    ) -> Result<(), Refusal> {
        require_manage(cx, connection, "see limits")?;
        let mut limits = Vec::new();
        for scope in Scope::ALL {
            let inherited = cx.config.limits[scope as usize]
                .filter(|_| !self.limits.rules[scope as usize].contains_key(""));
            let own: Vec<(Box<str>, Rule)> = self.limits.rules[scope as usize]
                .iter()
                .map(|(name, rule)| (name.clone(), *rule))
                .collect();
            let inherited = inherited.map(|rule| ("".into(), rule, true));
            let own = own.into_iter().map(|(name, rule)| (name, rule, false));
            for (name, rule, inherited) in inherited.into_iter().chain(own) {
                List::push(
                    &mut limits,
                    &frame::Limit {
                        scope: scope.as_str(),
                        name: &name,
                        rate: rule.rate.into(),
                        per_ms: rule.per_ms.into(),
                        burst: rule.burst.into(),
                        adaptive: rule.adaptive,
                        factor: self.factor_for(cx, rule).into(),
                        inherited,
                    },
                );
            }
        }
        let reply = frame::Limits {
            request: command.request,
            limits: List::new(&limits),
        };
        cx.reply(connection, After::default(), &Reply::Limits(reply));
        Ok(())
    }

    /// Writes the buckets that a restart must not fill.
    pub(crate) fn flush_limiters(&mut self, cx: &mut Context) {
        if self.limits.dirty.is_empty() {
            return;
        }
        for owner in core::mem::take(&mut self.limits.dirty) {
            let Some(key) = self.limiter_key(owner) else {
                continue;
            };
            let Some(limiter) = self.limiter_mut(owner).filter(|limiter| limiter.dirty) else {
                continue;
            };
            limiter.dirty = false;
            let (value, full_at) = (limiter.bucket.row(), limiter.bucket.full_at(FULL_RATE));
            let is_new = !core::mem::replace(&mut limiter.stored, true);
            cx.ops.push(Op::Put { key, value });
            if is_new && !matches!(owner, Owner::Peer(_)) {
                self.limits.order.insert((full_at, owner));
            }
        }
        self.sweep(cx, SWEEP_MAX);
    }

    /// Lets go of some buckets that are full again. One that is charged right now was looked at now, and is kept.
    fn sweep(&mut self, cx: &mut Context, max: u32) {
        for _ in 0..max {
            match self.fullest(cx) {
                Some((full_at, owner)) if full_at < cx.now => self.drop_limiter(cx, full_at, owner),
                _ => return,
            }
        }
    }

    /// Whose bucket is full first, and when. What was noted is put right on the way: every note that is wrong was
    /// made so by a take, which pays for this.
    fn fullest(&mut self, cx: &Context) -> Option<(Timestamp, Owner)> {
        loop {
            let (noted, owner) = *self.limits.order.first()?;
            let limiter = self
                .limiter(owner)
                .expect("who is in the order has a bucket");
            let (bucket, rule) = (limiter.bucket, limiter.bucket.rule);
            let full_at = bucket.full_at(self.factor_for(cx, rule));
            if full_at == noted {
                return Some((noted, owner));
            }
            self.limits.order.remove(&(noted, owner));
            self.limits.order.insert((full_at, owner));
        }
    }

    /// Forgets a bucket that says nothing any more, and its row.
    fn drop_limiter(&mut self, cx: &mut Context, noted: Timestamp, owner: Owner) {
        self.limits.order.remove(&(noted, owner));
        let key = self.limiter_key(owner);
        let limiter = self.limiter_mut(owner);
        if let (Some(key), true) = (key, limiter.is_some_and(|limiter| limiter.stored)) {
            cx.ops.push(Op::Delete { key });
            self.list(cx);
        }
        match owner {
            Owner::Namespace => self.limits.namespace = None,
            Owner::Topic(topic) => self.topics[topic as usize].limiter = None,
            Owner::Peer(peer) => {
                let Peer { scope, name, .. } = self.limits.peers.remove(peer as usize);
                self.limits.index_of(scope).remove(&*name);
            }
        }
    }

    /// Forgets the bucket of a topic that is about to be deleted.
    pub(crate) fn drop_topic_limiter(&mut self, cx: &mut Context, topic: u32) {
        let owner = Owner::Topic(topic);
        if self.limiter(owner).is_none_or(|limiter| !limiter.stored) {
            return;
        }
        let noted = self.limits.order.iter().find(|(_, other)| *other == owner);
        if let Some((noted, _)) = noted.copied() {
            self.drop_limiter(cx, noted, owner);
        }
    }

    fn limiter_key(&self, owner: Owner) -> Option<Vec<u8>> {
        Some(match owner {
            Owner::Namespace => self.keys.limiter(Scope::Namespace as u8, &[]),
            Owner::Topic(topic) => {
                let id = self.topics.get(topic as usize)?.id;
                self.keys.limiter(Scope::Topic as u8, &id.0.to_be_bytes())
            }
            Owner::Peer(peer) => {
                let peer = self.limits.peers.get(peer as usize)?;
                self.keys.limiter(peer.scope as u8, peer.name.as_bytes())
            }
        })
    }

    /// Takes a bucket that was stored; `topic` finds the topic that a key names. The text says what is wrong with it.
    pub(crate) fn restore_limiter(
        &mut self,
        key: &[u8],
        value: &[u8],
        topic: impl Fn(&mut KeyTail<'_>) -> Result<u32, String>,
    ) -> Result<(), String> {
        let unsound = crate::restore::unsound;
        let bucket = TokenBucket::from_row(value).map_err(|_| unsound("limiter"))?;
        let full_at = bucket.full_at(FULL_RATE);
        let limiter = Limiter::restored(bucket);
        let (&scope, rest) = key.split_first().ok_or_else(|| unsound("key"))?;
        match Scope::from_number(scope) {
            Some(Scope::Namespace) if rest.is_empty() => {
                self.limits.namespace = Some(limiter.into());
                self.limits.order.insert((full_at, Owner::Namespace));
            }
            Some(Scope::Topic) => {
                let mut tail = KeyTail(rest);
                let topic = topic(&mut tail)?;
                if !tail.0.is_empty() {
                    return Err(unsound("key"));
                }
                self.topics[topic as usize].limiter = Some(limiter.into());
                self.limits.order.insert((full_at, Owner::Topic(topic)));
            }
            Some(scope @ (Scope::User | Scope::Ip)) => {
                let name = core::str::from_utf8(rest).map_err(|_| unsound("key"))?;
                self.limits.insert_peer(scope, name, limiter);
            }
            _ => return Err(unsound("key")),
        }
        Ok(())
    }

    /// Lets no bucket wait for a time that the clock of this host is far from.
    pub(crate) fn begin_limiters(&mut self, now: Timestamp) {
        let order = core::mem::take(&mut self.limits.order);
        for (_, owner) in order {
            let limiter = self
                .limiter_mut(owner)
                .expect("who is in the order has a bucket");
            limiter.bucket.begin(now);
            let full_at = limiter.bucket.full_at(FULL_RATE);
            self.limits.order.insert((full_at, owner));
        }
    }

    /// Asserts what must hold between batches.
    #[cfg(any(test, feature = "check"))]
    pub(crate) fn check_limits(&self) {
        let limits = &self.limits;
        assert_eq!(
            limits.users.len() + limits.networks.len(),
            limits.peers.len(),
            "users and networks are found by name"
        );
        let topics = self
            .topics
            .iter()
            .filter(|(_, topic)| topic.limiter.as_ref().is_some_and(|limiter| limiter.stored));
        let namespace = limits
            .namespace
            .as_ref()
            .is_some_and(|limiter| limiter.stored);
        assert_eq!(
            limits.order.len(),
            limits.peers.len() + topics.count() + usize::from(namespace),
            "every peer and every stored bucket has its place in the order"
        );
        for (_, owner) in &limits.order {
            assert!(
                self.limiter(*owner).is_some(),
                "who is in the order has a bucket"
            );
        }
    }
}

/// What a client's address counts as, in text: an IPv4 address, the network of 64 bits of an IPv6 address, which is
/// what one subscriber has at least (RFC 6177), or empty.
pub(crate) fn network_of(ip: &[u8]) -> Box<str> {
    let address = match ip.len() {
        4 => <[u8; 4]>::try_from(ip).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(ip).ok().map(IpAddr::from),
        _ => None,
    };
    address.map_or_else(Box::default, network_text)
}

fn network_text(address: IpAddr) -> Box<str> {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string().into(),
        IpAddr::V6(address) => {
            let network = Ipv6Addr::from_bits(address.to_bits() >> 64 << 64);
            format!("{network}/64").into()
        }
    }
}

/// The name of a rule as it is kept, `None` if the scope has no such names.
fn checked_name(scope: Scope, name: &str) -> Option<Box<str>> {
    if name.is_empty() {
        return Some(name.into());
    }
    match scope {
        Scope::Namespace | Scope::Connection | Scope::Subscriber => None,
        Scope::Topic => topic::check_name(name).is_ok().then(|| name.into()),
        Scope::User => Some(name.into()),
        Scope::Ip => {
            let address = name.strip_suffix("/64").unwrap_or(name);
            address.parse().ok().map(network_text)
        }
    }
}

fn check_limit_name(config: &Config, scope: Scope, name: &str) -> Result<Box<str>, Refusal> {
    let max = config.attribute_bytes_max;
    if name.len() as u64 > max {
        let message = format!(
            "the name is {} bytes long, {max} are allowed (attribute_bytes_max)",
            name.len()
        );
        return Err(Refusal::new(ErrorCode::TooLarge, message));
    }
    if scope == Scope::Topic && !name.is_empty() {
        topic::check_name(name)?;
    }
    checked_name(scope, name).ok_or_else(|| {
        let message = match scope {
            Scope::Ip => {
                format!("\"{name}\" is no IP address, which limits of the scope ip are for")
            }
            _ => format!(
                "limits of the scope {} have no names, so \"name\" must be empty",
                scope.as_str()
            ),
        };
        Refusal::new(ErrorCode::InvalidArgument, message)
    })
}

fn scope_and_name(key: &[u8]) -> Option<(Scope, &str)> {
    let (&scope, name) = key.split_first()?;
    Some((Scope::from_number(scope)?, core::str::from_utf8(name).ok()?))
}

fn rule_row(rule: Rule) -> Vec<u8> {
    let mut value = Vec::new();
    value.put_u64(ROW_VERSION);
    rule.put(&mut value);
    value
}

fn read_rule(value: &[u8]) -> Result<Rule, Malformed> {
    let mut reader = Reader::new(value);
    if reader.u64()? != ROW_VERSION {
        return Err(Malformed);
    }
    let rule = Rule::take(&mut reader)?;
    reader.end()?;
    Ok(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_count_by_what_one_subscriber_has() {
        for (ip, network) in [
            (&[][..], ""),
            (&[192, 0, 2, 1], "192.0.2.1"),
            (&[1, 2, 3], ""),
            (
                &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1],
                "192.0.2.1",
            ),
            (
                &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8],
                "2001:db8:0:7::/64",
            ),
        ] {
            assert_eq!(&*network_of(ip), network);
        }
        for (name, kept) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("2001:db8:0:7:1::2", Some("2001:db8:0:7::/64")),
            ("2001:db8:0:7::/64", Some("2001:db8:0:7::/64")),
            ("2001:db8::/32", None),
            ("localhost", None),
        ] {
            assert_eq!(checked_name(Scope::Ip, name).as_deref(), kept, "{name}");
        }
    }
}
