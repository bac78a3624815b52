//! What a crash may take and what it may not: the archive held against what an audit finds in the store.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_core::Row;

use super::archive::Check;
use super::audit::{Dump, PartitionDump, TopicDump};
use super::frames::level;
use super::model::Model;
use super::rows::{StateRow, read_state_row};
use super::workload::publish::At;

/// How a life ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) life: u64,
    /// How many of its writes are in the store.
    pub(super) kept: u64,
    pub(super) now: u64,
}

/// When something was decided: the life of the broker, and the write of that life that stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct When {
    pub(super) life: u64,
    pub(super) write: u64,
}

impl When {
    pub(super) const fn is_lost(self, ended: Ended) -> bool {
        self.life == ended.life && self.write > ended.kept
    }
}

impl Model {
    /// Begins the next life with what the store has; `dumps` is what an audit of each namespace found there.
    pub(super) fn recover(&mut self, ended: Ended, dumps: &[Dump], rows: &[Row]) -> Check {
        // What was over once may be forgotten, though the next life's clock may be behind.
        for (topic, state) in self.archive.topics.iter().enumerate() {
            self.names.look(At {
                topic,
                dedup_ms: state.dedup_ms,
                now: self.latest.max(self.last_timestamps[state.namespace]),
            });
        }
        self.recover_names(ended, rows)?;
        for (namespace, dump) in dumps.iter().enumerate() {
            self.recover_namespace(ended, namespace, &dump.topics)
                .map_err(|error| {
                    format!(
                        "after the crash of life {} with {} writes: {error}",
                        ended.life, ended.kept
                    )
                })?;
        }
        self.calendar
            .recover(ended, &self.archive, &self.namespaces, rows)?;
        self.book.recover(ended);
        self.ledger.recover(ended);
        let topics = self.archive.topics.iter().enumerate();
        let live = topics.filter(|(_, topic)| topic.kind == "live");
        self.names
            .recover(ended, &live.map(|(index, _)| index).collect());
        self.begin_life(ended.life + 1);
        self.last_timestamps = dumps.iter().map(|dump| dump.last_timestamp).collect();
        for partition in self
            .archive
            .topics
            .iter_mut()
            .flat_map(|topic| &mut topic.partitions)
        {
            partition.start = 0;
        }
        for row in rows {
            self.learn_topic(&row.key, &row.value)?;
        }
        for row in rows {
            self.learn_start(ended.now, &row.key, &row.value)?;
        }
        Ok(())
    }

    /// Topics whose deletion was lost are back, and those that had taken their names are not there.
    fn recover_names(&mut self, ended: Ended, rows: &[Row]) -> Check {
        for row in rows {
            let Some(StateRow::Topic {
                namespace,
                id,
                name,
                ..
            }) = read_state_row(&row.key, &row.value)
            else {
                continue;
            };
            let namespace = self.known_namespace(namespace)?;
            let index = self.topic_ids.get(&(namespace, id));
            let index =
                *index.ok_or_else(|| format!("topic {id} is stored, but was never made"))?;
            let topic = &self.archive.topics[index];
            if topic.name != name {
                return Err(format!(
                    "topic {id} is \"{}\", stored as \"{name}\"",
                    topic.name
                ));
            }
            if !topic.deleted {
                continue;
            }
            let (life, write) = topic.deleted_by;
            if life != ended.life || write <= ended.kept {
                return Err(format!("topic \"{name}\" is back after it was deleted"));
            }
            if let Some(other) = self.archive.topic_named(namespace, name) {
                self.archive.delete_topic(other, 0);
            }
            self.archive.undelete_topic(index);
        }
        Ok(())
    }

    fn recover_namespace(&mut self, ended: Ended, namespace: usize, dump: &[TopicDump]) -> Check {
        let found = self.identify(ended, namespace, dump)?;
        let mut extents: BTreeMap<usize, &TopicDump> = BTreeMap::new();
        for topic in dump {
            if let Some(index) = self.archive.topic_named(namespace, &topic.name) {
                extents.insert(index, topic);
            }
        }
        let nothing = PartitionDump::default();
        for message in 0..self.archive.drafts.len() {
            let Some(place) = self.archive.newest(message).cloned() else {
                continue;
            };
            let topic = &self.archive.topics[place.topic];
            if topic.namespace != namespace || !self.archive.is_there(message, ended.life) {
                continue;
            }
            if topic.deleted {
                let never_stored = place.life == ended.life && place.write > ended.kept;
                let place = self.archive.newest_mut(message);
                let place = place.expect("it was just cloned");
                place.lost_in = never_stored.then_some(ended.life + 1);
                continue;
            }
            let extent = extents
                .get(&place.topic)
                .and_then(|dump| dump.partitions.get(place.partition as usize));
            let extent = extent.unwrap_or(&nothing);
            let lost = if topic.kind == "live" {
                true
            } else if found.contains(&message) || place.offset < extent.start {
                false
            } else if place.offset >= extent.end {
                if place.life != ended.life || place.write <= ended.kept {
                    return Err(format!(
                        "message {message}, \"{}\" {} {}, is gone, but its write {} of life {} was kept{}",
                        topic.name,
                        place.partition,
                        place.offset,
                        place.write,
                        place.life,
                        if place.promised.is_some() {
                            ", and its receipt had left"
                        } else {
                            ""
                        }
                    ));
                }
                true
            } else if self.archive.is_excused(message, ended.now) {
                false
            } else {
                return Err(format!(
                    "message {message}, \"{}\" {} {}, is missing in the middle of {}..{}",
                    topic.name, place.partition, place.offset, extent.start, extent.end
                ));
            };
            if lost {
                let place = self.archive.newest_mut(message);
                let place = place.expect("it was just cloned");
                place.lost_in = Some(ended.life + 1);
            }
        }
        for index in self.archive.topics_of(namespace).collect::<Vec<_>>() {
            match extents.get(&index) {
                Some(dump) => self.take_stored(index, dump)?,
                // Its creation was lost.
                None => self.archive.delete_topic(index, 0),
            }
        }
        Ok(())
    }

    /// The messages that are stored, each where it was placed.
    fn identify(
        &mut self,
        ended: Ended,
        namespace: usize,
        dump: &[TopicDump],
    ) -> Result<BTreeSet<usize>, String> {
        let mut found = BTreeSet::new();
        // Dead letters are of the broker's own making.
        for topic in dump.iter().filter(|topic| !topic.name.starts_with('$')) {
            for (partition, extent) in topic.partitions.iter().enumerate() {
                for (offset, sequence, payload) in &extent.records {
                    let message = self.archive.number_of(payload, &topic.name)?;
                    let place = self.archive.place(message)?.clone();
                    let model = &self.archive.topics[place.topic];
                    let known = (
                        model.namespace,
                        &*model.name,
                        place.partition,
                        place.offset,
                        place.sequence,
                    );
                    let stored = (
                        namespace,
                        &*topic.name,
                        partition as u32,
                        *offset,
                        *sequence,
                    );
                    if known != stored {
                        return Err(format!(
                            "message {message} is stored at {stored:?}, but was placed at {known:?}"
                        ));
                    }
                    if !self.archive.is_there(message, ended.life) {
                        return Err(format!(
                            "message {message} is back after a crash that took it"
                        ));
                    }
                    if model.deleted {
                        return Err(format!(
                            "topic \"{}\" is back after it was deleted",
                            topic.name
                        ));
                    }
                    found.insert(message);
                }
            }
        }
        Ok(found)
    }

    /// A topic is what its rows say it is.
    fn take_stored(&mut self, index: usize, dump: &TopicDump) -> Check {
        let topic = &mut self.archive.topics[index];
        if topic.partitions.len() != dump.partitions.len() || topic.kind != dump.kind {
            return Err(format!(
                "topic \"{}\" is now a {} of {}",
                dump.name,
                dump.kind,
                dump.partitions.len()
            ));
        }
        topic.reconfigured |=
            topic.max_messages != dump.max_messages || topic.max_age_ms != dump.max_age_ms;
        topic.durability = level(&dump.durability)?;
        topic.max_messages = dump.max_messages;
        topic.max_age_ms = dump.max_age_ms;
        topic.dedup_ms = dump.dedup_ms;
        for (partition, extent) in topic.partitions.iter_mut().zip(&dump.partitions) {
            partition.end = extent.end;
        }
        Ok(())
    }
}
