//! Wrong use: every mistake is told in terms of what was typed, with what to do next, and changes nothing.

use super::{Desk, refused, text};
use crate::cli::{Run, latchkey};

#[test]
fn a_token_is_no_argument_anywhere() {
    let token = "hm_live_0000000000000000000000000000002dlYSp";
    let mistyped = "hm_live_abc123xyz456def789ghi012jkl345mno678";
    for token in [token, mistyped] {
        let option = format!("--comment={token}");
        for arguments in [
            &["key", "get", token][..],
            &["key", "lookup", token],
            &["key", "revoke", "key_1", &option],
            &["incident", token],
            &["authorize", "memory:read", token],
            &["--token", token, "key", "list"],
            &["profile", "set", "--token-file", token],
            &[token],
        ] {
            let ended = latchkey(arguments);
            assert_eq!((ended.code, &*ended.out), (Some(2), ""), "{ended:?}");
            assert!(ended.err.contains("must not be an argument"), "{ended:?}");
            assert!(
                ended.err.contains("\nhelp: ") && !ended.err.contains(&token[8..]),
                "{ended:?}"
            );
        }
    }
}

#[tokio::test]
async fn what_cannot_be_undone_needs_a_yes() {
    let desk = Desk::open().await;
    let (key_id, _) = desk.key("reader", &[]);
    for arguments in [
        &["key", "revoke", &*key_id][..],
        &["key", "rotate", &key_id],
        &["key", "rotate", &key_id, "--overlap", "0s"],
        &["account", "suspend", "acme"],
    ] {
        let said = desk.refused(arguments);
        assert!(
            said.contains("no terminal to ask at") && said.contains("help: say --yes"),
            "{said}"
        );
    }
    let key = &desk.json(&["key", "get", &key_id])["key"];
    assert_eq!((text(&key["state"]), key.get("rotatedTo")), ("KEY_STATE_ACTIVE".to_owned(), None));
    assert_eq!(desk.json(&["account", "get", "acme"])["account"]["state"], "ACCOUNT_STATE_ACTIVE");
}

#[test]
fn a_file_without_end_is_not_read() {
    for (arguments, limit) in [
        (&["account", "list", "--token-file", "/dev/zero"][..], "4 KiB"),
        (
            &["account", "list", "--address", "https://127.0.0.1:1", "--ca-file", "/dev/zero"],
            "1 MiB",
        ),
        (&["authorize", "memory:read", "--key-token-file", "/dev/zero"], "4 KiB"),
        (&["policy", "check", "/dev/zero"], "1 MiB"),
    ] {
        let environment = [("LATCHKEY_TOKEN", "hm_live_0000000000000000000000000000002dlYSp")];
        let without = if arguments.contains(&"--token-file") { &[][..] } else { &environment };
        let said = refused(&Run { stdin: b"", environment: without }.latchkey(arguments));
        assert!(said.contains(&format!("/dev/zero: it is larger than {limit}")), "{said}");
    }
}

#[tokio::test]
async fn a_mistake_is_told_by_its_flag() {
    let desk = Desk::open().await;
    let (key_id, _) = desk.key("reader", &[]);
    let huge = "x".repeat(50_000);
    let create = ["key", "create", "--account", "acme", "--environment", "live", "--name"];
    let scopes: Vec<_> = (0..65).flat_map(|_| ["--scope", "memory:read"]).collect();
    for (arguments, told) in [
        (
            [&create[..], &["x", "--scope", "memory:reed"]].concat(),
            &["--scope: ", "memory:read"][..],
        ),
        ([&create[..], &["x", "--cidr", "192.0.2.1/24"]].concat(), &["--cidr: "]),
        ([&create[..], &[&huge]].concat(), &["--name: ", "63"]),
        ([&create[..], &["x", "--expires", "2001-01-01"]].concat(), &["--expires: "]),
        ([&create[..], &["x", "--expires", "0s"]].concat(), &["--expires: "]),
        ([&create[..], &["x", "--request-id", "7"]].concat(), &["--request-id: ", "UUID"]),
        ([&create[..], &["x"], &scopes].concat(), &["--scope: ", "64"]),
        (vec!["key", "get", "key_none"], &["NOT_FOUND", "latchkey key list"]),
        (vec!["key", "get", &huge], &["NOT_FOUND", "latchkey key list"]),
        (vec!["key", "update", &key_id], &["nothing was named", "--name"]),
        (
            vec!["key", "update", &key_id, "--label", "a=b", "--clear", "labels"],
            &["--label is both given and to be cleared"],
        ),
        (
            vec!["key", "update", &key_id, "--name", "y", "--expected-revision", "z"],
            &["--expected-revision: "],
        ),
        (vec!["key", "revoke", &key_id, "--yes", "--comment", &huge], &["--comment: ", "500"]),
        (vec!["key", "rotate", &key_id, "--overlap", "8d"], &["--overlap: "]),
        (vec!["key", "list", "--created-by", "me"], &["--created-by: "]),
        (vec!["account", "create", "acme"], &["ACCOUNT_EXISTS", "choose another id"]),
        (vec!["account", "create", "a b"], &["the account's id: "]),
        (vec!["account", "update", "acme", "--plan", "fre"], &["--plan: "]),
        (vec!["account", "suspend", "latchkey", "--yes"], &["error: "]),
    ] {
        let said = desk.refused(&arguments);
        for part in told {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
        assert!(said.len() < 1_000, "{said}");
    }
    let keys = desk.json(&["key", "list", "--account", "acme", "--state", "active"]);
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_not_understood_is_told_by_the_command_line() {
    let desk = Desk::open().await;
    for arguments in [
        &["key", "create", "--account", "acme", "--name", "x", "--environment", "prod"][..],
        &["key", "create", "--account", "acme", "--name", "x"],
        &[
            "key",
            "create",
            "--account",
            "acme",
            "--name",
            "x",
            "--environment",
            "live",
            "--expires",
            "soon",
        ],
        &["key", "update", "key_1", "--label", "a"],
        &["key", "list", "--limit", "0"],
        &["key", "list", "--limit", "99999999999"],
        &["key", "list", "--output", "yaml"],
        &["key", "rotate", "key_1", "--overlap", "1.5h"],
        &["authorize"],
        &["key"],
    ] {
        let ended = desk.run(arguments);
        assert_eq!((ended.code, &*ended.out), (Some(2), ""), "{arguments:?}: {ended:?}");
    }
}

#[tokio::test]
async fn someone_who_was_faster_is_told() {
    let desk = Desk::open().await;
    let (key_id, _) = desk.key("reader", &[]);
    let revision = text(&desk.json(&["key", "get", &key_id])["key"]["revision"]);
    let update = ["key", "update", &key_id, "--expected-revision", &revision, "--name"];
    desk.done(&[&update[..], &["mine"]].concat());
    let said = desk.refused(&[&update[..], &["yours"]].concat());
    assert!(said.contains("REVISION_MISMATCH") && said.contains("changed it in between"), "{said}");
}

#[tokio::test]
async fn an_operator_who_may_not_is_told_what_is_needed() {
    let desk = Desk::open().await;
    let (_, reader) = desk.key("reader", &["--scope", "latchkey:keys.read"]);
    let said = refused(&desk.run_as(&reader, "", &["key", "revoke", "key_1", "--yes"]));
    assert!(said.contains("latchkey:keys.write") && said.contains("--profile"), "{said}");
    let (_, maker) = desk.key("maker", &["--scope", "latchkey:keys.write"]);
    let create = ["key", "create", "--account", "acme", "--name", "x", "--environment", "live"];
    let said =
        refused(&desk.run_as(&maker, "", &[&create[..], &["--scope", "memory:read"]].concat()));
    assert!(said.contains("GRANT_EXCEEDED") && said.contains("grantable"), "{said}");
    desk.done(&["account", "suspend", "acme", "--yes"]);
    let said = refused(&desk.run_as(&reader, "", &["key", "list"]));
    assert!(said.contains("CALLER_SUSPENDED") && said.contains("use the key of another"), "{said}");
}
