//! What is decided, in which order, and what is told of it.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Admin, Made, NETWORK, suspend};
use crate::support::eventually;

/// Checks a denial, and whether it says whose key it was.
fn assert_denied(decision: &Value, reason: &str, status: u16, key: Option<&Made>) {
    assert_eq!(decision["reason"], format!("DECISION_REASON_{reason}"), "{decision}");
    assert_eq!((&decision["allowed"], &decision["httpStatus"]), (&json!(false), &json!(status)));
    assert_eq!(decision["keyId"], key.map_or("", |key| key.id.as_str()), "{decision}");
    assert_eq!(decision["accountId"] == "", key.is_none(), "{decision}");
    assert_eq!(decision["plan"] == "", key.is_none(), "{decision}");
    assert_eq!(decision["billable"], false);
}

#[tokio::test]
async fn a_key_is_allowed_and_said_to_be_whose_it_is() {
    let admin = Admin::start().await;
    admin.account("acme", "pro");
    let key = admin.key(
        "acme",
        &json!({"scopes": ["memory:*"], "labels": {"team": "search"}, "ttl": "3600s",
            "restrictions": {"allowedCidrs": [NETWORK]}}),
    );
    let said = admin.ask(&json!({
        "token": key.token, "requiredScope": "memory:write and (memory:read or memory:admin)",
        "clientAddress": "192.0.2.7", "requiredEnvironment": "ENVIRONMENT_LIVE", "cost": 3,
    }));
    for (field, value) in [
        ("allowed", json!(true)),
        ("reason", json!("DECISION_REASON_ALLOWED")),
        ("httpStatus", json!(200)),
        ("keyId", json!(key.id)),
        ("accountId", json!("acme")),
        ("environment", json!("ENVIRONMENT_LIVE")),
        ("scopes", json!(["memory:*"])),
        ("plan", json!("pro")),
        ("billable", json!(true)),
        ("labels", json!({"team": "search"})),
        ("expireTime", admin.get(&key.id)["expireTime"].clone()),
        ("wwwAuthenticate", json!("")),
        ("stale", json!(false)),
        ("limits", json!([])),
    ] {
        assert_eq!(said[field], value, "{field}");
    }
    let min_revision = said["revision"].as_str().unwrap();
    assert!(!min_revision.is_empty());
    let only = json!({"token": key.token, "authenticateOnly": true,
        "clientAddress": "::ffff:192.0.2.7", "minRevision": min_revision});
    assert_eq!(admin.ask(&only)["allowed"], true);
}

#[tokio::test]
async fn the_first_reason_against_a_request_is_told() {
    let admin = Admin::start().await;
    admin.account("acme", "enterprise");
    let invalid = "Bearer realm=\"latchkey\", error=\"invalid_token\", \
                   error_description=\"the key is not valid\"";
    let missing = admin.decide("", "memory:read");
    assert_denied(&missing, "MISSING_CREDENTIAL", 401, None);
    assert_eq!(missing["wwwAuthenticate"], "Bearer realm=\"latchkey\"");
    for bad in ["x", "hm_live_abc123xyz456def789ghi012jkl345mno678", "Bearer hm_live_0"] {
        let said = admin.decide(bad, "memory:read");
        assert_denied(&said, "MALFORMED_CREDENTIAL", 401, None);
        let challenge = said["wwwAuthenticate"].as_str().unwrap();
        assert!(challenge.starts_with("Bearer realm=\"latchkey\", error=\"invalid_request\""));
    }
    let other_prefix = "acme2_live_9z9Z9z9Z9z9Z9z9Z9z9Z9z9Z9z9Z9z2qMi8T";
    assert_denied(&admin.decide(other_prefix, "memory:read"), "MALFORMED_CREDENTIAL", 401, None);
    let unknown = "hm_live_0000000000000000000000000000002dlYSp";
    let said = admin.decide(unknown, "memory:read");
    assert_denied(&said, "UNKNOWN_KEY", 401, None);
    assert_eq!(said["wwwAuthenticate"], invalid);

    let restricted = json!({"restrictions": {"allowedCidrs": [NETWORK]}, "ttl": "1s",
        "labels": {"a": "b"}});
    let key = admin.key("acme", &restricted);
    eventually(Duration::from_secs(10), "the key expires", || {
        (admin.reason(&key.token) == "KEY_EXPIRED").then_some(())
    })
    .await;
    // From the last check to the first, each fault hides the ones before it.
    let question = |more: &Value| {
        let mut question = json!({"token": key.token, "requiredScope": "memory:write"});
        for (name, value) in more.as_object().unwrap() {
            question[name] = value.clone();
        }
        question
    };
    admin.update(&key.id, &json!({"expire_time": "2100-01-01T00:00:00Z"}));
    let inside = json!({"clientAddress": "192.0.2.7"});
    let said = admin.ask(&question(&inside));
    assert_denied(&said, "INSUFFICIENT_SCOPE", 403, Some(&key));
    assert_eq!((&said["labels"], &said["scopes"]), (&json!({"a": "b"}), &json!(["memory:read"])));
    assert_eq!(
        said["wwwAuthenticate"],
        "Bearer realm=\"latchkey\", error=\"insufficient_scope\", scope=\"memory:write\""
    );
    let test = json!({"clientAddress": "192.0.2.7", "requiredEnvironment": "ENVIRONMENT_TEST"});
    assert_denied(&admin.ask(&question(&test)), "WRONG_ENVIRONMENT", 403, Some(&key));
    let outside = json!({"clientAddress": "192.0.3.7", "requiredEnvironment": "ENVIRONMENT_TEST"});
    assert_denied(&admin.ask(&question(&outside)), "ADDRESS_NOT_ALLOWED", 403, Some(&key));
    assert_denied(&admin.ask(&question(&json!({}))), "ADDRESS_NOT_ALLOWED", 403, Some(&key));
    suspend(&admin, "acme", true);
    assert_denied(&admin.ask(&question(&outside)), "ACCOUNT_SUSPENDED", 403, Some(&key));
    admin.update(&key.id, &json!({"disabled": true}));
    assert_denied(&admin.ask(&question(&outside)), "KEY_DISABLED", 401, Some(&key));
    admin.call("KeyService/RevokeKey", &json!({"keyId": key.id}));
    let said = admin.ask(&question(&outside));
    assert_denied(&said, "KEY_REVOKED", 401, Some(&key));
    assert_eq!(said["wwwAuthenticate"], invalid);
}

#[tokio::test]
async fn only_what_a_live_key_does_at_a_cost_is_billable() {
    let admin = Admin::start().await;
    admin.account("acme", "developer");
    let live = admin.key("acme", &json!({"scopes": ["memory:write"]}));
    let test =
        admin.key("acme", &json!({"scopes": ["memory:write"], "environment": "ENVIRONMENT_TEST"}));
    for (key, scope, cost, billable) in [
        (&live, "memory:read", None, true),
        (&live, "memory:write", None, false),
        (&live, "memory:write or memory:read", None, true),
        (&live, "memory:read", Some(0), false),
        (&live, "memory:write", Some(7), true),
        (&test, "memory:read", None, false),
        (&test, "memory:read", Some(7), false),
    ] {
        let mut question = json!({"token": key.token, "requiredScope": scope});
        if let Some(cost) = cost {
            question["cost"] = cost.into();
        }
        let said = admin.ask(&question);
        assert_eq!(
            (&said["allowed"], &said["billable"]),
            (&json!(true), &json!(billable)),
            "{question}"
        );
    }
}
