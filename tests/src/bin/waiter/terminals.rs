//! Which roles have trouble with a terminal? Writers that nobody reads or whose output was stopped, and jobs in the background.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::report::{Report, woke};
use crate::{Call, sys};

/// Ctrl-S, as it arrives.
const XOFF: u8 = 0x13;

/// Both sides of a new terminal: the master, and what programs have.
pub(crate) fn pair() -> (OwnedFd, OwnedFd) {
    // SAFETY: posix_openpt takes flags.
    let made = unsafe { libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) };
    let master = sys::must_fd(made.into(), "posix_openpt");
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK takes a pointer to an int, which outlives the call.
    let unlocked = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) };
    sys::must(unlocked.into(), "TIOCSPTLCK");
    // SAFETY: TIOCGPTPEER takes open flags.
    let peer = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY) };
    (master, sys::must_fd(peer.into(), "TIOCGPTPEER"))
}

fn write(fd: RawFd, bytes: &[u8]) -> i64 {
    // SAFETY: the bytes outlive the call.
    unsafe { libc::syscall(libc::SYS_write, fd, bytes.as_ptr(), bytes.len()) }
}

/// `write` to a terminal that takes nothing more.
fn write_on(call: &Call, terminal: &OwnedFd, holder: libc::pid_t) -> ! {
    let fd = terminal.as_raw_fd();
    // SAFETY: fcntl takes numbers.
    let set = |flags: i32| unsafe { libc::fcntl(fd, libc::F_SETFL, flags) };
    set(libc::O_RDWR | libc::O_NONBLOCK);
    let mut full = 0;
    // What is being read makes room for a moment.
    while full < 20 {
        full = if write(fd, &[b'y'; 512]) < 0 { full + 1 } else { 0 };
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    set(libc::O_RDWR);
    Report::new(call.role, "write").fd(terminal).with("holder", holder).print();
    woke(write(fd, &[b'y'; 512]))
}

/// Another process has its other end, and reads nothing.
pub(crate) fn write_tty(call: &Call) {
    let (master, terminal) = pair();
    let holder = sys::peer(&[terminal.as_raw_fd()], move || {
        let _master = master;
        sys::rest();
    });
    write_on(call, &terminal, holder)
}

/// Another process reads all that comes, but Ctrl-S was typed.
pub(crate) fn write_tty_stopped(call: &Call) {
    let (master, terminal) = pair();
    write(master.as_raw_fd(), &[XOFF]);
    let holder = sys::peer(&[terminal.as_raw_fd()], move || while sys::read_byte(master.as_raw_fd()) > 0 {});
    write_on(call, &terminal, holder)
}

/// A job in the background of a session of its own does this with its terminal. It is the job that reports.
fn in_background(call: &Call, syscall: &str, act: impl FnOnce(RawFd) -> i64) {
    let (master, terminal) = pair();
    // SAFETY: numbers only.
    unsafe {
        sys::must(libc::setsid().into(), "setsid");
        sys::must(libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0).into(), "TIOCSCTTY");
    }
    sys::peer(&[master.as_raw_fd()], move || {
        // SAFETY: numbers only.
        unsafe {
            libc::signal(libc::SIGTTIN, libc::SIG_DFL);
            libc::signal(libc::SIGTTOU, libc::SIG_DFL);
            sys::must(libc::setpgid(0, 0).into(), "setpgid");
        }
        Report::new(call.role, syscall).fd(&terminal).print();
        act(terminal.as_raw_fd());
    });
    let _master = master;
    sys::rest()
}

pub(crate) fn background_read(call: &Call) {
    in_background(call, "read", sys::read_byte);
}

/// Sets its terminal as it is set.
pub(crate) fn background_write(call: &Call) {
    in_background(call, "ioctl", |fd| {
        // SAFETY: an all-zero termios is one; it outlives both calls.
        unsafe {
            let mut settings: libc::termios = std::mem::zeroed();
            libc::tcgetattr(fd, &raw mut settings);
            libc::tcsetattr(fd, libc::TCSANOW, &raw const settings).into()
        }
    });
}
