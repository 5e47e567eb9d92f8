//! `latchkey node list`, and `latchkey key revoke` that waits.

use std::io::Read as _;
use std::process::{ChildStdout, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::cluster::{self, Cluster};
use crate::cli::{Ended, Run};
use crate::support::tools_path;

fn run(cluster: &Cluster, arguments: &[&str]) -> Ended {
    let address = cluster.servers[0].grpc().to_string();
    let environment =
        [("LATCHKEY_ADDRESS", &*address), ("LATCHKEY_TOKEN", &*cluster.root), ("HOME", "/nowhere")];
    Run { stdin: b"", environment: &environment }.latchkey(arguments)
}

#[tokio::test]
async fn nodes_are_listed_for_people_and_for_programs() {
    let cluster = Cluster::start(2).await;
    let table = run(&cluster, &["node", "list"]);
    assert_eq!((table.code, &*table.err), (Some(0), ""), "{table:?}");
    let lines: Vec<_> = table.out.lines().collect();
    assert!(lines[0].starts_with("NODE ") && lines[0].ends_with("REVISION"), "{}", table.out);
    for (line, name) in lines[1..].iter().zip(cluster.names()) {
        assert!(line.starts_with(&name) && line.contains(" fresh "), "{}", table.out);
    }
    let json = run(&cluster, &["node", "list", "-o", "json"]);
    let json: Value = serde_json::from_str(&json.out).unwrap();
    let nodes = json["nodes"].as_array().unwrap();
    let names: Vec<_> = nodes.iter().map(|node| node["name"].as_str().unwrap()).collect();
    assert_eq!(names, cluster.names());
    assert!(nodes.iter().all(|node| node["state"] == "NODE_STATE_FRESH"), "{json}");
}

#[tokio::test]
async fn whoever_revokes_is_told_whether_it_holds_everywhere() {
    let cluster = Cluster::start(3).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(cluster::key(&cluster.servers[0], &cluster.root, "memory:read").await.0);
    }
    let done = run(&cluster, &["key", "revoke", &ids[0], "--yes", "--wait=60s"]);
    assert_eq!((done.code, &*done.err), (Some(0), ""), "{done:?}");
    assert!(done.out.contains("it holds everywhere"), "{}", done.out);

    cluster.apply_grace(Duration::from_mins(10)).await;
    cluster.is_caught_up().await;
    cluster.servers[1].pause().await;
    let awaited = run(&cluster, &["key", "revoke", &ids[1], "--yes", "--wait=2s"]);
    assert_eq!((awaited.code, &*awaited.err), (Some(0), ""), "{awaited:?}");
    assert!(awaited.out.contains(&format!("revoked by this  {}", ids[1])), "{}", awaited.out);
    assert!(awaited.out.contains("One node may not have applied it yet. In "), "{}", awaited.out);
    // What was reckoned first stays: of ten minutes some seconds are over.
    assert!(awaited.out.contains(" in 5"), "{}", awaited.out);
    let apart = run(&cluster, &["key", "revoke", &ids[2], "--yes", "--wait", "2s"]);
    assert!(apart.code == Some(2) && apart.err.contains("as in --wait=2s"), "{apart:?}");

    // On a terminal it is counted meanwhile; `script` is one.
    cluster.servers[2].pause().await;
    let line = format!("latchkey key revoke {} --yes --wait=50s", ids[2]);
    let mut terminal = std::process::Command::new("bash")
        .args(["-euc", &format!("script -qec '{line}' /dev/null </dev/null")])
        .env_clear()
        .env("PATH", tools_path())
        .env("HOME", "/nowhere")
        .env("LATCHKEY_ADDRESS", cluster.servers[0].grpc().to_string())
        .env("LATCHKEY_TOKEN", &cluster.root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = Told { text: String::new(), from: terminal.stdout.take().unwrap() };
    told.until("revoked; waiting for 2 nodes …");
    cluster.servers[1].resume();
    told.until("revoked; waiting for 1 node …");
    cluster.servers[2].resume();
    told.until("it holds everywhere");
    assert!(terminal.wait().unwrap().success());
}

/// What a terminal shows.
struct Told {
    text: String,
    from: ChildStdout,
}

impl Told {
    /// Reads until it shows this. The wait comes to an end, and what is shown with it.
    fn until(&mut self, text: &str) {
        let mut piece = [0; 1_024];
        while !self.text.contains(text) {
            let read = self.from.read(&mut piece).unwrap();
            assert_ne!(read, 0, "`{text}` is never told: {}", self.text);
            self.text.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
    }
}
