//! The functions of the kernel that a thread sleeps in.

/// Functions that every sleep goes through: they say nothing.
const SCHEDULER: &[&str] = &["__schedule", "schedule", "schedule_timeout", "schedule_preempt_disabled"];
/// How a thread came into the kernel, and the last function that says nothing.
const ENTRIES: &[&str] = &["do_syscall", "x64_sys_call", "entry_", "ret_from_fork", "el0", "invoke_syscall"];

/// Where a thread sleeps in the kernel: the innermost function first, without those of the scheduler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelStack {
    functions: Vec<String>,
    lock: Option<KernelLock>,
}

/// A lock inside the kernel that a thread sleeps on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelLock {
    /// The thread that holds it; `None`: several share it, or the kernel does not say.
    pub holder: Option<u32>,
}

impl KernelStack {
    /// From lines `function+0x1/0x2 [module]`, with or without the `[<0>]` before them that `/proc/PID/stack` has, or from the one
    /// name that `/proc/PID/wchan` has.
    pub fn parse(text: &str) -> Self {
        let function = |line: &str| {
            let line = line.trim().strip_prefix("[<0>] ").unwrap_or(line.trim());
            let name = line.split(['+', ' ']).next()?;
            // Parts that the compiler has split off bear their function's name: pipe_read.part.0
            let name = name.split('.').next()?;
            (!name.is_empty() && !name.starts_with("0x") && name != "0").then(|| name.to_owned())
        };
        let says = |name: &String| {
            !SCHEDULER.contains(&name.as_str()) && !ENTRIES.iter().any(|begin| name.starts_with(begin))
        };
        Self { functions: text.lines().filter_map(function).filter(says).collect(), lock: None }
    }

    /// With the lock that is slept on, if the kernel says so.
    pub fn with_lock(self, lock: Option<KernelLock>) -> Self {
        Self { lock, ..self }
    }

    /// The lock that is slept on; `None`: none, or the kernel does not say.
    pub fn lock(&self) -> Option<KernelLock> {
        self.lock
    }

    /// The functions, the innermost first.
    pub fn functions(&self) -> &[String] {
        &self.functions
    }

    /// Whether one of the functions has a name that begins so.
    pub fn has(&self, begin: &str) -> bool {
        self.functions.iter().any(|name| name.starts_with(begin))
    }

    /// Whether the kernel brings in a page of the thread's memory, whatever call that is for.
    pub fn is_page_fault(&self) -> bool {
        ["handle_mm_fault", "__handle_mm_fault", "faultin_page", "fixup_user_fault"]
            .iter()
            .any(|begin| self.has(begin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_what_lies_between_the_call_and_the_sleep() {
        let stack = "[<0>] __schedule+0x1/0x2\n[<0>] request_wait_answer+0x5b/0x70 [fuse]\n\
                     [<0>] fuse_lookup.part.0+0x17c/0x190 [fuse]\n[<0>] do_syscall_64+0x5a/0x80\n\
                     [<0>] entry_SYSCALL_64_after_hwframe+0x6e/0xd8\n";
        let parsed = KernelStack::parse(stack);
        assert_eq!(parsed.functions(), ["request_wait_answer", "fuse_lookup"]);
        assert_eq!(
            KernelStack::parse("pipe_read"),
            KernelStack::parse("schedule+0x1/0x2\npipe_read+0x3/0x4\n")
        );
        assert_eq!(KernelStack::parse("0"), KernelStack::default());
        assert_eq!(KernelStack::parse("0xffffffff81000000\n"), KernelStack::default());
        assert!(parsed.has("fuse_") && !parsed.has("nfs_") && !parsed.is_page_fault());
        assert!(KernelStack::parse("folio_wait_bit\nfilemap_fault\nhandle_mm_fault").is_page_fault());
    }
}
