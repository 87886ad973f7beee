//! How does a page stay within a number of lines, whatever is to be said? It is made of parts. What a part has too many of is counted
//! and left out: the deepest and the last first.

use std::io::{self, Write};

use crate::util::human;

/// Width of the words at the left.
pub const MARGIN: usize = 10;
/// Lines of a paragraph of a part at most: a name, a path or a command line may be thousands of characters long.
const PARAGRAPH_LINES_MAX: usize = 5;

/// A paragraph of a part, and how deep it stands in it.
struct Paragraph {
    depth: usize,
    lines: Vec<String>,
}

/// A part of a page: paragraphs, the first of them under a word at the left.
pub struct Part {
    width: usize,
    word: &'static str,
    paragraphs: Vec<Paragraph>,
    /// Lines that it has in any case, if it has so many.
    least: usize,
    /// How much it matters beside other parts: the least number goes first.
    rank: u8,
    /// What lists what has no room.
    whole: String,
}

impl Part {
    /// An empty one, of lines at most so wide, that comes after those of a lesser rank when room is given out.
    pub fn new(word: &'static str, width: usize, rank: u8, least: usize) -> Self {
        Self { width, word, paragraphs: Vec::new(), least, rank, whole: "--json".into() }
    }

    /// The same, with another option or command that lists what has no room.
    pub fn listed_by(self, whole: String) -> Self {
        Self { whole, ..self }
    }

    /// A paragraph that stands so deep, and all but its first line so much deeper, in columns.
    pub fn add(&mut self, depth: usize, hang: usize, text: &str) {
        let word = if self.paragraphs.is_empty() { self.word } else { "" };
        let first = format!("{word:MARGIN$}{}", " ".repeat(2 * depth));
        let next = " ".repeat(MARGIN + 2 * depth + hang);
        let lines = wrapped([&first, &next], text, self.width, PARAGRAPH_LINES_MAX);
        self.paragraphs.push(Paragraph { depth, lines });
    }

    fn lines(&self) -> usize {
        self.paragraphs.iter().map(|paragraph| paragraph.lines.len()).sum()
    }

    /// Its lines, as many as there is room for, among them the beginning of the first paragraph.
    fn within(mut self, room: usize) -> Vec<String> {
        if self.lines() <= room {
            return self.paragraphs.into_iter().flat_map(|paragraph| paragraph.lines).collect();
        }
        let mut order: Vec<usize> = (0..self.paragraphs.len()).collect();
        order.sort_by_key(|at| self.paragraphs[*at].depth);
        // A line says how many are missing.
        let mut left = room.saturating_sub(1).max(1);
        self.paragraphs.iter_mut().take(1).for_each(|first| truncate(&mut first.lines, left, self.width));
        let mut kept = vec![false; self.paragraphs.len()];
        for at in order {
            let number = self.paragraphs[at].lines.len();
            if number > left {
                break;
            }
            left -= number;
            kept[at] = true;
        }
        let missing = kept.iter().filter(|kept| !**kept).count();
        let paragraphs = self.paragraphs.into_iter().zip(kept).filter(|(_, kept)| *kept);
        let mut lines: Vec<String> = paragraphs.flat_map(|(paragraph, _)| paragraph.lines).collect();
        // Of one line, the beginning says more.
        if missing > 0 && room > 1 {
            lines.push(format!("{:MARGIN$}and {missing} more, which {} lists", "", self.whole));
        }
        lines
    }
}

/// Writes a text in lines of the terminal at standard output; where that is none, in one.
///
/// # Errors
/// It cannot be written.
pub fn paragraph(out: &mut impl Write, text: &str) -> io::Result<()> {
    let Some(width) = human::line_width() else { return writeln!(out, "{}", human::clean(text)) };
    for line in wrapped(["", ""], text, width, usize::MAX) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// Text in lines at most so wide, of which the first and the others begin so. What would take more lines is cut, with `…`.
pub fn wrapped([first, next]: [&str; 2], text: &str, width: usize, lines_max: usize) -> Vec<String> {
    let options = textwrap::Options::new(width).initial_indent(first).subsequent_indent(next);
    let text = human::clean(text);
    let all = textwrap::wrap(&text, options);
    let is_cut = all.len() > lines_max;
    let mut lines: Vec<String> =
        all.into_iter().take(lines_max).map(|line| line.trim_end().to_owned()).collect();
    if is_cut {
        mark_cut(&mut lines, width);
    }
    lines
}

/// So many of these lines at most.
fn truncate(lines: &mut Vec<String>, max: usize, width: usize) {
    if lines.len() > max {
        lines.truncate(max);
        mark_cut(lines, width);
    }
}

/// Says that what follows the last line is missing. An arrow that would point at it goes.
fn mark_cut(lines: &mut [String], width: usize) {
    if let Some(last) = lines.last_mut() {
        let kept = last.trim_end_matches(" …").trim_end_matches(['←', ' ']);
        *last = human::fit(&format!("{kept} …"), width);
    }
}

/// Parts in their order, in so many lines: each has its least, and what is left goes to those that matter most.
pub fn fit(parts: Vec<Part>, room: usize) -> Vec<String> {
    let mut rooms: Vec<usize> = parts.iter().map(|part| part.least.min(part.lines())).collect();
    let mut left = room.saturating_sub(rooms.iter().sum());
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|at| parts[*at].rank);
    for at in order {
        let more = (parts[at].lines() - rooms[at]).min(left);
        rooms[at] += more;
        left -= more;
    }
    parts.into_iter().zip(rooms).flat_map(|(part, room)| part.within(room)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part of paragraphs that stand so deep, each of one line.
    fn part(word: &'static str, rank: u8, least: usize, depths: &[usize]) -> Part {
        let mut part = Part::new(word, 60, rank, least);
        for (at, depth) in depths.iter().enumerate() {
            part.add(*depth, 0, &format!("{word}{at}"));
        }
        part
    }

    #[test]
    fn a_part_that_fits_is_whole() {
        let lines = fit(vec![part("A", 0, 1, &[0, 1, 0])], 3);
        assert_eq!(lines, ["A         A0", "            A1", "          A2"]);
    }

    #[test]
    fn the_deepest_and_the_last_go_first() {
        let lines = fit(vec![part("A", 0, 1, &[0, 1, 2, 1, 0, 0])], 5);
        assert_eq!(
            lines,
            [
                "A         A0",
                "            A1",
                "          A4",
                "          A5",
                "          and 2 more, which --json lists"
            ]
        );
    }

    #[test]
    fn what_matters_most_has_the_room_and_the_others_their_least() {
        let parts = || vec![part("A", 1, 2, &[0; 9]), part("B", 0, 2, &[0; 9]), part("C", 2, 2, &[0])];
        for (room, of_each) in
            [(5, [2, 2, 1]), (9, [2, 6, 1]), (12, [2, 9, 1]), (15, [5, 9, 1]), (90, [9, 9, 1])]
        {
            let lines = fit(parts(), room);
            assert_eq!(lines.len(), of_each.iter().sum::<usize>(), "{lines:#?}");
            let begin = lines.iter().position(|line| line.starts_with('B')).expect("it has a line");
            assert_eq!(begin, of_each[0], "{lines:#?}");
        }
    }

    #[test]
    fn no_paragraph_is_without_an_end() {
        let lines = wrapped(["", "  "], &"word ".repeat(1000), 40, 5);
        assert_eq!(lines.len(), 5);
        assert!(lines.iter().all(|line| human::columns(line) <= 40), "{lines:#?}");
        assert!(lines[4].ends_with('…'), "{lines:#?}");
        let endless = wrapped(["", ""], &"x".repeat(1000), 40, 2);
        assert!(endless.len() == 2 && endless[1].ends_with('…'), "{endless:#?}");
        assert_eq!(wrapped(["", "  "], "one word", 40, 5), ["one word"]);
    }
}
