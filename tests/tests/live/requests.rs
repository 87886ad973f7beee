//! Does `ps --all` show the requests of event loops that have no answer, and none that a thread waits for?

use std::process::Command;

use tests::{Waiter, tracer};

/// Lines of the requests that `ps --all` shows of a process, as words: age, pid, command, fd, number, connection.
fn requests(pid: u32) -> Vec<Vec<String>> {
    let output = Command::new(tracer())
        .args(["ps", "--all", "--min-age", "0s", "-p", &pid.to_string()])
        .output()
        .expect("tracer starts");
    let page = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{page}{}", String::from_utf8_lossy(&output.stderr));
    let Some((_, block)) = page.split_once("\nRequests without an answer") else { return Vec::new() };
    let lines = block.lines().skip(2).take_while(|line| !line.is_empty());
    lines.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

#[test]
fn of_an_event_loop_are_shown_each_with_its_connection() {
    let waiter = Waiter::start("event-loop");
    waiter.until_age(1.5);
    let requests = requests(waiter.pid());
    assert_eq!(requests.len(), 2, "{requests:?}");
    for request in &requests {
        let [age, pid, comm, _, number, kind, local, arrow, remote] = &request[..] else {
            panic!("{request:?}")
        };
        let seconds: f64 = age.strip_suffix('s').and_then(|age| age.parse().ok()).expect("seconds");
        assert!((1.0..60.0).contains(&seconds), "{request:?}");
        assert_eq!((pid, comm.as_str(), number.as_str()), (&waiter.pid().to_string(), "waiter", "1"));
        assert_eq!((kind.as_str(), arrow.as_str()), ("tcp", "→"), "{request:?}");
        assert!(local.starts_with("127.0.0.1:") && remote.starts_with("127.0.0.1:"), "{request:?}");
    }
}

/// Its wait is shown already.
#[test]
fn that_a_thread_waits_for_are_not_shown_twice() {
    for role in ["recvfrom-tcp4", "poll-tcp4"] {
        let waiter = Waiter::start(role);
        waiter.until_age(1.5);
        assert!(requests(waiter.pid()).is_empty(), "{role}: {:?}", requests(waiter.pid()));
    }
}
