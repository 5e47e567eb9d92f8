//! `latchkey incident`: what happens to a token that has leaked.

use serde_json::{Value, json};

use super::between::Between;
use super::{Desk, refused, text};
use crate::cli::{Ended, Run};

/// An operator of `acme` whose token has leaked, and who made a key, which made another.
struct Leak {
    desk: Desk,
    key_id: String,
    token: String,
    child_id: String,
    child: String,
    grandchild_id: String,
}

impl Leak {
    async fn happen() -> Self {
        let desk = Desk::open().await;
        let operator = [
            "--scope",
            "latchkey:admin",
            "--grantable",
            "memory:*",
            "--grantable",
            "latchkey:*",
            "--expires",
            "30d",
        ];
        let (key_id, token) = desk.key("operator", &operator);
        let make = |maker: &str, name: &str, more: &[&str]| {
            let create =
                ["key", "create", "--account", "acme", "--environment", "live", "-o", "json"];
            let made = desk.run_as(maker, "", &[&create[..], &["--name", name], more].concat());
            let made: Value =
                serde_json::from_str(&made.out).unwrap_or_else(|_| panic!("{made:?}"));
            (text(&made["key"]["keyId"]), text(&made["token"]))
        };
        let scopes =
            ["--scope", "latchkey:keys.write", "--grantable", "memory:*", "--expires", "20d"];
        let (child_id, child) = make(&token, "child", &scopes);
        let scopes = ["--scope", "memory:read", "--expires", "10d"];
        let (grandchild_id, _) = make(&child, "grandchild", &scopes);
        let renamed = desk.run_as(&token, "", &["account", "update", "acme", "--name", "Mine"]);
        assert_eq!(renamed.code, Some(0), "{renamed:?}");
        Self { desk, key_id, token, child_id, child, grandchild_id }
    }

    fn report(&self, more: &[&str]) -> Value {
        let arguments = [&["incident", "-o", "json"], more].concat();
        let ended = self.desk.run_as(&self.desk.root, &self.token, &arguments);
        assert_eq!((ended.code, &*ended.err), (Some(0), ""), "{ended:?}");
        assert!(!ended.out.contains(&self.token), "{ended:?}");
        serde_json::from_str(&ended.out).unwrap()
    }

    /// Runs it against a server that never answers these; also what was called, in order.
    async fn report_past(&self, silent: &'static [&'static str]) -> (Ended, Vec<String>) {
        let between = Between::start(self.desk.server.grpc(), silent).await;
        let (address, root) = (between.address.clone(), self.desk.root.clone());
        let token = self.token.clone();
        let run = tokio::task::spawn_blocking(move || {
            let environment = [("LATCHKEY_ADDRESS", &*address), ("LATCHKEY_TOKEN", &*root)];
            let run = Run { stdin: token.as_bytes(), environment: &environment };
            run.latchkey(&["incident", "--yes", "-o", "json"])
        });
        (run.await.unwrap(), between.noted())
    }

    fn state(&self, key_id: &str) -> String {
        text(&self.desk.json(&["key", "get", key_id])["key"]["state"])
    }
}

fn standing(report: &Value) -> Vec<(String, String)> {
    let changes = report["changes"].as_array().unwrap().iter();
    changes.map(|change| (text(&change["entry"]["action"]), text(&change["standing"]))).collect()
}

#[tokio::test]
async fn a_leaked_token_ends_with_all_that_it_made_and_is_reported() {
    let leak = Leak::happen().await;
    let report = leak.report(&["--yes", "--comment", "found in a gist"]);
    for key_id in [&leak.key_id, &leak.child_id, &leak.grandchild_id] {
        assert_eq!(leak.state(key_id), "KEY_STATE_REVOKED");
        assert!(report["revokedKeyIds"].as_array().unwrap().contains(&json!(key_id)), "{report}");
    }
    assert_eq!(leak.desk.authorize(&leak.child, "memory:read").1, "DECISION_REASON_KEY_REVOKED");
    assert_eq!(report["key"]["revokeReason"], json!("REVOKE_REASON_COMPROMISED"));
    assert_eq!(report["key"]["revokeComment"], json!("found in a gist"));
    assert_eq!(report["keyBefore"]["state"], json!("KEY_STATE_ACTIVE"));
    assert_eq!(report["account"]["plan"], json!("enterprise"));
    assert!(report["receipt"]["effectiveEverywhereTime"].is_string(), "{report}");
    assert_eq!(report["lastUsed"]["administratedFrom"], json!(["127.0.0.1"]));
    assert_eq!(
        (&report["notKnown"], report["next"].as_array().unwrap().len() > 2),
        (&json!([]), true)
    );
    let wanted =
        [("UpdateAccount", "STANDS"), ("CreateKey", "KEY_REVOKED"), ("CreateKey", "KEY_REVOKED")];
    assert_eq!(standing(&report), wanted.map(|(one, two)| (one.to_owned(), two.to_owned())));

    // What was taken back does not stand, and the report can be had again, without being asked.
    leak.desk.done(&["account", "update", "acme", "--name", "Acme"]);
    let again = leak.report(&["--comment", "another"]);
    assert_eq!(again["revokedKeyIds"], json!([]));
    assert_eq!(again["key"], report["key"]);
    assert_eq!(standing(&again)[0], ("UpdateAccount".to_owned(), "CHANGED_SINCE".to_owned()));
}

#[tokio::test]
async fn people_get_the_report_in_one_page() {
    let leak = Leak::happen().await;
    let desk = &leak.desk;
    let told = desk.done(&["incident", "--key-id", &leak.key_id, "--yes"]);
    for part in [
        &*format!("{} is revoked.", leak.key_id),
        "Receipt\nrevoked by this",
        "What it could do\n",
        "could hand out  memory:*, latchkey:*",
        "plan            enterprise, account active",
        "last used           not known",
        "administrated from  127.0.0.1 (last ",
        "Changes made with it\nNOW ",
        "display_name: Acme → Mine",
        "- Look at the 1 change marked as standing",
        "latchkey key create --account acme --name 'operator' --environment live --scope 'latchkey:admin'",
        "latchkey account suspend acme",
    ] {
        assert!(told.contains(part), "{part:?} is not in:\n{told}");
    }
    assert!(told.contains(&leak.grandchild_id), "{told}");
}

#[tokio::test]
async fn nothing_is_revoked_without_a_yes() {
    let leak = Leak::happen().await;
    let ended = leak.desk.run_as(&leak.desk.root, &leak.token, &["incident"]);
    assert_eq!((ended.code, &*ended.out), (Some(1), ""), "{ended:?}");
    let shown = format!(
        "{} is `operator` of account acme, and may latchkey:admin. 2 keys were made",
        leak.key_id
    );
    for part in [&*shown, "there is no terminal to ask at", "help: say --yes"] {
        assert!(ended.err.contains(part), "{ended:?}");
    }
    assert_eq!(leak.state(&leak.key_id), "KEY_STATE_ACTIVE");
    // At a terminal the answer is awaited there; the token still comes by stdin.
    for (answer, state) in [("n", "KEY_STATE_ACTIVE"), ("y", "KEY_STATE_REVOKED")] {
        let file = leak.desk.home.path().join("leaked");
        std::fs::write(&file, &leak.token).unwrap();
        let script = format!(
            "echo {answer} | script -qec 'latchkey incident < {}' /dev/null || true",
            file.display()
        );
        let said = String::from_utf8(leak.desk.bash(&script).stdout).unwrap();
        assert!(said.contains("Revoke it, and every key that it made, for good? [y/N]"), "{said}");
        assert!(!said.contains(&leak.token), "{said}");
        assert_eq!(leak.state(&leak.key_id), state, "{said}");
    }
}

#[tokio::test]
async fn without_the_right_to_read_the_key_ends_all_the_same() {
    let leak = Leak::happen().await;
    let desk = &leak.desk;
    let (_, guard) = desk.key("guard", &["--scope", "latchkey:keys.write"]);
    let ended = desk.run_as(&guard, &leak.token, &["incident", "--yes"]);
    assert_eq!((ended.code, &*ended.err), (Some(0), ""), "{ended:?}");
    for part in [
        "What could not be found out\n",
        "the key as it was before, and the keys that it made: ",
        "the account and its plan: ",
        "what was changed with it: ",
        "Let somebody with latchkey:audit.read run",
    ] {
        assert!(ended.out.contains(part), "{part:?} is not in:\n{}", ended.out);
    }
    assert!(!ended.out.contains("Changes made with it"), "{ended:?}");
    assert_eq!(leak.state(&leak.grandchild_id), "KEY_STATE_REVOKED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_silent_is_told_of_and_the_key_ends_first() {
    let (lists, look_up) = (Leak::happen().await, Leak::happen().await);
    let (lists_told, look_up_told) = tokio::join!(
        lists.report_past(&["ListKeys", "QueryAudit"]),
        look_up.report_past(&["LookupKey"])
    );
    let silent = "no answer came within";
    let report = |(ended, _): &(Ended, Vec<String>)| -> Value {
        assert_eq!((ended.code, &*ended.err), (Some(0), ""), "{ended:?}");
        serde_json::from_str(&ended.out).unwrap()
    };
    let not_known = |report: &Value| -> Vec<String> {
        report["notKnown"].as_array().unwrap().iter().map(text).collect()
    };

    let told = report(&lists_told);
    let missing = not_known(&told);
    for (missing, what) in
        missing.iter().zip(["all keys that it made: ", "what was changed with it: "])
    {
        assert!(missing.starts_with(what) && missing.contains(silent), "{missing}");
    }
    assert_eq!(missing.len(), 2, "{told}");
    assert_eq!(told["revokedKeyIds"].as_array().unwrap().len(), 3, "{told}");
    assert_eq!(text(&told["account"]["plan"]), "enterprise");
    // Once before the key ended, and once after; what may be repeated is repeated within its time.
    let calls = &lists_told.1;
    assert_eq!(calls[..3], ["LookupKey", "ListKeys", "RevokeKey"], "{calls:?}");

    let told = report(&look_up_told);
    let missing = not_known(&told);
    assert!(missing.len() == 1 && missing[0].contains(silent), "{told}");
    assert!(missing[0].starts_with("the key as it was before, and the keys that it made: "));
    assert_eq!(look_up_told.1[..2], ["LookupKey", "RevokeKey"], "{:?}", look_up_told.1);
    assert_eq!(told["changes"].as_array().unwrap().len(), 3, "{told}");

    for leak in [&lists, &look_up] {
        for key_id in [&leak.key_id, &leak.child_id, &leak.grandchild_id] {
            assert_eq!(leak.state(key_id), "KEY_STATE_REVOKED");
        }
    }
}

#[tokio::test]
async fn what_is_no_key_of_this_server_is_told() {
    let desk = Desk::open().await;
    for (token, told) in [
        ("hm_live_0000000000000000000000000000002dlYSp", "has no key with this token"),
        ("hm_live_abc123xyz456def789ghi012jkl345mno678", "the checksum does not fit"),
        ("", "no token was given"),
    ] {
        let said = refused(&desk.run_as(&desk.root, token, &["incident", "--yes"]));
        assert!(said.contains(told), "{said}");
    }
    let (key_id, token) = desk.key("reader", &["--scope", "memory:read"]);
    let denied = refused(&desk.run_as(&token, &token, &["incident", "--yes"]));
    assert!(
        denied.contains("PERMISSION_DENIED") && denied.contains("latchkey:keys.write"),
        "{denied}"
    );
    assert!(desk.done(&["key", "get", &key_id]).contains("active"));
    let unknown =
        desk.refused(&["incident", "--yes", "--key-id", "key_01m83hkwg5000001r756megp2t"]);
    assert!(unknown.contains("NOT_FOUND"), "{unknown}");
}

#[tokio::test]
async fn whoever_would_end_the_own_key_or_a_root_key_is_told() {
    let leak = Leak::happen().await;
    let Leak { desk, token, child, .. } = &leak;
    // The child is made by the leaked key, and so ends with it.
    let asked = desk.run_as(child, token, &["incident", "--key-id", &leak.key_id]);
    assert!(!asked.err.contains("The key that you call with"), "it may not read: {asked:?}");
    let asked = desk.run_as(token, "", &["incident", "--key-id", &leak.key_id]);
    assert!(asked.err.contains("The key that you call with is among them"), "{asked:?}");
    let ended = desk.run_as(token, "", &["incident", "--yes", "--key-id", &leak.key_id]);
    assert!(ended.out.contains("go on with that of another operator"), "{ended:?}");

    let roots = desk.json(&["key", "list", "--account", "latchkey"]);
    let root_id = text(&roots["keys"][0]["keyId"]);
    let asked = desk.run(&["incident", "--key-id", &root_id]);
    for part in ["`latchkey root reset`, at the store, ends it alone", "The key that you call with"]
    {
        assert!(asked.err.contains(part), "{asked:?}");
    }
    let ended = desk.run(&["incident", "--key-id", &root_id, "--yes"]);
    assert!(ended.out.contains("make a root key: latchkey root reset"), "{ended:?}");
    assert!(!ended.out.contains("latchkey key create"), "{ended:?}");
}
