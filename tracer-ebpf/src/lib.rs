//! What both sides of the kernel boundary share: the records the kernel programs write and the
//! kernel fields they read. Built without `std` for the kernel and with the ordinary toolchain for tracer.
#![no_std]

pub mod abi;
pub mod fields;
