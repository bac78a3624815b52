//! What is wrong with a request, and the statuses of all codes.

use alloc::string::{String, ToString as _};

use super::response::{Response, error_response};
use crate::error::ErrorCode;

/// The code of a path without an API.
pub const UNKNOWN_ROUTE: &str = "unknown_route";

/// The code of a method that the path does not have.
pub const METHOD_NOT_ALLOWED: &str = "method_not_allowed";

/// The code of a request without the token that it needs.
pub const UNAUTHORISED: &str = "unauthorised";

/// The code of a path, query or header that cannot be read.
pub const MALFORMED_REQUEST: &str = "malformed_request";

/// The code of a request for a WebSocket that is none.
pub const UPGRADE_REQUIRED: &str = "upgrade_required";

/// The code of a request from a web page that may not use the broker, or to a name that is not the broker's.
pub const FORBIDDEN_ORIGIN: &str = "forbidden_origin";

/// The code of a gateway whose settings cannot be read.
pub const MISCONFIGURED: &str = "misconfigured";

/// The codes that only HTTP has, with their statuses; those of the broker have [`status_of`].
pub const CODES: [(&str, u16); 7] = [
    (MALFORMED_REQUEST, 400),
    (UNAUTHORISED, 401),
    (FORBIDDEN_ORIGIN, 403),
    (UNKNOWN_ROUTE, 404),
    (METHOD_NOT_ALLOWED, 405),
    (UPGRADE_REQUIRED, 426),
    (MISCONFIGURED, 500),
];

/// Why a request cannot become a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The stable code.
    pub code: &'static str,
    /// What is wrong, which, and what to do.
    pub message: String,
    /// The methods that the path has, where the one of the request is not among them.
    pub allow: Option<&'static str>,
    /// When trying again may help, in milliseconds.
    pub retry_after_ms: Option<u64>,
}

impl Problem {
    /// A problem with its status, stable code and message.
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            allow: None,
            retry_after_ms: None,
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, ErrorCode::InvalidArgument.as_str(), message)
    }

    /// The response that tells it.
    pub fn response(&self) -> Response {
        let mut response =
            error_response(self.status, self.code, &self.message, self.retry_after_ms);
        if let Some(allow) = self.allow {
            response.headers.push(("allow".into(), allow.to_string()));
        }
        response
    }
}

/// The HTTP status of a stable code.
pub fn status_of(code: &str) -> u16 {
    let Some(code) = ErrorCode::ALL.iter().find(|known| known.as_str() == code) else {
        return 500;
    };
    match code {
        ErrorCode::TooLarge => 413,
        ErrorCode::DroppedByRule => 422,
        ErrorCode::Forbidden => 403,
        ErrorCode::UnknownNamespace
        | ErrorCode::UnknownTopic
        | ErrorCode::UnknownPartition
        | ErrorCode::UnknownSubscription
        | ErrorCode::UnknownSchedule
        | ErrorCode::UnknownRequest
        | ErrorCode::UnknownTransfer
        | ErrorCode::UnknownGroup
        | ErrorCode::UnknownMember
        | ErrorCode::UnknownLease
        | ErrorCode::UnknownRule
        | ErrorCode::UnknownSession => 404,
        ErrorCode::OffsetOutOfRange => 416,
        ErrorCode::ConflictingConfig
        | ErrorCode::Busy
        | ErrorCode::StaleGeneration
        | ErrorCode::MemberReplaced
        | ErrorCode::SessionReplaced
        | ErrorCode::Kicked
        | ErrorCode::DeviceLimit => 409,
        ErrorCode::LimitReached
        | ErrorCode::RateLimited
        | ErrorCode::SubscriberBlocked
        | ErrorCode::DedupWindowFull => 429,
        ErrorCode::StorageUnavailable
        | ErrorCode::Draining
        | ErrorCode::SlowConsumer
        | ErrorCode::NoResponders => 503,
        ErrorCode::Timeout | ErrorCode::ConnectionSilent => 504,
        ErrorCode::Unsupported => 501,
        _ => 400,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn a_status_comes_with_the_header_that_it_needs() {
        for (status, header) in [
            (401, Some(("www-authenticate", "Bearer"))),
            (404, None),
            (426, Some(("upgrade", "websocket"))),
            (503, Some(("retry-after", "1"))),
        ] {
            let headers = Problem::new(status, "code", "why").response().headers;
            let expected: Vec<_> = header
                .map(|(name, value)| (name.into(), value.to_string()))
                .into_iter()
                .collect();
            assert_eq!(headers, expected, "{status}");
        }
    }

    #[test]
    fn every_code_has_a_status_of_a_refusal() {
        for code in ErrorCode::ALL {
            assert!((400..600).contains(&status_of(code.as_str())), "{code:?}");
        }
        assert_eq!(status_of("made_up"), 500);
    }
}
