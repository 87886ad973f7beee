//! Does the agent stop within a second when told to, as a service has to?

use std::time::Duration;

use tests::{Agent, shared, slow};

fn stops(signal: i32) {
    let _shared = shared();
    let agent = Agent::start(&[]);
    let (status, took) = agent.stop(signal);
    assert_eq!(status.code(), Some(0), "signal {signal}: {status}");
    assert!(took < slow(Duration::from_secs(1)), "signal {signal}: {took:?}");
}

#[test]
fn on_sigterm() {
    stops(libc::SIGTERM);
}

#[test]
fn on_sigint() {
    stops(libc::SIGINT);
}
