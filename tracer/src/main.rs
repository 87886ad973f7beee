//! tracer: finds processes blocked in a system call. This file only starts the command asked for.

mod cli;
mod clock;
mod collect;
mod commands;
mod export;
mod human;
mod kernel;
mod resolve;
mod syscalls;
mod verdict;
mod wait;

use std::{io, process::ExitCode};

use clap::Parser;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    // Writing to a closed pipe ends the program quietly, as other tools do: Rust ignores the signal by default.
    // SAFETY: no other thread runs yet, and SIG_DFL is a valid disposition.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let result = match &Cli::parse().command {
        Command::Ps(args) => commands::ps::run(args),
        Command::Agent(_) => todo!(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tracer: {}", human::clean(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}
