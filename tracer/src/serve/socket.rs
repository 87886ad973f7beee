//! The agent's Unix socket: who may ask, and that only one agent answers.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::ErrorKind,
    os::unix::{
        fs::{FileTypeExt, OpenOptionsExt, PermissionsExt, chown},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
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

/// A bound socket. Its file goes when this is dropped.
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Held as long as the agent lives, also one that is stopped or does not answer; the kernel lets go of it with the
    /// process.
    _lock: File,
}

impl Socket {
    /// Takes the path. A socket that an agent has left behind is replaced; one that an agent serves is not.
    pub fn bind(path: &Path, group: &str) -> Result<Self> {
        let whom = path.display();
        let gid = users::group(group);
        ensure!(gid.is_some() || group == GROUP, "there is no group {group} on this host");
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let lock = beside(path, "lock");
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let lock = regular::open(&lock, &mut options, Links::Refused)
            .with_context(|| format!("cannot open {}", lock.display()))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("another agent serves {whom}: --socket takes another path");
        }
        match fs::symlink_metadata(path) {
            Ok(file) => ensure!(file.file_type().is_socket(), "{whom} is there and is no socket"),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot look at {whom}")),
        }
        // Bound under its own name, which is what the kernel shows of each connection to it, and refusing all until its owner
        // and mode are right.
        let _ = fs::remove_file(path);
        let listen = || format!("cannot listen on {whom}");
        let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .with_context(listen)?;
        SocketAddrUnix::new(path).and_then(|address| net::bind(&socket, &address)).with_context(listen)?;
        let socket = Self { listener: socket.into(), path: path.to_owned(), _lock: lock };
        match gid {
            Some(gid) => {
                chown(path, None, Some(gid)).with_context(|| {
                    format!(
                        "cannot give {whom} to the group {group}: without CAP_CHOWN it has to be the agent's own \
                         (`Group=` of its unit)"
                    )
                })?;
                fs::set_permissions(path, Permissions::from_mode(0o660))?;
            }
            None => {
                fs::set_permissions(path, Permissions::from_mode(0o600))?;
                human::say(&format!(
                    "there is no group {GROUP} on this host: only root may ask the agent on {whom} \
                     (groupadd --system {GROUP})"
                ));
            }
        }
        net::listen(&socket.listener, BACKLOG).with_context(listen)?;
        Ok(socket)
    }

    /// What connections come from.
    pub fn listener(&self) -> Result<tokio::net::UnixListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        Ok(tokio::net::UnixListener::from_std(listener)?)
    }
}

impl Drop for Socket {
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
