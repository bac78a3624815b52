//! `dunlin sub`: prints messages as they come.

use core::fmt::Write as _;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use dunlin_core::frame::{self, Command, Delivery, Reply};
use dunlin_core::http;

use super::client::Client;
use super::{Target, print_line};

/// How many deliveries may be under way.
const CREDIT: u64 = 1024;

/// The number of the one subscription.
const SUBSCRIPTION: u32 = http::SUBSCRIPTION;

/// The flags of `dunlin sub`.
#[derive(Args, Debug)]
pub(super) struct Subscribe {
    #[command(flatten)]
    target: Target,
    /// A topic, or a pattern: `+` stands for one level, `#` for the rest
    filter: String,
    /// Where to begin: latest, earliest, offset:N, timestamp:MS, last:N or resume:TOKEN:SEQUENCE
    #[arg(long, value_name = "PLACE", default_value = "latest")]
    from: String,
    /// Ends after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// How to print a message
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// How a message is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line for people
    #[default]
    Human,
    /// A JSON object a line, gaps included
    Json,
}

/// The place that a subscription has come to.
#[derive(Default)]
struct Place {
    token: String,
    sequence: u64,
}

impl Subscribe {
    pub(super) async fn run(self) -> Result<()> {
        let mut client = Client::connect(&self.target).await?;
        let mut place = Place::default();
        let outcome = tokio::select! {
            outcome = self.listen(&mut client, &mut place) => outcome,
            _ = tokio::signal::ctrl_c() => Ok(()),
        };
        if outcome.is_ok() {
            client.close().await;
        } else if !place.token.is_empty() {
            eprintln!(
                "dunlin: to go on after the last message, use --from resume:{}:{}",
                place.token, place.sequence
            );
        }
        outcome
    }

    async fn listen(&self, client: &mut Client, place: &mut Place) -> Result<()> {
        subscribe(client, &self.filter, &self.from).await?;
        let mut left = self.count;
        let mut taken = 0;
        loop {
            let frame = client.receive().await?;
            let Ok(reply) = Reply::decode(&frame) else {
                continue;
            };
            match &reply {
                Reply::Subscribed(subscribed) => {
                    subscribed.token.clone_into(&mut place.token);
                    place.sequence = place.sequence.max(subscribed.sequence);
                }
                Reply::Delivery(delivery) => {
                    place.sequence = delivery.sequence;
                    self.print(&reply, || human(delivery))?;
                    left = left.map(|left| left - 1);
                    taken += 1;
                    if left == Some(0) {
                        return Ok(());
                    }
                }
                Reply::Gap(gap) => {
                    place.sequence = gap.to;
                    let text = gap_text(gap);
                    if self.format == Format::Human {
                        eprintln!("dunlin: {text}");
                    }
                    self.print(&reply, String::new)?;
                }
                Reply::Failed(failed) => bail!("{}: {}", failed.code, failed.message),
                Reply::Ended(ended) => bail!("{}: {}", ended.code, ended.message),
                Reply::GoingAway(_) => bail!("draining: the broker is stopping"),
                // The broker restarted behind the socket: state the place again.
                Reply::Resync(_) => {
                    let from = format!("resume:{}:{}", place.token, place.sequence);
                    subscribe(client, &self.filter, &from).await?;
                    taken = 0;
                }
                _ => {}
            }
            if taken >= CREDIT / 2 {
                client.queue(&Command::Credit(frame::Credit {
                    subscription: SUBSCRIPTION,
                    messages: taken,
                }));
                client.flush().await?;
                taken = 0;
            }
        }
    }

    fn print(&self, reply: &Reply<'_>, human: impl FnOnce() -> String) -> Result<()> {
        let line = match self.format {
            Format::Human => human(),
            Format::Json => match http::event("", reply) {
                Some(event) => event.data,
                None => return Ok(()),
            },
        };
        if !line.is_empty() {
            print_line(&line)?;
        }
        Ok(())
    }
}

async fn subscribe(client: &mut Client, filter: &str, from: &str) -> Result<()> {
    client
        .send(&Command::Subscribe(frame::Subscribe {
            request: 1,
            subscription: SUBSCRIPTION,
            filter,
            from: Some(from),
            credit: Some(CREDIT),
            on_lag: None,
            lag_max: None,
            partition: None,
        }))
        .await
}

fn human(delivery: &Delivery<'_>) -> String {
    let mut line = format!(
        "{} {}@{} ",
        delivery.topic, delivery.partition, delivery.offset
    );
    if let Some(key) = delivery.key {
        let _ = write!(line, "[{key}] ");
    }
    match core::str::from_utf8(delivery.payload) {
        // A message must not steer somebody's terminal.
        Ok(text) => line.extend(text.chars().flat_map(|character| {
            let shown = if character.is_control() && character != '\t' {
                character.escape_default().collect::<Vec<_>>()
            } else {
                vec![character]
            };
            shown.into_iter()
        })),
        Err(_) => {
            let _ = write!(line, "({} bytes, not text)", delivery.payload.len());
        }
    }
    line
}

fn gap_text(gap: &frame::Gap<'_>) -> String {
    let count = gap.count.map_or_else(
        || "some messages are".to_owned(),
        |count| format!("{count} messages are"),
    );
    let topic = gap
        .topic
        .map(|topic| format!(" of {topic}"))
        .unwrap_or_default();
    format!("{count} missing here{topic}: {}", gap.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_for_people_is_one_harmless_line() {
        let mut delivery = Delivery {
            subscription: 1,
            topic: "a/b",
            partition: 2,
            offset: 3,
            sequence: 4,
            timestamp: 5,
            payload: "é\n\u{1b}[2J".as_bytes(),
            key: Some("k"),
            content_type: None,
            headers: None,
            id: None,
            expires_at: None,
        };
        assert_eq!(human(&delivery), "a/b 2@3 [k] é\\n\\u{1b}[2J");
        delivery.payload = &[0xff];
        assert_eq!(human(&delivery), "a/b 2@3 [k] (1 bytes, not text)");
    }
}
