//! The store of a scenario: all rows in memory, and which of them a crash leaves.

use std::collections::BTreeMap;

use dunlin_core::rows::{Scope, namespace_range, scope_of, state_range, store_range};
use dunlin_core::{Op, Row};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// An ordered map that knows what of it is durable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    rows: Map,
    durable: Map,
}

impl Rows {
    /// These rows, all durable.
    pub(crate) fn of(rows: Vec<Row>) -> Self {
        let rows: Map = rows.into_iter().map(|row| (row.key, row.value)).collect();
        Self {
            durable: rows.clone(),
            rows,
        }
    }

    pub(crate) fn apply(&mut self, ops: &[Op]) {
        for op in ops {
            match op {
                Op::Put { key, value } => {
                    self.rows.insert(key.clone(), value.clone());
                }
                Op::Delete { key } => {
                    self.rows.remove(key);
                }
                Op::DeleteRange { from, to } => {
                    self.rows.retain(|key, _| key < from || key >= to);
                }
            }
        }
    }

    /// Everything is durable now.
    pub(crate) fn sync(&mut self) {
        self.durable.clone_from(&self.rows);
    }

    /// Only what is durable is left.
    pub(crate) fn crash(&mut self) {
        self.rows.clone_from(&self.durable);
    }

    /// The keys whose values are not what they were, with what they are now, if they are still there.
    pub(crate) fn changes_since(&self, before: &Self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let mut keys: Vec<_> = before.rows.keys().chain(self.rows.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        let changed = |key: &&Vec<u8>| before.rows.get(*key) != self.rows.get(*key);
        keys.into_iter()
            .filter(changed)
            .map(|key| (key.clone(), self.rows.get(key).cloned()))
            .collect()
    }

    /// The rows that a load asks for; the row that exceeds the bytes is the last.
    pub(crate) fn load(
        &self,
        (from, to): (&[u8], &[u8]),
        reverse: bool,
        rows_max: u32,
        bytes_max: u32,
    ) -> Vec<Row> {
        let inside =
            |(key, _): &(&Vec<u8>, &Vec<u8>)| key.as_slice() >= from && key.as_slice() < to;
        let mut rows: Vec<Row> = self
            .rows
            .iter()
            .filter(inside)
            .map(|(key, value)| row(key, value))
            .collect();
        if reverse {
            rows.reverse();
        }
        rows.truncate(rows_max as usize);
        let mut size_bytes = 0;
        let fitting = rows.iter().position(|row| {
            size_bytes += row.value.len();
            size_bytes > bytes_max as usize
        });
        rows.truncate(fitting.map_or(rows.len(), |last| last + 1));
        rows
    }

    /// What a restore reads, found by walking from namespace to namespace as a host does. A key that no version has
    /// written goes along, for the broker to refuse.
    pub(crate) fn state(&self) -> Vec<Row> {
        let mut state = self.between(&store_range());
        let mut from = store_range().1;
        while let Some((key, value)) = self.rows.range(from..).next() {
            let mut next = [key.as_slice(), &[0]].concat();
            match scope_of(key) {
                Some(Scope::State(namespace) | Scope::Messages(namespace)) => {
                    state.extend(self.between(&state_range(namespace)));
                    // A key of no version may lie behind all that a namespace can have.
                    next = next.max(namespace_range(namespace).1);
                }
                _ => state.push(row(key, value)),
            }
            from = next;
        }
        state
    }

    fn between(&self, (from, to): &(Vec<u8>, Vec<u8>)) -> Vec<Row> {
        let range = self.rows.range(from.clone()..to.clone());
        range.map(|(key, value)| row(key, value)).collect()
    }

    /// Every row.
    pub(crate) fn all(&self) -> Vec<Row> {
        self.rows
            .iter()
            .map(|(key, value)| row(key, value))
            .collect()
    }

    /// Every row's key.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.rows.keys()
    }

    /// Gives a row another value; without one, every byte of it becomes one that begins no value.
    pub(crate) fn damage(&mut self, key: &[u8], other: Option<&[u8]>) {
        for rows in [&mut self.rows, &mut self.durable] {
            if let Some(value) = rows.get_mut(key) {
                match other {
                    Some(other) => *value = other.to_vec(),
                    None => value.fill(0xff),
                }
            }
        }
    }
}

fn row(key: &[u8], value: &[u8]) -> Row {
    Row {
        key: key.to_vec(),
        value: value.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &[u8], value: &[u8]) -> Op {
        Op::Put {
            key: key.to_vec(),
            value: value.to_vec(),
        }
    }

    #[test]
    fn a_load_ends_at_its_bounds() {
        let mut rows = Rows::default();
        rows.apply(&[
            put(b"a", b"12"),
            put(b"b", b"34"),
            put(b"c", b"56"),
            put(b"d", b""),
        ]);
        let keys = |reverse, rows_max, bytes_max| {
            let rows = rows.load((b"a", b"d"), reverse, rows_max, bytes_max);
            rows.iter()
                .map(|row| row.key[0] as char)
                .collect::<String>()
        };
        assert_eq!(keys(false, 9, 9), "abc");
        assert_eq!(keys(true, 2, 9), "cb");
        assert_eq!(keys(false, 9, 0), "a");
        assert_eq!(keys(false, 9, 2), "ab");
    }

    #[test]
    fn a_crash_leaves_what_was_synced() {
        let mut rows = Rows::default();
        rows.apply(&[put(b"a", b"1")]);
        rows.sync();
        rows.apply(&[put(b"b", b"2"), Op::Delete { key: b"a".to_vec() }]);
        let before = rows.clone();
        rows.crash();
        let changes = [(b"a".to_vec(), Some(b"1".to_vec())), (b"b".to_vec(), None)];
        assert_eq!(rows.changes_since(&before), changes);
        assert_eq!(rows.keys().collect::<Vec<_>>(), [b"a"]);
    }
}
