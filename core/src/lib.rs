//! The deterministic broker at the heart of dunlin.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod abi;
mod archive;
mod assign;
#[cfg(any(test, feature = "check"))]
mod bounds;
mod broker;
mod catch_up;
mod compaction;
mod config;
mod connection;
mod context;
mod cursor;
mod dead_letter;
mod deadline;
mod decimal;
mod dedup;
mod device;
mod done;
mod door;
mod dormant;
mod echo;
mod effect;
mod error;
mod export;
mod group;
mod group_rows;
mod hash;
mod held;
pub mod http;
mod ids;
mod import;
mod input;
mod inquiry;
mod lease;
mod limit;
mod limits;
mod lineage;
mod log;
mod mailbox;
mod manage;
mod manage_device;
mod manage_group;
mod member;
mod mutation;
mod namespace;
mod outbox;
mod presence;
mod priority;
mod protocol;
mod publish;
mod queue;
mod read;
mod rebalance;
mod restore;
mod retry;
mod routing;
pub mod rows;
mod rule;
mod schedule;
mod session;
mod subscribe;
mod subscription;
mod tenant;
mod topic;
mod transaction;
mod trie;
mod verify;
mod wire;

pub use archive::{ARCHIVE_VERSION, ArchiveError, ArchiveReader, ArchiveWriter};
pub use broker::Broker;
pub use config::ConfigError;
pub use effect::{After, CloseCode, Durability, Effect, Event, Op, Recipient};
pub use error::{ErrorCode, Refusal};
pub use hash::partition_of;
pub use ids::{
    ConnectionId, Generation, GroupId, Incarnation, LeaseId, MemberId, Offset, Partition, ReplyTo,
    RequestId, ScheduleId, Sequence, SubscriptionId, Ticket, Timestamp, TopicId, TransferId,
    WriteSequence,
};
pub use input::{Claims, Encoding, Input, LoadFailed, Rights, Row};
#[doc(hidden)]
pub use mutation::Mutation;
#[cfg(feature = "mutations")]
pub use mutation::mutate;
pub use restore::RestoreError;
/// Frames: what clients and brokers say to each other.
pub mod frame {
    pub use crate::protocol::field::{
        Field, FieldKind, FieldSpec, Headers, Item, Layout, List, Strings,
    };
    pub use crate::protocol::frame::*;
    pub use crate::protocol::json::{
        JsonError, Layouts, frame_to_json, json_to_frame, put_json_members,
    };
}
pub use verify::{NamespaceSummary, NamespaceVerifier};
pub use wire::{Malformed, Put, Reader};
