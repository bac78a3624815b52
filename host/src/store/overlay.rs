//! What the journal says that the base does not have yet, in memory.

use core::cmp::Ordering;
use core::iter::Peekable;
use core::ops::Bound;
use std::collections::BTreeMap;

use dunlin_core::{Op, Row};

use super::base::{Base, Change, Rows};
use super::{RangeRead, StoreError};

/// Changes to an ordered map; the last one of a key counts.
///
/// A deleted range stays a range: which rows it removes from the layers below is found out when somebody reads, or
/// when the overlay is emptied into the base.
#[derive(Clone, Debug, Default)]
pub(super) struct Overlay {
    /// What was done to single keys, after what was done to `deleted`.
    rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Ranges that were deleted, first key to first key behind; they do not touch each other.
    deleted: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Overlay {
    pub(super) fn apply(&mut self, op: Op) {
        match op {
            Op::Put { key, value } => {
                self.rows.insert(key, Some(value));
            }
            Op::Delete { key } => {
                self.rows.insert(key, None);
            }
            Op::DeleteRange { from, to } if from < to => self.delete(&from, &to),
            Op::DeleteRange { .. } => {}
        }
    }

    /// Whether a range was deleted: emptied into the base it may make more room than it takes.
    pub(super) fn deletes(&self) -> bool {
        !self.deleted.is_empty()
    }

    fn delete(&mut self, from: &[u8], to: &[u8]) {
        let inside: Vec<_> = self
            .rows
            .range::<[u8], _>(span(from, to))
            .map(|(key, _)| key.clone())
            .collect();
        for key in inside {
            self.rows.remove(&key);
        }
        let (mut first, mut end) = (from.to_vec(), to.to_vec());
        let upto = (Bound::Unbounded, Bound::Included(to));
        let joined: Vec<_> = self
            .deleted
            .range::<[u8], _>(upto)
            .rev()
            .take_while(|(_, old_end)| old_end.as_slice() >= from)
            .map(|(old_first, _)| old_first.clone())
            .collect();
        for old_first in joined {
            if let Some(old_end) = self.deleted.remove(&old_first) {
                end = end.max(old_end);
                first = first.min(old_first);
            }
        }
        self.deleted.insert(first, end);
    }

    /// Whether a deleted range hides what the layers below have under `key`.
    fn hides(&self, key: &[u8]) -> bool {
        let upto = (Bound::Unbounded, Bound::Included(key));
        let last = self.deleted.range::<[u8], _>(upto).next_back();
        last.is_some_and(|(_, end)| key < end.as_slice())
    }

    /// As much of this overlay, which must be the topmost, as can matter to `read`.
    pub(super) fn part(&self, read: &RangeRead) -> Self {
        let mut rows = BTreeMap::new();
        let (mut count, mut size_bytes) = (0, 0);
        for (key, value) in directed(&self.rows, read) {
            if count == read.rows_max || size_bytes > read.bytes_max as usize {
                // These rows alone reach a bound of the read: it ends before what is left out.
                break;
            }
            if let Some(value) = value {
                count += 1;
                size_bytes += value.len();
            }
            rows.insert(key.clone(), value.clone());
        }
        Self {
            rows,
            deleted: self.deleted.clone(),
        }
    }

    /// What this overlay means to `base`, in key order.
    pub(super) fn changes<'a>(
        &'a self,
        base: &'a dyn Base,
    ) -> impl Iterator<Item = Result<Change, StoreError>> + 'a {
        let gone = self
            .deleted
            .iter()
            .flat_map(|(from, to)| base.range(from, to, false))
            .filter(|row| !matches!(row, Ok(row) if self.rows.contains_key(&row.key)));
        let mut gone = gone.peekable();
        let mut rows = self.rows.iter().peekable();
        core::iter::from_fn(move || {
            let gone_first = match (gone.peek(), rows.peek()) {
                (Some(Ok(gone)), Some((key, _))) => gone.key < **key,
                (gone, _) => gone.is_some(),
            };
            if gone_first {
                return gone.next().map(|row| {
                    Ok(Change {
                        key: row?.key,
                        value: None,
                    })
                });
            }
            rows.next().map(|(key, value)| {
                Ok(Change {
                    key: key.clone(),
                    value: value.clone(),
                })
            })
        })
    }
}

/// The rows of a range: those of `base` under overlays, of which the first is the newest.
pub(super) fn merged<'a>(
    overlays: &'a [&'a Overlay],
    base: Rows<'a>,
    read: &'a RangeRead,
) -> impl Iterator<Item = Result<Row, StoreError>> + 'a {
    let mut layers: Vec<_> = overlays
        .iter()
        .map(|overlay| (*overlay, directed(&overlay.rows, read).peekable()))
        .collect();
    let mut base = base.peekable();
    core::iter::from_fn(move || {
        loop {
            let next = layers
                .iter_mut()
                .filter_map(|(_, rows)| rows.peek().map(|(key, _)| key.as_slice()));
            let before = |a: &[u8], b: &[u8]| match read.reverse {
                false => a.cmp(b),
                true => b.cmp(a),
            };
            let next = next.min_by(|a, b| before(a, b));
            let below = match base.peek() {
                Some(Err(_)) => return base.next(),
                Some(Ok(row)) => Some(row.key.as_slice()),
                None => None,
            };
            let from_base = match (next, below) {
                (None, None) => return None,
                (Some(next), Some(below)) => before(below, next) == Ordering::Less,
                (next, _) => next.is_none(),
            };
            if from_base {
                let row = base.next()?;
                let hidden =
                    matches!(&row, Ok(row) if overlays.iter().any(|layer| layer.hides(&row.key)));
                if !hidden {
                    return Some(row);
                }
                continue;
            }
            let key = next?.to_vec();
            if below == Some(key.as_slice()) {
                base.next();
            }
            if let Some(value) = newest(&mut layers, &key) {
                return Some(Ok(Row { key, value }));
            }
        }
    })
}

type Layer<'a> = (&'a Overlay, Peekable<Directed<'a>>);

/// Takes `key` from all layers that have it next; its newest value, if it is not deleted.
fn newest(layers: &mut [Layer<'_>], key: &[u8]) -> Option<Vec<u8>> {
    let mut decided = false;
    let mut value = None;
    for (overlay, rows) in layers {
        if let Some((_, found)) = rows.next_if(|(next, _)| next.as_slice() == key)
            && !decided
        {
            decided = true;
            value.clone_from(found);
        }
        decided |= overlay.hides(key);
    }
    value
}

/// The changed keys of a range in the direction of a read.
fn directed<'a>(rows: &'a BTreeMap<Vec<u8>, Option<Vec<u8>>>, read: &RangeRead) -> Directed<'a> {
    let range = rows.range::<[u8], _>(span(&read.from, &read.to));
    if read.reverse {
        Box::new(range.rev())
    } else {
        Box::new(range)
    }
}

type Directed<'a> = Box<dyn Iterator<Item = (&'a Vec<u8>, &'a Option<Vec<u8>>)> + 'a>;

fn span<'a>(from: &'a [u8], to: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    (Bound::Included(from), Bound::Excluded(to))
}
