//! What does nobody else use? Ports that the kernel has chosen for an agent, and ids of users and groups that are in no table.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

/// Where an agent is told to listen: the kernel chooses, and the agent says what.
pub const ANY_PORT: &str = "127.0.0.1:0";

/// Where an agent listens, as it has said on standard error; `None` if it has not yet.
pub fn address_in(stderr: &str) -> Option<SocketAddr> {
    let (_, rest) = stderr.split_once("metrics on http://")?;
    rest.split_once("/metrics")?.0.parse().ok()
}

/// Where a process listens on IPv4, for one whose words go elsewhere; `None` if it does not yet.
pub fn address_of(pid: u32) -> Option<SocketAddr> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let links = fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    let sockets: Vec<String> = links
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).ok()?;
    // Local address, state and inode (Documentation/networking/proc_net_tcp.rst); 0A listens.
    let listener = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (words.get(1)?, words.get(3)?, words.get(9)?);
        let (address, port) = local.split_once(':')?;
        let address = Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?.to_ne_bytes());
        let is_it = *state == "0A" && sockets.iter().any(|socket| socket == inode);
        is_it.then_some(SocketAddr::new(IpAddr::V4(address), u16::from_str_radix(port, 16).ok()?))
    };
    table.lines().skip(1).find_map(listener)
}

/// An id that no user has and no group, and no other test.
pub fn unused_id() -> u32 {
    /// From here on, systemd's list of ids has nobody (docs/UIDS-GIDS.md in its sources).
    const FIRST: u32 = 1_879_048_192;
    /// As many as a test process may ask for.
    const EACH: u32 = 32;
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    assert!(count < EACH, "more than {EACH} ids");
    // Process ids have 22 bits.
    let id = FIRST + std::process::id() * EACH + count;
    for table in ["/etc/passwd", "/etc/group"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        let taken = text.lines().any(|line| line.split(':').nth(2) == Some(&*id.to_string()));
        assert!(!taken, "{table} has {id}");
    }
    id
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn an_agent_is_found_by_its_words_and_by_its_socket() {
        let said = "tracer: x\ntracer: watching; metrics on http://127.0.0.1:4711/metrics\n";
        assert_eq!(address_in(said), Some("127.0.0.1:4711".parse().expect("an address")));
        assert_eq!(address_in("tracer: x\n"), None);
        let listener = TcpListener::bind(ANY_PORT).expect("a port on loopback");
        assert_eq!(address_of(std::process::id()), Some(listener.local_addr().expect("bound")));
        drop(listener);
        assert_eq!(address_of(std::process::id()), None);
    }

    #[test]
    fn no_id_is_given_twice() {
        assert_ne!(unused_id(), unused_id());
    }
}
