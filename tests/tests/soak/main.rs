//! Does an agent stay what it was under load, for as long as `TRACER_SOAK_SECONDS` says? Processes that come and go by the
//! thousand, some 100,000 context switches a second, a scrape a second, a mount that does not answer, a user with more stalls
//! than there are series, and hangs that must all be found. What it measured is printed: docs/RELIABILITY.md has it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tests::{Agent, Family, HungMount, NOBODY, Waiter, alone};

const PATIENCE: Duration = Duration::from_secs(30);
/// How often a hang is planted.
const EVERY: Duration = Duration::from_secs(4);
/// Until the agent has taken the memory it needs, at most: half of a short run.
const WARM: Duration = Duration::from_secs(90);
/// What the agent has been seen to take on in half an hour of floods that come and go, KiB. More is growth.
const FLOODED: f64 = 4096.0;
/// Of one core; the machine's two are busy with the load.
const MOST_CPU: f64 = 10.0;
/// An answer that takes longer is looked into.
const LATE: Duration = Duration::from_millis(400);

/// Its stalls: more than there are series.
const FLOOD: &str = "250";
/// How often the flood ebbs and comes again.
const EBB: Duration = Duration::from_secs(30);
/// What hangs on the mount, each as root and as nobody.
const ON_THE_MOUNT: &[&str] =
    &["open", "stat", "statfs", "chdir", "execve", "fault", "write", "poll", "exec-closing"];
/// Readers that are left behind at a time, of root's and of nobody's processes together.
const FEW: usize = 2 * 4;

/// A mount whose server has taken requests and answers none, with processes that hang on it.
fn hang(life: Duration) -> Option<HungMount> {
    let mount = HungMount::start_for(life)?;
    for (number, role) in ON_THE_MOUNT.iter().enumerate() {
        mount.prepare(role, &mount.file(number));
        mount.prepare_as(NOBODY, role, &mount.file(number));
    }
    mount.hang();
    mount.begin();
    assert_eq!(mount.woken(), [""; 0], "they hang");
    Some(mount)
}

/// The agent's readers: all of them, and those that hang.
fn readers(agent: &Agent) -> (usize, usize) {
    let status = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let all: Vec<String> = Family::below(agent.pid()).iter().map(status).collect();
    let all = all.iter().filter(|status| status.starts_with("Name:\ttracer-reader\n"));
    let hang = |status: &&String| status.contains("State:\tD") || status.contains("State:\tZ");
    (all.clone().count(), all.filter(hang).count())
}

/// Two threads that hand a byte to and fro, on any CPU.
struct PingPong(Arc<AtomicBool>);

impl PingPong {
    fn start() -> Self {
        let go_on = Arc::new(AtomicBool::new(true));
        let (mut near, mut far) = UnixStream::pair().expect("a pair");
        std::thread::spawn(move || {
            let mut byte = [0];
            while far.read_exact(&mut byte).is_ok() && far.write_all(&byte).is_ok() {}
        });
        let goes_on = Arc::clone(&go_on);
        std::thread::spawn(move || {
            let mut byte = [1];
            while goes_on.load(Ordering::Relaxed) && near.write_all(&byte).is_ok() {
                if near.read_exact(&mut byte).is_err() {
                    return;
                }
            }
        });
        Self(go_on)
    }
}

impl Drop for PingPong {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Looks at the agent's threads while an answer of it is late, so that a failure says why.
struct Watchdog {
    /// When the request was sent, milliseconds since the watchdog started; 0 while there is none.
    asked_ms: Arc<AtomicU64>,
    begin: Instant,
    /// What was seen of the first late answers.
    seen: Arc<Mutex<Vec<String>>>,
}

impl Watchdog {
    fn start(agent: u32) -> Self {
        let (asked_ms, begin, seen) = (Arc::new(AtomicU64::new(0)), Instant::now(), Arc::default());
        let watchdog = Self { asked_ms, begin, seen };
        let (asked, seen) = (Arc::clone(&watchdog.asked_ms), Arc::clone(&watchdog.seen));
        std::thread::spawn(move || {
            loop {
                sleep(LATE / 4);
                let (since, now) = (asked.load(Ordering::Relaxed), begin.elapsed().as_millis() as u64);
                if since == 0 || now.saturating_sub(since) < LATE.as_millis() as u64 {
                    continue;
                }
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.len() < 20 {
                    seen.push(format!("after {since} ms, for {} ms:\n{}", now - since, threads_of(agent)));
                }
            }
        });
        watchdog
    }

    /// Asks for a page; how long that took.
    fn ask(&self, agent: &Agent) -> Duration {
        let begin = Instant::now();
        self.asked_ms.store((self.begin.elapsed().as_millis() as u64).max(1), Ordering::Relaxed);
        assert_eq!(agent.get("/metrics").map(|(status, _)| status), Some(200));
        self.asked_ms.store(0, Ordering::Relaxed);
        begin.elapsed()
    }

    fn seen(&self) -> String {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}

/// What each thread of the agent is doing, and of this one's.
fn threads_of(agent: u32) -> String {
    let mut text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    for pid in [agent, std::process::id()] {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let file = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let status = file("status");
            let state = status.lines().find(|line| line.starts_with("State:")).unwrap_or_default().to_owned();
            let (comm, call, stack) = (file("comm"), file("syscall"), file("stack"));
            let stack: Vec<&str> =
                stack.lines().filter_map(|line| line.split(' ').nth(1)?.split('+').next()).collect();
            text += &format!(
                "{} {} {} {} {}\n",
                comm.trim(),
                state,
                file("schedstat").trim(),
                call.trim(),
                stack.join(" ")
            );
        }
    }
    text
}

/// A counter of the host's: `ctxt` or `processes` of `/proc/stat`.
fn of_host(name: &str) -> u64 {
    let stat = fs::read_to_string("/proc/stat").expect("/proc");
    let line = stat.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|number| number.trim().parse().ok()).expect("a number")
}

fn resident_kib(agent: &Agent) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("an agent");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    line.and_then(|number| number.parse().ok()).expect("a number")
}

/// CPU seconds of the agent's threads.
fn cpu(agent: &Agent) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid())).expect("an agent");
    let each = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok());
    each.filter_map(|text| text.split(' ').next()?.parse::<f64>().ok()).sum::<f64>() / 1e9
}

/// The sleeps of the storm's processes, one each: those that were measured, and those counted as lost.
fn sleeps(agent: &Agent) -> (f64, f64) {
    let sum = |name, labels: &[(&str, &str)]| {
        agent.samples(name, labels).iter().map(|sample| sample.value).sum::<f64>()
    };
    let measured =
        sum("tracer_wait_duration_seconds_count", &[("comm", "waiter"), ("syscall", "clock_nanosleep")]);
    (measured, sum("tracer_lost_events_total", &[("reason", "histogram_full")]))
}

#[test]
#[expect(clippy::too_many_lines, reason = "one run, of which everything is measured")]
fn it_stays_what_it_was_and_misses_nothing() {
    let _alone = alone();
    let seconds = std::env::var("TRACER_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(120);
    let long = Duration::from_secs(seconds).max(Duration::from_secs(60));
    let mut agent = Agent::start(&["--threshold", "2s"]);
    let _storm = Waiter::start("storm");
    let _ping_pong = PingPong::start();
    sleep(Duration::from_secs(5));
    let (at_work, _) = readers(&agent);
    // Longer than all of it, also where the machine is slow.
    let mount = hang(2 * long + 10 * WARM);
    let start_flood = || Waiter::start_as(NOBODY, "threads", &[FLOOD]);
    let (mut flood, mut flooded) = (start_flood(), Instant::now());
    sleep(WARM.min(long / 2));

    let watchdog = Watchdog::start(agent.pid());
    let begin = Instant::now();
    let slept = sleeps(&agent);
    let (switches, processes, used, first) =
        (of_host("ctxt"), of_host("processes"), cpu(&agent), resident_kib(&agent));
    let (mut least, mut most) = (first, first);
    let (mut planted, mut slowest_scrape) = (0_u32, Duration::ZERO);
    let mut hanging: Vec<Waiter> = Vec::new();
    let mut next_plant = Instant::now();
    let (mut most_readers, mut most_left) = (0, 0);
    while begin.elapsed() < long {
        let tick = Instant::now();
        if tick >= next_plant {
            next_plant = tick + EVERY;
            // The one before has hung for four seconds, twice its threshold.
            for mut waiter in hanging.drain(..) {
                let (pid, begun) = (waiter.pid(), waiter.begun_ns());
                agent.wait_stall("stall_opened", pid, PATIENCE);
                let truth = tests::seconds_between(begun, waiter.answer());
                let (event, _) = agent.wait_stall("stall_closed", pid, PATIENCE);
                let lasted = event["stall_seconds"].as_f64().expect("a number");
                assert!((truth - lasted).abs() < 1.0, "{truth} s: {event:#}");
                assert_eq!(agent.events_of(pid), ["stall_opened", "stall_closed"]);
                agent.forget(pid);
            }
            hanging.push(Waiter::start("recvfrom-tcp4"));
            planted += 1;
        }
        if flooded.elapsed() >= EBB {
            (flood, flooded) = (start_flood(), Instant::now());
        }
        let (all, left) = readers(&agent);
        (most_readers, most_left) = (most_readers.max(all), most_left.max(left));
        let stolen = tests::stolen_seconds();
        let took = watchdog.ask(&agent);
        // Not what a hypervisor has taken meanwhile.
        let stolen = Duration::from_secs_f64(tests::stolen_seconds() - stolen);
        slowest_scrape = slowest_scrape.max(took.saturating_sub(stolen));
        let resident = resident_kib(&agent);
        (least, most) = (least.min(resident), most.max(resident));
        sleep(Duration::from_secs(1).saturating_sub(tick.elapsed()));
    }
    let passed = begin.elapsed().as_secs_f64();
    let rate = |before: u64, name: &str| (of_host(name) - before) as f64 / passed;
    let share = (cpu(&agent) - used) / passed * 100.0;
    let (switches, processes) = (rate(switches, "ctxt"), rate(processes, "processes"));
    let after = sleeps(&agent);
    let (measured, lost) = (after.0 - slept.0, after.1 - slept.1);
    let accounted = (measured + lost) / (processes * passed);
    let losses: Vec<String> = agent
        .samples("tracer_lost_events_total", &[])
        .iter()
        .filter(|sample| sample.value > 0.0)
        .map(|sample| format!("{} {}", sample.value, sample.label("reason")))
        .collect();
    drop(flood);
    let abandoned = agent.samples("tracer_lost_events_total", &[("reason", "reads_abandoned")])[0].value;
    if let Some(mount) = mount {
        assert_eq!(mount.woken(), [""; 0], "they hang to the end");
        assert!(abandoned > 0.0, "nothing of what hangs was read");
        mount.answer();
        let released = Instant::now();
        while readers(&agent).1 > 0 {
            assert!(released.elapsed() < PATIENCE, "readers that were left behind are still there");
            sleep(Duration::from_millis(100));
        }
    }
    println!("| seconds | {passed:.0} |");
    println!("| processes a second | {processes:.0} |");
    println!("| context switches a second | {switches:.0} |");
    println!("| hangs planted, found, timed within a second, told once | {planted} |");
    println!("| resident memory | {:.1} to {:.1} MiB |", least / 1024.0, most / 1024.0);
    println!("| CPU | {share:.1} % of a core |");
    println!("| slowest scrape | {:.0} ms |", slowest_scrape.as_secs_f64() * 1000.0);
    println!("| readers at a time, of which hung | {most_readers}, {most_left} |");
    println!(
        "| losses, counted | {} |",
        if losses.is_empty() { "none".to_owned() } else { losses.join(", ") }
    );
    println!("| of the processes' sleeps measured, counted as lost | {measured:.0}, {lost:.0} |");
    println!("| together, of the processes begun | {:.1} % |", accounted * 100.0);
    assert!(most_readers <= at_work + FEW, "{most_readers} readers at a time");
    // What ends between the last look and the end of the count is in the next one: looks are three seconds apart at most.
    let edge = 0.03 + 3.0 / passed;
    assert!((1.0 - edge..=1.0 + edge).contains(&accounted), "{measured} measured, {lost} lost, {accounted}");
    // How many a machine makes depends on it: from 80,000 to twice as many on two processors.
    assert!(switches >= 50_000.0, "the load is no load: {switches} switches a second");
    assert!(processes >= 2_000.0, "the load is no load: {processes} processes a second");
    assert!(most <= least * 1.1 + FLOODED, "resident memory went from {least} to {most} KiB");
    assert!(share <= MOST_CPU, "{share} % of a core");
    assert!(slowest_scrape < Duration::from_secs(1), "{slowest_scrape:?}:\n{}", watchdog.seen());
}
