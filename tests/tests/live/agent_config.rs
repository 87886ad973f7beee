//! Is a configuration file checked, refused where it is wrong, and obeyed?

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tests::{Agent, Waiter, own_dir, seconds_between, shared, slow, tracer};

/// Writes a file of the test's own.
fn file(name: &str, text: &str) -> PathBuf {
    let path = own_dir().join(format!("{name}.toml"));
    std::fs::write(&path, text).expect("write");
    path
}

/// Exit code, standard output and standard error of `tracer agent` with these arguments.
fn agent(args: &[&str], path: &PathBuf) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = Command::new(tracer())
        .args(["agent", "--config"])
        .arg(path)
        .args(args)
        .output()
        .expect("tracer starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn a_right_file_is_fine() {
    let path = file("right", "[[rule]]\ncomm = 'php*'\nremote = ':6379'\nthreshold = 'never'\n");
    let line = format!("{}: fine, 1 rule\n", path.display());
    assert_eq!(agent(&["--check-config"], &path), (Some(0), line, String::new()));
}

/// A rule for a user whom nobody knows never matches, which nobody would notice.
#[test]
fn a_user_whom_the_host_does_not_know_is_named() {
    let path = file("stranger", "[[rule]]\nuser = ['root', \"no\\nbody\", 7]\nflag = false\n");
    let line = format!(
        "{}: fine, 1 rule; no user in /etc/passwd is called \"no\\nbody\", as a rule has it\n",
        path.display()
    );
    assert_eq!(agent(&["--check-config"], &path), (Some(0), line, String::new()));
}

#[test]
fn a_wrong_file_is_refused_by_the_check_and_by_the_agent() {
    let path = file("wrong", "[[rule]]\ncomm = 'php*'\nthreshhold = 'never'\n");
    let line = format!(
        "tracer: {}:3:1: unknown key `threshhold` in [[rule]]: did you mean `threshold`?\n",
        path.display()
    );
    assert_eq!(agent(&["--check-config"], &path), (Some(1), String::new(), line.clone()));
    assert_eq!(agent(&["--listen", "127.0.0.1:0"], &path), (Some(1), String::new(), line));
}

#[test]
fn a_named_file_must_be_there() {
    let path = own_dir().join("not-there.toml");
    let (code, _, stderr) = agent(&["--check-config"], &path);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("not-there.toml") && stderr.lines().count() == 1, "{stderr}");
}

/// The waiter is flagged once it has waited this long.
fn flagged(agent: &mut Agent, waiter: &Waiter, threshold: f64) {
    let (event, arrived) = agent.wait_stall("stall_opened", waiter.pid(), Duration::from_secs(10));
    let after = seconds_between(waiter.begun_ns(), arrived);
    // As far apart as looks are at most, where there is much to look at, and the design's 100 ms.
    assert!(
        (threshold - 0.1..=threshold + 3.1).contains(&after),
        "{threshold} s, after {after:.3}: {event:#}"
    );
}

#[test]
fn thresholds_of_the_file_hold_and_the_command_line_wins() {
    let _shared = shared();
    let path = file("thresholds", "[agent]\nthreshold = '1h'\n[thresholds]\nreply = '2s'\npipe = '3s'\n");
    let path = path.to_str().expect("UTF-8");
    let mut by_file = Agent::start(&["--config", path]);
    let mut by_flag = Agent::start(&["--config", path, "--threshold", "4s"]);
    let waiters = [Waiter::start("recvfrom-tcp4"), Waiter::start("read-pipe"), Waiter::start("flock")];
    let [reply, pipe, lock] = &waiters;
    flagged(&mut by_file, reply, 2.0);
    flagged(&mut by_file, pipe, 3.0);
    flagged(&mut by_flag, pipe, 3.0);
    flagged(&mut by_flag, reply, 4.0);
    flagged(&mut by_flag, lock, 4.0);
    assert_eq!(by_file.events_of(lock.pid()), Vec::<String>::new());
}

/// One for the class does not: what the server does with the connection tells it from an answer that was cut off.
#[test]
fn a_rule_for_quiet_holds_for_subscriptions_too() {
    let _shared = shared();
    let by_class = file("quiet", "[thresholds]\nquiet = '2s'\n");
    let by_rule = file("quiet-rule", "[[rule]]\nclass = 'quiet'\nthreshold = '3s'\n");
    let start = |path: &Path| Agent::start(&["--config", path.to_str().expect("UTF-8")]);
    let (mut by_class, mut by_rule) = (start(&by_class), start(&by_rule));
    let (subscriber, cut_off) = (Waiter::start("subscribed"), Waiter::start("quiet"));
    flagged(&mut by_class, &cut_off, 2.0);
    for (waiter, said) in
        [(&subscriber, "a subscription, most likely"), (&cut_off, "the rest of an answer is missing")]
    {
        flagged(&mut by_rule, waiter, 3.0);
        let (event, _) = by_rule.wait_stall("stall_opened", waiter.pid(), Duration::from_secs(1));
        assert_eq!(event["wait"]["class"], "quiet", "{event:#}");
        let verdict = event["wait"]["verdict"].as_str().unwrap_or_default();
        assert!(verdict.contains(said), "{verdict}");
    }
    // It is the older of the two.
    assert_eq!(by_class.events_of(subscriber.pid()), Vec::<String>::new());
}

/// Whom an alert names is in `ps`, whatever the class. An agent that does not answer is named, and holds nobody up.
#[test]
fn what_a_rule_has_flagged_is_shown_by_ps() {
    let _shared = shared();
    let path = file("shown", "[agent]\nthreshold = '1h'\n[[rule]]\nclass = 'pipe'\nthreshold = '2s'\n");
    let mut agent = Agent::start(&["--config", path.to_str().expect("UTF-8")]);
    let waiter = Waiter::start("read-pipe");
    let socket = agent.socket();
    let ps = |more: &[&str]| {
        let begin = Instant::now();
        let output = Command::new(tracer()).args(["ps", "--socket"]).arg(&socket).args(more).output();
        let text = String::from_utf8(output.expect("tracer starts").stdout).expect("UTF-8");
        (text, begin.elapsed())
    };
    let row = |text: &str| text.lines().any(|line| line.contains(&format!(" {} ", waiter.pid())));
    waiter.until_age(1.2);
    let (text, _) = ps(&[]);
    assert!(!row(&text) || waiter.age() > 2.0, "nothing has flagged it: {text}");
    flagged(&mut agent, &waiter, 2.0);
    for source in ["bpf", "agent", "proc"] {
        let (text, _) = ps(&["--source", source]);
        let said = text.lines().any(|line| line.contains("flagged by the agent; "));
        assert!(row(&text) && said, "{source}: {text}");
    }
    assert!(!row(&ps(&["--class", "lock"]).0), "another class was asked for");
    agent.signal(libc::SIGSTOP);
    let (text, took) = ps(&[]);
    agent.signal(libc::SIGCONT);
    assert!(text.contains("Cannot tell what the agent has flagged: cannot ask the agent on "), "{text}");
    assert!(took < slow(Duration::from_secs(5)), "{took:?}");
}

#[test]
fn rules_decide_for_the_waits_they_match_and_their_notes_are_told() {
    let _shared = shared();
    let text = "[[rule]]\nsyscall = 'flock'\nflag = false\n\
                [[rule]]\nclass = 'reply'\nremote = '127.0.0.0/8'\nthreshold = '3s'\nnote = 'ask the mute one'\n\
                [[rule]]\nclass = 'reply'\nthreshold = 'never'\n";
    let path = file("rules", text);
    let mut agent = Agent::start(&["--threshold", "1s", "--config", path.to_str().expect("UTF-8")]);
    let waiters = [Waiter::start("recvfrom-tcp4"), Waiter::start("recvfrom-tcp6"), Waiter::start("flock")];
    let [local, other, lock] = &waiters;
    flagged(&mut agent, local, 3.0);
    let (event, _) = agent.wait_stall("stall_opened", local.pid(), Duration::from_secs(1));
    assert_eq!(event["note"], "ask the mute one", "{event:#}");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(agent.events_of(other.pid()), Vec::<String>::new());
    assert_eq!(agent.events_of(lock.pid()), Vec::<String>::new());
}
