//! The next command to try. Pure.

use super::{
    Condition,
    chain::Other,
    inside::{ServerProgram, inside},
    threads::{Doing, ThreadReport},
    way_out,
};
use crate::{
    assess::pipeline::Assessment,
    model::class::{Class, Level},
    model::target::Target,
    model::wait::{StopSignal, Suspended, SuspendedThread},
    resolve::process::ProcessMeta,
};

/// A command and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// What to type.
    pub command: String,
    /// What it shows, or does.
    pub reason: String,
}

const GOES_ON: &str = "shows what that one is waiting for";

/// A command with its reason.
pub(super) fn advice(command: String, reason: &str) -> Advice {
    Advice { command, reason: reason.into() }
}

/// Whose address a peer has that no process of this host was found for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerHost {
    /// One of this host's own, in whatever network namespace.
    This,
    /// The same, and there are processes that this user may not look into.
    Unseen,
    /// Another's.
    Other,
}

/// What to try after this report.
pub fn of(
    pid: u32,
    condition: Condition,
    who: &ProcessMeta,
    threads: &[ThreadReport],
    others: &[Other],
    host: PeerHost,
) -> Vec<Advice> {
    let worst = threads.first();
    let parent = who.parents.first();
    match condition {
        Condition::Stopped => match worst.map(|worst| &worst.doing) {
            Some(Doing::Stopped(Some(signal))) => stopped(pid, *signal),
            _ => vec![advice(format!("kill -CONT {pid}"), "lets it go on")],
        },
        Condition::Running => vec![advice(format!("perf top -p {pid}"), "shows what it computes")],
        Condition::Traced => match worst.map(|worst| &worst.doing) {
            Some(Doing::Traced(Some(by))) => {
                vec![advice(format!("tracer why {}", by.pid), "shows what its debugger does")]
            }
            _ => Vec::new(),
        },
        Condition::Frozen => match worst.map(|worst| &worst.doing) {
            Some(Doing::Frozen(Some(group))) => {
                vec![advice(format!("echo {} > {}", group.thaw, group.switch.display()), "thaws it")]
            }
            _ => Vec::new(),
        },
        Condition::Zombie => parent
            .map(|parent| advice(format!("tracer why {}", parent.pid), "shows what its parent does"))
            .into_iter()
            .collect(),
        Condition::Hidden => vec![advice(format!("sudo tracer why {pid}"), "shows what it waits for")],
        Condition::Idle | Condition::Busy => {
            let stuck = others.iter().find_map(Other::stuck_one).into_iter();
            stuck.map(|other| advice(format!("tracer why {}", other.pid), GOES_ON)).collect()
        }
        Condition::Stuck | Condition::Doubtful => {
            let wait = worst.and_then(ThreadReport::wait);
            // Of who is stuck itself more is known.
            if wait.is_none_or(|wait| wait.level() != Level::Stuck)
                && let Some(held_up) = others.iter().find_map(Other::held_up)
                && let Some(suspended) = held_up.suspended
            {
                return let_go(held_up.pid, suspended);
            }
            let cgroup = who.cgroup.as_deref();
            wait.map(|wait| stuck(pid, cgroup, wait, others, host)).unwrap_or_default()
        }
    }
}

/// What lets another process go on that is held.
fn let_go(pid: u32, suspended: SuspendedThread) -> Vec<Advice> {
    match (suspended.by, suspended.signal) {
        (Suspended::Stopped, signal) => stopped(pid, signal.unwrap_or(StopSignal::Stop)),
        (Suspended::Traced | Suspended::Frozen, _) => {
            vec![advice(format!("tracer why {pid}"), "shows what holds it")]
        }
    }
}

/// What lets a process go on that this signal has stopped: one of the background stops again at once when it is merely woken.
fn stopped(pid: u32, signal: StopSignal) -> Vec<Advice> {
    match signal {
        StopSignal::Stop | StopSignal::Suspend => vec![advice(format!("kill -CONT {pid}"), "lets it go on")],
        StopSignal::BackgroundRead => vec![
            advice("fg".into(), "in its shell, gives it the terminal; SIGCONT alone stops it again at once"),
            advice(
                "COMMAND < /dev/null".into(),
                "starts it so that it reads no terminal, if it is to run in the background",
            ),
        ],
        StopSignal::BackgroundWrite => vec![
            advice("fg".into(), "in its shell, gives it the terminal; SIGCONT alone stops it again at once"),
            advice(
                "stty -tostop".into(),
                "lets jobs in the background write; to change settings they need the foreground",
            ),
        ],
    }
}

fn stuck(pid: u32, cgroup: Option<&str>, wait: &Assessment, others: &[Other], host: PeerHost) -> Vec<Advice> {
    let class = wait.class;
    // Whoever is stopped answers nobody, and needs no more than to be let go.
    if let Some((pid, suspended)) = others.iter().find_map(|other| Some((other.pid, other.suspended?))) {
        return let_go(pid, suspended);
    }
    let mut list = Vec::new();
    if class == Class::Mutex {
        list.push(advice(
            format!("tracer stack {pid}"),
            "shows where in the program each of its threads waits, without stopping it",
        ));
        list.extend(wait.is_deadlock().then(|| end_of_deadlock(pid, others)));
        return list;
    }
    if class == Class::Disk && !matches!(wait.resolved.target, Target::File { pseudo_fs: true, .. }) {
        return way_out::of(pid, &wait.resolved, cgroup);
    }
    if wait.resolved.is_output_stopped() {
        list.push(advice(
            "Ctrl-Q".into(),
            "typed at the terminal, lets its output go on; `stty -ixon` there keeps Ctrl-S from stopping it",
        ));
        return list;
    }
    if let Target::MessageQueue { id } = wait.resolved.target {
        list.push(advice(
            format!("ipcs -q -i {id}"),
            "shows whose queue it is, how much is in it, and who used it last",
        ));
    }
    list.extend(of_peers(pid, wait, others, host));
    if let Target::Semaphores { set } = wait.resolved.target {
        let command = format!("ipcs -s -i {set}");
        list.push(advice(
            command,
            "shows whose semaphores they are, their values, and who changed each last",
        ));
    }
    if wait.is_deadlock() {
        list.push(end_of_deadlock(pid, others));
    }
    if list.is_empty() {
        list.push(advice(
            format!("tracer stack {pid}"),
            "shows where in its program each of its threads waits",
        ));
    }
    if let Some(fd) = wait.resolved.fd
        && is_releasable(&wait.resolved.target)
    {
        list.push(advice(
            format!("tracer release {pid} --fd {fd}"),
            "the last resort: says how to end this one connection, as if the other end had closed it, and does it with --apply. \
             Some clients send their request again",
        ));
    }
    list
}

/// What shows more of whom it waits for.
fn of_peers(pid: u32, wait: &Assessment, others: &[Other], host: PeerHost) -> Vec<Advice> {
    let mut list = Vec::new();
    if wait.class == Class::Request && others.first().is_some_and(|other| other.back.is_some()) {
        // The page of that one leads here.
        list.push(advice(
            format!("tracer stack {pid}"),
            "shows the line of its program that each of its threads is in: what it wants more of",
        ));
    } else if let Some(other) = last(others) {
        let port = match wait.resolved.target {
            Target::Tcp { remote, .. } => Some(remote.port()),
            _ => None,
        };
        // Of one that rests the kernel knows no more than this page says.
        let inside = inside(&ServerProgram::of(other, port)).filter(|_| !other.stuck);
        let is_open = inside.is_some();
        list.extend(inside);
        let reason = if is_open { "shows its threads and connections" } else { GOES_ON };
        list.push(advice(format!("tracer why {}", other.tid.unwrap_or(other.pid)), reason));
    } else {
        let peers = wait.resolved.peers.as_ref();
        match peers.filter(|peers| peers.own && peers.others.is_empty()) {
            Some(_) => list.push(advice(
                format!("tracer stack {pid}"),
                "shows where each of its threads is: the other end is its own",
            )),
            None => list.extend(alone(pid, &wait.resolved.target, host)),
        }
    }
    list
}

/// The only way out of a circle that nobody can leave. What a process has locked or not closed may be open in another one as well, and then
/// does not go with it.
fn end_of_deadlock(pid: u32, others: &[Other]) -> Advice {
    let command = format!("tracer release {pid} --signal TERM");
    match others.iter().any(|other| other.pid != pid) {
        true => advice(
            command,
            "says how to end it, and does so with --apply. The others then go on, or fail, unless a child of it keeps the same lock \
             or pipe open. End the one that costs least",
        ),
        false => {
            advice(command, "says how to end it, and does so with --apply. Nothing else frees its threads")
        }
    }
}

/// Whether `tracer release` can end what is waited on.
fn is_releasable(target: &Target) -> bool {
    matches!(
        target,
        Target::Tcp { .. } | Target::Unix { datagram: false, .. } | Target::Udp { remote: Some(_), .. }
    )
}

/// What to do about a peer of which no process was found.
fn alone(pid: u32, target: &Target, host: PeerHost) -> Option<Advice> {
    /// Where name servers are asked (RFC 1035).
    const DOMAIN: u16 = 53;
    match (target, host) {
        (Target::Tcp { remote, .. }, PeerHost::Other) => Some(advice(
            format!("ss -tnpi dst '{remote}'"),
            "shows the kernel's view of the connection; the cause is on that host: look there with tracer",
        )),
        (Target::Tcp { remote, .. }, PeerHost::This) => Some(advice(
            format!("ss -tnpi dst '{remote}'"),
            "shows the kernel's view of the connection. The address is this host's own, and no process answers there: a packet \
             filter may drop what is sent, or the one that had the other end has gone",
        )),
        (Target::Tcp { remote, .. }, PeerHost::Unseen) => Some(advice(
            format!("sudo ss -tlnp src '{remote}'"),
            "shows who listens there. The address is this host's own, and whoever has it is another user's, or nobody",
        )),
        (Target::Udp { remote: Some(remote), .. }, _) if remote.port() == DOMAIN => Some(advice(
            format!("cat /proc/{pid}/root/etc/resolv.conf"),
            "names the name servers that it asks: this one does not answer",
        )),
        (Target::Udp { remote: Some(remote), .. }, _) => {
            Some(advice(format!("ss -unp dst '{remote}'"), "shows who else has asked there"))
        }
        _ => None,
    }
}

/// Who is at the end of the chain: the last that is stuck, else whom the wait is for, if it does not run in a circle.
fn last(others: &[Other]) -> Option<&Other> {
    let first = others.iter().find(|other| !other.again)?;
    others.iter().find_map(Other::last_stuck).or(Some(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_to_another_host_for_a_peer_on_this_one() {
        let remote = "10.0.0.2:53".parse().expect("an address");
        let udp = Target::Udp {
            local: "10.0.0.1:40000".parse().expect("an address"),
            remote: Some(remote),
            inode: 1,
        };
        let tcp = crate::diagnose::verdict::tests::tcp();
        for (target, host, begins, elsewhere) in [
            (&tcp, PeerHost::Other, "ss -tnpi dst '10.0.0.2:443'", true),
            (&tcp, PeerHost::This, "ss -tnpi dst '10.0.0.2:443'", false),
            (&tcp, PeerHost::Unseen, "sudo ss -tlnp src '10.0.0.2:443'", false),
            (&udp, PeerHost::Other, "cat /proc/7/root/etc/resolv.conf", false),
        ] {
            let Advice { command, reason } = alone(7, target, host).expect("there is one");
            assert_eq!((command.as_str(), reason.contains("that host")), (begins, elsewhere));
        }
        assert_eq!(alone(7, &Target::None, PeerHost::Other), None);
    }
}
