//! The canary: a process of the agent's own that waits in known calls, which the agent's own looks must find. An agent that does
//! not find it does not find others' hangs either, and must not look healthy.
//!
//! One thread is in `recvfrom` on a socket, another in `ppoll` on the same: the first is known by the kernel's record, of the
//! second the set has to be read from its memory, as anybody's. Nothing of it is shown or counted. It is told by pid and start
//! time, and its pid is nobody else's before the agent has waited for it, which it does not survive.

use std::{
    io,
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::{Signal, set_parent_process_death_signal},
};

use crate::{
    agent::confine::confine,
    model::syscalls::Syscall,
    model::target::Target,
    model::wait::{ProcessId, Snapshot, Wait},
    resolve::Resolved,
};

/// Its calls: every architecture has them.
const RECEIVES: Syscall = Syscall::Recvfrom;
const POLLS: Syscall = Syscall::Ppoll;
/// What the calls wait on is looked up each time that so many looks have found them.
const LOOK_UP_EVERY: u32 = 10;
/// It is missed when so many looks in a row did not find it, for so long at least: it may just have been stopped, frozen, or
/// not begun yet.
const MISSED_LOOKS: u32 = 5;
const MISSED_FOR: Duration = Duration::from_secs(5);
/// How much less than it should a wait's age may be: starts of sleeps are derived on some kernels.
const AGE_SLACK: Duration = Duration::from_secs(1);

/// Waits until the agent ends, which is at the other end of standard input.
pub fn run() -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot end with the agent")?;
    // Whoever stops the agent tells all of its processes, mostly: the agent is to end first.
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: no other thread runs yet, and SIG_IGN is a valid disposition.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // Rights that it cannot give up do no harm: it only sleeps.
    let _ = confine();
    let (socket, _other) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .context("cannot make a socket to wait on")?;
    let fd = socket.as_raw_fd();
    for (syscall, wait) in [(RECEIVES, receive as fn(i32)), (POLLS, poll as fn(i32))] {
        let body = move || {
            // A debugger may have interrupted it.
            loop {
                wait(fd);
            }
        };
        thread::Builder::new().name(syscall.name().into()).stack_size(64 * 1024).spawn(body)?;
    }
    // The agent writes nothing. It may have ended before the kernel was told to end this with it.
    io::copy(&mut io::stdin(), &mut io::sink()).context("this is started by `tracer agent` only")?;
    Ok(())
}

/// The calls are made as they are, as C libraries choose others.
fn receive(fd: i32) {
    let mut byte = 0_u8;
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the buffer is one byte and outlives the call; the sender's address is not asked for.
    unsafe { libc::syscall(libc::SYS_recvfrom, fd, &raw mut byte, 1_usize, 0, none, none) };
}

fn poll(fd: i32) {
    let mut set = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: the set has one member and outlives the call; there is no time-out and no mask.
    unsafe { libc::syscall(libc::SYS_ppoll, set.as_mut_ptr(), 1_usize, none, none, 0_usize) };
}

/// The canary as the agent sees it.
pub struct Canary {
    pid: u32,
    /// Known since it was first found.
    process: Option<ProcessId>,
    detection: Detection,
    /// It ends when this is closed.
    _end: ChildStdin,
}

impl Canary {
    /// Starts it; the second is what to wait for: it does not end before the agent.
    pub fn start() -> Result<(Self, Child)> {
        let mut command = Command::new(PathBuf::from("/proc/self/exe"));
        command.arg0("tracer").arg("run-canary").stdin(Stdio::piped()).stdout(Stdio::null());
        for variable in ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "STATE_DIRECTORY"] {
            command.env_remove(variable);
        }
        let mut child = command.spawn().context("cannot start the canary")?;
        let end = child.stdin.take().context("the canary has no standard input")?;
        Ok((Self { pid: child.id(), process: None, detection: Detection::default(), _end: end }, child))
    }

    /// Whether a process is the canary.
    pub fn is(&self, process: ProcessId) -> bool {
        process.pid == self.pid && self.process.is_none_or(|known| known == process)
    }

    /// Takes its waits out of a snapshot: they are nobody's.
    pub fn take_out(&mut self, snapshot: &mut Snapshot) -> Vec<Wait> {
        snapshot.suspended.retain(|held| !self.is(held.thread.process));
        let own: Vec<Wait> = snapshot.waits.extract_if(.., |wait| self.is(wait.thread.process)).collect();
        self.process = self.process.or(own.first().map(|wait| wait.thread.process));
        own
    }

    /// Whether a look has found it; `look_up` says what waits wait on, `None` if it cannot.
    pub fn looked(
        &mut self,
        own: &[Wait],
        now_ns: u64,
        look_up: impl FnOnce(&[&Wait]) -> Option<Vec<Resolved>>,
    ) {
        self.detection.looked(own, now_ns, look_up);
    }

    /// Whether it was not found for long.
    pub fn is_missed(&self, now_ns: u64) -> bool {
        self.detection.is_missed(now_ns)
    }
}

/// How it was found of late.
#[derive(Debug, Default)]
struct Detection {
    /// Its sleeps, by the context switches before them, and when they were first seen, nanoseconds of `CLOCK_MONOTONIC`.
    since: Option<([u64; 2], u64)>,
    /// Looks that have found it since it was looked up, and was what it is.
    looks: Option<u32>,
    /// Looks in a row that have not found it, and the first of them.
    missed: u32,
    missed_since_ns: u64,
}

impl Detection {
    fn looked(&mut self, own: &[Wait], now_ns: u64, look_up: impl FnOnce(&[&Wait]) -> Option<Vec<Resolved>>) {
        let found = self.find(own, now_ns).is_some_and(|waits| {
            if self.looks.is_none_or(|looks| looks + 1 >= LOOK_UP_EVERY) {
                let is_right = look_up(&waits).is_some_and(|resolved| is_right(waits[0].fd, &resolved));
                self.looks = is_right.then_some(0);
            } else {
                self.looks = self.looks.map(|looks| looks + 1);
            }
            self.looks.is_some()
        });
        if found {
            self.missed = 0;
        } else {
            if self.missed == 0 {
                self.missed_since_ns = now_ns;
            }
            self.missed += 1;
        }
    }

    /// Its two waits, if they are there and have lasted as long as they have been seen.
    fn find<'a>(&mut self, own: &'a [Wait], now_ns: u64) -> Option<[&'a Wait; 2]> {
        let in_call = |syscall| own.iter().find(|wait| wait.call.syscall == syscall);
        let waits = <[&Wait; 2]>::from(in_call(RECEIVES).zip(in_call(POLLS))?);
        // After a stop they begin anew.
        let sleeps = waits.map(|wait| wait.switches);
        let (_, since_ns) = *self.since.filter(|(known, _)| *known == sleeps).get_or_insert((sleeps, now_ns));
        self.since = Some((sleeps, since_ns));
        let seen_for = Duration::from_nanos(now_ns.saturating_sub(since_ns));
        waits.iter().all(|wait| wait.age + AGE_SLACK >= seen_for).then_some(waits)
    }

    fn is_missed(&self, now_ns: u64) -> bool {
        let late = now_ns.saturating_sub(self.missed_since_ns) >= MISSED_FOR.as_nanos() as u64;
        self.missed >= MISSED_LOOKS && late
    }
}

/// Whether both wait on the one socket.
fn is_right(fd: Option<i32>, resolved: &[Resolved]) -> bool {
    let on_socket = |resolved: &Resolved| resolved.fd == fd && matches!(resolved.target, Target::Unix { .. });
    fd.is_some() && resolved.len() == 2 && resolved.iter().all(on_socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{diagnose::verdict::tests as samples, model::syscalls::Direction};

    const SECOND: u64 = 1_000_000_000;

    fn waits(age: u64) -> Vec<Wait> {
        [POLLS, Syscall::Read, RECEIVES]
            .map(|syscall| Wait {
                age: Duration::from_secs(age),
                ..samples::wait(syscall, [3, 0, 0, 0, 0, 0])
            })
            .into()
    }

    fn resolved(fd: i32) -> Resolved {
        let target = Target::Unix {
            path: None,
            inode: 1,
            peer_inode: Some(2),
            peer_pid: None,
            datagram: false,
            client: false,
        };
        Resolved::new(Some(fd), target, Some(Direction::Receive))
    }

    /// A look a second, from which on it is found as `see` says: its waits, and what they are looked up as. When it is missed.
    fn missed(until: u64, see: impl Fn(u64) -> (Vec<Wait>, Option<Vec<Resolved>>)) -> Vec<u64> {
        let mut detection = Detection::default();
        let at = |second: u64| (100 + second) * SECOND;
        let look = |second: &u64| {
            let (own, looked_up) = see(*second);
            detection.looked(&own, at(*second), |_| looked_up);
            detection.is_missed(at(*second))
        };
        (0..until).filter(look).collect()
    }

    fn right() -> Option<Vec<Resolved>> {
        Some(vec![resolved(3), resolved(3)])
    }

    #[test]
    fn it_is_missed_when_it_was_not_found_for_long() {
        assert_eq!(missed(40, |second| (waits(second + 9), right())), [0; 0]);
        assert_eq!(missed(9, |_| (vec![], right())), [5, 6, 7, 8]);
        let gone = |second: u64| (if (10..20).contains(&second) { vec![] } else { waits(second) }, right());
        assert_eq!(missed(40, gone), [15, 16, 17, 18, 19], "and found again");
        let one = |second: u64| (waits(second).split_off(1), right());
        assert_eq!(missed(7, one), [5, 6], "one of two is not enough");
    }

    #[test]
    fn it_has_to_be_what_it_is() {
        let as_other =
            |looked_up: Option<Vec<Resolved>>| missed(7, |second| (waits(second), looked_up.clone()));
        let unread = Resolved { fd: None, target: Target::None, ..resolved(3) };
        for looked_up in [None, Some(vec![resolved(3), resolved(4)]), Some(vec![resolved(3), unread])] {
            assert_eq!(as_other(looked_up), [5, 6]);
        }
        let later = |second: u64| (waits(second), if second < 20 { right() } else { None });
        assert_eq!(missed(29, later), [25, 26, 27, 28], "it is looked up now and then");
    }

    #[test]
    fn its_age_grows() {
        assert_eq!(missed(9, |_| (waits(1), right())), [8], "it is younger than it was seen");
        let anew = |second: u64| {
            let mut own = waits(second % 4);
            own.iter_mut().for_each(|wait| wait.switches = second / 4);
            (own, right())
        };
        assert_eq!(missed(20, anew), [0; 0], "it was stopped again and again");
    }
}
