//! Does `ps` name every kind of wait that began before it, with its target, its class and its true age?

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use serde_json::Value;
use tests::{age_tolerance, parse_rfc3339_ns, pause, ps, realtime_ns, seconds_between, shared, start};

use crate::aged::{AGE, check_target, old_row};

fn check(role: &str, kind: &str, fields: &[&str], class: &str) -> Value {
    let row = old_row(role);
    check_target(role, &row, kind, fields);
    assert_eq!(row["class"], class, "{row:#}");
    row
}

const TUPLE: &[&str] = &["local", "remote", "inode"];

#[test]
fn recvfrom_on_tcp_over_ipv4() {
    let _shared = shared();
    check("recvfrom-tcp4", "tcp", TUPLE, "reply");
}

#[test]
fn recvfrom_on_tcp_over_ipv6() {
    let _shared = shared();
    check("recvfrom-tcp6", "tcp", TUPLE, "reply");
}

#[test]
fn read_on_tcp() {
    let _shared = shared();
    check("read-tcp4", "tcp", TUPLE, "reply");
}

#[test]
fn recvfrom_on_bound_udp() {
    let _shared = shared();
    check("recvfrom-udp", "udp", &["local", "inode"], "datagram");
}

#[test]
fn recvmsg_on_unix_stream() {
    let _shared = shared();
    // The kernel's peer_pid is who made the listener, which need not be who serves it now; here it is.
    check("recvmsg-unix", "unix", &["path", "inode", "peer_inode", "peer_pid"], "reply");
}

#[test]
fn read_on_pipe() {
    let _shared = shared();
    check("read-pipe", "pipe", &["inode"], "pipe");
}

#[test]
fn connect_to_full_backlog() {
    let _shared = shared();
    let row = check("connect-backlog", "tcp", TUPLE, "connect");
    assert_eq!(
        row["target"]["state"].as_str().map(str::to_uppercase).as_deref(),
        Some("SYN_SENT"),
        "{row:#}"
    );
}

#[test]
fn accept_on_listener() {
    let _shared = shared();
    let row = check("accept", "tcp", &["local", "inode"], "listen");
    assert_eq!(row["target"]["state"].as_str().map(str::to_uppercase).as_deref(), Some("LISTEN"), "{row:#}");
}

#[test]
fn sendto_when_the_peer_does_not_read() {
    let _shared = shared();
    check("sendto-full", "tcp", TUPLE, "send");
}

/// Its age counts from the last byte that moved, though the call began later.
#[test]
fn poll_and_select_for_room_on_a_full_connection() {
    let _shared = shared();
    check("poll-full", "tcp", TUPLE, "send");
    check("select-full", "tcp", TUPLE, "send");
}

#[test]
fn flock_held_by_another() {
    let _shared = shared();
    check("flock", "file", &["path", "inode"], "lock");
}

#[test]
fn fcntl_lock_held_by_another() {
    let _shared = shared();
    check("fcntl-setlkw", "file", &["path", "inode"], "lock");
}

#[test]
fn opening_a_fifo() {
    let _shared = shared();
    let row = check("open-fifo", "fifo", &["path"], "fifo");
    assert!(row["fd"].is_null(), "an open has no descriptor yet: {row:#}");
}

#[test]
fn futex() {
    let _shared = shared();
    let row = old_row("futex");
    assert_eq!(row["class"], "futex", "{row:#}");
    assert!(row["fd"].is_null(), "{row:#}");
}

#[test]
fn wait4() {
    let _shared = shared();
    let row = old_row("wait4");
    assert_eq!(row["class"], "child", "{row:#}");
    assert!(row["fd"].is_null(), "{row:#}");
}

#[test]
fn nanosleep() {
    let _shared = shared();
    let row = old_row("nanosleep");
    assert_eq!(row["class"], "timer", "{row:#}");
    assert!(row["fd"].is_null(), "{row:#}");
}

/// The shell's `sleep 1000 | cat`, both of whose processes are ordinary programs that stamp nothing.
#[test]
fn sleep_into_cat() {
    let _shared = shared();
    let before = realtime_ns();
    let mut command = Command::new("sleep");
    command.arg("1000").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut sleep = start(command);
    let mut command = Command::new("cat");
    command.stdin(sleep.pipes().stdout.take().expect("piped")).stdout(Stdio::null());
    let cat = start(command);
    // Number 0 is cat's standard input on every table; "0x0" is the first argument of any read of it.
    let syscall = format!("/proc/{}/syscall", cat.pid());
    let reads = |line: String| line.split(' ').nth(1) == Some("0x0") && !line.starts_with("-1");
    while !std::fs::read_to_string(&syscall).is_ok_and(reads) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let begun = realtime_ns();
    std::thread::sleep(Duration::from_secs_f64(AGE));

    let row = ps(&["-p", &cat.pid().to_string()]).row(cat.pid()).clone();
    let link = std::fs::read_link(format!("/proc/{}/fd/0", cat.pid())).expect("cat's standard input");
    assert_eq!(row["comm"], "cat", "{row:#}");
    assert_eq!(row["syscall"], "read", "{row:#}");
    assert_eq!(row["fd"], 0, "{row:#}");
    assert_eq!(row["class"], "pipe", "{row:#}");
    assert_eq!(row["target"]["kind"], "pipe", "{row:#}");
    assert_eq!(format!("pipe:[{}]", row["target"]["inode"]), link.to_string_lossy(), "{row:#}");
    let since = parse_rfc3339_ns(row["since"].as_str().expect("since"));
    assert!(seconds_between(before, since) >= -age_tolerance(), "began before it was started: {row:#}");
    assert!(seconds_between(since, begun) >= -age_tolerance(), "began later than it was seen: {row:#}");
}

/// One thread sleeps in a read, another asks: the wait for an answer is as old as the request, not as the sleep.
#[test]
fn who_reads_what_another_thread_has_asked() {
    let _shared = shared();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("its address")).expect("it listens");
    let (mut server, _) = listener.accept().expect("a connection");
    let (tell, told) = channel();
    let mut reader = client.try_clone().expect("the same socket");
    let reading = std::thread::spawn(move || {
        // SAFETY: gettid takes nothing.
        tell.send(unsafe { libc::gettid() }).expect("it is waited for");
        let mut bytes = [0; 16];
        while reader.read(&mut bytes).is_ok_and(|length| length > 0) {}
    });
    let tid = u32::try_from(told.recv().expect("a thread")).expect("an id");
    server.write_all(b"welcome").expect("it is read");
    pause(Duration::from_secs(4));
    let asked_ns = realtime_ns();
    (&client).write_all(b"a request").expect("there is room");
    // On a loaded machine that may take a while.
    let took = seconds_between(asked_ns, realtime_ns());
    pause(Duration::from_millis(1500));
    let looked = ps(&["--pid", &std::process::id().to_string()]);
    let row = looked.row(tid);
    assert_eq!(row["class"], "reply", "{row:#}");
    let since = parse_rfc3339_ns(row["since"].as_str().expect("a time"));
    let off = seconds_between(asked_ns, since);
    let tolerance = 0.2 + age_tolerance();
    assert!((-tolerance..=took + tolerance).contains(&off), "off by {off:+.3} s of {took:.3}: {row:#}");
    drop(server);
    reading.join().expect("it reads the end");
}
