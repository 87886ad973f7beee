//! What a TCP connection's own counters and stamps tell: who spoke last, and since when nothing has moved. Pure.
//!
//! Sources: `tcp_ack_update_window`, `tcp_event_data_recv` and `tcp_event_data_sent` in net/ipv4/tcp_{in,out}put.c.

use std::{cmp::Ordering, time::Duration};

use crate::{
    model::syscalls::{Way, way},
    model::wait::{ESTABLISHED, Record, SocketFacts, TcpFacts, Wait},
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

/// States of an end that has closed its side: `TCP_FIN_WAIT1`, `TCP_FIN_WAIT2`, `TCP_LAST_ACK`, `TCP_CLOSING`
/// (include/net/tcp_states.h).
const AFTER_FIN: [u8; 4] = [4, 5, 9, 11];

/// Whose bytes were the last, by the sequence numbers where they know and by the stamps where those do.
pub fn last_word(facts: &TcpFacts) -> LastWord {
    let raw = &facts.raw;
    if unacknowledged(facts) > 0 {
        return LastWord::Ours;
    }
    if facts.record == Record::Table {
        return LastWord::Unknown;
    }
    match (raw.bytes_sent, raw.bytes_received) {
        (0, 0) => return LastWord::Nobody,
        (_, 0) => return LastWord::Ours,
        (0, _) => return LastWord::Theirs,
        _ => {}
    }
    let (Some(sent), Some(received)) = (facts.sent, facts.received) else { return LastWord::Unknown };
    let by_stamps = match sent.cmp(&received) {
        Ordering::Less => LastWord::Ours,
        Ordering::Greater => LastWord::Theirs,
        Ordering::Equal => LastWord::Unknown,
    };
    if facts.record == Record::Info {
        return by_stamps;
    }
    // Every segment in order moves it, data or not: behind rcv_nxt means that data was the last to come, and since all
    // of ours is acknowledged, nothing of ours is later than that.
    if raw.snd_wl1 != raw.rcv_nxt {
        return LastWord::Theirs;
    }
    // The last segment was bare: the acknowledgement of our last bytes, unless it answered a keepalive probe.
    let no_probe_yet = !facts.keepalive || sent.min(received) < facts.keepalive_after;
    let followed_at_once =
        sent.checked_sub(facts.acknowledged).is_some_and(|late| late <= facts.round_trip + DELAYED_ACK);
    if no_probe_yet || followed_at_once {
        return LastWord::Ours;
    }
    by_stamps
}

/// Bytes written by the program that the peer has not acknowledged, those not sent yet included.
pub fn unacknowledged(facts: &TcpFacts) -> u32 {
    let bytes = facts.raw.write_seq.wrapping_sub(facts.raw.snd_una);
    // While connecting and after a close the numbers cover SYN and FIN as well.
    if facts.raw.state == ESTABLISHED { bytes } else { 0 }
}

/// Since when nothing has moved: no byte received, none of ours acknowledged. `None` if nothing ever has.
pub fn since(facts: &TcpFacts) -> Option<Duration> {
    // An acknowledgement has no stamp of its own: where all is acknowledged it followed the sending at once, where
    // something is not, the last one that came is the latest it can have been.
    let acknowledged = if unacknowledged(facts) == 0 { facts.sent } else { Some(facts.acknowledged) };
    match (acknowledged, facts.received) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Whether this end made the connection. Its SYN took a number of its own and was acknowledged like a byte
/// (`tcp_snd_una_update`, net/ipv4/tcp_input.c); the end that accepted counts from after its SYN (`tcp_create_openreq_child`). So
/// what was acknowledged, and what is on its way, is one more than what was sent. Nobody else can change that, as they can who seems
/// to have chosen the port. False: it did not, or it is not known (before Linux 4.19, or restored from a checkpoint).
pub fn connected(facts: &TcpFacts) -> bool {
    let raw = &facts.raw;
    if facts.record == Record::Table {
        return false;
    }
    // A FIN has a number as well, once it is sent.
    let fin = AFTER_FIN.contains(&raw.state) && raw.snd_nxt == raw.write_seq;
    let counted = raw.bytes_acked.wrapping_add(raw.snd_nxt.wrapping_sub(raw.snd_una).into());
    let sent = raw.bytes_sent.wrapping_sub(raw.bytes_retrans).wrapping_add(fin.into());
    counted == sent.wrapping_add(1)
}

/// Counters that change with every progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    received: u64,
    acknowledged: u64,
}

impl Mark {
    /// Of a connection.
    pub fn of(facts: &TcpFacts) -> Self {
        Self { received: facts.raw.bytes_received, acknowledged: facts.raw.bytes_acked }
    }

    /// Bytes received since an earlier mark.
    pub fn received_since(&self, before: &Mark) -> u64 {
        self.received.saturating_sub(before.received)
    }
}

/// For how long nothing has moved on the connection that a reader waits on; nothing where it is not one.
pub fn unmoved(wait: &Wait) -> Duration {
    match &wait.socket {
        SocketFacts::Tcp(facts) if way(wait.call.name) == Way::In => since(facts).unwrap_or_default(),
        _ => Duration::ZERO,
    }
}

/// Dates a reader's wait back to its connection's last progress: short polls again and again, and a signal in between,
/// are one wait. Both clocks in nanoseconds, `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME`.
pub fn date_back(wait: &mut Wait, resolved: &Resolved, now_ns: u64, boottime_ns: u64) {
    let (Way::In, SocketFacts::Tcp(facts)) = (resolved.way, &resolved.socket) else { return };
    let lived = Duration::from_nanos(boottime_ns.saturating_sub(wait.thread.start_ns));
    if let Some(since) = since(facts).map(|since| since.min(lived)).filter(|since| *since > wait.age) {
        wait.date_back(now_ns.saturating_sub(since.as_nanos() as u64));
    }
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;
    use tracer_ebpf::abi::{PORT_UNKNOWN, Tcp};

    use super::*;

    /// An established connection on which `sent` and `received` bytes went, all acknowledged.
    pub fn facts(sent: u64, received: u64) -> TcpFacts {
        let raw = Tcp {
            bytes_sent: sent,
            bytes_retrans: 0,
            bytes_acked: sent,
            bytes_received: received,
            rcvtimeo: i64::MAX,
            sndtimeo: i64::MAX,
            flags: 0,
            lsndtime: 0,
            lrcvtime: 0,
            rcv_tstamp: 0,
            snd_una: 100,
            snd_nxt: 100,
            write_seq: 100,
            snd_wl1: 50,
            rcv_nxt: 50,
            copied_seq: 50,
            snd_wnd: 65_535,
            total_retrans: 0,
            keepalive_time: 0,
            retransmits: 0,
            backoff: 0,
            probes_out: 0,
            state: ESTABLISHED,
            srtt_us: 800,
            user_timeout: 0,
            netns: 1,
            keepalive_intvl: 0,
            rto: 50,
            keepalive_probes: 0,
            port: PORT_UNKNOWN,
            reserved: [0; 6],
        };
        let ago = |bytes: u64| (bytes > 0).then_some(Duration::from_secs(60));
        TcpFacts {
            raw,
            sent: ago(sent),
            received: ago(received),
            acknowledged: Duration::from_secs(60),
            round_trip: Duration::from_micros(100),
            record: Record::Whole,
            receive_timeout: None,
            send_timeout: None,
            keepalive: false,
            keepalive_after: Duration::from_secs(7200),
            keepalive_interval: Duration::from_secs(75),
            keepalive_probes: 9,
            retransmission_ms: 200,
            retries: 15,
        }
    }

    #[test]
    fn who_connected_has_one_number_more() {
        let [fin_wait1, fin_wait2, ..] = AFTER_FIN;
        // Sent, sent again, acknowledged, on their way, written and not sent, state.
        for (sent, again, acked, under_way, unsent, state, connected) in [
            (0, 0, 1, 0, 0, ESTABLISHED, true),
            (0, 0, 0, 0, 0, ESTABLISHED, false),
            (100, 0, 101, 0, 0, ESTABLISHED, true),
            (100, 0, 100, 0, 0, ESTABLISHED, false),
            (150, 50, 101, 0, 0, ESTABLISHED, true),
            (150, 50, 71, 30, 900, ESTABLISHED, true),
            (150, 50, 70, 30, 900, ESTABLISHED, false),
            // Its SYN is on its way.
            (0, 0, 0, 1, 0, 2, true),
            // A FIN is sent, or waits behind what is not sent yet.
            (100, 0, 102, 0, 0, fin_wait2, true),
            (100, 0, 101, 0, 0, fin_wait2, false),
            (100, 0, 101, 1, 0, fin_wait1, true),
            (100, 0, 100, 1, 0, fin_wait1, false),
            (100, 0, 71, 30, 10, fin_wait1, true),
            (100, 0, 70, 30, 10, fin_wait1, false),
            // A kernel that does not count.
            (0, 0, 101, 0, 0, ESTABLISHED, false),
        ] {
            let mut facts = facts(sent, 0);
            (facts.raw.bytes_retrans, facts.raw.bytes_acked, facts.raw.state) = (again, acked, state);
            facts.raw.snd_una = u32::MAX - 10;
            facts.raw.snd_nxt = facts.raw.snd_una.wrapping_add(under_way);
            facts.raw.write_seq = facts.raw.snd_nxt.wrapping_add(unsent);
            assert_eq!(super::connected(&facts), connected, "{facts:?}");
            facts.record = Record::Table;
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
        let mut answered = facts(100, 1000);
        answered.raw.snd_wl1 = 0;
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
        let mut lost = facts(100, 1000);
        lost.raw.snd_wl1 = 0;
        lost.raw.write_seq = 130;
        assert_eq!(last_word(&lost), LastWord::Ours);
    }

    #[test]
    fn after_an_answered_keepalive_the_stamps_decide() {
        let probed = |sent: f64, received: f64| {
            let mut facts = facts(100, 1000);
            facts.keepalive = true;
            facts.keepalive_after = seconds(30.0);
            (facts.sent, facts.received) = (Some(seconds(sent)), Some(seconds(received)));
            // The probe was answered ten seconds ago.
            facts.acknowledged = seconds(10.0);
            facts
        };
        assert_eq!(last_word(&probed(100.0, 200.0)), LastWord::Ours);
        assert_eq!(last_word(&probed(200.0, 100.0)), LastWord::Theirs);
        assert_eq!(last_word(&probed(100.0, 100.0)), LastWord::Unknown);
        // The acknowledgement came with a delayed ACK's lateness after the data: it was no probe's.
        let mut delayed = probed(10.1, 10.1);
        delayed.acknowledged = seconds(10.0);
        assert_eq!(last_word(&delayed), LastWord::Ours);
    }

    #[test]
    fn progress_is_bytes_acknowledged_and_bytes_received() {
        let mut facts = facts(100, 1000);
        (facts.sent, facts.received) = (Some(seconds(50.0)), Some(seconds(70.0)));
        assert_eq!(since(&facts), Some(seconds(50.0)));
        // A retransmission a second ago is none.
        facts.raw.write_seq = 130;
        facts.sent = Some(seconds(1.0));
        facts.acknowledged = seconds(60.0);
        assert_eq!(since(&facts), Some(seconds(60.0)));
        assert_eq!(since(&self::facts(0, 0)), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]
        #[test]
        fn no_counters_confuse_it(words in prop::array::uniform8(any::<u32>()), bytes in prop::array::uniform4(any::<u64>()),
                                  keepalive: bool, state: u8, after in 0u64..100_000) {
            let mut facts = facts(bytes[0], bytes[1]);
            facts.raw.snd_una = words[0];
            facts.raw.write_seq = words[1];
            facts.raw.snd_wl1 = words[2];
            facts.raw.rcv_nxt = words[3];
            facts.raw.state = state;
            facts.sent = Some(Duration::from_millis(words[4].into()));
            facts.received = Some(Duration::from_millis(words[5].into()));
            facts.acknowledged = Duration::from_millis(words[6].into());
            facts.round_trip = Duration::from_micros(words[7].into());
            facts.keepalive = keepalive;
            facts.keepalive_after = Duration::from_secs(after);
            let nothing_moved = facts.raw.bytes_sent == 0 && facts.raw.bytes_received == 0;
            prop_assert!(last_word(&facts) != LastWord::Nobody || nothing_moved);
            facts.raw.bytes_acked = bytes[2];
            facts.raw.bytes_retrans = bytes[3];
            connected(&facts);
            let stamps = [facts.sent, facts.received, Some(facts.acknowledged)];
            prop_assert!(stamps.contains(&since(&facts)));
        }
    }
}
