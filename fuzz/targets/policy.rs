//! Policies as people write them, in TOML, and as clients send them, as a message: what is found right means the
//! same after every way of writing it, and implies what naive reading says.

#![no_main]

use std::collections::BTreeSet;

use latchkey::inside::{policy_from_proto, policy_to_proto};
use latchkey::policy::{Catalogue, Policy, own_scopes};
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
        check_meaning(&policy);
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

fn check_meaning(policy: &Policy) {
    let catalogue = Catalogue::compile(policy.clone(), "").expect("it was found right");
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
