//! What is said of connections, pipes, terminals and queues of messages: who was to answer, send, read or take.

use std::time::Duration;

use super::{
    facts, on, others,
    outlook::{left, looks_again, outlook},
    remote,
};
use crate::{
    diagnose::silence::{Silence, silence},
    diagnose::verdict::is_mutual,
    model::backlog::{Backlog, QueueKind},
    model::target::Target,
    model::tcp::{LastSender, TcpActivity},
    model::wait::{Queued, Wait},
    resolve::Resolved,
    util::human::{age, count, interval},
};

pub(super) fn next_request(resolved: &Resolved) -> String {
    let target = &resolved.target;
    match (&resolved.last_sender, facts(resolved)) {
        (Some(LastSender::Ours), Some(facts)) => {
            let since = ago(facts.sent());
            format!("for the next request from {}: the last one was answered {since} ago", remote(target))
        }
        (Some(LastSender::Nobody), _) => format!("for the first request from {}", remote(target)),
        _ => format!("for the client's next request{}", on(target)),
    }
}

/// `1 byte`, `517 bytes`.
fn bytes(number: u64) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), "byte")
}

pub(super) fn ago(since: Option<Duration>) -> String {
    since.map_or_else(|| "some time".into(), age)
}

/// The peer's address, with its process if that is on this host.
fn peer(resolved: &Resolved) -> String {
    let address = remote(&resolved.target);
    let translated = resolved.peers.as_ref().and_then(|peers| peers.translated);
    let address = match translated {
        Some(other) => format!("{address} (translated to {})", other.local.socket_addr()),
        None => address,
    };
    match others(resolved.peers.as_ref()) {
        Some(others) if unaccepted(resolved).is_some() => {
            let several = resolved.peers.as_ref().is_some_and(|peers| peers.number() > 1);
            let verb = if several { "listen" } else { "listens" };
            format!("{address}, where {others} {verb}")
        }
        Some(others) => format!("{address}, which is {others}"),
        None => address,
    }
}

/// What waits in the queue of those who listen, where nobody has accepted the connection; and who they are.
fn unaccepted(resolved: &Resolved) -> Option<(String, Backlog)> {
    let peers = resolved.peers.as_ref()?;
    let backlog = peers.backlog.filter(|backlog| backlog.waiting == QueueKind::Connections)?;
    Some((others(Some(peers))?, backlog))
}

pub(super) fn connect(wait: &Wait, resolved: &Resolved) -> String {
    let listens = unaccepted(resolved);
    let Some(facts) = facts(resolved) else {
        let on = on(&resolved.target);
        return match listens {
            Some((who, backlog)) => format!("for {who} to accept its connection{on}: {backlog}"),
            None => format!("for its connection to be accepted{on}: the listener's queue is full"),
        } + &outlook(wait, resolved);
    };
    let tries = u64::from(facts.retransmits()) + 1;
    let kernels = "the kernel gives up after about two minutes";
    let outlook = match (resolved.timeout, left(wait, resolved)) {
        (Some(timeout), _) if looks_again(wait, timeout) => {
            format!("it looks again every {}, and {kernels}", interval(timeout))
        }
        (_, Some(left)) => format!("gives up in {}", age(left)),
        _ => kernels.into(),
    };
    let comma = if listens.is_some() { "," } else { "" };
    let listens = listens.map(|(_, backlog)| format!("; {backlog}")).unwrap_or_default();
    format!(
        "for {}{comma} to answer its connection attempt, {} so far{listens}; {outlook}",
        peer(resolved),
        count(tries as usize, "attempt"),
    )
}

/// A reply to a datagram.
fn reply_to_datagram(resolved: &Resolved, outlook: &str) -> String {
    /// Where name servers are asked (RFC 1035).
    const DOMAIN: u16 = 53;
    let (local, whom) = match &resolved.target {
        Target::Udp { local, remote: Some(remote), .. } if remote.port() == DOMAIN => {
            (local.port(), format!("the name server {remote}"))
        }
        Target::Udp { local, remote: Some(remote), .. } => (local.port(), remote.to_string()),
        target => (0, target.to_string()),
    };
    format!(
        "for a reply from {whom}: it has asked from port {local}, and nothing has ever come back there{outlook}"
    )
}

pub(super) fn reply(wait: &Wait, resolved: &Resolved) -> String {
    let outlook = outlook(wait, resolved);
    if matches!(resolved.target, Target::Udp { .. }) {
        return reply_to_datagram(resolved, &outlook);
    }
    let Some(facts) = facts(resolved) else {
        let on = on(&resolved.target);
        if resolved.socket.unix().is_some_and(|facts| facts.unaccepted) {
            return match unaccepted(resolved) {
                Some((who, backlog)) => {
                    format!("for {who} to accept its connection{on}: {backlog}{outlook}")
                }
                None => format!("for its connection{on} to be accepted{outlook}"),
            };
        }
        let peer = others(resolved.peers.as_ref()).unwrap_or_else(|| "its peer".into());
        let unread = match resolved.socket.unix().map(|facts| facts.unread) {
            Some(Queued::Bytes) => "what it wrote has not been read yet".into(),
            Some(Queued::Messages(number)) => {
                format!("{} it sent not read yet", count(number as usize, "message"))
            }
            _ if resolved.peers.as_ref().is_some_and(is_mutual) => {
                "it has read everything sent to it and does nothing but wait for more: each waits for the other".into()
            }
            _ => "it has read everything sent to it, and none of its threads waits on this connection: it is busy, or stuck itself".into(),
        };
        return format!("for a reply from {peer}{on}: {unread}{outlook}");
    };
    let is_theirs = matches!(resolved.last_sender, Some(LastSender::Theirs | LastSender::Unknown));
    if is_theirs && resolved.peers.as_ref().is_some_and(|peers| peers.writes) {
        return format!(
            "for more from {}: it is sending, and nothing has come for {}: what it sends is lost on the way{outlook}",
            peer(resolved),
            ago(facts.received())
        );
    }
    let sent = facts.activity.map_or(0, |activity| activity.bytes_sent_once());
    let open = facts.unacknowledged();
    let said = match (sent, open, facts.retransmits()) {
        (0, 0, _) => {
            return format!(
                "for the first bytes from {}: connected, but neither side has sent anything{outlook}",
                peer(resolved)
            );
        }
        (sent, 0, _) => {
            format!("{} sent, all acknowledged, the last {} ago", bytes(sent), ago(facts.sent()))
        }
        (_, open, _) if facts.is_full() => {
            format!("{} not acknowledged: the peer does not read, and its buffer is full", bytes(open.into()))
        }
        (_, open, 0) => format!("{} sent and not acknowledged yet", bytes(open.into())),
        (_, open, again) => format!(
            "{} sent and unacknowledged after {}: the peer cannot be reached",
            bytes(open.into()),
            count(again.into(), "retransmission")
        ),
    };
    let heard = match &facts.activity {
        Some(_) if resolved.last_sender == Some(LastSender::Tickets) => {
            "what came since then has the size of a TLS server's session tickets, which are no answer"
                .to_owned()
        }
        None => "what was received is unknown".into(),
        Some(TcpActivity { bytes_received: 0, .. }) => "nothing was ever received".to_owned(),
        Some(TcpActivity { sent: Some(sent), received: Some(received), .. }) if sent <= received => {
            format!("nothing received since; its last answer came {} ago", age(*received))
        }
        Some(_) => "nothing received since".to_owned(),
    };
    let listens = unaccepted(resolved)
        .map(|(_, backlog)| format!("nobody has accepted the connection: {backlog}; "))
        .unwrap_or_default();
    format!("for a reply from {}: {listens}{said}; {heard}{outlook}", peer(resolved))
}

pub(super) fn send(resolved: &Resolved) -> String {
    let on_it = on(&resolved.target);
    match &resolved.target {
        Target::Tty { .. } => return to_terminal(resolved),
        Target::MessageQueue { .. } => {
            let taker = others(resolved.peers.as_ref());
            let taker = taker.map_or_else(String::new, |who| format!("; {who} took a message from it last"));
            return format!("to put a message{on_it}: it is full{taker}");
        }
        _ => {}
    }
    let Some(facts) = facts(resolved) else {
        return match others(resolved.peers.as_ref()) {
            Some(others) => {
                let several = resolved.peers.as_ref().is_some_and(|peers| peers.number() > 1);
                let verb = if several { "do not read it" } else { "does not read it" };
                let backlog = resolved.peers.as_ref().and_then(|peers| peers.backlog);
                let backlog = backlog.map(|backlog| format!(", {backlog}")).unwrap_or_default();
                format!("to write{on_it}: {others} {verb}{backlog}")
            }
            None => format!("to write{}: it is full and nobody reads it", on_it),
        };
    };
    let open = facts.unacknowledged();
    let why = if facts.retransmits() > 0 && facts.window() != Some(0) {
        format!("no answer to {}: it cannot be reached", count(facts.retransmits().into(), "retransmission"))
    } else {
        "it does not read, and its buffer is full".to_owned()
    };
    format!("to send to {}: {} not acknowledged; {why}", peer(resolved), bytes(open.into()))
}

/// Of a writer to a terminal: its output was stopped, or nobody reads the other end.
fn to_terminal(resolved: &Resolved) -> String {
    let on = on(&resolved.target);
    let who = others(resolved.peers.as_ref());
    match (resolved.is_output_stopped(), resolved.flow, who) {
        (true, Some(_), _) => {
            format!("to write{on}: output there is stopped, as by Ctrl-S; Ctrl-Q lets it go on")
        }
        (true, None, Some(who)) => format!(
            "to write{on}: output there is probably stopped, as by Ctrl-S, since {who} waits for it; Ctrl-Q lets it go on"
        ),
        (_, _, Some(who)) => format!("to write{on}: {who} has its other end and does not read it"),
        (_, _, None) => format!("to write{on}: its other end is not read, or its output is stopped"),
    }
}

pub(super) fn quiet(resolved: &Resolved) -> String {
    let Some(facts) = facts(resolved) else {
        return format!("for the next message{}", on(&resolved.target));
    };
    if facts.activity.is_none() {
        return format!("for more from {}: who spoke last, and when, is not visible here", peer(resolved));
    }
    let spoke = match resolved.last_sender {
        Some(LastSender::Unknown) => "it is unknown who spoke last; the last bytes from it arrived",
        _ => "it sent the last bytes",
    };
    let guess = match silence(resolved) {
        Silence::CutOff => "it waits for nothing on this connection: the rest of an answer is missing",
        Silence::Mutual => {
            "it does nothing but wait for more from this end: the rest of an answer is missing, or of a question"
        }
        Silence::AtRest => "it serves this connection and has nothing to say: a subscription, most likely",
        Silence::Unknown => "the rest of an answer is missing, or a subscription has nothing to say",
    };
    format!("for more from {}: {spoke} {} ago: {guess}", peer(resolved), ago(facts.received()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::sentence::tests::of,
        diagnose::verdict::tests as samples,
        model::syscalls::Syscall,
        model::tcp::TcpFacts,
        model::tcp::tests::facts as sample,
        model::wait::{OutputFlow, SocketFacts},
        resolve::peers::{Peer, Peers},
    };

    #[test]
    fn an_unanswered_request_says_what_was_sent_and_that_nothing_comes() {
        assert_eq!(
            of(Syscall::Read, &samples::on(Syscall::Read, samples::tcp())),
            "waiting 1m 0s for a reply from 10.0.0.2:443: 517 bytes sent, all acknowledged, the last 1m 0s ago; \
             nothing was ever received; no receive time-out, keepalive off: it will wait for ever"
        );
        // After 1.4 s it was sent for the third time, after 3, 6.2, 12.6 and 25.4 s it will be once more.
        let lost = TcpFacts { send_queue: 517, ..sample(517, 0) }
            .with_activity(|of| (of.retransmits, of.sent) = (3, Some(Duration::from_secs(10))))
            .with_internals(|of| {
                of.retransmission = Duration::from_millis(1600);
                of.user_timeout = Some(Duration::from_secs(20));
            });
        let resolved = Resolved {
            socket: SocketFacts::Tcp(Box::new(lost)),
            ..samples::on(Syscall::Read, samples::tcp())
        };
        assert_eq!(
            of(Syscall::Read, &resolved),
            "waiting 1m 0s for a reply from 10.0.0.2:443: 517 bytes sent and unacknowledged after 3 \
             retransmissions: the peer cannot be reached; nothing was ever received; the kernel gives up in 14s"
        );
        let lost = lost.with_activity(|of| of.retransmits = 0).with_internals(|of| of.user_timeout = None);
        let resolved = Resolved {
            socket: SocketFacts::Tcp(Box::new(lost)),
            ..samples::on(Syscall::Read, samples::tcp())
        };
        let end =
            "nothing was ever received; no time-out: the kernel gives up after 15m 24s of retransmissions";
        assert!(of(Syscall::Read, &resolved).ends_with(end), "{}", of(Syscall::Read, &resolved));
        let full = lost.with_activity(|of| (of.window, of.probes) = (Some(0), 3));
        let resolved = Resolved {
            socket: SocketFacts::Tcp(Box::new(full)),
            ..samples::on(Syscall::Read, samples::tcp())
        };
        let said = of(Syscall::Read, &resolved);
        assert!(
            said.contains("517 bytes not acknowledged: the peer does not read, and its buffer is full"),
            "{said}"
        );
        let long_ago = Duration::from_secs(7861);
        let dead = TcpFacts { keepalive: true, ..sample(517, 10) }
            .with_activity(|of| (of.probes, of.acknowledged, of.received) = (8, long_ago, Some(long_ago)));
        let resolved = Resolved {
            socket: SocketFacts::Tcp(Box::new(dead)),
            ..samples::on(Syscall::Read, samples::tcp())
        };
        let said = of(Syscall::Read, &resolved);
        assert!(said.ends_with("; no answer to 8 keepalive probes: the kernel gives up in 14s"), "{said}");
    }

    #[test]
    fn a_terminal_says_why_it_takes_nothing() {
        let terminal = |flow, waits| {
            let others = [Peer { pid: 812, comm: "tmux".into() }].into();
            let peers = Some(Peers { others, waits, certain: true, ..Peers::default() });
            let target = Target::Tty { path: "/dev/pts/3".into() };
            let resolved = Resolved { peers, flow, ..samples::on(Syscall::Write, target) };
            of(Syscall::Write, &resolved)
        };
        let stopped = "waiting 1m 0s to write on /dev/pts/3: output there is stopped, as by Ctrl-S; Ctrl-Q lets it go on";
        assert!(terminal(Some(OutputFlow::Stopped), Some(false)).starts_with(stopped));
        assert!(
            terminal(None, Some(true))
                .contains("is probably stopped, as by Ctrl-S, since tmux (pid 812) waits")
        );
        for (flow, waits) in [(Some(OutputFlow::Runs), Some(true)), (None, Some(false)), (None, None)] {
            let said = terminal(flow, waits);
            assert!(said.contains("tmux (pid 812) has its other end and does not read it"), "{said}");
        }
    }

    #[test]
    fn who_is_at_the_other_end_is_named() {
        let peer = Peer { pid: 812, comm: "mariadbd".into() };
        let peers = Some(Peers { others: [peer].into(), waits: Some(false), ..Peers::default() });
        let target = Target::Unix {
            path: Some("/run/db".into()),
            inode: 1,
            peer_inode: Some(2),
            peer_pid: None,
            datagram: false,
            client: true,
        };
        let socket = SocketFacts::Unix(Box::default());
        let resolved = Resolved { socket, peers: peers.clone(), ..samples::on(Syscall::Read, target) };
        let sentence = of(Syscall::Read, &resolved);
        assert!(sentence.contains("for a reply from mariadbd (pid 812) on unix /run/db"), "{sentence}");
        let file = Target::File { path: "/x.lock".into(), inode: None, deleted: false, pseudo_fs: false };
        let mut resolved = Resolved { peers, ..samples::on(Syscall::Flock, file) };
        let said = "waiting 1m 0s for the lock on /x.lock that mariadbd (pid 812)";
        assert_eq!(of(Syscall::Flock, &resolved), format!("{said} holds"));
        if let Some(peers) = &mut resolved.peers {
            peers.more = 4992;
        }
        assert_eq!(of(Syscall::Flock, &resolved), format!("{said} and 4992 more hold"));
    }
}
