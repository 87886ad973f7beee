//! What the agent remembers over a restart: how long waits usually take, and which stalls it has announced. One small JSON file, replaced as a
//! whole.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    habit::{Excuse, Habits, Key, Sample},
    human,
    stall::Stall,
    wait::{ProcessId, ThreadId, Wait},
};

/// How often it is written, if habits changed. Stalls are written when they do: an agent that is killed must not announce
/// them again.
const EVERY: Duration = Duration::from_secs(10);
/// But not more often than this.
const AT_MOST: Duration = Duration::from_secs(1);
/// How far apart two agents may date the same wait: a derived start is off by how long a thread takes to get the CPU. A
/// stall has lasted longer, so another wait of the thread cannot have begun so close to it.
const SAME: u64 = 2_000_000_000;
/// How long after a start stalls that were open before may be found again.
const GRACE: Duration = Duration::from_secs(600);

/// The file. Earlier ones have `habits` instead, by name and port alone: who trained them is not known, so they are left behind.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    #[serde(default)]
    baselines: Vec<(Key, Vec<Sample>)>,
    stalls: Vec<KeptStall>,
}

/// A stall that was open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct KeptStall {
    pid: u32,
    process_start_ns: u64,
    tid: u32,
    thread_start_ns: u64,
    began_ns: u64,
}

/// Habits and announced stalls.
pub struct State {
    file: PathBuf,
    habits: Habits,
    /// Stalls that were open when the agent last stopped, with their start.
    before: HashMap<ThreadId, u64>,
    started: Instant,
    saved: Instant,
    kept: Vec<KeptStall>,
    changed: bool,
    unsaved: u64,
    /// The last time it could not be written.
    failed: bool,
}

impl State {
    /// What is kept in `dir`; nothing where there is nothing, or nothing that can be read.
    pub fn load(dir: &Path) -> Self {
        let file = dir.join("state.json");
        let kept = read(&file).unwrap_or_else(|error| {
            human::say(&format!("{error:#}; the agent starts without what it knew"));
            Kept::default()
        });
        let before = kept.stalls.iter().map(|stall| (stall.thread(), stall.began_ns)).collect();
        Self {
            file,
            habits: Habits::import(kept.baselines),
            before,
            started: Instant::now(),
            saved: Instant::now(),
            kept: kept.stalls,
            changed: false,
            unsaved: 0,
            failed: false,
        }
    }

    /// A wait ended with an answer.
    pub fn learn(&mut self, key: &Key, lasted: Duration) {
        self.habits.add(key, lasted, now());
        self.changed = true;
    }

    /// What a wait's habit is to its threshold.
    pub fn excuse(&self, key: &Key, threshold: Duration) -> Option<Excuse> {
        self.habits.excuse(key, threshold, now())
    }

    /// How long such waits usually take.
    pub fn usual(&self, key: &Key) -> Option<Duration> {
        self.habits.usual(key, now())
    }

    /// Whether this very wait was a stall when the agent last stopped.
    pub fn was_open(&mut self, wait: &Wait) -> bool {
        if self.started.elapsed() > GRACE {
            self.before.clear();
        }
        self.before.remove(&wait.thread).is_some_and(|began| began.abs_diff(wait.began_ns) <= SAME)
    }

    /// Writes the file if it is time and anything changed.
    pub fn save_now_and_then(&mut self, stalls: &BTreeMap<ThreadId, Stall>) {
        let since = self.saved.elapsed();
        let others = || !self.kept.iter().map(|kept| kept.tid).eq(stalls.keys().map(|thread| thread.tid));
        if since >= EVERY || since >= AT_MOST && others() {
            self.save(stalls);
        }
    }

    /// Writes the file if anything changed. A failure is counted.
    pub fn save(&mut self, stalls: &BTreeMap<ThreadId, Stall>) {
        self.saved = Instant::now();
        let kept: Vec<KeptStall> = stalls.values().map(|stall| KeptStall::of(&stall.wait)).collect();
        if !self.changed && kept == self.kept {
            return;
        }
        let all = Kept { baselines: self.habits.export(), stalls: kept.clone() };
        match write(&self.file, &all) {
            Ok(()) => (self.kept, self.changed, self.failed) = (kept, false, false),
            Err(error) => {
                // Once for each time that it begins to fail.
                if !std::mem::replace(&mut self.failed, true) {
                    human::say(&format!(
                        "{error:#}; baselines and announced stalls will not survive a restart"
                    ));
                }
                self.unsaved += 1;
            }
        }
    }

    /// Times the file could not be written.
    pub fn unsaved(&self) -> u64 {
        self.unsaved
    }
}

impl KeptStall {
    fn of(wait: &Wait) -> Self {
        Self {
            pid: wait.thread.process.pid,
            process_start_ns: wait.thread.process.start_ns,
            tid: wait.thread.tid,
            thread_start_ns: wait.thread.start_ns,
            began_ns: wait.began_ns,
        }
    }

    fn thread(&self) -> ThreadId {
        ThreadId {
            process: ProcessId { pid: self.pid, start_ns: self.process_start_ns },
            tid: self.tid,
            start_ns: self.thread_start_ns,
        }
    }
}

fn read(file: &Path) -> Result<Kept> {
    let bytes = match fs::read(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Kept::default()),
        bytes => bytes.with_context(|| format!("cannot read {}", file.display()))?,
    };
    serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", file.display()))
}

fn write(file: &Path, kept: &Kept) -> Result<()> {
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
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::habit::tests::key;

    /// As it was written before.
    const OLD: &str = r#"{"habits":[[{"comm":"mailer","remote_port":3306},[{"seconds":60.5,"at":1764000000},{"seconds":55.0,"at":1764000100}]]],
        "stalls":[{"pid":7,"process_start_ns":1,"tid":8,"thread_start_ns":2,"began_ns":3}]}"#;

    /// Its stalls count; its habits, which anybody may have trained, do not.
    #[test]
    fn an_old_file_is_read() {
        let dir = std::env::temp_dir().join(format!("tracer-old-state-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a folder");
        let file = dir.join("state.json");
        fs::write(&file, OLD).expect("writes");
        let kept = read(&file).expect("nothing is wrong with it");
        assert!(kept.baselines.is_empty());
        assert_eq!(
            kept.stalls.iter().map(|stall| (stall.pid, stall.tid, stall.began_ns)).collect::<Vec<_>>(),
            [(7, 8, 3)]
        );
        let mut state = State::load(&dir);
        state.learn(&key(), Duration::from_secs(10));
        state.save(&BTreeMap::new());
        let text = fs::read_to_string(&file).expect("is there");
        assert!(text.contains(r#""baselines":[[{"owner":{"unit":"worker@1.service"},"uid":33,"#), "{text}");
        assert!(!text.contains("habits"), "{text}");
        fs::remove_dir_all(&dir).expect("is removed");
    }

    #[test]
    fn what_was_kept_is_found_again_and_damage_is_no_harm() {
        let dir = std::env::temp_dir().join(format!("tracer-state-{}", std::process::id()));
        let key = key();
        let mut state = State::load(&dir);
        state.learn(&key, Duration::from_secs(10));
        state.learn(&key, Duration::from_secs(20));
        state.save(&BTreeMap::new());
        assert_eq!(state.unsaved(), 0);
        assert_eq!(State::load(&dir).usual(&key), Some(Duration::from_secs(10)));
        fs::write(dir.join("state.json"), "{").expect("writes");
        assert_eq!(State::load(&dir).usual(&key), None);
        fs::remove_dir_all(&dir).expect("is removed");
    }
}
