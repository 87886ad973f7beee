//! A client that waits for more from a server that spoke last: is the rest of an answer missing, or has a subscription nothing to say?
//! The bytes look alike; what the server does with the connection tells. Pure.

use super::verdict::is_mutual;
use crate::resolve::Resolved;

/// What is behind a server's silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// It does not watch the connection: it is busy with an answer, or stuck in one.
    CutOff,
    /// It does nothing but read the connection, as its client does: one of them has lost something.
    Mutual,
    /// It watches the connection among others, as it would with nothing to say.
    AtRest,
    /// It is on another host, or not to be seen.
    Unknown,
}

/// What is behind the silence on a connection.
pub fn silence(resolved: &Resolved) -> Silence {
    match &resolved.peers {
        Some(peers) if peers.others.is_empty() || peers.backlog.is_some() => Silence::Unknown,
        Some(peers) if is_mutual(peers) => Silence::Mutual,
        // It may be about to wait for its next event.
        Some(peers) if peers.unsettled => Silence::Unknown,
        Some(peers) => match peers.waits {
            Some(true) => Silence::AtRest,
            Some(false) => Silence::CutOff,
            None => Silence::Unknown,
        },
        None => Silence::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::verdict::tests::{on, peers, tcp},
        model::syscalls::Syscall,
        resolve::peers::Peers,
    };

    #[test]
    fn what_the_server_does_tells_what_its_silence_means() {
        let of = |others, waits, reads_since, single| {
            let peers =
                peers(others, false, false, waits).map(|peers| Peers { reads_since, single, ..peers });
            silence(&Resolved { peers, ..on(Syscall::Read, tcp()) })
        };
        for (others, waits, reads_since, single, expected) in [
            (1, Some(false), None, false, Silence::CutOff),
            (1, Some(true), None, true, Silence::AtRest),
            (1, Some(true), Some(7), true, Silence::Mutual),
            // Its client has other threads, one of which may speak.
            (1, Some(true), Some(7), false, Silence::AtRest),
            (1, None, None, false, Silence::Unknown),
            (0, Some(false), None, false, Silence::Unknown),
        ] {
            let found = of(others, waits, reads_since, single);
            assert_eq!(found, expected, "{others} {waits:?} {reads_since:?} {single}");
        }
        assert_eq!(silence(&on(Syscall::Read, tcp())), Silence::Unknown);
        let at_work = peers(1, false, false, Some(false)).map(|peers| Peers { unsettled: true, ..peers });
        assert_eq!(silence(&Resolved { peers: at_work, ..on(Syscall::Read, tcp()) }), Silence::Unknown);
    }
}
