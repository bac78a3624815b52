//! HTTP requests as short-lived connections to the broker: `hello` and one command, its reply, the end.

use core::convert::Infallible;
use core::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use dunlin_core::frame::{Command, Credit, Reply};
use dunlin_core::http::{self, Action, MALFORMED_REQUEST, NamespacesPage, Problem, SUBSCRIPTION};
use dunlin_core::{Encoding, ErrorCode, Reader};
use futures_util::stream;

use crate::outbound::Outgoing;
use crate::server::{Admission, Client, stopping};
use crate::shard::{Connection, Stopped};

/// The largest body that is read; the broker's own bound on payloads is lower and has the better words.
const BODY_BYTES_MAX: usize = 1024 * 1024 + 128 * 1024;

/// How long a request waits for its reply: longer than a commit ever takes on a healthy disk.
const REPLY_WITHIN: Duration = Duration::from_secs(30);

/// How many events may be under way to a client of a stream.
const STREAM_CREDIT: u64 = 256;

/// How often a stream without events gives a sign of life, for proxies that end silent ones.
const STREAM_ALIVE_EVERY: Duration = Duration::from_secs(15);

/// Gives the broker one command, and makes a response of its reply.
pub(crate) async fn command(
    client: Client<'_>,
    action: &Action,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let declared = parts
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    if declared.is_some_and(|length: u64| length > BODY_BYTES_MAX as u64) {
        return Err(too_large());
    }
    let body = axum::body::to_bytes(body, BODY_BYTES_MAX)
        .await
        .map_err(|_| too_large())?;
    let headers = parts
        .headers
        .iter()
        .filter(|(name, _)| **name == header::CONTENT_TYPE || name.as_str().starts_with("dunlin-"))
        .map(
            |(name, value)| match core::str::from_utf8(value.as_bytes()) {
                Ok(value) => Ok((name.as_str(), value)),
                Err(_) => Err(Problem::new(
                    400,
                    MALFORMED_REQUEST,
                    format!("the header {name} is not UTF-8"),
                )),
            },
        )
        .collect::<Result<Vec<_>, _>>()?;
    let query = parts.uri.query().unwrap_or_default();
    let asked = action.ask(query, headers, &body)?;
    let within = REPLY_WITHIN + Duration::from_millis(asked.answer_ms);
    let answer = exchange(client, asked.frames, within, |reply| action.response(reply));
    Ok(respond(answer.await?))
}

/// Gives the broker frames, and makes a response of the first reply that `answers`.
async fn exchange(
    client: Client<'_>,
    frames: Vec<u8>,
    within: Duration,
    mut answers: impl FnMut(&Reply<'_>) -> Option<http::Response>,
) -> Result<http::Response, Problem> {
    let (mut connection, _admission) = client.open(Encoding::Binary).await?;
    let answer = async {
        connection.frame(Bytes::from(frames)).await?;
        loop {
            let message = match connection.outgoing.recv().await.ok_or(Stopped)? {
                Outgoing::Message(message) => message,
                Outgoing::Close(code, reason) => return Ok(http::close_response(code, &reason)),
            };
            let answer = Replies::new(&message).find_map(|reply| answers(&reply));
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
    };
    match tokio::time::timeout(within, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(Stopped)) => Err(stopping()),
        Err(_) => Ok(http::lost_response()),
    }
}

/// Asks every shard for its namespaces, and makes one page of theirs.
pub(crate) async fn namespaces(
    clients: impl Iterator<Item = Client<'_>>,
    query: &str,
) -> Result<Response, Problem> {
    let mut page = NamespacesPage::parse(query)?;
    for client in clients {
        let frames = page.frames();
        let answer = exchange(client, frames, REPLY_WITHIN, |reply| {
            let took = page.take(reply);
            took.then(|| page.response())
                .or_else(|| http::response("", reply))
        });
        let answer = answer.await?;
        if answer.status != 200 {
            return Ok(respond(answer));
        }
    }
    Ok(respond(page.response()))
}

fn too_large() -> Problem {
    Problem::new(
        413,
        ErrorCode::TooLarge.as_str(),
        "the body is longer than 1 MiB, or broke off; publish less at once",
    )
}

/// A stream of events. The answer begins once the broker has accepted or refused the subscription.
pub(crate) async fn subscribe(
    client: Client<'_>,
    query: &str,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let last = headers.get("last-event-id").map(|id| id.to_str());
    let last = last.transpose().map_err(|_| {
        Problem::new(
            400,
            MALFORMED_REQUEST,
            "the header last-event-id is not ASCII",
        )
    })?;
    let frames = http::subscribe_frames(query, last, STREAM_CREDIT)?;
    let opened = client.open(Encoding::Binary).await?;
    let opened = tokio::time::timeout(REPLY_WITHIN, Subscriber::open(opened, frames)).await;
    let subscriber = match opened {
        Ok(Ok(Ok(subscriber))) => subscriber,
        Ok(Ok(Err(refusal))) => return Ok(respond(refusal)),
        Ok(Err(Stopped)) => return Err(stopping()),
        Err(_) => return Ok(respond(http::lost_response())),
    };
    let events = stream::unfold(subscriber, |mut subscriber| async {
        let event = subscriber.next().await?;
        Some((Ok::<_, Infallible>(event), subscriber))
    });
    let alive = KeepAlive::new().interval(STREAM_ALIVE_EVERY);
    Ok(Sse::new(events).keep_alive(alive).into_response())
}

/// A subscription as a source of events. It reads from its connection only when the client took the last event,
/// so the client's pace decides how much credit the broker sees.
struct Subscriber {
    connection: Connection,
    _admission: Admission,
    token: String,
    /// Tells where to resume from, to a client that leaves before its first delivery; sent before all else.
    opening: Option<http::Event>,
    /// The message that is being taken apart, and how far.
    message: Bytes,
    taken: u64,
}

impl Subscriber {
    async fn open(
        (mut connection, admission): (Connection, Admission),
        frames: Vec<u8>,
    ) -> Result<Result<Self, http::Response>, Stopped> {
        connection.frame(Bytes::from(frames)).await?;
        loop {
            let mut message = match connection.outgoing.recv().await.ok_or(Stopped)? {
                Outgoing::Message(message) => message,
                Outgoing::Close(code, reason) => {
                    return Ok(Err(http::close_response(code, &reason)));
                }
            };
            let size = message.len();
            while let Some(frame) = next_frame(&mut message) {
                let reply = Reply::decode(&frame);
                if let Ok(Reply::Subscribed(subscribed)) = &reply {
                    let token = subscribed.token.to_owned();
                    let opening = reply.ok().and_then(|reply| http::event(&token, &reply));
                    connection.outgoing.written(size);
                    return Ok(Ok(Self {
                        connection,
                        _admission: admission,
                        token,
                        opening,
                        message,
                        taken: 0,
                    }));
                }
                if let Some(refusal) = reply.ok().and_then(|reply| http::response("", &reply)) {
                    return Ok(Err(refusal));
                }
            }
            connection.outgoing.written(size);
        }
    }

    /// The next event; `None` at the end, after which a browser comes back with the last event's id.
    async fn next(&mut self) -> Option<Event> {
        if let Some(opening) = self.opening.take() {
            return Some(server_sent(opening));
        }
        loop {
            while let Some(frame) = next_frame(&mut self.message) {
                let Ok(reply) = Reply::decode(&frame) else {
                    continue;
                };
                match reply {
                    // The broker lost the subscription, or is about to.
                    Reply::Resync(_) | Reply::GoingAway(_) => return None,
                    Reply::Delivery(_) => self.take_credit().await?,
                    _ => {}
                }
                if let Some(event) = http::event(&self.token, &reply) {
                    return Some(server_sent(event));
                }
            }
            let overflow = self.connection.outgoing.overflow();
            let outgoing = tokio::select! {
                outgoing = self.connection.outgoing.recv() => outgoing?,
                () = overflow => return None,
                () = tokio::time::sleep(STREAM_ALIVE_EVERY) => {
                    // It has no way to say so itself; a client that is gone is found out by what is written to it.
                    self.connection.seen();
                    continue;
                }
            };
            match outgoing {
                Outgoing::Message(message) => {
                    self.connection.outgoing.written(message.len());
                    self.message = message;
                }
                Outgoing::Close(..) => return None,
            }
        }
    }

    async fn take_credit(&mut self) -> Option<()> {
        self.taken += 1;
        if self.taken >= STREAM_CREDIT / 2 {
            let mut frame = Vec::new();
            Command::Credit(Credit {
                subscription: SUBSCRIPTION,
                messages: self.taken,
            })
            .encode(&mut frame);
            self.taken = 0;
            self.connection.frame(Bytes::from(frame)).await.ok()?;
        }
        Some(())
    }
}

fn server_sent(event: http::Event) -> Event {
    let mut sent = Event::default();
    if let Some(retry_ms) = event.retry_ms {
        sent = sent.retry(Duration::from_millis(retry_ms.into()));
    }
    if !event.data.is_empty() {
        sent = sent.data(event.data);
    }
    if !event.id.is_empty() {
        sent = sent.id(event.id);
    }
    if !event.name.is_empty() {
        sent = sent.event(event.name);
    }
    sent
}

/// Cuts the next frame off a message, without its length.
pub(crate) fn next_frame(message: &mut Bytes) -> Option<Bytes> {
    let mut reader = Reader::new(message);
    let frame = message.slice_ref(reader.bytes().ok()?);
    *message = message.slice_ref(reader.rest());
    Some(frame)
}

/// The replies in a message.
struct Replies<'m>(Reader<'m>);

impl<'m> Replies<'m> {
    const fn new(message: &'m [u8]) -> Self {
        Self(Reader::new(message))
    }
}

impl<'m> Iterator for Replies<'m> {
    type Item = Reply<'m>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Ok(frame) = self.0.bytes() {
            if let Ok(reply) = Reply::decode(frame) {
                return Some(reply);
            }
        }
        None
    }
}

/// A response in the server's types.
pub(crate) fn respond(response: http::Response) -> Response {
    let mut answer = Response::new(Body::from(response.body));
    *answer.status_mut() =
        StatusCode::from_u16(response.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = answer.headers_mut();
    let content_type = HeaderValue::from_str(&response.content_type);
    let pairs = response.headers.into_iter().filter_map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_str(&value).ok()?))
    });
    headers.extend(content_type.map(|value| (header::CONTENT_TYPE, value)));
    headers.extend(pairs);
    answer
}
