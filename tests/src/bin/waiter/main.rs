//! Which process is a test watching? `waiter ROLE [ARGS]` blocks in one known system call and says so first.
//!
//! Just before it blocks, a role prints one JSON line: role, pid, tid, syscall, the clocks, and whatever applies of
//! fd, local, remote, inode, path. When the call returns it prints `{"event":"woke", …}` and then only sleeps. A
//! role that needs a second party makes it itself, as a child process, so that its waits have another pid; the
//! child reads commands from standard input (`answer` ends the wait). Everything dies with the process above it.

mod accepters;
mod attacks;
mod circles;
mod crowds;
mod descriptors;
mod files;
mod follow;
mod fuse;
mod hostile;
mod hundred;
mod locks;
mod memory;
mod mounted;
mod mutexes;
mod names;
mod pipes;
mod pool;
mod process;
mod queues;
mod reborn;
mod report;
mod restless;
mod ring;
mod semaphores;
mod services;
mod sets;
mod sleepers;
mod sockets;
mod strangers;
mod sys;
mod terminals;
mod threads;
mod turns;
mod unaccepted;

use std::process::exit;

/// What a role gets: its own name and the arguments after it.
pub(crate) struct Call<'a> {
    pub(crate) role: &'a str,
    pub(crate) args: &'a [String],
}

impl Call<'_> {
    /// The first argument as a number; roles that take one say how many threads they start.
    pub(crate) fn count(&self) -> usize {
        self.args.first().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{}: how many?", self.role))
    }
}

type Role = (&'static str, fn(&Call));

const ROLES: &[Role] = &[
    ("recvfrom-tcp4", sockets::recvfrom_tcp4),
    ("recvfrom-tcp6", sockets::recvfrom_tcp6),
    ("read-tcp4", sockets::read_tcp4),
    ("recvfrom-udp", sockets::recvfrom_udp),
    ("recvmsg-unix", sockets::recvmsg_unix),
    ("connect-backlog", sockets::connect_backlog),
    ("connect-times-out", sockets::connect_times_out),
    ("accept", sockets::accept),
    ("sendto-named", unaccepted::sendto_named),
    ("sendmsg-named", unaccepted::sendmsg_named),
    ("connect-unix", unaccepted::connect_unix),
    ("unaccepted", unaccepted::unaccepted),
    ("query-udp", unaccepted::query_udp),
    ("queries-udp", unaccepted::queries_udp),
    ("sendto-full", sockets::sendto_full),
    ("sendfile-full", sockets::sendfile_full),
    ("poll-full", sockets::poll_full),
    ("select-full", sockets::select_full),
    ("beside-pipe", sockets::beside_pipe),
    ("poll-tcp4", sockets::poll_tcp4),
    ("polls", sockets::polls),
    ("event-loop", sockets::event_loop),
    ("requests", sockets::requests),
    ("pool", pool::pool),
    ("many-short-waits", sockets::many_short_waits),
    ("hundred-calls", hundred::hundred_calls),
    ("quiet", turns::quiet),
    ("subscribed", turns::subscribed),
    ("peer", turns::peer),
    ("served", turns::served),
    ("request", turns::request),
    ("dialog", turns::dialog),
    ("orphan", turns::orphan),
    ("message", turns::message),
    ("restless", restless::restless),
    ("restless-unix", restless::restless_unix),
    ("busy", restless::busy),
    ("gives-up", restless::gives_up),
    ("poll-missing", memory::poll_missing),
    ("read-pipe", pipes::read_pipe),
    ("epoll", pipes::epoll),
    ("poll", pipes::poll),
    ("closed-fd", pipes::closed_fd),
    ("i386-read", pipes::i386_read),
    ("poll-garbage", sets::poll_garbage),
    ("poll-twice", sets::poll_twice),
    ("poll-unmapped", sets::poll_unmapped),
    ("poll-many", sets::poll_many),
    ("poll-mounts", sets::poll_mounts),
    ("i386-poll", sets::i386_poll),
    ("i386-socketcall", sets::i386_socketcall),
    ("select-except", sets::select_except),
    ("epoll-client", sets::epoll_client),
    ("epoll-timed", sets::epoll_timed),
    ("self-pipe", sets::self_pipe),
    ("read-kmsg", sets::read_kmsg),
    ("flock", files::flock),
    ("flock-deleted", files::flock_deleted),
    ("flock-memfd", files::flock_memfd),
    ("fcntl-setlkw", files::fcntl_setlkw),
    ("open-fifo", files::open_fifo),
    ("open-leased", files::open_leased),
    ("open-permitted", files::open_permitted),
    ("open-automount", files::open_automount),
    ("read-eventfd", descriptors::read_eventfd),
    ("read-timerfd", descriptors::read_timerfd),
    ("read-signalfd", descriptors::read_signalfd),
    ("read-inotify", descriptors::read_inotify),
    ("read-tty", descriptors::read_tty),
    ("write-tty", terminals::write_tty),
    ("write-tty-stopped", terminals::write_tty_stopped),
    ("background-read", terminals::background_read),
    ("background-write", terminals::background_write),
    ("msgsnd", queues::msgsnd),
    ("mq-timedsend", queues::mq_timedsend),
    ("splice-full", pipes::splice_full),
    ("splice-empty", pipes::splice_empty),
    ("tee-full", pipes::tee_full),
    ("poll-pidfd", descriptors::poll_pidfd),
    ("waitid-pidfd", descriptors::waitid_pidfd),
    ("futex", process::futex),
    ("wait4", process::wait4),
    ("nanosleep", process::nanosleep),
    ("restart-nanosleep", process::restart_nanosleep),
    ("restart-poll", process::restart_poll),
    ("restart-futex", process::restart_futex),
    ("exec-by-thread", process::exec_by_thread),
    ("two-sleepers", sleepers::two_sleepers),
    ("first-thread-ends", process::first_thread_ends),
    ("exiting", process::exiting),
    ("storm", process::storm),
    ("page-fault", memory::page_fault),
    ("page-fault-elsewhere", memory::page_fault_elsewhere),
    ("write-unserved", memory::write_unserved),
    ("deadlock", mutexes::deadlock),
    ("barrier", mutexes::barrier),
    ("lock-held", locks::lock_held),
    ("lock-left", locks::lock_left),
    ("semaphore-left", locks::semaphore_left),
    ("turns-file", accepters::turns_file),
    ("turns-mutex", accepters::turns_mutex),
    ("loop-with-mutex", accepters::loop_with_mutex),
    ("forked-lock", locks::forked_lock),
    ("own-lock", locks::own_lock),
    ("rust-deadlock", locks::rust_deadlock),
    ("pool-at-rest", locks::pool_at_rest),
    ("circle-pipe", circles::circle_pipe),
    ("circle-left", circles::circle_left),
    ("circle-words", circles::circle_words),
    ("circle-locks", circles::circle_locks),
    ("mute-service", services::mute_service),
    ("greeter", services::greeter),
    ("asking-pool", services::asking_pool),
    ("proxy", services::proxy),
    ("subscriber", services::subscriber),
    ("threads", threads::threads),
    ("asking-threads", threads::asking_threads),
    ("pipes", threads::pipes),
    ("family", threads::family),
    ("crowd-pipe", crowds::pipe),
    ("crowd-unix", crowds::unix),
    ("crowd-lock", crowds::lock),
    ("crowd-lock-behind", crowds::lock_behind),
    ("crowd-epoll", crowds::epoll),
    ("evil-name", names::evil_name),
    ("evil-tcp", names::evil_tcp),
    ("evil-flock", names::evil_flock),
    ("evil-unix", names::evil_unix),
    ("named", names::named),
    ("semop", semaphores::semop),
    ("semop-left", semaphores::semop_left),
    ("i386-semop", semaphores::i386_semop),
    ("ring", ring::ring),
    ("ring-worker", ring::ring_worker),
    ("ring-recv", ring::ring_recv),
    ("ring-pipes", ring::ring_pipes),
    ("reborn", reborn::reborn),
    ("hostile", hostile::hostile),
    ("asks", strangers::asks),
    ("shadow", attacks::shadow),
    ("follow", follow::follow),
    ("one-pipe", attacks::one_pipe),
    ("trainer", attacks::trainer),
    ("ask", attacks::ask),
    ("ask-socket", attacks::ask_socket),
    ("fuse", fuse::fuse),
    ("mounted-open", mounted::open),
    ("mounted-stat", mounted::stat),
    ("mounted-statfs", mounted::statfs),
    ("mounted-chdir", mounted::chdir),
    ("mounted-execve", mounted::execve),
    ("mounted-fault", mounted::fault),
    ("mounted-write", mounted::write),
    ("mounted-poll", mounted::poll),
    ("mounted-close", mounted::close),
    ("mounted-rename", mounted::rename),
    ("mounted-pwrite", mounted::pwrite),
    ("mounted-exec-closing", mounted::exec_closing),
];

fn main() {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    let Some((role, args)) = arguments.split_first() else {
        let names: Vec<&str> = ROLES.iter().map(|(name, _)| *name).collect();
        eprintln!("usage: waiter ROLE [ARGS], where ROLE is one of: {}", names.join(" "));
        exit(2);
    };
    let Some((_, run)) = ROLES.iter().find(|(name, _)| name == role) else {
        eprintln!("waiter: no role {role:?}");
        exit(2);
    };
    run(&Call { role, args });
}
