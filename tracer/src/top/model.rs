//! What is shown: the last frame, and how its reader wants to see it. Pure: a key in, wishes to the feed out.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::{
    filter::Filter,
    input::Action,
    source::{Frame, Wish},
};
use crate::{class::Level, durations::Durations, export::json::WaitObject};

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
const MINUTE: SignedDuration = SignedDuration::from_secs(60);

/// What a line stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A thread.
    Thread,
    /// A process.
    Process,
    /// A systemd unit.
    Unit,
    /// A container.
    Container,
}

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

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Line {
    /// The worst of its waits.
    pub wait: Arc<WaitObject>,
    /// How many waits it stands for.
    pub number: usize,
    /// What it stands for, where that is more than a thread: unit or container; empty: none.
    pub group: Option<String>,
}

/// What is over the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Over {
    /// Nothing.
    Nothing,
    /// The keys.
    Help,
    /// Everything about a thread's process, and how far down it is read; without a text, it is being looked up.
    Page {
        /// The thread.
        tid: u32,
        /// What `why` says.
        text: Option<String>,
        /// How long its process's waits took that have ended.
        durations: Option<Box<Durations>>,
        /// Lines scrolled down.
        down: usize,
    },
}

/// What a key leads to outside the model.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Tell the feed.
    Tell(Wish),
    /// Ask it for everything about this process's thread.
    Inspect {
        /// The process.
        pid: u32,
        /// The thread.
        tid: u32,
    },
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
    /// Idle waits are shown.
    pub idle: bool,
    /// What a line stands for.
    pub by: By,
    /// Nothing new is shown.
    pub paused: bool,
    /// The moment that is shown, if it is over.
    pub past: Option<Timestamp>,
    /// How often the feed looks.
    pub interval: Duration,
    /// What is over the table.
    pub over: Over,
    /// What has just been done.
    pub said: Option<String>,
}

impl Model {
    /// Before the first frame.
    pub fn new(interval: Duration, idle: bool) -> Self {
        Self {
            frame: None,
            lines: Vec::new(),
            selected: 0,
            page: 1,
            top: 0,
            filter: String::new(),
            typing: false,
            order: Order::Worst,
            reversed: false,
            idle,
            by: By::Thread,
            paused: false,
            past: None,
            interval,
            over: Over::Nothing,
            said: None,
        }
    }

    /// The host has been looked at again. The line that was selected stays so, wherever it is now.
    pub fn take(&mut self, frame: Frame) {
        // One that was under way when its reader stopped time, or went to another.
        if self.paused || frame.past != self.past.is_some() {
            return;
        }
        self.frame = Some(frame);
        self.arrange();
    }

    /// What `why` says of a thread has come.
    pub fn take_page(&mut self, about: u32, page: String, took: Option<Box<Durations>>) {
        if let Over::Page { tid, text, durations, .. } = &mut self.over
            && *tid == about
        {
            (*text, *durations) = (Some(page), took);
        }
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

    /// What an action leads to.
    pub fn act(&mut self, action: Action) -> Option<Effect> {
        self.said = None;
        if let Over::Page { down, .. } = &mut self.over {
            let page = self.page.max(2) - 1;
            match action {
                Action::Up => *down = down.saturating_sub(1),
                Action::Down => *down += 1,
                Action::PageUp => *down = down.saturating_sub(page),
                Action::PageDown => *down += page,
                Action::First => *down = 0,
                Action::Quit | Action::Back | Action::Open => self.over = Over::Nothing,
                _ => {}
            }
            return None;
        }
        if self.over == Over::Help {
            self.over = Over::Nothing;
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
                return Some(Effect::Tell(Wish::Idle(self.idle)));
            }
            Action::Processes => self.stand_for(By::Process),
            Action::Units => self.stand_for(By::Unit),
            Action::Containers => self.stand_for(By::Container),
            Action::Pause => {
                self.paused = !self.paused;
                return Some(Effect::Tell(Wish::Pause(self.paused)));
            }
            Action::Earlier => {
                let from = self.past.or(self.frame.as_ref().map(|frame| frame.at))?;
                return self.go_to(from.checked_sub(MINUTE).ok());
            }
            Action::Later => {
                // The last minute is not over yet.
                let now = Timestamp::now();
                let next = self.past?.checked_add(MINUTE).ok().filter(|next| *next < now);
                return self.go_to(next);
            }
            Action::Slower => return self.pace(INTERVALS.iter().find(|other| **other > self.interval)),
            Action::Faster => return self.pace(INTERVALS.iter().rfind(|other| **other < self.interval)),
            Action::Open => {
                let WaitObject { pid, tid, verdict, .. } = &*self.selected()?.wait;
                let (pid, tid) = (*pid, *tid);
                if self.past.is_some() {
                    // The process may be another by now: what was kept is all there is.
                    let text = verdict.clone();
                    self.over = Over::Page { tid, text, durations: None, down: 0 };
                    return None;
                }
                self.over = Over::Page { tid, text: None, durations: None, down: 0 };
                return Some(Effect::Inspect { pid, tid });
            }
            Action::Write => return Some(Effect::Write),
            Action::Help => self.over = Over::Help,
            Action::Quit => return Some(Effect::Quit),
        }
        None
    }

    /// Selects a line, the last if there are fewer, and brings it onto the screen.
    pub fn select(&mut self, line: usize) {
        self.selected = line.min(self.lines.len().saturating_sub(1));
        self.scroll();
    }

    /// The screen has room for so many lines.
    pub fn fit(&mut self, page: usize) {
        self.page = page.max(1);
        self.scroll();
    }

    fn scroll(&mut self) {
        let last = self.lines.len().saturating_sub(self.page);
        self.top = self.top.clamp((self.selected + 1).saturating_sub(self.page), self.selected).min(last);
    }

    fn go_to(&mut self, past: Option<Timestamp>) -> Option<Effect> {
        (self.past, self.paused) = (past, false);
        Some(Effect::Tell(Wish::Past(past)))
    }

    fn pace(&mut self, interval: Option<&Duration>) -> Option<Effect> {
        self.interval = *interval?;
        Some(Effect::Tell(Wish::Every(self.interval)))
    }

    /// Again the same key: back to threads.
    fn stand_for(&mut self, by: By) {
        self.by = if self.by == by { By::Thread } else { by };
        self.arrange();
    }

    /// The age of the oldest stuck wait.
    pub fn oldest_stuck(&self) -> Option<Duration> {
        let waits = self.frame.iter().flat_map(|frame| &frame.waits);
        waits.filter(|wait| wait.worry() == Level::Stuck).map(|wait| wait.age).max()
    }

    /// Makes the lines of the frame.
    fn arrange(&mut self) {
        let before = self.selected().map(|line| (line.group.clone(), line.wait.pid, line.wait.tid));
        let filter = Filter::parse(&self.filter);
        let kept = |wait: &&Arc<WaitObject>| (self.idle || wait.worry() != Level::Idle) && filter.keeps(wait);
        let waits = self.frame.iter().flat_map(|frame| &frame.waits).filter(kept).cloned();
        let mut lines: Vec<Line> = match self.by {
            By::Thread => waits.map(|wait| Line { wait, number: 1, group: None }).collect(),
            By::Process => grouped(waits, |wait| (wait.pid, None)),
            By::Unit => grouped(waits, |wait| {
                let unit = wait.unit.clone().unwrap_or_default();
                (unit.clone(), Some(unit))
            }),
            By::Container => grouped(waits, |wait| {
                let id = wait.container.clone().unwrap_or_default();
                (id.clone(), Some(id))
            }),
        };
        sort(&mut lines, self.order);
        if self.reversed {
            lines.reverse();
        }
        self.lines = lines;
        // A group is the same group; a thread the same thread.
        let same = |line: &Line| match &before {
            Some((Some(group), ..)) => line.group.as_ref() == Some(group),
            Some((None, pid, tid)) => (line.wait.pid, line.wait.tid) == (*pid, *tid),
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

/// One line for each key, of its worst wait.
fn grouped<K: Ord>(
    waits: impl Iterator<Item = Arc<WaitObject>>,
    key: impl Fn(&WaitObject) -> (K, Option<String>),
) -> Vec<Line> {
    let mut lines: BTreeMap<K, Line> = BTreeMap::new();
    for wait in waits {
        let (key, group) = key(&wait);
        match lines.get_mut(&key) {
            Some(line) => {
                line.number += 1;
                if worst(&wait) < worst(&line.wait) {
                    line.wait = wait;
                }
            }
            None => drop(lines.insert(key, Line { wait, number: 1, group })),
        }
    }
    lines.into_values().collect()
}

fn worst(wait: &WaitObject) -> (Level, Reverse<Duration>) {
    (wait.worry(), Reverse(wait.age))
}

fn sort(lines: &mut [Line], order: Order) {
    // The thread decides between equals: lines that change places without a reason cannot be read.
    let id = |line: &Line| (line.wait.pid, line.wait.tid);
    match order {
        Order::Worst => lines.sort_by_key(|line| (worst(&line.wait), id(line))),
        Order::Age => lines.sort_by_key(|line| (Reverse(line.wait.age), id(line))),
        Order::Pid => lines.sort_by_key(id),
        Order::Command => lines.sort_by(|a, b| (&a.wait.comm, id(a)).cmp(&(&b.wait.comm, id(b)))),
        Order::Class => lines.sort_by_key(|line| (line.wait.class, id(line))),
        Order::Syscall => lines.sort_by(|a, b| (&a.wait.syscall, id(a)).cmp(&(&b.wait.syscall, id(b)))),
        Order::Target => lines.sort_by_cached_key(|line| (line.wait.target.to_string(), id(line))),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::samples, *};
    use crate::class::Class;

    fn model() -> Model {
        let mut model = Model::new(Duration::from_secs(1), false);
        model.fit(10);
        model.take(samples::frame(vec![
            samples::wait(1, "sleeper", Class::Timer, 900),
            samples::wait(2, "php", Class::Reply, 20),
            samples::wait(3, "php", Class::Reply, 60),
            samples::wait(4, "cat", Class::Pipe, 600),
        ]));
        model
    }

    fn pids(model: &Model) -> Vec<u32> {
        model.lines.iter().map(|line| line.wait.pid).collect()
    }

    #[test]
    fn the_worst_is_first_and_idle_waits_are_hidden_until_asked_for() {
        let mut model = model();
        assert_eq!(pids(&model), [3, 2, 4]);
        assert_eq!(model.act(Action::Idle), Some(Effect::Tell(Wish::Idle(true))));
        assert_eq!(pids(&model), [3, 2, 4, 1]);
        assert_eq!(model.oldest_stuck(), Some(Duration::from_secs(60)));
    }

    #[test]
    fn order_and_its_reverse() {
        let mut model = model();
        model.act(Action::Sort);
        assert_eq!((model.order, pids(&model)), (Order::Age, vec![4, 3, 2]));
        model.act(Action::Reverse);
        assert_eq!(pids(&model), [2, 3, 4]);
        for _ in 0..6 {
            model.act(Action::Sort);
        }
        assert_eq!(model.order, Order::Worst);
    }

    #[test]
    fn a_filter_works_while_it_is_typed() {
        let mut model = model();
        model.act(Action::Filter);
        assert!(model.typing);
        "cat".chars().for_each(|letter| model.type_letter(Some(letter)));
        assert_eq!(pids(&model), [4]);
        model.type_letter(Some('x'));
        assert!(model.lines.is_empty() && model.selected().is_none());
        model.type_letter(None);
        assert_eq!(pids(&model), [4]);
        model.act(Action::Back);
        assert_eq!(pids(&model).len(), 3);
    }

    #[test]
    fn a_selected_line_is_followed_and_the_first_is_not() {
        let mut model = model();
        model.act(Action::Down);
        assert_eq!(model.selected().map(|line| line.wait.tid), Some(2));
        model.take(samples::frame(vec![
            samples::wait(2, "php", Class::Reply, 20),
            samples::wait(9, "new", Class::Lock, 99),
            samples::wait(3, "php", Class::Reply, 60),
        ]));
        assert_eq!(model.selected().map(|line| line.wait.tid), Some(2));
        model.act(Action::First);
        model.take(samples::frame(vec![
            samples::wait(2, "php", Class::Reply, 20),
            samples::wait(7, "a", Class::Lock, 99),
        ]));
        assert_eq!(model.selected().map(|line| line.wait.tid), Some(7));
    }

    #[test]
    fn scrolling_stays_inside() {
        let mut model = Model::new(Duration::from_secs(1), false);
        model.fit(10);
        model.take(samples::frame(
            (1..=100).map(|pid| samples::wait(pid, "php", Class::Reply, 1000 - u64::from(pid))).collect(),
        ));
        model.act(Action::Last);
        assert_eq!((model.selected, model.top), (99, 90));
        model.act(Action::PageUp);
        assert_eq!((model.selected, model.top), (89, 89));
        model.act(Action::First);
        assert_eq!((model.selected, model.top), (0, 0));
        model.fit(200);
        model.act(Action::Last);
        assert_eq!((model.selected, model.top), (99, 0));
        model.take(samples::frame(Vec::new()));
        assert_eq!((model.selected, model.top), (0, 0));
        model.act(Action::Down);
        assert_eq!(model.act(Action::Open), None);
    }

    #[test]
    fn a_pause_stands_still_and_the_pace_has_ends() {
        let mut model = model();
        assert_eq!(model.act(Action::Pause), Some(Effect::Tell(Wish::Pause(true))));
        model.take(samples::frame(Vec::new()));
        assert_eq!(pids(&model).len(), 3);
        assert_eq!(model.act(Action::Slower), Some(Effect::Tell(Wish::Every(Duration::from_secs(2)))));
        for _ in 0..10 {
            model.act(Action::Slower);
        }
        assert_eq!((model.interval, model.act(Action::Slower)), (Duration::from_secs(10), None));
    }

    #[test]
    fn groups_count_and_show_their_worst() {
        let mut model = model();
        model.act(Action::Units);
        assert_eq!(model.lines.len(), 1);
        assert_eq!((model.lines[0].number, pids(&model)[0]), (3, 3));
        model.act(Action::Units);
        assert_eq!(model.lines.len(), 3);
    }

    #[test]
    fn a_page_comes_for_who_asked() {
        let mut model = model();
        assert_eq!(model.act(Action::Open), Some(Effect::Inspect { pid: 3, tid: 3 }));
        model.take_page(8, "another".into(), None);
        assert_eq!(model.over, Over::Page { tid: 3, text: None, durations: None, down: 0 });
        model.take_page(3, "stuck".into(), None);
        model.act(Action::Down);
        assert_eq!(model.over, Over::Page { tid: 3, text: Some("stuck".into()), durations: None, down: 1 });
        assert_eq!(model.act(Action::Quit), None, "closes the page, not the program");
        assert_eq!(model.over, Over::Nothing);
        assert_eq!(model.act(Action::Quit), Some(Effect::Quit));
    }
}
