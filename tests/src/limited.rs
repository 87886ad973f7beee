//! How is a running agent given less memory? By a control group of its own where the machine has such, else by a limit of its
//! data. It has to do with less, or is killed as it would be anywhere.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Agent;

/// Where controllers of memory are found, and what they call the limit and what has happened.
const PLACES: &[(&str, &str, &str)] = &[
    ("/sys/fs/cgroup", "memory.max", "memory.events"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.oom_control"),
];

/// An agent that may use so much memory.
#[derive(Debug)]
pub struct Limited {
    pid: u32,
    bytes: u64,
    /// Its group, and where it tells what has happened.
    group: Option<(PathBuf, PathBuf)>,
}

impl Limited {
    /// Limits it from now on.
    pub fn to(agent: &Agent, bytes: u64) -> Self {
        let (pid, group) = (agent.pid(), group(agent.pid(), bytes));
        if group.is_none() {
            limit(agent, "data", bytes);
        }
        Self { pid, bytes, group }
    }

    /// Panics if it has been killed for want of memory, or uses more.
    pub fn was_enough(&self) {
        if let Some((_, events)) = &self.group {
            let text = fs::read_to_string(events).expect("the group lasts");
            let killed = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
            assert_eq!(killed, Some("0"), "{text}");
        }
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("an agent");
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        assert!(kib.is_some_and(|kib| kib << 10 < self.bytes), "{status}");
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        if let Some((group, _)) = &self.group {
            // A group ends when it is empty.
            if let Some(parent) = group.parent() {
                let _ = fs::write(parent.join("cgroup.procs"), self.pid.to_string());
            }
            let _ = fs::remove_dir(group);
        }
    }
}

/// A group with this process in it, where the kernel has such.
fn group(pid: u32, bytes: u64) -> Option<(PathBuf, PathBuf)> {
    PLACES.iter().find_map(|(place, limit, events)| {
        let group = Path::new(place).join(format!("tracer-tests-{pid}"));
        fs::create_dir(&group).ok()?;
        // Files that are there already: the place may be an ordinary directory.
        let write = |name: &str, value: String| {
            fs::OpenOptions::new().write(true).open(group.join(name))?.write_all(value.as_bytes())
        };
        let limited = write(limit, bytes.to_string()).and_then(|()| write("cgroup.procs", pid.to_string()));
        if limited.is_err() {
            let _ = fs::remove_dir(&group);
            return None;
        }
        let events = group.join(events);
        Some((group, events))
    })
}

/// A control group that an agent is started in: what the kernel holds for it, too, is the group's from the first byte on.
#[derive(Debug)]
pub struct Group {
    dir: PathBuf,
    limit: &'static str,
}

impl Group {
    /// An empty one of this name, without a limit; none where the machine has no such groups.
    pub fn make(name: &str) -> Option<Self> {
        PLACES.iter().find_map(|(place, limit, _)| {
            let dir = Path::new(place).join(format!("tracer-tests-{name}-{}", std::process::id()));
            fs::create_dir(&dir).ok()?;
            let group = Self { dir, limit };
            group.dir.join(limit).exists().then_some(group)
        })
    }

    /// What the command starts is in it.
    pub fn take(&self, command: &mut Command) {
        let procs = fs::OpenOptions::new().write(true).open(self.dir.join("cgroup.procs")).expect("a group");
        let enter = move || {
            // SAFETY: the text has a byte; the file is open as long as this closure lives.
            match unsafe { libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) } {
                1 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: between fork and exec it makes one system call, and allocates nothing.
        unsafe { command.pre_exec(enter) };
    }

    /// What its processes and the kernel use for it, bytes.
    pub fn used(&self) -> u64 {
        let files = ["memory.current", "memory.usage_in_bytes"];
        let text = files.iter().find_map(|file| fs::read_to_string(self.dir.join(file)).ok());
        text.and_then(|text| text.trim().parse().ok()).expect("a group of memory")
    }

    /// Limits it; the kernel refuses where it cannot make do with so much.
    pub fn limit(&self, bytes: u64) -> io::Result<()> {
        fs::write(self.dir.join(self.limit), bytes.to_string())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its last process may be on its way out.
        for _ in 0..20 {
            if fs::remove_dir(&self.dir).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Sets a soft limit of an agent's, by the name that prlimit(1) has for it.
pub fn limit(agent: &Agent, name: &str, soft: u64) {
    let status = Command::new("prlimit")
        .args(["--pid", &agent.pid().to_string(), &format!("--{name}={soft}:")])
        .status()
        .expect("prlimit starts");
    assert!(status.success(), "prlimit: {status}");
}
