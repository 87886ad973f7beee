//! What the service manager is told (sd_notify(3)): that the agent is ready, that it is well, that it ends. Where there is none,
//! nothing.

use std::{
    env,
    ffi::OsStr,
    fmt::Write,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with},
};
use sd_notify::NotifyState;
use tokio::time::{Instant, sleep};

/// How often it is asked whether the first snapshot has been taken, and whether a manager that was busy takes more.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long a busy manager is asked to take one more message.
const MANAGER_TIMEOUT: Duration = Duration::from_secs(5);

/// Whoever has started the agent and wants to know. Connected once, as a confined agent connects to nobody any more.
pub struct Manager(Option<OwnedFd>);

impl Manager {
    /// The one that `NOTIFY_SOCKET` names, if there is any.
    pub fn connect() -> Self {
        Self(env::var_os("NOTIFY_SOCKET").and_then(|name| connected(&name).ok()))
    }

    /// Says that the agent is ready when it is, and from then on that it is well, as long as it is; never ends.
    pub async fn follow(&self, is_ready: impl Fn() -> bool, is_well: impl Fn() -> bool) {
        while !is_ready() {
            sleep(POLL_INTERVAL).await;
        }
        self.tell(&[NotifyState::Ready]).await;
        let Some(every) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
        loop {
            if is_well() {
                self.tell(&[NotifyState::Watchdog]).await;
            }
            sleep(every / 3).await;
        }
    }

    /// Says that the agent reads its configuration again; when it has, [`reloaded`](Self::reloaded).
    pub async fn reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.tell(&[NotifyState::Reloading, now]).await;
        }
    }

    /// Says that it has, and what came of it.
    pub async fn reloaded(&self, what: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(what)]).await;
    }

    /// Says that the agent ends.
    pub fn stopping(&self) {
        // A manager that does not listen learns from the process itself.
        let _ = self.try_tell(&[NotifyState::Stopping]);
    }

    /// Tells it without waiting for it.
    async fn tell(&self, states: &[NotifyState<'_>]) {
        let end = Instant::now() + MANAGER_TIMEOUT;
        while self.try_tell(states) == Err(Errno::AGAIN) && Instant::now() < end {
            sleep(POLL_INTERVAL).await;
        }
    }

    fn try_tell(&self, states: &[NotifyState<'_>]) -> Result<(), Errno> {
        let Some(socket) = &self.0 else { return Ok(()) };
        let mut message = String::new();
        for state in states {
            // A string takes all.
            let _ = writeln!(message, "{state}");
        }
        send(socket, message.as_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map(drop)
    }
}

/// A socket for messages to the one of this name, `@` before an abstract one.
pub(super) fn connected(name: &OsStr) -> Result<OwnedFd, Errno> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        path => SocketAddrUnix::new(path)?,
    };
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn a_manager_is_told_by_path_and_by_abstract_name_and_never_waited_for() {
        let path = std::env::temp_dir().join(format!("tracer-manager-{}", std::process::id()));
        let listener = UnixDatagram::bind(&path).expect("binds");
        let manager = Manager(Some(connected(path.as_os_str()).expect("connects")));
        std::fs::remove_file(&path).expect("is removed");
        manager.stopping();
        let mut buffer = [0; 100];
        let length = listener.recv(&mut buffer).expect("it is told");
        assert_eq!(&buffer[..length], b"STOPPING=1\n");
        // It does not listen any more.
        let told = (0..10_000).find_map(|_| manager.try_tell(&[NotifyState::Watchdog]).err());
        assert_eq!(told, Some(Errno::AGAIN));

        let name = format!("tracer-manager-{}", std::process::id());
        let address =
            <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name);
        let listener = UnixDatagram::bind_addr(&address.expect("a name")).expect("binds");
        let manager = Manager(Some(connected(format!("@{name}").as_ref()).expect("connects")));
        manager.stopping();
        assert_eq!(listener.recv(&mut buffer).expect("it is told"), length);
        assert!(connected("/nowhere/at/all".as_ref()).is_err());
    }
}
