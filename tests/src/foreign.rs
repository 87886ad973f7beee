//! Does a source file read what is not tracer's own? Files and memory of other processes are read by `procfs` alone, since any such
//! read may hang.

use std::fs;
use std::path::{Path, PathBuf};

/// What opens, asks of or reads a file, or another's memory.
const CALLS: &[&str] = &[
    "fs::",
    "File::open",
    "OpenOptions",
    "process_vm_readv",
    ".exists()",
    ".is_file()",
    ".is_dir()",
    ".canonicalize()",
    ".metadata()",
    ".read_link()",
    ".read_dir()",
    "procfs::process",
    "libc::open",
    "libc::stat",
    "libc::access",
    "libc::readlink",
];

/// Who may: files and directories of `tracer/src`, each with what of tracer's own, or of the kernel's about no process, it is for.
const OWN: &[(&str, &str)] = &[
    ("procfs/", "the guarded reads"),
    ("serve/client.rs", "whose the agent's socket is"),
    ("collect/agreement/", "doctor's own child, which waits where it was told to"),
    ("collect/bpf.rs", "/proc/sys"),
    ("collect/conntrack/", "network namespaces by name, in /run/netns"),
    ("commands/", "what doctor tries; where generate writes; /proc/sys"),
    ("config/", "the configuration"),
    ("serve/http.rs", "the token"),
    ("serve/token.rs", "the token"),
    ("serve/socket.rs", "the agent's socket"),
    ("fuzz.rs", "what fuzzing writes"),
    ("history/", "the history"),
    ("hook/", "what the program is told; its children"),
    ("kernel/", "types, symbols and what the kernel says of our own programs"),
    ("util/regular.rs", "how our own files are opened"),
    ("util/users.rs", "/etc/passwd and /etc/group"),
    ("resolve/target.rs", "which file system pipes are of, by one of its own"),
    ("agent/journal.rs", "what standard output is"),
    ("agent/state/", "the state"),
    ("export/queue.rs", "the queue of events"),
    ("top/", "the file that it writes; /proc/stat"),
];

/// Of these a path is made with a process's number.
const OF_PROCESSES: &[&str] = &["procfs/", "collect/agreement/"];

/// Paths that are nobody else's, wherever they are read.
const ITSELF: &[&str] = &["\"/proc/self/", "\"/proc/thread-self/", "\"/proc/sys/"];

/// Whether a line has this, and not as the end of a longer word.
fn has_word(line: &str, call: &str) -> bool {
    let begins = |at: usize| !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
    line.match_indices(call).any(|(at, _)| call.starts_with('.') || begins(at))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the sources").flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => sources(&path, found),
            false if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
            false => (),
        }
    }
}

/// The lines of a file, with their numbers, without comments and without what is compiled for tests only.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let numbered = code.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    numbered.filter(|(_, line)| !line.starts_with("//"))
}

#[test]
fn only_guarded_reads_reach_other_processes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tracer/src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 50, "{files:?}");
    let mut found = Vec::new();
    for file in files {
        let name = file.strip_prefix(&root).expect("it lies there").to_str().expect("text").to_owned();
        let may = OWN.iter().any(|(place, _)| name.starts_with(place));
        let may_of_processes = OF_PROCESSES.iter().any(|place| name.starts_with(place));
        for (number, line) in lines(&fs::read_to_string(&file).expect("a source")) {
            let of_process = line.contains("/proc/{");
            let of_itself = ITSELF.iter().any(|path| line.contains(path));
            let may = may && (!of_process || may_of_processes) || of_itself;
            if !may && CALLS.iter().any(|call| has_word(line, call)) {
                found.push(format!("{name}:{number}: {line}"));
            }
        }
    }
    assert!(found.is_empty(), "not by procfs, and not of tracer's own:\n{}", found.join("\n"));
}
