//! `tracer trace`: strace for waiting. This file only starts it, and the command that it is to follow.

use std::{
    fs::File,
    io::{self, BufWriter},
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    config::cli::Trace,
    trace::{Tracer, command::StartedCommand, end_by_signals},
    util::exit::code,
    util::human,
    util::output::{Output, output, output_to},
};

/// Follows until it is told to stop, or until all that it follows has ended; the status of the command, if one was started.
pub fn run(args: &Trace) -> Result<u8> {
    let out = out(args)?;
    if args.command.is_empty() {
        return Tracer::begin(args, None, out)?.run().map(|()| 0);
    }
    let started = StartedCommand::stopped(&args.command)?;
    let tracer = match Tracer::begin(args, Some(started.pid()), out) {
        Ok(tracer) => tracer,
        Err(error) => {
            started.discard();
            return Err(error);
        }
    };
    let mut child = match started.go_on()? {
        Ok(child) => child,
        Err(status) => return Ok(status),
    };
    let followed = tracer.run();
    // Whoever has told us to stop means the command, and us if that does not end.
    end_by_signals();
    if child.try_wait().context("cannot wait for the command")?.is_none()
        && let Some(pid) = Pid::from_raw(child.id().cast_signed())
    {
        let _ = kill_process(pid, Signal::TERM);
    }
    let status = child.wait().context("cannot wait for the command")?;
    followed.map(|()| code(status))
}

/// Where lines go. A command has standard output for itself.
fn out(args: &Trace) -> Result<BufWriter<Output>> {
    match &args.output {
        Some(path) => {
            let file = File::create(path);
            Ok(output_to(
                file.with_context(|| format!("cannot write {}", human::clean(&path.display().to_string())))?,
            ))
        }
        None if args.command.is_empty() => Ok(output()),
        None => Ok(output_to(io::stderr())),
    }
}
