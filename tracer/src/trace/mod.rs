//! Following processes: a line for each call that blocks, when it has become long and when it ends.
//!
//! Ends, with results, come from the kernel's programs at the entry and exit of calls; what has not ended yet is in a
//! snapshot a few times a second. Where the kernel takes no such programs, context switches tell ends without results.

pub mod line;
pub mod summary;

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::{self, BufWriter, Write},
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracer_ebpf::abi::{Counter, EndedCall, EndedWait};

use self::{
    line::{End, Line},
    summary::Summary,
};
use crate::{
    cli::{Probes, Trace},
    clock::Now,
    collect::{
        Source,
        bpf::{Bpf, text},
        stat,
    },
    export::json::{CallObject, WaitObject},
    human,
    kernel::{
        calls::{Calls, Mechanism},
        object::{Followed, Options},
    },
    resolve::{Resolver, target},
    verdict,
    wait::{ProcessId, SeenFd, ThreadId, Wait},
};

/// How often it is looked for calls that have not ended.
const LOOK: Duration = Duration::from_millis(250);
/// A call that has not ended is told when it is this old, or `--min` where that is longer.
const LONG: Duration = Duration::from_secs(1);

/// Where ends come from.
enum Ends {
    /// Entry and exit of calls.
    Calls(Box<Calls>),
    /// Context switches.
    Waits,
}

/// A run.
pub struct Tracer {
    bpf: Bpf,
    ends: Ends,
    min: Duration,
    json: bool,
    /// Processes that were asked for; empty: all.
    wanted: HashSet<u32>,
    /// Where the kernel's programs do not choose: whether processes descend from those, as far as looked at.
    family: HashMap<ProcessId, bool>,
    resolver: Resolver,
    /// Calls that were told to wait, by thread: its context switches then, which tell one sleep from the next.
    told: HashMap<ThreadId, u64>,
    summary: Summary,
    out: BufWriter<io::Stdout>,
    stop: OwnedFd,
}

impl Tracer {
    /// Attaches. Nothing is left behind, however it ends: the kernel detaches when the process goes.
    pub fn begin(args: &Trace) -> Result<Self> {
        // Before anything runs: a signal that comes now is read later.
        let stop = signals()?;
        let wanted = wanted(args)?;
        let mechanism = match args.probes {
            Probes::Fentry => Some(Mechanism::Fentry),
            Probes::Kprobe => Some(Mechanism::Kprobe),
            Probes::Tracepoint => Some(Mechanism::Tracepoint),
            Probes::Auto | Probes::Waits => None,
        };
        let (bpf, ends) = if args.probes == Probes::Waits {
            (load(args, true, None)?, Ends::Waits)
        } else {
            let followed = if wanted.is_empty() { Followed::All } else { Followed::Chosen };
            let mut bpf = load(args, false, Some(followed))?;
            match bpf.kernel.follow_calls(mechanism) {
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
            family: HashMap::new(),
            resolver: Resolver::new(),
            told: HashMap::new(),
            summary: Summary::default(),
            out: BufWriter::new(io::stdout()),
            stop,
        };
        if let Ends::Calls(calls) = &mut tracer.ends {
            for pid in &tracer.wanted {
                calls.follow(*pid)?;
            }
        }
        tracer.adopt()?;
        let how = match &tracer.ends {
            Ends::Calls(calls) => calls.mechanism.label(),
            Ends::Waits => "waits",
        };
        let whom = match tracer.wanted.len() {
            0 => "every process".to_owned(),
            number => human::count(number, "process").replace("processs", "processes"),
        };
        human::say(&format!("following {whom} by {how}; Ctrl-C ends it"));
        Ok(tracer)
    }

    /// Calls that were under way when it attached end with their true length.
    fn adopt(&mut self) -> Result<()> {
        let snapshot = self.bpf.snapshot()?;
        if let Ends::Calls(calls) = &mut self.ends {
            for wait in &snapshot.waits {
                let pid = wait.thread.process.pid;
                if self.wanted.is_empty() || self.wanted.contains(&pid) {
                    calls.began(wait.thread.tid, wait.began_ns);
                }
            }
        }
        Ok(())
    }

    /// Runs until a signal comes, or until all processes that were asked for have ended.
    pub fn run(mut self) -> Result<()> {
        let mut next = Instant::now();
        loop {
            if next <= Instant::now() {
                self.take_ends()?;
                self.look(false)?;
                next = Instant::now() + LOOK;
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
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(!fds[0].revents().is_empty()),
            Err(error) => Err(error).context("cannot wait for calls to end"),
        }
    }

    /// Prints the calls that have ended.
    fn take_ends(&mut self) -> Result<()> {
        let mut ended: Vec<(EndedWait, End)> = Vec::new();
        loop {
            let (call, end) = match &mut self.ends {
                Ends::Calls(calls) => match calls.next() {
                    Some(EndedCall { call, result }) => (call, End::Returned(result)),
                    None => break,
                },
                Ends::Waits => match self.bpf.kernel.next_ended() {
                    Some(call) => (call, End::Unseen),
                    None => break,
                },
            };
            let process = ProcessId { pid: call.key.tgid, start_ns: call.key.process_start_ns };
            if process.pid != std::process::id()
                && self.has_chosen(process)
                && call.duration_ns >= self.min.as_nanos() as u64
            {
                self.told.retain(|thread, _| thread.tid != call.tid);
                ended.push((call, end));
            }
        }
        for (call, end) in &ended {
            let line = self.ended(call, *end);
            self.summary.add(&line);
            if !self.json {
                self.print(&line)?;
            }
        }
        if self.json && !ended.is_empty() {
            self.print_objects(&ended)?;
        }
        self.out.flush()?;
        Ok(())
    }

    /// Prints calls that have ended for programs: with what their connections look like now.
    fn print_objects(&mut self, ended: &[(EndedWait, End)]) -> Result<()> {
        let mut waits: Vec<Wait> = ended.iter().map(|(call, _)| self.bpf.ended_wait(call)).collect();
        let asked: Vec<(ThreadId, i32)> =
            waits.iter().filter_map(|wait| Some((wait.thread, wait.fd?))).collect();
        let seen = self.bpf.look_up(&asked)?;
        for (wait, (_, end)) in waits.iter_mut().zip(ended) {
            // The fd may be another file by now.
            let own = |seen: &&SeenFd| {
                (seen.thread, Some(seen.fd)) == (wait.thread, wait.fd)
                    && seen.state.inode() == wait.fd_state.inode()
            };
            if let Some(seen) = seen.iter().find(own) {
                wait.socket = seen.socket.clone();
            }
            let resolved = self.resolver.resolve_ended(wait);
            let verdict = verdict::judge(wait, &resolved);
            let who = self.resolver.who(wait.thread.process);
            let result = if let End::Returned(result) = end { Some(*result) } else { None };
            let wait = WaitObject::new(wait, &resolved, &verdict, &who);
            let object = CallObject::ended(wait, who.uid, result, result.and_then(line::error));
            writeln!(self.out, "{}", serde_json::to_string(&object)?)?;
        }
        Ok(())
    }

    /// Whether the end of a call of this process is wanted.
    fn has_chosen(&mut self, process: ProcessId) -> bool {
        // The kernel's programs have chosen.
        matches!(self.ends, Ends::Calls(_)) || self.follows(process)
    }

    fn ended(&mut self, call: &EndedWait, end: End) -> Line {
        let fd = (call.key.fd >= 0).then_some(call.key.fd);
        let target =
            fd.map(|fd| target::brief(call.key.tgid, call.tid, fd, &call.key.file)).unwrap_or_default();
        let now = Now::read();
        Line {
            at: now.wall_at(call.began_ns + call.duration_ns),
            comm: text(&call.comm),
            pid: call.key.tgid,
            tid: call.tid,
            syscall: self.bpf.ended_name(&call.key),
            fd,
            target,
            lasted: Duration::from_nanos(call.duration_ns),
            end,
        }
    }

    /// Prints the calls that have been waiting for long and were not told yet; at the end of the run, all.
    fn look(&mut self, last: bool) -> Result<()> {
        let snapshot = self.bpf.snapshot()?;
        let long = if last { self.min } else { self.min.max(LONG) };
        // Also the young: who they are must be known before they end.
        let mut waits: Vec<&Wait> =
            snapshot.waits.iter().filter(|wait| self.follows(wait.thread.process)).collect();
        waits.retain(|wait| wait.asleep() >= long);
        waits.retain(|wait| last || self.told.get(&wait.thread) != Some(&wait.switches));
        let alive: HashSet<ThreadId> = snapshot.waits.iter().map(|wait| wait.thread).collect();
        self.told.retain(|thread, _| alive.contains(thread));
        let processes: HashSet<ProcessId> = alive.iter().map(|thread| thread.process).collect();
        self.family.retain(|process, _| processes.contains(process));
        self.resolver.retain(|process| processes.contains(process));
        let at = Now::read().wall;
        let resolved = self.resolver.resolve(&waits, &mut self.bpf)?;
        for (wait, resolved) in waits.into_iter().zip(resolved) {
            self.told.insert(wait.thread, wait.switches);
            if self.json {
                let (verdict, who) =
                    (verdict::judge(wait, &resolved), self.resolver.who(wait.thread.process));
                let object = CallObject::waiting(WaitObject::new(wait, &resolved, &verdict, &who));
                writeln!(self.out, "{}", serde_json::to_string(&object)?)?;
                continue;
            }
            let line = Line {
                at,
                comm: wait.comm.clone(),
                pid: wait.thread.process.pid,
                tid: wait.thread.tid,
                syscall: wait.call.name,
                fd: resolved.fd,
                target: resolved.target.to_string(),
                lasted: wait.asleep(),
                end: End::Waits,
            };
            self.print(&line)?;
            if last {
                self.summary.add(&line);
            }
        }
        self.out.flush()?;
        Ok(())
    }

    /// Whether a process is one of those asked for, or descends from one.
    fn follows(&mut self, process: ProcessId) -> bool {
        if self.wanted.is_empty() || self.wanted.contains(&process.pid) {
            return true;
        }
        match &self.ends {
            Ends::Calls(calls) => calls.follows(process.pid),
            Ends::Waits => {
                let (wanted, resolver) = (&self.wanted, &mut self.resolver);
                *self.family.entry(process).or_insert_with(|| {
                    resolver.who(process).parents.iter().any(|parent| wanted.contains(&parent.pid))
                })
            }
        }
    }

    fn somebody_lives(&self) -> bool {
        // A zombie makes no calls any more.
        let lives = |pid: &u32| {
            stat::stat(format!("/proc/{pid}")).is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
        };
        self.wanted.iter().any(lives)
    }

    fn print(&mut self, line: &Line) -> Result<()> {
        writeln!(self.out, "{}", line.text())?;
        Ok(())
    }

    /// Says what was not seen, if anything was.
    fn say_losses(&self) -> Result<()> {
        let mut losses = vec![(self.bpf.kernel.skipped(), "runs_skipped")];
        for (counter, reason) in Counter::LOSSES {
            losses.push((self.bpf.kernel.counter(counter)?, reason));
        }
        for (number, reason) in losses {
            if number > 0 {
                human::say(&format!("{} lost: {reason}", human::count(number as usize, "record")));
            }
        }
        Ok(())
    }
}

fn load(args: &Trace, waits: bool, calls: Option<Followed>) -> Result<Bpf> {
    Bpf::load(Options { waits, min_wait: args.min, report: args.min, calls, verbose: false })
}

/// The processes asked for.
fn wanted(args: &Trace) -> Result<HashSet<u32>> {
    let mut wanted = HashSet::new();
    for pid in &args.pid {
        let status = stat::read(format!("/proc/{pid}/status"));
        let status = status.with_context(|| format!("there is no process {pid}"))?;
        let tgid = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
        wanted.insert(tgid.unwrap_or(*pid));
    }
    if let Some(comm) = &args.comm {
        let named = |pid: &u32| {
            fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_ascii_end() == comm.as_bytes())
        };
        let pids = fs::read_dir("/proc").context("cannot read /proc")?.flatten();
        wanted.extend(pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(named));
        ensure!(!wanted.is_empty(), "there is no process named {}", human::clean(comm));
    }
    Ok(wanted)
}

/// An fd that becomes readable when SIGINT or SIGTERM comes, which then end nothing by themselves.
fn signals() -> Result<OwnedFd> {
    // SAFETY: the set is initialised before it is used, and outlives the calls.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC);
        ensure!(fd >= 0, "cannot make a signalfd: {}", io::Error::last_os_error());
        Ok(OwnedFd::from_raw_fd(fd))
    }
}
