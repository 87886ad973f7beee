//! Requests that no thread waits for: an event loop has many under way, and each of its threads waits for whatever comes first. Pure.
//!
//! One to which an answer is due is a wait of its process. The others are shown and not judged: what a client of HTTP/2 or MQTT at rest has
//! sent last, too, has no answer.

use std::{cmp::Reverse, collections::HashMap, time::Duration};

use compact_str::CompactString;
use hashbrown::HashSet;

use super::pipeline::Assessment;
use crate::{
    model::{
        class::Level,
        file::{Addresses, Endpoint},
        request::{AskedConnection, Expectation},
        wait::{FdState, ProcessId, Snapshot, Wait},
    },
    util::clock::Now,
};

/// The requests of a process to one service that have no answer.
#[derive(Clone, Debug, PartialEq)]
pub struct UnansweredRequests {
    /// Whose they are.
    pub process: ProcessId,
    /// Its name.
    pub comm: CompactString,
    /// The connection of the oldest.
    pub fd: i32,
    /// Where that one's ends are.
    pub addresses: Addresses,
    /// For how long it has had no answer.
    pub age: Duration,
    /// How many there are.
    pub number: usize,
}

/// What keeps requests from being waits of their own.
#[derive(Default)]
pub struct Taken {
    /// Sockets on which threads wait, by inode.
    pub sockets: HashSet<u64>,
    /// Processes that something holds: no answer helps them.
    pub suspended: HashSet<ProcessId>,
}

impl Taken {
    /// By what threads name in their calls, and by who is held.
    pub fn of(snapshot: &Snapshot) -> Self {
        let suspended = snapshot.suspended.iter().map(|suspended| suspended.thread.process).collect();
        Self { sockets: sockets_of_threads(&snapshot.waits).collect(), suspended }
    }

    /// Whether a connection's request is not to be a wait.
    pub fn has(&self, connection: &AskedConnection) -> bool {
        self.sockets.contains(&connection.file.inode) || self.suspended.contains(&connection.process)
    }
}

/// The sockets that these threads name in their calls.
fn sockets_of_threads(waits: &[Wait]) -> impl Iterator<Item = u64> {
    let socket =
        |wait: &Wait| wait.fd_state.file().filter(|file| file.socket.is_some()).map(|file| file.inode);
    waits.iter().filter(|wait| !wait.thread.is_request()).filter_map(socket)
}

/// Adds the requests to which an answer is due, as far as their connections can tell and as old as that, to the waits of a moment.
pub fn add_to(snapshot: &mut Snapshot, connections: &[AskedConnection], age: Duration) {
    let now = Now::read();
    let taken = Taken::of(snapshot);
    let is_due = |connection: &&AskedConnection| {
        connection.expectation() == Expectation::Answer && !taken.has(connection)
    };
    let waits = connections.iter().filter(is_due).filter_map(|due| due.wait(&now));
    let mut waits: Vec<Wait> = waits.filter(|wait| wait.age >= age).collect();
    // Of processes that share a socket the oldest waits.
    waits.sort_by_key(|wait| (wait.thread.start_ns, wait.thread.process.start_ns, wait.fd));
    waits.dedup_by_key(|wait| wait.thread.start_ns);
    snapshot.waits.append(&mut waits);
}

/// Leaves those requests out on whose sockets a thread waits, as is found out once its set of fds has been read; returns them.
pub fn drop_doubles(assessments: &mut Vec<Assessment>) -> Vec<Assessment> {
    if !assessments.iter().any(|assessment| assessment.wait.thread.is_request()) {
        return Vec::new();
    }
    let is_thread = |of: &&Assessment| !of.wait.thread.is_request() && of.class.level() != Level::Idle;
    let waited_for: HashSet<u64> =
        assessments.iter().filter(is_thread).filter_map(|of| of.resolved.file.inode()).collect();
    let is_double =
        |of: &mut Assessment| of.wait.thread.is_request() && waited_for.contains(&of.wait.thread.start_ns);
    assessments.extract_if(.., is_double).collect()
}

/// Requests of this age and older, by process and service, oldest first; without those on whose sockets one of these threads waits.
pub fn of_no_thread(
    connections: &[AskedConnection],
    waits: &[Assessment],
    age: Duration,
) -> Vec<UnansweredRequests> {
    let waited_for: HashSet<u64> = waits
        .iter()
        .filter_map(|wait| match &wait.resolved.file {
            FdState::Open(file) => Some(file.inode),
            FdState::None | FdState::Absent | FdState::Unknown => None,
        })
        .collect();
    let mut services: HashMap<(ProcessId, Endpoint), UnansweredRequests> = HashMap::new();
    for connection in connections.iter().filter(|connection| !waited_for.contains(&connection.file.inode)) {
        let (Some(since), Some(addresses)) = (connection.unanswered(), connection.file.tcp()) else {
            continue;
        };
        if since < age {
            continue;
        }
        let request = UnansweredRequests {
            process: connection.process,
            comm: connection.comm.clone(),
            fd: connection.fd,
            addresses,
            age: since,
            number: 0,
        };
        let service =
            services.entry((connection.process, addresses.remote)).or_insert_with(|| request.clone());
        let number = service.number + 1;
        if since > service.age {
            *service = request;
        }
        service.number = number;
    }
    let mut services: Vec<UnansweredRequests> = services.into_values().collect();
    services.sort_by_key(|service| (Reverse(service.age), service.process.pid, service.fd));
    services
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::verdict::tests::wait,
        model::{class::Class, request::tests::asked, syscalls::Syscall, target::Target},
        resolve::Resolved,
    };

    /// A thread that waits on the socket with this inode.
    fn waiting_on(connection: &AskedConnection) -> Assessment {
        let wait = wait(Syscall::Recvfrom, [3, 0, 0, 0, 0, 0]);
        let mut resolved = Resolved::new(Some(3), Target::None, None);
        resolved.file = FdState::Open(connection.file);
        Assessment { wait, resolved, class: Class::Reply }
    }

    #[test]
    fn requests_to_one_service_are_one_line_and_the_oldest_leads() {
        let all =
            [asked(7, 3, 5432, 10), asked(7, 4, 5432, 30), asked(7, 5, 6379, 20), asked(8, 3, 5432, 40)];
        let seen = |waits: &[Assessment], age| {
            let of = of_no_thread(&all, waits, Duration::from_secs(age));
            let line = |of: &UnansweredRequests| {
                (of.process.pid, of.fd, of.addresses.remote.port, of.age.as_secs(), of.number)
            };
            of.iter().map(line).collect::<Vec<_>>()
        };
        assert_eq!(seen(&[], 0), [(8, 3, 5432, 40, 1), (7, 4, 5432, 30, 2), (7, 5, 6379, 20, 1)]);
        assert_eq!(seen(&[], 25), [(8, 3, 5432, 40, 1), (7, 4, 5432, 30, 1)]);
        assert_eq!(seen(&[waiting_on(&all[1])], 15), [(8, 3, 5432, 40, 1), (7, 5, 6379, 20, 1)]);
    }
}
