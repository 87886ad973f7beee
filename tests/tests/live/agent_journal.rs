//! Are events entries of systemd's journal, with fields of their own, where the agent's standard output is the journal?

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{ANY_PORT, Running, Waiter, debian_program, own_dir, shared, slow, start_ended_by, tracer};

const PATIENCE: Duration = Duration::from_secs(30);

/// A real journal, in a mount namespace of its own, and an agent that writes to it as systemd would have it. Arguments: the agent's.
const SCRIPT: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal
/lib/systemd/systemd-journald &
journal=$!
trap 'kill $agent $journal; wait' TERM
until [ -S /run/systemd/journal/stdout ] && [ -S /run/systemd/journal/socket ]; do sleep 0.1; done
systemd-cat -t tracer sh -c 'export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/$$/fd/1); exec "$@"' sh "$@" &
agent=$!
wait $agent
"#;

/// What the journal has of a process, the oldest first.
fn entries(of: &Running, matches: &str) -> Vec<Value> {
    let mut command = Command::new(debian_program("nsenter"));
    command.args(["-t", &of.pid().to_string(), "-m", "--"]).arg(debian_program("journalctl"));
    command.args(["-D", "/run/log/journal", "--output", "json", "--no-pager", matches]);
    let output = command.stderr(Stdio::null()).output().expect("nsenter runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The entry with this in a field, once it is there.
fn wait_for(of: &Running, matches: &str, field: &str, value: &str) -> Value {
    let begin = Instant::now();
    loop {
        let all = entries(of, matches);
        if let Some(entry) = all.iter().find(|entry| entry[field] == value) {
            return entry.clone();
        }
        assert!(begin.elapsed() < slow(PATIENCE), "no {field}={value}: {all:#?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn stalls_are_entries_that_can_be_asked_for() {
    let _shared = shared();
    let dir = own_dir().join("journal");
    std::fs::create_dir_all(&dir).expect("a folder");
    let mut command = Command::new(debian_program("unshare"));
    command.args(["--mount", "sh", "-c", SCRIPT, "sh"]).arg(tracer());
    command.args(["agent", "--threshold", "2s", "--listen", ANY_PORT, "--state-dir"]).arg(&dir);
    command.arg("--socket").arg(dir.join("agent.sock"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let journal = start_ended_by(libc::SIGTERM, command);
    let waiter = Waiter::start("recvfrom-tcp4");
    let matches = format!("TRACER_PID={}", waiter.pid());
    let opened = wait_for(&journal, &matches, "TRACER_CLASS", "reply");
    assert_eq!(opened["PRIORITY"], "4", "{opened:#}");
    assert_eq!(opened["TRACER_SYSCALL"], "recvfrom", "{opened:#}");
    assert_eq!(opened["TRACER_REMOTE"], waiter.text("remote"), "{opened:#}");
    let message = opened["MESSAGE"].as_str().expect("text");
    assert!(message.contains(&format!("(pid {}): waiting ", waiter.pid())), "{message}");
    let event: Value = serde_json::from_str(opened["TRACER_EVENT"].as_str().expect("text"))
        .expect("the event as it is elsewhere");
    assert_eq!(event["event"], "stall_opened", "{event:#}");
    drop(waiter);
    let closed = wait_for(&journal, &matches, "TRACER_ENDED", "exited");
    assert_eq!(closed["PRIORITY"], "6", "{closed:#}");
    assert_ne!(closed["MESSAGE_ID"], opened["MESSAGE_ID"]);
    // An incident is one as well, and nothing is there twice.
    let incident = closed["TRACER_INCIDENT"].as_str().expect("it belonged to one");
    wait_for(&journal, &format!("TRACER_INCIDENT={incident}"), "TRACER_STALLS", "1");
    let lines = entries(&journal, "SYSLOG_IDENTIFIER=tracer");
    assert!(!lines.iter().any(|line| line["MESSAGE"].as_str().is_some_and(|text| text.starts_with('{'))));
}
