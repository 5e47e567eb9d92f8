//! Properties of policies, against a reading that is as naive as can be.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::routes::Answer;
use super::target::{Mcp, Target};
use super::*;
use crate::scope::ScopePattern;
use crate::token::Environment;

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

/// One of these lists of rules, of which each part is right but for the last of each choice.
fn rules(has_faults: bool) -> impl Strategy<Value = Vec<Rule>> {
    let of = move |words: &'static [&'static str]| {
        let right = words.len() - usize::from(!has_faults);
        let word = prop::sample::select(&words[..right]).prop_map(str::to_owned);
        prop_oneof![3 => Just(Vec::new()), 2 => prop::collection::hash_set(word, 1..3)
            .prop_map(|words| words.into_iter().collect::<Vec<_>>())]
    };
    let one_of = move |words: &'static [&'static str]| {
        prop::sample::select(&words[..words.len() - usize::from(!has_faults)])
    };
    let rule = (
        one_of(&["a", "b", "c-1", "d", "Not"]),
        (of(&["a.b", "*.b", "b", "*.a.b", "A.b"]), of(&["GET", "POST", "get"])),
        one_of(&["", "/", "/x", "/x/{id}", "/x/{*rest}", "/x/{id}/y", "/x//y"]),
        (of(&["tools/call", "tools/list", ""]), of(&["t", "u", "\u{202e}"])),
        (0_usize..if has_faults { 6 } else { 4 }, prop::option::weighted(0.2, any::<bool>())),
        prop::option::of(if has_faults { 0..COST_MAX + 9 } else { 0..COST_MAX }),
        any::<bool>(),
    );
    let rule =
        rule.prop_map(move |(name, (hosts, methods), path, mcp, (needs, live), cost, observed)| {
            let environment = |is_live| if is_live { Environment::Live } else { Environment::Test };
            Rule {
                name: name.into(),
                hosts,
                methods,
                path: path.into(),
                mcp_methods: mcp.0,
                mcp_tools: mcp.1,
                required_scope: (needs == 0).then(|| "latchkey:authorize".into()),
                authenticate_only: needs == 1 || needs == 5,
                public: needs == 2 || needs == 5,
                deny: needs == 3,
                required_environment: live.filter(|_| has_faults || needs < 2).map(environment),
                cost: cost.filter(|_| has_faults || needs < 2),
                mode: if observed { RuleMode::Observe } else { RuleMode::Enforce },
            }
        });
    prop::collection::vec(rule, 0..4)
}

/// Whether each rule is right, and no two have one name.
fn are_right(rules: &[Rule]) -> bool {
    let names: BTreeSet<_> = rules.iter().map(|rule| &rule.name).collect();
    let is_right = |rule: &Rule| {
        let Rule { required_scope, authenticate_only, public, deny, .. } = rule;
        let needs = [required_scope.is_some(), *authenticate_only, *public, *deny];
        rule.name != "Not"
            && !rule.hosts.iter().any(|host| host == "A.b")
            && !rule.methods.iter().any(|method| method == "get")
            && rule.path != "/x//y"
            && !rule.mcp_methods.iter().any(String::is_empty)
            && !rule.mcp_tools.iter().any(|tool| tool == "\u{202e}")
            && needs.iter().filter(|it| **it).count() == 1
            && (rule.required_environment.is_none() && rule.cost.is_none() || needs[0] || needs[1])
            && rule.cost.is_none_or(|cost| cost <= COST_MAX)
    };
    names.len() == rules.len() && rules.iter().all(is_right)
}

/// The first rule that matches, read segment by segment, and whether it goes by what is not known: such a one that is
/// only observed answers where no other does.
fn first<'a>(
    rules: &'a [Rule],
    (host, method, path): (&str, &str, &str),
    mcp: Option<Mcp<'_>>,
) -> Option<(&'a str, bool)> {
    let is_path = |pattern: &str| {
        let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
        loop {
            match (wanted.next(), given.next()) {
                (None, None) => return true,
                (Some("{id}"), Some(segment)) if !segment.is_empty() => {}
                (Some("{*rest}"), Some(first)) => {
                    return !first.is_empty() || given.next().is_some();
                }
                (Some(one), Some(other)) if one == other => {}
                _ => return false,
            }
        }
    };
    let is_host = |name: &String| match name.strip_prefix('*') {
        Some(end) => host.ends_with(end),
        None => host == name,
    };
    let has = |list: &[String], word: Option<&str>| {
        list.is_empty() || word.is_some_and(|word| list.iter().any(|it| it == word))
    };
    let matches = |rule: &&Rule| {
        (rule.hosts.is_empty() || rule.hosts.iter().any(is_host))
            && has(&rule.methods, Some(method))
            && (rule.path.is_empty() || is_path(&rule.path))
            && mcp.is_none_or(|mcp| {
                has(&rule.mcp_methods, Some(mcp.method)) && has(&rule.mcp_tools, mcp.tool)
            })
    };
    let is_blind =
        |rule: &Rule| mcp.is_none() && !(rule.mcp_methods.is_empty() && rule.mcp_tools.is_empty());
    let passes_over = |rule: &&Rule| is_blind(rule) && rule.mode == RuleMode::Observe;
    let mut matching = rules.iter().filter(matches);
    let first = matching.clone().next();
    let rule = matching.find(|rule| !passes_over(rule)).or(first)?;
    Some((&rule.name, is_blind(rule)))
}

prop_compose! {
    fn policies()(
        accepted_prefixes in prop::collection::vec("[a-z][a-z0-9]{1,3}|[A-Z]", 0..3),
        bound_ms in prop_oneof![4 => 100_u64..60_001, 1 => 0_u64..100_000],
        grace_ms in prop_oneof![4 => 0_u64..86_400_001, 1 => any::<u64>()],
        scopes in scopes(),
        plans in plans(),
        rules in prop_oneof![rules(false), rules(true)],
    ) -> Policy {
        Policy { accepted_prefixes, bound_ms, grace_ms, scopes, plans, rules }
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
        && are_right(&policy.rules)
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
    fn the_first_rule_that_matches_answers_and_no_other(
        mut rules in rules(false),
        host in prop::sample::select(vec!["a.b", "b", "x.a.b", "c"]),
        method in prop::sample::select(vec!["GET", "POST", "PUT"]),
        path in prop::sample::select(vec!["/", "/x", "/x/", "/x/1", "/x/1/y", "/x/1/2/3", "/y"]),
        mcp in prop::option::of((
            prop::sample::select(vec!["tools/call", "tools/list", "ping"]),
            prop::option::of(prop::sample::select(vec!["t", "u", "v"])),
        )),
    ) {
        let mut seen = BTreeSet::new();
        rules.retain(|rule| seen.insert(rule.name.clone()));
        let mcp = mcp.map(|(method, tool)| Mcp { method, tool });
        let policy = Policy { rules, ..Policy::default() };
        let catalogue = Catalogue::compile(policy.clone(), "").unwrap();
        let target = Target::new(host, method, path, mcp);
        let answer = match catalogue.routes().answer(&target) {
            Answer::Rule(route) => Some((&*route.name, false)),
            Answer::Blind(route) => Some((&*route.name, true)),
            Answer::NoRule => None,
            Answer::Ambiguous(ambiguity) => panic!("{ambiguity:?}"),
        };
        prop_assert_eq!(answer, first(&policy.rules, (host, method, path), mcp));
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
