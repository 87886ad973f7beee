//! Which role has threads that do the same, each when it is told? Two sleepers, beside the first thread.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread::Builder;

use serde_json::json;

use crate::report::{Report, print};
use crate::{Call, sys};

/// Two threads sleep again and again; the line has their ids as `first` and `second`. A command is one of these names and
/// `child SECONDS` (it starts a program that sleeps so long, and says its id), `exec` (a shell takes the place of its process, and starts
/// two sleeps) or `end`.
pub(crate) fn two_sleepers(call: &Call) {
    let (tell, told) = channel();
    let start = |name: &'static str| {
        let (order, orders) = channel();
        let tell = tell.clone();
        let body = move || {
            tell.send((name, sys::gettid())).expect("the first thread listens");
            sleeper(name, &orders);
        };
        Builder::new().name(name.into()).spawn(body).expect("a thread");
        (name, order)
    };
    let sleepers = ["first", "second"].map(start);
    let mut report = Report::new(call.role, "read");
    for (name, tid) in told.iter().take(sleepers.len()) {
        report = report.with(name, tid);
    }
    report.print();
    sys::on_commands(|command| {
        for (_, order) in sleepers.iter().filter(|(name, _)| command.starts_with(name)) {
            // It may have ended.
            let _ = order.send(command.to_owned());
        }
    })
}

fn sleeper(name: &str, orders: &Receiver<String>) {
    loop {
        let time = libc::timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        // SAFETY: `time` outlives the call; the remaining time is not asked for.
        unsafe {
            libc::syscall(libc::SYS_nanosleep, &raw const time, std::ptr::null_mut::<libc::timespec>())
        };
        let order = orders.try_recv().unwrap_or_default();
        let words: Vec<&str> = order.split_ascii_whitespace().skip_while(|word| *word == name).collect();
        match words[..] {
            ["child", seconds] => {
                let mut child = Command::new("/bin/sleep").arg(seconds).spawn().expect("a child");
                print(&json!({ "child": child.id() }));
                child.wait().expect("its end");
                print(&json!({ "ended": child.id() }));
            }
            ["exec"] => {
                let sleeps = "for _ in 1 2; do /bin/sleep 0.4; done";
                // It returns only if it fails.
                panic!("exec: {}", Command::new("/bin/sh").args(["-c", sleeps]).exec());
            }
            ["end"] => return,
            _ => (),
        }
    }
}
