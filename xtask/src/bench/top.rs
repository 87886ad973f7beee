//! What the live view costs and how fast it answers, on a terminal that `script` makes.

use std::{
    fs,
    io::{Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{Crowd, Line, cpu_of, tracer};

const PATIENCE: Duration = Duration::from_secs(10);

/// How soon it shows what waits, and what it costs beside a crowd.
pub fn measure(seconds: u64) -> Result<Vec<Line>> {
    let crowd = Crowd::start(100)?;
    let mut starts = (0..10).map(|_| View::start().map(|(_, took)| took)).collect::<Result<Vec<_>>>()?;
    starts.sort();
    drop(crowd);

    let _crowd = Crowd::start(10_000)?;
    let (mut view, _) = View::start()?;
    thread::sleep(Duration::from_secs(3));
    let before = cpu_of(view.pid)?;
    thread::sleep(Duration::from_secs(seconds));
    let share = (cpu_of(view.pid)? - before) / seconds as f64 * 100.0;
    let mut answers = (0..50).map(|_| view.answer("j")).collect::<Result<Vec<_>>>()?;
    answers.sort();
    let milliseconds = |took: Duration| took.as_secs_f64() * 1000.0;
    Ok(vec![
        Line {
            what: "`tracer top` shows what waits, 100 blocked threads",
            budget: "200 ms".into(),
            measured: format!("{:.0} ms (median of ten)", milliseconds(starts[5])),
            held: starts[5] <= Duration::from_millis(200),
        },
        Line {
            what: "`tracer top` at 1 s, 10,000 blocked threads, all shown: CPU",
            budget: "10 % of a core".into(),
            measured: format!("{share:.1} %"),
            held: share <= 10.0,
        },
        Line {
            what: "the same: from a key to the screen",
            budget: "16.7 ms".into(),
            measured: format!(
                "{:.1} ms (median of fifty; the longest {:.1})",
                milliseconds(answers[25]),
                milliseconds(answers[49])
            ),
            held: answers[25] <= Duration::from_micros(16_700),
        },
    ])
}

/// A running view, with all waits shown; it is killed when dropped.
struct View {
    script: Child,
    keys: ChildStdin,
    screen: Receiver<Vec<u8>>,
    pid: u32,
}

impl View {
    /// Returns when a blocked thread is on the screen, and how long that took.
    fn start() -> Result<(Self, Duration)> {
        let tracer = tracer();
        let line = format!(
            "stty rows 50 cols 200; echo pid=$$; exec {} top --all --source bpf",
            tracer.to_str().context("a path that is no text")?
        );
        let begun = Instant::now();
        let mut script = Command::new("script")
            .args(["--quiet", "--flush", "--command", &line, "/dev/null"])
            .env("TERM", "xterm-256color")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start `script`")?;
        let keys = script.stdin.take().context("no input")?;
        let mut output = script.stdout.take().context("no output")?;
        let (send, screen) = channel();
        thread::spawn(move || {
            let mut bytes = [0; 65_536];
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                if send.send(bytes[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut view = Self { script, keys, screen, pid: 0 };
        let mut seen = Vec::new();
        // The crowd's threads are named after this program.
        while !String::from_utf8_lossy(&seen).contains("xtask") {
            seen.extend(view.screen.recv_timeout(PATIENCE).context("the view shows nothing")?);
        }
        let took = begun.elapsed();
        let text = String::from_utf8_lossy(&seen);
        let pid = text.split("pid=").nth(1).and_then(|rest| rest.lines().next()).context("no pid")?;
        view.pid = pid.trim().parse().context("no pid")?;
        Ok((view, took))
    }

    /// How long it takes until a key has changed the screen.
    fn answer(&mut self, key: &str) -> Result<Duration> {
        // Not while a frame is being drawn.
        while self.screen.recv_timeout(Duration::from_millis(30)).is_ok() {}
        let begun = Instant::now();
        self.keys.write_all(key.as_bytes())?;
        self.keys.flush()?;
        let bytes = self.screen.recv_timeout(PATIENCE).context("a key changes nothing")?;
        ensure!(!bytes.is_empty(), "the view ended");
        Ok(begun.elapsed())
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if fs::read_to_string(format!("/proc/{}/comm", self.pid)).is_ok_and(|comm| comm.trim() == "tracer") {
            // SAFETY: kill takes numbers only; the process is our grandchild.
            unsafe { libc::kill(self.pid as i32, libc::SIGTERM) };
        }
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}
