//! Does `why` name the culprit, on one page, whatever a process does or does not do?

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{
    Running, Traced, Waiter, own_dir, shared, start, why as report, why_page as page, why_run as run,
};

use super::ps_held::{Group, until_state};

/// The report once it says so: a process needs a moment to get where it is going.
pub(crate) fn until(id: u32, condition: &str) -> Value {
    until_that(id, |report| report["condition"] == condition)
}

/// The first report of which this holds.
fn until_that(id: u32, holds: impl Fn(&Value) -> bool) -> Value {
    let begin = Instant::now();
    loop {
        let report = report(id);
        if holds(&report) {
            return report;
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "not as it should be: {report:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn headline(report: &Value) -> &str {
    report["headline"].as_str().expect("a headline")
}

fn sh(script: &str) -> Running {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    start(command)
}

#[test]
fn a_client_and_the_server_it_waits_for() {
    let waiter = Waiter::start("recvfrom-tcp4");
    waiter.until_age(1.2);
    let report = until(waiter.pid(), "stuck");
    let server = &report["others"][0];
    assert_eq!(server["role"], "at the other end", "{report:#}");
    let server_pid = server["pid"].as_u64().expect("a pid");
    assert_ne!(server_pid, u64::from(waiter.pid()));
    assert!(headline(&report).contains(&format!("(pid {server_pid})")), "{report:#}");
    assert_eq!(report["sockets"]["states"]["tcp ESTABLISHED"], 1, "{report:#}");
    let request = &report["sockets"]["unanswered"][0];
    assert_eq!(request["fd"], waiter.line()["fd"], "{report:#}");
    let wait = &report["threads"][0]["wait"];
    assert_eq!((&wait["class"], &wait["fd"]), (&"reply".into(), &waiter.line()["fd"]), "{report:#}");
    let stack = report["threads"][0]["stack"].as_array().expect("a stack");
    assert!(stack.iter().any(|name| name.as_str().is_some_and(|name| name.contains("tcp"))), "{report:#}");
    let page = page(waiter.pid());
    assert!(page.starts_with(&format!("waiter (pid {}) is stuck: waiting", waiter.pid())), "{page}");
    assert!(page.contains(&format!("Next      tracer why {server_pid}")), "{page}");
}

#[test]
fn a_deadlock_is_called_one() {
    let waiter = Waiter::start("deadlock");
    std::thread::sleep(Duration::from_secs(1));
    let report = until(waiter.pid(), "stuck");
    assert!(headline(&report).contains("a deadlock"), "{report:#}");
    let other = &report["others"][0];
    assert_eq!(other["then"][0]["circle"], true, "{report:#}");
    let two = [&other["tid"], &other["then"][0]["tid"]];
    assert!(two[0] != two[1] && two.iter().all(|tid| tid.is_u64()), "{report:#}");
    page(waiter.pid());
}

#[test]
fn who_holds_a_lock() {
    let waiter = Waiter::start("flock");
    waiter.until_age(1.2);
    let report = until(waiter.pid(), "stuck");
    assert_eq!(report["others"][0]["role"], "holds the lock", "{report:#}");
    assert_ne!(report["others"][0]["pid"], waiter.pid(), "{report:#}");
    page(waiter.pid());
}

#[test]
fn who_has_the_other_end_of_a_pipe() {
    let waiter = Waiter::start("read-pipe");
    waiter.until_age(1.2);
    let report = until(waiter.pid(), "doubtful");
    assert_eq!(report["others"][0]["comm"], "waiter", "{report:#}");
    page(waiter.pid());
}

#[test]
fn an_event_loop_and_its_unanswered_requests() {
    let waiter = Waiter::start("event-loop");
    waiter.until_age(1.5);
    let report = until(waiter.pid(), "stuck");
    let said = headline(&report);
    assert!(said.contains(" has a request without an answer, and 1 more request: it is waiting "), "{said}");
    assert!(said.contains(" for a reply from 127.0.0.1:"), "{said}");
    assert!(said.ends_with(" None of its threads is blocked by that."), "{said}");
    assert_eq!(report["sockets"]["unanswered"].as_array().map(Vec::len), Some(2), "{report:#}");
    let page = page(waiter.pid());
    assert_eq!(page.matches("event loop ").count(), 2, "{page}");
}

#[test]
fn what_a_server_has_not_answered() {
    let waiter = Waiter::start("requests");
    waiter.until_age(1.5);
    let report = until(waiter.pid(), "stuck");
    let said = headline(&report);
    assert!(
        said.contains(" The process has received 4 requests and not answered them, the oldest "),
        "{said}"
    );
    assert_eq!(report["sockets"]["owed"].as_array().map(Vec::len), Some(4), "{report:#}");
    page(waiter.pid());
}

/// Of a server that rests, that others wait for it comes first.
#[test]
fn a_server_that_rests_and_owes() {
    let service = Waiter::start("mute-service");
    let client = Waiter::start_with("asks", &[service.text("address"), "0"]);
    client.until_age(1.5);
    let pid = service.pid();
    let report = until_that(pid, |report| headline(report).contains(" received "));
    let said = headline(&report);
    assert!(said.starts_with(&format!("waiter (pid {pid}) received a request ")), "{said}");
    assert!(said.contains(" ago and has not read it. It is not stuck"), "{said}");
}

/// A page shows the stack of the worst thread; asked for all, also of few.
#[test]
fn all_threads_of_few() {
    let waiter = Waiter::start_with("threads", &["3"]);
    std::thread::sleep(Duration::from_millis(1200));
    let pid = waiter.pid().to_string();
    let places = |args: &[&str]| {
        let page =
            Command::new(tests::tracer()).arg("why").arg(&pid).args(args).output().expect("tracer starts");
        let page = String::from_utf8(page.stdout).expect("UTF-8");
        page.matches("threads in ").count() + page.matches("thread ").count()
    };
    assert!(places(&["--all-threads"]) > places(&[]), "{pid}");
}

#[test]
fn one_thread_of_many() {
    let waiter = Waiter::start_with("threads", &["8"]);
    let tid = waiter.line()["threads"][3]["tid"].as_u64().or(waiter.line()["tid"].as_u64());
    let tid = u32::try_from(tid.expect("a tid")).expect("a tid");
    std::thread::sleep(Duration::from_millis(1200));
    let whole = until(waiter.pid(), "stuck");
    assert!(whole["threads"].as_array().is_some_and(|threads| threads.len() >= 8), "{whole:#}");
    let one = report(tid);
    assert_eq!(
        (&one["pid"], one["threads"].as_array().map(Vec::len)),
        (&waiter.pid().into(), Some(1)),
        "{one:#}"
    );
    assert_eq!(one["threads"][0]["tid"], tid, "{one:#}");
    page(waiter.pid());
}

#[test]
fn an_endless_loop_is_running() {
    let _shared = shared();
    let sh = sh("while :; do :; done");
    let report = until(sh.pid(), "running");
    assert!(headline(&report).contains("is running, not waiting"), "{report:#}");
    assert!(report["threads"][0]["cpu"].as_f64().is_some_and(|cpu| cpu > 0.02), "{report:#}");
    page(sh.pid());
}

#[test]
fn an_idle_process_is_not_stuck() {
    let sh = sh("exec sleep 60");
    std::thread::sleep(Duration::from_millis(1200));
    let report = until(sh.pid(), "idle");
    assert!(headline(&report).starts_with(&format!("sleep (pid {}) is not stuck", sh.pid())), "{report:#}");
    page(sh.pid());
}

/// The release was cleaned away while its worker ran on.
#[test]
fn a_working_directory_that_is_gone() {
    let release = own_dir().join("release-7");
    std::fs::create_dir_all(&release).expect("a folder");
    let mut command = Command::new("sleep");
    command.arg("60").current_dir(&release);
    let worker = start(command);
    std::fs::remove_dir(&release).expect("remove");
    let report = until(worker.pid(), "idle");
    assert_eq!(report["who"]["cwd"]["deleted"], true, "{report:#}");
    let line = format!("its working directory has been deleted: {}", release.display());
    let page = page(worker.pid());
    // It may be wrapped.
    assert!(page.split_whitespace().collect::<Vec<_>>().join(" ").contains(&line), "{page}");
}

/// A FIFO whose readers are let go, with nothing read, when this is dropped.
struct Released<'a>(&'a std::path::Path);

impl Drop for Released<'_> {
    fn drop(&mut self) {
        use std::os::unix::fs::OpenOptionsExt;
        // Without a reader this fails, and nobody need be let go.
        let _ = std::fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(self.0);
    }
}

/// A supervisor is as stuck as its child.
#[test]
fn a_parent_and_the_child_it_waits_for() {
    let fifo = own_dir().join("why-parent.fifo");
    let path = std::ffi::CString::new(fifo.to_str().expect("UTF-8")).expect("no NUL");
    // SAFETY: the path is NUL-terminated.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0, "{}", std::io::Error::last_os_error());
    let mut command = Command::new("sh");
    command.args(["-c", "cat \"$0\"; :"]).arg(&fifo);
    let _released = Released(&fifo);
    let parent = start(command);
    std::thread::sleep(Duration::from_millis(1500));
    // On a machine that is very busy, the path that the child opens may once be given up on.
    let report = until_that(parent.pid(), |report| {
        report["condition"] == "stuck" && headline(report).contains(" is stuck: its child cat (pid ")
    });
    let child = &report["others"][0];
    assert_eq!((&child["role"], &child["comm"]), (&"its child".into(), &"cat".into()), "{report:#}");
    page(parent.pid());
}

#[test]
fn a_stopped_process() {
    let waiter = Waiter::start("recvfrom-tcp4");
    waiter.stop();
    until_state(&waiter, &['T']);
    let report = until(waiter.pid(), "stopped");
    assert_eq!(report["next"][0]["command"], format!("kill -CONT {}", waiter.pid()), "{report:#}");
    page(waiter.pid());
}

#[test]
fn a_traced_process_and_who_traces_it() {
    let waiter = Waiter::start("recvfrom-tcp4");
    let _traced = Traced::begin(waiter.pid());
    until_state(&waiter, &['t']);
    let report = until(waiter.pid(), "traced");
    assert!(headline(&report).contains(&format!("(pid {})", std::process::id())), "{report:#}");
    page(waiter.pid());
}

#[test]
fn a_frozen_process_and_the_switch_that_thaws_it() {
    let Some(group) = Group::v2().or_else(Group::v1) else {
        panic!("no hierarchy of control groups is mounted")
    };
    let waiter = Waiter::start("recvfrom-tcp4");
    group.add(&waiter);
    let frozen = group.frozen();
    let report = until(waiter.pid(), "frozen");
    let command = report["next"][0]["command"].as_str().expect("a command");
    // What it says does thaw it.
    let status = Command::new("sh").args(["-c", command]).status().expect("sh");
    assert!(status.success(), "{command}: {status}");
    until(waiter.pid(), "stuck");
    drop(frozen);
}

#[test]
fn a_zombie_and_its_parent() {
    let parent = sh("sh -c 'exit 0' & exec sleep 60");
    let begin = Instant::now();
    let children = format!("/proc/{0}/task/{0}/children", parent.pid());
    let zombie = loop {
        let child = std::fs::read_to_string(&children).unwrap_or_default();
        if let Ok(child) = child.trim().parse::<u32>() {
            break child;
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "no child");
        std::thread::sleep(Duration::from_millis(20));
    };
    let report = until(zombie, "zombie");
    assert!(headline(&report).contains(&format!("(pid {})", parent.pid())), "{report:#}");
    assert_eq!(report["next"][0]["command"], format!("tracer why {}", parent.pid()), "{report:#}");
    page(zombie);
}

#[test]
fn what_is_no_process_is_one_line() {
    // Above the largest pid there can be (include/linux/threads.h).
    let none = run(&["4194305"]);
    assert_eq!(none, (Some(1), String::new(), "tracer: there is no process or thread 4194305\n".into()));
    let (code, stdout, stderr) = run(&["2"]);
    assert_eq!((code, stdout.as_str(), stderr.lines().count()), (Some(1), "", 1), "{stderr}");
    assert!(stderr.contains("a thread of the kernel"), "{stderr}");
}
