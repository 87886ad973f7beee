//! The numbers: what `/metrics` shows, brought up to date after each snapshot.

use std::{cmp::Reverse, collections::BTreeMap, mem, time::Duration};

use anyhow::Result;
use hashbrown::{HashMap, HashSet};

use super::{FORGET, Watch, tracker::Standing};
use crate::{
    assess::stall::Stall,
    collect::losses::{self, Loss},
    metrics::blind::Cause,
    metrics::{BlockedKey, DurationKey, STALL_SERIES, StallSeries, State},
    model::cgroup::Owner,
    model::class::Class,
    model::wait::{ProcessId, Snapshot, ThreadId, Wait},
    procfs::{Reads, Unread, Wanted, stat},
    resolve::target::{kind_of, kind_of_file},
    util::fair,
    util::human,
};

/// Snapshots between two looks at how many runs of the programs the kernel has skipped.
const SKIPPED_EVERY: u64 = 10;

impl Watch {
    /// Counts what has ended since the last time, one by one as they come out of the kernel's map: thousands are not held
    /// at a time.
    pub(super) fn count_ended(&mut self) -> Result<()> {
        if self.durations_asked.elapsed() > FORGET {
            self.durations = None;
        }
        let mut state = self.metrics.lock();
        self.bpf.drain_ended(|ended| {
            let process = ended.process;
            if self.canary.as_ref().is_some_and(|canary| canary.is(process)) {
                return;
            }
            if let Some(durations) = &mut self.durations {
                durations.add(&ended);
            }
            let kind = ended.file.as_ref().map_or("none", kind_of_file);
            let syscall = ended.syscall.name();
            // As it was called when the first of these waits ended: since the last snapshot it may have executed
            // another program.
            let comm = String::from(ended.comm);
            let blocked = BlockedKey { process: Some(process), syscall, kind };
            if state.add_blocked(blocked, ended.histogram.sum_ns)
                && state.name(&process).is_none_or(|known| known != comm)
            {
                self.unnamed.entry(process).or_insert_with(|| comm.clone());
            }
            state.add_durations(DurationKey { comm, syscall, kind }, &ended.histogram);
        })
    }

    /// What processes that have new series are called now. Of one that has gone meanwhile, a thread's name has to do.
    fn read_names(&mut self) -> Vec<(ProcessId, String)> {
        let unnamed = mem::take(&mut self.unnamed);
        let mut reads = Reads::new();
        reads.ahead(unnamed.keys().map(|process| (*process, Wanted::File("comm".into()))));
        unnamed.into_iter().map(|(process, or)| (process, reads.comm(process).unwrap_or(or))).collect()
    }

    /// Brings the numbers up to date.
    pub(super) fn account(&mut self, snapshot: &Snapshot) -> Result<()> {
        let mut waiting: HashMap<Class, u64> = HashMap::new();
        let mut excused = 0;
        let mut open: HashMap<(ProcessId, &'static str, &'static str), (u64, &Wait)> =
            HashMap::with_capacity(self.open);
        for wait in &snapshot.waits {
            let Standing { class, is_excused } = self.tracker.standing(&wait.thread, wait.age);
            excused += u64::from(is_excused);
            *waiting.entry(class).or_default() += 1;
            let key = (wait.thread.process, wait.call.name(), kind_of(&wait.fd_state));
            // Earlier sleeps of the same wait have been counted when they ended.
            open.entry(key).or_insert((0, wait)).0 += wait.asleep().as_nanos() as u64;
        }
        let of_programs = losses::of_programs(&self.bpf.kernel)?;

        let of_sinks = self.sinks.losses();

        // Costs a file for each descriptor.
        let skipped = (self.number % SKIPPED_EVERY == 1).then(|| self.bpf.kernel.skipped());

        self.open = open.len();
        let users: HashMap<ProcessId, u32> =
            open.iter().map(|((process, ..), (_, wait))| (*process, wait.uid)).collect();
        self.pipeline.resolver().retain(|process| users.contains_key(process));

        let mut state = self.metrics.lock();
        state.waiting = waiting;
        state.excused = excused;
        state.lost.extend(of_programs);
        state.lost.extend(skipped.map(|number| (Loss::RunsSkipped, number)));
        state.lost.extend(self.own_losses());
        state.lost.extend(of_sinks);
        for wait in snapshot.waits.iter().filter(|wait| wait.thread.tid == wait.thread.process.pid) {
            if state.name(&wait.thread.process).is_none_or(|known| known != wait.comm) {
                state.set_name(wait.thread.process, wait.comm.to_string());
            }
        }
        state.reset_open();
        state.set_users(users);
        for ((process, syscall, kind), (ns, wait)) in open {
            if state.add_open(BlockedKey { process: Some(process), syscall, kind }, ns)
                && state.name(&process).is_none()
            {
                self.unnamed.entry(process).or_insert_with(|| wait.comm.to_string());
            }
        }
        let expired = state.expired(snapshot.monotonic_ns);
        // What is read may take its time, and whoever scrapes waits for these numbers.
        drop(state);
        let names = self.read_names();
        let alive = living(expired);
        let blinded_by = self.blinded_by();
        let mut state = self.metrics.lock();
        names.into_iter().for_each(|(process, name)| state.set_name(process, name));
        // What is frozen in its sleep goes on with it. By calls a wait counts once its call has returned, which may be long
        // after it was asleep.
        let held: HashSet<ProcessId> = snapshot.held.iter().map(|held| held.thread.process).collect();
        let is_held =
            |process: Option<&ProcessId>| process.map_or(!held.is_empty(), |process| held.contains(process));
        let by_calls = !self.bpf.kernel.sees_sleeps_end();
        state.settle(
            snapshot.monotonic_ns,
            |process| by_calls || is_held(process),
            |process| alive.contains(process),
        );
        state.add_snapshot(snapshot.source, snapshot.duration);
        show_stalls(&mut state, self.tracker.stalls());
        let series = (state.without_series > 0).then_some(Cause::Series);
        blinded_by.into_iter().chain(series).for_each(|cause| state.blind.report(cause));
        let said = state.blind.settle(snapshot.monotonic_ns);
        drop(state);
        said.iter().for_each(|line| human::say(line));
        Ok(())
    }
}

impl Watch {
    /// What has been lost so far of what is counted in user space.
    fn own_losses(&self) -> [(Loss, u64); 4] {
        [
            (Loss::LookCut, self.cut),
            (Loss::LookFailed, self.failed),
            (Loss::ReadsAbandoned, Reads::new().abandoned()),
            (Loss::StateUnsaved, self.state.unsaved()),
        ]
    }

    /// What has kept this look from seeing everything.
    fn blinded_by(&mut self) -> Vec<Cause> {
        let (refused, unanswered) = (Reads::new().refused(), Reads::new().unanswered());
        let causes = [
            // One process that hangs is left alone, and is no reason not to see the others.
            (Cause::Reads, refused > self.refused),
            (Cause::Readers, unanswered > self.unanswered),
            (Cause::Peers, self.pipeline.resolver().has_missed_peers()),
            (Cause::LookCut, self.cuts),
        ];
        (self.refused, self.unanswered) = (refused, unanswered);
        causes.into_iter().filter(|(_, is_one)| *is_one).map(|(cause, _)| cause).collect()
    }
}

/// Puts the open stalls on the metrics page: of too many, the oldest of each owner.
fn show_stalls(state: &mut State, stalls: &BTreeMap<ThreadId, Stall>) {
    state.open_stalls.clear();
    state.stalls.clear();
    // Thousands do not fit into a processor's cache: each is gone through once.
    let mut open: HashMap<Class, u64> = HashMap::new();
    let mut shown: Vec<(Duration, Result<&Owner, u32>, &Stall)> = Vec::with_capacity(stalls.len());
    for stall in stalls.values() {
        *open.entry(stall.verdict.class).or_default() += 1;
        shown.push((stall.wait.age, stall.share(), stall));
    }
    state.open_stalls.extend(open);
    shown.sort_by_key(|(age, ..)| Reverse(*age));
    let shown = fair::keep(shown, STALL_SERIES, |(_, share, _)| *share);
    state.without_series = stalls.len() - shown.len();
    // Labels are made of those only that have a series.
    for (.., stall) in shown {
        let (local, remote) = stall.resolved.target.addresses();
        let pod = stall.who.pod.as_ref();
        let container = pod.and_then(|pod| pod.container.clone()).or_else(|| stall.who.container.clone());
        let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
        state.stalls.push(StallSeries {
            labels: [
                stall.wait.thread.process.pid.to_string(),
                stall.wait.thread.tid.to_string(),
                stall.wait.comm.to_string(),
                or_empty(&stall.who.unit),
                or_empty(&pod.and_then(|pod| pod.namespace.clone())),
                pod.map(|pod| pod.label().to_owned()).unwrap_or_default(),
                or_empty(&container),
                stall.wait.call.name().to_owned(),
                stall.resolved.fd.map(|fd| fd.to_string()).unwrap_or_default(),
                stall.verdict.class.label().to_owned(),
                local,
                remote,
            ],
            age: stall.wait.age,
        });
    }
}

/// Which of these still exist, by their start times. One that hangs so that it cannot be read does.
fn living(processes: Vec<ProcessId>) -> HashSet<ProcessId> {
    let mut reads = Reads::new();
    reads.ahead(processes.iter().map(|process| (*process, Wanted::File("stat".into()))));
    let lives = |process: &ProcessId| match reads.file(*process, "stat") {
        Ok(text) => stat::parse_stat(&String::from_utf8_lossy(&text))
            .is_some_and(|stat| stat::same_start(process.start_ns, &stat)),
        Err(unread) => !matches!(unread, Unread::Failed(_)),
    };
    processes.into_iter().filter(lives).collect()
}
