//! Services without gRPC: decisions in JSON, and introspection, by the real curl.

use latchkey::proto::v1::{CreateKeyRequest, Environment};
use serde_json::{Value, json};

use super::forward_auth::{Answer, UNKNOWN, curl};
use crate::process::make_account;
use crate::support::Server;

fn post(server: &Server, path: &str, body: &str, more: &[&str]) -> Answer {
    let given = ["-X", "POST", "--data-raw", body];
    curl(server, path, &[&given, more].concat())
}

fn authorize(server: &Server, question: &Value) -> Value {
    let answer = post(server, "/v1/authorize", &question.to_string(), &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "no-store");
    serde_json::from_str(&answer.body).unwrap()
}

#[tokio::test]
async fn a_decision_is_a_200_whatever_it_says() {
    let server = Server::start_dev().await;
    let live = server.live_key();
    let allowed = authorize(&server, &json!({ "token": live, "requiredScope": "memory:read" }));
    assert_eq!(allowed["allowed"], true);
    assert_eq!(allowed["accountId"], "demo");
    assert_eq!(allowed["environment"], "ENVIRONMENT_LIVE");
    assert_eq!(allowed["httpStatus"], 200);
    let denied = authorize(&server, &json!({ "token": live, "required_scope": "memory:write" }));
    assert_eq!(denied["allowed"], false);
    assert_eq!(denied["reason"], "DECISION_REASON_INSUFFICIENT_SCOPE");
    assert_eq!(denied["httpStatus"], 403);
    assert!(denied["wwwAuthenticate"].as_str().unwrap().contains("scope=\"memory:write\""));
    let missing = authorize(&server, &json!({ "authenticateOnly": true }));
    assert_eq!(missing["reason"], "DECISION_REASON_MISSING_CREDENTIAL");
}

#[tokio::test]
async fn a_question_that_is_wrong_is_told_and_not_repeated() {
    let server = Server::start_dev().await;
    let live = server.live_key();
    let large = "x".repeat(17_000);
    for (body, status, told) in [
        (String::new(), 400, "wrong at line 1"),
        ("[]".into(), 400, "wrong at"),
        (format!("{{\"token\": \"{live}\", \"scope\": \"x\"}}"), 400, "there is no field `scope`"),
        (format!("{{\"token\": \"{live}\", \"token\": \"x\"}}"), 400, "token: stands there twice"),
        (format!("{{\"token\": [\"{live}\"]}}"), 400, "token: must be a text"),
        (format!("{{\"token\": \"{live}\", \"cost\": 1000001}}"), 400, "cost: is 1000001"),
        (format!("{{\"token\": \"{live}\"}}"), 400, "required_scope"),
        (
            format!("{{\"token\": \"{live}\", \"requiredScope\": \"memory:reed\"}}"),
            400,
            "memory:read",
        ),
        (large, 413, "16384"),
    ] {
        let answer = post(&server, "/v1/authorize", &body, &[]);
        assert_eq!(answer.status, status, "{answer:?}");
        let detail = answer.problem()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(told), "{detail}");
        assert!(!answer.body.contains(&live[8..]));
    }
    assert_eq!(curl(&server, "/v1/authorize", &[]).status, 405);
}

#[tokio::test]
async fn introspection_says_whether_a_token_is_active_and_no_more_of_one_that_is_not() {
    let server = Server::start_dev().await;
    let live = server.live_key();
    let form = format!("token={live}&token_type_hint=access_token&more=1");
    let answer = post(&server, "/oauth2/introspect", &form, &[]);
    let active: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((answer.status, &active["active"]), (200, &Value::Bool(true)));
    assert_eq!(active["scope"], "memory:readonly");
    assert_eq!(active["sub"], "demo");
    assert_eq!(active["client_id"], active["jti"]);
    assert_eq!(answer.header("cache-control"), "no-store");
    for token in [UNKNOWN, "nonsense", ""] {
        let answer = post(&server, "/oauth2/introspect", &format!("token={token}"), &[]);
        assert_eq!((answer.status, &*answer.body), (200, "{\"active\":false}"), "{token}");
    }
    for form in ["", "tokn=x", "token=a&token=b", "{\"token\": \"x\"}"] {
        assert_eq!(post(&server, "/oauth2/introspect", form, &[]).status, 400, "{form}");
    }
}

#[tokio::test]
async fn callers_need_a_key_of_their_own_where_that_is_demanded() {
    let server = Server::build().environment("LATCHKEY__GRPC__CALLERS", "key").start().await;
    let root = server.root_token();
    make_account(&server, &root, "acme").await;
    let mut keys = server.keys(&root).await;
    let mut make = async |scope: &str| {
        let request = CreateKeyRequest {
            account_id: "acme".into(),
            display_name: "k".into(),
            environment: Environment::Live.into(),
            scopes: vec![scope.into()],
            ..Default::default()
        };
        keys.create_key(request).await.unwrap().into_inner().token
    };
    let (live, own) = (make("memory:read").await, make("latchkey:authorize").await);
    let question = json!({ "token": live, "requiredScope": "memory:read" }).to_string();
    let form = format!("token={live}");
    for (path, body) in [("/v1/authorize", &question), ("/oauth2/introspect", &form)] {
        let without = post(&server, path, body, &[]);
        assert_eq!(
            (without.status, without.header("www-authenticate")),
            (401, "Bearer realm=\"latchkey\"")
        );
        let other = format!("authorization: Bearer {live}");
        assert_eq!(post(&server, path, body, &["-H", &other]).status, 403);
        let right = format!("authorization: Bearer {own}");
        assert_eq!(post(&server, path, body, &["-H", &right]).status, 200);
    }
    let basic = format!("any:{own}");
    assert_eq!(post(&server, "/oauth2/introspect", &form, &["-u", &basic]).status, 200);
    let basic = format!("any:{live}");
    assert_eq!(post(&server, "/oauth2/introspect", &form, &["-u", &basic]).status, 403);
}
