//! `dunlin scheduled`: the messages that wait for their time.

use anyhow::Result;
use clap::{Args, Subcommand};
use dunlin_core::frame::{CancelScheduled, Command, ListScheduled, Reply};
use dunlin_core::http::{self, REQUEST};

use super::client::{Client, unexpected};
use super::table::print_table;
use super::time::told;
use super::{Format, Target, print_line};

/// The flags of `dunlin scheduled`.
#[derive(Args, Debug)]
pub(super) struct Scheduled {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Prints the messages that wait, in the order in which they will be published
    List(Print),
    /// Takes back messages that wait, by their numbers
    ///
    /// Ends with `unknown_schedule` at the first that was published, or cancelled, already.
    Cancel(Cancel),
}

#[derive(Args, Debug)]
struct Print {
    #[command(flatten)]
    target: Target,
    /// A topic, or a pattern: `+` stands for one level, `#` for the rest
    #[arg(default_value = "#")]
    filter: String,
    /// How to print a message
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Args, Debug)]
struct Cancel {
    #[command(flatten)]
    target: Target,
    /// The numbers, as `list` and the receipts tell them
    #[arg(required = true, value_name = "NUMBER")]
    schedule_ids: Vec<u64>,
}

impl Scheduled {
    pub(super) async fn run(self) -> Result<()> {
        match self.verb {
            Verb::List(print) => print.run().await,
            Verb::Cancel(Cancel {
                target,
                schedule_ids,
            }) => {
                let mut client = Client::connect(&target).await?;
                for schedule_id in schedule_ids {
                    let command = Command::CancelScheduled(CancelScheduled {
                        request: REQUEST,
                        schedule_id,
                    });
                    client.ask(&command).await?;
                    print_line(&format!("cancelled {schedule_id}"))?;
                }
                client.close().await;
                Ok(())
            }
        }
    }
}

impl Print {
    async fn run(&self) -> Result<()> {
        let mut client = Client::connect(&self.target).await?;
        let mut rows = vec![["NUMBER", "WHEN", "TOPIC", "BYTES", "KEY", "ID"].map(String::from)];
        let mut after = None;
        loop {
            let command = Command::ListScheduled(ListScheduled {
                request: REQUEST,
                filter: Some(&self.filter),
                after,
                scheduled_max: None,
            });
            let frame = client.ask(&command).await?;
            let Ok(Reply::Scheduled(page)) = Reply::decode(&frame) else {
                return Err(unexpected("list_scheduled"));
            };
            for message in page.scheduled.iter().flatten() {
                after = Some(message.schedule_id);
                if self.format == Format::Json {
                    print_line(&http::object(&message, 0))?;
                    continue;
                }
                rows.push([
                    message.schedule_id.to_string(),
                    told(message.deliver_at),
                    message.topic.to_owned(),
                    message.size_bytes.to_string(),
                    message.key.unwrap_or_default().to_owned(),
                    message.id.unwrap_or_default().to_owned(),
                ]);
            }
            if !page.more {
                break;
            }
        }
        client.close().await;
        if rows.len() > 1 {
            print_table(&rows)?;
        }
        Ok(())
    }
}
