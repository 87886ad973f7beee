//! Tables and pages for people.
//!
//! Layer 4: uses what lies below, and `assess`, whose findings it shows.

pub mod incidents;
pub mod layout;
pub mod stack;
pub mod table;
pub mod waits;
pub mod why;
