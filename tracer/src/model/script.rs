//! Which program does an interpreter run? By its name, `python3`, nobody can tell one from another. Pure.

/// An interpreter and those of its options that take the next argument.
struct Interpreter {
    /// How the names of its programs begin, whether digits and dots follow or not.
    name: &'static str,
    /// Options whose argument is neither a program nor its name.
    settings: &'static [&'static str],
    /// Options whose argument is the program's text, which is no name.
    text: &'static [&'static str],
    /// Options whose argument names what to run: a module or an archive.
    program: &'static [&'static str],
    /// Whether several options of a letter may be one word: `-lc`.
    has_clusters: bool,
}

const NONE: Interpreter =
    Interpreter { name: "", settings: &[], text: &[], program: &[], has_clusters: false };
const SHELL: Interpreter =
    Interpreter { settings: &["-o", "+o", "-O", "+O"], text: &["-c"], has_clusters: true, ..NONE };
const PYTHON: Interpreter =
    Interpreter { settings: &["-W", "-X"], text: &["-c"], program: &["-m"], has_clusters: true, ..NONE };
const NODE: Interpreter = Interpreter {
    settings: &["-r", "--require", "--import", "--loader", "-C", "--conditions"],
    text: &["-e", "--eval", "-p", "--print"],
    ..NONE
};
const INTERPRETERS: &[Interpreter] = &[
    Interpreter { name: "python", ..PYTHON },
    Interpreter { name: "pypy", ..PYTHON },
    Interpreter {
        name: "ruby",
        settings: &["-C", "-E", "-I", "-r"],
        text: &["-e"],
        has_clusters: true,
        ..NONE
    },
    Interpreter { name: "perl", settings: &["-I"], text: &["-e", "-E"], has_clusters: true, ..NONE },
    Interpreter { name: "php", settings: &["-c", "-d", "-z"], text: &["-r"], program: &["-f"], ..NONE },
    Interpreter { name: "node", ..NODE },
    Interpreter { name: "nodejs", ..NODE },
    Interpreter {
        name: "java",
        settings: &["-cp", "-classpath", "--class-path", "-p", "--module-path", "--add-modules"],
        program: &["-jar", "-m", "--module"],
        ..NONE
    },
    Interpreter { name: "bash", ..SHELL },
    Interpreter { name: "dash", ..SHELL },
    Interpreter { name: "sh", ..SHELL },
    Interpreter { name: "zsh", ..SHELL },
    Interpreter { name: "deno", settings: &["-c", "--config"], text: &["eval"], ..NONE },
    Interpreter { name: "bun", settings: &["--preload"], text: &["-e", "--eval"], ..NONE },
    Interpreter { name: "lua", settings: &["-l"], text: &["-e"], ..NONE },
];
/// What deno and bun are told before the script.
const RUN: &str = "run";
/// Letters of options in one word at most: `-lane`. Longer words are something else.
const CLUSTER_MAX: usize = 4;
/// Where descriptors have names, which say nothing of what is read there.
const DESCRIPTORS: [&str; 3] = ["/dev/", "/proc/self/fd/", "/proc/thread-self/fd/"];

/// Whether a process of this name runs a program that is not its own.
pub fn is_interpreter(name: &str) -> bool {
    interpreter(name).is_some()
}

fn interpreter(name: &str) -> Option<&'static Interpreter> {
    let is_version = |rest: &str| rest.chars().all(|one| one.is_ascii_digit() || one == '.');
    INTERPRETERS.iter().find(|of| name.strip_prefix(of.name).is_some_and(is_version))
}

/// What the interpreter with this name runs, by its command line, in which blanks separate arguments: the last name of a script, a
/// module, a class or an archive. `None` if it is no interpreter, has written something else there, or was given the program's text.
pub fn script(comm: &str, cmdline: &str) -> Option<String> {
    let of = interpreter(comm)?;
    let mut words = cmdline.split_ascii_whitespace();
    if !is_interpreter(last_name(words.next()?)) {
        return None;
    }
    while let Some(word) = words.next() {
        let last = last_option(word).filter(|_| of.has_clusters);
        let word = last.as_deref().unwrap_or(word);
        if of.settings.contains(&word) {
            words.next()?;
        } else if of.program.contains(&word) {
            return words.next().map(|next| named(comm, next));
        } else if of.text.contains(&word) {
            return None;
        } else if !word.starts_with(['-', '+']) && word != RUN {
            let is_descriptor = DESCRIPTORS.iter().any(|folder| word.starts_with(folder));
            return (!is_descriptor).then(|| named(comm, word));
        }
    }
    None
}

/// The last of several options of a letter in one word, which is the one that may take an argument.
fn last_option(word: &str) -> Option<String> {
    let letters = word.strip_prefix('-')?;
    let are_options =
        (2..=CLUSTER_MAX).contains(&letters.len()) && letters.chars().all(|one| one.is_ascii_alphabetic());
    letters.chars().last().filter(|_| are_options).map(|last| format!("-{last}"))
}

/// Whether what Java runs is a file: an archive, or a source that it compiles first.
fn is_file(name: &str) -> bool {
    [".jar", ".java"].iter().any(|end| name.ends_with(end))
}

/// The last part of a path; of a class in Java the last part of its name.
fn named(comm: &str, what: &str) -> String {
    let name = last_name(what);
    let class = name.rsplit('.').next().filter(|_| comm == "java" && !is_file(name));
    class.unwrap_or(name).to_owned()
}

fn last_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn interpreters_are_told_from_each_other_by_what_they_run() {
        for (comm, cmdline, expected) in [
            ("python3", "/usr/bin/python3 pool.py", Some("pool.py")),
            ("python3.11", "python3.11 -u -W ignore /srv/app/pool.py --port 80", Some("pool.py")),
            ("python3", "python3 -m celery worker", Some("celery")),
            ("python3", "python3 -E pool.py", Some("pool.py")),
            ("python3", "python3 -c import time; time.sleep(9)", None),
            ("python3", "python3", None),
            ("python3", "celery worker", None),
            ("ruby", "ruby -I lib bin/rails server", Some("rails")),
            ("perl", "/usr/bin/perl -e print", None),
            ("php", "php artisan queue:work", Some("artisan")),
            ("php", "php -f /srv/a.php", Some("a.php")),
            ("node", "node --max-old-space-size=99 -r dotenv/config server.js", Some("server.js")),
            (
                "java",
                "java -Xmx1g -cp /opt/a.jar:/opt/b.jar org.apache.catalina.Bootstrap start",
                Some("Bootstrap"),
            ),
            ("java", "/opt/jdk/bin/java -jar /srv/app.jar", Some("app.jar")),
            ("java", "java -Xmx1g /srv/Sync.java 7", Some("Sync.java")),
            ("bash", "bash /etc/cron.daily/backup", Some("backup")),
            ("bash", "bash -c sleep 9", None),
            ("bash", "-bash", None),
            ("bash", "bash -lc sleep 9", None),
            ("sh", "/bin/sh -exc make all", None),
            ("bash", "bash -x -e run.sh", Some("run.sh")),
            ("bash", "bash /dev/fd/3", None),
            ("sh", "sh /proc/self/fd/63 a", None),
            ("python3", "python3 -um http.server 80", Some("http.server")),
            ("perl", "perl -lane print", None),
            ("php", "php -dx=1 a.php", Some("a.php")),
            ("deno", "deno run --allow-net main.ts", Some("main.ts")),
            ("nginx", "nginx: worker process", None),
            ("pythonic", "pythonic a", None),
            ("sh", "/bin/sh ./configure", Some("configure")),
        ] {
            assert_eq!(script(comm, cmdline).as_deref(), expected, "{comm}: {cmdline}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_written_there_has_no_blanks(comm in "(python3|java|sh|x)", cmdline in ".{0,60}") {
            let told = script(&comm, &cmdline);
            prop_assert!(told.is_none_or(|told| !told.contains(' ') && cmdline.contains(&told)));
        }
    }
}
