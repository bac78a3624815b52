//! What `build.rs` put into this binary.

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));
