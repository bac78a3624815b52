//! Where the runtime enters the gateway: from its requests to plain values, to the object of the namespace, and back.

use core::fmt::Write as _;
use core::net::IpAddr;

use dunlin_core::frame::Reply;
use dunlin_core::http::{self, Identity, NamespacesPage, Problem, Route};
use dunlin_core::{Reader, Rights};
use futures_util::StreamExt;
use worker::js_sys::{self, Uint8Array};
use worker::{
    Context, Env, Headers, Method, Request, RequestInit, Response, ResponseBuilder, Result, event,
};

use crate::admission::{Admitted, Asked, Settings, Spoken, Target};
use crate::{archive, stream};

/// The largest body that is read. What fits exactly the broker decides, which also counts headers.
const BODY_BYTES_MAX: usize = 1024 * 1024 + 128 * 1024;

/// The headers that such a page may send; `dunlin-header-*` can only be listed one by one, as the browser asks.
const PREFLIGHT_SECONDS: &str = "600";

/// Why there is no answer from the broker: a refusal that is the client's to read, or a failure that is not.
pub(crate) enum Failure {
    Refused(Problem),
    Broken(worker::Error),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

impl From<worker::Error> for Failure {
    fn from(error: worker::Error) -> Self {
        Self::Broken(error)
    }
}

/// Answers one request.
#[event(fetch)]
async fn fetch(mut request: Request, env: Env, _context: Context) -> Result<Response> {
    let origin = request.headers().get("origin")?;
    let (response, allowed) = match answer(&mut request, &env).await {
        Ok(response) => (response, true),
        Err(Failure::Refused(problem)) => {
            let allowed = problem.status != 403;
            (plain(problem.response())?, allowed)
        }
        Err(Failure::Broken(error)) => {
            worker::console_error!("the broker did not answer: {error}");
            (plain(http::lost_response())?, true)
        }
    };
    match origin {
        // What belongs to a WebSocket cannot be changed any more, and needs no permission to be read.
        Some(origin) if allowed && response.status_code() != 101 => with_cors(response, &origin),
        _ => Ok(response),
    }
}

async fn answer(request: &mut Request, env: &Env) -> core::result::Result<Response, Failure> {
    let url = request.inner().url();
    let target = Target::parse(&url)?;
    let method = request.inner().method();
    let header = |name| request.headers().get(name).ok().flatten();
    let (origin, authorization) = (header("origin"), header("authorization"));
    let asked = Asked {
        method: &method,
        target,
        origin: origin.as_deref(),
        authorization: authorization.as_deref(),
    };
    let settings = Settings::parse(
        text(env, "DUNLIN_TOKENS").as_deref(),
        text(env, "DUNLIN_OPERATOR_TOKEN").as_deref(),
        text(env, "DUNLIN_ORIGINS").as_deref(),
    );
    let route = match asked.admit(&settings)? {
        Admitted::Route(route) => route,
        Admitted::Preflight => return Ok(preflight(request)?),
        Admitted::Other => return other(request, env, target).await,
    };
    let rights = asked.rights(&settings, &route);
    let peer = Peer::of(request, env, route.identity(target.query)?, rights);
    match route {
        Route::Healthz | Route::Readyz => Ok(plain(http::health_response(None))?),
        Route::Namespaces => {
            let mut page = NamespacesPage::parse(target.query)?;
            if let Ok(settings) = &settings {
                page.add(settings.tokens.namespaces());
            }
            Ok(plain(page.response())?)
        }
        Route::Connect { namespace } => {
            let spoken = Spoken::choose(
                header("upgrade").as_deref(),
                header("sec-websocket-protocol").as_deref(),
            )?;
            Ok(peer.connect(&namespace, spoken).await?)
        }
        Route::Command { namespace, action } => {
            let headers: Vec<(String, String)> = request.headers().entries().collect();
            let body = body(request).await?;
            let headers = headers.iter().map(|(name, value)| (&**name, &**value));
            let asked = action.ask(target.query, headers, &body)?;
            let replies = peer
                .exchange(&namespace, &asked.frames, asked.answer_ms)
                .await?;
            let response = decoded(&replies).find_map(|reply| action.response(&reply));
            Ok(plain(response.unwrap_or_else(http::lost_response))?)
        }
        Route::Subscribe { namespace } => {
            let resume = header("last-event-id");
            let frames = http::subscribe_frames(target.query, resume.as_deref(), stream::CREDIT)?;
            stream::events(&peer, env, &namespace, &frames).await
        }
        Route::Export { namespace } => archive::export(&peer, env, &namespace).await,
        Route::Import { namespace } => archive::import(&peer, &namespace, request).await,
    }
}

/// Speaks for one client to the object of its namespace.
pub(crate) struct Peer<'e> {
    env: &'e Env,
    identity: Identity,
    rights: Rights,
    /// Its address, as hexadecimal octets; empty where there is none.
    ip: String,
}

impl<'e> Peer<'e> {
    fn of(request: &Request, env: &'e Env, identity: Identity, rights: Rights) -> Self {
        let address = request.headers().get("cf-connecting-ip").ok().flatten();
        let mut ip = String::new();
        let octets = match address.and_then(|text| text.parse().ok()) {
            Some(IpAddr::V4(address)) => address.octets().to_vec(),
            Some(IpAddr::V6(address)) => address.octets().to_vec(),
            None => Vec::new(),
        };
        for octet in octets {
            write!(ip, "{octet:02x}").expect("writing to a string cannot fail");
        }
        Self {
            env,
            identity,
            rights,
            ip,
        }
    }

    /// Opens a socket to the object; the response is the one that the client gets.
    pub(crate) async fn connect(&self, namespace: &str, spoken: Spoken) -> Result<Response> {
        let headers = Headers::new();
        headers.set("upgrade", "websocket")?;
        if let Some(subprotocol) = spoken.subprotocol {
            headers.set("sec-websocket-protocol", subprotocol)?;
        }
        let mut init = RequestInit::new();
        init.with_headers(headers);
        let door = format!("connect?encoding={}&", spoken.encoding);
        self.fetch(namespace, &door, &init).await
    }

    /// Lets the object handle frames, and returns its replies, for which it may wait so much longer than usual.
    pub(crate) async fn exchange(
        &self,
        namespace: &str,
        frames: &[u8],
        answer_ms: u64,
    ) -> Result<Vec<u8>> {
        let mut init = RequestInit::new();
        init.with_method(Method::Post)
            .with_body(Some(Uint8Array::from(frames).into()));
        let door = format!("frames?answer_ms={answer_ms}&");
        let mut response = self.fetch(namespace, &door, &init).await?;
        match response.status_code() {
            200 => response.bytes().await,
            _ => Err(response.text().await?.into()),
        }
    }

    /// The URL of one of the object's doors, for this client.
    pub(crate) fn door(&self, namespace: &str, door: &str) -> String {
        let escaped = js_sys::encode_uri_component;
        let (user, device) = (escaped(&self.identity.user), escaped(&self.identity.device));
        let (namespace, rights, ip) = (escaped(namespace), self.rights.0, &self.ip);
        format!(
            "https://broker/{door}namespace={namespace}&user={user}&device={device}&rights={rights}&ip={ip}"
        )
    }

    async fn fetch(&self, namespace: &str, door: &str, init: &RequestInit) -> Result<Response> {
        let request = Request::new_with_init(&self.door(namespace, door), init)?;
        let object = self.env.durable_object("BROKER")?.get_by_name(namespace)?;
        object.fetch_with_request(request).await
    }
}

/// The frames of a message that can be read.
pub(crate) fn decoded(message: &[u8]) -> impl Iterator<Item = Reply<'_>> {
    let mut reader = Reader::new(message);
    core::iter::from_fn(move || reader.bytes().ok()).filter_map(|frame| Reply::decode(frame).ok())
}

/// The body, unless it is too large; then no more of it is read than the bound.
async fn body(request: &mut Request) -> core::result::Result<Vec<u8>, Failure> {
    let too_large = || {
        Problem::new(
            413,
            "too_large",
            format!("the body has more than {BODY_BYTES_MAX} bytes: publish smaller messages"),
        )
    };
    let announced = request.headers().get("content-length")?;
    if announced
        .and_then(|length| length.parse().ok())
        .is_some_and(|length: usize| length > BODY_BYTES_MAX)
    {
        return Err(too_large().into());
    }
    let mut body = Vec::new();
    if request.inner().body().is_none() {
        return Ok(body);
    }
    let mut parts = request.stream()?;
    while let Some(part) = parts.next().await {
        body.extend_from_slice(&part?);
        if body.len() > BODY_BYTES_MAX {
            return Err(too_large().into());
        }
    }
    Ok(body)
}

/// A file of the console, where one is deployed.
async fn other(
    request: &Request,
    env: &Env,
    target: Target<'_>,
) -> core::result::Result<Response, Failure> {
    match env.assets("ASSETS") {
        Ok(assets) => Ok(assets.fetch_request(request.clone()?).await?),
        Err(_) => Err(Problem::new(
            404,
            http::UNKNOWN_ROUTE,
            format!("nothing is at {}; the API is under /v1/", target.path),
        )
        .into()),
    }
}

fn preflight(request: &Request) -> Result<Response> {
    let headers = Headers::new();
    headers.set("access-control-allow-methods", http::METHODS)?;
    headers.set("access-control-max-age", PREFLIGHT_SECONDS)?;
    if let Some(wanted) = request.headers().get("access-control-request-headers")? {
        headers.set("access-control-allow-headers", &wanted)?;
    }
    Ok(Response::builder()
        .with_status(204)
        .with_headers(headers)
        .empty())
}

fn with_cors(response: Response, origin: &str) -> Result<Response> {
    let headers = Headers::new();
    for (name, value) in response.headers().entries() {
        headers.append(&name, &value)?;
    }
    headers.set("access-control-allow-origin", origin)?;
    headers.set("access-control-expose-headers", http::EXPOSED_HEADERS)?;
    headers.append("vary", "origin")?;
    Ok(response.with_headers(headers))
}

pub(crate) fn plain(response: http::Response) -> Result<Response> {
    let headers = Headers::new();
    headers.set("content-type", &response.content_type)?;
    for (name, value) in &response.headers {
        headers.set(name, value)?;
    }
    ResponseBuilder::new()
        .with_status(response.status)
        .with_headers(headers)
        .from_bytes(response.body)
        .map(|mut finished| {
            // `from_bytes` names a media type of its own.
            let _ = finished
                .headers_mut()
                .set("content-type", &response.content_type);
            finished
        })
}

/// A setting: a secret or variable that is text, or an object that was written as JSON in the configuration.
fn text(env: &Env, name: &str) -> Option<String> {
    let value = js_sys::Reflect::get(env.as_ref(), &name.into()).ok()?;
    if value.is_undefined() || value.is_null() {
        return None;
    }
    value.as_string().or_else(|| {
        let json = js_sys::JSON::stringify(&value).ok()?;
        json.as_string()
    })
}
