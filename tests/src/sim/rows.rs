//! As much of the stored rows as is needed to know where logs begin: the broker tells it nobody at the moment it
//! trims, and a gap that is not told can only be found by who knows. And where that lies which has no receipt.

use dunlin_core::rows::{Scope, scope_of};
use dunlin_core::{Effect, Op, Reader};

use super::archive::Check;
use super::model::Model;

const TABLE_TOPIC: u8 = 0x02;
const TABLE_PARTITION: u8 = 0x03;
const TABLE_SCHEDULE: u8 = 0x0b;
const TABLE_MESSAGES: u8 = 0x80;
const TABLE_SCHEDULED: u8 = 0x81;

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
    Records {
        namespace: &'a str,
        id: u32,
        partition: u32,
    },
    /// That something waits for its time, and what.
    Scheduled {
        namespace: &'a str,
        at: u64,
        id: u64,
    },
    ScheduledBody {
        namespace: &'a str,
        at: u64,
        id: u64,
    },
    Other {
        namespace: &'a str,
    },
}

/// Reads a row; `None` if it is in no table.
pub(super) fn read_state_row<'a>(key: &'a [u8], value: &'a [u8]) -> Option<StateRow<'a>> {
    let namespace = match scope_of(key)? {
        Scope::Store => return Some(StateRow::Store),
        Scope::Messages(namespace) | Scope::State(namespace) => namespace,
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
        TABLE_MESSAGES => {
            let (id, rest) = tail.split_first_chunk::<4>()?;
            let (partition, _) = rest.split_first_chunk::<4>()?;
            Some(StateRow::Records {
                namespace,
                id: u32::from_be_bytes(*id),
                partition: u32::from_be_bytes(*partition),
            })
        }
        TABLE_SCHEDULE | TABLE_SCHEDULED => {
            let (at, id) = tail.split_first_chunk::<8>()?;
            let (at, id) = (
                u64::from_be_bytes(*at),
                u64::from_be_bytes(id.try_into().ok()?),
            );
            Some(if *table == TABLE_SCHEDULE {
                StateRow::Scheduled { namespace, at, id }
            } else {
                StateRow::ScheduledBody { namespace, at, id }
            })
        }
        _ => Some(StateRow::Other { namespace }),
    }
}

impl Model {
    /// Learns where logs begin, now that it is known where they end.
    pub(super) fn take_starts(&mut self, now: u64, effects: &[Effect]) -> Check {
        for effect in effects {
            let Effect::Write { ops, .. } = effect else {
                continue;
            };
            for op in ops {
                if let Op::Put { key, value } = op {
                    self.learn_start(now, key, value)?;
                }
            }
        }
        Ok(())
    }

    /// Learns which topics there are from a stored row, and checks the row against what may be stored.
    pub(super) fn learn_topic(&mut self, key: &[u8], value: &[u8]) -> Check {
        match read_state_row(key, value) {
            Some(StateRow::Topic {
                namespace,
                id,
                name,
                partitions,
            }) => {
                let namespace = self.known_namespace(namespace)?;
                let topic = self.archive.topic(namespace, name, partitions);
                self.topic_ids.insert((namespace, id), topic);
            }
            Some(StateRow::Records { namespace, .. }) => {
                self.known_namespace(namespace)?;
                // One message may exceed the bound, because a message is never cut.
                let most = self.bounds.row_bytes_max + 4096;
                if value.len() as u64 > most {
                    return Err(format!(
                        "a row of {} bytes, row_bytes_max is {}",
                        value.len(),
                        self.bounds.row_bytes_max
                    ));
                }
            }
            Some(
                StateRow::Partition { namespace, .. }
                | StateRow::Scheduled { namespace, .. }
                | StateRow::ScheduledBody { namespace, .. }
                | StateRow::Other { namespace },
            ) => {
                self.known_namespace(namespace)?;
            }
            Some(StateRow::Store) => {}
            None => return Err(format!("a row that no table has: {key:02x?}")),
        }
        Ok(())
    }

    /// Learns from a stored row where a log begins.
    pub(super) fn learn_start(&mut self, now: u64, key: &[u8], value: &[u8]) -> Check {
        if let Some(StateRow::Partition {
            namespace,
            id,
            partition,
            start,
        }) = read_state_row(key, value)
        {
            let namespace = self.known_namespace(namespace)?;
            let topic = self.topic_ids.get(&(namespace, id));
            let topic = *topic.ok_or_else(|| format!("a log of topic {id}, which has no row"))?;
            self.archive.trim(topic, partition, start, now)?;
        }
        Ok(())
    }

    /// Nothing is kept beyond what retention allows, to a sixteenth.
    pub(super) fn check_retention(&self) -> Check {
        for topic in self
            .archive
            .topics
            .iter()
            .filter(|topic| !topic.deleted && !topic.reconfigured)
        {
            let max = match &*topic.kind {
                "log" => topic.max_messages,
                "last_value" => 1,
                _ => 0,
            };
            for (index, part) in topic.partitions.iter().enumerate() {
                let kept = part.end - part.start;
                if max > 0 && kept > max + (max / 16).max(1) {
                    return Err(format!(
                        "\"{}\" {index} keeps {kept} messages, {max} are allowed",
                        topic.name
                    ));
                }
            }
        }
        Ok(())
    }
}
