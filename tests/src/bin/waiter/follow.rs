//! Which role tells what paths another process names to the kernel? It follows each of its threads with ptrace, for as long as that
//! lives.

use std::collections::BTreeSet;
use std::fs;
use std::io::Error;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::Call;
use crate::report::{Report, print};

/// A call that was made: the thread's name, the call's number, and the path, absolute where a directory's descriptor came with it;
/// empty for calls on another's memory.
type Named = (String, i64, PathBuf);

/// How a call takes a path.
#[derive(Clone, Copy)]
enum Takes {
    /// By this argument.
    Path(usize),
    /// By a descriptor of a directory in one argument, and the rest in the next.
    At(usize),
    /// None: it reads another process.
    Process,
}

/// Every call that takes a path or reads another process, whatever the architecture.
const CALLS: &[(i64, Takes)] = &[
    (libc::SYS_openat, Takes::At(0)),
    (libc::SYS_openat2, Takes::At(0)),
    (libc::SYS_newfstatat, Takes::At(0)),
    (libc::SYS_statx, Takes::At(0)),
    (libc::SYS_readlinkat, Takes::At(0)),
    (libc::SYS_faccessat, Takes::At(0)),
    (libc::SYS_faccessat2, Takes::At(0)),
    (libc::SYS_execveat, Takes::At(0)),
    (libc::SYS_unlinkat, Takes::At(0)),
    (libc::SYS_mkdirat, Takes::At(0)),
    (libc::SYS_mknodat, Takes::At(0)),
    (libc::SYS_fchmodat, Takes::At(0)),
    (libc::SYS_fchownat, Takes::At(0)),
    (libc::SYS_renameat2, Takes::At(0)),
    (libc::SYS_renameat2, Takes::At(2)),
    (libc::SYS_linkat, Takes::At(0)),
    (libc::SYS_symlinkat, Takes::At(1)),
    (libc::SYS_utimensat, Takes::At(0)),
    (libc::SYS_name_to_handle_at, Takes::At(0)),
    (libc::SYS_open_tree, Takes::At(0)),
    (libc::SYS_inotify_add_watch, Takes::Path(1)),
    (libc::SYS_fanotify_mark, Takes::At(3)),
    (libc::SYS_statfs, Takes::Path(0)),
    (libc::SYS_truncate, Takes::Path(0)),
    (libc::SYS_chdir, Takes::Path(0)),
    (libc::SYS_chroot, Takes::Path(0)),
    (libc::SYS_execve, Takes::Path(0)),
    (libc::SYS_getxattr, Takes::Path(0)),
    (libc::SYS_lgetxattr, Takes::Path(0)),
    (libc::SYS_listxattr, Takes::Path(0)),
    (libc::SYS_umount2, Takes::Path(0)),
    (libc::SYS_mount, Takes::Path(1)),
    (libc::SYS_swapon, Takes::Path(0)),
    (libc::SYS_quotactl, Takes::Path(1)),
    (libc::SYS_acct, Takes::Path(0)),
    (libc::SYS_process_vm_readv, Takes::Process),
    (libc::SYS_process_vm_writev, Takes::Process),
    (libc::SYS_ptrace, Takes::Process),
    (libc::SYS_pidfd_getfd, Takes::Process),
    (libc::SYS_kcmp, Takes::Process),
];

/// Those that only x86 has.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[(i64, Takes)] = &[
    (libc::SYS_open, Takes::Path(0)),
    (libc::SYS_creat, Takes::Path(0)),
    (libc::SYS_stat, Takes::Path(0)),
    (libc::SYS_lstat, Takes::Path(0)),
    (libc::SYS_access, Takes::Path(0)),
    (libc::SYS_readlink, Takes::Path(0)),
    (libc::SYS_unlink, Takes::Path(0)),
    (libc::SYS_mkdir, Takes::Path(0)),
    (libc::SYS_rmdir, Takes::Path(0)),
    (libc::SYS_mknod, Takes::Path(0)),
    (libc::SYS_chmod, Takes::Path(0)),
    (libc::SYS_chown, Takes::Path(0)),
    (libc::SYS_lchown, Takes::Path(0)),
    (libc::SYS_rename, Takes::Path(0)),
    (libc::SYS_rename, Takes::Path(1)),
    (libc::SYS_renameat, Takes::At(0)),
    (libc::SYS_renameat, Takes::At(2)),
    (libc::SYS_link, Takes::Path(0)),
    (libc::SYS_symlink, Takes::Path(1)),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[(i64, Takes)] = &[];

/// `struct ptrace_syscall_info` of include/uapi/linux/ptrace.h (5.3), as it is at a call's entry.
#[repr(C)]
struct Info {
    op: u8,
    pad: [u8; 3],
    arch: u32,
    instruction_pointer: u64,
    stack_pointer: u64,
    number: u64,
    arguments: [u64; 6],
    rest: u64,
}

const PTRACE_GET_SYSCALL_INFO: libc::c_int = 0x420e;
const ENTRY: u8 = 1;
/// A stop is a call's, by PTRACE_O_TRACESYSGOOD.
const OF_CALL: i32 = libc::SIGTRAP | 0x80;

/// `follow PID`: all threads of the process, and those it starts, but not its children. Each call is told once, when it is first
/// made, with whether its path is about the process itself or about one that it has started.
pub(crate) fn follow(call: &Call) {
    let pid = call.count() as u32;
    let threads = seize_all(pid);
    assert!(threads > 0, "pid {pid} has no threads");
    Report::new(call.role, "wait4").with("threads", threads).print();
    let mut told = BTreeSet::new();
    until_ended(pid, |named| {
        if told.insert(named.clone()) {
            let (comm, call, path) = named;
            let own = process_of(&path).is_some_and(|process| descends(process, pid));
            print(&json!({ "comm": comm, "call": call, "path": path.to_string_lossy(), "own": own }));
        }
    });
    print(&json!({ "event": "ended" }));
    crate::sys::rest()
}

/// Whose file of `/proc` it is.
fn process_of(path: &Path) -> Option<u32> {
    path.strip_prefix("/proc").ok()?.iter().next()?.to_str()?.parse().ok()
}

/// Whether a process is another, its child, or a child's child.
fn descends(process: u32, from: u32) -> bool {
    let parent = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
    };
    std::iter::successors(Some(process), |pid| parent(*pid)).any(|pid| pid == from)
}

fn ptrace(request: libc::c_int, tid: i32, address: usize, data: usize) -> i64 {
    // SAFETY: the caller's addresses are those of values that outlive the call, or numbers.
    unsafe { libc::ptrace(request as _, tid, address, data) as i64 }
}

/// How many threads are followed: all.
fn seize_all(pid: u32) -> usize {
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
    let mut count = 0;
    // Once more if there are new ones: threads that were started before their maker was followed.
    loop {
        let before = count;
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let tid = task.file_name().to_str().and_then(|tid| tid.parse().ok()).expect("a number");
            if ptrace(libc::PTRACE_SEIZE as _, tid, 0, options as usize) == 0 {
                assert_eq!(ptrace(libc::PTRACE_INTERRUPT as _, tid, 0, 0), 0, "{}", Error::last_os_error());
                count += 1;
            }
        }
        if count == before {
            return count;
        }
    }
}

/// Lets each of them go on from call to call, until none is left.
fn until_ended(pid: u32, mut tell: impl FnMut(Named)) {
    loop {
        let mut status = 0;
        // SAFETY: the status outlives the call.
        let tid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) };
        if tid < 0 {
            return;
        }
        if !libc::WIFSTOPPED(status) {
            continue;
        }
        let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
        if signal == OF_CALL {
            call_of(pid, tid).into_iter().for_each(&mut tell);
        }
        // What stopped it for our sake is none of the signals that it is to get.
        let for_it = signal != OF_CALL && event == 0;
        // It may have been killed meanwhile.
        ptrace(libc::PTRACE_SYSCALL as _, tid, 0, if for_it { signal as usize } else { 0 });
    }
}

/// The paths of a call that is about to be made.
fn call_of(pid: u32, tid: i32) -> Vec<Named> {
    let mut info = MaybeUninit::<Info>::zeroed();
    let size = size_of::<Info>();
    let address = info.as_mut_ptr().expose_provenance();
    if ptrace(PTRACE_GET_SYSCALL_INFO, tid, size, address) <= 0 {
        return Vec::new();
    }
    // SAFETY: all its fields are numbers, which were zero at first.
    let info = unsafe { info.assume_init() };
    if info.op != ENTRY {
        return Vec::new();
    }
    let number = info.number.cast_signed();
    let takes = CALLS.iter().chain(OLD_CALLS).filter(|(call, _)| *call == number);
    let comm = || fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm")).unwrap_or_default();
    let named = takes.filter_map(|(call, takes)| {
        let path = match *takes {
            Takes::Process => PathBuf::new(),
            Takes::Path(at) => path_at(tid, info.arguments[at]),
            Takes::At(at) => {
                let path = path_at(tid, info.arguments[at + 1]);
                // It is about the descriptor itself.
                if path.as_os_str().is_empty() {
                    return None;
                }
                let directory = info.arguments[at] as u32 as i32;
                let base = if directory == libc::AT_FDCWD { "cwd".into() } else { format!("fd/{directory}") };
                match path.is_absolute() {
                    true => path,
                    false => fs::read_link(format!("/proc/{pid}/{base}")).unwrap_or_default().join(path),
                }
            }
        };
        Some((comm().trim().to_owned(), *call, path))
    });
    named.collect()
}

/// The text at an address of a thread that stands still.
fn path_at(tid: i32, address: u64) -> PathBuf {
    const PAGE: u64 = 4096;
    let Ok(memory) = fs::File::open(format!("/proc/{tid}/mem")) else { return PathBuf::new() };
    let mut text = Vec::new();
    let mut at = address;
    while text.len() < 4096 {
        // No further than to the end of a page: the next one may not be there.
        let mut bytes = vec![0; (PAGE - at % PAGE) as usize];
        let Ok(length @ 1..) = memory.read_at(&mut bytes, at) else { break };
        if let Some(end) = bytes[..length].iter().position(|byte| *byte == 0) {
            text.extend(&bytes[..end]);
            break;
        }
        text.extend(&bytes[..length]);
        at += length as u64;
    }
    PathBuf::from(String::from_utf8_lossy(&text).into_owned())
}
