//! Running an iterator over one thread, which aya does not offer: to find one thread among a hundred thousand, all would be walked.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::Duration,
};

const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_ITER_CREATE: libc::c_long = 33;
const BPF_TRACE_ITER: u32 = 28;
/// What one such run is taken to cost: a link, an iterator, and a thread.
const RUN: Duration = Duration::from_micros(30);
/// How many of these are taken for less than a walk of which nothing is known.
const FEW: usize = 16;

/// `union bpf_attr`, the part for links of iterators (include/uapi/linux/bpf.h).
#[repr(C)]
struct LinkAttr {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    unused: u32,
}

/// `union bpf_iter_link_info`, the part for threads.
#[repr(C)]
struct ThreadInfo {
    tid: u32,
    pid: u32,
    pid_fd: u32,
}

/// `union bpf_attr`, the part for iterators.
#[repr(C)]
struct IteratorAttr {
    link_fd: u32,
    flags: u32,
}

/// What this iterator over threads writes of the thread with this id in the reader's PID namespace. Before Linux 6.1 it visits all
/// threads, as the kernel does not look at what it is told.
///
/// # Errors
/// The kernel's.
pub(super) fn over_thread(program: BorrowedFd<'_>, tid: u32) -> io::Result<File> {
    let mut info = ThreadInfo { tid, pid: 0, pid_fd: 0 };
    let link = LinkAttr {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_fd: 0,
        attach_type: BPF_TRACE_ITER,
        flags: 0,
        iter_info: &raw mut info as u64,
        iter_info_len: size_of::<ThreadInfo>() as u32,
        unused: 0,
    };
    let link = bpf(BPF_LINK_CREATE, link)?;
    let iterator = IteratorAttr { link_fd: link.as_raw_fd().cast_unsigned(), flags: 0 };
    Ok(bpf(BPF_ITER_CREATE, iterator)?.into())
}

/// A call that returns a descriptor.
fn bpf<T>(command: libc::c_long, mut attr: T) -> io::Result<OwnedFd> {
    // SAFETY: both commands only read `attr` and what it points to, which live until the call has returned.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size_of::<T>()) };
    match i32::try_from(result) {
        // SAFETY: the kernel has just opened it for us, and nobody else has it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether so many threads are cheaper visited one by one than in a walk over all, which took so long last.
pub(super) fn is_cheaper(threads: usize, walk: Option<Duration>) -> bool {
    match walk {
        Some(walk) => RUN.saturating_mul(u32::try_from(threads).unwrap_or(u32::MAX)) < walk,
        None => threads <= FEW,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_many_is_visited_alone_and_many_of_few_together() {
        let milliseconds = |number| Some(Duration::from_millis(number));
        assert!(is_cheaper(1, milliseconds(10)) && is_cheaper(300, milliseconds(10)));
        assert!(!is_cheaper(400, milliseconds(10)) && !is_cheaper(1, Some(Duration::from_micros(20))));
        assert!(is_cheaper(1, None) && !is_cheaper(100, None));
    }
}
