//! Routing rules: clients set the same few, which lead in a circle, and publish what they are for.
//!
//! What rules must make of a message is found out here once more, in the plainest way: every message and copy must be
//! published in that order, with those headers, and nothing else; in the end all of it is delivered like any other.

use std::collections::{BTreeSet, VecDeque};

use dunlin_core::Durability;
use dunlin_core::frame::{Command, ConfigureRule, List, Reply, RuleAction, RuleCondition};

use crate::sim::archive::{Check, filter_matches};
use crate::sim::client::Client;
use crate::sim::command;
use crate::sim::frames::check_code;
use crate::sim::model::{Answer, Model, Step};

use super::publish::{By, Draft, Placing, check_publish_order, level, take_placing};
use super::{Heard, Turn, Workload};

/// The rules, in the order of their turns.
const RULES: [Rule; 5] = [
    Rule {
        name: "drop",
        filter: "route/in/+",
        when: Some(("key", "equals", "key-0")),
        then: &[Act::Drop],
    },
    Rule {
        name: "fan",
        filter: "route/in/+",
        when: None,
        then: &[Act::Copy("route/copy/{1}"), Act::SetHeader("via", "fan")],
    },
    Rule {
        name: "hide",
        filter: "route/in/x",
        when: Some(("key", "begins_with", "key-1")),
        then: &[Act::Copy("route/kept"), Act::Drop],
    },
    Rule {
        name: "mark",
        filter: "route/copy/+",
        when: Some(("header:h", "exists", "")),
        then: &[Act::SetHeader("h", "seen"), Act::Move("route/marked")],
    },
    Rule {
        name: "round",
        filter: "route/marked",
        when: None,
        then: &[Act::Copy("route/in/back")],
    },
];

struct Rule {
    name: &'static str,
    filter: &'static str,
    /// The part, the test and the value.
    when: Option<(&'static str, &'static str, &'static str)>,
    then: &'static [Act],
}

#[derive(Clone, Copy)]
enum Act {
    Copy(&'static str),
    Move(&'static str),
    SetHeader(&'static str, &'static str),
    Drop,
}

impl Rule {
    fn is_for(&self, draft: &Draft) -> bool {
        let key = draft.key.as_deref();
        filter_matches(self.filter, &draft.topic)
            && match self.when {
                None => true,
                Some(("key", "equals", value)) => key == Some(value),
                Some(("key", "begins_with", value)) => {
                    key.is_some_and(|key| key.starts_with(value))
                }
                Some((_, _, _)) => draft.headers.iter().any(|(name, _)| name == "h"),
            }
    }
}

#[derive(Clone, Debug)]
pub(in crate::sim) enum Order {
    Configure {
        rule: usize,
    },
    Publish {
        /// As it is sent.
        sent: Box<Draft>,
        /// What must come of it, the one that the receipt is for first.
        made: Vec<usize>,
    },
}

impl Order {
    pub(in crate::sim) fn encode(&self, request: u64, out: &mut Vec<u8>) {
        match self {
            Self::Publish { sent, .. } => sent.encode(request, out),
            Self::Configure { rule: index } => {
                let rule = &RULES[*index];
                let (mut when, mut then) = (Vec::new(), Vec::new());
                if let Some((part, test, value)) = rule.when {
                    let value = Some(value).filter(|value| !value.is_empty());
                    List::push(&mut when, &RuleCondition { part, test, value });
                }
                for act in rule.then {
                    let nothing = RuleAction {
                        action: "drop",
                        topic: None,
                        header: None,
                        value: None,
                    };
                    let action = match *act {
                        Act::Copy(topic) => RuleAction {
                            action: "copy",
                            topic: Some(topic),
                            ..nothing
                        },
                        Act::Move(topic) => RuleAction {
                            action: "move",
                            topic: Some(topic),
                            ..nothing
                        },
                        Act::SetHeader(header, value) => RuleAction {
                            action: "set_header",
                            header: Some(header),
                            value: Some(value),
                            ..nothing
                        },
                        Act::Drop => nothing,
                    };
                    List::push(&mut then, &action);
                }
                Command::ConfigureRule(ConfigureRule {
                    request,
                    rule: rule.name,
                    filter: Some(rule.filter),
                    when: Some(List::new(&when)),
                    then: Some(List::new(&then)),
                    order: Some(*index as u32),
                    enabled: None,
                })
                .encode(out);
            }
        }
    }
}

/// The rules that a client knows to be in force; from then on they are for ever.
#[derive(Debug, Default)]
pub(in crate::sim) struct Ruled(BTreeSet<usize>);

/// What the rules make of a message, in the order of publishing.
fn made_of(sent: &Draft) -> Vec<Draft> {
    let mut made = Vec::new();
    let mut waiting = VecDeque::from([(sent.clone(), BTreeSet::new())]);
    'drafts: while let Some((mut draft, mut acted)) = waiting.pop_front() {
        while let Some(index) =
            (0..RULES.len()).find(|index| !acted.contains(index) && RULES[*index].is_for(&draft))
        {
            acted.insert(index);
            let level = draft
                .topic
                .rsplit('/')
                .next()
                .unwrap_or_default()
                .to_owned();
            for act in RULES[index].then {
                match *act {
                    Act::Drop => continue 'drafts,
                    Act::Move(topic) => topic.clone_into(&mut draft.topic),
                    Act::SetHeader(name, value) => {
                        draft.headers.retain(|(other, _)| other != name);
                        draft.headers.push((name.to_owned(), value.to_owned()));
                    }
                    Act::Copy(topic) => {
                        let mut copy = draft.clone();
                        copy.topic = topic.replace("{1}", &level);
                        waiting.push_back((copy, acted.clone()));
                    }
                }
            }
        }
        made.push(draft);
    }
    made
}

/// How many messages a command publishes behind the one that its receipt is for.
pub(super) fn copies_of(order: &command::Order) -> u64 {
    match order {
        command::Order::Rules(Order::Publish { made, .. }) => (made.len() as u64).saturating_sub(1),
        _ => 0,
    }
}

pub(super) struct Rules;

impl Workload for Rules {
    fn plan(&self, client: &mut Client, turn: &mut Turn<'_>) -> Vec<command::Order> {
        let missing = (0..RULES.len()).filter(|rule| !client.ruled.0.contains(rule));
        let missing: Vec<_> = missing
            .map(|rule| command::Order::Rules(Order::Configure { rule }))
            .collect();
        if !missing.is_empty() {
            return missing;
        }
        let (rng, archive) = (&mut *turn.rng, &mut turn.model.archive);
        let mut sent = Draft {
            namespace: client.namespace,
            topic: rng.pick(&["route/in/x", "route/in/y"]).to_string(),
            payload: format!("{}:", archive.drafts.len()).into_bytes(),
            key: rng.once_in(2).then(|| format!("key-{}", rng.below(3))),
            headers: Vec::new(),
            id: None,
            producer: None,
            ttl_ms: rng.once_in(10).then(|| rng.between(1, 3000)),
            later: None,
            asks: false,
            durability: level(rng),
        };
        if rng.once_in(2) {
            sent.headers.push(("h".to_owned(), "ä".to_owned()));
        }
        let made = made_of(&sent).into_iter();
        let made = made.map(|draft| archive.draft(|_| draft)).collect();
        vec![command::Order::Rules(Order::Publish {
            sent: Box::new(sent),
            made,
        })]
    }

    fn told(&self, model: &mut Model, step: &Step<'_>) -> Check {
        let mut receipts = Vec::new();
        for answer in step.answers() {
            if let command::Order::Rules(order) = answer.order {
                take_answer(model, &answer, order, &mut receipts)?;
            }
        }
        receipts.sort_unstable_by_key(|placing: &Placing| placing.sequence);
        for mut receipt in receipts {
            if receipt.offset == u64::MAX {
                receipt.offset = end_of(model, receipt.message)?;
            }
            take_placing(model, step, &receipt)?;
        }
        Ok(())
    }

    fn heard(&self, client: &mut Client, _model: &Model, heard: &Heard<'_>) -> Check {
        let request = heard.request.map(|request| &request.order);
        if let (Some(command::Order::Rules(Order::Configure { rule })), Reply::Done(_)) =
            (request, heard.reply)
        {
            client.ruled.0.insert(*rule);
        }
        Ok(())
    }
}

/// Where a copy goes, which nobody is told: its topic has one partition.
fn end_of(model: &Model, message: usize) -> Result<u64, String> {
    let draft = &model.archive.drafts[message];
    let topic = model.archive.topic_named(draft.namespace, &draft.topic);
    let topic = topic.ok_or_else(|| format!("a copy to \"{}\" was not made", draft.topic))?;
    Ok(model.archive.topics[topic].partitions[0].end)
}

fn take_answer(
    model: &mut Model,
    answer: &Answer<'_>,
    order: &Order,
    receipts: &mut Vec<Placing>,
) -> Check {
    match (order, answer.reply) {
        (Order::Configure { .. }, Reply::Done(_)) => Ok(()),
        (Order::Configure { .. }, Reply::Failed(failed)) => {
            check_code(failed.code, &["storage_unavailable"])
        }
        (Order::Publish { sent, made }, Reply::Receipt(told)) => {
            let Some(first) = made.first() else {
                return Err(format!("{sent:?} is to be dropped, but is {told:?}"));
            };
            let topic = &*model.archive.drafts[*first].topic;
            if told.topic != Some(topic).filter(|topic| *topic != sent.topic) {
                return Err(format!("{sent:?} went to \"{topic}\", but is {told:?}"));
            }
            let span = (told.sequence, told.sequence + made.len() as u64 - 1);
            let by = (answer.connection, answer.pending.order);
            check_publish_order(model, by, span)?;
            for (message, sequence) in made.iter().zip(told.sequence..) {
                let is_first = message == first;
                receipts.push(Placing {
                    sequence,
                    message: *message,
                    partition: if is_first { told.partition } else { 0 },
                    offset: if is_first { told.offset } else { u64::MAX },
                    asked: sent.durability.unwrap_or(Durability::None),
                    by: By::Receipt,
                });
            }
            Ok(())
        }
        (Order::Publish { made, .. }, Reply::Failed(failed)) => {
            let codes = [
                "storage_unavailable",
                "subscriber_blocked",
                "limit_reached",
                "draining",
            ];
            if failed.code != "dropped_by_rule" || !made.is_empty() {
                check_code(failed.code, &codes)?;
            }
            if failed.message.contains("routed_messages_max") {
                return Err(format!("rules go round in circles: {}", failed.message));
            }
            for message in made {
                model.archive.refuse(*message)?;
            }
            Ok(())
        }
        _ => answer.is_none_of_these(),
    }
}
