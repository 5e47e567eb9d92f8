//! Properties of policies, against a reading that is as naive as can be.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::scope::ScopePattern;

/// Names, right and wrong, that a generated document draws from.
const NAMES: [&str; 9] = [
    "a:read",
    "a:write",
    "a:admin",
    "b:read",
    "b:deep:one",
    "c:x",
    "Bad:name",
    "alone",
    "latchkey:more",
];

fn scopes() -> impl Strategy<Value = Vec<ScopeDefinition>> {
    let name = prop::sample::select(&NAMES[..6]);
    let any_name = prop_oneof![20 => name.clone(), 1 => prop::sample::select(&NAMES[..])];
    let implies = prop::collection::vec(name, 0..3);
    let scope = (any_name, implies, any::<bool>(), 0_u32..1_000_010, "[ -~]{0,8}").prop_map(
        |(name, implies, strict, cost, description)| ScopeDefinition {
            name: name.into(),
            description,
            implies: implies.into_iter().map(Into::into).collect(),
            strict,
            cost,
        },
    );
    prop::collection::vec(scope, 0..6)
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let rate = (0.0_f64..1e6, 0_u32..3)
        .prop_map(|(requests_per_second, burst)| RateLimit { requests_per_second, burst });
    let plan = (
        prop::sample::select(vec!["free", "paid", "pro_2", "Not", ""]),
        prop::option::of(any::<u32>()),
        prop::option::of(any::<u64>()),
        prop::sample::select(vec![QuotaMode::Hard, QuotaMode::Metered]),
        prop::option::weighted(0.3, rate),
    )
        .prop_map(|(name, max_keys, monthly_quota, quota_mode, rate_limit)| Plan {
            name: name.into(),
            max_keys,
            monthly_quota,
            quota_mode,
            rate_limit,
        });
    prop::collection::vec(plan, 0..3)
}

prop_compose! {
    fn policies()(
        accepted_prefixes in prop::collection::vec("[a-z][a-z0-9]{1,3}|[A-Z]", 0..3),
        bound_ms in prop_oneof![4 => 100_u64..60_001, 1 => 0_u64..100_000],
        grace_ms in prop_oneof![4 => 0_u64..86_400_001, 1 => any::<u64>()],
        scopes in scopes(),
        plans in plans(),
    ) -> Policy {
        Policy { accepted_prefixes, bound_ms, grace_ms, scopes, plans, rules: Vec::new() }
    }
}

/// A right policy of these scopes: each once, implying only those further on in [`NAMES`].
fn mended(mut scopes: Vec<ScopeDefinition>) -> Policy {
    let place = |name: &str| NAMES[..6].iter().position(|known| *known == name);
    scopes.retain(|scope| place(&scope.name).is_some());
    scopes.sort_by_key(|scope| place(&scope.name));
    scopes.dedup_by(|one, other| one.name == other.name);
    let defined: BTreeSet<_> = scopes.iter().map(|scope| scope.name.clone()).collect();
    for scope in &mut scopes {
        let own = place(&scope.name);
        scope.implies.retain(|name| defined.contains(name) && place(name) > own);
        scope.cost = scope.cost.min(COST_MAX);
    }
    Policy { scopes, ..Policy::default() }
}

/// Whether a document is right, clause by clause.
fn is_right(policy: &Policy) -> bool {
    let names: Vec<_> = policy.scopes.iter().map(|scope| scope.name.as_str()).collect();
    let plans: Vec<_> = policy.plans.iter().map(|plan| plan.name.as_str()).collect();
    let is_unique = |names: &[&str]| names.iter().collect::<BTreeSet<_>>().len() == names.len();
    let prefixes: Vec<_> = policy.accepted_prefixes.iter().map(String::as_str).collect();
    is_unique(&names)
        && is_unique(&plans)
        && is_unique(&prefixes)
        && !plans.is_empty()
        && names.iter().all(|name| NAMES[..6].contains(name))
        && plans.iter().all(|name| ["free", "paid", "pro_2"].contains(name))
        && prefixes.iter().all(|prefix| prefix.len() >= 2)
        && (100..=60_000).contains(&policy.bound_ms)
        && policy.grace_ms <= 86_400_000
        && policy.scopes.iter().all(|scope| scope.cost <= 1_000_000)
        && policy.scopes.iter().flat_map(|it| &it.implies).all(|it| names.contains(&it.as_str()))
        && names.iter().all(|name| !implied(policy, name).contains(name))
        && policy
            .plans
            .iter()
            .filter_map(|plan| plan.rate_limit)
            .all(|rate| rate.requests_per_second > 0.0 && rate.burst > 0)
}

/// What a scope implies, and what that implies; itself only where it goes round in a circle.
fn implied<'a>(policy: &'a Policy, name: &str) -> BTreeSet<&'a str> {
    let of = |name: &str| {
        let scopes = policy.scopes.iter().filter(move |scope| scope.name == name);
        scopes.flat_map(|scope| scope.implies.iter().map(String::as_str)).collect::<Vec<_>>()
    };
    let mut all: BTreeSet<_> = of(name).into_iter().collect();
    loop {
        let more: Vec<_> = all.iter().flat_map(|name| of(name)).collect();
        let before = all.len();
        all.extend(more);
        if all.len() == before {
            return all;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_is_right_is_accepted_and_nothing_else(policy in policies()) {
        let verdict = policy.validate("");
        prop_assert_eq!(verdict.is_ok(), is_right(&policy), "{:?}", verdict);
        prop_assert_eq!(Catalogue::compile(policy, "").is_ok(), verdict.is_ok());
    }

    #[test]
    fn a_document_survives_being_written(policy in policies()) {
        prop_assert_eq!(&Policy::from_toml(&policy.to_toml()).unwrap(), &policy);
        let json = serde_json::to_string(&policy).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Policy>(&json).unwrap(), &policy);
    }

    #[test]
    fn a_key_holds_what_its_scopes_imply_and_no_more(
        scopes in scopes(),
        held in prop::sample::subsequence(vec!["a:*", "a:read", "a:admin", "b:*", "b:deep:*", "c:x"], 0..4),
    ) {
        let policy = mended(scopes);
        let catalogue = Catalogue::compile(policy.clone(), "").unwrap();
        let patterns: Vec<_> = held.iter().map(|it| ScopePattern::parse(it).unwrap()).collect();
        let set = catalogue.held(&patterns);
        let is_named = |name: &str| {
            held.iter().any(|it| *it == name || it.strip_suffix('*').is_some_and(|it| name.starts_with(it)))
        };
        let names: Vec<_> = policy.scopes.iter().map(|scope| scope.name.as_str()).collect();
        for name in &names {
            let mut givers = names.iter().filter(|giver| is_named(giver));
            let is_held = is_named(name) || givers.any(|giver| implied(&policy, giver).contains(name));
            prop_assert_eq!(set.contains(catalogue.index(name).unwrap()), is_held, "{}", name);
        }
        for own in own_scopes() {
            prop_assert!(!set.contains(catalogue.index(&own.name).unwrap()), "{}", own.name);
        }
    }
}
