//! Which reads have not come back, and whom not to read for now: pure, but for the clock it is given.
//!
//! A read that hangs costs its caller a deadline and, where the kernel does not let go of the reader, a process. So what
//! hung is left alone for a while, and each owner of processes may cost only so much of both.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use crate::model::wait::ProcessId;

/// What a read may have to wait for: each of these can hang while the others do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Needs {
    /// Nothing of the process's: `status`, `comm`, `cgroup`, lists of descriptors and threads. They answer even while the
    /// process hangs inside `execve`.
    Nothing,
    /// That the process is not inside `execve` (`exec_update_lock`): `stat`, `wchan`, `stack`, `syscall`, links.
    Exec,
    /// That lock, its memory map's, and pages of its memory, which may lie on a file system that is gone.
    Memory,
    /// Locks of an open file: `fdinfo`.
    File,
    /// That the file systems on a path answer. The kernel may not let go of who walks it.
    Path,
    /// Files of the host's, by their paths.
    Host,
    /// To be the last to let go of any file that others close meanwhile: a walk over all open files.
    Walk,
}

impl Needs {
    const ALL: [Needs; 7] =
        [Needs::Nothing, Needs::Exec, Needs::Memory, Needs::File, Needs::Path, Needs::Host, Needs::Walk];
}

impl Needs {
    /// What a file of `/proc/PID` needs, by its path below that directory.
    pub fn of(path: &str) -> Self {
        let path = match path.strip_prefix("task/").and_then(|rest| rest.split_once('/')) {
            Some((_, file)) => file,
            None => path,
        };
        match path {
            "cmdline" | "environ" | "maps" | "smaps" => Needs::Memory,
            "auxv" | "exe" | "cwd" | "root" | "io" | "stack" | "stat" | "syscall" | "wchan" => Needs::Exec,
            _ if path.starts_with("fd/") || path.starts_with("ns/") => Needs::Exec,
            _ if path.starts_with("fdinfo/") => Needs::File,
            _ if path.starts_with("root/") => Needs::Path,
            _ => Needs::Nothing,
        }
    }
}

/// Who has to answer for a process: its systemd unit or container, else its user.
pub type AccountName = String;

/// How long a read is left alone that did not come back in time; twice as long each further time.
const LEAVE_ALONE: Duration = Duration::from_secs(10);
/// At most so often twice as long: five minutes.
const DOUBLINGS_MAX: u32 = 5;
/// Reads that are remembered as late.
const LATE_MAX: usize = 4096;
/// Processes, by what it needed, that are remembered to have answered, of each of two generations.
const ANSWERED_MAX: usize = 16_384;
/// Readers that are left behind, for all owners and for each: where the kernel lets go of a killed reader, it is not.
const LEFT_BEHIND_MAX: usize = 32;
const LEFT_BEHIND_OF_OWNER_MAX: usize = 4;

/// So many at once, and one more each `every`.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    fn new(most: f64, now: Instant) -> Self {
        Self { left: most, at: now }
    }

    fn refill(&mut self, most: f64, a_second: f64, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left, self.at) = ((self.left + passed * a_second).min(most), now);
    }
}

/// Late reads that each owner, and all together, may cost at once, and more of them each second.
const LATE_ALLOWANCE_OF_OWNER: (f64, f64) = (3.0, 1.0);
const LATE_ALLOWANCE: (f64, f64) = (8.0, 3.0);

/// A read that was late.
#[derive(Debug)]
struct Late {
    until: Instant,
    times: u32,
}

/// Why a read is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It was late before, and is left alone for now.
    LeftAlone,
    /// Its owner, or all of them, have cost as many late reads as they may: it is looked at later.
    Budget,
}

/// What is known of reads that were late.
#[derive(Debug, Default)]
pub struct Ledger {
    late: HashMap<(ProcessId, Needs), Late>,
    owners: HashMap<AccountName, Allowance>,
    all: Option<Allowance>,
    /// Readers left behind, by owner.
    left: HashMap<AccountName, usize>,
    /// Which processes have answered what needs this: that may be asked though their owner's allowance is spent. Who answers with its
    /// state may still have memory that never comes.
    answered: [HashSet<(ProcessId, Needs)>; 2],
    abandoned: u64,
    refused: u64,
}

impl Ledger {
    /// Whether a read may be made; `owner` says whose a process is and is asked only if it matters.
    ///
    /// # Errors
    /// Why not.
    pub fn may_read(
        &mut self,
        process: ProcessId,
        needs: Needs,
        now: Instant,
        owner: impl FnOnce() -> AccountName,
    ) -> Result<(), Refused> {
        if self.late.get(&(process, needs)).is_some_and(|late| now < late.until) {
            return Err(Refused::LeftAlone);
        }
        let Some(all) = &mut self.all else { return Ok(()) };
        all.refill(LATE_ALLOWANCE.0, LATE_ALLOWANCE.1, now);
        let spent = all.left < 1.0 || self.left.values().sum::<usize>() >= LEFT_BEHIND_MAX;
        let any_spent = spent || self.owners.values().any(|owner| owner.left < 1.0) || !self.left.is_empty();
        let has_answered = || self.answered.iter().any(|them| them.contains(&(process, needs)));
        if needs == Needs::Nothing || !any_spent || has_answered() {
            return Ok(());
        }
        let owner = owner();
        let of_owner = self.owners.get_mut(&owner).is_some_and(|allowance| {
            allowance.refill(LATE_ALLOWANCE_OF_OWNER.0, LATE_ALLOWANCE_OF_OWNER.1, now);
            allowance.left < 1.0
        });
        if spent || of_owner || self.left.get(&owner).is_some_and(|left| *left >= LEFT_BEHIND_OF_OWNER_MAX) {
            self.refused += 1;
            return Err(Refused::Budget);
        }
        Ok(())
    }

    /// A process has answered what needs this.
    pub fn answered(&mut self, process: ProcessId, needs: Needs) {
        // As long as nothing is late it does not matter who answers, and what needs nothing may always be asked.
        if self.all.is_none() || needs == Needs::Nothing || self.answered[0].contains(&(process, needs)) {
            return;
        }
        if self.answered[0].len() >= ANSWERED_MAX {
            self.answered.swap(0, 1);
            self.answered[0].clear();
        }
        self.answered[0].insert((process, needs));
    }

    /// A read did not come back in time.
    pub fn late(&mut self, process: ProcessId, needs: Needs, owner: AccountName, now: Instant) {
        self.abandoned += 1;
        if self.late.len() >= LATE_MAX {
            self.late.retain(|_, late| now < late.until);
        }
        for them in &mut self.answered {
            them.remove(&(process, needs));
        }
        let times = self.late.get(&(process, needs)).map_or(0, |late| late.times + 1).min(DOUBLINGS_MAX);
        self.late.insert((process, needs), Late { until: now + LEAVE_ALONE * 2u32.pow(times), times });
        let all = self.all.get_or_insert(Allowance::new(LATE_ALLOWANCE.0, now));
        all.left -= 1.0;
        // Whoever has all of it again need not be remembered.
        self.owners.retain(|_, allowance| {
            allowance.refill(LATE_ALLOWANCE_OF_OWNER.0, LATE_ALLOWANCE_OF_OWNER.1, now);
            allowance.left < LATE_ALLOWANCE_OF_OWNER.0
        });
        self.owners.entry(owner).or_insert(Allowance::new(LATE_ALLOWANCE_OF_OWNER.0, now)).left -= 1.0;
    }

    /// The readers that are left behind now, by the owners of what they read.
    pub fn left_behind(&mut self, owners: impl Iterator<Item = AccountName>) {
        self.left.clear();
        for owner in owners {
            *self.left.entry(owner).or_default() += 1;
        }
    }

    /// A wait of this process has ended: what hung may have come back with it.
    pub fn forgive(&mut self, process: ProcessId, now: Instant) {
        if self.late.is_empty() {
            return;
        }
        for needs in Needs::ALL {
            if let Some(late) = self.late.get_mut(&(process, needs)) {
                late.until = late.until.min(now + LEAVE_ALONE);
                late.times = 0;
            }
        }
    }

    /// Reads that did not come back in time, so far.
    pub fn abandoned(&self) -> u64 {
        self.abandoned
    }

    /// Reads that were not made as too many others had been late, so far.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32) -> ProcessId {
        ProcessId { pid, start_ns: 1 }
    }

    /// A process's owner is the hundreds of its id.
    fn owner(pid: u32) -> AccountName {
        (pid / 100).to_string()
    }

    fn may(ledger: &mut Ledger, pid: u32, needs: Needs, now: Instant) -> Result<(), Refused> {
        ledger.may_read(process(pid), needs, now, || owner(pid))
    }

    fn late(ledger: &mut Ledger, pid: u32, now: Instant) {
        ledger.late(process(pid), Needs::Memory, owner(pid), now);
    }

    #[test]
    fn files_need_what_the_kernel_takes_for_them() {
        for (path, needs) in [
            ("status", Needs::Nothing),
            ("task/7/status", Needs::Nothing),
            ("task/7/comm", Needs::Nothing),
            ("task", Needs::Nothing),
            ("fd", Needs::Nothing),
            ("net/tcp", Needs::Nothing),
            ("cgroup", Needs::Nothing),
            ("stat", Needs::Exec),
            ("task/7/stat", Needs::Exec),
            ("task/7/fd/3", Needs::Exec),
            ("ns/net", Needs::Exec),
            ("exe", Needs::Exec),
            ("cmdline", Needs::Memory),
            ("task/7/fdinfo/3", Needs::File),
            ("root/srv/x", Needs::Path),
        ] {
            assert_eq!(Needs::of(path), needs, "{path}");
        }
    }

    #[test]
    fn what_hung_is_left_alone_and_longer_each_time_and_the_rest_is_read() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        late(&mut ledger, 1, now);
        assert_eq!(may(&mut ledger, 1, Needs::Memory, now), Err(Refused::LeftAlone));
        assert_eq!(may(&mut ledger, 1, Needs::Exec, now), Ok(()), "other locks are free");
        assert_eq!(may(&mut ledger, 2, Needs::Memory, now), Ok(()));
        let then = now + LEAVE_ALONE;
        assert_eq!(may(&mut ledger, 1, Needs::Memory, then), Ok(()));
        late(&mut ledger, 1, then);
        assert_eq!(may(&mut ledger, 1, Needs::Memory, then + LEAVE_ALONE), Err(Refused::LeftAlone));
        assert_eq!(may(&mut ledger, 1, Needs::Memory, then + 2 * LEAVE_ALONE), Ok(()));
        late(&mut ledger, 1, then + 2 * LEAVE_ALONE);
        ledger.forgive(process(1), then + 2 * LEAVE_ALONE);
        assert_eq!(may(&mut ledger, 1, Needs::Memory, then + 3 * LEAVE_ALONE), Ok(()), "its wait has ended");
        assert_eq!(ledger.abandoned(), 3);
    }

    #[test]
    fn one_owner_costs_only_so_much_and_others_are_read_all_the_same() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.late(process(900), Needs::Memory, owner(900), now);
        ledger.answered(process(150), Needs::Memory);
        ledger.answered(process(151), Needs::Exec);
        for pid in 100..103 {
            assert_eq!(may(&mut ledger, pid, Needs::Memory, now), Ok(()));
            late(&mut ledger, pid, now);
        }
        assert_eq!(may(&mut ledger, 104, Needs::Memory, now), Err(Refused::Budget));
        assert_eq!(may(&mut ledger, 104, Needs::Nothing, now), Ok(()), "that answers always");
        assert_eq!(may(&mut ledger, 150, Needs::Memory, now), Ok(()), "it has answered before");
        assert_eq!(may(&mut ledger, 151, Needs::Exec, now), Ok(()), "that it has answered");
        assert_eq!(may(&mut ledger, 151, Needs::Memory, now), Err(Refused::Budget), "but not this");
        assert_eq!(may(&mut ledger, 200, Needs::Memory, now), Ok(()), "another's");
        assert_eq!(ledger.refused(), 2);
        let then = now + Duration::from_secs(1);
        assert_eq!(may(&mut ledger, 104, Needs::Memory, then), Ok(()), "one more a second");
    }

    #[test]
    fn many_owners_together_cost_only_so_much_too() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        for pid in (0..8).map(|owner| owner * 100) {
            assert_eq!(may(&mut ledger, pid, Needs::Memory, now), Ok(()), "{pid}");
            late(&mut ledger, pid, now);
        }
        assert_eq!(may(&mut ledger, 5000, Needs::Memory, now), Err(Refused::Budget));
        assert_eq!(may(&mut ledger, 5000, Needs::Memory, now + Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn an_owner_whose_readers_cannot_be_ended_gets_no_more_of_them() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        late(&mut ledger, 100, now);
        let then = now + Duration::from_secs(60);
        ledger.left_behind((0..LEFT_BEHIND_OF_OWNER_MAX).map(|_| owner(100)));
        assert_eq!(may(&mut ledger, 101, Needs::Memory, then), Err(Refused::Budget));
        assert_eq!(may(&mut ledger, 201, Needs::Memory, then), Ok(()));
        ledger.left_behind((0..LEFT_BEHIND_MAX as u32).map(|at| owner(at * 100)));
        assert_eq!(may(&mut ledger, 9900, Needs::Memory, then), Err(Refused::Budget));
        ledger.left_behind(std::iter::empty());
        assert_eq!(may(&mut ledger, 101, Needs::Memory, then), Ok(()));
    }

    #[test]
    fn it_does_not_grow_with_what_is_late() {
        let (mut ledger, mut now) = (Ledger::default(), Instant::now());
        for pid in 0..3 * LATE_MAX as u32 {
            late(&mut ledger, pid, now);
            ledger.answered(process(pid), Needs::Memory);
            now += Duration::from_secs(1);
        }
        assert!(ledger.late.len() <= LATE_MAX && ledger.owners.len() <= 8, "{}", ledger.owners.len());
        assert!(ledger.answered.iter().all(|them| them.len() <= ANSWERED_MAX));
    }
}
