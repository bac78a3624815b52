//! WebSockets: bytes from a client to its shard and back, without a look at what they say.
//!
//! The one thing that is answered here is the text `ping`: a sign of life that need not wake the broker.

use core::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts as _;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderValue, Request};
use axum::response::Response;
use bytes::Bytes;
use dunlin_core::http::{self, Problem, UPGRADE_REQUIRED};
use dunlin_core::{CloseCode, Encoding};
use futures_util::SinkExt as _;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite;

use crate::outbound::Outgoing;
use crate::server::Client;
use crate::shard::Connection;

/// The largest message from a client in the binary encoding.
const BINARY_BYTES_MAX: usize = 1024 * 1024 + 128 * 1024;

/// The largest message from a client in the JSON encoding.
const JSON_BYTES_MAX: usize = 1536 * 1024;

/// How much an idle socket keeps for reading.
const READ_BUFFER_BYTES: usize = 4 * 1024;

/// After how long of silence a client is asked whether it is there. Whoever knows WebSockets answers by itself.
const PING_AFTER: Duration = Duration::from_secs(25);

/// How long a closing socket may take to hear it.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// Opens a WebSocket.
pub(crate) async fn connect(
    client: Client<'_>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &())
        .await
        .map_err(|rejection| {
            Problem::new(
                426,
                UPGRADE_REQUIRED,
                format!("this is the address of a WebSocket: {rejection}"),
            )
        })?;
    let offered = upgrade.requested_protocols();
    // What is no text is no subprotocol that anybody knows.
    let offered = offered.map(|name| name.to_str().unwrap_or("?"));
    let (encoding, subprotocol) = http::subprotocol(offered)?;
    let bytes_max = match encoding {
        Encoding::Binary => BINARY_BYTES_MAX,
        Encoding::Json => JSON_BYTES_MAX,
    };
    let mut upgrade = upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(bytes_max)
        .max_frame_size(bytes_max);
    if let Some(subprotocol) = subprotocol {
        upgrade.set_selected_protocol(HeaderValue::from_static(subprotocol));
    }
    let (connection, admission) = match client.open(encoding).await {
        Ok(opened) => opened,
        // In words that a web page can read, as it cannot those of a response.
        Err(problem) if problem.status == 429 => {
            let reason = format!("{}: {}", problem.code, problem.message);
            let end = End::close(CloseCode::Policy, &reason);
            return Ok(upgrade.on_upgrade(async move |socket| say_goodbye(socket, end).await));
        }
        Err(problem) => return Err(problem),
    };
    Ok(upgrade.on_upgrade(async move |socket| {
        serve(socket, connection, encoding).await;
        // The close has been answered, or never will be.
        drop(admission);
    }))
}

/// Why a socket ends.
enum End {
    /// It is gone, or cannot be written to.
    Gone,
    /// It is to be closed with a code and a reason.
    Close(CloseCode, String),
}

impl End {
    fn close(code: CloseCode, reason: &str) -> Self {
        Self::Close(code, reason.to_owned())
    }
}

async fn serve(mut socket: WebSocket, mut connection: Connection, encoding: Encoding) {
    let end = converse(&mut socket, &mut connection, encoding).await;
    // The broker hears it before the client answers the close, which may take long.
    drop(connection);
    say_goodbye(socket, end).await;
}

async fn say_goodbye(mut socket: WebSocket, end: End) {
    if let End::Close(code, reason) = end {
        let close = Message::Close(Some(CloseFrame {
            code: code.number(),
            reason: Utf8Bytes::from(reason),
        }));
        let goodbye = async {
            if socket.send(close).await.is_ok() {
                // Until the client has answered, so that the close is not overtaken by a reset.
                while let Some(Ok(_)) = socket.recv().await {}
            }
        };
        let _ = tokio::time::timeout(CLOSE_WITHIN, goodbye).await;
    }
}

async fn converse(socket: &mut WebSocket, connection: &mut Connection, encoding: Encoding) -> End {
    let mut ping_at = Instant::now() + PING_AFTER;
    loop {
        let overflow = connection.outgoing.overflow();
        let end = tokio::select! {
            message = socket.recv() => match message {
                Some(Ok(message)) => {
                    ping_at = Instant::now() + PING_AFTER;
                    hear(message, socket, connection, encoding).await
                }
                Some(Err(error)) => Err(broken(error)),
                None => Err(End::Gone),
            },
            outgoing = connection.outgoing.recv() => {
                let writing = write(outgoing, socket, connection, encoding);
                tokio::select! {
                    end = writing => end,
                    () = overflow => Err(too_slow()),
                }
            }
            () = sleep_until(ping_at) => {
                ping_at = Instant::now() + PING_AFTER;
                tokio::select! {
                    sent = socket.send(Message::Ping(Bytes::new())) => sent.map_err(|_| End::Gone),
                    () = overflow => Err(too_slow()),
                }
            }
        };
        if let Err(end) = end {
            return end;
        }
    }
}

fn too_slow() -> End {
    End::close(
        CloseCode::Policy,
        "slow_consumer: the client does not read what it asked for; subscribe with credit",
    )
}

/// Passes on what the client said.
async fn hear(
    message: Message,
    socket: &mut WebSocket,
    connection: &Connection,
    encoding: Encoding,
) -> Result<(), End> {
    let bytes = match message {
        Message::Text(text) if text.as_str() == "ping" => {
            connection.seen();
            let pong = socket.send(Message::Text(Utf8Bytes::from_static("pong")));
            return pong.await.map_err(|_| End::Gone);
        }
        Message::Text(text) if encoding == Encoding::Json => Bytes::from(text),
        Message::Binary(bytes) if encoding == Encoding::Binary => bytes,
        Message::Text(_) => {
            return Err(End::close(
                CloseCode::Protocol,
                "malformed_frame: a text message on a binary connection; name dunlin.v1.json to speak JSON",
            ));
        }
        Message::Binary(_) => {
            return Err(End::close(
                CloseCode::Protocol,
                "malformed_frame: a binary message on a JSON connection; name dunlin.v1.binary to speak binary",
            ));
        }
        Message::Ping(_) | Message::Pong(_) => {
            connection.seen();
            return Ok(());
        }
        Message::Close(_) => return Err(End::Gone),
    };
    connection
        .frame(bytes)
        .await
        .map_err(|_| End::close(CloseCode::GoingAway, "draining: the broker has stopped"))
}

/// Writes what is there, all in one go.
async fn write(
    first: Option<Outgoing>,
    socket: &mut WebSocket,
    connection: &mut Connection,
    encoding: Encoding,
) -> Result<(), End> {
    let mut next = first;
    let mut end = Ok(());
    let mut size_bytes = 0;
    if next.is_none() {
        // The shard let go of a client that does not read.
        return Err(too_slow());
    }
    while let Some(outgoing) = next {
        match outgoing {
            Outgoing::Message(message) => {
                size_bytes += message.len();
                let message = match encoding {
                    Encoding::Binary => Message::Binary(message),
                    Encoding::Json => Message::Text(
                        Utf8Bytes::try_from(message).expect("the broker writes JSON in UTF-8"),
                    ),
                };
                socket.feed(message).await.map_err(|_| End::Gone)?;
            }
            Outgoing::Close(code, reason) => {
                end = Err(End::Close(code, reason));
                break;
            }
        }
        next = connection.outgoing.try_recv();
    }
    socket.flush().await.map_err(|_| End::Gone)?;
    connection.outgoing.written(size_bytes);
    end
}

/// What to say to a client whose messages cannot be read any more.
fn broken(error: axum::Error) -> End {
    match error
        .into_inner()
        .downcast::<tungstenite::Error>()
        .as_deref()
    {
        Ok(tungstenite::Error::Capacity(_)) => End::close(
            CloseCode::TooLarge,
            "too_large: the message is over the bound; publish less at once",
        ),
        Ok(tungstenite::Error::Utf8(_)) => End::close(
            CloseCode::Protocol,
            "malformed_frame: a text message is not UTF-8",
        ),
        Ok(tungstenite::Error::Protocol(error)) => {
            End::close(CloseCode::Protocol, &format!("malformed_frame: {error}"))
        }
        _ => End::Gone,
    }
}
