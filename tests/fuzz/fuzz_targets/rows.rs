//! Any stored rows.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dunlin_tests::fuzz::rows(data));
