//! `dunlin request`: a message that asks for an answer.

use anyhow::{Result, anyhow};
use clap::Args;
use dunlin_core::frame::{Command, Headers, Reply, Request};
use dunlin_core::http::{self, REQUEST};

use super::client::{Client, unexpected};
use super::subscribe::harmless;
use super::time::millis;
use super::{Format, Target, print_line};

/// The flags of `dunlin request`.
#[derive(Args, Debug)]
pub(super) struct Ask {
    #[command(flatten)]
    target: Target,
    /// The topic
    topic: String,
    /// The message
    payload: String,
    /// How long to wait for the answer, like 5s [default: the broker's, 30s]
    #[arg(long, value_name = "DURATION", value_parser = millis)]
    timeout: Option<u64>,
    /// The message's key
    #[arg(long)]
    key: Option<String>,
    /// The media type of the message
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// A header of the message; repeatable
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// How to print the answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn header(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=');
    let (name, value) = pair.ok_or("it has no =; write it like trace=7")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Ask {
    pub(super) async fn run(self) -> Result<()> {
        let pairs = self.headers.iter();
        let headers = Headers::encode(pairs.map(|(name, value)| (name.as_str(), value.as_str())));
        let headers = Headers::parse(&headers)
            .map_err(|_| anyhow!("--header is longer than a frame"))
            .map(|parsed| (!headers.is_empty()).then_some(parsed))?;
        let command = Command::Request(Request {
            request: REQUEST,
            topic: &self.topic,
            payload: self.payload.as_bytes(),
            key: self.key.as_deref(),
            content_type: self.content_type.as_deref(),
            headers,
            id: None,
            timeout_ms: self.timeout,
        });
        let frame = Client::once(&self.target, &command).await?;
        let Ok(Reply::Response(answer)) = Reply::decode(&frame) else {
            return Err(unexpected("request"));
        };
        let line = match (self.format, core::str::from_utf8(answer.payload)) {
            (Format::Json, _) => http::object(&answer, 1),
            (Format::Human, Ok(text)) => harmless(text),
            (Format::Human, Err(_)) => format!(
                "({} bytes, not text; print them with --format json)",
                answer.payload.len()
            ),
        };
        Ok(print_line(&line)?)
    }
}
