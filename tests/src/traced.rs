//! How does a test hold a process as a debugger does?

/// A process that the calling thread traces and has stopped, until this value is dropped by the same thread.
#[derive(Debug)]
pub struct Traced(libc::pid_t);

impl Traced {
    /// Seizes and interrupts it. It stops some time later.
    pub fn begin(pid: u32) -> Self {
        let pid = libc::pid_t::try_from(pid).expect("a pid");
        // The type of a request differs between C libraries, and so each call is written out.
        // SAFETY: these requests take no pointers.
        check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) });
        // SAFETY: as above.
        check(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0) });
        Self(pid)
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // The process may have ended.
        // SAFETY: as above.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, 0, 0) };
    }
}

fn check(result: libc::c_long) {
    assert!(result == 0, "ptrace: {}", std::io::Error::last_os_error());
}
