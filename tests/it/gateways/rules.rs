//! The policy's rules, as forward-auth goes by them.

use latchkey::proto::v1::{
    ApplyPolicyRequest, CreateKeyRequest, Environment, GetPolicyRequest, Restrictions,
};

use super::forward_auth::{ASKED_WRONGLY, Answer, UNKNOWN, ask, curl, logged_as_wrong};
use super::with_rules;
use crate::support::Server;
use crate::telemetry::{logged, metric};

const RULES: &str = r#"
[[rules]]
name = "health"
path = "/health"
public = true

[[rules]]
name = "items"
hosts = ["api.example.com"]
methods = ["GET"]
path = "/items/{id}"
required_scope = "memory:read"
required_environment = "live"

[[rules]]
name = "new"
path = "/new/{*rest}"
required_scope = "memory:admin"
mode = "observe"

[[rules]]
name = "tools"
path = "/mcp"
mcp_tools = ["memory_store"]
required_scope = "memory:write"

[[rules]]
name = "inner"
path = "/inner"
deny = true

[[rules]]
name = "rest"
path = "/rest/{*path}"
authenticate_only = true
"#;

/// What is answered about a request of this method and URI, with this key.
fn about(server: &Server, method: &str, uri: &str, key: Option<&str>) -> Answer {
    with(server, &[("x-forwarded-method", method), ("x-forwarded-uri", uri)], key)
}

fn with(server: &Server, more: &[(&str, &str)], key: Option<&str>) -> Answer {
    let host = ("x-forwarded-host", "api.example.com");
    let key = key.map(|key| ("x-api-key", key));
    let headers: Vec<_> = [host].into_iter().chain(more.iter().copied()).chain(key).collect();
    ask(server, "", &headers)
}

/// Status and reason.
fn told(answer: &Answer) -> (u16, String) {
    if answer.status == 200 {
        return (200, answer.header("x-latchkey-account-id").to_owned());
    }
    (answer.status, answer.problem()["reason"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn the_first_rule_that_matches_says_what_is_needed() {
    let server = with_rules(RULES).await;
    let (live, test) = (server.live_key(), server.test_key());
    let denied = || (403, "ROUTE_DENIED".to_owned());
    for (method, uri, key, expected) in [
        ("GET", "/health?x", None, (200, String::new())),
        ("GET", "/health?x", Some(&*live), (200, String::new())),
        ("GET", "/items/7?a=b", Some(&*live), (200, "demo".to_owned())),
        ("GET", "/items/7", Some(&*test), (403, "WRONG_ENVIRONMENT".to_owned())),
        ("GET", "/items/7", Some(UNKNOWN), (401, "INVALID_KEY".to_owned())),
        ("GET", "/items/7", None, (401, "MISSING_CREDENTIAL".to_owned())),
        ("POST", "/items/7", Some(&*live), denied()),
        ("GET", "/items/7/", Some(&*live), denied()),
        ("GET", "/inner", Some(&*live), denied()),
        ("GET", "/inner", None, denied()),
        ("GET", "/nowhere", Some(&*live), denied()),
        ("POST", "/mcp", Some(&*test), denied()),
        ("GET", "/rest/a%2e%2e/inner", Some(&*live), (200, "demo".to_owned())),
        ("GET", "/rest/../inner", Some(&*live), denied()),
        ("GET", "/rest/%2e%2e/inner", Some(&*live), denied()),
        ("GET", "/rest//inner", Some(&*live), denied()),
        ("GET", "/rest/a;b", Some(&*live), denied()),
        ("GET", "/rest/a%2fb", Some(&*live), denied()),
    ] {
        assert_eq!(told(&about(&server, method, uri, key)), expected, "{method} {uri}");
    }
    // The answers of a rule name what is missing, and those of a route nothing to bring.
    let lacks = about(&server, "GET", "/items/7", None);
    assert_eq!(lacks.header("www-authenticate"), "Bearer realm=\"latchkey\"");
    assert_eq!(about(&server, "GET", "/inner", None).header("www-authenticate"), "");
}

#[tokio::test]
async fn a_rule_that_is_only_observed_lets_everybody_through_as_nobody() {
    let server = with_rules(RULES).await;
    let live = server.live_key();
    for key in [None, Some(UNKNOWN), Some("nonsense"), Some(&*live)] {
        let answer = about(&server, "GET", "/new/it", key);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.headers.get("x-latchkey-account-id").map(String::as_str), Some(""));
        assert_eq!(answer.header("x-envoy-auth-headers-to-remove"), "");
    }
    for reason in
        ["MISSING_CREDENTIAL", "MALFORMED_CREDENTIAL", "UNKNOWN_KEY", "INSUFFICIENT_SCOPE"]
    {
        let labels = format!("surface=\"http\",decision=\"observe\",reason=\"{reason}\"");
        let name = format!("latchkey_authorize_decisions_total{{{labels}}}");
        assert!((metric(&server, &name) - 1.0).abs() < 0.1, "{name}");
        let reason = format!("\"reason\":\"{reason}\"");
        logged(&server, &["would have denied", "\"rule\":\"new\"", &reason, "INFO"]).await;
    }
}

#[tokio::test]
async fn what_is_asked_is_only_believed_when_it_is_said_once() {
    let server = with_rules(RULES).await;
    let live = server.live_key();
    let base = [("x-forwarded-method", "GET"), ("x-forwarded-uri", "/items/7")];
    for more in [
        ("x-original-uri", "/items/7"),
        ("x-forwarded-uri", "/items/7"),
        ("x-original-method", "GET"),
        ("x-original-host", "api.example.com"),
        ("x-forwarded-host", "api.example.com"),
    ] {
        let answer = with(&server, &[base[0], base[1], more], Some(&live));
        assert_eq!(told(&answer), (403, "ROUTE_DENIED".into()), "{more:?}");
    }
    assert_eq!(with(&server, &base, Some(&live)).status, 200);
    // Names that some servers take for the same are not ours.
    let others = [base[0], base[1], ("x_forwarded_uri", "/inner"), ("x.forwarded.uri", "/inner")];
    assert_eq!(with(&server, &others, Some(&live)).status, 200);
    // A proxy that does not say enough is a mistake of its configuration.
    for (index, missing) in ["method", "uri"].iter().enumerate() {
        let answer = with(&server, &[base[1 - index]], Some(&live));
        assert_eq!(
            (answer.status, answer.problem()["detail"].as_str()),
            (500, Some(ASKED_WRONGLY))
        );
        logged_as_wrong(&server, missing).await;
    }
}

#[tokio::test]
async fn a_proxy_that_is_not_trusted_cannot_ask_by_rules() {
    let server = Server::start_dev().await;
    let key = server.live_key();
    let headers = [
        ("x-api-key", &*key),
        ("x-forwarded-host", "a"),
        ("x-forwarded-method", "GET"),
        ("x-forwarded-uri", "/"),
    ];
    let answer = ask(&server, "", &headers);
    assert_eq!(answer.status, 500);
    logged_as_wrong(&server, "gateway.trusted_proxies").await;
}

#[tokio::test]
async fn a_trusted_proxy_says_from_where_the_client_comes() {
    let server = with_rules("").await;
    let restricted = CreateKeyRequest {
        account_id: "demo".into(),
        display_name: "k".into(),
        environment: Environment::Live.into(),
        scopes: vec!["memory:read".into()],
        restrictions: Some(Restrictions { allowed_cidrs: vec!["192.0.2.0/24".into()] }),
        ..Default::default()
    };
    let mut keys = server.keys(&server.root_token()).await;
    let token = keys.create_key(restricted).await.unwrap().into_inner().token;
    for (lines, status) in [
        (&["192.0.2.7"][..], 200),
        (&["198.51.100.1, 192.0.2.7"], 200),
        (&["198.51.100.1, 192.0.2.7, 127.0.0.1"], 200),
        (&["192.0.2.7, 198.51.100.1"], 403),
        (&["192.0.2.7", "198.51.100.1"], 403),
        (&["192.0.2.7, nonsense"], 403),
        (&[], 403),
    ] {
        let mut headers = vec![("x-api-key", &*token)];
        headers.extend(lines.iter().map(|line| ("x-forwarded-for", *line)));
        assert_eq!(ask(&server, "scope=memory:read", &headers).status, status, "{lines:?}");
    }
}

#[tokio::test]
async fn a_proxy_that_takes_401_and_403_only_is_told_no_other_refusal() {
    let server = with_rules(RULES).await;
    let live = server.live_key();
    let key = format!("x-api-key: {live}");
    for (query, status, whole) in [
        ("scope=memory:read&statuses=401,403", 200, ""),
        ("scope=memory:write&statuses=401,403", 403, "403"),
        ("scope=memory:write", 403, ""),
    ] {
        let answer = curl(&server, &format!("/v1/forward-auth?{query}"), &["-H", &key]);
        assert_eq!((answer.status, answer.header("x-latchkey-status")), (status, whole), "{query}");
    }
    let nobody = curl(&server, "/v1/forward-auth?scope=memory:read&statuses=401,403", &[]);
    assert_eq!((nobody.status, nobody.header("x-latchkey-status")), (401, "401"));
}

#[tokio::test]
async fn the_credential_is_named_to_be_taken_out() {
    let server = with_rules(RULES).await;
    let live = server.live_key();
    for (name, value) in [("x-api-key", live.clone()), ("authorization", format!("Bearer {live}"))]
    {
        let answer = ask(&server, "scope=memory:read", &[(name, &value)]);
        assert_eq!(answer.header("x-envoy-auth-headers-to-remove"), name);
    }
    let basic = ("authorization", "Basic eDp4");
    for (path, more, key, named) in [
        ("/health", basic, Some(&*live), "x-api-key"),
        ("/health", basic, None, ""),
        ("/health", ("authorization", &*format!("Bearer {live}")), None, "authorization"),
        // What is only observed may be meant for somebody else.
        ("/new/7", ("accept", "*/*"), Some(&*live), ""),
    ] {
        let asked = [("x-forwarded-method", "GET"), ("x-forwarded-uri", path), more];
        let answer = with(&server, &asked, key);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("x-envoy-auth-headers-to-remove"), named, "{path} {more:?}");
    }
}

#[tokio::test]
async fn rules_are_applied_and_told_by_their_faults() {
    let server = with_rules(RULES).await;
    let mut policies = server.policies(&server.root_token()).await;
    let mut policy =
        policies.get_policy(GetPolicyRequest {}).await.unwrap().into_inner().policy.unwrap();
    let names: Vec<_> = policy.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["health", "items", "new", "tools", "inner", "rest"]);
    policy.rules[1].path = "/items/{id".into();
    policy.rules[4].name = "health".into();
    let wrong = ApplyPolicyRequest { policy: Some(policy.clone()), ..Default::default() };
    let refused = policies.apply_policy(wrong).await.unwrap_err();
    for field in ["policy.rules[1].path", "policy.rules[4].name"] {
        assert!(refused.message().contains(field), "{}", refused.message());
    }
    policy.rules.truncate(1);
    let right = ApplyPolicyRequest { policy: Some(policy), ..Default::default() };
    policies.apply_policy(right).await.unwrap();
    assert_eq!(about(&server, "GET", "/inner", None).status, 403);
    assert_eq!(about(&server, "GET", "/items/7", Some(&server.live_key())).status, 403);
}
