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
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All that it starts inherits this.
fn when_nobody_else_runs() -> std::io::Result<()> {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: `none` outlives the call, which reads it.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const none) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
