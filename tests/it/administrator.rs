//! The administrator's command line: the real program against a real server.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::cli::{Ended, Run};
use crate::support::{Folder, Server, latchkey, tools_path};

mod between;
mod incident;
mod keys;
mod mistakes;
mod output;
mod profiles;
mod repeats;

/// A server, and an administrator with a home of their own.
struct Desk {
    server: Server,
    root: String,
    home: Folder,
}

impl Desk {
    /// With an account `acme` on a plan without limits.
    async fn open() -> Self {
        let server = Server::start().await;
        let root = server.root_token();
        let desk = Self { server, root, home: Folder::new() };
        desk.done(&["account", "create", "acme", "--name", "Acme", "--plan", "enterprise"]);
        desk
    }

    /// Runs `latchkey` as root.
    fn run(&self, arguments: &[&str]) -> Ended {
        self.run_as(&self.root, "", arguments)
    }

    /// Runs `latchkey` as this operator, with this on stdin.
    fn run_as(&self, token: &str, stdin: &str, arguments: &[&str]) -> Ended {
        let address = self.server.grpc().to_string();
        let home = self.home.path().to_str().unwrap();
        let environment =
            [("LATCHKEY_ADDRESS", &*address), ("LATCHKEY_TOKEN", token), ("HOME", home)];
        let ended = Run { stdin: stdin.as_bytes(), environment: &environment }.latchkey(arguments);
        assert!(!ended.err.contains("panicked"), "{ended:?}");
        assert!(!ended.out.contains(token) && !ended.err.contains(token), "{ended:?}");
        ended
    }

    /// What a command that has to succeed prints.
    fn done(&self, arguments: &[&str]) -> String {
        let ended = self.run(arguments);
        assert_eq!((ended.code, &*ended.err), (Some(0), ""), "{arguments:?}: {ended:?}");
        ended.out
    }

    /// The same as JSON.
    fn json(&self, arguments: &[&str]) -> Value {
        let out = self.done(&[arguments, &["--output", "json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
    }

    /// What a command that has to fail says; it exits with 1 and says what to do.
    fn refused(&self, arguments: &[&str]) -> String {
        refused(&self.run(arguments))
    }

    /// A new key of `acme`: its id and its token.
    fn key(&self, name: &str, more: &[&str]) -> (String, String) {
        let made = ["key", "create", "--account", "acme", "--environment", "live", "--name", name];
        let made = self.json(&[&made, more].concat());
        (text(&made["key"]["keyId"]), text(&made["token"]))
    }

    /// What `authorize` says of a token: its exit code, and the reason.
    fn authorize(&self, token: &str, scope: &str) -> (Option<i32>, String) {
        let ended = self.run_as(&self.root, token, &["authorize", scope, "-o", "json"]);
        let answer: Value = serde_json::from_str(&ended.out).unwrap();
        (ended.code, text(&answer["reason"]))
    }

    /// Runs a line of bash that has the program on its path, as root.
    fn bash(&self, script: &str) -> Output {
        Command::new("bash")
            .args(["-euo", "pipefail", "-c", script])
            .env_clear()
            .env("PATH", tools_path())
            .env("HOME", self.home.path())
            .env("LATCHKEY_ADDRESS", self.server.grpc().to_string())
            .env("LATCHKEY_TOKEN", &self.root)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

fn refused(ended: &Ended) -> String {
    assert_eq!((ended.code, &*ended.out), (Some(1), ""), "{ended:?}");
    assert!(ended.err.starts_with("error: ") && ended.err.contains("\nhelp: "), "{ended:?}");
    ended.err.clone()
}

/// Whether the program can be run at all by its own path.
fn program() -> Command {
    let mut command = Command::new(latchkey());
    command.env_clear();
    command
}
