//! What a run of `tracer trace` saw, by call and target. Pure.

use std::{cmp::Reverse, collections::HashMap, time::Duration};

use super::line::{self, End, Line};
use crate::util::human;

/// Rows at most.
const ROWS: usize = 20;
/// Kinds of calls that are kept apart; the rest are counted together.
const KINDS: usize = 10_000;

/// Calls by system call and target, all connections to one peer together.
#[derive(Debug, Default)]
pub struct Summary {
    rows: HashMap<(&'static str, String), Row>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Row {
    calls: u64,
    errors: u64,
    total: Duration,
    longest: Duration,
}

impl Summary {
    /// Counts a call, which has ended or still waits at the end of the run.
    pub fn add(&mut self, line: &Line) {
        let key = (line.syscall, line.peer.clone());
        let full = self.rows.len() >= KINDS && !self.rows.contains_key(&key);
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
        let mut table = format!("{:>7}  {:>7}  {:>6}  {:>6}  CALL\n", "TOTAL", "LONGEST", "CALLS", "ERRORS");
        for ((call, target), row) in rows.iter().take(ROWS) {
            table += &human::clean(&format!(
                "{:>7}  {:>7}  {:>6}  {:>6}  {call} {target}",
                human::age(row.total),
                human::age(row.longest),
                row.calls,
                row.errors
            ));
            table.truncate(table.trim_end().len());
            table.push('\n');
        }
        if rows.len() > ROWS {
            table += &format!("and {} more\n", human::count(rows.len() - ROWS, "row"));
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn calls_are_counted_by_call_and_target_the_longest_first() {
        let line = |syscall, target: &str, seconds, result| Line {
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
