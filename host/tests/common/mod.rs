//! A real broker in a process of its own, and clients that share no code with it but the frames.
#![allow(dead_code, reason = "every test file uses its own part")]

use core::time::Duration;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// How long anything may take before a test gives up; nothing waits this long when it works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The program under test.
pub(crate) fn dunlin() -> Command {
    Command::new(env!("CARGO_BIN_EXE_dunlin"))
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    dunlin().args(arguments).output().unwrap()
}

/// What the program said in vain.
pub(crate) fn complaint(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A running broker; dropping it kills it.
pub(crate) struct Broker {
    child: Child,
    /// `127.0.0.1:PORT`
    pub(crate) address: String,
}

impl Broker {
    pub(crate) fn start(data: &Path, more: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", data, more)
    }

    pub(crate) fn start_at(listen: &str, data: &Path, more: &[&str]) -> Self {
        let mut child = dunlin()
            .args(["serve", "--listen", listen, "--data"])
            .arg(data)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        let (_, address) = line
            .trim()
            .split_once("http://")
            .expect("the broker started");
        Self {
            child,
            address: address.trim_end_matches('/').to_owned(),
        }
    }

    /// A broker that keeps nothing. Its engine starts at once, since it need not be compiled.
    pub(crate) fn in_memory(more: &[&str]) -> Self {
        let nowhere = Path::new("/nonexistent");
        let flags = ["--store", "memory", "--engine", "native"];
        Self::start(nowhere, &[&flags, more].concat())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let sent = Command::new("kill").args(["-TERM", &self.pid()]).status();
        assert!(sent.unwrap().success());
    }

    /// Sends SIGTERM and waits for the end that it brings.
    pub(crate) fn stop(self) {
        self.terminate();
        self.wait();
    }

    /// Waits for an end that somebody else asked for.
    pub(crate) fn wait(mut self) {
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }

    /// Ends it as the power switch of a process does.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(crate) fn lines(&self) -> Vec<Value> {
        let lines = self.body.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Status and code of a refusal, which must come with a message.
    pub(crate) fn refusal(&self) -> (u16, String) {
        let told = self.json();
        assert!(
            told["message"].as_str().is_some_and(|text| text.len() > 8),
            "{self:?}"
        );
        (self.status, told["code"].as_str().unwrap().to_owned())
    }
}

/// One request in one connection, written as it stands, so that wrong ones can be made too.
pub(crate) fn http(
    broker: &Broker,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut stream = stream(broker, method, target, headers, body);
    let mut status = String::new();
    stream.read_line(&mut status).unwrap();
    let status = status
        .split(' ')
        .nth(1)
        .expect("a status line")
        .parse()
        .unwrap();
    let headers = read_headers(&mut stream);
    let mut body = String::new();
    stream.read_to_string(&mut body).unwrap();
    if headers.contains(&("transfer-encoding".to_owned(), "chunked".to_owned())) {
        panic!("an answer without a length");
    }
    Answer {
        status,
        headers,
        body,
    }
}

/// Sends a request and leaves the answer to be read.
pub(crate) fn stream(
    broker: &Broker,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(&broker.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = format!("{method} {target} HTTP/1.1\r\nconnection: close\r\n");
    let has = |name| headers.iter().any(|(known, _)| *known == name);
    if !has("host") {
        head.push_str(&format!("host: {}\r\n", broker.address));
    }
    if !has("content-length") {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    // A broker that has refused the head need not read the body.
    let _ = stream.write_all(body);
    BufReader::new(stream)
}

pub(crate) fn read_headers(stream: &mut BufReader<TcpStream>) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim().split_once(": ") else {
            return headers;
        };
        headers.push((name.to_owned(), value.to_owned()));
    }
}

/// Publishes a text over HTTP and gives the receipt.
pub(crate) fn publish(broker: &Broker, topic: &str, text: &str, headers: &[(&str, &str)]) -> Value {
    let target = format!("/v1/main/topics/{topic}");
    let answer = http(broker, "POST", &target, headers, text.as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// The texts of a topic's history.
pub(crate) fn history(broker: &Broker, topic: &str, query: &str) -> Vec<String> {
    let answer = http(
        broker,
        "GET",
        &format!("/v1/main/topics/{topic}?{query}"),
        &[],
        b"",
    );
    assert_eq!(answer.status, 200, "{answer:?}");
    let texts = answer.lines().into_iter();
    texts
        .map(|record| record["payload"].as_str().unwrap().to_owned())
        .collect()
}

/// A WebSocket that speaks JSON, or whatever a test wants.
pub(crate) struct Socket(pub(crate) WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>);

impl Socket {
    /// Opens a WebSocket to the namespace `main` with these headers.
    pub(crate) async fn open(broker: &Broker, headers: &[(&str, &str)]) -> Result<Self, Error> {
        Self::open_as(broker, "", headers).await
    }

    /// The same with a query, which may say who it is.
    pub(crate) async fn open_as(
        broker: &Broker,
        query: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Error> {
        let url = format!("ws://{}/v1/main/connect?{query}", broker.address);
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            let name =
                tokio_tungstenite::tungstenite::http::HeaderName::from_bytes(name.as_bytes());
            request
                .headers_mut()
                .insert(name.unwrap(), value.parse().unwrap());
        }
        let (socket, _) = tokio_tungstenite::connect_async(request).await?;
        Ok(Self(socket))
    }

    /// Opens one that has said hello in JSON.
    pub(crate) async fn hello(broker: &Broker) -> Self {
        Self::hello_as(broker, "").await
    }

    /// The same with a query, which may say who it is.
    pub(crate) async fn hello_as(broker: &Broker, query: &str) -> Self {
        let mut socket = Self::open_as(broker, query, &[]).await.unwrap();
        socket.say(r#"{"type":"hello","version":1}"#).await;
        let answer = socket.hear().await;
        assert_eq!(answer["type"], "hello", "{answer}");
        socket
    }

    pub(crate) async fn say(&mut self, text: &str) {
        self.0.send(Message::text(text.to_owned())).await.unwrap();
    }

    /// The next message, whatever it is.
    pub(crate) async fn next(&mut self) -> Message {
        let next = tokio::time::timeout(PATIENCE, self.0.next()).await;
        next.expect("an answer in time")
            .expect("an open socket")
            .unwrap()
    }

    /// The next message, which must be one line of JSON.
    pub(crate) async fn hear(&mut self) -> Value {
        let message = self.next().await;
        let text = message.to_text().unwrap();
        serde_json::from_str(text.trim()).unwrap_or_else(|_| panic!("not one object: {text:?}"))
    }

    /// Every line of the coming messages until `count` of them are of this type.
    pub(crate) async fn hear_all(&mut self, kind: &str, count: usize) -> Vec<Value> {
        let mut heard = Vec::new();
        while heard.len() < count {
            let message = self.next().await;
            let lines = message.to_text().unwrap().lines();
            let values = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
            heard.extend(values.filter(|value| value["type"] == kind));
        }
        assert_eq!(heard.len(), count, "{heard:?}");
        heard
    }

    /// The code and reason of the close that must come, after what else comes.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        loop {
            if let Message::Close(Some(close)) = self.next().await {
                return (close.code.into(), close.reason.to_string());
            }
        }
    }
}
