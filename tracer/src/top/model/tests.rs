//! What keys and frames do to what is shown.

use super::{super::samples, *};
use crate::model::class::Class;

fn model() -> Model {
    let mut model = Model::new(Duration::from_secs(1), false);
    model.fit(10, 80);
    model.take(samples::frame(vec![
        samples::wait(1, "sleeper", Class::Timer, 900),
        samples::wait(2, "php", Class::Reply, 20),
        samples::wait(3, "php", Class::Reply, 60),
        samples::wait(4, "cat", Class::Quiet, 600),
    ]));
    model
}

fn pids(model: &Model) -> Vec<u32> {
    model.lines.iter().map(|line| line.wait.pid).collect()
}

#[test]
fn the_worst_is_first_and_idle_waits_are_hidden_until_asked_for() {
    let mut model = model();
    assert_eq!(pids(&model), [3, 2, 4]);
    assert_eq!(model.act(Action::Idle), Some(Effect::Tell(ViewRequest::Idle(true))));
    assert_eq!(pids(&model), [3, 2, 4, 1]);
    assert_eq!(model.oldest_stuck(), Some(Duration::from_secs(60)));
}

#[test]
fn what_only_a_rule_would_flag_is_shown_to_who_asks() {
    let mut model = model();
    model.take(samples::frame(vec![
        samples::wait(2, "php", Class::Reply, 20),
        samples::wait(5, "tee", Class::Pipe, 600),
        samples::wait(6, "tee", Class::Timer, 600),
    ]));
    assert_eq!(pids(&model), [2]);
    "tee".chars().for_each(|letter| model.type_letter(Some(letter)));
    assert_eq!(pids(&model), [5]);
    model.act(Action::Back);
    assert_eq!(pids(&model), [2]);
    model.act(Action::Idle);
    assert_eq!(pids(&model), [2, 5, 6]);
    model.act(Action::Idle);
    model.chosen = true;
    model.take(samples::frame(vec![samples::wait(5, "tee", Class::Pipe, 600)]));
    assert_eq!(pids(&model), [5]);
}

#[test]
fn order_and_its_reverse() {
    let mut model = model();
    model.act(Action::Sort);
    assert_eq!((model.order, pids(&model)), (Order::Age, vec![4, 3, 2]));
    model.act(Action::Reverse);
    assert_eq!(pids(&model), [2, 3, 4]);
    for _ in 0..6 {
        model.act(Action::Sort);
    }
    assert_eq!(model.order, Order::Worst);
}

#[test]
fn a_filter_works_while_it_is_typed() {
    let mut model = model();
    model.act(Action::Filter);
    assert!(model.typing);
    "cat".chars().for_each(|letter| model.type_letter(Some(letter)));
    assert_eq!(pids(&model), [4]);
    model.type_letter(Some('x'));
    assert!(model.lines.is_empty() && model.selected().is_none());
    model.type_letter(None);
    assert_eq!(pids(&model), [4]);
    model.act(Action::Back);
    assert_eq!(pids(&model).len(), 3);
}

#[test]
fn a_selected_line_is_followed_and_the_first_is_not() {
    let mut model = model();
    model.act(Action::Down);
    assert_eq!(model.selected().map(|line| line.wait.tid), Some(2));
    model.take(samples::frame(vec![
        samples::wait(2, "php", Class::Reply, 20),
        samples::wait(9, "new", Class::Lock, 99),
        samples::wait(3, "php", Class::Reply, 60),
    ]));
    assert_eq!(model.selected().map(|line| line.wait.tid), Some(2));
    model.act(Action::First);
    model.take(samples::frame(vec![
        samples::wait(2, "php", Class::Reply, 20),
        samples::wait(7, "a", Class::Lock, 99),
    ]));
    assert_eq!(model.selected().map(|line| line.wait.tid), Some(7));
}

#[test]
fn scrolling_stays_inside() {
    let mut model = Model::new(Duration::from_secs(1), false);
    model.fit(10, 80);
    model.take(samples::frame(
        (1..=100).map(|pid| samples::wait(pid, "php", Class::Reply, 1000 - u64::from(pid))).collect(),
    ));
    model.act(Action::Last);
    assert_eq!((model.selected, model.top), (99, 90));
    model.act(Action::PageUp);
    assert_eq!((model.selected, model.top), (89, 89));
    model.act(Action::First);
    assert_eq!((model.selected, model.top), (0, 0));
    model.fit(200, 80);
    model.act(Action::Last);
    assert_eq!((model.selected, model.top), (99, 0));
    model.take(samples::frame(Vec::new()));
    assert_eq!((model.selected, model.top), (0, 0));
    model.act(Action::Down);
    assert_eq!(model.act(Action::Open), None);
}

#[test]
fn a_pause_stands_still_and_the_pace_has_ends() {
    let mut model = model();
    assert_eq!(model.act(Action::Pause), Some(Effect::Tell(ViewRequest::Pause(true))));
    model.take(samples::frame(Vec::new()));
    assert_eq!(pids(&model).len(), 3);
    assert_eq!(model.act(Action::Slower), Some(Effect::Tell(ViewRequest::Every(Duration::from_secs(2)))));
    for _ in 0..10 {
        model.act(Action::Slower);
    }
    assert_eq!((model.interval, model.act(Action::Slower)), (Duration::from_secs(10), None));
}

#[test]
fn groups_count_and_show_their_worst() {
    let mut model = model();
    model.act(Action::Units);
    assert_eq!(model.lines.len(), 1);
    assert_eq!((model.lines[0].number, pids(&model)[0]), (3, 3));
    model.act(Action::Units);
    assert_eq!(model.lines.len(), 3);
}

fn inspect(width: usize) -> Option<Effect> {
    Some(Effect::Tell(ViewRequest::Inspect {
        thread: ThreadRef { pid: 3, tid: 3, start_ticks: Some(0) },
        width,
    }))
}

#[test]
fn a_page_comes_for_who_asked_and_comes_again() {
    let mut model = model();
    let lines = |model: &Model| model.over.as_ref().map(|page| page.lines.join("|"));
    assert_eq!(model.act(Action::Open), inspect(78));
    model.take_page(8, Ok("another".into()), None);
    assert_eq!(lines(&model).as_deref(), Some("…"));
    model.take_page(3, Ok("stuck".into()), None);
    assert_eq!(lines(&model).as_deref(), Some("stuck"));
    // At each look, and at another width.
    assert_eq!(model.take(samples::frame(Vec::new())), inspect(78));
    assert_eq!((model.fit(10, 80), model.fit(10, 40)), (None, inspect(38)));
    // It has ended: what was known of it stays.
    model.take_page(3, Err("there is no process or thread 3".into()), None);
    assert_eq!(lines(&model).as_deref(), Some("stuck"));
    let title = model.over.as_ref().map(Page::title);
    assert_eq!(title.as_deref(), Some(" Why, at last: there is no process or thread 3 "));
    assert_eq!(model.act(Action::Quit), None, "closes the page, not the program");
    assert_eq!(model.over, None);
    assert_eq!(model.take(samples::frame(Vec::new())), None, "nobody reads it");
    assert_eq!(model.act(Action::Quit), Some(Effect::Quit));
}

#[test]
fn a_page_is_read_from_end_to_end_and_no_further() {
    let mut model = model();
    model.fit(9, 80);
    model.act(Action::Open);
    let text: Vec<String> = (0..30).map(|line| line.to_string()).collect();
    model.take_page(3, Ok(text.join("\n")), None);
    let down = |model: &Model| model.over.as_ref().map(|page| page.down);
    for _ in 0..40 {
        model.act(Action::Down);
    }
    assert_eq!(down(&model), Some(22));
    model.act(Action::Up);
    assert_eq!(down(&model), Some(21));
    model.act(Action::PageUp);
    assert_eq!(down(&model), Some(13));
    model.act(Action::Last);
    assert_eq!(down(&model), Some(22));
    model.take_page(3, Ok("shorter".into()), None);
    assert_eq!(down(&model), Some(0));
    model.act(Action::Back);
    model.act(Action::Help);
    model.act(Action::Last);
    assert!(down(&model) > Some(0), "the keys are scrolled, too");
    model.act(Action::Help);
    assert_eq!(model.over, None);
}

#[test]
fn time_goes_back_by_what_was_kept_and_returns_to_now() {
    let mut model = model();
    let now = Timestamp::now();
    let ago = |seconds: i64| now.checked_sub(SignedDuration::from_secs(seconds)).expect("a moment");
    let live = || samples::frame(vec![samples::wait(1, "now", Class::Reply, 1)]);
    let mut frame = live();
    frame.at = now;
    model.take(frame);
    model.act(Action::Pause);
    let asked = |effect: Option<Effect>| match effect {
        Some(Effect::Tell(ViewRequest::Past(at))) => at,
        other => panic!("{other:?}"),
    };
    assert_eq!(asked(model.act(Action::Earlier)), Some(ago(60)));
    assert!(!model.paused);
    let kept = |at: Timestamp, when: When| {
        let mut frame = samples::frame(vec![samples::wait(2, "then", Class::Reply, 1)]);
        (frame.at, frame.when) = (at, when);
        frame
    };
    model.take(kept(ago(60), When::Kept(ago(100))));
    assert_eq!(pids(&model), [2]);
    model.take(live());
    assert_eq!(pids(&model), [2], "one that was under way");
    assert_eq!(model.act(Action::Pause), None);
    // A minute before the one that was kept; where none was, before the one that was asked for.
    assert_eq!(asked(model.act(Action::Earlier)), Some(ago(160)));
    model.take(kept(ago(160), When::Unkept));
    assert_eq!(asked(model.act(Action::Earlier)), Some(ago(220)));
    model.take(kept(ago(220), When::Kept(ago(270))));
    assert_eq!(asked(model.act(Action::Later)), Some(ago(160)));
    model.take(kept(ago(160), When::Kept(ago(165))));
    assert_eq!(asked(model.act(Action::Later)), Some(ago(75)));
    model.take(kept(ago(75), When::Kept(ago(100))));
    assert_eq!(asked(model.act(Action::Later)), None, "less than a minute is left");
    model.take(live());
    assert_eq!(pids(&model), [1]);
}

#[test]
fn a_past_that_cannot_be_had_is_said_and_left() {
    let mut model = model();
    model.act(Action::Earlier);
    model.no_past("no agent runs".into());
    model.take(samples::frame(vec![samples::wait(7, "now", Class::Reply, 1)]));
    assert_eq!((pids(&model), model.said.as_deref()), (vec![7], Some("no agent runs")));
}

#[test]
fn what_was_kept_is_a_page_of_its_own() {
    let mut model = model();
    model.act(Action::Earlier);
    let mut frame = samples::frame(vec![samples::wait(3, "php", Class::Reply, 60)]);
    (frame.at, frame.when) = (model.past.expect("it was asked for"), When::Unkept);
    model.take(frame);
    assert_eq!(model.act(Action::Open), None, "the feed is not asked: it knows what is now");
    let page = model.over.as_ref().expect("open");
    assert!(page.lines[0].starts_with("php (pid 3) was stuck"), "{page:?}");
    assert!(page.lines.iter().all(|line| line.len() <= 78), "{page:?}");
}

#[test]
fn trouble_ends_with_the_next_frame() {
    let mut model = model();
    model.trouble = Some("cannot ask the agent".into());
    model.take(samples::frame(Vec::new()));
    assert_eq!(model.trouble, None);
}
