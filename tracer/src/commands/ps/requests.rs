//! The tables below the waits that `ps --all` has: requests without an answer, by who has sent them and by who has got them, and
//! connections that one end has forgotten to close.

use std::io::{self, Write};

use crate::{
    assess::requests::UnansweredRequests,
    model::connection_groups::ConnectionGroup,
    model::file::Addresses,
    model::request::AskedConnection,
    render::table::{Column, Table},
    util::human,
};

/// Requests that no thread waits for.
pub fn outgoing(out: &mut impl Write, requests: &[UnansweredRequests]) -> io::Result<()> {
    let row = |of: &UnansweredRequests| {
        let (pid, comm) = (of.process.pid.to_string(), human::clean(&of.comm));
        let cells = vec![human::age(of.age), pid, comm, of.fd.to_string(), of.number.to_string()];
        let Addresses { local, remote } = of.addresses;
        (cells, format!("tcp {} → {}", local.socket_addr(), remote.socket_addr()))
    };
    table(
        out,
        "Requests without an answer, which event loops wait for among other things:",
        [Column::number("AGE", 7, 7), PID, COMMAND, FD, REQUESTS],
        requests.iter().map(row),
    )
}

/// Connections that the other end has closed and the process has not.
pub fn unclosed(out: &mut impl Write, unclosed: &[ConnectionGroup]) -> io::Result<()> {
    let row = |of: &ConnectionGroup| {
        let AskedConnection { process, comm, fd, file, .. } = &of.oldest;
        let (pid, comm, fd) = (process.pid.to_string(), human::clean(comm), fd.to_string());
        let Addresses { local, remote } = file.tcp()?;
        let connection = format!("tcp {} – {}", local.socket_addr(), remote.socket_addr());
        Some((vec![human::age(of.age), pid, comm, fd, of.number.to_string()], connection))
    };
    table(
        out,
        "Connections closed only by the other end, at least a minute ago:",
        [Column::number("AGE", 7, 7), PID, COMMAND, FD, Column::number("NUMBER", 8, 8)],
        unclosed.iter().filter_map(row),
    )
}

/// Requests that others have sent.
pub fn incoming(out: &mut impl Write, incoming: &[ConnectionGroup]) -> io::Result<()> {
    let row = |of: &ConnectionGroup| {
        let AskedConnection { process, comm, fd, file, .. } = &of.oldest;
        let (pid, comm, fd) = (process.pid.to_string(), human::clean(comm), fd.to_string());
        let cells = vec![human::age(of.age), pid, comm, fd, of.number.to_string(), of.unread.to_string()];
        let Addresses { local, remote } = file.tcp()?;
        Some((cells, format!("tcp {} ← {}", local.socket_addr(), remote.socket_addr())))
    };
    table(
        out,
        "Requests received but not yet answered (a log collector never answers):",
        [Column::number("AGE", 7, 7), PID, COMMAND, FD, REQUESTS, Column::number("UNREAD", 6, 8)],
        incoming.iter().filter_map(row),
    )
}

const PID: Column = Column::number("PID", 7, 15);
const COMMAND: Column = Column::text("COMMAND", 7, 15);
const FD: Column = Column::number("FD", 2, 7);
const REQUESTS: Column = Column::number("REQUESTS", 8, 8);

/// Rows of cells, each with the connection of the oldest request; nothing if there are none.
fn table<const N: usize>(
    out: &mut impl Write,
    title: &str,
    columns: [Column; N],
    rows: impl Iterator<Item = (Vec<String>, String)>,
) -> io::Result<()> {
    let (cells, connections): (Vec<Vec<String>>, Vec<String>) = rows.unzip();
    if cells.is_empty() {
        return Ok(());
    }
    let width = human::line_width();
    let table = Table::new(columns, "OLDEST", "  ", &cells);
    writeln!(out, "\n{title}")?;
    writeln!(out, "{}", human::for_terminal(&table.heading(), width))?;
    for (cells, connection) in cells.iter().zip(&connections) {
        writeln!(out, "{}", human::for_terminal(&table.row(cells, connection), width))?;
    }
    Ok(())
}
