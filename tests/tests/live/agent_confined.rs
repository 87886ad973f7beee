//! Has the agent given up what it does not need, and does it do with the rest all that it does as root?

use std::fs;
use std::time::{Duration, Instant};

use tests::{Agent, Family, Waiter, shared, slow};

const PATIENCE: Duration = Duration::from_secs(10);

/// CAP_PERFMON, CAP_BPF (include/uapi/linux/capability.h).
const KEPT: u64 = 1 << 38 | 1 << 39;
/// CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE: of the processes that read for it.
const OF_READERS: u64 = 1 << 2 | 1 << 19;

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
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            let has = u64::from_str_radix(&field(&status, set), 16).expect("hexadecimal");
            assert_eq!(has & !KEPT, 0, "{set} {status}");
        }
        assert_eq!((&*field(&status, "NoNewPrivs:"), &*field(&status, "Seccomp:")), ("1", "2"), "{status}");
        threads += 1;
    }
    assert!(threads >= 4, "{threads} threads");
    // One that has just been started is still called as who starts it, and has its rights.
    let begin = Instant::now();
    let readers = loop {
        let helpers = Family::below(agent.pid());
        let named = |name: &str| helpers.iter().copied().filter(|pid| comm(*pid) == name).collect::<Vec<_>>();
        let (starts, readers) = (named("tracer-readers"), named("tracer-reader"));
        if starts.len() == 1 && !readers.is_empty() {
            break [starts, readers].concat();
        }
        assert!(begin.elapsed() < slow(PATIENCE), "{helpers:?}");
        std::thread::sleep(Duration::from_millis(20));
    };
    for pid in readers {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a helper");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            let has = u64::from_str_radix(&field(&status, set), 16).expect("hexadecimal");
            assert_eq!(has & !OF_READERS, 0, "{set} {status}");
        }
        assert_eq!((&*field(&status, "NoNewPrivs:"), &*field(&status, "Seccomp:")), ("1", "2"), "{status}");
        let open: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd")).expect("its own").flatten().collect();
        assert_eq!(open.len(), 4, "nothing but what leads to nobody, and a socket: {open:?}");
    }
}

fn comm(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

fn field(status: &str, name: &str) -> String {
    status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
}
