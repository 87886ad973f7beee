//! Do the kernel programs read what they should? The kernel's verifier cannot tell a field from its neighbour, but `/proc`
//! shows many of the same values: those of a process and of descriptors made here are held against it.
//!
//! Part of `collect`, layer 2, and uses what that may use.

mod child;
mod condition;

use std::{
    fs,
    io::Write,
    mem,
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsRawFd, RawFd},
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use self::child::Child;
use super::{Source, bpf::Bpf};
use crate::{
    model::{
        file::{Device, Endpoint, OpenFile, SocketFamily},
        holder::{Access, FileId},
        wait::{FdState, SeenFd, SocketFacts, ThreadId, Wait},
    },
    procfs::{Reads, stat},
};

/// Until a new process is asleep.
const SETTLE_TIME: Duration = Duration::from_millis(50);

/// A value that was read twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComparedValue {
    /// What it is.
    pub name: String,
    /// As the kernel programs read it.
    pub read: String,
    /// As `/proc` shows it.
    pub shown: String,
}

/// Reads everything both ways. The error says why it could not be tried.
pub fn values(bpf: &mut Bpf) -> Result<Vec<ComparedValue>> {
    let mut values = Vec::new();
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        // A host may have no IPv6.
        let Ok(listener) = TcpListener::bind(listen) else { continue };
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (server, _) = listener.accept()?;
        (&client).write_all(b"five.")?;
        let null = fs::File::open("/dev/null")?;
        let name = format!("tracer-{}", std::process::id());
        let bound = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        let _peer = UnixStream::connect_addr(&bound.local_addr()?)?;
        let (unix, _) = bound.accept()?;
        let reader = Child::reading(client.as_raw_fd())?;
        thread::sleep(SETTLE_TIME);
        // What of these no call of it is about is looked up.
        let others = [server.as_raw_fd(), null.as_raw_fd(), unix.as_raw_fd()];
        values.extend(read_and_compare(bpf, reader.pid(), &others)?);
    }
    condition::values(bpf, &mut values)?;
    Ok(values)
}

fn read_and_compare(source: &mut dyn Source, pid: u32, others: &[RawFd]) -> Result<Vec<ComparedValue>> {
    let mut values = Vec::new();
    let snapshot = source.snapshot()?;
    let wait = snapshot.waits.into_iter().find(|wait| wait.thread.tid == pid);
    let wait = wait.context("the snapshot lacks a process that waits")?;
    of_thread(&wait, &mut values)?;
    let fd = wait.fd.context("its call's descriptor is unknown")?;
    of_file(fd, &wait.fd_state, &mut values)?;
    of_socket(&wait.fd_state, &wait.socket, &mut values);
    let asked: Vec<(ThreadId, i32)> = others.iter().map(|fd| (wait.thread, *fd)).collect();
    for SeenFd { fd, state, socket, .. } in source.look_up(&asked)? {
        of_file(fd, &state, &mut values)?;
        of_socket(&state, &socket, &mut values);
        of_unix(&state, &socket, &mut values);
        if let (FdState::Open(file), SocketFacts::Unix(_)) = (&state, &socket) {
            of_holder(source, fd, file, &mut values)?;
        }
    }
    Ok(values)
}

fn value(values: &mut Vec<ComparedValue>, name: &str, read: impl ToString, shown: impl ToString) {
    values.push(ComparedValue { name: name.to_owned(), read: read.to_string(), shown: shown.to_string() });
}

fn of_thread(wait: &Wait, values: &mut Vec<ComparedValue>) -> Result<()> {
    let (mut reads, process) = (Reads::new(), wait.thread.process);
    let dir = format!("task/{}", wait.thread.tid);
    let [status, comm, call] =
        reads.texts(process, [&format!("{dir}/status"), &format!("{dir}/comm"), &format!("{dir}/syscall")]);
    let status = status.context("no status")?;
    let field = |name: &str| -> String {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_ascii_whitespace().next()).unwrap_or_default().to_owned()
    };
    value(values, "tgid", wait.thread.process.pid, field("Tgid"));
    value(values, "pid", wait.thread.tid, field("Pid"));
    value(values, "comm", &wait.comm, stat::comm(&comm.context("no comm")?));
    value(values, "uid", wait.uid, field("Uid"));
    value(values, "state", wait.sleep.letter(), field("State"));
    let number = |name: &str| field(name).parse::<u64>().unwrap_or(u64::MAX);
    let switches = number("voluntary_ctxt_switches").saturating_add(number("nonvoluntary_ctxt_switches"));
    value(values, "nvcsw + nivcsw", wait.switches, switches);
    for (name, start_ns, stat) in [
        ("start of the process", process.start_ns, reads.stat(process)),
        ("start of the thread", wait.thread.start_ns, reads.thread_stat(process, wait.thread.tid)),
    ] {
        let hz = u128::from(rustix::param::clock_ticks_per_second());
        let shown = stat.context("no stat")?.start_ticks;
        value(values, name, u128::from(start_ns) * hz / 1_000_000_000, shown);
    }
    let call = call.context("no syscall")?;
    let mut shown = call.split_ascii_whitespace();
    value(values, "number of the call", wait.call.number.unwrap_or(-1), shown.next().unwrap_or_default());
    for (at, arg) in wait.call.args.iter().enumerate() {
        value(values, &format!("argument {at}"), format!("{arg:#x}"), shown.next().unwrap_or_default());
    }
    Ok(())
}

fn of_file(fd: RawFd, state: &FdState, values: &mut Vec<ComparedValue>) -> Result<()> {
    let link = fs::read_link(format!("/proc/self/fd/{fd}"))?;
    let FdState::Open(file) = state else {
        value(values, &link.to_string_lossy(), "not seen", "open");
        return Ok(());
    };
    let kind = link.to_string_lossy().split(':').next().unwrap_or_default().to_owned();
    let info = rustix::fs::stat(format!("/proc/self/fd/{fd}"))?;
    value(values, &format!("{kind}: inode"), file.inode, info.st_ino);
    value(values, &format!("{kind}: mode"), format!("{:o}", file.mode), format!("{:o}", info.st_mode));
    if kind == "socket" {
        // All sockets are on one device, which nobody asks for.
        return Ok(());
    }
    let device = |dev| format!("{}:{}", rustix::fs::major(dev), rustix::fs::minor(dev));
    let kernel = |device: Device| format!("{}:{}", device.major(), device.minor());
    value(values, &format!("{kind}: device"), kernel(file.device), device(info.st_dev));
    value(values, &format!("{kind}: its own device number"), kernel(file.special), device(info.st_rdev));
    Ok(())
}

/// Of a unix socket: its row in `/proc/net/unix`, which has its name in the last column.
fn of_unix(state: &FdState, socket: &SocketFacts, values: &mut Vec<ComparedValue>) {
    let (FdState::Open(file), SocketFacts::Unix(facts)) = (state, socket) else { return };
    let rows = fs::read_to_string("/proc/self/net/unix").unwrap_or_default();
    let row = rows.lines().map(|row| row.split_ascii_whitespace().collect::<Vec<_>>());
    let row = row.into_iter().find(|row| row.get(6) == Some(&&*file.inode.to_string()));
    let name = row.as_ref().and_then(|row| row.get(7).copied()).unwrap_or_default();
    let kind = row.as_ref().and_then(|row| row.get(4).copied()).unwrap_or_default();
    let number = file.socket.map_or(0, |socket| socket.kind.number());
    value(values, "unix: type", format!("{number:04X}"), kind);
    value(values, "unix: name", facts.path.clone().unwrap_or_default(), name);
}

/// How the file is open, as fdinfo has it, of whoever else has it.
fn of_holder(
    source: &mut dyn Source,
    fd: RawFd,
    file: &OpenFile,
    values: &mut Vec<ComparedValue>,
) -> Result<()> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default();
    let shown = match u32::from_str_radix(flags.trim(), 8).map(|flags| flags & 3) {
        Ok(0) => "read",
        Ok(1) => "write",
        _ => "both",
    };
    let holders = source.holders(&[FileId::from(file)], &[])?.unwrap_or_default();
    let own = holders.iter().find(|holder| (holder.pid, holder.fd) == (std::process::id(), fd));
    let read = own.map(|holder| match holder.access {
        Access::READ => "read",
        Access::WRITE => "write",
        _ => "both",
    });
    // Without the program nobody is named.
    if !holders.is_empty() {
        value(values, "how it is open", read.unwrap_or("not seen"), shown);
    }
    Ok(())
}

/// Of an internet socket: its row in `/proc/net/tcp` or `tcp6`.
fn of_socket(state: &FdState, socket: &SocketFacts, values: &mut Vec<ComparedValue>) {
    let (FdState::Open(file), SocketFacts::Tcp(facts)) = (state, socket) else { return };
    let Some(open) = file.socket else { return };
    let (v6, addresses) = match open.family {
        SocketFamily::Inet(addresses) => (false, addresses),
        SocketFamily::Inet6(addresses) => (true, addresses),
        SocketFamily::Unix | SocketFamily::Other(_) => return,
    };
    let table = if v6 { "tcp6" } else { "tcp" };
    let rows = fs::read_to_string(format!("/proc/self/net/{table}")).unwrap_or_default();
    let row = rows.lines().map(|row| row.split_ascii_whitespace().collect::<Vec<_>>());
    let Some(row) = row.into_iter().find(|row| row.get(9) == Some(&&*file.inode.to_string())) else {
        value(values, table, format!("inode {}", file.inode), "no such row");
        return;
    };
    let name = |what: &str| format!("{table}: {what}");
    let (Some(activity), Some(internals)) = (facts.activity, facts.internals) else { return };
    value(values, &name("own address"), address(v6, addresses.local), row[1]);
    value(values, &name("peer's address"), address(v6, addresses.remote), row[2]);
    value(values, &name("state"), format!("{:02X}", facts.state.number()), row[3]);
    let (unacknowledged, unread) = (facts.send_queue, facts.receive_queue);
    value(values, &name("queues"), format!("{unacknowledged:08X}:{unread:08X}"), row[4]);
    value(values, &name("retransmissions"), format!("{:08X}", activity.retransmits), row[6]);
    value(values, &name("probes"), activity.probes, row[8]);
    value(values, &name("protocol"), open.protocol, libc::IPPROTO_TCP);
    // In hundredths of a second, whatever the kernel counts in.
    value(values, &name("retransmission time-out"), internals.retransmission.as_millis() / 10, row[12]);
    if let Ok(link) = fs::read_link("/proc/self/ns/net") {
        value(
            values,
            &name("network namespace"),
            format!("net:[{}]", facts.netns.unwrap_or(0)),
            link.to_string_lossy(),
        );
    }
}

/// As `/proc/net/tcp` prints it: words of the machine's byte order, in hexadecimal.
fn address(v6: bool, Endpoint { address, port }: Endpoint) -> String {
    let octets = address.octets();
    let bytes = if v6 { &octets[..] } else { &octets[12..] };
    let words = bytes.chunks_exact(mem::size_of::<u32>());
    let words = words.map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    let text: String = words.map(|word| format!("{word:08X}")).collect();
    format!("{text}:{port:04X}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_as_proc_prints_them() {
        let endpoint = Endpoint { address: std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped(), port: 443 };
        let expected = if cfg!(target_endian = "little") { "0100007F:01BB" } else { "7F000001:01BB" };
        assert_eq!(address(false, endpoint), expected);
    }
}
