//! Who has to act before the kernel lets go of a thread? The server of a file system, a listener that is asked for permission, the
//! daemon behind an automount, whoever has a userfaultfd, or whoever holds the lock inside the kernel that others queue for.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::Instant,
};

use anyhow::Result;

use super::{
    Resolved, locks,
    mounts::{Mount, MountTable},
    path,
    peers::{NAMED_MAX, Peer, Peers, RESOLVED_MIN, Role, awaits},
    services::{Scope, Services, Suspects, TerminalMaster, WaitedFault, servers_of_fault},
    target::is_terminal,
};
use crate::{
    collect::{Source, Stacks},
    model::{
        file::{Device, FileKind},
        holder::FileId,
        obstacles::{Obstacle, obstacle},
        stack::KernelStack,
        syscalls::{Direction, Operation, Syscall},
        target::Target,
        wait::{ByProcess, ProcessId, Sleep, Sleeper, ThreadId, Wait},
    },
    procfs::{Reads, by_pid},
    resolve::futex::LockOwner,
};

/// Waits on one file among which the one is looked for that holds its lock, the oldest.
const CANDIDATES: usize = 8;
/// Waits whose paths are read for the same.
const PATHS: usize = 32;
/// Mounts of which it is asked whether they answer.
const MOUNTS: usize = 32;

/// Who and what is behind the obstacles of these waits, for those that have one; the first [`RESOLVED_MIN`] are always looked at, however
/// late it is.
///
/// # Errors
/// The source cannot be asked.
pub fn find(
    pairs: &[(&Wait, &mut Resolved)],
    all: &ByProcess<'_>,
    reads: &mut Reads,
    source: &mut dyn Source,
    services: &mut Services,
    until: Option<Instant>,
) -> Result<HashMap<ThreadId, Peers>> {
    // The kernel locks a process against looks at it while it takes on another program.
    let in_execve = |wait: &&Wait| matches!(wait.call.syscall, Syscall::Execve | Syscall::Execveat);
    let without = all.iter().filter(in_execve).map(|wait| wait.thread.process.pid).collect();
    let mut look = ObstacleSearch {
        reads,
        services,
        scope: Scope { without, until },
        locks_are_few: all.count(|wait| wait.call.waits_for_file_lock()) <= locks::LONGEST_QUEUE,
        tables: HashMap::new(),
        names: HashMap::new(),
        stopped: HashMap::new(),
        waited_faults: None,
    };
    let (mut found, mut locked) = (HashMap::new(), Vec::new());
    for (at, (wait, resolved)) in pairs.iter().enumerate() {
        if at >= RESOLVED_MIN && until.is_some_and(|until| Instant::now() >= until) {
            break;
        }
        // What sleeps so that no signal wakes it waits for storage, where nothing else is said.
        let uninterruptible = (wait.sleep == Sleep::Uninterruptible).then_some(Obstacle::Storage);
        match resolved.stack.as_ref().and_then(obstacle).or(uninterruptible) {
            Some(Obstacle::KernelLock | Obstacle::Lookup) => locked.push((*wait, &**resolved)),
            Some(obstacle) => {
                found.extend(look.behind(obstacle, wait, resolved).map(|peers| (wait.thread, peers)));
            }
            None => found.extend(
                look.of_terminal(wait.thread.process, resolved, all).map(|peers| (wait.thread, peers)),
            ),
        }
    }
    if !locked.is_empty() {
        look.add_lock_holders(&locked, all, source, &mut found)?;
    }
    Ok(found)
}

/// A look that is under way, with what it has found so far.
struct ObstacleSearch<'a> {
    reads: &'a mut Reads,
    services: &'a mut Services,
    scope: Scope,
    /// So few wait for locks on files that `/proc/locks` is short enough to be read.
    locks_are_few: bool,
    /// Mounts by namespace.
    tables: HashMap<String, Arc<MountTable>>,
    names: HashMap<u32, String>,
    stopped: HashMap<u32, bool>,
    /// Userfaultfds that are waited for: asked for once, however many page faults wait.
    waited_faults: Option<Vec<WaitedFault>>,
}

/// Kinds of file systems, as mountinfo has them, by what an obstacle calls them.
fn kinds(name: &str) -> &'static [&'static str] {
    match name {
        "FUSE" => &["fuse", "fuseblk"],
        "virtiofs" => &["virtiofs"],
        "NFS" => &["nfs", "nfs4"],
        "SMB" => &["cifs", "smb3"],
        "Ceph" => &["ceph"],
        "9p" => &["9p"],
        "AFS" => &["afs"],
        "OCFS2" => &["ocfs2"],
        "GFS2" => &["gfs2"],
        _ => &[],
    }
}

impl ObstacleSearch<'_> {
    /// Who is behind an obstacle that is no lock.
    fn behind(&mut self, obstacle: Obstacle, wait: &Wait, resolved: &Resolved) -> Option<Peers> {
        let process = wait.thread.process;
        match obstacle {
            Obstacle::Server("FUSE") => {
                let mount = self.mount(process, resolved, kinds("FUSE"))?;
                Some(self.fuse_server(process, mount))
            }
            Obstacle::Server(name) => {
                let mount = self.mount(process, resolved, kinds(name))?;
                Some(Peers { role: Role::Server, mount: Some(mount.into()), ..Peers::default() })
            }
            Obstacle::Automount => {
                let mount = self.mount(process, resolved, &["autofs"])?;
                // The daemon's process group, whose first process it mostly is.
                let daemon = mount.option("pgrp").and_then(|group| group.parse().ok());
                let suspects = Suspects { pids: daemon.into_iter().collect(), certain: true };
                Some(self.named(process, suspects, Role::Automounter, Some(mount)))
            }
            Obstacle::Permission => {
                let mount = self.mount(process, resolved, &[]);
                let meant = |services: &Services, _: &mut Reads| services.listeners_of(mount.as_ref());
                let suspects = self.services.find(self.reads, &self.scope, meant);
                Some(self.named(process, suspects, Role::Listener, mount))
            }
            Obstacle::Frozen | Obstacle::Storage | Obstacle::Writeback => {
                let mount = self.mount(process, resolved, &[])?;
                // Who waits for a page waits for whoever was asked for it.
                if mount.is_fuse() {
                    return Some(self.fuse_server(process, mount));
                }
                Some(Peers { mount: Some(mount.into()), ..Peers::default() })
            }
            Obstacle::Lease => {
                let mount = self.mount(process, resolved, &[]);
                if !self.locks_are_few {
                    return None;
                }
                let text = self.reads.host_file("/proc/locks")?;
                let mut leases = locks::broken_leases(&String::from_utf8_lossy(&text));
                leases.retain(|(_, device)| mount.as_ref().is_none_or(|mount| mount.device == *device));
                leases.dedup();
                let (pids, certain) = (leases.iter().map(|(pid, _)| *pid).collect(), leases.len() == 1);
                Some(self.named(process, Suspects { pids, certain }, Role::LockHolder, mount))
            }
            Obstacle::Userfault => {
                let suspects = self.fault_servers(process.pid);
                Some(self.named(process, suspects, Role::FaultServer, None))
            }
            Obstacle::MemoryLimit => None,
            Obstacle::Lookup | Obstacle::KernelLock => None,
        }
    }

    fn fuse_server(&mut self, process: ProcessId, mount: Mount) -> Peers {
        let meant = |services: &Services, reads: &mut Reads| {
            services.servers_of(&mount, |pid| reads.text(by_pid(pid), "cmdline").unwrap_or_default())
        };
        let suspects = self.services.find(self.reads, &self.scope, meant);
        self.named(process, suspects, Role::Server, Some(mount))
    }

    /// Who is to serve a page fault of this process.
    fn fault_servers(&mut self, pid: u32) -> Suspects {
        let (services, reads, scope) = (&mut *self.services, &mut *self.reads, &self.scope);
        let waited = self.waited_faults.get_or_insert_with(|| {
            let mut waited = Vec::new();
            services.find(reads, scope, |services, reads| {
                waited = services.waited_faults(reads);
                servers_of_fault(&waited, pid)
            });
            waited
        });
        servers_of_fault(waited, pid)
    }

    /// Who has the other end of the terminal that is written to, and whether they wait for what comes there.
    fn of_terminal(&mut self, process: ProcessId, resolved: &Resolved, all: &ByProcess<'_>) -> Option<Peers> {
        let file = resolved.file.file().filter(|file| is_terminal(file))?;
        let index = pseudo_terminal(file.special).filter(|_| resolved.direction == Some(Direction::Send))?;
        let meant = |services: &Services, _: &mut Reads| services.holders_of(index);
        let suspects = self.services.find(self.reads, &self.scope, meant);
        let reads = &mut *self.reads;
        let is_read = |TerminalMaster { pid, fd, .. }: &TerminalMaster| awaits(all.of(*pid), *fd, reads);
        let waits = self.services.masters_of(index).any(is_read);
        Some(Peers { waits: Some(waits), ..self.named(process, suspects, Role::TerminalMaster, None) })
    }

    /// The mount on which what a wait waits on lies, of one of these kinds, if any are named. What is closed has no name any more, and
    /// a name may lead elsewhere: then it is the only mount of these kinds, if there is but one.
    fn mount(&mut self, process: ProcessId, resolved: &Resolved, kinds: &[&str]) -> Option<Mount> {
        let table = self.table(process);
        let fits = |mount: &&Mount| kinds.is_empty() || kinds.contains(&mount.kind.as_str());
        let path = match &resolved.target {
            Target::File { path, .. } | Target::Fifo { path, .. } | Target::Page { path } => Some(path),
            _ => None,
        };
        // The file is the page's only where the page is not of memory that was handed over.
        let file = resolved.file.file().filter(|_| !matches!(resolved.target, Target::Page { .. }));
        let by_file =
            file.filter(|file| is_stored(file.kind())).and_then(|file| table.of_device(file.device));
        let by_path = path.and_then(|path| table.of_path(path));
        let named = by_file.filter(fits).or(by_path.filter(fits));
        named.or_else(|| likely(&table, kinds, self.reads)).cloned()
    }

    /// The mounts that a process sees, read once for all of its namespace.
    fn table(&mut self, process: ProcessId) -> Arc<MountTable> {
        let namespace = match self.scope.without.contains(&process.pid) {
            true => None,
            false => self.reads.link(process, "ns/mnt").ok(),
        };
        // One that cannot be told is its own.
        let key =
            namespace.map_or_else(|| format!("pid {}", process.pid), |link| link.to_string_lossy().into());
        let reads = &mut *self.reads;
        Arc::clone(self.tables.entry(key).or_insert_with(|| MountTable::read(process, reads).into()))
    }

    /// These, for one that waits; it may be one of them itself.
    fn named(&mut self, waiter: ProcessId, suspects: Suspects, role: Role, mount: Option<Mount>) -> Peers {
        let Suspects { mut pids, certain } = suspects;
        let number = pids.len();
        pids.retain(|pid| *pid != waiter.pid);
        let own = pids.len() < number;
        let others: Vec<Peer> =
            pids.iter().take(NAMED_MAX).map(|pid| Peer { pid: *pid, comm: self.name(*pid) }).collect();
        let stopped = others.first().is_some_and(|first| self.is_stopped(first.pid));
        let (more, mount) = (pids.len() - others.len(), mount.map(Arc::new));
        Peers { others: others.into(), more, own, role, certain, stopped, mount, ..Peers::default() }
    }

    fn name(&mut self, pid: u32) -> String {
        let reads = &mut *self.reads;
        self.names.entry(pid).or_insert_with(|| reads.comm(by_pid(pid)).unwrap_or_default()).clone()
    }

    /// Whether a signal has stopped a process.
    fn is_stopped(&mut self, pid: u32) -> bool {
        let reads = &mut *self.reads;
        *self
            .stopped
            .entry(pid)
            .or_insert_with(|| reads.stat(by_pid(pid)).is_some_and(|stat| stat.state == 'T'))
    }

    /// Who holds the locks that these wait for: the thread that the kernel names, else probably the oldest that waits for storage on
    /// the same file, or on a name in the same directory.
    fn add_lock_holders(
        &mut self,
        locked: &[(&Wait, &Resolved)],
        all: &ByProcess<'_>,
        source: &mut dyn Source,
        found: &mut HashMap<ThreadId, Peers>,
    ) -> Result<()> {
        let candidates = LockCandidates::of(locked, all, self.reads);
        let stacks = source.stacks(&candidates.sleepers())?;
        let mut processes: HashMap<u32, ThreadId> = HashMap::new();
        if locked.iter().any(|(_, resolved)| resolved.lock_holder().is_some()) {
            processes.extend(all.iter().map(|wait| (wait.thread.tid, wait.thread)));
        }
        for (wait, resolved) in locked {
            let named = resolved.lock_holder().filter(|tid| *tid != wait.thread.tid);
            let certain = named.is_some();
            let holder = match named {
                Some(tid) => self.thread(tid, &processes),
                None => candidates
                    .holder(wait, resolved, &stacks)
                    .map(|holder| (holder.thread.process.pid, holder.thread.tid, holder.comm.to_string())),
            };
            let Some((pid, tid, comm)) = holder else { continue };
            let mut peers = Peers { role: Role::LockHolder, certain, ..Peers::default() };
            match pid == wait.thread.process.pid {
                true => peers.owner = Some(LockOwner { pid, tid, comm }),
                false => peers.others = [Peer { pid, comm }].into(),
            }
            found.insert(wait.thread, peers);
        }
        Ok(())
    }

    /// Process, id and name of a thread that may not wait.
    fn thread(&mut self, tid: u32, known: &HashMap<u32, ThreadId>) -> Option<(u32, u32, String)> {
        let pid = match known.get(&tid) {
            Some(thread) => thread.process.pid,
            None => {
                let status = self.reads.text(by_pid(tid), "status")?;
                status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()?
            }
        };
        Some((pid, tid, self.name(pid)))
    }
}

fn is_stored(kind: FileKind) -> bool {
    matches!(kind, FileKind::Regular | FileKind::Directory)
}

/// What a call is held up by that closes a file: of the file there is nothing left to be read, and of what it lies on the kind of file
/// system.
pub fn of_closed(process: ProcessId, stack: &KernelStack, reads: &mut Reads) -> Option<Target> {
    let Some(Obstacle::Server(name)) = obstacle(stack) else { return None };
    let table = MountTable::read(process, reads);
    if let Some(Mount { place, .. }) = likely(&table, kinds(name), reads) {
        return Some(Target::File { path: place.clone(), inode: None, deleted: false, pseudo_fs: false });
    }
    let places: Vec<&str> = table.of_kinds(kinds(name)).iter().map(|mount| mount.place.as_str()).collect();
    let reason = format!("it is closed, and lay on one of {}", places.join(", "));
    (1..=NAMED_MAX).contains(&places.len()).then(|| Target::Unreadable { reason: reason.into() })
}

/// The only mount of these kinds, or of several FUSE mounts the only one that has requests without an answer.
fn likely<'a>(table: &'a MountTable, kinds: &[&str], reads: &mut Reads) -> Option<&'a Mount> {
    let mut mounts = table.of_kinds(kinds);
    if mounts.len() > 1 {
        mounts.truncate(MOUNTS);
        mounts.retain(|mount| {
            let waiting = format!("/sys/fs/fuse/connections/{}/waiting", mount.device.0);
            let number = reads.host_file(&waiting).and_then(|text| String::from_utf8(text).ok());
            number.is_some_and(|number| number.trim().parse().is_ok_and(|number: u64| number > 0))
        });
    }
    match mounts[..] {
        [only] => Some(only),
        _ => None,
    }
}

/// The number of a pseudo-terminal, as in `/dev/pts/3`: they begin with major number 136.
fn pseudo_terminal(device: Device) -> Option<u32> {
    (136..=143).contains(&device.major()).then(|| ((device.major() - 136) << 8) + device.minor())
}

/// The file that a wait is on, if it is one that is stored.
fn file_of(wait: &Wait) -> Option<FileId> {
    wait.fd_state.file().filter(|file| is_stored(file.kind())).map(FileId::from)
}

/// Who may hold locks that others wait for, the oldest first.
struct LockCandidates<'w> {
    of_files: HashMap<FileId, Vec<&'w Wait>>,
    /// With the path that each has in its call.
    on_paths: Vec<(&'w Wait, String)>,
}

impl<'w> LockCandidates<'w> {
    fn of(locked: &[(&Wait, &Resolved)], all: &ByProcess<'w>, reads: &mut Reads) -> Self {
        let files: HashSet<FileId> = locked.iter().filter_map(|(wait, _)| file_of(wait)).collect();
        let waiting: HashSet<ThreadId> = locked.iter().map(|(wait, _)| wait.thread).collect();
        let mut of_files: HashMap<FileId, Vec<&Wait>> = HashMap::new();
        let mut on_paths: Vec<&Wait> = Vec::new();
        let walks = |wait: &Wait| matches!(wait.call.operation(), Operation::Open | Operation::Path);
        let any_walks = locked.iter().any(|(wait, _)| walks(wait));
        for wait in all.iter().filter(|wait| !waiting.contains(&wait.thread)) {
            match file_of(wait).filter(|file| files.contains(file)) {
                Some(file) => of_files.entry(file).or_default().push(wait),
                None if any_walks && walks(wait) => on_paths.push(wait),
                None => {}
            }
        }
        for waits in of_files.values_mut() {
            waits.sort_by_key(|wait| wait.began_ns);
            waits.truncate(CANDIDATES);
        }
        on_paths.sort_by_key(|wait| wait.began_ns);
        on_paths.truncate(PATHS);
        let with_path = |wait: &'w Wait| Some((wait, path::of(wait, reads)?.to_string_lossy().into_owned()));
        Self { of_files, on_paths: on_paths.into_iter().filter_map(with_path).collect() }
    }

    fn sleepers(&self) -> Vec<Sleeper> {
        let files = self.of_files.values().flatten().map(|wait| wait.sleeper());
        files.chain(self.on_paths.iter().map(|(wait, _)| wait.sleeper())).collect()
    }

    /// Who probably holds the lock that a wait is for: one that does not wait for a lock itself.
    fn holder(&self, wait: &Wait, resolved: &Resolved, stacks: &Stacks) -> Option<&'w Wait> {
        let is_held_up = |wait: &&&Wait| {
            let obstacle = stacks.get(&wait.thread).and_then(obstacle);
            obstacle.is_some_and(|obstacle| !matches!(obstacle, Obstacle::KernelLock | Obstacle::Lookup))
        };
        let of_file = file_of(wait).and_then(|file| self.of_files.get(&file));
        if let Some(holder) = of_file.into_iter().flatten().find(is_held_up) {
            return Some(holder);
        }
        let Target::File { path, .. } = &resolved.target else { return None };
        let near = self.on_paths.iter().filter(|(_, other)| share_a_directory(path, other));
        near.map(|(wait, _)| wait).find(is_held_up).copied()
    }
}

/// Whether calls on these paths may take the lock of one directory.
fn share_a_directory(one: &str, other: &str) -> bool {
    let (one, other) = (Path::new(one), Path::new(other));
    one == other
        || one.parent().is_some_and(|parent| parent == other)
        || other.parent().is_some_and(|parent| parent == one)
        || one.parent().is_some() && one.parent() == other.parent()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::verdict::tests::wait,
        model::{
            file::tests::file,
            wait::{FdState, SeenFd, Snapshot},
        },
    };

    #[test]
    fn calls_in_one_directory_share_its_lock() {
        for (one, other, expected) in [
            ("/m/a", "/m/b", true),
            ("/m/a", "/m/a", true),
            ("/m/a", "/m", true),
            ("/m", "/m/a", true),
            ("/m/a/b", "/m/b", false),
            ("/m/a", "/n/a", false),
        ] {
            assert_eq!(share_a_directory(one, other), expected, "{one} {other}");
        }
    }

    /// What the kernel would say of stacks, by thread.
    struct Kernel(HashMap<u32, &'static str>);

    impl Source for Kernel {
        fn snapshot(&mut self) -> Result<Snapshot> {
            anyhow::bail!("not asked here")
        }

        fn look_up(&mut self, _: &[(ThreadId, i32)]) -> Result<Vec<SeenFd>> {
            Ok(Vec::new())
        }

        fn stacks(&mut self, sleepers: &[Sleeper]) -> Result<Stacks> {
            let stack = |sleeper: &Sleeper| Some((sleeper.thread, *self.0.get(&sleeper.thread.tid)?));
            Ok(sleepers.iter().filter_map(stack).map(|(of, text)| (of, KernelStack::parse(text))).collect())
        }

        fn holders(
            &mut self,
            _: &[FileId],
            _: &[crate::model::holder::ConnectionEnd],
        ) -> Result<Option<Vec<crate::model::holder::Holder>>> {
            Ok(Some(Vec::new()))
        }
    }

    const LOCKED: &str = "rwsem_down_write_slowpath\nfuse_file_write_iter";
    const HELD_UP: &str = "request_wait_answer\nfuse_send_write\nfuse_file_write_iter";

    /// A write to the file with this inode number that began then.
    fn write(pid: u32, tid: u32, inode: u64, began_ns: u64) -> Wait {
        let mut wait = wait(Syscall::Write, [3, 0, 0, 0, 0, 0]);
        (wait.thread.process.pid, wait.thread.tid, wait.began_ns) = (pid, tid, began_ns);
        wait.fd_state = FdState::Open(file(inode, FileKind::Regular));
        wait
    }

    fn resolved(wait: &Wait, stack: &str) -> Resolved {
        let mut resolved = Resolved::new(Some(3), Target::None, wait.call.direction());
        (resolved.file, resolved.stack) = (wait.fd_state, Some(KernelStack::parse(stack)));
        resolved
    }

    /// Who holds the lock of the first of these waits.
    fn holder(waits: &[Wait], stacks: &[(u32, &'static str)]) -> Option<Peers> {
        let mut own = resolved(&waits[0], LOCKED);
        let mut kernel = Kernel(stacks.iter().copied().collect());
        let (mut reads, mut services) = (Reads::new(), Services::default());
        let pairs = [(&waits[0], &mut own)];
        let found =
            find(&pairs, &ByProcess::new(waits), &mut reads, &mut kernel, &mut services, None).expect("asks");
        found.get(&waits[0].thread).cloned()
    }

    /// More than any pid can be.
    const FIRST: u32 = 5_000_000;

    #[test]
    fn the_oldest_that_waits_for_storage_on_the_file_probably_has_its_lock() {
        let (a, b, c) = (FIRST, FIRST + 1, FIRST + 2);
        let all = [write(b, b, 7, 50), write(c, c, 7, 20), write(a, a, 7, 10)];
        let peers = holder(&all, &[(a, HELD_UP), (c, LOCKED)]).expect("found");
        assert_eq!((peers.others[0].pid, peers.role, peers.certain), (a, Role::LockHolder, false));
        // Another that queues is none, nor one on another file, nor the thread itself.
        assert_eq!(holder(&all, &[(a, LOCKED), (c, LOCKED), (b, HELD_UP)]), None);
        assert_eq!(holder(&[write(b, b, 7, 50), write(a, a, 8, 10)], &[(a, HELD_UP)]), None);
        // Of its own process it is a thread that is named.
        let all = [write(b, b, 7, 50), write(b, a, 7, 10)];
        let peers = holder(&all, &[(a, HELD_UP)]).expect("found");
        assert_eq!((peers.others.len(), peers.owner.map(|owner| owner.tid)), (0, Some(a)));
    }

    #[test]
    fn a_queue_for_one_lock_is_looked_at_once() {
        crate::util::growth::assert_linear(
            "waits for a lock in the kernel",
            |number| {
                (0..number as u32).map(|at| write(FIRST + at, FIRST + at, 7, at.into())).collect::<Vec<_>>()
            },
            |waits| {
                let mut all: Vec<Resolved> = waits.iter().map(|wait| resolved(wait, LOCKED)).collect();
                let pairs: Vec<(&Wait, &mut Resolved)> = waits.iter().zip(&mut all).collect();
                let (mut reads, mut services) = (Reads::new(), Services::default());
                let mut kernel = Kernel(HashMap::new());
                let all = ByProcess::new(&waits);
                find(&pairs, &all, &mut reads, &mut kernel, &mut services, None).expect("asks");
            },
        );
    }
}
