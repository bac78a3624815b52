//! Who may come in: one bearer token per namespace, as the deployment was told.

use std::collections::BTreeMap;

/// The token of every namespace that is open. Without any, nobody gets in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    of: BTreeMap<String, String>,
}

/// Shorter tokens are refused: they can be guessed.
const TOKEN_BYTES_MIN: usize = 16;

impl Tokens {
    /// Reads `{"namespace":"token"}`. The refusal never repeats a token.
    pub(crate) fn parse(json: &str) -> Result<Self, String> {
        let of: BTreeMap<String, String> = serde_json::from_str(json).map_err(|error| {
            format!(
                "DUNLIN_TOKENS is not a JSON object of namespace to token (line {}, column {})",
                error.line(),
                error.column()
            )
        })?;
        for (namespace, token) in &of {
            if token.len() < TOKEN_BYTES_MIN {
                return Err(format!(
                    "DUNLIN_TOKENS: the token of {namespace:?} has {} bytes, at least {TOKEN_BYTES_MIN} are needed: make one with `openssl rand -hex 32`",
                    token.len()
                ));
            }
        }
        Ok(Self { of })
    }

    /// The namespaces that have one.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.of.keys().map(String::as_str)
    }

    /// Whether nobody can come in.
    pub(crate) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Whether `token` opens `namespace`. A namespace without a token answers like one with another token, and the
    /// time it takes tells nothing about the token.
    pub(crate) fn open(&self, namespace: &str, token: &str) -> bool {
        self.of
            .get(namespace)
            .is_some_and(|expected| equal_in_constant_time(expected.as_bytes(), token.as_bytes()))
    }
}

/// The token that opens every namespace, and makes and deletes them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OperatorToken(String);

impl OperatorToken {
    /// Takes the text of the setting. The refusal never repeats it.
    pub(crate) fn parse(token: &str) -> Result<Self, String> {
        if token.len() < TOKEN_BYTES_MIN {
            return Err(format!(
                "DUNLIN_OPERATOR_TOKEN has {} bytes, at least {TOKEN_BYTES_MIN} are needed: make one with `openssl rand -hex 32`",
                token.len()
            ));
        }
        Ok(Self(token.to_owned()))
    }

    /// Whether `token` is this one; the time it takes tells nothing about it.
    pub(crate) fn is(&self, token: &str) -> bool {
        equal_in_constant_time(self.0.as_bytes(), token.as_bytes())
    }
}

/// The token in an `Authorization` header.
pub(crate) fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_matches(' '))
}

fn equal_in_constant_time(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left
            .iter()
            .zip(right)
            .fold(0, |differences, (a, b)| differences | (a ^ b))
            == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn tokens() -> Tokens {
        Tokens::parse(&format!(r#"{{"chat":"{TOKEN}"}}"#)).expect("well formed")
    }

    #[test]
    fn a_token_opens_its_namespace_alone() {
        assert!(tokens().open("chat", TOKEN));
        assert!(!tokens().open("chat2", TOKEN));
        assert!(!tokens().open("chat", "0123456789abcdeF"));
        assert!(!tokens().open("chat", "0123456789abcde"));
        assert!(!tokens().open("chat", ""));
        assert!(tokens().namespaces().eq(["chat"]));
    }

    #[test]
    fn nothing_is_open_without_tokens() {
        assert!(Tokens::default().is_empty());
        assert!(Tokens::parse("{}").expect("well formed").is_empty());
        assert!(!Tokens::default().open("", ""));
    }

    #[test]
    fn a_short_token_is_refused_by_its_namespace() {
        let refusal = Tokens::parse(r#"{"chat":"hunter2"}"#).expect_err("too short");
        assert!(
            refusal.contains("\"chat\" has 7 bytes, at least 16"),
            "{refusal}"
        );
        assert!(!refusal.contains("hunter2"), "{refusal}");
    }

    #[test]
    fn what_is_no_object_of_tokens_is_refused_without_repeating_it() {
        for wrong in ["", "hunter2", "[\"hunter2\"]", r#"{"chat":["hunter2"]}"#] {
            let refusal = Tokens::parse(wrong).expect_err(wrong);
            assert!(
                refusal.starts_with("DUNLIN_TOKENS is not a JSON object of namespace to token")
            );
            assert!(!refusal.contains("hunter2"), "{refusal}");
        }
    }

    #[test]
    fn the_bearer_scheme_alone_is_read() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        assert_eq!(bearer("Basic abc"), None);
        assert_eq!(bearer("abc"), None);
    }
}
