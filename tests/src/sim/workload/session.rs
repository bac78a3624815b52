//! Greetings and pings.

use dunlin_core::frame::{Command, Hello, Ping, Reply};

use super::{Turn, Workload};
use crate::sim::archive::Check;
use crate::sim::client::Client;
use crate::sim::command;
use crate::sim::model::{Model, Step};

#[derive(Clone, Debug)]
pub(in crate::sim) enum Order {
    Hello,
    Ping,
}

impl Order {
    pub(in crate::sim) fn encode(&self, request: u64, out: &mut Vec<u8>) {
        match self {
            Self::Hello => Command::Hello(Hello {
                version: 1,
                client: Some("sim"),
                ephemeral: None,
                echo: None,
            })
            .encode(out),
            Self::Ping => Command::Ping(Ping { request }).encode(out),
        }
    }
}

pub(super) struct Session;

impl Workload for Session {
    fn plan(&self, _client: &mut Client, _turn: &mut Turn<'_>) -> Vec<command::Order> {
        vec![command::Order::Session(Order::Ping)]
    }

    fn told(&self, model: &mut Model, step: &Step<'_>) -> Check {
        for answer in step.answers() {
            let command::Order::Session(order) = answer.order else {
                continue;
            };
            match (order, answer.reply) {
                (Order::Ping, Reply::Pong(_)) => {}
                (Order::Hello, Reply::Welcome(told)) => {
                    let id = answer.connection;
                    if told.connection != id || told.version != 1 {
                        return Err(format!("connection {id} is greeted as {told:?}"));
                    }
                    let life = model.archive.life;
                    let known = model
                        .incarnations
                        .entry(answer.namespace)
                        .or_insert((life, told.incarnation));
                    if known.0 == life && known.1 != told.incarnation {
                        return Err(format!(
                            "incarnation {} in a life that had {}",
                            told.incarnation, known.1
                        ));
                    }
                    *known = (life, told.incarnation);
                }
                _ => return answer.is_none_of_these(),
            }
        }
        Ok(())
    }
}
