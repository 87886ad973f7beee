//! Signals of `tracer run`: they wake it and do nothing else, as what a terminal sends also reaches the command, which decides.

use std::{
    mem::MaybeUninit, os::unix::process::CommandExt, process::Command, sync::OnceLock, time::Duration,
};

use rustix::process::Signal;

/// Those that wake it.
const WAKING: [i32; 5] = [libc::SIGCHLD, libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT];

fn waking() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: it is made empty before anything is added, and valid signals are.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in WAKING {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// What was kept before.
static BEFORE: OnceLock<libc::sigset_t> = OnceLock::new();

/// Keeps them until they are asked for, in this process and those that it forks from now on.
pub fn keep() {
    let (set, mut before) = (waking(), MaybeUninit::uninit());
    // SAFETY: a set, and room for one, that live through the call.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, before.as_mut_ptr()) };
    if result == 0 {
        // SAFETY: the call has written it.
        let _ = BEFORE.set(unsafe { before.assume_init() });
    }
}

/// Has a command get them as it would without us.
pub fn as_before(command: &mut Command) -> &mut Command {
    let Some(before) = BEFORE.get().copied() else { return command };
    let restore = move || {
        // SAFETY: a set of this closure's own; the call may be made after a fork, and cannot fail with these values.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
        Ok(())
    };
    // SAFETY: it makes one system call and touches nothing else.
    unsafe { command.pre_exec(restore) }
}

/// A signal that has come.
#[derive(Clone, Copy, Debug)]
pub struct Arrived {
    /// Which.
    pub signal: Signal,
    /// Somebody sent it to this process, to be passed on: not the kernel for a terminal, which sends it to the command as well, and not
    /// for a child.
    pub is_sent: bool,
}

/// The next of them, if one comes in this time.
pub fn wait(at_most: Duration) -> Option<Arrived> {
    let set = waking();
    let time = libc::timespec {
        tv_sec: at_most.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: at_most.subsec_nanos().into(),
    };
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: the set, the time and room for what there is to know of the signal live through the call.
    let signal = unsafe { libc::sigtimedwait(&raw const set, info.as_mut_ptr(), &raw const time) };
    let signal = Signal::from_named_raw(signal)?;
    // SAFETY: zeroes are a value of this type, and the call has written another.
    let code = unsafe { info.assume_init() }.si_code;
    Some(Arrived { signal, is_sent: signal != Signal::CHILD && code != libc::SI_KERNEL })
}
