//! Which files does the agent's own process name to the kernel while it looks? None that another process, or a file system that is
//! not its own, could keep from it. Its readers, which are its children, may.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tests::{Agent, Waiter, http, own_dir, slow, with_few};

const PATIENCE: Duration = Duration::from_secs(30);

/// Whether nobody else can make a call on this path wait: the agent's own files, what the kernel says of itself and of the agent, and
/// what the host is configured with.
fn is_own(state: &Path, path: &Path) -> bool {
    let places =
        ["/proc/self", "/proc/thread-self", "/proc/sys", "/sys", "/etc", "/usr/share/zoneinfo", "/dev/null"];
    // Files of the kernel's about no process, such as /proc/stat; and /proc itself, which only lists.
    let of_kernel = path.strip_prefix("/proc").is_ok_and(|rest| {
        let first = rest.iter().next().and_then(|first| first.to_str());
        first.is_none_or(|first| !first.starts_with(|character: char| character.is_ascii_digit()))
    });
    of_kernel || path.starts_with(state) || places.iter().any(|place| path.starts_with(place))
}

#[test]
fn it_names_no_file_that_others_can_keep_from_it() {
    let _few = with_few();
    let state = own_dir().join("calls-state");
    let mut agent =
        Agent::start(&["--threshold", "2s", "--state-dir", state.to_str().expect("a path of ours")]);
    let follower = Waiter::start_with("follow", &[&agent.pid().to_string()]);
    let roles = [
        "poll-tcp4",
        "recvfrom-tcp4",
        "recvmsg-unix",
        "connect-backlog",
        "sendto-full",
        "open-fifo",
        "deadlock",
        "flock",
        "fcntl-setlkw",
        "orphan",
    ];
    let waiters: Vec<Waiter> = roles.map(Waiter::start).into();
    // Who waits without a stall is looked at when somebody asks.
    let others = ["read-pipe", "epoll-client", "event-loop", "futex", "wait4", "semop"].map(Waiter::start);
    for waiter in &waiters {
        agent.wait_stall("stall_opened", waiter.pid(), PATIENCE);
    }
    for waiter in waiters.iter().chain(&others) {
        let answer =
            http::get_unix(&agent.socket(), &format!("/v1/why/{}", waiter.pid())).expect("it answers");
        assert_eq!(answer.status, 200, "{answer:?}\n{}", agent.stderr());
    }
    for path in ["/v1/waits?all", "/v1/stalls", "/v1/host"] {
        let answer = http::get_unix(&agent.socket(), path).expect("it answers");
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    assert!(agent.get("/metrics").is_some_and(|(status, _)| status == 200));
    // What was flagged is kept.
    std::thread::sleep(slow(Duration::from_secs(2)));
    let pid = agent.pid();
    agent.kill();
    let named: Vec<Value> =
        std::iter::repeat_with(|| follower.next_line()).take_while(|line| line["event"] != "ended").collect();
    let path = |named: &Value| Path::new(named["path"].as_str().expect("text")).to_owned();
    let of_state = |named: &Value| path(named).starts_with(&state);
    assert!(named.iter().any(of_state), "it saved its state, which was not seen: {named:#?}");
    // One of each kind is enough to be told.
    let foreign: BTreeMap<String, &Value> = named
        .iter()
        .filter(|named| named["own"] != true && !is_own(&state, &path(named)))
        .map(|named| (format!("{} {} {}", named["comm"], named["call"], kind(&path(named))), named))
        .collect();
    assert!(foreign.is_empty(), "{} calls of pid {pid}, and of them:\n{foreign:#?}", named.len());
}

/// A path of `/proc` without the numbers of processes, threads and descriptors.
fn kind(path: &Path) -> String {
    let part = |part: &std::ffi::OsStr| {
        let text = part.to_string_lossy();
        if text.bytes().all(|byte| byte.is_ascii_digit()) { "N".into() } else { text.into_owned() }
    };
    path.iter().map(part).collect::<Vec<_>>().join("/").replacen("//", "/", 1)
}
