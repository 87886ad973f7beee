//! Where the view's data comes from: a thread that looks once an interval, by itself or through a running agent, and hands
//! over a value that nobody changes any more. The past comes from the agent's history.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use jiff::Timestamp;

use super::page::ThreadRef;
use crate::{
    assess::inspect::{self, threads::StacksOf},
    assess::overview::{Overview, OverviewCache},
    assess::pipeline::LOOK_AGE_MIN,
    assess::requests,
    collect::durations::AllDurations,
    collect::ended::Drained,
    collect::{Source, WantedConnections, bpf::Bpf, losses, proc::Proc},
    config::cli::{SourceArgs, Top},
    history,
    kernel::object::Options,
    model::class::{Class, Level},
    model::wait::Wait,
    render::why,
    serve::client::{AgentClient, about},
    serve::feed,
    util::clock::cpu_time,
    wire::durations::Durations,
    wire::host::HostObject,
    wire::json::WaitObject,
    wire::stall::Past,
};

/// What is known of the host at one moment.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The moment; if it is over, the one that was asked for.
    pub at: Timestamp,
    /// Whether that is now.
    pub when: When,
    /// What made it: `bpf`, `proc`, `agent` or `history`.
    pub source: &'static str,
    /// Why it is not a better one.
    pub why_not_better: Option<String>,
    /// The waits that may be shown, in no order.
    pub waits: Vec<Arc<WaitObject>>,
    /// Threads that sleep, in calls that this user may not see.
    pub hidden: usize,
    /// How many waits there are of each class, those that may not be shown too.
    pub classes: BTreeMap<Class, usize>,
    /// Waits that ended in the last second; `None` where they are not seen.
    pub waits_a_second: Option<f64>,
    /// Context switches of the host in the last second.
    pub switches_a_second: f64,
    /// What could not be recorded, so far.
    pub lost: u64,
    /// CPU time of this very program in the last second, percent of a core.
    pub own_cpu: f64,
}

/// When a frame was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Just now.
    Now,
    /// It is over; the agent kept its waits then.
    Kept(Timestamp),
    /// It is over, and the agent has kept nothing of that minute but stalls that were open.
    Unkept,
}

/// What the feed tells the view.
#[derive(Debug)]
pub enum ViewUpdate {
    /// The host, again.
    Frame(Box<Frame>),
    /// Everything about one thread's process, or why not, and how long its waits took.
    Page(u32, Result<String, String>, Option<Box<Durations>>),
    /// The past cannot be had: it is now again.
    NoPast(String),
    /// There is nothing new this time.
    Trouble(String),
    /// It cannot go on.
    Failed(String),
}

/// What the view asks of the feed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ViewRequest {
    /// A frame this often.
    Every(Duration),
    /// None until further notice, or again.
    Pause(bool),
    /// The idle waits, too.
    Idle(bool),
    /// Everything about the process of a thread, in lines at most so wide.
    Inspect {
        /// Which.
        thread: ThreadRef,
        /// Columns.
        width: usize,
    },
    /// What was at that moment, and nothing newer; or what is now. Either ends a pause.
    Past(Option<Timestamp>),
}

/// Sends frames until nobody listens.
pub fn run(args: &Top, requests: &Receiver<ViewRequest>, send: &dyn Fn(ViewUpdate) -> bool) {
    if let Err(error) = FrameSource::open(args).and_then(|source| source.run(args, requests, send)) {
        send(ViewUpdate::Failed(format!("{error:#}")));
    }
}

/// Where frames come from: this program looks, seeing waits end or not, or an agent is asked.
enum Origin {
    Bpf(Box<Bpf>),
    Proc(Box<Proc>),
    Agent(AgentClient),
}

struct FrameSource {
    origin: Origin,
    why_not_better: Option<String>,
    place: SourceArgs,
    pids: Vec<u32>,
    idle: bool,
    overviews: OverviewCache,
    durations: AllDurations,
    before: Before,
}

/// Counters at the last frame.
struct Before {
    at: Instant,
    waits: Option<u64>,
    switches: u64,
    cpu: Duration,
}

/// What was seen for a frame.
struct SeenFrame {
    overview: Overview,
    source: &'static str,
    hidden: usize,
    waits: Option<u64>,
    lost: u64,
}

impl FrameSource {
    fn open(args: &Top) -> Result<Self> {
        let (origin, why_not_better) = Origin::open(&args.place)?;
        Ok(Self {
            origin,
            why_not_better,
            place: args.place.clone(),
            pids: args.pid.clone(),
            idle: args.all,
            overviews: OverviewCache::new(),
            durations: AllDurations::default(),
            before: Before { at: Instant::now(), waits: None, switches: switches(), cpu: cpu_time() },
        })
    }

    fn run(
        mut self,
        args: &Top,
        requests: &Receiver<ViewRequest>,
        send: &dyn Fn(ViewUpdate) -> bool,
    ) -> Result<()> {
        let (mut every, mut stands) = (args.interval, false);
        let mut next = Instant::now();
        loop {
            if !stands && next <= Instant::now() {
                next = Instant::now() + every;
                let update = match (self.frame(), &self.origin) {
                    (Ok(frame), _) => ViewUpdate::Frame(Box::new(frame)),
                    // It may come back: a new version is installed, say.
                    (Err(error), Origin::Agent(_)) => ViewUpdate::Trouble(format!("{error:#}")),
                    (Err(error), _) => return Err(error),
                };
                if !send(update) {
                    return Ok(());
                }
            }
            let left = if stands { Duration::MAX } else { next.saturating_duration_since(Instant::now()) };
            match requests.recv_timeout(left.min(Duration::from_secs(3600))) {
                Ok(ViewRequest::Every(interval)) => {
                    every = interval;
                    next = next.min(Instant::now() + every);
                }
                Ok(ViewRequest::Pause(pause)) => stands = pause,
                Ok(ViewRequest::Idle(idle)) => {
                    self.idle = idle;
                    next = Instant::now();
                }
                Ok(ViewRequest::Inspect { thread, width }) => {
                    let (text, durations) = self.page(thread, width);
                    send(ViewUpdate::Page(thread.tid, text, durations.map(Box::new)));
                }
                Ok(ViewRequest::Past(at)) => {
                    stands = at.is_some();
                    next = Instant::now();
                    if let Some(at) = at {
                        send(self.past(at).map_or_else(
                            |error| {
                                stands = false;
                                ViewUpdate::NoPast(format!("{error:#}"))
                            },
                            |frame| ViewUpdate::Frame(Box::new(frame)),
                        ));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    fn page(&mut self, thread: ThreadRef, width: usize) -> (Result<String, String>, Option<Durations>) {
        let ThreadRef { pid, tid, start_ticks } = thread;
        let why_not_better = self.why_not_better.as_deref();
        let own = |source: &mut dyn Source| {
            inspect::inspect(tid, start_ticks, StacksOf::First, source)
                .map(|report| why::page(&report, width, why_not_better))
        };
        let (text, durations) = match &mut self.origin {
            Origin::Bpf(bpf) => (own(&mut **bpf), self.durations.of(pid, start_ticks).cloned()),
            Origin::Proc(proc) => (own(&mut **proc), None),
            Origin::Agent(client) => (
                client
                    .get(&about("why", tid, start_ticks, Some(width)))
                    .map(|page| String::from_utf8_lossy(&page).into_owned()),
                // Where none has ended there is none.
                client.object(&about("durations", pid, start_ticks, None)).ok(),
            ),
        };
        (text.map_err(|error| format!("{error:#}")), durations)
    }

    fn frame(&mut self) -> Result<Frame> {
        let SeenFrame { overview, source, hidden, waits, lost } = self.look()?;
        let now = Before { at: Instant::now(), waits, switches: switches(), cpu: cpu_time() };
        let passed = now.at.duration_since(self.before.at).as_secs_f64().max(1e-3);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / passed;
        let frame = Frame {
            at: Timestamp::now(),
            when: When::Now,
            source,
            why_not_better: self.why_not_better.clone(),
            waits: overview.waits.into_iter().map(Arc::new).collect(),
            hidden,
            classes: overview.classes,
            waits_a_second: now.waits.map(|waits| rate(waits, self.before.waits.unwrap_or(waits))),
            switches_a_second: rate(now.switches, self.before.switches),
            lost,
            own_cpu: now.cpu.saturating_sub(self.before.cpu).as_secs_f64() / passed * 100.0,
        };
        self.before = now;
        Ok(frame)
    }

    fn look(&mut self) -> Result<SeenFrame> {
        let pids = &self.pids;
        let wanted = |pid: u32| pids.is_empty() || pids.contains(&pid);
        let (waits, lost) = match &mut self.origin {
            Origin::Agent(client) => {
                // Of chosen processes the idle waits are counted here; the agent counts those of the whole host.
                let chosen = !pids.is_empty();
                let all = if self.idle || chosen { "?all" } else { "" };
                let mut waits: Vec<WaitObject> = client.objects(&format!("/v1/waits{all}"))?;
                // Second: what the agent has just seen serves for both.
                let host: HostObject = client.object("/v1/host")?;
                waits.retain(|wait| wanted(wait.pid));
                let classes = if chosen { counted(&waits) } else { host.waiting };
                waits.retain(|wait| self.idle || wait.worry() != Level::Idle);
                let overview = Overview { waits, classes };
                let (waits, lost) = (Some(host.waits_total), host.lost_total);
                return Ok(SeenFrame { overview, source: "agent", hidden: 0, waits, lost });
            }
            Origin::Bpf(bpf) => {
                let durations = &mut self.durations;
                bpf.drain_ended(|ended| {
                    if let Drained::Waits(waits) = ended {
                        durations.add(&waits);
                    }
                })?;
                // Long waits also come one by one, which nobody reads here.
                while bpf.kernel.next_ended().is_some() {}
                (Some(bpf.number_ended()?), losses::number_of_programs(&bpf.kernel)?)
            }
            Origin::Proc(_) => (None, 0),
        };
        let source: &mut dyn Source = match &mut self.origin {
            Origin::Bpf(bpf) => &mut **bpf,
            Origin::Proc(proc) => &mut **proc,
            Origin::Agent(_) => unreachable!("it has been asked above"),
        };
        // Before the snapshot: what is looked up after it is as of its moment.
        let connections =
            source.connections(&WantedConnections::asked(LOOK_AGE_MIN))?.unwrap_or_default().asked;
        let mut snapshot = source.snapshot()?;
        requests::add_to(&mut snapshot, &connections, LOOK_AGE_MIN);
        let hidden = snapshot.hidden.iter().filter(|thread| wanted(thread.process.pid)).count();
        let wanted = |wait: &Wait| wanted(wait.thread.process.pid);
        let up_to = if self.idle { Level::Idle } else { Level::Doubtful };
        let overview = self.overviews.see(&snapshot, source, up_to, wanted)?;
        Ok(SeenFrame { overview, source: snapshot.source, hidden, waits, lost })
    }

    /// What was at a moment, as an agent has kept it.
    fn past(&self, at: Timestamp) -> Result<Frame> {
        let Past { at: kept, mut waits } = match AgentClient::connect(&self.place.socket) {
            Ok(client) => client.object(&format!("/v1/waits?at={at}"))?,
            Err(refusal) => history::left(&self.place.state_dir, refusal.without_history())?.waits_at(at)?,
        };
        waits.retain(|wait| self.pids.is_empty() || self.pids.contains(&wait.pid));
        let classes = counted(&waits);
        Ok(Frame {
            at,
            when: kept.map_or(When::Unkept, When::Kept),
            source: "history",
            why_not_better: None,
            waits: waits.into_iter().map(Arc::new).collect(),
            hidden: 0,
            classes,
            waits_a_second: None,
            switches_a_second: 0.0,
            lost: 0,
            own_cpu: 0.0,
        })
    }
}

impl Origin {
    /// As [`feed::open`] chooses, but with the kernel program that sees waits end.
    fn open(place: &SourceArgs) -> Result<(Self, Option<String>)> {
        let options = Options {
            snapshot: true,
            waits: true,
            min_wait: Duration::from_micros(100),
            report: Duration::MAX,
            calls: None,
            answers: false,
            verbose: false,
        };
        feed::choose(
            place,
            || Ok(Self::Bpf(Box::new(Bpf::load(options)?))),
            || Self::Proc(Box::new(Proc::new())),
            Self::Agent,
        )
    }
}

/// How many there are of each class.
fn counted(waits: &[WaitObject]) -> BTreeMap<Class, usize> {
    let mut classes = BTreeMap::new();
    for class in waits.iter().filter_map(|wait| wait.class) {
        *classes.entry(class).or_default() += 1;
    }
    classes
}

/// Context switches of the host since it started.
fn switches() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("ctxt "));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// Where frames go: a channel that may have lost its reader.
pub fn sender(to: Sender<super::Event>) -> impl Fn(ViewUpdate) -> bool {
    move |update| to.send(super::Event::Update(update)).is_ok()
}
