//! Are stopped, traced and frozen threads told apart from waiting ones, and is a stall only suspended meanwhile?

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tests::{Agent, Traced, Waiter, age_tolerance, ps, seconds_between, shared, slow, tracer, unsupported};

use crate::agent_stopped::ends_as_one;

const PATIENCE: Duration = Duration::from_secs(10);

fn table(pid: u32) -> String {
    let output = Command::new(tracer()).args(["ps", "--all", "-p", &pid.to_string()]).output();
    let output = output.expect("tracer starts");
    assert!(output.status.success(), "{}", output.status);
    String::from_utf8(output.stdout).expect("the table is UTF-8")
}

/// Held threads are counted in the footer, and no row claims a wait with a fresh age for them.
fn shown_as(waiter: &Waiter, word: &str) {
    let page = table(waiter.pid());
    let footer = page.lines().last().expect("a footer");
    assert!(footer.contains(&format!("1 thread {word}")), "{page}");
    let rows = ps(&["--all", "--min-age", "0s", "-p", &waiter.pid().to_string()]).rows;
    assert!(rows.is_empty(), "{rows:#?}");
}

/// After the hold it waits as before; when it began is not known any more, so the age is a least value.
fn waits_again(waiter: &Waiter) {
    let begin = Instant::now();
    let snapshot = loop {
        let snapshot = ps(&["--all", "--min-age", "0s", "-p", &waiter.pid().to_string()]);
        if !snapshot.rows.is_empty() {
            break snapshot;
        }
        assert!(begin.elapsed() < slow(PATIENCE), "no row {:?} after the hold", begin.elapsed());
    };
    let row = snapshot.row(waiter.tid());
    assert_eq!((&row["syscall"], &row["age_exact"]), (&"recvfrom".into(), &false.into()), "{row:#}");
    let most = seconds_between(waiter.begun_ns(), snapshot.after_ns) + age_tolerance();
    assert!(row["age_seconds"].as_f64().is_some_and(|age| age <= most), "at most {most:.3}: {row:#}");
}

/// Waits until `/proc` shows the thread in one of these states.
pub(super) fn until_state(waiter: &Waiter, states: &[char]) {
    let begin = Instant::now();
    let path = format!("/proc/{}/stat", waiter.pid());
    let is_it = |stat: String| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(states));
    while !fs::read_to_string(&path).is_ok_and(is_it) {
        assert!(begin.elapsed() < slow(PATIENCE), "not in state {states:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn stopped() {
    let waiter = Waiter::start("recvfrom-tcp4");
    waiter.until_age(0.5);
    waiter.stop();
    until_state(&waiter, &['T']);
    shown_as(&waiter, "stopped");
    waiter.go_on();
    waits_again(&waiter);
}

#[test]
fn traced() {
    let waiter = Waiter::start("recvfrom-tcp4");
    waiter.until_age(0.5);
    let traced = Traced::begin(waiter.pid());
    until_state(&waiter, &['t']);
    shown_as(&waiter, "traced");
    drop(traced);
    waits_again(&waiter);
}

/// A control group of the test's own, removed when dropped: drop the waiter inside it first.
pub(super) struct Group {
    path: PathBuf,
    freeze: (&'static str, &'static str, &'static str),
}

impl Group {
    /// In the first mounted hierarchy of this type with this option.
    fn new(kind: &str, option: &str, freeze: (&'static str, &'static str, &'static str)) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/mounts").expect("/proc");
        let root = mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let is_it =
                fields[2] == kind && fields[3].split(',').any(|has| option.is_empty() || has == option);
            is_it.then(|| Path::new(fields[1]).to_owned())
        })?;
        // Tests run in parallel, in one process.
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = root.join(format!("tracer-tests-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("a control group");
        Some(Self { path, freeze })
    }

    pub(super) fn v2() -> Option<Self> {
        Self::new("cgroup2", "", ("cgroup.freeze", "1", "0"))
    }

    pub(super) fn v1() -> Option<Self> {
        Self::new("cgroup", "freezer", ("freezer.state", "FROZEN", "THAWED"))
    }

    pub(super) fn add(&self, waiter: &Waiter) {
        fs::write(self.path.join("cgroup.procs"), waiter.pid().to_string()).expect("move a process");
    }

    /// Frozen until the result is dropped.
    pub(super) fn frozen(&self) -> Frozen<'_> {
        let (file, on, _) = self.freeze;
        fs::write(self.path.join(file), on).expect("freeze");
        let begin = Instant::now();
        let is_frozen = || match file {
            "cgroup.freeze" => fs::read_to_string(self.path.join("cgroup.events"))
                .is_ok_and(|events| events.contains("frozen 1")),
            _ => fs::read_to_string(self.path.join(file)).is_ok_and(|state| state.trim() == on),
        };
        while !is_frozen() {
            assert!(begin.elapsed() < slow(PATIENCE), "the group does not freeze");
            std::thread::sleep(Duration::from_millis(5));
        }
        Frozen(self)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process leaves its group some time after it was waited for.
        for _ in 0..100 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("{} is left behind", self.path.display());
    }
}

pub(super) struct Frozen<'a>(&'a Group);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let (file, _, off) = self.0.freeze;
        fs::write(self.0.path.join(file), off).expect("thaw");
    }
}

fn freeze(group: Option<Group>) {
    let Some(group) = group else { return unsupported("no such hierarchy of control groups is mounted") };
    let waiter = Waiter::start("recvfrom-tcp4");
    group.add(&waiter);
    waiter.until_age(0.5);
    let frozen = group.frozen();
    shown_as(&waiter, "frozen");
    drop(frozen);
    waits_again(&waiter);
}

#[test]
fn frozen_by_cgroup_v2() {
    freeze(Group::v2());
}

#[test]
fn frozen_by_cgroup_v1() {
    freeze(Group::v1());
}

fn freeze_during_a_stall(group: Option<Group>) {
    let Some(group) = group else { return unsupported("no such hierarchy of control groups is mounted") };
    let _shared = shared();
    let mut agent = Agent::start(&["--threshold", "2s"]);
    let mut waiter = Waiter::start("recvfrom-tcp4");
    group.add(&waiter);
    agent.wait_stall("stall_opened", waiter.pid(), PATIENCE);
    let frozen = group.frozen();
    std::thread::sleep(Duration::from_secs(3));
    drop(frozen);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(agent.events_of(waiter.pid()), ["stall_opened"]);
    ends_as_one(&mut agent, &mut waiter);
}

#[test]
fn a_stall_outlives_a_freeze_by_cgroup_v2() {
    freeze_during_a_stall(Group::v2());
}

#[test]
fn a_stall_outlives_a_freeze_by_cgroup_v1() {
    freeze_during_a_stall(Group::v1());
}
