//! The commands that publish, and those of them that wait: for a subscriber that holds publishers back, or for tokens.
//!
//! A publish that must wait is kept as the frame that it came in, and tried again from the start when it may go on; so
//! nothing that it was checked for before can have changed unseen. Later publishes of its connection wait behind it.

use alloc::format;
use alloc::vec::Vec;

use crate::broker::{Broker, request_of};
use crate::context::Context;
use crate::deadline::Due;
use crate::effect::Durability;
use crate::error::{ErrorCode, Refusal};
use crate::ids::Timestamp;
use crate::limits::Tokens;
use crate::protocol::field::List;
use crate::protocol::frame::{
    Command, Message, Publish, PublishBatch, Receipt, Receipts, Reply, Request,
};
use crate::publish::{Published, Terms, Wait, asked};

/// A publish that waits.
#[derive(Debug)]
pub(crate) struct HeldCommand {
    /// When it came.
    pub(crate) since: Timestamp,
    /// When the first one is to be looked at again: its tokens are there, or it is refused.
    pub(crate) until: Timestamp,
    /// When the tokens that it took are there, if it took any.
    pub(crate) tokens_at: Option<Timestamp>,
    /// The frame without its length.
    pub(crate) frame: Vec<u8>,
}

impl HeldCommand {
    /// Notes what it waits for; for a subscriber only so long after it came.
    pub(crate) fn wait(&mut self, wait: Wait, block_ms_max: u64) {
        self.until = match wait {
            Wait::Subscriber => self.since.after_ms(block_ms_max),
            Wait::Tokens(at) => {
                self.tokens_at = Some(at);
                at
            }
        };
    }
}

/// One try at publishing what may have waited already.
#[derive(Clone, Copy)]
pub(crate) struct Attempt {
    /// When it came.
    since: Timestamp,
    /// Whether its tokens are taken.
    has_tokens: bool,
    /// Whether there is room for it to wait.
    can_wait: bool,
}

impl Attempt {
    /// How long it may wait for tokens yet, having asked for `wait_ms`.
    pub(crate) fn tokens(self, cx: &Context, wait_ms: Option<u64>) -> Result<Tokens, Refusal> {
        let (wait_ms, max) = (wait_ms.unwrap_or(0), cx.config.limit_wait_ms_max);
        if wait_ms > max {
            let message = format!("\"wait_ms\" must be at most {max} (limit_wait_ms_max)");
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
        if self.has_tokens {
            return Ok(Tokens::Taken);
        }
        let left = wait_ms.saturating_sub(cx.now.since_ms(self.since));
        Ok(Tokens::Within(if self.can_wait { left } else { 0 }))
    }
}

impl Broker {
    /// Publishes one message, if it need not wait.
    pub(crate) fn publish(
        &mut self,
        index: u32,
        publish: &Publish<'_>,
        attempt: Attempt,
    ) -> Result<Option<Wait>, Refusal> {
        let message = Message {
            topic: publish.topic,
            payload: publish.payload,
            key: publish.key,
            content_type: publish.content_type,
            headers: publish.headers,
            id: publish.id,
            ttl_ms: publish.ttl_ms,
            delay_ms: publish.delay_ms,
            deliver_at: publish.deliver_at,
            producer: publish.producer,
            producer_sequence: publish.producer_sequence,
            priority: publish.priority,
        };
        let tokens = attempt.tokens(&self.cx, publish.wait_ms)?;
        let namespace = self.cx.connections[index as usize].namespace;
        let namespace = &mut self.namespaces[namespace as usize];
        let terms = Terms {
            asked: asked(publish.durability)?,
            tokens,
            reply_to: None,
            beside: None,
        };
        match namespace.publish(&mut self.cx, index, &[message], terms)? {
            Published::Held(wait) => Ok(Some(wait)),
            Published::Placed(after) => {
                let (place, duplicate) = self.cx.placed[0];
                let moved = self.cx.moved.first().cloned().flatten();
                let place = place.told(duplicate, moved.as_deref());
                let receipt = Receipt {
                    request: publish.request,
                    partition: place.partition,
                    offset: place.offset,
                    sequence: place.sequence,
                    duplicate: place.duplicate,
                    schedule_id: place.schedule_id,
                    topic: place.topic,
                };
                self.cx.reply(index, after, &Reply::Receipt(receipt));
                Ok(None)
            }
        }
    }

    /// Publishes a message that asks for an answer, if it need not wait.
    pub(crate) fn request(
        &mut self,
        index: u32,
        request: &Request<'_>,
        attempt: Attempt,
    ) -> Result<Option<Wait>, Refusal> {
        let tokens = attempt.tokens(&self.cx, None)?;
        let namespace = self.cx.connections[index as usize].namespace;
        let namespace = &mut self.namespaces[namespace as usize];
        let timeout_ms = namespace.check_inquiry(&self.cx, request)?;
        let message = Message {
            topic: request.topic,
            payload: request.payload,
            key: request.key,
            content_type: request.content_type,
            headers: request.headers,
            id: request.id,
            ttl_ms: None,
            delay_ms: None,
            deliver_at: None,
            producer: None,
            producer_sequence: None,
            priority: None,
        };
        let reply_to = self.cx.take_reply_to();
        let terms = Terms {
            asked: Durability::None,
            tokens,
            reply_to: Some(reply_to),
            beside: None,
        };
        match namespace.publish(&mut self.cx, index, &[message], terms)? {
            Published::Held(wait) => Ok(Some(wait)),
            Published::Placed(_) => {
                let number = request.request;
                namespace.begin_inquiry(&mut self.cx, index, number, reply_to, timeout_ms);
                Ok(None)
            }
        }
    }

    /// Publishes a batch, if it need not wait.
    pub(crate) fn publish_batch(
        &mut self,
        index: u32,
        batch: &PublishBatch<'_>,
        attempt: Attempt,
    ) -> Result<Option<Wait>, Refusal> {
        let messages = messages_of(&self.cx, "batch", batch.messages)?;
        if messages.is_empty() {
            return Err(Refusal::new(
                ErrorCode::InvalidArgument,
                "a batch has at least 1 message",
            ));
        }
        let tokens = attempt.tokens(&self.cx, batch.wait_ms)?;
        let namespace = self.cx.connections[index as usize].namespace;
        let namespace = &mut self.namespaces[namespace as usize];
        let terms = Terms {
            asked: asked(batch.durability)?,
            tokens,
            reply_to: None,
            beside: None,
        };
        match namespace.publish(&mut self.cx, index, &messages, terms)? {
            Published::Held(wait) => Ok(Some(wait)),
            Published::Placed(after) => {
                let receipts = self.cx.receipts();
                let receipts = Receipts {
                    request: batch.request,
                    receipts: List::new(&receipts),
                };
                self.cx.reply(index, after, &Reply::Receipts(receipts));
                Ok(None)
            }
        }
    }

    pub(crate) fn first_attempt(&self, frame: &[u8]) -> Attempt {
        Attempt {
            since: self.cx.now,
            has_tokens: false,
            can_wait: self.cx.held_bytes + frame.len() as u64 <= self.cx.config.held_bytes_max,
        }
    }

    /// Lets a publish wait, and those after it with it.
    pub(crate) fn hold(&mut self, index: u32, request: u64, frame: &[u8], wait: Wait) {
        let connection = &mut self.cx.connections[index as usize];
        let bytes = self.cx.held_bytes + frame.len() as u64;
        if connection.held.len() as u64 >= self.cx.config.held_commands_max
            || bytes > self.cx.config.held_bytes_max
        {
            let message = "too many publishes wait already (held_commands_max, held_bytes_max)";
            let refusal = Refusal {
                retry_after_ms: Some(self.cx.config.block_ms_max),
                ..Refusal::new(ErrorCode::LimitReached, message)
            };
            return self.cx.refuse(index, request, &refusal);
        }
        self.cx.held_bytes = bytes;
        let mut held = HeldCommand {
            since: self.cx.now,
            until: self.cx.now,
            tokens_at: None,
            frame: frame.to_vec(),
        };
        held.wait(wait, self.cx.config.block_ms_max);
        if connection.held.is_empty() {
            self.cx.deadlines.insert((held.until, Due::Held(index)));
        }
        connection.held.push_back(held);
    }

    /// Tries held publishes again, and refuses those whose time is over.
    pub(crate) fn retry_held(&mut self) {
        let block_ms_max = self.cx.config.block_ms_max;
        let unblocked = core::mem::take(&mut self.cx.unblocked);
        let due: Vec<(Timestamp, u32)> = self
            .cx
            .deadlines
            .iter()
            .take_while(|(deadline, _)| unblocked || *deadline <= self.cx.now)
            .filter_map(|(deadline, due)| match due {
                Due::Held(index) => Some((*deadline, *index)),
                _ => None,
            })
            .collect();
        for (deadline, index) in due {
            self.cx.deadlines.remove(&(deadline, Due::Held(index)));
            while let Some(mut held) = self.cx.connections[index as usize].held.pop_front() {
                let request = request_of(&held.frame);
                self.cx.held_bytes -= held.frame.len() as u64;
                let command =
                    Command::decode(&held.frame).expect("a held frame was decoded before");
                let attempt = Attempt {
                    since: held.since,
                    has_tokens: held.tokens_at.is_some(),
                    can_wait: true,
                };
                let tokens_at = held.tokens_at.filter(|at| *at > self.cx.now);
                let tried = match &command {
                    // A subscriber that has room again does not let it in before.
                    _ if tokens_at.is_some() => Ok(tokens_at.map(Wait::Tokens)),
                    Command::Publish(publish) => self.publish(index, publish, attempt),
                    Command::PublishBatch(batch) => self.publish_batch(index, batch, attempt),
                    Command::Request(request) => self.request(index, request, attempt),
                    Command::Transact(transact) => self.transact(index, transact, attempt),
                    _ => unreachable!("only publishes are held"),
                };
                match tried {
                    Ok(None) => {}
                    Ok(Some(Wait::Subscriber))
                        if held.since.after_ms(block_ms_max) <= self.cx.now =>
                    {
                        let message = "a subscriber of the topic holds publishers back and did not catch up in time";
                        let refusal = Refusal {
                            retry_after_ms: Some(block_ms_max),
                            ..Refusal::new(ErrorCode::SubscriberBlocked, message)
                        };
                        self.cx.refuse(index, request, &refusal);
                    }
                    Ok(Some(wait)) => {
                        held.wait(wait, block_ms_max);
                        self.cx.held_bytes += held.frame.len() as u64;
                        self.cx.deadlines.insert((held.until, Due::Held(index)));
                        self.cx.connections[index as usize].held.push_front(held);
                        break;
                    }
                    Err(refusal) => self.cx.refuse(index, request, &refusal),
                }
            }
        }
    }
}

/// The messages of a batch or a transaction.
pub(crate) fn messages_of<'a>(
    cx: &Context,
    what: &str,
    list: List<'a, Message<'a>>,
) -> Result<Vec<Message<'a>>, Refusal> {
    let max = cx.config.batch_messages_max;
    let mut messages = Vec::new();
    for message in list.iter() {
        if messages.len() as u64 == max {
            let message = format!("the {what} has more than {max} messages (batch_messages_max)");
            return Err(Refusal::new(ErrorCode::TooLarge, message));
        }
        messages.push(message.map_err(|_| {
            let message = format!("message {} of the {what} is malformed", messages.len());
            Refusal::new(ErrorCode::MalformedFrame, message)
        })?);
    }
    Ok(messages)
}
