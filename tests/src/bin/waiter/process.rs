//! Which roles wait without a descriptor? futex, wait4, sleep; and who makes processes come and go?

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::report::{Report, unsupported, woke};
use crate::{Call, sys};

/// FUTEX_WAIT as a condition does it: the value is not a lock's 2.
fn futex_wait(timeout: *const libc::timespec) -> i64 {
    let word = 7_u32;
    // SAFETY: the word outlives the call; the time-out is null or the caller's.
    unsafe { libc::syscall(libc::SYS_futex, &raw const word, libc::FUTEX_WAIT, word, timeout, 0, 0) }
}

pub(crate) fn futex(call: &Call) {
    Report::new(call.role, "futex").print();
    woke(futex_wait(std::ptr::null()))
}

pub(crate) fn wait4(call: &Call) {
    let child = sys::peer(&[], || sys::on_answer(|| std::process::exit(0)));
    let none = std::ptr::null_mut::<libc::c_void>();
    Report::new(call.role, "wait4").with("child", child).print();
    // SAFETY: neither status nor usage is asked for.
    woke(unsafe { libc::syscall(libc::SYS_wait4, child, none, 0, none) })
}

pub(crate) fn nanosleep(call: &Call) {
    Report::new(call.role, "nanosleep").print();
    woke(sys::sleep_seconds(100_000))
}

/// `clock_nanosleep`: after SIGSTOP and SIGCONT the kernel goes on with it as restart_syscall.
pub(crate) fn restart_nanosleep(call: &Call) {
    let time = libc::timespec { tv_sec: 100_000, tv_nsec: 0 };
    let none = std::ptr::null_mut::<libc::timespec>();
    Report::new(call.role, "clock_nanosleep").print();
    // SAFETY: `time` outlives the call; the remaining time is not asked for.
    woke(unsafe { libc::syscall(libc::SYS_clock_nanosleep, libc::CLOCK_MONOTONIC, 0, &raw const time, none) })
}

/// `poll` with a time-out. Not ppoll, which the kernel restarts another way.
#[cfg(target_arch = "x86_64")]
pub(crate) fn restart_poll(call: &Call) {
    use std::os::fd::AsRawFd;
    let reader = crate::pipes::quiet_pipe();
    let mut set = libc::pollfd { fd: reader.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    Report::new(call.role, "poll").fd(&reader).print();
    // SAFETY: one pollfd, which outlives the call.
    woke(unsafe { libc::syscall(libc::SYS_poll, &raw mut set, 1, 100_000_000) })
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn restart_poll(call: &Call) {
    unsupported(call.role, "this architecture has only ppoll");
}

/// A futex wait with a time-out: only those are restarted as restart_syscall.
pub(crate) fn restart_futex(call: &Call) {
    let time = libc::timespec { tv_sec: 100_000, tv_nsec: 0 };
    Report::new(call.role, "futex").print();
    woke(futex_wait(&raw const time))
}

/// When told, a thread that is not the first one has a shell take the place of its process, which starts three sleeps.
pub(crate) fn exec_by_thread(call: &Call) {
    Report::new(call.role, "pause").print();
    std::thread::spawn(|| {
        sys::on_commands(|_| {
            let sleeps = "for _ in 1 2 3; do /bin/sleep 0.4; done";
            // It returns only if it fails.
            panic!("exec: {}", Command::new("/bin/sh").args(["-c", sleeps]).exec());
        })
    });
    loop {
        // SAFETY: pause has no arguments.
        unsafe { libc::pause() };
    }
}

/// The first thread ends; another sleeps three times when told, and ends the process.
pub(crate) fn first_thread_ends(call: &Call) {
    Report::new(call.role, "nanosleep").print();
    std::thread::spawn(|| {
        sys::on_commands(|_| {
            for _ in 0..3 {
                std::thread::sleep(std::time::Duration::from_millis(400));
            }
            std::process::exit(0)
        })
    });
    // SAFETY: ends this thread alone; what is on its stack nobody else uses.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}

/// The first process of a namespace of ids has been killed, and waits in its end until another of the namespace, which has
/// ended, is waited for: nobody does.
pub(crate) fn exiting(call: &Call) {
    // SAFETY: unshare takes a number.
    if unsafe { libc::unshare(libc::CLONE_NEWPID) } != 0 {
        unsupported(call.role, "it may make no namespace of process ids");
    }
    let child = |body: fn()| {
        // SAFETY: this process has one thread; the child makes two calls at most and leaves.
        match unsafe { libc::fork() } {
            0 => {
                body();
                // SAFETY: _exit takes a number.
                unsafe { libc::_exit(0) };
            }
            -1 => panic!("fork: {}", std::io::Error::last_os_error()),
            pid => pid,
        }
    };
    let first = child(|| {
        // SAFETY: pause has no arguments.
        unsafe { libc::pause() };
    });
    child(|| ());
    // SAFETY: kill takes numbers.
    unsafe { libc::kill(first, libc::SIGKILL) };
    Report::new(call.role, "exit").with("exiting", first).print();
    loop {
        // SAFETY: pause has no arguments.
        unsafe { libc::pause() };
    }
}

/// How many short-lived children there are at a time.
const STORM: usize = 16;

/// Processes that start, sleep a millisecond and exit, for as long as the test lets it.
pub(crate) fn storm(call: &Call) {
    Report::new(call.role, "wait4").print();
    let mut alive = 0;
    loop {
        // SAFETY: this process has one thread; the child sleeps and leaves.
        match unsafe { libc::fork() } {
            0 => {
                let time = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
                // SAFETY: `time` outlives the call.
                unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
                // SAFETY: _exit takes a number.
                unsafe { libc::_exit(0) };
            }
            -1 => unsupported(call.role, "fork refused"),
            _ => alive += 1,
        }
        if alive >= STORM {
            // SAFETY: the status is not asked for.
            unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) };
            alive -= 1;
        }
    }
}
