//! Whom does the agent answer on its Unix socket, and does it say there what root sees?

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Agent, NOBODY, Waiter, own_dir, ps, shared, slow, tracer, unused_id};

use crate::aged::waiter;

static MEMBERS: LazyLock<u32> = LazyLock::new(unused_id);
static OTHERS: LazyLock<u32> = LazyLock::new(unused_id);

/// An agent that answers members of the group, in a directory that everybody may enter.
fn agent() -> Agent {
    let agent = Agent::start(&["--socket-group", &MEMBERS.to_string()]);
    let dir = own_dir();
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("our own directory");
    agent
}

/// Runs tracer as an ordinary user of a group.
fn run(group: u32, args: &[&str]) -> Output {
    let mut command = Command::new(tracer());
    command.args(args).uid(NOBODY).gid(group).output().expect("tracer starts")
}

fn socket(agent: &Agent) -> String {
    agent.socket().to_str().expect("a path of ours").to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The head and the body of an answer.
fn get(agent: &Agent, request: &str) -> (String, String) {
    let mut stream = UnixStream::connect(agent.socket()).expect("it listens");
    write!(stream, "{request} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

#[test]
fn a_member_of_the_group_sees_what_root_sees() {
    let _shared = shared();
    let agent = agent();
    let waiter = waiter("recvfrom-tcp4");
    waiter.until_age(2.0);
    let pid = waiter.pid().to_string();
    let output = run(*MEMBERS, &["ps", "--json", "-p", &pid, "--socket", &socket(&agent)]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let asked: Value = serde_json::from_slice(&output.stdout).expect("one object");
    let own = ps(&["-p", &pid]);
    let own = own.row(waiter.tid());
    for name in
        ["pid", "tid", "comm", "cmdline", "uid", "state", "syscall", "args", "fd", "class", "level", "cgroup"]
    {
        assert_eq!(asked[name], own[name], "{name}: {asked:#}\n{own:#}");
    }
    for name in ["kind", "local", "remote", "state", "inode", "bytes_sent"] {
        assert_eq!(asked["target"][name], own["target"][name], "{name}: {asked:#}\n{own:#}");
    }
    let age = |row: &Value| row["age_seconds"].as_f64().expect("a number");
    assert!(
        (age(own) - age(&asked)).abs() < slow(Duration::from_secs(2)).as_secs_f64(),
        "{asked:#}\n{own:#}"
    );

    let output = run(*MEMBERS, &["ps", "-p", &pid, "--socket", &socket(&agent)]);
    let page = text(&output.stdout);
    assert!(
        page.contains("recvfrom(")
            && page.contains("\n1 stuck; ")
            && page.ends_with("; as the agent sees it.\n"),
        "{page}"
    );

    let output = run(*MEMBERS, &["why", &pid, "--socket", &socket(&agent)]);
    let page = text(&output.stdout);
    assert!(page.starts_with(&format!("waiter (pid {pid}) is stuck")), "{page}{}", text(&output.stderr));
    // What an ordinary user could not have found out.
    assert!(page.contains("which is waiter (pid"), "{page}");
}

#[test]
fn everybody_else_is_told_which_group() {
    let _shared = shared();
    let agent = agent();
    let output = run(*OTHERS, &["ps", "--socket", &socket(&agent)]);
    let page = text(&output.stdout);
    assert!(output.status.success(), "{page}{}", text(&output.stderr));
    let last = page.lines().last().unwrap_or_default();
    assert!(
        last.contains(&format!("only root and members of the group {} may ask the agent on", *MEMBERS)),
        "{page}"
    );
    let output = run(*OTHERS, &["stalls", "--socket", &socket(&agent), "--state-dir", "/nowhere"]);
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains(&MEMBERS.to_string()), "{said}");

    // Of the past and of what they may not look into, too.
    let place = ["--socket", &socket(&agent), "--state-dir", "/nowhere"];
    let output = run(*OTHERS, &[&["ps", "--at", "0s"][..], &place].concat());
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains(&format!("members of the group {}", *MEMBERS)), "{said}");
    let waiter = waiter("recvfrom-tcp4");
    let id = waiter.pid().to_string();
    let output = run(*OTHERS, &["why", &id, "--socket", &socket(&agent)]);
    let page = text(&output.stdout);
    assert!(page.starts_with(&format!("waiter (pid {id}) is not visible to you")), "{page}");
    assert!(page.contains(&format!("group {}", *MEMBERS)) && page.contains("sudo tracer why"), "{page}");
    let output = run(*OTHERS, &["why", &id, "--json", "--socket", &socket(&agent)]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("one object");
    assert_eq!(report["condition"], "hidden", "{report:#}");
}

#[test]
fn a_second_agent_is_refused_and_what_a_killed_one_has_left_is_replaced() {
    let _shared = shared();
    let agent = agent();
    let second = Command::new(tracer())
        .args(["agent", "--listen", "127.0.0.1:0", "--socket", &socket(&agent)])
        .arg("--state-dir")
        .arg(own_dir().join("second-agent"))
        .output()
        .expect("tracer starts");
    let said = text(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("another agent serves"), "{said}");
    assert_eq!(
        get(&agent, "GET /v1/host").0.lines().next(),
        Some("HTTP/1.1 200 OK"),
        "the first one goes on"
    );

    let path = socket(&agent);
    agent.stop(libc::SIGKILL);
    assert!(UnixStream::connect(&path).is_err() && std::fs::exists(&path).expect("its directory is there"));
    let again = Agent::start(&["--socket", &path]);
    assert!(UnixStream::connect(&path).is_ok());
    again.stop(libc::SIGTERM);
    assert!(!std::fs::exists(&path).expect("its directory is there"), "it tidies up");

    // Not a socket: not ours to replace.
    std::fs::write(&path, "mine").expect("writes");
    let refused = Command::new(tracer())
        .args(["agent", "--listen", "127.0.0.1:0", "--socket", &path])
        .output()
        .expect("tracer starts");
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stderr));
    assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "mine");
    std::fs::remove_file(&path).expect("it is there");
}

/// Who waits for an answer is seen to wait on the path that a rule would name.
#[test]
fn a_connection_to_it_bears_its_name() {
    let _shared = shared();
    let agent = agent();
    let stream = UnixStream::connect(agent.socket()).expect("it listens");
    stream.set_read_timeout(Some(slow(Duration::from_secs(10)))).expect("a time-out");
    std::thread::scope(|scope| {
        let (send, tid) = std::sync::mpsc::channel();
        let mut of_reader = &stream;
        scope.spawn(move || {
            // SAFETY: takes no pointers.
            send.send(unsafe { libc::gettid() }.cast_unsigned()).expect("it is waited for");
            let _ = of_reader.read(&mut [0]);
        });
        let tid = tid.recv().expect("it starts");
        std::thread::sleep(slow(Duration::from_millis(200)));
        let seen = ps(&["--all", "--min-age", "0s", "-p", &std::process::id().to_string()]);
        let _ = stream.shutdown(std::net::Shutdown::Both);
        assert_eq!(seen.row(tid)["target"]["path"], socket(&agent), "{:#}", seen.row(tid));
    });
}

#[test]
fn it_only_answers_questions() {
    let _shared = shared();
    let agent = agent();
    for (request, status) in [
        ("GET /v1/stalls", 200),
        ("GET /v1/waits?all", 200),
        ("POST /v1/waits", 405),
        ("GET /v1/nothing", 404),
        ("GET /v1/why/4194305", 404),
        ("GET /v1/why/x", 400),
        ("GET /v1/waits?at=never", 400),
        ("GET /metrics", 404),
    ] {
        let (head, body) = get(&agent, request);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {head}\n{body}");
    }
    let (_, waits) = get(&agent, "GET /v1/waits?all");
    // Chunked or not, each wait is an object with a class.
    assert!(
        waits.lines().filter(|line| line.starts_with('{')).all(|line| line.contains("\"class\":\"")),
        "{waits}"
    );
}

#[test]
fn events_come_as_they_happen() {
    let _shared = shared();
    let agent = Agent::start(&["--threshold", "1s"]);
    let mut stream = UnixStream::connect(agent.socket()).expect("it listens");
    write!(stream, "GET /v1/events HTTP/1.1\r\nHost: t\r\n\r\n").expect("it reads");
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out");
    let waiter = Waiter::start("recvfrom-tcp4");
    let begin = Instant::now();
    let mut got = Vec::new();
    let is_there = |got: &[u8]| {
        let text = text(got);
        text.contains("\"stall_opened\"") && text.contains(&format!("\"pid\":{},", waiter.pid()))
    };
    while !is_there(&got) {
        assert!(begin.elapsed() < slow(Duration::from_secs(10)), "{}", text(&got));
        let mut buffer = [0; 4096];
        if let Ok(length) = stream.read(&mut buffer) {
            assert!(length > 0, "it hung up: {}", text(&got));
            got.extend(&buffer[..length]);
        }
    }
}

/// Many who ask, and some who do not read, hold nothing up: neither watching nor health.
#[test]
fn askers_do_not_hold_the_agent_up() {
    let _shared = shared();
    let agent = agent();
    let mut idle: Vec<UnixStream> = Vec::new();
    for _ in 0..40 {
        let mut stream = UnixStream::connect(agent.socket()).expect("it listens");
        write!(stream, "GET /v1/waits?all HTTP/1.1\r\nHost: t\r\n\r\n").expect("it reads");
        idle.push(stream);
    }
    let begin = Instant::now();
    let before = agent.samples("tracer_snapshot_duration_seconds_count", &[])[0].value;
    std::thread::sleep(Duration::from_secs(3));
    let after = agent.samples("tracer_snapshot_duration_seconds_count", &[])[0].value;
    let looks = after - before;
    assert!(
        looks >= begin.elapsed().as_secs_f64() - slow(Duration::from_secs(1)).as_secs_f64() - 1.0,
        "{looks}"
    );
    assert_eq!(agent.get("/-/healthy").map(|(status, _)| status), Some(200));
    drop(idle);
}

/// A socket that is not an agent's is said to be none.
#[test]
fn without_an_agent_it_says_how_to_start_one() {
    let path = own_dir().join("nobody.sock");
    drop(UnixListener::bind(&path).expect("a socket"));
    let output = Command::new(tracer())
        .args(["ps", "--source", "agent", "--socket"])
        .arg(&path)
        .output()
        .expect("tracer starts");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("`tracer agent` starts one"), "{said}");
}
