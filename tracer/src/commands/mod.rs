//! The commands, a file each.
//!
//! Layer 6: the top: it may use everything.

pub mod agent;
pub mod doctor;
pub mod generate;
pub mod ps;
pub mod release;
pub mod run;
pub mod stack;
pub mod stalls;
pub mod top;
pub mod trace;
mod who;
pub mod why;
