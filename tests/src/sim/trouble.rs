//! What goes wrong.

use super::archive::Check;
use super::command::{Order, Request};
use super::disk::Full;
use super::model::Given;
use super::workload::session;
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
        if self.rng.once_in(self.plan.sleeps) {
            self.sleep()?;
        }
        if self.rng.once_in(self.plan.drains * 10) && self.host.is_some() && !self.draining {
            self.draining = true;
            self.give(Given::Drain, None);
            let pause = self.rng.delay(500);
            self.after(pause, Event::HostStops);
        }
        if self.rng.once_in(self.plan.noise * 10) && self.host.is_some() {
            self.make_noise();
        }
        if self.rng.once_in(self.plan.disk_faults * 10) {
            self.break_disk();
        }
        if self.rng.once_in(self.plan.flips * 10) && self.host.is_some() && !self.store.is_off() {
            let refused = self.store.check_damage(&mut self.rng)?;
            self.troubles.refused_bits += u64::from(refused);
        }
        if self.rng.once_in(50)
            && self.host.is_some()
            && let Err(error) = self.store.maintain()
        {
            // Whoever writes next finds out.
            self.trace.note(format_args!("maintenance: {error}"));
            if self.store.is_off() {
                self.crash()?;
            }
        }
        Ok(())
    }

    /// A connection that nobody owns says something that no version understands.
    fn make_noise(&mut self) {
        self.troubles.noise += 1;
        let connection = self.next_connection;
        self.next_connection += 1;
        let json = self.rng.once_in(2);
        let mut bytes = Vec::new();
        if self.rng.once_in(2) {
            let hello = Request {
                number: 0,
                order: Order::Session(session::Order::Hello),
            };
            hello.encode(&[], &mut bytes);
            if json {
                bytes = super::json::line_of(&bytes);
            }
        }
        if json {
            let lines: [&[u8]; 6] = [
                b"{\"type\":\"read\"\n",
                b"[]\n",
                b"\xff\xfe\n",
                b"{\"type\":\"none such\",\"request\":1}\n",
                b"{\"type\":\"ping\",\"request\":-1}\n",
                &[b'['; 3000],
            ];
            bytes.extend_from_slice(self.rng.pick::<&[u8]>(&lines));
        } else {
            let frames: [&[u8]; 5] = [
                &[200, 1, 2, 3],
                &[0xff; 12],
                &[3, 0x7f, 1, 0],
                &[1, 12],
                &[2, 2, 0],
            ];
            bytes.extend_from_slice(self.rng.pick::<&[u8]>(&frames));
        }
        let namespace = 0;
        self.give(
            Given::Connect {
                connection,
                namespace,
                json,
            },
            None,
        );
        self.give(Given::Noise { connection }, Some(bytes));
        self.give(Given::Disconnect { connection }, None);
    }

    fn break_disk(&mut self) {
        let what = self.rng.below(6);
        self.trace
            .note(format_args!("trouble {what} with the disk"));
        self.store.set_trouble(|trouble| match what {
            0 | 1 => trouble.sync = true,
            2 => trouble.write = true,
            3 => trouble.full = Some(Full::Files),
            4 => trouble.full = Some(Full::Writes),
            _ => trouble.unreadable = true,
        });
        match what {
            0..=2 => {}
            3 if self.rng.once_in(2) => self.store.fail_checkpoint(),
            5 => {
                // What cannot be read is noticed when it is opened.
                self.store.set_trouble(|trouble| trouble.write = true);
                let span = self.rng.delay(3000);
                self.after(span, Event::DiskHeals);
            }
            _ => {
                let span = self.rng.delay(3000);
                self.after(span, Event::DiskHeals);
            }
        }
    }
}
