//! What leaves the host: nothing that was asked to be safe may be told of before it is.

use dunlin_core::Durability;
use dunlin_core::frame::Reply;

use super::archive::Check;
use super::frames::{decode, frames_in};
use super::model::Model;

/// Whether an answer may leave that waits for a write at a level.
fn check_left(waits: Option<(u64, Durability)>, applied: u64, synced: u64) -> Check {
    let Some((write, level)) = waits else {
        return Ok(());
    };
    let reached = match level {
        Durability::None => u64::MAX,
        Durability::Async => applied,
        Durability::Sync => synced,
    };
    if write > reached {
        let level = super::command::word(level);
        return Err(format!("leaves before it is {level}"));
    }
    Ok(())
}

impl Model {
    /// Checks what a connection is sent, by which writes are applied and which are durable.
    pub(super) fn released(
        &mut self,
        connection: u64,
        bytes: &[u8],
        applied: u64,
        synced: u64,
    ) -> Check {
        let Some(namespace) = self.namespace_of(connection) else {
            return Ok(());
        };
        if self.noisy.contains(&connection) {
            return Ok(());
        }
        let life = self.archive.life;
        for frame in frames_in(self.is_json(connection), bytes)? {
            match decode(&frame)? {
                // The place of a duplicate may be forgotten.
                Reply::Receipt(receipt) if receipt.schedule_id.is_some() => {
                    self.check_scheduled(namespace, receipt.schedule_id, applied, synced)?;
                }
                Reply::Receipt(receipt) if receipt.duplicate && receipt.sequence == 0 => {}
                Reply::Receipt(receipt) => {
                    let message = self.archive.at_sequence(namespace, receipt.sequence);
                    self.promise(message, applied, synced)?;
                }
                Reply::Receipts(receipts) => {
                    for place in receipts.receipts.iter().flatten() {
                        self.check_scheduled(namespace, place.schedule_id, applied, synced)?;
                        if place.sequence == 0 {
                            continue;
                        }
                        let message = self.archive.at_sequence(namespace, place.sequence);
                        self.promise(message, applied, synced)?;
                    }
                }
                Reply::Transacted(told) => {
                    let places = told.receipts.iter().flatten();
                    for place in places.filter(|place| !place.duplicate || place.sequence > 0) {
                        let message = self.archive.at_sequence(namespace, place.sequence);
                        self.promise(message, applied, synced)?;
                    }
                    let waits = self.book.waits_for(connection, told.request);
                    check_left(waits, applied, synced)
                        .map_err(|error| format!("{told:?} {error}"))?;
                }
                Reply::Settled(settled) => {
                    let waits = self.book.waits_for(connection, settled.request);
                    check_left(waits, applied, synced)
                        .map_err(|error| format!("{settled:?} {error}"))?;
                }
                Reply::Done(done) => {
                    let waits = self.ledger.waits_for(connection, done.request);
                    let waits = waits.or_else(|| self.calendar.waits_for(connection, done.request));
                    check_left(waits, applied, synced)
                        .map_err(|error| format!("{done:?} {error}"))?;
                }
                Reply::Delivery(delivery) => {
                    let message = self.archive.number_of(delivery.payload, delivery.topic)?;
                    if self.archive.is_untold(message, life) {
                        continue;
                    }
                    let place = self.archive.place(message)?;
                    if place.life == life && place.level == Durability::Sync && place.write > synced
                    {
                        return Err(format!(
                            "message {message} is delivered before it is durable"
                        ));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether a receipt may leave for what waits for its time.
    fn check_scheduled(
        &self,
        namespace: usize,
        schedule_id: Option<u64>,
        applied: u64,
        synced: u64,
    ) -> Check {
        let Some(id) = schedule_id else {
            return Ok(());
        };
        let life = self.archive.life;
        let waits = self.calendar.receipt_waits_for(namespace, id, life)?;
        check_left(waits, applied, synced)
            .map_err(|error| format!("the receipt of what waits as {id} {error}"))
    }

    fn promise(&mut self, message: Option<usize>, applied: u64, synced: u64) -> Check {
        let message = message.ok_or("a receipt leaves for a message that was never placed")?;
        let life = self.archive.life;
        let place = self.archive.newest_mut(message);
        let place = place.expect("it was found by its place");
        if place.life < life {
            // The receipt of a duplicate: what was restored is durable.
            return Ok(());
        }
        let reached = match place.level {
            Durability::None => return Ok(()),
            Durability::Async => applied,
            Durability::Sync => synced,
        };
        if place.write > reached {
            let level = super::command::word(place.level);
            return Err(format!(
                "the receipt of message {message} leaves before it is {level}"
            ));
        }
        place.promised = Some(place.write);
        Ok(())
    }
}
