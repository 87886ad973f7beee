//! Which roles wait for files? flock and fcntl locks another process holds, and a FIFO without another end.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use crate::report::{Report, unsupported, woke};
use crate::{Call, sys};

/// Opens a file of the role's own.
pub(crate) fn create(path: &Path) -> File {
    File::options().read(true).write(true).create(true).truncate(true).open(path).expect("create a file")
}

/// Another process takes a lock with `lock` on its own open of `path`, and has it when this returns.
pub(crate) fn held_elsewhere(path: &Path, lock: impl FnOnce(RawFd) -> i64) -> libc::pid_t {
    let (ready, tell) = sys::pipe();
    let path = path.to_owned();
    let holder = sys::peer(&[ready.as_raw_fd()], move || {
        let mut file = Some(File::options().read(true).write(true).open(path).expect("open"));
        if let Some(file) = &file {
            lock(file.as_raw_fd());
        }
        sys::write_byte(tell.as_raw_fd());
        sys::on_answer(|| drop(file.take()));
    });
    sys::must(sys::read_byte(ready.as_raw_fd()), "the holder's word");
    holder
}

pub(crate) fn flock_exclusive(fd: RawFd) -> i64 {
    // SAFETY: flock takes two numbers.
    unsafe { libc::syscall(libc::SYS_flock, fd, libc::LOCK_EX) }
}

/// `flock` of a file whose lock another process holds.
pub(crate) fn flock(call: &Call) {
    flock_at(call, &sys::own_path("flock"));
}

pub(crate) fn flock_at(call: &Call, path: &Path) {
    let file = create(path);
    held_elsewhere(path, |fd| sys::must(flock_exclusive(fd), "flock"));
    Report::new(call.role, "flock").fd(&file).path(path).print();
    woke(flock_exclusive(file.as_raw_fd()))
}

/// The same after the file was removed.
pub(crate) fn flock_deleted(call: &Call) {
    let path = sys::own_path("deleted");
    let file = create(&path);
    held_elsewhere(&path, |fd| sys::must(flock_exclusive(fd), "flock"));
    std::fs::remove_file(&path).expect("remove");
    Report::new(call.role, "flock").fd(&file).path(&path).print();
    woke(flock_exclusive(file.as_raw_fd()))
}

/// The same on a file that has only memory behind it.
pub(crate) fn flock_memfd(call: &Call) {
    // SAFETY: the name is NUL-terminated.
    let made = unsafe { libc::syscall(libc::SYS_memfd_create, c"waiter-memory".as_ptr(), libc::MFD_CLOEXEC) };
    let file: OwnedFd = sys::must_fd(made, "memfd_create");
    let opened = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    held_elsewhere(Path::new(&opened), |fd| sys::must(flock_exclusive(fd), "flock"));
    Report::new(call.role, "flock").fd(&file).with("path", "memfd:waiter-memory").print();
    woke(flock_exclusive(file.as_raw_fd()))
}

fn setlkw(fd: RawFd) -> i64 {
    // SAFETY: an all-zero flock is a valid value; zero length means the whole file.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::c_short::try_from(libc::F_WRLCK).expect("a small number");
    // SAFETY: `lock` outlives the call.
    unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_SETLKW, &raw mut lock) }
}

/// `fcntl(F_SETLKW)` for a lock another process holds.
pub(crate) fn fcntl_setlkw(call: &Call) {
    let path = sys::own_path("fcntl");
    let file = create(&path);
    held_elsewhere(&path, |fd| sys::must(setlkw(fd), "fcntl"));
    Report::new(call.role, "fcntl").fd(&file).path(&path).print();
    woke(setlkw(file.as_raw_fd()))
}

/// `openat` of a FIFO for reading that nobody opens for writing.
pub(crate) fn open_fifo(call: &Call) {
    let path = sys::own_path("fifo");
    let name = sys::c_path(&path);
    // SAFETY: `name` is NUL-terminated and outlives the call.
    sys::must(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }.into(), "mkfifo");
    let writer = path.clone();
    sys::peer(&[], move || {
        sys::on_answer(|| std::mem::forget(File::options().write(true).open(&writer)));
    });
    Report::new(call.role, "openat").path(&path).print();
    // SAFETY: `name` is NUL-terminated and outlives the call.
    woke(unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, name.as_ptr(), libc::O_RDONLY) })
}

/// `openat` of a file on which another process has a lease, which it does not give back.
pub(crate) fn open_leased(call: &Call) {
    let path = sys::own_path("leased");
    // A lease takes that nobody else has it open.
    drop(create(&path));
    let holder = held_elsewhere(&path, |fd| {
        // SAFETY: numbers only. It is told that its lease is wanted, by a signal that would end it.
        unsafe {
            libc::signal(libc::SIGIO, libc::SIG_IGN);
            sys::must(libc::fcntl(fd, libc::F_SETLEASE, libc::F_WRLCK).into(), "a lease")
        }
    });
    // Whoever would only read makes the kernel look again at each tick.
    opens(call, &path, libc::O_WRONLY, holder)
}

/// `openat` of a file for which a listener of fanotify has to give its permission, and does not.
pub(crate) fn open_permitted(call: &Call) {
    let path = sys::own_path("permitted");
    drop(create(&path));
    // SAFETY: numbers only.
    let listener = unsafe { libc::fanotify_init(libc::FAN_CLASS_CONTENT | libc::FAN_CLOEXEC, 0) };
    let name = sys::c_path(&path);
    // SAFETY: `name` is NUL-terminated and outlives the call.
    let marked = unsafe {
        libc::fanotify_mark(listener, libc::FAN_MARK_ADD, libc::FAN_OPEN_PERM, libc::AT_FDCWD, name.as_ptr())
    };
    if listener < 0 || marked < 0 {
        unsupported(call.role, &format!("fanotify: {}", std::io::Error::last_os_error()));
    }
    // Its end is the permission.
    let mut listener = Some(listener);
    let holder = sys::peer(&[], move || {
        sys::on_answer(|| {
            // SAFETY: this process's copy of the descriptor, which it uses no more.
            listener.take().map(|fd| unsafe { libc::close(fd) });
        });
    });
    opens(call, &path, libc::O_RDONLY, holder)
}

/// `openat` of a name that a daemon is to mount something at, and does not.
pub(crate) fn open_automount(call: &Call) {
    let place = sys::own_path("automount");
    std::fs::create_dir_all(&place).expect("a directory");
    let (requests, tell) = sys::pipe();
    let (told, daemon_lives) = sys::pipe();
    // The daemon is the first of its process group; it takes no requests.
    let daemon = sys::peer(&[told.as_raw_fd()], move || {
        // SAFETY: setpgid takes numbers.
        sys::must(unsafe { libc::setpgid(0, 0) }.into(), "setpgid");
        let _requests = requests;
        sys::write_byte(daemon_lives.as_raw_fd());
        sys::rest();
    });
    sys::must(sys::read_byte(told.as_raw_fd()), "the daemon's word");
    let options = format!("fd={},pgrp={daemon},minproto=5,maxproto=5,indirect", tell.as_raw_fd());
    let (name, options) = (sys::c_path(&place), std::ffi::CString::new(options).expect("no NUL"));
    // SAFETY: numbers, and strings that are NUL-terminated and outlive the calls. The mount is this process's alone.
    let mounted = unsafe {
        let none = std::ptr::null();
        sys::must(libc::unshare(libc::CLONE_NEWNS).into(), "unshare");
        let private = libc::MS_REC | libc::MS_PRIVATE;
        sys::must(libc::mount(none, c"/".as_ptr(), none, private, none.cast()).into(), "mount");
        libc::mount(c"none".as_ptr(), name.as_ptr(), c"autofs".as_ptr(), 0, options.as_ptr().cast())
    };
    if mounted != 0 {
        unsupported(call.role, &format!("autofs: {}", std::io::Error::last_os_error()));
    }
    opens(call, &place.join("share"), libc::O_RDONLY, daemon)
}

fn opens(call: &Call, path: &Path, flags: i32, holder: libc::pid_t) -> ! {
    let name = sys::c_path(path);
    Report::new(call.role, "openat").path(path).with("holder", holder).print();
    // SAFETY: `name` is NUL-terminated and outlives the call.
    woke(unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, name.as_ptr(), flags) })
}
