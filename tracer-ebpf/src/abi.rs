//! The records, keys and constants that cross the kernel boundary, one definition for both sides.
//!
//! Every struct is `repr(C)`, has no implicit padding (map keys are compared byte by byte) and a size that is
//! asserted below. Times are nanoseconds; the name says on which clock.

use core::mem::size_of;

/// Length of a command name with its terminating zero (`TASK_COMM_LEN`, include/linux/sched.h).
pub const COMM_LEN: usize = 16;
/// Longest path of a unix socket (`UNIX_PATH_MAX`, include/uapi/linux/un.h).
pub const UNIX_PATH_LEN: usize = 108;
/// Entries of a syscall table: numbers at and above it have no row and so no fd.
pub const SYSCALLS: usize = 512;
/// Numbers of clocks are smaller, addresses are not (`MAX_CLOCKS` is 16).
pub const CLOCKS: u64 = 32;
/// In place of a system call's number: the thread is in none, so it sleeps in a page fault.
pub const NR_PAGE_FAULT: i32 = -1;
/// It is on its way out: of its last call only the registers are left.
pub const NR_EXIT: i32 = -2;
/// A signal has killed it, and its process's memory is being written as a core dump.
pub const NR_CORE_DUMP: i32 = -3;
/// Bit of task->flags (include/linux/sched.h): the thread exits.
pub const PF_EXITING: u32 = 0x4;
/// Bits of it: the thread waits until the core dump of its process is written (since Linux 5.16), or writes it.
const PF_CORE_DUMP: u32 = 0x8 | 0x200;

/// What a thread of these task->flags does in place of a system call, where its registers are only what is left of the last:
/// `NR_EXIT`, `NR_CORE_DUMP`, or zero.
#[inline(always)]
pub fn leaving(task_flags: u32) -> i32 {
    if task_flags & PF_EXITING != 0 {
        NR_EXIT
    } else if task_flags & PF_CORE_DUMP != 0 {
        NR_CORE_DUMP
    } else {
        0
    }
}
/// An offset (see [`fields`](crate::fields)) of this value: the running kernel does not have the field.
pub const MISSING: u32 = u32::MAX;

/// The thread ran a 32-bit call: its number belongs to the compat table.
pub const CALL_COMPAT: u32 = 1 << 0;
/// The wait's start is derived from the scheduler's record, not seen by `waits`.
pub const WAIT_DERIVED: u32 = 1 << 1;
/// The thread has a fatal signal pending, or its process is exiting.
pub const THREAD_EXITING: u32 = 1 << 2;
/// Stopped by a signal (state T).
pub const THREAD_STOPPED: u32 = 1 << 3;
/// Stopped by a debugger (state t).
pub const THREAD_PTRACED: u32 = 1 << 4;
/// Held by the freezer of its cgroup, version 1 or 2.
pub const THREAD_FROZEN: u32 = 1 << 5;
/// The thread belongs to the fair scheduling class, so [`ThreadRecord::ran_ns`] counts.
pub const THREAD_FAIR: u32 = 1 << 6;
/// A kernel pointer on the way to the target could not be read.
pub const READ_FAILED: u32 = 1 << 7;
/// The thread was woken with a signal pending: the call may go on where it was.
pub const THREAD_SIGNALLED: u32 = 1 << 8;

/// A restarted call whose first argument is small, as the number of a clock is: `clock_nanosleep` goes on as `nanosleep`
/// does.
pub const CALL_CLOCK: u32 = 1 << 9;

/// What the map of those that `trace` follows says of an id: it is a process, of which all threads are.
pub const FOLLOWED_PROCESS: u32 = 1;
/// It is a thread, which alone of its process is.
pub const FOLLOWED_THREAD: u32 = 2;

/// The fd's file was read: [`File`] is filled.
pub const FD_OPEN: u32 = 1;
/// The call takes an fd, and the thread's table has no such fd (closed meanwhile, or a bad number).
pub const FD_ABSENT: u32 = 2;

/// What follows a [`ThreadRecord`] in the snapshot's stream.
pub const TAIL_NONE: u32 = 0;
/// A [`Tcp`] follows.
pub const TAIL_TCP: u32 = 1;
/// A [`Unix`] follows.
pub const TAIL_UNIX: u32 = 2;
/// A [`Udp`] follows.
pub const TAIL_UDP: u32 = 3;

/// First word of a [`Header`].
pub const KIND_HEADER: u32 = 0x7472_6864;
/// First word of a [`ThreadRecord`].
pub const KIND_THREAD: u32 = 0x7472_7468;

/// First word of an [`FdRecord`].
pub const KIND_FD: u32 = 0x7472_6664;
/// First word of a [`SocketRecord`].
pub const KIND_SOCKET: u32 = 0x7472_736f;
/// First word of a [`HolderRecord`].
pub const KIND_HOLDER: u32 = 0x7472_686f;

/// [`FdRecord::flow`]: the fd is a terminal, and output leaves it.
pub const FLOW_RUNS: u32 = 1;
/// [`FdRecord::flow`]: its output was stopped, as by Ctrl-S.
pub const FLOW_STOPPED: u32 = 2;

/// First word of a [`RequestRecord`].
pub const KIND_REQUEST: u32 = 0x7472_7271;

/// First word of a [`StackRecord`].
pub const KIND_STACK: u32 = 0x7472_736b;
/// Functions of a kernel stack that are kept: the innermost.
pub const STACK_DEPTH: usize = 16;

/// First word of a [`RegisterRecord`].
pub const KIND_REGISTERS: u32 = 0x7472_7267;
/// Words of the saved user registers of a record, as the kernel lays them out for debuggers: `r15` to `ss` in 21 of them
/// (arch/x86/include/uapi/asm/ptrace.h), or `x0` to `pstate` in 34 (arch/arm64/include/uapi/asm/ptrace.h).
pub const REGISTER_WORDS: usize = 34;

/// [`HolderRecord::access`]: open for reading (`FMODE_READ`).
pub const HOLDS_READ: u32 = 1;
/// [`HolderRecord::access`]: open for writing (`FMODE_WRITE`).
pub const HOLDS_WRITE: u32 = 2;

/// A row of the syscall tables: in its low byte which of the call's arguments is the fd, plus one, zero for none; and
/// what its arguments point to.
pub type SyscallRow = u32;
/// The part of a [`SyscallRow`] that is about the fd.
pub const ROW_FD: SyscallRow = 0xff;
/// [`SyscallRow`]: argument 1 points to a socket address of as many bytes as argument 2 says.
pub const ROW_ADDRESS: SyscallRow = 1 << 8;
/// [`SyscallRow`]: argument 0 points to as many `struct pollfd` as argument 1 says.
pub const ROW_POLLED: SyscallRow = 1 << 9;
/// Bytes kept of what a call's arguments point to: eight of poll's, or any internet address.
pub const POINTED: usize = 64;

/// What an open file is, as far as the kernel's own structures say. All zero: not read.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct File {
    /// Inode number (`i_ino`).
    pub inode: u64,
    /// Local address of an internet socket; IPv4 in its mapped form `::ffff:a.b.c.d`.
    pub local: [u8; 16],
    /// Remote address, likewise.
    pub remote: [u8; 16],
    /// Local port, host byte order.
    pub local_port: u16,
    /// Remote port, host byte order.
    pub remote_port: u16,
    /// Type and permission bits (`i_mode`).
    pub mode: u16,
    /// Address family (`AF_*`) of a socket, 0 for other files.
    pub family: u16,
    /// Device of the file system (`s_dev`), kernel encoding: major << 20 | minor.
    pub dev: u32,
    /// Device number of a device file (`i_rdev`), kernel encoding.
    pub rdev: u32,
    /// Protocol of a socket (`IPPROTO_*`).
    pub protocol: u16,
    /// Type of a socket (`SOCK_*`).
    pub sock_type: u16,
    /// Id of its mount, as in fdinfo, where that was asked for and is known; otherwise zero.
    pub mount: u32,
}

impl File {
    /// Nothing read.
    pub const EMPTY: File = File {
        inode: 0,
        local: [0; 16],
        remote: [0; 16],
        local_port: 0,
        remote_port: 0,
        mode: 0,
        family: 0,
        dev: 0,
        rdev: 0,
        protocol: 0,
        sock_type: 0,
        mount: 0,
    };

    /// Whether an internet socket's own address is a loopback one: 127.0.0.0/8, mapped, or ::1.
    #[inline(always)]
    pub fn is_loopback(&self) -> bool {
        let local = &self.local;
        let zeros = local[..10].iter().all(|byte| *byte == 0);
        zeros
            && (local[10] == 0xff && local[12] == 127
                || local[10..15].iter().all(|byte| *byte == 0) && local[15] == 1)
    }
}

/// The state of a TCP connection; counters in bytes, stamps in scheduler ticks (32 bits, they wrap).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Payload bytes sent, retransmissions included.
    pub bytes_sent: u64,
    /// Payload bytes retransmitted.
    pub bytes_retrans: u64,
    /// Payload bytes the peer acknowledged.
    pub bytes_acked: u64,
    /// Payload bytes received and acknowledged by us.
    pub bytes_received: u64,
    /// Receive time-out (`SO_RCVTIMEO`), ticks; `i64::MAX` for none.
    pub rcvtimeo: i64,
    /// Send time-out (`SO_SNDTIMEO`), ticks; `i64::MAX` for none.
    pub sndtimeo: i64,
    /// Socket flags (`sk_flags`); bit 3 is keepalive.
    pub flags: u64,
    /// Stamp of the last data segment sent.
    pub lsndtime: u32,
    /// Stamp of the last data segment received.
    pub lrcvtime: u32,
    /// Stamp of the last acknowledgement received.
    pub rcv_tstamp: u32,
    /// First byte sent and not acknowledged.
    pub snd_una: u32,
    /// Next byte to send.
    pub snd_nxt: u32,
    /// End of what the program has written.
    pub write_seq: u32,
    /// Sequence number of the segment that last moved the send window.
    pub snd_wl1: u32,
    /// Next byte expected from the peer.
    pub rcv_nxt: u32,
    /// First byte received and not read by the program.
    pub copied_seq: u32,
    /// The peer's window, bytes.
    pub snd_wnd: u32,
    /// Segments retransmitted in the life of the connection.
    pub total_retrans: u32,
    /// Idle time before the first keepalive probe, ticks; 0: the system's default.
    pub keepalive_time: u32,
    /// Retransmissions without an answer.
    pub retransmits: u8,
    /// Exponential back-off of the timer.
    pub backoff: u8,
    /// Unanswered probes.
    pub probes_out: u8,
    /// State (`TCP_*`, include/net/tcp_states.h).
    pub state: u8,
    /// Smoothed round-trip time, eighths of a microsecond.
    pub srtt_us: u32,
    /// `TCP_USER_TIMEOUT`, 0: not set. Milliseconds.
    pub user_timeout: u32,
    /// Network namespace, as the inode number of `/proc/PID/ns/net`; 0 if unknown.
    pub netns: u32,
    /// Time between two keepalive probes, ticks; 0: the system's default.
    pub keepalive_intvl: u32,
    /// Time from the last retransmission to the next, back-off included, ticks.
    pub rto: u32,
    /// Keepalive probes without an answer after which the peer counts as dead; 0: the system's default.
    pub keepalive_probes: u8,
    /// Who chose the local port, one of `PORT_*`.
    pub port: u8,
    /// Zero.
    pub reserved: [u8; 6],
    /// When bytes of ours were last acknowledged, `CLOCK_MONOTONIC`, microseconds; 0: never.
    pub delivered_us: u64,
    /// When the segment that is sent again and again was first sent, of a connection attempt its SYN: `CLOCK_MONOTONIC`,
    /// milliseconds, the low half; 0: none.
    pub retrans_stamp_ms: u32,
    /// Of a listener: connections that wait to be accepted.
    pub accept_queue: u32,
    /// Of a listener: how many of them there is room for, less one.
    pub accept_limit: u32,
    /// Zero.
    pub reserved_end: u32,
}

/// Room for the part of a connection's `struct tcp_sock` that is copied at once, bytes: all of [`Tcp`] but what every socket has. On Linux 6.18
/// it has 1,144.
pub const TCP_BLOCK_MAX: usize = 1536;
/// Bytes of a `struct sock_common` that are copied at once, family and addresses in them.
pub const COMMON_BLOCK_LEN: usize = 88;

/// Who chose the port is not known.
pub const PORT_UNKNOWN: u8 = 0;
/// `connect` did: this end is a client's.
pub const PORT_CONNECT: u8 = 1;
/// `bind` did: of this socket, or of the listener that it came from.
pub const PORT_BIND: u8 = 2;

/// The two ends of a unix socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unix {
    /// Inode number of the peer's socket file, 0 without one.
    pub peer_inode: u64,
    /// Process that made the peer's end (`SO_PEERCRED`), 0 if unknown.
    pub peer_pid: u32,
    /// Messages of ours that lie unread in the peer's queue.
    pub unread: u32,
    /// Bytes of `path` that count.
    pub path_len: u16,
    /// Bytes of `peer_path` that count.
    pub peer_path_len: u16,
    /// State (`TCP_*`, include/net/tcp_states.h), which unix sockets have as well.
    pub state: u8,
    /// 1: there is a peer.
    pub has_peer: u8,
    /// Zero.
    pub reserved: u16,
    /// What lies in this end's own queue: messages, or connections that wait to be accepted.
    pub queue: u32,
    /// How many of them there is room for, less one, where that is bounded by their number.
    pub limit: u32,
    /// The same of the peer's queue.
    pub peer_limit: u32,
    /// Zero.
    pub reserved_end: u32,
    /// Receive time-out (`SO_RCVTIMEO`), ticks; `i64::MAX` for none.
    pub rcvtimeo: i64,
    /// Send time-out (`SO_SNDTIMEO`), ticks; `i64::MAX` for none.
    pub sndtimeo: i64,
    /// Address this end is bound to; an abstract one begins with a zero byte.
    pub path: [u8; UNIX_PATH_LEN],
    /// Address the peer is bound to.
    pub peer_path: [u8; UNIX_PATH_LEN],
}

/// What a UDP socket keeps of itself: no time, and no counter.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp {
    /// Receive time-out (`SO_RCVTIMEO`), ticks; `i64::MAX` for none.
    pub rcvtimeo: i64,
    /// Send time-out (`SO_SNDTIMEO`), ticks; `i64::MAX` for none.
    pub sndtimeo: i64,
    /// `sk_stamp`: negative until the program has received a datagram (`sock_recv_cmsgs`, include/net/sock.h).
    pub stamp: i64,
}

/// First record of a snapshot.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// [`KIND_HEADER`].
    pub kind: u32,
    /// `size_of::<Header>()`.
    pub size: u32,
    /// `CLOCK_MONOTONIC` when the pass began.
    pub monotonic_ns: u64,
    /// When the reading thread itself last got the CPU, on the scheduler's clock.
    pub arrival_ns: u64,
    /// Scheduler ticks now (`jiffies`).
    pub jiffies: u64,
}

/// One thread of a snapshot, followed by the tail it names.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadRecord {
    /// [`KIND_THREAD`].
    pub kind: u32,
    /// Size of this record, its tail not included.
    pub size: u32,
    /// One of `TAIL_*`.
    pub tail: u32,
    /// Bits of `CALL_*`, `WAIT_*`, `THREAD_*`, `READ_FAILED`.
    pub flags: u32,
    /// Process (what user space calls pid).
    pub tgid: u32,
    /// Thread (what user space calls tid).
    pub tid: u32,
    /// Real user of the thread (`cred->uid`).
    pub uid: u32,
    /// The task's state bits (`__state`).
    pub state: u32,
    /// Start of the process, `CLOCK_BOOTTIME` (`group_leader->start_boottime`).
    pub process_start_ns: u64,
    /// Start of the thread, `CLOCK_BOOTTIME`.
    pub thread_start_ns: u64,
    /// Number of the system call; -1: none (a page fault).
    pub nr: i32,
    /// The fd argument, or -1 where the call has none.
    pub fd: i32,
    /// One of `FD_*`, 0 where the call has no fd.
    pub fd_state: u32,
    /// Job-control bits (`jobctl`, low half).
    pub jobctl: u32,
    /// The call's arguments, as in the saved user registers.
    pub args: [u64; 6],
    /// When the thread last got the CPU, on the scheduler's clock.
    pub arrival_ns: u64,
    /// How long it ran since, where `THREAD_FAIR` is set.
    pub ran_ns: u64,
    /// When `waits` saw this wait begin, `CLOCK_MONOTONIC`, or derived it (`WAIT_DERIVED`); 0: neither.
    pub began_ns: u64,
    /// Voluntary context switches.
    pub nvcsw: u64,
    /// Involuntary context switches.
    pub nivcsw: u64,
    /// `restart_block.fn`: what `restart_syscall` will run.
    pub restart_fn: u64,
    /// Where the process's set of cgroups is in the kernel's memory (`group_leader->cgroups`): processes with the same one are in the
    /// same cgroups. Zero if it is not known.
    pub cgroups: u64,
    /// Name of the thread.
    pub comm: [u8; COMM_LEN],
    /// The fd's file.
    pub file: File,
}

/// An fd of a thread that was asked for, followed by the tail it names.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdRecord {
    /// [`KIND_FD`].
    pub kind: u32,
    /// Size of this record, its tail not included.
    pub size: u32,
    /// One of `TAIL_*`.
    pub tail: u32,
    /// `READ_FAILED` or zero.
    pub flags: u32,
    /// Thread.
    pub tid: u32,
    /// The fd.
    pub fd: i32,
    /// One of `FD_*`.
    pub fd_state: u32,
    /// One of `FLOW_*`, zero where the fd is no terminal.
    pub flow: u32,
    /// Start of the thread, `CLOCK_BOOTTIME`.
    pub thread_start_ns: u64,
    /// The fd's file.
    pub file: File,
}

/// A pipe or unix socket of which all holders are wanted.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// Inode number.
    pub inode: u64,
    /// Type bits of the mode (`S_IFIFO`, `S_IFSOCK`).
    pub kind: u32,
    /// Device of the file system for a pipe, else zero.
    pub dev: u32,
}

impl FileKey {
    /// The key of this file.
    pub fn of(file: &File) -> Self {
        const S_IFMT: u16 = 0o170_000;
        Self { inode: file.inode, kind: (file.mode & S_IFMT).into(), dev: file.dev }
    }
}

/// A TCP connection of which the holders are wanted: the tuple as that end has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TupleKey {
    /// Its own address, as in [`File`].
    pub local: [u8; 16],
    /// The other's.
    pub remote: [u8; 16],
    /// Its own port.
    pub local_port: u16,
    /// The other's.
    pub remote_port: u16,
    /// Network namespace where the address is a loopback one, else zero: other addresses mean the same everywhere.
    pub netns: u32,
}

impl TupleKey {
    /// The key of this end, in this network namespace.
    pub fn of(file: &File, netns: u32) -> Self {
        Self {
            local: file.local,
            remote: file.remote,
            local_port: file.local_port,
            remote_port: file.remote_port,
            netns: if file.is_loopback() { netns } else { 0 },
        }
    }
}

/// A process that has a wanted file open, once for each fd.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HolderRecord {
    /// [`KIND_HOLDER`].
    pub kind: u32,
    /// Size of this record.
    pub size: u32,
    /// Process.
    pub tgid: u32,
    /// Its number of the file.
    pub fd: i32,
    /// Bits of `HOLDS_*`.
    pub access: u32,
    /// Network namespace of a TCP socket, else zero.
    pub netns: u32,
    /// Start of the process, `CLOCK_BOOTTIME`.
    pub process_start_ns: u64,
    /// State of a TCP or unix socket (`TCP_*`), else zero.
    pub state: u32,
    /// What lies in a listener's or a unix socket's queue.
    pub queue: u32,
    /// How many there is room for, less one.
    pub limit: u32,
    /// Zero.
    pub reserved: u32,
    /// The file.
    pub file: File,
}

/// A request of a thread's ring that is under way, followed by the tail it names.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// [`KIND_REQUEST`].
    pub kind: u32,
    /// Size of this record, its tail not included.
    pub size: u32,
    /// One of `TAIL_*`.
    pub tail: u32,
    /// `READ_FAILED` or zero.
    pub flags: u32,
    /// Thread.
    pub tid: u32,
    /// The fd that the request is on, or -1 where it is on a registered file.
    pub fd: i32,
    /// What it does (`IORING_OP_*`).
    pub opcode: u32,
    /// Zero.
    pub reserved: u32,
    /// Start of the thread, `CLOCK_BOOTTIME`.
    pub thread_start_ns: u64,
    /// The file.
    pub file: File,
}

/// A connection on which a process may have asked and not been answered, once for each of its fds, followed by a [`Tcp`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketRecord {
    /// [`KIND_SOCKET`].
    pub kind: u32,
    /// Size of this record, its tail not included.
    pub size: u32,
    /// [`TAIL_TCP`].
    pub tail: u32,
    /// `READ_FAILED` or zero.
    pub flags: u32,
    /// Process.
    pub tgid: u32,
    /// Its number of the socket.
    pub fd: i32,
    /// Real user of the process (`cred->uid`).
    pub uid: u32,
    /// Whether anybody waits for the socket's events: a thread in a call, or a set of epoll. One where that is not to be seen.
    pub watched: u32,
    /// Start of the process, `CLOCK_BOOTTIME`.
    pub process_start_ns: u64,
    /// The process's set of cgroups, as in [`ThreadRecord`].
    pub cgroups: u64,
    /// Name of the process.
    pub comm: [u8; COMM_LEN],
    /// The socket.
    pub file: File,
}

/// The functions of the kernel that a thread sleeps in follow: a line for each, the innermost first, as the kernel writes
/// them (`%pB`, Documentation/core-api/printk-formats.rst), and a zero byte.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackRecord {
    /// [`KIND_STACK`].
    pub kind: u32,
    /// Size of this record, the text not included.
    pub size: u32,
    /// Thread.
    pub tid: u32,
    /// The thread that holds the lock which this one sleeps on; zero where there is none or the kernel does not say.
    pub holder: u32,
    /// Start of the thread, `CLOCK_BOOTTIME`.
    pub thread_start_ns: u64,
    /// Context switches of its own accord, before the stack was read.
    pub nvcsw: u64,
    /// Others.
    pub nivcsw: u64,
    /// 1: it sleeps on a mutex, a semaphore or the like, for all the kernel says.
    pub locked: u32,
    /// Zero.
    pub reserved: u32,
}

/// The user registers of a thread that sleeps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterRecord {
    /// [`KIND_REGISTERS`].
    pub kind: u32,
    /// Size of this record.
    pub size: u32,
    /// Thread.
    pub tid: u32,
    /// `CALL_COMPAT` or zero.
    pub flags: u32,
    /// Start of the thread, `CLOCK_BOOTTIME`.
    pub thread_start_ns: u64,
    /// Context switches of its own accord, before the registers were read.
    pub nvcsw: u64,
    /// Others.
    pub nivcsw: u64,
    /// Where its thread-local variables are; zero where the kernel does not say.
    pub thread_pointer: u64,
    /// The registers: see [`REGISTER_WORDS`].
    pub registers: [u64; REGISTER_WORDS],
}

/// What `waits` counts under: process, call and target.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WaitKey {
    /// Start of the process, `CLOCK_BOOTTIME`.
    pub process_start_ns: u64,
    /// Process.
    pub tgid: u32,
    /// Number of the system call; -1 for a page fault.
    pub nr: i32,
    /// Bits of `CALL_*`.
    pub flags: u32,
    /// The fd argument, or -1.
    pub fd: i32,
    /// What `restart_syscall` went on with (`restart_block.fn`); 0 for other calls.
    pub restart_fn: u64,
    /// The fd's file.
    pub file: File,
}

/// What `answers` counts under: program and service.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AnswerKey {
    /// Name of the process.
    pub comm: [u8; COMM_LEN],
    /// Address of the other end, as in [`File`].
    pub remote: [u8; 16],
    /// Its port, host byte order.
    pub remote_port: u64,
}

/// Buckets of a [`Histogram`]: bucket `i` counts waits shorter than `2^(i + FIRST_BUCKET_LOG2)` µs, the last the rest.
pub const BUCKETS: usize = 32;
/// Upper bound of bucket 0 as a power of two, µs.
pub const FIRST_BUCKET_LOG2: u32 = 7;

/// Ended waits of one [`WaitKey`], or answers of one [`AnswerKey`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// How many.
    pub count: u64,
    /// Sum of their durations.
    pub sum_ns: u64,
    /// Name of the process when the entry was made; of answers it is in the key.
    pub comm: [u8; COMM_LEN],
    /// They by duration.
    pub buckets: [u32; BUCKETS],
}

/// A wait that ended and had lasted longer than the minimum set, sent through the ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedWait {
    /// What it was counted under.
    pub key: WaitKey,
    /// Thread.
    pub tid: u32,
    /// Bits of `CALL_*`, `WAIT_*`, `THREAD_*`, `READ_FAILED`.
    pub flags: u32,
    /// Start of the thread, `CLOCK_BOOTTIME`.
    pub thread_start_ns: u64,
    /// When it began, `CLOCK_MONOTONIC`.
    pub began_ns: u64,
    /// How long it lasted.
    pub duration_ns: u64,
    /// The call's arguments.
    pub args: [u64; 6],
    /// Name of the thread.
    pub comm: [u8; COMM_LEN],
}

/// A call of a traced process that took a while, sent through the ring `CALL_ENDS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedCall {
    /// The call; began and lasted from its entry to its return.
    pub call: EndedWait,
    /// What it returned, as in the register: an error is its number, negative.
    pub result: i64,
    /// What its arguments pointed to when it returned, where its [`SyscallRow`] says that they do.
    pub pointed: [u8; POINTED],
    /// How many bytes of it there are; 0 where they could not be read.
    pub pointed_len: u32,
    /// Zero.
    pub reserved: u32,
}

/// The slot each thread has while `waits` runs.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// When the thread went to sleep, `CLOCK_MONOTONIC`; 0: it does not sleep.
    pub began_ns: u64,
    /// `WAIT_DERIVED` or zero.
    pub flags: u64,
}

/// What the kernel programs count for themselves, an index of the per-CPU array `COUNTERS`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Ended waits shorter than the floor: counted here only.
    ShortWaits,
    /// Ended waits counted into a histogram.
    CountedWaits,
    /// A thread went to sleep before it had a slot.
    SlotMissing,
    /// A slot could not be made.
    SlotFailed,
    /// A wait was not counted: the histogram map is full.
    HistogramFull,
    /// An ended wait was not sent: the ring is full.
    RingFull,
    /// A kernel pointer on the way to a target could not be read.
    ReadFailed,
    /// A traced call was not followed: too many at once, or too many processes.
    CallsFull,
    /// A thread goes to sleep whose last sleep was not seen to end.
    EndUnseen,
    /// An answer was not counted: its map is full, or there is no memory to keep something of its connection.
    AnswersFull,
}

impl Counter {
    /// Entries of the array.
    pub const COUNT: u32 = 10;
}

/// Records made of integers only: every bit pattern is a value, and there is no padding.
///
/// # Safety
/// Implementors are `repr(C)`, hold integers and arrays of integers only, and have no padding.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($record:ty = $size:expr),+ $(,)?) => {$(
        // SAFETY: integers only; the size asserted here is the sum of the fields' sizes.
        unsafe impl Plain for $record {}
        const _: () = assert!(size_of::<$record>() == $size);
    )+};
}

plain! {
    File = 8 + 16 + 16 + 2 * 4 + 4 + 4 + 2 + 2 + 4,
    Tcp = 7 * 8 + 12 * 4 + 4 + 5 * 4 + 2 + 6 + 8 + 4 * 4,
    Unix = 8 + 4 + 4 + 2 + 2 + 2 + 2 + 4 * 4 + 2 * 8 + 2 * UNIX_PATH_LEN,
    Udp = 3 * 8,
    Header = 4 + 4 + 3 * 8,
    ThreadRecord = 8 * 4 + 2 * 8 + 4 * 4 + 6 * 8 + 7 * 8 + COMM_LEN + 64,
    FdRecord = 8 * 4 + 8 + 64,
    RequestRecord = 8 * 4 + 8 + 64,
    FileKey = 16,
    TupleKey = 40,
    HolderRecord = 6 * 4 + 8 + 4 * 4 + 64,
    SocketRecord = 8 * 4 + 2 * 8 + COMM_LEN + 64,
    StackRecord = 4 * 4 + 3 * 8 + 2 * 4,
    RegisterRecord = 4 * 4 + 4 * 8 + 8 * REGISTER_WORDS,
    AnswerKey = COMM_LEN + 16 + 8,
    WaitKey = 8 + 4 * 4 + 8 + 64,
    Histogram = 2 * 8 + COMM_LEN + 4 * BUCKETS,
    EndedWait = 96 + 4 + 4 + 3 * 8 + 6 * 8 + COMM_LEN,
    EndedCall = 192 + 8 + POINTED + 8,
    Slot = 16,
    u8 = 1,
}
