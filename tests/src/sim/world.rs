//! The world: a clock, a network, a host with a store, and clients, all moved by one queue of events.
//!
//! First comes a phase in which everything goes wrong that may; whatever was promised must hold at every moment.
//! Then the faults end, everybody comes back, and everything that was promised must also arrive.

use core::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

use dunlin_core::{Row, Ticket};
use dunlin_host::{RangeRead, Store as _};

use super::Troubles;
use super::archive::Check;
use super::client::Client;
use super::command::Request;
use super::host::Host;
use super::model::{Given, Model};
use super::network::{Down, Link, Up};
use super::plan::Plan;
use super::rng::Rng;
use super::store::{SimStore, StoreFault};
use super::trace::Trace;

/// When the world begins, in milliseconds since the Unix epoch.
const EPOCH: u64 = 1_700_000_000_000;
/// More events than this after the faults ended, and the world has not come to rest.
const SETTLING_EVENTS_MAX: u64 = 400_000;
/// So many timeouts at one moment, and the broker runs in circles.
const TIMEOUTS_AT_ONCE_MAX: u32 = 5000;

/// Something that will happen.
#[derive(Debug)]
pub(super) enum Event {
    Act(usize),
    Up(u64, Up),
    Down(u64, Down),
    HostWakes,
    Synced {
        life: u64,
        writes: u64,
    },
    Loaded {
        life: u64,
        ticket: Ticket,
        rows: Result<Vec<Row>, RangeRead>,
    },
    Timer {
        life: u64,
        deadline: u64,
    },
    Alarm(u64),
    HostRestarts {
        sockets: bool,
    },
    ClientNotices(u64),
    HostNotices(u64),
    OutageEnds,
    DiskHeals,
    HostStops,
    StoreOpens(u64),
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) plan: Plan,
    pub(super) trace: Trace,
    pub(super) model: Model,
    pub(super) now: u64,
    /// How far the clock of the host went back, in milliseconds.
    pub(super) setback: u64,
    pub(super) events: BinaryHeap<Reverse<(u64, u64)>>,
    pub(super) pending: BTreeMap<u64, Event>,
    pub(super) serial: u64,
    pub(super) store: Arc<SimStore>,
    pub(super) host: Option<Host>,
    pub(super) life: u64,
    pub(super) inbox: VecDeque<(Given, Option<Vec<u8>>)>,
    pub(super) waking: bool,
    pub(super) armed: Option<u64>,
    pub(super) outage: bool,
    /// Whether that is because the store does not take writes.
    pub(super) unwritable: bool,
    pub(super) draining: bool,
    /// Whether the broker is gone for a failure of its store, while the host goes on.
    pub(super) lost: bool,
    /// Whether the broker is forgotten until somebody needs it, or its timeout has come.
    pub(super) asleep: bool,
    /// Whether the broker could be.
    pub(super) can_sleep: bool,
    /// Whether it was given something: before, it does not know what time it is.
    pub(super) knows_time: bool,
    /// How many effects its newest step had, but for what it began to read: a pass over the keys begins when it can.
    pub(super) effects: usize,
    pub(super) timeouts_at_once: u32,
    pub(super) clients: Vec<Client>,
    pub(super) links: BTreeMap<u64, Link>,
    pub(super) next_connection: u64,
    pub(super) faults: bool,
    pub(super) steps: u64,
    pub(super) troubles: Troubles,
}

impl World {
    pub(super) fn new(seed: u64, shown: usize, fault: Option<StoreFault>) -> Self {
        let mut rng = Rng::new(seed);
        let plan = Plan::new(&mut rng);
        let clients = (0..plan.clients)
            .map(|index| {
                Client::new(
                    index,
                    rng.below(plan.namespaces.len() as u64) as usize,
                    rng.once_in(3),
                )
            })
            .collect();
        let store = Arc::new(SimStore::new(plan.journal, fault));
        let mut trace = Trace::new(shown);
        trace.note(format_args!("{plan:?}"));
        Self {
            model: Model::new(plan.namespaces.clone(), plan.bounds),
            rng,
            plan,
            trace,
            now: EPOCH,
            setback: 0,
            events: BinaryHeap::new(),
            pending: BTreeMap::new(),
            serial: 0,
            store,
            host: None,
            life: 0,
            inbox: VecDeque::new(),
            waking: false,
            armed: None,
            outage: false,
            unwritable: false,
            draining: false,
            lost: false,
            asleep: false,
            can_sleep: false,
            knows_time: false,
            effects: 0,
            timeouts_at_once: 0,
            clients,
            links: BTreeMap::new(),
            next_connection: 1,
            faults: true,
            steps: 0,
            troubles: Troubles::default(),
        }
    }

    /// Lives through both phases.
    pub(super) fn run(&mut self, events: u64) -> Check {
        self.model.begin_life(1);
        self.life = 1;
        self.start_host()?;
        self.obey_inbox()?;
        for index in 0..self.clients.len() {
            let delay = self.rng.below(50);
            self.after(delay, Event::Act(index));
        }
        for _event in 0..events {
            self.trouble()?;
            if !self.happen()? {
                break;
            }
        }
        self.settle()
    }

    pub(super) fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    pub(super) fn at(&mut self, time: u64, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((time, self.serial)));
        self.pending.insert(self.serial, event);
    }

    pub(super) fn troubles(&self) -> Troubles {
        Troubles {
            cuts: self.store.cuts(),
            ..self.troubles
        }
    }

    /// What the clock of the host says.
    pub(super) const fn clock(&self) -> u64 {
        self.now - self.setback
    }

    /// The next event. False if there is none.
    pub(super) fn happen(&mut self) -> Result<bool, String> {
        let Some(Reverse((time, serial))) = self.events.pop() else {
            return Ok(false);
        };
        if time > self.now {
            self.now = time;
            self.timeouts_at_once = 0;
        }
        self.trace.now = self.now - EPOCH;
        let event = self.pending.remove(&serial).expect("an event happens once");
        match event {
            Event::Act(client) => self.act(client)?,
            Event::Up(connection, up) => self.arrive_up(connection, up),
            Event::Down(connection, down) => self.arrive_down(connection, down)?,
            Event::HostWakes => {
                self.waking = false;
                self.wake()?;
                self.obey_inbox()?;
            }
            Event::Alarm(life) => {
                if life == self.life {
                    self.wake()?;
                }
            }
            Event::Synced { life, writes } => self.synced(life, writes)?,
            Event::Loaded { life, ticket, rows } => self.loaded(life, ticket, rows)?,
            Event::Timer { life, deadline } => {
                if life == self.life && self.armed == Some(deadline) && self.host.is_some() {
                    self.timeouts_at_once += 1;
                    if self.timeouts_at_once > TIMEOUTS_AT_ONCE_MAX {
                        return Err(format!(
                            "{TIMEOUTS_AT_ONCE_MAX} timeouts at one moment, and another is wanted"
                        ));
                    }
                    self.inbox.push_back((Given::Other, None));
                    self.obey_inbox()?;
                }
            }
            Event::HostRestarts { sockets } => self.restart(sockets, false)?,
            Event::ClientNotices(connection) => self.client_notices(connection),
            Event::HostNotices(connection) => {
                let link = self.links.get_mut(&connection);
                if let Some(link) = link.filter(|link| link.host_open) {
                    link.host_open = false;
                    self.give(Given::Disconnect { connection }, None);
                }
            }
            Event::OutageEnds => {
                if self.outage {
                    self.outage = false;
                    if self.unwritable {
                        self.probe()?;
                    }
                    if !self.outage && self.host.is_some() {
                        self.give(Given::Other, Some(vec![1]));
                        self.start_sync(0);
                    }
                }
            }
            Event::DiskHeals => self.store.heal(),
            Event::HostStops => self.stop()?,
            Event::StoreOpens(life) => self.open_store(life)?,
        }
        Ok(true)
    }

    // Clients.

    pub(super) fn act(&mut self, index: usize) -> Check {
        let clock = self.clock();
        let client = &mut self.clients[index];
        match client.connection {
            None => {
                if self.rng.once_in(2) || !self.faults {
                    self.connect(index);
                }
            }
            Some(connection) if self.faults => {
                if self.rng.once_in(self.plan.cuts) {
                    self.send_up(connection, Up::Bye);
                    self.links
                        .get_mut(&connection)
                        .expect("a connection has a link")
                        .client_open = false;
                    self.clients[index].disconnected();
                    self.trace
                        .note(format_args!("client {index} hangs up {connection}"));
                } else {
                    let requests = client.act(&mut self.rng, &self.plan, &mut self.model, clock);
                    self.say(index, requests);
                }
            }
            Some(_) => {}
        }
        if self.faults {
            let pause = self.rng.delay(400);
            self.after(pause, Event::Act(index));
        }
        Ok(())
    }

    pub(super) fn connect(&mut self, index: usize) {
        let connection = self.next_connection;
        self.next_connection += 1;
        let link = Link {
            client: index,
            client_open: true,
            host_open: false,
            cut: false,
            heard_at: self.clock(),
            last_up: 0,
            last_down: 0,
        };
        self.links.insert(connection, link);
        let (namespace, json) = (self.clients[index].namespace, self.clients[index].json);
        self.trace.note(format_args!(
            "client {index} connects as {connection} to {namespace}, json {json}"
        ));
        self.send_up(connection, Up::Open { namespace, json });
        let requests = self.clients[index].connected(connection);
        self.say(index, requests);
    }

    pub(super) fn say(&mut self, index: usize, requests: Vec<Arc<Request>>) {
        let Some(connection) = self.clients[index].connection else {
            return;
        };
        if requests.is_empty() {
            return;
        }
        // Commands that change topics travel alone, so that they are alone in a batch.
        let mut message = Vec::new();
        for request in requests {
            let alone = request.changes_topics();
            if alone && !message.is_empty() {
                self.send_up(connection, Up::Frames(core::mem::take(&mut message)));
            }
            message.push(request);
            if alone {
                self.send_up(connection, Up::Frames(core::mem::take(&mut message)));
            }
        }
        if !message.is_empty() {
            self.send_up(connection, Up::Frames(message));
        }
    }

    // The end.

    pub(super) fn settle(&mut self) -> Check {
        self.faults = false;
        self.trace.note(format_args!("the faults end"));
        self.store.heal();
        if self.outage {
            self.after(0, Event::OutageEnds);
        }
        for connection in self.links.keys().copied().collect::<Vec<_>>() {
            let link = &self.links[&connection];
            if link.cut {
                self.after(0, Event::ClientNotices(connection));
                self.after(0, Event::HostNotices(connection));
            }
        }
        let mut goodbyes = false;
        for _round in 0..40 {
            self.start_sync(0);
            self.rest()?;
            for index in 0..self.clients.len() {
                if self.clients[index].connection.is_none() {
                    self.connect(index);
                } else {
                    self.clients[index].memberships.look_again();
                    self.clients[index].seats.look_again();
                    let requests = self.clients[index].settle();
                    self.say(index, requests);
                }
            }
            self.rest()?;
            let settled = self.clients.iter().all(Client::is_settled);
            if settled && goodbyes {
                return self.check_end();
            }
            if settled {
                goodbyes = true;
                for index in 0..self.clients.len() {
                    let client = &mut self.clients[index];
                    let requests = client.say_goodbye(&mut self.rng, &self.plan, &mut self.model);
                    self.say(index, requests);
                }
            }
        }
        for client in &self.clients {
            client.check_settled()?;
        }
        Err("the clients do not come to rest".to_owned())
    }

    /// Until nothing happens any more.
    pub(super) fn rest(&mut self) -> Check {
        for _event in 0..SETTLING_EVENTS_MAX {
            if !self.happen()? {
                return Ok(());
            }
        }
        Err(format!(
            "the world does not come to rest within {SETTLING_EVENTS_MAX} events"
        ))
    }

    /// When everything is done nothing costs anything: no timeout is wanted, and one that comes says nothing.
    fn check_idle(&mut self) -> Check {
        self.wake()?;
        let now = self.now;
        for later in [0, 1000, 3_600_000, 30 * 86_400_000] {
            if let Some(deadline) = self.armed {
                return Err(format!(
                    "nothing is to be done, but a timeout is wanted in {} ms",
                    deadline.saturating_sub(self.clock())
                ));
            }
            self.now += later;
            self.inbox.push_back((Given::Other, None));
            self.obey_inbox()?;
        }
        self.now = now;
        Ok(())
    }

    pub(super) fn check_end(&mut self) -> Check {
        self.model.check_answered()?;
        for client in &self.clients {
            client.check(&self.model, self.now)?;
        }
        self.model.check_retention()?;
        self.check_idle()?;
        // And all of it is really stored.
        self.store.sync().map_err(|error| error.0)?;
        let kept = self.store.crash(&mut self.rng, true)?;
        self.recover(kept)
    }
}
