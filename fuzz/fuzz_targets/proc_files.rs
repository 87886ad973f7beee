#![no_main]
//! `tracer::fuzz::proc_files`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tracer::fuzz::proc_files(bytes));
