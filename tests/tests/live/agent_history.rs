//! Does the agent remember what was stuck: over its end, a kill in the middle of writing, a full disk?

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Agent, SmallDisk, Waiter, own_dir, shared, shared_for_minutes, slow, tracer};

const PATIENCE: Duration = Duration::from_secs(10);

/// What `tracer stalls --json` says of the agent's past, from its socket or from what it has left.
fn stalls(agent: Option<&Agent>, state: &Path) -> Vec<Value> {
    try_stalls(agent, state).unwrap_or_else(|said| panic!("{said}"))
}

fn try_stalls(agent: Option<&Agent>, state: &Path) -> Result<Vec<Value>, String> {
    let socket = agent.map_or(PathBuf::from("/nowhere"), Agent::socket);
    let output = Command::new(tracer())
        .args(["stalls", "--json", "--since", "1h", "--socket"])
        .arg(socket)
        .arg("--state-dir")
        .arg(state)
        .output()
        .expect("tracer starts");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    Ok(text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect())
}

/// The stalls of one process.
fn of(stalls: &[Value], pid: u32) -> Vec<&Value> {
    stalls.iter().filter(|stall| stall["wait"]["pid"] == pid).collect()
}

/// Asks until the process's only stall is as wanted.
fn wait_stall(agent: &Agent, state: &Path, pid: u32, is_it: impl Fn(&Value) -> bool) -> Value {
    let begin = Instant::now();
    loop {
        let all = stalls(Some(agent), state);
        if let [stall] = of(&all, pid)[..]
            && is_it(stall)
        {
            return stall.clone();
        }
        assert!(begin.elapsed() < slow(PATIENCE), "{all:#?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn start(state: &Path) -> Agent {
    Agent::start(&["--threshold", "1s", "--state-dir", state.to_str().expect("a path of ours")])
}

#[test]
fn a_stall_is_kept_from_its_opening_to_its_end_over_restarts() {
    let _shared = shared();
    let state = own_dir().join("history-restarts");
    let mut agent = start(&state);
    let mut waiter = Waiter::start("recvfrom-tcp4");
    agent.wait_stall("stall_opened", waiter.pid(), PATIENCE);
    let open = wait_stall(&agent, &state, waiter.pid(), |stall| stall["closed"].is_null());
    assert_eq!((&open["wait"]["class"], &open["ended"]), (&"reply".into(), &Value::Null), "{open:#}");
    agent.stop(libc::SIGTERM);
    // Without an agent, from what it has left.
    let left = stalls(None, &state);
    assert_eq!(of(&left, waiter.pid()).len(), 1, "{left:#?}");

    let agent = start(&state);
    std::thread::sleep(Duration::from_secs(3));
    waiter.answer();
    let closed = wait_stall(&agent, &state, waiter.pid(), |stall| !stall["closed"].is_null());
    assert_eq!((&closed["ended"], &closed["opened"]), (&"resumed".into(), &open["opened"]), "{closed:#}");
    assert!(closed["stall_seconds"].as_f64() > Some(4.0), "{closed:#}");
}

#[test]
fn what_is_older_than_a_second_survives_a_kill_in_the_middle_of_writing() {
    let _shared = shared();
    let state = own_dir().join("history-kill");
    for round in 0..3 {
        let mut agent = start(&state);
        let old = Waiter::start("recvfrom-tcp4");
        agent.wait_stall("stall_opened", old.pid(), PATIENCE);
        std::thread::sleep(slow(Duration::from_millis(1_100)));
        // Stalls that open and close all the time, so that it is writing when the end comes.
        let young: Vec<Waiter> = (0..4).map(|_| Waiter::start("recvfrom-tcp4")).collect();
        std::thread::sleep(Duration::from_millis(1_200 + 170 * round));
        agent.stop(libc::SIGKILL);
        let left = stalls(None, &state);
        assert_eq!(of(&left, old.pid()).len(), 1, "round {round}: {left:#?}");
        drop(young);
        // And the next agent opens it, too.
        start(&state).stop(libc::SIGTERM);
    }
}

#[test]
fn on_a_full_disk_it_goes_on_and_counts() {
    let _shared = shared();
    let disk = SmallDisk::mount("history-disk", 1024);
    let state = disk.path().join("state");
    let mut agent = start(&state);
    let first = Waiter::start("recvfrom-tcp4");
    agent.wait_stall("stall_opened", first.pid(), PATIENCE);
    wait_stall(&agent, &state, first.pid(), |_| true);
    disk.fill();
    // Long enough sentences to need another page sooner or later.
    let unwritten = |agent: &Agent| -> f64 {
        agent
            .samples("tracer_lost_events_total", &[("reason", "history_unwritten")])
            .iter()
            .map(|s| s.value)
            .sum()
    };
    let begin = Instant::now();
    let mut more: Vec<Waiter> = Vec::new();
    while unwritten(&agent) == 0.0 {
        assert!(begin.elapsed() < slow(Duration::from_secs(40)), "nothing was counted\n{}", agent.stderr());
        more.push(Waiter::start("recvfrom-tcp4"));
        let pid = more.last().expect("just begun").pid();
        agent.wait_stall("stall_opened", pid, PATIENCE);
    }
    assert!(agent.stderr().contains("the history has a gap"), "{}", agent.stderr());
    assert_eq!(agent.get("/-/healthy").map(|(status, _)| status), Some(200));
    // One that was written as open ends while nothing can be written.
    let ended = first.pid();
    drop(first);
    agent.wait_stall("stall_closed", ended, PATIENCE);
    std::thread::sleep(Duration::from_secs(2));
    // With room again, it goes on keeping.
    disk.make_room();
    let begin = Instant::now();
    loop {
        let late = Waiter::start("recvfrom-tcp4");
        agent.wait_stall("stall_opened", late.pid(), PATIENCE);
        std::thread::sleep(Duration::from_millis(1_000));
        if try_stalls(Some(&agent), &state).is_ok_and(|stalls| !of(&stalls, late.pid()).is_empty()) {
            break;
        }
        assert!(begin.elapsed() < slow(Duration::from_secs(40)), "it never keeps again\n{}", agent.stderr());
    }
    let closed = wait_stall(&agent, &state, ended, |stall| !stall["closed"].is_null());
    assert_eq!(closed["ended"], "exited", "{closed:#}");
    agent.stop(libc::SIGTERM);
}

#[test]
fn the_worst_of_each_minute_can_be_asked_for() {
    let _shared = shared_for_minutes();
    let state = own_dir().join("history-minutes");
    let agent = start(&state);
    let waiter = Waiter::start("recvfrom-tcp4");
    // It keeps its first minute a minute after it starts.
    std::thread::sleep(Duration::from_secs(62));
    let page = |at: &str, form: &[&str]| {
        let output = Command::new(tracer())
            .args(["ps", "--at", at, "-p", &waiter.pid().to_string(), "--socket"])
            .arg(agent.socket())
            .args(form)
            .output()
            .expect("tracer starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let now = page("0s", &[]);
    assert!(now.contains("recvfrom(") && now.contains("1 stuck at "), "{now}");
    let object: Value = serde_json::from_str(&page("-0s", &["--json"])).expect("one object");
    assert_eq!(object["class"], "reply", "{object:#}");
    let long_ago = page("2001-01-01 00:00", &[]);
    assert!(!long_ago.contains("recvfrom("), "{long_ago}");
}

/// One that is no database at all, and one whose pages a disk has lost but for the first.
#[test]
fn a_damaged_one_is_put_aside() {
    let _shared = shared();
    let state = own_dir().join("history-damaged");
    let file = state.join("history.redb");
    let waiter = Waiter::start("recvfrom-tcp4");
    let is_kept = |agent: &mut Agent| {
        agent.wait_stall("stall_opened", waiter.pid(), PATIENCE);
        wait_stall(agent, &state, waiter.pid(), |stall| stall["closed"].is_null());
    };
    let mut agent = start(&state);
    is_kept(&mut agent);
    agent.stop(libc::SIGTERM);
    let damages: [fn(&mut Vec<u8>); 2] =
        [|bytes| bytes[4096..].fill(0), |bytes| *bytes = vec![0x5a; 64 * 1024]];
    for damage in damages {
        let mut bytes = std::fs::read(&file).expect("our own file");
        damage(&mut bytes);
        std::fs::write(&file, &bytes).expect("our own file");
        std::fs::remove_file(state.join("state.json")).expect("what it was told is told again");
        let mut agent = start(&state);
        is_kept(&mut agent);
        assert!(agent.stderr().contains("starting a new history"), "{}", agent.stderr());
        assert!(state.join("history.damaged").exists());
        agent.stop(libc::SIGTERM);
    }
}
