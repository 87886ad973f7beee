//! A process runs in an endless loop. It waits for nothing: does `ps` leave it out, even with `--all`?

use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use tests::{ps, start, why, why_page};

use tests::servers::clean;

#[test]
fn it_is_no_wait() {
    let mut python = clean("python3");
    // Others need the processor too.
    python.args(["-c", "import os\nos.nice(5)\nwhile True: pass"]).stdin(Stdio::null());
    let mut python = start(python);
    let ticks = |pid: u32| -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("/proc");
        let after = stat.rsplit(") ").next().expect("a state");
        after.split(' ').nth(11).and_then(|ticks| ticks.parse().ok()).expect("user time")
    };
    sleep(Duration::from_secs(2));
    let before = ticks(python.pid());
    for _ in 0..5 {
        let snapshot = ps(&["--all", "--min-age", "0s", "-p", &python.pid().to_string()]);
        assert!(snapshot.rows.is_empty(), "it runs, it does not wait: {:#?}", snapshot.rows);
        sleep(Duration::from_millis(200));
    }
    let report = why(python.pid());
    assert_eq!(report["condition"], "running", "{report:#}");
    why_page(python.pid());
    assert!(python.ended().is_none(), "the loop has ended");
    assert!(ticks(python.pid()) > before, "the loop does not run");
}
