//! The agent's loop: a snapshot an interval and ended waits as they come, turned into stalls and numbers.
//!
//! It runs on a thread of its own, so that whatever it waits for never holds up HTTP or signals.
//!
//! Layer 5: uses what lies below, and no sink by its name.

mod account;
mod answer;
pub mod baselines;
mod budget;
pub mod canary;
pub mod confine;
mod incidents;
pub mod journal;
mod look;
mod open_stalls;
mod pace;
pub mod requests;
pub mod service;
mod stall_stacks;
mod stalls;
mod state;
pub mod stdout;
mod tracker;

use std::{
    mem,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::{
    budget::Stage,
    incidents::OpenIncidents,
    open_stalls::OpenStalls,
    pace::{Meter, Pace},
    requests::OpenRequests,
    stall_stacks::StallStacks,
    tracker::Tracker,
};
use crate::{
    agent::canary::Canary,
    agent::state::{AgentState, Kept},
    assess::blamed_stalls::BlamedStalls,
    assess::families::Families,
    assess::pipeline::Pipeline,
    assess::requests::drop_doubles,
    assess::shared::AgentRequests,
    assess::sink::Sinks,
    collect::durations::AllDurations,
    collect::{Source, bpf::Bpf, losses::Loss},
    config::Config,
    config::Handover,
    config::cli::AgentSettings,
    kernel::log::KernelLog,
    model::wait::{Snapshot, Wait},
    procfs,
    util::clock::monotonic_ns,
    util::human,
};

/// How long durations are kept after somebody last asked.
const FORGET_DURATIONS_AFTER: Duration = Duration::from_secs(300);

/// Everything the loop owns.
pub struct AgentLoop {
    bpf: Bpf,
    log: Option<KernelLog>,
    policy: Config,
    /// The next one, if the configuration is read again.
    next_policy: Arc<Handover>,
    /// How often to look, as asked for.
    interval: Duration,
    /// How often that is, at what it costs.
    pace: Pace,
    pipeline: Pipeline,
    /// What is remembered of waiting threads.
    tracker: Tracker,
    /// What is remembered of connections without an answer.
    requests: OpenRequests,
    /// What was made of the stalls.
    incidents: OpenIncidents,
    /// Who is to blame for each stall.
    blamed: BlamedStalls,
    /// What is known of the processes in them.
    families: Families,
    /// Where in their programs threads of new stalls sleep.
    stall_stacks: StallStacks,
    /// What outlives a restart.
    state: AgentState,
    /// Snapshots taken.
    number: u64,
    /// A look has worked.
    works: bool,
    /// Looks that failed.
    failed: u64,
    /// The last one did.
    fails: bool,
    /// When the present look began to look things up.
    look_began: Instant,
    /// Waits that were due to be looked up and were not reached, in all looks.
    cut: u64,
    /// The last look has left some.
    cuts: bool,
    /// What each look must find.
    canary: Option<Canary>,
    /// Its waits, of the last snapshot.
    own: Vec<Wait>,
    /// Reads that had been refused at the last look.
    refused: u64,
    /// Reads that no reader had answered by then.
    unanswered: u64,
    /// Who is told what it finds.
    sinks: Sinks,
    /// What other threads want to know.
    asked: AgentRequests,
    /// Durations by process, while somebody wants them, and when somebody last did.
    durations: Option<AllDurations>,
    durations_asked: Instant,
    stop: OwnedFd,
}

impl AgentLoop {
    /// A loop that has seen nothing yet; it ends when `stop` becomes readable.
    pub fn new(
        bpf: Bpf,
        policy: Config,
        args: &AgentSettings,
        sinks: Sinks,
        asked: AgentRequests,
        stop: OwnedFd,
    ) -> Result<Self> {
        let (state, Kept { manners, stalls, incidents }) = AgentState::load(&args.state_dir)?;
        let now_ns = monotonic_ns();
        Ok(Self {
            bpf,
            log: None,
            policy,
            next_policy: Arc::default(),
            interval: args.interval,
            pace: Pace::new(args.interval),
            pipeline: Pipeline::new(),
            tracker: Tracker::going_on_with(OpenStalls::going_on_with(stalls, now_ns)),
            requests: OpenRequests::knowing(manners),
            blamed: BlamedStalls::default(),
            families: Families::default(),
            stall_stacks: StallStacks::new(),
            incidents: OpenIncidents::going_on_with(incidents, now_ns, Timestamp::now()),
            state,
            number: 0,
            works: false,
            failed: 0,
            fails: false,
            look_began: Instant::now(),
            cut: 0,
            cuts: false,
            canary: None,
            own: Vec::new(),
            refused: 0,
            unanswered: 0,
            sinks,
            asked,
            durations: None,
            durations_asked: Instant::now(),
            stop,
        })
    }

    /// The same, which passes on what the kernel programs log.
    pub fn logging(self, log: Option<KernelLog>) -> Self {
        Self { log, ..self }
    }

    /// The same, which takes another configuration when there is one.
    pub fn following(self, next_policy: Arc<Handover>) -> Self {
        Self { next_policy, ..self }
    }

    /// The same, which is not healthy while its looks do not find the canary.
    pub fn minding(self, canary: Canary) -> Self {
        Self { canary: Some(canary), ..self }
    }

    /// Runs until told to stop.
    pub fn run(mut self) -> Result<()> {
        let result = self.watch();
        self.state.finish(self.tracker.open_stalls(), self.requests.manners(), &self.incidents);
        result
    }

    fn watch(&mut self) -> Result<()> {
        let mut next = Instant::now();
        loop {
            let mut meter = Meter::start();
            self.try_tick()?;
            let interval = self.pace.after(meter.lap(), self.cuts);
            ensure!(
                !procfs::supervisor::is_gone(),
                "the process that starts readers of /proc has ended: start the agent again"
            );
            next += interval;
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
                    Woken::Asked => self.answer_all(),
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
            PollFd::from_borrowed_fd(self.asked.wake.as_fd(), PollFlags::IN),
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
        } else if !fds[2].revents().is_empty() {
            Woken::Asked
        } else {
            Woken::Time
        })
    }

    /// Long waits that have ended, with their true length.
    fn take_ended(&mut self) {
        while let Some(sleep) = self.bpf.next_ended_sleep() {
            if let Some(closed) = self.tracker.ended(&sleep) {
                self.closed(&closed);
            }
        }
    }

    /// Looks. Once that has worked, a failure is counted and borne: descriptors and memory come back. An agent that cannot
    /// look for long is not healthy any more, and whoever keeps it starts it again.
    fn try_tick(&mut self) -> Result<()> {
        match self.tick() {
            Ok(()) => (self.works, self.fails) = (true, false),
            Err(error) if self.works => {
                self.failed += 1;
                if !mem::replace(&mut self.fails, true) {
                    human::say(&format!("{error:#}; trying again at the next interval"));
                }
                self.sinks.lost(&[(Loss::LookFailed, self.failed)]);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// A snapshot, without the canary.
    fn snapshot(&mut self) -> Result<Snapshot> {
        let mut snapshot = self.bpf.snapshot()?;
        if let Some(canary) = &mut self.canary {
            self.own = canary.take_out(&mut snapshot);
        }
        Ok(snapshot)
    }

    /// Whether looks do not find the canary.
    fn misses_canary(&mut self, now_ns: u64) -> bool {
        let Some(canary) = &mut self.canary else { return false };
        let (pipeline, bpf) = (&mut self.pipeline, &mut self.bpf);
        canary.looked(&self.own, now_ns, |waits| pipeline.resolver().resolve(waits, bpf).ok());
        canary.is_missed(now_ns)
    }

    fn tick(&mut self) -> Result<()> {
        // Before the snapshot: a wait that ends in between is then missing for one interval, where the other order
        // would count it twice, as open and as ended.
        self.count_ended()?;
        let mut snapshot = self.snapshot()?;
        if let Some(log) = &mut self.log {
            log.flush();
        }
        // What ended before the snapshot must be known before it is judged.
        self.take_ended();
        self.number += 1;
        if let Some(policy) = self.next_policy.take() {
            self.policy = policy;
            self.tracker.forget_decisions();
        }
        self.look_began = Instant::now();
        self.look_at_requests(&mut snapshot);
        let undecided = self.track(&mut snapshot)?;
        self.find_incidents(&snapshot);
        // What follows is about threads.
        snapshot.waits.retain(|wait| !wait.thread.is_request());
        self.count_cut(self.tracker.missed() + undecided);
        self.state.save_now_and_then(self.tracker.open_stalls(), self.requests.manners(), &self.incidents);
        self.report(&snapshot)?;
        self.bpf.take_back(snapshot.waits);
        Ok(())
    }
}

impl AgentLoop {
    /// Follows waits, looks up what has to be known of them, and opens and closes stalls. How many that may be stalls were not
    /// decided.
    fn track(&mut self, snapshot: &mut Snapshot) -> Result<usize> {
        let now_ns = snapshot.monotonic_ns;
        let requests = self.tracker.observe(snapshot, &self.policy);
        let mut looked = self.resolve(requests)?;
        drop_doubles(&mut looked.assessments);
        let departures = self.tracker.apply(snapshot, &mut looked);
        let evidence = self.find_evidence(&departures);
        let transitions = self.tracker.settle(departures, &evidence);
        self.publish(transitions);
        self.find_peers(&mut looked.assessments, snapshot)?;
        let due = self.tracker.due(looked.assessments, &self.policy, now_ns);
        Ok(self.open_stalls(due))
    }

    /// How much longer a stage of the present look may take.
    fn time_for(&self, stage: Stage) -> Duration {
        budget::time_for(stage, self.interval, self.look_began.elapsed())
    }

    /// Counts what a look has not reached.
    fn count_cut(&mut self, cut: usize) {
        self.cuts = cut > 0;
        self.cut += cut as u64;
    }
}

enum Woken {
    Stop,
    Ended,
    Asked,
    Time,
}
