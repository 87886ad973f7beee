//! Which programs of the host owe answers, and which leave connections open that the other end has closed, by the last pass over all sockets?
//! They are told of and never flagged: who only takes messages owes answers for ever, and a pool of connections has some that are closed.
//! Pure.

use compact_str::CompactString;
use hashbrown::HashMap;

use crate::{
    model::{connection_groups::ConnectionGroup, file::Endpoint, wait::ProcessId},
    util::fair,
};

/// ServiceTable that are told of, the oldest of each user.
const SERVICES_MAX: usize = 50;

/// Connections of a program, of all its processes that have some.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceConnections {
    /// Name of the processes.
    pub comm: CompactString,
    /// The one that has the oldest.
    pub process: ProcessId,
    /// Their user.
    pub uid: u32,
    /// The address of theirs to which these were made, where they are told apart by that.
    pub local: Option<Endpoint>,
    /// How many there are.
    pub number: usize,
    /// Since when the oldest has been so, nanoseconds of `CLOCK_MONOTONIC`.
    pub since_ns: u64,
}

/// All of one kind at a pass.
#[derive(Debug, Default)]
pub struct ServiceTable {
    /// Those with names, the oldest first.
    pub services: Vec<ServiceConnections>,
    /// Connections of the others.
    pub others: usize,
    /// Since when the oldest of these has been so, nanoseconds of `CLOCK_MONOTONIC`.
    pub others_since_ns: Option<u64>,
}

impl ServiceTable {
    /// Takes what a pass has found, the oldest first.
    pub fn of(groups: Vec<ConnectionGroup>) -> Self {
        // A server may have a process for each connection. In another network an address is another one.
        let mut services: HashMap<_, ServiceConnections> = HashMap::new();
        for ConnectionGroup { oldest, local, age, number, .. } in groups {
            let since_ns = oldest.seen_ns.saturating_sub(age.as_nanos() as u64);
            let key = (oldest.comm.clone(), oldest.uid, oldest.tcp.netns, local);
            services.entry(key).and_modify(|of| of.number += number).or_insert_with(|| ServiceConnections {
                comm: oldest.comm,
                process: oldest.process,
                uid: oldest.uid,
                local,
                number,
                since_ns,
            });
        }
        let mut all: Vec<ServiceConnections> = services.into_values().collect();
        all.sort_by_key(|of| (of.since_ns, of.process.pid));
        let total: usize = all.iter().map(|of| of.number).sum();
        let places: Vec<usize> = (0..all.len()).collect();
        let mut kept = fair::keep(places, SERVICES_MAX, |at| all[*at].uid);
        kept.sort_unstable();
        let others_since_ns =
            all.iter().enumerate().find(|(at, _)| kept.binary_search(at).is_err()).map(|(_, of)| of.since_ns);
        let services: Vec<ServiceConnections> = kept.into_iter().map(|at| all[at].clone()).collect();
        let others = total - services.iter().map(|of| of.number).sum::<usize>();
        Self { services, others, others_since_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        connection_groups::ConnectionTally,
        request::{AskedConnection, tests::asked_of},
    };

    const NOW_NS: u64 = 1_000_000_000_000;

    fn of(connections: impl IntoIterator<Item = AskedConnection>) -> ServiceTable {
        let mut tally = ConnectionTally::default();
        for connection in connections {
            tally.add_owed(AskedConnection { seen_ns: NOW_NS, ..connection });
        }
        ServiceTable::of(tally.finish())
    }

    fn ages(services: &ServiceTable) -> Vec<(u32, usize, u64)> {
        let age =
            |of: &ServiceConnections| (of.process.pid, of.number, (NOW_NS - of.since_ns) / 1_000_000_000);
        services.services.iter().map(age).collect()
    }

    #[test]
    fn the_processes_of_a_service_are_one() {
        let services = of([asked_of(7, 4, 80, 20), asked_of(8, 4, 80, 50), asked_of(8, 5, 443, 30)]);
        assert_eq!(ages(&services), [(8, 2, 50), (8, 1, 30)]);
        assert_eq!((services.others, services.others_since_ns), (0, None));
        let mut elsewhere = asked_of(9, 4, 80, 10);
        elsewhere.tcp.netns = Some(2);
        assert_eq!(of([asked_of(7, 4, 80, 20), elsewhere]).services.len(), 2, "in another network");
    }

    #[test]
    fn of_too_many_each_user_has_some() {
        let many = (1..=60).map(|port| asked_of(7, i32::from(port), port, 1000 - u64::from(port)));
        let mut another = asked_of(8, 4, 99, 5);
        another.uid = 1000;
        let services = of(many.chain([another]));
        assert_eq!(services.services.len(), SERVICES_MAX);
        assert_eq!(services.services.last().map(|of| of.uid), Some(1000));
        assert_eq!((services.others, services.others_since_ns), (11, Some(NOW_NS - 950 * 1_000_000_000)));
    }
}
