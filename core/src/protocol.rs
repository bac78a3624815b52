//! The client protocol, version 1: its vocabulary and its two encodings. The specification is `core/PROTOCOL.md`.

pub(crate) mod field;
pub(crate) mod frame;
pub(crate) mod json;
