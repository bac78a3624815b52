//! `dunlin rule`: what becomes of messages when they are published.

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use dunlin_core::frame::{
    Command, ConfigureRule, DeleteRule, Explain, Headers, List, ListRules, Reply, RuleAction,
    RuleCondition,
};
use dunlin_core::http::{self, REQUEST};

use super::client::{Client, unexpected};
use super::request::header;
use super::subscribe::harmless;
use super::table::print_table;
use super::{Format, Target, print_line};

/// The flags of `dunlin rule`.
#[derive(Args, Debug)]
pub(super) struct Rule {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Prints the rules, in the order of their turns
    List(Print),
    /// Creates a rule, which needs --filter and --then, or changes one: what is left out stays
    #[command(visible_alias = "set")]
    Configure(Configure),
    /// Deletes a rule
    Delete(Named),
    /// Prints what the rules would make of a message and why, and publishes nothing
    Explain(Question),
}

#[derive(Args, Debug)]
struct Print {
    #[command(flatten)]
    target: Target,
    /// How to print a rule
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Args, Debug)]
struct Named {
    #[command(flatten)]
    target: Target,
    /// The rule
    rule: String,
}

#[derive(Args, Debug)]
struct Configure {
    #[command(flatten)]
    named: Named,
    /// For messages to topics that match, like orders/+
    #[arg(long)]
    filter: Option<String>,
    /// What must hold: key, id, content_type, header:NAME or json:POINTER, a test and a value; repeatable
    #[arg(long, value_name = "PART TEST VALUE", value_parser = condition)]
    when: Vec<Condition>,
    /// What is done, in this order: copy TOPIC, move TOPIC, set_header NAME VALUE, remove_header NAME or drop; repeatable
    #[arg(long, value_name = "ACTION", value_parser = action)]
    then: Vec<Action>,
    /// Rules take their turns by rising numbers
    #[arg(long, value_name = "N")]
    order: Option<u32>,
    /// Whether it acts
    #[arg(long, value_name = "true|false")]
    enabled: Option<bool>,
}

#[derive(Args, Debug)]
struct Question {
    #[command(flatten)]
    target: Target,
    /// The topic
    topic: String,
    /// The message
    payload: String,
    /// The message's key
    #[arg(long)]
    key: Option<String>,
    /// The message's name
    #[arg(long)]
    id: Option<String>,
    /// The media type of the message
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// A header of the message; repeatable
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// How to print the answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// A part, a test and perhaps a value. What they may be the broker says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    part: String,
    test: String,
    value: Option<String>,
}

fn condition(text: &str) -> Result<Condition, String> {
    let mut words = text.splitn(3, ' ').map(str::to_owned);
    let (Some(part), Some(test)) = (words.next(), words.next()) else {
        return Err("it has no test; write it like \"json:/total above 1000\"".to_owned());
    };
    let value = words.next();
    Ok(Condition { part, test, value })
}

/// A word and what belongs to it. What they may be the broker says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Action {
    action: String,
    topic: Option<String>,
    header: Option<String>,
    value: Option<String>,
}

fn action(text: &str) -> Result<Action, String> {
    let (action, rest) = text.split_once(' ').unwrap_or((text, ""));
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let (topic, header, value) = match action {
        "set_header" => {
            let pair = rest.split_once(' ');
            let (name, value) = pair.ok_or("write it like \"set_header size big\"")?;
            (None, given(name), Some(value.to_owned()))
        }
        "remove_header" => (None, given(rest), None),
        _ => (given(rest), None, None),
    };
    Ok(Action {
        action: action.to_owned(),
        topic,
        header,
        value,
    })
}

impl Rule {
    pub(super) async fn run(self) -> Result<()> {
        match self.verb {
            Verb::List(print) => print.run().await,
            Verb::Configure(configure) => configure.run().await,
            Verb::Explain(question) => question.run().await,
            Verb::Delete(Named { target, rule }) => {
                let command = Command::DeleteRule(DeleteRule {
                    request: REQUEST,
                    rule: &rule,
                });
                Client::once(&target, &command).await?;
                Ok(print_line(&format!("deleted {rule:?}"))?)
            }
        }
    }
}

impl Configure {
    async fn run(&self) -> Result<()> {
        let (mut when, mut then) = (Vec::new(), Vec::new());
        for Condition { part, test, value } in &self.when {
            let value = value.as_deref();
            List::push(&mut when, &RuleCondition { part, test, value });
        }
        for action in &self.then {
            let action = RuleAction {
                action: &action.action,
                topic: action.topic.as_deref(),
                header: action.header.as_deref(),
                value: action.value.as_deref(),
            };
            List::push(&mut then, &action);
        }
        let Named { target, rule } = &self.named;
        let command = Command::ConfigureRule(ConfigureRule {
            request: REQUEST,
            rule,
            filter: self.filter.as_deref(),
            when: (!when.is_empty()).then(|| List::new(&when)),
            then: (!then.is_empty()).then(|| List::new(&then)),
            order: self.order,
            enabled: self.enabled,
        });
        Client::once(target, &command).await?;
        Ok(print_line(&format!("{rule:?} holds from now on"))?)
    }
}

impl Print {
    async fn run(&self) -> Result<()> {
        let command = Command::ListRules(ListRules { request: REQUEST });
        let frame = Client::once(&self.target, &command).await?;
        let Ok(Reply::Rules(rules)) = Reply::decode(&frame) else {
            return Err(unexpected("list_rules"));
        };
        let mut rows =
            vec![["RULE", "ORDER", "VERSION", "FILTER", "WHEN", "THEN", ""].map(String::from)];
        for rule in rules.rules.iter().flatten() {
            if self.format == Format::Json {
                print_line(&http::object(&rule, 0))?;
                continue;
            }
            let when = rule.when.iter().flatten().map(|condition| {
                let RuleCondition { part, test, value } = condition;
                format!("{part} {test} {}", value.unwrap_or_default())
            });
            let then = rule.then.iter().flatten().map(|action| {
                let words = [action.topic, action.header, action.value];
                let words = words.into_iter().flatten();
                let words: Vec<&str> = [action.action].into_iter().chain(words).collect();
                words.join(" ")
            });
            let told = |parts: Vec<String>| {
                let parts: Vec<&str> = parts.iter().map(|part| part.trim_end()).collect();
                harmless(&parts.join("; "))
            };
            rows.push([
                rule.rule.to_owned(),
                rule.order.to_string(),
                rule.version.to_string(),
                rule.filter.to_owned(),
                told(when.collect()),
                told(then.collect()),
                if rule.enabled { "" } else { "off" }.to_owned(),
            ]);
        }
        if rows.len() > 1 {
            print_table(&rows)?;
        }
        Ok(())
    }
}

impl Question {
    async fn run(&self) -> Result<()> {
        let pairs = self.headers.iter();
        let headers = Headers::encode(pairs.map(|(name, value)| (name.as_str(), value.as_str())));
        let headers = Headers::parse(&headers)
            .map_err(|_| anyhow!("--header is longer than a frame"))
            .map(|parsed| (!headers.is_empty()).then_some(parsed))?;
        let command = Command::Explain(Explain {
            request: REQUEST,
            topic: &self.topic,
            payload: self.payload.as_bytes(),
            key: self.key.as_deref(),
            content_type: self.content_type.as_deref(),
            headers,
            id: self.id.as_deref(),
        });
        let frame = Client::once(&self.target, &command).await?;
        let Ok(Reply::Explanation(explanation)) = Reply::decode(&frame) else {
            return Err(unexpected("explain"));
        };
        if self.format == Format::Json {
            return Ok(print_line(&http::object(&explanation, 1))?);
        }
        for step in explanation.steps.iter().flatten() {
            let sign = if step.applied { '+' } else { '-' };
            let (rule, told) = (step.rule, harmless(step.told));
            print_line(&format!("{sign} {rule} on {}: {told}", step.topic))?;
        }
        let mut messages = explanation.messages.iter().flatten().peekable();
        if messages.peek().is_none() {
            print_line("nothing is published")?;
        }
        for message in messages {
            let mut line = format!("published to {}", message.topic);
            for (name, value) in message.headers.iter().flat_map(Headers::iter) {
                line.push_str(&format!(" {name}={value}"));
            }
            print_line(&harmless(&line))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_and_actions_are_words() {
        let told = condition("header:x equals a b ").unwrap();
        assert_eq!((&*told.part, &*told.test), ("header:x", "equals"));
        assert_eq!(told.value.as_deref(), Some("a b "));
        assert_eq!(condition("key exists").unwrap().value, None);
        assert!(condition("key").unwrap_err().contains("no test"));
        let set = action("set_header size very big").unwrap();
        assert_eq!(set.header.as_deref(), Some("size"));
        assert_eq!(set.value.as_deref(), Some("very big"));
        assert_eq!(action("copy a b").unwrap().topic.as_deref(), Some("a b"));
        assert_eq!(action("drop").unwrap().topic, None);
        let removed = action("remove_header size").unwrap();
        assert_eq!(
            (removed.header.as_deref(), removed.topic),
            (Some("size"), None)
        );
        assert!(action("set_header size").unwrap_err().contains("write it"));
    }
}
