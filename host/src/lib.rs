//! dunlin as a native server: it gives the broker threads, a store, sockets and a clock, and obeys its effects.
//!
//! The library is there for the program of the same package and for tests; [`Engine`], [`Store`] and [`Drive`] are
//! the parts that tests drive without sockets.

mod access;
mod archives;
mod cli;
mod clock;
mod committer;
mod console;
mod drive;
mod embedded;
mod engine;
mod offline;
mod outbound;
mod report;
mod requests;
mod server;
mod shard;
mod store;
mod websocket;

pub use access::{Access, AccessError};
pub use cli::run;
pub use console::Console;
pub use drive::{BATCH_BYTES_MAX, Drive, DriveError, Load, Outbox, ShardSpan, Step, SyncWanted};
pub use engine::{Engine, EngineError, EngineKind, Engines, GuestModule, NativeEngine, WasmEngine};
pub use server::{SHARDS_MAX, Server, ServerOptions};
pub use store::{
    Base, Change, Cut, DataDirectory, DirectoryDisk, Disk, DiskFile, FORMAT_VERSION, FjallBase,
    Inspection, JournalOptions, JournaledStore, MemoryStore, NativeStore, OpenBase, RangeRead,
    Reached, Recovery, Rows, Store, StoreError, StoreKind,
};
