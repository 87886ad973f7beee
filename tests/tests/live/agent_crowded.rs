//! Can one user keep the agent from another's hang? Attackers are an ordinary user, the victim is root's.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tests::{Agent, NOBODY, Sample, Waiter, alone, http, own_dir, shared, slow, tracer, unused_id};

/// Who asks beside nobody, and the group that may use the socket, of which both are members.
static MEMBER: LazyLock<u32> = LazyLock::new(unused_id);
static MEMBERS: LazyLock<u32> = LazyLock::new(unused_id);
/// The agent's threshold, and how much later the victim may be flagged.
const THRESHOLD: Duration = Duration::from_secs(3);
const LATE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);

fn value(all: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    all.iter().filter(|sample| sample.is(name, labels)).map(|sample| sample.value).sum()
}

/// A hang of root's that is seen in time: flagged, with a series, by `ps`.
fn victim_is_seen(agent: &mut Agent) -> Waiter {
    is_seen(Waiter::start("recvfrom-tcp4"), agent)
}

fn is_seen(victim: Waiter, agent: &mut Agent) -> Waiter {
    agent.wait_stall("stall_opened", victim.pid(), THRESHOLD + LATE);
    let pid = victim.pid().to_string();
    agent.wait_scrape(LATE, |all| value(all, "tracer_stall_seconds", &[("pid", &pid)]) > 0.0);
    let output = Command::new(tracer())
        .args(["ps", "--source", "agent", "--json", "-p", &pid, "--socket"])
        .arg(agent.socket())
        .output()
        .expect("tracer starts");
    let page = String::from_utf8_lossy(&output.stdout);
    assert!(page.contains(&format!("\"pid\":{pid},")), "{page}{}", String::from_utf8_lossy(&output.stderr));
    victim
}

/// More stalls than there are series, and than the hook may be run for: the victim has its series and its run.
#[test]
fn a_flood_of_stalls_leaves_room_for_another_user() {
    const FLOOD: usize = 250;
    let _alone = alone();
    let (path, out) = (own_dir().join("flood.toml"), own_dir().join("flood.out"));
    // Only the stalls of this test: what else root waits for on this machine would be root's share.
    let write = |rules: &str| {
        let hook = format!("on_stall = ['/bin/sh', '-c', 'cat >> {}']", out.display());
        let others = "[[rule]]\ncomm = '*'\nflag = false\n";
        let text = format!("[agent]\n{hook}\non_stall_a_minute = 10\nthreshold = '3s'\n{rules}{others}");
        fs::write(&path, text).expect("write");
    };
    let flooding = format!("[[rule]]\nuser = '{NOBODY}'\nclass = 'reply'\nthreshold = '3s'\nflag = true\n");
    write(&flooding);
    let mut agent = Agent::start(&["--config", path.to_str().expect("text")]);
    let flood = Waiter::start_as(NOBODY, "threads", &[&FLOOD.to_string()]);
    let open = |all: &[Sample]| value(all, "tracer_open_stalls", &[("class", "reply")]);
    agent.wait_scrape(PATIENCE, |all| open(all) >= FLOOD as f64);
    // As many as it will be told of for now.
    let told = |pid: u32| {
        let text = fs::read_to_string(&out).unwrap_or_default();
        text.matches(&format!("\"pid\":{pid},")).count()
    };
    let begin = Instant::now();
    let lost = [("reason", "hook_not_run")];
    agent.wait_scrape(PATIENCE, |all| value(all, "tracer_lost_events_total", &lost) >= (FLOOD - 10) as f64);

    let victim = Waiter::start("recvfrom-tcp4");
    let local = victim.text("local");
    write(&format!("{flooding}[[rule]]\nlocal = '{local}'\nthreshold = '3s'\nflag = true\n"));
    agent.signal(libc::SIGHUP);
    let victim = is_seen(victim, &mut agent);
    while told(victim.pid()) == 0 {
        assert!(begin.elapsed() < slow(PATIENCE), "it is not told of it\n{}", agent.stderr());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!((1..10).contains(&told(flood.pid())), "{}", told(flood.pid()));
    let all = agent.scrape();
    let series = all.iter().filter(|sample| sample.name == "tracer_stall_seconds").count();
    let without = value(&all, "tracer_stalls_without_series", &[]);
    assert_eq!((series, value(&all, "tracer_open_stalls", &[])), (200, 200.0 + without));
    assert!(without >= (FLOOD - 199) as f64, "{without}");
    assert!(value(&all, "tracer_blind", &[("cause", "series")]) == 1.0, "{}", agent.page());
    assert_eq!(agent.stderr().matches("does not see everything (series)").count(), 1, "{}", agent.stderr());
}

/// Makes this thread leave the processors to others: what it crowds is the agent, which shares itself, and not the machine, which
/// the kernel shares.
fn leave_the_processors() {
    // SAFETY: a call that takes numbers; 0 is the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
}

/// Makes this thread an ordinary user's of the group, and no other thread.
fn become_member(uid: u32) {
    // The C library's functions change all threads.
    // SAFETY: both calls take numbers only.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_setresgid, *MEMBERS, *MEMBERS, *MEMBERS), 0);
        assert_eq!(libc::syscall(libc::SYS_setresuid, uid, uid, uid), 0);
    }
}

/// Asks once, on a connection of its own; the status.
fn ask(socket: &Path, path: &str) -> std::io::Result<u16> {
    let answer = http::get_unix(socket, path)?;
    assert_eq!(answer.status == 503, answer.head.contains("\r\nretry-after: 1"), "{answer:?}");
    Ok(answer.status)
}

fn agent_for_members() -> Agent {
    let agent = Agent::start(&["--threshold", "3s", "--socket-group", &MEMBERS.to_string()]);
    fs::set_permissions(own_dir(), Permissions::from_mode(0o755)).expect("our own directory");
    agent
}

/// One member asks on forty connections without stopping: the others are answered, and the victim's hang is seen.
#[test]
fn who_never_stops_asking_keeps_nobody_from_asking() {
    const ASKERS: usize = 40;
    let _alone = alone();
    let mut agent = agent_for_members();
    let socket = agent.socket();
    let waiter = Waiter::start("recvfrom-tcp4");
    waiter.until_age(1.0);
    let path = format!("/v1/why/{}", waiter.pid());
    let (ends, refused) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..ASKERS {
            scope.spawn(|| {
                leave_the_processors();
                become_member(NOBODY);
                while !ends.load(Ordering::Relaxed) {
                    let is_refused = ask(&socket, &path).is_ok_and(|status| status == 503);
                    refused.fetch_add(usize::from(is_refused), Ordering::Relaxed);
                }
            });
        }
        // Also where it panics: the askers have to end.
        let asks = scope.spawn(|| {
            let begin = Instant::now();
            while refused.load(Ordering::Relaxed) < ASKERS {
                assert!(begin.elapsed() < slow(PATIENCE), "they crowd nobody");
                thread::sleep(Duration::from_millis(20));
            }
            let another = scope.spawn(|| {
                become_member(*MEMBER);
                ["/v1/stalls", "/v1/waits", &path, "/v1/host"].map(|path| ask(&socket, path).ok())
            });
            let as_root = [&*path, "/v1/stalls"].map(|path| ask(&socket, path).ok());
            for _ in 0..3 {
                let begin = Instant::now();
                let output = Command::new(tracer())
                    .args(["ps", "--source", "agent", "--socket"])
                    .arg(&socket)
                    .uid(*MEMBER)
                    .gid(*MEMBERS)
                    .output()
                    .expect("tracer starts");
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                assert!(begin.elapsed() < slow(LATE), "{:?}", begin.elapsed());
            }
            let as_member = another.join().expect("it asks");
            assert_eq!((as_member, as_root), ([Some(200); 4], [Some(200); 2]));
            victim_is_seen(&mut agent);
        });
        let result = asks.join();
        ends.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// One member keeps as many connections as there may be: who was there before stays, and others come in.
#[test]
fn who_holds_connections_keeps_nobody_from_connecting() {
    let _shared = shared();
    let mut agent = agent_for_members();
    let socket = agent.socket();
    let listen = || {
        let mut stream = UnixStream::connect(&socket)?;
        write!(stream, "GET /v1/events HTTP/1.1\r\nHost: t\r\n\r\n")?;
        stream.set_read_timeout(Some(slow(PATIENCE)))?;
        Ok::<_, std::io::Error>(stream)
    };
    let before = listen().expect("it listens");
    thread::scope(|scope| {
        let (held, hold) = std::sync::mpsc::channel();
        let attack = scope.spawn(move || {
            become_member(NOBODY);
            let streams: Vec<_> = (0..300).filter_map(|_| listen().ok()).collect();
            held.send(streams).expect("they are taken");
        });
        attack.join().expect("it holds them");
        let _held: Vec<UnixStream> = hold.recv().expect("they are held");
        let another = scope.spawn(|| {
            become_member(*MEMBER);
            ask(&socket, "/v1/stalls").ok()
        });
        assert_eq!(another.join().expect("it asks"), Some(200));
        assert_eq!(ask(&socket, "/v1/stalls").ok(), Some(200));
        let victim = victim_is_seen(&mut agent);
        // It would have been the first to go: its request is the oldest.
        let wanted = format!("\"pid\":{},", victim.pid());
        assert!(BufReader::new(before).lines().map_while(Result::ok).any(|line| line.contains(&wanted)));
    });
}
