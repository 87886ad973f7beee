//! One look at the host without a memory of earlier ones: waits with their targets, true ages and verdicts. What
//! `ps` and `why` show.

use std::time::Duration;

use anyhow::Result;

use crate::{
    class::Class,
    cli::SourceName,
    clock::{boottime_ns, monotonic_ns},
    collect::{self, Source},
    progress::date_back,
    resolve::{Resolved, Resolver, epoll::is_epoll, poll::is_set},
    syscalls::{Way, way},
    verdict::{self, Verdict},
    wait::{Snapshot, SocketFacts, Wait},
};

/// A wait with everything that was found out about it.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The wait, dated back to its last progress.
    pub wait: Wait,
    /// What it waits on.
    pub resolved: Resolved,
    /// What to think of it.
    pub verdict: Verdict,
}

/// Opens the source asked for; with `auto`, says why it is not the better one.
pub fn open(name: SourceName) -> Result<(Box<dyn Source>, Option<String>)> {
    match name {
        SourceName::Bpf => Ok((Box::new(collect::bpf::Bpf::once()?), None)),
        SourceName::Proc => Ok((Box::new(collect::proc::Proc::new()), None)),
        SourceName::Auto => match collect::bpf::Bpf::once() {
            Ok(bpf) => Ok((Box::new(bpf), None)),
            Err(error) => Ok((Box::new(collect::proc::Proc::new()), Some(format!("{error:#}")))),
        },
    }
}

/// A snapshot in which a wait of that age is told from a shorter one, also where the source cannot say when
/// a sleep began: what is the same after a second look is at least that old.
pub fn snapshot(source: &mut dyn Source, age: Duration) -> Result<Snapshot> {
    let snapshot = source.snapshot()?;
    if snapshot.dated || age.is_zero() {
        return Ok(snapshot);
    }
    std::thread::sleep(age.min(Duration::from_secs(1)));
    source.snapshot()
}

/// Whether the present sleep may be one of many: short polls again and again, or a read that was interrupted.
pub fn may_be_older(wait: &Wait) -> bool {
    is_set(wait.call.name)
        || is_epoll(wait.call.name)
        || matches!(wait.socket, SocketFacts::Tcp(_)) && way(wait.call.name) == Way::In
}

/// Judges waits, in their order; `all` are the host's waits of the same moment. Who is at the other end, which costs a
/// walk over all open files, is looked up for those that `weigh` names.
pub fn judge(
    mut waits: Vec<Wait>,
    all: &[Wait],
    resolver: &mut Resolver,
    source: &mut dyn Source,
    weigh: impl Fn(&Wait, Class) -> bool,
) -> Result<Vec<Judged>> {
    let (now, boottime) = (monotonic_ns(), boottime_ns());
    let mut resolved = resolver.resolve(&waits.iter().collect::<Vec<_>>(), source)?;
    let mut weighed = Vec::with_capacity(waits.len());
    for (wait, resolved) in waits.iter_mut().zip(&resolved) {
        date_back(wait, resolved, now, boottime);
        weighed.push(weigh(wait, verdict::classify(wait, resolved)));
    }
    let mut pairs: Vec<(&Wait, &mut Resolved)> = waits
        .iter()
        .zip(&mut resolved)
        .zip(&weighed)
        .filter(|(_, weighed)| **weighed)
        .map(|(pair, _)| pair)
        .collect();
    resolver.find_peers(&mut pairs, all, source)?;
    Ok(waits
        .into_iter()
        .zip(resolved)
        .map(|(wait, resolved)| {
            let verdict = verdict::judge(&wait, &resolved);
            Judged { wait, resolved, verdict }
        })
        .collect())
}
