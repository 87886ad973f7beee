//! Is a wait called what it is where that takes a second look? Unusual sets of fds, the kernel's own files, pipes of one's own,
//! barriers, servers without a listener.

use serde_json::Value;
use tests::{Waiter, ps, unsupported, why_page};

/// The row of a waiter that is a second old; `None`, said aloud, where this kernel cannot do the role.
fn row(role: &str, args: &[&str]) -> Option<Value> {
    let waiter = Waiter::start_any(role, args);
    if let Some(why) = waiter.unsupported() {
        unsupported(why);
        return None;
    }
    waiter.until_age(1.2);
    let row = ps(&["--all", "-p", &waiter.pid().to_string()]).row(waiter.tid()).clone();
    assert_eq!(row["syscall"], waiter.line()["syscall"], "{row:#}");
    assert_eq!(row["fd"], waiter.line()["fd"], "{row:#}");
    Some(row)
}

fn is(role: &str, class: &str, kind: &str) {
    let Some(row) = row(role, &[]) else { return };
    assert_eq!((&row["class"], &row["target"]["kind"]), (&class.into(), &kind.into()), "{row:#}");
}

#[test]
fn a_count_with_garbage_in_its_upper_half() {
    is("poll-garbage", "reply", "tcp");
}

#[test]
fn a_connection_and_its_duplicate() {
    is("poll-twice", "reply", "tcp");
}

/// Of two fds the socket decides, where a pipe of its own parent is the other.
#[test]
fn a_connection_beside_a_pipe_of_the_parents() {
    let waiter = Waiter::start("beside-pipe");
    let child = waiter.number("pid") as u32;
    waiter.until_age(1.2);
    let row = ps(&["--all", "-p", &child.to_string()]).row(child).clone();
    assert_eq!((&row["class"], &row["target"]["kind"]), (&"reply".into(), &"tcp".into()), "{row:#}");
    assert_eq!(row["target"]["remote"], waiter.line()["remote"], "{row:#}");
}

#[test]
fn a_client_alone_in_an_epoll_set() {
    is("epoll-client", "reply", "tcp");
}

#[test]
fn a_time_out_in_memory() {
    let Some(row) = row("epoll-timed", &[]) else { return };
    assert_eq!((&row["class"], &row["target"]["kind"]), (&"reply".into(), &"tcp".into()), "{row:#}");
    let said = row["verdict"].as_str().expect("a sentence");
    assert!(said.contains("; its event loop wakes in 8m 1"), "{row:#}");
}

#[test]
fn a_32_bit_poll() {
    is("i386-poll", "pipe", "pipe");
}

/// Its arguments, and so its fd, lie in memory.
#[test]
fn a_32_bit_socketcall() {
    is("i386-socketcall", "reply", "tcp");
}

#[test]
fn exceptions_only() {
    is("select-except", "events", "fds");
}

#[test]
fn a_set_that_is_gone() {
    let row = row("poll-unmapped", &[]).expect("every kernel unmaps");
    assert_eq!((&row["class"], &row["target"]["kind"]), (&"events".into(), &"unreadable".into()), "{row:#}");
    let said = row["verdict"].as_str().expect("a sentence");
    assert!(said.ends_with("for events on unknown fds: its set of fds could not be read"), "{row:#}");
}

/// Named are the first few, in JSON all.
#[test]
fn three_thousand_fds_fit_a_screen() {
    let waiter = Waiter::start_with("poll-many", &["3000"]);
    waiter.until_age(1.2);
    let row = ps(&["--all", "-p", &waiter.pid().to_string()]).row(waiter.tid()).clone();
    assert_eq!(row["target"]["watched"].as_array().map(Vec::len), Some(3000), "{row:#}");
    let said = row["verdict"].as_str().expect("a sentence");
    assert!(said.ends_with(" and 2992 more") && said.len() < 120, "{said}");
    why_page(waiter.pid());
}

#[test]
fn files_that_the_kernel_makes_up() {
    is("read-kmsg", "notify", "file");
}

#[test]
fn the_table_of_mounts() {
    let row = row("poll-mounts", &[]).expect("every kernel has it");
    assert_eq!(row["level"], "idle", "{row:#}");
}

#[test]
fn a_pipe_into_which_a_handler_writes() {
    is("self-pipe", "events", "pipe");
}

#[test]
fn a_barrier() {
    // musl's waits otherwise, and has the same class.
    is("barrier", "futex", "futex");
}

#[test]
fn a_server_without_its_listener() {
    is("served", "peer", "tcp");
}
