//! The JSON that people and machines read, and read again: objects, versioned by what may be added. Layer 1.

pub mod event;
pub mod json;
pub mod lines;
pub mod names;
pub mod report;
pub mod target;
