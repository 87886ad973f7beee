//! Draws the model. Pure: the same model and size give the same screen.

use jiff::{Timestamp, tz::TimeZone};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line as Text, Span},
    widgets::{Block, Clear, Paragraph},
};

use super::{
    groups::{By, Line},
    model::Model,
    page::Page,
    source::When,
};
use crate::{
    model::class::{Class, Level},
    render::table::{Column, Table},
    util::human,
    wire::culprit::CulpritKind,
    wire::json::{WaitObject, short_id},
};

/// What does not change while the view runs.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Version of its kernel.
    pub kernel: String,
    /// The terminal's user wants colours.
    pub colours: bool,
}

/// From this width on, units and containers have a column.
const WIDE_FROM_COLUMNS: u16 = 110;
/// Below this height, the header is a line.
const LOW_BELOW_LINES: u16 = 14;

/// How many lines of the table fit.
pub fn page(height: u16) -> usize {
    let header = if height < LOW_BELOW_LINES { 1 } else { 3 };
    usize::from(height.saturating_sub(header + 2)).max(1)
}

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, model: &Model, host: &Host) {
    let area = frame.area();
    let header = if area.height < LOW_BELOW_LINES { 1 } else { 3 };
    let [top, table, bottom] =
        Layout::vertical([Constraint::Length(header), Constraint::Min(2), Constraint::Length(1)]).areas(area);
    let width = usize::from(area.width);
    let lines = match header {
        1 => vec![numbers(model, stand(model, width), width)],
        _ => vec![title(model, host, width), numbers(model, Vec::new(), width), classes(model, width)],
    };
    frame.render_widget(Paragraph::new(lines), top);
    frame.render_widget(Paragraph::new(rows(model, table)), table);
    frame.render_widget(Paragraph::new(footer(model)), bottom);
    if let Some(page) = &model.over {
        over(frame, table, page);
    }
    if !host.colours {
        // What changes a colour, even to none, is written in a way that takes bold and reverse away on such terminals.
        for cell in &mut frame.buffer_mut().content {
            (cell.fg, cell.bg) = (Color::Reset, Color::Reset);
        }
    }
}

fn over(frame: &mut Frame<'_>, area: Rect, page: &Page) {
    frame.render_widget(Clear, area);
    let inside = usize::from(area.height.saturating_sub(2));
    let mut block = Block::bordered().title(page.title());
    let (all, last) = (page.lines.len(), (page.down + inside).min(page.lines.len()));
    if all > inside {
        let where_it_is = format!(" lines {} to {last} of {all} ", page.down + 1);
        block = block.title_bottom(Text::raw(where_it_is).right_aligned());
    }
    let shown: Vec<Text<'_>> =
        page.lines.iter().skip(page.down).take(inside).map(|line| Text::raw(line.as_str())).collect();
    frame.render_widget(Paragraph::new(shown).block(block), area);
}

/// What must not be overlooked: that what is shown is not what is now.
fn stand(model: &Model, width: usize) -> Vec<Span<'static>> {
    let form = if width < 60 { "%m-%d %H:%M:%S" } else { "%F %H:%M:%S %:z" };
    let time = |at: Timestamp| at.to_zoned(zone()).strftime(form).to_string();
    let word = match model.frame.as_ref().map(|frame| (frame.when, frame.at)) {
        Some((When::Kept(at), _)) => format!("AS OF {}", time(at)),
        Some((When::Unkept, at)) => format!("AS OF {}, NOT RECORDED", time(at)),
        _ if model.paused => "PAUSED".to_owned(),
        _ => return Vec::new(),
    };
    vec![Span::styled(word, Modifier::BOLD | Modifier::REVERSED), Span::raw("  ")]
}

/// Names of host and kernel are cut before anything that changes.
fn title(model: &Model, host: &Host, width: usize) -> Text<'static> {
    let mut parts = stand(model, width);
    let now = model.frame.as_ref().map_or_else(String::new, |frame| match frame.when {
        When::Now => format!(
            "  source {}  every {}  {}  own CPU {:.1} %",
            frame.source,
            humantime::format_duration(model.interval),
            frame.at.to_zoned(zone()).strftime("%H:%M:%S"),
            frame.own_cpu
        ),
        When::Kept(_) | When::Unkept => format!("  source {}", frame.source),
    });
    parts.push(Span::styled("tracer top", Modifier::BOLD));
    let mut left = width.saturating_sub(Text::from(parts.clone()).width() + human::columns(&now));
    for name in [human::clean(&host.name), format!("Linux {}", host.kernel)] {
        // Less than a few letters says nothing.
        if left >= 8 {
            let name = format!("  {}", human::fit(&name, left - 2));
            left -= human::columns(&name);
            parts.push(Span::raw(name));
        }
    }
    parts.push(Span::raw(now));
    Text::from(parts)
}

/// That of the host; in tests one for all.
fn zone() -> TimeZone {
    if cfg!(test) { TimeZone::UTC } else { TimeZone::system() }
}

/// As many of the numbers as there is room for.
fn numbers(model: &Model, mut parts: Vec<Span<'static>>, width: usize) -> Text<'static> {
    let Some(frame) = &model.frame else { return Text::raw("looking…") };
    let of = |level| -> usize {
        frame.classes.iter().filter(|(class, _)| class.level() == level).map(|(_, number)| number).sum()
    };
    // In a deadlock some only rest, by their class.
    let worse = |from: Level| {
        let by_class = |wait: &WaitObject| wait.class.map(Class::level);
        frame.waits.iter().filter(|wait| by_class(wait) == Some(from) && wait.worry() < from).count()
    };
    let (from_doubtful, from_idle) = (worse(Level::Doubtful), worse(Level::Idle));
    let stuck = of(Level::Stuck) + from_doubtful + from_idle;
    let doubtful = of(Level::Doubtful).saturating_sub(from_doubtful);
    let idle = of(Level::Idle).saturating_sub(from_idle);
    let oldest = model.oldest_stuck().map(|age| format!(", oldest {}", human::age(age))).unwrap_or_default();
    let style = if stuck > 0 { level_style(Level::Stuck) } else { Style::new() };
    let hidden = match frame.hidden {
        0 => String::new(),
        number => format!("  {number} not visible to you"),
    };
    let waits = frame.waits_a_second.map(|rate| format!("  {} waits/s", rounded(rate))).unwrap_or_default();
    let switches = format!("  {} switches/s", rounded(frame.switches_a_second));
    let lost = format!("  {} lost", frame.lost);
    let doubtful = format!("  {doubtful} doubtful");
    // From all there is to what must be there.
    let forms = if frame.when == When::Now {
        vec![
            (&oldest[..], format!("{doubtful}{hidden}  {idle} idle{lost}{waits}{switches}")),
            (&oldest, format!("{doubtful}{hidden}{lost}{waits}{switches}")),
            (&oldest, format!("{doubtful}{hidden}{lost}")),
            (&oldest, format!("{hidden}{lost}")),
            ("", format!("{hidden}{lost}")),
        ]
    } else {
        vec![
            (&oldest[..], format!("{doubtful}, of those that the agent recorded")),
            (&oldest, doubtful),
            ("", String::new()),
        ]
    };
    let used = Text::from(parts.clone()).width();
    let fits = |(oldest, others): &&(&str, String)| {
        used + human::columns(&format!("{stuck} stuck{oldest}{others}")) <= width
    };
    if let Some((oldest, others)) = forms.iter().find(fits).or(forms.last()) {
        parts.push(Span::styled(format!("{stuck} stuck{oldest}"), style));
        parts.push(Span::raw(others.clone()));
    }
    Text::from(parts)
}

/// A rate, in four digits at most.
fn rounded(rate: f64) -> String {
    if rate < 9_999.5 { format!("{rate:.0}") } else { format!("{:.0}k", rate / 1000.0) }
}

/// A name, a number and a bar as high as the number is long in binary, of each class; closer together where that makes room.
fn classes(model: &Model, width: usize) -> Text<'static> {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let mut classes: Vec<(Class, usize)> =
        model.frame.iter().flat_map(|frame| frame.classes.clone()).collect();
    classes.sort_by_key(|(class, _)| (class.level(), *class));
    let text = |gap: &str, between: &str| {
        let span = |(class, number): &(Class, usize)| {
            let bar = BARS[(number.ilog2() as usize).min(BARS.len() - 1)];
            let text = format!("{} {number}{gap}{bar}{between}", class.label());
            Span::styled(text, level_style(class.level()))
        };
        Text::from(classes.iter().map(span).collect::<Vec<_>>())
    };
    let wide = text(" ", "  ");
    if wide.width() <= width + 2 { wide } else { text("", " ") }
}

/// Told by colour and by a mark: not every terminal, nor every eye, has colours.
fn level_style(level: Level) -> Style {
    match level {
        Level::Stuck => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        Level::Doubtful => Style::new().fg(Color::Yellow),
        Level::Idle => Style::new().add_modifier(Modifier::DIM),
    }
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
    let columns = [
        Some(Column::number("AGE", 7, 7)),
        Some(Column::number("PID/TID", 7, 15)),
        Some(Column::text("COMMAND", 7, if width < 60 { 9 } else { 20 })),
        home_column(area.width, model.by),
        Some(Column::text("CLASS", 8, 8)),
        Some(Column::text("SYSCALL", 16, 16)),
    ];
    let cells = |(_, line): &(usize, &Line)| -> Vec<String> {
        let cells = cells(line, model).into_iter().zip(&columns);
        cells.filter_map(|(cell, column)| column.is_some().then_some(cell)).collect()
    };
    let cells: Vec<Vec<String>> = shown.iter().map(cells).collect();
    let table = Table::new(columns.into_iter().flatten(), "TARGET", " ", &cells);
    // Beside the mark, and nothing touches the edge.
    let left = width.saturating_sub(2 + table.before_last());
    let mut lines = vec![Text::styled(format!(" {}", table.heading()), Modifier::BOLD)];
    if shown.is_empty() && model.frame.is_some() {
        let when = model.frame.as_ref().map(|frame| (frame.when, frame.hidden));
        let why = match when {
            _ if !model.filter.is_empty() => "Nothing matches this filter.",
            Some((When::Unkept, _)) => "The agent recorded nothing in this minute.",
            Some((When::Kept(_), _)) => "Nothing was stuck.",
            Some((When::Now, 1..)) => "Nothing that is visible to you is stuck.",
            _ => "Nothing is stuck.",
        };
        lines.push(Text::raw(format!("  {why}")));
    }
    for ((at, line), cells) in shown.into_iter().zip(&cells) {
        let style = level_style(line.wait.worry());
        let style = if at == model.selected { style.add_modifier(Modifier::REVERSED) } else { style };
        let target = match is_incident(line, model.by) {
            true => human::fit(&holds_up(line), left),
            false => line.wait.target.fitted(left),
        };
        let row = match is_incident(line, model.by) && !has_columns(line) {
            true => spanning(line, model),
            false => table.row(cells, &target),
        };
        let text = format!("{}{row}", line.wait.worry().mark());
        // The mark of the selection goes to the edge.
        lines.push(Text::styled(human::pad(&human::fit(&text, width), width), style));
    }
    lines
}

/// Where there is room, or it is what the lines are put together by.
fn home_column(width: u16, by: By) -> Option<Column> {
    match by {
        By::Container => Some(Column::text("CONTAINER", 9, 28)),
        By::Remote => Some(Column::text("REMOTE", 9, 28)),
        By::Program => Some(Column::text("PROGRAM", 7, 20)),
        By::Culprit | By::Thread | By::Process if width < WIDE_FROM_COLUMNS => None,
        _ => Some(Column::text("UNIT", 4, 28)),
    }
}

/// Whether a line is a culprit with several waits.
fn is_incident(line: &Line, by: By) -> bool {
    by == By::Culprit && line.folds()
}

/// What a culprit holds up.
fn holds_up(line: &Line) -> String {
    match line.processes() {
        1 => "holds up 1 process".into(),
        processes => format!("holds up {processes} processes"),
    }
}

/// The line of a culprit that has no number and name of its own, as a deadlock or an address: its name has the place of the columns.
fn spanning(line: &Line, model: &Model) -> String {
    let name = human::clean(line.group.as_deref().unwrap_or("?"));
    let fold = if model.is_unfolded(line) { "-" } else { "+" };
    let waits = human::count(line.number, "wait");
    let told = match line.wait.culprit.as_ref().map(|culprit| culprit.kind) {
        Some(CulpritKind::Deadlock) => format!("{name}: {waits}"),
        _ => format!("{name} {} in {waits}", holds_up(line)),
    };
    format!("{:>7} {fold} {told}", human::age(line.wait.age))
}

/// Whether number and name say who the culprit is.
fn has_columns(line: &Line) -> bool {
    line.wait.culprit.as_ref().is_some_and(|culprit| culprit.pid.is_some() && culprit.comm.is_some())
}

/// What stands in the columns before the last.
fn cells(line: &Line, model: &Model) -> [String; 6] {
    let wait = &line.wait;
    let class = wait.label().to_owned();
    let fold = match (line.folds(), model.is_unfolded(line)) {
        (true, true) => "- ",
        (true, false) => "+ ",
        (false, _) if line.is_member => "  ",
        (false, _) => "",
    };
    if is_incident(line, model.by) {
        let culprit = wait.culprit.as_ref();
        let pid = culprit.and_then(|culprit| culprit.pid).map(|pid| pid.to_string()).unwrap_or_default();
        let name = culprit.and_then(|of| of.script.as_deref().or(of.comm.as_deref())).unwrap_or_default();
        let name = format!("{fold}{}", human::clean(name));
        return [human::age(wait.age), pid, name, String::new(), class, human::count(line.number, "wait")];
    }
    let command = format!("{fold}{}", command(line));
    [human::age(wait.age), wait.id(), command, home(line), class, wait.call()]
}

/// The name of the worst, of an interpreter what it runs; and how many others the line stands for: those may have other names.
fn command(line: &Line) -> String {
    let comm = human::clean(&line.wait.script().unwrap_or_else(|| line.wait.comm.clone()));
    if line.number > 1 { format!("{comm} +{}", line.number - 1) } else { comm }
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
    if let Some(said) = model.said.as_ref().or(model.trouble.as_ref()) {
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
    if model.by != By::Culprit {
        parts.push(format!("per {}", model.by.label()));
    }
    if let Some(why) = model.frame.as_ref().and_then(|frame| frame.why_not_better.as_ref()) {
        parts.push(format!("ages are lower bounds: {}", human::clean(why)));
    }
    Text::from(vec![
        Span::raw(parts.join("  ")),
        Span::styled("  ? keys  / filter  i idle  Enter why  q quit", Modifier::DIM),
    ])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::{Terminal, backend::TestBackend};

    use super::{
        super::{input::Action, samples},
        *,
    };
    use crate::{
        model::histogram::BUCKETS, wire::culprit::CulpritObject, wire::durations::Durations,
        wire::target::TargetObject,
    };

    fn terminal(model: &mut Model, width: u16, height: u16, colours: bool) -> Terminal<TestBackend> {
        let host = Host { name: "payments-db1".into(), kernel: "6.12.117+deb12-cloud-amd64".into(), colours };
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a screen");
        model.fit(page(height), width.into());
        terminal.draw(|frame| draw(frame, model, &host)).expect("drawn");
        terminal
    }

    fn screen(model: &mut Model, width: u16, height: u16) -> String {
        terminal(model, width, height, true).backend().to_string()
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

    /// A database that does not answer: one line, and what is below it.
    #[test]
    fn an_incident_folded_and_unfolded() {
        let culprit = CulpritObject {
            pid: Some(812),
            comm: Some("postgres".into()),
            ..CulpritObject::of_kind(CulpritKind::Process)
        };
        let due = |pid, seconds| WaitObject {
            culprit: Some(Box::new(culprit.clone())),
            ..samples::wait(pid, "php", Class::Reply, seconds)
        };
        let mut model =
            model(vec![due(2, 628), due(3, 60), due(4, 20), samples::wait(9, "cat", Class::Fifo, 100_000)]);
        insta::assert_snapshot!("incident_folded", screen(&mut model, 80, 14));
        model.act(Action::Open);
        insta::assert_snapshot!("incident_unfolded", screen(&mut model, 120, 14));
        model.act(Action::Group);
        insta::assert_snapshot!("per_remote", screen(&mut model, 100, 14));
    }

    #[test]
    fn an_ordinary_host() {
        insta::assert_snapshot!("ordinary", screen(&mut ordinary(), 80, 24));
        insta::assert_snapshot!("ordinary_wide", screen(&mut ordinary(), 140, 16));
        insta::assert_snapshot!("ordinary_tiny", screen(&mut ordinary(), 40, 10));
    }

    #[test]
    fn what_is_not_now_is_said_first() {
        let mut paused = ordinary();
        paused.act(Action::Pause);
        insta::assert_snapshot!("paused", screen(&mut paused, 80, 14));
        insta::assert_snapshot!("paused_tiny", screen(&mut paused, 40, 10));
        let at = |seconds: i64| Timestamp::from_second(1_790_000_000 + seconds).expect("a moment");
        let past = |when| {
            let mut model = ordinary();
            if let Some(frame) = &mut model.frame {
                (frame.at, frame.when, frame.source) = (at(0), when, "history");
            }
            model.past = Some(at(0));
            model
        };
        insta::assert_snapshot!("past", screen(&mut past(When::Kept(at(-42))), 80, 14));
        insta::assert_snapshot!("past_tiny", screen(&mut past(When::Kept(at(-42))), 40, 10));
        let mut page = past(When::Kept(at(-42)));
        page.act(Action::Open);
        insta::assert_snapshot!("past_page", screen(&mut page, 80, 24));
        let mut nothing = model(Vec::new());
        if let Some(frame) = &mut nothing.frame {
            (frame.at, frame.when) = (at(0), When::Unkept);
        }
        insta::assert_snapshot!("past_unkept", screen(&mut nothing, 80, 14));
    }

    #[test]
    fn what_may_not_be_seen_is_not_nothing() {
        let mut blind = model(Vec::new());
        if let Some(frame) = &mut blind.frame {
            (frame.hidden, frame.source) = (117, "proc");
        }
        insta::assert_snapshot!("hidden", screen(&mut blind, 80, 14));
    }

    #[test]
    fn every_class_has_room_at_eighty_columns() {
        let classes = [
            Class::Connect,
            Class::Reply,
            Class::Send,
            Class::Lock,
            Class::Pipe,
            Class::Peer,
            Class::Listen,
            Class::Events,
        ];
        let waits =
            (1..=40).map(|pid| samples::wait(pid, "php", classes[pid as usize % classes.len()], 86_400 * 27));
        let mut many = model(waits.collect());
        if let Some(frame) = &mut many.frame {
            (frame.waits_a_second, frame.switches_a_second) = (Some(1_234_567.0), 7_654_321.0);
        }
        insta::assert_snapshot!("full_header", screen(&mut many, 80, 14));
    }

    #[test]
    fn without_colours_the_selected_line_is_still_told() {
        let mut model = ordinary();
        model.act(Action::Down);
        let of = |colours: bool, model: &mut Model| {
            let terminal = terminal(model, 80, 14, colours);
            let cells = &terminal.backend().buffer().content;
            // The second line of the table, at its mark.
            (cells[80 * 5].modifier, cells.iter().any(|cell| cell.fg != Color::Reset))
        };
        let (with, without) = (of(true, &mut model), of(false, &mut model));
        assert!(with.0.contains(Modifier::REVERSED) && with.1, "{with:?}");
        assert!(without.0.contains(Modifier::REVERSED) && !without.1, "{without:?}");
    }

    #[test]
    fn keys_pages_and_filters() {
        let mut model = ordinary();
        model.act(Action::Help);
        insta::assert_snapshot!("help", screen(&mut model, 80, 24));
        model.act(Action::Last);
        insta::assert_snapshot!("help_end", screen(&mut model, 80, 24));
        insta::assert_snapshot!("help_tiny", screen(&mut model, 40, 10));
        model.act(Action::Help);
        model.act(Action::Open);
        let mut durations = Durations { comm: "php".into(), buckets: [0; BUCKETS] };
        (durations.buckets[0], durations.buckets[2], durations.buckets[13]) = (1000, 1, 20);
        model.take_page(
            2,
            Ok("php (pid 2) is stuck: waiting 10m 28s for a reply.\n\nProcess   php job.php".into()),
            Some(&durations),
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
        if let TargetObject::Tcp { local, remote, .. } = &mut long.target {
            *local = "[2001:db8:1111:2222:3333:4444:5555:6666]:59720".parse().expect("an address");
            *remote = "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:65535".parse().expect("an address");
        }
        for (name, width) in [("long_80", 80), ("long_200", 200), ("long_40", 40)] {
            let text = screen(&mut model(vec![long.clone()]), width, 14);
            assert!(!text.contains('\u{1b}'), "{text}");
            insta::assert_snapshot!(name, text);
        }
    }

    #[test]
    fn a_page_wraps_what_is_long() {
        let mut wait = samples::wait(7, "データベース接続プール", Class::Reply, 86_400 * 40);
        if let TargetObject::Tcp { local, remote, .. } = &mut wait.target {
            *local = "[2001:db8:1111:2222:3333:4444:5555:6666]:59720".parse().expect("an address");
            *remote = "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:65535".parse().expect("an address");
        }
        let remote = "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:65535";
        wait.verdict = Some(format!("waiting 40d 0h for a reply from {remote}: 517 bytes sent"));
        let mut model = model(vec![wait]);
        model.past = model.frame.as_ref().map(|frame| frame.at);
        model.act(Action::Open);
        insta::assert_snapshot!("long_page_80", screen(&mut model, 80, 24));
        insta::assert_snapshot!("long_page_60", screen(&mut model, 60, 24));
    }
}
