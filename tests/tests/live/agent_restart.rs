//! What does an agent know of the one before it?

use std::time::Duration;

use tests::{Agent, Waiter, own_dir, shared};

const PATIENCE: Duration = Duration::from_secs(10);

/// A stall that was announced is not announced again; it is shown, and its end is told.
#[test]
fn a_stall_open_at_a_restart_is_announced_once() {
    let _shared = shared();
    let dir = own_dir().join("restarted");
    let args = ["--threshold", "1s", "--state-dir", dir.to_str().expect("UTF-8")];
    let mut waiter = Waiter::start("recvfrom-tcp4");
    let mut first = Agent::start(&args);
    first.wait_stall("stall_opened", waiter.pid(), PATIENCE);
    // Not even if it is killed, a moment later.
    std::thread::sleep(Duration::from_secs(3));
    first.stop(libc::SIGKILL);
    let mut second = Agent::start(&args);
    let pid = waiter.pid().to_string();
    let shown =
        |samples: &[tests::Sample]| samples.iter().any(|s| s.is("tracer_stall_seconds", &[("pid", &pid)]));
    second.wait_scrape(PATIENCE, shown);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(second.events_of(waiter.pid()), Vec::<String>::new());
    let other = Waiter::start("recvfrom-tcp4");
    second.wait_stall("stall_opened", other.pid(), PATIENCE);
    waiter.answer();
    let (event, _) = second.wait_stall("stall_closed", waiter.pid(), PATIENCE);
    assert_eq!(event["ended"], "resumed", "{event:#}");
}

/// A state file that is none, or cannot be written, costs what it would have known.
#[test]
fn a_broken_state_is_no_hindrance() {
    let _shared = shared();
    let dir = own_dir().join("broken-state");
    std::fs::create_dir_all(&dir).expect("a folder");
    std::fs::write(dir.join("state.json"), b"{ not json").expect("write");
    let mut agent = Agent::start(&["--threshold", "1s", "--state-dir", dir.to_str().expect("UTF-8")]);
    let waiter = Waiter::start("recvfrom-tcp4");
    agent.wait_stall("stall_opened", waiter.pid(), PATIENCE);
}
