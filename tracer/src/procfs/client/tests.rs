//! A client against a reader of its own: everything that can be asked, and answers that do not come.

use std::{io::Write, os::fd::AsFd, time::Duration};

use super::{connection::CONNECTION, *};
use crate::procfs::ask::LONG_BYTES;

/// One that shares nothing with the others.
fn apart() -> ReaderClient {
    ReaderClient { shared: Arc::default() }
}

fn file(path: &str, process: ProcessId) -> ProcessRead {
    ProcessRead {
        process,
        needs: Needs::Host,
        ask: ReadRequest::File { path: path.into(), limit: LONG_BYTES },
    }
}

fn process(pid: u32) -> ProcessId {
    ProcessId { pid, start_ns: 1 }
}

/// A descriptor of which nothing can be read for now; readable once the other is written to or dropped.
fn silent() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe().expect("a pipe")
}

fn soon(mut is_so: impl FnMut() -> bool) -> bool {
    (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        is_so()
    })
}

#[test]
fn everything_that_can_be_asked_is_answered() {
    let client = apart();
    let pid = std::process::id();
    let ask = |ask| ProcessRead { process: process(pid), needs: Needs::Nothing, ask };
    let path = |name: &str| format!("/proc/{pid}/{name}");
    let text = b"a text in memory\0";
    let address = text.as_ptr() as u64;
    let answers = client.ask_all(vec![
        ask(ReadRequest::File { path: path("comm"), limit: 3 }),
        ask(ReadRequest::Link { path: path("exe") }),
        ask(ReadRequest::Names { path: path("task") }),
        ask(ReadRequest::Links { path: path("ns") }),
        ask(ReadRequest::Stat { path: path("fd/0") }),
        ask(ReadRequest::Memory { pid, address, length: 6 }),
        ask(ReadRequest::Text { pid, address, limit: 100 }),
        ask(ReadRequest::Open { path: path("ns/net") }),
        ask(ReadRequest::File { path: "/proc/4294967295/stat".into(), limit: 1 }),
        ask(ReadRequest::Text { pid, address: 1, limit: 100 }),
    ]);
    let bytes = |at: usize| answers[at].as_ref().expect("an answer").0.clone();
    assert_eq!(bytes(0).len(), 3);
    assert_eq!(bytes(1), std::env::current_exe().expect("this").as_os_str().as_encoded_bytes());
    assert!(bytes(2).ends_with(b"\0"));
    assert!(String::from_utf8_lossy(&bytes(3)).contains("net\0net:["));
    assert!(super::super::ask::FileStat::decode(&bytes(4)).is_some_and(|stat| stat.mode != 0));
    assert_eq!(bytes(5), b"a text");
    assert_eq!(bytes(6), b"a text in memory");
    assert!(answers[7].as_ref().is_ok_and(|(_, descriptor)| descriptor.is_some()));
    assert!(matches!(answers[8], Err(Unread::Failed(Errno::NOENT))));
    assert!(matches!(answers[9], Err(Unread::Failed(Errno::FAULT))));
    let forbidden = client.ask(file("/etc/passwd", process(pid)));
    assert!(matches!(forbidden, Err(Unread::Failed(Errno::PERM))));
}

#[test]
fn one_that_hangs_costs_the_others_nothing() {
    let client = apart();
    let comm = format!("/proc/{}/comm", std::process::id());
    // A page that never comes, as behind a file system whose server is gone.
    let page = Absent::new();
    let memory = |pid| ProcessRead {
        process: process(pid),
        needs: Needs::Memory,
        ask: ReadRequest::Memory { pid: std::process::id(), address: page.address, length: 8 },
    };
    let begun = Instant::now();
    let answers = client.ask_all(vec![file(&comm, process(1)), memory(2), file(&comm, process(3))]);
    assert!(answers[0].is_ok() && answers[2].is_ok());
    assert!(matches!(answers[1], Err(Unread::Late)), "{:?}", answers[1].as_ref().err());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(matches!(client.ask(memory(2)), Err(Unread::Refused(Refused::LeftAlone))));
    // The kernel lets go of it: nobody is left behind.
    assert!(soon(|| {
        let mut shared = client.shared();
        shared.count_left();
        shared.left.is_empty()
    }));
    assert_eq!(client.abandoned(), 1);
}

#[test]
fn a_descriptor_that_gives_nothing_is_given_up() {
    let client = apart();
    let (hangs, end) = silent();
    assert_eq!(client.drain(hangs.as_fd()), Err(Unread::Late));
    assert_eq!(client.drain(hangs.as_fd()), Err(Unread::Refused(Refused::LeftAlone)));
    drop(end);
}

/// A page of this process's memory that nobody ever provides (userfaultfd(2)).
struct Absent {
    address: u64,
    _faults: OwnedFd,
}

impl Absent {
    fn new() -> Self {
        use std::os::fd::{AsRawFd, FromRawFd};
        const UFFDIO_API: u64 = 0xc018_aa3f;
        const UFFDIO_REGISTER: u64 = 0xc020_aa00;
        // SAFETY: the structures are of the sizes that the requests have; the memory is anonymous and new.
        unsafe {
            let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC);
            assert!(fd >= 0, "userfaultfd: {}", std::io::Error::last_os_error());
            let faults = OwnedFd::from_raw_fd(fd as i32);
            let mut api = [0xaa_u64, 0, 0];
            assert_eq!(libc::ioctl(faults.as_raw_fd(), UFFDIO_API as _, api.as_mut_ptr()), 0);
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let page = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, flags, -1, 0);
            assert_ne!(page, libc::MAP_FAILED);
            let mut register = [page as u64, 4096, 1, 0];
            assert_eq!(libc::ioctl(faults.as_raw_fd(), UFFDIO_REGISTER as _, register.as_mut_ptr()), 0);
            Self { address: page as u64, _faults: faults }
        }
    }
}

#[test]
fn what_a_descriptor_gives_comes_whole() {
    let client = apart();
    let (reader, writer) = silent();
    let bytes: Vec<u8> = (0..3 * PART_BYTES).map(|at| at as u8).collect();
    let (answer, ()) = std::thread::scope(|scope| {
        let all = &bytes;
        let write = scope.spawn(move || std::fs::File::from(writer).write_all(all).expect("writes"));
        (client.drain(reader.as_fd()), write.join().expect("ends"))
    });
    assert!(answer.is_ok_and(|came| came == bytes));
}

#[test]
fn readers_are_known_as_tracers_own() {
    let client = apart();
    assert!(client.ask(file("/proc/locks", HOST)).is_ok());
    let pid = CONNECTION.with_borrow(|kept| kept.as_ref().expect("it is kept").reader.pid);
    assert!(is_own(pid) && is_own(std::process::id()) && !is_own(1));
    assert!(is_own(supervisor::pid().expect("it runs")));
    CONNECTION.take();
    assert!(!is_own(pid));
}
