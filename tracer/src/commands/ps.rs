//! `tracer ps`: what is waiting now, as a table or as JSON.

use std::{
    cmp::Reverse,
    collections::HashMap,
    io::{self, Write},
};

use anyhow::Result;
use jiff::{Timestamp, tz::TimeZone};

use crate::{
    assess::incidents::is_stall,
    assess::pipeline::{self, Assessment, PeersOf, Pipeline},
    assess::requests::{self, UnansweredRequests},
    collect::Source,
    config::cli::{Ps, SourceArgs},
    history,
    model::class::{Class, Level},
    model::file::Addresses,
    model::wait::{ByProcess, Snapshot, Suspended, ThreadId, Wait, may_be_same_start},
    render::table::{Column, Table},
    render::waits::{self, WaitLayout},
    serve::{
        client::{AgentClient, OPTIONAL_TIMEOUT},
        feed::{self, Feed},
    },
    util::human,
    util::output::output,
    wire::host::{HostObject, SuspendedObject},
    wire::json::{WaitObject, Waiter},
    wire::lines,
    wire::stall::{Past, StallObject},
};

/// What an agent that runs has flagged, by who waits: an alert may have named it, whatever its class.
type Flagged = HashMap<Waiter, FlaggedStall>;

/// One of them.
struct FlaggedStall {
    start_ticks: Option<u64>,
    class: Option<Class>,
    /// When it was flagged.
    opened: Timestamp,
}

impl FlaggedStall {
    /// Whether a wait of this thread is the one that was flagged: the thread may be elsewhere at the moment. A wait that was under way
    /// when it was flagged is the one, also where less can be found out about it now.
    fn is(&self, start_ticks: Option<u64>, class: Class, since: Timestamp) -> bool {
        let is_same = class.level() != Level::Idle || self.class == Some(class) || since < self.opened;
        may_be_same_start(self.start_ticks, start_ticks) && is_same
    }
}

/// What is shown, and what is said below it.
struct PsPage {
    waits: Vec<WaitObject>,
    /// Requests that no thread waits for, if they were asked for and could be looked for.
    requests: Vec<UnansweredRequests>,
    /// How many of the waits the agent has flagged.
    flagged: usize,
    /// An agent is there and does not say what it has flagged.
    agent_silent: Option<String>,
    hidden: Hidden,
    held: Vec<SuspendedObject>,
    source: String,
    /// Waits whose call is known by the kernel function they sleep in only.
    guessed: usize,
    why_not_better: Option<String>,
}

/// Waits left out.
#[derive(Clone, Copy, Default)]
struct Hidden {
    doubtful: usize,
    idle: usize,
}

impl Hidden {
    fn of(classes: impl Iterator<Item = Class>) -> Self {
        let mut hidden = Self::default();
        for class in classes {
            match class.level() {
                Level::Idle => hidden.idle += 1,
                _ => hidden.doubtful += 1,
            }
        }
        hidden
    }

    /// `2 doubtful and 31 idle waits`, `None` if there are none.
    fn text(self) -> Option<String> {
        match (self.doubtful, self.idle) {
            (0, 0) => None,
            (0, idle) => Some(human::count(idle, "idle wait")),
            (doubtful, 0) => Some(human::count(doubtful, "doubtful wait")),
            (doubtful, idle) => Some(format!("{doubtful} doubtful and {}", human::count(idle, "idle wait"))),
        }
    }
}

/// Looks once and prints; the status that `--exit-code` asks for, else 0.
pub fn run(args: &Ps) -> Result<u8> {
    if let Some(at) = args.at {
        return page_from_history(args, at);
    }
    let (feed, why_not_better) = feed::open(&args.place)?;
    let mut page = match feed {
        Feed::Own(mut source) => page_from_source(args, &mut *source)?,
        Feed::Agent(client) => page_from_agent(args, &client)?,
    };
    page.why_not_better = why_not_better;
    let status = status(args, &page.waits);
    let out = &mut output();
    if args.json {
        objects(out, page.waits)?;
    } else {
        waits::write(out, &mut page.waits, layout(args), &page.held)?;
        requests(out, &page.requests)?;
        footer(out, &page)?;
    }
    out.flush()?;
    Ok(status)
}

/// What `--exit-code` asks for, by the worst of the waits that are listed.
fn status(args: &Ps, waits: &[WaitObject]) -> u8 {
    let worst = waits.iter().map(WaitObject::worry).min().unwrap_or(Level::Idle);
    args.exit_code.map_or(0, |whose| whose.found(worst))
}

/// One object a line, the oldest first.
fn objects(out: &mut impl Write, mut waits: Vec<WaitObject>) -> Result<()> {
    waits.sort_by_key(|wait| Reverse(wait.age));
    for wait in &waits {
        lines::write(out, wait)?;
    }
    Ok(())
}

/// How waits are to be laid out.
fn layout(args: &Ps) -> WaitLayout {
    match (args.flat, args.tree) {
        (true, _) => WaitLayout::Flat,
        (false, true) => WaitLayout::Tree,
        (false, false) => WaitLayout::Folded,
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
        (wait.waiter(), FlaggedStall { start_ticks: wait.start_ticks, class: wait.class, opened })
    };
    Ok(stalls.into_iter().map(by_thread).collect())
}

/// Whether a wait of this class is shown: a flagged one always is, unless `--class` leaves it out, and who asks about a process
/// sees all of its waits that are not idle.
fn wanted(args: &Ps, class: Class, is_flagged: bool) -> bool {
    let asked_about = !args.pid.is_empty() || args.comm.is_some();
    match args.class[..] {
        [] => args.all || class.is_listed() || is_flagged || asked_about && class.level() != Level::Idle,
        _ => args.class.contains(&class),
    }
}

/// Whether a wait is of a thread that is asked about.
fn chosen(args: &Ps, pid: u32, comm: &str) -> bool {
    (args.pid.is_empty() || args.pid.contains(&pid)) && args.comm.as_ref().is_none_or(|name| name == comm)
}

/// What this very program sees.
fn page_from_source(args: &Ps, source: &mut dyn Source) -> Result<PsPage> {
    let (flagged, agent_silent) = match flagged(&args.place) {
        Ok(flagged) => (flagged, None),
        Err(error) => (Flagged::new(), Some(format!("{error:#}"))),
    };
    let is_flagged = |assessment: &Assessment| {
        let ThreadId { process, tid, .. } = assessment.wait.thread;
        let fd = assessment.resolved.fd.filter(|_| assessment.wait.thread.is_request());
        let stall = flagged.get(&(process.pid, tid, fd));
        stall.is_some_and(|stall| stall.is(process.start_ticks(), assessment.class, assessment.wait.since))
    };
    let age = args.min_age.max(pipeline::LOOK_AGE_MIN);
    // Before the snapshot: what is looked up after it is as of its moment.
    let connections = source.asked_connections(age, 0)?.unwrap_or_default();
    let mut snapshot = pipeline::snapshot(source, args.min_age)?;
    requests::add_to(&mut snapshot, &connections, age);
    let Snapshot { waits: all, suspended: held, source: name, guessed, .. } = snapshot;
    let waits: Vec<Wait> = all
        .iter()
        .filter(|wait| chosen(args, wait.thread.process.pid, &wait.comm))
        .filter(|wait| wait.age >= args.min_age || pipeline::may_be_older(wait))
        .cloned()
        .collect();
    let up_to = if args.all { Level::Idle } else { Level::Doubtful };
    let policy = PeersOf { up_to, min_age: args.min_age };
    let mut pipeline = Pipeline::new();
    let by_process = ByProcess::new(&all);
    let mut assessments = pipeline.assess(waits, &by_process, source, &policy)?;
    requests::drop_doubles(&mut assessments);
    let mut requests = match args.all && !args.json {
        true => requests::of_no_thread(&connections, &assessments, age),
        false => Vec::new(),
    };
    requests.retain(|of| chosen(args, of.process.pid, &of.comm));
    assessments.retain(|assessment| assessment.wait.age >= args.min_age);
    let has_culprit = |assessment: &Assessment| is_stall(assessment) || is_flagged(assessment);
    let mut culprits = pipeline.culprits(&assessments, has_culprit, &by_process, source)?;
    let (shown, hidden): (Vec<Assessment>, Vec<Assessment>) =
        assessments.into_iter().partition(|assessment| {
            wanted(args, assessment.class, is_flagged(assessment) || assessment.is_deadlock())
        });
    let hidden = Hidden::of(hidden.iter().map(|assessment| assessment.class));
    let number = shown.iter().filter(|assessment| is_flagged(assessment)).count();
    let mut waits = if args.json { pipeline.objects(&shown) } else { rows(&shown, &mut pipeline) };
    for (of, wait) in shown.iter().zip(&mut waits) {
        wait.culprit = culprits.remove(&of.wait.thread).map(Box::new);
    }
    let held = held.iter().map(SuspendedObject::of).filter(|held| of_chosen(args, held)).collect();
    Ok(PsPage {
        waits,
        requests,
        flagged: number,
        agent_silent,
        hidden,
        held,
        source: name.into(),
        guessed,
        why_not_better: None,
    })
}

/// Waits with what a line of the table shows of their processes.
fn rows(shown: &[Assessment], pipeline: &mut Pipeline) -> Vec<WaitObject> {
    let homes = pipeline.resolver().read_workloads(shown.iter().map(|assessment| &assessment.wait));
    let row = |assessment: &Assessment| assessment.object(&homes[&assessment.wait.thread.process]);
    shown.iter().map(row).collect()
}

/// What a running agent sees.
fn page_from_agent(args: &Ps, client: &AgentClient) -> Result<PsPage> {
    let waits: Vec<WaitObject> = client.objects("/v1/waits?all")?;
    let host: HostObject = client.object("/v1/host")?;
    let flagged = flagged_by(client)?;
    let (waits, hidden) = pick(args, waits, &flagged);
    let number = waits.iter().filter(|wait| is_flagged(&flagged, wait)).count();
    let held = host.held.into_iter().filter(|held| of_chosen(args, held)).collect();
    let source = format!("{}, by the agent", host.source);
    Ok(PsPage {
        waits,
        requests: Vec::new(),
        flagged: number,
        agent_silent: None,
        hidden,
        held,
        source,
        guessed: 0,
        why_not_better: None,
    })
}

/// Those that are asked for, and how many are left out.
fn pick(args: &Ps, waits: Vec<WaitObject>, flagged: &Flagged) -> (Vec<WaitObject>, Hidden) {
    let waits = waits.into_iter().filter(|wait| chosen(args, wait.pid, &wait.comm));
    let waits = waits.filter(|wait| wait.age >= args.min_age);
    let (waits, hidden): (Vec<_>, Vec<_>) = waits.partition(|wait| {
        let is_sure = is_flagged(flagged, wait) || wait.worry() == Level::Stuck;
        wait.class.is_some_and(|class| wanted(args, class, is_sure))
    });
    (waits, Hidden::of(hidden.iter().filter_map(|wait| wait.class)))
}

fn is_flagged(flagged: &Flagged, wait: &WaitObject) -> bool {
    let stall = flagged.get(&wait.waiter());
    stall.is_some_and(|stall| wait.class.is_some_and(|class| stall.is(wait.start_ticks, class, wait.since)))
}

fn of_chosen(args: &Ps, held: &SuspendedObject) -> bool {
    args.pid.is_empty() || args.pid.contains(&held.pid)
}

/// What waited at a moment that is over.
fn page_from_history(args: &Ps, at: Timestamp) -> Result<u8> {
    let Past { at: seen, waits } = match AgentClient::connect(&args.place.socket) {
        Ok(client) => client.object(&format!("/v1/waits?at={at}"))?,
        Err(refusal) => history::left(&args.place.state_dir, refusal.without_history())?.waits_at(at)?,
    };
    let (mut waits, _) = pick(args, waits, &Flagged::new());
    let status = status(args, &waits);
    let out = &mut output();
    if args.json {
        objects(out, waits)?;
    } else {
        waits::write(out, &mut waits, layout(args), &[])?;
        let when = |at: Timestamp| at.to_zoned(TimeZone::system()).strftime("%F %T %:z").to_string();
        match seen {
            Some(seen) => writeln!(
                out,
                "{} at {}, as the agent saw it at {}; it records the worst waits once a minute.",
                tally(&waits),
                when(at),
                when(seen)
            )?,
            None => writeln!(
                out,
                "The agent's history has no snapshot for {}; only stalls open then are shown, if any.",
                when(at)
            )?,
        }
    }
    out.flush()?;
    Ok(status)
}

/// Requests that no thread waits for.
fn requests(out: &mut impl Write, requests: &[UnansweredRequests]) -> io::Result<()> {
    if requests.is_empty() {
        return Ok(());
    }
    let width = human::line_width();
    let columns = [
        Column::number("AGE", 7, 7),
        Column::number("PID", 7, 15),
        Column::text("COMMAND", 7, 15),
        Column::number("FD", 2, 7),
        Column::number("REQUESTS", 8, 8),
    ];
    let cells = |of: &UnansweredRequests| {
        let (pid, comm) = (of.process.pid.to_string(), human::clean(&of.comm));
        vec![human::age(of.age), pid, comm, of.fd.to_string(), of.number.to_string()]
    };
    let cells: Vec<Vec<String>> = requests.iter().map(cells).collect();
    let table = Table::new(columns, "OLDEST", "  ", &cells);
    writeln!(out, "\nRequests without an answer, which event loops wait for among other things:")?;
    writeln!(out, "{}", human::for_terminal(&table.heading(), width))?;
    for (of, cells) in requests.iter().zip(&cells) {
        let Addresses { local, remote } = of.addresses;
        let connection = format!("tcp {} → {}", local.socket_addr(), remote.socket_addr());
        writeln!(out, "{}", human::for_terminal(&table.row(cells, &connection), width))?;
    }
    writeln!(out)
}

/// `2 stuck, 1 doubtful`.
fn tally(waits: &[WaitObject]) -> String {
    let of = |level| waits.iter().filter(|wait| wait.worry() == level).count();
    match (of(Level::Stuck), of(Level::Doubtful)) {
        (0, 0) => "Nothing is stuck".to_owned(),
        (0, doubtful) => format!("Nothing is stuck, {doubtful} doubtful"),
        (stuck, 0) => format!("{stuck} stuck"),
        (stuck, doubtful) => format!("{stuck} stuck, {doubtful} doubtful"),
    }
}

fn footer(out: &mut impl Write, page: &PsPage) -> io::Result<()> {
    let mut parts = vec![tally(&page.waits)];
    if page.flagged > 0 {
        parts.push(format!("{} flagged by the agent", page.flagged));
    }
    if let Some(hidden) = page.hidden.text() {
        parts.push(format!("{hidden} hidden (--all shows them)"));
    }
    for (by, word) in
        [(Suspended::Stopped, "stopped"), (Suspended::Traced, "traced"), (Suspended::Frozen, "frozen")]
    {
        let number = page.held.iter().filter(|held| held.by == by).count();
        if number > 0 {
            parts.push(format!("{} {word}", human::count(number, "thread")));
        }
    }
    parts.push(format!("source {}", page.source));
    writeln!(out, "{}.", parts.join("; "))?;
    if let Some(why) = &page.agent_silent {
        writeln!(out, "Cannot tell what the agent has flagged: {}.", human::clean(why))?;
    }
    // Of what an agent sees by /proc it has said so itself.
    if page.why_not_better.is_none() && page.source != "proc" {
        return Ok(());
    }
    let guessed = match page.guessed {
        0 => String::new(),
        number => {
            format!("; the system call of {} is hidden ({})", human::count(number, "wait"), hidden_by())
        }
    };
    let reason = page.why_not_better.as_ref().map(|reason| format!(": {}", human::clean(reason)));
    let reason = reason.unwrap_or_default();
    writeln!(out, "Ages are lower bounds, and other users' processes may be missing{guessed}{reason}.")?;
    Ok(())
}

/// Who keeps `/proc/PID/syscall` from whom it would tell more: the right to attach a debugger is asked for.
fn hidden_by() -> &'static str {
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    match scope.trim() {
        "" | "0" => "reading it takes the right to trace the process",
        _ => "Yama's ptrace_scope",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flagged_wait_is_told_from_the_threads_next_one() {
        let at = |seconds| Timestamp::from_second(seconds).expect("a moment");
        let stall = FlaggedStall { start_ticks: Some(5), class: Some(Class::Reply), opened: at(130) };
        let is = |class, since| stall.is(Some(5), class, at(since));
        assert!(is(Class::Reply, 100));
        assert!(is(Class::Events, 100), "it lasts, though less is known of it now");
        assert!(is(Class::Reply, 131), "short polls: each is younger than the stall");
        assert!(!is(Class::Events, 131), "it rests");
        assert!(!stall.is(Some(6), Class::Reply, at(100)), "another process");
    }
}
