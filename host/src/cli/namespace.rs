//! `dunlin namespace`: who has what on a server, for who runs it. Over HTTP, for a server has several brokers.

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use super::client::{request, told};
use super::table::print_table;
use super::{Format, print_line, time};

/// A day in milliseconds.
const DAY_MS: u64 = 86_400_000;

/// The flags of `dunlin namespace`.
#[derive(Args, Debug)]
pub(super) struct Namespace {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Prints the names of the namespaces that are stored
    List(Operator),
    /// Creates a namespace; what is not said has the default of the protocol
    Create(Configure),
    /// Sets quotas of a namespace; what is not said stays as it is
    Set(Configure),
    /// Prints the quotas of a namespace and what it used
    Usage(Usage),
    /// Deletes a namespace with everything in it, and closes its connections
    Delete(Named),
}

/// Which broker to speak to, and as whom.
#[derive(Args, Debug)]
struct Operator {
    /// The broker's address
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8787")]
    url: String,
    /// The operator's token, where the broker asks for one
    #[arg(
        long = "operator-token",
        value_name = "TOKEN",
        env = "DUNLIN_OPERATOR_TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
}

#[derive(Args, Debug)]
struct Named {
    #[command(flatten)]
    operator: Operator,
    /// Which namespace
    name: String,
}

#[derive(Args, Debug)]
struct Configure {
    #[command(flatten)]
    named: Named,
    /// How many messages may be published a second; 0 for any number, here and below
    #[arg(long, value_name = "N")]
    publish_rate: Option<u64>,
    /// How many bytes of payloads may be published a second
    #[arg(long, value_name = "N")]
    bytes_rate: Option<u64>,
    /// How many subscriptions and memberships of groups there may be
    #[arg(long, value_name = "N")]
    max_subscriptions: Option<u64>,
    /// How many topics there may be
    #[arg(long, value_name = "N")]
    max_topics: Option<u64>,
    /// How many connections there may be
    #[arg(long, value_name = "N")]
    max_connections: Option<u64>,
    /// How large a payload may be, in bytes
    #[arg(long, value_name = "N")]
    max_payload_bytes: Option<u64>,
    /// How many bytes of messages may be stored
    #[arg(long, value_name = "N")]
    max_stored_bytes: Option<u64>,
}

#[derive(Args, Debug)]
struct Usage {
    #[command(flatten)]
    named: Named,
    /// Of how many days, today included
    #[arg(long, value_name = "N", default_value_t = 30)]
    days: u64,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Namespace {
    pub(super) async fn run(self) -> Result<()> {
        match self.verb {
            Verb::List(operator) => operator.list().await,
            Verb::Create(configure) => configure.create().await,
            Verb::Set(configure) => configure.set().await,
            Verb::Usage(usage) => usage.run().await,
            Verb::Delete(named) => {
                let (status, answer) = named.ask("DELETE", "", "").await?;
                expect(status, &answer)?;
                Ok(print_line(&format!("deleted {:?}", named.name))?)
            }
        }
    }
}

/// The answer, unless it is a refusal.
fn expect(status: u16, answer: &str) -> Result<Value> {
    if status != 200 {
        let told = told(answer.as_bytes()).unwrap_or_else(|| format!("status {status}"));
        bail!("{told}");
    }
    serde_json::from_str(answer).context("what answers is no broker")
}

impl Operator {
    async fn ask(&self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        request(&self.url, method, path, self.token.as_deref(), body).await
    }

    async fn list(&self) -> Result<()> {
        let mut after = String::new();
        loop {
            let escaped = utf8_percent_encode(&after, NON_ALPHANUMERIC);
            let path = format!("/v1/namespaces?after={escaped}");
            let (status, answer) = self.ask("GET", &path, "").await?;
            let page = expect(status, &answer)?;
            let names = page["namespaces"].as_array();
            for name in names.into_iter().flatten().filter_map(Value::as_str) {
                print_line(name)?;
                name.clone_into(&mut after);
            }
            if page["more"] != true {
                return Ok(());
            }
        }
    }
}

impl Named {
    async fn ask(&self, method: &str, query: &str, body: &str) -> Result<(u16, String)> {
        let name = utf8_percent_encode(&self.name, NON_ALPHANUMERIC);
        let path = format!("/v1/namespaces/{name}{query}");
        self.operator.ask(method, &path, body).await
    }
}

impl Configure {
    async fn create(&self) -> Result<()> {
        let (status, answer) = self.named.ask("GET", "", "").await?;
        match status {
            200 => bail!(
                "namespace {:?} exists; change it with `dunlin namespace set`",
                self.named.name
            ),
            404 => self.put().await,
            status => expect(status, &answer).map(|_| ()),
        }
    }

    async fn set(&self) -> Result<()> {
        let (status, answer) = self.named.ask("GET", "", "").await?;
        expect(status, &answer)?;
        self.put().await
    }

    async fn put(&self) -> Result<()> {
        let mut quotas = Map::new();
        for (name, quota) in [
            ("publish_rate", self.publish_rate),
            ("bytes_rate", self.bytes_rate),
            ("subscriptions_max", self.max_subscriptions),
            ("topics_max", self.max_topics),
            ("connections_max", self.max_connections),
            ("payload_bytes_max", self.max_payload_bytes),
            ("stored_bytes_max", self.max_stored_bytes),
        ] {
            if let Some(quota) = quota {
                quotas.insert(name.to_owned(), quota.into());
            }
        }
        let body = Value::Object(quotas).to_string();
        let (status, answer) = self.named.ask("PUT", "", &body).await?;
        print_quotas(&expect(status, &answer)?)
    }
}

impl Usage {
    async fn run(&self) -> Result<()> {
        let query = format!("?days={}", self.days);
        let (status, answer) = self.named.ask("GET", &query, "").await?;
        let namespace = expect(status, &answer)?;
        if self.format == Format::Json {
            return Ok(print_line(answer.trim())?);
        }
        print_quotas(&namespace)?;
        let columns = [
            "day",
            "messages",
            "bytes",
            "deliveries",
            "connections",
            "stored_bytes",
        ];
        let mut rows = vec![columns.map(str::to_uppercase)];
        for day in namespace["usage"].as_array().into_iter().flatten() {
            let mut row = columns.map(|name| day[name].to_string());
            row[0] = date(day["day"].as_u64().unwrap_or(0));
            rows.push(row);
        }
        if rows.len() > 1 {
            print_table(&rows)?;
        }
        Ok(())
    }
}

/// The date of a day that is counted from the Unix epoch.
fn date(day: u64) -> String {
    let moment = time::told(day.saturating_mul(DAY_MS));
    moment.split('T').next().unwrap_or_default().to_owned()
}

fn print_quotas(namespace: &Value) -> Result<()> {
    let mut rows = vec![["", "NOW", "QUOTA"].map(String::from)];
    for (what, now, quota) in [
        ("messages a second", "", "publish_rate"),
        ("bytes a second", "", "bytes_rate"),
        ("bytes of a payload", "", "payload_bytes_max"),
        ("subscriptions", "subscriptions", "subscriptions_max"),
        ("topics", "topics", "topics_max"),
        ("connections", "connections", "connections_max"),
        ("bytes stored", "stored_bytes", "stored_bytes_max"),
    ] {
        let now = namespace
            .get(now)
            .map_or_else(String::new, Value::to_string);
        let quota = match namespace[quota].as_u64() {
            Some(0) => "any".to_owned(),
            _ => namespace[quota].to_string(),
        };
        rows.push([what.to_owned(), now, quota]);
    }
    print_line(&format!("namespace {}", namespace["namespace"]))?;
    print_table(&rows)
}
