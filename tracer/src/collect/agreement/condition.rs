//! What the programs say of a thread's condition: how it is scheduled, what is due to it, whether it is stopped or the
//! kernel's own. Processes in each of these conditions are looked at.

use std::{mem, ptr, thread};

use anyhow::{Context, Result};
use hashbrown::HashMap;
use tracer_ebpf::abi::{
    PF_EXITING, THREAD_EXITING, THREAD_FAIR, THREAD_PTRACED, THREAD_SIGNALLED, THREAD_STOPPED, ThreadRecord,
};

use super::{ComparedValue, SETTLE_TIME, child::Child, value};
use crate::{
    collect::bpf::Bpf,
    kernel::record::Record,
    procfs::{Reads, by_pid},
};

/// A condition, and what a process does to be in it.
const CONDITIONS: [(&str, fn()); 6] = [
    ("signals blocked", || held_back(|| ())),
    ("a signal to its process", || held_back(|| send(libc::SYS_kill))),
    ("a signal to its thread", || held_back(|| send(libc::SYS_tkill))),
    // Whoever may not be that stays what it was, and /proc says so.
    ("real-time", || scheduled(libc::SCHED_RR, 1)),
    ("batch", || scheduled(libc::SCHED_BATCH, 0)),
    // SAFETY: a number.
    ("stopped", || unsafe {
        libc::raise(libc::SIGSTOP);
    }),
];

/// Looks at a process in each condition both ways.
pub fn values(bpf: &mut Bpf, values: &mut Vec<ComparedValue>) -> Result<()> {
    let mut children = Vec::new();
    for (name, first) in CONDITIONS {
        children.push((name, Child::after(first)?));
    }
    thread::sleep(SETTLE_TIME);
    let mut records: HashMap<u32, ThreadRecord> = HashMap::new();
    bpf.kernel.pass(|_, record| {
        if let Record::Thread(record, _) = record {
            records.insert(record.tid, record);
        }
    })?;
    for (name, child) in &children {
        let record =
            records.get(&child.pid()).with_context(|| format!("the snapshot lacks a process: {name}"))?;
        of_condition(name, record, values)?;
    }
    let kernels = |record: &&ThreadRecord| {
        Reads::new().stat(by_pid(record.tid)).is_some_and(|stat| stat.is_kernel_thread())
    };
    value(values, "the kernel's threads among those that wait", records.values().filter(kernels).count(), 0);
    Ok(())
}

fn of_condition(name: &str, record: &ThreadRecord, values: &mut Vec<ComparedValue>) -> Result<()> {
    let [status, stat] = Reads::new().texts(by_pid(record.tid), ["status", "stat"]);
    let status = status.context("no status")?;
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    let pending = |name: &str| u64::from_str_radix(field(name), 16).unwrap_or_default();
    let text = stat.context("no stat")?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    // Documentation/filesystems/proc.rst, without the two before the name's end.
    let number =
        |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).context("no such field");
    let (flags, policy) = (number(6)?, number(38)?);
    let fair = [libc::SCHED_OTHER, libc::SCHED_BATCH, libc::SCHED_IDLE];
    let shown = [
        ("a signal is pending", THREAD_SIGNALLED, pending("SigPnd:") | pending("ShdPnd:") != 0),
        (
            "its class is the fair one",
            THREAD_FAIR,
            fair.iter().any(|fair| u64::from(fair.unsigned_abs()) == policy),
        ),
        ("it is on its way out", THREAD_EXITING, flags & u64::from(PF_EXITING) != 0),
        ("it is stopped", THREAD_STOPPED, field("State:").starts_with('T')),
        ("it is traced", THREAD_PTRACED, field("State:").starts_with('t')),
    ];
    for (what, bit, shown) in shown {
        value(values, &format!("{name}: {what}"), record.flags & bit != 0, shown);
    }
    Ok(())
}

/// Keeps the signal from being delivered, and sends it.
fn held_back(send: fn()) {
    // SAFETY: the set is initialised before it is used, and outlives the call.
    unsafe {
        let mut set = mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGUSR1);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut());
    }
    send();
}

/// To itself: as a process or as a thread, which is what the C library's functions hide.
fn send(call: libc::c_long) {
    // SAFETY: numbers only; the only thread of a process has its id.
    unsafe {
        libc::syscall(call, libc::getpid(), libc::SIGUSR1);
    }
}

fn scheduled(policy: libc::c_int, priority: libc::c_int) {
    // SAFETY: the kernel's own call, which takes the address of one number; musl's function refuses.
    unsafe {
        libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const priority);
    }
}
