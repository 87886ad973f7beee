//! `tracer top`: the live view.

use anyhow::Result;

use crate::{config::cli::Top, top};

/// Shows until it is ended.
pub fn run(args: &Top) -> Result<()> {
    top::run(args)
}
