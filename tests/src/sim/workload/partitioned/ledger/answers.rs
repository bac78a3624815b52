//! What is answered to members of partitioned groups, and what the broker is bound to by it.

use std::collections::BTreeMap;

use dunlin_core::frame::{GroupDescription, Reply};
use dunlin_core::{Durability, Effect};

use crate::sim::archive::Check;
use crate::sim::model::{Answer, Model, Step};

use super::super::Order;
use super::{Floor, GroupKey, Seat, log_key, skips};

pub(super) fn take_answer(
    model: &mut Model,
    step: &Step<'_>,
    answer: &Answer<'_>,
    order: &Order,
    ended: &BTreeMap<(u64, u32), String>,
) -> Check {
    let (life, write) = (model.archive.life, step.write);
    match (order, answer.reply) {
        (
            Order::Configure { group, .. } | Order::Describe { group },
            Reply::GroupDescription(told),
        ) => {
            take_description(model, (answer.namespace, group), told, (life, write))?;
        }
        (
            Order::Join {
                subscription,
                group,
                member,
                filters,
                credit,
            },
            Reply::Joined(told),
        ) => {
            if member.as_ref().is_some_and(|asked| asked != told.member) {
                return Err(format!("{order:?} made a member \"{}\"", told.member));
            }
            let seat = Seat {
                group: (answer.namespace, group),
                member: told.member.to_owned(),
                is_named: member.is_some(),
                filters: filters.clone(),
                credit: *credit,
                credit_most: credit.unwrap_or(0),
            };
            let ledger = &mut model.ledger;
            ledger.group(seat.group).away.remove(&seat.member);
            for ((of, name, ..), hold) in &mut ledger.holds {
                if (*of, *name) == seat.group && hold.member == seat.member {
                    hold.is_moved = true;
                    hold.revoked = None;
                }
            }
            // Whoever had the name is ended in this step, and has nothing more.
            let replaced =
                |other: &Seat| (other.group, &other.member) == (seat.group, &seat.member);
            ledger.seats.retain(|_, other| !replaced(other));
            ledger
                .seats
                .insert((answer.connection, *subscription), seat);
        }
        (Order::Leave { subscription }, Reply::Done(_)) => {
            let key = (answer.connection, *subscription);
            model.ledger.part(key, step.now, 0, false);
        }
        (Order::Commit { .. }, reply) => take_commit(model, step, answer, order, reply, ended)?,
        (Order::Pause { group, paused }, Reply::Done(_)) => {
            model.ledger.group((answer.namespace, group)).paused = paused.then_some((life, write));
        }
        (Order::Reset { group, topic, to }, Reply::Done(_)) => {
            reset(model, step, (answer.namespace, group), topic, to)?;
        }
        (Order::Join { .. }, Reply::Failed(failed)) => {
            // The last, where a filter is the name of a live topic.
            let codes = ["storage_unavailable", "limit_reached", "conflicting_config"];
            model.take_refusal(order, failed, &codes)?;
        }
        (Order::Leave { .. }, Reply::Failed(failed)) => {
            let codes = [
                "unknown_subscription",
                "unknown_member",
                "storage_unavailable",
            ];
            model.take_refusal(order, failed, &codes)?;
        }
        (Order::Configure { .. }, Reply::Failed(failed)) => {
            model.take_refusal(order, failed, &["storage_unavailable"])?;
        }
        (Order::Describe { group }, Reply::Failed(failed)) => {
            let known = model.ledger.group((answer.namespace, group));
            if known.told.is_some() {
                return Err(format!("\"{group}\" is gone: {known:?}"));
            }
            model.take_refusal(order, failed, &["unknown_group"])?;
        }
        (Order::Pause { .. }, Reply::Failed(failed)) => {
            model.take_refusal(order, failed, &["unknown_group", "storage_unavailable"])?;
        }
        (Order::Reset { .. }, Reply::Failed(failed)) => {
            let codes = [
                "unknown_group",
                "unknown_topic",
                "unknown_partition",
                "storage_unavailable",
            ];
            model.take_refusal(order, failed, &codes)?;
        }
        _ => return answer.is_none_of_these(),
    }
    Ok(())
}

/// Generations rise, and what was committed does not go back.
fn take_description(
    model: &mut Model,
    key: GroupKey,
    told: &GroupDescription<'_>,
    when: (u64, u64),
) -> Check {
    for one in told.partitions.iter().flatten() {
        let log = log_key(&model.archive, key, one.topic, one.partition)?;
        let (low, _) = model.ledger.floor(log);
        if one.committed_offset < low {
            return Err(format!(
                "\"{}\" {} of \"{}\" is at {}, but was at {low}",
                one.topic, one.partition, key.1, one.committed_offset
            ));
        }
    }
    let group = model.ledger.group(key);
    if told.generation < group.generation {
        return Err(format!(
            "generation {} follows {}",
            told.generation, group.generation
        ));
    }
    group.generation = told.generation;
    group.filters = told.filters.iter().map(str::to_owned).collect();
    group.told.get_or_insert(when);
    Ok(())
}

/// A commit holds if every partition is the member's, in its generation, and was read so far.
fn take_commit(
    model: &mut Model,
    step: &Step<'_>,
    answer: &Answer<'_>,
    order: &Order,
    reply: &Reply<'_>,
    ended: &BTreeMap<(u64, u32), String>,
) -> Check {
    let Order::Commit {
        subscription,
        generation,
        offsets,
    } = order
    else {
        return answer.is_none_of_these();
    };
    let key = (answer.connection, *subscription);
    let rebalance_ms = model.bounds.rebalance_ms;
    let mut wrong = None;
    let mut is_unsure = ended.contains_key(&key);
    let mut logs = Vec::new();
    let seat = model.ledger.seats.get(&key).cloned();
    if let Some(seat) = &seat {
        for (topic, partition, offset) in offsets {
            let Ok(log) = log_key(&model.archive, seat.group, topic, *partition) else {
                wrong = Some(format!("\"{topic}\" is not there"));
                break;
            };
            logs.push((log, *offset));
            let Some(hold) = model.ledger.holds.get(&log) else {
                wrong = Some(format!("\"{topic}\" {partition} is nobody's"));
                break;
            };
            is_unsure |= model
                .ledger
                .may_be_lost(seat.group, hold, step.now, rebalance_ms);
            if hold.member != seat.member || hold.is_moved || *generation < hold.since {
                wrong = Some(format!("\"{topic}\" {partition} is {hold:?}"));
            } else if *offset > hold.next {
                let skipped = skips(model, log, hold.next, *offset);
                let end = model.archive.topics[log.2].partitions[log.3 as usize].end;
                if skipped.is_some() || *offset > end {
                    wrong = Some(format!("\"{topic}\" {partition} was read to {}", hold.next));
                }
                is_unsure = true;
            }
        }
    } else {
        wrong = Some("it is no member".to_owned());
    }
    match reply {
        Reply::Done(_) => {
            if let Some(wrong) = wrong {
                return Err(format!("{order:?} holds, but {wrong}"));
            }
        }
        Reply::Failed(failed) => {
            if wrong.is_none() && !is_unsure && failed.code != "storage_unavailable" {
                return Err(format!("{order:?} is refused: {failed:?}"));
            }
            let codes = [
                "stale_generation",
                "offset_out_of_range",
                "unknown_member",
                "unknown_topic",
                "unknown_partition",
                "invalid_argument",
                "storage_unavailable",
            ];
            return model.take_refusal(order, failed, &codes);
        }
        _ => return answer.is_none_of_these(),
    }
    let mut level = Durability::None;
    for (log, offset) in logs {
        level = level.max(model.archive.topics[log.2].durability);
        let (low, high) = model.ledger.floor(log);
        let floor = Floor {
            life: model.archive.life,
            write: step.write,
            low: low.max(offset),
            high: high.max(offset),
        };
        model.ledger.floors.entry(log).or_default().push(floor);
    }
    // What moves nothing waits for what was written before.
    let writes = step
        .effects
        .iter()
        .any(|effect| matches!(effect, Effect::Write { .. }));
    let waits = (step.write - u64::from(!writes), level);
    let request = (answer.connection, answer.pending.request.number);
    model.ledger.waits.insert(request, waits);
    Ok(())
}

fn reset(model: &mut Model, step: &Step<'_>, group: GroupKey, topic: &str, to: &str) -> Check {
    let archive = &model.archive;
    let (_, _, index, _) = log_key(archive, group, topic, 0)?;
    for (number, partition) in (0..).zip(&archive.topics[index].partitions) {
        let log = (group.0, group.1, index, number);
        let (low, high) = if to == "earliest" {
            (partition.start_before.min(partition.start), partition.start)
        } else {
            // It may have been before or after what was published in the same step.
            let all = archive.there(index, number, 0..partition.end, archive.life);
            let mut fresh = all.filter(|(_, message)| {
                let place = archive.newest(*message);
                place.is_some_and(|place| (place.life, place.write) == (archive.life, step.write))
            });
            let first = fresh.next().map_or(partition.end, |(first, _)| first);
            (first, partition.end)
        };
        let floor = Floor {
            life: archive.life,
            write: step.write,
            low,
            high,
        };
        model.ledger.floors.entry(log).or_default().push(floor);
        if let Some(hold) = model.ledger.holds.get_mut(&log) {
            hold.is_moved = true;
            hold.revoked = None;
        }
    }
    Ok(())
}
