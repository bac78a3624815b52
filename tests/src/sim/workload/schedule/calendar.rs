//! What waits, since when and until when, and what ended its wait.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_core::frame::{Reply, Scheduled, ScheduledMessage};
use dunlin_core::{Durability, Effect, Op, Row};

use crate::sim::archive::{Archive, Check, filter_matches};
use crate::sim::command;
use crate::sim::model::{Model, Step};
use crate::sim::recovery::{Ended, When};
use crate::sim::rows::{StateRow, read_state_row};

use super::Order;

/// A message that waits, or waited.
#[derive(Debug)]
struct Appointment {
    namespace: usize,
    id: u64,
    topic: usize,
    at: u64,
    level: Durability,
    made: When,
    /// When it was published or taken back.
    ended: Option<When>,
}

/// What was ever scheduled, by message.
#[derive(Debug, Default)]
pub(in crate::sim) struct Calendar {
    all: BTreeMap<usize, Appointment>,
    /// What the answer to a cancel waits for.
    waits: BTreeMap<(u64, u64), (u64, Durability)>,
}

/// What a client asks to see.
pub(super) struct Asked<'a> {
    pub(super) namespace: usize,
    pub(super) filter: &'a str,
    pub(super) after: Option<u64>,
    pub(super) most: u64,
}

impl Appointment {
    fn waits(&self, archive: &Archive) -> bool {
        self.ended.is_none() && !archive.topics[self.topic].deleted
    }

    const fn place(&self) -> (u64, u64) {
        (self.at, self.id)
    }
}

impl Calendar {
    /// What waits in a namespace.
    fn waiting<'a>(
        &'a self,
        archive: &'a Archive,
        namespace: usize,
    ) -> impl Iterator<Item = (usize, &'a Appointment)> {
        let all = self.all.iter();
        all.filter(move |(_, one)| one.namespace == namespace && one.waits(archive))
            .map(|(message, one)| (*message, one))
    }

    /// The newest that had a number; one that a crash took may leave it to another.
    fn find(&self, namespace: usize, id: u64) -> Option<(usize, &Appointment)> {
        let mut all = self.all.iter().rev();
        all.find(|(_, one)| (one.namespace, one.id) == (namespace, id))
            .map(|(message, one)| (*message, one))
    }

    /// How many messages wait in a namespace.
    pub(in crate::sim) fn count(&self, archive: &Archive, namespace: usize) -> u64 {
        self.waiting(archive, namespace).count() as u64
    }

    /// How many were taken from those that wait in the newest step that did so.
    pub(in crate::sim) fn ended_last(&self, namespace: usize) -> u64 {
        let of_namespace = self.all.values().filter(|one| one.namespace == namespace);
        let ended: Vec<When> = of_namespace.filter_map(|one| one.ended).collect();
        let newest = ended.iter().map(|when| (when.life, when.write)).max();
        let ended = ended
            .iter()
            .filter(|when| Some((when.life, when.write)) == newest);
        ended.count() as u64
    }

    /// Whether one waits, and did before this step.
    pub(super) fn waits_surely(
        &self,
        archive: &Archive,
        namespace: usize,
        id: u64,
        step: &Step<'_>,
    ) -> bool {
        let found = self.find(namespace, id);
        found.is_some_and(|(_, one)| one.waits(archive) && one.made != step.when(archive))
    }

    /// What an answer that leaves waits for, if it is one to a cancel.
    pub(in crate::sim) fn waits_for(
        &self,
        connection: u64,
        request: u64,
    ) -> Option<(u64, Durability)> {
        self.waits.get(&(connection, request)).copied()
    }

    /// What a receipt with this number waits for.
    pub(in crate::sim) fn receipt_waits_for(
        &self,
        namespace: usize,
        id: u64,
        life: u64,
    ) -> Result<Option<(u64, Durability)>, String> {
        let (_, one) = self
            .find(namespace, id)
            .ok_or_else(|| format!("nothing was scheduled as {id}"))?;
        // What was restored is durable.
        Ok((one.made.life == life).then_some((one.made.write, one.level)))
    }

    /// No namespace has more waiting than it may.
    pub(super) fn check_bound(&self, archive: &Archive, namespaces: usize, max: u64) -> Check {
        for namespace in 0..namespaces {
            let count = self.count(archive, namespace);
            if count > max {
                return Err(format!("{count} messages wait, scheduled_max is {max}"));
            }
        }
        Ok(())
    }

    pub(in crate::sim) fn check_empty(&self, archive: &Archive, namespace: usize) -> Check {
        match self.waiting(archive, namespace).next() {
            Some((message, one)) => Err(format!("message {message} was never published: {one:?}")),
            None => Ok(()),
        }
    }

    /// A life ended. What it had not stored is not there, or waits again; all the rest is stored, and nothing else is.
    pub(in crate::sim) fn recover(
        &mut self,
        ended: Ended,
        archive: &Archive,
        namespaces: &[String],
        rows: &[Row],
    ) -> Check {
        self.waits.clear();
        self.all.retain(|_, one| !one.made.is_lost(ended));
        for one in self.all.values_mut() {
            one.ended = one.ended.filter(|when| !when.is_lost(ended));
        }
        let mut stored = BTreeSet::new();
        let mut bodies = BTreeSet::new();
        for row in rows {
            match read_state_row(&row.key, &row.value) {
                Some(StateRow::Scheduled { namespace, at, id }) => {
                    stored.insert((namespace, at, id));
                }
                Some(StateRow::ScheduledBody { namespace, at, id }) => {
                    bodies.insert((namespace, at, id));
                }
                _ => {}
            }
        }
        for (message, one) in &self.all {
            let key = (&*namespaces[one.namespace], one.at, one.id);
            let is_there = stored.remove(&key);
            if is_there != one.waits(archive) || (is_there && !bodies.contains(&key)) {
                return Err(format!(
                    "after the crash of life {} with {} writes: message {message} is stored as waiting: {is_there}, with its \
                     body: {}, but {one:?}",
                    ended.life,
                    ended.kept,
                    bodies.contains(&key)
                ));
            }
        }
        match stored.first() {
            Some(key) => Err(format!(
                "{key:?} waits in the store, and was never scheduled"
            )),
            None => Ok(()),
        }
    }
}

/// A receipt says that a message waits.
pub(in crate::sim) fn schedule(
    model: &mut Model,
    step: &Step<'_>,
    message: usize,
    id: u64,
    asked: Durability,
) -> Check {
    let archive = &model.archive;
    let draft = &archive.drafts[message];
    let at = draft.later.map_or(0, |later| later.at(step.now));
    if at <= step.now {
        return Err(format!(
            "message {message} waits for {at}, which is past: {draft:?}"
        ));
    }
    let topic = archive.topic_named(draft.namespace, &draft.topic);
    let topic = topic.ok_or_else(|| format!("message {message} waits for no topic"))?;
    let one = Appointment {
        namespace: draft.namespace,
        id,
        topic,
        at,
        level: asked.max(archive.topics[topic].durability),
        made: step.when(archive),
        ended: None,
    };
    let twice = archive.at_sequence(draft.namespace, id).is_some()
        || model.calendar.find(draft.namespace, id).is_some();
    if twice || model.calendar.all.insert(message, one).is_some() {
        return Err(format!(
            "message {message} waits under {id}, which was given before"
        ));
    }
    Ok(())
}

/// The messages that were taken from those that wait, but by nobody: their time has come, and that of all before them.
pub(in crate::sim) fn fired(model: &mut Model, step: &Step<'_>) -> Result<BTreeSet<usize>, String> {
    let cancelled: BTreeSet<(usize, u64)> = step
        .answers()
        .filter_map(|answer| match (answer.order, answer.reply) {
            (command::Order::Schedule(Order::Cancel { schedule_id }), Reply::Done(_)) => {
                Some((answer.namespace, *schedule_id))
            }
            _ => None,
        })
        .collect();
    let mut fired = BTreeMap::new();
    for effect in step.effects {
        let Effect::Write { ops, .. } = effect else {
            continue;
        };
        for op in ops {
            let Op::Delete { key } = op else { continue };
            let Some(StateRow::Scheduled { namespace, id, .. }) = read_state_row(key, &[]) else {
                continue;
            };
            let namespace = model.known_namespace(namespace)?;
            let (message, one) = model
                .calendar
                .find(namespace, id)
                .ok_or_else(|| format!("{id} is taken from what waits, and never was there"))?;
            if cancelled.contains(&(namespace, id)) || !one.waits(&model.archive) {
                continue;
            }
            if one.at > step.now {
                return Err(format!("message {message} is published too soon: {one:?}"));
            }
            fired.insert((namespace, one.place()), message);
        }
    }
    let when = step.when(&model.archive);
    for message in fired.values() {
        let one = model.calendar.all.get_mut(message);
        one.expect("it was just found").ended = Some(when);
    }
    for (namespace, last) in fired.keys() {
        let mut waiting = model.calendar.waiting(&model.archive, *namespace);
        if let Some((message, one)) = waiting.find(|(_, one)| one.place() < *last) {
            return Err(format!(
                "message {message} still waits, while one of {last:?} is published: {one:?}"
            ));
        }
    }
    Ok(fired.into_values().collect())
}

/// Where in the order of time a message waited.
pub(in crate::sim) fn place_of(model: &Model, message: usize) -> Option<(u64, u64)> {
    model.calendar.all.get(&message).map(Appointment::place)
}

pub(super) fn cancel(
    model: &mut Model,
    step: &Step<'_>,
    namespace: usize,
    id: u64,
    request: (u64, u64),
) -> Check {
    let when = step.when(&model.archive);
    let found = model.calendar.find(namespace, id);
    let message = found.map(|(message, _)| message);
    let message = message.ok_or_else(|| format!("{id} is cancelled, and never was there"))?;
    let one = model.calendar.all.get_mut(&message);
    let one = one.expect("it was just found");
    if !one.waits(&model.archive) {
        return Err(format!(
            "message {message} is cancelled, but does not wait: {one:?}"
        ));
    }
    one.ended = Some(when);
    let level = model.archive.topics[one.topic].durability;
    model.calendar.waits.insert(request, (when.write, level));
    Ok(())
}

/// A page shows what waits, in order, and leaves nothing out. What this very step changed may show or not.
pub(super) fn check_list(
    model: &Model,
    step: &Step<'_>,
    asked: &Asked<'_>,
    told: &Scheduled<'_>,
) -> Check {
    let (calendar, archive) = (&model.calendar, &model.archive);
    let now = step.when(archive);
    let page: Result<Vec<ScheduledMessage<'_>>, _> = told.scheduled.iter().collect();
    let page = page.map_err(|_| "a malformed page".to_owned())?;
    let after = asked
        .after
        .and_then(|after| calendar.find(asked.namespace, after));
    let mut last = after.map(|(_, one)| one.place());
    let first = last;
    let mut shown = BTreeSet::new();
    for one in &page {
        let Some((message, known)) = calendar.find(asked.namespace, one.schedule_id) else {
            return Err(format!("{} was never scheduled", one.schedule_id));
        };
        let waited = known.waits(archive) || known.ended == Some(now);
        let draft = &archive.drafts[message];
        let is_so = (one.deliver_at, one.size_bytes, one.topic)
            == (known.at, draft.size_bytes(), &draft.topic)
            && (one.key, one.id) == (draft.key.as_deref(), draft.id.as_deref());
        if !waited || !is_so || !filter_matches(asked.filter, one.topic) {
            return Err(format!(
                "message {message} is {known:?}, {draft:?}, told {one:?}"
            ));
        }
        if last.is_some_and(|last| last >= known.place()) {
            return Err(format!("{one:?} is out of order"));
        }
        last = Some(known.place());
        shown.insert(message);
    }
    let most = asked.most.min(model.bounds.list_scheduled_max);
    if page.len() as u64 > most || (told.more && (page.len() as u64) < most) {
        return Err(format!("{} are shown, {most} are allowed", page.len()));
    }
    let end = if told.more { last } else { None };
    let left_out = calendar
        .waiting(archive, asked.namespace)
        .find(|(message, one)| {
            one.made != now
                && !shown.contains(message)
                && first.is_none_or(|first| one.place() > first)
                && end.is_none_or(|end| one.place() <= end)
                && filter_matches(asked.filter, &archive.topics[one.topic].name)
        });
    match left_out {
        Some((message, one)) => Err(format!("message {message} is left out: {one:?}")),
        None => Ok(()),
    }
}
