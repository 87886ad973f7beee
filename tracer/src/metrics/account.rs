//! The sink behind `/metrics`: what the loop tells it goes into the state that a scrape reads.

use std::{mem, sync::Arc};

use hashbrown::{HashMap, HashSet};

use super::{
    Metrics,
    series::{BlockedKey, DurationKey, ResponseKey},
    services::ServiceSeries,
};
use crate::{
    assess::blind::Cause,
    assess::sink::{Look, Notice, Sink},
    assess::stall::Standing,
    collect::{
        ended::{Answers, EndedWaits},
        losses::Loss,
    },
    model::class::Class,
    model::wait::{ProcessId, Wait},
    procfs::{Reads, Unread, Wanted, stat},
    resolve::target::{kind_of, kind_of_file},
    util::human,
};

/// Keeps the account.
pub struct Account {
    metrics: Arc<Metrics>,
    /// Processes that have new series, each with the name of one of its threads.
    unnamed: HashMap<ProcessId, String>,
    /// Series of open waits that the last look had.
    open: usize,
}

impl Account {
    /// One of which nothing is known but the kernel programs: name, mechanism, and whether it works.
    pub fn new(metrics: Arc<Metrics>, probes: Vec<(&'static str, &'static str, bool)>) -> Self {
        metrics.lock().probes = probes;
        Self { metrics, unnamed: HashMap::new(), open: 0 }
    }

    /// What processes that have new series are called now. Of one that has gone meanwhile, a thread's name has to do.
    fn read_names(&mut self) -> Vec<(ProcessId, String)> {
        let unnamed = mem::take(&mut self.unnamed);
        let mut reads = Reads::new();
        reads.ahead(unnamed.keys().map(|process| (*process, Wanted::File("comm".into()))));
        unnamed.into_iter().map(|(process, or)| (process, reads.comm(process).unwrap_or(or))).collect()
    }

    /// Counts what waits. Processes whose series nothing was added to for long are to be asked whether they live.
    fn count_open(&mut self, look: &Look<'_>) -> Vec<ProcessId> {
        let mut waiting: HashMap<Class, u64> = HashMap::new();
        let mut excused = 0;
        let mut open: HashMap<(ProcessId, &'static str, &'static str), (u64, &Wait)> =
            HashMap::with_capacity(self.open);
        for wait in &look.snapshot.waits {
            let Standing { judgement, is_excused } = (look.standing)(wait);
            excused += u64::from(is_excused);
            *waiting.entry(judgement.class).or_default() += 1;
            let key = (wait.thread.process, wait.call.name(), kind_of(&wait.fd_state));
            // Earlier sleeps of the same wait have been counted when they ended.
            open.entry(key).or_insert((0, wait)).0 += wait.asleep().as_nanos() as u64;
        }
        self.open = open.len();
        let mut state = self.metrics.lock();
        (state.waiting, state.excused) = (waiting, excused);
        for wait in look.snapshot.waits.iter().filter(|wait| is_main(wait)) {
            if state.name(&wait.thread.process).is_some_and(|known| known != wait.comm) {
                state.set_name(wait.thread.process, wait.comm.to_string());
            }
        }
        state.reset_open();
        state.set_users(open.iter().map(|((process, ..), (_, wait))| (*process, wait.uid)).collect());
        for ((process, syscall, kind), (ns, wait)) in open {
            if state.add_open(BlockedKey { process: Some(process), syscall, kind }, ns)
                && state.name(&process).is_none()
            {
                if is_main(wait) {
                    state.set_name(process, wait.comm.to_string());
                } else {
                    self.unnamed.entry(process).or_insert_with(|| wait.comm.to_string());
                }
            }
        }
        state.expired(look.snapshot.monotonic_ns)
    }

    /// Ends the look's account.
    fn settle(&self, look: &Look<'_>, names: Vec<(ProcessId, String)>, alive: &HashSet<ProcessId>) {
        let mut state = self.metrics.lock();
        names.into_iter().for_each(|(process, name)| state.set_name(process, name));
        // What is frozen in its sleep goes on with it.
        let held: HashSet<ProcessId> =
            look.snapshot.suspended.iter().map(|held| held.thread.process).collect();
        let is_held =
            |process: Option<&ProcessId>| process.map_or(!held.is_empty(), |process| held.contains(process));
        state.settle(
            look.snapshot.monotonic_ns,
            |process| look.ends_by_calls || is_held(process),
            |process| alive.contains(process),
        );
        state.interval = look.interval;
        state.requests = look.requests;
        state.incoming = ServiceSeries::all(look.incoming);
        state.unclosed = ServiceSeries::all(look.unclosed);
        state.add_snapshot(look.snapshot.source, look.snapshot.duration);
        state.show_stalls(look.stalls, look.incident_of);
        state.show_incidents(look.incidents);
        let series = (state.without_series > 0).then_some(Cause::Series);
        look.blinded_by.iter().copied().chain(series).for_each(|cause| state.blind.report(cause));
        let said = state.blind.settle(look.snapshot.monotonic_ns);
        drop(state);
        said.iter().for_each(|line| human::say(line));
    }
}

impl Sink for Account {
    fn stall_opened(&mut self, notice: &Notice) {
        if let Some(class) = notice.stall.wait.class {
            *self.metrics.lock().opened.entry(class).or_default() += 1;
        }
    }

    fn waits_ended(&mut self, ended: &EndedWaits) {
        let process = ended.process;
        let (syscall, kind) = (ended.syscall.name(), ended.file.as_ref().map_or("none", kind_of_file));
        // As it was called when the first of these waits ended: since the last look it may have executed another program.
        let comm = ended.comm.to_string();
        let mut state = self.metrics.lock();
        let blocked = BlockedKey { process: Some(process), syscall, kind };
        if state.add_blocked(blocked, ended.histogram.sum_ns)
            && state.name(&process).is_none_or(|known| known != comm)
        {
            self.unnamed.entry(process).or_insert_with(|| comm.clone());
        }
        state.add_durations(DurationKey { comm, syscall, kind }, &ended.histogram);
    }

    fn answers_read(&mut self, answers: &Answers) {
        let key = ResponseKey { comm: answers.comm.to_string(), remote: Some(answers.remote) };
        self.metrics.lock().add_responses(key, &answers.histogram);
    }

    fn lost(&mut self, losses: &[(Loss, u64)]) {
        let mut state = self.metrics.lock();
        state.lost.extend(losses.iter().copied());
        // What nobody is there to lose is not lost: rates need the zero before the first.
        Loss::ALL.iter().for_each(|loss| _ = state.lost.entry(*loss).or_default());
    }

    fn look_ended(&mut self, look: &Look<'_>) {
        let expired = self.count_open(look);
        // What is read may take its time, and whoever scrapes waits for these numbers.
        let names = self.read_names();
        let alive = living(expired);
        self.settle(look, names, &alive);
    }
}

/// Whether it is of a process's first thread, whose name is the process's.
fn is_main(wait: &Wait) -> bool {
    wait.thread.tid == wait.thread.process.pid
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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::{
        assess::sink::{OfService, Sinks},
        history::samples::flagged,
        metrics::{health::Health, page},
        model::{
            histogram::{BUCKETS, WaitHistogram},
            request::RequestNumbers,
            syscalls::Syscall,
            wait::Snapshot,
        },
        resolve::process::ProcessMeta,
        util::clock::Now,
        wire::{
            culprit::{CulpritKind, CulpritObject},
            incident::IncidentObject,
        },
    };

    /// A loop of which nothing else is known tells two sinks; what a scrape then shows.
    fn scraped(tell: impl FnOnce(&mut Sinks)) -> (String, Arc<Health>) {
        let (metrics, health) = (Arc::<Metrics>::default(), Arc::<Health>::default());
        let account = Account::new(Arc::clone(&metrics), vec![("snapshot", "iter", true)]);
        tell(&mut Sinks::default().and(account).and(Arc::clone(&health)));
        (String::from_utf8(page(&metrics).expect("encodes")).expect("is text"), health)
    }

    #[test]
    fn what_a_look_has_found_is_on_the_page() {
        let (page, health) = scraped(|sinks| {
            let stall = flagged(7, 10);
            sinks.stall_opened(&stall);
            let buckets = [1; BUCKETS];
            sinks.waits_ended(&EndedWaits {
                // No process has such an id.
                process: ProcessId { pid: 1 << 22 | 8, start_ns: 1 },
                comm: "ended".into(),
                syscall: Syscall::Read,
                file: None,
                histogram: WaitHistogram { count: 3, sum_ns: 2_000_000_000, buckets },
            });
            sinks.lost(&[(Loss::LookCut, 5)]);
            let incident = IncidentObject {
                id: "6a-1".into(),
                opened: jiff::Timestamp::UNIX_EPOCH,
                closed: None,
                name: "postgres (pid 812)".into(),
                culprit: CulpritObject {
                    pid: Some(812),
                    comm: Some("postgres".into()),
                    ..CulpritObject::of_kind(CulpritKind::Process)
                },
                stalls: 24,
                processes: 4,
                units: BTreeMap::new(),
                stacks: Vec::new(),
                oldest: Duration::from_secs(90),
                owner: None,
            };
            let who = ProcessMeta { unit: Some("shop.service".into()), ..ProcessMeta::default() };
            let local = "10.0.0.7:8080".parse::<std::net::SocketAddr>().expect("is one").into();
            let owner = Some(("node".into(), Arc::new(who), Some(local)));
            let owed =
                |owner, number, seconds| OfService { owner, number, oldest: Duration::from_secs(seconds) };
            // Two networks may have the same address.
            let incoming = [owed(owner.clone(), 1, 40), owed(owner, 2, 30), owed(None, 9, 5)];
            let mut snapshot = Snapshot::empty(&Now::read(), "bpf");
            snapshot.waits = vec![stall.wait.clone()];
            sinks.look_ended(&Look {
                snapshot: &snapshot,
                standing: &|_| Standing { judgement: Class::Reply.into(), is_excused: true },
                stalls: &BTreeMap::from([(stall.wait.thread, stall.clone())]),
                incidents: &[&incident],
                incident_of: &|_| Some("6a-1"),
                blinded_by: &[Cause::LookCut],
                interval: Duration::from_millis(1500),
                requests: RequestNumbers { due: 2, unknown: 3, not_due: 4, ..RequestNumbers::default() },
                incoming: &incoming,
                unclosed: &[owed(Some(("python3".into(), Arc::default(), None)), 60, 600)],
                ends_by_calls: false,
            });
        });
        for line in [
            r#"tracer_stalls_total{class="reply"} 1"#,
            r#"tracer_incident_seconds{incident="6a-1",culprit="postgres (pid 812)",pid="812",comm="postgres",remote=""} 90"#,
            r#"tracer_incident_stalls{incident="6a-1",culprit="postgres (pid 812)",pid="812",comm="postgres",remote=""} 24"#,
            r#"tracer_open_incidents 1"#,
            r#"tracer_open_stalls{class="reply"} 1"#,
            r#"tracer_waiting_threads{class="reply"} 1"#,
            r#"tracer_waits_excused 1"#,
            r#"tracer_stalls_without_series 0"#,
            r#"tracer_wait_duration_seconds_count{comm="ended",syscall="read",kind="none"} 3"#,
            r#"tracer_blocked_seconds_total{pid="4194312",comm="ended",syscall="read",kind="none"} 2"#,
            r#"tracer_blocked_seconds_total{pid="7",comm="test",syscall="recvfrom",kind="none"} 60"#,
            r#"tracer_lost_events_total{reason="look_cut"} 5"#,
            r#"tracer_blind{cause="look_cut"} 1"#,
            r#"tracer_blind{cause="series"} 0"#,
            r#"tracer_probe_up{probe="snapshot",mechanism="iter"} 1"#,
            r#"tracer_snapshot_duration_seconds_count{source="bpf"} 1"#,
            "tracer_look_interval_seconds 1.5",
            r#"tracer_open_requests{answer="yes"} 2"#,
            r#"tracer_open_requests{answer="unknown"} 3"#,
            r#"tracer_open_requests{answer="no"} 4"#,
            r#"tracer_incoming_requests{comm="node",unit="shop.service",namespace="",pod="",container="",local="10.0.0.7:8080"} 3"#,
            r#"tracer_incoming_request_seconds{comm="node",unit="shop.service",namespace="",pod="",container="",local="10.0.0.7:8080"} 40"#,
            r#"tracer_incoming_requests{comm="other",unit="other",namespace="other",pod="other",container="other",local="other"} 9"#,
            r#"tracer_unclosed_connections{comm="python3",unit="",namespace="",pod="",container=""} 60"#,
        ] {
            assert!(page.contains(&format!("{line}\n")), "{line}:\n{page}");
        }
        assert!(page.contains(r#"tracer_stall_seconds{pid="7",tid="7","#), "{page}");
        assert!(health.ready.load(std::sync::atomic::Ordering::Relaxed));
        assert_eq!(health.trouble(), Some("no snapshot for too long\n"), "its patience is zero");
    }

    #[test]
    fn of_too_many_stalls_some_have_no_series_and_that_is_said() {
        let (page, _) = scraped(|sinks| {
            let stalls: BTreeMap<_, _> = (1..=201)
                .map(|pid| {
                    let mut stall = flagged(pid, 10);
                    stall.wait.age = Duration::from_secs(u64::from(pid));
                    (stall.wait.thread, stall)
                })
                .collect();
            sinks.look_ended(&Look {
                snapshot: &Snapshot::empty(&Now::read(), "bpf"),
                standing: &|_| Standing { judgement: Class::Reply.into(), is_excused: false },
                stalls: &stalls,
                incidents: &[],
                incident_of: &|_| None,
                blinded_by: &[],
                interval: Duration::from_secs(1),
                requests: RequestNumbers::default(),
                incoming: &[],
                unclosed: &[],
                ends_by_calls: false,
            });
        });
        let series: Vec<&str> =
            page.lines().filter(|line| line.starts_with("tracer_stall_seconds{")).collect();
        assert_eq!(series.len(), 200);
        assert!(!series.iter().any(|line| line.contains(r#"pid="1","#)), "the youngest gives way");
        for line in [
            "tracer_stalls_without_series 1",
            r#"tracer_open_stalls{class="reply"} 201"#,
            r#"tracer_blind{cause="series"} 1"#,
        ] {
            assert!(page.contains(&format!("{line}\n")), "{line}:\n{page}");
        }
    }
}
