//! The stable codes of everything that can be refused.

use alloc::format;
use alloc::string::String;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A stable code. Clients branch on it, never on the message beside it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }

        impl ErrorCode {
            /// Every code, in the order of the specification.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

codes! {
    /// The bytes are not a frame of this protocol.
    MalformedFrame = "malformed_frame",
    /// The message, frame or field is over a bound.
    TooLarge = "too_large",
    /// The client asks for a protocol version that this broker does not speak.
    UnsupportedVersion = "unsupported_version",
    /// The command is not known to this broker.
    Unsupported = "unsupported",
    /// A command came before `hello`, or `hello` came twice.
    OutOfState = "out_of_state",
    /// The namespace does not exist and may not be created.
    UnknownNamespace = "unknown_namespace",
    /// The client lacks the right.
    Forbidden = "forbidden",
    /// The topic name breaks the rules for names.
    InvalidTopic = "invalid_topic",
    /// The filter breaks the rules for filters.
    InvalidFilter = "invalid_filter",
    /// A field has a value outside its range.
    InvalidArgument = "invalid_argument",
    /// The topic does not exist.
    UnknownTopic = "unknown_topic",
    /// The topic has no such partition.
    UnknownPartition = "unknown_partition",
    /// The subscription does not exist on this connection.
    UnknownSubscription = "unknown_subscription",
    /// The offset lies beyond the end of the log.
    OffsetOutOfRange = "offset_out_of_range",
    /// The configuration contradicts itself or what is stored.
    ConflictingConfig = "conflicting_config",
    /// A bound on the number of things is reached; the message names it.
    LimitReached = "limit_reached",
    /// As many messages are remembered as may be, and none of them may be forgotten yet.
    DedupWindowFull = "dedup_window_full",
    /// More was published than a rate limit allows; the message says which.
    RateLimited = "rate_limited",
    /// A subscriber with the policy `block` did not catch up in time.
    SubscriberBlocked = "subscriber_blocked",
    /// The subscription fell further behind than its policy allows and was ended.
    SlowConsumer = "slow_consumer",
    /// The store cannot take or give data now.
    StorageUnavailable = "storage_unavailable",
    /// Nobody would hear the request.
    NoResponders = "no_responders",
    /// Nobody answered the request in time.
    Timeout = "timeout",
    /// Nobody waits for an answer to it.
    UnknownRequest = "unknown_request",
    /// No such message waits for its time.
    UnknownSchedule = "unknown_schedule",
    /// Something that is under way forbids it for now.
    Busy = "busy",
    /// The export or import is not under way.
    UnknownTransfer = "unknown_transfer",
    /// The archive is damaged, cut off, of a later version, or none at all.
    InvalidArchive = "invalid_archive",
    /// The consumer group does not exist.
    UnknownGroup = "unknown_group",
    /// There is no such member of the group on this connection, or not any more.
    UnknownMember = "unknown_member",
    /// Another connection joined under the member's name.
    MemberReplaced = "member_replaced",
    /// The partition was not the member's in that generation.
    StaleGeneration = "stale_generation",
    /// The lease has ended, was given back, or is another's.
    UnknownLease = "unknown_lease",
    /// The routing rule does not exist.
    UnknownRule = "unknown_rule",
    /// A routing rule says that the message is not to be published.
    DroppedByRule = "dropped_by_rule",
    /// The connection's device has no session, or not any more.
    UnknownSession = "unknown_session",
    /// Another connection took over the session.
    SessionReplaced = "session_replaced",
    /// The user or an operator ended the device's connections.
    Kicked = "kicked",
    /// The user has as many devices as it may, and this one was away or silent for longest.
    DeviceLimit = "device_limit",
    /// Nothing was heard of the connection for too long.
    ConnectionSilent = "connection_silent",
    /// The broker is stopping.
    Draining = "draining",
}

/// A refusal: what a client is told instead of success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The stable code.
    pub code: ErrorCode,
    /// What was refused, which one, and what to do; lower case, for people.
    pub message: String,
    /// When trying again may help, in milliseconds.
    pub retry_after_ms: Option<u64>,
}

/// What a client waits that asks for something which others have taken, in milliseconds.
const LATER_MS: u64 = 1000;

impl Refusal {
    /// A refusal of what may be granted a little later.
    pub(crate) fn later(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            retry_after_ms: Some(LATER_MS),
            ..Self::new(code, message)
        }
    }

    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after_ms: None,
        }
    }

    /// A refusal of a word that is none of `words`.
    pub(crate) fn wrong_word(name: &str, word: &str, words: &str) -> Self {
        let message = format!("\"{name}\" must be {words}, not \"{word}\"");
        Self::new(ErrorCode::InvalidArgument, message)
    }
}

/// Refuses so many of what there may be `max` of; the bound has the same name with `_max` behind it.
pub(crate) fn check_count(whose: &str, what: &str, count: usize, max: u64) -> Result<(), Refusal> {
    if count as u64 <= max {
        return Ok(());
    }
    let message = format!("{whose} has at most {max} {what} ({what}_max)");
    Err(Refusal::new(ErrorCode::LimitReached, message))
}
