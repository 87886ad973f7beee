//! The text of `/proc/PID/stat`, `status`, `syscall` and `auxv`. Pure.

use crate::{model::syscalls::CallTable, util::clock, util::linux::PF_KTHREAD};

/// What `/proc/PID/stat` says of a thread.
pub struct Stat {
    /// Its name.
    pub comm: String,
    /// Its state's letter.
    pub state: char,
    /// When it started, clock ticks since boot.
    pub start_ticks: u64,
    /// Process id of its parent.
    pub parent: u32,
    /// The CPU it last ran on.
    pub cpu: usize,
    /// How long it has run, in user mode and in the kernel, clock ticks.
    pub cpu_ticks: u64,
    /// The same of its children that have ended and been waited for, theirs included.
    pub children_ticks: u64,
    /// How many threads its process has, those that have ended and are not yet waited for included.
    pub threads: u32,
    /// `PF_*` (`flags` of a task, include/linux/sched.h).
    pub flags: u32,
}

impl Stat {
    /// When it started, nanoseconds of `CLOCK_BOOTTIME`, rounded down to a tick.
    pub fn start_ns(&self) -> u64 {
        let hz = u128::from(rustix::param::clock_ticks_per_second().max(1));
        (u128::from(self.start_ticks) * 1_000_000_000 / hz) as u64
    }
}

impl Stat {
    /// Whether it is the kernel's own.
    pub fn is_kernel_thread(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }

    /// Whether a process still makes calls: its first thread may have ended before others.
    pub fn lives(&self) -> bool {
        self.thread_lives() || self.threads > 1
    }

    /// Whether the thread itself still does.
    pub fn thread_lives(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

/// Whether a start time of the kernel's is this one of `/proc`, which shows ticks, rounded down.
pub fn same_start(start_ns: u64, stat: &Stat) -> bool {
    clock::ticks(start_ns) == stat.start_ticks
}

/// Fields of Documentation/filesystems/proc.rst; the name may itself have blanks and parentheses.
pub fn parse_stat(text: &str) -> Option<Stat> {
    let (open, close) = (text.find('(')?, text.rfind(')')?);
    let fields: Vec<&str> = text.get(close + 1..)?.split_ascii_whitespace().collect();
    // In user mode and in the kernel.
    let sum = |at: usize| {
        Some(fields.get(at)?.parse::<u64>().ok()?.saturating_add(fields.get(at + 1)?.parse().ok()?))
    };
    Some(Stat {
        comm: text.get(open + 1..close)?.to_owned(),
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        flags: fields.get(6)?.parse().ok()?,
        cpu_ticks: sum(11)?,
        children_ticks: sum(13)?,
        threads: fields.get(17)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
        cpu: fields.get(36)?.parse().ok()?,
    })
}

/// The name in a file `comm`. Blanks at its end are its own.
pub fn comm(text: &str) -> String {
    text.strip_suffix('\n').unwrap_or(text).to_owned()
}

/// Number and arguments of `NR ARG0 … ARG5 SP PC`, or `-1 SP PC` outside a call, or `running`.
pub fn call(text: &str) -> Option<(i32, [u64; 6])> {
    let mut words = text.split_ascii_whitespace();
    let number = words.next()?.parse().ok()?;
    let mut args = [0; 6];
    if number >= 0 {
        for arg in &mut args {
            *arg = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
        }
    }
    Some((number, args))
}

/// The stack pointer in that text.
pub fn stack_pointer(text: &str) -> Option<u64> {
    let pointer = text.split_ascii_whitespace().rev().nth(1)?;
    u64::from_str_radix(pointer.strip_prefix("0x")?, 16).ok()
}

/// The stack pointer and the program counter in that text, which end it.
pub fn pointers(text: &str) -> Option<(u64, u64)> {
    let program = text.split_ascii_whitespace().next_back()?;
    let program = u64::from_str_radix(program.strip_prefix("0x")?, 16).ok()?;
    Some((stack_pointer(text)?, program))
}

/// Real user and context switches of a `status` file.
pub fn status(text: &str) -> Option<(u32, u64)> {
    let value =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next();
    let switches = value("voluntary_ctxt_switches:")?.parse::<u64>().ok()?
        + value("nonvoluntary_ctxt_switches:")?.parse::<u64>().ok()?;
    Some((value("Uid:")?.parse().ok()?, switches))
}

/// Which table the numbers of a process's calls are of, by the auxiliary vector its program was started with: pairs of
/// words, as wide as the program's own.
pub fn table(auxv: &[u8]) -> CallTable {
    let word =
        |at: usize| auxv.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes);
    match word(0) {
        // A key, which is small; in narrow pairs its upper half is the value.
        Some(first) if first > u64::from(u32::MAX) => CallTable::Compat,
        _ => CallTable::Native,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_confuse_stat() {
        let text = "12 (a) b (c) S 1 12 12 0 -1 4194304 0 0 0 0 3 4 0 0 20 0 1 0 777 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 17 3 0 0";
        let stat = parse_stat(text).expect("parses");
        assert_eq!((stat.comm.as_str(), stat.state, stat.start_ticks), ("a) b (c", 'S', 777));
        assert_eq!((stat.parent, stat.threads, stat.cpu, stat.cpu_ticks), (1, 1, 3, 7));
        assert!(!stat.is_kernel_thread());
        assert!(parse_stat("12 (a").is_none());
        assert!(parse_stat("").is_none());
    }

    #[test]
    fn calls_page_faults_and_running_threads_differ() {
        assert_eq!(call("0 0x3 0x7f 0x1 0x0 0x0 0x0 0x7ffd 0x7f12"), Some((0, [3, 0x7f, 1, 0, 0, 0])));
        assert_eq!(call("-1 0x7ffd 0x7f12"), Some((-1, [0; 6])));
        assert_eq!(call("running"), None);
        assert_eq!(call("0 0x3"), None);
        assert_eq!(stack_pointer("202 0x1 0x2 0x0 0x0 0x0 0x0 0x7ffd 0x7f12"), Some(0x7ffd));
        assert_eq!(stack_pointer("-1 0x7ffd 0x7f12"), Some(0x7ffd));
        assert_eq!(stack_pointer("running"), None);
    }

    #[test]
    fn the_width_of_the_first_pair_tells_the_table() {
        let wide: Vec<u8> = [33u64, 0x7fff_0000_0000].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let narrow: Vec<u8> =
            [32u32, 0xf7f0_0000, 33, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(
            (table(&wide), table(&narrow), table(&[])),
            (CallTable::Native, CallTable::Compat, CallTable::Native)
        );
    }
}
