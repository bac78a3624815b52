//! `dunlin topic`: what topics there are, what they hold, and how they are kept.

use anyhow::Result;
use clap::{Args, Subcommand};
use dunlin_core::frame::{
    Command, ConfigureTopic, DeleteTopic, DescribeTopic, ListTopics, Reply, TopicDescription,
};
use dunlin_core::http::REQUEST;

use super::client::{Client, unexpected};
use super::{Target, print_line};

/// The flags of `dunlin topic`.
#[derive(Args, Debug)]
pub(super) struct Topic {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Prints the names of topics, in byte order, one a line
    List(List),
    /// Prints what a topic is and what it holds
    ///
    /// Ends with `unknown_topic` if it does not exist.
    Describe(Named),
    /// Creates a topic, or changes how an existing one is kept, and prints what it is then
    ///
    /// What is not named stays as it is, or, with a new topic, as the broker's configuration has it. Kind, ordering and
    /// partitions are fixed once a topic exists: another one ends with `conflicting_config`. Smaller bounds take effect
    /// at once, and what is over them is gone.
    Configure(Configure),
    /// Deletes a topic with all its messages, for good
    ///
    /// Possible on a full disk too, where it makes room. Ends with `unknown_topic` if it does not exist, and with `busy`
    /// while its namespace is exported.
    Delete(Named),
}

#[derive(Args, Debug)]
struct List {
    #[command(flatten)]
    target: Target,
    /// A pattern: `+` stands for one level, `#` for the rest
    #[arg(default_value = "#")]
    filter: String,
}

#[derive(Args, Debug)]
struct Named {
    #[command(flatten)]
    target: Target,
    /// Its name
    topic: String,
}

#[derive(Args, Debug)]
struct Configure {
    #[command(flatten)]
    target: Target,
    /// Its name
    topic: String,
    /// log (everything, within the bounds), live (nothing), last_value or compacted (the newest of every key)
    #[arg(long)]
    kind: Option<String>,
    /// Which messages keep their order: none, per_key, per_topic or global
    #[arg(long)]
    ordering: Option<String>,
    /// How many partitions
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
    /// What receipts wait for: none, async (durable within 100 ms) or sync (durable)
    #[arg(long, value_name = "LEVEL")]
    durability: Option<String>,
    /// The most messages that each partition keeps; 0 for no bound
    #[arg(long, value_name = "N")]
    max_messages: Option<u64>,
    /// The most bytes that each partition keeps; 0 for no bound
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,
    /// How long a message is kept, in milliseconds; 0 for no bound
    #[arg(long, value_name = "MS")]
    max_age_ms: Option<u64>,
    /// For how long ids of messages are remembered, to publish each once, in milliseconds; 0 for not at all
    #[arg(long, value_name = "MS")]
    dedup_ms: Option<u64>,
}

impl Topic {
    pub(super) async fn run(self) -> Result<()> {
        match self.verb {
            Verb::List(list) => list.run().await,
            Verb::Describe(Named { target, topic }) => {
                let topic = &topic;
                let request = REQUEST;
                describe(
                    &target,
                    &Command::DescribeTopic(DescribeTopic { request, topic }),
                )
                .await
            }
            Verb::Configure(configure) => {
                let command = Command::ConfigureTopic(configure.command());
                describe(&configure.target, &command).await
            }
            Verb::Delete(Named { target, topic }) => {
                let command = Command::DeleteTopic(DeleteTopic {
                    request: REQUEST,
                    topic: &topic,
                });
                Client::once(&target, &command).await?;
                print_line(&format!("deleted {topic:?}"))?;
                Ok(())
            }
        }
    }
}

impl List {
    async fn run(self) -> Result<()> {
        let mut client = Client::connect(&self.target).await?;
        let mut after: Option<String> = None;
        loop {
            let command = Command::ListTopics(ListTopics {
                request: REQUEST,
                filter: Some(&self.filter),
                after: after.as_deref(),
                topics_max: None,
            });
            let frame = client.ask(&command).await?;
            let Ok(Reply::Topics(topics)) = Reply::decode(&frame) else {
                return Err(unexpected("list_topics"));
            };
            for topic in topics.topics.iter() {
                print_line(topic)?;
            }
            after = topics.topics.iter().last().map(ToOwned::to_owned);
            if !topics.more {
                break;
            }
        }
        client.close().await;
        Ok(())
    }
}

impl Configure {
    fn command(&self) -> ConfigureTopic<'_> {
        ConfigureTopic {
            request: REQUEST,
            topic: &self.topic,
            kind: self.kind.as_deref(),
            ordering: self.ordering.as_deref(),
            partitions: self.partitions,
            durability: self.durability.as_deref(),
            max_messages: self.max_messages,
            max_bytes: self.max_bytes,
            max_age_ms: self.max_age_ms,
            dedup_ms: self.dedup_ms,
        }
    }
}

/// Prints what answers a command that asks for a topic.
async fn describe(target: &Target, command: &Command<'_>) -> Result<()> {
    let frame = Client::once(target, command).await?;
    let Ok(Reply::TopicDescription(topic)) = Reply::decode(&frame) else {
        return Err(unexpected("describe_topic"));
    };
    for line in lines(&topic) {
        print_line(&line)?;
    }
    Ok(())
}

fn lines(topic: &TopicDescription<'_>) -> Vec<String> {
    let bounds: Vec<String> = [
        (topic.max_messages, "messages"),
        (topic.max_bytes, "bytes"),
        (topic.max_age_ms, "ms"),
    ]
    .iter()
    .filter(|(bound, _)| *bound > 0)
    .map(|(bound, unit)| format!("{bound} {unit}"))
    .collect();
    let kept = match &bounds[..] {
        [] => String::from("each partition keeps everything"),
        _ => format!("each partition keeps at most {}", bounds.join(", ")),
    };
    let mut lines = vec![
        format!(
            "{}: kind {}, ordering {}, durability {}",
            topic.topic, topic.kind, topic.ordering, topic.durability
        ),
        kept,
    ];
    lines.extend(topic.dedup_ms.map(|window_ms| match window_ms {
        0 => String::from("ids are not remembered"),
        _ => format!("ids are remembered for {window_ms} ms"),
    }));
    for (index, extent) in topic.partitions.iter().flatten().enumerate() {
        lines.push(format!(
            "partition {index}: offsets {} to {}, {} messages, {} bytes",
            extent.log_start_offset,
            extent.log_end_offset,
            extent
                .log_end_offset
                .saturating_sub(extent.log_start_offset),
            extent.size_bytes
        ));
    }
    lines
}
