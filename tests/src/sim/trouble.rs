//! What goes wrong, and how a life ends and the next one begins.

use super::archive::Check;
use super::audit::audit;
use super::host::give_to;
use super::model::Given;
use super::recovery::Ended;
use super::world::{Event, World};

impl World {
    pub(super) fn trouble(&mut self) -> Check {
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
    pub(super) fn sleep(&mut self) -> Check {
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
    pub(super) fn crash(&mut self) -> Check {
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
    pub(super) fn recover(&mut self, kept: u64) -> Check {
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
    pub(super) fn restart(&mut self, sockets: bool, clean: bool) -> Check {
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
}
