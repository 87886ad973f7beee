//! The next command to try. Pure.

use super::{
    Condition,
    chain::Other,
    threads::{Doing, ThreadReport},
};
use crate::{
    assess::pipeline::Assessment,
    diagnose::obstacles::{Obstacle, obstacle},
    model::class::Class,
    model::target::Target,
    resolve::process::ProcessMeta,
};

/// A command and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// What to type.
    pub command: String,
    /// What it shows, or does.
    pub reason: String,
}

const GOES_ON: &str = "explains why that one is stuck";

fn advice(command: String, reason: &str) -> Advice {
    Advice { command, reason: reason.into() }
}

/// What to try after this report.
pub fn of(
    pid: u32,
    condition: Condition,
    who: &ProcessMeta,
    threads: &[ThreadReport],
    others: &[Other],
) -> Vec<Advice> {
    let worst = threads.first();
    let parent = who.parents.first();
    match condition {
        Condition::Stopped => vec![advice(format!("kill -CONT {pid}"), "lets it go on")],
        Condition::Running => vec![advice(format!("perf top -p {pid}"), "shows what it computes")],
        Condition::Traced => match worst.map(|worst| &worst.doing) {
            Some(Doing::Traced(Some(by))) => {
                vec![advice(format!("tracer why {}", by.pid), "shows what its debugger does")]
            }
            _ => Vec::new(),
        },
        Condition::Frozen => match worst.map(|worst| &worst.doing) {
            Some(Doing::Frozen(Some(group))) => {
                vec![advice(format!("echo {} > {}", group.thaw, group.switch.display()), "thaws it")]
            }
            _ => Vec::new(),
        },
        Condition::Zombie => parent
            .map(|parent| advice(format!("tracer why {}", parent.pid), "shows what its parent does"))
            .into_iter()
            .collect(),
        Condition::Hidden => vec![advice(format!("sudo tracer why {pid}"), "shows what it waits for")],
        Condition::Idle | Condition::Busy => {
            let stuck = others.iter().find_map(Other::stuck_one).into_iter();
            stuck.map(|other| advice(format!("tracer why {}", other.pid), GOES_ON)).collect()
        }
        Condition::Stuck | Condition::Doubtful => {
            worst.and_then(ThreadReport::wait).map(|wait| stuck(pid, wait, others)).unwrap_or_default()
        }
    }
}

fn stuck(pid: u32, wait: &Assessment, others: &[Other]) -> Vec<Advice> {
    let class = wait.class;
    let mut list = Vec::new();
    if class == Class::Mutex {
        let command = format!("gdb -p {pid} -batch -ex 'thread apply all backtrace'");
        list.push(advice(
            command,
            "shows where each thread took its locks; it stops the process for a moment",
        ));
        return list;
    }
    if class == Class::Disk && !matches!(wait.resolved.target, Target::File { pseudo_fs: true, .. }) {
        let obstacle = wait.resolved.stack.as_ref().and_then(obstacle).unwrap_or(Obstacle::Storage);
        return held_up(pid, obstacle).into_iter().collect();
    }
    if let Some(other) = last(others) {
        list.push(advice(format!("tracer why {}", other.tid.unwrap_or(other.pid)), GOES_ON));
    } else if let Target::Tcp { remote, .. } = &wait.resolved.target {
        let command = format!("ss -tnpi dst '{remote}'");
        list.push(advice(
            command,
            "shows the kernel's view of the connection; the cause is on that host: look there with tracer",
        ));
    }
    if let Target::Semaphores { set } = wait.resolved.target {
        let command = format!("ipcs -s -i {set}");
        list.push(advice(
            command,
            "shows whose semaphores they are, their values, and who changed each last",
        ));
    }
    if let Target::Tcp { .. } | Target::Unix { .. } = wait.resolved.target
        && let Some(fd) = wait.resolved.fd
    {
        let command = format!("gdb -p {pid} -batch -ex 'call (int)shutdown({fd}, 2)'");
        list.push(advice(command, "the last resort: ends the connection under it, as if the peer had; the program sees an error and goes on"));
    }
    list
}

/// What to do about whatever holds a process up inside the kernel.
fn held_up(pid: u32, obstacle: Obstacle) -> Option<Advice> {
    let (command, reason) = match obstacle {
        Obstacle::Server("FUSE") => (
            format!("grep fuse /proc/{pid}/mountinfo"),
            "shows its FUSE mounts. End the server of this one, or write 1 to /sys/fs/fuse/connections/N/abort, where N is the \
             number behind the colon in the third column: unmounting frees nobody who already waits",
        ),
        Obstacle::Server("NFS") => (
            format!("grep nfs /proc/{pid}/mountinfo"),
            "shows the server's address. If it is gone for good, umount -f frees whoever waits",
        ),
        Obstacle::Server(_) => (format!("cat /proc/{pid}/mountinfo"), "shows the mount and its server"),
        Obstacle::Automount => (
            format!("grep autofs /proc/{pid}/mountinfo"),
            "shows the automount; pgrp= is its daemon's process group",
        ),
        Obstacle::Permission => (
            "grep --files-with-matches --no-messages ^fanotify /proc/[0-9]*/fdinfo/*".into(),
            "names the processes that listen. One of them does not answer; ending it frees whoever waits",
        ),
        Obstacle::Lease => {
            ("grep LEASE /proc/locks".into(), "shows who holds leases, by pid in the fifth column")
        }
        Obstacle::Frozen => (
            "fsfreeze --unfreeze MOUNT".into(),
            "thaws the file system, if whoever froze it is gone: a backup or a snapshot, mostly",
        ),
        Obstacle::MemoryLimit => (
            format!("cat /proc/{pid}/cgroup"),
            "names its control group, whose memory.max is reached: raise it, or end one of its processes",
        ),
        Obstacle::Writeback => (
            "grep --extended-regexp 'Dirty|Writeback' /proc/meminfo".into(),
            "shows how much is still to be written: it goes on as storage catches up",
        ),
        Obstacle::Lookup | Obstacle::KernelLock => (
            "tracer ps --all --class disk".into(),
            "shows who else is held up in the kernel: one of them may hold the lock",
        ),
        Obstacle::Userfault => return None,
        Obstacle::Storage => {
            ("dmesg --human | tail".into(), "shows what the kernel says of its disks and file systems")
        }
    };
    Some(advice(command, reason))
}

/// Who is at the end of the chain: the last that is stuck, else whom the wait is for, if it does not run in a circle.
fn last(others: &[Other]) -> Option<&Other> {
    let first = others.iter().find(|other| !other.again)?;
    first.last_stuck().or(Some(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel says of its disks helps with disks only, and no command touches what hangs.
    #[test]
    fn each_obstacle_has_its_own_way_out() {
        for (obstacle, begins) in [
            (Obstacle::Server("FUSE"), "grep fuse /proc/7/mountinfo"),
            (Obstacle::Server("NFS"), "grep nfs /proc/7/mountinfo"),
            (Obstacle::Server("SMB"), "cat /proc/7/mountinfo"),
            (Obstacle::Automount, "grep autofs /proc/7/mountinfo"),
            (Obstacle::Permission, "grep --files-with-matches --no-messages ^fanotify"),
            (Obstacle::Lease, "grep LEASE /proc/locks"),
            (Obstacle::Frozen, "fsfreeze --unfreeze"),
            (Obstacle::MemoryLimit, "cat /proc/7/cgroup"),
            (Obstacle::Writeback, "grep --extended-regexp"),
            (Obstacle::Lookup, "tracer ps"),
            (Obstacle::KernelLock, "tracer ps"),
            (Obstacle::Storage, "dmesg"),
        ] {
            let command = held_up(7, obstacle).map(|advice| advice.command).unwrap_or_default();
            assert!(command.starts_with(begins), "{obstacle:?}: {command}");
        }
        assert_eq!(held_up(7, Obstacle::Userfault), None);
    }
}
