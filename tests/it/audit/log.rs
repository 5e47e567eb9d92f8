//! `latchkey audit log`.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Office, create, disable, id_of};
use crate::cli::{Ended, Run};
use crate::support::latchkey;

fn log(office: &Office, token: &str, arguments: &[&str]) -> Ended {
    let address = office.server.grpc().to_string();
    let environment = &[("LATCHKEY_ADDRESS", address.as_str()), ("LATCHKEY_TOKEN", token)];
    let all: Vec<_> = ["audit", "log"].iter().chain(arguments).copied().collect();
    Run { environment, ..Run::default() }.latchkey(&all)
}

fn entries(ended: &Ended) -> Vec<Value> {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let mut answer: Value = serde_json::from_str(&ended.out).unwrap();
    serde_json::from_value(answer["entries"].take()).unwrap_or_default()
}

#[tokio::test]
async fn people_see_a_line_for_each_entry_and_programs_see_json() {
    let office = Office::open().await;
    let Office { server, root, .. } = &office;
    let made = create(server, root, "acme", &["memory:read"]).await;
    let id = id_of(&made);
    disable(server, root, &id).await;
    let ended = log(&office, root, &["--key", &id]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let lines: Vec<_> = ended.out.lines().collect();
    assert_eq!(lines.len(), 3, "{}", ended.out);
    assert!(lines[0].starts_with("TIME") && lines[0].ends_with("CHANGE"));
    assert!(lines[1].contains("UpdateKey") && lines[1].ends_with("disabled: false → true"));
    assert!(lines[2].contains("CreateKey") && lines[2].contains("scopes: memory:read"));
    assert!(
        lines[1].contains(&id) && lines[1].contains("  acme  ") && lines[1].contains("127.0.0.1:")
    );

    let all = entries(&log(&office, root, &["-o", "json", "--limit", "0"]));
    assert_eq!(all.len(), 8);
    let some = |arguments: &[&str]| {
        let all: Vec<_> = arguments.iter().chain(&["-o", "json"]).copied().collect();
        entries(&log(&office, root, &all)).len()
    };
    assert_eq!(some(&["--account", "acme"]), 4);
    assert_eq!(some(&["--account", "acme", "--kind", "account"]), 1);
    assert_eq!(some(&["--actor", "system:root"]), 3);
    assert_eq!(some(&["--limit", "2"]), 2);
    assert_eq!(some(&["--since", "1h"]), 8);
    assert_eq!(some(&["--until", "2001-01-01"]), 0);
    let time = all[1]["time"].as_str().unwrap();
    assert_eq!(some(&["--since", time]), 2);
    assert_eq!(some(&["--until", time]), 6);
    let cut = log(&office, root, &["--limit", "2"]);
    assert!(cut.err.contains("--limit 0"), "{cut:?}");
    let refused = log(&office, root, &["--since", "1h", "--until", "2h"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("--until: must be later than"), "{refused:?}");
}

#[tokio::test]
async fn what_is_new_is_followed() {
    let office = Office::open().await;
    let Office { server, root, .. } = &office;
    let mut following = Command::new(latchkey())
        .args(["audit", "log", "--follow", "--limit", "1", "-o", "json"])
        .env_clear()
        .env("LATCHKEY_ADDRESS", server.grpc().to_string())
        .env("LATCHKEY_TOKEN", root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["action"], "CreateKey");
    let mut wanted = Vec::new();
    for _ in 0..3 {
        wanted.push(id_of(&create(server, root, "acme", &["memory:read"]).await));
    }
    let told: Vec<_> = (0..3).map(|_| next()["keyId"].as_str().unwrap().to_owned()).collect();
    following.kill().unwrap();
    following.wait().unwrap();
    assert_eq!(told, wanted, "each once, the latest last");
}

#[tokio::test]
async fn a_server_that_goes_away_is_followed_when_it_is_back() {
    let mut office = Office::open().await;
    let address = office.server.grpc().to_string();
    let mut following = Command::new(latchkey())
        .args(["audit", "log", "--follow", "--limit", "1", "-o", "json"])
        .env_clear()
        .env("LATCHKEY_ADDRESS", &address)
        .env("LATCHKEY_TOKEN", &office.root)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut notes = BufReader::new(following.stderr.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["action"], "CreateKey");
    office.server.stop().await;
    let note = notes.next().unwrap().unwrap();
    assert!(note.starts_with("no answer, asking again until one comes: "), "{note}");
    office.server = office.server.again().listen("grpc", &address).start().await;
    let made = id_of(&create(&office.server, &office.root, "acme", &["memory:read"]).await);
    assert_eq!(next()["keyId"], made.as_str());
    assert_eq!(notes.next().unwrap().unwrap(), "the server answers again");
    following.kill().unwrap();
    following.wait().unwrap();
    assert!(notes.next().is_none(), "it is said once");
}
