//! Threads that are elsewhere for a while: which come back to their stalls, and which have given up.

use super::*;

#[test]
fn who_was_elsewhere_comes_back_to_the_same_stall() {
    let mut world = World::stalled(1);
    for _ in 0..3 {
        assert!(world.after(10, Act::Begin(Doing::Naps)).closed.is_empty());
        assert!(world.after(10, Act::Begin(Doing::Reads)).opened.is_empty());
    }
    let stall = world.tracker.stalls().values().next().expect("it is open");
    assert_eq!(stall.wait.age.as_secs(), 92);
    assert_eq!(ends(&world.after(1, Act::Answer)), [(Ended::Resumed, 93)]);
}

#[test]
fn who_does_not_come_back_has_given_up_after_a_minute() {
    let mut world = World::stalled(1);
    assert!(world.after(5, Act::Begin(Doing::Naps)).closed.is_empty());
    assert!(world.after(60, Act::Stay).closed.is_empty());
    assert_eq!(ends(&world.after(1, Act::Stay)), [(Ended::Resumed, 98)]);
    assert!(world.tracker.away.is_empty());
}

#[test]
fn who_runs_is_elsewhere() {
    let mut world = World::stalled(1);
    assert!(world.after(1, Act::Begin(Doing::Runs)).closed.is_empty());
    assert!(world.after(60, Act::Stay).closed.is_empty());
    assert_eq!(ends(&world.after(1, Act::Stay)), [(Ended::Resumed, 94)]);
}

/// A look that does not reach it says nothing of where it is.
#[test]
fn who_may_be_back_has_not_come_back() {
    let mut world = World::stalled(1);
    world.after(5, Act::Begin(Doing::Naps));
    world.now_ns += 30 * SECOND;
    world.act(0, Act::Begin(Doing::Polls), false);
    assert!(world.tick(&[true]).closed.is_empty());
    assert!(world.after(5, Act::Begin(Doing::Naps)).closed.is_empty());
    assert_eq!(world.after(26, Act::Stay).closed.len(), 1, "it has been elsewhere for 61 seconds");
}

/// Nobody waits for an answer there, and it comes back all the same.
#[test]
fn who_sends_may_be_elsewhere_too() {
    let mut world = World::new(1);
    world.threads[0].writes = true;
    world.after(2, Act::Stay);
    assert_eq!(world.after(30, Act::Stay).opened.len(), 1);
    assert!(world.after(5, Act::Begin(Doing::Naps)).closed.is_empty());
    assert!(world.after(5, Act::Begin(Doing::Reads)).closed.is_empty());
    let told = world.after(5, Act::Answer);
    assert_eq!((told.closed.len(), told.answers.len()), (1, 0));
}

/// A thread on its way out does not come back, from the connection or from elsewhere.
#[test]
fn who_leaves_the_process_has_left_the_connection() {
    let mut world = World::stalled(1);
    assert_eq!(ends(&world.after(3, Act::Begin(Doing::Leaves))), [(Ended::Exited, 35)]);
    let mut world = World::stalled(1);
    world.after(3, Act::Begin(Doing::Naps));
    assert_eq!(ends(&world.after(4, Act::Begin(Doing::Leaves))), [(Ended::Exited, 39)]);
    assert!(world.after(1, Act::Stay).closed.is_empty());
}

/// What it polls meanwhile is looked up once, not in each look for its sake.
#[test]
fn who_is_known_to_be_elsewhere_is_not_looked_for() {
    let mut world = World::stalled(1);
    world.after(5, Act::Begin(Doing::PollsAnother));
    let requests: Vec<usize> = (0..9).map(|_| world.after(1, Act::Stay).requests.len()).collect();
    assert_eq!(requests, [0; 9]);
    assert_eq!(world.tracker.stalls().len(), 1);
    assert!(world.after(1, Act::Begin(Doing::Polls)).closed.is_empty());
    assert!(world.tracker.away.is_empty(), "it is back");
}
