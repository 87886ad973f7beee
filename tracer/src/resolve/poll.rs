//! Which fds a thread in `poll` or `select` watches: read from its memory, and reduced to the one that matters.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::model::target::{Interest, Target};
use crate::{
    model::syscalls::{CallTable, Direction, Operation, Syscall, Timeout},
    model::wait::{Call, ProcessId, Wait},
    procfs::{Entry, Reads},
};

/// Fds of a set that are looked at; a larger set is an event loop whatever it holds.
pub const SET_MAX: usize = 4096;
/// Real fds that are looked up; with more it is an event loop.
pub const LOOKED_UP_MAX: usize = 8;

/// POLLIN and POLLRDNORM, POLLOUT and POLLWRNORM (include/uapi/asm-generic/poll.h).
const TO_READ: u16 = 0x1 | 0x40;
const TO_WRITE: u16 = 0x4 | 0x100;

/// A set of fds and how long the call watches it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// What is wanted of each.
    pub fds: BTreeMap<i32, Interest>,
    /// The call's time-out; `None` for none.
    pub timeout: Option<Duration>,
}

/// How many fds the call was told to look at, by the 32 bits the kernel takes: the rest of the register may hold
/// anything. `select` looks at no more than the process's table has room for.
pub fn count(syscall: Syscall, args: &[u64; 6], table_size: usize) -> usize {
    match syscall.operation() {
        Operation::Poll => args[1] as u32 as usize,
        _ => usize::try_from(args[0] as i32).unwrap_or(0).min(table_size),
    }
}

/// The fds a wait watches, from its caller's memory; `None` if they could not be read.
pub fn read(wait: &Wait, reads: &mut Reads) -> Option<Set> {
    let set = match wait.call.operation() {
        Operation::Poll | Operation::Select => read_set(wait.thread.process, &wait.call, reads),
        _ => read_argument(wait.thread.process, &wait.call, reads),
    };
    reads.still_in(wait).then_some(set?)
}

/// The one fd of a `socketcall`: the first of the 32-bit words that its second argument points to.
fn read_argument(process: ProcessId, call: &Call, reads: &mut Reads) -> Option<Set> {
    let bytes = reads.memory(process, call.args[1], 4)?;
    let fd = i32::from_ne_bytes(bytes.try_into().ok()?);
    let write = call.operation() == Operation::Connect || call.direction() == Some(Direction::Send);
    let interest = Interest { read: !write, write };
    (fd >= 0).then(|| Set { fds: BTreeMap::from([(fd, interest)]), timeout: None })
}

fn read_set(process: ProcessId, call: &Call, reads: &mut Reads) -> Option<Set> {
    let polls = call.operation() == Operation::Poll;
    // `poll` looks at as many as it is told to, whatever the table's size.
    let table = if polls { 0 } else { table_size(process, reads)? };
    let count = count(call.syscall, &call.args, table);
    if count > SET_MAX {
        return None;
    }
    let read = if polls { poll_set } else { select_set };
    let fds = if count == 0 { BTreeMap::new() } else { read(process, call.args, count, reads)? };
    Some(Set { fds, timeout: timeout_of(process, call, reads) })
}

/// The time-out of a wait's call, which may lie in its caller's memory.
pub fn timeout(wait: &Wait, reads: &mut Reads) -> Option<Duration> {
    if let Some(timeout) = wait.call.timeout_in_arguments() {
        return Some(timeout);
    }
    let timeout = timeout_of(wait.thread.process, &wait.call, reads)?;
    reads.still_in(wait).then_some(timeout)
}

/// How long a call that waits until a moment of the wall clock waits from the start of its present sleep on, as those on message queues do
/// (mq_send(3)).
pub fn deadline(wait: &Wait, reads: &mut Reads) -> Option<Duration> {
    let (at, form) = wait.call.syscall.timeout().filter(|(_, form)| *form == Timeout::Deadline)?;
    let address = Some(wait.call.args[at]).filter(|address| form.is_given(*address))?;
    let narrow = wait.call.table == CallTable::Compat
        && matches!(wait.call.syscall, Syscall::MqTimedsend | Syscall::MqTimedreceive);
    let moment = read_time(wait.thread.process, address, 1, narrow, reads)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    reads.still_in(wait).then(|| wait.asleep() + moment.saturating_sub(now))
}

fn timeout_of(process: ProcessId, call: &Call, reads: &mut Reads) -> Option<Duration> {
    let (at, form) = call.syscall.timeout()?;
    let narrow = call.table == CallTable::Compat;
    let (unit, narrow) = match form {
        Timeout::Milliseconds => return call.timeout_in_arguments(),
        Timeout::Deadline => return None,
        Timeout::Timeval => (1000, narrow),
        Timeout::Timespec => (1, narrow),
        Timeout::Timespec64 => (1, false),
    };
    match call.args[at] {
        0 => None,
        address => read_time(process, address, unit, narrow, reads),
    }
}

/// A `timespec` (`unit` 1) or `timeval` (`unit` 1000) of a process: two words, four bytes each in old 32-bit calls.
fn read_time(
    process: ProcessId,
    address: u64,
    unit: u64,
    narrow: bool,
    reads: &mut Reads,
) -> Option<Duration> {
    let word = if narrow { 4 } else { 8 };
    let bytes = reads.memory(process, address, 2 * word)?;
    let number = |bytes: &[u8]| match narrow {
        true => bytes.try_into().ok().map(|bytes| u64::from(u32::from_ne_bytes(bytes))),
        false => bytes.try_into().ok().map(u64::from_ne_bytes),
    };
    let (seconds, fraction) = bytes.split_at_checked(word)?;
    let nanoseconds = number(fraction)?.checked_mul(unit).filter(|ns| *ns < 1_000_000_000)?;
    Some(Duration::from_secs(number(seconds)?) + Duration::from_nanos(nanoseconds))
}

/// `struct pollfd { int fd; short events; short revents; }`, the same in every table.
fn poll_set(
    process: ProcessId,
    args: [u64; 6],
    count: usize,
    reads: &mut Reads,
) -> Option<BTreeMap<i32, Interest>> {
    let bytes = reads.memory(process, args[0], count * 8)?;
    (bytes.len() == count * 8).then(|| parse_poll(&bytes))
}

pub fn parse_poll(bytes: &[u8]) -> BTreeMap<i32, Interest> {
    let mut set: BTreeMap<i32, Interest> = BTreeMap::new();
    for entry in bytes.chunks_exact(8) {
        let fd = i32::from_ne_bytes([entry[0], entry[1], entry[2], entry[3]]);
        let events = u16::from_ne_bytes([entry[4], entry[5]]);
        // A negative fd is left out by the kernel too.
        if fd >= 0 {
            let wanted = Interest { read: events & TO_READ != 0, write: events & TO_WRITE != 0 };
            let interest = set.entry(fd).or_default();
            *interest = interest.union(wanted);
        }
    }
    set
}

/// Three bitmaps: to read, to write, exceptions.
fn select_set(
    process: ProcessId,
    args: [u64; 6],
    count: usize,
    reads: &mut Reads,
) -> Option<BTreeMap<i32, Interest>> {
    let mut map = |address: u64| match address {
        0 => Some(Vec::new()),
        address => reads.memory(process, address, count.div_ceil(64) * 8),
    };
    Some(parse_select(count, &map(args[1])?, &map(args[2])?, &map(args[3])?))
}

/// How many fds a process's table has room for now.
fn table_size(process: ProcessId, reads: &mut Reads) -> Option<usize> {
    let status = reads.text(process, "status")?;
    status.lines().find_map(|line| line.strip_prefix("FDSize:"))?.trim().parse().ok()
}

pub fn parse_select(count: usize, read: &[u8], write: &[u8], except: &[u8]) -> BTreeMap<i32, Interest> {
    let has = |map: &[u8], fd: usize| map.get(fd / 8).is_some_and(|byte| byte >> (fd % 8) & 1 != 0);
    (0..count)
        .filter(|fd| [read, write, except].iter().any(|map| has(map, *fd)))
        .map(|fd| (fd as i32, Interest { read: has(read, fd), write: has(write, fd) }))
        .collect()
}

/// Whether an fd only serves to wake the thread up: it is the process's own doing, not what it waits for. The pipes of its own are
/// sorted.
pub fn is_wake_up(target: &Target, pid: u32, own_pipes: &[u64]) -> bool {
    match target {
        Target::Eventfd { .. } | Target::Timerfd | Target::Signalfd { .. } => true,
        Target::Pipe { inode } => own_pipes.binary_search(inode).is_ok(),
        Target::Unix { path: None, peer_pid: Some(peer), .. } => *peer == pid,
        _ => false,
    }
}

/// Whether an fd of an event loop is beside the point: no peer can be waited for on it.
pub fn is_side_show(target: &Target) -> bool {
    matches!(
        target,
        Target::Inotify
            | Target::Fanotify
            | Target::Pidfd { .. }
            | Target::Anonymous { .. }
            | Target::File { .. }
            | Target::Epoll { .. }
            | Target::Device { .. }
            | Target::IoUring
    )
}

/// Whether a process has this pipe open.
pub fn has_pipe(process: ProcessId, inode: u64, reads: &mut Reads) -> bool {
    let link = format!("pipe:[{inode}]");
    reads.links(process, "fd").into_iter().take(SET_MAX).any(|entry| entry.link == link)
}

/// Inodes of the pipes of which the process holds both ends, sorted.
pub fn own_pipes(process: ProcessId, reads: &mut Reads) -> Vec<u64> {
    const O_WRONLY: u32 = 1;
    let mut ends: BTreeMap<u64, (bool, bool)> = BTreeMap::new();
    for Entry { name: fd, link } in reads.links(process, "fd").into_iter().take(SET_MAX) {
        let Some(inode) = link.strip_prefix("pipe:[").and_then(|rest| rest.strip_suffix(']')?.parse().ok())
        else {
            continue;
        };
        let flags = reads.text(process, &format!("fdinfo/{fd}")).and_then(|info| {
            u32::from_str_radix(info.lines().find_map(|line| line.strip_prefix("flags:"))?.trim(), 8).ok()
        });
        let end = ends.entry(inode).or_default();
        match flags.map(|flags| flags & O_WRONLY != 0) {
            Some(true) => end.1 = true,
            Some(false) => end.0 = true,
            None => {}
        }
    }
    ends.into_iter().filter(|(_, ends)| *ends == (true, true)).map(|(inode, _)| inode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::samples::in_own_call;

    const READ: Interest = Interest { read: true, write: false };
    const WRITE: Interest = Interest { read: false, write: true };

    #[test]
    fn poll_entries_are_read_and_negative_ones_left_out() {
        let mut bytes = Vec::new();
        for (fd, events) in [(3i32, 0x1u16), (-1, 0x1), (5, 0x4), (3, 0x2), (6, 0x2)] {
            bytes.extend(fd.to_ne_bytes());
            bytes.extend(events.to_ne_bytes());
            bytes.extend([0, 0]);
        }
        assert_eq!(parse_poll(&bytes), BTreeMap::from([(3, READ), (5, WRITE), (6, Interest::default())]));
    }

    #[test]
    fn select_bitmaps_are_read_up_to_the_count() {
        let set = parse_select(10, &[0b1001, 0b110], &[0b1000, 0], &[0b1_0000, 0]);
        let both = Interest { read: true, write: true };
        assert_eq!(set, BTreeMap::from([(0, READ), (3, both), (4, Interest::default()), (9, READ)]));
        assert!(parse_select(0, &[], &[], &[]).is_empty());
    }

    #[test]
    fn the_kernel_takes_32_bits_of_the_count() {
        let args =
            |at: usize, value: u64| std::array::from_fn(|arg| if arg == at { value } else { u64::MAX });
        for (syscall, at, value, expected) in [
            (Syscall::Poll, 1, 0xdead_beef_0000_0002, 2),
            (Syscall::Ppoll, 1, 0xffff_ffff_0000_0001, 1),
            (Syscall::PpollTime64, 1, 3, 3),
            (Syscall::Poll, 1, 0xffff_ffff, 0xffff_ffff),
            (Syscall::Select, 0, 0xdead_beef_0000_0006, 6),
            (Syscall::Pselect6, 0, 0xffff_ffff_0000_0040, 64),
            (Syscall::Select, 0, 70_000, 256),
            (Syscall::Select, 0, 0xffff_ffff, 0),
        ] {
            assert_eq!(count(syscall, &args(at, value), 256), expected, "{syscall:?} {value:#x}");
        }
    }

    fn timeout(syscall: Syscall, table: CallTable, at: usize, address: u64) -> Option<Duration> {
        let mut args = [0; 6];
        args[at] = address;
        in_own_call(syscall, table, args, super::timeout)
    }

    #[test]
    fn the_fd_of_a_socketcall_is_read_where_it_lies() {
        let arguments = [7_u32, 0, 64, 0];
        let address = arguments.as_ptr().expose_provenance() as u64;
        let of = |call, address| {
            in_own_call(Syscall::Socketcall, CallTable::Native, [call, address, 0, 0, 0, 0], read)
        };
        for (call, expected) in [(10, READ), (5, READ), (17, READ), (9, WRITE), (11, WRITE), (3, WRITE)] {
            let set = of(call, address).expect("its own memory");
            assert_eq!(set, Set { fds: BTreeMap::from([(7, expected)]), timeout: None }, "{call}");
        }
        assert_eq!(of(10, 1), None, "nothing lies there");
    }

    #[test]
    fn time_outs_are_read_where_they_lie_as_wide_as_the_call_has_them() {
        let (wide, narrow) = ([1_u64, 500_000], [1_u32, 500_000]);
        let (wide, narrow) =
            (wide.as_ptr().expose_provenance() as u64, narrow.as_ptr().expose_provenance() as u64);
        let (second, half_a_millisecond, half_a_second) =
            (Duration::from_secs(1), Duration::from_micros(500), Duration::from_millis(500));
        for (syscall, table, at, address, more) in [
            (Syscall::EpollPwait2, CallTable::Native, 3, wide, half_a_millisecond),
            (Syscall::EpollPwait2, CallTable::Compat, 3, wide, half_a_millisecond),
            (Syscall::Ppoll, CallTable::Native, 2, wide, half_a_millisecond),
            (Syscall::Ppoll, CallTable::Compat, 2, narrow, half_a_millisecond),
            (Syscall::PpollTime64, CallTable::Compat, 2, wide, half_a_millisecond),
            (Syscall::Select, CallTable::Native, 4, wide, half_a_second),
            (Syscall::Newselect, CallTable::Compat, 4, narrow, half_a_second),
        ] {
            let read = timeout(syscall, table, at, address);
            assert_eq!(read, Some(second + more), "{syscall:?} of {table:?}");
            assert_eq!(timeout(syscall, table, at, 0), None, "{syscall:?} for ever");
        }
        assert_eq!(
            timeout(Syscall::EpollWait, CallTable::Native, 3, 1500),
            Some(Duration::from_millis(1500))
        );
        // A moment, of a clock that is not asked for.
        assert_eq!(timeout(Syscall::MqTimedreceive, CallTable::Native, 4, wide), None);
    }

    #[test]
    fn a_moment_is_as_far_away_as_the_clock_says() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let (moment, past) = ([now + 100, 0], [now - 100, 0]);
        let of = |syscall, address: u64| {
            in_own_call(syscall, CallTable::Native, [3, 0, 0, 0, address, 0], |wait, reads| {
                deadline(wait, reads).map(|timeout| (timeout.saturating_sub(wait.asleep())).as_secs())
            })
        };
        let address = |moment: &[u64; 2]| moment.as_ptr().expose_provenance() as u64;
        for syscall in [Syscall::MqTimedsend, Syscall::MqTimedreceive] {
            assert!(of(syscall, address(&moment)).is_some_and(|left| (95..=100).contains(&left)));
            assert_eq!(of(syscall, address(&past)), Some(0), "it is over");
            assert_eq!(of(syscall, 0), None, "for ever");
            assert_eq!(of(syscall, 1), None, "nothing lies there");
        }
        assert_eq!(of(Syscall::Msgsnd, address(&moment)), None, "it takes none");
    }

    #[test]
    fn own_wake_ups_are_told_from_what_is_waited_for() {
        let unix = |peer_pid, path: Option<&str>| Target::Unix {
            path: path.map(str::to_owned),
            inode: 1,
            peer_inode: Some(2),
            peer_pid: Some(peer_pid),
            datagram: false,
            client: false,
        };
        assert!(is_wake_up(&Target::Eventfd { id: None }, 7, &[]));
        assert!(is_wake_up(&Target::Pipe { inode: 4 }, 7, &[4]));
        assert!(!is_wake_up(&Target::Pipe { inode: 4 }, 7, &[5]));
        assert!(is_wake_up(&unix(7, None), 7, &[]));
        assert!(!is_wake_up(&unix(8, None), 7, &[]));
        assert!(!is_wake_up(&unix(7, Some("/run/x")), 7, &[]));
    }
}
