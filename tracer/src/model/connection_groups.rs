//! Connections of one kind, put together by process: requests that it has got and not answered, by the address that they came to, and
//! connections that only the other end has closed. A server may have a hundred thousand of them.
//!
//! Part of `model`, layer 0.

use std::{cmp::Reverse, time::Duration};

use hashbrown::{HashMap, HashSet};

use super::{file::Endpoint, request::AskedConnection, wait::ProcessId};

/// Connections of a process that are alike.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionGroup {
    /// The one that has been so for longest.
    pub oldest: AskedConnection,
    /// The process's address that they have in common, where they are told apart by that.
    pub local: Option<Endpoint>,
    /// For how long that one has been so, as of the moment at which it was looked at.
    pub age: Duration,
    /// How many there are.
    pub number: usize,
    /// On how many of them the process has not even read all.
    pub unread: usize,
}

/// Puts connections together, one by one as they come.
#[derive(Debug, Default)]
pub struct ConnectionTally {
    groups: HashMap<(ProcessId, Option<Endpoint>), ConnectionGroup>,
    /// Sockets that have been counted: a process may have several descriptors of one.
    counted: HashSet<(ProcessId, u64)>,
}

impl ConnectionTally {
    /// Counts a connection on which a request has no answer; any other is left out. Those to one address are alike.
    pub fn add_owed(&mut self, connection: AskedConnection) {
        if let Some(age) = connection.owed() {
            let local = connection.file.tcp().map(|addresses| addresses.local);
            self.add(connection, local, age);
        }
    }

    /// Counts a connection that only the other end has closed; any other is left out. All of a process are alike.
    pub fn add_unclosed(&mut self, connection: AskedConnection) {
        if let Some(age) = connection.tcp.closed_by_peer() {
            self.add(connection, None, age);
        }
    }

    fn add(&mut self, connection: AskedConnection, local: Option<Endpoint>, age: Duration) {
        if !self.counted.insert((connection.process, connection.file.inode)) {
            return;
        }
        let key = (connection.process, local);
        let unread = usize::from(connection.tcp.receive_queue > 0);
        let one = ConnectionGroup { oldest: connection, local, age, number: 1, unread };
        match self.groups.get_mut(&key) {
            None => {
                self.groups.insert(key, one);
            }
            Some(group) => {
                let (number, unread) = (group.number + 1, group.unread + unread);
                if age > group.age {
                    *group = one;
                }
                (group.number, group.unread) = (number, unread);
            }
        }
    }

    /// All of them, the oldest first.
    pub fn finish(self) -> Vec<ConnectionGroup> {
        let mut all: Vec<ConnectionGroup> = self.groups.into_values().collect();
        all.sort_by_key(|of| (Reverse(of.age), of.oldest.process.pid, of.oldest.fd));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        request::tests::{asked, asked_of},
        tcp::TcpState,
    };

    #[test]
    fn requests_to_one_address_are_one_and_the_oldest_leads() {
        let mut tally = ConnectionTally::default();
        let unread = |mut connection: AskedConnection| {
            connection.tcp.receive_queue = 9;
            connection
        };
        tally.add_owed(asked_of(7, 4, 80, 20));
        tally.add_owed(unread(asked_of(7, 5, 80, 50)));
        tally.add_owed(asked_of(7, 6, 443, 30));
        tally.add_owed(asked_of(8, 4, 80, 10));
        tally.add_owed(AskedConnection { fd: 9, ..asked_of(7, 4, 80, 20) });
        tally.add_owed(asked(7, 10, 80, 60));
        let line = |of: &ConnectionGroup| {
            (of.oldest.process.pid, of.oldest.fd, of.age.as_secs(), of.number, of.unread)
        };
        let seen: Vec<_> = tally.finish().iter().map(line).collect();
        assert_eq!(seen, [(7, 5, 50, 2, 1), (7, 6, 30, 1, 0), (8, 4, 10, 1, 0)]);
    }

    #[test]
    fn those_of_a_process_that_only_the_other_end_has_closed_are_one() {
        let mut tally = ConnectionTally::default();
        let closed = |fd, port, age| {
            let mut connection = asked_of(7, fd, port, 5);
            connection.tcp.state = TcpState::CloseWait;
            connection.tcp.activity.as_mut().expect("is seen").acknowledged = Duration::from_secs(age);
            connection
        };
        tally.add_unclosed(closed(4, 80, 90));
        tally.add_unclosed(closed(5, 443, 120));
        tally.add_unclosed(asked_of(7, 6, 80, 200));
        let all = tally.finish();
        let line = |of: &ConnectionGroup| (of.oldest.fd, of.local, of.age.as_secs(), of.number);
        assert_eq!(all.iter().map(line).collect::<Vec<_>>(), [(5, None, 120, 2)]);
    }
}
