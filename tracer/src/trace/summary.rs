//! What a run of `tracer trace` saw, by call and target. Pure.

use std::{cmp::Reverse, collections::HashMap, time::Duration};

use super::line::{self, CallLine, End};
use crate::{
    render::table::{Column, Table},
    util::human,
};

/// Rows at most.
const ROWS_MAX: usize = 20;
/// Kinds of calls that are kept apart; the rest are counted together.
const KINDS_MAX: usize = 10_000;

/// Calls by system call and target, all connections to one peer together.
#[derive(Debug, Default)]
pub struct Summary {
    rows: HashMap<(&'static str, String), SummaryRow>,
}

#[derive(Clone, Copy, Debug, Default)]
struct SummaryRow {
    calls: u64,
    errors: u64,
    total: Duration,
    longest: Duration,
}

impl Summary {
    /// Counts a call, which has ended or still waits at the end of the run.
    pub fn add(&mut self, line: &CallLine) {
        let key = (line.syscall, line.peer.clone());
        let full = self.rows.len() >= KINDS_MAX && !self.rows.contains_key(&key);
        let row = self.rows.entry(if full { (line.syscall, "others".into()) } else { key }).or_default();
        row.calls += 1;
        row.errors += u64::from(
            matches!(line.end, End::Returned(result) if result < 0 && !line::is_interrupted(result)),
        );
        row.total += line.lasted;
        row.longest = row.longest.max(line.lasted);
    }

    /// A table, the longest first; empty where nothing was seen.
    pub fn table(&self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by_key(|((call, target), row)| (Reverse(row.total), *call, target.clone()));
        let more = rows.len().saturating_sub(ROWS_MAX);
        rows.truncate(ROWS_MAX);
        let cells = |(_, row): &(_, &SummaryRow)| {
            let numbers = [row.calls, row.errors].map(|number| number.to_string());
            [row.total, row.longest].map(human::age).into_iter().chain(numbers).collect()
        };
        let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
        let columns = [("TOTAL", 7), ("LONGEST", 7), ("CALLS", 6), ("ERRORS", 6)];
        let columns = columns.map(|(heading, width)| Column::number(heading, width, width));
        let table = Table::new(columns, "CALL", "  ", &cells);
        let mut text = format!("{}\n", table.heading());
        for (((call, target), _), cells) in rows.iter().zip(&cells) {
            let row = human::clean(&table.row(cells, &format!("{call} {target}")));
            text += row.trim_end();
            text.push('\n');
        }
        if more > 0 {
            text += &format!("and {} more\n", human::count(more, "row"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn calls_are_counted_by_call_and_target_the_longest_first() {
        let line = |syscall, target: &str, seconds, result| CallLine {
            at: Timestamp::UNIX_EPOCH,
            comm: "x".into(),
            pid: 1,
            tid: 1,
            syscall,
            fd: None,
            target: format!("from somewhere {target}"),
            peer: target.into(),
            lasted: Duration::from_secs(seconds),
            end: End::Returned(result),
        };
        let mut summary = Summary::default();
        assert_eq!(summary.table(), "");
        summary.add(&line("read", "/x", 1, 5));
        summary.add(&line("connect", "tcp a", 3, -111));
        summary.add(&line("connect", "tcp a", 4, -512));
        let expected = "  TOTAL  LONGEST   CALLS  ERRORS  CALL\n   \
                        7.0s     4.0s       2       1  connect tcp a\n   \
                        1.0s     1.0s       1       0  read /x\n";
        assert_eq!(summary.table(), expected);
    }
}
