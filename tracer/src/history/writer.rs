//! The thread that writes the history: what waits to be written, under which id, and when. What it is not told of it asks for.

use std::{
    collections::{HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::RecvTimeoutError,
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use jiff::Timestamp;

use super::{
    error::HistoryError,
    owed::Owed,
    store::{StallId, Store},
};
use crate::{
    assess::incidents::is_stall,
    assess::pipeline::{PeersOf, Pipeline},
    assess::shared::Shared,
    model::class::Level,
    model::wait::ByProcess,
    util::fair::Receiver,
    util::human,
    wire::json::WaitObject,
    wire::stall::StallObject,
};

/// What comes within this is written at once.
const BATCH_INTERVAL: Duration = Duration::from_millis(500);
/// How often the worst waits are kept.
const WORST_INTERVAL: Duration = Duration::from_secs(60);
/// Waits stored per minute.
const WORST_MAX: usize = 100;
/// After an error, it is not tried again for this long.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Stalls that were open when the last agent stopped and are not found again within this have ended meanwhile.
const REDISCOVERY_TIMEOUT: Duration = Duration::from_secs(90);

/// What is kept, and what is known of it.
pub struct Writer {
    store: Arc<Store>,
    shared: Shared,
    /// What is not written yet.
    owed: Owed,
    /// Rows without an end that the last agent has left, and that this one has not found open yet.
    unclaimed: HashSet<StallId>,
    /// When the last agent last wrote.
    alive: Option<Timestamp>,
    started: Instant,
    lost: Arc<AtomicU64>,
    /// The queue was full: something that has opened or ended is not known here.
    unheard: Arc<AtomicBool>,
    failed: Option<Instant>,
    /// When the next minute is to be kept.
    minute: Instant,
}

impl Writer {
    /// One that goes on where the last agent has stopped. What cannot be written is counted in `lost`; `unheard` is set by whoever
    /// could not say something to it.
    pub fn new(
        store: &Arc<Store>,
        shared: Shared,
        lost: &Arc<AtomicU64>,
        unheard: &Arc<AtomicBool>,
    ) -> Result<Self> {
        let left = store.left()?;
        Ok(Self {
            store: Arc::clone(store),
            shared,
            owed: Owed::default(),
            unclaimed: left.open.into_iter().map(|(id, _)| id).collect(),
            alive: left.alive,
            started: Instant::now(),
            lost: Arc::clone(lost),
            unheard: Arc::clone(unheard),
            failed: None,
            minute: Instant::now() + WORST_INTERVAL,
        })
    }

    /// Until nobody is left to send.
    pub fn run(mut self, queue: &Receiver<String, Box<StallObject>>) {
        self.go_on(|writer| writer.round(queue));
    }

    /// Does rounds until one says that it was the last. A mistake in one, which standard error has been told of, costs what it
    /// was about.
    fn go_on(&mut self, mut round: impl FnMut(&mut Self) -> bool) {
        loop {
            match catch_unwind(AssertUnwindSafe(|| round(self))) {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    self.failed = Some(Instant::now());
                }
            }
        }
    }

    /// Waits for something to keep, or for the minute, and keeps it. False: the agent ends.
    fn round(&mut self, queue: &Receiver<String, Box<StallObject>>) -> bool {
        // With something owed it does not wait for the next stall.
        let next = match self.failed {
            Some(failed) if !self.owed.is_empty() => self.minute.min(failed + RETRY_AFTER),
            _ => self.minute,
        };
        match queue.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(stall) => {
                self.owe(*stall);
                let mut number = 1;
                let end = Instant::now() + BATCH_INTERVAL;
                // Until the time is up, or nobody is left to send.
                while let Ok(stall) = queue.recv_timeout(end.saturating_duration_since(Instant::now())) {
                    self.owe(*stall);
                    number += 1;
                }
                self.try_to(number, |_| Ok(()));
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() < self.minute => self.try_to(0, |_| Ok(())),
            Err(RecvTimeoutError::Timeout) => {
                self.minute = Instant::now() + WORST_INTERVAL;
                self.keep_minute();
            }
            Err(RecvTimeoutError::Disconnected) => {
                // The agent ends: once more, whenever it failed.
                self.failed = None;
                self.try_to(0, |_| Ok(()));
                return false;
            }
        }
        // Not while nothing can be written.
        if self.failed.is_none() && (self.unheard.swap(false, Ordering::Acquire) || self.is_abandoned()) {
            let asked = self.ask_what_is_open(queue);
            self.unheard.fetch_or(asked.is_err(), Ordering::Release);
        }
        true
    }

    /// Whether the last agent has left rows that will not be found open any more.
    fn is_abandoned(&self) -> bool {
        !self.unclaimed.is_empty() && self.started.elapsed() >= REDISCOVERY_TIMEOUT
    }

    /// Holds the rows without an end against the stalls that the agent knows to be open. The end of one that is not may have found
    /// the queue full, as when a disk hangs that many wait for, this thread among them. So may the opening of one that is. And what
    /// the last agent has left may have ended before this one began.
    fn ask_what_is_open(&mut self, queue: &Receiver<String, Box<StallObject>>) -> Result<()> {
        let open = self.shared.stalls()?;
        let mut open: HashMap<StallId, StallObject> =
            open.iter().map(StallObject::open).map(|stall| (StallId::of(&stall), stall)).collect();
        // What came before the answer, and what since: it tells more than the answer does.
        let mut heard = HashSet::new();
        while let Some((_, stall)) = queue.take_if(|_, _| true) {
            heard.insert(self.owe(*stall));
        }
        self.owed.settle(|rows| self.store.put(rows, None))?;
        let is_abandoned = self.is_abandoned();
        let mut ended = Vec::new();
        for (id, row) in self.store.open_stalls()? {
            if open.remove(&id).is_some() {
                self.unclaimed.remove(&id);
            } else if !self.unclaimed.contains(&id) {
                ended.extend((!heard.contains(&id)).then(|| (id, ended_unseen(row, Timestamp::now()))));
            } else if is_abandoned {
                let closed = self.alive.unwrap_or(row.opened).max(row.opened);
                ended.push((id, ended_unseen(row, closed)));
            }
        }
        for (_, stall) in open.into_iter().filter(|(id, _)| !heard.contains(id)) {
            self.owe(stall);
        }
        ended.into_iter().for_each(|(id, stall)| self.owed.add(id, stall));
        self.owed.settle(|rows| self.store.put(rows, None))?;
        if is_abandoned {
            self.unclaimed.clear();
        }
        Ok(())
    }

    /// Which row it is.
    fn owe(&mut self, stall: StallObject) -> StallId {
        let id = StallId::of(&stall);
        self.unclaimed.remove(&id);
        self.owed.add(id, stall);
        id
    }

    /// Keeps the worst waits of this minute, and throws away what is too old.
    fn keep_minute(&mut self) {
        match worst(&mut self.shared) {
            Ok(waits) => self.try_to(1, |store| {
                store.put(&[], Some((Timestamp::now(), &waits)))?;
                store.prune(Timestamp::now())
            }),
            // The agent ends.
            Err(_) => drop(self.lost.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Writes what is owed, and something more. So many rows of it are new: they are counted if they cannot be written now,
    /// though stalls will be tried again.
    fn try_to(&mut self, number: u64, more: impl FnOnce(&Store) -> Result<(), HistoryError>) {
        if self.failed.is_some_and(|failed| failed.elapsed() < RETRY_AFTER) {
            self.lost.fetch_add(number, Ordering::Relaxed);
            return;
        }
        match self.owed.settle(|rows| self.store.put(rows, None)).and_then(|()| more(&self.store)) {
            Ok(()) => self.failed = None,
            Err(error) => {
                self.lost.fetch_add(number, Ordering::Relaxed);
                // Once for each time that it begins to fail.
                if self.failed.replace(Instant::now()).is_none() {
                    human::say(&format!("{:#}; the history has a gap", anyhow::Error::new(error)));
                }
            }
        }
    }
}

/// The stall, closed at a moment although nobody saw how.
fn ended_unseen(mut stall: StallObject, closed: Timestamp) -> StallObject {
    (stall.closed, stall.ended) = (Some(closed), Some("unknown".into()));
    stall.lasted = closed.duration_since(stall.wait.since).try_into().unwrap_or(stall.lasted);
    stall
}

/// The worst waits of now, each with who is to blame for it.
fn worst(shared: &mut Shared) -> Result<Vec<WaitObject>> {
    let (snapshot, worst) = shared.worst(WORST_MAX)?;
    let waits = worst.into_iter().map(|at| snapshot.waits[at].clone()).collect();
    let (mut pipeline, all) = (Pipeline::new(), ByProcess::new(&snapshot.waits));
    let mut assessments = pipeline.assess(waits, &all, shared, &PeersOf::ALL)?;
    assessments.retain(|assessment| assessment.level() != Level::Idle);
    let mut culprits = pipeline.culprits(&assessments, is_stall, &all, shared)?;
    let mut objects = pipeline.objects(&assessments);
    for (of, object) in assessments.iter().zip(&mut objects) {
        object.culprit = culprits.remove(&of.wait.thread).map(Box::new);
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Limits, WAITING_MAX,
            samples::{damage_pages, flagged, stall},
        },
        *,
    };
    use crate::{
        assess::shared::{AgentRequest, pair},
        util::fair::{self, Sender},
    };

    fn send(queue: &Sender<String, Box<StallObject>>, stall: StallObject) {
        queue.send(stall.wait.owner().to_string(), Box::new(stall)).expect("there is room");
    }

    /// An empty store in a directory of its own.
    fn empty(name: &str) -> (std::path::PathBuf, Arc<Store>) {
        let dir = std::env::temp_dir().join(format!("tracer-{name}-{}", std::process::id()));
        let limits = Limits { age: Duration::MAX, bytes: u64::MAX };
        let store = Store::open(&dir.join("history.redb"), limits).expect("a directory of ours");
        (dir, Arc::new(store))
    }

    /// The page of the last minute is damaged: what was open is gone on with.
    #[test]
    fn a_minute_that_cannot_be_read_keeps_no_agent_from_starting() {
        let dir = std::env::temp_dir().join(format!("tracer-minute-{}", std::process::id()));
        let file = dir.join("history.redb");
        let limits = Limits { age: Duration::MAX, bytes: u64::MAX };
        let store = Store::open(&file, limits).expect("a directory of ours");
        let (open, last) = (stall(1, 10, None), Timestamp::from_second(0x1234_5678).expect("a moment"));
        let waits = std::slice::from_ref(&open.wait);
        store.put(&[(StallId::of(&open), open.clone())], Some((last, waits))).expect("written");
        drop(store);
        assert!(damage_pages(&file, &0x1234_5678_u64.to_le_bytes()) > 0);
        let store = Arc::new(Store::open(&file, limits).expect("it starts"));
        let (shared, _asked) = pair().expect("two ends");
        let writer = Writer::new(&store, shared, &Arc::default(), &Arc::default()).expect("it starts");
        assert_eq!(writer.unclaimed, HashSet::from([StallId::of(&open)]));
        let kept = store.open_stalls().expect("read");
        assert_eq!(kept.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [StallId::of(&open)]);
        assert!(file.with_extension("damaged").exists());
        store.put(&[(StallId::of(&open), open)], Some((last, &[]))).expect("written");
        std::fs::remove_dir_all(&dir).expect("it is ours");
    }

    #[test]
    fn a_panic_ends_one_round() {
        let (dir, store) = empty("rounds");
        let (shared, _asked) = pair().expect("two ends");
        let lost = Arc::default();
        let mut writer = Writer::new(&store, shared, &lost, &Arc::default()).expect("an empty store");
        let (kept, queue) = fair::channel(WAITING_MAX);
        let mut rounds = 0;
        writer.go_on(|writer| {
            rounds += 1;
            match rounds {
                1 => panic!("on purpose"),
                2 => send(&kept, stall(1, 10, None)),
                3 => writer.failed = None,
                _ => return false,
            }
            rounds == 2 || writer.round(&queue)
        });
        assert_eq!((rounds, lost.load(Ordering::Relaxed)), (4, 1));
        assert_eq!(store.stalls_since(Timestamp::UNIX_EPOCH).expect("read").len(), 1);
        std::fs::remove_dir_all(&dir).expect("it is ours");
    }

    /// Of two stalls that are thought open the agent knows of none, but that one of them has ended is still in the queue.
    #[test]
    fn an_end_that_nobody_heard_of_is_asked_for() {
        let (dir, store) = empty("writer");
        let (shared, asked) = pair().expect("two ends");
        let mut writer =
            Writer::new(&store, shared, &Arc::default(), &Arc::default()).expect("an empty store");
        let (kept, queue) = fair::channel(WAITING_MAX);
        for pid in [1, 2] {
            writer.owe(stall(pid, 10, None));
        }
        send(&kept, stall(2, 10, Some(20)));
        // Opened since: not in the answer, and open all the same.
        send(&kept, stall(3, 30, None));
        std::thread::scope(|scope| {
            scope.spawn(move || match asked.asks.recv() {
                Ok(AgentRequest::Stalls(reply)) => reply.send(Ok(vec![])).expect("it is waited for"),
                other => panic!("{other:?}"),
            });
            writer.ask_what_is_open(&queue).expect("written");
        });
        let kept = store.stalls_since(Timestamp::UNIX_EPOCH).expect("read");
        let ends: Vec<_> = kept.iter().map(|stall| (stall.wait.pid, stall.ended.as_deref())).collect();
        assert_eq!(ends, [(1, Some("unknown")), (2, Some("resumed")), (3, None)]);
        std::fs::remove_dir_all(&dir).expect("it is ours");
    }

    /// Of three stalls that are open one was so before the agent started, one is new, and the end of one is in the queue.
    #[test]
    fn an_opening_that_nobody_heard_of_is_asked_for() {
        let (dir, store) = empty("unheard");
        let before = stall(1, 10, None);
        store.put(&[(StallId::of(&before), before)], None).expect("written");
        let (shared, asked) = pair().expect("two ends");
        let mut writer = Writer::new(&store, shared, &Arc::default(), &Arc::default()).expect("a stall");
        let (kept, queue) = fair::channel(WAITING_MAX);
        send(&kept, stall(3, 30, Some(40)));
        std::thread::scope(|scope| {
            scope.spawn(move || match asked.asks.recv() {
                Ok(AgentRequest::Stalls(reply)) => {
                    reply
                        .send(Ok(vec![flagged(1, 10), flagged(2, 20), flagged(3, 30)]))
                        .expect("it is waited for");
                }
                other => panic!("{other:?}"),
            });
            writer.ask_what_is_open(&queue).expect("written");
        });
        let rows = store.stalls_since(Timestamp::UNIX_EPOCH).expect("read");
        let rows: Vec<_> = rows
            .iter()
            .map(|stall| (stall.wait.pid, stall.opened.as_second(), stall.closed.is_some()))
            .collect();
        assert_eq!(rows, [(1, 10, false), (2, 20, false), (3, 30, true)]);
        assert!(writer.unclaimed.is_empty());
        std::fs::remove_dir_all(&dir).expect("it is ours");
    }

    /// Of three that the last agent has left open one is found again, one has ended unheard and one while no agent ran.
    #[test]
    fn what_the_last_agent_has_left_open_is_closed_once_it_is_abandoned() {
        let (dir, store) = empty("abandoned");
        let rows: Vec<_> = (1..=3).map(|pid| stall(pid, 10 * i64::from(pid), None)).collect();
        let rows: Vec<_> = rows.into_iter().map(|stall| (StallId::of(&stall), stall)).collect();
        let last = Timestamp::from_second(500).expect("a moment");
        store.put(&rows, Some((last, &[]))).expect("written");
        let (shared, asked) = pair().expect("two ends");
        let mut writer = Writer::new(&store, shared, &Arc::default(), &Arc::default()).expect("a store");
        let (_kept, queue) = fair::channel(WAITING_MAX);
        // Found again, and then its end was not heard of.
        writer.owe(rows[1].1.clone());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while let Ok(AgentRequest::Stalls(reply)) = asked.asks.recv() {
                    reply.send(Ok(vec![flagged(1, 10)])).expect("it is waited for");
                }
            });
            writer.ask_what_is_open(&queue).expect("written");
            let ends = || -> Vec<_> {
                let rows = store.stalls_since(Timestamp::UNIX_EPOCH).expect("read");
                rows.iter().map(|stall| stall.closed.map(|at| at.min(last).as_second())).collect()
            };
            assert_eq!(ends(), [None, Some(500), None], "the third may be found again yet");
            writer.started -= REDISCOVERY_TIMEOUT;
            assert!(writer.is_abandoned());
            writer.ask_what_is_open(&queue).expect("written");
            assert_eq!(ends(), [None, Some(500), Some(500)]);
            assert!(!writer.is_abandoned());
            let third = store.stalls_since(Timestamp::UNIX_EPOCH).expect("read").remove(2);
            assert_eq!((third.ended.as_deref(), third.closed), (Some("unknown"), Some(last)));
            drop(writer);
        });
        std::fs::remove_dir_all(&dir).expect("it is ours");
    }
}
