//! Which roles are a crowd of processes, or of threads, that all wait for one and the same thing? What `ps` and the agent must not
//! look at once for each two of them.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::Builder;

use tests::NOBODY;

use crate::report::{Report, print};
use crate::{Call, files, pipes, sys};

/// Fds of the set that a crowd of threads waits on.
const WATCHED: usize = 100;

/// So many processes, of another user, each of which does this with what it has opened before. They inherit all other descriptors.
fn crowd<T>(count: usize, not_its: &[RawFd], open: impl Fn() -> T, body: impl Fn(T) -> i64) {
    let parent = std::process::id();
    for _ in 0..count {
        sys::peer(not_its, || {
            let opened = open();
            // SAFETY: setresgid and setresuid take numbers.
            sys::must(unsafe { libc::setresgid(NOBODY, NOBODY, NOBODY) }.into(), "setresgid");
            // SAFETY: as above.
            sys::must(unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) }.into(), "setresuid");
            // A change of user takes the death signal away.
            sys::die_with(parent);
            body(opened);
        });
    }
}

fn say(call: &Call, syscall: &str) -> ! {
    rest_after(report(call, syscall))
}

fn report(call: &Call, syscall: &str) -> Report {
    Report::new(call.role, syscall).with("count", call.count())
}

fn rest_after(report: Report) -> ! {
    print(&report.stamped());
    sys::on_commands(|_| ())
}

/// N processes that read one pipe, and could all write it: what prefork servers and make's jobserver have.
pub(crate) fn pipe(call: &Call) {
    let (reader, _writer) = sys::pipe();
    crowd(call.count(), &[], || (), |()| sys::read_byte(reader.as_raw_fd()));
    say(call, "read")
}

/// N processes that read one end of a pair of Unix sockets, and hold both.
pub(crate) fn unix(call: &Call) {
    let (reader, _writer) = UnixStream::pair().expect("a pair of sockets");
    crowd(call.count(), &[], || (), |()| sys::read_byte(reader.as_raw_fd()));
    say(call, "read")
}

/// Opens a file for itself: a lock is an open file's.
fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).expect("a file")
}

/// N processes that wait for the lock on one file, which this one has.
pub(crate) fn lock(call: &Call) {
    let path = sys::own_path("crowd");
    let held = files::create(&path);
    sys::must(files::flock_exclusive(held.as_raw_fd()), "flock");
    queue(call, &path, held.as_raw_fd());
    say(call, "flock")
}

/// The same, but another process has it, which waits for a second lock. That one this process has.
pub(crate) fn lock_behind(call: &Call) {
    let (path, second) = (sys::own_path("crowd"), sys::own_path("crowd-second"));
    let held = files::create(&second);
    sys::must(files::flock_exclusive(held.as_raw_fd()), "flock");
    drop(files::create(&path));
    let (ready, tell) = sys::pipe();
    let holder = sys::peer(&[held.as_raw_fd(), ready.as_raw_fd()], || {
        let (its_own, wanted) = (open(&path), open(&second));
        sys::must(files::flock_exclusive(its_own.as_raw_fd()), "flock");
        sys::write_byte(tell.as_raw_fd());
        files::flock_exclusive(wanted.as_raw_fd());
    });
    sys::must(sys::read_byte(ready.as_raw_fd()), "the holder's word");
    queue(call, &path, held.as_raw_fd());
    rest_after(report(call, "flock").with("holder", holder))
}

/// The processes of a crowd wait for the lock on this file, each through an open of its own, while it may open it.
fn queue(call: &Call, path: &Path, not_its: RawFd) {
    crowd(call.count(), &[not_its], || open(path), |own| files::flock_exclusive(own.as_raw_fd()));
}

/// N threads that wait on one epoll set.
pub(crate) fn epoll(call: &Call) {
    let pipes: Vec<_> = (0..WATCHED).map(|_| sys::pipe()).collect();
    let fds: Vec<RawFd> = pipes.iter().map(|(reader, _)| reader.as_raw_fd()).collect();
    let set = pipes::epoll_of(&fds);
    let fd = set.as_raw_fd();
    for _ in 0..call.count() {
        let body = move || {
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            // SAFETY: room for one event, which outlives the call.
            unsafe { libc::epoll_wait(fd, &raw mut event, 1, -1) }
        };
        Builder::new().stack_size(32 * 1024).spawn(body).expect("a thread");
    }
    say(call, "epoll_wait")
}
