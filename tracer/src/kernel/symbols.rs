//! Which function an address is: needed only to name the call that `restart_syscall` goes on with.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader},
};

use crate::model::syscalls::Syscall;

/// The continuations a restart block can have, and the call each belongs to.
const RESTARTS: &[(&str, Syscall)] = &[
    ("do_restart_poll", Syscall::Poll),
    ("hrtimer_nanosleep_restart", Syscall::Nanosleep),
    ("posix_cpu_nsleep_restart", Syscall::ClockNanosleep),
    ("alarm_timer_nsleep_restart", Syscall::ClockNanosleep),
    ("futex_wait_restart", Syscall::Futex),
    // A futex wait that goes on takes its own continuation back first (kernel/futex/waitwake.c), as no other call does.
    ("do_no_restart_syscall", Syscall::Futex),
];

/// Addresses of the functions in [`RESTARTS`].
#[derive(Default)]
pub struct Restarts(HashMap<u64, Syscall>);

impl Restarts {
    /// Reads `/proc/kallsyms`; empty where the kernel hides its addresses.
    pub fn read() -> Self {
        File::open("/proc/kallsyms")
            .map_or_else(|_| Self::default(), |file| Self::of(BufReader::with_capacity(1 << 16, file)))
    }

    /// Those in a table of symbols.
    pub fn of(mut reader: impl BufRead) -> Self {
        let mut found = HashMap::new();
        let mut line = String::new();
        while matches!(reader.read_line(&mut line), Ok(1..)) {
            let mut words = line.split_ascii_whitespace();
            if let (Some(address), Some(_), Some(symbol)) = (words.next(), words.next(), words.next())
                && let Some((_, call)) = RESTARTS.iter().find(|(name, _)| *name == symbol)
                && let Ok(address @ 1..) = u64::from_str_radix(address, 16)
            {
                found.insert(address, *call);
            }
            line.clear();
        }
        Self(found)
    }

    /// The call that goes on at `address`.
    pub fn call(&self, address: u64) -> Option<Syscall> {
        self.0.get(&address).copied()
    }
}
