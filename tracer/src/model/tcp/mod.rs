//! The state of a TCP connection, as far as it was seen, in ordinary units.
//!
//! Part of `model`, layer 0, and uses what that may use.

mod progress;
mod tickets;
mod timers;

use std::time::Duration;

use super::backlog::Backlog;

pub use self::progress::{LastSender, ProgressCounters};

/// State of a TCP connection (include/net/tcp_states.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TcpState {
    Unknown,
    Established,
    SynSent,
    SynRecv,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
    NewSynRecv,
}

impl TcpState {
    /// Every state, at the kernel's number, with its name.
    pub const NAMES: [(TcpState, &str); 13] = [
        (TcpState::Unknown, "UNKNOWN"),
        (TcpState::Established, "ESTABLISHED"),
        (TcpState::SynSent, "SYN_SENT"),
        (TcpState::SynRecv, "SYN_RECV"),
        (TcpState::FinWait1, "FIN_WAIT1"),
        (TcpState::FinWait2, "FIN_WAIT2"),
        (TcpState::TimeWait, "TIME_WAIT"),
        (TcpState::Close, "CLOSE"),
        (TcpState::CloseWait, "CLOSE_WAIT"),
        (TcpState::LastAck, "LAST_ACK"),
        (TcpState::Listen, "LISTEN"),
        (TcpState::Closing, "CLOSING"),
        (TcpState::NewSynRecv, "NEW_SYN_RECV"),
    ];

    /// By the kernel's number.
    pub fn of(number: u8) -> Self {
        Self::NAMES.get(usize::from(number)).map_or(Self::Unknown, |(state, _)| *state)
    }

    /// The kernel's number.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// As `/proc/net/tcp`'s readers call it.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize].1
    }

    /// Whether this end has closed its side.
    pub fn has_closed(self) -> bool {
        matches!(self, TcpState::FinWait1 | TcpState::FinWait2 | TcpState::LastAck | TcpState::Closing)
    }
}

/// What was seen of a TCP connection. `/proc/net/tcp` has the fields here; `struct tcp_info` adds [`activity`](Self::activity),
/// and only the kernel programs see [`internals`](Self::internals).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TcpFacts {
    /// Its state.
    pub state: TcpState,
    /// Network namespace, as the inode number of `/proc/PID/ns/net`.
    pub netns: Option<u32>,
    /// Written by the program and not acknowledged by the peer, bytes; counts SYN and FIN as well.
    pub send_queue: u32,
    /// Received and not read by the program, bytes.
    pub receive_queue: u32,
    /// `SO_KEEPALIVE` is on.
    pub keepalive: bool,
    /// Its counters and stamps.
    pub activity: Option<TcpActivity>,
    /// Its sequence numbers and options.
    pub internals: Option<TcpInternals>,
    /// Of a listener: connections that nobody has accepted.
    pub backlog: Option<Backlog>,
}

/// Counters and stamps of a TCP connection, which `struct tcp_info` shows (include/uapi/linux/tcp.h).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TcpActivity {
    /// Payload bytes sent, retransmissions included.
    pub bytes_sent: u64,
    /// Payload bytes retransmitted.
    pub bytes_retransmitted: u64,
    /// Bytes that the peer has acknowledged; the SYN counts as one.
    pub bytes_acknowledged: u64,
    /// Payload bytes received.
    pub bytes_received: u64,
    /// Since data was last sent; `None` if never.
    pub sent: Option<Duration>,
    /// Since data was last received; `None` if never.
    pub received: Option<Duration>,
    /// Since the last acknowledgement came, with data or without.
    pub acknowledged: Duration,
    /// Smoothed round-trip time.
    pub round_trip: Duration,
    /// Retransmissions without an answer.
    pub retransmits: u8,
    /// How often the time to the next retransmission or probe was doubled.
    pub backoff: u8,
    /// Keepalive or window probes without an answer.
    pub probes: u8,
    /// How many bytes the peer takes; some kernels do not show it.
    pub window: Option<u32>,
    /// Since bytes of ours were last acknowledged, be it a SYN; `None` if never, or it is not seen.
    pub delivered: Option<Duration>,
    /// Since what is on its way was first sent, where it has been sent again since: of a connection attempt, its SYN. `None` if
    /// it was not, or it is not seen.
    pub first_sent: Option<Duration>,
    /// Anything that was sent is not acknowledged yet.
    pub in_flight: bool,
}

impl TcpActivity {
    /// Payload bytes sent, each counted once.
    pub fn bytes_sent_once(&self) -> u64 {
        self.bytes_sent.saturating_sub(self.bytes_retransmitted)
    }
}

/// What only the kernel programs see of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TcpInternals {
    /// Sent and not acknowledged, bytes: of the send queue, what is on its way.
    pub in_flight: u32,
    /// Bytes of data in the last segment that came in order; 0 of a bare acknowledgement.
    pub last_segment: u32,
    /// `SO_RCVTIMEO`, if set.
    pub receive_timeout: Option<Duration>,
    /// `SO_SNDTIMEO`, if set.
    pub send_timeout: Option<Duration>,
    /// `TCP_USER_TIMEOUT`, if set.
    pub user_timeout: Option<Duration>,
    /// Silence after which keepalive probes the peer, where it is on.
    pub keepalive_after: Duration,
    /// Time between two probes.
    pub keepalive_interval: Duration,
    /// Probes without an answer after which the peer counts as dead.
    pub keepalive_probes: u8,
    /// Time from the last retransmission to the next.
    pub retransmission: Duration,
    /// Retransmissions after which the kernel gives up (`net.ipv4.tcp_retries2`).
    pub retries: u8,
    /// Who chose the local port, if that is known.
    pub port_chosen_by: Option<PortChooser>,
}

/// Who chose a local port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortChooser {
    /// `connect`: this end is a client's.
    Connect,
    /// `bind`: of this socket, or of the listener that it came from.
    Bind,
}

impl TcpFacts {
    /// Written by the program and not acknowledged by the peer, those not sent yet included.
    pub fn unacknowledged(&self) -> u32 {
        // While connecting and after a close the queue covers SYN and FIN as well.
        if self.state == TcpState::Established { self.send_queue } else { 0 }
    }

    /// Whether the peer has said that it takes nothing more.
    pub fn is_full(&self) -> bool {
        self.window() == Some(0) && self.state == TcpState::Established
    }

    /// How many bytes the peer takes.
    pub fn window(&self) -> Option<u32> {
        self.activity.and_then(|activity| activity.window)
    }

    /// Retransmissions without an answer, as far as they are seen.
    pub fn retransmits(&self) -> u8 {
        self.activity.map_or(0, |activity| activity.retransmits)
    }

    /// `SO_SNDTIMEO` for who sends, else `SO_RCVTIMEO`, if it is set and that is seen.
    pub fn timeout(&self, sends: bool) -> Option<Duration> {
        let internals = self.internals?;
        if sends { internals.send_timeout } else { internals.receive_timeout }
    }

    /// Since data was last sent, if any was and that is seen.
    pub fn sent(&self) -> Option<Duration> {
        self.activity.and_then(|activity| activity.sent)
    }

    /// Since data was last received, if any was and that is seen.
    pub fn received(&self) -> Option<Duration> {
        self.activity.and_then(|activity| activity.received)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

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
            delivered: None,
            first_sent: None,
            in_flight: false,
        };
        let internals = TcpInternals {
            in_flight: 0,
            last_segment: 0,
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
            backlog: None,
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
}
