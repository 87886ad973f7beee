//! What readers, and the process that starts and ends them, may do: a few calls, and nothing else.

use anyhow::{Context, Result, anyhow};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
    set_no_new_privs,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::util::seccomp::{NAMESPACES, Rules, without_clone3};

/// What reading takes: the rights of readers, and of what starts them. To look into `/proc/PID` of other users, at descriptors and
/// the memory of a poll, and to see where their descriptors lead, through folders that are closed to it.
const OF_READERS: CapabilitySet = CapabilitySet::SYS_PTRACE.union(CapabilitySet::DAC_READ_SEARCH);

/// All that a reader does, and why. Everything else fails with EPERM.
const READS: &[(i64, &str)] = &[
    (libc::SYS_openat, "to open what is asked for; never for writing: see `for_reading`"),
    (libc::SYS_read, "to read it"),
    (libc::SYS_pread64, "to read the symbols of a program"),
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
        seccompiler::apply_filter(&self.0).context("cannot install the filter for system calls")
    }
}

/// Makes the filter of a reader.
pub fn reader_filter() -> Result<ReaderFilter> {
    allowed(READS.iter()).map(ReaderFilter)
}

/// Confines the process that starts and ends readers, and so all of them.
pub fn supervisor() -> Result<()> {
    set_no_new_privs(true).context("cannot set no_new_privs")?;
    let keeps = capabilities(None)?.permitted & OF_READERS;
    let _ = clear_ambient_capability_set();
    let sets = CapabilitySets { effective: keeps, permitted: keeps, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).context("cannot give up capabilities")?;
    for program in [without_clone3()?, allowed(READS.iter().chain(SUPERVISES))?] {
        seccompiler::apply_filter(&program).context("cannot install the filter for system calls")?;
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
    let namespaces = NAMESPACES.iter().fold(0, |all, flag| all | *flag as u32);
    let none =
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(namespaces.into()), 0)?;
    Ok(vec![SeccompRule::new(vec![none])?])
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
}
