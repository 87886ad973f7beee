//! When does the kernel itself give up on a connection? By its retransmissions and keepalive probes. Pure.
//!
//! Sources: `tcp_write_timeout` and `tcp_keepalive_timer` in net/ipv4/tcp_timer.c.

use std::time::Duration;

use crate::{
    diagnose::progress::unacknowledged,
    model::wait::{Record, TcpFacts},
};

/// `TCP_RTO_MIN` and `TCP_RTO_MAX` (include/net/tcp.h).
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(120);

/// How long from now until the kernel ends the connection if nobody answers; `None` if it does not, or that is not to be
/// seen. Retransmissions in vain are counted down, and keepalive probes in vain; who answers them lives for ever.
pub fn gives_up(facts: &TcpFacts) -> Option<Duration> {
    let raw = &facts.raw;
    if facts.record != Record::Whole {
        return None;
    }
    if unacknowledged(facts) > 0 {
        let vain = raw.snd_wnd > 0 && raw.retransmits > 0;
        return vain.then(|| retransmissions_end(facts, facts.sent?)).flatten();
    }
    if !facts.keepalive || raw.probes_out == 0 {
        return None;
    }
    let heard = facts.received.map_or(facts.acknowledged, |received| received.min(facts.acknowledged));
    let all = facts.keepalive_after + facts.keepalive_interval * facts.keepalive_probes.into();
    Some(user_timeout(facts).unwrap_or(all).saturating_sub(heard))
}

/// `TCP_USER_TIMEOUT`, if it is set.
pub fn user_timeout(facts: &TcpFacts) -> Option<Duration> {
    (facts.raw.user_timeout > 0).then(|| Duration::from_millis(facts.raw.user_timeout.into()))
}

/// For how long data is sent again in vain: `TCP_USER_TIMEOUT`, else what so many retransmissions would take if the first
/// came after the shortest time there is.
pub fn patience(facts: &TcpFacts) -> Duration {
    user_timeout(facts).unwrap_or_else(|| {
        let retries = u32::from(facts.retries);
        let doubling = (LONGEST.as_millis() / SHORTEST.as_millis()).ilog2();
        let doubled = SHORTEST * ((2 << retries.min(doubling)) - 1);
        doubled + LONGEST * retries.saturating_sub(doubling)
    })
}

/// When the retransmission that is one too many is due, the last one having been sent so long ago.
fn retransmissions_end(facts: &TcpFacts, last: Duration) -> Option<Duration> {
    let patience = patience(facts);
    let mut wait =
        Duration::from_millis(facts.retransmission_ms.into()).clamp(Duration::from_millis(1), LONGEST);
    // Each time waited since the first retransmission was half of the next, but for those of the full length: how many
    // there were is not to be seen, so that is as of a connection with a short way.
    let vain = u32::from(facts.raw.retransmits);
    let mut due: Duration = match wait < LONGEST {
        true => (1..vain.min(30)).map(|ago| wait / 2u32.pow(ago)).sum(),
        false => SHORTEST * ((2 << vain.min(9)) - 4) + LONGEST * vain.saturating_sub(10),
    };
    let mut left = Duration::ZERO;
    // Of at most as many steps as there are retries, or a user's time-out has of the shortest.
    for _ in 0..1000 {
        due += wait;
        left += wait;
        if due >= patience {
            return Some(left.saturating_sub(last));
        }
        wait = (wait * 2).min(LONGEST);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::progress::tests::facts;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn patience_is_a_quarter_of_an_hour_by_default() {
        // Documentation/networking/ip-sysctl.rst, tcp_retries2.
        assert_eq!(patience(&facts(1, 0)), seconds(924.6));
        let mut few = facts(1, 0);
        few.retries = 5;
        assert_eq!(patience(&few), seconds(12.6));
        few.raw.user_timeout = 30_000;
        assert_eq!(patience(&few), seconds(30.0));
    }

    #[test]
    fn retransmissions_in_vain_are_counted_down() {
        let mut lost = facts(517, 0);
        assert_eq!(gives_up(&lost), None, "all acknowledged");
        lost.raw.write_seq += 100;
        assert_eq!(gives_up(&lost), None, "not sent again yet");
        // Sent again after 0.2, 0.6 and 1.4 s; the next, 1.6 s later, is the last of a user's time-out of 2 s.
        (lost.raw.retransmits, lost.retransmission_ms, lost.sent) = (3, 1600, Some(seconds(0.6)));
        lost.raw.user_timeout = 2000;
        assert_eq!(gives_up(&lost), Some(seconds(1.0)));
        lost.raw.user_timeout = 3000;
        assert_eq!(gives_up(&lost), Some(seconds(1.0 + 3.2)));
        lost.raw.user_timeout = 0;
        let left = gives_up(&lost).expect("it gives up");
        assert!((900.0..1050.0).contains(&left.as_secs_f64()), "{left:?}");
        // Late: the times are at their longest.
        (lost.raw.retransmits, lost.retransmission_ms, lost.sent) = (15, 120_000, Some(seconds(20.0)));
        let left = gives_up(&lost).expect("it gives up");
        assert!(left <= seconds(220.0), "{left:?}");
        lost.raw.snd_wnd = 0;
        assert_eq!(gives_up(&lost), None, "a peer that does not read answers");
    }

    #[test]
    fn keepalive_probes_in_vain_are_counted_down() {
        let mut probed = facts(517, 10);
        (probed.keepalive, probed.keepalive_after) = (true, seconds(60.0));
        (probed.keepalive_interval, probed.keepalive_probes) = (seconds(10.0), 3);
        (probed.acknowledged, probed.received) = (seconds(76.0), Some(seconds(80.0)));
        assert_eq!(gives_up(&probed), None, "no probe is under way");
        probed.raw.probes_out = 2;
        assert_eq!(gives_up(&probed), Some(seconds(14.0)));
        probed.raw.user_timeout = 80_000;
        assert_eq!(gives_up(&probed), Some(seconds(4.0)));
        probed.keepalive = false;
        assert_eq!(gives_up(&probed), None);
    }
}
