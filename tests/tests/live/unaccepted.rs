//! Is whoever waits for a server told who that is, and what keeps it? Full queues, connections that nobody accepts, queries that nobody
//! answers, and tries again and again.

use std::time::Duration;

use tests::{Agent, Waiter, names, ps, shared, why, why_page};

/// Its row when it is a second old.
fn row(waiter: &Waiter) -> serde_json::Value {
    waiter.until_age(1.2);
    ps(&["-p", &waiter.pid().to_string()]).row(waiter.tid()).clone()
}

/// A waiter on a unix socket is of this class, and the one that has the other end is named with what waits there.
fn waits_for(role: &str, class: &str, queue: &str) {
    let _shared = shared();
    let waiter = Waiter::start(role);
    let (row, keeper) = (row(&waiter), waiter.number("keeper") as u32);
    assert_eq!((&row["class"], &row["level"]), (&class.into(), &"stuck".into()), "{row:#}");
    assert_eq!(row["target"]["path"], waiter.text("path"), "{row:#}");
    let said = row["verdict"].as_str().expect("a sentence");
    assert!(said.contains(&format!("(pid {keeper})")) && said.contains(queue), "{said}");
    assert!(names(&why(waiter.pid()), keeper), "{}", why_page(waiter.pid()));
    let server = why(keeper);
    let headline = server["headline"].as_str().expect("a sentence");
    assert!(headline.contains(queue), "{server:#}");
    assert_eq!(server["sockets"]["queued"].as_array().map(Vec::len), Some(1), "{server:#}");
}

#[test]
fn a_sender_of_datagrams_to_a_named_socket() {
    waits_for("sendto-named", "send", " datagrams wait to be read");
}

#[test]
fn a_sender_of_a_message_to_a_named_socket() {
    waits_for("sendmsg-named", "send", " datagrams wait to be read");
}

#[test]
fn a_client_before_a_full_backlog() {
    waits_for("connect-unix", "connect", "1 connection waits to be accepted (limit 0: full)");
}

#[test]
fn a_client_that_nobody_has_accepted() {
    waits_for("unaccepted", "reply", "1 connection waits to be accepted");
}

#[test]
fn a_tcp_listener_and_its_queue() {
    let _shared = shared();
    let waiter = Waiter::start("connect-backlog");
    let row = row(&waiter);
    let said = row["verdict"].as_str().expect("a sentence");
    assert!(
        said.contains(" listens, to answer ") && said.contains(" to be accepted (limit 0: full)"),
        "{said}"
    );
    let report = why(waiter.pid());
    let advice = report["next"].to_string();
    assert!(!advice.contains("that host") && report["others"][0]["role"] == "listens there", "{report:#}");
}

#[test]
fn a_query_that_nobody_answers() {
    let _shared = shared();
    let waiter = Waiter::start("query-udp");
    let row = row(&waiter);
    assert_eq!(
        (&row["class"], &row["target"]["remote"]),
        (&"reply".into(), &waiter.line()["remote"]),
        "{row:#}"
    );
}

/// Each try is over long before the threshold.
#[test]
fn queries_again_and_again_are_one_stall() {
    let _shared = shared();
    let mut agent = Agent::start(&["--threshold", "4s"]);
    let client = Waiter::start("queries-udp");
    let (event, _) = agent.wait_stall("stall_opened", client.pid(), Duration::from_secs(20));
    assert_eq!(event["wait"]["class"], "reply", "{event:#}");
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(agent.events_of(client.pid()), ["stall_opened"]);
    // One look sees one try, and the agent knows how old all of them are.
    let (socket, pid) = (agent.socket(), client.pid().to_string());
    let args = ["--source", "bpf", "-p", &pid, "--socket", socket.to_str().expect("UTF-8")];
    let age = || ps(&args).rows.first().and_then(|row| row["age_seconds"].as_f64());
    let age = std::iter::repeat_with(age).take(10).flatten().next().expect("it is seen in one of its tries");
    assert!(age > 4.0, "{age}");
}
