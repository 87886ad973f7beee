//! Where snapshots come from: one trait, and the sources that implement it.

pub mod bpf;
pub mod proc;

use anyhow::Result;

use crate::wait::Snapshot;

/// A way to see all waits on the host.
pub trait Source {
    /// Looks once.
    fn snapshot(&mut self) -> Result<Snapshot>;
}
