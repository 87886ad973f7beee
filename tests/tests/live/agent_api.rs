//! Does the agent's socket answer what docs/API.md says?

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Agent, Waiter, alone, http, shared, slow};

const API: &str = include_str!("../../../docs/API.md");
const WHY: &str = include_str!("../../../docs/WHY.md");
const PATIENCE: Duration = Duration::from_secs(20);

/// Names in the code spans of a text.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split('`').skip(1).step_by(2).flat_map(str::split_whitespace);
    words
        .filter(|word| word.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_'))
        .map(str::to_owned)
        .collect()
}

/// What the page's row about a path says that its objects have.
pub(crate) fn documented(path: &str) -> BTreeSet<String> {
    let row = API.lines().find_map(|line| line.strip_prefix(&format!("| `{path}` |")));
    names(row.unwrap_or_else(|| panic!("docs/API.md has no row of {path}")))
}

/// What stands between two texts of a page.
fn between<'a>(page: &'a str, begin: &str, end: &str) -> &'a str {
    let (_, rest) = page.split_once(begin).unwrap_or_else(|| panic!("there is no `{begin}`"));
    rest.split_once(end).unwrap_or_else(|| panic!("there is no `{end}`")).0
}

pub(crate) fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().unwrap_or_else(|| panic!("no object: {object}")).keys().cloned().collect()
}

/// Status and body.
fn get(agent: &Agent, path: &str) -> (u16, String) {
    ask(&agent.socket(), path)
}

fn ask(socket: &Path, path: &str) -> (u16, String) {
    let answer = http::get_unix(socket, path).expect("it answers");
    (answer.status, answer.body)
}

pub(crate) fn object(agent: &Agent, path: &str) -> Value {
    let (status, body) = get(agent, path);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(body.lines().next().unwrap_or_default())
        .unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
}

/// The agent's events from now on.
fn events(agent: &Agent) -> UnixStream {
    let mut stream = UnixStream::connect(agent.socket()).expect("it listens");
    write!(stream, "GET /v1/events HTTP/1.0\r\nHost: t\r\n\r\n").expect("it reads");
    stream
}

/// Asks until there is something.
fn until(what: &str, is_there: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_there() {
        assert!(begin.elapsed() < slow(PATIENCE), "{what} after {PATIENCE:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn objects_have_the_names_that_the_page_says() {
    let _shared = shared();
    let agent = Agent::start(&["--threshold", "1s"]);
    let waiter = Waiter::start("recvfrom-tcp4");
    let path = "/v1/host";
    assert_eq!(keys(&object(&agent, path)), documented(path));

    // Of itself: it waits between its looks.
    let path = format!("/v1/durations/{}", agent.pid());
    until("no wait of the agent's has ended", || get(&agent, &path).0 == 200);
    let durations = object(&agent, &path);
    assert_eq!(keys(&durations), documented("/v1/durations/PID"));
    assert_eq!(durations["comm"], "tracer");
    assert!(durations["buckets"].as_array().is_some_and(|all| all.iter().any(|n| n.as_u64() > Some(0))));

    until("no stall", || get(&agent, "/v1/stalls").1.contains(&format!("\"pid\":{},", waiter.pid())));
    let stall = object(&agent, "/v1/stalls");
    assert_eq!(keys(&stall), documented("/v1/stalls"));
    let of_a_wait = names(between(API, "A wait always has these fields:", " if it could be read"));
    assert_eq!(keys(&stall["wait"]), of_a_wait);
    let mut of_the_oldest = keys(&object(&agent, "/v1/waits?all"));
    // Only stalls have one.
    of_the_oldest.remove("culprit");
    assert_eq!(of_the_oldest, of_a_wait);
    let past = object(&agent, "/v1/waits?at=2026-01-01T00:00:00Z");
    assert_eq!(keys(&past), documented("/v1/waits?at=2026-11-23T03:12:00Z"));
    assert_eq!(past["at"], Value::Null, "nothing was kept then");

    let why = object(&agent, &format!("/v1/why/{}", waiter.pid()));
    assert_eq!(keys(&why), names(between(WHY, "prints the same as one object:", ";")));
    let (_, page) = get(&agent, &format!("/v1/why/{}?width=60", waiter.pid()));
    assert!(
        page.starts_with("waiter (pid ") && page.lines().all(|line| line.chars().count() <= 60),
        "{page}"
    );
    for path in ["/v1/why/4194305", "/v1/durations/4194305"] {
        assert_eq!(get(&agent, path).0, 404, "{path}");
    }
}

/// A process id is reused: with its start it is one process for ever.
#[test]
fn a_start_names_one_process() {
    let _shared = shared();
    let agent = Agent::start(&["--threshold", "1s"]);
    let waiter = Waiter::start("recvfrom-tcp4");
    let start = |pid: u32| -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
        stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(19)?.parse().ok()).expect("a start")
    };
    until("no stall", || get(&agent, "/v1/stalls").1.contains(&format!("\"pid\":{},", waiter.pid())));
    let waits = get(&agent, "/v1/waits").1;
    let own =
        waits.lines().find(|line| line.contains(&format!("\"pid\":{},", waiter.pid()))).expect("a wait");
    assert!(own.ends_with(&format!(",\"start_ticks\":{}}}", start(waiter.pid()))), "{own}");
    get(&agent, "/v1/host");
    until("no wait of the agent's has ended", || {
        get(&agent, &format!("/v1/durations/{}", agent.pid())).0 == 200
    });
    for (path, pid) in [("why", waiter.pid()), ("durations", agent.pid()), ("baselines", waiter.pid())] {
        let asked = |start: u64| get(&agent, &format!("/v1/{path}/{pid}?start_ticks={start}"));
        assert_eq!(asked(start(pid)).0, 200, "{path}");
        let (status, body) = asked(start(pid) + 1);
        match path {
            "baselines" => assert_eq!((status, body.as_str()), (200, "")),
            _ => assert_eq!(status, 404, "{path}: {body}"),
        }
    }
    assert_eq!(get(&agent, &format!("/v1/why/{}?start_ticks=soon", waiter.pid())).0, 400);
}

/// Sixteen may wait for an answer; who comes after them is told so at once, and the others are answered.
#[test]
fn too_many_at_once_are_told_so() {
    const ASKERS: usize = 60;
    let _shared = shared();
    let agent = Agent::start(&[]);
    let waiter = Waiter::start("recvfrom-tcp4");
    waiter.until_age(1.0);
    let path = format!("/v1/why/{}", waiter.pid());
    let socket = agent.socket();
    let answers: Vec<(u16, String)> = thread::scope(|scope| {
        let askers: Vec<_> = (0..ASKERS).map(|_| scope.spawn(|| ask(&socket, &path))).collect();
        askers.into_iter().map(|asker| asker.join().expect("it asked")).collect()
    });
    let of = |wanted: u16| answers.iter().filter(|(status, _)| *status == wanted).count();
    assert!(of(200) >= 16 && of(503) > 0 && of(200) + of(503) == ASKERS, "{answers:?}");
    assert!(answers.iter().all(|(status, body)| *status == 200 || body == "too many ask at once\n"));
}

/// Who waits for the agent's next event is not stuck: to be told of oneself would be the next event.
#[test]
fn a_reader_of_events_is_not_flagged() {
    let _shared = shared();
    let mut agent = Agent::start(&["--threshold", "1s"]);
    let stream = events(&agent);
    stream.set_read_timeout(Some(slow(Duration::from_secs(4)))).expect("a time-out");
    // One that is flagged shows that the agent looks.
    let waiter = Waiter::start("recvfrom-tcp4");
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains(&format!("\"pid\":{},", waiter.pid()))));
    lines.for_each(drop);
    let own = std::process::id();
    let socket = agent.socket().to_string_lossy().into_owned();
    let of_this = |event: &Value| {
        event["wait"]["pid"] == own
            && event["wait"]["target"]["path"].as_str().is_some_and(|path| path.starts_with(&socket))
    };
    assert!(!agent.all_events().iter().any(of_this), "{:#?}", agent.all_events());
}

/// A reader of the events that does not read is told how many it has missed, once it reads again; no event is missing from the
/// sum.
#[test]
fn a_reader_that_falls_behind_is_told_how_far() {
    const THREADS: usize = 900;
    let _alone = alone();
    let agent = Agent::start(&["--threshold", "1s"]);
    let stream = events(&agent);
    let open = |all: &[tests::Sample]| -> f64 {
        all.iter().filter(|s| s.name == "tracer_open_stalls").map(|s| s.value).sum()
    };
    let mut crowd = Waiter::start_with("threads", &[&THREADS.to_string()]);
    agent.wait_scrape(PATIENCE, |all| open(all) >= THREADS as f64);
    crowd.kill();
    agent.wait_scrape(PATIENCE, |all| open(all) < 100.0);

    stream.set_read_timeout(Some(slow(Duration::from_secs(3)))).expect("a time-out");
    let (mut came, mut lost) = (0, 0);
    // Until nothing more comes.
    for line in BufReader::new(stream).lines().map_while(Result::ok).filter(|line| line.starts_with('{')) {
        let event: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        match event["event"].as_str() {
            Some("events_lost") => lost += event["count"].as_u64().expect("a number"),
            _ => came += 1,
        }
        if came + lost >= 2 * THREADS as u64 {
            break;
        }
    }
    assert!(lost > 0 && came > 0, "{came} came, {lost} were lost");
    assert!(came + lost >= 2 * THREADS as u64, "{came} came, {lost} were lost");
}
