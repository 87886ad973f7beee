//! Does `ps` say first who is to blame, where many wait for one, and how many?

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Agent, HungMount, Sample, Waiter, http, own_dir, pause, ps, shared, slow, tracer, why};

use crate::top::Terminal;

/// Columns of lines where there is no terminal.
const COLUMNS: usize = 100;
/// How long an agent may take to see what waits.
const PATIENCE: Duration = Duration::from_secs(20);
/// Threads of the pool.
const POOL: usize = 20;

/// What `ps` prints with these arguments.
fn page(args: &[&str]) -> Vec<String> {
    let Output { status, stdout, stderr } =
        Command::new(tracer()).arg("ps").args(args).output().expect("tracer starts");
    assert!(status.success(), "{status}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("the page is UTF-8").lines().map(str::to_owned).collect()
}

/// The same about these processes only.
fn page_of(pids: &[u32], args: &[&str]) -> Vec<String> {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let of = pids.iter().flat_map(|pid| ["-p", pid]);
    page(&of.chain(args.iter().copied()).collect::<Vec<_>>())
}

/// Rows of JSON about these processes that are no idle waits.
fn rows_of(pids: &[u32]) -> Vec<Value> {
    let is_one = |row: &Value| pids.iter().any(|pid| row["pid"] == *pid) && row["level"] != "idle";
    ps(&[]).rows.into_iter().filter(is_one).collect()
}

fn pid(waiter: &Waiter, name: &str) -> u32 {
    u32::try_from(waiter.number(name)).expect("a pid")
}

/// A line without what it says of ages.
fn without_age(line: &str) -> &str {
    line.split(", the oldest for ").next().unwrap_or_default()
}

/// A service that answers nobody, a pool of twenty threads, three clients, and a proxy.
struct Hang {
    service: Waiter,
    pool: Waiter,
    clients: Vec<Waiter>,
    proxy: Waiter,
}

impl Hang {
    fn start() -> Self {
        let service = Waiter::start("mute-service");
        let address = service.text("address").to_owned();
        let pool = Waiter::start_with("asking-pool", &[&address, &POOL.to_string()]);
        let clients = (0..3).map(|_| Waiter::start_with("asks", &[&address, "0"])).collect();
        let proxy = Waiter::start_with("proxy", &[&address]);
        Self { service, pool, clients, proxy }
    }

    /// Those who wait for it.
    fn pids(&self) -> Vec<u32> {
        [&self.pool, &self.proxy].into_iter().chain(&self.clients).map(Waiter::pid).collect()
    }

    fn until_age(&self, seconds: f64) {
        [&self.pool, &self.proxy].into_iter().chain(&self.clients).for_each(|of| of.until_age(seconds));
    }
}

#[test]
fn all_who_wait_for_one_service_are_one_line_that_names_it() {
    let _shared = shared();
    let hang = Hang::start();
    hang.until_age(1.5);
    let service = hang.service.pid();
    let told = format!("waiter (pid {service}) holds up 24 waits of 5 processes");

    // Where nothing else is stuck, and among whatever other tests have.
    let page_of_them = page_of(&hang.pids(), &[]);
    assert_eq!(without_age(&page_of_them[0]), told, "{page_of_them:#?}");
    let everything = page(&[]);
    let lines: Vec<&String> = everything.iter().filter(|line| line.contains(&told)).collect();
    assert_eq!(lines.len(), 1, "{everything:#?}");
    let heading = everything.iter().position(|line| line.contains("PID/TID")).expect("a heading");
    let at = everything.iter().position(|line| line.contains(&told)).expect("it is there");
    assert!(at < heading, "before the waits: {everything:#?}");
    for line in page_of_them.iter().take_while(|line| !line.is_empty()) {
        assert!(line.chars().count() <= COLUMNS, "{line}");
    }
    let next = format!("next: tracer why {service}");
    assert!(page_of_them[..2].concat().contains(&next), "{page_of_them:#?}");

    // The stalls are folded, and can be unfolded.
    let folded: Vec<&String> = page_of_them.iter().filter(|line| line.contains("(--flat lists")).collect();
    assert_eq!(folded.len(), 1, "{page_of_them:#?}");
    assert!(folded[0].contains("… and 21 more"), "{folded:?}");
    let is_row = |line: &&String| line.contains("recvfrom(") || line.contains("request(");
    assert_eq!(page_of_them.iter().filter(is_row).count(), 3);
    let flat = page_of(&hang.pids(), &["--flat"]);
    assert_eq!(flat.iter().filter(is_row).count(), 24, "{flat:#?}");
    assert!(!flat.concat().contains("holds up") && flat[0].contains("PID/TID"), "{flat:#?}");
    let tree = page_of(&hang.pids(), &["--tree"]);
    assert_eq!(tree.iter().filter(is_row).count(), 24, "{tree:#?}");
    assert_eq!(tree.iter().filter(|line| line.contains(&told)).count(), 1, "{tree:#?}");

    let report = why(service);
    assert_eq!(report["holds_up"]["waits"], 24, "{report:#}");
    let rows = rows_of(&hang.pids());
    assert_eq!(rows.len(), 24, "{rows:#?}");
    for row in &rows {
        let culprit = &row["culprit"];
        let named = [&culprit["kind"], &culprit["pid"], &culprit["comm"], &culprit["through"]];
        assert_eq!(named, [&"process".into(), &service.into(), &"waiter".into(), &Value::Null], "{row:#}");
        assert!(culprit["start_ticks"].is_u64(), "{row:#}");
    }
}

/// The client's peer is the proxy, and its culprit the service, also where nobody has asked about the proxy.
#[test]
fn a_client_of_a_proxy_waits_for_the_service_behind_it() {
    let _shared = shared();
    let service = Waiter::start("mute-service");
    let proxy = Waiter::start_with("proxy", &[service.text("address")]);
    // Its own request is older than stamps differ.
    proxy.until_age(0.5);
    let client = Waiter::start_with("asks", &[proxy.text("address"), "0"]);
    client.until_age(1.5);
    let rows = rows_of(&[client.pid()]);
    let [row] = &rows[..] else { panic!("{rows:#?}") };
    assert_eq!(
        (&row["culprit"]["pid"], &row["culprit"]["through"]["pid"]),
        (&service.pid().into(), &proxy.pid().into()),
        "{row:#}"
    );
    let alone = ps(&["-p", &client.pid().to_string()]);
    assert_eq!(alone.row(client.tid())["culprit"], row["culprit"], "its proxy's waits were not asked for");

    let tree = page_of(&[client.pid(), proxy.pid()], &["--tree"]);
    let told = format!("waiter (pid {}) holds up 3 waits of 2 processes", service.pid());
    assert!(tree.iter().any(|line| line.starts_with(&told)), "{tree:#?}");
    // Below the younger of the proxy's requests, which was made for it.
    let at = |pid: u32| tree.iter().rposition(|line| line.contains(&format!(" {pid}  "))).expect("a row");
    assert_eq!(at(client.pid()), at(proxy.pid()) + 1, "{tree:#?}");
    let command = |at: usize| tree[at].find("waiter").expect("a name");
    assert_eq!(command(at(client.pid())), command(at(proxy.pid())) + 2, "{tree:#?}");
}

#[test]
fn two_locks_in_two_processes_are_one_deadlock() {
    let circle = Waiter::start("circle-locks");
    circle.until_age(1.5);
    let (own, child) = (circle.pid(), pid(&circle, "child"));
    let told = format!("a deadlock of waiter (pid {}) and waiter (pid {}):", own.min(child), own.max(child));
    let whole = page_of(&[own, child], &[]);
    assert!(whole[0].starts_with(&told), "{whole:#?}");
    assert!(whole[..3].concat().contains("2 processes"), "{whole:#?}");
    for line in whole.iter().take_while(|line| !line.is_empty()) {
        assert!(line.chars().count() <= COLUMNS, "{line}");
    }
    let rows = rows_of(&[own, child]);
    assert_eq!(rows.len(), 2, "{rows:#?}");
    assert_eq!(rows[0]["culprit"]["kind"], "deadlock", "{rows:#?}");
    assert_eq!(rows[0]["culprit"]["members"], rows[1]["culprit"]["members"], "{rows:#?}");
    assert_eq!(rows[0]["culprit"]["members"].as_array().map(Vec::len), Some(2), "{rows:#?}");
}

/// Threads in each other's mutex stand in one as well, by their ids.
#[test]
fn two_mutexes_are_one_deadlock_of_two_threads() {
    let waiter = Waiter::start("deadlock");
    waiter.until_age(1.5);
    let whole = page_of(&[waiter.pid()], &[]);
    assert!(whole[0].starts_with("a deadlock of threads ") && whole[0].contains(": "), "{whole:#?}");
    assert!(whole[..3].concat().contains("2 waits of 1 process"), "{whole:#?}");
}

/// What is no matter of a single wait is said first; one wait is a line as it was, with its peer.
#[test]
fn a_single_stall_and_idle_waits_are_no_incident() {
    let (alone, idle) = (Waiter::start("recvfrom-tcp4"), Waiter::start("nanosleep"));
    alone.until_age(1.5);
    idle.until_age(1.5);
    let page = page_of(&[alone.pid(), idle.pid()], &[]);
    assert_eq!(page.len(), 3, "a heading, a row, a footer: {page:#?}");
    let culprit = rows_of(&[alone.pid()])[0]["culprit"].clone();
    let peer = format!(" → {} (waiter {})", alone.text("remote"), culprit["pid"]);
    assert!(page[1].ends_with(&peer), "{page:#?}");
    let flat = page_of(&[alone.pid(), idle.pid()], &["--flat"]);
    assert!(flat[1].ends_with(&format!(" → {}", alone.text("remote"))), "{flat:#?}");
    let healthy = page_of(&[idle.pid()], &[]);
    assert_eq!(healthy, page_of(&[idle.pid()], &["--flat"]));
    assert!(healthy[0].starts_with("Nothing is stuck"), "{healthy:#?}");
}

/// They may be at rest: a healthy host has them.
#[test]
fn subscribers_of_one_service_are_no_incident() {
    let service = Waiter::start("greeter");
    let subscribers = [(); 2].map(|()| Waiter::start_with("subscriber", &[service.text("address")]));
    subscribers.iter().for_each(|of| of.until_age(1.5));
    let pids = subscribers.each_ref().map(Waiter::pid);
    let page = page_of(&pids, &[]);
    assert!(page[0].contains("PID/TID") && !page.concat().contains("hold up"), "{page:#?}");
    for row in rows_of(&pids) {
        assert_eq!(
            (&row["class"], &row["culprit"]["pid"]),
            (&"quiet".into(), &service.pid().into()),
            "{row:#}"
        );
    }
}

/// The first thing to know of a service is that a signal has stopped it.
#[test]
fn a_culprit_that_is_stopped_is_said_to_be() {
    let service = Waiter::start("mute-service");
    let address = service.text("address").to_owned();
    let clients = [(); 2].map(|()| Waiter::start_with("asks", &[&address, "0"]));
    service.stop();
    clients.iter().for_each(|of| of.until_age(1.5));
    let told = format!("waiter (pid {}, stopped) holds up 2 processes", service.pid());
    let everything = page(&[]);
    assert!(everything.iter().any(|line| without_age(line) == told), "{everything:#?}");
    service.go_on();
}

/// Whoever calls into a mount waits for its server, also behind another that has a lock there.
#[test]
fn the_server_of_a_mount_is_to_blame_for_all_who_call_into_it() {
    let _shared = shared();
    let Some(mount) = HungMount::start() else { return };
    for (role, file) in [("stat", 1), ("chdir", 5), ("pwrite", 4), ("pwrite", 4)] {
        mount.prepare(role, &mount.file(file));
    }
    mount.stop();
    let pids: Vec<u32> = mount.begin().iter().map(|planted| planted.pid).collect();
    pause(Duration::from_millis(1500));
    let (rows, page) = (rows_of(&pids), page(&[]));
    assert_eq!(rows.len(), 4, "{rows:#?}");
    for row in &rows {
        let culprit = &row["culprit"];
        assert_eq!(
            (&culprit["kind"], &culprit["pid"]),
            (&"process".into(), &mount.server().into()),
            "{row:#}"
        );
    }
    let is_told = |line: &&String| line.contains(&format!(" (pid {}, stopped) holds up", mount.server()));
    assert_eq!(page.iter().filter(is_told).count(), 1, "{page:#?}");
}

/// Who asks the agent sees the same.
#[test]
fn the_agent_says_who_is_to_blame() {
    let _shared = shared();
    let agent = Agent::start(&[]);
    let service = Waiter::start("mute-service");
    let proxy = Waiter::start_with("proxy", &[service.text("address")]);
    let client = Waiter::start_with("asks", &[proxy.text("address"), "0"]);
    client.until_age(1.5);
    let socket = agent.socket();
    let socket = socket.to_str().expect("a path");
    let told = format!("waiter (pid {}) holds up 3 waits of 2 processes", service.pid());
    // It passes over all sockets now and then.
    let begin = Instant::now();
    loop {
        let page = page_of(&[client.pid(), proxy.pid()], &["--source", "agent", "--socket", socket]);
        if without_age(&page[0]) == told {
            return;
        }
        assert!(begin.elapsed() < slow(PATIENCE), "{page:#?}");
        pause(Duration::from_millis(200));
    }
}

/// A parent that waits for its child, which waits until its parent reads what it writes: the parent alone would be at rest.
#[test]
fn who_rests_in_a_deadlock_is_shown_with_the_others() {
    let circle = Waiter::start("circle-pipe");
    circle.until_age(1.5);
    let child = pid(&circle, "child");
    let lines = page_of(&[circle.pid(), child], &[]);
    let told = lines[..2].concat();
    assert!(told.starts_with("a deadlock of waiter (pid ") && told.contains("2 processes"), "{lines:#?}");
    for (pid, class) in [(circle.pid(), "deadlock"), (child, "deadlock")] {
        let is_its = |line: &&String| line.contains(&format!(" {pid} ")) && line.contains(class);
        assert_eq!(lines.iter().filter(is_its).count(), 1, "{pid} {class}: {lines:#?}");
    }
}

/// What the agent's socket says of the incident with this id, if it is open.
fn served(agent: &Agent, id: &str) -> Option<Value> {
    let answer = http::get_unix(&agent.socket(), "/v1/incidents").expect("it answers");
    let objects = answer.body.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    objects.into_iter().find(|object| object["id"] == id)
}

/// How many stalls the incidents of an agent have that are blamed on this process.
fn stalls_of(agent: &Agent, pid: u32) -> Vec<f64> {
    let samples = agent.samples("tracer_incident_stalls", &[("pid", &pid.to_string())]);
    samples.iter().map(|sample| sample.value).collect()
}

/// One event, one run of a program and one series, however many wait; and another event when it is over.
#[test]
fn an_agent_tells_of_an_incident_once_and_when_it_ends() {
    let _shared = shared();
    let mut hang = Hang::start();
    let dir = own_dir();
    let (told, config) = (dir.join("incidents-told"), dir.join("incidents.toml"));
    // What other tests have hung meanwhile is told of as well.
    let hook = format!(
        "[agent]\non_incident = ['/bin/sh', '-c', 'cat >> {}']\non_stall_a_minute = 6000\n",
        told.display()
    );
    std::fs::write(&config, hook).expect("a file");
    let mut agent = Agent::start(&["--threshold", "2s", "--config", config.to_str().expect("UTF-8")]);
    let service = hang.service.pid();
    let about = |name: &'static str| {
        move |event: &Value| event["event"] == name && event["incident"]["culprit"]["pid"] == service
    };
    let (opened, _) = agent.wait_event(PATIENCE, about("incident_opened"));
    let incident = &opened["incident"];
    assert_eq!(incident["name"], format!("waiter (pid {service})"), "{opened:#}");
    assert!(opened["time"].is_string() && opened["host"].is_string(), "{opened:#}");
    let pid = service.to_string();
    let stalls = (POOL + 4) as f64;
    agent.wait_scrape(PATIENCE, |page| {
        let is_its = |of: &&Sample| of.is("tracer_incident_stalls", &[("pid", &pid)]);
        page.iter().find(is_its).is_some_and(|of| of.value == stalls)
    });
    assert_eq!(stalls_of(&agent, service).len(), 1);
    let served = served(&agent, incident["id"].as_str().expect("an id")).expect("it is open");
    assert_eq!(
        served.as_object().map(|of| of.keys().collect::<Vec<_>>()),
        incident.as_object().map(|of| of.keys().collect())
    );
    for field in ["name", "opened", "closed", "culprit"] {
        assert_eq!(served[field], incident[field], "{field}");
    }
    assert_eq!(served["stalls"], POOL + 4);

    [&mut hang.pool, &mut hang.proxy].into_iter().chain(&mut hang.clients).for_each(|of| _ = of.kill());
    let (closed, _) = agent.wait_event(PATIENCE, about("incident_closed"));
    assert_eq!(closed["incident"]["id"], incident["id"], "{closed:#}");
    assert!(closed["incident"]["oldest_seconds"].as_f64() >= Some(2.0), "{closed:#}");
    let is_incidents =
        |event: &Value| event["event"].as_str().is_some_and(|name| name.starts_with("incident_"));
    let of_it = |event: &&Value| is_incidents(event) && event["incident"]["id"] == incident["id"];
    assert!(self::served(&agent, incident["id"].as_str().expect("an id")).is_none());
    let events = agent.all_events();
    assert_eq!(events.iter().filter(of_it).count(), 2, "{events:#?}");
    // The page is made at the end of the look that the event is of.
    agent.wait_scrape(PATIENCE, |page| {
        !page.iter().any(|of| of.is("tracer_incident_stalls", &[("pid", &pid)]))
    });

    let until = Instant::now() + slow(PATIENCE);
    // With its quotes: another's may begin with it.
    let id = incident["id"].to_string();
    let lines = || std::fs::read_to_string(&told).unwrap_or_default().matches(&id).count();
    while lines() < 2 && Instant::now() < until {
        pause(Duration::from_millis(50));
    }
    assert_eq!(lines(), 2, "the program was run for each event");
}

/// The culprit is a line of the live view, and those who wait for it are below it once it is unfolded.
#[test]
fn the_live_view_has_a_line_for_the_culprit() {
    let _shared = shared();
    let service = Waiter::start("mute-service");
    let pool = Waiter::start_with("asking-pool", &[service.text("address"), "3"]);
    pool.until_age(1.2);
    let mut top = Terminal::start(100, 24, &["-p", &pool.pid().to_string()]);
    let culprit = format!("{} + waiter", service.pid());
    top.wait("the culprit", |text| text.contains(&culprit) && text.contains("holds up 1 process"));
    top.press("\r");
    let thread = format!("{}/", pool.pid());
    top.wait("its waits", |text| text.matches(&thread).count() >= 2 && text.contains("4 lines"));
    top.press("\r");
    top.wait("folded again", |text| text.contains(&culprit) && text.contains("1 line "));
    top.press("q");
    top.ends_well();
}
