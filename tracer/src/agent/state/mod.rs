//! What the agent remembers over a restart: how long waits usually take, and which stalls it has announced. One small JSON file,
//! replaced as a whole by a thread of its own.
//!
//! Part of `agent`, layer 5, and uses what that may use.

mod saver;

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};

use self::saver::Saver;
use crate::{
    agent::baselines::Baselines,
    agent::incidents::OpenIncidents,
    agent::open_stalls::OpenStalls,
    agent::requests::manners::LearnedManners,
    model::baseline::Excuse,
    util::human,
    util::regular,
    wire::incident::AnnouncedIncident,
    wire::state::{Announced, BaselineKey, StateFile},
};

/// How often it is written, if baselines changed. Stalls are written when they do: an agent that is killed must not announce
/// them again.
const WRITE_INTERVAL: Duration = Duration::from_secs(10);
/// But not more often than this.
const WRITE_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// The longest file that is read, bytes: that of a hundred thousand stalls is shorter.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How long it may take at the agent's end to write what is not written yet.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_millis(400);

/// What was kept beside baselines, as of when the agent last stopped.
#[derive(Debug, Default)]
pub struct Kept {
    /// How programs ask.
    pub manners: LearnedManners,
    /// Stalls that were open.
    pub stalls: Vec<Announced>,
    /// Incidents that were.
    pub incidents: Vec<AnnouncedIncident>,
}

/// Baselines, and what keeps them and announced stalls.
pub struct AgentState {
    file: PathBuf,
    baselines: Baselines,
    saver: Saver<StateFile>,
    /// When it was last to be written.
    saved: Instant,
    /// How often stalls had changed by what is written down.
    kept: u64,
    /// Baselines have changed since.
    changed: bool,
    /// How often manners had changed by what was last to be written.
    manners: u64,
    /// The last time it could not be written.
    failed: bool,
}

impl AgentState {
    /// What is kept in `dir`; nothing where there is nothing, or nothing
    /// that can be read.
    pub fn load(dir: &Path) -> Result<(Self, Kept)> {
        let file = dir.join("state.json");
        let to = file.clone();
        Ok(Self::of(file, Saver::start(move |kept| write(&to, kept))?))
    }

    fn of(file: PathBuf, saver: Saver<StateFile>) -> (Self, Kept) {
        let kept = read(&file).unwrap_or_else(|error| {
            human::say(&format!("{error:#}; the agent starts without its baselines and announced stalls"));
            StateFile::default()
        });
        let state = Self {
            file,
            baselines: Baselines::import(kept.baselines),
            saver,
            saved: Instant::now(),
            kept: 0,
            changed: false,
            manners: 0,
            failed: false,
        };
        let manners = LearnedManners::import(kept.manners);
        (state, Kept { manners, stalls: kept.stalls, incidents: kept.incidents })
    }

    /// A wait ended with an answer.
    pub fn learn(&mut self, key: &BaselineKey, lasted: Duration) {
        self.baselines.add(key, lasted, now());
        self.changed = true;
    }

    /// How a baseline moves a threshold.
    pub fn excuse(&self, key: &BaselineKey, threshold: Duration) -> Option<Excuse> {
        self.baselines.excuse(key, threshold, now())
    }

    /// How long such waits usually take.
    pub fn usual(&self, key: &BaselineKey) -> Option<Duration> {
        self.baselines.usual(key, now())
    }

    /// Has the file written if it is time and anything changed.
    pub fn save_now_and_then(
        &mut self,
        stalls: &OpenStalls,
        manners: &LearnedManners,
        incidents: &OpenIncidents,
    ) {
        self.hear();
        let since = self.saved.elapsed();
        if since >= WRITE_INTERVAL || since >= WRITE_INTERVAL_MIN && stalls.changes() != self.kept {
            self.save(stalls, manners, incidents);
        }
    }

    /// Has the file written if anything changed. What cannot be written is counted, also where an earlier write does not come
    /// back.
    fn save(&mut self, stalls: &OpenStalls, manners: &LearnedManners, incidents: &OpenIncidents) {
        self.saved = Instant::now();
        let changes = stalls.changes();
        if !self.changed && changes == self.kept && manners.changes() == self.manners {
            return;
        }
        (self.changed, self.manners) = (false, manners.changes());
        let (baselines, stalls, manners) = (self.baselines.export(), stalls.announced(), manners.export());
        let incidents = incidents.announced();
        if self.saver.put(StateFile { baselines, manners, stalls, incidents, changes }) {
            self.say_failure(&format!("{} has not been written for a while", self.file.display()));
        }
    }

    /// Writes the file at the agent's end, if anything changed and it does not take long.
    pub fn finish(&mut self, stalls: &OpenStalls, manners: &LearnedManners, incidents: &OpenIncidents) {
        self.hear();
        self.save(stalls, manners, incidents);
        if self.saver.wait(LAST_WRITE_TIMEOUT) {
            self.hear();
        } else {
            self.say_failure(&format!("{} cannot be written in time", self.file.display()));
        }
    }

    /// Takes notice of what came of the last write.
    fn hear(&mut self) {
        match self.saver.tried() {
            None => {}
            Some((kept, Ok(()))) => (self.kept, self.failed) = (kept.changes, false),
            Some((_, Err(error))) => {
                self.changed = true;
                self.say_failure(&format!("{error:#}"));
            }
        }
    }

    /// Says it once for each time that it begins to fail.
    fn say_failure(&mut self, why: &str) {
        if !std::mem::replace(&mut self.failed, true) {
            human::say(&format!("{why}; baselines and announced stalls will not survive a restart"));
        }
    }

    /// Times the file could not be written.
    pub fn unsaved(&self) -> u64 {
        self.saver.unsaved()
    }
}

fn read(file: &Path) -> Result<StateFile> {
    let bytes = match regular::read(file, FILE_BYTES_MAX) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(StateFile::default()),
        bytes => bytes.with_context(|| format!("cannot read {}", file.display()))?,
    };
    serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", file.display()))
}

fn write(file: &Path, kept: &StateFile) -> Result<()> {
    let dir = file.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let new = file.with_extension("new");
    let bytes = serde_json::to_vec(kept)?;
    // One that is left from before may have another mode.
    let _ = fs::remove_file(&new);
    let write = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?.write_all(&bytes);
    write().with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, file).with_context(|| format!("cannot replace {}", file.display()))
}

/// Seconds of Unix time.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::baselines::tests::key;

    fn no_incidents() -> OpenIncidents {
        OpenIncidents::going_on_with(Vec::new(), 0, jiff::Timestamp::UNIX_EPOCH)
    }

    /// As it was written before.
    const OLD: &str = r#"{"habits":[[{"comm":"mailer","remote_port":3306},[{"seconds":60.5,"at":1764000000},{"seconds":55.0,"at":1764000100}]]],
        "stalls":[{"pid":7,"process_start_ns":1,"tid":8,"thread_start_ns":2,"began_ns":3}]}"#;

    /// Its stalls count; its baselines, which anybody may have trained, do not.
    #[test]
    fn an_old_file_is_read() {
        let dir = std::env::temp_dir().join(format!("tracer-old-state-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a folder");
        let file = dir.join("state.json");
        fs::write(&file, OLD).expect("writes");
        let kept = read(&file).expect("nothing is wrong with it");
        assert!(kept.baselines.is_empty());
        let stalls = serde_json::to_string(&kept.stalls).expect("JSON");
        assert!(
            stalls.starts_with(r#"[{"pid":7,"process_start_ns":1,"tid":8,"thread_start_ns":2,"began_ns":3,"#),
            "{stalls}"
        );
        let (mut state, before) = AgentState::load(&dir).expect("a thread");
        assert_eq!(before.stalls, kept.stalls);
        state.learn(&key(), Duration::from_secs(10));
        state.finish(&OpenStalls::default(), &LearnedManners::default(), &no_incidents());
        let text = fs::read_to_string(&file).expect("is there");
        assert!(text.contains(r#""baselines":[[{"owner":{"unit":"worker@1.service"},"uid":33,"#), "{text}");
        assert!(!text.contains("habits"), "{text}");
        fs::remove_dir_all(&dir).expect("is removed");
    }

    #[test]
    fn what_was_kept_is_found_again_and_damage_is_no_harm() {
        let dir = std::env::temp_dir().join(format!("tracer-state-{}", std::process::id()));
        let key = key();
        let (mut state, ..) = AgentState::load(&dir).expect("a thread");
        state.learn(&key, Duration::from_secs(10));
        state.learn(&key, Duration::from_secs(20));
        state.finish(&OpenStalls::default(), &LearnedManners::default(), &no_incidents());
        assert_eq!(state.unsaved(), 0);
        let usual = || AgentState::load(&dir).expect("a thread").0.usual(&key);
        assert_eq!(usual(), Some(Duration::from_secs(10)));
        fs::write(dir.join("state.json"), "{").expect("writes");
        assert_eq!(usual(), None);
        fs::remove_dir_all(&dir).expect("is removed");
    }

    /// As with a disk that hangs: looks go on, each state that is not written is counted, and the end is not held up.
    #[test]
    fn a_write_that_does_not_come_back_holds_up_nobody() {
        let (begin, begun) = std::sync::mpsc::channel();
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let saver = Saver::start(move |_: &StateFile| {
            begin.send(()).context("nobody listens")?;
            wait.recv().context("it is over")
        });
        let nowhere = std::env::temp_dir().join("tracer-no-such-state.json");
        let (mut state, ..) = AgentState::of(nowhere, saver.expect("a thread"));
        let key = key();
        let change = |state: &mut AgentState| {
            state.learn(&key, Duration::from_secs(10));
            state.save(&OpenStalls::default(), &LearnedManners::default(), &no_incidents());
        };
        change(&mut state);
        begun.recv().expect("it writes");
        assert_eq!((state.unsaved(), state.failed), (0, false));
        change(&mut state);
        change(&mut state);
        assert_eq!((state.unsaved(), state.failed), (1, true));
        let before = Instant::now();
        state.finish(&OpenStalls::default(), &LearnedManners::default(), &no_incidents());
        assert!(before.elapsed() < LAST_WRITE_TIMEOUT + Duration::from_secs(1), "{:?}", before.elapsed());
        // It comes back.
        go_on.send(()).expect("it waits");
        begun.recv().expect("it writes the newest");
        go_on.send(()).expect("it waits");
        assert!(state.saver.wait(Duration::from_secs(10)));
        state.hear();
        assert_eq!((state.unsaved(), state.failed, state.changed), (1, false, false));
    }
}
