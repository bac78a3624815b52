//! Who a request says that it comes from.

use alloc::string::String;

use super::problem::Problem;
use super::query::Query;
use super::route::Route;
use crate::connection::check_identity;

/// A user and a device, each empty where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user, decoded.
    pub user: String,
    /// The user's device, decoded.
    pub device: String,
}

impl Route {
    /// Reads `user` and `device` from the raw query of a request that was let in, and refuses what cannot be one. Of a
    /// WebSocket the broker refuses it, by a close whose reason web pages can read, as they cannot that of a response.
    pub fn identity(&self, query: &str) -> Result<Identity, Problem> {
        let query = Query::of_identity(query)?;
        let name = |parameter| match query.get(parameter) {
            Some("") => Err(Problem::invalid(alloc::format!(
                "the parameter {parameter} is empty; leave it out, or name one"
            ))),
            name => Ok(name.unwrap_or_default().into()),
        };
        let (user, device): (String, String) = (name("user")?, name("device")?);
        if !matches!(self, Self::Connect { .. }) {
            check_identity(&user, &device).map_err(|refusal| Problem::invalid(refusal.message))?;
        }
        Ok(Identity { user, device })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    fn identity(path: &str, query: &str) -> Result<(String, String), (u16, String)> {
        let route = Route::parse("GET", path).unwrap().unwrap();
        match route.identity(query) {
            Ok(Identity { user, device }) => Ok((user, device)),
            Err(problem) => Err((problem.status, problem.message)),
        }
    }

    #[test]
    fn a_request_says_who_it_is() {
        let longest = "u".repeat(256);
        for (query, user, device) in [
            ("", "", ""),
            ("from=latest&limit=1", "", ""),
            ("user=a%26b&token=t", "a&b", ""),
            (
                "device=phone&from=latest&user=%C3%BC+1",
                "\u{fc}+1",
                "phone",
            ),
            (&format!("user={longest}"), longest.as_str(), ""),
        ] {
            let expected = Ok((user.into(), device.into()));
            assert_eq!(identity("/v1/chat/topics/a", query), expected, "{query}");
        }
    }

    #[test]
    fn who_cannot_be_is_refused_in_words() {
        let long = format!("user=a&device={}", "d".repeat(257));
        for (query, why, also_sockets) in [
            (
                "user=",
                "the parameter user is empty; leave it out, or name one",
                true,
            ),
            (
                "user=a&device",
                "the parameter device is empty; leave it out, or name one",
                true,
            ),
            (
                "user=a&user=a",
                "the parameter user stands twice; say it once",
                true,
            ),
            (
                "user=%zz",
                "user \"%zz\" has a % without two hexadecimal digits; write %25",
                true,
            ),
            (
                "user=%ff",
                "user \"%ff\" is not UTF-8 once its escapes are decoded",
                true,
            ),
            (
                "device=phone",
                "a device is a user's; name the user too",
                false,
            ),
            (
                "user=a%0Ab",
                "the user has the control character U+000A; leave it out",
                false,
            ),
            (
                "user=a&device=%C2%85",
                "the device has the control character U+0085; leave it out",
                false,
            ),
            (&long, "the device has 257 bytes; use at most 256", false),
        ] {
            let refused = Err((400, why.into()));
            assert_eq!(identity("/v1/chat/topics/a", query), refused, "{query}");
            let connect = identity("/v1/chat/connect", query);
            assert_eq!(connect.is_err(), also_sockets, "{query}: {connect:?}");
        }
    }
}
