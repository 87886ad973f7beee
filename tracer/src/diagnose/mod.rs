//! What to think of a wait: class, sentence, since when nothing has moved. Layer 3, pure: values in, decisions
//! out; uses `model`, and of `resolve` the evidence.

pub mod culprit;
pub mod graph;
pub mod incidents;
pub mod needs;
pub mod progress;
#[cfg(test)]
mod properties;
pub mod sentence;
pub mod silence;
pub mod verdict;
