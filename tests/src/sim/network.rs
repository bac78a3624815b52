//! The lines between clients and the host: messages are under way for a while, in order, until a line breaks.

use std::sync::Arc;

use super::archive::Check;
use super::command::Request;
use super::model::Given;
use super::world::{Event, World};

/// What a client sends.
#[derive(Debug)]
pub(super) enum Up {
    Open { namespace: usize, json: bool },
    Frames(Vec<Arc<Request>>),
    Bye,
}

/// What the host sends.
#[derive(Debug)]
pub(super) enum Down {
    Bytes { bytes: Vec<u8>, life: u64 },
    Closed,
}

/// One connection, from both ends.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) client: usize,
    pub(super) client_open: bool,
    pub(super) host_open: bool,
    pub(super) cut: bool,
    /// When the host heard of it last, by its clock.
    pub(super) heard_at: u64,
    pub(super) last_up: u64,
    pub(super) last_down: u64,
}

/// No message is under way for longer once the faults ended, so that members can keep what they are leased.
const CALM_DELAY_MS_MAX: u64 = 60;

impl World {
    fn delay_ms_max(&self) -> u64 {
        if self.faults {
            self.plan.delay_ms
        } else {
            self.plan.delay_ms.min(CALM_DELAY_MS_MAX)
        }
    }

    pub(super) fn send_up(&mut self, connection: u64, up: Up) {
        let most = self.delay_ms_max();
        let delay = self.rng.delay(most);
        let link = self
            .links
            .get_mut(&connection)
            .expect("a connection has a link");
        link.last_up = link.last_up.max(self.now + delay);
        let time = link.last_up;
        self.at(time, Event::Up(connection, up));
    }

    pub(super) fn send_down(&mut self, connection: u64, down: Down) {
        let most = self.delay_ms_max();
        let delay = self.rng.delay(most);
        let Some(link) = self.links.get_mut(&connection) else {
            return;
        };
        link.last_down = link.last_down.max(self.now + delay);
        let time = link.last_down;
        self.at(time, Event::Down(connection, down));
    }

    pub(super) fn arrive_up(&mut self, connection: u64, up: Up) {
        let Some(link) = self.links.get_mut(&connection) else {
            return;
        };
        if link.cut {
            return;
        }
        link.heard_at = self.now - self.setback;
        match up {
            Up::Open { namespace, json } => {
                if self.host.is_none() && !self.lost && !self.asleep {
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

    pub(super) fn arrive_down(&mut self, connection: u64, down: Down) -> Check {
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
                        client.resume()
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

    pub(super) fn client_notices(&mut self, connection: u64) {
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
    pub(super) fn cut(&mut self, connection: u64) {
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
}
