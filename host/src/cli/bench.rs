//! `dunlin bench`: what a broker does over real sockets, measured from outside.
//!
//! Without `--url` it starts a broker of its own, in a process and a temporary directory of its own, so that the
//! clients' memory is not counted as the broker's. Clients and broker share the machine, whose load is printed, since
//! a number without it says little.

mod queue;

use core::time::Duration;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::Instant;
use std::{env, fs, process};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use dunlin_core::frame::{Command, Publish, Reply, Subscribe};

use super::client::Client;
use super::{Target, print_line};
use crate::engine::EngineKind;
use crate::store::StoreKind;

/// How often publishing and the bare loop take turns.
const ROUNDS: u64 = 10;

/// The flags of `dunlin bench`.
#[derive(Args, Debug)]
pub(super) struct Bench {
    /// What to measure [default: all of it]
    #[arg(value_enum)]
    modes: Vec<Mode>,
    /// Measures this broker instead of one of its own
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The namespace
    #[arg(long, value_name = "NAME", default_value = "bench")]
    namespace: String,
    /// The namespace's token, where the broker asks for one
    #[arg(
        long,
        value_name = "TOKEN",
        env = "DUNLIN_TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
    /// Messages to publish
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = RangedU64ValueParser::<u64>::new().range(1..=1_000_000_000))]
    messages: u64,
    /// Bytes of a payload
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = RangedU64ValueParser::<usize>::new().range(8..=1_048_576))]
    size: usize,
    /// Messages of one publisher that wait for their receipts, or that one member of a queue has
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = RangedU64ValueParser::<u64>::new().range(1..=10_000))]
    in_flight: u64,
    /// Publishers, each on its own connection and topic
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<u64>::new().range(1..=1_000))]
    publishers: u64,
    /// Subscribers of a fan-out
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = RangedU64ValueParser::<u64>::new().range(1..=10_000))]
    subscribers: u64,
    /// Members of a queue, each on its own connection
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = RangedU64ValueParser::<u64>::new().range(1..=1_000))]
    members: u64,
    /// Idle connections
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = RangedU64ValueParser::<u64>::new().range(1..=100_000))]
    connections: u64,
    /// What receipts wait for: none, async or sync
    #[arg(long, default_value = "sync", value_parser = ["none", "async", "sync"])]
    durability: String,
    /// What runs the broker
    #[arg(long, value_enum, default_value_t, conflicts_with = "url")]
    engine: EngineKind,
    /// Where messages are kept
    #[arg(long, value_enum, default_value_t, conflicts_with = "url")]
    store: StoreKind,
    /// How many threads run brokers
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "url")]
    shards: u32,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Publishing, from the command to its receipt
    Publish,
    /// One publisher and many subscribers, from the command to the delivery
    FanOut,
    /// A queue group that works off stored messages, beside plain subscriptions that only hear as many
    Queue,
    /// What an idle connection costs the broker
    Idle,
    /// What --messages more take on disk and in memory, and how long a start with them takes after SIGKILL
    Store,
}

impl Bench {
    pub(super) async fn run(self) -> Result<()> {
        let mut own = match self.url {
            None => Some(Broker::start(&self)?),
            Some(_) => None,
        };
        let url = self.url.clone();
        let url = url.or_else(|| own.as_ref().map(|own| own.url.clone()));
        let mut target = Target {
            url: url.context("there is a broker to measure")?,
            namespace: self.namespace.clone(),
            token: self.token.clone(),
            user: None,
            device: None,
        };
        let modes = if self.modes.is_empty() {
            &[
                Mode::Publish,
                Mode::FanOut,
                Mode::Queue,
                Mode::Idle,
                Mode::Store,
            ]
        } else {
            self.modes.as_slice()
        };
        for mode in modes {
            let load = load();
            let told = match mode {
                Mode::Publish => {
                    let mut published = self.publish(&target, self.messages).await?;
                    match own.as_ref().filter(|_| self.durability == "sync") {
                        None => self.told(&mut published),
                        Some(own) => self.compare(&target, own, published.batch).await?,
                    }
                }
                Mode::FanOut => self.fan_out(&target).await?,
                Mode::Queue => self.queue(&target).await?,
                Mode::Idle => self.idle(&target, own.as_ref()).await?,
                Mode::Store => self.store(&mut target, own.as_mut()).await?,
            };
            print_line(&format!("{told}; load before {load}"))?;
        }
        Ok(())
    }

    /// Publishes in turns with a loop that does nothing else, since a disk that others use changes from one second to
    /// the next: what counts is the median of the rounds.
    async fn compare(&self, target: &Target, own: &Broker, batch: u64) -> Result<String> {
        let share = self.messages.div_ceil(ROUNDS);
        let bare = Bare::create(&own.data, self.size, batch, share)?;
        let mut before = bare.run()?;
        let (mut worst, mut bare_per_s) = (before.1, Vec::new());
        let (mut ratios, mut rounds) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let round = self.publish(target, share).await?;
            let after = bare.run()?;
            worst = worst.max(after.1);
            bare_per_s.push(after.0);
            ratios.push(round.receipts_per_s / before.0.midpoint(after.0) * 100.0);
            rounds.push(round);
            before = after;
        }
        let mut all = Published {
            receipts_per_s: median(rounds.iter().map(|round| round.receipts_per_s).collect()),
            batch,
            latencies: rounds
                .into_iter()
                .flat_map(|round| round.latencies)
                .collect(),
        };
        Ok(format!(
            "{}; a bare loop that appends {batch} at a time, as they came here, and syncs: {:.0}/s, max {:.2} ms, so this is {:.0} % of it (medians of {ROUNDS} rounds in turns)",
            self.told(&mut all),
            median(bare_per_s),
            worst.as_secs_f64() * 1_000.0,
            median(ratios),
        ))
    }

    async fn publish(&self, target: &Target, messages: u64) -> Result<Published> {
        let share = messages / self.publishers;
        if share == 0 {
            bail!(
                "{messages} messages at once are fewer than --publishers {}; raise --messages",
                self.publishers
            );
        }
        let begun = Instant::now();
        let mut tasks = Vec::new();
        for index in 0..self.publishers {
            let mut publisher =
                Publisher::connect(self, target, format!("bench/publish/{index}")).await?;
            tasks.push(tokio::spawn(async move {
                publisher.publish(share).await?;
                Ok::<_, anyhow::Error>((publisher.latencies, publisher.arrivals))
            }));
        }
        let (mut latencies, mut arrivals) = (Vec::new(), 0);
        for task in tasks {
            let (some, arrived) = task.await??;
            latencies.extend(some);
            arrivals += arrived;
        }
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Published {
            receipts_per_s: latencies.len() as f64 / seconds,
            batch: (latencies.len() as u64 * self.publishers / arrivals).max(1),
            latencies,
        })
    }

    fn told(&self, published: &mut Published) -> String {
        format!(
            "publish: {:.0} receipts/s at level {} ({} x {} in flight, {} B); {}",
            published.receipts_per_s,
            self.durability,
            self.publishers,
            self.in_flight,
            self.size,
            percentiles(&mut published.latencies)
        )
    }

    async fn store(&self, target: &mut Target, own: Option<&mut Broker>) -> Result<String> {
        let own = own.ok_or_else(|| {
            anyhow!("the disk of a broker at --url cannot be seen; measure store without --url")
        })?;
        let disk_before = own.disk_bytes()?;
        self.publish(target, self.messages).await?;
        let disk = own.disk_bytes()? - disk_before;
        let memory = own.resident_bytes()?;
        let begun = Instant::now();
        own.restart(self)?;
        let took = begun.elapsed();
        target.url.clone_from(&own.url);
        Ok(format!(
            "store: {} messages of {} B take {:.0} MB on disk, the broker has {:.0} MB of memory, {:.0} after a restart, which takes {:.2} s from SIGKILL until it listens",
            self.messages,
            self.size,
            disk as f64 / 1e6,
            memory as f64 / 1e6,
            own.resident_bytes()? as f64 / 1e6,
            took.as_secs_f64()
        ))
    }

    async fn fan_out(&self, target: &Target) -> Result<String> {
        let topic = "bench/fan-out";
        // So that the whole takes about as long as the publishing.
        let messages = (self.messages / self.subscribers).max(1);
        let epoch = Instant::now();
        let mut tasks = Vec::new();
        for _ in 0..self.subscribers {
            let mut client = Client::connect(target).await?;
            client.send(&subscribe(topic)).await?;
            loop {
                let frame = client.receive().await?;
                match Reply::decode(&frame) {
                    Ok(Reply::Subscribed(_)) => break,
                    Ok(Reply::Failed(failed)) => bail!("{}: {}", failed.code, failed.message),
                    _ => {}
                }
            }
            tasks.push(tokio::spawn(hear(client, epoch, messages)));
        }
        let mut publisher = Publisher::connect(self, target, topic.to_owned()).await?;
        publisher.epoch = epoch;
        let begun = Instant::now();
        publisher.publish(messages).await?;
        let mut latencies = Vec::new();
        for task in tasks {
            latencies.extend(task.await??);
        }
        let seconds = begun.elapsed().as_secs_f64();
        Ok(format!(
            "fan-out: {:.0} deliveries/s to {} subscribers ({} in flight, {} B); {}",
            latencies.len() as f64 / seconds,
            self.subscribers,
            self.in_flight,
            self.size,
            percentiles(&mut latencies)
        ))
    }

    async fn idle(&self, target: &Target, own: Option<&Broker>) -> Result<String> {
        let own = own.ok_or_else(|| {
            anyhow!("the memory of a broker at --url cannot be seen; measure idle without --url")
        })?;
        let before = own.resident_bytes()?;
        let mut clients = Vec::new();
        for _ in 0..self.connections {
            let mut client = Client::connect(target).await?;
            client.send(&subscribe("bench/idle")).await?;
            client.receive().await?;
            clients.push(client);
        }
        let after = own.resident_bytes()?;
        Ok(format!(
            "idle: {:.1} KiB a connection with one subscription ({} connections, {:.1} MiB in all)",
            after.saturating_sub(before) as f64 / 1024.0 / self.connections as f64,
            self.connections,
            after as f64 / 1024.0 / 1024.0
        ))
    }
}

/// A file that is appended to and synced.
struct Bare {
    file: File,
    commit: Vec<u8>,
    batch: u64,
    commits: u64,
    places: u64,
}

impl Bare {
    /// For runs of so many messages, of which `batch` are a commit.
    fn create(folder: &Path, size: usize, batch: u64, messages: u64) -> Result<Self> {
        let commit = vec![b'x'; size * usize::try_from(batch)?];
        let commits = (messages / batch).clamp(1, 20_000);
        // Written before, as the broker's journal is, so that a sync writes data alone.
        let places = commits.min((64 << 20) / commit.len() as u64 + 1);
        let file = File::create(folder.join("bare"))?;
        for place in 0..places {
            file.write_all_at(&commit, place * commit.len() as u64)?;
        }
        file.sync_all()?;
        Ok(Self {
            file,
            commit,
            batch,
            commits,
            places,
        })
    }

    /// Messages a second, and the longest commit.
    fn run(&self) -> Result<(f64, Duration)> {
        let begun = Instant::now();
        let mut worst = Duration::ZERO;
        for number in 0..self.commits {
            let commit_begun = Instant::now();
            let place = number % self.places * self.commit.len() as u64;
            self.file.write_all_at(&self.commit, place)?;
            self.file.sync_data()?;
            worst = worst.max(commit_begun.elapsed());
        }
        let messages = self.commits * self.batch;
        Ok((messages as f64 / begun.elapsed().as_secs_f64(), worst))
    }
}

/// What came of publishing.
struct Published {
    receipts_per_s: f64,
    /// How many receipts a commit gave, as far as clients can see: at least as many as it did.
    batch: u64,
    latencies: Vec<Duration>,
}

fn subscribe(topic: &str) -> Command<'_> {
    Command::Subscribe(Subscribe {
        request: 1,
        subscription: 1,
        filter: topic,
        from: None,
        credit: None,
        on_lag: None,
        lag_max: Some(1 << 32),
        partition: None,
    })
}

/// Takes `messages` deliveries; how long each took since its publisher wrote the time into it.
async fn hear(mut client: Client, epoch: Instant, messages: u64) -> Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    while (latencies.len() as u64) < messages {
        let frame = client.receive().await?;
        match Reply::decode(&frame) {
            Ok(Reply::Delivery(delivery)) => {
                let stamp = delivery
                    .payload
                    .first_chunk()
                    .context("a payload without a time")?;
                let sent = Duration::from_nanos(u64::from_le_bytes(*stamp));
                latencies.push(epoch.elapsed().saturating_sub(sent));
            }
            Ok(Reply::Gap(gap)) => bail!("messages were lost to a subscriber: {}", gap.reason),
            Ok(Reply::Ended(ended)) => bail!("{}: {}", ended.code, ended.message),
            _ => {}
        }
    }
    Ok(latencies)
}

/// Publishes with a window: a new message goes out for each receipt that comes in.
struct Publisher {
    client: Client,
    topic: String,
    durability: String,
    payload: Vec<u8>,
    in_flight: u64,
    epoch: Instant,
    /// When each message was sent, by its number.
    sent: Vec<Instant>,
    latencies: Vec<Duration>,
    /// How often receipts came: those of one commit come together, and perhaps with those of the next.
    arrivals: u64,
}

impl Publisher {
    async fn connect(bench: &Bench, target: &Target, topic: String) -> Result<Self> {
        Ok(Self {
            client: Client::connect(target).await?,
            topic,
            durability: bench.durability.clone(),
            payload: vec![b'x'; bench.size],
            in_flight: bench.in_flight,
            epoch: Instant::now(),
            sent: Vec::new(),
            latencies: Vec::new(),
            arrivals: 0,
        })
    }

    async fn publish(&mut self, messages: u64) -> Result<()> {
        while (self.latencies.len() as u64) < messages {
            let room = self.in_flight - (self.sent.len() - self.latencies.len()) as u64;
            // What leaves together leaves at one time.
            let now = Instant::now();
            for _ in 0..room.min(messages - self.sent.len() as u64) {
                self.queue(now);
            }
            self.client.flush().await?;
            let frame = self.client.receive().await?;
            self.arrivals += 1;
            self.take(&frame).await?;
            while self.client.has_received() {
                let frame = self.client.receive().await?;
                self.take(&frame).await?;
            }
        }
        Ok(())
    }

    fn queue(&mut self, now: Instant) {
        let nanos = u64::try_from((now - self.epoch).as_nanos()).unwrap_or(u64::MAX);
        self.payload[..8].copy_from_slice(&nanos.to_le_bytes());
        self.sent.push(now);
        self.client.queue(&Command::Publish(Publish {
            request: self.sent.len() as u64,
            topic: &self.topic,
            payload: &self.payload,
            key: None,
            content_type: None,
            headers: None,
            id: None,
            ttl_ms: None,
            delay_ms: None,
            deliver_at: None,
            producer: None,
            producer_sequence: None,
            priority: None,
            durability: Some(&self.durability),
            wait_ms: None,
        }));
    }

    async fn take(&mut self, frame: &[u8]) -> Result<()> {
        match Reply::decode(frame) {
            Ok(Reply::Receipt(receipt)) => {
                let index = usize::try_from(receipt.request)?.checked_sub(1);
                let sent = index.and_then(|index| self.sent.get(index));
                let sent = sent.context("a receipt for what was not sent")?;
                self.latencies.push(sent.elapsed());
                Ok(())
            }
            _ => self.client.check(frame).await,
        }
    }
}

/// A broker of its own, which ends with this value.
struct Broker {
    child: Child,
    url: String,
    data: PathBuf,
}

impl Broker {
    fn start(bench: &Bench) -> Result<Self> {
        let data = env::temp_dir().join(format!("dunlin-bench-{}", process::id()));
        let (child, url) = Self::spawn(bench, &data)?;
        Ok(Self { child, url, data })
    }

    /// Kills it and starts another one with the same data.
    fn restart(&mut self, bench: &Bench) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        (self.child, self.url) = Self::spawn(bench, &self.data)?;
        Ok(())
    }

    fn spawn(bench: &Bench, data: &Path) -> Result<(Child, String)> {
        let name = |value: &dyn core::fmt::Debug| format!("{value:?}").to_lowercase();
        let mut child = Process::new(env::current_exe()?)
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(["--engine", &name(&bench.engine)])
            .args(["--store", &name(&bench.store)])
            .args(["--shards", &bench.shards.to_string()])
            .arg("--data")
            .arg(data)
            .stdout(Stdio::piped())
            .spawn()
            .context("a broker cannot be started")?;
        let out = child.stdout.take().context("its output is piped")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let url = line.trim().split_once("listens on ");
        let (_, url) = url.context("the broker did not start")?;
        Ok((child, url.to_owned()))
    }

    /// What its data takes, without what files only seem to be long.
    fn disk_bytes(&self) -> Result<u64> {
        fn below(folder: &Path) -> std::io::Result<u64> {
            let mut blocks = 0;
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                // What is gone since it was listed takes nothing.
                let Ok(metadata) = entry.metadata() else {
                    continue;
                };
                blocks += if metadata.is_dir() {
                    below(&entry.path())?
                } else {
                    metadata.blocks()
                };
            }
            Ok(blocks)
        }
        Ok(below(&self.data)? * 512)
    }

    fn resident_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: u64 = kib.context("the system tells no VmRSS")?.parse()?;
        Ok(kib * 1024)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.data);
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    numbers[middle].midpoint(numbers[(numbers.len() - 1) / 2])
}

fn percentiles(latencies: &mut [Duration]) -> String {
    latencies.sort_unstable();
    let at = |share: f64| {
        let index = (latencies.len() as f64 * share) as usize;
        let latency = latencies.get(index.min(latencies.len().saturating_sub(1)));
        latency.map_or(0.0, |latency| latency.as_secs_f64() * 1_000.0)
    };
    format!(
        "latency p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms",
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    )
}

/// The machine's load averages over 1, 5 and 15 minutes.
fn load() -> String {
    let text = fs::read_to_string(Path::new("/proc/loadavg")).unwrap_or_default();
    let numbers: Vec<_> = text.split(' ').take(3).collect();
    numbers.join(" ")
}
