//! A thread that writes values down one after another, always the newest. Whoever hands one over never waits: storage that hangs
//! holds up this thread alone.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// Where values are handed over.
pub struct Saver<T>(Arc<SaverShared<T>>);

struct SaverShared<T> {
    exchange: Mutex<Exchange<T>>,
    changed: Condvar,
}

/// What passes between the two sides.
struct Exchange<T> {
    /// Not taken yet. There is never more than one: a newer value takes its place.
    waiting: Option<T>,
    is_writing: bool,
    /// The last one that was tried, and what came of it.
    tried: Option<(T, Result<()>)>,
    unsaved: u64,
    is_over: bool,
}

impl<T> SaverShared<T> {
    fn exchange(&self) -> MutexGuard<'_, Exchange<T>> {
        self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static> Saver<T> {
    /// Starts the thread, which writes by `write`.
    pub fn start(write: impl FnMut(&T) -> Result<()> + Send + 'static) -> Result<Self> {
        let exchange = Exchange { waiting: None, is_writing: false, tried: None, unsaved: 0, is_over: false };
        let shared = Arc::new(SaverShared { exchange: Mutex::new(exchange), changed: Condvar::new() });
        let theirs = Arc::clone(&shared);
        thread::Builder::new()
            .name("state".into())
            .spawn(move || run(&theirs, write))
            .context("cannot start the thread that writes the state")?;
        Ok(Self(shared))
    }

    /// Hands over a value. Whether it took the place of one that had not been written, since the writer is still at one before:
    /// that one is lost, and counted.
    pub fn put(&self, value: T) -> bool {
        let mut exchange = self.0.exchange();
        let replaced = exchange.waiting.replace(value).is_some();
        exchange.unsaved += u64::from(replaced);
        self.0.changed.notify_all();
        replaced
    }

    /// The last value that was tried since this was last asked, and what came of it.
    pub fn tried(&self) -> Option<(T, Result<()>)> {
        self.0.exchange().tried.take()
    }

    /// Values that were not written, so far.
    pub fn unsaved(&self) -> u64 {
        self.0.exchange().unsaved
    }

    /// Waits until all has been tried, at most so long; whether it has.
    pub fn wait(&self, at_most: Duration) -> bool {
        let end = Instant::now() + at_most;
        let mut exchange = self.0.exchange();
        while exchange.is_writing || exchange.waiting.is_some() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            exchange = self.0.changed.wait_timeout(exchange, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl<T> Drop for Saver<T> {
    fn drop(&mut self) {
        // It is not waited for: it may never come back.
        self.0.exchange().is_over = true;
        self.0.changed.notify_all();
    }
}

fn run<T>(shared: &SaverShared<T>, mut write: impl FnMut(&T) -> Result<()>) {
    loop {
        let mut exchange = shared.exchange();
        let value = loop {
            match exchange.waiting.take() {
                Some(value) => break value,
                None if exchange.is_over => return,
                None => exchange = shared.changed.wait(exchange).unwrap_or_else(PoisonError::into_inner),
            }
        };
        exchange.is_writing = true;
        drop(exchange);
        let result = write(&value);
        let mut exchange = shared.exchange();
        exchange.is_writing = false;
        exchange.unsaved += u64::from(result.is_err());
        exchange.tried = Some((value, result));
        shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use anyhow::bail;

    use super::*;

    #[test]
    fn the_newest_is_written_and_nobody_waits_for_a_writer_that_hangs() {
        let (write, written) = channel();
        let (go_on, wait) = channel::<()>();
        let saver = Saver::start(move |value: &u32| {
            write.send(*value).expect("somebody listens");
            wait.recv().context("it is over")
        })
        .expect("a thread");
        assert!(!saver.put(1));
        assert_eq!(written.recv().expect("it writes"), 1);
        // It hangs: one waits, and each later one takes its place.
        assert_eq!([2, 3, 4].map(|value| saver.put(value)), [false, true, true]);
        assert_eq!(saver.unsaved(), 2);
        assert!(!saver.wait(Duration::from_millis(20)));
        assert!(saver.tried().is_none());
        go_on.send(()).expect("it waits");
        assert_eq!(written.recv().expect("it goes on"), 4);
        go_on.send(()).expect("it waits");
        assert!(saver.wait(Duration::from_secs(10)));
        assert!(matches!(saver.tried(), Some((4, Ok(())))));
        assert!(saver.tried().is_none());
        assert_eq!(saver.unsaved(), 2);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_the_next_is_tried() {
        let saver = Saver::start(|value: &u32| if *value == 1 { bail!("no room") } else { Ok(()) });
        let saver = saver.expect("a thread");
        saver.put(1);
        assert!(saver.wait(Duration::from_secs(10)));
        assert!(matches!(saver.tried(), Some((1, Err(_)))));
        saver.put(2);
        assert!(saver.wait(Duration::from_secs(10)));
        assert!(matches!(saver.tried(), Some((2, Ok(())))));
        assert_eq!(saver.unsaved(), 1);
    }
}
