//! `tracer agent`: starts the watching thread and serves HTTP until a signal ends it. Everything that needs rights comes first,
//! then they are given up, then threads start.

use std::{
    io::Write,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::Child,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    agent::AgentLoop,
    agent::canary::Canary,
    agent::confine::confine,
    agent::journal::Journal,
    agent::service::Manager,
    agent::stdout::Stdout,
    assess::shared,
    assess::sink::Sinks,
    collect::bpf::Bpf,
    config::HookConfig,
    config::cli::{AgentArgs, AgentProbes, AgentSettings, SOCKET},
    config::{Config, Defaults, Handover},
    history::{self, History},
    hook::{Runner, Told},
    kernel::object::{Followed, Options},
    metrics::health::Health,
    metrics::{Account, Metrics},
    procfs,
    serve::api::Api,
    serve::http,
    serve::socket::ApiSocket,
    serve::stream::Stream,
    serve::token::Token,
    util::allocator,
    util::human,
    util::output::output,
};

/// Ended waits shorter than this are not needed one by one, however low the threshold.
const LEAST_REPORT: Duration = Duration::from_millis(500);
/// Longer ones are, even if nothing is ever to be flagged.
const MOST_REPORT: Duration = Duration::from_secs(86_400);

/// Configurations are read again at most this often, however many signals come.
const RELOAD_EVERY: Duration = Duration::from_secs(1);

/// Runs until SIGTERM or SIGINT, or until watching fails.
pub fn run(args: &AgentArgs) -> Result<()> {
    let config = Config::load(args.config.as_deref())?;
    if args.check_config {
        let mut out = output();
        writeln!(out, "{}", config.summary())?;
        out.flush()?;
        return Ok(());
    }
    if let Some(doubts) = config.doubts() {
        human::say(&doubts);
    }
    allocator::keep_small();
    let policy = config.with_threshold(args.threshold);
    let reload = Reload::new(args, &policy);
    let args = args.over(&policy.defaults);
    procfs::supervisor::start(args.confined)?;
    let bpf = load(&args, reload.report)?;
    allocator::give_back();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(&args, policy, bpf, reload))
}

/// Reads the configuration again when it is told to.
struct Reload {
    file: Option<PathBuf>,
    threshold: Option<Duration>,
    /// Of the configuration that it started with.
    defaults: Defaults,
    /// Shorter waits are not timed one by one when they end.
    report: Duration,
    /// Where the watching thread takes the new one.
    next: Arc<Handover>,
}

impl Reload {
    fn new(args: &AgentArgs, policy: &Config) -> Self {
        Self {
            file: args.config.clone(),
            threshold: args.threshold,
            defaults: policy.defaults.clone(),
            report: policy.least().clamp(LEAST_REPORT, MOST_REPORT),
            next: Arc::default(),
        }
    }

    /// The new configuration, or the old one still; what came of it in a line.
    fn run(&self) -> String {
        let policy = match Config::load(self.file.as_deref()) {
            Ok(config) => config.with_threshold(self.threshold),
            Err(error) => return format!("{error:#}; what was configured before still holds"),
        };
        let mut said = policy.summary();
        if policy.defaults.but_threshold() != self.defaults.but_threshold() {
            said += "; the other keys of [agent] take effect when the agent is restarted";
        }
        if policy.least() < self.report {
            let report = humantime::format_duration(self.report);
            said +=
                &format!("; stalls that end within {report} are timed by snapshots until it is restarted");
        }
        self.next.put(policy);
        said
    }
}

/// The same in a thread of its own: storage that hangs holds up nothing else.
async fn run_apart(reload: &Arc<Reload>) -> String {
    let (tell, told) = tokio::sync::oneshot::channel();
    let reload = Arc::clone(reload);
    let thread = thread::Builder::new().name("reload".into()).spawn(move || tell.send(reload.run()));
    let said = match thread {
        Ok(_) => told.await.map_err(|_| "it was given up".to_owned()),
        Err(error) => Err(format!("cannot start a thread: {error}")),
    };
    said.unwrap_or_else(|why| format!("the configuration is not read again: {why}"))
}

/// Loads what sees waits end, the better way or as asked.
fn load(args: &AgentSettings, report: Duration) -> Result<Bpf> {
    let options = Options {
        snapshot: true,
        waits: true,
        min_wait: args.min_wait,
        calls: None,
        answers: args.response_times,
        report,
        verbose: args.verbose,
    };
    let by_calls = |why: &str| -> Result<Bpf> {
        let mut bpf = Bpf::load(Options { waits: false, calls: Some(Followed::Counted), ..options })?;
        let mechanism = bpf.kernel.count_calls()?.label();
        human::say(&format!(
            "watching calls ({mechanism}) instead of context switches to see waits end{why}"
        ));
        Ok(bpf)
    };
    match args.probes {
        AgentProbes::Waits => Bpf::load(options),
        AgentProbes::Calls => by_calls(""),
        // What keeps everything from working is said once.
        AgentProbes::Auto => {
            Bpf::load(options).or_else(|error| by_calls(&format!(": {error:#}")).map_err(|_| error))
        }
    }
}

/// The socket; `None` where the default one cannot be made, which is said.
fn bind(path: &Path, group: &str) -> Result<Option<ApiSocket>> {
    match ApiSocket::bind(path, group) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if path == Path::new(SOCKET) && error.is_read_only() => {
            human::say(&format!("{:#}; the agent does not answer requests", anyhow!(error)));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The history, or a step towards it. `None` where it cannot be kept, which is said: the agent does without.
fn or_without<T>(history: Result<T>) -> Option<T> {
    history.inspect_err(|error| human::say(&format!("{error:#}; no history is kept"))).ok()
}

async fn serve(args: &AgentSettings, policy: Config, mut bpf: Bpf, reload: Reload) -> Result<()> {
    // Those that end it do so by themselves until it listens, whatever it waits for meanwhile.
    let hangup = signal(SignalKind::hangup())?;
    let token = args.token_file.as_deref().map(Token::read).transpose()?.map(Arc::new);
    let listener = http::bind(args.listen)?;
    // Port 0 asks for any that is free.
    let listen = listener.local_addr()?;
    if token.is_none() {
        warn_of_open(args.listen);
    }
    let metrics = Arc::new(Metrics::default());
    let patience = (args.interval * 10).max(Duration::from_secs(10));
    let health = Arc::new(Health { patience_ns: patience.as_nanos() as u64, ..Health::default() });
    let (stop, stopped) = stop_pair()?;
    let log = args.verbose.then(|| bpf.kernel.log()).transpose()?;
    let socket = bind(&args.socket, &args.socket_group)?;
    let start =
        |hook: &Option<HookConfig>, told| hook.as_ref().map(|hook| Runner::start(hook, told)).transpose();
    let (on_stall, stall_runner) = start(&args.on_stall, Told::Stalls)?.unzip();
    let (on_incident, incident_runner) = start(&args.on_incident, Told::Incidents)?.unzip();
    let (canary, canary_process) = Canary::start()?;
    let opened = or_without(history::open(&args.state_dir, args.history).map_err(anyhow::Error::from));
    let manager = Manager::connect();
    let journal = Journal::of_standard_output();
    if args.confined {
        bpf.learn_symbols();
        confine().unwrap_or_else(|error| {
            human::say(&format!("{error:#}: the agent keeps more rights than it needs"))
        });
    }
    let (shared, asked) = shared::pair()?;
    let history = opened.and_then(|store| or_without(History::start(store, shared.clone())));
    let stream = Stream::new();
    let api = Api::start(shared, args.interval, stream.clone(), history.clone())?;
    let stdout = if journal.is_none() { Some(Stdout::start()?) } else { None };
    let sinks = Sinks::default()
        .and(Account::new(Arc::clone(&metrics), bpf.kernel.probes()))
        .and(stream)
        .and_if(on_stall)
        .and_if(on_incident)
        .and_if(journal)
        .and_if(stdout)
        .and_if(history)
        .and(Arc::clone(&health));
    let watch = AgentLoop::new(bpf, policy, args, sinks, asked, stopped)?
        .logging(log)
        .minding(canary)
        .following(Arc::clone(&reload.next));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (done, failed) = tokio::sync::oneshot::channel();
    let watcher = thread::Builder::new()
        .name("watch".into())
        .spawn(move || {
            // Nobody listens any more once a signal has come.
            let _ = done.send(watch.run());
        })
        .context("cannot start the thread that watches")?;
    human::say(&format!("watching; metrics on http://{listen}/metrics"));
    let result = tokio::select! {
        () = http::serve(listener, metrics, Arc::clone(&health), token) => Ok(()),
        result = serve_api(socket.as_ref(), api) => result,
        result = ended(stall_runner, "the process that runs on_stall") => result,
        result = ended(incident_runner, "the process that runs on_incident") => result,
        result = ended(Some(canary_process), "the canary") => result,
        () = manager.follow(|| health.ready.load(Ordering::Relaxed), || health.is_well()) => Ok(()),
        () = reload_at(hangup, Arc::new(reload), &manager) => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        result = failed => result.unwrap_or_else(|_| Err(anyhow!("the watching thread has ended unexpectedly"))),
    };
    manager.stopping();
    drop(socket);
    rustix::io::write(&stop, &1u64.to_ne_bytes()).context("cannot stop the watching thread")?;
    // Its programs detach when it ends; should it be held up, they detach when the process ends.
    let deadline = tokio::time::Instant::now() + Duration::from_millis(700);
    while !watcher.is_finished() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    result
}

/// Says who may read what is served to more than this host.
fn warn_of_open(listen: SocketAddr) {
    if !listen.ip().is_loopback() {
        human::say(&format!(
            "anyone who can reach {listen} can read process names and peer addresses: set `token_file` to restrict this"
        ));
    }
}

/// Reads the configuration again at each SIGHUP, for ever.
async fn reload_at(mut hangup: Signal, reload: Arc<Reload>, manager: &Manager) {
    while hangup.recv().await.is_some() {
        manager.reloading().await;
        let said = run_apart(&reload).await;
        human::say(&said);
        manager.reloaded(&said).await;
        // Signals that come meanwhile are one.
        tokio::time::sleep(RELOAD_EVERY).await;
    }
    std::future::pending().await
}

/// Returns when a process of the agent's has ended, which it does not before the agent: never, where there is none. A confined agent
/// cannot start another, and must not look as if it had one.
async fn ended(process: Option<Child>, what: &'static str) -> Result<()> {
    let Some(mut process) = process else { return std::future::pending().await };
    let (tell, told) = tokio::sync::oneshot::channel();
    thread::Builder::new()
        .name("process".into())
        .spawn(move || tell.send(process.wait()))
        .with_context(|| format!("cannot start the thread that waits for {what}"))?;
    let status = told.await.with_context(|| format!("cannot wait for {what}"))??;
    bail!("{what} has ended ({status}): start the agent again")
}

/// Serves the socket, if there is one; else waits for ever.
async fn serve_api(socket: Option<&ApiSocket>, api: Api) -> Result<()> {
    match socket {
        Some(socket) => http::serve_api(socket.listener()?, api).await,
        None => std::future::pending().await,
    }
    Ok(())
}

/// An event counter: written on one side, readable on the other.
fn stop_pair() -> Result<(OwnedFd, OwnedFd)> {
    let fd =
        rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).context("cannot make an eventfd")?;
    let other = fd.as_fd().try_clone_to_owned().context("cannot copy an eventfd")?;
    Ok((fd, other))
}
