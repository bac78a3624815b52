//! `dunlin bench queue`: a queue group works off what is stored, every message acknowledged by a frame of its own.
//!
//! In turns with it, as many messages are read by plain subscriptions over as many connections, each from a topic of
//! its own: what a queue costs is the difference.

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use dunlin_core::frame::{
    Ack, Command, ConfigureTopic, DeleteGroup, DeleteTopic, Join, Lease, List, Reply, Strings,
    Subscribe,
};
use tokio::sync::watch;

use super::{Bench, Publisher, hear, median};
use crate::cli::Target;
use crate::cli::client::Client;

/// How often the queue and plain subscriptions take turns.
const ROUNDS: u64 = 3;

/// The group, which is gone afterwards.
const GROUP: &str = "bench";

/// The number of the one subscription, and the number of commands whose reply is awaited.
const SUBSCRIPTION: u32 = 1;
const REQUEST: u64 = 1;

impl Bench {
    /// What a queue does, and plain subscriptions in its place.
    pub(super) async fn queue(&self, target: &Target) -> Result<String> {
        let each = self.messages / ROUNDS / self.members;
        if each == 0 {
            bail!(
                "{} messages are fewer than {ROUNDS} rounds of --members {}; raise --messages",
                self.messages,
                self.members
            );
        }
        let (mut queue, mut plain, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            plain.push(self.hear_plainly(target, each).await?);
            queue.push(self.work_off(target, each).await?);
            ratios.extend(queue.last().zip(plain.last()).map(|(a, b)| a / b * 100.0));
        }
        Ok(format!(
            "queue: {:.0} messages/s worked off by {} members at level {}, each acknowledged by itself ({} in flight, {} B); plain subscriptions over as many connections get {:.0}/s, so this is {:.0} % of it (medians of {ROUNDS} rounds in turns)",
            median(queue),
            self.members,
            self.durability,
            self.in_flight,
            self.size,
            median(plain),
            median(ratios),
        ))
    }

    /// Messages a second that plain subscriptions get, each those of a topic of its own.
    async fn hear_plainly(&self, target: &Target, each: u64) -> Result<f64> {
        let topics: Vec<String> = (0..self.members)
            .map(|index| format!("bench/plain/{index}"))
            .collect();
        let mut clients = Vec::new();
        for topic in &topics {
            self.store_messages(target, topic, each).await?;
            clients.push((topic.clone(), Client::connect(target).await?));
        }
        let begun = Instant::now();
        let tasks = clients.into_iter().map(|(topic, mut client)| {
            tokio::spawn(async move {
                let command = Command::Subscribe(Subscribe {
                    request: REQUEST,
                    subscription: SUBSCRIPTION,
                    filter: &topic,
                    from: Some("earliest"),
                    credit: None,
                    on_lag: None,
                    lag_max: Some(1 << 32),
                    partition: None,
                });
                client.send(&command).await?;
                hear(client, begun, each).await
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await??;
        }
        let seconds = begun.elapsed().as_secs_f64();
        for topic in &topics {
            delete_topic(target, topic).await?;
        }
        Ok((each * self.members) as f64 / seconds)
    }

    /// Messages a second that a queue works off.
    async fn work_off(&self, target: &Target, each: u64) -> Result<f64> {
        let topic = "bench/queue";
        let messages = each * self.members;
        self.store_messages(target, topic, messages).await?;
        let mut clients = Vec::new();
        for _ in 0..self.members {
            clients.push(Client::connect(target).await?);
        }
        let work = Work {
            left: Arc::new(AtomicU64::new(messages)),
            over: watch::channel(false).0,
        };
        let begun = Instant::now();
        let tasks = clients.into_iter().map(|client| {
            let (work, in_flight) = (work.clone(), self.in_flight);
            tokio::spawn(async move { work.take_part(client, topic, in_flight).await })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await??;
        }
        let seconds = begun.elapsed().as_secs_f64();
        let group = GROUP;
        let request = REQUEST;
        Client::once(
            target,
            &Command::DeleteGroup(DeleteGroup { request, group }),
        )
        .await?;
        delete_topic(target, topic).await?;
        Ok(messages as f64 / seconds)
    }

    /// Fills a topic without an order, of which a queue deals out many messages at a time.
    async fn store_messages(&self, target: &Target, topic: &str, messages: u64) -> Result<()> {
        let command = Command::ConfigureTopic(ConfigureTopic {
            request: REQUEST,
            topic,
            kind: None,
            ordering: Some("none"),
            partitions: None,
            durability: Some(&self.durability),
            max_messages: Some(0),
            max_bytes: Some(0),
            max_age_ms: None,
            dedup_ms: None,
        });
        Client::once(target, &command).await?;
        let mut publisher = Publisher::connect(self, target, topic.to_owned()).await?;
        publisher.publish(messages).await
    }
}

async fn delete_topic(target: &Target, topic: &str) -> Result<()> {
    let request = REQUEST;
    Client::once(
        target,
        &Command::DeleteTopic(DeleteTopic { request, topic }),
    )
    .await?;
    Ok(())
}

/// What all members have before them.
#[derive(Clone)]
struct Work {
    /// How many messages nobody has acknowledged yet.
    left: Arc<AtomicU64>,
    over: watch::Sender<bool>,
}

impl Work {
    /// Acknowledges messages until there are none left.
    async fn take_part(&self, mut client: Client, topic: &str, in_flight: u64) -> Result<()> {
        let filters = Strings::encode([topic]);
        let command = Command::Join(Join {
            request: REQUEST,
            subscription: SUBSCRIPTION,
            group: GROUP,
            filters: Strings::parse(&filters).expect("encoded here"),
            kind: Some("queue"),
            strategy: None,
            from: None,
            member: None,
            credit: None,
            max_in_flight: Some(in_flight),
        });
        client.send(&command).await?;
        let mut over = self.over.subscribe();
        let mut leases = Vec::new();
        loop {
            let frame = tokio::select! {
                frame = client.receive() => frame?,
                // An error would mean that nobody works any more, which is the end as well.
                _ = over.wait_for(|over| *over) => return Ok(()),
            };
            self.take(&mut client, &frame, &mut leases)?;
            // What came together leaves together.
            while client.has_received() {
                let frame = client.receive().await?;
                self.take(&mut client, &frame, &mut leases)?;
            }
            client.flush().await?;
        }
    }

    fn take(&self, client: &mut Client, frame: &[u8], leases: &mut Vec<u8>) -> Result<()> {
        match Reply::decode(frame) {
            Ok(Reply::Delivery(delivery)) => {
                let Some(lease) = delivery.lease else {
                    bail!("a delivery of a queue without a lease");
                };
                leases.clear();
                List::push(leases, &Lease { lease });
                client.queue(&Command::Ack(Ack {
                    request: REQUEST,
                    leases: List::new(leases),
                }));
            }
            Ok(Reply::Settled(settled)) => {
                if settled.failed.iter().next().is_some() {
                    bail!("a lease ended before its message was acknowledged");
                }
                if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
                    self.over.send_replace(true);
                }
            }
            Ok(Reply::Failed(failed)) => bail!("{}: {}", failed.code, failed.message),
            Ok(Reply::Ended(ended)) => bail!("{}: {}", ended.code, ended.message),
            Ok(Reply::Gap(gap)) => bail!("messages were lost to the group: {}", gap.reason),
            _ => {}
        }
        Ok(())
    }
}
