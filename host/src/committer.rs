//! The one thread that makes the store durable, for all shards: what they ask for while one sync runs shares the next.
//!
//! It also leads the way back after the store failed: every shard stands still, the store is opened again, the shards
//! restore. Nobody trusts a store after a failed sync before it was opened again, since what it shows from memory
//! may not be what is on disk.

use core::time::Duration;
use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use dunlin_core::WriteSequence;
use tokio::sync::mpsc::UnboundedSender;

use crate::report;
use crate::shard::{Notice, Unwritable};
use crate::store::{Store, StoreError};

/// How long a write that nobody waits for may stay undone. The level promises 100 ms; the rest is for the sync itself.
const ASYNC_SYNC_WITHIN: Duration = Duration::from_millis(60);

/// The first and the longest pause between two attempts to use a store that failed.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// How often it is looked whether a shard that has to stand still has ended instead.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What shards say to the committer.
#[derive(Debug)]
pub(crate) enum Request {
    /// Make durable what is applied.
    Sync(SyncRequest),
    /// The store failed while it was written to or read from.
    Failed,
    /// This shard has let go of its broker and stands still.
    Standing,
}

/// A shard's wish for durability.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SyncRequest {
    /// Which shard.
    pub(crate) shard: usize,
    /// The shard's broker, counted from 1: an answer to an earlier one means nothing to it.
    pub(crate) life: u64,
    /// The newest write that is applied.
    pub(crate) up_to: WriteSequence,
    /// Whether somebody waits for it.
    pub(crate) urgent: bool,
}

/// Starts the thread; it ends, after a last sync, when the last sender of requests is gone.
pub(crate) fn start(
    store: Arc<dyn Store>,
    shards: Vec<UnboundedSender<Notice>>,
) -> std::io::Result<(Sender<Request>, JoinHandle<()>)> {
    let (sender, requests) = mpsc::channel();
    let committer = Committer {
        store,
        wanted: vec![None; shards.len()],
        shards,
        requests,
        due: None,
        probe: None,
        pause: BACKOFF.0,
        outage: None,
    };
    let thread = thread::Builder::new()
        .name("committer".to_owned())
        .spawn(move || committer.run())?;
    Ok((sender, thread))
}

struct Committer {
    store: Arc<dyn Store>,
    shards: Vec<UnboundedSender<Notice>>,
    requests: Receiver<Request>,
    wanted: Vec<Option<SyncRequest>>,
    /// When the next sync is due, if one is wanted.
    due: Option<Instant>,
    /// When to try again whether the store takes writes, if it does not.
    probe: Option<Instant>,
    pause: Duration,
    outage: Option<Outage>,
}

/// While the store takes no writes.
struct Outage {
    since: Instant,
    /// What was told of it: the same is not told with every attempt.
    told: BTreeSet<String>,
}

impl Committer {
    fn run(mut self) {
        loop {
            let next = [self.due, self.probe].into_iter().flatten().min();
            let request = match next {
                None => self.requests.recv().map_err(RecvTimeoutError::from),
                Some(at) => {
                    let wait = at.saturating_duration_since(Instant::now());
                    self.requests.recv_timeout(wait)
                }
            };
            let mut requests = match request {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let mut failed = false;
            while let Some(request) = requests {
                match request {
                    Request::Sync(wish) => self.want(wish),
                    Request::Failed => failed = true,
                    Request::Standing => {}
                }
                requests = self.requests.try_recv().ok();
            }
            let now = Instant::now();
            if failed || (self.due.is_some_and(|at| at <= now) && !self.sync()) {
                self.recover();
            }
            if self.probe.is_some_and(|at| at <= now) {
                self.probe();
            }
        }
        if let Err(error) = self.store.sync() {
            report::error(&format!(
                "the last sync failed, unsynced messages may be lost: {error}"
            ));
        }
    }

    fn want(&mut self, wish: SyncRequest) {
        let now = Instant::now();
        let at = if wish.urgent {
            now
        } else {
            now + ASYNC_SYNC_WITHIN
        };
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
        self.wanted[wish.shard] = Some(wish);
    }

    /// Makes durable what is wanted; whether that went well.
    fn sync(&mut self) -> bool {
        self.due = None;
        let begun = Instant::now();
        let (wanted, shards) = (&mut self.wanted, &self.shards);
        let synced = self.store.sync_and(&mut || {
            let took = begun.elapsed();
            for wish in wanted.iter_mut().filter_map(Option::take) {
                // A shard that has ended needs no notice.
                let _ = shards[wish.shard].send(Notice::Synced(wish.life, wish.up_to, took));
            }
        });
        if let Err(error) = synced {
            report::error(&format!("messages cannot be made durable: {error}"));
            return false;
        }
        self.pause = BACKOFF.0;
        true
    }

    fn recover(&mut self) {
        self.due = None;
        self.probe = None;
        self.wanted.fill(None);
        // One after the other, so that it is known whose answer it is.
        for shard in &self.shards {
            self.stop(shard);
        }
        if self.shards.iter().all(UnboundedSender::is_closed) {
            // Nobody needs the store any more; the caller will see it too.
            return;
        }
        loop {
            thread::sleep(self.pause);
            self.pause = (self.pause * 2).min(BACKOFF.1);
            match self.store.reopen() {
                Ok(()) => break,
                Err(error) => self.tell_outage(error.0),
            }
        }
        report::event("the store is open again");
        if let Some(recovery) = self.store.recovery() {
            report::event(&recovery.to_string());
        }
        let available = self
            .store
            .probe()
            .map_err(|error| self.is_unwritable(error));
        if available.is_ok() {
            self.end_outage();
        }
        for shard in 0..self.shards.len() {
            self.tell(shard, Notice::Recovered(available.clone()));
        }
    }

    /// The store can be read but not written: it is tried again. What to tell clients.
    fn is_unwritable(&mut self, error: StoreError) -> Unwritable {
        self.tell_outage(format!("the store can be read but not written: {error}"));
        self.probe = Some(Instant::now() + self.pause);
        Unwritable(error.0.into())
    }

    fn tell_outage(&mut self, text: String) {
        let outage = self.outage.get_or_insert_with(|| Outage {
            since: Instant::now(),
            told: BTreeSet::new(),
        });
        if !outage.told.contains(&text) {
            report::error(&text);
            outage.told.insert(text);
        }
    }

    fn end_outage(&mut self) {
        if let Some(outage) = self.outage.take() {
            let seconds = outage.since.elapsed().as_secs_f32();
            report::event(&format!(
                "the store takes writes again, after {seconds:.1} s"
            ));
        }
    }

    /// Waits until a shard stands still or has ended; what others wish meanwhile is void, since they will stand too.
    fn stop(&self, shard: &UnboundedSender<Notice>) {
        if shard.send(Notice::StandStill).is_err() {
            return;
        }
        loop {
            match self.requests.recv_timeout(LOOK_EVERY) {
                Ok(Request::Standing) => return,
                Ok(_) | Err(RecvTimeoutError::Timeout) if !shard.is_closed() => {}
                _ => break,
            }
        }
        // It may have answered before it ended: that must not be taken for the answer of the next one.
        while self.requests.try_recv().is_ok() {}
    }

    fn probe(&mut self) {
        if let Err(error) = self.store.probe() {
            self.pause = (self.pause * 2).min(BACKOFF.1);
            self.is_unwritable(error);
            return;
        }
        self.probe = None;
        self.pause = BACKOFF.0;
        self.end_outage();
        for shard in 0..self.shards.len() {
            self.tell(shard, Notice::Available);
        }
    }

    fn tell(&self, shard: usize, notice: Notice) {
        // A shard that has ended needs no notice.
        let _ = self.shards[shard].send(notice);
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use dunlin_core::{Op, Row};
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;
    use crate::store::RangeRead;

    /// How long a test waits for what must come.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// Counts how often it was opened again, and refuses writes when it is told to.
    #[derive(Default)]
    struct TestStore {
        opened: AtomicU32,
        full: AtomicBool,
    }

    impl Store for TestStore {
        fn apply(&self, _: &[Op]) -> Result<(), StoreError> {
            Ok(())
        }

        fn sync(&self) -> Result<(), StoreError> {
            Ok(())
        }

        fn range(&self, _: &RangeRead) -> Result<Vec<Row>, StoreError> {
            Ok(Vec::new())
        }

        fn reopen(&self) -> Result<(), StoreError> {
            self.opened.fetch_add(1, Ordering::AcqRel);
            Ok(())
        }

        fn probe(&self) -> Result<(), StoreError> {
            match self.full.load(Ordering::Acquire) {
                true => Err(StoreError("the disk is full".to_owned())),
                false => Ok(()),
            }
        }
    }

    type Shards = Vec<UnboundedReceiver<Notice>>;

    fn begin(shards: usize) -> (Arc<TestStore>, Sender<Request>, JoinHandle<()>, Shards) {
        let store = Arc::new(TestStore::default());
        let (senders, receivers) = (0..shards).map(|_| unbounded_channel()).unzip();
        let (requests, thread) = start(Arc::<TestStore>::clone(&store), senders).unwrap();
        (store, requests, thread, receivers)
    }

    fn next(shard: &mut UnboundedReceiver<Notice>) -> Notice {
        let begun = Instant::now();
        loop {
            match shard.try_recv() {
                Ok(notice) => return notice,
                Err(_) => assert!(begun.elapsed() < PATIENCE, "the committer says nothing"),
            }
            thread::yield_now();
        }
    }

    #[test]
    fn recovery_waits_for_every_shard_that_lives_and_for_no_other() {
        let (store, requests, thread, shards) = begin(4);
        let [ended, mut ending, mut answering, mut living] =
            <[UnboundedReceiver<Notice>; 4]>::try_from(shards).unwrap();
        drop(ended);
        requests.send(Request::Failed).unwrap();
        assert!(matches!(next(&mut ending), Notice::StandStill));
        drop(ending);
        assert!(matches!(next(&mut answering), Notice::StandStill));
        requests.send(Request::Standing).unwrap();
        drop(answering);
        assert!(matches!(next(&mut living), Notice::StandStill));
        assert_eq!(store.opened.load(Ordering::Acquire), 0);
        requests.send(Request::Standing).unwrap();
        assert!(matches!(next(&mut living), Notice::Recovered(Ok(()))));
        assert_eq!(store.opened.load(Ordering::Acquire), 1);
        drop(requests);
        thread.join().unwrap();
    }

    fn wish(urgent: bool) -> Request {
        Request::Sync(SyncRequest {
            shard: 0,
            life: 1,
            up_to: WriteSequence::default(),
            urgent,
        })
    }

    #[test]
    fn what_nobody_waits_for_becomes_durable_by_itself() {
        let (_, requests, thread, mut shards) = begin(1);
        requests.send(wish(false)).unwrap();
        assert!(matches!(next(&mut shards[0]), Notice::Synced(..)));
        drop(requests);
        thread.join().unwrap();
    }

    #[test]
    fn a_second_recovery_forgets_the_probe_of_the_first() {
        let (store, requests, thread, mut shards) = begin(1);
        let shard = &mut shards[0];
        for full in [true, false] {
            store.full.store(full, Ordering::Release);
            requests.send(Request::Failed).unwrap();
            assert!(matches!(next(shard), Notice::StandStill));
            requests.send(Request::Standing).unwrap();
            assert!(
                matches!(next(shard), Notice::Recovered(available) if available.is_err() == full)
            );
        }
        // The second pause was as long as the first probe was to wait: it would come with this sync.
        requests.send(wish(true)).unwrap();
        assert!(matches!(next(shard), Notice::Synced(..)));
        drop(requests);
        thread.join().unwrap();
        assert!(shard.try_recv().is_err(), "it is available already");
    }
}
