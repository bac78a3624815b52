//! Where everything is stored: the keys of the ordered map.
//!
//! ```text
//! key      = 00 name                                   the store itself
//!          | length namespace table rest               a namespace; its length is never 0
//! table    = 00..7f                                    state: all of it is read at a restore
//!          | 80..ff                                    messages: read only by loads
//! ```
//!
//! The length in front makes the prefix of no namespace the beginning of another's, whatever the names are.

use alloc::vec::Vec;

/// Whose row a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// The store's own; part of every restore.
    Store,
    /// A namespace's state; part of its restore.
    State(&'a str),
    /// A namespace's messages; not part of a restore.
    Messages(&'a str),
}

/// Whose row `key` is; `None` for a key that no version has written.
pub fn scope_of(key: &[u8]) -> Option<Scope<'_>> {
    let (&length, rest) = key.split_first()?;
    if length == 0 {
        return Some(Scope::Store);
    }
    let (name, rest) = rest.split_at_checked(length.into())?;
    let name = core::str::from_utf8(name).ok()?;
    match *rest.first()? {
        0x00..=0x7f => Some(Scope::State(name)),
        0x80..=0xff => Some(Scope::Messages(name)),
    }
}

/// The range of the store's own rows.
pub fn store_range() -> (Vec<u8>, Vec<u8>) {
    ([0].to_vec(), [1].to_vec())
}

/// The range of a namespace's state rows.
pub fn state_range(namespace: &str) -> (Vec<u8>, Vec<u8>) {
    (
        namespace_key(namespace, 0x00),
        namespace_key(namespace, 0x80),
    )
}

/// The range of all of a namespace's rows; its end is where the next namespace is to be looked for.
pub fn namespace_range(namespace: &str) -> (Vec<u8>, Vec<u8>) {
    let mut to = namespace_key(namespace, 0xff);
    to.push(0xff);
    (namespace_key(namespace, 0x00), to)
}

fn namespace_key(namespace: &str, table: u8) -> Vec<u8> {
    let mut key = Vec::with_capacity(namespace.len() + 2);
    key.push(namespace.len() as u8);
    key.extend_from_slice(namespace.as_bytes());
    key.push(table);
    key
}
