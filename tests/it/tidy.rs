//! Rules on the source text that no compiler and no lint holds: headers, sizes, and which layer
//! may name what. `ARCHITECTURE.md` tells the layers; [`LAYERS`] is where a new module gets one.
//!
//! Absent on purpose: parsing Rust. Comments are cut off and paths are found by their text, which
//! finds what is written by accident; who wants to get round it can.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use self::Layer::{Below, Domain, Process, Transport, UseCase};

const MAX_LINES: usize = 500;

/// From the bottom up: a layer may name itself and what comes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    Domain,
    Below,
    UseCase,
    Transport,
    Process,
}

/// Every module of `src/`, a file and the folder of its name being one.
const LAYERS: &[(Layer, &[&str])] = &[
    (
        Domain,
        &[
            "account", "audit", "clock", "decision", "error", "grant", "key", "lease", "policy",
            "revision", "scope", "token",
        ],
    ),
    // `serve` knows nothing of keys: the transport only takes the peer's address from it.
    (
        Below,
        &[
            "bounded", "cache", "feed", "filling", "limits", "metrics", "serve", "store", "usage",
            "verifier",
        ],
    ),
    (UseCase, &["authorizer", "keyring"]),
    (Transport, &["gateway", "grpc", "http", "proto"]),
    (
        Process,
        &["app", "cli", "config", "delivery", "failure", "lib", "machine", "main", "telemetry"],
    ),
];

/// These wire everything, and so know everything; who names them would know everything too.
const WIRING: &[&str] = &["app", "cli", "main"];

/// Of the process, and yet for all who do something; the domain only decides.
const SERVING_ALL: &[&str] = &["config", "telemetry"];

#[test]
fn every_source_file_opens_with_a_header() {
    demand_none(&sources(&["src"]), |file| {
        if file.text.starts_with("//!") {
            return vec![];
        }
        vec![file.at(1, "open with `//!`: one sentence on what the file holds")]
    });
}

#[test]
fn no_source_file_has_grown_too_long() {
    demand_none(&sources(&["src"]), |file| {
        let lines = lines_without_tests(&file.text);
        if lines <= MAX_LINES {
            return vec![];
        }
        let advice = format!("{lines} lines without tests, {MAX_LINES} are the bound: split it");
        vec![file.at(MAX_LINES + 1, &advice)]
    });
}

#[test]
fn nothing_is_left_undone_or_passed_over() {
    demand_none(&sources(&["src", "tests", "benches", "build.rs"]), unfinished);
}

#[test]
fn every_module_has_a_layer() {
    demand_none(&sources(&["src"]), |file| match file.layer() {
        Some(_) => vec![],
        None => vec![file.at(1, "give the module a layer: `LAYERS` in tests/it/tidy.rs")],
    });
}

#[test]
fn no_layer_names_a_crate_that_belongs_to_another() {
    demand_none(&sources(&["src"]), foreign_crates);
}

#[test]
fn no_module_names_a_layer_above_its_own() {
    demand_none(&sources(&["src"]), upward_paths);
}

#[test]
fn migrations_are_numbered_without_a_gap() {
    let root = repository().join("src/store/migrations");
    let folders: Vec<_> = folders_with_sql(&root);
    assert!(!folders.is_empty(), "no migrations below src/store/migrations");
    let wrong: Vec<_> = folders
        .iter()
        .filter_map(|folder| misnumbered(folder).map(|what| format!("{}: {what}", shown(folder))))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

// --- The rules can fail -------------------------------------------------------------------------

#[test]
fn a_driver_in_the_domain_is_found() {
    let file = source("src/key.rs", "//! Keys.\nuse sqlx::Row; // why\n");
    assert_eq!(
        foreign_crates(&file),
        [
            "src/key.rs:2: names `sqlx`, which the domain layer may not: move it, or pass the value in"
        ]
    );
    let inner = source("src/policy/plan.rs", "use std::{env, fs};\n");
    assert_eq!(foreign_crates(&inner).len(), 1);
    let time = source("src/clock.rs", "fn now() { SystemTime::now(); }\n");
    assert_eq!(foreign_crates(&time).len(), 1);
}

#[test]
fn a_driver_where_it_belongs_or_in_a_comment_is_not() {
    assert_eq!(foreign_crates(&source("src/store/sqlite.rs", "use sqlx::Row;\n")), [""; 0]);
    assert_eq!(
        foreign_crates(&source("src/key.rs", "//! No tonic::Status, no sqlx::Row.\n")),
        [""; 0]
    );
}

#[test]
fn a_companion_of_tonic_counts_as_tonic() {
    let file = source("src/store.rs", "use tonic_types::Status;\n");
    assert_eq!(foreign_crates(&file).len(), 1);
}

#[test]
fn a_path_to_a_layer_above_is_found() {
    let text = "use crate::{\n    key::Key,\n    store::{Store, grpc},\n};\n";
    assert_eq!(
        upward_paths(&source("src/decision.rs", text)),
        ["src/decision.rs:1: names `crate::store`, a layer above its own: \
          turn the dependency round"]
    );
    assert_eq!(upward_paths(&source("src/store.rs", "use crate::key::Key;\n")), [""; 0]);
    assert_eq!(upward_paths(&source("src/store.rs", "use crate::telemetry::child;\n")), [""; 0]);
    assert_eq!(upward_paths(&source("src/key.rs", "use crate::telemetry::child;\n")).len(), 1);
    assert_eq!(upward_paths(&source("src/feed.rs", "use crate::machine::wall_clock;\n")).len(), 1);
}

#[test]
fn only_the_wiring_names_the_app() {
    let text = "fn f(app: &crate::app::App) {}\n";
    assert_eq!(upward_paths(&source("src/serve.rs", text)).len(), 1);
    assert_eq!(upward_paths(&source("src/cli/keys.rs", text)), [""; 0]);
}

#[test]
fn an_unfinished_function_is_found() {
    let text = concat!("fn f() {\n    tod", "o!()\n}\n");
    assert_eq!(unfinished(&source("src/key.rs", text)).len(), 1);
}

#[test]
fn the_tests_of_a_file_do_not_count_as_its_length() {
    let text = "//! Doc.\n\nfn f() {}\n\n#[cfg(test)]\nmod tests {\n}\n";
    assert_eq!(lines_without_tests(text), 4);
    assert_eq!(lines_without_tests("#[cfg(test)]\nfn only_in_tests() {}\nfn f() {}\n"), 3);
}

// --- Rules --------------------------------------------------------------------------------------

fn unfinished(file: &Source) -> Vec<String> {
    // In two parts each, lest this file be found.
    const NEEDLES: [(&str, &str); 4] = [
        (concat!("#[ign", "ore"), "a test runs or is not there: mend it or take it out"),
        (concat!("#[should", "_panic"), "assert on a result: a panic says too little of why"),
        (concat!("tod", "o!("), "write it, or leave its caller out"),
        (concat!("unimpl", "emented!("), "write it, or leave its caller out"),
    ];
    let mut found = vec![];
    for (needle, advice) in NEEDLES {
        for (at, _) in file.code.match_indices(needle) {
            found.push(file.at(line_of(&file.code, at), &format!("`{needle}`: {advice}")));
        }
    }
    found
}

fn foreign_crates(file: &Source) -> Vec<String> {
    const TRANSPORT: &[&str] = &["tonic", "prost", "hyper", "axum"];
    const DRIVERS: &[&str] = &["sqlx", "redis"];
    let Some(layer) = file.layer() else {
        return vec![];
    };
    let banned: Vec<_> = match layer {
        Domain | UseCase => [TRANSPORT, DRIVERS].concat(),
        Below => vec!["tonic"],
        Transport => DRIVERS.to_vec(),
        Process => vec![],
    };

    let mut found = vec![];
    let mut complain = |at: usize, name: &str| {
        let layer = layer.as_words();
        let advice =
            format!("names `{name}`, which the {layer} may not: move it, or pass the value in");
        found.push(file.at(line_of(&file.code, at), &advice));
    };
    for (at, name) in identifiers(&file.code) {
        let is_path = file.code[at + name.len()..].starts_with("::");
        let of_crate = |banned: &&str| name == *banned || name.starts_with(&format!("{banned}_"));
        if is_path && banned.iter().any(of_crate) {
            complain(at, name);
        }
        if layer == Domain && name == "SystemTime" {
            complain(at, name);
        }
    }
    for (at, name) in named_below(&file.code, "std") {
        if layer == Domain && name == "env" {
            complain(at, "std::env");
        }
    }
    found
}

fn upward_paths(file: &Source) -> Vec<String> {
    let Some(layer) = file.layer() else {
        return vec![];
    };
    let is_wiring = WIRING.contains(&file.module());
    named_below(&file.code, "crate")
        .into_iter()
        .filter_map(|(at, name)| {
            let advice = match layer_of(name)? {
                _ if WIRING.contains(&name) && !is_wiring => {
                    format!("names `crate::{name}`, which wires everything: take what you need from it as a parameter")
                }
                Process if layer != Domain && SERVING_ALL.contains(&name) => return None,
                above if above > layer => {
                    format!("names `crate::{name}`, a layer above its own: turn the dependency round")
                }
                _ => return None,
            };
            Some(file.at(line_of(&file.code, at), &advice))
        })
        .collect()
}

fn lines_without_tests(text: &str) -> usize {
    let tests = text
        .match_indices("\n#[cfg(test)]\n")
        .map(|(at, attribute)| at + attribute.len())
        .find(|&after| text[after..].starts_with("mod ") || text[after..].starts_with("#["));
    let end = tests.map_or(text.len(), |after| after - "#[cfg(test)]\n".len());
    text[..end].lines().count()
}

fn misnumbered(folder: &Path) -> Option<String> {
    let mut names: Vec<String> =
        entries(folder).iter().filter(|path| is_sql(path)).map(|path| file_name(path)).collect();
    names.sort_unstable();
    names.iter().zip(1_u32..).find_map(|(name, expected)| {
        let start = format!("{expected:04}_");
        (!name.starts_with(&start))
            .then(|| format!("{name} should start with {start}, one number a migration, no gap"))
    })
}

// --- Source text --------------------------------------------------------------------------------

/// A file of the repository: as it is, and without its comments.
struct Source {
    path: String,
    text: String,
    code: String,
}

impl Source {
    /// The module below `src/` that the file is, or is a part of.
    fn module(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let first = below.split('/').next().unwrap_or(below);
        first.strip_suffix(".rs").unwrap_or(first)
    }

    fn layer(&self) -> Option<Layer> {
        layer_of(self.module())
    }

    fn at(&self, line: usize, advice: &str) -> String {
        format!("{}:{line}: {advice}", self.path)
    }
}

impl Layer {
    fn as_words(self) -> &'static str {
        match self {
            Domain => "domain layer",
            Below => "layer of store, cache and feed",
            UseCase => "layer of the use cases",
            Transport => "transport layer",
            Process => "process layer",
        }
    }
}

fn layer_of(module: &str) -> Option<Layer> {
    let (layer, _) = LAYERS.iter().find(|(_, names)| names.contains(&module))?;
    Some(*layer)
}

fn source(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.to_owned(), code: without_comments(text) }
}

/// Cuts off `//…`, but not the `//` of an address; lines keep their numbers.
fn without_comments(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    for line in text.lines() {
        let comment = line.match_indices("//").find(|&(at, _)| !line[..at].ends_with(':'));
        code.push_str(&line[..comment.map_or(line.len(), |(at, _)| at)]);
        code.push('\n');
    }
    code
}

/// What stands directly below `root::`, also in `root::{…}`, each with the place of the root.
fn named_below<'a>(code: &'a str, root: &str) -> Vec<(usize, &'a str)> {
    let mut found = vec![];
    for (at, name) in identifiers(code) {
        let Some(rest) = code[at + name.len()..].strip_prefix("::") else {
            continue;
        };
        if name != root {
            continue;
        }
        let names = match rest.strip_prefix('{') {
            Some(group) => heads_of_group(group),
            None => identifiers(rest).next().map(|(_, name)| name).into_iter().collect(),
        };
        found.extend(names.into_iter().map(|name| (at, name)));
    }
    found
}

/// The first name of each member of `a::b, c::{d, e}, f}`.
fn heads_of_group(group: &str) -> Vec<&str> {
    let mut heads = vec![];
    let mut depth = 0_usize;
    let mut member = 0;
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                heads.extend(identifiers(&group[member..at]).next().map(|(_, name)| name));
                member = at + 1;
                if letter == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    heads
}

/// Every run of identifier characters, with its offset.
fn identifiers(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut from = 0;
    std::iter::from_fn(move || {
        let start = from + code[from..].find(is_part)?;
        let length = code[start..].find(|letter| !is_part(letter)).unwrap_or(code.len() - start);
        from = start + length;
        Some((start, &code[start..from]))
    })
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

// --- Files --------------------------------------------------------------------------------------

fn demand_none(files: &[Source], rule: impl Fn(&Source) -> Vec<String>) {
    let mut complaints = String::new();
    for complaint in files.iter().flat_map(rule) {
        writeln!(complaints, "{complaint}").expect("a String takes everything");
    }
    assert!(complaints.is_empty(), "\n{complaints}");
}

/// All `.rs` files in these folders, and these files.
fn sources(roots: &[&str]) -> Vec<Source> {
    let mut paths = vec![];
    for root in roots {
        collect(&repository().join(root), &mut paths);
    }
    assert!(!paths.is_empty(), "no Rust file in {roots:?}");
    paths
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).expect("a source file can be read");
            source(&shown(path), &text)
        })
        .collect()
}

fn collect(path: &Path, paths: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in entries(path) {
            collect(&entry, paths);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        paths.push(path.to_owned());
    }
}

fn folders_with_sql(root: &Path) -> Vec<PathBuf> {
    let mut folders = vec![];
    if !root.is_dir() {
        return folders;
    }
    let inside = entries(root);
    if inside.iter().any(|path| is_sql(path)) {
        folders.push(root.to_owned());
    }
    for path in inside.iter().filter(|path| path.is_dir()) {
        folders.extend(folders_with_sql(path));
    }
    folders
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", shown(folder)))
        .map(|entry| entry.expect("a folder can be read").path())
        .collect();
    paths.sort_unstable();
    paths
}

fn is_sql(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "sql")
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(repository()).unwrap_or(path).display().to_string()
}
