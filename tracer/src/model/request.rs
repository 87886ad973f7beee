//! A request: bytes that a process has sent on a connection and that expect an answer. Event loops have many of them under way, and no
//! thread that waits for one.
//!
//! Part of `model`, layer 0.

use std::time::Duration;

use compact_str::CompactString;

use super::{
    file::OpenFile,
    syscalls::{CallTable, Syscall},
    tcp::{LastSender, TcpFacts, TcpState},
    wait::{Call, FdState, ProcessId, Sleep, SocketFacts, ThreadId, Wait},
};
use crate::util::clock::Now;

/// What is due on a connection on which a process has spoken last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// An answer, as far as the connection itself can tell.
    Answer,
    /// What was said last followed the peer's bytes at once: many protocols acknowledge these so.
    Unknown,
    /// Nothing: nobody would see it come, or the program also speaks when no answer is due.
    Nothing,
}

/// Connections without an answer, by what is known of whether one is due, and what it costs to find them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestNumbers {
    /// An answer is due.
    pub due: usize,
    /// They only followed what the peer said, at once: whether an answer is due is not known.
    pub unknown: usize,
    /// Nobody would see an answer come, or their programs also speak when nothing is due.
    pub not_due: usize,
    /// How long the last pass over all sockets took.
    pub pass: Duration,
    /// How far apart passes are.
    pub interval: Duration,
}

/// A connection of a process on which it may have asked and not been answered, or been asked and not answered.
#[derive(Clone, Debug, PartialEq)]
pub struct AskedConnection {
    /// Whose. Processes that share a socket have one each.
    pub process: ProcessId,
    /// Name of the process.
    pub comm: CompactString,
    /// Its user.
    pub uid: u32,
    /// Its number of the socket.
    pub fd: i32,
    /// The socket.
    pub file: OpenFile,
    /// What the kernel keeps of the connection.
    pub tcp: Box<TcpFacts>,
    /// Somebody waits for its events, as whoever expects an answer does.
    pub is_watched: bool,
    /// When it was looked at, nanoseconds of `CLOCK_MONOTONIC`: ages are as of then.
    pub seen_ns: u64,
}

impl AskedConnection {
    /// For how long a request of the process has had no answer, if one has none: this end made the connection, or is making it, and spoke
    /// last.
    pub fn unanswered(&self) -> Option<Duration> {
        let facts = &self.tcp;
        let is_open = match facts.state {
            TcpState::SynSent => true,
            TcpState::Established => facts.has_connected() && facts.last_sender() == LastSender::Ours,
            _ => false,
        };
        facts.unmoved().filter(|_| is_open)
    }

    /// For how long the process has owed an answer, if it owes one: the other end made the connection, and spoke last.
    pub fn owed(&self) -> Option<Duration> {
        let facts = &self.tcp;
        let is_owed = facts.state == TcpState::Established
            && !facts.has_connected()
            && facts.last_sender() == LastSender::Theirs;
        facts.unmoved().filter(|_| is_owed)
    }

    /// What is due, by the connection alone.
    pub fn expectation(&self) -> Expectation {
        if self.is_undelivered() {
            Expectation::Answer
        } else if !self.is_watched {
            Expectation::Nothing
        } else if self.tcp.has_reacted() {
            Expectation::Unknown
        } else {
            Expectation::Answer
        }
    }

    /// Whether the peer does not even say that it has got what was sent, which no protocol wants.
    pub fn is_undelivered(&self) -> bool {
        self.tcp.state == TcpState::SynSent || self.tcp.unacknowledged() > 0
    }

    /// Bytes that the process has sent, none of them twice.
    pub fn bytes_sent(&self) -> u64 {
        let under_way = u64::from(self.tcp.unacknowledged());
        self.tcp.activity.map_or(under_way, |activity| activity.bytes_sent_once())
    }

    /// Bytes that have come.
    pub fn bytes_received(&self) -> u64 {
        self.tcp.activity.map_or(0, |activity| activity.bytes_received)
    }

    /// Who waits: the process, on this connection.
    pub fn request(&self) -> ThreadId {
        ThreadId::of_request(self.process, self.file.inode)
    }

    /// When the request was made, nanoseconds of `CLOCK_MONOTONIC`, if one is open.
    pub fn began_ns(&self) -> Option<u64> {
        Some(self.seen_ns.saturating_sub(self.unanswered()?.as_nanos() as u64))
    }

    /// The request as a wait, if one is open.
    pub fn wait(&self, now: &Now) -> Option<Wait> {
        Some(self.wait_since(self.began_ns()?, now))
    }

    /// A wait for what is due since then, nanoseconds of `CLOCK_MONOTONIC`.
    pub fn wait_since(&self, began_ns: u64, now: &Now) -> Wait {
        Wait {
            thread: self.request(),
            comm: self.comm.clone(),
            uid: self.uid,
            sleep: Sleep::Interruptible,
            call: Call {
                table: CallTable::Native,
                number: None,
                syscall: Syscall::Request,
                args: [self.fd as u64, 0, 0, 0, 0, 0],
                restarted: false,
            },
            fd: Some(self.fd),
            fd_state: FdState::Open(self.file),
            socket: SocketFacts::Tcp(self.tcp.clone()),
            age: Duration::from_nanos(self.seen_ns.saturating_sub(began_ns)),
            exact: false,
            since: now.wall_at(began_ns),
            began_ns,
            // By the connection's own stamps, which are no lower bound.
            sleep_began_ns: began_ns + 1,
            // Whatever comes ends it.
            switches: self.bytes_received(),
            cgroups: None,
            mount: None,
        }
    }
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{
        file::{Addresses, Endpoint, FileKind, OpenSocket, SocketFamily, SocketKind, tests::file},
        tcp::{TcpActivity, tests::facts},
    };

    /// A request of a process for tests, on this fd, to this port of loopback, so many seconds old.
    pub fn asked(pid: u32, fd: i32, port: u16, age: u64) -> AskedConnection {
        let process = ProcessId { pid, start_ns: 1 };
        let end = |port| Endpoint { address: "::ffff:127.0.0.1".parse().expect("is one"), port };
        let addresses = Addresses { local: end(50_000), remote: end(port) };
        let family = SocketFamily::Inet(addresses);
        let socket = OpenSocket { family, kind: SocketKind::of(1), protocol: libc::IPPROTO_TCP as u16 };
        let inode = u64::from(pid) << 32 | fd as u64;
        let file = OpenFile { socket: Some(socket), ..file(inode, FileKind::Socket) };
        let tcp = Box::new(made(100, 0, age, 0));
        AskedConnection { process, comm: "node".into(), uid: 0, fd, file, tcp, is_watched: true, seen_ns: 0 }
    }

    /// One that a process has got for tests, on this fd, at this port of loopback, so many seconds old.
    pub fn asked_of(pid: u32, fd: i32, port: u16, age: u64) -> AskedConnection {
        let mut asked = asked(pid, fd, 50_000, age);
        let mut tcp = made(100, 50, age + 10, age);
        tcp.activity.as_mut().expect("is seen").bytes_acknowledged = 100;
        tcp.internals.as_mut().expect("is seen").last_segment = 50;
        let of = asked.file.socket.as_mut().expect("is one");
        let end = |port| Endpoint { address: "::ffff:127.0.0.1".parse().expect("is one"), port };
        of.family = SocketFamily::Inet(Addresses { local: end(port), remote: end(50_000) });
        asked.tcp = Box::new(tcp);
        asked
    }

    /// The same connection with so many bytes of each side, of which ours were the last.
    pub fn on_which(connection: &AskedConnection, sent: u64, received: u64) -> AskedConnection {
        let age = connection.unanswered().expect("a request").as_secs();
        AskedConnection { tcp: Box::new(made(sent, received, age, age + 10)), ..connection.clone() }
    }

    /// The same, with ours at once after theirs.
    pub fn which_reacted(connection: &AskedConnection, sent: u64, received: u64) -> AskedConnection {
        let age = connection.unanswered().expect("a request").as_secs();
        let mut tcp = made(sent, received, age, age);
        tcp.internals.as_mut().expect("is seen").last_segment = 0;
        AskedConnection { tcp: Box::new(tcp), ..connection.clone() }
    }

    /// The same, with theirs as the last.
    pub fn answered(connection: &AskedConnection, sent: u64, received: u64) -> AskedConnection {
        let age = connection.unanswered().expect("a request").as_secs();
        AskedConnection { tcp: Box::new(made(sent, received, age, age)), ..connection.clone() }
    }

    fn of(tcp: TcpFacts) -> AskedConnection {
        AskedConnection { tcp: Box::new(tcp), ..asked(7, 3, 80, 1) }
    }

    /// A connection that this end made, with so many bytes of each side; ours left so many seconds ago, theirs came so long ago.
    fn made(sent: u64, received: u64, sent_ago: u64, received_ago: u64) -> TcpFacts {
        let mut tcp = facts(sent, received);
        let ago = |bytes: u64, seconds| (bytes > 0).then(|| Duration::from_secs(seconds));
        if let Some(activity) = &mut tcp.activity {
            *activity = TcpActivity {
                bytes_acknowledged: sent + 1,
                sent: ago(sent, sent_ago),
                received: ago(received, received_ago),
                acknowledged: Duration::from_secs(sent_ago),
                ..*activity
            };
        }
        if let Some(internals) = &mut tcp.internals {
            internals.last_segment = if received_ago <= sent_ago { received as u32 } else { 0 };
        }
        tcp
    }

    #[test]
    fn who_made_the_connection_and_spoke_last_waits_for_an_answer() {
        let seconds = |tcp| of(tcp).unanswered().map(|age| age.as_secs());
        assert_eq!(seconds(made(100, 0, 20, 0)), Some(20), "nothing ever came");
        assert_eq!(seconds(made(100, 10, 20, 50)), Some(20), "an answer came to an earlier one");
        assert_eq!(seconds(made(100, 10, 20, 5)), None, "it was answered");
        assert_eq!(seconds(made(0, 0, 0, 0)), None, "nothing was asked");
        assert_eq!(seconds(made(0, 10, 0, 5)), None, "a greeting");
        let mut served = made(100, 10, 20, 50);
        served.activity.as_mut().expect("is seen").bytes_acknowledged = 100;
        assert_eq!(seconds(served), None, "the other end made it: what it was sent is an answer");
        let mut closed = made(100, 0, 20, 0);
        closed.state = TcpState::CloseWait;
        assert_eq!(seconds(closed), None, "the peer has closed it, which is an answer");
    }

    #[test]
    fn who_was_asked_on_a_connection_that_the_other_end_made_owes_an_answer() {
        let owed = |connection: &AskedConnection| connection.owed().map(|age| age.as_secs());
        let asked_of = asked_of(7, 4, 80, 20);
        assert_eq!((owed(&asked_of), asked_of.unanswered()), (Some(20), None));
        assert_eq!(owed(&of(made(100, 50, 30, 20))), None, "it made the connection: it was answered");
        let answered = |sent_ago, received_ago| {
            let mut tcp = made(100, 50, sent_ago, received_ago);
            tcp.activity.as_mut().expect("is seen").bytes_acknowledged = 100;
            of(tcp)
        };
        assert_eq!(owed(&answered(20, 30)), None);
        let mut closed = asked_of;
        closed.tcp.state = TcpState::CloseWait;
        assert_eq!(owed(&closed), None, "who asked has gone");
    }

    proptest! {
        /// While no byte moves, a request begins when it did, whenever it is looked at; and it never is about nothing.
        #[test]
        fn a_request_never_ages_backwards(age in 1u64..100_000, more in 0u64..100_000, received in 0u64..1_000, keepalive: bool) {
            let at = |seconds: u64| {
                let mut asked = on_which(&asked(7, 3, 80, seconds), 100, received);
                asked.tcp.keepalive = keepalive;
                asked.seen_ns = (200_000 + seconds) * 1_000_000_000;
                let now = Now { wall: jiff::Timestamp::UNIX_EPOCH, monotonic_ns: asked.seen_ns };
                (asked.expectation(), asked.wait(&now))
            };
            let ((first, before), (then, after)) = (at(age), at(age + more));
            prop_assert_eq!(first, then);
            if let (Some(before), Some(after)) = (before, after) {
                prop_assert_eq!(before.began_ns, after.began_ns);
                prop_assert_eq!(after.age - before.age, Duration::from_secs(more));
                prop_assert!(!before.is_lower_bound() && before.thread == after.thread);
            }
        }
    }

    #[test]
    fn an_answer_is_due_that_never_came_and_an_acknowledgement_always() {
        let never = asked(7, 3, 80, 20);
        let mut lost = which_reacted(&never, 100, 50);
        assert_eq!(
            [never.expectation(), on_which(&never, 100, 50).expectation(), lost.expectation()],
            [Expectation::Answer, Expectation::Answer, Expectation::Unknown],
            "a client at rest may have spoken last"
        );
        let unwatched = AskedConnection { is_watched: false, ..never.clone() };
        assert_eq!(unwatched.expectation(), Expectation::Nothing, "nobody would see it come");
        (lost.tcp.send_queue, lost.is_watched) = (10, false);
        assert_eq!(lost.expectation(), Expectation::Answer);
        let now = Now { wall: jiff::Timestamp::UNIX_EPOCH, monotonic_ns: 100_000_000_000 };
        let wait = AskedConnection { seen_ns: now.monotonic_ns, ..never }.wait(&now).expect("a request");
        assert_eq!((wait.began_ns, wait.age.as_secs(), wait.thread.tid), (80_000_000_000, 20, 0));
        let served = of(made(100, 10, 20, 5));
        assert!(served.wait(&now).is_none());
    }
}
