//! Waits and calls that have ended: the kernel programs' records of them, in the model's terms.

use std::{
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::Result;
use compact_str::CompactString;
use tracer_ebpf::abi::{
    self, AnswerKey, CALL_CLOCK, CALL_COMPAT, Counter, THREAD_EXITING, THREAD_SIGNALLED, WaitKey,
};

use super::{
    bpf::{Bpf, restarted, syscall, text},
    records::open_file,
};
use crate::{
    kernel::{histograms::Counted, symbols::Restarts},
    model::{
        file::OpenFile,
        histogram::{BUCKETS, FIRST_BUCKET_LOG2, WaitHistogram},
        syscalls::{CallTable, Syscall},
        wait::{Call, EndedSleep, FdState, ProcessId, Sleep, SocketFacts, ThreadId, Wait},
    },
    util::clock::Now,
};

const _: () = assert!(abi::BUCKETS == BUCKETS && abi::FIRST_BUCKET_LOG2 == FIRST_BUCKET_LOG2);

/// Ended waits of a process in one call on one file.
#[derive(Clone, Debug)]
pub struct EndedWaits {
    /// Whose.
    pub process: ProcessId,
    /// Its name when the first of them ended.
    pub comm: CompactString,
    /// The call.
    pub syscall: Syscall,
    /// The file behind the call's fd, if it has one.
    pub file: Option<OpenFile>,
    /// How many, and how long they took.
    pub histogram: WaitHistogram,
}

/// A call that has returned.
#[derive(Clone, Debug)]
pub struct ReturnedCall {
    /// The wait in it: from its entry to its return.
    pub wait: Wait,
    /// What it returned, as in the register: an error is its number, negative.
    pub result: i64,
    /// The beginning of what its arguments point to, as it was then: a socket's address, or a set of fds. Empty where nothing was
    /// kept.
    pub pointed: Vec<u8>,
}

/// Answers of a service that a program has read.
#[derive(Clone, Debug)]
pub struct Answers {
    /// Name of the process.
    pub comm: CompactString,
    /// The service's address.
    pub remote: SocketAddr,
    /// How many, and how long they took from the last byte of the question to the first of the answer.
    pub histogram: WaitHistogram,
}

/// What the kernel programs have counted since the last time.
#[derive(Clone, Debug)]
pub enum Drained {
    /// Waits.
    Waits(EndedWaits),
    /// Answers.
    Answers(Answers),
}

impl Bpf {
    /// Takes all ended waits and answers counted since the last call.
    pub fn drain_ended(&mut self, mut each: impl FnMut(Drained)) -> Result<()> {
        let Self { kernel, restarts, .. } = self;
        kernel.drain(|counted| {
            each(match counted {
                Counted::Waits(key, histogram) => Drained::Waits(ended_waits(&key, &histogram, restarts)),
                Counted::Answers(key, histogram) => Drained::Answers(answers(&key, &histogram)),
            })
        })
    }

    /// How many waits have ended since the programs were loaded.
    pub fn number_ended(&self) -> Result<u64> {
        Ok(self.kernel.counter(Counter::CountedWaits)? + self.kernel.counter(Counter::ShortWaits)?)
    }

    /// The next long sleep that has ended.
    pub fn next_ended_sleep(&mut self) -> Option<EndedSleep> {
        let ended = self.kernel.next_ended()?;
        Some(EndedSleep {
            thread: thread(&ended),
            began_ns: ended.began_ns,
            ended_ns: ended.began_ns + ended.duration_ns,
            exiting: ended.flags & THREAD_EXITING != 0,
            signalled: ended.flags & THREAD_SIGNALLED != 0,
        })
    }

    /// A wait that has ended, as it was.
    pub fn ended_wait(&mut self, ended: &abi::EndedWait) -> Wait {
        let key = &ended.key;
        let now = Now::read();
        let table = table(key);
        let syscall = syscall(table, key.nr);
        let syscall =
            restarted(syscall, key.restart_fn, ended.args[0], &mut self.restarts).unwrap_or(syscall);
        // What is no call has none, and only what its thread has left in the registers.
        let args = if key.nr < 0 { [0; 6] } else { ended.args };
        Wait {
            thread: thread(ended),
            comm: text(&ended.comm),
            uid: 0,
            sleep: Sleep::Interruptible,
            call: Call {
                table,
                number: (key.nr >= 0).then_some(key.nr),
                syscall,
                args,
                restarted: key.restart_fn != 0,
            },
            fd: (key.fd >= 0).then_some(key.fd),
            fd_state: open_file(&key.file).map_or(FdState::None, FdState::Open),
            socket: SocketFacts::None,
            age: Duration::from_nanos(ended.duration_ns),
            exact: true,
            since: now.wall_at(ended.began_ns),
            began_ns: ended.began_ns,
            sleep_began_ns: ended.began_ns,
            switches: 0,
            cgroups: None,
            mount: None,
        }
    }

    /// A call that has returned.
    pub fn returned_call(&mut self, ended: &abi::EndedCall) -> ReturnedCall {
        let pointed = ended.pointed.get(..ended.pointed_len as usize).unwrap_or_default().to_vec();
        ReturnedCall { wait: self.ended_wait(&ended.call), result: ended.result, pointed }
    }
}

/// What the programs have counted under one key.
pub fn ended_waits(key: &WaitKey, histogram: &abi::Histogram, restarts: &mut Option<Restarts>) -> EndedWaits {
    let syscall = syscall(table(key), key.nr);
    // Of the arguments it is known only whether the first is a clock.
    let first = if key.flags & CALL_CLOCK != 0 { 0 } else { u64::MAX };
    let syscall = restarted(syscall, key.restart_fn, first, restarts).unwrap_or(syscall);
    EndedWaits {
        process: process(key),
        comm: text(&histogram.comm),
        syscall,
        file: open_file(&key.file),
        histogram: by_duration(histogram),
    }
}

/// The same of answers.
fn answers(key: &AnswerKey, histogram: &abi::Histogram) -> Answers {
    let remote = Ipv6Addr::from(key.remote).to_canonical();
    Answers {
        comm: text(&key.comm),
        remote: SocketAddr::new(remote, key.remote_port as u16),
        histogram: by_duration(histogram),
    }
}

fn by_duration(histogram: &abi::Histogram) -> WaitHistogram {
    WaitHistogram {
        count: histogram.count,
        sum_ns: histogram.sum_ns,
        buckets: histogram.buckets.map(u64::from),
    }
}

fn table(key: &WaitKey) -> CallTable {
    if key.flags & CALL_COMPAT != 0 { CallTable::Compat } else { CallTable::Native }
}

fn thread(ended: &abi::EndedWait) -> ThreadId {
    ThreadId { process: process(&ended.key), tid: ended.tid, start_ns: ended.thread_start_ns }
}

fn process(key: &WaitKey) -> ProcessId {
    ProcessId { pid: key.tgid, start_ns: key.process_start_ns }
}
