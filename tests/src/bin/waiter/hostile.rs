//! Which role does to its observer what it can? Short-lived threads by the thousand, a descriptor beyond 1024, a child in
//! a namespace of its own, and the end of all threads in the middle of their waits, by exec.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread::{self, Builder};
use std::time::Duration;

use serde_json::json;

use crate::report::{Report, print};
use crate::{Call, sys};

/// Longer than what the test's `trace` asks for.
const WAIT: Duration = Duration::from_millis(80);
/// Threads in all, and of those how many at a time.
const THREADS: usize = 2000;
const AT_A_TIME: usize = 100;
/// Beyond what `select` can name.
const HIGH: i32 = 1500;

pub(crate) fn hostile(call: &Call) {
    sys::set_comm(b"a\nb\x1b[31mc\xff\x9b\x07");
    Report::new(call.role, "none").print();
    sys::on_commands(|_| {
        short_threads();
        let result = read_high();
        // Before there is another namespace, which threads may not be made in.
        let pipes = wait_for_ever();
        print(&json!({"event": "done", "result": result, "child": other_namespace()}));
        be_another(pipes);
    })
}

fn short_threads() {
    for _ in 0..THREADS / AT_A_TIME {
        let sleeper =
            || Builder::new().stack_size(32 * 1024).spawn(|| thread::sleep(WAIT)).expect("a thread");
        let batch: Vec<_> = (0..AT_A_TIME).map(|_| sleeper()).collect();
        batch.into_iter().for_each(|thread| thread.join().expect("it sleeps"));
    }
}

/// A read that blocks, on a descriptor with a large number.
fn read_high() -> i64 {
    let (reader, writer) = sys::pipe();
    // SAFETY: both are numbers; nothing else in this process has the descriptor.
    sys::must(unsafe { libc::dup2(reader.as_raw_fd(), HIGH) }.into(), "dup2");
    thread::spawn(move || {
        thread::sleep(WAIT);
        sys::write_byte(writer.as_raw_fd());
    });
    let result = sys::read_byte(HIGH);
    sys::close(HIGH);
    result
}

/// A child whose own number for itself is 1; its number here.
fn other_namespace() -> libc::pid_t {
    // SAFETY: unshare takes a number; children are elsewhere from now on, this process stays.
    sys::must(unsafe { libc::unshare(libc::CLONE_NEWPID) }.into(), "unshare");
    // SAFETY: the child only sleeps and leaves, by system calls.
    let child = unsafe { libc::fork() };
    if child == 0 {
        sys::sleep_seconds(1);
        // SAFETY: _exit takes a number.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: the status is not asked for.
    sys::must(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }.into(), "waitpid");
    child
}

/// Ten threads, each on a pipe of its own.
fn wait_for_ever() -> Vec<(OwnedFd, OwnedFd)> {
    let pipes: Vec<_> = (0..10).map(|_| sys::pipe()).collect();
    for (reader, _) in &pipes {
        let fd = reader.as_raw_fd();
        thread::spawn(move || sys::read_byte(fd));
    }
    pipes
}

/// Another program takes this one's place, and its threads end in the middle of their waits.
fn be_another(_pipes: Vec<(OwnedFd, OwnedFd)>) -> ! {
    let [cat, file] = ["/bin/cat", "/dev/null"].map(|text| CString::new(text).expect("no NUL"));
    // SAFETY: a list of two strings that ends with a null pointer; it returns only if it fails.
    unsafe { libc::execl(cat.as_ptr(), cat.as_ptr(), file.as_ptr(), std::ptr::null::<libc::c_char>()) };
    panic!("execl: {}", std::io::Error::last_os_error());
}
