//! What a subscription is told, at the moment it is said: only what it asked for, within its credit.

use dunlin_core::frame::{Delivery, Reply};

use crate::sim::archive::{Check, Told, filter_matches};
use crate::sim::frames::decode;
use crate::sim::model::{Model, Said};
use crate::sim::workload::queue::is_membership;

/// Checks what a subscription is told.
pub(super) fn take_delivery(model: &mut Model, now: u64, said: &Said) -> Check {
    let reply = decode(&said.frame)?;
    let (id, gone) = match &reply {
        Reply::Delivery(delivery) => (delivery.subscription, false),
        Reply::Gap(gap) => (gap.subscription, false),
        Reply::Ended(ended) => (ended.subscription, true),
        Reply::Resync(_) => {
            model.grants.end_all(said.connection);
            return Ok(());
        }
        _ => return Ok(()),
    };
    if is_membership(id) {
        return Ok(());
    }
    let Some(index) = model.grants.open(said.connection, id) else {
        // It ended in this very batch, after this was given to it.
        let known = model.grants.newest.contains_key(&(said.connection, id));
        return if known {
            Ok(())
        } else {
            Err(format!("{reply:?} for a subscription that was never there"))
        };
    };
    if gone {
        model.stats.ended += 1;
        model.grants.end(said.connection, id);
        return Ok(());
    }
    match reply {
        Reply::Delivery(delivery) => {
            model.stats.deliveries += 1;
            check_delivery(model, now, index, &delivery).map_err(|error| {
                format!(
                    "subscription {id} of connection {}: {error}",
                    said.connection
                )
            })
        }
        Reply::Gap(gap) => {
            model.stats.gaps += 1;
            let wish = &model.grants.all[index].wish;
            let sound = match gap.reason {
                "trimmed" => true,
                "dropped" => wish.on_lag.starts_with("drop") || gap.topic.is_some(),
                "truncated" => model.grants.all[index].truncated,
                _ => false,
            };
            if !sound || gap.after > gap.to {
                return Err(format!("a gap that cannot be: {gap:?} for {wish:?}"));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn check_delivery(model: &mut Model, now: u64, index: usize, delivery: &Delivery<'_>) -> Check {
    let message = model.archive.number_of(delivery.payload, delivery.topic)?;
    let granted = &mut model.grants.all[index];
    if let Some(credit) = &mut granted.credit {
        *credit = credit
            .checked_sub(1)
            .ok_or_else(|| format!("message {message} exceeds the credit"))?;
    }
    let told = Told::by(delivery, granted.namespace);
    let granted = &model.grants.all[index];
    model.archive.check_told(message, &told)?;
    if !filter_matches(&granted.wish.filter, delivery.topic) {
        return Err(format!(
            "message {message} on \"{}\" does not match \"{}\"",
            delivery.topic, granted.wish.filter
        ));
    }
    if granted
        .wish
        .partition
        .is_some_and(|only| only != delivery.partition)
    {
        return Err(format!(
            "message {message} of partition {}",
            delivery.partition
        ));
    }
    if delivery.expires_at.is_some_and(|at| at <= now) {
        return Err(format!("message {message} has expired"));
    }
    Ok(())
}
