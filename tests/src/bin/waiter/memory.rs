//! Which roles have memory that never comes, as on a dead FUSE mapping? A page fault that nobody serves, and a `poll` whose
//! array of fds nobody can read.

use std::io::Error;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::report::{Report, unsupported, woke};
use crate::{Call, files, sys};

/// `struct uffdio_api` of include/uapi/linux/userfaultfd.h.
#[repr(C)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register` of the same header.
#[repr(C)]
struct UffdioRegister {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFD_API: u64 = 0xaa;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;
const PAGE: usize = 4096;

/// Touches a page that a userfaultfd of its own is to serve, and does not.
pub(crate) fn page_fault(call: &Call) {
    let (_server, page) = unserved(call, &[]);
    Report::new(call.role, "page_fault").print();
    touch(page)
}

/// The same, but another process is to serve it.
pub(crate) fn page_fault_elsewhere(call: &Call) {
    let (server, page) = unserved(call, &[]);
    let holder = sys::peer(&[], || ());
    drop(server);
    Report::new(call.role, "page_fault").with("holder", holder).print();
    touch(page)
}

fn touch(page: *const u8) -> ! {
    // SAFETY: the page is mapped readable; the read stops in the fault until the process is killed.
    woke(unsafe { page.read_volatile() }.into())
}

/// Writes such a page to a file: the kernel reads it, in the middle of the call.
pub(crate) fn write_unserved(call: &Call) {
    let (server, page) = unserved(call, &[]);
    let holder = sys::peer(&[], || ());
    drop(server);
    let file = files::create(&sys::own_path("unserved"));
    Report::new(call.role, "write").fd(&file).with("holder", holder).print();
    // SAFETY: the page is mapped, and that large.
    woke(unsafe { libc::syscall(libc::SYS_write, file.as_raw_fd(), page, PAGE) })
}

/// `ppoll` of a pipe whose array of fds is taken away during the call: whoever reads it waits for a page that never
/// comes.
pub(crate) fn poll_missing(call: &Call) {
    let (reader, _writer) = sys::pipe();
    let set = libc::pollfd { fd: reader.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: zeroes are a valid pollfd, and the page is large enough and aligned for one.
    let first =
        unsafe { std::slice::from_raw_parts((&raw const set).cast::<u8>(), size_of::<libc::pollfd>()) };
    let (_server, page) = unserved(call, first);
    let (address, tid) = (page.expose_provenance(), sys::gettid());
    std::thread::spawn(move || {
        // Once it sleeps in the call, which has copied the array by then.
        let asleep = format!("/proc/self/task/{tid}/syscall");
        let number = format!("{} ", libc::SYS_ppoll);
        while !std::fs::read_to_string(&asleep).is_ok_and(|call| call.starts_with(&number)) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let page = std::ptr::with_exposed_provenance_mut::<libc::c_void>(address);
        // SAFETY: only this page is given back, and nothing of Rust's lies in it.
        sys::must(unsafe { libc::madvise(page, PAGE, libc::MADV_DONTNEED) }.into(), "madvise");
    });
    let none = std::ptr::null::<libc::c_void>();
    Report::new(call.role, "ppoll").fd(&reader).print();
    // SAFETY: one pollfd, which is there when the call copies it; no time-out, no signal mask.
    woke(unsafe { libc::syscall(libc::SYS_ppoll, page, 1, none, none, 0) })
}

/// A page that a userfaultfd is to serve whenever it is missing, which nobody does, and that; at first the page has these bytes.
fn unserved(call: &Call, first: &[u8]) -> (OwnedFd, *mut u8) {
    // SAFETY: userfaultfd takes flags.
    let made = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    if made < 0 {
        unsupported(call.role, &format!("userfaultfd: {}", Error::last_os_error()));
    }
    let fd = sys::must_fd(made, "userfaultfd");
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous mapping, at an address the kernel chooses.
    let page =
        unsafe { libc::mmap(std::ptr::null_mut(), PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    assert!(page != libc::MAP_FAILED, "mmap: {}", Error::last_os_error());
    // SAFETY: the page is that large, and new.
    unsafe { std::ptr::copy_nonoverlapping(first.as_ptr(), page.cast::<u8>(), first.len()) };
    let mut api = UffdioApi { api: UFFD_API, features: 0, ioctls: 0 };
    let mut range = UffdioRegister {
        start: page.expose_provenance() as u64,
        len: PAGE as u64,
        mode: UFFDIO_REGISTER_MODE_MISSING,
        ioctls: 0,
    };
    let raw = fd.as_raw_fd();
    // SAFETY: both ioctls take a pointer to the struct given, which outlives the call.
    unsafe {
        sys::must(libc::ioctl(raw, UFFDIO_API as libc::Ioctl, &raw mut api).into(), "UFFDIO_API");
        sys::must(libc::ioctl(raw, UFFDIO_REGISTER as libc::Ioctl, &raw mut range).into(), "UFFDIO_REGISTER");
    }
    (fd, page.cast())
}
