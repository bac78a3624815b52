//! Questions and answers: clients ask, those who hear it answer, once, twice, too late or not at all.
//!
//! Checked is that an answer belongs to its question, that nobody is answered twice or after its deadline, that who
//! would ask nobody is told so and no one else is, and that nothing of it outlives the broker or the connection.

mod inquiries;

use dunlin_core::frame::{Command, Reply, Request, Respond};

use super::publish::Draft;
use super::{Heard, Turn, Workload, publish};
use crate::sim::archive::Check;
use crate::sim::client::Client;
use crate::sim::command;
use crate::sim::model::{Model, Step};

pub(in crate::sim) use self::inquiries::{Inquiries, under_way};

/// How many questions a client remembers that it heard.
const HEARD_MAX: usize = 20;
/// What an answer is to that its client gives to the wrong number.
const MISTAKE: &str = "a mistake";

#[derive(Clone, Debug)]
pub(in crate::sim) enum Order {
    Ask {
        message: usize,
        timeout_ms: Option<u64>,
    },
    Answer {
        reply_to: u64,
        payload: String,
    },
}

impl Order {
    pub(in crate::sim) fn encode(&self, request: u64, drafts: &[Draft], out: &mut Vec<u8>) {
        match self {
            Self::Ask {
                message,
                timeout_ms,
            } => {
                let draft = &drafts[*message];
                let headers = publish::encode_headers(draft);
                Command::Request(Request {
                    request,
                    topic: &draft.topic,
                    payload: &draft.payload,
                    key: draft.key.as_deref(),
                    content_type: None,
                    headers: publish::parse_headers(headers.as_deref()),
                    id: draft.id.as_deref(),
                    timeout_ms: *timeout_ms,
                })
                .encode(out);
            }
            Self::Answer { reply_to, payload } => Command::Respond(Respond {
                request,
                reply_to: *reply_to,
                payload: payload.as_bytes(),
                content_type: None,
                headers: None,
            })
            .encode(out),
        }
    }
}

/// What a client heard that can be answered: where to, and which message it was.
#[derive(Debug, Default)]
pub(in crate::sim) struct Questions {
    heard: Vec<(u64, usize)>,
    answers: u64,
}

pub(super) struct Requests;

impl Workload for Requests {
    fn plan(&self, client: &mut Client, turn: &mut Turn<'_>) -> Vec<command::Order> {
        let rng = &mut *turn.rng;
        let order = if turn.roll < 4 {
            let timeout_ms = match rng.below(8) {
                0 => None,
                1 => Some(1),
                _ => Some(rng.between(1, 4000)),
            };
            // Of live topics it is known exactly who would hear it.
            let live = turn.plan.topics.iter();
            let live: Vec<_> = live
                .filter(|topic| topic.wish.kind == Some("live"))
                .collect();
            let topic = if rng.once_in(2) && !live.is_empty() {
                rng.pick(&live)
            } else {
                &turn.topic
            };
            let message = publish::question(client.namespace, topic, rng, turn.model);
            Order::Ask {
                message,
                timeout_ms,
            }
        } else {
            let mine = &mut client.questions;
            if mine.heard.is_empty() {
                return Vec::new();
            }
            // Mostly the newest; what was answered before is answered again now and then.
            let back = rng.delay(mine.heard.len() as u64 - 1) as usize;
            let (reply_to, message) = mine.heard[mine.heard.len() - 1 - back];
            mine.answers += 1;
            let (number, index) = (mine.answers, client.index);
            if rng.once_in(20) {
                // A number that nobody has, or somebody else.
                Order::Answer {
                    reply_to: reply_to + 1,
                    payload: format!("{MISTAKE}:{number} of {index}"),
                }
            } else {
                Order::Answer {
                    reply_to,
                    payload: format!("{message}:{number} of {index}"),
                }
            }
        };
        vec![command::Order::Request(order)]
    }

    fn told(&self, model: &mut Model, step: &Step<'_>) -> Check {
        inquiries::take_step(model, step)
    }

    fn heard(&self, client: &mut Client, _model: &Model, heard: &Heard<'_>) -> Check {
        let order = heard.request.map(|request| &request.order);
        match (order, heard.reply) {
            (
                Some(command::Order::Request(Order::Ask { message, .. })),
                Reply::Response(response),
            ) => {
                let told = String::from_utf8_lossy(response.payload);
                let to = told.split(':').next().unwrap_or_default();
                if to != MISTAKE && to != message.to_string() {
                    return Err(format!("message {message} is answered \"{told}\""));
                }
            }
            (None, Reply::Delivery(delivery)) => {
                if let Some(reply_to) = delivery.reply_to {
                    let digits = delivery.payload.split(|byte| *byte == b':').next();
                    let digits = core::str::from_utf8(digits.unwrap_or_default());
                    let message = digits.ok().and_then(|digits| digits.parse().ok());
                    let message = message.ok_or("a question that nobody asked")?;
                    let known = &mut client.questions.heard;
                    known.push((reply_to, message));
                    if known.len() > HEARD_MAX {
                        known.remove(0);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}
