//! Does the live view show what is stuck, obey its keys, and leave the terminal as it was?

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tests::{Agent, NOBODY, Running, Waiter, own_dir, shared, slow, start, tracer, unused_id};

const PATIENCE: Duration = Duration::from_secs(10);

static MEMBERS: LazyLock<u32> = LazyLock::new(unused_id);

/// A terminal with `tracer top` on it.
pub(crate) struct Terminal {
    keys: File,
    /// Kept open, so that its settings can be read when the program has gone.
    slave: OwnedFd,
    before: Vec<u8>,
    screen: Arc<Mutex<vt100::Parser>>,
    /// Somebody is to read what is written.
    reads: Arc<AtomicBool>,
    reader: JoinHandle<()>,
    pub(crate) top: Running,
}

impl Terminal {
    pub(crate) fn start(width: u16, height: u16, args: &[&str]) -> Self {
        Self::start_as(width, height, args, |_| {})
    }

    /// The same, as another user or with another environment.
    fn start_as(width: u16, height: u16, args: &[&str], more: impl FnOnce(&mut Command)) -> Self {
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
        // What other tests start meanwhile must not keep it open.
        for end in [&master, &slave] {
            // SAFETY: fcntl takes numbers.
            assert_eq!(unsafe { libc::fcntl(end.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) }, 0);
        }
        let mut command = Command::new(tracer());
        let copy = || slave.try_clone().expect("a descriptor");
        command.arg("top").args(args).stdin(copy()).stdout(copy()).stderr(copy());
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR").current_dir(own_dir());
        // SAFETY: setsid and ioctl are async-signal-safe and take numbers.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY as libc::Ioctl, 0);
                Ok(())
            });
        }
        more(&mut command);
        let before = settings(&slave);
        // A terminal without a size is taken for one of 80 times 24.
        let (lines, columns) = (if height == 0 { 24 } else { height }, if width == 0 { 80 } else { width });
        let screen = Arc::new(Mutex::new(vt100::Parser::new(cells(lines), cells(columns), 0)));
        let mut output = File::from(master.try_clone().expect("a descriptor"));
        let (shared, reads) = (Arc::clone(&screen), Arc::new(AtomicBool::new(true)));
        let goes_on = Arc::clone(&reads);
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while goes_on.load(Ordering::Relaxed) {
                if !is_readable(&output, Duration::from_millis(20)) {
                    continue;
                }
                let Ok(length @ 1..) = output.read(&mut bytes) else { return };
                shared.lock().expect("no panic").process(&bytes[..length]);
            }
        });
        Self { keys: File::from(master), slave, before, screen, reads, reader, top: start(command) }
    }

    pub(crate) fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    fn text(&self) -> String {
        self.screen.lock().expect("no panic").screen().contents()
    }

    /// Waits until the screen is as wanted.
    pub(crate) fn wait(&self, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        let begin = Instant::now();
        loop {
            let text = self.text();
            if is_it(&text) {
                return text;
            }
            assert!(begin.elapsed() < slow(PATIENCE), "{what}: {:?}\n{text}", self.reversed());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Lines of the screen that are drawn in reverse, the first is 0, and whether anything has a colour.
    fn reversed(&self) -> (Vec<u16>, bool) {
        let parser = self.screen.lock().expect("no panic");
        let screen = parser.screen();
        let (height, width) = screen.size();
        let (height, width) = (height.get(), width.get());
        let cell = |row: u16, column: u16| screen.cell(row, column).expect("on the screen");
        let reversed = (0..height).filter(|row| cell(*row, 2).inverse()).collect();
        let coloured = (0..height)
            .any(|row| (0..width).any(|column| cell(row, column).fgcolor() != vt100::Color::Default));
        (reversed, coloured)
    }

    /// Waits until this line of the screen is the one that is selected.
    fn wait_selected(&self, row: u16) {
        self.wait(&format!("line {row} is selected"), |_| self.reversed().0 == [row]);
    }

    /// Presses the first button of the mouse on a line of the screen.
    fn click(&mut self, row: u16) {
        let row = row + 1;
        self.press(&format!("\x1b[<0;5;{row}M\x1b[<0;5;{row}m"));
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

    /// Waits until its write waits for room. Nobody may read, which is so while somebody holds the screen.
    fn until_held(&self) {
        let begin = Instant::now();
        while !is_writing(self.top.pid()) {
            assert!(begin.elapsed() < slow(PATIENCE), "it goes on drawing");
            // What is drawn anew is much.
            self.resize_unseen(if begin.elapsed().as_millis().is_multiple_of(2) { 199 } else { 200 }, 50);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The other end goes, as when a connection is dropped; the program ends by itself.
    fn vanishes_well(self, when: &str) {
        let Self { keys, mut top, reads, reader, .. } = self;
        reads.store(false, Ordering::Relaxed);
        reader.join().expect("no panic");
        drop(keys);
        let status = top.wait(slow(PATIENCE)).unwrap_or_else(|| panic!("{when}: it runs on"));
        assert!(matches!(status.code(), Some(0 | 1)), "{when}: {status}");
    }

    /// It has ended well, and the terminal is as it was.
    pub(crate) fn ends_well(mut self) {
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

fn is_readable(file: &File, within: Duration) -> bool {
    let mut fd = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: the one entry outlives the call.
    unsafe { libc::poll(&raw mut fd, 1, within.as_millis() as i32) > 0 }
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
pub(crate) fn line_of(text: &str, pid: u32) -> Option<&str> {
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
    // A page is wrapped anew.
    top.press("\r");
    top.wait("why", |text| text.contains(&format!("waiter (pid {of_stuck}) is stuck")));
    top.resize(60, 24);
    top.wait("a narrower page", |text| {
        let page: Vec<&str> = text.lines().filter(|line| line.starts_with('│')).collect();
        // Nothing is cut: each line of the page ends with a space or the end of a word before its border.
        text.contains("┌ Why")
            && page.join(" ").contains("│ │")
            && page.iter().all(|line| line.ends_with('│'))
    });
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
fn the_selected_line_is_told_by_reverse_video_without_colours_too() {
    let _shared = shared();
    let waiters: Vec<Waiter> = (0..3).map(|_| Waiter::start("recvfrom-tcp4")).collect();
    let pids: Vec<String> = waiters.iter().map(|waiter| waiter.pid().to_string()).collect();
    let args: Vec<&str> = pids.iter().flat_map(|pid| ["-p", pid.as_str()]).collect();
    for no_color in [None, Some("1")] {
        let mut top = Terminal::start_as(80, 24, &args, |command| {
            command.envs(no_color.map(|value| ("NO_COLOR", value)));
        });
        top.wait("three lines", |text| text.contains("3 lines"));
        // Three lines of the header, the heading, the first line.
        top.wait_selected(4);
        top.press("j");
        top.wait_selected(5);
        assert_eq!(top.reversed().1, no_color.is_none(), "{}", top.text());
        top.press("q");
        top.ends_well();
    }
}

#[test]
fn the_mouse_selects_what_it_is_on() {
    let _shared = shared();
    let waiters: Vec<Waiter> = (0..3).map(|_| Waiter::start("recvfrom-tcp4")).collect();
    let pids: Vec<String> = waiters.iter().map(|waiter| waiter.pid().to_string()).collect();
    let args: Vec<&str> = pids.iter().flat_map(|pid| ["-p", pid.as_str()]).collect();
    let mut top = Terminal::start(80, 24, &args);
    top.wait("three lines", |text| text.contains("3 lines"));
    top.click(6);
    top.wait_selected(6);
    // The header, the heading, below the last line, the footer: nothing is there to select. The last one is seen.
    for row in [0, 3, 9, 23, 5] {
        top.click(row);
    }
    top.wait_selected(5);
    top.click(23);
    top.press("\r");
    top.wait("a page", |text| text.contains("┌ Why"));
    top.click(6);
    // What comes next is seen after the click was.
    top.press("q");
    top.wait("the table", |text| !text.contains("┌ Why"));
    top.wait_selected(5);
    top.press("q");
    top.ends_well();
}

#[test]
fn lines_are_sorted_and_joined() {
    let _shared = shared();
    let waiters: Vec<Waiter> = (0..2).map(|_| Waiter::start("recvfrom-tcp4")).collect();
    let pids: Vec<String> = waiters.iter().map(|waiter| waiter.pid().to_string()).collect();
    let mut top = Terminal::start(80, 24, &["-p", &pids[0], "-p", &pids[1]]);
    top.wait("two lines", |text| text.contains("2 lines"));
    let first =
        |pid: u32| move |text: &str| text.lines().nth(4).is_some_and(|line| line_of(line, pid).is_some());
    top.press("ss");
    let (low, high) = {
        let mut pids = [waiters[0].pid(), waiters[1].pid()];
        pids.sort_unstable();
        (pids[0], pids[1])
    };
    top.wait("by process", |text| text.contains("by pid") && first(low)(text));
    top.press("S");
    top.wait("the other way round", |text| text.contains("by pid, reversed") && first(high)(text));
    // Both belong to the same unit, or to none.
    top.press("u");
    top.wait("one group", |text| {
        text.contains("1 line ") && text.contains("waiter +1") && text.contains("UNIT")
    });
    top.press("w");
    let text = top.wait("what it wrote", |text| text.contains("written to "));
    let name = text.split("written to ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let written = std::fs::read_to_string(own_dir().join(name.expect("a name"))).expect("it is there");
    let group: serde_json::Value = serde_json::from_str(written.trim()).expect("one object");
    assert_eq!((&group["waits"], group["group"].is_string()), (&2.into(), true), "{group:#}");
    top.press("c");
    top.wait("by container", |text| text.contains("CONTAINER"));
    top.press("t");
    top.wait("processes", |text| text.contains("2 lines"));
    top.press("q");
    top.ends_well();
}

/// Fed by an agent, as one who is nobody else: the same lines as root sees, the pages, a past of which nothing was kept.
#[test]
fn a_member_of_the_group_sees_what_root_sees() {
    let _shared = shared();
    let agent = Agent::start(&["--socket-group", &MEMBERS.to_string()]);
    std::fs::set_permissions(own_dir(), std::fs::Permissions::from_mode(0o755)).expect("our own directory");
    let waiter = Waiter::start("recvfrom-tcp4");
    let pid = waiter.pid().to_string();
    let socket = agent.socket().to_str().expect("a path of ours").to_owned();
    let args = ["--source", "agent", "--socket", &socket, "-p", &pid];
    let mut top = Terminal::start_as(80, 24, &args, |command| {
        command.uid(NOBODY).gid(*MEMBERS);
    });
    let root = Terminal::start(80, 24, &["--source", "bpf", "-p", &pid]);
    let there = |text: &str| line_of(text, waiter.pid()).and_then(age).is_some_and(|age| age >= 2.0);
    let line = |text: &str| {
        let words = line_of(text, waiter.pid()).expect("there").split_whitespace();
        // All but the age.
        words.skip(if text.contains("! ") { 2 } else { 1 }).map(str::to_owned).collect::<Vec<_>>()
    };
    let (asked, own) = (top.wait("the stall", there), root.wait("the stall", there));
    assert_eq!(line(&asked), line(&own), "{asked}\n{own}");
    for text in [&asked, &own] {
        // Of the chosen process, not of the host.
        assert!(
            text.contains("1 stuck, oldest") && text.contains("reply 1") && text.contains("own CPU"),
            "{text}"
        );
    }
    drop(root);
    top.press("\r");
    let page = top.wait("why", |text| text.contains(&format!("waiter (pid {pid}) is stuck")));
    // It is told again as it gets older.
    let sentence = |text: &str| text.split("is stuck").nth(1).map(|rest| rest[..40].to_owned());
    top.wait("a newer page", |text| sentence(text) != sentence(&page));
    top.press("q");

    // Before anything was kept there is nothing, and that is said; then it is now again, and goes on.
    top.press(" [");
    top.wait("the past", |text| {
        text.starts_with("AS OF ")
            && text.contains("NOT RECORDED")
            && text.contains("recorded nothing in this minute")
    });
    top.press("]");
    let now = top.wait("now", |text| !text.contains("AS OF") && line_of(text, waiter.pid()).is_some());
    let then = line_of(&now, waiter.pid()).map(str::to_owned);
    top.wait("it goes on", |text| line_of(text, waiter.pid()).map(str::to_owned) != then);
    top.press("q");
    top.ends_well();
}

#[test]
fn who_may_not_see_is_told_so() {
    let _shared = shared();
    let agent = Agent::start(&["--socket-group", &MEMBERS.to_string()]);
    std::fs::set_permissions(own_dir(), std::fs::Permissions::from_mode(0o755)).expect("our own directory");
    let waiter = Waiter::start("recvfrom-tcp4");
    let socket = agent.socket().to_str().expect("a path of ours").to_owned();
    let pid = waiter.pid().to_string();
    let args = ["--socket", &socket, "--state-dir", "/nowhere", "-p", &pid];
    let mut top = Terminal::start_as(80, 24, &args, |command| {
        command.uid(NOBODY).gid(unused_id());
    });
    top.wait("nothing", |text| {
        text.contains("1 not visible to you") && text.contains("Nothing that is visible to you is stuck.")
    });
    top.press("[");
    let text = top.wait("the group", |text| text.contains(&format!("members of the group {}", *MEMBERS)));
    assert!(!text.contains("AS OF"), "{text}");
    top.press("j");
    top.wait("it goes on", |text| text.contains("0 lines"));
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
    let held = Arc::clone(&top.screen);
    let _held = held.lock().expect("no panic");
    top.until_held();
    top.top.signal(libc::SIGTERM);
    assert_eq!(top.top.wait(slow(PATIENCE)).expect("it ends").code(), Some(1));
}

/// The states it can be in when its terminal goes: the keys that lead there, and what is on the screen then.
const STATES: &[(&str, &str)] = &[
    ("", "PID/TID"),
    ("/cl", "/cl"),
    ("?", "everything about this line"),
    ("\r", "┌ Why"),
    (" [", "AS OF "),
    (" ", "PAUSED"),
];

type Prepare = fn(&mut Command);

/// How it is told that its terminal has gone: by a signal as well, by one that it ignores as nohup(1) has it, or not by a signal, as
/// setsid(1) has it.
const TOLD: &[(&str, Prepare)] =
    &[("SIGHUP", |_| {}), ("SIGHUP, ignored", ignoring_hangup), ("no signal", without_controlling_terminal)];

/// Its connection is dropped: it ends, and leaves no core.
#[test]
fn a_terminal_that_vanishes_ends_it_well_in_each_state() {
    let _shared = shared();
    let agent = Agent::start(&[]);
    let socket = agent.socket().to_str().expect("a path of ours").to_owned();
    let waiter = Waiter::start("recvfrom-tcp4");
    let pid = waiter.pid().to_string();
    for (told, prepare) in TOLD {
        for (keys, shown) in STATES {
            let args = ["--socket", &socket, "--source", "agent", "-p", &pid];
            let mut top = Terminal::start_as(100, 30, &args, prepare);
            top.wait("a stall", |text| line_of(text, waiter.pid()).is_some());
            top.press(keys);
            top.wait(shown, |text| text.contains(shown));
            top.vanishes_well(&format!("{told}, {shown}"));
        }
    }
}

/// Also while it draws, and waits for room on the terminal.
#[test]
fn a_terminal_that_vanishes_ends_it_well_while_it_draws() {
    let _shared = shared();
    for (told, prepare) in TOLD {
        let top = Terminal::start_as(200, 50, &["--interval", "100ms", "--all"], prepare);
        top.wait("a frame", |text| text.contains("PID/TID"));
        let screen = Arc::clone(&top.screen);
        let held = screen.lock().expect("no panic");
        top.until_held();
        top.reads.store(false, Ordering::Relaxed);
        drop(held);
        top.vanishes_well(&format!("{told}, while it draws"));
    }
}

fn ignoring_hangup(command: &mut Command) {
    // SAFETY: signal is async-signal-safe, and takes numbers.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            Ok(())
        });
    }
}

fn without_controlling_terminal(command: &mut Command) {
    // SAFETY: both are async-signal-safe, and take numbers.
    unsafe {
        command.pre_exec(|| {
            // Whoever gives up a terminal is told so, too.
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            libc::ioctl(0, libc::TIOCNOTTY as libc::Ioctl);
            libc::signal(libc::SIGHUP, libc::SIG_DFL);
            Ok(())
        });
    }
}

#[test]
fn a_terminal_without_a_size_is_80_by_24() {
    let _shared = shared();
    let waiter = Waiter::start("recvfrom-tcp4");
    let mut top = Terminal::start(0, 0, &["-p", &waiter.pid().to_string()]);
    let text = top.wait("the whole view", |text| {
        line_of(text, waiter.pid()).is_some()
            && text.lines().last().is_some_and(|line| line.contains("q quit"))
    });
    assert_eq!(text.lines().count(), 24, "{text}");
    top.press("q");
    top.ends_well();
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
