//! The bytes of a file, as the operating system shows them and as they are on the disk.

use std::collections::BTreeSet;

use super::rng::Rng;

/// What a disk writes as a whole, or tears.
pub(super) const SECTOR_BYTES: usize = 512;

#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    /// What reads see.
    pub(super) cache: Vec<u8>,
    /// What no loss of power takes.
    pub(super) durable: Vec<u8>,
    /// The sectors that the next sync has to write.
    pub(super) dirty: BTreeSet<usize>,
}

impl Contents {
    pub(super) fn persist(&mut self, sector: usize) {
        let from = sector * SECTOR_BYTES;
        let to = (from + SECTOR_BYTES).min(self.cache.len());
        if self.durable.len() < to {
            self.durable.resize(to, 0);
        }
        self.durable[from..to].copy_from_slice(&self.cache[from..to]);
    }

    pub(super) fn write(&mut self, position: usize, bytes: &[u8]) {
        let end = position + bytes.len();
        if self.cache.len() < end {
            self.cache.resize(end, 0);
        }
        self.cache[position..end].copy_from_slice(bytes);
        self.dirty
            .extend(position / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES));
    }

    pub(super) fn lose_power(&mut self, rng: &mut Rng) {
        let dirty = core::mem::take(&mut self.dirty);
        let way = rng.below(4);
        let written = rng.below(dirty.len() as u64 + 1) as usize;
        for (index, sector) in dirty.into_iter().enumerate() {
            let whole = match way {
                0 => false,
                1 => index < written,
                _ => rng.once_in(2),
            };
            if whole {
                self.persist(sector);
            } else if rng.once_in(8) {
                self.tear(sector, rng);
            }
        }
        self.cache = self.durable.clone();
    }

    /// The power went while this sector was written: its new bytes are there up to a place, behind it the old ones
    /// are or, sometimes, anything.
    fn tear(&mut self, sector: usize, rng: &mut Rng) {
        let from = sector * SECTOR_BYTES;
        let to = (from + SECTOR_BYTES).min(self.cache.len());
        if self.durable.len() < to {
            self.durable.resize(to, 0);
        }
        let torn = from + rng.below((to - from) as u64) as usize;
        let garbage = rng.once_in(4);
        for position in from..to {
            if position < torn {
                self.durable[position] = self.cache[position];
            } else if garbage && self.durable[position] != self.cache[position] {
                self.durable[position] = rng.below(256) as u8;
            }
        }
    }

    /// The system needs the memory: what it has forgotten to write is seen to be gone.
    pub(super) fn evict(&mut self) {
        let length = self.cache.len();
        let mut cache = self.durable.clone();
        cache.resize(length, 0);
        for sector in &self.dirty {
            let from = sector * SECTOR_BYTES;
            let to = (from + SECTOR_BYTES).min(length);
            cache[from..to].copy_from_slice(&self.cache[from..to]);
        }
        self.cache = cache;
    }
}
