//! Following processes and threads: a line for each call that blocks, when it has become long and when it ends.
//!
//! Ends, with results, come from the kernel's programs at the entry and exit of calls; what has not ended yet is in a
//! snapshot a few times a second. Where the kernel takes no such programs, context switches tell ends without results.
//!
//! Layer 6: uses everything below the commands.

pub mod command;
pub mod family;
pub mod line;
pub mod pointed;
pub mod reported;
pub mod summary;
pub mod wanted;

use std::{
    collections::{HashMap, HashSet},
    io::{self, BufWriter, Write},
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec};

use self::{
    family::Descendants,
    line::{CallLine, End},
    reported::{Next, ReportedWait, Seen},
    summary::Summary,
    wanted::Selection,
};
use crate::{
    collect::{
        Source,
        bpf::Bpf,
        ended::ReturnedCall,
        losses::{self, Loss},
    },
    config::cli::{Probes, Trace},
    diagnose::verdict,
    kernel::{
        calls::{Calls, FollowedId},
        object::{Followed, Options},
        probes::Mechanism,
    },
    model::file::OpenFile,
    model::syscalls::Operation,
    model::target::Target,
    model::wait::{FdState, ProcessId, SeenFd, ThreadId, Wait},
    procfs::Reads,
    resolve::{Resolved, Resolver, poll::Set, target},
    util::clock::Now,
    util::human,
    util::output::Output,
    wire::json::{CallObject, WaitObject},
    wire::lines,
};

/// How often it is looked for calls that have not ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Where ends come from.
enum Ends {
    /// Entry and exit of calls.
    Calls(Box<Calls>),
    /// Context switches.
    Waits,
}

/// A call that has ended.
struct EndedCall {
    wait: Wait,
    /// The fds of its poll.
    set: Option<Set>,
    /// What it waited on, where a look has seen it: what its arguments point to cannot be read any more.
    resolved: Option<Resolved>,
    end: End,
}

impl EndedCall {
    /// One whose end nobody has seen: it lasted at least until it was seen last.
    fn gone(reported: ReportedWait) -> Self {
        let wait = Wait { exact: false, ..reported.wait };
        Self { wait, set: None, resolved: Some(reported.resolved), end: End::Gone }
    }
}

/// A run.
pub struct Tracer {
    bpf: Bpf,
    ends: Ends,
    min: Duration,
    json: bool,
    wanted: Selection,
    /// Where the kernel's programs do not choose: whether processes descend from those, as far as looked at.
    family: Descendants,
    /// Those of them that had ended at the last look.
    gone: Vec<ProcessId>,
    /// Where they do: threads that had ended at the last look, of which they did not know.
    missed: HashSet<FollowedId>,
    resolver: Resolver,
    /// Calls that were reported to wait, by thread.
    reported: HashMap<ThreadId, ReportedWait>,
    /// When ends were taken last: all that had been seen by then.
    taken: Instant,
    summary: Summary,
    out: BufWriter<Output>,
    stop: OwnedFd,
}

impl Tracer {
    /// Attaches, to follow what was asked for or a command that was started, and to print to this. Nothing is left behind, however it ends: the kernel detaches when the
    /// process goes.
    pub fn begin(args: &Trace, started: Option<u32>, out: BufWriter<Output>) -> Result<Self> {
        // Before anything runs: a signal that comes now is read later.
        let stop = signals()?;
        let wanted = Selection::find(args, started)?;
        let mechanism = match args.probes {
            Probes::Fentry => Some(Mechanism::Fentry),
            Probes::Kprobe => Some(Mechanism::Kprobe),
            Probes::Tracepoint => Some(Mechanism::Tracepoint),
            Probes::Auto | Probes::Waits => None,
        };
        let (bpf, ends) = if args.probes == Probes::Waits {
            (load(args, true, None)?, Ends::Waits)
        } else {
            let followed = match (wanted.is_empty(), wanted.threads.is_empty()) {
                (true, _) => Followed::All,
                (_, true) => Followed::Chosen,
                (_, false) => Followed::Threads,
            };
            let mut bpf = load(args, false, Some(followed))?;
            match bpf.kernel.follow_calls(followed, mechanism) {
                Ok(calls) => (bpf, Ends::Calls(Box::new(calls))),
                Err(error) if args.probes == Probes::Auto => {
                    human::say(&format!("results will be missing: {error:#}"));
                    drop(bpf);
                    (load(args, true, None)?, Ends::Waits)
                }
                Err(error) => return Err(error),
            }
        };
        let mut tracer = Self {
            bpf,
            ends,
            min: args.min,
            json: args.json,
            wanted,
            family: Descendants::default(),
            gone: Vec::new(),
            missed: HashSet::new(),
            resolver: Resolver::new(),
            reported: HashMap::new(),
            taken: Instant::now(),
            summary: Summary::default(),
            out,
            stop,
        };
        tracer.follow_all()?;
        tracer.adopt()?;
        let how = match &tracer.ends {
            Ends::Calls(calls) => calls.mechanism.label(),
            Ends::Waits => "waits",
        };
        human::say(&format!("following {} by {how}; press Ctrl-C to stop", tracer.wanted.label()));
        Ok(tracer)
    }

    /// Tells the kernel's programs whom to follow: those asked for and the processes that descend from them. What one
    /// starts that is followed already, they follow themselves.
    fn follow_all(&mut self) -> Result<()> {
        let Ends::Calls(calls) = &mut self.ends else { return Ok(()) };
        for tid in self.wanted.threads.keys() {
            calls.follow_thread(*tid)?;
        }
        let mut new = self.wanted.roots();
        let mut followed = HashSet::new();
        // A child may be started while they are looked for, by one that is not followed yet.
        while !new.is_empty() {
            for pid in &new {
                calls.follow(*pid)?;
            }
            followed.extend(new);
            let roots = self.wanted.roots();
            new = family::descendants(&roots);
            new.extend(roots);
            new.retain(|pid| !followed.contains(pid));
        }
        Ok(())
    }

    /// Calls that were under way when it attached end with their true length.
    fn adopt(&mut self) -> Result<()> {
        let snapshot = self.bpf.snapshot()?;
        for wait in &snapshot.waits {
            if self.follows(wait.thread)
                && let Ends::Calls(calls) = &mut self.ends
            {
                calls.began(wait.thread.tid, wait.began_ns);
            }
        }
        Ok(())
    }

    /// Runs until a signal comes, or until all that were asked for have ended.
    pub fn run(mut self) -> Result<()> {
        let mut next = Instant::now();
        loop {
            if next <= Instant::now() {
                self.take_ends()?;
                self.look(false)?;
                next = Instant::now() + LOOK_INTERVAL;
                if !self.wanted.is_empty() && !self.somebody_lives() {
                    break;
                }
            }
            if self.sleep(next.saturating_duration_since(Instant::now()))? {
                break;
            }
            self.take_ends()?;
        }
        self.take_ends()?;
        self.look(true)?;
        let table = self.summary.table();
        if !self.json && !table.is_empty() {
            write!(self.out, "\n{table}")?;
        }
        self.out.flush()?;
        self.say_losses()
    }

    /// Waits for a call to end, at most so long. True: it is to stop.
    fn sleep(&self, left: Duration) -> Result<bool> {
        let ring = match &self.ends {
            Ends::Calls(calls) => calls.fd(),
            Ends::Waits => self.bpf.kernel.ended_fd(),
        };
        // SAFETY: the ring belongs to self and stays open for the call.
        let ring = unsafe { BorrowedFd::borrow_raw(ring) };
        let mut fds = [
            PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(ring, PollFlags::IN),
        ];
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {
                let is_told = !fds[0].revents().is_empty();
                if is_told {
                    // Or it would end the process once it may.
                    let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
                    let _ = rustix::io::read(&self.stop, &mut info[..]);
                }
                Ok(is_told)
            }
            Err(error) => Err(error).context("cannot wait for calls to end"),
        }
    }

    /// Prints the calls that have ended.
    fn take_ends(&mut self) -> Result<()> {
        self.taken = Instant::now();
        let mut ended: Vec<EndedCall> = Vec::new();
        loop {
            let (mut wait, returned) = match &mut self.ends {
                Ends::Calls(calls) => match calls.next() {
                    Some(call) => {
                        let ReturnedCall { wait, result, pointed } = self.bpf.returned_call(&call);
                        (wait, Some((result, pointed)))
                    }
                    None => break,
                },
                Ends::Waits => match self.bpf.kernel.next_ended() {
                    Some(call) => (self.bpf.ended_wait(&call), None),
                    None => break,
                },
            };
            if wait.thread.process.pid == std::process::id()
                || !self.has_chosen(wait.thread)
                || wait.age < self.min
            {
                continue;
            }
            let over_ns = wait.began_ns + wait.age.as_nanos() as u64;
            let reported = match self.reported.remove(&wait.thread) {
                // A look has seen the next already.
                Some(later) if later.wait.sleep_began_ns > over_ns => {
                    self.reported.insert(wait.thread, later);
                    None
                }
                // Not by when its sleep began: where that was not seen, it may seem to be before the call did. One that was
                // seen in its first moment may seem to have been seen before it.
                Some(before) if before.wait.seen_ns() < wait.began_ns && !before.wait.age.is_zero() => {
                    ended.push(EndedCall::gone(before));
                    None
                }
                reported => reported,
            };
            let pointed = returned.as_ref().map_or(&[][..], |(_, pointed)| pointed);
            let set = pointed::polled(&wait.call, pointed);
            restore_peer(&mut wait, pointed, reported.as_ref());
            let in_set = wait.call.watches_fds();
            let resolved = reported.filter(|_| in_set).map(|reported| reported.resolved);
            let end = returned.map_or(End::Unseen, |(result, _)| End::Returned(result));
            ended.push(EndedCall { wait, set, resolved, end });
        }
        self.print_ended(ended)
    }

    /// Prints calls that have ended; for programs with what their connections look like now.
    fn print_ended(&mut self, mut ended: Vec<EndedCall>) -> Result<()> {
        if ended.is_empty() {
            return Ok(());
        }
        if self.json {
            let asked: Vec<(ThreadId, i32)> =
                ended.iter().filter_map(|call| Some((call.wait.thread, call.wait.fd?))).collect();
            let seen: HashMap<_, SeenFd> = self
                .bpf
                .look_up(&asked)?
                .into_iter()
                .map(|seen| ((seen.thread, Some(seen.fd)), seen))
                .collect();
            for EndedCall { wait, .. } in &mut ended {
                // The fd may be another file by now.
                if let Some(seen) = seen.get(&(wait.thread, wait.fd))
                    && seen.state.inode() == wait.fd_state.inode()
                {
                    wait.socket = seen.socket.clone();
                }
            }
        }
        let sets = ended.iter_mut().map(|call| call.set.take()).collect();
        let waits: Vec<&Wait> = ended.iter().map(|call| &call.wait).collect();
        let resolved = self.resolver.resolve_ended(&waits, sets, &mut self.bpf)?;
        for (EndedCall { wait, resolved: seen, end, .. }, resolved) in ended.into_iter().zip(resolved) {
            let resolved = seen.unwrap_or(resolved);
            let at = Now::read().wall_at(wait.began_ns + wait.age.as_nanos() as u64);
            let line = line(&wait, &resolved, at, end);
            self.summary.add(&line);
            if self.json {
                let verdict = verdict::judge(&wait, &resolved);
                let who = self.resolver.who(wait.thread.process);
                let result = if let End::Returned(result) = end { Some(result) } else { None };
                let wait = WaitObject::new(&wait, &resolved, &verdict, &who);
                let object = CallObject::ended(wait, who.uid, result, result.and_then(line::error));
                lines::write(&mut self.out, &object)?;
            } else {
                self.print(&line)?;
            }
        }
        self.out.flush()?;
        Ok(())
    }

    /// Whether the end of a call of this thread is wanted.
    fn has_chosen(&mut self, thread: ThreadId) -> bool {
        // The kernel's programs have chosen.
        matches!(self.ends, Ends::Calls(_)) || self.follows(thread)
    }

    /// Prints the calls that have been waiting for `--min` and were not reported yet; at the end of the run, all.
    fn look(&mut self, last: bool) -> Result<()> {
        let snapshot = self.bpf.snapshot()?;
        // Also the young: who they are must be known before they end.
        let mut waits: Vec<&Wait> = snapshot.waits.iter().filter(|wait| self.follows(wait.thread)).collect();
        let waiting: HashMap<ThreadId, &Wait> = waits.iter().map(|wait| (wait.thread, *wait)).collect();
        self.end_unseen(&waiting, last)?;
        waits.retain(|wait| wait.asleep() >= self.min);
        for wait in &waits {
            if let Some(reported) = self.reported.get_mut(&wait.thread)
                && reported.wait.switches == wait.switches
            {
                reported.wait.age = wait.age;
            }
        }
        let is_reported = |wait: &Wait| {
            self.reported.get(&wait.thread).is_some_and(|reported| reported.wait.switches == wait.switches)
        };
        waits.retain(|wait| last || !is_reported(wait));
        let processes: HashSet<ProcessId> = waiting.keys().map(|thread| thread.process).collect();
        // What they have ended is in the ring, and was taken since the last look.
        for process in std::mem::take(&mut self.gone) {
            self.family.remove(&process);
        }
        let lives = |process: &ProcessId, member: bool| {
            processes.contains(process) || member && family::is_alive(*process)
        };
        let gone = self.family.all().filter(|(process, member)| !lives(process, *member));
        self.gone = gone.map(|(process, _)| *process).collect();
        self.resolver.retain(|process| processes.contains(process) || self.family.get(process).is_some());
        let at = Now::read().wall;
        let resolved = self.resolver.resolve(&waits, &mut self.bpf)?;
        for (wait, resolved) in waits.into_iter().zip(resolved) {
            let line = line(wait, &resolved, at, End::Waits);
            if self.json {
                let (verdict, who) =
                    (verdict::judge(wait, &resolved), self.resolver.who(wait.thread.process));
                let object = CallObject::waiting(WaitObject::new(wait, &resolved, &verdict, &who));
                lines::write(&mut self.out, &object)?;
            } else {
                self.print(&line)?;
            }
            if last {
                self.summary.add(&line);
            }
            self.reported.insert(wait.thread, ReportedWait { wait: wait.clone(), resolved, missed: false });
        }
        self.out.flush()?;
        Ok(())
    }

    /// Prints what has ended and was not seen to; forgets what will not be.
    fn end_unseen(&mut self, waiting: &HashMap<ThreadId, &Wait>, last: bool) -> Result<()> {
        let by_calls = matches!(self.ends, Ends::Calls(_));
        let ends = reported::EndReports { by_calls, taken: self.taken.elapsed(), last };
        let seen = |thread: &ThreadId| match waiting.get(thread) {
            Some(wait) => Seen::Asleep(wait),
            None if Reads::new().thread_lives(thread) => Seen::Awake,
            None => Seen::Gone,
        };
        let mut ended = Vec::new();
        let left = std::mem::take(&mut self.reported).into_iter().filter_map(|(thread, mut reported)| {
            match reported.next(seen(&thread), ends) {
                Next::Keep => return Some((thread, reported)),
                Next::End => ended.push(EndedCall::gone(reported)),
                Next::Forget => {}
            }
            None
        });
        self.reported = left.collect();
        self.print_ended(ended)
    }

    /// Whether a thread is one of those asked for, or its process one of those or descends from one.
    fn follows(&mut self, thread: ThreadId) -> bool {
        if self.wanted.is_empty() || self.wanted.has(thread) {
            return true;
        }
        let process = thread.process;
        match &self.ends {
            Ends::Calls(calls) => calls.follows(process.pid, thread.tid),
            Ends::Waits => {
                if let Some(member) = self.family.get(&process) {
                    return member;
                }
                let member = self.descends(process);
                self.family.insert(process, member);
                member
            }
        }
    }

    /// Whether a process descends from what was asked for, by its parents as they are now.
    fn descends(&mut self, process: ProcessId) -> bool {
        // A parent may have been seen to be one before its own parent ended.
        let is_member = |pid: u32| self.wanted.processes.contains(&pid) || self.family.has(pid);
        let mut child = process.pid;
        self.resolver.who(process).parents.iter().any(|parent| {
            let started = std::mem::replace(&mut child, parent.pid);
            is_member(parent.pid) || self.wanted.has_started(started, parent.pid)
        })
    }

    /// Whether there is still anybody to follow.
    fn somebody_lives(&mut self) -> bool {
        let thread_lives = |tid: u32| self.wanted.threads.get(&tid).is_some_and(|thread| thread.lives(tid));
        match &mut self.ends {
            Ends::Calls(calls) => {
                let followed = calls.followed();
                let lives = |id: &FollowedId| match *id {
                    FollowedId::Process(pid) => family::lives(pid),
                    FollowedId::Thread(tid) => thread_lives(tid),
                };
                let (living, gone): (Vec<FollowedId>, Vec<FollowedId>) =
                    followed.into_iter().partition(lives);
                // They ended before they were followed. A thread without its id may also be about to run another program,
                // which the kernel's programs see only when it does.
                let about_to =
                    |id: &FollowedId| matches!(id, FollowedId::Thread(_)) && !self.missed.contains(id);
                let (missed, ended): (HashSet<FollowedId>, HashSet<FollowedId>) =
                    gone.into_iter().partition(about_to);
                ended.into_iter().for_each(|id| calls.forget(id));
                self.missed = missed;
                !living.is_empty() || !self.missed.is_empty()
            }
            Ends::Waits => {
                let mut members = self.family.all().filter(|(_, member)| *member);
                self.wanted.processes.iter().copied().any(family::lives)
                    || self.wanted.threads.keys().copied().any(thread_lives)
                    || members.any(|(process, _)| family::is_alive(*process))
            }
        }
    }

    fn print(&mut self, line: &CallLine) -> Result<()> {
        writeln!(self.out, "{}", line.text())?;
        Ok(())
    }

    /// Says what was not seen, if anything was.
    fn say_losses(&self) -> Result<()> {
        let mut lost = vec![(Loss::RunsSkipped, self.bpf.kernel.skipped())];
        lost.extend(losses::of_programs(&self.bpf.kernel)?);
        for (loss, number) in lost {
            if number > 0 {
                human::say(&loss.sentence(number));
            }
        }
        Ok(())
    }
}

/// A call as it is printed.
fn line(wait: &Wait, resolved: &Resolved, at: Timestamp, end: End) -> CallLine {
    let lookups = [Target::Gone, Target::Reused];
    // It was something when the call began, which the kernel has seen; what it is now says nothing of it.
    let unnamed = lookups.contains(&resolved.target) || matches!(resolved.target, Target::Unreadable { .. });
    let (target, peer) = match (end, unnamed, target::kind_of(&wait.fd_state)) {
        (End::Waits, ..) | (_, false, _) => (resolved.target.to_string(), peer(&resolved.target)),
        (_, true, "none") => (String::new(), String::new()),
        (_, true, kind) => (kind.to_owned(), kind.to_owned()),
    };
    CallLine {
        at,
        comm: wait.comm.to_string(),
        pid: wait.thread.process.pid,
        tid: wait.thread.tid,
        syscall: wait.call.name(),
        fd: resolved.fd,
        target,
        peer,
        lasted: if end == End::Waits { wait.asleep() } else { wait.age },
        end,
    }
}

/// What is the same for all connections to one peer, and for all locks of a program.
fn peer(target: &Target) -> String {
    match target {
        Target::Tcp { remote, .. } if remote.port() != 0 => format!("tcp → {remote}"),
        Target::Udp { remote: Some(remote), .. } => format!("udp → {remote}"),
        Target::Futex { .. } => String::new(),
        other => other.to_string(),
    }
}

/// The kernel takes the addresses of a connection back that could not be made.
fn restore_peer(wait: &mut Wait, pointed: &[u8], reported: Option<&ReportedWait>) {
    let FdState::Open(OpenFile { socket: Some(socket), .. }) = &mut wait.fd_state else { return };
    let Some(addresses) = socket.addresses_mut().filter(|_| wait.call.operation() == Operation::Connect)
    else {
        return;
    };
    if addresses.remote.port == 0
        && let Some(remote) = pointed::connected(pointed)
    {
        addresses.remote = remote;
    }
    let seen = reported.and_then(|reported| reported.wait.fd_state.file()?.socket?.addresses());
    if let Some(seen) = seen.filter(|_| addresses.local.port == 0) {
        *addresses = seen;
    }
}

fn load(args: &Trace, waits: bool, calls: Option<Followed>) -> Result<Bpf> {
    Bpf::load(Options {
        snapshot: true,
        waits,
        min_wait: args.min,
        report: args.min,
        calls,
        answers: false,
        verbose: false,
    })
}

/// The signals that stop a run.
fn stopping() -> libc::sigset_t {
    // SAFETY: the set is made empty before anything is added, and valid signals are.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        set
    }
}

/// From now on they end the process again.
pub fn end_by_signals() {
    let set = stopping();
    // SAFETY: the set outlives the call.
    unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) };
}

/// An fd that becomes readable when SIGINT or SIGTERM comes, which then end nothing by themselves.
fn signals() -> Result<OwnedFd> {
    let set = stopping();
    // SAFETY: the set outlives the calls.
    unsafe {
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC);
        ensure!(fd >= 0, "cannot make a signalfd: {}", io::Error::last_os_error());
        Ok(OwnedFd::from_raw_fd(fd))
    }
}
