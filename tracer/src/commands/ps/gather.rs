//! What does `ps` list? What this program sees, or a running agent.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
};

use anyhow::{Result, ensure};
use glob::Pattern;
use jiff::Timestamp;

use crate::{
    assess::incidents::is_stall,
    assess::pipeline::{self, Assessment, PeersOf, Pipeline},
    assess::requests::{self, UnansweredRequests},
    collect::{SeenConnections, Source, WantedConnections},
    config::cli::{Ps, SourceArgs},
    config::rule::has_wildcards,
    config::selection::{WaitSelection, Workplace},
    model::class::{Class, Judgement, Level},
    model::connection_groups::ConnectionGroup,
    model::script::{is_interpreter, script},
    model::wait::{ByProcess, Snapshot, ThreadId, Wait, may_be_same_start},
    procfs::{Reads, Unread, by_pid, stat::parse_stat},
    resolve::process::read_cmdline,
    serve::client::{AgentClient, OPTIONAL_TIMEOUT},
    util::{human, users},
    wire::host::{HostObject, SuspendedObject},
    wire::json::{WaitObject, Waiter},
    wire::stall::StallObject,
    wire::target::TargetObject,
};

/// What an agent that runs has flagged, by who waits: an alert may have named it, whatever its class.
pub type Flagged = HashMap<Waiter, FlaggedStall>;

/// One of them.
pub struct FlaggedStall {
    start_ticks: Option<u64>,
    class: Option<Class>,
    /// When it began, and when it was flagged.
    since: Timestamp,
    opened: Timestamp,
}

impl FlaggedStall {
    /// Whether a wait of this thread is the one that was flagged: the thread may be elsewhere at the moment. A wait that was under way
    /// when it was flagged is the one, also where less can be found out about it now.
    fn is(&self, start_ticks: Option<u64>, judgement: Judgement, since: Timestamp) -> bool {
        let is_same =
            judgement.level() != Level::Idle || self.class == Some(judgement.class) || since < self.opened;
        may_be_same_start(self.start_ticks, start_ticks) && is_same
    }

    /// Dates a wait back that is the one: of tries again and again a single look sees the last.
    fn date_back(&self, wait: &mut Wait) {
        let earlier = u64::try_from(wait.since.duration_since(self.since).as_nanos()).unwrap_or_default();
        wait.date_back(wait.began_ns.saturating_sub(earlier));
    }
}

/// What is shown, and what is said below it.
pub struct PsPage {
    /// What is listed.
    pub waits: Vec<WaitObject>,
    /// Requests that no thread waits for, if they were asked for and could be looked for.
    pub requests: Vec<UnansweredRequests>,
    /// Requests that processes have got and not answered, likewise.
    pub incoming: Vec<ConnectionGroup>,
    /// Connections that only the other end has closed, likewise.
    pub unclosed: Vec<ConnectionGroup>,
    /// How many of the waits the agent has flagged.
    pub flagged: usize,
    /// An agent is there and does not say what it has flagged.
    pub agent_silent: Option<String>,
    /// What is not listed.
    pub hidden: Hidden,
    /// Who is stopped, traced or frozen.
    pub held: Vec<SuspendedObject>,
    /// What it was seen by.
    pub source: String,
    /// Waits whose call is known by the kernel function they sleep in only.
    pub guessed: usize,
    /// Only some waits are asked about.
    pub is_selected: bool,
    /// Why the source is not a better one.
    pub why_not_better: Option<String>,
}

/// Waits left out.
#[derive(Clone, Copy, Default)]
pub struct Hidden {
    doubtful: usize,
    idle: usize,
}

impl Hidden {
    fn of(levels: impl Iterator<Item = Level>) -> Self {
        let mut hidden = Self::default();
        for level in levels {
            match level {
                Level::Idle => hidden.idle += 1,
                _ => hidden.doubtful += 1,
            }
        }
        hidden
    }

    /// `2 doubtful and 31 idle waits`, `None` if there are none.
    pub fn text(self) -> Option<String> {
        match (self.doubtful, self.idle) {
            (0, 0) => None,
            (0, idle) => Some(human::count(idle, "idle wait")),
            (doubtful, 0) => Some(human::count(doubtful, "doubtful wait")),
            (doubtful, idle) => Some(format!("{doubtful} doubtful and {}", human::count(idle, "idle wait"))),
        }
    }
}

/// Asks an agent, if one runs and answers this user.
fn flagged(place: &SourceArgs) -> Result<Flagged> {
    match AgentClient::connect(&place.socket) {
        Ok(client) => flagged_by(&client.within(OPTIONAL_TIMEOUT)),
        Err(_) => Ok(Flagged::new()),
    }
}

fn flagged_by(agent: &AgentClient) -> Result<Flagged> {
    let stalls: Vec<StallObject> = agent.objects("/v1/stalls")?;
    let by_thread = |StallObject { wait, opened, .. }: StallObject| {
        (
            wait.waiter(),
            FlaggedStall { start_ticks: wait.start_ticks, class: wait.class, since: wait.since, opened },
        )
    };
    Ok(stalls.into_iter().map(by_thread).collect())
}

/// Whether a wait that is judged so is shown: a flagged one always is, unless `--class` leaves it out, and who asks about a process
/// sees all of its waits that are not idle.
fn wanted(args: &Ps, judgement: Judgement, is_flagged: bool) -> bool {
    let asked_about = args.selection.is_of_few();
    match args.class[..] {
        [] => {
            args.all || judgement.is_listed() || is_flagged || asked_about && judgement.level() != Level::Idle
        }
        _ => args.class.iter().any(|wanted| wanted.is(judgement)),
    }
}

/// Whether a wait is one that is asked about.
fn is_selected(selection: &WaitSelection, wait: &WaitObject) -> bool {
    let WaitObject { uid, container, .. } = wait;
    // A container has users of its own.
    let user = uid.and_then(users::name).filter(|_| container.is_none() || *uid == Some(0));
    let at = Workplace {
        unit: wait.unit.as_deref(),
        container: container.as_deref(),
        uid: *uid,
        user: user.as_deref(),
    };
    selection.has_thread(wait.pid, &wait.comm)
        && selection.has_workplace(&at)
        && selection.has_peer(&wait.target.peers())
        && selection.has_culprit(|name| {
            wait.target.is_called(name)
                || wait.culprit.as_ref().is_some_and(|culprit| culprit.is_called(name))
        })
}

/// Checks that whoever is asked about by pid or name exists.
///
/// # Errors
/// Which one does not.
pub fn check_names(selection: &WaitSelection, page: &PsPage) -> Result<()> {
    let PsPage { waits, hidden, .. } = page;
    let is_empty = waits.is_empty() && hidden.text().is_none();
    ensure!(
        !(is_empty && selection.is_of_workplaces()),
        "nothing that waits is of this unit, container or user"
    );
    let mut reads = Reads::new();
    // Of several, some may have ended.
    let mut is_there = |pid: &u32| {
        waits.iter().any(|wait| wait.pid == *pid)
            || !matches!(reads.what(by_pid(*pid), ""), Err(Unread::Failed(_)))
    };
    match selection.pid[..] {
        [pid] => ensure!(is_there(&pid), "there is no process {pid}"),
        [_, ..] => ensure!(selection.pid.iter().any(is_there), "none of these processes exists"),
        [] => {}
    }
    let mut names: Option<Vec<String>> = None;
    for name in &selection.comm {
        // What is no whole name may be nobody's.
        if has_wildcards(name.as_str()) || waits.iter().any(|wait| name.matches(&wait.comm)) {
            continue;
        }
        let names = names.get_or_insert_with(|| thread_names(&mut reads));
        ensure!(names.iter().any(|of| name.matches(of)), "no thread is called \"{name}\"");
    }
    Ok(())
}

/// The names of all threads of the host.
fn thread_names(reads: &mut Reads) -> Vec<String> {
    let mut names = Vec::new();
    for pid in reads.processes().unwrap_or_default() {
        let process = by_pid(pid);
        for tid in reads.numbers(process, "task") {
            names.extend(reads.thread_comm(process, tid));
        }
    }
    names
}

/// Processes with this name, whether they wait or not.
pub fn processes_called(name: &Pattern) -> Vec<u32> {
    let mut reads = Reads::new();
    let pids = reads.processes().unwrap_or_default();
    pids.into_iter().filter(|pid| reads.comm(by_pid(*pid)).is_some_and(|comm| name.matches(&comm))).collect()
}

/// Interpreters that run this.
pub fn processes_running(name: &str) -> Vec<u32> {
    let mut reads = Reads::new();
    let pids = reads.processes().unwrap_or_default();
    let mut runs = |pid: &u32| {
        let comm = reads.comm(by_pid(*pid)).filter(|comm| is_interpreter(comm))?;
        script(&comm, &read_cmdline(by_pid(*pid), &mut reads)?)
    };
    pids.into_iter().filter(|pid| runs(pid).is_some_and(|script| script == name)).collect()
}

/// How many processes this user may not look into.
pub fn unseen_processes() -> usize {
    let mut reads = Reads::new();
    let user = rustix::process::geteuid().as_raw();
    let mut is_unseen = |pid: u32| {
        let process = by_pid(pid);
        reads.what(process, "").is_ok_and(|of| of.uid != user)
            && reads
                .text(process, "stat")
                .and_then(|stat| parse_stat(&stat))
                .is_some_and(|stat| !stat.is_kernel_thread())
    };
    let pids = Reads::new().processes().unwrap_or_default();
    pids.into_iter().filter(|pid| is_unseen(*pid)).count()
}

/// Who waits.
fn waiter(assessment: &Assessment) -> Waiter {
    let ThreadId { process, tid, .. } = assessment.wait.thread;
    (process.pid, tid, assessment.resolved.fd.filter(|_| assessment.wait.thread.is_request()))
}

/// What this very program sees.
pub fn page_from_source(args: &Ps, source: &mut dyn Source) -> Result<PsPage> {
    let (flagged, agent_silent) = match flagged(&args.place) {
        Ok(flagged) => (flagged, None),
        Err(error) => (Flagged::new(), Some(format!("{error:#}"))),
    };
    let its_stall = |assessment: &Assessment| {
        let start_ticks = assessment.wait.thread.process.start_ticks();
        let stall = flagged.get(&waiter(assessment));
        stall.filter(|stall| stall.is(start_ticks, assessment.judgement(), assessment.wait.since))
    };
    let is_flagged = |assessment: &Assessment| its_stall(assessment).is_some();
    let age = args.min_age.max(pipeline::LOOK_AGE_MIN);
    // Before the snapshot: what is looked up after it is as of its moment.
    let is_shown = args.all && !args.json && !args.selection.is_of_more_than_threads();
    let wanted_connections = WantedConnections { of_servers: is_shown, ..WantedConnections::asked(age) };
    let SeenConnections { asked: connections, mut incoming, mut unclosed } =
        source.connections(&wanted_connections)?.unwrap_or_default();
    let mut snapshot = pipeline::snapshot(source, args.min_age)?;
    requests::add_to(&mut snapshot, &connections, age);
    let Snapshot { waits: all, suspended: held, source: name, guessed, .. } = snapshot;
    // Who is asked about may stand in a circle with others, whose waits tell.
    let waits: Vec<Wait> =
        all.iter().filter(|wait| wait.age >= args.min_age || pipeline::may_be_older(wait)).cloned().collect();
    let up_to = if args.all { Level::Idle } else { Level::Doubtful };
    let policy = PeersOf { up_to, min_age: args.min_age };
    let mut pipeline = Pipeline::new();
    let by_process = ByProcess::new(&all);
    let mut assessments = pipeline.assess(waits, &by_process, source, &policy)?;
    requests::drop_doubles(&mut assessments);
    for assessment in &mut assessments {
        if let Some(stall) = its_stall(assessment) {
            stall.date_back(&mut assessment.wait);
        }
    }
    let mut requests = match is_shown {
        true => requests::of_no_thread(&connections, &assessments, age),
        false => Vec::new(),
    };
    requests.retain(|of| args.selection.has_thread(of.process.pid, &of.comm));
    for groups in [&mut incoming, &mut unclosed] {
        groups.retain(|of| args.selection.has_thread(of.oldest.process.pid, &of.oldest.comm));
    }
    assessments.retain(|assessment| assessment.wait.age >= args.min_age);
    let has_culprit = |assessment: &Assessment| is_stall(assessment) || is_flagged(assessment);
    let mut culprits = pipeline.culprits(&assessments, has_culprit, &by_process, source)?;
    assessments.retain(|of| args.selection.has_thread(of.wait.thread.process.pid, &of.wait.comm));
    let (shown, hidden): (Vec<Assessment>, Vec<Assessment>) =
        assessments.into_iter().partition(|of| wanted(args, of.judgement(), is_flagged(of)));
    let mut waits = if args.json { pipeline.objects(&shown) } else { rows(&shown, &mut pipeline) };
    for (of, wait) in shown.iter().zip(&mut waits) {
        wait.culprit = culprits.remove(&of.wait.thread).map(Box::new);
    }
    let mut hidden = match args.selection.is_of_more_than_threads() {
        false => Hidden::of(hidden.iter().map(Assessment::level)),
        true => {
            waits.retain(|wait| is_selected(&args.selection, wait));
            let hidden = rows(&hidden, &mut pipeline);
            let selected = hidden.iter().filter(|wait| is_selected(&args.selection, wait));
            Hidden::of(selected.map(WaitObject::worry))
        }
    };
    let waits = without_other_ends(args, waits, &flagged, &mut hidden);
    let listed: HashSet<Waiter> = waits.iter().map(WaitObject::waiter).collect();
    let number = shown.iter().filter(|of| listed.contains(&waiter(of)) && is_flagged(of)).count();
    let held = held.iter().map(SuspendedObject::of).filter(|held| of_chosen(args, held)).collect();
    Ok(PsPage {
        waits,
        requests,
        incoming,
        unclosed,
        flagged: number,
        agent_silent,
        hidden,
        held,
        source: name.into(),
        guessed,
        is_selected: false,
        why_not_better: None,
    })
}

/// Waits with what a line of the table shows of their processes.
fn rows(shown: &[Assessment], pipeline: &mut Pipeline) -> Vec<WaitObject> {
    let homes = pipeline.resolver().read_workloads(shown.iter().map(|assessment| &assessment.wait));
    let interpreters = shown.iter().filter(|assessment| is_interpreter(&assessment.wait.comm));
    let interpreters = interpreters.map(|assessment| assessment.wait.thread.process).collect();
    let cmdlines = pipeline.resolver().read_cmdlines(&interpreters);
    let row = |assessment: &Assessment| {
        let process = assessment.wait.thread.process;
        WaitObject { cmdline: cmdlines.get(&process).cloned(), ..assessment.object(&homes[&process]) }
    };
    shown.iter().map(row).collect()
}

/// What a running agent sees.
pub fn page_from_agent(args: &Ps, client: &AgentClient) -> Result<PsPage> {
    let waits: Vec<WaitObject> = client.objects("/v1/waits?all")?;
    let host: HostObject = client.object("/v1/host")?;
    let flagged = flagged_by(client)?;
    let (waits, mut hidden) = pick(args, waits, &flagged);
    let waits = without_other_ends(args, waits, &flagged, &mut hidden);
    let number = waits.iter().filter(|wait| is_flagged(&flagged, wait)).count();
    let held = host.held.into_iter().filter(|held| of_chosen(args, held)).collect();
    let source = format!("{}, by the agent", host.source);
    Ok(PsPage {
        waits,
        requests: Vec::new(),
        incoming: Vec::new(),
        unclosed: Vec::new(),
        flagged: number,
        agent_silent: None,
        hidden,
        held,
        source,
        guessed: 0,
        is_selected: false,
        why_not_better: None,
    })
}

/// Those that are asked for, and how many are left out.
pub fn pick(args: &Ps, waits: Vec<WaitObject>, flagged: &Flagged) -> (Vec<WaitObject>, Hidden) {
    let waits = waits.into_iter().filter(|wait| is_selected(&args.selection, wait));
    let waits = waits.filter(|wait| wait.age >= args.min_age);
    let (waits, hidden): (Vec<_>, Vec<_>) = waits.partition(|wait| {
        wait.judgement().is_some_and(|judgement| wanted(args, judgement, is_flagged(flagged, wait)))
    });
    (waits, Hidden::of(hidden.iter().map(WaitObject::worry)))
}

/// Without servers that wait for more on the very connections on which their clients are stuck: that is the same hang once more, and says
/// less. Who asks for all or for any in particular gets them, and so does a program.
fn without_other_ends(
    args: &Ps,
    waits: Vec<WaitObject>,
    flagged: &Flagged,
    hidden: &mut Hidden,
) -> Vec<WaitObject> {
    if args.all || args.json || args.flat || args.selection.is_given() || !args.class.is_empty() {
        return waits;
    }
    let (kept, left_out) = divided(waits, |wait| is_flagged(flagged, wait));
    hidden.doubtful += left_out.len();
    kept
}

/// The waits, without those that are such other ends, which come second.
fn divided(
    waits: Vec<WaitObject>,
    is_flagged: impl Fn(&WaitObject) -> bool,
) -> (Vec<WaitObject>, Vec<WaitObject>) {
    let ends = |wait: &WaitObject| match wait.target {
        TargetObject::Tcp { local, remote, .. } => Some((local, remote)),
        _ => None,
    };
    let stuck = waits.iter().filter(|wait| wait.worry() == Level::Stuck);
    let stuck: HashSet<(SocketAddr, SocketAddr)> = stuck.filter_map(ends).collect();
    waits.into_iter().partition(|wait| {
        let is_other_end = ends(wait).is_some_and(|(local, remote)| stuck.contains(&(remote, local)));
        !is_other_end || wait.worry() != Level::Doubtful || is_flagged(wait)
    })
}

fn is_flagged(flagged: &Flagged, wait: &WaitObject) -> bool {
    let stall = flagged.get(&wait.waiter());
    stall.is_some_and(|stall| wait.judgement().is_some_and(|of| stall.is(wait.start_ticks, of, wait.since)))
}

fn of_chosen(args: &Ps, held: &SuspendedObject) -> bool {
    args.selection.has_process(held.pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::samples::wait;

    #[test]
    fn a_hang_is_listed_once_unless_the_agent_has_flagged_both_ends() {
        let client = wait(1, "client", Class::Reply, 5);
        let mut server = wait(2, "server", Class::Request, 5);
        server.target = client.target.clone();
        if let TargetObject::Tcp { local, remote, .. } = &mut server.target {
            std::mem::swap(local, remote);
        }
        let other = WaitObject { target: client.target.clone(), ..wait(3, "other", Class::Request, 5) };
        let divided = |is_flagged: bool| {
            let (kept, left_out) =
                divided(vec![client.clone(), server.clone(), other.clone()], |_| is_flagged);
            [kept, left_out].map(|waits| waits.iter().map(|wait| wait.pid).collect::<Vec<_>>())
        };
        assert_eq!(divided(false), [vec![1, 3], vec![2]]);
        assert_eq!(divided(true), [vec![1, 2, 3], Vec::new()]);
    }

    #[test]
    fn the_flagged_wait_is_told_from_the_threads_next_one() {
        let at = |seconds| Timestamp::from_second(seconds).expect("a moment");
        let (since, opened) = (at(100), at(130));
        let stall = FlaggedStall { start_ticks: Some(5), class: Some(Class::Reply), since, opened };
        let is = |class: Class, since| stall.is(Some(5), class.into(), at(since));
        assert!(is(Class::Reply, 100));
        assert!(is(Class::Events, 100), "it lasts, though less is known of it now");
        assert!(is(Class::Reply, 131), "short polls: each is younger than the stall");
        assert!(!is(Class::Events, 131), "it rests");
        assert!(!stall.is(Some(6), Class::Reply.into(), at(100)), "another process");
    }
}
