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
use jiff::{SignedDuration, Timestamp};

use super::{
    Kept,
    error::HistoryError,
    owed::Owed,
    store::{Id, Store},
};
use crate::{
    assess::pipeline::{PeersOf, Pipeline},
    assess::shared::Shared,
    assess::stall::StallObject,
    model::class::Level,
    model::wait::ByProcess,
    util::fair::Receiver,
    util::human,
    wire::json::WaitObject,
};

/// What comes within this is written at once.
const BATCH: Duration = Duration::from_millis(500);
/// How often the worst waits are kept.
const MINUTE: Duration = Duration::from_secs(60);
/// Waits stored per minute.
const WORST: usize = 100;
/// After an error, it is not tried again for this long.
const PAUSE: Duration = Duration::from_secs(10);
/// Stalls that were open when the agent stopped and are not found again within this have ended meanwhile.
const GRACE: Duration = Duration::from_secs(90);
/// How far apart two agents may date the same wait.
const SAME: SignedDuration = SignedDuration::from_secs(2);

/// What is kept, and what is known of it.
pub struct Writer {
    store: Arc<Store>,
    shared: Shared,
    /// Open stalls by process and thread.
    open: HashMap<(u32, u32), Id>,
    /// What is not written yet.
    owed: Owed,
    /// Stalls that were open when the agent last stopped and were not found again yet.
    before: HashMap<(u32, u32), Vec<(Id, StallObject)>>,
    /// When the agent last wrote before it started.
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
        let mut before: HashMap<_, Vec<_>> = HashMap::new();
        for (id, stall) in left.open {
            before.entry((stall.wait.pid, stall.wait.tid)).or_default().push((id, stall));
        }
        Ok(Self {
            store: Arc::clone(store),
            shared,
            open: HashMap::new(),
            owed: Owed::default(),
            before,
            alive: left.alive,
            started: Instant::now(),
            lost: Arc::clone(lost),
            unheard: Arc::clone(unheard),
            failed: None,
            minute: Instant::now() + MINUTE,
        })
    }

    /// Until nobody is left to send.
    pub fn run(mut self, queue: &Receiver<String, Kept>) {
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
    fn round(&mut self, queue: &Receiver<String, Kept>) -> bool {
        // With something owed it does not wait for the next stall.
        let next = match self.failed {
            Some(failed) if !self.owed.is_empty() => self.minute.min(failed + PAUSE),
            _ => self.minute,
        };
        match queue.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(kept) => {
                self.owe(kept);
                let mut number = 1;
                let end = Instant::now() + BATCH;
                // Until the time is up, or nobody is left to send.
                while let Ok(kept) = queue.recv_timeout(end.saturating_duration_since(Instant::now())) {
                    self.owe(kept);
                    number += 1;
                }
                self.try_to(number, |_| Ok(()));
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() < self.minute => self.try_to(0, |_| Ok(())),
            Err(RecvTimeoutError::Timeout) => {
                self.minute = Instant::now() + MINUTE;
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
        if self.failed.is_none()
            && self.unheard.swap(false, Ordering::Acquire)
            && self.ask_again(queue).is_err()
        {
            self.unheard.store(true, Ordering::Release);
        }
        true
    }

    /// Asks which stalls are open: the end of one that is not may have found the queue full, as when a disk hangs that many
    /// wait for, this thread among them. So may the opening of one that is, or that it was found again.
    fn ask_again(&mut self, queue: &Receiver<String, Kept>) -> Result<()> {
        let before: Vec<_> = self.open.iter().map(|(thread, id)| (*thread, *id)).collect();
        let mut still: HashMap<_, _> = self
            .shared
            .stalls()?
            .into_iter()
            .map(|stall| ((stall.wait.thread.process.pid, stall.wait.thread.tid), stall))
            .collect();
        // What came before the answer, and what since: it tells more than the answer does.
        let mut heard = HashSet::new();
        while let Some((_, kept)) = queue.take_if(|_, _| true) {
            heard.insert(self.owe(kept));
        }
        let is_open = |(thread, id): &((u32, u32), Id)| self.open.get(thread) == Some(id);
        let ended: Vec<_> =
            before.into_iter().filter(is_open).filter(|(thread, _)| !still.contains_key(thread)).collect();
        still.retain(|thread, _| !heard.contains(thread) && !self.open.contains_key(thread));
        for stall in still.values() {
            self.owe(Kept::FoundAgain(Box::new(StallObject::open(stall))));
        }
        // The row of one that has ended may be owed.
        self.owed.settle(|rows| self.store.put(rows, None))?;
        self.end_unheard(&ended)
    }

    /// These have ended, and by now is all that is known of when.
    fn end_unheard(&mut self, ended: &[((u32, u32), Id)]) -> Result<()> {
        if ended.is_empty() {
            return Ok(());
        }
        let ids: HashSet<Id> = ended.iter().map(|(_, id)| *id).collect();
        let open = self.store.open_stalls()?.into_iter().filter(|(id, _)| ids.contains(id));
        let rows: Vec<_> = open.map(|(id, stall)| (id, ended_unseen(stall, Timestamp::now()))).collect();
        self.store.put(&rows, None)?;
        for (thread, _) in ended {
            self.open.remove(thread);
        }
        Ok(())
    }

    /// Whose it is.
    fn owe(&mut self, kept: Kept) -> (u32, u32) {
        let (id, stall) = self.place(kept);
        let thread = (stall.wait.pid, stall.wait.tid);
        self.owed.add(id, stall);
        thread
    }

    /// Under which id a stall is kept.
    fn place(&mut self, kept: Kept) -> (Id, StallObject) {
        match kept {
            Kept::Stall(mut stall) => {
                let thread = (stall.wait.pid, stall.wait.tid);
                match self.open.get(&thread) {
                    Some(id) => stall.opened = id.opened(),
                    None => drop(self.open.insert(thread, Id::of(&stall))),
                }
                let id = self.open[&thread];
                if stall.closed.is_some() {
                    self.open.remove(&thread);
                }
                (id, *stall)
            }
            Kept::FoundAgain(mut stall) => {
                let thread = (stall.wait.pid, stall.wait.tid);
                let same = |(_, before): &(Id, StallObject)| {
                    before.wait.since.duration_since(stall.wait.since).abs() <= SAME
                };
                let before = self.before.get_mut(&thread);
                let found = before.and_then(|rows| Some(rows.swap_remove(rows.iter().position(same)?).0));
                let id = found.unwrap_or_else(|| Id::of(&stall));
                stall.opened = id.opened();
                self.open.insert(thread, id);
                (id, *stall)
            }
        }
    }

    /// Keeps the worst waits of this minute, throws away what is too old, and closes stalls that ended while no agent ran.
    fn keep_minute(&mut self) {
        let mut number = 1;
        // Not before it has asked for what it was not told of: some may have been found again.
        if self.started.elapsed() >= GRACE && !self.unheard.load(Ordering::Acquire) {
            for (id, stall) in self.before.drain().flat_map(|(_, rows)| rows) {
                let closed = self.alive.unwrap_or(stall.opened).max(stall.opened);
                self.owed.add(id, ended_unseen(stall, closed));
                number += 1;
            }
        }
        match worst(&mut self.shared) {
            Ok(waits) => self.try_to(number, |store| {
                store.put(&[], Some((Timestamp::now(), &waits)))?;
                store.prune(Timestamp::now())
            }),
            // The agent ends.
            Err(_) => drop(self.lost.fetch_add(number, Ordering::Relaxed)),
        }
    }

    /// Writes what is owed, and something more. So many rows of it are new: they are counted if they cannot be written now,
    /// though stalls will be tried again.
    fn try_to(&mut self, number: u64, more: impl FnOnce(&Store) -> Result<(), HistoryError>) {
        if self.failed.is_some_and(|failed| failed.elapsed() < PAUSE) {
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

/// The worst waits of now.
fn worst(shared: &mut Shared) -> Result<Vec<WaitObject>> {
    let (snapshot, worst) = shared.worst(WORST)?;
    let waits = worst.into_iter().map(|at| snapshot.waits[at].clone()).collect();
    let mut pipeline = Pipeline::new();
    let mut assessments = pipeline.assess(waits, &ByProcess::new(&snapshot.waits), shared, &PeersOf::ALL)?;
    assessments.retain(|assessment| assessment.level() != Level::Idle);
    Ok(pipeline.objects(&assessments))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Limits, ROOM,
            samples::{damage_pages, flagged, stall},
        },
        *,
    };
    use crate::{
        assess::shared::{Ask, pair},
        util::fair::{self, Sender},
    };

    fn send(queue: &Sender<String, Kept>, stall: StallObject) {
        let kept = Kept::Stall(Box::new(stall));
        queue.send(kept.owner(), kept).expect("there is room");
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
        store.put(&[(Id::of(&open), open.clone())], Some((last, waits))).expect("written");
        drop(store);
        assert!(damage_pages(&file, &0x1234_5678_u64.to_le_bytes()) > 0);
        let store = Arc::new(Store::open(&file, limits).expect("it starts"));
        let (shared, _asked) = pair().expect("two ends");
        let writer = Writer::new(&store, shared, &Arc::default(), &Arc::default()).expect("it starts");
        assert_eq!(writer.before.values().flatten().map(|(id, _)| *id).collect::<Vec<_>>(), [Id::of(&open)]);
        assert!(file.with_extension("damaged").exists());
        store.put(&[(Id::of(&open), open)], Some((last, &[]))).expect("written");
        std::fs::remove_dir_all(&dir).expect("it is ours");
    }

    #[test]
    fn a_panic_ends_one_round() {
        let (dir, store) = empty("rounds");
        let (shared, _asked) = pair().expect("two ends");
        let lost = Arc::default();
        let mut writer = Writer::new(&store, shared, &lost, &Arc::default()).expect("an empty store");
        let (kept, queue) = fair::channel(ROOM);
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
        let (kept, queue) = fair::channel(ROOM);
        for pid in [1, 2] {
            writer.owe(Kept::Stall(Box::new(stall(pid, 10, None))));
        }
        send(&kept, stall(2, 10, Some(20)));
        // Opened since: not in the answer, and open all the same.
        send(&kept, stall(3, 30, None));
        std::thread::scope(|scope| {
            scope.spawn(move || match asked.asks.recv() {
                Ok(Ask::Stalls(reply)) => reply.send(Ok(vec![])).expect("it is waited for"),
                other => panic!("{other:?}"),
            });
            writer.ask_again(&queue).expect("written");
        });
        writer.owed.settle(|rows| store.put(rows, None)).expect("written");
        let kept = store.stalls_since(Timestamp::UNIX_EPOCH).expect("read");
        let ends: Vec<_> = kept.iter().map(|stall| (stall.wait.pid, stall.ended.as_deref())).collect();
        assert_eq!(ends, [(1, Some("unknown")), (2, Some("resumed")), (3, None)]);
        assert_eq!(writer.open.keys().copied().collect::<Vec<_>>(), [(3, 3)]);
        std::fs::remove_dir_all(&dir).expect("it is ours");
    }

    /// Of three stalls that are open one was so before the agent started, one is new, and the end of one is in the queue.
    #[test]
    fn an_opening_that_nobody_heard_of_is_asked_for() {
        let (dir, store) = empty("unheard");
        let before = stall(1, 10, None);
        store.put(&[(Id::of(&before), before)], None).expect("written");
        let (shared, asked) = pair().expect("two ends");
        let mut writer = Writer::new(&store, shared, &Arc::default(), &Arc::default()).expect("a stall");
        let (kept, queue) = fair::channel(ROOM);
        send(&kept, stall(3, 30, Some(40)));
        std::thread::scope(|scope| {
            scope.spawn(move || match asked.asks.recv() {
                Ok(Ask::Stalls(reply)) => {
                    let mut again = flagged(1, 11);
                    again.opened += SignedDuration::from_secs(50);
                    reply.send(Ok(vec![again, flagged(2, 20), flagged(3, 30)])).expect("it is waited for");
                }
                other => panic!("{other:?}"),
            });
            writer.ask_again(&queue).expect("written");
        });
        let rows = store.stalls_since(Timestamp::UNIX_EPOCH).expect("read");
        let rows: Vec<_> = rows
            .iter()
            .map(|stall| (stall.wait.pid, stall.opened.as_second(), stall.closed.is_some()))
            .collect();
        assert_eq!(rows, [(1, 10, false), (2, 20, false), (3, 30, true)]);
        assert!(writer.before.values().all(Vec::is_empty));
        let mut open: Vec<_> = writer.open.keys().copied().collect();
        open.sort_unstable();
        assert_eq!(open, [(1, 1), (2, 2)]);
        std::fs::remove_dir_all(&dir).expect("it is ours");
    }
}
