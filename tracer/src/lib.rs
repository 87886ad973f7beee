//! tracer: finds processes blocked in a system call. This file only starts the command asked for; nothing here is for other
//! programs to use.

#![cfg_attr(test, allow(clippy::too_many_lines, reason = "tables of tests are as long as they are"))]

mod agent;
mod assess;
mod collect;
mod commands;
mod config;
mod diagnose;
mod export;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
mod history;
mod hook;
mod kernel;
mod metrics;
mod model;
mod procfs;
mod render;
mod resolve;
mod serve;
mod top;
mod trace;
mod util;
mod wire;

use std::process::ExitCode;

use clap::Parser;

use crate::config::cli::{Cli, Command};

/// Runs the command of this process's command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if !matches!(cli.command, Command::Agent(_)) {
        // Writing to a closed pipe ends the program quietly, as other tools do: Rust ignores the signal by default.
        // The agent outlives its reader.
        // SAFETY: no other thread runs yet, and SIG_DFL is a valid disposition.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    }
    if let Some(file) = cli.btf {
        kernel::btf::use_file(file);
    }
    if let Command::Run(_) = cli.command {
        // Before anything is forked: what helps it outlives a Ctrl-C that the command itself takes, as it does.
        commands::run::signals::keep();
    }
    // While there is one thread. The agent does it itself, once it knows what rights to give up.
    let result = match &cli.command {
        Command::Agent(_)
        | Command::Completions { .. }
        | Command::Export(_)
        | Command::Generate { .. }
        | Command::RunHook(_)
        | Command::RunCanary => Ok(()),
        _ => crate::procfs::supervisor::start(false),
    };
    let mut status = 0;
    let result = result.and_then(|()| match &cli.command {
        Command::Ps(args) => commands::ps::run(args).map(|found| status = found),
        Command::Stalls(args) => commands::stalls::run(args),
        Command::Why(args) => commands::why::run(args),
        Command::Release(args) => commands::release::run(args).map(|found| status = found),
        Command::Stack(args) => commands::stack::run(args),
        Command::Top(args) => commands::top::run(args),
        Command::Trace(args) => commands::trace::run(args).map(|found| status = found),
        Command::Run(args) => commands::run::run(args).map(|found| status = found),
        Command::Doctor(args) => commands::doctor::run(args),
        Command::Agent(args) => commands::agent::run(args),
        Command::Export(args) => export::run(args),
        Command::Completions { shell } => commands::generate::completions(*shell),
        Command::Generate { dir } => commands::generate::run(dir),
        Command::RunHook(args) => hook::run(&args.hook()),
        Command::RunCanary => agent::canary::run(),
    });
    crate::procfs::supervisor::stop();
    match result {
        Ok(()) => ExitCode::from(status),
        Err(error) => {
            util::human::say(&format!("{error:#}"));
            ExitCode::from(cli.command.failed())
        }
    }
}
