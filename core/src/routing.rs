//! The routing rules of a namespace: what is to be published, given what was said to be.
//!
//! Rules act before anything else is decided, so whatever they make of a message is authorised, limited, deduplicated,
//! stored and delivered like any other, together with the rest of its publish or not at all. A rule acts at most once
//! on a message and on what comes of it, so there is no loop.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::config::Config;
use crate::context::Context;
use crate::effect::{After, Durability, Op};
use crate::error::{ErrorCode, Refusal};
use crate::group::check_group_name;
use crate::manage::require_manage;
use crate::mutation::Mutation;
use crate::namespace::Namespace;
use crate::protocol::field::{Headers, List};
use crate::protocol::frame::{
    ConfigureRule, DeleteRule, Done, Explain, Explanation, ListRules, Message, Reply,
    RoutedMessage, RuleStep, Rules,
};
use crate::rule::{Action, RoutingRule, Subject, TopicTemplate};
use crate::topic;

/// The rules in the order of their turns.
#[derive(Default)]
pub(crate) struct Routing {
    rules: Vec<(Box<str>, RoutingRule)>,
    /// Changes with the rules; what a topic knows of them from before then is stale.
    version: u64,
}

/// What of a namespace's rules is for a topic.
#[derive(Clone, Default)]
pub(crate) struct TopicRules {
    version: u64,
    /// The rules whose filters match, by their turns.
    matching: Arc<[u32]>,
}

/// A message that rules have made, or left as it was.
pub(crate) struct Routed {
    /// Which of the messages of the publish it comes of.
    pub(crate) source: u32,
    pub(crate) is_copy: bool,
    topic: Option<Box<str>>,
    headers: Option<Vec<u8>>,
}

/// What rules did, as a list of [`RuleStep`], if anybody wants to know.
struct Steps(Option<Vec<u8>>);

/// A message on its way through the rules.
#[derive(Clone, Default)]
struct Draft {
    topic: Option<Box<str>>,
    headers: Option<Vec<u8>>,
    /// The rules that have acted on it.
    acted: Vec<u32>,
}

impl Routed {
    /// The message as it is to be published.
    pub(crate) fn message<'a>(&'a self, messages: &[Message<'a>]) -> Message<'a> {
        let source = messages[self.source as usize];
        Message {
            topic: self.topic.as_deref().unwrap_or(source.topic),
            headers: self.headers(source.headers),
            ..source
        }
    }

    /// Where it goes, if not where it was sent to.
    pub(crate) fn moved_to(&self, messages: &[Message<'_>]) -> Option<&str> {
        let sent_to = messages[self.source as usize].topic;
        self.topic.as_deref().filter(|topic| *topic != sent_to)
    }

    fn headers<'a>(&'a self, source: Option<Headers<'a>>) -> Option<Headers<'a>> {
        self.headers.as_deref().map(parsed).or(source)
    }
}

fn parsed(headers: &[u8]) -> Headers<'_> {
    Headers::parse(headers).expect("they were spelt here")
}

impl Steps {
    fn tell(&mut self, rule: &str, topic: &str, applied: bool, told: &dyn Fn() -> String) {
        if let Some(steps) = &mut self.0 {
            let step = RuleStep {
                rule,
                topic,
                applied,
                told: &told(),
            };
            List::push(steps, &step);
        }
    }
}

impl Draft {
    fn headers<'a>(&'a self, source: Option<Headers<'a>>) -> Headers<'a> {
        let own = self.headers.as_deref().map(parsed);
        own.or(source).unwrap_or_default()
    }

    fn set_header(&mut self, source: Option<Headers<'_>>, name: &str, value: Option<&str>) {
        let headers = self.headers(source);
        let others = headers.iter().filter(|(other, _)| *other != name);
        let headers = Headers::encode(others.chain(value.map(|value| (name, value))));
        self.headers = Some(headers);
    }
}

impl Routing {
    fn place(&self, name: &str) -> Option<usize> {
        self.rules.iter().position(|(other, _)| **other == *name)
    }

    /// Puts a rule where its turn is.
    fn insert(&mut self, name: Box<str>, rule: RoutingRule) {
        let at = self
            .rules
            .partition_point(|(other, known)| (known.order, other) < (rule.order, &name));
        self.rules.insert(at, (name, rule));
        self.version += 1;
    }

    fn remove(&mut self, name: &str) -> Option<RoutingRule> {
        let (_, rule) = self.rules.remove(self.place(name)?);
        self.version += 1;
        Some(rule)
    }

    /// Takes a rule that was stored. The text says what is wrong with it.
    pub(crate) fn restore(
        &mut self,
        name: &[u8],
        row: &[u8],
        rules_max: u64,
    ) -> Result<(), String> {
        let name = core::str::from_utf8(name).ok();
        let name = name.filter(|name| check_group_name("rule", name).is_ok());
        let (Some(name), Some(rule)) = (name, RoutingRule::read(row)) else {
            return Err(crate::restore::unsound("rule"));
        };
        if self.rules.len() as u64 >= rules_max {
            return Err(format!("there are more than {rules_max} rules (rules_max)"));
        }
        self.insert(name.into(), rule);
        Ok(())
    }

    /// Those that are for a topic.
    fn matching(&self, topic: &str) -> Arc<[u32]> {
        let rules = (0u32..).zip(&self.rules);
        rules
            .filter(|(_, (_, rule))| rule.enabled && topic::matches(&rule.filter, topic))
            .map(|(index, _)| index)
            .collect()
    }
}

impl Namespace {
    /// What rules make of the messages of a publish, in their order, copies behind what they are of; `None` if no rule
    /// is for any of them.
    pub(crate) fn route(
        &mut self,
        config: &Config,
        messages: &[Message<'_>],
    ) -> Result<Option<Vec<Routed>>, Refusal> {
        let has_rules = !self.routing.rules.is_empty();
        let is_concerned = |message: &Message<'_>| !self.rules_for(message.topic).is_empty();
        if !has_rules || !messages.iter().any(is_concerned) {
            return Ok(None);
        }
        let mut routed = Vec::with_capacity(messages.len());
        for (source, message) in (0u32..).zip(messages) {
            topic::check_name(message.topic)?;
            let before = routed.len();
            let dropped = self.route_one(config, source, message, &mut routed, &mut Steps(None))?;
            if routed.len() == before {
                let rule = dropped.map_or("", |rule| &self.routing.rules[rule as usize].0);
                let topic = message.topic;
                let message = format!("the rule \"{rule}\" drops the message to \"{topic}\"");
                return Err(Refusal::new(ErrorCode::DroppedByRule, message));
            }
        }
        Ok(Some(routed))
    }

    /// Appends what rules make of one message. Which rule drops the message itself, if one does.
    fn route_one(
        &mut self,
        config: &Config,
        source: u32,
        message: &Message<'_>,
        routed: &mut Vec<Routed>,
        steps: &mut Steps,
    ) -> Result<Option<u32>, Refusal> {
        let max = config.routed_messages_max;
        let first = routed.len();
        let mut dropped = None;
        let mut drafts = VecDeque::from([Draft::default()]);
        while let Some(mut draft) = drafts.pop_front() {
            match self.turns(message, &mut draft, &mut drafts, steps)? {
                Some(rule) => dropped = dropped.or(Some(rule)),
                None => routed.push(Routed {
                    source,
                    is_copy: routed.len() > first,
                    topic: draft.topic,
                    headers: draft.headers,
                }),
            }
            if (routed.len() - first + drafts.len()) as u64 > max {
                let topic = message.topic;
                let message = format!(
                    "rules make more than {max} messages (routed_messages_max) of one to \"{topic}\""
                );
                return Err(Refusal::new(ErrorCode::LimitReached, message));
            }
        }
        Ok(dropped)
    }

    /// Lets rules act on a draft, beginning anew where one moves it. Which of them drops it, if one does.
    fn turns(
        &mut self,
        message: &Message<'_>,
        draft: &mut Draft,
        copies: &mut VecDeque<Draft>,
        steps: &mut Steps,
    ) -> Result<Option<u32>, Refusal> {
        loop {
            let topic: Box<str> = draft.topic.as_deref().unwrap_or(message.topic).into();
            let rules = self.rules_for(&topic);
            let mut is_moved = false;
            for &index in rules.iter() {
                let (name, rule) = &self.routing.rules[index as usize];
                let mut tell = |applied, told: &dyn Fn() -> String| {
                    steps.tell(name, &topic, applied, told);
                };
                if draft.acted.contains(&index) && !Mutation::RuleActsAgain.is_active() {
                    tell(false, &|| {
                        String::from("it has acted on this message already")
                    });
                    continue;
                }
                let subject = Subject {
                    message,
                    headers: draft.headers(message.headers),
                };
                if let Err(unmet) = rule.check(subject) {
                    tell(false, &|| unmet.explain(subject));
                    continue;
                }
                draft.acted.push(index);
                for action in rule.actions() {
                    let target = |template: &TopicTemplate| {
                        template.topic(&rule.filter, &topic).map_err(|why| {
                            let message = format!("the rule \"{name}\" names no topic: {why}");
                            Refusal::new(ErrorCode::InvalidTopic, message)
                        })
                    };
                    match action {
                        Action::Copy(template) => {
                            let to = target(template)?;
                            tell(true, &|| format!("copies it to \"{to}\""));
                            copies.push_back(Draft {
                                topic: Some(to.into()),
                                ..draft.clone()
                            });
                        }
                        Action::Move(template) => {
                            let to = target(template)?;
                            tell(true, &|| format!("moves it to \"{to}\""));
                            draft.topic = Some(to.into());
                            is_moved = true;
                        }
                        Action::SetHeader(header, value) => {
                            tell(true, &|| {
                                format!("sets the header \"{header}\" to \"{value}\"")
                            });
                            draft.set_header(message.headers, header, Some(value));
                        }
                        Action::RemoveHeader(header) => {
                            tell(true, &|| format!("removes the header \"{header}\""));
                            draft.set_header(message.headers, header, None);
                        }
                        Action::Drop => {
                            tell(true, &|| String::from("drops it"));
                            return Ok(Some(index));
                        }
                    }
                }
                if is_moved {
                    break;
                }
            }
            if !is_moved {
                return Ok(None);
            }
        }
    }

    /// The rules for a topic, which need not exist.
    fn rules_for(&mut self, topic: &str) -> Arc<[u32]> {
        let Some(index) = self.topic_by_name(topic) else {
            return self.routing.matching(topic);
        };
        let known = &mut self.topics[index as usize].rules;
        if known.version != self.routing.version {
            *known = TopicRules {
                version: self.routing.version,
                matching: self.routing.matching(topic),
            };
        }
        known.matching.clone()
    }

    pub(crate) fn configure_rule(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &ConfigureRule<'_>,
    ) -> Result<(), Refusal> {
        require_manage(cx, connection, "configure rules")?;
        check_group_name("rule", command.rule)?;
        let known = self.routing.place(command.rule);
        let known = known.map(|place| &self.routing.rules[place].1);
        let fields = known.map(|rule| rule.fields(command.rule));
        let needed = |name: &str| {
            let message = format!("the rule \"{}\" is new and needs \"{name}\"", command.rule);
            Refusal::new(ErrorCode::InvalidArgument, message)
        };
        let rule = RoutingRule::new(
            fields.map_or(1, |fields| fields.version + 1),
            command
                .order
                .or(fields.map(|fields| fields.order))
                .unwrap_or(0),
            command
                .enabled
                .or(fields.map(|fields| fields.enabled))
                .unwrap_or(true),
            command
                .filter
                .or(fields.map(|fields| fields.filter))
                .ok_or_else(|| needed("filter"))?,
            command
                .when
                .or(fields.map(|fields| fields.when))
                .unwrap_or(List::new(&[])),
            command
                .then
                .or(fields.map(|fields| fields.then))
                .ok_or_else(|| needed("then"))?,
        );
        let rule = rule.map_err(|why| Refusal::new(ErrorCode::InvalidArgument, why))?;
        let max = cx.config.rules_max;
        if known.is_none() && self.routing.rules.len() as u64 >= max {
            let message = format!("a namespace has at most {max} rules (rules_max)");
            return Err(Refusal::new(ErrorCode::LimitReached, message));
        }
        cx.require_storage()?;
        if !Mutation::RulesNotStored.is_active() {
            cx.ops.push(Op::Put {
                key: self.keys.rule(command.rule),
                value: rule.row(),
            });
        }
        self.routing.remove(command.rule);
        self.routing.insert(command.rule.into(), rule);
        self.rules_changed(cx, connection, command.request);
        Ok(())
    }

    pub(crate) fn delete_rule(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &DeleteRule<'_>,
    ) -> Result<(), Refusal> {
        require_manage(cx, connection, "delete rules")?;
        if self.routing.place(command.rule).is_none() {
            let message = format!("there is no rule \"{}\"", command.rule);
            return Err(Refusal::new(ErrorCode::UnknownRule, message));
        }
        cx.require_storage()?;
        cx.ops.push(Op::Delete {
            key: self.keys.rule(command.rule),
        });
        self.routing.remove(command.rule);
        self.rules_changed(cx, connection, command.request);
        Ok(())
    }

    fn rules_changed(&mut self, cx: &mut Context, connection: u32, request: u64) {
        cx.durability = cx.durability.max(Durability::Sync);
        self.touch(cx);
        let after = cx.after(Durability::Sync);
        cx.reply(connection, after, &Reply::Done(Done { request }));
    }

    pub(crate) fn list_rules(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &ListRules,
    ) -> Result<(), Refusal> {
        require_manage(cx, connection, "see rules")?;
        let mut rules = Vec::new();
        for (name, rule) in &self.routing.rules {
            List::push(&mut rules, &rule.fields(name));
        }
        let reply = Rules {
            request: command.request,
            rules: List::new(&rules),
        };
        cx.reply(connection, After::default(), &Reply::Rules(reply));
        Ok(())
    }

    /// Tells what the rules would make of a message.
    pub(crate) fn explain(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &Explain<'_>,
    ) -> Result<(), Refusal> {
        require_manage(cx, connection, "see what rules do")?;
        topic::check_name(command.topic)?;
        let message = Message {
            topic: command.topic,
            payload: command.payload,
            key: command.key,
            content_type: command.content_type,
            headers: command.headers,
            id: command.id,
            ttl_ms: None,
            delay_ms: None,
            deliver_at: None,
            producer: None,
            producer_sequence: None,
            priority: None,
        };
        let (mut steps, mut routed) = (Steps(Some(Vec::new())), Vec::new());
        self.route_one(&cx.config, 0, &message, &mut routed, &mut steps)?;
        let mut messages = Vec::new();
        for routed in &routed {
            let routed = routed.message(&[message]);
            let routed = RoutedMessage {
                topic: routed.topic,
                headers: routed.headers,
            };
            List::push(&mut messages, &routed);
        }
        let reply = Explanation {
            request: command.request,
            steps: List::new(steps.0.as_deref().unwrap_or_default()),
            messages: List::new(&messages),
        };
        cx.reply(connection, After::default(), &Reply::Explanation(reply));
        Ok(())
    }
}
