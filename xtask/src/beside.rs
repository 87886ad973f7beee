//! What goes on beside the tests: `cargo xtask` once more, on processor time that nothing else wants.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::cmd::root;

/// The work, under way.
pub struct Beside {
    child: Child,
    log: PathBuf,
}

impl Beside {
    /// Starts it; what it prints is shown when it has ended.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start() -> Result<Self> {
        let log = root().join("target/beside.log");
        let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let program = std::env::current_exe().context("cannot find xtask itself")?;
        let mut command = Command::new(program);
        command.arg("beside").stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        // SAFETY: what runs before the program is one system call, on a value of its own.
        unsafe { command.pre_exec(when_nobody_else_runs) };
        let child = command.spawn().context("cannot run xtask itself")?;
        Ok(Self { child, log })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Not everything holds.
    pub fn join(mut self) -> Result<()> {
        let status = self.child.wait().context("cannot wait for what goes on beside")?;
        // What was said is shown as it is, whatever bytes it has.
        let said = fs::read(&self.log).unwrap_or_default();
        eprint!("{}", String::from_utf8_lossy(&said));
        ensure!(status.success(), "{} says what does not hold", self.log.display());
        Ok(())
    }
}

impl Drop for Beside {
    /// Nobody waits for it any more.
    fn drop(&mut self) {
        // SAFETY: numbers only; the child leads this group, and has not been waited for.
        unsafe { libc::kill(-self.child.id().cast_signed(), libc::SIGKILL) };
        let _ = self.child.wait();
    }
}

/// All that it starts inherits this. Where the kernel shares time between sessions first (`sched_autogroup`), it takes a session
/// of its own that counts for little: a session that always has something to run would else halve everybody's time, and each read
/// by a process in another session would wait for its turn.
fn when_nobody_else_runs() -> std::io::Result<()> {
    // SAFETY: this call takes nothing. The process has just been forked and leads no group, so that it cannot fail.
    unsafe { libc::setsid() };
    // SAFETY: a path and bytes that live for ever; where there is no such file, nothing is to be done.
    unsafe {
        let file = libc::open(c"/proc/self/autogroup".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file >= 0 {
            libc::write(file, c"19".as_ptr().cast(), 2);
            libc::close(file);
        }
    }
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: `none` outlives the call, which reads it.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const none) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
