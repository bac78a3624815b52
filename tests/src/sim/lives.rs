//! How a life of the broker ends, with its process, with the power or with its store, and how the next one begins.

use dunlin_host::{Store as _, StoreError};

use super::archive::Check;
use super::audit::audit;
use super::damage::{check_refusal, check_whole};
use super::host::give_to;
use super::model::Given;
use super::recovery::Ended;
use super::world::{Event, World};

impl World {
    /// The store failed under the broker, which is dropped; its sockets stay.
    pub(super) fn lose(&mut self, error: &StoreError) -> Check {
        self.troubles.failures += 1;
        self.trace
            .note(format_args!("the host drops its broker: {error}"));
        self.host = None;
        self.lost = true;
        self.opens_again_soon();
        Ok(())
    }

    fn opens_again_soon(&mut self) {
        let pause = self.rng.delay(1000);
        self.after(pause, Event::StoreOpens(self.life));
    }

    /// The host tries to open the store again, and restores its broker.
    pub(super) fn open_store(&mut self, life: u64) -> Check {
        if life != self.life || self.host.is_some() {
            return Ok(());
        }
        let opened = self.store.open_again()?;
        if self.store.is_off() {
            return self.crash();
        }
        match opened {
            Err(error) if !self.faults => Err(format!("the store does not open: {error}")),
            Err(error) => {
                self.trace.note(format_args!("it does not open: {error}"));
                self.opens_again_soon();
                Ok(())
            }
            Ok(kept) => {
                self.trace.note(format_args!(
                    "the store is open again, {kept} writes are kept"
                ));
                self.recover(kept)?;
                self.outage = false;
                self.unwritable = false;
                let life = self.life;
                self.probe()?;
                if life != self.life {
                    // It ended in there, and the next one begins in its time.
                    return Ok(());
                }
                self.restart(true, false)
            }
        }
    }

    /// Whether the store takes writes; if not, it is asked again later.
    pub(super) fn probe(&mut self) -> Check {
        let probed = self.store.probe();
        self.unwritable = probed.is_err();
        let Err(error) = probed else {
            return Ok(());
        };
        if self.store.is_off() {
            return self.crash();
        }
        self.trace
            .note(format_args!("the store takes no writes: {error}"));
        self.outage = true;
        let pause = self.rng.delay(1000);
        self.after(pause, Event::OutageEnds);
        Ok(())
    }

    /// Hibernation: the memory goes, everything else stays. A broker that can sleep comes back when somebody needs it or
    /// its timeout has come; one that cannot is gone for another reason, and comes back at once.
    pub(super) fn sleep(&mut self) -> Check {
        let idle = self.inbox.is_empty() && !self.outage && self.model.loads() == 0;
        if !idle || self.host.is_none() || self.model.check_answered().is_err() {
            return Ok(());
        }
        self.synced(self.life, self.store.applied())?;
        if self.host.take().is_none() {
            return Ok(());
        }
        let kept = self.store.crash(&mut self.rng, false)?;
        let can_sleep = self.can_sleep;
        self.trace
            .note(format_args!("the host sleeps, and could: {can_sleep}"));
        self.recover(kept)?;
        self.asleep = true;
        if !can_sleep {
            return self.wake();
        }
        self.troubles.sleeps += 1;
        if let Some(deadline) = self.armed.take() {
            let late = if self.faults { self.rng.delay(200) } else { 0 };
            let time = (deadline + self.setback).max(self.now) + late;
            self.at(time, Event::Alarm(self.life));
        }
        Ok(())
    }

    /// Somebody needs a broker that sleeps.
    pub(super) fn wake(&mut self) -> Check {
        if core::mem::take(&mut self.asleep) {
            self.trace.note(format_args!("the host wakes"));
            return self.restart(true, true);
        }
        Ok(())
    }

    /// The power failed: what was under way within the host is lost.
    pub(super) fn crash(&mut self) -> Check {
        self.troubles.crashes += 1;
        self.host = None;
        self.lost = false;
        let power_failed = self.rng.once_in(2);
        let kept = self.store.crash(&mut self.rng, power_failed)?;
        self.trace.note(format_args!(
            "the host of life {} crashes, power failed {power_failed}, {kept} writes are kept",
            self.life
        ));
        let sockets = self.rng.once_in(2);
        self.end_process(kept, sockets)
    }

    /// The host stops as it was told to.
    pub(super) fn stop(&mut self) -> Check {
        if !self.draining {
            return Ok(());
        }
        let life = self.life;
        self.synced(life, self.store.applied())?;
        if life != self.life {
            return Ok(());
        }
        self.host = None;
        self.lost = false;
        let kept = self.store.crash(&mut self.rng, false)?;
        self.troubles.stops += 1;
        self.trace.note(format_args!("the host stops"));
        self.end_process(kept, false)
    }

    /// The process is gone, with its sockets or, where somebody else holds them, without.
    fn end_process(&mut self, kept: u64, sockets: bool) -> Check {
        self.inbox.clear();
        self.asleep = false;
        self.outage = false;
        self.unwritable = false;
        self.draining = false;
        self.recover(kept)?;
        if self.rng.once_in(self.plan.setbacks) {
            self.troubles.setbacks += 1;
            self.setback += self.rng.delay(100_000);
            self.trace
                .note(format_args!("the clock is {} ms behind", self.setback));
        }
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
    pub(super) fn recover(&mut self, kept: u64) -> Check {
        let rows = self.store.rows().map_err(|error| error.0)?;
        for namespace in &self.plan.namespaces {
            check_whole(&mut self.rng, &rows, namespace)?;
        }
        if self.rng.once_in(4) {
            let refused = check_refusal(&mut self.rng, &rows, &self.plan.config)?;
            self.troubles.refused_rows += u64::from(refused);
        }
        let audits: Result<Vec<_>, String> = self
            .plan
            .namespaces
            .iter()
            .map(|namespace| audit(&rows, &self.plan.config, namespace))
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
    pub(super) fn restart(&mut self, sockets: bool, clean: bool) -> Check {
        self.start_host()?;
        if self.host.is_none() {
            return Ok(());
        }
        let mut given = Vec::new();
        if self.outage {
            // In front of everything, or this first batch would be written.
            given.push(Given::Other);
        }
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
            // Sockets that were accepted, but of which the old life never heard, nor will the new one by itself.
            for (connection, link) in &mut self.links {
                let waits = self.inbox.iter().any(|(given, _)| {
                    matches!(given, Given::Connect { connection: other, .. } if other == connection)
                });
                if link.host_open && !waits && self.model.namespace_of(*connection).is_none() {
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
        for at in 0..given.len() {
            if let Given::Restored { connection, .. } = given[at]
                && let Some(link) = self.links.get(&connection)
            {
                let at = link.heard_at;
                given.push(Given::Seen { connection, at });
            }
        }
        let host = self.host.as_mut().expect("it was just started");
        for one in &given {
            let unavailable = matches!(one, Given::Other).then_some(&[0][..]);
            give_to(&mut host.drive, one, unavailable, &self.plan);
        }
        if self.draining {
            given.push(Given::Drain);
            give_to(&mut host.drive, &Given::Drain, None, &self.plan);
        }
        self.step(&given)?;
        if !self.inbox.is_empty() && !self.waking {
            self.waking = true;
            self.after(0, Event::HostWakes);
        }
        Ok(())
    }
}
