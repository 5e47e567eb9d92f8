//! The life of accounts, keys and the policy as an administrator sees it who has grpcurl and nothing
//! else: no proto file, so every name and every detail of an error comes through reflection.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Server, tools_path};

mod decisions;
mod endings;

const SERVICES: [&str; 4] =
    ["AuthorizationService", "KeyService", "AccountService", "PolicyService"];
const NETWORK: &str = "192.0.2.0/24";

/// A server and its root operator.
struct Admin {
    server: Server,
    root: String,
}

/// A key that was made.
struct Made {
    id: String,
    token: String,
}

impl Admin {
    async fn start() -> Self {
        let server = Server::start().await;
        let root = server.root_token();
        Self { server, root }
    }

    fn call(&self, method: &str, request: &Value) -> Value {
        self.call_as(&self.root, method, request)
    }

    fn call_as(&self, token: &str, method: &str, request: &Value) -> Value {
        let (method, request) = (format!("latchkey.v1.{method}"), request.to_string());
        let output = self.server.grpcurl_with(token, &["-emit-defaults"], &method, &request);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{method} {request}: {errors}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What grpcurl prints of an error: its code, its message and its details, all of them resolved.
    fn refused(&self, method: &str, request: &Value, code: &str, reason: &str) -> String {
        self.refused_as(&self.root, method, request, code, reason)
    }

    fn refused_as(
        &self,
        token: &str,
        method: &str,
        request: &Value,
        code: &str,
        reason: &str,
    ) -> String {
        let (method, request) = (format!("latchkey.v1.{method}"), request.to_string());
        let output = self.server.grpcurl(token, &method, &request);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{method} {request} was not refused");
        for part in [
            &format!("Code: {code}\n"),
            "type.googleapis.com/google.rpc.ErrorInfo",
            "\"domain\": \"latchkey\"",
            &format!("\"reason\": \"{reason}\""),
        ] {
            assert!(told.contains(part), "{part} is not in: {told}");
        }
        // This is how grpcurl shows a detail whose type it could not resolve.
        assert!(!told.contains("@error") && !told.contains("@value"), "{told}");
        told
    }

    fn account(&self, id: &str, plan: &str) -> Value {
        let request = json!({"accountId": id, "displayName": id, "plan": plan});
        self.call("AccountService/CreateAccount", &request)["account"].clone()
    }

    fn key(&self, account: &str, more: &Value) -> Made {
        let mut request = json!({
            "accountId": account, "displayName": "a key", "environment": "ENVIRONMENT_LIVE",
            "scopes": ["memory:read"],
        });
        for (name, value) in more.as_object().unwrap() {
            request[name] = value.clone();
        }
        made(&self.call("KeyService/CreateKey", &request))
    }

    fn get(&self, id: &str) -> Value {
        self.call("KeyService/GetKey", &json!({"keyId": id}))["key"].clone()
    }

    fn update(&self, id: &str, fields: &Value) -> Value {
        // grpcurl takes a mask as the message that it is, with the names of the proto.
        let paths: Vec<_> = fields.as_object().unwrap().keys().collect();
        let mut key = fields.clone();
        key["keyId"] = id.into();
        let request = json!({"key": key, "updateMask": {"paths": paths}});
        self.call("KeyService/UpdateKey", &request)["key"].clone()
    }

    fn decide(&self, token: &str, scope: &str) -> Value {
        self.ask(&json!({"token": token, "requiredScope": scope}))
    }

    /// What a service is told; it needs no token of its own on loopback.
    fn ask(&self, question: &Value) -> Value {
        self.call_as("", "AuthorizationService/Authorize", question)
    }

    fn reason(&self, token: &str) -> String {
        let reason = &self.decide(token, "memory:read")["reason"];
        reason.as_str().unwrap().trim_start_matches("DECISION_REASON_").to_owned()
    }

    fn counted(&self, account: &str) -> Value {
        let request = json!({"accountId": account});
        self.call("AccountService/GetAccount", &request)["account"]["countedKeys"].clone()
    }
}

fn made(answer: &Value) -> Made {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    Made { id: text(&answer["key"]["keyId"]), token: text(&answer["token"]) }
}

fn ids(keys: &Value) -> Vec<String> {
    let id = |key: &Value| key["keyId"].as_str().unwrap().to_owned();
    keys.as_array().unwrap().iter().map(id).collect()
}

/// grpcurl's own verbs, which take no message.
fn shown(server: &Server, arguments: &[&str]) -> String {
    let mut command = Command::new("grpcurl");
    command.env("PATH", tools_path()).args(["-plaintext", &server.grpc().to_string()]);
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn reflection_shows_every_service_with_its_comments() {
    let server = Server::start().await;
    let listed = shown(&server, &["list"]);
    assert!(listed.contains("grpc.health.v1.Health"), "{listed}");
    for service in SERVICES {
        let service = format!("latchkey.v1.{service}");
        assert!(listed.lines().any(|line| line == service), "{service} is not in {listed}");
        let described = shown(&server, &["describe", &service]);
        let lines: Vec<_> = described.lines().map(str::trim).collect();
        let calls = lines.iter().enumerate().filter(|(_, line)| line.starts_with("rpc "));
        for (at, line) in calls {
            assert!(lines[at - 1].starts_with("//"), "{line} has no comment: {described}");
        }
    }
    for (symbol, words) in [
        ("latchkey.v1.Key", "Output only. When the key was revoked."),
        ("latchkey.v1.DecisionReason", "Well formed, but there is no such key. HTTP 401."),
        ("latchkey.v1.AuthorizeRequest", "Never logged."),
        ("google.rpc.ErrorInfo", "reason"),
        ("google.rpc.QuotaFailure", "violations"),
        ("google.rpc.RetryInfo", "retry_delay"),
    ] {
        let described = shown(&server, &["describe", symbol]);
        assert!(described.contains(words), "{words} is not in {described}");
    }
}

#[tokio::test]
async fn an_account_says_how_many_keys_its_plan_allows() {
    let admin = Admin::start().await;
    for (plan, max_keys) in [
        ("free", json!(1)),
        ("developer", json!(5)),
        ("pro", json!(20)),
        ("enterprise", Value::Null),
    ] {
        let account = admin.account(&format!("on-{plan}"), plan);
        assert_eq!((&account["plan"], &account["maxKeys"]), (&json!(plan), &max_keys));
        assert_eq!(
            (&account["state"], &account["countedKeys"]),
            (&json!("ACCOUNT_STATE_ACTIVE"), &json!(0))
        );
        admin.key(&format!("on-{plan}"), &json!({}));
        assert_eq!(admin.counted(&format!("on-{plan}")), 1);
    }
    let request = json!({"displayName": "An id of yours"});
    let account = admin.call("AccountService/CreateAccount", &request)["account"].clone();
    assert_eq!(account["plan"], "free");
    assert!(!account["accountId"].as_str().unwrap().is_empty());

    let told = admin.refused(
        "KeyService/CreateKey",
        &json!({"accountId": "on-free", "displayName": "k", "environment": "ENVIRONMENT_LIVE"}),
        "ResourceExhausted",
        "PLAN_LIMIT_REACHED",
    );
    assert!(told.contains("google.rpc.QuotaFailure") && told.contains("account:on-free"), "{told}");
}

#[tokio::test]
async fn a_walk_through_the_pages_sees_each_key_once_under_equal_times() {
    let mut admin = Admin::start().await;
    admin.account("many", "enterprise");
    admin.account("other", "enterprise");
    let all: Vec<_> = (0..7).map(|_| admin.key("many", &json!({})).id).collect();
    admin.server.stop().await;
    // As if all had been made at once.
    let same = "UPDATE keys SET create_time = (SELECT min(create_time) FROM keys)";
    let database = admin.server.database();
    assert!(Command::new("sqlite3").args([&database, same]).status().unwrap().success());
    admin.server = admin.server.again().start().await;

    let list = |more: &Value| {
        let mut request = json!({"accountId": "many", "pageSize": 3});
        for (name, value) in more.as_object().unwrap() {
            request[name] = value.clone();
        }
        request
    };
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = list(&json!({"pageToken": page_token}));
        let page = admin.call("KeyService/ListKeys", &request);
        seen.extend(ids(&page["keys"]));
        page_token = page["nextPageToken"].as_str().unwrap().to_owned();
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, all);

    let page = admin.call("KeyService/ListKeys", &list(&json!({})));
    let token = &page["nextPageToken"];
    let larger = list(&json!({"pageToken": token, "pageSize": 100}));
    assert_eq!(ids(&admin.call("KeyService/ListKeys", &larger)["keys"]), all[3..]);
    for other in [
        json!({"accountId": "other"}),
        json!({"states": ["KEY_STATE_ACTIVE"]}),
        json!({"environment": "ENVIRONMENT_LIVE"}),
        json!({"accountId": ""}),
    ] {
        let mut request = list(&other);
        request["pageToken"] = token.clone();
        let told =
            admin.refused("KeyService/ListKeys", &request, "InvalidArgument", "INVALID_FIELD");
        assert!(
            told.contains("google.rpc.BadRequest") && told.contains("\"page_token\""),
            "{told}"
        );
    }
}

#[tokio::test]
async fn accounts_are_listed_by_id() {
    let admin = Admin::start().await;
    for id in ["zoe", "amy", "mia"] {
        admin.account(id, "pro");
    }
    let list = admin.call("AccountService/ListAccounts", &json!({"plan": "pro"}));
    let ids: Vec<_> =
        list["accounts"].as_array().unwrap().iter().map(|it| &it["accountId"]).collect();
    assert_eq!(ids, ["amy", "mia", "zoe"]);
}

#[tokio::test]
async fn a_key_is_found_by_its_token_and_by_its_hint() {
    let admin = Admin::start().await;
    admin.account("acme", "developer");
    let key = admin.key("acme", &json!({"labels": {"team": "search"}}));
    let found = admin.call("KeyService/LookupKey", &json!({"token": key.token}));
    assert_eq!(ids(&found["keys"]), [key.id.as_str()]);
    let hint = &found["keys"][0]["tokenHint"];
    assert_eq!(*hint, format!("{}...{}", &key.token[..12], &key.token[40..]));
    let found = admin.call("KeyService/LookupKey", &json!({"hint": hint}));
    assert_eq!(ids(&found["keys"]), [key.id.as_str()]);
    assert!(!found.to_string().contains(&key.token));
    let nobody = json!({"token": "hm_live_0000000000000000000000000000002dlYSp"});
    assert!(ids(&admin.call("KeyService/LookupKey", &nobody)["keys"]).is_empty());
}

fn suspend(admin: &Admin, account: &str, suspended: bool) {
    let request = json!({"account": {"accountId": account, "suspended": suspended},
        "updateMask": {"paths": ["suspended"]}});
    admin.call("AccountService/UpdateAccount", &request);
}

#[tokio::test]
async fn a_suspended_account_is_refused_as_a_whole_until_it_is_taken_back() {
    let admin = Admin::start().await;
    admin.account("acme", "developer");
    let key = admin.key("acme", &json!({}));
    suspend(&admin, "acme", true);
    assert_eq!(admin.reason(&key.token), "ACCOUNT_SUSPENDED");
    let request =
        json!({"accountId": "acme", "displayName": "k", "environment": "ENVIRONMENT_LIVE"});
    let told =
        admin.refused("KeyService/CreateKey", &request, "FailedPrecondition", "ACCOUNT_SUSPENDED");
    assert!(told.contains("`acme` is suspended"), "{told}");
    suspend(&admin, "acme", false);
    assert_eq!(admin.reason(&key.token), "ALLOWED");
    let latchkey = json!({"account": {"accountId": "latchkey", "suspended": true},
        "updateMask": {"paths": ["suspended"]}});
    admin.refused("AccountService/UpdateAccount", &latchkey, "InvalidArgument", "INVALID_FIELD");
}

#[tokio::test]
async fn a_change_of_a_key_counts_at_once() {
    let admin = Admin::start().await;
    admin.account("acme", "free");
    let key = admin.key("acme", &json!({}));
    assert_eq!(admin.decide(&key.token, "memory:write")["allowed"], false);
    let before = admin.get(&key.id)["revision"].clone();
    admin.update(&key.id, &json!({"scopes": ["memory:write"], "display_name": "wider"}));
    assert_eq!(admin.decide(&key.token, "memory:write")["allowed"], true);
    admin.update(&key.id, &json!({"scopes": ["memory:read"]}));
    assert_eq!(admin.decide(&key.token, "memory:write")["allowed"], false);
    assert_eq!(admin.get(&key.id)["displayName"], "wider");

    assert_eq!(admin.update(&key.id, &json!({"disabled": true}))["state"], "KEY_STATE_DISABLED");
    assert_eq!(
        (admin.reason(&key.token), admin.counted("acme")),
        ("KEY_DISABLED".into(), json!(1))
    );
    assert_eq!(admin.update(&key.id, &json!({"disabled": false}))["state"], "KEY_STATE_ACTIVE");
    assert_eq!(admin.reason(&key.token), "ALLOWED");

    let late = json!({"key": {"keyId": key.id, "displayName": "late"}, "updateMask": {"paths": ["display_name"]},
        "expectedRevision": before});
    admin.refused("KeyService/UpdateKey", &late, "Aborted", "REVISION_MISMATCH");
    assert_eq!(admin.get(&key.id)["displayName"], "wider");
}

#[tokio::test]
async fn a_policy_with_a_new_scope_works_at_once() {
    let admin = Admin::start().await;
    admin.account("acme", "free");
    let key = admin.key("acme", &json!({"scopes": ["memory:read"]}));
    let asked = json!({"token": key.token, "requiredScope": "orders:read"});
    let told =
        admin.refused("AuthorizationService/Authorize", &asked, "InvalidArgument", "INVALID_FIELD");
    assert!(told.contains("google.rpc.BadRequest") && told.contains("orders:read"), "{told}");

    let mut policy = admin.call("PolicyService/GetPolicy", &json!({}))["policy"].clone();
    let before = policy["revision"].clone();
    policy["scopes"].as_array_mut().unwrap().push(json!({"name": "orders:read", "cost": 2}));
    let wish = json!({"policy": policy, "expectedRevision": before});
    let dry = json!({"policy": policy, "validateOnly": true});
    admin.call("PolicyService/ApplyPolicy", &dry);
    admin.refused("AuthorizationService/Authorize", &asked, "InvalidArgument", "INVALID_FIELD");
    admin.call("PolicyService/ApplyPolicy", &wish);
    assert_eq!(admin.ask(&asked)["reason"], "DECISION_REASON_INSUFFICIENT_SCOPE");
    admin.update(&key.id, &json!({"scopes": ["orders:*"]}));
    assert_eq!(admin.ask(&asked)["billable"], true);
    policy["bound"] = "2s".into();
    let late = json!({"policy": policy, "expectedRevision": before});
    admin.refused("PolicyService/ApplyPolicy", &late, "Aborted", "REVISION_MISMATCH");

    policy["scopes"].as_array_mut().unwrap().retain(|scope| scope["name"] != "orders:read");
    let drop = json!({"policy": policy});
    let told =
        admin.refused("PolicyService/ApplyPolicy", &drop, "FailedPrecondition", "SCOPE_IN_USE");
    assert!(told.contains("`orders:*` (1 keys)"), "{told}");
}
