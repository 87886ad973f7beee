//! Which key does what: a table, from which the help page is made.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// One line up.
    Up,
    /// One line down.
    Down,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// To the first line.
    First,
    /// To the last line.
    Last,
    /// Begin to type a filter.
    Filter,
    /// Sort by the next column.
    Sort,
    /// The other way round.
    Reverse,
    /// Show idle waits, or hide them.
    Idle,
    /// Put lines together by something else.
    Group,
    /// A line for each process, or for each culprit.
    Processes,
    /// A line for each unit.
    Units,
    /// A line for each container.
    Containers,
    /// Stand still.
    Pause,
    /// Look less often.
    Slower,
    /// Look more often.
    Faster,
    /// To what the agent kept a minute earlier.
    Earlier,
    /// A minute later, at last to now.
    Later,
    /// Everything about the line.
    Open,
    /// Back to where it was.
    Back,
    /// Write the view to a file.
    Write,
    /// The keys.
    Help,
    /// The end.
    Quit,
}

/// A key with what must be held.
pub type KeyPress = (KeyCode, KeyModifiers);

const NONE: KeyModifiers = KeyModifiers::NONE;

const fn char(c: char) -> KeyPress {
    (KeyCode::Char(c), NONE)
}

/// Keys, what they do, and how the help page says it.
pub const KEYS: &[(&[KeyPress], Action, &str)] = &[
    (&[(KeyCode::Up, NONE), char('k')], Action::Up, "one line up"),
    (&[(KeyCode::Down, NONE), char('j')], Action::Down, "one line down"),
    (&[(KeyCode::PageUp, NONE)], Action::PageUp, "a page up"),
    (&[(KeyCode::PageDown, NONE)], Action::PageDown, "a page down"),
    (&[(KeyCode::Home, NONE)], Action::First, "the first line"),
    (&[(KeyCode::End, NONE), char('G')], Action::Last, "the last line"),
    (
        &[(KeyCode::Enter, NONE)],
        Action::Open,
        "everything about this line: why it waits; of several waits, show them",
    ),
    (&[(KeyCode::Esc, NONE)], Action::Back, "back; clears the filter"),
    (
        &[char('/')],
        Action::Filter,
        "filter: words, or class:reply comm:php* unit: container: syscall: pid: user:",
    ),
    (&[char('s')], Action::Sort, "sort by the next column"),
    (&[char('S')], Action::Reverse, "reverse the order"),
    (&[char('i')], Action::Idle, "show or hide idle waits and those that only a rule flags"),
    (&[char('g')], Action::Group, "put lines together by culprit, remote, unit, program, or not at all"),
    (&[char('t')], Action::Processes, "one line per process"),
    (&[char('u')], Action::Units, "one line per unit"),
    (&[char('c')], Action::Containers, "one line per container"),
    (&[char(' ')], Action::Pause, "pause or resume"),
    (&[char('+'), char('=')], Action::Slower, "update less often"),
    (&[char('-')], Action::Faster, "update more often"),
    (&[char('[')], Action::Earlier, "a minute back, from the history of a running agent"),
    (&[char(']')], Action::Later, "a minute forward, up to now"),
    (&[char('w')], Action::Write, "write the view to a file as JSON"),
    (&[char('?'), (KeyCode::F(1), NONE)], Action::Help, "these keys"),
    (&[char('q'), (KeyCode::Char('c'), KeyModifiers::CONTROL)], Action::Quit, "end"),
];

/// What a key asks for.
pub fn action(event: &KeyEvent) -> Option<Action> {
    // A capital letter comes with Shift on some terminals and without on others.
    let modifiers = event.modifiers.difference(KeyModifiers::SHIFT);
    let is = |key: &KeyPress| *key == (event.code, modifiers);
    KEYS.iter().find(|(keys, ..)| keys.iter().any(is)).map(|(_, action, _)| *action)
}

/// How the help page calls a key.
pub fn name((code, modifiers): &KeyPress) -> String {
    let name = match code {
        KeyCode::Char(' ') => "Space".to_owned(),
        KeyCode::Char(c) => c.to_string(),
        KeyCode::F(number) => format!("F{number}"),
        code => format!("{code:?}"),
    };
    if modifiers.contains(KeyModifiers::CONTROL) { format!("Ctrl-{name}") } else { name }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_key_does_two_things() {
        let keys: Vec<&KeyPress> = KEYS.iter().flat_map(|(keys, ..)| *keys).collect();
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len());
    }

    #[test]
    fn keys_are_found_with_and_without_shift() {
        let press = |code, modifiers| action(&KeyEvent::new(code, modifiers));
        assert_eq!(press(KeyCode::Char('G'), KeyModifiers::SHIFT), Some(Action::Last));
        assert_eq!(press(KeyCode::Char('G'), NONE), Some(Action::Last));
        assert_eq!(press(KeyCode::Char('c'), NONE), Some(Action::Containers));
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Action::Quit));
        assert_eq!(press(KeyCode::Char('z'), NONE), None);
        assert_eq!(name(&(KeyCode::Char('c'), KeyModifiers::CONTROL)), "Ctrl-c");
    }
}
