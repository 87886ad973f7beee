//! Does the agent do with the rights of the unit file, and no others, all that it does as root?

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tests::servers::dir_of_nobody;
use tests::{Waiter, own_dir, shared, slow, start, tracer};

const PATIENCE: Duration = Duration::from_secs(20);

/// What `deploy/systemd/tracer.service` says of a setting.
fn unit(setting: &str) -> String {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/tracer.service");
    let text = std::fs::read_to_string(file).expect("the unit");
    let values: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix(setting)?.strip_prefix('=')).collect();
    assert_eq!(values.len(), 1, "{setting}: {values:?}");
    values[0].to_owned()
}

#[test]
fn the_capabilities_of_the_unit_are_enough() {
    let _shared = shared();
    assert_eq!(unit("ExecStart"), "/usr/bin/tracer agent");
    assert_eq!(unit("NoNewPrivileges"), "yes");
    let capabilities: Vec<String> = unit("CapabilityBoundingSet")
        .split_whitespace()
        .map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    assert!(capabilities.len() <= 5, "{capabilities:?}");
    let waiters = ["poll-tcp4", "recvfrom-tcp4"].map(Waiter::start);
    // Another user's process: its memory has the name of a pipe in a folder that only it may enter.
    let fifo = dir_of_nobody("unit").join("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().expect("mkfifo");
    assert!(made.success());
    let mut reader = Command::new("setpriv");
    reader.args(["--reuid=65534", "--regid=65534", "--clear-groups", "cat"]).arg(&fifo).stdin(Stdio::null());
    let reader = start(reader);
    let expected: Vec<(u32, String)> = waiters
        .iter()
        .map(|waiter| (waiter.pid(), waiter.text("remote").to_owned()))
        .chain([(reader.pid(), fifo.to_str().expect("text").to_owned())])
        .collect();
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|any| any.local_addr()).expect("a port").port();
    let (socket, state) = (own_dir().join("unit.sock"), own_dir().join("unit-state"));
    let log = own_dir().join("unit.log");
    let mut agent = Command::new("setpriv");
    agent
        .arg(format!("--bounding-set=-all,{}", capabilities.join(",")))
        .args(["--inh-caps=-all", "--no-new-privs", "--"])
        .arg(tracer())
        .args(["agent", "--threshold", "2s", "--listen", &format!("127.0.0.1:{port}"), "--socket"])
        .arg(&socket)
        .arg("--state-dir")
        .arg(&state)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&log).expect("a file"))
        .stderr(Stdio::null());
    let mut agent = start(agent);
    let begin = Instant::now();
    for (pid, what) in &expected {
        let line = loop {
            assert!(agent.ended().is_none(), "it ends");
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let about =
                |line: &&str| line.contains("stall_opened") && line.contains(&format!("\"pid\":{pid},"));
            if let Some(line) = text.lines().find(about) {
                break line.to_owned();
            }
            assert!(begin.elapsed() < slow(PATIENCE), "pid {pid} is not flagged:\n{text}");
            std::thread::sleep(Duration::from_millis(50));
        };
        assert!(line.contains(&**what), "{what}: {line}");
    }
    // What root sees of it, so does the agent.
    let as_root = Command::new(tracer())
        .args(["ps", "--json", "--source", "bpf", "-p", &waiters[0].pid().to_string()])
        .output()
        .expect("tracer starts");
    let by_agent = Command::new(tracer())
        .args(["ps", "--json", "--source", "agent", "-p", &waiters[0].pid().to_string(), "--socket"])
        .arg(&socket)
        .output()
        .expect("tracer starts");
    let read = |bytes: &[u8]| -> serde_json::Value { serde_json::from_slice(bytes).expect("one object") };
    let (mut one, mut other) = (read(&as_root.stdout), read(&by_agent.stdout));
    for value in [&mut one, &mut other] {
        let wait = value.as_object_mut().expect("an object");
        // These go on.
        for name in ["since", "age_seconds", "age_exact", "verdict"] {
            wait.remove(name);
        }
        for name in ["sent_seconds", "received_seconds"] {
            wait["target"].as_object_mut().expect("a target").remove(name);
        }
    }
    assert_eq!(one, other);
}
