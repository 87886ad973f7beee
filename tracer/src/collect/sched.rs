//! Since when does a thread sleep? `/proc/TID/sched` has the moment it last ran, on the clock of the CPU it ran on, where
//! the kernel shows it (CONFIG_SCHED_DEBUG, always since Linux 6.15). Those clocks leave out interrupts and what a
//! hypervisor took, so an age by them is a least value, and CPUs differ: each is read on the CPU itself.

use std::{collections::HashMap, mem, time::Duration};

use crate::{model::wait::ProcessId, procfs::Reads};

/// The present moment on the CPUs' clocks, each read when it is first needed.
#[derive(Default)]
pub struct CpuClocks(HashMap<usize, Option<Duration>>);

impl CpuClocks {
    /// Whether this kernel shows when a thread last ran.
    pub fn work() -> bool {
        own_last_ran().is_some()
    }

    /// How long ago a sleeping thread last ran, on this CPU. `None`: the kernel has moved it to another CPU in its sleep, and
    /// forgotten.
    pub fn since_last_ran(
        &mut self,
        process: ProcessId,
        tid: u32,
        cpu: usize,
        reads: &mut Reads,
    ) -> Option<Duration> {
        let now = (*self.0.entry(cpu).or_insert_with(|| now_on(cpu)))?;
        let last = parse(&reads.text(process, &format!("task/{tid}/sched"))?)?;
        Some(now.saturating_sub(last))
    }
}

/// A CPU's clock; `None` where this process may not run on it.
fn now_on(cpu: usize) -> Option<Duration> {
    // SAFETY: an all-zero set is an empty one; both sets outlive the calls; a CPU beyond the set's size is refused first.
    unsafe {
        let (mut before, mut only): (libc::cpu_set_t, libc::cpu_set_t) = (mem::zeroed(), mem::zeroed());
        let size = size_of::<libc::cpu_set_t>();
        if cpu >= size * 8 || libc::sched_getaffinity(0, size, &raw mut before) != 0 {
            return None;
        }
        libc::CPU_SET(cpu, &mut only);
        if libc::sched_setaffinity(0, size, &raw const only) != 0 {
            return None;
        }
        // Getting the CPU back is the last time it ran: now.
        std::thread::sleep(Duration::from_micros(20));
        let now = own_last_ran();
        libc::sched_setaffinity(0, size, &raw const before);
        now
    }
}

/// When the present thread last ran. What the kernel says of it waits for nobody.
fn own_last_ran() -> Option<Duration> {
    let text = std::fs::read("/proc/thread-self/sched").ok()?;
    parse(&String::from_utf8_lossy(&text))
}

/// `se.exec_start : 40019856.037272`, milliseconds.
pub fn parse(text: &str) -> Option<Duration> {
    // The last such line: the first is the thread's name, whatever it is.
    let line = text.lines().rev().find_map(|line| line.strip_prefix("se.exec_start"))?;
    let (whole, fraction) = line.split_once(':')?.1.trim().split_once('.')?;
    let nanoseconds: u64 = fraction.parse().ok().filter(|_| fraction.len() == 6)?;
    let time = Duration::from_millis(whole.parse().ok()?) + Duration::from_nanos(nanoseconds);
    (!time.is_zero()).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_have_six_decimals() {
        let text =
            "cat (1, #threads: 1)\n---\nse.exec_start       :      40016840.022074\nse.vruntime : 1.0\n";
        assert_eq!(parse(text), Some(Duration::from_nanos(40_016_840_022_074)));
        let evil =
            format!("\nse.exec_start (1, #threads: 1)\n---\n{}", &text[text.find("se.").expect("there")..]);
        assert_eq!(parse(&evil), parse(text));
        assert_eq!(parse("se.exec_start : x.1"), None);
        assert_eq!(parse("se.exec_start : 0.000000"), None, "it was moved");
        assert_eq!(parse(""), None);
    }
}
