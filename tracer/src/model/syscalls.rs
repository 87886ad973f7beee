//! The table of system calls: of each call what it does, what its arguments are, and which way its data goes.
//!
//! A new call is one row of `table!` below. Numbers come from the `syscalls` crate, which has every call of every machine;
//! the table has those of which more is known than the name.

use std::{collections::HashMap, sync::LazyLock, time::Duration};

#[cfg(target_arch = "aarch64")]
use syscalls::{aarch64::Sysno as NativeSysno, arm::Sysno as CompatSysno};
#[cfg(target_arch = "x86_64")]
use syscalls::{x86::Sysno as CompatSysno, x86_64::Sysno as NativeSysno};

/// Which of a kernel's two tables a number is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallTable {
    /// This machine's own.
    Native,
    /// The 32-bit one.
    Compat,
}

/// Which way a call moves data on its fd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Into the process.
    Receive,
    /// Out of the process.
    Send,
}

/// What a call does, as far as anything is decided by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Reads an fd of any kind.
    Read,
    /// Writes to an fd of any kind.
    Write,
    /// Receives from a socket.
    Receive,
    /// Sends on a socket.
    Send,
    /// Moves data from one fd to another.
    Copy,
    /// Takes a connection from a listening socket.
    Accept,
    /// Connects a socket.
    Connect,
    /// Closes an fd.
    Close,
    /// Watches a `struct pollfd` array.
    Poll,
    /// Watches bitmaps of fds.
    Select,
    /// Watches an epoll set.
    Epoll,
    /// Takes a lock on a file.
    Lock,
    /// Takes a lock on a file, if its command is one that waits for it.
    Fcntl,
    /// Changes System V semaphores.
    Semaphore,
    /// Waits on a word in memory for what its own flags say: a lock or a condition.
    Futex,
    /// Waits for a condition on words in memory.
    FutexCondition,
    /// Waits for a child process, or for one that borrows its memory.
    Child,
    /// Sleeps for a while.
    Sleep,
    /// Waits for a signal.
    Signal,
    /// Takes a message from a queue.
    ReceiveMessage,
    /// Puts a message into a queue.
    SendMessage,
    /// Waits for completions of asynchronous I/O.
    Ring,
    /// Sets asynchronous I/O up, or hands requests over.
    RingControl,
    /// Opens a file, which may be a FIFO or a device.
    Open,
    /// Does anything else with a path: only storage, or who serves it, holds that up.
    Path,
    /// Waits for storage to have what was written.
    Sync,
    /// Goes on with a call that was interrupted.
    Restart,
    /// No call: a page fault.
    PageFault,
    /// The end of the thread.
    Exit,
    /// Anything else: what its fd is decides.
    Other,
}

impl Operation {
    /// Whether it watches a set of fds.
    pub fn watches_fds(self) -> bool {
        matches!(self, Self::Poll | Self::Select | Self::Epoll)
    }

    /// Whether only a socket can block it.
    pub fn is_for_sockets(self) -> bool {
        matches!(self, Self::Receive | Self::Send | Self::Accept | Self::Connect)
    }
}

/// What an argument of a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A number that nobody asks for, or nothing.
    Value,
    /// An fd that the call works on.
    Fd,
    /// The fd of a directory, which the path in the next argument is relative to.
    Directory,
    /// How long the call waits at most.
    Timeout(Timeout),
    /// The address of something.
    Pointer(Pointer),
}

/// In what form an argument has a time-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// A number of milliseconds, 32 bits; a negative one is none.
    Milliseconds,
    /// The address of a `timeval`, of words as wide as the table's; zero is none, as for all that follow.
    Timeval,
    /// The address of a `timespec`, of words as wide as the table's.
    Timespec,
    /// The address of a `timespec` of 64-bit words in every table.
    Timespec64,
    /// The address of a `timespec` that is a moment, or may be one by the call's flags.
    Deadline,
}

impl Timeout {
    /// Whether this value of the argument is a time-out at all.
    pub fn is_given(self, value: u64) -> bool {
        match self {
            Self::Milliseconds => value as i32 >= 0,
            Self::Timeval | Self::Timespec | Self::Timespec64 | Self::Deadline => value != 0,
        }
    }
}

/// What an argument points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pointer {
    /// A path that is walked.
    Path,
    /// A string that is not.
    Text,
    /// Bytes that are moved.
    Buffer,
    /// An array of `struct iovec`.
    Iovecs,
    /// A `struct msghdr`, or an array of `struct mmsghdr`.
    Messages,
    /// A socket's address.
    SocketAddress,
    /// An array of `struct pollfd`.
    PollFds,
    /// A bitmap of fds.
    FdSet,
    /// Where events of an epoll set go.
    EpollEvents,
    /// A word that threads wait on.
    FutexWord,
    /// An array of `struct futex_waitv`.
    FutexWaiters,
    /// An array of `struct sembuf`.
    SemaphoreOperations,
    /// A set of signals.
    Signals,
    /// Something that nobody asks for.
    Other,
}

/// Arguments of a call.
const ARGUMENTS: usize = 6;

/// What is known of a call.
struct Row {
    name: &'static str,
    operation: Operation,
    direction: Option<Direction>,
    arguments: [Argument; ARGUMENTS],
}

/// How the rows below name directions and arguments.
mod columns {
    use super::{ARGUMENTS, Argument, Direction, Pointer, Timeout};

    pub const RECEIVE: Option<Direction> = Some(Direction::Receive);
    pub const SEND: Option<Direction> = Some(Direction::Send);
    /// Neither, or both.
    pub const NONE: Option<Direction> = None;

    pub const VALUE: Argument = Argument::Value;
    pub const FD: Argument = Argument::Fd;
    pub const DIRECTORY: Argument = Argument::Directory;
    pub const MILLISECONDS: Argument = Argument::Timeout(Timeout::Milliseconds);
    pub const TIMEVAL: Argument = Argument::Timeout(Timeout::Timeval);
    pub const TIMESPEC: Argument = Argument::Timeout(Timeout::Timespec);
    pub const TIMESPEC64: Argument = Argument::Timeout(Timeout::Timespec64);
    pub const DEADLINE: Argument = Argument::Timeout(Timeout::Deadline);
    pub const PATH: Argument = Argument::Pointer(Pointer::Path);
    pub const TEXT: Argument = Argument::Pointer(Pointer::Text);
    pub const BUFFER: Argument = Argument::Pointer(Pointer::Buffer);
    pub const IOVECS: Argument = Argument::Pointer(Pointer::Iovecs);
    pub const MESSAGES: Argument = Argument::Pointer(Pointer::Messages);
    pub const ADDRESS: Argument = Argument::Pointer(Pointer::SocketAddress);
    pub const POLLFDS: Argument = Argument::Pointer(Pointer::PollFds);
    pub const FDSET: Argument = Argument::Pointer(Pointer::FdSet);
    pub const EVENTS: Argument = Argument::Pointer(Pointer::EpollEvents);
    pub const WORD: Argument = Argument::Pointer(Pointer::FutexWord);
    pub const WAITERS: Argument = Argument::Pointer(Pointer::FutexWaiters);
    pub const SEMBUFS: Argument = Argument::Pointer(Pointer::SemaphoreOperations);
    pub const SIGNALS: Argument = Argument::Pointer(Pointer::Signals);
    pub const POINTER: Argument = Argument::Pointer(Pointer::Other);

    /// With those that a row leaves out.
    pub const fn all<const N: usize>(given: [Argument; N]) -> [Argument; ARGUMENTS] {
        let mut all = [Argument::Value; ARGUMENTS];
        let mut at = 0;
        while at < N {
            all[at] = given[at];
            at += 1;
        }
        all
    }
}

/// Makes the enum and its rows: `Variant "name" Operation DIRECTION [ARGUMENTS]`.
macro_rules! table {
    ($($variant:ident $name:literal $operation:ident $direction:ident [$($argument:ident),*];)*) => {
        /// A system call, or what a thread does in place of one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Syscall {
            $(#[doc = concat!("`", $name, "`.")] $variant,)*
            /// One of which the table has no row.
            Unlisted(Unlisted),
        }

        impl Syscall {
            /// All that have a row.
            const LISTED: &[Syscall] = &[$(Syscall::$variant),*];

            fn row(self) -> &'static Row {
                match self {
                    $(Self::$variant => &const {
                        Row {
                            name: $name,
                            operation: Operation::$operation,
                            direction: columns::$direction,
                            arguments: columns::all([$(columns::$argument),*]),
                        }
                    },)*
                    Self::Unlisted(_) => &UNLISTED,
                }
            }
        }
    };
}

table! {
    // Any fd.
    Read "read" Read RECEIVE [FD, BUFFER];
    Pread64 "pread64" Read RECEIVE [FD, BUFFER];
    Readv "readv" Read RECEIVE [FD, IOVECS];
    Preadv "preadv" Read RECEIVE [FD, IOVECS];
    Preadv2 "preadv2" Read RECEIVE [FD, IOVECS];
    Readahead "readahead" Read RECEIVE [FD];
    Getdents "getdents" Read RECEIVE [FD, BUFFER];
    Getdents64 "getdents64" Read RECEIVE [FD, BUFFER];
    Readdir "readdir" Read RECEIVE [FD, BUFFER];
    Write "write" Write SEND [FD, BUFFER];
    Pwrite64 "pwrite64" Write SEND [FD, BUFFER];
    Writev "writev" Write SEND [FD, IOVECS];
    Pwritev "pwritev" Write SEND [FD, IOVECS];
    Pwritev2 "pwritev2" Write SEND [FD, IOVECS];
    Vmsplice "vmsplice" Write SEND [FD, IOVECS];
    Sendfile "sendfile" Copy SEND [FD, FD, POINTER];
    Sendfile64 "sendfile64" Copy SEND [FD, FD, POINTER];
    Splice "splice" Copy RECEIVE [FD, POINTER, FD, POINTER];
    Tee "tee" Copy RECEIVE [FD, FD];
    CopyFileRange "copy_file_range" Copy RECEIVE [FD, POINTER, FD, POINTER];
    Close "close" Close NONE [FD];
    Ioctl "ioctl" Other NONE [FD];
    Lseek "lseek" Other NONE [FD];
    Llseek "_llseek" Other NONE [FD, VALUE, VALUE, POINTER];
    Fstat "fstat" Other NONE [FD, POINTER];
    Fstat64 "fstat64" Other NONE [FD, POINTER];
    Oldfstat "oldfstat" Other NONE [FD, POINTER];
    Fstatfs "fstatfs" Other NONE [FD, POINTER];
    Fstatfs64 "fstatfs64" Other NONE [FD, VALUE, POINTER];
    Fchmod "fchmod" Other NONE [FD];
    Fchown "fchown" Other NONE [FD];
    Fchown32 "fchown32" Other NONE [FD];
    Fchdir "fchdir" Other NONE [FD];
    Fgetxattr "fgetxattr" Other NONE [FD, TEXT, BUFFER];
    Fsetxattr "fsetxattr" Other NONE [FD, TEXT, BUFFER];
    Flistxattr "flistxattr" Other NONE [FD, BUFFER];
    Fremovexattr "fremovexattr" Other NONE [FD, TEXT];
    Ftruncate "ftruncate" Other SEND [FD];
    Ftruncate64 "ftruncate64" Other SEND [FD];
    Fallocate "fallocate" Other SEND [FD];
    Fadvise64 "fadvise64" Other NONE [FD];
    Fadvise6464 "fadvise64_64" Other NONE [FD];
    FinitModule "finit_module" Other RECEIVE [FD, TEXT];
    QuotactlFd "quotactl_fd" Other NONE [FD];
    TimerfdSettime "timerfd_settime" Other NONE [FD, VALUE, POINTER, POINTER];
    ProcessMrelease "process_mrelease" Other NONE [FD];

    // Storage.
    Fsync "fsync" Sync SEND [FD];
    Fdatasync "fdatasync" Sync SEND [FD];
    Syncfs "syncfs" Sync SEND [FD];
    SyncFileRange "sync_file_range" Sync SEND [FD];
    ArmSyncFileRange "arm_sync_file_range" Sync SEND [FD];
    Sync "sync" Sync NONE [];
    Msync "msync" Sync NONE [];

    // Sockets. The time-out of recvmmsg is looked at between datagrams only, and so ends no wait.
    Accept "accept" Accept NONE [FD, ADDRESS, POINTER];
    Accept4 "accept4" Accept NONE [FD, ADDRESS, POINTER];
    Connect "connect" Connect NONE [FD, ADDRESS];
    Recv "recv" Receive RECEIVE [FD, BUFFER];
    Recvfrom "recvfrom" Receive RECEIVE [FD, BUFFER, VALUE, VALUE, ADDRESS, POINTER];
    Recvmsg "recvmsg" Receive RECEIVE [FD, MESSAGES];
    Recvmmsg "recvmmsg" Receive RECEIVE [FD, MESSAGES, VALUE, VALUE, POINTER];
    RecvmmsgTime64 "recvmmsg_time64" Receive RECEIVE [FD, MESSAGES, VALUE, VALUE, POINTER];
    Send "send" Send SEND [FD, BUFFER];
    Sendto "sendto" Send SEND [FD, BUFFER, VALUE, VALUE, ADDRESS];
    Sendmsg "sendmsg" Send SEND [FD, MESSAGES];
    Sendmmsg "sendmmsg" Send SEND [FD, MESSAGES];
    Shutdown "shutdown" Other NONE [FD];
    Setsockopt "setsockopt" Other NONE [FD, VALUE, VALUE, POINTER];
    Getsockopt "getsockopt" Other NONE [FD, VALUE, VALUE, POINTER, POINTER];
    Bind "bind" Other NONE [FD, ADDRESS];
    Listen "listen" Other NONE [FD];

    // Sets of fds. epoll_wait_old was never there but for its number.
    Poll "poll" Poll NONE [POLLFDS, VALUE, MILLISECONDS];
    Ppoll "ppoll" Poll NONE [POLLFDS, VALUE, TIMESPEC, SIGNALS];
    PpollTime64 "ppoll_time64" Poll NONE [POLLFDS, VALUE, TIMESPEC64, SIGNALS];
    Select "select" Select NONE [VALUE, FDSET, FDSET, FDSET, TIMEVAL];
    Newselect "_newselect" Select NONE [VALUE, FDSET, FDSET, FDSET, TIMEVAL];
    Pselect6 "pselect6" Select NONE [VALUE, FDSET, FDSET, FDSET, TIMESPEC, POINTER];
    Pselect6Time64 "pselect6_time64" Select NONE [VALUE, FDSET, FDSET, FDSET, TIMESPEC64, POINTER];
    EpollWait "epoll_wait" Epoll RECEIVE [FD, EVENTS, VALUE, MILLISECONDS];
    EpollPwait "epoll_pwait" Epoll RECEIVE [FD, EVENTS, VALUE, MILLISECONDS, SIGNALS];
    EpollPwait2 "epoll_pwait2" Epoll RECEIVE [FD, EVENTS, VALUE, TIMESPEC64, SIGNALS];
    EpollWaitOld "epoll_wait_old" Epoll RECEIVE [FD, EVENTS];
    EpollCtl "epoll_ctl" Other NONE [FD, VALUE, FD, POINTER];

    // Locks.
    Flock "flock" Lock NONE [FD];
    Fcntl "fcntl" Fcntl NONE [FD];
    Fcntl64 "fcntl64" Fcntl NONE [FD];
    Semop "semop" Semaphore NONE [VALUE, SEMBUFS];
    Semtimedop "semtimedop" Semaphore NONE [VALUE, SEMBUFS, VALUE, TIMESPEC];
    SemtimedopTime64 "semtimedop_time64" Semaphore NONE [VALUE, SEMBUFS, VALUE, TIMESPEC64];
    Futex "futex" Futex NONE [WORD, VALUE, VALUE, DEADLINE, WORD];
    FutexTime64 "futex_time64" Futex NONE [WORD, VALUE, VALUE, DEADLINE, WORD];
    FutexWait "futex_wait" FutexCondition NONE [WORD, VALUE, VALUE, VALUE, DEADLINE];
    FutexWaitv "futex_waitv" FutexCondition NONE [WAITERS, VALUE, VALUE, DEADLINE];
    FutexRequeue "futex_requeue" FutexCondition NONE [WAITERS];

    // Time, signals and children.
    Nanosleep "nanosleep" Sleep NONE [TIMESPEC, POINTER];
    ClockNanosleep "clock_nanosleep" Sleep NONE [VALUE, VALUE, DEADLINE, POINTER];
    ClockNanosleepTime64 "clock_nanosleep_time64" Sleep NONE [VALUE, VALUE, DEADLINE, POINTER];
    Pause "pause" Signal NONE [];
    Sigsuspend "sigsuspend" Signal NONE [];
    RtSigsuspend "rt_sigsuspend" Signal NONE [SIGNALS];
    RtSigtimedwait "rt_sigtimedwait" Signal NONE [SIGNALS, POINTER, TIMESPEC];
    RtSigtimedwaitTime64 "rt_sigtimedwait_time64" Signal NONE [SIGNALS, POINTER, TIMESPEC64];
    Wait4 "wait4" Child NONE [VALUE, POINTER, VALUE, POINTER];
    Waitpid "waitpid" Child NONE [VALUE, POINTER];
    Waitid "waitid" Child NONE [VALUE, VALUE, POINTER, VALUE, POINTER];
    Fork "fork" Child NONE [];
    Vfork "vfork" Child NONE [];
    Clone "clone" Child NONE [];
    Clone3 "clone3" Child NONE [POINTER];

    // Queues of messages, and rings.
    MqTimedsend "mq_timedsend" SendMessage SEND [FD, BUFFER, VALUE, VALUE, DEADLINE];
    MqTimedsendTime64 "mq_timedsend_time64" SendMessage SEND [FD, BUFFER, VALUE, VALUE, DEADLINE];
    MqTimedreceive "mq_timedreceive" ReceiveMessage RECEIVE [FD, BUFFER, VALUE, POINTER, DEADLINE];
    MqTimedreceiveTime64 "mq_timedreceive_time64" ReceiveMessage RECEIVE [FD, BUFFER, VALUE, POINTER, DEADLINE];
    Msgsnd "msgsnd" SendMessage NONE [VALUE, BUFFER];
    Msgrcv "msgrcv" ReceiveMessage NONE [VALUE, BUFFER];
    IoUringEnter "io_uring_enter" Ring NONE [FD];
    IoGetevents "io_getevents" Ring NONE [VALUE, VALUE, VALUE, POINTER, TIMESPEC];
    IoPgetevents "io_pgetevents" Ring NONE [VALUE, VALUE, VALUE, POINTER, TIMESPEC, POINTER];
    IoPgeteventsTime64 "io_pgetevents_time64" Ring NONE [VALUE, VALUE, VALUE, POINTER, TIMESPEC64, POINTER];
    IoUringRegister "io_uring_register" RingControl NONE [FD, VALUE, POINTER];
    IoUringSetup "io_uring_setup" RingControl NONE [VALUE, POINTER];
    IoSetup "io_setup" RingControl NONE [VALUE, POINTER];
    IoSubmit "io_submit" RingControl NONE [VALUE, VALUE, POINTER];
    IoCancel "io_cancel" RingControl NONE [VALUE, POINTER, POINTER];
    IoDestroy "io_destroy" RingControl NONE [];

    // Paths. What open_by_handle_at opens has none: its fd is of anything on the same mount. The fd of inotify_add_watch is
    // not what it waits on.
    Open "open" Open NONE [PATH];
    Creat "creat" Open NONE [PATH];
    Openat "openat" Open NONE [DIRECTORY, PATH];
    Openat2 "openat2" Open NONE [DIRECTORY, PATH, POINTER];
    OpenByHandleAt "open_by_handle_at" Open NONE [FD, POINTER];
    Stat "stat" Path NONE [PATH, POINTER];
    Stat64 "stat64" Path NONE [PATH, POINTER];
    Lstat "lstat" Path NONE [PATH, POINTER];
    Lstat64 "lstat64" Path NONE [PATH, POINTER];
    Oldstat "oldstat" Path NONE [PATH, POINTER];
    Oldlstat "oldlstat" Path NONE [PATH, POINTER];
    Newfstatat "newfstatat" Path NONE [DIRECTORY, PATH, POINTER];
    Fstatat64 "fstatat64" Path NONE [DIRECTORY, PATH, POINTER];
    Statx "statx" Path NONE [DIRECTORY, PATH, VALUE, VALUE, POINTER];
    Access "access" Path NONE [PATH];
    Faccessat "faccessat" Path NONE [DIRECTORY, PATH];
    Faccessat2 "faccessat2" Path NONE [DIRECTORY, PATH];
    Statfs "statfs" Path NONE [PATH, POINTER];
    Statfs64 "statfs64" Path NONE [PATH, VALUE, POINTER];
    Readlink "readlink" Path NONE [PATH, BUFFER];
    Readlinkat "readlinkat" Path NONE [DIRECTORY, PATH, BUFFER];
    Execve "execve" Path NONE [PATH, POINTER, POINTER];
    Execveat "execveat" Path NONE [DIRECTORY, PATH, POINTER, POINTER];
    Uselib "uselib" Path NONE [PATH];
    Chdir "chdir" Path NONE [PATH];
    Chroot "chroot" Path NONE [PATH];
    PivotRoot "pivot_root" Path NONE [PATH, PATH];
    Unlink "unlink" Path NONE [PATH];
    Unlinkat "unlinkat" Path NONE [DIRECTORY, PATH];
    Rmdir "rmdir" Path NONE [PATH];
    Mkdir "mkdir" Path NONE [PATH];
    Mkdirat "mkdirat" Path NONE [DIRECTORY, PATH];
    Mknod "mknod" Path NONE [PATH];
    Mknodat "mknodat" Path NONE [DIRECTORY, PATH];
    Rename "rename" Path NONE [PATH, PATH];
    Renameat "renameat" Path NONE [DIRECTORY, PATH, DIRECTORY, PATH];
    Renameat2 "renameat2" Path NONE [DIRECTORY, PATH, DIRECTORY, PATH];
    Link "link" Path NONE [PATH, PATH];
    Linkat "linkat" Path NONE [DIRECTORY, PATH, DIRECTORY, PATH];
    Symlink "symlink" Path NONE [TEXT, PATH];
    Symlinkat "symlinkat" Path NONE [TEXT, DIRECTORY, PATH];
    Chmod "chmod" Path NONE [PATH];
    Fchmodat "fchmodat" Path NONE [DIRECTORY, PATH];
    Fchmodat2 "fchmodat2" Path NONE [DIRECTORY, PATH];
    Chown "chown" Path NONE [PATH];
    Chown32 "chown32" Path NONE [PATH];
    Lchown "lchown" Path NONE [PATH];
    Lchown32 "lchown32" Path NONE [PATH];
    Fchownat "fchownat" Path NONE [DIRECTORY, PATH];
    Truncate "truncate" Path NONE [PATH];
    Truncate64 "truncate64" Path NONE [PATH];
    Utime "utime" Path NONE [PATH, POINTER];
    Utimes "utimes" Path NONE [PATH, POINTER];
    Futimesat "futimesat" Path NONE [DIRECTORY, PATH, POINTER];
    Utimensat "utimensat" Path NONE [DIRECTORY, PATH, POINTER];
    UtimensatTime64 "utimensat_time64" Path NONE [DIRECTORY, PATH, POINTER];
    Getxattr "getxattr" Path NONE [PATH, TEXT, BUFFER];
    Lgetxattr "lgetxattr" Path NONE [PATH, TEXT, BUFFER];
    Setxattr "setxattr" Path NONE [PATH, TEXT, BUFFER];
    Lsetxattr "lsetxattr" Path NONE [PATH, TEXT, BUFFER];
    Listxattr "listxattr" Path NONE [PATH, BUFFER];
    Llistxattr "llistxattr" Path NONE [PATH, BUFFER];
    Removexattr "removexattr" Path NONE [PATH, TEXT];
    Lremovexattr "lremovexattr" Path NONE [PATH, TEXT];
    Getxattrat "getxattrat" Path NONE [DIRECTORY, PATH, VALUE, TEXT, POINTER];
    Setxattrat "setxattrat" Path NONE [DIRECTORY, PATH, VALUE, TEXT, POINTER];
    Listxattrat "listxattrat" Path NONE [DIRECTORY, PATH, VALUE, BUFFER];
    Removexattrat "removexattrat" Path NONE [DIRECTORY, PATH, VALUE, TEXT];
    FileGetattr "file_getattr" Path NONE [DIRECTORY, PATH, POINTER];
    FileSetattr "file_setattr" Path NONE [DIRECTORY, PATH, POINTER];
    NameToHandleAt "name_to_handle_at" Path NONE [DIRECTORY, PATH, POINTER, POINTER];
    Mount "mount" Path NONE [TEXT, PATH, TEXT, VALUE, POINTER];
    Umount "umount" Path NONE [PATH];
    Umount2 "umount2" Path NONE [PATH];
    OpenTree "open_tree" Path NONE [DIRECTORY, PATH];
    OpenTreeAttr "open_tree_attr" Path NONE [DIRECTORY, PATH, VALUE, POINTER];
    MoveMount "move_mount" Path NONE [DIRECTORY, PATH, DIRECTORY, PATH];
    MountSetattr "mount_setattr" Path NONE [DIRECTORY, PATH, VALUE, POINTER];
    Fspick "fspick" Path NONE [DIRECTORY, PATH];
    Quotactl "quotactl" Path NONE [VALUE, PATH, VALUE, POINTER];
    Acct "acct" Path NONE [PATH];
    InotifyAddWatch "inotify_add_watch" Path NONE [VALUE, PATH];
    Swapon "swapon" Path NONE [PATH];
    Swapoff "swapoff" Path NONE [PATH];

    // One call for many, as 32-bit programs make them: the first argument says which, see `of_many`.
    Socketcall "socketcall" Other NONE [VALUE, POINTER];
    Ipc "ipc" Other NONE [VALUE, VALUE, VALUE, VALUE, POINTER];

    // What stands for a call. One of a thread that exits goes on as the end of that thread.
    Restart "restart_syscall" Restart NONE [];
    Exit "exit" Exit NONE [];
    CoreDump "core_dump" Exit NONE [];
    PageFault "page_fault" PageFault NONE [];
    // What an event loop has asked on a connection and has no answer to: no thread of it is in a call for that.
    Request "request" Receive RECEIVE [FD];
    Unknown "unknown" Other NONE [];
}

/// A call of which only the name is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unlisted(u16);

const UNLISTED: Row =
    Row { name: "", operation: Operation::Other, direction: None, arguments: columns::all([]) };

/// No table has a call with this number or a larger one.
const NUMBERS_MAX: usize = 512;

/// Both tables of this machine by number.
struct CallTables {
    native: Vec<Option<Syscall>>,
    compat: Vec<Option<Syscall>>,
    /// Names of calls without a row.
    unlisted: Vec<&'static str>,
}

static TABLES: LazyLock<CallTables> = LazyLock::new(|| {
    let mut known: HashMap<&str, Syscall> =
        Syscall::LISTED.iter().map(|syscall| (syscall.row().name, *syscall)).collect();
    let mut unlisted = Vec::new();
    let mut syscall = |name: &'static str| {
        *known.entry(name).or_insert_with(|| {
            unlisted.push(name);
            Syscall::Unlisted(Unlisted(unlisted.len() as u16 - 1))
        })
    };
    let native =
        (0..NUMBERS_MAX).map(|number| NativeSysno::new(number).map(|call| syscall(call.name()))).collect();
    let compat =
        (0..NUMBERS_MAX).map(|number| CompatSysno::new(number).map(|call| syscall(call.name()))).collect();
    CallTables { native, compat, unlisted }
});

impl CallTables {
    fn of(&self, table: CallTable) -> &[Option<Syscall>] {
        match table {
            CallTable::Native => &self.native,
            CallTable::Compat => &self.compat,
        }
    }
}

impl Syscall {
    /// The call with this number; [`Unknown`](Self::Unknown) for one that the table does not have.
    pub fn of(table: CallTable, number: i32) -> Self {
        let at = |number: usize| *TABLES.of(table).get(number)?;
        usize::try_from(number).ok().and_then(at).unwrap_or(Self::Unknown)
    }

    /// All calls of this machine's tables, some of them twice, and what people may name beside them.
    pub fn all() -> impl Iterator<Item = Self> {
        let both = TABLES.native.iter().zip(&TABLES.compat).flat_map(|(native, compat)| [*native, *compat]);
        both.flatten().chain([Self::PageFault, Self::CoreDump, Self::Request])
    }

    /// The call that people name so.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|syscall| syscall.name() == name)
    }

    /// The call that is meant, where this is one for many: by its first argument (include/uapi/linux/net.h, ipc.h). The upper
    /// half of that of `ipc` is a version.
    pub fn of_many(self, first: u64) -> Self {
        match (self, first as u32) {
            (Self::Socketcall, 2) => Self::Bind,
            (Self::Socketcall, 3) => Self::Connect,
            (Self::Socketcall, 4) => Self::Listen,
            (Self::Socketcall, 5) => Self::Accept,
            (Self::Socketcall, 9) => Self::Send,
            (Self::Socketcall, 10) => Self::Recv,
            (Self::Socketcall, 11) => Self::Sendto,
            (Self::Socketcall, 12) => Self::Recvfrom,
            (Self::Socketcall, 13) => Self::Shutdown,
            (Self::Socketcall, 14) => Self::Setsockopt,
            (Self::Socketcall, 15) => Self::Getsockopt,
            (Self::Socketcall, 16) => Self::Sendmsg,
            (Self::Socketcall, 17) => Self::Recvmsg,
            (Self::Socketcall, 18) => Self::Accept4,
            (Self::Socketcall, 19) => Self::Recvmmsg,
            (Self::Socketcall, 20) => Self::Sendmmsg,
            (Self::Ipc, first) => match first & 0xffff {
                1 => Self::Semop,
                4 => Self::Semtimedop,
                11 => Self::Msgsnd,
                12 => Self::Msgrcv,
                _ => self,
            },
            _ => self,
        }
    }

    /// Calls of this machine's own table that can block.
    pub fn blocking() -> impl Iterator<Item = Self> {
        TABLES.native.iter().flatten().copied().filter(|syscall| {
            let never = matches!(syscall.operation(), Operation::Restart | Operation::Exit);
            !never && !matches!(syscall, Self::Unlisted(_))
        })
    }

    /// Its number in a table.
    pub fn number(self, table: CallTable) -> Option<i32> {
        TABLES.of(table).iter().position(|syscall| *syscall == Some(self)).map(|number| number as i32)
    }

    /// Its name, as people and machines read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unlisted(Unlisted(at)) => TABLES.unlisted[usize::from(at)],
            listed => listed.row().name,
        }
    }

    /// What it does.
    pub fn operation(self) -> Operation {
        self.row().operation
    }

    /// Which way it moves data; `None`: neither, or both, or there is no fd.
    pub fn direction(self) -> Option<Direction> {
        self.row().direction
    }

    /// Which arguments are fds that it works on. It waits on the first.
    pub fn fds(self) -> impl Iterator<Item = usize> {
        self.positions(|argument| argument == Argument::Fd)
    }

    /// Which argument is the fd it waits on.
    pub fn fd(self) -> Option<usize> {
        self.fds().next()
    }

    /// Which argument has its time-out, and in what form.
    pub fn timeout(self) -> Option<(usize, Timeout)> {
        self.row().arguments.iter().enumerate().find_map(|(at, argument)| match argument {
            Argument::Timeout(form) => Some((at, *form)),
            _ => None,
        })
    }

    /// The time-out in these arguments, where they have it as a number and not in memory.
    pub fn timeout_in(self, args: &[u64; ARGUMENTS]) -> Option<Duration> {
        match self.timeout()? {
            (at, Timeout::Milliseconds) => u64::try_from(args[at] as i32).ok().map(Duration::from_millis),
            _ => None,
        }
    }

    /// Which arguments point to something, and to what.
    pub fn pointers(self) -> impl Iterator<Item = (usize, Pointer)> {
        self.row().arguments.iter().enumerate().filter_map(|(at, argument)| match argument {
            Argument::Pointer(pointer) => Some((at, *pointer)),
            _ => None,
        })
    }

    /// Which argument is the path it walks first, and which the directory that is relative to, if one is.
    pub fn path(self) -> Option<(Option<usize>, usize)> {
        let path = self.pointers().find(|(_, pointer)| *pointer == Pointer::Path)?.0;
        let before = path.checked_sub(1);
        Some((before.filter(|at| self.row().arguments[*at] == Argument::Directory), path))
    }

    fn positions(self, is: impl Fn(Argument) -> bool) -> impl Iterator<Item = usize> {
        let all = self.row().arguments.iter().enumerate();
        all.filter(move |(_, argument)| is(**argument)).map(|(at, _)| at)
    }
}

#[cfg(test)]
mod tests;
