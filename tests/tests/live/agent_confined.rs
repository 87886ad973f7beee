//! Has the agent given up what it does not need, and does it do with the rest all that it does as root?

use std::fs;
use std::time::Duration;

use tests::{Agent, Waiter, shared};

const PATIENCE: Duration = Duration::from_secs(10);

/// CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_PERFMON, CAP_BPF (include/uapi/linux/capability.h).
const KEPT: u64 = 1 << 2 | 1 << 19 | 1 << 38 | 1 << 39;

#[test]
fn all_its_threads_have_the_least_rights() {
    let _shared = shared();
    let mut agent = Agent::start(&["--threshold", "2s"]);
    // Another user's process, which poll's memory and descriptors must be read of.
    let waiter = Waiter::start("poll-tcp4");
    agent.wait_stall("stall_opened", waiter.pid(), PATIENCE);
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid())).expect("an agent");
    let mut threads = 0;
    for task in tasks.flatten() {
        let status = fs::read_to_string(task.path().join("status")).expect("a thread");
        let field = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
        };
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            let has = u64::from_str_radix(&field(set), 16).expect("hexadecimal");
            assert_eq!(has & !KEPT, 0, "{set} {status}");
        }
        assert_eq!((&*field("NoNewPrivs:"), &*field("Seccomp:")), ("1", "2"), "{status}");
        threads += 1;
    }
    assert!(threads >= 4, "{threads} threads");
}
