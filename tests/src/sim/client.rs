//! A client: what it says next, what it waits for, and what of it is left when its connection goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use dunlin_core::frame::Reply;

use super::archive::Check;
use super::command::{Order, Request};
use super::frames::{decode, frames_in, request_of};
use super::model::Model;
use super::plan::Plan;
use super::rng::Rng;
use super::workload::{
    self, Heard, Turn, partitioned, presence, publish, queue, request, rules, schedule, session,
    subscribe, transact,
};

/// How many commands a client lets wait.
const OUTSTANDING_MAX: usize = 12;

#[derive(Debug)]
pub(super) struct Client {
    pub(super) index: usize,
    pub(super) namespace: usize,
    pub(super) json: bool,
    /// The connection, while the client believes in it.
    pub(super) connection: Option<u64>,
    pub(super) views: subscribe::Views,
    pub(super) memberships: queue::Memberships,
    pub(super) seats: partitioned::Seats,
    pub(super) ruled: rules::Ruled,
    pub(super) transacted: transact::Transacted,
    pub(super) places: presence::Places,
    pub(super) appointments: schedule::Appointments,
    pub(super) questions: request::Questions,
    outstanding: BTreeMap<u64, Arc<Request>>,
    /// Commands that the broker may have forgotten.
    uncertain: BTreeMap<u64, Arc<Request>>,
    requests: u64,
}

impl Client {
    pub(super) fn new(index: usize, namespace: usize, json: bool) -> Self {
        Self {
            index,
            namespace,
            json,
            connection: None,
            views: subscribe::Views::default(),
            memberships: queue::Memberships::default(),
            seats: partitioned::Seats::default(),
            ruled: rules::Ruled::default(),
            transacted: transact::Transacted::default(),
            places: presence::Places::default(),
            appointments: schedule::Appointments::default(),
            questions: request::Questions::default(),
            outstanding: BTreeMap::new(),
            uncertain: BTreeMap::new(),
            requests: 0,
        }
    }

    fn request(&mut self, order: Order) -> Arc<Request> {
        let number = if matches!(order, Order::Session(session::Order::Hello)) {
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

    fn request_all(&mut self, orders: Vec<Order>) -> Vec<Arc<Request>> {
        orders
            .into_iter()
            .map(|order| self.request(order))
            .collect()
    }

    /// The first words on a new connection: a greeting, and everything that was going on before.
    pub(super) fn connected(&mut self, connection: u64) -> Vec<Arc<Request>> {
        self.connection = Some(connection);
        let mut requests = vec![self.request(Order::Session(session::Order::Hello))];
        requests.extend(self.resume());
        requests
    }

    /// Goes on with what it was doing before.
    pub(super) fn resume(&mut self) -> Vec<Arc<Request>> {
        let workloads = workload::ALL.iter();
        let orders = workloads.flat_map(|(_, workload)| workload.resume(self));
        let orders = orders.collect();
        self.request_all(orders)
    }

    /// The connection is gone; what was not answered never will be.
    pub(super) fn disconnected(&mut self) {
        self.connection = None;
        self.outstanding.clear();
        self.uncertain.clear();
        self.forgotten();
    }

    fn forgotten(&mut self) {
        for (_, workload) in workload::ALL {
            workload.forgotten(self);
        }
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
            let turn = Turn {
                topic: rng.pick(&plan.topics).clone(),
                rng,
                plan,
                model,
                now,
                roll: 0,
            };
            let orders = workload::plan(self, turn);
            requests.extend(self.request_all(orders));
        }
        requests
    }

    /// The last messages of all, one to every topic.
    pub(super) fn say_goodbye(
        &mut self,
        rng: &mut Rng,
        plan: &Plan,
        model: &mut Model,
    ) -> Vec<Arc<Request>> {
        let orders = publish::say_goodbye(self, plan, rng, model);
        self.request_all(orders)
    }

    /// Lets everything come that is still to come.
    pub(super) fn settle(&mut self) -> Vec<Arc<Request>> {
        let workloads = workload::ALL.iter();
        let orders = workloads.flat_map(|(_, workload)| workload.settle(self));
        let orders = orders.collect();
        self.request_all(orders)
    }

    /// Whether nothing is left that it waits for.
    pub(super) fn is_settled(&self) -> bool {
        let mut workloads = workload::ALL.iter();
        self.connection.is_some()
            && self.outstanding.is_empty()
            && workloads.all(|(_, workload)| workload.is_settled(self))
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

    /// Whether it has everything, at the end.
    pub(super) fn check(&self, model: &Model, now: u64) -> Check {
        self.check_settled()?;
        for (_, workload) in workload::ALL {
            workload
                .check(self, model, now)
                .map_err(|error| format!("client {}, {error}", self.index))?;
        }
        Ok(())
    }

    /// Takes one message from the broker, sent in `life`.
    pub(super) fn hear(&mut self, model: &Model, bytes: &[u8], life: u64, now: u64) -> Check {
        let connection = self.connection.expect("only connected clients hear");
        for frame in frames_in(self.json, bytes)? {
            let reply = decode(&frame)?;
            let request = self.answered(&reply)?;
            let heard = Heard {
                connection,
                life,
                now,
                reply: &reply,
                request: request.as_deref(),
            };
            for (_, workload) in workload::ALL {
                workload.heard(self, model, &heard).map_err(|error| {
                    format!("client {} on connection {connection}: {error}", self.index)
                })?;
            }
            if matches!(reply, Reply::Resync(_)) {
                self.uncertain.append(&mut self.outstanding);
                self.forgotten();
            }
        }
        Ok(())
    }

    /// The command that a reply answers, which waits no more.
    fn answered(&mut self, reply: &Reply<'_>) -> Result<Option<Arc<Request>>, String> {
        let Some(number) = request_of(reply) else {
            return Ok(None);
        };
        let waits = self.outstanding.remove(&number);
        let known = waits.or_else(|| self.uncertain.remove(&number));
        // Credit for a subscription that has just ended cannot be answered otherwise.
        let refused_credit = number == 0 && matches!(reply, Reply::Failed(_));
        if known.is_none() && !refused_credit {
            return Err(format!(
                "client {} gets an answer to nothing: {reply:?}",
                self.index
            ));
        }
        Ok(known)
    }
}
