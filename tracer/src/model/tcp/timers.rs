//! When does the kernel itself give up on a connection? By its retransmissions and keepalive probes. Pure.
//!
//! Sources: `tcp_write_timeout` and `tcp_keepalive_timer` in net/ipv4/tcp_timer.c.

use std::time::Duration;

use super::{TcpFacts, TcpInternals};

/// `TCP_RTO_MIN` and `TCP_RTO_MAX` (include/net/tcp.h).
const RTO_MIN: Duration = Duration::from_millis(200);
const RTO_MAX: Duration = Duration::from_secs(120);

impl TcpFacts {
    /// How long from now until the kernel ends the connection if nobody answers; `None` if it does not, or that is not to be
    /// seen. Retransmissions in vain are counted down, and keepalive probes in vain; who answers them lives for ever.
    pub fn gives_up(&self) -> Option<Duration> {
        let (activity, internals) = (self.activity.as_ref()?, self.internals.as_ref()?);
        if self.unacknowledged() > 0 {
            let vain = activity.window != Some(0) && activity.retransmits > 0;
            let again = || retransmissions_end(internals, activity.retransmits, activity.sent?);
            return vain.then(again).flatten();
        }
        if !self.keepalive || activity.probes == 0 {
            return None;
        }
        let heard =
            activity.received.map_or(activity.acknowledged, |received| received.min(activity.acknowledged));
        let all =
            internals.keepalive_after + internals.keepalive_interval * internals.keepalive_probes.into();
        Some(internals.user_timeout.unwrap_or(all).saturating_sub(heard))
    }
}

impl TcpInternals {
    /// For how long data is sent again in vain: `TCP_USER_TIMEOUT`, else what so many retransmissions would take if the first
    /// came after the shortest time there is.
    pub fn patience(&self) -> Duration {
        self.user_timeout.unwrap_or_else(|| {
            let retries = u32::from(self.retries);
            let doubling = (RTO_MAX.as_millis() / RTO_MIN.as_millis()).ilog2();
            let doubled = RTO_MIN * ((2 << retries.min(doubling)) - 1);
            doubled + RTO_MAX * retries.saturating_sub(doubling)
        })
    }
}

/// When the retransmission that is one too many is due, the last one having been sent so long ago.
fn retransmissions_end(internals: &TcpInternals, retransmits: u8, last: Duration) -> Option<Duration> {
    let patience = internals.patience();
    let mut wait = internals.retransmission.clamp(Duration::from_millis(1), RTO_MAX);
    // Each time waited since the first retransmission was half of the next, but for those of the full length: how many
    // there were is not to be seen, so that is as of a connection with a short way.
    let vain = u32::from(retransmits);
    let mut due: Duration = match wait < RTO_MAX {
        true => (1..vain.min(30)).map(|ago| wait / 2u32.pow(ago)).sum(),
        false => RTO_MIN * ((2 << vain.min(9)) - 4) + RTO_MAX * vain.saturating_sub(10),
    };
    let mut left = Duration::ZERO;
    // Of at most as many steps as there are retries, or a user's time-out has of the shortest.
    for _ in 0..1000 {
        due += wait;
        left += wait;
        if due >= patience {
            return Some(left.saturating_sub(last));
        }
        wait = (wait * 2).min(RTO_MAX);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tcp::tests::facts;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn patience_is_a_quarter_of_an_hour_by_default() {
        // Documentation/networking/ip-sysctl.rst, tcp_retries2.
        let internals = facts(1, 0).internals.expect("the kernel's");
        assert_eq!(internals.patience(), seconds(924.6));
        let few = TcpInternals { retries: 5, ..internals };
        assert_eq!(few.patience(), seconds(12.6));
        assert_eq!(TcpInternals { user_timeout: Some(seconds(30.0)), ..few }.patience(), seconds(30.0));
    }

    #[test]
    fn retransmissions_in_vain_are_counted_down() {
        let mut lost = facts(517, 0);
        assert_eq!(lost.gives_up(), None, "all acknowledged");
        lost.send_queue = 100;
        assert_eq!(lost.gives_up(), None, "not sent again yet");
        let again = |retransmits, ms, sent, user_timeout: Option<f64>| {
            lost.with_activity(|of| (of.retransmits, of.sent) = (retransmits, Some(seconds(sent))))
                .with_internals(|of| {
                    (of.retransmission, of.user_timeout) =
                        (Duration::from_millis(ms), user_timeout.map(seconds));
                })
        };
        // Sent again after 0.2, 0.6 and 1.4 s; the next, 1.6 s later, is the last of a user's time-out of 2 s.
        assert_eq!(again(3, 1600, 0.6, Some(2.0)).gives_up(), Some(seconds(1.0)));
        assert_eq!(again(3, 1600, 0.6, Some(3.0)).gives_up(), Some(seconds(1.0 + 3.2)));
        let left = again(3, 1600, 0.6, None).gives_up().expect("it gives up");
        assert!((900.0..1050.0).contains(&left.as_secs_f64()), "{left:?}");
        // Late: the times are at their longest.
        let late = again(15, 120_000, 20.0, None);
        let left = late.gives_up().expect("it gives up");
        assert!(left <= seconds(220.0), "{left:?}");
        let full = late.with_activity(|of| of.window = Some(0));
        assert_eq!(full.gives_up(), None, "a peer that does not read answers");
    }

    #[test]
    fn keepalive_probes_in_vain_are_counted_down() {
        let mut probed = facts(517, 10)
            .with_internals(|of| {
                of.keepalive_after = seconds(60.0);
                (of.keepalive_interval, of.keepalive_probes) = (seconds(10.0), 3);
            })
            .with_activity(|of| (of.acknowledged, of.received) = (seconds(76.0), Some(seconds(80.0))));
        probed.keepalive = true;
        assert_eq!(probed.gives_up(), None, "no probe is under way");
        probed = probed.with_activity(|of| of.probes = 2);
        assert_eq!(probed.gives_up(), Some(seconds(14.0)));
        probed = probed.with_internals(|of| of.user_timeout = Some(seconds(80.0)));
        assert_eq!(probed.gives_up(), Some(seconds(4.0)));
        probed.keepalive = false;
        assert_eq!(probed.gives_up(), None);
    }
}
