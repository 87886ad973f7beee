//! Where the view's data comes from: a thread that takes a snapshot an interval, judges its waits, and hands over a value
//! that nobody changes any more. Another feed only has to send the same [`News`].

use std::{
    collections::HashMap,
    fs,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use jiff::Timestamp;
use tracer_ebpf::abi::{BUCKETS, Counter};

use crate::{
    class::{Class, Level},
    cli::{SourceName, Top},
    clock::{boottime_ns, monotonic_ns},
    collect::{
        Source,
        bpf::{Bpf, text},
        proc::Proc,
    },
    commands::why,
    inspect,
    kernel::object::Options,
    look::{self, Judged},
    progress::date_back,
    resolve::{Resolved, Resolver, process::Who},
    verdict,
    wait::{ProcessId, ThreadId, Wait},
};

/// A younger wait is not looked into.
const YOUNG: Duration = Duration::from_secs(1);

/// A wait as the view shows it.
#[derive(Clone, Debug)]
pub struct Row {
    /// The wait, dated back to its last progress.
    pub wait: Wait,
    /// What it waits on.
    pub resolved: Resolved,
    /// What to think of it.
    pub class: Class,
    /// Who waits; `None` for what is hidden.
    pub who: Option<Arc<Who>>,
}

/// How long a process's waits took, by the power of two: of the buckets of [`BUCKETS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durations {
    /// Name of the process.
    pub comm: String,
    /// Waits by duration.
    pub buckets: [u64; BUCKETS],
}

/// What is known of the host at one moment.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The moment.
    pub at: Timestamp,
    /// `bpf` or `proc`.
    pub source: &'static str,
    /// Why it is not the better one.
    pub why_not_bpf: Option<String>,
    /// All waits, in no order.
    pub rows: Vec<Arc<Row>>,
    /// Waits that ended in the last second; `None` where they are not seen.
    pub waits_a_second: Option<f64>,
    /// Context switches of the host in the last second.
    pub switches_a_second: f64,
    /// What could not be recorded, so far.
    pub lost: u64,
    /// CPU time of this very program in the last second, percent of a core.
    pub own_cpu: f64,
    /// Ended waits of each process since the start.
    pub durations: Arc<HashMap<ProcessId, Durations>>,
}

/// What the feed tells.
#[derive(Debug)]
pub enum News {
    /// The host, again.
    Frame(Box<Frame>),
    /// Everything about one thread's process, or why not.
    Page(u32, String),
    /// It cannot go on.
    Failed(String),
}

/// What the feed is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wish {
    /// A frame this often.
    Every(Duration),
    /// None until further notice, or again.
    Pause(bool),
    /// Who the idle are, too.
    Idle(bool),
    /// Everything about the process of this thread, in lines at most so wide.
    Inspect(u32, usize),
}

/// Sends frames until nobody listens.
pub fn run(args: &Top, wishes: &Receiver<Wish>, send: &dyn Fn(News) -> bool) {
    if let Err(error) = Feed::open(args).and_then(|feed| feed.run(args, wishes, send)) {
        send(News::Failed(format!("{error:#}")));
    }
}

/// The sources that the view can do with: one that sees waits end, or one that only looks.
enum Open {
    Bpf(Box<Bpf>),
    Proc(Box<Proc>),
}

struct Feed {
    open: Open,
    why_not_bpf: Option<String>,
    pids: Vec<u32>,
    idle: bool,
    resolver: Resolver,
    known: HashMap<ThreadId, Known>,
    durations: HashMap<ProcessId, Durations>,
    before: Before,
}

/// A wait that was looked up.
struct Known {
    switches: u64,
    /// How old it was then: what waits on is looked up again when it is half as old again.
    age: Duration,
    resolved: Resolved,
    class: Class,
}

/// Counters at the last frame.
struct Before {
    at: Instant,
    waits: u64,
    switches: u64,
    cpu: Duration,
}

impl Feed {
    fn open(args: &Top) -> Result<Self> {
        let options = Options {
            waits: true,
            min_wait: Duration::from_micros(100),
            report: Duration::MAX,
            calls: None,
            verbose: false,
        };
        let (open, why_not_bpf) = match args.source {
            SourceName::Bpf => (Open::Bpf(Box::new(Bpf::load(options)?)), None),
            SourceName::Proc => (Open::Proc(Box::new(Proc::new())), None),
            SourceName::Auto => match Bpf::load(options) {
                Ok(bpf) => (Open::Bpf(Box::new(bpf)), None),
                Err(error) => (Open::Proc(Box::new(Proc::new())), Some(format!("{error:#}"))),
            },
        };
        let before = Before { at: Instant::now(), waits: 0, switches: switches(), cpu: own_cpu() };
        Ok(Self {
            open,
            why_not_bpf,
            pids: args.pid.clone(),
            idle: args.all,
            resolver: Resolver::new(),
            known: HashMap::new(),
            durations: HashMap::new(),
            before,
        })
    }

    fn run(mut self, args: &Top, wishes: &Receiver<Wish>, send: &dyn Fn(News) -> bool) -> Result<()> {
        let (mut every, mut paused) = (args.interval, false);
        let mut next = Instant::now();
        loop {
            if !paused && next <= Instant::now() {
                next = Instant::now() + every;
                if !send(News::Frame(Box::new(self.frame()?))) {
                    return Ok(());
                }
            }
            let left = if paused { Duration::MAX } else { next.saturating_duration_since(Instant::now()) };
            match wishes.recv_timeout(left.min(Duration::from_secs(3600))) {
                Ok(Wish::Every(interval)) => {
                    every = interval;
                    next = next.min(Instant::now() + every);
                }
                Ok(Wish::Pause(wish)) => paused = wish,
                Ok(Wish::Idle(wish)) => {
                    self.idle = wish;
                    next = Instant::now();
                }
                Ok(Wish::Inspect(tid, width)) => {
                    send(News::Page(tid, self.page(tid, width)));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        self.open.source()
    }

    fn page(&mut self, tid: u32, width: usize) -> String {
        match inspect::inspect(tid, self.source()) {
            Ok(report) => why::page(&report, width, None),
            Err(error) => format!("{error:#}"),
        }
    }

    fn frame(&mut self) -> Result<Frame> {
        self.drain()?;
        let snapshot = self.source().snapshot()?;
        let now = (monotonic_ns(), boottime_ns());
        let mut rows = Vec::with_capacity(snapshot.waits.len());
        let mut fresh: Vec<Wait> = Vec::new();
        let wanted = |wait: &&Wait| self.pids.is_empty() || self.pids.contains(&wait.thread.process.pid);
        for wait in snapshot.waits.iter().filter(wanted) {
            match self.known.get(&wait.thread) {
                Some(known) if known.switches == wait.switches && wait.asleep() < known.age * 3 / 2 => {
                    let mut wait = wait.clone();
                    date_back(&mut wait, &known.resolved, now.0, now.1);
                    rows.push(Row { wait, resolved: known.resolved.clone(), class: known.class, who: None });
                }
                _ if wait.asleep() < YOUNG && !look::may_be_older(wait) => {
                    let resolved = Resolver::sketch(wait);
                    let class = verdict::classify(wait, &resolved);
                    rows.push(Row { wait: wait.clone(), resolved, class, who: None });
                }
                _ => fresh.push(wait.clone()),
            }
        }
        let weigh = |_: &Wait, class: Class| class.level() != Level::Idle;
        let judged = look::judge(fresh, &snapshot.waits, &mut self.resolver, self.open.source(), weigh)?;
        for Judged { wait, resolved, verdict } in judged {
            let known = Known {
                switches: wait.switches,
                age: wait.asleep().max(YOUNG),
                resolved: resolved.clone(),
                class: verdict.class,
            };
            self.known.insert(wait.thread, known);
            rows.push(Row { wait, resolved, class: verdict.class, who: None });
        }
        let alive: HashMap<ThreadId, ProcessId> =
            snapshot.waits.iter().map(|wait| (wait.thread, wait.thread.process)).collect();
        self.known.retain(|thread, _| alive.contains_key(thread));
        let processes: std::collections::HashSet<ProcessId> = alive.values().copied().collect();
        self.resolver.retain(|process| processes.contains(process));
        for row in &mut rows {
            if self.idle || row.class.level() != Level::Idle {
                row.who = Some(self.resolver.who(row.wait.thread.process));
            }
        }
        self.finish(rows, snapshot.source)
    }

    /// Adds the numbers of the header.
    fn finish(&mut self, rows: Vec<Row>, source: &'static str) -> Result<Frame> {
        let (waits, lost) = match &self.open {
            Open::Bpf(bpf) => {
                let counter = |counter| bpf.kernel.counter(counter);
                let waits = counter(Counter::CountedWaits)? + counter(Counter::ShortWaits)?;
                let mut lost = 0;
                for (loss, _) in Counter::LOSSES {
                    lost += counter(loss)?;
                }
                (Some(waits), lost)
            }
            Open::Proc(_) => (None, 0),
        };
        let now =
            Before { at: Instant::now(), waits: waits.unwrap_or(0), switches: switches(), cpu: own_cpu() };
        let passed = now.at.duration_since(self.before.at).as_secs_f64().max(1e-3);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / passed;
        let frame = Frame {
            at: Timestamp::now(),
            source,
            why_not_bpf: self.why_not_bpf.clone(),
            rows: rows.into_iter().map(Arc::new).collect(),
            waits_a_second: waits.map(|waits| rate(waits, self.before.waits)),
            switches_a_second: rate(now.switches, self.before.switches),
            lost,
            own_cpu: now.cpu.saturating_sub(self.before.cpu).as_secs_f64() / passed * 100.0,
            durations: Arc::new(self.durations.clone()),
        };
        self.before = now;
        Ok(frame)
    }

    /// Takes the ended waits out of the kernel's maps.
    fn drain(&mut self) -> Result<()> {
        /// Processes whose durations are kept.
        const MOST: usize = 10_000;
        let Open::Bpf(bpf) = &mut self.open else { return Ok(()) };
        let durations = &mut self.durations;
        bpf.kernel.drain(|key, histogram| {
            let process = ProcessId { pid: key.tgid, start_ns: key.process_start_ns };
            if durations.len() >= MOST && !durations.contains_key(&process) {
                return;
            }
            let of = durations
                .entry(process)
                .or_insert_with(|| Durations { comm: text(&histogram.comm), buckets: [0; BUCKETS] });
            for (sum, more) in of.buckets.iter_mut().zip(histogram.buckets) {
                *sum += u64::from(more);
            }
        })?;
        // Long waits also come one by one, which nobody reads here.
        while bpf.kernel.next_ended().is_some() {}
        Ok(())
    }
}

impl Open {
    fn source(&mut self) -> &mut dyn Source {
        match self {
            Open::Bpf(bpf) => &mut **bpf,
            Open::Proc(proc) => &mut **proc,
        }
    }
}

/// Context switches of the host since it started.
fn switches() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("ctxt "));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// CPU time of this process.
fn own_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Where frames go: a channel that may have lost its reader.
pub fn sender(to: Sender<super::Event>) -> impl Fn(News) -> bool {
    move |news| to.send(super::Event::News(news)).is_ok()
}
