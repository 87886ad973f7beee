//! `cargo xtask run`: builds tracer and becomes it.

use std::{os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result};

use crate::cmd::{self, command, is_root, root};

/// Runs tracer with `args`; only returns if that fails.
pub fn run(args: &[String]) -> Result<()> {
    cmd::run(command("cargo", &["build", "--release", "--locked", "--package", "tracer"]))?;
    let tracer = root().join("target/release/tracer");
    let mut command = if is_root() {
        Command::new(&tracer)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg(&tracer);
        sudo
    };
    if args.is_empty() {
        command.arg("ps");
    } else {
        command.args(args);
    }
    Err(command.exec()).with_context(|| format!("cannot run {}", tracer.display()))
}
