//! `dunlin dead-letters`: what a queue gave up, and what becomes of it.

use anyhow::Result;
use clap::{Args, Subcommand};
use dunlin_core::frame::{
    Command, DeadOffset, DeleteDeadLetters, List, ReadDeadLetters, Record, ReplayDeadLetters, Reply,
};
use dunlin_core::http::{self, REQUEST};

use super::client::{Client, unexpected};
use super::subscribe::harmless;
use super::{Format, Target, print_line};

/// The flags of `dunlin dead-letters`.
#[derive(Args, Debug)]
pub(super) struct DeadLetters {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Prints dead letters that nobody has dealt with, the oldest first
    List(Print),
    /// Delivers dead letters to their group again, where they were
    ///
    /// What a member acknowledges then is done; what nobody takes, or fails again, stays.
    Replay(Replay),
    /// Deletes dead letters, for good
    Delete(Delete),
}

#[derive(Args, Debug)]
struct Named {
    #[command(flatten)]
    target: Target,
    /// The group that gave them up
    group: String,
}

/// Which dead letters by what they are.
#[derive(Args, Debug)]
struct Wanted {
    /// Only those whose topic matches
    #[arg(long)]
    filter: Option<String>,
    /// Only those that died of this: max_delivery_attempts or rejected
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Args, Debug)]
struct Print {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    wanted: Wanted,
    /// The first place among the dead letters
    #[arg(long, value_name = "N")]
    from: Option<u64>,
    /// Ends after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// How to print a dead letter
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Which dead letters are dealt with. Not to say so could be a mistake that nobody can undo.
#[derive(Args, Debug)]
struct Selection {
    /// Those in these places, as `list` prints them; or else say --filter, --reason or --all
    #[arg(long, value_name = "N,N...", value_delimiter = ',', required_unless_present_any = ["filter", "reason", "all"], conflicts_with_all = ["filter", "reason", "all"])]
    offsets: Vec<u64>,
    #[command(flatten)]
    wanted: Wanted,
    /// All of them
    #[arg(long, conflicts_with_all = ["filter", "reason"])]
    all: bool,
}

#[derive(Args, Debug)]
struct Replay {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    selection: Selection,
    /// So many a second, instead of all at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
}

#[derive(Args, Debug)]
struct Delete {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    selection: Selection,
}

impl DeadLetters {
    pub(super) async fn run(self) -> Result<()> {
        match self.verb {
            Verb::List(print) => print.run().await,
            Verb::Replay(replay) => {
                let Named { target, group } = &replay.named;
                let mut client = Client::connect(target).await?;
                let offsets = replay.selection.offsets(&mut client, group).await?;
                let command = Command::ReplayDeadLetters(ReplayDeadLetters {
                    request: REQUEST,
                    group,
                    offsets: offsets.as_deref().map(List::new),
                    rate: replay.rate,
                });
                affect(client, offsets.as_deref(), &command, "replayed").await
            }
            Verb::Delete(delete) => {
                let Named { target, group } = &delete.named;
                let mut client = Client::connect(target).await?;
                let offsets = delete.selection.offsets(&mut client, group).await?;
                let command = Command::DeleteDeadLetters(DeleteDeadLetters {
                    request: REQUEST,
                    group,
                    offsets: offsets.as_deref().map(List::new),
                });
                affect(client, offsets.as_deref(), &command, "deleted").await
            }
        }
    }
}

/// Does what is to be done with some dead letters, and tells how many there were.
async fn affect(
    mut client: Client,
    offsets: Option<&[u8]>,
    command: &Command<'_>,
    did: &str,
) -> Result<()> {
    let mut messages = 0;
    if offsets.is_none_or(|offsets| !offsets.is_empty()) {
        let frame = client.ask(command).await?;
        let Ok(Reply::Affected(affected)) = Reply::decode(&frame) else {
            return Err(unexpected("a command on dead letters"));
        };
        messages = affected.messages;
    }
    client.close().await;
    let letters = if messages == 1 { "letter" } else { "letters" };
    Ok(print_line(&format!("{did} {messages} dead {letters}"))?)
}

impl Selection {
    /// The places that are meant, as a list in a frame; none where all are.
    async fn offsets(&self, client: &mut Client, group: &str) -> Result<Option<Vec<u8>>> {
        if self.all {
            return Ok(None);
        }
        let mut offsets = Vec::new();
        let mut push = |offset| List::push(&mut offsets, &DeadOffset { offset });
        if self.offsets.is_empty() {
            read(client, group, &self.wanted, None, |record| {
                push(record.offset);
                Ok(true)
            })
            .await?;
        } else {
            self.offsets.iter().copied().for_each(push);
        }
        Ok(Some(offsets))
    }
}

/// Reads dead letters page by page, until `take` has had enough.
async fn read(
    client: &mut Client,
    group: &str,
    wanted: &Wanted,
    from: Option<u64>,
    mut take: impl FnMut(&Record<'_>) -> Result<bool>,
) -> Result<()> {
    let mut from_offset = from;
    loop {
        let command = Command::ReadDeadLetters(ReadDeadLetters {
            request: REQUEST,
            group,
            from_offset,
            messages_max: None,
            filter: wanted.filter.as_deref(),
            reason: wanted.reason.as_deref(),
        });
        let frame = client.ask(&command).await?;
        let Ok(Reply::DeadLetters(letters)) = Reply::decode(&frame) else {
            return Err(unexpected("read_dead_letters"));
        };
        for record in letters.records.iter().flatten() {
            if !take(&record)? {
                return Ok(());
            }
        }
        if !letters.more {
            return Ok(());
        }
        from_offset = Some(letters.next_offset);
    }
}

impl Print {
    async fn run(&self) -> Result<()> {
        let Named { target, group } = &self.named;
        let mut client = Client::connect(target).await?;
        let mut left = self.count.unwrap_or(u64::MAX);
        read(&mut client, group, &self.wanted, self.from, |record| {
            let line = match self.format {
                Format::Human => human(record),
                Format::Json => http::object(record, 0),
            };
            print_line(&line)?;
            left -= 1;
            Ok(left > 0)
        })
        .await?;
        client.close().await;
        Ok(())
    }
}

/// A dead letter in one line: its place, where it was, why it is here, and what it says.
fn human(record: &Record<'_>) -> String {
    let told = |name: &str| {
        let mut headers = record.headers.iter().flat_map(|headers| headers.iter());
        let found = headers.find(|(known, _)| known.strip_prefix("dunlin-dead-") == Some(name));
        found.map_or("?", |(_, value)| value)
    };
    let note = match told("note") {
        "?" => String::new(),
        note => format!(" ({})", harmless(note)),
    };
    let key = record.key.map(|key| format!("[{}] ", harmless(key)));
    let text = core::str::from_utf8(record.payload).map_or_else(
        |_| format!("({} bytes, not text)", record.payload.len()),
        harmless,
    );
    format!(
        "{}: {} {}@{} {}{note}, attempts {}: {}{text}",
        record.offset,
        told("topic"),
        told("partition"),
        told("offset"),
        told("reason"),
        told("attempts"),
        key.unwrap_or_default(),
    )
}
