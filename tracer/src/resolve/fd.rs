//! What an open fd is by its name in `/proc/PID/fd`.

use std::{collections::HashMap, num::NonZeroU32};

use rustix::io::Errno;

use crate::model::target::Target;
use crate::{
    model::wait::{ProcessId, ThreadId, Wait},
    procfs::{Reads, Refused, Unread, Wanted},
};

/// What the kernel's record says of an fd's file, as far as it does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recorded {
    /// Its inode number.
    pub inode: Option<u64>,
    /// The id of its mount.
    pub mount: Option<NonZeroU32>,
}

impl Recorded {
    /// Of the fd that a wait is on.
    pub fn of(wait: &Wait) -> Self {
        Self { inode: wait.fd_state.file().map(|file| file.inode), mount: wait.mount }
    }
}

/// What [`look_up`] will read: nothing where the name of the file is known.
pub fn wanted(
    thread: ThreadId,
    fd: i32,
    recorded: Recorded,
    names: &KnownFiles,
) -> impl Iterator<Item = (ProcessId, Wanted<'static>)> + use<> {
    let ThreadId { process, tid, .. } = thread;
    let wanted = names.of(recorded).is_none().then(|| {
        let (link, info) = (format!("task/{tid}/fd/{fd}"), format!("task/{tid}/fdinfo/{fd}"));
        [(process, Wanted::Link(link.into())), (process, Wanted::File(info.into()))]
    });
    wanted.into_iter().flatten()
}

/// Reads the fd's link, unless the kernel's record names a file that is known.
pub fn look_up(
    process: ProcessId,
    tid: u32,
    fd: i32,
    recorded: Recorded,
    names: &mut KnownFiles,
    reads: &mut Reads,
) -> Target {
    if let Some(known) = names.of(recorded) {
        return known.clone();
    }
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
    if let (Some(recorded), Some(inode)) = (recorded.inode, inode)
        && recorded != inode
    {
        return Target::Reused;
    }
    let mut target = named(&link.to_string_lossy(), &info, inode.or(recorded.inode));
    if let (Target::File { pseudo_fs, .. }, Some(mount)) = (&mut target, field(&info, "mnt_id:")) {
        let kind = names.file_system(mount, process, reads);
        *pseudo_fs = PSEUDO_FS.contains(&kind);
        if OWN_NUMBERS.contains(&kind) {
            names.keep(mount.parse().ok(), inode, &target);
        }
    }
    target
}

/// Names of files that many have open, and the mounts that these are on, as found in one look.
#[derive(Default)]
pub struct KnownFiles {
    /// The kinds of file systems of mounts, by their ids, of which the host has each but once. Thousands of files may be on one,
    /// whose list is as long as there are mounts.
    mounts: HashMap<String, String>,
    /// Files by mount and inode: the kernel names each the same whoever has it open.
    files: HashMap<(NonZeroU32, u64), Target>,
}

impl KnownFiles {
    fn of(&self, Recorded { inode, mount }: Recorded) -> Option<&Target> {
        self.files.get(&(mount?, inode?))
    }

    /// Not what has been deleted: it may have another name.
    fn keep(&mut self, mount: Option<NonZeroU32>, inode: Option<u64>, target: &Target) {
        if let (Some(mount), Some(inode), Target::File { deleted: false, .. }) = (mount, inode, target) {
            self.files.insert((mount, inode), target.clone());
        }
    }

    /// The kind of file system of a mount, which a process sees; empty if it is not known.
    fn file_system(&mut self, mount: &str, process: ProcessId, reads: &mut Reads) -> &str {
        if !self.mounts.contains_key(mount) {
            let mounts = reads.table(process, "mountinfo").unwrap_or_default();
            if let Some(kind) = file_system(&String::from_utf8_lossy(&mounts), mount) {
                self.mounts.insert(mount.to_owned(), kind.to_owned());
            }
        }
        self.mounts.get(mount).map_or("", String::as_str)
    }
}

/// File systems of which no two files on a mount have the same inode number, as those on two subvolumes of btrfs may.
const OWN_NUMBERS: &[&str] = &["ext2", "ext3", "ext4", "f2fs", "tmpfs", "xfs"];

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

    /// Two fds of one file, by two names; one of another file.
    #[test]
    fn a_file_that_many_have_open_is_named_once() {
        use crate::procfs::by_pid;
        use std::{fs::File, os::fd::AsRawFd, os::unix::fs::MetadataExt};
        let dir = std::env::temp_dir().join(format!("tracer-names-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let made = |name: &str| File::create(dir.join(name)).expect("a file");
        let (one, other) = (made("one"), made("other"));
        std::fs::hard_link(dir.join("one"), dir.join("alias")).expect("a second name");
        let alias = File::open(dir.join("alias")).expect("opens");
        let (me, mut names, mut reads) = (by_pid(std::process::id()), KnownFiles::default(), Reads::new());
        let info =
            std::fs::read_to_string(format!("/proc/self/fdinfo/{}", one.as_raw_fd())).expect("is there");
        let mount = field(&info, "mnt_id:").and_then(|mount| mount.parse().ok());
        let inode = |file: &File| file.metadata().expect("is there").ino();
        let mut named = |file: &File, inode: u64| {
            let recorded = Recorded { inode: Some(inode), mount };
            look_up(me, me.pid, file.as_raw_fd(), recorded, &mut names, &mut reads)
        };
        let file = |name: &str, of: &File| Target::File {
            path: dir.join(name).to_string_lossy().into_owned(),
            inode: Some(inode(of)),
            deleted: false,
            pseudo_fs: false,
        };
        assert_eq!(named(&other, inode(&one)), Target::Reused);
        assert_eq!(named(&one, inode(&one)), file("one", &one));
        assert_eq!(named(&other, inode(&other)), file("other", &other));
        let target = named(&alias, inode(&one));
        assert!(target == file("one", &one) || target == file("alias", &one), "{target:?}");
        std::fs::remove_file(dir.join("other")).expect("removes");
        std::fs::remove_dir_all(&dir).expect("removes");
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
            let target = look_up(
                me,
                me.pid,
                file.as_raw_fd(),
                Recorded::default(),
                &mut KnownFiles::default(),
                &mut Reads::new(),
            );
            assert!(
                matches!(target, Target::File { pseudo_fs, .. } if pseudo_fs == expected),
                "{target:?}: {expected}"
            );
        }
    }
}
