//! What will come of a wait if nothing happens: its time-out, the kernel's patience, or nothing.

use std::time::Duration;

use super::facts;
use crate::{
    model::syscalls::{Direction, Operation},
    model::wait::Wait,
    resolve::Resolved,
    util::human::{age, count, interval},
};

/// How much of the call's own time-out is left.
pub(super) fn left(wait: &Wait, resolved: &Resolved) -> Option<Duration> {
    resolved.timeout.map(|timeout| timeout.saturating_sub(wait.asleep()))
}

/// Whether a call with this time-out has been made before in the same wait: there was time for a whole time-out before this sleep, with
/// nothing moved.
pub(super) fn looks_again(wait: &Wait, timeout: Duration) -> bool {
    wait.age + timeout / 50 >= wait.asleep() + timeout
}

/// What will come of it if nothing happens: begins with `; `, or is empty.
pub(super) fn outlook(wait: &Wait, resolved: &Resolved) -> String {
    // An event loop has timers of its own, which are not to be seen; the socket's time-out is none of its calls'.
    let is_request = wait.thread.is_request();
    if let (Some(timeout), Some(left), false) = (resolved.timeout, left(wait, resolved), is_request) {
        if wait.call.restarted {
            return format!(
                "; its {} time-out started before it was interrupted, so the time left is unknown",
                age(timeout)
            );
        }
        return match looks_again(wait, timeout) {
            true => format!(
                "; it looks again every {}; whether the program gives up is not visible",
                interval(timeout)
            ),
            // Some timer of its, which need not be the one that gives up.
            false if wait.call.operation() == Operation::Epoll => {
                format!("; its event loop wakes in {}; whether it gives up then is not visible", age(left))
            }
            false => format!("; it stops waiting in {}", age(left)),
        };
    }
    let Some(facts) = facts(resolved) else { return "; no time-out: it will wait for ever".into() };
    let Some(internals) = &facts.internals else {
        return "; whether the connection has a time-out is not visible here".into();
    };
    if facts.unacknowledged() > 0 && facts.window() != Some(0) {
        let patience = age(internals.patience());
        return match (facts.gives_up(), internals.user_timeout) {
            (Some(left), _) => format!("; the kernel gives up in {}", age(left)),
            (None, None) => format!("; no time-out: the kernel gives up after {patience} of retransmissions"),
            (None, Some(_)) => format!("; the kernel gives up after {patience}"),
        };
    }
    if let Some(left) = facts.gives_up() {
        let probes = facts.activity.map_or(0, |activity| activity.probes);
        let vain = count(probes.into(), "keepalive probe");
        return format!("; no answer to {vain}: the kernel gives up in {}", age(left));
    }
    // A peer that is there and does not read answers the kernel's probes, for ever.
    match (facts.keepalive, resolved.direction == Some(Direction::Send)) {
        (true, false) if is_request => "; keepalive would notice a dead host, not a silent one".into(),
        (false, false) if is_request => {
            "; keepalive is off, and whether the program has a timer of its own is not visible here".into()
        }
        (_, true) => "; no send time-out: it will wait until the peer reads, or is gone".into(),
        (true, _) => "; no receive time-out; keepalive would notice a dead host, not a silent one".into(),
        (false, _) => "; no receive time-out, keepalive off: it will wait for ever".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::sentence::tests::of,
        diagnose::verdict::{judge, tests as samples},
        model::syscalls::Syscall,
    };

    /// Whether it gives up is its program's secret.
    #[test]
    fn of_a_request_nothing_is_said_of_receive_time_outs() {
        let mut wait = samples::wait(Syscall::Request, [3, 0, 0, 0, 0, 0]);
        wait.thread.tid = 0;
        let mut resolved = samples::on(Syscall::Request, samples::tcp());
        for timeout in [None, Some(Duration::from_secs(30))] {
            resolved.timeout = timeout;
            let said = outlook(&wait, &resolved);
            assert!(said.contains("timer of its own"), "{said}");
        }
    }

    #[test]
    fn a_time_out_says_when_it_ends() {
        let mut resolved = samples::on(Syscall::Poll, samples::tcp());
        resolved.direction = Some(Direction::Receive);
        resolved.timeout = Some(Duration::from_secs(74));
        assert!(of(Syscall::Poll, &resolved).ends_with("; it stops waiting in 14s"));
        let mut wait = samples::wait(Syscall::Poll, [0; 6]);
        wait.sleep_began_ns = 59_500_000_000;
        resolved.timeout = Some(Duration::from_secs(1));
        assert!(
            judge(&wait, &resolved)
                .sentence
                .ends_with("; it looks again every 1s; whether the program gives up is not visible")
        );
        // One long look that began a while after the last progress is the first one.
        resolved.timeout = Some(Duration::from_secs(600));
        assert!(judge(&wait, &resolved).sentence.ends_with("; it stops waiting in 9m 59s"));
        wait.call.restarted = true;
        let interrupted =
            "; its 10m 0s time-out started before it was interrupted, so the time left is unknown";
        assert!(judge(&wait, &resolved).sentence.ends_with(interrupted));
    }
}
