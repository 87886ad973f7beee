//! Does the live view go back in time? This takes two minutes, and has a name that comes first, since tests begin in that order.

use std::time::{Duration, Instant};

use tests::{Agent, Waiter, shared_for_minutes};

use crate::top::{Terminal, line_of};

/// A minute is kept a minute after the agent's start, and looked at a minute later.
const KEPT: Duration = Duration::from_secs(123);

#[test]
fn the_past_is_shown_as_it_was_kept() {
    let _shared = shared_for_minutes();
    let agent = Agent::start(&[]);
    // Its history has begun by now.
    let begin = Instant::now();
    let waiter = Waiter::start("recvfrom-tcp4");
    let pid = waiter.pid().to_string();
    let socket = agent.socket();
    let args = ["--source", "agent", "--socket", socket.to_str().expect("a path of ours"), "-p", &pid];
    let mut top = Terminal::start(80, 24, &args);
    let is_there = |text: &str| line_of(text, waiter.pid()).is_some();
    top.wait("now", |text| !text.contains("AS OF") && is_there(text));
    std::thread::sleep(KEPT.saturating_sub(begin.elapsed()));
    top.press("[");
    let past = top.wait("the past", |text| text.starts_with("AS OF ") && is_there(text));
    assert!(!past.contains("NOT RECORDED"), "{past}");
    top.press("\r");
    let page = top.wait("what was kept", |text| text.contains(&format!("waiter (pid {pid}) was stuck")));
    assert!(page.contains(waiter.text("remote")) && page.contains("reply: in recvfrom("), "{page}");
    top.press("q]");
    top.wait("now", |text| !text.contains("AS OF") && is_there(text));
    top.press("q");
    top.ends_well();
}
