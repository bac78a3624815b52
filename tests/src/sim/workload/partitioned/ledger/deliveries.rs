//! What members of partitioned groups are given: partitions, messages, and what they will not get.

use dunlin_core::frame::{Assignment, Delivery, Gap, Position};

use crate::sim::archive::{Check, Told, filter_matches};
use crate::sim::model::{Model, Step};

use super::{Hold, LogKey, Seat, log_key, skips};

pub(super) fn take_assignment(
    model: &mut Model,
    step: &Step<'_>,
    connection: u64,
    told: &Assignment<'_>,
) -> Check {
    let key = (connection, told.subscription);
    let Some(seat) = model.ledger.seats.get(&key).cloned() else {
        return Err("it is no member".to_owned());
    };
    let group = model.ledger.group(seat.group);
    if told.generation < group.generation {
        return Err(format!("it follows generation {}", group.generation));
    }
    group.generation = told.generation;
    for one in told.assigned.iter().flatten() {
        let log = log_key(&model.archive, seat.group, one.topic, one.partition)?;
        check_assigned(model, step.now, &seat, log, told.generation, &one)?;
        let hold = Hold {
            member: seat.member.clone(),
            since: told.generation,
            next: one.offset,
            revoked: None,
            is_moved: false,
        };
        model.ledger.holds.insert(log, hold);
    }
    for one in told.revoked.iter().flatten() {
        let log = log_key(&model.archive, seat.group, one.topic, one.partition)?;
        let hold = model.ledger.holds.get_mut(&log);
        let hold = hold.filter(|hold| hold.member == seat.member && hold.revoked.is_none());
        let hold = hold.ok_or_else(|| format!("it is to let go of {one:?}, which it has not"))?;
        hold.revoked = Some(told.generation);
        model
            .ledger
            .group(seat.group)
            .waits_since
            .get_or_insert(step.now);
    }
    Ok(())
}

/// A partition is given to a member that takes it, when nobody has it, at the place that the group committed.
fn check_assigned(
    model: &Model,
    now: u64,
    seat: &Seat,
    log: LogKey,
    generation: u64,
    one: &Position<'_>,
) -> Check {
    if !seat
        .filters
        .iter()
        .any(|filter| filter_matches(filter, one.topic))
    {
        return Err(format!("{one:?} does not match {:?}", seat.filters));
    }
    if let Some(hold) = model.ledger.holds.get(&log) {
        let rebalance_ms = model.bounds.rebalance_ms;
        if hold.member == seat.member {
            // It was taken away, by its own word or because it took too long, or it is told again.
            if !model
                .ledger
                .may_be_lost(seat.group, hold, now, rebalance_ms)
            {
                return Err(format!("{one:?} is its own already: {hold:?}"));
            }
        } else if !model
            .ledger
            .may_be_lost(seat.group, hold, now, rebalance_ms)
        {
            return Err(format!("{one:?} is another's: {hold:?}"));
        } else if generation <= hold.since {
            return Err(format!(
                "{one:?} is given in the generation of another: {hold:?}"
            ));
        }
    }
    let (low, high) = model.ledger.floor(log);
    let partition = &model.archive.topics[log.2].partitions[log.3 as usize];
    let high = high.max(partition.start);
    let allowed =
        one.offset >= low && (one.offset <= high || skips(model, log, high, one.offset).is_none());
    if allowed {
        Ok(())
    } else {
        Err(format!(
            "{one:?} begins elsewhere than the group is, {low} to {high}"
        ))
    }
}

pub(super) fn take_delivery(
    model: &mut Model,
    now: u64,
    connection: u64,
    delivery: &Delivery<'_>,
) -> Check {
    let key = (connection, delivery.subscription);
    let Some(seat) = model.ledger.seats.get(&key).cloned() else {
        return Err("it is no member".to_owned());
    };
    let message = model.archive.number_of(delivery.payload, delivery.topic)?;
    let told = Told::by(delivery, seat.group.0);
    model.archive.check_told(message, &told)?;
    if delivery.expires_at.is_some_and(|at| at <= now) {
        return Err(format!("message {message} has expired"));
    }
    if delivery.lease.is_some() || delivery.attempt.is_some() {
        return Err("it has a lease".to_owned());
    }
    let log = log_key(
        &model.archive,
        seat.group,
        delivery.topic,
        delivery.partition,
    )?;
    let hold = model.ledger.holds.get(&log);
    let hold =
        hold.filter(|hold| hold.member == seat.member && !hold.is_moved && hold.revoked.is_none());
    let next = hold.ok_or("the partition is not its own")?.next;
    if delivery.offset < next {
        return Err(format!("it was read to {next}"));
    }
    if let Some(skipped) = skips(model, log, next, delivery.offset) {
        let place = model.archive.newest(skipped);
        return Err(format!(
            "message {skipped} was passed over: {place:?}, {hold:?}"
        ));
    }
    if model.ledger.group(seat.group).paused.is_some() {
        return Err("the group stands still".to_owned());
    }
    let ledger = &mut model.ledger;
    if let Some(hold) = ledger.holds.get_mut(&log) {
        hold.next = delivery.offset + 1;
    }
    if let Some(credit) = ledger
        .seats
        .get_mut(&key)
        .and_then(|seat| seat.credit.as_mut())
    {
        *credit = credit.checked_sub(1).ok_or("it exceeds the credit")?;
    }
    Ok(())
}

pub(super) fn take_gap(model: &mut Model, connection: u64, gap: &Gap<'_>) -> Check {
    let key = (connection, gap.subscription);
    let seat = model
        .ledger
        .seats
        .get(&key)
        .cloned()
        .ok_or("it is no member")?;
    let (Some(topic), Some(partition), Some(from), Some(to)) =
        (gap.topic, gap.partition, gap.from_offset, gap.to_offset)
    else {
        return Err("it does not say where".to_owned());
    };
    let log = log_key(&model.archive, seat.group, topic, partition)?;
    let start = model.archive.topics[log.2].partitions[log.3 as usize].start;
    let hold = model
        .ledger
        .holds
        .get(&log)
        .filter(|hold| hold.member == seat.member);
    let next = hold.ok_or("the partition is not its own")?.next;
    if from < next || from >= to || to > start || gap.count != Some(to - from) {
        return Err(format!("it was read to {next}, the log begins at {start}"));
    }
    if let Some(skipped) = skips(model, log, next, from) {
        return Err(format!("message {skipped} was passed over"));
    }
    if let Some(hold) = model.ledger.holds.get_mut(&log) {
        hold.next = to;
    }
    Ok(())
}
