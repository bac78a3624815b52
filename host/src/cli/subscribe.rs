//! `dunlin sub`: prints messages as they come.

use core::fmt::Write as _;
use core::time::Duration;

use anyhow::{Error, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use dunlin_core::frame::{self, Command, Delivery, Reply};
use dunlin_core::http;

use super::client::Client;
use super::member::{Member, Membership};
use super::{Format, Target, print_line};

/// How many deliveries may be under way.
const CREDIT: u64 = 1024;

/// The number of the one subscription.
const SUBSCRIPTION: u32 = http::SUBSCRIPTION;

/// The first and the longest pause before connecting again; it doubles from one to the next.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The flags of `dunlin sub`.
#[derive(Args, Debug)]
pub(super) struct Subscribe {
    #[command(flatten)]
    target: Target,
    /// A topic, or a pattern: `+` stands for one level, `#` for the rest; a member of a group may name several
    #[arg(required = true, value_name = "FILTER")]
    filters: Vec<String>,
    /// Where to begin: latest (the default), earliest, offset:N, timestamp:MS, last:N or resume:TOKEN:SEQUENCE; where a
    /// group begins that is new: earliest (the default), latest or timestamp:MS
    #[arg(long, value_name = "PLACE")]
    from: Option<String>,
    /// Ends after so many messages; a member of a group is done with exactly so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// What becomes of messages that come faster than they are printed [default: the broker's]
    #[arg(long, value_enum, value_name = "POLICY", conflicts_with = "group")]
    on_lag: Option<OnLag>,
    /// Ends when the connection breaks off, instead of connecting again and going on after the last message
    #[arg(long)]
    no_reconnect: bool,
    /// How to print a message; as JSON gaps are printed too
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    membership: Membership,
}

/// What becomes of messages for a subscriber that is too slow.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum OnLag {
    /// The oldest are left out, and the gap is told
    DropOldest,
    /// The newest are left out, and the gap is told
    DropNewest,
    /// Publishers wait, for as long as the broker lets them; with a log topic nothing is left out
    Block,
    /// The subscription ends
    Close,
}

impl OnLag {
    const fn as_str(self) -> &'static str {
        match self {
            Self::DropOldest => "drop_oldest",
            Self::DropNewest => "drop_newest",
            Self::Block => "block",
            Self::Close => "close",
        }
    }
}

/// The place that a subscription has come to.
#[derive(Default)]
struct Place {
    token: String,
    sequence: u64,
    /// How many messages were printed.
    printed: u64,
}

impl Place {
    /// Where to begin, or to go on.
    fn from(&self, first: Option<&str>) -> String {
        match self.token.as_str() {
            "" => first.unwrap_or("latest").to_owned(),
            token => format!("resume:{token}:{}", self.sequence),
        }
    }
}

/// Why a subscription does not go on.
pub(super) enum End {
    /// The connection is gone; another one may do.
    Lost(Error),
    Refused(Error),
}

impl Subscribe {
    pub(super) async fn run(self) -> Result<()> {
        let mut member = match (&self.membership.group, &self.filters[..]) {
            (Some(group), _) => Some(Member::new(
                group,
                &self.membership,
                &self.filters,
                self.from.as_deref(),
                (self.count, self.format),
            )),
            (None, [_]) => None,
            (None, _) => bail!("several filters are for members of a group; add --group NAME"),
        };
        let mut place = Place::default();
        let mut client = Client::connect(&self.target).await?;
        let outcome = tokio::select! {
            outcome = self.listen_on(&mut client, &mut place, member.as_mut()) => outcome,
            _ = tokio::signal::ctrl_c() => {
                if let Some(member) = &mut member {
                    member.leave(&mut client).await;
                }
                return Ok(());
            }
        };
        if outcome.is_ok() {
            client.close().await;
        } else if !place.token.is_empty() {
            let from = place.from(self.from.as_deref());
            eprintln!("dunlin: to go on after the last message, use --from {from}");
        }
        outcome
    }

    /// Listens over one connection after the other.
    async fn listen_on(
        &self,
        client: &mut Client,
        place: &mut Place,
        mut member: Option<&mut Member<'_>>,
    ) -> Result<()> {
        let mut pause = PAUSE.0;
        loop {
            let printed = place.printed;
            let end = match &mut member {
                None => self.listen(client, place).await,
                Some(member) => member.listen(client, &mut place.printed).await,
            };
            let lost = match end {
                Ok(()) => return Ok(()),
                Err(End::Refused(error)) => return Err(error),
                Err(End::Lost(error)) if self.no_reconnect => return Err(error),
                Err(End::Lost(error)) => error,
            };
            if place.printed > printed {
                pause = PAUSE.0;
            }
            eprintln!("dunlin: {lost:#}; connecting again");
            *client = loop {
                tokio::time::sleep(with_jitter(pause)).await;
                pause = (pause * 2).min(PAUSE.1);
                if let Ok(client) = Client::connect(&self.target).await {
                    break client;
                }
            };
        }
    }

    async fn listen(&self, client: &mut Client, place: &mut Place) -> Result<(), End> {
        self.subscribe(client, place).await?;
        let mut taken = 0;
        loop {
            let frame = client.receive().await.map_err(End::Lost)?;
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
                    print(self.format, &reply, || human(delivery))?;
                    place.printed += 1;
                    taken += 1;
                    if self.count == Some(place.printed) {
                        return Ok(());
                    }
                }
                Reply::Gap(gap) => {
                    // One of a single partition says nothing about the others; what a crash took is numbered again.
                    match (gap.topic, gap.reason) {
                        (_, "truncated") => place.sequence = gap.after,
                        (None, _) => place.sequence = gap.to,
                        (Some(_), _) => {}
                    }
                    print_gap(self.format, gap)?;
                }
                Reply::Failed(failed) => {
                    return Err(refused(failed.code, failed.message));
                }
                Reply::Ended(ended) => return Err(refused(ended.code, ended.message)),
                Reply::GoingAway(_) => {
                    return Err(End::Lost(anyhow!("draining: the broker is stopping")));
                }
                // The broker restarted behind the socket: state the place again.
                Reply::Resync(_) => {
                    self.subscribe(client, place).await?;
                    taken = 0;
                }
                _ => {}
            }
            if taken >= CREDIT / 2 {
                client.queue(&Command::Credit(frame::Credit {
                    subscription: SUBSCRIPTION,
                    messages: taken,
                }));
                client.flush().await.map_err(End::Lost)?;
                taken = 0;
            }
        }
    }

    async fn subscribe(&self, client: &mut Client, place: &Place) -> Result<(), End> {
        let from = place.from(self.from.as_deref());
        let command = Command::Subscribe(frame::Subscribe {
            request: 1,
            subscription: SUBSCRIPTION,
            filter: &self.filters[0],
            from: Some(&from),
            credit: Some(CREDIT),
            on_lag: self.on_lag.map(OnLag::as_str),
            lag_max: None,
            partition: None,
        });
        client.send(&command).await.map_err(End::Lost)
    }
}

/// Prints a delivery or a gap; one that has no text for people is not printed for them.
pub(super) fn print(
    format: Format,
    reply: &Reply<'_>,
    human: impl FnOnce() -> String,
) -> Result<(), End> {
    let line = match format {
        Format::Human => human(),
        Format::Json => http::event("", reply).map_or_else(String::new, |event| event.data),
    };
    if !line.is_empty() {
        print_line(&line).map_err(|error| End::Refused(error.into()))?;
    }
    Ok(())
}

/// Prints a gap, for people beside the messages.
pub(super) fn print_gap(format: Format, gap: &frame::Gap<'_>) -> Result<(), End> {
    if format == Format::Human {
        eprintln!("dunlin: {}", gap_text(gap));
    }
    print(format, &Reply::Gap(*gap), String::new)
}

pub(super) fn refused(code: &str, message: &str) -> End {
    End::Refused(anyhow!("{code}: {message}"))
}

/// Up to a fifth more or less, so that the clients of a broker that comes back do not all come at once.
fn with_jitter(pause: Duration) -> Duration {
    let share = getrandom::u32().map_or(0.5, |dice| f64::from(dice) / f64::from(u32::MAX));
    pause.mul_f64(0.8 + 0.4 * share)
}

pub(super) fn human(delivery: &Delivery<'_>) -> String {
    let mut line = format!(
        "{} {}@{} ",
        delivery.topic, delivery.partition, delivery.offset
    );
    if let Some(attempt) = delivery.attempt.filter(|attempt| *attempt > 1) {
        let _ = write!(line, "(attempt {attempt}) ");
    }
    if let Some(key) = delivery.key {
        let _ = write!(line, "[{key}] ");
    }
    match core::str::from_utf8(delivery.payload) {
        Ok(text) => line.push_str(&harmless(text)),
        Err(_) => {
            let _ = write!(line, "({} bytes, not text)", delivery.payload.len());
        }
    }
    line
}

/// A text in one line that does not steer anybody's terminal.
pub(super) fn harmless(text: &str) -> String {
    let shown = text.chars().flat_map(|character| {
        let shown = if character.is_control() && character != '\t' {
            character.escape_default().collect::<Vec<_>>()
        } else {
            vec![character]
        };
        shown.into_iter()
    });
    shown.collect()
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
    let range = match (gap.from_offset, gap.to_offset) {
        (Some(from), Some(to)) => format!("offsets {from} to {}", to.saturating_sub(1)),
        _ => format!("sequences {} to {}", gap.after + 1, gap.to),
    };
    format!("{count} missing here{topic}, {range}: {}", gap.reason)
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
            reply_to: None,
            priority: None,
            lease: None,
            attempt: None,
        };
        assert_eq!(human(&delivery), "a/b 2@3 [k] é\\n\\u{1b}[2J");
        delivery.attempt = Some(2);
        delivery.payload = &[0xff];
        assert_eq!(
            human(&delivery),
            "a/b 2@3 (attempt 2) [k] (1 bytes, not text)"
        );
    }

    #[test]
    fn a_gap_names_its_range_and_its_reason() {
        let mut gap = frame::Gap {
            subscription: 1,
            reason: "dropped",
            after: 7,
            to: 12,
            count: Some(3),
            topic: None,
            partition: None,
            from_offset: None,
            to_offset: None,
        };
        assert_eq!(
            gap_text(&gap),
            "3 messages are missing here, sequences 8 to 12: dropped"
        );
        gap.count = None;
        gap.topic = Some("a");
        gap.from_offset = Some(2);
        gap.to_offset = Some(5);
        assert_eq!(
            gap_text(&gap),
            "some messages are missing here of a, offsets 2 to 4: dropped"
        );
    }

    #[test]
    fn a_pause_differs_by_a_fifth_at_most() {
        for _ in 0..100 {
            let pause = with_jitter(PAUSE.0).as_millis();
            assert!((800..=1_200).contains(&pause), "{pause}");
        }
    }
}
