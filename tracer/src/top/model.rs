//! What is shown: the last frame, and how its reader wants to see it. Pure: a key in, requests to the feed out.

use std::{cmp::Reverse, collections::HashSet, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::{
    filter::Filter,
    groups::{self, By, GroupKey, Line, worst},
    input::Action,
    page::{About, Page, ThreadRef},
    source::{Frame, ViewRequest, When},
};
use crate::{
    model::class::{Judgement, Level},
    wire::durations::Durations,
    wire::json::WaitObject,
};

/// The intervals to choose from.
const INTERVALS: [Duration; 7] = [
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
];

/// A step into the past: the agent keeps one look a minute.
const STEP_BACK: SignedDuration = SignedDuration::from_secs(60);

/// What the lines are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The stuck first, in each level the oldest.
    Worst,
    /// The oldest first.
    Age,
    /// By process and thread.
    Pid,
    /// By name.
    Command,
    /// By class.
    Class,
    /// By call.
    Syscall,
    /// By what they wait on.
    Target,
}

impl Order {
    const ALL: [Order; 7] =
        [Order::Worst, Order::Age, Order::Pid, Order::Command, Order::Class, Order::Syscall, Order::Target];

    /// Its name in the header.
    pub fn label(self) -> &'static str {
        match self {
            Order::Worst => "worst",
            Order::Age => "age",
            Order::Pid => "pid",
            Order::Command => "command",
            Order::Class => "class",
            Order::Syscall => "syscall",
            Order::Target => "target",
        }
    }
}

/// What a key leads to outside the model.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Tell the feed.
    Tell(ViewRequest),
    /// Write the view to a file.
    Write,
    /// End.
    Quit,
}

/// Everything that is shown, and how.
#[derive(Debug)]
pub struct Model {
    /// The last frame; `None` until the first comes.
    pub frame: Option<Frame>,
    /// What the table has, in its order.
    pub lines: Vec<Line>,
    /// The line that keys are about.
    pub selected: usize,
    /// Lines of the table that fit on the screen, as last drawn.
    pub page: usize,
    /// Columns of the screen.
    pub width: usize,
    /// The first line on the screen.
    pub top: usize,
    /// The filter's text.
    pub filter: String,
    /// It is being typed.
    pub typing: bool,
    /// What the lines are sorted by.
    pub order: Order,
    /// The other way round.
    pub reversed: bool,
    /// Idle waits are shown, and those that nothing flags but a rule.
    pub idle: bool,
    /// The frames are of chosen processes only.
    pub chosen: bool,
    /// What a line stands for.
    pub by: By,
    /// Groups whose waits are shown below them.
    unfolded: HashSet<GroupKey>,
    /// Nothing new is shown.
    pub paused: bool,
    /// The moment that was asked for, if it is over.
    pub past: Option<Timestamp>,
    /// How often the feed looks.
    pub interval: Duration,
    /// What is over the table.
    pub over: Option<Page>,
    /// What has just been done.
    pub said: Option<String>,
    /// Why the feed has nothing new.
    pub trouble: Option<String>,
}

impl Model {
    /// Before the first frame.
    pub fn new(interval: Duration, idle: bool) -> Self {
        Self {
            frame: None,
            lines: Vec::new(),
            selected: 0,
            page: 1,
            width: 80,
            top: 0,
            filter: String::new(),
            typing: false,
            order: Order::Worst,
            reversed: false,
            idle,
            chosen: false,
            by: By::Culprit,
            unfolded: HashSet::new(),
            paused: false,
            past: None,
            interval,
            over: None,
            said: None,
            trouble: None,
        }
    }

    /// The host has been looked at again. The line that was selected stays so, wherever it is now; a page is asked for anew.
    pub fn take(&mut self, frame: Frame) -> Option<Effect> {
        self.trouble = None;
        let is_past = frame.when != When::Now;
        // One that was under way when its reader stopped time, or went to another.
        if self.paused || is_past != self.past.is_some() || self.past.is_some_and(|past| past != frame.at) {
            return None;
        }
        self.frame = Some(frame);
        self.arrange();
        self.inspect()
    }

    /// The past cannot be had: back to now, where the feed is already.
    pub fn no_past(&mut self, why: String) {
        (self.past, self.said) = (None, Some(why));
    }

    /// What `why` says of a thread has come.
    pub fn take_page(&mut self, about: u32, text: Result<String, String>, durations: Option<&Durations>) {
        if let Some(page) = &mut self.over
            && matches!(page.about, About::Thread(ThreadRef { tid, .. }) if tid == about)
        {
            page.take(text, durations);
        }
        self.fit_page();
    }

    /// Asks for the page that is open, if the feed has it.
    fn inspect(&self) -> Option<Effect> {
        match self.over.as_ref()?.about {
            About::Thread(thread) => {
                Some(Effect::Tell(ViewRequest::Inspect { thread, width: self.page_width() }))
            }
            About::Keys | About::Kept(_) => None,
        }
    }

    /// Columns inside a page's border.
    fn page_width(&self) -> usize {
        self.width.saturating_sub(2).max(20)
    }

    /// Lines inside a page's border.
    fn page_room(&self) -> usize {
        self.page.saturating_sub(1).max(1)
    }

    fn fit_page(&mut self) {
        let room = self.page_room();
        if let Some(page) = &mut self.over {
            page.fit(room);
        }
    }

    fn open(&mut self, about: About) -> Option<Effect> {
        self.over = Some(Page::new(about, self.page_width()));
        self.inspect()
    }

    /// The wait that is selected.
    pub fn selected(&self) -> Option<&Line> {
        self.lines.get(self.selected)
    }

    /// A letter of the filter.
    pub fn type_letter(&mut self, letter: Option<char>) {
        match letter {
            Some(letter) => self.filter.push(letter),
            None => drop(self.filter.pop()),
        }
        self.arrange();
    }

    /// Only so much of the filter stays.
    pub fn keep_filter(&mut self, length: usize) {
        self.filter.truncate(length);
        self.arrange();
    }

    /// What an action leads to.
    pub fn act(&mut self, action: Action) -> Option<Effect> {
        self.said = None;
        let room = self.page_room();
        if let Some(page) = &mut self.over {
            match action {
                Action::Quit | Action::Back | Action::Open => self.over = None,
                Action::Help if page.about == About::Keys => self.over = None,
                Action::Help => return self.open(About::Keys),
                action => page.scroll(action, room),
            }
            return None;
        }
        match action {
            Action::Up => self.select(self.selected.saturating_sub(1)),
            Action::Down => self.select(self.selected + 1),
            Action::PageUp => self.select(self.selected.saturating_sub(self.page)),
            Action::PageDown => self.select(self.selected + self.page),
            Action::First => self.select(0),
            Action::Last => self.select(usize::MAX),
            Action::Filter => self.typing = true,
            Action::Back => {
                self.filter.clear();
                self.arrange();
            }
            Action::Sort => {
                let at = Order::ALL.iter().position(|order| *order == self.order).unwrap_or(0);
                self.order = Order::ALL[(at + 1) % Order::ALL.len()];
                self.arrange();
            }
            Action::Reverse => {
                self.reversed = !self.reversed;
                self.arrange();
            }
            Action::Idle => {
                self.idle = !self.idle;
                self.arrange();
                return Some(Effect::Tell(ViewRequest::Idle(self.idle)));
            }
            Action::Group => {
                self.by = self.by.next();
                self.arrange();
            }
            Action::Processes => self.stand_for(By::Process),
            Action::Units => self.stand_for(By::Unit),
            Action::Containers => self.stand_for(By::Container),
            // The past stands still anyway.
            Action::Pause if self.past.is_some() => {}
            Action::Pause => {
                self.paused = !self.paused;
                return Some(Effect::Tell(ViewRequest::Pause(self.paused)));
            }
            Action::Earlier => {
                let from = self.shown()?;
                return self.go_to(from.checked_sub(STEP_BACK).ok());
            }
            Action::Later => {
                // At least the next minute that was kept; within a minute of now there is none.
                let from = self.past?.max(self.shown()?.checked_add(STEP_BACK / 2).ok()?);
                let next = from.checked_add(STEP_BACK).ok()?;
                let now = Timestamp::now();
                return self.go_to(Some(next).filter(|next| now.duration_since(*next) >= STEP_BACK));
            }
            Action::Slower => return self.pace(INTERVALS.iter().find(|other| **other > self.interval)),
            Action::Faster => return self.pace(INTERVALS.iter().rfind(|other| **other < self.interval)),
            Action::Open if self.selected().is_some_and(Line::folds) => self.fold(),
            Action::Open => {
                let wait = Arc::clone(&self.selected()?.wait);
                return self.open(match self.past {
                    Some(_) => About::Kept(wait),
                    None => About::Thread(ThreadRef {
                        pid: wait.pid,
                        // A request's page is its process's.
                        tid: if wait.is_request() { wait.pid } else { wait.tid },
                        start_ticks: wait.start_ticks,
                    }),
                });
            }
            Action::Write => return Some(Effect::Write),
            Action::Help => return self.open(About::Keys),
            Action::Quit => return Some(Effect::Quit),
        }
        None
    }

    /// Selects a line, the last if there are fewer, and brings it onto the screen.
    pub fn select(&mut self, line: usize) {
        self.selected = line.min(self.lines.len().saturating_sub(1));
        self.scroll();
    }

    /// The screen has room for so many lines of the table, and so many columns: a page is wrapped anew.
    pub fn fit(&mut self, page: usize, width: usize) -> Option<Effect> {
        let another = self.width != width;
        (self.page, self.width) = (page.max(1), width);
        self.scroll();
        let width = self.page_width();
        if another && let Some(page) = &mut self.over {
            page.wrap(width);
        }
        self.fit_page();
        if another { self.inspect() } else { None }
    }

    /// The moment that is on the screen: the one the agent kept, if it kept one.
    fn shown(&self) -> Option<Timestamp> {
        let frame = self.frame.as_ref()?;
        Some(match (frame.when, self.past) {
            // Another is on its way.
            (_, Some(past)) if past != frame.at => past,
            (When::Kept(at), _) => at,
            _ => frame.at,
        })
    }

    fn scroll(&mut self) {
        let last = self.lines.len().saturating_sub(self.page);
        self.top = self.top.clamp((self.selected + 1).saturating_sub(self.page), self.selected).min(last);
    }

    fn go_to(&mut self, past: Option<Timestamp>) -> Option<Effect> {
        (self.past, self.paused) = (past, false);
        Some(Effect::Tell(ViewRequest::Past(past)))
    }

    fn pace(&mut self, interval: Option<&Duration>) -> Option<Effect> {
        self.interval = *interval?;
        Some(Effect::Tell(ViewRequest::Every(self.interval)))
    }

    /// Again the same key: back to culprits.
    fn stand_for(&mut self, by: By) {
        self.by = if self.by == by { By::Culprit } else { by };
        self.arrange();
    }

    /// Shows the waits of the group that is selected, or hides them.
    fn fold(&mut self) {
        let Some(key) = self.selected().and_then(|line| line.key) else { return };
        if !self.unfolded.remove(&key) {
            self.unfolded.insert(key);
        }
        self.arrange();
    }

    /// Whether the waits of a group are shown below it.
    pub fn is_unfolded(&self, line: &Line) -> bool {
        line.key.is_some_and(|key| self.unfolded.contains(&key))
    }

    /// The age of the oldest stuck wait.
    pub fn oldest_stuck(&self) -> Option<Duration> {
        let waits = self.frame.iter().flat_map(|frame| &frame.waits);
        waits.filter(|wait| wait.worry() == Level::Stuck).map(|wait| wait.age).max()
    }

    /// Makes the lines of the frame.
    fn arrange(&mut self) {
        let before = self.selected().map(|line| (line.key, Arc::clone(&line.wait)));
        let filter = Filter::parse(&self.filter);
        let asked_about = self.chosen || !filter.is_empty();
        let shown = |wait: &WaitObject| {
            let listed = wait.judgement().is_some_and(Judgement::is_listed);
            self.idle || listed || asked_about && wait.worry() != Level::Idle
        };
        let kept = |wait: &&Arc<WaitObject>| shown(wait) && filter.keeps(wait);
        let waits = self.frame.iter().flat_map(|frame| &frame.waits).filter(kept).cloned();
        let mut lines = groups::lines(waits, self.by);
        sort(&mut lines, self.order, self.by);
        if self.reversed {
            lines.reverse();
        }
        self.lines = groups::unfold(lines, &self.unfolded);
        // A group is the same group; a thread the same thread.
        let same = |line: &Line| match &before {
            Some((Some(key), _)) => line.key == Some(*key),
            Some((None, wait)) => line.key.is_none() && line.wait.is_of_same_thread(wait),
            None => false,
        };
        self.selected = match self.lines.iter().position(same) {
            Some(at) if self.selected > 0 => at,
            // Whoever looks at the first line wants the worst, whichever that is.
            _ => self.selected.min(self.lines.len().saturating_sub(1)),
        };
        self.scroll();
    }
}

fn sort(lines: &mut [Line], order: Order, by: By) {
    // The thread decides between equals: lines that change places without a reason cannot be read.
    let id = |line: &Line| line.wait.waiter();
    match order {
        // As in `ps`, whoever holds up most is first.
        Order::Worst => lines.sort_by_key(|line| {
            let held_up = if by == By::Culprit { line.number } else { 0 };
            (line.wait.worry(), Reverse(held_up), worst(&line.wait), id(line))
        }),
        Order::Age => lines.sort_by_key(|line| (Reverse(line.wait.age), id(line))),
        Order::Pid => lines.sort_by_key(id),
        Order::Command => lines.sort_by(|a, b| (&a.wait.comm, id(a)).cmp(&(&b.wait.comm, id(b)))),
        Order::Class => lines.sort_by_key(|line| (line.wait.class, id(line))),
        Order::Syscall => lines.sort_by(|a, b| (&a.wait.syscall, id(a)).cmp(&(&b.wait.syscall, id(b)))),
        Order::Target => lines.sort_by_cached_key(|line| (line.wait.target.to_string(), id(line))),
    }
}

#[cfg(test)]
mod tests;
