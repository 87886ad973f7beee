//! Where in its program does a thread sleep? The functions that have called each other, the innermost first, as far as they were found.

/// Frames of a program's language that are kept at most, and native ones.
pub const FRAMES_MAX: usize = 128;

/// What a program is written in, where its own frames can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// CPython.
    Python,
    /// PHP.
    Php,
    /// Ruby.
    Ruby,
    /// Go.
    Go,
    /// Java, by a perf map.
    Java,
    /// JavaScript, by a perf map.
    JavaScript,
}

impl Language {
    /// Its name in JSON.
    pub fn label(self) -> &'static str {
        match self {
            Language::Python => "python",
            Language::Php => "php",
            Language::Ruby => "ruby",
            Language::Go => "go",
            Language::Java => "java",
            Language::JavaScript => "javascript",
        }
    }
}

/// A function of a program's own language, and where in it the thread is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProgramFrame {
    /// Its name.
    pub function: String,
    /// Its file; `None`: it is built in.
    pub file: Option<String>,
    /// The line, if it is known.
    pub line: Option<u32>,
}

/// By what a frame was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FoundBy {
    /// It is where the thread sleeps.
    Registers,
    /// The rules that the compiler has written for exceptions.
    Rules,
    /// The chain of frame pointers.
    FramePointer,
    /// A word on the stack that follows a call: there may be others.
    Scan,
}

impl FoundBy {
    /// Its name in JSON.
    pub fn label(self) -> &'static str {
        match self {
            FoundBy::Registers => "registers",
            FoundBy::Rules => "cfi",
            FoundBy::FramePointer => "fp",
            FoundBy::Scan => "scan",
        }
    }

    /// Whether it might be another function.
    pub fn is_guess(self) -> bool {
        matches!(self, FoundBy::FramePointer | FoundBy::Scan)
    }
}

/// A function of machine code.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NativeFrame {
    /// Its name, if there is one.
    pub function: Option<String>,
    /// The program or library that it is in; `None`: code that was made at run time.
    pub module: Option<String>,
    /// Where in the module the thread goes on, as its file counts; else how far behind the beginning of that memory.
    pub offset: u64,
    /// How it was found.
    pub by: FoundBy,
}

/// Where in its program a thread sleeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserStack {
    /// What the program's own frames are written in.
    pub language: Option<Language>,
    /// Whether all native frames were found, to the outermost.
    pub complete: bool,
    /// Why there are no more, in words.
    pub end: String,
    /// Frames of the program's language, the innermost first.
    pub frames: Vec<ProgramFrame>,
    /// Frames of machine code, likewise.
    pub native: Vec<NativeFrame>,
    /// What would show the program's own frames, where they are not to be seen.
    pub hint: Option<&'static str>,
}

/// Parts of the paths of files that are not the program's own: installed by the system, by a package manager, or a language's own.
const OF_LIBRARIES: &[&str] = &[
    "/usr/lib",
    "/usr/share/",
    "/usr/local/lib/",
    "/lib/python",
    "/lib/ruby/",
    "/site-packages/",
    "/dist-packages/",
    "/gems/",
    "/node_modules/",
    "/vendor/",
    "/pkg/mod/",
    "/go/src/runtime/",
    "<frozen ",
    "node:",
];

impl ProgramFrame {
    /// Whether its function is known not to be the program's own.
    pub fn is_of_library(&self) -> bool {
        self.file.as_ref().is_none_or(|file| OF_LIBRARIES.iter().any(|part| file.contains(part)))
    }

    /// `connect_db b.php:2`: the file by its last name.
    pub fn short(&self) -> String {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => format!("{} {}:{line}", self.function, last_name(file)),
            (Some(file), None) => format!("{} {}", self.function, last_name(file)),
            (None, _) => self.function.clone(),
        }
    }
}

impl NativeFrame {
    /// `poll`, or `mysqlnd.so+0x1f`; with a mark where it is a guess.
    pub fn short(&self) -> String {
        let mark = if self.by.is_guess() { "?" } else { "" };
        match (&self.function, &self.module) {
            (Some(function), _) => format!("{function}{mark}"),
            (None, Some(module)) => format!("{}+{:#x}{mark}", last_name(module), self.offset),
            (None, None) => format!("[anonymous]+{:#x}{mark}", self.offset),
        }
    }
}

fn last_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_short_where_people_read_them() {
        let frame = |file: Option<&str>, line| ProgramFrame {
            function: "page".into(),
            file: file.map(str::to_owned),
            line,
        };
        assert_eq!(frame(Some("/srv/b.php"), Some(7)).short(), "page b.php:7");
        assert_eq!(frame(Some("/srv/b.php"), None).short(), "page b.php");
        assert_eq!(frame(None, None).short(), "page");
        for (file, is_of_library) in [
            (Some("/srv/app/a.py"), false),
            (Some("/root/app/lib/a.rb"), false),
            (Some("/usr/lib/python3.11/socket.py"), true),
            (Some("/srv/venv/lib/python3.12/site-packages/requests/api.py"), true),
            (Some("/usr/local/lib/go/src/net/net.go"), true),
            (None, true),
        ] {
            assert_eq!(frame(file, None).is_of_library(), is_of_library, "{file:?}");
        }
        let native = |function: Option<&str>, module: Option<&str>, by| NativeFrame {
            function: function.map(str::to_owned),
            module: module.map(str::to_owned),
            offset: 0x1f,
            by,
        };
        let [rules, scan] = [FoundBy::Rules, FoundBy::Scan];
        assert_eq!(native(Some("poll"), Some("/lib/libc.so.6"), rules).short(), "poll");
        assert_eq!(native(None, Some("/lib/libc.so.6"), rules).short(), "libc.so.6+0x1f");
        assert_eq!(native(None, None, scan).short(), "[anonymous]+0x1f?");
    }
}
