#![no_main]
//! `tracer::fuzz::sockets`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tracer::fuzz::sockets(bytes));
