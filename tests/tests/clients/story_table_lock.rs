//! A client of PostgreSQL is stuck behind another one's `LOCK TABLE`. Does its page lead to the backend that does its work, and to the query
//! that says who blocks that?

use std::io::Write;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tests::servers::{Server, Way, must, postgresql, psql};
use tests::{Running, ps, start, why, why_page};

const PATIENCE: Duration = Duration::from_secs(60);

fn ask(server: &Server, query: &str) -> String {
    must(psql(server, Way::Unix, &["-c", query])).trim().to_owned()
}

/// A client that has locked the table and does not let go while its standard input stays open.
fn holder(server: &Server) -> Running {
    let mut first = psql(server, Way::Tcp, &[]);
    first.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut first = start(first);
    let input = first.pipes().stdin.as_mut().expect("piped");
    writeln!(input, "BEGIN; LOCK TABLE t;").expect("psql reads");
    until(server, "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted", "1");
    first
}

fn until(server: &Server, query: &str, answer: &str) {
    let begun = Instant::now();
    while ask(server, query) != answer {
        assert!(begun.elapsed() < PATIENCE, "{query}: not {answer}");
        sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_backend_and_the_query_that_finds_who_blocks_it_are_named() {
    let server = postgresql();
    ask(&server, "CREATE TABLE t (id int)");
    let _first = holder(&server);
    // A backend whose client has gone waits on.
    let mut known = Vec::new();
    for way in [Way::Tcp, Way::Unix] {
        let client = start(psql(&server, way, &["-c", "SELECT * FROM t"]));
        let waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        let begun = Instant::now();
        let backend = loop {
            let answer = ask(&server, waiting);
            let pids = answer.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok());
            if let Some(pid) = pids.clone().find(|pid| !known.contains(pid)) {
                known.push(pid);
                break pid;
            }
            assert!(begun.elapsed() < PATIENCE, "{answer:?}");
            sleep(Duration::from_millis(100));
        };
        sleep(Duration::from_secs(2));
        let row = &ps(&["-p", &client.pid().to_string()]).rows[0];
        assert_eq!(row["culprit"]["pid"], backend, "{way:?}: {row:#}");
        let report = why(client.pid());
        assert_eq!(report["condition"], "stuck", "{way:?}: {report:#}");
        assert_eq!(report["others"][0]["pid"], backend, "{way:?}: {report:#}");
        // What it does is in its title.
        let title = report["others"][0]["cmdline"].as_str().unwrap_or_default();
        assert!(title.contains("SELECT waiting"), "{way:?}: {report:#}");
        let page = why_page(client.pid());
        assert!(page.contains(&format!("pg_blocking_pids({backend})")), "{way:?}: {page}");
    }
}
