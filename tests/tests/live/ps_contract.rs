//! Does `ps` keep its contract? The names of its JSON, its filters, its footer, what it hides.

use std::process::{Command, Output};

use serde_json::Value;
use tests::{Waiter, ps, tracer};

use crate::aged::waiter;

const NAMES: &[&str] = &[
    "pid",
    "tid",
    "comm",
    "cmdline",
    "uid",
    "state",
    "syscall",
    "args",
    "fd",
    "since",
    "age_seconds",
    "age_exact",
    "class",
    "level",
    "verdict",
    "target",
    "cgroup",
    "unit",
    "container",
    "pod",
];

#[test]
fn every_row_has_every_name() {
    let waiter = waiter("recvfrom-tcp4");
    waiter.until_age(1.5);
    let snapshot = ps(&["--all"]);
    for row in &snapshot.rows {
        let object = row.as_object().expect("an object");
        for name in NAMES {
            assert!(object.contains_key(*name), "no {name}: {row:#}");
        }
    }
    let row = snapshot.row(waiter.tid());
    assert_eq!(
        (&row["comm"], &row["uid"], &row["state"]),
        (&"waiter".into(), &0.into(), &"S".into()),
        "{row:#}"
    );
    assert!(row["cmdline"].to_string().contains("recvfrom-tcp4"), "{row:#}");
    assert_eq!(row["level"], "stuck", "{row:#}");
    assert!(row["verdict"].as_str().is_some_and(|sentence| !sentence.is_empty()), "{row:#}");
}

#[test]
fn oldest_first() {
    let ages = |rows: &[Value]| rows.iter().filter_map(|row| row["age_seconds"].as_f64()).collect::<Vec<_>>();
    waiter("read-pipe").until_age(1.5);
    let ages = ages(&ps(&["--all"]).rows);
    assert!(ages.len() > 10 && ages.is_sorted_by(|a, b| a >= b), "{ages:?}");
}

#[test]
fn idle_waits_are_hidden_without_all() {
    let waiter = waiter("nanosleep");
    waiter.until_age(1.5);
    let pid = waiter.pid().to_string();
    assert_eq!(ps(&["-p", &pid]).rows.len(), 0);
    assert_eq!(ps(&["--all", "-p", &pid]).rows.len(), 1);
}

/// A reader of another process's pipe is no news, unless its process is asked about.
#[test]
fn what_only_a_rule_would_flag_is_counted_not_listed() {
    let waiter = waiter("read-pipe");
    waiter.until_age(1.5);
    let pid = waiter.pid().to_string();
    let listed = |args: &[&str]| ps(args).rows.iter().any(|row| row["pid"] == waiter.pid());
    assert!(!listed(&[]));
    for args in [&["-p", &pid][..], &["-c", "waiter"], &["--class", "pipe"], &["--all"]] {
        assert!(listed(args), "{args:?}");
    }
    let table = table(&[]);
    let footer = table.lines().last().expect("it has one");
    let words: Vec<&str> = footer.split([' ', ';']).collect();
    let at = words.iter().rposition(|word| *word == "doubtful").expect(footer);
    assert!(words[at - 1].parse::<usize>().is_ok_and(|hidden| hidden > 0), "{footer}");
    assert!(footer.contains("hidden (--all shows them)"), "{footer}");
}

#[test]
fn filters() {
    let named = Waiter::start("many-short-waits");
    let other = waiter("read-pipe");
    named.until_age(1.5);
    other.until_age(1.5);
    let (pid, comm) = (named.pid().to_string(), named.text("comm"));
    let all_named = |rows: &[Value]| !rows.is_empty() && rows.iter().all(|row| row["comm"] == comm);
    assert!(all_named(&ps(&["--all", "-c", comm]).rows), "-c");
    assert_eq!(ps(&["--all", "-p", &pid, "--min-age", "1h"]).rows.len(), 0, "--min-age");
    let by_class = ps(&["--all", "--class", "pipe"]);
    assert!(by_class.rows.iter().all(|row| row["class"] == "pipe"), "--class");
    by_class.row(other.tid());
    let two = ps(&["--all", "-p", &pid, "-p", &other.pid().to_string()]);
    two.row(named.pid());
    two.row(other.tid());
    assert!(two.rows.iter().all(|row| row["pid"] == named.pid() || row["pid"] == other.pid()), "-p twice");
}

/// The table of `ps` with these arguments.
fn table(args: &[&str]) -> String {
    let Output { status, stdout, stderr } =
        Command::new(tracer()).arg("ps").args(args).output().expect("tracer starts");
    assert!(status.success(), "{status}: {}", String::from_utf8_lossy(&stderr));
    assert_eq!(String::from_utf8_lossy(&stderr), "");
    String::from_utf8(stdout).expect("the table is UTF-8")
}

#[test]
fn the_footer_counts_what_is_hidden() {
    let (stuck, idle) = (waiter("read-pipe"), waiter("nanosleep"));
    stuck.until_age(1.5);
    idle.until_age(1.5);
    let page = table(&["-p", &stuck.pid().to_string(), "-p", &idle.pid().to_string()]);
    let footer = page.lines().last().expect("a footer");
    assert!(footer.contains("; 1 idle wait hidden"), "{page}");
}

#[test]
fn nothing_stuck_is_one_plain_sentence() {
    let idle = waiter("nanosleep");
    idle.until_age(1.5);
    let page = table(&["-p", &idle.pid().to_string()]);
    assert!(page.to_lowercase().contains("nothing"), "{page}");
    assert!(page.lines().count() <= 2, "{page}");
}

/// The status that `ps` about one process exits with.
fn status(waiter: &Waiter, args: &[&str]) -> i32 {
    let mut command = Command::new(tracer());
    let output = command.args(["ps", "-p", &waiter.pid().to_string()]).args(args).output();
    output.expect("tracer starts").status.code().expect("it ends by itself")
}

#[test]
fn the_status_says_what_is_stuck_to_whoever_asks() {
    let [stuck, doubtful, idle] = ["recvfrom-tcp4", "quiet", "accept"].map(Waiter::start);
    for waiter in [&stuck, &doubtful, &idle] {
        waiter.until_age(1.5);
    }
    assert_eq!(status(&stuck, &[]), 0, "nobody has asked");
    for (arg, of_stuck, of_doubtful, of_error) in
        [("--exit-code", 3, 0, 1), ("--exit-code=nagios", 2, 1, 3), ("--exit-code=npd", 1, 0, 2)]
    {
        assert_eq!(status(&stuck, &[arg]), of_stuck, "{arg}");
        assert_eq!(status(&stuck, &[arg, "--json"]), of_stuck, "{arg}");
        assert_eq!(status(&stuck, &[arg, "--min-age", "1h"]), 0, "{arg}: it is young");
        assert_eq!(status(&doubtful, &[arg]), of_doubtful, "{arg}");
        assert_eq!(status(&idle, &[arg]), 0, "{arg}");
        let nowhere = ["--source", "agent", "--socket", "/nonexistent/socket"];
        assert_eq!(status(&stuck, &[&[arg], &nowhere[..]].concat()), of_error, "{arg}");
    }
}
