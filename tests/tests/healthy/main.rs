//! Does tracer stay silent on a healthy host? Debian's servers, running and used, with idle connections of every kind.
//!
//! Everything is started here, with configuration and data in a directory of the test's own, on free ports of loopback.
//! `TRACER_HEALTHY_SECONDS` says for how long; a minute by default.

mod fleet;
mod prefork;
mod users;

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::servers::clean;
use tests::{Agent, Family, MuteServer, ps, start, tracer};

use crate::fleet::Fleet;
use crate::prefork::{BURST, Prefork};
use crate::users::Users;

/// A healthy server answers sooner.
const THRESHOLD: &str = "5s";
/// What is flagged late elsewhere is flagged soon here, too.
const CONFIG: &str = "[thresholds]\nquiet = '5s'\nrequest = '5s'\nother = '5s'\n";

#[test]
fn nothing_is_flagged_where_nothing_is_stuck() {
    // What else runs on this machine is not this test's to judge.
    let family = Family::gather();
    let fleet = Fleet::start();
    let prefork = Prefork::start();
    let users = Users::start(&fleet, &prefork);
    let config = tests::own_dir().join("healthy.toml");
    std::fs::write(&config, CONFIG).expect("our own file");
    let mut agent = Agent::start(&["--threshold", THRESHOLD, "--config", &config.to_string_lossy()]);
    // As it is shipped: what it flags after ten minutes a longer run shows.
    let mut default = Agent::start(&[]);
    let seconds = std::env::var("TRACER_HEALTHY_SECONDS").ok();
    let length =
        Duration::from_secs(seconds.map_or(60, |seconds| seconds.parse().expect("a number of seconds")));
    let begin = Instant::now();
    for second in 1.. {
        sleep(Duration::from_secs(1).min(length.saturating_sub(begin.elapsed())));
        // Once a second: whoever is flagged has been seen by then.
        family.look();
        users.check();
        fleet.check();
        prefork.check();
        if second % 5 == 0 {
            let (stuck, page) = stuck(&family);
            let silent = stuck.is_empty() && page.contains("Nothing is stuck");
            assert!(
                silent,
                "ps after {:?}: {page}{}\nthe agent: {}\nused until then: {:?}",
                begin.elapsed(),
                listed(&stuck),
                listed(&flagged(&mut agent, &family)),
                users.used()
            );
        }
        if begin.elapsed() >= length {
            break;
        }
    }
    let flagged = flagged(&mut agent, &family);
    assert!(flagged.is_empty(), "flagged in {length:?} of health: {}", listed(&flagged));
    let flagged = self::flagged(&mut default, &family);
    assert!(flagged.is_empty(), "flagged by default in {length:?} of health: {}", listed(&flagged));
    assert!(prefork.of_postfix() >= BURST, "processes of Postfix: {}", prefork.of_postfix());
    were_used(&fleet, &users, length);

    // It was awake: what does hang is flagged, once, and shown.
    let mute = MuteServer::start(&[]);
    let mut client = clean("redis-cli");
    client.args(["-h", "127.0.0.1", "-p", &mute.address().port().to_string(), "PING"]);
    let hung = start(client);
    agent.wait_stall("stall_opened", hung.pid(), Duration::from_secs(30));
    sleep(Duration::from_secs(3));
    let (stuck, page) = stuck(&family);
    let mut flagged = self::flagged(&mut agent, &family);
    // The mute server is this very process, and has been waiting for more of the request ever since.
    flagged.retain(|event| event["wait"]["pid"] != std::process::id());
    let about: Vec<_> = flagged.iter().map(|event| (&event["event"], &event["wait"]["pid"])).collect();
    assert_eq!(about, [(&Value::from("stall_opened"), &Value::from(hung.pid()))], "{}", listed(&flagged));
    let about: Vec<_> = stuck.iter().map(|row| (&row["class"], &row["pid"])).collect();
    assert_eq!(about, [(&Value::from("reply"), &Value::from(hung.pid()))], "{}", listed(&stuck));
    assert!(!page.contains("Nothing is stuck"), "{page}");
}

/// What the agent has said of the family's processes. Of incidents it says nothing that it does not say of their stalls.
fn flagged(agent: &mut Agent, family: &Family) -> Vec<Value> {
    let ours = |event: &Value| {
        if event["incident"].is_object() {
            return false;
        }
        let pid = event["wait"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        pid.is_none_or(|pid| !family.is_stranger(pid))
    };
    agent.all_events().into_iter().filter(ours).collect()
}

/// What `ps` calls stuck among the family's processes, and the page that people see.
fn stuck(family: &Family) -> (Vec<Value>, String) {
    let pids: Vec<String> = family.look().iter().map(|pid| format!("--pid={pid}")).collect();
    let mut args = vec!["--min-age", THRESHOLD];
    args.extend(pids.iter().map(String::as_str));
    let page = Command::new(tracer()).arg("ps").args(&args).output().expect("tracer starts");
    assert!(page.status.success(), "tracer ps: {page:?}");
    let rows = ps(&args).rows.into_iter().filter(|row| row["level"] == "stuck").collect();
    (rows, String::from_utf8(page.stdout).expect("UTF-8"))
}

/// Waits and events for people: who, in which call, on what, and why tracer thinks so.
fn listed(values: &[Value]) -> String {
    let line = |value: &Value| {
        let wait = if value["wait"].is_object() { &value["wait"] } else { value };
        format!(
            "\n{} (pid {}) in {} on {}: {} {}\n{value:#}",
            wait["comm"], wait["pid"], wait["syscall"], wait["target"], value["event"], wait["verdict"]
        )
    };
    values.iter().map(line).collect()
}

/// Nothing hangs where nothing happens: each service was in use all the time.
fn were_used(fleet: &Fleet, users: &Users, length: Duration) {
    let used = users.used();
    eprintln!("used meanwhile: {used:?}");
    for (service, times) in &used {
        // A loaded machine does less than is asked of it, but not that much less.
        assert!(
            *times as f64 >= length.as_secs_f64() / 2.0,
            "{service} was used {times} times in {length:?}"
        );
    }
    for (database, resting) in users::at_rest(fleet) {
        assert_eq!(resting, users::POOL, "connections that rest at {database}");
    }
    let logged = fleet.lines_logged();
    assert!(logged as f64 >= length.as_secs_f64() / 2.0, "{logged} lines were logged in {length:?}");
    // cron works on the minute, and looks at its table first.
    let minutes = usize::try_from(length.as_secs() / 60).expect("small");
    let jobs = fleet.jobs_run();
    assert!(jobs >= minutes, "cron ran {jobs} jobs in {length:?}");
}
