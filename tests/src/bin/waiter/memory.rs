//! Which role waits in no system call at all? A page fault that nobody serves, as on a dead FUSE mapping.

use std::io::Error;

use crate::report::{Report, unsupported, woke};
use crate::{Call, sys};

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

/// Touches a page that a userfaultfd is to serve, and does not.
pub(crate) fn page_fault(call: &Call) {
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
    let mut api = UffdioApi { api: UFFD_API, features: 0, ioctls: 0 };
    let mut range = UffdioRegister {
        start: page.expose_provenance() as u64,
        len: PAGE as u64,
        mode: UFFDIO_REGISTER_MODE_MISSING,
        ioctls: 0,
    };
    let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
    // SAFETY: both ioctls take a pointer to the struct given, which outlives the call.
    unsafe {
        sys::must(libc::ioctl(raw, UFFDIO_API as libc::Ioctl, &raw mut api).into(), "UFFDIO_API");
        sys::must(libc::ioctl(raw, UFFDIO_REGISTER as libc::Ioctl, &raw mut range).into(), "UFFDIO_REGISTER");
    }
    Report::new(call.role, "page_fault").print();
    // SAFETY: the page is mapped readable; the read stops in the fault until the process is killed.
    woke(unsafe { page.cast::<u8>().read_volatile() }.into())
}
