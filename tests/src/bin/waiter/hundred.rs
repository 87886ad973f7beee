//! Which role makes a hundred calls whose results and lengths it knows? What `trace` is held against.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::report::{Report, print};
use crate::sockets::{Connection, recvfrom};
use crate::{Call, sys};

/// Longer than what `trace` is asked for in the test, which is half of it.
const BLOCKS: Duration = Duration::from_millis(100);

/// Rounds of seven calls, of which four block, and one more.
const ROUNDS: usize = 15;

/// Says that it is ready, makes the calls when told `go`, and prints those that blocked: name, result as the program saw
/// it, addresses, nanoseconds, and the least it must have taken.
pub(crate) fn hundred_calls(call: &Call) {
    let Connection { listener: _listener, client: reader, server: mut writer } = Connection::new("127.0.0.1");
    let Connection { listener: _other, client: quiet, server: _kept } = Connection::new("127.0.0.1");
    quiet.set_read_timeout(Some(BLOCKS)).expect("a time-out");
    let (patient, _kept_too) = UnixStream::pair().expect("a socket pair");
    let (timed_patient, _kept_as_well) = UnixStream::pair().expect("a socket pair");
    timed_patient.set_read_timeout(Some(BLOCKS * 100)).expect("a time-out");
    // Nobody else can take it, and nobody listens.
    let (_bound, closed) = crate::sockets::bound_socket(0);
    let mut late = Some(crate::sockets::refused_late());
    Report::new(call.role, "none").print();
    sys::on_commands(|command| {
        if command != "go" {
            return;
        }
        let mut blocked: Vec<Value> = Vec::new();
        let mut timed = |name: &str,
                         fd: Option<RawFd>,
                         tcp: Option<(SocketAddr, SocketAddr)>,
                         set: Set<'_>,
                         act: Act<'_>| {
            let begun = sys::monotonic_ns();
            set();
            let late = sys::monotonic_ns() - begun;
            let result = act();
            let result = if result < 0 { -i64::from(errno()) } else { result };
            let took = sys::monotonic_ns() - begun;
            let (local, remote) = tcp.map(|(local, remote)| (local.to_string(), remote.to_string())).unzip();
            blocked.push(json!({
                "syscall": name, "fd": fd, "local": local, "remote": remote, "result": result, "ns": took,
                "least_ns": (BLOCKS.as_nanos() as u64).saturating_sub(late),
            }));
        };
        let tuple =
            |of: &TcpStream| Some((of.local_addr().expect("connected"), of.peer_addr().expect("connected")));
        for round in 0..ROUNDS {
            // Blocks, and times out: EAGAIN.
            timed("recvfrom", Some(quiet.as_raw_fd()), tuple(&quiet), &mut || {}, &mut || {
                recvfrom(quiet.as_raw_fd())
            });
            // Blocks for its time, or until an answer comes.
            if round % 2 == 0 {
                timed("ppoll", None, None, &mut || {}, &mut || poll(BLOCKS));
            } else {
                let answer = &mut || answer_later(&writer);
                timed("recvfrom", Some(reader.as_raw_fd()), tuple(&reader), answer, &mut || {
                    recvfrom(reader.as_raw_fd())
                });
            }
            timed("clock_nanosleep", None, None, &mut || {}, &mut || nanosleep(BLOCKS));
            // Blocks until a signal interrupts it, whose handler does not have it go on: EINTR, which the kernel returns
            // by itself where the socket has a time-out, and decides on after the call's return where it has none.
            let patient = if round % 2 == 0 { &patient } else { &timed_patient };
            timed("recvfrom", Some(patient.as_raw_fd()), None, &mut || sys::alarm(BLOCKS), &mut || {
                recvfrom(patient.as_raw_fd())
            });
            // Does not block: data is there. And fails at once.
            writer.write_all(b"x").expect("a connection has room");
            recvfrom(reader.as_raw_fd());
            recvfrom(-1);
            TcpStream::connect(closed).expect_err("nobody listens there");
        }
        if let Some((fd, local, remote, connect)) = late.take() {
            let mut connect = Some(connect);
            timed("connect", Some(fd), Some((local, remote)), &mut || {}, &mut || {
                connect.take().map_or(0, |connect| connect(BLOCKS))
            });
        }
        print(&json!({"event": "done", "blocked": blocked}));
    });
}

/// What ends the call, set before it; and the call.
type Set<'a> = &'a mut dyn FnMut();
type Act<'a> = &'a mut dyn FnMut() -> i64;

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn poll(time: Duration) -> i64 {
    let time = libc::timespec { tv_sec: 0, tv_nsec: time.as_nanos() as i64 };
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: no fds, a time-out that outlives the call, no signal mask.
    unsafe { libc::syscall(libc::SYS_ppoll, none, 0, &raw const time, none, 0) }
}

fn nanosleep(time: Duration) -> i64 {
    let time = libc::timespec { tv_sec: 0, tv_nsec: time.as_nanos() as i64 };
    let none = std::ptr::null_mut::<libc::timespec>();
    // SAFETY: the time outlives the call; what is left is not asked for.
    unsafe { libc::syscall(libc::SYS_clock_nanosleep, libc::CLOCK_MONOTONIC, 0, &raw const time, none) }
}

/// A thread that answers after a while: its own sleep is a call, too, and shorter than what counts.
fn answer_later(writer: &TcpStream) {
    let mut writer = writer.try_clone().expect("a descriptor");
    std::thread::spawn(move || {
        for _ in 0..4 {
            std::thread::sleep(BLOCKS / 4);
        }
        writer.write_all(b"pong").expect("a socket pair has room");
    });
}
