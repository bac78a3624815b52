//! The front door: how many connections a user has in a namespace, and how often it comes.
//!
//! Who is known here has a connection, or a bucket that is not full; all others say nothing and are let go of. Buckets
//! are in memory only, and full after a restart.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use core::ops::Bound;

use crate::broker::Broker;
use crate::config::Config;
use crate::context::Context;
use crate::error::{ErrorCode, Refusal};
use crate::ids::Timestamp;
use crate::input::{Claims, Rights};
use crate::limit::{FULL_RATE, Rule, Short, TokenBucket};
use crate::namespace::Namespace;

/// How long the rates are counted over, in milliseconds.
const PER_MS: u64 = 60_000;

/// How many users are looked at, whether they still say anything, when another one comes.
const SWEEP_MAX: usize = 16;

/// The users of a namespace that came lately.
#[derive(Debug, Default)]
pub(crate) struct Door {
    users: BTreeMap<Box<str>, Visitor>,
    /// Up to whom they were looked at.
    swept: Box<str>,
}

#[derive(Debug, Default)]
struct Visitor {
    connections: u64,
    buckets: [Option<TokenBucket>; 2],
}

/// What somebody comes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visit {
    /// To stay.
    Connection,
    /// With one request.
    Request,
}

impl Visit {
    fn rule(self, config: &Config) -> Option<Rule> {
        let rate = match self {
            Self::Connection => config.connects_per_minute_max,
            Self::Request => config.requests_per_minute_max,
        };
        Rule::new(rate, Some(PER_MS), None, false).ok()
    }

    const fn bound(self) -> &'static str {
        match self {
            Self::Connection => "connects_per_minute_max",
            Self::Request => "requests_per_minute_max",
        }
    }
}

impl Visitor {
    fn is_forgettable(&self, now: Timestamp) -> bool {
        let mut buckets = self.buckets.iter().flatten();
        self.connections == 0 && buckets.all(|bucket| bucket.full_at(FULL_RATE) <= now)
    }
}

impl Door {
    /// How many users it knows.
    pub(crate) fn users(&self) -> usize {
        self.users.len()
    }

    fn connections(&self, user: &str) -> u64 {
        self.users.get(user).map_or(0, |user| user.connections)
    }

    /// Notes that a user has one connection more.
    pub(crate) fn enter(&mut self, user: &str) {
        if !user.is_empty() {
            self.users.entry(user.into()).or_default().connections += 1;
        }
    }

    /// Notes that a user has one connection less.
    pub(crate) fn leave(&mut self, user: &str, now: Timestamp) {
        let Some(visitor) = self.users.get_mut(user) else {
            return;
        };
        visitor.connections -= 1;
        if visitor.is_forgettable(now) {
            self.users.remove(user);
        }
    }

    /// Counts a visit of a user that has a connection, or refuses it.
    fn visit(
        &mut self,
        config: &Config,
        user: &str,
        visit: Visit,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let (Some(rule), Some(visitor)) = (visit.rule(config), self.users.get_mut(user)) else {
            return Ok(());
        };
        let bucket = &mut visitor.buckets[visit as usize];
        let bucket = bucket.get_or_insert_with(|| TokenBucket::full(rule, now));
        let Err(short) = bucket.try_take(now, FULL_RATE, 1) else {
            return Ok(());
        };
        let bound = visit.bound();
        let message = format!(
            "user \"{user}\" came more than {} times in a minute ({bound})",
            rule.rate
        );
        Err(Refusal {
            retry_after_ms: match short {
                Short::Wait(ms) => Some(ms),
                Short::Never => None,
            },
            ..Refusal::new(ErrorCode::RateLimited, message)
        })
    }

    /// Lets go of some users that say nothing any more.
    fn sweep(&mut self, now: Timestamp) {
        let from = (Bound::Excluded(&*self.swept), Bound::Unbounded);
        let seen = self.users.range::<str, _>(from).take(SWEEP_MAX);
        let (mut last, mut gone) = (None, alloc::vec::Vec::new());
        for (user, visitor) in seen {
            last = Some(user.clone());
            if visitor.is_forgettable(now) {
                gone.push(user.clone());
            }
        }
        self.swept = last.unwrap_or_default();
        for user in gone {
            self.users.remove(&user);
        }
    }
}

impl Broker {
    /// Refuses who came too often, now that it is known what for. An operator always comes in.
    pub(crate) fn knock(&mut self, index: u32) -> Result<(), Refusal> {
        let client = &self.cx.connections[index as usize];
        if client.claims.rights.contains(Rights::OPERATE) {
            return Ok(());
        }
        let visit = match client.ephemeral {
            true => Visit::Request,
            false => Visit::Connection,
        };
        let door = &mut self.namespaces[client.namespace as usize].door;
        door.visit(&self.cx.config, &client.claims.user, visit, self.cx.now)
    }
}

impl Namespace {
    /// Refuses a connection for which there is no room. An operator always comes in.
    pub(crate) fn check_door(&mut self, cx: &Context, claims: &Claims) -> Result<(), Refusal> {
        if claims.rights.contains(Rights::OPERATE) {
            return Ok(());
        }
        let quota = self.tenant.as_ref();
        let max = quota.map_or(0, |tenant| tenant.quotas.connections_max);
        if max > 0 && self.connections >= max {
            let message = format!(
                "namespace \"{}\" has as many connections as it may, {max} (connections_max)",
                self.name
            );
            return Err(Refusal::later(ErrorCode::LimitReached, message));
        }
        let user = &*claims.user;
        if user.is_empty() {
            return Ok(());
        }
        let max = cx.config.connections_per_user_max;
        if max > 0 && self.door.connections(user) >= max {
            let message = format!(
                "user \"{user}\" has as many connections as it may, {max} (connections_per_user_max)"
            );
            return Err(Refusal::later(ErrorCode::LimitReached, message));
        }
        self.door.sweep(cx.now);
        // Those with connections are bounded by these, the others here.
        let users_max = cx.config.limiters_max + self.connections;
        if self.door.connections(user) == 0 && self.door.users() as u64 >= users_max {
            let message = "as many users came lately as may be remembered (limiters_max)";
            return Err(Refusal::later(ErrorCode::RateLimited, message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            connects_per_minute_max: 10,
            requests_per_minute_max: 100,
            ..Config::default()
        }
    }

    #[test]
    fn a_user_is_known_as_long_as_it_says_anything() {
        let (mut door, config) = (Door::default(), config());
        let mut now = Timestamp(1_000_000);
        for index in 0..1000 {
            let user = format!("u{index}");
            door.enter(&user);
            door.visit(&config, &user, Visit::Connection, now).unwrap();
            door.leave(&user, now);
        }
        assert_eq!(door.users(), 1000, "their buckets are not full");
        now = now.after_ms(PER_MS);
        for _ in 0..=1000 / SWEEP_MAX {
            door.sweep(now);
        }
        assert_eq!(door.users(), 0);
    }

    #[test]
    fn a_visit_beyond_the_rate_is_told_when_to_come_again() {
        let (mut door, config) = (Door::default(), config());
        let now = Timestamp(1_000_000);
        door.enter("ann");
        for _ in 0..10 {
            door.visit(&config, "ann", Visit::Connection, now).unwrap();
        }
        let refusal = door.visit(&config, "ann", Visit::Connection, now);
        let refusal = refusal.unwrap_err();
        assert_eq!(refusal.code, ErrorCode::RateLimited);
        assert_eq!(refusal.retry_after_ms, Some(6000));
        door.visit(&config, "ann", Visit::Request, now).unwrap();
        let later = now.after_ms(6000);
        door.visit(&config, "ann", Visit::Connection, later)
            .unwrap();
    }
}
