//! What a TCP connection's own counters and stamps tell: who spoke last, and since when nothing has moved. Pure.
//!
//! Sources: `tcp_ack_update_window`, `tcp_event_data_recv` and `tcp_event_data_sent` in net/ipv4/tcp_{in,out}put.c.

use std::{cmp::Ordering, time::Duration};

use super::{TcpActivity, TcpFacts, TcpState};

/// Whose bytes were the last on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastSender {
    /// Neither side has ever said anything.
    Nobody,
    /// Ours, and the peer has not answered them.
    Ours,
    /// The peer's.
    Theirs,
    /// The peer's, by their size the session tickets that end its TLS handshake: our own are not answered.
    Tickets,
    /// The stamps are equal and a keepalive or window update has covered the rest.
    Unknown,
}

/// How late an acknowledgement of data may come, round trip not included: delayed ACKs are sent after 40 to 200 ms.
const DELAYED_ACK: Duration = Duration::from_millis(250);

/// How far apart stamps of one moment may be: the one of what was received counts scheduler ticks, of 10 ms at the most.
const STAMPS_APART: Duration = Duration::from_millis(15);

/// How soon after the peer's bytes those of ours leave that only acknowledge them, in the protocol's own way: settings, window updates
/// and answers to pings of HTTP/2, acknowledgements of MQTT, pongs of websockets. Node, Go, grpc and httpx took up to 20 ms on a machine
/// that had more to do than it could.
pub(super) const REACTION: Duration = Duration::from_millis(200);

impl TcpFacts {
    /// Whether our last bytes followed the peer's at once: they may be a question, and as well the protocol's own acknowledgement, to
    /// which nothing is due. False where the peer has never said anything.
    pub fn has_reacted(&self) -> bool {
        let Some(activity) = &self.activity else { return false };
        let (Some(sent), Some(received)) = (activity.sent, activity.received) else { return false };
        activity.bytes_received > 0 && received.abs_diff(sent) < REACTION
    }

    /// Whose bytes were the last, by the sequence numbers where they know and by the stamps where those do.
    pub fn last_sender(&self) -> LastSender {
        if self.unacknowledged() > 0 {
            return LastSender::Ours;
        }
        let Some(activity) = &self.activity else { return LastSender::Unknown };
        match (activity.bytes_sent, activity.bytes_received) {
            (0, 0) => return LastSender::Nobody,
            (_, 0) => return LastSender::Ours,
            (0, _) => return LastSender::Theirs,
            _ => {}
        }
        let (Some(sent), Some(received)) = (activity.sent, activity.received) else {
            return LastSender::Unknown;
        };
        let by_stamps = match sent.cmp(&received) {
            Ordering::Less => LastSender::Ours,
            Ordering::Greater => LastSender::Theirs,
            Ordering::Equal => LastSender::Unknown,
        };
        let Some(internals) = &self.internals else { return by_stamps };
        // Data was the last to come, and since all of ours is acknowledged, nothing of ours is later than that.
        if internals.last_segment > 0 {
            return if self.fits_session_tickets() { LastSender::Tickets } else { LastSender::Theirs };
        }
        // Whatever they send once they have got our last bytes says that they have: what came before that was no answer.
        if activity.delivered.is_some_and(|delivered| received > delivered + STAMPS_APART) {
            return LastSender::Ours;
        }
        // The last segment was bare: the acknowledgement of our last bytes, unless it answered a keepalive probe.
        let no_probe_yet = !self.keepalive || sent.min(received) < internals.keepalive_after;
        let followed_at_once = sent
            .checked_sub(activity.acknowledged)
            .is_some_and(|late| late <= activity.round_trip + DELAYED_ACK);
        if no_probe_yet || followed_at_once {
            return LastSender::Ours;
        }
        by_stamps
    }

    /// For how long nothing has moved: no byte received, none of ours acknowledged, nothing sent for the first time. Of a connection
    /// attempt, how long ago it began. `None` if nothing ever has moved, or that is not seen.
    pub fn unmoved(&self) -> Option<Duration> {
        let activity = self.activity.as_ref()?;
        if self.state == TcpState::SynSent {
            return activity.first_sent;
        }
        [self.acknowledged(activity), activity.received, self.first_sent(activity)]
            .into_iter()
            .flatten()
            .min()
    }

    /// Since bytes of ours were last acknowledged. A peer that does not read acknowledges every probe of its window, which counts for
    /// nothing.
    fn acknowledged(&self, activity: &TcpActivity) -> Option<Duration> {
        match activity.delivered {
            // It followed the sending at once. Where nothing was sent, the last thing that moved was the SYN.
            _ if self.unacknowledged() == 0 || !activity.in_flight && activity.delivered.is_none() => {
                activity.sent.or(activity.delivered)
            }
            // Where that has no stamp of its own, the last acknowledgement that came is the latest it can have been.
            delivered => delivered.or(Some(activity.acknowledged)),
        }
    }

    /// Since what is on its way was first sent: a request on a connection that was at rest is no older than itself.
    fn first_sent(&self, activity: &TcpActivity) -> Option<Duration> {
        match activity.retransmits {
            _ if !activity.in_flight => None,
            0 => activity.sent,
            _ => activity.first_sent,
        }
    }

    /// How long ago the other end closed the connection, if only that one has: the end of a connection is the last thing that a peer says.
    pub fn closed_by_peer(&self) -> Option<Duration> {
        self.activity.as_ref().filter(|_| self.state == TcpState::CloseWait).map(|of| of.acknowledged)
    }

    /// Whether this end made the connection. Its SYN took a number of its own and was acknowledged like a byte
    /// (`tcp_snd_una_update`, net/ipv4/tcp_input.c); the end that accepted counts from after its SYN (`tcp_create_openreq_child`). So
    /// what was acknowledged, and what is on its way, is one more than what was sent. Nobody else can change that, as they can who seems
    /// to have chosen the port. False: it did not, or it is not known (before Linux 4.19, or restored from a checkpoint).
    pub fn has_connected(&self) -> bool {
        let Some(activity) = &self.activity else { return false };
        // Where that is not seen, the numbers match only while nothing is on its way.
        let in_flight = self.internals.map_or(0, |internals| internals.in_flight);
        // A FIN has a number as well, once it is sent.
        let fin = self.state.has_closed() && in_flight == self.send_queue;
        let counted = activity.bytes_acknowledged.wrapping_add(in_flight.into());
        let sent = activity.bytes_sent.wrapping_sub(activity.bytes_retransmitted).wrapping_add(fin.into());
        counted == sent.wrapping_add(1)
    }
}

/// Counters that change with every progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgressCounters {
    received: u64,
    acknowledged: u64,
}

impl ProgressCounters {
    /// Of a connection of which they are seen.
    pub fn of(facts: &TcpFacts) -> Option<Self> {
        let activity = facts.activity.as_ref()?;
        Some(Self { received: activity.bytes_received, acknowledged: activity.bytes_acknowledged })
    }

    /// Bytes received since they were read before.
    pub fn received_since(&self, before: &ProgressCounters) -> u64 {
        self.received.saturating_sub(before.received)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::tcp::{TcpState, tests::facts};

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
            assert_eq!(facts.has_connected(), connected, "{facts:?}");
            facts.activity = None;
            assert!(!facts.has_connected(), "a table does not say");
        }
    }

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// Twelve cases, each as the kernel showed it on loopback, one line each.
    #[test]
    fn the_last_word_is_told_as_tried_on_loopback() {
        // 20 requests, all answered.
        let answered = facts(100, 1000).with_internals(|of| of.last_segment = 1000);
        assert_eq!(answered.last_sender(), LastSender::Theirs);
        // 20 answered, the next one never: the stamps tie, the sequence numbers know.
        let unanswered = facts(100, 1000);
        assert_eq!(unanswered.last_sender(), LastSender::Ours);
        // One request, never answered.
        assert_eq!(facts(100, 0).last_sender(), LastSender::Ours);
        // Nothing said by either.
        assert_eq!(facts(0, 0).last_sender(), LastSender::Nobody);
        // A greeting only.
        assert_eq!(facts(0, 10).last_sender(), LastSender::Theirs);
        // Not acknowledged.
        let lost = TcpFacts { send_queue: 30, ..answered };
        assert_eq!(lost.last_sender(), LastSender::Ours);
    }

    #[test]
    fn a_reaction_follows_at_once_and_a_question_comes_by_itself() {
        let at = |sent, received| {
            facts(100, 1000).with_activity(|of| {
                (of.sent, of.received) = (Some(seconds(sent)), Some(seconds(received)));
            })
        };
        for (sent, received, reacted) in
            [(60.0, 60.0, true), (60.0, 60.19, true), (60.0, 60.2, false), (60.0, 3600.0, false)]
        {
            assert_eq!(at(sent, received).has_reacted(), reacted, "{sent} {received}");
        }
        assert!(!facts(100, 0).has_reacted() && !facts(0, 100).has_reacted());
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
        assert_eq!(probed(100.0, 200.0).last_sender(), LastSender::Ours);
        assert_eq!(probed(200.0, 100.0).last_sender(), LastSender::Theirs);
        assert_eq!(probed(100.0, 100.0).last_sender(), LastSender::Unknown);
        // Ours were acknowledged by themselves, later than theirs had come; or with theirs.
        let delivered = |ago| probed(100.0, 100.0).with_activity(|of| of.delivered = Some(seconds(ago)));
        assert_eq!(delivered(99.96).last_sender(), LastSender::Ours);
        assert_eq!(delivered(100.0).last_sender(), LastSender::Unknown);
        // The acknowledgement came with a delayed ACK's lateness after the data: it was no probe's.
        assert_eq!(probed(10.1, 10.1).last_sender(), LastSender::Ours);
    }

    #[test]
    fn progress_is_bytes_acknowledged_and_bytes_received() {
        let moved = facts(100, 1000)
            .with_activity(|of| (of.sent, of.received) = (Some(seconds(50.0)), Some(seconds(70.0))));
        assert_eq!(moved.unmoved(), Some(seconds(50.0)));
        // A retransmission a second ago is none.
        let again = TcpFacts { send_queue: 30, ..moved }.with_activity(|of| {
            (of.sent, of.acknowledged) = (Some(seconds(1.0)), seconds(60.0));
            (of.in_flight, of.retransmits) = (true, 3);
        });
        assert_eq!(again.unmoved(), Some(seconds(60.0)));
        assert_eq!(TcpFacts { activity: None, ..again }.unmoved(), None);
        assert_eq!(facts(0, 0).unmoved(), None);
    }

    /// How long nothing has moved, by what is queued, what of it is on its way, and the stamps of a connection at rest for an hour.
    #[test]
    fn probes_are_no_progress_and_a_new_request_is_as_old_as_itself() {
        let at_rest = facts(100, 1000).with_activity(|of| {
            of.sent = Some(seconds(3600.0));
            (of.received, of.acknowledged) = (of.sent, seconds(3600.0));
            of.delivered = of.sent;
        });
        // Queued, on its way, sent, sent again, first sent, an acknowledgement of whatever, bytes acknowledged; unmoved.
        for (queue, in_flight, sent, again, first, any, delivered, expected) in [
            (0, false, 3600.0, 0, None, 3600.0, Some(3600.0), 3600.0),
            // Just sent, the answer is under way.
            (50, true, 0.1, 0, None, 3600.0, Some(3600.0), 0.1),
            // Sent again and again since: the host is gone.
            (50, true, 4.0, 5, Some(20.0), 3600.0, Some(3600.0), 20.0),
            (50, true, 4.0, 5, None, 3600.0, Some(3600.0), 3600.0),
            // The window is shut, and the last probe of it was acknowledged a second ago.
            (9000, false, 45.0, 0, None, 1.0, Some(45.0), 45.0),
            // The same as tables tell it.
            (9000, false, 45.0, 0, None, 1.0, None, 45.0),
            // A peer that reads slowly: some of it was acknowledged just now.
            (9000, true, 1.0, 0, None, 0.2, Some(0.2), 0.2),
            (9000, true, 1.0, 0, None, 0.2, None, 0.2),
        ] {
            let moved = TcpFacts { send_queue: queue, ..at_rest }.with_activity(|of| {
                (of.in_flight, of.sent, of.retransmits) = (in_flight, Some(seconds(sent)), again);
                of.first_sent = first.map(seconds);
                (of.acknowledged, of.delivered) = (seconds(any), delivered.map(seconds));
            });
            assert_eq!(moved.unmoved(), Some(seconds(expected)), "{moved:?}");
        }
    }

    #[test]
    fn an_attempt_is_as_old_as_its_first_syn_and_a_silent_connection_as_itself() {
        let silent = facts(0, 0).with_activity(|of| of.delivered = Some(seconds(7.0)));
        assert_eq!(silent.unmoved(), Some(seconds(7.0)));
        let tried = TcpFacts { state: TcpState::SynSent, send_queue: 1, ..facts(0, 0) }
            .with_activity(|of| (of.in_flight, of.first_sent) = (true, Some(seconds(9.0))));
        assert_eq!(tried.unmoved(), Some(seconds(9.0)));
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
                of.last_segment = words[2];
                of.keepalive_after = Duration::from_secs(after);
            });
            (facts.send_queue, facts.state, facts.keepalive) = (words[0], TcpState::of(state), keepalive);
            let nothing_moved = bytes[0] == 0 && bytes[1] == 0;
            prop_assert!(facts.last_sender() != LastSender::Nobody || nothing_moved);
            let facts = facts.with_activity(|of| (of.bytes_acknowledged, of.bytes_retransmitted) = (bytes[2], bytes[3]));
            facts.has_connected();
            let stamps = [4, 5, 6].map(|at| Some(Duration::from_millis(words[at].into())));
            prop_assert!(facts.state == TcpState::SynSent || stamps.contains(&facts.unmoved()));
        }
    }
}
