//! Session tickets: what a server of TLS 1.3 sends by itself once the handshake is over. Pure.
//!
//! A client sends its request together with the end of the handshake. The tickets acknowledge both, so that the server seems to have
//! spoken last and to have answered, though it may hang. What is in them is encrypted; how long they are is not.

use std::ops::RangeInclusive;

use super::{TcpFacts, progress::REACTION};

/// Tickets that OpenSSL and its descendants make (RFC 8446 4.6.1; `construct_stateless_ticket`, `tls_construct_new_session_ticket`): the
/// session is encrypted in blocks, so that a record of one is as many bytes longer than this as some blocks have. What is around the session:
/// 5 bytes of record, 4 of message, 25 of its fields, 17 of encryption, and 64 of the ticket's name, vector and code.
const AROUND_SESSION: u32 = 111;
/// A block of AES.
const BLOCK: u32 = 16;
/// What tickets take that have been seen: 255 bytes of Python and HAProxy, 271 of nginx, 287 of Node and Ruby, 16 to 64 more where the client names
/// a long host; less for a cipher with shorter keys.
const TICKET: RangeInclusive<u32> = 223..=543;
/// What a handshake takes at least without them: the server's flight of a resumed session; the client's first message and its last.
const FLIGHT_MIN: u64 = 200;
const CLIENT_MIN: u64 = 250;
/// What it takes at most: a chain of certificates. After more there was an answer.
const FLIGHT_MAX: u64 = 16 << 10;

impl TcpFacts {
    /// Whether what the peer sent last seems to be session tickets and no answer: this end connected, all that was said fits a handshake and
    /// a request, the peer's last bytes followed ours at once, and are as long as one ticket or two. One in twelve answers of a few
    /// hundred bytes is as well.
    pub(super) fn fits_session_tickets(&self) -> bool {
        let (Some(activity), Some(internals)) = (&self.activity, &self.internals) else { return false };
        let (Some(sent), Some(received)) = (activity.sent, activity.received) else { return false };
        let last = internals.last_segment;
        let is_ticket =
            |bytes: u32| TICKET.contains(&bytes) && (bytes - AROUND_SESSION).is_multiple_of(BLOCK);
        let flight = activity.bytes_received.saturating_sub(last.into());
        (is_ticket(last) || last.is_multiple_of(2) && is_ticket(last / 2))
            && (FLIGHT_MIN..=FLIGHT_MAX).contains(&flight)
            && activity.bytes_sent_once() >= CLIENT_MIN
            && sent.abs_diff(received) < REACTION + activity.round_trip
            && self.has_connected()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tcp::{LastSender, tests::facts};

    /// As a client has it that sent and received so many bytes, the last ones in a segment of so many.
    fn after(sent: u64, received: u64, last: u32) -> TcpFacts {
        facts(sent, received)
            .with_activity(|of| of.bytes_acknowledged = sent + 1)
            .with_internals(|of| of.last_segment = last)
    }

    /// As curl, wget, urllib, PHP and Ruby had it, whose requests were never answered, and as they had it after an answer.
    #[test]
    fn a_handshake_is_no_answer_as_tried_with_servers() {
        let hung = [
            (698, 1847, 255), // python
            (749, 1906, 255),
            (738, 1879, 271), // nginx
            (799, 1926, 287),
            (833, 1978, 319),
            (799, 1847, 255), // haproxy
            (833, 1915, 287),
            (738, 1911, 574), // node: both at once
            (879, 1911, 287), // ruby
        ];
        for (sent, received, last) in hung {
            let found = after(sent, received, last).last_sender();
            assert_eq!(found, LastSender::Tickets, "{sent} {received} {last}");
        }
        // The headers of a stream of events behind the second ticket, and by themselves.
        for (sent, received, last) in [(799, 1930, 338), (679, 1930, 83)] {
            assert_eq!(
                after(sent, received, last).last_sender(),
                LastSender::Theirs,
                "{sent} {received} {last}"
            );
        }
    }

    #[test]
    fn what_fits_no_handshake_is_an_answer() {
        let theirs = |facts: TcpFacts| assert_eq!(facts.last_sender(), LastSender::Theirs, "{facts:?}");
        theirs(after(80, 1847, 255));
        theirs(after(800, 255, 255));
        theirs(after(800, 100_000, 255));
        theirs(after(800, 1847, 256));
        // Two tickets are not as long as one and a half.
        theirs(after(800, 1847, 255 + 127));
        // A server was asked.
        theirs(after(800, 1847, 255).with_activity(|of| of.bytes_acknowledged = 800));
        // It was some time before that was said.
        let later = |of: &mut crate::model::tcp::TcpActivity| of.sent = of.sent.map(|ago| ago + 2 * REACTION);
        theirs(after(800, 1847, 255).with_activity(later));
    }
}
