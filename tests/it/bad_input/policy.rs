//! Policies that cannot be right.

use latchkey::proto::v1::rule::Requirement;
use latchkey::proto::v1::{
    ApplyPolicyRequest, GetPolicyRequest, Plan, Policy, RateLimit, Rule, Scope,
};
use prost_types::Duration;
use tonic::Code;

use super::{Fault, Rig, UNPRINTABLE, assert_invalid, spoilt, texts};
use crate::support::reason_of;

fn scope(name: &str, implies: &[&str]) -> Scope {
    Scope { name: name.into(), implies: texts(implies), ..Default::default() }
}

const RULES: &[Fault<Policy>] = &[
    ("policy.rules[0].name", "1 to 63 characters", |it| it.rules = vec![Rule::default()]),
    ("policy.rules[0].required_scope", "say `required_scope`", |it| {
        it.rules = vec![Rule { name: "a".into(), ..Default::default() }];
    }),
    ("policy.rules[0].required_scope", "did you mean `memory:read`?", |it| {
        let requirement = Some(Requirement::RequiredScope("memory:reed".into()));
        it.rules = vec![Rule { name: "a".into(), requirement, ..Default::default() }];
    }),
    ("policy.rules[0].mode", "RULE_MODE_OBSERVE", |it| {
        it.rules = vec![Rule { name: "a".into(), mode: 7, ..Default::default() }];
    }),
    ("policy.rules[0].required_environment", "ENVIRONMENT_", |it| {
        it.rules = vec![Rule { name: "a".into(), required_environment: 7, ..Default::default() }];
    }),
];

#[tokio::test]
async fn a_wrong_policy_is_told_field_by_field_and_not_put_in_force() {
    const POLICY: &[Fault<Policy>] = &[
        ("policy.scopes[0].implies[0]", "did you mean `memory:read`?", |it| {
            it.scopes[0].implies = texts(&["memory:reed"]);
        }),
        ("policy.scopes", "memory:read -> memory:admin -> memory:write -> memory:read", |it| {
            it.scopes[1].implies = texts(&["memory:admin"]);
        }),
        ("policy.scopes[0].name", "two or more segments", |it| it.scopes[0].name = "Memory".into()),
        ("policy.scopes[15].name", "defined already", |it| {
            it.scopes.push(scope("memory:read", &[]));
        }),
        ("policy.scopes[15].name", "built in", |it| it.scopes.push(scope("latchkey:more", &[]))),
        ("policy.scopes[4].name", "built in", |it| it.scopes[4].strict ^= true),
        ("policy.scopes[0].description", UNPRINTABLE, |it| it.scopes[0].description = "\0".into()),
        ("policy.scopes[0].description", "holds a token", |it| {
            it.scopes[0].description = "as hm_live_0000000000000000000000000000002dlYSp may".into();
        }),
        ("policy.scopes[0].cost", "1,000,000", |it| it.scopes[0].cost = Some(u32::MAX)),
        ("policy.scopes", "scopes at most", |it| {
            it.scopes.extend((0..1_000).map(|n| scope(&format!("a:s{n}"), &[])));
        }),
        ("policy.plans", "1 to 100 plans", |it| it.plans.clear()),
        ("policy.plans[1].name", "defined already", |it| it.plans[1].name = "free".into()),
        ("policy.plans[0].name", "1 to 63 characters", |it| it.plans[0].name = "Free".into()),
        ("policy.plans[0].quota_mode", "QUOTA_MODE_HARD", |it| it.plans[0].quota_mode = 9),
        ("policy.plans[4].rate_limit.requests_per_second", "above 0", |it| {
            let rate_limit = RateLimit { requests_per_second: f64::NAN, burst: 1 };
            let plan =
                Plan { name: "p".into(), rate_limit: Some(rate_limit), ..Default::default() };
            it.plans.push(plan);
        }),
        ("policy.accepted_prefixes[0]", "a letter first", |it| {
            it.accepted_prefixes = texts(&["9x"]);
        }),
        ("policy.bound", "100 ms to 60 s", |it| {
            it.bound = Some(Duration { seconds: 61, nanos: 0 });
        }),
        ("policy.bound", "milliseconds", |it| it.bound = Some(Duration { seconds: -1, nanos: 0 })),
        ("policy.grace", "0 to 24 h", |it| it.grace = Some(Duration { seconds: 86_401, nanos: 0 })),
    ];
    let mut rig = Rig::start().await;
    let before = rig.head().await;
    let policy = rig.policies.get_policy(GetPolicyRequest {}).await.unwrap().into_inner();
    let policy = policy.policy.unwrap();
    assert_eq!(policy.scopes.len(), 15);
    for (field, remedy, spoil) in POLICY.iter().chain(RULES) {
        let policy = Some(spoilt(&policy, *spoil));
        let request = ApplyPolicyRequest { policy, ..Default::default() };
        assert_invalid(rig.policies.apply_policy(request).await, field, remedy);
    }
    let missing = ApplyPolicyRequest::default();
    assert_invalid(rig.policies.apply_policy(missing).await, "policy", "is missing");
    let mut without = policy;
    without.plans.retain(|plan| plan.name != "enterprise");
    let request =
        ApplyPolicyRequest { policy: Some(without), allow_orphans: true, ..Default::default() };
    let refused = rig.policies.apply_policy(request).await.unwrap_err();
    assert_eq!((refused.code(), &*reason_of(&refused)), (Code::FailedPrecondition, "PLAN_IN_USE"));
    assert_eq!(rig.head().await, before);
}
