//! What the pages say is so: their commands are run as they stand, their documents are read, their
//! links lead somewhere.
//!
//! A block marked `sh` is run: all those of a page in order, in one shell, beside a development server.
//! A block marked `text` right after one is what that block prints, line by line and in order; `…` in it
//! stands for anything. `json` and `toml` blocks are read, `toml policy` as a policy. Whatever cannot be
//! run here, such as commands of other systems, is marked otherwise.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use latchkey::policy::Policy;
use latchkey::token;

use crate::support::{Folder, Server, tools_path};

/// The pages whose commands are run. A page that is not here must have none.
const RUN: [&str; 8] = [
    "README.md",
    "docs/administration.md",
    "docs/audit.md",
    "docs/keys.md",
    "docs/rules.md",
    "docs/services.md",
    "docs/tls.md",
    "docs/telemetry.md",
];
/// How long the commands of one page may take, in seconds.
const PAGE_SECONDS_MAX: &str = "120";
/// Stands in front of a block's line number in what the shell prints.
const MARK: &str = "@@ block at line ";

#[tokio::test]
async fn the_commands_of_the_readme_do_what_it_says() {
    run("README.md").await;
}

#[tokio::test]
async fn the_commands_of_the_page_on_administration_do_what_it_says() {
    run("docs/administration.md").await;
}

#[tokio::test]
async fn the_commands_of_the_page_on_the_audit_trail_do_what_it_says() {
    run("docs/audit.md").await;
}

#[tokio::test]
async fn the_commands_of_the_page_on_keys_do_what_it_says() {
    run("docs/keys.md").await;
}

#[tokio::test]
async fn the_commands_of_the_page_on_rules_do_what_it_says() {
    run("docs/rules.md").await;
}

#[tokio::test]
async fn the_commands_of_the_page_on_services_do_what_it_says() {
    run("docs/services.md").await;
}

#[tokio::test]
async fn the_commands_of_the_page_on_tls_do_what_it_says() {
    run("docs/tls.md").await;
}

#[tokio::test]
async fn the_commands_of_the_page_on_telemetry_do_what_it_says() {
    run("docs/telemetry.md").await;
}

#[test]
fn every_page_with_commands_is_run() {
    for page in pages() {
        let has_commands = blocks(&page).iter().any(|block| block.info == "sh");
        assert_eq!(has_commands, RUN.contains(&page.name.as_str()), "{}", page.name);
    }
}

#[test]
fn json_and_toml_can_be_read() {
    let mut policies = 0;
    for page in pages() {
        for block in blocks(&page) {
            let at = format!("{}:{}", page.name, block.line);
            match block.info.as_str() {
                "json" => {
                    let read = serde_json::from_str::<serde_json::Value>(&block.text);
                    assert!(read.is_ok(), "{at}: {}", read.unwrap_err());
                }
                "toml" => {
                    let read = block.text.parse::<toml::Table>();
                    assert!(read.is_ok(), "{at}: {}", read.unwrap_err());
                }
                "toml policy" => {
                    let read =
                        Policy::from_toml(&block.text).and_then(|policy| policy.validate(""));
                    assert!(read.is_ok(), "{at}: {}", read.unwrap_err());
                    policies += 1;
                }
                _ => {}
            }
        }
    }
    assert!(policies > 0, "no page shows a policy");
}

#[test]
fn links_lead_to_files_that_exist() {
    for page in pages() {
        let folder = page.path.parent().unwrap();
        for (line, target) in links(&page.text) {
            let path = target.split('#').next().unwrap_or_default();
            let is_elsewhere = target.contains("://") || target.starts_with("mailto:");
            assert!(
                is_elsewhere || path.is_empty() || folder.join(path).exists(),
                "{}:{line}: there is no {target}",
                page.name
            );
        }
    }
}

#[test]
fn the_tokens_shown_as_examples_are_right() {
    let page = page("docs/keys.md");
    let vectors: Vec<_> = blocks(&page)
        .into_iter()
        .filter(|block| block.info == "text vectors")
        .flat_map(|block| block.text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert_eq!(vectors.len(), 3, "{vectors:?}");
    for vector in vectors {
        assert!(token::parse(vector.as_bytes()).is_ok(), "{vector}");
    }
}

#[test]
fn the_map_is_short_enough_to_be_read() {
    for (name, most) in [("ARCHITECTURE.md", 200), ("README.md", 220)] {
        let lines = page(name).text.lines().count();
        assert!(lines <= most, "{name} has {lines} lines; {most} are enough");
    }
}

// --- Running --------------------------------------------------------------------------------------

async fn run(name: &str) {
    let server = Server::start_dev().await;
    let folder = Folder::new();
    let blocks = blocks(&page(name));
    let script = folder.path().join("page.sh");
    std::fs::write(&script, script_of(&blocks)).unwrap();
    let output = Command::new("timeout")
        .args([PAGE_SECONDS_MAX, "bash", "-euo", "pipefail"])
        .arg(&script)
        .current_dir(folder.path())
        .env_clear()
        .env("PATH", tools_path())
        .env("HOME", folder.path())
        .env("LANG", "C.UTF-8")
        .env("LATCHKEY_TOKEN", server.root_token())
        .env("LATCHKEY_ADDRESS", format!("http://{}", server.grpc()))
        .env("GRPC", server.grpc().to_string())
        .env("HTTP", server.http().to_string())
        .env("TLS", free_address())
        .env("OPERATIONS", server.operations().to_string())
        .env("STORE_URL", format!("sqlite://{}", server.database()))
        .env("LIVE_KEY", server.live_key())
        .env("TEST_KEY", server.test_key())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let by_line = by_line(&printed);
    let (last, told) = by_line.last_key_value().map_or((0, ""), |(line, told)| (*line, told));
    assert!(
        output.status.success(),
        "{name}:{last}: the block ended with {}:\n{told}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    for block in blocks.iter().filter(|block| block.info == "sh") {
        let told = by_line.get(&block.line).copied().unwrap_or_default();
        if let Some(missing) = block.promised.as_deref().and_then(|wanted| missing(told, wanted)) {
            panic!("{name}:{}: the block does not print {missing:?}, but:\n{told}", block.line);
        }
    }
}

/// An address on which nothing listens, and of a port that the system gives to nobody who asks for any.
fn free_address() -> String {
    let free = (20_000..30_000).find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
    free.unwrap().local_addr().unwrap().to_string()
}

/// All blocks as one script, each announced by its line; what it prints and complains of is one text.
fn script_of(blocks: &[Block]) -> String {
    let mut script = "exec 2>&1\n".to_owned();
    for block in blocks.iter().filter(|block| block.info == "sh") {
        writeln!(script, "printf '\\n%s\\n' '{MARK}{}'\n{}", block.line, block.text).unwrap();
    }
    script
}

/// What each block printed, by its line.
fn by_line(printed: &str) -> BTreeMap<usize, &str> {
    printed
        .split(MARK)
        .skip(1)
        .filter_map(|part| {
            let (line, told) = part.split_once('\n')?;
            Some((line.parse().ok()?, told))
        })
        .collect()
}

/// The first line of what is wanted that does not come, in order, in what was told.
fn missing<'a>(told: &str, wanted: &'a str) -> Option<&'a str> {
    let mut told = told.lines();
    wanted
        .lines()
        .filter(|line| !line.trim().is_empty())
        .find(|wanted| !told.by_ref().any(|line| is_like(line.trim_end(), wanted.trim_end())))
}

/// Whether a line is as the pattern says, in which `…` stands for anything.
fn is_like(line: &str, pattern: &str) -> bool {
    let Some((first, pattern)) = pattern.split_once('…') else { return line == pattern };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let (between, last) = pattern.rsplit_once('…').unwrap_or(("", pattern));
    for part in between.split('…') {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

#[test]
fn a_line_is_compared_with_gaps() {
    for (line, pattern) in [("abc", "abc"), ("abc", "a…"), ("abcc", "…c"), ("abcd", "a…c…")]
    {
        assert!(is_like(line, pattern), "{line} {pattern}");
    }
    for (line, pattern) in [("abc", "ab"), ("abc", "…b"), ("abc", "b…"), ("", "a…")] {
        assert!(!is_like(line, pattern), "{line} {pattern}");
    }
    assert_eq!(missing("a\nb\nc\n", "a\nc\n"), None);
    assert_eq!(missing("c\na\n", "a\nc\n"), Some("c"));
}

// --- Pages ----------------------------------------------------------------------------------------

struct Page {
    name: String,
    path: PathBuf,
    text: String,
}

/// A fenced block: its info string, the line of its fence, and the `text` block right after it.
struct Block {
    info: String,
    line: usize,
    text: String,
    promised: Option<String>,
}

/// The pages at the root, and those in `docs` and its folders.
fn pages() -> Vec<Page> {
    let mut names = vec![];
    for folder in ["", "docs/", "docs/gateways/", "docs/operations/"] {
        for entry in std::fs::read_dir(repository().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().to_string_lossy().into_owned();
            if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
                names.push(format!("{folder}{name}"));
            }
        }
    }
    names.sort_unstable();
    names.iter().map(|name| page(name)).collect()
}

fn page(name: &str) -> Page {
    let path = repository().join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    Page { name: name.to_owned(), path, text }
}

fn blocks(page: &Page) -> Vec<Block> {
    let mut blocks: Vec<Block> = vec![];
    let mut is_open = false;
    // Whether nothing but empty lines came since the last block ended.
    let mut follows = false;
    for (index, line) in page.text.lines().enumerate() {
        match (is_open, line.strip_prefix("```")) {
            (false, Some(info)) => {
                let info = info.trim().to_owned();
                let text = String::new();
                if !(follows && info == "text") {
                    blocks.push(Block { info, line: index + 1, text, promised: None });
                } else if let Some(last) = blocks.last_mut() {
                    last.promised = Some(text);
                }
                is_open = true;
            }
            (true, Some(_)) => {
                is_open = false;
                follows =
                    blocks.last().is_some_and(|last| last.info == "sh" && last.promised.is_none());
            }
            (true, None) => {
                let last = blocks.last_mut().unwrap();
                let text = last.promised.as_mut().unwrap_or(&mut last.text);
                writeln!(text, "{line}").unwrap();
            }
            (false, None) => follows &= line.trim().is_empty(),
        }
    }
    assert!(!is_open, "{}: a block is not closed", page.name);
    blocks
}

/// The targets of `[text](target)` outside of blocks, with their lines.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = vec![];
    let mut is_code = false;
    for (index, line) in text.lines().enumerate() {
        is_code ^= line.starts_with("```");
        let mut rest = if is_code { "" } else { line };
        while let Some((_, after)) = rest.split_once("](") {
            let Some((target, left)) = after.split_once(')') else { break };
            links.push((index + 1, target.to_owned()));
            rest = left;
        }
    }
    links
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
