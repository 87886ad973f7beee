//! Is a hang found, and told once, when its thread never sleeps for long? And is a thread that gets on left in peace?

use std::thread::sleep;
use std::time::Duration;

use tests::{Agent, Waiter, age_tolerance, seconds_between, shared, shared_for_minutes, slow};

const WAYS: [&str; 6] =
    ["short-polls", "long-polls", "poll-and-sleep", "receive-and-sleep", "timers", "slow-timers"];
const THRESHOLD: f64 = 4.0;
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn however_a_client_looks_for_its_answer_it_is_one_stall() {
    let _shared = shared();
    let mut agent = Agent::start(&["--threshold", "4s"]);
    let mut clients = WAYS.map(|way| (way, Waiter::start_with("restless", &[way])));
    for (way, client) in &clients {
        let (event, arrived) = agent.wait_stall("stall_opened", client.pid(), PATIENCE);
        let wait = &event["wait"];
        assert_eq!(
            (&wait["class"], &wait["fd"]),
            (&"reply".into(), &client.line()["fd"]),
            "{way}: {event:#}"
        );
        assert_eq!(wait["target"]["remote"], client.text("remote"), "{way}: {event:#}");
        let age = wait["age_seconds"].as_f64().expect("a number");
        let truth = seconds_between(client.begun_ns(), arrived);
        // Its turn comes at least once in a second, and then it has to be found asleep.
        assert!(
            truth <= THRESHOLD + 3.0 + slow(Duration::from_secs(1)).as_secs_f64(),
            "{way} after {truth:.1} s"
        );
        assert!(
            (truth - 1.0..=truth + age_tolerance()).contains(&age),
            "{way}: {age} s, not {truth:.1}: {event:#}"
        );
    }
    sleep(Duration::from_secs(12));
    for (way, client) in &clients {
        assert_eq!(agent.events_of(client.pid()), ["stall_opened"], "{way}");
    }
    for (way, client) in &mut clients {
        let lasted = seconds_between(client.begun_ns(), client.answer());
        let (event, _) = agent.wait_stall("stall_closed", client.pid(), PATIENCE);
        let said = event["stall_seconds"].as_f64().expect("a number");
        assert!(
            (said - lasted).abs() <= 1.5 + age_tolerance(),
            "{way}: {said} s, not {lasted:.1}: {event:#}"
        );
        assert_eq!(event["ended"], "resumed", "{way}: {event:#}");
    }
    for (way, client) in &clients {
        assert_eq!(agent.events_of(client.pid()), ["stall_opened", "stall_closed"], "{way}");
    }
}

/// A unix socket counts no bytes: polls that ran to their end one after the other, whatever their length, are one wait.
#[test]
fn polls_of_a_unix_socket_are_one_stall() {
    let _shared = shared();
    let mut agent = Agent::start(&["--threshold", "4s"]);
    let mut clients =
        ["short-polls", "long-polls"].map(|way| (way, Waiter::start_with("restless-unix", &[way])));
    for (way, client) in &clients {
        let (event, _) = agent.wait_stall("stall_opened", client.pid(), PATIENCE);
        assert_eq!(event["wait"]["class"], "reply", "{way}: {event:#}");
    }
    sleep(Duration::from_secs(6));
    for (way, client) in &mut clients {
        client.answer();
        agent.wait_stall("stall_closed", client.pid(), PATIENCE);
        assert_eq!(agent.events_of(client.pid()), ["stall_opened", "stall_closed"], "{way}");
    }
}

#[test]
fn a_client_that_is_answered_is_left_in_peace() {
    let _shared = shared();
    let mut agent = Agent::start(&["--threshold", "4s"]);
    let clients = WAYS.map(|way| (way, Waiter::start_with("busy", &[way])));
    sleep(Duration::from_secs(15));
    for (way, client) in &clients {
        assert_eq!(agent.events_of(client.pid()), [""; 0], "{way}");
    }
}

/// One that gave its connection up, though it keeps it, is not stuck for long after.
#[test]
fn who_has_given_up_has_left() {
    let _shared = shared_for_minutes();
    let mut agent = Agent::start(&["--threshold", "2s"]);
    let client = Waiter::start("gives-up");
    agent.wait_stall("stall_opened", client.pid(), PATIENCE);
    let gave_up = client.next_line()["realtime_ns"].as_u64().expect("a number");
    let (event, arrived) = agent.wait_stall("stall_closed", client.pid(), Duration::from_secs(75));
    let after = seconds_between(gave_up.into(), arrived);
    assert!((55.0..=68.0).contains(&after), "{after} s after it gave up");
    let said = event["stall_seconds"].as_f64().expect("a number");
    let truth = seconds_between(client.begun_ns(), gave_up.into());
    assert!((said - truth).abs() <= 1.5 + age_tolerance(), "{said} s, not {truth}: {event:#}");
}
