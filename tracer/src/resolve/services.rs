//! Which processes serve others through a descriptor? Servers of FUSE file systems have `/dev/fuse` open, listeners with a say in who
//! may open files a fanotify group, terminal emulators the master of a terminal, whoever supplies pages of memory a userfaultfd; what each is
//! for stands in its fdinfo.
//!
//! To find them takes a look at the names of all descriptors of the host. Only somebody who waits for one of them makes it necessary, and
//! what was found is good for a while.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use crate::{
    model::file::Device,
    procfs::{Entry, Reads, Wanted, by_pid},
    resolve::mounts::Mount,
};

/// For how long it is known who serves whom.
const TTL: Duration = Duration::from_secs(30);
/// The same where nobody was found.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Processes whose descriptors are asked for at once.
const ASKED_AT_ONCE: usize = 64;
/// Descriptors of each kind that are looked into.
const DESCRIPTORS_MAX: usize = 1024;

/// Processes by what they serve, as of a moment.
#[derive(Debug, Default)]
pub struct Services {
    /// When they were looked for; `None`: not yet.
    at: Option<Instant>,
    fuse: Vec<FuseServer>,
    listeners: Vec<PermissionListener>,
    masters: Vec<TerminalMaster>,
    faults: Vec<FaultServer>,
}

/// A process that has a userfaultfd open, and its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FaultServer {
    pid: u32,
    fd: i32,
}

/// A process that has `/dev/fuse` open.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FuseServer {
    pid: u32,
    /// The device of the file system; `None` where the kernel does not say, as before 2025.
    connection: Option<Device>,
}

/// A process with a fanotify group that is asked for permission.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PermissionListener {
    pid: u32,
    marks: Vec<Mark>,
}

/// What of a file system a listener is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// Files on the mount with this id.
    Mount(u32),
    /// Files of this file system.
    FileSystem(Device),
    /// A file or a directory of this file system.
    Inode(Device),
}

/// The master of a terminal, open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalMaster {
    /// Whose.
    pub pid: u32,
    /// Its descriptor.
    pub fd: i32,
    /// The terminal's number, as in `/dev/pts/3`.
    index: u32,
}

/// Processes that were found, and whether it is certain that it is they.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suspects {
    /// Their ids.
    pub pids: Vec<u32>,
    /// The kernel names what they serve.
    pub certain: bool,
}

/// A userfaultfd for which a page fault waits, as a process has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitedFault {
    /// Whose.
    pub pid: u32,
    /// Its inode number, which before Linux 5.12 all have in common.
    pub inode: Option<u64>,
}

/// Who is to serve a page fault of this process, by the userfaultfds that are waited for: where it has one of these itself, it or
/// whoever shares that.
pub fn servers_of_fault(waited: &[WaitedFault], pid: u32) -> Suspects {
    let own: Vec<Option<u64>> = waited.iter().filter(|one| one.pid == pid).map(|one| one.inode).collect();
    let is_meant = |one: &&WaitedFault| own.is_empty() || own.contains(&one.inode);
    let pids = distinct(waited.iter().filter(is_meant).map(|one| one.pid).collect());
    let others = pids.iter().filter(|by| **by != pid).count();
    Suspects { certain: others <= 1, pids }
}

/// Among whom to look, and for how long.
#[derive(Debug, Default)]
pub struct Scope {
    /// Processes that hang so that a look at their descriptors would hang, too.
    pub without: HashSet<u32>,
    /// When to stop.
    pub until: Option<Instant>,
}

impl Services {
    /// Finds the processes that are meant, which still live, by what is known of services. Where there are none they are looked for anew:
    /// they may have come since.
    pub fn find(
        &mut self,
        reads: &mut Reads,
        scope: &Scope,
        mut meant: impl FnMut(&Self, &mut Reads) -> Suspects,
    ) -> Suspects {
        let mut suspects = Suspects::default();
        for known in [TTL, RETRY_AFTER] {
            self.refresh(reads, known, scope);
            suspects = meant(self, reads);
            suspects.pids.retain(|pid| reads.exists(by_pid(*pid)));
            if !suspects.pids.is_empty() {
                break;
            }
        }
        suspects
    }

    /// Looks for them, unless that was done so short a time ago. Cut short, it is done again the next time.
    fn refresh(&mut self, reads: &mut Reads, known: Duration, scope: &Scope) {
        if self.at.is_some_and(|at| at.elapsed() < known) {
            return;
        }
        *self = Self::default();
        let mut pids = reads.processes().unwrap_or_default();
        pids.retain(|pid| !scope.without.contains(pid));
        for some in pids.chunks(ASKED_AT_ONCE) {
            if scope.until.is_some_and(|until| Instant::now() >= until) {
                return;
            }
            reads.ahead(some.iter().map(|pid| (by_pid(*pid), Wanted::Links("fd".into()))));
            // Asked for together, since each alone would cost two switches. What one of them is for is asked afterwards.
            let entries = some.iter().map(|pid| (*pid, reads.links(by_pid(*pid), "fd"))).collect::<Vec<_>>();
            for (pid, entries) in entries {
                for Entry { name, link } in entries {
                    self.add(pid, &name, &link, reads);
                }
            }
        }
        reads.forget_ahead();
        self.at = Some(Instant::now());
    }

    fn add(&mut self, pid: u32, fd: &str, link: &str, reads: &mut Reads) {
        let mut info = || reads.text(by_pid(pid), &format!("fdinfo/{fd}")).unwrap_or_default();
        match link {
            "/dev/fuse" if self.fuse.len() < DESCRIPTORS_MAX => {
                self.fuse.push(FuseServer { pid, connection: connection(&info()) });
            }
            "anon_inode:[fanotify]" | "anon_inode:fanotify" if self.listeners.len() < DESCRIPTORS_MAX => {
                let marks = permission_marks(&info());
                if !marks.is_empty() {
                    self.listeners.push(PermissionListener { pid, marks });
                }
            }
            "/dev/ptmx" | "/dev/pts/ptmx" if self.masters.len() < DESCRIPTORS_MAX => {
                let master = terminal(&info()).zip(fd.parse().ok());
                self.masters.extend(master.map(|(index, fd)| TerminalMaster { pid, fd, index }));
            }
            "anon_inode:[userfaultfd]" if self.faults.len() < DESCRIPTORS_MAX => {
                self.faults.extend(fd.parse().ok().map(|fd| FaultServer { pid, fd }));
            }
            _ => {}
        }
    }

    /// Who serves this FUSE mount. Where the kernel does not say it of any, it is the one that has its place in its command line, or
    /// the only one there is.
    pub fn servers_of(&self, mount: &Mount, mut cmdline: impl FnMut(u32) -> String) -> Suspects {
        let known = self.fuse.iter().filter(|server| server.connection == Some(mount.device));
        let pids: Vec<u32> = known.map(|server| server.pid).collect();
        if !pids.is_empty() {
            return Suspects { pids: distinct(pids), certain: true };
        }
        let others = self.fuse.iter().filter(|server| server.connection.is_none()).map(|server| server.pid);
        let others = distinct(others.collect());
        let names_it = |pid: &u32| cmdline(*pid).split(['\0', ' ', ',', '=']).any(|word| word == mount.place);
        let named: Vec<u32> = others.iter().copied().filter(names_it).collect();
        match (named.is_empty(), others.len()) {
            (false, _) => Suspects { pids: named, certain: false },
            (true, 1) => Suspects { pids: others, certain: false },
            (true, _) => Suspects::default(),
        }
    }

    /// Who is asked before somebody may use a file on this mount; on an unknown one, whoever is asked at all.
    pub fn listeners_of(&self, mount: Option<&Mount>) -> Suspects {
        let asked = |of: &dyn Fn(&Mark) -> bool| {
            let listeners = self.listeners.iter().filter(|listener| listener.marks.iter().any(of));
            distinct(listeners.map(|listener| listener.pid).collect::<Vec<u32>>())
        };
        if let Some(mount) = mount {
            let of_mount = |mark: &Mark| match mark {
                Mark::Mount(id) => *id == mount.id,
                Mark::FileSystem(device) => *device == mount.device,
                Mark::Inode(_) => false,
            };
            let pids = asked(&of_mount);
            if !pids.is_empty() {
                return Suspects { pids, certain: true };
            }
            let pids = asked(&|mark| *mark == Mark::Inode(mount.device));
            if !pids.is_empty() {
                return Suspects { pids, certain: false };
            }
        }
        // A mark may be on another mount of the same file system, in another namespace.
        Suspects { pids: asked(&|_| true), certain: false }
    }

    /// The userfaultfds for which a page fault waits just now. The kernel says of each how many do, and not whose.
    pub fn waited_faults(&self, reads: &mut Reads) -> Vec<WaitedFault> {
        let mut waited = Vec::new();
        for FaultServer { pid, fd } in &self.faults {
            let info = reads.text(by_pid(*pid), &format!("fdinfo/{fd}"));
            if info.is_some_and(|info| waiting_faults(&info) > 0) {
                let inode = reads.what(by_pid(*pid), &format!("fd/{fd}")).ok().map(|what| what.inode);
                waited.push(WaitedFault { pid: *pid, inode });
            }
        }
        waited
    }

    /// Masters of this terminal.
    pub fn masters_of(&self, index: u32) -> impl Iterator<Item = &TerminalMaster> {
        self.masters.iter().filter(move |master| master.index == index)
    }

    /// Who has the master of this terminal open.
    pub fn holders_of(&self, index: u32) -> Suspects {
        let pids = self.masters_of(index).map(|master| master.pid).collect();
        Suspects { pids: distinct(pids), certain: true }
    }
}

fn distinct(mut pids: Vec<u32>) -> Vec<u32> {
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// `fuse_connection: 45`
fn connection(info: &str) -> Option<Device> {
    let number = info.lines().find_map(|line| line.strip_prefix("fuse_connection:"))?;
    number.trim().parse().ok().map(Device)
}

/// Page faults that a userfaultfd has not served, whether it was read or not: `total: 2` (fs/userfaultfd.c).
fn waiting_faults(info: &str) -> u64 {
    let number = info.lines().find_map(|line| line.strip_prefix("total:"));
    number.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// `tty-index: 3`
fn terminal(info: &str) -> Option<u32> {
    info.lines().find_map(|line| line.strip_prefix("tty-index:"))?.trim().parse().ok()
}

/// What a fanotify group is asked for permission about (fs/notify/fdinfo.c): `fanotify mnt_id:5b mflags:0 mask:10000 …`, all in
/// hexadecimal.
fn permission_marks(info: &str) -> Vec<Mark> {
    /// `FAN_OPEN_PERM`, `FAN_ACCESS_PERM`, `FAN_OPEN_EXEC_PERM` and `FAN_PRE_ACCESS`.
    const ASKS: u64 = 0x1_0000 | 0x2_0000 | 0x4_0000 | 0x10_0000;
    let mark = |line: &str| {
        let field = |name: &str| {
            let word = line.split_ascii_whitespace().find_map(|word| word.strip_prefix(name))?;
            u64::from_str_radix(word, 16).ok()
        };
        if field("mask:")? & ASKS == 0 {
            return None;
        }
        let device = |number: u64| u32::try_from(number).ok().map(Device);
        match (field("mnt_id:"), field("ino:"), field("sdev:")) {
            (Some(id), ..) => u32::try_from(id).ok().map(Mark::Mount),
            (None, Some(_), Some(system)) => device(system).map(Mark::Inode),
            (None, None, Some(system)) => device(system).map(Mark::FileSystem),
            _ => None,
        }
    };
    info.lines().filter_map(|line| line.strip_prefix("fanotify ")).filter_map(mark).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::mounts::MountTable;

    #[test]
    fn descriptors_say_what_they_are_for() {
        assert_eq!(connection("pos:\t0\nfuse_connection:\t45\n"), Some(Device(45)));
        assert_eq!(connection("pos:\t0\nflags:\t02\n"), None, "an older kernel");
        assert_eq!(terminal("pos:\t0\ntty-index:\t3\n"), Some(3));
        assert_eq!(waiting_faults("pos:\t0\npending:\t0\ntotal:\t2\nAPI:\taa:0:1\n"), 2);
        assert_eq!(waiting_faults("pos:\t0\npending:\t0\ntotal:\t0\nAPI:\taa:0:1\n"), 0);
        assert_eq!(waiting_faults(""), 0, "it is closed");
        let info = "pos:\t0\nfanotify flags:4 event-flags:8000\n\
                    fanotify mnt_id:5b mflags:0 mask:30000 ignored_mask:0\n\
                    fanotify sdev:fe00001 mflags:0 mask:10020 ignored_mask:0\n\
                    fanotify ino:4f969 sdev:2d mflags:0 mask:40000 ignored_mask:0 fhandle-bytes:8 f_handle:1\n\
                    fanotify mnt_id:60 mflags:0 mask:20 ignored_mask:0\n\
                    fanotify garbage\n";
        assert_eq!(
            permission_marks(info),
            [Mark::Mount(0x5b), Mark::FileSystem(Device(254 << 20 | 1)), Mark::Inode(Device(0x2d))],
            "who is only told is not asked"
        );
    }

    fn mount(line: &str) -> Mount {
        MountTable::parse(line).of_path("/m/x").cloned().expect("a mount")
    }

    #[test]
    fn a_mount_has_the_server_that_the_kernel_names_or_the_likely_one() {
        let server = |pid, connection: Option<u32>| FuseServer { pid, connection: connection.map(Device) };
        let mount = mount("36 28 0:45 / /m rw - fuse.sshfs host: rw");
        let found = |fuse: &[FuseServer]| {
            let services = Services { fuse: fuse.to_vec(), ..Services::default() };
            let found = services.servers_of(&mount, |pid| match pid {
                7 => "sshfs\0host:\0/m\0".into(),
                8 => "mount.x\0-o\0dir=/m,rw\0".into(),
                _ => "other\0/m2".into(),
            });
            (found.pids, found.certain)
        };
        assert_eq!(found(&[server(3, Some(44)), server(4, Some(45)), server(4, Some(45))]), (vec![4], true));
        assert_eq!(found(&[server(3, Some(44))]), (vec![], false), "another's");
        assert_eq!(found(&[server(3, None), server(7, None)]), (vec![7], false));
        assert_eq!(found(&[server(3, None), server(8, None)]), (vec![8], false));
        assert_eq!(found(&[server(3, None)]), (vec![3], false));
        assert_eq!(found(&[server(3, None), server(4, None)]), (vec![], false), "no telling which");
        assert_eq!(found(&[]), (vec![], false));
    }

    #[test]
    fn a_listener_is_asked_about_what_it_has_marked() {
        let listener = |pid, mark| PermissionListener { pid, marks: vec![mark] };
        let listeners = vec![
            listener(1, Mark::Mount(36)),
            listener(2, Mark::FileSystem(Device(45))),
            listener(3, Mark::Inode(Device(45))),
            listener(4, Mark::Mount(99)),
        ];
        let services = Services { listeners, ..Services::default() };
        let of = |line| {
            let found = services.listeners_of(Some(&mount(line)));
            (found.pids, found.certain)
        };
        assert_eq!(of("36 28 0:45 / /m rw - ext4 /dev/x rw"), (vec![1, 2], true));
        assert_eq!(of("99 28 0:50 / /m rw - ext4 /dev/x rw"), (vec![4], true));
        assert_eq!(of("50 28 0:60 / /m rw - ext4 /dev/x rw"), (vec![1, 2, 3, 4], false), "any of them");
        assert!(!services.listeners_of(None).certain);
    }

    #[test]
    fn a_page_fault_is_served_by_who_has_the_userfaultfd() {
        let waited = |all: &[(u32, u64)]| -> Vec<WaitedFault> {
            all.iter().map(|(pid, inode)| WaitedFault { pid: *pid, inode: Some(*inode) }).collect()
        };
        for (all, pids, certain) in [
            // Process 7 waits. Another has the only one, or it itself has it, alone or with another.
            (&[(3, 1)][..], &[3][..], true),
            (&[(3, 1), (3, 2)], &[3], true),
            (&[(7, 1)], &[7], true),
            (&[(3, 1), (7, 1)], &[3, 7], true),
            (&[(3, 1), (7, 1), (8, 1)], &[3, 7, 8], false),
            // Others wait for others.
            (&[(3, 1), (4, 2)], &[3, 4], false),
            (&[(4, 2), (7, 1)], &[7], true),
            (&[(3, 1), (4, 2), (7, 1)], &[3, 7], true),
            (&[], &[], true),
        ] {
            let expected = Suspects { pids: pids.to_vec(), certain };
            assert_eq!(servers_of_fault(&waited(all), 7), expected, "{all:?}");
        }
    }

    #[test]
    fn a_terminal_has_those_masters_that_have_its_number() {
        let master = |pid, index| TerminalMaster { pid, fd: 5, index };
        let services =
            Services { masters: vec![master(1, 3), master(2, 4), master(3, 3)], ..Services::default() };
        let pids = |index| services.holders_of(index).pids;
        assert_eq!((pids(3), pids(4), pids(5)), (vec![1, 3], vec![2], vec![]));
    }
}
