//! Who waits for which answer until when, and whether anybody would hear a question.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_core::frame::Reply;

use crate::sim::archive::{Check, filter_matches};
use crate::sim::command;
use crate::sim::frames::decode;
use crate::sim::model::{Model, Step};
use crate::sim::workload::subscribe;

use super::Order;

/// How long a question waits that does not say so, in milliseconds.
const TIMEOUT_MS: u64 = 30_000;

/// Somebody who waits for an answer: a connection and the number of its command.
type Asker = (u64, u64);

/// A question that was published under a number.
#[derive(Clone, Copy, Debug)]
struct Inquiry {
    asker: Asker,
    message: usize,
    life: u64,
    /// Not known where it is not known when it was published.
    deadline: Option<u64>,
    /// Whether it was answered, or is given up.
    is_over: bool,
    /// Whether it is of this step: an answer in the same step was a guess, and may have come before it.
    is_fresh: bool,
}

/// Every question that was ever published, by namespace and number.
#[derive(Debug, Default)]
pub(in crate::sim) struct Inquiries {
    all: BTreeMap<(usize, u64), Inquiry>,
    /// The numbers that were stored in this step.
    pub(in crate::sim) stored: Vec<(usize, u64)>,
    /// The subscriptions that there were after the newest step.
    hearers: BTreeSet<(u64, u32)>,
}

/// A question as it was given.
pub(in crate::sim) struct Asked {
    pub(in crate::sim) asker: Asker,
    /// Its place among the commands of its connection.
    pub(in crate::sim) order: u64,
    pub(in crate::sim) message: usize,
    timeout_ms: u64,
}

/// The questions that wait for answers, and those that were answered in this step.
pub(in crate::sim) fn under_way<'a>(
    model: &'a Model,
    step: &'a Step<'_>,
) -> impl Iterator<Item = Asked> + 'a {
    let waiting = model.connections.iter().flat_map(|(id, connection)| {
        let pending = connection.pending.iter();
        pending.map(|(number, pending)| ((*id, *number), pending))
    });
    let answered = step.replies.iter();
    let answered = answered.map(|(asker, (pending, _))| (*asker, pending));
    waiting.chain(answered).filter_map(|(asker, pending)| {
        let command::Order::Request(Order::Ask {
            message,
            timeout_ms,
        }) = pending.request.order
        else {
            return None;
        };
        Some(Asked {
            asker,
            order: pending.order,
            message,
            timeout_ms: timeout_ms.unwrap_or(TIMEOUT_MS),
        })
    })
}

pub(super) fn take_step(model: &mut Model, step: &Step<'_>) -> Check {
    learn_numbers(model, step)?;
    let answered = take_answers(model, step)?;
    let mut refused = Vec::new();
    for answer in step.answers() {
        let command::Order::Request(order) = answer.order else {
            continue;
        };
        let asker = (answer.connection, answer.pending.request.number);
        match (order, answer.reply) {
            (Order::Ask { .. }, Reply::Response(response)) => {
                let given = answered.get(&asker);
                if given.is_none_or(|given| given.as_bytes() != response.payload) {
                    return Err(format!(
                        "{order:?} is answered {response:?}, the answer was {given:?}"
                    ));
                }
            }
            (
                Order::Ask {
                    message,
                    timeout_ms,
                },
                Reply::Failed(failed),
            ) if failed.code == "timeout" => {
                let timeout_ms = timeout_ms.unwrap_or(TIMEOUT_MS);
                take_timeout(model, step, asker, answer.pending.given_at + timeout_ms)
                    .map_err(|error| format!("message {message}: {error}"))?;
            }
            (Order::Ask { message, .. }, Reply::Failed(failed)) => {
                let codes = [
                    "storage_unavailable",
                    "subscriber_blocked",
                    "limit_reached",
                    "no_responders",
                    "draining",
                ];
                model.take_refusal(order, failed, &codes)?;
                model.archive.refuse(*message)?;
                refused.push((*message, failed.code.to_owned(), failed.message.to_owned()));
            }
            (Order::Answer { .. }, Reply::Done(_)) => {}
            (Order::Answer { reply_to, .. }, Reply::Failed(failed)) => {
                model.take_refusal(order, failed, &["unknown_request"])?;
                let known = model.inquiries.all.get(&(answer.namespace, *reply_to));
                let waits = known.filter(|known| {
                    !known.is_over
                        && !known.is_fresh
                        && known.life == model.archive.life
                        && model.connections.contains_key(&known.asker.0)
                });
                if let Some(known) = waits.filter(|known| !step.is_leaving(known.asker.0)) {
                    return Err(format!("{order:?}: {failed:?}, but {known:?} waits"));
                }
            }
            _ => return answer.is_none_of_these(),
        }
    }
    for (message, code, told) in refused {
        check_refused(model, step, message, &code, &told)
            .map_err(|error| format!("message {message} is refused as {code}: {error}"))?;
    }
    for asked in under_way(model, step) {
        check_heard(model, step, &asked)?;
    }
    check_deadlines(model, step)?;
    model.inquiries.hearers = hearers(model, step).collect();
    Ok(())
}

/// Notes under which number each question can be answered, where it is stored or delivered.
fn learn_numbers(model: &mut Model, step: &Step<'_>) -> Check {
    let mut found = core::mem::take(&mut model.inquiries.stored);
    for said in step.said {
        if let Reply::Delivery(delivery) = decode(&said.frame)?
            && let Some(reply_to) = delivery.reply_to
        {
            found.push((
                model.archive.number_of(delivery.payload, delivery.topic)?,
                reply_to,
            ));
        }
    }
    let life = model.archive.life;
    for (message, reply_to) in found {
        let namespace = model.archive.drafts[message].namespace;
        if let Some(known) = model.inquiries.all.get(&(namespace, reply_to)) {
            if known.message != message {
                return Err(format!(
                    "message {message} is to be answered to {reply_to}, as {known:?} is"
                ));
            }
            continue;
        }
        let place = model.archive.newest(message);
        let is_new = place.is_some_and(|place| place.life == life && place.timestamp == step.now);
        let asked = under_way(model, step).find(|asked| asked.message == message);
        // Who asked may be gone, or was told before that it took too long.
        let (asker, timeout_ms) = asked
            .as_ref()
            .map_or(((0, 0), 0), |asked| (asked.asker, asked.timeout_ms));
        let inquiry = Inquiry {
            asker,
            message,
            life,
            deadline: is_new.then_some(step.now + timeout_ms),
            is_over: asked.is_none(),
            is_fresh: true,
        };
        model.inquiries.all.insert((namespace, reply_to), inquiry);
    }
    Ok(())
}

/// The answers that were taken in this step, by who gets them. The first wins, and it alone.
fn take_answers(model: &mut Model, step: &Step<'_>) -> Result<BTreeMap<Asker, String>, String> {
    let mut answered = BTreeMap::new();
    for answer in step.answers() {
        let (command::Order::Request(Order::Answer { reply_to, payload }), Reply::Done(_)) =
            (answer.order, answer.reply)
        else {
            continue;
        };
        let life = model.archive.life;
        let known = model.inquiries.all.get_mut(&(answer.namespace, *reply_to));
        let known = known.filter(|known| !known.is_over && known.life == life);
        let known = known.ok_or_else(|| format!("{:?} is taken, nobody waits", answer.order))?;
        known.is_over = true;
        let is_told = step
            .replies
            .get(&known.asker)
            .is_some_and(|(_, reply)| matches!(reply, Reply::Response(_)));
        if !is_told {
            return Err(format!(
                "{:?} is taken, but {known:?} is not told",
                answer.order
            ));
        }
        answered.insert(known.asker, payload.clone());
    }
    Ok(answered)
}

/// Nobody answered in time.
fn take_timeout(model: &mut Model, step: &Step<'_>, asker: Asker, earliest: u64) -> Check {
    let life = model.archive.life;
    let mut all = model.inquiries.all.values_mut();
    let known = all.find(|known| known.asker == asker && known.life == life);
    let deadline = known.as_ref().and_then(|known| known.deadline);
    let deadline = deadline.unwrap_or(earliest);
    if step.now < deadline {
        return Err(format!("given up before {deadline}: {known:?}"));
    }
    if let Some(known) = known
        && core::mem::replace(&mut known.is_over, true)
    {
        return Err(format!("given up after an answer: {known:?}"));
    }
    Ok(())
}

/// Whoever waits still has time, and no more wait than may.
fn check_deadlines(model: &mut Model, step: &Step<'_>) -> Check {
    let life = model.archive.life;
    let connections = &model.connections;
    let mut counts: BTreeMap<usize, u64> = BTreeMap::new();
    for ((namespace, reply_to), known) in &mut model.inquiries.all {
        known.is_fresh = false;
        if known.is_over {
            continue;
        }
        if known.life != life || !connections.contains_key(&known.asker.0) {
            known.is_over = true;
            continue;
        }
        if step.is_leaving(known.asker.0) {
            continue;
        }
        // A batch of nothing does not tell the broker what time it is.
        let tells_time = !step.given.is_empty();
        if tells_time && known.deadline.is_some_and(|deadline| deadline <= step.now) {
            return Err(format!("{reply_to} is not given up: {known:?}"));
        }
        let count = counts.entry(*namespace).or_default();
        *count += 1;
        if *count > model.bounds.requests_max {
            return Err(format!("{count} questions wait for answers"));
        }
    }
    Ok(())
}

/// A question is refused for want of hearers exactly if there is none, and for their number only if it is reached.
fn check_refused(model: &Model, step: &Step<'_>, message: usize, code: &str, told: &str) -> Check {
    let draft = &model.archive.drafts[message];
    let namespace = draft.namespace;
    match code {
        "no_responders" => {
            let hears = hearers(model, step).find(|key| {
                let granted = model.grants.granted(key.0, key.1);
                model.inquiries.hearers.contains(key)
                    && granted.namespace == namespace
                    && granted.wish.partition.is_none()
                    && filter_matches(&granted.wish.filter, &draft.topic)
            });
            match hears {
                Some(key) => Err(format!("subscription {} of {} would hear it", key.1, key.0)),
                None => Ok(()),
            }
        }
        "limit_reached" if told.contains("requests_max") => {
            let of_namespace =
                |asked: &Asked| model.archive.drafts[asked.message].namespace == namespace;
            let count = under_way(model, step).filter(of_namespace).count() as u64;
            if count > model.bounds.requests_max {
                return Ok(());
            }
            Err(format!("only {count} wait, itself included"))
        }
        _ => Ok(()),
    }
}

/// The subscriptions that there are and stay.
fn hearers<'a>(model: &'a Model, step: &'a Step<'_>) -> impl Iterator<Item = (u64, u32)> + 'a {
    let open = model.grants.all_open();
    open.filter(|(id, _)| model.connections.contains_key(id) && !step.is_leaving(*id))
}

/// A live topic is read by no group, so what is asked there, and not held, is heard by a subscription or refused.
fn check_heard(model: &Model, step: &Step<'_>, asked: &Asked) -> Check {
    let message = asked.message;
    let draft = &model.archive.drafts[message];
    let topic = model.archive.topic_named(draft.namespace, &draft.topic);
    let is_live = topic.is_some_and(|topic| model.archive.topics[topic].kind == "live");
    let is_new = step.handled.contains(&asked.asker);
    let connection = model.connections.get(&asked.asker.0);
    let is_free = connection.is_some_and(|connection| {
        let mut pending = connection.pending.values();
        pending.all(|other| {
            !matches!(other.request.order, command::Order::Publish(_)) || other.order > asked.order
        })
    });
    let is_refused = step
        .replies
        .get(&asked.asker)
        .is_some_and(|(_, reply)| matches!(reply, Reply::Failed(_)));
    if !is_live || !is_new || !is_free || is_refused {
        return Ok(());
    }
    let matches = |wish: &subscribe::Wish| filter_matches(&wish.filter, &draft.topic);
    let was_there = model.inquiries.hearers.iter();
    let is_there = model.grants.all_open();
    let known = was_there.copied().chain(is_there).any(|key| {
        let granted = model.grants.granted(key.0, key.1);
        granted.namespace == draft.namespace && matches(&granted.wish)
    });
    let came = step.answers().any(|answer| match answer.order {
        command::Order::Subscribe(subscribe::Order::Subscribe { wish, .. }) => matches(wish),
        _ => false,
    });
    if known || came {
        return Ok(());
    }
    Err(format!("message {message} is asked, but nobody hears it"))
}
