//! Has the agent given up what it does not need, and does it do with the rest all that it does as root?

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use tests::{Agent, Family, Waiter, own_dir, shared, slow};

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

/// Whoever took it over could not ask systemd, Docker or anybody else for more: a running agent can address no socket.
#[cfg(target_arch = "x86_64")]
#[test]
fn it_can_connect_and_send_to_nobody() {
    let _shared = shared();
    let agent = Agent::start(&[]);
    let traced = tests::Traced::begin(agent.pid());
    let refused = -i64::from(libc::EPERM);
    // Without the filter they would fail for want of a descriptor.
    for call in [libc::SYS_connect, libc::SYS_sendmsg, libc::SYS_sendmmsg] {
        assert_eq!(traced.call(call, [u64::MAX, 0, 0, 0, 0, 0]), refused, "{call}");
    }
    assert_eq!(traced.call(libc::SYS_sendto, [u64::MAX, 0, 0, 0, 1, 16]), refused);
    assert_eq!(traced.call(libc::SYS_sendto, [u64::MAX, 0, 0, 0, 0, 0]), -i64::from(libc::EBADF));
    let stream = [libc::AF_UNIX as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0];
    assert_eq!(traced.call(libc::SYS_socket, stream), refused);
    drop(traced);
    assert_eq!(agent.get("/-/healthy").map(|(status, _)| status), Some(200), "it goes on");
    agent.stop(libc::SIGTERM);
}

/// It is confined before it is ready, and still tells the service manager how it is.
#[test]
fn the_service_manager_is_told() {
    let _shared = shared();
    let path = own_dir().join("manager.sock");
    let manager = UnixDatagram::bind(&path).expect("binds");
    manager.set_read_timeout(Some(slow(PATIENCE))).expect("a time-out");
    let agent = Agent::start_as(&[], |command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "300000");
    });
    let told = || {
        let mut buffer = [0; 4096];
        let length = manager.recv(&mut buffer).expect("it is told");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let until = |what: &str| {
        let begin = Instant::now();
        loop {
            let message = told();
            if message.contains(what) {
                return message;
            }
            assert!(begin.elapsed() < slow(PATIENCE), "{what}");
        }
    };
    assert_eq!(told(), "READY=1\n");
    assert_eq!(told(), "WATCHDOG=1\n");
    agent.signal(libc::SIGHUP);
    assert!(until("RELOADING=1").contains("MONOTONIC_USEC="));
    assert!(until("READY=1").contains("STATUS="));
    until("WATCHDOG=1");
    agent.signal(libc::SIGTERM);
    until("STOPPING=1");
}
