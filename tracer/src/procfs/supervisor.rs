//! The process that starts, ends and reaps readers. It is forked before there are threads, ports, locks and maps, so that
//! none of its readers holds any of them: one that hangs in the kernel for ever keeps nothing of tracer's busy. It ends when
//! the process that started it does, whatever ends that.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, retry_on_intr},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, send, sendmsg, socketpair,
    },
    process::{Pid, Signal, WaitOptions, kill_process, waitpid},
};

use super::reader;
use crate::procfs::confine;

/// How long a reader may take to start: a fork, on a machine that may be overloaded.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// How long tracer waits at its end until the supervisor has ended its readers.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(200);
/// How long the supervisor waits at its own end for readers that it has killed.
const REAP_TIMEOUT: Duration = Duration::from_millis(50);
/// Where the supervisor and its readers have their one socket.
const SOCKET: RawFd = 3;
/// Where a reader has what it was started to read.
const LENT: RawFd = 4;

const START_ONE: u8 = b's';
const END_ONE: u8 = b'e';

/// The supervisor as tracer sees it.
struct Supervisor {
    pid: i32,
    control: Mutex<OwnedFd>,
}

static SUPERVISOR: OnceLock<Result<Supervisor, String>> = OnceLock::new();

/// Starts the supervisor of this process; what has been started already stays. To be called while there is one thread only.
/// A confined one gives up the rights and system calls that reading does not need, and so do its readers.
///
/// # Errors
/// The kernel refuses a socket pair or a process.
pub fn start(confined: bool) -> Result<()> {
    match SUPERVISOR.get_or_init(|| fork(confined).map_err(|error| format!("{error:#}"))) {
        Ok(_) => Ok(()),
        Err(error) => Err(anyhow!("{error}")),
    }
}

/// Ends the supervisor and its readers, and waits briefly for it, so that nobody else need reap them.
pub fn stop() {
    let Some(Ok(supervisor)) = SUPERVISOR.get() else { return };
    let control = supervisor.control.lock().unwrap_or_else(PoisonError::into_inner);
    // It may have ended already.
    let _ = rustix::net::shutdown(&*control, rustix::net::Shutdown::Both);
    let end = Instant::now() + FAREWELL_TIMEOUT;
    let Some(pid) = Pid::from_raw(supervisor.pid) else { return };
    while let Ok(None) = waitpid(Some(pid), WaitOptions::NOHANG) {
        if Instant::now() >= end {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether the supervisor has ended: nothing can be read any more.
pub fn is_gone() -> bool {
    let Some(Ok(supervisor)) = SUPERVISOR.get() else { return false };
    let control = supervisor.control.lock().unwrap_or_else(PoisonError::into_inner);
    let mut fds = [PollFd::new(&*control, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut fds, Some(&now)), Ok(1..)) && fds[0].revents().contains(PollFlags::HUP)
}

/// Its process id, if it has been started.
pub fn pid() -> Option<u32> {
    SUPERVISOR.get()?.as_ref().ok()?.pid.try_into().ok()
}

/// A reader, as tracer sees it. It ends when the socket is closed, unless it hangs.
pub struct Started {
    /// Its process id.
    pub pid: u32,
    /// Where it is asked. It closes when the reader has really ended.
    pub socket: OwnedFd,
}

/// The descriptor on which the supervisor is told what to do: the only one over which tracer passes others.
pub fn control() -> Option<RawFd> {
    let supervisor = SUPERVISOR.get()?.as_ref().ok()?;
    Some(supervisor.control.lock().unwrap_or_else(PoisonError::into_inner).as_raw_fd())
}

/// Starts a reader, with a descriptor that it is to read if there is one.
///
/// # Errors
/// The supervisor has gone or cannot start one.
pub fn start_reader(lent: Option<BorrowedFd<'_>>) -> Result<Started> {
    // Commands have started it by now. Tests have not, and may read all the same.
    start(false)?;
    let Some(Ok(supervisor)) = SUPERVISOR.get() else { return Err(anyhow!("nobody starts readers")) };
    let control = supervisor.control.lock().unwrap_or_else(PoisonError::into_inner);
    let sent = match &lent {
        None => retry_on_intr(|| send(&*control, &[START_ONE], SendFlags::NOSIGNAL)).map(drop),
        Some(lent) => pass(control.as_fd(), &[START_ONE], lent.as_fd()),
    };
    sent.context("the process that starts readers has ended")?;
    let mut fds = [PollFd::new(&*control, PollFlags::IN)];
    let patience = Timespec { tv_sec: START_TIMEOUT.as_secs() as i64, tv_nsec: 0 };
    if retry_on_intr(|| poll(&mut fds, Some(&patience)))? == 0 {
        return Err(anyhow!("the process that starts readers does not answer"));
    }
    let mut bytes = [0; 4];
    let (received, socket) = receive(control.as_fd(), &mut bytes)?;
    match (received, socket) {
        (4, Some(socket)) => Ok(Started { pid: u32::from_ne_bytes(bytes), socket }),
        (0, _) => Err(anyhow!("the process that starts readers has ended")),
        _ => Err(anyhow!("no reader can be started")),
    }
}

/// Has a reader killed. It goes when the kernel lets it.
pub fn end_reader(pid: u32) {
    let Some(Ok(supervisor)) = SUPERVISOR.get() else { return };
    let control = supervisor.control.lock().unwrap_or_else(PoisonError::into_inner);
    let [a, b, c, d] = pid.to_ne_bytes();
    // Where the supervisor has gone, its readers have.
    let _ = send(&*control, &[END_ONE, a, b, c, d], SendFlags::NOSIGNAL);
}

/// A message and the descriptor that comes with it.
fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<(usize, Option<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(bytes)];
    let received =
        retry_on_intr(|| recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC))?.bytes;
    let mut descriptor = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            descriptor = descriptors.last();
        }
    }
    Ok((received, descriptor))
}

fn fork(confined: bool) -> Result<Supervisor> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .context("cannot make a socket for the process that starts readers")?;
    let filter = confined.then(confine::reader_filter).transpose()?;
    // SAFETY: there is one thread; in tests, where there are several, the child only uses what the C library keeps whole over
    // a fork: system calls and memory.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()).context("cannot start the process that starts readers"),
        0 => {
            drop(ours);
            let ended = supervise(theirs, filter.as_ref());
            // SAFETY: ends this process at once, without what its parent wants done at its own end.
            unsafe { libc::_exit(i32::from(ended.is_err())) }
        }
        pid => Ok(Supervisor { pid, control: Mutex::new(ours) }),
    }
}

/// What the supervisor does until tracer has ended.
fn supervise(control: OwnedFd, filter: Option<&confine::ReaderFilter>) -> Result<()> {
    to_nobody()?;
    let (control, _) = alone_with(control, None, c"tracer-readers")?;
    // A signal for tracer's whole terminal or control group is for tracer: this process ends when tracer does.
    rustix::process::setsid()?;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE, libc::SIGTSTP] {
        // SAFETY: ignoring a signal is a valid disposition, and there is one thread.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let children = Children::watch();
    if filter.is_some() {
        confine::supervisor()?;
    }
    let mut readers: Vec<Pid> = Vec::new();
    loop {
        readers.retain(|reader| !matches!(waitpid(Some(*reader), WaitOptions::NOHANG), Ok(Some(_)) | Err(_)));
        if !children.wait(control.as_fd()) {
            continue;
        }
        let mut bytes = [0; 5];
        match receive(control.as_fd(), &mut bytes)? {
            (0, _) => break,
            (1, lent) if bytes[0] == START_ONE => match start_one(filter, lent) {
                Ok((pid, socket)) => {
                    readers.push(pid);
                    pass(control.as_fd(), &pid.as_raw_nonzero().get().to_ne_bytes(), socket.as_fd())?;
                }
                Err(_) => drop(retry_on_intr(|| send(&control, b"-", SendFlags::NOSIGNAL))?),
            },
            (5, _) if bytes[0] == END_ONE => {
                let [_, id @ ..] = bytes;
                // Only one that has not been reaped: the id may be somebody else's by now.
                let id = Pid::from_raw(i32::from_ne_bytes(id));
                if let Some(reader) = readers.iter().find(|reader| Some(**reader) == id) {
                    let _ = kill_process(*reader, Signal::KILL);
                }
            }
            _ => {}
        }
    }
    for reader in &readers {
        let _ = kill_process(*reader, Signal::KILL);
    }
    let end = Instant::now() + REAP_TIMEOUT;
    while Instant::now() < end && !readers.is_empty() {
        readers.retain(|reader| !matches!(waitpid(Some(*reader), WaitOptions::NOHANG), Ok(Some(_)) | Err(_)));
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A message, and a descriptor with it.
fn pass(to: BorrowedFd<'_>, bytes: &[u8], descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    retry_on_intr(|| sendmsg(to, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)).map(drop)
}

/// A reader, and tracer's end of its socket.
fn start_one(filter: Option<&confine::ReaderFilter>, lent: Option<OwnedFd>) -> Result<(Pid, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error().into()),
        0 => {
            drop(ours);
            let ended = read(theirs, lent, filter);
            // SAFETY: as above.
            unsafe { libc::_exit(i32::from(ended.is_err())) }
        }
        pid => Ok((Pid::from_raw(pid).context("a process has an id")?, ours)),
    }
}

/// What a reader does.
fn read(socket: OwnedFd, lent: Option<OwnedFd>, filter: Option<&confine::ReaderFilter>) -> Result<()> {
    // Where the supervisor has just ended, so has the socket's other end.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let (socket, lent) = alone_with(socket, lent, c"tracer-reader")?;
    if let Some(filter) = filter {
        filter.apply()?;
    }
    Ok(reader::serve(socket.as_fd(), lent.as_ref().map(AsFd::as_fd))?)
}

/// The three standard descriptors lead nowhere: a reader must not keep tracer's output open. An empty root has no `/dev/null`, but a
/// socket whose other end is closed is as good.
fn to_nobody() -> Result<()> {
    let (nobody, _) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    for standard in 0..SOCKET {
        // SAFETY: numbers only; nothing in this process uses what these were before.
        if unsafe { libc::dup2(nobody.as_raw_fd(), standard) } < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
    }
    Ok(())
}

/// Leaves nothing open but the standard descriptors, this socket, and what is lent.
fn alone_with(
    socket: OwnedFd,
    lent: Option<OwnedFd>,
    name: &std::ffi::CStr,
) -> Result<(OwnedFd, Option<OwnedFd>)> {
    rustix::thread::set_name(name)?;
    // Out of the way of each other first. What they were before is closed by that, and not once it is something else.
    let above = |fd: OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, LENT + 1);
    let (socket, lent) = (above(socket)?, lent.map(above).transpose()?);
    let first_free = if lent.is_some() { LENT + 1 } else { LENT };
    // SAFETY: numbers only. What they name is this process's own, and nothing here uses it afterwards.
    unsafe {
        for (fd, place) in [(Some(&socket), SOCKET), (lent.as_ref(), LENT)] {
            if let Some(fd) = fd
                && libc::dup2(fd.as_raw_fd(), place) < 0
            {
                return Err(std::io::Error::last_os_error().into());
            }
        }
        // They are closed with all the others.
        let is_lent = lent.is_some();
        std::mem::forget((socket, lent));
        if libc::syscall(libc::SYS_close_range, first_free, libc::c_uint::MAX, 0) != 0 {
            return Err(std::io::Error::last_os_error()).context("cannot close what was open");
        }
        Ok((OwnedFd::from_raw_fd(SOCKET), is_lent.then(|| OwnedFd::from_raw_fd(LENT))))
    }
}

/// The end of a child ends a wait.
struct Children {
    /// Signals that may come while it waits.
    waiting: libc::sigset_t,
}

impl Children {
    fn watch() -> Self {
        extern "C" fn wakes(_: libc::c_int) {}
        // SAFETY: a handler that does nothing is safe at any moment; all-zero sets and actions are valid, and outlive the
        // calls; there is one thread.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = wakes as *const () as usize;
            libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut());
            let (mut child, mut waiting): (libc::sigset_t, libc::sigset_t) =
                (std::mem::zeroed(), std::mem::zeroed());
            libc::sigemptyset(&raw mut child);
            libc::sigaddset(&raw mut child, libc::SIGCHLD);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const child, &raw mut waiting);
            libc::sigdelset(&raw mut waiting, libc::SIGCHLD);
            Self { waiting }
        }
    }

    /// Waits until something has been said, which is true, or a child has ended.
    fn wait(&self, control: BorrowedFd<'_>) -> bool {
        let mut fd = libc::pollfd { fd: control.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry; the set outlives the call.
        unsafe { libc::ppoll(&raw mut fd, 1, std::ptr::null(), &raw const self.waiting) > 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_ends_when_it_is_told_to_and_when_nobody_asks_any_more() {
        let lives = |pid: u32| kill_process(Pid::from_raw(pid as i32).expect("an id"), Signal::CONT).is_ok();
        let gone = |pid: u32| {
            (0..200).any(|_| {
                std::thread::sleep(Duration::from_millis(10));
                !lives(pid)
            })
        };
        let (one, two) = (start_reader(None).expect("starts"), start_reader(None).expect("starts"));
        assert!(lives(one.pid) && lives(two.pid) && !is_gone());
        end_reader(one.pid);
        assert!(gone(one.pid), "killed and reaped");
        let Started { pid, socket } = two;
        drop(socket);
        assert!(gone(pid), "it has nobody to answer");
        end_reader(1);
        assert!(lives(1), "only readers can be ended");
    }
}
