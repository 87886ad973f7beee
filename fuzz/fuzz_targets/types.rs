#![no_main]
//! `tracer::fuzz::types`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tracer::fuzz::types(bytes));
