//! The source `proc`: the same waits from `/proc/*/task/*/{syscall,stat,status,fd}`. Slower, and when a sleep began the
//! kernel says there, if it does, only as the moment a thread last ran; else an age counts from the first look.

use std::{
    cell::OnceCell,
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use rustix::io::Errno;
use tracer_ebpf::abi::leaving;

use super::{
    SleepRegisters, Source, Stacks, bpf,
    records::known,
    sched::CpuClocks,
    sockets::{KnownSocket, SocketTables},
    wchan,
};
use crate::{
    model::file::{Device, FileKind, OpenFile},
    model::holder::{Access, ConnectionEnd, FileId, Holder, Holding},
    model::registers::UserRegisters,
    model::stack::KernelStack,
    model::syscalls::{CallTable, Operation, Syscall},
    model::wait::{
        Call, FdState, ProcessId, SeenFd, Sleep, Sleeper, Snapshot, SocketFacts, Suspended, SuspendedThread,
        ThreadId, Wait,
    },
    procfs::{
        self, FileStat, Reads, Unread, by_pid,
        stat::{self, Stat},
    },
    util::clock::Now,
};

/// `/proc` as a source.
pub struct Proc {
    seen: HashMap<ThreadId, Began>,
    /// As of the last snapshot.
    sockets: SocketTables,
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
struct ProcLook<'a> {
    now: Now,
    before: &'a HashMap<ThreadId, Began>,
    seen: HashMap<ThreadId, Began>,
    /// `None`: the kernel does not show when a thread last ran.
    clocks: Option<CpuClocks>,
    reads: Reads,
    sockets: &'a mut SocketTables,
    snapshot: Snapshot,
}

impl Proc {
    /// A source that has seen nothing yet.
    pub fn new() -> Self {
        Self { seen: HashMap::new(), sockets: SocketTables::default() }
    }
}

/// What `/proc` says of a thread before it is known what it waits for.
struct SeenThread {
    comm: String,
    state: char,
    start_ns: u64,
    leaving: Option<i32>,
    cpu: Option<usize>,
}

impl SeenThread {
    /// By its `stat`; while that hangs, as `execve` keeps it, by what else answers.
    fn of(stat: Result<Vec<u8>, Unread>, status: &str) -> Option<Self> {
        match stat {
            Ok(stat) => {
                let stat = stat::parse_stat(&String::from_utf8_lossy(&stat))?;
                let start_ns = stat.start_ns();
                let leaving = known(leaving(stat.flags));
                let Stat { comm, state, cpu, .. } = stat;
                Some(Self { comm, state, start_ns, leaving, cpu: Some(cpu) })
            }
            Err(Unread::Failed(_)) => None,
            Err(_) => {
                let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                let state = field("State:")?.chars().next()?;
                let comm = status.lines().find_map(|line| line.strip_prefix("Name:\t"))?.to_owned();
                Some(Self { comm, state, start_ns: 0, leaving: None, cpu: None })
            }
        }
    }
}

impl ProcLook<'_> {
    fn process(&mut self, pid: u32) -> Option<()> {
        let bare = by_pid(pid);
        let [stat, status] = self.reads.files(bare, ["stat", "status"]);
        let is_kernels = |stat: &Vec<u8>| {
            stat::parse_stat(&String::from_utf8_lossy(stat)).is_none_or(|stat| stat.is_kernel_thread())
        };
        if stat.as_ref().is_ok_and(is_kernels) {
            return None;
        }
        let leader = SeenThread::of(stat, &String::from_utf8_lossy(&status.ok()?))?;
        let process = ProcessId { pid, start_ns: leader.start_ns };
        let table = OnceCell::new();
        for tid in self.reads.numbers(bare, "task") {
            // The thread may be gone by now, or another user's.
            let _ = self.thread(process, tid, &table);
        }
        Some(())
    }

    fn thread(&mut self, process: ProcessId, tid: u32, table: &OnceCell<CallTable>) -> Option<()> {
        let bare = by_pid(process.pid);
        let dir = format!("task/{tid}");
        let [stat, status] = self.reads.files(bare, [&format!("{dir}/stat"), &format!("{dir}/status")]);
        let status = String::from_utf8_lossy(&status.ok()?).into_owned();
        let seen = SeenThread::of(stat, &status)?;
        let thread = ThreadId { process, tid, start_ns: seen.start_ns };
        let sleep = match seen.state {
            'S' => Sleep::Interruptible,
            // A sleep that does not count as load is one all the same: some kernels have the first process of a namespace wait
            // so, in its end, for the others.
            'D' | 'I' => Sleep::Uninterruptible,
            'T' | 't' => {
                let by = if seen.state == 'T' { Suspended::Stopped } else { Suspended::Traced };
                self.snapshot.suspended.push(SuspendedThread { thread, by, signal: None });
                return Some(());
            }
            _ => return None,
        };
        let call = match seen.leaving {
            Some(number) => {
                let syscall = bpf::syscall(CallTable::Native, number);
                Call { table: CallTable::Native, number: None, syscall, args: [0; 6], restarted: false }
            }
            None => self.call(thread, table)?,
        };
        let (uid, switches) = stat::status(&status)?;
        let now_ns = self.now.monotonic_ns;
        let began = match self.before.get(&thread) {
            Some(before) if before.switches == switches => *before,
            _ => {
                let age = self
                    .clocks
                    .as_mut()
                    .zip(seen.cpu)
                    .and_then(|(clocks, cpu)| clocks.since_last_ran(bare, tid, cpu, &mut self.reads));
                self.snapshot.dated &= age.is_some();
                Began { switches, at_ns: now_ns - age.map_or(0, |age| age.as_nanos() as u64).min(now_ns) }
            }
        };
        self.seen.insert(thread, began);
        let fd =
            call.syscall.fd().filter(|_| call.number.is_some()).map(|argument| call.args[argument] as i32);
        let (fd_state, socket) = match fd {
            Some(fd) => describe_with_peer(bare, tid, fd, self.sockets, &mut self.reads),
            None => (FdState::None, SocketFacts::None),
        };
        self.snapshot.waits.push(Wait {
            thread,
            comm: seen.comm.into(),
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
            cgroups: None,
            mount: None,
        });
        Some(())
    }

    /// The call a sleeping thread is in, by `syscall`, or as near as `wchan` gets.
    fn call(&mut self, thread: ThreadId, table: &OnceCell<CallTable>) -> Option<Call> {
        let bare = by_pid(thread.process.pid);
        let dir = format!("task/{}", thread.tid);
        let guessed = |syscall| {
            let table = CallTable::Native;
            Some(Call { table, number: None, syscall, args: [0; 6], restarted: false })
        };
        let text = match self.reads.file(bare, &format!("{dir}/syscall")) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(Unread::Failed(Errno::ACCESS | Errno::PERM)) => {
                let function = self.asleep_in(thread);
                let syscall = wchan::call(&function).unwrap_or(Syscall::Unknown);
                // Of others' processes not even that is shown; some kernels show nobody's.
                if matches!(function.as_str(), "" | "0") && !self.is_own(bare) {
                    self.snapshot.hidden.push(thread);
                    return None;
                }
                self.snapshot.guessed += 1;
                return guessed(syscall);
            }
            Err(Unread::Failed(_)) => return None,
            // The process hangs in what keeps its files from being read.
            Err(_) => {
                self.snapshot.guessed += 1;
                return guessed(Syscall::Unknown);
            }
        };
        let (number, args) = stat::call(&text)?;
        let mut read_table = || stat::table(&self.reads.file(bare, "auxv").unwrap_or_default());
        let table = *table.get_or_init(&mut read_table);
        let syscall = bpf::syscall(table, number);
        if syscall.operation() == Operation::Restart
            && let Some(syscall) = wchan::call(&self.asleep_in(thread))
        {
            return Some(Call { table, number: Some(number), syscall, args, restarted: true });
        }
        Some(Call { table, number: (number >= 0).then_some(number), syscall, args, restarted: false })
    }

    /// The kernel function that a thread sleeps in; empty where that is not shown.
    fn asleep_in(&mut self, thread: ThreadId) -> String {
        let name = format!("task/{}/wchan", thread.tid);
        self.reads.text(by_pid(thread.process.pid), &name).unwrap_or_default()
    }

    /// Whether a process is this one's user's.
    fn is_own(&mut self, process: ProcessId) -> bool {
        self.reads.what(process, "").is_ok_and(|dir| dir.uid == rustix::process::geteuid().as_raw())
    }
}

/// What an fd is, as the kernel's record would have it. Nothing is opened, and no file system that is far away is asked.
fn describe(
    process: ProcessId,
    tid: u32,
    fd: i32,
    sockets: &mut SocketTables,
    reads: &mut Reads,
) -> (FdState, SocketFacts) {
    let stat = match reads.what(process, &format!("task/{tid}/fd/{fd}")) {
        Ok(stat) => stat,
        Err(Unread::Failed(Errno::NOENT)) => return (FdState::Absent, SocketFacts::None),
        Err(_) => return (FdState::Unknown, SocketFacts::None),
    };
    let FileStat { inode, mode, dev, rdev, .. } = stat;
    let file = OpenFile { inode, device: Device(dev), mode, special: Device(rdev), socket: None };
    if file.kind() != FileKind::Socket {
        return (FdState::Open(file), SocketFacts::None);
    }
    match sockets.get(process, file.inode, reads) {
        Some(KnownSocket { open, facts }) => {
            (FdState::Open(OpenFile { socket: Some(*open), ..file }), facts.clone())
        }
        // Its number is all there is.
        None => (FdState::Unknown, SocketFacts::None),
    }
}

/// The same, with who made a unix socket's peer where that is the process itself, as of a pair it wakes itself up with:
/// who holds it now, since who made it is not shown.
fn describe_with_peer(
    process: ProcessId,
    tid: u32,
    fd: i32,
    sockets: &mut SocketTables,
    reads: &mut Reads,
) -> (FdState, SocketFacts) {
    let (state, mut socket) = describe(process, tid, fd, sockets, reads);
    if let SocketFacts::Unix(facts) = &mut socket
        && let Some(peer) = &facts.peer_inode
    {
        facts.peer_pid = sockets.holds(process, *peer, reads).then_some(process.pid);
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
        self.sockets = SocketTables::default();
        let mut reads = Reads::new();
        let pids = reads.processes().map_err(|unread| anyhow!("cannot read /proc: {unread}"))?;
        let sockets = &mut self.sockets;
        let mut look =
            ProcLook { now, before: &self.seen, seen: HashMap::new(), clocks, reads, sockets, snapshot };
        for pid in pids.into_iter().filter(|pid| !procfs::is_own(*pid)) {
            let _ = look.process(pid);
        }
        let ProcLook { seen, mut snapshot, .. } = look;
        self.seen = seen;
        snapshot.duration = begun.elapsed();
        Ok(snapshot)
    }

    fn look_up(&mut self, fds: &[(ThreadId, i32)]) -> Result<Vec<SeenFd>> {
        let (mut seen, mut reads) = (Vec::with_capacity(fds.len()), Reads::new());
        for (thread, fd) in fds {
            let (state, socket) =
                describe_with_peer(thread.process, thread.tid, *fd, &mut self.sockets, &mut reads);
            seen.push(SeenFd { thread: *thread, fd: *fd, state, socket, flow: None });
        }
        Ok(seen)
    }

    fn stacks(&mut self, sleepers: &[Sleeper]) -> Result<Stacks> {
        let mut reads = Reads::new();
        let mut stack = |sleeper: &Sleeper| {
            let ThreadId { process, tid, .. } = sleeper.thread;
            // The whole stack takes CAP_SYS_ADMIN; where it sleeps takes less.
            let text = match reads.text(process, &format!("task/{tid}/stack")) {
                Some(stack) => stack,
                None => reads.text(process, &format!("task/{tid}/wchan"))?,
            };
            let status = reads.text(process, &format!("task/{tid}/status"))?;
            let same = stat::status(&status).is_some_and(|(_, switches)| switches == sleeper.switches);
            same.then(|| (sleeper.thread, KernelStack::parse(&text)))
        };
        Ok(sleepers.iter().filter_map(&mut stack).collect())
    }

    /// `/proc` shows two of them: more than frames of the usual kind is not to be had.
    fn registers(&mut self, process: ProcessId, tids: &[u32]) -> Result<Vec<SleepRegisters>> {
        let mut reads = Reads::new();
        let mut of = |tid: &u32| {
            let status = reads.text(process, &format!("task/{tid}/status"))?;
            let (_, switches) = stat::status(&status)?;
            let call = reads.text(process, &format!("task/{tid}/syscall"))?;
            let (stack, program) = stat::pointers(&call)?;
            Some(SleepRegisters {
                tid: *tid,
                registers: UserRegisters::of_pointers(stack, program),
                switches,
            })
        };
        Ok(tids.iter().filter_map(&mut of).collect())
    }

    fn holders(&mut self, files: &[FileId], ends: &[ConnectionEnd]) -> Result<Option<Vec<Holder>>> {
        let files = files.iter().copied().map(Holding::File);
        let wanted: HashSet<Holding> = files.chain(ends.iter().copied().map(Holding::Connection)).collect();
        let (mut holders, mut reads) = (Vec::new(), Reads::new());
        for pid in reads.processes().unwrap_or_default() {
            let process = by_pid(pid);
            for fd in reads.numbers(process, "fd") {
                let (FdState::Open(file), socket) =
                    describe(process, pid, fd as i32, &mut self.sockets, &mut reads)
                else {
                    continue;
                };
                let netns = socket.tcp().and_then(|facts| facts.netns);
                let holding = Holding::of(&file, netns);
                if wanted.contains(&holding) {
                    holders.push(Holder {
                        pid,
                        fd: fd as i32,
                        access: access(process, fd, &mut reads),
                        holding,
                        inode: file.inode,
                        netns,
                        backlog: socket.backlog(),
                    });
                }
            }
        }
        Ok(Some(holders))
    }
}

/// How a file is open.
fn access(process: ProcessId, fd: u32, reads: &mut Reads) -> Access {
    let info = reads.text(process, &format!("fdinfo/{fd}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    match flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).map(|flags| flags & 3) {
        Some(0) => Access::READ,
        Some(1) => Access::WRITE,
        _ => Access::BOTH,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn it_sees_a_reader_and_leaves_its_own_process_out() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat");
        let mut source = Proc::new();
        let is_it = |wait: &Wait| wait.thread.process.pid == child.id() && wait.call.syscall == Syscall::Read;
        let seen = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            let waits = source.snapshot().expect("reads /proc").waits;
            assert!(waits.iter().all(|wait| wait.thread.process.pid != std::process::id()));
            waits.iter().any(is_it)
        });
        drop(child.stdin.take());
        child.wait().expect("ends");
        assert!(seen);
    }

    #[test]
    fn a_thread_whose_stat_hangs_is_seen_by_what_answers() {
        let status = "Name:\tsh\nUmask:\t0022\nState:\tD (disk sleep)\n";
        let seen = SeenThread::of(Err(Unread::Late), status).expect("it is there");
        assert_eq!((seen.comm.as_str(), seen.state, seen.start_ns), ("sh", 'D', 0));
        assert!(SeenThread::of(Err(Unread::Failed(Errno::SRCH)), status).is_none(), "it has gone");
    }
}
