//! Which sleeps are one wait, and how stalls end.

use super::*;

#[test]
fn the_kernels_word_ends_a_stall_at_once() {
    let mut world = World::stalled(1);
    world.now_ns += 8 * SECOND;
    let ended = world.act(0, Act::End, true).map(|closed| (closed.ended, closed.lasted.as_secs()));
    assert_eq!(ended, Some((Ended::Exited, 40)));
    assert!(world.tick(&[]).closed.is_empty());
    assert!(world.tracker.away.is_empty() && world.tracker.stalls().is_empty());
}

/// It has ended by the kernel's word, and can still be seen for a moment.
#[test]
fn who_exits_does_not_come_back() {
    let mut world = World::stalled(1);
    let event = EndedSleep { exiting: true, ..world.threads[0].end(world.now_ns) };
    assert!(world.tracker.ended(&event).is_some());
    let told = world.after(1, Act::Begin(Doing::Runs));
    assert!(told.closed.is_empty() && world.tracker.away.is_empty());
}

#[test]
fn another_sleep_of_the_same_ids_is_another_threads() {
    let world = World::stalled(1);
    let Thread { id, .. } = world.threads[0];
    for other in [
        ThreadId { start_ns: id.start_ns + 1, ..id },
        ThreadId { process: ProcessId { start_ns: id.process.start_ns + 1, ..id.process }, ..id },
    ] {
        let mut wait = world.threads[0].wait(world.now_ns).expect("it reads");
        let Standing { judgement, .. } = world.tracker.standing(&wait.thread, wait.age);
        assert_eq!(judgement, Class::Reply.into());
        wait.thread = other;
        assert_eq!(world.tracker.standing(&wait.thread, wait.age).judgement, Class::Other.into());
    }
}

/// What it waits on may look harmless by now: the stall is open.
#[test]
fn a_stall_is_looked_after_whatever_its_class() {
    let mut world = World::new(1);
    let opened = (1..=60).find(|_| !world.after(1, Act::Begin(Doing::Polls)).opened.is_empty());
    assert!(opened.is_some());
    world.threads[0].target = Some(Target::Timerfd);
    assert!(world.after(1, Act::Begin(Doing::Polls)).closed.is_empty());
    assert_eq!(world.after(1, Act::Answer).closed.len(), 1);
}

/// A pipe counts no bytes: that a stop interrupted the call is why it goes on.
#[test]
fn a_stop_is_no_end() {
    let mut world = World::new(1);
    world.threads[0].is_pipe = true;
    world.after(10, Act::Stay);
    world.after(1, Act::Begin(Doing::Held));
    world.after(1, Act::Begin(Doing::Reads));
    let age = |world: &mut World| {
        let mut snapshot = world.snapshot();
        world.tracker.date_back(&mut snapshot.waits[0]);
        snapshot.waits[0].age.as_secs()
    };
    assert_eq!(age(&mut world), 12);
    world.after(10, Act::Stay);
    world.after(1, Act::Begin(Doing::Runs));
    world.after(1, Act::Begin(Doing::Reads));
    assert_eq!(age(&mut world), 0, "it ran");
}

/// Its stall is about its own end, and it has got on.
#[test]
fn a_stall_about_the_end_itself_is_not_closed_by_it() {
    let mut world = World::new(1);
    world.act(0, Act::Begin(Doing::Leaves), false);
    world.after(2, Act::Stay);
    assert_eq!(world.after(600, Act::Stay).opened.len(), 1);
    assert!(world.after(1, Act::Stay).closed.is_empty());
    assert_eq!(ends(&world.after(1, Act::Begin(Doing::Leaves))), [(Ended::Resumed, 604)]);
}
