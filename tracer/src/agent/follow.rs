//! Joining a snapshot's waits with what is remembered of their threads, and looking up those that are old enough to
//! matter.

use std::time::{Duration, Instant};

use anyhow::Result;
use hashbrown::{HashMap, HashSet};

use super::{
    Watch,
    budget::{Due, Stage, order},
};
use crate::{
    agent::baselines::{BaselineKey, SAMPLE_MIN},
    agent::track::{Away, Step, Track},
    assess::batches::Batches,
    assess::client::Client,
    assess::pipeline::is_young,
    assess::stall::Ended,
    diagnose::progress,
    diagnose::verdict::classify,
    model::class::Class,
    model::file::FileKind,
    model::wait::{ByProcess, FdState, HeldThread, ProcessId, SeenFd, Snapshot, ThreadId, Wait},
    procfs::Reads,
    resolve::{Resolved, Resolver, target::Target},
    util::clock::boottime_ns,
};

/// A wait is looked at again when it is half as old again as at the last look, at the earliest after this.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

impl Watch {
    /// Joins the waits with their tracks: dates back those that go on, and closes what has ended.
    /// Says how many that were due to be looked up were not reached.
    pub(super) fn follow(&mut self, snapshot: &mut Snapshot) -> Result<usize> {
        let mut look = Vec::new();
        let mut over: Vec<(ThreadId, u64)> = Vec::new();
        let mut back: HashSet<ThreadId> = HashSet::new();
        for (at, wait) in snapshot.waits.iter_mut().enumerate() {
            if wait.is_leaving() {
                self.leaves(wait);
            }
            if self.tracks.come_back(wait) {
                back.insert(wait.thread);
            }
            let step = self.tracks.get(&wait.thread).map_or(Step::New, |track| track.step(wait));
            if step == Step::New {
                over.push((wait.thread, wait.sleep_began_ns));
            }
            if self.needs_look(wait, step, snapshot.monotonic_ns) {
                look.push(at);
            }
        }
        let Looked { mut resolved, missed } = self.look(&look, snapshot)?;
        for (at, resolved) in &resolved {
            let wait = &snapshot.waits[*at];
            let moved = |track: &Track| {
                track.step(wait) == Step::Unsure && !track.nothing_moved(&resolved.file, &resolved.socket)
            };
            if self.tracks.get(&wait.thread).is_some_and(moved) {
                over.push((wait.thread, wait.sleep_began_ns));
            }
        }
        self.learn_and_close(&over, snapshot, &resolved);
        let over: HashSet<ThreadId> = over.into_iter().map(|(thread, _)| thread).collect();
        let now = snapshot.monotonic_ns;
        for wait in &mut snapshot.waits {
            let goes_on = !over.contains(&wait.thread);
            let track = match self.tracks.get_mut(&wait.thread).filter(|_| goes_on) {
                Some(track) => {
                    let step = track.step(wait);
                    // Whether anything has moved is not known: it is neither taken for the same wait nor for another.
                    let is_open = step == Step::Unsure && missed.contains_key(&wait.thread);
                    if step != Step::Same && !is_open {
                        track.go_on(wait);
                    }
                    if !is_open || self.stalls.contains_key(&wait.thread) {
                        wait.date_back(track.began_ns);
                    }
                    track
                }
                None => {
                    let track = self.tracks.insert(wait);
                    track.class = classify(wait, &Resolver::sketch(wait));
                    track
                }
            };
            track.seen = self.number;
            if goes_on && back.contains(&wait.thread) {
                self.tracks.not_away(&wait.thread);
            }
        }
        self.restless.forget(now);
        let boottime = boottime_ns();
        for (at, resolved) in &mut resolved {
            let wait = &mut snapshot.waits[*at];
            let Some(track) = self.tracks.get_mut(&wait.thread) else { continue };
            progress::date_back(wait, resolved, now, boottime);
            track.remember_last_word(resolved);
            let class = classify(wait, resolved);
            track.looked(wait, resolved, class, now);
            track.client = Client::of(wait, resolved);
            let at_rest = self.policy.least_of(class).is_none();
            self.restless.looked(&wait.thread, now, at_rest, self.policy.least());
        }
        self.missed = missed;
        Ok(self.missed.len())
    }

    /// A thread on its way out does not come back to what it waited for: its stall closes, unless it is about the end itself.
    fn leaves(&mut self, wait: &Wait) {
        let away = self.tracks.not_away(&wait.thread).map(|away| away.track);
        let track = away.as_ref().or(self.tracks.get(&wait.thread));
        let stall = self.stalls.get(&wait.thread).filter(|stall| !stall.wait.is_leaving());
        if let (Some(track), Some(_)) = (track, stall) {
            let lasted = lasted(track, wait.sleep_began_ns);
            self.close(&wait.thread, Ended::Exited, lasted);
        }
    }

    /// Whether a wait must be looked up now.
    fn needs_look(&mut self, wait: &Wait, step: Step, now_ns: u64) -> bool {
        if self.missed.contains_key(&wait.thread) {
            return true;
        }
        let track = self.tracks.get(&wait.thread);
        let age = match (step, track) {
            (Step::New, _) | (_, None) => wait.age.max(progress::unmoved(wait)),
            (_, Some(track)) => Duration::from_nanos(now_ns.saturating_sub(track.began_ns)),
        };
        let (restless, least) = (&mut self.restless, self.policy.least());
        let mut has_turn = || {
            let set = wait.call.operation().watches_fds();
            let again = track.is_some_and(|track| track.same_call(wait));
            set && restless.is_due(wait.thread, again, now_ns, least)
        };
        let Some(track) = track else { return !is_young(age) || has_turn() };
        let since_look = track.looked_ns.map(|looked| Duration::from_nanos(now_ns.saturating_sub(looked)));
        match (step, since_look) {
            // Where it cannot be stuck, what has moved may be found out later.
            (Step::Unsure, _) => {
                has_turn()
                    || self.policy.least_of(track.class).is_some()
                    || self.stalls.contains_key(&wait.thread)
            }
            (Step::New, _) | (_, None) => !is_young(age) || has_turn(),
            (_, Some(since_look)) => {
                let may_be_stuck =
                    matches!(track.class, Class::Pipe | Class::Dialog) && !track.peers_resolved;
                // What a file is called does not change while a thread sleeps on it.
                let pause = if names_a_file(wait) { age } else { age / 3 };
                since_look >= LOOK_AGAIN.max(pause) || may_be_stuck && age >= self.policy.least()
            }
        }
    }

    /// How urgent it is to look a wait up.
    fn due(&self, wait: &Wait, now_ns: u64) -> Due {
        let looked_ns = self.tracks.get(&wait.thread).and_then(|track| track.looked_ns);
        Due {
            owner: wait.uid,
            new: looked_ns.is_none(),
            missed: self.missed.get(&wait.thread).copied().unwrap_or(0),
            since: Duration::from_nanos(now_ns.saturating_sub(looked_ns.unwrap_or(wait.began_ns))),
        }
    }

    /// Looks waits up, and the other ends of those that are old enough to be flagged, as far as there is time.
    fn look(&mut self, look: &[usize], snapshot: &Snapshot) -> Result<Looked> {
        let due: Vec<Due> =
            look.iter().map(|at| self.due(&snapshot.waits[*at], snapshot.monotonic_ns)).collect();
        let order: Vec<usize> = order(&due).into_iter().map(|place| look[place]).collect();
        let waits: Vec<&Wait> = order.iter().map(|at| &snapshot.waits[*at]).collect();
        let mut resolved = self.resolve_in_time(&waits, Stage::Resolve)?;
        let until = self.time_for(Stage::Peers);
        let least = self.policy.least();
        let tracks = &self.tracks;
        let old = |wait: &Wait| {
            let began =
                tracks.get(&wait.thread).map_or(wait.began_ns, |track| track.began_ns.min(wait.began_ns));
            Duration::from_nanos(snapshot.monotonic_ns.saturating_sub(began)) >= least
        };
        let needs_peers = |wait: &Wait, resolved: &Resolved| {
            old(wait) && matches!(resolved.target, Target::Pipe { .. } | Target::Unix { datagram: false, .. })
        };
        let mut pairs: Vec<(&Wait, &mut Resolved)> = waits
            .iter()
            .zip(&mut resolved)
            .filter(|(wait, resolved)| needs_peers(wait, resolved))
            .map(|(wait, resolved)| (*wait, resolved))
            .collect();
        if !pairs.is_empty() {
            let until = Instant::now() + until;
            let all = ByProcess::new(&snapshot.waits);
            self.resolver.find_peers(&mut pairs, &all, &mut self.bpf, Some(until))?;
        }
        let alone =
            pairs.iter().filter(|(_, resolved)| resolved.peers.is_none()).map(|(wait, _)| wait.thread);
        let mut missed: Vec<ThreadId> = alone.collect();
        missed.extend(waits[resolved.len()..].iter().map(|wait| wait.thread));
        let again = |thread: ThreadId| (thread, self.missed.get(&thread).map_or(1, |times| times + 1));
        let missed = missed.into_iter().map(again).collect();
        let resolved = order.into_iter().zip(resolved).collect();
        Ok(Looked { resolved, missed })
    }

    /// What the first of these waits wait on, as many as there is time for.
    pub(super) fn resolve_in_time(&mut self, waits: &[&Wait], stage: Stage) -> Result<Vec<Resolved>> {
        let mut batches = Batches::new(self.time_for(stage));
        let mut resolved = Vec::with_capacity(waits.len());
        loop {
            let left = &waits[resolved.len()..];
            let number = batches.next(left.len());
            if number == 0 {
                return Ok(resolved);
            }
            let begun = Instant::now();
            resolved.extend(self.resolver.resolve(&left[..number], &mut self.bpf)?);
            batches.took(number, begun.elapsed());
        }
    }

    /// Waits that are over because their thread waits anew: their length may be a sample for a baseline, and their stalls close.
    fn learn_and_close(
        &mut self,
        over: &[(ThreadId, u64)],
        snapshot: &Snapshot,
        resolved: &[(usize, Resolved)],
    ) {
        Reads::new().forgive(over.iter().map(|(thread, _)| thread.process));
        let mut ask = Vec::new();
        let over_threads: HashSet<ThreadId> = over.iter().map(|(thread, _)| *thread).collect();
        let seen: HashMap<ThreadId, &Resolved> = resolved
            .iter()
            .map(|(at, resolved)| (snapshot.waits[*at].thread, resolved))
            .filter(|(thread, _)| over_threads.contains(thread))
            .collect();
        let elsewhere = self.elsewhere(&over_threads);
        for (thread, next_began_ns) in over {
            let Some(track) = self.tracks.get(thread) else { continue };
            if elsewhere.contains(thread) {
                let track = track.clone();
                self.tracks.set_aside(*thread, track, snapshot.monotonic_ns);
                continue;
            }
            let lasted = lasted(track, *next_began_ns);
            if let Some(client) = track.client.clone().filter(|_| lasted >= SAMPLE_MIN) {
                match seen.get(thread) {
                    Some(resolved) if track.received(&resolved.file, &resolved.socket) > 0 => {
                        self.learn(thread.process, &client, lasted);
                    }
                    _ => ask.extend(track.fd.map(|fd| Over {
                        thread: *thread,
                        fd,
                        track: track.clone(),
                        lasted,
                    })),
                }
            }
            // A stall that is about what it was at before closes on its own account.
            if !self.tracks.is_away(thread) {
                self.close(thread, Ended::Resumed, lasted);
            }
        }
        self.ask_and_learn(ask);
    }

    /// A client got its answer: how long that took is a sample for its baseline. Who has gone meanwhile is not known any more.
    fn learn(&mut self, process: ProcessId, client: &Client, lasted: Duration) {
        let who = self.resolver.who(process);
        if lasted >= SAMPLE_MIN && who.started.is_some() {
            self.state.learn(&BaselineKey::of(client, &who), lasted);
        }
    }

    /// Which of these have a stall on a connection on which nothing has moved, though they are elsewhere.
    fn elsewhere(&mut self, threads: &HashSet<ThreadId>) -> HashSet<ThreadId> {
        use crate::collect::Source;
        let stalled = threads.iter().filter(|thread| self.stalls.contains_key(*thread));
        let on_connection = |thread: &ThreadId| {
            let track = self.tracks.get(thread).filter(|track| track.mark.is_some())?;
            Some((*thread, track.fd?))
        };
        let fds: Vec<(ThreadId, i32)> = stalled.filter_map(on_connection).collect();
        let unmoved = |seen: &SeenFd| {
            let track = self.tracks.get(&seen.thread)?;
            track.nothing_moved(&seen.state, &seen.socket).then_some(seen.thread)
        };
        self.bpf.look_up(&fds).unwrap_or_default().iter().filter_map(unmoved).collect()
    }

    /// Closes the stalls of those who will not come back to the connection they were at: a byte has moved on it, it is gone,
    /// or they have been elsewhere for long.
    fn leave_behind(&mut self, now_ns: u64) {
        use crate::collect::Source;
        let fds: Vec<(ThreadId, i32)> =
            self.tracks.away().filter_map(|(thread, away)| Some((*thread, away.track.fd?))).collect();
        let seen = self.bpf.look_up(&fds).unwrap_or_default();
        let seen: HashMap<ThreadId, SeenFd> = seen.into_iter().map(|seen| (seen.thread, seen)).collect();
        let unmoved = |thread: &ThreadId, away: &Away| {
            seen.get(thread).is_some_and(|seen| away.track.nothing_moved(&seen.state, &seen.socket))
        };
        let stays = |(thread, away): &(&ThreadId, &Away)| unmoved(thread, away) && !away.is_over(now_ns);
        let left: Vec<ThreadId> =
            self.tracks.away().filter(|pair| !stays(pair)).map(|(thread, _)| *thread).collect();
        for thread in left {
            let Some(Away { track, .. }) = self.tracks.not_away(&thread) else { continue };
            let received = seen.get(&thread);
            let lasted = lasted(&track, now_ns);
            if let Some(client) = &track.client
                && received.is_some_and(|seen| track.received(&seen.state, &seen.socket) > 0)
            {
                self.learn(thread.process, client, lasted);
            }
            let ended = if Reads::new().thread_lives(&thread) { Ended::Resumed } else { Ended::Exited };
            self.close(&thread, ended, lasted);
        }
        for (thread, away) in self.tracks.away() {
            if let Some(stall) = self.stalls.get_mut(thread) {
                stall.wait.age = Duration::from_nanos(now_ns.saturating_sub(away.track.began_ns));
            }
        }
    }

    /// Looks up whether bytes came on connections whose waits are over.
    fn ask_and_learn(&mut self, ask: Vec<Over>) {
        use crate::collect::Source;
        let fds: Vec<(ThreadId, i32)> = ask.iter().map(|over| (over.thread, over.fd)).collect();
        // What cannot be looked up teaches nothing.
        let seen = self.bpf.look_up(&fds).unwrap_or_default();
        for (process, client, lasted) in answered(&ask, &seen) {
            self.learn(process, client, lasted);
        }
    }

    /// Threads that no longer wait: held, running, or gone.
    pub(super) fn leave_absent(&mut self, snapshot: &Snapshot) -> Result<()> {
        let held: HashSet<ThreadId> = snapshot.held.iter().map(|HeldThread { thread, .. }| *thread).collect();
        let (number, now) = (self.number, snapshot.monotonic_ns);
        let absent = |(thread, track): (&ThreadId, &Track)| {
            (track.seen != number && !held.contains(thread)).then_some(*thread)
        };
        let absent: HashSet<ThreadId> = self.tracks.all().filter_map(absent).collect();
        let elsewhere = self.elsewhere(&absent);
        let stalls = &mut self.stalls;
        let gone = self.tracks.take(|thread, track| {
            if track.seen == number {
                return false;
            }
            if held.contains(thread) {
                track.hold();
                if let Some(stall) = stalls.get_mut(thread) {
                    stall.wait.age = Duration::from_nanos(now.saturating_sub(track.began_ns));
                }
                return false;
            }
            !(stalls.contains_key(thread) && Reads::new().thread_lives(thread) && track.may_go_on())
        });
        let mut ask = Vec::new();
        for (thread, track) in gone {
            if elsewhere.contains(&thread) {
                self.tracks.set_aside(thread, track, now);
                continue;
            }
            if self.tracks.is_away(&thread) {
                continue;
            }
            let lasted = lasted(&track, now);
            if self.stalls.contains_key(&thread) {
                let ended = if Reads::new().thread_lives(&thread) { Ended::Resumed } else { Ended::Exited };
                self.close(&thread, ended, lasted);
            }
            if track.client.is_some() && lasted >= SAMPLE_MIN {
                ask.extend(track.fd.map(|fd| Over { thread, fd, track, lasted }));
            }
        }
        self.ask_and_learn(ask);
        self.leave_behind(now);
        Ok(())
    }
}

/// Whether a wait is on a file, of which nothing but its name is to be looked up.
fn names_a_file(wait: &Wait) -> bool {
    matches!(&wait.fd_state, FdState::Open(file) if file.kind() == FileKind::Regular)
}

/// What a look has found out.
struct Looked {
    /// Of waits, by their places in the snapshot.
    resolved: Vec<(usize, Resolved)>,
    /// Threads whose waits were not reached, and for how many looks in a row.
    missed: HashMap<ThreadId, u32>,
}

/// A wait that is over, of which it is not known whether an answer ended it.
struct Over {
    thread: ThreadId,
    fd: i32,
    track: Track,
    lasted: Duration,
}

/// Which of these waits an answer has ended, by what is seen of their fds now: under what their length is remembered, and it.
fn answered<'a>(ask: &'a [Over], seen: &[SeenFd]) -> Vec<(ProcessId, &'a Client, Duration)> {
    let seen: HashMap<(ThreadId, i32), &SeenFd> =
        seen.iter().map(|seen| ((seen.thread, seen.fd), seen)).collect();
    let answer = |over: &'a Over| {
        let seen = seen.get(&(over.thread, over.fd))?;
        let client = over.track.client.as_ref()?;
        let answered = over.track.received(&seen.state, &seen.socket) > 0;
        answered.then_some((over.thread.process, client, over.lasted))
    };
    ask.iter().filter_map(answer).collect()
}

/// How long a wait that is over has lasted, by the kernel's word or else until `otherwise`.
fn lasted(track: &Track, otherwise: u64) -> Duration {
    Duration::from_nanos(track.end_ns(otherwise).saturating_sub(track.began_ns))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::progress::tests::facts,
        diagnose::verdict::tests as samples,
        model::syscalls::Syscall,
        model::wait::{FdState, SocketFacts},
    };

    /// N waits that are over, and what is seen of their connections: an answer came on every other one.
    fn over(number: usize) -> (Vec<Over>, Vec<SeenFd>) {
        let (mut ask, mut seen) = (Vec::new(), Vec::new());
        for at in 0..number as u32 {
            let mut wait = samples::wait(Syscall::Read, [3, 0, 0, 0, 0, 0]);
            wait.thread.tid = at;
            wait.socket = SocketFacts::Tcp(facts(517, 0));
            let mut track = Track::new(&wait);
            track.client = Client::of(&wait, &samples::on(Syscall::Read, samples::tcp()));
            let (thread, lasted) = (wait.thread, Duration::from_secs(at.into()));
            ask.push(Over { thread, fd: 3, track, lasted });
            let socket = SocketFacts::Tcp(facts(517, u64::from(at % 2)));
            seen.push(SeenFd { thread, fd: 3, state: FdState::None, socket });
        }
        seen.reverse();
        (ask, seen)
    }

    #[test]
    fn waits_that_an_answer_has_ended_are_told_from_others() {
        let (ask, seen) = over(5);
        let lasted: Vec<u64> = answered(&ask, &seen).iter().map(|(.., lasted)| lasted.as_secs()).collect();
        assert_eq!(lasted, [1, 3]);
        assert!(answered(&ask, &[]).is_empty(), "what cannot be looked up");
        crate::util::growth::assert_linear("waits that are over", over, |(ask, seen)| {
            assert_eq!(answered(&ask, &seen).len(), ask.len() / 2);
        });
    }
}
