//! Does `/metrics` hold what the design lists, and do its counters grow while a wait lasts?

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tests::{Agent, Sample, Waiter, age_tolerance, pause, seconds_between, shared, slow};

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn the_page_declares_its_metrics() {
    let _shared = shared();
    let agent = Agent::start(&["--threshold", "2s"]);
    let waiter = Waiter::start("recvfrom-tcp4");
    let pid = waiter.pid().to_string();
    agent.wait_scrape(PATIENCE, |all| all.iter().any(|s| s.is("tracer_stall_seconds", &[("pid", &pid)])));
    let page = agent.page();
    for (name, kind) in [
        ("tracer_stall_seconds", "gauge"),
        ("tracer_open_stalls", "gauge"),
        ("tracer_stalls_total", "counter"),
        ("tracer_waiting_threads", "gauge"),
        ("tracer_blocked_seconds_total", "counter"),
        ("tracer_snapshot_duration_seconds", "histogram"),
        ("tracer_probe_up", "gauge"),
        ("tracer_build_info", "gauge"),
        ("process_resident_memory_bytes", "gauge"),
    ] {
        assert!(page.contains(&format!("# TYPE {name} {kind}\n")), "no {kind} {name}:\n{page}");
        assert!(page.contains(&format!("# HELP {name} ")), "no help for {name}:\n{page}");
    }
    let samples = agent.scrape();
    let one = |name, labels: &[(&str, &str)]| samples.iter().any(|s| s.is(name, labels) && s.value >= 1.0);
    assert!(one("tracer_waiting_threads", &[("class", "reply")]), "{page}");
    assert!(one("tracer_snapshot_duration_seconds_count", &[("source", "bpf")]), "{page}");
    let probes: Vec<&Sample> = samples.iter().filter(|s| s.name == "tracer_probe_up").collect();
    assert!(!probes.is_empty() && probes.iter().all(|s| !s.label("probe").is_empty()), "{page}");
}

/// Prometheus would rather have OpenMetrics, and some would have anything else: they get the classic text, and are told so.
#[test]
fn whatever_is_accepted_the_page_is_classic_text() {
    let _shared = shared();
    let agent = Agent::start(&[]);
    for accept in [
        "",
        "Accept: */*\r\n",
        "Accept: application/openmetrics-text\r\n",
        "Accept: application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;q=0.4,*/*;q=0.2\r\n",
        "Accept: application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited\r\n",
        "Accept: text/html\r\nAccept-Encoding: gzip\r\n",
    ] {
        let mut stream = TcpStream::connect(agent.address()).expect("connect");
        stream.set_read_timeout(Some(slow(PATIENCE))).expect("a time-out");
        write!(stream, "GET /metrics HTTP/1.0\r\n{accept}\r\n").expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        let (head, page) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(
            head.contains(" 200 ") && head.contains("\r\ncontent-type: text/plain; version=0.0.4\r\n"),
            "{head}"
        );
        assert!(page.contains("\n# TYPE tracer_stalls_total counter\n") && !page.contains("# EOF"), "{page}");
    }
}

#[test]
fn health_and_nonsense() {
    let _shared = shared();
    let agent = Agent::start(&[]);
    for (path, expected) in
        [("/-/healthy", 200), ("/-/ready", 200), ("/metrics", 200), ("/no-such-page", 404)]
    {
        assert_eq!(agent.get(path).map(|(status, _)| status), Some(expected), "{path}");
    }
}

/// `tracer_blocked_seconds_total` of a process's recvfrom on TCP.
fn blocked(agent: &Agent, waiter: &Waiter) -> f64 {
    let pid = waiter.pid().to_string();
    let labels = [("pid", &*pid), ("comm", "waiter"), ("syscall", "recvfrom"), ("kind", "tcp")];
    agent.samples("tracer_blocked_seconds_total", &labels).iter().map(|s| s.value).sum()
}

#[test]
fn blocked_seconds_grow_while_a_wait_lasts_and_count_it_once() {
    let _shared = shared();
    let agent = Agent::start(&[]);
    let mut waiter = Waiter::start("recvfrom-tcp4");
    let pid = waiter.pid().to_string();
    let labels = [("pid", &*pid), ("syscall", "recvfrom")];
    agent.wait_scrape(PATIENCE, |all| all.iter().any(|s| s.is("tracer_blocked_seconds_total", &labels)));

    let begin = tests::realtime_ns();
    let first = blocked(&agent, &waiter);
    let mut last = first;
    let mut elapsed = 0.0;
    while elapsed < 3.0 {
        std::thread::sleep(Duration::from_millis(100));
        let now = blocked(&agent, &waiter);
        assert!(now >= last, "a counter went from {last} to {now}");
        last = now;
        elapsed = seconds_between(begin, tests::realtime_ns());
    }
    // The counter may move by snapshots, a second apart.
    let grown = last - first;
    assert!(
        (elapsed - grown).abs() <= slow(Duration::from_millis(1_200)).as_secs_f64(),
        "grew by {grown:.3} in {elapsed:.3} s"
    );

    let truth = seconds_between(waiter.begun_ns(), waiter.answer());
    // Two intervals for what the kernel counted of the ended wait.
    pause(Duration::from_millis(2_500));
    let total = blocked(&agent, &waiter);
    assert!(total >= last, "a counter went from {last} to {total}");
    assert!(
        (total - truth).abs() <= age_tolerance(),
        "the wait lasted {truth:.3} s, the counter says {total:.3}"
    );
}
