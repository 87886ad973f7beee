//! What frees a process that the kernel holds up? By what its functions say, and by who was found behind it. Pure.
//!
//! No command touches what hangs.

use super::advice::{Advice, advice};
use crate::{
    model::{
        file::FileKind,
        obstacles::{Obstacle, obstacle},
    },
    resolve::{Resolved, mounts::Mount, peers::Peers},
};

const DOES_NOT_ANSWER: &str = "shows why that one does not answer";

/// What to do about whatever holds a process up inside the kernel.
pub fn of(pid: u32, resolved: &Resolved, cgroup: Option<&str>) -> Vec<Advice> {
    let peers = resolved.peers.as_ref();
    let mount = peers.and_then(|peers| peers.mount.as_deref());
    match resolved.stack.as_ref().and_then(obstacle).unwrap_or(Obstacle::Storage) {
        Obstacle::Storage | Obstacle::Writeback if mount.is_some_and(Mount::is_fuse) => {
            fuse(pid, peers, mount)
        }
        Obstacle::Storage if mount.is_some_and(|mount| mount.kind.starts_with("nfs")) => {
            vec![server(pid, "NFS", mount)]
        }
        Obstacle::Server("FUSE") => fuse(pid, peers, mount),
        Obstacle::Server(kind) => vec![server(pid, kind, mount)],
        Obstacle::Automount => vec![match first(peers) {
            Some(daemon) => advice(format!("tracer why {daemon}"), DOES_NOT_ANSWER),
            None => advice(
                format!("grep autofs /proc/{pid}/mountinfo"),
                "shows the automount; pgrp= is its daemon's process group",
            ),
        }],
        Obstacle::Permission => match first(peers) {
            Some(listener) => vec![
                advice(format!("tracer why {listener}"), DOES_NOT_ANSWER),
                advice(
                    format!("kill {listener}"),
                    "ends it, if nothing else helps: whoever waits for it is then allowed to go on",
                ),
            ],
            None => vec![advice(
                "grep --files-with-matches --no-messages ^fanotify /proc/[0-9]*/fdinfo/*".into(),
                "names the processes that listen. One of them does not answer; ending it frees whoever waits",
            )],
        },
        Obstacle::Lease => vec![match first(peers) {
            Some(holder) => {
                advice(format!("tracer why {holder}"), "shows why that one does not give its lease back")
            }
            None => {
                advice("grep LEASE /proc/locks".into(), "shows who holds leases, by pid in the fifth column")
            }
        }],
        Obstacle::Frozen => vec![advice(
            format!("fsfreeze --unfreeze {}", mount.map_or("MOUNT", |mount| &mount.place)),
            "thaws the file system, if whoever froze it is gone: a backup or a snapshot, mostly",
        )],
        Obstacle::MemoryLimit => vec![memory(pid, cgroup)],
        Obstacle::Writeback => vec![advice(
            "grep --extended-regexp 'Dirty|Writeback' /proc/meminfo".into(),
            "shows how much is still to be written: it goes on as storage catches up",
        )],
        Obstacle::Lookup | Obstacle::KernelLock => vec![match holder(peers) {
            Some(holder) => advice(format!("tracer why {holder}"), "shows why that one does not let go"),
            None => advice(
                "tracer ps --all --class disk".into(),
                "shows who else is held up in the kernel: one of them may hold the lock",
            ),
        }],
        Obstacle::Userfault => of_server(peers).into_iter().collect(),
        Obstacle::Storage => storage(resolved, mount),
    }
}

/// About a process of this host that serves others, if one was found.
fn of_server(peers: Option<&Peers>) -> Option<Advice> {
    let server = first(peers)?;
    Some(match peers.is_some_and(|peers| peers.stopped) {
        true => advice(format!("kill -CONT {server}"), "lets the server go on, which a signal has stopped"),
        false => advice(format!("tracer why {server}"), DOES_NOT_ANSWER),
    })
}

fn fuse(pid: u32, peers: Option<&Peers>, mount: Option<&Mount>) -> Vec<Advice> {
    let mut list: Vec<Advice> = of_server(peers).into_iter().collect();
    list.push(match mount {
        Some(_) => advice(
            format!("tracer release {pid} --apply"),
            "gives the mount up, as the end of its server does: whoever waits gets an error. To unmount it (umount -l, fusermount \
             -uz) frees nobody who already waits",
        ),
        None => advice(
            format!("grep fuse /proc/{pid}/mountinfo"),
            "shows its FUSE mounts. End the server of this one, or write 1 to /sys/fs/fuse/connections/N/abort, where N is the \
             number behind the colon in the third column: unmounting frees nobody who already waits",
        ),
    });
    list
}

/// About the server of a file system that is another host's.
fn server(pid: u32, kind: &str, mount: Option<&Mount>) -> Advice {
    match (kind, mount) {
        ("NFS" | "SMB" | "Ceph" | "9p", Some(Mount { place, source, .. })) => Advice {
            command: format!("umount -f {place}"),
            reason: format!(
                "makes calls to {source} fail, if that is gone for good: whoever waits is freed. If it comes back, they go on by \
                 themselves"
            ),
        },
        ("NFS", None) => advice(
            format!("grep nfs /proc/{pid}/mountinfo"),
            "shows the server's address. If it is gone for good, umount -f frees whoever waits",
        ),
        _ => advice(format!("cat /proc/{pid}/mountinfo"), "shows the mount and its server"),
    }
}

fn memory(pid: u32, cgroup: Option<&str>) -> Advice {
    match cgroup {
        Some(cgroup) => advice(
            format!("cat /sys/fs/cgroup{}/memory.max", cgroup.trim_end_matches('/')),
            "shows the limit of its control group, which is reached: raise it, or end one of its processes",
        ),
        None => advice(
            format!("cat /proc/{pid}/cgroup"),
            "names its control group, whose memory.max is reached: raise it, or end one of its processes",
        ),
    }
}

/// About a disk: what the kernel says of it may be nothing.
fn storage(resolved: &Resolved, mount: Option<&Mount>) -> Vec<Advice> {
    let own = resolved.file.file().filter(|file| file.kind() == FileKind::BlockDevice);
    let device = own.map(|file| file.special).or(mount.map(|mount| mount.device));
    // File systems that are on no device have numbers with none.
    let inflight = match device.filter(|device| device.major() != 0) {
        Some(device) => advice(
            format!("cat /sys/dev/block/{}:{}/inflight", device.major(), device.minor()),
            "shows how many reads and writes the device has not answered: if that does not change, it is the device that hangs",
        ),
        None => advice(
            "grep . /sys/block/*/inflight".into(),
            "shows how many reads and writes each device has not answered: one where that does not change hangs",
        ),
    };
    vec![
        inflight,
        advice("dmesg --human | tail".into(), "shows what the kernel says of its disks and file systems"),
    ]
}

/// The first that is behind it.
fn first(peers: Option<&Peers>) -> Option<u32> {
    Some(peers?.others.first()?.pid)
}

/// The thread, or the process, that holds a lock.
fn holder(peers: Option<&Peers>) -> Option<u32> {
    peers?.owner.as_ref().map(|owner| owner.tid).or(first(peers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{
            file::{Device, OpenFile},
            stack::KernelStack,
            target::Target,
            wait::FdState,
        },
        resolve::{
            mounts::MountTable,
            peers::{Peer, Role},
        },
    };

    /// One that sleeps in this function.
    fn asleep_in(function: &str) -> Resolved {
        Resolved { stack: Some(KernelStack::parse(function)), ..Resolved::new(None, Target::None, None) }
    }

    fn commands(resolved: &Resolved) -> Vec<String> {
        of(7, resolved, None).into_iter().map(|advice| advice.command).collect()
    }

    /// Where nobody was found: what shows who it is.
    #[test]
    fn each_obstacle_has_its_own_way_out() {
        for (function, begins) in [
            ("fuse_lookup", "grep fuse /proc/7/mountinfo"),
            ("rpc_wait_bit_killable", "grep nfs /proc/7/mountinfo"),
            ("cifs_open", "cat /proc/7/mountinfo"),
            ("autofs_wait", "grep autofs /proc/7/mountinfo"),
            ("fanotify_handle_event", "grep --files-with-matches --no-messages ^fanotify"),
            ("__break_lease", "grep LEASE /proc/locks"),
            ("sb_start_write", "fsfreeze --unfreeze MOUNT"),
            ("mem_cgroup_oom_synchronize", "cat /proc/7/cgroup"),
            ("balance_dirty_pages", "grep --extended-regexp"),
            ("d_alloc_parallel", "tracer ps"),
            ("__mutex_lock", "tracer ps"),
            ("io_schedule", "grep . /sys/block/*/inflight"),
        ] {
            let commands = commands(&asleep_in(function));
            assert!(commands[0].starts_with(begins), "{function}: {commands:?}");
        }
        assert!(commands(&asleep_in("handle_userfault")).is_empty());
    }

    fn found(function: &str, role: Role, stopped: bool, mount: &str) -> Resolved {
        let others = [Peer { pid: 812, comm: "x".into() }].into();
        let mount = MountTable::parse(mount).of_path("/m/f").cloned().map(Into::into);
        let peers = Some(Peers { others, role, stopped, mount, certain: true, ..Peers::default() });
        Resolved { peers, ..asleep_in(function) }
    }

    #[test]
    fn who_was_found_is_what_is_done_about_it() {
        let (fuse, nfs) = ("36 28 0:45 / /m rw - fuse.sshfs h: rw", "36 28 0:46 / /m rw - nfs4 h:/x rw");
        let (ext4, none) = ("36 28 254:1 / /m rw - ext4 /dev/vda1 rw", "");
        let abort = "tracer release 7 --apply";
        for (function, role, stopped, mount, expected) in [
            ("fuse_lookup", Role::Server, true, fuse, vec!["kill -CONT 812", abort]),
            ("fuse_lookup", Role::Server, false, fuse, vec!["tracer why 812", abort]),
            ("folio_wait_bit_common", Role::Server, true, fuse, vec!["kill -CONT 812", abort]),
            ("folio_wait_bit_common", Role::OtherEnd, false, nfs, vec!["umount -f /m"]),
            ("rpc_wait_bit_killable", Role::Server, false, nfs, vec!["umount -f /m"]),
            ("autofs_wait", Role::Automounter, false, none, vec!["tracer why 812"]),
            ("fanotify_get_response", Role::Listener, false, ext4, vec!["tracer why 812", "kill 812"]),
            ("sb_start_write", Role::OtherEnd, false, ext4, vec!["fsfreeze --unfreeze /m"]),
            ("__mutex_lock", Role::LockHolder, false, none, vec!["tracer why 812"]),
            ("handle_userfault", Role::FaultServer, false, none, vec!["tracer why 812"]),
            ("handle_userfault", Role::FaultServer, true, none, vec!["kill -CONT 812"]),
            (
                "io_schedule",
                Role::OtherEnd,
                false,
                ext4,
                vec!["cat /sys/dev/block/254:1/inflight", "dmesg --human | tail"],
            ),
        ] {
            assert_eq!(commands(&found(function, role, stopped, mount)), expected, "{function}");
        }
        // A device that is waited for itself is asked for by its own number.
        let special = Device(7 << 20 | 3);
        let mode = FileKind::BlockDevice.bits() as u16;
        let file = OpenFile { inode: 1, device: Device(5), mode, special, socket: None };
        let resolved = Resolved { file: FdState::Open(file), ..asleep_in("io_schedule") };
        assert_eq!(commands(&resolved)[0], "cat /sys/dev/block/7:3/inflight");
        let limit = of(7, &asleep_in("mem_cgroup_oom_synchronize"), Some("/a.slice"));
        assert_eq!(limit[0].command, "cat /sys/fs/cgroup/a.slice/memory.max");
    }
}
