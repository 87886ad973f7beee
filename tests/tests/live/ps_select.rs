//! Do `ps` and `why` find whom they are asked about, by number, name, user, peer or culprit, and say when there is nobody?

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tests::{NOBODY, Running, Waiter, is_footer, own_dir, shared, start, tracer, unused_id, why_run};

/// Exit status, output and errors of `tracer ps`.
fn ps(args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(tracer()).arg("ps").args(args).output().expect("tracer starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

/// The pids of the table's lines, which has neither heading nor footer.
fn pids(args: &[&str]) -> Vec<u32> {
    let (code, text, error) = ps(&[&["--flat", "--no-header"], args].concat());
    assert_eq!((code, &*error), (Some(0), ""), "{args:?}: {text}");
    let pid = |line: &str| {
        let id = line
            .trim_start_matches(['!', '?', ' '])
            .split_whitespace()
            .nth(1)
            .unwrap_or_else(|| panic!("{line}"));
        id.split('/').next().and_then(|pid| pid.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    };
    // Ages such as `1m 2s` are two words, and none here is that old.
    text.lines().map(pid).collect()
}

#[test]
fn what_is_listed_is_narrowed_down() {
    let _shared = shared();
    let one = Waiter::start("recvfrom-tcp4");
    let other = Waiter::start_as(NOBODY, "recvfrom-tcp4", &[]);
    other.until_age(1.2);
    one.until_age(1.2);
    let (first, second) = (one.pid(), other.pid());
    let ids = format!("{first},{second}");
    let nobody = NOBODY.to_string();
    let remote = |waiter: &Waiter| waiter.text("remote").to_owned();
    let mut both = pids(&["-p", &ids]);
    both.sort_unstable();
    let mut expected = [first, second];
    expected.sort_unstable();
    assert_eq!(both, expected);
    assert_eq!(pids(&["-p", &ids, "--user", &nobody]), [second]);
    assert_eq!(pids(&["-p", &ids, "--user", "root"]), [first]);
    assert_eq!(pids(&["--remote", &remote(&one)]), [first]);
    assert_eq!(pids(&["-p", &ids, "--remote", "192.0.2.1"]), [0; 0]);
    let rows = tests::ps(&["-p", &first.to_string()]).rows;
    assert_eq!(pids(&["--culprit", &remote(&one)]), [first], "by its address");
    let culprit = rows[0]["culprit"]["pid"].as_u64().unwrap_or_else(|| panic!("{rows:#?}")).to_string();
    assert_eq!(pids(&["--culprit", &culprit]), [first]);
    assert_eq!(pids(&["-c", "no*ter,waiter", "-p", &first.to_string()]), [first]);
}

#[test]
fn who_does_not_exist_is_an_error() {
    let _shared = shared();
    let gone = unused_id().to_string();
    for (args, says) in [
        (&["-p", &gone] as &[&str], "there is no process"),
        (&["-c", "no-such-name"], "no thread is called"),
        (&["--unit", "no-such-unit"], "nothing that waits is of this unit"),
        (&["--remote", "db.example"], "names of hosts are not looked up"),
    ] {
        let (code, text, error) = ps(args);
        assert_ne!(code, Some(0), "{args:?}");
        assert!(text.is_empty() && error.contains(says), "{args:?}: {text}{error}");
    }
    let (code, _, error) = ps(&["-p", &gone, "--exit-code=nagios"]);
    assert_eq!(code, Some(3), "unknown, for Nagios: {error}");
    let (code, text, error) = why_run(&["no-such-name"]);
    assert_eq!((code, &*text), (Some(1), ""));
    assert!(error.contains("is called \"no-such-name\""), "{error}");
}

#[test]
fn it_looks_again_and_again() {
    let _shared = shared();
    let waiter = Waiter::start("recvfrom-tcp4");
    waiter.until_age(1.2);
    let mut command = Command::new(tracer());
    command.args(["ps", "--watch=100ms", "-p", &waiter.pid().to_string()]).stdout(Stdio::piped());
    let mut watching = start(command);
    let stdout = watching.pipes().stdout.take().expect("piped");
    let pages = BufReader::new(stdout).lines().map_while(Result::ok).filter(|line| is_footer(line));
    assert_eq!(pages.take(3).count(), 3);
    watching.signal(libc::SIGINT);
    assert!(watching.wait(std::time::Duration::from_secs(5)).is_some(), "it ends");
}

/// A program of this name that sleeps.
fn called(name: &str) -> (PathBuf, Running) {
    let path = own_dir().join(name);
    if !path.exists() {
        fs::copy("/bin/sleep", &path).expect("a copy");
    }
    let mut command = Command::new(&path);
    command.arg("1000");
    (path, start(command))
}

#[test]
fn a_name_is_enough_where_only_one_has_it() {
    let _shared = shared();
    let name = format!("rests-{}", std::process::id());
    let (_, one) = called(&name);
    let page = |args: &[&str]| {
        let (code, text, error) = why_run(args);
        assert_eq!((code, &*error), (Some(0), ""), "{text}");
        text
    };
    assert!(page(&[&name]).starts_with(&format!("{name} (pid {}) ", one.pid())));
    let (_, other) = called(&name);
    let (code, text, error) = why_run(&[&name]);
    assert_eq!(code, Some(1));
    assert!(error.contains("2 processes are called"), "{error}");
    for process in [&one, &other] {
        assert!(text.contains(&process.pid().to_string()), "{text}");
    }
}

/// One of two who wait for each other is asked about, which rests in a call of no such class.
#[test]
fn one_of_a_deadlock_is_stuck_also_if_only_that_one_is_asked_about() {
    let _shared = shared();
    let circle = Waiter::start("circle-pipe");
    circle.until_age(1.2);
    let (code, text, error) = ps(&["-p", &circle.pid().to_string(), "--exit-code"]);
    assert_eq!((code, &*error), (Some(3), ""), "{text}");
    assert!(text.contains("deadlock") && text.contains("1 stuck"), "{text}");
}
