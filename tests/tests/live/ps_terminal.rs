//! Is what `ps` prints fit for a terminal? No control bytes of other people's names, and lines that fit.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::{Command, Output};

use tests::{ps, tracer};

use crate::aged::waiter;

/// What the table shows of a waiter.
fn table(role: &str) -> String {
    let pid = waiter(role).pid().to_string();
    let Output { status, stdout, stderr } =
        Command::new(tracer()).args(["ps", "--all", "-p", &pid]).output().expect("tracer starts");
    assert!(status.success(), "{status}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("the table is UTF-8")
}

#[test]
fn a_hostile_name_reaches_no_terminal() {
    waiter("evil-name").until_age(1.5);
    let hostile = table("evil-name");
    let control = |character: &char| character.is_control() && *character != '\n';
    assert_eq!(hostile.chars().find(control), None, "{hostile:?}");
    // A newline in a name must not make a line: as many lines as for a name without.
    waiter("read-pipe").until_age(1.5);
    let plain = table("read-pipe");
    assert_eq!(hostile.lines().count(), plain.lines().count(), "{hostile}\n{plain}");
}

#[test]
fn a_hostile_name_is_one_json_object() {
    let waiter = waiter("evil-name");
    waiter.until_age(1.5);
    let snapshot = ps(&["--all", "-p", &waiter.pid().to_string()]);
    let row = snapshot.row(waiter.tid());
    assert!(row["comm"].as_str().is_some_and(|comm| comm.starts_with('a')), "{row:#}");
}

/// A descriptor from a call that has to succeed.
fn owned(fd: RawFd) -> OwnedFd {
    assert!(fd >= 0, "a terminal: {}", std::io::Error::last_os_error());
    // SAFETY: the kernel has just returned this descriptor to us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// What `ps --all` prints on a terminal so many columns wide.
fn on_terminal(columns: u16) -> String {
    let size = libc::winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // Close-on-exec from the start: a child another test starts meanwhile must not keep the terminal open.
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: posix_openpt takes flags.
    let mut master = File::from(owned(unsafe { libc::posix_openpt(flags) }));
    let (fd, unlock) = (master.as_raw_fd(), 0_i32);
    // SAFETY: TIOCSPTLCK takes a pointer to an int, TIOCSWINSZ one to a winsize; both outlive the calls.
    let ready = unsafe {
        libc::ioctl(fd, libc::TIOCSPTLCK, &raw const unlock)
            | libc::ioctl(fd, libc::TIOCSWINSZ, &raw const size)
    };
    assert_eq!(ready, 0, "ioctl: {}", std::io::Error::last_os_error());
    // SAFETY: TIOCGPTPEER takes open flags.
    let slave = owned(unsafe { libc::ioctl(fd, libc::TIOCGPTPEER, flags) });
    let mut command = Command::new(tracer());
    command.args(["ps", "--all"]).env_remove("COLUMNS").stdout(slave);
    let child = command.spawn().expect("tracer starts");
    drop(command);
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut buffer = [0_u8; 4096];
        // The master reports EIO when the last slave is closed.
        while let Ok(n @ 1..) = master.read(&mut buffer) {
            bytes.extend_from_slice(&buffer[..n]);
        }
        bytes
    });
    let status = child.wait_with_output().expect("tracer ends").status;
    assert!(status.success(), "{status}");
    String::from_utf8(reader.join().expect("the reader")).expect("the table is UTF-8")
}

/// A line as the terminal shows it: without colours and carriage returns.
fn visible(line: &str) -> String {
    let mut shown = String::new();
    let mut characters = line.chars().filter(|c| *c != '\r');
    while let Some(character) = characters.next() {
        if character == '\x1b' {
            characters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            shown.push(character);
        }
    }
    shown
}

/// A terminal that says it has no columns, as a serial line does, is taken for one that has 80.
#[test]
fn the_table_fits_80_columns() {
    waiter("recvfrom-tcp6").until_age(1.5);
    for columns in [80, 0] {
        let page = on_terminal(columns);
        let lines: Vec<String> = page.lines().map(visible).collect();
        assert!(lines.len() > 10, "{page}");
        let widest = lines.iter().map(|line| line.chars().count()).max();
        assert!((Some(60)..=Some(80)).contains(&widest), "{columns}: {widest:?} columns\n{page}");
    }
}

#[test]
fn a_wider_terminal_is_used() {
    waiter("recvfrom-tcp6").until_age(1.5);
    let widest = |page: String| page.lines().map(|line| visible(line).chars().count()).max();
    let page = on_terminal(200);
    let wide = widest(page.clone());
    assert!(wide > Some(80) && wide <= Some(200), "{wide:?}\n{page}");
}
