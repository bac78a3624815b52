//! Presence: clients enter topics, change what they say of themselves, watch, read and leave, and fall silent.
//!
//! The model knows from commands and answers who is present where. Checked are: what is told fits what was told before,
//! each change once; at the end of every step each watch was told exactly who is present; nobody stays present who was
//! silent for too long, and nobody is closed for it sooner.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_core::Effect;
use dunlin_core::frame::{
    Command, Enter, Leave, PresenceEvent, PresencePage, ReadPresence, Reply, Unsubscribe,
    WatchPresence,
};

use crate::sim::archive::Check;
use crate::sim::client::Client;
use crate::sim::command;
use crate::sim::frames::decode;
use crate::sim::model::{Given, Model, Step};

use super::{Heard, Turn, Workload};

const TOPICS: [&str; 2] = ["hall", "hall/side"];
/// How many watches a client has.
const WATCHES_MAX: usize = 3;
/// Subscriptions from this number on are watches.
const WATCHES_FROM: u32 = 1 << 24;

/// Who is at the end of a connection: several connections are of one device, and some of none.
pub(in crate::sim) const fn identity(connection: u64) -> (&'static str, &'static str) {
    match connection % 5 {
        0 | 1 => ("ann", "phone"),
        2 => ("ann", "desk"),
        3 => ("ben", ""),
        _ => ("", ""),
    }
}

#[derive(Clone, Debug)]
pub(in crate::sim) enum Order {
    Enter {
        topic: &'static str,
        data: String,
    },
    Leave {
        topic: &'static str,
    },
    Watch {
        subscription: u32,
        topic: &'static str,
    },
    Unwatch {
        subscription: u32,
    },
    Read {
        topic: &'static str,
    },
}

impl Order {
    pub(in crate::sim) fn encode(&self, request: u64, out: &mut Vec<u8>) {
        match self {
            Self::Enter { topic, data } => Command::Enter(Enter {
                request,
                topic,
                data: (!data.is_empty()).then_some(data.as_bytes()),
            }),
            Self::Leave { topic } => Command::Leave(Leave { request, topic }),
            Self::Watch {
                subscription,
                topic,
            } => Command::WatchPresence(WatchPresence {
                request,
                subscription: *subscription,
                topic,
            }),
            Self::Unwatch { subscription } => Command::Unsubscribe(Unsubscribe {
                request,
                subscription: *subscription,
            }),
            Self::Read { topic } => Command::ReadPresence(ReadPresence {
                request,
                topic,
                after: None,
                members_max: None,
            }),
        }
        .encode(out);
    }
}

/// A device, or a connection that is none.
type Who = (String, String, u64);

fn who(user: &str, device: &str, connection: u64) -> Who {
    let is_device = !user.is_empty() && !device.is_empty();
    let own = if is_device { 0 } else { connection };
    (user.to_owned(), device.to_owned(), own)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    connection: u64,
    data: Vec<u8>,
}

/// Who is present on a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Members(BTreeMap<Who, Member>);

impl Members {
    fn of(page: &PresencePage<'_>) -> Result<Self, String> {
        let mut members = Self::default();
        let mut last = None;
        for one in page.members.iter() {
            let one = one.map_err(|_| "a member that is none".to_owned())?;
            let key = who(one.user, one.device, one.connection);
            let member = Member {
                connection: one.connection,
                data: one.data.unwrap_or_default().to_vec(),
            };
            if last.replace(key.clone()) >= Some(key.clone()) {
                return Err(format!("{key:?} is not in its place"));
            }
            members.0.insert(key, member);
        }
        let users: BTreeSet<&String> = members.0.keys().map(|(user, ..)| user).collect();
        let users = users.iter().filter(|user| !user.is_empty()).count();
        let counts = (page.present as usize, page.users as usize);
        if counts != (members.0.len(), users) || page.more {
            return Err(format!("it counts {counts:?} of {members:?}"));
        }
        Ok(members)
    }

    /// What was told follows from what was told before.
    fn apply(&mut self, event: &PresenceEvent<'_>) -> Check {
        let key = who(event.user, event.device, event.connection);
        let member = Member {
            connection: event.connection,
            data: event.data.unwrap_or_default().to_vec(),
        };
        let before = match event.event {
            "join" | "update" => self.0.insert(key, member.clone()),
            "leave" | "timeout" => self.0.remove(&key),
            other => return Err(format!("an event \"{other}\"")),
        };
        let fits = match (event.event, &before) {
            ("join", None) => true,
            ("update", Some(before)) => *before != member,
            ("leave" | "timeout", Some(before)) => before.connection == event.connection,
            _ => false,
        };
        if fits {
            Ok(())
        } else {
            Err(format!("{event:?} follows {before:?}"))
        }
    }
}

/// What the broker was told and has said about presence.
#[derive(Debug, Default)]
pub(in crate::sim) struct Hall {
    /// The connections that were there.
    known: BTreeSet<u64>,
    present: BTreeMap<(usize, &'static str), Members>,
    /// Where a connection may be present or not, since nobody knows what of it was stored.
    doubtful: BTreeSet<(usize, &'static str, u64)>,
    /// The watches, and what each was told, once it was.
    watches: BTreeMap<(u64, u32), (usize, &'static str, Option<Members>)>,
}

impl Hall {
    fn enter(&mut self, namespace: usize, topic: &'static str, connection: u64, data: &str) {
        let (user, device) = identity(connection);
        let key = who(user, device, connection);
        self.doubtful.retain(|(of, place, other)| {
            let (user, device) = identity(*other);
            (*of, *place) != (namespace, topic) || who(user, device, *other) != key
        });
        let member = Member {
            connection,
            data: data.as_bytes().to_vec(),
        };
        let members = self.present.entry((namespace, topic)).or_default();
        members.0.insert(key, member);
    }

    /// The connection is not present on a topic any more; whether it was, if that is known.
    fn leave(&mut self, namespace: usize, topic: &'static str, connection: u64) -> Option<bool> {
        if self.doubtful.remove(&(namespace, topic, connection)) {
            return None;
        }
        let members = self.present.entry((namespace, topic)).or_default();
        let before = members.0.len();
        let other = |_: &Who, member: &mut Member| member.connection != connection;
        members.0.retain(other);
        Some(members.0.len() < before)
    }

    fn forget(&mut self, connection: u64) {
        for members in self.present.values_mut() {
            let other = |_: &Who, member: &mut Member| member.connection != connection;
            members.0.retain(other);
        }
        self.doubtful.retain(|(.., other)| *other != connection);
        self.known.remove(&connection);
        self.watches.retain(|(other, _), _| *other != connection);
    }

    /// Whether what was said of a topic is what is so.
    fn check(&self, namespace: usize, topic: &'static str, told: &Members) -> Check {
        let mut told = told.clone();
        told.0.retain(|_, member| {
            !self
                .doubtful
                .contains(&(namespace, topic, member.connection))
        });
        let known = self.present.get(&(namespace, topic)).cloned();
        if told == known.clone().unwrap_or_default() {
            return Ok(());
        }
        Err(format!(
            "{told:?} are told to be on {topic}, there are {known:?}"
        ))
    }

    fn take_given(&mut self, model: &Model, step: &Step<'_>) -> Check {
        for one in step.given {
            match one {
                Given::Connect { connection, .. } => {
                    self.known.insert(*connection);
                }
                Given::Restored { connection, clean } => {
                    self.known.insert(*connection);
                    if let (false, Some(namespace)) = (clean, model.namespace_of(*connection)) {
                        for topic in TOPICS {
                            self.leave(namespace, topic, *connection);
                            self.doubtful.insert((namespace, topic, *connection));
                        }
                    }
                }
                Given::Disconnect { connection } => self.forget(*connection),
                Given::Frames {
                    connection,
                    requests,
                } => {
                    let Some(namespace) = model.namespace_of(*connection) else {
                        continue;
                    };
                    for request in requests {
                        let command::Order::Presence(order) = &request.order else {
                            continue;
                        };
                        match (step.replies.get(&(*connection, request.number)), order) {
                            (Some((_, reply)), _) => {
                                self.obey(namespace, *connection, order, reply)?;
                            }
                            // Who is closed before the step ends is not told any more.
                            (
                                None,
                                Order::Watch {
                                    subscription,
                                    topic,
                                },
                            ) => {
                                let watch = (namespace, *topic, None);
                                self.watches.insert((*connection, *subscription), watch);
                            }
                            (None, _) => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn obey(
        &mut self,
        namespace: usize,
        connection: u64,
        order: &Order,
        reply: &Reply<'_>,
    ) -> Check {
        let wrong = || Err(format!("{order:?} is answered {reply:?}"));
        match (order, reply) {
            (Order::Enter { topic, data }, Reply::Done(_)) => {
                self.enter(namespace, topic, connection, data);
            }
            (Order::Leave { topic }, Reply::Done(_)) => {
                if self.leave(namespace, topic, connection) == Some(false) {
                    return wrong();
                }
            }
            (Order::Leave { topic }, Reply::Failed(failed)) if failed.code == "unknown_member" => {
                if self.leave(namespace, topic, connection) == Some(true) {
                    return wrong();
                }
            }
            (
                Order::Watch {
                    subscription,
                    topic,
                },
                Reply::PresencePage(_),
            ) => {
                let watch = (namespace, *topic, None);
                self.watches.insert((connection, *subscription), watch);
            }
            (Order::Unwatch { subscription }, Reply::Done(_)) => {
                if self.watches.remove(&(connection, *subscription)).is_none() {
                    return wrong();
                }
            }
            (Order::Unwatch { subscription }, Reply::Failed(failed))
                if failed.code == "unknown_subscription" =>
            {
                if self.watches.contains_key(&(connection, *subscription)) {
                    return wrong();
                }
            }
            (Order::Read { topic }, Reply::PresencePage(page)) => {
                self.check(namespace, topic, &Members::of(page)?)?;
            }
            _ => return wrong(),
        }
        Ok(())
    }

    fn take_said(&mut self, step: &Step<'_>) -> Check {
        for said in step.said {
            let connection = said.connection;
            match decode(&said.frame)? {
                Reply::Resync(_) => self.watches.retain(|(other, _), _| *other != connection),
                Reply::PresencePage(page) => {
                    let (pending, _) = &step.replies[&(connection, page.request)];
                    if let command::Order::Presence(Order::Watch { subscription, .. }) =
                        pending.request.order
                        && let Some(watch) = self.watches.get_mut(&(connection, subscription))
                    {
                        watch.2 = Some(Members::of(&page)?);
                    }
                }
                Reply::PresenceEvents(told) => {
                    let watch = self.watches.get_mut(&(connection, told.subscription));
                    let Some((_, _, Some(members))) = watch else {
                        return Err(format!("{connection} is told {told:?}, but does not watch"));
                    };
                    for event in told.events.iter() {
                        let event = event.map_err(|_| "an event that is none".to_owned())?;
                        members.apply(&event)?;
                        if event.at != step.now {
                            return Err(format!("{event:?} at {}", step.now));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

pub(super) struct Presence;

impl Workload for Presence {
    fn plan(&self, client: &mut Client, turn: &mut Turn<'_>) -> Vec<command::Order> {
        let rng = &mut *turn.rng;
        let topic = *rng.pick(&TOPICS);
        let own = &mut client.places;
        let order = match rng.below(12) {
            0..5 => {
                own.entered.insert(topic);
                let data = match rng.below(3) {
                    0 => String::new(),
                    _ => format!("{}", rng.below(3)),
                };
                Order::Enter { topic, data }
            }
            5 | 6 => Order::Leave { topic },
            7 | 8 if own.watches.len() < WATCHES_MAX => {
                own.last += 1;
                let subscription = WATCHES_FROM + own.last;
                own.watches.insert(subscription, None);
                Order::Watch {
                    subscription,
                    topic,
                }
            }
            9 => match own.watches.pop_first() {
                Some((subscription, _)) => Order::Unwatch { subscription },
                None => return Vec::new(),
            },
            _ => Order::Read { topic },
        };
        vec![command::Order::Presence(order)]
    }

    fn told(&self, model: &mut Model, step: &Step<'_>) -> Check {
        let mut hall = core::mem::take(&mut model.hall);
        for connection in hall.known.clone() {
            // It did not outlive the last life.
            if model.namespace_of(connection).is_none() {
                hall.forget(connection);
            }
        }
        hall.take_given(model, step)?;
        hall.take_said(step)?;
        let heard_at = |connection| {
            let known = model.connections.get(&connection);
            known.map_or(0, |connection| connection.heard_at)
        };
        for effect in step.effects {
            let Effect::Close {
                connection, reason, ..
            } = effect
            else {
                continue;
            };
            let heard = heard_at(connection.0);
            if reason.starts_with("connection_silent")
                && heard + model.bounds.presence_ms > step.now
            {
                return Err(format!(
                    "connection {} is closed as silent at {}, but was heard of at {heard}",
                    connection.0, step.now
                ));
            }
            hall.forget(connection.0);
        }
        for (namespace, topic, members) in hall.watches.values() {
            let members = members
                .as_ref()
                .ok_or("a watch is not told who is present")?;
            hall.check(*namespace, topic, members)?;
        }
        for member in hall.present.values().flat_map(|members| members.0.values()) {
            let heard = heard_at(member.connection);
            // A batch of nothing does not tell the broker what time it is.
            if heard + model.bounds.presence_ms <= step.now && !step.given.is_empty() {
                return Err(format!(
                    "connection {} is still present at {}, but was silent since {heard}",
                    member.connection, step.now
                ));
            }
        }
        model.hall = hall;
        Ok(())
    }

    fn heard(&self, client: &mut Client, _model: &Model, heard: &Heard<'_>) -> Check {
        let own = &mut client.places;
        let order = heard.request.map(|request| &request.order);
        match (heard.reply, order) {
            (
                Reply::Done(_) | Reply::Failed(_),
                Some(command::Order::Presence(Order::Leave { topic })),
            ) => {
                own.entered.remove(topic);
            }
            (
                Reply::PresencePage(page),
                Some(command::Order::Presence(Order::Watch { subscription, .. })),
            ) => {
                if let Some(watch) = own.watches.get_mut(subscription) {
                    *watch = Some(Members::of(page)?);
                }
            }
            (Reply::PresenceEvents(told), _) => {
                // One that it has ended may still be told something.
                let Some(watch) = own.watches.get_mut(&told.subscription) else {
                    return Ok(());
                };
                let members = watch.as_mut().ok_or("events before who is present")?;
                for event in told.events.iter() {
                    members.apply(&event.map_err(|_| "an event that is none")?)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn forgotten(&self, client: &mut Client) {
        client.places.watches.clear();
    }

    fn settle(&self, client: &mut Client) -> Vec<command::Order> {
        // Who stays would be asked for signs of life for ever.
        let entered = client.places.entered.iter();
        entered
            .map(|topic| command::Order::Presence(Order::Leave { topic }))
            .collect()
    }

    fn is_settled(&self, client: &Client) -> bool {
        client.places.entered.is_empty()
    }
}

/// Where a client believes to be present, and what it watches.
#[derive(Debug, Default)]
pub(in crate::sim) struct Places {
    entered: BTreeSet<&'static str>,
    watches: BTreeMap<u32, Option<Members>>,
    last: u32,
}
