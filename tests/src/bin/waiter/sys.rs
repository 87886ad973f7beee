//! How do the roles reach the kernel? Small safe wrappers over raw system calls.
//!
//! Raw, because the C libraries choose: `nanosleep` becomes `clock_nanosleep` in glibc, `epoll_wait` becomes
//! `epoll_pwait` in musl, and a test has to know which call it will see.

use std::ffi::CString;
use std::io::{BufRead, Error};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The result of a system call that has to succeed.
pub(crate) fn must(result: i64, what: &str) -> i64 {
    assert!(result >= 0, "{what}: {}", Error::last_os_error());
    result
}

/// A new descriptor from a call that has to succeed.
pub(crate) fn must_fd(result: i64, what: &str) -> OwnedFd {
    let fd = RawFd::try_from(must(result, what)).expect("descriptors are small");
    // SAFETY: the kernel has just returned this descriptor to us; nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

pub(crate) fn gettid() -> i32 {
    // SAFETY: gettid has no arguments and cannot fail.
    unsafe { libc::gettid() }
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec that outlives the call.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    u64::try_from(i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)).expect("after 1970")
}

pub(crate) fn realtime_ns() -> u64 {
    clock_ns(libc::CLOCK_REALTIME)
}

pub(crate) fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// The inode behind a descriptor.
pub(crate) fn inode(fd: RawFd) -> u64 {
    // SAFETY: an all-zero `stat` is a valid value of the C struct.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` outlives the call.
    must(unsafe { libc::fstat(fd, &raw mut stat) }.into(), "fstat");
    stat.st_ino
}

/// Closes a descriptor this process inherited over fork and does not want.
pub(crate) fn close(fd: RawFd) {
    // SAFETY: the caller owns `fd` in this process and does not use it again.
    unsafe { libc::close(fd) };
}

/// A pipe: read end, write end.
pub(crate) fn pipe() -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors.
    must(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }.into(), "pipe2");
    (must_fd(ends[0].into(), "pipe"), must_fd(ends[1].into(), "pipe"))
}

/// `read` into one byte; the bytes read.
pub(crate) fn read_byte(fd: RawFd) -> i64 {
    let mut byte = 0_u8;
    // SAFETY: one byte at `byte`, which outlives the call.
    unsafe { libc::syscall(libc::SYS_read, fd, &raw mut byte, 1) }
}

/// `write` of one byte. A reader that has gone is no matter.
pub(crate) fn write_byte(fd: RawFd) {
    let byte = b'x';
    // SAFETY: one byte at `byte`, which outlives the call.
    unsafe { libc::syscall(libc::SYS_write, fd, &raw const byte, 1) };
}

/// Sleeps for ever.
pub(crate) fn rest() -> ! {
    loop {
        sleep_seconds(100_000);
    }
}

/// `nanosleep`, whole seconds; the call's own result.
pub(crate) fn sleep_seconds(seconds: i64) -> i64 {
    let time = libc::timespec { tv_sec: seconds, tv_nsec: 0 };
    // SAFETY: `time` outlives the call; the remaining time is not asked for.
    unsafe { libc::syscall(libc::SYS_nanosleep, &raw const time, std::ptr::null_mut::<libc::timespec>()) }
}

/// Forks the role's second party: it closes `not_its` (the role's own descriptors), runs `body`, then rests.
///
/// What `body` owns is dropped in this process, so the two sides share nothing but what they should. Call it
/// before any thread is started.
pub(crate) fn peer(not_its: &[RawFd], body: impl FnOnce()) -> libc::pid_t {
    let parent = std::process::id();
    // SAFETY: this process has one thread, so the child may go on as the parent could.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", Error::last_os_error()),
        0 => {
            die_with(parent);
            for fd in not_its {
                close(*fd);
            }
            body();
            rest();
        }
        pid => pid,
    }
}

/// Has the kernel kill this process when its parent ends.
pub(crate) fn die_with(parent: u32) {
    // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // The parent may have ended between fork and prctl.
    if std::os::unix::process::parent_id() != parent {
        std::process::exit(1);
    }
}

/// Runs `act` for every line on standard input; ends the process when the test closes it.
pub(crate) fn on_commands(mut act: impl FnMut(&str)) -> ! {
    for line in std::io::stdin().lock().lines() {
        match line {
            Ok(line) => act(line.trim()),
            Err(_) => break,
        }
    }
    std::process::exit(0)
}

/// A peer's whole life where the one command is `answer`.
pub(crate) fn on_answer(mut act: impl FnMut()) -> ! {
    on_commands(|command| {
        if command == "answer" {
            act();
        }
    })
}

/// After so long a signal comes that interrupts a call, and does nothing else.
pub(crate) fn alarm(after: std::time::Duration) {
    extern "C" fn nothing(_: libc::c_int) {}
    let zero = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let once = libc::itimerval {
        it_interval: zero,
        it_value: libc::timeval {
            tv_sec: after.as_secs().cast_signed(),
            tv_usec: after.subsec_micros().into(),
        },
    };
    // SAFETY: an all-zero sigaction is a valid value of the C struct; both outlive the calls; the handler does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        must(libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()).into(), "sigaction");
        must(libc::setitimer(libc::ITIMER_REAL, &raw const once, std::ptr::null_mut()).into(), "setitimer");
    }
}

/// The name other tools show for the calling thread; at most 15 bytes count.
pub(crate) fn set_comm(name: &[u8]) {
    let name = CString::new(name).expect("no NUL in a name");
    // SAFETY: `name` is NUL-terminated and outlives the call.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// A path for this process's own file in the directory the test made (`WAITER_DIR`) and will remove.
pub(crate) fn own_path(name: &str) -> PathBuf {
    let dir = std::env::var_os("WAITER_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    dir.join(format!("{name}-{}", std::process::id()))
}

/// A path as the kernel takes it.
pub(crate) fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path")
}

/// Waits until `path` (a `/proc/PID/task/TID/syscall`) shows a thread asleep in call `number`.
pub(crate) fn until_asleep_in(path: &str, number: i64) {
    let start = format!("{number} ");
    while !std::fs::read_to_string(path).is_ok_and(|line| line.starts_with(&start)) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
