//! How does a test hold a process as a debugger does?

/// A process that the calling thread traces and has stopped, until this value is dropped by the same thread.
#[derive(Debug)]
pub struct Traced(libc::pid_t);

impl Traced {
    /// Seizes and interrupts it. It stops some time later.
    pub fn begin(pid: u32) -> Self {
        let pid = libc::pid_t::try_from(pid).expect("a pid");
        // The type of a request differs between C libraries, and so each call is written out.
        // SAFETY: these requests take no pointers.
        check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) });
        // SAFETY: as above.
        check(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0) });
        Self(pid)
    }
}

/// Has a thread that waits in a call make another, and its result or negative error; then the thread goes on where it was.
#[cfg(target_arch = "x86_64")]
impl Traced {
    /// Numbers only: what they point to would be the thread's.
    pub fn call(&self, number: libc::c_long, args: [u64; 6]) -> i64 {
        let before = self.in_a_call();
        let mut registers = before;
        // It has entered the call by this instruction, `syscall`, which is two bytes long.
        registers.rip -= 2;
        (registers.rax, registers.orig_rax) = (number as u64, u64::MAX);
        [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9] = args;
        self.set(&registers);
        // SAFETY: as above.
        check(unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, self.0, 0, 0) });
        self.wait();
        let result = self.registers().rax as i64;
        self.set(&before);
        result
    }

    /// Waits until it has stopped in a call, which it is in most of the time; its registers.
    fn in_a_call(&self) -> libc::user_regs_struct {
        loop {
            self.wait();
            let registers = self.registers();
            // What it would be called by otherwise is none.
            if registers.orig_rax.cast_signed() >= 0 {
                return registers;
            }
            // SAFETY: as above.
            check(unsafe { libc::ptrace(libc::PTRACE_CONT, self.0, 0, 0) });
            std::thread::sleep(std::time::Duration::from_millis(1));
            // SAFETY: as above.
            check(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, self.0, 0, 0) });
        }
    }

    /// Waits until it has stopped.
    fn wait(&self) {
        let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: the value outlives the call. That it has stopped is not taken away, so that it can be asked again.
        let result = unsafe {
            libc::waitid(
                libc::P_PID,
                self.0 as libc::id_t,
                info.as_mut_ptr(),
                libc::WSTOPPED | libc::WNOWAIT | libc::__WALL,
            )
        };
        check(result.into());
    }

    fn registers(&self) -> libc::user_regs_struct {
        let mut registers = std::mem::MaybeUninit::<libc::user_regs_struct>::zeroed();
        // SAFETY: the value outlives the call, and zeros are a valid one.
        unsafe {
            check(libc::ptrace(libc::PTRACE_GETREGS, self.0, 0, registers.as_mut_ptr()));
            registers.assume_init()
        }
    }

    fn set(&self, registers: &libc::user_regs_struct) {
        // SAFETY: the value outlives the call.
        check(unsafe { libc::ptrace(libc::PTRACE_SETREGS, self.0, 0, std::ptr::from_ref(registers)) });
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // The process may have ended.
        // SAFETY: as above.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, 0, 0) };
    }
}

fn check(result: libc::c_long) {
    assert!(result == 0, "ptrace: {}", std::io::Error::last_os_error());
}
