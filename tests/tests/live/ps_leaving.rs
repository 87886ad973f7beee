//! Is a process that ends, and has not yet, shown as that, and not under the call it was in before?

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Agent, Waiter, ps, slow, slowness, with_few};

const PATIENCE: Duration = Duration::from_secs(10);

/// The kernel's setting of what becomes of a core dump, as it was before.
struct CorePattern(String);

const PATTERN: &str = "/proc/sys/kernel/core_pattern";

impl CorePattern {
    fn set(to: &str) -> Self {
        let before = std::fs::read_to_string(PATTERN).expect("the kernel dumps core");
        std::fs::write(PATTERN, to).expect("root");
        Self(before)
    }
}

impl Drop for CorePattern {
    fn drop(&mut self) {
        let _ = std::fs::write(PATTERN, &self.0);
    }
}

/// Its row by this source, once it is on its way out.
fn leaving_row(pid: u32, source: &str) -> Value {
    let begin = Instant::now();
    loop {
        let seen = ps(&["--all", "--min-age", "0s", "-p", &pid.to_string(), "--source", source]);
        if let Some(row) = seen.rows.iter().find(|row| row["class"] == "exit") {
            return row.clone();
        }
        assert!(begin.elapsed() < slow(PATIENCE), "{source}: {:#?}", seen.rows);
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_first_process_whose_end_waits_for_another() {
    let waiter = Waiter::start("exiting");
    if let Some(why) = waiter.unsupported() {
        return tests::unsupported(why);
    }
    for source in ["bpf", "proc"] {
        let row = leaving_row(waiter.number("exiting") as u32, source);
        let what = (&row["syscall"], &row["level"], &row["target"]["kind"]);
        assert_eq!(what, (&"exit".into(), &"doubtful".into(), &"none".into()), "{source}: {row:#}");
        assert!(row["fd"].is_null(), "{source}: {row:#}");
        let sentence = row["verdict"].as_str().unwrap_or_default();
        assert!(sentence.contains("to finish exiting"), "{source}: {row:#}");
    }
}

/// Its stall ends with it, and is not told again while its core is written.
#[test]
fn a_core_dump_is_no_wait_for_an_answer() {
    let _few = with_few();
    // Reads nothing of the dump: it takes as long as this lives.
    let lives = if slowness() == 1 { 20 } else { 300 };
    let _pattern = CorePattern::set(&format!("|/bin/sleep {lives}"));
    let mut agent = Agent::start(&["--threshold", "1s"]);
    let waiter = Waiter::start("recvfrom-tcp4");
    agent.wait_stall("stall_opened", waiter.pid(), PATIENCE);
    // SAFETY: kill takes numbers; the process is the test's own.
    unsafe { libc::kill(waiter.pid() as i32, libc::SIGABRT) };
    // At once, not when the core is written.
    let (ended, _) = agent.wait_stall("stall_closed", waiter.pid(), slow(Duration::from_secs(3)));
    assert_eq!(ended["ended"], "exited", "{ended:#}");
    let closed = Instant::now();
    for source in ["bpf", "proc"] {
        let row = leaving_row(waiter.pid(), source);
        assert_eq!(row["syscall"], "core_dump", "{source}: {row:#}");
        let sentence = row["verdict"].as_str().unwrap_or_default();
        assert!(sentence.contains("core dump"), "{source}: {row:#}");
    }
    std::thread::sleep(Duration::from_secs(3).saturating_sub(closed.elapsed()));
    assert_eq!(agent.events_of(waiter.pid()), ["stall_opened", "stall_closed"]);
    assert_eq!(leaving_row(waiter.pid(), "bpf")["syscall"], "core_dump", "all the while");
}
