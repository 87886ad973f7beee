//! Who gives way where there is too much of something? Whoever has most of it, so that nobody can crowd others out; of one
//! owner's things, those that came last.
//!
//! Part of `util`, layer 0: uses nothing else of tracer.

mod table;

pub use self::table::Fair;

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc::RecvTimeoutError},
    time::{Duration, Instant},
};

/// So many of these, which come the best first and stay in that order. Every owner has as many as any other, as far as it has
/// any: n log n in their number.
pub fn keep<T, K: Eq + Hash>(items: Vec<T>, most: usize, owner: impl Fn(&T) -> K) -> Vec<T> {
    if items.len() <= most {
        return items;
    }
    let mut of_owner: HashMap<K, usize> = HashMap::new();
    let mut ranked: Vec<(usize, usize, T)> = Vec::with_capacity(items.len());
    for (place, item) in items.into_iter().enumerate() {
        let rank = of_owner.entry(owner(&item)).or_default();
        *rank += 1;
        ranked.push((*rank, place, item));
    }
    ranked.sort_unstable_by_key(|(rank, place, _)| (*rank, *place));
    ranked.truncate(most);
    ranked.sort_unstable_by_key(|(_, place, _)| *place);
    ranked.into_iter().map(|(.., item)| item).collect()
}

/// How much a queue holds.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// In all.
    pub all: usize,
    /// Of one owner.
    pub of_one: usize,
}

/// Things that wait, a row for each owner. The owners take turns.
#[derive(Debug)]
pub struct Queue<K, T> {
    room: Room,
    rows: HashMap<K, VecDeque<T>>,
    /// Owners that have something, the next one first.
    turns: VecDeque<K>,
    number: usize,
}

impl<K: Clone + Eq + Hash, T> Queue<K, T> {
    /// An empty one.
    pub fn new(room: Room) -> Self {
        Self { room, rows: HashMap::new(), turns: VecDeque::new(), number: 0 }
    }

    /// Takes something in. Where there is no room for it, what has to give way is returned: this, or the last of whoever has
    /// most.
    #[must_use]
    pub fn push(&mut self, owner: K, item: T) -> Option<T> {
        let has = self.rows.get(&owner).map_or(0, VecDeque::len);
        if has >= self.room.of_one {
            return Some(item);
        }
        let mut gives_way = None;
        if self.number >= self.room.all {
            let largest = self.rows.iter().max_by_key(|(_, row)| row.len());
            let Some(most) = largest.filter(|(_, row)| row.len() > has + 1).map(|(owner, _)| owner.clone())
            else {
                return Some(item);
            };
            // It has two at least, so its turn stays.
            gives_way = self.rows.get_mut(&most).and_then(VecDeque::pop_back);
            self.number -= 1;
        }
        if has == 0 {
            self.turns.push_back(owner.clone());
        }
        self.rows.entry(owner).or_default().push_back(item);
        self.number += 1;
        gives_way
    }

    /// The first thing of the owner whose turn it is, of those whose first thing `may` go.
    pub fn pop_if(&mut self, mut may: impl FnMut(&K, &T) -> bool) -> Option<(K, T)> {
        let mut first_may =
            |owner: &K| self.rows.get(owner).and_then(VecDeque::front).is_some_and(|item| may(owner, item));
        let at = self.turns.iter().position(&mut first_may)?;
        let owner = self.turns.remove(at)?;
        let row = self.rows.get_mut(&owner)?;
        let item = row.pop_front()?;
        self.number -= 1;
        if row.is_empty() {
            self.rows.remove(&owner);
        } else {
            self.turns.push_back(owner.clone());
        }
        Some((owner, item))
    }

    /// The first thing of the owner whose turn it is.
    pub fn pop(&mut self) -> Option<(K, T)> {
        self.pop_if(|_, _| true)
    }

    /// What [`Self::pop`] would give.
    pub fn front(&self) -> Option<&T> {
        self.rows.get(self.turns.front()?)?.front()
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.number == 0
    }
}

/// What both ends of a channel see.
struct ChannelShared<K, T> {
    state: Mutex<ChannelState<K, T>>,
    changed: Condvar,
}

struct ChannelState<K, T> {
    queue: Queue<K, T>,
    /// Something has come since this was last asked.
    news: bool,
    senders: usize,
    receives: bool,
}

impl<K, T> ChannelShared<K, T> {
    fn lock(&self) -> MutexGuard<'_, ChannelState<K, T>> {
        // A panic while it was held, of an owner's hash say, leaves a queue that is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A queue between threads.
pub fn channel<K: Clone + Eq + Hash, T>(room: Room) -> (Sender<K, T>, Receiver<K, T>) {
    let state = ChannelState { queue: Queue::new(room), news: false, senders: 1, receives: true };
    let shared = Arc::new(ChannelShared { state: Mutex::new(state), changed: Condvar::new() });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

/// Where things go in. The channel ends with the last of these.
pub struct Sender<K, T>(Arc<ChannelShared<K, T>>);

/// Why something was not taken in.
#[derive(Debug)]
pub enum Rejected<T> {
    /// There was no room: this gave way.
    Full(T),
    /// Nobody takes anything out any more.
    Gone,
}

impl<K: Clone + Eq + Hash, T> Sender<K, T> {
    /// Takes something in, and never waits. The error has what gave way, which may be another owner's.
    pub fn send(&self, owner: K, item: T) -> Result<(), Rejected<T>> {
        let mut state = self.0.lock();
        if !state.receives {
            return Err(Rejected::Gone);
        }
        let gives_way = state.queue.push(owner, item);
        state.news = true;
        drop(state);
        self.0.changed.notify_one();
        gives_way.map_or(Ok(()), |item| Err(Rejected::Full(item)))
    }
}

impl<K, T> Clone for Sender<K, T> {
    fn clone(&self) -> Self {
        self.0.lock().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<K, T> Drop for Sender<K, T> {
    fn drop(&mut self) {
        self.0.lock().senders -= 1;
        self.0.changed.notify_one();
    }
}

/// Where things come out.
pub struct Receiver<K, T>(Arc<ChannelShared<K, T>>);

impl<K: Clone + Eq + Hash, T> Receiver<K, T> {
    /// The next thing, waited for at most so long.
    pub fn recv_timeout(&self, at_most: Duration) -> Result<T, RecvTimeoutError> {
        let end = Instant::now().checked_add(at_most);
        let mut state = self.0.lock();
        loop {
            if let Some((_, item)) = state.queue.pop() {
                return Ok(item);
            }
            if state.senders == 0 {
                return Err(RecvTimeoutError::Disconnected);
            }
            let left = end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Err(RecvTimeoutError::Timeout);
            }
            state = self.wait(state, left);
        }
    }

    /// The next thing, if there is one that `may` go.
    pub fn take_if(&self, may: impl FnMut(&K, &T) -> bool) -> Option<(K, T)> {
        self.0.lock().queue.pop_if(may)
    }

    /// Waits until something has come since this was last asked, at most so long. False: nothing comes any more.
    pub fn wait_for_more(&self, at_most: Duration) -> bool {
        let mut state = self.0.lock();
        if !state.news && state.senders > 0 {
            state = self.wait(state, at_most);
        }
        state.news = false;
        state.senders > 0
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.lock().queue.is_empty()
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, ChannelState<K, T>>,
        at_most: Duration,
    ) -> MutexGuard<'a, ChannelState<K, T>> {
        self.0.changed.wait_timeout(state, at_most).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl<K, T> Drop for Receiver<K, T> {
    fn drop(&mut self) {
        self.0.lock().receives = false;
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Things of owners, `a1 a2 b1`: the owner is the letter.
    fn kept(items: &str, most: usize) -> String {
        let items: Vec<&str> = items.split(' ').collect();
        keep(items, most, |item| item.as_bytes()[0]).join(" ")
    }

    #[test]
    fn whoever_has_most_gives_way() {
        assert_eq!(kept("a1 a2 a3 b1", 4), "a1 a2 a3 b1", "there is room");
        assert_eq!(kept("a1 a2 a3 a4 a5 b1", 3), "a1 a2 b1", "the best of each");
        assert_eq!(kept("a1 a2 a3 b1 b2 c1", 5), "a1 a2 b1 b2 c1");
        assert_eq!(kept("a1 b1 c1 d1", 2), "a1 b1", "where all have as many the best stay");
        assert_eq!(kept("a1 b1", 0), "");
    }

    #[test]
    fn owners_take_turns() {
        let mut queue = Queue::new(Room { all: 9, of_one: 9 });
        for item in ["a1", "a2", "a3", "b1", "c1", "b2"] {
            assert_eq!(queue.push(item.as_bytes()[0], item), None);
        }
        let order: Vec<&str> = std::iter::from_fn(|| queue.pop()).map(|(_, item)| item).collect();
        assert_eq!(order, ["a1", "b1", "c1", "a2", "b2", "a3"]);
        assert!(queue.is_empty() && queue.rows.is_empty() && queue.turns.is_empty());
    }

    #[test]
    fn a_full_queue_has_room_for_who_has_less() {
        let mut queue = Queue::new(Room { all: 5, of_one: 3 });
        let mut push = |item: &'static str| queue.push(item.as_bytes()[0], item);
        assert_eq!(["a1", "a2", "a3"].map(&mut push), [None; 3]);
        assert_eq!(push("a4"), Some("a4"), "no more of one");
        assert_eq!(["b1", "b2"].map(&mut push), [None; 2]);
        assert_eq!(push("c1"), Some("a3"), "the last of whoever has most");
        assert_eq!(push("b3"), Some("b3"), "it would have most");
        assert_eq!(push("c2"), Some("c2"), "all have two then");
        let left: Vec<&str> = std::iter::from_fn(|| queue.pop()).map(|(_, item)| item).collect();
        assert_eq!(left, ["a1", "b1", "c1", "a2", "b2"]);
    }

    #[test]
    fn who_may_not_go_waits_and_keeps_its_turn() {
        let mut queue = Queue::new(Room { all: 9, of_one: 9 });
        for item in ["a1", "b1", "c1"] {
            assert_eq!(queue.push(item.as_bytes()[0], item), None);
        }
        assert_eq!(queue.pop_if(|owner, _| *owner == b'b'), Some((b'b', "b1")));
        assert_eq!(queue.pop_if(|owner, _| *owner == b'b'), None);
        assert_eq!(queue.pop(), Some((b'a', "a1")));
    }

    #[test]
    fn a_channel_ends_with_either_end() {
        let room = Room { all: 2, of_one: 2 };
        let (sender, receiver) = channel::<u8, u8>(room);
        assert_eq!(receiver.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout));
        let another = sender.clone();
        let sends = thread::spawn(move || another.send(1, 7).is_ok());
        assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok(7));
        assert!(sends.join().expect("it sends"));
        assert!(sender.send(1, 8).is_ok());
        assert!(receiver.wait_for_more(Duration::from_secs(10)), "it has come already");
        drop(sender);
        assert!(!receiver.wait_for_more(Duration::from_secs(10)));
        assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok(8), "what is there comes first");
        assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Err(RecvTimeoutError::Disconnected));
        let (sender, receiver) = channel::<u8, u8>(room);
        drop(receiver);
        assert!(matches!(sender.send(1, 1), Err(Rejected::Gone)));
    }
}
