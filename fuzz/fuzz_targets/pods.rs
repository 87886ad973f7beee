#![no_main]
//! `tracer::fuzz::pods`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tracer::fuzz::pods(bytes));
