//! Does an agent that is killed leave nothing in the kernel, and start again at once?

use std::time::{Duration, Instant};

use tests::{Agent, alone, program_exists, slow};

#[test]
fn kill_leaves_no_program_and_it_starts_again() {
    // Programs are loaded by a processor that others may want.
    let _alone = alone();
    let agent = Agent::start(&[]);
    let ids = agent.program_ids();
    assert!(ids.len() >= 2, "the agent holds programs {ids:?}: where are snapshot and waits?");
    assert!(ids.iter().all(|id| program_exists(*id)), "{ids:?}");
    agent.stop(libc::SIGKILL);
    // The kernel frees programs from a work queue: soon, not at once.
    let begin = Instant::now();
    while let Some(left) = ids.iter().find(|id| program_exists(**id)) {
        assert!(begin.elapsed() < slow(Duration::from_secs(5)), "program {left} of {ids:?} is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
    let begin = Instant::now();
    let again = Agent::start(&[]);
    let took = begin.elapsed();
    assert!(again.program_ids().len() >= 2);
    assert!(took < slow(Duration::from_secs(2)), "it took {took:?} to start again");
}
