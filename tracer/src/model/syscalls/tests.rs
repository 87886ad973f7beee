//! Is every row of the table right?

use std::collections::HashSet;

use super::*;

/// What stands for a call, and has no number.
const PSEUDO: [Syscall; 4] = [Syscall::CoreDump, Syscall::PageFault, Syscall::Request, Syscall::Unknown];

#[test]
fn no_two_rows_have_one_name() {
    let names: HashSet<&str> = Syscall::LISTED.iter().map(|syscall| syscall.name()).collect();
    assert_eq!(names.len(), Syscall::LISTED.len());
}

#[test]
fn every_row_is_a_call_of_some_machine() {
    let named = |name: &str| {
        name.parse::<syscalls::x86_64::Sysno>().is_ok()
            || name.parse::<syscalls::x86::Sysno>().is_ok()
            || name.parse::<syscalls::aarch64::Sysno>().is_ok()
            || name.parse::<syscalls::arm::Sysno>().is_ok()
    };
    for syscall in Syscall::LISTED.iter().filter(|syscall| !PSEUDO.contains(syscall)) {
        assert!(named(syscall.name()), "{syscall:?}");
    }
    for syscall in PSEUDO {
        assert!(!named(syscall.name()), "{syscall:?} is a call");
    }
}

/// Numbers are looked up by name, in a list of another origin.
#[test]
fn numbers_are_those_of_the_c_library() {
    use libc::*;

    #[rustfmt::skip]
    let both = {
        use Syscall::*;
        [
            (SYS_read, Read), (SYS_pread64, Pread64), (SYS_readv, Readv), (SYS_preadv, Preadv), (SYS_preadv2, Preadv2),
            (SYS_readahead, Readahead), (SYS_getdents64, Getdents64), (SYS_write, Write), (SYS_pwrite64, Pwrite64),
            (SYS_writev, Writev), (SYS_pwritev, Pwritev), (SYS_pwritev2, Pwritev2), (SYS_vmsplice, Vmsplice),
            (SYS_sendfile, Sendfile), (SYS_splice, Splice), (SYS_tee, Tee), (SYS_copy_file_range, CopyFileRange),
            (SYS_close, Close), (SYS_ioctl, Ioctl), (SYS_lseek, Lseek), (SYS_fstat, Fstat), (SYS_fstatfs, Fstatfs),
            (SYS_fchmod, Fchmod), (SYS_fchown, Fchown), (SYS_fchdir, Fchdir), (SYS_fgetxattr, Fgetxattr),
            (SYS_fsetxattr, Fsetxattr), (SYS_flistxattr, Flistxattr), (SYS_fremovexattr, Fremovexattr),
            (SYS_ftruncate, Ftruncate), (SYS_fallocate, Fallocate), (SYS_fadvise64, Fadvise64),
            (SYS_finit_module, FinitModule), (SYS_quotactl_fd, QuotactlFd), (SYS_timerfd_settime, TimerfdSettime),
            (SYS_process_mrelease, ProcessMrelease), (SYS_fsync, Fsync), (SYS_fdatasync, Fdatasync),
            (SYS_syncfs, Syncfs), (SYS_sync, Sync), (SYS_msync, Msync), (SYS_accept, Accept), (SYS_accept4, Accept4),
            (SYS_connect, Connect), (SYS_recvfrom, Recvfrom), (SYS_recvmsg, Recvmsg), (SYS_recvmmsg, Recvmmsg),
            (SYS_sendto, Sendto), (SYS_sendmsg, Sendmsg), (SYS_sendmmsg, Sendmmsg), (SYS_shutdown, Shutdown),
            (SYS_setsockopt, Setsockopt), (SYS_getsockopt, Getsockopt), (SYS_bind, Bind), (SYS_listen, Listen),
            (SYS_ppoll, Ppoll), (SYS_pselect6, Pselect6), (SYS_epoll_pwait, EpollPwait), (SYS_epoll_pwait2, EpollPwait2),
            (SYS_epoll_ctl, EpollCtl), (SYS_flock, Flock), (SYS_fcntl, Fcntl), (SYS_semop, Semop),
            (SYS_semtimedop, Semtimedop), (SYS_futex, Futex), (SYS_futex_waitv, FutexWaitv), (SYS_nanosleep, Nanosleep),
            (SYS_clock_nanosleep, ClockNanosleep), (SYS_rt_sigsuspend, RtSigsuspend),
            (SYS_rt_sigtimedwait, RtSigtimedwait), (SYS_wait4, Wait4), (SYS_waitid, Waitid), (SYS_clone, Clone),
            (SYS_clone3, Clone3), (SYS_mq_timedsend, MqTimedsend), (SYS_mq_timedreceive, MqTimedreceive),
            (SYS_msgsnd, Msgsnd), (SYS_msgrcv, Msgrcv), (SYS_io_uring_enter, IoUringEnter),
            (SYS_io_getevents, IoGetevents), (SYS_io_uring_register, IoUringRegister),
            (SYS_io_uring_setup, IoUringSetup), (SYS_io_setup, IoSetup), (SYS_io_submit, IoSubmit),
            (SYS_io_cancel, IoCancel), (SYS_io_destroy, IoDestroy), (SYS_openat, Openat), (SYS_openat2, Openat2),
            (SYS_newfstatat, Newfstatat), (SYS_statx, Statx), (SYS_faccessat, Faccessat), (SYS_faccessat2, Faccessat2),
            (SYS_statfs, Statfs), (SYS_readlinkat, Readlinkat), (SYS_execve, Execve), (SYS_execveat, Execveat),
            (SYS_chdir, Chdir), (SYS_chroot, Chroot), (SYS_pivot_root, PivotRoot), (SYS_unlinkat, Unlinkat),
            (SYS_mkdirat, Mkdirat), (SYS_mknodat, Mknodat), (SYS_renameat2, Renameat2), (SYS_linkat, Linkat),
            (SYS_symlinkat, Symlinkat), (SYS_fchmodat, Fchmodat), (SYS_fchownat, Fchownat), (SYS_truncate, Truncate),
            (SYS_utimensat, Utimensat), (SYS_getxattr, Getxattr), (SYS_lgetxattr, Lgetxattr), (SYS_setxattr, Setxattr),
            (SYS_lsetxattr, Lsetxattr), (SYS_listxattr, Listxattr), (SYS_llistxattr, Llistxattr),
            (SYS_removexattr, Removexattr), (SYS_lremovexattr, Lremovexattr), (SYS_name_to_handle_at, NameToHandleAt),
            (SYS_mount, Mount), (SYS_umount2, Umount2), (SYS_open_tree, OpenTree), (SYS_move_mount, MoveMount),
            (SYS_mount_setattr, MountSetattr), (SYS_fspick, Fspick), (SYS_quotactl, Quotactl), (SYS_acct, Acct),
            (SYS_swapon, Swapon), (SYS_swapoff, Swapoff), (SYS_restart_syscall, Restart), (SYS_exit, Exit),
        ]
    };
    #[cfg(target_arch = "x86_64")]
    #[rustfmt::skip]
    let older = {
        use Syscall::*;
        [
            (SYS_getdents, Getdents), (SYS_sync_file_range, SyncFileRange), (SYS_poll, Poll), (SYS_select, Select),
            (SYS_epoll_wait, EpollWait), (SYS_epoll_wait_old, EpollWaitOld), (SYS_pause, Pause), (SYS_fork, Fork),
            (SYS_vfork, Vfork), (SYS_open, Open), (SYS_creat, Creat), (SYS_stat, Stat), (SYS_lstat, Lstat),
            (SYS_access, Access), (SYS_readlink, Readlink), (SYS_uselib, Uselib), (SYS_unlink, Unlink),
            (SYS_rmdir, Rmdir), (SYS_mkdir, Mkdir), (SYS_mknod, Mknod), (SYS_rename, Rename), (SYS_renameat, Renameat),
            (SYS_link, Link), (SYS_symlink, Symlink), (SYS_chmod, Chmod), (SYS_fchmodat2, Fchmodat2), (SYS_chown, Chown),
            (SYS_lchown, Lchown), (SYS_utime, Utime), (SYS_utimes, Utimes), (SYS_futimesat, Futimesat),
        ]
    };
    #[cfg(not(target_arch = "x86_64"))]
    let older = [];
    for (number, syscall) in both.into_iter().chain(older) {
        assert_eq!(Syscall::of(CallTable::Native, number as i32), syscall);
        assert_eq!(syscall.number(CallTable::Native), Some(number as i32), "{syscall:?}");
    }
}

#[test]
fn arguments_fit_the_operation() {
    for syscall in Syscall::LISTED.iter().copied() {
        let (operation, arguments) = (syscall.operation(), &syscall.row().arguments);
        let count = |is: fn(&Argument) -> bool| arguments.iter().filter(|argument| is(argument)).count();
        assert!(syscall.fds().count() <= 2, "{syscall:?}");
        assert!(count(|argument| matches!(argument, Argument::Timeout(_))) <= 1, "{syscall:?}");
        let walks = matches!(operation, Operation::Open | Operation::Path);
        assert!(syscall.path().is_none() || walks && syscall.fd().is_none(), "{syscall:?}");
        assert!(!walks || syscall.path().is_some() || syscall.fd().is_some(), "{syscall:?}");
        for (at, argument) in arguments.iter().enumerate() {
            let path = arguments.get(at + 1) == Some(&Argument::Pointer(Pointer::Path));
            assert!(*argument != Argument::Directory || path, "{syscall:?}: a path follows a directory");
        }
        // What the kernel programs read by these places.
        let pointers: Vec<(usize, Pointer)> = syscall.pointers().collect();
        match operation {
            Operation::Connect => assert_eq!(pointers, [(1, Pointer::SocketAddress)]),
            Operation::Poll => assert_eq!(pointers[0], (0, Pointer::PollFds)),
            _ => {}
        }
        let moves = matches!(
            operation,
            Operation::Read | Operation::Write | Operation::Receive | Operation::Send | Operation::Copy
        );
        assert!(!moves || syscall.fd().is_some() && syscall.direction().is_some(), "{syscall:?}");
        assert!(!operation.is_for_sockets() || syscall.fd() == Some(0), "{syscall:?}");
    }
}

#[test]
fn arguments_are_found_by_what_they_are() {
    assert_eq!(Syscall::Splice.fds().collect::<Vec<_>>(), [0, 2]);
    assert_eq!(Syscall::Sendfile.fds().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(Syscall::Symlinkat.path(), Some((Some(1), 2)));
    assert_eq!(Syscall::Mount.path(), Some((None, 1)));
    assert_eq!(Syscall::Renameat.path(), Some((Some(0), 1)), "the first of two");
    assert_eq!(Syscall::Select.timeout(), Some((4, Timeout::Timeval)));
    assert_eq!(Syscall::MqTimedreceive.timeout(), Some((4, Timeout::Deadline)));
    for without in [Syscall::Futex, Syscall::Nanosleep, Syscall::Wait4, Syscall::Openat, Syscall::Poll] {
        assert_eq!(without.fd(), None, "{without:?}");
    }
}

#[test]
fn a_time_out_is_a_number_or_an_address() {
    let args = |at: usize, value: u64| std::array::from_fn(|arg| if arg == at { value } else { u64::MAX });
    for (syscall, at, value, expected) in [
        (Syscall::Poll, 2, 1500, Some(1500)),
        (Syscall::Poll, 2, 0xdead_beef_0000_0000, Some(0)),
        (Syscall::Poll, 2, 0xffff_ffff, None),
        (Syscall::EpollPwait, 3, 7, Some(7)),
        (Syscall::EpollPwait2, 3, 7, None),
        (Syscall::Read, 3, 7, None),
    ] {
        let expected = expected.map(Duration::from_millis);
        assert_eq!(syscall.timeout_in(&args(at, value)), expected, "{syscall:?} {value:#x}");
    }
    assert!(Timeout::Milliseconds.is_given(0) && !Timeout::Milliseconds.is_given(0xffff_ffff));
    assert!(Timeout::Deadline.is_given(0x7fff_0000) && !Timeout::Deadline.is_given(0));
}

#[test]
fn no_call_lies_beyond_the_tables() {
    assert_eq!(NUMBERS_MAX, tracer_ebpf::abi::SYSCALLS, "as the kernel programs have it");
    let beyond = |number| NativeSysno::new(number).is_some() || CompatSysno::new(number).is_some();
    assert!(!(NUMBERS_MAX..0x1000).any(beyond));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn three_is_close_here_and_read_there() {
    assert_eq!(Syscall::of(CallTable::Native, 3), Syscall::Close);
    assert_eq!(Syscall::of(CallTable::Compat, 3), Syscall::Read);
    for unknown in [-1, 511, 100_000, i32::MAX] {
        assert_eq!(Syscall::of(CallTable::Native, unknown), Syscall::Unknown);
    }
}

#[test]
fn a_call_without_a_row_has_a_name_and_is_one_in_both_tables() {
    let syscall = Syscall::of(CallTable::Native, libc::SYS_getpid as i32);
    assert!(matches!(syscall, Syscall::Unlisted(_)));
    assert_eq!((syscall.name(), syscall.operation(), syscall.fd()), ("getpid", Operation::Other, None));
    let there = syscall.number(CallTable::Compat).expect("it has a number there");
    assert_eq!(Syscall::of(CallTable::Compat, there), syscall);
    assert_ne!(Syscall::of(CallTable::Native, libc::SYS_getuid as i32), syscall);
}

#[test]
fn what_people_name_is_found() {
    for name in ["recvfrom", "getpid", "page_fault", "core_dump", "exit"] {
        assert_eq!(Syscall::named(name).map(Syscall::name), Some(name));
    }
    for name in ["unknown", "", "Read", "read "] {
        assert_eq!(Syscall::named(name), None, "{name}");
    }
}

#[test]
fn what_can_block_is_what_has_a_row() {
    let blocking: Vec<Syscall> = Syscall::blocking().collect();
    for can in [Syscall::Read, Syscall::EpollPwait, Syscall::Clone, Syscall::Renameat2, Syscall::Futex] {
        assert!(blocking.contains(&can), "{can:?}");
    }
    for cannot in [Syscall::Exit, Syscall::Restart, Syscall::PageFault, Syscall::Unknown] {
        assert!(!blocking.contains(&cannot), "{cannot:?}");
    }
    assert!(blocking.iter().all(|syscall| !matches!(syscall, Syscall::Unlisted(_))));
}

#[test]
fn a_call_with_a_time_out_ends_by_itself() {
    use crate::diagnose::verdict::tests::wait;

    let given = |syscall: Syscall, value: u64| {
        let (at, _) = syscall.timeout().expect("it takes one");
        let mut args = [0; ARGUMENTS];
        args[at] = value;
        wait(syscall, args).call.is_timed()
    };
    for syscall in [
        Syscall::Futex,
        Syscall::FutexWait,
        Syscall::FutexWaitv,
        Syscall::Semtimedop,
        Syscall::MqTimedsend,
        Syscall::MqTimedreceive,
        Syscall::RtSigtimedwait,
        Syscall::Ppoll,
        Syscall::EpollPwait2,
    ] {
        assert!(given(syscall, 0x7fff_1000), "{syscall:?}");
        assert!(!given(syscall, 0), "{syscall:?} for ever");
    }
    assert!(given(Syscall::EpollWait, 0) && !given(Syscall::EpollWait, u64::MAX));
    for syscall in [Syscall::Semop, Syscall::Read, Syscall::Recvmmsg, Syscall::Wait4] {
        assert!(!wait(syscall, [u64::MAX; ARGUMENTS]).call.is_timed(), "{syscall:?}");
    }
}

#[test]
fn a_call_for_many_is_the_one_it_is_told_to_make() {
    use crate::diagnose::verdict::tests::wait;

    let call = |syscall, args| wait(syscall, args).call;
    for (first, operation, direction) in [
        (3, Operation::Connect, None),
        (10, Operation::Receive, Some(Direction::Receive)),
        (0xdead_beef_0000_000b, Operation::Send, Some(Direction::Send)),
        (18, Operation::Accept, None),
    ] {
        let call = call(Syscall::Socketcall, [first, 0x1000, 0, 0, 0, 0]);
        assert_eq!((call.operation(), call.direction()), (operation, direction), "{first:#x}");
        assert!(call.has_fds_in_memory() && call.name() == "socketcall");
    }
    let makes = call(Syscall::Socketcall, [1, 0x1000, 0, 0, 0, 0]);
    assert!(makes.operation() == Operation::Other && !makes.has_fds_in_memory(), "it has no fd yet");
    for (first, operation, arguments, timed) in [
        (1, Operation::Semaphore, [7, 0x1000, 3, 0, 0, 0], false),
        (0x1_0004, Operation::Semaphore, [7, 0x1000, 3, 0x2000, 0, 0], true),
        (11, Operation::SendMessage, [7, 0x1000, 3, 0, 0, 0], false),
        (12, Operation::ReceiveMessage, [7, 0x1000, 3, 0, 0, 0], false),
        (2, Operation::Other, [7, 0x1000, 3, 0, 0, 0], false),
    ] {
        let fifth = if timed { 0x2000 } else { 0 };
        let call = call(Syscall::Ipc, [first, 7, 3, 0, 0x1000, fifth]);
        assert_eq!((call.operation(), call.arguments()), (operation, arguments), "{first:#x}");
        assert_eq!((call.is_timed(), call.has_fds_in_memory(), call.name()), (timed, false, "ipc"));
    }
}
