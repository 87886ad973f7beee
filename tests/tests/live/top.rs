//! Does the live view show what is stuck, obey its keys, and leave the terminal as it was?

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tests::{Running, Waiter, own_dir, shared, slow, start, tracer};

const PATIENCE: Duration = Duration::from_secs(10);

/// A terminal with `tracer top` on it.
struct Terminal {
    keys: File,
    /// Kept open, so that its settings can be read when the program has gone.
    slave: OwnedFd,
    before: Vec<u8>,
    screen: Arc<Mutex<vt100::Parser>>,
    top: Running,
}

impl Terminal {
    fn start(width: u16, height: u16, args: &[&str]) -> Self {
        let (mut master, mut slave) = (-1, -1);
        let size = size(width, height);
        // SAFETY: the two numbers and the size outlive the call; no name or settings are asked for.
        let result = unsafe {
            libc::openpty(
                &raw mut master,
                &raw mut slave,
                std::ptr::null_mut(),
                std::ptr::null(),
                &raw const size,
            )
        };
        assert_eq!(result, 0, "openpty: {}", std::io::Error::last_os_error());
        // SAFETY: both have just been opened and belong to nobody else.
        let (master, slave) = unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
        let mut command = Command::new(tracer());
        let copy = || slave.try_clone().expect("a descriptor");
        command.arg("top").args(args).stdin(copy()).stdout(copy()).stderr(copy());
        command.env("TERM", "xterm-256color").current_dir(own_dir());
        // SAFETY: setsid and ioctl are async-signal-safe and take numbers.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY as libc::Ioctl, 0);
                Ok(())
            });
        }
        let before = settings(&slave);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(cells(height), cells(width), 0)));
        let mut output = File::from(master.try_clone().expect("a descriptor"));
        let shared = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                shared.lock().expect("no panic").process(&bytes[..length]);
            }
        });
        Self { keys: File::from(master), slave, before, screen, top: start(command) }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    fn text(&self) -> String {
        self.screen.lock().expect("no panic").screen().contents()
    }

    /// Waits until the screen is as wanted.
    fn wait(&self, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        let begin = Instant::now();
        loop {
            let text = self.text();
            if is_it(&text) {
                return text;
            }
            assert!(begin.elapsed() < slow(PATIENCE), "{what}:\n{text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn resize(&self, width: u16, height: u16) {
        self.screen.lock().expect("no panic").screen_mut().set_size(cells(height), cells(width));
        self.resize_unseen(width, height);
    }

    /// The program is told of another size, what shows its screen is not.
    fn resize_unseen(&self, width: u16, height: u16) {
        let size = size(width, height);
        // SAFETY: the size outlives the call.
        let result =
            unsafe { libc::ioctl(self.keys.as_raw_fd(), libc::TIOCSWINSZ as libc::Ioctl, &raw const size) };
        assert_eq!(result, 0, "TIOCSWINSZ: {}", std::io::Error::last_os_error());
    }

    /// It has ended well, and the terminal is as it was.
    fn ends_well(mut self) {
        let status = self.top.wait(slow(PATIENCE)).expect("it ends");
        assert!(status.success(), "{status}: {}", self.text());
        assert_eq!(settings(&self.slave), self.before, "the terminal's settings");
        self.wait("the screen is given back", |_| {
            let parser = self.screen.lock().expect("no panic");
            let screen = parser.screen();
            !screen.alternate_screen()
                && !screen.hide_cursor()
                && screen.mouse_protocol_mode() == vt100::MouseProtocolMode::None
        });
    }
}

fn cells(number: u16) -> NonZero<u16> {
    NonZero::new(number).expect("a screen has room")
}

fn size(width: u16, height: u16) -> libc::winsize {
    libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 }
}

/// The bytes of a terminal's settings.
fn settings(terminal: &OwnedFd) -> Vec<u8> {
    // SAFETY: an all-zero termios is a valid value of the C struct, which outlives the call.
    let termios = unsafe {
        let mut termios: libc::termios = std::mem::zeroed();
        assert_eq!(libc::tcgetattr(terminal.as_raw_fd(), &raw mut termios), 0);
        termios
    };
    format!("{termios:?}").into_bytes()
}

/// The line of a process.
fn line_of(text: &str, pid: u32) -> Option<&str> {
    text.lines().find(|line| line.split_whitespace().any(|word| word == pid.to_string()))
}

/// Seconds at the beginning of a line, after its mark.
fn age(line: &str) -> Option<f64> {
    line.trim_start_matches(['!', '?', ' ']).split_whitespace().next()?.strip_suffix('s')?.parse().ok()
}

#[test]
fn a_stall_is_on_top_and_keys_are_obeyed() {
    let _shared = shared();
    let (stuck, rest) = (Waiter::start("recvfrom-tcp4"), Waiter::start("nanosleep"));
    let (of_stuck, of_rest) = (stuck.pid(), rest.pid());
    let pids = [of_stuck.to_string(), of_rest.to_string()];
    let mut top = Terminal::start(200, 50, &["-p", &pids[0], "-p", &pids[1]]);
    let text = top.wait("the stall", |text| line_of(text, of_stuck).is_some());
    assert!(text.contains("1 stuck"), "{text}");
    assert!(line_of(&text, of_rest).is_none(), "idle waits are hidden:\n{text}");
    let line = line_of(&text, of_stuck).expect("there");
    assert!(line.starts_with('!') && line.contains("reply") && line.contains(stuck.text("remote")), "{line}");
    let older = |than: f64| {
        move |text: &str| line_of(text, of_stuck).and_then(age).is_some_and(|age| age >= than + 1.0)
    };
    let first = age(line).expect("seconds");
    top.wait("it gets older", older(first));

    top.press("i");
    top.wait("idle waits are shown", |text| line_of(text, of_rest).is_some());
    top.press("/class:timer\r");
    top.wait("the filter", |text| line_of(text, of_stuck).is_none() && line_of(text, of_rest).is_some());
    top.press("\x1b");
    top.wait("the filter is gone", |text| line_of(text, of_stuck).is_some());

    top.press(" ");
    let paused = top.wait("a pause", |text| text.contains("PAUSED"));
    let then = line_of(&paused, of_stuck).and_then(age).expect("seconds");
    std::thread::sleep(slow(Duration::from_millis(2_500)).min(Duration::from_secs(6)));
    assert_eq!(line_of(&top.text(), of_stuck).and_then(age), Some(then), "it stands still");
    top.press(" ");
    top.wait("it goes on", older(then));

    top.press("\r");
    let page = top.wait("why", |text| text.contains(&format!("waiter (pid {of_stuck}) is stuck")));
    assert!(page.contains(stuck.text("remote")), "{page}");
    top.press("q");
    top.wait("the table again", |text| text.contains("1 stuck") && !text.contains("is stuck"));
    top.press("?");
    top.wait("the keys", |text| text.contains("everything about this line"));
    top.press("q");

    for (width, height) in [(40, 10), (200, 50)] {
        top.resize(width, height);
        let whole = |text: &str| {
            line_of(text, of_stuck).is_some()
                && text.contains("PID/TID")
                && text.lines().count() <= height.into()
        };
        let text = top.wait("another size", whole);
        // One header, one footer: nothing is left of the other size.
        assert_eq!(text.matches("PID/TID").count(), 1, "{text}");
        assert_eq!(text.matches("by worst").count(), 1, "{text}");
    }

    top.press("w");
    let text = top.wait("what it wrote", |text| text.contains("written to "));
    let name =
        text.split("written to ").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("a name");
    let written = std::fs::read_to_string(own_dir().join(name)).expect("it is there");
    let pids: Vec<u64> = written
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .filter_map(|wait| wait["pid"].as_u64())
        .collect();
    assert_eq!(pids, [u64::from(of_stuck), u64::from(of_rest)], "{written}");
    top.press("q");
    top.ends_well();
}

#[test]
fn a_signal_leaves_the_terminal_as_it_was() {
    let top = Terminal::start(80, 24, &[]);
    top.wait("a frame", |text| text.contains("stuck") && text.contains("PID/TID"));
    top.top.signal(libc::SIGTERM);
    top.ends_well();
}

#[test]
fn a_terminal_that_nobody_reads_does_not_keep_it_from_ending() {
    let _shared = shared();
    let mut top = Terminal::start(200, 50, &["--interval", "100ms", "--all"]);
    top.wait("a frame", |text| text.contains("PID/TID"));
    // Nobody reads while it is held; then its writes wait for room.
    let held = Arc::clone(&top.screen);
    let _held = held.lock().expect("no panic");
    let begin = Instant::now();
    while !is_writing(top.top.pid()) {
        assert!(begin.elapsed() < slow(PATIENCE), "it goes on drawing");
        // What is drawn anew is much.
        top.resize_unseen(if begin.elapsed().as_millis().is_multiple_of(2) { 199 } else { 200 }, 50);
        std::thread::sleep(Duration::from_millis(5));
    }
    top.top.signal(libc::SIGTERM);
    assert_eq!(top.top.wait(slow(PATIENCE)).expect("it ends").code(), Some(1));
}

/// Whether its first thread is in a write.
fn is_writing(pid: u32) -> bool {
    let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    call.split_whitespace().next() == Some(&libc::SYS_write.to_string())
}

#[test]
fn without_a_terminal_it_is_one_line() {
    let output = Command::new(tracer()).arg("top").output().expect("tracer starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.starts_with("tracer: the live view needs a terminal") && said.lines().count() == 1,
        "{said}"
    );
}
