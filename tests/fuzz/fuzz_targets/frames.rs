//! Any messages from any clients.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dunlin_tests::fuzz::frames(data));
