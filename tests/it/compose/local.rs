//! `deploy/compose/local`, run as its first lines say.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::{Pid, Signal, kill_process};

use super::{at, command};
use crate::cli::Run;
use crate::nodes::rolling::ask;
use crate::support::{Echo, Folder, eventually};

const IN_TIME: Duration = Duration::from_mins(1);
const CLIENTS: usize = 3;
/// Requests that have to come through before and after.
const REQUESTS: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_behind_envoy_do_as_they_say_and_leave_nothing_behind() {
    let echo = Echo::start();
    let mut local = Local::start(&["--upstream", &echo.address().to_string()]).await;
    let told = local.told();
    let root = std::fs::read_to_string(local.path_after("root key")).unwrap();
    assert!(!told.contains(root.trim()), "the token is told");

    // What it says how to ask is so.
    let (lines, _) = told[told.find("export ").unwrap()..].split_once("kill -KILL").unwrap();
    let shown = bash(&format!("{lines}\necho \"key=$key\""));
    let statuses: Vec<_> = shown.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["401", "200", "403"], "{shown}");
    assert_eq!(shown.matches("NODE_STATE_FRESH").count(), 3, "{shown}");
    let key = shown.lines().find_map(|line| line.strip_prefix("key=")).unwrap();

    // The key was made by the first, and is known to all; Redis is between them, and asks everybody for a password.
    for node in 1..=3 {
        let address = local.address(&format!("node {node}"), 0);
        let environment = [("LATCHKEY_ADDRESS", &*format!("http://{address}"))];
        let authorize = || {
            let run = Run { stdin: key.as_bytes(), environment: &environment };
            run.latchkey(&["authorize", "memory:read"]).out.contains("allowed").then_some(())
        };
        eventually(IN_TIME, "the node knows the key", authorize).await;
        let metrics = format!("http://{}/metrics", local.address(&format!("node {node}"), 1));
        let is_up = || curl(&metrics).contains("\nlatchkey_redis_up 1\n").then_some(());
        eventually(IN_TIME, "the node uses Redis", is_up).await;
    }
    let socket = local.path_after("logs").join("redis.sock");
    let client = redis::Client::open(format!("redis+unix://{}", socket.display())).unwrap();
    let refused = redis::cmd("PING").exec(&mut client.get_connection().unwrap());
    assert_eq!(refused.unwrap_err().code(), Some("NOAUTH"));

    let answers = one_is_killed_under_requests(&local, &echo, key).await;
    assert!(answers.keys().eq([&200]), "{answers:?}");

    local.signal(Signal::INT);
    let ended = eventually(IN_TIME, "it ends", || local.child.try_wait().unwrap()).await;
    assert_eq!(ended.code(), Some(130));
    assert_eq!(local.processes(), [""; 0]);
    assert_eq!(std::fs::read_dir(local.folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn on_given_ports_envoy_answers_itself_and_nothing_outlives_the_script() {
    let first = 10_000 + u16::try_from(std::process::id() % 1_000).unwrap() * 8;
    let mut local = Local::start(&["--ports", &first.to_string()]).await;
    assert_eq!(local.address("Envoy", 0).port(), first);
    let told = local.told();
    let (lines, _) = told[told.find("export ").unwrap()..].split_once("kill -KILL").unwrap();
    let shown = bash(lines);
    assert!(shown.contains("\nallowed\n"), "{shown}");

    local.signal(Signal::KILL);
    local.child.wait().unwrap();
    let none = || local.processes().is_empty().then_some(());
    eventually(IN_TIME, "the programs end with the script", none).await;
}

#[test]
fn a_port_that_is_in_use_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let output = command(at("local")).args(["--ports", &port.to_string()]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.starts_with(&format!("{port} is in use")), "{said}");
}

/// How often clients were answered what, while a node went in the way that the script tells.
async fn one_is_killed_under_requests(local: &Local, echo: &Echo, key: &str) -> BTreeMap<u16, u64> {
    let is_over = Arc::new(AtomicBool::new(false));
    let to = local.address("Envoy", 0);
    let clients = (0..CLIENTS).map(|_| {
        let (token, is_over) = (key.to_owned(), Arc::clone(&is_over));
        tokio::spawn(async move { ask(to, &token, &is_over).await })
    });
    let clients: Vec<_> = clients.collect();
    come_through(echo).await;
    let told = local.told();
    bash(told.lines().find(|line| line.starts_with("kill -KILL")).unwrap());
    let admin = local.address("Envoy", 1);
    let stats = format!("http://{admin}/stats?filter=cluster.latchkey.membership_healthy");
    let is_seen = || curl(&stats).contains("membership_healthy: 2").then_some(());
    eventually(IN_TIME, "Envoy sees that one is gone", is_seen).await;
    come_through(echo).await;
    is_over.store(true, Ordering::Relaxed);
    let mut answers = BTreeMap::new();
    for (status, times) in join_all(clients).await.into_iter().flat_map(Result::unwrap) {
        *answers.entry(status).or_default() += times;
    }
    answers
}

async fn come_through(echo: &Echo) {
    let mut count = 0;
    let many = || {
        count += echo.take().len();
        (count >= REQUESTS).then_some(())
    };
    eventually(IN_TIME, "requests come through", many).await;
}

/// The script at work, with a folder for its temporary one.
struct Local {
    child: Child,
    folder: Folder,
}

impl Local {
    async fn start(arguments: &[&str]) -> Self {
        let folder = Folder::new();
        let out = folder.path().with_extension("out");
        let file = std::fs::File::create(&out).unwrap();
        // Who ignores Ctrl-C, as what runs in the background does, has its children ignore it.
        let mut script = command("env");
        script
            .arg("--default-signal=INT")
            .arg(at("local"))
            .args(arguments)
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null());
        script.stdout(file.try_clone().unwrap()).stderr(file);
        let mut local = Self { child: script.spawn().unwrap(), folder };
        eventually(IN_TIME, "everything is started", || {
            let ended = local.child.try_wait().unwrap();
            assert!(ended.is_none(), "{}", local.told());
            local.told().contains("Ctrl-C ends everything.").then_some(())
        })
        .await;
        local
    }

    /// What it has said.
    fn told(&self) -> String {
        std::fs::read_to_string(self.folder.path().with_extension("out")).unwrap()
    }

    fn line(&self, start: &str) -> String {
        self.told().lines().find(|line| line.starts_with(start)).unwrap().to_owned()
    }

    /// An address from a line.
    fn address(&self, start: &str, number: usize) -> SocketAddr {
        let line = self.line(start);
        let after = line.split("http://").nth(number + 1).unwrap();
        after.split([' ', '/']).next().unwrap().parse().unwrap()
    }

    fn path_after(&self, start: &str) -> PathBuf {
        self.line(start)[start.len()..].trim().into()
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(id, signal).unwrap();
    }

    /// What it has started and has not ended, which has the folder in its environment.
    fn processes(&self) -> Vec<String> {
        let folder = format!("TMPDIR={}", self.folder.path().display());
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let of_us = all.filter(|process| {
            let mut environment = Vec::new();
            let file = std::fs::File::open(process.path().join("environ"));
            let read = file.and_then(|mut file| file.read_to_end(&mut environment));
            read.is_ok() && environment.split(|byte| *byte == 0).any(|it| it == folder.as_bytes())
        });
        let named = of_us.map(|process| std::fs::read_to_string(process.path().join("comm")));
        named.flatten().collect()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.signal(Signal::TERM);
            let _ = self.child.wait();
        }
        let _ = std::fs::remove_file(self.folder.path().with_extension("out"));
    }
}

fn bash(lines: &str) -> String {
    output(command("bash").args(["-euo", "pipefail", "-c", lines]))
}

fn curl(url: &str) -> String {
    output(command("curl").args(["-sS", url]))
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}
