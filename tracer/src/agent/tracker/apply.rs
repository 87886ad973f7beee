//! Which waits go on, and which are over? A snapshot's waits are joined with what is remembered of their threads, and dated back as
//! long as they have lasted.

use std::time::Duration;

use hashbrown::{HashMap, HashSet, hash_map::Entry};

use super::{
    Away, Missed, Tracker,
    track::{Progress, Step, Track},
    tries::{Beginning, FailedTry, Service},
};
use crate::{
    agent::baselines::SAMPLE_MIN,
    assess::pipeline::{Assessment, Resolution},
    diagnose::verdict::classify,
    model::wait::{ProcessId, Snapshot, ThreadId, Wait},
};

/// How long a thread may be elsewhere before it has given the connection up that its stall is about. Who asks again after a
/// failure mostly does so within a minute.
const AWAY_MAX: Duration = Duration::from_secs(60);

/// Waits that are over, or whose threads are elsewhere, and what has to be found out of them.
#[derive(Debug, Default)]
pub struct Departures {
    pub(super) now_ns: u64,
    pub(super) left: Vec<Departure>,
    /// Threads that were elsewhere before.
    pub(super) away: Vec<ThreadId>,
    connections: Vec<(ThreadId, i32)>,
    absent: Vec<ThreadId>,
    woken: Vec<ProcessId>,
}

/// A wait whose thread has left it.
#[derive(Debug)]
pub(super) struct Departure {
    pub thread: ThreadId,
    pub track: Track,
    pub left: Left,
    /// What has moved on its connection since, if that is known already.
    pub progress: Option<Progress>,
}

/// What a thread does that has left its wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It waits for something else, since then; nanoseconds of `CLOCK_MONOTONIC`, as below.
    WaitsAnew(u64),
    /// It is on its way out, since then.
    Leaves(u64),
    /// It does not wait: it runs, or has gone.
    Absent,
}

impl Departures {
    /// Descriptors of which the source has to say what has moved on them.
    pub fn connections(&self) -> &[(ThreadId, i32)] {
        &self.connections
    }

    /// Threads of which has to be known whether they live.
    pub fn absent(&self) -> &[ThreadId] {
        &self.absent
    }

    /// Processes that have got on: what could not be read of them may be readable now.
    pub fn woken(&self) -> &[ProcessId] {
        &self.woken
    }

    fn push(&mut self, departure: Departure) {
        let Departure { thread, track, left, progress } = &departure;
        let may_be_sample = track.client.is_some() && departure.lasted(self.now_ns) >= SAMPLE_MIN;
        let may_be_away = track.is_flagged && track.progress.is_some() && !matches!(left, Left::Leaves(_));
        if progress.is_none() && (may_be_sample || may_be_away || track.tried.is_some()) {
            self.connections.extend(track.fd.map(|fd| (*thread, fd)));
        }
        if *left == Left::Absent && track.is_flagged {
            self.absent.push(*thread);
        }
        if track.tried.is_some() && track.is_flagged {
            self.absent.push(ThreadId::leader(thread.process));
        }
        self.left.push(departure);
    }
}

impl Left {
    /// When the thread was first seen elsewhere.
    pub fn since(self, now_ns: u64) -> u64 {
        match self {
            Left::WaitsAnew(since_ns) | Left::Leaves(since_ns) => since_ns,
            Left::Absent => now_ns,
        }
    }
}

impl Departure {
    /// How long the wait has lasted, by the kernel's word or else until its thread was seen elsewhere.
    pub fn lasted(&self, now_ns: u64) -> Duration {
        self.track.lasted(self.left.since(now_ns))
    }
}

impl Away {
    /// Whether the thread has been elsewhere for so long that it will not come back.
    pub fn is_over(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.since_ns) > AWAY_MAX.as_nanos() as u64
    }
}

/// Whether a thread's present sleep may resume the wait it has left; `None` if a look has shown that it is about something else.
pub(super) fn back<'a>(
    waits: &HashMap<ThreadId, Track>,
    away: &'a HashMap<ThreadId, Away>,
    wait: &Wait,
) -> Option<(&'a Track, Step)> {
    let Away { track, .. } = away.get(&wait.thread)?;
    let meanwhile = waits.get(&wait.thread).filter(|meanwhile| meanwhile.looked_ns.is_some());
    if meanwhile.is_some_and(|meanwhile| meanwhile.step(wait) == Step::Same) {
        return None;
    }
    let step = track.step(wait);
    matches!(step, Step::GoesOn | Step::Unsure).then_some((track, step))
}

impl Tracker {
    /// Joins a snapshot's waits with what is remembered of their threads, by what was looked up of them. Both are dated back.
    pub fn apply(&mut self, snapshot: &mut Snapshot, looked: &mut Resolution) -> Departures {
        self.snapshots += 1;
        for wait in &looked.missed {
            self.miss(wait.thread);
        }
        let mut departures = Departures { now_ns: snapshot.monotonic_ns, ..Departures::default() };
        let by_thread = looked.assessments.iter_mut().map(|assessment| (assessment.wait.thread, assessment));
        let mut found: HashMap<ThreadId, &mut Assessment> = by_thread.collect();
        for wait in &mut snapshot.waits {
            let found = found.remove(&wait.thread);
            self.come_back(wait, found.as_deref(), &mut departures);
            self.join(wait, found, &mut departures);
        }
        self.leave_absent(snapshot, &mut departures);
        let flagged = self.tries.all().filter(|failed| failed.track.is_flagged);
        departures.absent.extend(flagged.map(|failed| ThreadId::leader(failed.thread.process)));
        self.short_sleepers.forget(snapshot.monotonic_ns);
        for (thread, away) in &self.away {
            departures.connections.extend(away.track.fd.map(|fd| (*thread, fd)));
            departures.absent.extend((!self.waits.contains_key(thread)).then_some(*thread));
            departures.away.push(*thread);
        }
        departures
    }

    /// Counts a wait that was not reached.
    pub(super) fn miss(&mut self, thread: ThreadId) {
        let missed = self.missed.entry(thread).or_insert(Missed { times: 0, snapshot: 0 });
        *missed = Missed { times: missed.times + 1, snapshot: self.snapshots };
    }

    /// Where a thread may be back at the connection it was at, its track is what it was then. One that leaves its process does
    /// not come back.
    fn come_back(&mut self, wait: &Wait, found: Option<&Assessment>, departures: &mut Departures) {
        let leaves = wait.is_leaving();
        if !leaves && back(&self.waits, &self.away, wait).is_none() {
            return;
        }
        let Some(Away { mut track, since_ns }) = self.away.remove(&wait.thread) else { return };
        if leaves {
            let left = Left::Leaves(wait.sleep_began_ns);
            departures.push(Departure { thread: wait.thread, track, left, progress: None });
            return;
        }
        track.away_since_ns = Some(since_ns);
        if let Some(meanwhile) = self.waits.insert(wait.thread, track) {
            departures.push(replaced(meanwhile, wait, found));
        }
    }

    /// A wait that is looked up for the first time may go on with a try that has ended in vain, be it another thread's. Its stall is
    /// the same.
    fn try_again(&mut self, wait: &Wait, found: &Assessment, departures: &mut Departures) {
        let now = self.waits.get(&wait.thread);
        if now.is_some_and(|track| track.looked_ns.is_some() && track.step(wait) == Step::Same) {
            return;
        }
        let Some(service) = Service::tried_by(&found.resolved, found.class) else { return };
        let slept = now.filter(|track| track.step(wait) != Step::Same).and_then(Track::slept);
        let next = Beginning { thread: wait.thread, began_ns: found.wait.began_ns, slept };
        let followed = self.tries.followed_by(&service, &next);
        let Some(FailedTry { thread, mut track, .. }) = followed else { return };
        if track.is_flagged && thread != wait.thread {
            self.stalls.pass_on(&thread, wait.thread);
        }
        track.begin_anew(wait);
        if let Some(meanwhile) = self.waits.insert(wait.thread, track)
            && meanwhile.step(wait) != Step::Same
        {
            departures.push(replaced(meanwhile, wait, Some(found)));
        }
    }

    /// Goes on with a thread's track, or begins another.
    fn join(&mut self, wait: &mut Wait, found: Option<&mut Assessment>, departures: &mut Departures) {
        if let Some(found) = found.as_deref() {
            self.try_again(wait, found, departures);
        }
        let is_missed = self.missed.get(&wait.thread).is_some_and(|missed| missed.snapshot == self.snapshots);
        let mut is_open = false;
        let track = match self.waits.entry(wait.thread) {
            Entry::Vacant(vacant) => {
                departures.woken.push(wait.thread.process);
                vacant.insert(Track::new(wait))
            }
            Entry::Occupied(occupied) => {
                let track = occupied.into_mut();
                let step = match (track.step(wait), found.as_deref()) {
                    (Step::New | Step::Unsure, Some(next)) if track.is_tried_again_by(next) => Step::GoesOn,
                    (Step::Unsure, Some(Assessment { resolved, .. })) => {
                        match track.progress(&resolved.file, &resolved.socket) {
                            Progress::Unmoved => Step::GoesOn,
                            Progress::Received | Progress::Unknown => Step::New,
                        }
                    }
                    (step, _) => step,
                };
                match step {
                    Step::Same => {}
                    Step::GoesOn => track.go_on(wait),
                    // Whether anything has moved is not known: it is neither taken for the same wait nor for another.
                    Step::Unsure if is_missed => is_open = true,
                    Step::Unsure => track.go_on(wait),
                    Step::New => {
                        departures.woken.push(wait.thread.process);
                        let before = std::mem::replace(track, Track::new(wait));
                        departures.push(replaced(before, wait, found.as_deref()));
                    }
                }
                track
            }
        };
        track.seen = self.snapshots;
        let has_moved = found.as_deref().is_some_and(|found| track.begin_after(wait, &found.resolved));
        if !is_open || track.is_flagged {
            wait.date_back(track.began_ns);
            wait.date_forward(track.began_ns);
        }
        if let Some(Assessment { wait: found, resolved, class }) = found {
            found.date_back(wait.began_ns);
            wait.date_back(found.began_ns);
            if has_moved {
                wait.date_forward(track.began_ns);
                found.date_forward(track.began_ns);
            }
            track.remember_last_sender(resolved);
            *class = classify(found, resolved);
        }
    }

    /// Threads that no longer wait. Those that are held may go on.
    fn leave_absent(&mut self, snapshot: &Snapshot, departures: &mut Departures) {
        let held: HashSet<ThreadId> = snapshot.suspended.iter().map(|held| held.thread).collect();
        let processes: HashSet<ProcessId> = held.iter().map(|thread| thread.process).collect();
        let gone = self.waits.extract_if(|thread, track| {
            let is_request_held = thread.is_request() && processes.contains(&thread.process);
            let is_held = track.seen != self.snapshots && (held.contains(thread) || is_request_held);
            if is_held {
                track.hold();
            }
            track.seen != self.snapshots && !is_held
        });
        for (thread, track) in gone {
            departures.push(Departure { thread, track, left: Left::Absent, progress: None });
        }
    }
}

/// A wait that is over since its thread waits anew. Where that is on the same connection, or was looked up, it is known what has
/// moved.
fn replaced(track: Track, wait: &Wait, found: Option<&Assessment>) -> Departure {
    let seen =
        found.map_or((&wait.fd_state, &wait.socket), |found| (&found.resolved.file, &found.resolved.socket));
    let progress = Some(track.progress(seen.0, seen.1)).filter(|progress| *progress != Progress::Unknown);
    let left = match wait.is_leaving() && !track.is_leaving {
        true => Left::Leaves(wait.sleep_began_ns),
        false => Left::WaitsAnew(wait.sleep_began_ns),
    };
    Departure { thread: wait.thread, track, left, progress }
}
