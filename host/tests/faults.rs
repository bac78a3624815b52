//! Stores that fail and brokers that trap, under real sockets: what has a receipt is kept, nothing else is claimed,
//! and the clients stay connected.

use core::net::Ipv4Addr;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io;
use std::sync::Arc;

use dunlin_core::{Op, Row, Timestamp};
use dunlin_host::{
    Access, Console, DirectoryDisk, Disk, DiskFile, Engine, EngineError, EngineKind, Engines,
    FjallBase, JournalOptions, JournaledStore, MemoryStore, NativeEngine, OpenBase, RangeRead,
    Server, ServerOptions, Store, StoreError,
};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

const PATIENCE: Duration = Duration::from_secs(30);

/// A store that fails when it is told to. What was applied before a sync that failed is lost with it.
#[derive(Default)]
struct FlakyStore {
    rows: MemoryStore,
    unsynced: std::sync::Mutex<Vec<Vec<Op>>>,
    fails_apply: AtomicBool,
    fails_sync: AtomicBool,
    fails_probe: AtomicBool,
}

fn fails(switch: &AtomicBool) -> Result<(), StoreError> {
    if switch.load(Ordering::SeqCst) {
        Err(StoreError("no space left on device".to_owned()))
    } else {
        Ok(())
    }
}

impl Store for FlakyStore {
    fn apply(&self, ops: &[Op]) -> Result<(), StoreError> {
        fails(&self.fails_apply)?;
        self.unsynced.lock().unwrap().push(ops.to_vec());
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        fails(&self.fails_sync)?;
        for ops in self.unsynced.lock().unwrap().drain(..) {
            self.rows.apply(&ops)?;
        }
        Ok(())
    }

    fn range(&self, read: &RangeRead) -> Result<Vec<Row>, StoreError> {
        self.rows.range(read)
    }

    fn reopen(&self) -> Result<(), StoreError> {
        self.unsynced.lock().unwrap().clear();
        // One sync fails and no more, as with a disk that lost a write.
        self.fails_sync.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn probe(&self) -> Result<(), StoreError> {
        fails(&self.fails_probe)
    }
}

/// Traps on a batch that holds these bytes.
struct TrapEngine(NativeEngine);

const TRAP: &[u8] = b"trap, please";

impl Engine for TrapEngine {
    fn restore(&mut self, rows: &[u8]) -> Result<(), EngineError> {
        self.0.restore(rows)
    }
    fn step(&mut self, now: Timestamp, inputs: &[u8]) -> Result<&[u8], EngineError> {
        if inputs.windows(TRAP.len()).any(|window| window == TRAP) {
            return Err(EngineError::Trap("as asked".to_owned()));
        }
        self.0.step(now, inputs)
    }
    fn stats(&mut self) -> Result<String, EngineError> {
        self.0.stats()
    }
}

async fn serve(engines: Engines, store: Arc<dyn Store>) -> Server {
    Server::start(ServerOptions {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        shards: 2,
        engines,
        store,
        access: Access::default(),
        console: Console::Embedded,
        connections_max: 1000,
    })
    .await
    .unwrap()
}

fn native() -> Engines {
    Engines::new(EngineKind::Native, "{}").unwrap()
}

struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    async fn hello(server: &Server) -> Self {
        let url = format!("ws://{}/v1/main/connect", server.address());
        let mut socket = Self(connect_async(url).await.unwrap().0);
        socket.say(r#"{"type":"hello","version":1}"#).await;
        socket.hear("hello").await;
        socket
    }

    async fn say(&mut self, text: &str) {
        self.0.send(Message::text(text.to_owned())).await.unwrap();
    }

    /// Publishes at level Sync under a number.
    async fn publish(&mut self, request: u64, text: &str) {
        self.say(&format!(
            r#"{{"type":"publish","request":{request},"topic":"t","payload":"{text}","durability":"sync"}}"#
        ))
        .await;
    }

    /// The next frame of this type; others are passed over.
    async fn hear(&mut self, kind: &str) -> Value {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.0.next()).await;
            let message = next.unwrap_or_else(|_| panic!("no {kind} came"));
            let message = message.expect("an open socket").unwrap();
            let mut lines = message.to_text().unwrap().lines().map(|line| {
                serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("{line}"))
            });
            if let Some(found) = lines.find(|line| line["type"] == kind) {
                return found;
            }
        }
    }

    /// The next frame of one of these types; others are passed over.
    async fn hear_any(&mut self, kinds: &[&str]) -> Value {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.0.next()).await;
            let message = next.expect("an answer").expect("an open socket").unwrap();
            for line in message.to_text().unwrap().lines() {
                let line: Value = serde_json::from_str(line).unwrap();
                if kinds.iter().any(|kind| line["type"] == *kind) {
                    return line;
                }
            }
        }
    }

    async fn history(&mut self) -> Vec<String> {
        self.say(r#"{"type":"read","request":99,"topic":"t","partition":0}"#)
            .await;
        let page = self.hear("page").await;
        let records = page["records"].as_array().unwrap().iter();
        records
            .map(|record| record["payload"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[tokio::test]
async fn a_trap_keeps_the_sockets_and_what_was_acknowledged() {
    let engines =
        Engines::from_fn(|seed| Ok(Box::new(TrapEngine(NativeEngine::start("{}", seed)?))));
    let server = serve(engines, Arc::new(MemoryStore::default())).await;
    let mut reader = Socket::hello(&server).await;
    reader
        .say(r##"{"type":"subscribe","request":1,"subscription":1,"filter":"#"}"##)
        .await;
    let token = reader.hear("subscribed").await["token"].clone();
    let mut writer = Socket::hello(&server).await;
    writer.publish(1, "before").await;
    writer.hear("receipt").await;
    let sequence = reader.hear("delivery").await["sequence"].clone();

    for round in 0..3 {
        writer.publish(2, "trap, please").await;
        writer.hear("resync").await;
        reader.hear("resync").await;
        let from = format!("resume:{}:{sequence}", token.as_str().unwrap());
        reader
            .say(&format!(
                r##"{{"type":"subscribe","request":1,"subscription":{},"filter":"#","from":"{from}"}}"##,
                round + 2
            ))
            .await;
        reader.hear("subscribed").await;
    }
    writer.publish(3, "after").await;
    assert_eq!(writer.hear("receipt").await["request"], 3);
    assert_eq!(reader.hear("delivery").await["payload"], "after");
    assert_eq!(writer.history().await, ["before", "after"]);
    drop((reader, writer));
    server.shut_down().await;
}

#[tokio::test]
async fn a_sync_that_fails_acknowledges_nothing_that_it_lost() {
    let store = Arc::new(FlakyStore::default());
    let server = serve(native(), Arc::clone(&store) as Arc<dyn Store>).await;
    let mut writer = Socket::hello(&server).await;
    writer.publish(1, "kept").await;
    writer.hear("receipt").await;
    store.fails_sync.store(true, Ordering::SeqCst);
    writer.publish(2, "lost").await;
    // No receipt for it: the broker says that it does not know.
    writer.hear("resync").await;
    writer.publish(3, "again").await;
    let receipt = writer.hear("receipt").await;
    assert_eq!(
        (&receipt["request"], &receipt["offset"]),
        (&3.into(), &1.into())
    );
    assert_eq!(writer.history().await, ["kept", "again"]);
    drop(writer);
    server.shut_down().await;
}

/// A disk on which no file can be made while it is full.
struct SmallDisk {
    files: DirectoryDisk,
    is_full: Arc<AtomicBool>,
}

impl Disk for SmallDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.files.list()
    }
    fn create(&self, name: &str, size_bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        if self.is_full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.files.create(name, size_bytes)
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.files.open(name)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.remove(name)
    }
    fn sync_directory(&self) -> io::Result<()> {
        self.files.sync_directory()
    }
}

#[tokio::test]
async fn a_journal_that_cannot_grow_refuses_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let is_full = Arc::new(AtomicBool::new(false));
    let open = |is_full: &Arc<AtomicBool>| {
        let disk = SmallDisk {
            files: DirectoryDisk::open(folder.path().join("journal")).unwrap(),
            is_full: Arc::clone(is_full),
        };
        let rows = folder.path().join("rows");
        let options = JournalOptions {
            segment_bytes: 4096,
            spares_min: 1,
            frozen_max: 2,
            seed: 1,
        };
        let open_base: OpenBase = Box::new(move || Ok(Box::new(FjallBase::open(&rows)?)));
        JournaledStore::open(Arc::new(disk), open_base, options, Box::new(|| {})).unwrap()
    };
    let server = serve(native(), Arc::new(open(&is_full))).await;
    let mut writer = Socket::hello(&server).await;
    let mut kept = Vec::new();
    for filling in [false, true, false] {
        is_full.store(filling, Ordering::SeqCst);
        let mut told = Vec::new();
        // Until the journal is full and that was told, or until there is room and that was noticed.
        while !told.contains(&"storage_unavailable".to_owned()) || !filling {
            let text = format!("message {}", kept.len());
            writer.publish(1, &text).await;
            let answer = writer.hear_any(&["receipt", "resync", "error"]).await;
            let answer = if answer["type"] == "error" {
                &answer["code"]
            } else {
                &answer["type"]
            };
            told.push(answer.as_str().unwrap().to_owned());
            if told.last().is_some_and(|last| last == "receipt") {
                kept.push(text);
                if !filling && kept.len().is_multiple_of(30) {
                    break;
                }
            }
        }
    }
    assert!(
        kept.len() > 30 && kept.len().is_multiple_of(30),
        "{}",
        kept.len()
    );
    let found = writer.history().await;
    drop(writer);
    server.shut_down().await;
    // What was refused with a resync may be there or not; what has a receipt is there, once, in order.
    let of_receipts: Vec<_> = found.iter().filter(|text| kept.contains(text)).collect();
    let mut once = of_receipts.clone();
    once.dedup();
    assert_eq!(once, kept.iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_full_disk_is_refused_until_there_is_room() {
    let store = Arc::new(FlakyStore::default());
    let server = serve(native(), Arc::clone(&store) as Arc<dyn Store>).await;
    let mut writer = Socket::hello(&server).await;
    writer.publish(1, "kept").await;
    writer.hear("receipt").await;
    store.fails_probe.store(true, Ordering::SeqCst);
    store.fails_apply.store(true, Ordering::SeqCst);
    writer.publish(2, "lost").await;
    writer.hear("resync").await;
    writer.publish(3, "refused").await;
    let refusal = writer.hear("error").await;
    assert_eq!(refusal["code"], "storage_unavailable", "{refusal}");

    store.fails_apply.store(false, Ordering::SeqCst);
    store.fails_probe.store(false, Ordering::SeqCst);
    let mut request = 4;
    loop {
        writer.publish(request, "taken").await;
        let answer = tokio::time::timeout(PATIENCE, writer.0.next()).await;
        let message = answer.expect("an answer").unwrap().unwrap();
        let answer: Value = serde_json::from_str(message.to_text().unwrap().trim()).unwrap();
        if answer["type"] == "receipt" {
            break;
        }
        assert_eq!(answer["code"], "storage_unavailable", "{answer}");
        request += 1;
    }
    assert_eq!(writer.history().await, ["kept", "taken"]);
    drop(writer);
    server.shut_down().await;
}
