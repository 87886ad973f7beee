//! What holds of every verdict, whatever call, target and counters come together. Single cases are tables beside the code.

use std::{env, time::Duration};

use proptest::{prelude::*, test_runner::RngSeed};

use super::verdict::{
    Class, classify, judge, peers_decide,
    tests::{on, peers, tcp, unix, wait},
};
use crate::{
    model::class::Level,
    model::target::{Interest, Target, WatchedFd},
    model::{
        stack::KernelStack,
        syscalls::{CallTable, Direction, Operation, Syscall},
        tcp::{LastSender, TcpFacts, TcpState, tests::facts},
        wait::{Queued, Sleep, SocketFacts, UnixFacts, Wait},
    },
    resolve::Resolved,
    util::human,
};

/// So many cases, the same each time: whether a change lands is no matter of luck. Or as many as `PROPTEST_CASES` says, others
/// each time.
fn cases(number: u32) -> ProptestConfig {
    match env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig { rng_seed: RngSeed::Fixed(1), ..ProptestConfig::with_cases(number) },
    }
}

fn any_target() -> impl Strategy<Value = Target> {
    let states = prop::sample::select(vec![
        TcpState::Established,
        TcpState::SynSent,
        TcpState::Listen,
        TcpState::CloseWait,
    ]);
    prop_oneof![
        (states, any::<u64>()).prop_map(|(state, inode)| match tcp() {
            Target::Tcp { local, remote, timeout, .. } =>
                Target::Tcp { local, remote, state, inode, timeout },
            other => other,
        }),
        (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(a, b, c)| unix(a, b, c)),
        any::<u64>().prop_map(|inode| Target::Pipe { inode }),
        ".*".prop_map(|path| Target::Fifo { path, inode: None }),
        (".*", any::<bool>(), any::<bool>()).prop_map(|(path, deleted, pseudo_fs)| Target::File {
            path,
            inode: None,
            deleted,
            pseudo_fs
        }),
        ".*".prop_map(|path| Target::Device { path }),
        ".*".prop_map(|path| Target::Tty { path }),
        ".*".prop_map(|name| Target::Memfd { name, inode: None }),
        ".*".prop_map(|name| Target::Anonymous { name }),
        any::<u64>().prop_map(|address| Target::Futex { address }),
        any::<bool>().prop_map(|connected| Target::Udp {
            local: "127.0.0.1:1".parse().expect("address"),
            remote: connected.then(|| "[::1]:2".parse().expect("address")),
            inode: 1,
        }),
        prop::collection::vec(any::<i32>(), 1..4).prop_map(|fds| Target::Fds {
            watched: fds
                .into_iter()
                .map(|fd| WatchedFd { fd, interest: Interest::default(), target: tcp(), facts: None })
                .collect(),
        }),
        prop::sample::select(vec![
            Target::Gone,
            Target::Reused,
            Target::None,
            Target::Timerfd,
            Target::IoUring,
            Target::Inotify,
            Target::Fanotify,
            Target::Signalfd { mask: None },
            Target::Fds { watched: Vec::new() },
            Target::Epoll { watched: 2 },
            Target::Pidfd { pid: None },
            Target::Eventfd { id: None },
            Target::Unreadable { reason: "x".into() },
            Target::Socket { family: None, inode: 1 },
        ]),
    ]
}

fn any_facts() -> impl Strategy<Value = SocketFacts> {
    prop_oneof![
        Just(SocketFacts::None),
        (any::<u64>(), any::<u64>(), any::<u32>(), any::<bool>(), any::<u8>()).prop_map(
            |(sent, received, word, keepalive, state)| {
                let facts = facts(sent, received).with_activity(|of| {
                    of.window = Some(word);
                    of.sent = Some(Duration::from_millis(word.into()));
                });
                let state = TcpState::of(state);
                SocketFacts::Tcp(Box::new(TcpFacts { state, keepalive, send_queue: word, ..facts }))
            }
        ),
        prop::sample::select(vec![Queued::Nothing, Queued::Messages(1), Queued::Messages(2), Queued::Bytes])
            .prop_map(|unread| SocketFacts::Unix(Box::new(UnixFacts { unread, ..UnixFacts::default() }))),
    ]
}

/// Each second one is a call that most waits are in; of the others most have one class, whatever they are on.
fn any_syscall() -> impl Strategy<Value = Syscall> {
    let usual = [
        Syscall::Read,
        Syscall::Write,
        Syscall::Recvfrom,
        Syscall::Sendto,
        Syscall::Poll,
        Syscall::EpollWait,
        Syscall::Connect,
        Syscall::Accept4,
        Syscall::Futex,
        Syscall::Flock,
        Syscall::Openat,
        Syscall::Wait4,
        Syscall::PageFault,
        Syscall::Exit,
        Syscall::Request,
    ];
    prop_oneof![
        prop::sample::select(usual.to_vec()),
        (0i32..480).prop_map(|number| Syscall::of(CallTable::Native, number)),
    ]
}

fn any_last_sender() -> impl Strategy<Value = LastSender> {
    prop::sample::select(vec![
        LastSender::Ours,
        LastSender::Theirs,
        LastSender::Tickets,
        LastSender::Nobody,
        LastSender::Unknown,
    ])
}

fn any_stack() -> impl Strategy<Value = Option<KernelStack>> {
    let stacks =
        vec!["", "request_wait_answer", "pipe_wait_readable", "folio_wait_bit_common\nnfs_file_read"];
    prop::option::of(prop::sample::select(stacks).prop_map(KernelStack::parse))
}

prop_compose! {
    /// A wait and what was found of it.
    fn any_wait()(
        syscall in any_syscall(), args in prop::array::uniform6(any::<u64>()), target in any_target(), socket in any_facts(),
        (age, asleep, exact, deep, restarted) in any::<(u32, u32, bool, bool, bool)>(),
        server: Option<bool>, last in prop::option::of(any_last_sender()), stack in any_stack(),
        timeout in prop::option::of(any::<u32>()), who in (0usize..4, any::<bool>(), any::<bool>(), any::<Option<bool>>()),
    ) -> (Wait, Resolved) {
        let mut wait = wait(syscall, args);
        wait.age = Duration::from_millis(age.into());
        wait.sleep_began_ns = u64::from(asleep.min(age)) * 1_000_000;
        (wait.exact, wait.call.restarted) = (exact, restarted);
        if deep {
            wait.sleep = Sleep::Uninterruptible;
        }
        let mut resolved = on(syscall, target);
        (resolved.socket, resolved.server, resolved.last_sender, resolved.stack) = (socket, server, last, stack);
        resolved.timeout = timeout.map(|ms| Duration::from_millis(ms.into()));
        resolved.peers = peers(who.0, who.1, who.2, who.3);
        (wait, resolved)
    }
}

/// A connection as its end sees it, in a call that waits until it can be read or written.
fn of_connection(syscall: Syscall, server: bool, last: LastSender) -> Class {
    let resolved = Resolved { server: Some(server), last_sender: Some(last), ..on(syscall, tcp()) };
    classify(&wait(syscall, [0; 6]), &resolved)
}

proptest! {
    #![proptest_config(cases(5_000))]

    #[test]
    fn a_sleep_that_no_signal_ends_is_never_idle((wait, resolved) in any_wait()) {
        let class = classify(&wait, &resolved);
        if wait.sleep == Sleep::Uninterruptible {
            prop_assert!(class.level() != Level::Idle || class == Class::Child, "{class:?}");
        }
    }

    /// Who is not looked for cannot have decided.
    #[test]
    fn peers_decide_only_where_they_are_asked_for((wait, resolved) in any_wait()) {
        let without = classify(&wait, &Resolved { peers: None, ..resolved.clone() });
        let with = classify(&wait, &resolved);
        // An event loop's dialog with a daemon is at rest until the daemon is seen not to wait: nobody asks, as most are.
        // What may be its last word for good is a question until it is known what the server does: whatever is stuck is asked about.
        let in_loop = wait.call.operation() == Operation::Epoll && matches!(without, Class::Events | Class::Reply);
        prop_assert!(with == without || peers_decide(without) || in_loop, "{without:?}, then {with:?}");
    }

    /// How long it lasts says how much it worries, not what it waits for.
    #[test]
    fn time_is_no_evidence((wait, resolved) in any_wait(), age: u32, exact: bool, timeout: Option<u32>) {
        let class = classify(&wait, &resolved);
        let later = Wait { age: Duration::from_millis(age.into()), exact, sleep_began_ns: 0, ..wait };
        let timeout = timeout.map(|ms| Duration::from_millis(ms.into()));
        prop_assert_eq!(classify(&later, &Resolved { timeout, ..resolved }), class);
    }

    /// Nobody is told that a wait without hope is at rest.
    #[test]
    fn what_is_idle_is_not_for_ever((wait, resolved) in any_wait()) {
        let verdict = judge(&wait, &resolved);
        if verdict.class.level() == Level::Idle {
            prop_assert!(!verdict.sentence.contains("for ever"), "{}", verdict.sentence);
        }
    }

    #[test]
    fn a_sentence_begins_with_the_age_and_says_if_it_is_a_lower_bound((wait, resolved) in any_wait()) {
        let sentence = judge(&wait, &resolved).sentence;
        // A sleep that began later is one of a chain, which was dated by its connection.
        let is_chain = wait.sleep_began_ns > wait.began_ns;
        let at_least = if wait.exact || is_chain { "" } else { "at least " };
        let begin = format!("waiting {at_least}{} ", human::age(wait.age));
        prop_assert!(sentence.starts_with(&begin), "{sentence}");
    }

    #[test]
    fn a_time_out_ends_what_would_last_for_ever((wait, resolved) in any_wait()) {
        let verdict = judge(&wait, &resolved);
        let Some(timeout) = resolved.timeout else { return Ok(()) };
        if !matches!(verdict.class, Class::Reply | Class::Send | Class::Quiet) {
            return Ok(());
        }
        let sentence = verdict.sentence;
        prop_assert!(!sentence.contains("for ever") && !sentence.contains("no time-out"), "{sentence}");
        // How long the chain had lasted before this sleep.
        let before = wait.age - wait.asleep();
        if wait.call.restarted {
            prop_assert!(sentence.contains("started before it was interrupted"), "{sentence}");
        } else if before >= timeout {
            prop_assert!(sentence.ends_with(&format!("it looks again every {}; whether the program gives up is not visible", human::age(timeout))), "{sentence}");
        } else if before < timeout / 10 * 9 {
            let left = timeout.saturating_sub(wait.asleep());
            let ends = match wait.call.operation() {
                Operation::Epoll => format!("its event loop wakes in {}; whether it gives up then is not visible", human::age(left)),
                _ => format!("it stops waiting in {}", human::age(left)),
            };
            prop_assert!(sentence.ends_with(&ends), "{sentence}");
        }
    }

    /// Who is to be looked into is named.
    #[test]
    fn a_sentence_names_the_other_end((wait, resolved) in any_wait()) {
        let verdict = judge(&wait, &resolved);
        let named = matches!(verdict.class, Class::Reply | Class::Send | Class::Dialog | Class::Pipe);
        let of_queue = wait.call.operation() == Operation::SendMessage;
        if named && resolved.peers.as_ref().is_some_and(|peers| !peers.others.is_empty()) && !of_queue {
            prop_assert!(verdict.sentence.contains("x (pid 7)"), "{}", verdict.sentence);
        }
        let of_tcp = matches!(verdict.class, Class::Connect | Class::Reply | Class::Send | Class::Quiet | Class::Request | Class::Peer);
        // One that listens has no other end.
        if let (true, Target::Tcp { remote, state, .. }) = (of_tcp, &resolved.target)
            && *state != TcpState::Listen
        {
            prop_assert!(verdict.sentence.contains(&remote.to_string()), "{}", verdict.sentence);
        }
    }

    /// To be told when it can be read is to wait for what a read waits for; a set is never just quiet.
    #[test]
    fn a_poll_of_one_socket_waits_as_its_reader_does(
        inode: u64, server: bool, last in any_last_sender(), kind in 0usize..3, who in (0usize..3, any::<Option<bool>>()),
    ) {
        let target = || match kind {
            0 => tcp(),
            1 => unix(false, inode % 2 == 0, server),
            _ => unix(true, true, server),
        };
        let class = |syscall| {
            let resolved = Resolved {
                server: Some(server),
                last_sender: Some(last),
                peers: peers(who.0, true, false, who.1),
                direction: Some(Direction::Receive),
                ..on(syscall, target())
            };
            classify(&wait(syscall, [0; 6]), &resolved)
        };
        let read = class(Syscall::Recvfrom);
        prop_assert_eq!(class(Syscall::Poll), read);
        prop_assert_eq!(class(Syscall::Select), read);
        // Whoever only watches it may have had a short answer.
        let is_unsure = last == LastSender::Tickets && kind == 0 && !server;
        let of_set = if is_unsure || matches!(read, Class::Quiet | Class::Dialog) { Class::Events } else { read };
        prop_assert_eq!(class(Syscall::EpollWait), of_set);
    }

    /// Only who owes an answer, or room, holds somebody up.
    #[test]
    fn a_connection_is_stuck_if_the_other_end_is_to_act(server: bool, last in any_last_sender()) {
        let is_asked = matches!(last, LastSender::Ours | LastSender::Tickets | LastSender::Nobody);
        let reader = of_connection(Syscall::Read, server, last);
        prop_assert_eq!(reader.level() == Level::Stuck, !server && is_asked, "{:?}", reader);
        prop_assert_eq!(reader.level() == Level::Idle, server && last != LastSender::Theirs, "{:?}", reader);
        prop_assert_eq!(of_connection(Syscall::Write, server, last), Class::Send);
        prop_assert_eq!(of_connection(Syscall::Accept4, server, last), Class::Listen);
    }
}
