//! What a page says of a process's connections: how many, and what is open on them.

use std::collections::BTreeMap;

use crate::{
    assess::inspect::{
        Report,
        sockets::{Unanswered, UnclosedConnections},
        threads::ThreadReport,
    },
    assess::pipeline::Assessment,
    model::class::Class,
    util::human,
};

/// Unanswered requests that have a line.
const REQUESTS_MAX: usize = 8;
/// Requests at one address that have a line each; of more only the descriptors are told.
const OWED_LISTED_MAX: usize = 2;

pub(super) fn socket_lines(report: &Report) -> Vec<String> {
    let sockets = &report.sockets;
    if sockets.states.is_empty() {
        return Vec::new();
    }
    let states: Vec<String> =
        sockets.states.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let mut lines = vec![states.join(", ")];
    let waited_for = report.threads.iter().filter_map(ThreadReport::wait).filter_map(|wait| wait.resolved.fd);
    let waited_for: Vec<i32> = waited_for.collect();
    let others = sockets.unanswered.iter().filter(|request| !waited_for.contains(&request.fd));
    let others: Vec<_> = others.collect();
    lines.extend(others.iter().take(REQUESTS_MAX).map(|request| {
        format!(
            "fd {}: no answer for {} on {}",
            request.fd,
            human::age(request.since),
            request.resolved.target
        )
    }));
    if others.len() > REQUESTS_MAX {
        lines.push(format!("and {} more without an answer", others.len() - REQUESTS_MAX));
    }
    let is_told = |wait: &&Assessment| wait.class == Class::Reply;
    let told = report.threads.iter().filter_map(ThreadReport::wait).filter(is_told);
    let told: Vec<i32> = told.filter_map(|wait| wait.resolved.fd).collect();
    let perhaps = sockets.perhaps_unanswered.iter().filter(|request| !told.contains(&request.fd));
    lines.extend(perhaps.take(REQUESTS_MAX).map(|request| {
        let (fd, since) = (request.fd, human::age(request.since));
        format!(
            "fd {fd}: perhaps no answer for {since}, only session tickets, on {}",
            request.resolved.target
        )
    }));
    lines.extend(owed_lines(&sockets.owed));
    lines.extend(
        sockets
            .queued
            .iter()
            .take(REQUESTS_MAX)
            .map(|queued| format!("fd {}: {} on {}", queued.fd, queued.backlog, queued.target)),
    );
    if sockets.queued.len() > REQUESTS_MAX {
        lines.push(format!("and {} more queues", sockets.queued.len() - REQUESTS_MAX));
    }
    lines.extend(sockets.unclosed.as_ref().map(|UnclosedConnections { fds, oldest }| {
        let number = human::count(fds.len(), "connection");
        format!(
            "{number} closed by the other end only, up to {} ago: fd {}",
            human::age(*oldest),
            some_of(fds)
        )
    }));
    if sockets.left_out > 0 {
        lines.push(format!(
            "{} were not examined, because there are too many",
            human::count(sockets.left_out, "connection")
        ));
    }
    lines
}

/// Requests that were not answered: of many at one address only their descriptors differ.
fn owed_lines(owed: &[Unanswered]) -> Vec<String> {
    let mut by_address: BTreeMap<String, Vec<&Unanswered>> = BTreeMap::new();
    for request in owed {
        let (local, _) = request.resolved.target.socket_addresses();
        let place = match local {
            Some(local) => format!("tcp {local}"),
            None => request.resolved.target.to_string(),
        };
        by_address.entry(place).or_default().push(request);
    }
    let mut lines = Vec::new();
    for (place, requests) in by_address {
        if requests.len() <= OWED_LISTED_MAX {
            lines.extend(requests.iter().map(|request| {
                let (fd, since) = (request.fd, human::age(request.since));
                format!("fd {fd}: asked {since} ago and not answered, on {}", request.resolved.target)
            }));
            continue;
        }
        let oldest = requests.iter().map(|request| request.since).max().unwrap_or_default();
        let mut fds: Vec<i32> = requests.iter().map(|request| request.fd).collect();
        fds.sort_unstable();
        lines.push(format!(
            "{} requests at {place} are not answered, asked up to {} ago: fd {}",
            requests.len(),
            human::age(oldest),
            some_of(&fds)
        ));
    }
    lines
}

/// `3, 4, 5 and 7 more`.
fn some_of(fds: &[i32]) -> String {
    let more = match fds.len().saturating_sub(REQUESTS_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let some: Vec<String> = fds.iter().take(REQUESTS_MAX).map(i32::to_string).collect();
    some.join(", ") + &more
}
