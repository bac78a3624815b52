//! Requests: messages that one of those who hear them answers, within a deadline.
//!
//! The message itself is published as every other, with the number under which it can be answered. Who asked is known
//! in memory only, until the first answer, the deadline, or the end of the connection. Numbers of earlier lives are
//! not known any more, and not taken for ours.

use alloc::format;
use alloc::vec::Vec;

use crate::context::Context;
use crate::deadline::Due;
use crate::effect::After;
use crate::error::{ErrorCode, Refusal};
use crate::group::Group;
use crate::ids::{ConnectionId, Partition, ReplyTo, Timestamp};
use crate::input::Rights;
use crate::mutation::Mutation;
use crate::namespace::Namespace;
use crate::protocol::frame::{Done, Message, Reply, Request, Respond, Response};
use crate::publish::check_sizes;
use crate::topic::Kind;

/// How long a request waits for an answer that does not say so, in milliseconds.
pub(crate) const TIMEOUT_MS: u64 = 30_000;

/// Somebody who waits for an answer.
#[derive(Clone, Copy)]
pub(crate) struct Inquiry {
    connection: u32,
    connection_id: ConnectionId,
    request: u64,
    deadline: Timestamp,
}

impl Namespace {
    /// Refuses a request that waits too long or not at all, or is one too many; otherwise, how long it waits.
    pub(crate) fn check_inquiry(
        &self,
        cx: &Context,
        request: &Request<'_>,
    ) -> Result<u64, Refusal> {
        let max = cx.config.request_ms_max;
        let timeout_ms = request.timeout_ms.unwrap_or(TIMEOUT_MS.min(max));
        if timeout_ms == 0 || timeout_ms > max {
            let message = format!("\"timeout_ms\" must be from 1 to {max} (request_ms_max)");
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
        if self.inquiries.len() as u64 >= cx.config.requests_max {
            let message = format!(
                "{} requests of the namespace wait for answers (requests_max)",
                self.inquiries.len()
            );
            return Err(Refusal::later(ErrorCode::LimitReached, message));
        }
        Ok(timeout_ms)
    }

    /// Refuses a request that nobody would hear.
    pub(crate) fn check_taker(&self, cx: &Context, message: &Message<'_>) -> Result<(), Refusal> {
        if self.has_taker(cx, message) || Mutation::UnheardRequest.is_active() {
            return Ok(());
        }
        let message = format!("nobody would hear a request to \"{}\"", message.topic);
        Err(Refusal::new(ErrorCode::NoResponders, message))
    }

    /// Whether anybody would get this message if it were published now. Groups read logs.
    fn has_taker(&self, cx: &Context, message: &Message<'_>) -> bool {
        let topic = self.topic_by_name(message.topic);
        let kind = topic.map_or(cx.config.topic_default.kind, |topic| {
            self.topics[topic as usize].config.kind
        });
        let takes = |group: &Group| {
            !group.paused && !group.members.is_empty() && group.reads(message.topic)
        };
        if kind != Kind::Live && self.groups.iter().any(|(_, group)| takes(group)) {
            return true;
        }
        let partition = topic.map_or(Partition(0), |topic| {
            self.topics[topic as usize].partition_for(message.key).0
        });
        let mut matched = Vec::new();
        self.trie.matches(message.topic, &mut matched);
        matched
            .iter()
            .flat_map(|node| self.trie.subscribers(*node))
            .any(|index| {
                let only = self.subscriptions[*index as usize].partition;
                only.is_none_or(|only| only == partition)
            })
    }

    /// Lets a connection wait for the answer to what was just published.
    pub(crate) fn begin_inquiry(
        &mut self,
        cx: &mut Context,
        connection: u32,
        request: u64,
        reply_to: ReplyTo,
        timeout_ms: u64,
    ) {
        let deadline = cx.now.after_ms(timeout_ms);
        let asking = &mut cx.connections[connection as usize];
        asking.inquiries.push(reply_to);
        let inquiry = Inquiry {
            connection,
            connection_id: asking.id,
            request,
            deadline,
        };
        self.inquiries.insert(reply_to, inquiry);
        cx.deadlines
            .insert((deadline, Due::Inquiry(self.index, reply_to)));
    }

    /// Ends the wait, if anybody waits.
    pub(crate) fn end_inquiry(&mut self, cx: &mut Context, reply_to: ReplyTo) -> Option<Inquiry> {
        let inquiry = self.inquiries.remove(&reply_to)?;
        cx.deadlines
            .remove(&(inquiry.deadline, Due::Inquiry(self.index, reply_to)));
        let asking = cx.connections.get_mut(inquiry.connection as usize);
        if let Some(asking) = asking.filter(|asking| asking.id == inquiry.connection_id)
            && let Ok(place) = asking.inquiries.binary_search(&reply_to)
        {
            asking.inquiries.remove(place);
        }
        Some(inquiry)
    }

    /// Tells who has waited until the deadline.
    pub(crate) fn expire_inquiry(&mut self, cx: &mut Context, reply_to: ReplyTo) {
        if let Some(inquiry) = self.end_inquiry(cx, reply_to) {
            let message = "nobody answered the request in time (timeout_ms)";
            let refusal = Refusal::new(ErrorCode::Timeout, message);
            cx.refuse(inquiry.connection, inquiry.request, &refusal);
        }
    }

    /// Answers a request; the first answer wins.
    pub(crate) fn respond(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &Respond<'_>,
    ) -> Result<(), Refusal> {
        let rights = cx.connections[connection as usize].claims.rights;
        if !rights.contains(Rights::PUBLISH) {
            let message = "this connection may not publish, so it may not respond";
            return Err(Refusal::new(ErrorCode::Forbidden, message));
        }
        let attributes = [("content type", command.content_type)];
        check_sizes(&cx.config, command.payload, command.headers, &attributes)?;
        self.check_payload(command.payload)?;
        let reply_to = ReplyTo(command.reply_to);
        let inquiry = if Mutation::AnsweredAgain.is_active() {
            self.inquiries.get(&reply_to).copied()
        } else {
            self.end_inquiry(cx, reply_to)
        };
        let Some(inquiry) = inquiry else {
            let message = format!(
                "nobody waits for an answer to {}: it was answered, its time is over, or who asked is gone",
                reply_to.0
            );
            return Err(Refusal::new(ErrorCode::UnknownRequest, message));
        };
        let response = Response {
            request: inquiry.request,
            payload: command.payload,
            content_type: command.content_type,
            headers: command.headers,
        };
        cx.reply(
            inquiry.connection,
            After::default(),
            &Reply::Response(response),
        );
        let done = Done {
            request: command.request,
        };
        cx.reply(connection, After::default(), &Reply::Done(done));
        Ok(())
    }
}
