#![no_main]
//! `tracer::fuzz::records`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tracer::fuzz::records(bytes));
