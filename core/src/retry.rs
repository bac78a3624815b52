//! How long a message waits before it is delivered again.

use twox_hash::XxHash64;

use crate::topic::words;

words! {
    /// How the waits of a message grow.
    Backoff {
        /// It does not wait.
        None = "none",
        /// Always the first wait.
        Fixed = "fixed",
        /// The first wait as often as it was delivered.
        Linear = "linear",
        /// Twice the wait before.
        #[default]
        Exponential = "exponential",
    }
}

/// A policy of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retry {
    pub(crate) backoff: Backoff,
    /// The first wait.
    pub(crate) first_ms: u64,
    /// The longest wait.
    pub(crate) max_ms: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            backoff: Backoff::default(),
            first_ms: 1000,
            max_ms: 3_600_000,
        }
    }
}

impl Retry {
    /// How long a message waits that was delivered `attempts` times, before jitter.
    const fn ceiling_ms(&self, attempts: u32) -> u64 {
        let wait = match self.backoff {
            Backoff::None => 0,
            Backoff::Fixed => self.first_ms,
            Backoff::Linear => self.first_ms.saturating_mul(attempts as u64),
            Backoff::Exponential => {
                let doublings = attempts.saturating_sub(1);
                // Sixty doublings of a millisecond are longer than any bound.
                if doublings > 60 {
                    u64::MAX
                } else {
                    self.first_ms.saturating_mul(1 << doublings)
                }
            }
        };
        if wait < self.max_ms {
            wait
        } else {
            self.max_ms
        }
    }

    /// How long a message waits that was delivered `attempts` times. Linear and exponential waits lose up to a half of
    /// themselves by chance, so that what failed together does not come again together ("equal jitter": Brooker,
    /// Exponential Backoff And Jitter, 2015). The chance is a hash of `place`, the same on every runtime.
    pub(crate) fn wait_ms(&self, attempts: u32, seed: u64, place: &[u8]) -> u64 {
        let ceiling = self.ceiling_ms(attempts);
        match self.backoff {
            Backoff::None | Backoff::Fixed => ceiling,
            Backoff::Linear | Backoff::Exponential => {
                let dice = XxHash64::oneshot(seed ^ u64::from(attempts), place);
                ceiling - dice % (ceiling / 2 + 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_as_the_policy_says() {
        for (backoff, ceilings) in [
            (Backoff::None, [0, 0, 0, 0, 0]),
            (Backoff::Fixed, [100, 100, 100, 100, 100]),
            (Backoff::Linear, [100, 200, 300, 1000, 1000]),
            (Backoff::Exponential, [100, 200, 400, 1000, 1000]),
        ] {
            let retry = Retry {
                backoff,
                first_ms: 100,
                max_ms: 1000,
            };
            for (attempts, ceiling) in [1, 2, 3, 40, u32::MAX].into_iter().zip(ceilings) {
                assert_eq!(
                    retry.ceiling_ms(attempts),
                    ceiling,
                    "{backoff:?} {attempts}"
                );
                for place in 0..50_u8 {
                    let wait = retry.wait_ms(attempts, 7, &[place]);
                    assert!(
                        wait <= ceiling && wait >= ceiling / 2,
                        "{wait} of {ceiling}"
                    );
                }
            }
        }
    }

    #[test]
    fn waits_of_what_failed_together_differ() {
        let retry = Retry::default();
        let waits: alloc::collections::BTreeSet<u64> = (0..100_u8)
            .map(|place| retry.wait_ms(3, 7, &[place]))
            .collect();
        assert!(waits.len() > 90, "{} different waits", waits.len());
        assert_eq!(retry.wait_ms(3, 7, b"a"), retry.wait_ms(3, 7, b"a"));
    }
}
