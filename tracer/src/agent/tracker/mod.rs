//! What is remembered of waiting threads from one snapshot to the next: which sleeps are one wait, and which waits are stalls. Pure:
//! what has to be looked up it asks for, and is told.
//!
//! A tick of the agent's loop is `observe` (what must be looked up?), `apply` (which waits go on, and which are over?), `settle`
//! (what became of those that are over?), `due` (which may be stalls?) and `decide`, one by one.

mod apply;
mod closing;
mod due;
mod observe;
mod order;
mod settle;
mod short_sleepers;
#[cfg(test)]
mod tests;
mod track;
mod tries;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hashbrown::HashMap;

pub use self::{
    apply::Departures,
    due::Terms,
    settle::{Answer, Evidence, Transition},
};
use self::{
    short_sleepers::ShortSleepers,
    track::{Step, Track},
    tries::Tries,
};
use crate::{
    agent::open_stalls::OpenStalls,
    assess::stall::{Closed, Ended, Stall, Standing},
    model::baseline::Excuse,
    model::class::{Class, Level},
    model::wait::{EndedSleep, ThreadId, Wait},
    wire::stall::StallIncident,
};

/// All that is remembered, by thread.
#[derive(Default)]
pub struct Tracker {
    /// The wait that each thread was last seen in.
    waits: HashMap<ThreadId, Track>,
    /// Stalled waits on connections whose threads are elsewhere meanwhile.
    away: HashMap<ThreadId, Away>,
    /// Tries that have ended in vain.
    tries: Tries,
    stalls: OpenStalls,
    short_sleepers: ShortSleepers,
    /// Waits that were to be looked up and were not reached.
    missed: HashMap<ThreadId, Missed>,
    /// Snapshots so far.
    snapshots: u64,
}

/// A wait whose thread is elsewhere though nothing has moved on its connection: it may come back.
#[derive(Clone, Debug)]
struct Away {
    /// As it was.
    track: Track,
    since_ns: u64,
}

/// How often a wait was not reached.
#[derive(Clone, Copy, Debug)]
struct Missed {
    /// Looks in a row.
    times: u32,
    /// The last of them, by the number of its snapshot.
    snapshot: u64,
}

impl Tracker {
    /// One that knows of no wait yet, but of stalls.
    pub fn going_on_with(stalls: OpenStalls) -> Self {
        Self { stalls, ..Self::default() }
    }

    /// Open stalls.
    pub fn stalls(&self) -> &BTreeMap<ThreadId, Stall> {
        self.stalls.all()
    }

    /// The same, with what is known of them beside.
    pub fn open_stalls(&self) -> &OpenStalls {
        &self.stalls
    }

    /// Whose stalls have opened or closed since the last time.
    pub fn take_changed_stalls(&mut self) -> Vec<ThreadId> {
        self.stalls.take_changed()
    }

    /// Tells these stalls of the incidents that they belong to.
    pub fn tell_stalls(&mut self, incidents: Vec<(ThreadId, Arc<StallIncident>)>) {
        self.stalls.tell(incidents);
    }

    /// Sockets on which threads wait that may be stuck, by inode.
    pub fn sockets_waited_on(&self) -> impl Iterator<Item = u64> {
        let is_thread = |(thread, track): &(&ThreadId, &Track)| {
            !thread.is_request() && track.judgement.level() != Level::Idle
        };
        self.waits.iter().filter(is_thread).filter_map(|(_, track)| track.inode)
    }

    /// How many waits the last look had to leave for the next one.
    pub fn missed(&self) -> usize {
        self.missed.len()
    }

    /// What is known of a thread's wait of that age.
    pub fn standing(&self, thread: &ThreadId, age: Duration) -> Standing {
        let track = self.waits.get(thread);
        Standing {
            judgement: track.map_or(Class::Other.into(), |track| track.judgement),
            is_excused: track.is_some_and(|track| self.excuse(thread, track, age).is_some()),
        }
    }

    /// Baselines that keep waits of processes with this id from being flagged.
    pub fn excuses(&self, pid: u32, now_ns: u64) -> Vec<(ThreadId, Excuse)> {
        let of_process = self.waits.iter().filter(|(thread, _)| thread.process.pid == pid);
        let excuse = |(thread, track): (&ThreadId, &Track)| {
            let age = Duration::from_nanos(now_ns.saturating_sub(track.began_ns));
            self.excuse(thread, track, age).map(|excuse| (*thread, excuse))
        };
        of_process.filter_map(excuse).collect()
    }

    fn excuse(&self, thread: &ThreadId, track: &Track, age: Duration) -> Option<Excuse> {
        track.excuse.filter(|excuse| excuse.holds(age) && !self.stalls.has(thread))
    }

    /// Dates a wait back that is known to go on.
    pub fn date_back(&self, wait: &mut Wait) {
        if let Some(track) = self.waits.get(&wait.thread)
            && matches!(track.step(wait), Step::Same | Step::GoesOn)
        {
            wait.date_back(track.began_ns);
            wait.date_forward(track.began_ns);
        }
    }

    /// The rules have changed: what they said of waits does not hold any more.
    pub fn forget_decisions(&mut self) {
        self.waits.values_mut().for_each(Track::forget_decision);
    }

    /// A sleep has ended, as the kernel saw it. If its thread exits, its stall closes at once.
    pub fn ended(&mut self, sleep: &EndedSleep) -> Option<Closed> {
        let thread = &sleep.thread;
        if !self.waits.get_mut(thread)?.ended(sleep) {
            return None;
        }
        let away = self.away.remove(thread).map(|away| away.track);
        let track = away.as_ref().or(self.waits.get(thread))?;
        let lasted = Duration::from_nanos(sleep.ended_ns.saturating_sub(track.began_ns));
        if let Some(track) = self.waits.get_mut(thread) {
            track.is_flagged = false;
        }
        self.stalls.close(thread, Ended::Exited, lasted)
    }
}
