//! Does SIGHUP make the agent read its configuration again, and a wrong one change nothing?

use std::time::{Duration, Instant};

use tests::{Agent, Waiter, own_dir, shared, slow};

const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until the agent has said it.
fn until_said(agent: &Agent, what: &str) {
    let begin = Instant::now();
    while !agent.stderr().contains(what) {
        assert!(begin.elapsed() < slow(PATIENCE), "not {what:?}\n{}", agent.stderr());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_new_rule_holds_and_a_wrong_file_changes_nothing() {
    let _shared = shared();
    let path = own_dir().join("reload.toml");
    let write = |text: &str| std::fs::write(&path, text).expect("write");
    write("[[rule]]\ncomm = 'waiter'\nthreshold = 'never'\n");
    let mut agent = Agent::start(&["--config", path.to_str().expect("text")]);
    let waiter = Waiter::start("recvfrom-tcp4");
    waiter.until_age(4.0);

    write("[[rule]]\ncomm = 'waiter'\nthreshold = 3\n");
    agent.signal(libc::SIGHUP);
    until_said(&agent, ":3:13: `threshold`: expected a duration");
    until_said(&agent, "what was configured before still holds");
    std::thread::sleep(Duration::from_millis(2_500));
    assert!(agent.events_of(waiter.pid()).is_empty());

    write("[[rule]]\ncomm = 'waiter'\nthreshold = '3s'\nnote = 'anew'\n");
    agent.signal(libc::SIGHUP);
    until_said(&agent, "fine, 1 rule");
    let (event, _) = agent.wait_stall("stall_opened", waiter.pid(), PATIENCE);
    assert_eq!(event["note"], "anew");

    // What is open stays so, whatever the rules say of others.
    write("[agent]\nlisten = '127.0.0.1:1'\n");
    agent.signal(libc::SIGHUP);
    until_said(&agent, "of [agent] only `threshold` holds before the agent starts again");
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(agent.events_of(waiter.pid()), ["stall_opened"]);
}
