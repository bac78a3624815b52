//! What the journal is emptied into: rows that are durable already.

use dunlin_core::Row;

use super::StoreError;

/// An ordered map that changes rarely and much at a time.
pub trait Base: Send + Sync {
    /// The rows from `from` up to, but without, `to`, in key order or in reverse: those that are there at this call,
    /// whatever changes while they are read.
    fn range<'a>(&'a self, from: &[u8], to: &[u8], reverse: bool) -> Rows<'a>;

    /// Makes all changes, which come in key order, or none; they are durable when this returns. `reached` is how far
    /// they go, and is kept with them.
    fn checkpoint(
        &self,
        changes: &mut dyn Iterator<Item = Result<Change, StoreError>>,
        reached: Reached,
    ) -> Result<(), StoreError>;

    /// What the last checkpoint said.
    fn reached(&self) -> Result<Reached, StoreError>;

    /// Whether so much was deleted that [`Base::reclaim`] is worth its time; where room is `scarce`, whether anything
    /// was.
    fn is_wasteful(&self, _scarce: bool) -> bool {
        false
    }

    /// Removes files that nothing needs any more; whether there may be more of them soon.
    fn tidy(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Gives the room of deleted rows back to the disk. It takes long, and hinders nobody.
    fn reclaim(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// How far the base goes into the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// The last record that it contains; 0 before the first checkpoint.
    pub record: u64,
    /// The segment that the journal goes on in, which must be there; 0 if nothing was written behind `record`, and none
    /// where an earlier dunlin did not say.
    pub next_segment: Option<u64>,
}

/// Rows as they are read.
pub type Rows<'a> = Box<dyn Iterator<Item = Result<Row, StoreError>> + 'a>;

/// What became of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Vec<u8>,
    /// Its new value, or that it is gone.
    pub value: Option<Vec<u8>>,
}
