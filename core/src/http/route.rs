//! What a method and a path ask for, and in which encoding.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::problem::{METHOD_NOT_ALLOWED, Problem, UNKNOWN_ROUTE, status_of};
use super::query::{decode, parse_u64};
use crate::error::ErrorCode;
use crate::input::Encoding;
use crate::namespace::{NAMESPACES, check_namespace};
use crate::protocol::frame::{SUBPROTOCOL_BINARY, SUBPROTOCOL_JSON};

/// What a method and a path ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Whether the process is alive.
    Healthz,
    /// Whether it takes new work.
    Readyz,
    /// A WebSocket to a namespace.
    Connect {
        /// The namespace, decoded.
        namespace: String,
    },
    /// A stream of events.
    Subscribe {
        /// The namespace, decoded.
        namespace: String,
    },
    /// The namespace as an archive.
    Export {
        /// The namespace, decoded.
        namespace: String,
    },
    /// The names of all namespaces.
    Namespaces,
    /// An archive becomes the namespace.
    Import {
        /// The namespace, decoded.
        namespace: String,
    },
    /// One command to the broker.
    Command {
        /// The namespace, decoded.
        namespace: String,
        /// Which.
        action: Action,
    },
}

/// What a request asks of the broker in one command, whose reply becomes the response. Names are decoded; the broker
/// judges them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Publish the body.
    Publish {
        /// Where to.
        topic: String,
    },
    /// Read stored messages.
    Read {
        /// Of which topic.
        topic: String,
    },
    /// Publish the body and wait for an answer.
    Request {
        /// Where to.
        topic: String,
    },
    /// List the names of consumer groups.
    ListGroups,
    /// Tell who is in a group and how far it is.
    DescribeGroup {
        /// Which group.
        group: String,
    },
    /// Read the dead letters of a group.
    ReadDeadLetters {
        /// Which group.
        group: String,
    },
    /// Deliver dead letters to their group again.
    ReplayDeadLetters {
        /// Which group.
        group: String,
    },
    /// List the messages that wait for their time.
    ListScheduled,
    /// Take back a message that waits for its time.
    CancelScheduled {
        /// Which message.
        schedule_id: u64,
    },
    /// List the rate limits.
    ListLimits,
    /// Show what waits for the session of the device that asks.
    ReadMailbox,
    /// List the users that are online.
    ListUsers,
    /// Tell whether a user is online.
    DescribeUser {
        /// Which user.
        user: String,
    },
    /// List the devices of a user.
    ListDevices {
        /// Of which user.
        user: String,
    },
    /// Send a user's devices away.
    Kick {
        /// Which user's.
        user: String,
        /// Which device, if not all of them.
        device: Option<String>,
    },
    /// List the routing rules.
    ListRules,
    /// Create a routing rule or change one, as the body says.
    ConfigureRule {
        /// Which rule.
        rule: String,
    },
    /// Delete a routing rule.
    DeleteRule {
        /// Which rule.
        rule: String,
    },
    /// Tell what routing rules would make of the body.
    Explain {
        /// Where it would be published to.
        topic: String,
    },
    /// Tell who is present.
    ReadPresence {
        /// On which topic.
        topic: String,
    },
    /// Tell the quotas of the namespace, and what it used.
    DescribeNamespace,
    /// Create the namespace, or set its quotas.
    ConfigureNamespace,
    /// Delete the namespace.
    DeleteNamespace,
}

impl Action {
    /// Whether it takes an operator.
    pub const fn operates(&self) -> bool {
        matches!(
            self,
            Self::DescribeNamespace | Self::ConfigureNamespace | Self::DeleteNamespace
        )
    }

    /// The methods of its path, as the header `allow` lists them.
    const fn allow(&self) -> &'static str {
        match self {
            Self::Publish { .. } | Self::Read { .. } => "GET, HEAD, POST",
            Self::Request { .. } | Self::ReplayDeadLetters { .. } | Self::Explain { .. } => "POST",
            Self::ConfigureRule { .. } | Self::DeleteRule { .. } => "DELETE, PUT",
            Self::CancelScheduled { .. }
            | Self::Kick {
                device: Some(_), ..
            } => "DELETE",
            Self::DescribeUser { .. } | Self::Kick { .. } => "DELETE, GET, HEAD",
            Self::DescribeNamespace | Self::ConfigureNamespace | Self::DeleteNamespace => {
                "GET, HEAD, PUT, DELETE"
            }
            Self::ListGroups
            | Self::DescribeGroup { .. }
            | Self::ReadDeadLetters { .. }
            | Self::ListScheduled
            | Self::ListLimits
            | Self::ListRules
            | Self::ReadMailbox
            | Self::ListUsers
            | Self::ListDevices { .. }
            | Self::ReadPresence { .. } => "GET, HEAD",
        }
    }
}

impl Route {
    /// The namespace that the request is about, if any.
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Healthz | Self::Readyz | Self::Namespaces => None,
            Self::Connect { namespace }
            | Self::Subscribe { namespace }
            | Self::Export { namespace }
            | Self::Import { namespace }
            | Self::Command { namespace, .. } => Some(namespace),
        }
    }

    /// Reads a method and the raw path of a URL. `None` means that no API lives there (a console may).
    pub fn parse(method: &str, path: &str) -> Option<Result<Self, Problem>> {
        let route = match path {
            "/healthz" => Self::Healthz,
            "/readyz" => Self::Readyz,
            "/v1/namespaces" | "/v1/namespaces/" => Self::Namespaces,
            _ => match Self::parse_versioned(method, path.strip_prefix("/v1/")?) {
                Ok(route) => route,
                Err(problem) => return Some(Err(problem)),
            },
        };
        let allow = match &route {
            Self::Command { action, .. } => action.allow(),
            Self::Export { .. } => "GET",
            Self::Import { .. } => "PUT",
            _ => "GET, HEAD",
        };
        let allowed = allow.split(", ").any(|allowed| allowed == method);
        Some(if allowed {
            Ok(route)
        } else {
            let message = format!("{method} is not possible on {path}; use {allow}");
            Err(Problem {
                allow: Some(allow),
                ..Problem::new(405, METHOD_NOT_ALLOWED, message)
            })
        })
    }

    fn parse_versioned(method: &str, path: &str) -> Result<Self, Problem> {
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        // No namespace is called so; there it is the list of them that is asked for one.
        let is_listed = first == NAMESPACES;
        let (namespace, rest) = match is_listed {
            true => rest.split_once('/').unwrap_or((rest, "")),
            false => (first, rest),
        };
        let namespace = decode(namespace, "namespace")?;
        check_namespace(&namespace).map_err(|refusal| {
            let code = refusal.code.as_str();
            Problem::new(status_of(code), code, refusal.message)
        })?;
        let namespace = namespace.into_owned();
        let unknown = || {
            Problem::new(
                404,
                UNKNOWN_ROUTE,
                format!(
                    "nothing is at /v1/{path}; there are connect, subscribe, topics/{{topic}}, requests/{{topic}}, presence/{{topic}}, groups, scheduled, limits, rules, explain/{{topic}}, mailbox, users, export and import below /v1/{{namespace}}/"
                ),
            )
        };
        if is_listed {
            let action = match (method, rest) {
                ("PUT", "") => Action::ConfigureNamespace,
                ("DELETE", "") => Action::DeleteNamespace,
                (_, "") => Action::DescribeNamespace,
                _ => return Err(unknown()),
            };
            return Ok(Self::Command { namespace, action });
        }
        let action = match rest.split_once('/').unwrap_or((rest, "")) {
            ("connect", "") => return Ok(Self::Connect { namespace }),
            ("subscribe", "") => return Ok(Self::Subscribe { namespace }),
            ("export", "") => return Ok(Self::Export { namespace }),
            ("import", "") => return Ok(Self::Import { namespace }),
            ("topics", topic) if !topic.is_empty() => {
                let topic = decode(topic, "topic")?.into_owned();
                if method == "POST" {
                    Action::Publish { topic }
                } else {
                    Action::Read { topic }
                }
            }
            ("requests", topic) if !topic.is_empty() => Action::Request {
                topic: decode(topic, "topic")?.into_owned(),
            },
            ("presence", topic) if !topic.is_empty() => Action::ReadPresence {
                topic: decode(topic, "topic")?.into_owned(),
            },
            ("groups", "") => Action::ListGroups,
            ("groups", rest) => {
                let (group, rest) = rest.split_once('/').unwrap_or((rest, ""));
                let group = decode(group, "group")?.into_owned();
                match rest {
                    "" => Action::DescribeGroup { group },
                    "dead-letters" => Action::ReadDeadLetters { group },
                    "dead-letters/replay" => Action::ReplayDeadLetters { group },
                    _ => return Err(unknown()),
                }
            }
            ("scheduled", "") => Action::ListScheduled,
            ("scheduled", id) => Action::CancelScheduled {
                schedule_id: parse_u64("the number of a scheduled message", id)?,
            },
            ("limits", "") => Action::ListLimits,
            ("mailbox", "") => Action::ReadMailbox,
            ("users", "") => Action::ListUsers,
            ("users", rest) => {
                let (user, rest) = rest.split_once('/').unwrap_or((rest, ""));
                let user = decode(user, "user")?.into_owned();
                match (rest, rest.strip_prefix("devices/")) {
                    ("", _) if method == "DELETE" => Action::Kick { user, device: None },
                    ("", _) => Action::DescribeUser { user },
                    ("devices" | "devices/", _) => Action::ListDevices { user },
                    (_, Some(device)) => Action::Kick {
                        user,
                        device: Some(decode(device, "device")?.into_owned()),
                    },
                    _ => return Err(unknown()),
                }
            }
            ("rules", "") => Action::ListRules,
            ("rules", rule) => {
                let rule = decode(rule, "rule")?.into_owned();
                if method == "DELETE" {
                    Action::DeleteRule { rule }
                } else {
                    Action::ConfigureRule { rule }
                }
            }
            ("explain", topic) if !topic.is_empty() => Action::Explain {
                topic: decode(topic, "topic")?.into_owned(),
            },
            _ => return Err(unknown()),
        };
        Ok(Self::Command { namespace, action })
    }
}

/// The encoding that a WebSocket speaks, and the subprotocol to answer with: the first of those that the client offers
/// which is known. JSON, and no subprotocol, where it offers none.
pub fn subprotocol<'o>(
    offered: impl IntoIterator<Item = &'o str>,
) -> Result<(Encoding, Option<&'static str>), Problem> {
    let mut unknown = Vec::new();
    for name in offered {
        match name {
            SUBPROTOCOL_BINARY => return Ok((Encoding::Binary, Some(SUBPROTOCOL_BINARY))),
            SUBPROTOCOL_JSON => return Ok((Encoding::Json, Some(SUBPROTOCOL_JSON))),
            _ => unknown.push(name),
        }
    }
    if unknown.is_empty() {
        return Ok((Encoding::Json, None));
    }
    let code = ErrorCode::UnsupportedVersion.as_str();
    Err(Problem::new(
        status_of(code),
        code,
        format!(
            "none of the subprotocols \"{}\" is known; offer {SUBPROTOCOL_BINARY} or {SUBPROTOCOL_JSON}",
            unknown.join(", ")
        ),
    ))
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString as _;

    use super::super::problem::MALFORMED_REQUEST;
    use super::*;

    fn route(method: &str, path: &str) -> Route {
        Route::parse(method, path).unwrap().unwrap()
    }

    fn refused(method: &str, path: &str) -> (u16, &'static str) {
        let problem = Route::parse(method, path).unwrap().unwrap_err();
        assert!(!problem.message.is_empty());
        (problem.status, problem.code)
    }

    #[test]
    fn a_topic_is_the_decoded_rest_of_the_path() {
        assert_eq!(
            route("POST", "/v1/main/topics/a/b%20c/%2B%C3%A9"),
            Route::Command {
                namespace: "main".into(),
                action: Action::Publish {
                    topic: "a/b c/+é".into()
                }
            }
        );
        assert_eq!(
            route("GET", "/v1/m%2dn/topics//a/"),
            Route::Command {
                namespace: "m-n".into(),
                action: Action::Read {
                    topic: "/a/".into()
                }
            }
        );
    }

    #[test]
    fn every_path_has_its_route() {
        let namespace = || "n".into();
        assert_eq!(route("GET", "/healthz"), Route::Healthz);
        assert_eq!(route("HEAD", "/readyz"), Route::Readyz);
        assert_eq!(
            route("GET", "/v1/n/connect"),
            Route::Connect {
                namespace: namespace()
            }
        );
        assert_eq!(
            route("GET", "/v1/n/subscribe"),
            Route::Subscribe {
                namespace: namespace()
            }
        );
        assert_eq!(
            route("GET", "/v1/n/export"),
            Route::Export {
                namespace: namespace()
            }
        );
        assert_eq!(
            route("PUT", "/v1/n/import"),
            Route::Import {
                namespace: namespace()
            }
        );
        assert_eq!(Route::parse("GET", "/"), None);
        assert_eq!(Route::parse("GET", "/v2/n/connect"), None);
        assert_eq!(Route::parse("GET", "/index.html"), None);
    }

    #[test]
    fn every_action_has_its_path() {
        let text = |text: &str| String::from(text);
        for (method, path, expected) in [
            (
                "POST",
                "requests/a/b",
                Action::Request { topic: text("a/b") },
            ),
            ("GET", "groups", Action::ListGroups),
            ("HEAD", "groups/", Action::ListGroups),
            (
                "GET",
                "groups/g%20h",
                Action::DescribeGroup { group: text("g h") },
            ),
            (
                "GET",
                "groups/g/dead-letters",
                Action::ReadDeadLetters { group: text("g") },
            ),
            (
                "POST",
                "groups/g/dead-letters/replay",
                Action::ReplayDeadLetters { group: text("g") },
            ),
            ("GET", "scheduled", Action::ListScheduled),
            (
                "DELETE",
                "scheduled/7",
                Action::CancelScheduled { schedule_id: 7 },
            ),
            ("GET", "limits", Action::ListLimits),
            ("GET", "mailbox", Action::ReadMailbox),
            ("HEAD", "users", Action::ListUsers),
            (
                "GET",
                "users/a%20b",
                Action::DescribeUser { user: text("a b") },
            ),
            (
                "GET",
                "users/a%2Fb/devices",
                Action::ListDevices { user: text("a/b") },
            ),
            (
                "DELETE",
                "users/a",
                Action::Kick {
                    user: text("a"),
                    device: None,
                },
            ),
            (
                "DELETE",
                "users/a/devices/p%2Fq",
                Action::Kick {
                    user: text("a"),
                    device: Some(text("p/q")),
                },
            ),
            ("GET", "rules", Action::ListRules),
            (
                "PUT",
                "rules/big%20ones",
                Action::ConfigureRule {
                    rule: text("big ones"),
                },
            ),
            ("DELETE", "rules/b", Action::DeleteRule { rule: text("b") }),
            (
                "POST",
                "explain/a/b",
                Action::Explain { topic: text("a/b") },
            ),
            (
                "GET",
                "presence/a/b%20c",
                Action::ReadPresence {
                    topic: text("a/b c"),
                },
            ),
        ] {
            let Route::Command { namespace, action } = route(method, &format!("/v1/n/{path}"))
            else {
                panic!("{path} is no command");
            };
            assert_eq!((namespace.as_str(), action), ("n", expected), "{path}");
        }
    }

    #[test]
    fn a_namespace_is_managed_in_the_list_of_them() {
        assert_eq!(route("GET", "/v1/namespaces"), Route::Namespaces);
        for (method, expected) in [
            ("GET", Action::DescribeNamespace),
            ("HEAD", Action::DescribeNamespace),
            ("PUT", Action::ConfigureNamespace),
            ("DELETE", Action::DeleteNamespace),
        ] {
            let Route::Command { namespace, action } = route(method, "/v1/namespaces/connect")
            else {
                panic!("{method} is no command");
            };
            assert_eq!((namespace.as_str(), action), ("connect", expected));
        }
    }

    #[test]
    fn a_wrong_path_is_refused_with_its_code() {
        let long = format!("/v1/{}/connect", "n".repeat(65));
        for (method, path, expected) in [
            ("GET", "/v1/", (404, "unknown_namespace")),
            ("GET", "/v1//connect", (404, "unknown_namespace")),
            ("GET", long.as_str(), (404, "unknown_namespace")),
            ("GET", "/v1/a%00b/connect", (404, "unknown_namespace")),
            ("GET", "/v1/a%ff/connect", (400, MALFORMED_REQUEST)),
            ("GET", "/v1/n/topics/a%", (400, MALFORMED_REQUEST)),
            ("GET", "/v1/n/topics/a%4", (400, MALFORMED_REQUEST)),
            ("GET", "/v1/n/topics/a%zz", (400, MALFORMED_REQUEST)),
            ("GET", "/v1/n", (404, UNKNOWN_ROUTE)),
            ("GET", "/v1/namespaces/n/topics", (404, UNKNOWN_ROUTE)),
            ("GET", "/v1/namespaces/N", (404, "unknown_namespace")),
            (
                "PUT",
                "/v1/namespaces/namespaces",
                (404, "unknown_namespace"),
            ),
            (
                "GET",
                "/v1/n%61mespaces/connect",
                (404, "unknown_namespace"),
            ),
            ("POST", "/v1/namespaces/n", (405, METHOD_NOT_ALLOWED)),
            ("DELETE", "/v1/namespaces", (405, METHOD_NOT_ALLOWED)),
            ("GET", "/v1/n/topics", (404, UNKNOWN_ROUTE)),
            ("GET", "/v1/n/topics/", (404, UNKNOWN_ROUTE)),
            ("GET", "/v1/n/connect/x", (404, UNKNOWN_ROUTE)),
            ("POST", "/v1/n/connect", (405, METHOD_NOT_ALLOWED)),
            ("DELETE", "/v1/n/topics/a", (405, METHOD_NOT_ALLOWED)),
            ("POST", "/healthz", (405, METHOD_NOT_ALLOWED)),
            ("POST", "/v1/n/requests", (404, UNKNOWN_ROUTE)),
            ("GET", "/v1/n/groups/g/members", (404, UNKNOWN_ROUTE)),
            ("GET", "/v1/n/groups/g/dead-letters/x", (404, UNKNOWN_ROUTE)),
            ("GET", "/v1/n/groups/%ff", (400, MALFORMED_REQUEST)),
            ("GET", "/v1/n/limits/user", (404, UNKNOWN_ROUTE)),
            ("GET", "/v1/n/users/a/phones", (404, UNKNOWN_ROUTE)),
            ("GET", "/v1/n/users/%ff", (400, MALFORMED_REQUEST)),
            (
                "DELETE",
                "/v1/n/users/a/devices/%ff",
                (400, MALFORMED_REQUEST),
            ),
            ("GET", "/v1/n/users/a/devices/p", (405, METHOD_NOT_ALLOWED)),
            ("DELETE", "/v1/n/users", (405, METHOD_NOT_ALLOWED)),
            ("DELETE", "/v1/n/mailbox", (405, METHOD_NOT_ALLOWED)),
            ("POST", "/v1/n/explain", (404, UNKNOWN_ROUTE)),
            ("PUT", "/v1/n/rules/%ff", (400, MALFORMED_REQUEST)),
            ("GET", "/v1/n/presence", (404, UNKNOWN_ROUTE)),
            ("GET", "/v1/n/presence/", (404, UNKNOWN_ROUTE)),
            ("GET", "/v1/n/presence/%ff", (400, MALFORMED_REQUEST)),
            ("DELETE", "/v1/n/scheduled/first", (400, "invalid_argument")),
            ("DELETE", "/v1/n/scheduled/-1", (400, "invalid_argument")),
        ] {
            assert_eq!(refused(method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn a_method_that_is_not_possible_is_answered_with_those_that_are() {
        for (method, path, allow) in [
            ("POST", "/healthz", "GET, HEAD"),
            ("POST", "/v1/n/subscribe", "GET, HEAD"),
            ("HEAD", "/v1/n/export", "GET"),
            ("POST", "/v1/n/import", "PUT"),
            ("GET", "/v1/n/import", "PUT"),
            ("DELETE", "/v1/n/topics/a", "GET, HEAD, POST"),
            ("GET", "/v1/n/requests/a", "POST"),
            ("POST", "/v1/n/groups", "GET, HEAD"),
            ("DELETE", "/v1/n/groups/g", "GET, HEAD"),
            ("DELETE", "/v1/n/groups/g/dead-letters", "GET, HEAD"),
            ("GET", "/v1/n/groups/g/dead-letters/replay", "POST"),
            ("DELETE", "/v1/n/scheduled", "GET, HEAD"),
            ("GET", "/v1/n/scheduled/7", "DELETE"),
            ("PUT", "/v1/n/limits", "GET, HEAD"),
            ("PUT", "/v1/n/rules", "GET, HEAD"),
            ("GET", "/v1/n/rules/r", "DELETE, PUT"),
            ("GET", "/v1/n/explain/a", "POST"),
            ("POST", "/v1/n/presence/a", "GET, HEAD"),
        ] {
            let problem = Route::parse(method, path).unwrap().unwrap_err();
            let allow = ("allow".into(), allow.to_string());
            assert_eq!(problem.response().headers, [allow], "{method} {path}");
        }
    }

    #[test]
    fn the_first_known_subprotocol_is_spoken() {
        assert_eq!(subprotocol([]), Ok((Encoding::Json, None)));
        assert_eq!(
            subprotocol(["dunlin.v9", "dunlin.v1.binary", "dunlin.v1.json"]),
            Ok((Encoding::Binary, Some(SUBPROTOCOL_BINARY)))
        );
        assert_eq!(
            subprotocol(["dunlin.v1.json"]),
            Ok((Encoding::Json, Some(SUBPROTOCOL_JSON)))
        );
        for offered in [&["mqtt"] as &[_], &["dunlin.v2.json", "mqtt"], &[""]] {
            let problem = subprotocol(offered.iter().copied()).unwrap_err();
            assert_eq!((problem.status, problem.code), (400, "unsupported_version"));
            assert!(problem.message.contains(&offered.join(", ")));
        }
    }
}
