//! How values are written for people: ages, and strings that come from processes and so cannot be trusted.

use std::{io::IsTerminal, os::fd::AsFd, time::Duration};

use unicode_width::UnicodeWidthChar;

/// How narrow and how wide a terminal may be.
const COLUMNS_MIN: usize = 40;
const COLUMNS_MAX: usize = 1000;

/// An age in its two greatest units: `27d 3h`, `5m 12s`, `12s`; under ten seconds `3.4s`.
pub fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..10 => format!("{:.1}s", (age.as_millis() / 100) as f64 / 10.0),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// What somebody has set, which is mostly whole seconds: `1s`, `2.5s`, `5m 0s`.
pub fn interval(interval: Duration) -> String {
    let text = age(interval);
    text.strip_suffix(".0s").map_or(text.clone(), |whole| format!("{whole}s"))
}

/// Tells the operator something, on standard error: in one line, but on a terminal, where that would be broken within words. Nobody need be
/// listening.
pub fn say(message: &str) {
    use std::io::Write;
    let line = format!("tracer: {}", clean(message));
    let text = match std::io::stderr().is_terminal() {
        true => {
            let width = usize::from(size_of(&std::io::stderr()).0).max(COLUMNS_MIN);
            textwrap::fill(&line, textwrap::Options::new(width).subsequent_indent("        "))
        }
        false => line,
    };
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// `1 wait`, `2 waits`.
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// `3 waits of 2 processes`, or `2 processes` where each has one.
pub fn waits_of(waits: usize, processes: usize) -> String {
    let who = match processes {
        1 => "1 process".to_owned(),
        several => format!("{several} processes"),
    };
    if waits == processes { who } else { format!("{} of {who}", count(waits, "wait")) }
}

/// The string with everything a terminal could take as a command replaced by `?`.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || is_invisible(c) { '?' } else { c }).collect()
}

/// Characters that show as nothing or turn the text around.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The string cut to `width` columns, its end replaced by `…` if it is longer.
pub fn fit(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut cut = String::new();
    let mut used = 0;
    for c in text.chars() {
        let columns = c.width().unwrap_or(0);
        if used + columns >= width {
            break;
        }
        used += columns;
        cut.push(c);
    }
    cut.push('…');
    cut
}

/// The string with blanks up to `width` columns.
pub fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(columns(text))))
}

/// A line for the terminal at standard output, cut to its width; for anything else the whole. No blanks at its end.
pub fn for_terminal(line: &str, width: Option<usize>) -> String {
    let line = line.trim_end();
    width.map_or_else(|| line.to_owned(), |width| fit(line, width))
}

/// Columns of the terminal at standard output; `None` if that is none, where nothing is cut unless `COLUMNS` says how wide it is.
pub fn line_width() -> Option<usize> {
    if std::io::stdout().is_terminal() {
        return Some(terminal_width());
    }
    let columns = std::env::var("COLUMNS").ok()?.parse::<usize>().ok()?;
    Some(columns.clamp(COLUMNS_MIN, COLUMNS_MAX))
}

/// The string cut to `width` columns from the left, for paths: their end says most.
pub fn fit_end(text: &str, width: usize) -> String {
    let mut start = 0;
    while columns(&text[start..]) + usize::from(start > 0) > width {
        match text[start..].chars().next() {
            Some(first) => start += first.len_utf8(),
            None => break,
        }
    }
    if start == 0 { text.to_owned() } else { format!("…{}", &text[start..]) }
}

/// Columns a string takes on a terminal.
pub fn columns(text: &str) -> usize {
    unicode_width::UnicodeWidthStr::width(text)
}

/// Columns of the terminal at standard output, at least 40.
pub fn terminal_width() -> usize {
    usize::from(terminal_size().0).max(COLUMNS_MIN)
}

/// Columns and lines of the terminal at standard output.
pub fn terminal_size() -> (u16, u16) {
    size_of(&std::io::stdout())
}

/// The same of another file. A terminal that has not been told its size says 0, as serial lines and the terminals of many tools do.
fn size_of(terminal: &impl AsFd) -> (u16, u16) {
    let told = rustix::termios::tcgetwinsize(terminal);
    let (columns, lines) = told.map_or((0, 0), |size| (size.ws_col, size.ws_row));
    let or_usual = |told, usual| if told == 0 { usual } else { told };
    (or_usual(columns, 80), or_usual(lines, 24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units() {
        let at = |seconds| age(Duration::from_secs(seconds));
        assert_eq!(at(27 * 86_400 + 3 * 3600 + 59), "27d 3h");
        assert_eq!(at(3661), "1h 1m");
        assert_eq!(at(312), "5m 12s");
        assert_eq!(at(12), "12s");
        assert_eq!(age(Duration::from_millis(3_499)), "3.4s");
        assert_eq!(age(Duration::from_millis(9_999)), "9.9s");
    }

    #[test]
    fn nothing_reaches_the_terminal_raw() {
        assert_eq!(clean("a\nb\x1b[31mc\u{202e}"), "a?b?[31mc?");
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(fit("日本語", 6), "日本語");
        assert_eq!(fit("日本語", 5), "日本…");
        assert_eq!(fit("abc", 2), "a…");
        assert_eq!(fit_end("/var/log/日本", 9), "…log/日本");
        assert_eq!(fit_end("/var", 4), "/var");
        assert_eq!(fit_end("/var", 0), "…");
    }
}
