//! What will leave at the end of the batch: replies gathered by connection, deliveries in order, closes last.
//!
//! A connection's replies come before the deliveries of the same batch, so that `subscribed` precedes what it
//! promises; a reply that waits for less than a delivery may overtake it.

use alloc::string::String;
use alloc::vec::Vec;

use crate::effect::{After, CloseCode, Effect, Event, Recipient};
use crate::ids::ConnectionId;
use crate::input::Encoding;
use crate::protocol::frame::Reply;
use crate::protocol::json::frame_to_json;
use crate::wire::Reader;

/// What one reply mostly takes.
const REPLY_BYTES: usize = 32;

#[derive(Default)]
pub(crate) struct Outbox {
    /// By connection, then by what they wait for; the order is that of each pair's first reply.
    replies: Vec<(ConnectionId, After, Vec<u8>)>,
    deliveries: Vec<Effect>,
    loads: Vec<Effect>,
    closes: Vec<Effect>,
    events: Vec<Effect>,
    scratch: Vec<u8>,
    reply_bytes: u64,
}

/// Where a connection's gathered replies lie, by what they wait for, until the next flush. Meaningless once
/// [`Outbox::batch`] has changed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReplySlots {
    batch: u64,
    slots: [Option<(After, u32)>; 3],
}

impl Outbox {
    /// Appends a reply to what the connection gets at the end of the batch.
    pub(crate) fn reply(
        &mut self,
        batch: u64,
        connection: ConnectionId,
        encoding: Encoding,
        slots: &mut ReplySlots,
        after: After,
        reply: &Reply<'_>,
    ) {
        if slots.batch != batch {
            *slots = ReplySlots {
                batch,
                slots: [None; 3],
            };
        }
        let index = match slots
            .slots
            .iter()
            .flatten()
            .find(|(other, _)| *other == after)
        {
            Some((_, index)) => *index,
            None => {
                let index = self.replies.len() as u32;
                let out = Vec::with_capacity(REPLY_BYTES);
                self.replies.push((connection, after, out));
                if let Some(free) = slots.slots.iter_mut().find(|slot| slot.is_none()) {
                    *free = Some((after, index));
                }
                index
            }
        };
        let out = &mut self.replies[index as usize].2;
        let before = out.len();
        match encoding {
            Encoding::Binary => reply.encode(out),
            Encoding::Json => {
                self.scratch.clear();
                reply.encode(&mut self.scratch);
                put_json(&self.scratch, out);
            }
        }
        self.reply_bytes += (out.len() - before) as u64;
    }

    /// How many bytes of replies the batch has so far.
    pub(crate) const fn reply_bytes(&self) -> u64 {
        self.reply_bytes
    }

    /// One body to several recipients.
    pub(crate) fn deliver(
        &mut self,
        after: After,
        to: Vec<Recipient>,
        prefixes: Vec<u8>,
        body: Vec<u8>,
    ) {
        self.deliveries.push(Effect::Send {
            after,
            to,
            prefixes,
            body,
        });
    }

    /// Frames for one connection, in the order of the deliveries.
    pub(crate) fn deliver_to(&mut self, after: After, connection: ConnectionId, body: Vec<u8>) {
        let to = [Recipient {
            connection,
            prefix_end: 0,
        }]
        .to_vec();
        self.deliver(after, to, Vec::new(), body);
    }

    pub(crate) fn load(&mut self, load: Effect) {
        self.loads.push(load);
    }

    pub(crate) fn close(&mut self, connection: ConnectionId, code: CloseCode, mut reason: String) {
        /// RFC 6455, section 5.5: a control frame carries 125 bytes, two of which are the code.
        const REASON_BYTES_MAX: usize = 123;
        while reason.len() > REASON_BYTES_MAX {
            reason.pop();
        }
        self.closes.push(Effect::Close {
            connection,
            code,
            reason,
        });
    }

    pub(crate) fn notify(&mut self, event: Event) {
        self.events.push(Effect::Notify(event));
    }

    /// Moves everything out, in the order in which a host obeys.
    pub(crate) fn drain(&mut self, effects: &mut impl Extend<Effect>) {
        self.reply_bytes = 0;
        effects.extend(self.loads.drain(..));
        effects.extend(self.replies.drain(..).map(|(connection, after, body)| {
            Effect::Send {
                after,
                to: [Recipient {
                    connection,
                    prefix_end: 0,
                }]
                .to_vec(),
                prefixes: Vec::new(),
                body,
            }
        }));
        effects.extend(self.deliveries.drain(..));
        effects.extend(self.closes.drain(..));
        effects.extend(self.events.drain(..));
    }
}

/// Transcodes a frame with its length to a JSON line.
pub(crate) fn put_json(frame: &[u8], out: &mut Vec<u8>) {
    let body = Reader::new(frame).bytes();
    body.and_then(|body| frame_to_json(body, Reply::LAYOUTS, out))
        .expect("the broker's own frames are sound");
}
