//! `tracer trace`: strace for waiting. This file only starts it.

use anyhow::Result;

use crate::{config::cli::Trace, trace::Tracer};

/// Follows until it is told to stop.
pub fn run(args: &Trace) -> Result<()> {
    Tracer::begin(args)?.run()
}
