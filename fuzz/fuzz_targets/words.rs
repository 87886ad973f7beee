#![no_main]
//! `tracer::fuzz::words`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tracer::fuzz::words(bytes));
