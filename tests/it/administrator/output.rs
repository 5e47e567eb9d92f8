//! What is printed: tables, JSON, colours, and tokens in the form in which they are used.

use std::fs::OpenOptions;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{Desk, program};
use crate::support::tools_path;

#[tokio::test]
async fn json_is_what_grpcurl_prints() {
    let desk = Desk::open().await;
    let (key_id, _) = desk.key(
        "importer",
        &["--scope", "memory:read", "--expires", "90d", "--label", "b=2", "--label", "a=1"],
    );
    let key = json!({"key_id": key_id}).to_string();
    for (arguments, method, request) in [
        (&["key", "get", &*key_id][..], "KeyService/GetKey", &*key),
        (&["key", "list"], "KeyService/ListKeys", r#"{"page_size": 1000}"#),
        (&["account", "get", "acme"], "AccountService/GetAccount", r#"{"account_id": "acme"}"#),
        (&["account", "list"], "AccountService/ListAccounts", "{}"),
        (&["policy", "get"], "PolicyService/GetPolicy", "{}"),
        (
            &["audit", "log", "--account", "acme"],
            "AuditService/QueryAudit",
            r#"{"account_id": "acme"}"#,
        ),
    ] {
        let method = format!("latchkey.v1.{method}");
        let theirs = desk.server.grpcurl(&desk.root, &method, request);
        let theirs = String::from_utf8(theirs.stdout).unwrap();
        let ours = desk.done(&[arguments, &["-o", "json"]].concat());
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(read(&ours), read(&theirs), "{arguments:?}");
        // To the letter, but where a Struct is in it, whose fields have no order.
        if !ours.contains("\"entries\"") {
            assert_eq!(ours, theirs, "{arguments:?}");
        }
    }
}

#[tokio::test]
async fn tables_are_whole_and_plain_in_a_pipe() {
    let desk = Desk::open().await;
    let name = "n".repeat(63);
    let scopes = ["memory:read", "memory:write", "memory:admin", "memory:readonly"];
    let scopes: Vec<_> = scopes.iter().flat_map(|scope| ["--scope", scope]).collect();
    let (key_id, _) = desk.key(&name, &scopes);
    let table = desk.done(&["key", "list", "--account", "acme"]);
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert!(lines[0].starts_with("KEY ") && lines[0].ends_with("SCOPES"), "{table}");
    for part in [&*key_id, &name, "active", "memory:read,memory:write,memory:admin,memory:readonly"]
    {
        assert!(lines[1].contains(part), "{part}: {table}");
    }
    assert_eq!(lines[0].find("STATE"), lines[1].find("active"));
    assert!(!table.contains('\u{1b}'));
    let none = desk.run(&["key", "list", "--account", "acme", "--state", "expired"]);
    assert_eq!((none.code, &*none.out, &*none.err), (Some(0), "", "There is no such key.\n"));
}

#[tokio::test]
async fn colours_come_when_they_are_wished_for() {
    let desk = Desk::open().await;
    let (key_id, _) = desk.key("reader", &[]);
    let coloured = desk.done(&["--color", "always", "key", "get", &key_id]);
    assert!(coloured.contains("\u{1b}[32mactive\u{1b}[0m"), "{coloured:?}");
    let wrong = desk.run(&["key", "get", "key_none", "--color", "always"]);
    assert!(wrong.err.starts_with("\u{1b}[31merror:\u{1b}[0m "), "{wrong:?}");
    // On a terminal, unless the environment says no; `script` is one.
    let on_a_terminal = |environment: &str| {
        let line = format!("{environment} latchkey key get {key_id}");
        let output = desk.bash(&format!("script -qec '{line}' /dev/null </dev/null"));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(on_a_terminal("TERM=xterm").contains("\u{1b}[32mactive"));
    assert!(!on_a_terminal("NO_COLOR=1").contains('\u{1b}'));
    assert!(!on_a_terminal("TERM=dumb").contains('\u{1b}'));
}

#[tokio::test]
async fn a_new_token_comes_in_the_form_in_which_it_is_used() {
    let desk = Desk::open().await;
    let create = |more: &str| {
        format!(
            "latchkey key create --account acme --name 'Nightly (EU): \"x\"' --environment test {more}"
        )
    };
    let printed = |script: &str| {
        let output = desk.bash(script);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && told.is_empty(), "{script}: {told}");
        String::from_utf8(output.stdout).unwrap()
    };
    let is_token = |text: &str| latchkey::token::parse(text.trim_end().as_bytes()).is_ok();
    let env = printed(&format!("eval \"$({})\"; printenv LATCHKEY_KEY", create("-o env")));
    assert!(is_token(&env), "{env}");
    let env = format!("eval \"$({})\"; printenv MY_KEY", create("-o env --variable MY_KEY"));
    assert!(is_token(&printed(&env)));
    let dotenv = printed(&create("-o dotenv"));
    assert!(is_token(dotenv.strip_prefix("LATCHKEY_KEY=").unwrap()), "{dotenv}");

    let secret =
        format!("{} | yq -r @json", create("-o k8s-secret --namespace prod --variable key"));
    let secret: Value = serde_json::from_str(&printed(&secret)).unwrap();
    assert_eq!((&secret["kind"], &secret["apiVersion"]), (&json!("Secret"), &json!("v1")));
    let metadata = &secret["metadata"];
    assert_eq!(
        (&metadata["name"], &metadata["namespace"]),
        (&json!("nightly-eu-x"), &json!("prod"))
    );
    assert_eq!(metadata["annotations"]["latchkey/display-name"], json!("Nightly (EU): \"x\""));
    assert!(is_token(secret["stringData"]["key"].as_str().unwrap()), "{secret}");

    let mcp = printed(&create("-o claude-mcp --url https://mcp.example/mcp --resource memory"));
    let mcp: Value = serde_json::from_str(&mcp).unwrap();
    let server = &mcp["mcpServers"]["memory"];
    assert_eq!(
        (&server["type"], &server["url"]),
        (&json!("http"), &json!("https://mcp.example/mcp"))
    );
    let header = server["headers"]["Authorization"].as_str().unwrap();
    assert!(is_token(header.strip_prefix("Bearer ").unwrap()), "{mcp}");

    let (key_id, _) = desk.key("rotated", &[]);
    let rotated = printed(&format!("latchkey key rotate {key_id} --yes -o dotenv"));
    assert!(is_token(rotated.strip_prefix("LATCHKEY_KEY=").unwrap()), "{rotated}");
}

#[tokio::test]
async fn a_form_that_cannot_be_printed_makes_no_key() {
    let desk = Desk::open().await;
    let create = ["key", "create", "--account", "acme", "--name", "x", "--environment", "live"];
    for (more, told) in [
        (&["-o", "claude-mcp"][..], "needs --url"),
        (&["-o", "claude-mcp", "--url", "mcp.example"], "--url: "),
        (&["-o", "env", "--variable", "A B"], "--variable: "),
        (&["-o", "k8s-secret", "--resource", "A_B"], "--resource: "),
    ] {
        let said = desk.refused(&[&create[..], more].concat());
        assert!(said.contains(told), "{said}");
    }
    assert!(desk.json(&["key", "list", "--account", "acme"]).get("keys").is_none());
}

#[tokio::test]
async fn a_token_that_could_not_be_written_is_told_by_its_key() {
    let desk = Desk::open().await;
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = program()
        .args(["key", "create", "--account", "acme", "--name", "x", "--environment", "live"])
        .env("LATCHKEY_ADDRESS", desk.server.grpc().to_string())
        .env("LATCHKEY_TOKEN", &desk.root)
        .stdout(full)
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let key = &desk.json(&["key", "list", "--account", "acme"])["keys"][0];
    let remedy = format!("latchkey key revoke {}", super::text(&key["keyId"]));
    assert!(told.contains("could not be written") && told.contains(&remedy), "{told}");
}

#[tokio::test]
async fn whoever_has_read_enough_may_go() {
    let desk = Desk::open().await;
    for number in 0..20 {
        desk.done(&["account", "create", &format!("a{number}")]);
    }
    for command in ["account list", "account list -o json", "completions zsh", "policy get"] {
        let output = desk.bash(&format!("set +o pipefail; latchkey {command} | head -n 1"));
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.is_empty() && !output.stdout.is_empty(), "{command}: {told}");
    }
}

#[test]
fn shells_can_read_their_completions() {
    let script = "source <(latchkey completions bash)
        complete -p latchkey
        COMP_WORDS=(latchkey key re) COMP_CWORD=2
        _latchkey latchkey re key
        echo \"${COMPREPLY[*]}\"";
    let output = Command::new("bash")
        .args(["-euc", script])
        .env_clear()
        .env("PATH", tools_path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && told.contains("revoke"), "{told}");
    for shell in ["zsh", "fish", "powershell", "elvish"] {
        let script = crate::cli::latchkey(&["completions", shell]);
        assert!(script.code == Some(0) && script.out.contains("incident"), "{shell}");
    }
}
