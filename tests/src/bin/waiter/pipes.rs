//! Which roles wait on pipes? read, poll, epoll, a read whose descriptor is closed meanwhile, and a 32-bit read.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::report::{Report, unsupported, woke};
use crate::{Call, sys};

/// The read end of a pipe whose write end another process holds.
pub(crate) fn quiet_pipe() -> OwnedFd {
    let (reader, writer) = sys::pipe();
    sys::peer(&[reader.as_raw_fd()], move || {
        sys::on_answer(|| sys::write_byte(writer.as_raw_fd()));
    });
    reader
}

/// Writes to a pipe until it is full, and on.
pub(crate) fn fill(writer: RawFd) {
    let bytes = [0; 4096];
    loop {
        // SAFETY: the bytes outlive the call.
        let written = unsafe { libc::write(writer, bytes.as_ptr().cast(), bytes.len()) };
        sys::must(written as i64, "write");
    }
}

pub(crate) fn read_pipe(call: &Call) {
    let reader = quiet_pipe();
    Report::new(call.role, "read").fd(&reader).print();
    woke(sys::read_byte(reader.as_raw_fd()))
}

fn splice(from: RawFd, to: RawFd, flags: u32) -> i64 {
    let none = std::ptr::null_mut::<libc::loff_t>();
    // SAFETY: splice takes numbers, and no offsets here.
    unsafe { libc::syscall(libc::SYS_splice, from, none, to, none, 1 << 16, flags) }
}

/// `splice` of a file into a full pipe, as pv(1) does it.
pub(crate) fn splice_full(call: &Call) {
    let (reader, writer) = sys::pipe();
    let holder = sys::peer(&[writer.as_raw_fd()], move || {
        let _reader = reader;
        sys::rest();
    });
    let path = sys::own_path("spliced");
    std::fs::write(&path, vec![b'x'; 1 << 20]).expect("a file");
    let file = std::fs::File::open(&path).expect("it was made");
    while splice(file.as_raw_fd(), writer.as_raw_fd(), libc::SPLICE_F_NONBLOCK) > 0 {}
    Report::new(call.role, "splice").fd(&writer).with("holder", holder).print();
    woke(splice(file.as_raw_fd(), writer.as_raw_fd(), 0))
}

/// `splice` of an empty pipe into a file.
pub(crate) fn splice_empty(call: &Call) {
    let reader = quiet_pipe();
    let path = sys::own_path("spliced");
    let file = std::fs::File::create(&path).expect("a file");
    Report::new(call.role, "splice").fd(&reader).print();
    woke(splice(reader.as_raw_fd(), file.as_raw_fd(), 0))
}

/// `tee` of a pipe that has something into one that is full: both are pipes, and only one of them keeps it.
pub(crate) fn tee_full(call: &Call) {
    let (full, writer) = sys::pipe();
    let holder = sys::peer(&[writer.as_raw_fd()], move || {
        let _reader = full;
        sys::rest();
    });
    let (source, its_writer) = sys::pipe();
    sys::write_byte(its_writer.as_raw_fd());
    let tee = |flags: u32| {
        let (from, to) = (source.as_raw_fd(), writer.as_raw_fd());
        // SAFETY: tee takes numbers.
        unsafe { libc::syscall(libc::SYS_tee, from, to, 1, flags) }
    };
    while tee(libc::SPLICE_F_NONBLOCK) > 0 {}
    Report::new(call.role, "tee").fd(&writer).with("holder", holder).print();
    woke(tee(0))
}

/// `ppoll` without a time-out on one pipe.
pub(crate) fn poll(call: &Call) {
    let reader = quiet_pipe();
    Report::new(call.role, "ppoll").fd(&reader).print();
    woke(ppoll(reader.as_raw_fd()))
}

pub(crate) fn ppoll(fd: RawFd) -> i64 {
    let mut set = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: one pollfd, which outlives the call; no time-out, no signal mask.
    unsafe { libc::syscall(libc::SYS_ppoll, &raw mut set, 1, none, none, 0) }
}

/// `epoll_pwait` over three pipes.
pub(crate) fn epoll(call: &Call) {
    let pipes = [sys::pipe(), sys::pipe(), sys::pipe()];
    let epoll = epoll_of(&pipes.each_ref().map(|(reader, _)| reader.as_raw_fd()));
    wait_in(call.role, &epoll);
}

/// An epoll set that watches these fds for data.
pub(crate) fn epoll_of(fds: &[RawFd]) -> OwnedFd {
    // SAFETY: epoll_create1 takes a flag.
    let epoll = sys::must_fd(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }.into(), "epoll_create1");
    for fd in fds {
        let mut event = libc::epoll_event { events: libc::EPOLLIN.cast_unsigned(), u64: 0 };
        // SAFETY: `event` outlives the call.
        let added = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, *fd, &raw mut event) };
        sys::must(added.into(), "epoll_ctl");
    }
    epoll
}

/// Waits in `epoll_pwait` for any event of the set.
pub(crate) fn wait_in(role: &str, epoll: &OwnedFd) {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
    let none = std::ptr::null::<libc::c_void>();
    Report::new(role, "epoll_pwait").fd(epoll).print();
    // SAFETY: room for four events, which outlives the call; no time-out, no signal mask.
    woke(unsafe {
        libc::syscall(libc::SYS_epoll_pwait, epoll.as_raw_fd(), events.as_mut_ptr(), 4, -1, none, 0)
    })
}

/// A thread in `read` on a descriptor that the main thread then closes: the call sleeps on, the number is free.
pub(crate) fn closed_fd(call: &Call) {
    let reader = quiet_pipe();
    let (fd, role) = (reader.as_raw_fd(), call.role.to_owned());
    // The line comes after the descriptor is gone, so the thread sends what it knows and the main thread prints.
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let report = Report::new(&role, "read").with("fd", fd);
        let asleep = format!("/proc/{}/task/{}/syscall", std::process::id(), sys::gettid());
        tell.send((report, asleep)).expect("the main thread listens");
        sys::read_byte(fd)
    });
    let (report, asleep) = told.recv().expect("the thread reports");
    sys::until_asleep_in(&asleep, libc::SYS_read);
    drop(reader);
    report.print();
    sys::rest()
}

/// i386 numbers, from arch/x86/entry/syscalls/syscall_32.tbl.
#[cfg(target_arch = "x86_64")]
const I386_READ: i64 = 3;
#[cfg(target_arch = "x86_64")]
const I386_GETPID: i64 = 20;

/// A system call through the 32-bit gate.
///
/// # Safety
///
/// The arguments must be what that i386 call takes; pointers must lie below 4 GiB.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn int80(number: i64, [first, second, third, fourth, fifth]: [i64; 5]) -> i64 {
    let result: i64;
    // SAFETY: the caller vouches for the arguments. rbx is LLVM's own, so it is saved around the call; old kernels
    // do not preserve r8 to r11 over the gate.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {first}",
            "int 0x80",
            "xchg rbx, {first}",
            first = inout(reg) first => _,
            inlateout("rax") number => result,
            in("rcx") second,
            in("rdx") third,
            in("rsi") fourth,
            in("rdi") fifth,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    result
}

/// Ends here where the kernel has no 32-bit calls.
#[cfg(target_arch = "x86_64")]
pub(crate) fn need_32_bit_calls(call: &Call) {
    // A kernel without the gate kills who uses it: let a child try.
    // SAFETY: this process has one thread; the child makes one call and leaves.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: i386 getpid takes no arguments.
        let answered = unsafe { int80(I386_GETPID, [0; 5]) } > 0;
        // SAFETY: _exit takes a number.
        unsafe { libc::_exit(i32::from(!answered)) };
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    if status != 0 {
        unsupported(call.role, "this kernel has no 32-bit system calls (CONFIG_IA32_EMULATION)");
    }
}

/// A page of memory that 32 bits can name.
#[cfg(target_arch = "x86_64")]
pub(crate) fn low_page() -> *mut u8 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
    // SAFETY: a new anonymous mapping, at an address the kernel chooses below 4 GiB.
    let page =
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    assert!(page != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
    page.cast()
}

/// `read` as a 32-bit program calls it: number 3, which is `close` in the 64-bit table.
#[cfg(target_arch = "x86_64")]
pub(crate) fn i386_read(call: &Call) {
    need_32_bit_calls(call);
    let reader = quiet_pipe();
    let address = i64::try_from(low_page().expose_provenance()).expect("below 4 GiB");
    Report::new(call.role, "read").fd(&reader).print();
    // SAFETY: the buffer is a page below 4 GiB and stays mapped.
    woke(unsafe { int80(I386_READ, [reader.as_raw_fd().into(), address, 1, 0, 0]) })
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn i386_read(call: &Call) {
    unsupported(call.role, "int 0x80 is x86's");
}
