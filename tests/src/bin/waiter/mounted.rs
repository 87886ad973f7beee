//! Which roles hang on a mount whose server does not answer? Each prepares itself while it still does, and hangs when told.

use std::ffi::CString;
use std::fs::File;
use std::io::Error;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::json;

use crate::report::{Report, print, unsupported, woke};
use crate::{Call, sys};

const PAGE: usize = 4096;

/// Says what it is about to do, and does it when the test says `go`.
fn when_told(call: &Call, syscall: &str, act: impl FnOnce() -> i64) {
    Report::new(call.role, syscall).path(path(call)).print();
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    print(&json!({ "event": "begins", "realtime_ns": sys::realtime_ns() }));
    woke(act())
}

fn path<'a>(call: &'a Call) -> &'a Path {
    Path::new(call.args.first().unwrap_or_else(|| panic!("{}: which path?", call.role)))
}

fn named(call: &Call) -> CString {
    CString::new(path(call).as_os_str().as_bytes()).expect("no NUL in a path")
}

pub(crate) fn open(call: &Call) {
    let name = named(call);
    // SAFETY: `name` is NUL-terminated and outlives the call.
    when_told(call, "openat", || unsafe {
        libc::syscall(libc::SYS_openat, libc::AT_FDCWD, name.as_ptr(), libc::O_RDONLY)
    });
}

pub(crate) fn stat(call: &Call) {
    let name = named(call);
    // SAFETY: an all-zero `stat` is a valid value of the C struct.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `name` is NUL-terminated; both outlive the call.
    when_told(call, "newfstatat", || unsafe {
        libc::syscall(libc::SYS_newfstatat, libc::AT_FDCWD, name.as_ptr(), &raw mut stat, 0)
    });
}

/// What df(1) asks.
pub(crate) fn statfs(call: &Call) {
    let name = named(call);
    // SAFETY: an all-zero `statfs` is a valid value of the C struct.
    let mut room: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `name` is NUL-terminated; both outlive the call.
    when_told(call, "statfs", || unsafe { libc::syscall(libc::SYS_statfs, name.as_ptr(), &raw mut room) });
}

pub(crate) fn chdir(call: &Call) {
    let name = named(call);
    // SAFETY: `name` is NUL-terminated and outlives the call.
    when_told(call, "chdir", || unsafe { libc::syscall(libc::SYS_chdir, name.as_ptr()) });
}

/// Runs a program that lies there.
pub(crate) fn execve(call: &Call) {
    let name = named(call);
    let (arguments, environment) = ([name.as_ptr(), std::ptr::null()], [std::ptr::null::<libc::c_char>()]);
    // SAFETY: `name` is NUL-terminated; both lists end with a null pointer and outlive the call.
    when_told(call, "execve", || unsafe {
        libc::syscall(libc::SYS_execve, name.as_ptr(), arguments.as_ptr(), environment.as_ptr())
    });
}

/// A page of a file there, mapped and not yet read.
fn page(call: &Call) -> *const u8 {
    let file = File::open(path(call)).expect("the server answers");
    let protection = libc::PROT_READ;
    // SAFETY: a new mapping, at an address the kernel chooses.
    let page =
        unsafe { libc::mmap(std::ptr::null_mut(), PAGE, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if page == libc::MAP_FAILED {
        unsupported(call.role, &format!("mmap: {}", Error::last_os_error()));
    }
    page.cast()
}

/// Reads such a page.
pub(crate) fn fault(call: &Call) {
    let page = page(call);
    // SAFETY: the page is mapped readable.
    when_told(call, "page_fault", || unsafe { page.read_volatile() }.into());
}

/// Writes such a page into a pipe that is read: the kernel reads it, in the middle of the call.
pub(crate) fn write(call: &Call) {
    let page = page(call);
    let (reader, writer) = sys::pipe();
    sys::peer(&[writer.as_raw_fd()], move || while sys::read_byte(reader.as_raw_fd()) > 0 {});
    // SAFETY: the page is mapped, and that large.
    when_told(call, "write", || unsafe { libc::syscall(libc::SYS_write, writer.as_raw_fd(), page, PAGE) });
}

/// Closes a file there, which the server is told.
pub(crate) fn close(call: &Call) {
    let file = File::open(path(call)).expect("the server answers");
    let fd = file.into_raw_fd();
    // SAFETY: it is this process's descriptor, and is used no more.
    when_told(call, "close", || unsafe { libc::syscall(libc::SYS_close, fd) });
}

/// Gives a file there another name.
pub(crate) fn rename(call: &Call) {
    let (from, to) = (named(call), sys::c_path(&path(call).with_extension("new")));
    // SAFETY: both names are NUL-terminated and outlive the call.
    when_told(call, "renameat2", || unsafe {
        let here = libc::AT_FDCWD;
        libc::syscall(libc::SYS_renameat2, here, from.as_ptr(), here, to.as_ptr(), 0)
    });
}

/// Writes to a file there: the file is locked until the server has answered.
pub(crate) fn pwrite(call: &Call) {
    let file = File::options().write(true).open(path(call)).expect("the server answers");
    let bytes = [b'x'; 100];
    // SAFETY: the bytes outlive the call.
    when_told(call, "pwrite64", || unsafe {
        libc::syscall(libc::SYS_pwrite64, file.as_raw_fd(), bytes.as_ptr(), bytes.len(), 0)
    });
}

/// Polls a set of descriptors that lies in such a page once it sleeps: whoever reads the set waits for the server.
pub(crate) fn poll(call: &Call) {
    let (reader, _writer) = sys::pipe();
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous mapping, at an address the kernel chooses.
    let set =
        unsafe { libc::mmap(std::ptr::null_mut(), PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    assert!(set != libc::MAP_FAILED, "mmap: {}", Error::last_os_error());
    let one = libc::pollfd { fd: reader.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: the page is large enough and aligned for one.
    unsafe { set.cast::<libc::pollfd>().write(one) };
    let file = File::open(path(call)).expect("the server answers");
    let (address, tid) = (set.expose_provenance(), sys::gettid());
    std::thread::spawn(move || {
        let number = libc::SYS_ppoll;
        sys::until_asleep_in(&format!("/proc/self/task/{tid}/syscall"), number);
        let place = std::ptr::with_exposed_provenance_mut::<libc::c_void>(address);
        let (protection, flags) = (libc::PROT_READ, libc::MAP_SHARED | libc::MAP_FIXED);
        // SAFETY: only that page is replaced, and nothing of Rust's lies in it.
        let mapped = unsafe { libc::mmap(place, PAGE, protection, flags, file.as_raw_fd(), 0) };
        assert!(mapped == place, "mmap: {}", Error::last_os_error());
        print(&json!({ "event": "mapped" }));
    });
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: one pollfd, which is there when the call copies it; no time-out, no signal mask.
    when_told(call, "ppoll", || unsafe { libc::syscall(libc::SYS_ppoll, set, 1, none, none, 0) });
}

/// Becomes another program, for which the kernel closes a file there: it waits for the server, and holds the lock that
/// readers of many files of `/proc/PID` take.
pub(crate) fn exec_closing(call: &Call) {
    let file = File::options().read(true).write(true).open(path(call)).expect("the server answers");
    let program = std::env::current_exe().expect("its own program");
    let program = sys::c_path(&program);
    let arguments = [program.as_ptr(), c"nanosleep".as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null::<libc::c_char>()];
    // SAFETY: all strings are NUL-terminated; both lists end with a null pointer and outlive the call.
    when_told(call, "execve", || unsafe {
        libc::syscall(libc::SYS_execve, program.as_ptr(), arguments.as_ptr(), environment.as_ptr())
    });
    drop(file);
}
