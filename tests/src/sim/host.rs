//! The host: batches, what leaves after them, syncs and loads, around the step that the native host has too.

use dunlin_core::{
    Claims, CloseCode, ConnectionId, Effect, Encoding, Input, LoadFailed, Rights, Row, Ticket,
    Timestamp, WriteSequence,
};
use dunlin_host::{Drive, DriveError, Outbox, RangeRead, ShardSpan, Store as _};

use super::archive::Check;
use super::engine::{Said, SimEngine, Tap};
use super::model::Given;
use super::network::Down;
use super::plan::Plan;
use super::store::SimStore;
use super::workload::presence::identity;
use super::world::{Event, World};

/// What leaves the host in one step; nothing does once the power is off.
pub(super) struct Leaving<'a> {
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
pub(super) struct Host {
    pub(super) drive: Drive,
    pub(super) tap: Tap,
}

impl World {
    pub(super) fn give(&mut self, given: Given, bytes: Option<Vec<u8>>) {
        self.inbox.push_back((given, bytes));
        if !self.waking && (self.host.is_some() || self.asleep) {
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
    pub(super) fn obey_inbox(&mut self) -> Check {
        let (life, armed, clock) = (self.life, self.armed, self.clock());
        let Some(host) = &mut self.host else {
            return Ok(());
        };
        let mut given = Vec::new();
        let mut is_idle = self.knows_time && armed.is_none_or(|at| at > clock);
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
            is_idle &= matches!(next, Given::Other) && bytes.is_none();
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
            let effects = self.rng.below(6);
            if self.rng.once_in(2) {
                self.store.arm(effects);
            } else {
                self.store.arm_disk(effects);
            }
        }
        self.step(&given)?;
        if is_idle && life == self.life && (self.effects > 0 || self.armed != armed) {
            return Err(format!(
                "a timeout before its time has {} effects, and the next is at {:?} instead of {armed:?}",
                self.effects, self.armed
            ));
        }
        Ok(())
    }

    pub(super) fn step(&mut self, given: &[Given]) -> Check {
        self.steps += 1;
        self.knows_time |= !given.is_empty();
        self.trace
            .note(format_args!("the host takes {}", brief(given)));
        let now = Timestamp(self.clock());
        let Some(host) = &mut self.host else {
            return Ok(());
        };
        let mut leaving = Leaving {
            store: &self.store,
            sends: Vec::new(),
            closes: Vec::new(),
        };
        let result = host.drive.step(now, &mut leaving);
        let (sends, closes) = (leaving.sends, leaving.closes);
        let Said { effects, can_sleep } = host.tap.take();
        self.can_sleep = can_sleep;
        let is_work = |effect: &&Effect| !matches!(effect, Effect::Load { .. });
        self.effects = effects.iter().filter(is_work).count();
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
        self.model.step(now.0, given, &effects)?;
        let failed = match result {
            Ok(step) => {
                self.armed = step.timeout.map(|at| at.0);
                if let Some(deadline) = self.armed {
                    let late = if self.faults { self.rng.delay(200) } else { 0 };
                    let time = (deadline + self.setback).max(self.now) + late;
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
            Err(error) => Some(error),
        };
        self.leave(sends, closes)?;
        match failed {
            _ if self.store.is_off() => self.crash(),
            Some(DriveError::Store(error)) => self.lose(&error),
            Some(error) => Err(format!("the host's step failed: {error}")),
            None => Ok(()),
        }
    }

    pub(super) fn leave(&mut self, sends: Vec<(u64, Vec<u8>)>, closes: Vec<(usize, u64)>) -> Check {
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

    pub(super) fn close(&mut self, connection: u64) {
        self.send_down(connection, Down::Closed);
        if let Some(link) = self.links.get_mut(&connection) {
            link.host_open = false;
        }
    }

    pub(super) fn start_sync(&mut self, within: u64) {
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

    pub(super) fn synced(&mut self, life: u64, writes: u64) -> Check {
        if life != self.life || self.outage {
            return Ok(());
        }
        if self.host.is_none() {
            return Ok(());
        }
        if let Err(error) = self.store.sync() {
            return if self.store.is_off() {
                self.crash()
            } else {
                self.lose(&error)
            };
        }
        let host = self.host.as_mut().expect("it was just looked at");
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

    pub(super) fn start_load(&mut self, ticket: Ticket, read: RangeRead) {
        let delay = self.rng.delay(if self.faults { 300 } else { 5 });
        // The rows are those of the moment of the order, or of any later one.
        let rows = if self.rng.once_in(2) {
            self.store.range(&read).map_err(|_| read)
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

    pub(super) fn loaded(
        &mut self,
        life: u64,
        ticket: Ticket,
        rows: Result<Vec<Row>, RangeRead>,
    ) -> Check {
        if life != self.life || self.host.is_none() {
            return Ok(());
        }
        let fails = self.faults && (self.outage || self.rng.once_in(self.plan.load_faults));
        let result = if fails {
            Err(LoadFailed)
        } else {
            rows.or_else(|read| self.store.range(&read))
                .map_err(|_| LoadFailed)
        };
        let host = self.host.as_mut().expect("it was just looked at");
        let ok = result.is_ok();
        host.drive.input(&Input::Loaded { ticket, result });
        self.step(&[Given::Load { ok }])
    }

    pub(super) fn start_host(&mut self) -> Check {
        let seed = self.rng.next();
        let (engine, tap) = SimEngine::new(&self.plan.config, seed)?;
        // What the last broker wrote may not be durable yet; the next one takes all that it reads for durable.
        let synced = self.store.sync().map_err(DriveError::Store);
        let restored = synced
            .and_then(|()| Drive::restore(Box::new(engine), self.store.clone(), ShardSpan::ALL));
        match restored {
            Ok(drive) => {
                self.host = Some(Host { drive, tap });
                self.lost = false;
            }
            Err(DriveError::Store(error)) => self.lose(&error)?,
            Err(error) => return Err(format!("the restore failed: {error}")),
        }
        self.armed = None;
        self.knows_time = false;
        self.timeouts_at_once = 0;
        Ok(())
    }
}

/// Hands one input to the host. `Other` is a timeout, or the state of the store.
pub(super) fn give_to(drive: &mut Drive, given: &Given, bytes: Option<&[u8]>, plan: &Plan) {
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
                user: identity(*connection).0.to_owned(),
                device: identity(*connection).1.to_owned(),
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
        Given::Seen { connection, at } => Input::Seen {
            connection: ConnectionId(*connection),
            at: Timestamp(*at),
        },
        Given::Noise { connection } => Input::Frame {
            connection: ConnectionId(*connection),
            bytes: bytes.expect("noise has bytes"),
        },
        Given::Drain => Input::Drain,
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
        Given::Seen { connection, at } => format!("seen {connection} at {at}"),
        Given::Load { ok } => format!("loaded {ok}"),
        Given::Noise { connection } => format!("noise from {connection}"),
        Given::Drain => "drain".to_owned(),
        Given::Other => "timeout or storage".to_owned(),
    };
    given.iter().map(one).collect::<Vec<_>>().join("; ")
}
