//! Since when has nothing moved on the connection that a wait is on? Pure.

use std::time::Duration;

use crate::{
    diagnose::verdict::is_mutual,
    model::syscalls::Direction,
    model::tcp::{TcpFacts, TcpState},
    model::wait::{SocketFacts, Wait},
    resolve::Resolved,
};

/// A connection's stamps are rounded to ticks, and a thread takes a moment from its request to its sleep.
pub const STAMPS_DIFFER_NS: u64 = 100_000_000;

/// For how long nothing has moved on the connection that a wait is on; nothing where it is on none.
pub fn unmoved(wait: &Wait) -> Duration {
    since(wait.call.direction(), &wait.socket).unwrap_or_default()
}

fn since(direction: Option<Direction>, socket: &SocketFacts) -> Option<Duration> {
    let facts = socket.tcp()?;
    let is_about_it = facts.state == TcpState::SynSent
        || match direction {
            Some(Direction::Receive) => true,
            // Who writes waits for what it has written.
            Some(Direction::Send) => facts.unacknowledged() > 0,
            None => false,
        };
    if is_about_it { TcpFacts::unmoved(facts) } else { None }
}

/// Between which moments a connection's facts were collected: its ages are as of one of them. Nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug)]
pub struct Collected {
    /// Not before.
    pub after_ns: u64,
    /// Not after.
    pub before_ns: u64,
}

impl Collected {
    /// At a moment that is known.
    pub fn at(now_ns: u64) -> Self {
        Self { after_ns: now_ns, before_ns: now_ns }
    }
}

/// Dates a wait by its connection's last progress: short polls again and again, and a signal in between, are one wait; and who has slept
/// in a read for a day waits for an answer since another thread has asked. How long it took to collect the connection's facts moves
/// nothing. `boottime_ns`: now, nanoseconds of `CLOCK_BOOTTIME`.
pub fn date(wait: &mut Wait, resolved: &Resolved, collected: Collected, boottime_ns: u64) {
    let lived = Duration::from_nanos(boottime_ns.saturating_sub(wait.thread.in_kernel().start_ns));
    let since = since(resolved.direction, &resolved.socket).map(|since| since.min(lived));
    let unmoved_ns = since.map(|since| collected.before_ns.saturating_sub(since.as_nanos() as u64));
    if let Some(unmoved_ns) = unmoved_ns.filter(|unmoved_ns| *unmoved_ns < wait.began_ns) {
        wait.date_back(unmoved_ns);
    } else if let Some(moved_ns) = moved_ns(wait, resolved, collected.after_ns)
        && moved_ns > wait.began_ns + STAMPS_DIFFER_NS
    {
        wait.date_forward(moved_ns);
    }
}

/// When something last moved on the connection of a thread's wait for what is to come on it, nanoseconds of `CLOCK_MONOTONIC`. `None` where
/// nothing has ever come: it may be the next of several tries, each on a connection of its own. Since when a request has no answer is
/// known by who follows it: its process may go on talking.
pub fn moved_ns(wait: &Wait, resolved: &Resolved, now_ns: u64) -> Option<u64> {
    let facts = resolved.socket.tcp()?;
    let has_heard = facts.activity.is_some_and(|activity| activity.received.is_some());
    let is_for_more = resolved.direction == Some(Direction::Receive) && !wait.thread.is_request();
    let unmoved = facts.unmoved().filter(|_| has_heard && is_for_more)?;
    Some(now_ns.saturating_sub(unmoved.as_nanos() as u64))
}

/// Switches of a thread that its start costs, and a machine that is loaded.
const OTHER_SWITCHES: u64 = 100;

/// Dates a wait in short polls of a unix socket, which keeps no time, back to when the other end began to wait for its word: nothing was
/// sent since. What may have come in the meantime would have woken the thread more often than its time-outs did.
pub fn date_back_to_peer(wait: &mut Wait, resolved: &Resolved) {
    let Some(peers) = resolved.peers.as_ref().filter(|peers| is_mutual(peers)) else { return };
    let (Some(since_ns), Some(timeout)) = (peers.reads_since, resolved.timeout) else { return };
    let elapsed = Duration::from_nanos(wait.seen_ns().saturating_sub(since_ns));
    let polls = elapsed.as_nanos() / timeout.as_nanos().max(1);
    if resolved.socket.unix().is_some() && u128::from(wait.switches.saturating_sub(OTHER_SWITCHES)) <= polls {
        wait.date_back(since_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::verdict::tests::{on, tcp, unix, wait},
        model::{syscalls::Syscall, tcp::tests::facts},
        resolve::peers::Peers,
    };

    /// Polls of a second, the last of which began half a second before second 100; the other end has read since second 20.
    #[test]
    fn polls_of_a_unix_socket_are_as_old_as_the_other_ends_read() {
        const SECOND: u64 = 1_000_000_000;
        for (single, reads_since, timeout, switches, expected) in [
            (true, Some(20), Some(1), 90, 20 * SECOND),
            (true, Some(20), Some(1), 180, 20 * SECOND),
            // It was woken more often than by its time-outs.
            (true, Some(20), Some(1), 181, 99_500_000_000),
            // Its own sleep tells.
            (true, Some(20), None, 5, 99_500_000_000),
            (false, Some(20), Some(1), 90, 99_500_000_000),
            (true, None, Some(1), 90, 99_500_000_000),
        ] {
            let mut wait = wait(Syscall::Poll, [0; 6]);
            (wait.began_ns, wait.sleep_began_ns) = (99_500_000_000, 99_500_000_000);
            (wait.age, wait.switches) = (Duration::from_millis(500), switches);
            let reads_since = reads_since.map(|since: u64| since * SECOND);
            let resolved = Resolved {
                peers: Some(Peers { reads_since, single, waits: Some(true), ..Peers::default() }),
                socket: SocketFacts::Unix(Box::default()),
                timeout: timeout.map(Duration::from_secs),
                ..on(Syscall::Poll, unix(false, true, true))
            };
            date_back_to_peer(&mut wait, &resolved);
            assert_eq!(wait.began_ns, expected, "{single} {reads_since:?} {timeout:?} {switches}");
        }
    }

    #[test]
    fn readers_writers_and_connection_attempts_are_dated_by_their_connection() {
        use Direction::{Receive, Send};
        let unread = |queue| {
            TcpFacts { send_queue: queue, ..facts(100, 0) }
                .with_activity(|of| of.delivered = Some(Duration::from_secs(90)))
        };
        let tried = TcpFacts { state: TcpState::SynSent, ..facts(0, 0) }
            .with_activity(|of| of.first_sent = Some(Duration::from_secs(90)));
        for (syscall, direction, facts, expected) in [
            (Syscall::Sendto, Some(Send), unread(9000), 90),
            (Syscall::Poll, Some(Send), unread(9000), 90),
            (Syscall::Poll, Some(Receive), unread(9000), 90),
            // All is acknowledged: it waits for something else than its peer.
            (Syscall::Sendto, Some(Send), unread(0), 60),
            (Syscall::Poll, Some(Send), tried, 90),
            (Syscall::Connect, None, tried, 90),
            (Syscall::Ioctl, None, unread(9000), 60),
        ] {
            let mut wait = wait(syscall, [0; 6]);
            (wait.began_ns, wait.sleep_began_ns) = (60_000_000_000, 60_000_000_000);
            let resolved =
                Resolved { direction, socket: SocketFacts::Tcp(Box::new(facts)), ..on(syscall, tcp()) };
            date(&mut wait, &resolved, Collected::at(120_000_000_000), 1_000_000_000_000);
            assert_eq!(wait.age.as_secs(), expected, "{syscall:?} {direction:?} {facts:?}");
        }
    }

    /// The connection and the thread have rested for a minute, and to find that out took three seconds.
    #[test]
    fn what_it_takes_to_look_makes_no_wait_older_or_younger() {
        const SECOND: u64 = 1_000_000_000;
        for collected_at in [120, 121, 123] {
            let mut wait = wait(Syscall::Recvfrom, [3, 0, 0, 0, 0, 0]);
            (wait.began_ns, wait.sleep_began_ns) = (60 * SECOND, 60 * SECOND);
            let facts = facts(100, 0).with_activity(|of| {
                of.acknowledged = Duration::from_secs(collected_at - 60);
                (of.sent, of.received) = (Some(of.acknowledged), Some(of.acknowledged));
            });
            let resolved = Resolved {
                direction: Some(Direction::Receive),
                socket: SocketFacts::Tcp(Box::new(facts)),
                ..on(Syscall::Recvfrom, tcp())
            };
            let collected = Collected { after_ns: 120 * SECOND, before_ns: 123 * SECOND };
            date(&mut wait, &resolved, collected, 1000 * SECOND);
            assert_eq!((wait.began_ns, wait.age.as_secs()), (60 * SECOND, 60), "collected at {collected_at}");
        }
    }

    /// One thread sleeps in a read for a minute, another has asked ten seconds ago.
    #[test]
    fn who_reads_what_another_thread_has_asked_waits_since_then() {
        let ago = |seconds| Some(Duration::from_secs(seconds));
        let asked =
            |sent, received| facts(100, 50).with_activity(|of| (of.sent, of.received) = (sent, received));
        for (facts, direction, expected) in [
            (asked(ago(10), ago(30)), Some(Direction::Receive), 10),
            (asked(ago(10), ago(30)), Some(Direction::Send), 60),
            (asked(ago(10), None), Some(Direction::Receive), 60),
            (asked(ago(60), ago(61)), Some(Direction::Receive), 60),
        ] {
            let mut wait = wait(Syscall::Read, [0; 6]);
            (wait.began_ns, wait.sleep_began_ns, wait.age) =
                (60_000_000_000, 60_000_000_000, Duration::from_secs(60));
            let socket = SocketFacts::Tcp(Box::new(facts));
            let resolved = Resolved { direction, socket, ..on(Syscall::Read, tcp()) };
            date(&mut wait, &resolved, Collected::at(120_000_000_000), 1_000_000_000_000);
            assert_eq!(
                (wait.age.as_secs(), wait.asleep().as_secs()),
                (expected, 60),
                "{direction:?} {facts:?}"
            );
        }
    }
}
