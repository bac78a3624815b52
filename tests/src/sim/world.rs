//! The world: a clock, a network, a host with a store, and clients, all moved by one queue of events.
//!
//! First comes a phase in which everything goes wrong that may; whatever was promised must hold at every moment.
//! Then the faults end, everybody comes back, and everything that was promised must also arrive.

use core::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

use dunlin_core::{
    Claims, CloseCode, ConnectionId, Encoding, Input, LoadFailed, Rights, Row, Ticket, Timestamp,
    WriteSequence,
};
use dunlin_host::{Drive, Outbox, RangeRead, ShardSpan, Store as _};

use super::archive::Check;
use super::audit::audit;
use super::client::Client;
use super::command::{Begin, Request};
use super::engine::{SimEngine, Tap};
use super::model::{Given, Model};
use super::plan::Plan;
use super::recovery::Ended;
use super::rng::Rng;
use super::store::SimStore;
use super::trace::Trace;

/// When the world begins, in milliseconds since the Unix epoch.
const EPOCH: u64 = 1_700_000_000_000;
/// More events than this after the faults ended, and the world has not come to rest.
const SETTLING_EVENTS_MAX: u64 = 400_000;
/// So many timeouts at one moment, and the broker runs in circles.
const TIMEOUTS_AT_ONCE_MAX: u32 = 5000;

/// Something that will happen.
#[derive(Debug)]
enum Event {
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
    HostRestarts {
        sockets: bool,
    },
    ClientNotices(u64),
    HostNotices(u64),
    OutageEnds,
}

/// What a client sends.
#[derive(Debug)]
enum Up {
    Open { namespace: usize, json: bool },
    Frames(Vec<Arc<Request>>),
    Bye,
}

/// What the host sends.
#[derive(Debug)]
enum Down {
    Bytes { bytes: Vec<u8>, life: u64 },
    Closed,
}

/// One connection, from both ends.
#[derive(Debug)]
struct Link {
    client: usize,
    client_open: bool,
    host_open: bool,
    cut: bool,
    last_up: u64,
    last_down: u64,
}

/// What leaves the host in one step; nothing does once the power is off.
struct Leaving<'a> {
    store: &'a SimStore,
    sends: Vec<(u64, Vec<u8>)>,
    closes: Vec<(usize, u64)>,
}

impl Outbox for Leaving<'_> {
    fn send(&mut self, connection: ConnectionId, prefix: &[u8], body: &[u8]) {
        if self.store.spend() {
            self.sends.push((connection.0, [prefix, body].concat()));
        }
    }

    fn close(&mut self, connection: ConnectionId, _code: CloseCode, _reason: &str) {
        if self.store.spend() {
            self.closes.push((self.sends.len(), connection.0));
        }
    }
}

/// A broker in its host.
struct Host {
    drive: Drive,
    tap: Tap,
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) plan: Plan,
    pub(super) trace: Trace,
    pub(super) model: Model,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    pending: BTreeMap<u64, Event>,
    serial: u64,
    store: Arc<SimStore>,
    host: Option<Host>,
    life: u64,
    inbox: VecDeque<(Given, Option<Vec<u8>>)>,
    waking: bool,
    armed: Option<u64>,
    outage: bool,
    timeouts_at_once: u32,
    clients: Vec<Client>,
    links: BTreeMap<u64, Link>,
    next_connection: u64,
    faults: bool,
    pub(super) steps: u64,
    pub(super) crashes: u64,
}

impl World {
    pub(super) fn new(seed: u64, shown: usize) -> Self {
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
        let mut trace = Trace::new(shown);
        trace.note(format_args!("{plan:?}"));
        Self {
            model: Model::new(plan.namespaces.clone(), plan.bounds),
            rng,
            plan,
            trace,
            now: EPOCH,
            events: BinaryHeap::new(),
            pending: BTreeMap::new(),
            serial: 0,
            store: Arc::new(SimStore::default()),
            host: None,
            life: 0,
            inbox: VecDeque::new(),
            waking: false,
            armed: None,
            outage: false,
            timeouts_at_once: 0,
            clients,
            links: BTreeMap::new(),
            next_connection: 1,
            faults: true,
            steps: 0,
            crashes: 0,
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

    fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    fn at(&mut self, time: u64, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((time, self.serial)));
        self.pending.insert(self.serial, event);
    }

    /// The next event. False if there is none.
    fn happen(&mut self) -> Result<bool, String> {
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
                self.obey_inbox()?;
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
                    self.give(Given::Other, Some(vec![1]));
                    self.start_sync(0);
                }
            }
        }
        Ok(true)
    }

    // Clients.

    fn act(&mut self, index: usize) -> Check {
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
                    let requests = client.act(&mut self.rng, &self.plan, &mut self.model, self.now);
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

    fn connect(&mut self, index: usize) {
        let connection = self.next_connection;
        self.next_connection += 1;
        let link = Link {
            client: index,
            client_open: true,
            host_open: false,
            cut: false,
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

    fn say(&mut self, index: usize, requests: Vec<Arc<Request>>) {
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

    // The network.

    fn send_up(&mut self, connection: u64, up: Up) {
        let delay = self.rng.delay(self.plan.delay_ms);
        let link = self
            .links
            .get_mut(&connection)
            .expect("a connection has a link");
        link.last_up = link.last_up.max(self.now + delay);
        let time = link.last_up;
        self.at(time, Event::Up(connection, up));
    }

    fn send_down(&mut self, connection: u64, down: Down) {
        let delay = self.rng.delay(self.plan.delay_ms);
        let Some(link) = self.links.get_mut(&connection) else {
            return;
        };
        link.last_down = link.last_down.max(self.now + delay);
        let time = link.last_down;
        self.at(time, Event::Down(connection, down));
    }

    fn arrive_up(&mut self, connection: u64, up: Up) {
        let Some(link) = self.links.get_mut(&connection) else {
            return;
        };
        if link.cut {
            return;
        }
        match up {
            Up::Open { namespace, json } => {
                if self.host.is_none() {
                    // Nobody answers the door.
                    link.cut = true;
                    self.after(1, Event::ClientNotices(connection));
                    return;
                }
                link.host_open = true;
                self.give(
                    Given::Connect {
                        connection,
                        namespace,
                        json,
                    },
                    None,
                );
            }
            Up::Frames(requests) if link.host_open => {
                let mut bytes = Vec::new();
                let json = self.clients[link.client].json;
                for request in &requests {
                    let mut frame = Vec::new();
                    request.encode(&self.model.archive.drafts, &mut frame);
                    if json {
                        frame = super::json::line_of(&frame);
                    }
                    bytes.extend_from_slice(&frame);
                }
                self.give(
                    Given::Frames {
                        connection,
                        requests,
                    },
                    Some(bytes),
                );
            }
            Up::Bye if link.host_open => {
                link.host_open = false;
                self.give(Given::Disconnect { connection }, None);
            }
            Up::Frames(_) | Up::Bye => {}
        }
    }

    fn arrive_down(&mut self, connection: u64, down: Down) -> Check {
        let Some(link) = self.links.get(&connection) else {
            return Ok(());
        };
        if link.cut || !link.client_open {
            return Ok(());
        }
        let index = link.client;
        match down {
            Down::Bytes { bytes, life } => {
                let client = &mut self.clients[index];
                client.hear(&self.model, &bytes, life, self.now)?;
                if !self.faults || self.rng.once_in(4) {
                    let requests = if self.faults {
                        client.take_up()
                    } else {
                        client.settle()
                    };
                    self.say(index, requests);
                }
            }
            Down::Closed => {
                self.trace.note(format_args!(
                    "connection {connection} is closed by the host"
                ));
                self.client_notices(connection);
            }
        }
        Ok(())
    }

    fn client_notices(&mut self, connection: u64) {
        let Some(link) = self.links.get_mut(&connection) else {
            return;
        };
        if link.client_open {
            link.client_open = false;
            let index = link.client;
            self.clients[index].disconnected();
            if !self.faults {
                self.after(1, Event::Act(index));
            }
        }
    }

    /// The line breaks: what is under way is lost, and each end finds out in its own time.
    fn cut(&mut self, connection: u64) {
        let most = if self.rng.once_in(3) { 20_000 } else { 200 };
        let (client_after, host_after) = (self.rng.delay(most), self.rng.delay(most));
        let Some(link) = self.links.get_mut(&connection) else {
            return;
        };
        link.cut = true;
        self.trace
            .note(format_args!("the line of {connection} breaks"));
        self.after(client_after, Event::ClientNotices(connection));
        self.after(host_after, Event::HostNotices(connection));
    }

    // The host.

    fn give(&mut self, given: Given, bytes: Option<Vec<u8>>) {
        self.inbox.push_back((given, bytes));
        if !self.waking && self.host.is_some() {
            self.waking = true;
            let delay = if self.rng.once_in(2) {
                0
            } else {
                self.rng.below(4)
            };
            self.after(delay, Event::HostWakes);
        }
    }

    /// One batch: some of what has come in, a flush, and its effects.
    fn obey_inbox(&mut self) -> Check {
        let Some(host) = &mut self.host else {
            return Ok(());
        };
        let mut given = Vec::new();
        let batch_max = self.rng.between(1, 24);
        while (given.len() as u64) < batch_max {
            let Some((next, _)) = self.inbox.front() else {
                break;
            };
            let alone = matches!(next, Given::Frames { requests, .. } if requests.iter().any(|one| one.changes_topics()));
            if alone && !given.is_empty() {
                break;
            }
            let (next, bytes) = self.inbox.pop_front().expect("it was just looked at");
            give_to(&mut host.drive, &next, bytes.as_deref(), &self.plan);
            given.push(next);
            if alone {
                break;
            }
        }
        if !self.inbox.is_empty() && !self.waking {
            self.waking = true;
            self.after(0, Event::HostWakes);
        }
        if self.faults && self.rng.once_in(self.plan.crashes) {
            self.store.arm(self.rng.below(6));
        }
        self.step(&given)
    }

    fn step(&mut self, given: &[Given]) -> Check {
        self.steps += 1;
        self.trace
            .note(format_args!("the host takes {}", brief(given)));
        let Some(host) = &mut self.host else {
            return Ok(());
        };
        let mut leaving = Leaving {
            store: &self.store,
            sends: Vec::new(),
            closes: Vec::new(),
        };
        let result = host.drive.step(Timestamp(self.now), &mut leaving);
        let (sends, closes) = (leaving.sends, leaving.closes);
        let effects = host.tap.take();
        let mut bytes = Vec::new();
        for effect in &effects {
            bytes.clear();
            dunlin_core::abi::encode_effect(effect, &mut bytes);
            self.trace.mix(&bytes);
            self.trace.note(format_args!(
                "  {}",
                super::render::effect(effect, &self.model)
            ));
        }
        self.model.step(self.now, given, &effects)?;
        let failed = match result {
            Ok(step) => {
                self.armed = step.timeout.map(|at| at.0);
                if let Some(deadline) = self.armed {
                    let late = if self.faults { self.rng.delay(200) } else { 0 };
                    let time = deadline.max(self.now) + late;
                    self.at(
                        time,
                        Event::Timer {
                            life: self.life,
                            deadline,
                        },
                    );
                }
                if let Some(sync) = step.sync {
                    self.start_sync(if sync.urgent { 0 } else { 100 });
                }
                for load in step.loads {
                    self.start_load(load.ticket, load.read);
                }
                None
            }
            Err(error) => Some(error.to_string()),
        };
        self.leave(sends, closes)?;
        match (failed, self.store.is_off()) {
            (_, true) => self.crash(),
            (Some(error), false) => Err(format!("the host's step failed: {error}")),
            (None, false) => Ok(()),
        }
    }

    fn leave(&mut self, sends: Vec<(u64, Vec<u8>)>, closes: Vec<(usize, u64)>) -> Check {
        let (applied, synced) = (self.store.applied(), self.store.synced());
        let mut closes = closes.into_iter().peekable();
        for (index, (connection, bytes)) in sends.into_iter().enumerate() {
            while let Some((_, closed)) = closes.next_if(|(place, _)| *place <= index) {
                self.close(closed);
            }
            self.model.released(connection, &bytes, applied, synced)?;
            if self
                .links
                .get(&connection)
                .is_some_and(|link| link.host_open)
            {
                self.send_down(
                    connection,
                    Down::Bytes {
                        bytes,
                        life: self.life,
                    },
                );
            }
        }
        for (_, closed) in closes {
            self.close(closed);
        }
        Ok(())
    }

    fn close(&mut self, connection: u64) {
        self.send_down(connection, Down::Closed);
        if let Some(link) = self.links.get_mut(&connection) {
            link.host_open = false;
        }
    }

    fn start_sync(&mut self, within: u64) {
        let writes = self.store.applied();
        if self.outage || writes == self.store.synced() {
            return;
        }
        let delay = if within == 0 {
            self.rng.delay(20)
        } else {
            self.rng.below(within + 1)
        };
        self.after(
            delay,
            Event::Synced {
                life: self.life,
                writes,
            },
        );
    }

    fn synced(&mut self, life: u64, writes: u64) -> Check {
        if life != self.life || self.outage {
            return Ok(());
        }
        let Some(host) = &mut self.host else {
            return Ok(());
        };
        self.store.sync_up_to(writes);
        self.trace.note(format_args!("write {writes} is durable"));
        let mut leaving = Leaving {
            store: &self.store,
            sends: Vec::new(),
            closes: Vec::new(),
        };
        host.drive.synced(WriteSequence(writes), &mut leaving);
        let (sends, closes) = (leaving.sends, leaving.closes);
        self.leave(sends, closes)
    }

    fn start_load(&mut self, ticket: Ticket, read: RangeRead) {
        let delay = self.rng.delay(if self.faults { 300 } else { 5 });
        // The rows are those of the moment of the order, or of any later one.
        let rows = if self.rng.once_in(2) {
            Ok(self.store.range(&read).expect("the simulated store reads"))
        } else {
            Err(read)
        };
        self.after(
            delay,
            Event::Loaded {
                life: self.life,
                ticket,
                rows,
            },
        );
    }

    fn loaded(&mut self, life: u64, ticket: Ticket, rows: Result<Vec<Row>, RangeRead>) -> Check {
        if life != self.life || self.host.is_none() {
            return Ok(());
        }
        let fails = self.faults && (self.outage || self.rng.once_in(self.plan.load_faults));
        let result = if fails {
            Err(LoadFailed)
        } else {
            Ok(rows
                .or_else(|read| self.store.range(&read))
                .expect("the simulated store reads"))
        };
        let host = self.host.as_mut().expect("it was just looked at");
        let ok = result.is_ok();
        host.drive.input(&Input::Loaded { ticket, result });
        self.step(&[Given::Load { ok }])
    }

    fn start_host(&mut self) -> Check {
        let seed = self.rng.next();
        let (engine, tap) = SimEngine::new(&self.plan.config, seed)?;
        let drive = Drive::restore(Box::new(engine), self.store.clone(), ShardSpan::ALL)
            .map_err(|error| format!("the restore failed: {error}"))?;
        self.host = Some(Host { drive, tap });
        self.armed = None;
        self.timeouts_at_once = 0;
        Ok(())
    }

    // Trouble.

    fn trouble(&mut self) -> Check {
        if self.rng.once_in(self.plan.cuts * 20) {
            let open: Vec<u64> = self
                .links
                .iter()
                .filter(|(_, link)| link.client_open && !link.cut)
                .map(|(id, _)| *id)
                .collect();
            if !open.is_empty() {
                let connection = *self.rng.pick(&open);
                self.cut(connection);
            }
        }
        if self.rng.once_in(self.plan.jumps * 10) {
            let jump = *self.rng.pick(&[1000, 60_000, 3_600_000]);
            self.now += self.rng.below(jump);
            self.trace.note(format_args!("the clock jumps"));
        }
        if self.rng.once_in(self.plan.outages * 10) && !self.outage && self.host.is_some() {
            self.outage = true;
            self.give(Given::Other, Some(vec![0]));
            let span = self.rng.delay(3000);
            self.after(span, Event::OutageEnds);
        }
        if self.rng.once_in(200) && self.host.is_some() {
            // A timeout that nobody asked for.
            self.give(Given::Other, None);
        }
        if self.rng.once_in(self.plan.sleeps * 10) {
            self.sleep()?;
        }
        Ok(())
    }

    /// Hibernation: the memory goes, everything else stays.
    fn sleep(&mut self) -> Check {
        let idle = self.inbox.is_empty()
            && !self.outage
            && self.model.loads() == 0
            && self.armed.is_none();
        if !idle || self.host.is_none() || self.model.check_answered().is_err() {
            return Ok(());
        }
        self.synced(self.life, self.store.applied())?;
        self.host = None;
        let kept = self.store.crash(&mut self.rng, true);
        self.trace.note(format_args!("the host sleeps and wakes"));
        self.recover(kept)?;
        self.restart(true, true)
    }

    /// The power failed: what was under way within the host is lost.
    fn crash(&mut self) -> Check {
        self.crashes += 1;
        self.host = None;
        let keep_all = self.rng.once_in(2);
        let kept = self.store.crash(&mut self.rng, keep_all);
        self.trace.note(format_args!(
            "the host of life {} crashes, {kept} writes are kept",
            self.life
        ));
        self.inbox.clear();
        self.outage = false;
        self.recover(kept)?;
        let sockets = self.rng.once_in(2);
        if !sockets {
            for connection in self.links.keys().copied().collect::<Vec<_>>() {
                let link = self
                    .links
                    .get_mut(&connection)
                    .expect("its key was just listed");
                link.host_open = false;
                link.cut = true;
                let delay = self.rng.delay(5000);
                self.after(delay, Event::ClientNotices(connection));
            }
        }
        let pause = self.rng.delay(2000);
        self.after(pause, Event::HostRestarts { sockets });
        Ok(())
    }

    /// Finds out what survived, and whether that is enough.
    fn recover(&mut self, kept: u64) -> Check {
        let rows = self.store.rows();
        let audits: Result<Vec<_>, String> = self
            .plan
            .namespaces
            .iter()
            .map(|namespace| audit(&rows, &self.plan.config, namespace, self.now))
            .collect();
        self.model.recover(
            Ended {
                life: self.life,
                kept,
                now: self.now,
            },
            &audits?,
            &rows,
        )?;
        self.life += 1;
        Ok(())
    }

    /// A new life. Where sockets outlived the old one, the broker is told of them first.
    fn restart(&mut self, sockets: bool, clean: bool) -> Check {
        self.start_host()?;
        let mut given = Vec::new();
        for connection in self.model.connections() {
            let alive = sockets
                && self
                    .links
                    .get(&connection)
                    .is_some_and(|link| link.host_open);
            if alive {
                given.push(Given::Restored { connection, clean });
            } else {
                self.model.forget(connection);
            }
        }
        if sockets {
            // Sockets that were accepted, but of which the old life never heard.
            for (connection, link) in &mut self.links {
                if link.host_open && self.model.namespace_of(*connection).is_none() {
                    let (namespace, json) = (
                        self.clients[link.client].namespace,
                        self.clients[link.client].json,
                    );
                    self.model.meet(*connection, namespace, json);
                    given.push(Given::Restored {
                        connection: *connection,
                        clean,
                    });
                }
            }
        }
        let host = self.host.as_mut().expect("it was just started");
        for one in &given {
            give_to(&mut host.drive, one, None, &self.plan);
        }
        self.step(&given)?;
        if !self.inbox.is_empty() && !self.waking {
            self.waking = true;
            self.after(0, Event::HostWakes);
        }
        Ok(())
    }

    // The end.

    fn settle(&mut self) -> Check {
        self.faults = false;
        self.trace.note(format_args!("the faults end"));
        if self.outage {
            self.outage = false;
            self.give(Given::Other, Some(vec![1]));
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
    fn rest(&mut self) -> Check {
        for _event in 0..SETTLING_EVENTS_MAX {
            if !self.happen()? {
                return Ok(());
            }
        }
        Err(format!(
            "the world does not come to rest within {SETTLING_EVENTS_MAX} events"
        ))
    }

    fn check_end(&mut self) -> Check {
        self.model.check_answered()?;
        for client in &self.clients {
            client.check_settled()?;
            for (id, view) in &client.subscriptions {
                view.check_complete(&self.model.archive, client.namespace, self.now)
                    .map_err(|error| {
                        format!(
                            "client {}, subscription {id} ({:?} from {}): {error}",
                            client.index,
                            view.wish.filter,
                            from(&view.wish.begin)
                        )
                    })?;
            }
        }
        self.model.check_retention()?;
        if let Some(deadline) = self.armed {
            return Err(format!(
                "nothing is to be done, but a timeout is wanted in {} ms",
                deadline.saturating_sub(self.now)
            ));
        }
        // And all of it is really stored.
        self.store.sync_up_to(u64::MAX);
        let kept = self.store.crash(&mut self.rng, true);
        self.recover(kept)
    }
}

fn from(begin: &Begin) -> String {
    begin.text()
}

/// Hands one input to the host. `Other` is a timeout, or the state of the store.
fn give_to(drive: &mut Drive, given: &Given, bytes: Option<&[u8]>, plan: &Plan) {
    let input = match given {
        Given::Connect {
            connection,
            namespace,
            json,
        } => Input::Connect {
            connection: ConnectionId(*connection),
            encoding: if *json {
                Encoding::Json
            } else {
                Encoding::Binary
            },
            claims: Claims {
                namespace: plan.namespaces[*namespace].clone(),
                user: String::new(),
                device: String::new(),
                rights: Rights::ALL,
            },
            ip: Vec::new(),
        },
        Given::Frames { connection, .. } => Input::Frame {
            connection: ConnectionId(*connection),
            bytes: bytes.expect("frames have bytes"),
        },
        Given::Disconnect { connection } => Input::Disconnect {
            connection: ConnectionId(*connection),
        },
        Given::Restored { connection, clean } => Input::Restored {
            connection: ConnectionId(*connection),
            clean: *clean,
        },
        Given::Load { .. } => unreachable!("a load is answered in a step of its own"),
        Given::Other => match bytes {
            Some(state) => Input::Storage {
                available: state == [1],
                commit_latency_ms: 1,
            },
            None => Input::Timeout,
        },
    };
    drive.input(&input);
}

fn brief(given: &[Given]) -> String {
    let one = |given: &Given| match given {
        Given::Connect { connection, .. } => format!("connect {connection}"),
        Given::Frames {
            connection,
            requests,
        } => {
            let orders: Vec<String> = requests
                .iter()
                .map(|one| format!("#{} {:?}", one.number, one.order))
                .collect();
            format!("{connection}: {}", orders.join(", "))
        }
        Given::Disconnect { connection } => format!("disconnect {connection}"),
        Given::Restored { connection, clean } => format!("restored {connection} clean {clean}"),
        Given::Load { ok } => format!("loaded {ok}"),
        Given::Other => "timeout or storage".to_owned(),
    };
    given.iter().map(one).collect::<Vec<_>>().join("; ")
}
