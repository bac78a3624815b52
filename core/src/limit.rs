//! A rate limit: the rule that says what is allowed, and the bucket of tokens that keeps to it.
//!
//! A bucket counts what it lacks, in parts so small that no refill is ever rounded: a token has `per_ms * 1000` of
//! them, and every millisecond brings `rate * factor`, the factor in thousandths. So what was taken by any time is
//! exactly what the rule allows by then, however often anybody looked. It may be asked to lack more than it holds,
//! by who waits for the rest; then nobody else gets a token before that one's time has come.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::ids::Timestamp;
use crate::rows::ROW_VERSION;
use crate::wire::{Malformed, Put as _, Reader};

/// The most tokens that one period can bring.
const RATE_MAX: u64 = 1_000_000_000;
/// The longest period: a day.
const PER_MS_MAX: u64 = 86_400_000;
/// The most tokens that a bucket can hold.
pub(crate) const BURST_MAX: u64 = 100_000_000;
/// The longest that anybody may wait for tokens, in milliseconds.
pub(crate) const WAIT_MS_MAX: u64 = 60_000;
/// What a factor is counted in: a rule at its full rate.
pub(crate) const FULL_RATE: u32 = 1000;

/// What is missing in a bucket, twice over, fits its counter: as much as it holds, what others wait for, and what is
/// asked for now.
const _: () = {
    let capacity = (BURST_MAX * PER_MS_MAX) as u128 * FULL_RATE as u128;
    let waited_for = WAIT_MS_MAX as u128 * RATE_MAX as u128 * FULL_RATE as u128;
    assert!(2 * capacity + waited_for <= u64::MAX as u128);
};

/// A bucket that takes longer to be full again is remembered over a restart.
const SLOW_MS: u64 = 10_000;

/// What a rule limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Scope {
    /// Messages published in the namespace.
    Namespace,
    /// Messages published to a topic.
    Topic,
    /// Messages published over a connection.
    Connection,
    /// Deliveries to a subscription.
    Subscriber,
    /// Messages published by a user, over whatever connections.
    User,
    /// Messages published from an address.
    Ip,
}

impl Scope {
    pub(crate) const ALL: [Self; 6] = [
        Self::Namespace,
        Self::Topic,
        Self::Connection,
        Self::Subscriber,
        Self::User,
        Self::Ip,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::Topic => "topic",
            Self::Connection => "connection",
            Self::Subscriber => "subscriber",
            Self::User => "user",
            Self::Ip => "ip",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        known.ok_or_else(|| {
            format!(
                "\"scope\" must be namespace, topic, connection, subscriber, user or ip, not \"{text}\""
            )
        })
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// So many tokens in so long, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) rate: u32,
    pub(crate) per_ms: u32,
    pub(crate) burst: u32,
    /// Whether the rate follows how well the namespace keeps up.
    pub(crate) adaptive: bool,
}

impl Rule {
    /// A rule whose numbers are checked: `per_ms` is a second and `burst` the rate where they are left out. The text
    /// says what is wrong.
    pub(crate) fn new(
        rate: u64,
        per_ms: Option<u64>,
        burst: Option<u64>,
        adaptive: bool,
    ) -> Result<Self, String> {
        let checked = |name: &str, value: u64, max: u64| {
            if (1..=max).contains(&value) {
                return Ok(value as u32);
            }
            Err(format!("\"{name}\" must be from 1 to {max}, not {value}"))
        };
        Ok(Self {
            rate: checked("rate", rate, RATE_MAX)?,
            per_ms: checked("per_ms", per_ms.unwrap_or(1000), PER_MS_MAX)?,
            burst: checked("burst", burst.unwrap_or(rate.min(BURST_MAX)), BURST_MAX)?,
            adaptive,
        })
    }

    /// Whether an empty bucket takes long to be full again.
    pub(crate) fn is_slow(self) -> bool {
        u64::from(self.burst) * u64::from(self.per_ms) > u64::from(self.rate) * SLOW_MS
    }

    const fn token(self) -> u64 {
        self.per_ms as u64 * FULL_RATE as u64
    }

    const fn capacity(self) -> u64 {
        self.burst as u64 * self.token()
    }

    pub(crate) fn put(self, out: &mut Vec<u8>) {
        out.put_u64(self.rate.into());
        out.put_u64(self.per_ms.into());
        out.put_u64(self.burst.into());
        out.push(self.adaptive.into());
    }

    pub(crate) fn take(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (rate, per_ms, burst) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let adaptive = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(Malformed),
        };
        Self::new(rate, Some(per_ms), Some(burst), adaptive).map_err(|_| Malformed)
    }
}

/// Why tokens were not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Short {
    /// They are there after so many milliseconds, if nobody else takes them; at least 1.
    Wait(u64),
    /// The bucket never holds so many.
    Never,
}

/// The tokens of one that is limited. Under another rule than the one it was filled under it begins full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenBucket {
    pub(crate) rule: Rule,
    /// How many parts it lacks, by the time `at`.
    missing: u64,
    at: Timestamp,
}

impl TokenBucket {
    pub(crate) const fn full(rule: Rule, now: Timestamp) -> Self {
        Self {
            rule,
            missing: 0,
            at: now,
        }
    }

    /// Takes `count` tokens, or says when they will be there.
    pub(crate) fn try_take(
        &mut self,
        now: Timestamp,
        factor: u32,
        count: u64,
    ) -> Result<(), Short> {
        self.check(now, factor, count)?;
        self.take(count);
        Ok(())
    }

    /// Whether `count` tokens are there.
    pub(crate) fn check(&mut self, now: Timestamp, factor: u32, count: u64) -> Result<(), Short> {
        if count > u64::from(self.rule.burst) {
            return Err(Short::Never);
        }
        self.refill(now, factor);
        let wanted = self.missing + count * self.rule.token();
        let Some(lacking) = wanted.checked_sub(self.rule.capacity() + 1) else {
            return Ok(());
        };
        // The clock may have gone back over a restart; then the time until it is where it was counts as well.
        let behind = self.at.since_ms(now);
        Err(Short::Wait(lacking / self.speed(factor) + 1 + behind))
    }

    /// Takes tokens that [`TokenBucket::check`] found, or that its caller waits for.
    pub(crate) const fn take(&mut self, count: u64) {
        self.missing += count * self.rule.token();
    }

    /// When it is full, if nobody takes anything; not after now if it is.
    pub(crate) fn full_at(&self, factor: u32) -> Timestamp {
        self.at.after_ms(self.missing.div_ceil(self.speed(factor)))
    }

    /// Brings it up to date under this rule, which makes it full if it is another one than before.
    pub(crate) fn put_under(&mut self, rule: Rule, factor: u32, now: Timestamp) {
        if self.rule == rule {
            self.refill(now, factor);
        } else {
            *self = Self::full(rule, now);
        }
    }

    /// Lets no time count that has not come yet: the clock of a host may go back over a restart.
    pub(crate) fn begin(&mut self, now: Timestamp) {
        self.at = self.at.min(now);
    }

    fn refill(&mut self, now: Timestamp, factor: u32) {
        let brought = now.since_ms(self.at).saturating_mul(self.speed(factor));
        self.missing = self.missing.saturating_sub(brought);
        self.at = self.at.max(now);
    }

    /// How many parts a millisecond brings.
    const fn speed(&self, factor: u32) -> u64 {
        self.rule.rate as u64 * factor as u64
    }

    pub(crate) fn row(&self) -> Vec<u8> {
        let mut value = Vec::new();
        value.put_u64(ROW_VERSION);
        self.put(&mut value);
        value
    }

    pub(crate) fn from_row(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        if reader.u64()? != ROW_VERSION {
            return Err(Malformed);
        }
        let bucket = Self::read(&mut reader)?;
        reader.end()?;
        Ok(bucket)
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        self.rule.put(out);
        out.put_u64(self.missing);
        out.put_u64(self.at.0);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let rule = Rule::take(reader)?;
        let missing = reader.u64()?;
        let at = Timestamp(reader.counted()?);
        let most = rule.capacity() + WAIT_MS_MAX * u64::from(rule.rate) * u64::from(FULL_RATE);
        if missing > most {
            return Err(Malformed);
        }
        Ok(Self { rule, missing, at })
    }
}

/// How long a step of an adaptive factor takes, in milliseconds.
const STEP_MS: u64 = 10_000;
/// The signal, in thousandths, above which the factor falls: 0.8 of what is bearable.
const SIGNAL_TARGET: u64 = 800;
/// What a step above the target leaves of the factor, in thousandths.
const DECREASE: u32 = 700;
/// What a step at or below the target adds to it, in thousandths.
const INCREASE: u32 = 50;
/// The lowest factor, in thousandths.
const FACTOR_MIN: u32 = 100;

/// The share of their rates that adaptive rules give at the moment: additive increase, multiplicative decrease
/// (Chiu and Jain, 1989). It has no timer; it is brought up to date by who asks for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Adaptive {
    factor: u32,
    /// When the last step ended; 0 before anybody asked.
    stepped_at: Timestamp,
}

impl Default for Adaptive {
    fn default() -> Self {
        Self {
            factor: FULL_RATE,
            stepped_at: Timestamp(0),
        }
    }
}

impl Adaptive {
    /// In thousandths, from 100 to 1000.
    pub(crate) const fn factor(&self) -> u32 {
        self.factor
    }

    /// Whether a step has ended, so that [`Adaptive::step`] is due.
    pub(crate) const fn is_due(&self, now: Timestamp) -> bool {
        self.stepped_at.0 == 0 || now.since_ms(self.stepped_at) >= STEP_MS
    }

    /// Ends the steps since the last one, by the signal of now. Nobody knows what it was in between: it is taken for
    /// good in all of them, or for bad in one.
    pub(crate) fn step(&mut self, now: Timestamp, signal: u64) {
        if self.stepped_at.0 == 0 {
            self.stepped_at = now;
            return;
        }
        let steps = now.since_ms(self.stepped_at) / STEP_MS;
        self.stepped_at = self.stepped_at.after_ms(steps * STEP_MS);
        if steps == 0 {
            return;
        }
        self.factor = if signal > SIGNAL_TARGET {
            (self.factor * DECREASE / FULL_RATE).max(FACTOR_MIN)
        } else {
            let steps = steps.min(u64::from(FULL_RATE)) as u32;
            (self.factor + steps * INCREASE).min(FULL_RATE)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(rate: u64, per_ms: u64, burst: u64) -> Rule {
        Rule::new(rate, Some(per_ms), Some(burst), false).unwrap()
    }

    /// What a bucket is, without any cleverness: tokens as a fraction over `per_ms * 1000`, filled up millisecond by
    /// millisecond.
    struct Naive {
        rule: Rule,
        level: u128,
        at: u64,
    }

    impl Naive {
        fn capacity(&self) -> u128 {
            u128::from(self.rule.burst) * u128::from(self.rule.per_ms) * 1000
        }

        fn tick(&mut self, factor: u32) {
            let more = u128::from(self.rule.rate) * u128::from(factor);
            self.level = (self.level + more).min(self.capacity());
            self.at += 1;
        }

        fn advance(&mut self, now: u64, factor: u32) {
            while self.at < now {
                self.tick(factor);
            }
        }

        fn try_take(&mut self, now: u64, factor: u32, count: u64) -> Result<(), Short> {
            if count > u64::from(self.rule.burst) {
                return Err(Short::Never);
            }
            self.advance(now, factor);
            let cost = u128::from(count) * u128::from(self.rule.per_ms) * 1000;
            if self.level >= cost {
                self.level -= cost;
                return Ok(());
            }
            let (level, at) = (self.level, self.at);
            while self.level < cost {
                self.tick(factor);
            }
            let wait = self.at - now;
            (self.level, self.at) = (level, at);
            Err(Short::Wait(wait))
        }
    }

    /// Numbers as good as random (xorshift64*, Marsaglia 2003).
    struct Rng(u64);

    impl Rng {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
        }
    }

    #[test]
    fn a_bucket_gives_what_a_naive_count_gives_at_any_times() {
        for seed in 1..200 {
            let mut rng = Rng(seed);
            let rule = rule(1 + rng.below(50), 1 + rng.below(2000), 1 + rng.below(20));
            let begin = rng.below(1000);
            let mut bucket = TokenBucket::full(rule, Timestamp(begin));
            let mut naive = Naive {
                rule,
                level: 0,
                at: begin,
            };
            naive.level = naive.capacity();
            let mut now = begin;
            for _ in 0..100 {
                now = match rng.below(8) {
                    0 => now,
                    // A clock that goes back brings nothing, and loses nothing.
                    1 => now.saturating_sub(rng.below(50)),
                    _ => now + rng.below(400),
                };
                let factor = 100 + rng.below(901) as u32;
                let count = 1 + rng.below(u64::from(rule.burst) + 1);
                assert_eq!(
                    bucket.try_take(Timestamp(now), factor, count),
                    naive.try_take(now, factor, count),
                    "seed {seed}, {rule:?}, {count} at {now}, factor {factor}"
                );
                now = now.max(naive.at);
            }
        }
    }

    #[test]
    fn the_time_that_a_refusal_names_is_the_first_at_which_the_tokens_are_there() {
        for (rate, per_ms, burst, count, wait) in [
            (1, 1000, 1, 1, 1000),
            (3, 1000, 3, 1, 334),
            (3, 1000, 3, 3, 1000),
            (7, 10, 5, 5, 8),
            (1_000_000_000, 1, 100_000_000, 100_000_000, 1),
            (
                1,
                86_400_000,
                100_000_000,
                100_000_000,
                86_400_000 * 100_000_000,
            ),
        ] {
            let rule = rule(rate, per_ms, burst);
            let mut bucket = TokenBucket::full(rule, Timestamp(5));
            let now = |ms| Timestamp(5 + ms);
            assert_eq!(
                bucket.try_take(now(0), FULL_RATE, u64::from(rule.burst)),
                Ok(())
            );
            assert_eq!(
                bucket.try_take(now(0), FULL_RATE, count),
                Err(Short::Wait(wait)),
                "{rule:?}"
            );
            assert_eq!(
                bucket.try_take(now(wait - 1), FULL_RATE, count),
                Err(Short::Wait(1))
            );
            assert_eq!(bucket.try_take(now(wait), FULL_RATE, count), Ok(()));
        }
    }

    #[test]
    fn thirds_add_up_without_drift() {
        let mut bucket = TokenBucket::full(rule(3, 1000, 1), Timestamp(0));
        let mut taken = 0;
        for now in 0..=1_000_000 {
            taken += u32::from(bucket.try_take(Timestamp(now), FULL_RATE, 1).is_ok());
        }
        // One at the beginning, and three a second, less the thirds of a millisecond that full buckets spilled.
        assert_eq!(taken, 1 + 1_000_000 / 334);
        let mut bucket = TokenBucket::full(rule(3, 1000, 3), Timestamp(0));
        let mut taken = 0;
        for now in 0..=1_000_000 {
            taken += u32::from(bucket.try_take(Timestamp(now), FULL_RATE, 1).is_ok());
        }
        assert_eq!(taken, 3 + 3000);
    }

    #[test]
    fn who_waits_has_its_tokens_before_anybody_else() {
        let mut bucket = TokenBucket::full(rule(1, 100, 1), Timestamp(0));
        assert_eq!(bucket.try_take(Timestamp(0), FULL_RATE, 1), Ok(()));
        assert_eq!(
            bucket.check(Timestamp(0), FULL_RATE, 1),
            Err(Short::Wait(100))
        );
        bucket.take(1);
        assert_eq!(
            bucket.check(Timestamp(100), FULL_RATE, 1),
            Err(Short::Wait(100))
        );
        assert_eq!(bucket.check(Timestamp(200), FULL_RATE, 1), Ok(()));
    }

    #[test]
    fn a_bucket_says_when_it_is_full() {
        let mut bucket = TokenBucket::full(rule(3, 1000, 3), Timestamp(7));
        assert_eq!(bucket.full_at(FULL_RATE), Timestamp(7));
        bucket.take(1);
        assert_eq!(bucket.full_at(FULL_RATE), Timestamp(7 + 334));
        assert_eq!(bucket.full_at(FULL_RATE / 2), Timestamp(7 + 667));
    }

    #[test]
    fn a_bucket_is_read_as_it_was_written() {
        let mut bucket = TokenBucket::full(rule(3, 86_400_000, 100_000_000), Timestamp(1 << 52));
        bucket.take(100_000_000);
        assert_eq!(TokenBucket::from_row(&bucket.row()), Ok(bucket));
        bucket.take(100_000_000);
        let more_than_anybody_takes = bucket.row();
        assert_eq!(
            TokenBucket::from_row(&more_than_anybody_takes),
            Err(Malformed)
        );
    }

    #[test]
    fn rules_are_bounded() {
        for (rate, per_ms, burst, part) in [
            (
                0,
                None,
                None,
                "\"rate\" must be from 1 to 1000000000, not 0",
            ),
            (RATE_MAX + 1, None, None, "\"rate\" must be"),
            (
                1,
                Some(0),
                None,
                "\"per_ms\" must be from 1 to 86400000, not 0",
            ),
            (1, Some(PER_MS_MAX + 1), None, "\"per_ms\" must be"),
            (
                1,
                None,
                Some(0),
                "\"burst\" must be from 1 to 100000000, not 0",
            ),
            (1, None, Some(BURST_MAX + 1), "\"burst\" must be"),
        ] {
            let why = Rule::new(rate, per_ms, burst, false).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
        let most = Rule::new(RATE_MAX, None, None, false).unwrap();
        assert_eq!((most.per_ms, u64::from(most.burst)), (1000, BURST_MAX));
        assert!(!rule(1, 1000, 10).is_slow());
        assert!(rule(1, 1000, 11).is_slow());
    }

    #[test]
    fn the_factor_falls_by_three_tenths_and_rises_by_a_twentieth() {
        let mut adaptive = Adaptive::default();
        let mut at = |ms: u64, signal: u64| {
            adaptive.step(Timestamp(1000 + ms), signal);
            adaptive.factor()
        };
        assert_eq!(
            at(0, 5000),
            1000,
            "the first step begins when somebody asks"
        );
        assert_eq!(at(9_999, 5000), 1000);
        assert_eq!(at(10_000, 801), 700);
        assert_eq!(at(20_000, 801), 490);
        assert_eq!(at(25_000, 801), 490);
        assert_eq!(at(30_000, 800), 540);
        assert_eq!(at(50_000, 0), 640, "two steps at once");
        assert_eq!(at(100_000, 1000), 448, "of bad steps one is known");
        for step in 11..20 {
            at(step * 10_000, 1000);
        }
        assert_eq!(at(200_000, 1000), 100);
        assert_eq!(at(1 << 50, 0), 1000);
    }
}
