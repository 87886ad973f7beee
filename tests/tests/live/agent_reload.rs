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
    until_said(&agent, "the other keys of [agent] take effect when the agent is restarted");
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(agent.events_of(waiter.pid()), ["stall_opened"]);
}

/// They are one, or two where some come later, and what holds in the end is what the file said when the last one came.
#[test]
fn two_thousand_signals_are_few_reloads_and_the_last_one_counts() {
    let _shared = shared();
    let path = own_dir().join("reload-often.toml");
    let write = |rules: usize| {
        let text = "[[rule]]\ncomm = 'waiter'\nthreshold = 'never'\n".repeat(rules);
        std::fs::write(&path, text).expect("write");
    };
    write(1);
    let agent = Agent::start(&["--config", path.to_str().expect("text")]);
    let begin = Instant::now();
    for number in 0..2_000 {
        if number == 1_999 {
            write(7);
        }
        agent.signal(libc::SIGHUP);
        std::thread::sleep(Duration::from_micros(500));
    }
    until_said(&agent, "fine, 7 rules");
    // At most one a second, and the one after the last signal.
    let most = begin.elapsed().as_secs() + 2;
    std::thread::sleep(Duration::from_millis(1_500));
    let said = agent.stderr();
    let reloads: Vec<&str> = said.lines().filter(|line| line.contains("fine, ")).collect();
    assert!((1..=most).contains(&(reloads.len() as u64)), "{most}: {said}");
    assert!(reloads.last().is_some_and(|last| last.contains("7 rules")), "{said}");
}
