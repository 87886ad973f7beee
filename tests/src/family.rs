//! Which processes are this test's own, and does any of them outlive it? Those that descend from the test process: whoever
//! loses its parent becomes its child.

use std::collections::HashMap;
use std::fs;
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long the last ones may take to end by themselves, such as a job that cron has begun.
const GRACE: Duration = Duration::from_secs(10);

/// The descendants of this process. Nobody may be left when it is dropped: who is, is killed, and fails the test.
#[derive(Debug)]
pub struct Family {
    /// Whether a process was one of them when it was last seen.
    seen: Mutex<HashMap<u32, bool>>,
}

impl Family {
    /// Orphans come to this process from now on. It must be the only test of its process, and dropped last.
    pub fn gather() -> Self {
        // SAFETY: this request takes a number and changes nothing in this process's memory.
        let result = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
        assert!(result == 0, "prctl: {}", std::io::Error::last_os_error());
        Self { seen: Mutex::default() }
    }

    /// Looks who is there; the ids of the family, this process's included.
    pub fn look(&self) -> Vec<u32> {
        let parents = parents();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.extend(parents.keys().map(|&pid| (pid, descends(&parents, pid, std::process::id()))));
        parents.keys().copied().filter(|pid| seen[pid]).collect()
    }

    /// The descendants of another process as they are now. Nobody else is asked: a process that hangs in `execve` keeps
    /// whoever reads its `stat`.
    pub fn below(root: u32) -> Vec<u32> {
        let mut all = Vec::new();
        for task in fs::read_dir(format!("/proc/{root}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
                all.push(child);
                all.extend(Self::below(child));
            }
        }
        all
    }

    /// Whether a process is known to be somebody else's. Of one that was never seen nothing is known.
    pub fn is_stranger(&self, pid: u32) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&pid) == Some(&false)
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        let begin = Instant::now();
        let mut killed = Vec::new();
        loop {
            let children: Vec<u32> = parents()
                .into_iter()
                .filter(|&(_, parent)| parent == std::process::id())
                .map(|(pid, _)| pid)
                .collect();
            if children.is_empty() {
                break;
            }
            for pid in children {
                // Only children, whose ids nobody takes before they have been waited for; theirs come to us next.
                let pid = libc::pid_t::try_from(pid).expect("a pid");
                if begin.elapsed() > GRACE && !has_ended(pid) {
                    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                    killed.push(format!("{pid}: {}", command.replace('\0', " ")));
                    // SAFETY: kill takes two numbers.
                    unsafe { libc::kill(pid, libc::SIGKILL) };
                }
                // SAFETY: waitpid takes numbers here; a null status is not written.
                unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
            }
            sleep(Duration::from_millis(20));
        }
        if killed.is_empty() {
            return;
        }
        killed.dedup();
        let message = format!("these outlived the test by {GRACE:?} and were killed: {killed:#?}");
        if std::thread::panicking() {
            eprintln!("{message}");
        } else {
            panic!("{message}");
        }
    }
}

/// Whether a process is this one or has it among its ancestors.
fn descends(parents: &HashMap<u32, u32>, mut pid: u32, root: u32) -> bool {
    // Longer than any chain: the table is not of one moment, and may go round.
    for _ in 0..100 {
        if pid == root {
            return true;
        }
        match parents.get(&pid) {
            Some(&parent) => pid = parent,
            None => return false,
        }
    }
    false
}

/// Every process's parent.
fn parents() -> HashMap<u32, u32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| Some((pid, field(pid, 1)?.parse().ok()?))).collect()
}

fn has_ended(pid: libc::pid_t) -> bool {
    u32::try_from(pid).is_ok_and(|pid| field(pid, 0).is_none_or(|state| state == "Z"))
}

/// A field of `/proc/PID/stat`, counted from the state, which comes after the name in brackets.
fn field(pid: u32, index: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(index).map(ToOwned::to_owned)
}
