//! The command line.

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::LazyLock,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint, builder::PossibleValue};
use clap_complete::Shell;

use jiff::Timestamp;

use crate::{
    config::Defaults,
    config::{HookConfig, Limits, duration, export::Export, moment, selection::WaitSelection},
    model::class::{Class, Judgement, Level},
};

/// Group whose members may use the agent's socket, unless configured otherwise.
pub const GROUP: &str = "tracer";

/// Default path of the agent's socket.
pub const SOCKET: &str = "/run/tracer/agent.sock";
/// Default directory of the agent's state.
const STATE_DIR: &str = "/var/lib/tracer";

/// Finds processes blocked in a system call: what they wait for, since when, and on whom
#[derive(Parser)]
#[command(version, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    /// File with the kernel's type information, if it isn't in /sys/kernel/btf/vmlinux
    #[arg(long, global = true, value_name = "FILE", help_heading = "Kernel")]
    pub btf: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Show what is waiting now, the worst first
    Ps(Ps),
    /// List stalls that the agent flagged in the last hours, including those that have ended
    Stalls(Stalls),
    /// Explain one process: what it waits for, on whom, and what that process does
    Why(Why),
    /// Free a process that waits: say what would do it, and do it with --apply (root only)
    Release(Release),
    /// Show where in their program threads sleep, without stopping them
    Stack(Stack),
    /// Live view of what is waiting, the worst first
    Top(Top),
    /// Follow processes or threads: one line for each call that blocks, with its result (strace for waiting)
    Trace(Trace),
    /// Run a command, and say what hangs in it when nothing in it moves: for builds and CI
    Run(Run),
    /// Watch the host: report stalls as JSON lines and metrics to Prometheus
    Agent(AgentArgs),
    /// Send the agent's events to an OpenTelemetry Collector
    Export(Export),
    /// Check what works on this host by trying each kernel program
    Doctor(Doctor),
    /// Print a script that has a shell complete tracer's commands and options
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write manual pages and completions
    #[command(hide = true)]
    Generate {
        /// Into this directory
        dir: PathBuf,
    },
    /// Run `on_stall` or `on_incident`, for the agent
    #[command(hide = true)]
    RunHook(RunHook),
    /// Wait to be found, for the agent
    #[command(hide = true)]
    RunCanary,
}

/// Where snapshots come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SourceName {
    /// The best one that works
    Auto,
    /// The kernel programs: fast, and ages are the kernel's own; needs root
    Bpf,
    /// A running agent, through its socket: for root and members of the group tracer
    Agent,
    /// The files in /proc: slower, ages only where the kernel shows them; needs no privileges for your own processes
    Proc,
}

/// What `--class` names: one of the classes, or what tables say in the place of any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantedClass {
    /// What is waited for.
    Class(Class),
    /// All that stand in a deadlock, whatever they wait for.
    Deadlock,
}

impl WantedClass {
    /// Whether it names what a wait is judged to be.
    pub fn is(self, Judgement { class, is_deadlock }: Judgement) -> bool {
        match self {
            Self::Class(wanted) => wanted == class,
            Self::Deadlock => is_deadlock,
        }
    }
}

impl ValueEnum for WantedClass {
    fn value_variants<'a>() -> &'a [Self] {
        static ALL: LazyLock<Vec<WantedClass>> = LazyLock::new(|| {
            Class::ALL.iter().copied().map(WantedClass::Class).chain([WantedClass::Deadlock]).collect()
        });
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Class(class) => class.to_possible_value(),
            Self::Deadlock => Some(PossibleValue::new("deadlock").help("Each other: nobody in it can go on")),
        }
    }
}

/// Arguments of `tracer ps`.
#[derive(Args)]
pub struct Ps {
    /// What it is asked about.
    #[command(flatten)]
    pub selection: WaitSelection,
    /// Only waits at least this old
    #[arg(long, value_name = "DUR", default_value = "1s", value_parser = duration::parse)]
    pub min_age: Duration,
    /// Only waits of these classes, including idle ones
    #[arg(long, value_name = "CLASS", value_delimiter = ',')]
    pub class: Vec<WantedClass>,
    /// Also list idle waits, pipes and conversations that only a rule would flag, and, in the table, requests of event loops that
    /// have no answer. Stalls that the agent has flagged are always listed
    #[arg(short, long)]
    pub all: bool,
    /// Only list the waits, each on a line: no incidents before them, and none folded
    #[arg(long)]
    pub flat: bool,
    /// Show waits below the incident they belong to, and whoever waits for a process below what that one waits for
    #[arg(long, conflicts_with_all = ["flat", "json"])]
    pub tree: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
    /// Show what was waiting at a past time, from the agent's history: 03:12, -2h, "2026-11-23 03:12", RFC 3339
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true, value_parser = moment::parse)]
    pub at: Option<Timestamp>,
    /// Leave out the heading and what is said below the table
    #[arg(long, conflicts_with = "json")]
    pub no_header: bool,
    /// Look again every so often, until Ctrl-C
    #[arg(
        short, long, value_name = "DUR", value_parser = interval, num_args = 0..=1, require_equals = true,
        default_missing_value = "2s", conflicts_with_all = ["at", "exit_code"]
    )]
    pub watch: Option<Duration>,
    /// Exit with 3 if a wait that is listed is stuck, with 0 if none is, and with 1 after an error; or as others expect it. With `--min-age 30s`,
    /// slow answers don't count
    #[arg(long, value_enum, value_name = "FOR", num_args = 0..=1, require_equals = true, default_missing_value = "plain")]
    pub exit_code: Option<ExitStatusFor>,
    #[command(flatten)]
    pub place: SourceArgs,
}

impl Ps {
    /// Everything that is selected, however young and idle it is.
    pub fn everything(selection: WaitSelection, place: SourceArgs) -> Self {
        Self {
            selection,
            min_age: Duration::ZERO,
            class: Vec::new(),
            all: true,
            flat: false,
            tree: false,
            json: true,
            at: None,
            no_header: false,
            watch: None,
            exit_code: None,
            place,
        }
    }
}

/// Who reads the status that `ps` exits with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExitStatusFor {
    /// 3 if something is stuck, 0 if not, 1 for an error
    Plain,
    /// 2 if something is stuck, 1 if something is doubtful, 0 if neither, 3 for an error
    Nagios,
    /// 1 if something is stuck, 0 if not, 2 for an error: Kubernetes' node-problem-detector
    Npd,
}

impl ExitStatusFor {
    /// The status where this is the worst that was found.
    pub fn found(self, worst: Level) -> u8 {
        match (self, worst) {
            (Self::Plain, Level::Stuck) => 3,
            (Self::Nagios, Level::Stuck) => 2,
            (Self::Npd, Level::Stuck) | (Self::Nagios, Level::Doubtful) => 1,
            (Self::Plain | Self::Nagios | Self::Npd, _) => 0,
        }
    }

    /// The status where nothing could be found out.
    pub fn failed(self) -> u8 {
        match self {
            Self::Plain => 1,
            Self::Nagios => 3,
            Self::Npd => 2,
        }
    }
}

impl Command {
    /// The status that it exits with after an error.
    pub fn failed(&self) -> u8 {
        match self {
            Command::Ps(Ps { exit_code: Some(status), .. }) => status.failed(),
            _ => 1,
        }
    }
}

/// Where a command looks.
#[derive(Args, Clone, Debug)]
pub struct SourceArgs {
    /// Where to look
    #[arg(long, value_enum, default_value = "auto", value_name = "SOURCE")]
    pub source: SourceName,
    /// The agent's socket
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    pub socket: PathBuf,
    /// Where to read the history if no agent is running
    #[arg(long, value_name = "DIR", default_value = STATE_DIR, hide = true)]
    pub state_dir: PathBuf,
}

impl SourceArgs {
    /// Of a command that always looks itself, and asks the agent where it usually is.
    pub fn own() -> Self {
        Self { source: SourceName::Auto, socket: SOCKET.into(), state_dir: STATE_DIR.into() }
    }
}

/// Arguments of `tracer stalls`.
#[derive(Args)]
pub struct Stalls {
    /// Stalls that were open at this time or later: 03:12, -6h, 6h, "2026-11-23 03:12", RFC 3339
    #[arg(long, value_name = "WHEN", default_value = "24h", allow_hyphen_values = true, value_parser = moment::parse)]
    pub since: Timestamp,
    /// Only list the stalls, each on a line: no incidents before them, and none left out
    #[arg(long)]
    pub flat: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
    /// The agent's socket
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    pub socket: PathBuf,
    /// Where to read the history if no agent is running
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    pub state_dir: PathBuf,
}

/// Arguments of `tracer why`.
#[derive(Args)]
pub struct Why {
    /// A process, or one of its threads; or the name of a process or of a systemd unit, if only one of its processes is stuck
    #[arg(value_name = "PID|TID|NAME|UNIT")]
    pub who: String,
    /// Show where in the program all threads sleep, with how many are at each place
    #[arg(long)]
    pub all_threads: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub place: SourceArgs,
}

/// Arguments of `tracer release`.
#[derive(Args)]
pub struct Release {
    /// A process or one of its threads; a name, a script or a systemd unit if only one process is meant by it
    #[arg(value_name = "PID|TID|NAME")]
    pub who: String,
    /// The waits on these descriptors [default: the worst one]
    #[arg(long, value_name = "FD", value_delimiter = ',')]
    pub fd: Vec<i32>,
    /// Send the process this signal instead
    #[arg(long, value_enum, value_name = "SIGNAL", ignore_case = true, conflicts_with = "fd")]
    pub signal: Option<ReleaseSignal>,
    /// Change nothing, only say what would be done: the default
    #[arg(long, conflicts_with = "apply")]
    pub dry_run: bool,
    /// Do it
    #[arg(long)]
    pub apply: bool,
    /// Don't ask before a signal is sent
    #[arg(long, requires = "apply")]
    pub yes: bool,
}

/// What `release` may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReleaseSignal {
    /// Ask it to end, as Ctrl-C does
    #[value(alias = "SIGINT")]
    Int,
    /// Ask it to end
    #[value(alias = "SIGTERM")]
    Term,
    /// End it with a core dump
    #[value(alias = "SIGABRT")]
    Abrt,
    /// End it at once
    #[value(alias = "SIGKILL")]
    Kill,
    /// Let it go on
    #[value(alias = "SIGCONT")]
    Cont,
}

/// Arguments of `tracer stack`.
#[derive(Args)]
pub struct Stack {
    /// A process, one of its threads, or all processes with this name or script
    #[arg(value_name = "PID|TID|NAME")]
    pub who: String,
    /// Print one JSON object for each thread
    #[arg(long)]
    pub json: bool,
    /// Also show all functions of machine code where the program is written in another language
    #[arg(long)]
    pub native: bool,
    /// Print a line for each stack and how many threads have it, for tools that draw flame graphs
    #[arg(long, conflicts_with = "json")]
    pub folded: bool,
}

/// Arguments of `tracer run`.
#[derive(Args)]
pub struct Run {
    /// Report when nothing in it has moved, or a part of it has waited, for this long
    #[arg(long, value_name = "DUR", default_value = "5m", value_parser = patience)]
    pub stuck_after: Duration,
    /// End it when nothing in it has moved for that long, by SIGTERM and ten seconds later by SIGKILL; the status is then 124
    #[arg(long)]
    pub kill: bool,
    /// Also add reports to this file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// The command and its arguments
    #[arg(
        trailing_var_arg = true, required = true, value_name = "COMMAND",
        value_hint = ValueHint::CommandWithArguments
    )]
    pub command: Vec<OsString>,
}

/// Arguments of `tracer top`.
#[derive(Args, Clone)]
pub struct Top {
    /// Only these processes
    #[arg(short, long = "pid", value_name = "PID", value_delimiter = ',')]
    pub pid: Vec<u32>,
    /// Also show idle waits, and those that only a rule can flag
    #[arg(short, long)]
    pub all: bool,
    /// How often to update
    #[arg(long, value_name = "DUR", default_value = "1s", value_parser = interval)]
    pub interval: Duration,
    #[command(flatten)]
    pub place: SourceArgs,
}

/// Arguments of `tracer trace`.
#[derive(Args)]
pub struct Trace {
    /// Processes or threads to follow, with the processes they start [default: all]
    #[arg(value_name = "PID")]
    pub who: Vec<u32>,
    /// The same, as other commands have it
    #[arg(short, long = "pid", value_name = "PID", value_delimiter = ',')]
    pub pid: Vec<u32>,
    /// Follow processes with this name, and those they start
    #[arg(short, long, value_name = "COMM")]
    pub comm: Option<String>,
    /// A command to run and follow; lines go to standard error unless --output is given
    #[arg(last = true, value_name = "COMMAND", conflicts_with_all = ["who", "pid", "comm"])]
    pub command: Vec<OsString>,
    /// Write to this file
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Only calls that take at least this long
    #[arg(long, value_name = "DUR", default_value = "100ms", value_parser = duration::parse)]
    pub min: Duration,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
    /// How to see calls
    #[arg(long, value_enum, default_value = "auto", value_name = "PROBES")]
    pub probes: Probes,
}

/// How `trace` sees calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Probes {
    /// The first of tracepoint, fentry and waits that works
    Auto,
    /// Tracepoints at every call's entry and exit: adds a little to every call on the host
    Tracepoint,
    /// A program at the kernel's dispatcher of calls: adds less to every call on the host, but doesn't see the end of calls
    /// that began earlier, nor calls of 32-bit processes
    Fentry,
    /// Probes on the kernel's functions behind calls that can block: adds to those calls only, but takes seconds to
    /// detach, and sees what fentry sees
    Kprobe,
    /// Context switches: adds to calls that block only, but doesn't see results
    Waits,
}

/// How the agent sees waits end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AgentProbes {
    /// Context switches, or calls where the kernel doesn't support that
    Auto,
    /// Context switches: calls that don't block pay nothing
    Waits,
    /// The entry and exit of every call on the host, which adds a little to each
    Calls,
}

/// Arguments of `tracer doctor`.
#[derive(Args)]
pub struct Doctor {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `tracer run-hook`, which the agent starts.
#[derive(Args)]
pub struct RunHook {
    /// When the program is killed
    #[arg(long, value_parser = duration::parse)]
    pub timeout: Duration,
    /// How often it is run in a minute at most
    #[arg(long)]
    pub a_minute: u32,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

impl RunHook {
    /// What is to be run.
    pub fn hook(&self) -> HookConfig {
        HookConfig { command: self.command.clone(), timeout: self.timeout, a_minute: self.a_minute }
    }
}

/// Arguments of `tracer agent`. What is not given the configuration file says, else [`AgentSettings`]'s defaults hold.
#[derive(Args)]
pub struct AgentArgs {
    /// Configuration file [default: /etc/tracer/tracer.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check the configuration and exit
    #[arg(long)]
    pub check_config: bool,
    /// Flag stuck waits after this long [default: 30s]
    #[arg(long, value_name = "DUR", value_parser = duration::parse)]
    pub threshold: Option<Duration>,
    /// How often to take a snapshot; up to three times less often where that is expensive [default: 1s]
    #[arg(long, value_name = "DUR", value_parser = interval)]
    pub interval: Option<Duration>,
    /// Count ended waits shorter than this only as a total [default: 100us]
    #[arg(long, value_name = "DUR", value_parser = duration::parse)]
    pub min_wait: Option<Duration>,
    /// How to see waits end
    #[arg(long, value_enum, default_value = "auto", value_name = "PROBES")]
    pub probes: AgentProbes,
    /// Where to serve /metrics, /-/healthy and /-/ready [default: 127.0.0.1:9779]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Where to keep baselines, reported stalls and the history across restarts
    #[arg(long, value_name = "DIR", env = "STATE_DIRECTORY", default_value = STATE_DIR)]
    pub state_dir: PathBuf,
    /// Socket on which to answer `ps`, `why`, `top` and `stalls`
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    pub socket: PathBuf,
    /// Group that may use the socket, in addition to root
    #[arg(long, value_name = "GROUP", default_value = GROUP)]
    pub socket_group: String,
    /// Keep privileges and system calls that the agent doesn't need
    #[arg(long)]
    pub no_confinement: bool,
    /// Log messages of the kernel programs to standard error
    #[arg(short, long)]
    pub verbose: bool,
}

/// What the agent runs with.
pub struct AgentSettings {
    /// How often to look.
    pub interval: Duration,
    /// Ended waits shorter than this are not counted one by one.
    pub min_wait: Duration,
    /// How to see waits end.
    pub probes: AgentProbes,
    /// Time the answers of services.
    pub response_times: bool,
    /// Where to serve HTTP.
    pub listen: SocketAddr,
    /// Where it remembers things over a restart.
    pub state_dir: PathBuf,
    /// Where it serves those who may ask.
    pub socket: PathBuf,
    /// Who that is, beside root.
    pub socket_group: String,
    /// How much history it keeps.
    pub history: Limits,
    /// What those who read `/metrics` must know is there.
    pub token_file: Option<PathBuf>,
    /// What is told of each stall.
    pub on_stall: Option<HookConfig>,
    /// What is told of each incident.
    pub on_incident: Option<HookConfig>,
    /// Whether it gives up what it does not need.
    pub confined: bool,
    /// Log what the kernel programs say.
    pub verbose: bool,
}

impl AgentArgs {
    /// The command line, else the configuration file, else the defaults.
    pub fn over(&self, file: &Defaults) -> AgentSettings {
        let hook = |command| HookConfig {
            command,
            timeout: file.on_stall_timeout.unwrap_or(Duration::from_secs(10)),
            a_minute: file.on_stall_a_minute.unwrap_or(10),
        };
        AgentSettings {
            interval: self.interval.or(file.interval).unwrap_or(Duration::from_secs(1)),
            min_wait: self.min_wait.or(file.min_wait).unwrap_or(Duration::from_micros(100)),
            probes: self.probes,
            response_times: file.response_times.unwrap_or(false),
            listen: self.listen.or(file.listen).unwrap_or(LISTEN),
            state_dir: self.state_dir.clone(),
            socket: self.socket.clone(),
            socket_group: self.socket_group.clone(),
            history: Limits {
                age: file.history.unwrap_or(Duration::from_secs(8 * 86_400)),
                bytes: file.history_mib.unwrap_or(64) * 1024 * 1024,
            },
            token_file: file.token_file.clone(),
            on_stall: file.on_stall.clone().map(hook),
            on_incident: file.on_incident.clone().map(hook),
            confined: !self.no_confinement,
            verbose: self.verbose,
        }
    }
}

/// Where HTTP is served unless somebody says otherwise.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9779);

/// How often to look.
pub fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration::parse(text)?;
    if interval < Duration::from_millis(100) {
        return Err("the shortest interval is 100ms".into());
    }
    if interval > Duration::from_secs(86_400) {
        return Err("the longest interval is 1d".into());
    }
    Ok(interval)
}

/// How long a command may not move.
fn patience(text: &str) -> Result<Duration, String> {
    let patience = duration::parse(text)?;
    match patience < Duration::from_secs(1) {
        true => Err("the shortest time is 1s".into()),
        false => Ok(patience),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_command_line_wins_over_the_file_and_the_file_over_the_defaults() {
        let agent = |args: &[&str], file: &Defaults| {
            let cli = Cli::try_parse_from([&["tracer", "agent"], args].concat()).expect("parses");
            let Command::Agent(args) = cli.command else { panic!("another command") };
            let agent = args.over(file);
            (agent.interval.as_millis(), agent.min_wait.as_micros(), agent.listen.to_string())
        };
        let file = Defaults {
            interval: Some(Duration::from_secs(5)),
            min_wait: Some(Duration::from_millis(2)),
            listen: "[::1]:80".parse().ok(),
            ..Defaults::default()
        };
        let none = Defaults::default();
        assert_eq!(agent(&[], &none), (1000, 100, "127.0.0.1:9779".to_owned()));
        assert_eq!(agent(&[], &file), (5000, 2000, "[::1]:80".to_owned()));
        let args = ["--interval", "2s", "--min-wait", "1ms", "--listen", "127.0.0.1:1"];
        assert_eq!(agent(&args, &file), (2000, 1000, "127.0.0.1:1".to_owned()));
    }

    #[test]
    fn intervals_have_bounds() {
        assert!(interval("1ms").is_err());
        assert!(interval("300000000000years").is_err());
    }
}
