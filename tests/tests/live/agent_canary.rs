//! Does an agent that does not see say so? It has waits of its own that its looks must find.

use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tests::{Agent, shared, slow, tracer};

const PATIENCE: Duration = Duration::from_secs(20);

fn signal(pid: u32, signal: i32) {
    // SAFETY: kill takes two numbers; the process is the agent's child, which is waited for only when it has ended.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), signal) }, 0);
}

fn until(what: &str, agent: &Agent, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < slow(PATIENCE), "{what} after {PATIENCE:?}\n{}", agent.stderr());
        sleep(Duration::from_millis(100));
    }
}

fn health(agent: &Agent) -> (u16, String) {
    agent.get("/-/healthy").expect("it answers")
}

fn is_blind(agent: &Agent) -> bool {
    agent.samples("tracer_blind", &[("cause", "canary")])[0].value == 1.0
}

#[test]
fn an_agent_that_does_not_find_it_is_not_healthy() {
    let _shared = shared();
    let agent = Agent::start(&[]);
    let canary = agent.child("run-canary");
    // Longer than it is waited for.
    sleep(slow(Duration::from_secs(12)));
    assert_eq!((health(&agent).0, is_blind(&agent)), (200, false), "{}", agent.stderr());
    signal(canary, libc::SIGSTOP);
    until("it is healthy", &agent, || health(&agent).0 == 503);
    assert_eq!(health(&agent).1, "it does not find a wait of its own\n");
    until("it is not blind", &agent, || is_blind(&agent));
    until("it says nothing", &agent, || agent.stderr().contains("does not see everything (canary)"));
    signal(canary, libc::SIGCONT);
    until("it is not healthy", &agent, || health(&agent).0 == 200);
}

/// A confined agent cannot start another.
#[test]
fn without_it_the_agent_ends() {
    let _shared = shared();
    let agent = Agent::start(&[]);
    signal(agent.child("run-canary"), libc::SIGKILL);
    until("it does not say so", &agent, || {
        agent.stderr().contains("the canary has ended (signal: 9 (SIGKILL)): start the agent again")
    });
    let (status, _) = agent.stop(0);
    assert_eq!(status.code(), Some(1), "{status}");
}

#[test]
fn nobody_is_shown_it() {
    let _shared = shared();
    let agent = Agent::start(&["--threshold", "1s"]);
    let pid = agent.child("run-canary").to_string();
    // Looked at, and judged, if it were.
    sleep(slow(Duration::from_secs(4)));
    let shown = Command::new(tracer())
        .args(["ps", "--source", "agent", "--json", "--all", "--min-age", "0s", "-p", &pid, "--socket"])
        .arg(agent.socket())
        .output()
        .expect("tracer starts");
    assert_eq!(String::from_utf8_lossy(&shown.stdout), "", "{}", String::from_utf8_lossy(&shown.stderr));
    let page = agent.page();
    assert!(!page.contains(&format!("pid=\"{pid}\"")), "{page}");
}

/// However it ends.
#[test]
fn it_ends_with_the_agent() {
    let _shared = shared();
    let mut killed = Agent::start(&[]);
    let canary = killed.child("run-canary");
    killed.kill();
    let is_gone = |pid: u32| !Path::new("/proc").join(pid.to_string()).exists();
    until("it stays", &killed, || is_gone(canary));
    let agent = Agent::start(&[]);
    let canary = agent.child("run-canary");
    let (status, _) = agent.stop(libc::SIGTERM);
    assert!(status.success(), "{status}");
    until("it stays", &killed, || is_gone(canary));
}
