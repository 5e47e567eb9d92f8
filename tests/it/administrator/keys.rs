//! What can be done to keys and accounts, by its commands.

use serde_json::json;

use super::{Desk, text};

#[tokio::test]
async fn a_key_lives_by_commands() {
    let desk = Desk::open().await;
    let (key_id, token) = desk.key(
        "importer",
        &["--scope", "memory:read", "--expires", "90d", "--cidr", "192.0.2.0/24", "--label", "a=b"],
    );
    let key = &desk.json(&["key", "get", &key_id])["key"];
    assert_eq!(key["restrictions"]["allowedCidrs"], json!(["192.0.2.0/24"]));
    assert_eq!((&key["labels"]["a"], &key["scopes"]), (&json!("b"), &json!(["memory:read"])));

    let denied = (Some(1), "DECISION_REASON_ADDRESS_NOT_ALLOWED".to_owned());
    assert_eq!(desk.authorize(&token, "memory:read"), denied);
    let update = ["key", "update", &key_id, "--clear", "cidrs", "--clear", "expiry"];
    let key = &desk
        .json(&[&update[..], &["--scope", "memory:write", "--name", "exporter"]].concat())["key"];
    assert_eq!(key["displayName"], json!("exporter"));
    assert!(key.get("restrictions").is_none() && key.get("expireTime").is_none(), "{key}");
    let allowed = (Some(0), "DECISION_REASON_ALLOWED".to_owned());
    assert_eq!(desk.authorize(&token, "memory:write"), allowed);

    desk.done(&["key", "update", &key_id, "--disable"]);
    assert_eq!(desk.authorize(&token, "memory:write").1, "DECISION_REASON_KEY_DISABLED");
    let told = desk.done(&["key", "update", &key_id, "--enable", "--expires", "2999-01-01"]);
    assert!(told.contains("2999-01-01T00:00:00Z") && told.contains("applied by"), "{told}");

    let rotated = desk.json(&["key", "rotate", &key_id, "--overlap", "1h"]);
    let (new_id, new) = (text(&rotated["key"]["keyId"]), text(&rotated["token"]));
    for token in [&token, &new] {
        assert_eq!(desk.authorize(token, "memory:write"), allowed);
    }
    let told =
        desk.done(&["key", "revoke", &new_id, "--reason", "unused", "--comment", "moved", "--yes"]);
    assert!(
        told.contains("revoked") && told.contains("unused") && told.contains("moved"),
        "{told}"
    );
    assert!(told.contains("everywhere"), "{told}");
    assert_eq!(
        desk.authorize(&new, "memory:write"),
        (Some(1), "DECISION_REASON_KEY_REVOKED".to_owned())
    );
    let again = desk.done(&["key", "revoke", &new_id, "--yes"]);
    assert!(again.contains("none; it was before") && again.contains("moved"), "{again}");
}

#[tokio::test]
async fn a_decision_says_who_and_why() {
    let desk = Desk::open().await;
    let (key_id, token) = desk.key("reader", &["--scope", "memory:read"]);
    let ask = |more: &[&str]| desk.run_as(&desk.root, &token, &[&["authorize"], more].concat());
    let allowed = ask(&["memory:read or memory:write"]);
    assert_eq!(allowed.code, Some(0), "{allowed:?}");
    for part in ["allowed", &key_id, "acme", "memory:read"] {
        assert!(allowed.out.contains(part), "{part}: {allowed:?}");
    }
    let denied = ask(&["memory:write"]);
    assert_eq!(denied.code, Some(1));
    assert!(
        denied.out.contains("denied") && denied.out.contains("insufficient scope"),
        "{denied:?}"
    );
    assert_eq!(ask(&["--authenticate-only"]).code, Some(0));
    assert_eq!(ask(&["memory:read", "--environment", "test"]).code, Some(1));
    assert_eq!(ask(&["memory:read", "--authenticate-only"]).code, Some(2));
    let unknown = ask(&["memory:reed"]);
    assert_eq!((unknown.code, &*unknown.out), (Some(1), ""));
    assert!(
        unknown.err.contains("the scope: ") && unknown.err.contains("memory:read"),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn keys_are_found_by_what_is_known_of_them() {
    let desk = Desk::open().await;
    let (key_id, token) = desk.key("one", &["--scope", "memory:read"]);
    let hint = text(&desk.json(&["key", "get", &key_id])["key"]["tokenHint"]);
    let (other, _) = desk.key("two", &[]);
    let by_token = desk.run_as(&desk.root, &format!("{token}\n"), &["key", "lookup"]);
    let by_hint = desk.run(&["key", "lookup", "--hint", &hint]);
    for found in [by_token, by_hint] {
        assert!(found.code == Some(0) && found.out.contains(&key_id), "{found:?}");
        assert!(!found.out.contains(&other) && !found.out.contains(&token), "{found:?}");
    }
    let none = "hm_live_0000000000000000000000000000002dlYSp";
    let none = desk.run_as(&desk.root, none, &["key", "lookup"]);
    assert_eq!((none.code, &*none.out, &*none.err), (Some(1), "", "There is no such key.\n"));

    desk.done(&["key", "revoke", &other, "--yes"]);
    let listed = |more: &[&str]| {
        let list = desk.json(&[&["key", "list", "--account", "acme"], more].concat());
        let ids = list["keys"].as_array().cloned().unwrap_or_default();
        ids.iter().map(|key| text(&key["keyId"])).collect::<Vec<_>>()
    };
    assert_eq!(listed(&[]), [key_id.clone(), other.clone()]);
    assert_eq!(listed(&["--state", "active", "--state", "expired"]), std::slice::from_ref(&key_id));
    assert_eq!(listed(&["--environment", "test"]), [""; 0]);
    assert_eq!(listed(&["--limit", "1"]), [key_id]);
    let root = text(&desk.json(&["key", "list", "--account", "latchkey"])["keys"][0]["keyId"]);
    assert_eq!(listed(&["--created-by", &format!("key:{root}")]).len(), 2);
}

#[tokio::test]
async fn an_account_lives_by_commands() {
    let desk = Desk::open().await;
    let (_, token) = desk.key("reader", &["--scope", "memory:read"]);
    let told = desk.done(&["account", "update", "acme", "--plan", "pro", "--label", "crm=4711"]);
    assert!(
        told.contains("pro") && told.contains("crm=4711") && told.contains("applied by"),
        "{told}"
    );
    desk.done(&["account", "update", "acme", "--clear", "labels"]);
    let account = &desk.json(&["account", "get", "acme"])["account"];
    assert!(account.get("labels").is_none() && account["countedKeys"] == 1, "{account}");

    desk.done(&["account", "suspend", "acme", "--reason", "unpaid", "--yes"]);
    assert_eq!(desk.authorize(&token, "memory:read").1, "DECISION_REASON_ACCOUNT_SUSPENDED");
    let listed = desk.done(&["account", "list"]);
    assert!(
        listed.lines().any(|line| line.starts_with("acme") && line.contains("suspended")),
        "{listed}"
    );
    desk.done(&["account", "resume", "acme"]);
    assert_eq!(desk.authorize(&token, "memory:read").0, Some(0));
    let account = &desk.json(&["account", "get", "acme"])["account"];
    assert!(account.get("suspendReason").is_none(), "{account}");

    let made = desk.done(&["account", "create"]);
    assert!(made.contains("free"), "{made}");
}

#[tokio::test]
async fn a_list_goes_on_to_its_end() {
    let desk = Desk::open().await;
    let accounts = desk.server.accounts(&desk.root).await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..1_010 {
        let mut accounts = accounts.clone();
        calls.spawn(async move {
            let account_id = format!("a{number}");
            let request =
                latchkey::proto::v1::CreateAccountRequest { account_id, ..Default::default() };
            accounts.create_account(request).await.unwrap();
        });
    }
    calls.join_all().await;
    let list = desk.json(&["account", "list"]);
    assert_eq!(list["accounts"].as_array().unwrap().len(), 1_012);
    assert!(list.get("nextPageToken").is_none());
    let list = desk.json(&["account", "list", "--limit", "1001"]);
    assert_eq!(list["accounts"].as_array().unwrap().len(), 1_001);
    assert!(list.get("nextPageToken").is_some());
}
