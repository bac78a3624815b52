//! Texts of a URL or a header as values: escapes, numbers, and queries whose parameters are all known.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::ToString as _;
use alloc::vec::Vec;

use percent_encoding::percent_decode_str;

use super::problem::{MALFORMED_REQUEST, Problem};

/// The parameter that opens a namespace.
const TOKEN: &str = "token";

/// The parameters that say who asks.
const IDENTITY: [&str; 2] = ["user", "device"];

/// The decoded parameters of a query, each known and named once.
pub(super) struct Query<'q> {
    pairs: Vec<(&'q str, Cow<'q, str>)>,
}

impl<'q> Query<'q> {
    /// Who asks is passed over: the host looked at that before.
    pub(super) fn parse(query: &'q str, known: &[&str]) -> Result<Self, Problem> {
        let asked = |name: &&str| *name != TOKEN && !IDENTITY.contains(name);
        let query = Self::of(query, asked)?;
        let mut names = query.pairs.iter().map(|(name, _)| name);
        if let Some(name) = names.find(|name| !known.contains(*name)) {
            let known = match known {
                [] => "there is none here".to_string(),
                _ => format!("known are {}", known.join(", ")),
            };
            return Err(Problem::invalid(format!(
                "unknown parameter \"{name}\"; {known}"
            )));
        }
        Ok(query)
    }

    /// Only who asks.
    pub(super) fn of_identity(query: &'q str) -> Result<Self, Problem> {
        Self::of(query, |name| IDENTITY.contains(name))
    }

    fn of(query: &'q str, is_wanted: impl Fn(&&str) -> bool) -> Result<Self, Problem> {
        let mut pairs: Vec<(&str, Cow<'_, str>)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !is_wanted(&name) {
                continue;
            }
            if pairs.iter().any(|(earlier, _)| *earlier == name) {
                return Err(Problem::invalid(format!(
                    "the parameter {name} stands twice; say it once"
                )));
            }
            pairs.push((name, decode(value, name)?));
        }
        Ok(Self { pairs })
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.pairs.iter().find(|(known, _)| *known == name)?;
        Some(value)
    }

    pub(super) fn u64(&self, name: &str) -> Result<Option<u64>, Problem> {
        self.get(name)
            .map(|value| parse_u64(&format!("parameter {name}"), value))
            .transpose()
    }

    /// The parameter `limit`.
    pub(super) fn limit(&self) -> Result<Option<u64>, Problem> {
        match self.u64("limit")? {
            Some(0) => Err(Problem::invalid(
                "limit 0 asks for nothing; ask for at least 1",
            )),
            limit => Ok(limit),
        }
    }

    pub(super) fn u32(&self, name: &str) -> Result<Option<u32>, Problem> {
        let Some(wide) = self.u64(name)? else {
            return Ok(None);
        };
        u32::try_from(wide).map(Some).map_err(|_| {
            Problem::invalid(format!("{name} {wide} is too large; at most {}", u32::MAX))
        })
    }
}

/// The value of parameter `name` in a raw query, decoded; what a host needs for `token`.
pub fn query_parameter<'q>(query: &'q str, name: &str) -> Option<Cow<'q, str>> {
    let (_, value) = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(known, _)| *known == name)?;
    decode(value, name).ok()
}

pub(super) fn parse_u64(what: &str, value: &str) -> Result<u64, Problem> {
    // `u64::from_str` would also take a leading plus sign.
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| value.parse().ok()).flatten().ok_or_else(|| {
        Problem::invalid(format!(
            "{what} is \"{value}\"; it must be a whole number from 0 to {}",
            u64::MAX
        ))
    })
}

pub(super) fn decode<'t>(text: &'t str, what: &str) -> Result<Cow<'t, str>, Problem> {
    let malformed =
        |why: &str| Problem::new(400, MALFORMED_REQUEST, format!("{what} \"{text}\" {why}"));
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|&byte| byte == b'%') {
        rest = match rest.get(at + 1..at + 3) {
            Some(hex) if hex.iter().all(u8::is_ascii_hexdigit) => &rest[at + 3..],
            _ => {
                return Err(malformed(
                    "has a % without two hexadecimal digits; write %25",
                ));
            }
        };
    }
    percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| malformed("is not UTF-8 once its escapes are decoded"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_in_any_query() {
        assert_eq!(
            query_parameter("filter=a&token=s%2Fx", "token").as_deref(),
            Some("s/x")
        );
        assert_eq!(query_parameter("tokens=1", "token"), None);
    }
}
