//! Leases: what becomes of a message that a member of a queue has.
//!
//! It is acknowledged, given back, rejected, or kept longer; or its time comes, or its member is gone. A message that
//! was delivered as often as it may be is given up.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use slab::Slab;

use crate::context::Context;
use crate::dead_letter::Reason;
use crate::effect::After;
use crate::error::{ErrorCode, Refusal};
use crate::group::LeasePlace;
use crate::ids::{LeaseId, Offset, Timestamp};
use crate::member::Member;
use crate::mutation::Mutation;
use crate::namespace::Namespace;
use crate::protocol::field::List;
use crate::protocol::frame::{FailedLease, Lease, Reply, Settled};
use crate::queue::{Pending, READ_AGAIN, State};

/// What a member says of messages that it holds leases for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict<'a> {
    Ack,
    /// To be delivered again, after so long if the member says so.
    Nack(Option<u64>),
    Reject(Option<&'a str>),
    /// So long from now.
    Extend(Option<u64>),
}

impl Namespace {
    /// Takes back what members hold leases for, as they say.
    pub(crate) fn settle_leases(
        &mut self,
        cx: &mut Context,
        connection: u32,
        request: u64,
        leases: List<'_, Lease>,
        verdict: Verdict<'_>,
    ) -> Result<(), Refusal> {
        let mut asked = core::mem::take(&mut cx.settling);
        asked.clear();
        let checked = check_settling(cx, leases, verdict, &mut asked);
        if let Err(refusal) = checked {
            cx.settling = asked;
            return Err(refusal);
        }
        let mut after = After::default();
        let mut failed = Vec::new();
        for lease in &asked {
            match self.settle_lease(cx, connection, *lease, verdict) {
                Some(waits) => after = after.and(waits),
                None => List::push(
                    &mut failed,
                    &FailedLease {
                        lease: lease.0,
                        code: ErrorCode::UnknownLease.as_str(),
                    },
                ),
            }
        }
        cx.settling = asked;
        let settled = Settled {
            request,
            failed: List::new(&failed),
        };
        cx.reply(connection, after, &Reply::Settled(settled));
        Ok(())
    }

    /// Settles one lease; what the reply waits for, or `None` if it is not the connection's.
    pub(crate) fn settle_lease(
        &mut self,
        cx: &mut Context,
        connection: u32,
        lease: LeaseId,
        verdict: Verdict<'_>,
    ) -> Option<After> {
        let LeasePlace {
            group: index,
            log,
            offset,
        } = *self.leases.get(&lease)?;
        let group = &mut self.groups[index as usize];
        let entry = &mut group.logs[log as usize];
        let pending = entry.pending.get_mut(&offset)?;
        let (member, until) = held_by(pending, &group.members, connection)?;
        let durability = self.topics[entry.topic as usize].config.durability;
        cx.durability = cx.durability.max(durability);
        match verdict {
            Verdict::Ack => {
                cx.counters.acked_messages += 1;
                self.finish(cx, index, log, offset);
            }
            Verdict::Extend(ms) => {
                group.timers.remove(&(until, log, offset));
                let until = cx.now.after_ms(ms.unwrap_or(group.config.ack_deadline_ms));
                pending.state = State::Leased {
                    lease,
                    member,
                    until,
                };
                entry.done.touch(offset);
                group.timers.insert((until, log, offset));
                self.touch_group_log(cx, index, log);
                self.queue_group(cx, index);
            }
            Verdict::Nack(delay_ms) => {
                self.end_lease(cx, index, log, offset);
                self.put_back(cx, index, log, offset, delay_ms);
            }
            Verdict::Reject(note) => {
                self.end_lease(cx, index, log, offset);
                let reason = Reason::Rejected(note.map(Into::into));
                self.give_message_up(index, log, offset, reason);
            }
        }
        Some(cx.after(durability))
    }

    /// Whether a lease is the connection's, so that it can settle it.
    pub(crate) fn has_lease(&self, connection: u32, lease: LeaseId) -> bool {
        self.leases.get(&lease).is_some_and(|place| {
            let group = &self.groups[place.group as usize];
            let pending = group.logs[place.log as usize].pending.get(&place.offset);
            pending.is_some_and(|pending| held_by(pending, &group.members, connection).is_some())
        })
    }

    /// Ends the leases and waits whose time has come, and reads on where a load failed.
    pub(crate) fn end_waits(&mut self, cx: &mut Context, index: u32) {
        while let Some(&(until, log, offset)) = self.groups[index as usize].timers.first() {
            if until > cx.now {
                break;
            }
            let group = &mut self.groups[index as usize];
            if offset == READ_AGAIN {
                group.timers.pop_first();
                group.read_on(log);
                continue;
            }
            let entry = &mut group.logs[log as usize];
            let pending = entry.pending.get_mut(&offset);
            let pending = pending.expect("a timer belongs to a pending message");
            if pending.lease().is_some() {
                cx.counters.expired_leases += 1;
                if Mutation::LeaseEndIsDone.is_active() {
                    self.finish(cx, index, log, offset);
                    continue;
                }
                self.end_lease(cx, index, log, offset);
                self.put_back(cx, index, log, offset, None);
            } else {
                pending.state = State::Ready;
                entry.again.insert(pending.turn);
                entry.done.touch(offset);
                group.timers.pop_first();
                group.log_ready(log);
                self.touch_group_log(cx, index, log);
            }
        }
    }

    /// Takes back what a member held that is not there any more.
    pub(crate) fn take_back(&mut self, cx: &mut Context, index: u32, member: u32) {
        let mut held = Vec::new();
        for (log, entry) in &self.groups[index as usize].logs {
            for (offset, pending) in &entry.pending {
                if pending.lease().is_some_and(|(_, holder)| holder == member) {
                    held.push((log as u32, *offset));
                }
            }
        }
        for (log, offset) in held {
            self.end_lease(cx, index, log, offset);
            self.put_back(cx, index, log, offset, Some(0));
        }
    }

    /// Takes a message from the member that has it.
    fn end_lease(&mut self, cx: &mut Context, index: u32, log: u32, offset: Offset) {
        let group = &mut self.groups[index as usize];
        let entry = &mut group.logs[log as usize];
        let pending = entry.pending.get_mut(&offset);
        let Some(pending) = pending else { return };
        if let State::Leased {
            lease,
            member,
            until,
        } = pending.state
        {
            pending.state = State::Ready;
            entry.done.touch(offset);
            self.leases.remove(&lease);
            group.timers.remove(&(until, log, offset));
            group.release(member);
            group.log_ready(log);
            self.touch_group_log(cx, index, log);
            self.queue_group(cx, index);
        }
    }

    /// Lets a message be delivered again, in its time, or gives it up if it was delivered too often.
    fn put_back(
        &mut self,
        cx: &Context,
        index: u32,
        log: u32,
        offset: Offset,
        delay_ms: Option<u64>,
    ) {
        let group = &mut self.groups[index as usize];
        let config = group.config;
        let entry = &mut group.logs[log as usize];
        let Some(pending) = entry.pending.get_mut(&offset) else {
            return;
        };
        if pending.attempts >= config.max_delivery_attempts
            && !Mutation::AttemptsUnbounded.is_active()
        {
            return self.give_message_up(index, log, offset, Reason::MaxDeliveryAttempts);
        }
        let wait = delay_ms.unwrap_or_else(|| {
            let place = [
                entry.topic_id.0.to_be_bytes().as_slice(),
                &entry.partition.0.to_be_bytes(),
                &offset.0.to_be_bytes(),
            ]
            .concat();
            let seed = u64::from(group.id.0);
            config.retry.wait_ms(pending.attempts, seed, &place)
        });
        if wait == 0 {
            pending.state = State::Ready;
            entry.again.insert(pending.turn);
        } else {
            let until = cx.now.after_ms(wait);
            pending.state = State::Waiting { until };
            group.timers.insert((until, log, offset));
        }
    }
}

/// The member of a connection that has a message, and until when.
fn held_by(pending: &Pending, members: &Slab<Member>, connection: u32) -> Option<(u32, Timestamp)> {
    let State::Leased { member, until, .. } = pending.state else {
        return None;
    };
    let is_own = members[member as usize].connection == Some(connection);
    (is_own || Mutation::ForeignLeaseSettled.is_active()).then_some((member, until))
}

/// Reads a list of leases, and refuses what cannot be asked of them.
pub(crate) fn check_settling(
    cx: &Context,
    leases: List<'_, Lease>,
    verdict: Verdict<'_>,
    asked: &mut Vec<LeaseId>,
) -> Result<(), Refusal> {
    let invalid = |message: String| Err(Refusal::new(ErrorCode::InvalidArgument, message));
    for lease in leases.iter() {
        let Lease { lease } = lease.map_err(|_| {
            let message = format!("lease {} of the list is malformed", asked.len());
            Refusal::new(ErrorCode::MalformedFrame, message)
        })?;
        if asked.len() as u64 == cx.config.settle_max {
            let max = cx.config.settle_max;
            let message = format!("the list has more than {max} leases (settle_max)");
            return Err(Refusal::new(ErrorCode::TooLarge, message));
        }
        asked.push(LeaseId(lease));
    }
    if asked.is_empty() {
        return invalid(String::from("\"leases\" must name at least 1 lease"));
    }
    let max = cx.config.group_ms_max;
    match verdict {
        Verdict::Nack(Some(ms)) if ms > max => invalid(format!(
            "\"delay_ms\" must be at most {max} (group_ms_max), not {ms}"
        )),
        Verdict::Extend(Some(ms)) if ms > max || ms == 0 => invalid(format!(
            "\"extend_ms\" must be from 1 to {max} (group_ms_max), not {ms}"
        )),
        Verdict::Reject(Some(reason)) if reason.len() as u64 > cx.config.attribute_bytes_max => {
            let max = cx.config.attribute_bytes_max;
            let message = format!("\"reason\" has more than {max} bytes (attribute_bytes_max)");
            Err(Refusal::new(ErrorCode::TooLarge, message))
        }
        _ => cx.require_storage(),
    }
}
