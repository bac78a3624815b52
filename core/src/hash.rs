//! Hashing: the documented hash that places keys, and the map that state may use.

use core::borrow::Borrow;
use core::hash::Hash;

use foldhash::fast::FixedState;
#[expect(
    clippy::disallowed_types,
    reason = "only behind `Map`, which cannot be iterated"
)]
use hashbrown::{Equivalent, HashMap};
use twox_hash::XxHash64;

use crate::ids::Partition;

/// The partition of `key` among `partitions`: XXH64 with seed 0, scaled by multiplication, that is
/// `floor(xxh64(key) * partitions / 2^64)`. Fixed for ever: stored messages were placed by it.
pub fn partition_of(key: &str, partitions: u32) -> Partition {
    let hash = XxHash64::oneshot(0, key.as_bytes());
    Partition(((u128::from(hash) * u128::from(partitions)) >> 64) as u32)
}

/// A hash map without iteration: its order would differ between runtimes, and then so would the effects. Since
/// nothing depends on the order, the seed is free, and a fresh one makes collisions hard to prepare.
#[derive(Clone, Debug)]
#[expect(
    clippy::disallowed_types,
    reason = "this is the wrapper that makes it safe"
)]
pub(crate) struct Map<K, V>(HashMap<K, V, FixedState>);

impl<K: Eq + Hash, V> Map<K, V> {
    pub(crate) fn with_seed(seed: u64) -> Self {
        #[expect(
            clippy::disallowed_types,
            reason = "this is the wrapper that makes it safe"
        )]
        Self(HashMap::with_hasher(FixedState::with_seed(seed)))
    }

    pub(crate) fn get<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<&V> {
        self.0.get(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.0.insert(key, value)
    }

    pub(crate) fn remove<Q: Hash + Equivalent<K> + ?Sized>(&mut self, key: &Q) -> Option<V> {
        self.0.remove(key)
    }

    pub(crate) fn contains<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.0.contains_key(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of `PROTOCOL.md`; other implementations of clients rely on them.
    #[test]
    fn keys_are_placed_as_documented() {
        for (key, hash) in [
            ("", 0xef46_db37_51d8_e999_u64),
            ("a", 0xd24e_c4f1_a98c_6e5b),
        ] {
            assert_eq!(XxHash64::oneshot(0, key.as_bytes()), hash, "{key}");
        }
        for (key, partitions, expected) in [
            ("", 8, 7),
            ("a", 8, 6),
            ("a", 3, 2),
            ("order-1", 8, 1),
            ("order-2", 8, 4),
            ("ü", 8, 0),
            ("a", 1, 0),
        ] {
            assert_eq!(
                partition_of(key, partitions),
                Partition(expected),
                "{key} of {partitions}"
            );
        }
    }
}
