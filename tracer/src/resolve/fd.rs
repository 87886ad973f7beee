//! What an open fd is by its name in `/proc/PID/fd`.

use std::collections::HashMap;

use rustix::io::Errno;

use crate::model::target::Target;
use crate::{
    model::wait::{ProcessId, ThreadId},
    procfs::{Reads, Refused, Unread, Wanted},
};

/// What [`look_up`] will read.
pub fn wanted(thread: ThreadId, fd: i32) -> [(ProcessId, Wanted<'static>); 2] {
    let ThreadId { process, tid, .. } = thread;
    let (link, info) = (format!("task/{tid}/fd/{fd}"), format!("task/{tid}/fdinfo/{fd}"));
    [(process, Wanted::Link(link.into())), (process, Wanted::File(info.into()))]
}

/// Reads the fd's link; `expected` is the inode the kernel's record gave, if it did.
pub fn look_up(
    process: ProcessId,
    tid: u32,
    fd: i32,
    expected: Option<u64>,
    mounts: &mut Mounts,
    reads: &mut Reads,
) -> Target {
    let dir = format!("task/{tid}");
    let link = match reads.link(process, &format!("{dir}/fd/{fd}")) {
        Ok(link) => link,
        Err(Unread::Failed(Errno::ACCESS | Errno::PERM)) => {
            return Target::Unreadable { reason: "permission denied".into() };
        }
        Err(Unread::Late | Unread::Refused(Refused::LeftAlone)) => {
            return Target::Unreadable { reason: "the kernel does not say while the process hangs".into() };
        }
        Err(Unread::Refused(Refused::Budget) | Unread::NoReader) => {
            return Target::Unreadable { reason: "too much else on this host hangs to look".into() };
        }
        // Either the fd has been closed or the thread has gone.
        Err(Unread::Failed(_)) if reads.what(process, &dir).is_ok() => return Target::Gone,
        Err(Unread::Failed(_)) => return Target::Unreadable { reason: "the thread has gone".into() },
    };
    let info = reads.text(process, &format!("{dir}/fdinfo/{fd}")).unwrap_or_default();
    // fdinfo names the inode since Linux 5.14.
    let inode = field(&info, "ino:").and_then(|ino| ino.parse().ok());
    if let (Some(expected), Some(inode)) = (expected, inode)
        && expected != inode
    {
        return Target::Reused;
    }
    let mut target = named(&link.to_string_lossy(), &info, inode.or(expected));
    if let (Target::File { pseudo_fs, .. }, Some(mount)) = (&mut target, field(&info, "mnt_id:")) {
        *pseudo_fs = mounts.is_pseudo_fs(mount, process, reads);
    }
    target
}

/// Mounts by their ids, of which the host has each but once. Thousands of files may be on one, whose list is as long as there are
/// mounts.
#[derive(Default)]
pub struct Mounts(HashMap<String, bool>);

impl Mounts {
    /// Whether the kernel makes up the files of a mount, which a process sees.
    fn is_pseudo_fs(&mut self, mount: &str, process: ProcessId, reads: &mut Reads) -> bool {
        if let Some(known) = self.0.get(mount) {
            return *known;
        }
        let mounts = reads.table(process, "mountinfo").unwrap_or_default();
        let mounts = String::from_utf8_lossy(&mounts);
        let Some(kind) = file_system(&mounts, mount) else { return false };
        let pseudo_fs = PSEUDO_FS.contains(&kind);
        self.0.insert(mount.to_owned(), pseudo_fs);
        pseudo_fs
    }
}

/// File systems whose files the kernel makes up when they are read.
#[rustfmt::skip]
const PSEUDO_FS: &[&str] = &[
    "proc", "sysfs", "tracefs", "debugfs", "cgroup", "cgroup2", "securityfs", "configfs", "bpf", "pstore", "efivarfs",
    "selinuxfs", "smackfs", "binfmt_misc", "fusectl", "resctrl", "nfsd", "rpc_pipefs",
];

/// The kind of file system of a mount, by its id in fdinfo, from the text of mountinfo
/// (Documentation/filesystems/proc.rst). No file is touched for it: a dead server's would not answer.
pub fn file_system<'a>(mounts: &'a str, id: &str) -> Option<&'a str> {
    let line = mounts.lines().find(|line| line.split_ascii_whitespace().next() == Some(id))?;
    line.split_once(" - ")?.1.split_ascii_whitespace().next()
}

/// The target that a link in `/proc/PID/fd` names, with its fdinfo.
fn named(link: &str, info: &str, inode: Option<u64>) -> Target {
    let number =
        |kind: &str| link.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?.parse::<u64>().ok();
    if let Some(inode) = number("pipe") {
        return Target::Pipe { inode };
    }
    if let Some(inode) = number("socket") {
        return Target::Socket { family: None, inode };
    }
    if let Some(name) = link.strip_prefix("anon_inode:") {
        return anonymous(name.trim_matches(['[', ']']), info);
    }
    // Since Linux 6.9 a pidfd has a file system of its own.
    if number("pidfd").is_some() {
        return Target::Pidfd { pid: field(info, "Pid:").and_then(|pid| pid.parse().ok()) };
    }
    let (path, deleted) = link.strip_suffix(" (deleted)").map_or((link, false), |path| (path, true));
    if let Some(name) = path.strip_prefix("/memfd:") {
        return Target::Memfd { name: name.to_owned(), inode };
    }
    Target::File { path: path.to_owned(), inode, deleted, pseudo_fs: false }
}

fn anonymous(name: &str, info: &str) -> Target {
    match name {
        "eventfd" => Target::Eventfd { id: field(info, "eventfd-id:").and_then(|id| id.parse().ok()) },
        "eventpoll" => {
            Target::Epoll { watched: info.lines().filter(|line| line.starts_with("tfd:")).count() }
        }
        "timerfd" => Target::Timerfd,
        "signalfd" => Target::Signalfd { mask: field(info, "sigmask:").map(str::to_owned) },
        "inotify" => Target::Inotify,
        "fanotify" => Target::Fanotify,
        "io_uring" => Target::IoUring,
        "pidfd" => Target::Pidfd { pid: field(info, "Pid:").and_then(|pid| pid.parse().ok()) },
        other => Target::Anonymous { name: other.to_owned() },
    }
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_name_their_targets() {
        let file = |path: &str, deleted| Target::File {
            path: path.into(),
            inode: Some(1),
            deleted,
            pseudo_fs: false,
        };
        for (link, info, expected) in [
            ("pipe:[7]", "", Target::Pipe { inode: 7 }),
            ("socket:[8]", "", Target::Socket { family: None, inode: 8 }),
            ("anon_inode:[eventfd]", "eventfd-id: 3\n", Target::Eventfd { id: Some(3) }),
            ("anon_inode:inotify", "", Target::Inotify),
            ("anon_inode:[eventpoll]", "pos:\t0\ntfd: 5\ntfd: 6\n", Target::Epoll { watched: 2 }),
            ("anon_inode:[pidfd]", "Pid:\t42\n", Target::Pidfd { pid: Some(42) }),
            ("pidfd:[99]", "Pid:\t42\n", Target::Pidfd { pid: Some(42) }),
            ("anon_inode:kvm-vcpu:0", "", Target::Anonymous { name: "kvm-vcpu:0".into() }),
            ("/memfd:cache (deleted)", "", Target::Memfd { name: "cache".into(), inode: Some(1) }),
            ("/var/a b", "", file("/var/a b", false)),
            ("/var/a (deleted)", "", file("/var/a", true)),
        ] {
            assert_eq!(named(link, info, Some(1)), expected, "{link}");
        }
    }

    #[test]
    fn a_mount_tells_its_file_system() {
        let mounts = "21 28 0:20 / /proc rw,nosuid shared:12 - proc proc rw\n\
                      210 28 0:21 / /sys rw,nosuid - sysfs sysfs rw\n\
                      28 1 254:1 / / rw shared:1 - ext4 /dev/vda1 rw\n22 28 0:45 / /mnt rw - nfs4 h:/x rw\n";
        assert_eq!(file_system(mounts, "21"), Some("proc"));
        assert_eq!(file_system(mounts, "22"), Some("nfs4"));
        assert_eq!(file_system(mounts, "28"), Some("ext4"));
        assert_eq!(file_system(mounts, "2"), None);
        assert_eq!(file_system("", "21"), None);
    }

    #[test]
    fn what_the_kernel_makes_up_is_told_from_a_stored_file() {
        use crate::procfs::by_pid;
        use std::os::fd::AsRawFd;
        for (path, expected) in
            [("/proc/self/mountinfo".into(), true), (std::env::current_exe().expect("this test"), false)]
        {
            let file = std::fs::File::open::<std::path::PathBuf>(path).expect("opens");
            let me = by_pid(std::process::id());
            let target =
                look_up(me, me.pid, file.as_raw_fd(), None, &mut Mounts::default(), &mut Reads::new());
            assert!(
                matches!(target, Target::File { pseudo_fs, .. } if pseudo_fs == expected),
                "{target:?}: {expected}"
            );
        }
    }
}
