//! Hashing: the documented hash that places keys, and the map that state may use.

use core::hash::{BuildHasher as _, Hash};

use foldhash::fast::FixedState;
use hashbrown::Equivalent;
#[expect(
    clippy::disallowed_types,
    reason = "only behind `Map`, which cannot be iterated"
)]
use hashbrown::HashTable;
use slab::Slab;
use twox_hash::XxHash64;

use crate::ids::Partition;

/// The partition of `key` among `partitions`: XXH64 with seed 0, scaled by multiplication, that is
/// `floor(xxh64(key) * partitions / 2^64)`. Fixed for ever: stored messages were placed by it.
pub fn partition_of(key: &str, partitions: u32) -> Partition {
    let hash = XxHash64::oneshot(0, key.as_bytes());
    Partition(((u128::from(hash) * u128::from(partitions)) >> 64) as u32)
}

/// What stands for bytes that are not kept: 128 bits.
pub(crate) type Digest = (u64, u64);

/// The digest of `bytes`: XXH64 with two seeds, which `kind` chooses. Stored, so fixed for ever.
pub(crate) fn digest(kind: u64, bytes: &[u8]) -> Digest {
    (
        XxHash64::oneshot(2 * kind, bytes),
        XxHash64::oneshot(2 * kind + 1, bytes),
    )
}

/// A hash map without iteration: its order would differ between runtimes, and then so would the effects. Since
/// nothing depends on the order, the seed is free, and a fresh one makes collisions hard to prepare.
pub(crate) struct Map<K, V> {
    /// The hash of every key and where its entry lies. All maps have the same, so that its code is there once.
    #[expect(
        clippy::disallowed_types,
        reason = "this is the wrapper that makes it safe"
    )]
    table: HashTable<(u64, u32)>,
    entries: Slab<(K, V)>,
    hasher: FixedState,
}

impl<K: Hash + Eq, V> Map<K, V> {
    pub(crate) fn with_seed(seed: u64) -> Self {
        Self::with_hasher(FixedState::with_seed(seed))
    }

    /// An empty map with the seed of `other`.
    pub(crate) fn with_seed_of<L, W>(other: &Map<L, W>) -> Self {
        Self::with_hasher(other.hasher.clone())
    }

    fn with_hasher(hasher: FixedState) -> Self {
        #[expect(
            clippy::disallowed_types,
            reason = "this is the wrapper that makes it safe"
        )]
        let table = HashTable::new();
        Self {
            table,
            entries: Slab::new(),
            hasher,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<&V> {
        let index = self.find(key)?;
        Some(&self.entries[index].1)
    }

    pub(crate) fn get_mut<Q: Hash + Equivalent<K> + ?Sized>(&mut self, key: &Q) -> Option<&mut V> {
        let index = self.find(key)?;
        Some(&mut self.entries[index].1)
    }

    pub(crate) fn contains<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> bool {
        self.find(key).is_some()
    }

    /// Sets the value of a key, and returns the one it had.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(known) = self.get_mut(&key) {
            return Some(core::mem::replace(known, value));
        }
        let hash = self.hasher.hash_one(&key);
        let index = self.entries.insert((key, value)) as u32;
        self.table
            .insert_unique(hash, (hash, index), |(hash, _)| *hash);
        None
    }

    pub(crate) fn remove<Q: Hash + Equivalent<K> + ?Sized>(&mut self, key: &Q) -> Option<V> {
        let index = self.find(key)?;
        let hash = self.hasher.hash_one(key);
        let slot = self
            .table
            .find_entry(hash, |(_, other)| *other as usize == index);
        slot.ok()?.remove();
        Some(self.entries.remove(index).1)
    }

    fn find<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<usize> {
        let hash = self.hasher.hash_one(key);
        let is_key = |(other, index): &(u64, u32)| {
            *other == hash && key.equivalent(&self.entries[*index as usize].0)
        };
        self.table
            .find(hash, is_key)
            .map(|(_, index)| *index as usize)
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
