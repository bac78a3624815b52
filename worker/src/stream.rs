//! Server-sent events: a socket to the object, read no faster than the client takes the events.

use std::collections::VecDeque;
use std::rc::Rc;

use core::cell::RefCell;
use core::fmt::Write as _;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;

use dunlin_core::Reader;
use dunlin_core::frame::{Command, Credit, Reply, SUBPROTOCOL_BINARY};
use dunlin_core::http::{self, SUBSCRIPTION};
use futures_util::future::{Either, select};
use futures_util::{Stream, StreamExt};
use worker::web_sys::BinaryType;
use worker::{Delay, EventStream, Headers, Response, Result, WebSocket, WebsocketEvent};

use crate::admission::Spoken;
use crate::entry::{Failure, Peer, plain};

/// How many deliveries may be on their way to the client.
pub(crate) const CREDIT: u64 = 64;

/// Credit is given back in portions, so that it costs the object few messages.
const CREDIT_PORTION: u64 = CREDIT / 2;

/// A comment is sent after so long a silence, so that nobody on the way takes the stream for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How long clients wait before they connect again, in milliseconds.
const RETRY_MS: u32 = 1_000;

/// Subscribes with `frames` and answers with the stream, or with the refusal.
pub(crate) async fn events(
    peer: &Peer<'_>,
    namespace: &str,
    frames: &[u8],
) -> core::result::Result<Response, Failure> {
    let spoken = Spoken {
        encoding: "binary",
        subprotocol: Some(SUBPROTOCOL_BINARY),
    };
    let response = peer.connect(namespace, spoken).await?;
    let Some(socket) = response.websocket() else {
        return Ok(plain(http::lost_response())?);
    };
    let socket = OpenSocket::accept(socket)?;
    let feed = Rc::new(RefCell::new(Feed::default()));
    let mut pump: Pump = Box::pin(pump(Rc::clone(&socket), Rc::clone(&feed)));
    socket.0.send_with_bytes(frames)?;
    // Whether this becomes a stream at all, the broker decides.
    core::future::poll_fn(|context| {
        if pump.as_mut().poll(context).is_ready() {
            feed.borrow_mut().ended = true;
        }
        let feed = feed.borrow();
        if feed.ended || feed.refusal.is_some() || !feed.ready.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    let refused = {
        let mut feed = feed.borrow_mut();
        let lost = feed.ended && feed.ready.is_empty();
        let refusal = feed.refusal.take();
        refusal.or_else(|| lost.then(http::lost_response))
    };
    if let Some(refused) = refused {
        return Ok(plain(refused)?);
    }
    let headers = Headers::new();
    headers.set("content-type", "text/event-stream")?;
    headers.set("cache-control", "no-store")?;
    let stream = Events {
        socket,
        feed,
        pump,
        owed: 0,
    };
    Ok(Response::from_stream(stream)?.with_headers(headers))
}

type Pump = Pin<Box<dyn Future<Output = ()>>>;

/// What came from the object and was not taken by the client yet. The credit bounds it.
#[derive(Default)]
struct Feed {
    /// The text of each event, and whether it was a delivery.
    ready: VecDeque<(String, bool)>,
    /// The token to resume with, from the reply to the subscription.
    token: String,
    refusal: Option<http::Response>,
    ended: bool,
}

impl Feed {
    /// Takes every frame of a message.
    fn take(&mut self, message: &[u8]) {
        let mut reader = Reader::new(message);
        while let Ok(frame) = reader.bytes() {
            if let Ok(reply) = Reply::decode(frame) {
                self.take_reply(&reply);
            }
        }
    }

    fn take_reply(&mut self, reply: &Reply<'_>) {
        match reply {
            Reply::Subscribed(subscribed) => {
                self.token = subscribed.token.into();
                let start = format!(
                    "retry: {RETRY_MS}\nid: {}:{}\n\n",
                    subscribed.token, subscribed.sequence
                );
                self.ready.push_back((start, false));
            }
            Reply::Failed(_) => self.refusal = http::response("", reply),
            // The client connects again, and says where it was.
            Reply::Resync(_) | Reply::GoingAway(_) => self.ended = true,
            _ => {
                if let Some(event) = http::event(&self.token, reply) {
                    self.ended |= matches!(reply, Reply::Ended(_));
                    let is_delivery = matches!(reply, Reply::Delivery(_));
                    self.ready.push_back((text(&event), is_delivery));
                }
            }
        }
    }
}

/// Feeds what the socket brings until it ends.
async fn pump(socket: Rc<OpenSocket>, feed: Rc<RefCell<Feed>>) {
    let Ok(mut events) = socket.0.events() else {
        return;
    };
    while let Some(message) = next_message(&mut events).await {
        let mut feed = feed.borrow_mut();
        match message {
            Some(message) => feed.take(&message),
            None => feed.ready.push_back((String::from(":\n\n"), false)),
        }
        if feed.ended {
            return;
        }
    }
}

/// The next message; an inner `None` after a silence, `None` when there is no more.
async fn next_message(events: &mut EventStream<'_>) -> Option<Option<Vec<u8>>> {
    match select(events.next(), Delay::from(KEEP_ALIVE)).await {
        Either::Left((Some(Ok(WebsocketEvent::Message(message))), _)) => {
            Some(Some(message.bytes().unwrap_or_default()))
        }
        Either::Left(_) => None,
        Either::Right(_) => Some(None),
    }
}

/// The body of the response.
struct Events {
    socket: Rc<OpenSocket>,
    feed: Rc<RefCell<Feed>>,
    pump: Pump,
    /// How many deliveries the client has taken since it last gave credit.
    owed: u64,
}

impl Stream for Events {
    type Item = Result<Vec<u8>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !self.feed.borrow().ended && self.pump.as_mut().poll(context).is_ready() {
            self.feed.borrow_mut().ended = true;
        }
        let ready: Vec<(String, bool)> = self.feed.borrow_mut().ready.drain(..).collect();
        if ready.is_empty() {
            return if self.feed.borrow().ended {
                Poll::Ready(None)
            } else {
                Poll::Pending
            };
        }
        let mut text = String::new();
        for (event, is_delivery) in ready {
            text.push_str(&event);
            self.owed += u64::from(is_delivery);
        }
        self.give_credit();
        Poll::Ready(Some(Ok(text.into_bytes())))
    }
}

impl Events {
    fn give_credit(&mut self) {
        if self.owed < CREDIT_PORTION {
            return;
        }
        let mut frame = Vec::new();
        Command::Credit(Credit {
            subscription: SUBSCRIPTION,
            messages: self.owed,
        })
        .encode(&mut frame);
        self.owed = 0;
        // A socket that has closed says so by itself.
        let _ = self.socket.0.send_with_bytes(frame);
    }
}

/// A socket to the object; it closes when nobody reads from it any more.
struct OpenSocket(WebSocket);

impl OpenSocket {
    fn accept(socket: WebSocket) -> Result<Rc<Self>> {
        socket.as_ref().set_binary_type(BinaryType::Arraybuffer);
        socket.accept()?;
        Ok(Rc::new(Self(socket)))
    }
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        let _ = self.0.close(Some(1000), Some(""));
    }
}

/// The event in the format of the HTML standard, section 9.2.
fn text(event: &http::Event) -> String {
    let mut text = String::new();
    for (field, value) in [
        ("id", &*event.id),
        ("event", event.name),
        ("data", &event.data),
    ] {
        if !value.is_empty() {
            writeln!(text, "{field}: {value}").expect("writing to a string cannot fail");
        }
    }
    text.push('\n');
    text
}
