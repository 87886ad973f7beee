//! A program reads what its child writes, among other things, as `execSync` and `subprocess.run` do. The child hangs. Does the parent's page
//! say so, though the parent waits for any of several events?

use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tests::servers::clean;
use tests::{MuteServer, start, why, why_page};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn the_child_that_hangs_is_named() {
    let service = MuteServer::start(&[]);
    let script = "import subprocess, sys
subprocess.run(['curl', '-s', sys.argv[1]], capture_output=True)
";
    let mut parent = clean("python3");
    parent.args(["-c", script, &format!("http://{}/", service.address())]).stdin(Stdio::null());
    let parent = start(parent);
    let begin = Instant::now();
    let stuck = |report: &serde_json::Value| {
        report["others"].as_array().is_some_and(|others| {
            others.iter().any(|other| other["comm"] == "curl" && other["role"] == "its child")
        })
    };
    let report = loop {
        let report = why(parent.pid());
        if stuck(&report) {
            break report;
        }
        assert!(begin.elapsed() < PATIENCE, "its child is not named: {report:#}");
        sleep(Duration::from_millis(200));
    };
    let child = report["others"][0]["pid"].as_u64().expect("a pid");
    let headline = report["headline"].as_str().expect("a headline");
    assert!(headline.contains(&format!("But curl (pid {child}), its child, is stuck.")), "{headline}");
    assert!(why_page(parent.pid()).contains(&service.address().to_string()), "the chain ends at the service");
}
