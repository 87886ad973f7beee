//! Who asks on a connection and waits for the answer? Such waits may have a baseline. Pure.

use std::net::SocketAddr;

use crate::{model::syscalls::Direction, model::target::Target, model::wait::Wait, resolve::Resolved};

/// A client that waits for an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its user.
    pub uid: u32,
    /// The name of its thread.
    pub comm: String,
    /// The service.
    pub remote: SocketAddr,
}

impl Client {
    /// Who asks here and waits, if somebody does. A server's clients have any port.
    pub fn of(wait: &Wait, resolved: &Resolved) -> Option<Self> {
        match (&resolved.target, resolved.direction) {
            (Target::Tcp { remote, .. }, Some(Direction::Receive)) if !resolved.is_server() => {
                Some(Self { uid: wait.uid, comm: wait.comm.to_string(), remote: *remote })
            }
            _ => None,
        }
    }
}
