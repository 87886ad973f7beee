//! Which addresses a rule means: a host or a network, a port, or the path of a unix socket.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use glob::Pattern;

/// A set of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Of the internet: each part that is given must match.
    Inet {
        /// Network and length of its prefix.
        network: Option<(IpAddr, u8)>,
        /// Port.
        port: Option<u16>,
    },
    /// Unix sockets by path; an abstract one begins with `@`.
    Unix(Pattern),
}

const EXPECTED: &str = "expected an address such as \"192.0.2.1\", \"10.0.0.0/8\", \"192.0.2.1:6379\", \
                        \"[2001:db8::/32]:443\" or \":6379\", or a unix socket's path such as \"/run/mysqld/*.sock\"";

impl Address {
    /// Reads one: `192.0.2.1`, `10.0.0.0/8`, `10.0.0.0/8:6379`, `2001:db8::/32`, `[2001:db8::/32]:443`, `:6379`,
    /// `/run/mysqld/*.sock`, `@abstract`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with(['/', '@']) {
            return super::rule::pattern(text).map(Address::Unix);
        }
        let wrong = || {
            let host = text.starts_with(|c: char| c.is_ascii_alphabetic()) && !text.contains("::");
            let names = if host { "; names of hosts are not looked up" } else { "" };
            format!("{EXPECTED}, not \"{text}\"{names}")
        };
        let (host, port) = split(text).ok_or_else(wrong)?;
        let network = host.map(|host| network(host).ok_or_else(wrong)).transpose()?;
        let port = port.map(|port| number(port).filter(|port| *port != 0).ok_or_else(wrong)).transpose()?;
        if let Some((ip, length)) = network
            && masked(ip, length) != ip
        {
            let network = masked(ip, length);
            return Err(format!(
                "{ip}/{length} has bits beyond its prefix: expected {network}/{length} or {ip}"
            ));
        }
        Ok(Address::Inet { network, port })
    }

    /// Whether it has this address, or this path.
    pub fn has(&self, address: Option<SocketAddr>, path: Option<&str>) -> bool {
        match self {
            Address::Unix(pattern) => path.is_some_and(|path| pattern.matches(path)),
            Address::Inet { network, port } => address.is_some_and(|address| {
                let ip = address.ip().to_canonical();
                network.is_none_or(|(network, length)| {
                    is_same_family(ip, network) && masked(ip, length) == network
                }) && port.is_none_or(|port| port == address.port())
            }),
        }
    }
}

/// Host and port of the text, each if it is there.
fn split(text: &str) -> Option<(Option<&str>, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        // What is in brackets is IPv6.
        host.contains(':').then_some(())?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((Some(host), Some(port))),
            None => rest.is_empty().then_some((Some(host), None)),
        };
    }
    match text.split_once(':') {
        Some(("", port)) if !port.starts_with(':') => Some((None, Some(port))),
        Some((_, rest)) if rest.contains(':') => Some((Some(text), None)),
        Some((host, port)) => Some((Some(host), Some(port))),
        None => Some((Some(text), None)),
    }
}

/// An address with or without the length of a prefix. IPv4 inside IPv6 is IPv4, as it is in waits.
fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (ip, length) = match text.split_once('/') {
        Some((ip, length)) => (ip.parse::<IpAddr>().ok()?, Some(number(length)?)),
        None => (text.parse::<IpAddr>().ok()?, None),
    };
    let bits = if ip.is_ipv4() { 32 } else { 128 };
    let length = u8::try_from(length.unwrap_or(bits)).ok().filter(|length| u16::from(*length) <= bits)?;
    Some(match ip.to_canonical() {
        IpAddr::V4(inner) if ip.is_ipv6() && length >= 96 => (IpAddr::V4(inner), length - 96),
        _ => (ip, length),
    })
}

/// A number in digits alone, without a sign.
fn number(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn is_same_family(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4()
}

/// The address with all bits beyond the prefix zero.
fn masked(ip: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32u32.saturating_sub(length)).unwrap_or(0);
            IpAddr::V4((ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128u32.saturating_sub(length)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_match_what_they_mean() {
        for (text, inside, outside) in [
            (
                "192.0.2.1",
                &["192.0.2.1:1", "192.0.2.1:443", "[::ffff:192.0.2.1]:443"][..],
                &["192.0.2.2:1", "[::1]:1"][..],
            ),
            ("10.0.0.0/8", &["10.0.0.1:1", "10.255.255.255:9"], &["11.0.0.0:1", "9.255.255.255:1"]),
            ("10.0.0.0/8:6379", &["10.1.2.3:6379"], &["10.1.2.3:6380", "11.1.2.3:6379"]),
            ("0.0.0.0/0", &["10.1.2.3:6379", "255.255.255.255:1"], &["[::1]:6379"]),
            ("0.0.0.0/1", &["127.255.255.255:1"], &["128.0.0.0:1"]),
            ("192.0.2.1/32:80", &["192.0.2.1:80"], &["192.0.2.0:80"]),
            (":6379", &["10.1.2.3:6379", "[2001:db8::1]:6379"], &["10.1.2.3:637"]),
            ("::1", &["[::1]:1", "[::1]:65535"], &["[::2]:1", "127.0.0.1:1"]),
            ("[::1]:6379", &["[::1]:6379"], &["[::1]:1", "127.0.0.1:6379"]),
            ("[::1]", &["[::1]:6379"], &["[::2]:6379"]),
            ("2001:db8::/32", &["[2001:db8:ffff::1]:443"], &["[2001:db9::1]:443"]),
            (
                "[2001:db8::/32]:443",
                &["[2001:db8:ffff::1]:443"],
                &["[2001:db8:ffff::1]:80", "[2001:db9::1]:443"],
            ),
            ("::/0", &["[2001:db8:ffff::1]:443"], &["10.0.0.1:443"]),
            ("::ffff:10.0.0.0/104", &["10.1.2.3:1"], &["11.1.2.3:1", "[::1]:1"]),
        ] {
            let address = Address::parse(text).expect(text);
            for (sample, expected) in
                inside.iter().map(|s| (s, true)).chain(outside.iter().map(|s| (s, false)))
            {
                assert_eq!(
                    address.has(Some(sample.parse().expect("an address")), None),
                    expected,
                    "{text} {sample}"
                );
            }
            assert!(!address.has(None, Some("/run/a.sock")), "{text}");
        }
    }

    #[test]
    fn paths_match_by_glob() {
        let sock = Address::parse("/run/mysqld/*.sock").expect("parses");
        assert!(sock.has(None, Some("/run/mysqld/mysqld.sock")));
        assert!(!sock.has(None, Some("/run/mysqld/mysqld.pid")));
        assert!(!sock.has(Some("127.0.0.1:3306".parse().expect("an address")), None));
        assert!(Address::parse("@dbus-*").expect("parses").has(None, Some("@dbus-7")));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            ":",
            "::1:",
            "*",
            "10.0.0.0/33",
            "10.0.0.0/",
            "8",
            "10.0.0.0/+8",
            "10.0.0.1:0",
            "10.0.0.1:65536",
            "10.0.0.1:+80",
            "10.0.0.1:",
            ":http",
            "10.0.0",
            "[10.0.0.1]:80",
            "[::1",
            "[::1]80",
            "::/129",
            "1:2:3",
            "/run/[",
        ] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
        let error = |text| Address::parse(text).expect_err("is refused");
        assert!(
            error("redis.example:6379").ends_with("names of hosts are not looked up"),
            "{}",
            error("redis.example:6379")
        );
        assert_eq!(
            error("10.0.0.5/8"),
            "10.0.0.5/8 has bits beyond its prefix: expected 10.0.0.0/8 or 10.0.0.5"
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_strange(text in "\\PC*", near in "[0-9a-f:./\\[\\]]{0,24}") {
            // Whatever it is, it is an address or a mistake.
            let _ = (Address::parse(&text), Address::parse(&near));
        }
    }
}
