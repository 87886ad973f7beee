//! Is a type's name used once? Who reads a name, or looks for one, should not have to ask which of two it is.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use crate::layers::{is_for_tests, root, sources};

/// Types that a file declares, wherever in it, but for what is compiled for tests only.
#[derive(Default)]
struct Types(Vec<String>);

impl Types {
    fn of(text: &str) -> Vec<String> {
        let mut types = Self::default();
        types.visit_file(&syn::parse_file(text).expect("Rust"));
        types.0
    }

    fn tokens(&mut self, tokens: TokenStream) {
        let mut declares = false;
        for token in tokens {
            match token {
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Ident(name) if declares => {
                    self.0.push(name.to_string());
                    declares = false;
                }
                TokenTree::Ident(word) => declares = word == "struct" || word == "enum",
                // What a macro is told to call it, or no declaration.
                TokenTree::Punct(_) | TokenTree::Literal(_) => declares = false,
            }
        }
    }
}

impl<'ast> Visit<'ast> for Types {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let (attributes, name) = match item {
            syn::Item::Struct(item) => (&item.attrs, Some(&item.ident)),
            syn::Item::Enum(item) => (&item.attrs, Some(&item.ident)),
            syn::Item::Union(item) => (&item.attrs, Some(&item.ident)),
            syn::Item::Trait(item) => (&item.attrs, Some(&item.ident)),
            syn::Item::Type(item) => (&item.attrs, Some(&item.ident)),
            syn::Item::Mod(item) => (&item.attrs, None),
            syn::Item::Fn(item) => (&item.attrs, None),
            syn::Item::Impl(item) => (&item.attrs, None),
            _ => return visit::visit_item(self, item),
        };
        if !is_for_tests(attributes) {
            self.0.extend(name.map(ToString::to_string));
            visit::visit_item(self, item);
        }
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.tokens(item.tokens.clone());
    }
}

/// Files that declare each name.
fn declared(dir: &Path) -> BTreeMap<String, Vec<PathBuf>> {
    let mut declared: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for file in sources(dir) {
        let types = Types::of(&fs::read_to_string(&file).expect("a source"));
        let name = file.strip_prefix(dir).expect("it is below").to_owned();
        types.into_iter().for_each(|of| declared.entry(of).or_default().push(name.clone()));
    }
    declared
}

#[test]
fn a_types_name_is_used_once() {
    let declared = declared(&root());
    assert!(declared.contains_key("Wait") && declared.contains_key("Class"), "nothing is found");
    let twice: Vec<_> = declared.iter().filter(|(_, files)| files.len() > 1).collect();
    assert!(twice.is_empty(), "these names are of two types: {twice:#?}");
}

#[test]
fn declarations_are_found_wherever_they_stand() {
    let types = Types::of(
        "struct A; pub enum B {} trait C { type No; } type D = u8; mod m { union E { a: u8 } }
         fn f() { struct F; } macro_rules! g { () => { pub enum G {} struct $name; } }
         #[cfg(test)] struct H; #[cfg(test)] mod t { struct I; } impl C for A { type No = u8; }
         enum J { A, No(K) } #[cfg(test)] fn h() { struct L; }",
    );
    assert_eq!(types, ["A", "B", "C", "D", "E", "F", "G", "J"]);
}
