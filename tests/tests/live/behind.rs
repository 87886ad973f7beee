//! Does tracer name whom the kernel waits for? The server of a mount whatever the call is, who holds a lock inside the kernel, who has the
//! other end of what a call with two descriptors sleeps on, and the request that a ring waits for.

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{HungMount, Planted, Snapshot, Waiter, alone, ps, shared, slow, why};

/// Processes that hang on a mount of their own whose server has been stopped, once they have hung for a while.
fn hang(roles: &[(&str, usize)]) -> Option<(HungMount, Vec<Planted>)> {
    let mount = HungMount::start()?;
    for (role, file) in roles {
        mount.prepare(role, &mount.file(*file));
    }
    mount.stop();
    let planted = mount.begin();
    std::thread::sleep(Duration::from_millis(1500));
    Some((mount, planted))
}

fn verdict(row: &Value) -> &str {
    row["verdict"].as_str().unwrap_or_default()
}

/// Whatever the call is. Of two that write to one file, one waits for the server and holds the file's lock, and the other waits for that
/// one. What is being closed lay on some mount that hangs: of two it is not known on which, so there is no other.
#[test]
fn the_server_of_a_mount_is_named_and_who_holds_a_lock_there() {
    let _alone = alone();
    let roles =
        [("open", 0), ("stat", 1), ("close", 2), ("rename", 3), ("chdir", 5), ("pwrite", 4), ("pwrite", 4)];
    let Some((mount, planted)) = hang(&roles) else { return };
    let (place, server) = (mount.path().to_str().expect("a path of ours"), mount.server());
    let all = ps(&["--all"]);
    let (writers, others) =
        planted.split_last_chunk::<2>().map(|(others, last)| (last, others)).expect("two");
    let waits_for_server = |row: &Value| {
        assert_eq!((&row["class"], &row["level"]), (&"disk".into(), &"stuck".into()), "{row:#}");
        assert!(format!("{}{}", row["target"], row["verdict"]).contains(place), "{row:#}");
        assert!(verdict(row).contains(&format!("(pid {server}), which is stopped")), "{row:#}");
    };
    // Names in one directory may be looked up one after the other: each waits for the server, or for one that does.
    let is_behind = |row: &Value| verdict(row).contains("for a lock inside the kernel that");
    for one in others.iter().filter(|one| !is_behind(all.row(one.tid))) {
        waits_for_server(all.row(one.tid));
    }
    let close = others.iter().find(|one| one.role == "close").expect("it is one");
    let report = why(close.pid);
    assert_eq!(report["others"][0]["pid"], server, "{report:#}");
    assert!(
        report["others"][0]["role"].as_str().is_some_and(|role| role.ends_with("serves the file system"))
    );
    assert_eq!(report["next"][0]["command"], format!("kill -CONT {server}"), "{report:#}");
    // Whoever is let go needs nothing else.
    assert_eq!(report["next"].as_array().map(Vec::len), Some(1), "{report:#}");

    let rows = writers.each_ref().map(|one| all.row(one.tid));
    let locked = rows.iter().find(|row| is_behind(row));
    let locked = locked.unwrap_or_else(|| panic!("nobody waits for the other: {rows:#?}"));
    let holder = rows.iter().find(|row| row["tid"] != locked["tid"]).expect("the other");
    waits_for_server(holder);
    assert!(verdict(locked).contains(&format!("(pid {}) holds", holder["pid"])), "{locked:#}");
    let report = why(u32::try_from(locked["pid"].as_u64().expect("a pid")).expect("a pid"));
    assert_eq!(report["others"][0]["pid"], holder["pid"], "{report:#}");
}

/// The row of a waiter once it is old enough; none, which is said, where the kernel cannot do its role.
fn row(waiter: &Waiter) -> Option<Value> {
    if let Some(why) = waiter.unsupported() {
        tests::unsupported(why);
        return None;
    }
    waiter.until_age(1.5);
    let snapshot: Snapshot = ps(&["--all", "-p", &waiter.pid().to_string()]);
    Some(snapshot.row(waiter.tid()).clone())
}

#[test]
fn a_call_with_two_descriptors_waits_on_the_one_it_sleeps_on() {
    let _shared = shared();
    for (role, class, says) in [
        ("splice-full", "pipe", " to read on the full pipe"),
        ("splice-empty", "pipe", " to write on pipe"),
        ("tee-full", "pipe", " to read on the full pipe"),
        ("sendfile-full", "send", "it does not read, and its buffer is full"),
    ] {
        let waiter = Waiter::start(role);
        let Some(row) = row(&waiter) else { continue };
        assert_eq!((&row["class"], &row["fd"]), (&class.into(), &waiter.line()["fd"]), "{row:#}");
        assert_eq!(row["target"]["inode"], waiter.line()["inode"], "{row:#}");
        assert!(verdict(&row).contains(says), "{row:#}");
    }
}

#[test]
fn who_waits_for_one_completion_waits_for_what_was_asked() {
    let _shared = shared();
    let waiter = Waiter::start_any("ring-recv", &[]);
    if let Some(row) = row(&waiter) {
        // Old kernels keep the file only.
        let fd = row["fd"].is_null() || row["fd"] == waiter.line()["fd"];
        assert!(row["class"] == "reply" && fd, "{row:#}");
        assert_eq!(row["target"]["remote"], waiter.line()["remote"], "{row:#}");
    }
    // Either of two others may write.
    let waiter = Waiter::start_any("ring-pipes", &[]);
    if let Some(row) = row(&waiter) {
        assert_eq!((&row["class"], &row["level"]), (&"ring".into(), &"idle".into()), "{row:#}");
    }
}

#[test]
fn a_queue_is_named_and_a_moment_ends_the_wait() {
    let _shared = shared();
    let waiter = Waiter::start_any("msgsnd", &[]);
    if let Some(row) = row(&waiter) {
        assert_eq!((&row["class"], &row["level"]), (&"send".into(), &"stuck".into()), "{row:#}");
        let target = serde_json::json!({ "kind": "message_queue", "id": waiter.line()["id"] });
        assert_eq!((&row["target"], &row["fd"]), (&target, &Value::Null), "{row:#}");
    }
    let waiter = Waiter::start_any("mq-timedsend", &[]);
    if let Some(row) = row(&waiter) {
        assert!(row["target"]["path"].as_str().is_some_and(|path| path.ends_with("tracer-tests")), "{row:#}");
        assert!(verdict(&row).contains(&format!("(pid {})", waiter.number("holder"))), "{row:#}");
        assert!(verdict(&row).contains("; it stops waiting in 16m "), "{row:#}");
    }
}

#[test]
fn a_terminal_that_takes_nothing_says_why() {
    let _shared = shared();
    let waiter = Waiter::start("write-tty");
    let row_of = |waiter: &Waiter| row(waiter).expect("it is supported");
    let row = row_of(&waiter);
    assert_eq!((&row["class"], &row["level"]), (&"send".into(), &"stuck".into()), "{row:#}");
    let holder = format!("(pid {}) has its other end and does not read it", waiter.number("holder"));
    assert!(verdict(&row).contains(&holder), "{row:#}");
    let waiter = Waiter::start("write-tty-stopped");
    let row = row_of(&waiter);
    assert!(verdict(&row).contains("output there is stopped, as by Ctrl-S"), "{row:#}");
    let report = why(waiter.pid());
    assert_eq!(report["next"][0]["command"], "Ctrl-Q", "{report:#}");
}

/// To wake one is of no use: it stops again at once.
#[test]
fn a_job_in_the_background_is_told_from_one_that_was_stopped() {
    let _shared = shared();
    for (role, signal) in [("background-read", "SIGTTIN"), ("background-write", "SIGTTOU")] {
        let waiter = Waiter::start(role);
        let job = waiter.number("pid").try_into().expect("a pid");
        let begin = Instant::now();
        let mut report = why(job);
        while report["condition"] != "stopped" {
            assert!(begin.elapsed() < slow(Duration::from_secs(10)), "it does not stop: {report:#}");
            report = why(job);
        }
        let headline = report["headline"].as_str().unwrap_or_default();
        assert!(headline.contains(&format!("is stopped by {signal}: it is a background job")), "{report:#}");
        assert_eq!(report["next"][0]["command"], "fg", "{report:#}");
        assert!(!report["next"].to_string().contains("kill"), "{report:#}");
    }
}
