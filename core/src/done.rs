//! What a queue has done in one partition above its floor: a bit for every offset.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::ids::Offset;

/// How many offsets a window covers, which is stored as one row.
pub(crate) const WINDOW_OFFSETS: u64 = 1024;
const WINDOW_WORDS: usize = (WINDOW_OFFSETS / 64) as usize;

/// What is done above a floor.
#[derive(Clone, Debug, Default)]
pub(crate) struct Done {
    windows: BTreeMap<u64, [u64; WINDOW_WORDS]>,
    /// Windows that changed, or whose pending messages did, since they were written; and those that have a row.
    pub(crate) dirty: BTreeSet<u64>,
    pub(crate) stored: BTreeSet<u64>,
}

const fn place(offset: Offset) -> (u64, usize, u64) {
    let within = offset.0 % WINDOW_OFFSETS;
    (
        offset.0 / WINDOW_OFFSETS,
        (within / 64) as usize,
        1 << (within % 64),
    )
}

impl Done {
    pub(crate) fn contains(&self, offset: Offset) -> bool {
        let (window, word, bit) = place(offset);
        let bits = self.windows.get(&window);
        bits.is_some_and(|bits| bits[word] & bit != 0)
    }

    pub(crate) fn insert(&mut self, offset: Offset) {
        let (window, word, bit) = place(offset);
        self.windows.entry(window).or_insert([0; WINDOW_WORDS])[word] |= bit;
        self.dirty.insert(window);
    }

    /// Notes that something pending of the offset's window changed.
    pub(crate) fn touch(&mut self, offset: Offset) {
        self.dirty.insert(offset.0 / WINDOW_OFFSETS);
    }

    /// Nothing is done, which is to be stored in the place of what was.
    pub(crate) fn rewritten(&self) -> Self {
        Self {
            windows: BTreeMap::new(),
            dirty: self.dirty.union(&self.stored).copied().collect(),
            stored: self.stored.clone(),
        }
    }

    /// The first offset from `floor` on that is not done; what lies below it is forgotten.
    pub(crate) fn advance(&mut self, floor: Offset) -> Offset {
        let mut floor = floor;
        while let Some((&window, bits)) = self.windows.first_key_value() {
            if window > floor.0 / WINDOW_OFFSETS {
                break;
            }
            if window == floor.0 / WINDOW_OFFSETS {
                let within = floor.0 % WINDOW_OFFSETS;
                let mut word = (within / 64) as usize;
                let mut missing = !bits[word] & (u64::MAX << (within % 64));
                while missing == 0 && word + 1 < WINDOW_WORDS {
                    word += 1;
                    missing = !bits[word];
                }
                if missing != 0 {
                    let bit = u64::from(missing.trailing_zeros());
                    return Offset(window * WINDOW_OFFSETS + word as u64 * 64 + bit);
                }
                floor = Offset((window + 1) * WINDOW_OFFSETS);
            }
            self.windows.remove(&window);
            self.dirty.insert(window);
        }
        floor
    }

    /// How many offsets from `from` on are done.
    pub(crate) fn count_from(&self, from: Offset) -> u64 {
        let (first, word, bit) = place(from);
        let mut count = 0;
        for (window, bits) in self.windows.range(first..) {
            for (index, bits) in bits.iter().enumerate() {
                let counted = if *window > first || index > word {
                    *bits
                } else if index == word {
                    *bits & !(bit - 1)
                } else {
                    0
                };
                count += u64::from(counted.count_ones());
            }
        }
        count
    }

    /// The runs of offsets of a window that are done, each from and to (not with it).
    pub(crate) fn runs(&self, window: u64) -> Vec<(Offset, Offset)> {
        let mut runs: Vec<(Offset, Offset)> = Vec::new();
        for (word, bits) in (0..).zip(self.windows.get(&window).into_iter().flatten()) {
            let base = window * WINDOW_OFFSETS + word * 64;
            let mut bits = *bits;
            while bits != 0 {
                let first = bits.trailing_zeros();
                let count = (bits >> first).trailing_ones();
                let from = Offset(base + u64::from(first));
                let to = Offset(from.0 + u64::from(count));
                match runs.last_mut() {
                    Some((_, end)) if *end == from => *end = to,
                    _ => runs.push((from, to)),
                }
                bits &= u64::MAX.checked_shl(first + count).unwrap_or(0);
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_remembered_above_the_floor_only() {
        let mut done = Done::default();
        let mut model = BTreeSet::new();
        let mut floor = Offset(1000);
        let mut dice = 7_u64;
        for _ in 0..20_000 {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            let offset = Offset(floor.0 + dice % 3000);
            done.insert(offset);
            model.insert(offset);
            floor = done.advance(floor);
            let mut expected = floor;
            while model.contains(&expected) {
                expected = expected.next();
            }
            assert_eq!(floor, expected);
            assert_eq!(done.count_from(floor), model.range(floor..).count() as u64);
            assert!(done.contains(offset) || offset < floor);
        }
        let window = floor.0 / WINDOW_OFFSETS + 1;
        let runs = done.runs(window);
        let covered: u64 = runs.iter().map(|(from, to)| to.0 - from.0).sum();
        let base = Offset(window * WINDOW_OFFSETS);
        let end = Offset(base.0 + WINDOW_OFFSETS);
        assert_eq!(covered, model.range(base..end).count() as u64);
        assert!(
            runs.iter()
                .all(|(from, to)| (from.0..to.0).all(|offset| model.contains(&Offset(offset))))
        );
    }

    #[test]
    fn a_full_window_is_one_run() {
        let mut done = Done::default();
        for offset in WINDOW_OFFSETS..2 * WINDOW_OFFSETS {
            done.insert(Offset(offset));
        }
        let all = (Offset(WINDOW_OFFSETS), Offset(2 * WINDOW_OFFSETS));
        assert_eq!(done.runs(1), [all]);
        assert_eq!(done.advance(Offset(WINDOW_OFFSETS)), all.1);
        assert_eq!(done.runs(1), []);
    }
}
