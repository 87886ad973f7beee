//! The agent's Unix socket: who may ask, and that only one agent answers.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, ErrorKind},
    os::unix::{
        fs::{FileTypeExt, OpenOptionsExt, PermissionsExt, chown},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use anyhow::Result;
use rustix::{
    fs::{FlockOperation, flock},
    net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

use crate::{
    config::cli::GROUP,
    util::human,
    util::regular::{self, Links},
    util::users,
};

/// How many may wait to be let in.
const BACKLOG: i32 = 128;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The group that was to use it.
    #[error("there is no group {0} on this host")]
    NoGroup(String),
    /// By another agent, even one that does not answer.
    #[error("another agent serves {}: --socket takes another path", .0.display())]
    Served(PathBuf),
    /// Something else has its name.
    #[error("{} is there and is no socket", .0.display())]
    NoSocket(PathBuf),
    /// The kernel did not do what was asked of it.
    #[error("cannot {attempt}")]
    Failed {
        /// What was tried, and of which file.
        attempt: String,
        /// What the kernel says.
        #[source]
        error: io::Error,
    },
}

impl BindError {
    /// Nothing can be written where it is to be.
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::Failed { error, .. } if error.kind() == ErrorKind::ReadOnlyFilesystem)
    }
}

/// Of what a failure is, which the error lacks.
trait Attempt<T> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, BindError>;
}

impl<T, E: Into<io::Error>> Attempt<T> for std::result::Result<T, E> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, BindError> {
        self.map_err(|error| BindError::Failed { attempt: what(), error: error.into() })
    }
}

/// A bound socket. Its file goes when this is dropped.
pub struct ApiSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Held as long as the agent lives, also one that is stopped or does not answer; the kernel lets go of it with the
    /// process.
    _lock: File,
}

impl ApiSocket {
    /// Takes the path. A socket that an agent has left behind is replaced; one that an agent serves is not.
    pub fn bind(path: &Path, group: &str) -> Result<Self, BindError> {
        let whom = path.display();
        let gid = users::group(group);
        if gid.is_none() && group != GROUP {
            return Err(BindError::NoGroup(group.to_owned()));
        }
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).attempt(|| format!("make {}", dir.display()))?;
        }
        let lock = beside(path, "lock");
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let lock = regular::open(&lock, &mut options, Links::Refused)
            .attempt(|| format!("open {}", lock.display()))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(BindError::Served(path.to_owned()));
        }
        match fs::symlink_metadata(path) {
            Ok(file) if file.file_type().is_socket() => {}
            Ok(_) => return Err(BindError::NoSocket(path.to_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).attempt(|| format!("look at {whom}")),
        }
        // Bound under its own name, which is what the kernel shows of each connection to it, and refusing all until its owner
        // and mode are right.
        let _ = fs::remove_file(path);
        let listen = || format!("listen on {whom}");
        let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .attempt(listen)?;
        SocketAddrUnix::new(path).and_then(|address| net::bind(&socket, &address)).attempt(listen)?;
        let socket = Self { listener: socket.into(), path: path.to_owned(), _lock: lock };
        let mode = || format!("set the mode of {whom}");
        match gid {
            Some(gid) => {
                chown(path, None, Some(gid)).attempt(|| {
                    format!(
                        "give {whom} to the group {group}: without CAP_CHOWN it has to be the agent's own \
                         (`Group=` of its unit)"
                    )
                })?;
                fs::set_permissions(path, Permissions::from_mode(0o660)).attempt(mode)?;
            }
            None => {
                fs::set_permissions(path, Permissions::from_mode(0o600)).attempt(mode)?;
                human::say(&format!(
                    "there is no group {GROUP} on this host: only root may ask the agent on {whom} \
                     (groupadd --system {GROUP})"
                ));
            }
        }
        net::listen(&socket.listener, BACKLOG).attempt(listen)?;
        Ok(socket)
    }

    /// What connections come from.
    pub fn listener(&self) -> Result<tokio::net::UnixListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        Ok(tokio::net::UnixListener::from_std(listener)?)
    }
}

impl Drop for ApiSocket {
    fn drop(&mut self) {
        // It may have gone already.
        let _ = fs::remove_file(&self.path);
    }
}

/// `agent.sock.lock` and the like.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}
