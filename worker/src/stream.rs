//! Server-sent events: what a subscription says, as the text of events.
//!
//! The stream itself is JavaScript (`ts/events.ts`), because a stream ends when its client goes, and then the runtime
//! drops everything it knows of the request: a future in here would never be woken or freed again. So nothing of a
//! stream stays in this module between two messages.

use core::fmt::Write as _;

use dunlin_core::frame::{Command, Credit, Reply, SUBPROTOCOL_BINARY};
use dunlin_core::http::{self, SUBSCRIPTION};
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use worker::js_sys::{Function, Promise, Reflect, Uint8Array};
use worker::wasm_bindgen_futures::JsFuture;
use worker::{Env, Error, Response, web_sys};

use crate::admission::Spoken;
use crate::entry::{Failure, Peer, decoded, plain};

/// How many deliveries may be on their way to the client.
pub(crate) const CREDIT: u64 = 64;

/// Subscribes with `frames` and answers with the stream, or with the refusal.
pub(crate) async fn events(
    peer: &Peer<'_>,
    env: &Env,
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
    let response = stream_of(env, socket.as_ref(), frames)
        .await
        .map_err(Error::from)?;
    Ok(response.into())
}

async fn stream_of(
    env: &Env,
    socket: &web_sys::WebSocket,
    frames: &[u8],
) -> core::result::Result<web_sys::Response, JsValue> {
    let stream: Function = Reflect::get(env.as_ref(), &"streamEvents".into())?.dyn_into()?;
    let opened = stream.call2(&JsValue::UNDEFINED, socket, &Uint8Array::from(frames))?;
    JsFuture::from(Promise::resolve(&opened)).await?.dyn_into()
}

/// What one message of the object means to a stream.
#[wasm_bindgen(getter_with_clone)]
#[derive(Default)]
pub struct Fed {
    /// The text of its events.
    pub text: String,
    /// The token that later events are resumed with, if it was told.
    pub token: Option<String>,
    /// How many deliveries it brought, each of which used credit.
    pub deliveries: u32,
    /// Whether nothing comes after it: the client connects again and says where it was.
    pub ended: bool,
    /// The response to a client whose subscription was refused.
    pub refusal: Option<web_sys::Response>,
}

/// Reads a message of the object, for a stream whose token is `token`.
#[wasm_bindgen]
pub fn feed(token: &str, message: &[u8]) -> Fed {
    let mut fed = Fed::default();
    let mut token = String::from(token);
    for reply in decoded(message) {
        match &reply {
            Reply::Subscribed(subscribed) => {
                token = subscribed.token.into();
                fed.token = Some(token.clone());
                if let Some(opening) = http::event(&token, &reply) {
                    write_event(&mut fed.text, &opening);
                }
            }
            Reply::Failed(_) => {
                let refusal = http::response("", &reply).and_then(|refusal| plain(refusal).ok());
                fed.refusal = refusal.map(web_sys::Response::from);
            }
            Reply::Resync(_) | Reply::GoingAway(_) => fed.ended = true,
            _ => {
                fed.deliveries += u32::from(matches!(reply, Reply::Delivery(_)));
                fed.ended |= matches!(reply, Reply::Ended(_));
                if let Some(event) = http::event(&token, &reply) {
                    write_event(&mut fed.text, &event);
                }
            }
        }
    }
    fed
}

/// The message that gives the subscription of a stream more credit.
#[wasm_bindgen]
pub fn credit(deliveries: u32) -> Vec<u8> {
    let mut frame = Vec::new();
    Command::Credit(Credit {
        subscription: SUBSCRIPTION,
        messages: deliveries.into(),
    })
    .encode(&mut frame);
    frame
}

/// An event in the format of the HTML standard, section 9.2.
fn write_event(text: &mut String, event: &http::Event) {
    if let Some(retry_ms) = event.retry_ms {
        write_line(text, "retry", &retry_ms.to_string());
    }
    write_line(text, "id", &event.id);
    write_line(text, "event", event.name);
    write_line(text, "data", &event.data);
    text.push('\n');
}

fn write_line(text: &mut String, field: &str, value: &str) {
    if !value.is_empty() {
        writeln!(text, "{field}: {value}").expect("writing to a string cannot fail");
    }
}
