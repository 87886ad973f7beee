//! What the agent is told of where stalls go: the history, and the program that is run.

use std::time::Duration;

/// How much of the history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nothing older.
    pub age: Duration,
    /// Bytes on disk, about.
    pub bytes: u64,
}

/// What is to be run for each stall, and how often at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookConfig {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// It is killed after this.
    pub timeout: Duration,
    /// Runs in a minute, second tries included.
    pub a_minute: u32,
}
