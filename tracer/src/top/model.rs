//! What is shown: the last frame, and how its reader wants to see it. Pure: a key in, wishes to the feed out.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::{
    filter::Filter,
    input::Action,
    page::{About, Page},
    source::{Frame, When, Wish},
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

/// What a key leads to outside the model.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Tell the feed.
    Tell(Wish),
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
    /// Idle waits are shown.
    pub idle: bool,
    /// What a line stands for.
    pub by: By,
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
            by: By::Thread,
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
            && matches!(page.about, About::Thread { tid, .. } if tid == about)
        {
            page.take(text, durations);
        }
        self.fit_page();
    }

    /// Asks for the page that is open, if the feed has it.
    fn inspect(&self) -> Option<Effect> {
        match self.over.as_ref()?.about {
            About::Thread { pid, tid } => {
                Some(Effect::Tell(Wish::Inspect { pid, tid, width: self.page_width() }))
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
                return Some(Effect::Tell(Wish::Idle(self.idle)));
            }
            Action::Processes => self.stand_for(By::Process),
            Action::Units => self.stand_for(By::Unit),
            Action::Containers => self.stand_for(By::Container),
            // The past stands still anyway.
            Action::Pause if self.past.is_some() => {}
            Action::Pause => {
                self.paused = !self.paused;
                return Some(Effect::Tell(Wish::Pause(self.paused)));
            }
            Action::Earlier => {
                let from = self.shown()?;
                return self.go_to(from.checked_sub(MINUTE).ok());
            }
            Action::Later => {
                // At least the next minute that was kept; within a minute of now there is none.
                let from = self.past?.max(self.shown()?.checked_add(MINUTE / 2).ok()?);
                let next = from.checked_add(MINUTE).ok()?;
                let now = Timestamp::now();
                return self.go_to(Some(next).filter(|next| now.duration_since(*next) >= MINUTE));
            }
            Action::Slower => return self.pace(INTERVALS.iter().find(|other| **other > self.interval)),
            Action::Faster => return self.pace(INTERVALS.iter().rfind(|other| **other < self.interval)),
            Action::Open => {
                let wait = Arc::clone(&self.selected()?.wait);
                return self.open(match self.past {
                    Some(_) => About::Kept(wait),
                    None => About::Thread { pid: wait.pid, tid: wait.tid },
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
        model.fit(10, 80);
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
        model.fit(10, 80);
        model.take(samples::frame(
            (1..=100).map(|pid| samples::wait(pid, "php", Class::Reply, 1000 - u64::from(pid))).collect(),
        ));
        model.act(Action::Last);
        assert_eq!((model.selected, model.top), (99, 90));
        model.act(Action::PageUp);
        assert_eq!((model.selected, model.top), (89, 89));
        model.act(Action::First);
        assert_eq!((model.selected, model.top), (0, 0));
        model.fit(200, 80);
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

    fn inspect(width: usize) -> Option<Effect> {
        Some(Effect::Tell(Wish::Inspect { pid: 3, tid: 3, width }))
    }

    #[test]
    fn a_page_comes_for_who_asked_and_comes_again() {
        let mut model = model();
        let lines = |model: &Model| model.over.as_ref().map(|page| page.lines.join("|"));
        assert_eq!(model.act(Action::Open), inspect(78));
        model.take_page(8, Ok("another".into()), None);
        assert_eq!(lines(&model).as_deref(), Some("…"));
        model.take_page(3, Ok("stuck".into()), None);
        assert_eq!(lines(&model).as_deref(), Some("stuck"));
        // At each look, and at another width.
        assert_eq!(model.take(samples::frame(Vec::new())), inspect(78));
        assert_eq!((model.fit(10, 80), model.fit(10, 40)), (None, inspect(38)));
        // It has ended: what was known of it stays.
        model.take_page(3, Err("there is no process or thread 3".into()), None);
        assert_eq!(lines(&model).as_deref(), Some("stuck"));
        let title = model.over.as_ref().map(Page::title);
        assert_eq!(title.as_deref(), Some(" Why, at last: there is no process or thread 3 "));
        assert_eq!(model.act(Action::Quit), None, "closes the page, not the program");
        assert_eq!(model.over, None);
        assert_eq!(model.take(samples::frame(Vec::new())), None, "nobody reads it");
        assert_eq!(model.act(Action::Quit), Some(Effect::Quit));
    }

    #[test]
    fn a_page_is_read_from_end_to_end_and_no_further() {
        let mut model = model();
        model.fit(9, 80);
        model.act(Action::Open);
        let text: Vec<String> = (0..30).map(|line| line.to_string()).collect();
        model.take_page(3, Ok(text.join("\n")), None);
        let down = |model: &Model| model.over.as_ref().map(|page| page.down);
        for _ in 0..40 {
            model.act(Action::Down);
        }
        assert_eq!(down(&model), Some(22));
        model.act(Action::Up);
        assert_eq!(down(&model), Some(21));
        model.act(Action::PageUp);
        assert_eq!(down(&model), Some(13));
        model.act(Action::Last);
        assert_eq!(down(&model), Some(22));
        model.take_page(3, Ok("shorter".into()), None);
        assert_eq!(down(&model), Some(0));
        model.act(Action::Back);
        model.act(Action::Help);
        model.act(Action::Last);
        assert!(down(&model) > Some(0), "the keys are scrolled, too");
        model.act(Action::Help);
        assert_eq!(model.over, None);
    }

    #[test]
    fn time_goes_back_by_what_was_kept_and_returns_to_now() {
        let mut model = model();
        let now = Timestamp::now();
        let ago = |seconds: i64| now.checked_sub(SignedDuration::from_secs(seconds)).expect("a moment");
        let live = || samples::frame(vec![samples::wait(1, "now", Class::Reply, 1)]);
        let mut frame = live();
        frame.at = now;
        model.take(frame);
        model.act(Action::Pause);
        let asked = |effect: Option<Effect>| match effect {
            Some(Effect::Tell(Wish::Past(at))) => at,
            other => panic!("{other:?}"),
        };
        assert_eq!(asked(model.act(Action::Earlier)), Some(ago(60)));
        assert!(!model.paused);
        let kept = |at: Timestamp, when: When| {
            let mut frame = samples::frame(vec![samples::wait(2, "then", Class::Reply, 1)]);
            (frame.at, frame.when) = (at, when);
            frame
        };
        model.take(kept(ago(60), When::Kept(ago(100))));
        assert_eq!(pids(&model), [2]);
        model.take(live());
        assert_eq!(pids(&model), [2], "one that was under way");
        assert_eq!(model.act(Action::Pause), None);
        // A minute before the one that was kept; where none was, before the one that was asked for.
        assert_eq!(asked(model.act(Action::Earlier)), Some(ago(160)));
        model.take(kept(ago(160), When::Unkept));
        assert_eq!(asked(model.act(Action::Earlier)), Some(ago(220)));
        model.take(kept(ago(220), When::Kept(ago(270))));
        assert_eq!(asked(model.act(Action::Later)), Some(ago(160)));
        model.take(kept(ago(160), When::Kept(ago(165))));
        assert_eq!(asked(model.act(Action::Later)), Some(ago(75)));
        model.take(kept(ago(75), When::Kept(ago(100))));
        assert_eq!(asked(model.act(Action::Later)), None, "less than a minute is left");
        model.take(live());
        assert_eq!(pids(&model), [1]);
    }

    #[test]
    fn a_past_that_cannot_be_had_is_said_and_left() {
        let mut model = model();
        model.act(Action::Earlier);
        model.no_past("no agent runs".into());
        model.take(samples::frame(vec![samples::wait(7, "now", Class::Reply, 1)]));
        assert_eq!((pids(&model), model.said.as_deref()), (vec![7], Some("no agent runs")));
    }

    #[test]
    fn what_was_kept_is_a_page_of_its_own() {
        let mut model = model();
        model.act(Action::Earlier);
        let mut frame = samples::frame(vec![samples::wait(3, "php", Class::Reply, 60)]);
        (frame.at, frame.when) = (model.past.expect("it was asked for"), When::Unkept);
        model.take(frame);
        assert_eq!(model.act(Action::Open), None, "the feed is not asked: it knows what is now");
        let page = model.over.as_ref().expect("open");
        assert!(page.lines[0].starts_with("php (pid 3) was stuck"), "{page:?}");
        assert!(page.lines.iter().all(|line| line.len() <= 78), "{page:?}");
    }

    #[test]
    fn trouble_ends_with_the_next_frame() {
        let mut model = model();
        model.trouble = Some("cannot ask the agent".into());
        model.take(samples::frame(Vec::new()));
        assert_eq!(model.trouble, None);
    }
}
