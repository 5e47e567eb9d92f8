//! `serve --dev`: what it prints can be pasted, what it is told is not passed over, and it leaves nothing.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{assert_refused, files, run};
use crate::support::{Folder, Server, eventually, latchkey, tools_path};

const ROOT: &str = "hm_live_0000000000000000000000000000002dlYSp";
const OFF: [&str; 6] =
    ["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--operations-listen", "off"];

/// Runs the lines that a session printed, each in a shell, and returns what they wrote.
fn paste(printed: &str, command: &str) -> Vec<String> {
    let lines = printed.lines().map(str::trim).filter(|line| line.starts_with(command));
    lines
        .map(|line| {
            let shell = Command::new("sh").args(["-c", line]).env("PATH", tools_path()).output();
            let output = shell.unwrap();
            let text = [output.stdout, output.stderr].concat();
            String::from_utf8(text).unwrap()
        })
        .collect()
}

fn assert_all_work(printed: &str) {
    let proxied = paste(printed, "curl");
    for (answer, status) in proxied.iter().zip([" 200 ", " 403 ", " 401 "]) {
        assert!(answer.lines().next().unwrap_or_default().contains(status), "{answer}");
    }
    // The last one needs the export above it.
    let asked = paste(printed, "grpcurl");
    for (answer, status) in asked.iter().zip(["200", "403", "401"]) {
        assert!(answer.contains(&format!("\"httpStatus\": {status}")), "{answer}");
    }
    assert_eq!((proxied.len(), asked.len()), (3, 4));
}

#[tokio::test]
async fn the_printed_lines_work_as_they_are() {
    let server = Server::start_dev().await;
    assert_all_work(&server.printed());
    let administer = server.printed();
    let at = administer.find("export LATCHKEY_TOKEN=").unwrap();
    let shell =
        Command::new("sh").args(["-c", &administer[at..]]).env("PATH", tools_path()).output();
    let listed = String::from_utf8(shell.unwrap().stdout).unwrap();
    assert!(listed.starts_with("KEY ") && listed.contains("\"keys\""), "{listed}");
}

#[tokio::test]
async fn the_printed_lines_work_where_callers_need_a_key() {
    let server = Server::build().dev().environment("LATCHKEY__GRPC__CALLERS", "key").start().await;
    assert_all_work(&server.printed());
    assert!(server.log().contains("grpc.callers is any"));
}

#[tokio::test]
async fn the_printed_lines_work_on_unix_sockets() {
    let folder = Folder::new();
    let socket = |name: &str| format!("unix:{}/{name}.sock", folder.path().display());
    let (grpc, http) = (socket("grpc"), socket("http"));
    let listen = ["--grpc-listen", &grpc, "--http-listen", &http, "--operations-listen", "off"];
    let session = Session::start(folder.path(), "", &listen);
    assert_all_work(&session.printed);
}

#[tokio::test]
async fn a_root_token_that_was_chosen_is_not_looked_for_in_a_file() {
    let server = Server::build().dev().environment("LATCHKEY__ROOT_TOKEN", ROOT).start().await;
    let printed = server.printed();
    assert!(printed.contains("export LATCHKEY_TOKEN=…  # the root_token"), "{printed}");
    assert!(!printed.contains("$(cat") && !printed.contains(ROOT), "{printed}");
}

// === What it is told ===

#[tokio::test]
async fn a_store_that_would_not_be_looked_at_is_refused() {
    let folder = Folder::new();
    let url = format!("sqlite://{}/mine.db", folder.path().display());
    let file = folder.path().join("latchkey.toml");
    std::fs::write(&file, format!("[store]\nurl = \"{url}\"\n")).unwrap();
    let file = file.to_str().unwrap();
    let told = ["--dev keeps a store of its own", "sets store.url", "help: leave one of them out"];
    let dev = [&["serve", "--dev"][..], &OFF].concat();
    for (more, environment, origin) in [
        (vec!["--store-url", &url], vec![], "--store-url"),
        (vec!["--config", file], vec![], file),
        (vec![], vec![("LATCHKEY__STORE__URL", &*url)], "LATCHKEY__STORE__URL"),
    ] {
        let refused = run(&[&dev[..], &more].concat(), &environment).await;
        assert_refused(&refused, &[&told[..], &[origin]].concat());
    }
}

#[tokio::test]
async fn a_policy_without_what_the_demo_needs_is_refused_with_what_is_missing() {
    let folder = Folder::new();
    let policy = folder.path().join("policy.toml");
    let environment = [
        ("LATCHKEY__POLICY__FILE", policy.to_str().unwrap()),
        ("TMPDIR", folder.path().to_str().unwrap()),
    ];
    let dev = [&["serve", "--dev"][..], &OFF].concat();
    for (text, told) in [
        ("[[plans]]\nname = \"free\"\n", "--dev needs the plan `developer`"),
        ("[[plans]]\nname = \"developer\"\n", "--dev needs the scope `memory:readonly`"),
    ] {
        std::fs::write(&policy, text).unwrap();
        assert_refused(&run(&dev, &environment).await, &[told, "help: add", "policy.file"]);
    }
    assert_eq!(files(folder.path()).len(), 1, "the temporary folders are gone");
}

// === What it leaves ===

/// A session with its temporary folder in this one, and what it has printed.
struct Session {
    child: Child,
    printed: String,
}

impl Session {
    fn start(folder: &Path, before: &str, listen: &[&str]) -> Self {
        let line = format!("{before} exec \"$0\" serve --dev \"$@\"");
        // The tests themselves may have been started to outlive their terminal, and what is ignored is inherited.
        let mut child = Command::new("env")
            .args(["--default-signal=HUP", "sh", "-c", &line])
            .arg(latchkey())
            .args(listen)
            .env_clear()
            .env("TMPDIR", folder)
            .env("LATCHKEY__SERVE__NOTICE_SECONDS", "0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut printed = String::new();
        while !printed.contains("ListKeys") {
            printed += &lines.next().unwrap().unwrap();
            printed.push('\n');
        }
        Self { child, printed }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    async fn end(&mut self) -> Option<i32> {
        let ended = || self.child.try_wait().unwrap();
        eventually(Duration::from_secs(20), "its end", ended).await.code()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn closing_the_terminal_takes_the_temporary_folder_away() {
    for signal in [Signal::HUP, Signal::TERM] {
        let folder = Folder::new();
        let mut session = Session::start(folder.path(), "", &OFF);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        session.signal(signal);
        assert_eq!(session.end().await, Some(0));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn who_was_started_to_outlive_the_terminal_does() {
    let folder = Folder::new();
    let mut session = Session::start(folder.path(), "trap '' HUP;", &OFF);
    // Hanging up is still what it ignores, and no handler took its place.
    let status = format!("/proc/{}/status", session.child.id());
    let status = std::fs::read_to_string(status).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    assert_eq!(u64::from_str_radix(ignored.trim(), 16).unwrap() & 1, 1);
    session.signal(Signal::HUP);
    session.signal(Signal::TERM);
    assert_eq!(session.end().await, Some(0));
}
