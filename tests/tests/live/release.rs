//! Does `release` free a wait, only what it says, and only when told to?

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tests::{HungMount, NOBODY, Running, Waiter, own_dir, pause, shared, slow, start, tracer};

/// How long what was released may take to show it.
const PATIENCE: Duration = Duration::from_secs(10);

/// What one run came to.
struct Released {
    code: Option<i32>,
    text: String,
    error: String,
}

fn release(id: u32, args: &[&str]) -> Released {
    let mut command = Command::new(tracer());
    command.arg("release").arg(id.to_string()).args(args);
    finish(&mut command)
}

fn finish(command: &mut Command) -> Released {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().expect("tracer starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Released { code: status.code(), text: text(stdout), error: text(stderr) }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < slow(PATIENCE), "not {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn until_state(process: &Running, state: char) {
    let path = format!("/proc/{}/stat", process.pid());
    let is_it = |stat: String| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(state));
    until(&format!("in state {state}"), || fs::read_to_string(&path).is_ok_and(is_it));
}

/// One that waits on a socket of its own, and ends by what the call then says.
fn on_a_socket(role: &str) -> Waiter {
    let waiter = Waiter::start(role);
    waiter.until_age(1.2);
    waiter
}

#[test]
fn a_dry_run_changes_nothing_and_the_real_one_frees_the_wait() {
    let _shared = shared();
    for (role, what) in [
        ("recvfrom-tcp4", "TCP connection 127.0.0.1:"),
        ("recvfrom-tcp6", "TCP connection [::1]:"),
        ("poll-tcp4", "TCP connection 127.0.0.1:"),
        ("sendto-full", "TCP connection 127.0.0.1:"),
        ("recvmsg-unix", "Unix socket (fd "),
    ] {
        let waiter = on_a_socket(role);
        let syscall = || fs::read_to_string(format!("/proc/{}/syscall", waiter.pid())).unwrap_or_default();
        let before = syscall();
        for args in [&[] as &[&str], &["--dry-run"]] {
            let dry = release(waiter.pid(), args);
            assert_eq!((dry.code, &*dry.error), (Some(0), ""), "{role}: {}", dry.text);
            assert!(dry.text.contains("\nWould ") && dry.text.contains(what), "{role}: {}", dry.text);
            assert!(dry.text.contains("\nNothing has been changed."), "{role}: {}", dry.text);
        }
        assert_eq!(syscall(), before, "{role}: it still waits");
        assert!(!waiter.has_said_more(), "{role}: it still waits");
        let real = release(waiter.pid(), &["--apply"]);
        assert_eq!((real.code, &*real.error), (Some(0), ""), "{role}: {}", real.text);
        assert!(real.text.contains(what) && !real.text.contains("Would"), "{role}: {}", real.text);
        assert_ne!(syscall(), before, "{role}: {}", real.text);
    }
}

/// Of several, the one on the descriptor that was given: nobody else's connection is touched.
#[test]
fn only_the_descriptor_that_was_given_is_released() {
    let _shared = shared();
    let (one, other) = (on_a_socket("recvfrom-tcp4"), on_a_socket("recvfrom-tcp4"));
    let fd = one.line()["fd"].to_string();
    let wrong = release(one.pid(), &["--fd", "987", "--apply"]);
    assert_eq!(wrong.code, Some(1), "{}", wrong.text);
    assert!(wrong.error.contains("none of its waits is on fd 987"), "{}", wrong.error);
    let right = release(one.pid(), &["--fd", &fd, "--apply"]);
    assert_eq!(right.code, Some(0), "{}{}", right.text, right.error);
    assert!(!other.has_said_more());
    assert!(release(other.pid(), &[]).text.contains("waiting"), "it waits as before");
}

#[test]
fn a_file_system_whose_server_is_stopped_is_given_up() {
    let _shared = shared();
    let Some(mount) = HungMount::start() else { return };
    mount.prepare("stat", &mount.file(1));
    mount.prepare("chdir", &mount.file(2));
    mount.stop();
    let planted = mount.begin();
    pause(Duration::from_millis(1200));
    let dry = release(planted[0].pid, &[]);
    let path = mount.path().display().to_string();
    assert!(dry.text.contains("Would abort FUSE connection ") && dry.text.contains(&path), "{}", dry.text);
    assert_eq!(mount.woken(), [""; 0], "a dry run changes nothing");
    let real = release(planted[0].pid, &["--apply"]);
    assert_eq!(real.code, Some(0), "{}{}", real.text, real.error);
    assert!(real.text.contains("Aborted FUSE connection "), "{}", real.text);
    let mut free = 0;
    until("free, all of them", || {
        free += mount.woken().len();
        free == planted.len()
    });
}

/// An idle child of ours.
fn sleeper() -> Running {
    let mut command = Command::new("sleep");
    command.arg("1000").current_dir(own_dir());
    start(command)
}

#[test]
fn a_stopped_process_goes_on() {
    let _shared = shared();
    let sleeper = sleeper();
    sleeper.signal(libc::SIGSTOP);
    until_state(&sleeper, 'T');
    let dry = release(sleeper.pid(), &[]);
    assert!(dry.text.contains("Would send SIGCONT"), "{}{}", dry.text, dry.error);
    until_state(&sleeper, 'T');
    assert_eq!(release(sleeper.pid(), &["--apply"]).code, Some(0));
    until_state(&sleeper, 'S');
}

#[test]
fn a_signal_is_sent_to_whoever_says_yes() {
    let _shared = shared();
    let mut sleeper = sleeper();
    let idle = release(sleeper.pid(), &["--apply"]);
    assert_eq!(idle.code, Some(1), "{}", idle.text);
    assert!(idle.error.contains("none of its waits is stuck"), "{}", idle.error);
    assert_eq!(release(sleeper.pid(), &["--signal", "TERM"]).code, Some(0), "only said");
    let unsure = release(sleeper.pid(), &["--signal", "TERM", "--apply"]);
    assert_eq!(unsure.code, Some(1), "{}", unsure.text);
    assert!(unsure.error.contains("`--yes` answers it"), "{}", unsure.error);
    assert!(sleeper.ended().is_none(), "nothing was sent so far");
    let sure = release(sleeper.pid(), &["--signal", "sigterm", "--apply", "--yes"]);
    assert_eq!(sure.code, Some(0), "{}{}", sure.text, sure.error);
    assert!(sure.text.contains("Sent SIGTERM"), "{}", sure.text);
    assert!(sleeper.wait(Duration::from_secs(5)).is_some());
}

#[test]
fn who_is_not_root_is_refused() {
    let _shared = shared();
    let waiter = on_a_socket("recvfrom-tcp4");
    let id = waiter.pid().to_string();
    for args in [&["release", &id] as &[&str], &["release", &id, "--apply"]] {
        let mut command = Command::new(tracer());
        command.args(args).uid(NOBODY).gid(NOBODY);
        let refused = finish(&mut command);
        assert_eq!((refused.code, &*refused.text), (Some(1), ""), "{args:?}");
        assert!(refused.error.contains("only root may release"), "{}", refused.error);
    }
    assert!(!waiter.has_said_more());
}
