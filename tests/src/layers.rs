//! Does each folder of `tracer/src` use only what lies below it? The table of layers, held against the `use` lines and every other
//! path in the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// A folder, its layer, and what it may use of its own layer.
struct Folder {
    name: &'static str,
    layer: u8,
    beside: &'static [&'static str],
}

const fn folder(layer: u8, name: &'static str, beside: &'static [&'static str]) -> Folder {
    Folder { name, layer, beside }
}

const FOLDERS: &[Folder] = &[
    folder(6, "commands", &["top", "trace"]),
    folder(6, "export", &[]),
    folder(6, "top", &[]),
    folder(6, "trace", &[]),
    folder(5, "agent", &[]),
    folder(5, "serve", &["metrics", "history"]),
    folder(5, "metrics", &[]),
    folder(5, "history", &[]),
    folder(5, "hook", &[]),
    folder(4, "render", &["assess"]),
    folder(4, "assess", &[]),
    folder(3, "diagnose", &["resolve"]),
    folder(3, "resolve", &[]),
    folder(2, "collect", &["kernel", "procfs"]),
    folder(2, "procfs", &[]),
    folder(2, "kernel", &["procfs"]),
    folder(1, "wire", &[]),
    folder(1, "config", &[]),
    folder(0, "model", &["util"]),
    folder(0, "util", &[]),
];

/// Crates that only some folders know: types of the kernel's boundary end in `kernel` and `collect`, JSON is made in `wire`.
#[rustfmt::skip]
const CRATES: &[(&str, &[&str])] = &[
    ("tracer_ebpf", &["kernel", "collect"]),
    ("serde", &["wire"]),
];

/// Files that are in no folder: where the program begins, and what fuzzing begins at.
const ROOT: &[&str] = &["fuzz.rs", "lib.rs", "main.rs"];

/// Folders and crates that a file's code names, in `use` lines, other paths, attributes and macros, but for what is compiled for
/// tests only.
#[derive(Default)]
struct Uses {
    folders: BTreeSet<String>,
    crates: BTreeSet<String>,
}

impl Uses {
    fn of(text: &str) -> Self {
        let mut uses = Self::default();
        uses.visit_file(&syn::parse_file(text).expect("Rust"));
        uses
    }

    /// The first names of what a `use` line names.
    fn firsts(tree: &syn::UseTree, names: &mut BTreeSet<String>) {
        match tree {
            syn::UseTree::Path(path) => _ = names.insert(path.ident.to_string()),
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| Self::firsts(item, names)),
            syn::UseTree::Name(name) => _ = names.insert(name.ident.to_string()),
            syn::UseTree::Rename(rename) => _ = names.insert(rename.ident.to_string()),
            syn::UseTree::Glob(_) => {}
        }
    }

    fn tokens(&mut self, tokens: TokenStream) {
        let mut before: [String; 3] = Default::default();
        for token in tokens {
            if let TokenTree::Group(group) = &token {
                self.tokens(group.stream());
            }
            let word = token.to_string();
            if CRATES.iter().any(|(name, _)| *name == word) {
                self.crates.insert(word.clone());
            }
            if let [krate, colon, again] = &before
                && (krate, colon, again) == (&"crate".to_owned(), &":".to_owned(), &":".to_owned())
            {
                self.folders.insert(word.clone());
            }
            before.rotate_left(1);
            before[2] = word;
        }
    }
}

pub fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let list = attribute.meta.require_list().ok().filter(|list| list.path.is_ident("cfg"));
        list.is_some_and(|list| list.tokens.to_string() == "test")
    })
}

impl<'ast> Visit<'ast> for Uses {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if is_for_tests(&item.attrs) {
            return;
        }
        match &item.tree {
            syn::UseTree::Path(path) if path.ident == "crate" => Self::firsts(&path.tree, &mut self.folders),
            tree => Self::firsts(tree, &mut self.crates),
        }
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        visit::visit_attribute(self, attribute);
        if let syn::Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone());
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let mut segments = path.segments.iter().map(|segment| segment.ident.to_string());
        match (segments.next(), segments.next()) {
            (Some(first), Some(second)) if first == "crate" => _ = self.folders.insert(second),
            // One name may be anything; of an attribute it is a crate's.
            (Some(first), _) => _ = self.crates.insert(first),
            (None, _) => {}
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.tokens(item.tokens.clone());
    }
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tracer/src")
}

/// The sources of a folder, but for tests in files or folders of their own.
pub fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("the sources").flatten().map(|entry| entry.path());
    let is_source = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    let is_for_tests = |path: &PathBuf| {
        path.file_stem().is_some_and(|name| matches!(name.to_str(), Some("tests" | "samples" | "growth")))
    };
    let entries = entries.filter(|path| !is_for_tests(path));
    let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) = entries.partition(|path| path.is_dir());
    let files = files.into_iter().filter(is_source);
    files.chain(folders.iter().flat_map(|folder| sources(folder))).collect()
}

/// What each folder uses, with a file that does.
fn used() -> BTreeMap<(&'static str, &'static str), PathBuf> {
    let mut used = BTreeMap::new();
    for from in FOLDERS {
        for file in sources(&root().join(from.name)) {
            let uses = Uses::of(&fs::read_to_string(&file).expect("a source")).folders;
            let folders = FOLDERS.iter().filter(|to| to.name != from.name && uses.contains(to.name));
            for to in folders {
                used.insert((from.name, to.name), file.clone());
            }
        }
    }
    used
}

fn layer(name: &str) -> u8 {
    FOLDERS.iter().find(|folder| folder.name == name).expect("it is in the table").layer
}

#[test]
fn folders_use_what_lies_below_them() {
    let may = |from: &str, to: &str| {
        let beside = FOLDERS.iter().find(|folder| folder.name == from).expect("it is in the table").beside;
        layer(to) < layer(from) || beside.contains(&to)
    };
    let used = used();
    let wrong: BTreeMap<_, _> = used.iter().filter(|((from, to), _)| !may(from, to)).collect();
    assert!(wrong.is_empty(), "these use what does not lie below them: {wrong:#?}");
    let allowed = FOLDERS.iter().flat_map(|folder| folder.beside.iter().map(|to| (folder.name, *to)));
    let unused: Vec<_> = allowed.filter(|pair| !used.contains_key(pair)).collect();
    assert!(unused.is_empty(), "these may use what they do not: {unused:?}");
}

#[test]
fn the_kernels_records_and_json_end_in_their_folders() {
    let mut wrong = BTreeMap::new();
    for folder in FOLDERS {
        for file in sources(&root().join(folder.name)) {
            let uses = Uses::of(&fs::read_to_string(&file).expect("a source")).crates;
            let known =
                CRATES.iter().filter(|(name, may)| uses.contains(*name) && !may.contains(&folder.name));
            wrong.extend(known.map(|(name, _)| ((folder.name, *name), file.clone())));
        }
    }
    assert!(wrong.is_empty(), "these know what they should not: {wrong:#?}");
}

#[test]
fn nothing_lies_loose_and_every_folder_says_what_it_is_for() {
    let mut folders = Vec::new();
    for entry in fs::read_dir(root()).expect("the sources").flatten() {
        let name = entry.file_name().into_string().expect("text");
        match entry.path().is_dir() {
            true => folders.push(name),
            false => assert!(ROOT.contains(&&*name), "{name} belongs into a folder"),
        }
    }
    let known = |name: &String| FOLDERS.iter().any(|folder| folder.name == *name);
    assert!(folders.iter().all(known) && folders.len() == FOLDERS.len(), "{folders:?}");
    for folder in FOLDERS {
        let file = root().join(folder.name).join("mod.rs");
        let text = fs::read_to_string(&file).expect("each folder has a mod.rs");
        let doc = text.lines().take_while(|line| line.starts_with("//!")).collect::<String>();
        assert!(doc.contains(&format!("Layer {}", folder.layer)), "{}: {doc}", file.display());
    }
}

#[test]
fn paths_are_found_wherever_they_stand() {
    let uses = Uses::of(
        "use crate::{a::B, c::{self, D}, e}; use std::f; fn g() { crate::h::i(); format!(\"{}\", crate::j::K); }
         #[cfg(test)] mod tests { use crate::l::M; } impl crate::n::O for P<crate::q::R> {}",
    );
    assert_eq!(Vec::from_iter(uses.folders), ["a", "c", "e", "h", "j", "n", "q"]);
}

#[test]
fn crates_are_found_wherever_they_stand() {
    for text in [
        "use serde::Serialize;",
        "use {std::fmt, serde::Serialize};",
        "impl serde::Serialize for A {}",
        "#[serde(skip)] struct A;",
        "#[derive(serde::Serialize)] struct A;",
        "#[cfg_attr(a, serde(skip))] struct A;",
        "struct A { #[serde(skip)] b: u8 }",
        "macro_rules! a { () => { #[derive(serde::Serialize)] struct A; } }",
    ] {
        assert!(Uses::of(text).crates.contains("serde"), "{text}");
    }
    for text in
        ["use crate::serde::A;", "use serde_json::A;", "#[cfg(test)] mod tests { use serde::A; }", "// serde"]
    {
        assert!(!Uses::of(text).crates.contains("serde"), "{text}");
    }
}
