//! Which role is a file system whose server stops answering? FUSE's protocol, as much of it as ten files need.
//!
//! Two processes: the keeper mounts, obeys the test, and takes the mount away again; the server, its child, holds `/dev/fuse`.
//! The kernel lets go of everybody who waits for the file system when the server has ended, and it ends with the keeper.
//! So whatever becomes of the test, nobody is left hanging.

use std::collections::VecDeque;
use std::ffi::CString;
use std::io::{BufRead, Error};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use serde_json::json;

use crate::report::{Report, print, unsupported};
use crate::{Call, sys};

/// What the keeper has to take away.
static SERVER: AtomicI32 = AtomicI32::new(0);
static PLACE: OnceLock<CString> = OnceLock::new();
/// With what each of its files begins.
static CONTENT: OnceLock<Vec<u8>> = OnceLock::new();

/// `fuse PLACE SECONDS [FILE]`: mounts there, for so long at most; each of its files begins with what FILE has in it. Commands: `hang` (requests are taken and not answered), `answer`
/// (all of them), `held` (how many are taken), `stop` and `go-on` (the server's process). Each is answered by a line.
pub(crate) fn fuse(call: &Call) {
    let [place, seconds, content @ ..] = call.args else { panic!("fuse PLACE SECONDS [FILE]") };
    let content = content.first().map(|file| std::fs::read(file).expect("it is read"));
    CONTENT.set(content.unwrap_or_default()).expect("once");
    let seconds: u32 = seconds.parse().expect("seconds");
    let place = Path::new(place);
    std::fs::create_dir_all(place).expect("a directory");
    // SAFETY: the path is NUL-terminated.
    let opened = unsafe { libc::open(c"/dev/fuse".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    if opened < 0 {
        unsupported(call.role, &format!("/dev/fuse: {}", Error::last_os_error()));
    }
    let device = sys::must_fd(opened.into(), "/dev/fuse");
    mount(place, device.as_raw_fd());
    let (own, its) = std::os::unix::net::UnixDatagram::pair().expect("a pair");
    let server = sys::peer(&[own.as_raw_fd()], || serve(&device, &its));
    drop((device, its));
    SERVER.store(server, Ordering::Relaxed);
    leave_on_signals(seconds);
    let ask = |command: &[u8]| {
        own.send(command).expect("the server lives");
        let mut held = [0; 4];
        own.recv(&mut held).expect("the server answers");
        u32::from_ne_bytes(held)
    };
    ask(b"held");
    Report::new(call.role, "none").path(place).with("server", server).print();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let held = match line.trim() {
            "stop" => stop(server),
            // SAFETY: kill takes numbers; the server has not been waited for.
            "go-on" => i64::from(unsafe { libc::kill(server, libc::SIGCONT) }),
            command => ask(command.as_bytes()).into(),
        };
        print(&json!({ "event": "done", "held": held }));
    }
    leave(0)
}

fn mount(place: &Path, device: RawFd) {
    let place = sys::c_path(place);
    let options = format!("fd={device},rootmode=40000,user_id=0,group_id=0,allow_other");
    let options = CString::new(options).expect("no NUL");
    // SAFETY: all strings are NUL-terminated and outlive the call.
    let result = unsafe {
        let flags = libc::MS_NOSUID | libc::MS_NODEV;
        libc::mount(c"hung".as_ptr(), place.as_ptr(), c"fuse".as_ptr(), flags, options.as_ptr().cast())
    };
    sys::must(result.into(), "mount");
    PLACE.set(place).expect("one mount");
}

/// Stops the server, and returns when it has stopped.
fn stop(server: libc::pid_t) -> i64 {
    let mut status = 0;
    // SAFETY: kill and waitpid take numbers and a status that outlives the call; the child has not been waited for.
    unsafe {
        sys::must(libc::kill(server, libc::SIGSTOP).into(), "kill");
        libc::waitpid(server, &raw mut status, libc::WUNTRACED).into()
    }
}

/// Whatever ends the keeper takes the mount away; so does the time.
fn leave_on_signals(seconds: u32) {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGALRM] {
        // SAFETY: the handler makes system calls only.
        unsafe { libc::signal(signal, leave as *const () as libc::sighandler_t) };
    }
    // SAFETY: alarm takes a number.
    unsafe { libc::alarm(seconds) };
}

/// The server first: then nobody waits for it, and the mount can go.
extern "C" fn leave(_: libc::c_int) -> ! {
    // SAFETY: numbers and a NUL-terminated path that is never freed; all four may be called in a signal's handler.
    unsafe {
        let server = SERVER.load(Ordering::Relaxed);
        libc::kill(server, libc::SIGKILL);
        libc::waitpid(server, std::ptr::null_mut(), 0);
        if let Some(place) = PLACE.get() {
            libc::umount2(place.as_ptr(), libc::MNT_DETACH);
        }
        libc::_exit(0)
    }
}

/// Numbers of include/uapi/linux/fuse.h.
mod opcode {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const STATFS: u32 = 17;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FLUSH: u32 = 25;
    pub(super) const INIT: u32 = 26;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const BATCH_FORGET: u32 = 42;
}

/// Pages are read ahead of who waits for them; several names of a directory are looked up at a time.
const ASYNC_READ: u32 = 1 << 0;
const PARALLEL_DIROPS: u32 = 1 << 18;

/// `sizeof(struct fuse_in_header)`.
const HEAD: usize = 40;
/// What the kernel writes at a time at most; it wants room for a head beside it.
const MOST: u32 = 64 << 10;
const ROOT: u64 = 1;
/// The files f0 to f9 have these numbers after the root's.
const FIRST: u64 = 2;
const SIZE: u64 = 1 << 20;

/// Answers the kernel and the keeper, one after the other.
fn serve(device: &OwnedFd, keeper: &std::os::unix::net::UnixDatagram) {
    let mut room = vec![0; MOST as usize + 4096];
    let mut held: Option<VecDeque<Vec<u8>>> = None;
    let mut greeted = false;
    loop {
        let watch = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut set = [watch(device.as_raw_fd()), watch(keeper.as_raw_fd())];
        // The keeper is answered only once the kernel has been greeted.
        let count = if greeted { 2 } else { 1 };
        // SAFETY: two pollfds, which outlive the call.
        sys::must(unsafe { libc::poll(set.as_mut_ptr(), count, -1) }.into(), "poll");
        if set[0].revents != 0 {
            // SAFETY: the room is that large.
            let length = unsafe { libc::read(device.as_raw_fd(), room.as_mut_ptr().cast(), room.len()) };
            // An interrupted request may have gone by now.
            let Ok(length) = usize::try_from(length) else { continue };
            let request = &room[..length];
            match &mut held {
                Some(held) if wants_answer(request) => held.push_back(request.to_vec()),
                _ => answer(device, request),
            }
            greeted = true;
        }
        if set[1].revents != 0 {
            let mut command = [0; 16];
            let length = keeper.recv(&mut command).expect("the keeper lives");
            match &command[..length] {
                b"hang" => held = held.or_else(|| Some(VecDeque::new())),
                b"answer" => held.take().into_iter().flatten().for_each(|request| answer(device, &request)),
                _ => (),
            }
            let count = held.as_ref().map_or(0, VecDeque::len) as u32;
            keeper.send(&count.to_ne_bytes()).expect("the keeper lives");
        }
    }
}

fn number(request: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(request[at..at + 8].try_into().expect("eight bytes"))
}

fn opcode(request: &[u8]) -> u32 {
    u32::from_ne_bytes(request[4..8].try_into().expect("four bytes"))
}

fn wants_answer(request: &[u8]) -> bool {
    !matches!(opcode(request), opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT)
}

fn answer(device: &OwnedFd, request: &[u8]) {
    if !wants_answer(request) {
        return;
    }
    let (error, body) = match body(request) {
        Ok(body) => (0, body),
        Err(error) => (-error, Vec::new()),
    };
    let mut reply = Vec::new();
    reply.extend((16 + body.len() as u32).to_ne_bytes());
    reply.extend(error.to_ne_bytes());
    reply.extend(number(request, 8).to_ne_bytes());
    reply.extend(body);
    // Nobody may wait for it any more; then it is refused.
    // SAFETY: the bytes outlive the call.
    unsafe { libc::write(device.as_raw_fd(), reply.as_ptr().cast(), reply.len()) };
}

/// What a request is answered with, or an error's number.
fn body(request: &[u8]) -> Result<Vec<u8>, i32> {
    let node = number(request, 16);
    let arguments = &request[HEAD..];
    let mut out = Out::default();
    match opcode(request) {
        opcode::INIT => {
            // The kernel's own version, its read-ahead, what libfuse wants, too, and how much it may write.
            let flags = ASYNC_READ | PARALLEL_DIROPS;
            out.copy(&arguments[..12]).words(&[flags, 0, MOST, 1]).zeroes(36);
        }
        opcode::LOOKUP => {
            let file = match arguments {
                [b'f', digit @ b'0'..=b'9', 0] => FIRST + u64::from(digit - b'0'),
                _ => return Err(libc::ENOENT),
            };
            // No generation; nothing may be remembered, so that each look at it is a request.
            out.longs(&[file, 0, 0, 0]).words(&[0, 0]).attributes(file);
        }
        opcode::GETATTR => {
            out.longs(&[0]).words(&[0, 0]).attributes(node);
        }
        opcode::OPEN => {
            out.longs(&[0]).words(&[0, 0]);
        }
        opcode::READ => {
            let (offset, size) = (number(arguments, 8), number(arguments, 16) & u64::from(u32::MAX));
            let length = size.min(SIZE.saturating_sub(offset)) as usize;
            let content =
                CONTENT.get().and_then(|content| content.get(offset as usize..)).unwrap_or_default();
            out.copy(&content[..content.len().min(length)]);
            out.0.resize(length, b'x');
        }
        opcode::WRITE => {
            out.copy(&arguments[16..20]).words(&[0]);
        }
        opcode::STATFS => {
            // Blocks, free ones, files; their sizes; the longest name.
            out.longs(&[1000, 500, 500, 10, 0]).words(&[4096, 255, 4096, 0]).zeroes(24);
        }
        opcode::RELEASE | opcode::FLUSH => (),
        _ => return Err(libc::ENOSYS),
    }
    Ok(out.0)
}

/// The bytes of a struct.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn longs(&mut self, values: &[u64]) -> &mut Self {
        self.0.extend(values.iter().flat_map(|value| value.to_ne_bytes()));
        self
    }

    fn words(&mut self, values: &[u32]) -> &mut Self {
        self.0.extend(values.iter().flat_map(|value| value.to_ne_bytes()));
        self
    }

    fn copy(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend(bytes);
        self
    }

    fn zeroes(&mut self, count: usize) -> &mut Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    /// `struct fuse_attr`: what a file is.
    fn attributes(&mut self, node: u64) -> &mut Self {
        let (mode, size) =
            if node == ROOT { (libc::S_IFDIR | 0o755, 0) } else { (libc::S_IFREG | 0o755, SIZE) };
        self.longs(&[node, size, size / 512, 0, 0, 0]).words(&[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0])
    }
}
