//! Policies as people write them, in TOML, and as clients send them, as a message: what is found right means the
//! same after every way of writing it, implies what naive reading says, and has the first of its rules that matches answer.

#![no_main]

use std::collections::BTreeSet;

use latchkey::inside::{policy_from_proto, policy_to_proto};
use latchkey::policy::routes::Answer;
use latchkey::policy::target::{Mcp, Target};
use latchkey::policy::{Catalogue, Policy, Rule, own_scopes};
use latchkey::proto::v1;
use latchkey::scope::ScopePattern;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

// The first byte says which it is: `m` is a message, anything else TOML.
fuzz_target!(|data: &[u8]| {
    let policy = match data.split_first() {
        Some((b'm', message)) => {
            v1::Policy::decode(message).ok().and_then(|policy| policy_from_proto(policy).ok())
        }
        Some(_) => std::str::from_utf8(data).ok().and_then(|text| Policy::from_toml(text).ok()),
        None => None,
    };
    if let Some(policy) = policy.filter(|policy| policy.validate("").is_ok()) {
        check_ways_of_writing(&policy);
        // Its rules' scopes are looked at only when it is compiled.
        if let Ok(catalogue) = Catalogue::compile(policy.clone(), "") {
            check_meaning(&policy, &catalogue);
            check_rules(&policy, &catalogue);
        }
    }
});

fn check_ways_of_writing(policy: &Policy) {
    assert_eq!(&Policy::from_toml(&policy.to_toml()).expect("its own TOML"), policy);
    let json = serde_json::to_string(policy).expect("JSON, for the store");
    assert_eq!(&serde_json::from_str::<Policy>(&json).expect("its own JSON"), policy);
    let message = policy_to_proto(policy, String::new()).encode_to_vec();
    let message = v1::Policy::decode(&message[..]).expect("its own message");
    assert_eq!(&policy_from_proto(message).expect("its own message"), policy);
}

fn check_meaning(policy: &Policy, catalogue: &Catalogue) {
    let definitions = [own_scopes(), policy.scopes.clone()].concat();
    for scope in &definitions {
        let mut implied = BTreeSet::from([scope.name.as_str()]);
        loop {
            let more: Vec<_> = definitions
                .iter()
                .filter(|scope| implied.contains(scope.name.as_str()))
                .flat_map(|scope| scope.implies.iter().map(String::as_str))
                .collect();
            let before = implied.len();
            implied.extend(more);
            if implied.len() == before {
                break;
            }
        }
        let pattern = ScopePattern::parse(&scope.name).expect("a scope is a pattern");
        let held = catalogue.held([&pattern]);
        for other in &definitions {
            let index = catalogue.index(&other.name).expect("it is defined");
            assert_eq!(held.contains(index), implied.contains(other.name.as_str()), "{scope:?}");
        }
        let is_own = |name: &&&str| name.starts_with("latchkey:");
        assert!(pattern.is_own() || implied.iter().find(is_own).is_none(), "{scope:?}");
    }
}

/// What answers a request is the first rule that would answer it alone.
fn check_rules(policy: &Policy, catalogue: &Catalogue) {
    let alone = |rule: &Rule| {
        let policy = Policy { rules: vec![rule.clone()], ..policy.clone() };
        Catalogue::compile(policy, "").expect("a part of what is right")
    };
    let alone: Vec<_> = policy.rules.iter().map(alone).collect();
    for rule in &policy.rules {
        let first = |list: &[String]| list.first().cloned().unwrap_or_else(|| "x".to_owned());
        let host = first(&rule.hosts).replace('*', "x");
        let filled: Vec<_> =
            rule.path.split('/').map(|it| if it.contains('{') { "x" } else { it }).collect();
        let path = if rule.path.is_empty() { "/".to_owned() } else { filled.join("/") };
        let (mcp_method, tool) = (first(&rule.mcp_methods), first(&rule.mcp_tools));
        let mcp = Mcp { method: &mcp_method, tool: Some(&tool) };
        let method = first(&rule.methods);
        for mcp in [Some(mcp), None] {
            let target = Target::new(&host, &method, &path, mcp);
            let name = |catalogue: &Catalogue| match catalogue.routes().answer(&target) {
                Answer::Rule(route) => Some((route.name.to_string(), false)),
                Answer::Blind(route) => Some((route.name.to_string(), true)),
                Answer::NoRule => None,
                Answer::Ambiguous(ambiguity) => Some((ambiguity.as_str().to_owned(), false)),
            };
            assert_eq!(name(catalogue), alone.iter().find_map(&name), "{target:?}");
            assert!(mcp.is_none() || name(catalogue).is_none_or(|(_, is_blind)| !is_blind));
        }
    }
}
