//! Where snapshots come from: one trait, and the sources that implement it.

pub mod bpf;

use anyhow::Result;

use crate::wait::Snapshot;

/// A way to see all waits on the host.
pub trait Source {
    /// What the footer and `--source` call it.
    fn name(&self) -> &'static str;

    /// Looks once.
    fn snapshot(&mut self) -> Result<Snapshot>;
}
