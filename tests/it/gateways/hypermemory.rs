//! The shipped policy of `HyperMemory`: each of its tools needs the scope and has the cost that it says.

use std::path::Path;

use latchkey::policy::routes::{Answer, Needs};
use latchkey::policy::target::{Mcp, Target};
use latchkey::policy::{Catalogue, Policy, RuleMode};

fn shipped() -> Policy {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/policy/hypermemory.toml");
    Policy::from_toml(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// What the rules say: the scope and the cost, or why nobody passes.
fn told(catalogue: &Catalogue, method: &str, path: &str, mcp: Option<Mcp<'_>>) -> String {
    let target = Target::new("memory.example.com", method, path, mcp);
    match catalogue.routes().answer(&target) {
        Answer::Rule(route) => match &route.needs {
            Needs::Scope(scope) => format!("{} {}", scope.scopes, route.cost.unwrap()),
            Needs::AuthenticateOnly => format!("any key {}", route.cost.unwrap()),
            Needs::Public | Needs::Deny => format!("{:?}", route.needs),
        },
        Answer::Blind(_) => "blind".to_owned(),
        Answer::NoRule => "no rule".to_owned(),
        Answer::Ambiguous(ambiguity) => ambiguity.as_str().to_owned(),
    }
}

#[test]
fn each_tool_needs_its_scope_and_has_its_cost() {
    let catalogue = Catalogue::compile(shipped(), "").unwrap();
    for (tool, needs) in [
        ("memory_recall", "memory:read 1"),
        ("memory_find_related", "memory:read 1"),
        ("memory_get_relationships", "memory:read 1"),
        ("memory_store", "memory:write 0"),
        ("memory_update", "memory:write 0"),
        ("memory_forget", "memory:write 0"),
        ("memory_export_subgraph", "memory:admin 1"),
        ("memory_load_link", "memory:admin 0"),
        ("memory_drop_all", "no rule"),
        ("Memory_store", "no rule"),
    ] {
        let called = Mcp::seen(Some("tools/call"), Some(tool));
        assert_eq!(told(&catalogue, "POST", "/mcp", called), needs, "{tool}");
        assert_eq!(told(&catalogue, "POST", "/mcp?x", called), needs, "{tool}");
        assert_eq!(told(&catalogue, "POST", "/mcp/", called), "no rule", "{tool}");
        // A name is a tool's only where one is called.
        let other = Mcp::seen(Some("prompts/get"), Some(tool));
        assert_eq!(told(&catalogue, "POST", "/mcp", other), "no rule", "{tool}");
    }
}

#[test]
fn a_session_can_be_had_with_any_key() {
    let catalogue = Catalogue::compile(shipped(), "").unwrap();
    for method in ["initialize", "ping", "tools/list", "notifications/initialized"] {
        let said = Mcp::seen(Some(method), None);
        assert_eq!(told(&catalogue, "POST", "/mcp", said), "any key 0", "{method}");
    }
    for method in ["GET", "DELETE"] {
        assert_eq!(told(&catalogue, method, "/mcp", None), "any key 0", "{method}");
    }
    // A batch, or no message at all, tells neither method nor tool.
    assert_eq!(told(&catalogue, "POST", "/mcp", None), "blind");
    for (method, path) in [("PUT", "/mcp"), ("GET", "/"), ("POST", "/other")] {
        assert_eq!(told(&catalogue, method, path, None), "no rule", "{method} {path}");
    }
}

#[test]
fn beside_its_rules_it_is_the_policy_that_is_built_in() {
    let shipped = shipped();
    assert!(shipped.rules.iter().all(|rule| rule.mode == RuleMode::Enforce));
    assert_eq!(Policy { rules: Vec::new(), ..shipped }, Policy::default());
}
