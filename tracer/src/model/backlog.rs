//! What waits in the queue of a socket: connections that nobody has accepted, datagrams that nobody has read.

use std::fmt;

use crate::util::human;

/// What waits in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// Connections of a listener.
    Connections,
    /// Messages, to a socket that has a name.
    Datagrams,
}

/// A queue, and how much there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Of what.
    pub waiting: QueueKind,
    /// How many there are.
    pub number: u32,
    /// The limit that its owner has set. The kernel takes one more than that (`sk_acceptq_is_full`, include/net/sock.h).
    /// `None`: not to be seen.
    pub limit: Option<u32>,
}

impl fmt::Display for Backlog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (one, do_what) = match self.waiting {
            QueueKind::Connections => ("connection", "accepted"),
            QueueKind::Datagrams => ("datagram", "read"),
        };
        let verb = |number| if number == 1 { "waits" } else { "wait" };
        match self.limit {
            Some(limit) => {
                let wait = verb(self.number);
                write!(f, "{} of at most {limit} {one}s {wait} to be {do_what}", self.number)
            }
            None => {
                write!(f, "{} {} to be {do_what}", human::count(self.number as usize, one), verb(self.number))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_many_wait_and_how_many_may() {
        use QueueKind::{Connections, Datagrams};
        for (waiting, number, limit, said) in [
            (Connections, 3, Some(1), "3 of at most 1 connections wait to be accepted"),
            (Connections, 1, Some(0), "1 of at most 0 connections waits to be accepted"),
            (Connections, 1, Some(1), "1 of at most 1 connections waits to be accepted"),
            (Connections, 0, Some(128), "0 of at most 128 connections wait to be accepted"),
            (Datagrams, 11, Some(10), "11 of at most 10 datagrams wait to be read"),
            (Connections, 1, None, "1 connection waits to be accepted"),
            (Connections, 2, None, "2 connections wait to be accepted"),
        ] {
            assert_eq!(Backlog { waiting, number, limit }.to_string(), said);
        }
    }
}
