//! Who may ask for what: from the parts of a request to a route, or to the answer that refuses it.

use std::borrow::Cow;

use dunlin_core::http::{self, Problem, Route};
use dunlin_core::{Encoding, Rights};

use crate::origins::Origins;
use crate::tokens::{self, OperatorToken, Tokens};

/// The longest URL that is read, in bytes.
pub(crate) const URL_BYTES_MAX: usize = 16 * 1024;

/// What the deployment was told.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    pub(crate) tokens: Tokens,
    /// What opens every namespace, and makes and deletes them.
    pub(crate) operator: Option<OperatorToken>,
    pub(crate) origins: Origins,
}

impl Settings {
    /// Reads the texts of `DUNLIN_TOKENS`, `DUNLIN_OPERATOR_TOKEN` and `DUNLIN_ORIGINS`.
    pub(crate) fn parse(
        tokens: Option<&str>,
        operator: Option<&str>,
        origins: Option<&str>,
    ) -> Result<Self, Problem> {
        let misconfigured = |message| Problem::new(500, http::MISCONFIGURED, message);
        Ok(Self {
            tokens: tokens
                .map_or_else(|| Ok(Tokens::default()), Tokens::parse)
                .map_err(misconfigured)?,
            operator: operator
                .map(OperatorToken::parse)
                .transpose()
                .map_err(misconfigured)?,
            origins: Origins::parse(origins.unwrap_or("")).map_err(misconfigured)?,
        })
    }

    fn is_operator(&self, token: &str) -> bool {
        let operator = self.operator.as_ref();
        operator.is_some_and(|operator| operator.is(token))
    }
}

/// The parts of a URL that the gateway looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target<'u> {
    /// Host and port.
    pub(crate) host: &'u str,
    /// The raw path.
    pub(crate) path: &'u str,
    /// The raw query, without the question mark.
    pub(crate) query: &'u str,
}

impl<'u> Target<'u> {
    /// Takes apart a URL that the runtime has already normalised.
    pub(crate) fn parse(url: &'u str) -> Result<Self, Problem> {
        if url.len() > URL_BYTES_MAX {
            return Err(Problem::new(
                414,
                "too_large",
                format!(
                    "the URL has {} bytes, at most {URL_BYTES_MAX} are read",
                    url.len()
                ),
            ));
        }
        let url = url.split_once("://").map_or(url, |(_, rest)| rest);
        let url = url.split_once('#').map_or(url, |(rest, _)| rest);
        let (url, query) = url.split_once('?').unwrap_or((url, ""));
        let at = url.find('/').unwrap_or(url.len());
        let (host, path) = url.split_at(at);
        Ok(Self { host, path, query })
    }
}

/// A request, as far as it decides who may come in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'r> {
    pub(crate) method: &'r str,
    pub(crate) target: Target<'r>,
    pub(crate) origin: Option<&'r str>,
    pub(crate) authorization: Option<&'r str>,
}

/// What a request that came in asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// A browser asks whether a page of another host may ask at all.
    Preflight,
    /// Something of the API.
    Route(Route),
    /// Something else, a file of the console perhaps.
    Other,
}

impl Asked<'_> {
    /// Lets the request in, or says why not. Only `/healthz` answers whatever the settings are.
    pub(crate) fn admit(&self, settings: &Result<Settings, Problem>) -> Result<Admitted, Problem> {
        let route = Route::parse(self.method, self.target.path);
        if let Some(Ok(Route::Healthz)) = route {
            return Ok(Admitted::Route(Route::Healthz));
        }
        let settings = settings.as_ref().map_err(Problem::clone)?;
        if settings.tokens.is_empty() && settings.operator.is_none() {
            return Err(Problem::new(
                401,
                http::UNAUTHORISED,
                "no token is configured, so nobody may come in: set the secret DUNLIN_TOKENS to {\"namespace\":\"token\"}",
            ));
        }
        self.check_origin(&settings.origins)?;
        if self.method == "OPTIONS" {
            return Ok(Admitted::Preflight);
        }
        let Some(route) = route else {
            return Ok(Admitted::Other);
        };
        let route = route?;
        let in_query = may_carry_token(&route);
        match route.namespace() {
            Some(namespace) => self.check_token(settings, Some(namespace), in_query)?,
            None if route == Route::Namespaces => self.check_token(settings, None, in_query)?,
            None => {}
        }
        Ok(Admitted::Route(route))
    }

    /// What a request may do that was let in.
    pub(crate) fn rights(&self, settings: &Result<Settings, Problem>, route: &Route) -> Rights {
        let token = self.token(may_carry_token(route)).ok().flatten();
        let is_operator = token.is_some_and(|token| {
            let settings = settings.as_ref().ok();
            settings.is_some_and(|settings| settings.is_operator(&token))
        });
        if is_operator {
            Rights(Rights::ALL.0 | Rights::OPERATE.0)
        } else {
            Rights::ALL
        }
    }

    fn check_origin(&self, origins: &Origins) -> Result<(), Problem> {
        match self.origin {
            Some(origin) if !origins.allow(origin, self.target.host) => Err(Problem::new(
                403,
                http::FORBIDDEN_ORIGIN,
                format!(
                    "pages of {origin:?} may not use this broker: add the origin to DUNLIN_ORIGINS"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// The token that the request carries, if any.
    fn token(&self, in_query: bool) -> Result<Option<Cow<'_, str>>, Problem> {
        if let Some(header) = self.authorization {
            let token = tokens::bearer(header).ok_or_else(|| {
                unauthorised("the header authorization must be `Bearer TOKEN`".into())
            })?;
            return Ok(Some(token.into()));
        }
        let query = || http::query_parameter(self.target.query, "token");
        Ok(in_query.then(query).flatten())
    }

    /// Refuses a token that opens neither the namespace nor, as the operator's, all of them.
    fn check_token(
        &self,
        settings: &Settings,
        namespace: Option<&str>,
        in_query: bool,
    ) -> Result<(), Problem> {
        let what = namespace.map_or_else(
            || "the list of namespaces".to_owned(),
            |namespace| format!("namespace {namespace:?}"),
        );
        let Some(token) = self.token(in_query)? else {
            let or = if in_query {
                " or the parameter token"
            } else {
                ""
            };
            return Err(unauthorised(format!(
                "a token for {what} is needed: send the header `authorization: Bearer TOKEN`{or}"
            )));
        };
        let opens = |namespace| settings.tokens.open(namespace, &token);
        if settings.is_operator(&token) || namespace.is_some_and(opens) {
            Ok(())
        } else {
            Err(unauthorised(format!("the token does not open {what}")))
        }
    }
}

fn unauthorised(message: String) -> Problem {
    Problem::new(401, http::UNAUTHORISED, message)
}

/// Browsers cannot send a header with a WebSocket or an EventSource. Nothing else takes a token from the URL, where it
/// is easily seen by others.
const fn may_carry_token(route: &Route) -> bool {
    matches!(route, Route::Connect { .. } | Route::Subscribe { .. })
}

/// Which encoding a WebSocket will speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spoken {
    /// As the object is told.
    pub(crate) encoding: &'static str,
    /// The subprotocol to answer with; none where the client named none.
    pub(crate) subprotocol: Option<&'static str>,
}

impl Spoken {
    /// Chooses from what the headers `upgrade` and `sec-websocket-protocol` say; the client's first known wish holds.
    pub(crate) fn choose(upgrade: Option<&str>, offered: Option<&str>) -> Result<Self, Problem> {
        if !upgrade.is_some_and(|to| to.eq_ignore_ascii_case("websocket")) {
            return Err(Problem::new(
                426,
                http::UPGRADE_REQUIRED,
                "this is a WebSocket: connect with a WebSocket client, or use /v1/{namespace}/subscribe for events over HTTP",
            ));
        }
        let offered = offered.into_iter().flat_map(|offered| offered.split(','));
        let (encoding, subprotocol) = http::subprotocol(offered.map(str::trim))?;
        let encoding = match encoding {
            Encoding::Binary => "binary",
            Encoding::Json => "json",
        };
        Ok(Self {
            encoding,
            subprotocol,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";
    const OTHER: &str = "fedcba9876543210";

    fn settings() -> Result<Settings, Problem> {
        Settings::parse(
            Some(&format!(r#"{{"chat":"{TOKEN}","other":"{OTHER}"}}"#)),
            None,
            Some("https://app.example"),
        )
    }

    fn asked<'r>(method: &'r str, url: &'r str) -> Asked<'r> {
        Asked {
            method,
            target: Target::parse(url).expect("a short URL"),
            origin: None,
            authorization: None,
        }
    }

    fn refusal(asked: &Asked<'_>, settings: &Result<Settings, Problem>) -> (u16, &'static str) {
        let problem = asked.admit(settings).expect_err("refused");
        (problem.status, problem.code)
    }

    #[test]
    fn a_url_comes_apart() {
        let target = Target::parse("https://a.example:8443/v1/x?y=1?&z#f").expect("a short URL");
        let expected = Target {
            host: "a.example:8443",
            path: "/v1/x",
            query: "y=1?&z",
        };
        assert_eq!(target, expected);
        let bare = Target::parse("http://a").expect("a short URL");
        assert_eq!((bare.host, bare.path, bare.query), ("a", "", ""));
    }

    #[test]
    fn a_long_url_is_refused_with_its_length() {
        let url = format!("http://a/{}", "x".repeat(URL_BYTES_MAX));
        let problem = Target::parse(&url).expect_err("too long");
        assert_eq!((problem.status, problem.code), (414, "too_large"));
        assert!(problem.message.contains(&url.len().to_string()));
    }

    #[test]
    fn without_tokens_only_healthz_answers() {
        let closed = Settings::parse(None, None, None);
        for path in [
            "/",
            "/readyz",
            "/v1/chat/topics/a",
            "/v1/chat/connect?token=",
            "/v1/",
        ] {
            let url = format!("http://d{path}");
            assert_eq!(
                refusal(&asked("GET", &url), &closed),
                (401, "unauthorised"),
                "{path}"
            );
        }
        assert_eq!(
            refusal(&asked("OPTIONS", "http://d/"), &closed),
            (401, "unauthorised")
        );
        let healthz = asked("GET", "http://d/healthz").admit(&closed);
        assert_eq!(healthz, Ok(Admitted::Route(Route::Healthz)));
    }

    #[test]
    fn settings_that_cannot_be_read_let_nobody_in() {
        for (tokens, origins) in [(Some("{"), None), (Some("{}"), Some("nonsense"))] {
            let wrong = Settings::parse(tokens, None, origins);
            assert_eq!(
                refusal(&asked("GET", "http://d/v1/chat/topics/a"), &wrong),
                (500, "misconfigured")
            );
            assert!(asked("GET", "http://d/healthz").admit(&wrong).is_ok());
        }
    }

    #[test]
    fn an_operator_opens_every_namespace_and_the_list_of_them() {
        const OPERATOR: &str = "operator-operator";
        let tokens = format!(r#"{{"chat":"{TOKEN}"}}"#);
        let settings = Settings::parse(Some(&tokens), Some(OPERATOR), None);
        let all = Rights::ALL.0;
        for (path, token, rights) in [
            ("namespaces", OPERATOR, Some(all | 32)),
            ("namespaces", TOKEN, None),
            ("namespaces/chat", OPERATOR, Some(all | 32)),
            ("namespaces/new", OPERATOR, Some(all | 32)),
            ("namespaces/chat", TOKEN, Some(all)),
            ("namespaces/new", TOKEN, None),
            ("chat/topics/a", OPERATOR, Some(all | 32)),
            ("chat/topics/a", TOKEN, Some(all)),
        ] {
            let (url, header) = (format!("http://d/v1/{path}"), format!("Bearer {token}"));
            let mut asked = asked("GET", &url);
            asked.authorization = Some(&header);
            let admitted = asked.admit(&settings);
            let told = match &admitted {
                Ok(Admitted::Route(route)) => Some(asked.rights(&settings, route).0),
                _ => None,
            };
            assert_eq!(told, rights, "{path} {token}");
        }
        assert!(Settings::parse(None, Some("short"), None).is_err());
        let alone = Settings::parse(None, Some(OPERATOR), None);
        assert_eq!(
            refusal(&asked("GET", "http://d/v1/chat/topics/a"), &alone),
            (401, "unauthorised")
        );
    }

    #[test]
    fn a_token_in_the_header_opens_everything_of_its_namespace() {
        let header = format!("Bearer {TOKEN}");
        for (method, path) in [
            ("GET", "connect"),
            ("GET", "subscribe?filter=a"),
            ("GET", "topics/a"),
            ("POST", "topics/a"),
        ] {
            let url = format!("http://d/v1/chat/{path}");
            let mut asked = asked(method, &url);
            asked.authorization = Some(&header);
            assert!(
                matches!(asked.admit(&settings()), Ok(Admitted::Route(_))),
                "{path}"
            );
            let elsewhere = format!("http://d/v1/other/{path}");
            asked.target = Target::parse(&elsewhere).expect("a short URL");
            assert_eq!(
                refusal(&asked, &settings()),
                (401, "unauthorised"),
                "{path}"
            );
        }
    }

    #[test]
    fn a_token_in_the_url_opens_only_what_browsers_cannot_ask_otherwise() {
        for (method, path, opens) in [
            ("GET", "connect?", true),
            ("GET", "subscribe?filter=a&", true),
            ("GET", "topics/a?", false),
            ("POST", "topics/a?", false),
        ] {
            let url = format!("http://d/v1/chat/{path}token={TOKEN}");
            assert_eq!(
                asked(method, &url).admit(&settings()).is_ok(),
                opens,
                "{path}"
            );
            let wrong = format!("http://d/v1/chat/{path}token={OTHER}");
            assert!(asked(method, &wrong).admit(&settings()).is_err(), "{path}");
        }
    }

    #[test]
    fn a_wrong_header_is_not_saved_by_the_url() {
        let url = format!("http://d/v1/chat/connect?token={TOKEN}");
        for header in ["Basic abc", "Bearer", &format!("Bearer {OTHER}")] {
            let mut asked = asked("GET", &url);
            asked.authorization = Some(header);
            assert_eq!(
                refusal(&asked, &settings()),
                (401, "unauthorised"),
                "{header}"
            );
        }
    }

    #[test]
    fn pages_come_in_by_their_origin() {
        for (origin, allowed) in [
            ("https://app.example", true),
            ("https://d", true),
            ("https://evil.example", false),
            ("null", false),
        ] {
            let url = format!("https://d/v1/chat/connect?token={TOKEN}");
            let mut asked = asked("GET", &url);
            asked.origin = Some(origin);
            assert_eq!(asked.admit(&settings()).is_ok(), allowed, "{origin}");
            asked.method = "OPTIONS";
            assert_eq!(asked.admit(&settings()).is_ok(), allowed, "{origin}");
        }
    }

    #[test]
    fn what_is_no_api_is_left_to_the_console() {
        assert_eq!(
            asked("GET", "http://d/index.html").admit(&settings()),
            Ok(Admitted::Other)
        );
    }

    #[test]
    fn the_first_known_subprotocol_is_spoken() {
        let choose = |offered| Spoken::choose(Some("WebSocket"), offered);
        assert_eq!(choose(None).expect("json").encoding, "json");
        assert_eq!(choose(None).expect("json").subprotocol, None);
        let both = choose(Some("dunlin.v9, dunlin.v1.binary, dunlin.v1.json")).expect("binary");
        assert_eq!(
            (both.encoding, both.subprotocol),
            ("binary", Some("dunlin.v1.binary"))
        );
        assert_eq!(
            choose(Some("dunlin.v1.json")).expect("json").encoding,
            "json"
        );
        let unknown = choose(Some("mqtt")).expect_err("unknown");
        assert_eq!((unknown.status, unknown.code), (400, "unsupported_version"));
        assert!(unknown.message.contains("\"mqtt\""));
    }

    #[test]
    fn a_plain_request_for_a_websocket_is_told_to_upgrade() {
        for upgrade in [None, Some("h2c")] {
            let problem = Spoken::choose(upgrade, None).expect_err("no upgrade");
            assert_eq!((problem.status, problem.code), (426, "upgrade_required"));
        }
    }
}
