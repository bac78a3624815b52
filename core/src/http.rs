//! The pure half of the HTTP interface: what a request asks for, as frames, and what a reply looks like, as a response.
//!
//! Both the native host and the gateway at the edge use it, so that a URL means the same everywhere. It holds no
//! connection and decides nothing about the broker: a request becomes the frames that a WebSocket client would have
//! sent (`hello`, then one command numbered [`REQUEST`]), and the reply to that command becomes the response.
//!
//! ```text
//! GET  /v1/{namespace}/connect                                      a WebSocket
//! POST /v1/{namespace}/topics/{topic}                               publish the body
//! GET  /v1/{namespace}/topics/{topic}?from=&partition=&limit=       history, one record a line
//! GET  /v1/{namespace}/subscribe?filter=&from=&partition=           server-sent events
//! POST /v1/{namespace}/requests/{topic}                             publish the body and wait for an answer
//! GET  /v1/{namespace}/groups?after=&limit=                         the names of consumer groups
//! GET  /v1/{namespace}/groups/{group}                               who is in it, and how far it is
//! GET  /v1/{namespace}/groups/{group}/dead-letters                  one a line; ?from=&limit=&filter=&reason=
//! POST /v1/{namespace}/groups/{group}/dead-letters/replay           ?offsets=&rate=
//! GET  /v1/{namespace}/scheduled?filter=&after=&limit=              messages that wait for their time
//! DELETE /v1/{namespace}/scheduled/{schedule_id}                    take one back
//! GET  /v1/{namespace}/limits                                       the rate limits
//! GET  /v1/{namespace}/mailbox?after=&limit=                        what waits for the device that asks
//! GET  /v1/{namespace}/users?after=&limit=                          who is online
//! GET  /v1/{namespace}/users/{user}                                 whether a user is, and when it was last seen
//! DELETE /v1/{namespace}/users/{user}?reason=                       send all of its devices away
//! GET  /v1/{namespace}/users/{user}/devices?after=&limit=           its devices
//! DELETE /v1/{namespace}/users/{user}/devices/{device}?reason=      send one away
//! GET  /v1/{namespace}/rules                                        the routing rules
//! PUT, DELETE /v1/{namespace}/rules/{rule}                          set one as the body says; delete one
//! POST /v1/{namespace}/explain/{topic}                              what rules would make of the body
//! GET  /v1/{namespace}/export                                       the namespace as an archive
//! PUT  /v1/{namespace}/import                                       an archive becomes the namespace
//! GET  /v1/namespaces?after=&limit=                                 the names of namespaces, of all brokers
//! GET  /v1/namespaces/{namespace}?days=                             its quotas, and what it used
//! PUT  /v1/namespaces/{namespace}                                   create it or set the quotas of the body
//! DELETE /v1/namespaces/{namespace}                                 delete it
//! GET  /healthz, /readyz                                            the host's own
//! ```
//!
//! `user` and `device` in any query say who asks, see [`Route::identity`].
//!
//! `+` in a query is a plus sign, as in filters, never a space.

mod command;
mod event;
mod identity;
mod namespaces;
mod problem;
mod query;
mod response;
mod route;

pub use command::{Asked, LIMIT_DEFAULT, export_frames, import_frames};
pub use event::{Event, STREAM_RETRY_MS, event, subscribe_frames};
pub use identity::Identity;
pub use namespaces::NamespacesPage;
pub use problem::{
    CODES, FORBIDDEN_ORIGIN, MALFORMED_REQUEST, METHOD_NOT_ALLOWED, MISCONFIGURED, Problem,
    UNAUTHORISED, UNKNOWN_ROUTE, UPGRADE_REQUIRED, status_of,
};
pub use query::query_parameter;
pub use response::{Response, close_response, health_response, lost_response, object, response};
pub use route::{Action, Route, subprotocol};

/// The number of the one command that a request becomes; the reply carries it.
pub const REQUEST: u64 = 1;

/// The number of the one subscription that a stream of events has.
pub const SUBSCRIPTION: u32 = 1;

/// The media type of a response that is one JSON value.
pub const JSON: &str = "application/json";

/// The media type of history: one JSON object a line.
pub const NDJSON: &str = "application/x-ndjson";

/// The media type of an answer that names none.
const OCTETS: &str = "application/octet-stream";

/// The media type of an archive.
pub const ARCHIVE: &str = "application/vnd.dunlin.archive";

/// How many bytes of an archive a host gives to the broker at once.
pub const IMPORT_PART_BYTES: usize = 256 << 10;

/// The methods that some path has, for pages of other origins (the Fetch standard's CORS protocol).
pub const METHODS: &str = "GET, POST, PUT, DELETE";

/// The headers of responses that such pages may read.
pub const EXPOSED_HEADERS: &str = "content-disposition, dunlin-next-offset, dunlin-log-start-offset, dunlin-log-end-offset, dunlin-more, retry-after";
