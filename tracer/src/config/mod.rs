//! What the agent was told: how long each kind of wait may last, and which waits are a case of their own.
//!
//! A configuration is a value that never changes; a new file makes a new one.
//!
//! Layer 1: uses the model.

mod address;
pub mod cli;
pub mod duration;
pub mod export;
mod file;
mod history_and_hook;
mod index;
pub mod moment;
pub mod rule;
pub mod selection;

use std::{
    io::ErrorKind,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use hashbrown::HashMap;

pub use self::rule::Subject;
use self::{
    file::{Mistake, Section},
    index::Index,
    rule::Rule,
};
use crate::{
    model::class::{Class, Judgement, Level},
    util::human,
    util::regular,
    util::users,
};

pub use self::history_and_hook::{HookConfig, Limits};

/// Where the file is unless the command line names another.
pub const DEFAULT_PATH: &str = "/etc/tracer/tracer.toml";
/// The longest file that is read, bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// How long a wait may last before it is flagged; `None`: for ever.
pub type Threshold = Option<Duration>;

/// The configuration: built-in values, over them the file's, over them the command line's.
#[derive(Debug)]
pub struct Config {
    /// The file, if it is there.
    file: Option<PathBuf>,
    /// What the file says of flags that were not given.
    pub defaults: Defaults,
    /// `--threshold`.
    flag: Option<Duration>,
    /// `[thresholds]`.
    classes: HashMap<Class, Threshold>,
    rules: Vec<Rule>,
    /// Which of them can be about a wait.
    index: Index,
    /// [`Config::least_of`] each class, which is asked for every wait of every snapshot.
    least_of: HashMap<Class, Duration>,
    /// [`Config::least`].
    least: Duration,
}

impl Default for Config {
    /// Built-in values.
    fn default() -> Self {
        Self {
            file: None,
            defaults: Defaults::default(),
            flag: None,
            classes: HashMap::new(),
            rules: Vec::new(),
            index: Index::default(),
            least_of: HashMap::new(),
            least: Duration::MAX,
        }
        .settled()
    }
}

/// `[agent]`: what the command line's flags of the same names say where they are not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Of every class that means stuck.
    pub threshold: Option<Threshold>,
    /// How often to look.
    pub interval: Option<Duration>,
    /// Ended waits shorter than this are not counted one by one.
    pub min_wait: Option<Duration>,
    /// Whether to time the answers of services.
    pub response_times: Option<bool>,
    /// Where to serve HTTP.
    pub listen: Option<SocketAddr>,
    /// For how long the history is kept.
    pub history: Option<Duration>,
    /// How much of it on disk, MiB.
    pub history_mib: Option<u64>,
    /// What those who read `/metrics` must know is there.
    pub token_file: Option<PathBuf>,
    /// A program and its arguments, which is told of each stall.
    pub on_stall: Option<Vec<String>>,
    /// The same for incidents.
    pub on_incident: Option<Vec<String>>,
    /// When it is killed.
    pub on_stall_timeout: Option<Duration>,
    /// How often it is run in a minute at most.
    pub on_stall_a_minute: Option<u32>,
}

impl Defaults {
    /// All but what can be changed while the agent runs.
    pub fn but_threshold(&self) -> Self {
        Self { threshold: None, ..self.clone() }
    }
}

/// A new configuration on its way to who uses it.
#[derive(Debug, Default)]
pub struct Handover(Mutex<Option<Config>>);

impl Handover {
    /// Puts one there, in the place of one that was not taken.
    pub fn put(&self, config: Config) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(config);
    }

    /// Takes it, if there is one.
    pub fn take(&self) -> Option<Config> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What is to be done about one wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    /// How long it may last before it is flagged; `None`: for ever.
    pub threshold: Threshold,
    /// A rule says so: the wait's baseline does not count.
    pub by_rule: bool,
    /// Somebody has set it, for the class or by a rule: where nobody knows whether it is a subscription, it is taken for none.
    pub is_set: bool,
    /// What people are told beside the verdict.
    pub note: Option<&'a str>,
}

impl Config {
    /// Reads the file; without a path the default one, which need not be there.
    pub fn load(path: Option<&Path>) -> Result<Self> {
        let named = path.unwrap_or(Path::new(DEFAULT_PATH));
        let bytes = match regular::read(named, FILE_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if path.is_none() && error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) if error.kind() == ErrorKind::FileTooLarge => {
                bail!("{} is longer than 1 MiB: that is no configuration of tracer", named.display())
            }
            Err(error) => {
                let what = format!("cannot read the configuration {}", named.display());
                return Err(error).context(what);
            }
        };
        match Self::parse(&bytes) {
            Ok(config) => Ok(Self { file: Some(named.to_owned()), ..config }),
            Err(mistake) => bail!("{}:{mistake}", named.display()),
        }
    }

    /// Reads the text of a file.
    pub fn parse(bytes: &[u8]) -> Result<Self, Mistake> {
        let text = file::text(bytes)?;
        let mut config = Self::default();
        let mut all = Section::of_file(text)?;
        if let Some(mut agent) = all.section("agent")? {
            config.defaults = Defaults {
                threshold: agent.value("threshold", |value| value.threshold())?,
                interval: agent.value("interval", |value| value.string(cli::interval))?,
                min_wait: agent.value("min_wait", |value| value.duration())?,
                response_times: agent.value("response_times", |value| value.bool())?,
                listen: agent.value("listen", |value| value.string(listen))?,
                history: agent.value("history", |value| value.duration())?,
                history_mib: agent.value("history_mib", |value| value.string_or_integer(mebibytes))?,
                token_file: agent.value("token_file", |value| value.string(absolute))?,
                on_stall: agent.value("on_stall", |value| command(&value))?,
                on_incident: agent.value("on_incident", |value| command(&value))?,
                on_stall_timeout: agent.value("on_stall_timeout", |value| value.duration())?,
                on_stall_a_minute: agent.value("on_stall_a_minute", |value| value.string_or_integer(runs))?,
            };
            agent.end()?;
        }
        if let Some(mut thresholds) = all.section("thresholds")? {
            for class in Class::ALL {
                if let Some(threshold) = thresholds.value(class.label(), |value| value.threshold())? {
                    config.classes.insert(*class, threshold);
                }
            }
            thresholds.end()?;
        }
        for rule in all.sections("rule")? {
            config.rules.push(Rule::read(rule)?);
        }
        all.end()?;
        Ok(config.settled())
    }

    /// The same with the command line's `--threshold` over what the file says of classes that mean stuck. Rules are
    /// for cases of their own and stay above it.
    pub fn with_threshold(self, flag: Option<Duration>) -> Self {
        Self { flag, ..self }.settled()
    }

    /// The threshold of a class where no rule says otherwise.
    pub fn threshold(&self, class: Class) -> Threshold {
        let stuck = class.level() == Level::Stuck;
        self.flag
            .filter(|_| stuck)
            .map(Some)
            .or_else(|| self.classes.get(&class).copied())
            .or_else(|| self.defaults.threshold.filter(|_| stuck))
            .unwrap_or_else(|| class.threshold())
    }

    /// The same for a wait: what is stuck though its class only rests has the threshold of what is stuck.
    fn threshold_of(&self, Judgement { class, is_deadlock }: Judgement) -> Threshold {
        match is_deadlock && class.level() != Level::Stuck {
            true => self.threshold(Class::Orphan),
            false => self.threshold(class),
        }
    }

    /// Whether somebody has set the threshold of a class, on the command line or in the file.
    fn sets(&self, class: Class) -> bool {
        let of_stuck = self.flag.is_some() || self.defaults.threshold.is_some();
        self.classes.contains_key(&class) || of_stuck && class.level() == Level::Stuck
    }

    /// What holds for one wait: of each setting, what the first rule that matches and has it says.
    pub fn decide(&self, subject: &Subject) -> Decision<'_> {
        let (mut flag, mut threshold, mut note) = (None, None, None);
        let rules = self.index.candidates(subject);
        for rule in rules.into_iter().map(|at| &self.rules[at]).filter(|rule| rule.matches(subject)) {
            flag = flag.or(rule.flag);
            threshold = threshold.or(rule.threshold);
            note = note.or(rule.note.as_deref());
        }
        let by_rule = threshold.is_some() || flag == Some(false);
        let is_set = by_rule || self.sets(subject.judgement.class);
        let threshold = threshold.unwrap_or_else(|| self.threshold_of(subject.judgement));
        Decision { threshold: threshold.filter(|_| flag != Some(false)), by_rule, is_set, note }
    }

    /// The least threshold that a wait judged so can have, by itself or by a rule: a younger one is not flagged,
    /// whosever it is. `None`: none is ever flagged.
    pub fn least_of(&self, judgement: Judgement) -> Threshold {
        let of_class = self.least_of.get(&judgement.class).copied();
        match judgement.is_deadlock {
            true => of_class.into_iter().chain(self.threshold_of(judgement)).min(),
            false => of_class,
        }
    }

    /// The least threshold of all: younger waits need not be looked at.
    pub fn least(&self) -> Duration {
        self.least
    }

    /// Derives what follows from the rest.
    fn settled(mut self) -> Self {
        let least_of = |class: &Class| {
            let of_rules =
                self.rules.iter().filter(|rule| rule.concerns(*class)).filter_map(|rule| rule.threshold?);
            of_rules.chain(self.threshold(*class)).min().map(|least| (*class, least))
        };
        self.least_of = Class::ALL.iter().filter_map(least_of).collect();
        self.index = Index::of(&self.rules);
        self.least = self.least_of.values().copied().min().unwrap_or(Duration::MAX);
        self
    }

    /// One line for `--check-config`.
    pub fn summary(&self) -> String {
        [self.tally()].into_iter().chain(self.doubts()).collect::<Vec<_>>().join("; ")
    }

    /// What is written right and will not do what it says: a user in a rule whom this host does not know.
    pub fn doubts(&self) -> Option<String> {
        let mut strangers: Vec<&str> = self.rules.iter().flat_map(Rule::users).collect();
        strangers.retain(|name| !users::is_known(name));
        strangers.sort_unstable();
        strangers.dedup();
        let names: Vec<String> = strangers.into_iter().map(|name| format!("{name:?}")).collect();
        (!names.is_empty())
            .then(|| format!("no user in /etc/passwd is called {}, as a rule has it", names.join(", ")))
    }

    fn tally(&self) -> String {
        match &self.file {
            Some(file) => {
                let name = human::clean(&file.display().to_string());
                format!("{name}: fine, {}", human::count(self.rules.len(), "rule"))
            }
            None => format!("{DEFAULT_PATH} is not there, which is fine: built-in values hold"),
        }
    }
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    path.is_absolute()
        .then_some(path)
        .ok_or_else(|| format!("expected a path that begins with /, not \"{text}\""))
}

/// A program and its arguments.
fn command(value: &file::Value<'_, '_>) -> Result<Vec<String>, Mistake> {
    let words = value.one_or_more(|word| word.string(|text| Ok::<_, String>(text.to_owned())))?;
    absolute(&words[0]).map_err(|error| value.wrong(error))?;
    Ok(words)
}

fn runs(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|number| (1..=6000).contains(number))
        .ok_or_else(|| format!("expected a number of runs a minute, 1 to 6000, not {text:?}"))
}

fn mebibytes(text: &str) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|number| (1..=1024 * 1024).contains(number))
        .ok_or_else(|| format!("expected a number of MiB, 1 or more, not {text:?}"))
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("expected an address with a port such as \"127.0.0.1:9779\", not \"{text}\""))
}

#[cfg(test)]
mod tests;
