//! Which answers are samples for baselines.

use super::*;

#[test]
fn short_polls_of_one_silent_connection_are_one_stall() {
    let mut world = World::new(1);
    let opened = (1..=60).find(|_| !world.after(1, Act::Begin(Doing::Polls)).opened.is_empty());
    assert!(opened.is_some_and(|second| (30..=32).contains(&second)), "{opened:?}");
    let told: Vec<Told> = (0..30).map(|_| world.after(1, Act::Begin(Doing::Polls))).collect();
    assert!(told.iter().all(|told| told.opened.is_empty() && told.closed.is_empty()));
    assert_eq!(ends(&world.after(1, Act::Answer)).len(), 1);
}

/// It is answered while it sleeps elsewhere, and comes back with a call of which has to be looked up what it is about.
#[test]
fn one_hang_is_one_sample() {
    let mut world = World::stalled(1);
    assert!(world.after(5, Act::Begin(Doing::Naps)).closed.is_empty());
    world.threads[0].received += 1;
    let told = world.after(5, Act::Begin(Doing::Polls));
    let lasted: Vec<u64> = told.answers.iter().map(|answer| answer.lasted.as_secs()).collect();
    assert_eq!((ends(&told), lasted), (vec![(Ended::Resumed, 42)], vec![42]));
    let later: Vec<Told> = (0..9).map(|_| world.after(1, Act::Begin(Doing::Polls))).collect();
    assert!(later.iter().all(|told| told.closed.is_empty() && told.answers.is_empty()), "{later:?}");
}

/// As threads that wait on one epoll set: all of them wake.
#[test]
fn one_answer_that_many_waited_for_is_one_sample() {
    let mut world = World::new(3);
    for at in [0, 1] {
        world.threads[at].id.process = ProcessId { pid: 1, start_ns: 1 };
        world.threads[at].inode = 1;
    }
    world.threads[1].begin(Doing::Naps, world.now_ns);
    world.after(4, Act::Stay);
    world.act(1, Act::Begin(Doing::Reads), false);
    world.after(6, Act::Stay);
    world.now_ns += 10 * SECOND;
    for at in 0..3 {
        world.act(at, Act::Answer, false);
    }
    let mut answers = world.tick(&[]).answers;
    answers.sort_by_key(|answer| answer.process);
    let told: Vec<(u32, u64)> =
        answers.iter().map(|answer| (answer.process.pid, answer.lasted.as_secs())).collect();
    assert_eq!(told, [(1, 20), (3, 20)], "the longest of each connection");
}

#[test]
fn a_quick_answer_is_no_sample() {
    let mut world = World::new(1);
    world.after(2, Act::Stay);
    world.after(1, Act::Answer);
    world.now_ns += SECOND / 2;
    let quick = world.after(0, Act::Answer);
    assert!(quick.answers.is_empty(), "{quick:?}");
}

/// It got an answer on another connection before it came back to the one that its stall is about.
#[test]
fn an_answer_from_elsewhere_is_a_sample_too() {
    let mut world = World::stalled(1);
    world.after(5, Act::Begin(Doing::PollsAnother));
    world.after(9, Act::Stay);
    world.threads[0].other_received += 1;
    let told = world.after(1, Act::Begin(Doing::Reads));
    let lasted: Vec<u64> = told.answers.iter().map(|answer| answer.lasted.as_secs()).collect();
    assert_eq!((ends(&told), lasted), (vec![], vec![10]));
    assert_eq!(world.tracker.stalls().len(), 1);
}
