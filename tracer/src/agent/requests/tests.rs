use super::*;
use crate::model::{
    request::tests::{answered, asked, on_which, which_reacted},
    wait::FdState,
};

const SECOND_NS: u64 = 1_000_000_000;

fn open_requests() -> OpenRequests {
    OpenRequests::knowing(LearnedManners::default())
}

/// A pass of so many milliseconds.
fn took(ms: u64) -> Pass {
    Pass { began: Instant::now(), took: Duration::from_millis(ms), at: 1_000_000 }
}

fn at(seconds: u64) -> Now {
    Now { wall: jiff::Timestamp::UNIX_EPOCH, monotonic_ns: seconds * SECOND_NS }
}

/// Those that have been seen by a pass at this second.
fn pass(requests: &mut OpenRequests, found: &[AskedConnection], seconds: u64) {
    let now_ns = at(seconds).monotonic_ns;
    let as_of_now = |connection: &AskedConnection| AskedConnection { seen_ns: now_ns, ..connection.clone() };
    let found = found.iter().map(as_of_now).collect();
    requests.passed(Some(SeenConnections { asked: found, ..SeenConnections::default() }), took(1));
    let missing = requests.to_refresh(now_ns, false);
    requests.refreshed(&missing, Vec::new(), now_ns);
}

/// What a look at a connection shows.
fn seen(connection: &AskedConnection) -> SeenFd {
    SeenFd {
        thread: connection.request(),
        fd: connection.fd,
        state: FdState::Open(connection.file),
        socket: SocketFacts::Tcp(connection.tcp.clone()),
        flow: None,
    }
}

/// The fds of what is waited for, with ages in seconds.
fn due(requests: &mut OpenRequests, seconds: u64) -> Vec<(i32, u64)> {
    let waits = requests.waits(&at(seconds), &Taken::default());
    waits.iter().map(|wait| (wait.fd.unwrap_or(-1), wait.age.as_secs())).collect()
}

#[test]
fn what_was_never_answered_is_waited_for() {
    let mut requests = open_requests();
    let never = asked(7, 3, 80, 10);
    let before = which_reacted(&asked(7, 4, 80, 20), 100, 50);
    pass(&mut requests, &[never.clone(), before], 100);
    assert_eq!(due(&mut requests, 100), [(3, 10)]);
    let numbers = requests.numbers();
    assert_eq!([numbers.due, numbers.unknown, numbers.not_due], [1, 1, 0]);
    let taken = Taken { sockets: [never.file.inode].into(), ..Taken::default() };
    assert!(requests.waits(&at(100), &taken).is_empty(), "a thread waits on it");
    let taken = Taken { suspended: [never.process].into(), ..Taken::default() };
    assert!(requests.waits(&at(100), &taken).is_empty(), "it is stopped");
    pass(&mut requests, &[], 105);
    assert_eq!(due(&mut requests, 105), []);
}

/// It is not known what has become of it until it is looked at again: its age stays what it was then.
#[test]
fn its_age_is_what_was_seen() {
    let mut requests = open_requests();
    pass(&mut requests, &[asked(7, 3, 80, 10)], 100);
    assert_eq!(due(&mut requests, 103), [(3, 10)]);
    let wait = requests.waits(&at(103), &Taken::default()).remove(0);
    assert_eq!(wait.began_ns, 90 * SECOND_NS);
    assert!(wait.thread.is_request() && !wait.is_lower_bound());
}

#[test]
fn of_processes_that_share_a_socket_one_waits() {
    let mut requests = open_requests();
    let parent = asked(7, 3, 80, 10);
    let mut child = AskedConnection { fd: 9, ..parent.clone() };
    child.process = ProcessId { pid: 8, start_ns: 2 };
    pass(&mut requests, &[child, parent], 100);
    assert_eq!(due(&mut requests, 100), [(3, 10)]);
}

#[test]
fn who_goes_on_talking_waits_for_nothing_and_is_known_for_it() {
    let mut requests = open_requests();
    pass(&mut requests, &[asked(7, 3, 514, 10)], 100);
    assert_eq!(due(&mut requests, 100), [(3, 10)]);
    pass(&mut requests, &[on_which(&asked(7, 3, 514, 2), 150, 0)], 105);
    assert_eq!(due(&mut requests, 105), [], "more was said, and nothing had come");
    assert_eq!(requests.numbers().not_due, 1);
    pass(&mut requests, &[asked(9, 5, 514, 40), asked(9, 6, 515, 40)], 200);
    assert_eq!(due(&mut requests, 200), [(6, 40)], "the same program with the same service");
    let other = AskedConnection { uid: 33, ..asked(10, 7, 514, 40) };
    pass(&mut requests, &[other], 300);
    assert_eq!(due(&mut requests, 300), [(7, 40)], "another user's");
}

/// The peer has not got what was said before: it is an upload that goes on.
#[test]
fn an_upload_that_halts_is_no_talk() {
    let mut requests = open_requests();
    let mut halted = asked(7, 3, 80, 10);
    halted.tcp.send_queue = 50;
    pass(&mut requests, &[halted], 100);
    pass(&mut requests, &[on_which(&asked(7, 3, 80, 2), 150, 0), asked(7, 4, 80, 30)], 105);
    assert_eq!(requests.numbers().not_due, 0);
    assert_eq!(due(&mut requests, 105), [(3, 2), (4, 30)]);
}

/// What a failure to look has left is not kept for ever.
#[test]
fn what_is_missing_twice_is_forgotten() {
    let mut requests = open_requests();
    pass(&mut requests, &[asked(7, 3, 80, 10)], 100);
    let none = |requests: &mut OpenRequests| {
        requests.passed(Some(SeenConnections::default()), took(1));
    };
    none(&mut requests);
    assert!(!requests.is_empty(), "it is to be looked at");
    none(&mut requests);
    assert!(requests.is_empty());
}

/// One upload in pieces does not blind a service that answers.
#[test]
fn a_service_that_answers_is_judged_though_one_has_talked() {
    let mut requests = open_requests();
    let reply = |requests: &mut OpenRequests, fd, seconds| {
        let open = asked(7, fd, 80, 3);
        pass(requests, std::slice::from_ref(&open), seconds);
        let now_ns = (seconds + 1) * SECOND_NS;
        let asked = requests.to_refresh(now_ns, false);
        assert_eq!(asked, [(open.request(), fd)]);
        let mut answered = on_which(&open, 100, 50);
        answered.tcp.internals.as_mut().expect("is seen").last_segment = 50;
        requests.refreshed(&asked, vec![seen(&answered)], now_ns);
        assert_eq!(due(requests, seconds), []);
    };
    (0..10).for_each(|number| reply(&mut requests, 10 + number, 100));
    pass(&mut requests, &[asked(7, 3, 80, 3)], 200);
    pass(&mut requests, &[on_which(&asked(7, 3, 80, 2), 150, 0), asked(7, 4, 80, 30)], 205);
    assert_eq!(
        due(&mut requests, 205),
        [(3, 2), (4, 30)],
        "what overlaps are requests, or parts of one: the last counts"
    );
}

/// Its thread polls for a moment and does something else in between.
#[test]
fn what_a_thread_comes_back_to_is_the_threads() {
    let mut requests = open_requests();
    pass(&mut requests, &[asked(7, 3, 80, 10)], 100);
    let taken = Taken { sockets: [asked(7, 3, 80, 10).file.inode].into(), ..Taken::default() };
    assert!(requests.waits(&at(100), &taken).is_empty());
    pass(&mut requests, &[asked(7, 3, 80, 50)], 140);
    assert_eq!(due(&mut requests, 140), []);
    pass(&mut requests, &[asked(7, 3, 80, 71)], 161);
    assert_eq!(due(&mut requests, 161), [(3, 71)], "it has gone for good");
}

/// A closed descriptor, or one that is something else by now.
#[test]
fn what_is_gone_is_not_followed() {
    let mut requests = open_requests();
    pass(&mut requests, &[asked(7, 3, 80, 10), asked(7, 4, 80, 10)], 100);
    let again = requests.to_refresh(101 * SECOND_NS, false);
    let other = SeenFd { state: FdState::None, ..seen(&asked(7, 3, 80, 10)) };
    requests.refreshed(&again, vec![other], 101 * SECOND_NS);
    assert_eq!(due(&mut requests, 101), []);
}

/// It has said more within the last second, which a pass does not tell from an answer.
#[test]
fn who_talks_as_a_pass_is_made_is_found_out_too() {
    let mut requests = open_requests();
    pass(&mut requests, &[asked(7, 3, 514, 10)], 100);
    requests.passed(Some(SeenConnections::default()), took(1));
    assert_eq!(due(&mut requests, 105), []);
    let missing = requests.to_refresh(105 * SECOND_NS, false);
    requests.refreshed(&missing, vec![seen(&on_which(&asked(7, 3, 514, 0), 150, 0))], 105 * SECOND_NS);
    assert_eq!([requests.numbers().due, requests.numbers().not_due], [0, 1]);
}

#[test]
fn passes_are_as_far_apart_as_they_are_long() {
    let mut requests = open_requests();
    let began = Instant::now();
    assert!(requests.pass_is_due(began));
    for (took_ms, every_s) in [(1, 5), (25, 5), (50, 10), (120, 24), (10_000, 60)] {
        requests.passed(Some(SeenConnections::default()), Pass { began, ..took(took_ms) });
        assert!(!requests.pass_is_due(began + Duration::from_secs(every_s) - Duration::from_millis(1)));
        assert!(requests.pass_is_due(began + Duration::from_secs(every_s)), "{took_ms}");
    }
    requests.passed(None, Pass { began, ..took(1) });
    assert_eq!(requests.missed(), 1);
}

#[test]
fn a_user_with_thousands_of_requests_leaves_room_for_another() {
    let mut requests = open_requests();
    let mut all: Vec<AskedConnection> =
        (0..2 * FOLLOWED_MAX as i32).map(|fd| asked(7, fd, 80, 600)).collect();
    all.push(AskedConnection { uid: 33, ..asked(8, 3, 80, 40) });
    pass(&mut requests, &all, 1_000);
    assert_eq!(requests.followed.len(), FOLLOWED_MAX);
    assert_eq!(requests.missed(), FOLLOWED_MAX as u64 + 1);
    assert!(requests.followed.values().any(|followed| followed.connection.uid == 33));
    assert_eq!(requests.to_refresh(1_001 * SECOND_NS, false).len(), REFRESHED_MAX);
    assert_eq!(requests.to_refresh(1_001 * SECOND_NS, true).len(), REFRESHED_BY_WALKS_MAX + 1);
}

/// Connections of one process to one service, seen to rest with the service's word as the last.
fn rested(requests: &mut OpenRequests, fds: std::ops::Range<i32>, seconds: u64) -> Vec<AskedConnection> {
    let resting: Vec<_> = fds.map(|fd| answered(&asked(7, fd, 80, 5), 100, 50)).collect();
    pass(requests, &resting, seconds);
    resting
}

/// Settings of HTTP/2 are acknowledged at once and nothing is due; so is a pool's next request sent, and then it is.
#[test]
fn what_follows_at_once_is_judged_by_how_such_connections_rest() {
    let mut requests = open_requests();
    let mut pool = rested(&mut requests, 10..17, 100);
    pool.push(which_reacted(&asked(7, 3, 80, 40), 100, 50));
    pass(&mut requests, &pool, 105);
    assert_eq!(due(&mut requests, 105), [], "seven are not enough");
    let mut pool = rested(&mut requests, 20..21, 110);
    pool.push(which_reacted(&asked(7, 3, 80, 40), 100, 50));
    pool.push(which_reacted(&asked(8, 3, 80, 40), 100, 50));
    pass(&mut requests, &pool, 115);
    assert_eq!(due(&mut requests, 115), [(3, 40)], "the other process has no second one");
    assert_eq!(requests.numbers().unknown, 1);
    // The program goes on on a connection that had rested so: it was no question.
    let reused = |sent| [&pool[..1], &[which_reacted(&asked(7, 3, 80, 4), sent, 50)]].concat();
    pass(&mut requests, &reused(100), 120);
    pass(&mut requests, &reused(200), 125);
    pass(&mut requests, &pool, 130);
    assert_eq!(due(&mut requests, 130), []);
}

/// It is no news that a connection rests which rested at the last pass.
#[test]
fn a_connection_at_rest_counts_once() {
    let mut requests = open_requests();
    (0..40).for_each(|number| drop(rested(&mut requests, 10..12, 100 + number)));
    let manners = requests.manners().of(&asked(7, 10, 80, 1));
    assert_eq!(manners.rested, 2);
}

#[test]
fn a_question_of_its_own_is_due_though_nothing_is_known() {
    let mut requests = open_requests();
    pass(&mut requests, &[on_which(&asked(7, 3, 80, 40), 100, 50)], 100);
    assert_eq!(due(&mut requests, 100), [(3, 40)]);
}

/// Redis in Node: commands of many callers share a connection, and all of them hang.
#[test]
fn requests_that_overlap_are_due_where_the_service_has_the_last_word() {
    let mut requests = open_requests();
    let pool = rested(&mut requests, 10..18, 100);
    let with = |open: AskedConnection| [&pool[..1], &[open]].concat();
    pass(&mut requests, &with(on_which(&asked(7, 3, 80, 10), 100, 50)), 105);
    pass(&mut requests, &with(on_which(&asked(7, 3, 80, 3), 150, 50)), 110);
    pass(&mut requests, &with(on_which(&asked(7, 3, 80, 8), 150, 50)), 115);
    assert_eq!(due(&mut requests, 115), [(3, 8)], "since the last of them");
    assert_eq!(requests.manners().of(&pool[0]).talked, 1);
}

/// A protocol whose client has the last word, on a connection that it uses all the time.
#[test]
fn who_hears_something_while_it_talks_waits_if_nothing_comes() {
    let mut requests = open_requests();
    for (seconds, sent, received) in [(100, 100, 50), (105, 200, 60), (110, 300, 70)] {
        pass(&mut requests, &[which_reacted(&asked(7, 3, 80, 4), sent, received)], seconds);
    }
    assert_eq!(requests.manners().of(&asked(7, 3, 80, 4)).silence(), Some(Duration::from_secs(5)));
    assert_eq!(due(&mut requests, 110), [], "at rest");
    for seconds in [115, 120] {
        pass(&mut requests, &[on_which(&asked(7, 3, 80, 2), 300 + seconds, 70)], seconds);
        assert_eq!(due(&mut requests, seconds), [], "it talks, and something may come yet");
    }
    pass(&mut requests, &[on_which(&asked(7, 3, 80, 1), 600, 70)], 122);
    assert_eq!(due(&mut requests, 122), [(3, 16)]);
    let taken = Taken { sockets: [asked(7, 3, 80, 1).file.inode].into(), ..Taken::default() };
    let waits = requests.waits(&at(122), &taken);
    assert_eq!(waits.len(), 1, "a thread waits there, but for an answer to the last of it only");
}

/// It says something every other second: half of the passes come when the last of it is too young for them.
#[test]
fn who_talks_just_before_a_pass_is_still_known_to_have_talked() {
    let mut requests = open_requests();
    for (seconds, sent, received) in [(100, 100, 50), (105, 200, 60), (110, 300, 70)] {
        pass(&mut requests, &[which_reacted(&asked(7, 3, 80, 4), sent, received)], seconds);
    }
    let mut said = 400;
    for seconds in (115..=145).step_by(5) {
        said += 100;
        let now_ns = at(seconds).monotonic_ns;
        let age = if seconds % 2 == 0 { 0 } else { 1 };
        let connection = AskedConnection { seen_ns: now_ns, ..on_which(&asked(7, 3, 80, age), said, 70) };
        let found = if age > 0 { vec![connection.clone()] } else { Vec::new() };
        requests.passed(Some(SeenConnections { asked: found, ..SeenConnections::default() }), took(1));
        let missing = requests.to_refresh(now_ns, false);
        requests.refreshed(&missing, vec![seen(&connection)], now_ns);
    }
    assert_eq!(due(&mut requests, 145), [(3, 39)], "since the first of what has no answer");
}

/// A logger hears nothing, ever.
#[test]
fn who_never_hears_anything_waits_for_nothing_however_long_it_talks() {
    let mut requests = open_requests();
    for number in 0..50 {
        pass(&mut requests, &[on_which(&asked(7, 3, 514, 2), 100 + number, 0)], 100 + 5 * number);
        assert_eq!(requests.numbers().not_due, usize::from(number > 0));
    }
}
