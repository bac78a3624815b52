//! One shard: a thread with one broker, the connections of its namespaces, and the loop that drives them.
//!
//! Whatever arrives while a step runs goes into the next batch. The broker may be dropped at any moment, after a trap
//! or when the store failed, and restored from the store; the sockets stay, and their clients are asked by the
//! broker to state their positions again.

use core::time::Duration;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use dunlin_core::{
    Claims, CloseCode, ConnectionId, Encoding, Event, Input, LoadFailed, Row, Ticket, Timestamp,
    WriteSequence,
};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::clock::Clock;
use crate::committer::{Request, SyncRequest};
use crate::drive::{BATCH_BYTES_MAX, Drive, DriveError, Load, Outbox, ShardSpan, Step};
use crate::engine::Engines;
use crate::outbound::{Outbound, OutboundReceiver, outbound};
use crate::report;
use crate::store::Store;

/// The most arrivals in one batch; more wait in the channel, which is as long.
const BATCH_ARRIVALS_MAX: usize = 1024;

/// The most bytes of frames that wait for one shard; sockets are not read while there is no room.
const INBOUND_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Messages to one connection are joined up to this length; a single message may be longer.
const JOINED_BYTES_MAX: usize = 256 * 1024;

/// How often the broker is told how long commits take.
const LATENCY_EVERY: Duration = Duration::from_secs(1);

/// The pause after a trap that followed another, doubled each time up to the second.
const TRAP_BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What comes from clients and from the server.
#[derive(Debug)]
pub(crate) enum Arrival {
    Open(ConnectionId, Encoding, Claims, Vec<u8>, Outbound),
    Frame(ConnectionId, Bytes, OwnedSemaphorePermit),
    Gone(ConnectionId),
    Seen(ConnectionId, Timestamp),
    Ready(oneshot::Sender<Result<(), Unwritable>>),
    Drain,
}

/// What comes from the committer and the readers.
#[derive(Debug)]
pub(crate) enum Notice {
    Synced(u64, WriteSequence, Duration),
    Loaded(u64, Ticket, Result<Vec<Row>, LoadFailed>),
    StandStill,
    Recovered(Result<(), Unwritable>),
    Available,
}

/// Why the store takes no writes.
#[derive(Clone, Debug)]
pub(crate) struct Unwritable(pub(crate) Arc<str>);

/// How the server reaches a shard.
#[derive(Clone, Debug)]
pub(crate) struct ShardHandle {
    arrivals: mpsc::Sender<Arrival>,
    room: Arc<Semaphore>,
    clock: Clock,
}

/// One client of a shard, as its socket sees it. Dropping it tells the broker that the client is gone.
#[derive(Debug)]
pub(crate) struct Connection {
    id: ConnectionId,
    shard: ShardHandle,
    /// What leaves for the client.
    pub(crate) outgoing: OutboundReceiver,
}

/// The shard has ended.
#[derive(Debug)]
pub(crate) struct Stopped;

impl ShardHandle {
    /// Announces a client.
    pub(crate) async fn open(
        &self,
        id: ConnectionId,
        encoding: Encoding,
        claims: Claims,
        ip: Vec<u8>,
    ) -> Result<Connection, Stopped> {
        let (shard_end, outgoing) = outbound();
        let arrival = Arrival::Open(id, encoding, claims, ip, shard_end);
        self.arrivals.send(arrival).await.map_err(|_| Stopped)?;
        Ok(Connection {
            id,
            shard: self.clone(),
            outgoing,
        })
    }

    /// Asks the broker to take nothing new.
    pub(crate) async fn drain(&self) {
        // A shard that has ended has nothing to drain.
        let _ = self.arrivals.send(Arrival::Drain).await;
    }

    /// Whether there is a broker and its store takes writes. Without a broker there is no answer.
    pub(crate) async fn ready(&self) -> Result<Result<(), Unwritable>, Stopped> {
        let (sender, answer) = oneshot::channel();
        let arrival = Arrival::Ready(sender);
        self.arrivals.send(arrival).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }
}

impl Connection {
    /// Passes a message on, when there is room.
    pub(crate) async fn frame(&self, bytes: Bytes) -> Result<(), Stopped> {
        let size = u32::try_from(bytes.len()).map_err(|_| Stopped)?;
        let permit = Arc::clone(&self.shard.room)
            .acquire_many_owned(size)
            .await
            .map_err(|_| Stopped)?;
        let arrival = Arrival::Frame(self.id, bytes, permit);
        let arrivals = &self.shard.arrivals;
        arrivals.send(arrival).await.map_err(|_| Stopped)
    }

    /// Tells of a sign of life; where there is no room, another will come.
    pub(crate) fn seen(&self) {
        let arrival = Arrival::Seen(self.id, self.shard.clock.now());
        let _ = self.shard.arrivals.try_send(arrival);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Through the same channel as the frames, which must not be overtaken.
        let arrivals = &self.shard.arrivals;
        if let Err(mpsc::error::TrySendError::Full(gone)) =
            arrivals.try_send(Arrival::Gone(self.id))
            && let Ok(runtime) = Handle::try_current()
        {
            let arrivals = arrivals.clone();
            runtime.spawn(async move { arrivals.send(gone).await });
        }
    }
}

/// What a shard needs to start.
pub(crate) struct ShardParts {
    pub(crate) span: ShardSpan,
    pub(crate) engines: Engines,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) committer: Sender<Request>,
    pub(crate) notices: mpsc::UnboundedReceiver<Notice>,
    pub(crate) notices_to_self: mpsc::WeakUnboundedSender<Notice>,
    /// Where loads run.
    pub(crate) readers: Handle,
    pub(crate) clock: Clock,
}

/// Restores a broker and starts its thread, which ends when the last [`ShardHandle`] and [`Connection`] are gone.
pub(crate) fn start(parts: ShardParts) -> anyhow::Result<(ShardHandle, JoinHandle<()>)> {
    let (arrivals, receiver) = mpsc::channel(BATCH_ARRIVALS_MAX);
    let handle = ShardHandle {
        arrivals,
        room: Arc::new(Semaphore::new(INBOUND_BYTES_MAX)),
        clock: parts.clock,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let name = format!("shard-{}", parts.span.index);
    let mut shard = Shard::new(parts);
    shard.restore()?;
    let thread = thread::Builder::new()
        .name(name)
        .spawn(move || runtime.block_on(shard.run(receiver)))?;
    Ok((handle, thread))
}

struct Shard {
    parts: ShardParts,
    drive: Option<Drive>,
    /// Which broker this is, from 1.
    life: u64,
    sockets: Sockets,
    timeout: Option<Instant>,
    /// What has arrived and does not fit the batch any more.
    waiting: Vec<Arrival>,
    /// Whether anything was given to the broker since its last step.
    batch_open: bool,
    latency_told: Option<Instant>,
    available: Result<(), Unwritable>,
    draining: bool,
    traps_in_a_row: u32,
    /// When to restore after a trap that followed another.
    restore_at: Option<Instant>,
}

impl Shard {
    fn new(parts: ShardParts) -> Self {
        Self {
            parts,
            drive: None,
            life: 0,
            sockets: Sockets::default(),
            timeout: None,
            waiting: Vec::new(),
            batch_open: false,
            latency_told: None,
            available: Ok(()),
            draining: false,
            traps_in_a_row: 0,
            restore_at: None,
        }
    }

    async fn run(mut self, mut arrivals: mpsc::Receiver<Arrival>) {
        loop {
            let idle = !self.batch_open && self.waiting.is_empty();
            if idle || self.drive.is_none() {
                let wake = if self.drive.is_some() {
                    self.timeout
                } else {
                    self.restore_at
                };
                tokio::select! {
                    biased;
                    Some(notice) = self.parts.notices.recv() => self.notice(notice),
                    count = arrivals.recv_many(&mut self.waiting, BATCH_ARRIVALS_MAX), if self.drive.is_some() => {
                        if count == 0 {
                            return;
                        }
                    }
                    () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => self.woken(),
                }
            }
            while let Ok(notice) = self.parts.notices.try_recv() {
                self.notice(notice);
            }
            self.take_waiting();
            self.step();
        }
    }

    /// Gives what has arrived to the broker, up to the bound of a batch.
    fn take_waiting(&mut self) {
        let Some(drive) = &mut self.drive else {
            return;
        };
        let mut taken = 0;
        while taken < self.waiting.len() && drive.batch_bytes() < BATCH_BYTES_MAX {
            taken += 1;
            self.batch_open = true;
            let arrival = core::mem::replace(&mut self.waiting[taken - 1], Arrival::Drain);
            match arrival {
                Arrival::Open(connection, encoding, claims, ip, outbound) => {
                    self.sockets.insert(connection, outbound);
                    drive.input(&Input::Connect {
                        connection,
                        encoding,
                        claims,
                        ip,
                    });
                }
                Arrival::Frame(connection, bytes, _room) => {
                    if self.sockets.contains(connection) {
                        let bytes = &bytes;
                        drive.input(&Input::Frame { connection, bytes });
                    }
                }
                Arrival::Gone(connection) => {
                    if self.sockets.remove(connection) {
                        drive.input(&Input::Disconnect { connection });
                    }
                }
                Arrival::Seen(connection, at) => drive.input(&Input::Seen { connection, at }),
                Arrival::Ready(answer) => {
                    let _ = answer.send(self.available.clone());
                }
                Arrival::Drain => {
                    self.draining = true;
                    drive.input(&Input::Drain);
                }
            }
        }
        self.waiting.drain(..taken);
    }

    fn step(&mut self) {
        let Some(drive) = &mut self.drive else {
            return;
        };
        if self.batch_open {
            self.batch_open = false;
            let now = self.parts.clock.now();
            match drive.step(now, &mut self.sockets) {
                Ok(step) => {
                    self.traps_in_a_row = 0;
                    self.follow(step);
                }
                Err(error) => return self.lose(&error),
            }
        }
        self.sockets.flush();
        if let Some(drive) = &mut self.drive {
            for connection in self.sockets.cut_off.drain(..) {
                drive.input(&Input::Disconnect { connection });
                self.batch_open = true;
            }
        }
    }

    fn follow(&mut self, step: Step) {
        self.timeout = step
            .timeout
            .and_then(|at| self.parts.clock.instant(at))
            .map(Instant::from_std);
        if let Some(wish) = step.sync {
            // The committer outlives the shards.
            let _ = self.parts.committer.send(Request::Sync(SyncRequest {
                shard: self.parts.span.index as usize,
                life: self.life,
                up_to: wish.up_to,
                urgent: wish.urgent,
            }));
        }
        for load in step.loads {
            self.load(load);
        }
    }

    fn load(&self, load: Load) {
        let store = Arc::clone(&self.parts.store);
        let life = self.life;
        let Some(answer) = self.parts.notices_to_self.upgrade() else {
            return;
        };
        self.parts.readers.spawn_blocking(move || {
            let rows = store.range(&load.read).map_err(|error| {
                report::error(&format!("stored messages cannot be read: {error}"));
                LoadFailed
            });
            let _ = answer.send(Notice::Loaded(life, load.ticket, rows));
        });
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Synced(life, up_to, took) => {
                let Some(drive) = self.drive.as_mut().filter(|_| life == self.life) else {
                    return;
                };
                drive.synced(up_to, &mut self.sockets);
                let now = Instant::now();
                if self
                    .latency_told
                    .is_none_or(|told| now - told > LATENCY_EVERY)
                {
                    self.latency_told = Some(now);
                    drive.input(&storage(self.available.is_ok(), took));
                    self.batch_open = true;
                }
            }
            Notice::Loaded(life, ticket, result) => {
                if let Some(drive) = self.drive.as_mut().filter(|_| life == self.life) {
                    drive.input(&Input::Loaded { ticket, result });
                    self.batch_open = true;
                }
            }
            Notice::StandStill => {
                self.drive = None;
                self.batch_open = false;
                self.restore_at = None;
                self.sockets.forget_pending();
                let _ = self.parts.committer.send(Request::Standing);
            }
            Notice::Recovered(available) => {
                self.available = available;
                self.restore_or_report();
            }
            Notice::Available => {
                self.available = Ok(());
                if let Some(drive) = &mut self.drive {
                    drive.input(&storage(true, Duration::ZERO));
                    self.batch_open = true;
                }
            }
        }
    }

    fn woken(&mut self) {
        if let Some(drive) = &mut self.drive {
            self.timeout = None;
            drive.input(&Input::Timeout);
            self.batch_open = true;
        } else {
            self.restore_at = None;
            self.restore_or_report();
        }
    }

    /// The broker cannot go on: it would answer from a state that is not what is stored.
    fn lose(&mut self, error: &DriveError) {
        report::error(&format!(
            "shard {} restores its broker: {error}",
            self.parts.span.index
        ));
        self.drive = None;
        self.sockets.forget_pending();
        match error {
            DriveError::Store(_) => {
                let _ = self.parts.committer.send(Request::Failed);
            }
            DriveError::Engine(_) => {
                let pause = TRAP_BACKOFF.0 * 2u32.saturating_pow(self.traps_in_a_row);
                self.traps_in_a_row += 1;
                if self.traps_in_a_row == 1 {
                    self.restore_or_report();
                } else {
                    self.restore_at = Some(Instant::now() + pause.min(TRAP_BACKOFF.1));
                }
            }
        }
    }

    fn restore_or_report(&mut self) {
        if let Err(error) = self.restore() {
            self.lose(&error);
        }
    }

    /// A new broker with what is stored. The first step ends what connections of earlier brokers left behind, but
    /// for those whose sockets are still here.
    fn restore(&mut self) -> Result<(), DriveError> {
        // What the last broker wrote may not be durable yet; the next one takes all that it reads for durable.
        self.parts.store.sync()?;
        let engine = self.parts.engines.start(seed())?;
        let store = Arc::clone(&self.parts.store);
        let mut drive = Drive::restore(engine, store, self.parts.span)?;
        self.life += 1;
        self.timeout = None;
        if self.available.is_err() {
            // In front of everything, or this first batch would be written.
            drive.input(&storage(false, Duration::ZERO));
        }
        for connection in self.sockets.ids() {
            drive.input(&Input::Restored {
                connection,
                clean: false,
            });
        }
        if self.draining {
            drive.input(&Input::Drain);
        }
        let step = drive.step(self.parts.clock.now(), &mut self.sockets)?;
        self.drive = Some(drive);
        self.follow(step);
        self.sockets.flush();
        Ok(())
    }
}

fn storage(available: bool, commit_latency: Duration) -> Input<'static> {
    Input::Storage {
        available,
        commit_latency_ms: u32::try_from(commit_latency.as_millis()).unwrap_or(u32::MAX),
    }
}

/// Fresh entropy for a broker.
fn seed() -> u64 {
    getrandom::u64().expect("the operating system has randomness")
}

/// The sockets of a shard. What goes to one connection in one batch is joined and handed over once.
#[derive(Default)]
struct Sockets {
    sockets: HashMap<ConnectionId, Socket, foldhash::fast::RandomState>,
    /// Those with something pending.
    touched: Vec<ConnectionId>,
    /// Those that do not read, which the broker has not been told yet.
    cut_off: Vec<ConnectionId>,
}

struct Socket {
    outbound: Outbound,
    pending: Vec<u8>,
}

impl Sockets {
    fn insert(&mut self, connection: ConnectionId, outbound: Outbound) {
        let socket = Socket {
            outbound,
            pending: Vec::new(),
        };
        self.sockets.insert(connection, socket);
    }

    fn contains(&self, connection: ConnectionId) -> bool {
        self.sockets.contains_key(&connection)
    }

    fn remove(&mut self, connection: ConnectionId) -> bool {
        self.sockets.remove(&connection).is_some()
    }

    fn ids(&self) -> Vec<ConnectionId> {
        let mut ids: Vec<_> = self.sockets.keys().copied().collect();
        ids.sort();
        ids
    }

    /// What a lost broker said and nobody heard yet was never said.
    fn forget_pending(&mut self) {
        for connection in self.touched.drain(..) {
            if let Some(socket) = self.sockets.get_mut(&connection) {
                socket.pending.clear();
            }
        }
    }

    /// Hands over what is pending.
    fn flush(&mut self) {
        let touched = core::mem::take(&mut self.touched);
        for &connection in &touched {
            if let Entry::Occupied(socket) = self.sockets.entry(connection)
                && !hand_over(socket)
            {
                self.cut_off.push(connection);
            }
        }
        self.touched = touched;
        self.touched.clear();
    }
}

type SocketEntry<'a> = std::collections::hash_map::OccupiedEntry<'a, ConnectionId, Socket>;

/// Hands pending bytes over; a client whose queue is full is removed.
fn hand_over(mut socket: SocketEntry<'_>) -> bool {
    if socket.get().pending.is_empty() {
        return true;
    }
    let message = Bytes::from(core::mem::take(&mut socket.get_mut().pending));
    let taken = socket.get().outbound.send(message).is_ok();
    if !taken {
        socket.remove();
    }
    taken
}

impl Outbox for Sockets {
    fn send(&mut self, connection: ConnectionId, prefix: &[u8], body: &[u8]) {
        let Entry::Occupied(mut socket) = self.sockets.entry(connection) else {
            return;
        };
        let pending = &mut socket.get_mut().pending;
        let size = prefix.len() + body.len();
        if pending.is_empty() {
            self.touched.push(connection);
            pending.reserve_exact(size);
        }
        pending.extend_from_slice(prefix);
        pending.extend_from_slice(body);
        if pending.len() >= JOINED_BYTES_MAX && !hand_over(socket) {
            self.cut_off.push(connection);
        }
    }

    fn close(&mut self, connection: ConnectionId, code: CloseCode, reason: &str) {
        if let Entry::Occupied(socket) = self.sockets.entry(connection)
            && hand_over(socket)
            && let Some(socket) = self.sockets.remove(&connection)
        {
            socket.outbound.close(code, reason);
        }
    }

    fn notify(&mut self, event: Event) {
        if let Event::RowUnreadable { namespace, topic } = event {
            report::error(&format!(
                "a stored row of topic {topic:?} in namespace {namespace:?} cannot be understood; readers are told a gap"
            ));
        }
    }
}
