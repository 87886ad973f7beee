//! What is looked up, and when: the young, the old, what was not reached, and whose peers are not known.

use super::*;

#[test]
fn what_is_young_costs_nothing_and_what_is_old_is_looked_up_when_it_is_half_as_old_again() {
    let mut world = World::new(1);
    world.act(0, Act::Begin(Doing::Naps), false);
    let looked_at = |second: &u64| {
        world.now_ns = (1000 + second) * SECOND;
        !world.tick(&[]).requests.is_empty()
    };
    assert_eq!((0..100).filter(looked_at).collect::<Vec<u64>>(), [1, 11, 21, 32, 48, 72]);
}

/// It is looked up once, and again when it may be a stall.
#[test]
fn a_file_keeps_its_name() {
    let mut world = World::new(1);
    let looked_at = |second: &u64| {
        world.now_ns = (1000 + second) * SECOND;
        let mut snapshot = world.snapshot();
        let file = file(1, FileKind::Regular);
        for wait in &mut snapshot.waits {
            (wait.fd_state, wait.socket) = (FdState::Open(file), SocketFacts::None);
        }
        let mut looked = Resolution::default();
        for wait in world.tracker.observe(&snapshot, &world.policy) {
            let resolved = Resolver::by_record_alone(&wait);
            looked.assessments.push(Assessment { resolved, wait, class: Class::Disk });
        }
        let is_looked_at = !looked.assessments.is_empty();
        world.tracker.apply(&mut snapshot, &mut looked);
        world.tracker.due(looked.assessments, &world.policy, world.now_ns);
        is_looked_at
    };
    assert_eq!((0..31).filter(looked_at).collect::<Vec<u64>>(), [1, 30]);
}

#[test]
fn what_was_not_reached_is_counted_and_comes_first() {
    let mut world = World::new(3);
    world.now_ns += 2 * SECOND;
    world.tick(&[false, true, true]);
    assert_eq!(world.tracker.missed(), 2);
    world.now_ns += SECOND;
    let told = world.tick(&[false, false, true]);
    assert_eq!(told.requests, [world.threads[1].id, world.threads[2].id]);
    world.threads.push(Thread::new(4, world.now_ns - 20 * SECOND));
    world.now_ns += SECOND;
    let told = world.tick(&[]);
    assert_eq!(told.requests, [world.threads[2].id, world.threads[3].id], "it was missed twice");
    assert_eq!(world.tracker.missed(), 0);
}

/// A pipe may be an orphan, which only its peers tell. Until they are known it is neither flagged nor forgotten.
#[test]
fn what_lacks_its_peers_is_missed() {
    let mut world = World::new(1);
    let mut tick = |seconds: u64, finds_peers: bool| {
        world.now_ns += seconds * SECOND;
        let mut snapshot = world.snapshot();
        let mut looked = Resolution::default();
        for wait in world.tracker.observe(&snapshot, &world.policy) {
            let resolved = on(Syscall::Read, Target::Pipe { inode: 7 });
            looked.assessments.push(Assessment { wait, resolved, class: Class::Pipe });
        }
        world.tracker.apply(&mut snapshot, &mut looked);
        let needs = looked
            .assessments
            .iter()
            .filter(|a| world.tracker.peer_policy(&world.policy).needs_peers(a))
            .count();
        for assessment in looked.assessments.iter_mut().filter(|_| finds_peers) {
            let peers = Peers { own: true, alone: true, ..Peers::default() };
            (assessment.resolved.peers, assessment.class) = (Some(peers), Class::Orphan);
        }
        let due = world.tracker.due(looked.assessments, &world.policy, world.now_ns).len();
        (needs, due, world.tracker.missed())
    };
    assert_eq!(tick(2, false), (0, 0, 0), "it is too young to ask");
    assert_eq!(tick(30, false), (1, 0, 1));
    assert_eq!(tick(1, true), (1, 1, 0));
}

/// Whether anything has moved is not known: its wait is neither called older than its sleep nor thought to be over.
#[test]
fn what_was_not_reached_is_no_older_than_its_sleep() {
    let mut world = World::new(1);
    let age_after = |world: &mut World, act, missed: bool| {
        world.now_ns += 5 * SECOND;
        world.act(0, act, false);
        let mut snapshot = world.snapshot();
        let mut looked = Resolution::default();
        for wait in world.tracker.observe(&snapshot, &world.policy) {
            match missed {
                true => looked.missed.push(wait),
                false => looked.assessments.push(look(wait, &world.threads[0])),
            }
        }
        world.tracker.apply(&mut snapshot, &mut looked);
        world.tracker.due(looked.assessments, &world.policy, world.now_ns);
        snapshot.waits[0].age.as_secs()
    };
    age_after(&mut world, Act::Begin(Doing::Polls), false);
    assert_eq!(age_after(&mut world, Act::Stay, false), 5);
    assert_eq!(age_after(&mut world, Act::Begin(Doing::Polls), true), 0);
    assert_eq!(age_after(&mut world, Act::Begin(Doing::Polls), false), 15);
}

#[test]
fn departures_are_settled_in_no_more_than_their_number() {
    let many = |number: usize| {
        let mut world = World::new(number as u32);
        world.after(2, Act::Stay);
        for at in 0..number {
            world.now_ns += u64::from(at == 0) * 5 * SECOND;
            world.act(at, if at % 2 == 0 { Act::Answer } else { Act::Begin(Doing::Reads) }, false);
        }
        world
    };
    crate::util::growth::assert_linear("waits that are over", many, |mut world: World| {
        let mut snapshot = world.snapshot();
        let departures = world.tracker.apply(&mut snapshot, &mut Resolution::default());
        let told = world.tracker.settle(departures, &Evidence::default());
        assert_eq!(told.len(), world.threads.len() / 2);
    });
}
