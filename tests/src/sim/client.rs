//! A client: what it does next, and what it makes of what it hears.

use std::collections::BTreeMap;
use std::sync::Arc;

use dunlin_core::frame::Reply;

use super::archive::Check;
use super::command::{Begin, Draft, Order, Request};
use super::frames::{decode, frames_in, request_of};
use super::model::Model;
use super::plan::Plan;
use super::reader::SubscriptionView;
use super::rng::Rng;

/// How many commands a client lets wait.
const OUTSTANDING_MAX: usize = 12;
/// How many subscriptions a client has.
const SUBSCRIPTIONS_MAX: usize = 4;

#[derive(Debug)]
pub(super) struct Client {
    pub(super) index: usize,
    pub(super) namespace: usize,
    pub(super) json: bool,
    /// The connection, while the client believes in it.
    pub(super) connection: Option<u64>,
    /// Subscriptions that it will take up again.
    pub(super) parked: Vec<SubscriptionView>,
    pub(super) subscriptions: BTreeMap<u32, SubscriptionView>,
    outstanding: BTreeMap<u64, Arc<Request>>,
    /// Commands that the broker may have forgotten.
    uncertain: BTreeMap<u64, Arc<Request>>,
    requests: u64,
    last_subscription: u32,
}

impl Client {
    pub(super) fn new(index: usize, namespace: usize, json: bool) -> Self {
        Self {
            index,
            namespace,
            json,
            connection: None,
            parked: Vec::new(),
            subscriptions: BTreeMap::new(),
            outstanding: BTreeMap::new(),
            uncertain: BTreeMap::new(),
            requests: 0,
            last_subscription: 0,
        }
    }

    fn request(&mut self, order: Order) -> Arc<Request> {
        let number = if matches!(order, Order::Hello) {
            0
        } else {
            self.requests += 1;
            self.requests
        };
        let request = Arc::new(Request { number, order });
        if request.wants_reply() {
            self.outstanding.insert(number, request.clone());
        }
        request
    }

    fn subscribe(&mut self, view: SubscriptionView) -> Arc<Request> {
        self.last_subscription += 1;
        let subscription = self.last_subscription;
        let wish = view.wish.clone();
        self.subscriptions.insert(subscription, view);
        self.request(Order::Subscribe { subscription, wish })
    }

    /// The first words on a new connection: a greeting, and everything that was going on before.
    pub(super) fn connected(&mut self, connection: u64) -> Vec<Arc<Request>> {
        self.connection = Some(connection);
        let mut requests = vec![self.request(Order::Hello)];
        requests.extend(self.take_up());
        requests
    }

    /// Subscribes again to what was going on before.
    pub(super) fn take_up(&mut self) -> Vec<Arc<Request>> {
        let parked = core::mem::take(&mut self.parked);
        parked
            .into_iter()
            .map(|view| self.subscribe(view))
            .collect()
    }

    /// The connection is gone; what was not answered never will be.
    pub(super) fn disconnected(&mut self) {
        self.connection = None;
        self.outstanding.clear();
        self.uncertain.clear();
        self.park_all();
    }

    fn park_all(&mut self) {
        let views = core::mem::take(&mut self.subscriptions);
        self.parked
            .extend(views.into_values().map(|view| view.resumed()));
    }

    /// Something to do.
    pub(super) fn act(
        &mut self,
        rng: &mut Rng,
        plan: &Plan,
        model: &mut Model,
        now: u64,
    ) -> Vec<Arc<Request>> {
        let mut requests = Vec::new();
        for _command in 0..rng.between(1, 3) {
            if self.outstanding.len() >= OUTSTANDING_MAX {
                break;
            }
            let topic = rng.pick(&plan.topics).clone();
            let order = match rng.below(100) {
                0..=39 => self.publish(rng, plan, model),
                40..=54 => {
                    if self.subscriptions.len() + self.parked.len() >= SUBSCRIPTIONS_MAX {
                        continue;
                    }
                    if !self.parked.is_empty() && rng.once_in(2) {
                        requests.extend(self.take_up());
                        continue;
                    }
                    let view = SubscriptionView::new(plan.wish(rng, now));
                    requests.push(self.subscribe(view));
                    continue;
                }
                55..=58 => match self.some_subscription(rng) {
                    Some(subscription) => Order::Unsubscribe { subscription },
                    None => continue,
                },
                59..=72 => match self.some_subscription(rng) {
                    Some(subscription) if !self.stalls(subscription, plan) => {
                        match self.top_up(subscription, 0) {
                            Some(order) => order,
                            None => continue,
                        }
                    }
                    _ => continue,
                },
                73..=82 => Order::Read {
                    topic: topic.name.to_owned(),
                    partition: rng.below(u64::from(topic.wish.partitions.unwrap_or(1))) as u32,
                    begin: match rng.below(5) {
                        0 => Begin::Offset(rng.below(60)),
                        1 => Begin::Last(rng.below(20)),
                        2 => Begin::Timestamp(now - rng.below(10_000)),
                        _ => Begin::Earliest,
                    },
                    messages_max: rng.between(1, 50),
                },
                83..=88 => Order::Configure {
                    topic: topic.name.to_owned(),
                    config: topic.wish,
                },
                89..=91 => Order::Describe {
                    topic: topic.name.to_owned(),
                },
                92..=94 => Order::List {
                    filter: rng.pick(&plan.filters).clone(),
                },
                95 if rng.once_in(plan.deletes) => Order::Delete {
                    topic: topic.name.to_owned(),
                },
                _ => Order::Ping,
            };
            requests.push(self.request(order));
        }
        requests
    }

    fn some_subscription(&self, rng: &mut Rng) -> Option<u32> {
        let granted: Vec<u32> = self
            .subscriptions
            .iter()
            .filter(|(_, view)| view.granted.is_some())
            .map(|(id, _)| *id)
            .collect();
        (!granted.is_empty()).then(|| *rng.pick(&granted))
    }

    fn stalls(&self, subscription: u32, plan: &Plan) -> bool {
        plan.stalls > 0 && (u64::from(subscription) + self.index as u64).is_multiple_of(plan.stalls)
    }

    /// Gives back the credit that was used, and `more`.
    fn top_up(&mut self, subscription: u32, more: u64) -> Option<Order> {
        let view = self.subscriptions.get_mut(&subscription)?;
        view.wish.credit?;
        let messages = core::mem::take(&mut view.consumed) + more;
        (messages > 0).then_some(Order::Credit {
            subscription,
            messages,
        })
    }

    fn publish(&mut self, rng: &mut Rng, plan: &Plan, model: &mut Model) -> Order {
        if rng.once_in(plan.batches) {
            let count = rng.between(1, 8);
            let messages = (0..count)
                .map(|_| self.draft(rng, plan, model, None))
                .collect();
            return Order::Batch {
                messages,
                durability: Plan::level(rng),
            };
        }
        Order::Publish {
            message: self.draft(rng, plan, model, None),
        }
    }

    fn draft(&self, rng: &mut Rng, plan: &Plan, model: &mut Model, topic: Option<usize>) -> usize {
        let topic = match topic {
            Some(index) => &plan.topics[index],
            None => rng.pick(&plan.topics),
        };
        let keyed = topic.wish.kind == Some("compacted") || rng.once_in(3);
        let size = if rng.once_in(20) {
            rng.below(3000)
        } else {
            rng.below(60)
        };
        model.archive.draft(|number| {
            let mut payload = format!("{number}:").into_bytes();
            payload.resize(
                payload.len() + size as usize,
                if size % 7 == 0 { 0xff } else { b'.' },
            );
            Draft {
                namespace: self.namespace,
                topic: topic.name.to_owned(),
                payload,
                key: keyed.then(|| format!("key-{}", rng.below(5))),
                headers: (0..rng.below(2))
                    .map(|index| (format!("h{index}"), "ä".repeat(rng.below(3) as usize)))
                    .collect(),
                id: rng.once_in(5).then(|| format!("id-{number}")),
                ttl_ms: rng.once_in(10).then(|| rng.between(1, 3000)),
                durability: Plan::level(rng),
            }
        })
    }

    /// The last messages of all, one to every topic.
    pub(super) fn say_goodbye(
        &mut self,
        rng: &mut Rng,
        plan: &Plan,
        model: &mut Model,
    ) -> Vec<Arc<Request>> {
        (0..plan.topics.len())
            .map(|topic| {
                let message = self.draft(rng, plan, model, Some(topic));
                self.request(Order::Publish { message })
            })
            .collect()
    }

    /// Lets everything come that is still to come: credit for all.
    pub(super) fn settle(&mut self) -> Vec<Arc<Request>> {
        let mut requests = self.take_up();
        let ids: Vec<u32> = self.subscriptions.keys().copied().collect();
        for id in ids {
            let view = &mut self
                .subscriptions
                .get_mut(&id)
                .expect("its id was just listed");
            let more = if view.boosted || view.granted.is_none() {
                0
            } else {
                500
            };
            view.boosted |= more > 0;
            if let Some(order) = self.top_up(id, more) {
                requests.push(self.request(order));
            }
        }
        requests
    }

    /// Whether nothing is left that it waits for.
    pub(super) fn is_settled(&self) -> bool {
        self.connection.is_some()
            && self.parked.is_empty()
            && self.outstanding.is_empty()
            && self
                .subscriptions
                .values()
                .all(|view| view.granted.is_some() && (view.boosted || view.wish.credit.is_none()))
            && self
                .subscriptions
                .values()
                .all(|view| view.wish.credit.is_none() || view.consumed == 0)
    }

    pub(super) fn check_settled(&self) -> Check {
        match self.outstanding.first_key_value() {
            Some((number, request)) => Err(format!(
                "client {} still waits for the answer to {number}: {:?}",
                self.index, request.order
            )),
            None => Ok(()),
        }
    }

    /// Takes one message from the broker, sent in `life`.
    pub(super) fn hear(&mut self, model: &Model, bytes: &[u8], life: u64, now: u64) -> Check {
        let connection = self.connection.expect("only connected clients hear");
        for frame in frames_in(self.json, bytes)? {
            let reply = decode(&frame)?;
            self.hear_frame(model, connection, &reply, life, now)
                .map_err(|error| {
                    format!("client {} on connection {connection}: {error}", self.index)
                })?;
        }
        Ok(())
    }

    fn hear_frame(
        &mut self,
        model: &Model,
        connection: u64,
        reply: &Reply<'_>,
        life: u64,
        now: u64,
    ) -> Check {
        match reply {
            Reply::Delivery(delivery) => {
                let Some(view) = self.subscriptions.get_mut(&delivery.subscription) else {
                    return Ok(());
                };
                if view.granted.is_none() {
                    return Err(format!(
                        "a delivery to {} before it was granted",
                        delivery.subscription
                    ));
                }
                view.on_delivery(&model.archive, delivery, life, now)
                    .map_err(|error| {
                        format!(
                            "subscription {} ({:?}): {error}",
                            delivery.subscription, view.wish.filter
                        )
                    })
            }
            Reply::Gap(gap) => match self.subscriptions.get_mut(&gap.subscription) {
                Some(view) => view
                    .on_gap(gap)
                    .map_err(|error| format!("subscription {}: {error}", gap.subscription)),
                None => Ok(()),
            },
            Reply::Ended(ended) => {
                if let Some(view) = self.subscriptions.remove(&ended.subscription) {
                    self.parked.push(view.resumed());
                }
                Ok(())
            }
            Reply::Resync(_) => {
                self.uncertain.append(&mut self.outstanding);
                self.park_all();
                Ok(())
            }
            Reply::GoingAway(_) => Ok(()),
            _ => self.hear_answer(model, connection, reply),
        }
    }

    fn hear_answer(&mut self, model: &Model, connection: u64, reply: &Reply<'_>) -> Check {
        let number = request_of(reply).expect("all others were told apart before");
        let known = self
            .outstanding
            .remove(&number)
            .or_else(|| self.uncertain.remove(&number));
        let Some(request) = known else {
            let refused_credit = number == 0 && matches!(reply, Reply::Failed(_));
            return if refused_credit {
                Ok(())
            } else {
                Err(format!("an answer to nothing: {reply:?}"))
            };
        };
        match (&request.order, reply) {
            (Order::Subscribe { subscription, .. }, Reply::Subscribed(told)) => {
                // After a resync the client has forgotten what it asked before.
                let Some(view) = self.subscriptions.get_mut(subscription) else {
                    return Ok(());
                };
                let index = model.granted_by[&(connection, *subscription)];
                view.on_granted(index, &model.granted[index], told.token);
                Ok(())
            }
            (Order::Subscribe { subscription, .. }, Reply::Failed(failed)) => {
                let view = self.subscriptions.remove(subscription);
                if failed.code == "storage_unavailable" || failed.code == "limit_reached" {
                    self.parked.extend(view);
                }
                Ok(())
            }
            (Order::Unsubscribe { subscription }, Reply::Done(_)) => {
                self.subscriptions.remove(subscription);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
