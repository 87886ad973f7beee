//! What the watching thread tells others that ask: between two of its looks, and with what it knows.

use std::{cmp::Reverse, time::Instant};

use anyhow::Result;

use super::AgentLoop;
use crate::{
    assess::shared::{AgentRequest, Numbers},
    assess::stall::Stall,
    collect::{Source, losses},
    model::cgroup::Owner,
    model::class::Level,
    model::wait::{Snapshot, Wait},
    util::clock::monotonic_ns,
    util::fair,
};

impl AgentLoop {
    /// Answers everything that has been asked.
    pub(super) fn answer_all(&mut self) {
        let mut count = [0; 8];
        // The counter only wakes; what it counts to says nothing.
        let _ = rustix::io::read(&*self.asked.wake, &mut count);
        while let Ok(ask) = self.asked.asks.try_recv() {
            self.answer(ask);
        }
    }

    fn answer(&mut self, ask: AgentRequest) {
        // Whoever asked may have gone.
        match ask {
            AgentRequest::Snapshot(reply) => drop(reply.send(self.known_snapshot())),
            AgentRequest::LookUp(fds, reply) => drop(reply.send(self.bpf.look_up(&fds))),
            AgentRequest::Stacks(sleepers, reply) => drop(reply.send(self.bpf.stacks(&sleepers))),
            AgentRequest::Registers(process, tids, reply) => {
                drop(reply.send(self.bpf.registers(process, &tids)))
            }
            AgentRequest::Requests(sleepers, reply) => drop(reply.send(self.bpf.requests(&sleepers))),
            AgentRequest::Holders(files, tuples, reply) => {
                drop(reply.send(self.bpf.holders(&files, &tuples)))
            }
            AgentRequest::Stalls(reply) => {
                drop(reply.send(Ok(self.tracker.stalls().values().cloned().collect())))
            }
            AgentRequest::Incidents(reply) => drop(reply.send(Ok(self.incidents.at(monotonic_ns())))),
            AgentRequest::Excuses(pid, reply) => {
                drop(reply.send(Ok(self.tracker.excuses(pid, monotonic_ns()))))
            }
            AgentRequest::Worst(most, reply) => drop(reply.send(self.worst(most))),
            AgentRequest::Numbers(reply) => {
                self.durations.get_or_insert_default();
                self.durations_asked = Instant::now();
                drop(reply.send(self.numbers()));
            }
            AgentRequest::Durations(pid, start_ticks, reply) => {
                let of =
                    self.durations.as_ref().and_then(|durations| durations.of(pid, start_ticks)).cloned();
                drop(reply.send(Ok(of)));
            }
        }
    }

    /// A snapshot with the ages that the agent knows: of waits that are many sleeps.
    fn known_snapshot(&mut self) -> Result<Snapshot> {
        let mut snapshot = self.snapshot()?;
        self.add_requests(&mut snapshot);
        for wait in &mut snapshot.waits {
            self.tracker.date_back(wait);
        }
        Ok(snapshot)
    }

    /// A snapshot, and where in it the worst waits are that are not idle; of too many, the worst of each owner. Which unit or
    /// container a wait is of is known where it is a stall; the others are their users'.
    fn worst(&mut self, most: usize) -> Result<(Snapshot, Vec<usize>)> {
        let snapshot = self.known_snapshot()?;
        let level = |at: usize| {
            let Wait { thread, age, .. } = &snapshot.waits[at];
            self.tracker.standing(thread, *age).judgement.level()
        };
        let mut worst: Vec<(Level, Reverse<_>, usize)> = (0..snapshot.waits.len())
            .map(|at| (level(at), Reverse(snapshot.waits[at].age), at))
            .filter(|(level, ..)| *level != Level::Idle)
            .collect();
        worst.sort_unstable();
        let worst = fair::keep(worst, most, |(.., at)| {
            let wait = &snapshot.waits[*at];
            self.tracker.stalls().get(&wait.thread).map_or(Owner::User(wait.uid), Stall::owner)
        });
        let worst = worst.into_iter().map(|(.., at)| at).collect();
        Ok((snapshot, worst))
    }

    fn numbers(&self) -> Result<Numbers> {
        let waits = self.bpf.number_ended()?;
        Ok(Numbers { waits, lost: losses::number_of_programs(&self.bpf.kernel)? })
    }
}
