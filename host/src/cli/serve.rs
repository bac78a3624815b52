//! `dunlin serve`.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::num::NonZeroUsize;
use core::time::Duration;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, available_parallelism};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::print_line;
use super::time::millis;
use crate::access::Access;
use crate::console::Console;
use crate::engine::{EngineKind, Engines};
use crate::report;
use crate::server::{SHARDS_MAX, Server, ServerOptions};
use crate::store::{MemoryStore, NativeStore, Store, StoreKind};

/// How long after the first signal to stop another one means more than the first. One stop often arrives twice: a
/// terminal or a supervisor signals the whole group, and whoever started the broker passes the signal on.
const INSIST_AFTER: Duration = Duration::from_secs(1);

/// How long a member of a consumer group may be silent. Sockets of a native server end or are heard of at once, so this
/// is shorter than the broker's own default, which lets hosts sleep.
const SESSION_MS: u64 = 10_000;

/// How long a connection may be silent. Every socket is asked after 25 s of silence whether it is there.
const SILENT_MS: u64 = 60_000;

/// How often a user may connect in a minute, and ask over HTTP.
const CONNECTS_PER_MINUTE: u64 = 10;
const REQUESTS_PER_MINUTE: u64 = 100;

/// The flags of `dunlin serve`.
#[derive(Args, Debug)]
pub(super) struct Serve {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8787")]
    listen: SocketAddr,
    /// The directory that everything is kept in
    #[arg(long, value_name = "DIR", default_value = "./data")]
    data: PathBuf,
    /// What runs the broker
    #[arg(long, value_enum, default_value_t)]
    engine: EngineKind,
    /// Where messages are kept
    #[arg(long, value_enum, default_value_t)]
    store: StoreKind,
    /// How many threads run brokers; may change with every start [default: one per core]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u32>::new().range(1..=u64::from(SHARDS_MAX)))]
    shards: Option<u32>,
    /// A JSON file with the broker's bounds and defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How long a member of a consumer group may be silent before others get its messages, like 10s; for groups that do
    /// not say so themselves [default: that of --config, or 10s]
    #[arg(long, value_name = "DURATION", value_parser = millis)]
    session: Option<u64>,
    /// A directory with the console's files, instead of those built in
    #[arg(long, value_name = "DIR")]
    console: Option<PathBuf>,
    /// A token that opens a namespace; repeatable. With any, clients must send one
    #[arg(long = "token", value_name = "NAMESPACE=TOKEN")]
    tokens: Vec<String>,
    /// A token that opens every namespace, and creates and deletes them; repeatable. With any, namespaces come to be by
    /// that alone, unless --config says otherwise (namespaces_open)
    #[arg(long = "operator-token", value_name = "TOKEN")]
    operators: Vec<String>,
    /// How many connections there may be, to all namespaces together
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = RangedU64ValueParser::<u32>::new().range(1..=1_000_000))]
    connections: u32,
    /// A web page's origin that may use the broker, besides its own and loopback; repeatable
    #[arg(long = "allow-origin", value_name = "ORIGIN")]
    origins: Vec<String>,
}

impl Serve {
    pub(super) async fn run(self) -> Result<()> {
        // Before anything else, so that no signal ends the process half way into its start.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let access = Access::new(&self.tokens, &self.operators, &self.origins)
            .map_err(|error| anyhow::anyhow!(error.0))?;
        let config = self.configured(config_json(self.config.as_deref())?);
        let kind = self.engine;
        // The guest is compiled while the store is opened: either takes a part of a second.
        let engines = thread::spawn(move || Engines::new(kind, &config));
        let shards = self.shards.unwrap_or_else(|| {
            let cores = available_parallelism().map_or(1, NonZeroUsize::get);
            u32::try_from(cores).unwrap_or(SHARDS_MAX).min(SHARDS_MAX)
        });
        let store: Arc<dyn Store> = match self.store {
            StoreKind::Fjall => Arc::new(NativeStore::open(&self.data)?),
            StoreKind::Memory => Arc::new(MemoryStore::default()),
        };
        let engines = engines
            .join()
            .expect("a compiler that panics has said why")?;
        if let Some(recovery) = store.recovery() {
            report::event(&recovery.to_string());
        }
        let kept = match self.store {
            StoreKind::Fjall => format!("in {}", self.data.display()),
            StoreKind::Memory => "in memory only".to_owned(),
        };
        let console = self.console()?;
        let has_console = console.is_there();
        let server = Server::start(ServerOptions {
            listen: self.listen,
            shards,
            engines,
            store,
            access,
            console,
            connections_max: self.connections,
        })
        .await?;
        let engine = match self.engine {
            EngineKind::Wasm => "wasm",
            EngineKind::Native => "native",
        };
        report::event(&format!(
            "{engine} engine, {shards} shard{}, messages {kept}",
            if shards == 1 { "" } else { "s" }
        ));
        print_line(&format!("dunlin listens on http://{}/", server.address()))?;
        if has_console {
            // Whoever started the broker may have read the one line that it needs, and nothing after it.
            let _ = print_line(&format!("console: {}", console_url(server.address())));
        }
        asked_to_stop(&mut terminate, &mut interrupt).await;
        let asked = Instant::now();
        report::event("stopping; once more, after a second, to stop at once");
        let insisted = async {
            loop {
                asked_to_stop(&mut terminate, &mut interrupt).await;
                if insists(asked, Instant::now()) {
                    break;
                }
            }
        };
        tokio::select! {
            () = server.shut_down() => {}
            () = insisted => bail!("stopped at once; the last unsynced messages may be lost"),
        }
        report::event("stopped");
        Ok(())
    }

    /// The configuration with what a native server has instead of the broker's own defaults, where it does not say so
    /// itself.
    fn configured(&self, config: String) -> String {
        let config = with_session(config, self.session);
        let mut config = with_default(config, "silent_ms", SILENT_MS.into());
        config = with_default(config, "connections_max", self.connections.into());
        config = with_default(
            config,
            "connects_per_minute_max",
            CONNECTS_PER_MINUTE.into(),
        );
        config = with_default(
            config,
            "requests_per_minute_max",
            REQUESTS_PER_MINUTE.into(),
        );
        if !self.operators.is_empty() {
            config = with_default(config, "namespaces_open", false.into());
        }
        config
    }

    fn console(&self) -> Result<Console> {
        match &self.console {
            Some(directory) if !directory.is_dir() => {
                bail!("--console {} is not a directory", directory.display())
            }
            Some(directory) => Ok(Console::Directory(directory.clone())),
            None => Ok(Console::found()),
        }
    }
}

/// The broker's configuration, which may be in a file.
pub(super) fn config_json(file: Option<&Path>) -> Result<String> {
    match file {
        None => Ok("{}".to_owned()),
        Some(file) => std::fs::read_to_string(file)
            .with_context(|| format!("the configuration {} cannot be read", file.display())),
    }
}

/// The configuration with the time that a silent member of a group has: the one that was asked for, or else the one
/// that the configuration names, or else [`SESSION_MS`]. What is no configuration is left for the broker to refuse.
fn with_session(config: String, asked_ms: Option<u64>) -> String {
    let Ok(Value::Object(mut members)) = serde_json::from_str(&config) else {
        return config;
    };
    match (asked_ms, members.contains_key("session_ms")) {
        (None, true) => return config,
        (asked_ms, _) => members.insert(
            "session_ms".to_owned(),
            asked_ms.unwrap_or(SESSION_MS).into(),
        ),
    };
    Value::Object(members).to_string()
}

/// The configuration with a member where it has none. What is no configuration is left for the broker to refuse.
fn with_default(config: String, name: &str, value: Value) -> String {
    match serde_json::from_str(&config) {
        Ok(Value::Object(mut members)) if !members.contains_key(name) => {
            members.insert(name.to_owned(), value);
            Value::Object(members).to_string()
        }
        _ => config,
    }
}

/// The next signal to stop.
async fn asked_to_stop(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Whether a signal that comes `again` is somebody's second wish, and not an echo of the one that was `first`.
fn insists(first: Instant, again: Instant) -> bool {
    again.duration_since(first) >= INSIST_AFTER
}

/// Where a browser on this machine finds the console of a server that listens on `address`.
fn console_url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("http://{}/", SocketAddr::new(ip, address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_of_a_signal_does_not_insist() {
        let first = Instant::now();
        for (after_ms, expected) in [(0, false), (30, false), (999, false), (1_000, true)] {
            let again = first + Duration::from_millis(after_ms);
            assert_eq!(insists(first, again), expected, "{after_ms} ms");
        }
    }

    #[test]
    fn the_session_is_the_one_that_was_asked_for() {
        for (config, asked_ms, expected) in [
            ("{}", None, "{\"session_ms\":10000}"),
            ("{}", Some(500), "{\"session_ms\":500}"),
            ("{\"session_ms\": 7}", None, "{\"session_ms\": 7}"),
            ("{\"session_ms\": 7}", Some(500), "{\"session_ms\":500}"),
            ("[]", Some(500), "[]"),
            ("nonsense", None, "nonsense"),
        ] {
            let told = with_session(config.to_owned(), asked_ms);
            assert_eq!(told, expected, "{config} {asked_ms:?}");
        }
    }

    #[test]
    fn the_console_is_where_a_browser_can_go() {
        for (address, expected) in [
            ("127.0.0.1:8787", "http://127.0.0.1:8787/"),
            ("0.0.0.0:80", "http://127.0.0.1:80/"),
            ("[::]:8787", "http://[::1]:8787/"),
            ("192.0.2.7:1", "http://192.0.2.7:1/"),
        ] {
            assert_eq!(console_url(address.parse().unwrap()), expected);
        }
    }
}
