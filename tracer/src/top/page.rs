//! What is over the table: lines of text, what they are about, and how far down they are read.

use std::{sync::Arc, time::Duration};

use super::input::{self, Action, KEYS};
use crate::{
    model::histogram::{BUCKETS, bound_us},
    render::why,
    util::human,
    wire::durations::Durations,
    wire::json::WaitObject,
};

/// A thread and its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadRef {
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// When the process started, clock ticks since boot, if that is known.
    pub start_ticks: Option<u64>,
}

/// What a page is about.
#[derive(Clone, Debug, PartialEq)]
pub enum About {
    /// The keys.
    Keys,
    /// A thread that is there now, and its process: the feed is asked.
    Thread(ThreadRef),
    /// A wait that the agent has kept: the process may be another by now, so what was kept is all there is.
    Kept(Arc<WaitObject>),
}

/// A page.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// What it is about.
    pub about: About,
    /// Its text.
    pub lines: Vec<String>,
    /// Lines scrolled down.
    pub down: usize,
    /// Why it tells nothing newer.
    pub last_word: Option<String>,
}

impl Page {
    /// A page of lines at most so wide; what the feed must be asked for comes later.
    pub fn new(about: About, width: usize) -> Self {
        let mut page = Self { about, lines: vec!["…".into()], down: 0, last_word: None };
        page.wrap(width);
        page
    }

    /// The lines have another width now. Those of a thread come from the feed.
    pub fn wrap(&mut self, width: usize) {
        match &self.about {
            About::Keys => self.lines = keys(width),
            About::Kept(wait) => self.lines = why::kept(wait, width).lines().map(str::to_owned).collect(),
            About::Thread(_) => {}
        }
    }

    /// What `why` says now. Where it has nothing to say any more, its last words stay.
    pub fn take(&mut self, text: Result<String, String>, durations: Option<&Durations>) {
        match text {
            Ok(text) => {
                self.lines = text.lines().map(str::to_owned).collect();
                self.last_word = None;
                self.lines.extend(durations.map(histogram).unwrap_or_default());
            }
            Err(error) => self.last_word = Some(error),
        }
    }

    /// Does what a key asks for, with room for so many lines.
    pub fn scroll(&mut self, action: Action, room: usize) {
        self.down = match action {
            Action::Up => self.down.saturating_sub(1),
            Action::Down => self.down + 1,
            Action::PageUp => self.down.saturating_sub(room),
            Action::PageDown => self.down + room,
            Action::First => 0,
            Action::Last => usize::MAX,
            _ => self.down,
        };
        self.fit(room);
    }

    /// There is room for so many lines: the last is never above the bottom without need.
    pub fn fit(&mut self, room: usize) {
        self.down = self.down.min(self.lines.len().saturating_sub(room));
    }

    /// What its border says.
    pub fn title(&self) -> String {
        match (&self.about, &self.last_word) {
            (About::Keys, _) => " Keys ".into(),
            (_, Some(word)) => format!(" Why, at last: {} ", human::clean(word)),
            (About::Kept(_), None) => " Why, as recorded ".into(),
            (About::Thread(_), None) => " Why ".into(),
        }
    }
}

/// Keys and what they do.
fn keys(width: usize) -> Vec<String> {
    let names = |keys: &[input::KeyPress]| keys.iter().map(input::name).collect::<Vec<_>>().join(" ");
    let margin = KEYS.iter().map(|(of, ..)| names(of).len()).max().unwrap_or(0) + 2;
    KEYS.iter()
        .flat_map(|(of, _, what)| {
            let (first, next) = (format!("{:margin$}", names(of)), " ".repeat(margin));
            let options = textwrap::Options::new(width).initial_indent(&first).subsequent_indent(&next);
            textwrap::wrap(what, options).into_iter().map(|line| line.into_owned()).collect::<Vec<_>>()
        })
        .collect()
}

fn histogram(durations: &Durations) -> Vec<String> {
    const BAR: u64 = 40;
    let most = durations.buckets.iter().copied().max().unwrap_or(0).max(1);
    let used = |bucket: &usize| durations.buckets[*bucket] > 0;
    let (Some(first), Some(last)) = ((0..BUCKETS).find(used), (0..BUCKETS).rfind(used)) else {
        return Vec::new();
    };
    let mut lines = vec![String::new(), "Ended waits of 100 µs or more, by duration".to_owned()];
    for bucket in first..=last {
        let number = durations.buckets[bucket];
        // Whoever is there is seen.
        let bar = "█".repeat((number * BAR).div_ceil(most) as usize);
        let below = Duration::from_micros(bound_us(bucket));
        let below = if bucket + 1 == BUCKETS { "longer".to_owned() } else { format!("< {}", short(below)) };
        lines.push(format!("{below:>9} {number:>8} {bar}"));
    }
    lines
}

/// A power of two of microseconds, in two or three digits.
fn short(time: Duration) -> String {
    match time.as_micros() {
        us @ 0..1_000 => format!("{us} µs"),
        us @ 1_000..1_000_000 => format!("{} ms", us / 1_000),
        _ => human::age(time),
    }
}
