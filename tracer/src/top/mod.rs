//! The live view: `source` looks, `model` and `page` know what is shown, `input` says what keys do, `view` draws, on `screen`. This
//! file joins them.
//!
//! Layer 6: uses everything below the commands.

mod filter;
mod groups;
mod input;
mod model;
mod page;
#[cfg(test)]
pub mod samples;
mod screen;
mod source;
mod view;

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal, Write, stdout},
    os::fd::AsFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{Sender, channel},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use ratatui::crossterm::{
    event::{
        Event as Input, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent,
        MouseEventKind, read,
    },
    terminal::disable_raw_mode,
};
use rustix::event::{PollFd, PollFlags, poll};

#[cfg(any(fuzzing, test))]
pub use self::filter::Filter;
use self::{
    groups::{By, Line},
    model::{Effect, Model},
    screen::Screen,
    source::ViewUpdate,
    view::Host,
};
use crate::{
    config::cli::Top,
    wire::{json::GroupObject, lines},
};

/// Files that may be written in one second.
const SAME_SECOND_MAX: u32 = 9;
/// Who is told to end and has not after this is held up by its terminal.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// What the loop waits for.
#[derive(Debug)]
pub enum Event {
    /// A key, the mouse, another size.
    Input(Input),
    /// The feed has something.
    Update(ViewUpdate),
    /// It is to end, or its terminal has.
    End,
}

/// Runs until its user, a signal or an error ends it.
pub fn run(args: &Top) -> Result<()> {
    ensure!(
        io::stdin().is_terminal() && stdout().is_terminal(),
        "the live view needs a terminal; `tracer ps` prints once"
    );
    // Before any thread runs: all of them leave these signals to the one that waits for them.
    let signals = blocked_signals()?;
    let (send, events) = channel();
    let (tell, requests) = channel();
    let name = rustix::system::uname();
    let host = Host {
        name: name.nodename().to_string_lossy().into_owned(),
        kernel: name.release().to_string_lossy().into_owned(),
        colours: std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty()),
    };
    let mut screen = Screen::open()?;
    let mut model = Model::new(args.interval, args.all);
    model.chosen = !args.pid.is_empty();
    screen.draw(&model, &host)?;

    let to = send.clone();
    spawn("signals", move || {
        wait_for(&signals);
        end(&to)
    })?;
    let to = send.clone();
    spawn("hangup", move || {
        wait_for_hangup();
        end(&to)
    })?;
    let to = send.clone();
    spawn("input", move || read_input(&to))?;
    let args = args.clone();
    spawn("feed", move || guarded(&send, || source::run(&args, &requests, &source::sender(send.clone()))))?;

    for event in events.iter() {
        let effect = match event {
            Event::End => return Ok(()),
            Event::Update(ViewUpdate::Failed(why)) => {
                drop(screen);
                bail!("{why}");
            }
            Event::Update(ViewUpdate::Frame(frame)) => model.take(*frame),
            Event::Update(ViewUpdate::Page(tid, text, durations)) => {
                model.take_page(tid, text, durations.as_deref());
                None
            }
            Event::Update(ViewUpdate::NoPast(why)) => {
                model.no_past(why);
                None
            }
            Event::Update(ViewUpdate::Trouble(what)) => {
                model.trouble = Some(what);
                None
            }
            Event::Input(input) => handle(&mut model, &input, screen.header()),
        };
        let (page, width) = screen.room();
        for effect in [effect, model.fit(page, width)].into_iter().flatten() {
            match effect {
                Effect::Quit => return Ok(()),
                // Without a feed there is an event that says so.
                Effect::Tell(request) => drop(tell.send(request)),
                Effect::Write => model.said = Some(write(&model)),
            }
        }
        screen.draw(&model, &host)?;
    }
    Ok(())
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new().name(name.into()).spawn(body).map(drop).context("cannot start a thread")
}

/// Runs the feed. A panic, which has put the terminal back and said what happened, ends the view.
fn guarded(to: &Sender<Event>, feed: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(feed)).is_err() {
        // The view may have ended already.
        let _ = to.send(Event::Update(ViewUpdate::Failed(
            "the live view has crashed: this is a bug in tracer".into(),
        )));
    }
}

/// What a key or the mouse leads to; `header` is how many lines are above the table's first.
fn handle(model: &mut Model, input: &Input, header: u16) -> Option<Effect> {
    match input {
        Input::Key(key) if key.kind != KeyEventKind::Release => {
            if model.typing {
                return handle_typing(model, key);
            }
            input::action(key).and_then(|action| model.act(action))
        }
        Input::Mouse(MouseEvent { kind, row, .. }) => {
            match kind {
                MouseEventKind::ScrollUp => return model.act(input::Action::Up),
                MouseEventKind::ScrollDown => return model.act(input::Action::Down),
                MouseEventKind::Down(MouseButton::Left) => {
                    // Not on what is over the table, above or below it.
                    let line = row.checked_sub(header).map(usize::from).filter(|line| *line < model.page);
                    let line = line.map(|line| model.top + line).filter(|line| *line < model.lines.len());
                    if let Some(line) = line.filter(|_| model.over.is_none()) {
                        model.select(line);
                    }
                }
                _ => {}
            }
            None
        }
        _ => None,
    }
}

fn handle_typing(model: &mut Model, key: &KeyEvent) -> Option<Effect> {
    match key.code {
        KeyCode::Enter => model.typing = false,
        KeyCode::Esc => {
            model.typing = false;
            return model.act(input::Action::Back);
        }
        KeyCode::Backspace => model.type_letter(None),
        KeyCode::Char('c') if input::action(key) == Some(input::Action::Quit) => return Some(Effect::Quit),
        // As shells have it: the whole, the last word.
        KeyCode::Char('u') if key.modifiers == KeyModifiers::CONTROL => model.keep_filter(0),
        KeyCode::Char('w') if key.modifiers == KeyModifiers::CONTROL => {
            let rest = model.filter.trim_end();
            model.keep_filter(rest.rfind(' ').map_or(0, |space| space + 1));
        }
        KeyCode::Char(letter) if key.modifiers.difference(KeyModifiers::SHIFT).is_empty() => {
            model.type_letter(Some(letter));
        }
        _ => {}
    }
    None
}

fn group_object(line: &Line) -> GroupObject<'_> {
    GroupObject { group: line.group.as_deref(), waits: line.number, worst: &line.wait }
}

/// Creates a file of this name, or with a number added where there are such files: not over one of them, nor through a link that somebody
/// has put there.
fn create_new(name: &str) -> io::Result<(String, File)> {
    let mut path = format!("{name}.json");
    for number in 2..=SAME_SECOND_MAX {
        match File::create_new(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                path = format!("{name}-{number}.json")
            }
            created => return Ok((path, created?)),
        }
    }
    File::create_new(&path).map(|file| (path, file))
}

/// Writes what is shown, an object a line as `ps --json` does; what came of it.
fn write(model: &Model) -> String {
    let name = format!("tracer-top-{}", Timestamp::now().strftime("%Y%m%dT%H%M%SZ"));
    let (path, file) = match create_new(&name) {
        Ok(created) => created,
        Err(error) => return format!("cannot write {name}.json: {error}"),
    };
    let write = || -> Result<()> {
        let mut out = BufWriter::new(file);
        for line in model.lines.iter().filter(|line| !line.is_member) {
            match model.by {
                By::Culprit | By::Thread => {
                    for wait in line.waits() {
                        lines::write(&mut out, &**wait)?;
                    }
                }
                _ => lines::write(&mut out, &group_object(line))?,
            }
        }
        out.flush()?;
        Ok(())
    };
    match write() {
        Ok(()) => format!("written to {path}"),
        Err(error) => format!("cannot write {path}: {error:#}"),
    }
}

fn read_input(to: &Sender<Event>) {
    loop {
        let event = read().map_or(Event::End, Event::Input);
        let ended = matches!(event, Event::End);
        if to.send(event).is_err() || ended {
            return;
        }
    }
}

/// Signals that are to end the view, held back from all threads.
fn blocked_signals() -> Result<libc::sigset_t> {
    // SAFETY: the set is initialised before it is used, and outlives the calls.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        let result = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        ensure!(result == 0, "cannot hold back signals: {}", io::Error::from_raw_os_error(result));
        Ok(set)
    }
}

fn wait_for(signals: &libc::sigset_t) {
    let mut signal = 0;
    // SAFETY: both outlive the call.
    unsafe { libc::sigwait(signals, &raw mut signal) };
}

/// Returns when the terminal has gone. Whoever reads keys does not notice, and its signal may be ignored or go to others.
fn wait_for_hangup() {
    let (stdin, stdout) = (io::stdin(), stdout());
    // A hangup is told without being asked for, and nothing else.
    let mut fds =
        [&stdin as &dyn AsFd, &stdout].map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::empty()));
    while let Ok(0) | Err(rustix::io::Errno::INTR) = poll(&mut fds, None) {}
}

/// Has the view end; if it cannot, ends the program.
fn end(view: &Sender<Event>) {
    // Nobody may be left to hear it.
    let _ = view.send(Event::End);
    // Nor be able to: a terminal that nobody reads takes no more, and holds its writer.
    thread::sleep(END_TIMEOUT);
    let _ = disable_raw_mode();
    // SAFETY: it takes a number. Nothing is flushed: that would wait as well.
    unsafe { libc::_exit(1) };
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// What the test below runs on a terminal of its own.
    #[test]
    #[ignore = "panics on purpose; `a_panic_leaves_the_terminal_as_it_was` runs it"]
    fn panicking_view() {
        let _screen = Screen::open().expect("a terminal");
        if std::env::var("PANICKING").is_ok_and(|who| who == "view") {
            panic!("on purpose, the view");
        }
        let (send, events) = channel();
        let feed = thread::spawn(move || guarded(&send, || panic!("on purpose, the feed")));
        let event = events.recv().expect("it is told");
        assert!(matches!(event, Event::Update(ViewUpdate::Failed(_))), "{event:?}");
        feed.join().expect("it has ended");
    }

    #[test]
    fn a_panic_leaves_the_terminal_as_it_was() {
        let this = std::env::current_exe().expect("a test");
        for who in ["view", "feed"] {
            // Its settings before and after go by another way than its screen.
            let before_and_after = tempfile(who);
            let (this, to) = (this.display(), before_and_after.display());
            let line = format!(
                "stty -a >> {to}; {this} --exact --ignored --nocapture top::tests::panicking_view; stty -a >> {to}"
            );
            let output = Command::new("script")
                .args(["--quiet", "--flush", "--command", &line, "/dev/null"])
                .env("PANICKING", who)
                .env("TERM", "xterm-256color")
                .stdin(Stdio::null())
                .output()
                .expect("`script` runs");
            let screen = String::from_utf8_lossy(&output.stdout);
            let settings = std::fs::read_to_string(&before_and_after).expect("written");
            std::fs::remove_file(&before_and_after).expect("is removed");
            let (before, after) = settings.split_at(settings.len() / 2);
            assert!(before.contains("icanon") && before == after, "{who}: {settings}");
            let last = |on: &str, off: &str| {
                screen.rfind(on).is_some_and(|on| screen.rfind(off).is_some_and(|off| on < off))
            };
            // The other screen, and the mouse.
            assert!(last("\x1b[?1049h", "\x1b[?1049l"), "{who}: {screen:?}");
            assert!(last("\x1b[?1000h", "\x1b[?1000l"), "{who}: {screen:?}");
            // What happened can be read: it was said after the screen was given back.
            let said = screen.find("on purpose").expect("the panic is said");
            assert!(screen.find("\x1b[?1049l").is_some_and(|back| back < said), "{who}: {screen:?}");
        }
    }

    fn tempfile(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("tracer-panic-{}-{name}", std::process::id()))
    }
}
