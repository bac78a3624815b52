//! Subscriptions: asked for, granted, held against what they must get, and taken up again after whatever ended them.

mod deliveries;
mod grants;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use dunlin_core::frame::{Command, Credit, Reply, Subscribe, Unsubscribe};

use crate::sim::archive::Check;
use crate::sim::client::Client;
use crate::sim::command;
use crate::sim::model::{Given, Model, Step};
use crate::sim::plan::Plan;
use crate::sim::rng::Rng;

use self::view::View;
use super::{Heard, Turn, Workload};

pub(in crate::sim) use self::grants::Grants;

/// How many subscriptions a client has.
const SUBSCRIPTIONS_MAX: usize = 4;
/// Credit that everybody is given at the end.
const CREDIT_AT_THE_END: u64 = 500;

#[derive(Clone, Debug)]
pub(in crate::sim) enum Order {
    Subscribe { subscription: u32, wish: Wish },
    Unsubscribe { subscription: u32 },
    Credit { subscription: u32, messages: u64 },
}

/// A message that a client saw, the sequence that it had, and the life of the broker that gave it that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) struct Seen {
    pub(in crate::sim) sequence: u64,
    pub(in crate::sim) message: usize,
    pub(in crate::sim) placed_in: u64,
}

/// Where a reader asks to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sim) enum Begin {
    Latest,
    Earliest,
    Offset(u64),
    Timestamp(u64),
    Last(u64),
    /// The token, the position, and what the client saw.
    Resume {
        token: String,
        sequence: u64,
        seen: Arc<Vec<Seen>>,
    },
}

impl Begin {
    pub(in crate::sim) fn text(&self) -> String {
        match self {
            Self::Latest => "latest".to_owned(),
            Self::Earliest => "earliest".to_owned(),
            Self::Offset(offset) => format!("offset:{offset}"),
            Self::Timestamp(at) => format!("timestamp:{at}"),
            Self::Last(count) => format!("last:{count}"),
            Self::Resume {
                token, sequence, ..
            } => format!("resume:{token}:{sequence}"),
        }
    }
}

/// What a client asks of a subscription.
#[derive(Clone, Debug)]
pub(in crate::sim) struct Wish {
    pub(in crate::sim) filter: String,
    pub(in crate::sim) begin: Begin,
    pub(in crate::sim) credit: Option<u64>,
    pub(in crate::sim) on_lag: &'static str,
    pub(in crate::sim) lag_max: Option<u64>,
    pub(in crate::sim) partition: Option<u32>,
}

impl Order {
    pub(in crate::sim) fn encode(&self, request: u64, out: &mut Vec<u8>) {
        match *self {
            Self::Subscribe {
                subscription,
                ref wish,
            } => {
                let from = wish.begin.text();
                Command::Subscribe(Subscribe {
                    request,
                    subscription,
                    filter: &wish.filter,
                    from: Some(&from),
                    credit: wish.credit,
                    on_lag: Some(wish.on_lag),
                    lag_max: wish.lag_max,
                    partition: wish.partition,
                })
                .encode(out);
            }
            Self::Unsubscribe { subscription } => Command::Unsubscribe(Unsubscribe {
                request,
                subscription,
            })
            .encode(out),
            Self::Credit {
                subscription,
                messages,
            } => Command::Credit(Credit {
                subscription,
                messages,
            })
            .encode(out),
        }
    }
}

/// What a new subscription asks for.
fn wish(plan: &Plan, rng: &mut Rng, now: u64) -> Wish {
    let filter = rng.pick(&plan.filters).clone();
    let exact = !filter.contains(['+', '#']);
    let begin = match rng.below(10) {
        0..=2 => Begin::Latest,
        3..=5 => Begin::Earliest,
        6 if exact => Begin::Offset(rng.below(40)),
        7 => Begin::Timestamp(now - rng.below(20_000)),
        8 => Begin::Last(rng.below(12)),
        _ => Begin::Latest,
    };
    let on_lag = if rng.once_in(plan.blocks) {
        "block"
    } else {
        *rng.pick(&["drop_oldest", "drop_newest", "close"])
    };
    Wish {
        filter,
        begin,
        credit: match rng.below(5) {
            0 | 1 => None,
            2 => Some(rng.below(4)),
            _ => Some(rng.between(4, 64)),
        },
        on_lag,
        lag_max: rng.once_in(2).then(|| rng.between(1, 20)),
        partition: (exact && rng.once_in(6)).then(|| rng.below(3) as u32),
    }
}

/// The subscriptions of a client, as it sees them.
#[derive(Debug, Default)]
pub(in crate::sim) struct Views {
    /// Those that it will take up again.
    parked: Vec<View>,
    open: BTreeMap<u32, View>,
    last: u32,
}

impl Views {
    fn subscribe(&mut self, view: View) -> Order {
        self.last += 1;
        let subscription = self.last;
        let wish = view.wish.clone();
        self.open.insert(subscription, view);
        Order::Subscribe { subscription, wish }
    }

    fn granted(&self, rng: &mut Rng) -> Option<u32> {
        let granted = self.open.iter().filter(|(_, view)| view.granted.is_some());
        let granted: Vec<u32> = granted.map(|(id, _)| *id).collect();
        (!granted.is_empty()).then(|| *rng.pick(&granted))
    }

    /// Gives back the credit that was used, and `more`.
    fn top_up(&mut self, subscription: u32, more: u64) -> Option<Order> {
        let view = self.open.get_mut(&subscription)?;
        view.wish.credit?;
        let messages = core::mem::take(&mut view.consumed) + more;
        (messages > 0).then_some(Order::Credit {
            subscription,
            messages,
        })
    }
}

/// Whether this subscription is one that gives no more credit until the end.
const fn stalls(client: &Client, subscription: u32, plan: &Plan) -> bool {
    plan.stalls > 0 && (subscription as u64 + client.index as u64).is_multiple_of(plan.stalls)
}

pub(super) struct Subscribing;

impl Workload for Subscribing {
    fn plan(&self, client: &mut Client, turn: &mut Turn<'_>) -> Vec<command::Order> {
        let rng = &mut *turn.rng;
        let views = &mut client.views;
        let order = match turn.roll {
            0..15 if views.open.len() + views.parked.len() >= SUBSCRIPTIONS_MAX => None,
            0..15 if !views.parked.is_empty() && rng.once_in(2) => return self.resume(client),
            0..15 => Some(views.subscribe(View::new(wish(turn.plan, rng, turn.now)))),
            15..19 => views
                .granted(rng)
                .map(|subscription| Order::Unsubscribe { subscription }),
            _ => match views.granted(rng) {
                Some(subscription) if !stalls(client, subscription, turn.plan) => {
                    client.views.top_up(subscription, 0)
                }
                _ => None,
            },
        };
        order.map(command::Order::Subscribe).into_iter().collect()
    }

    fn told(&self, model: &mut Model, step: &Step<'_>) -> Check {
        for given in step.given {
            take_given(model, given);
        }
        grants::take_grants(model, step)?;
        for answer in step.answers() {
            let command::Order::Subscribe(order) = answer.order else {
                continue;
            };
            match (order, answer.reply) {
                (Order::Subscribe { .. }, Reply::Subscribed(_)) => {}
                (Order::Unsubscribe { subscription }, Reply::Done(_)) => {
                    model.grants.end(answer.connection, *subscription);
                }
                (Order::Subscribe { .. }, Reply::Failed(failed)) => {
                    let codes = [
                        "limit_reached",
                        "offset_out_of_range",
                        "unknown_topic",
                        "unknown_partition",
                        "invalid_argument",
                        "storage_unavailable",
                    ];
                    model.take_refusal(order, failed, &codes)?;
                }
                (Order::Unsubscribe { .. }, Reply::Failed(failed)) => {
                    model.take_refusal(order, failed, &["unknown_subscription"])?;
                }
                _ => return answer.is_none_of_these(),
            }
        }
        for said in step.said {
            deliveries::take_delivery(model, step.now, said)?;
        }
        Ok(())
    }

    fn heard(&self, client: &mut Client, model: &Model, heard: &Heard<'_>) -> Check {
        let views = &mut client.views;
        match heard.reply {
            Reply::Delivery(delivery) => {
                let Some(view) = views.open.get_mut(&delivery.subscription) else {
                    return Ok(());
                };
                if view.granted.is_none() {
                    return Err(format!(
                        "a delivery to {} before it was granted",
                        delivery.subscription
                    ));
                }
                return view
                    .on_delivery(&model.archive, delivery, heard.life, heard.now)
                    .map_err(|error| {
                        format!(
                            "subscription {} ({:?}): {error}",
                            delivery.subscription, view.wish.filter
                        )
                    });
            }
            Reply::Gap(gap) => {
                if let Some(view) = views.open.get_mut(&gap.subscription) {
                    return view
                        .on_gap(gap)
                        .map_err(|error| format!("subscription {}: {error}", gap.subscription));
                }
            }
            Reply::Ended(ended) => {
                if let Some(view) = views.open.remove(&ended.subscription) {
                    views.parked.push(view.resumed());
                }
            }
            _ => {}
        }
        let Some(command::Order::Subscribe(order)) = heard.request.map(|request| &request.order)
        else {
            return Ok(());
        };
        match (order, heard.reply) {
            (Order::Subscribe { subscription, .. }, Reply::Subscribed(told)) => {
                // After a resync the client has forgotten what it asked before.
                if let Some(view) = views.open.get_mut(subscription) {
                    let index = model.grants.newest[&(heard.connection, *subscription)];
                    view.on_granted(index, &model.grants.all[index], told.token);
                }
            }
            (Order::Subscribe { subscription, .. }, Reply::Failed(failed)) => {
                let view = views.open.remove(subscription);
                if failed.code == "storage_unavailable" || failed.code == "limit_reached" {
                    views.parked.extend(view);
                }
            }
            (Order::Unsubscribe { subscription }, Reply::Done(_)) => {
                views.open.remove(subscription);
            }
            _ => {}
        }
        Ok(())
    }

    fn forgotten(&self, client: &mut Client) {
        let open = core::mem::take(&mut client.views.open);
        let parked = open.into_values().map(|view| view.resumed());
        client.views.parked.extend(parked);
    }

    fn resume(&self, client: &mut Client) -> Vec<command::Order> {
        let parked = core::mem::take(&mut client.views.parked);
        parked
            .into_iter()
            .map(|view| command::Order::Subscribe(client.views.subscribe(view)))
            .collect()
    }

    /// Credit for all.
    fn settle(&self, client: &mut Client) -> Vec<command::Order> {
        let mut orders = self.resume(client);
        let ids: Vec<u32> = client.views.open.keys().copied().collect();
        for id in ids {
            let view = client.views.open.get_mut(&id);
            let view = view.expect("its id was just listed");
            let more = if view.boosted || view.granted.is_none() {
                0
            } else {
                CREDIT_AT_THE_END
            };
            view.boosted |= more > 0;
            orders.extend(client.views.top_up(id, more).map(command::Order::Subscribe));
        }
        orders
    }

    fn is_settled(&self, client: &Client) -> bool {
        let has_credit = |view: &View| view.boosted && view.consumed == 0;
        client.views.parked.is_empty()
            && client.views.open.values().all(|view| {
                view.granted.is_some() && (view.wish.credit.is_none() || has_credit(view))
            })
    }

    fn check(&self, client: &Client, model: &Model, now: u64) -> Check {
        for (id, view) in &client.views.open {
            view.check_complete(&model.archive, client.namespace, now)
                .map_err(|error| {
                    format!(
                        "subscription {id} ({:?} from {}): {error}",
                        view.wish.filter,
                        view.wish.begin.text()
                    )
                })?;
        }
        Ok(())
    }
}

/// Notes what was given of credit, and what a new life knows.
fn take_given(model: &mut Model, given: &Given) {
    match given {
        Given::Frames {
            connection,
            requests,
        } if model.connections.contains_key(connection) => {
            for request in requests {
                if let command::Order::Subscribe(Order::Credit {
                    subscription,
                    messages,
                }) = request.order
                {
                    model.grants.credit(*connection, subscription, messages);
                }
            }
        }
        Given::Restored { connection, clean } => model.grants.restore(*connection, *clean),
        _ => {}
    }
}
