//! Draws the model. Pure: the same model and size give the same screen.

use std::time::Duration;

use jiff::tz::TimeZone;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line as Text, Span},
    widgets::{Block, Clear, Paragraph},
};
use tracer_ebpf::abi::{BUCKETS, FIRST_BUCKET_LOG2};

use super::{
    input::{self, KEYS},
    model::{By, Line, Model, Over},
};
use crate::{
    class::{Class, Level},
    durations::Durations,
    export::json::short_id,
    human,
};

/// What does not change while the view runs.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Version of its kernel.
    pub kernel: String,
}

/// From this width on, units and containers have a column.
const ROOMY: u16 = 110;
/// Below this height, the header is a line.
const LOW: u16 = 14;

const AGE: usize = 7;
const CLASS: usize = 8;
const CALL: usize = 16;

/// How many lines of the table fit.
pub fn page(height: u16) -> usize {
    let header = if height < LOW { 1 } else { 3 };
    usize::from(height.saturating_sub(header + 2)).max(1)
}

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, model: &Model, host: &Host) {
    let area = frame.area();
    let header = if area.height < LOW { 1 } else { 3 };
    let [top, table, bottom] =
        Layout::vertical([Constraint::Length(header), Constraint::Min(2), Constraint::Length(1)]).areas(area);
    let mut lines = vec![title(model, host), numbers(model), classes(model)];
    if header == 1 {
        lines.remove(0);
    }
    frame.render_widget(Paragraph::new(lines), top);
    frame.render_widget(Paragraph::new(rows(model, table)), table);
    frame.render_widget(Paragraph::new(footer(model)), bottom);
    match &model.over {
        Over::Nothing => {}
        Over::Help => over(frame, table, " Keys ", help(), 0),
        Over::Page { text, durations, down, .. } => {
            let mut lines: Vec<Text<'_>> =
                text.as_deref().unwrap_or("…").lines().map(|line| Text::raw(line.to_owned())).collect();
            if let Some(durations) = durations {
                lines.push(Text::default());
                lines.extend(histogram(durations));
            }
            over(frame, table, " Why ", lines, *down);
        }
    }
}

fn over(frame: &mut Frame<'_>, area: Rect, title: &str, lines: Vec<Text<'_>>, down: usize) {
    frame.render_widget(Clear, area);
    let inside = usize::from(area.height.saturating_sub(2));
    let down = down.min(lines.len().saturating_sub(inside));
    let block = Block::bordered().title(title.to_owned());
    let shown: Vec<Text<'_>> = lines.into_iter().skip(down).take(inside).collect();
    frame.render_widget(Paragraph::new(shown).block(block), area);
}

fn title(model: &Model, host: &Host) -> Text<'static> {
    let mut parts = vec![
        Span::styled("tracer top", Modifier::BOLD),
        Span::raw(format!("  {}  Linux {}", human::clean(&host.name), host.kernel)),
    ];
    let every = format!("  every {}", humantime::format_duration(model.interval));
    if let Some(frame) = &model.frame {
        parts.push(Span::raw(format!("  source {}", frame.source)));
        let time = |form: &str| frame.at.to_zoned(zone()).strftime(form).to_string();
        if frame.past {
            let past = format!("  AS OF {}", time("%F %H:%M:%S %:z"));
            parts.push(Span::styled(past, Modifier::BOLD | Modifier::REVERSED));
        } else {
            let own = format!("{every}  {}  own CPU {:.1} %", time("%H:%M:%S"), frame.own_cpu);
            parts.push(Span::raw(own));
        }
    }
    if model.paused {
        parts.push(Span::styled("  PAUSED", Modifier::BOLD | Modifier::REVERSED));
    }
    Text::from(parts)
}

/// That of the host; in tests one for all.
fn zone() -> TimeZone {
    if cfg!(test) { TimeZone::UTC } else { TimeZone::system() }
}

fn numbers(model: &Model) -> Text<'static> {
    let Some(frame) = &model.frame else { return Text::raw("looking…") };
    let of = |level| -> usize {
        frame.classes.iter().filter(|(class, _)| class.level() == level).map(|(_, number)| number).sum()
    };
    let (stuck, doubtful, idle) = (of(Level::Stuck), of(Level::Doubtful), of(Level::Idle));
    let oldest = model.oldest_stuck().map(|age| format!(", oldest {}", human::age(age))).unwrap_or_default();
    let style = if stuck > 0 { level_style(Level::Stuck) } else { Style::new() };
    let rates = frame.waits_a_second.map(|rate| format!("  {rate:.0} waits/s")).unwrap_or_default();
    let others = match frame.past {
        true => format!("  {doubtful} doubtful, of those that the agent has kept"),
        false => format!(
            "  {doubtful} doubtful  {idle} idle{rates}  {:.0} switches/s  {} lost",
            frame.switches_a_second, frame.lost
        ),
    };
    Text::from(vec![Span::styled(format!("{stuck} stuck{oldest}"), style), Span::raw(others)])
}

/// A letter, a name, a number and a bar as high as the number is long in binary.
fn classes(model: &Model) -> Text<'static> {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let mut classes: Vec<(Class, usize)> =
        model.frame.iter().flat_map(|frame| frame.classes.clone()).collect();
    classes.sort_by_key(|(class, _)| (class.level(), *class));
    let span = |(class, number): (Class, usize)| {
        let bar = BARS[(number.ilog2() as usize).min(BARS.len() - 1)];
        Span::styled(format!("{} {number} {bar}  ", class.label()), level_style(class.level()))
    };
    Text::from(classes.into_iter().map(span).collect::<Vec<_>>())
}

/// Told by colour and by a mark: not every terminal, nor every eye, has colours.
fn level_style(level: Level) -> Style {
    match level {
        Level::Stuck => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        Level::Doubtful => Style::new().fg(Color::Yellow),
        Level::Idle => Style::new().add_modifier(Modifier::DIM),
    }
}

fn mark(level: Level) -> &'static str {
    match level {
        Level::Stuck => "!",
        Level::Doubtful => "?",
        Level::Idle => " ",
    }
}

/// Widths of the columns whose contents decide.
struct Widths {
    id: usize,
    command: usize,
    /// 0: no column.
    home: usize,
    target: usize,
}

fn rows(model: &Model, area: Rect) -> Vec<Text<'static>> {
    let shown: Vec<(usize, &Line)> = model
        .lines
        .iter()
        .enumerate()
        .skip(model.top)
        .take(usize::from(area.height).saturating_sub(1))
        .collect();
    let width = usize::from(area.width);
    let widest = |of: &dyn Fn(&Line) -> usize, least: usize, most: usize| {
        shown.iter().map(|(_, line)| of(line)).max().unwrap_or(0).clamp(least, most.max(least))
    };
    let id = widest(&|line| line.wait.id().len(), 7, 15);
    let command = widest(&|line| human::columns(&command(line)), 7, if width < 60 { 9 } else { 20 });
    let home = match (area.width >= ROOMY, model.by) {
        (false, By::Thread | By::Process) => 0,
        _ => widest(&|line| human::columns(&home(line)), 4, 28),
    };
    let before = 1 + AGE + id + command + CLASS + CALL + 6 + if home > 0 { home + 1 } else { 0 };
    let widths = Widths { id, command, home, target: width.saturating_sub(before) };
    let mut lines = vec![Text::styled(heading(&widths), Modifier::BOLD)];
    if shown.is_empty() && model.frame.is_some() {
        let why = if model.filter.is_empty() { "Nothing is stuck." } else { "Nothing is like this filter." };
        lines.push(Text::raw(format!("  {why}")));
    }
    for (at, line) in shown {
        let style = level_style(line.wait.worry());
        let style = if at == model.selected { style.add_modifier(Modifier::REVERSED) } else { style };
        let text = cells(line, &widths);
        // The mark of the selection goes to the edge.
        lines.push(Text::styled(pad(&human::fit(&text, width), width), style));
    }
    lines
}

fn heading(widths: &Widths) -> String {
    let home = if widths.home > 0 { pad("UNIT", widths.home + 1) } else { String::new() };
    format!(
        " {:>AGE$} {:>id$} {} {home}{:CLASS$} {:CALL$} TARGET",
        "AGE",
        "PID/TID",
        pad("COMMAND", widths.command),
        "CLASS",
        "SYSCALL",
        id = widths.id
    )
}

fn cells(line: &Line, widths: &Widths) -> String {
    let wait = &line.wait;
    let home = if widths.home > 0 {
        pad(&human::fit(&home(line), widths.home), widths.home + 1)
    } else {
        String::new()
    };
    format!(
        "{}{:>AGE$} {:>id$} {} {home}{:CLASS$} {} {}",
        mark(wait.worry()),
        human::age(wait.age),
        wait.id(),
        pad(&human::fit(&command(line), widths.command), widths.command),
        wait.class.map_or("", Class::label),
        pad(&human::fit(&wait.call(), CALL), CALL),
        wait.target.fitted(widths.target),
        id = widths.id
    )
}

fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(human::columns(text))))
}

fn command(line: &Line) -> String {
    let comm = human::clean(&line.wait.comm);
    if line.number > 1 { format!("{comm} ×{}", line.number) } else { comm }
}

/// What it belongs to: the container, else the unit; of a group, the group.
fn home(line: &Line) -> String {
    let home = match &line.group {
        Some(group) if group.is_empty() => Some("(none)"),
        Some(group) => Some(short_id(group)),
        None => line.wait.home(),
    };
    human::clean(home.unwrap_or_default())
}

fn footer(model: &Model) -> Text<'static> {
    if model.typing {
        return Text::from(vec![
            Span::styled("/", Modifier::BOLD),
            Span::raw(human::clean(&model.filter)),
            Span::raw("▏"),
        ]);
    }
    if let Some(said) = &model.said {
        return Text::raw(human::clean(said));
    }
    let mut parts = Vec::new();
    if !model.filter.is_empty() {
        parts.push(format!("/{}", human::clean(&model.filter)));
    }
    let number = model.lines.len();
    parts.push(if number == 1 { "1 line".into() } else { format!("{number} lines") });
    let reversed = if model.reversed { ", reversed" } else { "" };
    parts.push(format!("by {}{reversed}", model.order.label()));
    if let Some(why) = model.frame.as_ref().and_then(|frame| frame.why_not_better.as_ref()) {
        parts.push(format!("least ages: {}", human::clean(why)));
    }
    Text::from(vec![
        Span::raw(parts.join("  ")),
        Span::styled("  ? keys  / filter  i idle  Enter why  q quit", Modifier::DIM),
    ])
}

fn help() -> Vec<Text<'static>> {
    let keys = |keys: &[input::Key]| keys.iter().map(input::name).collect::<Vec<_>>().join(" ");
    let width = KEYS.iter().map(|(of, ..)| keys(of).len()).max().unwrap_or(0);
    KEYS.iter().map(|(of, _, what)| Text::raw(format!("{:width$}  {what}", keys(of)))).collect()
}

fn histogram(durations: &Durations) -> Vec<Text<'static>> {
    const BAR: u64 = 40;
    let most = durations.buckets.iter().copied().max().unwrap_or(0).max(1);
    let used = |bucket: &usize| durations.buckets[*bucket] > 0;
    let (Some(first), Some(last)) = ((0..BUCKETS).find(used), (0..BUCKETS).rfind(used)) else {
        return Vec::new();
    };
    let mut lines =
        vec![Text::raw("Its waits that have ended meanwhile, of 100 µs and more, by their length")];
    for bucket in first..=last {
        let number = durations.buckets[bucket];
        // Whoever is there is seen.
        let bar = "█".repeat((number * BAR).div_ceil(most) as usize);
        let below = Duration::from_micros(1 << (bucket as u32 + FIRST_BUCKET_LOG2));
        let below = if bucket + 1 == BUCKETS { "longer".to_owned() } else { format!("< {}", short(below)) };
        lines.push(Text::raw(format!("{below:>9} {number:>8} {bar}")));
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

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::{
        super::{input::Action, samples},
        *,
    };
    use crate::{export::json::WaitObject, resolve::target::Target};

    fn screen(model: &mut Model, width: u16, height: u16) -> String {
        let host = Host { name: "db1".into(), kernel: "6.18.0".into() };
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a screen");
        model.fit(page(height));
        terminal.draw(|frame| draw(frame, model, &host)).expect("drawn");
        terminal.backend().to_string()
    }

    fn model(waits: Vec<WaitObject>) -> Model {
        let mut model = Model::new(Duration::from_secs(1), true);
        model.take(samples::frame(waits));
        model
    }

    #[test]
    fn before_the_first_frame_and_with_nothing_to_show() {
        let mut early = Model::new(Duration::from_secs(1), false);
        insta::assert_snapshot!("early", screen(&mut early, 80, 14));
        insta::assert_snapshot!("nothing", screen(&mut model(Vec::new()), 80, 14));
    }

    fn ordinary() -> Model {
        model(vec![
            samples::wait(9, "sleeper", Class::Timer, 100_000),
            samples::wait(2, "php", Class::Reply, 628),
            samples::wait(3, "cat", Class::Pipe, 60),
            samples::wait(4, "nginx", Class::Events, 3),
        ])
    }

    #[test]
    fn an_ordinary_host() {
        insta::assert_snapshot!("ordinary", screen(&mut ordinary(), 80, 24));
        insta::assert_snapshot!("ordinary_wide", screen(&mut ordinary(), 140, 16));
        insta::assert_snapshot!("ordinary_tiny", screen(&mut ordinary(), 40, 10));
    }

    #[test]
    fn keys_pages_and_filters() {
        let mut model = ordinary();
        model.act(Action::Help);
        insta::assert_snapshot!("help", screen(&mut model, 80, 30));
        model.act(Action::Help);
        model.act(Action::Open);
        let mut durations = Durations { comm: "php".into(), buckets: [0; BUCKETS] };
        (durations.buckets[0], durations.buckets[2], durations.buckets[13]) = (1000, 1, 20);
        model.take_page(
            2,
            "php (pid 2) is stuck: waiting 10m 28s for a reply.\n\nProcess   php job.php".into(),
            Some(Box::new(durations)),
        );
        insta::assert_snapshot!("page", screen(&mut model, 80, 30));
        model.act(Action::Back);
        model.act(Action::Filter);
        "class:reply".chars().for_each(|letter| model.type_letter(Some(letter)));
        insta::assert_snapshot!("filter", screen(&mut model, 80, 14));
    }

    #[test]
    fn ten_thousand_waits() {
        let mut model = model(
            (1..=10_000).map(|pid| samples::wait(pid, "worker", Class::Peer, u64::from(pid))).collect(),
        );
        model.act(Action::Last);
        insta::assert_snapshot!("many", screen(&mut model, 80, 14));
    }

    #[test]
    fn names_and_addresses_of_any_kind_fit() {
        let mut long = samples::wait(123_456, "データベース接続プール\u{1b}[2J", Class::Reply, 86_400 * 40);
        long.tid = 234_567;
        if let Target::Tcp { local, remote, .. } = &mut long.target {
            *local = "[2001:db8:1111:2222:3333:4444:5555:6666]:59720".parse().expect("an address");
            *remote = "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:65535".parse().expect("an address");
        }
        for (name, width) in [("long_80", 80), ("long_200", 200), ("long_40", 40)] {
            let text = screen(&mut model(vec![long.clone()]), width, 14);
            assert!(!text.contains('\u{1b}'), "{text}");
            insta::assert_snapshot!(name, text);
        }
    }
}
