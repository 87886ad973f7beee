//! Cron jobs queue on a lock file, as flock(1) makes them. Does `ps` say which file, and which process holds it?

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tests::{Running, Waiter, own_dir, ps, start, why, why_page};

use crate::blocked::{check_age, fds_of, until_in};
use tests::servers::clean;

/// A lock file of this name.
fn lock(name: &str) -> PathBuf {
    own_dir().join(name)
}

/// A second job, blocked in flock(2); and the moments between which that began.
fn second_job(file: &Path) -> (Running, (i128, i128)) {
    let mut job = clean("flock");
    job.arg(file).arg("true").stdin(Stdio::null());
    let mut job = start(job);
    let begun = until_in(&mut job, libc::SYS_flock);
    sleep(Duration::from_secs(2));
    (job, begun)
}

/// Looks at the second job; its verdict.
fn check(file: &Path, job: &Running, begun: (i128, i128)) -> String {
    let snapshot = ps(&["-p", &job.pid().to_string()]);
    let row = snapshot.row(job.pid());
    assert_eq!((&row["syscall"], &row["class"]), (&"flock".into(), &"lock".into()), "{row:#}");
    assert_eq!(row["level"], "stuck", "{row:#}");
    let path = file.to_str().expect("text");
    assert_eq!((&row["target"]["kind"], &row["target"]["path"]), (&"file".into(), &path.into()), "{row:#}");
    let fds = fds_of(job.pid(), path);
    assert_eq!(serde_json::json!(fds), serde_json::json!([row["fd"]]), "{row:#}");
    check_age(row, begun.0, begun.1, &snapshot);
    row["verdict"].as_str().unwrap_or_else(|| panic!("no verdict: {row:#}")).to_owned()
}

/// `why` names the holder, too, and what it does.
fn check_why(job: &Running, holder: u32) {
    let report = why(job.pid());
    let first = &report["others"][0];
    assert_eq!((&first["pid"], &first["role"]), (&holder.into(), &"holds the lock".into()), "{report:#}");
    why_page(job.pid());
}

/// Waits until somebody has locked the file, by `/proc/locks`; whom that names.
fn until_held(file: &Path) -> u32 {
    use std::os::unix::fs::MetadataExt;
    let begin = Instant::now();
    loop {
        let inode = std::fs::metadata(file).map(|file| format!(":{} ", file.ino())).unwrap_or("none".into());
        let locks = std::fs::read_to_string("/proc/locks").expect("/proc");
        let held = locks.lines().find(|line| line.contains("FLOCK") && line.contains(&inode));
        if let Some(pid) = held.and_then(|line| line.split_whitespace().nth(4)?.parse().ok()) {
            return pid;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "nobody locks {}:\n{locks}", file.display());
        sleep(Duration::from_millis(10));
    }
}

/// `flock FILE JOB`: flock itself holds the lock while it waits for the job.
#[test]
fn the_job_that_holds_it_is_named() {
    let file = lock("cron.lock");
    let mut first = clean("flock");
    // It ends when the test drops its standard input, so that no child of flock's is left over.
    first.arg(&file).arg("cat").stdin(Stdio::piped()).stdout(Stdio::null());
    let first = start(first);
    assert_eq!(until_held(&file), first.pid());
    let (second, begun) = second_job(&file);
    let verdict = check(&file, &second, begun);
    assert!(verdict.contains(&format!("flock (pid {})", first.pid())), "the holder is not named: {verdict}");
    check_why(&second, first.pid());
}

/// A script that locks its own descriptor: the flock(1) which did it has ended, so that `/proc/locks` names a process
/// that is gone; the script still has the descriptor, and with it the lock.
#[test]
fn a_script_that_holds_it_is_named() {
    let file = lock("script.lock");
    let mut first = clean("sh");
    first.args(["-c", r#"exec 9>"$0"; flock 9; exec sleep 1000"#]).arg(&file).stdin(Stdio::null());
    let first = start(first);
    let locker = until_held(&file);
    let begin = Instant::now();
    while Path::new(&format!("/proc/{locker}")).exists() {
        assert!(begin.elapsed() < Duration::from_secs(10), "process {locker} stays");
        sleep(Duration::from_millis(10));
    }
    let (second, begun) = second_job(&file);
    let verdict = check(&file, &second, begun);
    assert!(verdict.contains(&format!("(pid {})", first.pid())), "the holder is not named: {verdict}");
    check_why(&second, first.pid());
}

/// The job that has the lock is a shell, and waits for its child, which waits for a service: that one holds both jobs up.
#[test]
fn the_service_that_the_holders_child_waits_for_is_to_blame() {
    let service = Waiter::start("mute-service");
    let file = lock("service.lock");
    let mut first = clean("flock");
    // All of them end with the service.
    first.arg(&file).args(["sh", "-c", r#"curl -s "http://$0"; true"#, service.text("address")]);
    first.stdin(Stdio::null()).stdout(Stdio::null());
    let first = start(first);
    until_held(&file);
    sleep(Duration::from_secs(1));
    let (second, _) = second_job(&file);
    let row = ps(&["-p", &second.pid().to_string()]).rows.remove(0);
    let culprit = &row["culprit"];
    assert_eq!(
        (&culprit["pid"], &culprit["through"]["pid"]),
        (&service.pid().into(), &first.pid().into()),
        "{row:#}"
    );
    let child = culprit["behind"]["pid"].as_u64().expect("a pid");
    let report = why(second.pid());
    let headline = report["headline"].as_str().unwrap_or_default();
    assert!(
        headline.contains(&format!("At the end of the chain is waiter (pid {})", service.pid())),
        "{report:#}"
    );
    let report = why(service.pid());
    let mut held_up = [child, second.pid().into()];
    held_up.sort_unstable();
    assert_eq!(report["holds_up"]["pids"], serde_json::json!(held_up), "{report:#}");
    let headline = report["headline"].as_str().unwrap_or_default();
    assert!(headline.contains("It holds up 2 processes, the oldest for "), "{report:#}");
    why_page(service.pid());
}
