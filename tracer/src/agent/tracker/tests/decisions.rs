//! What is flagged by rules and baselines, and what was decided once.

use super::*;

#[test]
fn what_a_rule_allows_for_ever_is_not_asked_about_again_until_rules_change() {
    let mut world = World::new(1);
    world.terms = Terms::default();
    world.after(2, Act::Stay);
    let told = world.after(30, Act::Stay);
    assert_eq!((told.due.len(), told.opened.len()), (1, 0));
    assert!((0..100).all(|_| world.after(9, Act::Stay).due.is_empty()));
    world.tracker.forget_decisions();
    world.terms = Terms { threshold: Some(THRESHOLD), note: Some("why".into()), ..Terms::default() };
    assert_eq!(world.after(1, Act::Stay).opened.len(), 1);
    let notes: Vec<_> = world.tracker.stalls().values().map(|stall| stall.note.as_deref()).collect();
    assert_eq!(notes, [Some("why")]);
}

#[test]
fn what_was_decided_of_one_class_is_not_of_another() {
    let mut world = World::new(1);
    world.terms = Terms::default();
    world.after(2, Act::Stay);
    assert_eq!(world.after(30, Act::Stay).due.len(), 1);
    world.threads[0].writes = true;
    assert_eq!(world.after(30, Act::Stay).due.len(), 1);
    assert!(world.after(30, Act::Stay).due.is_empty());
}

#[test]
fn a_baseline_excuses_until_it_does_not() {
    let mut world = World::new(1);
    let [usual, from, until] = [15, 30, 45].map(Duration::from_secs);
    let excuse = Excuse { usual, from, until };
    world.terms =
        Terms { threshold: Some(THRESHOLD), excuse: Some(excuse), usual: Some(usual), ..Terms::default() };
    world.after(2, Act::Stay);
    assert!(world.after(30, Act::Stay).opened.is_empty());
    let id = world.threads[0].id;
    let is_excused = |world: &World| world.tracker.standing(&id, Duration::from_secs(32)).is_excused;
    assert!(is_excused(&world));
    assert_eq!(world.tracker.excuses(1, world.now_ns), [(id, excuse)]);
    assert_eq!(world.tracker.excuses(2, world.now_ns), []);
    assert!(world.after(12, Act::Stay).due.is_empty());
    assert_eq!(world.after(1, Act::Stay).opened, [id]);
    assert!(!is_excused(&world), "it is flagged");
    let stall = world.tracker.stalls().values().next().expect("it is open");
    assert!(
        stall.verdict.sentence.ends_with("; an answer usually comes within 15s"),
        "{}",
        stall.verdict.sentence
    );
}
