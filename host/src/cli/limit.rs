//! `dunlin limit`: how much may be published and delivered.

use anyhow::Result;
use clap::{Args, Subcommand};
use dunlin_core::frame::{Command, ConfigureLimit, ListLimits, Reply};
use dunlin_core::http::{self, REQUEST};

use super::client::{Client, unexpected};
use super::table::print_table;
use super::time::{millis, span};
use super::{Format, Target, print_line};

/// The flags of `dunlin limit`.
#[derive(Args, Debug)]
pub(super) struct Limit {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Prints the limits that hold
    List(Print),
    /// Sets a limit; one that was there has a full bucket then
    Configure(Configure),
    /// Removes a limit
    Delete(Named),
}

#[derive(Args, Debug)]
struct Print {
    #[command(flatten)]
    target: Target,
    /// How to print a limit
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Args, Debug)]
struct Named {
    #[command(flatten)]
    target: Target,
    /// Whom it limits: namespace, topic, connection, subscriber, user or ip
    scope: String,
    /// Which topic, user or address; without it, every one that has no limit of its own
    #[arg(default_value = "", hide_default_value = true)]
    name: String,
}

#[derive(Args, Debug)]
struct Configure {
    #[command(flatten)]
    named: Named,
    /// How many messages
    #[arg(long, value_name = "N")]
    rate: u64,
    /// In how long, like 1s
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = millis)]
    per: u64,
    /// How many at once [default: as many as --rate]
    #[arg(long, value_name = "N")]
    burst: Option<u64>,
    /// Slows down while subscribers or the store do not keep up
    #[arg(long)]
    adaptive: bool,
}

impl Limit {
    pub(super) async fn run(self) -> Result<()> {
        match self.verb {
            Verb::List(print) => print.run().await,
            Verb::Configure(configure) => {
                let Named {
                    target,
                    scope,
                    name,
                } = &configure.named;
                let command = Command::ConfigureLimit(ConfigureLimit {
                    request: REQUEST,
                    scope,
                    name,
                    rate: Some(configure.rate),
                    per_ms: Some(configure.per),
                    burst: configure.burst,
                    adaptive: Some(configure.adaptive),
                });
                Client::once(target, &command).await?;
                let (whose, rate) = (whose(scope, name), configure.rate);
                let per = span(configure.per);
                Ok(print_line(&format!(
                    "{whose}: {rate} messages in {per} from now on"
                ))?)
            }
            Verb::Delete(Named {
                target,
                scope,
                name,
            }) => {
                let command = Command::ConfigureLimit(ConfigureLimit {
                    request: REQUEST,
                    scope: &scope,
                    name: &name,
                    rate: None,
                    per_ms: None,
                    burst: None,
                    adaptive: None,
                });
                let mut client = Client::connect(&target).await?;
                let before = own_limits(&mut client).await?;
                client.ask(&command).await?;
                let after = own_limits(&mut client).await?;
                client.close().await;
                let what = match after < before {
                    true => "no limit of its own any more",
                    false => "there was no limit of its own",
                };
                Ok(print_line(&format!("{}: {what}", whose(&scope, &name)))?)
            }
        }
    }
}

/// How many limits the namespace itself has. Removing one that is not there changes nothing, and the broker says no more.
async fn own_limits(client: &mut Client) -> Result<usize> {
    let command = Command::ListLimits(ListLimits { request: REQUEST });
    let frame = client.ask(&command).await?;
    let Ok(Reply::Limits(limits)) = Reply::decode(&frame) else {
        return Err(unexpected("list_limits"));
    };
    let own = limits.limits.iter().flatten();
    Ok(own.filter(|limit| !limit.inherited).count())
}

fn whose(scope: &str, name: &str) -> String {
    match (scope, name) {
        ("namespace", _) => "the namespace".to_owned(),
        (_, "") => format!("every {scope}"),
        _ => format!("{scope} {name:?}"),
    }
}

impl Print {
    async fn run(&self) -> Result<()> {
        let command = Command::ListLimits(ListLimits { request: REQUEST });
        let frame = Client::once(&self.target, &command).await?;
        let Ok(Reply::Limits(limits)) = Reply::decode(&frame) else {
            return Err(unexpected("list_limits"));
        };
        let mut rows = vec![["SCOPE", "NAME", "MESSAGES", "AT ONCE", "NOW", ""].map(String::from)];
        for limit in limits.limits.iter().flatten() {
            if self.format == Format::Json {
                print_line(&http::object(&limit, 0))?;
                continue;
            }
            let now = match limit.adaptive {
                true => format!("{}.{} %", limit.factor / 10, limit.factor % 10),
                false => "100 %".to_owned(),
            };
            rows.push([
                limit.scope.to_owned(),
                limit.name.to_owned(),
                format!("{} in {}", limit.rate, span(limit.per_ms)),
                limit.burst.to_string(),
                now,
                if limit.inherited { "the broker's" } else { "" }.to_owned(),
            ]);
        }
        if rows.len() > 1 {
            print_table(&rows)?;
        }
        Ok(())
    }
}
