//! The queue from a shard to one client: bounded in bytes, so that a client that does not read costs a known amount.

use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use bytes::Bytes;
use dunlin_core::CloseCode;
use tokio::sync::{Notify, mpsc};

/// The most bytes that wait for one socket. The broker's credit and lag policies act long before; this is for
/// clients that ask for much and read nothing.
pub(crate) const OUTBOUND_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What leaves for a client.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// One message: whole frames, one after the other.
    Message(Bytes),
    /// The end; nothing comes after it.
    Close(CloseCode, String),
}

/// The shard's end.
#[derive(Debug)]
pub(crate) struct Outbound {
    queue: mpsc::UnboundedSender<Outgoing>,
    line: Arc<Line>,
}

/// The socket's end.
#[derive(Debug)]
pub(crate) struct OutboundReceiver {
    queue: mpsc::UnboundedReceiver<Outgoing>,
    line: Arc<Line>,
}

#[derive(Debug, Default)]
struct Line {
    queued_bytes: AtomicUsize,
    overflow: Notify,
}

/// The client does not read what it asked for; it has been cut off.
#[derive(Debug)]
pub(crate) struct Overflow;

pub(crate) fn outbound() -> (Outbound, OutboundReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let line = Arc::new(Line::default());
    let shard = Outbound {
        queue: sender,
        line: Arc::clone(&line),
    };
    let socket = OutboundReceiver {
        queue: receiver,
        line,
    };
    (shard, socket)
}

impl Outbound {
    /// Queues a message. A message that finds the queue empty is always taken, however long it is.
    pub(crate) fn send(&self, message: Bytes) -> Result<(), Overflow> {
        let size = message.len();
        let before = self.line.queued_bytes.fetch_add(size, Ordering::Relaxed);
        if before > 0 && before + size > OUTBOUND_BYTES_MAX {
            self.line.overflow.notify_one();
            return Err(Overflow);
        }
        // A socket that is gone tells so by itself.
        let _ = self.queue.send(Outgoing::Message(message));
        Ok(())
    }

    /// Queues the end.
    pub(crate) fn close(&self, code: CloseCode, reason: &str) {
        let _ = self.queue.send(Outgoing::Close(code, reason.to_owned()));
    }
}

impl OutboundReceiver {
    /// The next thing to write; `None` when the shard let go of the connection without a word.
    pub(crate) async fn recv(&mut self) -> Option<Outgoing> {
        self.queue.recv().await
    }

    /// What can be written at once.
    pub(crate) fn try_recv(&mut self) -> Option<Outgoing> {
        self.queue.try_recv().ok()
    }

    /// A message has left: its bytes wait no longer.
    pub(crate) fn written(&self, size_bytes: usize) {
        self.line
            .queued_bytes
            .fetch_sub(size_bytes, Ordering::Relaxed);
    }

    /// Something that ends when the client is to be cut off.
    pub(crate) fn overflow(&self) -> impl Future<Output = ()> + Send + use<> {
        let line = Arc::clone(&self.line);
        async move { line.overflow.notified().await }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_queue_that_is_full_cuts_its_client_off() {
        let (shard, mut socket) = outbound();
        let half = Bytes::from(vec![0; OUTBOUND_BYTES_MAX / 2]);
        shard.send(half.clone()).unwrap();
        shard.send(half.clone()).unwrap();
        shard.send(Bytes::from_static(b"x")).unwrap_err();
        socket.overflow().await;
        assert!(matches!(socket.recv().await, Some(Outgoing::Message(_))));
    }

    #[tokio::test]
    async fn what_is_written_makes_room_and_one_message_always_fits() {
        let (shard, mut socket) = outbound();
        let large = Bytes::from(vec![0; OUTBOUND_BYTES_MAX * 2]);
        for _ in 0..3 {
            shard.send(large.clone()).unwrap();
            let Some(Outgoing::Message(message)) = socket.recv().await else {
                panic!("no message");
            };
            socket.written(message.len());
        }
    }
}
