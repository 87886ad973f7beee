//! Which roles block many threads at once, or many processes? One socket each, or thousands of pipe readers.

use std::io::Write;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::Builder;

use crate::report::{Report, print};
use crate::sockets::{Connection, recvfrom, tcp_report};
use crate::{Call, sys};

/// N threads in `recvfrom`, each on a connection of its own, on which nothing was said; the line's `threads` has one entry for each.
pub(crate) fn threads(call: &Call) {
    each_on_its_own(call, b"");
}

/// The same, and each has asked something.
pub(crate) fn asking_threads(call: &Call) {
    each_on_its_own(call, b"ask");
}

fn each_on_its_own(call: &Call, question: &'static [u8]) {
    let count = call.count();
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let (clients, servers): (Vec<_>, Vec<_>) = (0..count).map(|_| Connection::pair(&listener)).unzip();
    let not_its: Vec<_> = clients.iter().map(AsRawFd::as_raw_fd).collect();
    sys::peer(&not_its, move || {
        let _held = (listener, servers);
        sys::rest();
    });
    let (tell, told) = mpsc::channel();
    for mut client in clients {
        client.write_all(question).expect("ask");
        let (tell, role) = (tell.clone(), call.role.to_owned());
        let body = move || {
            let report = tcp_report(&role, "recvfrom", &client).stamped();
            tell.send(report).expect("the main thread listens");
            recvfrom(client.as_raw_fd())
        };
        Builder::new().stack_size(64 * 1024).spawn(body).expect("a thread");
    }
    let threads: Vec<_> = told.iter().take(count).collect();
    Report::new(call.role, "read").with("threads", threads).print();
    sys::on_commands(|_| ());
}

/// How many pipes the readers share: descriptors are scarcer than threads.
const PIPES: usize = 16;

/// N threads in `read` on pipes. The line is printed when all of them sleep.
pub(crate) fn pipes(call: &Call) {
    let count = call.count();
    let (readers, writers): (Vec<_>, Vec<_>) = (0..PIPES).map(|_| sys::pipe()).unzip();
    let not_its: Vec<_> = readers.iter().map(AsRawFd::as_raw_fd).collect();
    sys::peer(&not_its, move || {
        let _writers = writers;
        sys::rest();
    });
    let begun = Arc::new(AtomicUsize::new(0));
    for index in 0..count {
        let (fd, begun) = (readers[index % PIPES].as_raw_fd(), Arc::clone(&begun));
        let body = move || {
            begun.fetch_add(1, Ordering::Relaxed);
            sys::read_byte(fd)
        };
        Builder::new().stack_size(32 * 1024).spawn(body).expect("a thread");
    }
    while begun.load(Ordering::Relaxed) < count || asleep() < count {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let mut report = Report::new(call.role, "read").with("count", count).stamped();
    report["fds"] = not_its.into();
    print(&report);
    sys::on_commands(|_| ());
}

/// N processes in `read` on one pipe.
pub(crate) fn family(call: &Call) {
    let count = call.count();
    let (reader, writer) = sys::pipe();
    for _ in 0..count {
        sys::peer(&[writer.as_raw_fd()], || {
            sys::read_byte(reader.as_raw_fd());
        });
    }
    print(&Report::new(call.role, "read").with("count", count).stamped());
    sys::on_commands(|_| ());
}

/// How many threads of this process are in state S.
fn asleep() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("/proc");
    let stat = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("stat")).ok();
    tasks.flatten().filter_map(stat).filter(|line| line.contains(") S ")).count()
}
