//! What waits for its time: clients look at it and take it back. It is published with everything else, see `publish`.
//!
//! Checked is that each message is published once, not before its time, in the order of times and numbers, however
//! often the broker begins anew and whatever its clock does; and that what was taken back never is.

mod calendar;

use dunlin_core::frame::{CancelScheduled, Command, List, ListScheduled, Place, Reply};

use super::{Heard, Turn, Workload};
use crate::sim::archive::Check;
use crate::sim::client::Client;
use crate::sim::command;
use crate::sim::model::{Model, Step};

pub(in crate::sim) use self::calendar::{Calendar, fired, place_of, schedule};

#[derive(Clone, Debug)]
pub(in crate::sim) enum Order {
    List {
        filter: String,
        after: Option<u64>,
        scheduled_max: u64,
    },
    Cancel {
        schedule_id: u64,
    },
}

impl Order {
    pub(in crate::sim) fn encode(&self, request: u64, out: &mut Vec<u8>) {
        match self {
            Self::List {
                filter,
                after,
                scheduled_max,
            } => Command::ListScheduled(ListScheduled {
                request,
                filter: Some(filter),
                after: *after,
                scheduled_max: Some(*scheduled_max),
            })
            .encode(out),
            Self::Cancel { schedule_id } => Command::CancelScheduled(CancelScheduled {
                request,
                schedule_id: *schedule_id,
            })
            .encode(out),
        }
    }
}

/// The numbers under which a client's messages wait or waited.
#[derive(Debug, Default)]
pub(in crate::sim) struct Appointments(Vec<u64>);

pub(super) struct Schedules;

impl Workload for Schedules {
    fn plan(&self, client: &mut Client, turn: &mut Turn<'_>) -> Vec<command::Order> {
        let rng = &mut *turn.rng;
        let known = &client.appointments.0;
        if known.is_empty() {
            return Vec::new();
        }
        let order = if rng.once_in(3) {
            Order::List {
                filter: rng.pick(&turn.plan.filters).clone(),
                after: rng.once_in(3).then(|| *rng.pick(known)),
                scheduled_max: rng.between(1, 8),
            }
        } else {
            // Mostly one that still waits.
            let from = known
                .len()
                .saturating_sub(if rng.once_in(4) { 100 } else { 4 });
            Order::Cancel {
                schedule_id: *rng.pick(&known[from..]),
            }
        };
        vec![command::Order::Schedule(order)]
    }

    fn told(&self, model: &mut Model, step: &Step<'_>) -> Check {
        for answer in step.answers() {
            if let (command::Order::Schedule(Order::Cancel { schedule_id }), Reply::Done(done)) =
                (answer.order, answer.reply)
            {
                let request = (answer.connection, done.request);
                calendar::cancel(model, step, answer.namespace, *schedule_id, request)?;
            }
        }
        let (count, max) = (model.namespaces.len(), model.bounds.scheduled_max);
        model.calendar.check_bound(&model.archive, count, max)?;
        for answer in step.answers() {
            let command::Order::Schedule(order) = answer.order else {
                continue;
            };
            match (order, answer.reply) {
                (Order::Cancel { .. }, Reply::Done(_)) => {}
                (
                    Order::List {
                        filter,
                        after,
                        scheduled_max,
                    },
                    Reply::Scheduled(told),
                ) => {
                    let asked = calendar::Asked {
                        namespace: answer.namespace,
                        filter,
                        after: *after,
                        most: *scheduled_max,
                    };
                    calendar::check_list(model, step, &asked, told)
                        .map_err(|error| format!("{order:?}: {error}: {told:?}"))?;
                }
                (
                    Order::Cancel { schedule_id: id }
                    | Order::List {
                        after: Some(id), ..
                    },
                    Reply::Failed(failed),
                ) if failed.code == "unknown_schedule" => {
                    if model
                        .calendar
                        .waits_surely(&model.archive, answer.namespace, *id, step)
                    {
                        return Err(format!("{order:?}: {failed:?}, but it waits"));
                    }
                }
                (Order::Cancel { .. }, Reply::Failed(failed)) => {
                    model.take_refusal(order, failed, &["storage_unavailable"])?;
                }
                _ => return answer.is_none_of_these(),
            }
        }
        Ok(())
    }

    fn heard(&self, client: &mut Client, _model: &Model, heard: &Heard<'_>) -> Check {
        let known = &mut client.appointments.0;
        match heard.reply {
            Reply::Receipt(receipt) => known.extend(receipt.schedule_id),
            Reply::Receipts(told) => {
                let receipts: List<'_, Place<'_>> = told.receipts;
                known.extend(
                    receipts
                        .iter()
                        .flatten()
                        .filter_map(|place| place.schedule_id),
                );
            }
            _ => {}
        }
        Ok(())
    }

    fn check(&self, client: &Client, model: &Model, _now: u64) -> Check {
        model.calendar.check_empty(&model.archive, client.namespace)
    }
}
