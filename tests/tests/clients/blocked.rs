//! What does `/proc` say of a process that a test did not write: what blocks it, on which descriptor, since when?

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Running, Snapshot, parse_rfc3339_ns, realtime_ns, seconds_between};

/// How far off an age may be, in seconds (DESIGN §3, Progress, as the issue has it).
const TOLERANCE: f64 = 0.5;
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until the process sleeps in this call; the moment. The wait began before that, and after the last look.
pub(crate) fn until_in(process: &mut Running, call: i64) -> (i128, i128) {
    let (begin, pid) = (Instant::now(), process.pid());
    let mut before = realtime_ns();
    loop {
        let now = realtime_ns();
        if in_call(pid) == Some(call) {
            return (before, now);
        }
        before = now;
        if let Some(status) = process.ended() {
            panic!("process {pid} has ended: {status}");
        }
        assert!(begin.elapsed() < PATIENCE, "process {pid} is in call {:?}, not {call}", in_call(pid));
        sleep(Duration::from_millis(5));
    }
}

/// Waits until the process sleeps in a call, whichever.
pub(crate) fn until_waiting(pid: u32) {
    let begin = Instant::now();
    while in_call(pid).is_none() {
        assert!(begin.elapsed() < PATIENCE, "process {pid} runs and runs");
        sleep(Duration::from_millis(5));
    }
}

/// The name of the call that a process sleeps in, of those the clients are known to wait in (DESIGN §3).
pub(crate) fn call_of(pid: u32) -> &'static str {
    until_waiting(pid);
    match in_call(pid) {
        Some(libc::SYS_read) => "read",
        Some(libc::SYS_recvfrom) => "recvfrom",
        Some(libc::SYS_ppoll) => "ppoll",
        Some(libc::SYS_pselect6) => "pselect6",
        #[cfg(target_arch = "x86_64")]
        Some(libc::SYS_poll) => "poll",
        other => panic!("process {pid} is in call {other:?}"),
    }
}

/// The number of the call a thread sleeps in.
fn in_call(pid: u32) -> Option<i64> {
    let line = fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
    line.split(' ').next()?.parse().ok()
}

/// `since` and `age_seconds` of a wait that began between two moments.
pub(crate) fn check_age(row: &Value, earliest_ns: i128, latest_ns: i128, snapshot: &Snapshot) {
    let since = parse_rfc3339_ns(row["since"].as_str().unwrap_or_else(|| panic!("no since: {row:#}")));
    let early = seconds_between(since, earliest_ns);
    let late = seconds_between(latest_ns, since);
    assert!(early <= TOLERANCE, "since is {early:.3} s before the last progress: {row:#}");
    assert!(late <= TOLERANCE, "since is {late:.3} s after the last progress: {row:#}");
    let age = row["age_seconds"].as_f64().unwrap_or_else(|| panic!("no age: {row:#}"));
    let least = seconds_between(latest_ns, snapshot.before_ns) - TOLERANCE;
    let most = seconds_between(earliest_ns, snapshot.after_ns) + TOLERANCE;
    assert!((least..=most).contains(&age), "the age is not within {least:.3} to {most:.3}: {row:#}");
}

/// The descriptor of a process that is this connection, and the socket's inode.
pub(crate) fn fd_of(pid: u32, local: SocketAddr, remote: SocketAddr) -> (i32, u64) {
    let (local_text, remote_text) = (in_proc(local), in_proc(remote));
    let table = fs::read_to_string("/proc/net/tcp").expect("/proc");
    let inode = table.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words.get(1) == Some(&&*local_text) && words.get(2) == Some(&&*remote_text)).then(|| words[9])
    });
    let inode = inode.unwrap_or_else(|| panic!("/proc/net/tcp has no {local} to {remote}:\n{table}"));
    let link = format!("socket:[{inode}]");
    let fds = fds_of(pid, &link);
    let [fd] = fds[..] else { panic!("process {pid} has {link} as {fds:?}") };
    (fd, inode.parse().expect("a number"))
}

/// The descriptors of a process that lead to `link`.
pub(crate) fn fds_of(pid: u32, link: &str) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives").flatten();
    let found = entries.filter(|entry| fs::read_link(entry.path()).is_ok_and(|it| it.as_os_str() == link));
    found.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// `0100007F:1F90`: the address as the machine's own 32-bit number, the port in order.
fn in_proc(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else { panic!("the tests speak IPv4: {address}") };
    let ip: Ipv4Addr = *address.ip();
    format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port())
}
