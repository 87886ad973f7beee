//! A client of MariaDB is stuck behind another client's row lock. Does `ps` say that it waits for the server's reply,
//! over TCP and over the unix socket?

use std::io::Write;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Running, names, ps, realtime_ns, start, why, why_page};

use crate::blocked::check_age;
use tests::servers::{Server, Way, mariadb, must, mysql, socket};

const PATIENCE: Duration = Duration::from_secs(60);

/// The query of this server, as text.
fn ask(server: &Server, query: &str) -> String {
    must(mysql(server, Way::Unix, &["-e", query]))
}

/// Waits until so many transactions are open, and wait for a lock or not; the moments between which that came.
fn until_transactions(server: &Server, state: &str, count: &str) -> (i128, i128) {
    let query = format!("SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = '{state}'");
    let begin = Instant::now();
    loop {
        let before = realtime_ns();
        if ask(server, &query).trim() == count {
            return (before, realtime_ns());
        }
        assert!(begin.elapsed() < PATIENCE, "not {count} transactions are {state}");
        // The table is a copy, which InnoDB renews only if nobody has read it for 100 ms.
        sleep(Duration::from_millis(200));
    }
}

/// A client that has locked a row and does not let go while its standard input stays open.
fn holder(server: &Server) -> Running {
    let mut first = mysql(server, Way::Tcp, &["test"]);
    first.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut first = start(first);
    let input = first.pipes().stdin.as_mut().expect("piped");
    // `mysql` reads its input in blocks: what stands here is all it gets.
    writeln!(input, "BEGIN; UPDATE t SET v = v + 1 WHERE id = 1;").expect("mysql reads");
    until_transactions(server, "RUNNING", "1");
    first
}

/// The row of the client behind the lock.
fn stuck_client(way: Way) -> (Value, Server, Running, Running) {
    let server = mariadb();
    ask(
        &server,
        "CREATE TABLE test.t (id INT PRIMARY KEY, v INT) ENGINE=InnoDB; INSERT INTO test.t VALUES (1, 1)",
    );
    let first = holder(&server);
    let started = realtime_ns();
    let second = start(mysql(&server, way, &["test", "-e", "UPDATE t SET v = 5 WHERE id = 1"]));
    let (_, seen) = until_transactions(&server, "LOCK WAIT", "1");
    sleep(Duration::from_secs(3));
    let snapshot = ps(&["-p", &second.pid().to_string()]);
    let row = snapshot.row(second.pid());
    check_age(row, started, seen, &snapshot);
    let report = why(second.pid());
    assert!(names(&report, server.pid()), "the server {} is not named: {report:#}", server.pid());
    why_page(second.pid());
    (row.clone(), server, first, second)
}

#[test]
fn over_tcp() {
    let (row, server, _first, second) = stuck_client(Way::Tcp);
    let target = &row["target"];
    assert_eq!(
        (&target["kind"], &target["remote"]),
        (&"tcp".into(), &server.address.to_string().into()),
        "{row:#}"
    );
    let local = target["local"].as_str().and_then(|local| local.parse().ok()).expect("an address");
    crate::crowd::check_wait(&row, second.pid(), local, server.address);
    assert_eq!((&row["class"], &row["level"]), (&"reply".into(), &"stuck".into()), "{row:#}");
}

/// There are no counters on a unix socket; whether any thread of the server waits for this client decides.
#[test]
fn over_the_unix_socket() {
    let (row, server, _first, second) = stuck_client(Way::Unix);
    let target = &row["target"];
    assert_eq!(target["kind"], "unix", "{row:#}");
    let inode = target["inode"].as_u64().unwrap_or_else(|| panic!("no inode: {row:#}"));
    let fds = crate::blocked::fds_of(second.pid(), &format!("socket:[{inode}]"));
    assert_eq!(serde_json::json!(fds), serde_json::json!([row["fd"]]), "{row:#}");
    assert!(matches!(row["class"].as_str(), Some("reply" | "dialog")), "{row:#}");
    let path = socket(&server.dir);
    let verdict = row["verdict"].as_str().unwrap_or_default();
    let named = target["peer_pid"] == server.pid() || verdict.contains(&format!("(pid {})", server.pid()));
    assert!(
        named,
        "neither target nor verdict names the server, {} on {}: {row:#}",
        server.pid(),
        path.display()
    );
}
