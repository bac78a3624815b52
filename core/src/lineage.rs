//! Which incarnation wrote which part of a sequence, so that a reader who saw what a crash then took back is told.

use alloc::vec::Vec;

use crate::ids::{Incarnation, Sequence};
use crate::wire::{Malformed, Put, Reader};

/// The low bits of an incarnation count them, the bits above are salt; all of it fits the integers of JSON.
const NUMBER_BITS: u32 = 33;
const SALT_BITS: u32 = 20;

/// The part of an incarnation that rises from one to the next.
const fn number(incarnation: Incarnation) -> u64 {
    incarnation.0 & ((1 << NUMBER_BITS) - 1)
}

/// The first sequence of every remembered incarnation, both rising.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lineage {
    entries: Vec<(Incarnation, Sequence)>,
    /// The newest incarnation whose entry was dropped for the bound.
    forgotten: Incarnation,
}

impl Lineage {
    /// The current incarnation.
    pub(crate) fn current(&self) -> Incarnation {
        self.entries
            .last()
            .map_or(Incarnation(0), |(incarnation, _)| *incarnation)
    }

    /// Begins the next incarnation, whose first message will have the sequence `first`. The number of one of which
    /// nothing was stored is given again, so entropy from `seed` tells the two apart.
    pub(crate) fn begin(&mut self, first: Sequence, entries_max: usize, seed: u64) {
        let salt = seed >> (64 - SALT_BITS) << NUMBER_BITS;
        let next = Incarnation(salt | (number(self.current()) + 1));
        // Earlier incarnations that own nothing which survived need no entry: the one that took their place tells.
        while self
            .entries
            .last()
            .is_some_and(|(_, start)| *start >= first)
        {
            self.entries.pop();
        }
        if self.entries.len() >= entries_max {
            self.forgotten = self.entries.remove(0).0;
        }
        self.entries.push((next, first));
    }

    /// The last sequence that a reader which was at `position` in `incarnation` shares with what is stored, given
    /// the last sequence that is stored.
    pub(crate) fn survived(
        &self,
        incarnation: Incarnation,
        position: Sequence,
        last: Sequence,
    ) -> Sequence {
        let asked = number(incarnation);
        let forgotten = number(self.forgotten);
        let is_older = asked < forgotten || (asked == forgotten && incarnation != self.forgotten);
        if is_older || asked > number(self.current()) {
            // Nobody remembers where that life ended, or this store never had it: nothing can be vouched for.
            return Sequence(0);
        }
        let end = self
            .entries
            .iter()
            .find(|(other, _)| {
                number(*other) > asked || (number(*other) == asked && *other != incarnation)
            })
            .map_or(last, |(_, first)| Sequence(first.0.saturating_sub(1)));
        position.min(end)
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(self.forgotten.0);
        out.put_u64(self.entries.len() as u64);
        for (incarnation, first) in &self.entries {
            out.put_u64(incarnation.0);
            out.put_u64(first.0);
        }
    }

    pub(crate) fn take(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let forgotten = Incarnation(reader.u64()?);
        let mut entries: Vec<(Incarnation, Sequence)> = Vec::new();
        for _ in 0..reader.u64()? {
            let entry = (Incarnation(reader.u64()?), Sequence(reader.counted()?));
            let is_last_of_all = number(entry.0) >= (1 << NUMBER_BITS) - 1;
            let falls = entries
                .last()
                .is_some_and(|last| number(last.0) >= number(entry.0) || last.1 >= entry.1);
            if falls || is_last_of_all {
                return Err(Malformed);
            }
            entries.push(entry);
        }
        Ok(Self { entries, forgotten })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survived(lineage: &Lineage, incarnation: u64, position: u64, last: u64) -> u64 {
        lineage
            .survived(Incarnation(incarnation), Sequence(position), Sequence(last))
            .0
    }

    #[test]
    fn a_reader_keeps_what_its_incarnation_shares_with_the_store() {
        let mut lineage = Lineage::default();
        lineage.begin(Sequence(1), 8, 0);
        lineage.begin(Sequence(101), 8, 0);
        lineage.begin(Sequence(151), 8, 0);
        assert_eq!(survived(&lineage, 1, 90, 200), 90);
        assert_eq!(
            survived(&lineage, 1, 110, 200),
            100,
            "101.. were written again by the second"
        );
        assert_eq!(survived(&lineage, 2, 150, 200), 150);
        assert_eq!(survived(&lineage, 3, 200, 200), 200);
        assert_eq!(survived(&lineage, 3, 201, 200), 200);
        assert_eq!(
            survived(&lineage, 4, 180, 200),
            0,
            "a life that this store never had"
        );
    }

    #[test]
    fn an_incarnation_that_lost_everything_is_told_by_its_successor() {
        let mut lineage = Lineage::default();
        lineage.begin(Sequence(1), 8, 0);
        lineage.begin(Sequence(11), 8, 0);
        lineage.begin(Sequence(11), 8, 0);
        assert_eq!(lineage.current(), Incarnation(3));
        assert_eq!(survived(&lineage, 2, 15, 30), 10);
        lineage.begin(Sequence(6), 8, 0);
        assert_eq!(survived(&lineage, 1, 8, 30), 5);
        assert_eq!(survived(&lineage, 1, 5, 30), 5);
    }

    #[test]
    fn what_is_forgotten_is_not_vouched_for() {
        let mut lineage = Lineage::default();
        for first in [1, 11, 21, 31] {
            lineage.begin(Sequence(first), 2, 0);
        }
        assert_eq!(survived(&lineage, 3, 30, 40), 30);
        assert_eq!(survived(&lineage, 2, 25, 40), 20);
        assert_eq!(survived(&lineage, 1, 5, 40), 0);
        let mut bytes = Vec::new();
        lineage.put(&mut bytes);
        assert_eq!(Lineage::take(&mut Reader::new(&bytes)), Ok(lineage));
    }

    #[test]
    fn a_life_of_which_nothing_was_stored_is_told_from_the_one_that_has_its_number() {
        let mut lineage = Lineage::default();
        lineage.begin(Sequence(1), 8, 0);
        let mut lost = lineage.clone();
        lost.begin(Sequence(11), 8, 7 << 60);
        lineage.begin(Sequence(11), 8, 9 << 60);
        assert_ne!(lost.current(), lineage.current());
        assert_eq!(survived(&lineage, lost.current().0, 15, 30), 10);
        assert_eq!(survived(&lineage, lineage.current().0, 15, 30), 15);
        assert!(lineage.current().0 < 1 << 53, "JSON carries it");
        // The one that has the number may be forgotten meanwhile; the other is not known the better for it.
        for first in [31, 41] {
            lineage.begin(Sequence(first), 2, 9 << 60);
        }
        assert_eq!(survived(&lineage, lost.current().0, 15, 50), 0);
    }
}
