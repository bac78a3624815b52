//! Transactions: messages, acknowledgements and committed offsets that take effect together or not at all.
//!
//! Everything is checked by the rules that `publish`, `ack` and `commit` have before anything changes, and what changes
//! is of one batch, whose write the store takes as a whole. So a transaction has no rows of its own, and after a crash
//! all of it is there or nothing.

use alloc::format;
use alloc::vec::Vec;

use crate::broker::Broker;
use crate::context::Context;
use crate::effect::After;
use crate::error::{ErrorCode, Refusal};
use crate::held::{Attempt, messages_of};
use crate::ids::{LeaseId, Offset};
use crate::lease::{Verdict, check_settling};
use crate::mutation::Mutation;
use crate::namespace::Namespace;
use crate::protocol::field::List;
use crate::protocol::frame::{Commitment, Position, Reply, Transact, Transacted};
use crate::publish::{Published, Terms, Wait, asked};

/// What a transaction does beside publishing.
pub(crate) struct Beside<'a> {
    leases: Vec<LeaseId>,
    commitments: Vec<Commitment<'a>>,
    /// What the commitments mean, once they are checked: which log of which group is moved where.
    moves: Vec<(u32, u32, Offset)>,
}

impl<'a> Beside<'a> {
    fn read(cx: &Context, transact: &Transact<'a>) -> Result<Self, Refusal> {
        let mut leases = Vec::new();
        if let Some(list) = transact.leases.filter(|list| list.iter().next().is_some()) {
            check_settling(cx, list, Verdict::Ack, &mut leases)?;
        }
        let mut commitments = Vec::new();
        for commitment in transact.offsets.unwrap_or(List::new(&[])).iter() {
            if commitments.len() as u64 == cx.config.settle_max {
                let max = cx.config.settle_max;
                let message = format!("the transaction has more than {max} offsets (settle_max)");
                return Err(Refusal::new(ErrorCode::TooLarge, message));
            }
            commitments.push(commitment.map_err(|_| {
                let message = format!(
                    "offset {} of the transaction is malformed",
                    commitments.len()
                );
                Refusal::new(ErrorCode::MalformedFrame, message)
            })?);
        }
        Ok(Self {
            leases,
            commitments,
            moves: Vec::new(),
        })
    }

    fn is_empty(&self) -> bool {
        self.leases.is_empty() && self.commitments.is_empty()
    }

    /// Refuses what cannot be done. A transaction whose messages were all published before was done, and is sent again
    /// because its reply was lost or its leases ended; then what cannot be done any more counts as done.
    pub(crate) fn check(
        &mut self,
        namespace: &Namespace,
        cx: &Context,
        connection: u32,
        is_repeat: bool,
    ) -> Result<(), Refusal> {
        for lease in &self.leases {
            if !is_repeat
                && !namespace.has_lease(connection, *lease)
                && !Mutation::TransactionTorn.is_active()
            {
                let message = format!(
                    "lease {} is not this connection's: it was settled, its time is over, or it is another's",
                    lease.0
                );
                return Err(Refusal::new(ErrorCode::UnknownLease, message));
            }
        }
        for commitment in &self.commitments {
            match check_commitment(namespace, cx, connection, commitment) {
                Ok(checked) => self.moves.push(checked),
                Err(refusal) if !is_repeat => return Err(refusal),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Acknowledges and commits what was checked; what the reply waits for.
    fn settle(&self, namespace: &mut Namespace, cx: &mut Context, connection: u32) -> After {
        let mut after = After::default();
        for lease in &self.leases {
            if Mutation::TransactionAcksForgotten.is_active() {
                continue;
            }
            // Only of a repeat, or of a lease that stands there twice, nothing is left.
            if let Some(waits) = namespace.settle_lease(cx, connection, *lease, Verdict::Ack) {
                after = after.and(waits);
            }
        }
        for (group, log, offset) in &self.moves {
            after = after.and(namespace.move_floor(cx, *group, *log, *offset));
        }
        after
    }
}

/// Which log of which group a commitment moves where, if the member may.
fn check_commitment(
    namespace: &Namespace,
    cx: &Context,
    connection: u32,
    commitment: &Commitment<'_>,
) -> Result<(u32, u32, Offset), Refusal> {
    let Commitment {
        subscription,
        generation,
        topic,
        partition,
        offset,
    } = *commitment;
    let by = namespace.committer(cx, connection, subscription, generation)?;
    let position = Position {
        topic,
        partition,
        offset,
    };
    let log = namespace.check_position(by, &position)?;
    Ok((by.group, log, Offset(offset)))
}

impl Broker {
    /// Does all of a transaction or nothing, if its messages need not wait.
    pub(crate) fn transact(
        &mut self,
        index: u32,
        transact: &Transact<'_>,
        attempt: Attempt,
    ) -> Result<Option<Wait>, Refusal> {
        let cx = &mut self.cx;
        let messages = transact.messages.unwrap_or(List::new(&[]));
        let messages = messages_of(cx, "transaction", messages)?;
        let mut beside = Beside::read(cx, transact)?;
        if messages.is_empty() && beside.is_empty() {
            let message = "a transaction has at least 1 message, lease or offset";
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
        cx.require_storage()?;
        let asked = asked(transact.durability)?;
        let tokens = attempt.tokens(cx, transact.wait_ms)?;
        let namespace = cx.connections[index as usize].namespace;
        let namespace = &mut self.namespaces[namespace as usize];
        cx.placed.clear();
        let mut after = After::default();
        if messages.is_empty() {
            beside.check(namespace, cx, index, false)?;
        } else {
            let terms = Terms {
                asked,
                tokens,
                reply_to: None,
                beside: Some(&mut beside),
            };
            match namespace.publish(cx, index, &messages, terms)? {
                Published::Held(wait) => return Ok(Some(wait)),
                Published::Placed(waits) => after = waits,
            }
        }
        if !beside.is_empty() {
            after = after.and(beside.settle(namespace, cx, index));
            after = after.and(namespace.after_all(cx, asked));
        }
        let receipts = cx.receipts();
        let transacted = Transacted {
            request: transact.request,
            receipts: List::new(&receipts),
        };
        cx.reply(index, after, &Reply::Transacted(transacted));
        Ok(None)
    }
}
