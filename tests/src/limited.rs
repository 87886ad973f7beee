//! How is a running agent given less memory? By a control group of its own where the machine has such, else by a limit of its
//! data. It has to do with less, or is killed as it would be anywhere.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// Sets a soft limit of an agent's, by the name that prlimit(1) has for it.
pub fn limit(agent: &Agent, name: &str, soft: u64) {
    let status = Command::new("prlimit")
        .args(["--pid", &agent.pid().to_string(), &format!("--{name}={soft}:")])
        .status()
        .expect("prlimit starts");
    assert!(status.success(), "prlimit: {status}");
}
