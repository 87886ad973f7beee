//! Processes made to be looked at: tracer's own threads are in no snapshot.

use std::{io, os::fd::RawFd, ptr};

use anyhow::{Result, ensure};

/// A process that waits, and has all descriptors of this one. It is gone when this is dropped.
pub struct Child(libc::pid_t);

impl Child {
    /// One that waits to read from a socket.
    pub fn reading(fd: RawFd) -> Result<Self> {
        Self::start(|| {
            let mut buffer = [0u8; 7];
            // SAFETY: the buffer is as long as is said.
            unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        })
    }

    /// One that does this, and then waits for a signal.
    ///
    /// `first` runs in a copy of a process with other threads: it may make system calls, and must not allocate or lock.
    pub fn after(first: fn()) -> Result<Self> {
        Self::start(|| {
            first();
            // SAFETY: it has no arguments.
            unsafe { libc::pause() };
        })
    }

    fn start(does: impl FnOnce()) -> Result<Self> {
        // SAFETY: the child makes system calls only, with what lies on its own stack.
        unsafe {
            let pid = libc::fork();
            if pid == 0 {
                does();
                libc::_exit(0);
            }
            ensure!(pid > 0, "cannot fork: {}", io::Error::last_os_error());
            Ok(Self(pid))
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.unsigned_abs()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: numbers only; the child is ours and has not been waited for.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, ptr::null_mut(), 0);
        }
    }
}
