//! Does `tracer run` run a command as it is, with its status and its signals, and say what hangs in it, once?

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tests::{own_dir, shared, slowness, start, tracer};

fn run(args: &[&str]) -> Command {
    let mut command = Command::new(tracer());
    command.arg("run").args(args).stdin(Stdio::null());
    command
}

fn output(mut command: Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("tracer starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

/// A file that is not there yet.
fn fresh(name: &str) -> PathBuf {
    let path = own_dir().join(name);
    let _ = fs::remove_file(&path);
    path
}

/// So many seconds for a command to be stuck after; an emulated machine takes seconds to start one.
fn patience() -> String {
    format!("{}s", 2 * slowness())
}

#[test]
fn a_command_has_its_output_and_its_status() {
    for (script, status, said) in
        [("echo out; exit 3", 3, "out\n"), ("kill -KILL $$", 137, ""), ("kill -TERM $$", 143, "")]
    {
        assert_eq!(
            output(run(&["sh", "-c", script])),
            (Some(status), said.to_owned(), String::new()),
            "{script}"
        );
    }
    let (status, _, stderr) = output(run(&["/nonexistent/program", "--help"]));
    assert_eq!(status, Some(127), "{stderr}");
    assert!(stderr.contains("tracer: cannot run /nonexistent/program: No such file"), "{stderr}");
    let (status, ..) = output(run(&["/proc/version"]));
    assert_eq!(status, Some(126));
}

/// Who computes, and who writes, moves.
#[test]
fn of_a_command_that_moves_nothing_is_said() {
    let _shared = shared();
    let busy = "i=0; end=$(($(date +%s)+4)); while [ $(date +%s) -lt $end ]; do i=$((i+1)); done";
    let writes = "for i in 1 2 3 4 5 6; do head -c 4000 /dev/zero >/dev/null; sleep 0.5; done";
    for script in [busy, writes] {
        let (status, _, stderr) = output(run(&["--stuck-after", "1s", "--kill", "sh", "-c", script]));
        assert_eq!((status, stderr.as_str()), (Some(0), ""), "{script}");
    }
}

#[test]
fn what_hangs_is_named_once_and_ended_if_asked() {
    let _shared = shared();
    let report = fresh("run-report");
    let (patience, file) = (patience(), report.to_str().expect("UTF-8").to_owned());
    let fifo = fresh("run-fifo");
    let script = format!("mkfifo {0} && cat {0} | cat", fifo.display());
    let began = Instant::now();
    let command = run(&["--stuck-after", &patience, "--kill", "--report", &file, "--", "sh", "-c", &script]);
    let (status, _, stderr) = output(command);
    assert_eq!(status, Some(124), "{stderr}");
    let took = began.elapsed().as_secs_f64() / f64::from(slowness());
    assert!((2.0..15.0).contains(&took), "{took} s");
    assert_eq!(stderr.matches("has moved for").count(), 1, "{stderr}");
    assert!(stderr.starts_with("tracer: nothing in `sh -c "), "{stderr}");
    assert!(stderr.contains(" is stuck: waiting ") && stderr.contains("to open fifo"), "{stderr}");
    assert!(stderr.contains("\nWhere     "), "where in its program: {stderr}");
    // What the shell says of it follows.
    let kept = fs::read_to_string(&report).expect("a report");
    assert!(kept.ends_with("tracer: ending it: SIGTERM now, SIGKILL in 10s\n"), "{kept}");
    assert!(stderr.starts_with(&kept), "{stderr}\nis not\n{kept}");
}

/// The classic of CI: the command has a daemon that keeps its output open, and whoever reads that waits for ever.
#[test]
fn what_was_left_behind_and_holds_the_pipe_is_named_and_ended() {
    let _shared = shared();
    let left = fresh("run-left");
    let script = format!("sh -c 'sleep 1000 & echo $! >{}; echo started' | cat", left.display());
    let (status, stdout, stderr) =
        output(run(&["--stuck-after", &patience(), "--kill", "sh", "-c", &script]));
    assert_eq!((status, stdout.as_str()), (Some(124), "started\n"), "{stderr}");
    let pid = fs::read_to_string(left).expect("its id");
    assert!(stderr.contains(&format!("for sleep (pid {})", pid.trim())), "{stderr}");
    assert!(!PathBuf::from(format!("/proc/{}", pid.trim())).exists(), "{pid} is left");
}

/// A shell whose child ends would go on to its next step.
#[test]
fn what_is_ended_does_not_go_on() {
    let _shared = shared();
    let (lock, next) = (fresh("run-lock"), fresh("run-next"));
    let script = format!("flock {} -c 'sleep 100'; touch {}", lock.display(), next.display());
    for _ in 0..3 {
        let outer = format!("sh -c '{}'; touch {}", script.replace('\'', "\""), next.display());
        let (status, _, stderr) = output(run(&["--stuck-after", &patience(), "--kill", "sh", "-c", &outer]));
        assert_eq!(status, Some(124), "{stderr}");
        assert!(!next.exists(), "it went on: {stderr}");
    }
}

/// Before the command runs: when it hangs is too late to say that there will be no report. Nor is one left that says nothing.
#[test]
fn a_report_can_be_written_or_nothing_runs() {
    let ran = fresh("run-ran");
    let script = format!("touch {}", ran.display());
    let (status, _, stderr) = output(run(&["--report", "/nonexistent/report", "sh", "-c", &script]));
    assert_eq!((status, ran.exists()), (Some(1), false), "{stderr}");
    assert!(stderr.contains("cannot write /nonexistent/report: No such file"), "{stderr}");
    let report = fresh("run-empty");
    let (status, ..) = output(run(&["--report", report.to_str().expect("UTF-8"), "sh", "-c", &script]));
    assert_eq!((status, ran.exists(), report.exists()), (Some(0), true, false));
    let (status, _, stderr) = output(run(&["--bogus", "true"]));
    assert_eq!(status, Some(2), "an option of ours is mistyped: {stderr}");
}

/// A build goes on in the meantime: the part that hangs is named, and nothing is ended.
#[test]
fn a_part_that_hangs_is_named_while_the_rest_goes_on() {
    let _shared = shared();
    let seconds = 8 * slowness();
    let fifo = fresh("run-part-fifo");
    let script = format!(
        "mkfifo {0}; cat {0} & end=$(($(date +%s)+{seconds})); while [ $(date +%s) -lt $end ]; do :; done; kill $!",
        fifo.display()
    );
    let (status, _, stderr) = output(run(&["--stuck-after", &patience(), "--kill", "sh", "-c", &script]));
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stderr.starts_with("tracer: a part of `sh -c "), "{stderr}");
    assert_eq!(stderr.matches("tracer: a part").count(), 1, "{stderr}");
    assert!(stderr.contains("to open fifo") && !stderr.contains("has moved"), "{stderr}");
}

#[test]
fn signals_are_the_commands() {
    let ready = fresh("run-ready");
    let script = format!("trap 'exit 7' INT TERM; touch {}; while :; do sleep 0.05; done", ready.display());
    // To its own process; and to all, as a terminal does.
    for (signal, whom) in [(libc::SIGTERM, 1), (libc::SIGINT, 1), (libc::SIGINT, -1)] {
        let _ = fs::remove_file(&ready);
        let mut command = run(&["sh", "-c", &script]);
        command.process_group(0);
        // Whoever runs the tests in the background ignores it, and what is ignored stays so.
        // SAFETY: one system call, with values that it takes.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGINT, libc::SIG_DFL);
                Ok(())
            });
        }
        let mut running = start(command);
        let begin = Instant::now();
        while !ready.exists() {
            assert!(begin.elapsed() < Duration::from_secs(20), "it does not start");
            sleep(Duration::from_millis(20));
        }
        // SAFETY: numbers only; the process has not been waited for.
        unsafe { libc::kill(whom * running.pid().cast_signed(), signal) };
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = running.ended() {
                break status;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "it has not ended");
            sleep(Duration::from_millis(20));
        };
        assert_eq!(status.code(), Some(7), "{signal}");
    }
}

/// What a user may see of their own processes is enough.
#[test]
fn without_rights_it_is_seen_by_proc() {
    let _shared = shared();
    let dir = own_dir();
    let mut command = run(&["--stuck-after", &patience(), "--kill", "sh", "-c", "sleep 100 | cat; true"]);
    command.uid(65534).gid(65534).current_dir("/").env("HOME", dir);
    let (status, _, stderr) = output(command);
    assert_eq!(status, Some(124), "{stderr}");
    assert!(stderr.contains("tracer: nothing in `sh -c "), "{stderr}");
    assert!(stderr.contains("cat (pid ") && stderr.contains("for sleep (pid "), "{stderr}");
}
