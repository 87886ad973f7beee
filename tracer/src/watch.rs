//! The agent's loop: a snapshot an interval and ended waits as they come, turned into stalls and numbers.
//!
//! It runs on a thread of its own, so that whatever it waits for never holds up HTTP or signals.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use hashbrown::{HashMap, HashSet};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracer_ebpf::abi::{CALL_COMPAT, Counter, Histogram, WaitKey};

use crate::{
    cli::Agent,
    clock::monotonic_ns,
    collect::{
        Source,
        bpf::{Bpf, call_name, text},
    },
    export::{
        events::Events,
        http::Health,
        metrics::{BlockedKey, DurationKey, Metrics, StallSeries, State},
    },
    kernel::log::KernelLog,
    resolve::{
        Resolver,
        target::{kind_of, kind_of_file},
    },
    stall::{Absent, Closed, Policy, Stall, Stalls},
    syscalls::Table,
    verdict::{self, Class},
    wait::{ProcessId, Snapshot, ThreadId, Wait},
};

/// A wait younger than this is classed by what the kernel's record says alone, which is a matter of nanoseconds.
const LOOK_UP_AFTER: Duration = Duration::from_secs(1);

/// Everything the loop owns.
pub struct Watch {
    bpf: Bpf,
    log: Option<KernelLog>,
    policy: Policy,
    interval: Duration,
    resolver: Resolver,
    stalls: Stalls,
    /// Class of each wait that was looked up, with the start of its sleep.
    classes: HashMap<ThreadId, (u64, Class)>,
    /// Names of processes, for labels.
    names: HashMap<ProcessId, String>,
    events: Events,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    stop: OwnedFd,
}

impl Watch {
    /// A loop that has seen nothing yet; it ends when `stop` becomes readable.
    pub fn new(
        mut bpf: Bpf,
        policy: Policy,
        args: &Agent,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
        stop: OwnedFd,
    ) -> Result<Self> {
        metrics.lock().probes = vec![("snapshot", "iter"), ("waits", "tp_btf"), ("newtask", "tp_btf")];
        let log = args.verbose.then(|| bpf.kernel.log()).transpose()?;
        Ok(Self {
            bpf,
            log,
            policy,
            interval: args.interval,
            resolver: Resolver::new(),
            stalls: Stalls::default(),
            classes: HashMap::new(),
            names: HashMap::new(),
            events: Events::start()?,
            metrics,
            health,
            stop,
        })
    }

    /// Runs until told to stop.
    pub fn run(mut self) -> Result<()> {
        let mut next = Instant::now();
        loop {
            self.tick()?;
            next += self.interval;
            // After a pause (the machine was suspended, the agent stopped) there is nothing to catch up with.
            next = next.max(Instant::now());
            loop {
                let left = next.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                match self.sleep(left)? {
                    Woken::Stop => return Ok(()),
                    Woken::Ended => self.take_ended(),
                    Woken::Time => {}
                }
            }
        }
    }

    fn sleep(&self, left: Duration) -> Result<Woken> {
        // SAFETY: the ring belongs to self.bpf and stays open for the call.
        let ring = unsafe { BorrowedFd::borrow_raw(self.bpf.kernel.ended_fd()) };
        let mut fds = [
            PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(ring, PollFlags::IN),
        ];
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for ended waits"),
        }
        Ok(if !fds[0].revents().is_empty() {
            Woken::Stop
        } else if !fds[1].revents().is_empty() {
            Woken::Ended
        } else {
            Woken::Time
        })
    }

    /// Long waits that have ended: they close stalls with their true length.
    fn take_ended(&mut self) {
        while let Some(event) = self.bpf.kernel.next_ended() {
            if let Some(closed) = self.stalls.ended(&event) {
                self.close(&closed);
            }
        }
    }

    fn close(&mut self, closed: &Closed) {
        self.events.closed(closed);
        let mut state = self.metrics.lock();
        show_stalls(&mut state, &self.stalls);
    }

    fn tick(&mut self) -> Result<()> {
        // Before the snapshot: a wait that ends in between is then missing for one interval, where the other order
        // would count it twice, as open and as ended.
        let mut ended: Vec<(WaitKey, Histogram)> = Vec::new();
        self.bpf.kernel.drain(|key, histogram| ended.push((key, histogram)))?;
        let snapshot = self.bpf.snapshot()?;
        if let Some(log) = &mut self.log {
            log.flush();
        }
        // What ended before the snapshot must be known before it is judged.
        self.take_ended();
        self.review(&snapshot);
        self.classify_new(&snapshot)?;
        self.open_new(&snapshot)?;
        self.account(&snapshot, &ended)?;
        self.health.last_snapshot_ns.store(monotonic_ns(), Ordering::Relaxed);
        self.health.ready.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn review(&mut self, snapshot: &Snapshot) {
        let open: HashSet<ThreadId> = self.stalls.open().map(|stall| stall.wait.thread).collect();
        if open.is_empty() {
            return;
        }
        let waits = snapshot
            .waits
            .iter()
            .filter(|wait| open.contains(&wait.thread))
            .map(|wait| (wait.thread, wait))
            .collect();
        let held: HashSet<ThreadId> = snapshot.held.iter().map(|held| held.thread).collect();
        let closed = self.stalls.review(&waits, snapshot.monotonic_ns, |thread| {
            if held.contains(thread) {
                Absent::Held
            } else if lives(thread) {
                Absent::Runs
            } else {
                Absent::Gone
            }
        });
        for closed in &closed {
            self.close(closed);
        }
    }

    /// Looks up the waits that have become old enough to matter and are not known yet.
    fn classify_new(&mut self, snapshot: &Snapshot) -> Result<()> {
        let least = self.policy.least().min(LOOK_UP_AFTER);
        let new: Vec<&Wait> =
            snapshot.waits.iter().filter(|wait| wait.age >= least && self.known(wait).is_none()).collect();
        let resolved = self.resolver.resolve(&new, &mut self.bpf)?;
        for (wait, resolved) in new.iter().zip(&resolved) {
            self.classes.insert(wait.thread, (wait.began_ns, verdict::classify(wait, resolved)));
        }
        Ok(())
    }

    /// Class of a wait that was looked up before.
    fn known(&self, wait: &Wait) -> Option<Class> {
        self.classes.get(&wait.thread).filter(|(began, _)| *began == wait.began_ns).map(|(_, class)| *class)
    }

    fn open_new(&mut self, snapshot: &Snapshot) -> Result<()> {
        let due = |wait: &&Wait| {
            !self.stalls.has(&wait.thread) && self.known(wait).is_some_and(|class| self.is_due(class, wait))
        };
        let due: Vec<&Wait> = snapshot.waits.iter().filter(due).collect();
        let resolved = self.resolver.resolve(&due, &mut self.bpf)?;
        for (wait, resolved) in due.into_iter().zip(resolved) {
            // It may have moved on since it was classed: then there is another wait by now.
            let verdict = verdict::judge(wait, &resolved);
            if !self.is_due(verdict.class, wait) {
                continue;
            }
            let who = self.resolver.who(wait.thread.process);
            *self.metrics.lock().opened.entry(verdict.class).or_default() += 1;
            let stall = Stall::new(wait.clone(), resolved, verdict, who);
            self.events.opened(&stall);
            self.stalls.insert(stall);
        }
        Ok(())
    }

    fn is_due(&self, class: Class, wait: &Wait) -> bool {
        self.policy.threshold(class).is_some_and(|threshold| wait.age >= threshold)
    }

    /// Brings the numbers up to date.
    fn account(&mut self, snapshot: &Snapshot, ended: &[(WaitKey, Histogram)]) -> Result<()> {
        let mut classes = HashMap::with_capacity(self.classes.len());
        let mut waiting: HashMap<Class, u64> = HashMap::new();
        let mut open: HashMap<(ProcessId, &'static str, &'static str), u64> = HashMap::new();
        for wait in &snapshot.waits {
            let class = match self.known(wait) {
                Some(class) => {
                    classes.insert(wait.thread, (wait.began_ns, class));
                    class
                }
                None => verdict::classify(wait, &Resolver::sketch(wait)),
            };
            *waiting.entry(class).or_default() += 1;
            *open.entry((wait.thread.process, wait.call.name, kind_of(&wait.fd_state))).or_default() +=
                wait.age.as_nanos() as u64;
        }
        self.classes = classes;

        let losses: Vec<(&'static str, u64)> = Counter::LOSSES
            .iter()
            .map(|(counter, reason)| Ok((*reason, self.bpf.kernel.counter(*counter)?)))
            .collect::<Result<_>>()?;

        let living: HashSet<ProcessId> = open.keys().map(|(process, ..)| *process).collect();
        self.names.retain(|process, _| living.contains(process));
        self.resolver.retain(|process| living.contains(process));

        let mut state = self.metrics.lock();
        state.waiting = waiting;
        state.lost = losses.into_iter().collect();
        state.lost.insert("reads_abandoned", self.resolver.abandoned());
        state.lost.insert("events_unread", self.events.lost());
        for (key, histogram) in ended {
            let table = if key.flags & CALL_COMPAT != 0 { Table::Compat } else { Table::Native };
            let (comm, syscall, kind) =
                (text(&histogram.comm), call_name(table, key.nr), kind_of_file(&key.file));
            let process = ProcessId { pid: key.tgid, start_ns: key.process_start_ns };
            state.add_durations(DurationKey { comm: comm.clone(), syscall, kind }, histogram);
            state.add_blocked(BlockedKey { process: Some(process), comm, syscall, kind }, histogram.sum_ns);
        }
        state.reset_open();
        for ((process, syscall, kind), ns) in open {
            let comm = self.names.entry(process).or_insert_with(|| name(process.pid)).clone();
            state.add_open(BlockedKey { process: Some(process), comm, syscall, kind }, ns);
        }
        state.settle(snapshot.monotonic_ns, |process| living.contains(process));
        state.add_snapshot(snapshot.source, snapshot.duration);
        show_stalls(&mut state, &self.stalls);
        Ok(())
    }
}

enum Woken {
    Stop,
    Ended,
    Time,
}

/// Puts the open stalls on the metrics page.
fn show_stalls(state: &mut State, stalls: &Stalls) {
    state.open_stalls.clear();
    state.stalls.clear();
    for stall in stalls.open() {
        *state.open_stalls.entry(stall.verdict.class).or_default() += 1;
        let (local, remote) = stall.resolved.target.addresses();
        let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
        state.stalls.push(StallSeries {
            labels: [
                stall.wait.thread.process.pid.to_string(),
                stall.wait.thread.tid.to_string(),
                stall.wait.comm.clone(),
                or_empty(&stall.who.unit),
                String::new(),
                or_empty(&stall.who.pod),
                or_empty(&stall.who.container),
                stall.wait.call.name.to_owned(),
                stall.resolved.fd.map(|fd| fd.to_string()).unwrap_or_default(),
                stall.verdict.class.label().to_owned(),
                local,
                remote,
            ],
            age: stall.wait.age,
        });
    }
}

/// Whether the very thread still exists, by its start time.
fn lives(thread: &ThreadId) -> bool {
    let path = format!("/proc/{}/task/{}/stat", thread.process.pid, thread.tid);
    let Ok(stat) = std::fs::read(path) else { return false };
    let Some(stat) = crate::collect::proc::parse_stat(&String::from_utf8_lossy(&stat)) else { return false };
    // A zombie's thread is gone in all but name; ticks are coarser than the kernel's own nanoseconds.
    let ticks =
        u128::from(thread.start_ns) * u128::from(rustix::param::clock_ticks_per_second()) / 1_000_000_000;
    !matches!(stat.state, 'Z' | 'X') && u128::from(stat.start_ticks) == ticks
}

fn name(pid: u32) -> String {
    std::fs::read(format!("/proc/{pid}/comm"))
        .map(|bytes| String::from_utf8_lossy(bytes.trim_ascii_end()).into_owned())
        .unwrap_or_default()
}
