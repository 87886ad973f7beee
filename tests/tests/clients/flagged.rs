//! Does the agent flag each real client once, when it is due, and not again while it hangs?

use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use tests::{Agent, Talk, own_dir, parse_rfc3339_ns, realtime_ns, seconds_between};

use crate::crowd::{Client, all};

const THRESHOLD: f64 = 12.0;
/// How long the stalls are watched after they opened.
const WATCHED: f64 = 15.0;
/// The interval and the design's 100 ms, and what the truth itself may be off by.
const SOON: f64 = 1.0 + 0.1 + 0.5;

/// One agent for all clients. Half an answer is doubtful, not stuck: `--threshold` does not speak of it, the
/// configuration does.
#[test]
fn every_client_once() {
    let stuck: Vec<(&Client, Talk)> = all().iter().map(|client| (client, client.until_stuck())).collect();
    let config = own_dir().join("flagged.toml");
    std::fs::write(&config, "[thresholds]\nquiet = '12s'\n").expect("write");
    let mut agent = Agent::start(&["--threshold", "12s", "--config", config.to_str().expect("UTF-8")]);
    let ready_ns = realtime_ns();
    let youngest = stuck.iter().map(|(_, talk)| talk.last_ns).max().expect("there are clients");
    let due = (THRESHOLD - seconds_between(youngest, ready_ns)).max(0.0);
    sleep(Duration::from_secs_f64(due + SOON + WATCHED));

    let mut wrong = Vec::new();
    for (client, talk) in &stuck {
        assert_eq!(Some(talk), client.talk().as_ref(), "{} moved meanwhile", client.name);
        let events = agent.stories_of(client.pid());
        let class = if talk.last_word == tests::LastWord::Server { "quiet" } else { "reply" };
        if let Some(what) = once(talk, class, ready_ns, &events) {
            wrong.push(format!("{}: {what}: {events:#?}", client.name));
        }
    }
    let lost = agent.samples("tracer_lost_events_total", &[]);
    assert!(wrong.is_empty(), "{} of {} clients:\n{}\n{lost:#?}", wrong.len(), stuck.len(), wrong.join("\n"));
}

/// What is wrong with the events of a client that should have been flagged once.
fn once(talk: &Talk, class: &str, ready_ns: i128, events: &[(Value, i128)]) -> Option<String> {
    let [(event, arrived)] = events else { return Some(format!("{} events", events.len())) };
    if event["event"] != "stall_opened" || event["wait"]["class"] != class {
        return Some(format!("not the opening of a stall of class {class}"));
    }
    if event["wait"]["target"]["local"] != talk.client.to_string() {
        return Some(format!("not the connection of {}", talk.client));
    }
    let age = seconds_between(talk.last_ns, *arrived);
    if age < THRESHOLD - 0.5 {
        return Some(format!("flagged after {age:.3} s"));
    }
    // One that was due before the agent came is flagged when it has come.
    let late = age.min(seconds_between(ready_ns, *arrived) + THRESHOLD) - THRESHOLD;
    if late > SOON {
        return Some(format!("flagged {late:.3} s late"));
    }
    let since = event["wait"]["since"].as_str().map_or(0, parse_rfc3339_ns);
    let off = seconds_between(talk.last_ns, since);
    if off.abs() > 0.5 {
        return Some(format!("since is off by {off:+.3} s"));
    }
    // It is of the moment the agent looked, before it said so.
    let seconds = event["stall_seconds"].as_f64().unwrap_or(f64::NAN);
    (!(THRESHOLD..=age + 0.5).contains(&seconds))
        .then(|| format!("stall_seconds is {seconds}, the age {age:.3}"))
}
