//! Where what a command shows comes from: a source of its own, or a running agent.

use std::path::Path;

use anyhow::{Result, anyhow};

use super::client::{AgentClient, Refusal};
use crate::{
    collect::{self, Source},
    config::cli::{SourceArgs, SourceName},
};

/// Where what is shown comes from.
pub enum Feed {
    /// This very program looks.
    Own(Box<dyn Source>),
    /// A running agent is asked.
    Agent(AgentClient),
}

/// Opens the source asked for; with `auto` the best that this user may have, and why it is not a better one.
pub fn open(place: &SourceArgs) -> Result<(Feed, Option<String>)> {
    choose(
        place,
        || Ok(Feed::Own(Box::new(collect::bpf::Bpf::once()?))),
        || Feed::Own(Box::new(collect::proc::Proc::new())),
        Feed::Agent,
    )
}

/// The same for whoever has sources of another kind.
pub fn choose<T>(
    place: &SourceArgs,
    bpf: impl FnOnce() -> Result<T>,
    proc: impl FnOnce() -> T,
    agent: impl FnOnce(AgentClient) -> T,
) -> Result<(T, Option<String>)> {
    match place.source {
        SourceName::Bpf => Ok((bpf()?, None)),
        SourceName::Proc => Ok((proc(), None)),
        SourceName::Agent => Ok((agent(self::agent(&place.socket)?), None)),
        SourceName::Auto if rustix::process::geteuid().is_root() => match bpf() {
            Ok(bpf) => Ok((bpf, None)),
            Err(error) => match AgentClient::connect(&place.socket) {
                Ok(client) => Ok((agent(client), None)),
                Err(_) => Ok((proc(), Some(format!("{error:#}")))),
            },
        },
        // Whoever is not root may ask the agent, which sees more than they do.
        SourceName::Auto => match AgentClient::connect(&place.socket) {
            Ok(client) => Ok((agent(client), None)),
            Err(refusal) => match (bpf(), refusal) {
                (Ok(bpf), _) => Ok((bpf, None)),
                (Err(_), Refusal::Denied(why)) => Ok((proc(), Some(why))),
                (Err(error), Refusal::Absent) => Ok((proc(), Some(format!("{error:#}")))),
            },
        },
    }
}

/// The agent that must be there.
pub fn agent(socket: &Path) -> Result<AgentClient> {
    AgentClient::connect(socket).map_err(|refusal| match refusal {
        Refusal::Denied(why) => anyhow!(why),
        Refusal::Absent => anyhow!("no agent listens on {}: `tracer agent` starts one", socket.display()),
    })
}
