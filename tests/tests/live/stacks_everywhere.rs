//! Are the stacks of machine code and of Go right on each kernel and each processor? On this machine the programs are built here; a guest
//! (`cargo xtask vm`) has them in `/samples`, built for its processor, beside Debian's Python, which `stacks_languages` is about.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tests::debian_program;

use crate::stacks::{BLOCKS, FLAVOURS, WAYS, build, folder, functions, spawn, stacks, until};

/// The program in Go.
const GO: &str = include_str!("samples/waits.go");

/// The guest's sample of this name; on this machine what is made instead.
fn sample(name: &str, make: impl FnOnce() -> PathBuf) -> PathBuf {
    let here = Path::new("/samples").join(name);
    if here.is_file() { here } else { make() }
}

#[test]
fn functions_in_c_are_found_in_each_way_of_sleeping() {
    assert!(BLOCKS.contains("int block("), "what the samples are made of");
    let dir = folder("stacks-everywhere");
    for (name, _, options) in FLAVOURS {
        let program = sample(&format!("blocks{name}"), || build(&dir, options));
        for (way, _, expected) in WAYS {
            let running = spawn(&program, &[way]);
            let stack = until(running.pid(), |stack| functions(stack).contains(&"block"));
            assert_eq!(stack["complete"], true, "{name} {way}: {stack:#}");
            let mut names = functions(&stack).into_iter();
            assert!(
                expected.iter().all(|expected| names.any(|name| name == *expected)),
                "{name} {way}: {stack:#}"
            );
            let frames = stack["native"].as_array().expect("frames");
            let guesses = frames.iter().filter(|of| of["by"] == "scan" || of["by"] == "fp");
            assert_eq!(guesses.count(), 0, "{name} {way}: {stack:#}");
        }
    }
}

/// Builds the program in Go, with these options of its linker.
pub(crate) fn build_go(linker: &str) -> PathBuf {
    let dir = folder(&format!("stacks-go{linker}").replace(' ', ""));
    let (source, program) = (dir.join("waits.go"), dir.join("waits"));
    std::fs::write(&source, GO).expect("write");
    let mut go = Command::new(debian_program("go"));
    go.args(["build", "-ldflags", linker, "-o"]).arg(&program).arg(&source).current_dir(&dir);
    go.env("GO111MODULE", "off").env("GOCACHE", dir.join("cache")).env("CGO_ENABLED", "0");
    assert!(go.status().expect("go runs").success(), "it is built");
    program
}

/// The line of the source that ends in this comment.
fn line(mark: &str) -> u64 {
    let is_it = |line: &str| line.ends_with(&format!("// {mark}"));
    GO.lines().position(is_it).expect("it is marked") as u64 + 1
}

#[test]
fn functions_in_go_are_at_their_lines() {
    let deep = |name: &str, times| vec![(name.to_owned(), line("deep")); times];
    let own = |times, rest: &[(&str, u64)]| {
        let mut frames =
            vec![("main.block".to_owned(), line("block")), ("main.deep".to_owned(), line("last"))];
        frames.extend(deep("main.deep", times));
        frames.extend(rest.iter().map(|(name, line)| ((*name).to_owned(), *line)));
        frames
    };
    let first = own(2, &[("main.(*pool).get", line("get")), ("main.main", line("main"))]);
    let other = own(1, &[("main.(*pool).get", line("get")), ("main.main.func1", line("closure"))]);
    for (name, linker) in [("waits-go", ""), ("waits-go-stripped", "-s -w")] {
        let program = sample(name, || build_go(linker));
        let running = spawn(&program, &[]);
        let seen = |thread: &Value| -> Vec<(String, u64)> {
            let frames = thread["stack"]["frames"].as_array().map(Vec::as_slice).unwrap_or_default();
            let of = |frame: &Value| {
                Some((frame["function"].as_str()?.to_owned(), frame["line"].as_u64().unwrap_or_default()))
            };
            let own = |frame: &(String, u64)| frame.0.starts_with("main.");
            frames.iter().filter_map(of).filter(own).collect()
        };
        let begin = std::time::Instant::now();
        loop {
            let all: Vec<_> = stacks(&running.pid().to_string()).iter().map(seen).collect();
            if [&first, &other].iter().all(|expected| all.contains(expected)) {
                break;
            }
            assert!(begin.elapsed() < tests::slow(crate::stacks::PATIENCE), "{name}: {all:#?}");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}
