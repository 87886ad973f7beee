//! How do tests start processes that cannot outlive them? Through one thread, with a death signal and a registry.
//!
//! The kernel sends the parent-death signal when the *thread* that forked ends, and the harness ends a thread with
//! each test. So one thread, which lives as long as the process, forks for everybody.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Sender, channel};
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use std::os::unix::process::CommandExt;

type Job = (Command, Sender<io::Result<Child>>);

static FORKER: LazyLock<Mutex<Sender<Job>>> = LazyLock::new(|| {
    let (send, jobs) = channel::<Job>();
    let forker = move || {
        for (mut command, reply) in jobs {
            // The test that asked may have panicked meanwhile; its child is then dropped, and dies with us.
            let _ = reply.send(command.spawn());
        }
    };
    thread::Builder::new().name("forker".into()).spawn(forker).expect("a thread");
    Mutex::new(send)
});

/// How long a process that is told to end, or killed, may take: generous, since it may have workers to end and the machine may be
/// loaded.
const LEAVE: Duration = Duration::from_secs(10);

/// A process that is killed, by its id, when this value is dropped: also when the test panics.
#[derive(Debug)]
pub struct Running {
    child: Child,
    status: Option<ExitStatus>,
    farewell: i32,
}

/// Starts a process that dies with the test process at the latest.
pub fn start(command: Command) -> Running {
    start_ended_by(libc::SIGKILL, command)
}

/// The same for a process with workers of its own, which would outlive it if it were killed: it is told to end by this
/// signal, when it is dropped and by the kernel when the test process dies, and only killed if it does not.
pub fn start_ended_by(farewell: i32, mut command: Command) -> Running {
    let what = format!("{command:?}");
    let parent = std::process::id();
    // SAFETY: between fork and exec only prctl, getppid and _exit are called, which are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, farewell);
            // The test process may have ended between fork and prctl.
            if std::os::unix::process::parent_id() != parent {
                libc::_exit(1);
            }
            Ok(())
        });
    }
    let (reply, answer) = channel();
    FORKER.lock().unwrap_or_else(PoisonError::into_inner).send((command, reply)).expect("the forker lives");
    match answer.recv().expect("the forker answers") {
        Ok(child) => Running { child, status: None, farewell },
        Err(e) => panic!("cannot start {what}: {e}"),
    }
}

impl Running {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child's pipes, as std has them.
    pub fn pipes(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a pid");
        // SAFETY: kill takes two numbers; the child has not been waited for, so the pid is still its own.
        let result = unsafe { libc::kill(pid, signal) };
        assert!(result == 0, "kill {pid}: {}", io::Error::last_os_error());
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("waiting for an own child");
        }
        self.status
    }

    /// Waits until it ends, at most so long.
    pub fn wait(&mut self, at_most: Duration) -> Option<ExitStatus> {
        let begin = Instant::now();
        while self.ended().is_none() && begin.elapsed() < at_most {
            thread::sleep(Duration::from_millis(5));
        }
        self.status
    }

    /// Kills it and waits for its end; not for ever, since a process that hangs in the kernel ends only when that lets it go.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            // It may end by itself at this moment; then there is nothing to kill.
            let _ = self.child.kill();
            self.wait(LEAVE);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.farewell != libc::SIGKILL && self.ended().is_none() {
            self.signal(self.farewell);
            self.wait(LEAVE);
        }
        self.kill();
    }
}

/// A directory of this test process's own, removed when it exits. World-readable, as some tests drop root.
pub fn own_dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    extern "C" fn remove() {
        if let Some(dir) = DIR.get() {
            let _ = fs::remove_dir_all(dir);
        }
    }
    DIR.get_or_init(|| {
        remove_stale();
        let dir = std::env::temp_dir().join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory for temporary files");
        // The harness leaves by exit(), which drops no statics but runs this.
        // SAFETY: `remove` is an extern "C" function without arguments that does not unwind.
        unsafe { libc::atexit(remove) };
        dir
    })
}

const PREFIX: &str = "tracer-tests-";

/// Removes what test processes left that were killed before they could.
fn remove_stale() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
