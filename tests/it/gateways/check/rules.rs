//! Requests for which the gateway's configuration says nothing: the rules of the policy do.

use std::collections::BTreeMap;
use std::time::Duration;

use latchkey::proto::v1::rule::Requirement;
use latchkey::proto::v1::{Environment, Rule, RuleMode};
use latchkey::proto::vendored::envoy::config::core::v3::Metadata;
use prost_types::value::Kind;
use prost_types::{Struct, Value};

use super::{Ask, Gateway, IDENTITY, UNKNOWN, ask, rules};
use crate::support::{Server, eventually};

fn rule(name: &str, path: &str, requirement: Requirement) -> Rule {
    let (name, path, requirement) = (name.into(), path.into(), Some(requirement));
    Rule { name, path, requirement, ..Rule::default() }
}

fn scope(scope: &str) -> Requirement {
    Requirement::RequiredScope(scope.into())
}

#[tokio::test]
async fn without_rules_nothing_passes() {
    let server = Server::start_dev().await;
    let mut gateway = Gateway::of(&server).await;
    let answer = gateway.ask(ask().key(&server.live_key())).await;
    assert_eq!((answer.status, answer.told_text("reason")), (403, "ROUTE_DENIED"));
    assert_eq!(answer.problem()["reason"], "ROUTE_DENIED");
    assert_eq!((answer.told("rule"), answer.told("key_id")), (None, None));
}

#[tokio::test]
async fn a_rule_says_what_a_request_needs() {
    let server = Server::start_dev().await;
    let read = rule("read", "/v1/items/{id}", scope("memory:read"));
    let write = Rule {
        methods: vec!["PUT".into()],
        ..rule("write", "/v1/items/{id}", scope("memory:admin"))
    };
    let test = Rule {
        hosts: vec!["test.example.com".into()],
        required_environment: Environment::Test.into(),
        cost: Some(0),
        ..rule("test", "/v1/{*rest}", scope("memory:read"))
    };
    let closed = rule("closed", "/internal/{*rest}", Requirement::Deny(true));
    let open = rule("open", "/health", Requirement::Public(true));
    rules(&server, vec![test, write, read, closed, open]).await;
    let mut gateway = Gateway::of(&server).await;
    let live = server.live_key();
    let of = |method: &str, path: &str| ask().target(method, "api.example.com", path).key(&live);

    let passed = gateway.ask(of("GET", "/v1/items/1?a=/../b")).await;
    assert_eq!((passed.status, passed.told_text("rule")), (200, "read"));
    assert_eq!(passed.header("x-latchkey-account-id"), "demo");
    for (ask, reason, rule) in [
        (of("PUT", "/v1/items/1"), "INSUFFICIENT_SCOPE", "write"),
        (of("GET", "/internal/x"), "ROUTE_DENIED", "closed"),
        (of("GET", "/v1/items//1"), "ROUTE_DENIED", ""),
        (of("GET", "/v1/items/%2e%2e"), "ROUTE_DENIED", ""),
        (of("GET", "/v1/items/1;a"), "ROUTE_DENIED", ""),
        (of("GET", "/v2"), "ROUTE_DENIED", ""),
        (of("GET", ""), "ROUTE_DENIED", ""),
        (
            of("GET", "/v1/items/1").target("GET", "TEST.example.com:443", "/v1/items/1"),
            "WRONG_ENVIRONMENT",
            "test",
        ),
    ] {
        let answer = gateway.ask(ask).await;
        assert_eq!((answer.status, answer.told_text("reason")), (403, reason), "{answer:?}");
        assert_eq!(answer.told_text("rule"), rule);
    }
    for (path, told) in [
        ("/v1/items//1", "the path holds `//`"),
        ("", "the host, the method or the path is not known"),
        ("/v2", ""),
    ] {
        assert_eq!(gateway.ask(of("GET", path)).await.told_text("ambiguity"), told, "{path}");
    }
}

#[tokio::test]
async fn what_nobody_needs_a_key_for_is_nobodys_and_keys_are_not_passed_on() {
    let server = Server::start_dev().await;
    rules(&server, vec![rule("open", "/health", Requirement::Public(true))]).await;
    let mut gateway = Gateway::of(&server).await;
    let live = server.live_key();
    let health = || ask().target("GET", "api.example.com", "/health");
    for (ask, hidden) in [
        (health(), &[][..]),
        (health().header("x-latchkey-plan", "pro"), &[]),
        (health().key(&live), &["authorization"]),
        (health().raw("x-api-key", live.as_bytes()), &["x-api-key"]),
        (health().key(UNKNOWN).header("x-api-key", &live), &["authorization", "x-api-key"]),
        (health().key(&live).key(UNKNOWN), &["authorization"]),
        (health().header("authorization", &format!("Basic {live}")), &["authorization"]),
        (health().raw("x-api-key", format!("\u{ff},{live}").as_bytes()), &["x-api-key"]),
        // What is no key may be meant for the service behind.
        (health().header("authorization", "Basic eDp4"), &[]),
        (health().header("authorization", "Bearer x").header("x-api-key", "x"), &[]),
        (health().header("x-token", &live), &[]),
    ] {
        let public = gateway.ask(ask).await;
        public.assert_nobodys();
        let removed = public.removed.iter().map(String::as_str);
        let mut others: Vec<_> = removed.filter(|name| !IDENTITY.contains(name)).collect();
        others.sort_unstable();
        assert_eq!((&others[..], public.told_text("rule")), (hidden, "open"));
    }
}

#[tokio::test]
async fn the_gateway_and_the_rule_may_each_name_an_environment() {
    let server = Server::start_dev().await;
    let of_test = Rule {
        required_environment: Environment::Test.into(),
        ..rule("sandbox", "/sandbox", scope("memory:read"))
    };
    rules(&server, vec![of_test, rule("any", "/any", scope("memory:read"))]).await;
    let mut gateway = Gateway::of(&server).await;
    let (live, test) = (server.live_key(), server.test_key());
    for (path, environment, live_status, test_status) in [
        ("/any", "live", 200, 403),
        ("/any", "test", 403, 200),
        ("/sandbox", "live", 403, 403),
        ("/sandbox", "test", 403, 200),
    ] {
        let asked = ask().target("GET", "a", path).extension("required_environment", environment);
        for (key, status) in [(&live, live_status), (&test, test_status)] {
            let answer = gateway.ask(asked.clone().key(key)).await;
            assert_eq!(answer.status, status, "{path} {environment}: {answer:?}");
            if status == 403 {
                assert_eq!(answer.told_text("reason"), "WRONG_ENVIRONMENT");
            }
        }
    }
}

#[tokio::test]
async fn a_rule_that_is_only_observed_lets_pass_and_tells_what_it_would_have_done() {
    let server = Server::start_dev().await;
    let observe = |rule| Rule { mode: RuleMode::Observe.into(), ..rule };
    let closed = observe(rule("closed", "/internal", Requirement::Deny(true)));
    let admin = observe(rule("admin", "/{*rest}", scope("memory:admin")));
    rules(&server, vec![closed, admin]).await;
    let mut gateway = Gateway::of(&server).await;
    let at = |path: &str| ask().target("GET", "a", path);
    for (ask, reason, knows_key) in [
        (at("/internal").key(&server.live_key()), "ROUTE_DENIED", false),
        (at("/x").key(&server.live_key()), "INSUFFICIENT_SCOPE", true),
        (at("/x"), "MISSING_CREDENTIAL", false),
        (at("/x").key("x"), "MALFORMED_CREDENTIAL", false),
    ] {
        let answer = gateway.ask(ask).await;
        answer.assert_nobodys();
        // The credential stays where it is: it may be meant for somebody else.
        assert_eq!(answer.removed.len(), 6, "{answer:?}");
        assert_eq!(answer.told_text("decision"), "allow");
        assert_eq!(answer.told_text("observed_reason"), reason);
        assert_eq!(answer.told("key_id").is_some(), knows_key);
    }
    let lines = || {
        let log = server.log();
        let told = log.lines().filter(|line| line.contains("would have denied"));
        let told: Vec<_> = told.map(str::to_owned).collect();
        (told.len() >= 4).then_some(told)
    };
    let told = eventually(Duration::from_secs(5), "all four are told", lines).await;
    assert!(told[0].contains(r#""rule":"closed","reason":"ROUTE_DENIED""#), "{told:?}");
    assert!(told[1].contains(r#""rule":"admin","reason":"INSUFFICIENT_SCOPE","key_id":"key_"#));
}

/// What Envoy's filter tells of a body.
fn mcp(ask: Ask, fields: impl IntoIterator<Item = (&'static str, Kind)>) -> Ask {
    let filter_metadata = [("envoy.filters.http.mcp".to_owned(), structure(fields))].into();
    Ask { metadata: Some(Metadata { filter_metadata, ..Metadata::default() }), ..ask }
}

fn structure(fields: impl IntoIterator<Item = (&'static str, Kind)>) -> Struct {
    let field = |(name, kind): (&str, _)| (name.to_owned(), Value { kind: Some(kind) });
    Struct { fields: fields.into_iter().map(field).collect::<BTreeMap<_, _>>() }
}

fn text(text: &str) -> Kind {
    Kind::StringValue(text.into())
}

fn is_mcp(is: bool) -> (&'static str, Kind) {
    ("is_mcp_request", Kind::BoolValue(is))
}

fn tool(name: Kind) -> (&'static str, Kind) {
    ("params", Kind::StructValue(structure([("name", name)])))
}

#[tokio::test]
async fn a_rule_goes_by_the_tool_that_is_called() {
    let server = Server::start_dev().await;
    let of = |name: &str, requirement, methods: &[&str], tools: &[&str]| Rule {
        mcp_methods: methods.iter().map(ToString::to_string).collect(),
        mcp_tools: tools.iter().map(ToString::to_string).collect(),
        ..rule(name, "/mcp", requirement)
    };
    rules(
        &server,
        vec![
            of("recall", scope("memory:read"), &["tools/call"], &["memory_recall"]),
            of("store", Requirement::AuthenticateOnly(true), &["tools/call"], &["memory_store"]),
            of("list", Requirement::Public(true), &["tools/list", "initialize"], &[]),
            // Reached by nobody of whom it is not known what they call.
            rule("rest", "/{*rest}", Requirement::Public(true)),
        ],
    )
    .await;
    let mut gateway = Gateway::of(&server).await;
    let at = |path: &str| ask().target("POST", "a", path).key(&server.live_key());
    let call = || ("method", text("tools/call"));

    let recall =
        gateway.ask(mcp(at("/mcp"), [is_mcp(true), call(), tool(text("memory_recall"))])).await;
    assert_eq!((recall.status, recall.told_text("rule")), (200, "recall"));
    assert_eq!(recall.header("x-latchkey-billable"), "true");
    let store =
        gateway.ask(mcp(at("/mcp"), [is_mcp(true), call(), tool(text("memory_store"))])).await;
    assert_eq!((store.told_text("rule"), store.header("x-latchkey-billable")), ("store", "false"));
    let list = gateway.ask(mcp(at("/mcp"), [is_mcp(true), ("method", text("tools/list"))])).await;
    assert_eq!(list.told_text("rule"), "list");
    let other = gateway.ask(mcp(at("/mcp"), [is_mcp(true), call(), tool(text("x"))])).await;
    assert_eq!(other.told_text("rule"), "rest");

    let whole = [is_mcp(true), call(), tool(text("memory_recall"))].into_iter();
    let fine =
        gateway.ask(mcp(at("/mcp"), whole.clone().chain([("status", text("mcp_ok"))]))).await;
    assert_eq!((fine.status, fine.told_text("rule")), (200, "recall"));
    let params = ("params", text("memory_recall"));
    for ask in [
        at("/mcp"),
        mcp(at("/mcp"), []),
        mcp(at("/mcp"), [is_mcp(false), call(), tool(text("memory_recall"))]),
        mcp(at("/mcp"), [("is_mcp_request", text("true")), call(), tool(text("memory_recall"))]),
        mcp(at("/mcp"), [call(), tool(text("memory_recall"))]),
        mcp(at("/mcp"), [is_mcp(true), tool(text("memory_recall"))]),
        mcp(at("/mcp"), [is_mcp(true), ("method", Kind::NumberValue(1.0))]),
        mcp(at("/mcp"), [is_mcp(true), call()]),
        mcp(at("/mcp"), [is_mcp(true), call(), params]),
        mcp(at("/mcp"), [is_mcp(true), call(), tool(Kind::BoolValue(true))]),
        // Envoy lets pass what it did not read to the end, and what it found wrong.
        mcp(at("/mcp"), whole.clone().chain([("passthrough_reason", text("mcp_duplicate_keys"))])),
        mcp(at("/mcp"), whole.clone().chain([("is_exceeding_limit", Kind::BoolValue(true))])),
        mcp(at("/mcp"), whole.clone().chain([("status", text("mcp_parse_error"))])),
    ] {
        let answer = gateway.ask(ask).await;
        assert_eq!((answer.status, answer.told_text("reason")), (403, "ROUTE_DENIED"));
        assert_eq!(answer.told_text("rule"), "recall");
    }
    let other = gateway.ask(at("/other")).await;
    assert_eq!((other.status, other.told_text("rule")), (200, "rest"));
}
