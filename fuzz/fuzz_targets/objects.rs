#![no_main]
//! `tracer::fuzz::objects`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tracer::fuzz::objects(bytes));
