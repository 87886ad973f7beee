//! What a TCP connection's own counters and stamps tell: who spoke last, and since when nothing has moved. Pure.
//!
//! Sources: `tcp_ack_update_window`, `tcp_event_data_recv` and `tcp_event_data_sent` in net/ipv4/tcp_{in,out}put.c.

use std::{cmp::Ordering, time::Duration};

use crate::{
    model::syscalls::Direction,
    model::tcp::TcpFacts,
    model::wait::{SocketFacts, Wait},
    resolve::Resolved,
};

/// Whose bytes were the last on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastWord {
    /// Neither side has ever said anything.
    Nobody,
    /// Ours, and the peer has not answered them.
    Ours,
    /// The peer's.
    Theirs,
    /// The stamps are equal and a keepalive or window update has covered the rest.
    Unknown,
}

/// How late an acknowledgement of data may come, round trip not included: delayed ACKs are sent after 40 to 200 ms.
const DELAYED_ACK: Duration = Duration::from_millis(250);

/// Whose bytes were the last, by the sequence numbers where they know and by the stamps where those do.
pub fn last_word(facts: &TcpFacts) -> LastWord {
    if facts.unacknowledged() > 0 {
        return LastWord::Ours;
    }
    let Some(activity) = &facts.activity else { return LastWord::Unknown };
    match (activity.bytes_sent, activity.bytes_received) {
        (0, 0) => return LastWord::Nobody,
        (_, 0) => return LastWord::Ours,
        (0, _) => return LastWord::Theirs,
        _ => {}
    }
    let (Some(sent), Some(received)) = (activity.sent, activity.received) else { return LastWord::Unknown };
    let by_stamps = match sent.cmp(&received) {
        Ordering::Less => LastWord::Ours,
        Ordering::Greater => LastWord::Theirs,
        Ordering::Equal => LastWord::Unknown,
    };
    let Some(internals) = &facts.internals else { return by_stamps };
    // Data was the last to come, and since all of ours is acknowledged, nothing of ours is later than that.
    if internals.last_segment_had_data {
        return LastWord::Theirs;
    }
    // The last segment was bare: the acknowledgement of our last bytes, unless it answered a keepalive probe.
    let no_probe_yet = !facts.keepalive || sent.min(received) < internals.keepalive_after;
    let followed_at_once =
        sent.checked_sub(activity.acknowledged).is_some_and(|late| late <= activity.round_trip + DELAYED_ACK);
    if no_probe_yet || followed_at_once {
        return LastWord::Ours;
    }
    by_stamps
}

/// Since when nothing has moved: no byte received, none of ours acknowledged. `None` if nothing ever has, or that is not seen.
pub fn since(facts: &TcpFacts) -> Option<Duration> {
    let activity = facts.activity.as_ref()?;
    // An acknowledgement has no stamp of its own: where all is acknowledged it followed the sending at once, where
    // something is not, the last one that came is the latest it can have been.
    let acknowledged = if facts.unacknowledged() == 0 { activity.sent } else { Some(activity.acknowledged) };
    match (acknowledged, activity.received) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Whether this end made the connection. Its SYN took a number of its own and was acknowledged like a byte
/// (`tcp_snd_una_update`, net/ipv4/tcp_input.c); the end that accepted counts from after its SYN (`tcp_create_openreq_child`). So
/// what was acknowledged, and what is on its way, is one more than what was sent. Nobody else can change that, as they can who seems
/// to have chosen the port. False: it did not, or it is not known (before Linux 4.19, or restored from a checkpoint).
pub fn connected(facts: &TcpFacts) -> bool {
    let Some(activity) = &facts.activity else { return false };
    // Where that is not seen, the numbers match only while nothing is on its way.
    let in_flight = facts.internals.map_or(0, |internals| internals.in_flight);
    // A FIN has a number as well, once it is sent.
    let fin = facts.state.has_closed() && in_flight == facts.send_queue;
    let counted = activity.bytes_acknowledged.wrapping_add(in_flight.into());
    let sent = activity.bytes_sent.wrapping_sub(activity.bytes_retransmitted).wrapping_add(fin.into());
    counted == sent.wrapping_add(1)
}

/// Counters that change with every progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    received: u64,
    acknowledged: u64,
}

impl Mark {
    /// Of a connection of which they are seen.
    pub fn of(facts: &TcpFacts) -> Option<Self> {
        let activity = facts.activity.as_ref()?;
        Some(Self { received: activity.bytes_received, acknowledged: activity.bytes_acknowledged })
    }

    /// Bytes received since an earlier mark.
    pub fn received_since(&self, before: &Mark) -> u64 {
        self.received.saturating_sub(before.received)
    }
}

/// For how long nothing has moved on the connection that a reader waits on; nothing where it is not one.
pub fn unmoved(wait: &Wait) -> Duration {
    match &wait.socket {
        SocketFacts::Tcp(facts) if wait.call.syscall.direction() == Some(Direction::Receive) => {
            since(facts).unwrap_or_default()
        }
        _ => Duration::ZERO,
    }
}

/// Dates a reader's wait back to its connection's last progress: short polls again and again, and a signal in between,
/// are one wait. Both clocks in nanoseconds, `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME`.
pub fn date_back(wait: &mut Wait, resolved: &Resolved, now_ns: u64, boottime_ns: u64) {
    let (Some(Direction::Receive), SocketFacts::Tcp(facts)) = (resolved.direction, &resolved.socket) else {
        return;
    };
    let lived = Duration::from_nanos(boottime_ns.saturating_sub(wait.thread.start_ns));
    if let Some(since) = since(facts).map(|since| since.min(lived)).filter(|since| *since > wait.age) {
        wait.date_back(now_ns.saturating_sub(since.as_nanos() as u64));
    }
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::tcp::{TcpActivity, TcpInternals, TcpState};

    /// An established connection on which `sent` and `received` bytes went, all acknowledged.
    pub fn facts(sent: u64, received: u64) -> TcpFacts {
        let ago = |bytes: u64| (bytes > 0).then_some(Duration::from_secs(60));
        let activity = TcpActivity {
            bytes_sent: sent,
            bytes_retransmitted: 0,
            bytes_acknowledged: sent,
            bytes_received: received,
            sent: ago(sent),
            received: ago(received),
            acknowledged: Duration::from_secs(60),
            round_trip: Duration::from_micros(100),
            retransmits: 0,
            backoff: 0,
            probes: 0,
            window: Some(65_535),
        };
        let internals = TcpInternals {
            in_flight: 0,
            last_segment_had_data: false,
            receive_timeout: None,
            send_timeout: None,
            user_timeout: None,
            keepalive_after: Duration::from_secs(7200),
            keepalive_interval: Duration::from_secs(75),
            keepalive_probes: 9,
            retransmission: Duration::from_millis(200),
            retries: 15,
            port_chosen_by: None,
        };
        TcpFacts {
            state: TcpState::Established,
            netns: Some(1),
            send_queue: 0,
            receive_queue: 0,
            keepalive: false,
            activity: Some(activity),
            internals: Some(internals),
        }
    }

    impl TcpFacts {
        /// The same with other counters.
        pub fn with_activity(mut self, change: impl FnMut(&mut TcpActivity)) -> Self {
            self.activity.iter_mut().for_each(change);
            self
        }

        /// The same with other options.
        pub fn with_internals(mut self, change: impl FnMut(&mut TcpInternals)) -> Self {
            self.internals.iter_mut().for_each(change);
            self
        }
    }

    #[test]
    fn who_connected_has_one_number_more() {
        use TcpState::{Established, FinWait1, FinWait2, SynSent};
        // Sent, sent again, acknowledged, on their way, written and not sent, state.
        for (sent, again, acked, under_way, unsent, state, connected) in [
            (0, 0, 1, 0, 0, Established, true),
            (0, 0, 0, 0, 0, Established, false),
            (100, 0, 101, 0, 0, Established, true),
            (100, 0, 100, 0, 0, Established, false),
            (150, 50, 101, 0, 0, Established, true),
            (150, 50, 71, 30, 900, Established, true),
            (150, 50, 70, 30, 900, Established, false),
            // Its SYN is on its way.
            (0, 0, 0, 1, 0, SynSent, true),
            // A FIN is sent, or waits behind what is not sent yet.
            (100, 0, 102, 0, 0, FinWait2, true),
            (100, 0, 101, 0, 0, FinWait2, false),
            (100, 0, 101, 1, 0, FinWait1, true),
            (100, 0, 100, 1, 0, FinWait1, false),
            (100, 0, 71, 30, 10, FinWait1, true),
            (100, 0, 70, 30, 10, FinWait1, false),
            // A kernel that does not count.
            (0, 0, 101, 0, 0, Established, false),
        ] {
            let mut facts = facts(sent, 0)
                .with_activity(|of| (of.bytes_retransmitted, of.bytes_acknowledged) = (again, acked))
                .with_internals(|of| of.in_flight = under_way);
            (facts.state, facts.send_queue) = (state, under_way + unsent);
            assert_eq!(super::connected(&facts), connected, "{facts:?}");
            facts.activity = None;
            assert!(!super::connected(&facts), "a table does not say");
        }
    }

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// The twelve cases of the design, tried on loopback, one line each.
    #[test]
    fn the_last_word_is_told_as_tried_on_loopback() {
        // 20 requests, all answered.
        let answered = facts(100, 1000).with_internals(|of| of.last_segment_had_data = true);
        assert_eq!(last_word(&answered), LastWord::Theirs);
        // 20 answered, the next one never: the stamps tie, the sequence numbers know.
        let unanswered = facts(100, 1000);
        assert_eq!(last_word(&unanswered), LastWord::Ours);
        // One request, never answered.
        assert_eq!(last_word(&facts(100, 0)), LastWord::Ours);
        // Nothing said by either.
        assert_eq!(last_word(&facts(0, 0)), LastWord::Nobody);
        // A greeting only.
        assert_eq!(last_word(&facts(0, 10)), LastWord::Theirs);
        // Not acknowledged.
        let lost = TcpFacts { send_queue: 30, ..answered };
        assert_eq!(last_word(&lost), LastWord::Ours);
    }

    #[test]
    fn after_an_answered_keepalive_the_stamps_decide() {
        let probed = |sent: f64, received: f64| {
            let mut facts = facts(100, 1000).with_internals(|of| of.keepalive_after = seconds(30.0));
            facts.keepalive = true;
            facts.with_activity(|of| {
                (of.sent, of.received) = (Some(seconds(sent)), Some(seconds(received)));
                // The probe was answered ten seconds ago.
                of.acknowledged = seconds(10.0);
            })
        };
        assert_eq!(last_word(&probed(100.0, 200.0)), LastWord::Ours);
        assert_eq!(last_word(&probed(200.0, 100.0)), LastWord::Theirs);
        assert_eq!(last_word(&probed(100.0, 100.0)), LastWord::Unknown);
        // The acknowledgement came with a delayed ACK's lateness after the data: it was no probe's.
        assert_eq!(last_word(&probed(10.1, 10.1)), LastWord::Ours);
    }

    #[test]
    fn progress_is_bytes_acknowledged_and_bytes_received() {
        let moved = facts(100, 1000)
            .with_activity(|of| (of.sent, of.received) = (Some(seconds(50.0)), Some(seconds(70.0))));
        assert_eq!(since(&moved), Some(seconds(50.0)));
        // A retransmission a second ago is none.
        let again = TcpFacts { send_queue: 30, ..moved }
            .with_activity(|of| (of.sent, of.acknowledged) = (Some(seconds(1.0)), seconds(60.0)));
        assert_eq!(since(&again), Some(seconds(60.0)));
        assert_eq!(since(&TcpFacts { activity: None, ..again }), None);
        assert_eq!(since(&facts(0, 0)), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]
        #[test]
        fn no_counters_confuse_it(words in prop::array::uniform8(any::<u32>()), bytes in prop::array::uniform4(any::<u64>()),
                                  keepalive: bool, state: u8, after in 0u64..100_000) {
            let mut facts = facts(bytes[0], bytes[1]).with_activity(|of| {
                of.sent = Some(Duration::from_millis(words[4].into()));
                of.received = Some(Duration::from_millis(words[5].into()));
                of.acknowledged = Duration::from_millis(words[6].into());
                of.round_trip = Duration::from_micros(words[7].into());
            }).with_internals(|of| {
                of.in_flight = words[1];
                of.last_segment_had_data = words[2] != words[3];
                of.keepalive_after = Duration::from_secs(after);
            });
            (facts.send_queue, facts.state, facts.keepalive) = (words[0], TcpState::of(state), keepalive);
            let nothing_moved = bytes[0] == 0 && bytes[1] == 0;
            prop_assert!(last_word(&facts) != LastWord::Nobody || nothing_moved);
            let facts = facts.with_activity(|of| (of.bytes_acknowledged, of.bytes_retransmitted) = (bytes[2], bytes[3]));
            connected(&facts);
            let stamps = [4, 5, 6].map(|at| Some(Duration::from_millis(words[at].into())));
            prop_assert!(stamps.contains(&since(&facts)));
        }
    }
}
