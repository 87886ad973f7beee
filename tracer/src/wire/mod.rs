//! The JSON that people and machines read, and read again: objects, versioned by what may be added. Layer 1.

pub mod culprit;
pub mod doctor;
pub mod durations;
pub mod event;
pub mod host;
pub mod incident;
pub mod json;
pub mod lines;
pub mod names;
pub mod otlp;
pub mod report;
pub mod stack;
pub mod stall;
pub mod state;
pub mod target;
