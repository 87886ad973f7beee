//! The source `proc`: the same waits from `/proc/*/task/*/{syscall,stat,status}`. Slower, and when a sleep began the
//! kernel does not say there: an age is the time since this source first saw the sleep.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use tracer_ebpf::abi::{File, FileKey, HOLDS_READ, HOLDS_WRITE, HolderRecord, KIND_HOLDER, TupleKey};

use super::{Source, bpf::call_name};
use crate::{
    clock::Now,
    syscalls::{self, Table},
    wait::{
        Call, FdState, Held, HeldThread, ProcessId, SeenFd, Sleep, Snapshot, SocketFacts, ThreadId, Wait,
    },
};

const S_IFSOCK: u32 = 0o140_000;

/// `/proc` as a source.
pub struct Proc {
    /// When each thread's present sleep was first seen: its switch count then, and the moment.
    seen: HashMap<ThreadId, (u64, u64)>,
}

/// What `/proc/PID/stat` says of a thread.
pub struct Stat {
    /// Its name.
    pub comm: String,
    /// Its state's letter.
    pub state: char,
    /// When it started, clock ticks since boot.
    pub start_ticks: u64,
    /// Process id of its parent.
    pub parent: u32,
    /// It is the kernel's own.
    pub kernel_thread: bool,
}

impl Stat {
    /// When it started, nanoseconds of `CLOCK_BOOTTIME`, rounded down to a tick.
    pub fn start_ns(&self) -> u64 {
        let hz = u128::from(rustix::param::clock_ticks_per_second().max(1));
        (u128::from(self.start_ticks) * 1_000_000_000 / hz) as u64
    }
}

/// Whether a start time of the kernel's is this one of `/proc`, which shows ticks, rounded down.
pub fn same_start(start_ns: u64, stat: &Stat) -> bool {
    let hz = u128::from(rustix::param::clock_ticks_per_second());
    u128::from(start_ns) * hz / 1_000_000_000 == u128::from(stat.start_ticks)
}

impl Proc {
    /// A source that has seen nothing yet.
    pub fn new() -> Self {
        Self { seen: HashMap::new() }
    }

    fn process(
        &self,
        pid: u32,
        now: &Now,
        snapshot: &mut Snapshot,
        seen: &mut HashMap<ThreadId, (u64, u64)>,
    ) -> Option<()> {
        let dir = Path::new("/proc").join(pid.to_string());
        let leader = stat(&dir)?;
        if leader.kernel_thread {
            return None;
        }
        let process = ProcessId { pid, start_ns: leader.start_ns() };
        for tid in numbers(&dir.join("task")) {
            // The thread may be gone by now, or another user's.
            let _ = self.thread(process, tid, &dir, now, snapshot, seen);
        }
        Some(())
    }

    fn thread(
        &self,
        process: ProcessId,
        tid: u32,
        dir: &Path,
        now: &Now,
        snapshot: &mut Snapshot,
        seen: &mut HashMap<ThreadId, (u64, u64)>,
    ) -> Option<()> {
        let dir = dir.join("task").join(tid.to_string());
        let stat = stat(&dir)?;
        let thread = ThreadId { process, tid, start_ns: stat.start_ns() };
        let sleep = match stat.state {
            'S' => Sleep::Interruptible,
            'D' => Sleep::Uninterruptible,
            'T' | 't' => {
                let held = if stat.state == 'T' { Held::Stopped } else { Held::Traced };
                snapshot.held.push(HeldThread { thread, held });
                return Some(());
            }
            _ => return None,
        };
        let (number, args) = call(&fs::read_to_string(dir.join("syscall")).ok()?)?;
        let name = call_name(Table::Native, number);
        let (uid, switches) = status(&fs::read_to_string(dir.join("status")).ok()?)?;
        let began_ns = match self.seen.get(&thread) {
            Some((before, began)) if *before == switches => *began,
            _ => now.monotonic_ns,
        };
        seen.insert(thread, (switches, began_ns));
        let fd = syscalls::fd_argument(name).map(|argument| args[argument] as i32);
        snapshot.waits.push(Wait {
            thread,
            comm: stat.comm,
            uid,
            sleep,
            call: Call { table: Table::Native, number, name, args, restarted: false },
            fd,
            fd_state: if fd.is_some() { FdState::Unknown } else { FdState::None },
            socket: SocketFacts::None,
            age: Duration::from_nanos(now.monotonic_ns - began_ns),
            exact: false,
            since: now.wall_at(began_ns),
            began_ns,
            sleep_began_ns: began_ns,
            switches,
        });
        Some(())
    }
}

impl Source for Proc {
    fn snapshot(&mut self) -> Result<Snapshot> {
        let begun = Instant::now();
        let now = Now::read();
        let mut snapshot = Snapshot::empty(&now, "proc");
        let mut seen = HashMap::new();
        let own = std::process::id();
        fs::read_dir("/proc").context("cannot read /proc")?;
        for pid in numbers(Path::new("/proc")).filter(|pid| *pid != own) {
            let _ = self.process(pid, &now, &mut snapshot, &mut seen);
        }
        self.seen = seen;
        snapshot.duration = begun.elapsed();
        Ok(snapshot)
    }

    fn look_up(&mut self, fds: &[(ThreadId, i32)]) -> Result<Vec<SeenFd>> {
        let seen = |(thread, fd): &(ThreadId, i32)| SeenFd {
            thread: *thread,
            fd: *fd,
            state: FdState::Unknown,
            socket: SocketFacts::None,
        };
        Ok(fds.iter().map(seen).collect())
    }

    /// By the names in `/proc/PID/fd`, which do not tell connections: those are left out.
    fn holders(&mut self, files: &[FileKey], _: &[TupleKey]) -> Result<Vec<HolderRecord>> {
        let wanted: HashMap<String, FileKey> = files
            .iter()
            .map(|key| {
                (format!("{}:[{}]", if key.kind == S_IFSOCK { "socket" } else { "pipe" }, key.inode), *key)
            })
            .collect();
        let mut holders = Vec::new();
        for pid in numbers(Path::new("/proc")) {
            for fd in numbers(&Path::new("/proc").join(pid.to_string()).join("fd")) {
                let Ok(link) = fs::read_link(format!("/proc/{pid}/fd/{fd}")) else { continue };
                let Some(key) = link.to_str().and_then(|link| wanted.get(link)) else { continue };
                let file = File { inode: key.inode, dev: key.dev, mode: key.kind as u16, ..File::EMPTY };
                holders.push(HolderRecord {
                    kind: KIND_HOLDER,
                    size: 0,
                    tgid: pid,
                    fd: fd as i32,
                    access: access(pid, fd),
                    netns: 0,
                    process_start_ns: 0,
                    file,
                });
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

fn stat(dir: &Path) -> Option<Stat> {
    let bytes = fs::read(dir.join("stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&bytes))
}

/// Fields of Documentation/filesystems/proc.rst; the name may itself have blanks and parentheses.
pub fn parse_stat(text: &str) -> Option<Stat> {
    const PF_KTHREAD: u64 = 0x0020_0000;
    let (open, close) = (text.find('(')?, text.rfind(')')?);
    let fields: Vec<&str> = text.get(close + 1..)?.split_ascii_whitespace().collect();
    Some(Stat {
        comm: text.get(open + 1..close)?.to_owned(),
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        kernel_thread: fields.get(6)?.parse::<u64>().ok()? & PF_KTHREAD != 0,
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

/// `NR ARG0 … ARG5 SP PC`, or `-1 SP PC` outside a call, or `running`.
fn call(text: &str) -> Option<(i32, [u64; 6])> {
    let mut words = text.split_ascii_whitespace();
    let number = words.next()?.parse().ok()?;
    let mut args = [0; 6];
    if number >= 0 {
        for arg in &mut args {
            *arg = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
        }
    }
    Some((number, args))
}

/// Real user and context switches of a `status` file.
fn status(text: &str) -> Option<(u32, u64)> {
    let value =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next();
    let switches = value("voluntary_ctxt_switches:")?.parse::<u64>().ok()?
        + value("nonvoluntary_ctxt_switches:")?.parse::<u64>().ok()?;
    Some((value("Uid:")?.parse().ok()?, switches))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_confuse_stat() {
        let text = "12 (a) b (c) S 1 12 12 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 777 0 0";
        let stat = parse_stat(text).expect("parses");
        assert_eq!((stat.comm.as_str(), stat.state, stat.start_ticks), ("a) b (c", 'S', 777));
        assert_eq!(stat.parent, 1);
        assert!(!stat.kernel_thread);
        assert!(parse_stat("12 (a").is_none());
        assert!(parse_stat("").is_none());
    }

    #[test]
    fn calls_page_faults_and_running_threads_differ() {
        assert_eq!(call("0 0x3 0x7f 0x1 0x0 0x0 0x0 0x7ffd 0x7f12"), Some((0, [3, 0x7f, 1, 0, 0, 0])));
        assert_eq!(call("-1 0x7ffd 0x7f12"), Some((-1, [0; 6])));
        assert_eq!(call("running"), None);
        assert_eq!(call("0 0x3"), None);
    }

    #[test]
    fn it_sees_a_thread_of_its_own_test() {
        // The test harness's first thread waits for this one; but a source leaves its own process out.
        let mut source = Proc::new();
        let snapshot = source.snapshot().expect("reads /proc");
        assert!(snapshot.waits.iter().all(|wait| wait.thread.process.pid != std::process::id()));
    }
}
