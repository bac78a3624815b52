//! Namespaces over HTTP: the quotas in a body, and the list of those of several brokers.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::REQUEST;
use super::command::frames;
use super::problem::Problem;
use super::query::Query;
use super::response::{Response, object_response};
use crate::protocol::field::Strings;
use crate::protocol::frame::{Command, ConfigureNamespace, ListNamespaces, Namespaces, Reply};
use crate::protocol::json::Value;

/// The most names in a page where the request names no limit.
const NAMES_DEFAULT: u64 = 1000;

/// What asks for the quotas that a body names.
pub(super) fn configure_frames(body: &[u8]) -> Result<Vec<u8>, Problem> {
    let shape = "the body must be a JSON object of quotas, like {\"publish_rate\":100}";
    let text = core::str::from_utf8(body).map_err(|_| Problem::invalid(shape))?;
    let text = if text.trim().is_empty() { "{}" } else { text };
    let value = Value::parse(text).map_err(|why| Problem::invalid(format!("{shape}: {why}")))?;
    let Value::Object(members) = value else {
        return Err(Problem::invalid(format!("{shape}, not {}", value.kind())));
    };
    let mut configure = ConfigureNamespace {
        request: REQUEST,
        publish_rate: None,
        bytes_rate: None,
        subscriptions_max: None,
        topics_max: None,
        connections_max: None,
        payload_bytes_max: None,
        stored_bytes_max: None,
    };
    for (name, value) in &members {
        let slot = match name.as_ref() {
            "publish_rate" => &mut configure.publish_rate,
            "bytes_rate" => &mut configure.bytes_rate,
            "subscriptions_max" => &mut configure.subscriptions_max,
            "topics_max" => &mut configure.topics_max,
            "connections_max" => &mut configure.connections_max,
            "payload_bytes_max" => &mut configure.payload_bytes_max,
            "stored_bytes_max" => &mut configure.stored_bytes_max,
            _ => {
                return Err(Problem::invalid(format!(
                    "unknown quota \"{name}\"; there are publish_rate, bytes_rate, subscriptions_max, topics_max, connections_max, payload_bytes_max and stored_bytes_max"
                )));
            }
        };
        let Value::Int(quota) = value else {
            let kind = value.kind();
            return Err(Problem::invalid(format!(
                "\"{name}\" must be an integer from 0, not {kind}"
            )));
        };
        *slot = Some(*quota);
    }
    Ok(frames(&Command::ConfigureNamespace(configure)))
}

/// A page of the names of namespaces, put together from those of several brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespacesPage {
    after: String,
    limit: u64,
    names: BTreeSet<String>,
    /// Up to which name nothing is missing; `None` for all.
    known_to: Option<String>,
}

impl NamespacesPage {
    /// The empty page that a raw query asks for.
    pub fn parse(query: &str) -> Result<Self, Problem> {
        let query = Query::parse(query, &["after", "limit"])?;
        Ok(Self {
            after: query.get("after").unwrap_or_default().into(),
            limit: query.limit()?.unwrap_or(NAMES_DEFAULT).max(1),
            names: BTreeSet::new(),
            known_to: None,
        })
    }

    /// What to ask every broker.
    pub fn frames(&self) -> Vec<u8> {
        frames(&Command::ListNamespaces(ListNamespaces {
            request: REQUEST,
            after: Some(&self.after),
            namespaces_max: Some(self.limit),
        }))
    }

    /// Takes the reply of a broker; whether it was one to this.
    pub fn take(&mut self, reply: &Reply<'_>) -> bool {
        let Reply::Namespaces(page) = reply else {
            return false;
        };
        self.names.extend(page.namespaces.iter().map(String::from));
        if page.more
            && let Some(last) = page.namespaces.iter().last()
            && self.known_to.as_deref().is_none_or(|known| last < known)
        {
            self.known_to = Some(last.into());
        }
        true
    }

    /// Takes names that are known without a broker.
    pub fn add<'n>(&mut self, names: impl IntoIterator<Item = &'n str>) {
        let names = names.into_iter().filter(|name| **name > *self.after);
        self.names.extend(names.map(String::from));
    }

    /// The page as a response.
    pub fn response(&self) -> Response {
        let known_to = self.known_to.as_deref();
        let known = |name: &&String| known_to.is_none_or(|known_to| name.as_str() <= known_to);
        let names: Vec<&str> = self
            .names
            .iter()
            .filter(known)
            .map(|name| &**name)
            .collect();
        let page = names.iter().copied().take(self.limit as usize);
        let spelt = Strings::encode(page);
        let reply = Namespaces {
            request: REQUEST,
            namespaces: Strings::parse(&spelt).unwrap_or_default(),
            more: known_to.is_some() || names.len() as u64 > self.limit,
        };
        object_response(&reply, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::PROTOCOL_VERSION;
    use crate::wire::Reader;

    fn page(query: &str, brokers: &[(&[&str], bool)]) -> String {
        let mut page = NamespacesPage::parse(query).unwrap();
        for (names, more) in brokers {
            let names = Strings::encode(names.iter().copied());
            assert!(page.take(&Reply::Namespaces(Namespaces {
                request: REQUEST,
                namespaces: Strings::parse(&names).unwrap(),
                more: *more,
            })));
        }
        String::from_utf8(page.response().body).unwrap()
    }

    #[test]
    fn pages_of_brokers_become_one_in_which_nothing_is_missing() {
        for (query, brokers, expected) in [
            ("", &[][..], r#"{"namespaces":[],"more":false}"#),
            (
                "",
                &[(&["b", "d"][..], false), (&["a", "c"], false)],
                r#"{"namespaces":["a","b","c","d"],"more":false}"#,
            ),
            (
                "limit=2",
                &[(&["b", "d"], true), (&["a", "c"], false)],
                r#"{"namespaces":["a","b"],"more":true}"#,
            ),
            // Behind "b" the first broker may have others than "x".
            (
                "limit=9",
                &[(&["a", "b"], true), (&["x"], false)],
                r#"{"namespaces":["a","b"],"more":true}"#,
            ),
        ] {
            assert_eq!(page(query, brokers).trim(), expected, "{query}");
        }
        let mut page = NamespacesPage::parse("after=b&limit=2").unwrap();
        page.add(["a", "b", "c", "d", "e"]);
        let body = String::from_utf8(page.response().body).unwrap();
        assert_eq!(body.trim(), r#"{"namespaces":["c","d"],"more":true}"#);
        assert!(NamespacesPage::parse("limit=many").is_err());
        assert!(NamespacesPage::parse("before=x").is_err());
    }

    #[test]
    fn a_body_says_which_quotas_change() {
        let spelt = configure_frames(br#"{"topics_max":5,"publish_rate":0}"#).unwrap();
        let mut reader = Reader::new(&spelt);
        let hello = Command::decode(reader.bytes().unwrap()).unwrap();
        assert!(matches!(hello, Command::Hello(hello) if hello.version == PROTOCOL_VERSION));
        let Command::ConfigureNamespace(configure) =
            Command::decode(reader.bytes().unwrap()).unwrap()
        else {
            panic!("not a configuration");
        };
        assert_eq!(configure.topics_max, Some(5));
        assert_eq!(configure.publish_rate, Some(0));
        assert_eq!(configure.bytes_rate, None);
        assert!(configure_frames(b"").is_ok());
    }

    #[test]
    fn a_body_that_is_no_quotas_is_told_why() {
        for (body, told) in [
            (&b"[]"[..], "must be a JSON object of quotas"),
            (b"{", "must be a JSON object of quotas"),
            (b"\xff", "must be a JSON object of quotas"),
            (b"{\"topics\":1}", "unknown quota \"topics\""),
            (
                b"{\"topics_max\":\"1\"}",
                "\"topics_max\" must be an integer from 0, not a string",
            ),
            (
                b"{\"topics_max\":-1}",
                "\"topics_max\" must be an integer from 0",
            ),
        ] {
            let problem = configure_frames(body).unwrap_err();
            assert_eq!((problem.status, problem.code), (400, "invalid_argument"));
            assert!(problem.message.contains(told), "{}", problem.message);
        }
    }
}
