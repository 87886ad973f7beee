//! What to think of a wait: class, sentence, what a connection's counters and stamps tell, when the kernel gives up on it. Layer 3,
//! pure: values in, decisions out; uses `model`, and of `resolve` the evidence.

pub mod kernel;
pub mod progress;
pub mod sentence;
pub mod timers;
pub mod verdict;
