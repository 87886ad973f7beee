//! A command that is started to be followed: it stops before it runs its program, until somebody follows it.

use std::{
    ffi::OsString,
    io::{self, ErrorKind, Read},
    os::unix::process::CommandExt,
    process::{Child, Command},
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpid, kill_process, waitid};

use crate::{
    util::exit::{NOT_FOUND, NOT_RUN},
    util::human,
};

/// One that has been started.
pub struct StartedCommand {
    pid: Pid,
    program: String,
    /// Ends when the command runs its program, or cannot.
    starting: JoinHandle<io::Result<Child>>,
}

impl StartedCommand {
    /// Starts it, as far as to where it stops.
    pub fn stopped(words: &[OsString]) -> Result<Self> {
        let (program, rest) = words.split_first().context("there is no command")?;
        let (mut read, write) = io::pipe().context("cannot make a pipe")?;
        let mut command = Command::new(program);
        command.args(rest);
        let stop = move || {
            rustix::io::write(&write, &getpid().as_raw_pid().to_ne_bytes())?;
            kill_process(getpid(), Signal::STOP)?;
            Ok(())
        };
        // SAFETY: it makes system calls and touches nothing else.
        unsafe { command.pre_exec(stop) };
        // What starts it waits until it runs its program.
        let starting = thread::spawn(move || command.spawn());
        let mut pid = [0; 4];
        if read.read_exact(&mut pid).is_err() {
            let error = starting.join().map_err(|_| anyhow!("cannot start the command"))?.err();
            return Err(error.map_or_else(|| anyhow!("the command does not start"), Into::into));
        }
        let pid = Pid::from_raw(i32::from_ne_bytes(pid)).context("the command has no id")?;
        let started = Self { pid, program: program.display().to_string(), starting };
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(pid), stopped).context("cannot wait for the command")?;
        Ok(started)
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_pid().cast_unsigned()
    }

    /// Has it run its program. An error is its status: what shells return for a command that cannot be run, which is said.
    pub fn go_on(self) -> Result<Result<Child, u8>> {
        kill_process(self.pid, Signal::CONT).context("cannot have the command go on")?;
        match self.starting.join().map_err(|_| anyhow!("cannot start the command"))? {
            Ok(child) => Ok(Ok(child)),
            Err(error) => {
                human::say(&format!("cannot run {}: {error}", human::clean(&self.program)));
                Ok(Err(if error.kind() == ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN }))
            }
        }
    }

    /// Ends it before it has run anything.
    pub fn discard(self) {
        // It has not been waited for, and so is no other process.
        let _ = kill_process(self.pid, Signal::KILL);
        let _ = self.starting.join();
    }
}
