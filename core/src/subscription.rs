//! A subscription: a place in the namespace's sequence, and how much the client is ready to take.
//!
//! At the tail it has no place of its own: it gets what matches when it is published. Once it cannot, it is behind:
//! from then on it is a position, and reads the log. There is never a queue of copies.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::catch_up::Round;
use crate::config::Config;
use crate::echo::Source;
use crate::effect::After;
use crate::error::{ErrorCode, Refusal};
use crate::ids::{
    ConnectionId, Incarnation, Offset, Partition, Sequence, SubscriptionId, Timestamp, TopicId,
};
use crate::input::Encoding;
use crate::limit::TokenBucket;
use crate::limits::Pace;
use crate::protocol::frame::Credit;

/// Credit that never ends.
pub(crate) const UNLIMITED: u64 = u64::MAX;

pub(crate) struct Subscription {
    /// The connection, as the broker numbers it and as the host does.
    pub(crate) connection: u32,
    pub(crate) connection_id: ConnectionId,
    pub(crate) id: SubscriptionId,
    pub(crate) encoding: Encoding,
    /// How many deliveries the client is ready for.
    pub(crate) credit: u64,
    /// What its deliveries have waited for so far; no later one waits for less.
    pub(crate) after: After,
    /// Whose messages it passes over, if anybody's.
    pub(crate) source: Option<Source>,
    /// Only this partition, if any.
    pub(crate) partition: Option<Partition>,
    /// How many deliveries it may have, where subscriptions are limited.
    pub(crate) bucket: Option<Box<TokenBucket>>,
    /// Until when it waits for tokens, if it does.
    pub(crate) paced_until: Option<Timestamp>,
    /// `None` at the tail.
    pub(crate) behind: Option<Box<Behind>>,
    pub(crate) options: Options,
    pub(crate) filter: Box<str>,
    /// Where it hangs in the trie.
    pub(crate) node: u32,
    /// Tells subscriptions apart that had the same index one after the other.
    pub(crate) serial: u64,
    /// Whether it stands in the queue of those that want to catch up.
    pub(crate) queued: bool,
    /// Whether it stands among those that wait for a place or a load.
    pub(crate) starved: bool,
}

impl Subscription {
    /// Takes the token of a delivery, where deliveries are limited. False if there is none.
    pub(crate) fn take_token(&mut self, pace: Option<Pace>, now: Timestamp) -> bool {
        let Some(pace) = pace else {
            return true;
        };
        let bucket = self.bucket_under(pace, now);
        bucket.try_take(now, pace.factor, 1).is_ok()
    }

    /// Its bucket, under this rule.
    pub(crate) fn bucket_under(&mut self, pace: Pace, now: Timestamp) -> &mut TokenBucket {
        let Pace { rule, factor } = pace;
        let full = || Box::new(TokenBucket::full(rule, now));
        let bucket = self.bucket.get_or_insert_with(full);
        bucket.put_under(rule, factor, now);
        bucket
    }
}

/// The credit that a client begins with; without any, deliveries are not limited.
pub(crate) fn first_credit(config: &Config, asked: Option<u64>) -> Result<u64, Refusal> {
    match asked {
        Some(credit) if credit > config.credit_max => {
            Err(too_much_credit("a subscription", config))
        }
        Some(credit) => Ok(credit),
        None => Ok(UNLIMITED),
    }
}

/// The credit that a subscription has with what a command adds.
pub(crate) fn more_credit(config: &Config, credit: u64, command: Credit) -> Result<u64, Refusal> {
    let whose = format!("subscription {}", command.subscription);
    if credit == UNLIMITED {
        let message = format!("{whose} was begun without credit, so it cannot get more");
        return Err(Refusal::new(ErrorCode::InvalidArgument, message));
    }
    let total = credit.checked_add(command.messages);
    let total = total.filter(|total| *total <= config.credit_max);
    total.ok_or_else(|| too_much_credit(&whose, config))
}

fn too_much_credit(whose: &str, config: &Config) -> Refusal {
    let max = config.credit_max;
    let message = format!("{whose} can hold a credit of at most {max} (credit_max)");
    Refusal::new(ErrorCode::InvalidArgument, message)
}

/// What the client asked for and what outlives hibernation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) credit: u64,
    pub(crate) on_lag: OnLag,
    pub(crate) lag_max: u64,
}

/// What happens to a subscription that is further behind than it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OnLag {
    #[default]
    DropOldest,
    DropNewest,
    Block,
    Close,
}

impl OnLag {
    const WORDS: [(&'static str, Self); 4] = [
        ("drop_oldest", Self::DropOldest),
        ("drop_newest", Self::DropNewest),
        ("block", Self::Block),
        ("close", Self::Close),
    ];

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::WORDS
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, policy)| *policy)
    }
}

/// A subscription with the policy `block` holds publishers back from so many tenths of its `lag_max` on…
const HIGH_TENTHS: u64 = 8;
/// …until it is down to so many. Between them nothing changes, so that publishers do not stop and go with every message.
const LOW_TENTHS: u64 = 5;

/// Where a subscription that is behind stands.
#[derive(Default)]
pub(crate) struct Behind {
    /// Everything that matches up to here was delivered, passed over or reported.
    pub(crate) position: Sequence,
    /// What retention took before this sequence was published is not missed.
    pub(crate) known_from: Sequence,
    /// What live topics had before is not for it.
    pub(crate) live_from: Sequence,
    /// Only messages that are not older; the client asked for a time.
    pub(crate) since: Timestamp,
    /// Whether it is a session's that was away: of what waits it gets only the newest.
    pub(crate) mailbox: bool,
    /// The client asked for places in particular partitions; they hold for what was published before.
    pub(crate) replay: Option<Replay>,
    /// Whether it was at the tail once, from when on its lag counts.
    pub(crate) lag_counts: bool,
    /// How many matching messages wait for it, not counting those to be dropped.
    pub(crate) lag: u64,
    /// How many of the oldest waiting messages are to be dropped.
    pub(crate) drop_oldest: u64,
    /// From which sequence on, and how many, messages are dropped until it has caught up.
    pub(crate) drop_newest: Option<(Sequence, u64)>,
    /// Whether it holds publishers back: from its high mark on, until it is down to its low mark again.
    pub(crate) holds_back: bool,
    /// Dropped already but not reported yet: from after, to, how many.
    pub(crate) dropped: Option<(Sequence, Sequence, u64)>,
    pub(crate) round: Option<Box<Round>>,
}

/// Places from which a subscription was asked to begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replay {
    /// The last sequence when the client asked.
    pub(crate) upto: Sequence,
    /// Topic, partition, first offset; in their order.
    pub(crate) starts: Vec<(TopicId, Partition, Offset)>,
}

impl Behind {
    pub(crate) fn at(position: Sequence) -> Self {
        Self {
            position,
            known_from: position,
            live_from: position,
            ..Self::default()
        }
    }

    /// Notes whether it holds publishers back now; whether that has changed.
    pub(crate) fn mark(&mut self, options: &Options) -> bool {
        let marks = self.lag_counts && options.on_lag == OnLag::Block;
        let is_high = self.lag * 10 >= options.lag_max * HIGH_TENTHS;
        let is_low = self.lag * 10 <= options.lag_max * LOW_TENTHS;
        let holds_back = marks && (is_high || (self.holds_back && !is_low));
        core::mem::replace(&mut self.holds_back, holds_back) != holds_back
    }

    /// Whether one more message makes it further behind than it may.
    pub(crate) const fn is_full(&self, lag_max: u64) -> bool {
        self.lag_counts && self.lag >= lag_max
    }
}

/// Where to begin: the one grammar of frames, URLs and command lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Latest,
    Earliest,
    Offset(Offset),
    Timestamp(Timestamp),
    Last(u64),
    Resume(Incarnation, Sequence),
    /// Where the connection's session is, and where its client knows to be, if it does.
    Session(Option<(Incarnation, Sequence)>),
}

impl From {
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let parsed = match text.split_once(':') {
            None if text == "latest" => Some(Self::Latest),
            None if text == "earliest" => Some(Self::Earliest),
            None if text == "session" => Some(Self::Session(None)),
            Some(("offset", rest)) => number(rest).map(|value| Self::Offset(Offset(value))),
            Some(("timestamp", rest)) => {
                number(rest).map(|value| Self::Timestamp(Timestamp(value)))
            }
            Some(("last", rest)) => number(rest).map(Self::Last),
            Some(("resume", rest)) => place(rest).map(|(life, at)| Self::Resume(life, at)),
            Some(("session", rest)) => place(rest).map(|seen| Self::Session(Some(seen))),
            _ => None,
        };
        parsed.ok_or_else(|| {
            let mut message =
                String::from("\"from\" must be latest, earliest, offset:N, timestamp:MS, last:N, ");
            message.push_str(
                "resume:TOKEN:SEQUENCE, session or session:TOKEN:SEQUENCE, with integers from 0",
            );
            Refusal::new(ErrorCode::InvalidArgument, message)
        })
    }
}

/// `TOKEN:SEQUENCE`.
fn place(text: &str) -> Option<(Incarnation, Sequence)> {
    let (token, sequence) = text.split_once(':')?;
    let incarnation = u64::from_str_radix(token, 16).ok()?;
    Some((Incarnation(incarnation), Sequence(number(sequence)?)))
}

fn number(digits: &str) -> Option<u64> {
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_to_begin_are_read() {
        assert_eq!(From::parse("latest"), Ok(From::Latest));
        assert_eq!(
            From::parse("offset:18446744073709551615"),
            Ok(From::Offset(Offset(u64::MAX)))
        );
        assert_eq!(From::parse("last:0"), Ok(From::Last(0)));
        assert_eq!(
            From::parse("resume:1f:7"),
            Ok(From::Resume(Incarnation(31), Sequence(7)))
        );
        assert_eq!(From::parse("session"), Ok(From::Session(None)));
        assert_eq!(
            From::parse("session:1f:7"),
            Ok(From::Session(Some((Incarnation(31), Sequence(7)))))
        );
        for text in [
            "",
            "session:",
            "session:7",
            "newest",
            "offset",
            "offset:",
            "offset:-1",
            "offset:+1",
            "last:18446744073709551616",
            "resume:7",
            "resume:x:1",
            "latest:1",
        ] {
            assert!(From::parse(text).is_err(), "{text}");
        }
    }
}
