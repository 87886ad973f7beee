#![no_main]
//! `tracer::fuzz::stacks`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tracer::fuzz::stacks(bytes));
