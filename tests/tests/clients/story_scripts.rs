//! On a host with a dozen programs in Python, all are called python3. Are they told apart by what they run, and may they be asked for by it?

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tests::servers::clean;
use tests::{MuteServer, Running, own_dir, start, tracer};

const PATIENCE: Duration = Duration::from_secs(30);

/// Three threads of one program ask a service that does not answer.
const TEXT: &str = "
import sys, threading, urllib.request
def fetch():
    try: urllib.request.urlopen(sys.argv[1])
    except OSError as error: print(error, flush=True)
threads = [threading.Thread(target=fetch) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
";

fn script(name: &str) -> PathBuf {
    let path = own_dir().join(name);
    fs::write(&path, TEXT).expect("a file");
    path
}

fn begin(script: &PathBuf, service: &MuteServer) -> Running {
    let mut python = clean("python3");
    python.arg(script).arg(format!("http://{}/", service.address())).stdin(Stdio::null());
    start(python)
}

/// Whether it has ended well, what it has printed, and what it has complained about.
fn ran(args: &[&str]) -> (bool, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(tracer()).args(args).stdin(Stdio::null()).output().expect("tracer starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (status.success(), text(stdout), text(stderr))
}

/// The page, once three threads wait alike.
fn page_of_three(name: &str) -> String {
    let begun = Instant::now();
    loop {
        let (_, page, error) = ran(&["why", name]);
        // What has waited for a moment is not stuck yet.
        if page.contains("3 threads (python3) up to ") && page.contains(" is stuck") {
            return page;
        }
        assert!(begun.elapsed() < PATIENCE, "{page}\n{error}");
        sleep(Duration::from_millis(200));
    }
}

#[test]
fn programs_are_called_by_what_their_interpreter_runs() {
    let service = MuteServer::start(&[]);
    let file = script("fetches-invoices.py");
    let first = begin(&file, &service);
    let pid = first.pid();
    let page = page_of_three("fetches-invoices.py");
    assert!(page.starts_with(&format!("python3 fetches-invoices.py (pid {pid}) is stuck")), "{page}");
    // Its own function, of those that lie between it and the call.
    assert!(page.contains("fetch fetches-invoices.py:4"), "{page}");
    let (_, table, _) = ran(&["ps", "-p", &pid.to_string()]);
    assert!(
        table.contains(" python3 fetches-invoices.py ") || table.contains(" python3 fetches-inv"),
        "{table}"
    );

    // Which of two is to be looked at hardly matters; which one is to be changed does.
    let second = begin(&file, &service);
    page_of_three(&second.pid().to_string());
    let (is_done, listed, error) = ran(&["release", "fetches-invoices.py", "--apply"]);
    assert!(!is_done && error.contains("2 processes are called"), "it has chosen one: {listed}\n{error}");
    assert!(listed.contains(&pid.to_string()) && listed.contains(&second.pid().to_string()), "{listed}");
}

#[test]
fn several_waits_are_released_at_once() {
    let service = MuteServer::start(&[]);
    let program = begin(&script("asks-thrice.py"), &service);
    page_of_three("asks-thrice.py");
    let pid = program.pid().to_string();
    let (_, plan, _) = ran(&["release", &pid]);
    let all = plan.split("`--fd ").nth(1).and_then(|rest| rest.split('`').next()).expect("the other two");
    assert_eq!(all.split(',').count(), 2, "{plan}");
    let (is_done, said, error) = ran(&["release", &pid, "--fd", all, "--apply"]);
    assert!(is_done && said.matches("that wait is over").count() == 2, "{said}\n{error}");
    let (_, left, _) = ran(&["release", &pid]);
    assert!(!left.contains("more wait"), "one is left: {left}");
}
