//! What the agent gives up for good once its kernel programs are attached and its sockets bound: rights it does not need any
//! more, and system calls that only somebody who has taken it over would make.

use anyhow::{Context, Result};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use seccompiler::{BpfProgram, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

use crate::util::seccomp::{NAMESPACES, Rules, program, without_clone3};

/// What is kept, and what it is for. Whatever is read of other processes, its readers read: see `procfs::confine`.
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
    set_no_new_privs(true).context("cannot set no_new_privs")?;
    drop_capabilities().context("cannot give up capabilities")?;
    for program in [without_clone3(), filter()] {
        let program = program.context("cannot make a filter for system calls")?;
        seccompiler::apply_filter(&program).context("cannot install the filter for system calls")?;
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

fn filter() -> Result<BpfProgram> {
    let mut rules: Rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let when = |operator, value| SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, value);
    let rule = |operator, value| Ok(SeccompRule::new(vec![when(operator, value)?])?);
    let of_bpf = BPF_REFUSED.iter().map(|(_, command)| rule(SeccompCmpOp::Eq, *command));
    rules.insert(libc::SYS_bpf, of_bpf.collect::<Result<_>>()?);
    let of_clone = NAMESPACES.iter().map(|flag| {
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

#[cfg(test)]
mod tests {
    use super::*;

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
            for flag in NAMESPACES {
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
