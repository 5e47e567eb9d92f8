//! How keys end: replaced by another, or revoked.

use serde_json::{Value, json};

use super::{Admin, Made, ids, made};

impl Admin {
    fn rotate(&self, id: &str, overlap: &str) -> (Made, Value) {
        let request = json!({"keyId": id, "overlap": overlap});
        let answer = self.call("KeyService/RotateKey", &request);
        (made(&answer), answer)
    }

    fn revoke(&self, more: &Value) -> Value {
        self.call("KeyService/RevokeKey", more)
    }

    fn assert_plan_is_full(&self, account: &str) {
        let request =
            json!({"accountId": account, "displayName": "k", "environment": "ENVIRONMENT_LIVE"});
        let told = self.refused(
            "KeyService/CreateKey",
            &request,
            "ResourceExhausted",
            "PLAN_LIMIT_REACHED",
        );
        assert!(told.contains("google.rpc.QuotaFailure"), "{told}");
    }
}

#[tokio::test]
async fn a_key_rotated_without_overlap_ends_at_once() {
    let admin = Admin::start().await;
    admin.account("acme", "free");
    let old = admin.key(
        "acme",
        &json!({"scopes": ["memory:*"], "labels": {"a": "b"},
        "ttl": "3600s", "restrictions": {"allowedCidrs": ["0.0.0.0/0"]}}),
    );
    let before = admin.get(&old.id);
    let (new, answer) = admin.rotate(&old.id, "0s");
    assert_eq!(admin.reason(&old.token), "KEY_REVOKED");
    let (key, previous) = (&answer["key"], &answer["previousKey"]);
    assert_eq!(
        (&previous["state"], &previous["revokeReason"]),
        (&json!("KEY_STATE_REVOKED"), &json!("REVOKE_REASON_SUPERSEDED"))
    );
    assert_eq!((&key["rotatedFrom"], &previous["rotatedTo"]), (&json!(old.id), &json!(new.id)));
    for field in [
        "accountId",
        "displayName",
        "environment",
        "scopes",
        "labels",
        "expireTime",
        "restrictions",
    ] {
        assert_eq!(key[field], before[field], "{field}");
    }
    let question = json!({"token": new.token, "requiredScope": "memory:read",
        "clientAddress": "192.0.2.7"});
    assert_eq!(admin.ask(&question)["allowed"], true);
    assert_eq!(admin.counted("acme"), 1);
    let again = json!({"keyId": old.id});
    admin.refused("KeyService/RotateKey", &again, "FailedPrecondition", "KEY_REVOKED");
}

#[tokio::test]
async fn during_the_overlap_both_keys_work_and_one_counts() {
    let admin = Admin::start().await;
    admin.account("acme", "free");
    let first = admin.key("acme", &json!({}));
    let (second, answer) = admin.rotate(&first.id, "604800s");
    for key in [&first, &second] {
        assert_eq!(admin.reason(&key.token), "ALLOWED");
    }
    assert_eq!(admin.counted("acme"), 1);
    admin.assert_plan_is_full("acme");
    assert_eq!(answer["previousKey"]["state"], "KEY_STATE_ACTIVE");
    assert!(answer["previousKey"]["expireTime"].is_string());

    // The old one has its successor, and its end stands.
    let again = json!({"keyId": first.id, "overlap": "60s"});
    let told = admin.refused("KeyService/RotateKey", &again, "FailedPrecondition", "KEY_ROTATED");
    assert!(told.contains(&second.id), "{told}");
    let longer = json!({"key": {"keyId": first.id, "expireTime": "2100-01-01T00:00:00Z"},
        "updateMask": {"paths": ["expire_time"]}});
    admin.refused("KeyService/UpdateKey", &longer, "FailedPrecondition", "KEY_ROTATED");

    // There is one predecessor at most.
    let (third, _) = admin.rotate(&second.id, "60s");
    assert_eq!(admin.reason(&first.token), "KEY_REVOKED");
    for key in [&second, &third] {
        assert_eq!(admin.reason(&key.token), "ALLOWED");
    }
    assert_eq!(admin.counted("acme"), 1);
    admin.assert_plan_is_full("acme");

    let too_long = json!({"keyId": third.id, "overlap": "604801s"});
    let told = admin.refused("KeyService/RotateKey", &too_long, "InvalidArgument", "INVALID_FIELD");
    assert!(told.contains("\"overlap\"") && told.contains("0 to 7 days"), "{told}");
}

#[tokio::test]
async fn revoking_twice_keeps_the_first_date_reason_and_words() {
    let admin = Admin::start().await;
    admin.account("acme", "free");
    let key = admin.key("acme", &json!({}));
    let first = admin.revoke(&json!({"keyId": key.id, "reason": "REVOKE_REASON_COMPROMISED",
        "comment": "found on a wiki"}));
    assert_eq!(admin.reason(&key.token), "KEY_REVOKED");
    assert_eq!(ids_of(&first), [key.id.as_str()]);
    assert!(!first["receipt"]["appliedNodes"].as_array().unwrap().is_empty());
    let second = admin.revoke(&json!({"token": key.token, "reason": "REVOKE_REASON_UNUSED"}));
    assert!(ids_of(&second).is_empty());
    assert_eq!(second["key"], first["key"]);
    assert_eq!(second["key"]["revokeReason"], "REVOKE_REASON_COMPROMISED");
    assert_eq!(second["key"]["revokeComment"], "found on a wiki");

    for field in ["disabled", "display_name", "expire_time"] {
        let request =
            json!({"key": {"keyId": key.id, "displayName": "n"}, "updateMask": {"paths": [field]}});
        admin.refused("KeyService/UpdateKey", &request, "FailedPrecondition", "KEY_REVOKED");
    }
    assert_eq!(admin.counted("acme"), 0);
    admin.key("acme", &json!({}));
}

fn ids_of(revoked: &Value) -> Vec<&str> {
    revoked["revokedKeyIds"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect()
}

#[tokio::test]
async fn whoever_found_a_token_can_revoke_it_by_itself() {
    let admin = Admin::start().await;
    admin.account("acme", "free");
    let key = admin.key("acme", &json!({}));
    let revoked = admin.revoke(&json!({"token": key.token}));
    assert_eq!(revoked["key"]["keyId"], key.id);
    assert_eq!(admin.reason(&key.token), "KEY_REVOKED");
    let nobody = json!({"token": "hm_live_0000000000000000000000000000002dlYSp"});
    admin.refused("KeyService/RevokeKey", &nobody, "NotFound", "NOT_FOUND");
}

#[tokio::test]
async fn what_a_key_made_and_they_made_can_go_with_it() {
    let admin = Admin::start().await;
    admin.account("acme", "pro");
    let maker = admin.key(
        "acme",
        &json!({"scopes": ["latchkey:keys.write", "latchkey:keys.read"],
        "grantableScopes": ["memory:*", "latchkey:keys.write"]}),
    );
    let make = |maker: &Made, scopes: &Value, grantable: &Value| {
        let request = json!({"accountId": "acme", "displayName": "k", "scopes": scopes,
            "grantableScopes": grantable, "environment": "ENVIRONMENT_LIVE"});
        made(&admin.call_as(&maker.token, "KeyService/CreateKey", &request))
    };
    let child = make(&maker, &json!(["latchkey:keys.write"]), &json!(["memory:read"]));
    let grandchild = make(&child, &json!(["memory:read"]), &json!([]));
    let bystander = admin.key("acme", &json!({}));
    let by = format!("key:{}", child.id);
    let listed = admin.call("KeyService/ListKeys", &json!({"createdBy": by}));
    assert_eq!(ids(&listed["keys"]), [grandchild.id.as_str()]);

    let revoked = admin.revoke(&json!({"keyId": maker.id, "revokeCreated": true}));
    let mut gone = ids_of(&revoked);
    gone.sort_unstable();
    assert_eq!(gone, [maker.id.as_str(), child.id.as_str(), grandchild.id.as_str()]);
    assert_eq!(admin.reason(&grandchild.token), "KEY_REVOKED");
    assert_eq!(admin.reason(&bystander.token), "ALLOWED");
    let told = admin.refused_as(
        &child.token,
        "KeyService/GetKey",
        &json!({"keyId": child.id}),
        "Unauthenticated",
        "INVALID_CREDENTIAL",
    );
    assert!(told.contains("the operator's token is not valid"), "{told}");
}

#[tokio::test]
async fn a_call_says_which_keys_it_revoked_itself() {
    let admin = Admin::start().await;
    admin.account("acme", "pro");
    let maker = admin.key(
        "acme",
        &json!({"scopes": ["latchkey:keys.write"],
        "grantableScopes": ["memory:read"]}),
    );
    let request = json!({"accountId": "acme", "displayName": "k", "scopes": ["memory:read"],
        "environment": "ENVIRONMENT_LIVE"});
    let child = made(&admin.call_as(&maker.token, "KeyService/CreateKey", &request));
    let first = admin.revoke(&json!({"keyId": maker.id}));
    assert_eq!(ids_of(&first), [maker.id.as_str()]);
    let second = admin.revoke(&json!({"keyId": maker.id, "revokeCreated": true}));
    assert_eq!(ids_of(&second), [child.id.as_str()]);
    let third = admin.revoke(&json!({"keyId": maker.id, "revokeCreated": true}));
    assert!(ids_of(&third).is_empty());
    assert_eq!(third["key"], first["key"]);
}

#[tokio::test]
async fn a_key_hands_out_no_more_than_its_grant() {
    let admin = Admin::start().await;
    admin.account("acme", "pro");
    admin.account("other", "pro");
    let foreign = admin.key("other", &json!({}));
    let maker = admin.key(
        "acme",
        &json!({"scopes": ["latchkey:keys.write"],
        "grantableScopes": ["memory:read"]}),
    );
    let refused = |scopes: Value| {
        let request = json!({"accountId": "acme", "displayName": "k", "scopes": scopes,
            "environment": "ENVIRONMENT_LIVE"});
        let reason = "GRANT_EXCEEDED";
        admin.refused_as(&maker.token, "KeyService/CreateKey", &request, "PermissionDenied", reason)
    };
    assert!(refused(json!(["memory:write"])).contains("may not hand out `memory:write`"));
    refused(json!(["memory:*"]));
    refused(json!(["latchkey:keys.write"]));
    for (method, request) in [
        ("KeyService/RevokeKey", json!({"keyId": foreign.id})),
        ("KeyService/RevokeKey", json!({"token": foreign.token})),
        ("KeyService/RotateKey", json!({"keyId": foreign.id})),
    ] {
        admin.refused_as(&maker.token, method, &request, "NotFound", "NOT_FOUND");
    }
    assert_eq!(admin.reason(&foreign.token), "ALLOWED");
    // Reading is another permission.
    let told = admin.refused_as(
        &maker.token,
        "KeyService/ListKeys",
        &json!({}),
        "PermissionDenied",
        "PERMISSION_DENIED",
    );
    assert!(told.contains("latchkey:keys.read"), "{told}");
}
