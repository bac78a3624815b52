//! Who may come in: tokens per namespace, and the origins of web pages.
//!
//! Without tokens everybody who reaches the port may do everything, so the port is then on loopback alone, and the
//! `Host` that a browser names must be loopback too: otherwise any web page could reach the broker through a
//! name that its owner points at 127.0.0.1.

use core::net::IpAddr;
use std::collections::BTreeMap;

use axum::http::{HeaderMap, header};
use dunlin_core::http::{
    FORBIDDEN_ORIGIN, Identity, Problem, Route, UNAUTHORISED, query_parameter,
};
use dunlin_core::{Claims, Rights};

/// The rules of one server.
#[derive(Clone, Debug, Default)]
pub struct Access {
    tokens: BTreeMap<String, Vec<String>>,
    /// Those that open every namespace, and make and delete them.
    operators: Vec<String>,
    origins: Vec<String>,
}

/// A `--token`, `--operator-token` or `--allow-origin` that cannot be used; the text says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessError(pub String);

impl Access {
    /// `tokens` are `NAMESPACE=TOKEN`; `operators` are tokens alone; `origins` are those of web pages, as browsers spell
    /// them.
    pub fn new(
        tokens: &[String],
        operators: &[String],
        origins: &[String],
    ) -> Result<Self, AccessError> {
        let mut access = Self::default();
        for pair in tokens {
            let (namespace, token) = pair
                .split_once('=')
                .filter(|(namespace, token)| !namespace.is_empty() && !token.is_empty())
                .ok_or_else(|| {
                    AccessError(
                        "--token is not NAMESPACE=TOKEN, both with at least one character"
                            .to_owned(),
                    )
                })?;
            if token.bytes().any(|byte| !byte.is_ascii_graphic()) {
                return Err(AccessError(format!(
                    "--token of namespace \"{namespace}\" has a character that no header can carry; use visible ASCII"
                )));
            }
            let tokens = access.tokens.entry(namespace.to_owned()).or_default();
            tokens.push(token.to_owned());
        }
        for token in operators {
            if token.is_empty() || token.bytes().any(|byte| !byte.is_ascii_graphic()) {
                return Err(AccessError(
                    "--operator-token is empty or has a character that no header can carry; use visible ASCII"
                        .to_owned(),
                ));
            }
            access.operators.push(token.clone());
        }
        for origin in origins {
            let host = origin
                .strip_prefix("https://")
                .or_else(|| origin.strip_prefix("http://"));
            if host.is_none_or(|host| host.is_empty() || host.contains('/')) {
                return Err(AccessError(format!(
                    "--allow-origin {origin} is not an origin; write it like https://example.com, without a path"
                )));
            }
            access.origins.push(origin.to_ascii_lowercase());
        }
        Ok(access)
    }

    /// Whether everybody may come in.
    pub fn is_open(&self) -> bool {
        self.tokens.is_empty() && self.operators.is_empty()
    }

    /// Whether namespaces are made by operators alone.
    pub fn has_operators(&self) -> bool {
        !self.operators.is_empty()
    }

    /// The origin that the answer has to allow, if the request comes from a web page.
    pub(crate) fn check_origin<'h>(
        &self,
        headers: &'h HeaderMap,
    ) -> Result<Option<&'h str>, Problem> {
        let text = |name| {
            let value = headers.get(name)?;
            Some(value.to_str().unwrap_or("?"))
        };
        let host = text(header::HOST).unwrap_or_default();
        let Some(origin) = text(header::ORIGIN) else {
            if self.is_open() && !is_loopback(host) {
                return Err(forbidden(format!(
                    "host \"{host}\" is not a loopback name; without --token the broker answers only to localhost and 127.0.0.1"
                )));
            }
            return Ok(None);
        };
        let lower = origin.to_ascii_lowercase();
        let origin_host = lower.split_once("://").map_or("", |(_, host)| host);
        let same = !self.is_open() && origin_host == host.to_ascii_lowercase();
        if same || is_loopback(origin_host) || self.origins.contains(&lower) {
            Ok(Some(origin))
        } else {
            Err(forbidden(format!(
                "pages of \"{origin}\" may not use this broker; start it with --allow-origin {origin}"
            )))
        }
    }

    /// What a request may do that asks for all namespaces: `among` is a name that it enters none of them by.
    pub(crate) fn operator(
        &self,
        route: &Route,
        among: &str,
        headers: &HeaderMap,
        query: &str,
    ) -> Result<Claims, Problem> {
        let claims = self.claims(route, among, headers, query)?;
        if claims.rights.contains(Rights::OPERATE) {
            return Ok(claims);
        }
        Err(unauthorised("the token is not an operator's"))
    }

    /// What a request may do that asks for something in `namespace`, and who it is. Whoever holds a token of the
    /// namespace is believed: a server's token speaks for all its users.
    pub(crate) fn claims(
        &self,
        route: &Route,
        namespace: &str,
        headers: &HeaderMap,
        query: &str,
    ) -> Result<Claims, Problem> {
        let all = Rights(Rights::ALL.0 | Rights::OPERATE.0);
        // Where everybody may do everything, who comes to use a namespace is still kept to its quotas.
        let mut rights = match route {
            _ if !self.is_open() => all,
            Route::Namespaces => all,
            Route::Command { action, .. } if action.operates() => all,
            _ => Rights::ALL,
        };
        if !self.is_open() {
            let bearer = headers
                .get(header::AUTHORIZATION)
                .and_then(|value| value.to_str().ok())
                .and_then(|value| value.split_once(' '))
                .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
                .map(|(_, token)| token.trim().to_owned());
            let parameter = || query_parameter(query, "token").map(|token| token.into_owned());
            let token = bearer.or_else(parameter).ok_or_else(|| {
                unauthorised(
                    "a token is needed; send the header Authorization: Bearer TOKEN, or ?token=TOKEN",
                )
            })?;
            let is_one_of = |known: &[String]| known.iter().any(|known| same_bytes(known, &token));
            let known = self.tokens.get(namespace).map_or(&[][..], Vec::as_slice);
            if is_one_of(known) {
                rights = Rights::ALL;
            } else if !is_one_of(&self.operators) {
                // The same words for a wrong token and a namespace without one: neither is to be found out.
                return Err(unauthorised("the token is not one of this namespace"));
            }
        }
        let Identity { user, device } = route.identity(query)?;
        Ok(Claims {
            namespace: namespace.to_owned(),
            user,
            device,
            rights,
        })
    }
}

fn forbidden(message: String) -> Problem {
    Problem::new(403, FORBIDDEN_ORIGIN, message)
}

fn unauthorised(message: &str) -> Problem {
    Problem::new(401, UNAUTHORISED, message)
}

/// Compares in a time that does not tell how much is right.
fn same_bytes(left: &str, right: &str) -> bool {
    let differing = left
        .bytes()
        .zip(right.bytes())
        .fold(0, |differing, (left, right)| differing | (left ^ right));
    left.len() == right.len() && differing == 0
}

/// Whether `host`, with or without a port, is this very machine.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(name, _)| name),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let value = value.parse().unwrap();
            (name.clone(), value)
        });
        pairs.collect()
    }

    fn from(access: &Access, host: &str, origin: Option<&str>) -> bool {
        let mut pairs = vec![(header::HOST, host)];
        pairs.extend(origin.map(|origin| (header::ORIGIN, origin)));
        access.check_origin(&headers(&pairs)).is_ok()
    }

    #[test]
    fn an_open_broker_answers_to_loopback_alone() {
        let access = Access::new(&[], &[], &["https://app.example".to_owned()]).unwrap();
        for host in [
            "localhost:8787",
            "127.0.0.1",
            "127.9.9.9:1",
            "[::1]:8787",
            "a.localhost",
        ] {
            assert!(from(&access, host, None), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8787",
            "127.0.0.1.evil.example",
            "",
            "[::2]",
        ] {
            assert!(!from(&access, host, None), "{host}");
        }
        let host = "127.0.0.1:8787";
        for origin in [
            "http://localhost:5173",
            "http://127.0.0.1:8787",
            "https://APP.example",
        ] {
            assert!(from(&access, host, Some(origin)), "{origin}");
        }
        for origin in [
            "null",
            "https://evil.example",
            "http://localhost.evil.example",
            "",
        ] {
            assert!(!from(&access, host, Some(origin)), "{origin}");
        }
        assert!(!from(
            &access,
            "evil.example:1",
            Some("http://evil.example:1")
        ));
    }

    #[test]
    fn a_broker_with_tokens_trusts_its_own_pages() {
        let access = Access::new(&["main=secret".to_owned()], &[], &[]).unwrap();
        assert!(from(&access, "broker.example", None));
        assert!(from(
            &access,
            "broker.example",
            Some("https://broker.example")
        ));
        assert!(!from(
            &access,
            "broker.example",
            Some("https://evil.example")
        ));
    }

    #[test]
    fn a_token_opens_its_namespace_and_no_other() {
        let tokens = ["main=one", "main=two", "other=three"].map(String::from);
        let access = Access::new(&tokens, &[], &[]).unwrap();
        let bearer = |token: &str| headers(&[(header::AUTHORIZATION, token)]);
        let none = HeaderMap::new();
        for (namespace, headers, query, expected) in [
            ("main", bearer("Bearer one"), "", true),
            ("main", bearer("bearer two"), "", true),
            ("main", none.clone(), "from=x&token=two", true),
            ("main", bearer("Bearer three"), "", false),
            ("main", bearer("Bearer on"), "", false),
            ("main", bearer("Basic one"), "", false),
            ("main", bearer("Bearer wrong"), "token=one", false),
            ("main", none.clone(), "", false),
            ("unknown", bearer("Bearer one"), "", false),
        ] {
            let path = format!("/v1/{namespace}/connect");
            let route = Route::parse("GET", &path).unwrap().unwrap();
            let claims = access.claims(&route, namespace, &headers, query);
            assert_eq!(claims.is_ok(), expected, "{namespace} {headers:?} {query}");
            if let Err(problem) = claims {
                assert_eq!((problem.status, problem.code), (401, UNAUTHORISED));
            }
        }
    }

    #[test]
    fn an_operator_opens_every_namespace_and_a_tenant_no_operation() {
        let operators = ["op".to_owned()];
        let access = Access::new(&["main=one".to_owned()], &operators, &[]).unwrap();
        let rights = |namespace: &str, token: &str| {
            let path = format!("/v1/namespaces/{namespace}");
            let route = Route::parse("PUT", &path).unwrap().unwrap();
            let query = format!("token={token}");
            let claims = access.claims(&route, namespace, &HeaderMap::new(), &query);
            claims.map(|claims| claims.rights.0).ok()
        };
        let all = Rights::ALL.0;
        assert_eq!(rights("main", "one"), Some(all));
        assert_eq!(rights("main", "op"), Some(all | Rights::OPERATE.0));
        assert_eq!(rights("new", "op"), Some(all | Rights::OPERATE.0));
        assert_eq!(rights("new", "one"), None);
        let route = Route::parse("GET", "/v1/namespaces").unwrap().unwrap();
        let lists = |token: &str| {
            let query = format!("token={token}");
            access.operator(&route, "main", &HeaderMap::new(), &query)
        };
        assert!(lists("op").is_ok());
        assert_eq!(lists("one").unwrap_err().status, 401);
        for token in ["", "a b", "ü"] {
            let told = Access::new(&[], &[token.to_owned()], &[]).unwrap_err().0;
            assert!(told.contains("--operator-token"), "{told}");
        }
    }

    #[test]
    fn who_asks_is_believed_once_the_token_was_seen() {
        let access = Access::new(&["main=secret".to_owned()], &[], &[]).unwrap();
        let route = Route::parse("GET", "/v1/main/topics/a").unwrap().unwrap();
        let claims = |query: &str| access.claims(&route, "main", &HeaderMap::new(), query);
        let ann = claims("token=secret&user=ann&device=phone").unwrap();
        assert_eq!((&*ann.user, &*ann.device), ("ann", "phone"));
        let nobody = claims("token=secret").unwrap();
        assert_eq!((&*nobody.user, &*nobody.device), ("", ""));
        assert_eq!(claims("user=ann").unwrap_err().code, UNAUTHORISED);
        assert_eq!(claims("token=secret&device=phone").unwrap_err().status, 400);
    }

    #[test]
    fn a_rule_that_cannot_be_used_is_told() {
        for token in ["main", "=x", "main=", "main=ü", "main=a b"] {
            let told = Access::new(&[token.to_owned()], &[], &[]).unwrap_err().0;
            assert!(told.contains("--token"), "{told}");
            assert!(!told.contains('ü'), "a secret is never shown: {told}");
        }
        for origin in ["example.com", "https://", "https://a/b", "ftp://a"] {
            let told = Access::new(&[], &[], &[origin.to_owned()]).unwrap_err().0;
            assert!(told.contains(origin), "{told}");
        }
    }
}
