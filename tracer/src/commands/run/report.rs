//! What `tracer run` says of a command that hangs: who waits for what, and in which line of their programs.

use std::{collections::HashSet, fs::OpenOptions, io::Write, path::Path, time::Duration};

use anyhow::{Context, Result};

use super::{to_stderr, tree::Tree};
use crate::{
    assess::inspect::{self, threads::StacksOf},
    collect::{Source, bpf::Bpf, proc::Proc},
    commands::ps::gather::page_from_source,
    config::cli::{Ps, SourceArgs},
    config::selection::WaitSelection,
    model::class::{Class, Level},
    render::{
        self,
        waits::{self, Arrangement, WaitLayout},
    },
    util::human,
    wire::json::WaitObject,
};

/// Processes that have a page of their own.
const PAGES_MAX: usize = 3;
/// Columns where there is no terminal.
const WIDTH: usize = 100;

/// What is the matter.
#[derive(Clone, Copy, Debug)]
pub enum Finding {
    /// Nothing has moved for so long.
    Still(Duration),
    /// Some of it moves; some may have waited for so long.
    Part(Duration),
}

/// Looks and writes.
pub struct Reporter<'a> {
    file: Option<&'a Path>,
    /// The file was not there before.
    is_new: bool,
    /// Whether what to do next is said: of a command that is ended then, nobody can do it.
    has_next: bool,
    command: String,
    /// The best one that works, once there was need of one, and why it is no better one.
    source: Option<(Box<dyn Source>, Option<String>)>,
    /// Waits that have been told of: process, thread, class.
    told: HashSet<(u32, u32, Option<Class>)>,
}

impl<'a> Reporter<'a> {
    /// One that has said nothing.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn new(file: Option<&'a Path>, command: String, has_next: bool) -> Result<Self> {
        let is_new = file.is_some_and(|file| !file.exists());
        if let Some(file) = file {
            let opened = OpenOptions::new().create(true).append(true).open(file);
            opened.with_context(|| format!("cannot write {}", file.display()))?;
        }
        let command = human::clean(&command);
        Ok(Self { file, is_new, has_next, command, source: None, told: HashSet::new() })
    }

    /// Says it to standard error, and into the file if there is one.
    pub fn write(&mut self, text: &str) {
        to_stderr(text);
        let Some(file) = self.file else { return };
        let opened = OpenOptions::new().create(true).append(true).open(file);
        if let Err(error) = opened.and_then(|mut file| file.write_all(text.as_bytes())) {
            self.file = None;
            to_stderr(&format!("tracer: cannot write {}: {error}\n", file.display()));
        }
    }

    /// It moves: what hangs next is news.
    pub fn forget(&mut self) {
        self.told.clear();
    }

    /// Looks, and reports what has not been told before.
    pub fn look(&mut self, finding: Finding, tree: &Tree) -> Result<()> {
        let (source, why_not_better) = self.source.get_or_insert_with(open);
        let min_age = match finding {
            Finding::Still(_) => Duration::from_secs(1),
            Finding::Part(window) => window,
        };
        let mut waits = waits_of(tree, min_age, &mut **source)?;
        if matches!(finding, Finding::Part(_)) {
            waits.retain(|wait| wait.worry() == Level::Stuck);
        }
        let key = |wait: &WaitObject| (wait.pid, wait.tid, wait.class);
        let is_new = waits.iter().any(|wait| !self.told.contains(&key(wait)));
        let is_first = self.told.is_empty() && matches!(finding, Finding::Still(_));
        if !is_new && !is_first {
            return Ok(());
        }
        self.told.extend(waits.iter().map(key));
        let mut text = text(&self.command, self.has_next, finding, tree, &mut waits, &mut **source)?;
        if let Some(reason) = why_not_better.as_ref().filter(|_| rustix::process::geteuid().is_root()) {
            text += &format!("\nSeen through /proc: {reason}.\n");
        }
        self.write(&text);
        Ok(())
    }
}

impl Drop for Reporter<'_> {
    /// An empty file says that something was reported.
    fn drop(&mut self) {
        if let Some(file) = self.file.filter(|_| self.is_new)
            && file.metadata().is_ok_and(|of| of.is_file() && of.len() == 0)
        {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// The best source that works, and why it is not a better one.
fn open() -> (Box<dyn Source>, Option<String>) {
    match Bpf::once() {
        Ok(bpf) => (Box::new(bpf), None),
        Err(error) => (Box::new(Proc::new()), Some(format!("{error:#}"))),
    }
}

/// Waits of these processes that may worry, the worst and oldest first.
fn waits_of(tree: &Tree, min_age: Duration, source: &mut dyn Source) -> Result<Vec<WaitObject>> {
    let pid = tree.processes.iter().map(|process| process.pid).collect();
    let selection = WaitSelection { pid, ..WaitSelection::default() };
    let ps = Ps { all: false, json: false, min_age, ..Ps::everything(selection, SourceArgs::own()) };
    let mut waits = page_from_source(&ps, source)?.waits;
    waits.sort_by_key(|wait| (wait.worry(), std::cmp::Reverse(wait.age)));
    Ok(waits)
}

/// The whole report.
fn text(
    command: &str,
    has_next: bool,
    finding: Finding,
    tree: &Tree,
    waits: &mut [WaitObject],
    source: &mut dyn Source,
) -> Result<String> {
    let mut out = Vec::new();
    let what = match finding {
        Finding::Still(window) => format!("nothing in `{command}` has moved for {}", human::age(window)),
        Finding::Part(window) => {
            format!("a part of `{command}` has waited for {} or longer", human::age(window))
        }
    };
    writeln!(out, "tracer: {what}")?;
    if !waits.is_empty() {
        writeln!(out)?;
    }
    let pids = worth_a_page(tree, waits);
    waits::write(&mut out, waits, WaitLayout { arrangement: Arrangement::Folded, has_heading: true }, &[])?;
    let width = human::line_width().unwrap_or(WIDTH);
    for pid in pids {
        // It may have ended.
        if let Ok(mut report) = inspect::inspect(pid, None, StacksOf::All, source) {
            if !has_next {
                report.advice.clear();
            }
            writeln!(out)?;
            out.write_all(render::why::page(&report, width, None).as_bytes())?;
        }
    }
    writeln!(out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// Those whose pages say most: who is stuck, and whom they wait for; where nobody is, who may be; and where nobody may, who has no child.
fn worth_a_page(tree: &Tree, waits: &[WaitObject]) -> Vec<u32> {
    let own: HashSet<u32> = tree.processes.iter().map(|process| process.pid).collect();
    let culprits = waits.iter().filter_map(|wait| wait.culprit.as_ref()?.pid).filter(|pid| own.contains(pid));
    let worst = waits.first().map(WaitObject::worry);
    let waiting = waits.iter().filter(|wait| Some(wait.worry()) == worst && wait.class != Some(Class::Child));
    let waiting = waiting.map(|wait| wait.pid);
    // Parents come before their children.
    let last = tree.processes.iter().rev().map(|process| process.pid);
    let mut pids: Vec<u32> = Vec::new();
    for pid in waiting.chain(culprits).chain(last.take(usize::from(waits.is_empty()))) {
        if pids.len() < PAGES_MAX && !pids.contains(&pid) {
            pids.push(pid);
        }
    }
    pids
}
