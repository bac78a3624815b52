//! `dunlin group`: which consumer groups there are, who is in them, how far they are, and how they are kept.

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use dunlin_core::frame::{
    Command, ConfigureGroup, DeleteGroup, DescribeGroup, GroupDescription, ListGroups, PauseGroup,
    Reply, ResetGroup, Strings,
};
use dunlin_core::http::{self, REQUEST};

use super::client::{Client, unexpected};
use super::table::print_table;
use super::time::{millis, span};
use super::{Format, Target, print_line};

/// The flags of `dunlin group`.
#[derive(Args, Debug)]
pub(super) struct Group {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Prints the names of groups, in byte order, one a line
    List(Target),
    /// Prints who is in a group, what it reads, and how much is not done
    ///
    /// Ends with `unknown_group` if it does not exist.
    Describe(Describe),
    /// Creates a group, or changes how an existing one is kept, and prints what it is then
    ///
    /// What is not named stays as it is, or, with a new group, as the broker's configuration has it. The kind is fixed
    /// once a group exists: another one ends with `conflicting_config`.
    Configure(Box<Configure>),
    /// Deletes a group with its positions and its dead letters, for good
    ///
    /// Its members are told. The messages of its topics stay.
    Delete(Named),
    /// Moves a group to another place in its topics, also while it is in use
    ///
    /// What members have of the old place is not theirs any more: it may be delivered again, or never.
    Reset(Reset),
    /// Stops the deliveries of a group; what its members have goes on
    Pause(Named),
    /// Lets the deliveries of a paused group go on
    Resume(Named),
}

#[derive(Args, Debug)]
struct Named {
    #[command(flatten)]
    target: Target,
    /// Its name
    group: String,
}

#[derive(Args, Debug)]
struct Describe {
    #[command(flatten)]
    named: Named,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Args, Debug)]
struct Configure {
    #[command(flatten)]
    named: Named,
    /// queue (single messages, acknowledged in any order) or partitioned (whole partitions, in their order)
    #[arg(long)]
    kind: Option<String>,
    /// How partitions are given to members: sticky, round_robin, range or consistent_hash
    #[arg(long)]
    strategy: Option<String>,
    /// A topic or pattern that it reads from now on, besides those that it reads already; repeatable
    #[arg(long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Where it begins in topics that exist: earliest (the broker's default), latest or timestamp:MS
    #[arg(long, value_name = "PLACE")]
    from: Option<String>,
    /// How long a member has for a message of a queue, like 30s
    #[arg(long, value_name = "DURATION", value_parser = millis)]
    ack_deadline: Option<u64>,
    /// How often a message is delivered before it is a dead letter
    #[arg(long, value_name = "N")]
    max_delivery_attempts: Option<u32>,
    /// How the waits before a message is delivered again grow: none, fixed, linear or exponential
    #[arg(long)]
    retry: Option<String>,
    /// The first of these waits, like 1s
    #[arg(long, value_name = "DURATION", value_parser = millis)]
    retry_first: Option<u64>,
    /// The longest of them, like 1h
    #[arg(long, value_name = "DURATION", value_parser = millis)]
    retry_max: Option<u64>,
    /// How long a member may be silent, like 10s
    #[arg(long, value_name = "DURATION", value_parser = millis)]
    session: Option<u64>,
    /// How long a member may take to let go of a partition, like 1m
    #[arg(long, value_name = "DURATION", value_parser = millis)]
    rebalance: Option<u64>,
    /// How many dead letters raise an event; 0 for none
    #[arg(long, value_name = "N")]
    dead_letters_alert: Option<u64>,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Args, Debug)]
struct Reset {
    #[command(flatten)]
    named: Named,
    /// earliest, latest, timestamp:MS, last:N, or offset:N of one partition
    #[arg(long, value_name = "PLACE")]
    to: String,
    /// Only in this topic
    #[arg(long)]
    topic: Option<String>,
    /// Only in this partition of the topic
    #[arg(long, value_name = "N", requires = "topic")]
    partition: Option<u32>,
}

impl Group {
    pub(super) async fn run(self) -> Result<()> {
        match self.verb {
            Verb::List(target) => list(&target).await,
            Verb::Describe(Describe { named, format }) => {
                let group = &named.group;
                let request = REQUEST;
                let command = Command::DescribeGroup(DescribeGroup { request, group });
                describe(&named.target, &command, format).await
            }
            Verb::Configure(configure) => configure.run().await,
            Verb::Delete(Named { target, group }) => {
                let group = &group;
                let request = REQUEST;
                Client::once(
                    &target,
                    &Command::DeleteGroup(DeleteGroup { request, group }),
                )
                .await?;
                Ok(print_line(&format!("deleted {group:?}"))?)
            }
            Verb::Reset(reset) => reset.run().await,
            Verb::Pause(named) => pause(named, true).await,
            Verb::Resume(named) => pause(named, false).await,
        }
    }
}

async fn list(target: &Target) -> Result<()> {
    let mut client = Client::connect(target).await?;
    let mut after: Option<String> = None;
    loop {
        let command = Command::ListGroups(ListGroups {
            request: REQUEST,
            after: after.as_deref(),
            groups_max: None,
        });
        let frame = client.ask(&command).await?;
        let Ok(Reply::Groups(groups)) = Reply::decode(&frame) else {
            return Err(unexpected("list_groups"));
        };
        for group in groups.groups.iter() {
            print_line(group)?;
        }
        after = groups.groups.iter().last().map(ToOwned::to_owned);
        if !groups.more {
            break;
        }
    }
    client.close().await;
    Ok(())
}

async fn pause(named: Named, paused: bool) -> Result<()> {
    let Named { target, group } = named;
    let command = Command::PauseGroup(PauseGroup {
        request: REQUEST,
        group: &group,
        paused,
    });
    Client::once(&target, &command).await?;
    let did = if paused { "paused" } else { "resumed" };
    Ok(print_line(&format!("{did} {group:?}"))?)
}

impl Configure {
    async fn run(&self) -> Result<()> {
        let filters = Strings::encode(self.filters.iter().map(String::as_str));
        let filters =
            Strings::parse(&filters).map_err(|_| anyhow!("--filter is longer than a frame"))?;
        let command = Command::ConfigureGroup(ConfigureGroup {
            request: REQUEST,
            group: &self.named.group,
            kind: self.kind.as_deref(),
            strategy: self.strategy.as_deref(),
            filters: (!self.filters.is_empty()).then_some(filters),
            from: self.from.as_deref(),
            ack_deadline_ms: self.ack_deadline,
            max_delivery_attempts: self.max_delivery_attempts,
            retry: self.retry.as_deref(),
            retry_ms: self.retry_first,
            retry_ms_max: self.retry_max,
            session_ms: self.session,
            rebalance_ms: self.rebalance,
            dead_letters_alert: self.dead_letters_alert,
        });
        describe(&self.named.target, &command, self.format).await
    }
}

impl Reset {
    async fn run(&self) -> Result<()> {
        let Named { target, group } = &self.named;
        let command = Command::ResetGroup(ResetGroup {
            request: REQUEST,
            group,
            to: &self.to,
            topic: self.topic.as_deref(),
            partition: self.partition,
        });
        Client::once(target, &command).await?;
        Ok(print_line(&format!("moved {group:?} to {}", self.to))?)
    }
}

/// Prints what answers a command that asks for a group.
async fn describe(target: &Target, command: &Command<'_>, format: Format) -> Result<()> {
    let frame = Client::once(target, command).await?;
    let Ok(Reply::GroupDescription(group)) = Reply::decode(&frame) else {
        return Err(unexpected("describe_group"));
    };
    if format == Format::Json {
        return Ok(print_line(&http::object(&group, 1))?);
    }
    for line in heading(&group) {
        print_line(&line)?;
    }
    let mut members = vec![["MEMBER", "CONNECTION", "IN FLIGHT", "PARTITIONS"].map(String::from)];
    for member in group.members.iter().flatten() {
        let connection = match member.connection {
            0 => "away".to_owned(),
            connection => connection.to_string(),
        };
        members.push([
            member.member.to_owned(),
            connection,
            member.in_flight.to_string(),
            member.partitions.to_string(),
        ]);
    }
    let mut partitions =
        vec![["TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "MEMBER"].map(String::from)];
    for partition in group.partitions.iter().flatten() {
        partitions.push([
            partition.topic.to_owned(),
            partition.partition.to_string(),
            partition.committed_offset.to_string(),
            partition.log_end_offset.to_string(),
            partition.lag.to_string(),
            partition.member.unwrap_or("-").to_owned(),
        ]);
    }
    if members.len() > 1 {
        print_table(&members)?;
    }
    if partitions.len() > 1 {
        print_table(&partitions)?;
    }
    Ok(())
}

fn heading(group: &GroupDescription<'_>) -> Vec<String> {
    let paused = if group.paused { ", paused" } else { "" };
    let filters: Vec<&str> = group.filters.iter().collect();
    let reads = match &filters[..] {
        [] => "nothing".to_owned(),
        _ => filters.join(", "),
    };
    let lag: u64 = group.partitions.iter().flatten().map(|part| part.lag).sum();
    let how = if group.kind == "partitioned" {
        format!(
            "partitions are given out {}, generation {}, and let go of within {}",
            group.strategy,
            group.generation,
            span(group.rebalance_ms)
        )
    } else {
        let waits = match group.retry {
            "none" => "no waits".to_owned(),
            "fixed" => format!("waits of {}", span(group.retry_ms)),
            retry => format!(
                "{retry} waits from {} to {}",
                span(group.retry_ms),
                span(group.retry_ms_max)
            ),
        };
        let attempts = match group.max_delivery_attempts {
            1 => "1 attempt".to_owned(),
            attempts => format!("{attempts} attempts, {waits}"),
        };
        format!(
            "a member has {} for a message; {attempts}",
            span(group.ack_deadline_ms)
        )
    };
    vec![
        format!(
            "{}: {}{paused}, reads {reads}, {lag} not done, {} dead letters",
            group.group, group.kind, group.dead_letters
        ),
        how,
        format!(
            "a member that is silent for {} is gone",
            span(group.session_ms)
        ),
    ]
}
