//! What `release` does to the kernel: end a connection, shut a socket down, abort a FUSE mount, send a signal.
//!
//! Everything goes through a descriptor of the very process or socket that was judged, so that nothing else is ever hit that has
//! got the same number meanwhile.

use std::{
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket as Netlink, protocols::NETLINK_SOCK_DIAG};
use rustix::{
    fs::{self, Mode, OFlags},
    mount::{self, FsMountFlags, FsOpenFlags, MountAttrFlags},
    net::{self, Shutdown, sockopt},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open, pidfd_send_signal},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{
    assess::release::ReleaseMeans,
    config::cli::ReleaseSignal,
    model::wait::{ProcessId, may_be_same_start},
    procfs::{Reads, by_pid, stat},
};

/// `SOCK_DESTROY` of linux/sock_diag.h: end the socket that a question is about. Linux 4.5, where CONFIG_INET_DIAG_DESTROY is set.
const SOCK_DESTROY: u16 = 21;
/// `SIOCGSKNS` of linux/sockios.h: the network namespace of a socket.
const SIOCGSKNS: libc::Ioctl = 0x894c;

/// A process that keeps its identity.
pub struct HeldProcess(OwnedFd);

impl HeldProcess {
    /// Takes hold of a process.
    ///
    /// # Errors
    /// It has ended, or another one has its id now.
    pub fn open(process: ProcessId) -> Result<Self> {
        let gone = || format!("process {} has ended", process.pid);
        let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw).with_context(gone)?;
        let held = Self(pidfd_open(pid, PidfdFlags::empty()).with_context(gone)?);
        let text = Reads::new().file(by_pid(process.pid), "stat");
        let text = text.ok().with_context(|| format!("/proc/{}/stat cannot be read", process.pid))?;
        let now = stat::parse_stat(&String::from_utf8_lossy(&text)).with_context(gone)?;
        let now = ProcessId { start_ns: now.start_ns(), ..process };
        ensure!(
            may_be_same_start(now.start_ticks(), process.start_ticks()),
            "process {} has ended, and another one has its id now",
            process.pid
        );
        Ok(held)
    }

    /// Does it.
    ///
    /// # Errors
    /// What could not be done, and why.
    pub fn release(&self, means: &ReleaseMeans) -> Result<()> {
        match means {
            ReleaseMeans::Connection { fd, inode, local, remote } => {
                let socket = self.socket(*fd, *inode)?;
                match destroy(&socket, *local, *remote) {
                    Ok(()) => Ok(()),
                    // A kernel without it, a socket bound to an interface: the next best.
                    Err(_) => shut_down(&socket),
                }
            }
            ReleaseMeans::Shutdown { fd, inode, .. } => shut_down(&self.socket(*fd, *inode)?),
            ReleaseMeans::Fuse { connection, .. } => abort(*connection),
            ReleaseMeans::Continue => self.send(Signal::CONT),
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: ReleaseSignal) -> Result<()> {
        self.send(match signal {
            ReleaseSignal::Int => Signal::INT,
            ReleaseSignal::Term => Signal::TERM,
            ReleaseSignal::Abrt => Signal::ABORT,
            ReleaseSignal::Kill => Signal::KILL,
            ReleaseSignal::Cont => Signal::CONT,
        })
    }

    fn send(&self, signal: Signal) -> Result<()> {
        pidfd_send_signal(&self.0, signal).context("the signal could not be sent")
    }

    /// A descriptor of our own of its socket, which must still be the one with this inode number.
    fn socket(&self, fd: i32, inode: u64) -> Result<OwnedFd> {
        let socket = pidfd_getfd(&self.0, fd, PidfdGetfdFlags::empty())
            .with_context(|| format!("fd {fd} cannot be taken from the process"))?;
        ensure!(fs::fstat(&socket)?.st_ino == inode, "fd {fd} is another socket now");
        Ok(socket)
    }
}

fn shut_down(socket: &OwnedFd) -> Result<()> {
    net::shutdown(socket, Shutdown::Both).context("the socket could not be shut down")
}

/// Has the kernel end this very connection, which its cookie identifies.
fn destroy(socket: &OwnedFd, local: SocketAddr, remote: SocketAddr) -> Result<()> {
    let cookie = sockopt::socket_cookie(socket)?;
    let asked = InetRequest {
        family: if local.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: local.port(),
            destination_port: remote.port(),
            source_address: local.ip(),
            destination_address: remote.ip(),
            interface_id: interface(remote),
            cookie: cookie.to_ne_bytes(),
        },
    };
    let namespace = namespace_of(socket)?;
    // A netlink socket belongs to the namespace that its thread was in.
    let there = thread::Builder::new().spawn(move || -> Result<()> {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        ask(asked)
    })?;
    match there.join() {
        Ok(result) => result,
        Err(_) => bail!("the connection could not be ended"),
    }
}

/// The interface of an address that has a meaning on one only.
fn interface(remote: SocketAddr) -> u32 {
    match remote {
        SocketAddr::V6(address) if matches!(remote.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local()) => {
            address.scope_id()
        }
        _ => 0,
    }
}

/// The network namespace that a socket is in, which need not be its process's.
fn namespace_of(socket: &OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: SIOCGSKNS takes no argument and returns a new descriptor, or -1.
    let fd = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The question of [`InetRequest`], asked for another purpose.
struct DestroyRequest(SockDiagMessage);

impl NetlinkSerializable for DestroyRequest {
    fn message_type(&self) -> u16 {
        SOCK_DESTROY
    }

    fn buffer_len(&self) -> usize {
        self.0.buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        self.0.serialize(buffer);
    }
}

fn ask(request: InetRequest) -> Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let payload = NetlinkPayload::InnerMessage(DestroyRequest(SockDiagMessage::InetRequest(request)));
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let socket = Netlink::new(NETLINK_SOCK_DIAG)?;
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    match NetlinkMessage::<SockDiagMessage>::deserialize(&answer)?.payload {
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
        NetlinkPayload::Error(error) => Err(error.to_io().into()),
        _ => bail!("an answer that cannot be read"),
    }
}

/// Writes to the switch of a FUSE connection, on a mount of the control file system that nobody else sees.
fn abort(connection: u32) -> Result<()> {
    let what = || format!("FUSE connection {connection} could not be aborted");
    let control = || -> rustix::io::Result<OwnedFd> {
        let context = mount::fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
        mount::fsconfig_create(&context)?;
        mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    let control = control().with_context(what)?;
    let switch = format!("{connection}/abort");
    let switch = fs::openat(&control, switch, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    let mut switch = std::fs::File::from(switch.with_context(what)?);
    switch.write_all(b"1").with_context(what)
}
