//! A request: bytes that a process has sent on a connection and that expect an answer. Event loops have many of them under way, and no
//! thread that waits for one.
//!
//! Part of `model`, layer 0.

use std::time::Duration;

use compact_str::CompactString;

use super::{
    file::OpenFile,
    tcp::{LastSender, TcpFacts, TcpState},
    wait::ProcessId,
};

/// A connection of a process on which it may have asked and not been answered.
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
}

#[cfg(test)]
pub mod tests {
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
        AskedConnection { process, comm: "node".into(), uid: 0, fd, file, tcp }
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
            internals.last_segment_had_data = received > 0 && received_ago <= sent_ago;
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
}
