//! Can one user keep the agent from another's hang? Attackers are an ordinary user, the victim is root's.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use tests::{Agent, Sample, Waiter, alone, own_dir, slow, tracer};

/// The attacker.
const USER: u32 = 65_534;
/// The agent's threshold, and how much later the victim may be flagged.
const THRESHOLD: Duration = Duration::from_secs(3);
const LATE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);

fn value(all: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    all.iter().filter(|sample| sample.is(name, labels)).map(|sample| sample.value).sum()
}

/// A hang of root's, seen in time: flagged, with a series, by `ps`.
fn victim_is_seen(agent: &mut Agent) -> Waiter {
    let victim = Waiter::start("recvfrom-tcp4");
    agent.wait_stall("stall_opened", victim.pid(), THRESHOLD + LATE);
    let pid = victim.pid().to_string();
    agent.wait_scrape(LATE, |all| value(all, "tracer_stall_seconds", &[("pid", &pid)]) > 0.0);
    let output = Command::new(tracer())
        .args(["ps", "--source", "agent", "--json", "-p", &pid, "--socket"])
        .arg(agent.socket())
        .output()
        .expect("tracer starts");
    let page = String::from_utf8_lossy(&output.stdout);
    assert!(page.contains(&format!("\"pid\":{pid},")), "{page}{}", String::from_utf8_lossy(&output.stderr));
    victim
}

/// More stalls than there are series, and than the hook may be run for: the victim has its series and its run.
#[test]
fn a_flood_of_stalls_leaves_room_for_another_user() {
    const FLOOD: usize = 250;
    let _alone = alone();
    let (path, out) = (own_dir().join("flood.toml"), own_dir().join("flood.out"));
    let hook = format!("on_stall = ['/bin/sh', '-c', 'cat >> {}']\n", out.display());
    fs::write(&path, format!("[agent]\n{hook}on_stall_a_minute = 10\nthreshold = '3s'\n")).expect("write");
    let mut agent = Agent::start(&["--config", path.to_str().expect("text")]);
    let flood = Waiter::start_as(USER, "threads", &[&FLOOD.to_string()]);
    let open = |all: &[Sample]| value(all, "tracer_open_stalls", &[("class", "reply")]);
    agent.wait_scrape(PATIENCE, |all| open(all) >= FLOOD as f64);
    // As many as it will be told of for now.
    let told = |pid: u32| {
        let text = fs::read_to_string(&out).unwrap_or_default();
        text.matches(&format!("\"pid\":{pid},")).count()
    };
    let begin = Instant::now();
    let lost = [("reason", "hook_not_run")];
    agent.wait_scrape(PATIENCE, |all| value(all, "tracer_lost_events_total", &lost) >= (FLOOD - 10) as f64);

    let victim = victim_is_seen(&mut agent);
    while told(victim.pid()) == 0 {
        assert!(begin.elapsed() < slow(PATIENCE), "it is not told of it\n{}", agent.stderr());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!((1..10).contains(&told(flood.pid())), "{}", told(flood.pid()));
    let all = agent.scrape();
    let series = all.iter().filter(|sample| sample.name == "tracer_stall_seconds").count();
    let without = value(&all, "tracer_stalls_without_series", &[]);
    assert_eq!((series, value(&all, "tracer_open_stalls", &[])), (200, 200.0 + without));
    assert!(without >= (FLOOD - 199) as f64, "{without}");
    assert!(value(&all, "tracer_blind", &[("cause", "series")]) == 1.0, "{}", agent.page());
    assert_eq!(agent.stderr().matches("does not see everything (series)").count(), 1, "{}", agent.stderr());
}
