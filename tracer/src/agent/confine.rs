//! What the agent gives up for good once its kernel programs are attached and its sockets bound: rights it does not need any
//! more, and system calls that only somebody who has taken it over would make.

use anyhow::{Context, Result, anyhow};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// What is kept, and what it is for. Whatever is read of other processes, its readers read: see [`supervisor`].
pub const KEPT: &[(CapabilitySet, &str, &str)] = &[
    (CapabilitySet::BPF, "CAP_BPF", "to read its maps and start its iterators"),
    (CapabilitySet::PERFMON, "CAP_PERFMON", "to ask how often the kernel skipped its programs"),
];

/// Calls it never makes, which fail with EPERM from now on. Those that depend on what they are asked are in [`filter`].
const REFUSED: &[i64] = &[
    // Programs: what is to be run by `on_stall` is run by another process.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    // Other sockets: the service manager's is connected by now, and to the kernel none needs to be. An address lies in memory, where
    // a filter does not see it, so that it could not tell one from another.
    libc::SYS_connect,
    libc::SYS_sendmmsg,
    // The file system and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_mknodat,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    // The kernel.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // A way around this filter.
    libc::SYS_io_uring_setup,
    // Users and rights.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    // What x86 has under older names as well.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_symlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
];

/// Flags of `clone` that a thread does not have: they make namespaces.
const CLONE_REFUSED: &[i32] = &[
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Commands of `bpf` that load or pin anything (include/uapi/linux/bpf.h). Each pass of an iterator makes a link, of a program that is
/// loaded already.
const BPF_REFUSED: &[(&str, u64)] = &[
    ("BPF_MAP_CREATE", 0),
    ("BPF_PROG_LOAD", 5),
    ("BPF_OBJ_PIN", 6),
    ("BPF_PROG_ATTACH", 8),
    ("BPF_PROG_TEST_RUN", 10),
    ("BPF_RAW_TRACEPOINT_OPEN", 17),
    ("BPF_BTF_LOAD", 18),
];

/// Confines this thread, and those it starts: to be called while there is no other. The error says what could not be given up.
pub fn confine() -> Result<()> {
    set_no_new_privs(true).context("cannot give up gaining rights")?;
    drop_capabilities().context("cannot give up capabilities")?;
    for program in [without_clone3(), filter()] {
        let program = program.context("cannot make a filter for system calls")?;
        seccompiler::apply_filter(&program).context("cannot give up system calls")?;
    }
    Ok(())
}

/// Keeps of the capabilities it has those it needs.
fn drop_capabilities() -> Result<()> {
    let kept = KEPT.iter().fold(CapabilitySet::empty(), |all, (one, ..)| all | *one);
    // The bounding set only matters to programs it cannot start any more; without CAP_SETPCAP it stays.
    for one in CapabilitySet::all().iter().filter(|one| !kept.contains(*one)) {
        if capability_is_in_bounding_set(one).unwrap_or(false) {
            let _ = remove_capability_from_bounding_set(one);
        }
    }
    let _ = clear_ambient_capability_set();
    let has = capabilities(None)?;
    let keeps = has.permitted & kept;
    let sets = CapabilitySets { effective: keeps, permitted: keeps, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

/// Its flags lie in memory, where a filter does not see them: C libraries make threads by `clone` where the kernel has no other.
fn without_clone3() -> Result<BpfProgram> {
    program([(libc::SYS_clone3, Vec::new())].into(), libc::ENOSYS)
}

fn filter() -> Result<BpfProgram> {
    let mut rules: Rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let when = |operator, value| SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, value);
    let rule = |operator, value| Ok(SeccompRule::new(vec![when(operator, value)?])?);
    let of_bpf = BPF_REFUSED.iter().map(|(_, command)| rule(SeccompCmpOp::Eq, *command));
    rules.insert(libc::SYS_bpf, of_bpf.collect::<Result<_>>()?);
    let of_clone = CLONE_REFUSED.iter().map(|flag| {
        let flag = u64::from(*flag as u32);
        rule(SeccompCmpOp::MaskedEq(flag), flag)
    });
    rules.insert(libc::SYS_clone, of_clone.collect::<Result<_>>()?);
    // The C library ends the process by a signal to itself.
    rules.insert(libc::SYS_tgkill, vec![rule(SeccompCmpOp::Ne, u64::from(std::process::id()))?]);
    // It connects to nobody: events go to those who have connected to it. Only the kernel is asked about sockets.
    rules.insert(
        libc::SYS_socket,
        vec![SeccompRule::new(vec![when(SeccompCmpOp::Ne, libc::AF_NETLINK as u64)?])?],
    );
    // What it sends goes to where the socket is connected to.
    let addressed = SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?;
    rules.insert(libc::SYS_sendto, vec![SeccompRule::new(vec![addressed])?]);
    // Descriptors are passed to the process that starts readers, and to nobody else.
    let but_control =
        crate::procfs::supervisor::control().map(|fd| rule(SeccompCmpOp::Ne, u64::from(fd as u32)));
    rules.insert(libc::SYS_sendmsg, but_control.into_iter().collect::<Result<_>>()?);
    program(rules, libc::EPERM)
}

/// What reading takes: the rights of readers, and of what starts them. To look into `/proc/PID` of other users, at descriptors and
/// the memory of a poll, and to see where their descriptors lead, through folders that are closed to it.
const OF_READERS: CapabilitySet = CapabilitySet::SYS_PTRACE.union(CapabilitySet::DAC_READ_SEARCH);

/// All that a reader does, and why. Everything else fails with EPERM.
const READS: &[(i64, &str)] = &[
    (libc::SYS_openat, "to open what is asked for; never for writing: see `for_reading`"),
    (libc::SYS_read, "to read it"),
    (libc::SYS_getdents64, "to list a folder"),
    (libc::SYS_readlinkat, "to see where a link leads"),
    (libc::SYS_statx, "to see what a file is"),
    (libc::SYS_fstat, "the C library's way to list a folder"),
    (libc::SYS_newfstatat, "the same"),
    (libc::SYS_lseek, "the same"),
    (libc::SYS_fcntl, "the same"),
    (libc::SYS_process_vm_readv, "to read a process's memory"),
    (libc::SYS_recvfrom, "to be asked"),
    (libc::SYS_sendmsg, "to hand a descriptor over"),
    (libc::SYS_sendto, "to answer"),
    (libc::SYS_close, "to let go of what was read"),
    (libc::SYS_mmap, "memory"),
    (libc::SYS_munmap, "memory"),
    (libc::SYS_mprotect, "memory"),
    (libc::SYS_mremap, "memory"),
    (libc::SYS_madvise, "memory"),
    (libc::SYS_brk, "memory"),
    (libc::SYS_futex, "the allocator's lock"),
    (libc::SYS_getrandom, "seeds"),
    (libc::SYS_restart_syscall, "to go on after a stop"),
    (libc::SYS_rt_sigreturn, "to come back from a handler"),
    (libc::SYS_exit_group, "to end"),
    (libc::SYS_exit, "to end"),
];

/// What the process that starts and ends readers does beside that, which each of them still may until it is a reader.
const SUPERVISES: &[(i64, &str)] = &[
    (libc::SYS_ppoll, "to wait for orders, and for the end of a reader"),
    (libc::SYS_socketpair, "to make a reader's socket"),
    (libc::SYS_clone, "to start one; never with namespaces of its own: see `without_namespaces`"),
    (libc::SYS_recvmsg, "to be told what to do"),
    (libc::SYS_kill, "to end one"),
    (libc::SYS_wait4, "to reap it"),
    (libc::SYS_dup3, "to close what a reader does not need"),
    (libc::SYS_close_range, "the same"),
    (libc::SYS_prctl, "its name, and that it ends with this process"),
    (libc::SYS_seccomp, "its filter"),
    (libc::SYS_getpid, "the C library's fork"),
    (libc::SYS_gettid, "the same"),
    (libc::SYS_getppid, "the same"),
    (libc::SYS_set_robust_list, "the same"),
    (libc::SYS_set_tid_address, "the same"),
    (libc::SYS_rseq, "the same"),
    (libc::SYS_rt_sigprocmask, "the same"),
    (libc::SYS_rt_sigaction, "the same"),
    (libc::SYS_clock_nanosleep, "to wait for readers at its end"),
    (libc::SYS_nanosleep, "the same"),
    (libc::SYS_clock_gettime, "the same"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_dup2, "the same as dup3"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_fork, "the same as clone"),
];

/// The filter of a reader, made before it starts.
pub struct ReaderFilter(BpfProgram);

impl ReaderFilter {
    /// Puts it on this process.
    pub fn apply(&self) -> Result<()> {
        seccompiler::apply_filter(&self.0).context("cannot give up system calls")
    }
}

/// Makes the filter of a reader.
pub fn reader_filter() -> Result<ReaderFilter> {
    allowed(READS.iter()).map(ReaderFilter)
}

/// Confines the process that starts and ends readers, and so all of them.
pub fn supervisor() -> Result<()> {
    set_no_new_privs(true).context("cannot give up gaining rights")?;
    let keeps = capabilities(None)?.permitted & OF_READERS;
    let _ = clear_ambient_capability_set();
    let sets = CapabilitySets { effective: keeps, permitted: keeps, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).context("cannot give up capabilities")?;
    for program in [without_clone3()?, allowed(READS.iter().chain(SUPERVISES))?] {
        seccompiler::apply_filter(&program).context("cannot give up system calls")?;
    }
    Ok(())
}

/// Everything but these calls fails.
fn allowed<'a>(calls: impl Iterator<Item = &'a (i64, &'a str)>) -> Result<BpfProgram> {
    let mut rules: Rules = calls.map(|(call, _)| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_openat, for_reading()?);
    if let Some(clone) = rules.get_mut(&libc::SYS_clone) {
        *clone = without_namespaces()?;
    }
    if let Some(kill) = rules.get_mut(&libc::SYS_kill) {
        let kills = SeccompCondition::new(
            1,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::Eq,
            u64::from(libc::SIGKILL as u32),
        )?;
        *kill = vec![SeccompRule::new(vec![kills])?];
    }
    // What has a number of its own is refused as the rest, but so that the C library takes another way.
    let arch = std::env::consts::ARCH.try_into().map_err(|_| anyhow!("no filter for this processor"))?;
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    Ok(SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch)?.try_into()?)
}

/// Flags of `openat` that neither write nor make anything.
fn for_reading() -> Result<Vec<SeccompRule>> {
    let changes = (libc::O_WRONLY
        | libc::O_RDWR
        | libc::O_CREAT
        | libc::O_TRUNC
        | libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;
    let none = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(changes.into()), 0)?;
    Ok(vec![SeccompRule::new(vec![none])?])
}

/// Flags of `clone` as `fork` has them.
fn without_namespaces() -> Result<Vec<SeccompRule>> {
    let namespaces = CLONE_REFUSED.iter().fold(0, |all, flag| all | *flag as u32);
    let none =
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(namespaces.into()), 0)?;
    Ok(vec![SeccompRule::new(vec![none])?])
}

/// Calls, and when they are refused: where no rule is given, always.
type Rules = std::collections::BTreeMap<i64, Vec<SeccompRule>>;

fn program(rules: Rules, error: i32) -> Result<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into().map_err(|_| anyhow!("no filter for this processor"))?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(error as u32), arch)?;
    Ok(filter.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs in a process of its own, since it cannot be undone; true if `so` is.
    fn in_a_child(so: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child makes system calls and uses memory, both of which the C library keeps whole over a fork.
        let child = unsafe { libc::fork() };
        assert!(child >= 0, "forks");
        if child == 0 {
            let ended = i32::from(!so());
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(ended) }
        }
        let mut status = 0;
        // SAFETY: a child of this process, and a status of its own.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        waited == child && status == 0
    }

    #[test]
    fn a_reader_reads_and_does_nothing_else() {
        // SAFETY: each fails, or does nothing but read.
        let errno = |call: i64, args: [i64; 3]| unsafe {
            let result = libc::syscall(call, args[0], args[1], args[2]);
            if result < 0 { std::io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 }
        };
        let path = c"/proc/self/status".as_ptr() as i64;
        let here = i64::from(libc::AT_FDCWD);
        let filter = reader_filter().expect("a filter");
        assert!(in_a_child(|| {
            supervisor().is_ok()
                && errno(libc::SYS_kill, [i64::from(std::process::id()), 0, 0]) == libc::EPERM
                && errno(libc::SYS_execve, [path, 0, 0]) == libc::EPERM
                && errno(libc::SYS_socket, [libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0]) == libc::EPERM
                && errno(libc::SYS_clone, [i64::from(libc::CLONE_NEWUSER), 0, 0]) == libc::EPERM
                && filter.apply().is_ok()
                && errno(libc::SYS_openat, [here, path, libc::O_RDONLY.into()]) == 0
                && errno(libc::SYS_recvfrom, [-1, 0, 0]) == libc::EBADF
                && errno(libc::SYS_openat, [here, path, libc::O_RDWR.into()]) == libc::EPERM
                && errno(libc::SYS_openat, [here, path, (libc::O_CREAT | libc::O_WRONLY).into()])
                    == libc::EPERM
                && errno(libc::SYS_clone, [i64::from(libc::SIGCHLD), 0, 0]) == libc::EPERM
                && errno(libc::SYS_kill, [1, i64::from(libc::SIGKILL), 0]) == libc::EPERM
                && errno(libc::SYS_socketpair, [libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0])
                    == libc::EPERM
                && errno(libc::SYS_unlinkat, [here, path, 0]) == libc::EPERM
        }));
    }

    #[test]
    fn what_is_refused_fails_and_the_rest_does_not() {
        // In a thread of its own: it cannot be undone.
        std::thread::spawn(|| {
            confine().expect("it is confined");
            // SAFETY: numbers only; none of these calls does anything where it is refused.
            let errno = |call: i64, args: [i64; 3]| unsafe {
                let result = libc::syscall(call, args[0], args[1], args[2]);
                (result < 0).then(|| std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
            };
            for call in REFUSED {
                assert_eq!(errno(*call, [0, 0, 0]), Some(libc::EPERM), "{call}");
            }
            for (name, command) in BPF_REFUSED {
                assert_eq!(errno(libc::SYS_bpf, [*command as i64, 0, 0]), Some(libc::EPERM), "{name}");
            }
            for family in [libc::AF_INET, libc::AF_INET6, libc::AF_PACKET, libc::AF_VSOCK, libc::AF_UNIX] {
                let socket = [i64::from(family), i64::from(libc::SOCK_STREAM), 0];
                assert_eq!(errno(libc::SYS_socket, socket), Some(libc::EPERM), "{family}");
            }
            let of_kernel = [libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_SOCK_DIAG].map(i64::from);
            assert_eq!(errno(libc::SYS_socket, of_kernel), None);
            // SAFETY: an address that is not read where the call is refused; without one there is nothing to be read.
            let errno_of_sendto = |address: usize| unsafe {
                let result = libc::syscall(libc::SYS_sendto, -1, 0, 0, 0, address, 0);
                (result < 0).then(|| std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
            };
            assert_eq!(errno_of_sendto(1), Some(libc::EPERM));
            // Also one of which the lower half is zero.
            assert_eq!(errno_of_sendto(1 << 40), Some(libc::EPERM));
            assert_eq!(errno_of_sendto(0), Some(libc::EBADF));
            let (one, other) = std::os::unix::net::UnixDatagram::pair().expect("a pair");
            assert_eq!(one.send(b"x").and_then(|_| other.recv(&mut [0])).expect("what is connected"), 1);
            // Without the filter it would be EINVAL: a thread shares its signals' handlers.
            for flag in CLONE_REFUSED {
                let flags = i64::from(flag | libc::CLONE_THREAD);
                assert_eq!(errno(libc::SYS_clone, [flags, 0, 0]), Some(libc::EPERM), "{flag:#x}");
            }
            assert_eq!(errno(libc::SYS_clone3, [0, 0, 0]), Some(libc::ENOSYS));
            let (own, thread) = (i64::from(std::process::id()), rustix::thread::gettid());
            let parent = i64::from(std::os::unix::process::parent_id());
            assert_eq!(errno(libc::SYS_tgkill, [parent, parent, 0]), Some(libc::EPERM));
            assert_eq!(errno(libc::SYS_tgkill, [own, i64::from(thread.as_raw_nonzero().get()), 0]), None);
            assert!(std::process::Command::new("true").status().is_err());
            let status = std::fs::read_to_string("/proc/thread-self/status").expect("its own");
            assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
            let has = capabilities(None).expect("its own").permitted;
            let kept = KEPT.iter().fold(CapabilitySet::empty(), |all, (one, ..)| all | *one);
            assert!(kept.contains(has), "{has:?}");
            std::thread::spawn(|| {
                let status = std::fs::read_to_string("/proc/thread-self/status").expect("its own");
                assert!(status.contains("Seccomp:\t2"), "a thread it starts is confined as well: {status}");
            })
            .join()
            .expect("a thread starts");
        })
        .join()
        .expect("it holds");
    }
}
