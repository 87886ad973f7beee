//! What would free a process that waits? Pure: by the report about it.
//!
//! Nobody but an engineer decides to do it, and `commands/release/` does it.

use std::net::SocketAddr;

use crate::{
    assess::{
        inspect::{Condition, Report, threads::ThreadReport},
        pipeline::Assessment,
    },
    model::{
        class::Level,
        file::Device,
        obstacles::{Obstacle, obstacle},
        target::Target,
        wait::StopSignal,
    },
    util::human,
};

/// What frees a wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReleaseMeans {
    /// The kernel ends a TCP connection.
    Connection {
        /// The process's descriptor.
        fd: i32,
        /// The socket's inode number.
        inode: u64,
        /// Its own address.
        local: SocketAddr,
        /// The peer's.
        remote: SocketAddr,
    },
    /// A socket is shut down in both directions.
    Shutdown {
        /// The process's descriptor.
        fd: i32,
        /// The socket's inode number.
        inode: u64,
        /// What it is, for people.
        what: String,
    },
    /// The kernel gives up a FUSE file system.
    Fuse {
        /// The number of its connection.
        connection: u32,
        /// Where it is mounted.
        place: String,
    },
    /// SIGCONT lets a stopped process go on.
    Continue,
}

impl ReleaseMeans {
    /// What is to be done: `end the TCP connection …`.
    pub fn plan(&self) -> String {
        let (verb, _) = self.verb();
        format!("{verb} {}", self.object())
    }

    /// The same, as something that was done.
    pub fn done(&self) -> String {
        let (_, verb) = self.verb();
        format!("{verb} {}", self.object())
    }

    /// In the infinitive, and at the beginning of a sentence about the past.
    fn verb(&self) -> (&'static str, &'static str) {
        match self {
            ReleaseMeans::Connection { .. } => ("end", "Ended"),
            ReleaseMeans::Shutdown { .. } => ("shut down", "Shut down"),
            ReleaseMeans::Fuse { .. } => ("abort", "Aborted"),
            ReleaseMeans::Continue => ("send", "Sent"),
        }
    }

    fn object(&self) -> String {
        match self {
            ReleaseMeans::Connection { fd, local, remote, .. } => {
                format!("the TCP connection {local} → {remote} (fd {fd})")
            }
            ReleaseMeans::Shutdown { fd, what, .. } => format!("{what} (fd {fd}) in both directions"),
            ReleaseMeans::Fuse { connection, place } => {
                format!("FUSE connection {connection}, which is mounted on {}", human::clean(place))
            }
            ReleaseMeans::Continue => "SIGCONT".into(),
        }
    }

    /// What follows from it for others.
    pub fn consequence(&self) -> &'static str {
        match self {
            ReleaseMeans::Connection { .. } => {
                "The program gets an error, as if the peer had reset the connection. Some clients then send their request again, \
                 on a new connection, so the work may be done twice."
            }
            ReleaseMeans::Shutdown { .. } => {
                "The program reads an end of data, or gets an error, as if the peer had closed its end. So does every other \
                 process that shares the socket."
            }
            ReleaseMeans::Fuse { .. } => {
                "Everybody who waits for the mount gets an error, and so does everybody who uses it after that: it must be \
                 unmounted and mounted anew. What was not written yet is lost."
            }
            ReleaseMeans::Continue => "The process goes on where it was stopped.",
        }
    }

    /// The descriptor that it is about.
    pub fn fd(&self) -> Option<i32> {
        match self {
            ReleaseMeans::Connection { fd, .. } | ReleaseMeans::Shutdown { fd, .. } => Some(*fd),
            ReleaseMeans::Fuse { .. } | ReleaseMeans::Continue => None,
        }
    }
}

/// What can be released of a process, and what of it is chosen.
#[derive(Debug, PartialEq, Eq)]
pub struct ReleasePlan {
    /// What to do.
    pub means: ReleaseMeans,
    /// The thread whose wait it is; 0 for a request of an event loop. `None`: the whole process.
    pub tid: Option<u32>,
    /// Descriptors of other waits of it that worry, which would go on.
    pub others: Vec<i32>,
}

/// Why there is nothing to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Unreleasable {
    /// Nothing of it is stuck, or may be.
    Rests,
    /// None of its waits is on this descriptor.
    NotWaitedOn(i32),
    /// Nothing ends such a wait but whoever it is for, or the end of the process.
    ByItsPeer,
}

impl Unreleasable {
    /// For people.
    pub fn text(&self) -> String {
        match self {
            Unreleasable::Rests => {
                "none of its waits is stuck; `--fd FD` releases the one on that descriptor all the same"
                    .into()
            }
            Unreleasable::NotWaitedOn(fd) => format!("none of its waits is on fd {fd}"),
            Unreleasable::ByItsPeer => {
                "only what it waits for can release it, or its own end: `--signal TERM` asks it to end".into()
            }
        }
    }
}

/// What frees the worst wait of a process, or the one on a descriptor.
///
/// # Errors
/// Why nothing does.
pub fn plan(report: &Report, fd: Option<i32>) -> Result<ReleasePlan, Unreleasable> {
    if fd.is_none() && report.condition == Condition::Stopped {
        let signal = report.threads.first().and_then(ThreadReport::stop_signal);
        return match signal {
            // A background job stops again at once.
            Some(StopSignal::BackgroundRead | StopSignal::BackgroundWrite) => Err(Unreleasable::ByItsPeer),
            _ => Ok(ReleasePlan { means: ReleaseMeans::Continue, tid: None, others: Vec::new() }),
        };
    }
    let waits = || report.threads.iter().filter_map(|thread| Some((thread.tid, thread.wait()?)));
    let worrying = || waits().filter(|(_, wait)| wait.level() != Level::Idle);
    let chosen = match fd {
        Some(fd) => {
            waits().find(|(_, wait)| wait.resolved.fd == Some(fd)).ok_or(Unreleasable::NotWaitedOn(fd))?
        }
        // The worst is first, but it may be one that nothing frees.
        None => {
            let first = worrying().next().ok_or(Unreleasable::Rests)?;
            worrying().find(|(_, wait)| means(wait).is_some()).unwrap_or(first)
        }
    };
    let (tid, wait) = chosen;
    let means = means(wait).ok_or(Unreleasable::ByItsPeer)?;
    let mut others: Vec<i32> = worrying().filter_map(|(_, wait)| wait.resolved.fd).collect();
    others.retain(|other| Some(*other) != means.fd());
    others.sort_unstable();
    others.dedup();
    Ok(ReleasePlan { means, tid: Some(tid), others })
}

/// What frees a wait.
fn means(wait: &Assessment) -> Option<ReleaseMeans> {
    let resolved = &wait.resolved;
    let mount = resolved.peers.as_ref().and_then(|peers| peers.mount.as_deref());
    if let Some(mount) = mount.filter(|mount| mount.is_fuse())
        && matches!(
            resolved.stack.as_ref().and_then(obstacle),
            None | Some(Obstacle::Server(_) | Obstacle::Storage | Obstacle::Writeback | Obstacle::Lookup)
        )
    {
        let Device(device) = mount.device;
        return Some(ReleaseMeans::Fuse { connection: device, place: mount.place.clone() });
    }
    let fd = resolved.fd?;
    match &resolved.target {
        Target::Tcp { local, remote, inode, .. } => {
            Some(ReleaseMeans::Connection { fd, inode: *inode, local: *local, remote: *remote })
        }
        Target::Unix { inode, datagram: false, .. } => {
            Some(ReleaseMeans::Shutdown { fd, inode: *inode, what: "the Unix socket".into() })
        }
        Target::Udp { remote: Some(remote), inode, .. } => {
            Some(ReleaseMeans::Shutdown { fd, inode: *inode, what: format!("the UDP socket to {remote}") })
        }
        _ => None,
    }
}
