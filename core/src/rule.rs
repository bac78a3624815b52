//! A routing rule: which messages it is for, and what becomes of them.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::decimal::Decimal;
use crate::protocol::field::{Headers, Item as _, List};
use crate::protocol::frame::{self, Message};
use crate::protocol::json::{Found, find};
use crate::topic;
use crate::wire::{Malformed, Put as _, Reader};

/// The most conditions, and the most actions, of a rule.
const PARTS_MAX: usize = 32;
/// The longest text in a rule, in bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// One rule of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RoutingRule {
    /// Rises with every change of the rule, from 1.
    pub(crate) version: u64,
    /// Rules take their turns by rising numbers.
    pub(crate) order: u32,
    pub(crate) enabled: bool,
    pub(crate) filter: Box<str>,
    conditions: Box<[Condition]>,
    actions: Box<[Action]>,
    /// Both as they were said, which is what is stored and listed.
    when: Box<[u8]>,
    then: Box<[u8]>,
}

/// What of a message is looked at, and what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    part: Part,
    test: Test,
    value: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Key,
    Id,
    ContentType,
    /// The first header of this name; names are compared as they are spelt.
    Header(Box<str>),
    /// A value of the payload, by a JSON Pointer in its parts.
    Json(Box<[Box<str>]>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Missing,
    Equals,
    Differs,
    BeginsWith,
    EndsWith,
    Contains,
    Below,
    Above,
}

impl Test {
    const WORDS: [(&'static str, Self); 9] = [
        ("exists", Self::Exists),
        ("missing", Self::Missing),
        ("equals", Self::Equals),
        ("differs", Self::Differs),
        ("begins_with", Self::BeginsWith),
        ("ends_with", Self::EndsWith),
        ("contains", Self::Contains),
        ("below", Self::Below),
        ("above", Self::Above),
    ];

    /// Whether it compares with a value.
    const fn compares(self) -> bool {
        !matches!(self, Self::Exists | Self::Missing)
    }
}

/// What a rule does with a message that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// It is published to another topic as well.
    Copy(TopicTemplate),
    /// It is published to another topic instead.
    Move(TopicTemplate),
    /// It gets a header, in the place of those of that name.
    SetHeader(Box<str>, Box<str>),
    /// It loses the headers of that name.
    RemoveHeader(Box<str>),
    /// It is not published.
    Drop,
}

/// The name of a topic, with what the wildcards of the rule's filter stand for: `{1}` for the first, and so on; `{0}`
/// is the whole name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicTemplate(Box<str>);

/// What a rule sees of a message, whose topic and headers earlier rules may have changed.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) message: &'a Message<'a>,
    pub(crate) headers: Headers<'a>,
}

/// A part of a message that is there.
enum Value<'a> {
    Text(Cow<'a, str>),
    Number(&'a str),
    Composite,
}

impl RoutingRule {
    /// Makes a rule of what a client or a row says, and the version it has. The text says what is wrong.
    pub(crate) fn new(
        version: u64,
        order: u32,
        enabled: bool,
        filter: &str,
        when: List<'_, frame::RuleCondition<'_>>,
        then: List<'_, frame::RuleAction<'_>>,
    ) -> Result<Self, String> {
        topic::check_filter(filter).map_err(|refusal| refusal.message)?;
        let mut conditions = Vec::new();
        let (mut stored_when, mut stored_then) = (Vec::new(), Vec::new());
        for condition in when.iter() {
            let condition = condition.map_err(|Malformed| String::from("\"when\" is malformed"))?;
            conditions.push(Condition::new(&condition)?);
            List::push(&mut stored_when, &condition);
        }
        let mut actions = Vec::new();
        for action in then.iter() {
            let action = action.map_err(|Malformed| String::from("\"then\" is malformed"))?;
            actions.push(Action::new(&action, filter)?);
            List::push(&mut stored_then, &action);
        }
        for (what, count) in [("when", conditions.len()), ("then", actions.len())] {
            if count > PARTS_MAX {
                return Err(format!(
                    "\"{what}\" has {count} parts, {PARTS_MAX} are allowed"
                ));
            }
        }
        if actions.is_empty() {
            return Err(String::from("\"then\" must say what becomes of messages"));
        }
        let ends = |action: &Action| matches!(action, Action::Drop);
        if actions.iter().rev().skip(1).any(ends) {
            return Err(String::from("after \"drop\" nothing is left to be done"));
        }
        Ok(Self {
            version,
            order,
            enabled,
            filter: filter.into(),
            conditions: conditions.into(),
            actions: actions.into(),
            when: stored_when.into(),
            then: stored_then.into(),
        })
    }

    /// How the rule is stored and listed.
    pub(crate) fn fields<'a>(&'a self, name: &'a str) -> frame::Rule<'a> {
        frame::Rule {
            rule: name,
            version: self.version,
            order: self.order,
            enabled: self.enabled,
            filter: &self.filter,
            when: List::new(&self.when),
            then: List::new(&self.then),
        }
    }

    /// The rule in a row.
    pub(crate) fn row(&self) -> Vec<u8> {
        let mut row = Vec::new();
        row.put_u64(crate::rows::ROW_VERSION);
        self.fields("").put_fields(&mut row);
        row
    }

    /// Reads a row.
    pub(crate) fn read(row: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(row);
        let version = reader.u64().ok()?;
        let rule = frame::Rule::take_fields(&mut reader).ok()?;
        let made = Self::new(
            rule.version,
            rule.order,
            rule.enabled,
            rule.filter,
            rule.when,
            rule.then,
        );
        (version == crate::rows::ROW_VERSION && rule.version > 0 && rule.rule.is_empty())
            .then(|| made.ok())?
    }

    pub(crate) fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// Whether every condition holds; else which does not.
    pub(crate) fn check(&self, subject: Subject<'_>) -> Result<(), Unmet<'_>> {
        match self
            .conditions
            .iter()
            .find(|condition| !condition.holds(subject))
        {
            None => Ok(()),
            Some(condition) => Err(Unmet(condition)),
        }
    }
}

/// A condition that does not hold.
pub(crate) struct Unmet<'a>(&'a Condition);

impl Unmet<'_> {
    /// What does not hold and what was found, for people.
    pub(crate) fn explain(&self, subject: Subject<'_>) -> String {
        let Condition { part, test, value } = self.0;
        let found = match part.of(subject) {
            None => String::from("missing"),
            Some(Value::Composite) => String::from("an array or object"),
            Some(Value::Number(number)) => String::from(number),
            Some(Value::Text(text)) => format!("\"{text}\""),
        };
        let part = part.named();
        match test {
            Test::Exists => format!("{part} is missing"),
            Test::Missing => format!("{part} is {found}"),
            _ => {
                let words = Test::WORDS.iter().find(|(_, word)| word == test);
                let test = words.map_or("", |(word, _)| *word);
                format!("{part} is {found}, not {test} \"{value}\"")
            }
        }
    }
}

impl Condition {
    fn new(said: &frame::RuleCondition<'_>) -> Result<Self, String> {
        let words = || Test::WORDS.map(|(word, _)| word).join(", ");
        let test = Test::WORDS.iter().find(|(word, _)| *word == said.test);
        let Some((_, test)) = test else {
            let word = said.test;
            return Err(format!(
                "\"test\" must be one of {}, not \"{word}\"",
                words()
            ));
        };
        let part = Part::parse(said.part)?;
        let value = match (said.value, test.compares()) {
            (Some(value), true) => checked(value)?,
            (None, false) => "",
            (Some(_), false) => return Err(format!("\"{}\" has no \"value\"", said.test)),
            (None, true) => return Err(format!("\"{}\" needs a \"value\"", said.test)),
        };
        if matches!(test, Test::Below | Test::Above) && Decimal::parse(value).is_none() {
            return Err(format!("\"{}\" needs a number, not \"{value}\"", said.test));
        }
        Ok(Self {
            part,
            test: *test,
            value: value.into(),
        })
    }

    fn holds(&self, subject: Subject<'_>) -> bool {
        let Some(found) = self.part.of(subject) else {
            return matches!(self.test, Test::Missing | Test::Differs);
        };
        let text = match &found {
            Value::Text(text) => text,
            Value::Number(number) => *number,
            Value::Composite => return matches!(self.test, Test::Exists | Test::Differs),
        };
        match self.test {
            Test::Exists => true,
            Test::Missing => false,
            Test::Equals => self.equals(&found, text),
            Test::Differs => !self.equals(&found, text),
            Test::BeginsWith => text.starts_with(&*self.value),
            Test::EndsWith => text.ends_with(&*self.value),
            Test::Contains => text.contains(&*self.value),
            Test::Below => self.order(text).is_some_and(|order| order.is_lt()),
            Test::Above => self.order(text).is_some_and(|order| order.is_gt()),
        }
    }

    /// Numbers of a payload are equal if they are one number, whatever their spelling.
    fn equals(&self, found: &Value<'_>, text: &str) -> bool {
        match found {
            Value::Number(_) => self.order(text).is_some_and(|order| order.is_eq()),
            _ => *text == *self.value,
        }
    }

    fn order(&self, text: &str) -> Option<core::cmp::Ordering> {
        Some(Decimal::parse(text)?.cmp(&Decimal::parse(&self.value)?))
    }
}

impl Part {
    fn parse(said: &str) -> Result<Self, String> {
        checked(said)?;
        match said.split_once(':') {
            None if said == "key" => Ok(Self::Key),
            None if said == "id" => Ok(Self::Id),
            None if said == "content_type" => Ok(Self::ContentType),
            Some(("header", name)) if !name.is_empty() => Ok(Self::Header(name.into())),
            Some(("json", pointer)) => pointer_parts(pointer)
                .map(Self::Json)
                .ok_or_else(|| format!("\"{pointer}\" is not a JSON Pointer like /order/total")),
            _ => Err(format!(
                "\"part\" must be key, id, content_type, header:NAME or json:/POINTER, not \"{said}\""
            )),
        }
    }

    fn named(&self) -> String {
        match self {
            Self::Key => String::from("the key"),
            Self::Id => String::from("the id"),
            Self::ContentType => String::from("the content type"),
            Self::Header(name) => format!("the header \"{name}\""),
            Self::Json(parts) => {
                let mut named = String::from("the JSON value at \"");
                for part in parts {
                    named.push('/');
                    named.push_str(part);
                }
                named.push('"');
                named
            }
        }
    }

    fn of<'a>(&self, subject: Subject<'a>) -> Option<Value<'a>> {
        let text = match self {
            Self::Key => subject.message.key,
            Self::Id => subject.message.id,
            Self::ContentType => subject.message.content_type,
            Self::Header(name) => {
                let mut headers = subject.headers.iter();
                headers
                    .find(|(other, _)| *other == &**name)
                    .map(|(_, value)| value)
            }
            Self::Json(parts) => {
                let text = core::str::from_utf8(subject.message.payload).ok()?;
                return Some(match find(text, parts.iter().map(|part| &**part))? {
                    Found::Null => Value::Text("null".into()),
                    Found::Bool(true) => Value::Text("true".into()),
                    Found::Bool(false) => Value::Text("false".into()),
                    Found::Str(text) => Value::Text(text),
                    Found::Number(number) => Value::Number(number),
                    Found::Composite => Value::Composite,
                });
            }
        };
        text.map(|text| Value::Text(text.into()))
    }
}

/// The parts of a JSON Pointer (RFC 6901): `~1` is a slash, `~0` a tilde.
fn pointer_parts(pointer: &str) -> Option<Box<[Box<str>]>> {
    if pointer.is_empty() {
        return Some(Box::default());
    }
    let rest = pointer.strip_prefix('/')?;
    rest.split('/')
        .map(|part| {
            let escapes = part.match_indices('~');
            let is_sound = escapes
                .map(|(at, _)| part.as_bytes().get(at + 1))
                .all(|next| matches!(next, Some(b'0' | b'1')));
            is_sound.then(|| part.replace("~1", "/").replace("~0", "~").into())
        })
        .collect()
}

impl Action {
    fn new(said: &frame::RuleAction<'_>, filter: &str) -> Result<Self, String> {
        let lacks = |what: &str| format!("\"{}\" needs a \"{what}\"", said.action);
        let topic = || {
            let template = said.topic.ok_or_else(|| lacks("topic"))?;
            TopicTemplate::new(template, filter)
        };
        let header = || match said.header {
            Some("") | None => Err(lacks("header")),
            Some(name) => Ok(checked(name)?.into()),
        };
        let value = || {
            let value = said.value.ok_or_else(|| lacks("value"))?;
            checked(value).map(Into::into)
        };
        let (action, has) = match said.action {
            "copy" => (Self::Copy(topic()?), [true, false, false]),
            "move" => (Self::Move(topic()?), [true, false, false]),
            "set_header" => (Self::SetHeader(header()?, value()?), [false, true, true]),
            "remove_header" => (Self::RemoveHeader(header()?), [false, true, false]),
            "drop" => (Self::Drop, [false, false, false]),
            word => {
                return Err(format!(
                    "\"action\" must be copy, move, set_header, remove_header or drop, not \"{word}\""
                ));
            }
        };
        let said_of = [
            ("topic", said.topic),
            ("header", said.header),
            ("value", said.value),
        ];
        for ((name, given), has) in said_of.iter().zip(has) {
            if given.is_some() && !has {
                return Err(format!("\"{}\" has no \"{name}\"", said.action));
            }
        }
        Ok(action)
    }
}

impl TopicTemplate {
    fn new(template: &str, filter: &str) -> Result<Self, String> {
        let wildcards = filter
            .split('/')
            .filter(|level| matches!(*level, "+" | "#"))
            .count();
        let this = Self(checked(template)?.into());
        // A place holder stands for at least one character, whatever comes.
        let name = this.expand(|place| (place <= wildcards).then_some("x"));
        let name = name.map_err(|place| {
            format!(
                "the topic \"{template}\" has {{{place}}}, but the filter \"{filter}\" has {wildcards} wildcards"
            )
        })?;
        topic::check_name(&name).map_err(|refusal| refusal.message)?;
        Ok(this)
    }

    /// The topic for a message of a topic that the rule's filter matches.
    pub(crate) fn topic(&self, filter: &str, topic: &str) -> Result<String, String> {
        let name = self.expand(|place| match place {
            0 => Some(topic),
            _ => nth_wildcard(filter, topic, place),
        });
        let name =
            name.map_err(|place| format!("{{{place}}} stands for nothing in \"{topic}\""))?;
        topic::check_name(&name).map_err(|refusal| refusal.message)?;
        Ok(name)
    }

    /// Puts values in; `Err` with the place holder that has none.
    fn expand<'v>(&self, value: impl Fn(usize) -> Option<&'v str>) -> Result<String, usize> {
        let mut name = String::new();
        let mut rest = &*self.0;
        while let Some(at) = rest.find('{') {
            name.push_str(&rest[..at]);
            rest = &rest[at..];
            let place = rest.as_bytes().get(1).filter(|byte| byte.is_ascii_digit());
            match place.filter(|_| rest.as_bytes().get(2) == Some(&b'}')) {
                Some(digit) => {
                    let place = usize::from(digit - b'0');
                    name.push_str(value(place).ok_or(place)?);
                    rest = &rest[3..];
                }
                // Any other brace is one.
                None => {
                    name.push('{');
                    rest = &rest[1..];
                }
            }
        }
        name.push_str(rest);
        Ok(name)
    }
}

/// What the wildcard with this number, from 1, matches; nothing where `#` matches no level.
fn nth_wildcard<'t>(filter: &str, topic: &'t str, place: usize) -> Option<&'t str> {
    let mut rest = Some(topic);
    let mut count = 0;
    for level in filter.split('/') {
        let here = rest?;
        let (first, behind) = match here.split_once('/') {
            Some((first, behind)) => (first, Some(behind)),
            None => (here, None),
        };
        if matches!(level, "+" | "#") {
            count += 1;
            if count == place {
                return Some(if level == "#" { here } else { first });
            }
        }
        rest = behind;
    }
    None
}

/// Refuses texts that are too long.
fn checked(text: &str) -> Result<&str, String> {
    if text.len() <= TEXT_BYTES_MAX {
        return Ok(text);
    }
    let bytes = text.len();
    Err(format!(
        "a text of a rule is {bytes} bytes long, {TEXT_BYTES_MAX} are allowed"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString as _;

    fn condition<'a>(
        part: &'a str,
        test: &'a str,
        value: Option<&'a str>,
    ) -> frame::RuleCondition<'a> {
        frame::RuleCondition { part, test, value }
    }

    fn rule(
        filter: &str,
        when: &[frame::RuleCondition<'_>],
        then: &[frame::RuleAction<'_>],
    ) -> Result<RoutingRule, String> {
        let (mut conditions, mut actions) = (Vec::new(), Vec::new());
        when.iter().for_each(|one| List::push(&mut conditions, one));
        then.iter().for_each(|one| List::push(&mut actions, one));
        RoutingRule::new(
            1,
            0,
            true,
            filter,
            List::new(&conditions),
            List::new(&actions),
        )
    }

    fn empty() -> Message<'static> {
        Message::take_fields(&mut Reader::new(&[0, 0])).unwrap()
    }

    const DROP: frame::RuleAction<'_> = frame::RuleAction {
        action: "drop",
        topic: None,
        header: None,
        value: None,
    };

    #[test]
    fn conditions_hold_or_do_not() {
        let headers = Headers::encode([("region", "eu-west"), ("size", "10.0"), ("region", "us")]);
        let mut message = empty();
        message.payload = br#"{"total":99.50,"items":[{"name":"tea"}],"paid":false,"note":null}"#;
        message.key = Some("k");
        message.content_type = Some("application/json");
        let subject = Subject {
            message: &message,
            headers: Headers::parse(&headers).unwrap(),
        };
        for (part, test, value, holds) in [
            ("key", "exists", None, true),
            ("id", "exists", None, false),
            ("id", "missing", None, true),
            ("id", "differs", Some("x"), true),
            ("id", "equals", Some(""), false),
            ("key", "equals", Some("k"), true),
            ("content_type", "ends_with", Some("/json"), true),
            ("header:region", "begins_with", Some("eu-"), true),
            ("header:region", "equals", Some("us"), false),
            ("header:Region", "exists", None, false),
            ("header:size", "equals", Some("10"), false),
            ("header:size", "below", Some("10.1"), true),
            ("header:size", "above", Some("10"), false),
            ("header:region", "above", Some("0"), false),
            ("json:/total", "equals", Some("99.5"), true),
            ("json:/total", "above", Some("99.4999999999999999999"), true),
            ("json:/items/0/name", "contains", Some("e"), true),
            ("json:/items", "exists", None, true),
            ("json:/items", "equals", Some("[]"), false),
            ("json:/paid", "equals", Some("false"), true),
            ("json:/note", "equals", Some("null"), true),
            ("json:/missing", "above", Some("0"), false),
        ] {
            let rule = rule("#", &[condition(part, test, value)], &[DROP]).unwrap();
            let checked = rule.check(subject);
            assert_eq!(checked.is_ok(), holds, "{part} {test} {value:?}");
            if let Err(unmet) = checked {
                assert!(unmet.explain(subject).contains("is"), "{part}");
            }
        }
    }

    #[test]
    fn topics_are_made_of_what_wildcards_match() {
        for (filter, template, topic, expected) in [
            ("a/+/b/#", "x/{1}/{2}", "a/m/b/c/d", Ok("x/m/c/d")),
            ("#", "copy/{0}", "a/b", Ok("copy/a/b")),
            ("a/#", "z/{1}", "a", Err("stands for nothing")),
            ("a", "{b}/{", "a", Ok("{b}/{")),
            ("+/#", "{2}", "a/$x", Err("broker's own")),
        ] {
            let template = TopicTemplate::new(template, filter).unwrap();
            let made = template.topic(filter, topic);
            match expected {
                Ok(name) => assert_eq!(made.as_deref(), Ok(name)),
                Err(part) => assert!(made.unwrap_err().contains(part)),
            }
        }
    }

    #[test]
    fn wrong_rules_are_told_what_is_wrong() {
        let long = "x".repeat(1025);
        let many = [DROP; 33];
        let action = |action, topic, header, value| frame::RuleAction {
            action,
            topic,
            header,
            value,
        };
        for (when, then, part) in [
            (&[][..], &[][..], "what becomes"),
            (
                &[condition("topic", "exists", None)],
                &[DROP],
                "\"part\" must be",
            ),
            (
                &[condition("header:", "exists", None)],
                &[DROP],
                "\"part\" must be",
            ),
            (
                &[condition("json:a", "exists", None)],
                &[DROP],
                "JSON Pointer",
            ),
            (
                &[condition("json:/~2", "exists", None)],
                &[DROP],
                "JSON Pointer",
            ),
            (
                &[condition("key", "is", None)],
                &[DROP],
                "\"test\" must be one of exists",
            ),
            (
                &[condition("key", "exists", Some("x"))],
                &[DROP],
                "has no \"value\"",
            ),
            (
                &[condition("key", "equals", None)],
                &[DROP],
                "needs a \"value\"",
            ),
            (
                &[condition("key", "above", Some("x"))],
                &[DROP],
                "needs a number",
            ),
            (
                &[condition("key", "equals", Some(&long))],
                &[DROP],
                "1025 bytes",
            ),
            (&[], &many, "has 33 parts"),
            (&[], &[DROP, DROP], "nothing is left"),
            (
                &[],
                &[action("publish", None, None, None)],
                "\"action\" must be",
            ),
            (
                &[],
                &[action("copy", None, None, None)],
                "needs a \"topic\"",
            ),
            (
                &[],
                &[action("copy", Some("a/#"), None, None)],
                "belong to filters",
            ),
            (
                &[],
                &[action("move", Some("a/{2}"), None, None)],
                "has 1 wildcards",
            ),
            (
                &[],
                &[action("move", Some("$a"), None, None)],
                "broker's own",
            ),
            (
                &[],
                &[action("set_header", None, Some("a"), None)],
                "needs a \"value\"",
            ),
            (
                &[],
                &[action("set_header", None, Some(""), Some("x"))],
                "needs a \"header\"",
            ),
            (
                &[],
                &[action("drop", Some("a"), None, None)],
                "has no \"topic\"",
            ),
        ] {
            let told = rule("a/#", when, then).unwrap_err();
            assert!(told.contains(part), "{told}, not {part}");
        }
        assert!(rule("a#", &[], &[DROP]).unwrap_err().contains("whole last"));
    }

    #[test]
    fn rows_are_read_back() {
        let when = [condition("json:/a~1b/~0", "above", Some("1"))];
        let rule = rule("a/+", &when, &[DROP]).unwrap();
        assert_eq!(RoutingRule::read(&rule.row()), Some(rule.clone()));
        let row = rule.row();
        for length in 0..row.len() {
            assert_ne!(
                RoutingRule::read(&row[..length]),
                Some(rule.clone()),
                "{length}"
            );
        }
        let unmet = Unmet(&rule.conditions[0]).explain(Subject {
            message: &empty(),
            headers: Headers::default(),
        });
        assert_eq!(
            unmet.to_string(),
            "the JSON value at \"/a/b/~\" is missing, not above \"1\""
        );
    }
}
