//! One question to the kernel's connection tracking by netlink, and its answer (linux/netfilter/nfnetlink_conntrack.h).

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
};

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::Socket as Netlink;

use crate::model::file::{Addresses, Endpoint};

/// `NFNL_SUBSYS_CTNETLINK`, with `IPCTNL_MSG_CT_GET`.
const GET: u16 = 1 << 8 | 1;
/// Bytes of `struct nfgenmsg` before the attributes.
const HEAD_BYTES: usize = 4;
/// An attribute of attributes.
const NESTED: u16 = 1 << 15;
/// What is left of an attribute's kind without its flags.
const KIND: u16 = 0x3fff;

/// `enum ctattr_type`.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
/// `enum ctattr_tuple`.
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
/// `enum ctattr_ip`.
const IP_V4_SOURCE: u16 = 1;
const IP_V4_DESTINATION: u16 = 2;
const IP_V6_SOURCE: u16 = 3;
const IP_V6_DESTINATION: u16 = 4;
/// `enum ctattr_l4proto`.
const PROTO_NUMBER: u16 = 1;
const PROTO_SOURCE_PORT: u16 = 2;
const PROTO_DESTINATION_PORT: u16 = 3;

/// The other end of a TCP connection that has these addresses at its own, as the kernel translates it; `None`: it does not know the
/// connection.
///
/// # Errors
/// Who may not ask gets `PermissionDenied`.
pub fn ask(socket: &Netlink, addresses: Addresses) -> io::Result<Option<Addresses>> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut message =
        NetlinkMessage::new(header, NetlinkPayload::InnerMessage(TupleMessage::asking(addresses)));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<TupleMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::InnerMessage(TupleMessage(found)) => Ok(other_end(&found, addresses)),
        NetlinkPayload::Error(error) => match error.to_io() {
            error if error.kind() == io::ErrorKind::NotFound => Ok(None),
            error => Err(error),
        },
        _ => Ok(None),
    }
}

/// Of a connection's two tuples, whose sender and receiver are swapped if nothing is translated: what the one that is not ours says.
fn other_end(attributes: &[u8], own: Addresses) -> Option<Addresses> {
    let [original, reply] = [TUPLE_ORIGINAL, TUPLE_REPLY].map(|kind| tuple(attribute(attributes, kind)?));
    // Packets of the other end are sent from there.
    match (original?, reply?) {
        (original, reply) if original == own => Some(reply),
        (original, reply) if reply == own => Some(original),
        _ => None,
    }
}

/// A message about one connection: its attributes, without the head.
struct TupleMessage(Vec<u8>);

impl TupleMessage {
    fn asking(addresses: Addresses) -> Self {
        let Addresses { local, remote } = addresses;
        let ip = match (local.address.to_ipv4_mapped(), remote.address.to_ipv4_mapped()) {
            (Some(local), Some(remote)) => [
                DefaultNla::new(IP_V4_SOURCE, local.octets().to_vec()),
                DefaultNla::new(IP_V4_DESTINATION, remote.octets().to_vec()),
            ],
            _ => [
                DefaultNla::new(IP_V6_SOURCE, local.address.octets().to_vec()),
                DefaultNla::new(IP_V6_DESTINATION, remote.address.octets().to_vec()),
            ],
        };
        let proto = [
            DefaultNla::new(PROTO_NUMBER, vec![libc::IPPROTO_TCP as u8]),
            DefaultNla::new(PROTO_SOURCE_PORT, local.port.to_be_bytes().to_vec()),
            DefaultNla::new(PROTO_DESTINATION_PORT, remote.port.to_be_bytes().to_vec()),
        ];
        let tuple = [nested(TUPLE_IP, &ip), nested(TUPLE_PROTO, &proto)];
        Self(emitted(&[nested(TUPLE_ORIGINAL, &tuple)]))
    }

    /// By the addresses that it asks for.
    fn family(&self) -> u8 {
        let is_v4 = attribute(&self.0, TUPLE_ORIGINAL)
            .and_then(|tuple| attribute(tuple, TUPLE_IP))
            .is_some_and(|ip| attribute(ip, IP_V4_SOURCE).is_some());
        (if is_v4 { libc::AF_INET } else { libc::AF_INET6 }) as u8
    }
}

impl NetlinkSerializable for TupleMessage {
    fn message_type(&self) -> u16 {
        GET
    }

    fn buffer_len(&self) -> usize {
        HEAD_BYTES + self.0.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (head, attributes) = buffer.split_at_mut(HEAD_BYTES);
        head.copy_from_slice(&[self.family(), 0, 0, 0]);
        attributes[..self.0.len()].copy_from_slice(&self.0);
    }
}

impl NetlinkDeserializable for TupleMessage {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self(payload.get(HEAD_BYTES..).unwrap_or_default().to_vec()))
    }
}

fn emitted(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    DefaultNla::new(kind | NESTED, emitted(attributes))
}

/// The value of the first attribute of this kind.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    const HEAD: usize = 4;
    loop {
        let [length, kind] = [0, 2].map(|at| attributes.get(at..at + 2));
        let [length, kind] = [length?, kind?].map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
        let length = usize::from(length);
        let value = attributes.get(HEAD..length)?;
        if kind & KIND == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(HEAD)..)?;
    }
}

/// A tuple: who sends, and to whom.
fn tuple(attributes: &[u8]) -> Option<Addresses> {
    let (ip, proto) = (attribute(attributes, TUPLE_IP)?, attribute(attributes, TUPLE_PROTO)?);
    let address = |v4: u16, v6: u16| -> Option<Ipv6Addr> {
        match attribute(ip, v4) {
            Some(octets) => Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).to_ipv6_mapped()),
            None => Some(Ipv6Addr::from(<[u8; 16]>::try_from(attribute(ip, v6)?).ok()?)),
        }
    };
    let port = |kind: u16| Some(u16::from_be_bytes(attribute(proto, kind)?.try_into().ok()?));
    Some(Addresses {
        local: Endpoint { address: address(IP_V4_SOURCE, IP_V6_SOURCE)?, port: port(PROTO_SOURCE_PORT)? },
        remote: Endpoint {
            address: address(IP_V4_DESTINATION, IP_V6_DESTINATION)?,
            port: port(PROTO_DESTINATION_PORT)?,
        },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses(local: &str, remote: &str) -> Addresses {
        let endpoint = |text: &str| text.parse::<std::net::SocketAddr>().expect("an address").into();
        Addresses { local: endpoint(local), remote: endpoint(remote) }
    }

    #[test]
    fn what_is_asked_is_the_tuple_in_its_wire_format() {
        for (local, remote, family) in [
            ("10.0.0.1:40000", "10.96.0.1:80", libc::AF_INET),
            ("[2001:db8::1]:40000", "[2001:db8::2]:80", libc::AF_INET6),
        ] {
            let own = addresses(local, remote);
            let message = TupleMessage::asking(own);
            assert_eq!(i32::from(message.family()), family);
            let found = attribute(&message.0, TUPLE_ORIGINAL).and_then(tuple);
            assert_eq!(found, Some(own));
        }
    }

    /// The answer has both tuples: ours is either.
    #[test]
    fn the_other_end_is_what_the_other_tuple_says() {
        let asked =
            |own: Addresses| attribute(&TupleMessage::asking(own).0, TUPLE_ORIGINAL).map(<[u8]>::to_vec);
        let client = addresses("10.0.0.1:40000", "10.96.0.1:80");
        let server = addresses("10.244.1.7:8080", "10.0.0.1:40000");
        let tuples = [(TUPLE_ORIGINAL, client), (TUPLE_REPLY, server)]
            .map(|(kind, of)| DefaultNla::new(kind | NESTED, asked(of).expect("a tuple")));
        let answer = emitted(&tuples);
        assert_eq!(other_end(&answer, client), Some(server));
        assert_eq!(other_end(&answer, server), Some(client));
        assert_eq!(other_end(&answer, client.reversed()), None, "another connection");
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let own = addresses("10.0.0.1:40000", "10.96.0.1:80");
            let _ = other_end(&bytes, own);
        }
    }
}
