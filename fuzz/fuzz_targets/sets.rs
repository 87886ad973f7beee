#![no_main]
//! `tracer::fuzz::sets`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tracer::fuzz::sets(bytes));
