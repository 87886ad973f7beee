//! What do people and machines read of known waits? All that tracer says of one waiter of each kind, with the numbers taken out,
//! is held against what was said before: `tests/golden/`. A difference is either a fault or an addition that docs/API.md names.
//!
//! `UPDATE_GOLDEN=1 cargo test -p tests --test golden` writes the files anew; the diff is then what to look at.
//! It describes the kernel that CI has; what others say of the same waits is in the live tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::PathBuf,
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Map, Value};
use tests::{Agent, Waiter, http, own_dir, ps, why};

/// How long an agent may take to find incidents.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waiters whose wait is the same each time. More of a kind would say the same.
const ROLES: &[&str] = &[
    "recvfrom-tcp4",
    "recvfrom-tcp6",
    "read-tcp4",
    "recvfrom-udp",
    "recvmsg-unix",
    "connect-backlog",
    "accept",
    "sendto-full",
    "poll-tcp4",
    "epoll-client",
    "peer",
    "request",
    "read-pipe",
    "epoll",
    "poll",
    "closed-fd",
    "i386-read",
    "i386-poll",
    "poll-garbage",
    "poll-many 100",
    "select-except",
    "self-pipe",
    "flock",
    "flock-deleted",
    "fcntl-setlkw",
    "open-fifo",
    "read-eventfd",
    "read-timerfd",
    "read-signalfd",
    "read-inotify",
    "read-tty",
    "poll-pidfd",
    "waitid-pidfd",
    "futex",
    "wait4",
    "nanosleep",
    "restart-nanosleep",
    "restart-poll",
    "deadlock",
    "semop",
    "semop-left",
    "ring",
];

/// Old enough for every sentence that depends on an age, and flagged.
const AGE: f64 = 4.0;
const THRESHOLD: &str = "2s";
const FLAGGED: Duration = Duration::from_secs(30);

#[test]
fn what_is_said_of_known_waits() {
    let agent = Agent::start(&["--threshold", THRESHOLD]);
    let waiters: Vec<(&str, Waiter)> = ROLES.iter().map(|words| (*words, start(words))).collect();
    for (_, waiter) in &waiters {
        waiter.until_age(AGE);
    }
    let stuck = waiters[0].1.pid().to_string();
    agent.wait_scrape(FLAGGED, |all| all.iter().any(|s| s.is("tracer_stall_seconds", &[("pid", &stuck)])));

    let all = ps(&["--all"]);
    let mut said = BTreeMap::new();
    for (role, waiter) in &waiters {
        let own = |row: &&Value| row["pid"] == waiter.pid();
        // A thread and a request may have begun at once: requests, which have no thread, come first.
        let mut rows: Vec<&Value> = all.rows.iter().filter(own).collect();
        rows.sort_by_key(|row| row["tid"] != 0);
        let rows: Vec<Value> = rows.into_iter().map(plain).collect();
        let mut text = String::new();
        let _ = writeln!(text, "ps:");
        rows.iter().for_each(|row| pretty(&mut text, row));
        let _ = writeln!(text, "why:");
        pretty(&mut text, &plain(&why(waiter.pid())));
        said.insert((*role).to_owned(), text);
    }
    let pids: Vec<u32> = waiters.iter().map(|(_, waiter)| waiter.pid()).collect();
    // A starting program may have slept in other calls.
    let calls: BTreeSet<String> =
        all.rows.iter().filter_map(|row| Some(format!("syscall={}", row.get("syscall")?))).collect();
    let is_one = |line: &str| !line.contains("syscall=") || calls.iter().any(|call| line.contains(call));
    let metrics: Vec<String> = agent.page().lines().filter(|line| is_one(line)).map(str::to_owned).collect();
    said.insert("metrics".to_owned(), page(&metrics.join("\n"), &pids));
    said.insert("socket".to_owned(), served(&agent, &pids));
    let differences = said.iter().filter_map(|(name, text)| difference(name, text));
    let differences: Vec<String> = differences.collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// A waiter by its role and what that takes.
fn start(words: &str) -> Waiter {
    let mut words = words.split(' ');
    let role = words.next().unwrap_or_default();
    Waiter::start_ended_by(libc::SIGTERM, role, &words.collect::<Vec<_>>())
}

/// What the agent's port answers: the open stalls of these processes, and the names in the other objects.
fn served(agent: &Agent, pids: &[u32]) -> String {
    let mut text = String::new();
    // Incidents are looked for from time to time.
    let are_known = || ask(agent, "/v1/stalls").1.lines().all(|line| line.contains("\"incident\""));
    let begin = Instant::now();
    while !are_known() && begin.elapsed() < PATIENCE {
        sleep(Duration::from_millis(100));
    }
    for path in ["/v1/host", "/v1/stalls", "/v1/waits?all"] {
        let (status, body) = ask(agent, path);
        let _ = writeln!(text, "{path}: {status}");
        let objects = body.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let own = |object: &Value| {
            let pid = object["pid"].as_u64().or(object["wait"]["pid"].as_u64());
            pid.is_none_or(|pid| pids.iter().any(|own| u64::from(*own) == pid))
        };
        // What differs from run to run is which of them there are, and in what order: their shapes do not.
        let shapes: BTreeSet<String> = objects.filter(own).map(|object| shape(&object)).collect();
        shapes.iter().for_each(|shape| {
            let _ = writeln!(text, "{shape}");
        });
    }
    text
}

/// What the agent's Unix socket answers.
fn ask(agent: &Agent, path: &str) -> (String, String) {
    let answer = http::get_unix(&agent.socket(), path).expect("it answers");
    (answer.head.lines().next().unwrap_or_default().to_owned(), answer.body)
}

/// The names in an object, and what kinds their values have.
fn shape(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "bool".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "text".into(),
        Value::Array(items) => format!("[{}]", items.first().map(shape).unwrap_or_default()),
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| match name.as_str() {
                // How many there are of what depends on what else runs.
                "waiting" | "held" => format!("{name}: …"),
                // Whether there was time for it.
                "stack" | "peer" => format!("{name}: …"),
                _ => format!("{name}: {}", shape(value)),
            };
            format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
    }
}

/// The metrics page: what is said of every family, and the series of these processes.
fn page(page: &str, pids: &[u32]) -> String {
    let of_them = |line: &&str| pids.iter().any(|pid| line.contains(&format!("pid=\"{pid}\"")));
    // Whether it has series is up to the host's other processes.
    let is_others = |line: &str| line.contains(" tracer_unclosed_connections ");
    let help = page.lines().filter(|line| line.starts_with('#') && !is_others(line));
    let help: Vec<String> = help.map(str::to_owned).collect();
    let mut series: Vec<String> = page.lines().filter(of_them).map(without_digits).collect();
    series.sort();
    // Threads of one process that wait for the same differ in their numbers only.
    series.dedup();
    [help, series].concat().join("\n") + "\n"
}

/// An object without what differs from run to run: numbers, and numbers in texts.
fn plain(value: &Value) -> Value {
    match value {
        Value::Number(_) => "N".into(),
        Value::String(text) => without_digits(text).into(),
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Object(fields) => {
            // What the test itself waits for is whoever reads what it prints.
            let is_test = fields.get("comm").is_some_and(|comm| plain(comm) == "TEST");
            let field = |(name, value): (&String, &Value)| {
                let value = match name.as_str() {
                    "doing" | "then" | "others" if is_test => "…".into(),
                    // Addresses in memory.
                    "args" | "address" => "…".into(),
                    // Whether a probe was under way.
                    "unanswered" => "…".into(),
                    // Who started the test, and where.
                    "parents" | "cgroup" | "unit" | "container" | "runtime" | "pod" | "cwd" | "exe"
                    | "cmdline" | "user" => "…".into(),
                    // What is inside the kernel is the kernel's.
                    "stack" | "user_stack" => "…".into(),
                    _ => plain(value),
                };
                (name.clone(), value)
            };
            Value::Object(fields.iter().map(field).collect::<Map<_, _>>())
        }
        Value::Null | Value::Bool(_) => value.clone(),
    }
}

/// A text in which each number is an `N`, and the test's own folder is named so.
fn without_digits(text: &str) -> String {
    // A thread that was woken for nothing meanwhile has a lower bound for an age.
    let text = text.replace(&own_dir().display().to_string(), "OWN_DIR").replace("at least ", "");
    // A test's program has a number in its name.
    let own_name = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
    let text = text.replace(own_name.trim_end(), "TEST");
    let mut plain = String::with_capacity(text.len());
    let mut in_number = false;
    for c in text.chars() {
        let part = c.is_ascii_digit() || in_number && c == '.';
        if part && !in_number {
            plain.push('N');
        } else if !part {
            plain.push(c);
        }
        in_number = part;
    }
    // The machine may be busy, and a wait older than a minute.
    plain.replace("Nm Ns", "Ns")
}

fn pretty(out: &mut String, value: &Value) {
    let _ = writeln!(out, "{}", serde_json::to_string_pretty(value).expect("is written"));
}

/// What is other than it was, as the lines that differ.
fn difference(name: &str, said: &str) -> Option<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("golden/{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, said).expect("the file can be written");
        return None;
    }
    let before = fs::read_to_string(&path).unwrap_or_default();
    let sorted = |text: &str| -> Vec<String> {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let (old, new) = (sorted(&before), sorted(said));
    // Threads of one age come in any order.
    if old == new {
        return None;
    }
    let mut lines = vec![format!("{name}: {} lines, {} before", new.len(), old.len())];
    lines.extend(old.iter().filter(|line| !new.contains(line)).map(|line| format!("  - {line}")));
    lines.extend(new.iter().filter(|line| !old.contains(line)).map(|line| format!("  + {line}")));
    Some(lines.join("\n"))
}
