//! `cargo xtask bench`: what tracer costs, held against the design's budgets.
//!
//! Ratios come from rounds with and without the agent, interleaved, of which the least counts; the cost of a kernel
//! program from the kernel's own statistics (`kernel.bpf_stats_enabled`), whose own cost an empty program would show too.

mod top;
mod trace;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::cmd::{self, command, is_root, root};

/// One line of the table.
struct Line {
    what: &'static str,
    budget: String,
    measured: String,
    held: bool,
}

/// Measures everything and prints the table.
pub fn run(quick: bool) -> Result<()> {
    ensure!(is_root(), "the bench attaches kernel programs: run it as root");
    cmd::run(command(
        "cargo",
        &["build", "--quiet", "--release", "--locked", "--package", "tracer", "--package", "xtask"],
    ))?;
    let (rounds, seconds) = if quick { (4, 5) } else { (10, 20) };
    let mut lines = Vec::new();
    lines.extend(ratios(rounds)?);
    lines.extend(program_cost()?);
    lines.extend(crowd(10_000, seconds, 3.0, 40.0, true)?);
    lines.extend(crowd(100, seconds, 0.3, 20.0, false)?);
    lines.push(flagged()?);
    lines.extend(top::measure(seconds)?);
    lines.push(trace::compare(if quick { 2 } else { 5 })?);

    println!("| what | budget | measured | |\n| --- | --- | --- | --- |");
    for line in &lines {
        let verdict = if line.held { "held" } else { "NOT held" };
        println!("| {} | {} | {} | {verdict} |", line.what, line.budget, line.measured);
    }
    let missed = lines.iter().filter(|line| !line.held).count();
    ensure!(missed == 0, "{missed} of {} budgets not held", lines.len());
    Ok(())
}

/// Loads with and without the agent, interleaved.
fn ratios(rounds: u32) -> Result<Vec<Line>> {
    const LOADS: [(&str, &str, &str, f64); 3] = [
        ("read(/dev/zero), agent attached", "read-zero", "2000000", 1.02),
        ("getppid, agent attached", "getppid", "3000000", 1.02),
        ("ping-pong over a socket pair, agent attached", "ping-pong", "100000", f64::INFINITY),
    ];
    let mut least = [[f64::MAX; 2]; LOADS.len()];
    for _ in 0..rounds {
        for attached in [false, true] {
            let agent = attached.then(|| Agent::start(&[])).transpose()?;
            for ((_, load, count, _), least) in LOADS.iter().zip(&mut least) {
                let least = &mut least[usize::from(attached)];
                *least = least.min(measure(load, count)?);
            }
            drop(agent);
        }
    }
    Ok(LOADS
        .iter()
        .zip(least)
        .map(|((what, _, _, most), [without, with])| Line {
            what,
            budget: if most.is_finite() {
                format!("under {:.0} %", (most - 1.0) * 100.0)
            } else {
                "none set".into()
            },
            measured: format!("{without:.0} → {with:.0} ns ({:+.1} %)", (with / without - 1.0) * 100.0),
            held: with / without < *most,
        })
        .collect())
}

/// Nanoseconds that one of the loads prints.
fn measure(load: &str, count: &str) -> Result<f64> {
    let mut command = Command::new(xtask());
    command.args(["load", load, count]);
    cmd::output(command)?.trim().parse().with_context(|| format!("the load {load} printed no number"))
}

/// What `waits` costs at each context switch.
fn program_cost() -> Result<Vec<Line>> {
    let _statistics = Statistics::on()?;
    let agent = Agent::start(&[])?;
    let mut lines = Vec::new();
    for (what, load) in [
        ("waits, mean per sched_switch, ping-pong over a socket pair", "ping-pong"),
        ("waits, the same over loopback TCP", "ping-pong-tcp"),
    ] {
        let before = agent.program("waits")?;
        measure(load, "300000")?;
        let after = agent.program("waits")?;
        let each = (after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64;
        lines.push(Line {
            what,
            budget: "400 ns".into(),
            measured: format!("{each:.0} ns over {} runs", after.1 - before.1),
            held: each <= 400.0,
        });
    }
    drop(agent);
    lines.push(answers_cost()?);
    Ok(lines)
}

/// What `answers` costs at each read of TCP data, half of which are of answers.
fn answers_cost() -> Result<Line> {
    let config = std::env::temp_dir().join(format!("tracer-bench-{}.toml", std::process::id()));
    fs::write(&config, "[agent]\nresponse_times = true\n")?;
    let agent = Agent::start(&["--config", &config.to_string_lossy()]);
    fs::remove_file(&config)?;
    let agent = agent?;
    let before = agent.program("answers")?;
    measure("ping-pong-tcp", "300000")?;
    let after = agent.program("answers")?;
    let each = (after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64;
    Ok(Line {
        what: "answers (`response_times = true`), mean per read, ping-pong over loopback TCP",
        budget: "400 ns".into(),
        measured: format!("{each:.0} ns over {} runs", after.1 - before.1),
        held: each <= 400.0,
    })
}

/// What a host with this many blocked threads costs.
fn crowd(threads: usize, seconds: u64, most_cpu: f64, most_mib: f64, whole: bool) -> Result<Vec<Line>> {
    let _crowd = Crowd::start(threads)?;
    let mut lines = Vec::new();
    if !whole {
        let mut times: Vec<f64> = (0..10)
            .map(|_| {
                let begun = Instant::now();
                let mut ps = Command::new(tracer());
                ps.arg("ps");
                cmd::output(ps).map(|_| begun.elapsed().as_secs_f64() * 1000.0)
            })
            .collect::<Result<_>>()?;
        times.sort_by(f64::total_cmp);
        lines.push(Line {
            what: "`tracer ps`, cold, 100 blocked threads",
            budget: "150 ms".into(),
            measured: format!("{:.0} ms (median of ten)", times[5]),
            held: times[5] <= 150.0,
        });
    }
    let agent = Agent::start(&[])?;
    thread::sleep(Duration::from_secs(3));
    let (cpu, sum, count) = (
        agent.cpu()?,
        agent.metric("tracer_snapshot_duration_seconds_sum")?,
        agent.metric("tracer_snapshot_duration_seconds_count")?,
    );
    thread::sleep(Duration::from_secs(seconds));
    let share = (agent.cpu()? - cpu) / seconds as f64 * 100.0;
    let passes = (agent.metric("tracer_snapshot_duration_seconds_count")? - count).max(1.0);
    let pass = (agent.metric("tracer_snapshot_duration_seconds_sum")? - sum) / passes;
    let mib = agent.resident_mib()?;
    if whole {
        let each = pass / threads as f64 * 1e6;
        lines.push(Line {
            what: "snapshot, per waiting thread, kernel and decode (10,000)",
            budget: "2 µs".into(),
            measured: format!("{each:.2} µs"),
            held: each <= 2.0,
        });
    }
    let (what_cpu, what_memory) = if whole {
        ("agent at 1 s, 10,000 blocked threads: CPU", "the same: resident memory")
    } else {
        ("agent at 1 s, 100 blocked threads: CPU", "the same, 100 threads: resident memory")
    };
    lines.push(Line {
        what: what_cpu,
        budget: format!("{most_cpu} % of a core"),
        measured: format!("{share:.2} %"),
        held: share <= most_cpu,
    });
    lines.push(Line {
        what: what_memory,
        budget: format!("{most_mib:.0} MiB"),
        measured: format!("{mib:.1} MiB"),
        held: mib <= most_mib,
    });
    Ok(lines)
}

/// How late a stall is flagged.
fn flagged() -> Result<Line> {
    let mut agent = Agent::start(&["--threshold", "2s"])?;
    thread::sleep(Duration::from_millis(1300));
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    let begun = Instant::now();
    let reader = thread::spawn(move || (&client).read(&mut [0u8; 1]));
    let own = format!("\"pid\":{},", std::process::id());
    let late = loop {
        let line = agent.line()?;
        if line.contains("stall_opened") && line.contains(&own) {
            break begun.elapsed().as_secs_f64() - 2.0;
        }
    };
    server.write_all(b"x")?;
    let _ = reader.join();
    Ok(Line {
        what: "a stall is flagged, after its threshold, interval 1 s",
        budget: "1.1 s".into(),
        measured: format!("{late:.2} s"),
        held: late <= 1.1,
    })
}

fn tracer() -> PathBuf {
    root().join("target/release/tracer")
}

fn xtask() -> PathBuf {
    root().join("target/release/xtask")
}

/// CPU seconds a process's threads have used, in the kernel and outside.
fn cpu_of(pid: u32) -> Result<f64> {
    let schedstat: f64 = fs::read_dir(format!("/proc/{pid}/task"))?
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split_ascii_whitespace().next()?.parse::<f64>().ok())
        .sum();
    Ok(schedstat / 1e9)
}

/// A running agent; it is killed when dropped.
struct Agent {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
    port: u16,
    state: PathBuf,
}

impl Agent {
    fn start(args: &[&str]) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tracer-bench-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let state = std::env::temp_dir().join(name);
        fs::create_dir_all(&state)?;
        let said = state.join("said");
        let mut child = Command::new(tracer())
            .args(["agent", "--listen", "127.0.0.1:0"])
            .arg("--socket")
            .arg(state.join("agent.sock"))
            .arg("--state-dir")
            .arg(&state)
            .args(args)
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&said)?)
            .spawn()
            .context("cannot start the agent")?;
        let lines = BufReader::new(child.stdout.take().context("the agent has no output")?);
        let mut agent = Self { child, lines, port: 0, state };
        for _ in 0..100 {
            let said = fs::read_to_string(&said)?;
            agent.port = port_in(&said).unwrap_or(0);
            if agent.get("/-/ready").is_ok_and(|page| page.starts_with("HTTP/1.1 200")) {
                return Ok(agent);
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("the agent did not get ready")
    }

    fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    }

    /// The next line of its standard output.
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.lines.read_line(&mut line)? > 0, "the agent ended");
        Ok(line)
    }

    /// Sum over the series of a metric.
    fn metric(&self, name: &str) -> Result<f64> {
        let page = self.get("/metrics")?;
        let values = page
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        Ok(values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    fn proc(&self, file: &str) -> Result<String> {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).context("the agent is gone")
    }

    /// CPU seconds it has used, in the kernel and outside.
    fn cpu(&self) -> Result<f64> {
        cpu_of(self.child.id())
    }

    fn resident_mib(&self) -> Result<f64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }

    /// Run time in nanoseconds and runs of one of its kernel programs.
    fn program(&self, name: &str) -> Result<(u64, u64)> {
        for entry in fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.flatten() {
            if fs::read_link(entry.path()).is_ok_and(|link| link.to_string_lossy().contains("bpf-prog")) {
                let info = self.proc(&format!("fdinfo/{}", entry.file_name().to_string_lossy()))?;
                let field = |field: &str| -> u64 {
                    info.lines().find_map(|line| line.strip_prefix(field)?.trim().parse().ok()).unwrap_or(0)
                };
                if program_name(field("prog_id:") as u32)? == name {
                    return Ok((field("run_time_ns:"), field("run_cnt:")));
                }
            }
        }
        bail!("the agent has no kernel program {name}")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.state);
    }
}

/// The port that an agent has said it serves.
fn port_in(said: &str) -> Option<u16> {
    let (_, rest) = said.split_once("metrics on http://")?;
    rest.split_once("/metrics")?.0.rsplit(':').next()?.parse().ok()
}

/// Name of a loaded program (`BPF_PROG_GET_FD_BY_ID`, `BPF_OBJ_GET_INFO_BY_FD`; include/uapi/linux/bpf.h).
fn program_name(id: u32) -> Result<String> {
    let mut info = [0u8; 256];
    // SAFETY: the attributes are laid out as the kernel documents them and outlive the calls; the kernel writes at most
    // `info_len` bytes of `info`, and the fd is closed here.
    unsafe {
        let get: [u32; 3] = [id, 0, 0];
        let fd = libc::syscall(libc::SYS_bpf, 13, get.as_ptr(), size_of_val(&get));
        if fd < 0 {
            return Err(std::io::Error::last_os_error()).context("cannot open a kernel program");
        }
        let ask: [u64; 2] = [fd as u64 | (info.len() as u64) << 32, info.as_mut_ptr() as u64];
        let result = libc::syscall(libc::SYS_bpf, 15, ask.as_ptr(), size_of_val(&ask));
        libc::close(fd as i32);
        if result != 0 {
            return Err(std::io::Error::last_os_error()).context("cannot ask for a kernel program's name");
        }
    }
    // struct bpf_prog_info: the name is at 64, sixteen bytes.
    Ok(String::from_utf8_lossy(&info[64..80]).trim_end_matches('\0').to_owned())
}

/// The kernel's statistics of BPF programs, on until dropped.
struct Statistics(String);

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

impl Statistics {
    fn on() -> Result<Self> {
        let before = fs::read_to_string(SWITCH).context("this kernel has no BPF statistics")?;
        fs::write(SWITCH, "1").context("cannot turn on the BPF statistics")?;
        Ok(Self(before))
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        let _ = fs::write(SWITCH, &self.0);
    }
}

/// Blocked threads; they go when dropped.
struct Crowd(Child);

impl Crowd {
    fn start(threads: usize) -> Result<Self> {
        let mut child = Command::new(xtask())
            .args(["load", "blocked", &threads.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the blocked threads")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        let crowd = Self(child);
        ensure!(line.trim() == "ready", "the blocked threads did not start");
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
