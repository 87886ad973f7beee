#![no_main]
//! `tracer::fuzz::config`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tracer::fuzz::config(bytes));
