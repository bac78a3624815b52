//! A connection to a broker, in the binary encoding.

use core::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use dunlin_core::frame::{Command, Hello, PROTOCOL_VERSION, Reply, SUBPROTOCOL_BINARY};
use dunlin_core::{ErrorCode, Reader};
use futures_util::{SinkExt as _, StreamExt as _};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::Target;

/// How much an idle connection keeps for reading.
const READ_BUFFER_BYTES: usize = 4 * 1024;

/// How long a broker may take to say why its store takes nothing.
const REASON_WITHIN: Duration = Duration::from_secs(3);

/// An open connection whose `hello` has been answered.
pub(super) struct Client {
    socket: WebSocketStream<TcpStream>,
    /// The broker's host and port.
    authority: String,
    /// What came and has not been looked at.
    inbox: Bytes,
    /// What waits to be sent.
    outbox: Vec<u8>,
    /// The largest message that the broker takes.
    message_bytes_max: u64,
}

/// The host and port of a broker's URL. There is no TLS here: certificates are the reverse proxy's business.
fn authority(url: &str) -> Result<&str> {
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("ws://"))
        .ok_or_else(|| {
            anyhow!(
                "--url {url} does not begin with http:// or ws://; this program does not speak TLS"
            )
        })?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.is_empty() || authority.contains(['/', '?', '#', '@']) {
        bail!("--url {url} is not the address of a broker; write it like http://127.0.0.1:8787");
    }
    Ok(authority)
}

impl Client {
    pub(super) async fn connect(target: &Target) -> Result<Self> {
        let Target {
            url,
            namespace,
            token,
            user,
            device,
        } = target;
        let authority = authority(url)?;
        let namespace = utf8_percent_encode(namespace, NON_ALPHANUMERIC);
        let mut address = format!("ws://{authority}/v1/{namespace}/connect?");
        for (parameter, name) in [("user", user), ("device", device)] {
            if let Some(name) = name {
                let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
                address.push_str(&format!("{parameter}={name}&"));
            }
        }
        let mut request = address
            .into_client_request()
            .with_context(|| format!("--url {url} is not the address of a broker"))?;
        let headers = request.headers_mut();
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(SUBPROTOCOL_BINARY),
        );
        if let Some(token) = token {
            let bearer = HeaderValue::from_str(&format!("Bearer {token}"))
                .context("--token, or DUNLIN_TOKEN, has a character that no header can carry; use visible ASCII")?;
            headers.insert(header::AUTHORIZATION, bearer);
        }
        let port = request.uri().port_u16().unwrap_or(80);
        let host = request.uri().host().unwrap_or_default();
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let stream = TcpStream::connect((host.as_str(), port)).await.with_context(|| {
            format!("no broker answers at {url}; start one with `dunlin serve`, or name another with --url")
        })?;
        stream.set_nodelay(true)?;
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES);
        let (socket, _) = client_async_with_config(request, stream, Some(config))
            .await
            .map_err(refused)?;
        let mut client = Self {
            socket,
            authority: authority.to_owned(),
            inbox: Bytes::new(),
            outbox: Vec::new(),
            message_bytes_max: u64::MAX,
        };
        client
            .send(&Command::Hello(Hello {
                version: PROTOCOL_VERSION,
                client: Some(concat!("dunlin-cli/", env!("CARGO_PKG_VERSION"))),
                ephemeral: None,
                echo: None,
            }))
            .await?;
        let frame = client.receive().await?;
        match Reply::decode(&frame) {
            Ok(Reply::Welcome(welcome)) => {
                client.message_bytes_max = welcome.inbound_bytes_max.unwrap_or(u64::MAX);
                Ok(client)
            }
            Ok(Reply::Failed(failed)) => bail!("{}: {}", failed.code, failed.message),
            _ => bail!("the broker does not answer `hello` as version {PROTOCOL_VERSION} does"),
        }
    }

    /// Queues a command for the next [`Client::flush`].
    pub(super) fn queue(&mut self, command: &Command<'_>) {
        command.encode(&mut self.outbox);
    }

    /// Sends what is queued as one message.
    pub(super) async fn flush(&mut self) -> Result<()> {
        let size_bytes = self.outbox.len() as u64;
        if size_bytes > self.message_bytes_max {
            // The broker would break the connection off in the middle of it, and its reason might not arrive.
            bail!(
                "too_large: {size_bytes} bytes at once are more than the {} that the broker takes; publish less at once",
                self.message_bytes_max
            );
        }
        if self.outbox.is_empty() {
            return Ok(());
        }
        let message = Bytes::from(core::mem::take(&mut self.outbox));
        self.socket
            .send(Message::Binary(message))
            .await
            .map_err(lost)
    }

    pub(super) async fn send(&mut self, command: &Command<'_>) -> Result<()> {
        self.queue(command);
        self.flush().await
    }

    /// The frame that answers a command which is the only one under way.
    pub(super) async fn ask(&mut self, command: &Command<'_>) -> Result<Bytes> {
        self.send(command).await?;
        let frame = self.receive().await?;
        self.check(&frame).await?;
        Ok(frame)
    }

    /// Connects for one command; the frame that answers it.
    pub(super) async fn once(target: &Target, command: &Command<'_>) -> Result<Bytes> {
        let mut client = Self::connect(target).await?;
        let frame = client.ask(command).await?;
        client.close().await;
        Ok(frame)
    }

    /// Gives a sign of life.
    pub(super) async fn ping(&mut self) -> Result<()> {
        self.socket.send(Message::text("ping")).await.map_err(lost)
    }

    /// Refuses a frame that says that the broker does not do what it was asked.
    pub(super) async fn check(&self, frame: &[u8]) -> Result<()> {
        match Reply::decode(frame) {
            Ok(Reply::Failed(failed)) if failed.code == ErrorCode::StorageUnavailable.as_str() => {
                bail!("{}: {}{}", failed.code, failed.message, self.reason().await)
            }
            Ok(Reply::Failed(failed)) => bail!("{}: {}", failed.code, failed.message),
            Ok(Reply::GoingAway(_)) => bail!("draining: the broker is stopping; try again later"),
            Ok(Reply::Resync(_)) => bail!(
                "{}: the broker was restored; what has no answer may or may not have taken effect{}",
                ErrorCode::StorageUnavailable.as_str(),
                self.reason().await
            ),
            _ => Ok(()),
        }
    }

    /// What the broker says of its store, which only its host knows; empty if that takes writes.
    async fn reason(&self) -> String {
        let url = format!("http://{}", self.authority);
        let asking =
            tokio::time::timeout(REASON_WITHIN, request(&url, "GET", "/readyz", None, "")).await;
        let answer = asking.ok().and_then(Result::ok);
        let body = answer.map(|(_, body)| body).unwrap_or_default();
        let told: Option<serde_json::Value> = serde_json::from_str(&body).ok();
        let message = told.as_ref().and_then(|told| told.get("message")?.as_str());
        message.map_or_else(String::new, |message| format!(" ({message})"))
    }

    /// Whether a frame is here already.
    pub(super) fn has_received(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// The next frame, without its length. Cancelling it loses nothing.
    pub(super) async fn receive(&mut self) -> Result<Bytes> {
        loop {
            let mut reader = Reader::new(&self.inbox);
            if let Ok(frame) = reader.bytes() {
                let frame = self.inbox.slice_ref(frame);
                self.inbox = self.inbox.slice_ref(reader.rest());
                return Ok(frame);
            }
            match self.socket.next().await {
                Some(Ok(Message::Binary(message))) => self.inbox = message,
                Some(Ok(Message::Close(Some(close)))) => {
                    bail!(
                        "the broker closed the connection: {} ({}){}",
                        close.reason,
                        close.code,
                        self.reason().await
                    )
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(lost(error)),
                None => bail!("the connection to the broker broke off"),
            }
        }
    }

    /// Says goodbye, so that nothing sent is lost on the way.
    pub(super) async fn close(mut self) {
        if self.socket.close(None).await.is_ok() {
            while let Some(Ok(_)) = self.socket.next().await {}
        }
    }
}

/// The status and body of the broker's response over HTTP.
pub(super) async fn request(
    url: &str,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: &str,
) -> Result<(u16, String)> {
    let authority = authority(url)?;
    let address = match authority.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => authority.to_owned(),
        _ => format!("{authority}:80"),
    };
    let mut stream = TcpStream::connect(address).await.with_context(|| {
        format!(
            "no broker answers at {url}; start one with `dunlin serve`, or name another with --url"
        )
    })?;
    let length = body.len();
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\ncontent-length: {length}\r\n"
    );
    if let Some(token) = token {
        if token.bytes().any(|byte| !byte.is_ascii_graphic()) {
            bail!("the token has a character that no header can carry; use visible ASCII");
        }
        request.push_str(&format!("authorization: Bearer {token}\r\n"));
    }
    request.push_str("\r\n");
    request.push_str(body);
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Ok((
        status.context("what answers is no broker")?,
        body.to_owned(),
    ))
}

/// What to say of a reply that does not answer the command.
pub(super) fn unexpected(command: &str) -> anyhow::Error {
    anyhow!("the broker answers `{command}` in a way that this program does not know")
}

fn lost(error: tungstenite::Error) -> anyhow::Error {
    anyhow!("the connection to the broker broke off: {error}")
}

/// What the broker said instead of opening the WebSocket.
fn refused(error: tungstenite::Error) -> anyhow::Error {
    let tungstenite::Error::Http(response) = error else {
        return anyhow!("what answers is no broker: {error}");
    };
    let status = response.status();
    match response.body().as_deref().and_then(told) {
        Some(told) => anyhow!("the broker refused the connection: {told}"),
        None => anyhow!("what answers is no broker: status {status}"),
    }
}

/// The code and the message of a refusal over HTTP.
pub(super) fn told(body: &[u8]) -> Option<String> {
    let told: serde_json::Value = serde_json::from_slice(body).ok()?;
    let member = |name: &str| told.get(name)?.as_str();
    Some(format!("{}: {}", member("code")?, member("message")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_or_refused() {
        assert_eq!(authority("http://a:1").unwrap(), "a:1");
        assert_eq!(authority("ws://[::1]:2/").unwrap(), "[::1]:2");
        for url in [
            "a:1",
            "https://a",
            "http://",
            "http://a/b",
            "http://u@a",
            "",
        ] {
            let told = authority(url).unwrap_err().to_string();
            assert!(told.contains("--url"), "{told}");
        }
    }
}
