//! Is `on_stall` told of each stall once, and can a bad one harm the agent?

use std::fs;
use std::path::{Path, PathBuf};
use std::slice;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Agent, Family, Waiter, own_dir, shared, slow};

const PATIENCE: Duration = Duration::from_secs(10);

/// A configuration with this hook, for the stalls of these alone: other tests have more than a hook is run for. And the
/// file that the hook may write.
fn config(name: &str, script: &str, more: &str, waiters: &[Waiter]) -> (PathBuf, PathBuf) {
    let (path, out) =
        (own_dir().join(format!("hook-{name}.toml")), own_dir().join(format!("hook-{name}.out")));
    let script = script.replace("OUT", out.to_str().expect("text"));
    let mut text = format!("[agent]\non_stall = ['/bin/sh', '-c', '{script}']\n{more}");
    for waiter in waiters {
        text += &format!("[[rule]]\nlocal = '{}'\nthreshold = '2s'\nflag = true\n", waiter.text("local"));
    }
    text += "[[rule]]\ncomm = '*'\nflag = false\n";
    fs::write(&path, text).expect("write");
    (path, out)
}

fn start(path: &Path) -> Agent {
    Agent::start(&["--config", path.to_str().expect("text")])
}

#[test]
fn it_is_given_the_event() {
    let _shared = shared();
    let waiter = Waiter::start("recvfrom-tcp4");
    let (path, out) = config("event", "cat >> OUT; echo >> OUT", "", slice::from_ref(&waiter));
    let mut agent = start(&path);
    let (event, _) = agent.wait_stall("stall_opened", waiter.pid(), PATIENCE);
    let begin = Instant::now();
    let told = || -> Vec<Value> {
        let text = fs::read_to_string(&out).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    while told().is_empty() {
        assert!(begin.elapsed() < slow(PATIENCE), "it is not run\n{}", agent.stderr());
        std::thread::sleep(Duration::from_millis(50));
    }
    // Not again while the stall lasts, nor at its end.
    drop(waiter);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(told(), [event]);
}

#[test]
fn a_bad_one_is_tried_twice_and_counted() {
    let _shared = shared();
    let waiter = Waiter::start("recvfrom-tcp4");
    let (path, out) = config("bad", "echo x >> OUT; exit 3", "", slice::from_ref(&waiter));
    let mut agent = start(&path);
    agent.wait_stall("stall_opened", waiter.pid(), PATIENCE);
    agent.wait_scrape(PATIENCE, |all| {
        all.iter().any(|s| s.is("tracer_lost_events_total", &[("reason", "hook_failed")]) && s.value >= 1.0)
    });
    assert!(agent.stderr().contains("exit status: 3; it is not told of this"), "{}", agent.stderr());
    assert_eq!(fs::read_to_string(&out).expect("it was run").lines().count(), 2);
}

#[test]
fn one_that_never_ends_is_killed_and_holds_nobody_up() {
    let _shared = shared();
    let more = "on_stall_timeout = '500ms'\non_stall_a_minute = 3\n";
    let waiters: Vec<Waiter> = (0..5).map(|_| Waiter::start("recvfrom-tcp4")).collect();
    let (path, out) =
        config("endless", "echo $$ >> OUT; setsid sleep 1000 & echo $! >> OUT; sleep 1000", more, &waiters);
    let mut agent = start(&path);
    for waiter in &waiters {
        agent.wait_stall("stall_opened", waiter.pid(), PATIENCE);
    }
    // Five stalls, three runs at most: two of them for the first, the other four stalls have one left.
    agent.wait_scrape(PATIENCE, |all| {
        let of = |reason| all.iter().find(|s| s.is("tracer_lost_events_total", &[("reason", reason)]));
        of("hook_failed").is_some_and(|s| s.value >= 1.0)
            && of("hook_not_run").is_some_and(|s| s.value >= 3.0)
    });
    let text = fs::read_to_string(&out).expect("it was run");
    let pids: Vec<&str> = text.split_whitespace().collect();
    assert!((2..=6).contains(&pids.len()), "{pids:?}");
    let alive = |pid: &&&str| Path::new("/proc").join(pid).exists();
    assert_eq!(pids.iter().filter(alive).count(), 0, "{pids:?}");
    assert_eq!(agent.get("/-/healthy").map(|(status, _)| status), Some(200));
}

#[test]
fn its_process_ends_with_the_agent() {
    let _shared = shared();
    let (path, _) = config("end", "true", "", &[]);
    let mut agent = start(&path);
    let helpers = Family::below(agent.pid());
    assert!(helpers.len() >= 2, "a runner, and readers: {helpers:?}");
    agent.kill();
    let begin = Instant::now();
    let left = || helpers.iter().filter(|pid| Path::new("/proc").join(pid.to_string()).exists()).count();
    while left() > 0 {
        assert!(begin.elapsed() < slow(PATIENCE), "{} of {helpers:?} stay", left());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The child of an agent whose command line or name has this in it.
fn helper(agent: &Agent, named: &str) -> libc::pid_t {
    let is_it = |pid: &u32| {
        let text = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        text("cmdline").contains(named) || text("comm").trim_end() == named
    };
    let helper = Family::below(agent.pid()).into_iter().find(is_it).expect("there is one");
    libc::pid_t::try_from(helper).expect("a pid")
}

/// Without those who read for it, it sees hardly anything.
#[test]
fn without_its_readers_the_agent_ends() {
    let _shared = shared();
    let agent = Agent::start(&[]);
    // SAFETY: kill takes two numbers; it is the agent's child, and waited for only when the agent ends.
    assert_eq!(unsafe { libc::kill(helper(&agent, "tracer-readers"), libc::SIGKILL) }, 0);
    let begin = Instant::now();
    while !agent.stderr().contains("the process that starts readers of /proc has ended") {
        assert!(begin.elapsed() < slow(PATIENCE), "it does not say so\n{}", agent.stderr());
        std::thread::sleep(Duration::from_millis(20));
    }
    let (status, _) = agent.stop(0);
    assert_eq!(status.code(), Some(1), "{status}");
}

/// A confined agent cannot start it again, so whoever keeps the agent starts both.
#[test]
fn without_its_process_the_agent_ends() {
    let _shared = shared();
    let (path, _) = config("killed", "true", "", &[]);
    let agent = start(&path);
    let runner = agent.child("run-hook").cast_signed();
    // SAFETY: kill takes two numbers; the runner is the agent's child, and waited for only when it has ended.
    assert_eq!(unsafe { libc::kill(runner, libc::SIGKILL) }, 0);
    let begin = Instant::now();
    while !agent.stderr().contains("the process that runs on_stall has ended (signal: 9 (SIGKILL))") {
        assert!(begin.elapsed() < slow(PATIENCE), "it does not say so\n{}", agent.stderr());
        std::thread::sleep(Duration::from_millis(20));
    }
    let (status, _) = agent.stop(0);
    assert_eq!(status.code(), Some(1), "{status}");
    assert!(!Path::new("/proc").join(runner.to_string()).exists(), "{runner} is left");
}
