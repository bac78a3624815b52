//! A broker in this process alone, for whoever has a data directory and no running server: the same shard, committer
//! and store, without a port.

use core::time::Duration;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Result, anyhow};
use dunlin_core::{Claims, ConnectionId, Encoding, Rights};
use tokio::runtime::Handle;
use tokio::task;

use crate::archives::Transfer;
use crate::engine::Engines;
use crate::server::start_shards;
use crate::shard::Stopped;
use crate::store::Store;

/// How long the last sync may take.
const END_WITHIN: Duration = Duration::from_secs(10);

/// One connection to a broker of this process.
pub(crate) struct Offline {
    /// What speaks to the broker.
    pub(crate) transfer: Transfer,
    threads: Vec<JoinHandle<()>>,
}

impl Offline {
    /// Restores the broker from `store` and connects to `namespace` with all rights.
    pub(crate) async fn start(
        engines: Engines,
        store: Arc<dyn Store>,
        namespace: &str,
    ) -> Result<Self> {
        // A store may be opened with any number of shards, so one does for all namespaces.
        let starting =
            task::spawn_blocking(move || start_shards(1, &engines, &store, &Handle::current()));
        let (shards, threads) = starting.await??;
        let claims = Claims {
            namespace: namespace.to_owned(),
            user: String::new(),
            device: String::new(),
            rights: Rights::ALL,
        };
        let shard = shards.first().expect("one was started");
        let connection = shard
            .open(ConnectionId(1), Encoding::Binary, claims, Vec::new())
            .await
            .map_err(|Stopped| anyhow!("the broker ended before it began"))?;
        Ok(Self {
            transfer: Transfer::new(connection),
            threads,
        })
    }

    /// Ends the broker, which makes everything durable and gives the store back.
    pub(crate) async fn stop(self) {
        let Self { transfer, threads } = self;
        // The threads end with the last handle of theirs; with a store that has failed they would try for ever.
        drop(transfer);
        let ending = task::spawn_blocking(move || {
            for thread in threads {
                let _ = thread.join();
            }
        });
        let _ = tokio::time::timeout(END_WITHIN, ending).await;
    }
}
