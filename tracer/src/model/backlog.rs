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
        let wait = if self.number == 1 { "waits" } else { "wait" };
        write!(f, "{} {wait} to be {do_what}", human::count(self.number as usize, one))?;
        match self.limit {
            Some(limit) if self.number > limit => write!(f, " (limit {limit}: full)"),
            Some(limit) => write!(f, " (limit {limit})"),
            None => Ok(()),
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
            (Connections, 3, Some(1), "3 connections wait to be accepted (limit 1: full)"),
            (Connections, 1, Some(0), "1 connection waits to be accepted (limit 0: full)"),
            (Connections, 1, Some(1), "1 connection waits to be accepted (limit 1)"),
            (Connections, 0, Some(128), "0 connections wait to be accepted (limit 128)"),
            (Datagrams, 11, Some(10), "11 datagrams wait to be read (limit 10: full)"),
            (Connections, 1, None, "1 connection waits to be accepted"),
            (Connections, 2, None, "2 connections wait to be accepted"),
        ] {
            assert_eq!(Backlog { waiting, number, limit }.to_string(), said);
        }
    }
}
