//! The source `proc`: the same waits from `/proc/*/task/*/{syscall,stat,status,fd}`. Slower, and when a sleep began the
//! kernel says there, if it does, only as the moment a thread last ran; else an age counts from the first look.

use std::{
    cell::OnceCell,
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::{
    fs::{AtFlags, CWD, StatxFlags, statx},
    io::Errno,
};
use tracer_ebpf::abi::{File, FileKey, HOLDS_READ, HOLDS_WRITE, HolderRecord, KIND_HOLDER, TupleKey};

use super::{
    Source,
    bpf::call_name,
    sched::CpuClocks,
    sockets::{Socket, Sockets},
    stat, wchan,
};
use crate::{
    clock::Now,
    syscalls::{self, Table},
    wait::{
        Call, FdState, Held, HeldThread, ProcessId, SeenFd, Sleep, Snapshot, SocketFacts, ThreadId,
        UnixFacts, Wait,
    },
};

const S_IFMT: u32 = 0o170_000;
const S_IFSOCK: u32 = 0o140_000;
/// The number of a call that `wchan` only hints at: it has no arguments.
const GUESSED: i32 = i32::MAX;

/// `/proc` as a source.
pub struct Proc {
    seen: HashMap<ThreadId, Began>,
    /// As of the last snapshot.
    sockets: Sockets,
}

/// A thread's present sleep, as first seen.
#[derive(Clone, Copy)]
struct Began {
    /// Its context switches then: more mean another sleep.
    switches: u64,
    /// The moment, nanoseconds of `CLOCK_MONOTONIC`.
    at_ns: u64,
}

/// A look that is under way.
struct Look<'a> {
    now: Now,
    before: &'a HashMap<ThreadId, Began>,
    seen: HashMap<ThreadId, Began>,
    /// `None`: the kernel does not show when a thread last ran.
    clocks: Option<CpuClocks>,
    snapshot: Snapshot,
}

impl Proc {
    /// A source that has seen nothing yet.
    pub fn new() -> Self {
        Self { seen: HashMap::new(), sockets: Sockets::default() }
    }
}

impl Look<'_> {
    fn process(&mut self, pid: u32, sockets: &mut Sockets) -> Option<()> {
        let dir = Path::new("/proc").join(pid.to_string());
        let leader = stat::stat(&dir)?;
        if leader.kernel_thread {
            return None;
        }
        let process = ProcessId { pid, start_ns: leader.start_ns() };
        let table = OnceCell::new();
        let table = || *table.get_or_init(|| stat::table(&fs::read(dir.join("auxv")).unwrap_or_default()));
        for tid in numbers(&dir.join("task")) {
            // The thread may be gone by now, or another user's.
            let _ = self.thread(process, tid, &dir, &table, sockets);
        }
        Some(())
    }

    fn thread(
        &mut self,
        process: ProcessId,
        tid: u32,
        dir: &Path,
        table: &dyn Fn() -> Table,
        sockets: &mut Sockets,
    ) -> Option<()> {
        let dir = dir.join("task").join(tid.to_string());
        let stat = stat::stat(&dir)?;
        let thread = ThreadId { process, tid, start_ns: stat.start_ns() };
        let sleep = match stat.state {
            'S' => Sleep::Interruptible,
            // A sleep that does not count as load is one all the same: some kernels have the first process of a namespace wait
            // so, in its end, for the others.
            'D' | 'I' => Sleep::Uninterruptible,
            'T' | 't' => {
                let held = if stat.state == 'T' { Held::Stopped } else { Held::Traced };
                self.snapshot.held.push(HeldThread { thread, held });
                return Some(());
            }
            _ => return None,
        };
        let call = match stat.leaving {
            Some(number) => {
                let name = call_name(Table::Native, number);
                Call { table: Table::Native, number, name, args: [0; 6], restarted: false }
            }
            None => self.call(thread, &dir, table)?,
        };
        let (uid, switches) = stat::status(&stat::read(dir.join("status"))?)?;
        let now_ns = self.now.monotonic_ns;
        let began = match self.before.get(&thread) {
            Some(before) if before.switches == switches => *before,
            _ => {
                let age = self.clocks.as_mut().and_then(|clocks| clocks.since_last_ran(&dir, stat.cpu));
                self.snapshot.dated &= age.is_some();
                Began { switches, at_ns: now_ns - age.map_or(0, |age| age.as_nanos() as u64).min(now_ns) }
            }
        };
        self.seen.insert(thread, began);
        let fd = syscalls::fd_argument(call.name)
            .filter(|_| call.number != GUESSED)
            .map(|argument| call.args[argument] as i32);
        let (fd_state, socket) = match fd {
            Some(fd) => describe_with_peer(process.pid, tid, fd, sockets),
            None => (FdState::None, SocketFacts::None),
        };
        self.snapshot.waits.push(Wait {
            thread,
            comm: stat.comm,
            uid,
            sleep,
            call,
            fd,
            fd_state,
            socket,
            age: Duration::from_nanos(now_ns - began.at_ns),
            exact: false,
            since: self.now.wall_at(began.at_ns),
            began_ns: began.at_ns,
            sleep_began_ns: began.at_ns,
            switches,
        });
        Some(())
    }

    /// The call a sleeping thread is in, by `syscall`, or as near as `wchan` gets.
    fn call(&mut self, thread: ThreadId, dir: &Path, table: &dyn Fn() -> Table) -> Option<Call> {
        let wchan = || fs::read_to_string(dir.join("wchan")).unwrap_or_default();
        let text = match fs::read_to_string(dir.join("syscall")) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let function = wchan();
                let name = wchan::call(&function).unwrap_or("unknown");
                // Of others' processes not even that is shown; some kernels show nobody's.
                if matches!(function.as_str(), "" | "0") && !is_own(dir) {
                    self.snapshot.hidden.push(thread);
                    return None;
                }
                self.snapshot.guessed += 1;
                let table = Table::Native;
                return Some(Call { table, number: GUESSED, name, args: [0; 6], restarted: false });
            }
            Err(_) => return None,
        };
        let (number, args) = stat::call(&text)?;
        let table = table();
        let name = call_name(table, number);
        if name == "restart_syscall"
            && let Some(name) = wchan::call(&wchan())
        {
            return Some(Call { table, number, name, args, restarted: true });
        }
        Some(Call { table, number, name, args, restarted: false })
    }
}

/// Whether a process is this one's user's.
fn is_own(dir: &Path) -> bool {
    fs::metadata(dir).is_ok_and(|metadata| metadata.uid() == rustix::process::geteuid().as_raw())
}

/// What an fd is, as the kernel's record would have it. Nothing is opened, and no file system that is far away is asked.
fn describe(pid: u32, tid: u32, fd: i32, sockets: &mut Sockets) -> (FdState, SocketFacts) {
    let path = format!("/proc/{pid}/task/{tid}/fd/{fd}");
    let wanted = StatxFlags::TYPE | StatxFlags::MODE | StatxFlags::INO;
    let stat = match statx(CWD, path, AtFlags::STATX_DONT_SYNC, wanted) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return (FdState::Absent, SocketFacts::None),
        Err(_) => return (FdState::Unknown, SocketFacts::None),
    };
    let device = |major: u32, minor: u32| major << 20 | minor;
    let file = File {
        inode: stat.stx_ino,
        mode: stat.stx_mode,
        dev: device(stat.stx_dev_major, stat.stx_dev_minor),
        rdev: device(stat.stx_rdev_major, stat.stx_rdev_minor),
        ..File::EMPTY
    };
    if u32::from(file.mode) & S_IFMT != S_IFSOCK {
        return (FdState::Open(file), SocketFacts::None);
    }
    match sockets.get(pid, file.inode) {
        Some(Socket { file: socket, facts }) => {
            let File { mode, dev, rdev, .. } = file;
            (FdState::Open(File { mode, dev, rdev, ..*socket }), facts.clone())
        }
        // Its number is all there is.
        None => (FdState::Unknown, SocketFacts::None),
    }
}

/// The same, with who made a unix socket's peer where that is the process itself, as of a pair it wakes itself up with:
/// who holds it now, since who made it is not shown.
fn describe_with_peer(pid: u32, tid: u32, fd: i32, sockets: &mut Sockets) -> (FdState, SocketFacts) {
    let (state, mut socket) = describe(pid, tid, fd, sockets);
    if let SocketFacts::Unix(UnixFacts { peer_inode: Some(peer), peer_pid, .. }) = &mut socket {
        *peer_pid = sockets.holds(pid, *peer).then_some(pid);
    }
    (state, socket)
}

impl Source for Proc {
    fn snapshot(&mut self) -> Result<Snapshot> {
        let begun = Instant::now();
        let now = Now::read();
        let clocks = CpuClocks::work().then(CpuClocks::default);
        let mut snapshot = Snapshot::empty(&now, "proc");
        snapshot.dated = clocks.is_some();
        self.sockets = Sockets::default();
        let mut look = Look { now, before: &self.seen, seen: HashMap::new(), clocks, snapshot };
        let own = std::process::id();
        fs::read_dir("/proc").context("cannot read /proc")?;
        for pid in numbers(Path::new("/proc")).filter(|pid| *pid != own) {
            let _ = look.process(pid, &mut self.sockets);
        }
        let Look { seen, mut snapshot, .. } = look;
        self.seen = seen;
        snapshot.duration = begun.elapsed();
        Ok(snapshot)
    }

    fn look_up(&mut self, fds: &[(ThreadId, i32)]) -> Result<Vec<SeenFd>> {
        let mut seen = Vec::with_capacity(fds.len());
        for (thread, fd) in fds {
            let (state, socket) = describe_with_peer(thread.process.pid, thread.tid, *fd, &mut self.sockets);
            seen.push(SeenFd { thread: *thread, fd: *fd, state, socket });
        }
        Ok(seen)
    }

    fn holders(&mut self, files: &[FileKey], tuples: &[TupleKey]) -> Result<Vec<HolderRecord>> {
        let files: HashSet<FileKey> = files.iter().copied().collect();
        let tuples: HashSet<TupleKey> = tuples.iter().copied().collect();
        let mut holders = Vec::new();
        for pid in numbers(Path::new("/proc")) {
            for fd in numbers(&Path::new("/proc").join(pid.to_string()).join("fd")) {
                let (FdState::Open(file), socket) = describe(pid, pid, fd as i32, &mut self.sockets) else {
                    continue;
                };
                let netns = if let SocketFacts::Tcp(facts) = &socket { facts.raw.netns } else { 0 };
                if files.contains(&FileKey::of(&file))
                    || file.local_port != 0 && tuples.contains(&TupleKey::of(&file, netns))
                {
                    holders.push(HolderRecord {
                        kind: KIND_HOLDER,
                        size: 0,
                        tgid: pid,
                        fd: fd as i32,
                        access: access(pid, fd),
                        netns,
                        process_start_ns: 0,
                        file,
                    });
                }
            }
        }
        Ok(holders)
    }
}

/// How a file is open: bits of `HOLDS_*`.
fn access(pid: u32, fd: u32) -> u32 {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    match flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).map(|flags| flags & 3) {
        Some(0) => HOLDS_READ,
        Some(1) => HOLDS_WRITE,
        _ => HOLDS_READ | HOLDS_WRITE,
    }
}

/// Names in a directory that are numbers.
fn numbers(dir: &Path) -> impl Iterator<Item = u32> + use<> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_sees_a_thread_of_its_own_test() {
        // The test harness's first thread waits for this one; but a source leaves its own process out.
        let mut source = Proc::new();
        let snapshot = source.snapshot().expect("reads /proc");
        assert!(snapshot.waits.iter().all(|wait| wait.thread.process.pid != std::process::id()));
    }
}
