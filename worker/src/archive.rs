//! A namespace as an archive, which leaves or comes part after part.
//!
//! A part is a command of its own, so nothing is held here but the part at hand. The stream of an export is JavaScript
//! (`ts/archive.ts`), for the reason that `stream.rs` has.

use dunlin_core::frame::Reply;
use dunlin_core::http::{self, IMPORT_PART_BYTES};
use futures_util::StreamExt;
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use worker::js_sys::{Function, Promise, Reflect};
use worker::wasm_bindgen_futures::JsFuture;
use worker::{ByteStream, Env, Error, Request, Response, web_sys};

use crate::entry::{Failure, Peer, decoded, plain};

/// Gives the body of the request to the broker, whose last reply is the response.
pub(crate) async fn import(
    peer: &Peer<'_>,
    namespace: &str,
    request: &mut Request,
) -> core::result::Result<Response, Failure> {
    let mut body = Body::of(request)?;
    let mut import = 0;
    for part in 0.. {
        let (bytes, last) = body.part().await?;
        let frames = http::import_frames(import, part, last, &bytes);
        let replies = peer.exchange(namespace, &frames, 0).await?;
        match answer(&replies) {
            Some(Reply::Imported(imported)) if !last => import = imported.import,
            reply => {
                let response = reply.and_then(|reply| http::response("", &reply));
                return Ok(plain(response.unwrap_or_else(http::lost_response))?);
            }
        }
    }
    unreachable!("a body ends")
}

/// The body of a request, cut into parts.
struct Body {
    stream: Option<ByteStream>,
    /// What was read beyond the last part.
    rest: Vec<u8>,
}

impl Body {
    fn of(request: &mut Request) -> worker::Result<Self> {
        let is_empty = request.inner().body().is_none();
        Ok(Self {
            stream: if is_empty {
                None
            } else {
                Some(request.stream()?)
            },
            rest: Vec::new(),
        })
    }

    /// The next part, and whether it is the last.
    async fn part(&mut self) -> worker::Result<(Vec<u8>, bool)> {
        while self.rest.len() <= IMPORT_PART_BYTES
            && let Some(stream) = &mut self.stream
        {
            match stream.next().await {
                Some(bytes) => self.rest.extend_from_slice(&bytes?),
                None => self.stream = None,
            }
        }
        let last = self.rest.len() <= IMPORT_PART_BYTES;
        let rest = self.rest.split_off(self.rest.len().min(IMPORT_PART_BYTES));
        Ok((core::mem::replace(&mut self.rest, rest), last))
    }
}

/// Answers with the stream of an archive, or with the refusal of its first part.
pub(crate) async fn export(
    peer: &Peer<'_>,
    env: &Env,
    namespace: &str,
) -> core::result::Result<Response, Failure> {
    let door = peer.door(namespace, "frames?");
    let response = stream_of(env, namespace, &door)
        .await
        .map_err(Error::from)?;
    Ok(response.into())
}

async fn stream_of(
    env: &Env,
    namespace: &str,
    door: &str,
) -> core::result::Result<web_sys::Response, JsValue> {
    let stream: Function = Reflect::get(env.as_ref(), &"streamArchive".into())?.dyn_into()?;
    let opened = stream.call2(&JsValue::UNDEFINED, &namespace.into(), &door.into())?;
    JsFuture::from(Promise::resolve(&opened)).await?.dyn_into()
}

/// What the broker answered to the question for a part.
#[wasm_bindgen(getter_with_clone)]
#[derive(Default)]
pub struct ArchivePart {
    /// By which the next part is asked for.
    pub export: u64,
    /// The part itself.
    pub bytes: Vec<u8>,
    /// Whether the archive ends with it.
    pub last: bool,
    /// The response to a client that gets none.
    pub refusal: Option<web_sys::Response>,
}

/// The frames that ask for a part; the first part of the export 0 begins one.
#[wasm_bindgen]
pub fn part_frames(export: u64, part: u32) -> Vec<u8> {
    http::export_frames(export, part.into())
}

/// The media type of an archive.
#[wasm_bindgen]
pub fn archive_type() -> String {
    http::ARCHIVE.to_owned()
}

/// Reads the replies to [`part_frames`].
#[wasm_bindgen]
pub fn archive_part(replies: &[u8]) -> ArchivePart {
    match answer(replies) {
        Some(Reply::ArchivePart(part)) => ArchivePart {
            export: part.export,
            bytes: part.bytes.to_vec(),
            last: part.last,
            refusal: None,
        },
        reply => {
            let refusal = reply.and_then(|reply| http::response("", &reply));
            let refusal = plain(refusal.unwrap_or_else(http::lost_response));
            ArchivePart {
                refusal: refusal.ok().map(web_sys::Response::from),
                ..ArchivePart::default()
            }
        }
    }
}

/// The reply to the command, which came behind `hello`.
fn answer(replies: &[u8]) -> Option<Reply<'_>> {
    decoded(replies).find(|reply| !matches!(reply, Reply::Welcome(_)))
}
