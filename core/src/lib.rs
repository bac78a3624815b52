//! The deterministic broker at the heart of dunlin.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod abi;
mod broker;
mod effect;
mod error;
pub mod http;
mod ids;
mod input;
mod protocol;
pub mod rows;
mod wire;

pub use broker::{Broker, ConfigError, RestoreError};
pub use effect::{After, CloseCode, Durability, Effect, Event, Op, Recipient};
pub use error::{ErrorCode, Refusal};
pub use ids::{
    ConnectionId, Incarnation, Offset, Partition, RequestId, Sequence, SubscriptionId, Ticket,
    Timestamp, TopicId, WriteSequence,
};
pub use input::{Claims, Encoding, Input, LoadFailed, Rights, Row};
/// Frames: what clients and brokers say to each other.
pub mod frame {
    pub use crate::protocol::field::{Headers, Item, Layout, List, Strings};
    pub use crate::protocol::frame::*;
}
pub use wire::{Malformed, Reader};
