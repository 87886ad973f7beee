//! Which roles watch sets of fds in an unusual way? Twice the same, for errors only, too many, from memory that is gone, by
//! a count with garbage in it, as a 32-bit program; and their own pipe, into which a handler of a signal would write.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::report::{Report, unsupported, woke};
use crate::sockets::{tcp_report, unanswered};
use crate::{Call, pipes, sys};

const TO_READ: libc::c_short = libc::POLLIN;

fn wanted(fd: RawFd, events: libc::c_short) -> libc::pollfd {
    libc::pollfd { fd, events, revents: 0 }
}

/// `ppoll` without a time-out.
fn ppoll(set: &mut [libc::pollfd], count: u64) -> i64 {
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: the set outlives the call, and has as many entries as the lower half of `count` says.
    unsafe { libc::syscall(libc::SYS_ppoll, set.as_mut_ptr(), count, none, none, 0) }
}

/// A count of which the kernel takes the lower half.
pub(crate) fn poll_garbage(call: &Call) {
    let client = unanswered("127.0.0.1");
    tcp_report(call.role, "ppoll", &client).print();
    woke(ppoll(&mut [wanted(client.as_raw_fd(), TO_READ)], 0xdead_beef_0000_0001))
}

/// A connection and its duplicate.
pub(crate) fn poll_twice(call: &Call) {
    let client = unanswered("127.0.0.1");
    let again = client.try_clone().expect("dup");
    let fds = [client.as_raw_fd(), again.as_raw_fd()];
    // The lower number is the one that is shown.
    tcp_report(call.role, "ppoll", &client).with("fd", fds[0].min(fds[1])).print();
    woke(ppoll(&mut fds.map(|fd| wanted(fd, TO_READ)), 2))
}

/// `pselect6` of a connection for exceptions only.
pub(crate) fn select_except(call: &Call) {
    let client = unanswered("127.0.0.1");
    // SAFETY: an all-zero fd_set is an empty one.
    let mut set: libc::fd_set = unsafe { std::mem::zeroed() };
    let fd = client.as_raw_fd();
    // SAFETY: the fd is one of the first, and fits the set.
    unsafe { libc::FD_SET(fd, &raw mut set) };
    let none = std::ptr::null::<libc::c_void>();
    Report::new(call.role, "pselect6").print();
    // SAFETY: the set outlives the call; no other set, no time-out, no signal mask.
    woke(unsafe { libc::syscall(libc::SYS_pselect6, fd + 1, none, none, &raw mut set, none, none) })
}

/// An epoll set with one connection, as an async client has that awaits its only answer.
pub(crate) fn epoll_client(call: &Call) {
    let client = unanswered("127.0.0.1");
    let epoll = pipes::epoll_of(&[client.as_raw_fd()]);
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
    let none = std::ptr::null::<libc::c_void>();
    tcp_report(call.role, "epoll_pwait", &client).print();
    // SAFETY: room for four events, which outlives the call; no time-out, no signal mask.
    woke(unsafe {
        libc::syscall(libc::SYS_epoll_pwait, epoll.as_raw_fd(), events.as_mut_ptr(), 4, -1, none, 0)
    })
}

/// The same with a time-out in memory.
pub(crate) fn epoll_timed(call: &Call) {
    let client = unanswered("127.0.0.1");
    let epoll = pipes::epoll_of(&[client.as_raw_fd()]);
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
    let mut wait = |seconds| {
        let timeout = libc::timespec { tv_sec: seconds, tv_nsec: 0 };
        let none = std::ptr::null::<libc::c_void>();
        // SAFETY: room for four events and the time-out outlive the call; no signal mask.
        unsafe {
            let (epoll, events) = (epoll.as_raw_fd(), events.as_mut_ptr());
            libc::syscall(libc::SYS_epoll_pwait2, epoll, events, 4, &raw const timeout, none, 0)
        }
    };
    if wait(0) != 0 {
        unsupported(call.role, "this kernel has no epoll_pwait2 (5.11)");
    }
    tcp_report(call.role, "epoll_pwait2", &client).print();
    woke(wait(500))
}

/// A set whose memory is given back while the thread sleeps in the call.
pub(crate) fn poll_unmapped(call: &Call) {
    let reader = pipes::quiet_pipe();
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous mapping, at an address the kernel chooses.
    let page =
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    assert!(page != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
    // SAFETY: the page is large enough and aligned for one.
    unsafe { page.cast::<libc::pollfd>().write(wanted(reader.as_raw_fd(), TO_READ)) };
    let (address, tid) = (page.expose_provenance(), sys::gettid());
    let (role, number) = (call.role.to_owned(), libc::SYS_ppoll);
    let report = Report::new(&role, "ppoll");
    std::thread::spawn(move || {
        sys::until_asleep_in(&format!("/proc/self/task/{tid}/syscall"), number);
        let page = std::ptr::with_exposed_provenance_mut::<libc::c_void>(address);
        // SAFETY: only this page is given back, and nothing of Rust's lies in it.
        sys::must(unsafe { libc::munmap(page, 4096) }.into(), "munmap");
        report.print();
    });
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: one pollfd, which is there when the call copies it; no time-out, no signal mask.
    woke(unsafe { libc::syscall(number, page, 1, none, none, 0) })
}

/// `ppoll` of so many duplicates of a pipe.
pub(crate) fn poll_many(call: &Call) {
    let count = call.count();
    let room = libc::rlimit { rlim_cur: 2 * count as u64, rlim_max: 2 * count as u64 };
    // SAFETY: the limit outlives the call. Where it is refused, dup fails and says so.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const room) };
    let reader = pipes::quiet_pipe();
    let fds: Vec<OwnedFd> = (0..count).map(|_| reader.try_clone().expect("dup")).collect();
    let mut set: Vec<_> = fds.iter().map(|fd| wanted(fd.as_raw_fd(), TO_READ)).collect();
    Report::new(call.role, "ppoll").print();
    woke(ppoll(&mut set, count as u64))
}

/// A pipe of its own, into which a handler of a signal writes: what Python's `set_wakeup_fd` and many daemons do.
pub(crate) fn self_pipe(call: &Call) {
    let (reader, _writer) = sys::pipe();
    sys::alarm(Duration::from_secs(100_000));
    Report::new(call.role, "ppoll").fd(&reader).print();
    woke(pipes::ppoll(reader.as_raw_fd()))
}

/// `poll` as a 32-bit program calls it.
#[cfg(target_arch = "x86_64")]
pub(crate) fn i386_poll(call: &Call) {
    /// arch/x86/entry/syscalls/syscall_32.tbl.
    const I386_POLL: i64 = 168;
    pipes::need_32_bit_calls(call);
    let reader = pipes::quiet_pipe();
    let page = pipes::low_page();
    // SAFETY: the page is large enough and aligned for one.
    unsafe { page.cast::<libc::pollfd>().write(wanted(reader.as_raw_fd(), TO_READ)) };
    let address = i64::try_from(page.expose_provenance()).expect("below 4 GiB");
    Report::new(call.role, "poll").fd(&reader).print();
    // SAFETY: one pollfd on a page below 4 GiB that stays mapped; no time-out.
    woke(unsafe { pipes::int80(I386_POLL, [address, 1, -1, 0, 0]) })
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn i386_poll(call: &Call) {
    unsupported(call.role, "int 0x80 is x86's");
}

/// `recv` as the C library of a 32-bit program makes it: by `socketcall`, its arguments in memory.
#[cfg(target_arch = "x86_64")]
pub(crate) fn i386_socketcall(call: &Call) {
    /// arch/x86/entry/syscalls/syscall_32.tbl, include/uapi/linux/net.h.
    const I386_SOCKETCALL: i64 = 102;
    const RECV: i64 = 10;
    pipes::need_32_bit_calls(call);
    let client = unanswered("127.0.0.1");
    let page = pipes::low_page();
    let address = page.expose_provenance();
    let below_4_gib = |address: usize| u32::try_from(address).expect("below 4 GiB");
    let arguments = [client.as_raw_fd().cast_unsigned(), below_4_gib(address + 1024), 64, 0];
    // SAFETY: the page is large enough and aligned for them.
    unsafe { page.cast::<[u32; 4]>().write(arguments) };
    tcp_report(call.role, "socketcall", &client).print();
    // SAFETY: the arguments and the buffer are on a page below 4 GiB that stays mapped.
    woke(unsafe { pipes::int80(I386_SOCKETCALL, [RECV, below_4_gib(address).into(), 0, 0, 0]) })
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn i386_socketcall(call: &Call) {
    unsupported(call.role, "int 0x80 is x86's");
}

/// `ppoll` of the table of mounts, which tells of changes, as `findmnt --poll` does.
pub(crate) fn poll_mounts(call: &Call) {
    let mounts = std::fs::File::open("/proc/self/mountinfo").expect("proc is mounted");
    Report::new(call.role, "ppoll").print();
    woke(ppoll(&mut [wanted(mounts.as_raw_fd(), libc::POLLPRI)], 1))
}

/// `read` of the kernel's log, as rsyslog's imklog does: what has been said is taken first.
pub(crate) fn read_kmsg(call: &Call) {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let open = |flags| std::fs::OpenOptions::new().read(true).custom_flags(flags).open("/proc/kmsg");
    let (Ok(mut log), Ok(blocking)) = (open(libc::O_NONBLOCK), open(0)) else {
        unsupported(call.role, "the kernel's log may not be read")
    };
    let mut bytes = [0; 4096];
    while log.read(&mut bytes).is_ok_and(|read| read > 0) {}
    Report::new(call.role, "read").fd(&blocking).print();
    woke(sys::read_byte(blocking.as_raw_fd()))
}
