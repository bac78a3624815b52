//! As much of the stored rows as is needed to know where logs begin: the broker tells it nobody at the moment it
//! trims, and a gap that is not told can only be found by who knows.

use dunlin_core::Reader;
use dunlin_core::rows::{Scope, scope_of};

const TABLE_TOPIC: u8 = 0x02;
const TABLE_PARTITION: u8 = 0x03;

/// What a row is about.
#[derive(Debug)]
pub(super) enum StateRow<'a> {
    Store,
    Topic {
        namespace: &'a str,
        id: u32,
        name: &'a str,
        partitions: usize,
    },
    Partition {
        namespace: &'a str,
        id: u32,
        partition: u32,
        start: u64,
    },
    Messages {
        namespace: &'a str,
    },
    Other {
        namespace: &'a str,
    },
}

/// Reads a row; `None` if it is in no table.
pub(super) fn read_state_row<'a>(key: &'a [u8], value: &'a [u8]) -> Option<StateRow<'a>> {
    let namespace = match scope_of(key)? {
        Scope::Store => return Some(StateRow::Store),
        Scope::Messages(namespace) => return Some(StateRow::Messages { namespace }),
        Scope::State(namespace) => namespace,
    };
    let (table, tail) = key.get(1 + namespace.len()..)?.split_first()?;
    let mut reader = Reader::new(value);
    match *table {
        TABLE_TOPIC => {
            let id = u32::from_be_bytes(tail.try_into().ok()?);
            reader.u64().ok()?;
            let name = reader.str().ok()?;
            for _word in 0..3 {
                reader.str().ok()?;
            }
            let partitions = reader.u32().ok()? as usize;
            Some(StateRow::Topic {
                namespace,
                id,
                name,
                partitions,
            })
        }
        TABLE_PARTITION => {
            let (id, partition) = tail.split_first_chunk::<4>()?;
            let (id, partition) = (
                u32::from_be_bytes(*id),
                u32::from_be_bytes(partition.try_into().ok()?),
            );
            reader.u64().ok()?;
            let start = reader.u64().ok()?;
            Some(StateRow::Partition {
                namespace,
                id,
                partition,
                start,
            })
        }
        _ => Some(StateRow::Other { namespace }),
    }
}
